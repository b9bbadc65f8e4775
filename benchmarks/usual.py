"""The usual PyTorch MNIST script, as the yardstick: images are decoded and transformed one by one, every epoch.

    python benchmarks/usual.py --model lenet --data-dir data

The networks are the plain ones, in the usual order of layers; the figures are read with `.item()` after every step.
"""

import argparse
import io
import os
import re
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = 0.1307, 0.3081
TEST_BATCH = 1000

TO_TENSOR = [transforms.Pad(2), transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
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
            self.samples = [
                (archive.extractfile(member).read(), int(re.search(r"_(\d)\.png$", member.name)[1]))
                for member in members
            ]
        self.transform = transforms.Compose([*(AUGMENT if augment else []), *TO_TENSOR])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        png, label = self.samples[index]
        return self.transform(Image.open(io.BytesIO(png))), label


def usual_network(name: str) -> nn.Module:
    """The network of that name (lenet, mlp, lenet_bn), with the layers in the order in which they are usually drawn."""
    if name == "mlp":
        sizes = [32 * 32, 44, 120, 84]
        layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(84, 10))
    norm2d, norm1d = (nn.BatchNorm2d, nn.BatchNorm1d) if name == "lenet_bn" else (lambda n: nn.Identity(),) * 2
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), norm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), norm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), norm1d(120), nn.ReLU()),
        *(nn.Linear(120, 84), norm1d(84), nn.ReLU()),
        nn.Linear(84, 10),
    )


def endless(batches: DataLoader) -> Iterator:
    """The batches of one epoch after the other."""
    while True:
        yield from batches


class UsualScript:
    """The usual training and test steps, to be run part by part. workers: of the DataLoader."""

    def __init__(self, name: str, train_set: UsualMNIST, test_set: UsualMNIST, batch_size: int, workers: int) -> None:
        self.network = usual_network(name)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)
        self.loss = nn.CrossEntropyLoss()
        options = {"num_workers": workers, "persistent_workers": workers > 0}
        self.train_batches = endless(DataLoader(train_set, batch_size, shuffle=True, **options))
        self.test_batches = endless(DataLoader(test_set, TEST_BATCH, **options))

    def train(self, steps: int) -> tuple[float, int]:
        """The sum of the losses of so many batches, and how many images were right."""
        self.network.train()
        total, correct = 0.0, 0
        for _ in range(steps):
            images, labels = next(self.train_batches)
            self.optimizer.zero_grad()
            logits = self.network(images)
            loss = self.loss(logits, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
            correct += (logits.argmax(1) == labels).sum().item()
        return total, correct

    @torch.no_grad()
    def test(self, steps: int) -> tuple[float, int]:
        """As `train`."""
        self.network.eval()
        total, correct = 0.0, 0
        for _ in range(steps):
            images, labels = next(self.test_batches)
            logits = self.network(images)
            total += self.loss(logits, labels).item()
            correct += (logits.argmax(1) == labels).sum().item()
        return total, correct


def main() -> None:
    parser = argparse.ArgumentParser(description="The usual script: loss and accuracy after every epoch.")
    parser.add_argument("--model", choices=("lenet", "mlp", "lenet_bn"), required=True)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of train.tar and test.tar")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    train_set = UsualMNIST(arguments.data_dir / "train.tar", arguments.augment)
    test_set = UsualMNIST(arguments.data_dir / "test.tar")
    script = UsualScript(arguments.model, train_set, test_set, arguments.batch_size, arguments.workers)
    sets = ((script.train, train_set, arguments.batch_size), (script.test, test_set, TEST_BATCH))
    for epoch in range(1, arguments.epochs + 1):
        figures = []
        for run, dataset, size in sets:
            steps = -(-len(dataset) // size)
            total, correct = run(steps)
            figures += [f"loss {total / steps:.4f}", f"accuracy {correct / len(dataset):7.2%}"]
        names = ("train", "train", "test", "test")
        line = "  ".join(f"{name} {figure}" for name, figure in zip(names, figures, strict=True))
        print(f"epoch {epoch:>2}/{arguments.epochs}  {line}", flush=True)


if __name__ == "__main__":
    main()
