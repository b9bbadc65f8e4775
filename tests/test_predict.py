"""The command: which weights it takes, what it says of pictures, and of files that are none."""

import io
import json
import os
import struct
import subprocess
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
from benchmarks import painter
from benchmarks import predict as benchmark
from model import MODELS
from support import digits
from support.digits import ink
from tests.test_ink import drawn

ROOT = Path(__file__).resolve().parent.parent


def weights_of(name: str, model: str, classes: int = 10, **changes: object) -> dict:
    """What a file of weights holds, of a network that has learnt nothing."""
    network = MODELS[model](classes=classes).state_dict()
    return {"network": network, "model": model, "name": name, "classes": classes, "digest": "", "history": {}} | changes


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A checkpoint folder with a `lenet_bn` that reads digits."""
    folder = tmp_path_factory.mktemp("weights")
    trained = torch.load(ROOT / "weights" / "lenet_bn_augment.pt", weights_only=True)["network"]
    torch.save(weights_of("lenet_bn", "lenet_bn", network=trained), folder / "lenet_bn.weights.pt")
    return folder


@pytest.fixture
def command(weights, capsys, tmp_path, monkeypatch):
    """Run predict.py in a folder of its own; give the exit status, what it printed, and what it said on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> tuple[int, str, str]:
        options = [] if {"--model", "--weights", "--augment"} & {*argv} else ["--model", "lenet_bn"]
        options += [] if "--checkpoint-dir" in argv else ["--checkpoint-dir", str(weights)]
        status = 0
        try:
            predict.main([*map(str, argv), *options])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def row(*digits: int, gap: int = 40) -> Image.Image:
    """Digits side by side."""
    parts = [drawn(digit).crop((60, 0, 260, 300)) for digit in digits]
    image = Image.new("L", (60 + len(parts) * (200 + gap), 300), 255)
    for position, part in enumerate(parts):
        image.paste(part, (30 + position * (200 + gap), 0))
    return image


# --- answers ----------------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_training_code(weights, sample):
    _, network = predict.load_network(weights / "lenet_bn.weights.pt")
    test_set = dataset.MNIST(sample / "test.tar")
    ours = predict.classify(test_set.images[:50].numpy(), network)
    logits, _ = main.predict(network, [test_set[:50]])
    assert torch.allclose(ours, logits.softmax(1), atol=1e-5)


def test_one_line_a_file(command):
    drawn(1).save("one.png")
    drawn(7).save("seven.jpg")
    status, out, error = command("one.png", "seven.jpg")
    assert (status, error) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("one.png    1 ")
    assert second.startswith("seven.jpg  7 ")
    assert first.count("%") == 3


