"""Nothing is lost: runs that are interrupted, killed, started twice; full disks; hostile and damaged checkpoints."""

import contextlib
import errno
import io
import json
import math
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import faults
import matplotlib
import pytest
import torch

import dataset
import main
import model
from support import files
from support.data.images import write_tar
from support.run import checkpoint as support_checkpoint
from support.run.callback import Callback

ROOT = Path(main.__file__).resolve().parent
NAME = "mine"
PATIENCE = 300  # seconds; a run takes a few, and several times that on a machine with other work

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _cheap_picture(monkeypatch):
    """In place of the plot, which takes longer than training on a few images, what it is drawn from."""
    cheap_picture(monkeypatch)


def cheap_picture(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(main.plot, "draw_run", lambda record: record["test_loss"])
    patch.setattr(main.plot, "save", lambda figure, file, digest=None: file.write(repr(figure).encode()))


class Ended:
    """How a command line ended: exit status, and what it printed to stdout and stderr."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


class After(Callback):
    """Acts after that epoch, before its checkpoint is written."""

    def __init__(self, epoch: int, act) -> None:
        self.epochs, self.act = epoch, act

    def on_epoch_end(self, *_) -> dict[str, float]:
        self.epochs -= 1
        if self.epochs == 0:
            self.act()
        return {}


def command_line(folder: Path, data: Path, *options: str, epochs: int = 4, model: str = "mlp") -> list[str]:
    """With all files below `folder`, under NAME unless the options say another."""
    places = ["--output-dir", str(folder / "results"), "--checkpoint-dir", str(folder / "checkpoints")]
    argv = ["--model", model, "--epochs", str(epochs), "--data-dir", str(data), "--device", "cpu", "--name", NAME]
    return [*argv, *places, *options]


def train(folder: Path, data: Path, *options: str, callback: Callback | None = None, **more) -> Ended:
    """Run the command line in this process."""
    return run_here(command_line(folder, data, *options, **more), callback or Callback())


def run_here(argv: list[str], callback: Callback) -> Ended:
    status = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main.main(argv, callback)
        except SystemExit as leave:
            status = leave.code
    return Ended(status, out.getvalue(), err.getvalue())


def interrupt(number: int = signal.SIGINT):
    return lambda: os.kill(os.getpid(), number)


def refused(ended: Ended, status: int = 2) -> str:
    """The error: one or two lines behind `error: `, and no traceback."""
    assert ended.status == status, ended.err
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) <= 2, ended.err
    return ended.err


def contents(folder: Path) -> dict[str, object]:
    """All files that a finished run leaves, and no temporary one."""
    found, temporary = faults.left_behind(folder)
    assert not temporary
    read = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path.read_bytes() if path.suffix == ".png" else faults.read(path) for name, path in read.items()}


def checkpoint(folder: Path, name: str = NAME) -> Path:
    return folder / "checkpoints" / f"{name}.pt"


def assert_same(ours: Path, theirs: Path) -> None:
    assert faults.difference(contents(ours), contents(theirs)) is None


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory) -> Path:
    """The folder of a run of four epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        cheap_picture(patch)
        assert train(folder, small).status == 0
    return folder


@pytest.fixture(scope="module")
def stopped_once(small, tmp_path_factory) -> Path:
    """The folder of a run of four epochs that was stopped after the second; only to be copied."""
    folder = tmp_path_factory.mktemp("stopped")
    assert train(folder, small, callback=After(2, interrupt())).status == 130
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """The same, to be gone on with."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


# --- the harness ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and SIGKILL")
def test_killed_runs():
    """The short form of the harness: see faults.py."""
    command = [sys.executable, str(ROOT / "tests" / "faults.py"), "--kills", "6"]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=4 * PATIENCE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"(\d+) kills, (\d+) of them inside .*; (\d+) runs compared; .* 0 guarantees", ended.stdout)
    assert found, ended.stdout
    kills, inside, rounds = map(int, found.groups())
    assert kills == 6
    assert inside >= 1
    assert rounds >= 3


def test_the_harness_sees_what_differs():
    same = {"a": torch.tensor([1.0, 2.0]), "seconds": [1.0], "list": [1, "x", None]}
    assert faults.difference(same, same | {"seconds": [2.0]}) is None
    assert faults.difference(same, same | {"a": torch.tensor([1.0, 2.0000002])}) == "/a"
    assert faults.difference(same, same | {"list": [1, "x", 0]}) == "/list/2"
    assert faults.difference(same, same | {"more": 1}) == "/"
    assert faults.difference({"a": 1}, {"a": 1.0}) == "/a"


@pytest.mark.parametrize("name", ["a.pt", "a.json", "a.npz", "a.png"])
def test_the_harness_sees_what_is_torn(whole, tmp_path, name):
    with contextlib.suppress(StopIteration):
        source = next(path for path in faults.left_behind(whole)[0] if path.suffix == Path(name).suffix)
        (tmp_path / name).write_bytes(source.read_bytes()[:-20])
    assert len(faults.check_whole(tmp_path)) == 1


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lenet", "mlp", "lenet_bn"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(small, tmp_path, model):
    options = {"model": model, "epochs": 3}
    augment = ["--augment"] if model == "lenet_bn" else []
    assert train(tmp_path / "whole", small, *augment, **options).status == 0
    for epoch, more in ((1, []), (1, ["--resume"])):  # the second counts from where it resumed
        ended = train(tmp_path / "parts", small, *augment, *more, **options, callback=After(epoch, interrupt()))
        assert ended.status == 130
        torch.manual_seed(99)  # the state of a new process is another
    ended = train(tmp_path / "parts", small, *augment, "--resume", **options)
    assert ended.status == 0
    assert "epoch 3/3" in ended.out
    assert "epoch 2/3" not in ended.out
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_an_unfinished_run_is_not_thrown_away(stopped, small):
    before = checkpoint(stopped).read_bytes()
    error = refused(train(stopped, small))
    assert "2 of 4" in error
    assert "--resume" in error
    assert "--restart" in error
    assert str(checkpoint(stopped)) in error
    assert checkpoint(stopped).read_bytes() == before


def test_restart_throws_it_away(stopped, small, whole):
    ended = train(stopped, small, "--restart")
    assert ended.status == 0
    assert "epoch 1/4" in ended.out
    assert_same(stopped, whole)


def test_restart_with_nothing_there_is_a_start(small, tmp_path, whole):
    assert train(tmp_path, small, "--restart").status == 0
    assert_same(tmp_path, whole)


def test_nothing_to_resume(small, tmp_path):
    error = refused(train(tmp_path, small, "--resume"))
    assert str(checkpoint(tmp_path)) in error
    assert "nothing to resume" in error


def test_a_finished_run_cannot_be_resumed(small, tmp_path, whole):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert "finished" in refused(train(tmp_path, small, "--resume"))
    assert_same(tmp_path, whole)


class Looks(Callback):
    """Notes the contents of a folder after every epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []

    def on_epoch_end(self, *_) -> dict[str, float]:
        self.seen.append(contents(self.folder))
        return {}


@pytest.mark.parametrize(("options", "same"), [(["--restart", "--lr", "0.02"], False), ([], True)])
def test_a_finished_result_is_only_replaced_by_another_finished_one(small, tmp_path, whole, options, same):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    first, looks = contents(tmp_path), Looks(tmp_path)
    results = [name for name in first if name.startswith("results/") or "weights" in name]
    assert len(results) == 4
    assert train(tmp_path, small, *options, callback=looks).status == 0
    assert len(looks.seen) == 4
    assert all(faults.difference(moment[name], first[name]) is None for moment in looks.seen for name in results)
    assert all((faults.difference(contents(tmp_path)[name], first[name]) is None) == same for name in results)


def test_a_finished_result_survives_an_interrupted_second_run(small, tmp_path, whole):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert train(tmp_path, small, callback=After(2, interrupt())).status == 130
    ours, theirs = contents(tmp_path), contents(whole)
    names = [name for name in theirs if name != f"checkpoints/{NAME}.pt"]
    assert all(faults.difference(ours[name], theirs[name]) is None for name in names)


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("--batch-size", "50", "batch_size"),
        ("--lr", "0.0123", "lr"),
        ("--weight-decay", "0.0321", "weight_decay"),
    ],
)
def test_another_configuration_is_named(stopped, small, option, value, key):
    before = checkpoint(stopped).read_bytes()
    error = refused(train(stopped, small, "--resume", option, value))
    assert f"{key} " in error
    assert f"{value} here" in error
    assert checkpoint(stopped).read_bytes() == before


