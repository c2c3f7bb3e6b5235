from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from dkcam.errors import DataError, SinkError
from dkcam.files import Claim, Replacement, check_target, exists, read_file, replacing, write_file


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
    """Nor does it take a name that stands for something whole."""
    for text, whole in (("half", False), ("all", True), ("half again", False)):
        output = Replacement(tmp_path / "a.mp4", SinkError)
        output.temporary.write_text(text)
        assert (output.keep() if whole else output.set_aside()) == tmp_path / ("a.mp4" if whole else "a.partial.mp4")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.mp4": "all", "a.partial.mp4": "half again"}


def test_a_place_is_claimed_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    hold = "import sys; from pathlib import Path; from dkcam.errors import SinkError; from dkcam.files import Claim\n"
    hold += "claim = Claim(Path(sys.argv[1]), SinkError); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    with pytest.raises(SinkError, match=r"a.mp4 is being written by another run"):
        Claim(path, SinkError)
    other.kill()  # the lock goes with it, and its file stays
    other.communicate()
    assert (tmp_path / ".a.mp4.lock").exists()
    claim = Claim(path, SinkError)
    with pytest.raises(SinkError):
        Claim(path, SinkError)
    claim.release()
    assert not list(tmp_path.iterdir())
    Claim(path, SinkError).release()


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
