"""The paper's head, its scores and its Grad-CAM in closed form: no backward pass, N masks and K classes almost free.

Symbols: B images, T tokens, C channels, N masks, K classes to explain, n all classes. t tokens, S = t tᵀ/√C,
P = softmax of the masked S, u = column means of P, w_c the class's row of fc, s_j = w_c·t_j, m = P s, Z positions.

    logit      y   = W Σ_j u_j t_j + b                                           paper eqs. 3-4
    column     κ_j = s_j u_j − (1/T) Σ_i P_ij m_i
    weights    α   = (1/Z) (w_c + (1/√C) Σ_j κ_j t_j)                            paper eq. 1
    heatmap    L_i = ReLU((1/Z) (A_i·w_c + Σ_j (A_i·t_j/√C) κ_j))                paper eq. 2, no C-long work
    gradient   g_a = u_a w_c + (1/√C) Σ_b (D_ab + D_ba) t_b,  D_ab = (1/T) P_ab (s_b − m_a)

Without a pooled grid tokens are positions: A = t and Z = T. With one, a position's gradient is its cell's, spread by the
pooling's own weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.writer import Writer, shape_of

DROPPED = -3.0e4  # a score that softmax turns into 0; not −∞, which fp16 arithmetic turns into NaN


@dataclass(frozen=True)
class Attention:
    """The head in a graph, up to its scores.

    features: layer4's output [B, C, h, w]. positions: the same as [B, Z, C]. tokens [B, T, C]. weight: fc's rows [n, C]. root:
    1/√C. scores: S [B, T, T]. attention: P [B, N, T, T]. columns: u [B, N, T]. pooling: [T, Z] or None where tokens are positions.
    per_mask: logits [B, N, n].
    """

    features: ir.Value
    positions: ir.Value
    tokens: ir.Value
    weight: ir.Value
    root: ir.Value
    scores: ir.Value
    attention: ir.Value
    columns: ir.Value
    pooling: NDArray[np.float32] | None
    per_mask: ir.Value

    @staticmethod
    def write(
        writer: Writer,
        features: ir.Value,
        weight: ir.Value,
        bias: ir.Value,
        grid: tuple[int, int] | None,
        key_mask: ir.Value | None,
    ) -> Attention:
        """features [B, C, h, w] of known h and w where there is a grid; key_mask bool [N, T, T], or None: no key drops."""
        channels = shape_of(features)[1]
        assert isinstance(channels, int)
        positions = writer.transpose(writer.reshape(features, writer.dims(features, 0, 2), -1), 0, 2, 1)
        pooling, tokens = None, positions
        if grid is not None:
            height, width = shape_of(features)[2:]
            assert isinstance(height, int) and isinstance(width, int)
            pooling = np.kron(cells(height, grid[0]), cells(width, grid[1])).astype(np.float32)
            whole = grid == (1, 1)
            tokens = writer.mean(positions, 1) if whole else writer.op("MatMul", writer.constant(pooling), positions)
        root = writer.number(channels**-0.5)
        scores = writer.mul(writer.op("MatMul", tokens, writer.swap_last(tokens)), root)
        attention = writer.op("Softmax", _masked(writer, scores, key_mask), axis=-1)
        columns = writer.mean(attention, 2, keep=False)
        vector = writer.op("MatMul", columns, tokens)
        per_mask = writer.add(writer.op("MatMul", vector, writer.swap_last(weight)), bias)
        return Attention(features, positions, tokens, weight, root, scores, attention, columns, pooling, per_mask)

    def logits(self, writer: Writer) -> ir.Value:
        """Mean over masks [B, n]."""
        return writer.mean(self.per_mask, 1, keep=False)

    def probabilities(self, writer: Writer) -> ir.Value:
        """Softmax of each mask's logits, mean over masks [B, n]."""
        return writer.mean(writer.op("Softmax", self.per_mask, axis=-1), 1, keep=False)


def _masked(writer: Writer, scores: ir.Value, key_mask: ir.Value | None) -> ir.Value:
    scores = writer.unsqueeze(scores, 1)
    if key_mask is None:
        return scores
    every = writer.op("ReduceMin", writer.op("Cast", key_mask, to=int(ir.DataType.FLOAT)), writer.ints(-1), keepdims=1)
    some_left = writer.op("Less", every, writer.number(0.5))  # a row that drops every key keeps them all
    return writer.op("Where", writer.op("And", key_mask, some_left), writer.number(DROPPED), scores)


