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
import json
import math
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import update_bn
from torch.utils.data import BatchSampler, DistributedSampler, Sampler
from tqdm import tqdm

import files
import plot
from dataset import MNIST, MNIST_SHA256, DataError, draw_affine, find_data, warp
from model import MODELS, count_parameters, describe

# The recipe, one for all networks. It was chosen on the last 10,000 training images, held out: benchmarks/tuning.md.
EPOCHS = 50
BATCH_SIZE = 128
LEARNING_RATE = 0.05  # at its highest
WEIGHT_DECAY = 5e-4
MOMENTUM = 0.9
WARM_UP = 5  # epochs, in which the learning rate climbs from 0
FALL = 0.2  # of all epochs, the last, in which it falls to 0
AVERAGING = 4  # what is tested and kept is the mean of the weights over the last fifth of the steps so far
STATISTICS = 10_000  # training images that batch normalization's statistics are measured on: more change nothing
AUGMENT = (0.0, 1.0)  # each image at its own strength: some nearly as they are, as test images are

IMAGES_AT_ONCE = 1024  # made together, for several batches: the calls that make 128 cost more than the work on them
TEST_BATCH = 1000  # only a matter of speed and memory: what is measured does not depend on it
Observer = Callable[[nn.Module, nn.Module, MNIST], dict[str, float]]
METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "matplotlib")  # whose versions a history names
# What a checkpoint must share with the command that resumes it, beside the recipe.
IDENTITY = ("model", "augment", "seed", "train_sha256", "test_sha256")


class UserError(Exception):
    """What the user can mend. The message says what was found, where, what was expected and what to do."""


class DivergedError(Exception):
    """The loss is no longer finite. The message says at which step and learning rate."""


class Stopped(Exception):
    """A signal asked the run to stop; `args[0]` is its number."""


# --- the loop ---------------------------------------------------------------------------------------------------------


