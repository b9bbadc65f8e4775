"""Draw what `main.py` measured, from result_plot/NAME.json and NAME.npz alone: no torch, no network, no data set.

    python plot.py            redraw the figures of every run, the comparison, and those of the study
    python plot.py --table    print the tables of the study as Markdown

A run gives NAME.png (its curves), NAME_confusion.png, NAME_mistakes.png and NAME_filters.png; all runs together give
comparison.png and augmentation.png; the runs in result_plot/study give study.png, train_test.png and gradients.png.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from textwrap import fill, wrap
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator

import files
import results

# --- the look of all figures ------------------------------------------------------------------------------------------

STYLE = {
    "figure.dpi": 200,
    "savefig.dpi": "figure",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "text.parse_math": False,  # a dollar sign in the name of a folder is a dollar sign
}
# Colours of Okabe and Ito, "Color Universal Design", 2008: told apart with every kind of colour vision. Line styles and
# markers say the same again, for print without colour.
TRAIN = {"color": "#d55e00", "linestyle": "--", "marker": "s"}
CLEAN = {"color": "#56b4e9", "linestyle": "-.", "marker": "^"}
TEST = {"color": "#0072b2", "linestyle": "-", "marker": "o"}
MODELS = {  # augmented runs are dashed
    "lenet": {"color": "#000000", "marker": "o"},
    "lenet_bn": {"color": "#009e73", "marker": "s"},
    "mlp": {"color": "#cc79a7", "marker": "^"},
}
OTHER_MODEL = {"color": "#e69f00", "marker": "D"}
LABEL_X = 1.05  # where labels of line ends stand, in widths of the axes
LEADER = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 1}  # from a label to what it names
PALE, BAND = "#b0b0b0", 0.2  # colour of what stands back; opacity of a band
SMALL = 8  # points; text inside of a picture
PANEL = (5.6, 4.2)  # inches, width and height of one panel of curves
COLUMNS, MOST_MISTAKES = 8, 40  # of the picture of mistakes: 5 rows of 8 are legible on half a page
TINY = 1e-9  # in place of a scale or a divisor of 0
LOSS_FLOOR = 2.0**-24  # the smallest loss of one image above 0 that float32 can tell; a logarithm needs one


class Curve(NamedTuple):
    """A line over the epochs: what is written at its end, values (runs, epochs) to be drawn, and the line's style."""

    label: str
    values: np.ndarray
    style: dict


# --- names, titles and styles -----------------------------------------------------------------------------------------


def line_style(run: results.Run) -> dict:
    model, augment = run.configuration
    return {**MODELS.get(model, OTHER_MODEL), "linestyle": "--" if augment else "-"}


