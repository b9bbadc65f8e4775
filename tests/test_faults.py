"""Nothing is lost: runs that are interrupted, killed, started twice; full disks; hostile and damaged checkpoints."""

import contextlib
import errno
import io
import itertools
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import faults
import matplotlib
import pytest
import torch
from runs import NAME, After, cheap_picture, checkpoint_of, command, history_of, interrupt, refused, start
from torch import nn

import dataset
import main
from support import files
from support.data import write_tar
from support.run import Callback
from support.run import checkpoint as support_checkpoint

ROOT = Path(main.__file__).resolve().parent
FOUR = ("--epochs", "4")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _cheap_picture(monkeypatch):
    cheap_picture(monkeypatch)


def contents(folder: Path) -> dict[str, object]:
    """All files that a finished run leaves, and no temporary one."""
    found, temporary = faults.left_behind(folder)
    assert not temporary
    read = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path.read_bytes() if path.suffix == ".png" else faults.read(path) for name, path in read.items()}


def assert_same(ours: Path, theirs: Path) -> None:
    assert faults.difference(contents(ours), contents(theirs)) is None


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory) -> Path:
    """The folder of a run of four epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        cheap_picture(patch)
        assert start(folder, small, *FOUR).status == 0
    return folder


@pytest.fixture(scope="module")
def stopped_once(small, tmp_path_factory) -> Path:
    """The folder of a run of four epochs that was stopped in the third; only to be copied."""
    folder = tmp_path_factory.mktemp("stopped")
    assert start(folder, small, *FOUR, callback=After(3, interrupt())).status == 130
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """The same, to be gone on with."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def finished(whole, tmp_path) -> Path:
    """A finished run of four epochs, to be replaced."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def other(small, tmp_path_factory) -> Path:
    """A folder of the same name, with other training images."""
    folder = tmp_path_factory.mktemp("other") / small.name
    folder.mkdir()
    shutil.copy(small / "test.tar", folder)
    data = dataset.MNIST(small / "train.tar")
    write_tar(folder / "train.tar", "train", data.images.flip(0), data.labels.flip(0))
    return folder


# --- the harness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--kills", "4"],
        pytest.param(["--kills", "12", "--seed", "1"], marks=pytest.mark.slow),
        pytest.param(["--kills", "12", "--signal", "INT"], marks=pytest.mark.slow),
    ],
)
def test_killed_runs(options):
    argv = [sys.executable, str(ROOT / "tests" / "faults.py"), *options]
    ended = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = {words: int(number) for number, words in re.findall(r"(\d+) ([a-z -]+);", ended.stdout)}
    assert counts["guarantees broken"] == 0
    assert counts["kills"] >= int(options[1]) * 0.9
    assert counts["runs compared"] >= 3


def test_the_harness_sees_what_differs_and_what_is_torn(whole, tmp_path):
    same = {"a": torch.tensor([1.0, 2.0]), "seconds": [1.0], "list": [1, "x", None]}
    assert faults.difference(same, same | {"seconds": [2.0]}) is None
    assert faults.difference(same, same | {"a": torch.tensor([1.0, 2.0000002])}) == "/a"
    assert faults.difference(same, same | {"list": [1, "x", 0]}) == "/list/2"
    assert faults.difference(same, same | {"more": 1}) == "/"
    assert faults.difference({"a": 1}, {"a": 1.0}) == "/a"
    for source in [path for path in faults.left_behind(whole)[0] if path.suffix != ".png"]:
        (tmp_path / source.name).write_bytes(source.read_bytes()[:-20])
        assert len(faults.torn(tmp_path)) == 1
        (tmp_path / source.name).unlink()


# --- resume -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lenet", "mlp", "lenet_bn"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(small, tmp_path, model):
    options = ["--model", model, "--epochs", "3", *(["--augment"] if model == "lenet_bn" else [])]
    assert start(tmp_path / "whole", small, *options).status == 0
    for more in ([], ["--resume"]):  # the second counts from where it resumed
        ended = start(tmp_path / "parts", small, *options, *more, callback=After(2, interrupt()))
        assert ended.status == 130
        torch.manual_seed(99)  # the state of a new process is another
    ended = start(tmp_path / "parts", small, *options, "--resume")
    assert ended.status == 0
    assert "epoch 3/3" in ended.out
    assert "epoch 2/3" not in ended.out
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_an_unfinished_run_is_not_thrown_away_unless_restart_asks_for_it(stopped, small, whole):
    before = checkpoint_of(stopped).read_bytes()
    error = refused(start(stopped, small, *FOUR))
    assert "2 of 4" in error
    assert "--resume" in error
    assert "--restart" in error
    assert str(checkpoint_of(stopped)) in error
    assert checkpoint_of(stopped).read_bytes() == before
    ended = start(stopped, small, *FOUR, "--restart")
    assert ended.status == 0
    assert "epoch 1/4" in ended.out
    assert_same(stopped, whole)


def test_the_same_command_with_resume_starts_goes_on_and_says_finished(small, tmp_path, whole, monkeypatch):
    """As in a sweep, or a scheduler's second try."""
    same = ["--epochs", "4", "--resume"]
    assert start(tmp_path, small, *same, callback=After(3, interrupt())).status == 130
    assert start(tmp_path, small, *same).status == 0
    assert_same(tmp_path, whole)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.suffix != ".lock"}
    monkeypatch.setattr(main, "make_training", None)
    ended = start(tmp_path, small, *same)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[1:] == [f"{NAME} is finished"], "behind what the data are, and no optimizer is made"
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.suffix != ".lock"}
    shutil.rmtree(tmp_path / "checkpoints")  # as in a clone that holds the result
    assert start(tmp_path, small, *same).out == ended.out


