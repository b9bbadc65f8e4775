"""What an engineer does with `train`, `test` and `run` besides running `main.py`: each seam by doing it."""

import copy
from collections import OrderedDict
from functools import partial

import pytest
import torch
from runs import NAME, After, checkpoint_of, history_of, interrupt, refused, start
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

import main
from dataset import MNIST
from main import Settings, run
from model import MODELS
from support.data import write_tar
from support.run import Callback, read_runs
from support.terminal import UserError

pytestmark = pytest.mark.usefixtures("one_thread", "cheap_picture")


@pytest.fixture
def settings(small, tmp_path):
    """Settings of a run of two epochs, whose files lie in the test's folder."""
    folders = {"output_dir": tmp_path / "results", "checkpoint_dir": tmp_path / "checkpoints"}
    return partial(Settings, epochs=2, batch_size=30, device="cpu", data_dir=small, name=NAME, **folders)


class Watcher(Callback):
    """Keeps the networks that it is shown, and gives them back as they are at the end."""

    def on_epoch_end(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> None:
        self.network, self.average = network, average


def accuracy_by_hand(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((network.eval()(images).argmax(1) == labels).float().mean())


def test_run_returns_the_history_that_it_keeps_and_the_same_call_goes_on(settings, tmp_path, capsys):
    history = run(settings("mlp"))
    assert history == history_of(tmp_path)
    assert run(settings("mlp", resume=True)) == history
    assert capsys.readouterr().out.endswith(f"{NAME} is finished\n")
    with pytest.raises(KeyboardInterrupt):
        run(settings("mlp", name="other"), After(2, interrupt()))
    assert capsys.readouterr().err == "stopped: the same command with --resume goes on\n"
    assert run(settings("mlp", name="other", resume=True))["test_loss"] == history["test_loss"]


def test_a_validation_set_takes_the_place_of_the_test_set_which_is_not_opened(settings, small, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tar").write_bytes((small / "train.tar").read_bytes())
    (tmp_path / "data" / "test.tar").write_bytes(b"nobody may look at this")
    watcher = Watcher()
    history = run(settings("lenet_bn", augment=True, validation=60, data_dir=tmp_path / "data"), watcher)
    held_out = MNIST(small / "train.tar").split(60)[1]
    held_out.augment = False
    out = capsys.readouterr().out
    assert "150 training and 60 validation images" in out
    assert "test " not in out.replace("test.tar", "")
    assert (history["validation"], history["train_images"], history["test_images"]) == (60, 150, 60)
    assert history["test_sha256"] == held_out.sha256()
    assert history["test_accuracy"][-1] == pytest.approx(accuracy_by_hand(watcher.average, *held_out[:]))


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


def test_a_network_with_buffers_is_tested_with_what_they_became(settings, small, monkeypatch) -> None:
    monkeypatch.setitem(MODELS, "centred", Centred)
    history = run(settings("centred", epochs=8), watcher := Watcher())
    assert torch.equal(watcher.average.mean, watcher.network.mean)
    assert float(watcher.average.mean.mean()) < 0.1, "not the 9 that it began with"
    assert int(watcher.average.batches) == 8 * 7
    by_hand = accuracy_by_hand(watcher.average, *MNIST(small / "test.tar")[:])
    assert history["test_accuracy"][-1] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("before", "c1"), [(nn.Identity(), nn.Linear(32, 4)), (nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 3, stride=2))]
)
def test_a_layer_that_happens_to_be_called_c1_and_lazy_layers(settings, small, tmp_path, monkeypatch, before, c1):
    """Of one that does not see one map no filters are kept; dropout is off where it is tested."""
    rest = nn.LazyBatchNorm2d(), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.LazyLinear(10)
    layers = OrderedDict(before=before, c1=c1, rest=nn.Sequential(*rest))
    monkeypatch.setitem(MODELS, "own", lambda: nn.Sequential(layers))
    history, test_set = run(settings("own"), watcher := Watcher()), MNIST(small / "test.tar")
    assert history["parameters"] == main.count_parameters(watcher.network)
    assert main.test(watcher.average, test_set) == main.test(watcher.average, test_set)
    ((_, _, arrays),) = read_runs(tmp_path / "results")
    assert "c1" not in arrays


def test_a_network_whose_name_cannot_be_a_files_is_refused(settings, monkeypatch) -> None:
    monkeypatch.setitem(MODELS, "my/net", Centred)
    with pytest.raises(UserError, match="no name for a run's files"):
        settings("my/net", name=None)


@pytest.mark.parametrize("model", ["lenet_bn", "mine"])
def test_letters_are_26_classes_and_a_network_need_not_know_of_them(sample, tmp_path, monkeypatch, model) -> None:
    """Digits that pose as the 26 letters."""
    monkeypatch.setitem(MODELS, "mine", lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 26)))
    for split, count in (("train", 260), ("test", 52)):
        digits = MNIST(sample / f"{split}.tar")
        write_tar(tmp_path / f"{split}.tar", split, digits.images[:count], torch.arange(count) % 26)
    assert start(tmp_path, tmp_path, "--model", model, "--augment").status == 0
    assert history_of(tmp_path)["classes"] == 26
    weights = tmp_path / "checkpoints" / f"{NAME}.weights.pt"
    assert start(tmp_path, tmp_path, "--test-only", "--weights", str(weights)).status == 0
    monkeypatch.setitem(MODELS, "ten", lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)))
    assert "(2, 26)" in refused(start(tmp_path, tmp_path, "--model", "ten", "--name", "ten"))
    assert not checkpoint_of(tmp_path, "ten").exists()