class Batches:
    """This process's share of each global batch: (images, labels) as the data set gives them, in the sampler's order.

    size: of a global batch; the last one may be smaller. Whole batches are made together, and handed out one by one.
    """

    def __init__(self, dataset: MNIST, sampler: Sampler[int], size: int) -> None:
        self.dataset, self.sampler, self.size, self.share = dataset, sampler, size, size // world_size()

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.share)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        at_once = max(1, IMAGES_AT_ONCE // self.share) * self.share
        for indices in BatchSampler(self.sampler, at_once, drop_last=False):
            images, labels = self.dataset[indices]
            yield from zip(images.split(self.share), labels.split(self.share), strict=True)


def train(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    learning_rates: list[float],
    check: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Train one epoch; return the mean loss (nats) and the accuracy of its samples, measured as the epoch went.

    learning_rates: one a step. check: called before each step; may raise. With several processes, `batches` are this
    process's share of each global batch, and the figures are over all. Raises DivergedError.
    """
    model.train()
    device = next(model.parameters()).device
    size, total = batches.size, len(batches.dataset)
    losses = torch.zeros(len(batches), device=device)  # summed over the batch; read once, after the epoch, because
    correct = torch.zeros((), device=device)  # whoever reads from a GPU waits for it
    for step, (images, labels) in enumerate(tqdm(batches, leave=False, disable=not on_terminal())):
        check()
        for group in optimizer.param_groups:
            group["lr"] = learning_rates[step]
        logits = model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        optimizer.zero_grad()
        # the mean over the global batch: DistributedDataParallel divides the sum of the gradients by the world size
        (loss * (world_size() / min(size, total - step * size))).backward()
        optimizer.step()
        losses[step] = loss.detach()
        correct += (logits.argmax(1) == labels).sum()
    loss, accuracy = (figure / total for figure in sum_over_processes(losses.sum(), correct))
    if not math.isfinite(loss):
        finite = losses.isfinite().tolist()
        step = finite.index(False) if False in finite else len(finite) - 1
        raise DivergedError(f"step {step + 1} of {len(finite)}, learning rate {learning_rates[step]:.3g}")
    return loss, accuracy


def test(model: nn.Module, dataset: MNIST) -> tuple[float, float]:
    """Mean loss (nats) and accuracy over the data set, in evaluation mode. Each process takes its share."""
    share = range(rank(), len(dataset), world_size())
    logits, labels = predict(model, dataset, share), dataset.labels[share.start :: share.step]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(1) == labels).sum()
    loss, accuracy = (figure / len(dataset) for figure in sum_over_processes(loss, correct))
    return loss, accuracy


@torch.no_grad()
def predict(model: nn.Module, dataset: MNIST, indices: range) -> Tensor:
    """Logits (len(indices), 10) in evaluation mode."""
    model.eval()
    return torch.cat([model(dataset[batch][0]) for batch in test_ranges(indices)])


def test_ranges(indices: range) -> Iterator[range]:
    """The indices in batches of TEST_BATCH, in their order."""
    return (indices[start : start + TEST_BATCH] for start in range(0, len(indices), TEST_BATCH))


def learning_rate(epoch: float, epochs: int, peak: float) -> float:
    """The rate after so many of all `epochs`: it climbs to `peak`, stays there, and falls to 0 over the last of them.

    It stays high for long because low rates let the weights settle on the training images; averaging the weights takes
    out the noise that a high rate brings.
    """
    return peak * min(1, epoch / WARM_UP, (1 - epoch / epochs) / FALL)


def average_weights(network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Have every step of the optimizer, of which `step` were made before, move `average` towards `network`.

    The weight of step t, counted from 1, is (A + 1) / (A + t): polynomial-decay averaging (Shamir and Zhang,
    "Stochastic Gradient Descent for Non-smooth Optimization", 2013), in effect the mean over the last 1/(A + 1) of the
    steps so far, with A = AVERAGING. PyTorch's AveragedModel can do the same, in ten to twenty times the time.
    """
    old, new = list(average.parameters()), list(network.parameters())
    steps = count(step + 1)

    @torch.no_grad()
    def move(*_: object) -> None:
        torch._foreach_lerp_(old, new, (AVERAGING + 1) / (AVERAGING + next(steps)))

    optimizer.register_step_post_hook(move)


def measure_statistics(network: nn.Module, dataset: MNIST) -> None:
    """Measure batch normalization's means and variances on the first images of the data set, as they are.

    Averaged weights need statistics of their own (Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization", 2018), and those that ran along in training are of augmented images, which test images are not.
    Each process takes its share of the batches, and all end with the mean over all batches.
    """
    batches = list(test_ranges(range(min(STATISTICS, len(dataset)))))
    share = batches[rank() :: world_size()]
    update_bn((dataset[indices][0] for indices in share), network)
    if dist.is_initialized():
        for statistic in (buffer for buffer in network.buffers() if buffer.is_floating_point()):
            statistic.mul_(len(share) / len(batches))
            dist.all_reduce(statistic)


class ExactSampler(DistributedSampler):
    """DistributedSampler, each index exactly once: the original repeats a few to make the shares equally long."""

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), len(self))

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))


# --- several processes ------------------------------------------------------------------------------------------------


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def on_terminal() -> bool:
    return rank() == 0 and sys.stderr.isatty()


def sum_over_processes(*values: Tensor) -> list[float]:
    totals = torch.stack([value.float() for value in values])
    if dist.is_initialized():
        dist.all_reduce(totals)
    return totals.tolist()


def join_processes(stack: ExitStack, device: torch.device) -> None:
    """Join the group that torchrun started, if it did; `stack` leaves it."""
    if "RANK" in os.environ:
        backend = "nccl" if device.type == "cuda" else "gloo"
        if backend == "gloo":
            take_turns()
        dist.init_process_group(backend)
        stack.callback(dist.destroy_process_group)


