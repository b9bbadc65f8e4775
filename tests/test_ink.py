"""From pictures to 28x28: drawn digits, as one meets them, in frames, on lines, on paper of their own."""

import math
import os

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from benchmarks import painter
from support.digits import ink, lines

STROKES = {  # digits as lines through points of a square, 0 to 100
    1: [[(50, 5), (50, 95)]],
    4: [[(60, 95), (60, 5), (20, 65), (85, 65)]],
    7: [[(20, 10), (80, 10), (45, 95)]],
}


def drawn(digit: int, size: int = 300, pen: int = 16, paper: object = 255, ink: object = 0, mode: str = "L"):
    """A digit drawn with a pen of that many pixels, in the middle of a square picture."""
    image = Image.new(mode, (size, size), paper)
    draw = ImageDraw.Draw(image)
    for stroke in STROKES[digit]:
        points = [(size * (0.2 + 0.006 * x), size * (0.2 + 0.006 * y)) for x, y in stroke]
        draw.line(points, fill=ink, width=pen, joint="curve")
    return image


def ruled(size: tuple[int, int], *strokes: tuple, width: int, ellipse: tuple | None = None) -> Image.Image:
    """Strokes through points, and an ellipse in a box, drawn in black on white with a pen of that width."""
    image = Image.new("L", size, 255)
    draw = ImageDraw.Draw(image)
    for points in strokes:
        draw.line(points, fill=0, width=width)
    if ellipse:
        draw.ellipse(ellipse, outline=0, width=width)
    return image


def found(image: Image.Image) -> list[ink.Glyph]:
    return ink.find_glyphs(ink.flatten(image))


