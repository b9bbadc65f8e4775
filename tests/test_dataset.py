"""`MNIST` as a data set: normalizing, indexing, DataLoaders, splitting; and people's own arrays made into a tar."""

import csv
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.data.container import DataError
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, Subset, random_split
from torchvision import datasets

import dataset as module
from dataset import MEAN, MNIST, MNIST_SHA256, PADDING, STD, network_input
from support.data.images import write_tar


def total(batches: Iterable) -> tuple[int, list[int]]:
    """Number of images, and a label histogram, of all batches."""
    labels = torch.cat([labels for images, labels in batches if images.shape[1:] == (1, 32, 32)])
    assert labels.dtype == torch.int64
    return len(labels), labels.bincount(minlength=10).tolist()


def test_mnist_is_recognized_and_the_constants_are_its_own(mnist_dir) -> None:
    train, test = (MNIST(mnist_dir / f"{split}.tar.gz") for split in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert {"train": train.sha256(), "test": test.sha256()} == MNIST_SHA256
    counts = sum(part.flatten().bincount(minlength=256) for part in train.images.split(1000)).double()
    values = torch.arange(256) / 255
    mean = (counts * values).sum() / counts.sum()
    std = ((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()
    assert (round(float(mean), 4), round(float(std), 4)) == (MEAN, STD)


# --- samples and batches ----------------------------------------------------------------------------------------------


def test_a_sample_is_normalized_with_two_pixels_of_background_around_it(train_set) -> None:
    image, label = train_set[7]
    assert (image.dtype, image.shape) == (torch.float32, (1, 32, 32))
    assert type(label) is int
    expected = np.zeros((32, 32))
    expected[2:30, 2:30] = train_set.images[7]
    np.testing.assert_allclose(image[0], (expected / 255 - 0.1307) / 0.3081, rtol=1e-6, atol=1e-6)


def test_predictions_and_training_share_the_way_from_pixels_to_inputs(train_set) -> None:
    pixels = train_set.images[:5, None].float()
    assert torch.equal(network_input(pixels.clone()), train_set[:5][0])
    assert network_input(pixels).shape == (5, 1, 28 + 2 * PADDING, 28 + 2 * PADDING)


def test_a_batch_is_its_samples(train_set) -> None:
    indices = [5, 3, 3, -1, 1436]
    images, labels = train_set[indices]
    assert (images.dtype, images.shape) == (torch.float32, (5, 1, 32, 32))
    assert (labels.dtype, labels.shape) == (torch.int64, (5,))
    singles = [train_set[i] for i in indices]
    assert torch.equal(images, torch.stack([image for image, _ in singles]))
    assert labels.tolist() == [label for _, label in singles] == train_set.labels[indices].tolist()


ONE_TO_THREE = [
    *(range(1, 4), slice(1, 4), (1, 2, 3), np.arange(1, 4), np.arange(1, 4, dtype=np.uint8)),
    *(torch.arange(1, 4, dtype=torch.int32), [torch.tensor(i) for i in (1, 2, 3)], np.array([3, 2, 1])[::-1]),
    np.frombuffer(np.arange(1, 4).tobytes(), np.int64),  # read-only, as pandas hands them out
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("index", ONE_TO_THREE, ids=repr)
def test_any_sequence_of_integers_is_a_batch(train_set, index) -> None:
    images, labels = train_set[index]
    assert torch.equal(images, train_set[[1, 2, 3]][0])
    assert torch.equal(labels, train_set.labels[1:4])


@pytest.mark.parametrize("index", [np.int64(3), np.array(3), torch.tensor(3), 3 - 1437], ids=repr)
def test_any_integer_is_a_sample(train_set, index) -> None:
    image, label = train_set[index]
    assert torch.equal(image, train_set[3][0])
    assert label == train_set[3][1]


def test_slices_are_those_of_python(test_set) -> None:
    for part in (slice(None), slice(None, None, -1), slice(-3, None), slice(350, 400), slice(5, 2)):
        assert torch.equal(test_set[part][1], test_set.labels[list(range(360))[part]])


@pytest.mark.parametrize("kind", [lambda mask: mask, lambda mask: mask.numpy(), lambda mask: mask.tolist()])
def test_a_boolean_mask_chooses_images(train_set, kind) -> None:
    fives = train_set.labels == 5
    images, labels = train_set[kind(fives)]
    assert labels.tolist() == [5] * 145
    assert torch.equal(images, train_set[fives.nonzero().flatten()][0])
    assert train_set[kind(fives & ~fives)][0].shape == (0, 1, 32, 32)


def test_an_empty_batch(train_set) -> None:
    images, labels = train_set[[]]
    assert (images.shape, labels.shape) == ((0, 1, 32, 32), (0,))


MASK = torch.ones(1437, dtype=torch.bool)
NO_INDEX = {
    **{"bool": True, "float": 1.0, "floats": [0.5], "complex": torch.tensor([1j]), "matrix": [[1, 2]]},
    **{"short mask": MASK[1:], "long mask": [True] * 1438, "mask of pixels": MASK[:, None], "none": None, "name": "7"},
}


@pytest.mark.parametrize("index", NO_INDEX.values(), ids=NO_INDEX.keys())
def test_what_is_no_index_is_refused(train_set, index) -> None:
    with pytest.raises(TypeError):
        train_set[index]


def test_a_mask_of_another_length_is_told_its_own(train_set) -> None:
    with pytest.raises(TypeError, match=r"a mask of 1437, not torch.bool \(360,\)"):
        train_set[MASK[:360]]


@pytest.mark.parametrize("index", [1437, -1438])
def test_an_index_out_of_range_is_named(train_set, index) -> None:
    with pytest.raises(IndexError, match=f"image {index} of 1437"):
        train_set[index]


@pytest.mark.parametrize("index", [[0, 1437], [-1438], torch.tensor([1437])], ids=repr)
def test_a_batch_with_an_index_out_of_range(train_set, index) -> None:
    with pytest.raises(IndexError):
        train_set[index]


def test_plain_iteration_ends(test_set) -> None:
    assert sum(1 for _ in test_set) == 360


# --- DataLoaders ------------------------------------------------------------------------------------------------------


@pytest.fixture
def batches_made(monkeypatch) -> list[int]:
    """The size of each batch that is normalized from now on."""
    sizes: list[int] = []
    monkeypatch.setattr(module, "network_input", lambda images: sizes.append(len(images)) or network_input(images))
    return sizes


def test_an_ordinary_data_loader_makes_its_batches_whole(test_set, batches_made) -> None:
    batches = list(DataLoader(test_set, 100))
    assert batches_made == [100, 100, 100, 60]
    for start, (images, labels) in zip(range(0, 360, 100), batches, strict=True):
        expected = test_set[start : start + 100]
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])
        assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    "part", [lambda data: Subset(data, range(40, 140)), lambda data: random_split(data, [100, 260])[0]]
)
def test_parts_that_pytorch_makes_are_served_in_whole_batches_too(test_set, batches_made, part) -> None:
    assert total(DataLoader(part(test_set), 50))[0] == 100
    assert batches_made == [50, 50]


def test_samples_made_together_are_the_samples(test_set) -> None:
    samples = test_set.__getitems__([3, 1, 4])
    assert [type(label) for _, label in samples] == [int] * 3
    for (image, label), index in zip(samples, (3, 1, 4), strict=True):
        assert torch.equal(image, test_set[index][0])
        assert label == test_set[index][1]


def test_a_data_loader_with_workers(sample) -> None:
    data = MNIST(sample / "test.tar", augment=True)
    assert total(DataLoader(data, 50, shuffle=True, num_workers=2)) == (360, data.labels.bincount().tolist())


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


def test_it_can_be_pickled(sample) -> None:
    data = MNIST(sample / "test.tar", augment=(0.2, 0.8))
    again = pickle.loads(pickle.dumps(data))
    assert (again.augment, again.classes, again.path) == ((0.2, 0.8), data.classes, data.path)
    data.augment = again.augment = False
    assert torch.equal(again[:][0], data[:][0])


# --- what it says of itself -------------------------------------------------------------------------------------------


def test_targets_and_classes_as_torchvision_names_them(test_set, tmp_path) -> None:
    assert test_set.targets is test_set.labels
    assert test_set.classes == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    write_tar(tmp_path / "letters.tar", "letters", test_set.images[:2], [25, 0])
    letters = MNIST(tmp_path / "letters.tar", classes=26)
    assert letters.classes[-1] == "25"
    assert letters.targets.tolist() == [25, 0]


def test_a_label_beyond_the_classes_is_refused(test_set, tmp_path) -> None:
    write_tar(tmp_path / "letters.tar", "letters", test_set.images[:2], [26, 0])
    with pytest.raises(DataError, match="a label from 0 to 25"):
        MNIST(tmp_path / "letters.tar", classes=26)
    assert MNIST(tmp_path / "letters.tar", classes=27).labels.tolist() == [26, 0]


def test_its_repr_is_short(sample) -> None:
    data = MNIST(sample / "train.tar", augment=True)
    assert repr(data) == f"MNIST('{sample / 'train.tar'}', augment=True, classes=10): 1,437 images"


def test_the_digest_is_of_images_and_labels(test_set) -> None:
    before = test_set.sha256()
    assert before == test_set.sha256() != test_set.split(1)[0].sha256()
    for change in (test_set.images[0, 0], test_set.labels[:1]):
        change += 1
        assert test_set.sha256() != before
        change -= 1
    assert test_set.sha256() == before


def test_to_moves_images_and_labels(test_set) -> None:
    moved = test_set.to("meta")
    assert moved is test_set
    assert moved.images.device == moved.labels.device == torch.device("meta")


# --- the strength of the augmentation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augment", "kept"),
    [
        *((value, value) for value in (False, True, 0, 1, 0.5, (0.0, 1.0), (0.3, 0.3), np.float32(0.5))),
        ([0.2, 0.8], (0.2, 0.8)),
        ((np.float32(0), np.float64(1)), (0.0, 1.0)),
    ],
    ids=repr,
)
def test_strengths_that_are_taken(test_set, augment, kept) -> None:
    test_set.augment = augment
    assert test_set.augment == kept
    assert test_set[:3][0].isfinite().all()


