"""Which kind of data a DATA argument names."""

from __future__ import annotations

from pathlib import Path

from dkcam.errors import DataError
from dkcam.tools.scenes.composed import ComposedScenes
from dkcam.tools.scenes.example import Examples
from dkcam.tools.scenes.folder import FolderTree
from dkcam.tools.scenes.rendered import RenderedScenes


def open_examples(data: str) -> Examples:
    """Open ``rendered:``, a folder with gtsrb_train and gtsdb in it, or a folder-per-class tree.

    Errors: DataError when the folder is missing or of none of these kinds.
    """
    if data == "rendered:":
        return RenderedScenes()
    folder = Path(data)
    if not folder.is_dir():
        raise DataError(f"{data} is not a folder; expected rendered:, a folder with gtsrb_train and gtsdb, or one folder per class")
    if (folder / "gtsrb_train").is_dir() and (folder / "gtsdb").is_dir():
        return ComposedScenes(folder)
    return FolderTree(folder)
