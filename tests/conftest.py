"""Fixtures that all tests share."""

import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import takewhile
from pathlib import Path

import pytest
import runs
import torch

import dataset
from support.figures.axes import STYLE

ROOT = Path(__file__).resolve().parent.parent

# A job that a shell started with & ignores Ctrl-C, and so would every run that is tested in it.
signal.signal(signal.SIGINT, signal.default_int_handler)
STYLE["figure.dpi"] = 60  # figures are drawn in a moment
# An autograd that sees a GPU at its first call starts threads, and nobody may fork then, as many tests do. So there is
# none unless it is asked for, as test_cuda.py says, and the first call comes before fake tensors pretend that there is.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
torch.ones((), requires_grad=True).backward()


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of the whole MNIST, train.tar.gz and test.tar.gz."""
    return ROOT / "data"


@pytest.fixture(scope="session")
def sample(mnist_dir, tmp_path_factory) -> Path:
    """The first 1,437 and 360 digits of MNIST: a run of an epoch takes a moment."""
    return runs.first_images(mnist_dir, tmp_path_factory.mktemp("sample") / "sample", 1437, 360)


@pytest.fixture
def train_set(sample) -> dataset.MNIST:
    return dataset.MNIST(sample / "train.tar")


@pytest.fixture
def test_set(sample) -> dataset.MNIST:
    return dataset.MNIST(sample / "test.tar")


@pytest.fixture(scope="module")
def small(sample, tmp_path_factory) -> Path:
    """210 training and 70 test images of the sample, all ten digits in both: a loop to be watched."""
    return runs.first_images(sample, tmp_path_factory.mktemp("data") / "small", 210, 70)


@pytest.fixture(scope="module")
def cheap_picture():
    with pytest.MonkeyPatch.context() as patch:
        runs.cheap_picture(patch)
        yield


@pytest.fixture(scope="module")
def one_thread():
    """Networks this small gain nothing from more, and tests run beside each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def as_nobody(tmp_path) -> Callable[[], AbstractContextManager[None]]:
    """`with as_nobody():` - root may read everything, so be someone else, who may only see the test's folder."""

    if os.geteuid() != 0:
        return nullcontext
    top = Path(tempfile.gettempdir())
    for folder in takewhile(lambda folder: folder != top, (tmp_path, *tmp_path.parents)):
        folder.chmod(0o755)  # pytest keeps these to their owner

    def context() -> ExitStack:
        stack = ExitStack()
        stack.callback(os.seteuid, 0)
        os.seteuid(65534)
        return stack

    return context
