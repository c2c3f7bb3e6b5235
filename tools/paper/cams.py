"""The two methods of figure 5 that need more than one pass, from the graph's own outputs."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.runtime.explainer import Explainer

Picture = NDArray[np.uint8]
Map = NDArray[np.floating]

BATCH = 32


def score_cam(explainer: Explainer, features: Explainer, picture: Picture, label: int, channels: int | None = None) -> Map:
    """Score-CAM (Wang et al., CVPR workshops 2020): channels weighted by the score of the picture they let through.

    picture: at the model's size. features: a graph with the output ``features``. channels: only those that are largest;
    None takes all.
    """
    run = features.engine.run(features.prepare(picture).image, np.array([label], np.int64))
    maps = run["features"][0]
    strongest = np.argsort(-maps.max((1, 2)), kind="stable")[: channels or len(maps)]
    height, width = picture.shape[:2]
    scores = []
    for k in strongest:
        low, high = float(maps[k].min()), float(maps[k].max())
        if high <= low:
            scores.append(0.0)
            continue
        mask = cv2.resize((maps[k] - low) / (high - low), (width, height), interpolation=cv2.INTER_LINEAR)
        shown = np.asarray(np.rint(picture * mask[..., None]), np.uint8)
        scores.append(float(explainer.infer(explainer.prepare(shown)).probabilities[label]))
    weights = np.exp(np.array(scores) - max(scores))
    return np.asarray(np.maximum(np.tensordot(weights / weights.sum(), maps[strongest], 1), 0), np.float32)


def smooth_grad_cam(
    features: Explainer, picture: Picture, label: int, rng: np.random.Generator, samples: int = 10, spread: float = 0.1
) -> Map:
    """Smooth Grad-CAM++ (Omeiza et al. 2019): Grad-CAM++'s weights from gradients averaged over noisy copies.

    spread: standard deviation of the noise, share of the picture's range. Grad-CAM++ of an exponential score: the
    second and third derivatives are the gradient's square and cube.
    """
    first = second = third = activation = None
    for _ in range(samples):
        reach = float(picture.max()) - float(picture.min())
        noisy = np.clip(np.rint(picture + rng.normal(0, spread * reach, picture.shape)), 0, 255).astype(np.uint8)
        run = features.engine.run(features.prepare(noisy).image, np.array([label], np.int64))
        gradient, maps = run["gradient"][0, 0].astype(np.float64), run["features"][0].astype(np.float64)
        parts = [gradient / samples, gradient**2 / samples, gradient**3 / samples, maps / samples]
        if first is None:
            first, second, third, activation = parts
        else:
            first, second, third, activation = (a + b for a, b in zip((first, second, third, activation), parts, strict=True))
    assert first is not None and second is not None and third is not None and activation is not None
    below = 2 * second + activation.sum((1, 2), keepdims=True) * third
    alpha = np.divide(second, below, out=np.zeros_like(second), where=np.abs(below) > 1e-30)
    weights = (alpha * np.maximum(first, 0)).sum((1, 2))
    return np.asarray(np.maximum(np.tensordot(weights, activation, 1), 0), np.float32)
