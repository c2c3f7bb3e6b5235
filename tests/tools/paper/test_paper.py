"""The paper's experiments: pictures and boxes, the slow methods, the report's arithmetic, and a whole small run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dkcam.engines import open_bytes
from dkcam.export.checkpoint import Checkpoint, save_checkpoint
from dkcam.export.exporter import export
from dkcam.export.model import ModelConfig, ResNet
from dkcam.export.options import ExportOptions
from dkcam.interval import mean_of_table
from dkcam.rendered import Box
from dkcam.runtime.explainer import Explainer
from dkcam.tools.paper import experiments
from dkcam.tools.paper.cams import score_cam, smooth_grad_cam
from dkcam.tools.paper.pictures import rendered, rotated, stretched
from dkcam.tools.paper.report import PAPER, claims, markdown, table_of
from dkcam.tools.paper_command import main
from dkcam.tools.scenes.example import SIGN_LABELS, Example
from tests.marks import slow

RNG = np.random.default_rng(0)


def network(variant: str, seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    model = ResNet(ModelConfig(len(SIGN_LABELS), variant, 0.125, None)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def checkpoint(variant: str, seed: int = 0) -> Checkpoint:
    model = network(variant, seed)
    return Checkpoint(model.config, model.state_dict(), SIGN_LABELS, size=(64, 96))


def marked(x: float = 90, y: float = 60) -> Example:
    """A red spot with its box."""
    picture = np.full((192, 320, 3), 90, np.uint8)
    cv2.circle(picture, (int(x), int(y)), 12, (0, 0, 255), -1)
    return Example(picture, 1, Box("a", x - 12, y - 12, x + 12, y + 12))


@pytest.mark.parametrize("change", [rotated(30), rotated(90), rotated(180), stretched(2), stretched(1 / 3)])
def test_boxes_move_with_the_picture(change: experiments.Change) -> None:
    moved = change(marked(), RNG)
    red = np.argwhere(moved.picture[..., 2].astype(int) - moved.picture[..., 0] > 80)
    box = moved.box
    assert box is not None
    found = (red[:, 1].min(), red[:, 0].min(), red[:, 1].max() + 1, red[:, 0].max() + 1)
    assert found == pytest.approx((box.left, box.top, box.right, box.bottom), abs=2.5)


def test_rendered_examples_are_the_same_every_time() -> None:
    first, second = rendered(3), rendered(3)
    assert all(a.box is not None and np.array_equal(a.picture, b.picture) for a, b in zip(first, second, strict=True))


def explainer(variant: str = "plain", **options: object) -> Explainer:
    return Explainer(open_bytes(export(checkpoint(variant), ExportOptions(**options), check=False).data, "m", "cpu"))  # type: ignore[arg-type]


FEATURES = ("probabilities", "explained", "heatmap", "gradient", "features")


def test_score_cam_is_the_papers_sum() -> None:
    single, features, label = explainer(), explainer(outputs=FEATURES), 3
    picture = cv2.resize(rendered(1)[0].picture, (96, 64))
    maps = features.engine.run(features.prepare(picture).image, np.array([label]))["features"][0]
    scores = []
    for one in maps:
        mask = cv2.resize((one - one.min()) / max(one.max() - one.min(), 1e-12), (96, 64), interpolation=cv2.INTER_LINEAR)
        shown = np.rint(picture * mask[..., None]).astype(np.uint8)
        scores.append(float(single(shown).probabilities[label]) if one.max() > one.min() else 0.0)
    weights = torch.softmax(torch.tensor(scores, dtype=torch.float64), 0).numpy()
    expected = np.maximum((weights[:, None, None] * maps).sum(0), 0)
    np.testing.assert_allclose(score_cam(single, features, picture, label), expected, rtol=1e-4, atol=1e-7)


def test_smooth_grad_cam_without_noise_is_grad_cam_plus_plus() -> None:
    features, plus = explainer(outputs=FEATURES), explainer(method="gradcam++")
    picture = cv2.resize(rendered(1)[0].picture, (96, 64))
    given = smooth_grad_cam(features, picture, 2, RNG, samples=3, spread=0)
    wanted = plus.infer_many([plus.prepare(picture)], [2])[0].heatmap[0]
    np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-5 * float(wanted.max()))


def row(at: object, model: str, value: float, **more: object) -> dict[str, object]:
    spread = np.linspace(-0.01, 0.01, 20)
    keys = ("confidence", "pointing", "accuracy", "energy_ratio", "iou", "spread", "correlation")
    return {"at": at, "model": model, **more, "values": {key: [round(value + s, 4) for s in spread] for key in keys}}


def results(dropkey: float, plain: float) -> dict[str, object]:
    values = {"plain": plain, "dropout": (plain + dropkey) / 2, "dropkey": dropkey}

    def rows(places: list[float], **more: object) -> list[dict[str, object]]:
        return [row(at, f"{variant}-{seed}", value, **more) for at in places for variant, value in values.items() for seed in range(2)]

    titles = {"Grad-CAM": plain, "dropout Grad-CAM": plain, "dropkey Grad-CAM": dropkey}
    return {
        "about": {"seeds": 2, "training_pictures": 9, "pictures": "9 pictures", "note": ""},
        "experiments": {
            "noise": rows([0.5, 0.6], back="clip"),
            "shapes": rows([0.0, 90.0], of="rotation") + rows([1, 3], of="stretch"),
            "contrast": rows([0.1, 1.0]),
            "small": rows([8, 12]),
            "methods": [row(title, "plain-0", value, back=back) for back in ("none", "clip") for title, value in titles.items()],
            "masks": [row("off", "dropkey-0", dropkey), row(0.3, "dropkey-0", dropkey)],
        },
    }


@pytest.mark.parametrize(("dropkey", "plain", "verdict"), [(0.9, 0.4, "agrees"), (0.4, 0.9, "does not agree"), (0.5, 0.5, "undecided")])
def test_claims_can_hold_and_fail(dropkey: float, plain: float, verdict: str) -> None:
    found = claims(results(dropkey, plain))
    assert {claim["verdict"] for claim in found} == {verdict} and len(found) == 7
    assert "paper 0.807" in found[0]["figures"] and PAPER[0.5]["plain"] == 0.807


def test_figures_come_from_the_rows() -> None:
    document = results(0.9, 0.4)
    rows = document["experiments"]["noise"]  # type: ignore[index]
    value = table_of(rows, "dropkey", "confidence", at=0.5, back="clip")
    assert value.value == pytest.approx(0.9, abs=1e-4) and value.count == 40 and value.low < 0.9 < value.high
    assert "| 0.5 | 0.400" in markdown(document)


def test_intervals_cover_models_and_pictures() -> None:
    table = np.repeat(np.array([[0.2], [0.8]]), 50, axis=1)  # models differ, pictures do not
    found = mean_of_table(table)
    assert (found.low, found.value, found.high) == pytest.approx((0.2, 0.5, 0.8))
    assert mean_of_table(table.T).high == pytest.approx(0.8)


@slow
def test_a_small_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for variant in ("plain", "dropout", "dropkey"):
        save_checkpoint(models / f"{variant}-0.pt", checkpoint(variant))
    plan = experiments.Plan(pictures=2, fewer=2, slow=1, channels=4, backs=("clip",), thin=9)
    monkeypatch.setattr(experiments, "QUICK", plan)
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["-o", str(out), "--quick", "--models", str(models)])
    assert done.exit_code == 0, done.output
    pages = {name: (out / name).read_bytes() for name in ("report.html", "report.md")}
    assert pages["report.html"].count(b"<svg") >= 5 and b"data:image/jpeg" in pages["report.html"]
    assert all(
        b"http://"
        not in page.replace(b"http://www.w3.org", b"").replace(b"http://purl.org", b"").replace(b"http://creativecommons.org", b"")
        for page in pages.values()
    )
    document = json.loads((out / "results.json").read_text())
    assert set(document["experiments"]) == set(experiments.EXPERIMENTS)
    again = CliRunner().invoke(main, ["-o", str(out), "--report-only"])
    assert again.exit_code == 0, again.output
    assert {name: (out / name).read_bytes() for name in pages} == pages  # from the JSON alone, the same bytes


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for words, expected in ((["-o", str(file)], "is a file"), (["-o", str(tmp_path), "--report-only"], "results.json does not exist")):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1 and expected in done.output
    (tmp_path / "results.json").write_text('{"about": 3}')
    done = CliRunner().invoke(main, ["-o", str(tmp_path), "--report-only"])
    assert done.exit_code == 1 and "is damaged" in done.output
