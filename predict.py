"""Read handwritten digits in pictures of your own with a network that main.py has trained.

    python predict.py my_digit.png another.jpg --model lenet_bn --augment
    python predict.py my_digit.png --model lenet_bn --augment --show out.png

A photograph or a drawing is not what MNIST is. `prepare` does to it what was done to MNIST's digits (LeCun et al. 1998,
III.A): it finds the ink, fits it into 20x20 pixels keeping its proportions, and places its centre of mass in the middle
of 28x28, strokes as thick as MNIST's.
"""

import argparse
import json
import logging
import math
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

import files
import plot
from dataset import SIZE, network_input
from main import Parser, UserError, fail, number, run_name, warn, weights_path
from model import MODELS

# Pixels. The largest mode of common phones is 50 million. Pillow holds 4 bytes a pixel, and turning or recolouring a
# picture makes a copy: this many take half a gigabyte.
MAX_PIXELS = 64_000_000
WORKING = 512  # pixels of the longer side, to which every picture is scaled: a digit a tenth as large is still legible
COARSE = 64  # the same, where only light and paper are looked at
FINE = 160  # pixels of the longer side of a figure while its strokes are measured and changed: 8 to a pixel of BOX
BOX = 20  # pixels a side that an MNIST digit is fitted into
STROKE = 2.7  # pixels in BOX: the median thickness of MNIST's strokes, by `stroke_width` of 300 training images

DOUBT = 0.9  # a probability below this is doubtful: benchmarks/predict.py finds most errors there and few right answers
MAX_SHOWN = 100  # pictures in one --show: one row each, and matplotlib stops at 65,536 pixels


class PictureError(Exception):
    """The file is no picture that can be read, or there is no ink in it. The message says what was found."""


# --- from a file to a picture -----------------------------------------------------------------------------------------


def open_picture(path: str | Path) -> Image.Image:
    """The first frame of any picture that Pillow reads, at most MAX_PIXELS large, as `flatten` gives it.

    Raises PictureError.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise PictureError("not found")
        if not path.is_file():
            raise PictureError("is not a file; expected a picture")
        if path.stat().st_size == 0:
            raise PictureError("is empty; expected a picture")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is either checked here or no matter
            with Image.open(path, formats=_formats()) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise PictureError(f"is {width:,} x {height:,} pixels; {_LIMIT}")
                image.draft(None, (2 * WORKING, 2 * WORKING))  # a large JPEG is then decoded at a fraction of its size
                return flatten(image)
    except PictureError:
        raise
    except MemoryError:
        raise PictureError("is too large for the memory of this machine; make it smaller") from None
    except Image.DecompressionBombError:  # Pillow's own limit is higher, but it looks before the size is known here
        raise PictureError(f"has over {2 * Image.MAX_IMAGE_PIXELS:,} pixels; {_LIMIT}") from None
    except Image.UnidentifiedImageError:
        raise PictureError("is not a picture that Pillow reads; expected PNG, JPEG, WebP, GIF or the like") from None
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # of a damaged file Pillow's plugins raise a dozen kinds, all meaning this
        raise PictureError(f"is damaged: {error or type(error).__name__}") from None


_LIMIT = f"expected at most {MAX_PIXELS:,}: make it smaller, a side of 1,000 pixels is plenty"


def _formats() -> list[str]:
    """All of Pillow's, less EPS, which Pillow hands to another program, Ghostscript."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def flatten(image: Image.Image) -> Image.Image:
    """Any picture as RGB, upright, its longer side WORKING pixels, what is transparent shown on paper."""
    image = ImageOps.exif_transpose(image)
    deep = image.mode[0] in "IF"  # more than 8 bits, which Pillow would clip at 255
    image = image.convert("F" if deep else "RGBA" if image.has_transparency_data else "RGB")
    scale = WORKING / max(image.size)
    size = [max(1, round(scale * side)) for side in image.size]
    image = image.resize(size, Image.Resampling.BICUBIC)
    if deep:  # of a range that each camera or scanner chooses for itself
        values = np.asarray(image, np.float64)
        low, high = values.min(), values.max()
        image = Image.fromarray(np.uint8(255 * (values - low) / (high - low if high > low else 1))).convert("RGB")
    if image.mode == "RGB":
        return image
    pixels, alpha = np.split(np.asarray(image, np.float64), [3], axis=2)
    alpha = alpha / 255
    visible = pixels[alpha[..., 0] > 0.5]
    if 2 * len(visible) > alpha.size:  # most of it can be seen: that is the paper, and goes on
        paper = np.median(visible, axis=0)
    else:  # only the ink can be seen: it was drawn on what it stands out against
        paper = 255.0 if len(visible) and visible.mean() < 128 else 0.0
    return Image.fromarray(np.uint8(np.round(alpha * pixels + (1 - alpha) * paper)))