def prepare(image: Image.Image) -> np.ndarray:
    """The largest glyph as MNIST would show it."""
    return ink.normalize(found(image)[0].mask)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, in shares of the ink."""
    return np.abs(one.astype(float) - other).sum() / other.sum(dtype=float)


# --- to what MNIST is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digit", STROKES)
@pytest.mark.parametrize("pen", [3, 16, 40])
def test_prepared_as_mnist_is(digit, pen):
    prepared = prepare(drawn(digit, pen=pen))
    assert prepared.dtype == np.uint8
    assert prepared.shape == (28, 28)
    rows, columns = (prepared.any(axis).nonzero()[0] for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    mass = prepared / prepared.sum()
    assert mass.sum(1) @ np.arange(28) == pytest.approx(14, abs=0.6)
    assert mass.sum(0) @ np.arange(28) == pytest.approx(14, abs=0.6)
    assert digit == 1 or len(np.unique(prepared)) > 8  # gray edges, unless they fall between pixels
    if digit == 4:
        large = np.asarray(Image.fromarray(prepared).resize((224, 224), Image.Resampling.BICUBIC)) > 127
        assert lines.stroke_width(large) / 8 == pytest.approx(ink.STROKE, abs=0.5)
        assert difference(prepare(Image.fromarray(prepared)), prepared) < 0.1  # what looks like MNIST stays so


def test_turned_to_the_left_and_cut_out():
    mask = np.asarray(drawn(7)) == 0
    mask = mask[lines.extent(mask)]
    assert (ink.turn(mask, 0) == mask).all()
    assert (ink.turn(mask, 90) == np.rot90(mask)).all()
    assert ink.turn(ink.turn(mask, 10), -10).shape == pytest.approx(mask.shape, abs=3)
    dots = np.zeros((19, 9), bool)
    dots[0, 0] = dots[-1, -1] = True
    assert ink.turn(dots, 10).any()


def blotted(digit: int) -> np.ndarray:
    """A mask of a 9 or 8 with the upper loop filled with ink, and of a 6 whose loop is as narrow as its pen."""
    image = Image.new("1", (400, 400))
    draw = ImageDraw.Draw(image)
    if digit == 6:
        draw.line((220, 40, 151, 262), fill=1, width=6)
        draw.ellipse((148, 240, 190, 290), outline=1, width=6)
    else:
        draw.ellipse((120, 40, 270, 200), fill=1)
    if digit == 8:
        draw.ellipse((150, 190, 250, 370), outline=1, width=14)
    if digit == 9:
        draw.line((240, 150, 210, 360), fill=1, width=14)
    mask = np.asarray(image)
    return mask[lines.extent(mask)]


@pytest.mark.parametrize(("digit", "level"), [(6, 250), (8, 40), (9, 40)])
def test_blots_and_narrow_loops_keep_loops_and_strokes(digit, level):
    """All strokes are changed by as much: a blot must not wear away the thin ones, nor a thin pen close a loop."""
    mask = blotted(digit)
    prepared = ink.normalize(mask)
    assert painter.holes(prepared > level) == painter.holes(mask)
    rows, columns = lines.extent(prepared > 40)
    proportion = (columns.stop - columns.start) / (rows.stop - rows.start)
    assert proportion == pytest.approx(mask.shape[1] / mask.shape[0], abs=0.15)


# --- the same digit however it looks ----------------------------------------------------------------------------------


def looks() -> dict[str, Image.Image]:
    """The 4 of `drawn(4)` as one meets it."""
    plain = drawn(4)
    cover = 1 - np.asarray(plain, float)[..., None] / 255
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    shadow = (225 - 185 * cover).repeat(3, 2) * np.where(x + y > 0.9, 0.6, 1)[..., None]
    table = Image.new("RGB", (500, 400), (90, 60, 40))
    table.paste(plain.convert("RGB"), (60, 40))
    table.paste((255, 255, 255), (360, 40, 500, 400))
    table.paste((255, 255, 255), (60, 340, 500, 400))
    speckled = plain.copy()
    for spot in np.random.default_rng(2).integers(0, 300, (40, 2)).tolist():
        speckled.putpixel(spot, 0)
    return {
        "light on dark": drawn(4, paper=0, ink=255),
        "palette": plain.convert("P"),
        "12 bits": Image.fromarray(np.asarray(plain, np.uint16) * 16),
        "two colours as bright": drawn(4, paper=(200, 120, 120), ink=(112, 167, 112), mode="RGB"),
        "black on nothing": drawn(4, paper=(0, 0, 0, 0), ink=(0, 0, 0, 255), mode="RGBA"),
        "white on nothing": drawn(4, paper=(0, 0, 0, 0), ink=(255, 255, 255, 255), mode="RGBA"),
        "shadow with a hard edge": Image.fromarray(np.uint8(shadow)),
        "paper on a table": table,
        "specks": speckled,
        **surrounded(),
    }


def surrounded() -> dict[str, Image.Image]:
    """The same with lines round, below and behind it."""

    def with_lines(*segments: tuple, width: int = 4, shade: int = 60, ring: bool = False) -> Image.Image:
        image = Image.new("L", (500, 500), 255)
        draw = ImageDraw.Draw(image)
        for segment in segments:
            draw.line(segment, fill=shade, width=width)
        if ring:
            draw.ellipse((60, 50, 450, 450), outline=0, width=9)
        image.paste(0, (100, 100), drawn(4).point(lambda value: 255 - value))
        return image

    def dashes(segment: tuple, count: int = 5) -> list[tuple]:
        x0, y0, x1, y1 = segment
        parts = [(k / count, (k + 0.7) / count) for k in range(count)]
        return [(x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0)) for a, b in parts]

    frame = [(120, 110, 390, 110), (120, 400, 390, 400), (120, 110, 120, 400), (390, 110, 390, 400)]
    return {
        "in a heavy frame": with_lines(*frame, width=12, shade=0),
        "in a broken frame": with_lines(*[dash for side in frame for dash in dashes(side)]),
        "underlined, touching": with_lines((90, 345, 420, 345), width=8, shade=0),
        "between heavy lines": with_lines((0, 30, 500, 30), (0, 470, 500, 470), width=14, shade=0),
        "in a ring": with_lines(ring=True),
    }


@pytest.mark.parametrize("look", looks())
def test_the_same_digit_however_it_looks(look):
    assert difference(prepare(looks()[look]), prepare(drawn(4))) < 0.35


def test_pale_lines_do_not_stay_behind_as_dashes():
    """Of lines that are about as dark as the threshold some pixels are above it."""
    image = np.full((400, 500), 230.0)
    image[:300, :300][np.asarray(drawn(4)) == 0] = 40
    for y in (60, 245, 340):
        image[y : y + 3] = np.minimum(image[y : y + 3], 140)
    noisy = image + np.random.default_rng(0).normal(0, 8, image.shape)
    assert difference(prepare(Image.fromarray(np.uint8(noisy.clip(0, 255)))), prepare(drawn(4))) < 0.35


def turned(image: Image.Image) -> list[np.ndarray]:
    """What is prepared of an image turned by as much as the painter turns."""
    mask = found(image)[0].mask
    return [ink.normalize(ink.turn(mask, degrees)) for degrees in (-8, -4, 0, 4, 8)]


@pytest.mark.parametrize("kind", painter.KINDS)
def test_painted_digits_are_found_in_each_kind_of_picture(kind):
    """What is found is what was painted: no frame, no line, no paper in it."""
    seven = np.asarray(drawn(7, size=28, pen=3, paper=0, ink=255))
    expected = turned(Image.fromarray(seven))
    unlike = []
    for seed in range(8):
        glyph = found(Image.open(painter.KINDS[kind](seven, 7, np.random.default_rng(seed))))[0]
        if kind in ("thin", "footed"):  # drawn along strokes of its own; a bar that goes beyond may be read both ways
            draw = np.random.default_rng(seed)
            strokes = painter.thin(seven, draw) if kind == "thin" else painter.footed(7, draw)
            scale = 200 / np.concatenate(strokes).max()
            expected = turned(ruled((300, 300), *[(50 + scale * path).ravel().tolist() for path in strokes], width=8))
            glyph = glyph.whole or glyph
        prepared = ink.normalize(glyph.mask)
        if min(difference(prepared, image) for image in expected) > 0.5:
            unlike.append(seed)
    assert len(unlike) <= 1, unlike


def test_the_small_loop_of_a_broad_brush_is_kept_open():
    image = Image.new("L", (280, 280), 255)
    draw = ImageDraw.Draw(image)
    draw.ellipse((58, 58, 162, 162), fill=10)
    draw.line((140, 130, 195, 200), fill=10, width=40)
    draw.ellipse((98, 98, 122, 122), fill=255)
    draw.ellipse((103, 101, 117, 115), fill=120)  # of the hole one gray pixel is left
    small = image.filter(ImageFilter.GaussianBlur(7)).resize((28, 28), Image.Resampling.BOX)
    assert painter.holes(found(small)[0].mask) == 2  # the loop, and all that lies outside


# --- strokes are no lines ---------------------------------------------------------------------------------------------


def strokes() -> dict[str, Image.Image]:
    """Digits of straight strokes."""
    pictures = {f"{digit} with a pen of {pen}": drawn(digit, size=512, pen=pen) for digit in STROKES for pen in (2, 20)}
    for corners in (5, 8, 12):
        angles = [2 * math.pi * k / corners + 0.4 for k in range(corners + 1)]
        points = [(32 + 20 * math.cos(angle), 32 + 26 * math.sin(angle)) for angle in angles]
        pictures[f"0 of {corners} straight pieces"] = ruled((64, 64), points, width=2)
    pictures["0 with a stroke of its own"] = ruled((64, 64), (32, 22, 34, 42), width=2, ellipse=(16, 6, 48, 58))
    return pictures


@pytest.mark.parametrize("digit", strokes())
def test_the_strokes_of_digits_are_no_lines(digit):
    (glyph,) = found(strokes()[digit])
    assert not glyph.cut


def beyond() -> dict[str, tuple[Image.Image, float]]:
    """Digits with a stroke that goes beyond the others or runs from edge to edge, and their width to their height."""
    stem = (160, 0, 150, 300)
    pictures = {
        "4 cut tightly": (ruled((200, 300), stem, (30, 90, 10, 180, 195, 170), width=14), 0.65),
        "9 cut tightly": (ruled((200, 300), stem, width=14, ellipse=(20, 5, 165, 140)), 0.49),
    }
    for left, right in ((14, 46), (10, 52), (16, 54)):
        two = ruled((64, 64), (45, 26, 18, 54), (left, 54, right, 54), width=2)
        ImageDraw.Draw(two).arc((18, 8, 46, 36), 180, 20, fill=0, width=2)
        pictures[f"2 with a foot from {left} to {right}"] = two, (max(right, 46) - left + 1) / 47.5
    return pictures


@pytest.mark.parametrize("digit", beyond())
def test_a_stroke_that_goes_beyond_is_kept_or_read_both_ways(digit):
    image, proportion = beyond()[digit]
    (glyph,) = found(image)
    whole = glyph.whole or glyph
    assert whole.width / whole.height == pytest.approx(proportion, abs=0.05)


def test_a_line_above_goes_even_if_the_digit_touches_the_opposite_edge():
    (one,) = found(ruled((160, 138), (0, 4, 160, 4), (70, 50, 90, 30, 84, 137), width=4))
    assert one.width < one.height / 2


def test_strokes_that_cross_a_line_stay_whole():
    (one,) = found(ruled((500, 300), (0, 153, 500, 153), (250, 60, 250, 240), width=12))
    widths = one.mask.sum(1)[5:-5]
    assert widths.min() > 0.8 * widths.max() > 8
    assert one.width < 20


# --- several glyphs ---------------------------------------------------------------------------------------------------


def test_a_broken_digit_is_one_glyph():
    broken = drawn(7)
    broken.paste(255, (150, 150, 250, 160))  # a gap in the stem
    (glyph,) = found(broken)
    assert glyph.mask.shape == found(drawn(7))[0].mask.shape


@pytest.mark.parametrize(("gap", "glyphs"), [(4, 1), (16, 2)])
def test_open_four_is_one_glyph_if_its_strokes_nearly_touch(gap, glyphs):
    image = ruled((300, 300), (80, 60, 80, 170, 180, 170), (189 + gap, 60, 189 + gap, 240), width=16)
    assert len(found(image)) == glyphs


@pytest.mark.parametrize("surroundings", ["underlined", "cells", "boxes", "one field"])
def test_each_of_a_row_of_ones_is_found(surroundings):
    """They are no broken line, whatever stands round them."""
    row = Image.new("L", (640, 180), 255)
    draw = ImageDraw.Draw(row)
    for x in range(20, 620, 100):
        draw.line((x + 50, 40, x + 46, 130), fill=0, width=10)
        if surroundings in ("cells", "boxes"):
            gap = 8 if surroundings == "boxes" else 0
            draw.rectangle((x + gap, 20, x + 100 - gap, 150), outline=90, width=3)
    if surroundings == "underlined":
        draw.line((20, 155, 620, 157), fill=90, width=4)
    if surroundings == "one field":
        draw.rectangle((20, 20, 620, 150), outline=0, width=6)
    glyphs = [glyph for glyph in found(row) if glyph.height > lines.LEGIBLE]
    assert len(glyphs) == 6
    assert all(glyph.box[3] - glyph.box[1] == pytest.approx(74, abs=8) for glyph in glyphs)


def test_the_box_lies_where_the_digit_is(tmp_path):
    page = Image.new("L", (900, 600), 90)
    slip = Image.new("L", (380, 320), 250)
    slip.paste(drawn(4, paper=250), (40, 10))
    page.paste(slip, (500, 260))
    page.save(tmp_path / "page.png")
    picture = ink.open_picture(tmp_path / "page.png")
    assert (picture.width, picture.height) == (900, 600)
    box = np.array(ink.find_glyphs(picture.pixels)[0].box) * 900 / picture.pixels.width
    inked = np.argwhere(np.asarray(drawn(4)) == 0)[:, ::-1]
    expected = np.concatenate([inked.min(0), inked.max(0) + 1]) + np.tile((540, 270), 2)
    assert box == pytest.approx(expected, abs=6)


# --- nothing to be found ----------------------------------------------------------------------------------------------


def blank() -> dict[str, Image.Image]:
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    vignette = 230 * (1 - 0.3 * (x * x + y * y) - 0.15 * x) + np.random.default_rng(0).normal(0, 3, x.shape)
    speck = Image.new("L", (300, 200), 255)
    speck.paste(0, (100, 100, 103, 103))
    dot = Image.new("L", (512, 512), 255)  # at the working scale: one pixel stands out
    dot.putpixel((200, 200), 0)
    return {
        "white": Image.new("L", (300, 200), 255),
        "transparent": Image.new("RGBA", (300, 200)),
        "one pixel": Image.new("L", (1, 1)),
        "a row": Image.new("L", (3000, 1), 200),
        "a column": Image.new("L", (1, 3000), 200),
        "paper under a lamp": Image.fromarray(np.uint8(vignette.clip(0, 255))),
        "a speck": speck,
        "a dot": dot,
    }


@pytest.mark.parametrize("kind", blank())
def test_empty_page_is_said_to_be_empty(kind):
    with pytest.raises(ink.PictureError, match="nothing in it looks like ink"):
        found(blank()[kind])


@pytest.mark.parametrize("size", [(1, ink.MAX_SIDE + 1), (9_000, 9_000)])
def test_pictures_are_refused_by_their_sides_before_they_are_decoded(size, tmp_path, monkeypatch):
    Image.new("1", size).save(tmp_path / "large.png")
    monkeypatch.setattr(ink, "flatten", lambda image: pytest.fail("decoded"))
    with pytest.raises(ink.PictureError, match=f"{size[0]:,} x {size[1]:,} pixels"):
        ink.open_picture(tmp_path / "large.png")


def test_png_with_a_wrong_bit_is_damaged(tmp_path):
    path = tmp_path / "wrong.png"
    drawn(4).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ink.PictureError, match="damaged"):
        ink.open_picture(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_fifo_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ink.PictureError, match="not a file"):
        ink.open_picture(tmp_path / "pipe.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_shown_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn(4).resize((400, 300)).save(tmp_path / "turned.jpg", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg"))
    picture = ink.open_picture(tmp_path / "turned.jpg")
    assert (picture.width, picture.height) == upright.size
    shown = picture.pixels.convert("L").resize(upright.size)
    assert difference(np.asarray(shown), np.asarray(upright)) < 0.1
