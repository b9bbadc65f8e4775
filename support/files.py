"""Files that appear whole or not at all.

Everything that the project writes goes through `replace`: it is written beside its final name, flushed to disk, then
renamed, so a reader sees the old file or the new one, whatever happens in between.
"""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".partial"  # the ending of a file that is still being written
MAX_UNPACKED = 2**30  # bytes: a thousand times what a checkpoint of these networks takes


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
    except OSError as error:
        error.filename = str(path)  # a full disk names no file, other errors name the temporary one
        raise
    finally:
        temporary.unlink(missing_ok=True)


def clear_temporary(path: Path) -> None:
    """Remove what a killed process left beside `path`. Only for the one process that may write `path`."""
    for left_over in path.parent.glob(f".{path.name}.*{TEMPORARY}"):
        left_over.unlink(missing_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, but no folder, device or FIFO, which might never answer. Raises OSError."""
    if path.exists() and not path.is_file():
        raise OSError(0, "is not a regular file")
    return path.open("rb")


def check_unpacked(file: BinaryIO) -> None:
    """Raises ValueError if a zip, as torch.save and np.savez make it, would unpack to more than MAX_UNPACKED bytes."""
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_UNPACKED:
            raise ValueError(f"holds more than {MAX_UNPACKED:,} bytes")
    file.seek(0)
