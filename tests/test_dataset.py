"""`MNIST` as a data set: normalizing, indexing, DataLoaders, splitting; and people's own arrays made into a tar."""

import pickle
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, Subset, random_split
from torchvision import datasets

import dataset as module
from dataset import MEAN, MNIST, MNIST_SHA256, PADDING, STD, network_input
from support.data import write_tar


def total(batches: Iterable) -> tuple[int, list[int]]:
    """Number of images, and a label histogram, of all batches."""
    labels = torch.cat([labels for images, labels in batches if images.shape[1:] == (1, 32, 32)])
    assert labels.dtype == torch.int64
    return len(labels), labels.bincount(minlength=10).tolist()


def test_mnist_is_whole_and_the_constants_are_its_own(mnist_dir) -> None:
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
    pixels = train_set.images[:5, None].float()  # predictions go the same way
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
    assert [tensor.shape for tensor in train_set[[]]] == [(0, 1, 32, 32), (0,)]


@pytest.mark.filterwarnings("error")
def test_any_sequence_of_integers_is_a_batch_and_any_integer_a_sample(train_set) -> None:
    numbers, read_only = np.arange(1, 4), np.frombuffer(np.arange(1, 4).tobytes(), np.int64)  # as of pandas
    sequences = [range(1, 4), slice(1, 4), (1, 2, 3), list(map(torch.tensor, (1, 2, 3))), torch.arange(1, 4).int()]
    for index in (*sequences, numbers, numbers.astype(np.uint8), np.array([3, 2, 1])[::-1], read_only):
        images, labels = train_set[index]
        assert torch.equal(images, train_set[[1, 2, 3]][0])
        assert torch.equal(labels, train_set.labels[1:4])
    for number in (np.int64(3), np.array(3), torch.tensor(3), 3 - 1437):
        image, label = train_set[number]
        assert torch.equal(image, train_set[3][0])
        assert label == train_set[3][1]


def test_slices_are_those_of_python_and_plain_iteration_ends(test_set) -> None:
    for part in (slice(None), slice(None, None, -1), slice(-3, None), slice(350, 400), slice(5, 2)):
        assert torch.equal(test_set[part][1], test_set.labels[list(range(360))[part]])
    assert sum(1 for _ in test_set) == 360


def test_a_boolean_mask_chooses_images(train_set) -> None:
    fives = train_set.labels == 5
    for mask in (fives, fives.numpy(), fives.tolist()):
        images, labels = train_set[mask]
        assert labels.tolist() == [5] * int(fives.sum())
        assert torch.equal(images, train_set[fives.nonzero().flatten()][0])
    assert train_set[fives & ~fives][0].shape == (0, 1, 32, 32)


def test_what_is_no_index_or_out_of_range_is_refused(train_set) -> None:
    masks = [torch.ones(1436).bool(), [True] * 1438, torch.ones(1437, 1).bool()]  # short, long, of pixels
    for index in (True, 1.0, [0.5], torch.tensor([1j]), [[1, 2]], None, "7", *masks):
        with pytest.raises(TypeError):
            train_set[index]
    for index in (1437, -1438, [0, 1437], [-1438], torch.tensor([1437])):
        with pytest.raises(IndexError, match=f"image {index} of 1437" if isinstance(index, int) else None):
            train_set[index]


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
    batches_made.clear()
    for part in (Subset(test_set, range(40, 140)), random_split(test_set, [100, 260])[0]):
        assert total(DataLoader(part, 50))[0] == 100
    assert batches_made == [50] * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loaders_with_workers_samplers_and_shares(train_set, workers) -> None:
    every = (1437, train_set.labels.bincount().tolist())
    assert total(DataLoader(train_set, 50, shuffle=True, num_workers=workers)) == every
    sampler = BatchSampler(RandomSampler(train_set), 200, drop_last=False)
    assert total(DataLoader(train_set, batch_size=None, sampler=sampler, num_workers=workers)) == every
    shares = [DistributedSampler(train_set, 3, rank, shuffle=False) for rank in range(3)]  # 1437 divides by 3
    assert total(batch for share in shares for batch in DataLoader(train_set, 100, sampler=share)) == every


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
    write_tar(tmp_path / "letters.tar", "letters", test_set.images[:2], [26, 1])
    letters = MNIST(tmp_path / "letters.tar")
    assert (letters.classes[-1], len(letters.classes), letters.targets.tolist()) == ("26", 27, [26, 1])
    assert repr(letters) == f"MNIST('{tmp_path / 'letters.tar'}', augment=False): 2 images"


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


