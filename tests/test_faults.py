"""Nothing is lost: runs that are interrupted, killed, started twice; full disks; files of another run."""

import itertools
import os
import re
import resource
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import faults
import pytest
import torch
from faults import assert_same, contents
from runs import NAME, After, checkpoint_of, command, history_of, interrupt, refused, start
from torch import nn

import main

FOUR = ("--epochs", "4")

pytestmark = pytest.mark.usefixtures("one_thread", "cheap_picture")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory, cheap_picture) -> Path:
    """The folder of a run of four epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder, small, *FOUR).status == 0
    return folder


@pytest.fixture
def stopped(small, tmp_path) -> Path:
    """The folder of a run of four epochs that Ctrl-C stopped in the middle of the third, to be resumed."""
    train_step, steps = main.train_step, itertools.count(1)

    def interrupted(*arguments):
        if next(steps) == 6:  # 210 images are two batches of 128
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "train_step", interrupted)
        ended = start(tmp_path, small, *FOUR)
    assert (ended.status, ended.err) == (130, "stopped: the same command with --resume goes on\n")
    return tmp_path


@pytest.fixture
def finished(whole, tmp_path) -> Path:
    """A finished run of four epochs, to be replaced."""
    return shutil.copytree(whole, tmp_path, dirs_exist_ok=True)


@pytest.mark.parametrize(("options", "number"), list(zip(faults.RUNS, faults.SIGNALS, strict=True)))
def test_a_killed_run_loses_at_most_the_epoch_in_progress_and_ends_as_if_never_killed(small, tmp_path, options, number):
    """While it writes its second checkpoint; behind its third; before history and picture are renamed."""
    argv = [*options, *FOUR, "--data-dir", str(small), "--device", "cpu"]
    last = 4 * faults.STEPS - 1  # of a checkpoint, weights, arrays and history; then the picture follows
    steps = (faults.STEPS + 1, 2 * faults.STEPS, last, last)  # counted anew in each attempt
    planted = [faults.in_step(step, interrupt(number)) for step in steps]
    assert faults.kill_run(argv, tmp_path / "killed", faults.reference(argv, tmp_path / "whole"), planted) == 4


@pytest.mark.slow
def test_runs_killed_anywhere(sample, tmp_path):
    assert faults.kill_anywhere(sample, tmp_path, wanted=16, seed=1) >= 16


def test_the_harness_sees_what_differs_and_what_is_torn(whole, tmp_path):
    same = {"a": torch.tensor([1.0, 2.0]), "seconds": [1.0], "list": [1, "x", None]}
    assert faults.bits(same) == faults.bits(same | {"seconds": [2.0]})
    for value in (torch.tensor([1.0, 2.0000002]), same["a"].double(), same["a"][None], [1.0, 2.0]):
        assert faults.bits(same) != faults.bits(same | {"a": value})
    for changed in ({"list": [1, "x", 0]}, {"list": [1.0, "x", None]}, {"more": 1}):
        assert faults.bits(same) != faults.bits(same | changed)
    for source in faults.left_behind(whole)[0]:
        (tmp_path / source.name).write_bytes(source.read_bytes()[:-20])
        with pytest.raises(AssertionError, match="cannot be read"):
            faults.check_whole(tmp_path)
        (tmp_path / source.name).unlink()


def test_what_a_run_of_another_name_is_writing_is_not_cleared(small, tmp_path):
    someone_elses = tmp_path / "checkpoints" / f".{NAME}2.pt.77.partial"
    someone_elses.parent.mkdir()
    someone_elses.write_bytes(b"half")
    assert start(tmp_path, small, "--epochs", "1").status == 0
    assert faults.left_behind(tmp_path)[1] == [someone_elses]


def test_an_unfinished_run_is_not_thrown_away_unless_restart_asks_for_it(stopped, small, whole):
    before = checkpoint_of(stopped).read_bytes()
    error = refused(start(stopped, small, *FOUR))
    assert all(word in error for word in ("2 of 4", "--resume", "--restart", str(checkpoint_of(stopped))))
    assert checkpoint_of(stopped).read_bytes() == before
    ended = start(stopped, small, *FOUR, "--restart")
    assert ended.status == 0
    assert "epoch 1/4" in ended.out
    assert_same(stopped, whole)


def test_the_same_command_with_resume_goes_on_and_says_finished(small, stopped, whole, monkeypatch):
    """As in a sweep, or a scheduler's second try."""
    torch.manual_seed(99)  # the state of a new process is another
    assert start(stopped, small, *FOUR, "--resume").status == 0
    assert_same(stopped, whole)
    assert faults.read(stopped / "results" / f"{NAME}.png")[1] == history_of(stopped)["digest"]
    before = {path: path.stat().st_mtime_ns for path in faults.left_behind(stopped)[0]}
    monkeypatch.setattr(main, "Training", None)
    ended = start(stopped, small, *FOUR, "--resume")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[1:] == [f"{NAME} is finished"], "behind what the data are, and no optimizer is made"
    assert before == {path: path.stat().st_mtime_ns for path in faults.left_behind(stopped)[0]}
    shutil.rmtree(stopped / "checkpoints")  # as in a clone that holds the result
    assert start(stopped, small, *FOUR, "--resume").out == ended.out


