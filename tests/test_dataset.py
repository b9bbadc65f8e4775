"""`MNIST` as a data set: normalizing, indexing, DataLoaders, splitting; its augmentation; data that look wrong."""

import copy
import math
import re
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

import dataset as module
from dataset import MEAN, MNIST, MNIST_SHA256, PADDING, SIZE, STD, compose_affine, draw_affine, network_input, warp
from support.data import data_warnings, write_tar
from support.terminal import UserError


def total(batches: Iterable) -> list[int]:
    """How many images of each label all batches hold."""
    return torch.cat([labels for images, labels in batches if images.shape[1:] == (1, 32, 32)]).bincount().tolist()


def test_mnist_is_whole_and_raises_no_warning_and_the_constants_are_its_own(mnist_dir) -> None:
    train, test = (MNIST(mnist_dir / f"{split}.tar.gz") for split in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert {"train": train.sha256(), "test": test.sha256()} == MNIST_SHA256
    std, mean = torch.std_mean(train.images.float() / 255)
    assert (round(float(mean), 4), round(float(std), 4)) == (MEAN, STD)
    assert data_warnings(train, test) == []


def test_a_sample_is_normalized_with_two_pixels_of_background_around_it(train_set) -> None:
    image, label = train_set[7]
    assert (image.dtype, image.shape) == (torch.float32, (1, 32, 32))
    assert type(label) is int
    expected = np.zeros((32, 32))
    expected[2:30, 2:30] = train_set.images[7]
    np.testing.assert_allclose(image[0], (expected / 255 - 0.1307) / 0.3081, rtol=1e-6, atol=1e-6)


def test_a_batch_is_its_samples(train_set) -> None:
    indices = [5, 3, 3, -1, 1436]
    images, labels = train_set[indices]
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(images, torch.stack([train_set[i][0] for i in indices]))
    assert labels.tolist() == [train_set[i][1] for i in indices] == train_set.labels[indices].tolist()
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
        assert torch.equal(train_set[number][0], train_set[3][0])


def test_slices_are_those_of_python_and_plain_iteration_ends(test_set) -> None:
    for part in (slice(None, None, -1), slice(-3, None), slice(350, 400), slice(5, 2)):
        assert torch.equal(test_set[part][1], test_set.labels[list(range(360))[part]])
    assert sum(1 for _ in test_set) == 360


def test_a_boolean_mask_chooses_images(train_set) -> None:
    fives = train_set.labels == 5
    for mask in (fives, fives.numpy(), fives.tolist()):
        images, labels = train_set[mask]
        assert torch.equal(images, train_set[fives.nonzero().flatten()][0])
        assert torch.equal(labels, train_set.labels[fives])
    assert train_set[fives & ~fives][0].shape == (0, 1, 32, 32)


def test_what_is_no_index_or_out_of_range_is_refused(train_set) -> None:
    masks = [torch.ones(1436).bool(), [True] * 1438, torch.ones(1437, 1).bool()]  # short, long, of pixels
    nothing = (True, 1.0, [0.5], torch.tensor([1j]), [[1, 2]], None, "7")
    for index in (*nothing, *masks, 1437, -1438, [0, 1437], [-1438], torch.tensor([1437])):
        with pytest.raises(IndexError):
            train_set[index]


@pytest.fixture
def batches_made(monkeypatch) -> list[int]:
    """The size of each batch that is normalized from now on."""
    sizes: list[int] = []
    monkeypatch.setattr(module, "network_input", lambda images: sizes.append(len(images)) or network_input(images))
    return sizes


def test_an_ordinary_data_loader_makes_its_batches_whole(test_set, batches_made) -> None:
    batches = list(DataLoader(test_set, 100))
    assert batches_made == [100, 100, 100, 60]
    for whole, parts in zip(test_set[:], zip(*batches, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), whole)
    batches_made.clear()
    assert sum(total(DataLoader(Subset(test_set, range(40, 140)), 50))) == 100
    assert batches_made == [50] * 2


def test_data_loaders_with_workers_and_samplers(train_set) -> None:
    every = train_set.labels.bincount().tolist()
    assert total(DataLoader(train_set, 50, shuffle=True, num_workers=2)) == every
    sampler = BatchSampler(RandomSampler(train_set), 200, drop_last=False)
    assert total(DataLoader(train_set, batch_size=None, sampler=sampler)) == every


def test_targets_and_classes_as_torchvision_names_them(test_set, tmp_path) -> None:
    assert test_set.targets is test_set.labels
    assert test_set.classes == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    write_tar(tmp_path / "letters.tar", "letters", test_set.images[:2], [26, 1])
    letters = MNIST(tmp_path / "letters.tar")
    assert (letters.classes[-1], len(letters.classes)) == ("26", 27)
    assert repr(letters) == f"MNIST('{tmp_path / 'letters.tar'}', augment=False): 2 images"


def test_augmentations_that_are_taken_or_refused_when_they_are_set(test_set) -> None:
    for augment in ((0.2, 0.8), [0.2, 0.8], (np.float32(0), 1), True, 1, (0.3, 0.3), np.float32(0.5), torch.relu, 0):
        test_set.augment = augment
        assert test_set.augment == (tuple(augment) if isinstance(augment, list) else augment)
        assert test_set[:3][0].isfinite().all()
    nan = float("nan")
    for augment in ((), (0.1, 0.2, 0.3), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1), (0.0, nan), ("0", "1"), 1.1, "yes", None):
        with pytest.raises(ValueError, match="augment: expected False, True, a strength in"):
            test_set.augment = augment
        assert test_set.augment == 0


