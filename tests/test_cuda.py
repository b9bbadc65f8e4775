"""On a GPU: what is replayed is the network, and a run keeps its promises. Skipped where there is none."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import main
from model import MODELS, CustomMLP, LeNet5
from support.compute.cuda_graphs import LAUNCHED, GraphedStep, graphed
from support.run.callback import Callback

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LABELS = torch.arange(8, device="cuda") if torch.cuda.is_available() else None


@pytest.fixture(autouse=True)
def exact_kernels(monkeypatch):
    """TF32 rounds to 10 bits, and cuDNN may choose another kernel for the same layer."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def on_gpu(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().cuda()


def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True, fused=True)


def test_without_a_gpu_every_step_is_the_one_that_was_given():
    step = graphed(lambda network, optimizer, images, labels: (network(images), labels + 1))
    network = GraphedStep(nn.ReLU())
    for count in (8, 8, 8, 8, 8, 3):
        zeros, twos = step(network, torch.optim.SGD([torch.zeros(1)], 0.1), -torch.ones(count), torch.ones(count))
        assert zeros.tolist() == [0.0] * count
        assert twos.tolist() == [2.0] * count
    assert network.graph is None


def test_a_network_that_is_replayed_is_the_network():
    network = LeNet5()
    replayed, images = GraphedStep(network), torch.randn(2, 1, 32, 32)
    assert list(replayed.parameters()) == list(network.parameters())
    assert torch.equal(replayed(images), network(images))
    assert not replayed.eval().network.training


@needs_gpu
@pytest.mark.parametrize("name", MODELS)
def test_steps_replayed_equal_steps_launched(name):
    """Full batches and smaller ones between them, at a rate that changes; the optimizer's numbers stay numbers."""
    found = []
    for wrap in (lambda network: network, GraphedStep):
        network = on_gpu(name).train()
        optimizer, called = make_optimizer(network), wrap(network)
        generator, steps = torch.Generator("cuda").manual_seed(1), []
        for number, count in enumerate((8, 8, 8, 3, 8, 8, 8, 5, 8)):
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + number)
            images = torch.randn(count, 1, 32, 32, generator=generator, device="cuda")
            loss, logits = main.train_step(called, optimizer, images, LABELS[:count])
            steps.append((loss.clone(), logits.clone(), copy.deepcopy(network.state_dict())))
            assert isinstance(optimizer.param_groups[0]["lr"], float)
        found.append((steps, optimizer.state_dict()))
    assert called.graph is not None
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("options", [["--model", "lenet"], ["--model", "mlp"], ["--model", "lenet_bn", "--augment"]])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(small, tmp_path, capsys, options):
    """And its weights are read on the CPU, where they say the same of the test images."""

    class StopsAfterOne(Callback):
        epochs = 0

        def on_epoch_end(self, network, average, train_set):
            self.epochs += 1
            if self.epochs == 2:
                raise KeyboardInterrupt
            return {}

    histories = []
    for folder, stops in (("whole", False), ("stopped", True)):
        files = ["--output-dir", str(tmp_path / folder), "--checkpoint-dir", str(tmp_path / folder)]
        data = ["--device", "cuda", "--data-dir", str(small), "--name", "run"]
        argv = [*options, "--epochs", "3", "--lr", "0.01", *data, *files]
        if stops:
            with pytest.raises(SystemExit):
                main.main(argv, StopsAfterOne())
            argv.append("--resume")
        main.main(argv)
        histories.append(json.loads((tmp_path / folder / "run.json").read_text()))
    whole, stopped = histories
    assert whole["device"] == torch.cuda.get_device_name()
    for name in ("train_loss", "test_loss"):
        assert stopped[name] == pytest.approx(whole[name], rel=1e-3)
    capsys.readouterr()
    weights = str(tmp_path / "whole" / "run.weights.pt")
    main.main(["--test-only", "--weights", weights, "--data-dir", str(small), "--device", "cpu"])
    loss = float(capsys.readouterr().out.split("test loss ")[1].split()[0])
    assert loss == pytest.approx(whole["test_loss"][-1], rel=1e-2)


@needs_gpu
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_a_process_of_torchrun_trains_as_one_without(small, tmp_path):
    """NCCL and synchronized batch normalization; a second process would need a second GPU."""
    losses = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]):
        folder = str(tmp_path / f"{len(launcher)}")
        files = ["--output-dir", folder, "--checkpoint-dir", folder, "--data-dir", str(small), "--name", "run"]
        argv = ["--model", "lenet_bn", "--epochs", "2", "--lr", "0.01", "--device", "cuda", *files]
        subprocess.run([sys.executable, *launcher, "main.py", *argv], cwd=Path(main.__file__).parent, check=True)
        losses.append(json.loads(Path(folder, "run.json").read_text())["test_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@needs_gpu
def test_a_network_of_your_own_is_not_replayed(small, tmp_path, monkeypatch):
    class Own(CustomMLP):
        def forward(self, images):
            self.seen = images.sum().item()  # would break a capture
            return super().forward(images)

    monkeypatch.setitem(MODELS, "own", Own)
    files = ["--output-dir", str(tmp_path), "--checkpoint-dir", str(tmp_path), "--data-dir", str(small)]
    main.main(["--model", "own", "--epochs", "1", "--device", "cuda", *files])
    assert list(tmp_path.glob("own*.json"))


@needs_gpu
def test_an_epoch_waits_for_the_gpu_once(small, monkeypatch):
    """Apart from the shuffled order's way there and the capture: PyTorch raises at a synchronizing call in between."""
    train_set = main.MNIST(small / "train.tar").to("cuda")
    arguments = main.parse_arguments(["--model", "lenet_bn", "--augment", "--batch-size", "30"])
    training = main.make_training(arguments, on_gpu("lenet_bn"), train_set, train_set)
    train_set.augment = main.AUGMENT
    ready = list(training.batches)
    for batch in ready[: LAUNCHED + 1]:
        main.train_step(training.wrapped, training.optimizer, *batch)
    assert training.wrapped.graph is not None
    torch.cuda.set_sync_debug_mode("error")
    monkeypatch.setattr(main.processes, "all_reduce_mean", lambda *_: (0.0, 0.0))
    monkeypatch.setattr(main, "check_finite", lambda *_: None)
    try:
        main.train(training.wrapped, training.average, ready, training.optimizer, training.scheduler)
    finally:
        torch.cuda.set_sync_debug_mode("default")
