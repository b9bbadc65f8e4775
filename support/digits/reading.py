"""What `predict.py` read in a picture, and how that is said: in a line, as JSON, as a figure.

It knows nothing of networks: what reads a glyph is handed in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from support.digits.ink import FINE, SIZE, Glyph, Picture, fit, normalize, reading_order
from support.digits.lines import stroke_width
from support.figures import PALE, TEST, readable, styled
from support.terminal import printable

MIN_CONFIDENCE = 0.86  # a probability below this is doubtful: benchmarks/predict.py has the curve it was chosen on
NOT_SURE = "the network is not sure"
# Times as wide as high: 15 and 3 in 1,000 of MNIST's digits are; two that touch often are, and most where there are
# several at all.
BROAD, VERY_BROAD = 1.3, 1.6
STRIP = 4  # times as wide as high is no digit but what is left of a line
SMALLER = 3  # times as small as the largest glyph: what is smaller still is no digit beside it
ACROSS = 6  # images of 28x28 side by side in a figure


@dataclass
class Digit:
    """One glyph, and what the network says of it."""

    glyph: Glyph
    probabilities: list[float]  # of the classes in their order
    warnings: list[str]

    def __post_init__(self) -> None:
        self.digit, self.probability = int(np.argmax(self.probabilities)), max(self.probabilities)

    @property
    def prepared(self) -> np.ndarray:
        """What the network saw of it as it stands: uint8 (28, 28)."""
        return normalize(self.glyph.mask)


@dataclass
class Reading:
    """What was read in one file: the largest glyph, or all of them, row by row."""

    file: str
    picture: Picture
    rows: list[list[Digit]]
    everything: bool  # rather than the largest alone
    of_picture: list[str]  # warnings

    @property
    def digits(self) -> list[Digit]:
        return [digit for row in self.rows for digit in row]

    @property
    def warnings(self) -> list[str]:
        """What makes the answer doubtful, a line each."""
        if not self.everything:
            return self.digits[0].warnings + self.of_picture
        return self.of_picture + [
            f"figure {index}, read as {digit.digit}: {', '.join(digit.warnings)}"
            for index, digit in enumerate(self.digits, 1)
            if digit.warnings
        ]


def choose(glyphs: list[Glyph], everything: bool) -> tuple[list[list[Glyph]], list[str]]:
    """The glyphs to read, row by row, of all that were found, the largest first; and what is doubtful so far."""
    glyphs = [glyph for glyph in glyphs if glyph.width <= STRIP * glyph.height] or glyphs
    large = [glyph for glyph in glyphs if glyph.side * glyph.scale > glyphs[0].side * glyphs[0].scale / SMALLER]
    if everything:
        left_out = len(glyphs) - len(large)
        warnings = [f"{left_out} much smaller figure{'s are' * (left_out > 1) or ' is'} left out"] if left_out else []
        return reading_order(large), warnings
    warnings = [f"{len(large)} separate figures; only the largest is read, --all reads all"] if len(large) > 1 else []
    return [[large[0]]], warnings


def judge(glyph: Glyph, recognize: Callable[[Glyph], list[float]], everything: bool = False) -> Digit:
    """What the network says of a glyph, alone or one of several, with what makes it doubtful.

    Where a line or ring was taken from it that may be a part of it, it is read with that too. If the network is sure of
    what it then sees, it was one: a digit with a line that is none of its own is rarely like any digit.
    """
    probabilities, warnings = recognize(glyph), []
    if glyph.whole is not None:
        of_whole = recognize(glyph.whole)
        without, whole = (int(np.argmax(values)) for values in (probabilities, of_whole))
        sure = max(of_whole) >= MIN_CONFIDENCE
        if whole != without and (sure or max(probabilities) < MIN_CONFIDENCE):
            warnings.append(f"{whole} with the line or ring that it touches, {without} without")
        if sure:
            glyph, probabilities = glyph.whole, of_whole
    if max(probabilities) < MIN_CONFIDENCE:
        warnings.append(NOT_SURE)
    if stroke_width(fit(glyph.mask, FINE) > 127) > FINE / 2:
        warnings.append("what was found is a blot rather than strokes")
    elif glyph.width > (BROAD if everything else VERY_BROAD) * glyph.height:
        warnings.append("it is broad: are these digits that touch?")
    return Digit(glyph, probabilities, warnings)


# --- in words ---------------------------------------------------------------------------------------------------------


def as_text(reading: Reading, width: int) -> str:
    """The answer in a line, or with several digits in one a row of text; the file's name padded to `width`."""
    if reading.everything:
        texts = [" ".join(str(digit.digit) for digit in row) for row in reading.rows]
        longest = max(map(len, texts))
        lines = [
            f"{text:<{longest}}   {' '.join(f'{digit.probability:.2%}' for digit in row)}"
            for text, row in zip(texts, reading.rows, strict=True)
        ]
    else:
        (digit,) = reading.digits
        shares = digit.probabilities
        first, *others = sorted(range(len(shares)), key=lambda k: -shares[k])[:3]
        lines = [f"{first}  {shares[first]:7.2%}   then {', '.join(f'{k} {shares[k]:6.2%}' for k in others)}"]
    if reading.warnings:
        lines[-1] += f"  warning: {'; '.join(reading.warnings)}"
    return f"{printable(reading.file):<{width}}  " + f"\n{'':<{width}}  ".join(lines)


