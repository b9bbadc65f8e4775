"""Train LeNet-5, a multi-layer perceptron of its size, or LeNet-5 with batch normalization on MNIST.

    python main.py --model lenet
    python main.py --model mlp
    python main.py --model lenet_bn --augment
    torchrun --nproc-per-node 2 main.py --model lenet_bn --augment

Each run prints loss and accuracy for train and test after every epoch, saves itself whole as checkpoints/NAME.pt, and
leaves result_plot/NAME.json, NAME.npz and NAME.png at its end. `plot.py` draws from these.
"""

import argparse
import copy
import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import update_bn

import plot
from dataset import MIN_CROP, MNIST, MNIST_SHA256, ROTATION, TRANSLATION, draw_affine, warp
from model import MODELS, CustomMLP, LeNet5, count_parameters
from support.compute import distributed
from support.compute.cuda_graphs import GraphedStep, graphed
from support.compute.fast_layers import use_fast_layers
from support.compute.layer_table import check_logits, describe
from support.data import data_warnings, find_data
from support.data.find import Source
from support.run import checkpoint, history, result
from support.run.callback import Callback
from support.run.checkpoint import RunFiles, State
from support.run.divergence import check_finite
from support.run.history import History, epochs_done
from support.seeds import DRAWS, WEIGHTS, seed_of
from support.terminal import (
    Parser,
    UserError,
    number,
    printable,
    progress,
    run_command,
    say,
    signals_leave_word,
    warn,
)

# The recipe, one for all networks. It was chosen on the last 10,000 training images, held out: benchmarks/tuning.md.
EPOCHS = 50
BATCH_SIZE = 128
LEARNING_RATE = 0.05  # at its highest
WEIGHT_DECAY = 5e-4
MOMENTUM = 0.9
WARMUP_STEPS = 150  # steps, a third of an epoch of MNIST, in which the learning rate climbs from 0
MAX_WARMUP = 0.2  # of all steps: so much of a short run, or of one on little data
MAX_GRAD_NORM = 2.0  # L2 norm, to which a longer one is shortened: without, LeNet-5 dies on little data
DECAY = 0.2  # of all steps, the last, in which it falls to 0
AVERAGING = 4  # what is tested and kept is the mean of the weights over the last fifth of the steps so far
BN_IMAGES = 10_000  # training images that batch normalization's statistics are measured on: more change nothing
AUGMENT = (0.0, 1.0)  # each image at its own strength: some nearly as they are, as test images are

