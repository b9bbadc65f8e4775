"""Several processes: the same training, shared out. They are forked with the variables that torchrun sets."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
import torch
from runs import NAME, After, command, first_images, history_of, interrupt
from torch.multiprocessing import ProcessExitedException, start_processes
from torch.utils.data import TensorDataset

import main
from support.compute import distributed
from support.terminal import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
# a rate so low that training does not blow rounding up: at 0.05 LeNet-5's first steps here are chaotic
LENET = ["--model", "lenet", "--batch-size", "12", "--lr", "0.01"]


def fork(count: int, folder: Path, action: Callable[[int], object]) -> list[tuple[int, str, str]]:
    """Each process's exit status, output and errors. As torchrun does, this ends all when one has failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def process(rank):
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": 1}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in told.items()}
        action(rank)

    started = start_processes(process, nprocs=count, join=False, daemon=True, start_method="fork")
    with suppress(ProcessExitedException):
        for _ in range(count):  # each time at least one of them ends, after one or two seconds
            started.join(timeout=120, grace_period=5)
    printed = [[(folder / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(count)]
    return [(process.exitcode, *printed[rank]) for rank, process in enumerate(started.processes)]


def fork_runs(folder: Path, data: Path, *options: str) -> list[tuple[int, str, str]]:
    """In 0.seed and 1.seed, the seeds of what each process draws in the first epoch."""

    def action(rank):
        noted = After(1, lambda: (folder / f"{rank}.seed").write_text(str(torch.initial_seed())))
        main.main(command(folder, data, *LENET, *options), noted)

    return fork(2, folder, action)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{NAME}.weights.pt", weights_only=True)["network"]


@pytest.fixture(scope="module")
def few(sample, tmp_path_factory) -> Path:
    """30 images to train and to test on: each of two processes has 15 of an epoch, and three of its last batch."""
    return first_images(sample, tmp_path_factory.mktemp("data") / "few", 30, 30)


@pytest.fixture(scope="module")
def two(few, tmp_path_factory):
    """LeNet-5 trained by two processes: the folder, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    ended = fork_runs(folder, few)
    assert [status for status, _, _ in ended] == [0, 0], ended
    return folder, ended


def test_two_processes_train_as_one_does(two, few, tmp_path):
    """Gradients and metrics are means over all images, also of a small batch; the order of the sums differs."""
    main.main(command(tmp_path, few, *LENET))
    ours, alone = history_of(two[0]), history_of(tmp_path)
    assert (ours["processes"], alone["processes"]) == ([2, 2], [1, 1])
    for metric in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        assert ours[metric] == pytest.approx(alone[metric], rel=1e-5)
    torch.testing.assert_close(weights_of(two[0]), weights_of(tmp_path), rtol=0, atol=1e-6)


def test_statistics_of_batch_normalization_are_means_over_the_images_of_all(few, tmp_path):
    """Of weights that hardly move: CPUs do not synchronize the statistics that training normalizes by."""
    slow = ["--model", "lenet_bn", "--lr", "1e-9", "--epochs", "1"]
    main.main(command(tmp_path / "alone", few, *LENET, *slow))
    fork_runs(tmp_path, few, *slow)
    ours, alone = (weights_of(folder)["norm1.running_mean"] for folder in (tmp_path, tmp_path / "alone"))
    torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-7)


def test_processes_draw_each_for_itself(two):
    """Else each would warp its share by the same draws."""
    assert len({(two[0] / f"{rank}.seed").read_text() for rank in (0, 1)}) == 2


def test_only_the_main_process_prints_and_writes(two):
    folder, ((_, out, _), other) = two
    assert [line.split()[1] for line in out.splitlines() if line.startswith("epoch ")] == ["1/2", "2/2"]
    assert other == (0, "", "")
    assert {path.suffix for path in (folder / "results").iterdir() if path.name[0] != "."} == {".json", ".npz", ".png"}


@pytest.mark.parametrize("killed", [0, 1])
def test_where_a_process_is_killed_the_last_line_says_resume_and_that_goes_on(two, few, tmp_path, killed):
    def action(rank):
        act = interrupt(signal.SIGKILL) if rank == killed else lambda: None
        main.main(command(tmp_path, few, *LENET), After(1, act))

    ended = fork(2, tmp_path, action)
    assert ended[killed][0] == -signal.SIGKILL
    status, _, err = ended[1 - killed]
    assert status > 0
    assert "Traceback" not in err
    assert "--resume" in err.splitlines()[-1]
    assert not list(tmp_path.glob("results/*.json"))
    fork_runs(tmp_path, few, "--resume")
    assert history_of(tmp_path)["train_loss"] == history_of(two[0])["train_loss"]
    torch.testing.assert_close(weights_of(tmp_path), weights_of(two[0]), rtol=0, atol=0)


@pytest.mark.parametrize("wrong", ["--lr -1", "--data-dir nowhere", "--seed 1"])
def test_what_the_user_can_fix_is_said_once(two, few, wrong):
    """What each process finds, what only the main one does, and that a name is another run's."""
    ended = fork_runs(two[0], few, *wrong.split())
    assert all(status != 0 for status, _, _ in ended)
    said = "".join(err for _, _, err in ended)
    assert said.count("error: ") == 1, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "says"), [(RuntimeError("shapes"), False), (KeyboardInterrupt(), False), (KeyboardInterrupt(15), True)]
)
def test_only_where_torchrun_ends_the_processes_one_was_lost(tmp_path, error, says):
    def action(rank):
        with suppress(RuntimeError, KeyboardInterrupt), distributed.process_group(torch.device("cpu")):
            torch.distributed.barrier()  # nobody ends while another one joins
            raise error

    first, second = fork(2, tmp_path, action)
    assert ("--resume" in first[2], "--resume" in second[2]) == (says, says)


