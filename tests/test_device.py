"""What can be said about a GPU without one: PyTorch's fake tensors hold no values, so reading one is an error.

On a GPU the same reading (`.item()`, a comparison, a branch on a value) would make the CPU wait for the device.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import main
from dataset import MNIST
from model import MODELS, LeNet5
from support.compute import distributed
from support.compute.fast_layers import use_fast_layers


class EpochIsOver(Exception):
    """Raised in place of the one reading that an epoch ends with."""


def use_fast(network: torch.nn.Module) -> torch.nn.Module:
    """With the layers that `make_training` gives the network: the average has the same."""
    if isinstance(network, LeNet5):
        use_fast_layers(network)
    return network


@pytest.mark.parametrize("name", MODELS)
def test_an_epoch_reads_nothing_from_the_device_before_its_end(sample, monkeypatch, name):
    def read(*values):
        raise EpochIsOver

    monkeypatch.setattr(distributed, "all_reduce_mean", read)
    monkeypatch.setattr(main.copy, "deepcopy", lambda network: use_fast(MODELS[name]()))  # fakes cannot be copied
    train_set = MNIST(sample / "test.tar", augment=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        train_set.images, train_set.labels = mode.from_tensor(train_set.images), mode.from_tensor(train_set.labels)
        arguments = main.parse_arguments(["--model", name, "--augment", "--batch-size", "64"])
        _, shared, average, optimizer, scheduler, _, batches, _ = main.make_training(
            arguments, MODELS[name](), train_set, train_set
        )
        batches.order = lambda: torch.arange(len(train_set))
        with pytest.raises(EpochIsOver):
            main.train(shared, average, batches, optimizer, scheduler)


def test_reading_a_value_of_a_fake_tensor_raises():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(()).item()
