"""Draw what `main.py` measured, from result_plot/NAME.json and NAME.npz alone: no torch, no network, no data set.

    python plot.py [--output-dir result_plot]

A run gives NAME.png (its curves), NAME_confusion.png, NAME_mistakes.png and NAME_filters.png. All runs together give
comparison.png, in which those of the study, in result_plot/study, stand behind; runs of equal settings networks.png,
side by side; an augmented run augmentation.png. The figures of the study: `python study.py --report`.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill, wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from support.figures import axes as look
from support.figures.axes import Curve, percent, readable, save, set_title, styled
from support.figures.groups import (
    comparable,
    configuration,
    end_of,
    group_by,
    in_order,
    is_same,
    lines,
    name_of,
    test_set,
)
from support.files import replace
from support.run.history import History, Run, epochs_done, mistakes, read_runs
from support.terminal import Parser, UserError, printable, run_command

Arrays = dict[str, np.ndarray]

STUDY = "study"  # the folder of its runs, within that of the reader's
COLUMNS, MAX_MISTAKES = 8, 40  # of the picture of mistakes: 5 rows of 8 are legible on half a page
MAX_FILTERS, MAX_CLASSES, MAX_LINES, MAX_NETWORKS = 64, 40, 40, 6  # as many as one picture can hold
FIRST_EPOCHS = 10  # in which networks differ most
SHADES = LogNorm(0.0005, 0.5, clip=True)  # of errors, as shares of the label's images: the same for all runs
TINY = 1e-9  # in place of a scale of 0
BEHIND = "#8c8c8c"  # the colour of the study's labels


# --- names and words --------------------------------------------------------------------------------------------------


def wrong_images(history: History) -> int:
    """How many test images were wrong after the last epoch."""
    return round((1 - history["test_accuracy"][-1]) * history["test_images"])


def wrong_of(history: History, wrong: int) -> str:
    return f"{wrong:,} of {history['test_images']:,} test images wrong"


def band_note(groups: Iterable[list[Run]]) -> str:
    """What a band is, where there is one."""
    counts = sorted({len(group) for group in groups})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f", mean of {number} runs ± 1 standard deviation" if counts[-1] > 1 else ""


# --- one run ----------------------------------------------------------------------------------------------------------


@styled
def draw_run(history: History) -> Figure:
    """Loss and accuracy, train and test, and the learning rate, against the epoch; the best test epoch marked."""
    rates: list[float] = history.get("learning_rate", [])
    figure = Figure((2 * look.PANEL[0], look.PANEL[1] + (0.7 if rates else 0)))
    wrong = wrong_of(history, wrong_images(history))
    set_title(figure, f"{name_of(history)} on {readable(history['data'])}: {wrong} after {end_of(history)}")
    rows = figure.subplots(2, 2, sharex="col", height_ratios=(6, 1)) if rates else figure.subplots(1, 2, squeeze=False)
    images = max(history["train_images"], history["test_images"])
    panels = []
    for axes, metric in zip(rows[0], ("loss", "accuracy"), strict=True):
        axes.set_title(compare_ends(history, metric))
        curves = train_and_test([history], metric, images)
        look.draw_curves(axes, curves, metric, images)
        panels.append((axes, curves))
    for axes in rows[1] if rates else ():
        draw_rates(axes, rates)
        axes.set_ylabel("learning\nrate")
    for axes in rows[0] if rates else ():
        axes.set_xlabel("")
    look.label_ends(panels)
    for metric, (axes, curves) in zip(("loss", "accuracy"), panels, strict=True):
        best = int(curves[1].values[0].argmin())  # of an accuracy the error is drawn
        value = look.metric_text(metric, history[f"test_{metric}"][best])
        label = f"{'highest' if metric == 'accuracy' else 'lowest'} on test: {value}, epoch {best + 1}"
        look.label_point(axes, curves, best + 1, curves[1].values[0, best], label)
    return figure


def train_and_test(histories: list[History], metric: str, images: int) -> list[Curve]:
    """Two curves, train and test, of runs that have as many epochs."""
    curves = []
    for split, style in (("train", look.TRAIN), ("test", look.TEST)):
        values = np.array([history[f"{split}_{metric}"] for history in histories])
        as_ran = " (augmented)" if split == "train" and histories[0]["augment"] else ""
        label = f"{split}{as_ran}\n{look.metric_text(metric, values[:, -1].mean())}"
        curves.append(Curve(label, look.plot_values(metric, values, images), style))
    return curves


def compare_ends(history: History, metric: str) -> str:
    """How the last epoch's test figure compares with the train figure, in words."""
    train, test = history[f"train_{metric}"][-1], history[f"test_{metric}"][-1]
    if metric == "loss":
        ratio = test / max(train, look.LOSS_FLOOR)
        if f"{ratio:.2g}" == "1":
            return "Test loss ends level with the train loss"
        digits = ".2g" if ratio < 100 else ",.0f" if ratio < 1e6 else ".1e"
        return f"Test loss ends at {ratio:{digits}} times the train loss"
    points = f"{100 * abs(test - train):.2f}"
    if points == "0.00":
        return "Test accuracy ends level with train accuracy"
    return f"Test accuracy ends {points} points {'above' if test > train else 'below'} train accuracy"


