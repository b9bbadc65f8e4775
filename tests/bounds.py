"""What hostile data cost at most: the longest time and the most memory, kind by kind: `python tests/bounds.py`.

Each kind fills one of the bounds of support/data/ as far as it goes, or goes beyond it, and is read in a process of its
own. Prints what came of it, the seconds of CPU time, and the peak of the memory beyond the imports; the exit status is
1 if one took over MAX_SECONDS or MAX_MEMORY.
"""

import gzip
import io
import resource
import struct
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from support.data import DataError, images, png, read_images
from support.data.png import SIZE

MAX_SECONDS = 120  # of CPU time, a kind: three times what a million images take
MAX_MEMORY = 1_200  # MB beyond the imports; a million images take 784
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
ALL = images.MAX_BYTES - 100_000


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A header, which may lie about the size, and the content in whole blocks."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, len(content) if size is None else size
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """A pax header of records `keyword=value`, whose lengths are put in front."""
    lines = [b" %s\n" % record for record in records]
    lengths = (len(line) + len(str(len(line) + len(str(len(line))))) for line in lines)  # its own digits count, too
    return member("pax", b"".join(b"%d%s" % pair for pair in zip(lengths, lines, strict=True)), kind)


def chunk(content: bytes) -> bytes:
    """A chunk of a PNG, of its kind and its data: behind the length of the data, before the checksum."""
    return struct.pack(">I", max(0, len(content) - 4)) + content + struct.pack(">I", zlib.crc32(content))


def idx(values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def image(extra: bytes = b"", mode: str = "L") -> bytes:
    """A PNG as Pillow writes it, with chunks put behind its header."""
    file = io.BytesIO()
    Image.new("L", (SIZE, SIZE), 7).convert(mode).save(file, "png", compress_level=0)
    data = file.getvalue()
    return data[:33] + extra + data[33:]


def many(count: float, content: bytes, name: str = "{}_7.png") -> Iterable[bytes]:
    """So many images of one content, but no more than may be unpacked."""
    fit = min(int(count), ALL // (len(content) + 2 * BLOCK))
    return (member(name.format(number), content) for number in range(fit))


def zeros(size: float) -> list[bytes]:
    return [bytes(2**20)] * (int(size) // 2**20)


BOMB = png.SIGNATURE + image()[8:33] + chunk(b"IDAT" + zlib.compress(bytes(10**9))) + chunk(b"IEND")
TEXTS = chunk(b"zTXtComment\0\0" + zlib.compress(bytes(10**8))) * 10
CHUNKS = chunk(b"tEXt") * 80_000
LONG = ("\N{GRINNING FACE}" * 60 + "/") * 1000 + "7/{}.png"  # each takes four bytes in memory
KINDS: dict[str, Callable[[float], Iterable[bytes]]] = {
    "zeros behind the end": lambda scale: (member("0_0.png", image()) + END, *zeros(scale * ALL)),
    "empty gzip streams": lambda scale: [gzip.compress(b"")] * int(scale * 2_000_000),
    "folders": lambda scale: [member("0/", kind=b"5")] * int(ALL // BLOCK * scale),
    "pax headers": lambda scale: [member("pax", b"1\n" * 2**19, b"x") + member("0/", kind=b"5")] * int(scale * 1900),
    "too many images": lambda scale: many(images.MAX_IMAGES * scale + 1, image()),
    "long paths": lambda scale: many(scale * images.MAX_CHARACTERS / len(LONG), image(), LONG),
    "images of large texts": lambda scale: many(2_000 * scale, image(TEXTS, "RGBA")),
    "images of many chunks": lambda scale: many(2_000 * scale, image(CHUNKS)),
    "an image that unpacks to 1 GB": lambda scale: many(1, BOMB),
    "IDX": lambda scale: (struct.pack(">4I", 2051, int(1e6 * scale), SIZE, SIZE), *zeros(786e6 * scale + 2**21)),
}


def make(name: str, folder: Path, scale: float) -> Path:
    """Write a kind into a folder; returns what is to be read."""
    path = folder / ("train-images-idx3-ubyte" if name == "IDX" else "train.tar")
    with open(path, "wb") if "streams" in name else gzip.open(path, "wb", compresslevel=1) as file:
        file.writelines(KINDS[name](scale))
        file.write(END)
    return path


def peak() -> float:
    """Peak resident memory of this process, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would tell the peak of the process that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(path: Path) -> dict[str, Any]:
    """Read data in this process: what came of it, seconds of CPU time, MB beyond the imports."""
    before, started = peak(), time.process_time()
    try:
        result = f"{len(read_images(path)[1]):,} images"
    except DataError as error:
        result = str(error).replace(f"{path}: ", "").partition("\n")[0]
    return {"result": result, "seconds": time.process_time() - started, "memory": peak() - before}


def main() -> None:
    fine = True
    for name in KINDS:
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as process:
            found = process.submit(measure, make(name, Path(folder), 1.0)).result()
        print(f"{name:<32} {found['seconds']:>6.2f} s {found['memory']:>4.0f} MB  {found['result'][:90]}", flush=True)
        fine = fine and found["seconds"] <= MAX_SECONDS and found["memory"] <= MAX_MEMORY
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
