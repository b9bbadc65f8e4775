"""What `predict.py` read in a picture, and how that is said: in a line, as JSON, as a figure.

It knows nothing of networks: probabilities are handed in.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle

from support.digits.ink import FINE, SIZE, Figure, Picture, fit, normalize, reading_order
from support.digits.lines import stroke_width
from support.figures.axes import PALE, TEST, readable, styled
from support.terminal import printable

MIN_CONFIDENCE = 0.9  # a probability below this is doubtful: benchmarks/predict.py has the curve it was chosen on
NOT_SURE = "the network is not sure"
# Times as wide as high: 15 and 3 in 1,000 of MNIST's digits are; two that touch often are, and most where there are
# several at all.
BROAD, VERY_BROAD = 1.3, 1.6
STRIP = 4  # times as wide as high is no digit but what is left of a line
SMALLER = 3  # times as small as the largest figure: what is smaller still is no digit beside it
ACROSS = 6  # images of 28x28 side by side in a drawing


@dataclass
class Digit:
    """One figure of ink, and what the network says of it."""

    figure: Figure
    probabilities: list[float]  # of the classes in their order
    doubts: list[str]

    @property
    def prepared(self) -> np.ndarray:
        """What the network saw of it as it stands: uint8 (28, 28)."""
        return normalize(self.figure.mask)

    @property
    def ranking(self) -> list[int]:
        """The classes, the most probable first."""
        return sorted(range(len(self.probabilities)), key=lambda digit: -self.probabilities[digit])

    @property
    def digit(self) -> int:
        return self.ranking[0]

    @property
    def probability(self) -> float:
        return max(self.probabilities)


@dataclass
class Reading:
    """What was read in one file: the largest figure, or all of them, line by line."""

    file: str
    picture: Picture
    lines: list[list[Digit]]
    everything: bool  # rather than the largest alone
    doubts: list[str]  # of the picture

    @property
    def digits(self) -> list[Digit]:
        return [digit for line in self.lines for digit in line]

    @property
    def warnings(self) -> list[str]:
        """What makes the answer doubtful, a line each."""
        if not self.everything:
            return self.digits[0].doubts + self.doubts
        return self.doubts + [
            f"figure {place}, read as {digit.digit}: {', '.join(digit.doubts)}"
            for place, digit in enumerate(self.digits, 1)
            if digit.doubts
        ]


def choose(figures: list[Figure], everything: bool) -> tuple[list[list[Figure]], list[str]]:
    """The figures to read, line by line, of all that were found, the largest first; and what is doubtful so far."""
    figures = [figure for figure in figures if figure.width <= STRIP * figure.height] or figures
    large = [figure for figure in figures if max(_size(figure)) > max(_size(figures[0])) / SMALLER]
    if everything:
        left_out = len(figures) - len(large)
        doubts = [f"{left_out} much smaller figure{'s are' * (left_out > 1) or ' is'} left out"] if left_out else []
        return reading_order(large), doubts
    doubts = [f"{len(large)} separate figures; only the largest is read, --all reads all"] if len(large) > 1 else []
    return [[large[0]]], doubts


def _size(figure: Figure) -> tuple[float, float]:
    left, top, right, bottom = figure.box
    return right - left, bottom - top


def judge(figure: Figure, probabilities: list[float], everything: bool = False) -> Digit:
    """What the network says of a figure, alone or one of several, with what makes it doubtful."""
    doubts = []
    if max(probabilities) < MIN_CONFIDENCE:
        doubts.append(NOT_SURE)
    if stroke_width(fit(figure.mask, FINE) > 127) > FINE / 2:
        doubts.append("what was found is a blot rather than strokes")
    elif figure.width > (BROAD if everything else VERY_BROAD) * figure.height:
        doubts.append("it is broad: are these digits that touch?")
    return Digit(figure, probabilities, doubts)


def original_box(figure: Figure, picture: Picture) -> list[int]:
    """Where a figure stands in the file's picture, upright: left, top, right, bottom in its pixels."""
    scales = picture.width / picture.pixels.width, picture.height / picture.pixels.height
    left, top, right, bottom = (round(edge * scales[i % 2]) for i, edge in enumerate(figure.box))
    return [max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height)]


# --- in words ---------------------------------------------------------------------------------------------------------


