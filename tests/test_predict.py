"""The command: which weights it takes, what it says of pictures, and of files that are none."""

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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
WEIGHTS = ROOT / "weights" / "lenet_bn_augment.pt"


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Run predict.py in a folder with a 1 and a 7; give exit status, standard output, and what it said on stderr."""
    monkeypatch.chdir(tmp_path)
    drawn(1).save("one.png")
    drawn(7).save("seven.jpg")

    def run(*argv: str) -> tuple[int, str, str]:
        status = 0
        try:
            predict.main([*argv])
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


def test_probabilities_are_those_of_the_training_code(sample):
    _, network = predict.load_network(WEIGHTS)
    test_set = dataset.MNIST(sample / "test.tar")
    ours = predict.classify(test_set.images[:50].numpy(), network)
    logits, _ = main.predict(network, [test_set[:50]])
    assert torch.allclose(ours, logits.softmax(1), atol=1e-5)


def test_one_line_a_file(command):
    status, out, error = command("one.png", "seven.jpg")
    assert (status, error) == (0, "")
    assert re.fullmatch(r"one\.png    1 (.*%){3}\nseven\.jpg  7 (.*%){3}\n", out)


def test_json(command):
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
    assert failed == {"file": "text.png", "error": error.removeprefix("error: text.png: ").rstrip()}
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
    status, out, error = command("page.png", "one.png", "--all")
    assert (status, error) == (0, "")
    assert re.fullmatch(r"page\.png  7 4 1 (.*%){3}\n          4 7 (.*%){2}\none\.png   1 .*\n", out)


def test_doubt_is_said(command):
    row(4, 7).save("pair.png")
    blot = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(blot).ellipse((70, 70, 230, 230), fill=0)
    blot.save("blot.png")
    touching = row(4, 4, gap=-45)
    ImageDraw.Draw(touching).line((150, 200, 300, 200), fill=0, width=16)
    touching.save("touching.png")
    of_pair, of_blot = json.loads(command("pair.png", "blot.png", "--json")[1])
    assert any("2 separate figures" in warning for warning in of_pair["warnings"])
    assert any("blot" in warning for warning in of_blot["warnings"])
    for entry in (of_pair, of_blot):
        assert (digits.NOT_SURE in entry["warnings"]) == (entry["probability"] < digits.MIN_CONFIDENCE)
    status, out, _ = command("touching.png", "--all")
    assert status == 0
    assert re.search("warning: figure 1, read as .*touch", out)


def glyph(width: int, whole: ink.Glyph | None = None) -> ink.Glyph:
    mask = np.zeros((100, width), bool)
    mask[:, :8] = mask[:8] = True
    return ink.Glyph(mask, whole=whole)


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


def test_show_draws_a_row_a_file(command, tmp_path):
    name = "one $x$ 한 \N{GRINNING FACE}.png"
    drawn(1).save(name)
    assert command("seven.jpg", "--show", "1.png")[0] == 0
    status, _, error = command(name, "seven.jpg", "--show", "2.png")
    assert (status, error) == (0, "")
    (width, height), both = Image.open("1.png").size, Image.open("2.png")
    assert both.size == (width, 2 * height)
    assert {path.name for path in tmp_path.iterdir()} == {"one.png", "seven.jpg", name, "1.png", "2.png"}


def test_show_boxes_each_glyph_and_shows_what_was_seen(tmp_path):
    row(7, 4, 1).save(tmp_path / "row.png")
    _, network = predict.load_network(WEIGHTS)
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
    Path("folder.png").mkdir()
    before = Path("one.png").read_bytes()
    status, out, error = command("one.png", "--show", show)
    assert (status, out) == (2, "")
    assert "--show" in error
    assert Path("one.png").read_bytes() == before


def test_page_is_written_without_a_picture_and_nothing_is_done_without_either(command):
    assert command("--page", "draw.html") == (0, "", "")
    assert "<html" in Path("draw.html").read_text(encoding="utf-8")
    for argv in ([], ["--page", "draw.txt"]):
        status, out, error = command(*argv)
        assert (status, out) == (2, "")
        assert error.startswith("error: ")


def test_what_cannot_be_read_is_said_and_the_rest_is_read(command):
    drawn(4, size=800).save("truncated.jpg")
    os.truncate("truncated.jpg", os.path.getsize("truncated.jpg") // 2)
    drawn(4).save("four.eps")  # another program would decode it
    Path("text.png").write_text("not a picture")
    Path("nothing.png").touch()
    Image.new("1", (300, 300), 1).save("blank.png")
    Image.new("1", (14_000, 14_000)).save("huge.png")  # Pillow itself refuses these
    problems = {"truncated.jpg": "truncated", "four.eps": "is not a picture", "text.png": "is not a picture"}
    problems |= {"nothing.png": "is empty", "blank.png": "ink", "huge.png": f"{ink.MAX_PIXELS:,}"}
    problems |= {"missing.png": "not found", "line\nbreak\x1b.png": "not found"}
    status, out, error = command("one.png", *problems, "seven.jpg")
    assert status == 2
    assert [line.split()[0] for line in out.splitlines()] == ["one.png", "seven.jpg"]
    # a line each, and no warning of Pillow's
    for line, (name, problem) in zip(error.splitlines(), problems.items(), strict=True):
        assert line.startswith(f"error: {name.encode('unicode_escape').decode()}: ")
        assert problem in line


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


def test_what_the_reader_trained_goes_before_the_committed_weights(command, monkeypatch):
    taken = []
    monkeypatch.setattr(predict, "load_network", lambda path: taken.append(path) or ("", MODELS["lenet"]().eval()))
    Path("checkpoints").mkdir()
    command("one.png")
    for name in ("lenet_bn_augment", "mlp_augment_seed3", "lenet"):
        Path(f"checkpoints/{name}.weights.pt").touch()
    for options in ("", "--weights other.pt", "--model mlp --augment --seed 3", "--model lenet"):
        command("one.png", *options.split())
    of_mine = [f"checkpoints/{name}.weights.pt" for name in ("lenet_bn_augment", "mlp_augment_seed3", "lenet")]
    assert taken == [WEIGHTS, *map(Path, (of_mine[0], "other.pt", *of_mine[1:]))]


def change_weights(changes: dict) -> None:
    """The committed weights with some of what the file holds changed, as some.pt."""
    torch.save(torch.load(WEIGHTS, weights_only=True) | changes, "some.pt")


@pytest.mark.parametrize("model", MODELS)
def test_weights_of_any_network_are_read_without_its_name(command, model):
    change_weights({"model": model, "classes": 26, "network": MODELS[model](classes=26).state_dict()})
    status, out, error = command("one.png", "--weights", "some.pt", "--json")
    assert (status, error) == (0, "")
    assert len(json.loads(out)[0]["probabilities"]) == 26


def test_untrained_run_says_which_there_are_and_the_command_that_trains_it(command):
    Path("mine").mkdir()
    Path("mine/lenet_seed4.weights.pt").touch()
    options = ["--model", "mlp", "--augment", "--seed", "3"]
    status, out, error = command("one.png", *options, "--checkpoint-dir", "mine")
    assert (status, out) == (2, "")
    first, second = error.splitlines()
    assert "mlp_augment_seed3.weights.pt: not found" in first
    assert "there are: lenet_seed4.weights.pt, weights/lenet.pt" in first
    assert f"python main.py {' '.join(options)};" in second


@pytest.mark.parametrize("changes", [{"model": "transformer"}, {"model": "mlp"}, {"diverged": True}])
def test_weights_of_no_network_or_of_another_are_refused(command, changes):
    network = MODELS["lenet_bn"]()
    torch.nn.init.constant_(network.f7.bias, math.nan if "diverged" in changes else 0)
    change_weights({"network": network.state_dict()} | changes)
    status, out, error = command("one.png", "--weights", "some.pt")
    assert (status, out) == (2, "")
    assert error.startswith("error: some.pt: ")
    assert len(error.splitlines()) <= 2


SEVEN = np.asarray(drawn(7, size=28, pen=3, paper=0, ink=255))


def test_benchmark_measures_each_kind_on_held_out_digits(tmp_path, monkeypatch):
    images = torch.full((5, 28, 28), 255, dtype=torch.uint8)  # nothing can be read of these
    images[3:] = torch.tensor(SEVEN)
    monkeypatch.setattr(benchmark, "MNIST", lambda path: SimpleNamespace(images=images, labels=torch.full((5,), 7)))
    monkeypatch.setattr(benchmark, "HELD_OUT", 2)
    monkeypatch.setattr(benchmark, "KINDS", {kind: painter.KINDS[kind] for kind in ("paper", "thin")})
    file = tmp_path / "figures.json"
    benchmark.main(["--weights", str(WEIGHTS), "--count", "2", "--validation", "--json", str(file)])
    result = json.loads(file.read_text())
    assert {kind: result["kinds"][kind]["prepared"] for kind in result["kinds"]} == {"paper": 1, "thin": 1}
    assert result["warnings"]["answers"] == 4


def test_warning_curve_counts_wrong_and_right_answers_that_carry_a_warning():
    right = np.array([0, 0, 0, 1, 1, 1, 1])
    probability = np.array([0.5, 0.6, 0.999, 0.85, 0.9999, 0.9999, 0.9999])
    doubted = np.array([0, 0, 0, 0, 0, 0, 1])
    result = benchmark.warning_curve(right, probability, doubted)
    assert (result["answers"], result["wrong"]) == (7, 3)
    curve = result["of_wrong_and_right"]
    assert curve["0.5"] == [0, 0.25]
    assert curve["0.9"] == pytest.approx([2 / 3, 0.5])


def test_painted_pictures_are_files_of_their_own():
    for kind in painter.KINDS:
        one, again, other = (painter.KINDS[kind](SEVEN, 7, np.random.default_rng(k)).getvalue() for k in (1, 1, 2))
        assert one == again != other
        assert Image.open(io.BytesIO(one)).format in ("JPEG", "PNG")
