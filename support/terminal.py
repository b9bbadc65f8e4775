"""What all commands share: errors of a line or two, argument types, exit statuses, signals, safe output.

Exit statuses: 0 done; 1 something cannot be written; 2 the user's to fix; 128 + n stopped by signal n.
It knows nothing of networks, data or runs.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
# Seconds that all processes but the first leave it to say what is wrong: torchrun ends them as soon as it has left.
SAID_ONCE = 60


class UserError(Exception):
    """What the user can fix. The message says what was found, where, what was expected and what to do."""


class Stopped(BaseException):
    """A signal asked the command to stop; `args[0]` is its number. No Exception, so that nothing takes it for one."""


# --- what is printed --------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print to standard output at once. Raises Stopped where the reader is gone, as SIGPIPE would, else OSError."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)
        raise Stopped(signal.SIGPIPE) from None
    except OSError as error:
        _silence(sys.stdout)  # else Python tries again at its end, and leaves with a status of its own
        error.filename = "standard output"
        raise


def warn(message: str) -> None:
    """Print a warning to standard error."""
    print_error(f"warning: {message}")


def print_error(text: str) -> None:
    """Print to standard error. Where that is closed or full the words are lost, and nothing else."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Let what is still in the stream's buffer, and all that follows, go nowhere."""
    with suppress(OSError, ValueError):  # a stream without a file behind it has nothing to silence
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: object) -> str:
    """Text with escapes for what would move the cursor, and for bytes of a file's name that are no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def progress(items: Iterable[Item], show: bool = True) -> Iterator[Item]:
    """The items one by one, under a progress bar if a terminal shows it. Raises Stopped between two of them."""
    bar = tqdm(items, leave=False, disable=not (show and _on_terminal()))
    for item in bar:
        check_signals()
        yield item


def _on_terminal() -> bool:
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def escape_what_cannot_be_shown() -> None:
    """Have the standard streams write an escape where their encoding lacks a letter, in place of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # a host's own stream, or one that is broken or closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def open_closed_streams() -> None:
    """Give the standard streams that were closed (`2>&-`) a place to write to, before a file takes their number."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115


# --- signals ----------------------------------------------------------------------------------------------------------

_received: list[int] = []


@contextmanager
def signals_leave_word() -> Iterator[None]:
    """SIGINT and SIGTERM only leave word, for `check_signals`; a second one raises Stopped wherever the program is.

    A signal that is ignored stays ignored (`trap '' INT`). Outside the main thread, where Python allows no handlers,
    nothing changes.
    """
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        _received.append(number)
        if len(_received) > 1:
            raise Stopped(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def check_signals() -> None:
    """Raises Stopped if a signal has left word."""
    if _received:
        raise Stopped(_received[0])


# --- the command line -------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are UserErrors, and which takes no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{printable(message)}; see --help")


def number(kind: type, low: float, high: float = sys.float_info.max, above: bool = False) -> Callable[[str], Any]:
    """An argparse type: a finite number of that kind, at least `low` (or above it) and at most `high`."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high or (above and value == low):
            limit = "" if high == sys.float_info.max else f" and at most {high:g}"
            raise argparse.ArgumentTypeError(
                f"{text}: expected a number {'above' if above else 'of at least'} {low:g}{limit}"
            )
        return value

    parse.__name__ = kind.__name__
    return parse


def run_command(action: Callable[[], int | None]) -> None:
    """Run a whole command. Raises SystemExit with a status other than 0 for whatever ends it early."""
    open_closed_streams()
    escape_what_cannot_be_shown()
    try:
        status = action()
    except UserError as error:
        status = _fail(str(error), 2)
    except Stopped as stopped:
        status = 128 + stopped.args[0]
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        status = 128 + signal.SIGPIPE
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        status = _fail(f"{where}cannot be written: {error.strerror or error}", 1)
    if status:
        raise SystemExit(status)


def _fail(message: str, status: int) -> int:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(SAID_ONCE)
    print_error(f"error: {message}")
    return status
