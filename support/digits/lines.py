"""Lines in a mask of ink: ruled and squared paper, cells, frames, what is underlined; found to be taken away.

A line is straight, thin, and runs nearly along the picture's sides; what makes it no stroke of a digit is said in
`find_lines`. It knows nothing of pictures, only masks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

BORDER = 8  # pixels from the edge of a sheet that count as the edge
SMALLEST = 16  # pixels of the longer side of a piece that is searched
MAX_PIECES = 12  # that are searched, the largest first
LOOKED_AT = 160  # pixels of the longer side of a piece while lines are looked for in it
STEEPEST = 0.2  # of a line against the picture's sides: 11 degrees
SPAN = 0.6  # of the piece's side: what is shorter is no line
END = 0.1  # of the piece's side: so long is what shows of a line beyond the stroke that stands on it
FULL = 0.85  # of a line's pixels are ink; the rest are gaps
MOSTLY_THIN = 0.5  # of a line's pixels no stroke crosses
SLENDER = 10  # times as long as thick is a line at least
THIN = 0.12  # of the piece's longer side: what is thicker is no line
CERTAIN = 8  # so many lines are a grid, whatever is left without them
ALIKE = 2  # times as high as each other are digits of one line at most
MANY = 3  # so many lines from edge to edge are no digit
DASHES = 6  # so many make a broken line
SHORTEST_DASH = 5  # pixels
MAX_DASH = 0.25  # of the longer side of the sheet: what is longer is a line, whole already
EIGHT = np.ones((3, 3), bool)  # pixels that touch at a corner hang together


@dataclass
class Line:
    """A straight thin part of a piece of ink."""

    pixels: np.ndarray  # bool (H, W) of the sheet
    across: bool  # rather than down
    start: int  # along it
    stop: int
    thickness: float
    spans: bool  # from edge to edge of the sheet
    alone: bool  # nothing else hangs together with it
    in_grid: bool  # so do others, both ways


def find_lines(mask: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What in a mask of ink (H, W) is a printed or ruled line, not a stroke of a digit: bool (H, W).

    That is what runs from edge to edge of the sheet `inside`; lines both ways, as in a grid or a frame; a line below or
    above that is longer than what stands on it; and what is much thinner than the strokes. Where a stroke crosses a
    line, the stroke stays.
    """
    lines = _all_lines(_bridge_dashes(mask), inside)
    if not lines:
        return np.zeros_like(mask)
    spanning = _from_edge_to_edge(lines, mask, inside)
    sure = spanning + [line for line in lines if line.in_grid and not line.spans]
    usual = np.median([line.thickness for line in sure]) if sure else 0
    sure = [line for line in sure if line.thickness < 1.5 * (usual + 1)]  # others are strokes along a line
    if len(sure) < CERTAIN and len(spanning) < MANY and any(line.in_grid for line in sure):
        left = _without(mask, sure)
        taken, rest = mask & ~left, _largest(left)
        if rest is not None and rest.sum() < 0.25 * taken.sum() and _touches(rest, taken):
            sure = []  # it was a digit of straight strokes
    others = [line for line in lines if not line.in_grid and not line.spans]
    main = _largest(_without(mask, sure + [line for line in others if line.across]))
    if main is None:
        sure += [line for line in others if line.across]
    else:
        sure += [line for line in others if _underlines(line, main) or _is_stray(line, main)]
    return mask & ~_without(mask, sure)


def _from_edge_to_edge(lines: list[Line], mask: np.ndarray, inside: np.ndarray) -> list[Line]:
    """Those of the lines in a mask (H, W) that run from edge to edge of a sheet, and are no strokes of a digit.

    One that fills the picture, a 4 or 9, has such strokes; the rest of it is near the edge, too, and about as thick.
    """
    spanning = [line for line in lines if line.spans]
    main = _largest(_without(mask, spanning)) if 0 < len(spanning) < MANY else None
    if main is None or not _reaches(main, inside) or _reaches(mask, inside) < 4:
        return spanning
    return [line for line in spanning if line.thickness < stroke_width(main[extent(main)]) / 2]


