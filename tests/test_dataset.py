"""Decoding, normalizing and serving the images; and every kind of bad input, with what is said about it."""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler

import dataset as module
from dataset import MEAN, MNIST, MNIST_SHA256, PADDING, SIZE, SPLITS, STD, DataError, decode_png, encode_png, write_tar

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


def refusal(path: Path | str) -> str:
    """What is said about data that must be refused."""
    with pytest.raises(DataError) as caught:
        MNIST(path)
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
    data = MNIST(save(compress(tar(members, format))))
    assert data.images.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    assert torch.equal(data.images, torch.from_numpy(np.stack(list(digits.values()))))
    assert data.labels.tolist() == [number % 10 for number in range(0, 120, 3)]


def test_a_folder_gives_the_same_tensors(digits, tmp_path) -> None:
    for number, (name, image) in enumerate(digits.items()):
        path = tmp_path / ("one", "two/three", ".")[number % 3] / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    data = MNIST(tmp_path)
    assert torch.equal(data.images, torch.from_numpy(np.stack(list(digits.values()))))
    assert data.labels.tolist() == [number % 10 for number in range(0, 120, 3)]


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_names_longer_than_a_header_holds(digits, save, format) -> None:
    members = [("ä" * 150 + "/" + name, png(image)) for name, image in digits.items()]
    assert torch.equal(
        MNIST(save(tar(members, FORMATS[format]))).images, torch.from_numpy(np.stack(list(digits.values())))
    )


def test_a_ustar_name_in_two_parts(digits, save) -> None:
    name, image = next(iter(digits.items()))
    assert len(MNIST(save(tar([("p" * 90 + "/" + name, png(image))])))) == 1


def test_pax_headers_for_all_members_and_for_one(digits, save) -> None:
    name, image = next(iter(digits.items()))
    data, file = png(image), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "ä\n1"}) as archive:
        member = tarfile.TarInfo("forged")
        member.size, member.pax_headers = len(data), {"path": name, "mtime": "1.5"}
        archive.addfile(member, io.BytesIO(data))
    assert np.array_equal(MNIST(save(file.getvalue())).images[0], image)


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
    assert decode_png(raw_png(lines.tobytes())) == pixels[1:, 1:].astype(np.uint8).tobytes()


def test_images_do_not_reach_into_their_neighbours(monkeypatch, save) -> None:
    """Images are unfiltered some at a time: each begins anew, whatever stands before it and wherever a part ends."""
    lines = np.random.default_rng(1).integers(0, 256, (7, SIZE, 1 + SIZE), dtype=np.uint8)
    lines[:, :, 0] %= 5
    pngs = [raw_png(image.tobytes()) for image in lines]
    expected = [Image.open(io.BytesIO(data)).tobytes() for data in pngs]
    for part in (1, 3, 7, 8):
        monkeypatch.setattr(module, "UNFILTERED", part)
        data = MNIST(save(tar((f"{i}_0.png", data) for i, data in enumerate(pngs))))
        assert [image.numpy().tobytes() for image in data.images] == expected
    assert [decode_png(data) for data in pngs] == expected


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
    assert decode_png(raw_png(lines, interlace=1)) == image.tobytes()
    data = png(image)
    start = data.index(b"IDAT") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    pixels, end = data[start + 8 : start + 8 + length], start + 12 + length
    many = b"".join(chunk(b"IDAT", pixels[i : i + 1]) for i in range(length))
    extra = chunk(b"tEXt", b"Comment\0" + bytes(1000))
    assert decode_png(data[:start] + extra + many + data[end:]) == image.tobytes()


def test_bookkeeping_is_skipped(digits, save) -> None:
    members = [(name, png(image)) for name, image in digits.items()]
    for name in ("._x", "part/._00000_0.png", ".DS_Store", "part/Thumbs.db", "README.md", "LICENSE", "desktop.ini"):
        members.insert(1, (name, b"not an image" * 100))
    assert len(MNIST(save(special("part/", tarfile.DIRTYPE) + tar(members)))) == len(digits)
    assert len(MNIST(save(special("old/", tarfile.AREGTYPE) + tar(members)))) == len(digits)


def test_absolute_and_climbing_names_touch_nothing(digits, tmp_path, save) -> None:
    image = png(next(iter(digits.values())))
    path = save(tar([(f"{tmp_path}/0_0.png", image), ("../../1_1.png", image)]))
    assert len(MNIST(path)) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["train.tar"]


