"""Train the whole study, six configurations times ten seeds with one recipe, and report what it shows.

    python study.py                                       train what is not finished yet, several runs side by side
    python study.py --list > runs.txt                     or print one command line a run, for more than one machine:
        parallel < runs.txt                                   GNU parallel
        xargs -P 8 -I{} sh -c '{}' < runs.txt                 xargs, 8 at once
        sh -c "$(sed -n "$SLURM_ARRAY_TASK_ID p" runs.txt)"   the script of a Slurm array, sbatch --array=1-60
    python study.py --report > result_plot/README.md      the tables; the figures are drawn beside, from files alone

A run is `main.py`'s own, in a process of its own with one thread. After Ctrl-C, or with more seeds, the same command
goes on: what is finished is not trained again, what is unfinished is resumed. Histories and arrays lie in
result_plot/study/, where those of several machines are merged by lying there; weights, checkpoints and what each run
prints lie in checkpoints/study/.
"""

import argparse
import copy
import os
import shlex
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import main
from dataset import MNIST, SIZE, compose_affine, draw_affine, warp
from support.files import make_folder
from support.run import checkpoint
from support.run.callback import Callback
from support.run.checkpoint import RunFiles
from support.run.history import SETTINGS, History, read_history, run_name
from support.study import report
from support.study.jobs import Job, end_with_parent, run_jobs
from support.terminal import Parser, Stopped, UserError, number, run_command, say

CONFIGURATIONS = (
    ("lenet",),
    ("lenet", "--augment"),
    ("lenet_bn",),
    ("lenet_bn", "--augment"),
    ("mlp",),
    ("mlp", "--augment"),
)
SEEDS = 10
CLEAN_IMAGES = 10_000  # as many as the test set holds, so that both figures are equally exact
GRADIENT_IMAGES = 1_000
SHIFTS = (1, 2, 3, 4)  # pixels; few of MNIST's digits lose more than a little ink by that
TURNS = (5, 10, 15, 20, 25)  # degrees; the augmentation turns by up to 20
PATIENCE = 60  # seconds for a run of a killed study to stop, which takes it a step of training, or a second to start


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Train every configuration and seed of the study that is not finished yet, or report.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="python study.py --run ARGUMENTS, as --list prints it, trains one run if it is not finished yet",
    )
    add = parser.add_argument
    add("--seeds", type=number(int, 1, 1000), default=SEEDS, help="runs of each configuration, seeds 0, 1, ...")
    add("--epochs", type=number(int, 1, 10**6), help="epochs of each run; as in main.py if left out")
    add("--jobs", type=number(int, 1, 1000), default=os.cpu_count(), help="runs side by side, one thread each")
    add("--data-dir", help="folder of the data; as in main.py if left out")
    add("--output-dir", default="result_plot/study", help="folder of the histories; the figures lie in the one above")
    add("--checkpoint-dir", default="checkpoints/study", help="folder of checkpoints, weights and logs")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print a command line for each run, and train nothing")
    what.add_argument("--report", action="store_true", help="print the tables as Markdown, and draw the figures")
    return parser.parse_args(argv)


# --- all runs ---------------------------------------------------------------------------------------------------------


def plan(arguments: argparse.Namespace) -> dict[str, tuple[list[str], History]]:
    """By its name, each run's command line, as `main.py` takes it, and its record before the first epoch.

    Names depend on the data, so the data are looked at, once for all. Seeds come outermost: a study that is cut short
    has a few of everything. Raises UserError.
    """
    options = ["--output-dir", arguments.output_dir, "--checkpoint-dir", arguments.checkpoint_dir, "--threads", "1"]
    options += ["--epochs", str(arguments.epochs)] if arguments.epochs else []
    data = ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    parsed = main.parse_arguments(["--model", "lenet", *options, *data])
    train_set, test_set, source = main.load_data(parsed, torch.device("cpu"))
    options += ["--data-dir", str(source.folder)]  # the same for all, whatever is downloaded in the meantime
    configurations = []
    for configuration in CONFIGURATIONS:
        argv = ["--model", *configuration, *options]
        parsed = main.parse_arguments(argv)
        network = main.build_network(parsed.model, parsed.classes)
        configurations.append((argv, main.new_history(parsed, network, train_set, test_set, source)))
    runs = {}
    for seed in range(arguments.seeds):
        for argv, record in configurations:
            name = run_name(record | {"seed": seed}, main.DEFAULTS)
            runs[name] = [*argv, "--seed", str(seed), "--name", name], record | {"seed": seed, "name": name}
    return runs


