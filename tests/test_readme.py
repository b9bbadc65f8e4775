"""The numbers of README.md and README.ko.md are those of the committed files that commands of this repository wrote."""

import json
import re
from pathlib import Path

import pytest

import main
from support.run import history

ROOT = Path(main.__file__).resolve().parent
LANGUAGES = ("README.md", "README.ko.md")
SOURCES = ("result_plot/README.md", "benchmarks/README.md", "benchmarks/tuning.md", "benchmarks/predict.json")
REFERENCE = {"0.0299", "99.18", "0.0797", "97.83", "0.0178", "99.42"}  # the published study's, quoted
RECIPE = {str(value) for value in (main.LEARNING_RATE, main.MOMENTUM)} | {
    "3.11",
    "4.0",
}  # Python's version, a licence's


def figures(text: str) -> set[str]:
    """Every number with a decimal point, without its sign; not the digits of versions such as 1.2.0."""
    return set(re.findall(r"(?<![\d.])\d[\d,]*\.\d+(?![\d.]*\.\d)", text))


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_figure_stands_in_a_committed_file(name):
    known = REFERENCE | RECIPE | set().union(*(figures(read(source)) for source in SOURCES)) | figures(printed())
    known |= {f"{100 * value:.1f}" for value in rates()}
    assert figures(read(name)) - known == set()


def printed() -> str:
    """What the run of seed 0 printed, an epoch a line."""
    record = history.read_history(ROOT / "result_plot" / "lenet.json")
    lines = []
    for epoch in range(1, record["epochs"] + 1):
        cut = {key: value[:epoch] if isinstance(value, list) else value for key, value in record.items()}
        lines.append(history.epoch_line(cut))
    return "\n".join(lines)


def rates() -> list[float]:
    """All shares in the figures of predict.py, in [0, 1]."""

    def numbers(value: object) -> list[float]:
        if isinstance(value, dict | list):
            return [found for part in (value.values() if isinstance(value, dict) else value) for found in numbers(part)]
        return [value] if isinstance(value, float) else []

    return numbers(json.loads(read("benchmarks/predict.json")))


@pytest.mark.parametrize("name", LANGUAGES)
def test_what_it_prints_is_what_the_run_of_seed_0_printed(name):
    lines = [line.strip() for line in read(name).splitlines() if line.strip().startswith("epoch ")]
    assert len(lines) >= 2
    assert set(lines) <= set(printed().splitlines())


@pytest.mark.parametrize("name", LANGUAGES)
def test_it_is_short_and_its_links_lead_somewhere(name):
    text = read(name)
    assert len(text.splitlines()) < 150
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_korean_one_carries_every_command_and_the_same_results():
    english, korean = (read(name) for name in LANGUAGES)
    commands = set(re.findall(r"^ {4}((?:python|pip|git|torchrun) [^#\n]*?) *(?:#.*)?$", english, re.MULTILINE))
    assert len(commands) > 8
    assert [command for command in sorted(commands) if command not in korean] == []
    table = english[english.index("## Results") : english.index("## Your own")]
    assert figures(table) - figures(korean) == set()


def test_the_tuning_log_is_what_its_command_prints():
    from benchmarks import tune

    assert read("benchmarks/tuning.md").endswith(tune.report() + "\n")
