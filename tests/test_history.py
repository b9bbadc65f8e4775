"""The record of a run: its name, its digest, what differs, and what is refused when it is read."""

import io
import json
import math
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import main
from support.run import history
from support.terminal import UserError

SETTINGS = {"model": "lenet", "data": "MNIST", "augment": False, **main.DEFAULTS}


def a_history(**changed: object) -> dict:
    """That of a finished run of two epochs on four test images."""
    scalars = SETTINGS | {"name": "lenet", "epochs": 2, "parameters": 61_706, "train_images": 9, "test_images": 4}
    scalars |= {"train_sha256": "a" * 64, "test_sha256": "b" * 64, "device": "cpu", "optimizer": "SGD"}
    record = history.new_history(**scalars)
    for epoch in (1, 2):
        figures = dict.fromkeys(history.METRICS, 0.5 / epoch)
        history.add_epoch(record, figures | {"learning_rate": 0.05, "threads": 1, "processes": 1})
    return history.with_digest(record) | changed


def some_arrays(**changed: np.ndarray) -> dict[str, np.ndarray]:
    labels, predictions = np.array([0, 1, 2, 9], np.uint8), np.array([0, 1, 3, 9], np.uint8)
    arrays = {"labels": labels, "predictions": predictions, "confidence": np.full(4, 0.5, np.float32)}
    arrays |= {"log_probability": np.full(4, -0.5, np.float16), "mistake_images": np.zeros((1, 28, 28), np.uint8)}
    return arrays | changed


def write(folder: Path, record: dict, arrays: dict[str, np.ndarray] | None = None) -> Path:
    path = folder / "run.json"
    with open(path, "wb") as file:
        history.write_history(record, file)
    if arrays is not None:
        with open(folder / "run.npz", "wb") as file:
            history.write_arrays(arrays, record, file)
    return path


def refused(read, *arguments: object) -> str:
    with pytest.raises(UserError) as error:
        read(*arguments)
    assert len(str(error.value).splitlines()) <= 2
    assert len(str(error.value)) < 600
    return str(error.value)


# --- the name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "lenet"),
        ({"augment": True}, "lenet_augment"),
        ({"epochs": 1}, "lenet_epochs1"),
        ({"batch_size": 32}, "lenet_batch32"),
        ({"lr": 0.1}, "lenet_lr0.1"),
        ({"lr": 1e-5}, "lenet_lr1e-05"),
        ({"weight_decay": 0.0}, "lenet_decay0.0"),
        ({"classes": 26}, "lenet_classes26"),
        ({"seed": 3}, "lenet_seed3"),
        ({"data": "fashion"}, "lenet-fashion"),
        ({"data": "my digits (2)"}, "lenet-my-digits-2"),
        ({"data": "손글씨 숫자"}, "lenet-손글씨-숫자"),
        ({"data": "../.."}, "lenet-data"),
        ({"data": ""}, "lenet-data"),
        ({"data": "\N{GRINNING FACE}"}, "lenet-data"),
        ({"data": os.fsdecode(b"a\xffb")}, "lenet-a-b"),
        ({"data": "x.weights"}, "lenet-x-weights"),
        (
            {"data": "d", "augment": True, "epochs": 9, "batch_size": 8, "lr": 0.2, "weight_decay": 1.0, "seed": 7},
            "lenet-d_augment_epochs9_batch8_lr0.2_decay1.0_seed7",
        ),
    ],
)
def test_a_name_says_everything_in_which_the_run_differs_from_the_defaults(changed, name):
    assert history.run_name(SETTINGS | changed, main.DEFAULTS) == name
    assert history.is_name(name)


def test_the_longest_name_is_a_name_of_a_file():
    longest = {"model": "lenet_bn", "data": "가" * 300, "augment": True, "epochs": 10**6, "batch_size": 10**6}
    longest |= {"lr": 1.2345678901234567e-300, "weight_decay": 1.2345678901234567e-300, "classes": 256}
    name = history.run_name(SETTINGS | longest | {"seed": 2**63 - 1}, main.DEFAULTS)
    temporary = f".{name}.weights.pt.{2**22}.partial"
    assert len(temporary.encode()) <= 255
    assert history.is_name(name)


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "a b", "a\n", "a.weights", "a" * 201, "가" * 67, "\udcff"])
def test_what_is_no_name(name):
    assert not history.is_name(name)


# --- digest, differences ----------------------------------------------------------------------------------------------