def draw_rates(axes: Axes, *schedules: Sequence[float]) -> None:
    """The learning rate at the last step of each epoch."""
    for rates in schedules:
        axes.plot(np.arange(1, len(rates) + 1), rates, color="#606060", marker="." if len(rates) == 1 else "")
    highest = max(max(*rates, TINY) for rates in schedules)
    look.epoch_axis(axes, max(map(len, schedules)))
    axes.set_ylim(0, 1.15 * highest)
    axes.set_yticks([0, highest], ["0", f"{highest:.3g}"])


@styled
def draw_confusion(history: History, arrays: Arrays) -> Figure:
    """Counts of label (rows) against prediction (columns), coloured by the share of the label's images that is wrong.

    The colours mean the same in the figures of all runs. Of many classes only the colours are drawn.
    """
    classes = min(history["classes"], 256)  # a label is one byte
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (arrays["labels"], arrays["predictions"]), 1)
    totals, errors = counts.sum(1), counts - np.diag(np.diag(counts))
    shares = errors / np.maximum(totals, 1)[:, None]
    written = classes <= MAX_CLASSES
    figure = Figure((0.53 * classes + 3.2, 0.46 * classes + 1.8) if written and classes > 8 else (8.5, 6.4))
    set_title(figure, f"{name_of(history)}: {wrong_of(history, errors.sum())}{most_frequent(errors)}")
    axes = figure.subplots()
    picture = axes.imshow(np.ma.masked_equal(shares, 0), cmap="Oranges", norm=SHADES, aspect="auto")
    bar = figure.colorbar(picture, ax=axes, label="wrong, of the label's images", pad=0.02, aspect=30)
    bar.set_ticks([0.001, 0.01, 0.1, 0.5], labels=["0.1 %", "1 %", "10 %", "50 %"])
    for row, column in np.ndindex(counts.shape) if written else ():
        dark = shares[row, column] and SHADES(shares[row, column]) > 0.6
        color = "#ffffff" if dark else "#000000" if counts[row, column] else look.PALE
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=look.SMALL)
    for label, total in enumerate(totals) if written else ():
        right = f"{percent(counts[label, label] / total, 1)} right" if total else "none"
        axes.text(classes - 0.35, label, right, va="center", fontsize=look.SMALL)
    ticks = range(0, classes, 1 if written else 16)
    axes.set(xlabel="prediction", ylabel="label", xticks=ticks, yticks=ticks)
    axes.grid(False)
    axes.tick_params(length=0)
    return figure


def most_frequent(errors: np.ndarray) -> str:
    """The most frequent confusion, or all that are as frequent; nothing where that would be a long list."""
    pairs = np.argwhere(errors == max(errors.max(), 1))
    if not 1 <= len(pairs) <= 3:
        return ""
    each = f"{errors.max():,}{' each' if len(pairs) > 1 else ''}"
    return f", most often {' and '.join(f'{label} taken for {prediction}' for label, prediction in pairs)} ({each})"


