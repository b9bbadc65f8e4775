"""What hostile data cost at most: the longest time and the most memory, kind by kind.

    python tests/bounds.py
    python tests/bounds.py --scale 0.1    # files a tenth as large

Each kind fills one of the bounds of support/data/ as far as it goes, or goes beyond it, and is read in a process of its
own. Prints what came of it, the seconds of CPU time, and the peak of the memory beyond the imports and the images that
were read; the exit status is 1 if one took over MAX_SECONDS or MAX_MEMORY, or ended in anything but a DataError.
"""

import argparse
import bz2
import gzip
import io
import resource
import struct
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from support.data import DataError, find, images, png, read_images
from support.data.png import SIZE

MAX_SECONDS = 120  # of CPU time, a kind: three times what a million images take
MAX_MEMORY = 400  # MB beyond the imports and the images
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
ALL = find.MAX_BYTES - 100_000


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A header, which may lie about the size, and the content in whole blocks."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, len(content) if size is None else size
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with a right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def idx(values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def image(extra: bytes = b"", mode: str = "L") -> bytes:
    """A PNG as Pillow writes it, with chunks put behind its header."""
    file = io.BytesIO()
    Image.new("L", (SIZE, SIZE), 7).convert(mode).save(file, "png", compress_level=0)
    data = file.getvalue()
    return data[:33] + extra + data[33:]


def many(count: float, content: bytes, name: str = "{}_7.png", before: bytes = b"") -> Iterator[bytes]:
    return (before + member(name.format(number), content) for number in range(int(count)))


def as_many_as_fit(scale: float, content: bytes) -> Iterator[bytes]:
    return many(scale * ALL / (len(content) + 2 * BLOCK), content)


def zeros(size: float) -> Iterator[bytes]:
    return (bytes(2**20) for _ in range(int(size) // 2**20))


def pax(count: int, size: int) -> bytes:
    """A pax header of so many records of so many bytes, whose values are runs of digits, before a folder."""
    starts = (b"%d %d=" % (size, number) for number in range(count))
    records = b"".join(start + b"9" * (size - len(start) - 1) + b"\n" for start in starts)
    return member("pax", records, b"x") + member("0/", b"", b"5")


def skipped(scale: float) -> Iterable[bytes]:
    """A list of files, by `tar -g`, of as many bytes as may be unpacked."""
    size = int(scale * ALL) // 2**20 * 2**20
    return (member("0/", b"", b"D", size), *zeros(size), member("0_0.png", image()))


BOMB = png.SIGNATURE + image()[8:33] + chunk(b"IDAT", zlib.compress(bytes(10**9))) + chunk(b"IEND", b"")
TEXTS = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8))) * 10
CHUNKS = chunk(b"tEXt", b"") * (png.MAX_CHUNKS - 4)
SPARSE = member("pax", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", b"x") + member("0_0.png", size=10**9)
LONG = ("\N{GRINNING FACE}" * 60 + "/") * 1000 + "7/{}.png"  # each takes four bytes in memory
KINDS: dict[str, Callable[[float], Iterable[bytes]]] = {
    "skipped bytes, plain": skipped,
    "skipped bytes, gzip": skipped,
    "skipped bytes, bzip2": skipped,
    "zeros behind the end": lambda scale: (member("0_0.png", image()) + END, *zeros(scale * ALL)),
    "folders": lambda scale: (member(f"{number}/", b"", b"5") for number in range(int(1_000_000 * scale))),
    "pax headers": lambda scale: (pax(images.MAX_RECORDS, 40) for _ in range(int(images.MAX_OTHERS / 2 * scale))),
    "large pax headers": lambda scale: (pax(images.MAX_RECORDS, 10_485) for _ in range(int(scale * 1900))),
    "sparse map": lambda scale: (SPARSE + b"999999999\n", b"1\n" * int(scale * 5e8)),
    "headers about headers": lambda scale: (
        member("x", b"", kind) for _ in range(int(10**6 * scale)) for kind in (b"L", b"x")
    ),
    "plain images": lambda scale: many(100_000 * scale, image()),
    "too many images": lambda scale: many(images.MAX_IMAGES * scale + 1, image()),
    "images among others": lambda scale: many(100_000 * scale, image(), before=member(".x") * 4),
    "images in order of their paths": lambda scale: many(100_000 * scale, image(), "x" * 80 + "/7/{}_.png"),
    "long paths": lambda scale: many(images.MAX_CHARACTERS * scale / len(LONG), image(), LONG),
    "images of another kind": lambda scale: many(100_000 * scale, image(mode="RGBA")),
    "images of large texts": lambda scale: as_many_as_fit(scale, image(TEXTS, "RGBA")),
    "images of many chunks": lambda scale: as_many_as_fit(scale, image(CHUNKS)),
    "images of many chunks, RGBA": lambda scale: as_many_as_fit(scale, image(CHUNKS, "RGBA")),
    "an image that unpacks to 1 GB": lambda scale: many(1, BOMB),
}


def make(name: str, folder: Path, scale: float) -> Path:
    """Write a kind into a folder; returns what is to be read."""
    path = folder / ("train-images-idx3-ubyte" if name == "IDX" else "train.tar")
    if name == "IDX":
        count = int(images.MAX_IMAGES * scale)
        data = struct.pack(">4I", 2051, count, SIZE, SIZE) + bytes(count * SIZE * SIZE + 10**6)
        path.write_bytes(gzip.compress(data, 1))
    elif name.startswith("empty streams"):
        path.write_bytes((gzip if "gzip" in name else bz2).compress(b"") * int(scale * 2_000_000))
    else:
        opener: Any = {"plain": open, "bzip2": bz2.open}.get(name.rpartition(", ")[2], gzip.open)
        with opener(path, "wb", **({"compresslevel": 1} if opener is gzip.open else {})) as file:
            file.writelines(KINDS[name](scale))
            file.write(END)
    return path


NAMES = (*KINDS, "empty streams, gzip", "empty streams, bzip2", "IDX")


def peak() -> float:
    """Peak resident memory of this process, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would tell the peak of the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(path: Path) -> dict[str, Any]:
    """Read data in this process: what came of it, seconds of CPU time, MB beyond the imports and the images."""
    before, started, taken = peak(), time.process_time(), 0.0
    try:
        pixels, labels = read_images(path)
        taken, result = (pixels.nbytes + labels.nbytes) / 1e6, f"{len(labels):,} images"
    except DataError as error:
        result = str(error).replace(f"{path}: ", "").partition("\n")[0]
        if result.startswith(("holds over", "'train-images")):
            taken = images.MAX_IMAGES * SIZE * SIZE / 1e6  # which were read before the one that is too many
    return {"result": result, "seconds": time.process_time() - started, "memory": max(0, peak() - before - taken)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the files (default: %(default)s)")
    arguments = parser.parse_args()
    fine = True
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as process:
            try:
                found = process.submit(measure, make(name, Path(folder), arguments.scale)).result()
            except Exception as error:  # also of a process that was killed
                found = {"seconds": float("inf"), "memory": 0, "result": f"BROKEN: {error!r}"}
        print(f"{name:<32} {found['seconds']:>6.2f} s {found['memory']:>4.0f} MB  {found['result'][:90]}", flush=True)
        fine = fine and found["seconds"] <= MAX_SECONDS and found["memory"] <= MAX_MEMORY
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
