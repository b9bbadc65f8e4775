"""Train LeNet-5, a multi-layer perceptron of its size, or LeNet-5 with batch normalization on MNIST.

    python main.py --model lenet
    python main.py --model mlp
    python main.py --model lenet_bn --augment
    torchrun --nproc-per-node 2 main.py --model lenet_bn --augment

The same from Python: `history = run(Settings(model="lenet", epochs=5))`.

Each run prints loss and accuracy for train and test after every epoch, saves itself whole as checkpoints/NAME.pt, and
leaves result_plot/NAME.json, NAME.npz and NAME.png at its end. `plot.py` draws from these.
"""

import argparse
import copy
import inspect
import math
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

import plot
from dataset import MEAN, MIN_CROP, MNIST, MNIST_SHA256, PADDING, ROTATION, STD, TRANSLATION, draw_affine, warp
from model import MODELS, CustomMLP, LeNet5, count_parameters
from support.compute import distributed
from support.compute.cuda_graphs import GraphedStep, graphed
from support.compute.fast_layers import use_fast_layers
from support.compute.layer_table import check_logits, describe
from support.data.data_warnings import doubts
from support.data.find import Source, find_data
from support.run import checkpoint, history, result
from support.run.callback import Callback
from support.run.checkpoint import RunFiles, State
from support.run.history import History, epochs_done
from support.seeds import DRAWS, WEIGHTS, seed_of
from support.terminal import Parser, UserError, printable, run_command, warn

# The recipe, one for all networks. It was chosen on the last 10,000 training images, held out: benchmarks/tuning.md.
EPOCHS = 50
BATCH_SIZE = 128
LEARNING_RATE = 0.05  # the peak
WEIGHT_DECAY = 5e-4
MOMENTUM = 0.9
NESTEROV = True
WARMUP_STEPS = 150  # a third of an epoch of MNIST, in which the learning rate climbs from 0
MAX_WARMUP = 0.2  # of all steps: so much of a short run, or of one on little data
MAX_GRAD_NORM = 2.0  # gradients are clipped to this L2 norm; without it LeNet-5 diverges on small data sets
DECAY = 0.2  # of all steps, the last, in which the learning rate falls to 0
AVERAGING = 4  # what is tested and kept is an average of the weights, see `update_average`
BN_IMAGES = 10_000  # training images that batch normalization's statistics are measured on: more change nothing
AUGMENT = (0.0, 1.0)  # each image at its own strength: some nearly as they are, as test images are

CLASSES = 10  # of MNIST; a network need know of them only where there are more or fewer
TEST_BATCH = 1000  # only a matter of speed and memory: what is measured does not depend on it


@dataclass(frozen=True)
class Settings:
    """What a run is told: the options of the command line, explained by `python main.py --help`.

    What differs from the defaults names the run, and the history holds it. Raises UserError where a value is no use.
    """

    model: str
    augment: bool = False
    epochs: int = EPOCHS
    batch_size: int = BATCH_SIZE
    lr: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    validation: int = 0
    seed: int = 0
    threads: int | None = None
    device: str = "auto"
    data_dir: str | Path | None = None
    output_dir: str | Path = "result_plot"
    checkpoint_dir: str | Path = "checkpoints"
    name: str | None = None
    resume: bool = False
    restart: bool = False

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise UserError(f"--model {printable(self.model)}: expected one of {', '.join(MODELS)}")
        for field, (kind, low, high) in LIMITS.items():
            value = getattr(self, field)
            if value is not None and not (low <= value <= high and kind(value) == value):
                option = f"--{field.replace('_', '-')} {value}"
                raise UserError(f"{option}: expected {LIMITED[kind]} from {low:,} to {high:,}")
            object.__setattr__(self, field, value if value is None else kind(value))  # of numpy's, say: Python's own
        for field in ("model", "name"):
            value = getattr(self, field)
            if value is not None and not history.is_name(value):
                raise UserError(
                    f"--{field} {printable(value)}: cannot name the files of a run; expected at most 100 letters, "
                    "digits, dots, underlines and hyphens, and no name of another file there"
                )
        if self.resume and self.restart:
            raise UserError("--resume goes on with a run and --restart throws it away: expected one of them")


LIMITS: dict[str, tuple[type, float, float]] = {
    "epochs": (int, 1, 10**6),
    "batch_size": (int, 1, 10**6),
    "lr": (float, 1e-12, 1e38),  # float32 ends there
    "weight_decay": (float, 0, 1e38),
    "validation": (int, 0, 10**6),
    "seed": (int, 0, 2**63 - 1),
    "threads": (int, 1, 1024),
}
LIMITED = {int: "a whole number", float: "a number"}
DEFAULTS = {field.name: field.default for field in fields(Settings)}


