"""Train LeNet-5, a multi-layer perceptron of its size, or LeNet-5 with batch normalization on MNIST.

    python main.py --model lenet
    python main.py --model mlp
    python main.py --model lenet_bn --augment
    torchrun --nproc-per-node 2 main.py --model lenet_bn --augment

The same from Python: `history = run(Settings(model="lenet", epochs=5))`.

Each run prints loss and accuracy for train and test after every epoch and saves itself whole as checkpoints/NAME.pt,
until at its end it leaves checkpoints/NAME.weights.pt and result_plot/NAME.json, NAME.npz and NAME.png in its place.
`plot.py` draws from these.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer, lr_scheduler, swa_utils
from tqdm import tqdm

import plot
from dataset import MEAN, MIN_CROP, MNIST, MNIST_SHA256, PADDING, ROTATION, STD, TRANSLATION, Loader, draw_affine, warp
from model import MODELS, build, count_parameters
from support.compute import GraphedStep, check_logits, describe, distributed, fast_layers_in, graphed
from support.data import data_warnings, find_data
from support.run import Callback, History, checkpoint, history, result
from support.seeds import DRAWS, WEIGHTS, seed_of
from support.terminal import Parser, UserError, number, printable, run_command, warn

# The recipe, one for all networks; what may be told otherwise stands in Settings. It was chosen on the last 10,000
# training images, held out: benchmarks/tuning.md.
OPTIMIZER = SGD
MOMENTUM = 0.9
NESTEROV = True
WARMUP_STEPS = 150  # a third of an epoch of MNIST, in which the learning rate climbs from 0
MAX_WARMUP = 0.2  # of all steps: so much of a short run, or of one on little data
DECAY = 0.2  # of all steps, the last, in which the learning rate falls to 0
MAX_GRAD_NORM = 2.0  # L2, of all gradients; without it some runs of LeNet-5 hardly learn on little data
AVERAGING = 4  # what is tested and kept is an average of the weights, see `update_average`
BN_IMAGES = 10_000  # training images that batch normalization's statistics are measured on: more change nothing
AUGMENT = (0.0, 1.0)  # each image at its own strength: some nearly as they are, as test images are

TEST_BATCH = 1000  # only a matter of speed and memory: what is measured does not depend on it


def option(default: Any, text: str, kind: Callable[[Any], Any] = str) -> Any:
    """A field of Settings: what --help says of it; and `kind`, which converts and checks a word or a number."""
    return field(default=default, metadata={"help": text, "kind": kind})


@dataclass(frozen=True)
class Settings:
    """What a run is told. What differs from the defaults names the run. Raises UserError where a value is no use."""

    model: str = option("", f"the network: {', '.join(MODELS)}")
    # True, or a function of one's own, see `MNIST`; a history keeps its name
    augment: Any = option(False, "rotate, translate and crop the training images", bool)  # noqa: RUF009
    epochs: int = option(50, "passes over the training set", number(int, 1, 10**6))
    batch_size: int = option(128, "of all processes", number(int, 1, 10**6))
    lr: float = option(0.05, "the peak learning rate", number(float, 1e-12, 1e38))
    weight_decay: float = option(5e-4, "L2 penalty of SGD", number(float, 0, 1e38))
    validation: int = option(0, "hold out so many training images, the last, to test on", number(int, 0, 10**6))
    seed: int = option(0, "of initial weights, order and augmentation", number(int, 0, 2**63 - 1))
    threads: int | None = option(None, "of the CPU (all its cores)", number(int, 1, 1024))
    device: str = option("auto", "cuda, mps or cpu; auto takes the first that is there")
    data_dir: str | Path | None = option(None, "folder of the data (MNIST, in data beside this program)")  # noqa: RUF009
    output_dir: str | Path = option("result_plot", "folder for histories and plots")  # noqa: RUF009
    checkpoint_dir: str | Path = option("checkpoints", "folder for checkpoints and weights")  # noqa: RUF009
    name: str | None = option(None, "of the run and its files (the model and what differs from the defaults)")
    resume: bool = option(False, "go on with what is unfinished, start what is not there", bool)
    restart: bool = option(False, "throw away what there is of this name", bool)

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise UserError(f"--model {printable(self.model)}: expected one of {', '.join(MODELS)}")
        history.check_name(self.model if self.name is None else self.name)
        for one in fields(self):
            value = getattr(self, one.name)
            try:
                if value is not None and not callable(value):  # an augmentation of one's own stays as it is
                    object.__setattr__(self, one.name, one.metadata["kind"](value))
            except (TypeError, ValueError, OverflowError, argparse.ArgumentTypeError) as error:
                raise UserError(f"--{one.name.replace('_', '-')} {printable(error)}") from None
        if self.resume and self.restart:
            raise UserError("--resume goes on with a run, --restart throws it away: expected one of them")


DEFAULTS = {one.name: one.default for one in fields(Settings)}


def train(
    network: nn.Module, average: nn.Module, batches: Loader, optimizer: Optimizer, scheduler: lr_scheduler.LRScheduler
) -> tuple[float, float]:
    """Train one epoch; return the mean loss (nats) and the accuracy, measured while the weights change.

    batches: on the network's device. average: moves towards `network` at every step, see `update_average`; of a network
    with batch normalization it needs `recalibrate_batch_norm` before it is tested. scheduler: stepped once a batch.
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