def take_turns() -> None:
    """Have no thread that is started from now on push another off its core before that one's turn is over.

    Where all cores are busy, gloo's receiving thread would otherwise wake up in the middle of a send, take the sender's
    core, and wait in a busy loop for the lock that the sender holds until its own turn of 3 ms is over. Two processes
    on two cores so lost 2 to 3 ms in each step. SCHED_BATCH of sched(7); only Linux has it.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@contextmanager
def lost_processes(check: Callable[[], None]) -> Iterator[None]:
    """Where another process of the run is gone PyTorch says that a connection broke. Stop as it did, or say so."""
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized():
            raise
        check()
        raise UserError(f"another process of this run has ended: {str(error).splitlines()[0]}") from None


def share_network(network: nn.Module, device: torch.device) -> nn.Module:
    """The network as all processes train it. On CUDA batch normalization is synchronized; PyTorch cannot on CPUs."""
    if not dist.is_initialized():
        return network
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # running statistics are not sent around: nothing reads them, see measure_statistics
    return DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)


# --- a run ------------------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace, observe: Observer | None = None) -> None:
    """Train and test one network for `arguments.epochs` epochs, and write its files.

    observe(network, average, train_set), if given, is called after every epoch; the figures that it returns are kept in
    the history, a list each. It must draw no random numbers and leave the networks as they were.
    """
    with ExitStack() as stack:
        device = choose_device(arguments.device)
        join_processes(stack, device)
        if rank() > 0:
            dist.barrier()  # rank 0 goes first: what is wrong is said once, and a download is made once
        folder, why_sample = find_data(arguments.data_dir)
        name = run_name(arguments) + ("-sample" if why_sample else "")
        checkpoint_path, output = Path(arguments.checkpoint_dir, f"{name}.pt"), Path(arguments.output_dir, name)
        if rank() == 0:
            claim_files(stack, checkpoint_path, output)
        train_set, test_set = (MNIST(folder / f"{split}.tar").to(device) for split in ("train", "test"))
        check_batches(arguments, len(train_set))
        history = new_history(arguments, name, train_set, test_set, device)
        state = load_checkpoint(checkpoint_path, history, arguments) if rank() == 0 else None
        if dist.is_initialized():
            if rank() == 0:
                dist.barrier()
            state = broadcast_object(state)

        torch.manual_seed(arguments.seed)
        network = MODELS[arguments.model]().to(device)
        optimizer = make_optimizer(network, arguments)
        average = copy.deepcopy(network)
        if state:
            try:
                network.load_state_dict(state["network"])
                average.load_state_dict(state["average"])
                optimizer.load_state_dict(state["optimizer"])
            except Exception:  # of entries that do not fit, PyTorch raises half a dozen kinds
                raise no_checkpoint(checkpoint_path) from None
            history = state["history"] | {"epochs": arguments.epochs}
        if rank() == 0:
            introduce(network, history, train_set, test_set, why_sample, folder)
        model = share_network(network, device)
        keep_freed_memory()
        batches = make_batches(train_set, arguments)
        average_weights(network, average, optimizer, len(history["train_loss"]) * len(batches))
        check = stop_on_signals(stack)

        for epoch in range(len(history["train_loss"]) + 1, arguments.epochs + 1):
            try:
                with lost_processes(check):
                    figures = train_and_test(epoch, arguments, model, average, batches, test_set, optimizer, check)
            except DivergedError as error:
                raise UserError(
                    f"the loss is no longer finite: epoch {epoch}, {error}\n"
                    f"try a lower --lr; {len(history['train_loss'])} epochs before it are kept in {checkpoint_path}"
                ) from None
            except Stopped as stopped:
                say_how_to_resume(history, checkpoint_path)
                raise SystemExit(128 + stopped.args[0]) from None
            if observe:
                figures |= observe(network, average, train_set)
            for metric, figure in figures.items():
                history.setdefault(metric, []).append(figure)
            if rank() == 0:
                print(epoch_line(history), flush=True)
                save_checkpoint(checkpoint_path, network, average, optimizer, history)
        if rank() == 0:
            finish(network, average, optimizer, history, train_set, test_set, checkpoint_path, output)
        if dist.is_initialized():
            dist.barrier()  # nobody leaves while the first process still writes


def make_optimizer(network: nn.Module, arguments: argparse.Namespace) -> torch.optim.Optimizer:
    """SGD of the recipe."""
    return torch.optim.SGD(
        network.parameters(), arguments.lr, momentum=MOMENTUM, weight_decay=arguments.weight_decay, fused=True
    )


def make_batches(train_set: MNIST, arguments: argparse.Namespace) -> Batches:
    """The training set in an order that seed and epoch decide."""
    sampler = ExactSampler(train_set, world_size(), rank(), seed=arguments.seed)
    return Batches(train_set, sampler, arguments.batch_size)


def train_and_test(
    epoch: int,
    arguments: argparse.Namespace,
    model: nn.Module,
    average: nn.Module,
    batches: Batches,
    test_set: MNIST,
    optimizer: torch.optim.Optimizer,
    check: Callable[[], None],
) -> dict[str, float]:
    """One epoch, counted from 1: train `model`, test `average`; the figures by their names in METRICS."""
    started = time.perf_counter()
    train_set, steps = batches.dataset, len(batches)
    seed_epoch(arguments.seed, epoch)
    batches.sampler.set_epoch(epoch)
    passed = [epoch - 1 + (step + 0.5) / steps for step in range(steps)]  # epochs, at the middle of each step
    rates = [learning_rate(when, arguments.epochs, arguments.lr) for when in passed]
    train_set.augment = AUGMENT if arguments.augment else False
    train_figures = train(model, batches, optimizer, rates, check)
    train_set.augment = False
    measure_statistics(average, train_set)
    test_figures = test(average, test_set)
    if not math.isfinite(test_figures[0]):  # the last step broke what all others had left whole
        raise DivergedError(f"step {steps} of {steps}, learning rate {rates[-1]:.3g}")
    return dict(zip(METRICS, (*train_figures, *test_figures, time.perf_counter() - started), strict=True))


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed every generator anew for this epoch and process, so that an epoch draws the same whatever ran before it."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank())).generate_state(1, np.uint64)[0]))


def run_name(arguments: argparse.Namespace) -> str:
    """The stem of all the run's files, less the ending that marks the sample."""
    seed = f"_seed{arguments.seed}" if arguments.seed else ""
    return arguments.model + ("_augment" if arguments.augment else "") + seed


