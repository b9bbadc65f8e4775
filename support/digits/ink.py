"""From any picture of a handwritten digit to 28x28 pixels as MNIST has them.

What was done to MNIST's digits (LeCun et al. 1998, III.A) is done to a photograph or a drawing: its ink is found,
fitted into 20x20 pixels keeping its proportions, and placed with its centre of mass in the middle of 28x28, strokes as
thick as MNIST's. The way there: `open_picture` (file to RGB), `find_figures` (RGB to ink), `normalize` (ink to 28x28).
It knows nothing of networks.
"""

import contextlib
import math
import stat
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from support.digits.lines import EIGHT, LEGIBLE, extent, is_stroke, find_lines, large_pieces, reduce, stroke_width

SIZE = 28  # pixels a side of an MNIST image

# Pixels. The largest mode of common phones is 50 million. Pillow holds 4 bytes a pixel, and turning or recolouring a
# picture makes a copy: this many take half a gigabyte.
MAX_PIXELS = 64_000_000
MAX_SIDE = 30_000  # pixels; of a very long picture Pillow's resizing needs gigabytes
WORKING = 512  # pixels of the longer side, to which every picture is scaled: a digit a tenth as large is still legible
COARSE = 64  # the same, where only light and paper are looked at
MIDDLE = 256  # the same, where sheets and frames are looked for
FINE = 160  # pixels of the longer side of a figure while its strokes are measured and changed: 8 to a pixel of BOX
BOX = 20  # pixels a side that an MNIST digit is fitted into
STROKE = 2.7  # pixels in BOX: the median thickness of MNIST's strokes, by `stroke_width` of 300 training images


class PictureError(Exception):
    """The file is no picture that can be read, or there is no ink in it. The message says what was found."""


# --- from a file to a picture -----------------------------------------------------------------------------------------


@dataclass
class Picture:
    """A picture at the working scale, and how large it was."""

    pixels: Image.Image  # RGB, as `flatten` gives it
    width: int  # of the original, upright
    height: int


def open_picture(path: str | Path) -> Picture:
    """The first frame of any picture that Pillow reads, at most MAX_PIXELS large. Raises PictureError."""
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for who writes into it
            raise PictureError("is not a file; expected a picture")
        if status.st_size == 0:
            raise PictureError("is empty; expected a picture")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is either checked here or no matter
            with Image.open(path, formats=_formats()) as image:
                image.verify()  # the checksums of a PNG, which are not looked at while it is decoded
            with Image.open(path, formats=_formats()) as image:
                width, height = image.size
                if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                    raise PictureError(f"is {width:,} x {height:,} pixels; {_LIMIT}")
                turned = image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
                image.draft(None, (2 * WORKING, 2 * WORKING))  # a large JPEG is then decoded at a fraction of its size
                return Picture(flatten(image), *((height, width) if turned else (width, height)))
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError("not found") from None
    except MemoryError:
        raise PictureError("is too large for the memory of this machine; make it smaller") from None
    except Image.DecompressionBombError:  # Pillow's own limit is higher, but it looks before the size is known here
        raise PictureError(f"has over {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; {_LIMIT}") from None
    except Image.UnidentifiedImageError:
        raise PictureError("is not a picture that Pillow reads; expected PNG, JPEG, WebP, GIF or the like") from None
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # of a damaged file Pillow's plugins raise a dozen kinds, all meaning this
        raise PictureError(f"is damaged: {error or type(error).__name__}") from None


_LIMIT = f"expected at most {MAX_PIXELS:,}, and {MAX_SIDE:,} a side: make it smaller, 1,000 a side are plenty"
_ORIENTATION = 0x0112  # the EXIF tag
_ON_ITS_SIDE = (5, 6, 7, 8)  # its values that mean a quarter turn


