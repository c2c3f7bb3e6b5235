"""The five forms of labels: COCO JSON, Pascal VOC XML, YOLO text, KITTI text, and our CSV.

coco   FILE.json, its pictures beside it                  voc    folder of .xml, pictures there or in ../JPEGImages
yolo   folder with images/ and labels/ (or both in one),  kitti  folder with image_2/ and label_2/ (or both in one)
       class names in data.yaml or classes.txt            csv    FILE.csv: file,x1,y1,x2,y2 and class_name or class_id
"""

from __future__ import annotations

import csv
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dkcam.bounded_json import parse_json
from dkcam.errors import DataError
from dkcam.files import exists, read_file
from dkcam.image_file import read_image
from dkcam.rendered import Box
from dkcam.runtime.sources import PICTURES
from dkcam.tools.checks.dataset import Dataset, Picture, checked_box
from dkcam.tools.checks.yaml_file import names_of, read_yaml, value_of

KITTI_FIELDS = 15
KITTI_IGNORED = "DontCare"
MOST_LABELS = 1 << 30  # bytes of one file with all labels; COCO's own largest has 0.45 GB
MOST_MEMORY = 4 << 30  # bytes that they may take while they are read
MOST_TEXT = 16 << 20  # bytes of labels of one picture, or of class names
LONGEST_LINE = 1 << 16


def read_dataset(path: Path, form: str | None = None) -> Dataset:
    """Read a data set; ``form`` names the labels' form where it should not be told from the files.

    Errors: DataError when nothing can be read at all. Single broken labels are noted as problems.
    """
    if not exists(path):
        raise DataError(f"{path} does not exist; expected a labels file (.json, .csv) or a folder with labels and pictures")
    found, chosen = (path, form) if form else _recognise(path)
    if chosen not in FORMATS:
        raise DataError(f"--format {chosen}: expected one of {', '.join(FORMATS)}")
    dataset = FORMATS[chosen](found)
    if not dataset.pictures:
        raise DataError(f"{path} holds no labelled picture ({chosen}); expected labels as in the README's table")
    dataset.pictures.sort(key=lambda picture: picture.name)
    return dataset


def has_labels(path: Path) -> bool:
    """Whether something is there that looks like labels."""
    try:
        _recognise(path)
    except DataError:
        return False
    return True


def _recognise(path: Path) -> tuple[Path, str]:
    if path.is_file():
        forms = {".json": "coco", ".csv": "csv"}
        if path.suffix.lower() in forms:
            return path, forms[path.suffix.lower()]
        raise DataError(f"{path} is no labels file; expected .json (COCO), .csv, or a folder (VOC, YOLO, KITTI); --against needs none")
    for pattern, form in (
        ("coco.json", "coco"),
        ("annotations/*.json", "coco"),
        ("*.json", "coco"),
        ("boxes.csv", "csv"),
        ("*.csv", "csv"),
    ):
        for found in sorted(path.glob(pattern)):
            return found, form
    if any((path / name).is_dir() for name in ("Annotations", "annotations")) or any(path.glob("*.xml")):
        return path, "voc"
    if (path / "label_2").is_dir():
        return path, "kitti"
    texts = sorted((path / "labels").rglob("*.txt")) if (path / "labels").is_dir() else sorted(path.glob("*.txt"))
    for text in texts:
        if text.name in ("classes.txt", "obj.names"):
            continue
        with text.open(errors="replace") as lines:
            words = lines.readline(LONGEST_LINE).split()
        if words:
            return path, "yolo" if len(words) in (5, 6) else "kitti"
    if texts:
        return path, "yolo"
    raise DataError(
        f"{path} holds no labels; expected coco.json, boxes.csv, VOC .xml, or YOLO or KITTI .txt files (docs/checks.md); "
        "--against needs none"
    )


def _coco(path: Path) -> Dataset:
    dataset = Dataset(path, "coco")
    try:
        document = parse_json(read_file(path, "COCO labels (.json)", DataError, most=MOST_LABELS), MOST_MEMORY, _coco_part)
        categories = {_coco_id(entry["id"]): _coco_text(entry["name"]) for entry in document["categories"]}
        images = {_coco_id(entry["id"]): _coco_text(entry["file_name"]) for entry in document["images"]}
        annotations = document["annotations"]
        if not isinstance(annotations, list):
            raise ValueError("annotations is no list")
    except (ValueError, KeyError, TypeError) as error:
        words = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is not COCO JSON ({words}); expected images, annotations and categories") from error
    boxes: dict[Any, list[Box]] = {}
    for number, entry in enumerate(annotations):
        where = f"{path.name} annotation {number}"
        try:
            where = f"{path.name} annotation {_coco_id(entry.get('id', number))}"
            image, category, place = _coco_id(entry["image_id"]), _coco_id(entry["category_id"]), entry["bbox"]
            left, top, wide, high = place
        except (KeyError, TypeError, ValueError, AttributeError):
            dataset.note("damaged label", where, f"expected image_id, category_id and bbox of four numbers, came {reprlib.repr(entry)}")
            continue
        if entry.get("iscrowd"):
            continue
        if image not in images:
            dataset.note("missing picture", where, f"image_id {image} is not among the images")
            continue
        if category not in categories:
            dataset.note("unknown class", where, f"category_id {category} is not among the categories")
            continue
        try:
            corners: tuple[object, ...] = (float(left), float(top), float(left) + float(wide), float(top) + float(high))
        except (TypeError, ValueError, OverflowError):
            corners = (left, top, wide, high)
        box = checked_box(dataset, where, categories[category], corners)
        if box is not None:
            boxes.setdefault(image, []).append(box)
    for key, name in images.items():
        _add(dataset, name, (path.parent / name, path.parent / "images" / name, path.parent.parent / name), boxes.get(key, []))
    return dataset


