"""The numbers of the study, computed once for tables, sentences and figures. Knows nothing of Markdown or matplotlib.

What is compared, by which test and with which margin was fixed before the runs of this study were looked at.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.figures.groups import configuration, group_by, in_order
from support.run.history import Run, epochs_done, read_runs, shorten
from support.study import statistics
from support.study.statistics import Estimate
from support.terminal import UserError, printable

Configuration = tuple[str, bool]
Groups = dict[Configuration, list[Run]]

PLAIN, AUGMENTED, NORMALIZED, BOTH = ("lenet", False), ("lenet", True), ("lenet_bn", False), ("lenet_bn", True)
MLP, MLP_AUGMENTED = ("mlp", False), ("mlp", True)
MARGIN = 0.0005  # of accuracy, 0.05 points: 5 of 10,000 test images; less of a difference is taken for none
METRICS = ("accuracy", "loss")  # on the test set, after the last epoch
THRESHOLDS = (0.990, 0.994)  # of the test accuracy, for the speed of learning
GRADIENT, WEIGHT = "gradient_norm_", "weight_norm_"  # in front of a layer's name
MOVES = [*(f"shift{n}" for n in (1, 2, 3, 4)), *(f"turn{n}" for n in (5, 10, 15, 20, 25))]
# In what the runs of a study may differ: what they are, what they gave, and what says nothing of how they were trained.
FREE = ("name", "model", "augment", "seed", "parameters", "device", "digest")
AUGMENTATION = ("rotation", "translation", "min_crop", "augment_strength_min", "augment_strength_max")


class Comparison(NamedTuple):
    """A sum of configurations with weights, of which a sentence speaks."""

    name: str  # in tables and figures
    what: str  # in sentences
    terms: dict[Configuration, int]


COMPARISONS = (
    Comparison("augment - plain", "augmentation alone", {AUGMENTED: 1, PLAIN: -1}),
    Comparison("bn - plain", "batch normalization alone", {NORMALIZED: 1, PLAIN: -1}),
    Comparison("both - plain", "both together", {BOTH: 1, PLAIN: -1}),
    Comparison("both - augment", "batch normalization on top of augmentation", {BOTH: 1, AUGMENTED: -1}),
    Comparison("both - bn", "augmentation on top of batch normalization", {BOTH: 1, NORMALIZED: -1}),
    Comparison("interaction", "their interaction", {BOTH: 1, AUGMENTED: -1, NORMALIZED: -1, PLAIN: 1}),
    Comparison("mlp augment - mlp", "augmentation of the MLP", {MLP_AUGMENTED: 1, MLP: -1}),
    Comparison("lenet - mlp", "LeNet-5 in place of the MLP", {PLAIN: 1, MLP: -1}),
)


class Difference(NamedTuple):
    """What was measured of a comparison. `holm` and `equivalence` are p values, adjusted for their families."""

    comparison: Comparison
    metric: str
    seeds: int
    paired: Estimate
    welch: Estimate
    images: tuple[float, float] | None  # interval of the bootstrap over images and seeds, if there are arrays
    holm: float
    equivalence: float | None  # of an accuracy


# --- the runs ---------------------------------------------------------------------------------------------------------


def read_study(folder: Path) -> Groups:
    """The runs of each configuration, in order of their seeds. Raises UserError if they are not of one study."""
    runs = in_order(read_runs(folder))
    if not runs:
        raise UserError(f"{printable(folder)}: holds no NAME.json of a run: train them first, with python study.py")
    first = runs[0]
    for run in runs:
        if epochs_done(run.history) < run.history["epochs"]:
            raise UserError(f"{printable(run.path)}: ended early, after epoch {epochs_done(run.history)}: move it away")
        same_kind = next(one for one in runs if one.history["augment"] == run.history["augment"])
        pairs = [(first, name) for name, value in first.history.items() if is_recipe(name, value)]
        for other, name in [*pairs, *((same_kind, name) for name in AUGMENTATION)]:
            here, there = run.history.get(name), other.history.get(name)
            if here != there:
                raise UserError(
                    f"{printable(run.path)}: {name} is {shorten(str(here))}, but {shorten(str(there))} in "
                    f"{printable(other.path.name)}; a study has one recipe and one test set: move the others away"
                )
    groups = group_by(runs, configuration)
    for group in groups.values():
        seeds = [run.history["seed"] for run in group]
        if len(set(seeds)) < len(seeds):
            twice = next(run for run in group if seeds.count(run.history["seed"]) > 1)
            raise UserError(f"{printable(twice.path)}: its seed is there twice, in another file: move one away")
    return groups


def is_recipe(name: str, value: object) -> bool:
    """Whether a field of a history says how the run was trained."""
    measured = isinstance(value, list) or name.startswith(("initial_", "accuracy_"))
    return not (measured or name in (*FREE, *AUGMENTATION) or name.endswith("_version"))


def stack(group: Iterable[Run], name: str) -> np.ndarray:
    """That list or number of each run: (seeds, epochs) or (seeds,)."""
    return np.array([run.history[name] for run in group], dtype=float)


def last(group: Iterable[Run], metric: str) -> np.ndarray:
    """Test accuracy or loss after the last epoch: (seeds,)."""
    return stack(group, f"test_{metric}")[:, -1]


def have(groups: Groups, *names: str) -> Groups:
    """The configurations in which every run has measured all of these."""
    return {key: group for key, group in groups.items() if all(name in run.history for run in group for name in names)}


def shared_seeds(groups: Groups, keys: Iterable[Configuration]) -> Groups:
    """Of these configurations the runs whose seed all of them have; nothing if that are fewer than two."""
    keys = list(keys)
    if not all(key in groups for key in keys):
        return {}
    seeds = set.intersection(*({run.history["seed"] for run in groups[key]} for key in keys))
    found = {key: [run for run in groups[key] if run.history["seed"] in seeds] for key in keys}
    return found if len(seeds) > 1 else {}


# --- differences ------------------------------------------------------------------------------------------------------


def differences(groups: Groups) -> list[Difference]:
    """All comparisons that two seeds or more allow, in accuracy, then in loss."""
    images = {metric: resampled_means(groups, metric) for metric in METRICS}
    found = []
    for metric in METRICS:
        for comparison in COMPARISONS:
            pairs = shared_seeds(groups, comparison.terms)
            if not pairs:
                continue
            weights = list(comparison.terms.values())
            values = [last(group, metric) for group in pairs.values()]
            by_seed = np.dot(weights, values)
            welch = statistics.contrast([last(groups[key], metric) for key in comparison.terms], weights)
            interval = None
            if all(key in images[metric] for key in comparison.terms):
                resampled = sum(weight * images[metric][key] for key, weight in comparison.terms.items())
                interval = statistics.percentile_interval(np.asarray(resampled))
            equal = statistics.equivalence(by_seed, 0 * by_seed, MARGIN) if metric == "accuracy" else None
            mean = statistics.mean_interval(by_seed)
            found.append(Difference(comparison, metric, len(by_seed), mean, welch, interval, mean.p, equal))
    adjusted = statistics.holm([one.holm for one in found])
    within = iter(statistics.holm([one.equivalence for one in found if one.equivalence is not None]))
    return [
        one._replace(holm=p, equivalence=None if one.equivalence is None else next(within))
        for one, p in zip(found, adjusted, strict=True)
    ]


def resampled_means(groups: Groups, metric: str) -> dict[Configuration, np.ndarray]:
    """Of each configuration whose runs all have their arrays, the means of the bootstrap over images and seeds."""
    whole = {key: group for key, group in groups.items() if all("log_probability" in run.arrays for run in group)}
    if not whole:
        return {}
    figures = [right(group) if metric == "accuracy" else losses(group) for group in whole.values()]
    return dict(zip(whole, statistics.bootstrap_means(figures).T, strict=True))


def right(group: list[Run]) -> np.ndarray:
    """Whether each test image was read right: bool (seeds, images)."""
    return np.stack([run.arrays["predictions"] == run.arrays["labels"] for run in group])


def losses(group: list[Run]) -> np.ndarray:
    """The loss of each test image: float32 (seeds, images)."""
    return np.stack([-run.arrays["log_probability"].astype(np.float32) for run in group])


def confusions(group: list[Run]) -> np.ndarray:
    """Wrong test images of each label (rows) and prediction (columns): float (classes, classes), mean over seeds."""
    counts = np.zeros((group[0].history["classes"],) * 2)
    for run in group:
        np.add.at(counts, (run.arrays["labels"], run.arrays["predictions"]), 1 / len(group))
    return counts - np.diag(np.diag(counts))


class Pairs(NamedTuple):
    """McNemar's test of a comparison, for the pairs of networks with the same seed."""

    comparison: Comparison
    seeds: int
    only_first: float  # images that only the first network reads right, median over the pairs
    only_second: float
    shown: int  # pairs with a p below 5 %
    detectable: float  # difference in points that the median pair would show with a power of 80 %
    pooled: float  # p of sign flips by image over all seeds


