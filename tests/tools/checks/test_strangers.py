"""Rules and labels that someone made to hurt: one line each, before memory is asked for."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dkcam.bounded_json import parse_json
from dkcam.errors import DataError
from dkcam.tools.checks import yaml_file
from dkcam.tools.checks.formats import read_dataset
from dkcam.tools.checks.rules import read_rules
from tests.memory import limited, one_line

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
RULE = "rules:\n  - measure: accuracy\n    min: 0.5\n"
READ = """
from pathlib import Path
from dkcam.tools.checks.{module} import {name}
from dkcam.tools.cli import user_errors
user_errors({name})(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "line 1: &a is an anchor or alias, which are not taken here"),
        (f"map:\n  x: &l stop\n  y: *l\n{RULE}", "line 2: &l is an anchor"),
        (f"map:\n  x: *l\n{RULE}", "line 2: *l is an anchor or alias"),
        (f"? &k x\n: 1\n{RULE}", "line 1: &k is an anchor"),
        ("[" * 100_000, "line 1: nested more than 20 deep"),
        ("- " * 30 + "x", "line 1: nested more than 20 deep"),
        ("x: [" + "1," * 60_000 + "]", "line 1: more than 50000 values"),
        ("rules:\n  - measure: accuracy\n    min: [[1, 2], [3]]\n", "line 3: min is 'a sequence', expected a number"),
        ("rules:\n  - ? [measure, x]\n    : accuracy\n", "line 2: a name in a rule is a list or a table"),
        (f"rules:\n  - measure: accuracy\n    min: {'9' * 5000}\n", "line 3: min is '9999"),
        (f"rules:\n  - measure: accuracy\n    min: 0.5\n    frames: 1{'0' * 5000}\n", "line 4: frames is"),
    ],
)
def test_rules_that_someone_made_to_hurt(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    done = limited(READ.format(module="rules", name="read_rules"), path, mib=700)
    assert one_line(done, f"{path} {words}"), done.stderr[-2000:]


def test_a_large_file_of_rules_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"rules.yaml has 1048576 MiB, 4 MiB at most; expected rules"):
        read_rules(path)