# --- an epoch ---------------------------------------------------------------------------------------------------------


def train(
    network: nn.Module,
    average: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: Optimizer,
    scheduler: LRScheduler,
) -> tuple[float, float]:
    """Train one epoch; return the mean loss (nats) and the accuracy, measured while the weights change.

    batches: images (B, 1, 32, 32) and labels (B,), as a DataLoader gives them, on the network's device. average: moves
    towards `network` at every step, see `update_average`; its buffers stay, so of a network with batch normalization
    it needs `recalibrate_batch_norm` before it is tested. scheduler: stepped once a batch.
    """
    network.train()
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    count = 0
    for images, labels in tqdm(batches, leave=False, disable=None if distributed.is_main() else True):
        loss, logits = train_step(network, optimizer, images, labels)
        scheduler.step()
        update_average(average, network, step=scheduler.last_epoch)
        losses.append(loss * len(labels))  # not `.item()`: reading it makes the CPU wait for the GPU
        correct.append((logits.argmax(1) == labels).sum())
        count += len(labels)
    return distributed.all_reduce_mean(losses, correct, count)


@graphed  # on a GPU all of it is launched at one go, see support/compute/cuda_graphs.py
def train_step(network: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One step down the gradient of the batch's mean loss; return that loss and the logits, both of before it."""
    logits = network(images)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    return loss.detach(), logits.detach()


def test(network: nn.Module, data: Dataset | Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean loss (nats) and accuracy in evaluation mode.

    data: a data set of images and labels, of which each of several processes takes a share, or batches as `train`
    takes them. An average that `train` has moved needs `recalibrate_batch_norm` first, if it has batch normalization.
    """
    logits, labels = predict(network, test_batches(data) if isinstance(data, Dataset) else data)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return distributed.all_reduce_mean([loss], [(logits.argmax(1) == labels).sum()], len(labels))


@torch.no_grad()
def predict(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) in evaluation mode, and the labels (N,)."""
    network.eval()
    answers = [(network(images), labels) for images, labels in batches]
    return torch.cat([logits for logits, _ in answers]), torch.cat([labels for _, labels in answers])


def test_batches(dataset: Dataset) -> Iterable[tuple[Tensor, Tensor]]:
    """This process's share of the data set, in order."""
    share = distributed.shard(len(dataset))  # type: ignore[arg-type]
    if isinstance(dataset, MNIST):  # which makes batches itself
        return (dataset[indices] for indices in split_range(share))
    return DataLoader(Subset(dataset, share), TEST_BATCH)


def split_range(indices: range) -> list[range]:
    """The indices in batches of TEST_BATCH, in their order."""
    return [indices[start : start + TEST_BATCH] for start in range(0, len(indices), TEST_BATCH)]


# --- what is unusual about the recipe ---------------------------------------------------------------------------------


def learning_rate(step: float, steps: int) -> float:
    """The rate after so many of all `steps`, as a share of the peak: warm-up, constant, linear decay to 0.

    It stays high for long because low rates let the weights settle on the training images; averaging the weights takes
    out the noise that a high rate brings.
    """
    return min(1, step / min(WARMUP_STEPS, MAX_WARMUP * steps), (1 - step / steps) / DECAY)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    """Move the averaged weights towards those of `network` after that step, counted from 1.

    The share is (A + 1) / (A + step): polynomial-decay averaging (Shamir and Zhang, "Stochastic Gradient Descent for
    Non-smooth Optimization", 2013). With A = AVERAGING = 4 two thirds of the weight lie on the last fifth of the steps.
    PyTorch's AveragedModel can do the same, in ten to twenty times the time.
    """
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), (AVERAGING + 1) / (AVERAGING + step))


@torch.no_grad()
def recalibrate_batch_norm(average: nn.Module, network: nn.Module, dataset: MNIST) -> None:
    """Give the averaged weights their buffers: those of `network`, and batch normalization's statistics measured anew.

    Averaged weights need statistics of their own (Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization", 2018), and those that ran along in training are of augmented images, which test images are not.
    They are measured on the first images of `dataset`; of several processes, each takes its share of the batches.
    """
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)
    batches = split_range(range(min(BN_IMAGES, len(dataset))))
    mine = [batches[number] for number in distributed.shard(len(batches))]
    update_bn((dataset[indices][0] for indices in mine), average)
    distributed.average_buffers(average, len(mine) / len(batches))


