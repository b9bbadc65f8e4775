"""Reading images and labels from whatever people have; and every kind of bad input, with what is said about it."""

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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bounds import chunk, idx, member, pax
from PIL import Image

from support.data import DataError, images, read_images, write_tar
from support.data.png import SIGNATURE, SIZE

COMPRESS = (bytes, gzip.compress, bz2.compress)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    """What a function writes into a file."""
    write(file := io.BytesIO())
    return file.getvalue()


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """As Pillow writes it: compressed, with filters."""
    return written(lambda file: Image.fromarray(pixels).convert(mode).save(file, "png"))


def raw_png(lines: bytes, interlace: int = 0, more: bytes = b"") -> bytes:
    """A 28x28 PNG of these lines, each with its filter type in front, and of more chunks before them."""
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, interlace)
    return SIGNATURE + chunk(b"IHDR" + header) + more + chunk(b"IDAT" + zlib.compress(lines)) + chunk(b"IEND")


def tar(*members: tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # for which pax needs a header
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def named(*names: str) -> bytes:
    """A tar of good images of these names."""
    return tar(*((name, IMAGE) for name in names), format=tarfile.GNU_FORMAT)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes, name: str = "train.tar") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write


def refusal(path: Path) -> str:
    """What is said, in a line, about data that must be refused."""
    with pytest.raises(DataError) as caught:
        read_images(path)
    message = str(caught.value)
    assert str(path.parent) in message
    assert message.isprintable()
    assert len(message) < 500
    return message


IMAGE = png(np.eye(SIZE, dtype=np.uint8))
GOOD = named("0_0.png", "1_1.png")
NUMBERS = range(0, 120, 3)  # with gaps, as in a part of a set
NOISE = np.random.default_rng(0).integers(0, 256, (len(NUMBERS), SIZE, SIZE), np.uint8)
NOISE[::2] //= 64  # of which other filters are chosen
MEMBERS = [(f"part/{number:05d}_{number % 10}.png", png(pixels)) for number, pixels in zip(NUMBERS, NOISE, strict=True)]


def is_noise(path: Path) -> bool:
    """Whether these are the forty images and labels, in order, as arrays that can be written to."""
    found, labels = read_images(path)
    assert [(array.dtype, array.flags.writeable) for array in (found, labels)] == [(np.uint8, True), (np.int64, True)]
    return np.array_equal(found, NOISE) and labels.tolist() == [number % 10 for number in NUMBERS]


@pytest.mark.parametrize(("compress", "format"), list(zip(COMPRESS, FORMATS, strict=True)))
def test_every_archive_gives_the_same_arrays_in_any_order(save, compress, format) -> None:
    names = ("._x", "part/._00000_0.png", ".DS_Store", "part/Thumbs.db", "README.md", "LICENSE", ".git/objects/00")
    members = [*MEMBERS, *((name, b"no image" * 100) for name in names)]
    random.Random(0).shuffle(members)
    assert is_noise(save(compress(member("part/", kind=b"5", size=9) + tar(*members, format=format))))


def test_a_folder_gives_the_same_arrays(save, tmp_path) -> None:
    for number, (name, data) in enumerate(reversed(MEMBERS)):
        save(data, f"top/{('one', 'two/three', '.')[number % 3]}/{Path(name).name}")
    for name in ("Thumbs.db", ".hidden", ".git/1_1.png", "one/._00000_0.png"):
        save(b"no image", f"top/{name}")
    (tmp_path / "top" / "empty").mkdir()
    (tmp_path / "elsewhere").symlink_to("top")
    assert is_noise(tmp_path / "elsewhere")


def test_long_names_in_every_format_and_the_header_of_git_archive(save) -> None:
    for prefix, format in zip(("p" * 90, "ä" * 150, "ä" * 150), FORMATS, strict=True):
        assert is_noise(save(tar(*((f"{prefix}/{name}", data) for name, data in MEMBERS), format=format)))
    assert is_noise(save(pax(b"comment=1\n12 a=", kind=b"g") + tar(*MEMBERS)))


def test_nothing_is_extracted(tmp_path, save) -> None:
    path = save(named(f"{tmp_path}/0_0.png", "../../1_1.png"))
    assert read_images(path)[1].tolist() == [0, 1]
    assert list(tmp_path.iterdir()) == [path]