def as_text(reading: Reading, width: int) -> str:
    """The answer in a line, or with several digits in one a line of the picture; the file's name padded to `width`."""
    name = f"{printable(reading.file):<{width}}"
    if not reading.everything:
        digit = reading.digits[0]
        share = digit.probabilities
        first, *others = digit.ranking[:3]
        lines = [f"{name}  {first}  {share[first]:7.2%}   then {', '.join(f'{k} {share[k]:6.2%}' for k in others)}"]
    else:
        texts = [" ".join(str(digit.digit) for digit in line) for line in reading.lines]
        shares = [" ".join(f"{digit.probability:.2%}" for digit in line) for line in reading.lines]
        longest = max(map(len, texts))
        lines = [f"{name}  {text:<{longest}}   {share}" for text, share in zip(texts, shares, strict=True)]
        lines[1:] = [f"{'':<{width}}{line[width:]}" for line in lines[1:]]
    if reading.warnings:
        lines[-1] += f"  warning: {'; '.join(reading.warnings)}"
    return "\n".join(lines)


def as_json(results: list["Reading | dict[str, str]"]) -> str:
    """A list, an entry a file in the order of the command line: {"file", "error"}, or what was read.

    `digits` lists what was read: `digit`, `probability`, and `box`, [left, top, right, bottom] in pixels of the file's
    picture, upright.
    """
    return json.dumps([result if isinstance(result, dict) else _entry(result) for result in results], indent=1)


def _entry(reading: Reading) -> dict[str, Any]:
    entry: dict[str, Any] = {"file": reading.file}
    if not reading.everything:
        digit = reading.digits[0]
        entry |= {"digit": digit.digit, "probability": digit.probability, "probabilities": digit.probabilities}
    entry["digits"] = [
        {
            "digit": digit.digit,
            "probability": digit.probability,
            "box": original_box(digit.figure, reading.picture),
        }
        for digit in reading.digits
    ]
    return entry | {"warnings": reading.warnings}


# --- as a figure ------------------------------------------------------------------------------------------------------


@styled
def draw(readings: list[Reading]) -> Drawing:
    """A row a file: the picture with a box round each figure, the 28x28 that the network saw, the probabilities."""
    drawing = Drawing(figsize=(8, 2.2 * len(readings)))
    rows = drawing.subplots(len(readings), 3, squeeze=False, width_ratios=(3, 2, 4))
    for (picture, prepared, bars), reading in zip(rows, readings, strict=True):
        picture.imshow(reading.picture.pixels)
        picture.set_title(readable(Path(reading.file).name))
        for digit in reading.digits:
            left, top, right, bottom = digit.figure.box
            picture.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=BAR))
            if reading.everything:
                picture.annotate(
                    str(digit.digit), (left, top), color="white", va="bottom", backgroundcolor=BAR, fontsize=6
                )
        prepared.imshow(_side_by_side(reading.digits), cmap="gray", vmin=0, vmax=255)
        prepared.set_title("what the network saw")
        for axes in (picture, prepared):
            axes.set(xticks=(), yticks=())
            axes.spines[:].set(visible=True, color=PALE)
        _draw_bars(bars, reading)
        bars.set(ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0", "50 %", "100 %"))
        bars.grid(False, axis="x")
    return drawing


BAR = TEST["color"]


def _draw_bars(bars: Any, reading: Reading) -> None:
    """Of one digit the probabilities of all; of several, the probability of what each was read as."""
    digits = reading.digits
    if not reading.everything:
        values = digits[0].probabilities
        bars.bar(range(len(values)), values, color=[BAR if k == digits[0].digit else PALE for k in range(len(values))])
        bars.set_xticks(range(len(values)))
        title = f"{digits[0].digit}, {digits[0].probability:.2%}"
    else:
        colours = [PALE if digit.doubts else BAR for digit in digits]
        bars.bar(range(len(digits)), [digit.probability for digit in digits], color=colours)
        bars.set_xticks(range(len(digits)), [str(digit.digit) for digit in digits])
        title = readable(" ".join(str(digit.digit) for digit in digits))
    bars.set_title(f"{title}{', in doubt' if reading.warnings else ''}")


def _side_by_side(digits: list[Digit]) -> np.ndarray:
    """What the network saw, in rows of ACROSS: uint8."""
    across = min(len(digits), ACROSS)
    canvas = np.zeros((-(-len(digits) // across) * SIZE, across * SIZE), np.uint8)
    for place, digit in enumerate(digits):
        row, column = divmod(place, across)
        canvas[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE] = digit.prepared
    return canvas
