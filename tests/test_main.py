"""What `main.py` prints, writes, computes and refuses, on few digits."""

import contextlib
import copy
import json
import math
import platform
import re
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import NAME, After, Ended, ended, history_of, refused, start
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import dataset
import main
from main import Settings
from model import MODELS
from support.data import write_tar
from support.run import history
from support.terminal import UserError

pytestmark = pytest.mark.usefixtures("one_thread", "cheap_picture")


@pytest.fixture(scope="module")
def finished(sample, tmp_path_factory, cheap_picture):
    """A run of three epochs: its folder, and how it ended."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, start(folder, sample, "--model", "lenet", "--epochs", "3", "--batch-size", "64")


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "results" / f"{NAME}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def kept_network(path: Path) -> nn.Module:
    """The textbook network with the weights of a file."""
    saved = torch.load(path, weights_only=True)
    network = MODELS[saved["model"]]()
    network.load_state_dict(saved["network"])
    return network.eval()


def test_what_a_run_prints_and_leaves(finished):
    folder, (status, out, err) = finished
    record = history_of(folder)
    assert (status, err) == (0, ""), "no progress bar in a pipe, no warning about data without a fault"
    files = {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert files == {f"{NAME}.{ending}" for ending in ("json", "npz", "png", "weights.pt")}
    first, second, _, *layers = out.partition("\ntotal")[0].splitlines()
    assert first.startswith("1,437 training and 360 test images: train.tar and test.tar in ")
    assert second == f"{NAME}: cpu, 1 x 1 threads, seed 0"
    assert [line.split()[0] for line in layers] == ["c1", "s2", "c3", "s4", "c5", "f6", "f7"]
    until = [{name: one[:i] if isinstance(one, list) else one for name, one in record.items()} for i in (1, 2, 3)]
    assert out.splitlines()[-7:-1] == [*map(history.epoch_line, until), *history.summary(record).splitlines()]
    assert out.splitlines()[-1].split() == ["plot", str(folder / "results" / f"{NAME}.png")]


def test_the_history_holds_configuration_and_metrics(finished):
    record = history_of(finished[0])
    expected = {"name": NAME, "model": "lenet", "augment": False, "epochs": 3, "batch_size": 64, "lr": 0.05}
    expected |= {"parameters": 61_706, "data": "sample", "train_images": 1437, "test_images": 360, "device": "cpu"}
    expected |= {"python_version": platform.python_version(), "processes": [1, 1, 1], "threads": [1, 1, 1]}
    assert {key: record[key] for key in expected} == expected
    assert all(isinstance(value, str | int | float | list) for value in record.values()), "flat, as pandas reads it"
    assert {len(value) for value in record.values() if isinstance(value, list)} == {3}
    assert all(math.isfinite(number) for metric in history.METRICS for number in record[metric])


@pytest.mark.parametrize(("model", "augment"), [("lenet", False), ("lenet_bn", True)])
def test_a_committed_run_trained_today_would_have_the_same_history(model, augment):
    """But for its figures and its versions: the names of its fields, their order, its settings and the whole recipe."""
    name = f"{model}{'_augment' * augment}"
    committed = json.loads((Path(main.__file__).parent / "result_plot" / f"{name}.json").read_text())
    names = ("data", "classes", "train_images", "test_images", "train_sha256", "test_sha256")
    data = {name: committed[name] for name in names}
    facts = main.recipe_of(MODELS[model](), augment) | data | {"device": "cpu"}
    made = history.new_history(vars(Settings(model, augment)), main.DEFAULTS, facts)
    assert list(made) == [name for name in committed if name in made]
    assert made.keys() >= {*history.SETTINGS, *history.RECIPE}
    assert history.differences(committed, made) == []


def test_the_arrays_and_weights_are_those_that_the_last_epoch_tested(finished, sample):
    folder, _ = finished
    record, found, test_set = history_of(folder), arrays_of(folder), dataset.MNIST(sample / "test.tar")
    path = folder / "checkpoints" / f"{NAME}.weights.pt"
    network, saved = kept_network(path), torch.load(path, weights_only=True)
    assert {key: saved[key] for key in ("model", "name", "classes")} == {"model": "lenet", "name": NAME, "classes": 10}
    assert saved["digest"] == found.pop("digest") == record["digest"]
    assert main.test(network, test_set) == pytest.approx((record["test_loss"][-1], record["test_accuracy"][-1]))
    with torch.no_grad():
        probabilities = network(test_set[:][0]).softmax(1).numpy()
    labels, predictions = test_set.labels.numpy(), probabilities.argmax(1)
    expected = {
        "labels": labels.astype(np.uint8),
        "predictions": predictions.astype(np.uint8),
        "confidence": probabilities.max(1),
        "log_probability": np.log(probabilities[np.arange(360), labels]).astype(np.float16),
        "mistake_images": test_set.images.numpy()[predictions != labels],
        "c1": network.c1.weight.detach().numpy(),
    }
    assert {name: array.dtype for name, array in found.items()} == {name: one.dtype for name, one in expected.items()}
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-3, atol=1e-4, err_msg=name)


def test_the_arrays_of_an_augmented_run_show_the_warps(small, tmp_path):
    whole = dataset.MNIST(small / "train.tar")
    some = whole.labels != 4
    write_tar(tmp_path / "train.tar", "train", whole.images[some], whole.labels[some])
    write_tar(tmp_path / "test.tar", "test", whole.images[:30], whole.labels[:30])
    start(tmp_path, tmp_path, "--augment", "--epochs", "1", "--seed", "3")
    found = arrays_of(tmp_path)
    assert found["warped"].shape == (10, 8, 28, 28)
    blank = torch.zeros(1, 28, 28, dtype=torch.uint8)  # where there is none; else the first
    firsts = [torch.cat([whole.images[(whole.labels == label) & some], blank])[0] for label in range(10)]
    assert (found["originals"] == torch.stack(firsts).numpy()).all()
    flat = np.delete(found["warped"], 4, 0).reshape(-1, 28 * 28)
    assert len(np.unique(flat, axis=0)) == len(flat), "each drawn for itself"
    assert "c1" not in found


def test_the_same_seed_gives_the_same_history_to_the_last_bit(small, tmp_path):
    """Whatever ran before it."""
    digests = set()
    for i in (1, 2):
        torch.manual_seed(i)
        start(tmp_path / str(i), small, "--model", "lenet_bn", "--augment", "--batch-size", "32")
        digests.add(history_of(tmp_path / str(i))["digest"])
    assert len(digests) == 1


@pytest.mark.parametrize(("steps", "climb"), [(1000, 150), (100, 20)])
def test_the_learning_rate_climbs_to_its_peak_and_falls_to_zero(steps, climb):
    """In a short run it climbs over a fifth of it, no longer; at the middle of a step it is never zero."""
    rates = [main.learning_rate(step + 0.5, steps) for step in range(steps)]
    expected = np.interp(np.arange(steps) + 0.5, [0, climb, 0.8 * steps, steps], [0, 1, 1, 0])
    np.testing.assert_allclose(rates, expected)


LOW_RATE = 0.01  # the order of sums does not grow into a difference


def recomputed(model: str, augment: bool, data: Path, batch_size: int):
    """The run in plain words of PyTorch, three epochs, seed 2: its lists by their names, the averaged network."""

    def seed(purpose: int, epoch: int = 0) -> int:
        return int(np.random.SeedSequence((purpose, epoch, 0, 2)).generate_state(1, np.uint64)[0])

    train_set, test_set = (dataset.MNIST(data / f"{split}.tar") for split in ("train", "test"))
    torch.manual_seed(seed(1))
    network = MODELS[model]()
    average = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), momentum=0.9, nesterov=True, weight_decay=0.1)
    found, step, steps = [], 0, 3 * math.ceil(len(train_set) / batch_size)
    for epoch in (1, 2, 3):
        torch.manual_seed(seed(3, epoch))
        order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(seed(2, epoch)))
        train_set.augment = (0.0, 1.0) if augment else False
        images, labels = train_set[order]
        losses, correct, rates = 0.0, 0, []
        network.train()
        for batch in torch.arange(len(order)).split(batch_size):
            optimizer.zero_grad()
            logits = network(images[batch])
            loss = F.cross_entropy(logits, labels[batch])
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            rates.append(LOW_RATE * main.learning_rate(step + 0.5, steps))
            optimizer.param_groups[0]["lr"] = rates[-1]
            optimizer.step()
            step += 1
            with torch.no_grad():
                for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                    mean.lerp_(weight, 5 / (4 + step))
            losses += loss.item() * len(batch)
            correct += (logits.argmax(1) == labels[batch]).sum().item()
        train_set.augment = False
        update_bn(train_set[:70][0].tensor_split(4), average)
        with torch.no_grad():
            logits = average.eval()(test_set[:][0])
        accuracy = (logits.argmax(1) == test_set.labels).float().mean().item()
        loss = F.cross_entropy(logits, test_set.labels).item()
        found.append((losses / len(train_set), correct / len(train_set), loss, accuracy, rates[0]))
    lists = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate")
    return dict(zip(lists, zip(*found, strict=True), strict=True)), average


@pytest.mark.parametrize(("model", "augment"), [("mlp", False), ("lenet", True), ("lenet_bn", True)])
def test_a_run_is_the_recipe_recomputed_in_plain_pytorch(small, tmp_path, monkeypatch, model, augment):
    """Whatever a callback draws. Gradients are clipped; 70 images in batches of 23 would leave one, of no variance."""
    for constant, value in (("MAX_GRAD_NORM", 1.0), ("BN_IMAGES", 70), ("TEST_BATCH", 23)):
        monkeypatch.setattr(main, constant, value)
    options = ["--model", model, "--epochs", "3", "--batch-size", "60", "--seed", "2", "--lr", str(LOW_RATE)]
    options += ["--weight-decay", "0.1", *["--augment"] * augment]
    assert start(tmp_path, small, *options, callback=After(1, lambda: torch.rand(7))).status == 0
    record, (expected, average) = history_of(tmp_path), recomputed(model, augment, small, 60)
    for name, values in expected.items():
        assert record[name] == pytest.approx(values, rel=2e-3, abs=2e-4), name
    kept = kept_network(tmp_path / "checkpoints" / f"{NAME}.weights.pt").state_dict()
    for name, values in average.state_dict().items():
        if values.is_floating_point():
            torch.testing.assert_close(kept[name], values, rtol=1e-3, atol=1e-4, msg=name)


def test_only_testing_prints_loss_and_accuracy_of_a_finished_network_and_writes_nothing(finished, sample, tmp_path):
    folder, _ = finished
    record, weights = history_of(folder), folder / "checkpoints" / f"{NAME}.weights.pt"

    def only_test(path: Path) -> Ended:
        argv = ["--test-only", "--weights", str(path), "--data-dir", str(sample), "--device", "cpu"]
        with contextlib.chdir(tmp_path):
            return ended(main.main, argv)

    out = only_test(weights).out
    assert f"{NAME} on 360 test images" in out
    assert f"test loss {record['test_loss'][-1]:.4f}  test accuracy {record['test_accuracy'][-1]:.2%}" in out
    assert not any(tmp_path.iterdir())
    state = torch.load(weights, weights_only=True)
    for changed in ({"model": "resnet"}, {"model": "mlp"}, {"network": {}}):
        torch.save(state | changed, tmp_path / "changed.pt")
        error = refused(only_test(tmp_path / "changed.pt"))
        assert "changed.pt" in error
        assert "--restart" not in error
    assert ".weights.pt" in refused(only_test(tmp_path / "nowhere.pt"))
    assert "--weights" in refused(ended(main.main, ["--test-only"]))
    assert "--test-only" in refused(ended(main.main, ["--model", "lenet", "--weights", str(weights)]))


def test_help_explains_each_option_with_its_default(capsys):
    with pytest.raises(SystemExit):
        main.main(["--help"])
    explained = " ".join(capsys.readouterr().out.partition("options:")[2].split())
    for one in fields(Settings):
        entry = re.search(rf"--{one.name.replace('_', '-')} (.+?)(?= --|$)", explained)[1]
        assert one.default in (None, "", False) or f"({one.default})" in entry


@pytest.mark.parametrize(
    "bad",
    [
        *("--epochs 0", "--epochs 2.5", "--epochs 99999999", "--batch-size 1e3", "--lr 0", "--lr nan", "--lr inf"),
        *("--weight-decay -0.1", "--seed -1", f"--seed {2**63}", "--validation 210", "--threads 0", "--name a/b"),
        *("--device abacus", "--model resnet", "--colour blue", "--epo 3"),
    ],
)
def test_a_bad_option_is_named(small, tmp_path, bad):
    error = refused(start(tmp_path, small, *bad.split()))
    assert all(word in error for word in bad.split())
    assert not (tmp_path / "results").exists()


def test_settings_of_python_are_checked_and_become_pythons_numbers():
    settings = Settings("lenet", epochs=np.int64(3), lr=np.float32(0.5), batch_size=64.0, seed=True)
    assert (settings.epochs, settings.lr, settings.batch_size, settings.seed) == (3, 0.5, 64, 1)
    assert {type(value) for value in (settings.epochs, settings.batch_size, settings.seed)} == {int}
    for changed in ({"epochs": "ten"}, {"epochs": [3]}, {"lr": 10**400}, {"threads": math.inf}):
        with pytest.raises(UserError, match=f"--{next(iter(changed))} "):
            replace(settings, **changed)
    with pytest.raises(UserError, match="one of them"):
        Settings("lenet", resume=True, restart=True)
    with pytest.raises(FrozenInstanceError):
        settings.epochs = 4


def test_the_model_is_required(monkeypatch):
    assert "--model" in refused(ended(main.main, []))
    monkeypatch.setattr(sys, "argv", ["main.py"])
    assert "--model" in refused(ended(main.main, None))


def test_what_is_wrong_is_found_before_the_first_epoch_and_before_anything_is_overwritten(small, tmp_path):
    start(tmp_path, small, "--seed", str(2**63 - 1))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    (tmp_path / "file").write_text("in the way")
    for word, options in {
        "--batch-size 209": ["--model", "lenet_bn", "--batch-size", "209"],  # a last batch of one
        str(tmp_path / "nowhere"): ["--data-dir", str(tmp_path / "nowhere")],
        str(tmp_path / "file" / "a"): ["--output-dir", str(tmp_path / "file" / "a")],
        str(tmp_path / "file" / "b"): ["--checkpoint-dir", str(tmp_path / "file" / "b")],
    }.items():
        stopped = start(tmp_path, small, *options)
        assert word in refused(stopped)
        assert "epoch" not in stopped.out
    assert all(path.read_bytes() == content for path, content in before.items())
    assert start(tmp_path, small, "--model", "lenet", "--batch-size", "209", "--restart").status == 0


def test_mnist_with_its_splits_swapped_is_not_called_mnist(mnist_dir, tmp_path):
    for name, other in (("train", "test"), ("test", "train")):
        (tmp_path / f"{name}.tar.gz").symlink_to(mnist_dir / f"{other}.tar.gz")
    assert main.load_data(main.Settings(model="mlp", data_dir=tmp_path))[2]["data"] == tmp_path.name