def test_json(command):
    drawn(1).save("one.png")
    Path("text.png").write_text("not a picture")
    row(7, 4, 1).resize((1560, 600)).save("row.png")
    status, out, error = command("one.png", "text.png", "--json")
    read, failed = json.loads(out)
    assert status == 2
    assert read["file"] == "one.png"
    assert len(read["probabilities"]) == 10
    assert sum(read["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert read["probability"] == max(read["probabilities"]) == read["probabilities"][read["digit"]]
    (only,) = read["digits"]
    assert (only["digit"], only["probability"]) == (read["digit"], read["probability"])
    assert failed == {"file": "text.png", "error": failed["error"]}
    assert failed["error"] in error
    several = json.loads(command("row.png", "--all", "--json")[1])[0]["digits"]
    assert [digit["digit"] for digit in several] == [7, 4, 1]
    for position, (digit, found) in enumerate(zip((7, 4, 1), several, strict=True)):  # boxes in pixels of the original
        inked = np.argwhere(np.asarray(drawn(digit)) == 0)[:, ::-1]
        corners = np.concatenate([inked.min(0), inked.max(0) + 1]) + np.tile((30 + 240 * position - 60, 0), 2)
        assert found["box"] == pytest.approx(2 * corners, abs=8)


def test_all_reads_row_by_row(command):
    page = Image.new("L", (1020, 620), 255)
    page.paste(row(7, 4, 1), (0, 0))
    page.paste(row(4, 7), (60, 310))
    page.save("page.png")
    drawn(1).save("one.png")
    status, out, error = command("page.png", "one.png", "--all")
    assert (status, error) == (0, "")
    first, second, third = out.splitlines()
    assert first.startswith("page.png  7 4 1 ")
    assert first.count("%") == 3
    assert second.startswith("          4 7 ")
    assert third.startswith("one.png   1 ")


def test_doubt_is_said(command):
    row(4, 7).save("pair.png")
    blot = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(blot).ellipse((70, 70, 230, 230), fill=0)
    blot.save("blot.png")
    status, out, _ = command("pair.png", "blot.png", "--json")
    of_pair, of_blot = (entry["warnings"] for entry in json.loads(out))
    assert status == 0
    assert any("2 separate figures" in warning for warning in of_pair)
    assert any("blot" in warning for warning in of_blot)
    for entry in json.loads(out):
        assert (digits.NOT_SURE in entry["warnings"]) == (entry["probability"] < digits.MIN_CONFIDENCE)
    touching = row(4, 4, gap=-45)
    ImageDraw.Draw(touching).line((150, 200, 300, 200), fill=0, width=16)
    touching.save("touching.png")
    entry = json.loads(command("touching.png", "--all", "--json")[1])[0]
    assert len(entry["digits"]) == 1
    assert "figure 1" in entry["warnings"][0]
    assert "touch" in entry["warnings"][0]


def glyph(width: int, whole: ink.Glyph | None = None) -> ink.Glyph:
    mask = np.zeros((100, width), bool)
    mask[:, :8] = mask[:8] = True
    return ink.Glyph(mask, (slice(0, 100), slice(0, width)), whole=whole)


@pytest.mark.parametrize(
    ("without", "whole", "answer", "said"),
    [(0.99, 0.99, 2, True), (0.99, 0.6, 7, False), (0.6, 0.99, 2, True), (0.6, 0.5, 7, True)],
)
def test_with_a_line_and_without_it_the_answer_that_is_like_a_digit_counts(without, whole, answer, said):
    """Read as 7 without the line and 2 with it."""

    def recognize(one: ink.Glyph) -> list[float]:
        sure, digit = (without, 7) if one.whole else (whole, 2)
        return [sure if k == digit else (1 - sure) / 9 for k in range(10)]

    digit = digits.judge(glyph(60, glyph(90)), recognize)
    assert digit.digit == answer
    assert any("2 with the line" in warning and "7 without" in warning for warning in digit.warnings) == said


def test_what_is_too_small_beside_the_largest_is_not_left_out_silently():
    image = Image.new("L", (600, 400), 255)
    image.paste(drawn(4, size=380, pen=20), (10, 10))
    image.paste(drawn(7, size=100, pen=6), (430, 40))
    rows, warnings = digits.choose(digits.find_glyphs(digits.flatten(image)), everything=True)
    assert sum(map(len, rows)) == 1
    assert warnings == ["1 much smaller figure is left out"]


# --- the figure -------------------------------------------------------------------------------------------------------


def test_show_draws_a_row_a_file(command, tmp_path):
    names = ["one $x$ 한 \N{GRINNING FACE}.png", "seven.png"]
    drawn(1).save(names[0])
    drawn(7).save(names[1])
    assert command(names[0], "--show", "1.png")[0] == 0
    status, _, error = command(*names, "--show", "2.png")
    assert (status, error) == (0, "")
    (width, height), both = Image.open("1.png").size, Image.open("2.png")
    assert both.size == (width, 2 * height)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "1.png", "2.png"}


def test_show_boxes_each_glyph_and_shows_what_was_seen(weights, tmp_path):
    row(7, 4, 1).save(tmp_path / "row.png")
    _, network = predict.load_network(weights / "lenet_bn.weights.pt")
    read = predict.read(str(tmp_path / "row.png"), network, everything=True)
    picture, prepared, bars = digits.draw([read]).axes
    assert [patch.get_bbox().extents.tolist() for patch in picture.patches] == [
        pytest.approx(list(digit.glyph.box)) for digit in read.digits
    ]
    assert [text.get_text() for text in picture.texts] == ["7", "4", "1"]
    seen = np.asarray(prepared.images[0].get_array())
    assert (seen == np.hstack([digit.prepared for digit in read.digits])).all()
    assert [bar.get_height() for bar in bars.patches] == [digit.probability for digit in read.digits]


@pytest.mark.parametrize("show", ["out.jpg", "no/such/folder.png", "one.png", "folder.png"])
def test_show_is_checked_before_anything_is_read(command, show):
    drawn(1).save("one.png")
    Path("folder.png").mkdir()
    before = Path("one.png").read_bytes()
    status, out, error = command("one.png", "--show", show)
    assert (status, out) == (2, "")
    assert "--show" in error
    assert Path("one.png").read_bytes() == before


@pytest.mark.parametrize("argv", [[], ["--page", "draw.txt"], ["--page", "no/such/draw.html"]])
def test_without_a_picture_or_a_folder_for_the_page_nothing_is_done(command, argv):
    status, out, error = command(*argv)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")


def test_page_is_written_without_a_picture(command):
    assert command("--page", "draw.html") == (0, "", "")
    assert "<html" in Path("draw.html").read_text(encoding="utf-8")


# --- files that are no pictures ---------------------------------------------------------------------------------------


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
    for name, width, height in (("huge.png", 20_000, 20_000), ("long.png", 1, 64_000_000)):
        drawn(4).save(name)
        png = bytearray(Path(name).read_bytes())
        png[16:24] = struct.pack(">II", width, height)
        png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
        Path(name).write_bytes(png)
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
    assert f"{ink.MAX_PIXELS:,}" in said["huge.png"]
    assert "1 x 64,000,000" in said["long.png"]
    assert "9,000 x 9,000" in said["large.gif"]


def test_only_the_first_frame_counts(command):
    drawn(1).save("one.gif")
    drawn(1).save("moving.gif", save_all=True, append_images=[drawn(7), drawn(4)])
    one, moving = json.loads(command("one.gif", "moving.gif", "--json")[1])
    assert moving["probabilities"] == one["probabilities"]


def test_a_fresh_clone_reads_any_name_in_any_encoding_in_a_notebook(tmp_path):
    """With the committed weights; with what notebooks export to `!python`."""
    names = ["seven.png", "숫자.png", "\N{GRINNING FACE}.png"] + [os.fsdecode(b"\xff.png")] * (sys.platform == "linux")
    for name in names:
        with open(tmp_path / name, "wb") as file:
            drawn(7).save(file, "PNG")
    environment = {"PYTHONIOENCODING": "ascii", "MPLBACKEND": "module://no_such.backend", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, ROOT / "predict.py", *names, "없다.png", "--show", "o.png"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
    )
    assert run.returncode == 2  # one is not there
    assert run.stdout.startswith(b"seven.png")
    assert len(run.stdout.splitlines()) == len(names)
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert (tmp_path / "o.png").stat().st_size > 0


# --- weights ----------------------------------------------------------------------------------------------------------


def test_what_the_reader_trained_goes_before_the_committed_weights(tmp_path, monkeypatch, capsys):
    taken = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "load_network", lambda path: taken.append(path) or ("", MODELS["lenet"]().eval()))
    drawn(1).save("one.png")
    Path("checkpoints").mkdir()
    predict.main(["one.png"])
    for name in ("lenet_bn_augment", "mlp_augment_seed3", "lenet"):
        Path(f"checkpoints/{name}.weights.pt").touch()
    predict.main(["one.png"])
    predict.main(["one.png", "--weights", "other.pt"])
    predict.main(["one.png", "--model", "mlp", "--augment", "--seed", "3"])
    predict.main(["one.png", "--model", "lenet"])
    assert [path.name.partition(".")[0] for path in taken] == [
        *("lenet_bn_augment", "lenet_bn_augment", "other", "mlp_augment_seed3", "lenet")
    ]
    assert [path.parent.name for path in taken[:2]] == ["weights", "checkpoints"]