WRONG = [
    *((0.5,), (), (0.1, 0.2, 0.3), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1), (0.0, float("nan")), (None, 1), ("0", "1")),
    *(-0.1, 1.1, float("nan"), float("inf"), "yes", "", None, 1j, {0: 0, 1: 1}, np.array([0.0, 1.0])),
]


@pytest.mark.parametrize("augment", WRONG, ids=repr)
def test_strengths_that_are_refused_when_they_are_set(sample, test_set, augment) -> None:
    with pytest.raises(ValueError, match="augment: expected False, True, a strength in"):
        test_set.augment = augment
    assert test_set.augment is False
    with pytest.raises(ValueError, match="augment"):
        MNIST(sample / "test.tar", augment=augment)


# --- a validation split -----------------------------------------------------------------------------------------------


def test_a_split_is_the_first_images_and_the_last(test_set) -> None:
    first, last = test_set.split(60)
    assert (len(first), len(last), len(test_set)) == (300, 60, 360)
    assert torch.equal(torch.cat([first[:][0], last[:][0]]), test_set[:][0])
    assert torch.equal(torch.cat([first.labels, last.labels]), test_set.labels)


def test_both_parts_share_the_memory_of_the_whole(test_set) -> None:
    first, last = test_set.split(60)
    test_set.images[0] = test_set.images[-1] = 77
    assert int(first.images[0].min()) == int(last.images[-1].max()) == 77


