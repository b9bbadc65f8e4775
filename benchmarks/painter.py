"""Pictures of handwritten digits as people take them, painted from MNIST's digits: on paper, in cells, on lines, ...

`KINDS[kind](digit, label, draw)` gives a picture file of a uint8 (28, 28) digit, white on black. For photographs each
digit's strokes are thickened or thinned, turned, enlarged and painted in some colour on paper of another, under uneven
light, with a sensor's noise; for drawings of a mouse or a tablet they are drawn anew along their middle. A kind is a
function below that adds what stands around the digit. It knows nothing of how pictures are read.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

FINE = 10  # pixels to one of MNIST's, at which strokes are changed
TRACED = 4  # the same, at which their middle is found
Draw = np.random.Generator
Box = tuple[float, float, float, float]  # left, top, right, bottom
Layer = tuple[np.ndarray, np.ndarray]  # cover (height, width), colour (3,)


@dataclass
class Scene:
    """What is to be photographed."""

    width: int
    height: int
    digit: np.ndarray  # float (height, width), 0 to 1: how much ink covers a pixel
    box: Box  # of the digit, in pixels
    paper: np.ndarray  # float (3,), or (height, width, 3)
    ink: np.ndarray  # float (3,)

    @property
    def high(self) -> float:
        """The height of the digit, or its width if that is more."""
        return max(self.box[3] - self.box[1], self.box[2] - self.box[0])


# --- the digit --------------------------------------------------------------------------------------------------------


def change_strokes(mask: np.ndarray, radius: float) -> np.ndarray:
    """A bool mask (H, W) grown by that many pixels, or shrunk by as many if negative."""
    if radius < 0:
        return ~change_strokes(~mask, -radius)
    return ndimage.distance_transform_edt(~mask) <= radius


def holes(mask: np.ndarray) -> int:
    """Connected pieces of what is not in the mask."""
    return ndimage.label(~np.pad(mask, 1))[1]


def enlarge(digit: np.ndarray, times: int = FINE) -> np.ndarray:
    """A uint8 (28, 28) digit as a bool mask, so many times as large."""
    side = times * len(digit)
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)) > 127


def thin_or_thick(digit: np.ndarray, draw: Draw) -> np.ndarray:
    """As pens are. MNIST's strokes are some 27 pixels here: from 21 to 43."""
    return change_strokes(enlarge(digit), int(draw.integers(-3, 9)))


def marker(digit: np.ndarray, draw: Draw) -> np.ndarray:
    """As a broad marker writes, but no loop is closed by it: who writes sees to that."""
    mask = enlarge(digit)
    radius = int(draw.integers(9, 17))
    while radius > 0 and holes(change_strokes(mask, radius + 3)) != holes(mask):
        radius -= 1
    return change_strokes(mask, radius)


def set_scene(mask: np.ndarray, draw: Draw, share: tuple[float, float], longer: int) -> Scene:
    """The digit somewhere in a picture, `share` of whose shorter side its 28x28 take; 70 % dark on light."""
    turned = Image.fromarray(np.uint8(255 * mask)).rotate(draw.uniform(-8, 8), Image.Resampling.BICUBIC)
    shorter = round(longer * draw.uniform(0.7, 1))
    width, height = draw.permutation([longer, shorter]).tolist()
    field = round(shorter * draw.uniform(*share))
    left, top = draw.integers(0, [width - field + 1, height - field + 1]).tolist()
    ink = Image.new("L", (width, height))
    ink.paste(turned.resize((field, field), Image.Resampling.BICUBIC), (left, top))
    box = ink.point([0] * 128 + [255] * 128).getbbox() or (0, 0, width, height)
    light, dark = draw.uniform(150, 255, 3), draw.uniform(0, 90, 3)
    paper, pen = (light, dark) if draw.random() < 0.7 else (dark, light)
    cover = np.asarray(ink) / 255 * draw.uniform(0.8, 1)  # ink is not quite opaque
    return Scene(width, height, cover, box, paper, pen)


