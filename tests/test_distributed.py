"""Several processes, started by torchrun: the same training, shared out."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import faults
import pytest
import torch
from torch.nn import functional as F

import dataset
import main
from support.compute import distributed
from support.terminal import UserError

ROOT = Path(main.__file__).resolve().parent
PATIENCE = 300  # seconds; a run takes ten, and several times that on a machine with other work
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")


def command(count: int, folder: Path, sample: Path, *options: str) -> list[str]:
    """torchrun, and what it is to run with its files below `folder`, under the model's name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(port)]
    places = ["--output-dir", str(folder / "results"), "--checkpoint-dir", str(folder / "checkpoints")]
    # a rate so low that training does not blow rounding up: at 0.05 LeNet-5's first steps here are chaotic
    options = ["--epochs", "3", "--batch-size", "60", "--lr", "0.01", "--device", "cpu", "--name", "run", *options]
    return [sys.executable, *launcher, str(ROOT / "main.py"), "--data-dir", str(sample), *places, *options]


def torchrun(count: int, folder: Path, sample: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(count, folder, sample, *options),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=ENVIRONMENT,
    )


def history_of(folder: Path) -> dict:
    return json.loads((folder / "results" / "run.json").read_text())


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "run.weights.pt", weights_only=True)["network"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def two(sample, tmp_path_factory):
    """LeNet-5 trained by two processes: the folder, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    ended = torchrun(2, folder, sample, "--model", "lenet")
    assert ended.returncode == 0, ended.stderr
    return folder, ended


def assert_close(ours: Path, theirs: Path) -> None:
    """The same losses to 1e-4, the same weights to 1e-3: only the order of the sums differs."""
    one, other = history_of(ours), history_of(theirs)
    for metric in ("train_loss", "test_loss"):
        assert one[metric] == pytest.approx(other[metric], abs=1e-4)
    for metric, images in (("train_accuracy", 1437), ("test_accuracy", 360)):
        assert one[metric] == pytest.approx(other[metric], abs=1.5 / images)
    weights = weights_of(theirs)
    for key, value in weights_of(ours).items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-3)


def alone(folder: Path, sample: Path, *options: str) -> None:
    """The same command in this process, without torchrun."""
    argv = command(1, folder, sample, *options)
    main.main(argv[argv.index("--data-dir") :])


def test_two_processes_train_as_one_does(two, sample, tmp_path):
    folder, _ = two
    alone(tmp_path, sample, "--model", "lenet")
    assert_close(folder, tmp_path)


def test_two_processes_train_the_mlp_as_one_does(sample, tmp_path):
    ended = torchrun(2, tmp_path / "two", sample, "--model", "mlp")
    assert ended.returncode == 0, ended.stderr
    alone(tmp_path / "one", sample, "--model", "mlp")
    assert_close(tmp_path / "two", tmp_path / "one")


MEASURE = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
import main
from support.compute import distributed
main.TEST_BATCH = 100  # so that the sample makes 15 batches, which two processes cannot share evenly
torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
network, train_set = main.MODELS["lenet_bn"](), main.MNIST(sys.argv[2])
main.recalibrate_batch_norm(network, network, train_set)
figures = main.test(network, train_set)

def gradients(size):
    # of one step on the first `size` images, each process on its share: the last share is smaller
    textbook = main.MODELS["lenet"]()
    batches = distributed.Batches(train_set, size, seed=0)
    batches.order = lambda: torch.arange(int(sys.argv[4]))
    shared = distributed.wrap(textbook, batches)
    given = []
    for images, labels in batches:
        textbook.zero_grad()
        torch.nn.functional.cross_entropy(shared(images), labels).backward()
        given.append([weight.grad.clone() for weight in textbook.parameters()])
    return given

torch.manual_seed(1)
made = gradients(12)
kept = {"state": network.state_dict(), "figures": figures, "gradients": made}
torch.save(kept, f"{sys.argv[3]}/{distributed.rank()}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(("count", "images"), [(2, 21), (3, 31)])
def test_gradients_statistics_and_figures_are_means_over_images_also_where_shares_are_unequal(
    sample, tmp_path, monkeypatch, count, images
):
    """The last batches of 9 and 7 images make shares of 5 and 4, and of 3, 2 and 2."""
    script = tmp_path / "measure.py"
    script.write_text(MEASURE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    places = [str(ROOT), str(sample / "train.tar"), str(tmp_path), str(images)]
    subprocess.run([*launcher, str(script), *places], check=True, timeout=PATIENCE, env=ENVIRONMENT)
    monkeypatch.setattr(main, "TEST_BATCH", 100)
    torch.manual_seed(0)
    network, train_set = main.MODELS["lenet_bn"](), dataset.MNIST(sample / "train.tar")
    before = network.norm1.running_mean.clone()
    main.recalibrate_batch_norm(network, network, train_set)
    figures = main.test(network, train_set)
    assert not torch.equal(network.norm1.running_mean, before)
    torch.manual_seed(1)
    textbook, expected = main.MODELS["lenet"](), []
    for indices in torch.arange(images).split(12):
        drawn, labels = train_set[indices]
        gradients = torch.autograd.grad(F.cross_entropy(textbook(drawn), labels), list(textbook.parameters()))
        expected.append(list(gradients))
    for process in range(count):
        shared = torch.load(tmp_path / f"{process}.pt", weights_only=True)
        for name, value in network.named_buffers():
            if value.is_floating_point():
                torch.testing.assert_close(shared["state"][name], value, rtol=1e-5, atol=1e-6)
        assert shared["figures"] == pytest.approx(figures, rel=1e-5)
        torch.testing.assert_close(shared["gradients"], expected, rtol=1e-4, atol=1e-6)


def test_only_the_first_process_prints_and_writes(two):
    folder, ended = two
    assert re.findall(r"^epoch (\d)/3", ended.stdout, re.MULTILINE) == ["1", "2", "3"]
    assert ended.stdout.count("lowest test loss") == 1
    assert ended.stderr.count("THIS IS NOT MNIST") == 1
    assert history_of(folder)["processes"] == [2, 2, 2]
    assert {path.name for path in (folder / "results").iterdir()} == {
        f"run.{ending}" for ending in ("json", "npz", "png")
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
def test_a_process_that_dies_ends_the_run_and_the_run_resumes(two, sample, tmp_path):
    folder, _ = two
    with subprocess.Popen(
        command(2, tmp_path, sample, "--model", "lenet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    ) as launcher:
        try:
            for line in launcher.stdout:
                if line.startswith("epoch 1/3"):
                    os.kill(children(launcher.pid)[-1], signal.SIGKILL)
                    break
            out, _ = launcher.communicate(timeout=PATIENCE)
        finally:
            launcher.kill()
    assert launcher.returncode not in (0, None)
    # a process that hears of it from torchrun first says how to resume, with figures so far; none may write a result
    assert "lowest test loss" not in out.partition("stopped; ")[0]
    assert "plot  " not in out
    assert not list((tmp_path / "results").iterdir())
    assert not faults.check_whole(tmp_path)

    # killed so soon that the first checkpoint was not there yet, the run starts anew
    resume = ["--resume"] if faults.unfinished(tmp_path) else []
    ended = torchrun(2, tmp_path, sample, "--model", "lenet", *resume)
    assert ended.returncode == 0, ended.stderr
    for name in ("checkpoints/run.pt", "results/run.json", "results/run.npz"):
        assert faults.difference(faults.read(tmp_path / name), faults.read(folder / name)) is None


@pytest.mark.parametrize(
    "options",
    [
        ["--lr", "-1"],  # before they know of one another
        ["--data-dir", "nowhere"],  # what the first one finds
        ["--batch-size", "61"],  # what all find
    ],
)
def test_an_error_that_the_user_can_fix_is_said_once_and_alone(sample, tmp_path, options):
    """In the first process's words; torchrun's own report of the exit statuses comes behind it."""
    ended = torchrun(2, tmp_path, sample, "--model", "lenet", *options)
    assert ended.returncode not in (0, None)
    assert ended.stdout == ""
    before, said, behind = ended.stderr.partition("error: ")
    assert said
    assert before == "" or "Traceback" not in before
    assert behind.count("error: ") == 0, ended.stderr
    report = behind.partition("Sending process")[2] or behind.partition("failed (exitcode")[2]
    assert behind.count("Traceback") == report.count("Traceback") <= 1, "torchrun's own"


def test_a_dry_run_of_two_processes_writes_nothing(sample, tmp_path):
    ended = torchrun(2, tmp_path, sample, "--model", "lenet_bn", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("dry run") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux's scheduler")
@pytest.mark.parametrize("chosen", ["OTHER", "IDLE"])
def test_processes_take_turns_unless_the_user_chose_otherwise(monkeypatch, chosen):
    given = []
    monkeypatch.setattr(os, "sched_getscheduler", lambda pid: getattr(os, f"SCHED_{chosen}"))
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, parameter: given.append(policy))
    distributed.take_turns()
    assert given == ([os.SCHED_BATCH] if chosen == "OTHER" else [])


# --- shares, in one process ------------------------------------------------------------------------------------------


class Numbers(torch.utils.data.Dataset):
    """Images that are their own index."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        return index.float(), index


def shares(monkeypatch, count: int, batch_size: int, world: int, epoch: int = 1, seed: int = 4) -> list[list[list]]:
    """By process: its batches, as lists of indices."""
    found = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: world)
        batches = distributed.Batches(Numbers(count), batch_size, seed)
        batches.epoch = epoch
        made = [(labels.tolist(), batches.part) for _, labels in batches]
        assert len(made) == len(batches)
        last = count % batch_size or batch_size
        for place, (indices, part) in enumerate(made):
            everywhere = batch_size if place < len(made) - 1 else last
            assert part == pytest.approx(len(indices) / everywhere), "its share of the batch"
        found.append([indices for indices, _ in made])
    return found


