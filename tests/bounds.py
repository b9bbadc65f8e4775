"""What hostile data cost at most: the longest time and the most memory, kind by kind.

    python tests/bounds.py
    python tests/bounds.py --scale 0.1    # files a tenth as large

Each kind fills one of the bounds of support/data/ as far as it goes, or goes beyond it. Each is read in a process
of its own. Prints what came of it, the seconds of CPU time, and the peak of the memory beyond
the imports and the images themselves; the exit status is 1 if one took over MAX_SECONDS or MAX_MEMORY, or ended with
anything but images or a DataError.
"""

import argparse
import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from PIL import Image

from support.data import container, png
from support.data import images as archive
from support.data.images import SIZE, DataError, read_images

MAX_SECONDS = 120  # of CPU time, a kind: three times what a million images take
MAX_MEMORY = 400  # MB beyond the imports and the images
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)

Opener = Callable[..., Any]


# --- parts ------------------------------------------------------------------------------------------------------------


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A header, which may lie about the size, and the content in whole blocks."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, len(content) if size is None else size
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def image(extra: bytes = b"", **options: Any) -> bytes:
    """A PNG as Pillow writes it, with chunks put behind its header."""
    file = io.BytesIO()
    picture = Image.new("L", (SIZE, SIZE), 7)
    picture.convert(options.pop("mode", "L")).save(file, "png", **options)
    data = file.getvalue()
    return data[:33] + extra + data[33:]


def raw(lines: bytes) -> bytes:
    """A PNG whose lines are these, however many."""
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0)
    return png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def images(count: int, content: bytes, name: str = "{}_7.png") -> Iterator[bytes]:
    for number in range(count):
        yield member(name.format(number), content)


def records(count: int, size: int) -> bytes:
    """So many pax records of so many bytes."""
    return b"".join(
        b"%d " % size + b"%d=" % number + b"9" * (size - len(b"%d %d=" % (size, number)) - 1) + b"\n"
        for number in range(count)
    )


# --- kinds ------------------------------------------------------------------------------------------------------------


def empty_streams(opener: Opener, path: Path, scale: float) -> None:
    """As many empty streams as a compressed file may have."""
    packed = io.BytesIO()
    with opener(packed, "wb"):
        pass
    path.write_bytes(packed.getvalue() * int(scale * (container.MAX_STREAMS - 1)))
    with open(path, "ab") as file, opener(file, "wb") as stream:
        stream.write(member("0_0.png", image()) + END)


def zeros(opener: Opener, path: Path, scale: float) -> None:
    """A list of files, by `tar -g`, of as many bytes as may be decompressed."""
    part = bytes(10_000 * BLOCK)
    count = int(scale * (container.MAX_BYTES - 100_000) / len(part))
    for content, repeated in (
        (member("0/", b"", b"D", size=count * len(part)), 1),
        (part, count),
        (member("0_0.png", image()) + END, 1),
    ):
        packed = io.BytesIO()
        with opener(packed, "wb") as file:
            file.write(content)
        with open(path, "ab") as file:
            for _ in range(repeated):
                file.write(packed.getvalue())


def plain(file: io.BytesIO, mode: str) -> contextlib.AbstractContextManager[io.BytesIO]:
    """As gzip.open, without gzip."""
    return contextlib.nullcontext(file)


def dictionary(path: Path, scale: float) -> None:
    """The largest dictionary that xz may acquire, filled."""
    size = int(96 * 1024**2 * scale) // BLOCK * BLOCK
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 96 * 1024**2, "mf": lzma.MF_HC3, "mode": lzma.MODE_FAST}]
    with lzma.open(path, "wb", filters=filters) as file:
        file.write(member("0/", b"", b"D", size=2 * size))
        noise = random.Random(0).randbytes(1024**2)
        for start in range(0, 2 * size, len(noise)):
            file.write(noise[: 2 * size - start])
        file.write(member("0_0.png", image()) + END)