@styled
def draw_mistakes(history: History, arrays: Arrays) -> Figure:
    """The wrong test images, the most confident first, as many as fit."""
    wrong, images = mistakes(arrays), arrays["mistake_images"]
    confidence = arrays["confidence"][wrong]
    order = np.argsort(-confidence, kind="stable")[:MAX_MISTAKES]
    rows, (height, width) = max(1, math.ceil(len(order) / COLUMNS)), images.shape[1:]
    cells = np.zeros((rows * COLUMNS, height, width))
    cells[: len(order)] = images[order]
    above, beside = 12, 10 if history["classes"] <= 10 else 18  # pixels of the image, room for the text
    picture = mosaic(cells.reshape(rows, COLUMNS, height, width), above, beside)
    figure, axes = draw_picture(picture, 9 * picture.shape[1] / (COLUMNS * (width + 10)))
    sure = f", {(confidence > 0.9).sum():,} of them with a probability above 90 %" if len(wrong) else ""
    set_title(figure, f"{name_of(history)}: {wrong_of(history, len(wrong))}{sure}")
    if len(wrong):
        number = f"{len(order)} of {len(wrong):,}"
        axes.set_title(f"{number}, the most confident first: label → prediction, probability of the prediction")
    for place, index in enumerate(order):
        row, column = divmod(place, COLUMNS)
        label, prediction = (arrays[name][wrong[index]] for name in ("labels", "predictions"))
        x, y = column * (width + beside) + width / 2, row * (height + above) + above - 2
        text = f"{label} → {prediction}, {percent(confidence[index], 1)}"
        axes.text(x, y, text, ha="center", fontsize=look.SMALL)
    return figure


def draw_picture(picture: np.ndarray, width: float) -> tuple[Figure, Axes]:
    """A figure so many inches wide that holds a picture, ink dark on white, below two lines of title."""
    figure = Figure((width, width * picture.shape[0] / picture.shape[1] + 0.8))
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=255)
    axes.axis("off")
    return figure, axes


def mosaic(images: np.ndarray, above: int, beside: int, blank: float = 0) -> np.ndarray:
    """(R, C, H, W) as one picture, with so many blank pixels above and to the right of each."""
    rows, columns, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (above, 0), (0, beside)), constant_values=blank)
    return padded.swapaxes(1, 2).reshape(rows * (height + above), columns * (width + beside))


@styled
def draw_filters(history: History, arrays: Arrays) -> Figure:
    """The filters of C1, row by row on one scale: white is 0."""
    filters = np.nan_to_num(arrays["c1"][:MAX_FILTERS, 0])
    columns = min(len(filters), COLUMNS)
    rows = math.ceil(len(filters) / columns)
    largest = max(np.abs(filters).max(), TINY)
    cells = np.full((rows * columns, *filters.shape[1:]), np.nan)
    cells[: len(filters)] = filters
    picture = mosaic(cells.reshape(rows, columns, *filters.shape[1:]), 1, 1, np.nan)[1:, :-1]
    figure = Figure((max(1.3 * columns, 5) + 1, 1.3 * rows + 0.6))
    number = (
        f"{len(filters)}" if len(filters) == len(arrays["c1"]) else f"first {len(filters)} of {len(arrays['c1']):,}"
    )
    set_title(figure, f"The {number} filters of C1 of {name_of(history)} after {end_of(history)}")
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(picture), cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.axis("off")
    figure.colorbar(image, ax=axes, label="weight", fraction=0.03)
    return figure


@styled
def draw_augmentation(history: History, arrays: Arrays) -> Figure:
    """The first training image of each class, beside its warps; a class without images leaves its row empty."""
    originals, warped = arrays["originals"][:MAX_CLASSES, None], arrays["warped"][:MAX_CLASSES]
    stays = np.minimum(warped, originals).sum() / max(originals.sum(dtype=float) * warped.shape[1], 1)
    height, width = originals.shape[2:]
    figure, axes = draw_picture(mosaic(np.concatenate([originals, warped], 1), 4, 4), 6.8)
    set_title(figure, f"Augmentation at full strength leaves {percent(stays, 0)} of the ink where it was")
    augment_strength_min, augment_strength_max = (
        history.get("augment_strength_min"),
        history.get("augment_strength_max"),
    )
    known = isinstance(augment_strength_min, int | float) and isinstance(augment_strength_max, int | float)
    training = (
        f"; in training each image has {augment_strength_min:g} to {augment_strength_max:g} times that strength"
        if known
        else ""
    )
    axes.set_title(f"original | {warped.shape[1]} draws of it{training}")
    axes.axvline(width + 1.5, color=look.PALE)
    for label in np.flatnonzero(~originals.any((1, 2, 3))):
        y = label * (height + 4) + 4 + height / 2
        axes.text(width / 2, y, f"no {label}", ha="center", va="center", color=look.PALE, fontsize=look.SMALL)
    return figure


