"""Damage data at every depth: each must load to valid arrays or be refused with a DataError.

    python tests/fuzz.py --count 20000 --seed 0
    python tests/fuzz.py --count 1 --seed 0 --first 1234    # case 1234 of the same again

Each case is a small archive, a folder, or a pair of IDX files, damaged at one of the DEPTHS. Everything around the
damage is made right again (checksums, compression), so that the damage gets past the first check. What loads must be
what the standard library and Pillow read, where they can. Prints how many cases loaded and were refused, the slowest,
and the memory above what the program took before; the exit status is 1 if any case broke a rule.
"""

import argparse
import bz2
import collections
import faulthandler
import gzip
import io
import itertools
import random
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from bounds import BLOCK, SIZE, chunk, member, peak
from PIL import Image

from support.data import DataError, read_images
from support.data.png import SIGNATURE

MAX_SECONDS = 5  # of CPU time, a case
MAX_MEMORY = 300  # MB above what the program took before the first case
ARCHIVES = ("file", "containers", "tar", "headers", "pax", "png", "kinds", "chunks", "stream", "lines")  # outside in
DEPTHS = (*ARCHIVES, "idx", "folder")
COMPRESS = (bytes, gzip.compress, bz2.compress)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
FIELDS = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))  # of a header: at, size
TYPES = b"\x000123456789LKxXgSDMNVA"
NUMBERS = (0, 1, 27, 28, 29, 255, 256, 511, 512, 513, 784, 812, 65_535, 65_536, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
KINDS = tuple(itertools.product((1, 2, 4, 8, 16), CHANNELS))  # of PNGs, some of them wrong
NAMES = ("../x_1.png", "/", "0_0.png", "._0_0.png", "1_10.png", "7/3.png", "7/x.png", "7/3_7.png", "7/3_8.png", ".h/1")
RECORDS = ("path", "size", "mtime", "comment", "hdrcharset", "linkpath", "GNU.sparse.map", "GNU.sparse.major")
ZEROS = bytes(20_000_000)  # what a bomb holds

Members = list[tuple[str, bytes]]


# --- cases ------------------------------------------------------------------------------------------------------------


def make_case(draw: random.Random, folder: Path) -> tuple[str, Path]:
    """Write a case into an empty folder. Returns the depth of the damage, and what is to be read."""
    depth = draw.choice(DEPTHS)
    if depth == "idx":
        return depth, make_idx(draw, folder)
    count = draw.randrange(1, 4)
    target = draw.randrange(count)
    members = [make_member(draw, number, depth if number == target else "") for number in range(count)]
    if draw.random() < 0.2:
        members.insert(0, ("README", b"text"))
    if depth == "folder":
        return depth, make_folder(draw, folder, members)
    path = folder / "train.tar"
    path.write_bytes(make_archive(draw, depth, members))
    return depth, path


def make_member(draw: random.Random, number: int, depth: str) -> tuple[str, bytes]:
    folder = draw.choice(("", "train/", "/abs/", "../", "ü/" * 80, "train/7/"))
    label = 7 if folder.endswith("7/") else draw.randrange(10)
    name = f"{number:05d}.png" if folder.endswith("7/") and draw.random() < 0.5 else f"{number:05d}_{label}.png"
    return folder + name, make_png(draw, depth)


def make_archive(draw: random.Random, depth: str, members: Members) -> bytes:
    file, form = io.BytesIO(), draw.choice(FORMATS)
    if form == tarfile.USTAR_FORMAT:
        members = [(name[-90:], data) for name, data in members]  # it holds no longer names
    headers = {"comment": "x" * draw.choice((0, 600))}
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=headers) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), draw.choice((0, 1.5))
            archive.addfile(info, io.BytesIO(data))
    data = file.getvalue()
    if depth == "headers":
        data = forge_headers(data, draw)
    elif depth == "pax":
        data = b"".join(make_description(draw) for _ in range(draw.choice((1, 1, 2, 5, 40)))) + data
    elif depth == "tar":
        data = damage(data, draw)
    elif depth == "containers":
        return make_container(data, draw)
    data = draw.choice(COMPRESS)(data)
    return damage(data, draw) if depth == "file" else data