def _bridge_dashes(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) with the gaps of broken lines filled, where many short straight pieces follow one another."""
    boxes = ndimage.find_objects(ndimage.label(mask, EIGHT)[0])
    lengths = np.concatenate([_dashes(boxes, axis, MAX_DASH * max(mask.shape)) for axis in (0, 1)])
    if len(lengths) < DASHES:
        return mask
    reach = math.ceil(np.median(lengths) / 4)  # gaps up to half of a dash
    padded = np.pad(mask, reach)
    return ndimage.binary_closing(padded, EIGHT, iterations=reach)[reach:-reach, reach:-reach]


def _dashes(boxes: list[tuple[slice, ...]], axis: int, longest: float) -> np.ndarray:
    """The lengths along an axis of those pieces, by their rows and columns, that may be dashes of a line: int (N,).

    Each follows another, no farther than that is long. The 1s of a row stand beside one another.
    """
    start, stop = np.array([(box[axis].start, box[axis].stop) for box in boxes], int).reshape(-1, 2).T
    low, high = np.array([(box[1 - axis].start, box[1 - axis].stop) for box in boxes], int).reshape(-1, 2).T
    length = stop - start
    slim = (length >= 2 * (high - low)) & (length >= SHORTEST_DASH) & (length <= longest)
    start, stop, low, high, length = (values[slim] for values in (start, stop, low, high, length))
    gaps = start - stop[:, None]  # from the end of a row's piece to the start of a column's
    in_line = np.minimum(high, high[:, None]) > np.maximum(low, low[:, None])
    follows = in_line & (gaps >= 0) & (gaps <= length[:, None])
    return length[follows.any(0) | follows.any(1)]


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


def _touches(figure: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks (H, W) that share no pixel hang together."""
    return bool((ndimage.binary_dilation(figure, EIGHT) & other).any())


