"""Damage files at every depth: each must be read to valid values, or be refused in a line or two.

    python tests/fuzz.py --count 20000 --seed 0
    python tests/fuzz.py --count 1 --seed 0 --first 1234    # case 1234 of the same again

Each case is a small file of one of the KINDS, or a few that belong together. A part of it is damaged, at any depth, and
everything around it made right again (checksums, compression), so that the damage gets past the first check. What loads
from a tar must be what tarfile and Pillow read, where they can. Ends at the first case that breaks a rule.
"""

import argparse
import bz2
import collections
import gzip
import io
import random
import re
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from bounds import BLOCK, SIZE, chunk, member, pax, peak
from PIL import Image

from predict import load_network
from support.data import read_images
from support.data.png import SIGNATURE
from support.digits import PictureError, open_picture
from support.run import read_run
from support.terminal import UserError

MAX_SECONDS = 5  # of CPU time, a case
MAX_MEMORY = 300  # MB above what the program took before the first case
KINDS = ("png", "tar", "folder", "picture", "result", "pt")
OFTEN = ("png", "tar", "tar", "png", "tar", "tar", "result")  # there is more in them
ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "result_plot" / "study" / "lenet"  # committed, as are the weights
READ: dict[str, Callable[[Path], Any]] = {"pt": load_network, "picture": open_picture, "result": read_run}

COMPRESS = (bytes, gzip.compress, bz2.compress)
TARS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
MODES = ("L", "L", "1", "P", "LA", "RGB", "RGBA", "I;16")  # of PNGs, the last of which is not read
PICTURES = ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm")
NAMES = ("../x_1.png", "/", "0_0.png", "._0_0.png", "1_10.png", "7/3.png", "7/x.png", "7/3_7.png", "7/3_8.png", ".h/1")

# What is written over a part, at the places where fields of a PNG's header and of a tar's begin.
FIELDS = (0, 4, 8, 12, 13, 16, 100, 124, 136, 156, 157, 345)
NUMBERS = (0, 1, 2, 27, 28, 29, 255, 256, 512, 784, 65_535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
VALUES = [
    *(bytes([byte]) for byte in (*range(17), *b"0123456789LKxXgSDMNVA", 255)),  # among them types of a tar's members
    *(code(number) for number in NUMBERS for code in (lambda n: struct.pack(">I", n), lambda n: b"%011o\0" % n)),
    *(name.encode() + b"\0" for name in NAMES),
    *(b"", b"-1", b"\xff" * 12, b"\x80" + b"\1" * 11),
]

# What is put between the parts of a file, by its format.
ZEROS = bytes(20_000_000)  # what a bomb holds
STREAMS = [gzip.compress(b""), bz2.compress(b""), bytes(512), bytes(100_000), b"x", gzip.compress(ZEROS)]
RECORDS = (b"size=1", b"comment=" + b"9" * 5000, b"hdrcharset=BINARY", b"GNU.sparse.map=0,1", b"=", b"path=7/1.png")
HEADERS = [
    *(pax(record, kind=kind) for record in RECORDS for kind in (b"x", b"g")),
    *(member("x", NAMES[5].encode(), bytes([kind])) for kind in b"LKXDV5"),
    *(member("x", content, b"x") for content in (b"9" * 2**20, b"5 a=\n" * 2**17, b"")),
]
CHUNKS = [
    *(b"IDAT", b"tEXt", b"acTL", b"\0\0\0\0", b"zTXtComment\0\0" + zlib.compress(ZEROS[:1_000_000])),
    *(b"tRNS" + data for data in (b"", b"\0", b"\0\7", b"\xff" * 2, b"\0\7\0\7\0\7", b"\xff" * 256)),
    *(b"PLTE" + data for data in (b"\7" * 768, b"\7" * 6, bytes(range(12)) * 64)),
]
HISTORY = [b' "epochs": null', b' "train_loss": []', b' "lr": NaN', b' "x": ' + b"[" * 100_000, b' "x": [{}]']


def every(size: int, data: bytes) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def joined(wrap: Callable[[bytes], bytes]) -> Callable[[list[bytes]], bytes]:
    return lambda parts: b"".join(map(wrap, parts))


def with_checksum(block: bytes) -> bytes:
    """Whole blocks of a tar; the first, if it looks like a member's header, with a right checksum."""
    block += bytes(-len(block) % BLOCK)
    if block[154:156] != b"\0 ":
        return block
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:BLOCK])
    return block[:148] + b"%06o\0 " % total + block[156:]


