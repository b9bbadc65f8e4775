"""What holds on a GPU: without one, of which networks steps are replayed, and that an epoch reads nothing from it.

Only on a GPU: that a run keeps its promises. CUDA_VISIBLE_DEVICES=0 python -m pytest -n 0 tests/test_cuda.py
"""

import copy
import subprocess
import sys

import pytest
import torch
from runs import After, command, history_of, interrupt, start
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import main
from model import MODELS, LeNet5
from support.compute import GraphedStep, distributed
from support.compute.cuda_graphs import EAGER_STEPS

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and CUDA_VISIBLE_DEVICES=0")


@pytest.fixture(autouse=True)
def exact_kernels(monkeypatch):
    """TF32 rounds to 10 bits, and cuDNN may choose another kernel for the same layer."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


EDITS = {
    "none": lambda self, x: x,
    "random numbers": lambda self, x: self.dropout(x),
    "a branch on a value": lambda self, x: x if x.sum() > 0 else -x,
    "only in training": lambda self, x: x.cpu() if self.training else x,
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_network_that_does_anything_unusual_is_not_replayed(edit):
    edited = {"forward": lambda self, x: LeNet5.forward(self, EDITS[edit](self, x))}
    network = type("Edited", (LeNet5,), edited)(batch_norm=True)
    network.dropout = nn.Dropout()
    assert GraphedStep(network).replayable == (edit == "none")


@pytest.mark.parametrize("name", MODELS)
def test_an_epoch_reads_nothing_from_the_device_before_its_end(sample, monkeypatch, name):
    """PyTorch's fake tensors hold no values: reading one, which makes the CPU wait for a GPU, is an error."""
    monkeypatch.setattr(distributed, "all_reduce_mean", lambda *_: (0.0, 0.0))  # the one reading, at its end
    monkeypatch.setattr(main.copy, "deepcopy", lambda network: MODELS[name]())  # fakes cannot be copied
    train_set = main.MNIST(sample / "test.tar", augment=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        train_set.images, train_set.labels = mode.from_tensor(train_set.images), mode.from_tensor(train_set.labels)
        settings = main.Settings(name, augment=True, batch_size=64)
        training = main.Training(settings, MODELS[name](), train_set)
        training.batches.order = lambda: torch.arange(len(train_set))
        main.train(training.wrapped, training.average, training.batches, training.optimizer, training.scheduler)


@needs_gpu
@pytest.mark.parametrize("name", MODELS)
def test_steps_replayed_equal_steps_launched(name):
    """Full batches and smaller ones between them, at a rate that changes; the optimizer's numbers stay numbers."""
    found = []
    for wrap in (lambda network: network, GraphedStep):
        torch.manual_seed(0)
        network = MODELS[name]().cuda().train()
        optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True, fused=True)
        called, generator, steps = wrap(network), torch.Generator("cuda").manual_seed(1), []
        for number, count in enumerate((8, 8, 8, 3, 8, 8, 8, 5, 8)):
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + number)
            images = torch.randn(count, 1, 32, 32, generator=generator, device="cuda")
            loss, logits = main.train_step(called, optimizer, images, torch.arange(count, device="cuda"))
            steps.append((loss.clone(), logits.clone(), copy.deepcopy(network.state_dict())))
            assert isinstance(optimizer.param_groups[0]["lr"], float)
        found.append((steps, optimizer.state_dict()))
    assert called.graph is not None
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@needs_gpu
@pytest.mark.parametrize("options", [["--model", "lenet"], ["--model", "lenet_bn", "--augment"]])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(small, tmp_path, options):
    options, losses = [*options, "--epochs", "3", "--lr", "0.01", "--device", "cuda"], []
    for stopped in (False, True):
        folder = tmp_path / f"{stopped}"
        callback = After(3, interrupt() if stopped else lambda: None)
        assert start(folder, small, *options, callback=callback).status == 130 * stopped
        assert start(folder, small, *options, "--resume").status == 0
        losses.append(history_of(folder)["test_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@needs_gpu
def test_a_process_of_torchrun_trains_as_one_without(small, tmp_path):
    """NCCL and synchronized batch normalization; a second process would need a second GPU."""
    losses = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]):
        folder = tmp_path / f"{len(launcher)}"
        argv = command(folder, small, "--model", "lenet_bn", "--lr", "0.01", "--device", "cuda")
        subprocess.run([sys.executable, *launcher, main.__file__, *argv], check=True)
        losses.append(history_of(folder)["test_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@needs_gpu
def test_an_epoch_waits_for_the_gpu_once(small, monkeypatch):
    """Apart from the shuffled order's way there and the capture: PyTorch raises at a synchronizing call in between."""
    train_set = main.MNIST(small / "train.tar").to("cuda")
    settings = main.Settings("lenet_bn", augment=True, batch_size=30)
    training = main.Training(settings, LeNet5(batch_norm=True).cuda(), train_set)
    train_set.augment = main.AUGMENT
    ready = list(training.batches)
    for batch in ready[: EAGER_STEPS + 1]:
        main.train_step(training.wrapped, training.optimizer, *batch)
    assert training.wrapped.graph is not None
    monkeypatch.setattr(distributed, "all_reduce_mean", lambda *_: (0.0, 0.0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        main.train(training.wrapped, training.average, ready, training.optimizer, training.scheduler)
    finally:
        torch.cuda.set_sync_debug_mode("default")
