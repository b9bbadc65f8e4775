"""Files that appear whole or not at all, and locks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import files
from support.terminal import UserError

ROOT = Path(files.__file__).resolve().parent.parent


def test_a_file_is_written_beside_flushed_and_renamed_into_its_place(tmp_path, monkeypatch):
    """In this order: a rename before the flush may leave an empty file behind a power cut."""
    path, steps = tmp_path / "a", []
    path.write_bytes(b"old")
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        assert path.read_bytes() == (b"old" if not steps else b"new")
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        assert Path(source).read_bytes() == b"new", "whole before it is renamed"
        assert Path(source).parent == tmp_path, "a rename across file systems is a copy"
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    before = path.stat().st_ino
    files.replace(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != before, "renamed, not copied into"
    assert steps == ["file", "rename", *["folder"] * (os.name == "posix")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError("x")])
def test_what_stood_there_stays_whatever_happens(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(file) -> None:
        file.write(b"half of it")
        raise error

    with pytest.raises(type(error)):
        files.replace(path, write)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_names_the_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch, call):
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as error:
        files.replace(tmp_path / "a", lambda file: file.write(b"new"))
    assert error.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_named_as_that(tmp_path):
    with pytest.raises(OSError, match="folder is gone") as error:
        files.replace(tmp_path / "gone" / "a", lambda file: file.write(b"new"))
    assert error.value.filename == str(tmp_path / "gone" / "a")


def test_only_what_was_left_beside_that_file_is_cleared(tmp_path):
    mine = tmp_path / f".a.pt.123{files.TEMPORARY}"
    others = [tmp_path / name for name in ("a.pt", f".a.pt2.1{files.TEMPORARY}", f"a.pt.1{files.TEMPORARY}", ".a.pt.1")]
    for path in (mine, *others):
        path.touch()
    files.clear_temporary(tmp_path / "a.pt")
    assert not mine.exists()
    assert all(path.exists() for path in others)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_made_with_all_above_it(tmp_path):
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_checking_a_folder_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.check_folder(Path("a/b/c"))
    files.check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("act", [files.make_folder, files.check_folder])
def test_what_cannot_be_a_folder(tmp_path, act):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "b", tmp_path / "link", tmp_path / "link" / "b"):
        with pytest.raises(UserError, match="choose another folder"):
            act(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


# --- locks ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_one_holds_a_lock_at_a_time_and_it_leaves_no_file(tmp_path):
    path = tmp_path / ".lock"
    with files.lock(path):
        with pytest.raises(files.RunningError), files.lock(path):
            pass
        assert path.exists(), "the one that was refused did not remove it"
    assert not path.exists()
    with files.lock(path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_a_process_that_is_killed_holds_no_lock(tmp_path):
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from support import files
with files.lock({str(tmp_path / "lock")!r}):
    print("held", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(files.RunningError), files.lock(tmp_path / "lock"):
            pass
        process.kill()
        process.wait()
    with files.lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "lock").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_a_lock_whose_file_its_holder_has_just_removed_is_taken_anew(tmp_path, monkeypatch):
    path, flock = tmp_path / ".lock", files.fcntl.flock
    calls = []

    def removed_meanwhile(file, operation) -> None:
        calls.append(None)
        if len(calls) == 1:
            path.unlink()
        flock(file, operation)

    monkeypatch.setattr(files.fcntl, "flock", removed_meanwhile)
    with files.lock(path):
        assert len(calls) == 2
        assert path.exists()


# --- reading ----------------------------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with files.open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(OSError, match="regular"):
            files.open_regular(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OSError, match="regular"):
            files.open_regular(tmp_path / "fifo")
