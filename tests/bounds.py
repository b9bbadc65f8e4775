"""What hostile data cost at most: the longest time and the most memory, kind by kind.

    python tests/bounds.py
    python tests/bounds.py --scale 0.1    # files a tenth as large

Each kind fills one of the bounds of support/data/ as far as it goes, or goes beyond it, and is read in a process of its
own. Prints what came of it, the seconds of CPU time, and the peak of the memory beyond the imports and the images that
were read; the exit status is 1 if one took over MAX_SECONDS or MAX_MEMORY, or ended with anything but images or a
DataError.
"""

import argparse
import bz2
import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image

from support.data import DataError, find, images, png, read_images
from support.data.png import SIZE

MAX_SECONDS = 120  # of CPU time, a kind: three times what a million images take
MAX_MEMORY = 400  # MB beyond the imports and the images
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


# --- parts ------------------------------------------------------------------------------------------------------------


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A header, which may lie about the size, and the content in whole blocks."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, len(content) if size is None else size
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def image(extra: bytes = b"", mode: str = "L", **options: Any) -> bytes:
    """A PNG as Pillow writes it, with chunks put behind its header."""
    file = io.BytesIO()
    Image.new("L", (SIZE, SIZE), 7).convert(mode).save(file, "png", **options)
    data = file.getvalue()
    return data[:33] + extra + data[33:]


def many(count: float, content: bytes, name: str = "{}_7.png") -> Iterator[bytes]:
    return (member(name.format(number), content) for number in range(int(count)))


def records(count: int, size: int) -> bytes:
    """So many pax records of so many bytes, whose values are runs of digits."""
    starts = (b"%d %d=" % (size, number) for number in range(count))
    return b"".join(start + b"9" * (size - len(start) - 1) + b"\n" for start in starts)


# --- kinds: each yields the parts of a tar ----------------------------------------------------------------------------

Parts = Iterable[bytes]


def zeros(scale: float) -> Parts:
    """A list of files, by `tar -g`, of as many bytes as may be unpacked."""
    size = int(scale * (find.MAX_BYTES - 100_000)) // BLOCK * BLOCK
    yield member("0/", b"", b"D", size)
    yield from (bytes(min(2**20, size - start)) for start in range(0, size, 2**20))
    yield member("0_0.png", image())


def zeros_behind_the_end(scale: float) -> Parts:
    yield member("0_0.png", image()) + END
    yield from (bytes(2**20) for _ in range(int(scale * find.MAX_BYTES) // 2**20))


def folders(scale: float) -> Parts:
    """As many as there may be, and one more."""
    return (member(f"{number}/", b"", b"5") for number in range(int(images.MAX_OTHERS * scale) + 1))


def empty_files(scale: float) -> Parts:
    return (member(f".{number}") for number in range(int(1_000_000 * scale)))


def pax_headers(scale: float) -> Parts:
    """Of as many records as may be, before folders."""
    content = member("pax", records(images.MAX_RECORDS, 40), b"x")
    return (content + member(f"{number}/", b"", b"5") for number in range(int(images.MAX_OTHERS / 2 * scale)))


def large_pax_headers(scale: float) -> Parts:
    """Of 1 MiB, as many as the bytes allow, of as many records as may be."""
    content = member("pax", records(images.MAX_RECORDS, images.MAX_MEMBER // images.MAX_RECORDS), b"x")
    return (content + member("0/", b"", b"5") for _ in range(int(scale * find.MAX_BYTES / (len(content) + BLOCK)) - 1))


def sparse_map(scale: float) -> Parts:
    """A sparse file of GNU's format 1.0, whose map is endless."""
    said = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
    content = b"999999999\n" + b"1\n" * int(scale * 5e8)
    return member("pax", said, b"x"), member("0_0.png", content)


def chains(scale: float) -> Parts:
    """Headers about headers about headers."""
    return (member("x", b"", kind) for _ in range(int(1_000_000 * scale)) for kind in (b"L", b"K", b"x", b"g"))


def plain_images(scale: float) -> Parts:
    """100,000 images of MNIST's kind, for comparison."""
    return many(100_000 * scale, image(compress_level=0))


def too_many_images(scale: float) -> Parts:
    return many(images.MAX_IMAGES * scale + 1, image(compress_level=0))


def images_among_others(scale: float) -> Parts:
    """Before each of 100,000 images as many others as there may be."""
    others = b"".join(member(f".{number}") for number in range(4))
    return (others + one for one in many(100_000 * scale, image()))


def images_by_path(scale: float) -> Parts:
    """100,000 images that only their long paths put in order."""
    return many(100_000 * scale, image(), "x" * 80 + "/7/{}_.png")


def long_paths(scale: float) -> Parts:
    """Images whose paths have as many characters as they may have together, of four bytes in memory each."""
    path = ("\N{GRINNING FACE}" * 60 + "/") * 1000 + "7/{}.png"
    return many(images.MAX_CHARACTERS * scale / len(path), image(), path)


def images_of_another_kind(scale: float) -> Parts:
    return many(100_000 * scale, image(mode="RGBA"))


def images_of_large_texts(scale: float) -> Parts:
    """Images of nearly 1 MiB, as many as the bytes allow, of texts that unpack to a gigabyte in each."""
    content = image(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8))) * 10, mode="RGBA")
    return many(scale * find.MAX_BYTES / (len(content) + 2 * BLOCK), content)


def images_of_many_chunks(scale: float, mode: str = "L") -> Parts:
    """Images of as many chunks as may be, as many as the bytes allow."""
    content = image(chunk(b"tEXt", b"") * (png.MAX_CHUNKS - 4), mode=mode)
    return many(scale * find.MAX_BYTES / (len(content) + 2 * BLOCK), content)


def images_of_many_chunks_of_another_kind(scale: float) -> Parts:
    return images_of_many_chunks(scale, "RGBA")


def image_bomb(scale: float) -> Parts:
    """An image whose pixels unpack to a gigabyte."""
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0)
    pixels = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(int(10**9 * scale)))) + chunk(b"IEND", b"")
    return many(1, png.SIGNATURE + pixels)