# --- a run ------------------------------------------------------------------------------------------------------------


class Training(NamedTuple):
    """What an epoch changes, and what it reads."""

    network: nn.Module
    wrapped: nn.Module  # the same network, as several processes train it together, or a GPU replays it
    average: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    train_set: MNIST
    batches: distributed.Batches
    test_set: MNIST

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, by its names there."""
        return {name: getattr(self, name) for name in ("network", "average", "optimizer", "scheduler")}


def run(settings: Settings, callback: Callback = Callback()) -> History:  # noqa: B008 - it holds nothing
    """Train and test one network, and keep its result; returns the history.

    Raises UserError, OSError where something cannot be written, KeyboardInterrupt.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = distributed.choose_device(settings.device)
    with distributed.process_group(device), ExitStack() as stack:
        train_set, test_set, source = distributed.main_goes_first(lambda: load_data(settings, device))
        torch.manual_seed(seed_of(WEIGHTS, settings.seed))
        classes = 1 + max(int(train_set.labels.max()), int(test_set.labels.max()), 1)
        network = build_network(settings.model, classes)
        layers = describe(network)
        check_logits(network, classes)
        distributed.check_batch_size(settings.batch_size, len(train_set), network)
        record = new_history(settings, network, classes, train_set, test_set, source)
        files, state = distributed.main_decides(lambda: open_run(stack, settings, record))
        training = make_training(settings, network.to(device), train_set, test_set)
        if state:
            checkpoint.restore(state, files.checkpoint, training.saved())
            record = history.resumed(state["history"], record)
        introduce(record, layers, training, source)
        if not state:
            record |= history.plain(callback.on_train_begin(training.network, training.average, train_set))
        for epoch in range(epochs_done(record) + 1, settings.epochs + 1):
            metrics = train_and_test(training, epoch, settings)
            metrics |= callback.on_epoch_end(training.network, training.average, train_set)
            history.add_epoch(record, metrics)
            if distributed.is_main():
                checkpoint.save_checkpoint(files, training.saved(), record)
                print(history.epoch_line(record))
            if callback.stop:
                break
        record |= history.plain(callback.on_train_end(training.average, test_set))
        record = history.with_digest(record)
        if distributed.is_main():
            finish(files, training, record, callback.pictures)
        distributed.barrier()  # nobody leaves while the main process still writes
    return record


def load_data(settings: Settings, device: torch.device) -> tuple[MNIST, MNIST, Source]:
    """Training and test set on the device, and where they come from. Raises UserError.

    For validation the last training images are held out in place of the test set, which is not read.
    """
    source = find_data(settings.data_dir)
    train_set = MNIST(source.train).to(device)
    if not settings.validation:
        return train_set, MNIST(source.test).to(device), source
    if settings.validation >= len(train_set):
        raise UserError(
            f"--validation {settings.validation}: expected less than the {len(train_set):,} training images"
        )
    return *train_set.split(settings.validation), source


def build_network(model: str, classes: int) -> nn.Module:
    """A network of MODELS. It is told of the classes where there are not ten, if it takes them."""
    takes = classes != CLASSES and "classes" in inspect.signature(MODELS[model]).parameters
    return MODELS[model](classes=classes) if takes else MODELS[model]()


def make_training(settings: Settings, network: nn.Module, train_set: MNIST, test_set: MNIST) -> Training:
    """The recipe put together, for a network that has its initial weights and lies where the data are."""
    if type(network) is LeNet5:
        use_fast_layers(network)
    batches = distributed.Batches(train_set, settings.batch_size, settings.seed)
    sgd = {"momentum": MOMENTUM, "nesterov": NESTEROV, "weight_decay": settings.weight_decay, "fused": True}
    optimizer = torch.optim.SGD(network.parameters(), settings.lr, **sgd)
    steps = len(batches) * settings.epochs
    scheduler = LambdaLR(optimizer, lambda step: learning_rate(step + 0.5, steps))  # at the middle of each step
    average, wrapped = copy.deepcopy(network), distributed.wrap(network, batches)
    if type(wrapped) in (LeNet5, CustomMLP):  # not a network of your own, which may do anything
        wrapped = GraphedStep(wrapped)
    distributed.keep_freed_memory()
    return Training(network, wrapped, average, optimizer, scheduler, train_set, batches, test_set)


