"""A network as everything after import sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.export.networks.picture import PictureInput


@dataclass(frozen=True)
class Network:
    """A graph in its normal form, and what its file says of itself.

    model: opset 18 or newer, ONNX's own domain alone, functions written out, constants folded; type and shape of every value are
    known. A dimension is a number, a name that says what it is made of ("batch", "height/32", "height*width/1024"; with ``dynamic``
    alone), or unknown where the picture's content decides. image: the graph's only input, in the network's own layout and type.
    outputs: as the file has them, in order.

    size: (height, width) of the picture; with dynamic size, multiples of ``multiple`` are taken as well. batch: (least, most).
    labels: a name for each class, None where the file has none. opset: the file's own. sha256: of the file and the data beside it.
    sample: outputs for a picture, by name, None where nobody has asked yet.
    """

    model: ir.Model
    image: ir.Value
    picture: PictureInput
    outputs: tuple[ir.Value, ...]
    size: tuple[int, int]
    batch: tuple[int, int] = (1, 1)
    dynamic: tuple[str, ...] = ()
    multiple: int = 1
    labels: tuple[str, ...] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    producer: str = ""
    opset: int = 18
    sha256: str = ""
    sample: Mapping[str, NDArray[np.generic]] | None = None

    def copy(self) -> Network:
        """Another of the same, for what uses it up."""
        model = self.model.clone()
        return replace(self, model=model, image=model.graph.inputs[0], outputs=tuple(model.graph.outputs))

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    @property
    def names(self) -> list[str]:
        """Of the outputs."""
        return [output.name or f"output_{i}" for i, output in enumerate(self.outputs)]
