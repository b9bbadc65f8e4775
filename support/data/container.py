"""What a file holds, decompressed where it is compressed: read forward only, and bounded by counts.

Whatever a file claims, it is never asked for more than it is allowed. Knows nothing of images.
"""

import bz2
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from support.files import open_regular
from support.terminal import UserError, printable

MAX_BYTES = 2_000_000_000  # of a file, compressed or decompressed: a million images take 1.5 GB of a tar
MAX_STREAMS = 100_000  # of a compressed file, one behind the other: bgzip begins a new one every 64 KB
MAX_DICTIONARY = 100 * 1024 * 1024  # bytes that xz may claim to need: xz -9 needs 65 MiB
CHUNK = 64 * 1024  # bytes read or decompressed at a time
START = 512  # bytes by which a file is recognized

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
_FORMATS = (  # how a file begins, and what it then is
    (rb"\xff\xd8\xff", "a JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "a PNG"),
    (rb"GIF8[79]a", "a GIF"),
    (rb"BM.{4}\0{4}", "a BMP"),
    (rb"RIFF.{4}WEBP", "a WebP picture"),
    (rb"II\*\0|MM\0\*", "a TIFF"),
    (rb".{4}ftyp(heic|heix|mif1|avif)", "a HEIF picture"),
    (rb"PK(\x03\x04|\x05\x06)", "a zip file (unpack it)"),
    (rb"Rar!\x1a\x07", "a RAR file (unpack it)"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z file (unpack it)"),
    (rb"\x28\xb5\x2f\xfd", "a zstd file (unpack it)"),
    (rb"\x1f\x8b", "a gzip file (unpack it)"),
    (rb"BZh[1-9]", "a bzip2 file (unpack it)"),
    (rb"\xfd7zXZ\0", "an xz file (unpack it)"),
    (rb".{257}ustar", "a tar archive"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF\r\n", "an HDF5 file"),
    (rb"PAR1", "a Parquet file"),
    (rb"%PDF-", "a PDF"),
    (rb"version https://git-lfs\.github\.com/", "a Git LFS pointer (git lfs pull brings the file)"),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--)", "a web page"),
    (rb"(\xef\xbb\xbf)?\s*<(\?xml|svg)", "an XML or SVG file"),
)
PICTURES = ("a JPEG", "a GIF", "a BMP", "a WebP picture", "a TIFF")  # that Pillow reads


class DataError(UserError):
    """The data are missing, damaged or not what this project reads. The message names file, member, found, expected."""


def what_is(start: bytes) -> str | None:
    """What a file is that begins so: 'a JPEG', 'empty', 'a text'. None if it is nothing that is known here."""
    if not start:
        return "empty"
    for pattern, name in _FORMATS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return name
    return "a text" if re.fullmatch(rb"[\t\n\r\x20-\x7e]+", start) else None


class Container:
    """A file to read from, whose `start` is known beforehand: up to START bytes, decompressed.

    compression: 'gzip', 'bzip2', 'xz' or None. Opening and reading raise OSError and ValueError; only a regular file is
    opened, since a FIFO might never answer.
    """

    def __init__(self, path: str | Path) -> None:
        self.file = open_regular(Path(path))
        self.position = 0  # bytes read, decompressed
        try:
            self.size = os.fstat(self.file.fileno()).st_size
            if self.size > MAX_BYTES:
                raise ValueError(f"it has {self.size:,} bytes; at most {MAX_BYTES:,} are read")
            magic = self.file.read(6)
            self.file.seek(0)
            self.compression = next((name for start, name in _COMPRESSIONS.items() if magic.startswith(start)), None)
            self._chunks = _decompress(self.file, self.compression) if self.compression else None
            self._buffer = b""
            self.start = self._take(START)
            self._buffer = self.start + self._buffer
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end. Raises ValueError beyond MAX_BYTES, OSError."""
        data = self._take(size)
        self.position += len(data)
        if self.position > MAX_BYTES:
            raise ValueError(f"it holds over {MAX_BYTES:,} bytes, more than is read")
        return data

    def read_exactly(self, size: int) -> bytes:
        """The next `size` bytes. Raises ValueError if there are fewer."""
        data = self.read(size)
        if len(data) < size:
            raise ValueError("cut off before its end")
        return data

    def _take(self, size: int) -> bytes:
        if size <= len(self._buffer):
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data
        if self._chunks is None:
            data, self._buffer = self._buffer + self.file.read(size - len(self._buffer)), b""
            return data
        parts, missing = [self._buffer], size - len(self._buffer)
        self._buffer = b""
        while missing > 0 and (chunk := next(self._chunks, b"")):
            parts.append(chunk[:missing])
            self._buffer = chunk[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)


def _decompress(file: BinaryIO, compression: str) -> Iterator[bytes]:
    """The content of a compressed file, at most CHUNK bytes at a time. Raises ValueError, OSError.

    The modules' own file objects have no bound on streams without content, nor on what xz may claim.
    """
    data, streams = file.read(CHUNK), 0
    while data:
        streams += 1
        if streams > MAX_STREAMS:
            raise ValueError(f"it consists of over {MAX_STREAMS:,} {compression} streams")
        decompressor = _decompressor(compression)
        while not decompressor.eof:
            try:
                part = decompressor.decompress(data, CHUNK)
            except (zlib.error, lzma.LZMAError, OSError) as error:
                raise ValueError(str(error)) from None
            if part:
                yield part
            data = getattr(decompressor, "unconsumed_tail", b"")  # zlib hands back what others keep
            if not decompressor.eof and not data and getattr(decompressor, "needs_input", True):
                data = file.read(CHUNK)
                if not data and not part:
                    raise ValueError("cut off before its end")
        data = decompressor.unused_data.lstrip(b"\0")  # zeros fill up the blocks of a tape
        while not data and (more := file.read(CHUNK)):
            data = more.lstrip(b"\0")


def _decompressor(compression: str) -> Any:
    if compression == "gzip":
        return zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16: in gzip's format (zlib's manual, inflateInit2)
    if compression == "bzip2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY)


def quote(name: str) -> str:
    """A name as it can be shown: forged ones may be unprintable, or endless."""
    return repr(shorten(name))


def shorten(text: str) -> str:
    """The beginning and the end of a long text."""
    return text if len(text) <= 100 else f"{text[:50]}...{text[-50:]}"


def reason(error: BaseException) -> str:
    """What an error says, in one line."""
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)
