"""The look of all figures: style, fonts, names and colours; curves on logarithmic axes, with labels at their ends.

It knows nothing of folders, files or what a figure is about, and needs neither torch nor pyplot. A function that draws
is marked `@styled`: it then gives the same figure whatever the user's own matplotlib settings are.
"""

import logging
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from itertools import product
from textwrap import wrap
from typing import Any, BinaryIO, NamedTuple, ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, findfont, fontManager, get_font
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator

from support.terminal import printable

Arguments = ParamSpec("Arguments")

FONT = "DejaVu Sans"  # comes with matplotlib
STYLE: dict[str, Any] = {
    "figure.dpi": 200,
    "savefig.dpi": "figure",
    "figure.constrained_layout.use": True,
    "font.family": [FONT],
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
TRAIN: dict[str, Any] = {"color": "#d55e00", "linestyle": "--", "marker": "s"}
CLEAN: dict[str, Any] = {"color": "#56b4e9", "linestyle": "-.", "marker": "^"}
TEST: dict[str, Any] = {"color": "#0072b2", "linestyle": "-", "marker": "o"}
NAMES = {"lenet": "LeNet-5", "lenet_bn": "BN-LeNet-5", "mlp": "Custom-MLP"}  # in figures, in this order
MODELS: dict[str, dict[str, Any]] = {  # augmented runs are dashed
    "lenet": {"color": "#000000", "marker": "o"},
    "lenet_bn": {"color": "#009e73", "marker": "s"},
    "mlp": {"color": "#cc79a7", "marker": "^"},
}
OTHER_COLORS, OTHER_MARKERS = ("#e69f00", "#56b4e9", "#0072b2", "#d55e00"), "DvP<X>*"  # of networks of one's own
PALE, BAND = "#b0b0b0", 0.2  # colour of what stands back; opacity of a band
SMALL = 8  # points; text inside of a picture
PANEL = (5.6, 4.2)  # inches, width and height of one panel of curves
LABEL_GAP = 14  # points from the right end of the axes to the labels of line ends
LEADER: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 1}  # from a label to its point
LOSS_FLOOR = 2.0**-24  # the smallest loss of one image above 0 that float32 can tell; a logarithm needs one
MAX_WORD = 40  # letters of a name in a figure
MAX_TICKS = 9  # of a logarithmic axis, where it shows whole decades


class Curve(NamedTuple):
    """A line over the epochs: the label at its end, values (runs, epochs), the line's style, the label's own style.

    The values are as `plot_values` makes them. The mean of the runs is drawn, in a band where there are several.
    """

    label: str
    values: np.ndarray
    style: dict[str, Any]
    label_style: dict[str, Any] | None = None


# --- style, fonts, saving ---------------------------------------------------------------------------------------------


