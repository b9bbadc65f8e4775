"""Files that appear whole or not at all.

Everything that the project writes goes through `replace`: it is written beside its final name, flushed to disk, then
renamed, so a reader sees the old file or the new one, whatever happens in between.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if os.name == "posix":
    import fcntl

TEMPORARY = ".partial"  # the ending of a file that is still being written


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
        _flush_folder(path.parent)
    except OSError as error:
        error.filename = str(path)  # a full disk names no file, other errors name the temporary one
        raise
    finally:
        temporary.unlink(missing_ok=True)


def clear_temporary(path: str | Path) -> None:
    """Remove what a killed process left beside `path`. Only for the one process that may write `path`."""
    path = Path(path)
    for left_over in path.parent.glob(f".{path.name}.*{TEMPORARY}"):
        left_over.unlink(missing_ok=True)


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold `path` as a lock; the operating system lets go of it when this process ends, however it ends.

    Raises RunningError if another process holds it. Where the system has no `flock` (Windows) nothing is locked.
    """
    with open(path, "ab") as file:
        if os.name == "posix":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunningError(path) from None
        yield


def _flush_folder(folder: Path) -> None:
    """Put a rename on disk too; Windows cannot open a folder, and does not need it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
