"""Damage archives and PNGs at every depth: each must load to valid tensors or be refused with a DataError.

    python tests/fuzz.py --count 20000 --seed 0
    python tests/fuzz.py --count 1 --seed 0 --first 1234    # case 1234 of the same again

Each case is a small archive, damaged at one of the DEPTHS. Everything around the damage is made right again (checksums
of headers and chunks, compression), so that the damage gets past the first check. What loads must be what tarfile and
Pillow read, where they can. Prints how many cases loaded and were refused, the slowest, and the peak of the memory
above what the program took before; the exit status is 1 if any case broke a rule.
"""

import argparse
import bz2
import collections
import faulthandler
import gzip
import io
import itertools
import lzma
import random
import resource
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from PIL import Image

from dataset import MNIST, SIZE, DataError

MAX_SECONDS = 5  # a case
MAX_MEMORY = 500  # MB above what the program took before the first case
DEPTHS = ("file", "tar", "headers", "png", "chunks", "stream", "lines")  # from the outside in
COMPRESS = (bytes, gzip.compress, bz2.compress, lambda data: lzma.compress(data, preset=0))
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
FIELDS = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))  # of a header: at, size
TYPES = b"\x000123456789LKxXgSDMNVA"
NUMBERS = (0, 1, 27, 28, 29, 255, 256, 511, 512, 513, 784, 812, 65_535, 65_536, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
BLOCK = tarfile.BLOCKSIZE
ZEROS = bytes(20_000_000)  # what a bomb holds


# --- cases ------------------------------------------------------------------------------------------------------------


def make_case(draw: random.Random) -> tuple[str, bytes]:
    """The depth of the damage, and the file."""
    depth = draw.choice(DEPTHS)
    count = draw.randrange(1, 4)
    target = draw.randrange(count)
    folder = draw.choice(("", "train/", "/abs/", "../", "ü/" * 80))
    members = [
        (f"{folder}{number:05d}_{draw.randrange(10)}.png", make_png(draw, depth if number == target else ""))
        for number in range(count)
    ]
    if draw.random() < 0.2:
        members.insert(0, ("README", b"text"))
    data = make_tar(members, draw)
    if depth == "headers":
        data = forge_headers(data, draw)
    elif depth == "tar":
        data = damage(data, draw)
    data = draw.choice(COMPRESS)(data)
    return depth, damage(data, draw) if depth == "file" else data


def make_tar(members: list[tuple[str, bytes]], draw: random.Random) -> bytes:
    file, form = io.BytesIO(), draw.choice(FORMATS)
    if form == tarfile.USTAR_FORMAT:
        members = [(name[-90:], data) for name, data in members]  # it holds no longer names
    with tarfile.open(
        fileobj=file, mode="w", format=form, pax_headers={"comment": "x" * draw.choice((0, 600))}
    ) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), draw.choice((0, 1.5))
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def forge_headers(data: bytes, draw: random.Random) -> bytes:
    """Overwrite fields of a header, or what a header for the next one holds; checksums are right afterwards."""
    data = bytearray(data)
    headers = [start for start in range(0, len(data), BLOCK) if data[start + 257 : start + 262] == b"ustar"]
    for start in draw.choices(headers, k=draw.choice((1, 1, 2))):
        if data[start + 156 : start + 157] in b"LKxg" and draw.random() < 0.5:
            block = damage(bytes(data[start + BLOCK : start + 2 * BLOCK]), draw)
            data[start + BLOCK : start + 2 * BLOCK] = block[:BLOCK].ljust(BLOCK, b"\0")
            continue
        offset, size = draw.choice(FIELDS)
        value = draw.choice(NUMBERS)
        field = draw.choice(
            (
                b"%0*o" % (size - 1, value),
                b"\x80" + value.to_bytes(11, "big"),
                b"\xff" * size,
                b"-1",
                b"" if size > 1 else bytes([draw.choice(TYPES)]),
                draw.randbytes(size),
                draw.choice((b"../x_1.png", b"/", b"0_0.png", b"._0_0.png", b"1_10.png")),
            )
        )
        data[start + offset : start + offset + size] = field[:size].ljust(size, b"\0")
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + BLOCK])
    return bytes(data)


def make_png(draw: random.Random, depth: str) -> bytes:
    """A PNG of noise or of one colour, in one to three IDAT chunks, damaged if the depth is one of its own."""
    lines = b"".join(bytes([draw.randrange(5)]) + draw.choice((bytes(SIZE), draw.randbytes(SIZE))) for _ in range(SIZE))
    if depth == "lines":
        lines = ZEROS if draw.random() < 0.05 else damage(lines, draw)
    stream = zlib.compress(lines, draw.choice((0, 1, 9)))
    if depth == "stream":
        stream = damage(stream, draw)
    cuts = [0, *sorted(draw.randrange(len(stream) + 1) for _ in range(draw.randrange(3))), len(stream)]
    interlace = int(depth in ("lines", "stream") and draw.random() < 0.2)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, interlace)),
        *((b"IDAT", stream[start:end]) for start, end in itertools.pairwise(cuts)),
        (b"IEND", b""),
    ]
    if depth == "chunks":
        forge_chunks(chunks, draw)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return damage(png, draw) if depth == "png" else png


