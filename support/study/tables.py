"""The tables of the study as Markdown. What they mean is written by hand in result_plot/README.md."""

import numpy as np

from support.figures import figure_name
from support.study import results
from support.study.results import COMPARISONS, MLP_AUGMENTED, NORMALIZED, PLAIN, Difference, Groups, Run, Terms
from support.study.statistics import detectable, equivalence, holm, mean_interval

Row = dict[str, str]  # cells by their columns

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
MOVED = [f"{kind}{size}" for kind, sizes in results.MOVES.items() for size in sizes]
EARLY_AND_MOVED = ("epoch 1", "mean of all epochs", "last epoch", *MOVED)


def document(groups: Groups, found: list[Difference]) -> str:
    """All of them, as a document."""
    early = {key: early_and_moved(group) for key, group in groups.items()}
    last = groups[PLAIN][0].history["epochs"]
    made = {
        "Accuracy and loss": [network(key) | accuracy_and_loss(group) for key, group in groups.items()],
        "Differences in accuracy": accuracy_rows([one for one in found if one.metric == "accuracy"]),
        "Differences in loss": [difference_row(one, 1, 4) for one in found if one.metric == "loss"],
        "Early accuracy, moved digits": [
            network(key) | dict(zip(EARLY_AND_MOVED, map(mean_deviation, values), strict=True))
            for key, values in early.items()
        ],
        "Differences in early accuracy, on moved digits": [
            {"difference": name}
            | dict(zip(EARLY_AND_MOVED, map(with_interval, results.combined(early, terms)), strict=True))
            for name, terms in BESIDES.items()
        ],
        "Test above train": [network(key) | above_train(group) for key, group in groups.items()],
        "Test minus train": [row for key, group in groups.items() for row in gap_rows(figure_name(*key), group, last)],
        **gradient_rows(groups, (0, 1, (last + 1) // 2, last)),
    }
    opening = "# The tables of the study\n\nWritten by `python study.py --report` from the runs in `study/`.\n"
    return "\n".join([opening, *(table(heading, rows) for heading, rows in made.items())])


def table(heading: str, rows: list[Row]) -> str:
    lines = [list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)], *(row.values() for row in rows)]
    return "\n".join([f"## {heading}", "", CAPTIONS[heading], "", *(f"| {' | '.join(line)} |" for line in lines), ""])


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


def network(key: tuple[str, bool]) -> Row:
    return {"network": figure_name(*key)}


def accuracy_and_loss(group: list[Run]) -> Row:
    accuracy = 100 * results.last(group, "accuracy")
    return {
        "parameters": f"{group[0].history['parameters']:,}",
        "seeds": f"{len(group)}",
        "accuracy, %": mean_deviation(accuracy),
        "error, %": f"{100 - accuracy.mean():.2f}",
        "loss": mean_deviation(results.last(group, "loss"), 4),
    }


def early_and_moved(group: list[Run]) -> np.ndarray:
    """Test accuracy, %: (columns, seeds)."""
    accuracy = results.stack(group, "test_accuracy").T
    moved = [results.stack(group, f"accuracy_{move}") for move in MOVED]
    return 100 * np.array([accuracy[0], accuracy.mean(0), accuracy[-1], *moved])


def above_train(group: list[Run]) -> Row:
    parts = results.decomposition(group)
    above = {"as it runs": parts["test - train"] > 0, "same weights": parts["digits"] > 0}
    above |= {f"last, {kind}": which[:, -1] for kind, which in above.items()}
    above["train loss falls"] = np.diff(results.stack(group, "train_loss").mean(0)) < 0
    return {column: f"{which.sum()} of {which.size}" for column, which in above.items()}


def difference_row(one: Difference, factor: int, digits: int) -> Row:
    low, high = (rounded(factor * end, digits - (factor > 1)) for end in one.resampled)  # a third decimal is noise
    paired = with_interval(factor * one.values, digits)
    row = {"difference": one.name, "paired by seed": paired}
    return row | {"test images resampled": f"[{low}, {high}]", "Holm p": p_value(one.holm)}


def accuracy_rows(found: list[Difference]) -> list[Row]:
    alone = [equivalence(one.values, results.MARGIN) for one in found]
    rows = [difference_row(one, 100, 3) for one in found]
    for row, one, p, adjusted in zip(rows, found, alone, holm(alone), strict=True):
        row["detectable"] = f"{100 * detectable(one.values):.3f}"
        row["equivalence p"], row["equivalence, Holm p"] = p_value(p), p_value(adjusted)
    return rows


def gap_rows(name: str, group: list[Run], last: int) -> list[Row]:
    rows = []
    for when, epochs in {"1": slice(1), f"{last}": slice(-1, None), "mean": slice(None)}.items():
        means = {part: 100 * values[:, epochs].mean(1) for part, values in results.decomposition(group).items()}
        rows.append({"network, epoch": f"{name}, {when}"} | {part: with_interval(mean) for part, mean in means.items()})
    return rows


def gradient_rows(groups: Groups, epochs: tuple[int, ...]) -> dict[str, list[Row]]:
    """Of both tables of gradients."""
    ratios = {"‖g‖": results.gradient_ratio(groups, scaled=False), "‖g‖·‖W‖": results.gradient_ratio(groups)}
    ends = {figure_name(*key): results.first_to_last(groups[key]) for key in (PLAIN, NORMALIZED)}
    compared, first_to_last = [], []
    for epoch in epochs:
        for index, layer in enumerate(results.layers(groups[PLAIN])):
            cells = {name: geometric(values[index, :, epoch]) for name, values in ratios.items()}
            compared.append({"layer, epoch": f"{layer.upper()}, {epoch}", **cells})
        cells = {name: geometric(values[:, epoch]) for name, values in ends.items()}
        first_to_last.append({"epoch": f"{epoch}", **cells})
    return {"Gradients with batch normalization": compared, "First to last layer": first_to_last}