@pytest.mark.parametrize("count", [46, 47, 48])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_index_exactly_once_an_epoch(monkeypatch, world, count):
    orders = []
    for epoch in (1, 2):
        made = shares(monkeypatch, count, 12, world, epoch)
        assert sorted(index for share in made for batch in share for index in batch) == list(range(count))
        for batches in zip(*made, strict=True):
            assert max(map(len, batches)) - min(map(len, batches)) <= 1
        orders.append(made)
    assert orders[0] != orders[1]


def test_a_global_batch_holds_the_same_images_however_many_share_it(monkeypatch):
    def batches(world: int) -> list[set[int]]:
        steps = zip(*shares(monkeypatch, 31, 12, world), strict=True)
        return [{index for share in step for index in share} for step in steps]

    assert batches(1) == batches(2) == batches(3)
    assert [len(batch) for batch in batches(1)] == [12, 12, 7]


@pytest.mark.parametrize(("batch_size", "named"), [(61, "2 processes"), (1436, "at least 2")])
def test_a_batch_that_cannot_be_shared_out(monkeypatch, batch_size, named):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match=named):
        distributed.check_batch_size(batch_size, 1437, main.MODELS["lenet"]())


def test_processes_draw_each_for_itself(monkeypatch, small, tmp_path):
    """The seed of an epoch depends on the process: else each would warp its share by the same draws."""
    seeds = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "manual_seed", lambda seed: seeds.append(seed))
            patch.setattr(main, "train", lambda *_: (1.0, 0.5))
            patch.setattr(main, "recalibrate_batch_norm", lambda *_: None)
            patch.setattr(main, "test", lambda *_: (1.0, 0.5))
            arguments = main.parse_arguments(["--model", "mlp", "--augment"])
            sets = [dataset.MNIST(small / f"{split}.tar") for split in ("train", "test")]
            training = main.make_training(arguments, main.MODELS["mlp"](), *sets)
            main.train_and_test(training, 1, arguments)
    assert len(set(seeds)) == len(seeds) == 2