def test_epochs_may_grow_before_the_learning_rate_falls(small, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "WARMUP_STEPS", 1)  # else so short a run still climbs, at a rate of its own
    stopped = tmp_path
    assert train(stopped, small, callback=After(2, interrupt())).status == 130
    ended = train(stopped, small, "--resume", epochs=6)
    assert ended.status == 0
    assert "epoch 3/6" in ended.out
    history = contents(stopped)[f"results/{NAME}.json"]
    assert history["epochs"] == len(history["test_loss"]) == 6


def test_epochs_may_not_change_while_the_learning_rate_climbs_at_a_rate_of_its_own(stopped, small):
    before = checkpoint(stopped).read_bytes()
    assert "learning rate" in refused(train(stopped, small, "--resume", epochs=6))
    assert checkpoint(stopped).read_bytes() == before


def test_epochs_may_not_change_once_the_learning_rate_falls(small, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "WARMUP_STEPS", 1)
    assert train(tmp_path, small, epochs=10, callback=After(9, interrupt())).status == 130
    before = checkpoint(tmp_path).read_bytes()
    for epochs in (9, 20):
        error = refused(train(tmp_path, small, "--resume", epochs=epochs))
        assert "epochs" in error
        assert "10" in error
    assert checkpoint(tmp_path).read_bytes() == before
    assert train(tmp_path, small, "--resume", epochs=10).status == 0