@contextmanager
def in_style(**changes: Any) -> Iterator[None]:
    """Matplotlib's defaults and STYLE in place of the user's settings; no warnings of letters that no font has."""
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    try:
        fonts.setLevel(logging.ERROR)
        with warnings.catch_warnings(), style.context(["default", STYLE | changes]):
            warnings.filterwarnings("ignore", "Glyph .* missing|Matplotlib currently does not support")
            yield
    finally:
        fonts.setLevel(level)


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Have a function draw in STYLE; with more fonts, if its figure shows letters that the usual one lacks."""

    @wraps(draw)
    def draw_in_style(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with in_style():
            figure = draw(*args, **kwargs)
            letters = {letter for text in figure.findobj(Text) for letter in text.get_text()}
            fonts = fonts_for(frozenset(letters))
        if fonts:
            with in_style(**{"font.family": [FONT, *fonts]}):  # anew, since texts are as wide as their fonts make them
                figure = draw(*args, **kwargs)
        return figure

    return draw_in_style


@lru_cache
def fonts_for(letters: frozenset[str]) -> tuple[str, ...]:
    """Installed fonts, as few as suffice, that have the letters which FONT lacks."""
    missing = _lacking(findfont(FONT), letters)
    fonts: list[str] = []
    for entry in sorted(fontManager.ttflist, key=_plainness) if missing else []:
        if len(left := _lacking(entry.fname, missing)) < len(missing):
            missing, fonts = left, [*fonts, entry.name]
    return tuple(fonts)


def _plainness(font: FontEntry) -> tuple[bool, bool, float, str]:
    """Sorts upright fonts of usual weight and width first."""
    weight = font.weight if isinstance(font.weight, int) else 400
    return font.style != "normal", font.stretch != "normal", abs(weight - 400), font.name


def _lacking(path: str, letters: frozenset[str]) -> frozenset[str]:
    """The letters that a font cannot draw; all, where it cannot be read or cannot be scaled."""
    try:
        font = get_font(path)
        font.set_size(STYLE["font.size"], STYLE["figure.dpi"])
        named = "last resort" in font.family_name.lower()  # has a box for every letter
    except Exception:  # FreeType raises several kinds
        return letters
    return letters if named else frozenset(letter for letter in letters if not font.get_char_index(ord(letter)))


def save(figure: Figure, file: BinaryIO, digest: str | None = None) -> None:
    """Write the figure as PNG into a binary file; `digest`, of the run that it shows, as the PNG's text `digest`."""
    with in_style():
        figure.savefig(file, format="png", metadata={"digest": digest} if digest else None)


# --- names and texts --------------------------------------------------------------------------------------------------


def readable(name: str) -> str:
    """A name as a figure can show it: in one line, not too long."""
    text = printable(name)
    return text if len(text) <= MAX_WORD else f"{text[: MAX_WORD - 1]}…"


def figure_name(model: str, augment: bool) -> str:
    return NAMES.get(model, readable(model)) + (" + augmentation" if augment else "")


def line_style(model: str, augment: bool) -> dict[str, Any]:
    number = zlib.crc32(model.encode(errors="replace"))  # a network of one's own looks the same in all figures
    colors, markers = OTHER_COLORS, OTHER_MARKERS
    other = {"color": colors[number % len(colors)], "marker": markers[number % len(markers)]}
    return {**MODELS.get(model, other), "linestyle": "--" if augment else "-"}


def model_order(model: str) -> tuple[int, str]:
    """Sorts the project's models as NAMES has them, then those of others by name."""
    return list(NAMES).index(model) if model in NAMES else len(NAMES), model


def percent(fraction: float, digits: int = 2) -> str:
    """In per cent; what is less than 1 is never rounded up to 100 %."""
    text = f"{100 * fraction:.{digits}f} %"
    return f"> {100 - 10**-digits:.{digits}f} %" if fraction < 1 and text.startswith("100") else text


def metric_text(metric: str, value: float) -> str:
    """A loss or an accuracy in words."""
    if not math.isfinite(value):
        return "not finite"
    if metric.endswith("accuracy"):
        return percent(value)
    return f"{value:.4f}" if value < 1e4 else f"{value:.3g}"


def set_title(figure: Figure, finding: str) -> None:
    """The title of a figure, in as many lines as its width takes: a bold letter is 0.7 of its size wide, or less."""
    width = 0.7 if finding.isascii() else 1.0  # a Korean or Chinese letter is as wide as it is high
    letters = max(10, int(figure.get_figwidth() * 72 / (width * STYLE["figure.titlesize"])))
    joined = finding.replace(" %", "\N{NO-BREAK SPACE}%")
    whole = partial(wrap, joined, break_on_hyphens=False)
    lines = len(whole(letters))
    even = next(width for width in range(1, letters + 1) if len(whole(width)) <= lines)  # no line of one word
    figure.suptitle("\n".join(whole(even)))


# --- curves -----------------------------------------------------------------------------------------------------------


def floor_of(metric: str, images: int) -> float:
    """The lowest value that an axis shows: of an accuracy of 1 nothing would be left, so half an image is."""
    return 0.5 / images if metric.endswith("accuracy") else LOSS_FLOOR


