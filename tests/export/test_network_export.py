from __future__ import annotations

import ast
import io
import itertools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dkcam.errors import ExportError, ParityError
from dkcam.export import network_export
from dkcam.export.checking.engine import File
from dkcam.export.checking.original import FileSession
from dkcam.export.derivative.rule import RULES
from dkcam.export.explain import cam
from dkcam.export.exported import Exported
from dkcam.export.network_export import export_network
from dkcam.export.networks.onnx_file import open_model
from dkcam.export.options import ExportOptions
from dkcam.export.reference import cam as published
from tests.export.explain.graphs import Convolutional, Transformer

Array = NDArray[Any]
SIZE = (64, 96)


def proto_of(module: nn.Module, **options: Any) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.zeros(1, 3, *SIZE),), buffer, dynamo=False, input_names=["x"], **options)  # type: ignore[arg-type]
    return onnx.load_from_string(buffer.getvalue())


PLAIN = ExportOptions()


def explained(module: nn.Module, options: ExportOptions = PLAIN, *, check: bool = True, **given: Any) -> Exported:
    torch.manual_seed(1)
    return export_network(open_model(proto_of(module), "network.onnx", **given), options, check=check)


def run(data: bytes, level: onnxruntime.GraphOptimizationLevel, feed: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {one.name: feed[one.name] for one in session.get_inputs()}), strict=True))


LEVELS = (
    onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
)


def picture(seed: int = 0, batch: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (batch, *SIZE, 3), dtype=np.uint8)


def normalised(image: Array) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(image).double().permute(0, 3, 1, 2) / 255 - mean) / std


def by_module(module: nn.Module, part: nn.Module, image: Array, scalar: Any, method: str = "gradcam") -> tuple[torch.Tensor, torch.Tensor]:
    """(heatmap, the module's answer) by autograd in float64 of the torch module itself, at the output of one of its parts."""
    seen: list[torch.Tensor] = []
    module.double()
    hook = part.register_forward_hook(lambda one, given, out: seen.append(out.requires_grad_()) or None)
    try:
        said = module(normalised(image))
        (gradient,) = torch.autograd.grad(scalar(said), seen[-1])
    finally:
        hook.remove()
        module.float()
    return published(method, seen[-1].detach(), gradient), said.detach()


