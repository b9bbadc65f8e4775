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
from model import MODELS
from support.digits import ink, reading
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
    for place, part in enumerate(parts):
        image.paste(part, (30 + place * (200 + gap), 0))
    return image


# --- answers ----------------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_training_code(weights, sample):
    _, network = predict.load_network(weights / "lenet_bn.weights.pt")
    test_set = dataset.MNIST(sample / "test.tar")
    ours = predict.classify(test_set.images[:50].numpy(), network)
    assert torch.allclose(ours, main.predict(network, test_set, range(50)).softmax(1), atol=1e-5)


def test_drawn_digits_are_read(command):
    for digit in (1, 4, 7):
        drawn(digit).save(f"{digit}.png")
    _, out, _ = command("1.png", "4.png", "7.png", "--json")
    assert [entry["digit"] for entry in json.loads(out)] == [1, 4, 7]


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


def test_all_reads_line_by_line(command):
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
    assert second.count("%") == 2
    assert third.startswith("one.png   1 ")


def test_boxes_are_pixels_of_the_original(command):
    row(7, 4, 1).resize((1560, 600)).save("row.png")
    _, out, _ = command("row.png", "--all", "--json")
    digits = json.loads(out)[0]["digits"]
    assert [digit["digit"] for digit in digits] == [7, 4, 1]
    for place, (digit, found) in enumerate(zip((7, 4, 1), digits, strict=True)):
        inked = np.argwhere(np.asarray(drawn(digit)) == 0)[:, ::-1]
        corners = np.concatenate([inked.min(0), inked.max(0) + 1]) + np.tile((30 + 240 * place - 60, 0), 2)
        assert found["box"] == pytest.approx(2 * corners, abs=8)
        assert all(isinstance(edge, int) for edge in found["box"])
        assert 0 <= found["probability"] <= 1


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
        assert any("not sure" in warning for warning in entry["warnings"]) == (
            entry["probability"] < reading.MIN_CONFIDENCE
        )
    _, out, _ = command("pair.png", "--all", "--json")
    assert not any("separate" in warning for warning in json.loads(out)[0]["warnings"])


def test_touching_digits_are_not_split_but_doubted(command):
    touching = row(4, 4, gap=-45)
    ImageDraw.Draw(touching).line((150, 200, 300, 200), fill=0, width=16)
    touching.save("touching.png")
    _, out, _ = command("touching.png", "--all", "--json")
    (entry,) = json.loads(out)
    assert len(entry["digits"]) == 1
    assert "figure 1" in entry["warnings"][0]
    assert "touch" in entry["warnings"][0]


# --- the drawing ------------------------------------------------------------------------------------------------------


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