def plot_values(metric: str, values: np.ndarray | Sequence[float], images: int) -> np.ndarray:
    """(runs, epochs) as a logarithmic axis shows them: the error in place of an accuracy, NaN where not finite."""
    values = np.atleast_2d(np.asarray(values, dtype=float))
    values = 1 - values if metric.endswith("accuracy") else values
    return np.where(np.isfinite(values), np.maximum(values, floor_of(metric, images)), np.nan)


def draw_curves(axes: Axes, curves: list[Curve], metric: str, images: int) -> None:
    """Draw the mean of each curve's runs, in a band of one standard deviation if there are several.

    metric: a name that ends in `accuracy` or `loss`, or is written at the axis as it is; images: see `floor_of`.
    """
    floor = floor_of(metric, images)
    for curve in curves:
        mean, epochs = curve.values.mean(0), np.arange(1, curve.values.shape[1] + 1)
        axes.plot(epochs, mean, markevery=max(1, len(epochs) // 10), **curve.style)
        if len(curve.values) > 1:
            deviation = curve.values.std(0, ddof=1)
            low, high = np.maximum(mean - deviation, floor), mean + deviation
            axes.fill_between(epochs, low, high, color=curve.style["color"], alpha=BAND, linewidth=0)
    epoch_axis(axes, max(curve.values.shape[1] for curve in curves))
    log_axis(axes, np.concatenate([curve.values.ravel() for curve in curves]), metric, floor)


def epoch_axis(axes: Axes, epochs: int) -> None:
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")


def log_axis(axes: Axes, values: np.ndarray, metric: str, floor: float) -> None:
    """Make y logarithmic around `values`. An accuracy is drawn by its error, upside down, and labelled as accuracy."""
    low, high = np.nanmin(values), np.nanmax(values)
    margin = max(1.15, (high / low) ** 0.12)  # room for a label; some, too, where all values are equal
    low, high = low / margin, high * margin
    axes.set_ylim(low, high)  # first: a logarithmic axis cannot find limits for values that are all equal
    axes.set_yscale("log")
    axes.yaxis.minorticks_off()
    ticks = log_ticks(low, high)
    if metric.endswith("accuracy"):
        ticks = [tick for tick in ticks if 1.5 * floor < tick <= 1] + ([floor] if np.nanmin(values) <= floor else [])
        axes.set_yticks(ticks, [f"{100 - 100 * tick:.8g}" if tick > floor else "100" for tick in ticks])
        axes.yaxis.set_inverted(True)
        axes.set_ylabel("accuracy (%), logarithmic in the error")
    else:
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylabel(f"{'loss (nats)' if metric.endswith('loss') else metric}, logarithmic")


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, as many as stand beside an axis."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 1.5, 2, 3, 4, 6, 8) if high / low < 20 else (1, 2, 5) if high / low < 3000 else (1,)
    every = max(1, math.ceil((last - first) / MAX_TICKS))
    ticks = [float(f"{step}e{decade}") for decade in range(first, last + 1) if decade % every == 0 for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def same_height(panels: list[tuple[Axes, list[Curve]]], metric: str, images: int) -> None:
    """Give panels in a row one and the same y axis, labelled once."""
    values = np.concatenate([curve.values.ravel() for _, curves in panels for curve in curves])
    for axes, _ in panels:
        log_axis(axes, values, metric, floor_of(metric, images))
        axes.label_outer()


# --- labels at line ends ----------------------------------------------------------------------------------------------


def label_ends(panels: list[tuple[Axes, list[Curve]]]) -> None:
    """Write each curve's label at its end, right of its axes, moved apart where they would overlap.

    All panels of a figure in one call: only its layout tells how high texts and axes are.
    """
    labels = [[_end_label(axes, curve) for curve in curves] for axes, curves in panels]
    lay_out(panels[0][0])
    for (axes, _), texts in zip(panels, labels, strict=True):
        gap = 1.25 * max(text_size(text)[1] for text in texts)
        places = spread([in_axes(axes, text.xy)[1] for text in texts], gap)
        for text, place in zip(texts, places, strict=True):
            text.set_position((text.get_position()[0], place))


def lay_out(axes: Axes) -> None:
    """Give all axes of a figure their sizes as they are drawn."""
    figure = axes.get_figure(root=True)
    engine = figure.get_layout_engine() if figure else None
    if figure and engine:
        engine.execute(figure)


def _end_label(axes: Axes, curve: Curve) -> Annotation:
    """The curve's label, with a line from its left end to the curve's last finite point."""
    mean, color = curve.values.mean(0), curve.style["color"]
    last = np.flatnonzero(np.isfinite(mean))[-1]
    line = {**LEADER, "color": color, "relpos": (0, 0.5)}  # ends where the words begin, so it runs into none
    look = {"va": "center", "color": color} | (curve.label_style or {})
    where = (1 + LABEL_GAP / (axes.bbox.width * 72 / STYLE["figure.dpi"]), 0.5)
    return axes.annotate(
        curve.label, (last + 1, mean[last]), where, textcoords="axes fraction", arrowprops=line, **look
    )


def in_axes(axes: Axes, points: np.ndarray | tuple[float, float]) -> np.ndarray:
    """From data coordinates to fractions of the axes."""
    return axes.transAxes.inverted().transform(axes.transData.transform(points))


def text_size(text: Annotation) -> np.ndarray:
    """Width and height of the words alone, in fractions of the axes."""
    assert text.axes is not None
    return np.divide(Text.get_window_extent(text).size, text.axes.bbox.size)


def spread(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Heights at least `gap` apart, within 0 to 1 if they fit, whose squared distance from the wanted ones is least.

    Less i * gap, the i-th height must only not fall: isotonic regression, by pooling neighbours that violate it.
    """
    order = np.argsort(wanted, kind="stable")
    pools: list[tuple[float, int]] = []  # sum and number of the heights that move together
    for place, height in enumerate(np.asarray(wanted)[order]):
        pools.append((height - place * gap, 1))
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1] = (pools[-1][0] + total, pools[-1][1] + count)
    level = np.concatenate([np.full(count, total / count) for total, count in pools])
    room = max(0, 1 - (len(level) - 1) * gap)
    places = np.empty(len(level))
    places[order] = np.clip(level, 0, room) + np.arange(len(level)) * gap
    return places


# --- a label within the axes ------------------------------------------------------------------------------------------


def label_point(axes: Axes, curves: list[Curve], epoch: int, value: float, label: str) -> None:
    """Ring a point of the test curve and write `label` at the nearest place in the axes that no curve runs through."""
    color = TEST["color"]
    ring: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.4, "clip_on": False}
    axes.plot(epoch, value, "o", color=color, **ring)
    line = {**LEADER, "color": color, "shrinkB": 5}
    text = axes.annotate(label, (epoch, value), (0, 0), textcoords="axes fraction", color=color, arrowprops=line)
    text.set_in_layout(False)
    size, point, margin = text_size(text), in_axes(axes, (epoch, value)), np.array([0.02, 0.03])
    taken = np.concatenate([point[None], *(_points_along(axes, curve) for curve in curves)])

    def cost(corner: tuple[float, float]) -> tuple[int, float]:
        low, high = corner - margin, corner + size + margin
        return int(((taken > low) & (taken < high)).all(1).sum()), math.dist(np.clip(point, low, high), point)

    rightmost, highest = 0.98 - size
    text.set_position(min(product(np.linspace(0.02, rightmost, 25), np.linspace(0.02, highest, 40)), key=cost))


def _points_along(axes: Axes, curve: Curve) -> np.ndarray:
    """Points close together along a curve, in fractions of the axes: (points, 2)."""
    mean = curve.values.mean(0)
    corners = in_axes(axes, np.stack([np.arange(1, len(mean) + 1), mean], 1)[np.isfinite(mean)])
    x = np.linspace(corners[0, 0], corners[-1, 0], 500)
    return np.stack([x, np.interp(x, *corners.T)], 1)
