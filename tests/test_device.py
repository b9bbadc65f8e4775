"""What can be said about a GPU without one: PyTorch's fake tensors hold no values, so reading one is an error.

On a GPU the same reading (`.item()`, a comparison, a branch on a value) would make the CPU wait for the device.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.data import SequentialSampler

import main
from dataset import MNIST
from model import MODELS


class EpochIsOver(Exception):
    """Raised in place of the one reading that an epoch ends with."""


@pytest.mark.parametrize("name", MODELS)
def test_an_epoch_reads_nothing_from_the_device_before_its_end(sample, monkeypatch, name):
    def read(*values):
        raise EpochIsOver

    monkeypatch.setattr(main, "sum_over_processes", read)
    train_set = MNIST(sample / "test.tar", augment=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        train_set.images, train_set.labels = mode.from_tensor(train_set.images), mode.from_tensor(train_set.labels)
        network = MODELS[name]()
        average = MODELS[name]()
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-3, fused=True)
        main.average_weights(network, average, optimizer, 0)
        batches = main.Batches(train_set, SequentialSampler(train_set), 64)
        with pytest.raises(EpochIsOver):
            main.train(network, batches, optimizer, [0.1] * len(batches))


def test_reading_a_value_of_a_fake_tensor_raises():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(()).item()
