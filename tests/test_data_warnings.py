"""What is said about data that load and look wrong: each doubt once, in a line, and none about good data."""

import copy

import pytest
import torch
from support.data.data_warnings import doubts

from dataset import MNIST


def only(found: list[str]) -> str:
    """The one doubt, in a line."""
    assert len(found) == 1
    assert "\n" not in found[0]
    return found[0]


def part(data: MNIST, chosen) -> MNIST:
    changed = copy.copy(data)
    changed.images, changed.labels = data.images[chosen], data.labels[chosen]
    return changed


def test_good_data_raise_no_doubt(train_set, test_set) -> None:
    assert doubts(None, train_set, test_set) == []
    assert doubts(None, *train_set.split(360)) == []


def test_mnist_raises_no_doubt(mnist_dir) -> None:
    assert doubts(None, *(MNIST(mnist_dir / f"{split}.tar.gz") for split in ("train", "test"))) == []


def test_the_sample_in_place_of_mnist_says_so_why_and_what_to_do(train_set, test_set) -> None:
    what, advice = doubts("MNIST could not be downloaded", train_set, test_set)
    assert "NOT MNIST" in what
    assert "1,797" in what
    assert "MNIST could not be downloaded" in what
    assert "--data-dir" in advice


@pytest.mark.parametrize("split", ["training", "test"])
def test_classes_without_images_are_named(train_set, test_set, split) -> None:
    sets = [train_set, test_set]
    place = ("training", "test").index(split)
    sets[place] = part(sets[place], (sets[place].labels != 7) & (sets[place].labels != 3))
    assert only(doubts(None, *sets)) == f"the {split} set holds no 3, 7"


def test_of_many_absent_classes_some_are_named(train_set, test_set) -> None:
    train_set.classes = [str(label) for label in range(200)]
    assert only(doubts(None, train_set, test_set)).endswith(
        "holds no 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 and 180 more"
    )
    train_set.classes = [str(label) for label in range(20)]
    assert only(doubts(None, train_set, test_set)).endswith("holds no 10, 11, 12, 13, 14, 15, 16, 17, 18, 19")


def test_a_test_set_larger_than_the_training_set(train_set, test_set) -> None:
    assert "the test set (1,437) is larger than the training set (360)" in only(doubts(None, test_set, train_set))


def test_a_test_set_that_is_the_training_set(train_set, test_set) -> None:
    assert "the test set is the training set" in only(doubts(None, train_set, copy.deepcopy(train_set)))
    assert doubts(None, train_set.split(718)[0], train_set.split(718)[1]) == []  # as many images, but others
    relabelled = copy.deepcopy(test_set)
    relabelled.labels = relabelled.labels.flip(0)
    assert doubts(None, test_set, relabelled) == []


@pytest.mark.parametrize("split", [0, 1])
def test_images_dark_on_light(train_set, test_set, split) -> None:
    sets = [train_set, test_set]
    sets[split].images = 255 - sets[split].images
    doubt = only(doubts(None, *sets))
    assert ("training", "test")[split] in doubt
    assert "dark on light" in doubt


def test_images_on_gray_paper(train_set, test_set) -> None:
    train_set.images = 160 - train_set.images // 2
    assert "dark on light" in only(doubts(None, train_set, test_set))


def test_bold_figures_on_a_dark_rim_are_none_of_it(train_set, test_set) -> None:
    train_set.images[:, 1:-1, 1:-1] = 255
    assert doubts(None, train_set, test_set) == []


def test_one_image_dark_on_light_among_many_is_none_of_it(train_set, test_set) -> None:
    train_set.images[5] = 255 - train_set.images[5]
    assert doubts(None, train_set, test_set) == []


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("invert", [False, True])
def test_pixels_of_0_and_1_where_255_is_expected(train_set, test_set, split, invert) -> None:
    sets = [train_set, test_set]
    sets[split].images = ((sets[split].images > 127) ^ invert).to(torch.uint8)
    doubt = only(doubts(None, *sets))
    assert ("training", "test")[split] in doubt
    assert "brightest pixel is 1, not 255" in doubt


def test_nothing_but_black(train_set, test_set) -> None:
    test_set.images = torch.zeros_like(test_set.images)
    assert "brightest pixel is 0" in only(doubts(None, train_set, test_set))


def test_all_that_is_wrong_is_said_at_once(train_set, test_set) -> None:
    train_set.images = 255 - train_set.images
    test_set = part(test_set, test_set.labels != 0)
    assert len(doubts("no network", train_set, test_set)) == 4