_COCO = frozenset(("images", "annotations", "categories", "id", "name", "file_name", "image_id", "category_id", "bbox", "iscrowd"))


def _coco_part(table: dict[str, Any]) -> dict[str, Any]:
    """Without the outlines, which are most of a file and are not used."""
    return {name: table[name] for name in _COCO & table.keys()}


def _coco_id(value: Any) -> int | str:
    """ValueError for what is no id, or a number that no other program takes for one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"an id is {reprlib.repr(value)}, expected a whole number or a name")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ValueError("an id is a number of more than 64 bits")
    return value


def _coco_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"a name is {reprlib.repr(value)}, expected text")
    return str(value)


def _csv(path: Path) -> Dataset:
    dataset = Dataset(path, "csv")
    text = read_file(path, "labels (.csv)", DataError, most=MOST_LABELS).decode("utf-8-sig", errors="replace")
    rows = csv.DictReader(text.splitlines())
    try:
        return _csv_rows(path, dataset, rows)
    except csv.Error as error:
        raise DataError(f"{path} line {rows.line_num + 1}: {error}; expected file,x1,y1,x2,y2,class_name") from error


def _csv_rows(path: Path, dataset: Dataset, rows: csv.DictReader[str]) -> Dataset:
    boxes: dict[str, list[Box]] = {}
    missing = {"file", "x1", "y1", "x2", "y2"} - set(rows.fieldnames or ())
    if missing or not {"class_name", "class_id"} & set(rows.fieldnames or ()):
        raise DataError(f"{path} lacks columns ({', '.join(sorted(missing)) or 'class_name'}); expected file,x1,y1,x2,y2,class_name")
    for row in rows:
        where = f"{path.name} line {rows.line_num}"
        name, label = row["file"] or "", (row.get("class_name") or row.get("class_id") or "").strip()
        found = boxes.setdefault(name, [])
        if not any(row[side] for side in ("x1", "y1", "x2", "y2")) and not label:
            continue  # a picture without boxes
        if not label:
            dataset.note("unknown class", where, "the class is empty")
            continue
        box = checked_box(dataset, where, label, [row[side] for side in ("x1", "y1", "x2", "y2")])
        if box is not None:
            found.append(box)
    # pictures that no line names hold no object
    named = {(path.parent / name).resolve() for name in boxes}
    for folder in sorted({(path.parent / name).parent for name in boxes}):
        if exists(folder):
            for picture in folder.iterdir():
                if picture.suffix.lower() in PICTURES and picture.resolve() not in named:
                    boxes[str(picture.relative_to(path.parent))] = []
    for name, found in boxes.items():
        _add(dataset, name, (path.parent / name,), found)
    return dataset


def _voc(path: Path) -> Dataset:
    dataset = Dataset(path, "voc")
    labels = next((path / name for name in ("Annotations", "annotations") if (path / name).is_dir()), path)
    for file in sorted(labels.glob("*.xml")):
        try:
            data = read_file(file, "VOC labels (.xml)", DataError, most=MOST_TEXT)
            if b"<!ENTITY" in data:  # a kilobyte of them can stand for gigabytes; newer parsers refuse that, older ones do not
                raise ElementTree.ParseError("it defines entities")
            root = ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            dataset.note("damaged label", file.name, f"is not XML ({error})")
            continue
        name = (root.findtext("filename") or f"{file.stem}.jpg").strip()
        boxes = []
        for number, entry in enumerate(root.iter("object")):
            where, label = f"{file.name} object {number}", (entry.findtext("name") or "").strip()
            if not label:
                dataset.note("unknown class", where, "the name is empty")
                continue
            box = checked_box(dataset, where, label, [entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")])
            if box is not None:
                boxes.append(box)
        places = (labels / name, labels.parent / "JPEGImages" / name, labels.parent / name, labels.parent / "images" / name)
        _add(dataset, name, places, boxes)
    return dataset


def _yolo(path: Path) -> Dataset:
    dataset = Dataset(path, "yolo")
    classes = _yolo_classes(path)
    for picture, text in _pairs(path, "images", "labels"):
        size = _size(picture)
        boxes = []
        for where, words in _lines(text):
            if len(words) not in (5, 6):
                dataset.note("damaged label", where, f"expected class, x, y, width, height; came {' '.join(words)[:60]}")
                continue
            label = classes.get(int(words[0])) if words[0].isascii() and words[0].isdigit() and len(words[0]) < 10 else None
            if label is None:
                dataset.note("unknown class", where, f"class {words[0][:20]} has no name in data.yaml or classes.txt")
                continue
            if size is None:
                continue
            try:
                x, y, wide, high = (float(word) for word in words[1:5])
                place: list[object] = [
                    (x - wide / 2) * size[1],
                    (y - high / 2) * size[0],
                    (x + wide / 2) * size[1],
                    (y + high / 2) * size[0],
                ]
            except ValueError:
                place = list(words[1:5])
            box = checked_box(dataset, where, label, place)
            if box is not None:
                boxes.append(box)
        if size is None:
            dataset.note("unreadable picture" if exists(picture) else "missing picture", picture.name, f"{picture} cannot be read")
        else:
            dataset.pictures.append(Picture(picture, _name(picture, path), tuple(boxes)))
    return dataset


def _yolo_classes(path: Path) -> Mapping[int, str]:
    for name in ("data.yaml", "dataset.yaml", "data.yml"):
        if exists(path / name):
            names = value_of(read_yaml(path / name, "YOLO's data.yaml"), "names")
            if names is None:
                raise DataError(f"{path / name} names no classes; expected a list or table under names:")
            try:
                return names_of(names)
            except ValueError as error:
                raise DataError(f"{path / name} {error}; expected a list or table of names under names:") from error
    for name in ("classes.txt", "labels/classes.txt", "obj.names"):
        if exists(path / name):
            lines = read_file(path / name, "class names", DataError, most=MOST_TEXT).decode("utf-8", errors="replace").splitlines()
            return dict(enumerate(line.strip() for line in lines if line.strip()))
    raise DataError(f"{path} names no classes; expected data.yaml with names:, or classes.txt with one name a line")


def _kitti(path: Path) -> Dataset:
    dataset = Dataset(path, "kitti")
    for picture, text in _pairs(path, "image_2", "label_2"):
        boxes = []
        for where, words in _lines(text):
            if len(words) not in (KITTI_FIELDS, KITTI_FIELDS + 1):  # results have a score at the end
                dataset.note("damaged label", where, f"expected {KITTI_FIELDS} fields, came {len(words)}")
                continue
            if words[0] == KITTI_IGNORED:
                continue
            box = checked_box(dataset, where, words[0], words[4:8])
            if box is not None:
                boxes.append(box)
        _add(dataset, _name(picture, path), (picture,), boxes)
    return dataset


def _pairs(path: Path, images: str, labels: str) -> Iterator[tuple[Path, Path | None]]:
    """(picture, its text file or None); texts without a picture come with the picture's likeliest name."""
    pictures_in, labels_in = (path / name if (path / name).is_dir() else path for name in (images, labels))
    texts = {text.relative_to(labels_in).with_suffix(""): text for text in labels_in.rglob("*.txt")}
    for name in [name for name in texts if name.name == "classes"]:
        del texts[name]
    for picture in sorted(pictures_in.rglob("*")):
        if picture.suffix.lower() in PICTURES:
            yield picture, texts.pop(picture.relative_to(pictures_in).with_suffix(""), None)
    for name, text in sorted(texts.items()):
        yield (pictures_in / name).with_suffix(".jpg"), text