def mcnemar_tests(groups: Groups) -> list[Pairs]:
    found = []
    for comparison in COMPARISONS:
        pairs = shared_seeds(groups, comparison.terms)
        if len(comparison.terms) != 2 or not pairs or not all(run.arrays for group in pairs.values() for run in group):
            continue
        first, second = (right(group) for group in pairs.values())
        counts = np.array([statistics.discordant(a, b) for a, b in zip(first, second, strict=True)])
        shown = sum(statistics.mcnemar(*map(int, both)) < 0.05 for both in counts)
        least = 100 * statistics.detectable(round(np.median(counts.sum(1)))) / first.shape[1]
        pooled = statistics.sign_flips(first, second)
        only_first, only_second = np.median(counts, 0)
        found.append(Pairs(comparison, len(counts), only_first, only_second, shown, least, pooled))
    return found


# --- speed ------------------------------------------------------------------------------------------------------------


def epochs_to(group: list[Run], accuracy: float) -> np.ndarray:
    """The first epoch with at least that test accuracy, of each run; infinite where there is none."""
    reached = stack(group, "test_accuracy") >= accuracy
    return np.where(reached.any(1), reached.argmax(1) + 1.0, np.inf)


Values = Callable[[list[Run]], np.ndarray]


def paired(groups: Groups, first: Configuration, second: Configuration, values: Values) -> Estimate | None:
    """Mean difference of `values(group)`, one a seed, if both share two seeds and all values are finite."""
    pairs = shared_seeds(groups, (first, second))
    if not pairs:
        return None
    a, b = values(pairs[first]), values(pairs[second])
    return statistics.paired_difference(a, b) if np.isfinite([a, b]).all() else None