# --- ruled lines ------------------------------------------------------------------------------------------------------


class Rules:
    """Lines ruled on a picture of their own, at twice the size for smooth edges, all tilted alike."""

    def __init__(self, scene: Scene, draw: Draw, tilt: float) -> None:
        self.image = Image.new("L", (2 * scene.width, 2 * scene.height))
        self.pen = ImageDraw.Draw(self.image)
        self.middle = scene.width / 2, scene.height / 2
        self.tilt = np.deg2rad(draw.uniform(-tilt, tilt))
        self.keystone = draw.uniform(-1, 1, 2) * np.deg2rad(tilt) / max(scene.width, scene.height)

    def seen(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the upright page comes to lie: turned, and seen a little from the side."""
        x, y = x - self.middle[0], y - self.middle[1]
        depth = 1 + self.keystone[0] * x + self.keystone[1] * y
        turned = x * np.cos(self.tilt) - y * np.sin(self.tilt), x * np.sin(self.tilt) + y * np.cos(self.tilt)
        return 2 * (turned[0] / depth + self.middle[0]), 2 * (turned[1] / depth + self.middle[1])

    def rule(self, start: tuple[float, float], end: tuple[float, float], width: float, dash: float = 0) -> None:
        """A line of that width in pixels; with `dash`, dashes of that length with gaps of a third of it."""
        length = np.hypot(end[0] - start[0], end[1] - start[1])
        step = 4 * dash / 3 / length if dash else 1.0
        for begin in np.arange(0, 1, step):
            stop = min(begin + (0.75 * step if dash else 1), 1)
            ends = [(start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])) for t in (begin, stop)]
            self.pen.line([self.seen(*point) for point in ends], 255, max(1, round(2 * width)))

    def layer(self, colour: np.ndarray) -> Layer:
        """How much the lines cover, 0 to 1, and their colour."""
        return np.asarray(self.image.reduce(2)) / 255, colour


def tinted(scene: Scene, draw: Draw, palest: float, strongest: float = 1.2) -> np.ndarray:
    """A tint that stands out from the paper as much as the ink does, times `palest` to `strongest`."""
    strength = draw.uniform(palest, strongest)
    tint = draw.uniform(0.6, 1.2, 3)
    return (scene.paper + strength * tint * (scene.ink - scene.paper)).clip(0, 255)


def cell(scene: Scene, draw: Draw) -> Layer:
    """A frame of four lines around the digit: alone, of dashes, or a cell of a table that goes on on all sides."""
    rules = Rules(scene, draw, tilt=4)
    width = draw.uniform(0.012, 0.05) * scene.high
    gaps = draw.uniform(0.08, 0.6, 4) * scene.high
    left, top = scene.box[0] - gaps[0], scene.box[1] - gaps[1]
    right, bottom = scene.box[2] + gaps[2], scene.box[3] + gaps[3]
    dash = draw.uniform(0.08, 0.3) * scene.high if draw.random() < 0.15 else 0.0
    beyond = draw.choice([0.0, 0.1, 9.0], p=[0.5, 0.15, 0.35]) * scene.high  # how far the lines go on
    for y in (top, bottom):
        rules.rule((left - beyond, y), (right + beyond, y), width, dash)
    for x in (left, right):
        rules.rule((x, top - beyond), (x, bottom + beyond), width, dash)
    return rules.layer(tinted(scene, draw, 0.4))


def ruled(scene: Scene, draw: Draw) -> Layer:
    """Parallel lines across the page; the digit stands on one, between two, or across them."""
    rules = Rules(scene, draw, tilt=5)
    width = draw.uniform(0.01, 0.04) * scene.high
    spacing = draw.uniform(0.7, 1.8) * scene.high
    first = scene.box[3] + draw.uniform(-0.25, 0.5) * scene.high
    for number in range(-12, 13):
        y = first + number * spacing
        rules.rule((-scene.width, y), (2 * scene.width, y), width)
    return rules.layer(tinted(scene, draw, 0.15))


def squared(scene: Scene, draw: Draw) -> Layer:
    """Squared paper: lines both ways, a fifth to the whole of the digit's height apart."""
    rules = Rules(scene, draw, tilt=5)
    width = draw.uniform(0.006, 0.025) * scene.high
    spacing = draw.uniform(0.2, 1) * scene.high
    reach = max(scene.width, scene.height)
    steps = int(1.5 * reach / spacing) + 1
    across, down = draw.uniform(0, spacing, 2)
    for number in range(-steps, steps):
        x, y = across + number * spacing, down + number * spacing
        rules.rule((-reach, y), (2 * reach, y), width)
        rules.rule((x, -reach), (x, 2 * reach), width)
    return rules.layer(tinted(scene, draw, 0.1, 0.8))


def underlined(scene: Scene, draw: Draw) -> Layer:
    """A stroke of the same pen below the digit, now and then above it too, that may touch the digit."""
    rules = Rules(scene, draw, tilt=5)
    width = draw.uniform(0.02, 0.09) * scene.high
    for above in [False, True] if draw.random() < 0.2 else [False]:
        gap = draw.uniform(-0.02, 0.35) * scene.high
        y = scene.box[1] - gap - width if above else scene.box[3] + gap
        left = scene.box[0] - draw.uniform(0.1, 0.8) * scene.high
        right = scene.box[2] + draw.uniform(0.1, 0.8) * scene.high
        rules.rule((left, y), (right, y + draw.uniform(-0.04, 0.04) * scene.high), width)
    return rules.layer(scene.ink)


# --- photographs ------------------------------------------------------------------------------------------------------


def compose(scene: Scene, layers: list[Layer]) -> np.ndarray:
    """Paper, what stands on it, and the ink of the digit: float (height, width, 3), 0 to 255."""
    picture = np.broadcast_to(scene.paper, (scene.height, scene.width, 3))
    for cover, colour in [*layers, (scene.digit, scene.ink)]:
        picture = picture * (1 - cover[..., None]) + colour * cover[..., None]
    return picture


def photograph(picture: np.ndarray, draw: Draw, most_noise: float = 12) -> io.BytesIO:
    """A JPEG file of a float (H, W, 3) scene under uneven light, with a sensor's noise."""
    height, width, _ = picture.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = draw.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2)  # -1 to 1 from corner to corner
    light = 1 - draw.uniform(0, 0.5) * (along + 1) / 2 - draw.uniform(0, 0.3) * (x**2 + y**2) / 2  # lamp and lens
    picture = picture * light[..., None] + draw.normal(0, draw.uniform(0, most_noise), picture.shape)
    return save(picture, int(draw.integers(30, 96)))