NAMES = [  # and the order of their images, and their labels
    (["train/7/10.png", "train/7/2.png", "train/0/00003.PNG", "train/0/2.png"], [3, 1, 2, 0], [0, 7, 0, 7]),
    (["7/img 2.png", "0/img 2.png", "5/2_5.png"], [1, 0, 2], [0, 7, 5]),  # in the last the label is said again
]


@pytest.mark.parametrize(("names", "order", "labels"), NAMES)
def test_images_are_ordered_by_number_and_path_and_labelled_by_name_or_folder(save, names, order, labels) -> None:
    members = [(name, png(np.full((SIZE, SIZE), value, np.uint8))) for value, name in enumerate(names)]
    tops = [save(data, f"top/{name}").parents[name.count("/")] for name, data in members]
    for path in (tops[0], save(tar(*members))):
        found = read_images(path)
        assert (found[0][:, 0, 0].tolist(), found[1].tolist()) == (order, labels)


def test_all_filters_and_kinds_of_gray_pngs_are_what_pillow_reads(save) -> None:
    lines = np.random.default_rng(0).integers(0, 256, (60, SIZE, 1 + SIZE), np.uint8)
    lines[:, :, 0] %= 5
    pngs = [raw_png(image.tobytes()) for image in lines]
    interlaced = np.random.default_rng(0).integers(0, 5, 837, np.uint8)  # each of these may be a filter type, too
    pngs.append(raw_png(interlaced.tobytes(), interlace=1))
    pngs += [png(NOISE[1], mode) for mode in ("1", "P", "LA", "RGB", "RGBA")]
    found, _ = read_images(save(tar(*((f"{i}_0.png", data) for i, data in enumerate(pngs)))))
    expected = [Image.open(io.BytesIO(data)).convert("L").tobytes() for data in pngs]
    assert [image.tobytes() for image in found] == expected


def test_what_is_written_is_read_again_and_the_same_each_time_in_a_new_folder(tmp_path) -> None:
    transposed = torch.from_numpy(NOISE.swapaxes(1, 2).copy()).transpose(1, 2)  # in memory otherwise, as EMNIST's are
    write_tar(tmp_path / "a.tar", "train", NOISE, torch.arange(40))
    write_tar(tmp_path / "b" / "c" / "b.tar", "train", transposed, list(range(40)))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b" / "c" / "b.tar").read_bytes()
    assert np.array_equal(read_images(tmp_path / "a.tar")[0], NOISE)
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["train", *(f"train/{i:05d}_{i}.png" for i in range(40))]
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in archive} == {(0, 0, 0, "")}


@pytest.mark.slow
def test_the_lines_of_the_readme_make_the_packed_mnist_anew(mnist_dir, tmp_path, monkeypatch) -> None:
    (tmp_path / "raw").mkdir()
    packed = {"train": mnist_dir / "train.tar.gz", "t10k": mnist_dir / "test.tar.gz"}
    for name, path in packed.items():
        for kind, values in zip(("images-idx3", "labels-idx1"), read_images(path), strict=True):
            (tmp_path / "raw" / f"{name}-{kind}-ubyte").write_bytes(idx(values))
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall("^    (.*)", (mnist_dir / "README.md").read_text(), re.MULTILINE)), {})
    for path in packed.values():
        assert path.read_bytes()[4:8] == bytes(4)  # no time stamp
        assert gzip.decompress(path.read_bytes()) == (tmp_path / "data" / path.stem).read_bytes()


PIXELS = np.zeros((2, SIZE, SIZE), np.uint8)
WRONG_ARRAYS = {
    "bool (2, 28, 28)": (PIXELS.astype(bool), [0, 1]),
    "(2, 1, 28, 28)": (PIXELS[:, None], [0, 1]),
    "uint8 (0, 28, 28)": (PIXELS[:0], np.zeros(0, int)),
    "float64 (2,)": (PIXELS, [0.0, 1.0]),
    "(3,)": (PIXELS, [0, 1, 2]),
    "integers (N,) 0 to 255": (PIXELS, [0, -1]),
    "up to 256": (PIXELS, [0, 256]),
}