@pytest.mark.parametrize("lost", ["results/mine.npz", "results/mine.json", "checkpoints/mine.weights.pt"])
def test_what_is_lost_of_a_finished_run_is_made_again(small, finished, whole, lost):
    (finished / lost).unlink()
    assert start(finished, small, *FOUR, "--resume").status == 0
    assert_same(finished, whole)


class Looks(Callback):
    """Notes the contents of a folder after every epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []

    def on_epoch_end(self, *_: object) -> None:
        self.seen.append(contents(self.folder))


@pytest.mark.parametrize(("options", "same"), [(["--restart", "--lr", "0.02"], False), ([], True)])
def test_a_finished_result_is_only_replaced_by_another_finished_one(small, finished, options, same):
    first, looks = contents(finished), Looks(finished)
    results = [name for name in first if name.startswith("results/") or "weights" in name]
    assert len(results) == 4
    assert start(finished, small, *FOUR, *options, callback=looks).status == 0
    assert len(looks.seen) == 4
    assert all(faults.difference(moment[name], first[name]) is None for moment in looks.seen for name in results)
    assert all((faults.difference(contents(finished)[name], first[name]) is None) == same for name in results)


class Wider(nn.Sequential):
    """Another network, under whatever name."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(1024, 44), nn.ReLU(), nn.Linear(44, 10))


DIFFERING = {
    "batch_size": ["--batch-size", "50"],
    "lr": ["--lr", "0.0123"],
    "weight_decay": ["--weight-decay", "0.0321"],
    "epochs": ["--epochs", "6"],
    "seed": ["--seed", "1"],
    "augment": ["--augment"],
    "model": ["--model", "lenet"],
    "validation": ["--validation", "60"],
    "train_sha256": [],
    "network_sha256": [],
    "mean": [],
    "clean_train_loss": [],
}


@pytest.mark.parametrize("differing", DIFFERING)
@pytest.mark.parametrize("there", ["unfinished", "finished", "result", "weights"])
def test_another_run_of_the_same_name_is_named_and_nothing_is_replaced(
    small, other, tmp_path, whole, stopped_once, monkeypatch, differing, there
):
    """Whether it is unfinished, or its history, its checkpoint and weights, or all of them are found."""
    shutil.copytree(stopped_once if there == "unfinished" else whole, tmp_path, dirs_exist_ok=True)
    before, callback = contents(tmp_path), Callback()
    options = [*FOUR, *DIFFERING[differing]]
    options += {"weights": ["--output-dir"], "result": ["--checkpoint-dir"]}.get(there, [])
    options += [str(tmp_path / "new")] * (there in ("weights", "result")) + ["--resume"] * (there != "result")
    if differing == "network_sha256":
        monkeypatch.setitem(main.MODELS, "mlp", Wider)
    if differing == "mean":
        monkeypatch.setattr(main, "MEAN", 0.5)
    if differing == "clean_train_loss":
        callback.measures = ("clean_train_loss",)
    error = refused(start(tmp_path, other if differing == "train_sha256" else small, *options, callback=callback))
    assert "is of another run: " in error
    assert re.search(rf"\b{differing} \S+ there, \S+ here", error)
    assert "--name" in error
    assert "--restart" in error
    assert faults.difference(contents(tmp_path), before) is None


