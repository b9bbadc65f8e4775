"""The documents: each number is that of a committed file, and CI runs the lines of README.md's first block."""

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
from support.study import results, statistics

ROOT = Path(main.__file__).resolve().parent
LANGUAGES = ("README.md", "README.ko.md")
PAGES = {  # lines at most
    "README.md": 120,
    "README.ko.md": 120,
    "result_plot/README.md": 150,
    "benchmarks/README.md": 100,
    "tests/README.md": 100,
    "CONTRIBUTING.md": 100,
}
ASSIGNMENT = {  # of the report that the study follows: the best epoch of one run each, accuracy in % and loss
    "LeNet-5": ("99.18", "0.0299"),
    "BN-LeNet-5 + augmentation": ("99.42", "0.0178"),
    "Custom-MLP": ("97.83", "0.0797"),
}
RECIPE = [  # what the code says, in the words of either language
    f"{study.SEEDS} seeds|시드 {study.SEEDS}개",
    rf"(epoch 1 to |of ){main.Settings.epochs}\b|{main.Settings.epochs} epochs|50번째",
    f"(batches of|배치) {main.Settings.batch_size}",
    f"(weight decay|감쇠) {main.Settings.weight_decay:.4f}",
    f"momentum {main.MOMENTUM:g}|모멘텀 {main.MOMENTUM:g}",
    f"(clipping at|노름을) {main.MAX_GRAD_NORM:g}",
    f"{main.WARMUP_STEPS} ?(steps|스텝)",
    f"(of|동안) {main.Settings.lr:g}",
    f"{100 * main.DECAY:g} % (of the|스텝)|decay to 0|0까지",
    f"{main.BN_IMAGES:,}",
    f"{dataset.ROTATION}(°| degrees)",
    f"{100 * dataset.TRANSLATION:g} %( and| 안)",
    f"{100 * dataset.MIN_CROP:g} % (of the area|이상)",
    r"\(B, [\d, ]+\)|28x28|0 to 255|0에서 255",
    r"Python 3\.11|PyTorch 2\.1[14]|H200|EPYC 2코어|BY-SA 3\.0",
    f"±{100 * results.MARGIN:g} points|p < {statistics.ALPHA:g}|{28 * dataset.TRANSLATION:g} pixels",
    f"about {100 * (1 - (1 - 1 / study.SEEDS) ** 0.5):.0f} % of the seeds' part",
    "looped 9s and 4s|9와 4|5 and 6|5와 6|1회|95 % 신뢰구간|3분의 2|5분의 1",
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "least"), [("README.md", 30), ("README.ko.md", 30), ("result_plot/README.md", 90)])
def test_every_number_is_the_one_of_its_row_and_column(name, least):
    known = parse(read("result_plot/tables.md")) | parse(read("benchmarks/README.md")) | LECUN
    prose = re.sub(r"^(    .*|\|.*\|)$", "", read(name), flags=re.MULTILINE)  # without code and tables
    assert check_numbers(prose, known, "|".join(RECIPE)) > least


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_table_of_results_is_the_studys(name):
    exact = parse(read("result_plot/tables.md"))["Accuracy and loss"]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in read(name).splitlines() if line[:1] == "|"]
    expected = [
        [row["parameters"], *ASSIGNMENT.get(network, ("", "")), row["accuracy, %"], row["loss"]]
        for network, row in exact.items()
    ]
    assert [row[1:] for row in rows[2:]] == expected


def test_both_languages_have_the_same_lines_of_code():
    english, korean = (re.findall(r"^    .*?(?= *#|$)", read(name), re.MULTILINE) for name in LANGUAGES)
    assert len(english) > 25
    assert english == korean


def test_what_the_first_line_prints_is_quoted():
    """benchmarks/first_run.txt is what it printed in a fresh clone; what is left out is marked."""
    quoted = textwrap.dedent(read("README.md").split("\n\n")[3])
    assert len(quoted.splitlines()) >= 5
    pattern = re.escape(quoted).replace(re.escape("\n...\n"), r"\n(.*\n)*")
    assert re.match(pattern, read("benchmarks/first_run.txt"))


def test_ci_runs_the_two_lines_of_the_first_block():
    script = read(".ci/run")
    (taken,) = re.findall(r"< <\((.*)\)$", script, re.MULTILINE)
    lines = subprocess.run(["bash", "-c", taken], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'bash -c "set -e; $line"' in script
    assert textwrap.dedent(read("README.md").split("\n\n")[1]) == lines.rstrip()
    assert [line.split()[-1] for line in lines.splitlines()] == ["lenet", "pytest"]


def test_the_lines_of_python_train(sample, tmp_path, monkeypatch):
    """As they stand, but on few digits and for few epochs."""
    told = {"output_dir": tmp_path, "checkpoint_dir": tmp_path, "data_dir": sample}
    told |= {"epochs": 9, "lr": 0.5}  # at that rate a loss soon rises
    ended, real = [], main.run

    def run(settings, *callback):
        few = dataclasses.replace(settings, validation=min(settings.validation, 400), **told)
        ended.append(real(few, *callback))
        return ended[-1]

    monkeypatch.setattr(main, "run", run)
    monkeypatch.setitem(main.MODELS, "mine", None)  # which the lines put there, and which goes with the test
    for block in re.findall(r"((?:^    .*\n|^\n(?=    ))+)", read("README.md"), re.MULTILINE):
        if "run(Settings" in block:
            exec(textwrap.dedent(block), {})
    stopped, mine = ended
    assert stopped["validation"] == 400
    assert len(stopped["test_loss"]) < 9
    assert min(stopped["test_loss"]) < min(stopped["test_loss"][-5:])
    assert mine["model"] == "mine"
    assert mine["augmentation"] == "darker"


@pytest.mark.parametrize(("name", "most"), PAGES.items())
def test_a_page_is_short_and_its_links_lead_somewhere(name, most):
    assert len(read(name).splitlines()) <= most
    links = [link for link in re.findall(r"\]\(([^)#]+)", read(name)) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_every_committed_picture_is_shown_or_linked():
    pages = "".join(map(read, PAGES))
    assert [path.name for path in (ROOT / "result_plot").glob("*.png") if f"{path.name})" not in pages] == []
