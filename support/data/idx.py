"""MNIST's own format, IDX: images in one file, labels in another -> uint8 arrays. Knows nothing of PNGs and tars.

A header of two zeros, the type, the number of dimensions, then each dimension in 4 bytes, big-endian; then the values
(LeCun, Cortes, Burges: The MNIST database of handwritten digits).
"""

import math
import re
import struct
from pathlib import Path

import numpy as np

from support.data.container import Container, DataError, reason
from support.terminal import printable

UNSIGNED_BYTES = 8  # the type that MNIST has
_TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_PART = 1024 * 1024  # bytes read at a time, so that a header that lies cannot make room for what is not there


def is_idx(start: bytes) -> bool:
    """Whether a file that begins so is an IDX file of any type."""
    return len(start) >= 4 and start[:2] == b"\0\0" and start[2] in _TYPES and 1 <= start[3] <= 4


def read_idx(path: Path, size: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, size, size), and labels uint8 (N,), whose file lies beside. Raises DataError.

    most: as many images are read as that, and no more.
    """
    images = _read(path, "images", (size, size), most)
    beside = labels_file(path)
    if beside is None:
        expected = f"expected {printable(labels_name(path))} beside, with .gz or not"
        raise DataError(f"{printable(path)}: the labels of these images are not there; {expected}")
    labels = _read(beside, "labels", (), most)
    if len(images) != len(labels):
        raise DataError(f"{printable(path)}: {len(images):,} images, but {len(labels):,} labels in {printable(beside)}")
    return images, labels


def labels_file(path: Path) -> Path | None:
    """The file of labels beside a file of images, compressed or not; None if it is not there."""
    name = labels_name(path)
    found = [path.with_name(name + ending) for ending in ("", ".gz")]
    return next((file for file in found if file.exists()), None)


def labels_name(path: Path) -> str:
    """As the file of images, with 'labels' and idx1 in its name, without .gz."""
    return re.sub(r"\.gz$", "", path.name).replace("images", "labels").replace("idx3", "idx1")


def _read(path: Path, kind: str, shape: tuple[int, ...], most: int) -> np.ndarray:
    """The values, uint8 (N, *shape). Raises DataError."""
    shown, dimensions = printable(path), 1 + len(shape)
    try:
        with Container(path) as file:
            magic = file.read(4)
            if not is_idx(magic) or magic[2:] != bytes([UNSIGNED_BYTES, dimensions]):
                found = f"IDX of {magic[3]}-dimensional {_TYPES[magic[2]]}" if is_idx(magic) else "no IDX file"
                raise DataError(f"{shown}: is {found}; expected {dimensions}-dimensional uint8, the {kind}")
            count, *found_shape = struct.unpack(f">{dimensions}I", file.read_exactly(4 * dimensions))
            if tuple(found_shape) != shape:
                expected = "x".join(map(str, shape))
                raise DataError(f"{shown}: has images of {'x'.join(map(str, found_shape))}; expected {expected}")
            if count > most:
                raise DataError(f"{shown}: claims {count:,} {kind}; at most {most:,} are read")
            values, size = bytearray(), count * math.prod(shape)
            while len(values) < size:
                values += file.read_exactly(min(size - len(values), _PART))
            if file.read(1):
                raise ValueError(f"it goes on behind its {count:,} {kind}")
    except (ValueError, OSError, MemoryError) as error:
        raise DataError(f"{shown}: is damaged: {reason(error)}; expected {kind} in IDX format") from None
    if not count:
        raise DataError(f"{shown}: holds no {kind}")
    return np.frombuffer(values, np.uint8).reshape(-1, *shape)