@pytest.mark.parametrize("said", WRONG_ARRAYS)
def test_arrays_that_cannot_be_written_are_named_and_nothing_is_written(tmp_path, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        write_tar(tmp_path / "new" / "a.tar", "train", *WRONG_ARRAYS[said])
    assert list(tmp_path.iterdir()) == []


def picture(format: str) -> bytes:
    return written(lambda file: Image.new("RGB", (40, 30), "gray").save(file, format))


OTHER_FILES: list[tuple[str, bytes]] = [  # what people have in place of PNGs and tars, and what it is called
    ("a JPEG", picture("jpeg")),
    *(("a GIF, BMP, TIFF or WebP picture", picture(format)) for format in ("bmp", "gif", "tiff", "webp")),
    ("a zip file; unpack it", written(lambda file: zipfile.ZipFile(file, "w").writestr("0_0.png", IMAGE))),
    ("arrays of another format; README.md", written(lambda file: np.save(file, np.zeros(3)))),
    ("arrays of another format; README.md", written(lambda file: np.savez(file, np.zeros(3)))),
    ("empty", b""),
    ("a web page", b"\r\n<!doctype HTML>\n<html><head><title>404</title>" + b"<p>Sign in" * 100),
    ("a Git LFS pointer; git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    ("a text table (CSV); README.md", b"label,pixel0,pixel1\n" * 100),
    ("a text", b"This is not the archive that you are looking for.\n" * 100),
    ("packed; unpack it", lzma.compress(GOOD)),
]


@pytest.mark.parametrize(("what", "data"), OTHER_FILES, ids=[what for what, _ in OTHER_FILES])
def test_whatever_is_called_png_or_tar_is_named_as_what_it_is(save, tmp_path, what, data) -> None:
    assert f"train.tar: is {what}" in refusal(save(data))
    assert f"train.tar: is {what}" in refusal(save(gzip.compress(data)))
    assert f"'0_0.png' is {what}" in refusal(save(tar(("0_0.png", data))))
    save(data, "folder/5/1.jpg")
    assert f"'5/1.jpg' is {what}" in refusal(tmp_path / "folder")


LINES = bytes(29 * SIZE)
NO_PIXELS = "'0_0.png' is a damaged PNG: its pixels are not 28x28"
WRONG_PNGS = [
    ("'0_0.png' is 32x28, 8-bit; expected 28x28", png(np.zeros((28, 32), np.uint8))),
    ("is 28x28, 16-bit; expected 28x28, 8-bit grayscale", png(np.full((SIZE, SIZE), 200, np.uint16))),
    ("is 4294967295x4294967295", SIGNATURE + chunk(b"IHDR" + b"\xff" * 8 + b"\x08\0\0\0\0") + chunk(b"IEND")),
    ("is coloured or transparent, of mode RGB;", png(np.full((SIZE, SIZE, 3), (9, 9, 0), np.uint8))),
    ("is coloured or transparent, of mode L;", raw_png(LINES, more=chunk(b"tRNS\0\0"))),
    *((NO_PIXELS, raw_png(lines)) for lines in (LINES[1:], LINES + b"\0", bytes(10**8), b"\5" + LINES[1:])),
    *(("is a damaged PNG", SIGNATURE + IMAGE[8:33] + data + chunk(b"IEND")) for data in (b"", chunk(b"IDATx"))),
    ("is a damaged PNG", raw_png(LINES, interlace=1, more=chunk(b"iCCP"))),
    (NO_PIXELS, SIGNATURE + IMAGE[8:33] + chunk(b"IDAT" + zlib.compress(LINES)[:-1]) + chunk(b"IEND")),
]
PAX = [pax(b"a=b", b"size=1"), pax(b"GNU.sparse.map=0,1"), pax(b"path=0_0.png", kind=b"g")]
PAX += [member("pax", data, b"x") for data in (b"99 path=x\n", b"9 path=long\n")]
LIARS = [member("._x", kind=bytes([kind]), size=size) for kind in b"0Lxg" for size in (-512, 2**21, 2**60)]
REFUSED = [  # what is said, and of which archives
    *((said, tar(("0_0.png", data))) for said, data in WRONG_PNGS),
    *(("are read", head + GOOD) for head in LIARS),
    *(("is a link, a device or sparse", member("0_0.png", kind=bytes([kind])) + GOOD) for kind in b"1236KSV"),
    *(("is cut off before its end", archive) for archive in (member("._x", size=10**6), GOOD[:2048])),
    *(("has a pax header", head + GOOD) for head in PAX),
    *(("unpack it", tar(("train.tar", data))) for data in (GOOD, gzip.compress(GOOD))),
    ("bad checksum at byte 1,024", GOOD[:1024] + b"x" + GOOD[1025:]),
    ("holds no images", tar(("README", b"none"))),
    ("'5/1_3.png' has the label 3 and 5 by its path", named("5/1_3.png")),
    ("has no label", named("\x1b[2J" + "x" * 100_000 + "\n.png")),
]


@pytest.mark.parametrize("said", dict(REFUSED))
def test_what_is_wrong_with_an_archive_is_said(save, said) -> None:
    for archive in (archive for other, archive in REFUSED if other == said):
        assert said in refusal(save(archive))


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def test_whatever_byte_of_a_png_is_another_or_missing_is_seen(save) -> None:
    for position in range(len(IMAGE)):
        for data in (flipped(IMAGE, position), IMAGE[:position]):
            assert re.search("'0_0.png' is (a damaged PNG|empty)", refusal(save(tar(("0_0.png", data)))))


@pytest.mark.parametrize("compress", COMPRESS)
def test_a_cut_a_flipped_bit_and_bytes_behind_the_end_are_seen(save, compress) -> None:
    whole = compress(GOOD)
    end = 512 * 4 + 1 if compress is bytes else len(whole) - 1  # tar repeats the last block for the sake of tapes
    for length in range(1, end, 61):
        refusal(save(whole[:length]))
    for position in (1024, 1100, len(GOOD) - 1):  # in the second header, in its content, behind the end
        refusal(save(compress(flipped(GOOD, position))))
    if compress is not bytes:
        refusal(save(flipped(whole, len(whole) // 2)))
    for more in (b"more", GOOD):
        assert "goes on behind it" in refusal(save(compress(GOOD + more)))


def test_more_than_is_read(monkeypatch, save) -> None:
    for name, most in {"MAX_IMAGES": 1, "MAX_CHARACTERS": 13, "MAX_BYTES": 2047}.items():
        with monkeypatch.context() as patch:
            patch.setattr(images, name, most)
            assert re.search("holds over|at most", refusal(save(GOOD)))


@pytest.mark.parametrize("name", ["0.png", "x_1.png", "0_a.png", "0_256.png", "5.jpg", "1_5.png.txt"])
def test_a_name_without_a_label(save, tmp_path, name) -> None:
    save(IMAGE, f"folder/{name}")
    for path in (save(named(f"train/{name}")), tmp_path / "folder"):
        assert re.search(f"{name}' has .*; expected {{number}}_{{label}}.png, or", refusal(path))


def test_files_in_folders_that_are_none(save, tmp_path) -> None:
    top = save(IMAGE, "top/0_0.png").parent
    (top / "circle").symlink_to(".")
    assert "'circle' is a link to a folder" in refusal(top)
    (top / "circle").rename(top.parent / "circle")
    os.mkfifo(top / "1_1.png")
    assert "'1_1.png' is no regular file" in refusal(top)
    assert "is not a regular file" in refusal(top / "1_1.png")
    (top / "1_1.png").unlink()
    save(bytes(images.MAX_MEMBER + 1), "top/1_1.png")
    assert "at most 1,048,576 bytes" in refusal(top)
    assert "No such file" in refusal(tmp_path / "train.tar")
    assert "holds no images" in refusal(save(b"", "empty/x/.y").parent)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
def test_a_folder_that_may_not_be_read_is_not_passed_over(save, as_nobody) -> None:
    closed = save(IMAGE, "top/closed/0_0.png").parent
    closed.chmod(0)
    with as_nobody():
        assert "Permission denied" in refusal(closed.parent)
    closed.chmod(0o755)  # so that pytest can clear it


def test_idx_files_that_are_damaged_of_another_kind_or_do_not_belong_together(tmp_path) -> None:
    path, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    good = idx(np.zeros((3, SIZE, SIZE)))
    bomb, claim = gzip.compress(good + bytes(10**8)), struct.pack(">4I", 2051, 2**32 - 1, SIZE, SIZE)
    for data in (good[:-1], good + b"\0", bomb, claim, idx(np.zeros((3, 32, SIZE))), idx(np.zeros((0, SIZE, SIZE)))):
        path.write_bytes(data)
        assert re.search("'train-images.* begins with .*; expected IDX of uint8", refusal(path))
    path.write_bytes(good)
    assert "train-labels-idx1-ubyte: No such file" in refusal(path)
    for data, said in ((b"five", "labels-idx1-ubyte' begins with"), (idx(np.ones(2)), "beside lie 2 labels")):
        labels.write_bytes(data)
        assert said in refusal(path)