def shown(metric: str, value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    return results.percent(value) if metric.endswith("accuracy") else f"{value:.4f}"


def title_name(history: dict) -> str:
    return results.figure_name((history["model"], history["augment"]))


def wrong_of(history: dict, wrong: int) -> str:
    return f"{wrong:,} of {history['test_images']:,} test images wrong"


def headline(figure: Figure, finding: str) -> None:
    """The title of a figure, in as many lines as its width takes: a bold letter is 0.7 of its size wide, or less."""
    letters = int(figure.get_figwidth() * 72 / (0.7 * STYLE["figure.titlesize"]))
    joined = finding.replace(" %", "\N{NO-BREAK SPACE}%")
    whole = partial(wrap, joined, break_on_hyphens=False)
    lines = len(whole(letters))
    even = next(width for width in range(1, letters + 1) if len(whole(width)) <= lines)  # no line of one word
    figure.suptitle("\n".join(whole(even)))


# --- curves -----------------------------------------------------------------------------------------------------------


def floor_of(metric: str, images: int) -> float:
    """The lowest value that an axis shows: of an accuracy of 1 nothing would be left, so half an image is."""
    return 0.5 / images if metric.endswith("accuracy") else LOSS_FLOOR


def drawn(metric: str, values: np.ndarray | list[float], images: int) -> np.ndarray:
    """(runs, epochs) as a logarithmic axis shows them: the error in place of an accuracy, NaN where not finite."""
    values = np.atleast_2d(np.asarray(values, dtype=float))
    values = 1 - values if metric.endswith("accuracy") else values
    return np.where(np.isfinite(values), np.maximum(values, floor_of(metric, images)), np.nan)


def draw_curves(axes: Axes, curves: list[Curve], metric: str, images: int) -> None:
    """Draw the mean of each curve's runs, in a band of one standard deviation if there are several."""
    floor = floor_of(metric, images)
    for curve in curves:
        mean, epochs = curve.values.mean(0), np.arange(1, curve.values.shape[1] + 1)
        axes.plot(epochs, mean, markevery=max(1, len(epochs) // 10), **curve.style)
        if len(curve.values) > 1:
            deviation = curve.values.std(0, ddof=1)
            low, high = np.maximum(mean - deviation, floor), mean + deviation
            axes.fill_between(epochs, low, high, color=curve.style["color"], alpha=BAND, linewidth=0)
    axes.set_xlim(0.5, max(curve.values.shape[1] for curve in curves) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    log_axis(axes, np.concatenate([curve.values.ravel() for curve in curves]), metric, floor)


def log_axis(axes: Axes, values: np.ndarray, metric: str, floor: float) -> None:
    """Make y logarithmic around `values`. An accuracy is drawn by its error, upside down, and labelled as accuracy."""
    low, high = np.nanmin(values), np.nanmax(values)
    margin = max(1.15, (high / low) ** 0.12)  # room for a label; some, too, where all values are equal
    low, high = low / margin, high * margin
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 1.5, 2, 3, 4, 6, 8) if high / low < 20 else (1, 2, 5) if high / low < 3000 else (1,)
    ticks = [tick for decade in decades for step in steps if low <= (tick := step * 10.0**decade) <= high]
    axes.set_ylim(low, high)  # first: a logarithmic axis cannot find limits for values that are all equal
    axes.set_yscale("log")
    axes.yaxis.minorticks_off()
    if metric.endswith("accuracy"):
        ticks = [tick for tick in ticks if 1.5 * floor < tick <= 1] + ([floor] if np.nanmin(values) <= floor else [])
        axes.set_yticks(ticks, [f"{100 - 100 * tick:.8g}" if tick > floor else "100" for tick in ticks])
        axes.yaxis.set_inverted(True)
        axes.set_ylabel("accuracy (%), logarithmic in the error")
    else:
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        quantity = "loss (nats)" if metric.endswith("loss") else "L2 norm of the gradient"
        axes.set_ylabel(f"{quantity}, logarithmic")


def label_ends(panels: list[tuple[Axes, list[Curve]]]) -> None:
    """Write each curve's label at its end, right of its axes, moved apart where they would overlap.

    All panels of a figure in one call: only its layout tells how high texts and axes are.
    """
    labels = [[end_label(axes, curve) for curve in curves] for axes, curves in panels]
    figure = panels[0][0].figure
    figure.get_layout_engine().execute(figure)
    for (axes, _), texts in zip(panels, labels, strict=True):
        gap = 1.25 * max(text_size(text)[1] for text in texts)
        heights = spread([in_axes(axes, text.xy)[1] for text in texts], gap)
        for text, height in zip(texts, heights, strict=True):
            text.set_position((LABEL_X, height))


def end_label(axes: Axes, curve: Curve) -> Annotation:
    """The curve's label, with a line to its last finite point."""
    mean, color = curve.values.mean(0), curve.style["color"]
    last = np.flatnonzero(np.isfinite(mean))[-1]
    end, where, kind = (last + 1, mean[last]), (LABEL_X, 0.5), "axes fraction"
    line = {**LEADER, "color": color}
    return axes.annotate(curve.label, end, where, textcoords=kind, va="center", color=color, arrowprops=line)


def in_axes(axes: Axes, points: np.ndarray | tuple) -> np.ndarray:
    """From data coordinates to fractions of the axes."""
    return axes.transAxes.inverted().transform(axes.transData.transform(points))


def text_size(text: Annotation) -> np.ndarray:
    """Width and height of the words alone, in fractions of the axes."""
    return Text.get_window_extent(text).size / text.axes.bbox.size


def spread(wanted: list[float], gap: float) -> np.ndarray:
    """Heights at least `gap` apart, within 0 to 1 if they fit, whose squared distance from the wanted ones is least.

    Less i * gap, the i-th height must only not fall: isotonic regression, by pooling neighbours that violate it.
    """
    order = np.argsort(wanted, kind="stable")
    pools: list[list[float]] = []  # sum and number of the heights that move together
    for place, height in enumerate(np.asarray(wanted)[order]):
        pools.append([height - place * gap, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1] = [pools[-1][0] + total, pools[-1][1] + count]
    level = np.concatenate([np.full(int(count), total / count) for total, count in pools])
    room = max(0, 1 - (len(level) - 1) * gap)
    heights = np.empty(len(level))
    heights[order] = np.clip(level, 0, room) + np.arange(len(level)) * gap
    return heights


def label_best(axes: Axes, curves: list[Curve], epoch: int, value: float, label: str) -> None:
    """Ring a point and write `label` at the nearest place in the axes that no curve runs through."""
    color = TEST["color"]
    axes.plot(epoch, value, "o", markersize=9, markerfacecolor="none", color=color, markeredgewidth=1.4)
    line = {**LEADER, "color": color, "shrinkB": 5}
    text = axes.annotate(label, (epoch, value), (0, 0), textcoords="axes fraction", color=color, arrowprops=line)
    text.set_in_layout(False)
    size, ring, margin = text_size(text), in_axes(axes, (epoch, value)), np.array([0.02, 0.03])
    taken = np.concatenate([ring[None], *(points_along(axes, curve) for curve in curves)])

    def cost(corner: tuple[float, float]) -> tuple[int, float]:
        low, high = corner - margin, corner + size + margin
        return ((taken > low) & (taken < high)).all(1).sum(), math.dist(np.clip(ring, low, high), ring)

    rightmost, highest = 0.98 - size
    text.set_position(min(product(np.linspace(0.02, rightmost, 25), np.linspace(0.02, highest, 40)), key=cost))


def points_along(axes: Axes, curve: Curve) -> np.ndarray:
    """Points close together along a curve, in fractions of the axes: (points, 2)."""
    mean = curve.values.mean(0)
    corners = in_axes(axes, np.stack([np.arange(1, len(mean) + 1), mean], 1)[np.isfinite(mean)])
    x = np.linspace(corners[0, 0], corners[-1, 0], 500)
    return np.stack([x, np.interp(x, *corners.T)], 1)


# --- figures of one run -----------------------------------------------------------------------------------------------


@rc_context(STYLE)
def draw_run(history: dict) -> Figure:
    """Loss and accuracy, train and test, against the epoch; the best test epoch marked.

    history: as main.py makes it, with at least one epoch; values that are not finite leave gaps.
    """
    figure = Figure((2 * PANEL[0], PANEL[1]))
    wrong = round((1 - history["test_accuracy"][-1]) * history["test_images"])
    after = f"after epoch {len(history['test_loss'])}"
    headline(figure, f"{title_name(history)} on {history['data']}: {wrong_of(history, wrong)} {after}")
    panels = {}
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.set_title(quantity_finding(history, quantity))
        curves = run_curves(history, quantity)
        if curves:
            draw_curves(axes, curves, quantity, images_of(history))
            panels[quantity] = axes, curves
    if panels:
        label_ends(list(panels.values()))
    for quantity, (axes, curves) in panels.items():
        test = drawn(quantity, history[f"test_{quantity}"], images_of(history))[0]
        if np.isfinite(test).any():
            best = int(np.nanargmin(test))  # of an accuracy this is the error
            word = "highest" if quantity == "accuracy" else "lowest"
            value = shown(quantity, history[f"test_{quantity}"][best])
            label_best(axes, curves, best + 1, test[best], f"{word} on test: {value}, epoch {best + 1}")
    return figure


def images_of(history: dict) -> int:
    return max(history["train_images"], history["test_images"])


def run_curves(history: dict, quantity: str) -> list[Curve]:
    """Train and test, less what has no finite value."""
    curves = []
    for split, style in (("train", TRAIN), ("test", TEST)):
        values = history[f"{split}_{quantity}"]
        as_ran = " (augmented)" if split == "train" and history["augment"] else ""
        label = f"{split}{as_ran}\n{shown(quantity, values[-1])}"
        curves.append(Curve(label, drawn(quantity, values, images_of(history)), style))
    return [curve for curve in curves if np.isfinite(curve.values).any()]


def quantity_finding(history: dict, quantity: str) -> str:
    """How the last epoch's test figure compares with the train figure, in words."""
    train, test = history[f"train_{quantity}"][-1], history[f"test_{quantity}"][-1]
    if not (math.isfinite(train) and math.isfinite(test)):
        return f"The {quantity} is not finite in the last epoch"
    if quantity == "loss":
        ratio = test / max(train, LOSS_FLOOR)
        return f"Test loss ends at {ratio:{'.2g' if ratio < 100 else ',.0f'}} times the train loss"
    if test == train:
        return "Test accuracy ends level with train accuracy"
    side = "above" if test > train else "below"
    return f"Test accuracy ends {100 * abs(test - train):.2f} points {side} train accuracy"


@rc_context(STYLE)
def draw_confusion(history: dict, arrays: dict[str, np.ndarray]) -> Figure:
    """Counts of label (rows) against prediction (columns), only errors coloured: the diagonal would outshine them."""
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (arrays["labels"], arrays["predictions"]), 1)
    errors = counts - np.diag(np.diag(counts))
    most = errors.max()
    label, prediction = np.unravel_index(errors.argmax(), errors.shape)
    finding = f", most often a {label} taken for a {prediction} ({most})" if most else ""
    figure = Figure((7.4, 6.4))
    headline(figure, f"{title_name(history)}: {wrong_of(history, errors.sum())}{finding}")
    axes = figure.subplots()
    shades = PowerNorm(0.6, vmin=-0.15 * most, vmax=max(most, 1))  # from below 0, so that a single error is seen
    axes.imshow(np.ma.masked_equal(errors, 0), cmap="Oranges", norm=shades, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        dark = errors[row, column] and shades(errors[row, column]) > 0.65
        color = "#ffffff" if dark else "#000000" if counts[row, column] else PALE
        axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=SMALL)
    for digit, total in enumerate(counts.sum(1)):
        right = f"{results.percent(counts[digit, digit] / total, 1)} right" if total else "none"
        axes.text(9.7, digit, right, va="center", fontsize=SMALL)
    axes.set(xlabel="prediction", ylabel="label", xticks=range(10), yticks=range(10))
    axes.grid(False)
    axes.tick_params(length=0)
    return figure


@rc_context(STYLE)
def draw_mistakes(history: dict, arrays: dict[str, np.ndarray]) -> Figure:
    """The wrong test images, the most confident first, as many as fit."""
    wrong, images = arrays["mistakes"], arrays["mistake_images"]
    confidence = arrays["confidence"][wrong]
    order = np.argsort(-confidence, kind="stable")[:MOST_MISTAKES]
    rows, (height, width) = max(1, math.ceil(len(order) / COLUMNS)), images.shape[1:]
    cells = np.zeros((rows * COLUMNS, height, width))
    cells[: len(order)] = images[order]
    above, beside = 12, 10  # pixels of the image, room for the text
    figure, axes = draw_picture(mosaic(cells.reshape(rows, COLUMNS, height, width), above, beside), 9)
    sure = f", {(confidence > 0.9).sum()} of them with a probability above 90 %" if len(wrong) else ""
    headline(figure, f"{title_name(history)}: {wrong_of(history, len(wrong))}{sure}")
    if len(wrong):
        number = f"{len(order)} of {len(wrong)}"
        axes.set_title(f"{number}, the most confident first: label → prediction, probability of the prediction")
    for place, index in enumerate(order):
        row, column = divmod(place, COLUMNS)
        label, prediction = (arrays[name][wrong[index]] for name in ("labels", "predictions"))
        x, y = column * (width + beside) + width / 2, row * (height + above) + above - 2
        axes.text(x, y, f"{label} → {prediction}, {results.percent(confidence[index], 1)}", ha="center", fontsize=SMALL)
    return figure


def draw_picture(picture: np.ndarray, width: float) -> tuple[Figure, Axes]:
    """A figure so many inches wide that holds a picture, ink dark on white, below two lines of title."""
    figure = Figure((width, width * picture.shape[0] / picture.shape[1] + 0.8))
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=255)
    axes.axis("off")
    return figure, axes


def mosaic(images: np.ndarray, above: int, beside: int) -> np.ndarray:
    """(R, C, H, W) as one picture, with so many blank pixels above and to the right of each."""
    rows, columns, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (above, 0), (0, beside)))
    return padded.swapaxes(1, 2).reshape(rows * (height + above), columns * (width + beside))


