"""What can be said about a GPU without one: PyTorch's fake tensors hold no values, so reading one is an error.

On a GPU the same reading (`.item()`, a comparison, a branch on a value) would make the CPU wait for the device.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import main
from dataset import MNIST
from model import MODELS
from support.compute import distributed


class EpochIsOver(Exception):
    """Raised in place of the one reading that an epoch ends with."""


@pytest.mark.parametrize("name", MODELS)
def test_an_epoch_reads_nothing_from_the_device_before_its_end(sample, monkeypatch, name):
    def read(*values):
        raise EpochIsOver

    monkeypatch.setattr(distributed, "all_reduce_mean", read)
    monkeypatch.setattr(main.copy, "deepcopy", lambda network: MODELS[name]())  # fakes cannot be copied
    train_set = MNIST(sample / "test.tar", augment=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        train_set.images, train_set.labels = mode.from_tensor(train_set.images), mode.from_tensor(train_set.labels)
        settings = main.Settings(name, augment=True, batch_size=64)
        training = main.make_training(settings, MODELS[name](), train_set, train_set)
        training.batches.order = lambda: torch.arange(len(train_set))
        with pytest.raises(EpochIsOver):
            main.train(*training[1:3], training.batches, training.optimizer, training.scheduler)
