"""Classifiers: what raises the score of a class, the top one or any other."""

from __future__ import annotations

import onnx_ir as ir

from dkcam.export.explain.scores import Behind, Explained, choose, rows, seed
from dkcam.export.writer import Writer


def explain(writer: Writer, found: Behind, classes: ir.Value) -> Explained:
    """logits, probabilities float32 [B, n], explained int64 [B, K] of scores [B, n] or [B, n, 1, 1].

    classes: int64 [K] or [B, K]. Probabilities are the network's own: Sigmoid where it ends with one, else Softmax.
    """
    logits = rows(writer, found.scores)
    squashed = writer.op("Sigmoid", logits) if found.squash == "Sigmoid" else writer.op("Softmax", logits, axis=-1)
    index = choose(writer, classes, squashed)
    outputs = {"logits": logits, "probabilities": squashed, "explained": writer.transpose(index, 1, 0)}
    return Explained(outputs, {found.scores: seed(writer, found.scores, index)})