def train_and_test(training: Training, epoch: int, settings: Settings) -> dict[str, float]:
    """One epoch, counted from 1; its metrics by their names in `history.LISTS`. Raises UserError where it diverges."""
    network, wrapped, average, optimizer, scheduler, train_set, batches, test_set = training
    started, rate = time.perf_counter(), scheduler.get_last_lr()[0]
    # anew for each epoch and process, so that an epoch draws the same whatever ran before it
    torch.manual_seed(seed_of(DRAWS, settings.seed, epoch, distributed.rank()))
    batches.epoch = epoch
    train_set.augment = AUGMENT if settings.augment else False
    train_loss, train_accuracy = train(wrapped, average, batches, optimizer, scheduler)
    train_set.augment = False
    recalibrate_batch_norm(average, network, train_set)
    test_loss, test_accuracy = test(average, test_set)
    if not math.isfinite(train_loss + test_loss):
        raise UserError(
            f"the loss is no longer finite: epoch {epoch}, peak learning rate {settings.lr:g}, "
            f"weight decay {settings.weight_decay:g}\ntry lower ones; the epochs before this one are kept"
        )
    measured = (train_loss, train_accuracy, test_loss, test_accuracy, time.perf_counter() - started)
    used = (float(rate), torch.get_num_threads(), distributed.world_size())
    return dict(zip(history.LISTS, measured + used, strict=True))


def new_history(
    settings: Settings, network: nn.Module, classes: int, train_set: MNIST, test_set: MNIST, source: Source
) -> History:
    """The history of the run before its first epoch: settings, recipe, data, device.

    The data are called MNIST, if they are, whatever their archive is called; else by the name of their folder.
    """
    sha256 = {"train": train_set.sha256(), "test": test_set.sha256()}
    data = "MNIST" if sha256 == MNIST_SHA256 else source.folder.resolve().name
    told = {"data": data, "classes": classes}
    scalars: History = {name: told.get(name, getattr(settings, name, None)) for name in history.SETTINGS}
    scalars |= {"optimizer": "SGD", "momentum": MOMENTUM, "nesterov": NESTEROV, "max_grad_norm": MAX_GRAD_NORM}
    scalars |= {"warmup_steps": WARMUP_STEPS, "max_warmup": MAX_WARMUP, "decay": DECAY}
    scalars |= {"averaging": AVERAGING, "bn_images": BN_IMAGES, "mean": MEAN, "std": STD, "padding": PADDING}
    if settings.augment:
        scalars |= {"rotation": ROTATION, "translation": TRANSLATION, "min_crop": MIN_CROP}
        scalars |= dict(zip(("augment_strength_min", "augment_strength_max"), AUGMENT, strict=True))
    scalars |= {"parameters": count_parameters(network), "train_images": len(train_set), "test_images": len(test_set)}
    scalars |= {f"{split}_sha256": digest for split, digest in sha256.items()}
    name = settings.name or history.run_name(scalars, DEFAULTS)
    return history.new_history(name=name, **scalars, device=distributed.device_name(train_set.images.device))


def open_run(stack: ExitStack, settings: Settings, record: History) -> tuple[RunFiles, State | None]:
    """Hold the run's name, and read what --resume goes on from. Raises UserError where something would be lost."""
    files = RunFiles(record["name"], Path(settings.output_dir), Path(settings.checkpoint_dir))
    checkpoint.acquire(stack, files)
    if settings.resume and checkpoint.is_unfinished(files.checkpoint):
        return files, checkpoint.state_to_resume(files, record, learning_rate)
    if not settings.restart:
        checkpoint.check_nothing_is_lost(files, record)
    return files, None


# --- what it prints and keeps -----------------------------------------------------------------------------------------


def introduce(record: History, layers: str, training: Training, source: Source) -> None:
    """Say what is about to be trained, on what, and what looks wrong about it."""
    if not distributed.is_main():
        return
    train_set, test_set, threads = training.train_set, training.test_set, torch.get_num_threads()
    held_out = "validation" if record["validation"] else "test"
    print(f"{len(train_set):,} training and {len(test_set):,} {held_out} images: {printable(source.found)}")
    print(
        f"{record['name']}: {record['device']}, {distributed.world_size()} x {threads} threads, seed {record['seed']}"
    )
    print(layers)
    if epochs_done(record):
        print(f"going on behind epoch {epochs_done(record)} of {record['epochs']}")
    for warning in doubts(source.why_sample, train_set, test_set):
        warn(warning)


