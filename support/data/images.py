"""Images and labels as they lie on disk -> uint8 arrays: a tar of PNGs, a folder of them, or IDX files.

Nothing is extracted, and what is read is bounded by counts, whatever a file claims. Knows nothing of torch.
"""

import io
import re
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from support.data import png
from support.data.find import MAX_BYTES, data_errors, unpacked, what_is
from support.data.png import SIZE

MAX_IMAGES = 1_000_000  # some sixteen times MNIST, 784 MB in memory
MAX_LABEL = 255  # IDX keeps a label in a byte
MAX_MEMBER = 2**20  # bytes of a file, or of a header about one; a 28x28 PNG takes under 1,000
MAX_OTHERS = 100_000  # folders and files that are no image, and 4 more for each image: macOS writes three
MAX_CHARACTERS = 2**26  # of all paths: 64 an image
MAX_RECORDS = 100  # of a pax header: a file has some ten
UNFILTERED = 2**20  # bytes of lines at a time: what they need then stays in the processor's cache

_NAME = re.compile(r"(?:([0-9]{1,18})_([0-9]{1,3})|([0-9]{1,18})|.*)\.png", re.IGNORECASE | re.DOTALL)
_FOLDER = re.compile(r"(?:.*/)?([0-9]{1,3})/[^/]*", re.DOTALL)  # whose name is the label of its images
_NO_IMAGE = re.compile(  # hidden, in a hidden folder, or what systems and people put beside images
    r"(?is)(.*/)?(\._[^/]*|\.(?!\.?/)[^/]*/.*|(\.[^/]*|thumbs\.db|desktop\.ini|(readme|licen[cs]e)(\.[^/]*)?)(?<!\.png))"
)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_FOLDERS = (tarfile.DIRTYPE, b"D", b"V")  # b"D": with a list of its files, by tar -g; b"V": the label of tar -V
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE)
_ABOUT_NEXT = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


def read_images(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,), 0 to 255, in the order of their numbers. Raises DataError.

    path: a tar (plain, gzip or bzip2, whatever its name) or a folder of PNGs, named `{number}_{label}.png` or lying in
    a folder of their label; or an IDX file of images, beside the one of its labels. PNGs in folders of their label are
    ordered by number where each has one of its own, else by path.
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


def _read_pngs(files: Iterator[tuple[str, bytes | None]]) -> tuple[np.ndarray, np.ndarray]:
    """As `read_images`, of paths and contents; None in place of what is no image. Raises ValueError."""
    pixels, lines, labels, numbers, paths = bytearray(), bytearray(), bytearray(), array("q"), []
    others = characters = 0
    for path, data in files:
        characters += len(path)
        if data is None:
            others += 1
        else:
            try:
                lines += png.scanlines(data)
                number, label = _number_and_label(path)
            except ValueError as error:
                said = f"is {kind}; expected a PNG" if (kind := what_is(data)) not in (None, "a PNG") else error
                raise ValueError(f"{path[-100:]!r} {said}") from None
            paths.append(path)
            numbers.append(number)
            labels.append(label)
        if len(labels) > MAX_IMAGES or others > MAX_OTHERS + 4 * len(labels) or characters > MAX_CHARACTERS:
            raise ValueError(f"holds over {MAX_IMAGES:,} images, {MAX_OTHERS:,} other members, or endless paths")
        if len(lines) >= UNFILTERED:
            pixels += png.unfilter(lines).tobytes()
            lines.clear()
    if not labels:
        raise ValueError("holds no images; expected PNGs named {number}_{label}.png, not hidden")
    pixels += png.unfilter(lines).tobytes() if lines else b""
    order = _order(np.array(numbers), paths)
    images = np.frombuffer(pixels, np.uint8).reshape(-1, SIZE, SIZE)[order]
    return images, np.frombuffer(labels, np.uint8)[order].astype(np.int64)


def _number_and_label(path: str) -> tuple[int, int]:
    """What a path says: `train/00000_5.png` is image 0, a five; so is `5/00000.png`. -1 if there is no number."""
    name, folder = _NAME.fullmatch(path.rpartition("/")[2]), _FOLDER.fullmatch(path)
    labels = {int(found) for found in (name and name[2], folder and folder[1]) if found}
    if not name or len(labels) != 1 or max(labels) > MAX_LABEL:
        found = f"has the label {' and '.join(map(str, sorted(labels)))} by its path" if labels else "has no label"
        raise ValueError(f"{found}; expected {{number}}_{{label}}.png, or {{label}}/*.png, from 0 to {MAX_LABEL}")
    return int(name[1] or name[3] or -1), labels.pop()


def _order(numbers: np.ndarray, paths: list[str]) -> np.ndarray | slice:
    """Positions by number where each image has one of its own, else by path where all lie in folders of their label."""
    _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    if numbers.min() >= 0 and counts.max() == 1:
        return first if (np.diff(first) < 0).any() else slice(None)  # a slice copies nothing
    if all(map(_FOLDER.fullmatch, paths)) and len(set(paths)) == len(paths):
        return np.array(sorted(range(len(paths)), key=paths.__getitem__))
    path = paths[first[0 if numbers.min() < 0 else counts.argmax()]]
    raise ValueError(f"{path[-100:]!r} has no number of its own; expected one for each image")


