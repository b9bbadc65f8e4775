"""Images and labels as they lie on disk -> uint8 arrays, bounded and checked. Knows nothing of torch."""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from PIL import Image

from support.command import UserError

SIZE = 28  # pixels a side of an MNIST image

MAX_MEMBER = 1024 * 1024  # bytes; a 28x28 PNG takes under 1,000, the rest is room for metadata and bookkeeping
MAX_IMAGES = 2_000_000  # some thirty times MNIST, 1.6 GB in memory; an archive that yields more is taken for a bomb
MAX_ARCHIVE = 2048 * MAX_IMAGES  # bytes, decompressed; an image takes 1,024 or 1,536 of a tar
UNFILTERED = 1024  # images at a time: what they need then stays in the processor's cache


_NAME = re.compile(r"([0-9]{1,18})_([0-9])\.png", re.IGNORECASE)  # 18 digits: what fits into int64
_BOOKKEEPING = re.compile(
    r"\._.*|(?!.*\.png$)(\..*|thumbs\.db|desktop\.ini|(readme|licen[cs]e)(\..*)?)", re.IGNORECASE | re.DOTALL
)
_CONTAINERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_DESCRIBES_NEXT = (  # types of tar members that are no files
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_PAX_RECORD = re.compile(rb"([0-9]{1,9}) ([^=]+)=")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0)  # 8-bit grayscale, not interlaced
_BLANK = bytes(1 + SIZE)  # a line of pixels 0, filter type 0 in front
_INTERLACED = 4 * 5 + 4 * 4 + 3 * 8 + 7 * 8 + 7 * 15 + 14 * 15 + 14 * 29  # bytes of 28x28 pixels in seven passes


class DataError(UserError):
    """The data are missing, damaged or not what this project reads. The message names file, member, found, expected."""


# --- decoding ---------------------------------------------------------------------------------------------------------