# --- the two observations ---------------------------------------------------------------------------------------------


def above_train(group: list[Run]) -> np.ndarray:
    """Whether the test accuracy is above the train accuracy as the epoch ran: bool (seeds, epochs)."""
    return stack(group, "test_accuracy") > stack(group, "train_accuracy")


def decomposition(group: list[Run]) -> dict[str, np.ndarray]:
    """Test less train accuracy, and the steps from one to the other: each (seeds, epochs). They add up.

    weights: from the weights as they change, in training mode, to the averaged ones, on the same kind of images (all of
    them as they ran, against the first 10,000 in a fixed draw). images: from augmented images to the same as they are.
    digits: from training digits to test digits.
    """
    train, clean, test = (stack(group, f"{name}_accuracy") for name in ("train", "clean_train", "test"))
    augmented = stack(group, "augmented_train_accuracy") if group[0].history["augment"] else clean
    return {"total": test - train, "weights": augmented - train, "images": clean - augmented, "digits": test - clean}


def decomposed(groups: Groups) -> Groups:
    """The configurations for which `decomposition` has what it needs."""
    plain = have({key: group for key, group in groups.items() if not key[1]}, "clean_train_accuracy")
    names = ("clean_train_accuracy", "augmented_train_accuracy")
    augmented = have({key: group for key, group in groups.items() if key[1]}, *names)
    return {key: group for key, group in groups.items() if key in plain or key in augmented}


def layers_of(run: Run) -> list[str]:
    """The layers whose gradients were measured before the first epoch and after each."""
    names = [name.removeprefix(GRADIENT) for name in run.history if name.startswith(GRADIENT)]
    needed = ("initial_" + GRADIENT, WEIGHT, "initial_" + WEIGHT)
    return [name for name in names if all(kind + name in run.history for kind in needed)]


def shared_layers(groups: Groups) -> list[str]:
    """The layers measured in every run of LeNet-5 with and without batch normalization; none if one has no two runs."""
    pair = [groups.get(PLAIN, []), groups.get(NORMALIZED, [])]
    if min(map(len, pair)) < 2:
        return []
    runs = [run for group in pair for run in group]
    return [layer for layer in layers_of(runs[0]) if all(layer in layers_of(run) for run in runs)]


def norms(group: list[Run], kind: str, layer: str) -> np.ndarray:
    """Norms of a layer before the first epoch and after each: (seeds, 1 + epochs)."""
    return np.column_stack([stack(group, f"initial_{kind}{layer}"), stack(group, kind + layer)])


def scaled_gradients(group: list[Run], layer: str) -> np.ndarray:
    """|g| * |W|: it does not change where the weights are scaled and the function stays the same."""
    return norms(group, GRADIENT, layer) * norms(group, WEIGHT, layer)


def ratio(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Geometric mean of `a` over that of `b`, values above 0, with Welch's interval of their logarithms."""
    tiny = np.finfo(float).tiny
    found = statistics.welch_difference(np.log(np.maximum(a, tiny)), np.log(np.maximum(b, tiny)))
    return Estimate(math.exp(found.value), math.exp(found.low), math.exp(found.high), found.p)


# --- moved digits -----------------------------------------------------------------------------------------------------


def moved(group: list[Run], move: str) -> np.ndarray:
    """Accuracy on test images that were moved; `move` as in MOVES, or "" for images as they are: (seeds,)."""
    return stack(group, f"accuracy_{move}") if move else last(group, "accuracy")


def measured_moved(groups: Groups) -> Groups:
    return have(groups, *(f"accuracy_{move}" for move in MOVES))