CLASSES = 10
TEST_BATCH = 1000  # only a matter of speed and memory: what is measured does not depend on it
DEFAULTS = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY}
DEFAULTS |= {"classes": CLASSES, "seed": 0}  # a run's name says what differs from these


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
    towards `network` at every step, see `update_average`. scheduler: stepped once a batch. Raises DivergedError.
    """
    network.train()
    losses: list[Tensor] = []
    correct: list[Tensor] = []
    count = 0
    for images, labels in progress(batches, show=distributed.is_main()):
        loss, logits = train_step(network, optimizer, images, labels)
        scheduler.step()
        update_average(average, network, step=scheduler.last_epoch)
        losses.append(loss * len(labels))  # not `.item()`: reading it makes the CPU wait for the GPU
        correct.append((logits.argmax(1) == labels).sum())
        count += len(labels)
    mean_loss, accuracy = distributed.all_reduce_mean(losses, correct, count)
    check_finite(mean_loss, scheduler, len(losses), losses)
    return mean_loss, accuracy


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


def test(network: nn.Module, dataset: MNIST) -> tuple[float, float]:
    """Mean loss (nats) and accuracy over the data set, in evaluation mode. Of several processes, each takes a share."""
    share = distributed.shard(len(dataset))
    logits, labels = predict(network, dataset, share), dataset.labels[share.start :: share.step]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(1) == labels).sum()
    return distributed.all_reduce_mean([loss], [correct], len(labels))


@torch.no_grad()
def predict(network: nn.Module, dataset: MNIST, indices: range) -> Tensor:
    """Logits (len(indices), classes) in evaluation mode."""
    network.eval()
    return torch.cat([network(dataset[batch][0]) for batch in split_range(indices)])


def split_range(indices: range) -> list[range]:
    """The indices in batches of TEST_BATCH, in their order."""
    return [indices[start : start + TEST_BATCH] for start in range(0, len(indices), TEST_BATCH)]


# --- what is unusual about the recipe ---------------------------------------------------------------------------------


def learning_rate(step: float, steps: int) -> float:
    """The rate after so many of all `steps`, as a share of the highest: it climbs, stays, and falls to 0.

    It stays high for long because low rates let the weights settle on the training images; averaging the weights takes
    out the noise that a high rate brings.
    """
    return min(1, step / min(WARMUP_STEPS, MAX_WARMUP * steps), (1 - step / steps) / DECAY)


def make_scheduler(optimizer: Optimizer, steps: int) -> LambdaLR:
    """`learning_rate` at the middle of each of all `steps`."""
    return LambdaLR(optimizer, lambda step: learning_rate(step + 0.5, steps))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    """Move the averaged weights towards those of `network` after that step, counted from 1.

    The share is (A + 1) / (A + step): polynomial-decay averaging (Shamir and Zhang, "Stochastic Gradient Descent for
    Non-smooth Optimization", 2013), in effect the mean over the last 1/(A + 1) of the steps so far, with A = AVERAGING.
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


def run(arguments: argparse.Namespace, callback: Callback = Callback()) -> History:  # noqa: B008 - it holds nothing
    """Train and test one network for `arguments.epochs` epochs, and keep its result; returns the history.

    Raises UserError, OSError where something cannot be written, Stopped where a signal asked for it.
    """
    device = distributed.choose_device(arguments.device)
    with distributed.process_group(device), signals_leave_word(), ExitStack() as stack:
        train_set, test_set, source = distributed.main_goes_first(lambda: load_data(arguments, device))
        torch.manual_seed(seed_of(WEIGHTS, arguments.seed))
        network = build_network(arguments.model, arguments.classes)
        layers = describe(network)
        check_logits(network, arguments.classes)
        distributed.check_batch_size(arguments.batch_size, len(train_set), network)
        record = new_history(arguments, network, train_set, test_set, source)
        place, state = distributed.main_decides(lambda: open_run(stack, arguments, record))
        training = make_training(arguments, network.to(device), train_set, test_set)
        if state:
            checkpoint.restore(state, place.checkpoint, training.saved())
            record = history.resumed(state["history"], record)
        introduce(record, layers, training, source)
        if arguments.dry_run:
            return dry_run(training, record)
        if not state:
            record |= history.plain(callback.on_train_begin(training.network, training.average, train_set))
        with checkpoint.saying_how_to_resume(place, record, arguments.command):
            for epoch in range(epochs_done(record) + 1, arguments.epochs + 1):
                figures = train_and_test(training, epoch, arguments)
                figures |= callback.on_epoch_end(training.network, training.average, train_set)
                history.add_epoch(record, figures)
                if distributed.is_main():
                    checkpoint.save_checkpoint(place, training.saved(), record)
                    say(history.epoch_line(record))
                if callback.stop:
                    break
            record |= history.plain(callback.on_train_end(training.average, test_set))
            record = history.with_digest(record)
            if distributed.is_main():
                finish(place, training, record, callback.pictures)
            distributed.barrier()  # nobody leaves while the first process still writes
    return record


def load_data(arguments: argparse.Namespace, device: torch.device) -> tuple[MNIST, MNIST, Source]:
    """Training and test set on the device, and where they come from. Raises UserError."""
    source = find_data(arguments.data_dir)
    train_set, test_set = (MNIST(path).to(device) for path in (source.train, source.test))
    return train_set, test_set, source


def build_network(model: str, classes: int) -> nn.Module:
    """A network of MODELS; one of your own need not know `classes` while there are ten."""
    return MODELS[model](**({} if classes == CLASSES else {"classes": classes}))


def make_training(arguments: argparse.Namespace, network: nn.Module, train_set: MNIST, test_set: MNIST) -> Training:
    """The recipe put together, for a network that has its first weights and lies where the data are."""
    if type(network) is LeNet5:
        use_fast_layers(network)
    batches = distributed.Batches(train_set, arguments.batch_size, arguments.seed)
    sgd = {"momentum": MOMENTUM, "nesterov": True, "weight_decay": arguments.weight_decay, "fused": True}
    optimizer = torch.optim.SGD(network.parameters(), arguments.lr, **sgd)
    scheduler = make_scheduler(optimizer, len(batches) * arguments.epochs)
    average, wrapped = copy.deepcopy(network), distributed.wrap(network, batches)
    if type(wrapped) in (LeNet5, CustomMLP):  # not a network of your own, which may do anything
        wrapped = GraphedStep(wrapped)
    distributed.keep_freed_memory()
    return Training(network, wrapped, average, optimizer, scheduler, train_set, batches, test_set)


def train_and_test(training: Training, epoch: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One epoch, counted from 1; its figures by their names in `history.LISTS`. Raises DivergedError."""
    network, wrapped, average, optimizer, scheduler, train_set, batches, test_set = training
    started, rate = time.perf_counter(), scheduler.get_last_lr()[0]
    # anew for each epoch and process, so that an epoch draws the same whatever ran before it
    torch.manual_seed(seed_of(DRAWS, arguments.seed, epoch, distributed.rank()))
    batches.epoch = epoch
    train_set.augment = AUGMENT if arguments.augment else False
    train_loss, train_accuracy = train(wrapped, average, batches, optimizer, scheduler)
    train_set.augment = False
    recalibrate_batch_norm(average, network, train_set)
    test_loss, test_accuracy = test(average, test_set)
    check_finite(test_loss, scheduler, len(batches))  # the last step may break what all others had left whole
    measured = (train_loss, train_accuracy, test_loss, test_accuracy, time.perf_counter() - started)
    used = (float(rate), torch.get_num_threads(), distributed.world_size())
    return dict(zip(history.LISTS, measured + used, strict=True))


def new_history(
    arguments: argparse.Namespace, network: nn.Module, train_set: MNIST, test_set: MNIST, source: Source
) -> History:
    """The record of the run before its first epoch: settings, recipe, data, device.

    The data are called MNIST, if they are, whatever their archive is called; else by the name of their folder.
    """
    sha256 = {"train": train_set.sha256(), "test": test_set.sha256()}
    settings = settings_of(arguments, "MNIST" if sha256 == MNIST_SHA256 else source.folder.resolve().name)
    recipe: History = {"optimizer": "SGD", "momentum": MOMENTUM, "nesterov": True, "max_grad_norm": MAX_GRAD_NORM}
    recipe |= {"warmup_steps": WARMUP_STEPS, "max_warmup": MAX_WARMUP, "decay": DECAY}
    recipe |= {"averaging": AVERAGING, "bn_images": BN_IMAGES}
    if arguments.augment:
        recipe |= {"rotation": ROTATION, "translation": TRANSLATION, "min_crop": MIN_CROP}
        recipe |= dict(zip(("augment_strength_min", "augment_strength_max"), AUGMENT, strict=True))
    data: History = {"train_images": len(train_set), "test_images": len(test_set)}
    data |= {f"{split}_sha256": digest for split, digest in sha256.items()}
    name = arguments.name or history.run_name(settings, DEFAULTS)
    device, parameters = distributed.device_name(train_set.images.device), count_parameters(network)
    return history.new_history(name=name, **settings, **recipe, parameters=parameters, **data, device=device)


def settings_of(arguments: argparse.Namespace, data: str) -> History:
    """What the name of a run says, and what two runs share that are the same."""
    return {name: data if name == "data" else getattr(arguments, name) for name in history.SETTINGS}


def open_run(stack: ExitStack, arguments: argparse.Namespace, record: History) -> tuple[RunFiles, State | None]:
    """Hold the run's name, and read what --resume goes on from. Raises UserError where something would be lost."""
    place = RunFiles(record["name"], Path(arguments.output_dir), Path(arguments.checkpoint_dir))
    if arguments.resume and not arguments.name:
        place = checkpoint.find_unfinished(place)
    if arguments.dry_run:
        checkpoint.check_folders(place)
    else:
        checkpoint.acquire(stack, place)
    if arguments.resume:
        return place, checkpoint.state_to_resume(place, record, learning_rate)
    if not arguments.restart:
        checkpoint.check_nothing_is_lost(place, record)
    return place, None


def dry_run(training: Training, record: History) -> History:
    """One step of training, of which nothing is kept."""
    first = islice(training.batches, 1)
    train(training.wrapped, training.average, first, training.optimizer, training.scheduler)
    if distributed.is_main():
        say(f"dry run: 1 of {len(training.batches)} steps of an epoch works; nothing was written")
    return record


# --- what it prints and keeps -----------------------------------------------------------------------------------------


def introduce(record: History, layers: str, training: Training, source: Source) -> None:
    """Say what is about to be trained, on what, and what looks wrong about it."""
    if not distributed.is_main():
        return
    train_set, test_set, threads = training.train_set, training.test_set, torch.get_num_threads()
    say(f"{len(train_set):,} training and {len(test_set):,} test images: {printable(source.found)}")
    say(f"{record['name']}: {record['device']}, {distributed.world_size()} x {threads} threads, seed {record['seed']}")
    say(layers)
    if epochs_done(record):
        say(f"going on behind epoch {epochs_done(record)} of {record['epochs']}")
    for doubt in data_warnings(train_set, test_set):
        warn(doubt)


def finish(place: RunFiles, training: Training, record: History, pictures: bool) -> None:
    """Write the result, of a sealed record: weights, arrays, history, picture; then mark the checkpoint as finished."""
    train_set, test_set = training.train_set, training.test_set
    arrays = result.answers(predict(training.average, test_set, range(len(test_set))), test_set.labels)
    if pictures:
        arrays |= result.pictures(training.average, test_set.images, arrays)
        if record["augment"]:
            torch.manual_seed(seed_of(DRAWS, record["seed"]))
            arrays |= result.draws(train_set, lambda images: warp(images, draw_affine(len(images))))
    checkpoint.save_result(place, training.average, record, arrays)
    drawn = pictures and result.save_picture(
        place, lambda file: plot.save(plot.draw_run(record), file, record["digest"])
    )
    checkpoint.save_checkpoint(place, training.saved(), record)
    say(history.summary(record) + (f"\nplot                   {printable(place.result('.png'))}" if drawn else ""))


# --- the command line -------------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Train a network on MNIST; print loss and accuracy for train and test, epoch by epoch.")
    add = parser.add_argument
    add("--model", choices=MODELS, help="the network")
    add("--augment", action="store_true", help="rotate, translate and crop the training images")
    add("--epochs", type=number(int, 1, 10**6), default=EPOCHS, help=f"passes over the training set ({EPOCHS})")
    add("--batch-size", type=number(int, 1, 10**6), default=BATCH_SIZE, help=f"of all processes ({BATCH_SIZE})")
    add("--lr", type=number(float, 0, above=True), default=LEARNING_RATE, help=f"at its highest ({LEARNING_RATE})")
    add("--weight-decay", type=number(float, 0), default=WEIGHT_DECAY, help=f"L2 penalty of SGD ({WEIGHT_DECAY})")
    add("--classes", type=number(int, 2, 256), default=CLASSES, help=f"labels run from 0 to one less ({CLASSES})")
    add("--seed", type=number(int, 0, 2**63 - 1), default=0, help="of first weights, order and augmentation (0)")
    add("--threads", type=number(int, 1, 1024), help="of the CPU (all its cores)")
    add("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="auto: the first that is there")
    add("--data-dir", help="folder of the data (data, which a download fills)")
    add("--output-dir", default="result_plot", help="folder for histories and plots (result_plot)")
    add("--checkpoint-dir", default="checkpoints", help="folder for checkpoints and weights (checkpoints)")
    add("--name", help="of the run and its files (the model and what differs from the defaults)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the unfinished run of this name")
    again.add_argument("--restart", action="store_true", help="throw away what there is of this name")
    add("--dry-run", action="store_true", help="check everything, train one step, write nothing")
    add("--test-only", action="store_true", help="only print loss and accuracy of --weights on the test set")
    add("--weights", metavar="FILE", help="weights of a finished run, for --test-only")
    arguments = parser.parse_args(argv)
    if arguments.test_only != (arguments.weights is not None):
        parser.error("--test-only and --weights FILE belong together")
    if not arguments.test_only and arguments.model is None:
        parser.error(f"--model: expected one of {', '.join(MODELS)}")
    if arguments.name is not None and not history.is_name(arguments.name):
        parser.error(f"--name {arguments.name}: expected at most 100 letters, digits, dots, underlines and hyphens")
    arguments.command = distributed.command_line(argv)
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


def test_only(arguments: argparse.Namespace) -> None:
    """Print loss and accuracy of a finished network on the test set. Raises UserError."""
    device, path = distributed.choose_device(arguments.device), Path(arguments.weights)
    state, source = checkpoint.read_weights(path), find_data(arguments.data_dir)
    test_set = MNIST(source.test).to(device)
    loss, accuracy = test(restore_network(state, path).to(device), test_set)
    say(f"{printable(state['name'])} on {len(test_set):,} test images, {printable(source.found)}")
    say(f"test loss {loss:.4f}  test accuracy {accuracy:.2%}")


def main(argv: list[str] | None = None, callback: Callback = Callback()) -> None:  # noqa: B008
    """Run the command line. Raises SystemExit for whatever ends it early, with a status as `run_command` gives it."""

    def action() -> None:
        arguments = parse_arguments(argv)
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        if arguments.test_only:
            test_only(arguments)
        else:
            run(arguments, callback)

    run_command(action)


if __name__ == "__main__":
    main()
