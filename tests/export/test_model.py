from __future__ import annotations

import math

import torch

from dkcam.export.model import ModelConfig, ResNet, drop_key_attention
from tests.conftest import tiny_model

# torchvision.models.resnet50().state_dict(): a sample of names with shapes, and how many there are
TORCHVISION = {
    "conv1.weight": (64, 3, 7, 7),
    "bn1.running_var": (64,),
    "layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "layer2.0.conv2.weight": (128, 128, 3, 3),
    "layer3.5.bn3.weight": (1024,),
    "layer4.2.conv3.weight": (2048, 512, 1, 1),
    "fc.weight": (1000, 2048),
    "fc.bias": (1000,),
}


def test_names_and_shapes_are_torchvisions() -> None:
    state = ResNet(ModelConfig(variant="plain")).state_dict()
    assert len(state) == 320
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "tracked" not in k) == 25_557_032
    for name, shape in TORCHVISION.items():
        assert tuple(state[name].shape) == shape


def test_attention_equals_the_paper_written_out() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, 5, 8, dtype=torch.float64)
    dropped = torch.rand(1, 5, 5) < 0.5
    dropped[0, 2] = True  # a query without keys
    given = drop_key_attention(tokens, dropped)
    for query in range(5):
        keys = [k for k in range(5) if not dropped[0, query, k]] or list(range(5))
        scores = [float(tokens[0, query] @ tokens[0, k]) / math.sqrt(8) for k in keys]
        shares = [math.exp(s - max(scores)) for s in scores]
        expected = sum(share / sum(shares) * tokens[0, k] for share, k in zip(shares, keys, strict=True))
        assert torch.allclose(given[0, query], expected, atol=1e-12)


def test_one_token_makes_attention_the_identity() -> None:
    model, plain = tiny_model("dropkey", (1, 1)), tiny_model("plain")
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(model(x), plain(x), atol=1e-6)


def test_masks_differ_by_query_in_training_and_are_off_in_evaluation() -> None:
    model = tiny_model("dropkey")
    features = torch.rand(1, model.config.channels, 3, 4)
    with torch.no_grad():
        assert torch.equal(model.head(features), model.head(features))
        model.train()
        assert not torch.equal(model.head(features), model.head(features))