class ClosedForm:
    """The derivatives of chosen classes ``explained`` int64 [B, K]."""

    def __init__(self, writer: Writer, head: Attention, explained: ir.Value) -> None:
        self._writer, self._head = writer, head
        self._rows = writer.op("Gather", head.weight, explained, axis=0)  # [B, K, C]
        self._projections = writer.op("MatMul", self._rows, writer.swap_last(head.tokens))  # [B, K, T]
        # rows of P sum to 1, so a constant added to s changes nothing: without its mean there is less to cancel
        self._centred = writer.sub(self._projections, writer.mean(self._projections, 2))
        self._kappa = self._column_terms(writer.unsqueeze(self._centred, 1))

    def _column_terms(self, spread: ir.Value) -> ir.Value:
        """κ for centred scores [B, 1, K, T]: [B, N, K, T].

        κ_j = (1/T) Σ_i P_ij (s_j − m_i), and a row that attends to one key alone gives 0 = s_j − s_j: rounded, and then
        multiplied by scores of hundreds, that would be a map of its own. So the key h with P_ih > ½ is taken out of its
        row (Q = P without it) and m_i = s_h + r_i, r_i = Σ_l Q_il (s_l − s_h); without such a key s_h is 0 and Q = P:

            T κ_j = s_j Σ_i Q_ij − Σ_i Q_ij s_h(i) − Σ_i P_ij r_i
        """
        writer, attention = self._writer, self._head.attention
        large = writer.op("Greater", attention, writer.number(0.5))
        main = writer.op("Cast", large, to=int(ir.DataType.FLOAT))
        rest = writer.op("Where", large, writer.number(0.0), attention)
        self._main = writer.op("MatMul", spread, writer.swap_last(main))  # s_h(i), [B, N, K, T]
        kept = writer.mul(self._main, writer.unsqueeze(writer.sum(rest, 3, keep=False), 2))
        self._rest = writer.sub(writer.op("MatMul", spread, writer.swap_last(rest)), kept)  # r_i
        direct = writer.mul(spread, writer.unsqueeze(writer.sum(rest, 2, keep=False), 2))
        indirect = writer.add(writer.op("MatMul", self._main, rest), writer.op("MatMul", self._rest, attention))
        return writer.mul(writer.sub(direct, indirect), self._one_over(self._head.tokens))

    def weights(self) -> ir.Value:
        """Paper eq. 1 averaged over masks: [B, K, C]."""
        writer, head = self._writer, self._head
        pulled = writer.op("MatMul", writer.mean(self._kappa, 1, keep=False), head.tokens)
        total = writer.add(self._rows, writer.mul(pulled, head.root))
        return writer.mul(total, self._one_over(head.positions))

    def heatmaps(self) -> tuple[ir.Value, ir.Value]:
        """Paper eq. 2 from the Gram matrix alone: (ReLU'd maps, the same less their part that no mask changes).

        Both [B, N, K, Z]. With L = ReLU(a + d) and a free of masks, the second is L − a = max(d, −a): its spread over
        masks is that of L, and keeps its digits where d is small beside a.
        """
        writer, head = self._writer, self._head
        base, cross = self._projections, head.scores
        if head.pooling is not None:
            base = writer.op("MatMul", self._rows, writer.swap_last(head.positions))
            cross = writer.mul(writer.op("MatMul", head.positions, writer.swap_last(head.tokens)), head.root)
        share = self._one_over(head.positions)
        base = writer.mul(writer.unsqueeze(base, 1), share)
        change = writer.mul(writer.op("MatMul", self._kappa, writer.unsqueeze(writer.swap_last(cross), 1)), share)
        return writer.op("Relu", writer.add(base, change)), writer.op("Max", change, writer.neg(base))

    def seed(self) -> Cotangent:
        """The cotangent of layer4's output for each mask and class: [N·K, B, C, h, w], masks first."""
        writer, head = self._writer, self._head
        pull = writer.sub(writer.unsqueeze(self._centred, 1, 3), writer.unsqueeze(self._main, 4))
        pull = writer.sub(pull, writer.unsqueeze(self._rest, 4))
        flow = writer.mul(writer.mul(writer.unsqueeze(head.attention, 2), pull), self._one_over(head.tokens))
        both = writer.add(flow, writer.swap_last(flow))  # [B, N, K, T, T]
        mixed = writer.mul(writer.op("MatMul", both, writer.unsqueeze(head.tokens, 1, 2)), head.root)
        direct = writer.mul(writer.unsqueeze(head.columns, 2, 4), writer.unsqueeze(self._rows, 1, 3))
        each = writer.add(direct, mixed)  # [B, N, K, T, C]
        if head.pooling is not None:
            each = writer.op("MatMul", writer.constant(np.ascontiguousarray(head.pooling.T)), each)
        turned = writer.transpose(each, 1, 2, 0, 4, 3)  # [N, K, B, C, Z]
        return Cotangent(writer.reshape(turned, -1, writer.dims(head.features)))

    def _one_over(self, value: ir.Value) -> ir.Value:
        """1 / (second dimension of a value)."""
        return self._writer.op("Reciprocal", self._writer.size(value, 1))


def cells(size: int, count: int) -> NDArray[np.float64]:
    """Adaptive average pooling along one axis as a matrix [count, size] whose rows sum to 1."""
    matrix = np.zeros((count, size))
    for cell in range(count):
        first, last = cell * size // count, -(-(cell + 1) * size // count)
        matrix[cell, first:last] = 1.0 / (last - first)
    return matrix