def test_a_split_is_the_first_images_and_the_last_which_share_the_memory_of_the_whole(test_set) -> None:
    first, last = test_set.split(60)
    assert (len(first), len(last), len(test_set)) == (300, 60, 360)
    assert torch.equal(torch.cat([first[:][0], last[:][0]]), test_set[:][0])
    assert torch.equal(torch.cat([first.labels, last.labels]), test_set.labels)
    test_set.images[0] = test_set.images[-1] = 77
    assert int(first.images[0].min()) == int(last.images[-1].max()) == 77
    for number in (0, -1, 360, 361):
        with pytest.raises(UserError, match="of 360 images, expected 1 to 359"):
            test_set.split(number)


def test_what_is_held_out_is_not_augmented(test_set) -> None:
    test_set.augment = (0.0, 1.0)
    first, last = test_set.split(60)
    assert (first.augment, last.augment, test_set.augment) == ((0.0, 1.0), False, (0.0, 1.0))


# --- the augmentation, against torchvision's functional transforms; what it draws, against the stated ranges --------

BILINEAR = InterpolationMode.BILINEAR
DRAWS = 20_000


def test_one_warp_is_rotation_then_translation_then_crop() -> None:
    """To a hundredth of a pixel of 28: on an image so smooth that it does not matter how often it is interpolated."""
    size = 280
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    image = 255 * (torch.exp(-12 * ((x - 0.2) ** 2 + 2 * (y + 0.1) ** 2)) + torch.exp(-30 * ((x + 0.3) ** 2 + y**2)))
    image = image[None, None]
    for angle, right, down, (left, top, width, height) in (
        (20, 28, -14, (10, 20, 260, 250)),
        (-11, -21, 28, (30, 0, 250, 270)),
    ):
        expected = reference.rotate(image, angle, BILINEAR, fill=0)
        expected = reference.affine(expected, 0, [right, down], 1, [0, 0], BILINEAR, fill=0)
        expected = reference.resized_crop(expected, top, left, height, width, [size, size], BILINEAR, antialias=False)
        crop = torch.tensor([[left, top, width, height]]) / size
        found = warp(image, compose_affine(torch.tensor([angle]), *torch.tensor([[right], [down]]) / size, crop))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.5)


def test_a_warp_is_pytorchs_own_for_any_size_and_each_image_of_a_batch() -> None:
    torch.manual_seed(0)
    images, drawn = torch.rand(40, 2, 20, 31), draw_affine(40)
    grid = F.affine_grid(drawn, [40, 2, 20, 31], align_corners=False)
    torch.testing.assert_close(warp(images, drawn), F.grid_sample(images, grid, align_corners=False), rtol=0, atol=1e-5)


def draw(patch: pytest.MonkeyPatch, strength: float | tuple[float, float]) -> np.ndarray:
    """What `draw_affine` hands to `compose_affine`: angle; shift right, down; the crop's left, top, width, height."""
    seen: list[Tensor] = []
    patch.setattr(module, "compose_affine", lambda *values: seen.extend(values) or compose_affine(*values))
    torch.manual_seed(0)
    assert draw_affine(DRAWS, strength).shape == (DRAWS, 2, 3)
    return np.column_stack([value.double() for value in seen]).T


