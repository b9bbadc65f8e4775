"""The tables of the study as Markdown. What they mean is written by hand in result_plot/README.md."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from support.figures import figure_name
from support.study import results
from support.study.results import COMPARISONS, MLP_AUGMENTED, NORMALIZED, PLAIN, Difference, Groups, Run, Terms, Values
from support.study.statistics import detectable, equivalence, holm, mean_interval

Rows = list[list[str]]  # the header first
Cells = Mapping[str, Callable[[list[Run]], str | np.ndarray]]  # by the names of their columns

CAPTIONS = {
    "Accuracy and loss": "Of the test set, after the last epoch: mean ± standard deviation over the seeds.",
    "Differences in accuracy": "In points, paired by seed: 95 % CI; 95 % CI with test images resampled, too; Holm p; "
    "minimum detectable difference; p of equivalence within ±0.05 points, alone and Holm-adjusted.",
    "Differences in loss": "The same in nats.",
    "Early accuracy, moved digits": "Test accuracy, %; of digits shifted by pixels (mean of four ways) or turned by "
    "degrees (mean of both ways) after the last epoch.",
    "Differences in early accuracy, on moved digits": "In points, paired by seed: 95 % CI, not adjusted.",
    "Test above train": "Epochs, of all runs, with test accuracy above train accuracy as the epoch runs, and above "
    "that of the same weights on clean training images; the same of last epochs; steps in which train loss falls.",
    "Test minus train": "Accuracy in points, 95 % CI, and the steps that add up to it: from weights that change to "
    "averaged ones, from augmented to clean training images, from training to test digits.",
    "Gradients with batch normalization": "As multiples of those without: geometric mean, 95 % CI, not adjusted.",
    "First to last layer": "‖g‖ of the first layer divided by that of the last: geometric mean, 95 % CI.",
}
BESIDES: dict[str, Terms] = {**COMPARISONS, "MLP with augmentation against LeNet-5": {MLP_AUGMENTED: 1, PLAIN: -1}}


def document(groups: Groups, found: list[Difference]) -> str:
    """All of them, as a document."""
    accuracy: Cells = {
        "parameters": lambda group: f"{group[0].history['parameters']:,}",
        "seeds": lambda group: f"{len(group)}",
        "accuracy, %": percentage,
        "error, %": lambda group: f"{100 - percentage(group).mean():.2f}",
        "loss": lambda group: mean_deviation(results.last(group, "loss"), 4),
    }
    above_train: Cells = {
        "as it runs": lambda group: share(results.decomposition(group)["gap"] > 0),
        "same weights": lambda group: share(results.decomposition(group)["digits"] > 0),
        "last, as it runs": lambda group: share(results.decomposition(group)["gap"][:, -1] > 0),
        "last, same weights": lambda group: share(results.decomposition(group)["digits"][:, -1] > 0),
        "train loss falls": lambda group: share(np.diff(results.stack(group, "train_loss").mean(0)) < 0),
    }
    others: dict[str, Values] = {
        "epoch 1": lambda group: 100 * results.stack(group, "test_accuracy")[:, 0],
        "mean of all epochs": lambda group: 100 * results.stack(group, "test_accuracy").mean(1),
        **{move or "last epoch": partial(percentage, move=move) for move in ("", *results.MOVES)},
    }
    made = {
        "Accuracy and loss": by_network(groups, accuracy),
        "Differences in accuracy": accuracy_rows([one for one in found if one.metric == "accuracy"]),
        "Differences in loss": [DIFFERENCE, *(difference_row(one, 1, 4) for one in found if one.metric == "loss")],
        "Early accuracy, moved digits": by_network(groups, others),
        "Differences in early accuracy, on moved digits": by_difference(groups, others),
        "Test above train": by_network(groups, above_train),
        "Test minus train": gap_rows(groups),
        **gradient_rows(groups),
    }
    opening = "# The tables of the study\n\nWritten by `python study.py --report` from the runs in `study/`.\n"
    return "\n".join([opening, *(table(heading, rows) for heading, rows in made.items())])


def table(heading: str, rows: Rows) -> str:
    lines = [f"| {' | '.join(row)} |" for row in [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]]
    return "\n".join([f"## {heading}", "", CAPTIONS[heading], "", *lines, ""])


def rounded(value: float, digits: int, sign: str = "+", neutral: float = 0) -> str:
    """A number with so many digits, or more where they would hide on which side of `neutral` it lies."""
    while abs(value - neutral) > 1e-9 and float(f"{value:.{digits}f}") == neutral:
        digits += 1
    return f"{value:{sign}z.{digits}f}"


def with_interval(values: np.ndarray, digits: int = 2) -> str:
    """Mean [low, high] of values of each seed."""
    mean, low, high = (rounded(number, digits) for number in mean_interval(values)[:3])
    return f"{mean} [{low}, {high}]"


def geometric(ratios: np.ndarray) -> str:
    """Geometric mean [low, high] of ratios of each seed."""
    ends = np.exp(mean_interval(np.log(ratios))[:3])
    mean, low, high = (rounded(number, 2, sign="-", neutral=1) for number in ends)
    return f"{mean} [{low}, {high}]"


def p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def mean_deviation(values: np.ndarray, digits: int = 2) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def percentage(group: list[Run], move: str = "") -> np.ndarray:
    return 100 * results.moved(group, move)


def share(which: np.ndarray) -> str:
    return f"{which.sum()} of {which.size}"


DIFFERENCE = ["difference", "paired by seed", "test images resampled", "Holm p"]


def by_network(groups: Groups, cells: Cells) -> Rows:
    """What `cells` make of each configuration; of a number for each seed, mean and deviation."""
    rows = [["network", *cells]]
    for key, group in groups.items():
        made = [cell(group) for cell in cells.values()]
        rows.append([figure_name(*key), *(one if isinstance(one, str) else mean_deviation(one) for one in made)])
    return rows


def by_difference(groups: Groups, columns: Mapping[str, Values]) -> Rows:
    rows = [
        [name, *(with_interval(results.paired(groups, terms, values)) for values in columns.values())]
        for name, terms in BESIDES.items()
    ]
    return [["difference", *columns], *rows]


def difference_row(one: Difference, factor: int, digits: int) -> list[str]:
    low, high = (rounded(factor * end, digits - (factor > 1)) for end in one.resampled)  # a third decimal is noise
    return [one.name, with_interval(factor * one.values, digits), f"[{low}, {high}]", p_value(one.holm)]


def accuracy_rows(found: list[Difference]) -> Rows:
    alone = [equivalence(one.values, results.MARGIN) for one in found]
    rows = [
        [*difference_row(one, 100, 3), f"{100 * detectable(one.values):.3f}", p_value(p), p_value(adjusted)]
        for one, p, adjusted in zip(found, alone, holm(alone), strict=True)
    ]
    return [[*DIFFERENCE, "detectable", "equivalence p", "equivalence, Holm p"], *rows]


def gap_rows(groups: Groups) -> Rows:
    rows = [["network, epoch", "test - train", "weights", "augmentation", "digits"]]
    epochs = groups[PLAIN][0].history["epochs"]
    for key, group in groups.items():
        for when, some in (("1", slice(1)), (f"{epochs}", slice(-1, None)), ("mean", slice(None))):
            means = (100 * values[:, some].mean(1) for values in results.decomposition(group).values())
            rows.append([f"{figure_name(*key)}, {when}", *map(with_interval, means)])
    return rows


def gradient_rows(groups: Groups) -> dict[str, Rows]:
    """Of both tables of gradients."""
    pair, epochs = (groups[PLAIN], groups[NORMALIZED]), groups[PLAIN][0].history["epochs"]
    compared: Rows = [["layer, epoch", "‖g‖", "‖g‖·‖W‖"]]
    first_to_last: Rows = [["epoch", figure_name(*PLAIN), figure_name(*NORMALIZED)]]
    for epoch in (0, 1, (epochs + 1) // 2, epochs):
        for layer in results.layers(pair[0]):
            ratios = (results.gradient_ratio(groups, layer, scaled)[:, epoch] for scaled in (False, True))
            compared.append([f"{layer.upper()}, {epoch}", *map(geometric, ratios)])
        first_to_last.append([f"{epoch}", *(geometric(results.first_to_last(group)[:, epoch]) for group in pair)])
    return {"Gradients with batch normalization": compared, "First to last layer": first_to_last}
