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
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
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
from support.data.find import find_data  # noqa: E402
from support.seeds import WEIGHTS, seed_of  # noqa: E402
from support.terminal import number, say  # noqa: E402

LOG = Path(__file__).with_name("tuning.jsonl")
HELD_OUT = 10_000  # the last training images
NETWORKS = ("lenet", "lenet_bn --augment", "mlp")  # what a row concerns unless it says otherwise


class Row(NamedTuple):
    """A recipe by what it changes: constants of main.py, options of its command line, optimizer, network."""

    what: str
    constants: Mapping[str, float] = MappingProxyType({})
    options: tuple[str, ...] = ()
    nesterov: bool = True
    change: Callable[[nn.Module], None] = lambda network: None
    mlp: type[nn.Module] = CustomMLP
    networks: tuple[str, ...] = NETWORKS
    epochs: int = 15
    trained: int = 10**6  # of these epochs: enough for what the row is about
    against: str = "recipe"


class SiluMLP(CustomMLP):
    """The MLP with SiLU (Elfwing, Uchibe and Doya, 2018)."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in (self.f1, self.f2, self.f3):
            x = F.silu(layer(x))
        return self.f4(x)


@torch.no_grad()
def he_uniform(network: nn.Module) -> None:
    """He et al., "Delving Deep into Rectifiers", 2015: weights of a variance of 2 / fan-in, biases of 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


CONSTANTS = {name: getattr(main, name) for name in ("WARMUP_STEPS", "MAX_WARMUP", "MAX_GRAD_NORM")}  # the recipe's
EPOCH = 391  # steps, of 50,000 images in batches of 128
MLP, BOTH_LENETS = ("mlp",), ("lenet", "lenet_bn")
RATES = ("0.1", "0.2", "0.4", "0.8")
ROWS = {
    "recipe": Row("the recipe", against=""),
    "no-clip": Row("gradients of any length", {"MAX_GRAD_NORM": math.inf}),
    "no-nesterov": Row("plain momentum", nesterov=False),
    "warm-up-1": Row("warm-up 1 epoch, plain momentum", {"WARMUP_STEPS": EPOCH}, nesterov=False),
    "warm-up-5": Row("warm-up 5 epochs, plain momentum", {"WARMUP_STEPS": 5 * EPOCH, "MAX_WARMUP": 1}, nesterov=False),
    "he": Row("He's first weights", change=he_uniform),
    "batch-256": Row("rate 0.1, batches of 256", options=("--batch-size", "256", "--lr", "0.1")),
    "silu": Row("SiLU in the MLP", mlp=SiluMLP, networks=MLP),
    "recipe-50": Row("the recipe, 50 epochs", networks=MLP, epochs=50, against=""),
    "silu-50": Row("SiLU in the MLP, 50 epochs", mlp=SiluMLP, networks=MLP, epochs=50, against="recipe-50"),
    **{
        f"epochs-{epochs}": Row(f"--epochs {epochs}", networks=(*BOTH_LENETS, "mlp"), epochs=epochs, against="")
        for epochs in (1, 2, 3)
    },
    "start": Row("the recipe's first 5 epochs", networks=BOTH_LENETS, trained=5, against=""),
    **{
        f"rate-{rate}": Row(
            f"rate {rate}, first 5 epochs", {}, ("--lr", rate), networks=BOTH_LENETS, trained=5, against="start"
        )
        for rate in RATES
    },
}


def train_row(name: str, network: str, seed: int, data_dir: str | None) -> dict[str, Any]:
    """Held-out loss and accuracy of each epoch of one run."""
    row = ROWS[name]
    for constant, value in (CONSTANTS | dict(row.constants)).items():
        setattr(main, constant, value)
    argv = ["--model", *network.split(), "--epochs", str(row.epochs), "--seed", str(seed), *row.options]
    arguments = main.parse_arguments(argv)
    train_set, held_out = MNIST(find_data(data_dir).train).split(HELD_OUT)
    torch.manual_seed(seed_of(WEIGHTS, seed))
    first = row.mlp() if arguments.model == "mlp" else MODELS[arguments.model]()
    row.change(first)
    training = main.make_training(arguments, first, train_set, held_out)
    training.optimizer.param_groups[0]["nesterov"] = row.nesterov
    losses, accuracies, seconds = [], [], []
    for epoch in range(1, min(row.epochs, row.trained) + 1):
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
    parts = []
    for network in dict.fromkeys(run["network"] for run in runs):
        header = "| recipe | epochs | seeds | loss | accuracy "
        header += "| against | loss | accuracy, points | after 1 epoch | to 99.0 % |"
        lines = [f"## `{network}`", "", header, "| --- " * 10 + "|"]
        lines += [table_line(name, network, runs) for name in ROWS if chosen(runs, name, network)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def chosen(runs: list[dict[str, Any]], name: str, network: str) -> dict[int, dict[str, Any]]:
    """The runs of a row by their seeds."""
    return {run["seed"]: run for run in runs if (run["row"], run["network"]) == (name, network)}


def table_line(name: str, network: str, runs: list[dict[str, Any]]) -> str:
    here, there = chosen(runs, name, network), chosen(runs, ROWS[name].against, network)
    pairs = [(here[seed], there[seed]) for seed in here.keys() & there.keys() if ROWS[name].against]
    cells = [ROWS[name].what, str(ROWS[name].epochs), str(len(here))]
    cells += [f"{np.mean([run['loss'][-1] for run in here.values()]):.4f}"]
    cells += [f"{100 * np.mean([run['accuracy'][-1] for run in here.values()]):.2f} %"]
    cells += [ROWS[name].against if pairs else ""]
    cells += [
        difference([a[key][-1] - b[key][-1] for a, b in pairs], scale)
        for key, scale in (("loss", 1), ("accuracy", 100))
    ]
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
    parser.add_argument("--networks", nargs="+", help="default: those of the row")
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