def _formats() -> list[str]:
    """All of Pillow's, less EPS, which Pillow hands to another program, Ghostscript."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def flatten(image: Image.Image) -> Image.Image:
    """Any picture as RGB, upright, its longer side WORKING pixels, what is transparent shown on paper."""
    image = ImageOps.exif_transpose(image)
    deep = image.mode[0] in "IF"  # more than 8 bits, which Pillow would clip at 255
    image = image.convert("F" if deep else "RGBA" if image.has_transparency_data else "RGB")
    image = _scale(image, WORKING, Image.Resampling.BICUBIC)
    if deep:  # of a range that each camera or scanner chooses for itself
        values = np.asarray(image, np.float64)
        low, high = values.min(), values.max()
        image = Image.fromarray(np.uint8(255 * (values - low) / (high - low if high > low else 1))).convert("RGB")
    if image.mode == "RGB":
        return image
    pixels, alpha = np.split(np.asarray(image, np.float64), [3], axis=2)
    alpha = alpha / 255
    visible = pixels[alpha[..., 0] > 0.5]
    paper: np.ndarray | float
    if 2 * len(visible) > alpha.size:  # most of it can be seen: that is the paper, and goes on
        paper = np.median(visible, axis=0)
    else:  # only the ink can be seen: it was drawn on what it stands out against
        paper = 255.0 if len(visible) and visible.mean() < 128 else 0.0
    return Image.fromarray(np.uint8(np.round(alpha * pixels + (1 - alpha) * paper)))


def _scale(image: Image.Image, longer: int, filter: Image.Resampling) -> Image.Image:
    """The image with its longer side `longer` pixels, its proportions kept."""
    return image.resize(_scaled(image.size, longer), filter)


def _scaled(size: tuple[int, int], longer: int) -> tuple[int, int]:
    width, height = (max(1, round(longer * length / max(size))) for length in size)
    return width, height


# --- sheets: on what paper the ink stands -----------------------------------------------------------------------------

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, the last two behind the last pixel
MIN_SHEET = 24  # pixels of MIDDLE
EDGE = 0.035  # of full brightness, a pixel: what changes faster is an edge, unless the picture is noisy


@dataclass
class Sheet:
    """A part of a picture with paper of its own: a slip on a table, the inside of a frame, or the whole."""

    pixels: Image.Image  # RGB, its longer side WORKING pixels
    inside: np.ndarray  # bool (H, W): which of its pixels belong to it
    box: Box  # where it was cut out
    whole: bool  # all of the picture


def find_sheets(picture: Image.Image) -> list[Sheet]:
    """The innermost sheets of an RGB picture that have something on them, in no order; else the picture as a whole.

    Edges divide the picture into smooth regions. A sheet is one that has straight sides and surrounds something.
    """
    small = _scale(picture, MIDDLE, Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32)
    regions, _ = ndimage.label(_smooth(small))
    found = []
    for number, box in enumerate(ndimage.find_objects(regions), 1):
        if min(part.stop - part.start for part in box) < MIN_SHEET:
            continue
        region = np.pad(regions[box] == number, 1)
        filled = ndimage.binary_fill_holes(region)
        if _surrounds_something(region, filled) and _has_straight_sides(filled):
            mask = np.zeros(regions.shape, bool)
            mask[box] = filled[1:-1, 1:-1]
            if _stands_out(pixels, mask):
                found.append(mask)
    innermost = [
        one for one in found if not any(other.sum() < one.sum() and not (other & ~one).any() for other in found)
    ]
    return [_cut_out(picture, mask) for mask in innermost if not _fills(mask)] or [_whole(picture)]


def _fills(mask: np.ndarray) -> bool:
    """Whether a sheet (h, w) is all of the picture, or all less what runs out of it."""
    return mask[extent(mask)].size > 0.9 * mask.size


def _smooth(picture: Image.Image) -> np.ndarray:
    """Where an RGB picture changes slowly, measured against the light there: bool (H, W)."""
    pixels = ndimage.gaussian_filter(np.asarray(picture, np.float32) / 255, (0.8, 0.8, 0))
    light = np.maximum(ndimage.gaussian_filter(pixels.mean(2), 8), 0.2)
    across, down = (np.abs(ndimage.sobel(pixels, axis, mode="nearest")).max(2) / 8 for axis in (1, 0))
    change = np.hypot(across, down) / light
    return change < max(EDGE / 2, 4 * np.median(change), 0.1 * np.quantile(change, 0.995))


def _surrounds_something(region: np.ndarray, filled: np.ndarray) -> bool:
    """Whether the larger part is paper, and what it surrounds is not small against it."""
    if region.sum() < 0.4 * filled.sum():
        return False
    holes, _ = ndimage.label(ndimage.binary_opening(filled & ~region, iterations=2))  # edges of ink are 5 pixels wide
    sides = [max(part.stop - part.start for part in box) for box in ndimage.find_objects(holes)]
    return max(sides, default=0) > max(0.15 * min(region.shape), 8)


def _has_straight_sides(mask: np.ndarray) -> bool:
    """Whether a mask (H, W) is a polygon without notches: a rectangle, seen from aside, or cut off by the picture.

    Its convex hull keeps nearly all of its area when it is reduced to six corners, those taken away first that stand
    out least. An ellipse keeps 83 %.
    """
    try:
        hull = ConvexHull(np.argwhere(mask & ~ndimage.binary_erosion(mask)))
    except QhullError:
        return False
    corners = hull.points[hull.vertices]
    while len(corners) > 6:
        before, after = np.roll(corners, 1, 0) - corners, np.roll(corners, -1, 0) - corners
        corners = np.delete(corners, np.abs(_cross(before, after)).argmin(), 0)
    area = _cross(corners, np.roll(corners, -1, 0)).sum() / 2
    return bool(abs(area) >= 0.94 * hull.volume and mask.sum() >= 0.9 * hull.volume)


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The cross products of vectors (N, 2)."""
    return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]