def forge_headers(content: bytes, draw: random.Random) -> bytes:
    """Overwrite fields of a header, or what a header for the next one holds; checksums are right afterwards."""
    data = bytearray(content)
    headers = [start for start in range(0, len(data), BLOCK) if data[start + 257 : start + 262] == b"ustar"]
    for start in draw.choices(headers, k=draw.choice((1, 1, 2))):
        if data[start + 156 : start + 157] in b"LKxg" and draw.random() < 0.5:
            block = damage(bytes(data[start + BLOCK : start + 2 * BLOCK]), draw)
            data[start + BLOCK : start + 2 * BLOCK] = block[:BLOCK].ljust(BLOCK, b"\0")
            continue
        offset, size = draw.choice(FIELDS)
        value = draw.choice(NUMBERS)
        numbers = (b"%0*o" % (size - 1, value), b"\x80" + value.to_bytes(11, "big"), b"\xff" * size, b"-1")
        texts = (b"" if size > 1 else bytes([draw.choice(TYPES)]), draw.randbytes(size), draw.choice(NAMES).encode())
        data[start + offset : start + offset + size] = draw.choice(numbers + texts)[:size].ljust(size, b"\0")
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + BLOCK])
    return bytes(data)


def make_description(draw: random.Random) -> bytes:
    """A header that describes the next, or a member that is no image, with a content that may lie."""
    kind = draw.choice(b"xxgLKXDV5")
    if kind in b"xgX":
        content = b"".join(
            make_record(draw, keyword) for keyword in draw.choices(RECORDS, k=draw.choice((0, 1, 2, 150)))
        )
        if draw.random() < 0.3:
            content = damage(content, draw)
        if draw.random() < 0.05:
            content = draw.choice((b"9" * 2**20, b"2 " * 2**19, b"5 a=\n" * 2**17))
    else:
        content = draw.choice((draw.choice(NAMES).encode() + b"\0", b"x" * draw.choice((600, 2**20)), b""))
    whole = member(draw.choice(NAMES), content, bytes([kind]))
    return whole[:BLOCK] if kind == tarfile.DIRTYPE[0] else whole


def make_record(draw: random.Random, keyword: str) -> bytes:
    value = draw.choice((draw.choice(NAMES), str(draw.choice(NUMBERS)), "1", "BINARY", "-1", "9" * 5000, "ü\0\n="))
    record = f" {keyword}={value}\n".encode()
    length = len(record) + len(str(len(record) + 3))
    return str(draw.choice((length, length, length, length + 1, draw.choice(NUMBERS)))).encode() + record


def make_container(data: bytes, draw: random.Random) -> bytes:
    """Compressed in several streams, empty ones and zeros between them, with an end that may lie."""
    compress = draw.choice(COMPRESS[1:])
    cuts = [0, *sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(4))), len(data)]
    streams = [compress(data[start:end]) for start, end in itertools.pairwise(cuts)]
    if draw.random() < 0.3:
        streams.insert(draw.randrange(len(streams) + 1), compress(b"") * draw.choice((1, 3, 2000)))
    if draw.random() < 0.3:
        streams.insert(draw.randrange(len(streams) + 1), bytes(draw.choice((1, 4, 512, 100_000))))
    if draw.random() < 0.2:
        streams.append(draw.choice((b"x", draw.randbytes(100), compress(ZEROS), draw.choice(COMPRESS)(data))))
    whole = b"".join(streams)
    return compress(whole) if draw.random() < 0.2 else whole


def make_png(draw: random.Random, depth: str) -> bytes:
    """A PNG of noise or of one colour, in one to three IDAT chunks, damaged if the depth is one of its own."""
    bits, color = draw.choice(KINDS) if depth == "kinds" else (8, 0)
    width = -(-SIZE * bits * CHANNELS[color] // 8)
    rows = (bytes([draw.randrange(5)]) + draw.choice((bytes(width), draw.randbytes(width))) for _ in range(SIZE))
    lines = b"".join(rows)
    if depth == "kinds" and draw.random() < 0.8:
        lines = (b"\0" + draw.choice((b"\0", b"\xff")) * width) * SIZE  # gray in all channels, opaque or not at all
    if depth == "lines":
        lines = ZEROS if draw.random() < 0.05 else damage(lines, draw)
    stream = zlib.compress(lines, draw.choice((0, 1, 9)))
    if depth == "stream":
        stream = damage(stream, draw)
    cuts = [0, *sorted(draw.randrange(len(stream) + 1) for _ in range(draw.randrange(3))), len(stream)]
    interlace = int(depth in ("lines", "stream") and draw.random() < 0.2)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, bits, color, 0, 0, interlace)),
        *((b"IDAT", stream[start:end]) for start, end in itertools.pairwise(cuts)),
        (b"IEND", b""),
    ]
    if depth == "kinds" and (color == 3 or draw.random() < 0.3):
        chunks.insert(1, (b"PLTE", draw.choice((draw.randbytes(768), bytes(range(12)) * 64, b"\7" * 768, b"\7" * 6))))
    if depth == "kinds" and draw.random() < 0.3:
        chunks.insert(2, (b"tRNS", draw.choice((b"\xff" * 2, b"\0\7", b"\0\7\0\7\0\7", b"\xff" * 256, b"\0", b""))))
    if depth == "chunks":
        forge_chunks(chunks, draw)
    png = SIGNATURE + b"".join(chunk(kind, data) for kind, data in chunks)
    return damage(png, draw) if depth == "png" else png


