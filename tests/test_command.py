"""What all commands share: exit statuses, errors of a line, streams that break, SIGTERM."""

import errno
import io
import os
import signal
import sys
from unittest import mock

import pytest

from support import terminal
from support.terminal import Parser, UserError


def status_of(action) -> int:
    """The status with which a command of that action ends."""
    try:
        terminal.run_command(action)
    except SystemExit as leave:
        return leave.code
    return 0


def raises(error: BaseException):
    return mock.Mock(side_effect=error)


@pytest.mark.parametrize(
    ("action", "status", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (raises(UserError("a: found b, expected c")), 2, "error: a: found b, expected c\n"),
        (raises(KeyboardInterrupt()), 130, ""),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, ""),
        (raises(OSError(errno.ENOSPC, "No space left on device", "a\nb")), 1, "error: a\\nb: cannot be written: No "),
        (raises(OSError("odd")), 1, "error: standard output: cannot be written: odd"),
    ],
    ids=["done", "own", "user", "keyboard", "term", "disk", "odd"],
)
def test_each_end_has_its_status_and_its_words(capsys, action, status, said):
    before = signal.getsignal(signal.SIGTERM)
    assert status_of(action) == status
    assert signal.getsignal(signal.SIGTERM) == before, "given back to the host"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert bool(printed.err) == bool(said)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BrokenPipeError(), 128 + signal.SIGPIPE, ""),
        (OSError(errno.ENOSPC, "No space left"), 1, "error: standard output: cannot be written: No space left\n"),
    ],
)
def test_a_reader_who_is_gone_ends_it_silently_and_a_full_disk_is_an_error(monkeypatch, capsys, error, status, said):
    stream = io.StringIO()  # which cannot be reconfigured and has no number, as a notebook's own
    monkeypatch.setattr(stream, "write", raises(error), raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    assert status_of(lambda: print("x")) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp949"])
def test_each_line_appears_at_once_and_what_an_encoding_cannot_show_is_escaped(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert status_of(lambda: print("숫자 é \N{GRINNING FACE} \udcff")) == 0
    shown = stream.buffer.getvalue().decode(encoding)  # not flushed by anybody here
    assert "\\U0001f600 \\udcff" in shown
    assert ("숫자" in shown) == (encoding == "cp949")
    assert ("é" in shown) == (encoding == "cp1252")


def test_what_would_move_the_cursor_is_escaped():
    assert terminal.printable("a\x1b[2Jb\r\n\tc\udcff") == "a\\x1b[2Jb\\r\\n\\tc\\udcff"
    assert terminal.printable("손글씨 é") == "손글씨 é"


def test_a_parser_takes_no_abbreviations_and_its_errors_are_the_users():
    parser = Parser()
    parser.add_argument("--epochs", type=terminal.number(int, 1, 10))
    for argv in (["--epo", "3"], ["--epochs", "11"], ["--epochs", "0"], ["--epochs", "x"], ["--other\x1b"]):
        with pytest.raises(UserError) as error:
            parser.parse_args(argv)
        assert "\x1b" not in str(error.value)
    assert parser.parse_args(["--epochs", "10"]).epochs == 10
