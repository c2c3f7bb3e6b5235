"""dk-check from the command line: figures, verdicts, reports, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from dkcam.interval import wilson
from dkcam.runtime.geometry import Fit
from dkcam.runtime.sources import open_source
from dkcam.tools.check_command import main
from dkcam.tools.checks.measure import CONTROLS, Record
from dkcam.tools.checks.samples import Sample
from tests.conftest import tiny_checkpoint
from tests.marks import slow

LENIENT = "rules:\n  - measure: confidence\n    min: 0\n"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def rules(tmp_path: Path, text: str = LENIENT) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def batched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "batched.onnx"
    path.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96), dynamic=("batch",), batch=(1, 8)), check=False).data)
    return path


@pytest.mark.parametrize("windows", [False, True])
def test_every_form_of_labels_gives_the_same_figures(
    dataset: Callable[[str], Path], model_file: Path, batched: Path, tmp_path: Path, windows: bool
) -> None:
    found = []
    for form in ("coco", "csv", "voc", "yolo", "kitti"):
        out = tmp_path / f"report-{form}"
        model = batched if form == "voc" else model_file  # in batches the figures are the same
        done = run(dataset(form), "--model", model, "--rules", rules(tmp_path), "--report", out, *(["--windows"] if windows else []))
        assert done.exit_code == 0, done.output
        document = json.loads((out / "results.json").read_text())
        assert document["samples"] >= 6 and document["format"] == form
        found.append(document["figures"])
    for other in found[1:]:
        assert json.dumps(other).count("mean") == json.dumps(found[0]).count("mean")
        for key, value in found[0]["all"].items():
            assert other["all"][key] == (pytest.approx(value, rel=1e-3) if isinstance(value, dict) else value)


def test_figures_are_recomputed_from_the_records(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    run(dataset("coco"), "--model", model_file, "--rules", rules(tmp_path), "--report", tmp_path / "r")
    document = json.loads((tmp_path / "r/results.json").read_text())
    for key in ("pointing", "energy_ratio", "confidence", "accuracy"):
        values = [record["values"][key] for record in document["records"] if key in record["values"]]
        assert document["figures"]["all"][key]["mean"] == pytest.approx(np.mean(values), rel=1e-4)
    values = [record["controls"]["centred Gaussian"]["pointing"] for record in document["records"] if record["controls"]]
    assert document["figures"]["controls"]["centred Gaussian"]["pointing"]["mean"] == pytest.approx(np.mean(values), rel=1e-4)


@pytest.mark.parametrize("columns", ["80", "20", None])
def test_the_table_can_be_read_at_80_columns_and_without_a_terminal(
    dataset: Callable[[str], Path], model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str | None
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    text = LENIENT + "  - measure: corrupted_confidence\n    corruption: brightness 0.5\n    min: 0\n"
    done = run(dataset("coco"), "--model", model_file, "--rules", rules(tmp_path, text), "--report", tmp_path / "r")
    assert done.exit_code == 0 and "…" not in done.stdout
    figures = json.loads((tmp_path / "r/results.json").read_text())["figures"]
    rows = [line for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0] in figures["all"]]
    assert [row.split()[0] for row in rows] == ["pointing", "energy", "energy_ratio", "iou", *(row.split()[0] for row in rows[4:])]
    assert set(figures["all"]) - {"records"} <= {row.split("  ")[0] for row in done.stdout.splitlines()}
    head = done.stdout.splitlines()[2]
    assert head.split("  ")[-4:] == ["chance", "Gaussian", *head.split("  ")[-2:]] and head.endswith("wrong class")
    for row in rows[:4]:
        expected = [figures["controls"][name][row.split()[0]]["mean"] for name in CONTROLS[:4]]
        assert [float(word) for word in row.split()[-4:]] == pytest.approx(expected, rel=0.01)
    assert max(map(len, [head, *rows])) <= 80
    assert float(rows[0].split()[1]) == pytest.approx(figures["all"]["pointing"]["mean"], rel=0.01)


def test_a_share_of_all_is_not_certain(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    args = ("--model", model_file, "--against", model_file, "--rules", rules(tmp_path, LENIENT), "--report", tmp_path / "r")
    assert run(dataset("coco"), *args).exit_code == 0
    found = json.loads((tmp_path / "r/results.json").read_text())["figures"]["all"]["agreement"]
    assert found["mean"] == found["high"] == 1
    assert 0.3 < found["low"] < wilson(1.0, found["count"])[0]  # several objects of one picture are worth less than as many pictures


def test_a_failed_rule_exits_3_with_reports(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    text = "rules:\n  - measure: energy_ratio\n    min: 100\n  - name: sure\n    measure: confidence\n    min: 1\n    severity: warn\n"
    text += "  - measure: jitter\n    max: 0.1\n  - measure: pointing\n    class: no entry\n    min: 0.1\n"
    done = run(
        dataset("coco"), "--model", model_file, "--rules", rules(tmp_path, text), "--report", tmp_path / "r", "--junit", tmp_path / "j.xml"
    )
    assert done.exit_code == 3
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "2")
    failure = suite[0].find("failure")
    assert failure is not None and "expected at least 100" in str(failure.get("message"))
    assert "no picture has a figure for it" in done.output and "--sequence says that they are" in done.output
    outcomes = [rule["outcome"] for rule in json.loads((tmp_path / "r/results.json").read_text())["rules"]]
    assert outcomes == ["fail", "warn", "skipped", "skipped"]
    page = (tmp_path / "r/report.html").read_text()
    assert "Failed" in page and page.count("<figure") >= 5 and "http" not in page.replace("http-equiv", "")


def test_sequences_have_a_jitter(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    text = "rules:\n  - measure: jitter\n    max: 0\n  - measure: centroid_jitter\n    max: 9\n"
    assert run(dataset("coco"), "--model", model_file, "--rules", rules(tmp_path, text), "--sequence").exit_code == 3


def test_insertion_and_deletion_are_measured_where_a_rule_asks(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    text = "rules:\n  - measure: deletion\n    max: 1\n  - measure: insertion\n    min: 0\n"
    done = run(dataset("coco"), "--model", model_file, "--rules", rules(tmp_path, text), "--report", tmp_path / "r", "--max-pictures", 2)
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "r/results.json").read_text())["figures"]["all"]
    assert 0 < figures["deletion"]["mean"] < 1 and 0 < figures["insertion"]["mean"] < 1


def test_the_same_model_against_itself_changes_nothing(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    done = run(dataset("coco"), "--model", model_file, "--against", model_file, "--rules", rules(tmp_path), "--report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "r/results.json").read_text())["figures"]["all"]
    assert figures["agreement"]["mean"] == 1 and figures["correlation"]["mean"] == pytest.approx(1)


@pytest.mark.parametrize("kind", ["video", "folder", "picture"])
def test_two_models_on_frames_without_labels(clip: Callable[..., Path], model_file: Path, tmp_path: Path, kind: str) -> None:
    path = clip(frames=20)
    if kind != "video":
        path = tmp_path / "0"  # no camera
        path.mkdir()
        for number, frame in enumerate(open_source(str(tmp_path / "clip.mp4"))):
            cv2.imwrite(str(path / f"{number}.png"), frame.image)
        (path / "6.png").write_bytes(b"no picture")
    if kind == "picture":
        path = path / "3.png"
    words = path, "--model", model_file, "--against"
    count = {"video": 20, "folder": 19, "picture": 1}[kind]
    done = run(*words, model_file, "--report", tmp_path / "r", "--junit", tmp_path / "r/j.xml")
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "r/results.json").read_text())
    assert document["samples"] == document["pictures"] == count and document["figures"]["all"]["agreement"]["mean"] == 1
    assert [rule["measure"] for rule in document["rules"]] == ["agreement", "correlation"]
    assert document["problem_counts"] == ({"unreadable picture": 1} if kind == "folder" else {})
    assert len({record["picture"] for record in document["records"]}) == count
    assert (tmp_path / "r/report.html").read_text().count("<figure") == count
    other = tmp_path / "other.onnx"
    other.write_bytes(export(tiny_checkpoint(seed=1), ExportOptions(size=(64, 96)), check=False).data)
    assert run(*words, other).exit_code == 3
    assert (
        run(*words, other, "--max-pictures", 1, "--rules", rules(tmp_path, "rules:\n  - measure: agreement\n    min: 0\n")).exit_code == 0
    )
    done = run(path, "--model", model_file)
    assert done.exit_code == 1 and "--against needs none" in done.stderr
    done = run(*words, other, "--windows")
    assert done.exit_code == 1 and "these frames have no labels" in done.stderr


def test_of_a_long_drive_only_the_worst_pictures_stay_in_memory(model_file: Path) -> None:
    from dkcam.tools.checks.report import badness, keep_images

    def records() -> Iterator[Record]:
        rng = np.random.default_rng(0)
        for number in range(200):
            sample = Sample(np.zeros((4, 4, 3), np.uint8), str(number), None, "", None, (), (4, 4))
            values = {"agreement": float(rng.integers(2)), "correlation": float(rng.integers(9)) / 9}
            yield Record(sample, "", "", 0.5, np.zeros((2, 2)), Fit(4, 4, 64, 96), 1.0, values)

    kept = list(keep_images(records(), 60))
    assert {id(r) for r in sorted(kept, key=badness, reverse=True)[:60]} == {id(r) for r in kept if r.sample.image.size}
    assert not [r for r in keep_images(records(), 0) if r.sample.image.size] and len(kept) == 200


def test_another_model_is_a_regression(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(export(tiny_checkpoint(seed=1), ExportOptions(size=(64, 96)), check=False).data)
    done = run(dataset("coco"), "--model", model_file, "--against", other, "--rules", rules(tmp_path))
    assert done.exit_code == 3 and "heatmaps stay: correlation is" in done.output


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("rules:\n  - measure: pointing\n    class: stopp\n    min: 0.9\n", 2, "class is 'stopp', which is no class of the model"),
        ("map:\n  tram: stop\n  bus: yeld\n" + LENIENT, 3, "map: bus is 'yeld', which is no class of the model; did you mean 'yield'?"),
        (LENIENT + "background: nothing\n", 4, "background is 'nothing', which is no class of the model (it has no sign, stop, yield"),
        ("map:\n  tram: stop\n" + LENIENT + "    class: Tram\n", 4, "class is 'Tram', which is no class of the model"),
    ],
)  # fmt: skip
def test_a_typo_in_a_class_is_an_error(
    dataset: Callable[[str], Path], model_file: Path, tmp_path: Path, text: str, line: int, words: str
) -> None:
    done = run(dataset("coco"), "--model", model_file, "--rules", rules(tmp_path, text))
    assert done.exit_code == 1 and f"rules.yaml line {line}: {words}" in done.stderr, done.output
    hint = "map: turns it into 'stop', name that" if "Tram" in text else "did you mean 'stop'?" if "stopp" in text else ""
    assert hint in done.stderr and "(it has no sign, stop, yield, warning, no entry)" in done.stderr and done.stderr.count("\n") == 1


def test_a_check_that_could_judge_nothing_exits_3(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    text = "rules:\n  - measure: pointing\n    class: no entry\n    min: 0.1\n  - measure: confidence\n    min: 0\n    severity: warn\n"
    words = dataset("coco"), "--model", model_file
    done = run(*words, "--rules", rules(tmp_path, text), "--junit", tmp_path / "j.xml")
    assert done.exit_code == 3 and "nothing was checked" in done.stderr, done.output
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    assert (suite.get("errors"), suite.get("failures"), suite.get("skipped")) == ("1", "0", "0")
    assert suite[0].find("error") is not None
    done = run(*words, "--rules", rules(tmp_path, text.replace("severity: warn", "severity: fail")))
    assert done.exit_code == 0, done.output  # one of the two could be judged
    done = run(*words, "--rules", rules(tmp_path, text.replace("min: 0.1", "min: 0.1\n    severity: warn")))
    assert done.exit_code == 0, done.output  # only warnings were asked for


def test_junit_may_lie_in_the_report_folder_that_the_run_makes(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    done = run(dataset("coco"), "--model", model_file, "--rules", rules(tmp_path), "--report", out, "--junit", out / "junit.xml")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == ["junit.xml", "report.html", "results.json"]


def test_a_map_and_a_background(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    text = "map:\n  stop: no entry\nbackground: no sign\n" + LENIENT
    path = dataset("coco")
    path.write_text(path.read_text().replace('"yield"', '"tram"'))
    done = run(path, "--model", model_file, "--rules", rules(tmp_path, text), "--report", tmp_path / "r")
    document = json.loads((tmp_path / "r/results.json").read_text())
    kinds = {(record["kind"], record["label"]) for record in document["records"]}
    assert kinds <= {("stop", "no entry"), ("warning", "warning"), ("background", "no sign")} and ("background", "no sign") in kinds
    assert "classes the model does not have, left out: tram" in done.output


def test_broken_labels_are_told_and_do_not_stop_the_check(dataset: Callable[[str], Path], model_file: Path, tmp_path: Path) -> None:
    path = dataset("csv")
    path.write_text(path.read_text() + "p0.jpg,500,1,600,9,stop\np0.jpg,-20,1,40,60,stop\np0.jpg,1,nan,9,9,stop\ngone.jpg,1,1,9,9,stop\n")
    (path.parent / "p1.jpg").write_bytes(b"no picture")
    done = run(path, "--model", model_file, "--rules", rules(tmp_path), "--report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "r/results.json").read_text())
    counts = {"missing picture": 1, "not a number": 1, "outside": 1, "partly outside": 1, "unreadable picture": 1}
    assert document["problem_counts"] == counts and "labels with problems: outside 1" in done.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rules", "gone.yaml"], "gone.yaml does not exist"),
        (["--model", "gone.onnx"], "gone.onnx does not exist"),
        (["--report", "{data}"], "is a file; expected a folder"),
        (["--junit", "{data}"], "is the data set"),
        (["--device", "tpu"], "device 'tpu' is not available"),
    ],
)
def test_mistakes_are_one_line(dataset: Callable[[str], Path], model_file: Path, words: list[str], expected: str) -> None:
    path = dataset("coco")
    done = run(path, *([] if "--model" in words else ["--model", model_file]), *(word.format(data=path) for word in words))
    assert done.exit_code == 1 and expected in done.output and "Traceback" not in done.output


def test_a_data_set_of_other_things_says_so(dataset: Callable[[str], Path], tmp_path: Path, model_file: Path) -> None:
    path = dataset("coco")
    document = json.loads(path.read_text())
    for category in document["categories"]:
        category["name"] = f"animal {category['id']}"
    path.write_text(json.dumps({**document, "images": document["images"][:5]}))
    done = run(path, "--model", model_file)
    assert done.exit_code == 1 and "can be judged: its classes (animal" in done.output and "map:" in done.output


@slow
def test_real_road_frames_pass_with_the_shipped_rules(data: Path, tmp_path: Path) -> None:
    examples = Path(__file__).resolve().parents[3] / "examples"
    done = run(data / "gtsdb", "--windows", "--rules", examples / "signs.yaml", "--report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "r/results.json").read_text())["figures"]
    for key in ("pointing", "energy_ratio"):
        assert figures["all"][key]["low"] > max(control[key]["high"] for control in figures["controls"].values())
    done = run(data / "tusimple", "--rules", examples / "highway.yaml")
    assert done.exit_code == 0, done.output


def test_random_weights_fail_on_real_road_frames(data: Path, tmp_path: Path) -> None:
    from dkcam.export.checkpoint import Checkpoint, load_checkpoint
    from dkcam.runtime.explainer import DEMO_MODEL
    from dkcam.tools.train.evaluate import random_model

    demo = load_checkpoint(DEMO_MODEL.with_suffix(".pt"))
    control = random_model(demo.module())
    model = tmp_path / "random.onnx"
    model.write_bytes(export(Checkpoint(control.config, control.state_dict(), demo.labels, demo.size), ExportOptions(), check=False).data)
    examples = Path(__file__).resolve().parents[3] / "examples"
    done = run(
        data / "gtsdb",
        "--windows",
        "--rules",
        examples / "signs.yaml",
        "--model",
        model,
        "--junit",
        tmp_path / "j.xml",
        "--max-pictures",
        60,
    )
    assert done.exit_code == 3
    assert int(ElementTree.parse(tmp_path / "j.xml").getroot()[0].get("failures", 0)) == 3
