"""The tuning log: how recipes do on the last 10,000 training images, held out. No test image has a part in it.

    python benchmarks/tune.py

It trains what a row below has and the log, tuning.jsonl, has not, adds each run as it ends, and prints the tables of
tuning.md. They compare rows seed by seed: the mean difference after the last epoch that both have, and its standard
error over the seeds.
"""

import io
import json
import math
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import main  # noqa: E402 - the project's root is not a package
from model import MODELS  # noqa: E402
from support.data import find_data, read_images, write_tar  # noqa: E402
from support.run import Callback  # noqa: E402

DATA = ROOT / "data"
LOG = Path(__file__).with_name("tuning.jsonl")
HELD_OUT = 10_000  # the last training images


class Row(NamedTuple):
    """A recipe, by what it changes."""

    what: str
    code: Mapping[str, Any] = {}  # by where it stands, module.NAME
    settings: Mapping[str, Any] = {}  # fields of main.Settings
    networks: tuple[str, ...] = ("lenet", "lenet_bn --augment", "mlp")
    epochs: int = 15
    trained: int | None = None  # of these epochs, the first ones: as many as the row is about
    images: int | None = None  # trained on: the first ones; all but those held out
    seeds: int = 3
    against: str | None = "recipe"  # the row that it is compared with, unless it is itself that row


