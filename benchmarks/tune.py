"""The tuning log: how recipes do on the last 10,000 training images, held out. No test image has a part in it.

    python benchmarks/tune.py --rows recipe no-clip --seeds 3
    python benchmarks/tune.py --report

Each run is a line of tuning.jsonl, added as it ends; a run that is there is not trained again. `--report` prints the
tables of tuning.md. They compare rows seed by seed: the mean difference after the last epoch that both have, and its
standard error over the seeds.
"""

import argparse
import io
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import main  # noqa: E402 - the project's root is not a package
from model import MODELS, CustomMLP  # noqa: E402
from support.data import find_data, read_images, write_tar  # noqa: E402
from support.run import Callback  # noqa: E402

LOG = Path(__file__).with_name("tuning.jsonl")
HELD_OUT = 10_000  # the last training images
STEPS = 391  # of an epoch of 50,000 images
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """A recipe, by what it changes."""

    what: str
    constants: Mapping[str, Any] = NOTHING  # of main.py
    settings: Mapping[str, Any] = NOTHING  # fields of main.Settings
    models: Mapping[str, Callable[[], nn.Module]] = NOTHING  # entries of MODELS
    networks: tuple[str, ...] = ("lenet", "lenet_bn --augment", "mlp")
    epochs: int = 15
    trained: int | None = None  # of these epochs, the first ones: as many as the row is about
    images: int | None = None  # trained on: the first ones; all but those held out
    against: str | None = "recipe"  # the row that it is compared with


class SiluMLP(CustomMLP):
    """The MLP with SiLU (Elfwing, Uchibe and Doya, 2018)."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in (self.f1, self.f2, self.f3):
            x = F.silu(layer(x))
        return self.f4(x)


@torch.no_grad()
def he_uniform(network: nn.Module) -> nn.Module:
    """He et al., "Delving Deep into Rectifiers", 2015: weights of a variance of 2 / fan-in, biases of 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network


MLP, LENETS = ("mlp",), ("lenet", "lenet_bn")
HE = {name: lambda make=make: he_uniform(make()) for name, make in MODELS.items()}
ROWS = {
    "recipe": Row("the recipe", against=None),
    "no-clip": Row("no clipping", {"MAX_GRAD_NORM": math.inf}),
    "no-nesterov": Row("plain momentum", {"NESTEROV": False}),
    "warm-up-5": Row("5 epochs of warm-up, the first epoch", {"WARMUP_STEPS": 5 * STEPS, "MAX_WARMUP": 1}, trained=1),
    "he": Row("He's initial weights, the first epoch", models=HE, trained=1),
    "batch-256": Row("batches of 256, rate 0.1", settings={"batch_size": 256, "lr": 0.1}),
    "silu": Row("SiLU in the MLP", models={"mlp": SiluMLP}, networks=MLP),
    "recipe-50": Row("the recipe, 50 epochs", networks=MLP, epochs=50, against=None),
    "silu-50": Row("SiLU in the MLP, 50 epochs", models={"mlp": SiluMLP}, networks=MLP, epochs=50, against="recipe-50"),
    "epochs-1": Row("--epochs 1", networks=(*LENETS, "mlp"), epochs=1, against=None),
    "epochs-3": Row("--epochs 3", networks=(*LENETS, "mlp"), epochs=3, against=None),
    "start": Row("the recipe's first 5 epochs", networks=LENETS, trained=5, against=None),
}
for rate in (0.1, 0.2, 0.4, 0.8):
    what = f"rate {rate}, first 5 epochs"
    ROWS[f"rate-{rate}"] = Row(what, settings={"lr": rate}, networks=LENETS, trained=5, against="start")
LITTLE = "little-128-0.05"  # the recipe, on little data
for size, rate in product((128, 256), (0.05, 0.1)):
    name, settings = f"little-{size}-{rate}", {"batch_size": size, "lr": rate}
    row = Row(f"batches of {size}, rate {rate}", settings=settings, networks=("lenet", "mlp"), epochs=10, images=1_500)
    ROWS[name] = row._replace(against=None if name == LITTLE else LITTLE)
    ROWS[f"{name}-no-clip"] = row._replace(
        what=f"{row.what}, no clipping", constants={"MAX_GRAD_NORM": math.inf}, against=name
    )


# --- the runs ---------------------------------------------------------------------------------------------------------


class StopAfter(Callback):
    """Ends a run after so many epochs; draws nothing."""

    pictures = False

    def __init__(self, epochs: int | None) -> None:
        self.left = epochs

    def on_epoch_end(self, *_: Any) -> dict[str, float]:
        if self.left is not None:
            self.left -= 1
            self.stop = self.left == 0
        return {}


