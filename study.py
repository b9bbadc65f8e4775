"""Train the whole study: six configurations, five seeds each, one recipe, several runs side by side.

    python study.py
    python plot.py --table

Each run is `main.py`'s own, in a process of its own with one thread. A finished run is not trained again and an
unfinished one is resumed, so the same command goes on where it stopped. Histories and arrays go to result_plot/study/,
checkpoints, weights and what each run prints to checkpoints/study/.

After every epoch the study measures two things more. On the first 10,000 training images as they are, in evaluation
mode: loss and accuracy. On the first 1,000, in training mode: the norm of the loss's gradient, layer by layer.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import nn
from torch.nn import functional as F

import main
from dataset import MNIST

CONFIGURATIONS = (
    ("lenet",),
    ("lenet", "--augment"),
    ("lenet_bn",),
    ("lenet_bn", "--augment"),
    ("mlp",),
    ("mlp", "--augment"),
)
CLEAN_IMAGES = 10_000  # as many as the test set holds, so that both figures are equally exact
GRADIENT_IMAGES = 1_000


def observe(network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
    """Loss and accuracy of `average`, gradient norms of `network`, on the first training images as they are."""
    first = copy.copy(train_set)  # shares the images; only what is assigned here differs
    first.images, first.labels = train_set.images[:CLEAN_IMAGES], train_set.labels[:CLEAN_IMAGES]
    loss, accuracy = main.test(average, first)
    return {"clean_train_loss": loss, "clean_train_accuracy": accuracy, **gradient_norms(network, first)}


def gradient_norms(network: nn.Module, dataset: MNIST) -> dict[str, float]:
    """L2 norm of the gradient of the mean loss with respect to each layer's weights, in training mode."""
    network = copy.deepcopy(network).train()  # a copy: batch normalization updates its statistics as it goes
    images, labels = dataset[range(min(GRADIENT_IMAGES, len(dataset)))]
    network.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    layers = {name: layer for name, layer in network.named_children() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    return {f"gradient_norm_{name}": layer.weight.grad.norm().item() for name, layer in layers.items()}


def run_arguments(configuration: tuple[str, ...], seed: int, arguments: argparse.Namespace) -> list[str]:
    """The command line of one run of the study, as `main.py` takes it."""
    folders = {"--output-dir": arguments.output_dir, "--checkpoint-dir": arguments.checkpoint_dir}
    if arguments.data_dir is not None:
        folders["--data-dir"] = arguments.data_dir
    pairs = [word for pair in folders.items() for word in pair]
    return ["--model", *configuration, "--seed", str(seed), "--epochs", str(arguments.epochs), *pairs]


def is_finished(argv: list[str]) -> bool:
    """Whether the history of that run lies there. Raises UserError if it is of another recipe."""
    parsed = main.parse_arguments(argv)
    path = Path(parsed.output_dir, f"{main.run_name(parsed)}.json")
    if not path.exists():
        return False
    expected = {"epochs": parsed.epochs, **main.recipe(parsed)}
    try:
        history = json.loads(path.read_text())
        saved = {key: history[key] for key in expected}
    except (ValueError, KeyError, TypeError):
        raise main.UserError(f"{path}: is damaged or no history; remove it to train that run again") from None
    differences = [
        f"{key} {value} there, {expected[key]} here" for key, value in saved.items() if value != expected[key]
    ]
    if differences:
        raise main.UserError(
            f"{path}: is of another recipe: {', '.join(differences)}\nremove it to train that run again"
        )
    return True


def train_run(argv: list[str]) -> tuple[str, int]:
    """Train one run in a process of its own; return its name and exit status."""
    parsed = main.parse_arguments(argv)
    checkpoint = Path(parsed.checkpoint_dir, f"{main.run_name(parsed)}.pt")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--run", *argv]
    try:
        if checkpoint.exists() and not main.read_checkpoint(checkpoint)["finished"]:
            command.append("--resume")
    except main.UserError as error:
        print(f"{checkpoint.stem}: {error}", flush=True)
        return checkpoint.stem, 2
    with open(checkpoint.with_suffix(".log"), "a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    print(f"{checkpoint.stem}: {f'status {status}, see {log.name}' if status else 'finished'}", flush=True)
    return checkpoint.stem, status


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = main.Parser(
        description="Train every configuration and seed of the study that is not finished yet.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seeds", type=main.number(int, 1, 1000), default=5, help="runs of each configuration, seeds 0, 1, ...")
    add("--epochs", type=main.number(int, 1, 10**6), default=main.EPOCHS, help="epochs of each run")
    add("--jobs", type=main.number(int, 1, 1000), default=os.cpu_count(), help="runs side by side, one thread each")
    add("--data-dir", help="folder of train.tar and test.tar, as in main.py")
    add("--output-dir", default="result_plot/study", help="folder for the histories")
    add("--checkpoint-dir", default="checkpoints/study", help="folder for checkpoints, weights and logs")
    return parser.parse_args(argv)


def train_study() -> None:
    """Train what is not finished yet. Raises SystemExit with status 1 if a run failed."""
    arguments = parse_arguments()
    runs = [
        run_arguments(configuration, seed, arguments)
        for seed in range(arguments.seeds)  # outermost: a study that is cut short has a few seeds of everything
        for configuration in CONFIGURATIONS
    ]
    try:
        open_runs = [argv for argv in runs if not is_finished(argv)]
    except main.UserError as error:
        main.fail(str(error), 2)
    print(f"{len(runs) - len(open_runs)} of {len(runs)} runs are finished", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        failed = [name for name, status in pool.map(train_run, open_runs) if status]
    if failed:
        main.fail(f"{len(failed)} runs did not finish: {', '.join(failed)}; the same command goes on with them", 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        main.main(sys.argv[2:], observe)
    else:
        train_study()
