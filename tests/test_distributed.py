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

import main

ROOT = Path(main.__file__).resolve().parent
PATIENCE = 300  # seconds; a run takes ten, and several times that on a machine with other work
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")


def command(processes: int, folder: Path, sample: Path, *options: str) -> list[str]:
    """torchrun, and what it is to run with its files below `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    places = ["--output-dir", str(folder / "results"), "--checkpoint-dir", str(folder / "checkpoints")]
    # a rate so low that training does not blow rounding up: at 0.05 LeNet-5's first steps here are chaotic
    options = ["--epochs", "3", "--batch-size", "60", "--lr", "0.01", "--device", "cpu", *options]
    return [sys.executable, *launcher, str(ROOT / "main.py"), "--data-dir", str(sample), *places, *options]


def torchrun(processes: int, folder: Path, sample: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(processes, folder, sample, *options),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=ENVIRONMENT,
    )


def history_of(folder: Path, name: str) -> dict:
    return json.loads((folder / "results" / f"{name}.json").read_text())


def weights_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.weights.pt", weights_only=True)["network"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def two(sample, tmp_path_factory):
    """LeNet-5 trained by two processes: the folder, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    ended = torchrun(2, folder, sample, "--model", "lenet")
    assert ended.returncode == 0, ended.stderr
    return folder, ended


def assert_close(ours: Path, theirs: Path, name: str) -> None:
    """The same losses to 1e-4, the same weights to 1e-3: only the order of the sums differs."""
    one, other = history_of(ours, name), history_of(theirs, name)
    for metric in ("train_loss", "test_loss"):
        assert one[metric] == pytest.approx(other[metric], abs=1e-4)
    for metric, images in (("train_accuracy", 1437), ("test_accuracy", 360)):
        assert one[metric] == pytest.approx(other[metric], abs=1.5 / images)
    weights = weights_of(theirs, name)
    for key, value in weights_of(ours, name).items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-3)


def alone(folder: Path, sample: Path, *options: str) -> None:
    """The same command in this process, without torchrun."""
    argv = command(1, folder, sample, *options)
    main.main(argv[argv.index("--data-dir") :])


def test_two_processes_train_as_one_does(two, sample, tmp_path):
    folder, _ = two
    alone(tmp_path, sample, "--model", "lenet")
    assert_close(folder, tmp_path, "lenet-sample")


def test_two_processes_train_the_mlp_as_one_does(sample, tmp_path):
    ended = torchrun(2, tmp_path / "two", sample, "--model", "mlp")
    assert ended.returncode == 0, ended.stderr
    alone(tmp_path / "one", sample, "--model", "mlp")
    assert_close(tmp_path / "two", tmp_path / "one", "mlp-sample")


MEASURE = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
import main
main.TEST_BATCH = 100  # so that the sample makes 15 batches, which two processes cannot share evenly
torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
network = main.MODELS["lenet_bn"]()
main.measure_statistics(network, main.MNIST(sys.argv[2]))
torch.save(network.state_dict(), f"{sys.argv[3]}/{main.rank()}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_measure_the_statistics_of_batch_normalization_as_one_does(sample, tmp_path, monkeypatch):
    script = tmp_path / "measure.py"
    script.write_text(MEASURE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    places = [str(ROOT), str(sample / "train.tar"), str(tmp_path)]
    subprocess.run([*launcher, str(script), *places], check=True, timeout=PATIENCE, env=ENVIRONMENT)
    monkeypatch.setattr(main, "TEST_BATCH", 100)
    torch.manual_seed(0)
    network = main.MODELS["lenet_bn"]()
    before = network.norm1.running_mean.clone()
    main.measure_statistics(network, main.MNIST(sample / "train.tar"))
    assert not torch.equal(network.norm1.running_mean, before)
    for process in ("0", "1"):
        shared = torch.load(tmp_path / f"{process}.pt", weights_only=True)
        for name, value in network.named_buffers():
            if value.is_floating_point():
                torch.testing.assert_close(shared[name], value, rtol=1e-5, atol=1e-6)


def test_only_the_first_process_prints_and_writes(two):
    folder, ended = two
    assert re.findall(r"^epoch (\d)/3", ended.stdout, re.MULTILINE) == ["1", "2", "3"]
    assert ended.stdout.count("lowest test loss") == 1
    assert ended.stderr.count("THIS IS NOT MNIST") == 1
    assert history_of(folder, "lenet-sample")["processes"] == 2
    assert {path.name for path in (folder / "results").iterdir()} == {
        f"lenet-sample.{ending}" for ending in ("json", "npz", "png")
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
    for name in ("checkpoints/lenet-sample.pt", "results/lenet-sample.json", "results/lenet-sample.npz"):
        assert faults.difference(faults.read(tmp_path / name), faults.read(folder / name)) is None


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux's scheduler")
@pytest.mark.parametrize("chosen", ["OTHER", "IDLE"])
def test_processes_take_turns_unless_the_user_chose_otherwise(chosen):
    script = f"import os, main; os.sched_setscheduler(0, os.SCHED_{chosen}, os.sched_param(0)); main.take_turns(); "
    script += "print(os.sched_getscheduler(0))"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(ended.stdout) == (os.SCHED_BATCH if chosen == "OTHER" else os.SCHED_IDLE)


@pytest.mark.parametrize("count", [10, 11, 12])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_index_exactly_once_an_epoch(processes, count):
    orders = []
    for epoch in (1, 2):
        shares = []
        for rank in range(processes):
            sampler = main.ExactSampler(range(count), processes, rank, seed=4)
            sampler.set_epoch(epoch)
            shares.append(list(sampler))
            assert len(sampler) == len(shares[-1])
        assert sorted(sum(shares, [])) == list(range(count))  # noqa: RUF017
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        orders.append(shares)
    assert orders[0] != orders[1]


def test_a_global_batch_holds_the_same_images_however_many_share_it():
    def batch(processes: int) -> set[int]:
        samplers = [main.ExactSampler(range(30), processes, rank, seed=1) for rank in range(processes)]
        return {index for sampler in samplers for index in list(sampler)[: 12 // processes]}

    assert batch(1) == batch(2) == batch(3)
    assert len(batch(1)) == 12


@pytest.mark.parametrize(("batch_size", "named"), [(61, "2 processes"), (1436, "at least 2")])
def test_a_batch_that_cannot_be_shared_out(monkeypatch, batch_size, named):
    monkeypatch.setattr(main, "world_size", lambda: 2)
    arguments = main.parse_arguments(["--model", "lenet", "--batch-size", str(batch_size)])
    with pytest.raises(main.UserError, match=named):
        main.check_batches(arguments, 1437)
