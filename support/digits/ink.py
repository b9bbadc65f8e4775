"""From any picture of a handwritten digit to 28x28 pixels as MNIST has them.

What was done to MNIST's digits (LeCun et al. 1998, III.A) is done to a photograph or a drawing: its ink is found,
fitted into 20x20 pixels keeping its proportions, and placed with its centre of mass in the middle of 28x28, strokes as
thick as MNIST's. The way there: `open_picture` (file to RGB), `find_glyphs` (RGB to ink), `normalize` (ink to 28x28).
It knows nothing of networks.
"""

import contextlib
import math
import stat
import warnings
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage
from scipy.spatial import ConvexHull

from support.digits import lines
from support.digits.lines import EIGHT, LEGIBLE, extent, large_pieces, stroke_width

SIZE = 28  # pixels a side of an MNIST image

# Pixels. The largest mode of common phones is 50 million. Pillow holds 4 bytes a pixel, and turning or recolouring a
# picture makes a copy: this many take half a gigabyte.
MAX_PIXELS = 64_000_000
MAX_SIDE = 30_000  # pixels; of a very long picture Pillow's resizing needs gigabytes
WORKING = 512  # pixels of the longer side, to which every picture is scaled: a digit a tenth as large is still legible
COARSE = 64  # the same, where only light and paper are looked at
MIDDLE = 256  # the same, where sheets are looked for
FINE = 160  # pixels of the longer side of a glyph while its strokes are measured and changed: 8 to a pixel of BOX
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
    limit = f"expected at most {MAX_PIXELS:,}, and {MAX_SIDE:,} a side: make it smaller, 1,000 a side are plenty"
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # opening a FIFO would wait for who writes into it
            raise PictureError("is not a file; expected a picture")
        Image.init()
        formats = [name for name in Image.ID if name != "EPS"]  # which Pillow hands to another program, Ghostscript
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is either checked here or no matter
            with Image.open(path, formats=formats) as image:
                image.verify()  # the checksums of a PNG, which are not looked at while it is decoded
            with Image.open(path, formats=formats) as image:
                width, height = image.size
                if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                    raise PictureError(f"is {width:,} x {height:,} pixels; {limit}")
                on_its_side = image.getexif().get(0x0112, 1) >= 5  # the camera's orientation: by a quarter turn
                image.draft(None, (2 * WORKING, 2 * WORKING))  # a large JPEG is then decoded at a fraction of its size
                return Picture(flatten(image), *((height, width) if on_its_side else (width, height)))
    except PictureError:
        raise
    except (MemoryError, Image.DecompressionBombError):  # Pillow looks before the size is known here
        raise PictureError(f"is too large; {limit}") from None
    except Image.UnidentifiedImageError:
        raise PictureError("is not a picture that Pillow reads; expected PNG, JPEG, WebP, GIF or the like") from None
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # of a damaged file Pillow's plugins raise a dozen kinds, all meaning this
        raise PictureError(f"is damaged: {error or type(error).__name__}") from None


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
    pixels = np.asarray(image)
    visible = pixels[pixels[..., 3] > 127, :3]
    if 2 * len(visible) > pixels[..., 3].size:  # most of it can be seen: that is the paper, and goes on
        paper = np.median(visible, axis=0)
    else:  # only the ink can be seen: it was drawn on what it stands out against
        paper = np.full(3, 255 if len(visible) and visible.mean() < 128 else 0)
    sheet = Image.new("RGBA", image.size, tuple(paper.astype(int).tolist()))
    return Image.alpha_composite(sheet, image).convert("RGB")


def _scale(image: Image.Image, longer: int, filter: Image.Resampling) -> Image.Image:
    """The image with its longer side `longer` pixels, its proportions kept."""
    width, height = (max(1, round(longer * length / max(image.size))) for length in image.size)
    return image.resize((width, height), filter)


# --- sheets: on what paper the ink stands -----------------------------------------------------------------------------

MIN_SHEET = 24  # pixels of MIDDLE
EDGE = 0.035  # of full brightness, a pixel: what changes faster is an edge, unless the picture is noisy
OTHER_COLOUR = 0.12  # of the lighter one