def finish(files: RunFiles, training: Training, record: History, pictures: bool) -> None:
    """Write weights, arrays, history and picture; then mark the checkpoint as finished."""
    train_set, test_set = training.train_set, training.test_set
    whole = (test_set[indices] for indices in split_range(range(len(test_set))))
    arrays = result.answers(*predict(training.average, whole))
    if pictures:
        arrays |= result.pictures(training.average, test_set.images, arrays)
        if record["augment"]:
            torch.manual_seed(seed_of(DRAWS, record["seed"]))
            arrays |= result.draws(train_set, lambda images: warp(images, draw_affine(len(images))))
    checkpoint.save_result(files, training.average, record, arrays)
    drawn = pictures and result.save_picture(
        files, lambda file: plot.save(plot.draw_run(record), file, record["digest"])
    )
    checkpoint.save_checkpoint(files, training.saved(), record)
    print(history.summary(record) + (f"\nplot                   {printable(files.result('.png'))}" if drawn else ""))


# --- the command line -------------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Train a network on MNIST; print loss and accuracy for train and test, epoch by epoch.")
    add = parser.add_argument
    add("--model", choices=MODELS, help="the network")
    add("--augment", action="store_true", help="rotate, translate and crop the training images")
    add("--epochs", type=int, default=EPOCHS, help=f"passes over the training set ({EPOCHS})")
    add("--batch-size", type=int, default=BATCH_SIZE, help=f"of all processes ({BATCH_SIZE})")
    add("--lr", type=float, default=LEARNING_RATE, help=f"the peak learning rate ({LEARNING_RATE})")
    add("--weight-decay", type=float, default=WEIGHT_DECAY, help=f"L2 penalty of SGD ({WEIGHT_DECAY})")
    add("--validation", type=int, metavar="N", default=0, help="test on the last N training images instead (0)")
    add("--seed", type=int, default=0, help="of initial weights, order and augmentation (0)")
    add("--threads", type=int, help="of the CPU (all its cores)")
    add("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="auto: the first that is there")
    add("--data-dir", help="folder of the data (data, beside this program: MNIST)")
    add("--output-dir", default="result_plot", help="folder for histories and plots (result_plot)")
    add("--checkpoint-dir", default="checkpoints", help="folder for checkpoints and weights (checkpoints)")
    add("--name", help="of the run and its files (the model and what differs from the defaults)")
    add("--resume", action="store_true", help="go on with what is unfinished, start what is not there")
    add("--restart", action="store_true", help="throw away what there is of this name")
    add("--test-only", action="store_true", help="only print loss and accuracy of --weights on the test set")
    add("--weights", metavar="FILE", help="weights of a finished run, for --test-only")
    if argv is None and not hasattr(sys.modules["__main__"], "__file__"):
        parser.error('main() finds the words of a notebook here: hand it a list, as in main(["--model", "lenet"])')
    arguments = parser.parse_args(argv)
    if arguments.test_only != (arguments.weights is not None):
        parser.error("--test-only and --weights FILE belong together")
    if not arguments.test_only and arguments.model is None:
        parser.error(f"--model: expected one of {', '.join(MODELS)}")
    return arguments


def restore_network(state: State, path: Path) -> nn.Module:
    """The network of `checkpoint.read_weights(path)`, in evaluation mode. Raises UserError."""
    if state["model"] not in MODELS:
        raise UserError(
            f"{printable(path)}: holds weights of {printable(state['model'])}; known are {', '.join(MODELS)}"
        )
    network = build_network(state["model"], state["classes"])
    checkpoint.restore(state, path, {"network": network})
    return network.eval()


def test_only(weights: Path, data_dir: str | None, device: torch.device) -> None:
    """Print loss and accuracy of a finished network on the test set. Raises UserError."""
    state, source = checkpoint.read_weights(weights), find_data(data_dir)
    test_set = MNIST(source.test).to(device)
    loss, accuracy = test(restore_network(state, weights).to(device), test_set)
    print(f"{printable(state['name'])} on {len(test_set):,} test images, {printable(source.found)}")
    print(f"test loss {loss:.4f}  test accuracy {accuracy:.2%}")


def main(argv: list[str] | None = None, callback: Callback = Callback()) -> None:  # noqa: B008
    """Run the command line. Raises SystemExit for whatever ends it early, with a status as `run_command` gives it."""

    def action() -> None:
        arguments = parse_arguments(argv)
        if arguments.test_only:
            test_only(Path(arguments.weights), arguments.data_dir, distributed.choose_device(arguments.device))
        else:
            run(Settings(**{name: getattr(arguments, name) for name in DEFAULTS}), callback)

    run_command(action)


if __name__ == "__main__":
    main()
