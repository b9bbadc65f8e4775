"""What `predict.py` makes of pictures: drawn ones, painted ones, and files that are none."""

import io
import json
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import dataset
import main
import predict

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


@pytest.fixture(scope="module")
def weights(tmp_path_factory, sample) -> Path:
    """The checkpoint folder of a `lenet_bn` trained on the bundled sample, under the name of a finished MNIST run."""
    folder = tmp_path_factory.mktemp("weights")
    patch = pytest.MonkeyPatch()
    patch.setattr(main.plot, "draw_run", lambda history: None)
    patch.setattr(main.plot, "save", lambda figure, file: None)
    arguments = ["--model", "lenet_bn", "--epochs", "3", "--device", "cpu", "--data-dir", str(sample)]
    main.main([*arguments, "--checkpoint-dir", str(folder), "--output-dir", str(folder / "out")])
    patch.undo()
    (folder / "lenet_bn-sample.weights.pt").rename(folder / "lenet_bn.weights.pt")
    return folder


@pytest.fixture
def command(weights, capsys, tmp_path, monkeypatch):
    """Run predict.py in a folder of its own; give the exit status, what it printed, and what it said on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> tuple[int, str, str]:
        options = ["--model", "lenet_bn"] if "--model" not in argv else []
        options += ["--checkpoint-dir", str(weights)] if "--checkpoint-dir" not in argv else []
        status = 0
        try:
            predict.main([*map(str, argv), *options])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


# --- preparation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digit", STROKES)
@pytest.mark.parametrize("pen", [3, 16, 40])
def test_prepared_as_mnist_is(digit, pen):
    prepared = predict.prepare(drawn(digit, pen=pen))
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
    prepared = predict.prepare(drawn(4, pen=pen))
    large = np.asarray(Image.fromarray(prepared).resize((224, 224), Image.Resampling.BICUBIC)) > 127
    assert predict.stroke_width(large) / 8 == pytest.approx(predict.STROKE, abs=0.5)


def test_same_picture_same_result():
    noisy = np.random.default_rng(0).normal(np.asarray(drawn(4), float), 10).clip(0, 255).astype(np.uint8)
    assert (predict.prepare(Image.fromarray(noisy)) == predict.prepare(Image.fromarray(noisy))).all()


def test_proportions_are_kept():
    wide = Image.new("L", (400, 300), 255)
    ImageDraw.Draw(wide).rectangle((100, 100, 299, 199), outline=0, width=14)
    rows, columns = (predict.prepare(wide).any(axis).nonzero()[0] for axis in (1, 0))
    assert len(columns) == 20
    assert len(rows) == pytest.approx(10, abs=1)


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
        "specks": speckled,
    }


@pytest.mark.parametrize("look", looks())
def test_the_same_digit_however_it_looks(look):
    assert difference(predict.prepare(looks()[look]), predict.prepare(drawn(4))) < 0.3


@pytest.mark.parametrize("digit", [4, 7])
def test_what_looks_like_mnist_stays_what_it_is(digit):
    prepared = predict.prepare(drawn(digit))
    assert difference(predict.prepare(Image.fromarray(prepared)), prepared) < 0.1


def test_distance_is_euclidean():
    mask = np.ones((9, 7), bool)
    mask[4, 3] = mask[0, 0] = False
    y, x = np.mgrid[:9, :7]
    assert predict.distance(mask) == pytest.approx(np.minimum(np.hypot(y - 4, x - 3), np.hypot(y, x)))


def test_broken_digit_is_one_figure_and_separate_digits_are_several():
    broken = drawn(7)
    broken.paste(255, (150, 150, 250, 160))  # a gap in the stem
    assert predict.find_ink(broken).others == 0
    assert predict.find_ink(broken).mask.shape == predict.find_ink(drawn(7)).mask.shape
    pair = Image.new("L", (600, 300), 255)
    pair.paste(drawn(4), (0, 0))
    pair.paste(drawn(7), (300, 0))
    assert predict.find_ink(pair).others == 1


def blank() -> dict[str, Image.Image]:
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    vignette = 230 * (1 - 0.3 * (x * x + y * y) - 0.15 * x) + np.random.default_rng(0).normal(0, 3, x.shape)
    speck = Image.new("L", (300, 200), 255)
    speck.paste(0, (100, 100, 103, 103))
    return {
        "white": Image.new("L", (300, 200), 255),
        "black": Image.new("RGB", (300, 200)),
        "transparent": Image.new("RGBA", (300, 200)),
        "one pixel": Image.new("L", (1, 1)),
        "a row": Image.new("L", (3000, 1), 200),
        "paper under a lamp": Image.fromarray(np.uint8(vignette.clip(0, 255))),
        "a speck": speck,
    }


@pytest.mark.parametrize("kind", blank())
def test_empty_page_is_said_to_be_empty(kind):
    with pytest.raises(predict.PictureError, match="nothing in it looks like ink"):
        predict.prepare(blank()[kind])


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(weights):
    return predict.load_network(predict.parse_arguments(["x", "--model", "lenet_bn", "--checkpoint-dir", str(weights)]))


def test_probabilities_are_those_of_the_training_code(network, sample):
    test_set = dataset.MNIST(sample / "test.tar")
    ours = predict.classify(test_set.images[:50].numpy(), network)
    assert torch.allclose(ours, main.predict(network, test_set, range(50)).softmax(1), atol=1e-5)


def test_reads_digits_of_the_sample_from_pictures(network, sample):
    test_set = dataset.MNIST(sample / "test.tar")
    chosen = range(0, 360, 30)
    pictures = [Image.fromarray(255 - test_set.images[i].numpy()).resize((333, 333)) for i in chosen]
    images = np.stack([predict.prepare(picture) for picture in pictures])
    right = predict.classify(images, network).argmax(1) == test_set.labels[list(chosen)]
    # the sample's strokes are not as MNIST's, so this network, trained on them, sees something new; chance gives 0.1
    assert right.float().mean() > 0.5


def test_one_line_a_file(command):
    drawn(1).save("one.png")
    drawn(7).save("seven.jpg")
    status, out, error = command("one.png", "seven.jpg")
    assert (status, error) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("one.png    ")
    assert second.startswith("seven.jpg  ")
    assert first.count("%") == 3


def test_json(command):
    drawn(1).save("one.png")
    Path("text.png").write_text("not a picture")
    status, out, error = command("one.png", "text.png", "--json")
    read, failed = json.loads(out)
    assert status == 2
    assert read["file"] == "one.png"
    assert len(read["probabilities"]) == 10
    assert sum(read["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert read["probability"] == max(read["probabilities"]) == read["probabilities"][read["digit"]]
    assert failed == {"file": "text.png", "error": failed["error"]}
    assert failed["error"] in error


def test_doubt_is_said(command):
    pair = Image.new("L", (600, 300), 255)
    pair.paste(drawn(4), (0, 0))
    pair.paste(drawn(7), (300, 0))
    pair.save("pair.png")
    blot = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(blot).ellipse((70, 70, 230, 230), fill=0)
    blot.save("blot.png")
    status, out, _ = command("pair.png", "blot.png", "--json")
    of_pair, of_blot = (entry["warnings"] for entry in json.loads(out))
    assert status == 0
    assert any("2 separate figures" in warning for warning in of_pair)
    assert any("blot" in warning for warning in of_blot)
    for entry in json.loads(out):
        assert any("not sure" in warning for warning in entry["warnings"]) == (entry["probability"] < predict.DOUBT)


def test_show_draws_a_row_a_file(command, tmp_path):
    drawn(1).save("one $x$ 한.png")
    drawn(7).save("seven.png")
    assert command("one $x$ 한.png", "--show", "1.png")[0] == 0
    status, _, error = command("one $x$ 한.png", "seven.png", "--show", "2.png")
    assert (status, error) == (0, "")
    (width, height), both = Image.open("1.png").size, Image.open("2.png")
    assert both.size == (width, 2 * height)
    assert {path.name for path in tmp_path.iterdir()} == {"one $x$ 한.png", "seven.png", "1.png", "2.png"}


@pytest.mark.parametrize("show", ["out.jpg", "no/such/folder.png", "one.png"])
def test_show_is_checked_before_anything_is_read(command, show):
    drawn(1).save("one.png")
    before = Path("one.png").read_bytes()
    status, out, error = command("one.png", "--show", show)
    assert (status, out) == (2, "")
    assert "--show" in error
    assert Path("one.png").read_bytes() == before


def make_hostile() -> list[str]:
    """Files that hold no digit that can be read, in the current folder."""
    drawn(4, size=800).save("whole.jpg")
    whole = Path("whole.jpg").read_bytes()
    Path("truncated.jpg").write_bytes(whole[: len(whole) // 2])
    Path("whole.jpg").unlink()
    Path("text.png").write_text("not a picture")
    Path("nothing.png").touch()
    Path("folder.png").mkdir()
    Image.new("L", (300, 300), 255).save("empty.png")
    # sizes that the header alone claims: nobody may get as far as decoding
    drawn(4).save("huge.png")
    png = bytearray(Path("huge.png").read_bytes())
    png[16:24] = struct.pack(">II", 20_000, 20_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    Path("huge.png").write_bytes(png)
    drawn(4).save("large.gif")
    gif = bytearray(Path("large.gif").read_bytes())
    gif[6:10] = struct.pack("<HH", 9_000, 9_000)
    Path("large.gif").write_bytes(gif)
    drawn(4).save("four.eps")
    names = sorted(path.name for path in Path().iterdir())
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe.png")
        names.append("pipe.png")
    return [*names, "missing.png", "line\nbreak\x1b.png"]


def test_what_cannot_be_read_is_said_and_the_rest_is_read(command):
    hostile = make_hostile()
    drawn(1).save("first.png")
    drawn(7).save("last.png")
    status, out, error = command("first.png", *hostile, "last.png")
    assert status == 2
    assert [line.split()[0] for line in out.splitlines()] == ["first.png", "last.png"]
    lines = error.splitlines()
    assert len(lines) == len(hostile)  # a line each, and no warning of Pillow's
    for name, text in zip(hostile, lines, strict=True):
        assert text.startswith(f"error: {name.encode('unicode_escape').decode()}: ")
    said = dict(zip(hostile, lines, strict=True))
    assert "truncated" in said["truncated.jpg"]
    assert "ink" in said["empty.png"]
    assert f"{predict.MAX_PIXELS:,}" in said["huge.png"]
    assert "9,000 x 9,000" in said["large.gif"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(command):
    drawn(1).save("closed.png")
    os.chmod("closed.png", 0)
    status, _, error = command("closed.png")
    assert status == 2
    assert "closed.png: cannot be read: Permission denied" in error


def test_only_the_first_frame_counts(command):
    drawn(1).save("one.gif")
    drawn(1).save("moving.gif", save_all=True, append_images=[drawn(7), drawn(4)])
    _, out, _ = command("one.gif", "moving.gif", "--json")
    one, moving = json.loads(out)
    assert moving["probabilities"] == one["probabilities"]


def test_untrained_run_names_the_command_that_trains_it(command):
    drawn(1).save("one.png")
    status, out, error = command("one.png", "--model", "mlp", "--augment", "--seed", 3)
    assert (status, out) == (2, "")
    assert "mlp_augment_seed3.weights.pt" in error
    assert "python main.py --model mlp --augment --seed 3" in error


def test_network_of_the_sample_serves_with_a_warning(command, weights, tmp_path):
    drawn(1).save("one.png")
    (tmp_path / "lenet_bn-sample.weights.pt").write_bytes((weights / "lenet_bn.weights.pt").read_bytes())
    status, out, error = command("one.png", "--checkpoint-dir", tmp_path)
    assert status == 0
    assert out.startswith("one.png")
    assert "bundled sample" in error
    assert "python main.py --model lenet_bn" in error


@pytest.mark.parametrize("damage", ["cut", "text", "other model", "other dictionary", "not finite", "folder"])
def test_damaged_or_foreign_weights(command, weights, tmp_path, damage):
    drawn(1).save("one.png")
    path = tmp_path / "lenet_bn.weights.pt"
    whole = weights / path.name
    state = torch.load(whole, weights_only=True)
    if damage == "cut":
        path.write_bytes(whole.read_bytes()[:-1000])
    elif damage == "text":
        path.write_text("not weights")
    elif damage == "other model":
        torch.save({**state, "model": "mlp"}, path)
    elif damage == "other dictionary":
        torch.save({"weight": torch.zeros(3)}, path)
    elif damage == "not finite":
        state["network"]["c1.weight"][0] = torch.nan
        torch.save(state, path)
    else:
        path.mkdir()
    status, out, error = command("one.png", "--checkpoint-dir", tmp_path)
    assert (status, out) == (2, "")
    assert error.startswith(f"error: {path}: ")
    assert len(error.splitlines()) <= 2


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_benchmark_measures_and_writes_json(weights, sample, tmp_path, monkeypatch, capsys):
    from benchmarks import predict as benchmark

    arguments = ["--data-dir", str(sample), "--model", "lenet_bn", "--checkpoint-dir", str(weights), "--count", "6"]
    results = []
    for name in ("a.json", "b.json"):
        monkeypatch.setattr(sys, "argv", ["predict.py", *arguments, "--json", str(tmp_path / name)])
        benchmark.main()
        results.append(json.loads((tmp_path / name).read_text()))
    assert results[0] == results[1]
    assert results[0]["count"] == 6
    for kind in ("prepared", "resized", "original"):
        right = 6 * results[0][kind]
        assert right == pytest.approx(round(right), abs=1e-5)
    assert "6 test images" in capsys.readouterr().out
