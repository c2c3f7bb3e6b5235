"""The head's scores and gradients in closed form: no backward pass, N masks and K classes almost free.

Symbols: B images, T tokens, C channels, N masks, K classes to explain, n all classes. t tokens, S = t tᵀ/√C,
P = softmax of the masked S, u = column means of P, w_c the class's row of fc, s_j = w_c·t_j, m = P s.

    logit      y   = W Σ_j u_j t_j + b                                           paper eqs. 3-4
    column     κ_j = s_j u_j − (1/T) Σ_i P_ij m_i
    weights    α   = (1/T) (w_c + (1/√C) Σ_j κ_j t_j)                            paper eq. 1
    heatmap    L_i = ReLU((1/T) (s_i + Σ_j S_ij κ_j))                            paper eq. 2, no C-long work
    gradient   g_a = u_a w_c + (1/√C) Σ_b (D_ab + D_ba) t_b,  D_ab = (1/T) P_ab (s_b − m_a)

For the plain and dropout heads P is absent: u = 1/T and κ = D = 0. With a pooled grid the tokens are cell means;
the gradient of a position is then the cell's, spread by the pooling's own weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dkcam.export.model import ModelConfig, keep_one_key, to_tokens


@dataclass(frozen=True)
class HeadState:
    """Values of one forward pass of the head; ``attention`` is None for plain and dropout.

    features [B, C, h, w], tokens [B, T, C], scores S [B, T, T], attention P [B, N, T, T], columns u [B, N, T],
    logits [B, N, n], weight W [n, C].
    """

    config: ModelConfig
    features: Tensor
    tokens: Tensor
    scores: Tensor | None
    attention: Tensor | None
    columns: Tensor | None
    logits: Tensor
    weight: Tensor


@dataclass(frozen=True)
class ClassTerms:
    """Per explained class: rows w_c [B, K, C], projections s [B, K, T], mixed m and kappa κ [B, N, K, T] or None."""

    rows: Tensor
    projections: Tensor
    mixed: Tensor | None
    kappa: Tensor | None


def run_head(config: ModelConfig, features: Tensor, weight: Tensor, bias: Tensor, key_mask: Tensor | None) -> HeadState:
    """Scores from layer4's features [B, C, h, w]; key_mask bool [N, T, T] or None."""
    if config.variant != "dropkey":
        tokens = to_tokens(features, None)
        logits = tokens.mean(dim=1) @ weight.T + bias
        return HeadState(config, features, tokens, None, None, None, logits.unsqueeze(1), weight)
    tokens = to_tokens(features, config.grid)
    scores = tokens @ tokens.transpose(1, 2) * config.channels**-0.5
    masked = scores.unsqueeze(1)
    if key_mask is not None:
        # a large negative number, not −∞: 0 · ∞ has no place in fp16, and exp(−3e4) is 0 as well
        masked = torch.where(keep_one_key(key_mask).unsqueeze(0), torch.tensor(-3.0e4, dtype=scores.dtype), masked)
    attention = masked.softmax(dim=-1)
    columns = attention.mean(dim=2)
    logits = (columns @ tokens) @ weight.T + bias
    return HeadState(config, features, tokens, scores, attention, columns, logits, weight)


def class_terms(state: HeadState, explained: Tensor) -> ClassTerms:
    """Terms of the classes ``explained`` int64 [B, K]."""
    rows = state.weight[explained]
    projections = rows @ state.tokens.transpose(1, 2)
    if state.attention is None or state.columns is None:
        return ClassTerms(rows, projections, None, None)
    spread = projections.unsqueeze(1)
    mixed = spread @ state.attention.transpose(2, 3)
    kappa = spread * state.columns.unsqueeze(2) - mixed @ state.attention / state.tokens.shape[1]
    return ClassTerms(rows, projections, mixed, kappa)


def channel_weights(state: HeadState, terms: ClassTerms) -> Tensor:
    """Paper eq. 1 for each mask: float [B, N, K, C], averaged over the positions of layer4."""
    count = state.features.shape[2] * state.features.shape[3]
    total = terms.rows.unsqueeze(1)
    if terms.kappa is not None:
        total = total + terms.kappa @ state.tokens.unsqueeze(1) * state.config.channels**-0.5
    return total / count


def gram_heatmap(state: HeadState, terms: ClassTerms) -> Tensor:
    """Paper eq. 2 for each mask from the Gram matrix alone: float [B, N, K, h, w], ReLU'd."""
    height, width = state.features.shape[2], state.features.shape[3]
    count = height * width
    if state.config.variant == "dropkey" and state.config.grid is not None:
        positions = state.features.flatten(2).transpose(1, 2)
        cross = positions @ state.tokens.transpose(1, 2) * state.config.channels**-0.5
        base = terms.rows @ positions.transpose(1, 2)
    else:
        cross, base = state.scores, terms.projections
    total = base.unsqueeze(1)
    if terms.kappa is not None and cross is not None:
        total = total + terms.kappa @ cross.transpose(1, 2).unsqueeze(1)
    return (total / count).relu().unflatten(3, (height, width))


def output_gradient(state: HeadState, terms: ClassTerms) -> Tensor:
    """The gradient of each explained logit for each mask at layer4's output: float [B, N, K, C, h, w]."""
    height, width = state.features.shape[2], state.features.shape[3]
    if state.attention is None or state.columns is None or terms.mixed is None:
        flat = terms.rows[:, None, :, :, None, None] / (height * width)
        return flat + torch.zeros_like(state.features)[:, None, None]
    tokens = state.tokens.shape[1]
    pull = terms.projections[:, None, :, None, :] - terms.mixed.unsqueeze(4)
    flow = state.attention.unsqueeze(2) * pull / tokens
    both = (flow + flow.transpose(3, 4)) @ state.tokens[:, None, None] * state.config.channels**-0.5
    gradient = state.columns[:, :, None, :, None] * terms.rows[:, None, :, None, :] + both
    gradient = gradient.transpose(3, 4)
    if state.config.grid is None:
        return gradient.unflatten(4, (height, width))
    rows, columns = state.config.grid
    spread_rows = pooling_matrix(int(height), rows).to(gradient.dtype)
    spread_columns = pooling_matrix(int(width), columns).to(gradient.dtype)
    return spread_rows.T @ gradient.unflatten(4, (rows, columns)) @ spread_columns


def pooling_matrix(size: int, cells: int) -> Tensor:
    """Adaptive average pooling along one axis as a matrix float [cells, size]; its rows sum to 1."""
    matrix = torch.zeros(cells, size)
    for cell in range(cells):
        first, last = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, first:last] = 1.0 / (last - first)
    return matrix