def test_what_the_largest_yaml_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many values as are taken: a twelfth of the most, measured, stays below a twelfth of 150 MB."""
    monkeypatch.setattr(yaml_file, "MOST_NODES", 4003)
    path = tmp_path / "data.yaml"
    path.write_text("names:\n" + "".join(f"  {k}: n{k}\n" for k in range(2000)))
    tracemalloc.start()
    node = yaml_file.read_yaml(path, "names")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(yaml_file.names_of(yaml_file.value_of(node, "names"))) == 2000 and most < 12e6


@pytest.fixture
def yolo(dataset: Callable[[str], Path]) -> Path:
    return dataset("yolo")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB.replace("i:", "names:"), "line 1: &a is an anchor or alias"),
        ("names: [[a, b], c]", "line 1: a name is a list, expected text"),
        ("names:\n  0: {a: b}\n", "line 2: a name is a table, expected text"),
        ("names:\n  [1, 2]: a\n", "line 2: a class's number is '', expected 0, 1, 2"),
        (f"names:\n  {'9' * 50}: a\n", "line 2: a class's number is '99999999999999999999', expected"),
        ("names: 3", "line 1: names is no list and no table"),
        ("[names]", "names no classes"),
        ("", "is empty"),
    ],
)
def test_a_data_yaml_that_someone_made_to_hurt(yolo: Path, text: str, words: str) -> None:
    (yolo / "data.yaml").write_text(text)
    done = limited(READ.format(module="formats", name="read_dataset"), yolo, mib=700)
    assert one_line(done, "data.yaml", words), done.stderr[-2000:]


def test_names_are_the_text_that_stands_there(yolo: Path) -> None:
    """ "on" and "2" are no truth and no number, but what someone called a class."""
    (yolo / "data.yaml").write_text("train: images\nnames: [on, 2, 1:30]\n")
    labels = {box.label for picture in read_dataset(yolo).pictures for box in picture.boxes}
    assert labels <= {"on", "2", "1:30"} and labels


def test_a_class_number_of_thousands_of_digits_is_unknown(yolo: Path) -> None:
    text = next(path for path in sorted((yolo / "labels").glob("*.txt")))
    text.write_text(f"{'1' * 5000} 0.5 0.5 0.1 0.1\n")
    assert read_dataset(yolo).counts()["unknown class"] == 1


COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "categories": [{"id": 1, "name": "stop"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}


def coco(path: Path, document: Any) -> Path:
    shutil.copy(next(path.parent.glob("*.jpg")), path.parent / "a.jpg")
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def changed(part: str, **values: Any) -> dict[str, Any]:
    return {**COCO, part: [{**COCO[part][0], **values}]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (changed("images", id=[1]), "an id is [1], expected a whole number or a name"),
        (changed("categories", id={"a": 1}), "an id is {}"),
        (changed("categories", id=10**400), "an id is a number of more than 64 bits"),
        (changed("images", id=None), "an id is None"),
        (changed("categories", name=["a"] * 1000), "a name is ['a', 'a'"),
        (changed("images", file_name={}), "a name is {}"),
        ({**COCO, "annotations": {"a": 1}}, "annotations is no list"),
        ({**COCO, "images": 3}, "is not COCO JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "is not COCO JSON"),
    ],
)
def test_coco_files_that_are_none(dataset: Callable[[str], Path], document: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_dataset(coco(dataset("coco"), document))
    assert words in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"bbox": [10**400, 1, 1, 1]}, "not a number"),
        ({"bbox": [0, 0, 10**400, 1]}, "not a number"),
        ({"bbox": ["x" * 10**6, 1, 1, 1]}, "not a number"),
        ({"bbox": [[1], 2, 3, 4]}, "not a number"),
        ({"bbox": [1e308, 1e308, 1e308, 1e308]}, "not a number"),
        ({"bbox": [1] * 10**5}, "damaged label"),
        ({"image_id": [1]}, "damaged label"),
        ({"category_id": {"a": 1}}, "damaged label"),
        ({"image_id": 10**400}, "damaged label"),
        ({"id": [[1]]}, "damaged label"),
    ],
)
def test_single_annotations_that_are_none_are_noted(dataset: Callable[[str], Path], values: dict[str, Any], kind: str) -> None:
    found = read_dataset(coco(dataset("coco"), changed("annotations", **values)))
    assert found.counts() == {kind: 1} and len(found.problems[0].text) < 400


def test_ids_that_a_table_program_wrote_as_1_0_hold(dataset: Callable[[str], Path]) -> None:
    found = read_dataset(coco(dataset("coco"), changed("annotations", image_id=1.0, category_id=1.0)))
    assert len(found.pictures[0].boxes) == 1


def test_json_that_grows_in_memory_is_refused_before_it_does(tmp_path: Path) -> None:
    """60 MB of empty lists are 1.4 GB; 20 MB with one wide character are 80 MB of text."""
    path = tmp_path / "labels.json"
    path.write_text('{"images": [' + "[]," * 20_000_000 + "[]]}")
    code = "from pathlib import Path\nfrom dkcam.bounded_json import parse_json\n"
    code += "try: parse_json(Path(sys.argv[1]).read_bytes(), 512 << 20)\nexcept ValueError as error: print(error)"
    done = limited(code, path, mib=300)
    assert "MiB in memory, 512 MiB at most" in done.stdout, done.stderr[-500:]


@pytest.mark.parametrize(
    "text", ["[]," * 50_000, '{"a":1},' * 30_000, "1.5," * 100_000, '"ab",' * 100_000, "[[[[1]]]]," * 20_000, '"' + "ü€😀" * 50_000 + '",']
)
def test_the_estimate_is_above_what_json_takes(text: str) -> None:
    data = f"[{text}0]".encode()
    for most in (1 << 10, 1 << 40):
        tracemalloc.start()
        try:
            value = parse_json(data, most)
        except ValueError as error:
            estimate = int(str(error).split("take ")[1].split()[0]) + 1
        else:
            del value
            taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert taken < estimate << 20


def test_a_csv_field_without_end_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("file,x1,y1,x2,y2,class_name\na.jpg,1,2,3,4,stop\na.jpg," + "1" * 200_000 + ",2,3,4,stop\n")
    with pytest.raises(DataError, match=r"boxes.csv line 3: field larger than field limit"):
        read_dataset(path)


def test_entities_in_xml_are_not_expanded(dataset: Callable[[str], Path]) -> None:
    folder = dataset("voc")
    file = next(iter(sorted(folder.rglob("*.xml"))))
    entities = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    file.write_text(f'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{entities}]><annotation><filename>&j;</filename></annotation>')
    assert [problem.kind for problem in read_dataset(folder).problems] == ["damaged label"]