def test_data_are_told_apart_by_what_they_hold_not_by_where_they_lie(small, finished, tmp_path):
    shutil.copytree(small, tmp_path / "moved")
    assert "finished" in start(finished, tmp_path / "moved", *FOUR, "--resume").out


def test_a_result_of_another_run_or_that_cannot_be_read_is_replaced_by_restart_only(small, finished, whole):
    for name, content in ((f"results/{NAME}.json", b"{"), (f"checkpoints/{NAME}.weights.pt", b"weights of my own")):
        (finished / name).write_bytes(content)
        assert str(finished / name) in refused(start(finished, small, *FOUR))
        assert (finished / name).read_bytes() == content
        assert start(finished, small, *FOUR, "--restart", "--lr", "0.02").status == 0
        assert start(finished, small, *FOUR, "--restart").status == 0
        assert_same(finished, whole)


def test_weights_and_history_come_before_the_picture_and_the_finished_mark_last(small, tmp_path, monkeypatch):
    replace, names = files.replace, []

    def noted(path, write):
        names.append(Path(path).name)
        replace(path, write)

    monkeypatch.undo()  # with the real picture
    for module in (files, support_checkpoint):
        monkeypatch.setattr(module, "replace", noted)
    assert start(tmp_path, small, "--epochs", "1").status == 0
    endings = [name.removeprefix(NAME) for name in names]
    assert endings == [".pt", ".weights.pt", ".npz", ".json", ".png", ".pt"]
    read = [faults.read(path) for path in faults.left_behind(tmp_path)[0] if path.name != f"{NAME}.pt"]
    assert len({content["digest"] for content in read}) == 1
    assert len(read) == 4


def test_a_picture_that_cannot_be_drawn_costs_the_picture_only(small, finished, monkeypatch):
    def no_latex(*_: object) -> None:
        raise RuntimeError("Failed to process string with tex because latex could not be found")

    monkeypatch.setattr(main.plot, "draw_run", no_latex)
    ended = start(finished, small, *FOUR, "--lr", "0.01", "--restart")
    assert ended.status == 0
    assert re.fullmatch(r"warning: .*latex.*\n", ended.err)
    assert "plot  " not in ended.out
    assert {path.suffix for path in (finished / "results").glob("m*")} == {".json", ".npz"}, "none of another run"
    assert torch.load(checkpoint_of(finished), weights_only=True)["finished"]
    monkeypatch.undo()
    with matplotlib.rc_context({"text.usetex": True, "font.family": "no such font"}):
        assert start(finished, small, *FOUR, "--restart").status == 0


@pytest.mark.parametrize("moved", [[], ["--checkpoint-dir"], ["--output-dir"]])
def test_two_runs_of_one_name_at_the_same_time(small, tmp_path, whole, moved):
    """The second is refused, another name is not; the first run goes on undisturbed."""
    more = [part for option in moved for part in (option, str(tmp_path / "elsewhere"))]
    second = []

    def start_more() -> None:
        with torch.random.fork_rng():
            second.append(start(tmp_path / "run", small, *FOUR, *more))
            second.append(start(tmp_path / "run", small, "--seed", "1", "--name", "another"))

    assert start(tmp_path / "run", small, *FOUR, callback=After(2, start_more)).status == 0
    error = refused(second[0])
    assert "another process" in error
    assert NAME in error
    assert second[1].status == 0
    for path in (tmp_path / "run").rglob("*another*"):
        path.unlink()
    assert_same(tmp_path / "run", whole)


