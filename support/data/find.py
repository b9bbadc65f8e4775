"""Finding the data, opening them, unpacked, and naming files that are something else. Knows nothing of pixels."""

import bz2
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support.files import open_regular
from support.terminal import UserError, printable

DATA, PACKED = Path(__file__).resolve().parents[2] / "data", "train.tar.gz"  # MNIST, as it comes with this project

_IDX = ("-idx3-ubyte", "-idx3-ubyte.gz", ".idx3-ubyte", ".idx3-ubyte.gz")  # the point is what Windows makes of it
_PAIRS = [(f"train{ending}", f"test{ending}") for ending in (".tar", ".tar.gz", ".tgz", ".tar.bz2", "")]
_PAIRS += [("training", "testing")]
_PAIRS += [(f"{at}train-images{one}", f"{at}t10k-images{one}") for at in ("", "MNIST/raw/", "raw/") for one in _IDX]
_EXPECTED = "train.tar and test.tar (or .tar.gz, .tgz, .tar.bz2), folders train and test, or MNIST's four IDX files"
LINES = 'README.md makes a tar of arrays in five lines, under "Your own data"'
_KINDS = {  # the first bytes of a file, as a pattern, and what it is
    rb"\xff\xd8\xff": "a JPEG",
    rb"\x89PNG\r\n\x1a\n": "a PNG",
    rb"GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP": "a GIF, BMP, TIFF or WebP picture",
    rb"PK\x03\x04.{26}[^/]*\.npy|\x93NUMPY|\x89HDF\r\n|PAR1|\x80[\x02-\x05]": f"arrays of another format; {LINES}",
    rb"PK(\x03\x04|\x05\x06)": "a zip file; unpack it",
    rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ\0|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|\x28\xb5\x2f\xfd": "packed; unpack it",
    rb".{257}ustar": "a tar archive; unpack it",
    rb"\0\0[\x08-\x0e][\x01-\x04]": "an IDX file",
    rb"version https://git-lfs\.github\.com/": "a Git LFS pointer; git lfs pull brings the file",
    rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--)": "a web page; download the file itself",
    rb"(\xef\xbb\xbf)?([^,;\t]*[,;\t]){2}[\t\n\r -~]*\Z": f"a text table (CSV); {LINES}",
    rb"[\t\n\r -~]+\Z": "a text",
    rb"\Z": "empty",
}


class DataError(UserError):
    """The data are missing, damaged or not what this project reads. The message names file, member, found, expected."""


class Source(NamedTuple):
    """Absolute paths: two that `read_images` takes, and their folder. found: which they are, in words to be printed."""

    train: Path
    test: Path
    folder: Path
    found: str


def find_data(data_dir: str | Path | None = None) -> Source:
    """Where the training and the test images are. Raises DataError, which says what lies there, and what to type.

    data_dir: the folder that the user named; its `train.tar`, its `train` or a folder above it are understood, too. Or
    None: `data` beside main.py, where somebody's own data come before the packed MNIST.
    """
    with data_errors(Path(DATA if data_dir is None else data_dir)):
        folder = Path(os.path.abspath(DATA if data_dir is None else data_dir))
        whole, missing = _look(folder)
        if whole and not (missing and whole[0].train == DATA / PACKED):  # a half of one's own is never passed over
            return whole[0]
        near = {source.train: source for source in _look(folder.parent)[0] if folder in source}
        for path in [] if near else [*folder.glob("*/"), *folder.glob("*/*/")][:1000]:
            near |= {source.train: source for source in _look(path)[0][:1]}
        if len(near) == 1:
            return near.popitem()[1]
        raise DataError(_not_found(folder, missing, sorted(near.values())))


def _look(folder: Path) -> tuple[list[Source], list[Path]]:
    """The pairs of training and test data in a folder, the packed MNIST last; and the missing halves of others."""
    whole, missing = [], []
    home = folder.parent if folder.name == "raw" else folder  # torchvision's FashionMNIST/raw
    for train, test in ((folder / one, folder / other) for one, other in _PAIRS):
        there = [os.path.lexists(path) for path in (train, test)]
        if all(there):
            shown = " and ".join(f"{path.name}/" if path.is_dir() else path.name for path in (train, test))
            whole.append(Source(train, test, home, f"{shown} in {printable(train.parent)}"))
        elif any(there):
            missing.append(test if there[0] else train)
    return sorted(whole, key=lambda source: source.train == DATA / PACKED), missing


def _not_found(folder: Path, missing: list[Path], near: list[Source]) -> str:
    """What is said where a folder does not hold the data: what it holds, what was expected, what to type."""
    if folder.is_file():
        with unpacked(folder) as content:
            return f"{printable(folder)}: is {what_is(content.peek(512)) or 'a file'}; expected a folder of {_EXPECTED}"
    names = sorted(printable(path.name) for path in folder.iterdir()) if folder.is_dir() else []
    holds = f"it holds {', '.join(names[:8])}{' ...' if names[8:] else ''}" if names else "nothing lies there"
    advice = f"put there what is missing, unpack what is packed; {LINES}; MNIST itself lies in {printable(DATA)}"
    if near:
        advice = "type " + " or ".join(f'--data-dir "{printable(source.folder)}"' for source in near[:8])
    return f"{printable((*missing, folder / 'train.tar')[0])}: not found; expected {_EXPECTED}; {holds}\n{advice}"


@contextmanager
def data_errors(path: Path) -> Iterator[None]:
    """Whatever is wrong with the file or folder while it is read becomes a DataError that names it."""
    try:
        yield
    except (ValueError, OSError, EOFError, RecursionError, MemoryError, zlib.error) as error:
        where, said = getattr(error, "filename", None) or path, getattr(error, "strerror", None) or error
        raise DataError(f"{printable(where)}: {printable(said) or type(error).__name__}") from None


@contextmanager
def unpacked(path: Path) -> Iterator[Any]:
    """A file to read forwards and to peek into, out of gzip or bzip2 where it is packed. Raises OSError."""
    with open_regular(path) as file:
        opener: Any = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}.get(file.peek(2)[:2])  # type: ignore[attr-defined]
        yield io.BufferedReader(opener(file), 2**16) if opener else file


def what_is(data: bytes) -> str | None:
    """What a file is that begins so, and what to do: 'a JPEG', 'a zip file; unpack it'. None if that is not known."""
    return next((kind for start, kind in _KINDS.items() if re.match(b"(?is)" + start, data[:512])), None)
