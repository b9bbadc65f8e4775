"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def sample() -> Path:
    """The folder of the bundled sample's train.tar and test.tar."""
    return ROOT / "data" / "sample"


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder of the whole MNIST's train.tar and test.tar: from MNIST_DIR, or the test is skipped."""
    if not os.environ.get("MNIST_DIR"):
        pytest.skip("set MNIST_DIR to the folder of train.tar and test.tar of the whole MNIST")
    return Path(os.environ["MNIST_DIR"])