def huge_dictionary(path: Path, scale: float) -> None:
    """A dictionary of 4 GiB, claimed."""
    packed = bytearray(lzma.compress(member("0_0.png", image()) + END, preset=0))
    length = (packed[12] + 1) * 4
    packed[packed.index(b"\x21\x01", 12) + 2] = 40
    packed[12 + length - 4 : 12 + length] = struct.pack("<I", zlib.crc32(packed[12 : 12 + length - 4]))
    path.write_bytes(packed)


def folders_and_a_global_header(path: Path, scale: float) -> None:
    """60,000 empty folders behind a pax header of 1 MiB for all of them."""
    content = records(archive.MAX_RECORDS, archive.MAX_MEMBER // archive.MAX_RECORDS)
    write(path, [member("pax", content, b"g"), *(member(f"{i}/", b"", b"5") for i in range(int(60_000 * scale)))])


def headers(path: Path, scale: float) -> None:
    """As many headers as there may be, and one more."""
    write(path, (member(f"{number}/", b"", b"5") for number in range(int(archive.MAX_OTHERS * scale) + 1)))


def empty_files(path: Path, scale: float) -> None:
    """A million empty files."""
    write(path, (member(f".{number}") for number in range(int(1_000_000 * scale))))


def full_pax_headers(path: Path, scale: float) -> None:
    """Pax headers of as many records as may be, before folders."""
    content = member("pax", records(archive.MAX_RECORDS, 40), b"x")
    write(path, (content + member(f"{number}/", b"", b"5") for number in range(int(archive.MAX_OTHERS / 2 * scale))))


def large_pax_headers(path: Path, scale: float) -> None:
    """Pax headers of 1 MiB, as many as the bytes allow, each a run of digits."""
    content = member("pax", records(1, archive.MAX_MEMBER), b"x") + member("0/", b"", b"5")
    write(path, (content for _ in range(int(scale * container.MAX_BYTES / len(content)) - 1)), gzip.open)


def digits_for_a_pax_header(path: Path, scale: float) -> None:
    """A pax header that is one number of 1 MiB."""
    write(path, [member("pax", b"9" * int(scale * archive.MAX_MEMBER), b"x"), member("0_0.png", image())])


def chains(path: Path, scale: float) -> None:
    """Headers about headers about headers."""
    write(path, (member("x", b"", kind) for _ in range(int(100_000 * scale)) for kind in (b"L", b"K", b"x", b"g")))


def plain_images(path: Path, scale: float) -> None:
    """100,000 images of MNIST's kind, for comparison."""
    write(path, images(int(100_000 * scale), image(compress_level=0)))


def too_many_images(path: Path, scale: float) -> None:
    """A million images and one."""
    write(path, images(int(archive.MAX_IMAGES * scale) + 1, image(compress_level=0)), gzip.open)


def images_among_others(path: Path, scale: float) -> None:
    """Before each of 100,000 images as many others as there may be."""
    others = b"".join(member(f".{number}") for number in range(archive.OTHERS_PER_IMAGE))
    write(path, (others + one for one in images(int(100_000 * scale), image())), gzip.open)


def images_by_path(path: Path, scale: float) -> None:
    """100,000 images that only their long paths put in order."""
    write(path, images(int(100_000 * scale), image(), "x" * 80 + "/7/{}_.png"), gzip.open)


def other_kinds(path: Path, scale: float) -> None:
    """100,000 images in RGBA."""
    write(path, images(int(100_000 * scale), image(mode="RGBA")), gzip.open)


def large_images(path: Path, scale: float) -> None:
    """Images of nearly 1 MiB, as many as the bytes allow, of texts that unpack to a gigabyte in each."""
    content = image(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8))) * 10, mode="RGBA")
    write(path, images(int(scale * container.MAX_BYTES / (len(content) + 2 * BLOCK)) - 1, content), gzip.open)


def images_of_many_chunks(path: Path, scale: float) -> None:
    """Images of as many chunks as may be, as many as the bytes allow."""
    content = image(chunk(b"tEXt", b"") * (png.MAX_CHUNKS - 4))
    write(path, images(int(scale * container.MAX_BYTES / (len(content) + 2 * BLOCK)), content), gzip.open)


def images_of_endless_chunks(path: Path, scale: float) -> None:
    """An image of 1 MiB of empty chunks."""
    write(path, images(1, image(chunk(b"tEXt", b"") * int(87_000 * scale))))