@rc_context(STYLE)
def draw_filters(history: dict, arrays: dict[str, np.ndarray]) -> Figure:
    """The filters of C1 on one scale: white is 0."""
    filters = arrays["c1"][:, 0]
    norms = np.maximum(np.sqrt((filters**2).sum((1, 2))), TINY)
    largest = max(np.abs(filters).max(), TINY)
    figure = Figure((1.5 * len(filters), 2.2))
    strongest, weakest = norms.argmax(), norms.argmin()
    finding = f"filter {strongest + 1} has {norms.max() / norms.min():.1f} times the norm of filter {weakest + 1}"
    headline(figure, f"C1 of {title_name(history)}: {finding}")
    panels = figure.subplots(1, len(filters), squeeze=False)[0]
    for number, (axes, weights, norm) in enumerate(zip(panels, filters, norms, strict=True), 1):
        picture = axes.imshow(weights, cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.set_title(f"{number}: norm {norm:.2f}", fontsize=SMALL, loc="center")
        axes.axis("off")
    figure.colorbar(picture, ax=panels, label="weight", fraction=0.03)
    return figure


# --- figures of several runs ------------------------------------------------------------------------------------------


@rc_context(STYLE)
def draw_augmentation(arrays: dict[str, np.ndarray]) -> Figure:
    """The original digits, each beside its draws."""
    originals, warped = arrays["originals"][:, None], arrays["warped"]
    stays = np.minimum(warped, originals).sum() / max(originals.sum() * warped.shape[1], 1)
    figure, axes = draw_picture(mosaic(np.concatenate([originals, warped], 1), 4, 4), 6.8)
    headline(figure, f"A draw of the augmentation leaves {results.percent(stays, 0)} of the ink where it was")
    axes.axvline(originals.shape[3] + 1.5, color=PALE)
    axes.set_title(f"original | {warped.shape[1]} draws of it")
    return figure


@rc_context(STYLE)
def draw_comparison(runs: list[results.Run]) -> Figure:
    """Test loss and accuracy of all runs on the same data, the seeds of one configuration as a mean in a band."""
    runs, left_out = results.same_data(runs)
    groups, images = results.by_name(runs), runs[0].history["test_images"]
    figure = Figure((2.6 * PANEL[0], 1.2 * PANEL[1]))
    panels = []
    for axes, metric in zip(figure.subplots(1, 2), ("test_loss", "test_accuracy"), strict=True):
        curves, last = [], {}
        for name, group in groups.items():
            values = results.stack(group, metric)
            last[name] = values[:, -1].mean()
            label = f"{name}  {shown(metric, last[name])}"
            curves.append(Curve(label, drawn(metric, values, images), line_style(group[0])))
        axes.set_title(f"{metric.replace('_', ' ').capitalize()}{seeds_of(groups.values())}")
        draw_curves(axes, curves, metric, images)
        panels.append((axes, curves))
    label_ends(panels)
    best = max(last, key=last.get)  # by now of the accuracy
    finding = f"{best} has the highest accuracy" if len(groups) > 1 else best
    data = f"after the last epoch on the test images of {runs[0].history['data']}"
    headline(figure, f"{finding} {data}: {results.percent(last[best])}")
    if left_out:
        note = f"not shown, because of other test images: {', '.join(left_out)}"
        figure.supxlabel(fill(note, 160, break_on_hyphens=False), fontsize=SMALL)
    return figure


def seeds_of(groups: Iterable[list[results.Run]]) -> str:
    """What a band is, where there is one."""
    counts = sorted({len(group) for group in groups})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f", mean of {number} seeds ± 1 standard deviation" if counts[-1] > 1 else ""


@rc_context(STYLE)
def draw_study(study: list[results.Run]) -> Figure:
    """The last epoch of each seed as a dot, with the mean and its 95 % confidence interval beside."""
    groups, images = results.by_configuration(study), study[0].history["test_images"]
    means = {key: results.stack(group, "test_accuracy")[:, -1].mean() for key, group in groups.items()}
    best = max(means, key=means.get)
    figure = Figure((1.6 * max(len(groups), 5), 2 * PANEL[1]))
    headline(
        figure, f"After the last epoch {results.figure_name(best)} is the most accurate: {results.percent(means[best])}"
    )
    for axes, metric in zip(figure.subplots(2, 1), ("test_loss", "test_accuracy"), strict=True):
        for place, group in enumerate(groups.values()):
            draw_seeds(axes, place, results.stack(group, metric)[:, -1], metric, images, line_style(group[0]))
        log_axis(axes, drawn(metric, results.stack(study, metric)[:, -1], images), metric, floor_of(metric, images))
        axes.set_xticks(range(len(groups)), [results.figure_name(key).replace(" + ", "\n+ ") for key in groups])
        axes.set_xlim(-0.5, len(groups) - 0.3)
        axes.grid(False, axis="x")
        axes.set_title(f"{metric.replace('_', ' ').capitalize()}: each seed, and the mean with its 95 % interval")
    return figure


def draw_seeds(axes: Axes, place: int, values: np.ndarray, metric: str, images: int, style: dict) -> None:
    """One configuration of draw_study."""
    color, marker = style["color"], style["marker"]
    face = "none" if style["linestyle"] == "--" else color  # hollow where lines are dashed: augmented
    dots = drawn(metric, values, images)[0]
    axes.plot(np.full(len(dots), place - 0.12), dots, marker, color=color, markerfacecolor=face, alpha=0.8)
    mean, half = values.mean(), results.half_interval(values) if len(values) > 1 else 0
    low, middle, high = np.sort(drawn(metric, [mean - half, mean, mean + half], images)[0])
    axes.errorbar(place, middle, [[middle - low], [high - middle]], fmt="_", color=color, capsize=3, markersize=8)
    axes.text(place + 0.1, middle, shown(metric, mean), va="center", fontsize=SMALL)


@rc_context(STYLE)
def draw_train_test(groups: results.Groups) -> Figure:
    """Accuracy on the training images as augmented, on clean ones, and on the test images."""
    every = [run for group in groups.values() for run in group]
    shares = [
        results.percent(np.mean(results.test_above(every, metric)), 0)
        for metric in ("train_accuracy", "clean_train_accuracy")
    ]
    figure = Figure((1.25 * PANEL[0] * max(len(groups), 1.5), 1.1 * PANEL[1]))
    augmented, clean = (f"that of {word} training images" for word in ("augmented", "clean"))
    headline(figure, f"Test accuracy is above {augmented} in {shares[0]} of the epochs, above {clean} in {shares[1]}")
    lines = {"train": ("train, augmented", TRAIN), "clean_train": ("train, clean", CLEAN), "test": ("test", TEST)}
    images, panels = images_of(every[0].history), []
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.values(), strict=True):
        curves = []
        for prefix, (label, style) in lines.items():
            values = results.stack(group, f"{prefix}_accuracy")
            curves.append(
                Curve(f"{label}  {results.percent(values[:, -1].mean())}", drawn("accuracy", values, images), style)
            )
        draw_curves(axes, curves, "accuracy", images)
        axes.set_title(results.figure_name(group[0].configuration) + seeds_of([group]))
        panels.append((axes, curves))
    same_height(panels, "accuracy", images)
    label_ends(panels)
    return figure


