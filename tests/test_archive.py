"""Reading images and labels from whatever people have; and every kind of bad input, with what is said about it."""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from support.data import container
from support.data import images as module
from support.data.images import SIZE, DataError, read_images, write_tar

PLAIN = {"tar": lambda data: data}
COMPRESSED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def png(pixels: np.ndarray, **options) -> bytes:
    """As Pillow writes it: compressed, with filters."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(lines: bytes, interlace: int = 0) -> bytes:
    """A 28x28 PNG of these lines, each with its filter type in front."""
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tar(members: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def special(name: str, kind: bytes) -> bytes:
    """The header of a member that is no file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member.tobuf()


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    """Forty images of noise and of digit-like blobs, by member name; the numbers have gaps, as in a part of a set."""
    generator = np.random.default_rng(0)
    names = [f"part/{number:05d}_{number % 10}.png" for number in range(0, 120, 3)]
    smooth = [np.outer(*np.sin(np.arange(SIZE) * scale)[None].repeat(2, 0)) ** 2 for scale in (0.1, 0.2)]
    images = [generator.integers(0, 256, (SIZE, SIZE)) if i % 2 else 255 * smooth[i % 4 // 2] for i in range(40)]
    return {name: image.astype(np.uint8) for name, image in zip(names, images, strict=True)}


@pytest.fixture
def save(tmp_path: Path):
    def write(data: bytes, name: str = "train.tar") -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def stacked(digits: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack(list(digits.values()))


def decoded(data: bytes) -> bytes:
    """The pixels of a PNG, read by this project."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(tar([("0_0.png", data)]))
        file.flush()
        return read_images(file.name)[0].tobytes()


def refusal(path: Path | str) -> str:
    """What is said about data that must be refused."""
    with pytest.raises(DataError) as caught:
        read_images(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") < 2
    return message


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", (PLAIN | COMPRESSED).values(), ids=(PLAIN | COMPRESSED).keys())
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
def test_every_container_gives_the_same_tensors(digits, save, format, compress) -> None:
    members = [(name, png(image)) for name, image in digits.items()]
    random.Random(0).shuffle(members)
    images, labels = read_images(save(compress(tar(members, format))))
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert images.flags.writeable
    assert labels.flags.writeable
    assert np.array_equal(images, stacked(digits))
    assert labels.tolist() == [number % 10 for number in range(0, 120, 3)]


def test_a_folder_gives_the_same_tensors(digits, tmp_path) -> None:
    for number, (name, image) in enumerate(digits.items()):
        path = tmp_path / ("one", "two/three", ".")[number % 3] / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    images, labels = read_images(tmp_path)
    assert np.array_equal(images, stacked(digits))
    assert labels.tolist() == [number % 10 for number in range(0, 120, 3)]


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_names_longer_than_a_header_holds(digits, save, format) -> None:
    members = [("ä" * 150 + "/" + name, png(image)) for name, image in digits.items()]
    assert np.array_equal(read_images(save(tar(members, FORMATS[format])))[0], stacked(digits))


def test_a_ustar_name_in_two_parts(digits, save) -> None:
    name, image = next(iter(digits.items()))
    assert len(read_images(save(tar([("p" * 90 + "/" + name, png(image))])))[0]) == 1


def test_pax_headers_for_all_members_and_for_one(digits, save) -> None:
    name, image = next(iter(digits.items()))
    data, file = png(image), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "ä\n1"}) as archive:
        member = tarfile.TarInfo("forged")
        member.size, member.pax_headers = len(data), {"path": name, "mtime": "1.5"}
        archive.addfile(member, io.BytesIO(data))
    assert np.array_equal(read_images(save(file.getvalue()))[0][0], image)


@pytest.mark.parametrize("filter_type", range(5))
def test_every_png_filter(filter_type) -> None:
    """The filters of the PNG specification, 9.2, undone by its own formulas, one byte after the other."""
    lines = np.random.default_rng(filter_type).integers(0, 256, (SIZE, 1 + SIZE), dtype=np.uint8)
    lines[:, 0] = filter_type
    pixels = np.zeros((SIZE + 1, SIZE + 1), int)  # a row of zeros above, a column of zeros to the left
    for y in range(SIZE):
        for x in range(SIZE):
            left, above, corner = int(pixels[y + 1, x]), int(pixels[y, x + 1]), int(pixels[y, x])
            estimate = left + above - corner
            paeth = min((left, above, corner), key=lambda value: abs(estimate - value))
            predicted = (0, left, above, (left + above) // 2, paeth)[filter_type]
            pixels[y + 1, x + 1] = (int(lines[y, x + 1]) + predicted) % 256
    assert decoded(raw_png(lines.tobytes())) == pixels[1:, 1:].astype(np.uint8).tobytes()


def test_images_do_not_reach_into_their_neighbours(monkeypatch, save) -> None:
    """Images are unfiltered some at a time: each begins anew, whatever stands before it and wherever a part ends."""
    lines = np.random.default_rng(1).integers(0, 256, (7, SIZE, 1 + SIZE), dtype=np.uint8)
    lines[:, :, 0] %= 5
    pngs = [raw_png(image.tobytes()) for image in lines]
    expected = [Image.open(io.BytesIO(data)).tobytes() for data in pngs]
    for part in (1, 3, 7, 8):
        monkeypatch.setattr(module, "UNFILTERED", part)
        images, _ = read_images(save(tar((f"{i}_0.png", data) for i, data in enumerate(pngs))))
        assert [image.tobytes() for image in images] == expected


def test_interlaced_pngs_and_pixels_in_many_chunks(digits) -> None:
    image = next(iter(digits.values()))
    # Adam7: the number of the pass that each pixel of an 8x8 block belongs to (PNG specification, 8.1)
    passes = np.array([[1, 6, 4, 6, 2, 6, 4, 6], [7] * 8, [5, 6] * 4, [7] * 8] * 2)
    passes[4] = [3, 6, 4, 6, 3, 6, 4, 6]
    lines = b""
    for number in range(1, 8):
        for y in range(SIZE):
            row = image[y, np.tile(passes[y % 8], 4)[:SIZE] == number]
            lines += b"\0" + row.tobytes() if len(row) else b""
    assert decoded(raw_png(lines, interlace=1)) == image.tobytes()
    data = png(image)
    start = data.index(b"IDAT") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    pixels, end = data[start + 8 : start + 8 + length], start + 12 + length
    many = b"".join(chunk(b"IDAT", pixels[i : i + 1]) for i in range(length))
    extra = chunk(b"tEXt", b"Comment\0" + bytes(1000))
    assert decoded(data[:start] + extra + many + data[end:]) == image.tobytes()


def test_bookkeeping_is_skipped(digits, save) -> None:
    members = [(name, png(image)) for name, image in digits.items()]
    for name in ("._x", "part/._00000_0.png", ".DS_Store", "part/Thumbs.db", "README.md", "LICENSE", "desktop.ini"):
        members.insert(1, (name, b"not an image" * 100))
    assert len(read_images(save(special("part/", tarfile.DIRTYPE) + tar(members)))[0]) == len(digits)
    assert len(read_images(save(special("old/", tarfile.AREGTYPE) + tar(members)))[0]) == len(digits)


def test_absolute_and_climbing_names_touch_nothing(digits, tmp_path, save) -> None:
    image = png(next(iter(digits.values())))
    path = save(tar([(f"{tmp_path}/0_0.png", image), ("../../1_1.png", image)]))
    assert len(read_images(path)[0]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["train.tar"]


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_pixels_and_labels_survive_writing_byte_for_byte_the_same_each_time(tmp_path, make) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, SIZE, SIZE), np.uint8)
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, "train", make(pixels), make(np.arange(10)))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    images, labels = read_images(tmp_path / "a.tar")
    assert np.array_equal(images, pixels)
    assert labels.tolist() == list(range(10))
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["train", *(f"train/{i:05d}_{i}.png" for i in range(10))]
        assert np.array_equal(Image.open(archive.extractfile("train/00003_3.png")), pixels[3])
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


WRONG_ARRAYS = {
    "images are float32; expected uint8, 0 to 255": (np.zeros((2, SIZE, SIZE), np.float32), np.zeros(2, int)),
    "images are bool; expected uint8": (np.zeros((2, SIZE, SIZE), bool), np.zeros(2, int)),
    "images have the shape (2, 784); expected (N, 28, 28)": (np.zeros((2, 784), np.uint8), np.zeros(2, int)),
    "images have the shape (2, 1, 28, 28)": (np.zeros((2, 1, SIZE, SIZE), np.uint8), np.zeros(2, int)),
    "images have the shape (2, 32, 32)": (np.zeros((2, 32, 32), np.uint8), np.zeros(2, int)),
    "labels are float64; expected integers": (np.zeros((2, SIZE, SIZE), np.uint8), np.zeros(2)),
    "labels have the shape (3,); expected (2,)": (np.zeros((2, SIZE, SIZE), np.uint8), np.zeros(3, int)),
    "labels have the shape (2, 10)": (np.zeros((2, SIZE, SIZE), np.uint8), np.zeros((2, 10), int)),
    "labels run from -1 to 0; expected 0 to 255": (np.zeros((2, SIZE, SIZE), np.uint8), np.array([0, -1])),
    "labels run from 0 to 256": (np.zeros((2, SIZE, SIZE), np.uint8), np.array([0, 256])),
    "0 images": (np.zeros((0, SIZE, SIZE), np.uint8), np.zeros(0, int)),
}


@pytest.mark.parametrize(("said", "arrays"), WRONG_ARRAYS.items(), ids=WRONG_ARRAYS.keys())
def test_arrays_that_cannot_be_written_are_named_and_nothing_is_written(tmp_path, said, arrays) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        write_tar(tmp_path / "a.tar", "train", *arrays)
    assert list(tmp_path.iterdir()) == []


def test_the_sample_is_what_its_readme_says(sample, tmp_path) -> None:
    for split, counts in (
        ("train", [143, 146, 142, 146, 144, 145, 144, 143, 141, 143]),
        ("test", [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]),
    ):
        images, labels = read_images(sample / f"{split}.tar")
        assert np.bincount(labels).tolist() == counts
        edge = images.copy()
        edge[:, 4:-4, 4:-4] = 0
        assert not edge.any()  # 20x20 in the middle
        assert module.suspicious(images) == []


# --- bad input --------------------------------------------------------------------------------------------------------

IMAGE = png(np.eye(SIZE, dtype=np.uint8))
GOOD = [("0_0.png", IMAGE), ("1_1.png", IMAGE)]


def test_a_missing_file(tmp_path) -> None:
    assert "No such file" in refusal(tmp_path / "train.tar")


def test_an_empty_file(save) -> None:
    assert "is empty; expected a tar archive" in refusal(save(b""))


def test_an_archive_without_images(save) -> None:
    assert "holds no images; expected PNGs named {number}_{label}.png" in refusal(save(tar([("README", b"none")])))


def test_an_empty_folder(tmp_path) -> None:
    assert "holds no images" in refusal(tmp_path)


def foreign() -> dict[str, bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0_0.png", IMAGE)
    return {
        "zip": file.getvalue(),
        "text": b"This is not the archive that you are looking for.\n" * 100,
        "html": b"<!DOCTYPE html><title>404</title>",
        "png": IMAGE,
        "noise": random.Random(0).randbytes(5000),
        "text in gzip": gzip.compress(b"text" * 1000),
    }


@pytest.mark.parametrize("data", foreign().values(), ids=foreign().keys())
def test_a_foreign_file(save, data) -> None:
    assert "no archive" in (message := refusal(save(data)))
    assert "expected a tar archive, plain or in gzip, bzip2 or xz" in message


@pytest.mark.parametrize("compress", (PLAIN | COMPRESSED).values(), ids=(PLAIN | COMPRESSED).keys())
def test_a_truncated_file(save, compress) -> None:
    whole = compress(tar(GOOD))
    # up to the last block of zeros, which tar repeats for the sake of tapes; a compressed file has no such slack
    end = 512 * 4 + 1 if compress is PLAIN["tar"] else len(whole) - 1
    for length in {*range(1, end, 97), 512, 1024, 1536, 2048, end - 1} & {*range(1, end + 1)}:
        refusal(save(whole[:length]))


def test_a_file_cut_off_within_an_image_says_so(save) -> None:
    assert "cut off before its end" in refusal(save(tar(GOOD)[:600]))


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_a_compressed_file_with_a_flipped_bit(save, compress) -> None:
    whole = bytearray(compress(tar(GOOD)))
    whole[len(whole) // 2] ^= 4
    refusal(save(bytes(whole)))


def test_a_damaged_header_is_not_the_end(save) -> None:
    whole = bytearray(tar(GOOD))
    whole[1024] ^= 1
    assert "no valid header at byte 1,024" in refusal(save(bytes(whole)))
    whole[1024 : 1024 + 512] = bytes(512)
    assert "goes on behind its end at byte 1,024" in refusal(save(bytes(whole)))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None) -> bytes:
    """A header that may lie, with a right checksum."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.pax_headers = size, kind, pax or {}
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"X", b"7"], ids=repr)
@pytest.mark.parametrize("size", [2 * 1024**2, 8 * 1024**3 - 1, 2**60], ids=str)
def test_a_header_that_claims_too_much(save, kind, size) -> None:
    assert f"claims {size:,} bytes" in refusal(save(header("0_0.png", size, kind) + tar(GOOD)))


def test_sizes_in_pax_headers(save) -> None:
    assert "claims" in refusal(save(header("0_0.png", 0, pax={"size": str(10**15)}) + tar(GOOD)))
    assert "claims" in refusal(save(header("0_0.png", 0, pax={"size": "-512"}) + tar(GOOD)))
    for digits in (4000, 5000):  # Python reads no more than 4,300
        assert len(refusal(save(header("0_0.png", 0, pax={"size": "9" * digits}) + tar(GOOD)))) < 500


@pytest.mark.parametrize(
    "records",
    [b"0 a=b\n", b"99 path=x\n", b"-8 a=b\n", b"path=x\n", b"5 a\n", b"9" * 600, b"6 a=b\n" + bytes(3)],
    ids=repr,
)
def test_damaged_pax_headers(save, records) -> None:
    block = records + bytes(-len(records) % 512)
    assert "pax header" in refusal(save(header("x", len(records), b"x") + block + tar(GOOD)))


def test_headers_about_headers_about_headers(save) -> None:
    chain = header("x", 0, b"L") + header("x", 0, b"K") + header("x", 0, b"x") + header("x", 0, b"g")
    assert len(read_images(save(chain + tar(GOOD)))[0]) == 2
    for kind in (b"L", b"K", b"x", b"g", b"X"):
        assert f"two headers of type '{kind.decode().replace('X', 'x')}' before one member" in refusal(
            save(header("x", 0, kind) * 2 + tar(GOOD))
        )
    assert "two headers" in refusal(save(chain * 5000 + tar(GOOD)))


def pax(records: dict[str, str], kind: bytes = b"x") -> bytes:
    """A pax header."""
    data = b"".join(pax_record(keyword, value) for keyword, value in records.items())
    return header("pax", len(data), kind) + data + bytes(-len(data) % 512)


def pax_record(keyword: str, value: str) -> bytes:
    rest = f" {keyword}={value}\n".encode()
    length = len(rest) + len(str(len(rest)))
    return str(len(rest) + len(str(length))).encode() + rest


def test_what_names_or_sizes_all_members_is_refused(save) -> None:
    for records in ({"path": "0_0.png"}, {"size": "100"}, {"GNU.sparse.major": "1"}):
        assert "global pax header" in refusal(save(pax(records, b"g") + tar(GOOD)))
    assert len(read_images(save(pax({"comment": "0123", "mtime": "1"}, b"g") + tar(GOOD)))[0]) == 2


def test_a_member_that_is_named_twice_is_refused(save) -> None:
    name = b"5_5.png\0"
    long_name = header("L", len(name), b"L") + name.ljust(512, b"\0")
    assert len(read_images(save(long_name + tar(GOOD)))[0]) == 2
    assert "'6_6.png' is named '5_5.png' too" in refusal(save(long_name + pax({"path": "6_6.png"}) + tar(GOOD)))


@pytest.mark.parametrize(
    "records", [{"GNU.sparse.major": "1"}, {"GNU.sparse.map": "0,1"}, {"GNU.sparse.size": "1"}], ids=str
)
def test_sparse_members_of_a_pax_archive_are_refused(save, records) -> None:
    assert "'0_0.png' is a link, a device or sparse" in refusal(save(pax(records) + tar(GOOD)))


def test_labels_of_volumes_and_directories_with_lists_are_no_links(save) -> None:
    """`tar -V` and `tar -g` write them."""
    listed = header("train/", 3000, b"D") + b"Y00000_5.png\0" * 200 + bytes(3072 - 2600)
    assert len(read_images(save(special("volume", b"V") + listed + tar(GOOD)))[0]) == 2


@pytest.mark.parametrize(
    "name", ["0.png", "x_1.png", "0_10.png", "0_a.png", "0_-1.png", "5.jpg", "1_5.png.txt", "readme.png"]
)
def test_a_name_without_number_and_label(save, tmp_path, name) -> None:
    expected = f"{name}' is not named {{number}}_{{label}}.png, with a label from 0 to 9"
    assert expected in refusal(save(tar([("train/" + name, IMAGE)])))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(IMAGE)
    assert expected in refusal(tmp_path / "folder")


def test_forged_names_are_shown_safely(save) -> None:
    message = refusal(save(tar([("\x1b[2J" + "x" * 100_000 + "\n.png", IMAGE)], tarfile.PAX_FORMAT)))
    assert len(message) < 500
    assert message.isprintable()


def test_a_number_that_stands_twice(save) -> None:
    message = refusal(save(tar([*GOOD, ("other/001_7.png", IMAGE)])))
    assert "'1_1.png' and 'other/001_7.png' have the same number" in message


def test_a_png_that_is_damaged(save) -> None:
    """Whatever byte of a PNG is another, it is seen."""
    for position in range(len(IMAGE)):
        damaged = bytearray(IMAGE)
        damaged[position] ^= 16
        message = refusal(save(tar([("0_0.png", bytes(damaged))])))
        assert "'0_0.png' is" in message
        assert re.search("not a PNG|damaged PNG|cut off", message)


@pytest.mark.parametrize("length", [0, 7, 8, 30, len(IMAGE) // 2, len(IMAGE) - 1])
def test_a_png_that_is_cut_off(save, length) -> None:
    assert re.search(
        r"'0_0\.png' is (not a PNG|a PNG cut off before its end)", refusal(save(tar([("0_0.png", IMAGE[:length])])))
    )


PIXELS = bytes(29 * SIZE)
WRONG_PIXELS = {
    "too few": raw_png(PIXELS[:-1]),
    "too many": raw_png(PIXELS + b"\0"),
    "a bomb": raw_png(bytes(10**8)),
    "an unknown filter": raw_png(b"\5" + PIXELS[1:]),
    "interlaced, too few": raw_png(PIXELS[:100], interlace=1),
    "interlaced, an unknown filter": raw_png(b"\5" + bytes(836), interlace=1),
    "no zlib": raw_png(PIXELS).replace(b"IDATx", b"IDATy"),
    "unknown interlacing": raw_png(PIXELS, interlace=2),
    "no pixels": b"\x89PNG\r\n\x1a\n" + IMAGE[8:33] + chunk(b"IEND", b""),
    "no header": b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""),
}


@pytest.mark.parametrize("data", WRONG_PIXELS.values(), ids=WRONG_PIXELS.keys())
def test_pixels_that_are_not_28_lines_of_28(save, data) -> None:
    assert "'0_0.png' is a damaged PNG" in refusal(save(tar([("0_0.png", data)])))


def any_png(
    samples: np.ndarray, depth: int, color: int, palette: bytes = b"", transparent: bytes | None = None
) -> bytes:
    """A PNG of samples (height, width, channels) as they are to stand in the file."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if depth == 16:
        lines = rows.astype(">u2").view(np.uint8)
    elif depth == 8:
        lines = rows.astype(np.uint8)
    else:
        bits = (rows[..., None].astype(np.uint8) >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(height, -1), axis=1)
    data = zlib.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
        + (chunk(b"PLTE", palette) if palette else b"")
        + (b"" if transparent is None else chunk(b"tRNS", transparent))
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


GRAY = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 1))
OPAQUE = np.full_like(GRAY, 255)
RAMP = bytes(value for value in range(256) for _ in range(3))  # the palette of all grays
LOSSLESS = {
    "1-bit": (any_png(GRAY // 128, 1, 0), GRAY // 128 * 255),
    "2-bit": (any_png(GRAY // 64, 2, 0), GRAY // 64 * 85),
    "4-bit": (any_png(GRAY // 16, 4, 0), GRAY // 16 * 17),
    "16-bit": (any_png(GRAY * 257, 16, 0), GRAY),
    "RGB": (any_png(GRAY.repeat(3, 2), 8, 2), GRAY),
    "RGBA": (any_png(np.dstack([GRAY.repeat(3, 2), OPAQUE]), 8, 6), GRAY),
    "gray with alpha": (any_png(np.dstack([GRAY, OPAQUE]), 8, 4), GRAY),
    "16-bit RGB": (any_png(GRAY.repeat(3, 2) * 257, 16, 2), GRAY),
    "16-bit RGBA": (any_png(np.dstack([GRAY.repeat(3, 2), OPAQUE]) * 257, 16, 6), GRAY),
    "16-bit gray with alpha": (any_png(np.dstack([GRAY, OPAQUE]) * 257, 16, 4), GRAY),
    "palette": (any_png(255 - GRAY, 8, 3, RAMP[::-1]), GRAY),
    "palette of 16": (any_png(GRAY // 16, 4, 3, RAMP[: 3 * 16]), GRAY // 16),
    "palette of 4": (any_png(GRAY // 64, 2, 3, RAMP[: 3 * 4]), GRAY // 64),
    "palette of 2": (any_png(GRAY // 128, 1, 3, bytes(3) + b"\xff" * 3), GRAY // 128 * 255),
    "opaque palette": (any_png(GRAY, 8, 3, RAMP, b"\xff" * 256), GRAY),
    "palette with a transparent colour that nothing has": (
        any_png(GRAY // 2, 8, 3, RAMP, b"\xff" * 255 + b"\0"),
        GRAY // 2,
    ),
    "palette with a colour that nothing has": (any_png(GRAY // 2, 8, 3, RAMP[:-3] + b"red"), GRAY // 2),
    "gray with a transparent value that nothing has": (any_png(GRAY // 2, 8, 0, transparent=b"\0\xff"), GRAY // 2),
}


@pytest.mark.parametrize(("data", "pixels"), LOSSLESS.values(), ids=LOSSLESS.keys())
def test_every_kind_of_png_loads_where_nothing_is_lost(data, pixels) -> None:
    assert decoded(data) == pixels.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("color", "depth"), [(0, 1), (0, 2), (0, 4), (3, 1), (3, 2), (3, 4), (3, 8), (2, 8), (4, 8), (6, 8)]
)
@pytest.mark.parametrize("interlace", [0, 1])
def test_kinds_of_png_are_what_pillow_reads(color, depth, interlace) -> None:
    """Lines of noise, of every filter type, in which all channels are alike."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    generator = np.random.default_rng(depth + color)
    sizes = [(4, 4), (3, 4), (7, 3), (7, 7), (14, 7), (14, 14), (28, 14)] if interlace else [(28, 28)]
    lines = b""
    for width, height in sizes:
        gray = generator.integers(0, 256, (height, -(-width * depth // 8), 1), np.uint8)
        row = gray.repeat(channels, 2)
        if color in (4, 6):
            row[..., -1] = 255
        lines += np.pad(row.reshape(height, -1), ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", SIZE, SIZE, depth, color, 0, 0, interlace)
    palette = chunk(b"PLTE", RAMP[: 3 * 2**depth]) if color == 3 else b""
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette
    data += chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    assert decoded(data) == Image.open(io.BytesIO(data)).convert("L").tobytes()


COLOURED = GRAY.repeat(3, 2) * [1, 1, 0]
LOSSY = {
    "32x28, 8-bit grayscale": png(np.zeros((28, 32), np.uint8)),
    "32x32, 16-bit grayscale": png(np.full((32, 32), 65535, np.uint16)),
    "40x40, 8-bit RGBA": png(np.full((40, 40, 4), 255, np.uint8)),
    "28x28, 8-bit RGB, not gray everywhere": any_png(COLOURED, 8, 2),
    "28x28, 16-bit RGB, not gray everywhere": any_png(COLOURED * 257, 16, 2),
    "28x28, 8-bit RGBA, not gray everywhere": any_png(np.dstack([COLOURED, OPAQUE]), 8, 6),
    "28x28, 8-bit RGBA, in part transparent": any_png(np.dstack([GRAY.repeat(3, 2), GRAY]), 8, 6),
    "28x28, 8-bit grayscale with alpha, in part transparent": any_png(np.dstack([GRAY, GRAY]), 8, 4),
    "28x28, 8-bit palette, not gray everywhere": any_png(GRAY, 8, 3, RAMP[:-3] + b"red"),
    "28x28, 8-bit palette, in part transparent": any_png(GRAY, 8, 3, RAMP, b"\0"),
    "28x28, 8-bit grayscale, in part transparent": any_png(GRAY, 8, 0, transparent=b"\0\7"),
    "28x28, 8-bit RGB, in part transparent": any_png(GRAY.repeat(3, 2), 8, 2, transparent=b"\0\7\0\7\0\7"),
    "28x28, 16-bit grayscale, in part transparent": any_png(GRAY * 257, 16, 0, transparent=b"\7\7"),
    "28x28, 16-bit grayscale, with values between those of 8 bits": any_png(GRAY * 256, 16, 0),
    "28x28, 16-bit RGB, with values between those of 8 bits": any_png(GRAY.repeat(3, 2) * 257 // 2, 16, 2),
}


@pytest.mark.parametrize(("kind", "data"), LOSSY.items(), ids=LOSSY.keys())
def test_a_png_that_would_lose_something_is_named_with_the_line_that_converts_it(tmp_path, kind, data) -> None:
    """The line is typed as it stands, and what it saves is read."""
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "it's 1.png").write_bytes(data)
    message = refusal(tmp_path)
    assert f'"5/it\'s 1.png" is {kind}; expected 28x28, 8-bit grayscale' in message
    line = message.partition("\nto convert it: ")[2]
    exec(line, {"Image": Image})
    images, labels = read_images(tmp_path)
    assert labels.tolist() == [5]
    assert images.max() > 100 or "32x28" in kind  # not all black, nor ...
    assert images.min() < 100 or "32x32" in kind or "40x40" in kind  # ... clipped to white


def test_sizes_that_no_memory_holds_are_refused_by_the_header(save) -> None:
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\xff" * 8 + b"\x08\0\0\0\0") + chunk(b"IEND", b"")
    expected = "'0_0.png' is 4294967295x4294967295, 8-bit grayscale; expected 28x28, 8-bit grayscale"
    assert expected in refusal(save(tar([("0_0.png", data)])))


DAMAGED_KINDS = {
    "an index beyond the palette": any_png(GRAY, 8, 3, RAMP[:-3]),
    "no palette": any_png(GRAY, 8, 3),
    "half a colour": any_png(GRAY // 2, 8, 3, RAMP[:-1]),
    "more transparencies than colours": any_png(GRAY // 64, 2, 3, RAMP[:12], b"\xff" * 5),
    "a transparent value of no pixel": any_png(GRAY, 8, 0, transparent=b"\0"),
    "a depth that does not exist": any_png(GRAY, 8, 0).replace(b"\x1c\x08\0", b"\x1c\x03\0"),
    "too few pixels": any_png(GRAY[:-1].repeat(3, 2), 8, 2).replace(b"\0\0\0\x1b\x08", b"\0\0\0\x1c\x08"),
}


@pytest.mark.parametrize("data", DAMAGED_KINDS.values(), ids=DAMAGED_KINDS.keys())
def test_other_kinds_of_png_that_are_damaged(save, data) -> None:
    start = data.index(b"IHDR")
    fixed = data[: start + 17] + struct.pack(">I", zlib.crc32(data[start : start + 17])) + data[start + 21 :]
    assert "'0_0.png' is a damaged PNG" in refusal(save(tar([("0_0.png", fixed)])))


def test_chunks_that_hold_bombs_are_not_unpacked(save) -> None:
    bomb = zlib.compress(bytes(10**8))
    extra = chunk(b"zTXt", b"Comment\0\0" + bomb) + chunk(b"iCCP", b"profile\0\0" + bomb)
    for data in (IMAGE, any_png(GRAY.repeat(3, 2), 8, 2)):
        assert len(read_images(save(tar([("0_0.png", data[:33] + extra + data[33:])])))[0]) == 1


def test_a_png_of_endless_chunks_is_refused(save) -> None:
    data = IMAGE[:33] + chunk(b"tEXt", b"") * 1000 + IMAGE[33:]
    assert "is a PNG of over 1,000 chunks" in refusal(save(tar([("0_0.png", data)])))


def other_files() -> dict[str, bytes]:
    """What people have in place of PNGs and tars, by what it is called."""

    def picture(form: str) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.full((40, 30, 3), 200, np.uint8)).save(file, form)
        return file.getvalue()

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0_0.png", IMAGE)
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    return {
        "a JPEG": picture("jpeg"),
        "a BMP": picture("bmp"),
        "a GIF": picture("gif"),
        "a TIFF": picture("tiff"),
        "a WebP picture": picture("webp"),
        "empty": b"",
        "a web page": b"\r\n<!doctype HTML>\n<html><head><title>404</title>" + b"<p>Sign in" * 100,
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614\nsize 12345\n",
        "a zip file": file.getvalue(),
        "a NumPy array": array.getvalue(),
        "a text": b"label,pixel0,pixel1\n" * 100,
    }


@pytest.mark.parametrize(("what", "data"), other_files().items(), ids=other_files().keys())
def test_whatever_is_named_tar_is_named_as_what_it_is(save, what, data) -> None:
    message = refusal(save(data))
    assert ("is empty; expected a tar" if what == "empty" else f"but {what}") in message
    assert "expected a tar archive" in message
    if data:
        assert f"{what}" in (message := refusal(save(gzip.compress(data), "train.tar.gz")))
        assert "in gzip" in message


@pytest.mark.parametrize(("what", "data"), other_files().items(), ids=other_files().keys())
def test_whatever_is_named_png_is_named_as_what_it_is(save, tmp_path, what, data) -> None:
    assert f"'0_0.png' is not a PNG but {what}" in refusal(save(tar([("0_0.png", data)])))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1_1.png").write_bytes(data)
    message = refusal(tmp_path / "folder")
    assert f"'1_1.png' is not a PNG but {what}" in message
    if what in container.PICTURES:
        exec(message.partition("\nto convert it: ")[2], {"Image": Image})
        assert read_images(tmp_path / "folder")[1].tolist() == [1]


@pytest.mark.parametrize("what", container.PICTURES)
def test_pictures_of_other_formats_are_named_with_the_line_that_converts_them(tmp_path, what) -> None:
    path = tmp_path / "7" / "00001.jpg"
    path.parent.mkdir()
    path.write_bytes(other_files()[what])
    message = refusal(tmp_path)
    assert f"'7/00001.jpg' is not a PNG but {what}" in message
    exec(message.partition("\nto convert it: ")[2], {"Image": Image})
    path.unlink()
    assert read_images(tmp_path)[1].tolist() == [7]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"S", b"Z"], ids=repr
)
def test_members_that_are_no_files(save, kind) -> None:
    message = refusal(save(special("0_0.png", kind) + tar(GOOD)))
    assert "'0_0.png' is a link, a device or sparse; expected a regular file" in message


def test_a_fifo_does_not_hang(tmp_path) -> None:
    fifo = tmp_path / "0_0.png"
    os.mkfifo(fifo)
    assert "neither a file nor a folder" in refusal(fifo)
    assert "is not a regular file" in refusal(tmp_path)


def test_links_in_a_folder(tmp_path) -> None:
    (tmp_path / "elsewhere.png").write_bytes(IMAGE)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "0_0.png").symlink_to(tmp_path / "elsewhere.png")
    assert len(read_images(folder)[0]) == 1
    (folder / "circle").symlink_to(folder)
    assert "circle: is a link to a folder" in refusal(folder)
    (folder / "circle").unlink()
    (folder / "1_1.png").symlink_to("nowhere")
    assert "1_1.png: is not a regular file" in refusal(folder)
    (folder / "1_1.png").unlink()
    (folder / "1_1.png").symlink_to("1_1.png")
    assert "1_1.png: cannot be read: Too many levels of symbolic links" in refusal(folder)


def test_a_large_file_in_a_folder(tmp_path) -> None:
    (tmp_path / "0_0.png").write_bytes(bytes(module.MAX_MEMBER + 1))
    assert "0_0.png: is over 1,048,576 bytes" in refusal(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
def test_what_may_not_be_read(tmp_path, as_nobody) -> None:
    archive, folder, file, closed = (tmp_path / name for name in ("train.tar", "a", "b/0_0.png", "c/closed"))
    archive.write_bytes(tar(GOOD))
    folder.mkdir()
    file.parent.mkdir()
    file.write_bytes(IMAGE)
    closed.mkdir(parents=True)
    for path in (archive, folder, file, closed):
        path.chmod(0)
    with as_nobody():
        assert "Permission denied" in refusal(archive)
        assert "Permission denied" in refusal(folder)
        assert "Permission denied" in refusal(folder / "train.tar")
        assert "0_0.png: cannot be read: Permission denied" in refusal(file.parent)
        assert "closed: cannot be read: Permission denied" in refusal(closed.parent)
    for path in (folder, closed):
        path.chmod(0o755)  # so that pytest can clear them


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_a_decompression_bomb(save, compress) -> None:
    zeros = compress(bytes(10 * 1024**2))
    assert "goes on behind its end at byte 0" in refusal(save(zeros))
    assert "claims 10,485,760 bytes" in refusal(save(compress(header("0_0.png", 10 * 1024**2)) + zeros))


def test_more_than_an_archive_can_hold(monkeypatch, save) -> None:
    path = save(tar(GOOD))
    monkeypatch.setattr(module, "MAX_IMAGES", 1)
    assert "holds over 1 images" in refusal(path)
    monkeypatch.setattr(container, "MAX_BYTES", 2000)
    assert "at most 2,000 are read" in refusal(path)
    assert "holds over 2,000 bytes" in refusal(save(gzip.compress(tar(GOOD))))


def with_dictionary(data: bytes, size: int) -> bytes:
    """An xz file that claims to need a dictionary of 2 << size KiB (xz format, 3.1, 5.3.1)."""
    packed = bytearray(lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    length = (packed[12] + 1) * 4  # of the block header; its filter flags end in the dictionary size
    packed[packed.index(b"\x21\x01\x00", 12) + 2] = size
    packed[12 + length - 4 : 12 + length] = struct.pack("<I", zlib.crc32(packed[12 : 12 + length - 4]))
    return bytes(packed)


def test_what_xz_may_claim_to_need_is_bounded(save) -> None:
    """xz allocates the dictionary that the file claims to need, up to 4 GiB; `xz -9` takes 64 MiB."""
    assert len(read_images(save(lzma.compress(tar(GOOD), preset=9)))[0]) == 2
    assert "emory usage limit" in refusal(save(with_dictionary(tar(GOOD), 30)))
    assert "emory usage limit" in refusal(save(with_dictionary(tar(GOOD), 40)))


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_streams_one_behind_the_other_are_one_file_and_bounded(monkeypatch, save, compress) -> None:
    whole = tar(GOOD)
    parts = [whole[start : start + 700] for start in range(0, len(whole), 700)]
    assert len(read_images(save(b"".join(compress(part) for part in parts)))[0]) == 2
    assert len(read_images(save(compress(whole) + bytes(200_000)))[0]) == 2  # zeros fill up the blocks of a tape
    assert len(read_images(save(compress(b"") * 3 + bytes(100) + compress(whole)))[0]) == 2
    refusal(save(compress(whole) + b"more"))
    monkeypatch.setattr(container, "MAX_STREAMS", 50)
    assert "it consists of over 50" in refusal(save(compress(b"") * 51 + compress(whole)))


def test_headers_and_files_that_are_no_images_are_bounded(monkeypatch, save, tmp_path) -> None:
    folders = b"".join(header(f"{number}/", 0, tarfile.DIRTYPE) for number in range(100))
    monkeypatch.setattr(module, "MAX_OTHERS", 100)
    assert len(read_images(save(folders + tar(GOOD)))[0]) == 2
    monkeypatch.setattr(module, "MAX_OTHERS", 99)
    expected = "holds over 99 headers, folders or files that are no images"
    assert expected in refusal(save(folders + tar(GOOD)))
    assert expected in refusal(save(tar((f".{number}", b"") for number in range(100))))
    assert expected in refusal(save(pax({"mtime": "1"}) + folders[: 99 * 512]))
    for number in range(100):
        (tmp_path / "folder" / str(number)).mkdir(parents=True)
    assert expected in refusal(tmp_path / "folder")


def test_a_pax_header_of_many_records_or_large_ones(save) -> None:
    assert len(read_images(save(pax({f"x{number}": "y" * 9000 for number in range(100)}) + tar(GOOD)))[0]) == 2
    assert "a pax header of over 100 records" in refusal(save(pax({f"x{i}": "y" for i in range(101)}) + tar(GOOD)))
    assert "damaged pax header" in refusal(save(pax({"x" * 101: "y"}) + tar(GOOD)))


def test_a_name_that_is_too_long(save) -> None:
    assert "a name of 521 characters; at most 512" in refusal(save(tar([("x" * 514 + "/0_0.png"[1:], IMAGE)], 1)))


# --- labels, numbers and order ----------------------------------------------------------------------------------------


def value_of(value: int) -> bytes:
    """An image of one value, by which it is known again."""
    return png(np.full((SIZE, SIZE), value, np.uint8))


def read_all(members: list[tuple[str, bytes]], folder: Path, **options: int) -> list[tuple[int, int]]:
    """Value and label of each image, the same whether they lie in an archive or in a folder."""
    (folder / "all.tar").write_bytes(tar(members))
    for name, data in members:
        path = folder / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = []
    for path in (folder / "all.tar", folder / "all"):
        images, labels = read_images(path, **options)
        found.append(list(zip(images[:, 0, 0].tolist(), labels.tolist(), strict=True)))
    assert found[0] == found[1]
    return found[0]


def test_folders_by_label_are_ordered_by_number_where_it_is_unique(tmp_path) -> None:
    members = [("train/7/10.png", value_of(10)), ("train/7/2.png", value_of(2)), ("train/0/00003.PNG", value_of(3))]
    assert read_all(members, tmp_path) == [(2, 7), (3, 0), (10, 7)]


@pytest.mark.parametrize("names", [("7/1.png", "0/1.png"), ("7/a.png", "0/2.png"), ("7/img 2.png", "0/img 10.png")])
def test_folders_by_label_are_ordered_by_path_where_numbers_do_not_do(tmp_path, names) -> None:
    assert read_all([(name, value_of(i)) for i, name in enumerate(names)], tmp_path) == [(1, 0), (0, 7)]


def test_folders_by_label_may_say_the_label_again_in_the_name(tmp_path) -> None:
    assert read_all([("5/2_5.png", value_of(2)), ("5/1.png", value_of(1))], tmp_path) == [(1, 5), (2, 5)]


@pytest.mark.parametrize("members", [[("5/1_3.png", IMAGE)], [("train/05/2.png", IMAGE), ("train/5/1_4.png", IMAGE)]])
def test_a_label_that_differs_in_folder_and_name_is_an_error(save, members) -> None:
    assert re.search("is labelled [34] by its name and 5 by its folder", refusal(save(tar(members))))


def test_images_without_a_number_among_numbered_ones_are_an_error(save) -> None:
    assert "'5/a.png' have no number" in refusal(save(tar([("0_0.png", IMAGE), ("5/a.png", IMAGE)])))
    assert "have the same number" in refusal(save(tar([("1_0.png", IMAGE), ("5/1.png", IMAGE)])))
    assert "'5/a.png' stands in it twice" in refusal(save(tar([("5/a.png", IMAGE), ("5/a.png", IMAGE)])))


@pytest.mark.parametrize("name", ["25/1.png", "1_25.png", "25/1_025.png"])
def test_more_classes_than_ten(tmp_path, save, name) -> None:
    assert read_all([(name, value_of(9))], tmp_path, classes=26) == [(9, 25)]
    with pytest.raises(DataError, match="with a label from 0 to 24, but has label 25"):
        read_images(save(tar([(name, IMAGE)])), classes=25)
    assert "a label from 0 to 9" in refusal(save(tar([(name, IMAGE)])))


def test_the_largest_number_of_classes(tmp_path, save) -> None:
    assert read_all([("255/1.png", value_of(9)), ("0_0.png", value_of(1))], tmp_path, classes=256) == [(1, 0), (9, 255)]
    for classes in (0, 257):
        with pytest.raises(ValueError, match="expected 1 to 256"):
            read_images(save(tar(GOOD)), classes)


def test_hidden_folders_are_skipped_as_hidden_files_are(tmp_path) -> None:
    members = [
        (".git/objects/00", b"x" * 2_000_000),
        ("5/.ipynb_checkpoints/1_5.png", IMAGE),
        ("__MACOSX/._1.png", b""),
    ]
    assert read_all([*members, ("5/2_5.png", value_of(2)), ("./6/3.png", value_of(3))], tmp_path) == [(2, 5), (3, 6)]
    (tmp_path / "hidden.tar").write_bytes(tar(members))
    assert "holds no images" in refusal(tmp_path / "hidden.tar")


def test_a_folder_of_endless_depth_is_an_error(tmp_path) -> None:
    folder = tmp_path.joinpath("top", *["x"] * (module.MAX_DEPTH - 1))
    folder.mkdir(parents=True)
    (folder / "0_0.png").write_bytes(IMAGE)
    assert len(read_images(tmp_path)[0]) == 1
    for depth in (1, 1200, 3000):  # the last is deeper than a path may be long
        at = os.open(folder, os.O_RDONLY)
        for _ in range(depth):
            with suppress(FileExistsError):
                os.mkdir("x", dir_fd=at)
            below = os.open("x", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        message = refusal(tmp_path)
        assert "folders lie over 32 deep" in message
        assert len(message) < 500
    subprocess.run(["rm", "-r", tmp_path / "top"], check=True)  # pytest would fail at it


@pytest.mark.parametrize("name", ["숫자", "émoji 🙂", os.fsdecode(b"b\xff"), "two\nlines\x1b[31m"])
def test_any_path_works_and_can_be_shown(tmp_path, name) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "0_0.png").write_bytes(IMAGE)
    assert len(read_images(tmp_path / name)[0]) == 1
    (tmp_path / name / "0_0.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_images(tmp_path / name)
    assert str(caught.value).isprintable()


# --- IDX --------------------------------------------------------------------------------------------------------------


def idx_pair(folder: Path, images: bytes | None = None, labels: bytes | None = None) -> Path:
    """The file of images, beside its labels: images of 1, 2 and 3, labelled 5, 0 and 4, or others."""
    pixels = b"".join(bytes([value]) * SIZE * SIZE for value in (1, 2, 3))
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", 2051, 3, SIZE, SIZE) + pixels if images is None else images)
    labels = struct.pack(">2I", 2049, 3) + b"\5\0\4" if labels is None else labels
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    return path


def test_idx_files_as_they_are_and_compressed(tmp_path) -> None:
    path = idx_pair(tmp_path)
    for compress, name in ((bytes, path.name), (gzip.compress, f"{path.name}.gz"), (bz2.compress, f"{path.name}.gz")):
        packed = tmp_path / "packed"
        packed.mkdir(exist_ok=True)
        (packed / name).write_bytes(compress(path.read_bytes()))
        (packed / "train-labels-idx1-ubyte.gz").write_bytes(
            compress((tmp_path / "train-labels-idx1-ubyte").read_bytes())
        )
        images, labels = read_images(packed / name)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert images.flags.writeable
        assert images[:, 3, 4].tolist() == [1, 2, 3]
        assert labels.tolist() == [5, 0, 4]


WRONG_IDX = {
    "cut off before its end": {"images": struct.pack(">4I", 2051, 3, SIZE, SIZE) + bytes(3 * 784 - 1)},
    "it goes on behind its 3 images": {"images": struct.pack(">4I", 2051, 3, SIZE, SIZE) + bytes(3 * 784 + 1)},
    "claims 4,294,967,295 images": {"images": struct.pack(">4I", 2051, 2**32 - 1, SIZE, SIZE)},
    "is damaged: cut off": {"images": struct.pack(">4I", 2051, 10**6, SIZE, SIZE) + bytes(784)},
    "has images of 32x28; expected 28x28": {"images": struct.pack(">4I", 2051, 3, 32, SIZE) + bytes(3 * 32 * 28)},
    "holds no images": {"images": struct.pack(">4I", 2051, 0, SIZE, SIZE)},
    "IDX of 3-dimensional float32; expected 3-dimensional uint8": {"images": b"\0\0\x0d\3" + bytes(100)},
    "IDX of 1-dimensional uint8; expected 3-dimensional uint8": {"images": struct.pack(">2I", 2049, 3) + b"\5\0\4"},
    "3 images, but 2 labels": {"labels": struct.pack(">2I", 2049, 2) + b"\5\0"},
    "idx1-ubyte: is damaged: cut off before its end": {"labels": struct.pack(">2I", 2049, 3) + b"\5\0"},
    "idx1-ubyte: is damaged: it goes on behind its 3 labels": {"labels": struct.pack(">2I", 2049, 3) + b"\5\0\4\1"},
    "idx1-ubyte: is no IDX file": {"labels": b"five, zero, four"},
    "has the label 10; expected a label from 0 to 9": {"labels": struct.pack(">2I", 2049, 3) + b"\5\0\x0a"},
}


@pytest.mark.parametrize(("said", "content"), WRONG_IDX.items(), ids=WRONG_IDX.keys())
def test_idx_files_that_are_damaged_or_of_another_kind(tmp_path, said, content) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        read_images(idx_pair(tmp_path, **content))


def test_idx_images_without_labels_beside(tmp_path) -> None:
    path = idx_pair(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert "expected train-labels-idx1-ubyte beside" in refusal(path)
    (tmp_path / "train-labels-idx1-ubyte").mkdir()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: is damaged: is not a regular file"):
        read_images(path)


def test_an_idx_bomb_takes_no_more_than_it_claims(tmp_path) -> None:
    path = idx_pair(tmp_path, gzip.compress(struct.pack(">4I", 2051, 3, SIZE, SIZE) + bytes(10**8)))
    assert "it goes on behind its 3 images" in refusal(path)


# --- suspicions -------------------------------------------------------------------------------------------------------


def test_images_that_are_not_like_those_of_mnist_are_suspicious() -> None:
    digits = np.zeros((5, SIZE, SIZE), np.uint8)
    digits[:, 5:20, 10:14] = 255
    assert module.suspicious(digits) == []
    assert ["dark on light" in text for text in module.suspicious(255 - digits)] == [True]
    for wrong in (digits // 255, digits * 0):
        assert ["brightest pixel is" in text for text in module.suspicious(wrong)] == [True]
    assert all("\n" not in text for text in module.suspicious(255 - digits))
