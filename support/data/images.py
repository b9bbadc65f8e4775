"""Images and labels as they lie on disk -> uint8 arrays, checked, and bounded in time and memory by counts.

Reads a tar of PNGs, a folder of them, or IDX files; nothing is ever extracted. Knows nothing of torch, nor of where
the data lie.
"""

import io
import itertools
import os
import re
import stat
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from support.data import idx, png
from support.data.container import PICTURES, START, Container, DataError, quote, reason, shorten, what_is
from support.files import open_regular
from support.terminal import printable

SIZE = png.SIZE

# What is read at most, whatever a file says; more is an error, and bombs end here. Beside them stand MAX_BYTES,
# MAX_STREAMS and MAX_DICTIONARY of container.py and MAX_CHUNKS of png.py.
MAX_IMAGES = 1_000_000  # some sixteen times MNIST, 784 MB in memory
MAX_CLASSES = 256  # IDX keeps a label in a byte
MAX_MEMBER = 1024 * 1024  # bytes; a 28x28 PNG takes under 1,000, the rest is room for metadata and bookkeeping
MAX_OTHERS = 100_000  # headers, folders and files that are no image ...
OTHERS_PER_IMAGE = 4  # ... and as many more for each image: macOS writes three
MAX_RECORDS = 100  # of a pax header: a file has some ten
MAX_NAME = 512  # characters of a member's path
MAX_DEPTH = 32  # folders inside folders

UNFILTERED = 1024  # images at a time: what they need then stays in the processor's cache