def same_height(panels: list[tuple[Axes, list[Curve]]], metric: str, images: int) -> None:
    """Give panels in a row one and the same y axis, labelled once."""
    values = np.concatenate([curve.values.ravel() for _, curves in panels for curve in curves])
    for axes, _ in panels:
        log_axis(axes, values, metric, floor_of(metric, images))
        axes.label_outer()


@rc_context(STYLE)
def draw_gradients(groups: results.Groups) -> Figure:
    """The norm of the gradient in each layer, with and without batch normalization."""
    plain, normalized = groups.values()
    layers = results.layers_of(plain[0])
    figure = Figure((2.6 * (len(layers) + 0.6), PANEL[1]))
    panels, ratios = [], []
    for axes, layer in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
        norms = [np.maximum(results.gradient_norms(group, layer), LOSS_FLOOR) for group in (plain, normalized)]
        names = [title_name(group[0].history) for group in (plain, normalized)]
        curves = [Curve(*line) for line in zip(names, norms, map(line_style, (plain[0], normalized[0])), strict=True)]
        ratios.append(norms[1][:, -1].mean() / norms[0][:, -1].mean())
        draw_curves(axes, curves, "gradient_norm", 1)
        axes.set_title(f"{layer.upper()}: {ratios[-1]:.2g} times in the last epoch")
        panels.append((axes, curves))
    same_height(panels, "gradient_norm", 1)
    label_ends(panels[-1:])
    span = f"{min(ratios):.2g} to {max(ratios):.2g} times those without"
    headline(
        figure, f"In the last epoch the gradients with batch normalization are {span}{seeds_of([plain, normalized])}"
    )
    return figure


