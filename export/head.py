"""The head's scores and gradients in closed form: no backward pass, N masks and K classes almost free.

Symbols: B images, T tokens, C channels, N masks, K classes to explain, n all classes. t tokens, S = t tᵀ/√C,
P = softmax of the masked S, u = column means of P, w_c the class's row of fc, s_j = w_c·t_j, m = P s, Z positions.

    logit      y   = W Σ_j u_j t_j + b                                           paper eqs. 3-4
    column     κ_j = s_j u_j − (1/T) Σ_i P_ij m_i
    weights    α   = (1/Z) (w_c + (1/√C) Σ_j κ_j t_j)                            paper eq. 1
    heatmap    L_i = ReLU((1/Z) (A_i·w_c + Σ_j (A_i·t_j/√C) κ_j))                paper eq. 2, no C-long work
    gradient   g_a = u_a w_c + (1/√C) Σ_b (D_ab + D_ba) t_b,  D_ab = (1/T) P_ab (s_b − m_a)

For the plain and dropout heads P is absent: u = 1/T and κ = D = 0. Without a pooled grid tokens are positions:
A = t and Z = T. With one, a position's gradient is its cell's, spread by the pooling's own weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from dkcam.export.builder import Builder
from dkcam.export.model import ModelConfig

DROPPED = -3.0e4  # a score that softmax turns into 0; not −∞, which fp16 arithmetic turns into NaN


class Head:
    """Writes one head into a graph.

    features: name of layer4's output [B, C, h, w]. size: (h, w) where known, needed for a pooled grid. key_mask:
    name of bool [N, T, T] or None. weight [n, C] and bias [n]: of fc.
    """

    def __init__(
        self,
        builder: Builder,
        config: ModelConfig,
        features: str,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        key_mask: str | None,
        size: tuple[int, int] | None,
    ) -> None:
        self._graph, self._config, self._features, self._size = builder, config, features, size
        graph = builder
        graph.part = "head"
        self._positions = graph.transpose(graph.reshape(features, 0, config.channels, -1), 0, 2, 1)  # [B, Z, C]
        self._pooled = config.variant == "dropkey" and config.grid is not None
        self._tokens = self._pool() if self._pooled else self._positions  # [B, T, C]
        self._root = graph.number(config.channels**-0.5)
        self._weight = graph.weight("fc.weight", weight)
        turned = graph.transpose(self._weight, 1, 0)
        self._scores = self._attention = self._columns = ""
        if config.variant == "dropkey":
            self._scores = graph.op("Mul", graph.op("MatMul", self._tokens, graph.swap_last(self._tokens, 3)), self._root)
            self._attention = graph.op("Softmax", self._masked(key_mask), axis=-1)  # [B, N, T, T]
            self._columns = graph.mean(self._attention, 2)  # [B, N, T]
            vector = graph.op("MatMul", self._columns, self._tokens)
        else:
            vector = graph.mean(self._tokens, 1, keep=True)
        self.scores_per_mask = graph.op("Add", graph.op("MatMul", vector, turned), graph.weight("fc.bias", bias))

    def _pool(self) -> str:
        """Adaptive average pooling as one matrix [T, Z]: rows sum to 1."""
        if self._config.grid == (1, 1):
            return self._graph.mean(self._positions, 1, keep=True)
        return self._graph.op("MatMul", self._graph.constant(self._pooling()), self._positions)

    def _pooling(self) -> NDArray[np.float32]:
        assert self._size is not None and self._config.grid is not None
        (height, width), (rows, columns) = self._size, self._config.grid
        return np.kron(_cells(height, rows), _cells(width, columns)).astype(np.float32)

    def _masked(self, key_mask: str | None) -> str:
        graph = self._graph
        scores = graph.unsqueeze(self._scores, 1)
        if key_mask is None:
            return scores
        every = graph.op("ReduceMin", graph.op("Cast", key_mask, to=TensorProto.FLOAT), graph.ints(-1), keepdims=1)
        some_left = graph.op("Less", every, graph.number(0.5))  # a row that drops every key keeps them all
        return graph.op("Where", graph.op("And", key_mask, some_left), graph.number(DROPPED), scores)

    def logits(self) -> str:
        return self._graph.mean(self.scores_per_mask, 1)

    def probabilities(self) -> str:
        return self._graph.mean(self._graph.op("Softmax", self.scores_per_mask, axis=-1), 1)

    def explain(self, explained: str) -> None:
        """Terms of the classes ``explained`` int64 [B, K]; call before the methods below."""
        graph = self._graph
        graph.part = "explain"
        self._rows = graph.op("Gather", self._weight, explained, axis=0)  # [B, K, C]
        self._projections = graph.op("MatMul", self._rows, graph.swap_last(self._tokens, 3))  # [B, K, T]
        if self._attention:
            # rows of P sum to 1, so a constant added to s changes nothing: without its mean there is less to cancel
            self._centred = graph.op("Sub", self._projections, graph.mean(self._projections, 2, keep=True))
            self._kappa = self._column_terms(graph.unsqueeze(self._centred, 1))

    def _column_terms(self, spread: str) -> str:
        """κ for centred scores [B, 1, K, T]: [B, N, K, T].

        κ_j = (1/T) Σ_i P_ij (s_j − m_i), and a row that attends to one key alone gives 0 = s_j − s_j: rounded, and then
        multiplied by scores of hundreds, that would be a map of its own. So the key h with P_ih > ½ is taken out of its
        row (Q = P without it) and m_i = s_h + r_i, r_i = Σ_l Q_il (s_l − s_h); without such a key s_h is 0 and Q = P:

            T κ_j = s_j Σ_i Q_ij − Σ_i Q_ij s_h(i) − Σ_i P_ij r_i
        """
        graph = self._graph
        large = graph.op("Greater", self._attention, graph.number(0.5))
        main = graph.op("Cast", large, to=TensorProto.FLOAT)
        rest = graph.op("Where", large, graph.number(0.0), self._attention)
        self._main = graph.op("MatMul", spread, graph.swap_last(main, 4))  # s_h(i), [B, N, K, T]
        kept = graph.op("Mul", self._main, graph.unsqueeze(graph.sum(rest, 3), 2))
        self._rest = graph.op("Sub", graph.op("MatMul", spread, graph.swap_last(rest, 4)), kept)  # r_i
        direct = graph.op("Mul", spread, graph.unsqueeze(graph.sum(rest, 2), 2))
        indirect = graph.op("Add", graph.op("MatMul", self._main, rest), graph.op("MatMul", self._rest, self._attention))
        return graph.op("Mul", graph.op("Sub", direct, indirect), self._one_over(self._tokens))

    def weights(self) -> str:
        """Paper eq. 1 averaged over masks: [B, K, C]."""
        graph, total = self._graph, self._rows
        if self._attention:
            pulled = graph.op("MatMul", graph.mean(self._kappa, 1), self._tokens)
            total = graph.op("Add", total, graph.op("Mul", pulled, self._root))
        return graph.op("Mul", total, self._one_over(self._positions))

    def heatmaps(self) -> tuple[str, str]:
        """Paper eq. 2 from the Gram matrix alone: (ReLU'd maps, the same less their part that no mask changes).

        Both [B, N, K, Z]. With L = ReLU(a + d) and a free of masks, the second is L − a = max(d, −a): its spread over
        masks is that of L, and keeps its digits where d is small beside a.
        """
        graph = self._graph
        base, cross = self._projections, self._scores
        if self._pooled:
            base = graph.op("MatMul", self._rows, graph.swap_last(self._positions, 3))
            cross = graph.op("Mul", graph.op("MatMul", self._positions, graph.swap_last(self._tokens, 3)), self._root)
        share = self._one_over(self._positions)
        base = graph.op("Mul", graph.unsqueeze(base, 1), share)
        if not self._attention:
            maps = graph.op("Relu", base)
            return maps, maps
        change = graph.op("Mul", graph.op("MatMul", self._kappa, graph.unsqueeze(graph.swap_last(cross, 3), 1)), share)
        return graph.op("Relu", graph.op("Add", base, change)), graph.op("Max", change, graph.op("Neg", base))

    def gradient(self) -> str:
        """The explained logits' gradient at layer4's output for each mask: [B, M, C, h, w], M = N·K masks first."""
        graph = self._graph
        if self._attention:
            pull = graph.op("Sub", graph.unsqueeze(self._centred, 1, 3), graph.unsqueeze(self._main, 4))
            pull = graph.op("Sub", pull, graph.unsqueeze(self._rest, 4))
            flow = graph.op("Mul", graph.op("Mul", graph.unsqueeze(self._attention, 2), pull), self._one_over(self._tokens))
            both = graph.op("Add", flow, graph.swap_last(flow, 5))  # [B, N, K, T, T]
            mixed = graph.op("Mul", graph.op("MatMul", both, graph.unsqueeze(self._tokens, 1, 2)), self._root)
            direct = graph.op("Mul", graph.unsqueeze(self._columns, 2, 4), graph.unsqueeze(self._rows, 1, 3))
            each = graph.op("Add", direct, mixed)  # [B, N, K, T, C]
            flat = graph.reshape(each, 0, -1, graph.dims(self._tokens, 1, 3))
            if self._pooled:
                flat = graph.op("MatMul", graph.constant(np.ascontiguousarray(self._pooling().T)), flat)
        else:
            ones = graph.op("Mul", self._positions, graph.number(0.0))
            even = graph.op("Mul", graph.unsqueeze(self._rows, 2), self._one_over(self._positions))
            flat = graph.op("Add", even, graph.unsqueeze(ones, 1))
        return graph.reshape(graph.swap_last(flat, 4), 0, 0, 0, graph.dims(self._features, 2, 4))

    def _one_over(self, value: str) -> str:
        """1 / (second dimension of a value), float32: a constant where the size is known."""
        graph = self._graph
        pooled = self._pooled and value == self._tokens
        if pooled and self._config.grid is not None:
            return graph.number(1.0 / (self._config.grid[0] * self._config.grid[1]))
        if self._size is not None:
            return graph.number(1.0 / (self._size[0] * self._size[1]))
        return graph.op("Reciprocal", graph.op("Cast", graph.dims(value, 1, 2), to=TensorProto.FLOAT))


def _cells(size: int, cells: int) -> NDArray[np.float64]:
    """Adaptive average pooling along one axis as a matrix [cells, size] whose rows sum to 1."""
    matrix = np.zeros((cells, size))
    for cell in range(cells):
        first, last = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, first:last] = 1.0 / (last - first)
    return matrix
