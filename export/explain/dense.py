"""Segmentation: what raises the mean score of a class over its own region."""

from __future__ import annotations

import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.explain.scores import Behind, Explained, choose, one_hot
from dkcam.export.writer import Writer, shape_of


def explain(writer: Writer, found: Behind, classes: ir.Value) -> Explained:
    """Of score maps z [B, n, H, W]: the region of a class is where its score is the largest (one class: where z > 0).

    logits float32 [B, n]: the mean of z over the region, 0 where it is empty, whose heat is 0 as well. probabilities [B, n]: the
    region's share of all positions, which ranks are taken by. explained int64 [B, K]. The region itself is held fixed:
    Vinogradova et al., arXiv:2002.11434.
    """
    scores = writer.float32(found.scores)
    count = shape_of(scores)[1]
    assert isinstance(count, int)
    if count == 1:
        inside = writer.op("Cast", writer.op("Greater", scores, writer.number(0.0)), to=int(ir.DataType.FLOAT))
    else:
        largest = writer.op("ArgMax", scores, axis=1, keepdims=0)
        numbers = writer.constant([[[[c]] for c in range(count)]], "int64")
        inside = writer.op("Cast", writer.op("Equal", writer.unsqueeze(largest, 1), numbers), to=int(ir.DataType.FLOAT))
    area = writer.sum(inside, 2, 3)  # [B, n, 1, 1]
    share = writer.op("Div", inside, writer.op("Max", area, writer.number(1.0)))
    logits = writer.sum(writer.mul(scores, share), 2, 3, keep=False)
    shares = writer.mean(inside, 2, 3, keep=False)
    index = choose(writer, classes, shares)
    outputs = {"logits": logits, "probabilities": shares, "explained": writer.transpose(index, 1, 0)}
    return Explained(outputs, {found.scores: Cotangent(writer.unsqueeze(one_hot(writer, index, count), 3, 4), share)})