def he_uniform(layer: nn.Module) -> None:
    """He et al., "Delving Deep into Rectifiers", 2015: weights of a variance of 2 / fan-in, biases of 0."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


MLP, LENETS = ("mlp",), ("lenet", "lenet_bn")
NO_CLIPPING = {"main.MAX_GRAD_NORM": math.inf}
LONG_WARMUP = {"main.WARMUP_STEPS": 5 * 391, "main.MAX_WARMUP": 1}  # 391 steps: 50,000 images
HE = {"main.MODELS": {name: lambda make=make: make().apply(he_uniform) for name, make in MODELS.items()}}
SILU = {"torch.nn.functional.relu": F.silu}  # Elfwing, Uchibe and Doya, 2018
ROWS = {
    "recipe": Row("the recipe"),
    "no-clip": Row("no clipping", NO_CLIPPING, networks=MLP),
    "no-nesterov": Row("plain momentum", {"main.NESTEROV": False}),
    "warm-up-5": Row("5 epochs of warm-up, the first epoch", LONG_WARMUP, trained=1),
    "he": Row("He's initial weights, the first epoch", HE, trained=1),
    "batch-256": Row("batches of 256, rate 0.1", settings={"batch_size": 256, "lr": 0.1}),
    "silu": Row("SiLU in the MLP", SILU, networks=MLP),
    "recipe-50": Row("the recipe, 50 epochs", networks=MLP, epochs=50, against=None),
    "silu-50": Row("SiLU in the MLP, 50 epochs", SILU, networks=MLP, epochs=50, against="recipe-50"),
    "epochs-1": Row("--epochs 1", networks=(*LENETS, "mlp"), epochs=1, against=None),
    "epochs-3": Row("--epochs 3", networks=(*LENETS, "mlp"), epochs=3, against=None),
    "start": Row("the recipe's first 5 epochs", networks=LENETS, trained=5, against=None),
}
for rate in (0.1, 0.2, 0.4, 0.8):
    what = f"rate {rate}, first 5 epochs"
    ROWS[f"rate-{rate}"] = Row(what, settings={"lr": rate}, networks=LENETS, trained=5, against="start")
LITTLE = Row("", networks=("lenet", "mlp"), epochs=10, images=1_500, seeds=10)
for size, rate in product((128, 256), (0.05, 0.1)):
    name, what, settings = f"little-{size}-{rate}", f"batches of {size}, rate {rate}", {"batch_size": size, "lr": rate}
    ROWS[name] = LITTLE._replace(what=what, settings=settings, against="little-128-0.05")
    ROWS[f"{name}-no-clip"] = ROWS[name]._replace(what=f"{what}, no clipping", code=NO_CLIPPING, against=name)


class StopAfter(Callback):
    """Ends a run after so many epochs; draws nothing."""

    pictures = False

    def __init__(self, epochs: int | None) -> None:
        self.epochs = epochs

    def on_epoch_end(self, *_: Any) -> None:
        self.stop = len(self.history["test_loss"]) == self.epochs


def train_row(name: str, network: str, seed: int, scratch: Path) -> dict[str, Any]:
    """Held-out loss and accuracy of each epoch of one run."""
    row, (model, *augment) = ROWS[name], network.split()
    settings = {"model": model, "augment": bool(augment), "epochs": row.epochs, "seed": seed, "validation": HELD_OUT}
    settings |= {"data_dir": first_images(row.images, scratch / f"{row.images}") if row.images else DATA}
    settings |= {"output_dir": scratch, "checkpoint_dir": scratch, "restart": True}
    with ExitStack() as changed, redirect_stdout(io.StringIO()):
        for place, value in row.code.items():
            changed.enter_context(mock.patch(place, value))
        history = main.run(main.Settings(**settings, **row.settings), StopAfter(row.trained))
    run = {"row": name, "network": network, "seed": seed, "epochs": row.epochs}
    run["loss"] = [round(loss, 5) for loss in history["test_loss"]]
    run["accuracy"] = [round(accuracy, 4) for accuracy in history["test_accuracy"]]
    return run


def first_images(count: int, folder: Path) -> Path:
    """The folder, with so many training images and those that are held out; its test images are not read."""
    if not folder.exists():
        images, labels = read_images(find_data(DATA).train)
        kept = np.r_[:count, len(labels) - HELD_OUT : len(labels)]
        for split in ("train", "test"):
            write_tar(folder / f"{split}.tar", split, images[kept], labels[kept])
    return folder


def train_missing() -> None:
    """Train what the log does not have."""
    with tempfile.TemporaryDirectory() as scratch, open(LOG, "a") as log:
        for name, row in ROWS.items():
            for network, seed in product(row.networks, range(row.seeds)):
                if seed not in runs_of(name, network):
                    print(json.dumps(train_row(name, network, seed, Path(scratch))), file=log, flush=True)


def report() -> str:
    """The log as Markdown: a table for each network and number of images, of means over the seeds."""
    columns = "recipe, epochs, seeds, after epoch 1, loss, accuracy, lowest, highest, against, loss, points"
    header = f"| {columns.replace(', ', ' | ')} |\n" + "| --- " * len(columns.split(", ")) + "|"
    tables: dict[str, list[str]] = {}
    for name, row in ROWS.items():
        for network in row.networks:
            runs = runs_of(name, network)
            against = ["", "", ""]
            if row.against not in (None, name):
                others = runs_of(row.against, network)
                against = [ROWS[row.against].what, *(difference(runs, others, key) for key in ("loss", "accuracy"))]
            title = f"## `{network}`" + (f", {row.images:,} training images" if row.images else "")
            cells = [row.what, f"{row.epochs}", *measured(runs), *against]
            tables.setdefault(title, [f"{title}\n\n{header}"]).append(f"| {' | '.join(cells)} |")
    return "\n\n".join("\n".join(lines) for lines in tables.values())


def runs_of(name: str, network: str) -> dict[int, dict[str, Any]]:
    """The runs of a row in the log, by their seeds."""
    log = map(json.loads, LOG.read_text().splitlines())
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
    scale, digits = (100, 2) if key == "accuracy" else (1, 4)
    last = min(len(values) for pair in pairs for values in pair) - 1
    values = [scale * (one[last] - other[last]) for one, other in pairs]
    return f"{np.mean(values):+.{digits}f} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.{digits}f}"


if __name__ == "__main__":
    train_missing()
    print(report())
