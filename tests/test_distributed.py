"""Several processes: the same training, shared out. They are forked with the variables that torchrun sets."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from runs import NAME, command, history_of
from torch.multiprocessing import ProcessExitedException, start_processes
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import main
from dataset import MNIST
from support.compute import distributed
from support.terminal import UserError

pytestmark = pytest.mark.usefixtures("one_thread")
# a rate so low that training does not blow rounding up: at 0.05 LeNet-5's first steps here are chaotic
LENET = ["--model", "lenet", "--batch-size", "60", "--lr", "0.01"]
PATIENCE = 120  # seconds; what is forked takes one or two


def variables(rank: int, count: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": 1}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def fork(count: int, folder: Path, action: Callable[[int], object]) -> list[tuple[int, str, str]]:
    """Each process's exit status, output and errors. As torchrun does, this ends all when one has failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def process(rank):
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.environ |= variables(rank, count, port)
        action(rank)

    started = start_processes(process, nprocs=count, join=False, daemon=True, start_method="fork")
    ends = time.monotonic() + PATIENCE
    with suppress(ProcessExitedException):
        while not started.join(1, grace_period=5) and time.monotonic() < ends:
            pass
    printed = [[(folder / f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(count)]
    return [(process.exitcode, *printed[rank]) for rank, process in enumerate(started.processes)]


def fork_runs(folder: Path, data: Path, *options: str) -> list[tuple[int, str, str]]:
    return fork(2, folder, lambda rank: main.main(command(folder, data, *LENET, *options)))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{NAME}.weights.pt", weights_only=True)["network"]


@pytest.fixture(scope="module")
def two(sample, tmp_path_factory):
    """LeNet-5 trained by two processes: the folder, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    ended = fork_runs(folder, sample)
    assert [status for status, _, _ in ended] == [0, 0], ended
    return folder, ended


@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_two_processes_train_as_one_does(two, sample, tmp_path, model):
    """The same losses to 1e-4, the same weights to 1e-3: only the order of the sums differs."""
    folder, _ = two
    if model != "lenet":
        folder = tmp_path
        fork_runs(folder, sample, "--model", model)
    main.main(command(tmp_path / "one", sample, *LENET, "--model", model))
    ours, alone = history_of(folder), history_of(tmp_path / "one")
    assert (ours["processes"], alone["processes"]) == ([2, 2], [1, 1])
    for metric in ("train_loss", "test_loss"):
        assert ours[metric] == pytest.approx(alone[metric], abs=1e-4)
    for metric, images in (("train_accuracy", 1437), ("test_accuracy", 360)):
        assert ours[metric] == pytest.approx(alone[metric], abs=1.5 / images)
    torch.testing.assert_close(weights_of(folder), weights_of(tmp_path / "one"), rtol=0, atol=1e-3)


def test_only_the_main_process_prints_and_writes(two):
    folder, ((_, out, _), (_, *silent)) = two
    assert [line.split()[1] for line in out.splitlines() if line.startswith("epoch ")] == ["1/2", "2/2"]
    assert silent == ["", ""]
    assert {path.suffix for path in (folder / "results").iterdir() if path.name[0] != "."} == {".json", ".npz", ".png"}


def measure(train_set: MNIST, images: int) -> dict[str, object]:
    """Loss and accuracy, weighted statistics, and the gradients on the first `images` in batches of 12."""
    torch.manual_seed(0)
    network, normalized = main.MODELS["lenet"](), main.MODELS["lenet_bn"]()
    normalized.norm1.running_mean.fill_(distributed.rank())
    mine = distributed.shard(images)
    distributed.average_buffers(normalized, len(mine) / images)
    measured = {"metrics": main.test(network, train_set), "mean": normalized.norm1.running_mean, "gradients": []}
    batches = distributed.Batches(train_set, 12)
    batches.order = lambda: torch.arange(images)
    wrapped = distributed.wrap(network, batches)
    for drawn, labels in batches:
        network.zero_grad()
        F.cross_entropy(wrapped(drawn), labels).backward()
        measured["gradients"].append([weight.grad.clone() for weight in network.parameters()])
    return measured


@pytest.mark.parametrize(("count", "images"), [(2, 21), (3, 31)])
def test_gradients_statistics_and_metrics_are_means_over_images_also_where_shares_are_unequal(
    train_set, tmp_path, count, images
):
    """The last batches of 9 and 7 images make shares of 5 and 4, and of 3, 2 and 2."""

    def action(rank):
        with distributed.process_group(torch.device("cpu")):
            torch.save(measure(train_set, images), tmp_path / f"{rank}.pt")

    assert [status for status, _, _ in fork(count, tmp_path, action)] == [0] * count
    alone = measure(train_set, images)
    for rank in range(count):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        expected = sum(each * len(range(each, images, count)) for each in range(count)) / images
        torch.testing.assert_close(shared["mean"], torch.full((6,), expected))
        assert shared["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)
        torch.testing.assert_close(shared["gradients"], alone["gradients"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("killed", [0, 1])
def test_where_a_process_is_killed_the_last_line_says_resume_and_that_goes_on(two, sample, tmp_path, killed):
    epoch_of = main.train_and_test

    def killed_in_epoch_2(training, epoch, settings):
        if epoch == 2 and distributed.rank() == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return epoch_of(training, epoch, settings)

    def action(rank):
        main.train_and_test = killed_in_epoch_2
        main.main(command(tmp_path, sample, *LENET))

    ended = fork(2, tmp_path, action)
    assert ended[killed][0] == -signal.SIGKILL
    status, _, err = ended[1 - killed]
    assert status > 0
    assert "Traceback" not in err
    assert "--resume" in err.splitlines()[-1]
    assert not list(tmp_path.glob("results/*.json"))
    fork_runs(tmp_path, sample, "--resume")
    again, whole = history_of(tmp_path), history_of(two[0])
    assert all(again[metric] == whole[metric] for metric in ("train_loss", "test_loss"))
    torch.testing.assert_close(weights_of(tmp_path), weights_of(two[0]), rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--lr", "-1"],  # before they know of one another
        ["--data-dir", "nowhere"],  # what all find
        ["--name", "taken"],  # what the main process finds
    ],
)
def test_what_the_user_can_fix_is_said_once(sample, tmp_path, wrong):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "taken.json").write_text("{}")
    ended = fork_runs(tmp_path, sample, *wrong)
    assert all(status != 0 for status, _, _ in ended)
    said = "".join(err for _, _, err in ended)
    assert said.count("error: ") == 1, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "says"), [(RuntimeError("shapes"), False), (KeyboardInterrupt(), False), (KeyboardInterrupt(15), True)]
)
def test_only_where_torchrun_ends_a_process_another_one_was_lost(tmp_path, error, says):
    def action(rank):
        with suppress(RuntimeError, KeyboardInterrupt), distributed.process_group(torch.device("cpu")):
            raise error

    first, second = fork(2, tmp_path, action)
    assert (first[2], "--resume" in second[2]) == ("", says)


@pytest.mark.parametrize("set_by_others", ["RANK=0", "RANK=3 WORLD_SIZE=2", "LOCAL_RANK=1", "MASTER_ADDR=x"])
def test_variables_without_torchrun_change_nothing(monkeypatch, set_by_others):
    for variable in set_by_others.split():
        monkeypatch.setenv(*variable.split("="))
    with distributed.process_group(distributed.choose_device("cpu")):
        assert (distributed.rank(), distributed.world_size(), distributed.main_decides(lambda: 5)) == (0, 1, 5)


@pytest.mark.slow
def test_torchrun_itself(two, sample, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "main.py"]
    argv = [*launcher, *command(tmp_path, sample, *LENET)]
    subprocess.run(argv, cwd=Path(main.__file__).parent, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    assert history_of(tmp_path)["test_loss"] == history_of(two[0])["test_loss"]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux's scheduler")
@pytest.mark.parametrize("chosen", ["OTHER", "IDLE"])
def test_threads_do_not_preempt_one_another_unless_the_user_chose_otherwise(monkeypatch, chosen):
    given = []
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: getattr(os, f"SCHED_{chosen}"))
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, parameter: given.append(policy))
    distributed.use_batch_scheduling()
    assert given == ([os.SCHED_BATCH] if chosen == "OTHER" else [])


# --- shares, in one process -------------------------------------------------------------------------------------------


def shares(monkeypatch, count: int, world: int, epoch: int = 1) -> list[list[list[int]]]:
    """By process: its batches of 12, as lists of indices."""
    found = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        batches = distributed.Batches(TensorDataset(torch.arange(count), torch.arange(count)), 12, seed=4)
        batches.epoch = epoch
        found.append([labels.tolist() for _, labels in batches])
        assert len(found[-1]) == len(batches)
    return found


@pytest.mark.parametrize("count", [46, 47, 48])
def test_every_index_exactly_once_an_epoch_in_the_same_batches_however_many_share_them(monkeypatch, count):
    orders = []
    for epoch in (1, 2):
        for world in (1, 2, 3):
            steps = list(zip(*shares(monkeypatch, count, world, epoch), strict=True))
            assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in steps)
            orders.append([{index for share in step for index in share} for step in steps])
            assert sorted(index for step in orders[-1] for index in step) == list(range(count))
    assert orders[0] == orders[1] == orders[2] != orders[3] == orders[4] == orders[5]


def test_a_batch_that_cannot_be_shared_out(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for model, batch_size, named in (("lenet", 61, "2 processes"), ("lenet_bn", 1434, "2 for each")):
        with pytest.raises(UserError, match=named):
            distributed.check_batch_size(batch_size, 1437, main.MODELS[model]())
    distributed.check_batch_size(1434, 1438, main.MODELS["lenet_bn"]())


def test_processes_draw_each_for_itself(monkeypatch, small):
    """The seed of an epoch depends on the process: else each would warp its share by the same draws."""
    seeds, settings = [], main.Settings("mlp", augment=True, epochs=1)
    sets = [MNIST(small / f"{split}.tar") for split in ("train", "test")]
    training = main.make_training(settings, main.MODELS["mlp"](), *sets)
    for name in ("train", "test", "recalibrate_batch_norm"):
        monkeypatch.setattr(main, name, lambda *_: (1.0, 0.5))
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        main.train_and_test(training, 1, settings)
    assert len(set(seeds)) == 2
