"""The augmentation, held against torchvision's functional transforms, and what it draws, against the stated ranges."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

import dataset as module
from dataset import MIN_CROP, MNIST, PADDING, ROTATION, SIZE, TRANSLATION, compose_affine, draw_affine, warp

BILINEAR = InterpolationMode.BILINEAR
WHOLE = (0.0, 0.0, 1.0, 1.0)  # left, top, width and height of a crop that takes everything


def matrices(angle: float = 0, shift: tuple[float, float] = (0, 0), crop: tuple[float, ...] = WHOLE) -> Tensor:
    """compose_affine for one image."""
    return compose_affine(*(torch.tensor([float(value)]) for value in (angle, *shift)), torch.tensor([crop]).float())


def noise(size: int = SIZE) -> Tensor:
    return 255 * torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))


# `fill=None` is 0 outside the image, as in the warp; `fill=0` weights what lies on the edge twice. On images with a
# background of 0, like those of MNIST, the two are the same.
@pytest.fixture(params=["noise", "digit"])
def image_and_fill(request, sample) -> tuple[Tensor, int | None]:
    if request.param == "noise":
        return noise(), None
    return MNIST(sample / "test.tar").images[None, :1].float(), 0


@pytest.mark.parametrize("angle", [-20, -7.3, 0.1, 13, 20])
def test_rotation(image_and_fill, angle) -> None:
    image, fill = image_and_fill
    expected = reference.rotate(image, angle, BILINEAR, fill=fill)
    torch.testing.assert_close(warp(image, matrices(angle)), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("pixels", [(2.8, -2.8), (0.7, 1.4), (-2, 0), (0, 1)])
def test_translation(image_and_fill, pixels) -> None:
    image, fill = image_and_fill
    expected = reference.affine(image, 0, list(pixels), 1, [0, 0], BILINEAR, fill=fill)
    shift = tuple(pixel / SIZE for pixel in pixels)
    torch.testing.assert_close(warp(image, matrices(shift=shift)), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("left", "top", "width", "height"), [(0, 0, 28, 28), (2, 1, 25, 26), (0, 3, 28, 24), (3, 0, 23, 28)]
)
def test_resized_crop(left, top, width, height) -> None:
    expected = reference.resized_crop(noise(), top, left, height, width, [SIZE, SIZE], BILINEAR, antialias=False)
    crop = (left / SIZE, top / SIZE, width / SIZE, height / SIZE)
    # torchvision repeats the crop's outermost pixels; the warp sees what lies behind them
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(warp(noise(), matrices(crop=crop))[inner], expected[inner], rtol=0, atol=0.01)


def test_one_warp_is_rotation_then_translation_then_crop() -> None:
    """On an image so smooth that it does not matter how often it is interpolated."""
    size = 280
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    image = 255 * (torch.exp(-12 * ((x - 0.2) ** 2 + 2 * (y + 0.1) ** 2)) + torch.exp(-30 * ((x + 0.3) ** 2 + y**2)))
    image = image[None, None]
    for angle, right, down, (left, top, width, height) in (
        (20, 28, -14, (10, 20, 260, 250)),
        (-11, -21, 28, (30, 0, 250, 270)),
        (5, 7, 3, (0, 28, 280, 252)),
    ):
        expected = reference.rotate(image, angle, BILINEAR, fill=0)
        expected = reference.affine(expected, 0, [right, down], 1, [0, 0], BILINEAR, fill=0)
        expected = reference.resized_crop(expected, top, left, height, width, [size, size], BILINEAR, antialias=False)
        crop = (left / size, top / size, width / size, height / size)
        found = warp(image, matrices(angle, (right / size, down / size), crop))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.5)


def test_the_composed_matrix_is_the_product_of_the_three() -> None:
    """Each maps the result to what it was made from, so the last step comes first: rotation @ translation @ crop."""

    def square(matrix: Tensor) -> Tensor:
        return torch.cat([matrix[0], torch.tensor([[0.0, 0.0, 1.0]])])

    crop = (0.03, 0.11, 0.94, 0.87)
    parts = matrices(17), matrices(shift=(0.09, -0.04)), matrices(crop=crop)
    product = square(parts[0]) @ square(parts[1]) @ square(parts[2])
    torch.testing.assert_close(square(matrices(17, (0.09, -0.04), crop)), product, rtol=0, atol=1e-6)


def test_a_batch_is_warped_image_by_image() -> None:
    torch.manual_seed(0)
    images, drawn = 255 * torch.rand(6, 1, SIZE, SIZE), draw_affine(6)
    singles = [warp(image[None], matrix[None]) for image, matrix in zip(images, drawn, strict=True)]
    torch.testing.assert_close(warp(images, drawn), torch.cat(singles), rtol=0, atol=1e-3)


def test_a_warp_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    images, affine = torch.rand(40, 2, 28, 28), draw_affine(40)
    grid = F.affine_grid(affine, [40, 2, 28, 28], align_corners=False)
    expected = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(warp(images, affine), expected, rtol=0, atol=1e-5)


def test_images_of_other_sizes_and_channels_are_warped_alike() -> None:
    torch.manual_seed(0)
    images, drawn = torch.rand(3, 2, 20, 31), draw_affine(3)
    expected = F.grid_sample(images, F.affine_grid(drawn, [3, 2, 20, 31], align_corners=False), align_corners=False)
    torch.testing.assert_close(warp(images, drawn), expected, rtol=0, atol=1e-5)


# --- what is drawn ----------------------------------------------------------------------------------------------------

DRAWS = 20_000


@pytest.fixture
def draw(monkeypatch):
    """Function that calls `draw_affine` and returns what it handed to `compose_affine`, by name."""

    def draw(strength: float | tuple[float, float]) -> dict[str, np.ndarray]:
        seen: list[Tensor] = []
        monkeypatch.setattr(module, "compose_affine", lambda *values: seen.extend(values) or compose_affine(*values))
        torch.manual_seed(0)
        assert draw_affine(DRAWS, strength).shape == (DRAWS, 2, 3)
        angle, right, down, crop = (value.double().numpy() for value in seen)
        names = ("angle", "right", "down", "left", "top", "width", "height")
        return dict(zip(names, (angle, right, down, *crop.T), strict=True))

    return draw


def independent(drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The seven draws, each as it should be uniform. Only of crops from which float32 can tell them."""
    cut_off = np.minimum(1 - drawn["width"], 1 - drawn["height"])
    drawn = {name: values[cut_off > 1e-4] for name, values in drawn.items()}
    width, height = drawn["width"], drawn["height"]
    return {
        "angle": drawn["angle"],
        "right": drawn["right"],
        "down": drawn["down"],
        "area": width * height,
        "logarithm of the aspect ratio, as a share of what fits": np.log(width / height) / -np.log(width * height),
        "left, as a share of what fits": drawn["left"] / (1 - width),
        "top, as a share of what fits": drawn["top"] / (1 - height),
    }


