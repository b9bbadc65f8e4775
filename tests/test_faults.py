"""Nothing is lost: runs that are interrupted, killed, started twice; full disks; hostile and damaged checkpoints."""

import contextlib
import io
import json
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import faults
import pytest
import torch

import dataset
import files
import main

ROOT = Path(main.__file__).resolve().parent
NAME = "mlp"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _cheap_picture(monkeypatch):
    """In place of the plot, which takes longer than training on a few images, what it is drawn from."""
    monkeypatch.setattr(main.plot, "draw_run", lambda history: history["test_loss"])
    monkeypatch.setattr(main.plot, "save", lambda figure, file: file.write(repr(figure).encode()))


class Ended:
    """How a command line ended: exit status, and what it printed to stdout and stderr."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def train(folder: Path, data: Path, *options: str, observe=None, epochs: int = 4, model: str = NAME) -> Ended:
    """Run the command line, its files below `folder`."""
    places = ["--output-dir", str(folder / "results"), "--checkpoint-dir", str(folder / "checkpoints")]
    argv = ["--model", model, "--epochs", str(epochs), "--data-dir", str(data), "--device", "cpu", *places, *options]
    status = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main.main(argv, observe)
        except SystemExit as leave:
            status = leave.code
    return Ended(status, out.getvalue(), err.getvalue())


def at_epoch(number: int, act):
    """An observer that acts after that epoch, before its checkpoint is written."""
    calls = []

    def observe(*_) -> dict:
        calls.append(None)
        if len(calls) == number:
            act()
        return {}

    return observe


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
        patch.setattr(main.plot, "draw_run", lambda history: history["test_loss"])
        patch.setattr(main.plot, "save", lambda figure, file: file.write(repr(figure).encode()))
        assert train(folder, small).status == 0
    return folder


@pytest.fixture
def stopped(small, tmp_path) -> Path:
    """The folder of a run of four epochs that was stopped after the second."""
    assert train(tmp_path, small, observe=at_epoch(2, interrupt())).status == 130
    return tmp_path


# --- the harness ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and SIGKILL")
def test_killed_runs():
    """The short form of the harness: see faults.py."""
    command = [sys.executable, str(ROOT / "tests" / "faults.py"), "--kills", "6"]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
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
        ended = train(tmp_path / "parts", small, *augment, *more, **options, observe=at_epoch(epoch, interrupt()))
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


def test_a_finished_result_is_only_replaced_by_another_finished_one(small, tmp_path):
    assert train(tmp_path, small, epochs=1).status == 0
    first = contents(tmp_path)
    results = [name for name in first if name.startswith("results/") or "weights" in name]
    assert len(results) == 4
    seen = []

    def look(*_) -> dict:
        seen.append(contents(tmp_path))
        return {}

    assert train(tmp_path, small, epochs=3, observe=look).status == 0
    assert len(seen) == 3
    assert all(faults.difference(moment[name], first[name]) is None for moment in seen for name in results)
    assert all(faults.difference(contents(tmp_path)[name], first[name]) for name in results)


def test_a_finished_result_survives_an_interrupted_second_run(small, tmp_path, whole):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert train(tmp_path, small, epochs=9, observe=at_epoch(2, interrupt())).status == 130
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


def test_epochs_may_grow_before_the_learning_rate_falls(stopped, small):
    ended = train(stopped, small, "--resume", epochs=6)
    assert ended.status == 0
    assert "epoch 3/6" in ended.out
    history = contents(stopped)[f"results/{NAME}.json"]
    assert history["epochs"] == len(history["test_loss"]) == 6


def test_epochs_may_not_change_once_the_learning_rate_falls(small, tmp_path):
    assert train(tmp_path, small, epochs=10, observe=at_epoch(9, interrupt())).status == 130
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


def test_other_data_are_named(stopped, small, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    shutil.copy(small / "test.tar", other)
    whole = dataset.MNIST(small / "train.tar")
    dataset.write_tar(other / "train.tar", "train", whole.images.flip(0), whole.labels.flip(0))
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
        error = refused(train(stopped, small, "--resume", *seed, **options))
        assert all(difference in error for difference in differing)
        assert str(checkpoint(stopped, name)) in error


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
    elif kind == "another network":
        state["network"] = main.MODELS["lenet"]().state_dict()
    elif kind == "optimizer of another network":
        state["optimizer"]["param_groups"][0]["params"].pop()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        "malicious",
        "plain pickle",
        "cut",
        "empty",
        "text",
        "a list",
        "no optimizer",
        "lists of two lengths",
        "another network",
        "optimizer of another network",
    ],
)
def test_a_bad_checkpoint_is_refused_and_never_executed(stopped, small, whole, tmp_path_factory, kind):
    marker = tmp_path_factory.mktemp("marker") / "executed"
    bad = damaged(kind, checkpoint(stopped).read_bytes(), marker)
    checkpoint(stopped).write_bytes(bad)
    for options in ([], ["--resume"]) if "network" not in kind else (["--resume"],):
        error = refused(train(stopped, small, *options))
        assert str(checkpoint(stopped)) in error
        assert "--restart" in error
        assert checkpoint(stopped).read_bytes() == bad, "the user's to throw away"
    assert train(stopped, small, "--restart").status == 0
    assert_same(stopped, whole)
    assert not marker.exists()


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
    monkeypatch.setattr(sys, "argv", ["main.py", "--model", NAME])
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
    assert f"main.py --model {NAME} --resume" in tail


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
    command = [str(ROOT / "main.py"), "--model", "mlp", "--epochs", "40", "--data-dir", str(sample), "--device", "cpu"]
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
            if line.startswith("epoch  2/40"):
                process.send_signal(signal.SIGTERM)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    printed = re.search(r"^go on with: (python .*)$", out, re.MULTILINE)
    python, *arguments = shlex.split(printed[1])
    assert python == "python"
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    assert "epoch  2/40" not in ended.stdout
    history = json.loads((folder / "results" / "mlp-sample.json").read_text())
    assert len(history["test_loss"]) == 40


def test_a_second_signal_stops_at_once_and_nothing_is_torn(small, tmp_path, whole):
    """Both arrive while the checkpoint of the second epoch is being written."""
    script = """
