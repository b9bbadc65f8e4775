"""The numbers of the study, for its tables and its figures. Knows nothing of Markdown or matplotlib.

What is compared, by which test and within which margin was fixed before the runs of this study were looked at.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.figures import configuration, group_by, in_order
from support.run import Run, read_runs
from support.study import statistics
from support.study.statistics import ALPHA, Estimate
from support.terminal import UserError, printable

Configuration = tuple[str, bool]  # model, augmentation
Groups = dict[Configuration, list[Run]]  # the runs of each: of the same seeds, in their order
Terms = dict[Configuration, int]  # the weights of a sum over configurations
Values = Callable[[list[Run]], np.ndarray]  # a number of each run

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
MOVES = [*(f"shift{pixels}" for pixels in (1, 2, 3, 4)), *(f"turn{degrees}" for degrees in (5, 10, 15, 20, 25))]
# In what the runs of a study may differ: what they are, what they gave, and what says nothing of how they were trained.
FREE = ("name", "model", "augment", "seed", "parameters", "network_sha256", "device", "digest")


def read_study(folder: Path) -> Groups:
    """The runs of the seeds that all configurations have.

    Raises UserError if a run is not of the study, or not whole, or if there are not two seeds.
    """
    runs = in_order(read_runs(folder))
    seen: dict[tuple[str, bool, int], Run] = {}
    recipe: dict[str, tuple[object, str]] = {}  # the value of each field, and the file that has it
    for run in runs:
        problem = None
        for name, value in run.history.items():
            expected, where = recipe.setdefault(name, (value, run.path.name)) if is_recipe(name, value) else (value, "")
            if value != expected:
                problem = f"{name} is {value!s:.40}, but {expected!s:.40} in {where}"
        if not run.arrays or len(run.history.get("clean_train_accuracy", [])) != run.history["epochs"]:
            problem = "has no NPZ file, or study.py did not train it from its first epoch to its last"
        elif seen.setdefault((*configuration(run), run.history["seed"]), run) is not run:
            problem = "its configuration and seed are there twice"
        if problem:
            raise UserError(f"{printable(run.path)}: {printable(problem)}\nmove away what is not of this study")
    groups = group_by(runs, configuration)
    seeds = set.intersection(*({run.history["seed"] for run in groups.get(key, [])} for key in CONFIGURATIONS))
    if len(seeds) < 2:
        found = f"found {len(runs)} runs, with {len(seeds)} seeds of all six configurations"
        raise UserError(f"{printable(folder)}: {found}; expected two seeds or more: train them with python study.py")
    return {key: [run for run in groups[key] if run.history["seed"] in seeds] for key in CONFIGURATIONS}


def is_recipe(name: str, value: object) -> bool:
    """Whether a field of a history says how the run was trained."""
    measured = isinstance(value, list) or name.startswith(("initial_", "accuracy_"))
    return not (measured or name in FREE or name.endswith("_version"))


def stack(group: list[Run], name: str) -> np.ndarray:
    """A field of all runs: (seeds, epochs) of a list, (seeds,) of a number."""
    return np.array([run.history[name] for run in group], dtype=float)


def last(group: list[Run], metric: str) -> np.ndarray:
    """Test accuracy or loss after the last epoch: (seeds,)."""
    return stack(group, f"test_{metric}")[:, -1]


def paired(groups: Groups, terms: Terms, values: Values) -> np.ndarray:
    """The sum of `values` over configurations, weighted by `terms`, for each seed: (seeds,)."""
    return np.sum([weight * values(groups[key]) for key, weight in terms.items()], axis=0)


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
        resamples = statistics.bootstrap_means([np.stack([*map(of_images, group)]) for group in groups.values()])
        means = dict(zip(groups, resamples.T, strict=True))
        for name, terms in COMPARISONS.items():
            values = paired(groups, terms, partial(last, metric=metric))
            resampled = np.sum([weight * means[key] for key, weight in terms.items()], axis=0)
            interval = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2])
            found.append(Difference(name, metric, values, statistics.mean_interval(values), interval, math.nan))
    adjusted = statistics.holm([one.paired.p for one in found])
    return [one._replace(holm=p) for one, p in zip(found, adjusted, strict=True)]


def moved(group: list[Run], move: str) -> np.ndarray:
    """Accuracy on test images that were moved; `move` as in MOVES, or "" for images as they are: (seeds,)."""
    return stack(group, f"accuracy_{move}") if move else last(group, "accuracy")


def decomposition(group: list[Run]) -> dict[str, np.ndarray]:
    """Test minus train accuracy, and the steps from one to the other: each (seeds, epochs). They add up.

    weights: from weights that change while they are measured, in training mode, to the averaged ones, on the same kind
    of images (all of them as they ran, against the first 10,000 in a fixed draw). augmentation: from augmented images
    to the same as they are. digits: from training digits to test digits.
    """
    train, clean, test = (stack(group, f"{name}_accuracy") for name in ("train", "clean_train", "test"))
    augmented = stack(group, "augmented_train_accuracy") if group[0].history["augment"] else clean
    return {
        "gap": test - train,
        "weights": augmented - train,
        "augmentation": clean - augmented,
        "digits": test - clean,
    }


def layers(group: list[Run]) -> list[str]:
    """The layers whose gradients were measured, from the input on."""
    prefix = "initial_gradient_norm_"
    return [name.removeprefix(prefix) for name in group[0].history if name.startswith(prefix)]


def gradients(group: list[Run], layer: str, scaled: bool = True) -> np.ndarray:
    """|g| * |W| of a layer, or |g| alone, before the first epoch and after each: (seeds, 1 + epochs), above 0.

    Unlike |g| the product does not depend on the scale of weights behind which a normalization undoes that scale.
    """
    norms = ["gradient_norm", "weight_norm"] if scaled else ["gradient_norm"]
    values = [np.column_stack([stack(group, f"initial_{n}_{layer}"), stack(group, f"{n}_{layer}")]) for n in norms]
    return np.maximum(np.prod(values, axis=0), np.finfo(float).tiny)


def first_to_last(group: list[Run]) -> np.ndarray:
    """|g| of the first layer divided by that of the last: (seeds, 1 + epochs)."""
    first, *_, final = layers(group)
    return gradients(group, first, scaled=False) / gradients(group, final, scaled=False)


def gradient_ratio(groups: Groups, layer: str, scaled: bool = True) -> np.ndarray:
    """`gradients` with batch normalization divided by those without: (seeds, 1 + epochs)."""
    return gradients(groups[NORMALIZED], layer, scaled) / gradients(groups[PLAIN], layer, scaled)
