"""The figures of the study. Titles say what the intervals carry, and name no winner within the noise."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from support.figures import axes as look
from support.figures.axes import Curve, percent, set_title, styled
from support.study import results
from support.study.results import AUGMENTED, BOTH, MARGIN, MLP, NORMALIZED, PLAIN, Configuration, Difference, Groups
from support.study.statistics import mean_interval

ALPHA = 0.05
PAIR = (PLAIN, NORMALIZED)
GAP = 0.11  # between dots that would overprint, in widths of a configuration
SHOWN, OPEN = "#0072b2", "#7f7f7f"  # a difference that is shown, and one that is not
MARGIN_COLOR = "#f0e6c8"


def figures(groups: Groups, found: list[Difference]) -> dict[str, Callable[[], Figure]]:
    """What draws each figure that these runs allow, by the name of its file."""
    drawings: dict[str, Callable[[], Figure]] = {"study": partial(draw_study, groups)}
    if found:
        drawings["differences"] = partial(draw_differences, found)
    if decomposed := results.decomposed(groups):
        drawings["train_test"] = partial(draw_train_test, decomposed)
    if results.shared_layers(groups):
        drawings["gradients"] = partial(draw_gradients, groups)
    if moved := results.measured_moved(groups):
        drawings["moved"] = partial(draw_moved, moved)
    return drawings


def seeds_of(groups: Groups) -> str:
    counts = sorted({len(group) for group in groups.values()})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{number} seed{'s' * (counts[-1] > 1)}"


def figure_name(key: Configuration) -> str:
    return look.figure_name(*key)


# --- each seed --------------------------------------------------------------------------------------------------------


@styled
def draw_study(groups: Groups) -> Figure:
    """The last epoch of each seed as a dot, with the mean and its 95 % interval beside; LeNet-5 on a scale of its own.

    Lines join the plain and the augmented run of one network and seed.
    """
    families = {
        "LeNet-5": [key for key in groups if key[0] != "mlp"],
        "MLP": [key for key in groups if key[0] == "mlp"],
    }
    families = {name: keys for name, keys in families.items() if keys}
    widths = [len(keys) for keys in families.values()]
    figure = Figure((1.7 * sum(widths) + 2.2, 2 * look.PANEL[1]))
    panels = figure.subplots(2, len(families), squeeze=False, width_ratios=widths)
    for row, metric in zip(panels, results.METRICS, strict=True):
        for axes, keys in zip(row, families.values(), strict=True):
            draw_seeds(axes, {key: groups[key] for key in keys}, metric)
        row[0].set_title(f"Test {metric} after the last epoch: each seed, and the mean with its 95 % interval")
    spans = [span_of(groups, keys) for keys in families.values()]
    set_title(figure, f"Over {seeds_of(groups)} the mean accuracy is {' and '.join(spans)}")
    return figure


def span_of(groups: Groups, keys: list[Configuration]) -> str:
    means = [results.last(groups[key], "accuracy").mean() for key in keys]
    low, high = percent(min(means)), percent(max(means))
    return f"{low} ({figure_name(keys[0])})" if len(keys) == 1 else f"{low} to {high} ({family_name(keys)})"


def family_name(keys: list[Configuration]) -> str:
    return "the MLPs" if keys[0][0] == "mlp" else "the LeNet-5s"


def draw_seeds(axes: Axes, groups: Groups, metric: str) -> None:
    """A column a configuration; lines join the plain and the augmented run of one network and seed."""
    factor = 100 if metric == "accuracy" else 1
    places: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for column, (key, group) in enumerate(groups.items()):
        values = factor * results.last(group, metric)
        every = factor * np.concatenate([results.last(one, metric) for one in groups.values()])
        offsets = spread_dots(values, 0.03 * max(np.ptp(every), 1e-9))
        for run, value, offset in zip(group, values, offsets, strict=True):
            places.setdefault((key[0], run.history["seed"]), []).append((column - 0.15 + offset, value))
        style = look.line_style(*key)
        color, face = style["color"], "white" if key[1] else style["color"]  # hollow where lines are dashed
        axes.plot(column - 0.15 + offsets, values, style["marker"], color=color, markerfacecolor=face, zorder=3)
        draw_mean(axes, column + 0.27, values, metric, color)
    for line in places.values():
        axes.plot(*np.transpose(line), color=look.PALE, linewidth=0.5, zorder=1)
    axes.set_ylabel("accuracy (%)" if metric == "accuracy" else "loss (nats)")
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.set_xticks(range(len(groups)), [figure_name(key).replace(" + ", "\n+ ") for key in groups])
    axes.set_xlim(-0.6, len(groups) - 0.3)
    axes.grid(False, axis="x")


def draw_mean(axes: Axes, place: float, values: np.ndarray, metric: str, color: str) -> None:
    mean = values.mean()
    half = mean_interval(values).high - mean if len(values) > 1 else 0
    axes.errorbar(place, mean, half, fmt="_", color=color, capsize=3, markersize=8)
    words = f"{mean:.2f} %" if metric == "accuracy" else f"{mean:.4f}"
    above: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": look.SMALL}
    axes.annotate(words, (place, mean + half), (0, 4), **above)


def spread_dots(values: np.ndarray, close: float) -> np.ndarray:
    """Sideways offsets that keep dots apart whose values are closer than that: the free place nearest to the middle."""
    steps = [0.0, *(side * GAP * step for step in range(1, len(values)) for side in (1, -1))]
    offsets: dict[int, float] = {}
    for place in np.argsort(values, kind="stable"):
        taken = [offset for other, offset in offsets.items() if abs(values[other] - values[place]) < close]
        offsets[int(place)] = next(step for step in steps if step not in taken)
    return np.array([offsets[place] for place in range(len(values))])


# --- differences ------------------------------------------------------------------------------------------------------


@styled
def draw_differences(found: list[Difference]) -> Figure:
    """A forest plot: of each difference the interval of new seeds, and that of new seeds and new digits."""
    rows = [one for one in found if one.metric == "accuracy"]
    figure = Figure((12.5, 0.42 * len(rows) + 2.4))
    columns = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(columns, results.METRICS, strict=True):
        draw_forest(axes, [one for one in found if one.metric == metric], metric)
    handles, labels = columns[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    set_title(figure, forest_title(rows))
    return figure


def draw_forest(axes: Axes, found: list[Difference], metric: str) -> None:
    factor = 100 if metric == "accuracy" else 1
    widest = max(abs(end) for one in found if not is_large(one, found) for end in ends_of(one)) * factor
    limit = 1.15 * widest
    for row, one in enumerate(found):
        color = SHOWN if one.holm < ALPHA else OPEN
        clipped = factor * abs(one.paired.value) > limit
        if one.images and not clipped:
            low, high = (factor * end for end in one.images)
            axes.plot([low, high], [row, row], color=color, alpha=0.3, linewidth=6, solid_capstyle="butt")
        if clipped:
            side = 1 if one.paired.value > 0 else -1
            axes.plot(side * limit * 0.97, row, ">" if side > 0 else "<", color=color, markersize=6)
            words = f"{factor * one.paired.value:+z.{2 if factor > 1 else 4}f}"
            axes.text(
                side * limit * 0.9, row, words, ha="right" if side > 0 else "left", va="center", fontsize=look.SMALL
            )
        else:
            value, low, high = (factor * end for end in one.paired[:3])
            axes.errorbar(value, row, xerr=[[value - low], [high - value]], fmt="o", color=color, capsize=3)
    axes.axvline(0, color="#404040", linewidth=0.8)
    if metric == "accuracy":
        axes.axvspan(-100 * MARGIN, 100 * MARGIN, color=MARGIN_COLOR, zorder=0, linewidth=0)
    axes.set_xlim(-limit, limit)
    axes.set_yticks(range(len(found)), [one.comparison.name for one in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title("Test accuracy" if metric == "accuracy" else "Test loss")
    axes.set_xlabel("points, after the last epoch" if metric == "accuracy" else "nats, after the last epoch")
    if metric == "accuracy":
        axes.errorbar([], [], xerr=[], fmt="o", color=SHOWN, capsize=3, label="95 %, new seeds; shown (Holm)")
        axes.errorbar([], [], xerr=[], fmt="o", color=OPEN, capsize=3, label="the same; not shown")
        axes.plot([], [], color=OPEN, alpha=0.3, linewidth=6, label="95 %, new seeds and new digits")
        axes.fill_between([], [], [], color=MARGIN_COLOR, label=f"within {100 * MARGIN:.2f} points")


def is_large(one: Difference, found: list[Difference]) -> bool:
    """Whether a difference would leave no room for the others."""
    middle = np.median([abs(other.paired.value) for other in found])
    return abs(one.paired.value) > 4 * middle


def ends_of(one: Difference) -> list[float]:
    return [*one.paired[1:3], *(one.images or ())]


def forest_title(rows: list[Difference]) -> str:
    shown = [one.comparison.name for one in rows if one.holm < ALPHA]
    new = [one.comparison.name for one in rows if one.holm < ALPHA and one.images and not holds_zero(one)]
    start = f"A difference in accuracy is shown for {len(shown)} of {len(rows)} comparisons"
    return f"{start}; for new digits as well for {len(new)}: {', '.join(new)}" if new else start


def holds_zero(one: Difference) -> bool:
    return one.images is not None and one.images[0] <= 0 <= one.images[1]


# --- train and test ---------------------------------------------------------------------------------------------------


@styled
def draw_train_test(groups: Groups) -> Figure:
    """Accuracy as it ran, of the averaged weights on augmented and clean training images, and on the test images."""
    styles = {
        "train": ("train, as it ran", look.TRAIN),
        "augmented_train": ("train, averaged", {"color": "#e69f00", "linestyle": ":", "marker": "D"}),
        "clean_train": ("train, averaged, clean", look.CLEAN),
        "test": ("test", look.TEST),
    }
    images = next(iter(groups.values()))[0].history["train_images"]
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    figure = Figure((1.25 * look.PANEL[0] * columns, 0.95 * look.PANEL[1] * rows + 0.7))
    panels = []
    for axes, (key, group) in zip(figure.subplots(rows, columns, squeeze=False).ravel(), groups.items(), strict=False):
        curves = []
        for prefix, (label, style) in styles.items():
            if prefix == "augmented_train" and not key[1]:
                continue
            values = results.stack(group, f"{prefix}_accuracy")
            label = label if key[1] else label.replace(", clean", "")
            curves.append(
                Curve(f"{label}  {percent(values[:, -1].mean())}", look.plot_values("accuracy", values, images), style)
            )
        look.draw_curves(axes, curves, "accuracy", images)
        above = results.above_train(group)
        axes.set_title(f"{figure_name(key)}: test above train in {above.sum()} of {above.size} epochs")
        panels.append((axes, curves))
    look.same_height(panels, "accuracy", images)
    for axes, _ in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_tick_params(labelbottom=True)
    look.label_ends(panels)
    set_title(figure, train_test_title(groups))
    return figure


def train_test_title(groups: Groups) -> str:
    words = []
    for augment in (True, False):
        above = [results.above_train(group) for key, group in groups.items() if key[1] == augment]
        if above:
            share = percent(np.concatenate([one.ravel() for one in above]).mean(), 0)
            words.append(f"{share} of the epochs {'with' if augment else 'without'} augmentation")
    return f"Test accuracy is above train accuracy as it ran in {' and in '.join(words)}"


# --- gradients --------------------------------------------------------------------------------------------------------


@styled
def draw_gradients(groups: Groups) -> Figure:
    """‖g‖·‖W‖ by layer, before the first epoch and after each, with and without batch normalization."""
    layers = results.shared_layers(groups)
    columns = 3
    rows = -(-len(layers) // columns)
    figure = Figure((1.0 * look.PANEL[0] * columns, 0.85 * look.PANEL[1] * rows + 0.7))
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    panels = []
    for axes, layer in zip(every, layers, strict=False):
        curves = []
        for key in PAIR:
            scaled = np.maximum(results.scaled_gradients(groups[key], layer), look.LOSS_FLOOR)
            curves.append(Curve(figure_name(key), scaled, look.line_style(*key)))
        draw_from_zero(axes, curves)
        axes.set_title(layer.upper())
        panels.append((axes, curves))
    for axes in every[len(layers) :]:
        axes.set_visible(False)
    values = np.concatenate([curve.values.ravel() for _, curves in panels for curve in curves])
    for axes, _ in panels:
        look.log_axis(axes, values, "‖g‖·‖W‖", look.LOSS_FLOOR)
    panels[0][0].legend(frameon=False, loc="lower left")
    set_title(figure, gradients_title(groups, layers))
    return figure


def draw_from_zero(axes: Axes, curves: list[Curve]) -> None:
    """Geometric means over the seeds, in bands of one standard deviation of the logarithms; epoch 0 is the start."""
    for curve in curves:
        logarithms = np.log(curve.values)
        epochs, mean, deviation = np.arange(logarithms.shape[1]), logarithms.mean(0), logarithms.std(0, ddof=1)
        axes.plot(epochs, np.exp(mean), markevery=max(1, len(epochs) // 10), label=curve.label, **curve.style)
        low, high = np.exp(mean - deviation), np.exp(mean + deviation)
        axes.fill_between(epochs, low, high, color=curve.style["color"], alpha=look.BAND, linewidth=0)
    axes.set_xlim(-0.5, curves[0].values.shape[1] - 0.5)
    axes.set_xlabel("epoch; 0 is before the first")


def gradients_title(groups: Groups, layers: list[str]) -> str:
    words = []
    for when, epoch in (("before the first epoch", 0), ("after the last", -1)):
        scaled = [[results.scaled_gradients(groups[key], layer)[:, epoch] for layer in layers] for key in PAIR]
        ratios = [results.ratio(with_it, without) for without, with_it in zip(*scaled, strict=True)]
        larger, smaller = sum(one.low > 1 for one in ratios), sum(one.high < 1 for one in ratios)
        words.append(f"{when} larger in {larger} and smaller in {smaller} of {len(layers)} layers")
    seeds = seeds_of({key: groups[key] for key in PAIR})
    return f"With batch normalization ‖g‖·‖W‖ is {', '.join(words)}; mean of {seeds}"


# --- moved digits -----------------------------------------------------------------------------------------------------


@styled
def draw_moved(groups: Groups) -> Figure:
    """Accuracy against the shift and against the angle."""
    images = next(iter(groups.values()))[0].history["test_images"]
    figure = Figure((2.5 * look.PANEL[0], 1.15 * look.PANEL[1]))
    panels = []
    kinds = {"shift": "shift (pixels), mean of four directions", "turn": "angle (degrees), mean of both ways"}
    for axes, (kind, label) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        moves = ["", *(move for move in results.MOVES if move.startswith(kind))]
        sizes = [int(move.removeprefix(kind) or 0) for move in moves]
        curves = []
        for key, group in groups.items():
            values = np.column_stack([results.moved(group, move) for move in moves])
            words = f"{figure_name(key)}  {percent(values[:, -1].mean(), 1)}"
            curves.append(Curve(words, look.plot_values("accuracy", values, images), look.line_style(*key)))
        look.draw_curves(axes, curves, "accuracy", images)
        axes.set_xticks(range(1, len(sizes) + 1), [str(size) for size in sizes])
        axes.set_xlabel(label)
        axes.set_title(f"Test digits {'shifted' if kind == 'shift' else 'turned'}")
        panels.append((axes, curves))
    look.label_ends(panels)
    set_title(figure, moved_title(groups))
    return figure


def moved_title(groups: Groups) -> str:
    """How many of the intervals lie above 0, of each pair that says what one part of a network gives."""
    pairs = {"LeNet-5 over the MLP": (PLAIN, MLP), "augmentation": (AUGMENTED, PLAIN)}
    pairs |= {"batch normalization": (NORMALIZED, PLAIN), "both over augmentation": (BOTH, AUGMENTED)}
    counts = []
    for name, pair in pairs.items():
        found = [results.paired(groups, *pair, partial(results.moved, move=move)) for move in results.MOVES]
        if all(found):
            counts.append(f"{name} {sum(one.low > 0 for one in found if one)}")
    number = len(results.MOVES)
    if not counts:
        return f"Accuracy on digits moved in {number} ways, mean of {seeds_of(groups)}"
    return f"Of {number} kinds of moved digits, so many differences have an interval above 0: {', '.join(counts)}"