def _reaches(figure: np.ndarray, inside: np.ndarray) -> int:
    """How many of the four sides of a sheet (H, W) a figure (H, W) comes near to."""
    near = max(BORDER, max(inside.shape) // 16)
    gaps = [
        gap
        for one, other in zip(extent(figure), extent(inside), strict=True)
        for gap in (one.start - other.start, other.stop - one.stop)
    ]
    return sum(gap < near for gap in gaps)


def _border(inside: np.ndarray) -> np.ndarray:
    """The pixels of a sheet (H, W) that are no more than BORDER from its edge: bool (H, W)."""
    return inside & ~ndimage.minimum_filter(inside, 2 * BORDER + 1, mode="constant", cval=False)


def _underlines(line: Line, figure: np.ndarray) -> bool:
    """Whether a line across lies below or above a figure (H, W), and stands out on both sides of what is near to it.

    The foot of a 1 does so, too, but it is short.
    """
    rows, columns = extent(figure)
    height = rows.stop - rows.start
    level = round(line.pixels.nonzero()[0].mean())
    if not line.across or 0.15 < figure[:level].sum() / figure.sum() < 0.85:
        return False
    near = figure[max(level - height // 4, 0) : level + height // 4]
    if near.any():
        columns = extent(near)[1]
    out = min(columns.start - line.start, line.stop - columns.stop)
    return out > 0.1 * height and line.stop - line.start > 0.8 * height


def _is_stray(line: Line, figure: np.ndarray) -> bool:
    """Whether a line stands alone, thinner than the strokes of a figure (H, W) by far, and is no 1 beside it."""
    if not line.alone:
        return False
    rows, columns = extent(figure)
    strokes, height, length = stroke_width(figure[rows, columns]), rows.stop - rows.start, line.stop - line.start
    like_one = not line.across and ALIKE * length > height and ALIKE * height > length
    return line.thickness < strokes / (4 if like_one else 2)


def _all_lines(mask: np.ndarray, inside: np.ndarray) -> list[Line]:
    """The lines in each of the largest pieces of a mask (H, W)."""
    numbers, _ = ndimage.label(mask, EIGHT)
    masses = np.bincount(numbers.ravel())[1:]
    boxes = ndimage.find_objects(numbers)
    border = _border(inside)
    lines = []
    for index in masses.argsort()[::-1][:MAX_PIECES]:
        box = boxes[index]
        piece = numbers[box] == index + 1
        if max(piece.shape) < SMALLEST:
            continue
        scale = max(1, math.ceil(max(piece.shape) / LOOKED_AT))
        small, edge = reduce(piece, scale), reduce(border[box] & piece, scale)
        across, down = _straight(small), [line.T for line in _straight(small.T)]
        in_grid = (len(across) >= 2 and len(down) >= 2) or _is_frame(across, down)
        for axis, pixels in [(1, line) for line in across] + [(0, line) for line in down]:
            along = pixels.nonzero()[axis]
            ends = along <= along.min() + 4, along >= along.max() - 4
            whole = np.zeros_like(mask)
            whole[box] = pixels.repeat(scale, 0).repeat(scale, 1)[: piece.shape[0], : piece.shape[1]] & piece
            lines.append(
                Line(
                    pixels=whole,
                    across=axis == 1,
                    start=box[axis].start + scale * int(along.min()),
                    stop=box[axis].start + scale * int(along.max() + 1),
                    thickness=whole.sum() / max(1, whole.any(1 - axis).sum()),
                    spans=all(bool(edge[pixels][end].any()) for end in ends) and edge[pixels].mean() < 0.5,
                    alone=bool(whole.sum() > 0.85 * masses[index]),
                    in_grid=in_grid,
                )
            )
    return lines


def _straight(mask: np.ndarray) -> list[np.ndarray]:
    """The thin straight lines in a mask (h, w) that run along its rows, or up to STEEPEST against them: masks."""
    height, width = mask.shape
    length = max(round(SPAN * width), 8)
    if length > width:
        return []
    short = max(round(END * width), 4)
    thickness = _run_lengths(mask)
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
        full = _windows(level, length) >= FULL * length
        full &= _windows(slim, length) >= MOSTLY_THIN * length
        # a stroke that stands on one end of a line leaves no window there but a short one beyond it
        goes_on = (_windows(slim, short) >= FULL * short) & full.any(1, keepdims=True)
        y, x = ((_covered(full, width) | _covered(goes_on, width)) & level).nonzero()
        found[rows[y, x], x] = True
    numbers, count = ndimage.label(ndimage.binary_dilation(found, np.ones((3, 9), bool)), EIGHT)  # across gaps
    lines = []
    for number in range(1, count + 1):
        near = (numbers == number) & mask
        if not (near & thin).any():
            continue
        usual = np.quantile(thickness[near & thin], 0.25)  # a stroke along it may make it thicker in part
        line = near & (thickness <= 1.6 * usual + 1)
        if line.any() and np.ptp(line.nonzero()[1]) >= SLENDER * usual:
            lines.append(line)
    return lines


def _windows(level: np.ndarray, length: int) -> np.ndarray:
    """Of each `length` neighbours in a row of a mask (h, w), how many are set: int (h, w - length + 1)."""
    sums = np.zeros((len(level), level.shape[1] + 1), np.int32)
    np.cumsum(level, axis=1, out=sums[:, 1:])
    return sums[:, length:] - sums[:, :-length]


def _covered(full: np.ndarray, width: int) -> np.ndarray:
    """The pixels of the windows that are full, bool (h, windows): bool (h, width)."""
    marks = np.zeros((len(full), width + 1), np.int32)
    length = width + 1 - full.shape[1]
    marks[:, : full.shape[1]] += full
    marks[:, length:] -= full
    return np.cumsum(marks, axis=1)[:, :width] > 0


def _run_lengths(mask: np.ndarray) -> np.ndarray:
    """Of each pixel of a mask (H, W), the length of the run of set pixels in its column: int (H, W)."""
    padded = np.pad(mask, ((1, 1), (0, 0))).T
    change = np.diff(padded.astype(np.int8).ravel())
    starts, stops = (change == 1).nonzero()[0] + 1, (change == -1).nonzero()[0] + 1
    lengths = np.zeros(padded.size, np.int32)
    lengths[padded.ravel()] = np.repeat(stops - starts, stops - starts)
    return lengths.reshape(padded.shape)[:, 1:-1].T


def _is_frame(across: list[np.ndarray], down: list[np.ndarray]) -> bool:
    """Whether at least three of the four sides of a piece are lines."""
    sides = set()
    for axis, lines in enumerate((across, down)):
        for line in lines:
            middle = np.nonzero(line)[axis].mean() / line.shape[axis]
            if not 0.15 < middle < 0.85:
                sides.add((axis, middle > 0.5))
    return len(sides) >= 3


# --- masks ------------------------------------------------------------------------------------------------------------


def extent(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns that a mask (H, W), not empty, takes."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def large_pieces(mask: np.ndarray, side: int) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The connected pieces of a mask (H, W) whose longer side is at least `side`: rows and columns, bool (h, w)."""
    numbers, _ = ndimage.label(mask, EIGHT)
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), 1):
        if max(rows.stop - rows.start, columns.stop - columns.start) >= side:
            yield (rows, columns), numbers[rows, columns] == number


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


def _largest(mask: np.ndarray) -> np.ndarray | None:
    """The largest connected piece of a mask (H, W); None if it is empty."""
    numbers, count = ndimage.label(mask, EIGHT)
    if not count:
        return None
    return np.equal(numbers, np.bincount(numbers.ravel())[1:].argmax() + 1)