def _folder(top: Path) -> Iterator[tuple[str, bytes | None]]:
    """Path and content of each file, None for what is no image. Links to files are followed, to folders refused."""
    for path in (top, *top.rglob("*")):
        shown = path.relative_to(top).as_posix()
        if path.is_dir() and path.is_symlink() and path != top:
            raise ValueError(f"{shown!r} is a link to a folder; expected files and folders")
        if path.is_dir():
            next(path.iterdir(), None)  # an error where it may not be read, which rglob passes over
        if path.is_dir() or _NO_IMAGE.fullmatch(shown):
            yield shown, None
        elif not path.is_file() or path.stat().st_size > MAX_MEMBER:
            raise ValueError(f"{shown!r} is no regular file of at most {MAX_MEMBER:,} bytes")
        else:
            yield shown, path.read_bytes()


def _archive(content: Any) -> Iterator[tuple[str, bytes | None]]:
    """Path and content of each file of a tar, USTAR, GNU or pax; None for what is no image. Raises ValueError.

    tarfile parses the headers. Its TarFile takes a damaged one for the end, and a pax header in quadratic time.
    """
    position, left, path_of_next = 0, 0, ""
    while any(header := content.read(tarfile.BLOCKSIZE)):
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ValueError(f"is damaged, or no tar archive: {error} at byte {position:,}") from None
        path, is_about_next = path_of_next or member.name, member.type in _ABOUT_NEXT
        is_image = member.type in _FILES and not _NO_IMAGE.fullmatch(path)
        if member.type not in _FILES + _FOLDERS + _ABOUT_NEXT:
            raise ValueError(f"{path[-100:]!r} is a link, a device or sparse; expected a regular file")
        size = 0 if member.type == tarfile.DIRTYPE else member.size  # a folder's is room for its entries
        left = size + -size % tarfile.BLOCKSIZE
        position += tarfile.BLOCKSIZE + left
        if size < 0 or position > MAX_BYTES or ((is_image or is_about_next) and size > MAX_MEMBER):
            raise ValueError(f"{path[-100:]!r} claims {size:,} bytes; at most {MAX_MEMBER:,} are read")
        data = content.read(min(left, MAX_MEMBER))  # all of it, but for what is skipped
        left -= len(data)
        while left and (skipped := content.read(min(left, MAX_MEMBER))):
            left -= len(skipped)
        if left:
            break
        path_of_next = (path_of_next or _path_of_next(member.type, data[:size])) if is_about_next else ""
        yield path, data[:size] if is_image else None
    if not header or left or content.read(MAX_MEMBER).strip(b"\0") or content.read(1):
        raise ValueError("is cut off before its end, or goes on behind it")


def _path_of_next(kind: bytes, data: bytes) -> str:
    """The path that a header gives to the next member, or nothing. Raises ValueError."""
    fields = {}  # of records `length keyword=value` and a line feed, where length counts them all
    if kind == tarfile.GNUTYPE_LONGNAME:
        fields[b"path"] = data.partition(b"\0")[0]
    for _ in range(MAX_RECORDS if kind in _PAX else 0):
        record = re.match(rb"([0-9]{1,7}) ([^=\n]{1,100})=", data)
        if not record or not record.end() < (length := int(record[1])) <= len(data):
            break
        fields[record[2]], data = data[record.end() : length - 1], data[length:]
    refused = b"size" in fields or b"GNU.sparse" in b" ".join(fields) or (b"path" in fields and kind == tarfile.XGLTYPE)
    if refused or (data and kind in _PAX):
        raise ValueError(
            f"has a pax header that is damaged, of over {MAX_RECORDS} records, sparse, or about all members"
        )
    return fields.get(b"path", b"").decode("utf-8", "surrogateescape")


def _read_idx(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """As `read_images`, of MNIST's own format; the labels lie beside, in a file with .gz or without. Raises ValueError.

    Two zeros, the type (8: uint8), the number of dimensions, each dimension in 4 bytes, big-endian; then the values.
    """
    beside = path.with_name(path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1"))
    packed = beside.with_name(f"{beside.name}.gz")
    arrays = []
    for file, shape in ((path, (SIZE, SIZE)), (packed if packed.exists() else beside, ())):
        with unpacked(file) as content:
            data = bytearray(content.read(8 + 4 * len(shape)))
            start, count, size = len(data), int.from_bytes(data[4:8], "big"), int(np.prod(shape))
            while len(data) <= start + size * min(count, MAX_IMAGES) and (part := content.read(MAX_MEMBER)):
                data += part
        header = np.array([0x801 + len(shape), count, *shape], ">u4").tobytes()
        if data[:start] != header or not count or len(data) != start + size * count:
            found = f"{file.name!r} begins with {data[:16].hex(' ', 4)} and has {len(data):,} bytes or more"
            raise ValueError(f"{found}; expected IDX of uint8 {('N', *shape)}, N at most {MAX_IMAGES:,}")
        arrays.append(np.frombuffer(data, np.uint8, offset=start).reshape(-1, *shape))
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError(f"holds {len(arrays[0]):,} images, but beside lie {len(arrays[1]):,} labels")
    return arrays[0], arrays[1].astype(np.int64)