def test_variables_without_torchrun_change_nothing(monkeypatch):
    for variable in ("RANK=3", "WORLD_SIZE=2", "LOCAL_RANK=1", "MASTER_ADDR=x"):
        monkeypatch.setenv(*variable.split("="))
    with distributed.process_group(distributed.choose_device("cpu")):
        assert (distributed.rank(), distributed.world_size(), distributed.main_decides(lambda: 5)) == (0, 1, 5)


@pytest.mark.slow
def test_torchrun_itself(two, few, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", main.__file__]
    argv = [*launcher, *command(tmp_path, few, *LENET)]
    subprocess.run(argv, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    assert history_of(tmp_path)["test_loss"] == history_of(two[0])["test_loss"]


@pytest.mark.parametrize("count", [47, 48])
def test_batches_are_the_same_however_many_share_them_but_for_what_cannot_be_shared_out(monkeypatch, count):
    dataset, alone = TensorDataset(torch.arange(count), torch.arange(count)), {}
    for epoch, world in product((1, 2), (1, 2, 3)):
        monkeypatch.setattr(distributed, "world_size", lambda world=world: world)
        shares = []
        for rank in range(world):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            batches = distributed.Batches(dataset, 12, seed=4)
            batches.epoch = epoch
            shares.append([labels.tolist() for _, labels in batches])
        assert all(len(set(map(len, step))) == 1 for step in zip(*shares, strict=True)), "shares are equal"
        steps = [set().union(*step) for step in zip(*shares, strict=True)]
        assert len(steps) == len(batches)
        assert sum(map(len, steps)) == count - count % world, "none twice"
        assert all(some <= whole for some, whole in zip(steps, alone.setdefault(epoch, steps), strict=True))
    assert alone[1] != alone[2]


def test_a_batch_that_cannot_be_shared_out(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for model, batch_size, named in (("lenet", 61, "2 processes"), ("lenet_bn", 1434, "at least 2")):
        with pytest.raises(UserError, match=named):
            distributed.check_batch_size(batch_size, 1437, main.MODELS[model]())
    distributed.check_batch_size(1434, 1438, main.MODELS["lenet_bn"]())