def test(network: nn.Module, data: MNIST | Loader) -> tuple[float, float]:
    """Mean loss (nats) and accuracy in evaluation mode, on batches as `train` takes them, or on a data set.

    Of a data set each process takes a share. An average that `train` has moved needs `recalibrate_batch_norm` first.
    """
    batches = data.in_order(distributed.shard(len(data)), TEST_BATCH) if isinstance(data, MNIST) else data
    logits, labels = predict(network, batches)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return distributed.all_reduce_mean([loss], [(logits.argmax(1) == labels).sum()], len(labels))


@torch.no_grad()
def predict(network: nn.Module, batches: Loader) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) in evaluation mode, and the labels (N,)."""
    with fast_layers_in(network.eval()):
        logits, labels = zip(*((network(images), labels) for images, labels in batches), strict=True)
    return torch.cat(logits), torch.cat(labels).to(logits[0].device)


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
    """Give the averaged weights the buffers of `network`, and batch normalization statistics of their own.

    Averaged weights need statistics of their own (Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization", 2018), and those that ran along in training are of augmented images, which test images are not.
    """
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)
    images = min(BN_IMAGES, len(dataset))
    mine = distributed.shard(images)
    swa_utils.update_bn(dataset.in_order(mine, TEST_BATCH), average)
    distributed.average_buffers(average, len(mine) / images)


class Training:
    """The recipe put together, for a network that has its initial weights and lies where the data are."""

    def __init__(self, settings: Settings, network: nn.Module, train_set: MNIST) -> None:
        self.network, self.average, self.train_set = network, copy.deepcopy(network), train_set
        self.batches = distributed.Batches(train_set, settings.batch_size, settings.seed)
        self.wrapped = GraphedStep(distributed.wrap(network))  # what several processes train, and a GPU replays
        sgd: dict[str, Any] = {"momentum": MOMENTUM, "nesterov": NESTEROV, "fused": True}
        self.optimizer = OPTIMIZER(network.parameters(), settings.lr, weight_decay=settings.weight_decay, **sgd)
        steps = len(self.batches) * settings.epochs  # the rate is that of the middle of each step
        self.scheduler = lr_scheduler.LambdaLR(self.optimizer, lambda step: learning_rate(step + 0.5, steps))


def run(settings: Settings, callback: Callback = Callback()) -> History:  # noqa: B008 - it holds nothing
    """Train and test one network, and keep its result; returns the history.

    Raises UserError, OSError where something cannot be written, KeyboardInterrupt.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = distributed.choose_device(settings.device)
    with distributed.process_group(device), ExitStack() as stack:
        train_set, test_set, data = distributed.main_decides(lambda: load_data(settings))
        train_set.to(device), test_set.to(device)
        torch.manual_seed(seed_of(WEIGHTS, settings.seed))
        network, shape = build(settings.model, data["classes"]), train_set[0][0].shape
        layers = describe(network, shape)
        check_logits(network, shape, data["classes"])
        distributed.check_batch_size(settings.batch_size, len(train_set), network)
        facts = recipe_of(network, settings.augment) | data | {"device": distributed.device_name(device)}
        record = history.new_history(vars(settings), DEFAULTS, facts)
        files = checkpoint.RunFiles(record["name"], Path(settings.output_dir), Path(settings.checkpoint_dir))
        state = distributed.main_decides(
            lambda: checkpoint.open_run(stack, files, record, settings.resume, settings.restart)
        )
        if state and "digest" in state["history"]:  # it is finished
            return state["history"]
        training = Training(settings, network.to(device), train_set)
        if state:
            checkpoint.restore(state, files.checkpoint, vars(training))
            record = history.resumed(state["history"], record)
        if distributed.is_main():
            threads = f"{distributed.world_size()} x {torch.get_num_threads()} threads"
            print(f"{record['name']}: {record['device']}, {threads}, seed {settings.seed}\n{layers}")
            for warning in data_warnings(train_set, test_set, history.held_out(record)):
                warn(warning)
            stack.enter_context(checkpoint.saying_how_to_resume())
        callback.stop = False  # it may have ended another run before
        if not state:
            record |= history.measured(record, callback.on_train_begin(training.network, training.average, train_set))
        for epoch in range(history.epochs_done(record) + 1, settings.epochs + 1):
            metrics = train_and_test(training, test_set, epoch, settings)
            callback.history = record | {name: [*record[name], value] for name, value in metrics.items()}
            history.add_epoch(record, metrics, callback.on_epoch_end(training.network, training.average, train_set))
            if distributed.is_main():
                checkpoint.save_checkpoint(files, vars(training), record)
                print(history.epoch_line(record))
            if callback.stop:
                break
        record |= history.measured(record, callback.on_train_end(training.average, test_set))
        record = history.with_digest(record)
        if distributed.is_main():
            finish(files, training, test_set, record, callback.pictures)
    return record


def load_data(settings: Settings) -> tuple[MNIST, MNIST, History]:
    """Training and test set, and what a history says of them. What was found is printed.

    For validation the last training images take the place of the test set, which is not read. The data are called
    MNIST, if they are, whatever their archive is called; else by the name of their folder.
    """
    source, held_out = find_data(settings.data_dir), settings.validation
    sets = [MNIST(path) for path in ([source.train] if held_out else [source.train, source.test])]
    is_mnist = [one.sha256() for one in sets] == list(MNIST_SHA256.values())[: len(sets)]
    train_set, test_set = sets[0].split(held_out) if held_out else sets
    images = f"{len(train_set):,} training and {len(test_set):,} {history.held_out(vars(settings))} images"
    print(f"{images}: {printable(source.found)}")
    data: History = {"data": "MNIST" if is_mnist else source.folder.resolve().name}
    data |= {"classes": max(len(train_set.classes), len(test_set.classes))}
    data |= {"train_images": len(train_set), "test_images": len(test_set)}
    return train_set, test_set, data | {"train_sha256": train_set.sha256(), "test_sha256": test_set.sha256()}


def train_and_test(training: Training, test_set: MNIST, epoch: int, settings: Settings) -> dict[str, float]:
    """One epoch, counted from 1; its metrics by their names in `history.LISTS`. Raises UserError where it diverges."""
    started, rate = time.perf_counter(), training.scheduler.get_last_lr()[0]
    # anew for each epoch and process, so that an epoch draws the same whatever ran before it
    torch.manual_seed(seed_of(DRAWS, settings.seed, epoch, distributed.rank()))
    network, average, train_set, training.batches.epoch = training.network, training.average, training.train_set, epoch
    train_set.augment = AUGMENT if settings.augment is True else settings.augment
    with fast_layers_in(network, average):
        trained = train(training.wrapped, average, training.batches, training.optimizer, training.scheduler)
        train_set.augment = False
        recalibrate_batch_norm(average, network, train_set)
    metrics = trained + test(average, test_set)
    if not math.isfinite(sum(metrics)):
        told = f"peak learning rate {settings.lr:g}, weight decay {settings.weight_decay:g}"
        problem = f"the loss is no longer finite in epoch {epoch}: {told}"
        raise UserError(f"{problem}\ntry a lower --lr or --weight-decay; the epochs before this one are kept")
    used = (time.perf_counter() - started, float(rate), torch.get_num_threads(), distributed.world_size())
    return dict(zip(history.LISTS, metrics + used, strict=True))


def recipe_of(network: nn.Module, augment: Any) -> History:
    """What a history says of how, and which, network is trained."""
    recipe: History = {"augment": bool(augment), "optimizer": OPTIMIZER.__name__, "momentum": MOMENTUM}
    recipe |= {"nesterov": NESTEROV, "max_grad_norm": MAX_GRAD_NORM, "warmup_steps": WARMUP_STEPS}
    recipe |= {"max_warmup": MAX_WARMUP, "decay": DECAY, "averaging": AVERAGING, "bn_images": BN_IMAGES}
    recipe |= {"mean": MEAN, "std": STD, "padding": PADDING}
    if callable(augment):
        recipe |= {"augmentation": getattr(augment, "__qualname__", repr(augment))}
    elif augment:
        recipe |= {"rotation": ROTATION, "translation": TRANSLATION, "min_crop": MIN_CROP}
        recipe |= {"augment_strength_min": AUGMENT[0], "augment_strength_max": AUGMENT[1]}
    return recipe | {"parameters": count_parameters(network), "network_sha256": checkpoint.network_sha256(network)}


def finish(files: checkpoint.RunFiles, training: Training, test_set: MNIST, record: History, pictures: bool) -> None:
    """Write weights, arrays, history and picture; then there is nothing left to go on with."""
    arrays = result.answers(*predict(training.average, test_set.in_order(range(len(test_set)), TEST_BATCH)))
    if pictures:
        arrays |= result.pictures(training.average, test_set.images, arrays)
    if pictures and "rotation" in record:
        torch.manual_seed(seed_of(DRAWS, record["seed"]))
        arrays |= result.draws(training.train_set, record["classes"], lambda some: warp(some, draw_affine(len(some))))
    checkpoint.save_result(files, training.average, record, arrays)
    print(history.summary(record))
    if pictures:
        result.save_picture(files.picture, lambda file: plot.save(plot.draw_run(record), file, record["digest"]))
    files.checkpoint.unlink()


def main(argv: list[str] | None = None, callback: Callback = Callback()) -> None:  # noqa: B008
    """Run the command line. Raises SystemExit for whatever ends it early, with a status as `run_command` gives it."""
    run_command(lambda: command(argv, callback))


def command(argv: list[str] | None, callback: Callback) -> None:
    """Train as the fields of Settings say, or test the weights of a finished run. Raises UserError, and as `run`."""
    parser = Parser(description="Train a network on MNIST; print loss and accuracy for train and test, epoch by epoch.")
    for one in fields(Settings):
        kind: dict[str, Any] = {"action": "store_true"} if one.default is False else {"type": one.metadata["kind"]}
        text = one.metadata["help"] + f" ({one.default})" * (one.default not in ("", None, False))
        parser.add_argument(f"--{one.name.replace('_', '-')}", default=one.default, help=text, **kind)
    parser.add_argument("--test-only", action="store_true", help="only test --weights, and print loss and accuracy")
    parser.add_argument("--weights", metavar="FILE", help="weights of a finished run, for --test-only")
    arguments = parser.parse_args(argv)
    if arguments.test_only != (arguments.weights is not None):
        parser.error("--test-only and --weights FILE belong together")
    if not arguments.test_only:
        run(Settings(**{name: getattr(arguments, name) for name in DEFAULTS}), callback)
        return
    (name, network), source = checkpoint.load_network(build, Path(arguments.weights)), find_data(arguments.data_dir)
    test_set, device = MNIST(source.test), distributed.choose_device(arguments.device)
    loss, accuracy = test(network.to(device), test_set.to(device))
    print(f"{printable(name)} on {len(test_set):,} test images, {printable(source.found)}")
    print(f"test loss {loss:.4f}  test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
