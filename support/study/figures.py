"""The figures of the study. Their titles say what the numbers carry, whatever study it is."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gmean

from support import figures
from support.figures import Curve, figure_name, line_style, percent, plot_values, set_title, styled
from support.study import results
from support.study.results import AUGMENTED, MLP, NORMALIZED, PLAIN, Configuration, Difference, Groups
from support.study.statistics import ALPHA

UNITS = {"accuracy": "percentage points: right is better", "loss": "nats: left is better"}
COLORS = {True: "#0072b2", False: "#7f7f7f"}  # of a significant difference, and of one that is not
CURVES = {  # of accuracy: label and style, by what stands before `_accuracy` in the history
    "train": ("train, as the epoch runs", figures.TRAIN),
    "augmented_train": ("train, weights as in test", {"color": "#e69f00", "linestyle": ":", "marker": "D"}),
    "clean_train": ("train, weights as in test, not augmented", figures.CLEAN),
    "test": ("test", figures.TEST),
}


@styled
def draw_differences(found: list[Difference]) -> Figure:
    """A forest plot: of each difference every seed, the interval of new seeds, and that of new test images, too.

    What has to do with the MLP is ten times as large as the rest, and has axes of its own.
    """
    figure = Figure((12.5, 6.2))
    panels = figure.subplots(2, 2, sharey="row", height_ratios=(6, 2))
    for row, of_mlp in zip(panels, (False, True), strict=True):
        for axes, (metric, unit) in zip(row, UNITS.items(), strict=True):
            draw_forest(axes, [one for one in found if one.metric == metric and ("MLP" in one.name) == of_mlp])
            axes.set_xlabel(f"difference in test {metric} after the last epoch, {unit}")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    words = []
    for part in ("augmentation", "batch normalization"):
        some = [one for one in found if one.metric == "accuracy" and one.name.startswith(part)]
        better = sum(one.holm < ALPHA and one.paired[0] > 0 for one in some)
        words.append(f"with {part} in {better} of {len(some)} comparisons")
    set_title(figure, f"Test accuracy is significantly higher {', '.join(words)}")
    return figure


def draw_forest(axes: Axes, found: list[Difference]) -> None:
    axes.use_sticky_edges = False  # else the axes end where the bars do
    for row, one in enumerate(found):
        factor, color = 100 if one.metric == "accuracy" else 1, COLORS[one.holm < ALPHA]
        value, low, high = (factor * number for number in one.paired[:3])
        axes.barh(row, factor * np.ptp(one.resampled), 0.35, factor * one.resampled[0], color=color, alpha=0.25)
        axes.plot(factor * one.values, np.full(len(one.values), row + 0.3), ".", color=color, alpha=0.5)
        axes.errorbar(value, row, xerr=[[value - low], [high - value]], fmt="o", color=color, capsize=3)
    for significant, words in {True: "significant (Holm p < 0.05)", False: "not significant"}.items():
        axes.errorbar([], [], xerr=[], fmt="o", color=COLORS[significant], capsize=3, label=f"95 % CI, {words}")
    axes.fill_between([], [], [], color=figures.PALE, label="95 % CI, test images resampled")
    axes.plot([], [], ".", color=figures.PALE, label=f"one of {len(found[0].values)} seeds")
    axes.axvline(0, color="#404040", linewidth=0.8)
    axes.set(yticks=range(len(found)), yticklabels=[one.name for one in found], ylim=(len(found) - 0.5, -0.5))
    axes.grid(False, axis="y")


@styled
def draw_train_test(groups: Groups) -> Figure:
    """Accuracy on training images as the epoch runs and with the weights that are tested, and on the test images."""
    figure, panels = Figure((2.5 * figures.PANEL[0], 2.85 * figures.PANEL[1])), []
    for axes, (key, group) in zip(figure.subplots(3, 2).ravel(), groups.items(), strict=True):
        histories, curves = [run.history for run in group], []
        for prefix, (label, style) in CURVES.items():
            if f"{prefix}_accuracy" in histories[0]:
                label = label if key[1] else label.removesuffix(", not augmented")
                curves.append(figures.make_curve(f"{label}  ", histories, f"{prefix}_accuracy", style))
        axes.set_title(figure_name(*key))
        panels.append((axes, curves))
    figures.draw_curves(panels, "accuracy")
    parts = [results.decomposition(group) for key, group in groups.items() if key[1]]
    runs, same = (percent(float(np.mean([one[part] > 0 for one in parts])), 0) for part in ("test - train", "digits"))
    finding = f"With augmentation test accuracy is above train accuracy in {runs} of the epochs"
    set_title(figure, f"{finding}, but in {same} with the same weights on clean images", note_of(groups))
    figures.label_ends(panels)  # last: where labels go depends on the height of the axes
    return figure


def note_of(groups: Groups) -> str:
    return f"mean of {len(groups[PLAIN])} seeds ± 1 standard deviation"


@styled
def draw_gradients(groups: Groups) -> Figure:
    """‖g‖·‖W‖ by layer with and without batch normalization; in the last panel ‖g‖ of the first layer by the last's."""
    pair = {key: groups[key] for key in (PLAIN, NORMALIZED)}
    layers = [layer.upper() for layer in results.layers(groups[PLAIN])]
    scaled = {key: results.gradients(group) for key, group in pair.items()}
    drawn = {f"{layer}, ‖g‖·‖W‖": {key: scaled[key][index] for key in pair} for index, layer in enumerate(layers)}
    drawn[f"‖g‖ of {layers[0]} / ‖g‖ of {layers[-1]}"] = {key: results.first_to_last(pair[key]) for key in pair}
    figure = Figure((3 * figures.PANEL[0], 1.7 * figures.PANEL[1]))
    every = figure.subplots(2, -(-len(drawn) // 2)).ravel()
    epochs = range(groups[PLAIN][0].history["epochs"] + 1)
    panels = [draw_panel(axes, *one, epochs) for axes, one in zip(every, drawn.items(), strict=False)]
    ratios = gmean(results.gradient_ratio(groups), axis=1)
    words = f"{times(ratios[:, 0])} before training, {times(ratios[:, -1])} at the end"
    set_title(figure, f"Batch normalization: gradients {words}", f"W: weights, g: gradient; {note_of(groups)}")
    figures.label_ends(panels)
    return figure


def times(ratios: np.ndarray | list[float]) -> str:
    """By how much something is larger or smaller, from the least to the most of several ratios."""
    if min(ratios) > 1:
        return f"{min(ratios):.0f} to {max(ratios):.0f} times larger"
    if max(ratios) < 1:
        return f"{1 / max(ratios):.0f} to {1 / min(ratios):.0f} times smaller"
    return f"{min(ratios):.1f} to {max(ratios):.1f} times as large"


@styled
def draw_moved(groups: Groups) -> Figure:
    """Accuracy against the shift and against the angle."""
    figure, panels = Figure((2.5 * figures.PANEL[0], 1.15 * figures.PANEL[1])), []
    kinds = {"shift": "shifted by pixels, mean of four ways", "turn": "turned by degrees, mean of both ways"}
    for axes, (kind, label) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        names = [f"accuracy_{kind}{size}" for size in results.MOVES[kind]]
        values = {
            key: np.column_stack([results.last(group, "accuracy"), *(results.stack(group, name) for name in names)])
            for key, group in groups.items()
        }
        panels.append(draw_panel(axes, "accuracy", values, [0, *results.MOVES[kind]]))
        axes.set_xlabel(label)
    shares = [percent(results.stack(groups[key], "accuracy_shift4").mean(), 0) for key in (MLP, PLAIN, AUGMENTED)]
    words = f"Custom-MLP gets {shares[0]} right, LeNet-5 {shares[1]}, LeNet-5 with augmentation {shares[2]}"
    set_title(figure, f"Of digits shifted by 4 pixels {words}", note_of(groups))
    figures.label_ends(panels)
    return figure


def draw_panel(
    axes: Axes, metric: str, values: dict[Configuration, np.ndarray], sizes: Sequence[int]
) -> tuple[Axes, list[Curve]]:
    """A curve a configuration, of values (seeds, sizes)."""
    curves = []
    for key, found in values.items():
        end = f"  {percent(found[:, -1].mean(), 1)}" if metric == "accuracy" else ""
        curves.append(Curve(figure_name(*key) + end, plot_values(metric, found), line_style(*key)))
    figures.draw_curves([(axes, curves)], metric)
    every = -(-len(sizes) // 11)
    axes.set_xticks(range(1, len(sizes) + 1, every), [str(size) for size in sizes[::every]])
    axes.set_xlabel("epoch; 0 is before training")
    return axes, curves


def drawings(groups: Groups, found: list[Difference]) -> dict[str, Figure]:
    """All figures, by the names of their files."""
    drawn = {"train_test": draw_train_test(groups), "gradients": draw_gradients(groups), "moved": draw_moved(groups)}
    return {f"{name}.png": figure for name, figure in {"differences": draw_differences(found), **drawn}.items()}