def test_epochs_may_not_shrink_below_what_is_done(stopped, small):
    for epochs in (1, 2):
        assert "epochs" in refused(train(stopped, small, "--resume", epochs=epochs))


@pytest.fixture(scope="module")
def other(small, tmp_path_factory) -> Path:
    """A folder of the same name, with other training images."""
    folder = tmp_path_factory.mktemp("other") / small.name
    folder.mkdir()
    shutil.copy(small / "test.tar", folder)
    whole = dataset.MNIST(small / "train.tar")
    write_tar(folder / "train.tar", "train", whole.images.flip(0), whole.labels.flip(0))
    return folder


def test_other_data_are_named(stopped, small, other):
    error = refused(train(stopped, other, "--resume"))
    assert "train_sha256" in error
    assert "test_sha256" not in error


def test_a_checkpoint_of_another_model_or_seed_is_named(stopped, small):
    for options, name, differing in (
        ({"model": "lenet"}, "lenet", ["model mlp there, lenet here"]),
        ({}, "mlp_seed4", ["seed 0 there, 4 here"]),
    ):
        shutil.copy(checkpoint(stopped), checkpoint(stopped, name))
        seed = ["--seed", "4"] if "seed" in name else []
        error = refused(train(stopped, small, "--resume", "--name", name, *seed, **options))
        assert all(difference in error for difference in differing)
        assert str(checkpoint(stopped, name)) in error


def test_resume_finds_the_run_by_everything_but_its_epochs_and_keeps_its_name(small, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "WARMUP_STEPS", 1)
    places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    argv = ["--model", "mlp", "--data-dir", str(small), "--device", "cpu", *places]

    def start(*options: str, callback: Callback | None = None) -> Ended:
        return run_here([*argv, *options], callback or Callback())

    assert start("--epochs", "4", callback=After(2, interrupt())).status == 130
    ended = start("--epochs", "6", "--resume")
    assert ended.status == 0, ended.err
    assert "mlp-small_epochs4: " in ended.out
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        f"mlp-small_epochs4.{ending}" for ending in ("json", "npz", "png")
    }
    assert len(json.loads((tmp_path / "results" / "mlp-small_epochs4.json").read_text())["test_loss"]) == 6

    for epochs in ("8", "9"):
        assert start("--epochs", epochs, callback=After(1, interrupt())).status == 130
    error = refused(start("--epochs", "7", "--resume"))
    assert "mlp-small_epochs8, mlp-small_epochs9" in error
    assert "--name" in error
    assert start("--epochs", "8", "--resume").status == 0, "the one that is named is meant"
    error = refused(start("--epochs", "9", "--resume", "--lr", "0.01"))
    assert "nothing to resume" in error, "another rate is another run"
    error = refused(start("--epochs", "10", "--resume", "--name", "mlp-small_epochs10"))
    assert "mlp-small_epochs10.pt: not found" in error, "a name that was given is meant as it stands"