def independent(drawn: np.ndarray) -> list[np.ndarray]:
    """The seven draws, each as it should be uniform. Only of crops from which float32 can tell them."""
    angle, right, down, left, top, width, height = drawn[:, drawn[5:].max(0) < 1 - 1e-4]
    aspect = np.log(width / height) / -np.log(width * height)  # as a share of what fits, as are the crop's positions
    return [angle, right, down, width * height, aspect, left / (1 - width), top / (1 - height)]


def is_uniform(values: np.ndarray, low: float, high: float) -> bool:
    """By the test of Kolmogorov and Smirnov."""
    return kstest(values, "uniform", (low, high - low)).pvalue > 0.001


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_draws_are_independent_and_uniform_over_the_stated_ranges(monkeypatch, strength) -> None:
    assert (module.ROTATION, module.TRANSLATION, module.MIN_CROP) == (20, 0.1, 0.8)
    drawn = draw(monkeypatch, strength)
    turn, shift = 20 * strength, 0.1 * strength
    ranges = [(-turn, turn), (-shift, shift), (-shift, shift), (1 - 0.2 * strength, 1), (-1, 1), (0, 1), (0, 1)]
    for values, (low, high) in zip(independent(drawn), ranges, strict=True):
        assert (values.min(), values.max()) == pytest.approx((low, high), abs=0.01 * (high - low))
        assert is_uniform(values, low, high)
    # the crops that `independent` leaves out count where they are no share of anything
    assert is_uniform(drawn[5] * drawn[6], 1 - 0.2 * strength, 1)
    assert np.abs(np.corrcoef(independent(drawn)) - np.eye(7)).max() < 4 / math.sqrt(DRAWS)
    assert drawn[3:5].min() >= 0
    assert (drawn[3:5] + drawn[5:]).max() <= 1 + 1e-6


def test_each_image_has_a_strength_of_its_own_between_the_ends_of_a_pair(monkeypatch) -> None:
    """It scales all that is drawn for the image: where the angle is large, the shift may be, too."""
    low, high = 5, 15
    angle, right, _, _, _, width, height = np.abs(draw(monkeypatch, (0.25, 0.75)))
    assert 14 < angle.max() <= 15
    assert 0.849 < (width * height).min() < 0.86
    assert angle.mean() == pytest.approx((low + high) / 4, rel=0.03)  # of strength times a uniform draw
    assert (angle**2).mean() == pytest.approx((low**2 + low * high + high**2) / 9, rel=0.03)
    assert np.corrcoef(angle, right)[0, 1] > 10 / math.sqrt(DRAWS)
    assert np.array_equal(draw(monkeypatch, (0.3, 0.3)), draw(monkeypatch, 0.3))


@pytest.fixture
def augmented(train_set) -> MNIST:
    train_set.augment = True
    return train_set