def test_each_part_augments_for_itself(test_set) -> None:
    first, last = test_set.split(60)
    first.augment = True
    assert (first.augment, last.augment, test_set.augment) == (True, False, False)
    assert not torch.equal(first[[0]][0], test_set[[0]][0])
    assert torch.equal(last[[0]][0], test_set[[300]][0])


@pytest.mark.parametrize("last", [0, -1, 360, 361])
def test_a_split_that_leaves_a_part_empty_is_refused(test_set, last) -> None:
    with pytest.raises(ValueError, match="split: expected a number from 1 to 359"):
        test_set.split(last)


# --- one's own data as a tar: the lines that the README shows ---------------------------------------------------------


def from_arrays(path: Path) -> None:
    images, labels = np.load("images.npy"), np.load("labels.npy")  # uint8 (N, 28, 28), integers (N,)
    write_tar(path, "train", images, labels)


def from_csv(path: Path) -> None:
    table = np.loadtxt("train.csv", delimiter=",", skiprows=1, dtype=np.uint8)  # label, pixel0, ..., pixel783
    write_tar(path, "train", table[:, 1:].reshape(-1, 28, 28), table[:, 0])


def from_torchvision(path: Path) -> None:
    data = datasets.FakeData(20, (1, 28, 28))  # or FashionMNIST("data", download=True), KMNIST, ...
    images = np.stack([np.asarray(image.convert("L")) for image, _ in data])
    write_tar(path, "train", images, [int(label) for _, label in data])


@pytest.fixture
def own_data(tmp_path, monkeypatch) -> tuple[Tensor, list[int]]:
    """Twenty images and labels, in the current folder, as arrays and as CSV."""
    images = torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = [i % 10 for i in range(20)]
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", images)
    np.save("labels.npy", labels)
    with open("train.csv", "w", newline="") as file:
        rows = ([label, *image.flatten().tolist()] for label, image in zip(labels, images, strict=True))
        csv.writer(file).writerows([["label", *(f"pixel{i}" for i in range(784))], *rows])
    return images, labels


@pytest.mark.parametrize("convert", [from_arrays, from_csv])
def test_arrays_and_csv_become_a_tar(own_data, tmp_path, convert: Callable[[Path], None]) -> None:
    convert(tmp_path / "train.tar")
    data = MNIST(tmp_path / "train.tar")
    assert torch.equal(data.images, own_data[0])
    assert data.labels.tolist() == own_data[1]


def test_a_data_set_of_torchvision_becomes_a_tar(tmp_path) -> None:
    from_torchvision(tmp_path / "train.tar")
    data, expected = MNIST(tmp_path / "train.tar"), datasets.FakeData(20, (1, 28, 28))
    for index in range(20):
        image, label = expected[index]
        assert np.array_equal(data.images[index], np.asarray(image.convert("L")))
        assert int(data.labels[index]) == int(label)
