"""Images and labels as they lie on disk -> uint8 arrays: a tar of PNGs, a folder of them, or IDX files.

Nothing is extracted, and what is read is bounded by counts, whatever a file claims. Knows nothing of torch.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from support.data import png
from support.data.find import data_errors, unpacked, what_is
from support.data.png import SIZE

MAX_IMAGES = 1_000_000  # some sixteen times MNIST, 784 MB in memory
MAX_BYTES = 2_000_000_000  # of a tar, unpacked: a million images take 1.5 GB of it
MAX_LABEL = 255  # IDX keeps a label in a byte
MAX_MEMBER = 2**20  # bytes of a file, or of a header about one; a 28x28 PNG takes under 1,000
MAX_CHARACTERS = 2**26  # of the paths of all images: 64 an image
UNFILTERED = 2**20  # bytes of lines at a time: what they need then stays in the processor's cache

_NAME = re.compile(r"(?:([0-9]{1,18})_([0-9]{1,3})|([0-9]{1,18})|.*)\.png", re.IGNORECASE | re.DOTALL)
_FOLDER = re.compile(r"(?:.*/)?([0-9]{1,3})/[^/]*", re.DOTALL)  # whose name is the label of its images
# Hidden, in a hidden folder, or what systems and people put beside images.
_NO_IMAGE = re.compile(r"(?is)(.*/)?(\.(?!\.?/).*|thumbs\.db|desktop\.ini|(readme|licen[cs]e)(\.[^/]*)?)")
_PAX_RECORD = re.compile(rb"^([0-9]+) (path|size|GNU\.sparse[^=\n]*)=", re.MULTILINE)  # of those that say what follows
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_ABOUT_NEXT = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)


def read_images(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,), 0 to 255, in the order of number and path. Raises DataError.

    path: a tar (plain, gzip or bzip2, whatever its name) or a folder of PNGs, named `{number}_{label}.png` or lying in
    a folder of their label; or an IDX file of images, beside the one of its labels.
    """
    with data_errors(path := Path(path)):
        if path.is_dir():
            return _read_pngs(_folder(path))
        with unpacked(path) as content:
            kind = what_is(content.peek(512)) or "a tar"  # an old one, which has no mark
            if kind == "an IDX file":
                return _read_idx(path)
            if not kind.startswith("a tar"):
                raise ValueError(f"is {kind}; expected a tar of PNGs, a folder of them, or an IDX file")
            return _read_pngs(_archive(content))


