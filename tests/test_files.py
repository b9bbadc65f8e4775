"""Files that appear whole or not at all."""

import errno
import os

import pytest

from support import files


def test_a_file_is_written_beside_flushed_and_renamed_into_its_place(tmp_path, monkeypatch):
    """In this order: a rename before the flush may leave an empty file behind a power cut."""
    path, steps = tmp_path / "a", []
    path.write_bytes(b"old")
    replace = os.replace

    def noted_replace(source, target) -> None:
        assert source.read_bytes() == b"new", "whole before it is renamed"
        assert source.parent == tmp_path, "a rename across file systems is a copy"
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append("flush"))
    monkeypatch.setattr(os, "replace", noted_replace)
    files.replace(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert steps == ["flush", "rename"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_stood_there_stays_whatever_happens_and_an_error_names_the_file(tmp_path, monkeypatch, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", full)
    for write in (full, lambda file: file.write(b"new")):
        with pytest.raises(type(error)):
            files.replace(path, write)
        assert path.read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert getattr(error, "filename", str(path)) == str(path)
