"""What every run of the study measures beside loss and accuracy: after each epoch, and of the final network."""

import copy
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataset import MNIST, SIZE, compose_affine, draw_affine, warp
from main import AUGMENT, test
from support.observer import Observer

CLEAN_IMAGES = 10_000  # as many as the test set holds, so that both figures are equally exact
GRADIENT_IMAGES = 1_000
SHIFTS = (1, 2, 3, 4)  # pixels; few of MNIST's digits lose more than a little ink by that
TURNS = (5, 10, 15, 20, 25)  # degrees; the augmentation turns by up to 20


class StudyObserver(Observer):
    """Keeps what `observe` and `measure_moved` measure; `observe` before the first epoch, too, as initial_NAME.

    augment: whether the run trains on augmented images.
    """

    pictures = False  # those of a run of the study would be looked at by nobody

    def __init__(self, augment: bool) -> None:
        self.augment = augment

    def before_training(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
        return {f"initial_{name}": figure for name, figure in self.after_epoch(network, average, train_set).items()}

    def after_epoch(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
        return observe(network, average, train_set, self.augment)

    def after_training(self, average: nn.Module, test_set: MNIST) -> dict[str, float]:
        return measure_moved(average, test_set)


def observe(network: nn.Module, average: nn.Module, train_set: MNIST, augment: bool) -> dict[str, float]:
    """How `average` does on the first training images, and by what gradients `network` is moved.

    clean_train_loss, clean_train_accuracy    of `average`, evaluated, on the first 10,000 images as they are
    augmented_train_loss, ..._accuracy        if `augment`: on these, augmented by one draw, the same in all runs
    gradient_norm_LAYER, weight_norm_LAYER    L2 norms of a layer's weights, and of the gradient of the mean loss by
                                              them, of `network` in training mode, on the first 1,000 images
    """
    clean, augmented = first_images(train_set)
    figures = layer_norms(network, clean)
    for kind, images in {"clean": clean, "augmented": augmented}.items() if augment else [("clean", clean)]:
        figures[f"{kind}_train_loss"], figures[f"{kind}_train_accuracy"] = test(average, images)
    return figures


@cache
def first_images(train_set: MNIST) -> tuple[MNIST, MNIST]:
    """The first training images as they are, and the same augmented as in training, by a generator of their own."""
    clean, augmented = copy.copy(train_set), copy.copy(train_set)  # they share all that is not assigned here
    for part in (clean, augmented):
        part.augment, part.images, part.labels = False, train_set.images[:CLEAN_IMAGES], train_set.labels[:CLEAN_IMAGES]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        augmented.images = warped(clean.images, draw_affine(len(clean), AUGMENT))
    return clean, augmented


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Images uint8 (N, 28, 28), each warped by its matrix (N, 2, 3) and rounded."""
    return warp(images[:, None].float(), matrices.to(images.device))[:, 0].round().byte()


def layer_norms(network: nn.Module, dataset: MNIST) -> dict[str, float]:
    """Six digits of each norm; more would say nothing and fill the files."""
    network = copy.deepcopy(network).train()  # a copy: batch normalization updates its statistics as it goes
    first = range(min(GRADIENT_IMAGES, len(dataset)))
    loss = F.cross_entropy(network(dataset[first][0]), dataset.labels[: len(first)])
    layers = {name: layer for name, layer in network.named_children() if isinstance(layer, nn.Conv2d | nn.Linear)}
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    norms = {f"gradient_norm_{name}": gradient.norm() for name, gradient in zip(layers, gradients, strict=True)}
    norms |= {f"weight_norm_{name}": layer.weight.norm() for name, layer in layers.items()}
    return {name: float(f"{norm.item():.6g}") for name, norm in norms.items()}


def measure_moved(network: nn.Module, test_set: MNIST) -> dict[str, float]:
    """Accuracy on test images that were moved.

    accuracy_shiftN    by N pixels: the mean over left, right, up and down
    accuracy_turnN     by N degrees, bilinear: the mean over both ways
    """
    ways = {f"accuracy_shift{n}": [(0, n, 0), (0, -n, 0), (0, 0, n), (0, 0, -n)] for n in SHIFTS}
    ways |= {f"accuracy_turn{n}": [(n, 0, 0), (-n, 0, 0)] for n in TURNS}
    accuracies = {name: [test(network, moved(test_set, *way))[1] for way in these] for name, these in ways.items()}
    return {name: sum(values) / len(values) for name, values in accuracies.items()}


def moved(dataset: MNIST, angle: float, right: float, down: float) -> MNIST:
    """All images turned by so many degrees, counter-clockwise, then shifted by so many pixels; blank comes in."""
    result = copy.copy(dataset)
    angles, shift_x, shift_y = torch.tensor([[angle], [right / SIZE], [down / SIZE]])
    matrix = compose_affine(angles, shift_x, shift_y, crop=torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    result.augment, result.images = False, warped(dataset.images, matrix.expand(len(dataset), 2, 3))
    return result
