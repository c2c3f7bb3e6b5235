from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from dkcam.tools.export_command import main


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_plain_command_writes_beside_the_checkpoint(checkpoint_file: Path) -> None:
    result = run(checkpoint_file)
    assert result.exit_code == 0, result.output
    assert "Parity with autograd" in result.output and "heatmap" in result.output
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
        (["--layer", "layer7"], "--layer layer7: not in the model"),
        (["--classes", "9"], "the model has 5 classes"),
        (["--labels", "none.txt"], "--labels none.txt cannot be read"),
        (["-o", "model.pt"], "is the checkpoint itself"),
        (["-o", "no/such/folder.onnx"], "no/such is not a folder"),
        (["--calibration", "none"], "--calibration none does not exist"),
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


def test_usage_errors_are_exit_code_2(checkpoint_file: Path) -> None:
    assert run(checkpoint_file, "--size", "big").exit_code == 2
    assert run().exit_code == 2