def forge_chunks(chunks: list[tuple[bytes, bytes]], draw: random.Random) -> None:
    """Damage, drop, double or move a chunk, put a foreign one between, or change a number of the header."""
    position = draw.randrange(len(chunks))
    kind, data = chunks[position]
    match draw.randrange(6):
        case 0:
            chunks[position] = (kind, damage(data, draw))
        case 1:
            del chunks[position]
        case 2:
            chunks.insert(position, (kind, data))
        case 3:
            chunks.insert(draw.randrange(len(chunks)), chunks.pop(position))
        case 4:
            foreign = draw.choice((b"tEXt", b"zTXt", b"iTXt", b"tRNS", b"gAMA", b"PLTE", b"acTL", b"eXIf", b"\0\0\0\0"))
            bomb = b"Comment\0\0" + zlib.compress(ZEROS[:1_000_000])
            chunks.insert(position, (foreign, draw.choice((b"", b"\0\1", bomb, draw.randbytes(draw.randrange(300))))))
        case 5:
            header = list(struct.unpack(">IIBBBBB", chunks[0][1]))
            field = draw.randrange(7)
            header[field] = draw.choice(NUMBERS) % (2**32 if field < 2 else 256)
            chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *header))


def damage(data: bytes, draw: random.Random) -> bytes:
    """Up to four times: a bit flipped; bytes overwritten, cut, inserted, doubled or moved; the end cut off."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice((1, 2, 4, 16, 100, BLOCK, 3000)))
        part = data[start:end]
        match draw.randrange(8):
            case 0 if part:
                data[start] ^= 1 << draw.randrange(8)
            case 1:
                data[start:end] = draw.randbytes(len(part))
            case 2:
                data[start:end] = bytes([draw.choice((0, 1, 127, 128, 255))]) * len(part)
            case 3:
                del data[start:end]
            case 4:
                data[start:start] = draw.randbytes(len(part))
            case 5:
                data[start:start] = part
            case 6:
                del data[start:end]
                position = draw.randrange(len(data) + 1)
                data[position:position] = part
            case 7:
                del data[start:]
    return bytes(data)


# --- rules ------------------------------------------------------------------------------------------------------------


def check(path: Path) -> bool:
    """Whether the archive loads. Raises AssertionError, or whatever MNIST raised, if a rule is broken."""
    try:
        data = MNIST(path)
    except DataError as refusal:
        message = str(refusal)
    else:
        check_data(data, path)
        return True
    assert str(path) in message
    assert message.isprintable()
    return False


def check_data(data: MNIST, path: Path) -> None:
    """Raises AssertionError unless the tensors are valid, and what tarfile and Pillow read."""
    count = len(data)
    assert count > 0
    assert data.images.dtype == torch.uint8
    assert data.images.shape == (count, SIZE, SIZE)
    assert data.labels.dtype == torch.int64
    assert data.labels.shape == (count,)
    assert 0 <= int(data.labels.min()) <= int(data.labels.max()) <= 9
    expected = read_otherwise(path)
    if expected is not None:
        found = [
            (int(label), bytes(image.flatten().tolist())) for image, label in zip(data.images, data.labels, strict=True)
        ]
        assert found == expected, "not what tarfile and Pillow read"


def read_otherwise(path: Path) -> list[tuple[int, bytes]] | None:
    """Labels and pixels in the order of the numbers, by tarfile and Pillow; None if they cannot read all of it."""
    images = {}
    try:
        with warnings.catch_warnings(action="ignore"), tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if not member.isfile() or name.startswith("._") or name == "README":
                    continue
                number, label = name.lower().removesuffix(".png").split("_")
                images[int(number)] = int(label), Image.open(archive.extractfile(member)).tobytes()
            archive.fileobj.seek(archive.offset)
            if any(archive.fileobj.read(BLOCK)):
                return None  # what tarfile took for the end is a header that it does not understand
    except Exception:  # whatever it is, it says nothing about this project
        return None
    return [image for _, image in sorted(images.items())]


def memory() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def run(count: int, seed: int, first: int = 0) -> dict:
    """Figures of `count` cases: loaded and refused by depth, what broke a rule, slowest in seconds, memory in MB."""
    loaded, refused, broken, slowest = collections.Counter(), collections.Counter(), [], (0.0, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.tar")
        for case in range(-40, count):  # those below 0 only fill the caches: what they take is no growth
            draw = random.Random(f"{seed} {first + case}")
            depth, data = make_case(draw)
            path.write_bytes(data)
            if case == 0:
                before = memory()
            faulthandler.dump_traceback_later(20 * MAX_SECONDS, exit=True)  # a case that hangs shows where
            started = time.perf_counter()
            try:
                (loaded if check(path) else refused)[depth] += case >= 0
            except Exception as error:
                broken.append((first + case, depth, repr(error)))
            seconds = time.perf_counter() - started
            if seconds > MAX_SECONDS:
                broken.append((first + case, depth, f"took {seconds:.1f} s"))
            slowest = max(slowest, (seconds, first + case))
        faulthandler.cancel_dump_traceback_later()
    growth = memory() - before
    if growth > MAX_MEMORY:
        broken.append((None, None, f"took {growth:.0f} MB"))
    return {"loaded": loaded, "refused": refused, "broken": broken, "slowest": slowest, "memory": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: %(default)s)")
    arguments = parser.parse_args()
    figures = run(arguments.count, arguments.seed, arguments.first)
    print(f"{'damaged':<8} {'loaded':>7} {'refused':>7}")
    for depth in DEPTHS:
        print(f"{depth:<8} {figures['loaded'][depth]:>7,} {figures['refused'][depth]:>7,}")
    print(f"{'total':<8} {figures['loaded'].total():>7,} {figures['refused'].total():>7,}")
    seconds, case = figures["slowest"]
    print(f"slowest {seconds:.2f} s (case {case}), memory {figures['memory']:.0f} MB above the baseline")
    for broken in figures["broken"]:
        print("BROKEN: case {}, damaged {}: {}".format(*broken))
    sys.exit(1 if figures["broken"] else 0)


if __name__ == "__main__":
    main()