def test_what_is_lost_or_mixed_up_of_a_finished_run_is_made_again(small, finished, whole):
    weights = finished / "checkpoints" / f"{NAME}.weights.pt"
    state = torch.load(weights, weights_only=True)
    state["history"]["digest"] = "of another training"
    for spoil in (
        (finished / "results" / f"{NAME}.npz").unlink,
        (finished / "results" / f"{NAME}.json").unlink,
        lambda: torch.save(state, weights),
    ):
        spoil()
        assert start(finished, small, *FOUR, "--resume").status == 0
        assert_same(finished, whole)


def test_another_torch_other_threads_and_another_device_are_allowed_and_all_stand_in_the_history(small, stopped):
    state = torch.load(checkpoint_of(stopped), weights_only=True)
    state["history"] |= {"torch_version": "1.13.1", "device": "NVIDIA H100"}
    torch.save(state, checkpoint_of(stopped))
    try:
        assert start(stopped, small, *FOUR, "--resume", "--threads", "2").status == 0
    finally:
        torch.set_num_threads(1)
    record = history_of(stopped)
    assert record["device"] == "NVIDIA H100, cpu"
    assert record["torch_version"].startswith("1.13.1, ")
    assert record["threads"] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("there", "differing", "options"),
    [  # the new one meets a checkpoint; weights; a history
        ("stopped", "network_sha256", ["--resume"]),
        ("finished", "mean", ["--output-dir", "new"]),
        ("finished", "lr", ["--lr", "0.0123", "--checkpoint-dir", "new"]),
    ],
)
def test_another_run_of_the_same_name_is_named_and_nothing_is_replaced(
    small, tmp_path, monkeypatch, request, there, differing, options
):
    """It differs in network, recipe or settings; data: see below."""
    monkeypatch.chdir(request.getfixturevalue(there))
    before = contents(tmp_path)
    if differing == "network_sha256":
        monkeypatch.setitem(main.MODELS, "mlp", lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)))
    if differing == "mean":
        monkeypatch.setattr(main, "MEAN", 0.5)
    error = refused(start(tmp_path, small, *FOUR, *options))
    assert re.search(rf"is of another run: .*\b{differing} \S+ there, \S+ here.*\n.*--name.*--restart", error)
    assert contents(tmp_path) == before


def test_data_are_told_apart_by_what_they_hold_not_by_where_they_lie(small, sample, finished):
    shutil.copytree(small, finished / "moved")
    assert "is finished" in start(finished, finished / "moved", *FOUR, "--resume").out
    assert " train_sha256 " in refused(start(finished, sample, *FOUR, "--resume"))


@pytest.mark.parametrize("path", [f"results/{NAME}.json", f"checkpoints/{NAME}.weights.pt", f"checkpoints/{NAME}.pt"])
def test_what_cannot_be_read_is_refused_and_replaced_by_restart_only(small, finished, whole, path):
    (finished / path).write_bytes(b"my own")
    for options in ([], ["--resume"]):
        assert str(finished / path) in refused(start(finished, small, *FOUR, *options))
        assert (finished / path).read_bytes() == b"my own"
    assert start(finished, small, *FOUR, "--restart").status == 0
    assert_same(finished, whole)