def _lines(text: Path | None) -> Iterator[tuple[str, list[str]]]:
    if text is None:
        return
    for number, line in enumerate(_text_of(text).splitlines(), 1):
        if line.strip():
            yield f"{text.name} line {number}", line.split()


def _text_of(file: Path) -> str:
    """An empty file holds no object."""
    return read_file(file, "labels (.txt)", DataError, most=MOST_TEXT).decode(errors="replace") if file.stat().st_size else ""


def _name(picture: Path, folder: Path) -> str:
    """As the other forms call it: below the pictures' folder."""
    inner = folder / "images" if (folder / "images").is_dir() else folder / "image_2" if (folder / "image_2").is_dir() else folder
    return str(picture.relative_to(inner)) if picture.is_relative_to(inner) else picture.name


def _size(picture: Path) -> tuple[int, int] | None:
    """Height and width in pixels."""

    if not exists(picture):
        return None
    image = read_image(picture)
    return None if image is None else (image.shape[0], image.shape[1])


def _add(dataset: Dataset, name: str, places: tuple[Path, ...], boxes: list[Box]) -> None:
    found = next((place for place in places if exists(place) and place.is_file()), None)
    if found is None:
        dataset.note("missing picture", name, f"{places[0]} does not exist")
    else:
        dataset.pictures.append(Picture(found, name, tuple(boxes)))


FORMATS: Mapping[str, Callable[[Path], Dataset]] = {"coco": _coco, "voc": _voc, "yolo": _yolo, "kitti": _kitti, "csv": _csv}