def train_row(name: str, network: str, seed: int, data_dir: Path | None, scratch: Path) -> dict[str, Any]:
    """Held-out loss and accuracy of each epoch of one run."""
    row, (model, *augment) = ROWS[name], network.split()
    if row.images:
        data_dir = first_images(row.images, data_dir, scratch / f"{row.images}")
    settings = {"model": model, "augment": bool(augment), "epochs": row.epochs, "seed": seed, "validation": HELD_OUT}
    settings |= {"data_dir": data_dir, "output_dir": scratch, "checkpoint_dir": scratch, "restart": True}
    with mock.patch.dict(main.MODELS, row.models), ExitStack() as changed, redirect_stdout(io.StringIO()):
        for constant, value in row.constants.items():
            changed.enter_context(mock.patch.object(main, constant, value))
        history = main.run(main.Settings(**settings, **row.settings), StopAfter(row.trained))
    run = {"row": name, "network": network, "seed": seed, "epochs": row.epochs}
    run["loss"] = [round(loss, 5) for loss in history["test_loss"]]
    run["accuracy"] = [round(accuracy, 4) for accuracy in history["test_accuracy"]]
    return run


def first_images(count: int, data_dir: Path | None, folder: Path) -> Path:
    """The folder, with so many training images and those that are held out; its test images are not read."""
    if not folder.exists():
        images, labels = read_images(find_data(data_dir).train)
        kept = np.r_[:count, len(labels) - HELD_OUT : len(labels)]
        for split in ("train", "test"):
            write_tar(folder / f"{split}.tar", split, images[kept], labels[kept])
    return folder


def read_log() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LOG.read_text().splitlines()]


def train_rows(names: list[str], seeds: int, data_dir: Path | None) -> None:
    """Train what the log does not have."""
    with tempfile.TemporaryDirectory() as scratch:
        for seed, name in product(range(seeds), names):
            for network in ROWS[name].networks:
                if seed not in runs_of(name, network, read_log()):
                    run = train_row(name, network, seed, data_dir, Path(scratch))
                    with open(LOG, "a") as file:
                        file.write(json.dumps(run) + "\n")
                    print(f"{name}, {network}, seed {seed}: {run['loss'][-1]:.4f} / {run['accuracy'][-1]:.2%}")


# --- the tables -------------------------------------------------------------------------------------------------------


def report() -> str:
    """The log as Markdown: a table for each network and number of images, of means over the seeds."""
    columns = "recipe, epochs, seeds, after epoch 1, loss, accuracy, lowest, highest, against, loss, points"
    header = f"| {columns.replace(', ', ' | ')} |\n" + "| --- " * len(columns.split(", ")) + "|"
    log, tables = read_log(), {}
    for name, row in ROWS.items():
        for network in dict.fromkeys(run["network"] for run in log if run["row"] == name):
            runs = runs_of(name, network, log)
            against = ["", "", ""]
            if row.against:
                others = runs_of(row.against, network, log)
                against = [ROWS[row.against].what, *(difference(runs, others, key) for key in ("loss", "accuracy"))]
            title = f"## `{network}`" + (f", {row.images:,} training images" if row.images else "")
            cells = [row.what, f"{row.epochs}", *measured(runs), *against]
            tables.setdefault(title, [f"{title}\n\n{header}"]).append(f"| {' | '.join(cells)} |")
    return "\n\n".join("\n".join(lines) for lines in tables.values())


def runs_of(name: str, network: str, log: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The runs of a row by their seeds."""
    return {run["seed"]: run for run in log if (run["row"], run["network"]) == (name, network)}


def measured(runs: dict[int, dict[str, Any]]) -> list[str]:
    """How many seeds; the mean accuracy after the first epoch, mean loss and accuracy after the last, its range."""
    first, last = (np.array([run["accuracy"][epoch] for run in runs.values()]) for epoch in (0, -1))
    loss = np.mean([run["loss"][-1] for run in runs.values()])
    after_first, *after_last = (f"{100 * value:.2f} %" for value in (first.mean(), last.mean(), last.min(), last.max()))
    return [f"{len(runs)}", after_first, f"{loss:.4f}", *after_last]


def difference(runs: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]], key: str) -> str:
    """Mean difference over the seeds that both have, after the last epoch that both have, and its standard error."""
    pairs = [(runs[seed][key], others[seed][key]) for seed in runs.keys() & others.keys()]
    if len(pairs) < 2:
        return ""
    scale, digits = (100, 2) if key == "accuracy" else (1, 4)
    last = min(len(values) for pair in pairs for values in pair) - 1
    values = [scale * (one[last] - other[last]) for one, other in pairs]
    return f"{np.mean(values):+.{digits}f} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.{digits}f}"


def tune() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--data-dir", type=Path, help="folder of the data, as in main.py")
    parser.add_argument("--report", action="store_true", help="print the tables of the log and train nothing")
    arguments = parser.parse_args()
    if arguments.report:
        print(report())
    else:
        train_rows(arguments.rows, arguments.seeds, arguments.data_dir)


if __name__ == "__main__":
    tune()