# --- checkpoints that nobody should trust -----------------------------------------------------------------------------


class Malicious:
    """Unpickling this makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def damaged(kind: str, good: bytes, marker: Path) -> bytes:
    if kind == "plain pickle":
        return pickle.dumps({"history": Malicious(marker)}, protocol=2)  # the one that torch expects
    if kind == "cut":
        return good[: len(good) // 2]
    state = torch.load(io.BytesIO(good), weights_only=True)
    state["history"]["train_loss"] = Malicious(marker)
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["malicious", "plain pickle", "cut"])
def test_a_bad_checkpoint_is_refused_and_never_executed(small, stopped, whole, kind):
    marker = stopped / "executed"
    bad = damaged(kind, checkpoint_of(stopped).read_bytes(), marker)
    checkpoint_of(stopped).write_bytes(bad)
    for options in ([], ["--resume"]):
        error = refused(start(stopped, small, *FOUR, *options))
        assert str(checkpoint_of(stopped)) in error
        assert "--restart" in error
        assert checkpoint_of(stopped).read_bytes() == bad, "the user's to throw away"
    assert not marker.exists()
    assert start(stopped, small, *FOUR, "--restart").status == 0
    assert_same(stopped, whole)
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists(), "it would have worked"


def test_a_checkpoint_that_is_no_file_or_larger_than_memory_is_not_read(stopped, small, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files, "MAX_UNPACKED", 10_000)
        assert str(checkpoint_of(stopped)) in refused(start(stopped, small, *FOUR, "--resume"))
    checkpoint_of(stopped).unlink()
    os.mkfifo(checkpoint_of(stopped))
    assert "regular file" in refused(start(stopped, small, *FOUR, "--resume"))


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


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "epoch"), [(signal.SIGINT, 1), (signal.SIGTERM, 3)])
def test_a_signal_stops_in_the_middle_of_an_epoch_with_what_is_done(small, tmp_path, whole, monkeypatch, number, epoch):
    loss, batches = main.F.cross_entropy, itertools.count(1)

    def interrupted(logits, labels, **options):
        if logits.requires_grad and next(batches) == 2 * (epoch - 1) + 1:  # 210 images are two batches of 128
            os.kill(os.getpid(), number)
        return loss(logits, labels, **options)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(main.F, "cross_entropy", interrupted)
    ended = start(tmp_path, small, *FOUR)
    monkeypatch.setattr(main.F, "cross_entropy", loss)
    assert ended.status == 128 + number
    assert ended.err == ""
    last = ended.out.splitlines()[-1]
    assert "the same command with --resume" in last
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert start(tmp_path, small, *FOUR, "--resume").status == 0
    assert_same(tmp_path, whole)


# --- losses, disks, folders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [9, 13], ids=["in the middle of an epoch", "in its last step"])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(small, tmp_path, monkeypatch, step):
    """After its last step the epoch's own loss is still finite."""
    rate = main.learning_rate
    monkeypatch.setattr(main, "learning_rate", lambda at, steps: 1e38 if at >= step else rate(at, steps))
    error = refused(start(tmp_path, small, *FOUR, "--batch-size", "32"))  # 210 images are 7 batches of 32
    assert "epoch 2" in error
    assert "peak learning rate 0.05" in error
    assert "--lr" in error
    saved = torch.load(checkpoint_of(tmp_path), weights_only=True)
    assert len(saved["history"]["test_loss"]) == 1
    assert all(value.isfinite().all() for value in saved["network"].values())


@pytest.mark.parametrize("number", range(1, 10))
def test_a_disk_that_is_full(small, finished, whole, monkeypatch, number):
    """Nine files are written: four checkpoints, weights, three results, and the checkpoint marked as finished.

    A file that may not grow fails as on a full disk (EFBIG in place of ENOSPC).
    """
    before, replace, calls = contents(finished), files.replace, []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(path, write):
        calls.append(path)
        if len(calls) >= number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        try:
            replace(path, write)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with monkeypatch.context() as patch:
        for module in (files, support_checkpoint):
            patch.setattr(module, "replace", full)
        error = refused(start(finished, small, *FOUR), status=1)
    assert len(calls) == number
    assert calls[-1].name in error
    assert "--resume" in error
    after = contents(finished)
    assert after.keys() == before.keys()
    not_yet = [name for name in before if name not in {path.relative_to(finished).as_posix() for path in calls}]
    assert all(faults.difference(after[name], before[name]) is None for name in not_yet)
    assert start(finished, small, *FOUR, "--resume").status == 0
    assert_same(finished, whole)


