"""Which input shapes a plan is built for: least, usual and most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dkcam.errors import EngineError
from dkcam.spec import InputSpec, ModelSpec

MOST_CLASSES = 16  # explained at once

Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape]


@dataclass(frozen=True)
class Profile:
    """Three values each: least, usual, most. batch: pictures. height, width: pixels. classes: explained at once, K."""

    batch: tuple[int, int, int]
    height: tuple[int, int, int]
    width: tuple[int, int, int]
    classes: tuple[int, int, int]

    @staticmethod
    def of(spec: ModelSpec, batch: tuple[int, int, int] | None = None) -> Profile:
        """What the graph leaves free. batch: for free batches, else the spec's range with its least as the usual one.

        Free sizes range from half to twice the size the model was trained at. Errors: EngineError for a batch that the
        graph does not take.
        """
        least, most = spec.input.batch
        chosen = batch or (least, least, most)
        if not (1 <= chosen[0] <= chosen[1] <= chosen[2]) or chosen[0] < least or chosen[2] > most:
            raise EngineError(f"--batch {':'.join(map(str, chosen))}: expected MIN:OPT:MAX within {least}:{most}, which this graph takes")
        k = spec.explanation.count
        different = 2 * len(spec.labels) if spec.task == "regress" else spec.ranks  # its outputs rise and fall
        classes = (k, k, k) if k else (1, 1, min(different, MOST_CLASSES))
        return Profile(chosen, _sides(spec.input, spec.input.height), _sides(spec.input, spec.input.width), classes)

    def shapes(self, spec: ModelSpec) -> Mapping[str, Shapes]:
        """Input name → shapes, for every input a graph of this spec can have."""
        names = ("image", "classes", *(["key_mask"] if spec.masks else []))
        return {name: (self._shape(spec, name, 0), self._shape(spec, name, 1), self._shape(spec, name, 2)) for name in names}

    def _shape(self, spec: ModelSpec, name: str, which: int) -> Shape:
        batch, height, width = self.batch[which], self.height[which], self.width[which]
        if name == "image":
            return (batch, height, width, 3) if spec.input.kind == "rgb8" else (batch, spec.input.planes, height, width)
        if name == "classes":
            return (batch, self.classes[which]) if spec.explanation.per_image else (self.classes[which],)
        assert spec.masks is not None
        tokens = spec.masks.tokens(height, width)
        return (spec.masks.samples, tokens, tokens)


def _sides(way: InputSpec, side: int) -> tuple[int, int, int]:
    if "size" not in way.dynamic:
        return side, side, side
    return max(way.multiple, side // 2 // way.multiple * way.multiple), side, 2 * side