def test_a_digest_is_of_everything_but_the_seconds():
    record = a_history()
    assert history.with_digest(record)["digest"] == record["digest"]
    assert history.with_digest(record | {"seconds": [7.0, 8.0]})["digest"] == record["digest"]
    for field, value in record.items():
        if field not in ("seconds", "digest"):
            assert history.with_digest(record | {field: "another"})["digest"] != record["digest"], (field, value)


def test_runs_differ_in_settings_recipe_and_data_and_in_nothing_else():
    record = a_history()
    for field, value in (("seed", 1), ("lr", 0.1), ("optimizer", "Adam"), ("train_sha256", "c" * 64)):
        (line,) = history.differences(record, record | {field: value})
        assert line.startswith(f"{field} ")
        assert " there, " in line
        assert len(line) < 80
    for field in ("device", "torch_version", "data", "name", "test_loss", "parameters"):
        assert history.differences(record, record | {field: "another"}) == []
    assert history.differences(record, record | {"epochs": 9}, ignore=("epochs",)) == []
    assert history.differences({}, record), "nothing is not the same"


def test_a_resumed_run_names_what_it_was_trained_with_before_and_now():
    saved, now = a_history(device="cuda", torch_version="1.0"), a_history(torch_version="2.0", epochs=5)
    merged = history.resumed(saved, now)
    assert (merged["device"], merged["torch_version"], merged["epochs"]) == ("cuda, cpu", "1.0, 2.0", 5)
    again = history.resumed(merged, now)
    assert (again["device"], again["torch_version"]) == ("cuda, cpu", "1.0, 2.0")
    assert merged["name"] == saved["name"]
    assert merged["test_loss"] == saved["test_loss"]


# --- writing and reading ----------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path):
    record, arrays = a_history(observed=[-1.5, 2.0], initial_x=-3.0), some_arrays()
    path = write(tmp_path, record, arrays)
    assert history.read_history(path) == record
    read = history.read_arrays(tmp_path / "run.npz", record)
    assert all((read[name] == arrays[name]).all() and read[name].dtype == arrays[name].dtype for name in arrays)
    ((found, *_),) = history.read_runs(tmp_path)
    assert found == path


def test_each_field_stands_on_a_line_of_its_own(tmp_path):
    lines = write(tmp_path, a_history()).read_text().splitlines()
    assert (lines[0], lines[-1]) == ("{", "}")
    assert len(lines) == len(a_history()) + 2
    assert any(line.startswith(' "test_loss": [') for line in lines)


def test_a_mix_of_two_runs_is_noticed(tmp_path):
    record = a_history()
    write(tmp_path, record, some_arrays())
    write(tmp_path, history.with_digest(record | {"seed": 1}))
    error = refused(history.read_runs, tmp_path)
    assert "another run" in error
    assert "run.npz" in error


@pytest.mark.parametrize(
    "changed",
    [
        *({field: None} for field in history.SCALARS),
        *({field: True} for field in ("seed", "epochs", "lr", "name")),
        {"augment": 1},
        {"epochs": 0},
        {"epochs": 1},
        {"epochs": 10**400},
        {"lr": 10**400},
        {"weight_decay": -(10**400)},
        {"batch_size": 10**400},
        {"parameters": -1},
        {"seed": 2**64},
        {"test_images": 0},
        {"test_images": 10**9},
        {"classes": 10**9},
        {"classes": 1},
        {"test_loss": None},
        {"test_loss": []},
        {"test_loss": [0.5]},
        {"test_loss": [0.5, 0.5, 0.5]},
        {"test_loss": [0.5, "0.5"]},
        {"test_loss": [0.5, True]},
        {"test_loss": [0.5, -0.1]},
        {"test_loss": [0.5, math.nan]},
        {"test_loss": [0.5, math.inf]},
        {"test_loss": [0.5, 1e300]},
        {"test_loss": [0.5, 10**400]},
        {"train_accuracy": [0.5, 1.01]},
        {"seconds": [1.0, -1.0]},
        {"learning_rate": [0.1]},
        {"observed": [0.5, [0.5]]},
        {"observed": [0.5, -1e300]},
    ],
    ids=lambda changed: f"{next(iter(changed))}={str(next(iter(changed.values())))[:20]}",
)
def test_a_field_that_is_missing_mistyped_or_out_of_range_is_refused(tmp_path, changed):
    record = {name: value for name, value in (a_history() | changed).items() if value is not None}
    path = write(tmp_path, record)
    error = refused(history.read_history, path)
    assert str(path) in error
    assert next(iter(changed)) in error or "train_loss" in error


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000, b'{"epochs": ' + b"9" * 9999],
    ids=["empty", "cut", "list", "null", "binary", "deep lists", "deep objects", "digits"],
)
def test_what_is_no_history_is_an_error_of_a_line_or_two(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    assert str(path) in refused(history.read_history, path)


def test_files_that_are_none_are_errors(tmp_path, monkeypatch):
    (tmp_path / "run.json").mkdir()
    assert "regular file" in refused(history.read_runs, tmp_path)
    (tmp_path / "run.json").rmdir()
    write(tmp_path, a_history())
    (tmp_path / "run.npz").symlink_to("nowhere")
    assert "run.npz" in refused(history.read_runs, tmp_path)
    monkeypatch.setattr(history, "MAX_HISTORY", 100)
    assert "large" in refused(history.read_history, tmp_path / "run.json")
    assert history.read_runs(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": np.zeros(3, np.uint8)},
        {"labels": np.zeros(4, np.int64)},
        {"labels": np.array([0, 1, 2, 10], np.uint8)},
        {"predictions": np.array([0, 1, 2, 10], np.uint8)},
        {"predictions": np.zeros((4, 1), np.uint8)},
        {"confidence": np.zeros(4, np.float64)},
        {"log_probability": np.zeros(5, np.float16)},
        {"mistake_images": np.zeros((2, 28, 28), np.uint8)},
        {"mistake_images": np.zeros((1, 29, 28), np.uint8)},
        {"originals": np.zeros((10, 28, 28), np.uint8)},
        {"c1": np.zeros((2000, 1, 5, 5), np.float32)},
        {"c1": np.zeros((6, 1, 32, 32), np.float32)},
        {"labels": np.array([None] * 4, object)},
    ],
    ids=lambda changed: f"{next(iter(changed))} {next(iter(changed.values())).shape}",
)
def test_an_array_that_does_not_belong_to_the_history_is_refused(tmp_path, changed):
    record = a_history()
    write(tmp_path, record, some_arrays(**changed))
    assert "run.npz" in refused(history.read_arrays, tmp_path / "run.npz", record)


