"""README.md and README.ko.md: each number is that of a committed file, and CI runs the lines of the first block."""

import dataclasses
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
from documents import LECUN, check_numbers, parse

import dataset
import main
import study
from support.run import Callback, history

ROOT = Path(main.__file__).resolve().parent
LANGUAGES = ("README.md", "README.ko.md")
ASSIGNMENT = {  # of the report that the study follows: the best epoch of one run each, accuracy in % and loss
    "LeNet-5": ("99.18", "0.0299"),
    "BN-LeNet-5 + augmentation": ("99.42", "0.0178"),
    "Custom-MLP": ("97.83", "0.0797"),
}
RECIPE = "|".join(  # what the code says, in the words of either language
    [
        *(f"{study.SEEDS} seeds|시드 {study.SEEDS}개", f"(epoch 1 to |of ){main.Settings.epochs}\\b", "50번째"),
        *(f"momentum {main.MOMENTUM:g}|모멘텀 {main.MOMENTUM:g}", f"(batches of|배치) {main.Settings.batch_size}"),
        *(f"(weight decay|감쇠) {main.Settings.weight_decay:.4f}", f"(clipping at|노름을) {main.MAX_GRAD_NORM:g}"),
        *(
            f"{main.WARMUP_STEPS} ?(steps|스텝)",
            f"(of|동안) {main.Settings.lr:g}",
            f"{100 * main.DECAY:g} % (of the|스텝)",
        ),
        *(f"{main.BN_IMAGES:,}", f"{dataset.ROTATION}°", f"{100 * dataset.TRANSLATION:g} %( and| 안)"),
        *(
            f"{100 * dataset.MIN_CROP:g} % (of the area|이상)",
            r"Python 3\.11",
            r"PyTorch 2\.14",
            "EPYC 2코어",
            "looped 9s and 4s|9와 4",
            r"BY-SA 3\.0",
            "5 and 6|5와 6",
            "decay to 0|0까지",
            "1회",
            "95 % 신뢰구간",
            r"3분의 2|5분의 1",
        ),
        *(r"\(B, [\d, ]+\)", "28x28", "0 to 255|0에서 255"),
    ]
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """Without code blocks and tables."""
    return "\n".join(line for line in text.splitlines() if not line.startswith(("    ", "|")))


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_number_is_the_one_of_its_row_and_column(name):
    known = parse(read("result_plot/tables.md")) | parse(read("benchmarks/README.md")) | LECUN
    assert check_numbers(prose(read(name)), known, RECIPE) > 30


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_table_of_results_is_the_studys(name):
    exact = parse(read("result_plot/tables.md"))["Accuracy and loss"]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in read(name).splitlines() if line[:1] == "|"]
    expected = [
        [parameters, *ASSIGNMENT.get(network, ("", "")), row["accuracy, %"], row["loss"]]
        for network, row in exact.items()
        for parameters in [row["parameters"]]
    ]
    assert [row[1:] for row in rows[2:]] == expected


@pytest.mark.parametrize("name", LANGUAGES)
def test_what_the_first_line_prints_is_quoted(name):
    """benchmarks/first_run.txt is what it printed in a fresh clone; what is left out is marked."""
    printed = read("benchmarks/first_run.txt").splitlines()
    block = read(name).split("\n\n    ")[2].split("\n\n")[0].splitlines()
    quoted = [line.removeprefix("    ") for line in block]
    assert len(quoted) >= 5
    position = 0
    for line in quoted:
        if line == "...":
            position += 1
        else:
            found = printed.index(line, position)
            assert found == position or quoted[quoted.index(line) - 1] == "...", line
            position = found + 1


@pytest.mark.parametrize("name", LANGUAGES)
def test_ci_runs_the_two_lines_of_the_first_block(name):
    script = read(".ci/run")
    (taken,) = re.findall(r"< <\((.*)\)$", script, re.MULTILINE)
    lines = subprocess.run(["bash", "-c", taken], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'bash -c "set -e; $line"' in script
    block = read(name).split("\n\n")[1]
    assert [line.strip() for line in block.splitlines()] == lines.splitlines()
    assert [line.split()[-1] for line in lines.splitlines()] == ["lenet", "pytest"]


@pytest.mark.parametrize("name", LANGUAGES)
def test_it_is_short_and_its_links_lead_somewhere(name):
    text = read(name)
    assert len(text.splitlines()) <= 120
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_korean_one_carries_every_line_of_code():
    english, korean = (
        [line.split("#")[0].rstrip() for line in read(name).splitlines() if line.startswith("    ")]
        for name in LANGUAGES
    )
    assert len(english) > 25
    assert [line for line in english if line not in korean] == []
    assert len(english) == len(korean)


def test_the_lines_of_python_train(sample, tmp_path, monkeypatch):
    """As they stand, but on few digits and for few epochs."""
    folders = {"output_dir": tmp_path, "checkpoint_dir": tmp_path, "data_dir": sample}
    ended = []

    def run(settings: main.Settings, callback: Callback = Callback()) -> history.History:  # noqa: B008
        told = {"epochs": 9, "lr": 0.5, "validation": min(settings.validation, 400)}  # at that rate a loss soon rises
        ended.append(real(dataclasses.replace(settings, **folders, **told), callback))
        return ended[-1]

    real = main.run
    monkeypatch.setattr(main, "run", run)
    monkeypatch.setattr(main, "MODELS", main.MODELS)  # the same dictionary, given back as it was
    monkeypatch.delitem(main.MODELS, "mine", raising=False)
    for block in re.findall(r"((?:^    .*\n|^\n(?=    ))+)", read("README.md"), re.MULTILINE):
        if "run(Settings" in block:
            exec(textwrap.dedent(block), {})
    stopped, mine = ended
    assert stopped["validation"] == 400
    assert len(stopped["test_loss"]) < 9
    assert min(stopped["test_loss"]) < min(stopped["test_loss"][-5:])
    assert mine["model"] == "mine"
    assert mine["augment"]
    assert mine["augmentation"] == "darker"
    del main.MODELS["mine"]


def test_every_committed_picture_is_shown_or_linked():
    pages = "".join(read(name) for name in (*LANGUAGES, "result_plot/README.md", "benchmarks/README.md"))
    assert [path.name for path in (ROOT / "result_plot").glob("*.png") if path.name not in pages] == []


@pytest.mark.parametrize(
    ("name", "most"), [("tests/README.md", 100), ("benchmarks/README.md", 100), ("CONTRIBUTING.md", 100)]
)
def test_the_other_documents_are_short(name, most):
    assert len(read(name).splitlines()) <= most
