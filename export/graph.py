"""The exported network: image and class numbers in; scores, Grad-CAM weights and heatmaps out. No random operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dkcam.errors import ExportError
from dkcam.export.adjoint import DifferentiableBackbone
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.closed_form import HeadState, channel_weights, class_terms, gram_heatmap, output_gradient, run_head
from dkcam.export.methods import METHODS
from dkcam.export.options import ExportOptions


class ExplainGraph(nn.Module):
    """A checkpoint with the explanation built in; inputs and outputs as the design fixes them.

    At layer4 with Grad-CAM the heatmap comes from the Gram matrix alone. Every other layer, method or the raw
    gradient starts from the head's closed-form gradient and pulls it back through the backbone.
    """

    def __init__(self, checkpoint: Checkpoint, options: ExportOptions) -> None:
        super().__init__()
        self.model = checkpoint.module()
        self.options = options
        config = self.model.config
        if options.samples and config.variant != "dropkey":
            raise ExportError(f"--samples {options.samples}: masks belong to the dropkey variant, this model is {config.variant}")
        if config.grid not in (None, (1, 1)) and "size" in options.dynamic:
            raise ExportError("--dynamic size: this model pools to a fixed token grid, which needs a fixed size; leave size out")
        self.names = options.output_names()
        self.backbone = DifferentiableBackbone(self.model, options.layer)
        std = torch.tensor(checkpoint.std) * (255.0 if options.input == "rgb8" else 1.0)
        self.register_buffer("scale", (1 / std)[:, None, None], persistent=False)
        self.register_buffer("shift", (-torch.tensor(checkpoint.mean) / torch.tensor(checkpoint.std))[:, None, None], persistent=False)

    def forward(self, image: Tensor, classes: Tensor, key_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.options.input == "rgb8":
            # cast first, transpose after: TensorRT takes a uint8 input only into a cast
            x = image.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.shift
        else:
            x = image
        top, features, values = self.backbone(x)
        state = run_head(self.model.config, top, self.model.fc.weight, self.model.fc.bias, key_mask)
        found = {
            "logits": state.logits.mean(dim=1),
            "probabilities": state.logits.softmax(dim=2).mean(dim=1),
            "features": features,
        }
        if set(self.names) - set(found):
            order = found["probabilities"].topk(self.model.config.classes, dim=1).indices
            found["explained"] = choose_classes(order, classes)
            found.update(self._explain(state, features, values, found["explained"]))
        return tuple(found[name] for name in self.names)

    def _explain(self, state: HeadState, features: Tensor, values: dict[torch.fx.Node, Tensor], explained: Tensor) -> dict[str, Tensor]:
        terms = class_terms(state, explained)
        found: dict[str, Tensor] = {}
        if self.backbone.is_output and self.options.method == "gradcam" and "gradient" not in self.names:
            maps = gram_heatmap(state, terms)
            found["weights"] = channel_weights(state, terms).mean(dim=1)
        else:
            gradient = output_gradient(state, terms)
            samples, count = gradient.shape[1], gradient.shape[2]
            gradient = gradient.flatten(1, 2)
            if not self.backbone.is_output:
                gradient = self.backbone.pull_back(gradient, values)
            maps = METHODS[self.options.method](features.unsqueeze(1), gradient).unflatten(1, (samples, count))
            found["gradient"] = gradient.unflatten(1, (samples, count)).mean(dim=1)
            found["weights"] = found["gradient"].mean(dim=(3, 4))
        found["heatmap"] = maps.mean(dim=1)
        if self.options.samples:
            found["heatmap_std"] = (maps - found["heatmap"].unsqueeze(1)).square().mean(dim=1).sqrt()
        return found


def choose_classes(order: Tensor, classes: Tensor) -> Tensor:
    """Class numbers int64 [B, K]: ``classes`` int64 [K] as given, or for −r the class of rank r in ``order`` [B, n]."""
    rank = torch.where(classes < 0, -classes - 1, 0)
    return torch.where(classes < 0, order[:, rank], classes)
