"""The rivals compute the same heatmap, and nothing that nobody asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dkcam.engines import EngineOptions, open_engine
from dkcam.runtime.explainer import Explainer
from dkcam.tools.bench import groups, peers
from dkcam.tools.bench.groups import _try
from dkcam.tools.bench.timing import Candidate, Skipped
from tests.conftest import tiny_checkpoint
from tests.marks import slow

FRAME = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture
def explainer(model_file: Path) -> Explainer:
    return Explainer(open_engine(model_file, "cpu"))


@pytest.fixture
def backward(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the convolutions that a backward pass went through."""
    seen: list[str] = []
    module_type = torch.nn.Conv2d
    forward = module_type.forward

    def watched(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        out = forward(self, x)
        if out.requires_grad:
            out.register_hook(lambda gradient: seen.append("conv"))
        return out

    monkeypatch.setattr(module_type, "forward", watched)
    return seen


@pytest.mark.parametrize("make", [peers.head_alone, peers.compiled_head_alone])
def test_the_head_alone_gives_the_heatmap_of_the_graph(
    make: Callable[[Any], Callable[[Any], Any]], explainer: Explainer, backward: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    # traced as ever, its C++ not written: that takes a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    module = tiny_checkpoint().module()
    x = peers.tensor_of(FRAME, explainer.spec, module)
    found, expected = make(module)(x).numpy(), explainer(FRAME).heatmap[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
    assert not backward and not any(weight.requires_grad or weight.grad is not None for weight in module.parameters())


def heat_of(monkeypatch: pytest.MonkeyPatch, run: peers.Peer) -> np.ndarray:
    """What a peer hands to OpenCV."""
    caught: list[np.ndarray] = []
    monkeypatch.setattr(peers, "opencv_overlay", lambda frame, heat: caught.append(heat))
    run(FRAME)
    return caught[0]


def test_captum_computes_no_gradient_of_weights(monkeypatch: pytest.MonkeyPatch, explainer: Explainer, backward: list[str]) -> None:
    module = tiny_checkpoint().module()
    found, expected = heat_of(monkeypatch, peers.captum(module, explainer.spec, b"")), explainer(FRAME).heatmap[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
    assert not backward and not any(weight.requires_grad or weight.grad is not None for weight in module.parameters())


@pytest.mark.parametrize(("make", "package"), [(peers.grad_cam, "pytorch_grad_cam"), (peers.torch_cam, "torchcam")])
def test_other_peers_compute_no_gradient_of_weights(
    make: Callable[..., peers.Peer], package: str, explainer: Explainer, backward: list[str]
) -> None:
    pytest.importorskip(package)
    module = tiny_checkpoint().module()
    make(module, explainer.spec, b"")(FRAME)
    assert not backward and not any(weight.requires_grad or weight.grad is not None for weight in module.parameters())


@slow
def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch, explainer: Explainer) -> None:
    from torch._inductor import cpp_builder

    torch._dynamo.reset()
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    for cached in (cpp_builder.get_cpp_compiler, cpp_builder.check_compiler_exist_windows):
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    module = tiny_checkpoint(seed=3).module()
    run, candidates = peers.compiled(module, explainer.spec, b""), dict[str, Candidate]()
    (row,) = _try("the same, torch.compile", lambda: lambda number: run(FRAME), candidates)
    assert isinstance(row, Skipped) and row.reason == "torch.compile needs a C++ compiler and found none (apt install g++)"
    assert not candidates


def test_peers_get_as_many_threads_as_the_engine() -> None:
    before = torch.get_num_threads()
    with peers.torch_threads(1):
        assert torch.get_num_threads() == 1
    with peers.torch_threads(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_a_group_is_measured_on_as_many_threads_as_asked_for(monkeypatch: pytest.MonkeyPatch, model_file: Path) -> None:
    seen: list[int] = []
    monkeypatch.setattr(groups, "_inference", lambda graphs, rounds, peers: seen.append(torch.get_num_threads()) or [])
    graphs = groups.Graphs(model_file.read_bytes(), "cpu", EngineOptions(1))
    next(iter(groups.every_group(graphs, 3, True, lambda what: None)))
    assert seen == [1]


def test_a_peer_that_fails_leaves_the_others() -> None:
    def broken() -> Candidate:
        raise RuntimeError("no such\nthing")

    candidates = dict[str, Candidate]()
    assert _try("a", broken, candidates) == [Skipped("a", "failed: no such thing")] and not candidates
    assert not _try("b", lambda: lambda number: number, candidates) and set(candidates) == {"b"}