# --- the command line -------------------------------------------------------------------------------------------------


@rc_context(STYLE)
def save(figure: Figure, file: BinaryIO) -> None:
    """Write the figure as PNG into a binary file."""
    figure.savefig(file, format="png")


def figures(runs: list[results.Run], study: list[results.Run]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The name of each figure that these runs allow, and what draws it."""
    for path, history, arrays in runs:
        yield f"{path.stem}.png", partial(draw_run, history)
        if arrays:
            yield f"{path.stem}_confusion.png", partial(draw_confusion, history, arrays)
            yield f"{path.stem}_mistakes.png", partial(draw_mistakes, history, arrays)
        if "c1" in arrays:
            yield f"{path.stem}_filters.png", partial(draw_filters, history, arrays)
    augmented = next((run.arrays for run in (*runs, *study) if "warped" in run.arrays), None)
    if augmented:
        yield "augmentation.png", partial(draw_augmentation, augmented)
    kept = [
        run for run in runs if results.identity(run) not in map(results.identity, study)
    ]  # a run of the study is drawn once
    yield "comparison.png", partial(draw_comparison, sorted([*study, *kept], key=results.rank))
    if study:
        yield "study.png", partial(draw_study, study)
        groups = results.by_configuration(study)
        if accuracy := results.observed_accuracy(groups):
            yield "train_test.png", partial(draw_train_test, accuracy)
        if gradients := results.observed_gradients(groups):
            yield "gradients.png", partial(draw_gradients, gradients)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Redraw all figures from what main.py saved, or print the tables of the study.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output-dir", type=Path, default=Path("result_plot"), help="folder of the runs and figures")
    parser.add_argument("--table", action="store_true", help="print the tables of OUTPUT_DIR/study as Markdown")
    return parser.parse_args(argv)


def redraw_or_print(folder: Path, table: bool) -> None:
    """Raises ResultsError, or OSError if a figure cannot be written. Everything is read before anything is drawn."""
    study = results.read_runs(folder / results.STUDY)
    if table:
        if not study:
            raise results.ResultsError(
                f"{folder / results.STUDY}: holds no NAME.json of a run: train them first, with python study.py"
            )
        print(results.tables(study))
        return
    runs = results.read_runs(folder)
    if not runs and not study:
        raise results.ResultsError(
            f"{folder}: holds no NAME.json of a run: train one first, as in python main.py --model lenet"
        )
    results.check_study(study)
    for name, draw in figures(runs, study):
        figure = draw()
        files.replace(folder / name, partial(save, figure))
        print(folder / name, flush=True)


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def main(argv: list[str] | None = None) -> None:
    """Run the command line. Raises SystemExit with status 2 for what the user can mend."""
    arguments = parse_arguments(argv)
    try:
        redraw_or_print(arguments.output_dir, arguments.table)
    except results.ResultsError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or arguments.output_dir}: cannot be read or written: {error.strerror or error}")


if __name__ == "__main__":
    main()
