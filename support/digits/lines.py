"""Ruled lines, frames and rings in a mask of ink, found to be taken away from the digit that stands on or in them.

A line is straight, thin, and runs nearly along the picture's sides. So do strokes of digits: what makes it a line is
said in `find_lines`; a digit that hangs together with one is read with and without it. It knows nothing of pictures.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

BORDER = 10  # pixels from the edge of a sheet that count as the edge
LEGIBLE = 16  # pixels: a digit has a side of at least that
MAX_PIECES = 12  # that are searched, the largest first
LOOKED_AT = 160  # pixels of the longer side of a piece while lines are looked for in it
STEEPEST = 0.2  # of a line against the picture's sides: 11 degrees
SPAN = 0.6  # of the piece's side: what is shorter is no line
END = 0.1  # of a side: so much shows of a line beyond the stroke that stands on it
FULL = 0.85  # of a line's pixels are ink; the rest are gaps
MOSTLY_THIN = 0.5  # of a line's pixels no stroke crosses
SLENDER = 10  # times as long as thick is a line at least
THIN = 0.12  # of the piece's longer side: what is thicker is no line
MANY = 3  # so many lines from edge to edge are no digit
TOE = 0.35  # of a digit's height: its foot goes beyond it by less, on both sides together
OF_LINES = 0.7  # of the ink of a frame is found to be lines; of an oval up to a half
OVAL = 0.8  # times as wide as high is a 0 at most, most rings are more
HELD = 0.3  # of a frame's shorter side: what is smaller may be a blot in a loop
DASHES = 6  # gaps between so many make a broken line
MAX_DASH = 0.25  # of the longer side of the sheet: what is longer is a line, whole already
MAX_GAP = 31  # pixels between two dashes
EIGHT = np.ones((3, 3), bool)  # pixels that touch at a corner hang together


@dataclass(eq=False)
class Line:
    """A straight thin part of a piece of ink."""

    pixels: np.ndarray  # bool (H, W) of the sheet
    across: bool  # rather than down
    start: int  # along it
    stop: int
    thickness: float
    spans: bool  # from edge to edge of the sheet


def find_lines(mask: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What in a mask of ink (H, W) is none of the digit's: bool (H, W).

    That is what runs from edge to edge of the sheet `inside`, a frame or ring round something, and a line below or
    above that is longer than what stands on it. Where a stroke crosses a line, the stroke stays.
    """
    bridged = _bridge_dashes(mask)
    lines = _all_lines(bridged, inside)
    ruled = _from_edge_to_edge(lines, mask, inside)
    frames = _frames(_without(bridged, ruled), lines)
    rest = _without(mask, ruled) & ~frames
    across = [line for line in lines if line.across and not line.spans and not (line.pixels & frames).any()]
    main = _largest(_without(rest, across))
    if main is not None:
        rest = _without(rest, _underlines(across, main))
    return mask & ~rest


# --- what makes it a line ---------------------------------------------------------------------------------------------


def _from_edge_to_edge(lines: list[Line], mask: np.ndarray, inside: np.ndarray) -> list[Line]:
    """Those of the lines in a mask (H, W) that run from edge to edge of a sheet.

    A digit that fills the picture has strokes from edge to edge, too. They hang together with the rest of it, which
    comes near to an edge itself, and few go beyond it on both sides.
    """
    spanning = [line for line in lines if line.spans]
    main = _largest(_without(mask, lines))
    if main is None or len(spanning) >= MANY:
        return spanning
    numbers, _ = ndimage.label(mask, EIGHT)
    piece = numbers == numbers[main].max()
    fills = (main & near_edge(inside, 3 * BORDER)).any()
    return [line for line in spanning if not (line.pixels & piece).any() or (not fills and _goes_beyond(line, main))]


def _goes_beyond(line: Line, figure: np.ndarray) -> bool:
    """Whether a line ends outside of a figure (H, W) on both sides."""
    rows, columns = extent(figure)
    along = columns if line.across else rows
    side = max(rows.stop - rows.start, columns.stop - columns.start)
    return min(along.start - line.start, line.stop - along.stop) > END * side