def as_dict(reading: Reading) -> dict[str, Any]:
    """What was read, for JSON: of the largest glyph its digit and all probabilities; of each its digit and box.

    A box is [left, top, right, bottom] in pixels of the file's picture, upright.
    """
    picture = reading.picture
    size = np.array(2 * (picture.width, picture.height))
    scales = size / (2 * picture.pixels.size)
    entry: dict[str, Any] = {"file": reading.file}
    if not reading.everything:
        digit = reading.digits[0]
        entry |= {"digit": digit.digit, "probability": digit.probability, "probabilities": digit.probabilities}
    entry["digits"] = []
    for digit in reading.digits:
        box = np.clip(np.round(digit.glyph.box * scales), 0, size).astype(int).tolist()
        entry["digits"].append({"digit": digit.digit, "probability": digit.probability, "box": box})
    return entry | {"warnings": reading.warnings}


# --- as a figure ------------------------------------------------------------------------------------------------------


@styled
def draw(readings: list[Reading]) -> Figure:
    """A row a file: the picture with a box round each glyph, the 28x28 that the network saw, the probabilities."""
    figure = Figure(figsize=(8, 2.2 * len(readings)))
    panels = figure.subplots(len(readings), 3, squeeze=False, width_ratios=(3, 2, 4))
    for (picture, prepared, bars), reading in zip(panels, readings, strict=True):
        picture.imshow(reading.picture.pixels)
        picture.set_title(readable(Path(reading.file).name))
        for digit in reading.digits:
            left, top, right, bottom = digit.glyph.box
            picture.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=BAR))
            if reading.everything:
                label = {"color": "white", "backgroundcolor": BAR, "fontsize": 6}
                picture.annotate(str(digit.digit), (left, top), va="bottom", **label)
        prepared.imshow(_side_by_side(reading.digits), cmap="gray", vmin=0, vmax=255)
        prepared.set_title("what the network saw")
        for axes in (picture, prepared):
            axes.set(xticks=(), yticks=())
            axes.spines[:].set(visible=True, color=PALE)
        _draw_bars(bars, reading)
    return figure


BAR = TEST["color"]


def _draw_bars(axes: Axes, reading: Reading) -> None:
    """Of one digit the probabilities of all; of several, the probability of what each was read as."""
    if not reading.everything:
        values = reading.digits[0].probabilities
        names, marked = [str(k) for k in range(len(values))], [k == reading.digits[0].digit for k in range(len(values))]
        title = f"{reading.digits[0].digit}, {reading.digits[0].probability:.2%}"
    else:
        values = [digit.probability for digit in reading.digits]
        names, marked = [str(digit.digit) for digit in reading.digits], [not digit.warnings for digit in reading.digits]
        title = readable(" ".join(names))
    axes.bar(range(len(values)), values, color=[BAR if mark else PALE for mark in marked])
    axes.set_xticks(range(len(values)), names)
    axes.set(ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0", "50 %", "100 %"))
    axes.grid(False, axis="x")
    axes.set_title(f"{title}{', in doubt' if reading.warnings else ''}")


def _side_by_side(digits: list[Digit]) -> np.ndarray:
    """What the network saw, in rows of ACROSS: uint8."""
    across = min(len(digits), ACROSS)
    blank = np.zeros((SIZE, SIZE), np.uint8)
    images = [digit.prepared for digit in digits] + [blank] * (-len(digits) % across)
    return np.vstack([np.hstack(images[start : start + across]) for start in range(0, len(images), across)])