def test_pixels_and_label_survive_writing(tmp_path) -> None:
    images = torch.randint(0, 256, (10, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_tar(tmp_path / "a.tar", "train", images, torch.arange(10))
    write_tar(tmp_path / "b.tar", "train", images, torch.arange(10))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    data = MNIST(tmp_path / "a.tar")
    assert torch.equal(data.images, images)
    assert data.labels.tolist() == list(range(10))
    assert np.array_equal(Image.open(io.BytesIO(encode_png(images[3]))), images[3])
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["train", *(f"train/{i:05d}_{i}.png" for i in range(10))]


def test_the_sample_is_what_its_readme_says(sample, tmp_path) -> None:
    for split, counts in (
        ("train", [143, 146, 142, 146, 144, 145, 144, 143, 141, 143]),
        ("test", [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]),
    ):
        data = MNIST(sample / f"{split}.tar")
        assert data.labels.bincount().tolist() == counts
        edge = data.images.clone()
        edge[:, 4:-4, 4:-4] = 0
        assert not edge.any()  # 20x20 in the middle
        write_tar(tmp_path / f"{split}.tar", split, data.images, data.labels)
        assert (tmp_path / f"{split}.tar").read_bytes() == (sample / f"{split}.tar").read_bytes()


def test_the_whole_mnist(mnist_dir) -> None:
    train, test = (MNIST(mnist_dir / f"{split}.tar") for split in SPLITS)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert {"train": train.sha256(), "test": test.sha256()} == MNIST_SHA256
    counts = sum(part.flatten().bincount(minlength=256) for part in train.images.split(1000)).double()
    values = torch.arange(256) / 255
    mean = (counts * values).sum() / counts.sum()
    std = ((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()
    assert (round(float(mean), 4), round(float(std), 4)) == (MEAN, STD)


# --- serving ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train_set(sample) -> MNIST:
    return MNIST(sample / "train.tar")


def test_a_sample(train_set) -> None:
    image, label = train_set[7]
    assert (image.dtype, image.shape) == (torch.float32, (1, 32, 32))
    assert type(label) is int
    expected = np.full((32, 32), 0, np.float64)
    expected[PADDING:-PADDING, PADDING:-PADDING] = train_set.images[7]
    np.testing.assert_allclose(image[0], (expected / 255 - 0.1307) / 0.3081, rtol=1e-6, atol=1e-6)


def test_a_batch_is_its_samples(train_set) -> None:
    indices = [5, 3, 3, -1, 1436]
    images, labels = train_set[indices]
    assert (images.dtype, images.shape) == (torch.float32, (5, 1, 32, 32))
    assert (labels.dtype, labels.shape) == (torch.int64, (5,))
    singles = [train_set[i] for i in indices]
    assert torch.equal(images, torch.stack([image for image, _ in singles]))
    assert labels.tolist() == [label for _, label in singles]


@pytest.mark.parametrize(
    "index", [range(1, 4), slice(1, 4), np.arange(1, 4), torch.arange(1, 4, dtype=torch.int32), (1, 2, 3)], ids=str
)
def test_any_sequence_of_integers_is_a_batch(train_set, index) -> None:
    assert torch.equal(train_set[index][0], train_set[[1, 2, 3]][0])


def test_numpy_integers_and_an_empty_batch(train_set) -> None:
    assert train_set[np.int64(3)][1] == train_set[3][1]
    assert train_set[[]][0].shape == (0, 1, 32, 32)


@pytest.mark.parametrize("index", [True, 1.0, [0.5], torch.ones(1437, dtype=torch.bool), [[1, 2]]], ids=repr)
def test_what_is_no_index_is_refused(train_set, index) -> None:
    with pytest.raises(TypeError, match="expected an integer or a sequence of integers"):
        train_set[index]


@pytest.mark.parametrize("index", [1437, -1438, [0, 1437]])
def test_an_index_out_of_range(train_set, index) -> None:
    with pytest.raises(IndexError):
        train_set[index]


def test_plain_iteration_ends(sample) -> None:
    assert sum(1 for _ in MNIST(sample / "test.tar")) == 360


def total(batches: Iterable) -> tuple[int, list[int]]:
    """Number of images, and a label histogram, of all batches."""
    labels = torch.cat([labels for images, labels in batches if images.shape[1:] == (1, 32, 32)])
    assert labels.dtype == torch.int64
    return len(labels), labels.bincount(minlength=10).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_ordinary_data_loader(sample, workers) -> None:
    data = MNIST(sample / "test.tar", augment=True)
    assert total(DataLoader(data, 50, shuffle=True, num_workers=workers)) == (360, data.labels.bincount().tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_that_asks_for_batches(train_set, workers) -> None:
    sampler = BatchSampler(RandomSampler(train_set), 200, drop_last=False)
    batches = list(DataLoader(train_set, batch_size=None, sampler=sampler, num_workers=workers))
    assert [len(labels) for _, labels in batches] == [200] * 7 + [37]
    assert total(batches) == (1437, train_set.labels.bincount().tolist())


def test_a_distributed_sampler(train_set) -> None:
    shares = [DistributedSampler(train_set, 3, rank, shuffle=False) for rank in range(3)]  # 1437 divides by 3
    batches = [batch for share in shares for batch in DataLoader(train_set, 100, sampler=share)]
    assert total(batches) == (1437, train_set.labels.bincount().tolist())


def test_to_moves_images_and_labels(sample) -> None:
    data = MNIST(sample / "test.tar").to("meta")
    assert data.images.device == data.labels.device == torch.device("meta")


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
    assert len(MNIST(save((header("x", 0, b"L") + header("x", 0, b"x")) * 5000 + tar(GOOD)))) == 2


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


OTHER_PNGS = {
    "32x28, 8-bit grayscale": png(np.zeros((28, 32), np.uint8)),
    "28x28, 8-bit RGB": png(np.zeros((28, 28, 3), np.uint8)),
    "28x28, 8-bit RGBA": png(np.zeros((28, 28, 4), np.uint8)),
    "28x28, 8-bit grayscale with alpha": png(np.zeros((28, 28, 2), np.uint8)),
    "28x28, 16-bit grayscale": png(np.zeros((28, 28), np.uint16)),
    "28x28, 1-bit grayscale": png(np.zeros((28, 28), bool)),
    "4294967295x4294967295, 8-bit grayscale": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", b"\xff" * 8 + b"\x08\0\0\0\0")
    + chunk(b"IEND", b""),
}


@pytest.mark.parametrize(("kind", "data"), OTHER_PNGS.items(), ids=OTHER_PNGS.keys())
def test_a_png_of_another_size_or_kind(save, kind, data) -> None:
    assert f"'0_0.png' is {kind}; expected 28x28, 8-bit grayscale" in refusal(save(tar([("0_0.png", data)])))


def test_a_jpeg_named_png(save) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(file, "jpeg")
    assert "'0_0.png' is not a PNG" in refusal(save(tar([("0_0.png", file.getvalue())])))


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
    assert len(MNIST(folder)) == 1
    (folder / "circle").symlink_to(folder)
    assert "circle: is a link to a folder" in refusal(folder)
    (folder / "circle").unlink()
    (folder / "1_1.png").symlink_to("nowhere")
    assert "1_1.png: is not a regular file" in refusal(folder)


def test_a_large_file_in_a_folder(tmp_path) -> None:
    (tmp_path / "0_0.png").write_bytes(bytes(module.MAX_MEMBER + 1))
    assert "0_0.png: is over 1,048,576 bytes" in refusal(tmp_path)


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Root may read everything: be someone else, who may only see the folder."""
    root = os.geteuid() == 0
    if root:
        for parent in (folder, *folder.parents[:2]):  # pytest keeps these to their owner
            parent.chmod(0o755)
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
def test_what_may_not_be_read(tmp_path) -> None:
    archive, folder, file, closed = (tmp_path / name for name in ("train.tar", "a", "b/0_0.png", "c/closed"))
    archive.write_bytes(tar(GOOD))
    folder.mkdir()
    file.parent.mkdir()
    file.write_bytes(IMAGE)
    closed.mkdir(parents=True)
    for path in (archive, folder, file, closed):
        path.chmod(0)
    with as_nobody(tmp_path):
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
    monkeypatch.setattr(module, "MAX_ARCHIVE", 2000)
    assert "over 2,000 bytes" in refusal(path)


def test_a_dictionary_larger_than_the_memory(save) -> None:
    """xz allocates the dictionary that the file claims to need, here 4 GiB less a byte."""
    data = bytearray(lzma.compress(tar(GOOD), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    size = (
        data[12] + 1
    ) * 4  # of the block header; its filter flags end in the dictionary size (xz format, 3.1, 5.3.1)
    data[data.index(b"\x21\x01\x00", 12) + 2] = 40
    data[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(data[12 : 12 + size - 4]))
    with suppress(DataError):  # without that memory
        assert len(MNIST(save(bytes(data)))) == 2
