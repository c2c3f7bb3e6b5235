"""The file that came and the file that goes out: what the network said before, it must say still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dkcam.export.checking.engine import open_session
from dkcam.export.networks.picture import PictureInput
from dkcam.export.networks.torch_module import device_of, flat
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


class Session(Protocol):
    """The network as the user has it."""

    def takes(self, image: Array) -> bool:
        """Whether it takes a picture of this shape."""
        ...

    def said(self, image: Array, names: Sequence[str]) -> list[Array]:
        """Its outputs of these names for a picture in its own layout and type."""
        ...


class FileSession:
    """A plain session of ONNX Runtime on the user's own file."""

    def __init__(self, path: Path | bytes) -> None:
        self._session = open_session(path)

    def takes(self, image: Array) -> bool:
        shape = self._session.get_inputs()[0].shape
        return len(shape) == image.ndim and all(
            not isinstance(d, int) or d in (-1, size) for d, size in zip(shape, image.shape, strict=True)
        )

    def said(self, image: Array, names: Sequence[str]) -> list[Array]:
        return [np.asarray(value) for value in self._session.run(list(names), {self._session.get_inputs()[0].name: image})]


def open_original(path: Path) -> FileSession | None:
    """None where ONNX Runtime does not take the file as it is; what is made of it may still run."""
    try:
        return FileSession(path)
    except Exception:  # its own classes, some of them bare RuntimeErrors
        return None


class TorchSession:
    """A torch module, in evaluation mode. names: of its outputs in the graph, in the order in which torch's exporter writes them."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self._module, self._names = module, names

    def takes(self, image: Array) -> bool:
        return True

    def said(self, image: Array, names: Sequence[str]) -> list[Array]:
        states = {one: one.training for one in self._module.modules()}
        self._module.eval()
        given = torch.from_numpy(image).to(device_of(self._module))
        try:
            with torch.no_grad():
                found = [value for value in flat(self._module(given)) if isinstance(value, torch.Tensor)]
        finally:
            for one, state in states.items():
                one.training = state
        by_name = dict(zip(self._names, found, strict=True))
        return [by_name[name].cpu().numpy() for name in names]


def compare(session: Session, image: Array, said: Mapping[str, Array], names: Mapping[str, str], kind: str) -> list[Row]:
    """One row an output. names: of each output in the original → in the new file, whose answers are ``said``."""
    own = dict(zip(names, session.said(image, list(names)), strict=True))
    rows = []
    for name, new in names.items():
        was, now = np.asarray(own[name], np.float64), np.asarray(said[new], np.float64)
        largest = float(np.abs(was).max()) if was.size else 0.0
        error = float(np.abs(was - now).max()) / (largest or 1.0) if was.shape == now.shape and was.size else float(was.shape != now.shape)
        rows.append(Row(new, kind, len(was) if was.ndim else 1, "", largest, largest or 1.0, error, 0.0, _limit(was.dtype)))
    return rows


def _limit(dtype: Any) -> float:
    return CEILING if dtype == np.float16 else TOLERANCE