def find_sheets(picture: Image.Image) -> list[Image.Image]:
    """The innermost parts of an RGB picture that have paper of their own and something on it, as masks, in no order.

    That is a slip on a table or a square on a screen, not nearly all of the picture. Edges divide the picture into
    smooth regions; a sheet is one with straight sides that surrounds something, of another colour than what lies round.
    """
    small = _scale(picture, MIDDLE, Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32)
    regions, _ = ndimage.label(_smooth(small))
    found = []
    for number, box in enumerate(ndimage.find_objects(regions), 1):
        region = regions[box] == number
        filled = ndimage.binary_fill_holes(region)
        covered = region.sum() / filled.sum()  # by paper, not by what stands on it
        if min(region.shape) < MIN_SHEET or not 0.4 <= covered < 0.97 or not _has_straight_sides(filled):
            continue
        mask = np.zeros(regions.shape, bool)
        mask[box] = filled
        distance = ndimage.distance_transform_edt(~mask)
        around, paper = pixels[(distance >= 4) & (distance < 8)], np.median(pixels[box][region], axis=0)
        differs = np.abs(around - paper).max(1) > OTHER_COLOUR * np.maximum(around, paper).max(1).clip(64)
        if region.size <= 0.9 * mask.size and differs.mean() > 0.75:
            found.append(mask)
    innermost = [mask for mask in found if not any(other is not mask and (other <= mask).all() for other in found)]
    inner = [Image.fromarray(ndimage.binary_erosion(mask)) for mask in innermost]  # the edge is blurred
    return [mask.resize(picture.size, Image.Resampling.NEAREST) for mask in inner]


def _has_straight_sides(mask: np.ndarray) -> bool:
    """Whether a mask (h, w) without holes is a polygon without notches: a rectangle, seen from aside, or cut off.

    Its convex hull keeps nearly all of its area when it is reduced to six corners, those taken away first that stand
    out least. An ellipse keeps 83 %.
    """
    hull = ConvexHull(np.argwhere(mask & ~ndimage.binary_erosion(mask)))
    corners = hull.points[hull.vertices]
    while len(corners) > 6:
        (y, x), (down, across) = (np.roll(corners, 1, 0) - corners).T, (np.roll(corners, -1, 0) - corners).T
        corners = np.delete(corners, np.abs(y * across - x * down).argmin(), 0)
    return bool(ConvexHull(corners).volume >= 0.94 * hull.volume and mask.sum() >= 0.9 * hull.volume)


def _smooth(picture: Image.Image) -> np.ndarray:
    """Where an RGB picture changes slowly, measured against the light there: bool (H, W)."""
    pixels = ndimage.gaussian_filter(np.asarray(picture, np.float32) / 255, (0.8, 0.8, 0))
    light = np.maximum(ndimage.gaussian_filter(pixels.mean(2), 8), 0.2)
    across, down = (np.abs(ndimage.sobel(pixels, axis, mode="nearest")).max(2) / 8 for axis in (1, 0))
    change = np.hypot(across, down) / light
    return change < max(EDGE / 2, 4 * np.median(change), 0.1 * np.quantile(change, 0.995))


# --- from a sheet to its ink ------------------------------------------------------------------------------------------


def ink_signal(sheet: Image.Image, inside: np.ndarray) -> np.ndarray:
    """How much each pixel differs from its paper towards the ink: float (H, W), paper around 0, 0 outside the sheet.

    Light and paper come first: a smooth surface through most of the pixels. What differs from it does so along a line
    in colour space, from paper to ink; ink is the end of it where the few are.
    """
    paper = _paper(sheet, inside)
    # relative to the light there; below a quarter of full brightness noise would grow more than ink
    light = np.maximum(paper.mean(2), 64)
    difference = np.asarray(sheet.filter(ImageFilter.GaussianBlur(1)), np.float32) - paper
    some = (slice(None, None, 4), slice(None, None, 4))
    flat = (difference[some] / light[some][..., None])[inside[some]].astype(np.float64)
    axis = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    signal = difference @ axis.astype(np.float32) / light
    signal *= np.sign(((flat @ axis) ** 3).sum()) or 1
    values = signal[some][inside[some]]
    signal -= np.median(values[np.abs(values) <= np.median(np.abs(values))])
    return np.where(inside, signal, 0)