def recipe(arguments: argparse.Namespace) -> dict[str, float]:
    """What decides how a network is trained, beside the number of epochs."""
    return {
        "batch_size": arguments.batch_size,
        "lr": arguments.lr,
        "weight_decay": arguments.weight_decay,
        "momentum": MOMENTUM,
        "warm_up": WARM_UP,
        "fall": FALL,
        "averaging": AVERAGING,
    }


def new_history(
    arguments: argparse.Namespace, name: str, train_set: MNIST, test_set: MNIST, device: torch.device
) -> dict:
    """The record of a run: its configuration, and an empty list for each figure."""
    sha256 = {"train": train_set.sha256(), "test": test_set.sha256()}
    return {
        "name": name,
        "model": arguments.model,
        "augment": arguments.augment,
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        **recipe(arguments),
        "parameters": count_parameters(MODELS[arguments.model]()),
        "data": "MNIST" if sha256 == MNIST_SHA256 else train_set.path.parent.resolve().name,
        "train_images": len(train_set),
        "test_images": len(test_set),
        "train_sha256": sha256["train"],
        "test_sha256": sha256["test"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        **{metric: [] for metric in METRICS},
    }


def epoch_line(history: dict) -> str:
    """The last epoch in one line, aligned, each figure behind its name."""
    epochs, figures = str(history["epochs"]), {metric: history[metric][-1] for metric in METRICS}
    return (
        f"epoch {len(history['train_loss']):>{len(epochs)}}/{epochs}"
        f"  train loss {figures['train_loss']:.4f}  train accuracy {figures['train_accuracy']:7.2%}"
        f"  test loss {figures['test_loss']:.4f}  test accuracy {figures['test_accuracy']:7.2%}"
        f"  {figures['seconds']:5.1f} s"
    )


def summary(history: dict) -> str:
    """The best and the last epoch on the test set."""
    loss, accuracy = np.array(history["test_loss"]), np.array(history["test_accuracy"])
    return (
        f"lowest test loss       {loss.min():.4f} in epoch {loss.argmin() + 1}\n"
        f"highest test accuracy {accuracy.max():7.2%} in epoch {accuracy.argmax() + 1}\n"
        f"last epoch             {loss[-1]:.4f} and {accuracy[-1]:.2%}"
    )


def introduce(
    network: nn.Module, history: dict, train_set: MNIST, test_set: MNIST, why_sample: str | None, folder: Path
) -> None:
    """Say what is about to be trained, on what, and what looks wrong about it."""
    print(describe(network))
    print(
        f"{history['name']}: {len(train_set):,} training and {len(test_set):,} test images from {folder}, "
        f"{history['device']}, {history['processes']} x {history['threads']} threads, seed {history['seed']}",
        flush=True,
    )
    done = len(history["train_loss"])
    if done:
        print(f"going on behind epoch {done} of {history['epochs']}")
    if why_sample:
        warn(f"THIS IS NOT MNIST but the bundled sample of {len(train_set) + len(test_set):,} digits: {why_sample}.")
        warn("Its figures mean little. For MNIST, put train.tar and test.tar in data/ or name their --data-dir.")
    for split, dataset in (("training", train_set), ("test", test_set)):
        absent = [digit for digit, count in enumerate(dataset.labels.bincount(minlength=10).tolist()) if count == 0]
        if absent:
            warn(f"the {split} set holds no {', '.join(map(str, absent))}")
    if len(test_set) > len(train_set):
        warn(f"the test set ({len(test_set):,}) is larger than the training set ({len(train_set):,}): swapped?")


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def stop_on_signals(stack: ExitStack) -> Callable[[], None]:
    """SIGINT and SIGTERM now only leave word; the function that is returned raises Stopped on it. A second one ends."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    def check() -> None:
        if received:
            raise Stopped(received[0])

    for number in (signal.SIGINT, signal.SIGTERM):
        stack.callback(signal.signal, number, signal.signal(number, handle))
    return check


def say_how_to_resume(history: dict, checkpoint_path: Path) -> None:
    if rank() > 0:
        return
    done = len(history["train_loss"])
    if not done:
        print("\nstopped before the first epoch was complete: nothing is saved", flush=True)
        return
    options = [word for word in sys.argv if word not in ("--resume", "--restart")]
    launcher = f"torchrun --nproc-per-node {world_size()}" if dist.is_initialized() else "python"
    print(f"\nstopped; {done} of {history['epochs']} epochs are saved in {checkpoint_path}\n{summary(history)}")
    print(f"go on with: {launcher} {shlex.join([*options, '--resume'])}", flush=True)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step, not give it back to the system and ask for it anew.

    The first epoch would otherwise take a third longer: every step would fault its memory in, page by page. glibc's
    limits rise to the largest block freed so far, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def broadcast_object(value: object) -> object:
    """Rank 0's value, for all."""
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def check_batches(arguments: argparse.Namespace, count: int) -> None:
    """Raises UserError if the last batch would be too small to share out, or for batch normalization."""
    if arguments.batch_size % world_size():
        raise UserError(f"--batch-size {arguments.batch_size}: expected a multiple of the {world_size()} processes")
    normalizes = any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in MODELS[arguments.model]().modules()
    )
    least = world_size() * (2 if normalizes else 1)
    last = count % arguments.batch_size or min(count, arguments.batch_size)
    if last < least:
        raise UserError(
            f"--batch-size {arguments.batch_size}: of {count:,} images it leaves {last} for the last batch; "
            f"expected at least {least}, so that each process has {least // world_size()}\nchoose another --batch-size"
        )