def off_uniform(values: np.ndarray, low: float, high: float) -> float:
    """Kolmogorov and Smirnov's distance from the uniform distribution, in units in which 1.95 has probability 0.001."""
    expected = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return math.sqrt(len(values)) * max((steps[1:] - expected).max(), (expected - steps[:-1]).max())


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_draws_are_uniform_over_the_stated_ranges(draw, strength) -> None:
    assert (ROTATION, TRANSLATION, MIN_CROP) == (20, 0.1, 0.8)
    drawn = draw(strength)
    ranges = [
        (-20 * strength, 20 * strength),
        (-0.1 * strength, 0.1 * strength),
        (-0.1 * strength, 0.1 * strength),
        (1 - 0.2 * strength, 1),
        (-1, 1),
        (0, 1),
        (0, 1),
    ]
    for (name, values), (low, high) in zip(independent(drawn).items(), ranges, strict=True):
        margin = 0.01 * (high - low)
        assert low - margin < values.min() < low + margin, name
        assert high - margin < values.max() < high + margin, name
        assert off_uniform(values, low, high) < 1.95, name
    # the crops that `independent` leaves out count where they are no share of anything
    assert off_uniform(drawn["width"] * drawn["height"], 1 - 0.2 * strength, 1) < 1.95


def test_draws_are_independent(draw) -> None:
    correlations = np.corrcoef(list(independent(draw(1.0)).values())) - np.eye(7)
    assert np.abs(correlations).max() < 4 / math.sqrt(DRAWS)