def _paper(sheet: Image.Image, inside: np.ndarray) -> np.ndarray:
    """The smooth surface that most of the pixels `inside` (H, W) lie on, as colours: float32 (H, W, 3).

    A polynomial of degree 3 at most in x and y. It starts from the plane through most of the outermost pixels: a digit
    that fills the picture would else be taken for the paper.
    """
    coarse = np.asarray(_scale(sheet, COARSE, Image.Resampling.BOX), np.float64)
    (height, width, _), colours = coarse.shape, coarse.reshape(-1, 3)
    shares = Image.fromarray(inside).convert("L").resize((width, height), Image.Resampling.BOX)
    mask = np.asarray(shares) == 255
    within, rim = mask.ravel(), (mask & ~ndimage.binary_erosion(mask)).ravel()
    y, x = ((2 * index + 1) / side - 1 for index, side in zip(np.indices(mask.shape), mask.shape, strict=True))
    # across a picture so narrow that the stroke of a 1 may fill it only a plane: a curve would follow the stroke
    most_i, most_j = 1 if height > 2 * width else 3, 1 if width > 2 * height else 3
    powers = [(i, total - i) for total in range(4) for i in range(total + 1) if i <= most_i and total - i <= most_j]
    terms = np.stack([(x**i * y**j).ravel() for i, j in powers], axis=1)
    surfaces = [np.tile(np.median(colours[rim], axis=0), (len(colours), 1))]
    for degree, fitted, share in ((1, rim, 0.5), (1, within, 0.3), (2, within, 0.3), (3, within, 0.3)):
        used = terms[:, : sum(i + j <= degree for i, j in powers)]
        surfaces.append(used @ _fit_surface(used[fitted], colours[fitted], surfaces[-1][fitted], share))
    near = [1 / (1 + (np.linalg.norm(colours - surface, axis=1) / NEAR) ** 2) for surface in surfaces]
    best = surfaces[int(np.argmax([one[within].mean() + 2 * one[rim].mean() for one in near]))]
    channels = (Image.fromarray(channel.reshape(height, width).astype(np.float32)) for channel in best.T)
    large = (channel.resize(sheet.size, Image.Resampling.BICUBIC) for channel in channels)
    return np.stack([np.asarray(channel) for channel in large], 2)


NEAR = 10.0  # of 255: what is so near to a surface lies on it


def _fit_surface(terms: np.ndarray, colours: np.ndarray, surface: np.ndarray, share: float) -> np.ndarray:
    """Coefficients float (terms, 3) of a polynomial through most of the colours (N, 3), from a first guess `surface`.

    terms: float (N, terms). share: of the colours that lie on the surface, at least. Iteratively reweighted least
    squares with Cauchy's weights, so that ink, dark or light, counts for little.
    """
    coefficients = np.zeros((terms.shape[1], 3))
    for _ in range(6):
        distance = np.linalg.norm(colours - surface, axis=1)
        usual, far = np.quantile(distance, (share, 0.95))
        scale = max(min(usual, 0.12 * far), 2.0)  # a distance of 2 of 255 is nothing
        weighted = terms / ((1 + (distance / (3 * scale)) ** 2) ** 2)[:, None]
        coefficients = np.linalg.lstsq(weighted.T @ terms, weighted.T @ colours, rcond=None)[0]
        surface = terms @ coefficients
    return coefficients


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
    low, sums = np.cumsum(counts) / counts.sum(), np.cumsum(counts * centres) / counts.sum()
    between = (sums[-1] * low - sums)[:-1] ** 2 / (low * (1 - low))[:-1]
    split = edges[1 + between.argmax()]
    return max(float(np.median(values[values >= split])) / 2, floor)


# --- from ink to glyphs -----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Glyph:
    """Ink that may be a digit: a connected piece, or several that stand close."""

    ink: np.ndarray  # bool (H, W) of its sheet
    corner: tuple[int, int] = (0, 0)  # left and top of the sheet in the picture
    scale: float = 1  # of the picture, a pixel of the sheet
    cut: bool = False  # something that hung together with it was taken away
    whole: "Glyph | None" = None  # with that, if it may be a part of the digit

    def __post_init__(self) -> None:
        self.at = extent(self.ink)  # its rows and columns
        self.mask = self.ink[self.at]
        self.height, self.width = self.mask.shape
        self.side, self.mass = max(self.mask.shape), int(self.mask.sum())

    @property
    def box(self) -> np.ndarray:
        """Left, top, right, bottom in the picture, the last two behind its last pixel: float (4,)."""
        rows, columns = self.at
        edges = np.array([columns.start, rows.start, columns.stop, rows.stop])
        return np.array(2 * self.corner) + self.scale * edges