def read_images(path: str | Path, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of the archive or folder, in the order of their numbers."""
    path = Path(path)
    pixels, lines, numbers, labels = bytearray(), bytearray(), array("q"), bytearray()
    for name, data in _members(path):
        number, label = _number_and_label(path, name)
        if len(numbers) == MAX_IMAGES:
            raise DataError(f"{path}: holds over {MAX_IMAGES:,} images, more than any MNIST archive")
        try:
            lines += _scanlines(data)
        except ValueError as error:
            raise DataError(f"{path}: {_quote(name)} {error}") from None
        numbers.append(number)
        labels.append(label)
        if len(numbers) % UNFILTERED == 0:
            pixels += _unfilter(lines)
            lines.clear()
    if not numbers:
        raise DataError(f"{path}: holds no images; expected PNGs named {{number}}_{{label}}.png")
    pixels += _unfilter(lines)
    images = np.frombuffer(pixels, np.uint8).reshape(-1, SIZE, SIZE)
    order = np.frombuffer(numbers, np.int64)
    targets = np.frombuffer(labels, np.uint8).astype(np.int64)
    if (np.diff(order) > 0).all():
        return images, targets
    positions = order.argsort(kind="stable")
    order = order[positions]
    twice = order[1:][np.diff(order) == 0]
    if len(twice):
        number = int(twice[0])
        names = [_quote(name) for name, _ in _members(path) if _number_and_label(path, name)[0] == number]
        both = " and ".join(names[:2])
        raise DataError(f"{path}: {both} have the same number; expected a number of its own for each image")
    return images[positions], targets[positions]


def _number_and_label(path: Path, name: str) -> tuple[int, int]:
    """What the name of a member says: `train/00000_5.png` is image 0, a five."""
    found = _NAME.fullmatch(name.rpartition("/")[2])
    if found is None:
        raise DataError(f"{path}: {_quote(name)} is not named {{number}}_{{label}}.png, with a label from 0 to 9")
    return int(found[1]), int(found[2])


def decode_png(data: bytes) -> bytes:
    """The 784 pixels of an 8-bit grayscale 28x28 PNG, row by row. Raises ValueError that says what else it is.

    Stricter than Pillow, which passes over a wrong checksum of the pixels: every chunk's CRC-32 is checked (PNG
    specification, third edition, 5.3), and so is the Adler-32 of the pixels.
    """
    return _unfilter(_scanlines(data))


def _scanlines(data: bytes) -> bytes:
    """The 28 lines of a PNG behind a blank one, each with its filter type in front. Raises ValueError.

    The blank line is what the PNG specification takes to be above the first: images can then stand below one another.
    """
    if not data.startswith(_PNG_SIGNATURE):
        raise ValueError("is not a PNG")
    start, header, compressed = len(_PNG_SIGNATURE), None, []
    while True:
        kind, end = data[start + 4 : start + 8], start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            raise ValueError("is a PNG cut off before its end")
        if zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"is a damaged PNG: wrong checksum of its {kind.decode('latin-1')!r} chunk")
        if kind == b"IDAT":
            compressed.append(data[start + 8 : end])
        elif kind == b"IHDR" and header is None and end - start == 21:
            header = data[start + 8 : end]
        elif kind == b"IEND":
            break
        start = end + 4
    if header != _PNG_HEADER:
        _check_interlaced(header)
        return _interlaced_scanlines(b"".join(compressed))
    lines = _inflate(b"".join(compressed), SIZE * len(_BLANK))
    if max(lines[:: len(_BLANK)]) > 4:
        raise ValueError("is a damaged PNG: unknown filter type")
    return _BLANK + lines


def _check_interlaced(header: bytes | None) -> None:
    """Raises ValueError unless the header is that of an interlaced 28x28 PNG, 8-bit grayscale."""
    if header is None:
        raise ValueError("is a damaged PNG: it has no header")
    width, height, depth, color, *methods = struct.unpack(">IIBBBBB", header)
    if (width, height, depth, color) != (SIZE, SIZE, 8, 0):
        kinds = {0: "grayscale", 2: "RGB", 3: "palette", 4: "grayscale with alpha", 6: "RGBA"}
        found = f"{width}x{height}, {depth}-bit {kinds.get(color, 'unknown colour')}"
        raise ValueError(f"is {found}; expected {SIZE}x{SIZE}, 8-bit grayscale")
    if methods != [0, 0, 1]:
        raise ValueError("is a damaged PNG: unknown compression, filter or interlace method")


def _interlaced_scanlines(compressed: bytes) -> bytes:
    """As `_scanlines`, of the pixels of an interlaced PNG (PNG specification, 8.1)."""
    _inflate(compressed, _INTERLACED)  # because Pillow takes fewer, too
    try:
        pixels = Image.frombytes("L", (SIZE, SIZE), compressed, "zip", "L", 1).tobytes()
    except (ValueError, OSError):
        raise ValueError("is a damaged PNG: unknown filter type") from None
    return _BLANK + b"".join(b"\0" + pixels[start : start + SIZE] for start in range(0, SIZE * SIZE, SIZE))


def _inflate(compressed: bytes, size: int) -> bytes:
    """Decompress exactly `size` bytes, and no more: 1 MiB can hold a gigabyte. Raises ValueError."""
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(compressed, size + 1)
    except zlib.error:
        raise ValueError("is a damaged PNG: its pixels cannot be decompressed") from None
    if len(data) != size or not decompressor.eof:
        raise ValueError(f"is a damaged PNG: its pixels are not {SIZE}x{SIZE}")
    return data


def _unfilter(lines: bytes) -> bytes:
    """The pixels of `_scanlines` of any number of images one after the other.

    Pillow undoes the filters of all of them as of one tall image: asked for each image, it takes longer for everything
    around the pixels than for the pixels.
    """
    size = (SIZE, len(lines) // len(_BLANK))
    tall = Image.frombytes("L", size, zlib.compress(lines, 0), "zip", "L", 0) if lines else Image.new("L", size)
    return np.asarray(tall).reshape(-1, 1 + SIZE, SIZE)[:, 1:].tobytes()


# --- archives and folders ---------------------------------------------------------------------------------------------


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file in the archive or folder that is no bookkeeping, each at most MAX_MEMBER bytes."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {_reason(error)}; expected a tar archive or a folder of PNGs") from None
    if stat.S_ISDIR(mode):
        return _members_of_folder(path)
    if stat.S_ISREG(mode):
        return _members_of_archive(path)
    raise DataError(f"{path}: neither a file nor a folder; expected a tar archive or a folder of PNGs")


def _members_of_folder(path: Path) -> Iterator[tuple[str, bytes]]:
    """Folders below are walked too. Links to files are followed, links to folders refused: they may go in circles."""

    def refuse(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename}: cannot be read: {_reason(error)}") from None

    for folder, subfolders, names in os.walk(path, onerror=refuse):
        subfolders.sort()
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        if links:
            raise DataError(f"{os.path.join(folder, links[0])}: is a link to a folder; expected files and folders")
        for name in sorted(names):
            if _BOOKKEEPING.fullmatch(name):
                continue
            member = os.path.join(folder, name)
            if not os.path.isfile(member):
                raise DataError(f"{member}: is not a regular file; expected PNGs")
            try:
                with open(member, "rb") as file:
                    data = file.read(MAX_MEMBER + 1)
            except OSError as error:
                refuse(error)
            if len(data) > MAX_MEMBER:
                raise DataError(f"{member}: is over {MAX_MEMBER:,} bytes; a {SIZE}x{SIZE} PNG takes under 1,000")
            yield f"{os.path.relpath(folder, path)}/{name}", data


def _members_of_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Nothing is extracted; links and devices are refused."""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        if not start:
            raise DataError(f"{path}: is empty; expected a tar archive")
        opener = next((opener for magic, opener in _CONTAINERS.items() if start.startswith(magic)), open)
        with opener(path, "rb") as file:
            for name, kind, data in _read_tar(file):
                if kind == tarfile.DIRTYPE or _BOOKKEEPING.fullmatch(name.rpartition("/")[2]):
                    continue
                if kind not in _REGULAR:
                    raise DataError(f"{path}: {_quote(name)} is a link, a device or sparse; expected a regular file")
                yield name, data
    except (ValueError, EOFError, OSError, MemoryError, zlib.error, lzma.LZMAError) as error:
        expected = "expected a tar archive, plain or in gzip, bzip2 or xz"
        raise DataError(f"{path}: is damaged or no archive: {_reason(error)}; {expected}") from None