def test_crops_lie_within_the_image(draw) -> None:
    drawn = draw(1.0)
    for start, length in (("left", "width"), ("top", "height")):
        assert drawn[start].min() >= 0
        assert (drawn[start] + drawn[length]).max() <= 1 + 1e-6


def test_no_strength_is_no_change() -> None:
    identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert torch.equal(draw_affine(5, 0.0), identity.expand(5, 2, 3))
    torch.testing.assert_close(warp(noise(), identity[None]), noise(), rtol=0, atol=1e-3)


# --- in the data set --------------------------------------------------------------------------------------------------


@pytest.fixture
def train_set(sample) -> MNIST:
    return MNIST(sample / "train.tar", augment=True)


def test_an_augmented_batch_is_the_warped_images_normalized(train_set) -> None:
    torch.manual_seed(5)
    found, labels = train_set[[3, 1, 4]]
    torch.manual_seed(5)
    warped = warp(train_set.images[[3, 1, 4], None].float(), draw_affine(3))
    expected = torch.nn.functional.pad(warped, 4 * [PADDING])
    torch.testing.assert_close(found, (expected / 255 - 0.1307) / 0.3081, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, train_set.labels[[3, 1, 4]])


def test_each_image_has_its_own_draw(train_set) -> None:
    images, _ = train_set[[0] * 50]
    assert len(images.unique(dim=0)) == 50


def test_strength_goes_through(train_set) -> None:
    """The weaker the augmentation, the closer to the image; 0 and False are the image itself."""
    change = []
    plain = MNIST(train_set.path)[range(200)][0]
    for train_set.augment in (True, 1.0, 0.5, 0.1, 0.0, False):
        torch.manual_seed(0)
        change.append(float((train_set[range(200)][0] - plain).abs().mean()))
    assert change[0] == change[1] > change[2] > change[3] > change[4] == change[5] == 0


def test_each_image_has_a_strength_of_its_own_between_the_ends_of_a_pair(draw) -> None:
    """It scales all that is drawn for the image: where the angle is large, the shift may be, too."""
    drawn = draw((0.25, 0.75))
    assert 14 < np.abs(drawn["angle"]).max() <= 15
    assert 0.849 < (drawn["width"] * drawn["height"]).min() < 0.86
    low, high = 20 * 0.25, 20 * 0.75
    mean, square = (low + high) / 4, (low**2 + low * high + high**2) / 9  # of |angle|: strength times a uniform draw
    assert np.abs(drawn["angle"]).mean() == pytest.approx(mean, rel=0.03)
    assert (drawn["angle"] ** 2).mean() == pytest.approx(square, rel=0.03)
    together = np.corrcoef(np.abs(drawn["angle"]), np.abs(drawn["right"]))[0, 1]
    assert together > 10 / math.sqrt(DRAWS)
    alone = draw((0.5, 0.5))
    assert abs(np.corrcoef(np.abs(alone["angle"]), np.abs(alone["right"]))[0, 1]) < 4 / math.sqrt(DRAWS)


def test_a_pair_of_equal_ends_is_that_strength_for_all(draw) -> None:
    pair, number = draw((0.3, 0.3)), draw(0.3)
    assert all(np.array_equal(pair[name], number[name]) for name in number)


def test_without_augmentation_nothing_is_drawn(sample) -> None:
    test_set = MNIST(sample / "test.tar")
    before = torch.get_rng_state()
    assert torch.equal(test_set[[1, 2]][0], test_set[[1, 2]][0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batched", [True, False])
def test_each_epoch_draws_anew_and_a_seed_repeats_it(train_set, workers, batched) -> None:
    if batched:
        sampler = BatchSampler(SequentialSampler(range(60)), 20, drop_last=False)
        loader = DataLoader(train_set, batch_size=None, sampler=sampler, num_workers=workers)
    else:
        loader = DataLoader(train_set, 20, sampler=range(60), num_workers=workers)

    def epochs() -> list[Tensor]:
        torch.manual_seed(0)
        return [torch.cat([images for images, _ in loader]) for _ in range(2)]

    (first, second), again = epochs(), epochs()
    assert (first != second).flatten(1).any(1).all()
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def test_workers_do_not_draw_alike(train_set) -> None:
    loader = DataLoader(train_set, batch_size=None, sampler=[[0] * 10] * 4, num_workers=2)
    assert len(torch.cat([images for images, _ in loader]).unique(dim=0)) == 40
