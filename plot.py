"""Draw what `main.py` measured, from result_plot/NAME.json and NAME.npz alone: no torch, no network, no data set.

    python plot.py [--output-dir result_plot]

A run gives NAME.png (its curves), NAME_confusion.png, NAME_mistakes.png and NAME_filters.png. All runs together give
comparison.png, in which those of the study, in result_plot/study, stand behind, and networks.png, one below the other;
an augmented run augmentation.png. The figures of the study: `python study.py --report`.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from support import figures
from support.figures import Axes, Curve, Figure, end_of, make_curve, name_of, percent, readable, save, styled
from support.files import replace
from support.run import History, Run, epochs_done, held_out, mistakes, read_runs
from support.terminal import Parser, UserError, printable, run_command, warn

Arrays = dict[str, np.ndarray]
Groups = dict[str, list[History]]  # runs of equal settings, by the label of their curve

STUDY = "study"  # the folder of its runs, within that of the reader's
COLUMNS, MAX_MISTAKES = 8, 40  # of the picture of mistakes: 5 rows of 8 are legible on half a page
MAX_FILTERS, MAX_CLASSES, MAX_NETWORKS = 64, 40, 6  # as many as one picture can hold
BEHIND = {"color": "#a0a0a0", "linewidth": 0.9, "markersize": 2.5, "zorder": 1.5}  # of the study's curves
# Of errors, as shares of the label's images: the same for all runs.
SHADES: dict[str, Any] = {"cmap": "Oranges", "norm": "log", "vmin": 0.0005, "vmax": 0.1}
INK: dict[str, Any] = {"cmap": "gray_r", "vmin": 0, "vmax": 255}  # dark on white


def wrong_images(history: History) -> int:
    """How many test images were wrong after the last epoch."""
    return round((1 - history["test_accuracy"][-1]) * history["test_images"])


def title_of(history: History) -> str:
    """Which run it is, and how many test images it gets wrong."""
    wrong = f"{wrong_images(history):,} of {history['test_images']:,} {held_out(history)} images wrong"
    return f"{name_of(history)} on {readable(history['data'])}, seed {history['seed']}: {wrong}"


def who_errs_more(groups: Groups) -> str:
    """The most errors against the fewest, if they differ by more than chance: by twice the square root of their sum."""
    wrong = sorted((float(np.mean([wrong_images(one) for one in group])), label) for label, group in groups.items())
    (fewest, best), (most, worst) = wrong[0], wrong[-1]
    if most - fewest > 2 * math.sqrt(most + fewest):
        how_often = f"{most / fewest:,.1f} times as often as" if fewest else "more often than"
        words = f"{worst} errs {how_often} {best}: {most:,.0f} and {fewest:,.0f}"
    else:
        words = f"No clear difference: {fewest:,.0f} to {most:,.0f}" if len(wrong) > 1 else f"{best}: {fewest:,.0f}"
    history = next(iter(groups.values()))[0]
    images = f"{readable(history['data'])} {held_out(history)} images"
    return f"{words} of {history['test_images']:,} {images} wrong"


def band_note(groups: Groups) -> str:
    """What each curve shows: one run, or the mean of several."""
    counts, seeds = {len(group) for group in groups.values()}, {group[0]["seed"] for group in groups.values()}
    if max(counts) == 1:
        return f"one run each, seed {seeds.pop()}" if len(seeds) == 1 else "one run each"
    number = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    return f"mean of {number} runs each, in a band of ± 1 standard deviation"


@styled
def draw_run(history: History) -> Figure:
    """Loss and accuracy, train and test, and the learning rate, against the epoch."""
    return draw_rows({"": [history]}, f"{title_of(history)} after {end_of(history)}")


@styled
def draw_networks(groups: Groups) -> Figure:
    """The same for several networks, one below the other on the same axes."""
    return draw_rows(groups, who_errs_more(groups), band_note(groups))


def draw_rows(groups: Groups, title: str, note: str = "") -> Figure:
    """A row for the runs of each network: loss and accuracy, train and test; in the last row the learning rate."""
    heights = [6] * len(groups) + [1]
    figure = Figure((2 * figures.PANEL[0], 3.2 * len(groups) + 1.6))
    figures.set_title(figure, title, note)
    panels = []
    grid = figure.subplots(len(heights), 2, sharex=True, height_ratios=heights)
    for column, metric in zip(grid.T, ("loss", "accuracy"), strict=True):
        for axes, (label, histories) in zip(column[:-1], groups.items(), strict=True):
            curves, ends = train_and_test(histories, metric)
            name = fill(f"{label}, {histories[0]['parameters']:,} parameters", 55) + "\n" if label else ""
            axes.set_title(f"{name}{ends}")
            panels.append((axes, curves))
        figures.draw_curves(panels[-len(groups) :], metric)
        draw_rates(column[-1], max((group[0] for group in groups.values()), key=epochs_done))
    for axes, _ in panels:
        axes.set_xlabel("")
    figures.label_ends(panels)
    return figure


def train_and_test(histories: list[History], metric: str) -> tuple[list[Curve], str]:
    """The curves of a panel, and how they end. The best epoch is named where one may choose: on a validation set."""
    tested, augmented = held_out(histories[0]), " (augmented)" if histories[0]["augment"] else ""
    train = make_curve(f"train{augmented}\n", histories, f"train_{metric}", figures.TRAIN)
    test = make_curve(f"{tested}\n", histories, f"test_{metric}", figures.TEST)
    shown, mean = "error" if metric == "accuracy" else metric, test.values.mean(0)
    best = f",\nlowest in epoch {mean.argmin() + 1}" if tested == "validation" else ""
    least = train.values[:, -1].mean()
    ratio = f"{'over ' if least == figures.ERROR_FLOOR else ''}{mean[-1] / least:.3g}"
    return [train, test], f"{tested.capitalize()} {shown} ends at {ratio} times the train {shown}{best}"


def draw_rates(axes: Axes, history: History) -> None:
    """The learning rate from the start, epoch 0, to the run's last epoch."""
    corners, rates = learning_rates(history)
    highest = max([*rates, 1e-9])
    axes.plot(corners, rates, color="#606060", marker="." if len(rates) == 1 else "")
    figures.epoch_axis(axes, epochs_done(history), start=0)
    axes.set(ylabel="learning\nrate", ylim=(0, 1.15 * highest))
    axes.set_yticks([0, highest], ["0", f"{highest:.3g}"])


