"""Where engines keep what is slow to compute."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "DKCAM_CACHE"


def cache_folder() -> Path | None:
    """$DKCAM_CACHE, else $XDG_CACHE_HOME/dkcam, else ~/.cache/dkcam; None for a user without a home folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "dkcam"
    except RuntimeError:
        return None
