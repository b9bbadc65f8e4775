"""The record of a run: its name, its digest, what differs, what a callback may add, what is refused when it is read."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

import main
from support import files
from support.run import history
from support.terminal import UserError

TOLD = {**main.DEFAULTS, "model": "lenet", "data": "MNIST", "classes": 10}
DATA = {"train_images": 9, "test_images": 4, "train_sha256": "a" * 64, "test_sha256": "b" * 64}


def a_history(**changed: object) -> dict:
    """That of a finished run of two epochs on four test images."""
    recipe = {"optimizer": "SGD", "parameters": 61_706, **DATA, "device": "cpu"}
    record = history.new_history(TOLD | {"epochs": 2}, main.DEFAULTS, recipe)
    for epoch in (1, 2):
        metrics = dict.fromkeys(history.METRICS, 0.5 / epoch)
        history.add_epoch(record, metrics | {"learning_rate": 0.05, "threads": 1, "processes": 1})
    return history.with_digest(record) | changed


LABELS = np.array([0, 1, 2, 9], np.uint8)


def write(folder: Path, record: dict, **arrays: np.ndarray) -> Path:
    """Its file, with the arrays beside it."""
    with open(folder / "run.json", "wb") as file:
        history.write_history(record, file)
    if arrays:
        with open(folder / "run.npz", "wb") as file:
            history.write_arrays(arrays, record, file)
    return folder / "run.json"


def refused(read, *arguments: object) -> str:
    with pytest.raises(UserError) as error:
        read(*arguments)
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "lenet"),
        ({"data": "my digits (2)", "classes": 26, "validation": 60}, "lenet-my-digits-2_validation60"),
        ({"data": "손글씨 숫자"}, "lenet-손글씨-숫자"),
        ({"data": "../.."}, "lenet-data"),
        ({"data": os.fsdecode(b"a\xffb")}, "lenet-a-b"),
        (
            {"data": "d", "augment": True, "epochs": 9, "batch_size": 8, "lr": 0.2, "weight_decay": 1.0, "seed": 7},
            "lenet-d_augment_epochs9_batch8_lr0.2_decay1.0_seed7",
        ),
    ],
)
def test_a_name_says_everything_in_which_the_run_differs_from_the_defaults(changed, name):
    assert history.run_name(TOLD | changed, main.DEFAULTS) == name
    history.check_name(name)


def test_the_longest_name_is_a_name_of_a_file():
    longest = {"model": "lenet_bn", "data": "가" * 300, "augment": True, "epochs": 10**6, "batch_size": 10**6}
    longest |= {"lr": 1.2345678901234567e-12, "weight_decay": 1.2345678901234567e-300, "validation": 10**5}
    name = history.run_name(TOLD | longest | {"seed": 2**63 - 1}, main.DEFAULTS)
    assert len(f".{name}.weights.pt.{2**22}.partial".encode()) <= 255


def test_what_is_no_name():
    for name in ("", ".a", "-a", "a/b", "a b", "a\n", "a.weights", "a" * 101, "\udcff"):
        assert "name" in refused(history.check_name, name)


def test_a_digest_is_of_everything_but_the_seconds():
    record = a_history()
    assert history.with_digest(record | {"seconds": [7.0, 8.0]})["digest"] == record["digest"]
    for field in record.keys() - {"seconds", "digest"}:
        assert history.with_digest(record | {field: "another"})["digest"] != record["digest"], field


def test_runs_differ_in_settings_recipe_network_and_data_and_in_nothing_else():
    record = a_history()
    for field, value in (("seed", 1), ("optimizer", "Adam"), ("train_sha256", "c" * 64), ("parameters", 3)):
        (line,) = history.differences(record, record | {field: value})
        assert re.fullmatch(rf"{field} \S{{1,12}} there, \S{{1,12}} here", line)
    for field in ("device", "torch_version", "data", "name", "test_loss"):
        assert history.differences(record, record | {field: "another"}) == []
    assert history.differences({}, record), "nothing is not the same"


def test_what_a_callback_measures_becomes_plain_finite_numbers():
    values = {"a": np.float32(0.5), "b": 3, "c": np.float64(-1), "d": np.int64(4), "e": main.torch.tensor(2.5)}
    kept = history.measured(a_history(), values)
    assert kept == {"a": 0.5, "b": 3.0, "c": -1.0, "d": 4.0, "e": 2.5}
    assert all(type(value) is float for value in kept.values())
    for value in (math.nan, 10**400, None, "many", main.torch.zeros(2)):
        assert "observed = " in refused(history.measured, a_history(), {"observed": value})


def test_what_a_callback_measures_is_the_same_after_every_epoch_and_never_takes_the_place_of_the_runs_own():
    record = a_history(curve=[1.0, 2.0])
    del record["digest"]  # which comes last, and is taken all the same
    for name in ("train_loss", "lr", "digest", "curve"):
        assert name in refused(history.measured, record, {name: 5.0})
    for name in ("train_loss", "lr", "digest"):
        assert name in refused(history.add_epoch, record, {}, {name: 5.0})
    metrics = dict.fromkeys(history.LISTS, 0.5)
    for values in (None, {"curve": 3.0, "b": 2.0}, {"b": 1.0}):
        assert "another run" in refused(history.add_epoch, a_history(curve=[1.0, 2.0]), metrics, values)
    history.add_epoch(record, metrics, {"curve": 3.0})
    assert record["curve"] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("validation", "word"), [(0, "test"), (60, "validation")])
def test_what_is_printed_says_what_it_was_tested_on(validation, word):
    record = a_history(test_loss=[0.25, 0.5], test_accuracy=[0.75, 0.5], validation=validation)
    assert history.summary(record).splitlines() == [
        f"lowest {word} loss       0.2500 in epoch 1",
        f"highest {word} accuracy  75.00% in epoch 1",
        f"last epoch {' ' * len(word)}        0.5000 and 50.00%",
    ]
    line = f"  train loss 0.2500  train accuracy  25.00%  {word} loss 0.5000  {word} accuracy  50.00%    0.2 s"
    assert history.epoch_line(record | {"epochs": 10}) == "epoch  2/10" + line


def test_what_is_written_is_read_again(tmp_path):
    record = a_history(observed=[-1.5, 2.0], initial_x=-3.0)
    path = write(tmp_path, record, labels=LABELS, confidence=np.full(4, 0.5, np.float32))
    (tmp_path / "._run.json").write_bytes(b"what a Mac puts beside it")
    ((found, same, read),) = history.read_runs(tmp_path)
    assert (found, same) == (path, record)
    assert {name: (array.dtype, array.tolist()) for name, array in read.items()} == {
        "labels": (np.uint8, [0, 1, 2, 9]),
        "confidence": (np.float32, [0.5] * 4),
    }
    assert len(path.read_text().splitlines()) == len(record) + 2, "each field on a line of its own"
    assert history.read_runs(tmp_path / "nowhere") == []
    (tmp_path / "run.npz").unlink()
    assert history.read_runs(tmp_path) == [(path, record, {})]


def test_what_is_no_history_or_too_large_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.mkdir()
    assert "regular file" in refused(history.read_runs, tmp_path)
    path.rmdir()
    for content in (b"", b"[1, 2]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"epochs": ' + b"9" * 9999):
        path.write_bytes(content)
        assert "run.json" in refused(history.read_run, path)
    write(tmp_path, a_history(), labels=LABELS)
    monkeypatch.setattr(files, "MAX_UNPACKED", 100)
    assert "more than 100 bytes" in refused(history.read_run, path)
    monkeypatch.setattr(history, "MAX_HISTORY", 100)
    assert "run.json" in refused(history.read_run, path)


def test_fields_are_of_their_types_and_lists_of_finite_numbers_one_an_epoch(tmp_path):
    for field in history.FIELDS:
        assert field in refused(history.read_run, write(tmp_path, a_history(**{field: None})))
    path = write(tmp_path, {name: value for name, value in a_history().items() if name not in ("seed", "test_loss")})
    assert "seed, test_loss: missing, or of another type" in refused(history.read_run, path)
    for values in ([0.5], [0.5, 0.5, 0.5], [0.5, "x"], [0.5, math.nan]):
        for name in ("test_loss", "observed"):
            assert "run.json" in refused(history.read_run, write(tmp_path, a_history(**{name: values})))


def test_arrays_that_are_damaged_or_of_another_run_are_refused(tmp_path):
    path = write(tmp_path, a_history(digest="another"), labels=LABELS)
    write(tmp_path, a_history())
    assert "run.npz: cannot be read: it is of another run than run.json" in refused(history.read_run, path)
    for arrays in ({"labels": LABELS}, {"digest": a_history()["digest"], "labels": np.array([None] * 4, object)}):
        np.savez(tmp_path / "run.npz", **arrays)
        assert "run.npz: cannot be read" in refused(history.read_run, path)
    (tmp_path / "run.npz").write_bytes(b"no archive")
    assert "run.npz: cannot be read" in refused(history.read_run, path)


def test_the_committed_histories_are_read():
    for folder in ("result_plot", "result_plot/study"):
        runs = history.read_runs(Path(main.__file__).parent / folder)
        assert runs
        assert all(history.with_digest(run.history)["digest"] == run.history["digest"] for run in runs)