@pytest.mark.parametrize("moved", ["--checkpoint-dir", "--output-dir"])
def test_two_runs_of_one_name_at_the_same_time(small, tmp_path, whole, moved):
    """The second is refused, another name is not; the first run goes on undisturbed."""

    def start_more() -> None:
        with torch.random.fork_rng():
            second = start(tmp_path, small, *FOUR, moved, str(tmp_path / "elsewhere"))
            assert f"another process is training {NAME}" in refused(second)
            assert start(tmp_path, small, "--name", "another").status == 0

    assert start(tmp_path, small, *FOUR, callback=After(2, start_more)).status == 0
    for path in tmp_path.rglob("another*"):
        path.unlink()
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("problem", [RuntimeError("latex could not be found"), OSError(28, "latex: disk full")])
def test_a_picture_that_cannot_be_drawn_costs_the_picture_only(small, finished, monkeypatch, problem):
    monkeypatch.setattr(main.plot, "draw_run", mock.Mock(side_effect=problem))
    ended = start(finished, small, *FOUR, "--lr", "0.01", "--restart")
    assert ended.status == 0
    assert re.fullmatch(r"warning: .*latex.*\n", ended.err)
    assert "plot  " not in ended.out
    assert {path.suffix for path in (finished / "results").glob("m*")} == {".json", ".npz"}, "none of another run"
    assert not checkpoint_of(finished).exists()


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(small, tmp_path, monkeypatch):
    """After the last step of the second epoch, whose own loss is still finite."""
    rate = main.learning_rate
    monkeypatch.setattr(main, "learning_rate", lambda at, steps: 1e38 if at >= 13 else rate(at, steps))
    error = refused(start(tmp_path, small, *FOUR, "--batch-size", "32"))  # 210 images are 7 batches of 32
    assert all(word in error for word in ("epoch 2", "peak learning rate 0.05", "--lr"))
    saved = torch.load(checkpoint_of(tmp_path), weights_only=True)
    assert len(saved["history"]["test_loss"]) == 1
    assert all(value.isfinite().all() for value in saved["network"].values())


RESULT = [".weights.pt", ".npz", ".json"]  # in this order


def allow_no_more_bytes() -> None:
    """No file may grow, which fails as on a full disk (EFBIG in place of ENOSPC)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("number", [0, 4, 5, 6])
def test_a_disk_that_is_full_after_so_many_files(small, tmp_path, whole, number):
    """While a result takes the place of another run's."""
    assert start(tmp_path, small, *FOUR, "--lr", "0.02").status == 0
    before = contents(tmp_path)
    full = faults.in_step(number * faults.STEPS, allow_no_more_bytes) if number else allow_no_more_bytes
    ended = faults.run(command(tmp_path, small, *FOUR, "--restart"), tmp_path, full)
    path = f"{NAME}{(['.pt'] * 4 + RESULT)[number]}"
    assert re.fullmatch(rf"stopped: .* --resume .*\nerror: .*/{path}: cannot be written: File too large\n", ended.err)
    assert ended.status == 1
    assert not faults.left_behind(tmp_path)[1]
    after, replaced = contents(tmp_path), tuple(RESULT[: max(0, number - 4)])
    assert all((after[name] != before[name]) == name.endswith(replaced) for name in before)
    assert start(tmp_path, small, *FOUR, "--resume" if number else "--restart").status == 0
    assert_same(tmp_path, whole)


# --- streams, languages -----------------------------------------------------------------------------------------------

FOLDER = os.fsdecode("숫자 \N{GRINNING FACE}".encode() + b"\xff")  # Korean, an emoji, and a byte that is no text


def test_no_name_of_a_folder_and_no_encoding_of_the_output_makes_a_traceback(small, tmp_path):
    shutil.copytree(small, tmp_path / FOLDER)
    argv = ["--model", "mlp", "--epochs", "1", "--device", "cpu", "--data-dir", FOLDER]
    argv += ["--output-dir", f"{FOLDER}/results", "--checkpoint-dir", f"{FOLDER}/checkpoints"]

    def prepare() -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding="ascii")

    ended = faults.run(argv, tmp_path, prepare)
    assert (ended.status, ended.err) == (0, "")
    assert [path.stem for path in (tmp_path / FOLDER / "results").glob("*.json")] == ["mlp-숫자_epochs1"]
    another = [*argv, "--name", "mlp-숫자_epochs1", "--lr", "1"]
    assert "of another run" in refused(faults.run(another, tmp_path, prepare))


def close_all() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.close(number)
        setattr(sys, name, None)  # as Python does at its start


def nobody_reads() -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)


STREAMS = {  # from the start, or from the first checkpoint on
    "closed": (close_all, 0, ""),
    "without a reader": (faults.in_step(faults.STEPS, nobody_reads), 141, "stopped: .*\n"),
    "full": (
        faults.in_step(faults.STEPS, lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1)),
        1,
        "stopped: .* --resume .*\nerror: standard output: cannot be written: No space left on device\n",
    ),
}


@pytest.mark.parametrize(("lose", "status", "said"), STREAMS.values(), ids=STREAMS)
def test_a_run_whose_streams_are_lost_is_saved(small, tmp_path, whole, lose, status, said):
    """A process of its own, forked."""
    ended = faults.run(command(tmp_path, small, *FOUR), tmp_path, lose)
    assert ended.status == status, ended
    assert re.fullmatch(said, ended.err)
    assert start(tmp_path, small, *FOUR, "--resume").status == 0
    assert_same(tmp_path, whole)