@pytest.mark.parametrize("missing", ["labels", "predictions", "confidence"])
def test_an_array_that_is_missing_is_named(tmp_path, missing):
    record = a_history()
    write(tmp_path, record, {name: value for name, value in some_arrays().items() if name != missing})
    assert missing in refused(history.read_arrays, tmp_path / "run.npz", record)


def test_only_the_arrays_that_are_known_are_read_and_none_larger_than_its_history_says(tmp_path):
    record = a_history()
    write(tmp_path, record, some_arrays())
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(tmp_path / "run.npz", "a") as archive:
        archive.writestr("unknown.npy", header.getvalue())
    assert "unknown" not in history.read_arrays(tmp_path / "run.npz", record)
    with zipfile.ZipFile(tmp_path / "run.npz", "a") as archive:
        archive.writestr("c1.npy", header.getvalue())
    assert "c1" not in history.ARRAYS or "unexpected array" in refused(
        history.read_arrays, tmp_path / "run.npz", record
    )


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_what_is_no_npz_is_an_error(tmp_path, content):
    (tmp_path / "run.npz").write_bytes(content)
    assert "NPZ" in refused(history.read_arrays, tmp_path / "run.npz", a_history())


def test_a_run_without_arrays_has_none(tmp_path):
    assert history.read_arrays(tmp_path / "run.npz", a_history()) == {}


# --- in the middle of a run -------------------------------------------------------------------------------------------


def test_figures_become_plain_numbers_and_have_to_be_finite():
    kept = history.plain({"a": np.float32(0.5), "b": 3, "c": np.float64(-1), "d": np.int64(4)})
    assert kept == {"a": 0.5, "b": 3, "c": -1.0, "d": 4.0}
    assert {type(value) for value in kept.values()} == {int, float}
    for value in (math.nan, math.inf):
        with pytest.raises(UserError, match="observed is"):
            history.plain({"observed": value})


def test_the_summary_names_the_best_and_the_last_epoch():
    record = a_history(test_loss=[0.25, 0.5], test_accuracy=[0.75, 0.5])
    lowest, highest, last = history.summary(record).splitlines()
    assert lowest.endswith("0.2500 in epoch 1")
    assert highest.endswith("75.00% in epoch 1")
    assert last.endswith("0.5000 and 50.00%")


def test_the_committed_histories_are_read():
    folder = Path(main.__file__).parent / "result_plot"
    for place in (folder, folder / "study"):
        assert history.read_runs(place)


def test_the_record_needs_no_torch():
    assert "torch" in sys.modules, "this process has it"
    source = Path(history.__file__).read_text()
    assert "import torch" not in source
    assert json.dumps(a_history())