def _read_tar(file: BinaryIO) -> Iterator[tuple[str, bytes, bytes]]:
    """Name, type and content of each member of an archive: USTAR, GNU or pax. Raises ValueError.

    tarfile would do, were it not that it takes longer for a header than all else takes for an image, goes wherever
    forged headers send it, and takes a damaged header for the end of the archive. This only ever goes forward.
    Formats: POSIX.1-2017, pax, "Extended Description"; GNU tar's manual, "Basic Tar Format".
    """
    defaults, fields, long_name, position = {}, {}, None, 0
    while any(header := _read(file, tarfile.BLOCKSIZE)):
        try:
            name, kind, size = _parse_header(header)
        except ValueError:
            raise ValueError(f"no valid header at byte {position:,} but {header[:8]!r}") from None
        describes_next = kind in _DESCRIBES_NEXT
        if not describes_next:
            fields = defaults | fields
            name, size = fields.get("path", long_name or name), int(fields.get("size", size))
        if kind == tarfile.DIRTYPE:
            size = 0  # what it claims is room for its entries
        if not 0 <= size <= MAX_MEMBER:
            raise ValueError(
                f"{_quote(name)} claims {_shorten(f'{size:,}')} bytes; at most {MAX_MEMBER:,} can be right"
            )
        padded = size + -size % tarfile.BLOCKSIZE
        position += tarfile.BLOCKSIZE + padded
        if position > MAX_ARCHIVE:
            raise ValueError(f"over {MAX_ARCHIVE:,} bytes, more than any MNIST archive")
        data = _read(file, padded)[:size]
        if not describes_next:
            yield name, kind, data
            fields, long_name = {}, None
        elif kind == tarfile.GNUTYPE_LONGNAME:
            long_name = _text(data)
        elif kind == tarfile.XGLTYPE:
            defaults |= _parse_pax(data)
        elif kind != tarfile.GNUTYPE_LONGLINK:
            fields = _parse_pax(data)
    if any(file.read(MAX_MEMBER)) or file.read(1):
        raise ValueError(f"it goes on behind its end at byte {position:,}")


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("cut off before its end")
    return data


