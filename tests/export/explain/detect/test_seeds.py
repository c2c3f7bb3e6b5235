"""What a score that is objectness times class takes of its two logits."""

from __future__ import annotations

import numpy as np
import torch

from dkcam.export.explain.detect.layout import Level, Raw
from dkcam.export.explain.detect.seeds import chosen, places_of, seeds
from tests.export.explain.detect.running import blank, finished, run

SURE = 40.0  # float64's own formula is exact up to here


def test_the_logit_of_a_product_has_these_derivatives() -> None:
    logits = np.array([-200.0, -40, -8, -1, -0.1, 0, 0.3, 2, 9, 20, 40, 80, 81, 200])
    own, other = (one.ravel() for one in np.meshgrid(logits, logits))
    count = own.size
    shape = [1, 1, 1, count]
    model, writer, values = blank({"own": (shape, "float32"), "other": (shape, "float32"), "anchor": ([1, count], "int64")})
    at = np.arange(count)
    raw = Raw((Level(values["own"], values["other"], 0),), np.zeros(count, np.int64), at, at, 1)
    places = places_of(raw)
    there = writer.op("Cast", writer.op("Equal", values["anchor"], values["anchor"]), to=1)
    label = writer.sub(values["anchor"], values["anchor"])
    ((first, second),) = seeds(writer, raw, places, chosen(writer, places, values["anchor"], label, there))
    proto = finished(model, {"in own": first.weight, "in other": second.weight})
    feed = {"own": own.reshape(shape).astype(np.float32), "other": other.reshape(shape).astype(np.float32), "anchor": at[None]}
    found = run(proto, feed)

    a, b = (torch.from_numpy(one).requires_grad_() for one in (own, other))
    log = torch.nn.functional.logsigmoid(a) + torch.nn.functional.logsigmoid(b)
    score = log - torch.log(-torch.expm1(log))
    expected = [one.numpy() for one in torch.autograd.grad(score.sum(), (a, b))]
    both = np.minimum(own, other) > SURE - 1  # 1 − s is e⁻ᵃ + e⁻ᵇ there
    expected = [np.where(both, 1 / (1 + np.exp(x - y)), e) for x, y, e in zip((own, other), (other, own), expected, strict=True)]
    for name, one in zip(("in own", "in other"), expected, strict=True):
        np.testing.assert_allclose(found[name], one, rtol=1e-5, atol=1e-30, err_msg=name)
    total = found["in own"] + found["in other"]
    assert (total > 0.999).all() and (total < 2.001).all()
