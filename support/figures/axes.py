"""Style, names and colours of all figures; curves on logarithmic axes, with labels at their ends.

A function that draws is marked `@styled`: it gives the same figure whatever the user's own matplotlib settings are.
"""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator

from support.run import History
from support.terminal import printable

# The first comes with matplotlib; a letter that it lacks is taken from the next font that is installed and has it.
FONTS = ["DejaVu Sans", "Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans KR", "NanumGothic"]
FONTS += ["Malgun Gothic", "Apple SD Gothic Neo", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei"]
STYLE: dict[str, Any] = {
    "figure.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": [font for font in FONTS if font in get_font_names()],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "lines.markersize": 4,
}
# Colours of Okabe and Ito, "Color Universal Design", 2008: told apart with every kind of colour vision. Line styles and
# markers say the same again, for print without colour.
TRAIN: dict[str, Any] = {"color": "#d55e00", "linestyle": "--", "marker": "s"}
CLEAN: dict[str, Any] = {"color": "#56b4e9", "linestyle": "-.", "marker": "^"}
TEST: dict[str, Any] = {"color": "#0072b2", "linestyle": "-", "marker": "o"}
MODELS = {  # name in figures, colour, marker; in this order
    "lenet": ("LeNet-5", "#000000", "o"),
    "lenet_bn": ("BN-LeNet-5", "#009e73", "s"),
    "mlp": ("Custom-MLP", "#cc79a7", "^"),
}
OTHER_COLORS, OTHER_MARKERS = ("#e69f00", "#56b4e9", "#0072b2", "#d55e00"), "DvP<X>*"  # of networks of one's own
PALE, BAND = "#b0b0b0", 0.2  # colour of what stands back; opacity of a band
SMALL = 8  # points; text inside of a picture
PANEL = (5.6, 4.2)  # inches, width and height of one panel of curves
# Drawn in place of 0, which a logarithmic axis lacks: less than 1 of 60,000 images; float32's least loss above 0.
ERROR_FLOOR, LOSS_FLOOR = 1e-5, 2.0**-24


@contextmanager
def in_style() -> Iterator[None]:
    """Matplotlib's defaults and STYLE in place of the user's settings; no warnings of letters that no font has."""
    with warnings.catch_warnings(), style.context(["default", STYLE]):
        warnings.filterwarnings("ignore", "Glyph .* missing|Matplotlib currently does not support")
        yield


styled = in_style()  # a context manager of contextlib is a decorator, too


def save(figure: Figure, file: BinaryIO, digest: str | None = None) -> None:
    """Write the figure as PNG into a binary file; `digest`, of the run that it shows, as the PNG's text `digest`."""
    with in_style():
        figure.savefig(file, format="png", metadata={"digest": digest} if digest else None)


def readable(name: str) -> str:
    """A name as a figure can show it: in one line, not too long."""
    text = printable(name)
    most = 40 if text.isascii() else 20  # a Korean or Chinese letter is as wide as two
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return short.replace("$", r"\$")  # matplotlib would read what stands between two of them as a formula


def figure_name(model: str, augment: bool) -> str:
    return (MODELS[model][0] if model in MODELS else readable(model)) + (" + augmentation" if augment else "")


def line_style(model: str, augment: bool) -> dict[str, Any]:
    """Augmented runs are dashed; a network of one's own looks the same in all figures."""
    number = zlib.crc32(model.encode(errors="replace"))
    other = ("", OTHER_COLORS[number % len(OTHER_COLORS)], OTHER_MARKERS[number % len(OTHER_MARKERS)])
    _, color, marker = MODELS.get(model, other)
    return {"color": color, "marker": marker, "linestyle": "--" if augment else "-"}


def percent(fraction: float, digits: int = 2) -> str:
    """In per cent; what is less than 1 is never rounded up to 100 %."""
    text = f"{100 * fraction:.{digits}f} %"
    return f"> {100 - 10**-digits:.{digits}f} %" if fraction < 1 and text.startswith("100") else text


def metric_text(metric: str, value: float) -> str:
    """A loss or an accuracy in words."""
    return percent(value) if metric.endswith("accuracy") else f"{value:.4f}" if value < 1e4 else f"{value:.3g}"


def set_title(figure: Figure, finding: str, note: str = "") -> None:
    """The title of a figure, and a note below it, in as many lines as its width takes."""
    figure.suptitle(finding.replace(" %", "\N{NO-BREAK SPACE}%"), wrap=True)
    figure.supxlabel(note, wrap=True, fontsize=SMALL)


class Curve(NamedTuple):
    """A line over the epochs: label at its end, values (runs, epochs) as `plot_values` makes them, the line's style."""

    label: str
    values: np.ndarray
    style: dict[str, Any]


def plot_values(metric: str, values: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """What a logarithmic axis shows: the error in place of an accuracy, and never 0."""
    accuracy = metric.endswith("accuracy")
    return np.maximum(1 - np.asarray(values) if accuracy else values, ERROR_FLOOR if accuracy else LOSS_FLOOR)


def make_curve(words: str, histories: list[History], metric: str, style: dict[str, Any]) -> Curve:
    """The curve of a metric of some runs; its last mean stands behind the words of its label."""
    values = np.array([history[metric] for history in histories])
    return Curve(f"{words}{metric_text(metric, values[:, -1].mean())}", plot_values(metric, values), style)


def draw_curves(panels: list[tuple[Axes, list[Curve]]], metric: str) -> None:
    """Draw the mean of each curve's runs, in a band of one standard deviation, in all panels on the same y axis."""
    values = np.concatenate([curve.values.ravel() for _, curves in panels for curve in curves])
    for axes, curves in panels:
        for curve in curves:
            mean, epochs = curve.values.mean(0), np.arange(1, curve.values.shape[1] + 1)
            axes.plot(epochs, mean, markevery=max(1, len(epochs) // 10), **curve.style)
            if len(curve.values) > 1:
                deviation = curve.values.std(0, ddof=1)
                low, high = np.maximum(mean - deviation, values.min()), mean + deviation
                axes.fill_between(epochs, low, high, color=curve.style["color"], alpha=BAND, linewidth=0)
        epoch_axis(axes, max(curve.values.shape[1] for curve in curves))
        log_axis(axes, values, metric)


def epoch_axis(axes: Axes, epochs: int, start: float = 0.5) -> None:
    axes.set_xlim(start, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")


def log_axis(axes: Axes, values: np.ndarray, metric: str) -> None:
    """Make y logarithmic around `values`, named by the metric; an accuracy is drawn by its error, upside down."""
    margin = max(1.15, (values.max() / values.min()) ** 0.12)  # room for a label; some, too, where all are equal
    low, high = values.min() / margin, values.max() * margin
    axes.set_ylim(low, high)  # first: a logarithmic axis cannot find limits for values that are all equal
    axes.set_yscale("log")
    axes.yaxis.minorticks_off()
    steps = (1, 1.5, 2, 3, 4, 6, 8) if high / low < 20 else (1, 2, 5) if high / low < 3000 else (1,)
    locator = LogLocator(subs=steps, numticks=9) if high / low > 3 else MaxNLocator(5)
    ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    if metric.endswith("accuracy"):
        ticks = [tick for tick in ticks if 0.9 * ERROR_FLOOR < tick <= 1]
        axes.set_yticks(ticks, [f"{100 - 100 * tick:.8g}" if tick > 1.1 * ERROR_FLOOR else "100" for tick in ticks])
        axes.yaxis.set_inverted(True)
        axes.set_ylabel("accuracy (%), logarithmic in the error")
    else:
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylabel(f"{'loss (nats)' if metric.endswith('loss') else metric}, logarithmic")


def label_ends(panels: list[tuple[Axes, list[Curve]]]) -> None:
    """Write the curves' labels at their ends, apart where they would overlap, in all panels of a figure at once."""
    labels = []
    for axes, curves in panels:
        for curve in curves:
            end, color = (curve.values.shape[1], curve.values.mean(0)[-1]), {"color": curve.style["color"]}
            # the line ends left of the words, so that it runs into none
            line = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)} | color
            label = axes.annotate(curve.label, end, (1.05, 0.5), "data", "axes fraction", line, va="center", **color)
            labels.append(label)
    figure: Figure = panels[0][0].get_figure(root=True)  # type: ignore[assignment]
    figure.draw_without_rendering()  # tells how high texts and axes are
    figure.set_layout_engine("none")  # and so they stay
    for axes, curves in panels:
        texts, labels = labels[: len(curves)], labels[len(curves) :]
        gap = 1.25 * max(Text.get_window_extent(text).height for text in texts) / axes.bbox.height
        ends = [axes.transAxes.inverted().transform(axes.transData.transform(text.xy))[1] for text in texts]
        for text, height in zip(texts, spread(ends, gap), strict=True):
            text.set_y(height)


def spread(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Heights at least `gap` apart, within 0 to 1 if they fit, such that the largest move away from `wanted` is least.

    Isotonic regression, in the maximum norm, of the sorted heights less i * gap: the mean of both running extremes.
    """
    order, steps = np.argsort(wanted, kind="stable"), np.arange(len(wanted)) * gap
    level = np.asarray(wanted)[order] - steps
    middle = (np.maximum.accumulate(level) + np.minimum.accumulate(level[::-1])[::-1]) / 2
    return (np.clip(middle, 0, max(0, 1 - steps[-1])) + steps)[np.argsort(order)]
