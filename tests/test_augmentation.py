"""The augmentation, held against torchvision's functional transforms, and what it draws, against the stated ranges."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

import dataset as module
from dataset import MIN_CROP, MNIST, PADDING, ROTATION, SIZE, TRANSLATION, compose_affine, draw_affine, warp

BILINEAR = InterpolationMode.BILINEAR
WHOLE = (0.0, 0.0, 1.0, 1.0)  # left, top, width and height of a crop that takes everything
DRAWS = 20_000


def matrices(angle: float = 0, shift: tuple[float, float] = (0, 0), crop: tuple[float, ...] = WHOLE) -> Tensor:
    """compose_affine for one image."""
    return compose_affine(*(torch.tensor([float(value)]) for value in (angle, *shift)), torch.tensor([crop]).float())


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
        crop = (left / size, top / size, width / size, height / size)
        found = warp(image, matrices(angle, (right / size, down / size), crop))
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
    assert (ROTATION, TRANSLATION, MIN_CROP) == (20, 0.1, 0.8)
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
def train_set(sample) -> MNIST:
    return MNIST(sample / "train.tar", augment=True)


def test_an_augmented_batch_is_the_warped_images_normalized(train_set) -> None:
    torch.manual_seed(5)
    found, labels = train_set[[3, 1, 4]]
    torch.manual_seed(5)
    warped = warp(train_set.images[[3, 1, 4], None].float(), draw_affine(3))
    expected = F.pad(warped, 4 * [PADDING])
    torch.testing.assert_close(found, (expected / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, train_set.labels[[3, 1, 4]])
    assert len(train_set[[0] * 50][0].unique(dim=0)) == 50  # each image has its own draw


def test_the_weaker_the_augmentation_the_closer_to_the_image(train_set) -> None:
    change, plain = [], MNIST(train_set.path)[range(200)][0]
    for train_set.augment in (True, 1.0, 0.5, 0.1, 0.0, False):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        change.append(float((train_set[range(200)][0] - plain).abs().mean()))
        assert torch.equal(torch.get_rng_state(), before) == (not train_set.augment)  # else nothing is drawn
    assert change[0] == change[1] > change[2] > change[3] > change[4] == change[5] == 0


@pytest.mark.parametrize("batched", [True, False])
def test_each_epoch_draws_anew_each_worker_for_itself_and_a_seed_repeats_it(train_set, batched) -> None:
    batches = BatchSampler(SequentialSampler(range(60)), 20, drop_last=False)
    how = {"batch_size": None, "sampler": batches} if batched else {"batch_size": 20, "sampler": [7] * 60}
    loader = DataLoader(train_set, **how, num_workers=2)

    def epochs() -> list[Tensor]:
        torch.manual_seed(0)
        return [torch.cat([images for images, _ in loader]) for _ in range(2)]

    (first, second), again = epochs(), epochs()
    assert len(torch.cat([first, second]).unique(dim=0)) == 120
    assert torch.equal(torch.cat([first, second]), torch.cat(again))


def test_a_function_of_a_batch_takes_its_place(train_set) -> None:
    expected = F.pad(train_set.images[[3, 1, 4], None] / 2, 4 * [PADDING])
    for train_set.augment in (lambda images: images * 0.5, lambda images: images.mul_(0.5)):
        found, labels = train_set[[3, 1, 4]]
        torch.testing.assert_close(found, (expected / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-5)
        assert labels.tolist() == train_set.labels[[3, 1, 4]].tolist()
    assert train_set[0][0].shape == (1, 32, 32)
    kept = torch.full((1, 1, SIZE, SIZE), 255.0)
    train_set.augment = lambda images: kept.expand_as(images)  # what it keeps is not written to
    assert torch.equal(train_set[:5][0], train_set[:5][0])
    assert kept.min() == 255


def test_a_function_that_returns_something_else_is_told_what_is_expected(train_set) -> None:
    wrong = {"float32 (3, 28, 28)": lambda images: images[:, 0], "float64 (3, 1, 28, 28)": Tensor.double}
    for said, train_set.augment in (wrong | {"NoneType ()": lambda images: None}).items():
        with pytest.raises(ValueError, match=re.escape(f"{said}; expected float32 (3, 1, 28, 28)")):
            train_set[[3, 1, 4]]
