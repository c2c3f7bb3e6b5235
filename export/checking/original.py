"""The file that came and the file that goes out: what the network said before, it must say still."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.export.networks.picture import PictureInput
from dkcam.export.parity import CEILING, TOLERANCE, Row

Array = NDArray[Any]


def network_input(pictures: NDArray[np.uint8], picture: PictureInput) -> Array:
    """Pictures uint8 [B, H, W, 3] RGB as the network itself takes them, in its own layout and type."""
    values = pictures.astype(np.float64)
    if picture.channels == "gray":
        values = values @ np.array([0.299, 0.587, 0.114])[:, None]
    values = values * picture.scale
    values = (values - np.array(picture.mean)) / np.array(picture.std)
    if picture.channels == "bgr":
        values = values[..., ::-1]
    if picture.layout == "nchw":
        values = values.transpose(0, 3, 1, 2)
    dtype = picture.dtype.numpy()
    return np.ascontiguousarray(np.rint(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)


def open_original(path: Path) -> Any:
    """A plain session on the user's own file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(session: Any, image: Array, said: Mapping[str, Array], names: Mapping[str, str], kind: str) -> list[Row]:
    """One row an output. names: of each output in the original → in the new file, whose answers are ``said``."""
    given = session.get_inputs()[0]
    own = dict(zip(names, session.run(list(names), {given.name: image}), strict=True))
    rows = []
    for name, new in names.items():
        was, now = np.asarray(own[name], np.float64), np.asarray(said[new], np.float64)
        largest = float(np.abs(was).max()) if was.size else 0.0
        error = float(np.abs(was - now).max()) / (largest or 1.0) if was.shape == now.shape and was.size else float(was.shape != now.shape)
        rows.append(Row(new, kind, len(was) if was.ndim else 1, "", largest, largest or 1.0, error, 0.0, _limit(was.dtype)))
    return rows


def _limit(dtype: Any) -> float:
    return CEILING if dtype == np.float16 else TOLERANCE
