from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dkcam.errors import DataError, SinkError
from dkcam.files import Claim, Replacement, check_target, exists, make_folder, read_file, replacing, sweep, write_file


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


def test_what_a_killed_run_left_is_swept_up_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "a[1].zip"
    code = "import sys; from pathlib import Path; from dkcam.errors import SinkError; from dkcam.files import Replacement\n"
    code += "it = Replacement(Path(sys.argv[1]), SinkError, suffix='.mp4'); it.temporary.write_bytes(b'half'); print('held', flush=True)\n"
    code += "sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    foreign = tmp_path / ".a[1].zip.part"
    foreign.write_text("not ours")
    mine = Replacement(path, SinkError)
    assert len(list(tmp_path.iterdir())) == 3  # the other's is alive
    other.kill()
    other.communicate()
    sweep(tmp_path, "*.zip", pattern=True)
    assert sorted(tmp_path.iterdir()) == sorted([foreign, mine.temporary])
    mine.keep()
    Replacement(path, SinkError).discard()
    assert sorted(tmp_path.iterdir()) == [foreign, path]


def test_the_next_write_of_the_same_place_sweeps(tmp_path: Path) -> None:
    left, other = tmp_path / ".a.zip.0123abcd.part", tmp_path / ".b.zip.0123abcd.part"
    for file in (left, other):
        file.write_text("half")
    write_file(tmp_path / "a.zip", b"whole", DataError)
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "a.zip"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file of {os.fstat(handle).st_size}")
        fsync(handle)

    def replaced(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_file(tmp_path / "a", b"12345", DataError)
    assert done == ["file of 5", "rename", "folder"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_private_files_and_folders_are_the_users_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_folder(tmp_path / "a" / "b")
        write_file(tmp_path / "a" / "b" / "c", b"x", DataError, private=True)
        os.umask(umask & 0o022)
        write_file(tmp_path / "d", b"x", DataError)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b", "a/b/c", "d")]
    assert modes == [0o700, 0o700, 0o600, 0o666 & ~(umask & 0o022)]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        make_folder(tmp_path / "file")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # 1 TiB that takes no disk
    with pytest.raises(DataError, match=r"rules.yaml has 1048576 MiB, 1 MiB at most; expected rules"):
        read_file(path, "rules", DataError, most=1 << 20)
    path.write_bytes(b"x" * 11)
    with pytest.raises(DataError, match="has 11 bytes, 10 bytes at most"):
        read_file(path, "rules", DataError, most=10)
    assert read_file(path, "rules", DataError, most=11) == b"x" * 11


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_without_end_is_no_file() -> None:
    with pytest.raises(DataError, match="/dev/zero is a device; expected rules"):
        read_file(Path("/dev/zero"), "rules", DataError)


def test_a_pipe_is_read_up_to_its_limit(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b"x" * 100)
    os.close(theirs)
    with pytest.raises(DataError, match="at most"):
        read_file(Path(f"/dev/fd/{ours}"), "rules", DataError, most=10)
    os.close(ours)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("s")
    path.chmod(mode)
    with pytest.raises(SinkError, match=rf"can be read or changed by others \(mode {mode:03o}\); chmod 600 {path}"):
        read_file(path, "a token", SinkError, secret=True)
    path.chmod(0o600)
    assert read_file(path, "a token", SinkError, secret=True) == b"s"


def test_the_second_to_claim_can_wait(tmp_path: Path) -> None:
    path, order = tmp_path / "a", []
    first = Claim(path, SinkError)

    def second() -> None:
        claim = Claim(path, SinkError, wait=True)
        order.append("second")
        claim.release()

    thread = threading.Thread(target=second)
    thread.start()
    order.append("first")
    first.release()
    thread.join(20)
    assert order == ["first", "second"] and not list(tmp_path.iterdir())