def test_train_and_test_take_any_batches_and_train_any_optimizer_and_schedule(small) -> None:
    torch.manual_seed(0)
    train_set = MNIST(small / "train.tar")
    images, labels = train_set[:]
    network = MODELS["lenet"]()
    average = copy.deepcopy(network)
    whole, batches = [(images, labels)], list(zip(images.split(64), labels.split(64), strict=True))
    expected = F.cross_entropy(network(images), labels).item(), accuracy_by_hand(network, images, labels)
    for kind in (batches, iter(batches), DataLoader(train_set, 50), train_set):
        assert main.test(network, kind) == pytest.approx(expected, rel=1e-5)
    optimizer = torch.optim.AdamW(network.parameters(), 0.005)
    scheduler = OneCycleLR(optimizer, max_lr=0.01, total_steps=1 + 6 * 7)  # of 210 images in batches of 30
    assert main.train(network, average, whole, optimizer, scheduler) == pytest.approx(expected, rel=1e-5)
    train_set.augment = 0.2
    for _ in range(6):
        main.train(network, average, DataLoader(train_set, 30, shuffle=True), optimizer, scheduler)
    assert scheduler.last_epoch == 1 + 6 * 7
    assert main.test(average, MNIST(small / "test.tar"))[1] > 0.5


def test_early_stopping(settings, tmp_path) -> None:
    class TwoEpochs(Callback):
        def on_epoch_end(self, network: nn.Module, average: nn.Module, train_set: MNIST) -> dict[str, float]:
            self.stop = self.stop or len(self.history["test_loss"]) == 2
            return {"train_set_loss": main.test(average, train_set)[0]}

    record = run(settings("mlp", epochs=9), callback := TwoEpochs())
    assert (record["epochs"], len(record["test_loss"]), len(record["train_set_loss"])) == (9, 2, 2)
    assert record == history_of(tmp_path)
    assert run(settings("mlp", epochs=9, resume=True)) == record, "it is a finished one"
    again = run(settings("mlp", name="next"), callback)
    assert len(again["test_loss"]) == 2, "what ended one run does not end the next"


def test_what_a_callback_measures_is_kept_and_changes_nothing(settings) -> None:
    class Norms(Callback):
        def on_train_begin(self, network, average, train_set):
            return {"initial_loss": main.test(network, train_set)[0]}

        def on_epoch_end(self, network, average, train_set):
            assert train_set.augment is False
            return {"loss_of_the_newest_weights": torch.tensor(main.test(network, train_set)[0])}

        def on_train_end(self, average, test_set):
            return {"last": main.test(average, test_set)[0]}

    plain = run(settings("lenet_bn", augment=True, name="plain"))
    watched = run(settings("lenet_bn", augment=True, name="watched"), Norms())
    assert watched["initial_loss"] == pytest.approx(2.3, abs=0.2)
    assert len(watched["loss_of_the_newest_weights"]) == 2
    assert watched["last"] == watched["test_loss"][-1] == plain["test_loss"][-1]
    assert watched["train_loss"] == plain["train_loss"]


def test_a_run_is_resumed_with_the_callback_that_it_was_begun_with(settings, tmp_path) -> None:
    """A run of a study that is finished by main.py, or the other way round, has lists of one length or is refused."""

    class Measures(After):
        def on_train_begin(self, *_: object) -> dict[str, float]:
            return {"initial_depth": 0.0}  # once: of a run that is gone on with it is an error

        def on_epoch_end(self, *seen: object) -> dict[str, float]:
            super().on_epoch_end(*seen)
            return {"depth": 1.0}

    with pytest.raises(KeyboardInterrupt):
        run(settings("mlp"), Measures(2, interrupt()))
    before = checkpoint_of(tmp_path).read_bytes()
    with pytest.raises(UserError, match="measured depth after some epochs only"):
        run(settings("mlp", resume=True))
    assert checkpoint_of(tmp_path).read_bytes() == before
    assert run(settings("mlp", resume=True), Measures(2, interrupt()))["depth"] == [1.0, 1.0]


@pytest.mark.parametrize("method", ["on_train_begin", "on_epoch_end", "on_train_end"])
def test_a_measurement_that_takes_the_name_of_the_runs_own_is_an_error_at_once(settings, tmp_path, method) -> None:
    callback = Callback()
    setattr(callback, method, lambda *_: {"lr": 5.0})
    with pytest.raises(UserError, match="measured lr, which the history holds"):
        run(settings("mlp", epochs=1), callback)
    assert checkpoint_of(tmp_path).exists() == (method == "on_train_end")
    assert run(settings("mlp", epochs=1, resume=True))["lr"] == 0.05
