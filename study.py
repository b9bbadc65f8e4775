"""Train the whole study, six configurations times ten seeds with one recipe, and report what it shows.

    python study.py                                       train what is not finished yet, several runs side by side
    python study.py --list > runs.txt                     or print one command line a run, for more than one machine:
        parallel < runs.txt                                   GNU parallel
        xargs -P 8 -I{} sh -c '{}' < runs.txt                 xargs, 8 at once
        sh -c "$(sed -n "$SLURM_ARRAY_TASK_ID p" runs.txt)"   the script of a Slurm array, sbatch --array=1-60
    python study.py --report                              write result_plot/tables.md and draw the figures beside it

A run is `main.py`'s own with --resume, in a process of its own with one thread, and measures more after each epoch.
After Ctrl-C, or with more seeds, the same command goes on. Histories and arrays lie in result_plot/study/, where those
of several machines are merged by lying there; weights, checkpoints and logs of the runs lie in checkpoints/study/.
"""

import argparse
import copy
import os
import shlex
import sys
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import main
from dataset import MNIST, SIZE, compose_affine, draw_affine, warp
from support.compute import fast_layers_in
from support.figures import save
from support.files import replace
from support.run import Callback
from support.study import CONFIGURATIONS, MOVES, differences, document, drawings, end_with_parent, read_study, run_jobs
from support.terminal import Parser, number, run_command

SEEDS = 10
CLEAN_IMAGES = 10_000  # as many as the test set holds, so that both accuracies are equally exact
GRADIENT_IMAGES = 1_000


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Train every configuration and seed of the study that is not finished yet, or report.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="python study.py --run ARGUMENTS, as --list prints it, trains one run or what is left of it",
    )
    add = parser.add_argument
    add("--seeds", type=number(int, 1, 1000), default=SEEDS, help="runs of each configuration, seeds 0, 1, ...")
    add("--epochs", type=number(int, 1, 10**6), default=main.Settings.epochs, help="epochs of each run")
    add("--jobs", type=number(int, 1, 1000), default=os.cpu_count(), help="runs side by side, one thread each")
    add("--data-dir", help="folder of the data; as in main.py if left out")
    add("--output-dir", default="result_plot/study", help="folder of the histories; the figures lie in the one above")
    add("--checkpoint-dir", default="checkpoints/study", help="folder of checkpoints, weights and logs")
    add("--list", action="store_true", help="print a command line for each run, and train nothing")
    add("--report", action="store_true", help="write the tables and draw the figures of what is trained")
    return parser.parse_args(argv)


