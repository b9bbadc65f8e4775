"""The usual PyTorch MNIST script, as the yardstick: images are decoded and transformed one by one, every epoch.

    python benchmarks/usual.py --model lenet

The networks are those of model.py, as PyTorch computes them; loss and accuracy are read with `.item()` at every step.
"""

import argparse
import io
import os
import re
import sys
import tarfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from model import MODELS  # noqa: E402 - the project's root is not a package

TO_TENSOR = [transforms.Pad(2), transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
AUGMENT = [
    transforms.RandomRotation(20),
    transforms.RandomAffine(0, translate=(0.1, 0.1)),
    transforms.RandomResizedCrop(28, scale=(0.8, 1.0)),
]


class UsualMNIST(Dataset):
    """The PNGs of a tar archive, kept compressed in memory; each is decoded and transformed when it is asked for."""

    def __init__(self, path: Path, augment: bool = False) -> None:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile()]
            self.pngs = [archive.extractfile(member).read() for member in members]
        self.labels = [int(re.search(r"_(\d)\.png$", member.name)[1]) for member in members]
        self.transform = transforms.Compose([*(AUGMENT if augment else []), *TO_TENSOR])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(io.BytesIO(self.pngs[index]))), self.labels[index]


def run_epoch(network: nn.Module, batches: DataLoader, optimizer: Optimizer | None = None) -> tuple[float, float]:
    """Mean loss and accuracy of one epoch: while the weights change, or of a test if there is no optimizer."""
    network.train(optimizer is not None)
    total, correct = 0.0, 0
    with torch.set_grad_enabled(optimizer is not None):
        for images, labels in batches:
            logits = network(images)
            loss = F.cross_entropy(logits, labels)
            if optimizer:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
    return total / len(batches.dataset), correct / len(batches.dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description="The usual script: loss and accuracy after every epoch.")
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--epochs", type=int, default=50)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    train_set = UsualMNIST(ROOT / "data" / "train.tar.gz", arguments.augment)
    test_set = UsualMNIST(ROOT / "data" / "test.tar.gz")
    loader = {"num_workers": os.cpu_count(), "persistent_workers": True}  # which decode images
    train_batches = DataLoader(train_set, batch_size=128, shuffle=True, **loader)
    test_batches = DataLoader(test_set, batch_size=1000, **loader)
    network = MODELS[arguments.model]()
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(1, arguments.epochs + 1):
        started = time.perf_counter()
        train_loss, train_accuracy = run_epoch(network, train_batches, optimizer)
        test_loss, test_accuracy = run_epoch(network, test_batches)
        line = f"epoch {epoch}/{arguments.epochs}  {time.perf_counter() - started:.2f} s"
        line += f"  train loss {train_loss:.4f}  train accuracy {train_accuracy:.2%}"
        print(f"{line}  test loss {test_loss:.4f}  test accuracy {test_accuracy:.2%}", flush=True)


if __name__ == "__main__":
    main()
