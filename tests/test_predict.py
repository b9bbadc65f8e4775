"""The command: which weights it takes, what it says of pictures, and of files that are none."""

import dataclasses
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from runs import ended

import dataset
import main
import predict
from benchmarks import painter
from benchmarks import predict as benchmark
from model import MODELS
from support import digits
from support.digits import ink
from support.terminal import UserError, printable
from tests.test_ink import drawn

WEIGHTS = predict.COMMITTED / "lenet_bn_augment.pt"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run predict.py in a folder with a 1 and a 7; give exit status, standard output, and what it said on stderr."""
    monkeypatch.chdir(tmp_path)
    drawn(1).save("one.png")
    drawn(7).save("seven.jpg")
    return lambda *argv: ended(predict.main, argv)


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


def test_json_of_the_weights_of_any_network(command):
    state = {"model": "mlp", "classes": 26, "network": MODELS["mlp"](classes=26).state_dict()}
    torch.save(torch.load(WEIGHTS, weights_only=True) | state, "letters.pt")
    Path("text.png").write_text("not a picture")
    status, out, error = command("one.png", "text.png", "--json", "--weights", "letters.pt")
    read, failed = json.loads(out)
    assert status == 2
    assert (read["file"], len(read["probabilities"])) == ("one.png", 26)
    assert sum(read["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert read["probability"] == max(read["probabilities"]) == read["probabilities"][read["digit"]]
    (only,) = read["digits"]
    assert (only["digit"], only["probability"]) == (read["digit"], read["probability"])
    assert failed == {"file": "text.png", "error": error.removeprefix("error: text.png: ").rstrip()}


def test_all_reads_row_by_row(command):
    page, boxes = Image.new("L", (1020, 620), 255), []
    for digit, corner in ((7, (30, 0)), (4, (270, 0)), (1, (510, 0)), (4, (90, 310)), (7, (330, 310))):
        part = drawn(digit).crop((60, 0, 260, 300))
        page.paste(part, corner)
        boxes.append(np.tile(corner, 2) + ImageOps.invert(part).getbbox())
    page.resize((2040, 1240)).save("page.png")
    status, out, error = command("page.png", "one.png", "--all")
    assert (status, error) == (0, "")
    assert re.fullmatch(r"page\.png  7 4 1 (.*%){3}\n          4 7 (.*%){2}\none\.png   1 .*\n", out)
    found = json.loads(command("page.png", "--all", "--json")[1])[0]["digits"]
    assert [digit["digit"] for digit in found] == [7, 4, 1, 4, 7]
    for digit, box in zip(found, boxes, strict=True):
        assert digit["box"] == pytest.approx(2 * box, abs=8), "in pixels of the file"


def test_doubt_is_said(command):
    row(4, 7).save("pair.png")
    blot = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(blot).ellipse((70, 70, 230, 230), fill=0)
    blot.save("blot.png")
    touching = row(4, 4, gap=-45)
    ImageDraw.Draw(touching).line((150, 200, 300, 200), fill=0, width=16)
    touching.save("touching.png")
    unequal = Image.new("L", (600, 400), 255)
    unequal.paste(drawn(4, size=380, pen=20), (10, 10))
    unequal.paste(drawn(7, size=100, pen=6), (430, 40))
    unequal.save("unequal.png")
    of_pair, of_blot = json.loads(command("pair.png", "blot.png", "--json")[1])
    assert any("2 separate figures" in warning for warning in of_pair["warnings"])
    assert any("blot" in warning for warning in of_blot["warnings"])
    for entry in (of_pair, of_blot):
        assert (digits.NOT_SURE in entry["warnings"]) == (entry["probability"] < digits.MIN_CONFIDENCE)
    status, out, _ = command("touching.png", "unequal.png", "--all")
    assert status == 0
    assert re.search("warning: figure 1, read as .*touch.*\n.*warning: 1 much smaller figure is left out", out)


@pytest.mark.parametrize(
    ("without", "whole", "answer", "said"),
    [(0.99, 0.99, 2, True), (0.99, 0.6, 7, False), (0.6, 0.99, 2, True), (0.6, 0.5, 7, True)],
)
def test_with_a_line_and_without_it_the_answer_that_is_like_a_digit_counts(without, whole, answer, said):
    """Read as 7 without the line and 2 with it."""
    glyph = ink.Glyph(np.triu(np.ones((100, 60), bool)) & ~np.triu(np.ones((100, 60), bool), 8))

    def recognize(one: ink.Glyph) -> list[float]:
        sure, digit = (without, 7) if one.whole else (whole, 2)
        return [sure if k == digit else (1 - sure) / 9 for k in range(10)]

    digit = digits.judge(dataclasses.replace(glyph, whole=glyph), recognize)
    assert digit.digit == answer
    assert any("2 with the line" in warning and "7 without" in warning for warning in digit.warnings) == said


def test_show_draws_a_row_a_file_of_any_name(command, tmp_path):
    name = os.fsdecode("one $x$ 한 \N{GRINNING FACE}\n".encode() + b"\xff.png")
    with open(name, "wb") as file:
        drawn(1).save(file, "PNG")
    assert command("nothing.png", "--show", "0.png")[0] == 2
    assert command("seven.jpg", "--show", "1.png")[0] == 0
    status, out, error = command(name, "seven.jpg", "--show", "2.png")
    assert (status, error) == (0, "")
    assert out.startswith("one $x$ 한 \N{GRINNING FACE}\\n\\udcff.png  1")
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


@pytest.mark.parametrize(
    "options",
    ["--show out.jpg", "--show no/such/folder.png", "--show one.png", "--show folder.png", "--page draw.txt", ""],
)
def test_what_is_to_be_written_is_checked_before_anything_is_read(command, options):
    Path("folder.png").mkdir()
    before = Path("one.png").read_bytes()
    status, out, error = command(*options.split(), *["one.png"] * bool(options))  # with neither nothing is to be done
    assert (status, out) == (2, "")
    assert error.startswith(f"error: {options}")
    assert Path("one.png").read_bytes() == before


def test_page_is_written_without_a_picture(command):
    assert command("--page", "draw.html") == (0, "", "")
    assert "<html" in Path("draw.html").read_text(encoding="utf-8")


def test_what_cannot_be_read_is_said_and_the_rest_is_read(command):
    drawn(4, size=800).save("truncated.jpg")
    os.truncate("truncated.jpg", os.path.getsize("truncated.jpg") // 2)
    drawn(4).save("four.eps")  # another program would decode it
    Path("text.png").write_text("not a picture")
    Path("nothing.png").touch()
    Image.new("1", (300, 300), 1).save("blank.png")
    Image.new("1", (14_000, 14_000)).save("huge.png")  # Pillow itself refuses these
    problems = {"truncated.jpg": "truncated", "four.eps": "is not a picture", "text.png": "is not a picture"}
    problems |= {"nothing.png": "is not a picture", "blank.png": "ink", "huge.png": f"{ink.MAX_PIXELS:,}"}
    problems |= {"missing.png": "No such file", "line\nbreak\x1b.png": "No such file"}
    status, out, error = command("one.png", *problems, "seven.jpg")
    assert status == 2
    width = max(len(printable(name)) for name in ("one.png", *problems, "seven.jpg"))
    assert re.fullmatch(rf"{'one.png':{width}}  1 (.*%){{3}}\n{'seven.jpg':{width}}  7 (.*%){{3}}\n", out)
    # a line each, and no warning of Pillow's
    for line, (name, problem) in zip(error.splitlines(), problems.items(), strict=True):
        assert line.startswith(f"error: {name.encode('unicode_escape').decode()}: ")
        assert problem in line


def test_what_the_reader_trained_goes_before_the_committed_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def found(options: str = "") -> str:
        return str(predict.find_weights(predict.parse_arguments(["one.png", *options.split()])))

    assert found() == str(WEIGHTS)
    Path("checkpoints").mkdir()
    for name in ("lenet_bn_augment", "mlp_augment_seed3", "lenet"):
        Path(f"checkpoints/{name}.weights.pt").touch()
    assert found() == "checkpoints/lenet_bn_augment.weights.pt"
    assert found("--model lenet") == "checkpoints/lenet.weights.pt"
    assert found("--model mlp --augment --seed 3") == "checkpoints/mlp_augment_seed3.weights.pt"
    assert found("--weights other.pt") == "other.pt"
    with pytest.raises(UserError) as error:
        found("--model mlp --augment --seed 4")
    first, second = str(error.value).splitlines()
    assert "mlp_augment_seed4.weights.pt: not found; there are: lenet.weights.pt, " in first
    assert "mlp_augment_seed3.weights.pt, weights/lenet.pt" in first
    assert "python main.py --model mlp --augment --seed 4;" in second


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
    assert result["of_wrong_and_right"]["0.5"] == [0, 0.25]
    assert result["of_wrong_and_right"]["0.9"] == pytest.approx([2 / 3, 0.5])


def test_a_seed_paints_the_same_picture():
    for paint in painter.KINDS.values():
        one, again, other = (paint(SEVEN, 7, np.random.default_rng(seed)).getvalue() for seed in (1, 1, 2))
        assert one == again != other
