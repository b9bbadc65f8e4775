"""Pictures of handwritten digits as people take them, painted from MNIST's digits: on paper, in cells, on lines, ...

`paint(kind, digit, draw)` gives a JPEG file. Each digit's strokes are thickened or thinned, turned, enlarged and
painted in some colour on paper of another, under uneven light, with a sensor's noise. A kind is a function below that
adds what stands around the digit; `KINDS` names them. It knows nothing of how pictures are read.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

FINE = 10  # pixels to one of MNIST's, at which strokes are changed
Draw = np.random.Generator
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass
class Scene:
    """What is to be photographed."""

    width: int
    height: int
    digit: np.ndarray  # float (height, width), 0 to 1: how much ink covers a pixel
    box: Box  # of the digit, in pixels
    paper: np.ndarray  # float (3,), or (height, width, 3)
    ink: np.ndarray  # float (3,)
    dark_on_light: bool

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


def enlarge(digit: np.ndarray) -> np.ndarray:
    """A uint8 (28, 28) digit as a bool mask (280, 280)."""
    side = FINE * len(digit)
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
    colours = draw.uniform(150, 255, 3), draw.uniform(0, 90, 3)
    dark_on_light = bool(draw.random() < 0.7)
    paper, pen = colours if dark_on_light else colours[::-1]
    cover = np.asarray(ink) / 255 * draw.uniform(0.8, 1)  # ink is not quite opaque
    return Scene(width, height, cover, box, paper, pen, dark_on_light)


# --- lines ------------------------------------------------------------------------------------------------------------


class Lines:
    """Lines drawn on a picture of their own, at twice the size for smooth edges, all tilted alike."""

    def __init__(self, scene: Scene, draw: Draw, tilt: float) -> None:
        self.image = Image.new("L", (2 * scene.width, 2 * scene.height))
        self.pen = ImageDraw.Draw(self.image)
        self.middle = scene.width / 2, scene.height / 2
        self.tilt = np.deg2rad(draw.uniform(-tilt, tilt))
        self.keystone = draw.uniform(-1, 1, 2) * np.deg2rad(tilt) / max(scene.width, scene.height)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the upright page comes to lie: turned, and seen a little from the side."""
        x, y = x - self.middle[0], y - self.middle[1]
        depth = 1 + self.keystone[0] * x + self.keystone[1] * y
        turned = x * np.cos(self.tilt) - y * np.sin(self.tilt), x * np.sin(self.tilt) + y * np.cos(self.tilt)
        return 2 * (turned[0] / depth + self.middle[0]), 2 * (turned[1] / depth + self.middle[1])

    def line(self, start: tuple[float, float], end: tuple[float, float], width: float, dash: float = 0) -> None:
        """A line of that width in pixels; with `dash`, dashes of that length with gaps of a third of it."""
        length = np.hypot(end[0] - start[0], end[1] - start[1])
        step = 4 * dash / 3 / length if dash else 1.0
        for begin in np.arange(0, 1, step):
            stop = min(begin + (0.75 * step if dash else 1), 1)
            ends = [(start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])) for t in (begin, stop)]
            self.pen.line([self.place(*point) for point in ends], 255, max(1, round(2 * width)))

    def cover(self) -> np.ndarray:
        """How much the lines cover: float (height, width), 0 to 1."""
        return np.asarray(self.image.reduce(2)) / 255


def line_colour(scene: Scene, draw: Draw, palest: float, strongest: float = 1.2) -> np.ndarray:
    """A tint that stands out from the paper as much as the ink does, times `palest` to `strongest`."""
    strength = draw.uniform(palest, strongest)
    tint = draw.uniform(0.6, 1.2, 3)
    return (scene.paper + strength * tint * (scene.ink - scene.paper)).clip(0, 255)


Layer = tuple[np.ndarray, np.ndarray]  # cover (height, width), colour (3,)


