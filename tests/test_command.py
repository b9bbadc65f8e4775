"""What all commands share: exit statuses, errors of a line, streams that break, signals."""

import errno
import io
import os
import signal
import sys
import threading

import pytest

from support import terminal
from support.terminal import Parser, Stopped, UserError


def status_of(action) -> int:
    """The status with which a command of that action ends."""
    try:
        terminal.run_command(action)
    except SystemExit as leave:
        return leave.code
    return 0


def raises(error: BaseException):
    def action() -> None:
        raise error

    return action


# --- exit statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "status", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (raises(UserError("a: found b, expected c")), 2, "error: a: found b, expected c\n"),
        (raises(Stopped(signal.SIGTERM)), 143, ""),
        (raises(Stopped(signal.SIGINT)), 130, ""),
        (raises(KeyboardInterrupt()), 130, ""),
        (raises(BrokenPipeError()), 141, ""),
        (raises(OSError(errno.ENOSPC, "No space left on device", "a\nb")), 1, "error: a\\nb: cannot be written: No "),
        (raises(OSError("odd")), 1, "error: cannot be written: odd"),
    ],
    ids=["done", "own", "user", "term", "int", "keyboard", "pipe", "disk", "odd"],
)
def test_each_end_has_its_status_and_its_words(capsys, action, status, said):
    assert status_of(action) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert bool(printed.err) == bool(said)


def test_an_error_of_the_program_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        terminal.run_command(lambda: 1 // 0)


def test_a_signal_is_not_taken_for_an_error_by_code_that_catches_every_exception():
    def action() -> None:
        try:
            raise Stopped(signal.SIGINT)
        except Exception:
            pass

    assert status_of(action) == 130


def test_of_processes_that_torchrun_started_the_first_speaks_and_the_others_wait_to_be_ended(monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(terminal.time, "sleep", waited.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert status_of(raises(UserError("once"))) == 2
    assert waited == [terminal.SAID_ONCE]


def test_a_stream_that_cannot_be_changed_is_left_as_it_is(monkeypatch):
    """As one whose file was replaced by a pipe, of which Python asks the position."""
    monkeypatch.setattr(sys, "stdout", Unchangeable())
    assert status_of(lambda: terminal.say("x")) == 0


class Unchangeable(io.StringIO):
    def reconfigure(self, **_) -> None:
        raise OSError(errno.ESPIPE, "Illegal seek")


# --- streams ----------------------------------------------------------------------------------------------------------


class Broken(io.StringIO):
    """A stream that nothing can be written to."""

    def __init__(self, error: OSError | ValueError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("closed"), BrokenPipeError()])
def test_words_for_a_broken_stderr_are_lost_and_nothing_else(monkeypatch, error):
    monkeypatch.setattr(sys, "stderr", Broken(error))
    terminal.warn("nobody hears it")
    assert status_of(raises(UserError("nobody hears it"))) == 2


def test_a_reader_who_is_gone_stops_the_command_and_a_full_disk_is_an_error_that_names_the_stream(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError()))
    with pytest.raises(Stopped):
        terminal.say("x")
    assert status_of(lambda: terminal.say("x")) == 128 + signal.SIGPIPE
    monkeypatch.setattr(sys, "stdout", Broken(OSError(errno.ENOSPC, "No space left on device")))
    assert status_of(lambda: terminal.say("x")) == 1
    assert capsys.readouterr().err.startswith("error: standard output: cannot be written: No space")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_was_closed_gets_a_place_to_write_to(monkeypatch, name):
    """Python sets it to None where it was closed at the start."""
    monkeypatch.setattr(sys, name, None)
    assert status_of(lambda: print("x", file=getattr(sys, name))) == 0
    assert getattr(sys, name) is not None
    getattr(sys, name).close()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp949"])
def test_what_an_encoding_cannot_show_is_escaped(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    text = "숫자 é \N{GRINNING FACE} \udcff"
    assert status_of(lambda: terminal.say(text)) == 0
    shown = stream.buffer.getvalue().decode(encoding)
    assert "\\U0001f600" in shown
    assert "\\udcff" in shown
    assert ("숫자" in shown) == (encoding == "cp949")
    assert ("é" in shown) == (encoding == "cp1252")


def test_what_would_move_the_cursor_is_escaped():
    assert terminal.printable("a\x1b[2Jb\r\n\tc\udcff") == "a\\x1b[2Jb\\r\\n\\tc\\udcff"
    assert terminal.printable("손글씨 é") == "손글씨 é"


# --- signals ----------------------------------------------------------------------------------------------------------


def test_the_first_signal_leaves_word_and_the_second_stops_at_once():
    with terminal.signals_leave_word():
        terminal.check_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped) as stopped:
            terminal.check_signals()
        assert stopped.value.args == (signal.SIGTERM,)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
    terminal.check_signals()


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with terminal.signals_leave_word():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with terminal.signals_leave_word():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            terminal.check_signals()
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_a_thread_signals_are_the_hosts():
    before, ends = signal.getsignal(signal.SIGINT), []

    def action() -> None:
        with terminal.signals_leave_word():
            ends.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=action)
    thread.start()
    thread.join()
    assert ends == [before]


def test_progress_stops_between_two_items():
    with terminal.signals_leave_word():
        items = terminal.progress(range(5))
        assert next(items) == 0
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            next(items)


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_parser_takes_no_abbreviations_and_its_errors_are_the_users():
    parser = Parser()
    parser.add_argument("--epochs", type=terminal.number(int, 1, 10))
    for argv in (["--epo", "3"], ["--epochs", "11"], ["--epochs", "0"], ["--epochs", "x"], ["--other\x1b"]):
        with pytest.raises(UserError) as error:
            parser.parse_args(argv)
        assert "\x1b" not in str(error.value)
    assert parser.parse_args(["--epochs", "10"]).epochs == 10


def test_a_number_lies_within_its_limits():
    above = terminal.number(float, 0, above=True)
    assert above("0.5") == 0.5
    for text in ("0", "-1", "nan", "inf", "1e999"):
        with pytest.raises((ValueError, terminal.argparse.ArgumentTypeError)):
            above(text)
    assert terminal.number(float, 0)("0") == 0