@pytest.mark.parametrize("name", ["results", "checkpoints"])
def test_a_folder_that_vanishes(small, tmp_path, whole, name):
    error = refused(start(tmp_path, small, *FOUR, callback=After(2, lambda: shutil.rmtree(tmp_path / name))), status=1)
    assert str(tmp_path / name) in error
    assert "--resume" in error
    assert start(tmp_path, small, *FOUR, "--resume").status == 0
    assert_same(tmp_path, whole)


def test_what_a_killed_run_left_is_cleared(small, tmp_path):
    for folder, name in (("results", f".{NAME}.json.123.partial"), ("checkpoints", f".{NAME}.pt.123.partial")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"half")
    someone_elses = tmp_path / "checkpoints" / ".mine2.pt.77.partial"
    someone_elses.write_bytes(b"being written by a run of another name")
    assert start(tmp_path, small, "--epochs", "1").status == 0
    assert faults.left_behind(tmp_path)[1] == [someone_elses]


def test_a_file_system_without_locks_costs_a_warning_for_each_folder(small, tmp_path, whole, monkeypatch):
    import fcntl

    def cannot(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", cannot)
    ended = start(tmp_path, small, *FOUR)
    assert ended.status == 0
    assert [line.startswith("warning: ") and "cannot be locked" in line for line in ended.err.splitlines()] == 2 * [
        True
    ]
    assert_same(tmp_path, whole)


# --- streams, languages -----------------------------------------------------------------------------------------------

FOLDER = os.fsdecode("숫자 \N{GRINNING FACE}".encode() + b"\xff")  # Korean, an emoji, and a byte that is no text


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_no_name_of_a_folder_and_no_encoding_of_the_output_makes_a_traceback(small, tmp_path, monkeypatch, encoding):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small, FOLDER)
    argv = ["--model", "mlp", "--epochs", "2", "--device", "cpu", "--data-dir", FOLDER]
    argv += ["--output-dir", f"{FOLDER}/results", "--checkpoint-dir", f"{FOLDER}/checkpoints"]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    for more, callback, status in (
        ([], After(2, interrupt()), 130),
        ([], Callback(), 2),
        (["--resume"], Callback(), 0),
        (["--lr", "1e30", "--name", "x"], Callback(), 2),
    ):
        with pytest.raises(SystemExit) if status else contextlib.nullcontext() as leave:
            main.main([*argv, *more], callback)
        assert not status or leave.value.code == status
    shown = out.buffer.getvalue().decode(encoding)
    assert "epoch 2/2" in shown
    assert b"unfinished run" in err.buffer.getvalue()
    assert [path.stem for path in Path(FOLDER, "results").glob("*.json")] == ["mlp-숫자_epochs2"]
    assert ("숫자" in shown) == (encoding == "utf-8"), "what can be shown is, else escaped"


def close(**streams: int) -> None:
    for name, number in streams.items():
        os.close(number)
        setattr(sys, name, None)  # as Python does at its start


STREAMS = {
    "stderr closed": (lambda: close(stderr=2), 0),
    "all closed": (lambda: close(stdin=0, stdout=1, stderr=2), 0),
    "stdout full": (lambda: faults.redirect("/dev/full", 1), 1),
    "nobody reads": (lambda: faults.nobody_reads(1), 141),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_run_whose_streams_are_lost_is_saved(small, tmp_path, whole, kind):
    """A process of its own, forked."""
    prepare, status = STREAMS[kind]
    ended = faults.run(command(tmp_path, small, *FOUR), tmp_path, prepare)
    assert ended.status == status, ended.text
    assert "Traceback" not in ended.text
    assert ended.text.startswith("error: standard output: cannot be written: No space") == (kind == "stdout full")
    assert start(tmp_path, small, *FOUR, "--resume").status == 0
    assert_same(tmp_path, whole)