# --- what a finished run has left ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--lr", "0.01"], ["--seed", "1"], ["--augment"], ["--model", "lenet"]])
@pytest.mark.parametrize("elsewhere", ["--output-dir", "--checkpoint-dir", None])
def test_another_runs_result_is_not_replaced(small, tmp_path, whole, options, elsewhere):
    """Whether its history, its checkpoint and weights, or all of them are found."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    more = [elsewhere, str(tmp_path / "new")] if elsewhere else []
    error = refused(train(tmp_path, small, *options, *more))
    assert "--name" in error
    assert "--restart" in error
    assert re.search(r" \S+ there, \S+ here", error)
    assert faults.difference(contents(tmp_path), before) is None


def test_a_result_of_other_epochs_or_other_data_is_not_replaced_either(small, other, tmp_path, whole):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert "epochs 4 there, 1 here" in refused(train(tmp_path, small, epochs=1))
    assert "train_sha256" in refused(train(tmp_path, other))
    assert_same(tmp_path, whole)


def test_data_are_told_apart_by_what_they_hold_not_by_where_they_lie(small, tmp_path, whole):
    shutil.copytree(whole, tmp_path / "run")
    shutil.copytree(small, tmp_path / "moved")
    assert train(tmp_path / "run", tmp_path / "moved").status == 0


def test_restart_replaces_another_runs_result(small, tmp_path, whole):
    assert train(tmp_path, small, "--lr", "0.01").status == 0
    assert train(tmp_path, small, "--restart").status == 0
    assert_same(tmp_path, whole)


def test_a_result_that_cannot_be_read_is_not_replaced(small, tmp_path, whole):
    for name, content in ((f"results/{NAME}.json", b"{"), (f"checkpoints/{NAME}.weights.pt", b"weights of my own")):
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path / name) in refused(train(tmp_path, small))
        assert (tmp_path / name).read_bytes() == content
    assert train(tmp_path, small, "--restart").status == 0
    assert_same(tmp_path, whole)


def test_weights_and_history_come_before_the_picture_and_the_finished_mark_last(small, tmp_path, monkeypatch):
    replace, names = files.replace, []

    def noted(path, write):
        names.append(Path(path).name)
        replace(path, write)

    monkeypatch.setattr(files, "replace", noted)
    assert train(tmp_path, small, epochs=1).status == 0
    endings = [name.removeprefix(NAME) for name in names]
    assert endings == [".pt", ".weights.pt", ".npz", ".json", ".png", ".pt"]


def test_all_files_of_a_run_name_its_digest(small, tmp_path, monkeypatch):
    monkeypatch.undo()
    assert train(tmp_path, small, epochs=1).status == 0
    read = {path.suffix: faults.read(path) for path in faults.left_behind(tmp_path)[0] if path.name != f"{NAME}.pt"}
    assert len({content["digest"] for content in read.values()}) == 1
    assert set(read) == {".json", ".npz", ".png", ".pt"}
    assert not faults.mixed(tmp_path)


@pytest.mark.skipif(shutil.which("latex") is not None, reason="needs a machine without LaTeX")
def test_a_picture_that_cannot_be_drawn_costs_the_picture_only(small, tmp_path, monkeypatch, whole):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)

    def no_latex(*_):
        raise RuntimeError("Failed to process string with tex because latex could not be found")

    monkeypatch.setattr(main.plot, "draw_run", no_latex)
    ended = train(tmp_path, small, "--lr", "0.01", "--restart")
    assert ended.status == 0
    assert ended.err.startswith("warning: ")
    assert len(ended.err.splitlines()) == 1
    assert "latex" in ended.err
    assert "plot  " not in ended.out
    assert {path.suffix for path in (tmp_path / "results").iterdir()} == {".json", ".npz"}, "no picture of another run"
    assert torch.load(checkpoint(tmp_path), weights_only=True)["finished"]


@pytest.mark.skipif(shutil.which("latex") is not None, reason="needs a machine without LaTeX")
def test_the_users_settings_of_matplotlib_cost_nothing_but_the_picture(small, tmp_path, monkeypatch):
    monkeypatch.undo()
    with matplotlib.rc_context({"text.usetex": True, "font.family": "no such font"}):
        ended = train(tmp_path, small, epochs=1)
    assert ended.status == 0
    assert {".json", ".npz"} <= {path.suffix for path in (tmp_path / "results").iterdir()}


def test_the_name_of_a_result_is_held_whatever_the_checkpoint_folder(small, tmp_path, whole):
    second: list[Ended] = []

    def start_another() -> None:
        state = torch.get_rng_state()
        for option in ("--checkpoint-dir", "--output-dir"):
            second.append(train(tmp_path, small, option, str(tmp_path / "elsewhere")))
        torch.set_rng_state(state)

    assert train(tmp_path, small, callback=After(2, start_another)).status == 0
    assert len(second) == 2
    for ended in second:
        assert "another process" in refused(ended)
    (tmp_path / "elsewhere").rmdir()
    assert_same(tmp_path, whole)


# --- checkpoints that nobody should trust -----------------------------------------------------------------------------


class Malicious:
    """Unpickling this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def damaged(kind: str, good: bytes, marker: Path) -> bytes:
    if kind == "cut":
        return good[: len(good) // 2]
    if kind == "empty":
        return b""
    if kind == "text":
        return b"this is no checkpoint\n"
    if kind == "plain pickle":
        return pickle.dumps({"history": Malicious(marker)}, protocol=2)  # the one that torch expects
    state = torch.load(io.BytesIO(good), weights_only=True)
    if kind == "malicious":
        state["history"]["train_loss"] = Malicious(marker)
    elif kind == "a list":
        state = [state]
    elif kind == "no optimizer":
        del state["optimizer"]
    elif kind == "lists of two lengths":
        state["history"]["test_loss"].append(0.1)
    elif kind == "a history of one field":
        state["history"] = {"epochs": 4}
    elif kind == "a text for a number":
        state["history"]["seed"] = "zero"
    elif kind == "a list for a number":
        state["history"]["parameters"] = [1, 2]
    elif kind == "a tensor in the history":
        state["history"]["more"] = torch.zeros(3)
    elif kind == "figures without sense":
        state["history"]["test_accuracy"] = [2.0, 3.0]
    elif kind == "no weights but numbers":
        state["network"] = {"f1.weight": 3.0}
    elif kind == "sparse weights":
        state["average"] = {name: value.to_sparse() for name, value in state["average"].items()}
    elif kind == "NaN in the weights":
        state["network"]["f1.bias"][3] = math.nan
    elif kind == "infinite averaged weights":
        state["average"]["f1.bias"][3] = math.inf
    elif kind == "NaN in the optimizer":
        state["optimizer"]["state"][0]["momentum_buffer"][0] = math.nan
    elif kind == "NaN in the history":
        state["history"]["test_loss"][1] = math.nan
    elif kind == "another network":
        state["network"] = main.MODELS["lenet"]().state_dict()
    elif kind == "an optimizer of another network":
        state["optimizer"]["param_groups"][0]["params"].pop()
    elif kind == "a scheduler without its steps":
        del state["scheduler"]["last_epoch"]
    elif kind == "a scheduler of text":
        state["scheduler"]["last_epoch"] = "many"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


UNREADABLE = ("malicious", "plain pickle", "cut", "empty", "text", "a list", "no optimizer", "lists of two lengths")
FOREIGN = (
    *("a history of one field", "a text for a number", "a list for a number", "a tensor in the history"),
    *("figures without sense", "no weights but numbers", "sparse weights"),
)
NOT_FINITE = ("NaN in the weights", "infinite averaged weights", "NaN in the optimizer", "NaN in the history")
CHANGED = ("another network", "an optimizer of another network", "a scheduler without its steps", "a scheduler of text")


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("kind", [*UNREADABLE, *FOREIGN, *NOT_FINITE, *CHANGED])
def test_a_bad_checkpoint_is_refused_and_never_executed(small, tmp_path, stopped_once, kind):
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    bad = damaged(kind, checkpoint(tmp_path).read_bytes(), tmp_path / "executed")
    checkpoint(tmp_path).write_bytes(bad)
    for options in ([], ["--resume"]) if kind not in CHANGED else (["--resume"],):
        error = refused(train(tmp_path, small, *options))
        assert str(checkpoint(tmp_path)) in error
        assert "--restart" in error
        assert kind not in NOT_FINITE or "finite" in error
        assert "--lr" not in error
        if kind in CHANGED:
            assert "not the one of now" in error
            assert "damaged" not in error
        assert checkpoint(tmp_path).read_bytes() == bad, "the user's to throw away"
    assert not (tmp_path / "executed").exists()


def test_a_bad_checkpoint_is_replaced_by_restart(stopped, small, whole):
    checkpoint(stopped).write_bytes(b"this is no checkpoint")
    assert train(stopped, small, "--restart").status == 0
    assert_same(stopped, whole)


def test_another_network_or_optimizer_is_said_as_that(stopped, small, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(main.MODELS, "mlp", wider)
        error = refused(train(stopped, small, "--resume"))
        assert "its network is not the one of now" in error
        assert "f2.weight" in error or "f3.weight" in error
    for other in (torch.optim.Adam, torch.optim.RMSprop, torch.optim.AdamW):
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim, "SGD", lambda parameters, lr, other=other, **_: other(parameters, lr))
            error = refused(train(stopped, small, "--resume"))
        assert "its optimizer is not the one of now" in error
        assert "damaged" not in error
    assert train(stopped, small, "--resume").status == 0


def wider(classes: int = 10):
    network = model.CustomMLP()
    network.f2, network.f3 = torch.nn.Linear(44, 121), torch.nn.Linear(121, 84)
    return network


def test_a_checkpoint_as_large_as_memory_is_not_unpacked(stopped, small, monkeypatch):
    monkeypatch.setattr(support_checkpoint, "MAX_CHECKPOINT", 10_000)
    assert str(checkpoint(stopped)) in refused(train(stopped, small, "--resume"))


@pytest.mark.skipif(os.name != "posix", reason="needs a FIFO")
def test_a_checkpoint_that_is_no_regular_file_is_not_waited_for(small, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(checkpoint(tmp_path))
    assert "regular file" in refused(train(tmp_path, small, "--resume"))


# --- what may change on resume ----------------------------------------------------------------------------------------


def test_another_torch_other_threads_and_another_device_are_allowed_and_all_stand_in_the_history(small, tmp_path):
    assert train(tmp_path, small, callback=After(2, interrupt())).status == 130
    state = torch.load(checkpoint(tmp_path), weights_only=True)
    state["history"] |= {"torch_version": "1.13.1", "device": "NVIDIA H100"}
    torch.save(state, checkpoint(tmp_path))
    try:
        assert train(tmp_path, small, "--resume", "--threads", "2").status == 0
    finally:
        torch.set_num_threads(1)
    record = json.loads((tmp_path / "results" / f"{NAME}.json").read_text())
    assert record["device"] == "NVIDIA H100, cpu"
    assert record["torch_version"].startswith("1.13.1, ")
    assert record["threads"] == [1, 1, 2, 2]
    assert record["processes"] == [1, 1, 1, 1]
    assert ", " not in record["numpy_version"], "what did not change is named once"


def test_the_malicious_pickle_would_work(tmp_path):
    """Else the test above would show nothing."""
    pickle.loads(pickle.dumps(Malicious(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_step_with_what_is_done(small, tmp_path, monkeypatch, number):
    original, steps = main.F.cross_entropy, []

    def counted(logits, labels, **options):
        if logits.requires_grad:
            steps.append(len(labels))
            if sum(steps) == 210 * 2 + 32:  # after the first step of the third epoch
                os.kill(os.getpid(), number)
        return original(logits, labels, **options)

    monkeypatch.setattr(main.F, "cross_entropy", counted)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ended = train(tmp_path, small, "--batch-size", "32")
    assert ended.status == 128 + number
    assert sum(steps) == 210 * 2 + 32, "not one step more"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert ended.err == ""
    tail = ended.out.partition("epoch 2/4")[2]
    assert "2 of 4 epochs" in tail
    assert str(checkpoint(tmp_path)) in tail
    saved = torch.load(checkpoint(tmp_path), weights_only=True)["history"]
    assert len(saved["test_loss"]) == 2
    assert f"{min(saved['test_loss']):.4f}" in tail
    assert f"{max(saved['test_accuracy']):.2%}" in tail
    assert f"--name {NAME}" in tail.partition("go on with: python main.py --model mlp ")[2]
    assert tail.endswith(" --resume\n")


def test_stopped_before_the_first_epoch_is_complete(small, tmp_path, monkeypatch):
    original = main.F.cross_entropy

    def interrupted(logits, labels, **options):
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(main.F, "cross_entropy", original)
        return original(logits, labels, **options)

    monkeypatch.setattr(main.F, "cross_entropy", interrupted)
    ended = train(tmp_path, small, "--batch-size", "32")
    assert ended.status == 130
    assert "nothing is saved" in ended.out
    assert "--resume" not in ended.out
    assert train(tmp_path, small, "--batch-size", "32").status == 0


def test_the_command_that_is_printed_resumes(tmp_path, sample):
    """The real program, in a pipe, in a folder whose name the shell would take apart."""
    folder = tmp_path / "a folder; with 'signs'"
    folder.mkdir()
    command = [str(ROOT / "main.py"), "--model", "mlp", "--epochs", "8", "--data-dir", str(sample), "--device", "cpu"]
    command += ["--output-dir", str(folder / "results"), "--checkpoint-dir", "ch eck"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/8"):
                process.send_signal(signal.SIGTERM)
                break
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert "Traceback" not in err
    printed = re.search(r"^go on with: (python .*)$", out, re.MULTILINE)
    python, *arguments = shlex.split(printed[1])
    assert python == "python"
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert "epoch 2/8" not in ended.stdout
    history = json.loads((folder / "results" / "mlp-sample_epochs8.json").read_text())
    assert len(history["test_loss"]) == 8


def test_a_second_signal_stops_at_once_tears_nothing_and_leaves_the_host_alive(small, tmp_path, whole, monkeypatch):
    """Both arrive while the checkpoint of the second epoch is being written, as if typed into a notebook."""
    fsync, handlers = os.fsync, signal.getsignal(signal.SIGINT)

    def twice(descriptor: int) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        fsync(descriptor)

    ended = train(tmp_path, small, callback=After(2, lambda: monkeypatch.setattr(os, "fsync", twice)))
    monkeypatch.setattr(os, "fsync", fsync)
    assert ended.status == 130
    assert signal.getsignal(signal.SIGINT) is handlers
    assert "1 of 4 epochs are saved" in ended.out, "the second was not"
    assert faults.left_behind(tmp_path)[1] == []
    assert len(torch.load(checkpoint(tmp_path), weights_only=True)["history"]["test_loss"]) == 1
    assert train(tmp_path, small, "--resume").status == 0
    assert_same(tmp_path, whole)


def test_two_signals_in_the_first_epochs_checkpoint_save_nothing_and_say_so(small, tmp_path, monkeypatch):
    def twice(descriptor: int) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    ended = train(tmp_path, small, callback=After(1, lambda: monkeypatch.setattr(os, "fsync", twice)))
    assert ended.status == 143
    assert "nothing is saved" in ended.out
    assert "--resume" not in ended.out


# --- losses, disks, folders -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path, monkeypatch):
    rate = main.learning_rate
    third_step = 7 + 2  # of the second epoch: 210 images are 7 batches of 32
    monkeypatch.setattr(main, "learning_rate", lambda step, steps: 1e30 if step > third_step else rate(step, steps))
    error = refused(train(tmp_path, small, "--batch-size", "32"))
    assert "epoch 2" in error
    assert "step 4 of 7" in error, "the first after the step that broke it"
    assert "highest learning rate 0.05" in error
    assert "lower --lr" in error
    saved = torch.load(checkpoint(tmp_path), weights_only=True)
    assert len(saved["history"]["test_loss"]) == 1
    assert all(value.isfinite().all() for value in saved["network"].values())


def test_weights_that_the_last_step_of_an_epoch_broke_are_not_saved(small, tmp_path, monkeypatch):
    """The epoch's own loss was still finite."""
    rate = main.learning_rate
    last_step = 7 + 6  # of the second epoch: 210 images are 7 batches of 32

    def explode(step, steps):
        return 1e38 if last_step <= step <= 14 else rate(step, steps)

    monkeypatch.setattr(main, "learning_rate", explode)
    error = refused(train(tmp_path, small, "--batch-size", "32"))
    assert "epoch 2" in error
    assert "--lr" in error
    saved = torch.load(checkpoint(tmp_path), weights_only=True)
    assert len(saved["history"]["test_loss"]) == 1
    assert all(value.isfinite().all() for value in saved["network"].values())


@pytest.mark.parametrize(
    ("option", "value"), [("--lr", "1e30"), ("--weight-decay", "1e30"), ("--weight-decay", "1000")]
)
def test_the_option_that_makes_it_diverge_is_named(small, tmp_path, option, value):
    error = refused(train(tmp_path, small, option, value, "--batch-size", "10"))
    assert f"lower {option};" in error
    assert "epoch 1" in error
    assert not (tmp_path / "results" / f"{NAME}.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs a limit to the size of files")
@pytest.mark.parametrize("number", range(1, 10))
def test_a_disk_that_is_full(small, tmp_path, whole, monkeypatch, number):
    """Nine files are written: four checkpoints, weights, three results, and the checkpoint marked as finished.

    A file that may not grow fails as on a full disk (EFBIG in place of ENOSPC).
    """
    shutil.copytree(whole, tmp_path / "run")
    before = contents(tmp_path / "run")
    replace, calls = files.replace, []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(path, write):
        calls.append(path)
        if len(calls) >= number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        try:
            replace(path, write)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(files, "replace", full)
    error = refused(train(tmp_path / "run", small), status=1)
    assert len(calls) == number
    assert calls[-1].name in error
    after = contents(tmp_path / "run")
    assert after.keys() == before.keys()
    assert ("--resume" in error) == (number > 1)
    not_yet = [name for name in before if name not in {path.relative_to(tmp_path / "run").as_posix() for path in calls}]
    assert all(faults.difference(after[name], before[name]) is None for name in not_yet)

    monkeypatch.setattr(files, "replace", replace)
    assert train(tmp_path / "run", small, *(["--resume"] if number > 1 else [])).status == 0
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("name", ["results", "checkpoints"])
def test_a_folder_that_vanishes(small, tmp_path, whole, name):
    ended = train(tmp_path, small, callback=After(2, lambda: shutil.rmtree(tmp_path / name)))
    error = refused(ended, status=1)
    assert str(tmp_path / name) in error
    assert "folder is gone" in error
    assert ("--resume" in error) == (name == "results")
    assert train(tmp_path, small, *(["--resume"] if name == "results" else [])).status == 0
    assert_same(tmp_path, whole)


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_two_runs_at_the_same_time(small, tmp_path, whole):
    """The same name is refused, another is not; the first run goes on undisturbed."""
    second, other = [], []

    def start_more() -> None:
        state = torch.get_rng_state()
        second.append(train(tmp_path, small))
        other.append(train(tmp_path, small, "--seed", "1", "--name", f"{NAME}_seed1"))
        torch.set_rng_state(state)

    first = train(tmp_path, small, callback=After(2, start_more))
    error = refused(second[0])
    assert "another process" in error
    assert NAME in error
    assert "--checkpoint-dir" not in error, "which would not help"
    assert (first.status, other[0].status) == (0, 0)
    assert len(json.loads((tmp_path / "results" / f"{NAME}_seed1.json").read_text())["test_loss"]) == 4
    for path in tmp_path.rglob(f"*{NAME}_seed1*"):
        path.unlink()
    assert_same(tmp_path, whole)


def test_what_a_killed_run_left_is_cleared(small, tmp_path):
    for folder, name in (("results", f".{NAME}.json.123.partial"), ("checkpoints", f".{NAME}.pt.123.partial")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"half")
    someone_elses = tmp_path / "checkpoints" / ".mine2.pt.77.partial"
    someone_elses.write_bytes(b"being written by a run of another name")
    assert train(tmp_path, small, epochs=1).status == 0
    assert faults.left_behind(tmp_path)[1] == [someone_elses]


# --- file systems ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_a_file_system_without_locks_costs_a_warning_for_each_folder(small, tmp_path, whole, monkeypatch):
    def cannot(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", cannot)
    monkeypatch.setattr(files, "_warned", set())
    ended = train(tmp_path, small)
    assert ended.status == 0
    assert [line.startswith("warning: ") and "cannot lock" in line for line in ended.err.splitlines()] == [True, True]
    assert_same(tmp_path, whole)


def test_a_system_that_knows_no_locks_costs_a_warning(small, tmp_path, whole, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(files, "_warned", set())
    ended = train(tmp_path, small)
    assert ended.status == 0
    assert len(ended.err.splitlines()) == 1
    assert "lock" in ended.err
    assert_same(tmp_path, whole)


@pytest.mark.skipif(os.name != "posix", reason="other systems flush no folders")
def test_a_folder_that_cannot_be_flushed_costs_a_warning(small, tmp_path, whole, monkeypatch):
    fsync = os.fsync

    def of_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    monkeypatch.setattr(files, "_warned", set())
    ended = train(tmp_path, small)
    assert ended.status == 0
    assert [line.startswith("warning: ") and "flush" in line for line in ended.err.splitlines()] == [True, True]
    assert_same(tmp_path, whole)


def test_a_folder_over_a_thousand_levels_deep(small, tmp_path, monkeypatch):
    """Deeper than Python recurses, and shutil.rmtree, which pytest calls."""
    monkeypatch.chdir(tmp_path)
    assert train(tmp_path, small, "--output-dir", "a/" * 1100, epochs=1).status == 0
    deep = Path(*["a"] * 550)
    (deep / "a").rename("b")
    shutil.rmtree("a")
    shutil.rmtree("b")


def test_a_folder_whose_name_is_too_long(small, tmp_path):
    for option in ("--output-dir", "--checkpoint-dir"):
        assert "choose another folder" in refused(train(tmp_path, small, option, str(tmp_path / ("a" * 300))))


# --- streams, languages ----------------------------------------------------------------------------------------------


class Stream(io.TextIOWrapper):
    """Standard output of a program that is started with PYTHONIOENCODING."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def content(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


NAMES = {"Korean": "숫자 손글씨", "emoji": "digits \N{GRINNING FACE}", "bytes": os.fsdecode(b"digits \xff\xb0")}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems take no such names")
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "cp949", "ascii"])
@pytest.mark.parametrize("kind", NAMES)
def test_no_name_of_a_folder_and_no_encoding_of_the_output_makes_a_traceback(
    small, tmp_path, monkeypatch, kind, encoding
):
    monkeypatch.chdir(tmp_path)
    data = Path(NAMES[kind])
    shutil.copytree(small, data)
    argv = ["--model", "mlp", "--epochs", "2", "--device", "cpu", "--data-dir", str(data)]
    argv += ["--output-dir", f"{data}/results", "--checkpoint-dir", f"{data}/checkpoints"]
    out, err = Stream(encoding), Stream(encoding)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for more, callback, status in (
            ([], After(1, interrupt()), 130),
            ([], Callback(), 2),
            (["--resume"], Callback(), 0),
            (["--lr", "1e30", "--name", "x"], Callback(), 2),
        ):
            try:
                main.main([*argv, *more], callback)
                found = 0
            except SystemExit as leave:
                found = leave.code
            assert found == status
    assert "epoch 2/2" in out.content()
    assert "unfinished run" in err.content()
    (written,) = (data / "results").glob("*.json")
    assert json.loads(written.read_text())["data"] == data.name
    expected = {"Korean": "mlp-숫자-손글씨_epochs2", "emoji": "mlp-digits_epochs2", "bytes": "mlp-digits_epochs2"}
    assert written.stem == expected[kind]
    if encoding == "utf-8" and kind != "bytes":
        assert str(data) in out.content(), "what can be shown is"
    if encoding == "ascii":
        assert "\\" in out.content(), "what cannot is escaped"


def start(folder: Path, data: Path, redirect: str, *options: str) -> subprocess.CompletedProcess:
    """The real program in a shell that redirects it."""
    argv = command_line(folder, data, *options, epochs=2)
    command = f"{shlex.join([sys.executable, str(ROOT / 'main.py'), *argv])} {redirect}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE, env=environment)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", ">&- 2>&- <&-"])
def test_a_run_goes_on_where_nobody_hears_its_errors(small, tmp_path, redirect):
    (tmp_path / "results").mkdir()
    ended = start(tmp_path, small, redirect)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert len(json.loads((tmp_path / "results" / f"{NAME}.json").read_text())["test_loss"]) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_a_full_standard_output_is_said_and_the_run_is_saved(small, tmp_path):
    ended = start(tmp_path, small, ">/dev/full")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: standard output: ")
    assert len(ended.stderr.splitlines()) <= 2


@pytest.mark.skipif(os.name != "posix", reason="needs SIGPIPE")
def test_a_closed_pipe_ends_the_run_as_it_does_elsewhere_and_the_run_is_saved(small, tmp_path):
    ended = start(tmp_path, small, "| grep -m 1 '^epoch 1'; exit ${PIPESTATUS[0]}")
    assert ended.returncode == 128 + signal.SIGPIPE
    assert ended.stderr == ""
    assert len(torch.load(checkpoint(tmp_path), weights_only=True)["history"]["test_loss"]) >= 1
    assert train(tmp_path, small, "--resume", epochs=2).status in (0, 2), "2 where it was through by then"
    assert (tmp_path / "results" / f"{NAME}.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs trap")
def test_an_interrupt_that_was_ignored_on_purpose_stays_ignored(small, tmp_path, whole, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended = train(tmp_path, small, callback=After(2, interrupt()))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.status == 0
    assert_same(tmp_path, whole)
