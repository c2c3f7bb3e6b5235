"""What an exported graph is: the JSON that travels inside the ONNX file as ``dkcam.spec``.

In memory it has five parts; in the file they are one flat object, with the names that 0.1 gave them. Keys that a file lacks
take the default here, which is what held before there were such keys; unknown keys are left alone.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import field
from msgspec.structs import force_setattr

from dkcam import fields
from dkcam.errors import ModelFileError
from dkcam.fields import MOST_BOXES, MOST_MASK, checked

SPEC_KEY = "dkcam.spec"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the description. ValueError for a value outside its field's rule; lists become tuples, whole numbers floats."""

    def __post_init__(self) -> None:
        for name, attribute in _attributes(type(self)).items():
            force_setattr(self, attribute, checked(name, getattr(self, attribute), RULES[name]))


class InputSpec(Part, frozen=True, kw_only=True):
    """How a picture goes in.

    kind: "rgb8", uint8 [B, H, W, 3] RGB, or "tensor", float32 [B, C, H, W] with C = 3 (1 for gray), which is
    (value · scale − mean) / std of values 0..255, mean and std of R, G, B; gray has the first of each. channels: the order the
    network wants (a rgb8 graph changes it inside). height, width: pixels; with free size, what it was trained at.
    resize: how frames reach the input size. fill: grey of letterbox bars. batch: (least, most). dynamic: which of "batch" and
    "size" may vary. multiple: free heights and widths are multiples of it.
    """

    kind: fields.Kind = field(name="input", default="rgb8")
    height: fields.Side
    width: fields.Side
    channels: fields.Channels = "rgb"
    mean: fields.Mean = (0.485, 0.456, 0.406)
    std: fields.Std = (0.229, 0.224, 0.225)
    scale: fields.Scale = 1 / 255
    resize: fields.Resize = "stretch"
    fill: fields.Grey = 114
    batch: fields.Batch = (1, 1)
    dynamic: fields.Dynamic = ()
    multiple: fields.Side = 1

    @property
    def planes(self) -> int:
        """Channels of the network's own input."""
        return 1 if self.channels == "gray" else 3

    @property
    def of_unit(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """mean and std for values scaled to 0..1, the same numbers for every ``scale``."""
        factor = 255 * self.scale
        return tuple(value / factor for value in self.mean), tuple(value / factor for value in self.std)

    def shape(self, batch: int | None) -> list[int | None]:
        """Of ``image`` in the graph, None for what is free."""
        sides = [None, None] if "size" in self.dynamic else [self.height, self.width]
        return [batch, *sides, 3] if self.kind == "rgb8" else [batch, self.planes, *sides]


class ExplanationSpec(Part, frozen=True, kw_only=True):
    """What is explained, and where the heat is taken.

    layers: values of the graph, or modules; several give one map together. map_sizes: (h, w) of each layer's map at the spec's
    input size, empty where it is not known. count: K where the graph fixes it, else None. per_image: ``classes`` is [B, K], not
    [K]. score: what the gradient is of. explained_output: the network's own output behind it, "" where it has none of its own.
    outputs: the graph's, by their fixed names.
    """

    layers: fields.Layers = field(name="layer")
    map_sizes: fields.MapSizes = ()
    method: fields.Method = "gradcam"
    count: fields.Count = field(name="explain", default=None)
    per_image: fields.Flag = field(name="classes_per_image", default=False)
    score: fields.Score = "logit"
    explained_output: fields.Text = ""
    outputs: fields.Outputs = ("logits", "probabilities", "explained", "weights", "heatmap")


class MaskSpec(Part, frozen=True, kw_only=True):
    """DropKey masks of a graph with the input ``key_mask`` bool [N, T, T]: N samples over T tokens.

    ratio: share of keys that a mask drops. grid: tokens as (rows, columns) at every input size; None has one token for every
    token_stride × token_stride input pixels.
    """

    samples: fields.Samples
    ratio: fields.Ratio = field(name="mask_ratio", default=0.3)
    grid: fields.Grid = None
    token_stride: fields.Side

    def tokens(self, height: int, width: int) -> int:
        """T at an input size in pixels."""
        if self.grid is not None:
            return self.grid[0] * self.grid[1]
        return (height // self.token_stride) * (width // self.token_stride)


class NetworkSpec(Part, frozen=True, kw_only=True):
    """variant, model_width: of dkcam's own ResNet-50; "" for any other network. family: in words, for people. producer: what
    wrote the network's file, with its version.
    """

    variant: fields.Variant = ""
    model_width: fields.Width = 1.0
    family: fields.Text = ""
    producer: fields.Text = ""


class Provenance(Part, frozen=True, kw_only=True):
    """sha256: of the checkpoint or network file. precision: of the network, fp32, fp16 or int8. target: "any", or
    "cpu"/"gpu" for int8. kept: its layers in float32. parity: largest error per output of the fp32 graph relative to the
    reference's maximum. fidelity: figures of a low-precision graph against the fp32 one. versions: of what wrote the file.
    """

    sha256: fields.Text = field(name="checkpoint_sha256", default="")
    precision: fields.Precision = "fp32"
    target: fields.Target = "any"
    kept: fields.Names = ()
    verified: fields.Flag = False
    parity: fields.Figures = field(default_factory=dict)
    fidelity: fields.Figures = field(default_factory=dict)
    versions: fields.Texts = field(default_factory=dict)


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """task: classify, detect, regress or dense. labels: one per class; a regressor's are the names of its outputs. masks: None
    for graphs without ``key_mask``.
    """

    labels: fields.Labels
    task: fields.Task = "classify"
    input: InputSpec
    explanation: ExplanationSpec
    masks: MaskSpec | None = None
    network: NetworkSpec = field(default_factory=NetworkSpec)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        for name in ("labels", "task"):
            force_setattr(self, name, checked(name, getattr(self, name), RULES[name]))
        if self.masks is not None:
            check_masks(self.masks, self.input.height, self.input.width)

    @property
    def ranks(self) -> int:
        """How many ranks −1, −2, … there are to ask for."""
        return MOST_BOXES if self.task == "detect" else len(self.labels)

    def to_json(self) -> str:
        """One line, sorted keys: the same spec gives the same text."""
        values: dict[str, Any] = {"labels": self.labels, "task": self.task}
        for name in PARTS:
            part = getattr(self, name)
            values |= {} if part is None else msgspec.to_builtins(part)
        if len(self.explanation.layers) == 1:
            values["layer"] = self.explanation.layers[0]  # one name, as 0.1 reads it
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    @staticmethod
    def from_json(text: str, source: str) -> ModelSpec:
        """Read the text back. ``source`` names the file in errors: ModelFileError for a damaged text."""
        try:
            values: dict[str, Any] = json.loads(text)
            if "task" not in values:
                values = OF_0_1 | values
            if isinstance(values.get("layer"), str):
                values["layer"] = [values["layer"]]
            check_values({name: value for name, value in values.items() if name in RULES})
            if not values.get("samples"):  # 0.1 writes the other two for graphs without masks as well
                values = {name: value for name, value in values.items() if name not in _attributes(MaskSpec)}
            given: dict[str, Any] = {name: values[name] for name in ("labels", "task") if name in values}
            given |= {name: _picked(part, values) for name, part in PARTS.items() if part is not MaskSpec or "samples" in values}
            return ModelSpec(**given)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFileError(
                f"{source} has a damaged {SPEC_KEY} ({str(error)[:200]}); export the model again with dk-export"
            ) from error


OF_0_1: dict[str, Any] = {"multiple": 32, "token_stride": 32}  # its files are all of one network

PARTS: Mapping[str, type[Part]] = {
    "input": InputSpec,
    "explanation": ExplanationSpec,
    "masks": MaskSpec,
    "network": NetworkSpec,
    "provenance": Provenance,
}


def _attributes(part: type[Part]) -> dict[str, str]:
    """Names in the file → names in Python."""
    return {one.encode_name: one.name for one in msgspec.structs.fields(part)}


def _picked(part: type[Part], values: Mapping[str, Any]) -> Part:
    return part(**{attribute: values[name] for name, attribute in _attributes(part).items() if name in values})


# name in the file → rule; "classes" is a checkpoint's
RULES: Mapping[str, Any] = {
    "labels": fields.Labels,
    "task": fields.Task,
    "classes": fields.Classes,
    **{one.encode_name: one.type for part in PARTS.values() for one in msgspec.structs.fields(part)},
}


def check_values(values: Mapping[str, Any]) -> None:
    """Check fields of a spec or a checkpoint by their name in the file. ValueError: which one, and what was expected."""
    for name, value in values.items():
        checked(name, value, RULES[name])


def check_masks(masks: MaskSpec, height: int, width: int) -> None:
    """ValueError where the masks for an input size take more memory than anyone means."""
    tokens = masks.tokens(height, width)
    if masks.samples * tokens**2 > MOST_MASK:
        raise ValueError(
            f"{masks.samples} samples over {tokens} tokens are {masks.samples * tokens**2 / 2**30:.3g} GiB of masks, "
            f"expected {MOST_MASK >> 30} GiB at most"
        )


def mentions_spec(path: Path) -> bool:
    """Whether a file holds dkcam's description, without reading it whole."""
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return bool(data.find(SPEC_KEY.encode()) >= 0)
    except (OSError, ValueError):
        return False