def forge_chunks(chunks: list[tuple[bytes, bytes]], draw: random.Random) -> None:
    """Damage, drop, double or move a chunk, put foreign ones between, or change a number of the header."""
    position = draw.randrange(len(chunks))
    kind, data = chunks[position]
    foreign = draw.choice((b"tEXt", b"zTXt", b"iTXt", b"tRNS", b"gAMA", b"PLTE", b"acTL", b"eXIf", b"\0\0\0\0"))
    content = draw.choice((b"", b"\0\1", b"Comment\0\0" + zlib.compress(ZEROS[:1_000_000]), draw.randbytes(300)))
    field, number = draw.randrange(13), draw.choice((0, 1, 2, 3, 4, 5, 6, 7, 16, 27, 28, 29, 255))
    header = chunks[0][1][:field] + bytes([number]) + chunks[0][1][field + 1 :]
    change = (
        lambda: chunks.__setitem__(position, (kind, damage(data, draw))),
        lambda: chunks.pop(position),
        lambda: chunks.insert(position, (kind, data)),
        lambda: chunks.insert(draw.randrange(len(chunks)), chunks.pop(position)),
        lambda: chunks.__setitem__(slice(position, position), [(foreign, content)] * draw.choice((1, 1, 1, 500, 1500))),
        lambda: chunks.__setitem__(0, (b"IHDR", header)),
    )
    draw.choice(change)()