def test_weights_of_any_network_are_read_without_its_name(command, tmp_path):
    drawn(1).save("one.png")
    for model in MODELS:
        torch.save(weights_of("anything", model, classes=26), "any.pt")
        status, out, error = command("one.png", "--weights", "any.pt", "--json")
        assert (status, error) == (0, "")
        assert len(json.loads(out)[0]["probabilities"]) == 26


def test_untrained_run_says_which_there_are_and_the_command_that_trains_it(command):
    drawn(1).save("one.png")
    status, out, error = command("one.png", "--model", "mlp", "--augment", "--seed", 3)
    assert (status, out) == (2, "")
    assert "mlp_augment_seed3.weights.pt: not found" in error
    assert "lenet_bn.weights.pt" in error
    assert "python main.py --model mlp --augment --seed 3" in error
    assert len(error.splitlines()) == 2


@pytest.mark.parametrize("damage", ["cut", "unknown model", "other model", "not finite", "folder", "none"])
def test_damaged_or_foreign_weights(command, weights, tmp_path, damage):
    drawn(1).save("one.png")
    path = tmp_path / "some.pt"
    state = torch.load(weights / "lenet_bn.weights.pt", weights_only=True)
    if damage == "cut":
        path.write_bytes((weights / "lenet_bn.weights.pt").read_bytes()[:-1000])
    elif damage == "unknown model":
        torch.save({**state, "model": "transformer"}, path)
    elif damage == "other model":
        torch.save({**state, "model": "mlp"}, path)
    elif damage == "not finite":
        state["network"]["c1.weight"][0] = torch.nan
        torch.save(state, path)
    elif damage == "folder":
        path.mkdir()
    status, out, error = command("one.png", "--weights", path)
    assert (status, out) == (2, "")
    assert error.startswith(f"error: {path}: ")
    assert len(error.splitlines()) <= 2


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_benchmark_measures_each_kind_and_reads_held_out_digits_for_validation(weights, tmp_path, monkeypatch, capsys):
    digit = np.asarray(drawn(7, size=28, pen=3, paper=0, ink=255))
    painted = []
    monkeypatch.setattr(benchmark, "KINDS", ("paper", "thin"))
    monkeypatch.setattr(benchmark, "paint", lambda *given: painted.append(given[1]) or painter.paint(*given))
    images = torch.from_numpy(np.stack(5 * [digit])).clone()
    images[:3] = 255  # not held out: nothing could be read of these

    class Few:
        def __init__(self, path: Path) -> None:
            self.images, self.labels = images, torch.full((5,), 7)

    monkeypatch.setattr(benchmark, "MNIST", Few)
    monkeypatch.setattr(benchmark, "HELD_OUT", 2)
    options = ["--weights", str(weights / "lenet_bn.weights.pt"), "--count", "2", "--validation"]
    benchmark.main([*options, "--json", str(tmp_path / "a.json")])
    result = json.loads((tmp_path / "a.json").read_text())
    assert [kind["prepared"] for kind in result["kinds"].values()] == [1, 1]
    assert result["warnings"]["answers"] == len(painted) == 4
    assert all((image == digit).all() for image in painted)
    assert capsys.readouterr().out.count("prepared") == 2


def test_warning_curve_counts_wrong_and_right_answers_that_carry_a_warning():
    right = np.array([0, 0, 0, 1, 1, 1, 1])
    probability = np.array([0.5, 0.6, 0.999, 0.85, 0.9999, 0.9999, 0.9999])
    doubted = np.array([0, 0, 0, 0, 0, 0, 1])
    result = benchmark.warning_curve(right, probability, doubted)
    assert (result["answers"], result["wrong"]) == (7, 3)
    curve = result["of_wrong_and_right"]
    assert curve["0.5"] == [0, 0.25]
    assert curve["0.7"] == pytest.approx([2 / 3, 0.25])
    assert curve["0.9"] == pytest.approx([2 / 3, 0.5])


def test_painted_pictures_are_files_of_their_own():
    digit = np.asarray(drawn(7, size=28, pen=3, paper=0, ink=255))
    for kind in painter.KINDS:
        one, again, other = (painter.paint(kind, digit, 7, np.random.default_rng(k)).getvalue() for k in (1, 1, 2))
        assert one == again != other
        assert Image.open(io.BytesIO(one)).format in ("JPEG", "PNG")