def test_show_boxes_each_figure_and_shows_what_was_seen(weights, tmp_path):
    row(7, 4, 1).save(tmp_path / "row.png")
    _, network = predict.load_network(weights / "lenet_bn.weights.pt")
    read = predict.read(str(tmp_path / "row.png"), network, everything=True)
    picture, prepared, bars = reading.draw([read]).axes
    assert [patch.get_bbox().extents.tolist() for patch in picture.patches] == [
        pytest.approx(list(digit.figure.box)) for digit in read.digits
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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_drawing_that_cannot_be_written_ends_with_status_1(command, tmp_path):
    drawn(1).save("one.png")
    (tmp_path / "closed").mkdir(mode=0o500)
    status, out, error = command("one.png", "--show", "closed/out.png")
    assert status == 1
    assert out.startswith("one.png")
    assert "cannot be written" in error


def test_page_is_written_without_a_picture(command):
    status, out, error = command("--page", "draw.html")
    assert (status, out, error) == (0, "", "")
    assert "<html" in Path("draw.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("argv", [[], ["--page", "draw.txt"], ["--page", "no/such/draw.html"]])
def test_without_a_picture_or_a_place_for_the_page_nothing_is_done(command, argv):
    status, out, error = command(*argv)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")


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


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_names_that_the_output_cannot_show_are_escaped(encoding, weights, tmp_path):
    names = ["숫자.png", "\N{GRINNING FACE}.png", "없다.png"] + [os.fsdecode(b"\xff.png")] * (sys.platform == "linux")
    for name in names:
        if name != "없다.png":
            with open(tmp_path / name, "wb") as file:
                drawn(1).save(file, "PNG")
    run = subprocess.run(
        [sys.executable, ROOT / "predict.py", *names, "--weights", weights / "lenet_bn.weights.pt", "--show", "o.png"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert run.returncode == 2  # one is not there
    assert len(run.stdout.splitlines()) == len(names) - 1
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert (tmp_path / "o.png").stat().st_size > 0


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(command, monkeypatch):
    """Run the command, and give the file of weights that it took."""

    def run(*argv: object) -> Path:
        taken = []
        monkeypatch.setattr(predict, "load_network", lambda path: taken.append(path) or ("", MODELS["lenet"]().eval()))
        drawn(1).save("one.png")
        assert command("one.png", *argv)[0] == 0
        return taken[0]

    return run


def test_a_fresh_clone_reads_with_the_committed_weights(tmp_path):
    drawn(7).save(tmp_path / "seven.png")
    run = subprocess.run(
        [sys.executable, ROOT / "predict.py", "seven.png"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("seven.png  7 ")


def test_what_the_reader_trained_goes_before_the_committed_weights(tmp_path, monkeypatch, capsys):
    taken = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "load_network", lambda path: taken.append(path) or ("", MODELS["lenet"]().eval()))
    drawn(1).save("one.png")
    predict.main(["one.png"])
    Path("checkpoints").mkdir()
    Path("checkpoints/lenet_bn_augment.weights.pt").touch()
    predict.main(["one.png"])
    predict.main(["one.png", "--weights", "other.pt"])
    assert [path.name for path in taken] == ["lenet_bn_augment.pt", "lenet_bn_augment.weights.pt", "other.pt"]
    assert taken[0].parent == ROOT / "weights"


def test_options_name_a_run(answers, tmp_path):
    for name in ("mlp_augment_seed3", "lenet"):
        (tmp_path / f"{name}.weights.pt").touch()
    at = ["--checkpoint-dir", tmp_path]
    assert answers("--model", "mlp", "--augment", "--seed", 3, *at).name == "mlp_augment_seed3.weights.pt"
    assert answers("--model", "lenet", *at).name == "lenet.weights.pt"


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


def test_network_of_the_sample_serves_with_a_warning(command, weights, tmp_path):
    drawn(1).save("one.png")
    (tmp_path / "lenet_bn-sample_seed2.weights.pt").write_bytes((weights / "lenet_bn.weights.pt").read_bytes())
    status, out, error = command("one.png", "--checkpoint-dir", tmp_path, "--model", "lenet_bn", "--seed", 2)
    assert status == 0
    assert out.startswith("one.png")
    assert "bundled sample" in error
    assert "python main.py --model lenet_bn --seed 2" in error


@pytest.mark.parametrize(
    "damage",
    ["cut", "text", "unknown model", "other model", "other dictionary", "not finite", "folder", "FIFO", "none"],
)
def test_damaged_or_foreign_weights(command, weights, tmp_path, damage):
    drawn(1).save("one.png")
    path = tmp_path / "some.pt"
    whole = weights / "lenet_bn.weights.pt"
    state = torch.load(whole, weights_only=True)
    if damage == "cut":
        path.write_bytes(whole.read_bytes()[:-1000])
    elif damage == "text":
        path.write_text("not weights")
    elif damage == "unknown model":
        torch.save({**state, "model": "transformer"}, path)
    elif damage == "other model":
        torch.save({**state, "model": "mlp"}, path)
    elif damage == "other dictionary":
        torch.save({"weight": torch.zeros(3)}, path)
    elif damage == "not finite":
        state["network"]["c1.weight"][0] = torch.nan
        torch.save(state, path)
    elif damage == "folder":
        path.mkdir()
    elif damage == "FIFO":
        os.mkfifo(path)
    status, out, error = command("one.png", "--weights", path)
    assert (status, out) == (2, "")
    assert error.startswith(f"error: {path}: ")
    assert len(error.splitlines()) <= 2


def test_what_is_too_small_beside_the_largest_is_not_left_out_silently():
    from support.digits.ink import find_figures, flatten

    image = Image.new("L", (600, 400), 255)
    image.paste(drawn(4, size=380, pen=20), (10, 10))
    image.paste(drawn(7, size=100, pen=6), (430, 40))
    lines, doubts = reading.choose(find_figures(flatten(image)), everything=True)
    assert sum(map(len, lines)) == 1
    assert doubts == ["1 much smaller figure is left out"]


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_benchmark_measures_each_kind_and_writes_json(weights, sample, tmp_path, capsys):
    from benchmarks import painter
    from benchmarks import predict as benchmark

    options = ["--data-dir", str(sample), "--weights", str(weights / "lenet_bn.weights.pt"), "--count", "3"]
    results = []
    for name in ("a.json", "b.json"):
        benchmark.main([*options, "--json", str(tmp_path / name)])
        results.append(json.loads((tmp_path / name).read_text()))
    assert results[0] == results[1]
    assert results[0]["kinds"].keys() == painter.KINDS.keys()
    for shares in results[0]["kinds"].values():
        for share in shares.values():
            assert 3 * share == pytest.approx(round(3 * share))
    assert results[0]["doubt"]["answers"] == 3 * len(painter.KINDS)
    assert capsys.readouterr().out.count("prepared") == 2 * len(painter.KINDS)


def test_validation_reads_digits_that_its_network_has_not_seen(sample, tmp_path, monkeypatch):
    from benchmarks import predict as benchmark

    train_set = benchmark.MNIST(sample / "train.tar")
    monkeypatch.setattr(benchmark, "HELD_OUT", 100)
    monkeypatch.setattr(benchmark.training_script, "EPOCHS", 1)
    trained_on, painted = [], []
    train, paint = benchmark.trained_on, benchmark.paint
    monkeypatch.setattr(benchmark, "trained_on", lambda seen, rest: trained_on.append(seen) or train(seen, rest))
    monkeypatch.setattr(benchmark, "paint", lambda kind, digit, draw: painted.append(digit) or paint(kind, digit, draw))
    path = tmp_path / "held_out.json"
    benchmark.main(["--data-dir", str(sample), "--validation", "--count", "2", "--json", str(path)])
    assert len(trained_on[0]) == len(train_set) - 100
    held_out = [image.tobytes() for image in train_set.images[-100:].numpy()]
    assert all(digit.tobytes() in held_out for digit in painted)
    assert "without them" in json.loads(path.read_text())["run"]


def test_doubt_counts_wrong_and_right_answers_that_carry_a_warning():
    from benchmarks.predict import doubt_curve

    right = np.array([False, False, False, True, True, True, True])
    probability = np.array([0.5, 0.6, 0.999, 0.85, 0.9999, 0.9999, 0.9999])
    doubted = np.array([False, False, False, False, False, False, True])
    result = doubt_curve(right, probability, doubted)
    assert (result["answers"], result["wrong"]) == (7, 3)
    points = {threshold: shares for threshold, *shares in result["curve"]}
    assert points[0.5] == [0, 0.25]
    assert points[0.7] == pytest.approx([2 / 3, 0.25])
    assert points[0.9] == pytest.approx([2 / 3, 0.5])


def test_painted_pictures_are_jpegs_of_their_own():
    from benchmarks import painter

    digit = np.asarray(drawn(7, size=28, pen=3, paper=0, ink=255))
    for kind in painter.KINDS:
        first, again, other = (painter.paint(kind, digit, np.random.default_rng(seed)).getvalue() for seed in (1, 1, 2))
        assert first == again != other
        assert Image.open(io.BytesIO(first)).format == "JPEG"