def make_idx(draw: random.Random, folder: Path) -> Path:
    """Images and labels, of which one file lies, is damaged, compressed or missing."""
    count = draw.randrange(4)
    files = [struct.pack(">4I", 2051, count, SIZE, SIZE) + draw.randbytes(count * SIZE * SIZE)]
    files += [struct.pack(">2I", 2049, count) + bytes(draw.randrange(10) for _ in range(count))]
    for name, data in zip(("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), files, strict=True):
        field = 4 * draw.randrange(4)
        number = struct.pack(">I", draw.choice((*NUMBERS, 2049, 2051, count + 1, 1_000_000)))
        forged = data[:field] + number + data[field + 4 :]
        data = draw.choice((data, data, data, forged, damage(data, draw), data + draw.choice((b"\0", ZEROS))))
        compress = draw.choice(COMPRESS)
        data = compress(data)
        if draw.random() < 0.95:
            packed = damage(data, draw) if draw.random() < 0.1 else data
            (folder / (name if compress is bytes else f"{name}.gz")).write_bytes(packed)
    return next(folder.glob("*images*"), folder / "train-images-idx3-ubyte")


def make_folder(draw: random.Random, folder: Path, members: Members) -> Path:
    """Files in folders, among them what is no PNG, has no good name, is hidden or a link."""
    top, other = folder / "train", draw.choice((make_png(draw, ""), b"", b"<html>", b"\xff\xd8\xff"))
    for name, data in [*members, *[(draw.choice(NAMES).strip("/") or "x", other)] * draw.choice((0, 0, 1))]:
        path = top / name.replace("../", "").strip("/")
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(damage(data, draw) if draw.random() < 0.1 else data)
    if draw.random() < 0.2:
        (top / draw.choice(("l_1.png", "8_1.png", ".hidden"))).symlink_to(
            draw.choice(("nowhere", ".", "..", "8_1.png"))
        )
    return top


def damage(content: bytes, draw: random.Random) -> bytes:
    """Up to four times: a bit flipped; bytes overwritten, cut, inserted, doubled or moved; the end cut off."""
    data = content
    for _ in range(draw.choice((1, 1, 2, 4))):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice((1, 2, 4, 16, 100, BLOCK, 3000)))
        before, part, behind = data[:start], data[start:end], data[end:]
        flipped = bytes([part[0] ^ 1 << draw.randrange(8)]) + part[1:] if part else part
        same = bytes([draw.choice((0, 1, 127, 128, 255))]) * len(part)
        for new in (flipped, draw.randbytes(len(part)), same, b"", part + draw.randbytes(len(part)), part * 2):
            if draw.random() < 0.3:
                part = new
        data = draw.choice((before + part + behind, before + part + behind, part + before + behind, before + part))
    return data


# --- rules ------------------------------------------------------------------------------------------------------------


def check(path: Path) -> bool:
    """Whether the data load. Raises AssertionError, or anything, where a rule is broken."""
    try:
        images, labels = read_images(path)
    except DataError as refusal:
        lines = str(refusal).split("\n")
        assert str(path.parent) in lines[0]
        assert len(lines) <= 2
        assert all(line.isprintable() for line in lines)
        return False
    count = len(labels)
    assert count > 0
    assert (images.dtype, images.shape) == (np.uint8, (count, SIZE, SIZE))
    assert (labels.dtype, labels.shape) == (np.int64, (count,))
    assert 0 <= labels.min() <= labels.max() <= 255
    expected = read_otherwise(path)
    if expected is not None:
        found = list(zip(labels.tolist(), (image.tobytes() for image in images), strict=True))
        assert found == expected, "not what the standard library and Pillow read"
    return True


def read_otherwise(path: Path) -> list[tuple[int, bytes]] | None:
    """Labels and pixels in order, by the standard library and Pillow; None if they cannot read all of it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            if path.is_dir():
                files = (file for file in path.rglob("*") if file.is_file())
                return in_order((str(file.relative_to(path)), file.read_bytes()) for file in files)
            return in_order(tar_otherwise(path))
    except Exception:  # whatever it is, it says nothing about this project
        return None


def tar_otherwise(path: Path) -> Members:
    """Name and content of the regular files. Raises anything."""
    with tarfile.open(path) as archive:
        found = [(one.name, archive.extractfile(one).read()) for one in archive if one.isfile()]  # type: ignore[union-attr]
        archive.fileobj.seek(archive.offset)  # type: ignore[union-attr]
        if any(archive.fileobj.read(BLOCK)):  # type: ignore[union-attr]
            raise ValueError("what tarfile took for the end is a header that it does not understand")
    return found


def in_order(members: Iterable[tuple[str, bytes]]) -> list[tuple[int, bytes]]:
    """Labels and pixels of what is not hidden, by number if each has one of its own, else by path. Raises anything."""
    found = []
    for name, data in members:
        *folders, file = name.split("/")
        if file == "README" or any(part.startswith(".") and part not in (".", "..") for part in (*folders, file)):
            continue
        stem = file.lower().removesuffix(".png")
        number, _, label = stem.partition("_")
        order = int(number) if number.isdecimal() else None
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 0]
        found.append((order, name, int(label or folders[-1]), pixels.tobytes()))
    numbers = [order for order, *_ in found]
    unique = None not in numbers and len(set(numbers)) == len(numbers)
    found.sort(key=lambda image: image[0] if unique else image[1])  # type: ignore[arg-type, return-value]
    return [(label, pixels) for _, _, label, pixels in found]


def run(count: int, seed: int, first: int = 0) -> dict[str, Any]:
    """Figures of `count` cases: loaded and refused by depth, what broke a rule, slowest in seconds, memory in MB."""
    loaded: collections.Counter[str] = collections.Counter()
    refused: collections.Counter[str] = collections.Counter()
    broken: list[tuple[int | None, str, str]] = []
    slowest, before = (0.0, 0), 0.0
    with tempfile.TemporaryDirectory() as top:
        for case in range(-40, count):  # those below 0 only fill the caches: what they take is no growth
            draw = random.Random(f"{seed} {first + case}")
            folder = Path(top, "case")
            folder.mkdir()
            depth, path = make_case(draw, folder)
            before = peak() if case == 0 else before
            faulthandler.dump_traceback_later(20 * MAX_SECONDS, exit=True)  # a case that hangs shows where
            try:
                started = time.process_time()  # whatever else the machine does
                (loaded if check(path) else refused)[depth] += case >= 0
                seconds = time.process_time() - started
                assert seconds < MAX_SECONDS, f"took {seconds:.1f} s"
                slowest = max(slowest, (seconds, first + case))
            except Exception as error:
                broken.append((first + case, depth, repr(error)))
            shutil.rmtree(folder)
        faulthandler.cancel_dump_traceback_later()
    growth = peak() - before
    if growth > MAX_MEMORY:
        broken.append((None, "all", f"took {growth:.0f} MB"))
    return {"loaded": loaded, "refused": refused, "broken": broken, "slowest": slowest, "memory": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: %(default)s)")
    arguments = parser.parse_args()
    figures = run(arguments.count, arguments.seed, arguments.first)
    loaded, refused = figures["loaded"], figures["refused"]
    for depth in DEPTHS:
        print(f"{depth:<10} {loaded[depth]:>7,} loaded {refused[depth]:>7,} refused")
    print(f"{'total':<10} {loaded.total():>7,} loaded {refused.total():>7,} refused")
    seconds, case = figures["slowest"]
    print(f"slowest {seconds:.2f} s of CPU time (case {case}), memory {figures['memory']:.0f} MB above the baseline")
    for broken in figures["broken"]:
        print("BROKEN: case {}, damaged {}: {}".format(*broken))
    sys.exit(1 if figures["broken"] else 0)


if __name__ == "__main__":
    main()
