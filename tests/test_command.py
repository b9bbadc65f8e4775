"""What all commands share: exit statuses, errors of a line, streams that break, SIGTERM."""

import errno
import io
import os
import signal
import sys
from unittest import mock

import pytest
from runs import ended

from support import terminal
from support.terminal import UserError


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
        (raises(BrokenPipeError()), 141, ""),
    ],
    ids=["done", "own", "user", "keyboard", "term", "disk", "odd", "reader"],
)
def test_each_end_has_its_status_and_its_words(action, status, said):
    """Where the streams have no number and cannot be reconfigured, as a notebook's own."""
    before = signal.getsignal(signal.SIGTERM)
    found = ended(terminal.run_command, action)
    assert signal.getsignal(signal.SIGTERM) == before, "given back to the host"
    assert (found.status, found.out, bool(found.err)) == (status, "", bool(said))
    assert found.err.startswith(said)


def test_each_line_appears_at_once_and_what_an_encoding_cannot_show_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp949")  # of Korean Windows
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.run_command(lambda: print("숫자 é \N{GRINNING FACE} \udcff"))
    shown = stream.buffer.getvalue().decode("cp949")  # not flushed by anybody here
    assert shown.splitlines() == ["숫자 \\xe9 \\U0001f600 \\udcff"]


def test_what_would_move_the_cursor_is_escaped():
    assert terminal.printable("a\x1b[2Jb\r\n\tc\udcff") == "a\\x1b[2Jb\\r\\n\\tc\\udcff"
    assert terminal.printable("손글씨 é") == "손글씨 é"
    with pytest.raises(UserError, match=r"--other\\x1b"):
        terminal.Parser().parse_args(["--other\x1b"])


def test_a_number_may_be_one_of_its_bounds():
    parse = terminal.number(int, 1, 10)
    assert (parse("1"), parse("10")) == (1, 10)
