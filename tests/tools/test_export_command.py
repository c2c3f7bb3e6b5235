from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from dkcam.engines import open_engine
from dkcam.export.checkpoint import load_checkpoint, save_checkpoint
from dkcam.export.precision.judges import JUDGES
from dkcam.tools.export_command import main
from tests.marks import slow, some

LIMITS: dict[str, dict[str, float]] = JUDGES["classify"].limits  # type: ignore[assignment]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_plain_command_writes_beside_the_checkpoint(checkpoint_file: Path) -> None:
    result = run(checkpoint_file)
    assert result.exit_code == 0, result.output
    assert all(words in result.output for words in ("Parity with autograd", "heatmap", "limit", "float32"))
    model = onnx.load(checkpoint_file.with_suffix(".onnx"))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    spec = json.loads(metadata["dkcam.spec"])
    assert spec["verified"] and spec["height"] == spec["width"] == 64 and len(spec["checkpoint_sha256"]) == 64
    assert metadata["names"].startswith("{0: 'no sign', 1: 'stop'")


def test_options_reach_the_graph(checkpoint_file: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    words = [
        "--labels",
        labels,
        "--size",
        "64x96",
        "--layer",
        "layer3",
        "--method",
        "hirescam",
        "--samples",
        2,
        "--dynamic",
        "batch",
        "--classes",
        2,
    ]
    result = run(checkpoint_file, "-o", tmp_path / "o.onnx", *words, "--report", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verified"] and all(row["passed"] for row in report["parity"]) and report["spec"]["labels"] == list("abcde")
    for row in report["parity"]:
        assert 0 <= row["error"] <= row["limit"] and row["limit"] >= report["tolerance"] == 1e-4 and row["maps"] >= 1
        assert row["limit"] == pytest.approx(min(max(1e-4, report["float32_factor"] * row["float32"]), report["ceiling"]))
    assert report["kinks"] <= report["most_kinks"] * report["kink_units"] and report["classes_judged"] == 5
    assert (report["spec"]["layer"], report["spec"]["samples"], report["spec"]["explain"]) == ("layer3", 2, 2)


def test_no_verify_is_recorded(checkpoint_file: Path, tmp_path: Path) -> None:
    result = run(checkpoint_file, "--no-verify", "--report", tmp_path / "r.json")
    assert result.exit_code == 0 and "Not verified" in result.output
    assert json.loads((tmp_path / "r.json").read_text())["verified"] is False


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--size", "100x100"], "multiples of 32, the backbone's stride; try --size 96x96"),
        (["--method", "scorecam"], "--method scorecam: expected one of gradcam"),
        (["--outputs", "logits,heat"], "--outputs heat: expected a list of logits"),
        (["--dynamic", "colour"], "--dynamic colour"),
        (["--layer", "layer7"], "--layer layer7: no value, node or module"),
        (["--classes", "9"], "the model has 5 classes"),
        (["--labels", "none.txt"], "--labels none.txt cannot be read"),
        (["-o", "model.pt"], "is the checkpoint itself"),
        (["-o", "no/such/folder.onnx"], "no/such is not a folder"),
        (["--calibration", "none"], "--calibration none does not exist"),
        (["--samples", "99999999"], "--samples 99999999: expected a whole number from 0 to 4096"),
        (["--size", "64000x64000"], "expected sides of up to"),
        (["--target", "gpu"], "--target gpu: expected cpu or gpu, together with --precision int8"),
        (["--batch", "1:4"], "add --dynamic batch"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(
    checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(checkpoint_file, *words)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 1 and len(errors) == 1 and expected in errors[0], result.output
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    "words", some([["--precision", "fp16"], ["--precision", "int8"], ["--precision", "int8", "--target", "gpu"]], [["--precision", "int8"]])
)
def test_low_precision_is_judged_and_recorded(checkpoint_file: Path, tmp_path: Path, words: list[str]) -> None:
    target = tmp_path / "low.onnx"
    assert run(checkpoint_file, "--size", "64x96", "-o", target, "--report", tmp_path / "r.json", *words).exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    spec = open_engine(target).spec
    assert (
        spec.provenance.precision == words[1]
        and spec.provenance.target == {"fp16": "any", "int8": words[-1] if len(words) > 2 else "cpu"}[words[1]]
    )
    assert spec.provenance.verified and spec.provenance.fidelity == report["fidelity"] and spec.provenance.fidelity["pearson"] >= 0.97
    assert list(spec.provenance.kept) == [layer["name"] for layer in report["kept"]]
    full = tmp_path / "full.onnx"
    assert run(checkpoint_file, "--size", "64x96", "-o", full, "--no-verify").exit_code == 0
    assert target.stat().st_size < {"fp16": 0.6, "int8": 0.5}[words[1]] * full.stat().st_size


def test_a_low_precision_file_below_the_gate_is_not_written(checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "fp16", LIMITS["fp16"] | {"pearson": 1.1})
    result = run(checkpoint_file, "-o", tmp_path / "low.onnx", "--precision", "fp16")
    assert result.exit_code == 1 and "heatmaps correlate by" in result.stderr and "--no-verify" in result.stderr
    assert not (tmp_path / "low.onnx").exists()
    assert run(checkpoint_file, "-o", tmp_path / "low.onnx", "--precision", "fp16", "--no-verify").exit_code == 0
    assert open_engine(tmp_path / "low.onnx").spec.provenance.verified is False


@slow
def test_an_int8_file_without_int8_is_not_written(checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "int8", LIMITS["int8"] | {"change": 1e-9})  # what only float32 itself holds
    result = run(checkpoint_file, "--size", "64x96", "-o", tmp_path / "low.onnx", "--precision", "int8")
    assert result.exit_code == 1 and "every operator would have to stay in float32" in result.stderr
    assert not (tmp_path / "low.onnx").exists()


def test_too_few_pictures_to_calibrate_on(checkpoint_file: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    result = run(checkpoint_file, "--precision", "int8", "--calibration", tmp_path / "a.png")
    assert result.exit_code == 1 and "gives 1 pictures, too few to judge --precision int8 by" in result.stderr
    assert "takes 331 different ones, 189 of them to judge on" in result.stderr
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--windows"], "--windows and --grid say how to look at --calibration"),
        (["--calibration", "x", "--windows", "--grid", "2x2"], "contradict each other"),
    ],
)
def test_ways_of_looking_need_something_to_look_at(checkpoint_file: Path, words: list[str], said: str) -> None:
    result = run(checkpoint_file, *words)
    assert result.exit_code == 1 and said in result.stderr


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("names.txt", b"stop\nyield\n", "names.txt is a text file, expected a checkpoint"),
        ("model.pt", b"\xff\xd8\xff\xe0" + bytes(99), "model.pt is a JPEG picture, expected a checkpoint"),
        ("model.pt", bytes(99), "model.pt is a file of an unknown kind, expected a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    result = run(tmp_path / name)
    assert result.exit_code == 1 and words in result.stderr and "pickle" not in result.stderr and result.stderr.count("\n") == 1


def test_usage_errors_are_exit_code_2(checkpoint_file: Path) -> None:
    assert run(checkpoint_file, "--size", "big").exit_code == 2
    assert run(checkpoint_file, "--outputs", ",").exit_code == 2
    assert run().exit_code == 2


def test_a_model_without_any_heat_is_refused(checkpoint_file: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_file)
    save_checkpoint(checkpoint_file, replace(checkpoint, weights={k: torch.zeros_like(v) for k, v in checkpoint.weights.items()}))
    result = run(checkpoint_file)
    assert result.exit_code == 1 and "the heatmap is zero everywhere" in result.stderr


def test_the_report_of_a_graph_without_heatmap_is_plain_json(checkpoint_file: Path, tmp_path: Path) -> None:
    assert run(checkpoint_file, "--outputs", "logits", "--report", tmp_path / "r.json").exit_code == 0
    text = (tmp_path / "r.json").read_text()
    assert "Infinity" not in text and json.loads(text)["input_dependence"] is None