def learning_rates(history: History) -> tuple[list[float], list[float]]:
    """The corners of the learning rate, which is a straight line in between: (epochs, rates).

    The history's fields give the schedule: warm-up, constant, decay to 0. The rates that it notes at the first step of
    each epoch miss a warm-up within the first and the end; they are drawn where the fields are missing or wrong.
    """
    noted, lr, planned = history.get("learning_rate", []), history["lr"], history["epochs"]
    warmup_steps, max_warmup, decay = (history.get(name, 0) for name in ("warmup_steps", "max_warmup", "decay"))
    steps = math.ceil(history["train_images"] / history["batch_size"])  # an epoch
    corners = [0, min(warmup_steps / steps, max_warmup * planned), planned * (1 - decay), planned]
    rates = [0, lr, lr, 0]
    if np.allclose(np.interp(np.arange(len(noted)) + 0.5 / steps, corners, rates), noted, rtol=1e-3):
        return corners, rates
    return list(range(len(noted))), noted


@styled
def draw_comparison(runs: list[Run], study: list[Run]) -> Figure:
    """Loss and accuracy, test and train, of the reader's runs, in front of the study's; none is drawn twice."""
    known = [run.history["test_loss"] for run in study]  # only the same training gives the same to the last bit
    own = [run for run in runs if run.history["test_loss"] not in known]
    front, left_out = on_one_test_set(own or study)
    tested_on = figures.test_set(next(iter(front.values()))[0])
    behind = figures.curves_of([run for run in study if own and figures.test_set(run.history) == tested_on])
    behind = {f"study: {label}": group for label, group in behind.items()}
    notes = [band_note(front), *([f"gray: the study, {band_note(behind)}"] if behind else [])]
    notes += [f"not shown, because of other test images: {', '.join(left_out)}"] if left_out else []
    drawn = front | behind
    figure = Figure((2.7 * figures.PANEL[0], 2 * max(figures.PANEL[1], 0.2 * len(drawn) + 1)))
    figures.set_title(figure, who_errs_more(front), "; ".join(notes))
    panels = []
    names = ("test_loss", "test_accuracy", "train_loss", "train_accuracy")
    for axes, name in zip(figure.subplots(2, 2).flat, names, strict=True):
        curves = []
        for label, group in drawn.items():
            # several curves of one model, which their labels tell apart, have colours of their own
            style = figures.line_style(label if "," in label else group[0]["model"], group[0]["augment"])
            curves.append(make_curve(f"{label}  ", group, name, style | (BEHIND if label in behind else {})))
        panels.append((axes, curves))
        figures.draw_curves(panels[-1:], name)
        axes.set_title(name.replace("test", tested_on[0]).replace("_", " ").capitalize())
    figures.label_ends(panels)
    return figure