import os, signal, sys
import main
fsync = os.fsync
def twice(descriptor):
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
    fsync(descriptor)
seen = []
def observe(*_):
    seen.append(None)
    if len(seen) == 2:
        os.fsync = twice
    return {}
main.main(sys.argv[1:], observe)
"""
    places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    argv = ["--model", NAME, "--epochs", "4", "--data-dir", str(small), "--device", "cpu", *places]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, timeout=60, env=environment)
    assert ended.returncode == 130
    _, temporary = faults.left_behind(tmp_path)
    assert len(temporary) == 1, "it was being written"
    assert len(torch.load(checkpoint(tmp_path), weights_only=True)["history"]["test_loss"]) == 1
    assert train(tmp_path, small, "--resume").status == 0
    assert_same(tmp_path, whole)


# --- losses, disks, folders -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path, monkeypatch):
    rate = main.learning_rate
    third_step = 1 + 2 / 7  # of the second epoch: 210 images are 7 batches of 32
    monkeypatch.setattr(main, "learning_rate", lambda epoch, *rest: 1e30 if epoch > third_step else rate(epoch, *rest))
    error = refused(train(tmp_path, small, "--batch-size", "32"))
    assert "epoch 2" in error
    assert "step 4 of 7" in error, "the first after the step that broke it"
    assert "1e+30" in error
    assert "--lr" in error
    saved = torch.load(checkpoint(tmp_path), weights_only=True)
    assert len(saved["history"]["test_loss"]) == 1
    assert all(value.isfinite().all() for value in saved["network"].values())


def test_weights_that_the_last_step_of_an_epoch_broke_are_not_saved(small, tmp_path, monkeypatch):
    """The epoch's own loss was still finite."""
    rate = main.learning_rate
    last_step = 1 + 6 / 7  # of the second epoch: 210 images are 7 batches of 32

    def explode(epoch, *rest):
        return 1e38 if last_step <= epoch <= 2 else rate(epoch, *rest)

    monkeypatch.setattr(main, "learning_rate", explode)
    error = refused(train(tmp_path, small, "--batch-size", "32"))
    assert "epoch 2" in error
    assert "--lr" in error
    saved = torch.load(checkpoint(tmp_path), weights_only=True)
    assert len(saved["history"]["test_loss"]) == 1
    assert all(value.isfinite().all() for value in saved["network"].values())


def test_an_absurd_learning_rate(small, tmp_path):
    error = refused(train(tmp_path, small, "--lr", "1e30", "--batch-size", "32"))
    assert "epoch 1" in error
    assert not (tmp_path / "results" / f"{NAME}.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs a limit to the size of files")
@pytest.mark.parametrize("number", range(1, 10))
def test_a_disk_that_is_full(small, tmp_path, whole, monkeypatch, number):
    """Nine files are written: four checkpoints, three results, weights, and the checkpoint marked as finished.

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
    not_yet = [name for name in before if name not in {path.relative_to(tmp_path / "run").as_posix() for path in calls}]
    assert all(faults.difference(after[name], before[name]) is None for name in not_yet)

    monkeypatch.setattr(files, "replace", replace)
    assert train(tmp_path / "run", small, *(["--resume"] if number > 1 else [])).status == 0
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("name", ["results", "checkpoints"])
def test_a_folder_that_vanishes(small, tmp_path, whole, name):
    ended = train(tmp_path, small, observe=at_epoch(2, lambda: shutil.rmtree(tmp_path / name)))
    error = refused(ended, status=1)
    assert str(tmp_path / name) in error
    assert train(tmp_path, small, *(["--resume"] if name == "results" else [])).status == 0
    assert_same(tmp_path, whole)


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_two_runs_at_the_same_time(small, tmp_path, whole):
    """The same name is refused, another is not; the first run goes on undisturbed."""
    second, other = [], []

    def start_more() -> None:
        state = torch.get_rng_state()
        second.append(train(tmp_path, small))
        other.append(train(tmp_path, small, "--seed", "1"))
        torch.set_rng_state(state)

    first = train(tmp_path, small, observe=at_epoch(2, start_more))
    error = refused(second[0])
    assert "another process" in error
    assert NAME in error
    assert (first.status, other[0].status) == (0, 0)
    assert len(json.loads((tmp_path / "results" / f"{NAME}_seed1.json").read_text())["test_loss"]) == 4
    for path in tmp_path.rglob(f"*{NAME}_seed1*"):
        path.unlink()
    assert_same(tmp_path, whole)


def test_what_a_killed_run_left_is_cleared(small, tmp_path):
    for folder, name in (("results", f".{NAME}.json.123.partial"), ("checkpoints", f".{NAME}.pt.123.partial")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"half")
    someone_elses = tmp_path / "checkpoints" / ".lenet.pt.77.partial"
    someone_elses.write_bytes(b"being written by a run of another name")
    assert train(tmp_path, small, epochs=1).status == 0
    assert faults.left_behind(tmp_path)[1] == [someone_elses]
