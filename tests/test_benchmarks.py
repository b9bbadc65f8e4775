"""What benchmarks/ says is what its files hold, and its commands measure what they say."""

import json
import math
import re

import numpy as np
import pytest

import main
from benchmarks import throughput, tune

FOLDER = tune.LOG.parent
NUMBER = re.compile(r"(?<![\d.,])\d[\d,]*\.\d+")


@pytest.mark.parametrize("name", ["throughput.json", "gpu.json"])
def test_the_tables_of_speed_are_those_of_the_files(name):
    assert throughput.report(json.loads((FOLDER / name).read_text())) in (FOLDER / "README.md").read_text()


def test_the_tuning_log_is_whole_and_what_its_command_prints(monkeypatch):
    monkeypatch.setattr(tune, "train_row", lambda *missing: pytest.fail(f"{missing}"))
    tune.train_missing()
    reasons, tables = re.fullmatch(r"(.*?)\n\n(## .*)\n", (FOLDER / "tuning.md").read_text(), re.DOTALL).groups()
    assert tables == tune.report()
    recipe = {f"{value}" for value in (main.Settings.lr, main.MAX_GRAD_NORM)}
    assert set(NUMBER.findall(reasons)) <= set(NUMBER.findall(tables)) | recipe


def test_a_row_is_trained_on_its_images_and_stops_after_its_epochs(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "HELD_OUT", 400)
    monkeypatch.setattr(tune, "DATA", sample)
    changes = {"main.MAX_GRAD_NORM": math.inf}, {"lr": 0.01}
    monkeypatch.setitem(tune.ROWS, "mine", tune.Row("", *changes, epochs=5, trained=2, images=600))
    trained = []
    monkeypatch.setattr(main, "run", lambda *given, run=main.run: trained.append(run(*given)) or trained[-1])
    line = tune.train_row("mine", "mlp", 3, tmp_path)
    told = {"train_images": 600, "test_images": 400, "validation": 400, "epochs": 5, "lr": 0.01, "seed": 3}
    assert (told | {"max_grad_norm": math.inf}).items() <= trained[0].items()
    assert main.MAX_GRAD_NORM == 2
    assert (line["row"], len(line["accuracy"])) == ("mine", 2)
    assert line["loss"] == [round(loss, 5) for loss in trained[0]["test_loss"]]


def test_rows_are_compared_seed_by_seed_after_the_last_epoch_that_both_have():
    one = {0: {"loss": [0.5]}, 1: {"loss": [0.9]}, 7: {"loss": [0.0]}}
    other = {1: {"loss": [0.6, 9.0]}, 0: {"loss": [0.4, 9.0]}}
    assert tune.difference(one, other, "loss") == f"+0.2000 ± {np.std([0.1, 0.3], ddof=1) / math.sqrt(2):.4f}"


def test_what_is_compared_runs_in_turn_and_the_ratio_is_the_median_of_the_pairs():
    order, seconds = [], {"a": iter([1.0, 2.0, 4.0]), "b": iter([4.0, 2.0, 8.0])}
    ways = {way: lambda way=way: order.append(way) or {"s": next(seconds[way])} for way in seconds}
    rows = throughput.compare("mlp", ways, rounds=3)
    assert order == ["a", "b"] * 3
    assert [(row["way"], row["s"]) for row in rows] == [("a", 2), ("b", 4), ("b : a", 2)]