def on_one_test_set(runs: list[Run]) -> tuple[Groups, list[str]]:
    """The curves on MNIST's test images, if there are any, else on those of most runs; the names of the other runs."""
    on_each = figures.group_by(runs, lambda run: figures.test_set(run.history)).values()
    shown = max(on_each, key=lambda some: (any(run.history["data"] == "MNIST" for run in some), len(some)))
    others = [readable(run.history["name"]) for some in on_each if some is not shown for run in some]
    return figures.curves_of(shown), others


@styled
def draw_confusion(history: History, arrays: Arrays) -> Figure:
    """Counts of label (rows) against prediction (columns), coloured by the share of the label's images."""
    classes = history["classes"]
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (arrays["labels"], arrays["predictions"]), 1)
    totals, errors = counts.sum(1), counts * (1 - np.eye(classes, dtype=int))
    shares = errors / np.maximum(totals, 1)[:, None]
    most = [f"{label} as {prediction} ({errors.max():,})" for label, prediction in np.argwhere(errors == errors.max())]
    often = f", most often {', '.join(most)}" if errors.any() and len(most) < 4 else ""
    figure = Figure((0.53 * classes + 3.2, 0.46 * classes + 1.8) if 8 < classes <= MAX_CLASSES else (8.5, 6.4))
    figures.set_title(figure, f"{title_of(history)}{often}")
    axes = figure.subplots()
    picture = axes.imshow(np.ma.masked_equal(shares, 0), **SHADES, aspect="auto")
    bar = figure.colorbar(picture, ax=axes, label="wrong, of the label's images", extend="max", pad=0.02, aspect=30)
    bar.set_ticks([0.001, 0.01, 0.1], labels=["0.1 %", "1 %", "10 %"])
    axes.set(xlabel="prediction", ylabel="label, and the share of its images that are right")
    axes.grid(False)
    if classes <= MAX_CLASSES:  # of more only the colours are legible
        for row, column in np.argwhere(counts):
            color, words = "#ffffff" if shares[row, column] > 0.03 else "#000000", f"{counts[row, column]}"
            axes.text(column, row, words, ha="center", va="center", color=color, fontsize=figures.SMALL)
        right = [percent(counts[label, label] / total, 1) if total else "none" for label, total in enumerate(totals)]
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes), [f"{label}: {share}" for label, share in enumerate(right)])
    return figure


@styled
def draw_mistakes(history: History, arrays: Arrays) -> Figure:
    """The wrong test images, the most confident first, as many as fit."""
    kinds = ("labels", "predictions", "confidence")
    labels, predictions, confidence = (arrays[kind][mistakes(arrays)] for kind in kinds)
    order = np.argsort(-confidence, kind="stable")[:MAX_MISTAKES]
    words = [f"{labels[index]} → {predictions[index]}, {percent(confidence[index], 1)}" for index in order]
    figure = draw_images(arrays["mistake_images"][order], words, COLUMNS, **INK)
    sure = f", {(confidence > 0.9).sum():,} of them with a probability above 90 %" if len(labels) else ""
    note = f"{len(order)} of {len(labels):,}, the most confident first: label → prediction, its probability"
    figures.set_title(figure, f"{title_of(history)}{sure}", note)
    return figure


@styled
def draw_augmentation(history: History, arrays: Arrays) -> Figure:
    """The first training image of each class, beside its warps; a class without images leaves its row empty."""
    images = np.concatenate([arrays["originals"][:MAX_CLASSES, None], arrays["warped"][:MAX_CLASSES]], 1)
    titles = ["original", *(f"draw {number}" for number in range(1, images.shape[1]))]
    figure = draw_images(images.reshape(-1, *images.shape[2:]), titles, len(titles), **INK)
    weakest, strongest = (history.get(f"augment_strength_{end}", "?") for end in ("min", "max"))
    note = f"draws at full strength; in training each image's strength is drawn from {weakest} to {strongest}"
    figures.set_title(figure, "Augmentation: no training image looks the same in two epochs", note)
    return figure


