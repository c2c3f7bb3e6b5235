"""A detector's whole way: the file that its framework wrote, dk-export, dk-run, dk-check."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import cv2
import torch
from click.testing import CliRunner

from dkcam.rendered import Drive
from dkcam.tools.check_command import main as dk_check
from dkcam.tools.export_command import main as dk_export
from dkcam.tools.run_command import main as dk_run
from tests.export.explain.detect.networks import Yolov8, sound


def test_from_a_frameworks_file_to_judged_boxes(tmp_path: Path) -> None:
    """Three levels, random weights; a picture of 128x160, whose convolutions torch lays out channels last."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own about its older exporter, which is the one that people use
        names = {"input_names": ["images"], "output_names": ["output0"]}
        picture = torch.rand(1, 3, 128, 160)
        torch.onnx.export(sound(Yolov8()).eval(), (picture,), str(tmp_path / "yolo.onnx"), opset_version=18, dynamo=False, **names)
    model = tmp_path / "yolo.dk.onnx"
    words = [tmp_path / "yolo.onnx", "-o", model, "--mean", "0", "--std", "1"]
    done = CliRunner().invoke(dk_export, [str(word) for word in words])
    assert done.exit_code == 0 and "detect, 5 classes, 128x160" in done.output, done.output

    (tmp_path / "in").mkdir()
    frame, _ = next(iter(Drive(1, 360, 640)))
    cv2.imwrite(str(tmp_path / "in/a.png"), frame)
    lines = tmp_path / "o.jsonl"
    done = CliRunner().invoke(dk_run, [str(w) for w in ("--model", model, "--source", tmp_path / "in", "--headless", "--sink", lines)])
    assert done.exit_code == 0 and "detections: class" in done.output, done.output
    found = json.loads(lines.read_text())["detections"]
    assert 1 < len(found) <= 10 and all(
        0 <= low < high <= 1 for each in found for low, high in zip(each["box"][:2], each["box"][2:], strict=True)
    )
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)

    best = found[0]
    corners = [value * side for value, side in zip(best["box"], (640, 360) * 2, strict=True)]
    (tmp_path / "in/labels.csv").write_text(f"file,x1,y1,x2,y2,class_name\na.png,{','.join(map(str, corners))},{best['label']}\n")
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - measure: overlap\n    min: 0.99\n")
    done = CliRunner().invoke(dk_check, [str(w) for w in (tmp_path / "in/labels.csv", "--model", model, "--rules", rules)])
    assert done.exit_code == 0 and "1 match a label" in done.output and "0 labelled boxes were not found" in done.output, done.output