# --- several runs -----------------------------------------------------------------------------------------------------


@styled
def draw_comparison(runs: list[Run], study: list[Run] | None = None) -> Figure:
    """Loss and accuracy, test and train, of the runs on the same test images: the reader's, before the study's.

    A run of the reader's that is one of the study's is drawn once.
    """
    own = [run for run in runs if not any(is_same(run, other) for other in study or [])]
    compared = test_set(own or study or [])
    front, behind = (
        lines([run for run in some if run.history["test_sha256"] == compared]) for some in (own, study or [])
    )
    if not front:
        front, behind = behind, {}
    drawn = [(name, group, False) for name, group in front.items()]
    drawn = [*drawn, *((f"study: {name}", group, True) for name, group in behind.items())][:MAX_LINES]
    images = max(
        run.history[f"{split}_images"] for _, group, _ in drawn for run in group for split in ("train", "test")
    )
    figure = Figure((2.7 * look.PANEL[0], 2 * max(look.PANEL[1], 0.2 * len(drawn) + 1)))
    gray = f"; gray: the study{band_note(behind.values())}" if behind else ""
    panels = []
    for row, split in zip(figure.subplots(2, 2), ("test", "train"), strict=True):
        for axes, metric in zip(row, ("loss", "accuracy"), strict=True):
            curves = [line(*one, f"{split}_{metric}", images) for one in drawn]
            axes.set_title(f"{split.capitalize()} {metric}{band_note(front.values())}{gray}")
            look.draw_curves(axes, curves, metric, images)
            panels.append((axes, curves))
    look.label_ends(panels)
    last = [np.mean([run.history["test_accuracy"][-1] for run in group]) for group in front.values()]
    span = percent(min(last)) if min(last) == max(last) else f"{100 * min(last):.2f} to {percent(max(last))}"
    data = readable(next(iter(front.values()))[0].history["data"])
    set_title(figure, f"Accuracy on the test images of {data} after the last epoch: {span}")
    others = [readable(run.path.stem) for run in own if run.history["test_sha256"] != compared]
    notes = [f"because of other test images: {', '.join(others)}"] if others else []
    if len(front) + len(behind) > MAX_LINES:
        notes.append(f"for want of room: {len(front) + len(behind) - MAX_LINES} lines")
    note = f"not shown, {'; '.join(notes)}" if notes else ""
    figure.supxlabel(fill(note, 160, break_on_hyphens=False), fontsize=look.SMALL)
    return figure


def line(name: str, group: list[Run], behind: bool, metric: str, images: int) -> Curve:
    """A line of the comparison; one of the study's is thin and pale where the reader's own stand before it."""
    values = np.array([run.history[metric] for run in group])
    label = f"{name}  {look.metric_text(metric, values[:, -1].mean())}"
    style = look.line_style(*configuration(group[0]))
    pale = {"color": look.PALE, "linewidth": 0.9, "markersize": 2.5, "zorder": 1.5} if behind else {}
    words = {"color": BEHIND, "fontsize": look.SMALL} if behind else {}
    return Curve(label, look.plot_values(metric, values, images), style | pale, words)


@styled
def draw_networks(runs: list[Run]) -> Figure:
    """The networks side by side, train and test; below them their first epochs in one picture, and the learning rate.

    runs: as `comparable` chooses them. Of a configuration whose runs ended at different epochs, the longest are drawn.
    """
    networks = list(group_by(in_order(runs), configuration).values())[:MAX_NETWORKS]
    networks = [[run for run in group if epochs_done(run.history) == longest(group)] for group in networks]
    images = max(run.history[f"{split}_images"] for run in runs for split in ("train", "test"))
    figure = Figure((max(3.6 * len(networks), 9), 9.8))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(2, 1)).ravel()
    panels = []
    for row, metric in zip(above.subplots(2, len(networks)), ("loss", "accuracy"), strict=True):
        for axes, group in zip(row, networks, strict=True):
            curves = train_and_test([run.history for run in group], metric, images)
            look.draw_curves(axes, curves, metric, images)
            axes.set_title(title_of(group) if metric == "loss" else "")
            panels.append((axes, curves))
        look.same_height(panels[-len(networks) :], metric, images)
    rates = {tuple(group[0].history.get("learning_rate", ())) for group in networks} - {()}
    first, *rest = below.subplots(1, 2, width_ratios=(3, 2)) if rates else [below.subplots()]
    curves = [first_epochs(group, images) for group in networks]
    look.draw_curves(first, curves, "accuracy", images)
    epochs = max(curve.values.shape[1] for curve in curves)
    first.set_title(f"Test accuracy, the first {epochs} epochs" if epochs > 1 else "Test accuracy, the first epoch")
    for axes in rest:
        draw_rates(axes, *rates)
        axes.set_title("Learning rate")
    look.label_ends([*panels, (first, curves)])
    history = networks[0][0].history
    counts = [
        f"{name_of(group[0].history)} {mean_wrong(group)}".replace(" ", "\N{NO-BREAK SPACE}") for group in networks
    ]
    on = f"Wrong of the {history['test_images']:,} test images of {readable(history['data'])} after the last epoch"
    set_title(figure, f"{on}{band_note(networks)}: {', '.join(counts)}")
    return figure


