"""Files that appear whole or not at all."""

import errno
import os
import zipfile

import pytest

from support import files
from support.terminal import UserError


def test_a_file_is_written_beside_flushed_and_renamed_into_its_place(tmp_path, monkeypatch):
    """In this order: a rename before the flush may leave an empty file behind a power cut."""
    path, steps = tmp_path / "a", []
    path.write_bytes(b"old")
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        assert path.read_bytes() == (b"old" if not steps else b"new")
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def noted_replace(source, target) -> None:
        assert source.read_bytes() == b"new", "whole before it is renamed"
        assert source.parent == tmp_path, "a rename across file systems is a copy"
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    files.replace(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert steps == ["file", "rename", "folder"]
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
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as error:
        files.replace(tmp_path / "a", lambda file: file.write(b"new"))
    assert error.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_named_as_that_and_one_that_cannot_be_flushed_costs_nothing(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="folder is gone") as error:
        files.replace(tmp_path / "gone" / "a", lambda file: file.write(b"new"))
    assert error.value.filename == str(tmp_path / "gone" / "a")

    def of_files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", of_files_only)
    files.replace(tmp_path / "a", lambda file: file.write(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"


def test_only_what_was_left_beside_that_file_is_cleared(tmp_path):
    mine = tmp_path / f".a.pt.123{files.TEMPORARY}"
    others = [tmp_path / name for name in ("a.pt", f".a.pt2.1{files.TEMPORARY}", f"a.pt.1{files.TEMPORARY}", ".a.pt.1")]
    for path in (mine, *others):
        path.touch()
    files.clear_temporary(tmp_path / "a.pt")
    assert not mine.exists()
    assert all(path.exists() for path in others)


def test_a_folder_is_made_with_all_above_it_or_is_an_error(tmp_path):
    for _ in range(2):
        files.make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for path in ("file", "file/b", "link", "a" * 300):
        with pytest.raises(UserError, match="choose another folder"):
            files.make_folder(tmp_path / path)


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with files.open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(OSError, match="regular"):
            files.open_regular(path)


def test_what_would_unpack_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_UNPACKED", 1000)
    for size in (1000, 1001):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", bytes(size))
        with open(tmp_path / "a.zip", "rb") as file:
            if size == 1000:
                files.check_unpacked(file)
                assert file.read(2) == b"PK", "from its start, for the next reader"
            else:
                with pytest.raises(ValueError, match="more than 1,000 bytes"):
                    files.check_unpacked(file)