GRAIN = 2  # pixels: ink is connected across gaps up to this
SPECK = 0.02  # of the largest piece: what is smaller is dust or noise
PALE = 0.6  # of the threshold: lines are looked for from there, at the threshold of darker ink they fall to pieces
MAX_PIECES = 50  # the largest are enough: the digits are among them, or there are none
CLOSE = 0.2  # of the larger one's side: pieces so near may be parts of one digit
OPEN = 0.5  # of a stroke's thickness: whose ink is nearer, they were to touch
BROAD = 0.2  # of a piece's longer side: strokes of markers
FOOT = 0.45  # of a glyph's side: lines that go beyond it by so much, on both sides together, are none of its strokes


def glyphs_on(sheet: Image.Image, inside: np.ndarray) -> list[Glyph]:
    """What may be digits inside of a sheet (H, W), the largest first. Raises PictureError if there is none."""
    signal = ink_signal(sheet, inside)
    possible = inside.copy()
    mask = taken = np.zeros_like(possible)
    for share in (PALE, 1, 1):  # what is left is looked at again: pencil may stand between printed lines
        level = _threshold(signal, possible)
        mask = possible & (signal > level)
        found = lines.find_lines(possible & (signal > share * level), inside)
        if not found.any() or not any(True for _ in large_pieces(mask & ~found, LEGIBLE)):
            break
        mask, taken = mask & ~found, taken | found
        possible &= ~ndimage.binary_dilation(found, EIGHT, iterations=2) | mask
    glyphs = _join(_pieces(mask & ~_faint_holes(mask, signal), inside))
    for glyph in glyphs if taken.any() else []:
        _find_what_was_taken(glyph, mask | taken)
    return glyphs


def _find_what_was_taken(glyph: Glyph, ink: np.ndarray) -> None:
    """Note what hung together with a glyph in a mask (H, W) of all ink, lines too, and whether it may be a part of it.

    Lines that go far beyond what stands on them are none of its strokes.
    """
    whole = Glyph(ndimage.binary_propagation(glyph.ink, EIGHT, mask=ink | glyph.ink))
    glyph.cut = whole.mass > 1.02 * glyph.mass
    if glyph.cut and max(whole.width - glyph.width, whole.height - glyph.height) < FOOT * glyph.side:
        glyph.whole = whole


