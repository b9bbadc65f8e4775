"""What all commands share: errors of a line or two, argument types, exit statuses.

Exit statuses: 0 done; 1 something cannot be written; 2 the user's to fix; 128 + n stopped by signal n.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn


class UserError(Exception):
    """What the user can fix. The message says what was found, where, what was expected and what to do."""


def warn(message: str, kind: str = "warning") -> None:
    """Print a line to standard error."""
    print(f"{kind}: {message}", file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """Text with escapes for what would move the cursor, and for bytes of a file's name that are no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are UserErrors, and which takes no abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{printable(message)}; see --help")


def number(kind: type, low: float, high: float = sys.float_info.max) -> Callable[[Any], Any]:
    """An argparse type, which takes numbers, too: a finite number of that kind, at least `low` and at most `high`."""

    def parse(text: Any) -> Any:
        value = kind(text)
        if not low <= value <= high or not (isinstance(text, str) or value == text):
            raise argparse.ArgumentTypeError(f"{text}: expected a number of at least {low:,} and at most {high:,}")
        return value

    parse.__name__ = kind.__name__
    return parse


def run_command(action: Callable[[], int | None]) -> None:
    """Run a whole command. Raises SystemExit with a status other than 0 for whatever ends it early."""
    _prepare_streams()
    before = signal.signal(signal.SIGTERM, _interrupt)  # which stops it as Ctrl-C does
    try:
        status = action()
    except UserError as error:
        if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["LOCAL_RANK"] == "0":  # the others find the same
            warn(str(error), "error")
        status = 2
    except KeyboardInterrupt as stop:
        status = 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:  # the reader is gone, as in `| head`
        _silence_stdout()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if not error.filename:  # all that writes files names them
            _silence_stdout()
        where = printable(error.filename or "standard output")
        warn(f"{where}: cannot be written: {error.strerror or error}", "error")
        status = 1
    finally:
        signal.signal(signal.SIGTERM, before)
    if status:
        raise SystemExit(status)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def _prepare_streams() -> None:
    """Have each line appear at once, with escapes for what its encoding lacks; fill in for streams that are closed."""
    for name in ("stdin", "stdout", "stderr"):  # in this order each gets its own number, which no file gets then
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a notebook's own stream
            stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]


def _silence_stdout() -> None:
    """Let what is still in its buffer go nowhere: Python would write it out at its end."""
    with suppress(OSError):  # a stream without a file behind it has nothing to silence
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