@styled
def draw_filters(history: History, arrays: Arrays) -> Figure:
    """The filters of C1, row by row on one scale: white is 0."""
    filters, number = np.nan_to_num(arrays["c1"][:MAX_FILTERS, 0]), len(arrays["c1"])
    largest = max(np.abs(filters).max(), 1e-9)
    figure = draw_images(filters, [], min(number, COLUMNS), cmap="RdBu_r", vmin=-largest, vmax=largest)
    label = "weight: red for ink,\nblue against it"
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label=label, fraction=0.03)
    shown = f"{len(filters)} of the {number:,}" if number > MAX_FILTERS else f"the {number}"
    title = f"What {name_of(history)} looks for first: {shown} filters of C1 after {end_of(history)}"
    figures.set_title(figure, title, f"one run, seed {history['seed']}")
    return figure


def draw_images(images: np.ndarray, titles: list[str], columns: int, **colors: Any) -> Figure:
    """A figure of images (N, H, W), `columns` in a row, drawn as one picture, with titles above, if there are any."""
    number, height, width = images.shape
    rows, letters = max(1, math.ceil(number / columns)), max(map(len, titles), default=0)
    above, beside = (12, max(7, 2 * letters - 20)) if titles else (1, 1)  # pixels of an image, room for its title
    cells = np.full((rows * columns, above + height, width + beside), np.nan)
    cells[:number, above:, :width] = images
    picture = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2).reshape(rows * (above + height), -1)
    figure = Figure((max(5, columns * (1 + beside / width)), rows * (1 + above / height) + 0.8))
    axes = figure.subplots()
    axes.imshow(np.ma.masked_invalid(picture), **colors)
    axes.axis("off")
    for position, title in enumerate(titles):
        x, y = position % columns * (width + beside) + width / 2, position // columns * (above + height) + above - 2
        axes.text(x, y, title, ha="center", fontsize=figures.SMALL)
    return figure


def drawings(runs: list[Run], study: list[Run]) -> Iterator[tuple[str, str | None, Callable[[], Figure]]]:
    """The name of each figure that these runs allow, the digest of the run that it shows, and what draws it."""
    pictures = {"confusion": ("labels", draw_confusion), "mistakes": ("mistake_images", draw_mistakes)}
    pictures["filters"] = ("c1", draw_filters)
    for path, history, arrays in runs:
        yield f"{path.stem}.png", history["digest"], partial(draw_run, history)
        for ending, (needed, draw) in pictures.items():
            if needed in arrays:
                yield f"{path.stem}_{ending}.png", history["digest"], partial(draw, history, arrays)
    if augmented := [run for run in (*runs, *study) if "warped" in run.arrays]:
        _, history, arrays = augmented[0]
        yield "augmentation.png", history["digest"], partial(draw_augmentation, history, arrays)
    yield "comparison.png", None, partial(draw_comparison, runs, study)
    networks, _ = on_one_test_set(runs or study)
    if len(networks) > 1:
        yield "networks.png", None, partial(draw_networks, dict(list(networks.items())[:MAX_NETWORKS]))


def redraw(argv: list[str] | None) -> int:
    """Draw everything; returns the exit status. A figure that fails is named, and the rest is drawn."""
    parser = Parser(description="Redraw the figures of all runs from what main.py saved.")
    parser.add_argument("--output-dir", type=Path, default="result_plot", help="folder of the runs (result_plot)")
    folder = parser.parse_args(argv).output_dir
    runs, study, status = read_runs(folder), read_runs(folder / STUDY), 0
    if not runs and not study:
        found = f"{printable(folder.absolute())}: holds no result of a run"
        raise UserError(f"{found}: train one first, as in python main.py --model lenet")
    for name, digest, draw in drawings(runs, study):
        try:
            figure = draw()
            replace(folder / name, partial(save, figure, digest=digest))
        except Exception as error:  # of matplotlib's, whose kinds are many
            warn(f"{printable(folder / name)}: cannot be drawn: {error!r:.200}", "error")
            status = 1
        else:
            print(printable(folder / name))
    return status


def main(argv: list[str] | None = None) -> None:
    """Run the command line. Raises SystemExit with a status other than 0 where something fails."""
    run_command(partial(redraw, argv))


if __name__ == "__main__":
    main()
