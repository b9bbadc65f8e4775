"""Make train.tar and test.tar of the bundled sample: the 1,797 handwritten digits that scikit-learn ships.

    pip install scikit-learn
    python data/sample/make_sample.py

The 8x8 images (0 to 16) are enlarged to 20x20 in the middle of 28x28, as MNIST's digits are placed. The first 1,437
are for training; the last 360 for testing, so that few writers stand in both.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from dataset import SIZE  # noqa: E402 - the project's root is not a package
from support.data.images import write_tar  # noqa: E402

TRAIN = 1437  # four fifths
BOX = 20  # pixels a side, of MNIST's digits


def enlarge(digit: np.ndarray) -> np.ndarray:
    """An 8x8 image, 0 to 16, as uint8 (28, 28)."""
    small = Image.fromarray((digit * 255 / 16).round().astype(np.uint8))
    return np.pad(np.asarray(small.resize((BOX, BOX), Image.Resampling.BICUBIC)), (SIZE - BOX) // 2)


def main() -> None:
    digits = load_digits()
    images = torch.from_numpy(np.stack([enlarge(digit) for digit in digits.images]))
    labels = torch.from_numpy(digits.target)
    write_tar(HERE / "train.tar", "train", images[:TRAIN], labels[:TRAIN])
    write_tar(HERE / "test.tar", "test", images[TRAIN:], labels[TRAIN:])


if __name__ == "__main__":
    main()