class Head(nn.Module):
    """Global pooling and a linear layer."""

    def __init__(self, outputs: int, end: nn.Module | None = None) -> None:
        super().__init__()
        self.fc, self.end = nn.Linear(12, outputs), end or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.fc(x.mean((2, 3))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", cam.METHODS)
@pytest.mark.parametrize("layer", ["stage2", "stage1"])
def test_a_classifier_gives_what_autograd_of_its_module_gives(method: str, layer: str) -> None:
    torch.manual_seed(0)
    module = Convolutional(Head(5))
    found = explained(module, ExportOptions(layer=layer, method=method))
    image = picture()
    truth = [by_module(module, getattr(module, layer), image, lambda y, c=c: y[0, c], method) for c in (3, 1)]
    for level in LEVELS:
        said = run(found.data, level, {"image": image, "classes": np.array([3, 1])})
        for k, (heat, logits) in enumerate(truth):
            assert np.abs(said["heatmap"][:, k] - heat.numpy()).max() <= 1e-4 * heat.max()
            assert np.allclose(said["logits"], logits.numpy(), atol=1e-5)
        assert said["explained"].tolist() == [[3, 1]]


def test_ranks_and_probabilities() -> None:
    torch.manual_seed(0)
    found = explained(Convolutional(Head(5)))
    said = run(found.data, LEVELS[3], {"image": picture(), "classes": np.array([-1, -2, -5])})
    order = np.argsort(-said["logits"][0])
    assert said["explained"][0].tolist() == [order[0], order[1], order[4]]
    assert np.allclose(said["probabilities"], torch.from_numpy(said["logits"]).softmax(1).numpy(), atol=1e-6)


@pytest.mark.parametrize(("end", "squash"), [(nn.Softmax(1), "softmax"), (nn.Sigmoid(), "sigmoid")])
def test_logits_are_found_behind_what_squashes_them(end: nn.Module, squash: str) -> None:
    torch.manual_seed(0)
    module = Convolutional(Head(5, end))
    found = explained(module)
    image = picture()
    said = run(found.data, LEVELS[3], {"image": image, "classes": np.array([2])})
    with torch.no_grad():
        own = module(normalised(image).float())
    assert np.allclose(said["probabilities"], own.numpy(), atol=1e-5)
    module.end.end = nn.Identity()  # type: ignore[assignment, union-attr]
    heat, logits = by_module(module, module.stage2, image, lambda y: y[0, 2])
    assert np.allclose(said["logits"], logits.numpy(), atol=1e-4)
    assert np.abs(said["heatmap"][:, 0] - heat.numpy()).max() <= 1e-4 * heat.max()
    assert not found.notes or "Softmax" not in found.notes[-1]


def test_a_regressor_is_explained_both_ways() -> None:
    torch.manual_seed(0)
    module = Convolutional(Head(2, nn.Tanh()))
    found = explained(module, ExportOptions(task="regress"))
    image = picture()
    said = run(found.data, LEVELS[3], {"image": image, "classes": np.array([1, -2])})
    rise, own = by_module(module, module.stage2, image, lambda y: y[0, 1])
    fall, _ = by_module(module, module.stage2, image, lambda y: -y[0, 1])
    assert found.spec.task == "regress" and "probabilities" not in said
    assert np.allclose(said["logits"], own.numpy(), atol=1e-5) and said["explained"].tolist() == [[1, 1]]
    for k, heat in enumerate((rise, fall)):
        assert np.abs(said["heatmap"][:, k] - heat.numpy()).max() <= 1e-4 * max(float(rise.max()), float(fall.max()))
    assert said["heatmap"].max() > 0


def test_one_output_is_a_regressors() -> None:
    torch.manual_seed(0)
    assert explained(Convolutional(Head(1)), check=False).spec.task == "regress"


@pytest.mark.parametrize("last", ["plain", "argmax"])
def test_segmentation_explains_the_region_of_a_class(last: str) -> None:
    torch.manual_seed(0)
    module = Convolutional(nn.Sequential(nn.Conv2d(12, 4, 3, padding=1), nn.Upsample(scale_factor=4, mode="bilinear")))

    class Largest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.module(x).argmax(1)  # type: ignore[no-any-return]

    found = explained(Largest() if last == "argmax" else module, ExportOptions(layer="module.stage2" if last == "argmax" else "stage2"))
    image = picture()
    said = run(found.data, LEVELS[3], {"image": image, "classes": np.array([-1, 2])})

    def score(z: torch.Tensor, c: int) -> torch.Tensor:
        region = (z.argmax(1, keepdim=True) == c).double()
        return (z[:, c : c + 1] * region).sum() / region.sum().clamp(min=1)

    top = int(said["explained"][0, 0])
    for k, c in enumerate((top, 2)):
        heat, z = by_module(module, module.stage2, image, lambda z, c=c: score(z, c))
        assert np.abs(said["heatmap"][:, k] - heat.numpy()).max() <= 1e-4 * max(float(heat.max()), 1e-9)
        assert abs(said["logits"][0, c] - float(score(z, c))) <= 1e-5
    shares = torch.bincount(z.argmax(1).flatten(), minlength=4) / z[0, 0].numel()
    assert top == int(shares.argmax()) and np.allclose(said["probabilities"], shares.numpy()[None], atol=1e-6)
    assert found.spec.task == "dense"


def test_a_region_whose_border_float32_cannot_tell_does_not_refuse_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine off by 5e-6, and two classes so near that this moves the border between their regions by some pixels."""
    run = network_export._run

    def off(data: bytes, name: str) -> Any:
        ask = run(data, name)
        return lambda image, classes, names: ask((image * np.float32(1 + 5e-6)).astype(np.float32), classes, names)

    monkeypatch.setattr(network_export, "_run", off)
    torch.manual_seed(0)
    last = nn.Conv2d(12, 4, 3, padding=1)
    with torch.no_grad():
        last.weight[1] = last.weight[0] + 1e-5 * torch.randn(12, 3, 3)
        last.bias[:] = torch.tensor([0.5, 0.5, 0, 0])
    module = Convolutional(nn.Sequential(last, nn.Upsample(scale_factor=4, mode="bilinear")))
    found = explained(module, ExportOptions(layer="stage2", input="tensor"))
    assert found.parity is not None and found.spec.provenance.verified


def test_a_transformer_is_explained_on_its_patches() -> None:
    torch.manual_seed(0)
    found = explained(Transformer(registers=2))
    assert found.spec.explanation.map_sizes == ((4, 6),) and found.parity is not None
    assert all(row.error < 1e-4 for row in found.parity.rows)


def test_the_networks_own_outputs_stay_as_they_are() -> None:
    torch.manual_seed(0)
    module = Convolutional(Head(5, nn.Softmax(1)))
    proto = proto_of(module, output_names=["heatmap"])  # a name that is ours
    original = FileSession(proto.SerializeToString())
    found = export_network(open_model(proto, "network.onnx"), ExportOptions(), original=original)
    image = picture()
    said = run(found.data, LEVELS[3], {"image": image, "classes": np.array([-1])})
    (own,) = original.said(normalised(image).float().numpy(), ["heatmap"])
    assert said["heatmap"].shape == (1, 1, 16, 24) and np.allclose(said["network.heatmap"], own, atol=1e-6)
    assert "network.heatmap" in {row.output for row in found.parity.rows if row.error < 1e-5}  # type: ignore[union-attr]


def test_the_same_network_gives_the_same_bytes() -> None:
    torch.manual_seed(0)
    module = Convolutional(Head(5))
    assert explained(module).data == explained(module).data


def test_the_file_says_what_it_is() -> None:
    torch.manual_seed(0)
    found = explained(Convolutional(Head(3)), ExportOptions(labels=("stop", "yield", "none")))
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(found.data).metadata_props}
    assert ast.literal_eval(metadata["names"]) == {0: "stop", 1: "yield", 2: "none"}
    assert found.spec.provenance.verified and found.spec.explanation.layers == ("/stage2/stage2.1/Relu_output_0",)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ExportError, match="the network has 5 classes, there are 2 labels"):
        explained(Convolutional(Head(5)), ExportOptions(labels=("a", "b")))


def test_outputs_that_no_task_fits_are_listed() -> None:
    class Sequence(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(2).transpose(1, 2) + 1

    with pytest.raises(ExportError, match=r"no task fits the outputs .* 1x24x12; .*--task and --outputs"):
        explained(Convolutional(Sequence()))


def test_free_batch_and_size() -> None:
    torch.manual_seed(0)
    module = Convolutional(Head(5))
    proto = proto_of(module, dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}})
    network = open_model(proto, "network.onnx", size=SIZE, dynamic=("batch", "size"), batch=(1, 4))
    found = export_network(network, ExportOptions(layer="stage1", method="hirescam"))
    image = np.random.default_rng(0).integers(0, 256, (3, 80, 128, 3), dtype=np.uint8)
    said = run(found.data, LEVELS[3], {"image": image, "classes": np.array([-1])})
    for at in range(3):
        top = int(said["explained"][at, 0])
        heat, _ = by_module(module, module.stage1, image[at : at + 1], lambda y, c=top: y[0, c], "hirescam")
        assert np.abs(said["heatmap"][at, 0] - heat[0].numpy()).max() <= 1e-4 * heat.max()


def test_a_wrong_map_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parity that guards every export fails for a map that is off by a thousandth."""
    torch.manual_seed(0)
    right = cam._weighted
    monkeypatch.setattr(cam, "_weighted", lambda writer, *given: writer.mul(right(writer, *given), writer.number(1.001)))
    with pytest.raises(ParityError, match=r"heatmap of 'class .' differs from autograd by 1"):
        explained(Convolutional(Head(5)))


def test_heat_that_no_picture_changes_is_refused() -> None:
    """Right by autograd and worth nothing: all that reaches the scores is a bias."""
    torch.manual_seed(0)
    module = Convolutional(Head(5))
    assert explained(module).parity.input_dependence > 0.01  # type: ignore[union-attr]
    with torch.no_grad():
        next(one for one in module.modules() if isinstance(one, nn.Conv2d)).weight.zero_()
    with pytest.raises(ParityError, match="different pictures gave the same heatmap"):
        explained(module)


def test_pictures_whose_ties_the_file_decides_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said, batches = File.said, itertools.count()
    monkeypatch.setattr(File, "said", lambda file, image, classes: replace(said(file, image, classes), plainly=next(batches) != 1))
    torch.manual_seed(0)
    exported = explained(Convolutional(Head(5)))
    assert exported.parity is not None and exported.parity.plainly == 5
    assert any(note.startswith("on 5 of 6 pictures ONNX Runtime's optimisations decide") for note in exported.notes)


def test_an_operator_without_a_rule_is_named_with_the_nearest_layer_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Convolutional(Head(5))
    monkeypatch.delitem(RULES, "Sigmoid")
    with pytest.raises(
        ExportError, match=r"no gradient passes Sigmoid \(node '/Sigmoid'\); the nearest layer after it that works: --layer (\S+)$"
    ) as error:
        explained(module, ExportOptions(layer="stage1"))
    layer = str(error.value).rsplit(" ", 1)[1]
    found = explained(module, ExportOptions(layer=layer))
    assert found.spec.provenance.verified


def test_an_operator_after_which_no_layer_works_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.delitem(RULES, "Gemm")
    with pytest.raises(ExportError, match=r"no gradient passes Gemm .*; no layer comes after it$"):
        explained(Convolutional(Head(5)))


def test_layers_one_behind_the_other_are_verified() -> None:
    torch.manual_seed(0)
    module = Convolutional(Head(5))
    found = explained(module, ExportOptions(layer="stage1,stage2"))
    assert len(found.spec.explanation.layers) == 2
    image = picture()
    said = run(found.data, LEVELS[3], {"image": image, "classes": np.array([3])})["heatmap"][0, 0]
    one, two = (by_module(module, part, image, lambda y: y[0, 3])[0][0] for part in (module.stage1, module.stage2))
    fine = torch.nn.functional.interpolate((two / two.max())[None, None], size=one.shape, mode="bilinear", align_corners=False)[0, 0]
    truth = ((one / one.max() + fine) / 2).numpy()
    assert np.abs(said - truth).max() <= 1e-4 * truth.max()


def test_what_is_assumed_of_a_grey_network_is_said() -> None:
    torch.manual_seed(0)

    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage, self.fc = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU()), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.stage(x).mean((2, 3)))  # type: ignore[no-any-return]

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Grey().eval(), (torch.zeros(1, 1, *SIZE),), buffer, dynamo=False)  # type: ignore[arg-type]
    found = export_network(open_model(onnx.load_from_string(buffer.getvalue()), "grey.onnx"), PLAIN)
    assert any("grey values of 0..1" in note for note in found.notes) and not any("ImageNet" in note for note in found.notes)