def save(picture: np.ndarray, quality: int | None) -> io.BytesIO:
    """A file of float (H, W, 3) or (H, W), 0 to 255: JPEG of that quality, or PNG."""
    file = io.BytesIO()
    Image.fromarray(np.uint8(picture.clip(0, 255).round())).save(file, "JPEG" if quality else "PNG", quality=quality)
    return file


def on_paper(digit: np.ndarray, draw: Draw, around: Callable[[Scene, Draw], Layer] | None = None) -> io.BytesIO:
    """The digit on a sheet that fills the picture, with what `around` adds."""
    share = (0.25, 0.75) if around else (0.4, 0.95)  # room for what stands around it
    scene = set_scene(thin_or_thick(digit, draw), draw, share, int(draw.integers(200, 1001)))
    return photograph(compose(scene, [around(scene, draw)] if around else []), draw)


def in_marker(digit: np.ndarray, draw: Draw) -> io.BytesIO:
    """Strokes a fifth to a third as thick as the digit is high, also in small pictures."""
    longer = int(draw.integers(200, 1001) if draw.random() < 0.7 else draw.integers(28, 120))
    scene = set_scene(marker(digit, draw), draw, (0.4, 0.95), longer)
    return photograph(compose(scene, []), draw, most_noise=12 if longer >= 200 else 4)


