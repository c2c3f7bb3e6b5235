"""Every kind of graph against float64 autograd, in ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

from dkcam.engines import open_bytes
from dkcam.errors import ExportError
from dkcam.export.checkpoint_graph import write_graph
from dkcam.export.exporter import export, make_spec
from dkcam.export.options import GIVEN, ExportOptions
from dkcam.export.reference import Reference
from tests.conftest import tiny_checkpoint
from tests.marks import some

ALL = tuple(name for name in GIVEN if name != "heatmap_std")
LAYERS = ("layer1", "layer2", "layer3", "layer4", "layer3.2.conv2", "layer2.0.downsample", "layer4.1.bn2", "maxpool", "relu")
METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam")


def compare(
    options: ExportOptions, variant: str = "dropkey", grid: tuple[int, int] | None = None, batch: int = 1, size: tuple[int, int] = (64, 96)
) -> None:
    checkpoint = tiny_checkpoint(variant, grid)
    spec = make_spec(checkpoint, options)
    engine = open_bytes(write_graph(checkpoint, spec), "test")
    rng = np.random.default_rng(3)
    image: np.ndarray = rng.integers(0, 256, (batch, *size, 3), dtype=np.uint8)
    if options.input == "tensor":
        image = rng.normal(size=(batch, 3, *size)).astype(np.float32)
    classes = np.array([2, -1, -2], np.int64)[: options.explain or 3]
    mask = None
    if options.samples:
        assert spec.masks is not None
        tokens = spec.masks.tokens(*size)
        mask = rng.random((options.samples, tokens, tokens)) < 0.6
        mask[0, 0] = True
    given, expected = engine.run(image, classes, mask), Reference(checkpoint.module(), spec).run(image, classes, mask)
    for name in spec.explanation.outputs:
        assert given[name].shape == expected[name].shape, name
        # a spread over masks is a difference of heatmaps, and may be zero: its scale is the heatmap's
        largest = np.abs(expected["heatmap" if name == "heatmap_std" else name]).max()
        assert np.abs(given[name] - expected[name]).max() <= 1e-4 * largest, name
    assert given["heatmap"].max() > 0


@pytest.mark.parametrize(
    ("layer", "method"),
    [
        *itertools.product(("layer4",), METHODS),
        *some(list(itertools.product(("layer1",), METHODS)), [("layer1", "gradcam++")]),
        *itertools.product(LAYERS, ("hirescam",)),
    ],
)
def test_layers_and_methods(layer: str, method: str) -> None:
    compare(ExportOptions(size=(64, 96), layer=layer, method=method, outputs=ALL))


@pytest.mark.parametrize("variant", ["plain", "dropout", "dropkey"])
@pytest.mark.parametrize("outputs", [None, ALL])
def test_variants(variant: str, outputs: tuple[str, ...] | None) -> None:
    compare(ExportOptions(size=(64, 96), outputs=outputs), variant)


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize(
    ("layer", "samples"),
    some(list(itertools.product(("layer4", "layer3"), (0, 3))), [("layer4", 0), ("layer4", 3), ("layer3", 0)]),
)
def test_pooled_grids(grid: tuple[int, int], samples: int, layer: str) -> None:
    compare(ExportOptions(size=(64, 96), samples=samples, layer=layer), grid=grid)


@pytest.mark.parametrize(("layer", "method"), [("layer4", "gradcam"), ("layer4", "layercam"), ("layer2", "gradcam++")])
@pytest.mark.parametrize("outputs", [None, (*ALL, "heatmap_std")])
def test_masks(layer: str, method: str, outputs: tuple[str, ...] | None) -> None:
    compare(ExportOptions(size=(64, 96), samples=4, layer=layer, method=method, outputs=outputs), batch=1)


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize(
    ("layer", "kind"),
    some(list(itertools.product(("layer4", "layer3"), ("rgb8", "tensor"))), [("layer4", "tensor"), ("layer3", "rgb8")]),
)
def test_free_batch_and_size(samples: int, layer: str, kind: str) -> None:
    options = ExportOptions(size=(64, 64), dynamic=("batch", "size"), batch=(1, 4), samples=samples, layer=layer, input=kind)
    compare(options, batch=3, size=(96, 128))


def test_fixed_batch_and_fixed_classes() -> None:
    compare(ExportOptions(size=(64, 96), batch=(4, 4), explain=2), batch=4)


@pytest.mark.parametrize("layer", ["layer4", "layer1"])
def test_no_random_operator_and_a_fixed_interface(layer: str) -> None:
    exported = export(tiny_checkpoint(), ExportOptions(size=(64, 96), layer=layer, samples=2), check=False)
    model = onnx.load_from_string(exported.data)
    assert [value.name for value in model.graph.input] == ["image", "classes", "key_mask"]
    assert [value.name for value in model.graph.output] == ["logits", "probabilities", "explained", "weights", "heatmap", "heatmap_std"]
    assert not [
        node.op_type for node in model.graph.node if "Random" in node.op_type or node.op_type in ("Dropout", "Bernoulli", "Multinomial")
    ]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert {entry.key for entry in model.metadata_props} == {"dkcam.spec", "names"}


def test_half_precision_weights_are_stored_as_such_without_loss() -> None:
    checkpoint = tiny_checkpoint()
    halved = {k: v.half().float() if v.is_floating_point() else v for k, v in checkpoint.weights.items()}
    half = type(checkpoint)(checkpoint.config, halved, checkpoint.labels)
    options = ExportOptions(size=(64, 96))
    small, large = write_graph(half, make_spec(half, options)), write_graph(checkpoint, make_spec(checkpoint, options))
    assert len(small) < 0.6 * len(large)
    spec = make_spec(half, options)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    classes = np.array([-1])
    given, expected = open_bytes(small, "t").run(image, classes), Reference(half.module(), spec).run(image, classes, None)
    assert np.abs(given["heatmap"] - expected["heatmap"]).max() <= 1e-5 * expected["heatmap"].max()


@pytest.mark.parametrize("outputs", [("heatmap", "weights"), ("heatmap", "weights", "gradient")])
def test_saturated_attention_keeps_its_digits(outputs: tuple[str, ...]) -> None:
    checkpoint = tiny_checkpoint()
    checkpoint.weights["layer4.2.bn3.weight"][:] *= 300
    spec = make_spec(checkpoint, ExportOptions(size=(64, 96), outputs=outputs))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    expected = Reference(checkpoint.module(), spec).answer(image, np.arange(5), None)
    given = open_bytes(write_graph(checkpoint, spec), "test").run(image, np.arange(5))
    assert expected.score > 1e4
    for k in np.flatnonzero(expected.values["heatmap"][0].max((1, 2)) > 0):
        largest = expected.values["heatmap"][0, k].max()
        assert np.abs(given["heatmap"][0, k] - expected.values["heatmap"][0, k]).max() <= 1e-4 * largest


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(ExportError, match=r"--layer layer9: no value, node or module of this name lies between image and scores"):
        export(tiny_checkpoint(), ExportOptions(size=(64, 64), layer="layer9"))


def test_masks_need_the_dropkey_head() -> None:
    with pytest.raises(ExportError, match="masks belong to the dropkey variant"):
        export(tiny_checkpoint("plain"), ExportOptions(size=(64, 64), samples=2))