def test_an_augmented_batch_is_the_warped_images_normalized(augmented) -> None:
    torch.manual_seed(5)
    found, labels = augmented[[3, 1, 4]]
    torch.manual_seed(5)
    warped = warp(augmented.images[[3, 1, 4], None].float(), draw_affine(3))
    expected = F.pad(warped, 4 * [PADDING])
    torch.testing.assert_close(found, (expected / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, augmented.labels[[3, 1, 4]])
    assert len(augmented[[0] * 50][0].unique(dim=0)) == 50  # each image has its own draw


def test_the_weaker_the_augmentation_the_closer_to_the_image(augmented) -> None:
    change, plain = [], MNIST(augmented.path)[range(200)][0]
    for augmented.augment in (True, 1.0, 0.5, 0.1, 0.0, False):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        change.append(float((augmented[range(200)][0] - plain).abs().mean()))
        assert torch.equal(torch.get_rng_state(), before) == (not augmented.augment)  # else nothing is drawn
    assert change[0] == change[1] > change[2] > change[3] > change[4] == change[5] == 0


@pytest.mark.parametrize("batched", [True, False])
def test_each_epoch_draws_anew_each_worker_for_itself_and_a_seed_repeats_it(augmented, batched) -> None:
    batches = BatchSampler(SequentialSampler(range(60)), 20, drop_last=False)
    how = {"batch_size": None, "sampler": batches} if batched else {"batch_size": 20, "sampler": [7] * 60}
    loader = DataLoader(augmented, **how, num_workers=2)

    def epochs() -> list[Tensor]:
        torch.manual_seed(0)
        return [torch.cat([images for images, _ in loader]) for _ in range(2)]

    (first, second), again = epochs(), epochs()
    assert len(torch.cat([first, second]).unique(dim=0)) == 120
    assert torch.equal(torch.cat([first, second]), torch.cat(again))


def test_a_function_of_a_batch_takes_its_place(augmented) -> None:
    expected = F.pad(augmented.images[[3, 1, 4], None] / 2, 4 * [PADDING])
    for augmented.augment in (lambda images: images * 0.5, lambda images: images.mul_(0.5)):
        found, labels = augmented[[3, 1, 4]]
        torch.testing.assert_close(found, (expected / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-5)
        assert labels.tolist() == augmented.labels[[3, 1, 4]].tolist()
    assert augmented[0][0].shape == (1, 32, 32)
    kept = torch.full((1, 1, SIZE, SIZE), 255.0)
    augmented.augment = lambda images: kept.expand_as(images)  # what it keeps is not written to
    assert torch.equal(augmented[:5][0], augmented[:5][0])
    assert kept.min() == 255


def test_a_function_that_returns_something_else_is_told_what_is_expected(augmented) -> None:
    wrong = {"float32 (3, 28, 28)": lambda images: images[:, 0], "float64 (3, 1, 28, 28)": Tensor.double}
    for said, augmented.augment in (wrong | {"NoneType ()": lambda images: None}).items():
        with pytest.raises(ValueError, match=re.escape(f"{said}; expected float32 (3, 1, 28, 28)")):
            augmented[[3, 1, 4]]


# --- what is said about data that load and look wrong -------------------------------------------------------------


def part(data: MNIST, chosen: Tensor) -> MNIST:
    changed = copy.copy(data)
    changed.images, changed.labels = data.images[chosen], data.labels[chosen]
    return changed


def test_good_data_raise_none(train_set, test_set) -> None:
    assert data_warnings(train_set, test_set) == []
    assert data_warnings(*train_set.split(360), "validation") == []
    train_set.images[5] = 255 - train_set.images[5]  # one alone
    test_set.images[:, 2:-2, 2:-2] |= 200  # bold figures on a dark rim
    assert data_warnings(train_set, test_set) == []


def test_labels_without_images_between_0_and_the_highest_are_named(train_set, test_set) -> None:
    some = part(test_set, (test_set.labels != 9) & (test_set.labels != 3))
    assert data_warnings(train_set, some) == ["the test set holds no 3, 9"]
    ones = part(test_set, test_set.labels == 1)
    assert data_warnings(ones, part(ones, torch.arange(5)), "validation")[1] == "the validation set holds no 0"
    train_set.labels[0] = 200
    assert data_warnings(train_set, test_set)[-1].endswith("holds no 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, ...")


def test_a_test_set_larger_than_the_training_set(train_set, test_set) -> None:
    said = "the test set (1,437) is larger than the training set (360): swapped?"
    assert data_warnings(test_set, train_set) == [said]


def test_test_images_that_are_in_the_training_set_in_any_order_under_any_label(train_set, test_set) -> None:
    shuffled = part(train_set, torch.randperm(1437, generator=torch.Generator().manual_seed(0))[:400])
    shuffled.labels = shuffled.labels.flip(0)
    (said,) = data_warnings(train_set, shuffled)
    assert said == "400 of 400 test images are in the training set, too: they test nothing new"
    test_set.images[[5, 7]] = train_set.images[[1, 2]]
    (said,) = data_warnings(train_set, test_set, "validation")
    assert said.startswith("2 of 360 validation images")


WRONG: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("the images are dark on light", lambda images: 160 - images // 2),  # on gray paper
    ("the brightest pixel is mostly 1, not 255", lambda images: images // 128),
    ("the brightest pixel is mostly 16, not 255", lambda images: torch.cat([images[:1], images[1:] // 16 + 1])),
    ("images are blank, without any ink", torch.zeros_like),
    ("images are blank, without any ink", lambda images: images * 0 + 255),
    (": 1 of", lambda images: torch.cat([images[1:], images[:1] * 0])),
]


@pytest.mark.parametrize(("said", "change"), WRONG)
def test_images_that_are_unlike_mnist(train_set, test_set, said, change) -> None:
    train_set.images, test_set.images = change(train_set.images), change(test_set.images)
    for name, warning in zip(("training", "test"), data_warnings(train_set, test_set)[:2], strict=True):
        assert warning.startswith(f"the {name} set: ")
        assert said in warning