# --- from a picture to its ink ----------------------------------------------------------------------------------------


def ink_signal(picture: Image.Image) -> np.ndarray:
    """How much each pixel of an RGB picture differs from its paper towards the ink: float (H, W), paper around 0.

    Light and paper come first: a smooth surface through most of the pixels. What differs from it does so along a line
    in colour space, from paper to ink; ink is the end of it where the few are.
    """
    coarse = _shrink(picture, COARSE)
    paper = _paper(np.asarray(coarse, np.float64), picture.size)
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(1)), np.float64)
    # relative to the light there; below a quarter of full brightness noise would grow more than ink
    difference = (pixels - paper) / np.maximum(paper.mean(2, keepdims=True), 64)
    flat = difference.reshape(-1, 3)
    line = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    signal = difference @ line
    signal *= np.sign((signal**3).sum()) or 1
    signal -= _large_areas(signal)
    return signal - np.median(signal)


def _shrink(picture: Image.Image, side: int) -> Image.Image:
    size = [max(1, round(side * length / max(picture.size))) for length in picture.size]
    return picture.resize(size, Image.Resampling.BOX)


def _paper(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The smooth surface that most of `pixels` (h, w, 3) lie on, at (width, height) `size`: float (H, W, 3).

    A polynomial of degree 3 in x and y, fitted by iteratively reweighted least squares with Cauchy's weights, so that
    ink, dark or light, counts for little.
    """
    height, width, _ = pixels.shape
    terms, target = _polynomial(width, height), pixels.reshape(-1, 3)
    surface = np.median(target, axis=0)
    for _ in range(20):  # it settles within ten
        distance = np.linalg.norm(target - surface, axis=1)
        scale = max(np.median(distance), 2)  # a distance of 2 of 255 is nothing
        weights = 1 / (1 + (distance / (2 * scale)) ** 2)
        weighted = terms * weights[:, None]
        coefficients = np.linalg.lstsq(weighted.T @ terms, weighted.T @ target, rcond=None)[0]
        surface = terms @ coefficients
    full = _polynomial(*size) @ coefficients
    return full.clip(0, 255).reshape(size[1], size[0], 3)


def _polynomial(width: int, height: int) -> np.ndarray:
    """The terms x^i y^j, i + j <= 3, at the centres of the pixels, x and y in [-1, 1]: float (height * width, 10)."""
    x = (2 * np.arange(width) + 1) / width - 1
    y = ((2 * np.arange(height) + 1) / height - 1)[:, None]
    return np.stack([(x**i * y**j).ravel() for i in range(4) for j in range(4 - i)], axis=1)


def _large_areas(signal: np.ndarray) -> np.ndarray:
    """What in `signal` is wider than any stroke and reaches the edge: a shadow with a hard edge, the table's rim.

    A morphological opening: what a square of a third of the picture's side fits into stays, the rest is levelled. Then
    a reconstruction from the edge inwards: what does not hang together with the edge is levelled too, it may be ink.
    """
    picture = Image.fromarray(signal.astype(np.float32))
    coarse = torch.from_numpy(np.array(_shrink(picture, COARSE)))[None].clamp(min=0)
    reach = COARSE // 6
    window = {"kernel_size": 2 * reach + 1, "stride": 1, "padding": reach}
    opened = F.max_pool2d(-F.max_pool2d(-coarse, **window), **window)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    level = opened.clone()
    level[inside] = 0
    while not torch.equal(level, grown := F.max_pool2d(level, 3, stride=1, padding=1).minimum(opened)):
        level = grown
    return np.asarray(Image.fromarray(level[0].numpy()).resize(picture.size, Image.Resampling.BILINEAR))


@dataclass
class Ink:
    """What is taken for the digit."""

    mask: np.ndarray  # bool (H, W), cut out tightly, at the working scale
    others: int  # separate figures beside it that may be digits too


def find_ink(image: Image.Image) -> Ink:
    """The largest figure of ink in any picture. Raises PictureError if there is nothing that looks like ink."""
    signal = ink_signal(flatten(image))
    mask = signal > _threshold(signal)
    pieces = _pieces(mask)
    figure, others = _join(pieces)
    chosen = np.zeros_like(mask)
    for piece in figure:
        chosen[piece.rows, piece.columns] |= piece.mask
    rows, columns = chosen.any(1).nonzero()[0], chosen.any(0).nonzero()[0]
    return Ink(chosen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], others)


def _threshold(signal: np.ndarray) -> float:
    """Half way between paper and ink. Raises PictureError if no ink stands out from the paper's noise.

    Otsu's threshold ("A threshold selection method from gray-level histograms", 1979) tells ink from shadows and
    stains; it is taken over what stands out and as much paper, because ink may be a thousandth of the picture.
    """
    noise = 1.4826 * np.median(np.abs(signal))  # the standard deviation, if normal; ink hardly moves a median
    floor = max(5 * noise, 0.06)  # 5: of 262,144 pixels of noise none; 0.06: the eye hardly sees it either
    candidates = signal[signal > floor]
    if not len(candidates):
        raise PictureError("nothing in it looks like ink")
    values = np.sort(np.concatenate([candidates, np.zeros(len(candidates))]))
    low = np.arange(1, len(values)) / len(values)
    sums = np.cumsum(values)[:-1] / len(values)
    between = (values.mean() * low - sums) ** 2 / (low * (1 - low))
    split = values[between.argmax() + 1]
    return max(np.median(signal[signal >= split]) / 2, floor)


@dataclass(eq=False)
class Piece:
    """A connected piece of ink, and where it lies."""

    rows: slice
    columns: slice
    mask: np.ndarray  # bool, of that size
    mass: int  # pixels
    along_edge: bool  # more of it lies on the picture's outermost pixels than half its longer side

    @property
    def side(self) -> int:
        return max(self.mask.shape)

    def gap(self, other: "Piece") -> int:
        """Pixels between the two bounding boxes, the larger of across and down; negative where they overlap."""
        return max(
            max(a.start, b.start) - min(a.stop, b.stop)
            for a, b in ((self.rows, other.rows), (self.columns, other.columns))
        )


GRAIN = 2  # pixels: ink is connected across gaps up to this
SPECK = 0.02  # of the largest piece: what is smaller is dust or noise
LEGIBLE = WORKING // 32  # pixels: a digit has a side of at least that


def _pieces(mask: np.ndarray) -> list[Piece]:
    """The connected pieces of a mask (H, W) that may be ink, the largest first.

    Specks are left out. So is what lies along the edge of the picture, if anything else there can be a digit: it is
    the table, or the dark of a corner. Raises PictureError if nothing can be a digit.
    """
    height, width = mask.shape
    padded = F.pad(torch.from_numpy(mask)[None].float(), (0, -width % GRAIN, 0, -height % GRAIN))
    coarse = F.max_pool2d(padded, GRAIN)
    # Every cell of ink takes the largest number among its neighbours, then the number that the cell of that number has
    # by now, until nothing changes: one number a piece. The second step doubles the way a number goes at a time.
    numbers = coarse * torch.arange(1, coarse.numel() + 1).view_as(coarse)
    while True:
        spread = coarse * F.max_pool2d(numbers, 3, stride=1, padding=1)
        spread = coarse * spread.flatten()[(spread.long() - 1).clamp(min=0)]
        if torch.equal(spread, numbers):
            break
        numbers = spread
    grid = numbers[0].long().numpy().repeat(GRAIN, 0).repeat(GRAIN, 1)[:height, :width] * mask
    masses = np.bincount(grid.ravel())
    masses[0] = 0
    pieces = []
    for label in masses.argsort()[::-1][:MOST_PIECES]:
        if not masses[label]:
            break
        where = grid == label
        rows, columns = where.any(1).nonzero()[0], where.any(0).nonzero()[0]
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        rim = np.concatenate([where[0], where[-1], where[:, 0], where[:, -1]]).sum()
        pieces.append(Piece(*box, where[box], masses[label], along_edge=rim > max(where[box].shape) / 2))
    free = [piece for piece in pieces if not piece.along_edge]
    if any(piece.side >= LEGIBLE for piece in free):
        pieces = free
    elif not any(piece.side >= LEGIBLE for piece in pieces):
        raise PictureError("nothing in it looks like ink, or it is too small to be read")
    return [piece for piece in pieces if piece.mass > SPECK * pieces[0].mass]


MOST_PIECES = 50  # the largest are enough: the digit is one of them, or there is none


def _join(pieces: list[Piece]) -> tuple[list[Piece], int]:
    """The pieces that make up the digit, and how many others may be digits of their own.

    The digit is the largest piece and what stands close to it: the bar of a 5 often does not touch the rest.
    """
    figure, rest = pieces[:1], pieces[1:]
    near = 0.15 * figure[0].side
    while close := [piece for piece in rest if any(piece.gap(part) <= near for part in figure)]:
        figure += close
        rest = [piece for piece in rest if piece not in close]
    return figure, sum(piece.side > figure[0].side / 3 for piece in rest)


# --- from ink to MNIST ------------------------------------------------------------------------------------------------


def distance(mask: np.ndarray) -> np.ndarray:
    """Of each pixel of a mask (H, W), the distance to the nearest one outside it: float (H, W), 0 outside.

    The exact Euclidean distance transform, one axis after the other (Felzenszwalb and Huttenlocher, "Distance
    Transforms of Sampled Functions", 2012), here by comparing all pairs in a row, which at this size is quick.
    """
    squared = np.where(mask, np.float32(2 * max(mask.shape) ** 2), np.float32(0))
    for _ in range(2):
        steps = np.arange(len(squared), dtype=np.float32)
        apart = (steps[:, None] - steps) ** 2
        squared = (apart[:, :, None] + squared).min(1).T
    return np.sqrt(squared)


def stroke_width(mask: np.ndarray) -> float:
    """The mean thickness of a mask's strokes in pixels.

    Across a stroke the distance to its edge climbs from 0 to half the thickness and falls again: a quarter on average.
    """
    return 4 * distance(np.pad(mask, 1))[1:-1, 1:-1][mask].mean()


def normalize(figure: np.ndarray) -> np.ndarray:
    """A mask (H, W), cut out tightly, as MNIST would show it: uint8 (28, 28), white on black.

    As in MNIST the longer side of the bounding box is 20 pixels, edges are gray by the area that is covered, and the
    centre of mass lies on pixel (14, 14), counted from 0 (over the training images its mean is 14.0 and 14.0).
    """
    fine = _set_thickness(_fit(figure, FINE) > 127)
    small = _fit(fine, BOX)
    rows, columns = small.shape
    mass = small.sum(dtype=float)
    top = round(SIZE / 2 - (small.sum(1) @ np.arange(rows)) / mass)
    left = round(SIZE / 2 - (small.sum(0) @ np.arange(columns)) / mass)
    top, left = min(max(top, 0), SIZE - rows), min(max(left, 0), SIZE - columns)
    result = np.zeros((SIZE, SIZE), np.uint8)
    result[top : top + rows, left : left + columns] = small
    return result


def _fit(mask: np.ndarray, side: int) -> np.ndarray:
    """The mask as uint8, 0 to 255, its longer side `side` pixels."""
    height, width = mask.shape
    size = [max(1, round(side * length / max(height, width))) for length in (width, height)]
    return np.asarray(Image.fromarray(np.uint8(255 * mask)).resize(size, Image.Resampling.HAMMING))


def _set_thickness(mask: np.ndarray) -> np.ndarray:
    """The mask, its longer side FINE pixels, with strokes that are STROKE thick once it is fitted into BOX."""
    wanted = STROKE * FINE / BOX
    # the figure grows with its strokes, and is fitted again: (width + change) * FINE / (FINE + change) = wanted
    change = FINE * (wanted - stroke_width(mask)) / (FINE - wanted)
    if change > 0:
        reach = math.ceil(change / 2)
        mask = distance(~np.pad(mask, reach)) <= change / 2
    else:
        depth = distance(np.pad(mask, 1))
        mask = depth > min(-change / 2, depth.max() / 2)
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def prepare(image: Image.Image) -> np.ndarray:
    """Any picture of a digit as uint8 (28, 28), white on black, as MNIST would show it.

    Dark ink on light paper or light on dark, uneven light, thin pens and thick. The same picture always gives the same
    result. Raises PictureError if there is nothing that looks like ink.
    """
    return normalize(find_ink(image).mask)


# --- from a file to an answer -----------------------------------------------------------------------------------------


@dataclass
class Reading:
    """What was seen in one file, and what the network says of it."""

    file: str
    picture: Image.Image  # RGB, as `flatten` gives it
    prepared: np.ndarray  # uint8 (28, 28)
    probabilities: list[float]  # ten, of the digits in their order
    warnings: list[str]

    def ranking(self) -> list[int]:
        """The ten digits, the most probable first."""
        return sorted(range(10), key=lambda digit: -self.probabilities[digit])


def read(file: str, network: nn.Module) -> Reading:
    """Read the digit in a file. Raises PictureError."""
    picture = open_picture(file)
    ink = find_ink(picture)
    prepared = normalize(ink.mask)
    probabilities = classify(prepared[None], network)[0].tolist()
    doubts = []
    if max(probabilities) < DOUBT:
        doubts.append("the network is not sure")
    if ink.others:
        doubts.append(f"{ink.others + 1} separate figures; only the largest is read")
    if stroke_width(_fit(ink.mask, FINE) > 127) > FINE / 2:
        doubts.append("what was found is a blot rather than strokes")
    return Reading(file, picture, prepared, probabilities, doubts)


@torch.no_grad()
def classify(images: np.ndarray, network: nn.Module) -> Tensor:
    """Probabilities float32 (B, 10) for uint8 (B, 28, 28). The network is in evaluation mode."""
    return network(network_input(torch.from_numpy(images)[:, None].float())).softmax(1)


def load_network(arguments: argparse.Namespace) -> nn.Module:
    """The network of the run that `model`, `augment`, `seed` and `checkpoint_dir` name, in evaluation mode.

    If that run has not been trained on MNIST, one trained on the bundled sample serves, with a warning. Raises
    UserError if there is neither, or if the file is damaged or of another network.
    """
    name = run_name(arguments)
    path, sample = (weights_path(Path(arguments.checkpoint_dir, f"{stem}.pt")) for stem in (name, f"{name}-sample"))
    options = f"--model {arguments.model}{' --augment' if arguments.augment else ''}"
    options += f" --seed {arguments.seed}" if arguments.seed else ""
    if not path.exists() and sample.exists():
        warn(f"{path} is not there: using {sample.name}, which was trained on the bundled sample and errs more often")
        warn(f"for the network trained on MNIST, run: python main.py {options}")
        path = sample
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["model"] != arguments.model:
            raise UserError(f"{path}: holds weights of {state['model']}, not of {arguments.model}; give its --model")
        network = MODELS[arguments.model]()
        network.load_state_dict(state["network"])
        if not all(value.isfinite().all() for value in state["network"].values()):
            raise ValueError("a weight is not finite")
    except FileNotFoundError:
        raise UserError(f"{path}: not found: {name} has not been trained\ntrain it: python main.py {options}") from None
    except UserError:
        raise
    except Exception:  # of a damaged or foreign file torch.load raises a dozen kinds, all meaning this
        raise UserError(
            f"{path}: cannot be read, is damaged, or holds no weights of {arguments.model} from this program\n"
            f"train it anew: python main.py {options}"
        ) from None
    return network.eval()


# --- output -----------------------------------------------------------------------------------------------------------


def line(reading: Reading, width: int) -> str:
    """The answer in one line, the name of the file padded to `width`."""
    first, second, third = reading.ranking()[:3]
    share = reading.probabilities
    text = f"{printable(reading.file):<{width}}  {first}  {share[first]:7.2%}"
    text += f"   then {second} {share[second]:6.2%}, {third} {share[third]:6.2%}"
    return text + (f"  warning: {'; '.join(reading.warnings)}" if reading.warnings else "")


def printable(name: str) -> str:
    """A file's name with escapes for what would move the cursor or cannot be encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def as_json(results: list[Reading | dict[str, str]]) -> str:
    """A list, an entry a file in the order of the command line: {"file", "error"}, or the digit and the rest."""
    return json.dumps(
        [
            result
            if isinstance(result, dict)
            else {
                "file": result.file,
                "digit": result.ranking()[0],
                "probability": max(result.probabilities),
                "probabilities": result.probabilities,
                "warnings": result.warnings,
            }
            for result in results
        ],
        indent=1,
    )


def draw(readings: list[Reading]) -> Figure:
    """A row a file: the picture, the 28x28 that the network saw, the ten probabilities."""
    with rc_context(plot.STYLE):
        drawing = Figure(figsize=(8, 2.2 * len(readings)))
        rows = drawing.subplots(len(readings), 3, squeeze=False, width_ratios=(3, 2, 4))
        for (picture, prepared, bars), reading in zip(rows, readings, strict=True):
            picture.imshow(reading.picture)
            picture.set_title(_shorten(printable(Path(reading.file).name)))
            prepared.imshow(reading.prepared, cmap="gray", vmin=0, vmax=255)
            prepared.set_title("what the network saw")
            for axes in (picture, prepared):
                axes.set(xticks=(), yticks=())
                axes.spines[:].set(visible=True, color="#bbbbbb")
            digit = reading.ranking()[0]
            bars.bar(range(10), reading.probabilities, color=["#bbbbbb" if d != digit else BAR for d in range(10)])
            bars.set_title(f"{digit}, {reading.probabilities[digit]:.2%}{', in doubt' if reading.warnings else ''}")
            bars.set(xticks=range(10), ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0", "50 %", "100 %"))
            bars.grid(False, axis="x")
    return drawing


BAR = plot.TEST["color"]


def _shorten(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:15]}…{name[-16:]}"


def save(drawing: Figure, path: str) -> None:
    """Write the figure as PNG, whole or not at all. Raises OSError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter in a file's name that the font lacks is drawn as a box
        files.replace(path, lambda file: plot.save(drawing, file))


# --- the command line -------------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Read handwritten digits in pictures of your own with a network that main.py has trained.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a picture of one digit: PNG, JPEG, WebP, GIF, ...")
    parser.add_argument("--show", metavar="OUT.png", help="draw pictures, what the network saw, and probabilities")
    parser.add_argument("--json", action="store_true", help="print one JSON list, an entry a file")
    add_run_options(parser)
    arguments = parser.parse_args(argv)
    if arguments.show and not arguments.show.lower().endswith(".png"):
        parser.error(f"--show {arguments.show}: expected a name that ends in .png")
    if arguments.show and not Path(arguments.show).absolute().parent.is_dir():
        parser.error(f"--show {arguments.show}: there is no such folder")
    if arguments.show and len(arguments.files) > MAX_SHOWN:
        parser.error(f"--show: {len(arguments.files)} files; expected at most {MAX_SHOWN}")
    if arguments.show and any(same_file(arguments.show, file) for file in arguments.files):
        parser.error(f"--show {arguments.show}: would write over a picture that is to be read")
    return arguments


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a trained run, as main.py has them."""
    parser.add_argument("--model", choices=MODELS, required=True, help="the network")
    parser.add_argument("--augment", action="store_true", help="the one trained with augmentation")
    parser.add_argument("--seed", type=number(int, 0, 2**63 - 1), default=0, help="its seed (default: 0)")
    parser.add_argument("--checkpoint-dir", default="checkpoints", help="folder of weights (default: checkpoints)")


def same_file(first: str, second: str) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def run(arguments: argparse.Namespace) -> int:
    """Read all files, print the answers, return the exit status: 2 if one could not be read.

    Raises UserError if there are no weights, OSError if --show cannot be written.
    """
    network = load_network(arguments)
    width = max(len(printable(file)) for file in arguments.files)
    results: list[Reading | dict[str, str]] = []
    for file in arguments.files:
        try:
            results.append(read(file, network))
        except PictureError as error:
            results.append({"file": file, "error": str(error)})
            print(f"error: {printable(file)}: {error}", file=sys.stderr, flush=True)
        else:
            if not arguments.json:
                print(line(results[-1], width), flush=True)
    if arguments.json:
        print(as_json(results), flush=True)
    readings = [result for result in results if isinstance(result, Reading)]
    if arguments.show and readings:
        save(draw(readings), arguments.show)
    return 0 if len(readings) == len(results) else 2


def main(argv: list[str] | None = None) -> None:
    """Run the command line. Raises SystemExit: 2 for what the user can mend, 1 for a file that cannot be written."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what Pillow logs of damaged files
    logging.getLogger("PIL").propagate = False
    arguments = parse_arguments(argv)
    try:
        status = run(arguments)
    except UserError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(
            f"{error.filename or arguments.show or 'standard output'}: cannot be written: {error.strerror or error}", 1
        )
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
