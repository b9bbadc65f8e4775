"""The numbers of the study, for its tables and its figures. Knows nothing of Markdown or matplotlib.

What is compared, by which test and within which margin was fixed before the runs of this study were looked at.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.figures import configuration
from support.run import RECIPE, SETTINGS, Run, read_runs
from support.study import statistics
from support.study.statistics import ALPHA, Estimate
from support.terminal import UserError, printable

Configuration = tuple[str, bool]  # model, augmentation
Groups = dict[Configuration, list[Run]]  # the runs of each: of the same seeds, in their order
Terms = dict[Configuration, int]  # the weights of a sum over configurations

PLAIN, AUGMENTED, NORMALIZED, BOTH = ("lenet", False), ("lenet", True), ("lenet_bn", False), ("lenet_bn", True)
MLP, MLP_AUGMENTED = ("mlp", False), ("mlp", True)
CONFIGURATIONS = (PLAIN, AUGMENTED, NORMALIZED, BOTH, MLP, MLP_AUGMENTED)
MARGIN = 0.0005  # of accuracy, 0.05 points: 5 of 10,000 test images; a smaller difference counts as none
OF_IMAGES: dict[str, Callable[[Run], np.ndarray]] = {  # its values, whose mean it is: (test images,)
    "accuracy": lambda run: run.arrays["predictions"] == run.arrays["labels"],
    "loss": lambda run: -run.arrays["log_probability"].astype(np.float32),
}
COMPARISONS: dict[str, Terms] = {
    "augmentation": {AUGMENTED: 1, PLAIN: -1},
    "batch normalization": {NORMALIZED: 1, PLAIN: -1},
    "both": {BOTH: 1, PLAIN: -1},
    "batch normalization, given augmentation": {BOTH: 1, AUGMENTED: -1},
    "augmentation, given batch normalization": {BOTH: 1, NORMALIZED: -1},
    "interaction": {BOTH: 1, AUGMENTED: -1, NORMALIZED: -1, PLAIN: 1},
    "augmentation, MLP": {MLP_AUGMENTED: 1, MLP: -1},
    "LeNet-5 against the MLP": {PLAIN: 1, MLP: -1},
}
MOVES = {  # how test images are moved, and by how much
    "shift": (1, 2, 3, 4),  # pixels; hardly any ink is moved out of the image
    "turn": (5, 10, 15, 20, 25),  # degrees; the augmentation turns by up to 20
}
AUGMENTATION = ("rotation", "translation", "min_crop", "augment_strength_min", "augment_strength_max")
# What all runs of a study share, as far as they have it.
SHARED = {*SETTINGS, *RECIPE, *AUGMENTATION, "train_sha256", "test_sha256"} - {"model", "augment", "seed"}


def read_study(folder: Path) -> Groups:
    """The runs of the seeds that all configurations have.

    Raises UserError if a run is not of the study, or not whole, or if there are not two seeds.
    """
    recipe: dict[str, tuple[object, str]] = {}  # the value of each field, and the file that has it
    found: dict[tuple[Configuration, int], Run] = {}
    for run in read_runs(folder):
        problem = ""
        for name in filter(SHARED.__contains__, run.history):
            expected, where = recipe.setdefault(name, (run.history[name], run.path.name))
            if run.history[name] != expected:
                problem = f"{name} is {run.history[name]!s:.40}, but {expected!s:.40} in {where}"
        if not run.arrays or len(run.history.get("clean_train_accuracy", [])) != run.history["epochs"]:
            problem = "has no NPZ file, or study.py did not train it from its first epoch to its last"
        if problem:
            raise UserError(f"{printable(run.path)}: {printable(problem)}\nmove away what is not of this study")
        found[configuration(run), run.history["seed"]] = run
    seeds = set.intersection(*({seed for key, seed in found if key == one} for one in CONFIGURATIONS))
    if len(seeds) < 2:
        problem = f"found {len(found)} runs, with {len(seeds)} seeds of all six configurations"
        raise UserError(f"{printable(folder)}: {problem}; expected two seeds or more: train them with python study.py")
    return {key: [found[key, seed] for seed in sorted(seeds)] for key in CONFIGURATIONS}


def stack(group: list[Run], name: str) -> np.ndarray:
    """A field of all runs: (seeds, epochs) of a list, (seeds,) of a number."""
    return np.array([run.history[name] for run in group], dtype=float)


def last(group: list[Run], metric: str) -> np.ndarray:
    """Test accuracy or loss after the last epoch: (seeds,)."""
    return stack(group, f"test_{metric}")[:, -1]


def combined(values: Mapping[Configuration, np.ndarray], terms: Terms) -> np.ndarray:
    """The sum of values over configurations, weighted by `terms`; of each seed, if they are of the seeds."""
    return np.sum([weight * values[key] for key, weight in terms.items()], axis=0)


class Difference(NamedTuple):
    """A comparison in one metric, with its intervals and p value."""

    name: str  # in COMPARISONS
    metric: str
    values: np.ndarray  # of each seed
    paired: Estimate
    resampled: np.ndarray  # the ends of the 95 % interval of new seeds and new test images
    holm: float  # p, adjusted for all comparisons, in accuracy and in loss


def differences(groups: Groups) -> list[Difference]:
    """All comparisons, in accuracy, then in loss."""
    found = []
    for metric, of_images in OF_IMAGES.items():
        every = np.array([[of_images(run) for run in group] for group in groups.values()], dtype=np.float32)
        resampled = dict(zip(groups, statistics.bootstrap_means(every).T, strict=True))
        measured = {key: last(group, metric) for key, group in groups.items()}
        for name, terms in COMPARISONS.items():
            interval = np.quantile(combined(resampled, terms), [ALPHA / 2, 1 - ALPHA / 2])
            values = combined(measured, terms)
            found.append(Difference(name, metric, values, statistics.mean_interval(values), interval, math.nan))
    adjusted = statistics.holm([one.paired.p for one in found])
    return [one._replace(holm=p) for one, p in zip(found, adjusted, strict=True)]


def decomposition(group: list[Run]) -> dict[str, np.ndarray]:
    """Test minus train accuracy, and the steps from one to the other: each (seeds, epochs). They add up.

    weights: from weights that change while they are measured, in training mode, to the averaged ones, on the same kind
    of images (all of them as they ran, against the first 10,000 in a fixed draw). augmentation: from augmented images
    to the same as they are. digits: from training digits to test digits.
    """
    train, clean, test = (stack(group, f"{name}_accuracy") for name in ("train", "clean_train", "test"))
    augmented = stack(group, "augmented_train_accuracy") if group[0].history["augment"] else clean
    return {
        "test - train": test - train,
        "weights": augmented - train,
        "augmentation": clean - augmented,
        "digits": test - clean,
    }


def layers(group: list[Run]) -> list[str]:
    """The layers whose gradients were measured, from the input on."""
    prefix = "initial_gradient_norm_"
    return [name.removeprefix(prefix) for name in group[0].history if name.startswith(prefix)]


def gradients(group: list[Run], scaled: bool = True) -> np.ndarray:
    """|g| * |W|, or |g| alone, above 0, before the first epoch and after each: (layers, seeds, 1 + epochs).

    Unlike |g| the product does not depend on the scale of weights behind which a normalization undoes that scale.
    """

    def norms(name: str) -> list[np.ndarray]:
        names = [f"{name}_norm_{layer}" for layer in layers(group)]
        return [np.column_stack([stack(group, f"initial_{one}"), stack(group, one)]) for one in names]

    values = np.multiply(norms("gradient"), norms("weight") if scaled else 1)
    return np.maximum(values, np.finfo(float).tiny)


def first_to_last(group: list[Run]) -> np.ndarray:
    """|g| of the first layer divided by that of the last: (seeds, 1 + epochs)."""
    found = gradients(group, scaled=False)
    return found[0] / found[-1]


def gradient_ratio(groups: Groups, scaled: bool = True) -> np.ndarray:
    """`gradients` with batch normalization divided by those without: (layers, seeds, 1 + epochs)."""
    return gradients(groups[NORMALIZED], scaled) / gradients(groups[PLAIN], scaled)
