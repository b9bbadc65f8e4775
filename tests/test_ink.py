"""From pictures to 28x28: drawn digits, as one meets them, in frames, on lines, on paper of their own."""

import io
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


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference, in shares of the ink."""
    return np.abs(one.astype(float) - other).sum() / other.sum(dtype=float)


# --- to what MNIST is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digit", STROKES)
@pytest.mark.parametrize("pen", [3, 16, 40])
def test_prepared_as_mnist_is(digit, pen):
    prepared = ink.prepare(drawn(digit, pen=pen))
    assert prepared.dtype == np.uint8
    assert prepared.shape == (28, 28)
    rows, columns = (prepared.any(axis).nonzero()[0] for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    mass = prepared / prepared.sum()
    assert mass.sum(1) @ np.arange(28) == pytest.approx(14, abs=0.6)
    assert mass.sum(0) @ np.arange(28) == pytest.approx(14, abs=0.6)
    assert digit == 1 or len(np.unique(prepared)) > 8  # gray edges, unless they fall between pixels


@pytest.mark.parametrize("pen", [3, 6, 16, 40])
def test_strokes_become_as_thick_as_those_of_mnist(pen):
    prepared = ink.prepare(drawn(4, pen=pen))
    large = np.asarray(Image.fromarray(prepared).resize((224, 224), Image.Resampling.BICUBIC)) > 127
    assert lines.stroke_width(large) / 8 == pytest.approx(ink.STROKE, abs=0.5)


def test_thickness_of_a_bar_is_measured():
    bar = np.zeros((40, 300), bool)
    bar[10:30] = True
    assert lines.stroke_width(bar) == pytest.approx(20, rel=0.08)


def test_same_picture_same_result():
    noisy = np.random.default_rng(0).normal(np.asarray(drawn(4), float), 10).clip(0, 255).astype(np.uint8)
    assert (ink.prepare(Image.fromarray(noisy)) == ink.prepare(Image.fromarray(noisy))).all()


def test_proportions_are_kept():
    wide = Image.new("L", (400, 300), 255)
    ImageDraw.Draw(wide).ellipse((100, 100, 299, 199), outline=0, width=14)
    rows, columns = (ink.prepare(wide).any(axis).nonzero()[0] for axis in (1, 0))
    assert len(columns) == 20
    assert len(rows) == pytest.approx(10, abs=1)


def test_turned_to_the_left_and_cut_out():
    mask = np.asarray(drawn(7)) == 0
    mask = mask[lines.extent(mask)]
    assert (ink.turn(mask, 0) == mask).all()
    assert (ink.turn(mask, 90) == np.rot90(mask)).all()
    assert ink.turn(ink.turn(mask, 10), -10).shape == pytest.approx(mask.shape, abs=3)
    dots = np.zeros((19, 9), bool)
    dots[0, 0] = dots[-1, -1] = True
    assert ink.turn(dots, 10).any()


def looks() -> dict[str, Image.Image]:
    """The 4 of `drawn(4)` as one meets it."""
    plain = drawn(4)
    cover = 1 - np.asarray(plain, float)[..., None] / 255
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    uneven = ((225 - 185 * cover) * (0.65 - 0.3 * x - 0.1 * y * y)[..., None]).repeat(3, 2)
    shadow = (225 - 185 * cover).repeat(3, 2) * np.where(x + y > 0.9, 0.6, 1)[..., None]
    noise = np.random.default_rng(1).normal(0, 8, uneven.shape)
    jpeg, exif = io.BytesIO(), Image.Exif()
    Image.fromarray(np.uint8((uneven + noise).clip(0, 255))).save(jpeg, "JPEG", quality=40)
    exif[0x0112] = 6  # the camera was turned: the picture is to be turned by 90 degrees clockwise
    turned = io.BytesIO()
    plain.rotate(90).save(turned, "JPEG", exif=exif)
    table = Image.new("RGB", (500, 400), (90, 60, 40))
    table.paste(plain.convert("RGB"), (60, 40))
    table.paste((255, 255, 255), (360, 40, 500, 400))
    table.paste((255, 255, 255), (60, 340, 500, 400))
    slip = Image.new("RGB", (900, 700), (90, 60, 40))
    slip.paste(plain.convert("RGB"), (150, 240))
    turned_slip = slip.rotate(12, fillcolor=(90, 60, 40)).rotate(-12, fillcolor=(90, 60, 40))
    page = Image.new("L", (600, 500), 250)
    page.paste(drawn(4, paper=10, ink=240), (200, 120))
    speckled = plain.copy()
    for spot in np.random.default_rng(2).integers(0, 300, (40, 2)).tolist():
        speckled.putpixel(spot, 0)
    return {
        "light on dark": drawn(4, paper=0, ink=255),
        "1 bit": plain.convert("1"),
        "palette": plain.convert("P"),
        "CMYK": plain.convert("CMYK"),
        "16 bits": Image.fromarray(np.asarray(plain, np.uint16) * 257),
        "12 bits": Image.fromarray(np.asarray(plain, np.uint16) * 16),
        "float": plain.convert("F"),
        "two colours as bright": drawn(4, paper=(200, 120, 120), ink=(112, 167, 112), mode="RGB"),
        "black on nothing": drawn(4, paper=(0, 0, 0, 0), ink=(0, 0, 0, 255), mode="RGBA"),
        "white on nothing": drawn(4, paper=(0, 0, 0, 0), ink=(255, 255, 255, 255), mode="RGBA"),
        "larger": drawn(4, size=1500, pen=80),
        "small": plain.resize((60, 60), Image.Resampling.BOX),
        "thin": drawn(4, pen=5),
        "thick": drawn(4, pen=32),
        "uneven light and noise, JPEG": Image.open(jpeg),
        "shadow with a hard edge": Image.fromarray(np.uint8(shadow)),
        "camera turned": Image.open(turned),
        "paper on a table": table,
        "a slip of paper on a table": turned_slip,
        "a dark square on a page": page,
        "specks": speckled,
        "cut tightly": plain.crop((93, 61, 234, 250)),
        "cut tightly, light on dark": drawn(4, paper=20, ink=230).crop((93, 61, 234, 250)),
        "from too near": drawn(4, pen=26).crop((80, 50, 245, 260)).filter(ImageFilter.GaussianBlur(7)),
        **surrounded(),
    }


def surrounded() -> dict[str, Image.Image]:
    """The same with lines round, below and behind it."""

    def with_lines(*segments: tuple, width: int = 4, shade: int = 60, size: int = 500) -> Image.Image:
        image = Image.new("L", (size, size), 255)
        draw = ImageDraw.Draw(image)
        for segment in segments:
            draw.line(segment, fill=shade, width=width)
        image.paste(0, ((size - 300) // 2, (size - 300) // 2), drawn(4).point(lambda value: 255 - value))
        return image

    def frame(left: int, top: int, right: int, bottom: int) -> list[tuple]:
        return [
            (left, top, right, top),
            (left, bottom, right, bottom),
            (left, top, left, bottom),
            (right, top, right, bottom),
        ]

    def dashes(segment: tuple, count: int = 12) -> list[tuple]:
        x0, y0, x1, y1 = segment
        parts = [(k / count, (k + 0.7) / count) for k in range(count)]
        return [(x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0)) for a, b in parts]

    cell = frame(120, 110, 390, 400)
    table = [(0, 110, 500, 110), (0, 400, 500, 400), (120, 0, 120, 500), (390, 0, 390, 500)]
    squares = [(0, k, 500, k) for k in range(15, 500, 70)] + [(k, 0, k, 500) for k in range(35, 500, 70)]
    ruled = [(0, y, 500, y + 20) for y in (60, 225, 360, 490)]  # one through it, one through its foot
    closely_ruled = [(0, y, 500, y + 20) for y in range(-10, 500, 55)]
    return {
        "in a frame": with_lines(*cell),
        "in a heavy frame": with_lines(*cell, width=12, shade=0),
        "in a frame, turned": with_lines(*cell).rotate(5, fillcolor=255).rotate(-0.5, fillcolor=255),
        "in a cell of a table": with_lines(*table),
        "in a broken frame": with_lines(*[dash for side in cell for dash in dashes(side)]),
        "on squared paper": with_lines(*squares, width=2, shade=120),
        "on squared paper, turned": with_lines(*squares, width=2).rotate(2, fillcolor=255),
        "on ruled paper": with_lines(*ruled, width=3),
        "on closely ruled paper": with_lines(*closely_ruled, width=3),
        "underlined": with_lines((90, 375, 420, 385), width=10, shade=0),
        "underlined, touching": with_lines((90, 345, 420, 345), width=8, shade=0),
        "small in a cell of a table": with_lines(*table).crop((0, 80, 470, 430)).resize((1000, 745)),
        "between heavy lines": with_lines((0, 30, 500, 30), (0, 470, 500, 470), width=14, shade=0),
        "in a ring": ringed(),
    }


def ringed() -> Image.Image:
    image = Image.new("L", (500, 500), 255)
    ImageDraw.Draw(image).ellipse((60, 50, 450, 450), outline=0, width=9)
    image.paste(0, (100, 100), drawn(4).point(lambda value: 255 - value))
    return image


@pytest.mark.parametrize("look", looks())
def test_the_same_digit_however_it_looks(look):
    assert difference(ink.prepare(looks()[look]), ink.prepare(drawn(4))) < 0.35


@pytest.mark.parametrize("digit", [4, 7])
def test_what_looks_like_mnist_stays_what_it_is(digit):
    prepared = ink.prepare(drawn(digit))
    assert difference(ink.prepare(Image.fromarray(prepared)), prepared) < 0.1


@pytest.mark.parametrize("digit", STROKES)
@pytest.mark.parametrize("pen", [4, 10, 20])
def test_the_bars_of_digits_are_no_lines(digit, pen):
    mask = np.asarray(drawn(digit, size=512, pen=pen)) == 0
    assert not lines.find_lines(mask, np.ones_like(mask)).any()
    tight = mask[lines.extent(mask)]
    assert not (lines.find_lines(tight, np.ones_like(tight)).any() and digit != 1)


def test_strokes_that_cross_a_line_stay_whole():
    mask = np.zeros((300, 500), bool)
    mask[150:156] = True
    mask[60:240, 240:260] = True
    rest = mask & ~lines.find_lines(mask, np.ones_like(mask))
    assert rest[60:240, 240:260].mean() > 0.98
    assert not rest[:, :230].any()
    assert not rest[:, 270:].any()


def test_line_is_found_up_to_the_end_on_which_a_stroke_stands():
    image = Image.new("1", (512, 512))
    draw = ImageDraw.Draw(image)
    draw.ellipse((90, 130, 310, 360), fill=1)
    draw.ellipse((140, 180, 260, 300), fill=0)
    draw.line((40, 350, 420, 352), fill=1, width=11)
    mask = np.asarray(image)
    taken = lines.find_lines(mask, np.ones_like(mask))
    assert taken[350, 40:120].all()
    assert taken[350, 280:420].all()
    assert not taken[:340].any()


def seven_on(segments: list[tuple], box: tuple) -> tuple[np.ndarray, ...]:
    """Masks, cut out of a picture: a 7 between 110 and 400 with its foot at (230, 400), and the lines."""
    images = [Image.new("1", (512, 512)) for _ in range(2)]
    ImageDraw.Draw(images[0]).line((150, 110, 330, 110, 230, 400), fill=1, width=20, joint="curve")
    for segment in segments:
        ImageDraw.Draw(images[1]).line(segment, fill=1, width=8)
    return tuple(np.asarray(image.crop(box)) for image in images)


@pytest.mark.parametrize(
    ("lines_drawn", "box"),
    [
        ([(90, 402, 345, 402)], (0, 0, 512, 512)),  # under the foot, which is what it stands out from
        ([(100, 430, 400, 430)], (0, 0, 512, 434)),  # along the edge
        ([(0, 50, 512, 60), (0, 250, 512, 260)], (0, 20, 512, 420)),  # from edge to edge, the head near the edge
        ([(0, 20, 512, 20), (0, 480, 512, 480), (20, 0, 20, 512), (480, 0, 480, 512)], (0, 0, 512, 512)),
    ],
    ids=["under the foot", "along the edge", "through it", "in a large cell"],
)
def test_lines_are_taken_and_the_digit_is_left(lines_drawn, box):
    digit, drawn_lines = seven_on(lines_drawn, box)
    mask = digit | drawn_lines
    rest = mask & ~lines.find_lines(mask, np.ones_like(mask))
    assert (rest & digit).sum() > 0.95 * digit.sum()
    assert (rest & ~digit).sum() < 0.1 * drawn_lines.sum()


@pytest.mark.parametrize("digit", ["4", "9"])
def test_stem_of_a_tightly_cut_digit_is_no_line(digit):
    image = Image.new("1", (200, 300))
    draw = ImageDraw.Draw(image)
    draw.line((160, 0, 150, 300), fill=1, width=14)
    if digit == "4":
        draw.line((30, 90, 10, 180, 195, 170), fill=1, width=14)
    else:
        draw.ellipse((20, 5, 165, 140), outline=1, width=14)
    mask = np.asarray(image)
    mask = mask[lines.extent(mask)]
    assert not lines.find_lines(mask, np.ones_like(mask)).any()


def test_pale_lines_do_not_stay_behind_as_dashes():
    """Of lines that are about as dark as the threshold some pixels are above it."""
    image = np.full((400, 500), 230.0)
    image[:300, :300][np.asarray(drawn(4)) == 0] = 40
    for y in (60, 245, 340):
        image[y : y + 3] = np.minimum(image[y : y + 3], 140)
    noisy = image + np.random.default_rng(0).normal(0, 8, image.shape)
    figures = ink.find_figures(ink.flatten(Image.fromarray(np.uint8(noisy.clip(0, 255)))))
    assert difference(ink.normalize(figures[0].mask), ink.prepare(drawn(4))) < 0.35


@pytest.mark.parametrize("kind", painter.KINDS)
def test_painted_digits_are_found_in_each_kind_of_picture(kind, sample):
    """What is found is as large as what was painted: no frame, no line, no paper in it."""
    seven = np.asarray(drawn(7, size=28, pen=3, paper=0, ink=255))
    found = 0
    for seed in range(6):
        picture = ink.flatten(Image.open(painter.paint(kind, seven, 7, np.random.default_rng(seed))))
        prepared = ink.normalize(ink.find_figures(picture)[0].mask)
        found += difference(prepared, ink.prepare(Image.fromarray(seven))) < 0.6  # it is turned by up to 8 degrees
    assert found >= 5


def test_the_small_loop_of_a_broad_brush_is_kept_open():
    image = Image.new("L", (280, 280), 255)
    draw = ImageDraw.Draw(image)
    draw.ellipse((58, 58, 162, 162), fill=10)
    draw.line((140, 130, 195, 200), fill=10, width=40)
    draw.ellipse((98, 98, 122, 122), fill=255)
    draw.ellipse((103, 101, 117, 115), fill=120)  # of the hole one gray pixel is left
    small = image.filter(ImageFilter.GaussianBlur(7)).resize((28, 28), Image.Resampling.BOX)
    figure = ink.find_figures(ink.flatten(small))[0].mask
    assert not figure.all()
    assert painter.holes(figure) == 2  # the loop, and all that lies outside


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
    figure = blotted(digit)
    prepared = ink.normalize(figure)
    assert painter.holes(prepared > level) == painter.holes(figure)
    rows, columns = lines.extent(prepared > 40)
    proportion = (columns.stop - columns.start) / (rows.stop - rows.start)
    assert proportion == pytest.approx(figure.shape[1] / figure.shape[0], abs=0.15)


@pytest.mark.parametrize("pen", [2, 3, 5])
def test_hairline_becomes_a_stroke_even_if_a_tiny_loop_closes(pen):
    image = Image.new("L", (600, 600), 255)
    draw = ImageDraw.Draw(image)
    draw.line((150, 100, 420, 100, 260, 520), fill=0, width=pen, joint="curve")
    draw.ellipse((150, 100, 150 + 4 * pen, 100 + 3 * pen), outline=0, width=pen)
    darkest = ink.prepare(image).max(1)
    assert darkest[darkest > 0].min() > 200


def test_corner_in_poor_light_is_not_the_ink():
    image = Image.new("L", (160, 220), 150)
    draw = ImageDraw.Draw(image)
    draw.polygon([(110, 220), (160, 190), (160, 220)], fill=255)
    draw.line([(130, 20), (40, 20), (35, 100), (120, 105), (130, 190), (30, 200)], fill=60, width=34, joint="curve")
    figure = ink.find_figures(ink.flatten(image.filter(ImageFilter.GaussianBlur(4))))[0]
    assert figure.height > 0.7 * 512


@pytest.mark.parametrize("longer", [24, 40, 80, 160, 400])
@pytest.mark.parametrize("digit", STROKES)
@pytest.mark.parametrize("blur", [3, 6])
def test_tightly_cut_and_blurred_at_any_size(digit, longer, blur):
    image = drawn(digit, pen=34, paper=200, ink=40)
    left, top, right, bottom = image.point(lambda value: 255 if value < 120 else 0).getbbox()
    tight = image.crop((left - 6, top - 4, right + 3, bottom + 5)).filter(ImageFilter.GaussianBlur(blur))
    small = ImageOps.contain(tight, (longer, longer), Image.Resampling.BOX)
    assert difference(ink.prepare(small), ink.prepare(drawn(digit, pen=34))) < 0.5


def test_digit_that_fills_the_picture_is_not_its_paper():
    image = Image.new("RGB", (120, 512), (230, 190, 200))
    ImageDraw.Draw(image).rounded_rectangle((8, 22, 140, 497), 58, fill=(70, 90, 40))
    figure = ink.find_figures(ink.flatten(image))[0]
    assert figure.box == pytest.approx((8, 22, 120, 498), abs=4)


@pytest.mark.parametrize("seed", [17, 45])
def test_broad_stroke_at_the_edge_is_no_shadow(seed):
    """Of a 2 that a marker wrote on a picture which ends where it does."""
    two = Image.new("L", (28, 28))
    ImageDraw.Draw(two).line([(8, 7), (18, 8), (8, 20), (20, 20)], fill=255, width=3)
    picture = ink.flatten(Image.open(painter.cut_tightly(np.asarray(two), np.random.default_rng(seed))))
    assert ink.find_figures(picture)[0].mask.mean() > 0.6


def test_paper_with_a_stroke_at_the_edge_is_no_sheet_without_it():
    image = Image.new("L", (400, 500), 90)
    draw = ImageDraw.Draw(image)
    draw.polygon([(120, 0), (400, 0), (400, 140)], fill=200)
    draw.line((80, 180, 280, 220, 300, 380, 60, 440), fill=200, width=40, joint="curve")
    assert [sheet.whole for sheet in ink.find_sheets(ink.flatten(image))] == [True]


def test_paper_that_strokes_cut_off_is_no_sheet_for_its_grain():
    image = Image.new("L", (400, 500), 90)
    draw = ImageDraw.Draw(image)
    draw.line((0, 250, 400, 250), fill=200, width=60)
    draw.line((150, 250, 150, 500), fill=200, width=60)
    for y in range(300, 400, 10):  # a row of specks
        draw.rectangle((250, y, 253, y + 5), fill=70)
    assert [sheet.whole for sheet in ink.find_sheets(ink.flatten(image))] == [True]


# --- several figures --------------------------------------------------------------------------------------------------


def test_broken_digit_is_one_figure_and_separate_digits_are_several():
    broken = drawn(7)
    broken.paste(255, (150, 150, 250, 160))  # a gap in the stem
    whole = ink.find_figures(ink.flatten(drawn(7)))
    assert len(ink.find_figures(ink.flatten(broken))) == 1
    assert ink.find_figures(ink.flatten(broken))[0].mask.shape == whole[0].mask.shape
    pair = Image.new("L", (600, 300), 255)
    pair.paste(drawn(4), (0, 0))
    pair.paste(drawn(7), (300, 0))
    assert len(ink.find_figures(ink.flatten(pair))) == 2


@pytest.mark.parametrize(("gap", "figures"), [(4, 1), (16, 2)])
def test_open_four_is_one_figure_if_its_strokes_nearly_touch(gap, figures):
    image = Image.new("L", (300, 300), 255)
    draw = ImageDraw.Draw(image)
    draw.line((80, 60, 80, 170, 180, 170), fill=0, width=16)
    draw.line((189 + gap, 60, 189 + gap, 240), fill=0, width=16)
    assert len(ink.find_figures(ink.flatten(image))) == figures


@pytest.mark.parametrize("surroundings", ["underlined", "cells", "boxes"])
def test_a_row_of_ones_is_no_broken_line(surroundings):
    row = Image.new("L", (640, 180), 255)
    draw = ImageDraw.Draw(row)
    for place in range(6):
        x = 20 + 100 * place
        draw.line((x + 50, 40, x + 46, 130), fill=0, width=10)
        if surroundings != "underlined":
            gap = 8 if surroundings == "boxes" else 0
            draw.rectangle((x + gap, 20, x + 100 - gap, 150), outline=90, width=3)
    if surroundings == "underlined":
        draw.line((20, 155, 620, 157), fill=90, width=4)
    figures = [figure for figure in ink.find_figures(ink.flatten(row)) if figure.height > ink.LEGIBLE]
    assert len(figures) == 6
    assert all(figure.box[3] - figure.box[1] == pytest.approx(74, abs=8) for figure in figures)


@pytest.mark.parametrize("count", [1, 3])
def test_few_digits_in_a_wide_field_are_found(count):
    field = Image.new("L", (900, 220), 255)
    ImageDraw.Draw(field).rectangle((30, 30, 870, 190), outline=0, width=6)
    for place in range(count):
        field.paste(drawn(7, size=170, pen=10).crop((30, 20, 140, 150)), (50 + 120 * place, 50))
    figures = [figure for figure in ink.find_figures(ink.flatten(field)) if figure.height > ink.LEGIBLE]
    assert len(figures) == count
    assert all(figure.box[2] - figure.box[0] < 512 / 900 * 120 for figure in figures)


def test_close_neighbours_stay_apart():
    row = Image.new("L", (600, 300), 255)
    for place, digit in enumerate((7, 4, 7)):
        row.paste(drawn(digit, pen=10).crop((90, 0, 250, 300)), (20 + 165 * place, 0))
    assert len(ink.find_figures(ink.flatten(row))) == 3


@pytest.mark.parametrize("pen", [9, 12, 16])
def test_one_of_a_thinner_pen_is_no_stray_line(pen):
    pair = Image.new("L", (600, 300), 255)
    pair.paste(drawn(7, pen=24), (0, 0))
    pair.paste(drawn(1, pen=pen), (300, 0))
    assert len(ink.find_figures(ink.flatten(pair))) == 2


def test_figures_are_read_as_text_is():
    page = Image.new("L", (900, 640), 255)
    rows = [(4, 1, 7), (7, 4)]
    for line, digits in enumerate(rows):
        for place, digit in enumerate(digits):
            page.paste(drawn(digit), (300 * place, 310 * line + 10 * (place % 2)))
    order = ink.reading_order(ink.find_figures(ink.flatten(page)))
    assert [len(line) for line in order] == [3, 2]
    for line in order:
        assert [figure.box[0] for figure in line] == sorted(figure.box[0] for figure in line)
    assert max(figure.box[3] for figure in order[0]) < min(figure.box[1] for figure in order[1])


@pytest.mark.parametrize("place", [(100, 50), (500, 260)])
def test_the_box_lies_where_the_digit_is(place, tmp_path):
    page = Image.new("L", (900, 600), 90)
    slip = Image.new("L", (380, 320), 250)
    slip.paste(drawn(4, paper=250), (40, 10))
    page.paste(slip, place)
    page.save(tmp_path / "page.png")
    picture = ink.open_picture(tmp_path / "page.png")
    assert (picture.width, picture.height) == (900, 600)
    box = np.array(ink.find_figures(picture.pixels)[0].box) * 900 / picture.pixels.width
    inked = np.argwhere(np.asarray(drawn(4)) == 0)[:, ::-1]
    expected = np.concatenate([inked.min(0), inked.max(0) + 1]) + np.tile(np.add(place, (40, 10)), 2)
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
        "black": Image.new("RGB", (300, 200)),
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
        ink.prepare(blank()[kind])


@pytest.mark.parametrize("size", [(1, ink.MAX_SIDE + 1), (ink.MAX_SIDE + 1, 1), (9_000, 9_000)])
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
def test_sides_are_those_of_the_upright_picture(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("L", (400, 300), 255).save(tmp_path / "turned.jpg", exif=exif)
    picture = ink.open_picture(tmp_path / "turned.jpg")
    assert (picture.width, picture.height) == ((300, 400) if orientation >= 5 else (400, 300))
    assert (picture.pixels.width < picture.pixels.height) == (orientation >= 5)