def _stands_out(pixels: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the paper under a mask (h, w) is of another colour than what lies round it, pixels (h, w, 3)."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    rings = (outside >= 4) & (outside < 8), (inside >= 2) & (inside < 6)
    if not all(ring.any() for ring in rings):
        return False
    paper = np.median(pixels[rings[1]], axis=0)
    around = pixels[rings[0]]
    light = np.maximum(around, paper).max(1).clip(64)
    return bool((np.abs(around - paper).max(1) > OTHER_COLOUR * light).mean() > 0.75)


OTHER_COLOUR = 0.12  # of the lighter one


def _cut_out(picture: Image.Image, mask: np.ndarray) -> Sheet:
    """The part of the picture under a mask (h, w), MIDDLE pixels large, less its edges."""
    mask = ndimage.binary_erosion(mask)  # the edge is blurred
    scale = picture.width / mask.shape[1], picture.height / mask.shape[0]
    rows, columns = extent(mask)
    box = (
        round(columns.start * scale[0]),
        round(rows.start * scale[1]),
        round(columns.stop * scale[0]),
        round(rows.stop * scale[1]),
    )
    pixels = _scale(picture.crop(box), WORKING, Image.Resampling.BICUBIC)
    inside = Image.fromarray(mask[rows, columns]).resize(pixels.size, Image.Resampling.NEAREST)
    return Sheet(pixels, np.asarray(inside, bool), box, whole=False)


def _whole(picture: Image.Image) -> Sheet:
    return Sheet(picture, np.ones((picture.height, picture.width), bool), (0, 0, *picture.size), whole=True)


# --- from a sheet to its ink ------------------------------------------------------------------------------------------


def ink_signal(sheet: Sheet) -> np.ndarray:
    """How much each pixel differs from its paper towards the ink: float (H, W), paper around 0, 0 outside the sheet.

    Light and paper come first: a smooth surface through most of the pixels. What differs from it does so along a line
    in colour space, from paper to ink; ink is the end of it where the few are.
    """
    coarse = np.asarray(_scale(sheet.pixels, COARSE, Image.Resampling.BOX), np.float64)
    height, width, _ = coarse.shape
    paper_only = Image.fromarray(sheet.inside).convert("L").resize((width, height), Image.Resampling.BOX)
    paper = _paper(coarse, np.asarray(paper_only) == 255, sheet)
    # relative to the light there; below a quarter of full brightness noise would grow more than ink
    light = np.maximum(paper.mean(2), 64)
    difference = np.asarray(sheet.pixels.filter(ImageFilter.GaussianBlur(1)), np.float32) - paper
    some = (slice(None, None, 4), slice(None, None, 4))
    flat = (difference[some] / light[some][..., None])[sheet.inside[some]].astype(np.float64)
    line = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    signal = difference @ line.astype(np.float32) / light
    signal *= np.sign(((flat @ line) ** 3).sum()) or 1
    if sheet.whole and not _is_narrow(*sheet.pixels.size):
        signal -= _large_areas(signal)
    values = signal[some][sheet.inside[some]]
    signal -= np.median(values[np.abs(values) <= np.median(np.abs(values))])
    return np.where(sheet.inside, signal, 0)


def _paper(coarse: np.ndarray, inside: np.ndarray, sheet: Sheet) -> np.ndarray:
    """The smooth surface that most of the `coarse` pixels (h, w, 3) lie on: float (H, W, 3), as large as the sheet.

    A polynomial of degree 3 in x and y, fitted by iteratively reweighted least squares with Cauchy's weights, so that
    ink, dark or light, counts for little. It starts from the plane through most of a whole picture's outermost pixels:
    a digit that fills the picture would else be taken for the paper.
    """
    height, width, _ = coarse.shape
    y, x = np.indices((height, width))
    places, colours = np.stack([x, y], -1)[inside], coarse[inside]
    if not sheet.whole:
        median = np.median(colours, axis=0)
        best = _fit_surface(_terms(places, width, height, 3), colours, median, 0.5)
        return _evaluate(best, *sheet.pixels.size)
    rim = (places == 0).any(1) | (places == (width - 1, height - 1)).any(1)
    terms = _terms(places, width, height, 1)
    flat = _fit_surface(terms[rim], colours[rim], np.median(colours[rim], axis=0), 0.5)
    surface, candidates = terms @ flat, [flat]
    scores = [_share_near(surface, colours, rim)]
    for degree in (1, 2, 3):
        terms = _terms(places, width, height, degree)
        candidates.append(_fit_surface(terms, colours, surface, 0.3))
        surface = terms @ candidates[-1]
        scores.append(_share_near(surface, colours, rim))
    return _evaluate(candidates[int(np.argmax(scores))], *sheet.pixels.size)


def _share_near(surface: np.ndarray, colours: np.ndarray, rim: np.ndarray) -> float:
    """How many of the colours (N, 3) lie on a surface (N, 3), the outermost ones counted twice."""
    near = 1 / (1 + (np.linalg.norm(colours - surface, axis=1) / NEAR) ** 2)
    return float(near.mean() + 2 * near[rim].mean())


NEAR = 10.0  # of 255: what is so near to a surface lies on it


def _fit_surface(terms: np.ndarray, colours: np.ndarray, surface: np.ndarray, share: float) -> np.ndarray:
    """Coefficients float (terms, 3) of a polynomial through most of the colours (N, 3), from a first guess `surface`.

    terms: float (N, terms). share: of the colours that lie on the surface, at least.
    """
    coefficients = np.zeros((terms.shape[1], 3))
    for _ in range(10):
        distance = np.linalg.norm(colours - surface, axis=1)
        usual, far = np.quantile(distance, (share, 0.95))
        scale = max(min(usual, 0.12 * far), 2.0)  # a distance of 2 of 255 is nothing
        weighted = terms / ((1 + (distance / (3 * scale)) ** 2) ** 2)[:, None]
        coefficients = np.linalg.lstsq(weighted.T @ terms, weighted.T @ colours, rcond=None)[0]
        surface = terms @ coefficients
    return coefficients


def _terms(places: np.ndarray, width: int, height: int, degree: int) -> np.ndarray:
    """The terms x^i y^j, i + j <= degree, at places (N, 2), the picture being [-1, 1] in x and y: float (N, terms).

    Across a narrow picture only a straight line: a curve would follow the stroke of a 1 that fills it.
    """
    x, y = ((2 * places + 1) / (width, height) - 1).T
    narrow = _is_narrow(width, height)
    most_i, most_j = (1 if narrow and side < max(width, height) else degree for side in (width, height))
    terms = [x**i * y**j * (i <= most_i and j <= most_j) for i, j in _powers(degree)]
    return np.stack(terms, axis=1)


def _is_narrow(width: int, height: int) -> bool:
    """Whether a picture is so narrow that the stroke of a 1 may fill it."""
    return max(width, height) > 2 * min(width, height)


def _powers(degree: int) -> list[tuple[int, int]]:
    """i and j of the terms x^i y^j, the lower ones first."""
    return [(i, total - i) for total in range(degree + 1) for i in range(total + 1)]


def _evaluate(coefficients: np.ndarray, width: int, height: int) -> np.ndarray:
    """The polynomial, of degree 3 at most, at all pixels, as colours: float32 (height, width, 3)."""
    x, y = (2 * np.arange(width) + 1) / width - 1, (2 * np.arange(height) + 1) / height - 1
    rows = np.zeros((height, 3, 4))
    for (i, j), coefficient in zip(_powers(3), coefficients, strict=False):
        rows[:, :, i] += (y**j)[:, None] * coefficient
    surface = rows.reshape(-1, 4).astype(np.float32) @ np.stack([x**i for i in range(4)]).astype(np.float32)
    return surface.reshape(height, 3, width).transpose(0, 2, 1).clip(0, 255)


def _large_areas(signal: np.ndarray) -> np.ndarray:
    """What in `signal` is wider than any stroke and reaches the edge: a shadow with a hard edge, the table's rim.

    A morphological opening: what a square of a third of the picture's side fits into stays, the rest is levelled. Then
    a reconstruction from the edge inwards: what does not hang together with the edge is levelled too, it may be ink.
    So is what is the lesser part of a figure: a broad stroke. It counts from half of the strongest, because paper
    whose light was not quite met would make it the larger part.
    """
    picture = Image.fromarray(signal.astype(np.float32))
    coarse = np.asarray(_scale(picture, COARSE, Image.Resampling.BOX)).clip(0)
    window = 2 * (COARSE // 6) + 1
    opened = ndimage.grey_opening(coarse, (window, window), mode="nearest")
    level = opened.copy()
    level[1:-1, 1:-1] = 0
    while not np.array_equal(level, grown := np.minimum(ndimage.maximum_filter(level, 3), opened)):
        level = grown
    area = level > max(FAINT, float(level.max()) / 2)
    if area.any():
        figures, count = ndimage.label(coarse > np.median(level[area]) / 2)
        shares = ndimage.mean(area, figures, range(1, count + 1))
        level[np.isin(figures, np.flatnonzero(np.asarray(shares) < 0.5) + 1)] = 0
    return np.asarray(Image.fromarray(level).resize(picture.size, Image.Resampling.BILINEAR))


FAINT = 0.06  # of the light: what differs less from the paper the eye hardly sees


def _threshold(signal: np.ndarray, possible: np.ndarray) -> float:
    """Half way between paper and ink, of the signal (H, W) where ink is possible. Raises PictureError without ink.

    Otsu's threshold ("A threshold selection method from gray-level histograms", 1979) tells ink from shadows and
    stains; it is taken over what stands out and as much paper, because ink may be a thousandth of the picture.
    """
    values = signal[possible]
    # The standard deviation of paper, if normal: from what is nearest to 0, and, should all of that be ink, from what
    # changes over eight pixels, along the strokes of a blurred 1, too.
    noise = np.quantile(np.abs(values), 0.25) / 0.3186
    for ink, where in ((signal, possible), (signal.T, possible.T)):
        steps = np.abs(ink[:, 8:] - ink[:, :-8])[where[:, 8:] & where[:, :-8]]
        noise = min(noise, 1.5 * np.median(steps) / 0.954) if len(steps) else noise
    floor = max(5 * noise, FAINT)  # 5: of 262,144 pixels of noise none
    candidates = values[values > floor]
    if not len(candidates):
        raise PictureError("nothing in it looks like ink")
    counts, edges = np.histogram(candidates, 256, (0, candidates.max()))
    counts[0] += len(candidates)
    centres = (edges[:-1] + edges[1:]) / 2
    low = np.cumsum(counts)[:-1] / counts.sum()
    sums = np.cumsum(counts * centres)[:-1] / counts.sum()
    between = (np.average(centres, weights=counts) * low - sums) ** 2 / (low * (1 - low))
    split = edges[1 + between.argmax()]
    return max(float(np.median(values[values >= split])) / 2, floor)


# --- from ink to figures ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Figure:
    """Ink that may be a digit: a connected piece, or several that stand close."""

    mask: np.ndarray  # bool (h, w), cut out tightly
    left: int  # pixels
    top: int
    on_edge: bool = False  # more of it lies on the sheet's outermost pixels than half its longer side
    scale: float = 1  # of the picture, a pixel of the mask
    box: tuple[float, float, float, float] = (0, 0, 0, 0)  # in the picture: left, top, right, bottom
    whole: "Figure | None" = None

    @property
    def height(self) -> int:
        return self.mask.shape[0]

    @property
    def width(self) -> int:
        return self.mask.shape[1]

    @property
    def side(self) -> int:
        return max(self.mask.shape)

    @property
    def mass(self) -> int:
        return int(self.mask.sum())

    def apart(self, other: "Figure") -> tuple[int, int]:
        """Pixels between the two boxes, across and down; negative where they overlap."""
        return (
            max(self.left, other.left) - min(self.left + self.width, other.left + other.width),
            max(self.top, other.top) - min(self.top + self.height, other.top + other.height),
        )

    def gap(self, other: "Figure") -> float:
        """Pixels between the ink of the two."""
        both = _union(self, other)
        left, top = other.left - both.left, other.top - both.top
        place = (slice(top, top + other.height), slice(left, left + other.width))
        theirs = _put(other.mask, place, both.mask.shape)
        return float(ndimage.distance_transform_edt(~(both.mask & ~theirs))[theirs].min()) - 1


GRAIN = 2  # pixels: ink is connected across gaps up to this
SPECK = 0.02  # of the largest piece: what is smaller is dust or noise
PALE = 0.6  # of the threshold: lines are looked for from there, at the threshold of darker ink they fall to pieces
MAX_PIECES = 50  # the largest are enough: the digits are among them, or there are none


def figures_on(sheet: Sheet) -> list[Figure]:
    """What may be digits on a sheet, the largest first, in its pixels. Raises PictureError if there is none."""
    signal = _ink_not_paper(ink_signal(sheet), sheet)
    possible = sheet.inside.copy()
    mask = np.zeros_like(possible)
    light_on_dark = False
    first = None
    for share in (PALE, 1, 1, 1):
        try:
            level = _threshold(signal, possible)
        except PictureError:
            if not mask.any():
                raise
            break
        mask = possible & (signal > level)
        squares = _ink_on_squares(mask)
        light_on_dark = squares is not mask
        mask = squares
        structure = find_lines(mask if light_on_dark else possible & (signal > share * level), sheet.inside)
        if first is None:
            first = mask | structure
        if not structure.any():
            break
        if not _legible(mask & ~structure):
            if sheet.whole:
                break
            raise PictureError("nothing in it looks like ink")
        if not sheet.whole and (mask & ~structure).sum() < 0.15 * structure.sum():
            raise PictureError("nothing in it looks like ink")
        mask = mask & ~structure
        possible &= ~ndimage.binary_dilation(structure, EIGHT, iterations=2) | mask
    if not light_on_dark:
        mask = mask & ~_faint_holes(mask, signal)
    glyphs = _join(_pieces(mask, sheet.inside))
    if first is not None:
        for glyph in glyphs:
            glyph.whole = _whole_of(glyph, first, mask)
    return glyphs


def _whole_of(glyph, first, mask):
    rows, columns = slice(glyph.top, glyph.top + glyph.height), slice(glyph.left, glyph.left + glyph.width)
    own = np.zeros_like(first)
    own[rows, columns] = glyph.mask
    if (own & first).sum() < 0.5 * own.sum():
        return None
    numbers, count = ndimage.label(first, EIGHT)
    keep = np.zeros(count + 1, bool)
    keep[np.unique(numbers[own & first])] = True
    if is_stroke(glyph.mask):
        for number, box in enumerate(ndimage.find_objects(numbers), 1):
            if box[0].start <= rows.start and box[0].stop >= rows.stop and box[1].start <= columns.start and box[1].stop >= columns.stop:
                if not keep[number] and ndimage.binary_fill_holes(numbers[box]==number)[rows.start-box[0].start+1,columns.start-box[1].start+1]:
                    keep[number] = True
    keep[0] = False
    whole = keep[numbers] | own
    if (whole & ~own).sum() < 0.02 * own.sum():
        return None
    r, c = extent(whole)
    return Figure(whole[r, c], c.start, r.start)


def _ink_not_paper(signal: np.ndarray, sheet: Sheet) -> np.ndarray:
    """The signal (H, W), turned round where paper was taken for ink.

    Then what stands out is nowhere to be read but along the edge of the picture. Where a digit that fills the picture
    was taken for its paper, three of the corners stand out; where a corner in poor light was taken for the end of the
    line on which ink lies, more lies on the other one.
    """
    if not sheet.whole:
        return signal
    level = _threshold(signal, sheet.inside)
    mask = signal > level
    from_corners = sum(mask[rows, columns].mean() > 0.5 for rows in CORNERS for columns in CORNERS) >= 3
    less = mask.sum() < (signal < -level / 2).sum()
    if not (from_corners or less):
        return signal
    if any(figure.side >= LEGIBLE and not figure.on_edge for figure in _pieces(mask, sheet.inside)):
        return signal
    return np.median(signal[mask]) - signal if from_corners else -signal


CORNERS = (slice(0, 8), slice(-8, None))  # pixels: what is so near to two sides of a picture is its corner


def _faint_holes(mask: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Holes of loops in broad strokes, in a mask (H, W), that are so small that ink on all sides darkens them.

    They are lighter than the ink round them, if not as light as paper, small, round, and lie deep in the strokes.
    """
    result = np.zeros_like(mask)
    for box, piece in large_pieces(mask, 2 * LEGIBLE):
        piece = np.pad(piece, 1)
        depth = ndimage.distance_transform_edt(piece)
        width = 2 * float(depth.max())
        if width < BROAD * max(piece.shape):
            continue
        ink = np.pad(signal[box], 1)
        dark = np.median(ink[piece])
        for share in (0.65, 0.75, 0.85):
            dense = piece & (ink > share * dark)
            holes, _ = ndimage.label(ndimage.binary_fill_holes(dense) & piece & ~dense)
            for hole, place in enumerate(ndimage.find_objects(holes), 1):
                inside = holes[place] == hole
                high, wide = inside.shape
                fits = min(high, wide) >= 0.1 * width and max(high, wide) <= 0.8 * width and inside.mean() > 0.5
                if fits and ink[place][inside].min() < 0.8 * dark and depth[place][inside].min() > 0.15 * width:
                    area = result[box]
                    area |= _put(inside, place, piece.shape)[1:-1, 1:-1]
    return result


def _put(part: np.ndarray, place: tuple[slice, ...], shape: tuple[int, int]) -> np.ndarray:
    """A mask of that shape (H, W), the part at its place."""
    whole = np.zeros(shape, bool)
    whole[place] = part
    return whole


BROAD = 0.2  # of a piece's longer side: strokes of markers


def _ink_on_squares(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W), where a piece with straight sides is the paper of what is left out of it, as on a dark square."""
    for box, piece in large_pieces(mask, 2 * LEGIBLE):
        piece = np.pad(piece, 1)
        filled = ndimage.binary_fill_holes(piece)
        left_out = filled & ~np.pad(mask[box], 1)
        if _surrounds_something(piece, filled) and _has_straight_sides(filled) and _legible(left_out):
            mask = mask.copy()
            mask[box] = np.where(filled[1:-1, 1:-1], left_out[1:-1, 1:-1], mask[box])
    return mask


def _legible(mask: np.ndarray) -> bool:
    """Whether any piece of a mask (H, W) is large enough to be read."""
    return any(True for _ in large_pieces(mask, LEGIBLE))


def _pieces(mask: np.ndarray, inside: np.ndarray) -> list[Figure]:
    """The connected pieces of a mask (H, W) that may be ink, the largest first.

    Specks are left out. So is what lies along the edge of the sheet, if anything else there can be a digit: it is the
    table, or the dark of a corner. Raises PictureError if nothing can be a digit.
    """
    height, width = mask.shape
    coarse, _ = ndimage.label(reduce(mask, GRAIN), EIGHT)
    numbers = coarse.repeat(GRAIN, 0).repeat(GRAIN, 1)[:height, :width] * mask
    masses = np.bincount(numbers.ravel())
    masses[0] = 0
    boxes = ndimage.find_objects(numbers)
    rim = inside & ~ndimage.binary_erosion(inside)
    pieces = []
    for number in masses.argsort()[::-1][:MAX_PIECES]:
        if not masses[number]:
            break
        rows, columns = boxes[number - 1]
        piece = numbers[rows, columns] == number
        on_edge = (piece & rim[rows, columns]).sum() > max(piece.shape) / 2
        pieces.append(Figure(piece, columns.start, rows.start, on_edge))
    free = [piece for piece in pieces if not piece.on_edge]
    if any(piece.side >= LEGIBLE for piece in free):
        pieces = free
    elif not any(piece.side >= LEGIBLE for piece in pieces):
        raise PictureError("nothing in it looks like ink, or it is too small to be read")
    return [piece for piece in pieces if piece.mass > SPECK * pieces[0].mass]


def _join(pieces: list[Figure]) -> list[Figure]:
    """The figures that the pieces make up, the largest first: the bar of a 5 often does not touch the rest."""
    figures = list(pieces)
    while True:
        pairs = [
            (max(one.apart(other)), i, j)
            for i, one in enumerate(figures)
            for j, other in enumerate(figures[:i])
            if _belong_together(one, other)
        ]
        if not pairs:
            break
        _, i, j = min(pairs)
        joined = _union(figures[i], figures[j])
        figures = [figure for k, figure in enumerate(figures) if k not in (i, j)] + [joined]
    figures.sort(key=lambda figure: -figure.mass)
    return figures


def _belong_together(one: Figure, other: Figure) -> bool:
    """Whether two figures that stand close are parts of one digit rather than two digits."""
    across, down = one.apart(other)
    if max(across, down) > CLOSE * max(one.side, other.side):
        return False
    narrow, wide = sorted((one.width, other.width))
    low, high = sorted((one.height, other.height))
    if low > 0.6 * high and across > -0.2 * narrow:  # side by side, both tall: two digits, or an open 4
        return one.gap(other) < OPEN * min(stroke_width(one.mask), stroke_width(other.mask))
    both_whole = all(figure.height > 0.9 * figure.width for figure in (one, other))
    return not (both_whole and narrow > 0.5 * wide and low > 0.6 * high and down > -0.2 * low)  # one above the other


CLOSE = 0.2  # of the larger one's side
OPEN = 0.5  # of a stroke's thickness: whose ink is nearer, they were to touch


def _union(one: Figure, other: Figure) -> Figure:
    left, top = min(one.left, other.left), min(one.top, other.top)
    right, bottom = (
        max(one.left + one.width, other.left + other.width),
        max(one.top + one.height, other.top + other.height),
    )
    mask = np.zeros((bottom - top, right - left), bool)
    for part in (one, other):
        mask[part.top - top :, part.left - left :][: part.height, : part.width] |= part.mask
    return Figure(mask, left, top)


def find_figures(picture: Image.Image) -> list[Figure]:
    """All that may be digits in an RGB picture, the largest first. Raises PictureError if nothing may.

    Their `box` lies in the picture, their mask at the scale at which they were found.
    """
    found: list[Figure] = []
    for sheet in find_sheets(picture):
        with contextlib.suppress(PictureError):
            found += [_placed(figure, sheet) for figure in figures_on(sheet)]
    if not found:
        sheet = _whole(picture)
        found = [_placed(figure, sheet) for figure in figures_on(sheet)]
    return sorted(found, key=lambda figure: -figure.mass * figure.scale**2)


def _placed(figure: Figure, sheet: Sheet) -> Figure:
    """The figure of a sheet, its box and scale in the picture."""
    scale = (sheet.box[2] - sheet.box[0]) / sheet.pixels.width
    left, top = sheet.box[0] + scale * figure.left, sheet.box[1] + scale * figure.top
    box = (left, top, left + scale * figure.width, top + scale * figure.height)
    return replace(figure, box=box, scale=scale)


def reading_order(figures: list[Figure]) -> list[list[Figure]]:
    """Lines from top to bottom, in each the figures from left to right.

    A figure stands in the line of the last one if their heights overlap by half of the lower one's.
    """
    lines: list[list[Figure]] = []
    for figure in sorted(figures, key=lambda figure: figure.box[0]):
        best, most = None, 0.5
        for line in lines:
            top, bottom = max(figure.box[1], line[-1].box[1]), min(figure.box[3], line[-1].box[3])
            low = min(figure.box[3] - figure.box[1], line[-1].box[3] - line[-1].box[1])
            if (bottom - top) / low > most:
                best, most = line, (bottom - top) / low
        if best is None:
            lines.append([figure])
        else:
            best.append(figure)
    return sorted(lines, key=lambda line: sum(figure.box[1] + figure.box[3] for figure in line) / len(line))


def prepare(image: Image.Image) -> np.ndarray:
    """The largest figure in any picture as uint8 (28, 28), white on black, as MNIST would show it.

    Dark ink on light paper or light on dark, uneven light, thin pens and thick. The same picture always gives the same
    result. Raises PictureError if there is nothing that looks like ink.
    """
    return normalize(find_figures(flatten(image))[0].mask)


# --- from ink to MNIST ------------------------------------------------------------------------------------------------


def normalize(figure: np.ndarray) -> np.ndarray:
    """A mask (H, W), cut out tightly, as MNIST would show it: uint8 (28, 28), white on black.

    As in MNIST the longer side of the bounding box is 20 pixels, edges are gray by the area that is covered, and the
    centre of mass lies on pixel (14, 14), counted from 0 (over the training images its mean is 14.0 and 14.0).
    """
    fine = _set_thickness(fit(figure, FINE) > 127)
    small = fit(fine, BOX)
    rows, columns = small.shape
    mass = small.sum(dtype=float)
    top = round(SIZE / 2 - (small.sum(1) @ np.arange(rows)) / mass)
    left = round(SIZE / 2 - (small.sum(0) @ np.arange(columns)) / mass)
    top, left = min(max(top, 0), SIZE - rows), min(max(left, 0), SIZE - columns)
    result = np.zeros((SIZE, SIZE), np.uint8)
    result[top : top + rows, left : left + columns] = small
    return result


def turn(mask: np.ndarray, degrees: float) -> np.ndarray:
    """The mask (H, W), turned that far to the left, cut out tightly; as it is if its pixels are too few to turn."""
    picture = Image.fromarray(np.uint8(255 * mask))
    turned = np.asarray(picture.rotate(degrees, Image.Resampling.BILINEAR, expand=True)) > 127
    return turned[extent(turned)] if turned.any() else mask


def fit(mask: np.ndarray, side: int) -> np.ndarray:
    """The mask as uint8, 0 to 255, its longer side `side` pixels."""
    return np.asarray(_scale(Image.fromarray(np.uint8(255 * mask)), side, Image.Resampling.HAMMING))


def _set_thickness(mask: np.ndarray) -> np.ndarray:
    """The mask, its longer side FINE pixels, with strokes that are STROKE thick once it is fitted into BOX.

    Where that would open or close a loop or lose a part, because one stroke is a blot, they are changed less.
    """
    wanted = STROKE * FINE / BOX
    # the figure grows with its strokes, and is fitted again: (width + change) * FINE / (FINE + change) = wanted
    change = FINE * (wanted - stroke_width(mask)) / (FINE - wanted)
    number = _euler_number(mask)
    for share in (1, 0.75, 0.5, 0.25):
        changed = _change_strokes(mask, share * change)
        if _euler_number(changed) == number:
            return changed
    return _change_strokes(mask, max(change, 0))  # a hairline is hardly seen: rather a loop that is closed


def _change_strokes(mask: np.ndarray, change: float) -> np.ndarray:
    """A mask (H, W) whose strokes are so many pixels thicker, or thinner if negative, cut out tightly."""
    if change > 0:
        mask = ndimage.distance_transform_edt(~np.pad(mask, math.ceil(change / 2))) <= change / 2
    else:
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))
        mask = depth > min(-change / 2, depth.max() / 2)
    return mask[extent(mask)]


def _euler_number(mask: np.ndarray) -> int:
    """How many pieces a mask (H, W) has, less the holes in them."""
    pieces, holes = ndimage.label(mask, EIGHT)[1], ndimage.label(~np.pad(mask, 1))[1] - 1
    return int(pieces - holes)