def cell(scene: Scene, draw: Draw) -> Layer:
    """A frame of four lines around the digit: alone, of dashes, or a cell of a table that goes on on all sides."""
    lines = Lines(scene, draw, tilt=4)
    width = draw.uniform(0.012, 0.05) * scene.high
    gaps = draw.uniform(0.08, 0.6, 4) * scene.high
    left, top = scene.box[0] - gaps[0], scene.box[1] - gaps[1]
    right, bottom = scene.box[2] + gaps[2], scene.box[3] + gaps[3]
    dash = draw.uniform(0.08, 0.3) * scene.high if draw.random() < 0.15 else 0.0
    beyond = draw.choice([0.0, 0.1, 9.0], p=[0.5, 0.15, 0.35]) * scene.high  # how far the lines go on
    for y in (top, bottom):
        lines.line((left - beyond, y), (right + beyond, y), width, dash)
    for x in (left, right):
        lines.line((x, top - beyond), (x, bottom + beyond), width, dash)
    return lines.cover(), line_colour(scene, draw, 0.4)


def ruled(scene: Scene, draw: Draw) -> Layer:
    """Parallel lines across the page; the digit stands on one, between two, or across them."""
    lines = Lines(scene, draw, tilt=5)
    width = draw.uniform(0.01, 0.04) * scene.high
    spacing = draw.uniform(0.7, 1.8) * scene.high
    first = scene.box[3] + draw.uniform(-0.25, 0.5) * scene.high
    for number in range(-12, 13):
        y = first + number * spacing
        lines.line((-scene.width, y), (2 * scene.width, y), width)
    return lines.cover(), line_colour(scene, draw, 0.15)


def squared(scene: Scene, draw: Draw) -> Layer:
    """Squared paper: lines both ways, a fifth to the whole of the digit's height apart."""
    lines = Lines(scene, draw, tilt=5)
    width = draw.uniform(0.006, 0.025) * scene.high
    spacing = draw.uniform(0.2, 1) * scene.high
    reach = max(scene.width, scene.height)
    steps = int(1.5 * reach / spacing) + 1
    across, down = draw.uniform(0, spacing, 2)
    for number in range(-steps, steps):
        x, y = across + number * spacing, down + number * spacing
        lines.line((-reach, y), (2 * reach, y), width)
        lines.line((x, -reach), (x, 2 * reach), width)
    return lines.cover(), line_colour(scene, draw, 0.1, 0.8)


def underlined(scene: Scene, draw: Draw) -> Layer:
    """A stroke of the same pen below the digit, now and then above it too, that may touch the digit."""
    lines = Lines(scene, draw, tilt=5)
    width = draw.uniform(0.02, 0.09) * scene.high
    for above in [False, True] if draw.random() < 0.2 else [False]:
        gap = draw.uniform(-0.02, 0.35) * scene.high
        y = scene.box[1] - gap - width if above else scene.box[3] + gap
        left = scene.box[0] - draw.uniform(0.1, 0.8) * scene.high
        right = scene.box[2] + draw.uniform(0.1, 0.8) * scene.high
        lines.line((left, y), (right, y + draw.uniform(-0.04, 0.04) * scene.high), width)
    return lines.cover(), scene.ink


# --- the picture ------------------------------------------------------------------------------------------------------


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
    file = io.BytesIO()
    Image.fromarray(np.uint8(picture.clip(0, 255).round())).save(file, "JPEG", quality=int(draw.integers(30, 96)))
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
    picture = lay_on(scene, page, draw, turn=0, shadow=False)
    file = io.BytesIO()
    Image.fromarray(np.uint8(picture.clip(0, 255).round())).save(file, "JPEG", quality=int(draw.integers(60, 100)))
    return file


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


KINDS: dict[str, Callable[[np.ndarray, Draw], io.BytesIO]] = {
    "paper": on_paper,
    "cell": lambda digit, draw: on_paper(digit, draw, cell),
    "ruled": lambda digit, draw: on_paper(digit, draw, ruled),
    "squared": lambda digit, draw: on_paper(digit, draw, squared),
    "underlined": lambda digit, draw: on_paper(digit, draw, underlined),
    "tight": cut_tightly,
    "marker": in_marker,
    "slip": on_slip,
    "square": in_square,
}


def paint(kind: str, digit: np.ndarray, draw: Draw) -> io.BytesIO:
    """A JPEG file of a uint8 (28, 28) digit, white on black, as that kind of picture shows it."""
    return KINDS[kind](digit, draw)