def _faint_holes(mask: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Holes of loops in broad strokes, in a mask (H, W), that are so small that ink on all sides darkens them.

    They are lighter than the ink round them, if not as light as paper, and lie deep in the strokes.
    """
    result = np.zeros_like(mask)
    for box, piece in large_pieces(mask, 2 * LEGIBLE):
        depth = ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1]
        if 2 * depth.max() > BROAD * max(piece.shape):
            dense = piece & (signal[box] > 0.75 * np.median(signal[box][piece]))
            result[box] |= ndimage.binary_fill_holes(dense) & ~dense & (depth > 0.3 * depth.max())
    return result


def _pieces(mask: np.ndarray, inside: np.ndarray) -> list[Glyph]:
    """The connected pieces of a mask (H, W) that may be ink, the largest first.

    Specks are left out. So is what lies along the edge of the sheet, if anything else there can be a digit: it is the
    table, or the dark of a corner. Raises PictureError if nothing can be a digit.
    """
    height, width = mask.shape
    coarse, _ = ndimage.label(lines.reduce(mask, GRAIN), EIGHT)
    numbers = coarse.repeat(GRAIN, 0).repeat(GRAIN, 1)[:height, :width] * mask
    largest = np.argsort(-np.bincount(numbers.ravel())[1:])[:MAX_PIECES] + 1
    pieces = [Glyph(numbers == number) for number in largest]
    rim, border = inside & ~ndimage.binary_erosion(inside), lines.near_edge(inside)
    off_edge = [piece for piece in pieces if rim[piece.ink].sum() <= piece.side / 2 and border[piece.ink].mean() <= 0.5]
    pieces = off_edge if any(piece.side >= LEGIBLE for piece in off_edge) else pieces
    if not any(piece.side >= LEGIBLE for piece in pieces):
        raise PictureError("nothing in it looks like ink, or it is too small to be read")
    return [piece for piece in pieces if piece.mass > SPECK * pieces[0].mass]


def _join(pieces: list[Glyph]) -> list[Glyph]:
    """The glyphs that the pieces make up, the largest first: the bar of a 5 often does not touch the rest."""
    glyphs = list(pieces)
    while pair := next((pair for pair in combinations(glyphs, 2) if _belong_together(*pair)), None):
        glyphs = [glyph for glyph in glyphs if glyph not in pair] + [Glyph(pair[0].ink | pair[1].ink)]
    return sorted(glyphs, key=lambda glyph: -glyph.mass)


def _belong_together(one: Glyph, other: Glyph) -> bool:
    """Whether two glyphs that stand close are parts of one digit rather than two digits."""
    # between the two boxes; negative where they overlap
    down, across = (max(a.start, b.start) - min(a.stop, b.stop) for a, b in zip(one.at, other.at, strict=True))
    if max(across, down) > CLOSE * max(one.side, other.side):
        return False
    narrow, wide = sorted((one.width, other.width))
    low, high = sorted((one.height, other.height))
    if low > 0.6 * high and across > -0.2 * narrow:  # side by side, both tall: two digits, or an open 4
        gap = ndimage.distance_transform_edt(~one.ink)[other.ink].min() - 1
        return bool(gap < OPEN * min(stroke_width(one.mask), stroke_width(other.mask)))
    both_whole = all(glyph.height > 0.9 * glyph.width for glyph in (one, other))
    return not (both_whole and narrow > 0.5 * wide and low > 0.6 * high and down > -0.2 * low)  # one above the other


def find_glyphs(picture: Image.Image) -> list[Glyph]:
    """All that may be digits in an RGB picture, the largest first. Raises PictureError if nothing may."""
    found: list[Glyph] = []
    for mask in find_sheets(picture):
        box = mask.getbbox() or (0, 0, *picture.size)
        sheet = _scale(picture.crop(box), WORKING, Image.Resampling.BICUBIC)
        inside = np.asarray(mask.crop(box).resize(sheet.size, Image.Resampling.NEAREST), bool)
        with contextlib.suppress(PictureError):
            for glyph in glyphs_on(sheet, inside):
                for one in filter(None, (glyph, glyph.whole)):
                    one.corner, one.scale = box[:2], (box[2] - box[0]) / sheet.width
                found.append(glyph)
    found = found or glyphs_on(picture, np.ones((picture.height, picture.width), bool))
    return sorted(found, key=lambda glyph: -glyph.mass * glyph.scale**2)


def reading_order(glyphs: list[Glyph]) -> list[list[Glyph]]:
    """Rows of text from top to bottom, in each the glyphs from left to right.

    A glyph stands in the row of the last one if their heights overlap by half of the lower one's.
    """

    def overlap(one: Glyph, other: Glyph) -> float:
        (_, top, _, bottom), (_, above, _, below) = one.box, other.box
        return (min(bottom, below) - max(top, above)) / min(bottom - top, below - above)

    rows: list[list[Glyph]] = []
    for glyph in sorted(glyphs, key=lambda glyph: glyph.box[0]):
        row = max(rows, key=lambda row: overlap(row[-1], glyph), default=[])
        if row and overlap(row[-1], glyph) > 0.5:
            row.append(glyph)
        else:
            rows.append([glyph])
    return sorted(rows, key=lambda row: np.mean([glyph.box[1] + glyph.box[3] for glyph in row]))


# --- from ink to MNIST ------------------------------------------------------------------------------------------------


def normalize(glyph: np.ndarray) -> np.ndarray:
    """A mask (H, W), cut out tightly, as MNIST would show it: uint8 (28, 28), white on black.

    As in MNIST the longer side of the bounding box is 20 pixels, edges are gray by the area that is covered, and the
    centre of mass lies on pixel (14, 14), counted from 0 (over the training images its mean is 14.0 and 14.0).
    """
    fine = _set_thickness(fit(glyph, FINE) > 127)
    small = fit(fine, BOX)
    begins = (round(SIZE / 2 - centre) for centre in ndimage.center_of_mass(small))
    top, left = (min(max(begin, 0), SIZE - side) for begin, side in zip(begins, small.shape, strict=True))
    result = np.zeros((SIZE, SIZE), np.uint8)
    result[top : top + small.shape[0], left : left + small.shape[1]] = small
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
    # the glyph grows with its strokes, and is fitted again: (width + change) * FINE / (FINE + change) = wanted
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