def split_png(data: bytes) -> list[bytes]:
    chunks, start = [], len(SIGNATURE)
    while start < len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        chunks.append(data[start + 4 : end])
        start = end + 4
    return chunks


def split_lines(data: bytes) -> list[bytes]:
    return every(29, zlib.decompressobj().decompress(data[4:]))  # which takes what is cut off, too


def split_zip(data: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [part for name in archive.namelist() for part in (name.encode(), archive.read(name))]


def join_zip(parts: list[bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in zip(parts[::2], parts[1::2], strict=False):
            archive.writestr(name.decode("latin-1").lstrip("\0") or "x", data)
    return file.getvalue()


FORMATS: list[Any] = [  # how they begin; how to take them apart; how to put them together; what to put between
    (rb"\x1f\x8b", lambda data: every(4 * BLOCK, gzip.decompress(data)), joined(gzip.compress), STREAMS),
    (b"BZh", lambda data: every(4 * BLOCK, bz2.decompress(data)), joined(bz2.compress), STREAMS),
    (b".{257}ustar", partial(every, BLOCK), joined(with_checksum), HEADERS),
    (rb"\x89PNG", split_png, lambda chunks: SIGNATURE + joined(chunk)(chunks), CHUNKS),
    (b"IDAT", split_lines, lambda lines: b"IDAT" + zlib.compress(b"".join(lines)), [ZEROS]),
    (rb"\{", lambda data: data.split(b",\n"), b",\n".join, HISTORY),
    (b"PK", split_zip, join_zip, [b"x"]),
]


def mutate(parts: list[bytes], draw: random.Random, foreign: list[bytes]) -> list[bytes]:
    """Up to four times: a part left out, doubled, moved or cut off, bytes in it changed, or foreign parts before it."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        index = draw.choice((0, draw.randrange(len(parts))))  # the first is often a header
        part = parts.pop(index)
        start = draw.choice((draw.randrange(len(part) + 1), draw.choice(FIELDS)))
        flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in part[start : start + 1])
        value = draw.choice((flipped, flipped, draw.choice(VALUES), draw.randbytes(draw.choice((1, 100, 3000)))))
        before, behind = part[:start], part[start + len(value) :]
        changed = draw.choice((before + value + behind, before + behind, before + value + part[start:], before))
        other = draw.choice(foreign)
        others = [other] * draw.choice((1, 1, 1, draw.randint(1, 1 + 30_000 // (1 + len(other)))))
        index = draw.choice((index, index, draw.randrange(len(parts) + 1)))
        parts[index:index] = draw.choice(([], [part], 2 * [part], *4 * ([changed],), [*others, part]))
        parts = parts or [b""]
    return parts


def damage(data: bytes, draw: random.Random) -> bytes:
    """Damage a file as a whole or, if its format is known, in its parts, or one of these in the same way."""
    known = [how for start, *how in FORMATS if re.match(start, data, re.DOTALL)]
    if not known or draw.random() < 0.3:
        return b"".join(mutate([data], draw, [b"x"]))
    split, join, foreign = known[0]
    parts = split(data)
    if draw.random() < 0.5:
        return join(mutate(parts, draw, foreign))
    index = draw.choice((0, draw.randrange(len(parts))))
    parts[index] = damage(parts[index], draw)
    return join(parts)


def make_case(kind: str, draw: random.Random, folder: Path) -> Path:
    """Write a case into an empty folder. Returns what is to be read."""
    content: dict[str, bytes] = {}
    if kind == "folder":
        content = {f"train/{name.replace('../', '').strip('/') or 'x'}": data for name, data in make_images(kind, draw)}
    elif kind == "picture":
        Image.frombytes("L", (40, 30), draw.randbytes(1200)).save(file := io.BytesIO(), draw.choice(PICTURES))
        content["train"] = damage(file.getvalue(), draw)
    elif kind == "pt":
        content["train"] = damage((ROOT / "weights" / "lenet.pt").read_bytes(), draw)
    elif kind == "result":
        content = {f"train{ending}": RESULT.with_suffix(ending).read_bytes() for ending in (".json", ".npz")}
        name = draw.choice(sorted(content))
        content[name] = damage(content[name], draw)
    else:
        tar = draw.choice(COMPRESS)(make_tar(make_images(kind, draw), draw))
        content["train"] = damage(tar, draw) if kind == "tar" else tar
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / ("train.json" if kind == "result" else "train")


def make_images(kind: str, draw: random.Random) -> list[tuple[str, bytes]]:
    """Up to three PNGs and their names, of which one is damaged, or has a bad name, where the kind says so."""
    images = []
    for number in range(draw.randrange(1, 4)):
        file, mode = io.BytesIO(), draw.choice(MODES) if kind == "png" else "L"
        image = Image.frombytes("L", (SIZE, SIZE), draw.randbytes(SIZE * SIZE))
        image.convert(mode).save(file, "png", compress_level=draw.choice((0, 9)))
        name = f"{draw.choice(('', 'train/', '/abs/', '../', 'ü/' * 40))}{number:05d}_{draw.randrange(10)}.png"
        images.append((name, file.getvalue()))
    name, data = images.pop()
    name = draw.choice((*10 * [name], *NAMES)) if kind == "folder" else name
    data = damage(data, draw) if kind == "png" or (kind == "folder" and draw.random() < 0.3) else data
    images.insert(draw.randrange(len(images) + 1), (name, data))
    return images


def make_tar(members: list[tuple[str, bytes]], draw: random.Random) -> bytes:
    tar = b""
    for name, data in members:
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(data), draw.choice((0, 1.5))  # for which pax needs a header
        tar += info.tobuf(draw.choice(TARS), "utf-8") + data + bytes(-len(data) % BLOCK)
    return tar + bytes(2 * BLOCK)


def check(path: Path, kind: str) -> bool:
    """Whether it loads. Raises AssertionError, or anything, where a rule is broken."""
    try:
        found = READ.get(kind, read_images)(path)
    except PictureError:
        return False
    except UserError as refusal:
        lines = str(refusal).split("\n")
        assert str(path.parent) in lines[0]
        assert len(lines) <= 2
        assert all(line.isprintable() for line in lines)
        return False
    if kind not in READ:
        images, labels = found
        assert (images.dtype, images.shape) == (np.uint8, (len(labels), SIZE, SIZE))
        assert (labels.dtype, labels.ndim) == (np.int64, 1)
        assert 0 <= labels.min() <= labels.max() <= 255
        pairs = sorted((label, image.tobytes()) for label, image in zip(labels.tolist(), images, strict=True))
        assert read_otherwise(path) in (None, pairs), "not what others read"
    return True


def read_otherwise(path: Path) -> list[tuple[int, bytes]] | None:
    """Labels and pixels of a tar, sorted, by tarfile and Pillow; None if they cannot read all of it."""
    try:
        with tarfile.open(path) as archive:
            members = [(one.name, archive.extractfile(one).read()) for one in archive if one.isfile()]
            archive.fileobj.seek(archive.offset)
            assert not any(archive.fileobj.read(BLOCK)), "it took a header that it does not understand for the end"
        found = []
        for name, data in members:
            *folders, file = name.split("/")
            if not any(part.startswith(".") and part.strip(".") for part in (*folders, file)):  # hidden
                label = file.lower().removesuffix(".png").partition("_")[2] or folders[-1]
                pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 0]
                found.append((int(label), pixels.tobytes()))
        return sorted(found)
    except Exception:  # whatever it is, it says nothing about this project
        return None


def run(count: int, seed: int, first: int = 0) -> tuple[collections.Counter[tuple[str, bool]], float]:
    """Of `count` cases: how many of each kind loaded, and how many did not; memory, in MB.

    Raises AssertionError at the first that breaks a rule.
    """
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()
    before = 0.0
    for case in range(first - 40, first + count):  # the first forty only fill the caches: what they take is no growth
        draw = random.Random(f"{seed} {case}")
        kind = draw.choice(KINDS + OFTEN)
        before = peak() if case == first else before
        with tempfile.TemporaryDirectory() as folder:
            path = make_case(kind, draw, Path(folder))
            try:
                started = time.process_time()  # whatever else the machine does
                counts[kind, check(path, kind)] += case >= first
                assert time.process_time() - started < MAX_SECONDS, f"took over {MAX_SECONDS} s"
            except Exception as error:
                raise AssertionError(f"case {case}, {kind}: {error!r}") from error
    memory = peak() - before
    assert memory < MAX_MEMORY, f"took {memory:.0f} MB"
    return counts, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in {"count": 20_000, "seed": 0, "first": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="(default: %(default)s)")
    counts, memory = run(**vars(parser.parse_args()))
    for kind in KINDS:
        print(f"{kind:<10} {counts[kind, True]:>7,} loaded {counts[kind, False]:>7,} refused")
    loaded = sum(counts[kind, True] for kind in KINDS)
    print(f"{loaded:,} loaded, {counts.total() - loaded:,} refused, {memory:.0f} MB above the baseline")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of Pillow, which reads what is damaged, too
    main()