def list_runs(arguments: argparse.Namespace) -> None:
    for argv, _ in plan(arguments).values():
        say(shlex.join(["python", sys.argv[0], "--run", *argv]))


def train_study(arguments: argparse.Namespace) -> int:
    """Train what is not finished yet; returns 1 if a run failed, else 0. Raises UserError before the first run."""
    for folder in (arguments.output_dir, arguments.checkpoint_dir):
        make_folder(Path(folder))
    jobs, problems, runs = [], [], plan(arguments)
    for name, (argv, record) in runs.items():
        try:
            place = RunFiles(name, Path(arguments.output_dir), Path(arguments.checkpoint_dir))
            if not checkpoint.is_finished(place, record):
                log = Path(arguments.checkpoint_dir, f"{name}.log")
                jobs.append(Job(name, [sys.executable, __file__, "--run", *argv], log))
        except UserError as error:
            problems.append(str(error).splitlines()[0])
    if problems:
        raise UserError("\n".join([*problems, "move these files away, or choose other folders for this study"]))
    say(f"{len(runs) - len(jobs)} of {len(runs)} runs are finished")
    failed = []
    try:
        for name, status, reason in run_jobs(jobs, arguments.jobs):
            say(f"{name}: {f'status {status}: {reason}' if status else 'finished'}")
            failed += [name] if status else []
    except Stopped:
        say("stopped; the same command goes on")
        raise
    if failed:
        say(f"{len(failed)} runs did not finish: {', '.join(failed)}; the same command goes on with them")
    return 1 if failed else 0


# --- one run ----------------------------------------------------------------------------------------------------------


def train_run(argv: list[str]) -> None:
    """Train the run of that command line, or what is left of it; do nothing if it is finished. Raises UserError."""
    end_with_parent()
    arguments = main.parse_arguments(argv)
    if not arguments.name:
        raise UserError("--run: expected the arguments that --list prints, with a --name among them")
    place = RunFiles(arguments.name, Path(arguments.output_dir), Path(arguments.checkpoint_dir))
    checkpoint.wait_until_free(place, PATIENCE)
    arguments.resume = checkpoint.is_unfinished(place.checkpoint)
    if (
        not arguments.resume
        and checkpoint.result_is_whole(place)
        and is_of(arguments, read_history(place.result(".json")))
    ):
        say(f"{arguments.name} is finished")
        return
    arguments.command = sys.argv
    torch.set_num_threads(1)
    main.run(arguments, StudyCallback(arguments.augment))


def is_of(arguments: argparse.Namespace, history: History) -> bool:
    """Whether a history has the settings of a command line, which says nothing of what its data hold."""
    return all(getattr(arguments, name) == history[name] for name in SETTINGS if name != "data")


# --- what a run measures beside loss and accuracy -----------------------------------------------------------------


