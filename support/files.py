"""Files that appear whole or not at all, and locks.

Everything that the project writes goes through `replace`: it is written beside its final name, flushed to disk, then
renamed, so a reader sees the old file or the new one, whatever happens in between.
"""

import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from support.terminal import UserError, printable, warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".partial"  # the ending of a file that is still being written
_warned: set[str] = set()


class RunningError(Exception):
    """Another process holds the lock."""


def replace(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write(file)` produce the bytes of `path`, which appears, or is replaced, only when all of them are on disk.

    Raises OSError (disk full, no permission, no such folder); what stood at `path` before is then untouched.
    """
    path, content = Path(path), io.BytesIO()
    write(content)  # in memory first: on a full disk torch.save raises something that is no OSError
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        error.filename = str(path)  # a full disk names no file, other errors name the temporary one
        if not path.parent.is_dir():
            error.strerror = "its folder is gone"
        raise
    finally:
        temporary.unlink(missing_ok=True)


def clear_temporary(path: str | Path) -> None:
    """Remove what a killed process left beside `path`. Only for the one process that may write `path`."""
    path = Path(path)
    for left_over in path.parent.iterdir():
        if left_over.name.startswith(f".{path.name}.") and left_over.name.endswith(TEMPORARY):
            left_over.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, and its parents, that can be written to. Raises UserError."""
    try:
        for folder in reversed((path, *path.parents)):  # `parents=True` recurses, too deep for a thousand levels
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be written: {error.strerror}; choose another folder") from None


def check_folder(path: Path) -> None:
    """Raises UserError if `make_folder` would; makes nothing."""
    above = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{printable(path)}: cannot be written, because of {printable(above)}; choose another folder")


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold `path` as a lock; the operating system lets go of it when this process ends, however it ends.

    Raises RunningError if another process holds it. Where the system cannot lock (Windows, some network drives) nothing
    is locked, and a warning says so.
    """
    if fcntl is None:
        _warn_once("this system cannot lock files: start no run of a name twice")
        yield
        return
    while True:
        file = open(path, "ab")  # noqa: SIM115 - closed below
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise RunningError(path) from None
        except OSError as error:
            _warn_once(
                f"{printable(path)}: this file system cannot lock ({error.strerror}): start no run of a name twice"
            )
        if _is_still(path, file):
            break
        file.close()  # the process that held it has removed it in the meantime
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)  # while it is held, so nobody else's is removed
        file.close()


def is_locked(path: str | Path) -> bool:
    """Whether another process holds `path` as a lock. It must lie in a folder that can be written to."""
    if not os.path.exists(path):
        return False
    try:
        with lock(path):
            return False
    except RunningError:
        return True


def _is_still(path: str | Path, file: BinaryIO) -> bool:
    """Whether the open file is the one that now has that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def flush_folder(folder: Path) -> None:
    """Put a rename on disk too; Windows cannot open a folder, and does not need it."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        _warn_once(f"{printable(folder)}: this file system cannot flush a folder ({error.strerror})")


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warn(message)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, but no folder, device or FIFO, which might never answer. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is not a regular file")
    return os.fdopen(descriptor, "rb")