def longest(group: list[Run]) -> int:
    return max(epochs_done(run.history) for run in group)


def title_of(group: list[Run]) -> str:
    """In lines that a narrow panel takes."""
    history, name = group[0].history, name_of(group[0].history)
    early = [end_of(history)] if epochs_done(history) < history["epochs"] else []
    return "\n".join([*wrap(name, 28 if name.isascii() else 16), f"{history['parameters']:,} parameters", *early])


def first_epochs(group: list[Run], images: int) -> Curve:
    values = np.array([run.history["test_accuracy"][:FIRST_EPOCHS] for run in group])
    label = f"{name_of(group[0].history)}  {look.metric_text('accuracy', values[:, -1].mean())}"
    return Curve(label, look.plot_values("accuracy", values, images), look.line_style(*configuration(group[0])))


def mean_wrong(group: list[Run]) -> str:
    mean = np.mean([wrong_images(run.history) for run in group])
    return f"{mean:,.0f}" if len(group) == 1 else f"{mean:,.1f}"


# --- the command line -------------------------------------------------------------------------------------------------


def figures(runs: list[Run], study: list[Run]) -> Iterator[tuple[str, str | None, Callable[[], Figure]]]:
    """The name of each figure that these runs allow, the digest of the run that it shows, and what draws it."""
    for path, history, arrays in runs:
        yield f"{path.stem}.png", history["digest"], partial(draw_run, history)
        drawings = (
            ("confusion", "labels", draw_confusion),
            ("mistakes", "mistake_images", draw_mistakes),
            ("filters", "c1", draw_filters),
        )
        for ending, array, draw in drawings:
            if array in arrays:
                yield f"{path.stem}_{ending}.png", history["digest"], partial(draw, history, arrays)
    augmented = next((run for run in (*runs, *study) if "warped" in run.arrays), None)
    if augmented:
        draw_its = partial(draw_augmentation, augmented.history, augmented.arrays)
        yield "augmentation.png", augmented.history["digest"], draw_its
    yield "comparison.png", None, partial(draw_comparison, runs, study)
    if networks := comparable(runs) or comparable(study):
        yield "networks.png", None, partial(draw_networks, networks)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description="Redraw the figures of all runs from what main.py saved.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output-dir", type=Path, default=Path("result_plot"), help="folder of the runs and figures")
    return parser.parse_args(argv)


def redraw(argv: list[str] | None) -> int:
    """Everything is read before anything is drawn; a figure that fails costs that figure only, and status 1."""
    folder = parse_arguments(argv).output_dir
    runs, study = read_runs(folder), read_runs(folder / STUDY)
    if not runs and not study:
        raise UserError(
            f"{printable(folder.absolute())}: holds no NAME.json of a run: train one first, "
            "as in python main.py --model lenet"
        )
    status = 0
    for name, digest, draw in figures(runs, study):
        try:
            figure = draw()
            replace(folder / name, partial(save, figure, digest=digest))
        except Exception as error:  # of matplotlib's, whose kinds are many
            problem = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            print_error(f"error: {printable(folder / name)}: cannot be drawn: {shorten(str(problem))}")
            status = 1
        else:
            say(printable(folder / name))
    return status


def main(argv: list[str] | None = None) -> None:
    """Run the command line. Raises SystemExit with a status other than 0 where something fails."""
    run_command(partial(redraw, argv))


if __name__ == "__main__":
    main()
