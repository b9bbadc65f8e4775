"""What an engineer does with `train`, `test` and `run` besides running `main.py`: each seam by doing it."""

import copy
import json
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, SequentialLR
from torch.utils.data import DataLoader

import main
import plot
from dataset import MNIST
from main import make_training, parse_arguments, run, train, train_and_test
from model import MODELS, LeNet5
from support.compute.fast_layers import PooledConv2d
from support.data.images import write_tar
from support.run.callback import Callback
from support.run.history import read_runs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _not_painted(monkeypatch) -> None:
    """Figures are made, but not turned into pixels, which takes longer than training on a few images."""
    monkeypatch.setattr(plot, "save", lambda figure, file, digest: None)


def figures_of(folder: Path) -> set[str]:
    """The names of the figures that `plot.py` draws of a folder's runs; those of one run each are drawn."""
    names = set()
    for name, digest, draw in plot.figures(read_runs(folder), []):
        names.add(name.removesuffix(".png"))
        if digest:
            draw()
    return names


class Watcher(Callback):
    """Keeps what it is shown; nothing is drawn."""

    pictures = False

    def __init__(self) -> None:
        self.network, self.average = nn.Module(), nn.Module()

    def on_epoch_end(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
        self.network, self.average = network, average
        return {}


@pytest.fixture
def command(small, tmp_path):
    """Function that makes a command line on the small data, whose files lie in the test's folder."""

    def command(*options: str, data: Path = small) -> list[str]:
        places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
        return ["--epochs", "2", "--batch-size", "30", "--device", "cpu", "--data-dir", str(data), *places, *options]

    return command


def accuracy_by_hand(network: nn.Module, dataset: MNIST) -> float:
    images, labels = dataset[:]
    with torch.no_grad():
        return float((network.eval()(images).argmax(1) == labels).float().mean())


# --- a network of one's own -------------------------------------------------------------------------------------------


class Centred(nn.Module):
    """A linear classifier of images less their running mean; counts its batches in an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1024, 10)
        self.register_buffer("mean", torch.full((1024,), 9.0))
        self.register_buffer("batches", torch.tensor(0))

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
            self.batches += 1
        return self.layer(x - self.mean)


def test_a_network_with_buffers_is_tested_with_what_they_became(command, small, monkeypatch) -> None:
    monkeypatch.setitem(MODELS, "centred", Centred)
    watcher = Watcher()
    record = run(parse_arguments(command("--model", "centred", "--epochs", "8")), watcher)
    assert torch.equal(watcher.average.mean, watcher.network.mean)
    assert float(watcher.average.mean.mean()) < 0.1, "not the 9 that it began with"
    assert int(watcher.network.batches) == 8 * 7
    assert record["test_accuracy"][-1] == pytest.approx(accuracy_by_hand(watcher.average, MNIST(small / "test.tar")))
    assert record["test_accuracy"][-1] > 0.5


def test_weights_of_such_a_network_are_saved_resumed_and_tested(command, tmp_path, monkeypatch, capsys) -> None:
    class FirstEpoch(Watcher):
        def on_epoch_end(self, network, average, train_set):
            signal.raise_signal(signal.SIGINT)
            return {}

    monkeypatch.setitem(MODELS, "centred", Centred)
    options = ["--model", "centred", "--name", "mine"]
    with pytest.raises(SystemExit):
        main.main(command(*options), FirstEpoch())
    main.main(command(*options, "--resume"), Watcher())
    resumed = json.loads((tmp_path / "results" / "mine.json").read_text())
    whole = run(parse_arguments(command("--model", "centred", "--name", "whole")), Watcher())
    assert resumed["test_loss"] == whole["test_loss"]
    capsys.readouterr()
    main.main(command("--test-only", "--weights", str(tmp_path / "checkpoints" / "mine.weights.pt")))
    assert f"test accuracy {whole['test_accuracy'][-1]:.2%}" in capsys.readouterr().out


class Linear(nn.Module):
    """Its C1 is not a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.f7 = nn.Linear(1024, 16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.f7(F.relu(self.c1(images.flatten(1))))


class ThreeChannels(nn.Module):
    """Its C1 sees three maps, and its S2 is no pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.s2, self.f7 = nn.Conv2d(3, 4, 3, stride=2), nn.Dropout(0.1), nn.LazyLinear(10)

    def forward(self, images: Tensor) -> Tensor:
        return self.f7(self.s2(F.relu(self.c1(images.expand(-1, 3, -1, -1)))).flatten(1))


class NotSquare(nn.Module):
    """Its C1 is not square and has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.f7 = nn.Conv2d(1, 3, (7, 3), bias=False), nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.f7(self.c1(images).amax((2, 3)))


class LargeAndDouble(nn.Module):
    """Its C1 is larger than what is drawn, and it computes in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.f7 = nn.Conv2d(1, 1100, 32).double(), nn.Linear(1100, 10).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.f7(self.c1(images.double()).flatten(1))


@pytest.mark.parametrize("kind", [Linear, ThreeChannels, NotSquare, LargeAndDouble])
def test_a_layer_that_happens_to_be_called_c1(command, tmp_path, monkeypatch, kind) -> None:
    monkeypatch.setitem(MODELS, "own", kind)
    run(parse_arguments(command("--model", "own", "--epochs", "1")))
    drawn = figures_of(tmp_path / "results")
    assert {"own-small_epochs1_batch30", "own-small_epochs1_batch30_confusion", "comparison"} <= drawn


class LazyWithDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.LazyConv2d(4, 5, stride=3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten()),
            *(nn.Dropout(0.5), nn.LazyLinear(10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def test_lazy_layers_and_dropout(command, small, monkeypatch) -> None:
    monkeypatch.setitem(MODELS, "lazy", LazyWithDropout)
    watcher, test_set = Watcher(), MNIST(small / "test.tar")
    record = run(parse_arguments(command("--model", "lazy", "--epochs", "5")), watcher)
    assert record["parameters"] == 4 * 26 + 2 * 4 + 10 * (4 * 10 * 10 + 1)
    assert record["test_accuracy"][-1] > 0.5
    assert main.test(watcher.average, test_set) == main.test(watcher.average, test_set), "dropout is off"
    assert record["test_accuracy"][-1] == pytest.approx(accuracy_by_hand(watcher.average, test_set))


class Wider(LeNet5):
    """A subclass: what it does with C1 and S2 is its own."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.c1(images)
        assert maps.shape[1:] == (6, 28, 28)
        x = F.relu(self.s4(self.c3(F.relu(self.s2(maps)))))
        return self.f7(F.relu(self.f6(F.relu(self.c5(x).flatten(1)))))


def test_a_subclass_of_lenet_keeps_its_plain_layers(command, monkeypatch) -> None:
    monkeypatch.setitem(MODELS, "wider", Wider)
    watcher = Watcher()
    run(parse_arguments(command("--model", "wider", "--epochs", "1")), watcher)
    assert type(watcher.network.c1) is type(watcher.average.c1) is nn.Conv2d
    assert type(watcher.network.s2) is nn.MaxPool2d
    run(parse_arguments(command("--model", "lenet", "--epochs", "1")), watcher)
    assert type(watcher.network.c1) is type(watcher.average.c1) is PooledConv2d


# --- a loop of one's own ----------------------------------------------------------------------------------------------

STEPS = 6 * 7  # of the schedules below: six epochs of 210 images in batches of 30
SCHEDULES = {
    "one cycle": partial(OneCycleLR, max_lr=0.01, total_steps=STEPS),
    "cosine": partial(CosineAnnealingLR, T_max=STEPS),
    "warm-up, then cosine": lambda optimizer: SequentialLR(
        optimizer, [LambdaLR(optimizer, lambda step: (step + 1) / 7), CosineAnnealingLR(optimizer, STEPS)], [7]
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_another_optimizer_another_schedule_and_an_ordinary_data_loader(small, schedule) -> None:
    torch.manual_seed(0)
    train_set, test_set = MNIST(small / "train.tar", augment=0.2), MNIST(small / "test.tar")
    network = MODELS["lenet"]()
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), 0.005)
    scheduler: LRScheduler = schedule(optimizer)
    batches = DataLoader(train_set, 30, shuffle=True)
    figures = [train(network, average, batches, optimizer, scheduler) for _ in range(6)]
    assert scheduler.last_epoch == STEPS
    assert optimizer.param_groups[0]["lr"] < 0.001, "it was stepped to its end"
    assert figures[-1][0] < figures[0][0]
    assert main.test(average, test_set)[1] > 0.5
    assert main.test(average, test_set)[1] == pytest.approx(accuracy_by_hand(average, test_set))


def test_a_plain_list_of_batches(small) -> None:
    torch.manual_seed(0)
    images, labels = MNIST(small / "train.tar")[:]
    batches = list(zip(images.split(64), labels.split(64), strict=True))
    network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
    before, average = copy.deepcopy(network), copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    loss, accuracy = train(network, average, batches, optimizer, LambdaLR(optimizer, lambda step: 1.0))
    expected = F.cross_entropy(before(images), labels).item()  # a learning rate of 0 moves nothing
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == pytest.approx(accuracy_by_hand(before, MNIST(small / "train.tar")))
    assert (loss, accuracy) == pytest.approx(main.test(average, MNIST(small / "train.tar")), rel=1e-5)


def test_a_validation_split(small, command) -> None:
    """The recipe on all but the last 60 training images, tested on those."""
    arguments = parse_arguments(command("--model", "lenet", "--augment"))
    train_set, validation_set = MNIST(small / "train.tar").split(60)
    torch.manual_seed(0)
    training = make_training(arguments, MODELS["lenet"](), train_set, validation_set)
    assert len(training.batches) == 5
    figures = [train_and_test(training, epoch, arguments) for epoch in (1, 2)][-1]
    assert figures["test_accuracy"] == pytest.approx(accuracy_by_hand(training.average, validation_set))
    assert (figures["test_loss"], figures["test_accuracy"]) == main.test(training.average, validation_set)
    assert validation_set.augment is False


# --- a run that is watched --------------------------------------------------------------------------------------------


def test_early_stopping(command, tmp_path) -> None:
    class Patience(Callback):
        """Ends the run after an epoch without a lower loss on images held out."""

        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_epoch_end(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
            _, held_out = train_set.split(60)
            self.losses.append(main.test(average, held_out)[0] if len(self.losses) < 3 else 9.0)
            self.stop = self.losses[-1] > min(self.losses)
            return {"held_out_loss": self.losses[-1]}

    patience = Patience()
    record = run(parse_arguments(command("--model", "mlp", "--epochs", "9")), patience)
    done = len(patience.losses)
    assert 2 <= done <= 4
    assert record["epochs"] == 9
    assert record["held_out_loss"] == patience.losses
    assert len(record["test_loss"]) == len(record["seconds"]) == done
    (name,) = (path.stem for path in (tmp_path / "results").glob("*.json"))
    assert json.loads((tmp_path / "results" / f"{name}.json").read_text()).items() >= record.items()
    axes = plot.draw_run(record).axes[0]
    assert max(line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata()) == done) == done
    assert (tmp_path / "results" / f"{name}.png").exists()
    assert name in figures_of(tmp_path / "results")


def test_what_an_observer_measures_is_kept_and_changes_nothing(command) -> None:
    class Norms(Watcher):
        def on_train_begin(self, network, average, train_set):
            return {"initial_loss": main.test(network, train_set)[0]}

        def on_epoch_end(self, network, average, train_set):
            return {"loss_of_the_newest_weights": main.test(network, train_set)[0]}

        def on_train_end(self, average, test_set):
            return {"last": main.test(average, test_set)[0]}

    plain = run(parse_arguments(command("--model", "lenet_bn", "--augment", "--name", "plain")), Watcher())
    watched = run(parse_arguments(command("--model", "lenet_bn", "--augment", "--name", "watched")), Norms())
    assert watched["initial_loss"] == pytest.approx(2.3, abs=0.2)
    assert len(watched["loss_of_the_newest_weights"]) == 2
    assert watched["last"] == watched["test_loss"][-1] == plain["test_loss"][-1]
    assert watched["train_loss"] == plain["train_loss"]


def test_the_command_from_a_thread(command, tmp_path) -> None:
    """As in a notebook's or a server's: Python allows signal handlers in the main thread only."""
    failures = []

    def work() -> None:
        try:
            main.main(command("--model", "mlp"), Watcher())
        except BaseException as error:
            failures.append(error)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not failures
    assert not thread.is_alive()
    assert (tmp_path / "results" / "mlp-small_epochs2_batch30.json").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c_ends_the_run_and_not_its_host(command, times) -> None:
    class Impatient(Watcher):
        def on_epoch_end(self, network, average, train_set):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            return {}

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as leave:
        main.main(command("--model", "mlp"), Impatient())
    assert leave.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    main.main(command("--model", "mlp", "--restart"), Watcher())  # the next run is not stopped by what came before


# --- letters ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(sample, tmp_path) -> Path:
    """Digits that pose as the 26 letters, in a folder of that name."""
    (tmp_path / "letters").mkdir()
    for split, count in (("train", 260), ("test", 52)):
        digits = MNIST(sample / f"{split}.tar")
        write_tar(tmp_path / "letters" / f"{split}.tar", split, digits.images[:count], torch.arange(count) % 26)
    return tmp_path / "letters"


@pytest.mark.parametrize("model", ["mlp", "lenet_bn"])
def test_letters_are_26_classes(command, letters, tmp_path, model) -> None:
    options = command("--model", model, "--augment", "--classes", "26", data=letters)
    main.main(options)
    name = f"{model}-letters_augment_epochs2_batch30_classes26"
    record = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert record["classes"] == 26
    weights = tmp_path / "checkpoints" / f"{name}.weights.pt"
    assert torch.load(weights, weights_only=True)["network"]["f4.bias" if model == "mlp" else "f7.bias"].shape == (26,)
    assert name in figures_of(tmp_path / "results")
    main.main(command("--test-only", "--weights", str(weights), data=letters))


@pytest.mark.parametrize("classes", ["10", "25"])
def test_a_label_beyond_the_classes_is_refused(command, letters, classes, capsys) -> None:
    with pytest.raises(SystemExit) as leave:
        main.main(command("--model", "lenet", "--classes", classes, data=letters))
    assert leave.value.code == 2
    assert f"a label from 0 to {int(classes) - 1}" in capsys.readouterr().err


@pytest.mark.parametrize("outputs", [9, 12])
def test_a_network_with_another_number_of_logits_is_refused_before_it_trains(command, outputs, monkeypatch, capsys):
    monkeypatch.setitem(MODELS, "mine", lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, outputs)))
    with pytest.raises(SystemExit) as leave:
        main.main(command("--model", "mine"))
    assert leave.value.code == 2
    assert f"gives (2, {outputs}) for 2 images; expected logits (2, 10)" in capsys.readouterr().err