def _underlines(lines: list[Line], figure: np.ndarray) -> list[Line]:
    """Those of the lines across that lie below or above a figure (H, W), and end outside of what of it is near.

    The foot of a 2 or 1 does so, too, but goes beyond it by less where it hangs together with it, as does the bar of a
    7 or 5.
    """
    rows, columns = extent(figure)
    height = rows.stop - rows.start
    touching = ndimage.binary_dilation(figure, EIGHT, iterations=3)
    found = []
    for line in lines:
        level = round(line.pixels.nonzero()[0].mean())
        near = figure[max(level - height // 4, 0) : level + height // 4]
        beside = extent(near)[1] if near.any() else columns
        if line.start > beside.start or line.stop < beside.stop or line.stop - line.start < 0.8 * height:
            continue
        longer = columns.start - line.start + line.stop - columns.stop > TOE * height
        apart = not (touching & line.pixels).any()
        share_above = figure[:level].sum() / figure.sum()
        if (share_above > 0.85 and (longer or apart)) or (share_above < 0.15 and longer and apart):
            found.append(line)
    return found


def _frames(mask: np.ndarray, lines: list[Line]) -> np.ndarray:
    """Pieces of a mask (H, W) that surround another one of some size: rings, and frames of lines, closed or not.

    An oval round a single stroke is a 0 with a stroke of its own, as programmers write it.
    """
    straight = np.logical_or.reduce([np.zeros_like(mask), *[line.pixels for line in lines]])
    result = np.zeros_like(mask)
    pieces = list(large_pieces(mask, LEGIBLE))
    for box, piece in pieces:
        high, wide = piece.shape
        within = [inner for at, inner in pieces if at != box and _lies_in(at, box)]
        held = [inner for inner in within if max(inner.shape) > HELD * min(high, wide)]
        if not held:
            continue
        closed = (ndimage.binary_fill_holes(piece) & mask[box] & ~piece).any()
        is_zero = wide < OVAL * high and len(held) == 1 and is_stroke(held[0])
        if straight[box][piece].mean() > OF_LINES or (closed and not is_zero):
            result[box] |= piece
    return result


def _lies_in(box: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    return all(outer.start <= part.start and part.stop <= outer.stop for part, outer in zip(box, other, strict=True))


# --- finding what is straight and thin --------------------------------------------------------------------------------


def _all_lines(mask: np.ndarray, inside: np.ndarray) -> list[Line]:
    """The lines in each of the largest pieces of a mask (H, W)."""
    border = near_edge(inside)
    pieces = sorted(large_pieces(mask, LEGIBLE), key=lambda found: -found[1].sum())
    lines = []
    for box, piece in pieces[:MAX_PIECES]:
        scale = max(1, math.ceil(max(piece.shape) / LOOKED_AT))
        small, edge = reduce(piece, scale), reduce(border[box] & piece, scale)
        for axis, found in ((1, _straight(small)), (0, [line.T for line in _straight(small.T)])):
            for pixels in found:
                along = pixels.nonzero()[axis]
                ends = along <= along.min() + 4, along >= along.max() - 4
                whole = np.zeros_like(mask)
                whole[box] = pixels.repeat(scale, 0).repeat(scale, 1)[: piece.shape[0], : piece.shape[1]] & piece
                line = Line(
                    pixels=whole,
                    across=axis == 1,
                    start=box[axis].start + scale * int(along.min()),
                    stop=box[axis].start + scale * int(along.max() + 1),
                    thickness=whole.sum() / max(1, whole.any(1 - axis).sum()),
                    spans=all(bool(edge[pixels][end].any()) for end in ends) and edge[pixels].mean() < 0.5,
                )
                lines.append(line)
    return lines


def _straight(mask: np.ndarray) -> list[np.ndarray]:
    """The thin straight lines in a mask (h, w) that run along its rows, or up to STEEPEST against them: masks."""
    height, width = mask.shape
    length = max(round(SPAN * width), 8) | 1
    if length > width:
        return []
    runs, _ = ndimage.label(mask, [[0, 1, 0]] * 3)  # down each column
    thickness = np.bincount(runs.ravel())[runs]
    thin = mask & (thickness <= max(THIN * max(height, width), 2))
    found = np.zeros_like(mask)
    columns = np.arange(width)
    steps = round(STEEPEST * width)
    for step in range(-steps, steps + 1):
        rows = (np.arange(height)[:, None] + np.round(step * (columns / width - 0.5)).astype(int)) % height
        rows = rows[thin[rows, columns].sum(1) >= MOSTLY_THIN * length]
        if not len(rows):
            continue
        level, slim = mask[rows, columns], thin[rows, columns]
        full = (_mean(level, length) >= FULL) & (_mean(slim, length) >= MOSTLY_THIN)
        y, x = (ndimage.maximum_filter1d(full, length, axis=1) & level).nonzero()
        found[rows[y, x], x] = True
    numbers, count = ndimage.label(ndimage.binary_dilation(found, np.ones((3, 9), bool)), EIGHT)  # across gaps
    lines = []
    for number in range(1, count + 1):
        near = (numbers == number) & mask
        if (near & thin).any():
            usual = np.quantile(thickness[near & thin], 0.25)  # a stroke along it may make it thicker in part
            line = near & (thickness <= 1.6 * usual + 1)
            if np.ptp(line.nonzero()[1]) >= SLENDER * usual:
                lines.append(line)
    return lines


def _mean(level: np.ndarray, length: int) -> np.ndarray:
    """Of each pixel of a mask (h, w), how much of its `length` neighbours in the row is set: float (h, w)."""
    return ndimage.uniform_filter1d(level.astype(np.float32), length, axis=1, mode="constant") + 1e-6


def _bridge_dashes(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) with the gaps of broken lines filled, where many short slim pieces follow one another.

    Where dashes cross or meet at a corner, a piece is no longer than that by much.
    """
    numbers, _ = ndimage.label(mask, EIGHT)
    boxes = np.array([[part.stop - part.start for part in box] for box in ndimage.find_objects(numbers)])
    length, thickness = boxes.reshape(-1, 2).max(1), boxes.reshape(-1, 2).min(1)
    slim = (length >= 2 * thickness) & (length <= MAX_DASH * max(mask.shape))
    if slim.sum() <= DASHES:
        return mask
    short = length <= 1.5 * length[slim].max()
    dashes, pieces = (np.pad(np.insert(kind, 0, False)[numbers], MAX_GAP) for kind in (slim, short))
    windows = np.ones((3, MAX_GAP), bool), np.ones((MAX_GAP, 3), bool)  # along rows, along columns
    gaps = sum(slim.sum() - ndimage.label(ndimage.binary_closing(dashes, window), EIGHT)[1] for window in windows)
    if gaps < DASHES:
        return mask
    bridged = np.logical_or(*(ndimage.binary_closing(pieces, window) for window in windows))
    return mask | bridged[MAX_GAP:-MAX_GAP, MAX_GAP:-MAX_GAP]


def _without(mask: np.ndarray, lines: list[Line]) -> np.ndarray:
    """A mask (H, W) less the lines, with the strokes that cross them."""
    if not lines:
        return mask
    taken = ndimage.binary_dilation(np.logical_or.reduce([line.pixels for line in lines]), EIGHT)
    rest = mask & ~taken
    reach = math.ceil(max(line.thickness for line in lines) / 2) + 2
    padded = np.pad(rest, reach)
    closed = ndimage.binary_closing(padded, iterations=reach)[reach:-reach, reach:-reach]
    return rest | (closed & taken & mask)


# --- masks ------------------------------------------------------------------------------------------------------------


def extent(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns that a mask (H, W), not empty, takes."""
    rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
    return rows, columns


def large_pieces(mask: np.ndarray, side: int) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The connected pieces of a mask (H, W) whose longer side is at least `side`: rows and columns, bool (h, w)."""
    numbers, _ = ndimage.label(mask, EIGHT)
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), 1):
        if max(rows.stop - rows.start, columns.stop - columns.start) >= side:
            yield (rows, columns), numbers[rows, columns] == number


def _largest(mask: np.ndarray) -> np.ndarray | None:
    """The largest connected piece of a mask (H, W); None if it is empty."""
    numbers, count = ndimage.label(mask, EIGHT)
    return np.equal(numbers, np.bincount(numbers.ravel())[1:].argmax() + 1) if count else None


def near_edge(inside: np.ndarray, reach: int = BORDER) -> np.ndarray:
    """The pixels of a sheet (H, W) that are no more than `reach` from its edge: bool (H, W)."""
    return inside & ~ndimage.minimum_filter(inside, 2 * reach + 1, mode="constant", cval=False)


def reduce(mask: np.ndarray, scale: int) -> np.ndarray:
    """Of every `scale` x `scale` pixels of a mask (H, W), whether any is set."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % scale), (0, -width % scale)))
    return np.asarray(padded.reshape(padded.shape[0] // scale, scale, -1, scale).any((1, 3)))


def stroke_width(mask: np.ndarray) -> float:
    """The mean thickness of a mask's strokes in pixels.

    Across a stroke the distance to its edge climbs from 0 to half the thickness and falls again: a quarter on average.
    """
    return float(4 * ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1][mask].mean())


def is_stroke(mask: np.ndarray) -> bool:
    """Whether a piece (h, w) is a single straight stroke: no longer than from corner to corner."""
    return bool(mask.sum() < 1.1 * math.hypot(*mask.shape) * stroke_width(mask))
