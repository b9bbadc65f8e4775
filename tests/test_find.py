"""Where the data are found: what people have at hand, or MNIST in `data/`; and what is said where there are none."""

import gzip
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from bounds import idx
from PIL import Image

from support.data import DataError, find, find_data, read_images, write_tar
from support.data.find import Source

HALVES = {"train": "train", "test": "t10k"}  # as IDX files are called
TAR, FOLDERS, IDX = "{split}.tar", "{split}/{number}_{label}.png", "{half}-{of}-idx{axes}-ubyte"
KINDS = [TAR, TAR + ".gz", "{split}.tgz", TAR + ".bz2", FOLDERS]
KINDS += ["{split}/{label}/{number}.png", "{split}ing/{label}/{number}.png"]
KINDS += [IDX, IDX + ".gz", "MNIST/raw/" + IDX, "raw/" + IDX, "{half}-{of}.idx{axes}-ubyte"]  # the last by Windows


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Thirty images; those for training are others than those for testing."""
    return np.random.default_rng(len(split)).integers(0, 256, (30, 28, 28), np.uint8), np.arange(30) % 10


def lay_out(folder: Path, kind: str, splits: Iterable[str] = HALVES) -> Path:
    """Put data into a folder. A kind is what the paths of their files look like."""
    for split in splits:
        images, labels = digits(split)
        if "tar" in kind or "tgz" in kind:
            write_tar(folder / kind.format(split=split), split, images, labels)
        elif "ubyte" in kind:
            for of, values in (("images", images), ("labels", labels)):
                path = folder / kind.format(half=HALVES[split], of=of, axes=values.ndim)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(gzip.compress(idx(values)) if path.suffix == ".gz" else idx(values))
        else:
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                path = folder / kind.format(split=split, number=number, label=label)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    return folder


def loads(source: Source) -> bool:
    """Whether these are the thirty images of each split."""
    found = [*read_images(source.train), *read_images(source.test)]
    assert [array.dtype for array in found] == 2 * [np.uint8, np.int64]
    return all(map(np.array_equal, found, [*digits("train"), *digits("test")]))


def refusal(data_dir: str | Path | None) -> str:
    """What is said about data that cannot be found: a line or two, which can be shown."""
    with pytest.raises(DataError) as caught:
        find_data(data_dir)
    message = str(caught.value)
    assert message.count("\n") < 2
    assert message.replace("\n", "").isprintable()
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_data_is_found_and_named(tmp_path, kind) -> None:
    source = find_data(lay_out(tmp_path / "mine", kind))
    assert loads(source)
    assert source.folder == tmp_path / "mine"
    for path in (source.train, source.test):
        assert path.name in source.found
    assert str(source.train.parent) in source.found
    assert find_data(source.test)[:2] == source[:2]  # a half of it was named,
    assert find_data(tmp_path)[:2] == source[:2]  # or the folder above


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """`data` beside main.py, with packed data in it; the current folder is another one, with data of its own."""
    monkeypatch.chdir(lay_out(tmp_path / "elsewhere", TAR))
    folder = lay_out(tmp_path / "data", TAR + ".gz")
    monkeypatch.setattr(find, "DATA", folder)
    return folder


def test_mnist_comes_with_the_project(mnist_dir) -> None:
    assert find_data(None).found == f"train.tar.gz and test.tar.gz in {mnist_dir}"


@pytest.mark.parametrize("kind", [TAR, "raw/" + IDX])
def test_ones_own_data_come_before_the_packed_ones(data, kind) -> None:
    assert find_data(None).train == data / "train.tar.gz"
    lay_out(data, kind)
    assert find_data(None).train == find_data("../data").train != data / "train.tar.gz"


def test_half_of_the_data_is_an_error_that_names_the_rest_and_is_never_mixed_with_the_packed_ones(data) -> None:
    lay_out(data, TAR, ["train"])
    assert f"{data}/test.tar: not found" in refusal(None)
    lay_out(data.parent / "mine", IDX, ["test"])
    assert f"{data.parent}/mine/train-images-idx3-ubyte: not found" in refusal(data.parent / "mine")


def test_not_found_says_what_lies_there_what_is_expected_and_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path}/mine/train.tar: not found" in refusal("mine")
    assert "nothing lies there" in refusal("mine")
    Path("mine").mkdir()
    for name in (*map("{:02d}.csv".format, range(12)), "\x1b[2J"):
        Path("mine", name).touch()
    message = refusal("mine")
    assert "it holds 00.csv, 01.csv, 02.csv, 03.csv, 04.csv, 05.csv, 06.csv, 07.csv ..." in message
    assert "expected train.tar and test.tar" in message
    assert "unpack what is packed; README.md makes a tar of arrays in five lines" in message
    assert f"MNIST itself lies in {find.DATA}" in message


def test_several_data_below_the_folder_are_listed_to_be_typed(tmp_path) -> None:
    lay_out(tmp_path / "fashion", TAR)
    lay_out(tmp_path / "my letters", FOLDERS)
    assert f'type --data-dir "{tmp_path}/fashion" or --data-dir "{tmp_path}/my letters"' in refusal(tmp_path)
    lay_out(tmp_path / "other" / "FashionMNIST", "raw/" + IDX)  # as torchvision's lie
    assert find_data(tmp_path / "other").folder == tmp_path / "other" / "FashionMNIST"


def test_a_file_in_place_of_a_folder_is_named_as_what_it_is(tmp_path) -> None:
    for data, what in ((b"PK\x03\x04" + bytes(30), "a zip file"), (b"\0\1\2", "a file")):
        (tmp_path / "mnist.zip").write_bytes(data)
        assert f"{tmp_path}/mnist.zip: is {what}" in refusal(tmp_path / "mnist.zip")


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
def test_what_may_not_be_read_says_so_and_does_not_hide_what_lies_beside_it(tmp_path, as_nobody) -> None:
    lay_out(tmp_path / "mine", TAR)
    (tmp_path / "lost" / "found").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    for mode in (0o000, 0o100):
        (tmp_path / "lost").chmod(mode)
        with as_nobody():
            assert "lost: Permission denied" in refusal(tmp_path / "lost")
            assert loads(find_data(tmp_path))
    (tmp_path / "lost").chmod(0o755)


def test_any_name_of_a_folder_works_and_can_be_shown(tmp_path) -> None:
    source = find_data(lay_out(tmp_path / os.fsdecode("숫자 🙂\x1b[31m".encode() + b"\xff"), TAR))
    assert loads(source)
    assert source.found.isprintable()
    source.test.unlink()
    refusal(source.folder)
