"""pytorch-grad-cam over the same torch module, at the layer that the exported file explains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo import product
from zoo.networks import Network

CLOSE = 1e-3  # of the largest value: the same values, computed in another order


def build(network: Network, original: bytes, ours: bytes, value: str) -> tuple[Callable[[], Any], str, float]:
    """(one run from picture to map, the module's path, how far its map is from ours: both stretched to 0..1, the largest difference)."""
    from pytorch_grad_cam import GradCAM

    assert network.module is not None
    torch.set_num_threads(1)
    module = network.module().requires_grad_(False)
    session = ort.InferenceSession(original, providers=["CPUExecutionProvider"])
    ((_, image),) = product.feed(session, 1).items()
    features, heat = _ours(ours, image, value)
    path, shape = _same(module, torch.from_numpy(image), features)
    layer = module.get_submodule(path)
    layer.register_forward_hook(lambda _, __, out: out.requires_grad_(True))  # the graph begins here: weights ask for no gradient
    cam = GradCAM(model=module, target_layers=[layer], reshape_transform=_as_map(shape, heat.shape))
    picture = torch.from_numpy(image)
    theirs = cam(input_tensor=picture, targets=None)[0]
    grown = cv2.resize(_stretched(heat), theirs.shape[::-1])
    return lambda: cam(input_tensor=picture, targets=None), path, float(np.abs(_stretched(grown) - _stretched(theirs)).max())


def _stretched(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    return (heat - heat.min()) / max(float(heat.max() - heat.min()), 1e-12)


def _ours(data: bytes, image: NDArray[np.float32], value: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The features at a value of the exported graph and its heatmap [h, w] of the top class."""
    model = onnx.load_from_string(data)
    known = {name for node in model.graph.node for name in node.output}
    model.graph.output.extend([onnx.helper.make_empty_tensor_value_info(value)] if value in known else [])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"image": image, "classes": np.array([-1], np.int64)}
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, feed), strict=True))
    return found[value], found["heatmap"][0, 0]


def _same(module: nn.Module, picture: Tensor, features: NDArray[np.float32]) -> tuple[str, tuple[int, ...]]:
    """The first module whose output is these features, in whatever order of axes."""
    matches: list[tuple[str, tuple[int, ...]]] = []
    scale = float(np.abs(features).max())
    size = features.size

    def look(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            if not isinstance(out, Tensor) or out.numel() != size:
                return
            values = out.detach().numpy()
            shapes = [np.moveaxis(values, 1, -1), np.moveaxis(values, -1, 1), values] if values.ndim > 2 else [values]
            if any(one.shape == features.shape and np.abs(one - features).max() <= CLOSE * scale for one in shapes):
                matches.append((path, tuple(out.shape)))

        return hook

    hooks = [part.register_forward_hook(look(path)) for path, part in module.named_modules() if path]
    with torch.no_grad():
        module(picture)
    for hook in hooks:
        hook.remove()
    if not matches:
        raise LookupError("no torch module gives the values of the explained layer")
    return matches[0]


def _as_map(shape: tuple[int, ...], grid: tuple[int, ...]) -> Callable[[Tensor], Tensor] | None:
    """pytorch-grad-cam wants [B, C, h, w]: how tokens [B, T, C] and maps [B, h, w, C] become that."""
    rows, columns = grid
    if len(shape) == 3:
        skip = shape[1] - rows * columns
        return lambda x: x[:, skip:].transpose(1, 2).reshape(x.shape[0], x.shape[2], rows, columns)
    if tuple(shape[2:]) == (rows, columns):
        return None
    return lambda x: x.permute(0, 3, 1, 2)
