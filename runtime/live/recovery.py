"""An explainer that outlives its engine.

a batch fails → its frames one by one → the one that fails is saved and skipped
three failures without a success between → the engine is opened again → the same again → the next device
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import DkcamError, EngineError
from dkcam.files import exists, make_folder, write_file
from dkcam.runtime.explainer import Explains
from dkcam.runtime.explanation import Explanation

log = logging.getLogger("dkcam")

PATIENCE = 3  # failures in a row
MOST_SAVED = 20


class Recovery:
    """open_: opens the model on a device ("cpu", …). device: the one that runs now. further: devices to fall to, in order, when
    one keeps failing.

    folder: where frames that broke the engine are kept, None keeps none. One thread calls ``explain``.
    """

    def __init__(
        self,
        explainer: Explains,
        open_: Callable[[str], Explains],
        *,
        device: str = "cpu",
        further: Iterable[str] = (),
        folder: Path | None = None,
    ) -> None:
        self.explainer = explainer
        self._open, self._device, self._further, self._folder = open_, device, list(further), folder
        self._failed = 0
        self._fresh = False  # whether the engine was opened again since it last worked
        self.failures = self.rebuilt = self.saved = 0

    def explain(
        self, images: Sequence[NDArray[np.uint8]], classes: Sequence[int] | None, masks: bool
    ) -> tuple[list[Explanation | None], float]:
        """Explanations, None for a frame that was skipped, and the milliseconds that went into preparing the frames.

        Errors: EngineError when no device is left.
        """
        start = time.perf_counter()
        try:
            prepared: list[Any] = [self.explainer.prepare(image) for image in images]
            ready = time.perf_counter()
            found: list[Explanation | None] = list(self.explainer.infer_many(prepared, classes, masks=masks))
            self._failed, self._fresh = 0, False
            return found, (ready - start) * 1e3
        except DkcamError as error:
            if len(images) == 1:
                self._skip(images[0], error)
                return [None], 0.0
        return [said for image in images for said in self.explain([image], classes, masks)[0]], 0.0

    def _skip(self, image: NDArray[np.uint8], error: DkcamError) -> None:
        self.failures += 1
        self._failed += 1
        kept = self._save(image)
        log.warning("a frame was skipped%s: %s", f" and kept as {kept}" if kept else "", error)
        if self._failed >= PATIENCE and isinstance(error, EngineError):
            self._again(error)

    def _again(self, error: DkcamError) -> None:
        """Another engine: of the same device first, then of the next."""
        devices = [*([] if self._fresh else [self._device]), *self._further]
        for device in devices:
            try:
                self.explainer = self._open(device)
            except DkcamError as reason:
                log.warning("%s cannot be opened again: %s", device, reason)
                error = reason
                continue
            self.rebuilt += 1
            log.warning("the engine failed %d times in a row; now running on a new engine on %s", self._failed, self.explainer.device)
            if device != self._device:
                self._further = self._further[self._further.index(device) + 1 :]
                self._device = device
            self._failed, self._fresh = 0, True
            return
        raise EngineError(f"the engine keeps failing and no other device is left: {error}") from error

    def _save(self, image: NDArray[np.uint8]) -> Path | None:
        import cv2

        if self._folder is None or self.saved >= MOST_SAVED:
            return None
        stamp = time.strftime("%Y%m%dT%H%M%S")
        names = (self._folder / f"{stamp}-{number:02d}.png" for number in range(self.saved, 1000))
        path = next((name for name in names if not exists(name)), None)  # the clock may have gone back
        if path is None:
            return None
        try:
            make_folder(self._folder)
            done, data = cv2.imencode(".png", image)
            if done:
                write_file(path, data.tobytes(), EngineError, private=True)
        except (OSError, DkcamError, cv2.error):
            return None
        self.saved += 1
        return path if done else None