def image_bombs(path: Path, scale: float) -> None:
    """An image whose pixels unpack to a gigabyte."""
    write(path, images(1, raw(bytes(int(10**9 * scale)))))


def idx(path: Path, scale: float) -> None:
    """A million images in IDX format, and a file that goes on behind them."""
    count = int(archive.MAX_IMAGES * scale)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(struct.pack(">4I", 2051, count, SIZE, SIZE))
        for _ in range(count):
            file.write(bytes(SIZE * SIZE))
        file.write(bytes(10**6))
    with gzip.open(path.with_name(path.name.replace("images", "labels")), "wb") as file:
        file.write(struct.pack(">2I", 2049, count) + bytes(count))


def folders(path: Path, scale: float) -> None:
    """More empty folders than there may be, on disk."""
    for number in range(int(archive.MAX_OTHERS * scale) + 1):
        (path / f"{number // 1000}" / f"{number}").mkdir(parents=True)


def write(path: Path, parts: Any, opener: Opener = open) -> None:
    options = {"compresslevel": 1} if opener is gzip.open else {}
    with opener(path, "wb", **options) as file:
        for part in parts:
            file.write(part)
        file.write(END)


def of(kind: Callable[[Opener, Path, float], None], name: str, opener: Opener) -> Callable[[Path, float], None]:
    def make(path: Path, scale: float) -> None:
        kind(opener, path, scale)

    make.__name__, make.__doc__ = f"{kind.__name__} {name}", kind.__doc__
    return make


KINDS: dict[str, tuple[Callable[[Path, float], None], ...]] = {
    "containers": (
        *(
            of(empty_streams, name, opener)
            for name, opener in (("gzip", gzip.open), ("bzip2", bz2.open), ("xz", lzma.open))
        ),
        *(
            of(zeros, name, opener)
            for name, opener in (("plain", plain), ("gzip", gzip.open), ("bzip2", bz2.open), ("xz", lzma.open))
        ),
        dictionary,
        huge_dictionary,
    ),
    "headers": (
        folders_and_a_global_header,
        headers,
        empty_files,
        full_pax_headers,
        large_pax_headers,
        digits_for_a_pax_header,
        chains,
    ),
    "members": (plain_images, too_many_images, images_among_others, images_by_path, large_images, idx, folders),
    "PNG chunks": (other_kinds, images_of_many_chunks, images_of_endless_chunks, image_bombs),
}


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
    return {"result": result, "seconds": time.process_time() - started, "memory": peak() - before - taken}


def run(scale: float) -> list[tuple[str, str, dict[str, Any]]]:
    """Group, kind and figures of every kind."""
    found = []
    for group, kinds in KINDS.items():
        for make in kinds:
            with tempfile.TemporaryDirectory() as folder:
                name = "train-images-idx3-ubyte" if make is idx else "train.tar"
                path = Path(folder, name)
                make(path, scale)
                command = [sys.executable, __file__, "--measure", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
            broken = {"result": f"BROKEN: {done.stderr[-300:]}", "seconds": float("nan"), "memory": float("nan")}
            found.append(
                (group, make.__name__.replace("_", " "), json.loads(done.stdout) if done.returncode == 0 else broken)
            )
            print_row(*found[-1])
    return found


def print_row(group: str, name: str, figures: dict[str, Any]) -> None:
    seconds, memory = figures["seconds"], figures["memory"]
    print(f"{group:<10}  {name:<28} {seconds:>7.2f} {memory:>7.0f}  {figures['result'][:90]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the files (default: %(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(f"{'':<10}  {'kind':<28} {'seconds':>7} {'MB':>7}  what came of it")
    found = run(arguments.scale)
    for group in KINDS:
        rows = [figures for other, _, figures in found if other == group]
        seconds, memory = (max(row[key] for row in rows) for key in ("seconds", "memory"))
        print(f"{group}: at most {seconds:.1f} s of CPU time and {memory:.0f} MB beyond the imports and the images")
    fine = all(figures["seconds"] <= MAX_SECONDS and figures["memory"] <= MAX_MEMORY for _, _, figures in found)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
