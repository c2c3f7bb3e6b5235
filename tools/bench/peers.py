"""Other ways from a frame to an overlay, with the same weights: what a user would otherwise write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.spec import ModelSpec

Frame = NDArray[np.uint8]
Peer = Callable[[Frame], Any]


def usual_input(frame: Frame, spec: ModelSpec) -> NDArray[np.float32]:
    """The usual preprocessing: resize, scale, normalise, float32 [3, H, W]."""
    rgb = cv2.resize(frame, (spec.input.width, spec.input.height), interpolation=cv2.INTER_AREA)[..., ::-1]
    values = (rgb.astype(np.float32) / 255 - np.array(spec.input.mean, np.float32)) / np.array(spec.input.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def tensor_of(frame: Frame, spec: ModelSpec, module: Any) -> Any:
    """The same as a torch tensor with a batch of one, where the module is."""
    import torch

    return torch.from_numpy(usual_input(frame, spec)[None]).to(next(module.parameters()).device)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch on as many threads as the engine; 0 leaves its own choice, one a core."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def frozen(module: Any) -> Any:
    """No gradient of weights, which nobody asks for: the graph begins at layer4's output, as in ``head_alone``.

    pytorch-grad-cam, torch-cam and captum put their hooks behind this one and find a tensor that wants its gradient.
    """
    module.requires_grad_(False)
    module.layer4.register_forward_hook(lambda layer, given, features: features.requires_grad_(True))
    return module


def head_alone(module: Any) -> Callable[[Any], Any]:
    """The least that torch has to do: the backbone without a graph, the top logit's gradient from the head alone.

    Normalised input float32 [1, 3, H, W] to Grad-CAM float32 [h, w].
    """
    import torch

    module.requires_grad_(False)

    def run(x: Any) -> Any:
        with torch.no_grad():
            features = module.backbone(x)
        features.requires_grad_(True)
        score = module.head(features).max(1).values.sum()
        gradient = torch.autograd.grad(score, features)[0]
        return (gradient.mean((2, 3), keepdim=True) * features.detach()).sum(1).relu()[0]

    return run


def compiled_head_alone(module: Any) -> Callable[[Any], Any]:
    """The same as one function for torch.compile, which cannot look into ``autograd.grad``. Errors: NoCompiler."""
    import torch

    module.requires_grad_(False)

    def heatmap(x: Any) -> Any:
        features = module.backbone(x)
        gradient = torch.func.grad(lambda given: module.head(given).max(1).values.sum())(features)
        return (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()[0]

    compiled = torch.compile(heatmap, fullgraph=True)

    def run(x: Any) -> Any:
        try:
            with torch.no_grad():
                return compiled(x)
        except Exception as error:
            if "InvalidCxxCompiler" in f"{type(error).__name__} {error}":
                raise NoCompiler("torch.compile needs a C++ compiler and found none (apt install g++)") from error
            raise

    return run


class NoCompiler(Exception):
    """torch.compile cannot work here."""


def eager(module: Any, spec: ModelSpec, data: bytes, threads: int = 0) -> Peer:
    return _drawn(head_alone(module), module, spec)


def compiled(module: Any, spec: ModelSpec, data: bytes, threads: int = 0) -> Peer:
    return _drawn(compiled_head_alone(module), module, spec)


def _drawn(heatmap: Callable[[Any], Any], module: Any, spec: ModelSpec) -> Peer:
    """With OpenCV around it."""
    return lambda frame: opencv_overlay(frame, heatmap(tensor_of(frame, spec, module)).cpu().numpy())


def grad_cam(module: Any, spec: ModelSpec, data: bytes, threads: int = 0) -> Peer:
    """pytorch-grad-cam with its own show_cam_on_image."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image

    cam = GradCAM(model=frozen(module), target_layers=[module.layer4])

    def run(frame: Frame) -> Any:
        heat = cam(input_tensor=tensor_of(frame, spec, module), targets=None)[0]
        return show_cam_on_image(frame[..., ::-1].astype(np.float32) / 255, cv2.resize(heat, frame.shape[1::-1]), use_rgb=True)

    return run


def torch_cam(module: Any, spec: ModelSpec, data: bytes, threads: int = 0) -> Peer:
    """torch-cam with its own overlay_mask."""
    from PIL import Image
    from torchcam.methods import GradCAM
    from torchcam.utils import overlay_mask

    extractor = GradCAM(frozen(module), "layer4")

    def run(frame: Frame) -> Any:
        scores = module(tensor_of(frame, spec, module))
        heat = extractor(int(scores[0].argmax()), scores)[0][0].detach().cpu().numpy()
        return overlay_mask(Image.fromarray(frame[..., ::-1]), Image.fromarray(heat.astype(np.float32), mode="F"), alpha=0.5)

    return run


def captum(module: Any, spec: ModelSpec, data: bytes, threads: int = 0) -> Peer:
    """captum's LayerGradCam; it has no overlay, so OpenCV's colour map and addWeighted."""
    import torch
    from captum.attr import LayerGradCam

    layer = LayerGradCam(frozen(module), module.layer4)

    def run(frame: Frame) -> Any:
        x = tensor_of(frame, spec, module)
        with torch.no_grad():
            top = int(module(x)[0].argmax())
        return opencv_overlay(frame, layer.attribute(x, target=top, relu_attributions=True)[0, 0].detach().cpu().numpy())

    return run


def openvino(module: Any, spec: ModelSpec, data: bytes, threads: int = 0) -> Peer:
    """OpenVINO's own runtime with dkcam's graph, OpenCV around it."""
    from openvino import Core

    core = Core()
    compiled = core.compile_model(
        core.read_model(data), "CPU", {"PERFORMANCE_HINT": "LATENCY"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    )
    top = np.array([-1], np.int64)

    def run(frame: Frame) -> Any:
        rgb = np.ascontiguousarray(cv2.resize(frame, (spec.input.width, spec.input.height), interpolation=cv2.INTER_AREA)[..., ::-1])
        return opencv_overlay(frame, compiled({"image": rgb[None], "classes": top})["heatmap"][0, 0])

    return run


def opencv_overlay(frame: Frame, heat: NDArray[np.float32]) -> Frame:
    """OpenCV's fastest form: levels as bytes, enlarged, coloured, mixed evenly."""
    levels = cv2.convertScaleAbs(heat, alpha=255 / max(float(heat.max()), 1e-12))
    coloured = cv2.applyColorMap(cv2.resize(levels, frame.shape[1::-1]), cv2.COLORMAP_TURBO)
    return np.asarray(cv2.addWeighted(frame, 0.4, coloured, 0.6, 0), np.uint8)


HEAD_ALONE: Mapping[str, Callable[[Any], Callable[[Any], Any]]] = {
    "torch, gradient from the head alone": head_alone,
    "the same, torch.compile": compiled_head_alone,
}

PEERS: Mapping[str, Callable[..., Peer]] = {
    "torch, gradient from the head alone": eager,
    "the same, torch.compile": compiled,
    "pytorch-grad-cam": grad_cam,
    "torch-cam": torch_cam,
    "captum": captum,
    "OpenVINO, dkcam's graph": openvino,
}