def write_tar(path: str | Path, split: str, images: Any, labels: Any) -> None:
    """Write uint8 (N, 28, 28) and integers (N,), 0 to 255, as a tar of PNGs named `{split}/{number:05d}_{label}.png`.

    images, labels: numpy arrays, or what numpy makes arrays of, as tensors. Makes the tar's folder. Raises ValueError
    on other arrays, OSError. The same on every machine: the headers carry no time and no owner, and the pixels are
    stored, not compressed, because each version of zlib compresses in its own way.
    """
    images, labels = np.ascontiguousarray(images), np.asarray(labels)
    fits = images.dtype == np.uint8 and labels.size and labels.ndim == 1 and images.shape == (labels.size, SIZE, SIZE)
    if not fits or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > MAX_LABEL:
        found = f"{images.dtype} {images.shape}, and labels {labels.dtype} {labels.shape} up to {labels.max(initial=0)}"
        raise ValueError(f"images are {found}; expected uint8 (N, {SIZE}, {SIZE}), and integers (N,) 0 to {MAX_LABEL}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
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


def _read_pngs(files: Iterator[tuple[str, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """As `read_images`, of paths and contents. Raises ValueError."""
    paths, lines, pixels, characters = [], bytearray(), bytearray(), 0
    for path, data in files:
        try:
            lines += png.scanlines(data)
        except ValueError as error:
            said = f"is {kind}; expected a PNG" if (kind := what_is(data)) not in (None, "a PNG") else error
            raise ValueError(f"{path[-100:]!r} {said}") from None
        paths.append(path)
        characters += len(path)
        if len(paths) > MAX_IMAGES or characters > MAX_CHARACTERS:
            raise ValueError(f"holds over {MAX_IMAGES:,} images, or endless paths")
        if len(lines) >= UNFILTERED:
            pixels += png.unfilter(lines).tobytes()
            lines.clear()
    if not paths:
        raise ValueError("holds no images; expected PNGs named {number}_{label}.png, not hidden")
    pixels += png.unfilter(lines).tobytes() if lines else b""
    numbers, labels = np.fromiter(map(_number_and_label, paths), np.dtype((np.int64, 2))).T.copy()
    images = np.frombuffer(pixels, np.uint8).reshape(-1, SIZE, SIZE)
    order = sorted(range(len(paths)), key=list(zip(numbers.tolist(), paths, strict=True)).__getitem__)
    return (images, labels) if order == list(range(len(paths))) else (images[order], labels[order])


def _number_and_label(path: str) -> tuple[int, int]:
    """What a path says: `train/00000_5.png` is image 0, a five; so is `5/00000.png`. -1 if there is no number."""
    name, folder = _NAME.fullmatch(path.rpartition("/")[2]), _FOLDER.fullmatch(path)
    labels = {int(found) for found in (name and name[2], folder and folder[1]) if found}
    if not name or len(labels) != 1 or max(labels) > MAX_LABEL:
        found = f"has the label {' and '.join(map(str, sorted(labels)))} by its path" if labels else "has no label"
        expected = f"expected {{number}}_{{label}}.png, or {{label}}/*.png, from 0 to {MAX_LABEL}"
        raise ValueError(f"{path[-100:]!r} {found}; {expected}")
    return int(name[1] or name[3] or -1), labels.pop()


def _folder(top: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each image. Links to files are followed, to folders refused."""
    for path in (top, *top.rglob("*")):
        shown = path.relative_to(top).as_posix()
        if path.is_dir() and path.is_symlink() and path != top:
            raise ValueError(f"{shown!r} is a link to a folder; expected files and folders")
        if path.is_dir():
            next(path.iterdir(), None)  # an error where it may not be read, which rglob passes over
        elif not _NO_IMAGE.fullmatch(shown):
            if not path.is_file() or path.stat().st_size > MAX_MEMBER:
                raise ValueError(f"{shown!r} is no regular file of at most {MAX_MEMBER:,} bytes")
            yield shown, path.read_bytes()


def _archive(content: Any) -> Iterator[tuple[str, bytes]]:
    """Path and content of each image in a tar, USTAR, GNU or pax. Raises ValueError.

    tarfile parses the headers. Its TarFile takes a damaged one for the end, and a pax header in quadratic time.
    """
    position, path_of_next = 0, ""
    while any(header := content.read(tarfile.BLOCKSIZE)):
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ValueError(f"is damaged, or no tar archive: {error} at byte {position:,}") from None
        path = path_of_next or member.name
        if member.type not in (*_FILES, tarfile.DIRTYPE, *_ABOUT_NEXT):
            raise ValueError(f"{path[-100:]!r} is a link, a device or sparse; expected a regular file")
        size = 0 if member.type == tarfile.DIRTYPE else member.size  # a folder's is room for its entries
        padded = size + -size % tarfile.BLOCKSIZE
        position += tarfile.BLOCKSIZE + padded
        if not 0 <= size <= MAX_MEMBER or position > MAX_BYTES:
            raise ValueError(f"{path[-100:]!r} claims {size:,} bytes; at most {MAX_MEMBER:,} are read")
        data = content.read(padded)
        if len(data) < padded:
            raise ValueError("is cut off before its end")
        if member.type in _FILES and not _NO_IMAGE.fullmatch(path):
            yield path, data[:size]
        is_about_next = member.type in _ABOUT_NEXT
        path_of_next = (path_of_next or _path_of_next(member.type, data[:size])) if is_about_next else ""
    if not header or content.read(MAX_MEMBER).strip(b"\0") or content.read(1):
        raise ValueError("is cut off before its end, or goes on behind it")


def _path_of_next(kind: bytes, data: bytes) -> str:
    """The path that a header gives to the next member, or nothing. Raises ValueError."""
    path = data.partition(b"\0")[0] if kind == tarfile.GNUTYPE_LONGNAME else b""
    for record in _PAX_RECORD.finditer(data if kind != tarfile.GNUTYPE_LONGNAME else b""):
        end = record.start() + int(record[1]) - 1  # `length keyword=value` and a line feed: length counts them all
        if record[2] != b"path" or kind == tarfile.XGLTYPE or data[end : end + 1] != b"\n":
            raise ValueError("has a pax header that is damaged, of a sparse or large file, or about all members")
        path = data[record.end() : end]
    return path.decode("utf-8", "surrogateescape")


def _read_idx(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """As `read_images`, of MNIST's own format; the labels lie beside, in a file with .gz or without. Raises ValueError.

    Two zeros, the type (8: uint8), the number of dimensions, each dimension in 4 bytes, big-endian; then the values.
    """
    beside = path.with_name(path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1"))
    packed = beside.with_name(f"{beside.name}.gz")
    arrays = []
    for file, shape in ((path, (SIZE, SIZE)), (packed if packed.exists() else beside, ())):
        with unpacked(file) as content:
            header = content.read(8 + 4 * len(shape))
            count = int.from_bytes(header[4:8], "big")
            expected = np.array([0x801 + len(shape), count, *shape], ">u4").tobytes()
            values = np.empty((min(count, MAX_IMAGES), *shape), np.uint8)
            pixels, filled = values.reshape(-1), 0
            while part := content.readinto(pixels[filled : filled + MAX_MEMBER]):  # gzip holds as much once more
                filled += part
            if header != expected or not 0 < filled == values.nbytes or content.read(1):
                found = f"{file.name!r} begins with {header.hex(' ', 4)}, or has another length than that says"
                raise ValueError(f"{found}; expected IDX of uint8 {('N', *shape)}, N at most {MAX_IMAGES:,}")
        arrays.append(values)
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError(f"holds {len(arrays[0]):,} images, but beside lie {len(arrays[1]):,} labels")
    return arrays[0], arrays[1].astype(np.int64)