def _parse_header(header: bytes) -> tuple[str, bytes, int]:
    """Name, type and size of a member. Raises ValueError."""
    checksum = header[148:156]  # summed up as if it were eight spaces
    if _number(checksum) != sum(header) - sum(checksum) + 8 * ord(" "):
        raise ValueError("wrong checksum")
    name, kind = _text(header[:100]), header[156:157]
    if header[257:263] == tarfile.POSIX_MAGIC[:6] and header[345]:  # GNU's headers hold something else there
        name = f"{_text(header[345:500])}/{name}"
    if kind == tarfile.AREGTYPE and name.endswith("/"):
        kind = tarfile.DIRTYPE  # as it was before POSIX
    return name, kind, _number(header[124:136])


def _number(field: bytes) -> int:
    """Octal digits, or behind a set first bit base 256, as GNU and others write what is too large for octal."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _text(field: bytes) -> str:
    """What stands before the first 0."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _parse_pax(data: bytes) -> dict[str, str]:
    """Records `length keyword=value` and a line feed, where length counts all of it. Raises ValueError."""
    fields, start = {}, 0
    while start < len(data):
        record = _PAX_RECORD.match(data, start)
        end = start + int(record[1]) if record else 0
        if not record or not record.end() < end <= len(data):
            raise ValueError("a damaged pax header")
        fields[_text(record[2])] = _text(data[record.end() : end - 1])
        start = end
    return fields


def _quote(name: str) -> str:
    """A name as it can be shown: forged ones may be unprintable, or endless."""
    return repr(_shorten(name))


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:50]}...{text[-50:]}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def write_tar(path: str | Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write uint8 (N, 28, 28) and (N,) as a tar of PNGs in the layout that `MNIST` reads, on disk before it returns.

    Byte for byte the same on every machine: the headers carry no time and no owner, and the pixels are stored, not
    compressed, because each version of zlib compresses in its own way.
    """
    with open(path, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            folder = tarfile.TarInfo(f"{split}/")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
            for number, (image, label) in enumerate(zip(np.asarray(images), np.asarray(labels).tolist(), strict=True)):
                data = encode_png(image)
                member = tarfile.TarInfo(f"{split}/{number:05d}_{label}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
                archive.members.clear()
        file.flush()
        os.fsync(file.fileno())


def encode_png(image: np.ndarray) -> bytes:
    """A uint8 (H, W) image, up to 255x255, as a grayscale PNG whose pixels are one stored block (RFC 1951, 3.2.4)."""
    height, width = image.shape
    rows = np.pad(image, ((0, 0), (1, 0))).tobytes()  # each row behind a 0: no filter
    block = struct.pack("<BHH", 1, len(rows), len(rows) ^ 0xFFFF) + rows  # 1: the last block, and stored
    pixels = b"\x78\x01" + block + struct.pack(">I", zlib.adler32(rows))  # RFC 1950: header, data, checksum
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
