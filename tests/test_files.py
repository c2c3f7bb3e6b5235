from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dkcam.errors import DataError, SinkError
from dkcam.files import Replacement, check_target, exists, read_file, replacing, write_file


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_file(path, b"old", DataError)
    with pytest.raises(ValueError), replacing(path, DataError) as temporary:
        temporary.write_bytes(b"half")
        raise ValueError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.txt cannot be written: No space left"), replacing(tmp_path / "a.txt", DataError):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_what_is_set_aside_replaces_nothing(tmp_path: Path) -> None:
    for expected in ("a.mp4", "a.partial.mp4"):
        output = Replacement(tmp_path / "a.mp4", SinkError)
        output.temporary.write_text(expected)
        assert output.set_aside() == tmp_path / expected
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.mp4": "a.mp4", "a.partial.mp4": "a.partial.mp4"}


def test_names_too_long_for_the_disk_are_missing_files(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 300)
    assert not exists(path)
    with pytest.raises(DataError, match="does not exist; expected a picture"):
        read_file(path, "a picture", DataError)
    with pytest.raises(DataError, match="cannot be written: File name too long"):
        write_file(path, b"", DataError)


def test_an_input_is_no_target_under_any_name(tmp_path: Path) -> None:
    source, link = tmp_path / "a", tmp_path / "b"
    source.write_text("x")
    link.symlink_to(source)
    check_target(tmp_path / "c", {source: "the source"}, DataError)
    with pytest.raises(DataError, match="b is the source itself"):
        check_target(link, {source: "the source"}, DataError)
