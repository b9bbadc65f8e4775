"""What is said about data that load and look wrong: each warning once, in a line, and none about good data."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dataset import MNIST
from support.data import data_warnings


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