_NAME = re.compile(r"([0-9]{1,18})_([0-9]{1,3})\.png", re.IGNORECASE)  # 18 digits: what fits into int64
_NUMBER = re.compile(r"([0-9]{1,18})\.png", re.IGNORECASE)
_LABEL = re.compile(r"[0-9]{1,3}")  # the name of a folder of images of one label
_BOOKKEEPING = re.compile(
    r"\._.*|(?!.*\.png$)(\..*|thumbs\.db|desktop\.ini|(readme|licen[cs]e)(\..*)?)", re.IGNORECASE | re.DOTALL
)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_FOLDERS = (tarfile.DIRTYPE, b"D", b"V")  # b"D": with a list of its files, by tar -g; b"V": the label of tar -V
_DESCRIBES_NEXT = (
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_PAX_RECORD = re.compile(rb"([0-9]{1,9}) ([^=\n]{1,100})=")
_EXPECTED = "expected a tar archive, plain or in gzip, bzip2 or xz"


def read_images(path: str | Path, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,), 0 to classes - 1, in the order of their numbers.

    path: a tar archive (plain, gzip, bzip2 or xz, whatever its name) or a folder of PNGs, named `{number}_{label}.png`
    or lying in a folder named for their label; or an IDX file of images, beside the one of its labels. PNGs in a folder
    of their label are ordered by number where each has one of its own, else by path.

    Raises DataError if anything about the data is wrong; ValueError if classes is not 1 to MAX_CLASSES.
    """
    if not 1 <= classes <= MAX_CLASSES:
        raise ValueError(f"classes is {classes}; expected 1 to {MAX_CLASSES}")
    path = Path(path)
    if _is_idx(path):
        images, few = idx.read_idx(path, SIZE, MAX_IMAGES)
        if few.max() >= classes:
            raise DataError(f"{printable(path)}: has the label {few.max()}; expected {_labels(classes)}")
        return images, few.astype(np.int64)
    return _read_pngs(path, classes)


def suspicious(images: np.ndarray) -> list[str]:
    """What makes it doubtful that images uint8 (N, 28, 28) are like MNIST's, each in a line: mostly none."""
    found = []
    rim = np.concatenate([images[:, [0, -1]].reshape(-1), images[:, :, [0, -1]].reshape(-1)])
    if images.max() <= 1:
        found.append(f"its brightest pixel is {images.max()}, not 255: multiply the images by 255")
    elif rim.mean() > 127:
        found.append("its images are dark on light, where MNIST is light on dark: subtract them from 255")
    return found


def write_tar(path: str | Path, split: str, images: Any, labels: Any) -> None:
    """Write uint8 (N, 28, 28) and integers (N,), 0 to 255, as a tar of PNGs, on disk before it returns.

    images, labels: numpy arrays, or what numpy makes arrays of, as tensors. The layout is the one that `read_images`
    reads: `{split}/{number:05d}_{label}.png`. Raises TypeError and ValueError on other arrays, OSError.

    The same on every machine: the headers carry no time and no owner. The pixels are stored, not compressed, because
    each version of zlib compresses in its own way.
    """
    images, labels = _checked(images, labels)
    with open(path, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            folder = tarfile.TarInfo(f"{split}/")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
            for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                data = io.BytesIO()
                Image.fromarray(image).save(data, "png", compress_level=0)
                member = tarfile.TarInfo(f"{split}/{number:05d}_{label}.png")
                member.size = data.tell()
                data.seek(0)
                archive.addfile(member, data)
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        file.flush()
        os.fsync(file.fileno())


def _checked(images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Arrays that can be written. Raises TypeError, ValueError."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        raise TypeError(f"images are {images.dtype}; expected uint8, 0 to 255")
    if images.ndim != 3 or images.shape[1:] != (SIZE, SIZE):
        raise ValueError(f"images have the shape {images.shape}; expected (N, {SIZE}, {SIZE})")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels are {labels.dtype}; expected integers")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels have the shape {labels.shape}; expected {images.shape[:1]}, one for each image")
    if not 1 <= len(images) <= MAX_IMAGES:
        raise ValueError(f"{len(images):,} images; expected 1 to {MAX_IMAGES:,}")
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}; expected 0 to {MAX_CLASSES - 1} at most")
    return np.ascontiguousarray(images), labels


# --- images and labels of PNGs ----------------------------------------------------------------------------------------


def _read_pngs(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """As `read_images`, of an archive or folder of PNGs."""
    pixels, lines, numbers, labels = bytearray(), bytearray(), array("q"), bytearray()
    by_folder = 0
    for name, data in _members(path):
        try:
            number, label, from_folder = _number_and_label(name, classes)
        except ValueError as error:
            found = what_is(data[:START])
            if found in (None, "a PNG", "a text"):
                raise DataError(f"{printable(path)}: {quote(name)} {error}") from None
            raise DataError(_not_a_png(path, name, found)) from None
        if len(numbers) == MAX_IMAGES:
            raise DataError(f"{printable(path)}: holds over {MAX_IMAGES:,} images, more than are read")
        try:
            lines += png.scanlines(data)
        except png.PNGError as error:
            raise DataError(_png_message(path, name, data, error)) from None
        numbers.append(-1 if number is None else number)
        labels.append(label)
        by_folder += from_folder
        if len(numbers) % UNFILTERED == 0:
            pixels += png.unfilter(lines)
            lines.clear()
    if not numbers:
        raise DataError(f"{printable(path)}: holds no images; expected PNGs named {{number}}_{{label}}.png, not hidden")
    pixels += png.unfilter(lines)
    images = np.frombuffer(pixels, np.uint8).reshape(-1, SIZE, SIZE)
    targets = np.frombuffer(labels, np.uint8).astype(np.int64)
    order = np.frombuffer(numbers, np.int64)
    if order[0] >= 0 and (np.diff(order) > 0).all():
        return images, targets
    positions = order.argsort(kind="stable")
    order = order[positions]
    if order[0] < 0 or (np.diff(order) == 0).any():
        positions = _positions_by_path(path, np.frombuffer(numbers, np.int64), by_folder)
    return images[positions], targets[positions]


def _number_and_label(name: str, classes: int) -> tuple[int | None, int, bool]:
    """What a path says: `train/00000_5.png` is image 0, a five; so is `5/00000.png`, where the folder says the label.

    Returns number (None if there is none), label, and whether only the folder says the label. Raises ValueError.
    """
    folder, _, file = name.rpartition("/")
    folder = folder.rpartition("/")[2]
    label_of_folder = int(folder) if _LABEL.fullmatch(folder) else None
    found = _NAME.fullmatch(file)
    if found and label_of_folder not in (None, int(found[2])):
        raise ValueError(f"is labelled {int(found[2])} by its name and {label_of_folder} by its folder")
    label = int(found[2]) if found else label_of_folder
    expected = f"{{number}}_{{label}}.png, with {_labels(classes)}"
    if label is None or not file.lower().endswith(".png"):
        raise ValueError(f"is not named {expected}, nor lies in a folder of its label")
    if label >= classes:
        raise ValueError(f"is not named {expected}, but has label {label}")
    found = found or _NUMBER.fullmatch(file)
    return int(found[1]) if found else None, label, label_of_folder is not None


def _labels(classes: int) -> str:
    return f"a label from 0 to {classes - 1}"


def _positions_by_path(path: Path, numbers: np.ndarray, by_folder: int) -> np.ndarray:
    """The order of images that lie in folders of their label, by path. Raises DataError if others are among them."""
    names = [name for name, _ in _members(path)]
    order = sorted(range(len(names)), key=names.__getitem__)
    if len(names) != len(numbers):
        raise DataError(f"{printable(path)}: changed while it was read")
    if by_folder < len(names):
        values, counts = np.unique(numbers[numbers >= 0], return_counts=True)
        number = values[counts > 1][0] if (counts > 1).any() else -1
        same = [quote(name) for name, other in zip(names, numbers, strict=True) if other == number][:2]
        found = " and ".join(same) + (" have the same number" if number >= 0 else " have no number")
        raise DataError(f"{printable(path)}: {found}; expected a number of its own for each image")
    for one, other in itertools.pairwise(order):
        if names[one] == names[other]:
            raise DataError(f"{printable(path)}: {quote(names[one])} stands in it twice")
    return np.array(order)


def _png_message(path: Path, name: str, data: bytes, error: png.PNGError) -> str:
    """What is said about a PNG that is not taken, with the line of Pillow that makes it one that is."""
    found = what_is(data[:START])
    if found != "a PNG" and not data.startswith(png.SIGNATURE):
        return _not_a_png(path, name, found)
    message = f"{printable(path)}: {quote(name)} {error}"
    return message if error.conversion is None else message + _line(path, name, error.conversion, name)


def _not_a_png(path: Path, name: str, found: str | None) -> str:
    """What is said about a member that is something else."""
    message = f"{printable(path)}: {quote(name)} is not a PNG" + (f" but {found}" if found else "")
    if found in PICTURES:
        conversion = f'{{image}}.convert("L").resize(({SIZE}, {SIZE}))'
        return message + _line(path, name, conversion, re.sub(r"\.[^./]*$", "", name) + ".png")
    return message


def _line(path: Path, name: str, conversion: str, target: str) -> str:
    """A line that converts a file by Pillow; of an archive, once it is unpacked."""
    here, there = (os.path.join(path, file) if path.is_dir() else file for file in (name, target))
    if len(here) > 2 * MAX_NAME:
        return ""
    opened = conversion.replace("{image}", f"Image.open({here!a})")
    return f"\nto convert it: {opened}.save({there!a})"


# --- archives and folders ---------------------------------------------------------------------------------------------


def _is_idx(path: Path) -> bool:
    try:
        with Container(path) as file:
            return idx.is_idx(file.start)
    except (ValueError, OSError):
        return False  # what is wrong with it is said where it is read


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each file in the archive or folder that is no bookkeeping. Raises DataError."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(path)}: {reason(error)}; expected a tar archive or a folder of PNGs") from None
    if stat.S_ISDIR(mode):
        found = _members_of_folder(path)
    elif stat.S_ISREG(mode):
        found = _members_of_archive(path)
    else:
        raise DataError(f"{printable(path)}: neither a file nor a folder; expected a tar archive or a folder of PNGs")
    others, images = 0, 0
    for name, data in found:
        others, images = others + (data is None), images + (data is not None)
        if others > MAX_OTHERS + OTHERS_PER_IMAGE * images:
            raise DataError(
                f"{printable(path)}: holds over {MAX_OTHERS:,} headers, folders or files that are no images"
            )
        if data is not None:
            yield name, data


def _is_bookkeeping(name: str) -> bool:
    """Whether a file is hidden, lies in a hidden folder, or is what systems and people put beside images."""
    if name.startswith(".") or "/." in name:
        folders = name.split("/")[:-1]
        if any(folder.startswith(".") and folder not in (".", "..") for folder in folders):
            return True
    return _BOOKKEEPING.fullmatch(name.rpartition("/")[2]) is not None


def _members_of_folder(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Path and bytes of each file, None for what is no image; folders below are walked too, sorted by name.

    Links to files are followed, links to folders refused: they may go in circles.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(path / folder) as entries:
                listed = [entry for entry, _ in zip(entries, range(MAX_IMAGES + MAX_OTHERS), strict=False)]
        except OSError as error:
            raise DataError(f"{printable(path / folder)}: cannot be read: {reason(error)}") from None
        below = []
        for entry in sorted(listed, key=lambda entry: entry.name):
            name = f"{folder}{entry.name}"
            where = printable(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield name, None
                if not entry.name.startswith("."):
                    below.append(f"{name}/")
            elif _BOOKKEEPING.fullmatch(entry.name):
                yield name, None
            else:
                try:
                    if entry.is_dir():
                        raise DataError(f"{where}: is a link to a folder; expected files and folders")
                    if not entry.is_file():
                        raise DataError(f"{where}: is not a regular file; expected PNGs")
                    with open_regular(Path(entry.path)) as file:
                        data = file.read(MAX_MEMBER + 1)
                except OSError as error:
                    raise DataError(f"{where}: cannot be read: {reason(error)}") from None
                if len(data) > MAX_MEMBER:
                    raise DataError(f"{where}: is over {MAX_MEMBER:,} bytes; a {SIZE}x{SIZE} PNG takes under 1,000")
                yield name, data
        if below and folder.count("/") >= MAX_DEPTH:
            raise DataError(f"{printable(path)}: folders lie over {MAX_DEPTH} deep, in {quote(folder)}")
        folders += reversed(below)


def _members_of_archive(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Path and bytes of each file, None for what is no image. Nothing is extracted; links and devices are refused."""
    found, foreign = None, True
    try:
        with Container(path) as file:
            found = what_is(file.start)
            if found and file.start and file.compression:
                found += f" in {file.compression}"
            for name, data in _read_tar(path, file):
                foreign = False
                yield name, data
    except (ValueError, OSError, MemoryError) as error:
        if found == "empty":
            said = "is empty; expected a tar archive"
        elif foreign and found and not found.startswith("a tar archive"):
            said = f"is no archive that can be read here but {found}; {_EXPECTED}"
        else:
            said = f"is damaged or no archive: {reason(error)}; {_EXPECTED}"
        raise DataError(f"{printable(path)}: {said}") from None


def _read_tar(path: Path, file: Container) -> Iterator[tuple[str, bytes | None]]:
    """Path and bytes of each member of a tar, USTAR, GNU or pax; None for headers, folders and bookkeeping.

    tarfile parses the headers. Its TarFile is not used: it takes a damaged header for the end of the archive, follows
    headers about headers by recursion, and its time for a pax header grows with the square of what that holds.
    Raises ValueError where the tar is damaged, DataError on members that are no files.
    """
    fields: dict[str, str] = {}  # of the pax header before a member
    long_name, described = None, set()
    while any(header := file.read_exactly(tarfile.BLOCKSIZE)):
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            position = file.position - tarfile.BLOCKSIZE
            raise ValueError(f"no valid header at byte {position:,} but {header[:8]!r}") from None
        if member.type in _DESCRIBES_NEXT:
            data = _content(file, member.name, member.size)
            kind = tarfile.XHDTYPE if member.type == tarfile.SOLARIS_XHDTYPE else member.type
            if kind in described:
                raise ValueError(f"two headers of type {kind.decode()!r} before one member")
            described.add(kind)
            if kind == tarfile.GNUTYPE_LONGNAME:
                long_name = data.partition(b"\0")[0].decode("utf-8", "surrogateescape") or None
            elif kind == tarfile.XHDTYPE:
                fields = _parse_pax(data)
            elif kind == tarfile.XGLTYPE and _parse_pax(data):
                raise ValueError("one name, size or map for all members, in a global pax header")
            yield "", None
            continue
        name, size = fields.pop("path", long_name or member.name), int(fields.pop("size", member.size))
        if long_name not in (None, name):
            raise ValueError(f"{quote(name)} is named {quote(long_name or '')} too")
        if len(name) > MAX_NAME:
            raise ValueError(f"{quote(name)} is a name of {len(name):,} characters; at most {MAX_NAME} are read")
        if member.type == tarfile.DIRTYPE:
            yield name, None  # the size that it claims is room for its entries
        elif member.type in _FOLDERS or (member.type in _REGULAR and _is_bookkeeping(name)):
            _skip(file, name, size)
            yield name, None
        elif member.type in _REGULAR and not fields:
            yield name, _content(file, name, size)
        else:
            found = f"{quote(name)} is a link, a device or sparse; expected a regular file"
            raise DataError(f"{printable(path)}: {found}")
        fields, long_name = {}, None
        described.clear()
    position = file.position - tarfile.BLOCKSIZE
    if file.read(MAX_MEMBER).strip(b"\0") or file.read(1):
        raise ValueError(f"it goes on behind its end at byte {position:,}")


def _content(file: Container, name: str, size: int) -> bytes:
    """What a member holds, which fills whole blocks. Raises ValueError."""
    if not 0 <= size <= MAX_MEMBER:
        raise ValueError(f"{quote(name)} claims {shorten(f'{size:,}')} bytes; at most {MAX_MEMBER:,} can be right")
    return file.read_exactly(size + -size % tarfile.BLOCKSIZE)[:size]


def _skip(file: Container, name: str, size: int) -> None:
    """Go past what a member holds. Raises ValueError."""
    if size < 0:
        raise ValueError(f"{quote(name)} claims {shorten(f'{size:,}')} bytes")
    size += -size % tarfile.BLOCKSIZE
    while size:
        size -= len(file.read_exactly(min(size, MAX_MEMBER)))


def _parse_pax(data: bytes) -> dict[str, str]:
    """What matters here of records `length keyword=value` and a line feed: path, size, and that a member is sparse.

    Length counts all of the record (POSIX.1-2017, pax, "pax Extended Header"). Raises ValueError.
    """
    fields: dict[str, str] = {}
    start = 0
    for _ in range(MAX_RECORDS + 1):
        if start == len(data):
            return fields
        record = _PAX_RECORD.match(data, start)
        end = start + int(record[1]) if record else 0
        if not record or not record.end() < end <= len(data):
            raise ValueError("a damaged pax header")
        keyword = record[2].decode("utf-8", "surrogateescape")
        if keyword in ("path", "size") or keyword.startswith("GNU.sparse."):
            fields[keyword] = data[record.end() : end - 1].decode("utf-8", "surrogateescape")
        start = end
    raise ValueError(f"a pax header of over {MAX_RECORDS} records")