class StudyCallback(Callback):
    """Keeps what `observe` and `measure_moved` measure; `observe` before the first epoch, too, as initial_NAME.

    augment: whether the run trains on augmented images.
    """

    pictures = False  # those of a run of the study would be looked at by nobody

    def __init__(self, augment: bool) -> None:
        self.augment = augment

    def on_train_begin(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
        return {f"initial_{name}": figure for name, figure in self.on_epoch_end(network, average, train_set).items()}

    def on_epoch_end(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
        return observe(network, average, train_set, self.augment)

    def on_train_end(self, average: nn.Module, test_set: MNIST) -> dict[str, float]:
        return measure_moved(average, test_set)


def observe(network: nn.Module, average: nn.Module, train_set: MNIST, augment: bool) -> dict[str, float]:
    """How `average` does on the first training images, and by what gradients `network` is moved.

    clean_train_loss, clean_train_accuracy    of `average`, evaluated, on the first 10,000 images as they are
    augmented_train_loss, ..._accuracy        if `augment`: on these, augmented by one draw, the same in all runs
    gradient_norm_LAYER, weight_norm_LAYER    L2 norms of a layer's weights, and of the gradient of the mean loss by
                                              them, of `network` in training mode, on the first 1,000 images
    """
    clean, augmented = first_images(train_set)
    figures = layer_norms(network, clean)
    for kind, images in {"clean": clean, "augmented": augmented}.items() if augment else [("clean", clean)]:
        figures[f"{kind}_train_loss"], figures[f"{kind}_train_accuracy"] = main.test(average, images)
    return figures


@cache
def first_images(train_set: MNIST) -> tuple[MNIST, MNIST]:
    """The first training images as they are, and the same augmented as in training, by a generator of their own."""
    clean, augmented = copy.copy(train_set), copy.copy(train_set)  # they share all that is not assigned here
    for part in (clean, augmented):
        part.augment, part.images, part.labels = False, train_set.images[:CLEAN_IMAGES], train_set.labels[:CLEAN_IMAGES]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        augmented.images = warped(clean.images, draw_affine(len(clean), main.AUGMENT))
    return clean, augmented


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Images uint8 (N, 28, 28), each warped by its matrix (N, 2, 3) and rounded."""
    return warp(images[:, None].float(), matrices.to(images.device))[:, 0].round().byte()


def layer_norms(network: nn.Module, dataset: MNIST) -> dict[str, float]:
    """Six digits of each norm; more would say nothing and fill the files."""
    network = copy.deepcopy(network).train()  # a copy: batch normalization updates its statistics as it goes
    first = range(min(GRADIENT_IMAGES, len(dataset)))
    loss = F.cross_entropy(network(dataset[first][0]), dataset.labels[: len(first)])
    layers = {name: layer for name, layer in network.named_children() if isinstance(layer, nn.Conv2d | nn.Linear)}
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    norms = {f"gradient_norm_{name}": gradient.norm() for name, gradient in zip(layers, gradients, strict=True)}
    norms |= {f"weight_norm_{name}": layer.weight.norm() for name, layer in layers.items()}
    return {name: float(f"{norm.item():.6g}") for name, norm in norms.items()}


def measure_moved(network: nn.Module, test_set: MNIST) -> dict[str, float]:
    """Accuracy on test images that were moved.

    accuracy_shiftN    by N pixels: the mean over left, right, up and down
    accuracy_turnN     by N degrees, bilinear: the mean over both ways
    """
    ways = {f"accuracy_shift{n}": [(0, n, 0), (0, -n, 0), (0, 0, n), (0, 0, -n)] for n in SHIFTS}
    ways |= {f"accuracy_turn{n}": [(n, 0, 0), (-n, 0, 0)] for n in TURNS}
    accuracies = {name: [main.test(network, moved(test_set, *way))[1] for way in these] for name, these in ways.items()}
    return {name: sum(values) / len(values) for name, values in accuracies.items()}


def moved(dataset: MNIST, angle: float, right: float, down: float) -> MNIST:
    """All images turned by so many degrees, counter-clockwise, then shifted by so many pixels; blank comes in."""
    result = copy.copy(dataset)
    angles, shift_x, shift_y = torch.tensor([[angle], [right / SIZE], [down / SIZE]])
    matrix = compose_affine(angles, shift_x, shift_y, crop=torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    result.augment, result.images = False, warped(dataset.images, matrix.expand(len(dataset), 2, 3))
    return result


# --- the command ------------------------------------------------------------------------------------------------------


def command() -> int:
    """Returns the exit status."""
    if sys.argv[1:2] == ["--run"]:
        train_run(sys.argv[2:])
        return 0
    arguments = parse_arguments()
    if arguments.list:
        list_runs(arguments)
    elif arguments.report:
        report.report(Path(arguments.output_dir))
    else:
        return train_study(arguments)
    return 0


if __name__ == "__main__":
    run_command(command)