def plan(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Each run's command line for `main.py`, by a short name. Seeds come outermost: half a study has all networks."""
    options = ["--threads", "1", "--epochs", str(arguments.epochs)]
    options += ["--output-dir", arguments.output_dir, "--checkpoint-dir", arguments.checkpoint_dir]
    options += ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    runs = {}
    for seed, (model, augment) in product(range(arguments.seeds), CONFIGURATIONS):
        told = ["--model", model, "--seed", f"{seed}", *["--augment"] * augment]
        runs[f"{model}{'_augment' * augment}_seed{seed}"] = told + options
    return runs


def train_study(arguments: argparse.Namespace) -> int:
    """Train what is not finished yet; returns 1 if a run failed, else 0. Raises OSError."""
    folder = Path(arguments.checkpoint_dir)
    folder.mkdir(parents=True, exist_ok=True)
    runs = {
        folder / f"{name}.log": [sys.executable, __file__, "--run", *argv] for name, argv in plan(arguments).items()
    }
    try:
        failed = run_jobs(runs, arguments.jobs)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        raise
    if failed:
        print(f"{len(failed)} of {len(runs)} runs are not finished: {', '.join(failed)}; the same command goes on")
    return 1 if failed else 0


def report(folder: Path) -> None:
    """Write tables.md and the figures into the folder above that of the runs. Raises UserError."""
    groups = read_study(folder)
    found = differences(groups)
    replace(folder.parent / "tables.md", lambda file: file.write(document(groups, found).encode()))
    for name, figure in drawings(groups, found).items():
        replace(folder.parent / name, partial(save, figure))


# --- what a run measures beside loss and accuracy -----------------------------------------------------------------


class StudyCallback(Callback):
    """Measures on the first training images, before the first epoch (as initial_NAME) and after each, and at the end.

    clean_train_loss, clean_train_accuracy    of the averaged network, evaluated, on the first 10,000 images as they are
    augmented_train_loss, ..._accuracy        if `augment`: on these, augmented by one draw, the same in all runs
    gradient_norm_LAYER, weight_norm_LAYER    L2 norms of the gradient of the mean loss by a layer's weights, and of
                                              these, of the network in training mode, on the first 1,000 images
    accuracy_shiftN    of test images that were shifted by N pixels: the mean over left, right, up and down
    accuracy_turnN     of test images that were turned by N degrees, bilinear: the mean over both ways
    """

    pictures = False  # nobody looks at those of sixty runs

    def __init__(self, augment: bool) -> None:
        self.augment = augment

    def on_train_begin(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
        return {f"initial_{name}": value for name, value in self.on_epoch_end(network, average, train_set).items()}

    def on_epoch_end(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
        clean, augmented = first_images(train_set)
        metrics = layer_norms(network, clean)
        for kind, images in {"clean": clean, "augmented": augmented}.items() if self.augment else [("clean", clean)]:
            metrics[f"{kind}_train_loss"], metrics[f"{kind}_train_accuracy"] = main.test(average, images)
        return metrics

    def on_train_end(self, average: nn.Module, test_set: MNIST) -> dict[str, float]:
        ways = {f"accuracy_shift{n}": [(0, n, 0), (0, -n, 0), (0, 0, n), (0, 0, -n)] for n in MOVES["shift"]}
        ways |= {f"accuracy_turn{n}": [(n, 0, 0), (-n, 0, 0)] for n in MOVES["turn"]}
        return {
            name: sum(main.test(average, moved(test_set, *way))[1] for way in these) / len(these)
            for name, these in ways.items()
        }


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
    """The norms of StudyCallback, rounded to six digits to keep the files small."""
    network = copy.deepcopy(network).train()  # a copy: batch normalization updates its statistics as it goes
    first = range(min(GRADIENT_IMAGES, len(dataset)))
    with fast_layers_in(network):  # as it is trained, to the last bit
        loss = F.cross_entropy(network(dataset[first][0]), dataset.labels[: len(first)])
    layers = {name: layer for name, layer in network.named_children() if isinstance(layer, nn.Conv2d | nn.Linear)}
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    norms = {f"gradient_norm_{name}": gradient.norm() for name, gradient in zip(layers, gradients, strict=True)}
    norms |= {f"weight_norm_{name}": layer.weight.norm() for name, layer in layers.items()}
    return {name: float(f"{norm.item():.6g}") for name, norm in norms.items()}


def moved(dataset: MNIST, angle: float, right: float, down: float) -> MNIST:
    """All images turned by so many degrees, counter-clockwise, then shifted by so many pixels; blank comes in."""
    result = copy.copy(dataset)
    angles, shift_x, shift_y = torch.tensor([[angle], [right / SIZE], [down / SIZE]])
    matrix = compose_affine(angles, shift_x, shift_y, crop=torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    result.augment, result.images = False, warped(dataset.images, matrix.expand(len(dataset), 2, 3))
    return result


def command() -> int:
    """Returns the exit status."""
    if sys.argv[1:2] == ["--run"]:
        end_with_parent()
        main.main([*sys.argv[2:], "--resume"], StudyCallback("--augment" in sys.argv))
        return 0
    arguments = parse_arguments()
    if arguments.list:
        print("\n".join(shlex.join(["python", sys.argv[0], "--run", *argv]) for argv in plan(arguments).values()))
    elif arguments.report:
        report(Path(arguments.output_dir))
    else:
        return train_study(arguments)
    return 0


if __name__ == "__main__":
    run_command(command)