def cut_tightly(digit: np.ndarray, draw: Draw) -> io.BytesIO:
    """The picture ends where the digit ends, a little before or after; thin pens and markers, large and small."""
    mask = thin_or_thick(digit, draw) if draw.random() < 0.5 else marker(digit, draw)
    longer = int(draw.integers(300, 1001) if draw.random() < 0.6 else draw.integers(60, 200))
    scene = set_scene(mask, draw, (0.5, 0.95), longer)
    margins = draw.uniform(-0.03, 0.08, 4) * scene.high * [1, 1, -1, -1]
    left, top, right, bottom = (round(edge - margin) for edge, margin in zip(scene.box, margins, strict=True))
    picture = compose(scene, [])[max(top, 0) : bottom, max(left, 0) : right]
    if draw.random() < 0.4:  # from too near
        picture = ndimage.gaussian_filter(picture, (draw.uniform(0, 0.03) * max(picture.shape),) * 2 + (0,))
    return photograph(picture, draw, most_noise=12 if longer >= 300 else 4)


def table(width: int, height: int, draw: Draw) -> np.ndarray:
    """A table top: float (height, width, 3); plain or with the grain of wood."""
    colour = draw.uniform(40, 160) * draw.uniform([0.8, 0.6, 0.4], [1.2, 1, 0.9])
    noise = draw.normal(0, 1, (height // 3 + 1, width // 40 + 1)).astype(np.float32)  # fine across, long along it
    grain = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    grain = grain * draw.choice([0, draw.uniform(0, 14)])
    return (colour + grain[..., None]).clip(0, 255)


def on_slip(digit: np.ndarray, draw: Draw) -> io.BytesIO:
    """A slip of light paper, turned, that lies on a darker table and throws a shadow."""
    scene = set_scene(thin_or_thick(digit, draw), draw, (0.25, 0.5), int(draw.integers(400, 1001)))
    scene.paper, scene.ink = draw.uniform(190, 255, 3), draw.uniform(0, 80, 3)
    return photograph(lay_on(scene, table(scene.width, scene.height, draw), draw, turn=25, shadow=True), draw)


def in_square(digit: np.ndarray, draw: Draw) -> io.BytesIO:
    """A screenshot: a digit in a plain square of its own on a page of another colour, as figures show MNIST."""
    scene = set_scene(thin_or_thick(digit, draw), draw, (0.25, 0.6), int(draw.integers(150, 801)))
    light, dark = draw.uniform(225, 255), draw.uniform(0, 40)
    white_on_black = draw.random() < 0.7
    scene.paper, scene.ink = (np.full(3, value) for value in ((dark, light) if white_on_black else (light, dark)))
    page = np.full((scene.height, scene.width, 3), draw.uniform(235, 255) if white_on_black else draw.uniform(0, 60))
    return save(lay_on(scene, page, draw, turn=0, shadow=False), int(draw.integers(60, 100)))


def lay_on(scene: Scene, ground: np.ndarray, draw: Draw, turn: float, shadow: bool) -> np.ndarray:
    """The digit on a rectangle of its paper, which lies on `ground` (height, width, 3)."""
    gaps = draw.uniform(0.25 if turn else 0.1, 0.7, 4) * scene.high * [-1, -1, 1, 1]
    left, top, right, bottom = np.add(scene.box, gaps)
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    angle = np.deg2rad(draw.uniform(-turn, turn))
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = (np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) - middle) @ turned + middle
    slip = Image.new("L", (2 * scene.width, 2 * scene.height))
    ImageDraw.Draw(slip).polygon([(2 * x, 2 * y) for x, y in corners], fill=255)
    slip = slip.reduce(2)
    cover = np.asarray(slip)[..., None] / 255
    if shadow:
        offset = tuple((draw.uniform(-0.03, 0.03, 2) * scene.high).astype(int))
        fallen = Image.new("L", slip.size)
        fallen.paste(slip, offset)
        soft = np.asarray(fallen.filter(ImageFilter.GaussianBlur(0.02 * scene.high)))[..., None] / 255
        ground = ground * (1 - draw.uniform(0.1, 0.5) * soft)
    return ground * (1 - cover) + compose(scene, []) * cover


# --- drawings ---------------------------------------------------------------------------------------------------------

Stroke = np.ndarray  # float (points, 2), x to the right and y downwards


def middle_of_strokes(digit: np.ndarray) -> list[Stroke]:
    """The strokes of a uint8 (28, 28) digit, in its pixels, from end to crossing to end."""
    points = {(x, y) for y, x in np.argwhere(thinned(enlarge(digit, TRACED))).tolist()}
    steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    near = {(x, y): [(x + i, y + j) for i, j in steps if (x + i, y + j) in points] for x, y in points}
    nodes = {point for point in points if len(near[point]) != 2} or {min(points)}
    strokes, walked = [], set()
    for node in sorted(nodes):
        for second in near[node]:
            path = [node, second]
            while path[-1] not in nodes:
                path.append(next(point for point in near[path[-1]] if point != path[-2]))
            ends = len(near[path[0]]), len(near[path[-1]])
            spur = min(ends) == 1 and max(ends) > 2 and len(path) < 2.5 * TRACED  # of a rough edge
            if (path[0], path[1]) not in walked and not spur:
                strokes.append(np.array(path, float) / TRACED)
            walked.add((path[-1], path[-2]))
    return strokes


def thinned(mask: np.ndarray) -> np.ndarray:
    """A bool mask (H, W), its strokes one pixel wide: thinning by the eight masks of Golay's alphabet L."""
    edge = [[0, 0, 0], [0, 1, 0], [1, 1, 1]], [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    corner = [[0, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    while True:
        before = mask
        for turns in range(4):
            for ink, paper in (edge, corner):
                mask = mask & ~ndimage.binary_hit_or_miss(mask, np.rot90(ink, turns), np.rot90(paper, turns))
        if (mask == before).all():
            return mask


def thin(digit: np.ndarray, draw: Draw) -> list[Stroke]:
    """MNIST's digit along the middle of its strokes, round or of straight pieces."""
    step = TRACED if draw.random() < 0.5 else int(draw.integers(3, 6)) * TRACED
    strokes = []
    for path in middle_of_strokes(digit):
        smooth = ndimage.gaussian_filter1d(path, TRACED, axis=0)
        smooth[[0, -1]] = path[[0, -1]]  # where it meets the others
        strokes.append(smooth[np.linspace(0, len(path) - 1, len(path) // step + 2).astype(int)])
    return strokes


def footed(label: int, draw: Draw) -> list[Stroke]:
    """Digits whose flag, foot or bar goes beyond, and a 0 with a stroke of its own inside, in a square of 1."""

    def arc(x: float, y: float, across: float, down: float, start: float, end: float) -> list[list[float]]:
        """Part of an ellipse around (x, y), angles in degrees from the top, clockwise."""
        angles = np.deg2rad(np.linspace(start, end, 24))
        return np.stack([x + across * np.sin(angles), y - down * np.cos(angles)], 1).tolist()

    u = draw.uniform
    foot = u(0.1, 0.35)
    if label == 0:
        angle, long = u(-0.6, 0.6), u(0.12, 0.25)
        across, down = long * np.sin(angle), long * np.cos(angle)
        parts = [arc(0.5, 0.5, u(0.28, 0.38), 0.5, 0, 360), [[0.5 + across, 0.5 - down], [0.5 - across, 0.5 + down]]]
    elif label == 1:
        parts = [[[0.5 - u(0.1, 0.3), u(0.12, 0.3)], [0.5, 0], [0.5, 1]], [[0.5 - foot, 1], [0.5 + foot, 1]]]
    elif label == 2:
        end = u(0.15, 0.3)
        parts = [[*arc(0.5, 0.27, 0.3, 0.27, -80, 110), [end, 1]]]
        parts += [[[end - u(0, 0.2), 1], [u(0.8, 1.05), 1 - u(0, 0.06)]]]
    elif label == 3:
        parts = [[[u(-0.05, 0.2), u(0, 0.05)], [u(0.78, 0.95), 0]]]
        parts += [[[0.75, 0], [0.42, 0.4], *arc(0.42, 0.7, u(0.3, 0.4), 0.3, 0, u(210, 260))]]
    else:
        parts = [[[u(-0.05, 0.2), u(0, 0.08)], [0.75 + u(0, 0.2), 0]], [[0.75, 0], [u(0.25, 0.5), 1]]]
        parts += [[[u(0.25, 0.4), u(0.45, 0.55)], [u(0.7, 0.85), 0.5]]] * int(draw.random() < 0.4)
    slant = np.array([[1, 0], [u(-0.2, 0.2), 1]])
    return [np.array(part) @ slant for part in parts]


def fits(kind: str, digit: np.ndarray, label: int) -> bool:
    """Whether a kind has that digit: `footed` draws five, and the middle of a blot, a loop full of ink, is no digit."""
    if kind == "thin":
        mask = enlarge(digit, TRACED)
        depth = ndimage.distance_transform_edt(mask)
        return bool(depth.max() < 1.9 * np.median(depth[thinned(mask)]))
    return kind != "footed" or label in (0, 1, 2, 3, 7)


def drawing(strokes: list[Stroke], draw: Draw) -> io.BytesIO:
    """A PNG file of strokes 1 to 3 pixels wide, 64 to 300 pixels a side, sharp, smooth, or as a scanner sees them."""
    side, pen, smooth = int(draw.integers(64, 301)), int(draw.integers(1, 4)), 4 if draw.random() < 0.5 else 1
    corners = np.concatenate(strokes)
    low, size = corners.min(0), np.ptp(corners, axis=0)
    scale = side * draw.uniform(0.45, 0.85) / size.max()
    corner = draw.uniform(pen, side - pen - scale * size)
    light, dark = int(draw.integers(225, 256)), int(draw.integers(0, 90))
    paper, ink = (light, dark) if draw.random() < 0.8 else (dark, light)
    image = Image.new("L", (smooth * side, smooth * side), paper)
    canvas = ImageDraw.Draw(image)
    for stroke in strokes:
        points = [tuple(point) for point in (smooth * (scale * (stroke - low) + corner)).round().tolist()]
        canvas.line(points, ink, smooth * pen)
        for x, y in points[1:-1] if smooth * pen > 3 else []:  # round the corners
            canvas.circle((x, y), smooth * pen / 2 - 1, ink)
    pixels = np.asarray(image.reduce(smooth), float)
    if draw.random() < 0.3:
        blurred = ndimage.gaussian_filter(pixels, draw.uniform(0, 0.7))
        pixels = blurred + draw.normal(0, draw.uniform(0, 6), pixels.shape)
    return save(pixels, quality=None)


KINDS: dict[str, Callable[[np.ndarray, int, Draw], io.BytesIO]] = {
    "paper": lambda digit, label, draw: on_paper(digit, draw),
    "cell": lambda digit, label, draw: on_paper(digit, draw, cell),
    "ruled": lambda digit, label, draw: on_paper(digit, draw, ruled),
    "squared": lambda digit, label, draw: on_paper(digit, draw, squared),
    "underlined": lambda digit, label, draw: on_paper(digit, draw, underlined),
    "tight": lambda digit, label, draw: cut_tightly(digit, draw),
    "marker": lambda digit, label, draw: in_marker(digit, draw),
    "slip": lambda digit, label, draw: on_slip(digit, draw),
    "square": lambda digit, label, draw: in_square(digit, draw),
    "thin": lambda digit, label, draw: drawing(thin(digit, draw), draw),
    "footed": lambda digit, label, draw: drawing(footed(label, draw), draw),
}
