"""Where the data are found: what people have at hand, or MNIST in `data/`; and what is said where there are none."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from bounds import idx
from PIL import Image

from support.data import DataError, find, find_data, read_images, write_tar
from support.data.find import Source

SPLITS = ("train", "test")
KINDS = [".tar", ".tar.gz", ".tgz", ".tar.bz2", "folders", "by label", "ing"]
KINDS += ["idx", "idx.gz", "idx in MNIST/raw", "idx in raw"]


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Thirty images; those for training are others than those for testing."""
    return np.random.default_rng(SPLITS.index(split)).integers(0, 256, (30, 28, 28), np.uint8), np.arange(30) % 10


def lay_out(folder: Path, kind: str, splits: tuple[str, ...] = SPLITS) -> Path:
    """Put data of a kind into a folder."""
    for split in splits:
        images, labels = digits(split)
        if kind.startswith("."):
            write_tar(folder / f"{split}{kind}", split, images, labels)
        elif kind.startswith("idx"):
            for name, values in (("images", images), ("labels", labels)):
                prefix, packed = "train" if split == "train" else "t10k", kind.endswith(".gz")
                path = folder / kind.partition(" in ")[2] / f"{prefix}-{name}-idx{values.ndim}-ubyte{'.gz' * packed}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
        else:
            for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                name = f"{number:05d}_{label}.png" if kind == "folders" else f"{label}/{number:05d}.png"
                path = folder / f"{split}{'ing' if kind == 'ing' else ''}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    return folder


def loads(source: Source) -> bool:
    """Whether these are the thirty images of each split, and all paths are absolute."""
    assert all(path.is_absolute() for path in source[:3])
    found = [*read_images(source.train), *read_images(source.test)]
    return all(map(np.array_equal, found, [*digits("train"), *digits("test")]))


def refusal(data_dir: str | Path | None) -> str:
    """What is said about data that cannot be found: a line or two."""
    with pytest.raises(DataError) as caught:
        find_data(data_dir)
    message = str(caught.value)
    assert message.count("\n") < 2
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


def test_idx_files_may_be_packed_and_renamed_by_windows(tmp_path) -> None:
    lay_out(tmp_path, "idx.gz", ("train",))
    for path in lay_out(tmp_path, "idx", ("test",)).glob("t10k*"):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert loads(find_data(tmp_path))


def test_the_first_kind_that_is_there_for_both_is_taken(tmp_path) -> None:
    kinds = {".tar": "train.tar", ".tar.gz": "train.tar.gz", "folders": "train", "ing": "training"}
    for kind in kinds:
        lay_out(tmp_path, kind)
    for name in kinds.values():
        assert find_data(tmp_path).train.name == name
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (tmp_path / "test.tar").unlink(missing_ok=True)


# --- the folder beside main.py ----------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """`data` beside main.py, with packed data in it; the current folder is another one, with data of its own."""
    monkeypatch.chdir(lay_out(tmp_path / "elsewhere", ".tar"))
    folder = lay_out(tmp_path / "data", ".tar.gz")
    monkeypatch.setattr(find, "DATA", folder)
    monkeypatch.setattr(find, "PACKED", (folder / "train.tar.gz", folder / "test.tar.gz"))
    return folder


def test_mnist_comes_with_the_project(mnist_dir) -> None:
    assert find_data(None).found == f"train.tar.gz and test.tar.gz in {mnist_dir}"


@pytest.mark.parametrize("kind", [".tar", ".tgz", "folders", "idx", "idx in MNIST/raw"])
def test_ones_own_data_come_before_the_packed_ones(data, kind) -> None:
    assert find_data(None).train == data / "train.tar.gz"
    lay_out(data, kind)
    assert find_data(None).train == find_data("../data").train != data / "train.tar.gz"
    assert loads(find_data(None))


def test_a_half_of_ones_own_data_is_never_mixed_with_the_packed_ones(data) -> None:
    lay_out(data, ".tar", ("train",))
    assert f"{data}/test.tar: not found" in refusal(None)


# --- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "lost"), [(".tar", "test.tar"), ("folders", "test"), ("idx", "t10k-images-idx3-ubyte")]
)
def test_half_of_the_data_is_an_error_that_names_the_rest(tmp_path, kind, lost) -> None:
    lay_out(tmp_path, kind, ("train",))
    assert f"{tmp_path}/{lost}: not found" in refusal(tmp_path)


def test_not_found_says_what_lies_there_what_is_expected_and_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path}/mine/train.tar: not found" in refusal("mine")
    assert "nothing lies there" in refusal("mine")
    for name in (*(f"{number:02d}.csv" for number in range(12)), "archive.zip", "\x1b[2J"):
        Path("mine").mkdir(exist_ok=True)
        Path("mine", name).touch()
    message = refusal("mine")
    assert "it holds 00.csv, 01.csv, 02.csv, 03.csv, 04.csv, 05.csv, 06.csv, 07.csv ..." in message
    for said in (
        "expected train.tar and test.tar",
        "unpack what is packed",
        "five lines",
        f"MNIST itself lies in {find.DATA}",
    ):
        assert said in message
    assert message.replace("\n", "").isprintable()


def test_several_data_below_the_folder_are_listed_to_be_typed(tmp_path) -> None:
    lay_out(tmp_path / "fashion", ".tar")
    lay_out(tmp_path / "my letters", "folders")
    assert f'type --data-dir "{tmp_path}/fashion" or --data-dir "{tmp_path}/my letters"' in refusal(tmp_path)
    lay_out(tmp_path / "other" / "FashionMNIST", "idx in raw")  # as torchvision's lie
    assert find_data(tmp_path / "other").folder == tmp_path / "other" / "FashionMNIST"


def test_a_file_in_place_of_a_folder_is_named_as_what_it_is(tmp_path) -> None:
    for data, what in ((b"PK\x03\x04" + bytes(30), "a zip file"), (b"<html>", "a web page"), (b"\0\1\2", "a file")):
        (tmp_path / "mnist.zip").write_bytes(data)
        assert f"{tmp_path}/mnist.zip: is {what}" in refusal(tmp_path / "mnist.zip")


def test_links_are_followed_and_an_error_where_they_lead_nowhere(tmp_path) -> None:
    lay_out(tmp_path / "there", ".tar")
    (tmp_path / "mine").symlink_to("there")
    assert loads(find_data(tmp_path / "mine"))
    (tmp_path / "there" / "train.tar").unlink()
    (tmp_path / "there" / "train.tar").symlink_to("nowhere")
    lay_out(tmp_path / "there", "folders")
    with pytest.raises(DataError, match="No such file"):
        read_images(find_data(tmp_path / "mine").train)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions as POSIX has them")
def test_what_may_not_be_read_says_so_and_does_not_hide_what_lies_beside_it(tmp_path, as_nobody) -> None:
    lay_out(tmp_path / "mine", ".tar")
    (tmp_path / "lost" / "found").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    for mode in (0o000, 0o100):
        (tmp_path / "lost").chmod(mode)
        with as_nobody():
            assert "lost: Permission denied" in refusal(tmp_path / "lost")
            assert loads(find_data(tmp_path))
    (tmp_path / "lost").chmod(0o755)


@pytest.mark.parametrize("name", ["숫자", "émoji 🙂", "two words", os.fsdecode(b"b\xff"), "\x1b[31m"])
def test_any_name_of_a_folder_works_and_can_be_shown(tmp_path, name) -> None:
    source = find_data(lay_out(tmp_path / name, ".tar"))
    assert loads(source)
    assert source.found.isprintable()
    source.test.unlink()
    assert refusal(tmp_path / name).replace("\n", "").isprintable()