# --- files ------------------------------------------------------------------------------------------------------------


def claim_files(stack: ExitStack, checkpoint_path: Path, output: Path) -> None:
    """Make the folders, lock the name, clear what a killed run left. Raises UserError if that cannot be done."""
    for folder in (checkpoint_path.parent, output.parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from None
    try:
        stack.enter_context(files.lock(checkpoint_path.with_name(f".{checkpoint_path.stem}.lock")))
    except files.RunningError:
        raise UserError(
            f"{checkpoint_path}: another process is training {checkpoint_path.stem} right now\n"
            "wait for it, or train under another --seed or --checkpoint-dir"
        ) from None
    for path in (checkpoint_path, weights_path(checkpoint_path), *(output.with_name(output.name + e) for e in ENDINGS)):
        files.clear_temporary(path)


ENDINGS = (".npz", ".png", ".json")  # of a result, in the order in which they are written: the history comes last


def weights_path(checkpoint_path: Path) -> Path:
    """Where the weights of the last finished run of that name are, while another may be in progress."""
    return checkpoint_path.with_name(f"{checkpoint_path.stem}.weights.pt")


def save_checkpoint(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: dict,
    finished: bool = False,
) -> None:
    """Save all that is needed to go on as if nothing had happened.

    Schedule and generators need no entry: they are functions of the seed and the number of epochs in the history.
    """
    state = {
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "finished": finished,
    }
    files.replace(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path, history: dict, arguments: argparse.Namespace) -> dict | None:
    """The state to go on from, or None to start afresh. Raises UserError where the user has to choose."""
    if not path.exists():
        if arguments.resume:
            raise UserError(f"{path}: not found, so there is nothing to resume; leave --resume out to start")
        return None
    if arguments.restart:
        return None
    state = read_checkpoint(path)
    saved, finished = state["history"], state["finished"]
    if not arguments.resume:
        if finished:
            return None
        raise UserError(
            f"{path}: holds an unfinished run, {len(saved['train_loss'])} of {saved['epochs']} epochs\n"
            "go on with it with --resume, or throw it away with --restart"
        )
    shared = (*IDENTITY, *recipe(arguments))
    differences = [
        f"{key} {saved.get(key)} there, {history[key]} here" for key in shared if saved.get(key) != history[key]
    ]
    if differences:
        raise UserError(
            f"{path}: belongs to another configuration: {', '.join(differences)}\nresume with what it was started with"
        )
    if finished:
        raise UserError(f"{path}: the run is finished, so there is nothing to resume; leave --resume out to train anew")
    done, shorter = len(saved["train_loss"]), min(saved["epochs"], arguments.epochs)
    # before the learning rate falls, a run of other --epochs is the same
    if saved["epochs"] != arguments.epochs and done > (1 - FALL) * shorter:
        raise UserError(
            f"{path}: {done} of {saved['epochs']} epochs are done, too many to go on with --epochs {arguments.epochs}: "
            f"the learning rate falls from {1 - FALL:.0%} of them on\nresume with --epochs {saved['epochs']}"
        )
    return state


def read_checkpoint(path: Path) -> dict:
    """What `save_checkpoint` saved: only tensors and plain values are read, never a pickle that could run code.

    Raises UserError if the file is anything else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["history"]
        lengths = {len(saved[metric]) for metric in METRICS}
        if len(lengths) != 1 or not {"network", "average", "optimizer", "finished"} <= set(state):
            raise ValueError("entries are missing")
        if missing := set(IDENTITY) - set(saved):
            raise ValueError(f"its history has no {missing}")
    except Exception:  # of a damaged or foreign file torch.load raises a dozen kinds, all meaning this
        raise no_checkpoint(path) from None
    return state


def no_checkpoint(path: Path) -> UserError:
    return UserError(
        f"{path}: is damaged or no checkpoint of this program; expected tensors and plain values, and no other "
        "code is run to read it\nstart afresh with --restart, which replaces it"
    )


def finish(
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    history: dict,
    train_set: MNIST,
    test_set: MNIST,
    checkpoint_path: Path,
    output: Path,
) -> None:
    """Write the finished result: arrays, picture, history, weights; then mark the checkpoint as finished."""
    arrays = result_arrays(average, history, train_set, test_set)
    writers = {
        ".npz": lambda file: np.savez_compressed(file, **arrays),
        ".png": lambda file: plot.save(plot.draw_run(history), file),
        ".json": lambda file: file.write((json.dumps(history, indent=1) + "\n").encode()),
    }
    for ending in ENDINGS:
        files.replace(output.with_name(output.name + ending), writers[ending])
    weights = {"network": average.state_dict(), "model": history["model"], "name": history["name"]}
    files.replace(weights_path(checkpoint_path), lambda file: torch.save(weights, file))
    save_checkpoint(checkpoint_path, network, average, optimizer, history, finished=True)
    print(f"{summary(history)}\nplot                   {output.with_name(output.name + '.png')}", flush=True)


def result_arrays(network: nn.Module, history: dict, train_set: MNIST, test_set: MNIST) -> dict[str, np.ndarray]:
    """What `plot.py` draws beside the curves: what the network said of the test set, its first filters, the warps."""
    probabilities = predict(network, test_set, range(len(test_set))).softmax(1).cpu()
    confidence, predictions = probabilities.max(1)
    labels = test_set.labels.cpu()
    wrong = (predictions != labels).nonzero().flatten()
    arrays = {
        "labels": labels.byte(),
        "predictions": predictions.byte(),
        "confidence": confidence,
        "mistakes": wrong,
        "mistake_images": test_set.images.cpu()[wrong],
    }
    if hasattr(network, "c1"):
        arrays["c1"] = network.c1.weight.detach().cpu().contiguous()
    if history["augment"]:
        first = torch.stack([(train_set.labels == digit).byte().argmax() for digit in range(10)]).cpu()
        originals = train_set.images.cpu()[first]
        seed_epoch(history["seed"], 0)
        repeated = originals.repeat_interleave(8, 0)[:, None].float()
        arrays["originals"] = originals
        arrays["warped"] = warp(repeated, draw_affine(len(repeated))).round().byte().view(10, 8, *originals.shape[1:])
    return {key: value.numpy() for key, value in arrays.items()}


# --- the command line -------------------------------------------------------------------------------------------------


def number(kind: type, low: float, high: float = sys.float_info.max, above: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number of that kind, at least `low` (or above it) and at most `high`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high or (above and value == low):
            limit = "" if high == sys.float_info.max else f" and at most {high:g}"
            raise argparse.ArgumentTypeError(
                f"{text}: expected a number {'above' if above else 'of at least'} {low:g}{limit}"
            )
        return value

    parse.__name__ = kind.__name__
    return parse


class Parser(argparse.ArgumentParser):
    """argparse's, with errors of one line, as all errors of this program are."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see --help", 2)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Train a network on MNIST; print loss and accuracy for train and test after every epoch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", choices=MODELS, required=True, help="the network", default=argparse.SUPPRESS)
    add("--augment", action="store_true", help="rotate, translate and crop the training images")
    add(
        "--epochs",
        type=number(int, 1, 10**6),
        default=EPOCHS,
        help="passes over the training set; --resume may change them as long as the learning rate has not begun to "
        f"fall, which it does in the last {100 * FALL:.0f} %% of them",
    )
    add("--batch-size", type=number(int, 1, 10**6), default=BATCH_SIZE, help="images a step, over all processes")
    add(
        "--lr",
        type=number(float, 0, above=True),
        default=LEARNING_RATE,
        help="highest learning rate",
    )
    add("--weight-decay", type=number(float, 0), default=WEIGHT_DECAY, help="L2 penalty of SGD")
    add(
        "--seed", type=number(int, 0, 2**63 - 1), default=0, help="of the first weights, the order and the augmentation"
    )
    add(
        "--data-dir",
        help="folder of train.tar and test.tar (default: data, filled by a download if it is empty)",
        default=argparse.SUPPRESS,
    )
    add("--output-dir", default="result_plot", help="folder for the history and the plots")
    add("--checkpoint-dir", default="checkpoints", help="folder for checkpoints and weights")
    add(
        "--device",
        choices=("auto", "cuda", "mps", "cpu"),
        default="auto",
        help="where to train; auto: the first there is",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the unfinished run of this name")
    again.add_argument("--restart", action="store_true", help="throw the unfinished run of this name away")
    arguments = parser.parse_args(argv)
    arguments.data_dir = getattr(arguments, "data_dir", None)
    return arguments


def choose_device(name: str) -> torch.device:
    """The device of that name; of several GPUs, the one that torchrun's LOCAL_RANK counts to. Raises UserError."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there[name]:
        raise UserError(f"--device {name}: not available on this machine; leave --device out")
    if name == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(name)


def fail(message: str, status: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(status)


def main(argv: list[str] | None = None, observe: Observer | None = None) -> None:
    """Run the command line. Raises SystemExit: 2 for what the user can mend, 1 for a file that cannot be written."""
    arguments = parse_arguments(argv)
    try:
        run(arguments, observe)
    except (UserError, DataError) as error:
        fail(str(error), 2)
    except OSError as error:
        fail(
            f"{error.filename or arguments.output_dir}: {error.strerror or error}\nmend that, then go on with --resume",
            1,
        )
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