def test_augmentations_that_are_taken_or_refused_when_they_are_set(sample, test_set) -> None:
    pairs = [([0.2, 0.8], (0.2, 0.8)), ((np.float32(0), np.float64(1)), (0.0, 1.0))]
    same = (True, 0, 1, 0.5, (0.0, 1.0), (0.3, 0.3), np.float32(0.5), torch.relu, False)
    for augment, kept in (*pairs, *((value, value) for value in same)):
        test_set.augment = augment
        assert test_set.augment == kept
        assert test_set[:3][0].isfinite().all()
    nan = float("nan")
    ends = ((0.5,), (), (0.1, 0.2, 0.3), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1), (0.0, nan), (None, 1), ("0", "1"))
    for augment in (*ends, -0.1, 1.1, nan, float("inf"), "yes", "", None, 1j, {0: 0, 1: 1}, np.array([0.0, 1.0])):
        with pytest.raises(ValueError, match="augment: expected False, True, a strength in"):
            test_set.augment = augment
        assert test_set.augment is False
    with pytest.raises(ValueError, match="augment"):
        MNIST(sample / "test.tar", augment=1.1)


# --- a validation split -----------------------------------------------------------------------------------------------


def test_a_split_is_the_first_images_and_the_last_which_share_the_memory_of_the_whole(test_set) -> None:
    first, last = test_set.split(60)
    assert (len(first), len(last), len(test_set)) == (300, 60, 360)
    assert torch.equal(torch.cat([first[:][0], last[:][0]]), test_set[:][0])
    assert torch.equal(torch.cat([first.labels, last.labels]), test_set.labels)
    test_set.images[0] = test_set.images[-1] = 77
    assert int(first.images[0].min()) == int(last.images[-1].max()) == 77


def test_what_is_held_out_is_not_augmented(test_set) -> None:
    for augment in (True, 0.5, (0.0, 1.0), torch.relu):
        test_set.augment = augment
        first, last = test_set.split(60)
        assert (first.augment, last.augment, test_set.augment) == (augment, False, augment)
    test_set.augment = False
    first, last = test_set.split(60)
    first.augment = True
    assert (last.augment, test_set.augment) == (False, False)
    assert torch.equal(last[[0]][0], test_set[[300]][0])


def test_a_split_that_leaves_a_part_empty_is_refused(test_set) -> None:
    for last in (0, -1, 360, 361):
        with pytest.raises(ValueError, match="split: expected a number from 1 to 359"):
            test_set.split(last)


# --- one's own data as a tar: the lines that the README shows ---------------------------------------------------------


def test_arrays_tables_and_data_sets_of_torchvision_become_a_tar(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    np.savetxt(tmp_path / "a.csv", np.c_[np.arange(20) % 10, images.reshape(20, 784)], "%d", ",", header="label,...")
    table = np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1, dtype=np.uint8)
    write_tar(tmp_path / "new" / "train.tar", "train", table[:, 1:].reshape(-1, 28, 28), table[:, 0])
    data = MNIST(tmp_path / "new" / "train.tar")
    assert np.array_equal(data.images, images)
    assert data.labels.tolist() == list(range(10)) * 2
    fake = datasets.FakeData(20, (1, 28, 28))
    pixels = np.stack([np.asarray(image.convert("L")) for image, _ in fake])
    write_tar(tmp_path / "test.tar", "test", pixels, [int(label) for _, label in fake])
    assert np.array_equal(MNIST(tmp_path / "test.tar").images, pixels)