KINDS: tuple[Callable[[float], Parts], ...] = (
    *(zeros, zeros_behind_the_end, folders, empty_files, pax_headers, large_pax_headers, sparse_map, chains),
    *(plain_images, too_many_images, images_among_others, images_by_path, long_paths, images_of_another_kind),
    *(images_of_large_texts, images_of_many_chunks, images_of_many_chunks_of_another_kind, image_bomb),
)
OPENERS: dict[str, Callable[..., Any]] = {
    kind.__name__: partial(gzip.open, mode="wb", compresslevel=1) for kind in KINDS
}
OPENERS |= {"zeros, plain": partial(open, mode="wb"), "zeros, bzip2": partial(bz2.open, mode="wb")}
NAMES = (*OPENERS, "empty streams, gzip", "empty streams, bzip2", "IDX")


def make(name: str, folder: Path, scale: float) -> Path:
    """Write a kind into a folder; returns what is to be read."""
    path = folder / ("train-images-idx3-ubyte" if name == "IDX" else "train.tar")
    if name == "IDX":
        count = int(images.MAX_IMAGES * scale)
        header = struct.pack(">4I", 2051, count, SIZE, SIZE)
        path.write_bytes(gzip.compress(header + bytes(count * SIZE * SIZE + 10**6), 1))
    elif name.startswith("empty streams"):
        path.write_bytes((gzip if "gzip" in name else bz2).compress(b"") * int(scale * 2_000_000))
    else:
        kind = next(kind for kind in KINDS if kind.__name__ == name.partition(",")[0])
        with OPENERS[name](path) as file:
            file.writelines(kind(scale))
            file.write(END)
    return path


# --- measuring --------------------------------------------------------------------------------------------------------


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
            taken = images.MAX_IMAGES * SIZE * SIZE / 1e6  # which are read before the one that is too many
    return {"result": result, "seconds": time.process_time() - started, "memory": peak() - before - taken}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the files (default: %(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    fine = True
    print(f"{'kind':<40} {'seconds':>7} {'MB':>7}  what came of it")
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--measure", str(make(name, Path(folder), arguments.scale))]
            done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
        if done.returncode:
            print(f"BROKEN: {name}: {done.stderr[-300:]}")
            fine = False
            continue
        found = json.loads(done.stdout)
        print(
            f"{name.replace('_', ' '):<40} {found['seconds']:>7.2f} {found['memory']:>7.0f}  {found['result'][:90]}",
            flush=True,
        )
        fine = fine and found["seconds"] <= MAX_SECONDS and found["memory"] <= MAX_MEMORY
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
