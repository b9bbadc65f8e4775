"""The tuning log: how recipes do on the last 10,000 training images, held out. No test image has a part in it.

    python benchmarks/tune.py --data-dir data --rows recipe warm-up-5 --seeds 3
    python benchmarks/tune.py --report > benchmarks/tuning.md

Each run is a line of tuning.jsonl, added as it ends; a run that is there is not trained again, so several processes can
work side by side (one thread each: OMP_NUM_THREADS=1) on different rows. The report compares rows seed by seed: the
difference of their last epochs and its standard error, over seeds.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import main  # noqa: E402 - the project's root is not a package
from dataset import MNIST  # noqa: E402
from model import MODELS, CustomMLP  # noqa: E402
from support.command import number, say  # noqa: E402
from support.download import find_data  # noqa: E402

LOG = Path(__file__).with_name("tuning.jsonl")
HELD_OUT = 10_000  # the last training images
NETWORKS = ("lenet", "lenet_bn --augment", "mlp")


class Row(NamedTuple):
    """A recipe by what it changes: constants of main.py, options of its command line, and the network."""

    what: str
    constants: dict[str, float] = {}
    options: tuple[str, ...] = ()
    change: Callable[[nn.Module], None] = lambda network: None
    mlp: type[nn.Module] = CustomMLP
    networks: tuple[str, ...] = NETWORKS
    epochs: int = 15
    against: str = "before"


class ReluMLP(CustomMLP):
    """The MLP with ReLU."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in (self.f1, self.f2, self.f3):
            x = F.relu(layer(x))
        return self.f4(x)


@torch.no_grad()
def he_uniform(network: nn.Module) -> None:
    """He et al., "Delving Deep into Rectifiers", 2015: weights of a variance of 2 / fan-in, biases of 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


ONE = {"WARM_UP": 1}
FAST = ("--batch-size", "256", "--lr", "0.1")
BN = ("lenet_bn",)
ROWS = {
    "before": Row("warm-up 5 epochs, rate 0.05, batches of 128, PyTorch's first weights", {"WARM_UP": 5}),
    "warm-up-1": Row("warm-up 1 epoch", ONE),
    "he": Row("warm-up 1, He's first weights", ONE, change=he_uniform),
    "rate-0.1": Row("warm-up 1, rate 0.1", ONE, ("--lr", "0.1")),
    "batch-256": Row("warm-up 1, rate 0.1, batches of 256", ONE, FAST),
    "batch-256-he": Row("warm-up 1, rate 0.1, batches of 256, He's first weights", ONE, FAST, he_uniform),
    "relu": Row("warm-up 1, ReLU in the MLP", ONE, mlp=ReluMLP, networks=("mlp",), against="warm-up-1"),
    "relu-he": Row("warm-up 1, ReLU in the MLP, He", ONE, change=he_uniform, mlp=ReluMLP, networks=("mlp",), against="he"),
}


def train_row(name: str, network: str, seed: int, data_dir: str | None) -> dict[str, Any]:
    """Held-out loss and accuracy of each epoch of one run."""
    row = ROWS[name]
    for constant, value in row.constants.items():
        setattr(main, constant, value)
    argv = ["--model", *network.split(), "--epochs", str(row.epochs), "--seed", str(seed), *row.options]
    arguments = main.parse_arguments(argv)
    train_set, held_out = MNIST(find_data(data_dir).train).split(HELD_OUT)
    torch.manual_seed(seed)
    first = row.mlp() if arguments.model == "mlp" else MODELS[arguments.model]()
    row.change(first)
    training = main.make_training(arguments, first, train_set, held_out)
    losses, accuracies, seconds = [], [], []
    for epoch in range(1, row.epochs + 1):
        figures = main.train_and_test(training, epoch, arguments)
        losses.append(round(figures["test_loss"], 5))
        accuracies.append(round(figures["test_accuracy"], 4))
        seconds.append(round(figures["seconds"], 2))
    run = {"row": name, "network": network, "seed": seed, "epochs": row.epochs}
    return run | {"loss": losses, "accuracy": accuracies, "seconds": seconds}


def read_log() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []


def train_rows(arguments: argparse.Namespace) -> None:
    for seed in range(arguments.seeds):
        for name in arguments.rows:
            for network in arguments.networks or ROWS[name].networks:
                done = {(run["row"], run["network"], run["seed"], run["epochs"]) for run in read_log()}
                if (name, network, seed, ROWS[name].epochs) in done:
                    continue
                run = train_row(name, network, seed, arguments.data_dir)
                with open(LOG, "a") as file:
                    file.write(json.dumps(run) + "\n")
                say(f"{name}, {network}, seed {seed}: {run['loss'][-1]:.4f} / {run['accuracy'][-1]:.2%}")


# --- the report -------------------------------------------------------------------------------------------------------


def report() -> str:
    """The log as Markdown: a table a network."""
    runs = read_log()
    parts = [Path(__file__).with_name("tuning_head.md").read_text().rstrip()] if False else []
    for network in dict.fromkeys(run["network"] for run in runs):
        header = "| recipe | epochs | seeds | loss | accuracy | against | loss | accuracy, points | after 1 epoch | to 99.0 % |"
        lines = [f"## `{network}`", "", header, "| --- " * 10 + "|"]
        lines += [table_line(name, network, runs) for name in ROWS if chosen(runs, name, network)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def chosen(runs: list[dict[str, Any]], name: str, network: str) -> dict[int, dict[str, Any]]:
    """The runs of a row by their seeds."""
    return {run["seed"]: run for run in runs if (run["row"], run["network"]) == (name, network)}


def table_line(name: str, network: str, runs: list[dict[str, Any]]) -> str:
    here, there = chosen(runs, name, network), chosen(runs, ROWS[name].against, network)
    pairs = [(here[seed], there[seed]) for seed in here.keys() & there.keys() if name != ROWS[name].against]
    cells = [ROWS[name].what, str(ROWS[name].epochs), str(len(here))]
    cells += [f"{np.mean([run['loss'][-1] for run in here.values()]):.4f}"]
    cells += [f"{100 * np.mean([run['accuracy'][-1] for run in here.values()]):.2f} %"]
    cells += [ROWS[name].against if pairs else ""]
    cells += [difference([a[key][-1] - b[key][-1] for a, b in pairs], scale) for key, scale in (("loss", 1), ("accuracy", 100))]
    cells += [f"{100 * np.median([run['accuracy'][0] for run in here.values()]):.2f} %"]
    return "| " + " | ".join([*cells, to_99([run["accuracy"] for run in here.values()])]) + " |"


def difference(values: list[float], scale: float) -> str:
    """Mean and standard error of the mean."""
    if len(values) < 2:
        return ""
    digits = 4 if scale == 1 else 2
    error = scale * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{scale * np.mean(values):+.{digits}f} ± {error:.{digits}f}"


def to_99(accuracies: list[list[float]]) -> str:
    """The median epoch in which 99.0 % are first reached."""
    first = [next((epoch for epoch, value in enumerate(run, 1) if value >= 0.99), math.inf) for run in accuracies]
    middle = np.median(first)
    return f"{middle:g} epochs" if math.isfinite(middle) else "not reached"


def tune() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="default: those of the row")
    parser.add_argument("--seeds", type=number(int, 1), default=3, help="default: 3")
    parser.add_argument("--data-dir", help="folder of the data, as in main.py")
    parser.add_argument("--report", action="store_true", help="print the log as Markdown and train nothing")
    arguments = parser.parse_args()
    if arguments.report:
        print(report())
    else:
        train_rows(arguments)


if __name__ == "__main__":
    tune()
