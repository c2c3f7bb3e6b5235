"""Elements followed back through whatever moves them, against the graph itself run on numbered elements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from dkcam.export.checking.interpreter import evaluate
from dkcam.export.explain.detect.selected import unselected
from dkcam.export.explain.detect.trace import trace
from tests.export.explain.detect.running import traced


class Moves(nn.Module):
    """Three maps that are computed, and what is made of them."""

    def __init__(self, end: Callable[[list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.maps, self.end = nn.ModuleList([nn.Conv2d(3, 6, 3, stride, 1) for stride in (1, 2, 2)]), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end([one(x) for one in self.maps])


def rows(one: Tensor) -> Tensor:
    return one.flatten(2).transpose(1, 2)


ENDS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "levels side by side": lambda m: torch.cat([one.flatten(2) for one in m], 2),
    "rows": lambda m: torch.cat([rows(one) for one in m], 1),
    "anchors of a cell": lambda m: torch.cat([one.reshape(one.shape[0], 2, 3, -1).permute(0, 1, 3, 2).flatten(1, 2) for one in m], 1),
    "squashed columns": lambda m: torch.cat([rows(m[0])[..., :2], rows(m[0])[..., 2:].sigmoid()], 2),
    "split": lambda m: torch.cat(rows(m[1]).sigmoid().split((1, 3, 2), 2)[::-1], 2),
    "every other, backwards": lambda m: m[0][:, 1::2, :, 1:-1].flip(1).squeeze(1),
    "one row": lambda m: m[0][:, :, 3].unsqueeze(1).softmax(2),
    "chosen channels": lambda m: m[1].index_select(1, torch.tensor([4, 0, 4])).sigmoid().sigmoid(),
}


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_elements_lead_where_they_come_from(kind: str, batch: int) -> None:
    network = traced(Moves(ENDS[kind]), (6, 8), ["output"], batch)
    output = network.outputs[0]
    count = int(np.prod([int(d) for d in output.shape[1:]]))  # type: ignore[index]
    asked = np.random.default_rng(0).permutation(count)[: count // 2 + 1]
    pieces = trace(output, asked)
    assert np.array_equal(np.sort(np.concatenate([piece.order for piece in pieces])), np.arange(asked.size))
    image = torch.rand(batch, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    names = [piece.value.name or "" for piece in pieces]
    found = evaluate(network.model, {"image": image}, ["output", *names])
    assert all((node := piece.value.producer()) is not None and node.op_type in ("Conv", "Sigmoid") for piece in pieces)
    for piece in pieces:
        made = found[piece.value.name or ""].flatten(1)[:, piece.index]
        if piece.squash == "Softmax":
            continue
        made = made.sigmoid() if piece.squash else made
        assert torch.allclose(made, found["output"].flatten(1)[:, asked[piece.order]], rtol=0, atol=1e-15)
    squashed = {"squashed columns": {"", "Sigmoid"}, "split": {"Sigmoid"}, "one row": {"Softmax"}, "chosen channels": {"Sigmoid"}}
    assert {piece.squash for piece in pieces} == squashed.get(kind, {""})


def test_what_the_picture_decides_is_not_followed_but_found() -> None:
    def chosen(m: list[Tensor]) -> Tensor:
        scores = rows(m[0])
        index = scores.amax(2).topk(5)[1]
        return torch.cat([scores.gather(1, index[..., None].expand(-1, -1, 6))] * 2, 1)

    network = traced(Moves(chosen), (6, 8), ["output"])
    (piece,) = trace(network.outputs[0], np.arange(6))
    assert (node := piece.value.producer()) is not None and node.op_type == "GatherElements"
    found = unselected(network.outputs[0], np.arange(6))
    assert found is not None and found.shape == ir.Shape([1, 48, 6])
    assert unselected(traced(Moves(ENDS["rows"]), (6, 8), ["output"]).outputs[0], np.arange(6)) is None
