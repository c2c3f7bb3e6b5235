"""Rows of pictures for the report: one rendered scene under each condition, plain Grad-CAM above, dropkey below."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.runtime import kernels
from dkcam.runtime.overlay import map_table
from dkcam.tools import corruptions
from dkcam.tools.paper.experiments import CONTRAST, STRETCH
from dkcam.tools.paper.models import Model
from dkcam.tools.paper.pictures import Change, changed, rendered, rotated, stretched
from dkcam.tools.scenes.example import Example, SignSize

WIDTH = 200  # of one picture


def strips(models: Sequence[Model]) -> Mapping[str, str]:
    """Name → JPEG as a data URI."""
    scene = rendered(4, SignSize(45, 55))[3]
    pair = [next(model for model in models if model.name == name) for name in ("plain-0", "dropkey-0")]

    def noisy(variance: float) -> Change:
        return changed(lambda picture, rng: corruptions.noise(picture, variance, rng))

    def flat(factor: float) -> Change:
        return changed(lambda picture, rng: corruptions.contrast(picture, factor, rng))

    rows: dict[str, list[tuple[str, Example]]] = {
        "noise": [(f"variance {v:g}", noisy(v)(scene, np.random.default_rng(0))) for v in (0.0, 0.1, 0.5, 1.0, 1.5, 2.0)],
        "rotation": [(f"{d:g} degrees", rotated(d)(scene, np.random.default_rng(0))) for d in (0, 30, 60, 90, 135, 180)],
        "stretch": [(f"{r:.2g}:1", stretched(r)(scene, np.random.default_rng(0))) for r in (*STRETCH[:3], *STRETCH[4:])],
        "contrast": [(f"contrast {c:g}", flat(c)(scene, np.random.default_rng(0))) for c in CONTRAST[:-1]],
        "small": [(f"{side} px", rendered(4, SignSize(side, side))[3]) for side in (8, 12, 16, 24, 32, 48)],
    }
    return {name: _uri(np.vstack([_row(model, row) for model in pair])) for name, row in rows.items()}


def _row(model: Model, row: Sequence[tuple[str, Example]]) -> NDArray[np.uint8]:
    pictures = []
    for words, example in row:
        said = model.explainer.infer_many([model.explainer.prepare(example.picture)], [example.label])[0]
        picture = kernels.overlay(example.picture, said.heatmap, said.fit, map_table("turbo", 0.6)[None], tint=False)
        height = round(picture.shape[0] * WIDTH / picture.shape[1])
        small = np.asarray(cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
        small[:14] = small[:14] // 3
        text = f"{words}: {float(said.probabilities[example.label]):.2f}"
        cv2.putText(small, text, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
        pictures.append(cv2.copyMakeBorder(small, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    return np.hstack(pictures)


def _uri(picture: NDArray[np.uint8]) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
