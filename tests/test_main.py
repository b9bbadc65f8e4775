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
from runs import NAME, After, cheap_picture, checkpoint_of, history_of, refused, start, start_line
from torch import nn
from torch.nn import functional as F

import dataset
import main
from main import Settings
from model import MODELS
from support.data import write_tar
from support.run import Callback, history
from support.terminal import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _cheap_picture(monkeypatch):
    cheap_picture(monkeypatch)


@pytest.fixture(scope="module")
def finished(sample, tmp_path_factory):
    """A run of three epochs: its folder, and how it ended."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        cheap_picture(patch)
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


def test_what_a_run_prints(finished):
    folder, (status, out, err) = finished
    record = history_of(folder)
    assert (status, err) == (0, ""), "no progress bar in a pipe, no warning about data without a fault"
    first, second, _, *layers = out.partition("\ntotal")[0].splitlines()
    assert first.startswith("1,437 training and 360 test images: train.tar and test.tar in ")
    assert second == f"{NAME}: cpu, 1 x 1 threads, seed 0"
    assert [line.split()[0] for line in layers] == ["c1", "s2", "c3", "s4", "c5", "f6", "f7"]
    until = [{name: one[:i] if isinstance(one, list) else one for name, one in record.items()} for i in (1, 2, 3)]
    assert out.splitlines()[-7:-1] == [*map(history.epoch_line, until), *history.summary(record).splitlines()]
    assert out.splitlines()[-1].split() == ["plot", str(folder / "results" / f"{NAME}.png")]


def test_a_run_leaves_these_files_and_no_others(finished):
    files = {path.name for path in finished[0].rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert files == {f"{NAME}.{ending}" for ending in ("json", "npz", "png", "pt", "weights.pt")}


def test_the_history_holds_configuration_and_metrics(finished):
    folder, _ = finished
    record = history_of(folder)
    expected = {"name": NAME, "model": "lenet", "augment": False, "epochs": 3, "batch_size": 64, "lr": 0.05}
    expected |= {"parameters": 61_706, "data": "sample", "train_images": 1437, "test_images": 360, "device": "cpu"}
    expected |= {"python_version": platform.python_version(), "processes": [1, 1, 1], "threads": [1, 1, 1]}
    assert {key: record[key] for key in expected} == expected
    names = list(record)
    assert tuple(names[1:11]) == history.SETTINGS
    assert tuple(names[11 : names.index("parameters")]) == history.RECIPE, "and not how it was augmented"
    assert all(math.isfinite(number) for metric in history.METRICS for number in record[metric])
    for accuracy, images in (("train_accuracy", 1437), ("test_accuracy", 360)):
        for share in record[accuracy]:
            assert share * images == pytest.approx(round(share * images), abs=1e-3), "a count over the images"
    for epoch, rate in enumerate(record["learning_rate"]):
        assert rate == pytest.approx(0.05 * main.learning_rate(epoch * 23 + 0.5, 3 * 23)), "at the epoch's first step"
    assert all(isinstance(value, str | int | float | list) for value in record.values()), "flat, as pandas reads it"
    assert {len(value) for value in record.values() if isinstance(value, list)} == {3}


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
    assert history.differences(committed, made) == []


def test_the_arrays_and_weights_are_those_that_the_last_epoch_tested(finished, sample):
    folder, _ = finished
    record, found, test_set = history_of(folder), arrays_of(folder), dataset.MNIST(sample / "test.tar")
    path = folder / "checkpoints" / f"{NAME}.weights.pt"
    network, saved = kept_network(path), torch.load(path, weights_only=True)
    assert {key: saved[key] for key in ("model", "name", "classes")} == {"model": "lenet", "name": NAME, "classes": 10}
    assert saved["digest"] == found["digest"] == record["digest"]
    assert main.test(network, test_set) == pytest.approx((record["test_loss"][-1], record["test_accuracy"][-1]))
    with torch.no_grad():
        probabilities = network(test_set[:][0]).softmax(1).numpy()
    labels, wrong = test_set.labels.numpy(), (found["predictions"] != found["labels"]).nonzero()[0]
    assert (found["labels"] == labels).all()
    assert (found["predictions"] == probabilities.argmax(1)).all()
    assert (found["mistake_images"] == test_set.images.numpy()[wrong]).all()
    np.testing.assert_allclose(found["confidence"], probabilities.max(1), rtol=1e-4)
    right = probabilities[np.arange(360), labels]
    np.testing.assert_allclose(found["log_probability"], np.log(right), rtol=2e-3, atol=1e-4)
    np.testing.assert_array_equal(found["c1"], network.c1.weight.detach().numpy())
    kinds = dict.fromkeys(("labels", "predictions", "mistake_images"), np.uint8)
    kinds |= {"confidence": np.float32, "log_probability": np.float16, "c1": np.float32}
    assert {name: array.dtype for name, array in found.items() if name != "digest"} == kinds


def test_the_arrays_of_an_augmented_run_show_the_warps(small, tmp_path):
    whole = dataset.MNIST(small / "train.tar")
    some = whole.labels != 4
    write_tar(tmp_path / "train.tar", "train", whole.images[some], whole.labels[some])
    write_tar(tmp_path / "test.tar", "test", whole.images[:30], whole.labels[:30])
    start(tmp_path, tmp_path, "--augment", "--epochs", "1", "--seed", "3")
    found = arrays_of(tmp_path)
    assert found["originals"].shape == (10, 28, 28)
    assert found["warped"].shape == (10, 8, 28, 28)
    for label in set(range(10)) - {4}:
        assert (found["originals"][label] == whole.images[whole.labels == label][0].numpy()).all(), "the first"
    assert not found["originals"][4].any(), "blank where there is none"
    flat = np.delete(found["warped"], 4, 0).reshape(-1, 28 * 28)
    assert len(np.unique(flat, axis=0)) == len(flat), "each drawn for itself"
    assert "c1" not in found


def test_the_same_seed_gives_the_same_history_to_the_last_bit_and_another_does_not(small, tmp_path):
    """Whatever ran before it, and whatever a callback draws, which it must not."""
    draws = After(1, lambda: torch.rand(7))
    options = ["--model", "lenet_bn", "--augment", "--batch-size", "32"]
    histories = []
    for i, (seed, callback) in enumerate((("5", Callback()), ("5", draws), ("6", Callback()))):
        torch.manual_seed(i)
        start(tmp_path / str(i), small, *options, "--seed", seed, callback=callback)
        histories.append(history_of(tmp_path / str(i)))
    assert histories[0]["digest"] == histories[1]["digest"] != histories[2]["digest"]
    assert all(histories[0][metric] != histories[2][metric] for metric in ("train_loss", "test_loss"))


def test_testing_is_in_evaluation_mode_and_over_samples(small, monkeypatch):
    monkeypatch.setattr(main, "TEST_BATCH", 23)  # 23, 23, 23 and 1 would leave one alone, which has no variance
    data, network = dataset.MNIST(small / "test.tar"), MODELS["lenet_bn"]()
    network.train()(data[:][0])  # so that the running statistics are not their initial values
    before = copy.deepcopy(network.state_dict())
    loss, accuracy = main.test(network, data)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert [len(labels) for _, labels in main.in_order(data, range(70))] == [18, 18, 17, 17]
    with torch.no_grad():
        logits = network.eval()(data[:][0])
    assert loss == pytest.approx(F.cross_entropy(logits, data.labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == data.labels).float().mean().item())


@pytest.mark.parametrize(("steps", "climb"), [(1000, 150), (100, 20)])
def test_the_learning_rate_climbs_to_its_peak_and_falls_to_zero(steps, climb):
    """In a short run it climbs over a fifth of it, no longer."""
    moments = np.linspace(0, steps, 1001)
    rates = np.array([main.learning_rate(moment, steps) for moment in moments])
    climbs, falls = moments <= climb, moments >= 0.8 * steps
    np.testing.assert_allclose(rates[climbs], moments[climbs] / climb)
    np.testing.assert_allclose(rates[~climbs & ~falls], 1)
    np.testing.assert_allclose(rates[falls], (1 - moments[falls] / steps) / 0.2, atol=1e-12)
    for few in (1, 2, 3, 10):
        assert all(0 < main.learning_rate(step + 0.5, few) <= 1 for step in range(few)), "every step learns"


LOW_RATE = 0.01  # the order of sums does not grow into a difference


def recomputed(model: str, augment: bool, data: Path, seed: int, epochs: int, batch_size: int):
    """The run in plain words of PyTorch: the metrics of each epoch, and the averaged network at its end."""

    def words(purpose: int, epoch: int = 0) -> int:
        return int(np.random.SeedSequence((purpose, epoch, 0, seed)).generate_state(1, np.uint64)[0])

    train_set, test_set = (dataset.MNIST(data / f"{split}.tar") for split in ("train", "test"))
    torch.manual_seed(words(1))
    network = MODELS[model]()
    average, weights = copy.deepcopy(network), list(network.parameters())
    speeds, step, found = [torch.zeros_like(weight) for weight in weights], 0, []
    steps = math.ceil(len(train_set) / batch_size)
    for epoch in range(1, epochs + 1):
        torch.manual_seed(words(3, epoch))
        order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(words(2, epoch)))
        train_set.augment = (0.0, 1.0) if augment else False
        images, labels = train_set[order]
        losses, correct = 0.0, 0
        network.train()
        for batch in torch.arange(len(order)).split(batch_size):
            logits = network(images[batch])
            loss = F.cross_entropy(logits, labels[batch])
            gradients = torch.autograd.grad(loss, weights)
            length = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
            gradients = [gradient * min(1.0, 2.0 / (length + 1e-6)) for gradient in gradients]
            rate = LOW_RATE * main.learning_rate(step + 0.5, epochs * steps)
            step += 1
            with torch.no_grad():
                for weight, gradient, speed, mean in zip(weights, gradients, speeds, average.parameters(), strict=True):
                    gradient = gradient + 5e-4 * weight
                    speed.mul_(0.9).add_(gradient)
                    weight.sub_(rate * (gradient + 0.9 * speed))  # Nesterov's momentum
                    mean.add_(5 / (4 + step) * (weight - mean))
            losses += loss.item() * len(batch)
            correct += (logits.argmax(1) == labels[batch]).sum().item()
        train_set.augment = False
        for layer in average.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.reset_running_stats()
                layer.momentum = 1.0
        with torch.no_grad():
            average.train()(train_set[:][0])
            logits = average.eval()(test_set[:][0])
        right = (logits.argmax(1) == test_set.labels).float().mean().item()
        test_loss = F.cross_entropy(logits, test_set.labels).item()
        found.append((losses / len(train_set), correct / len(train_set), test_loss, right))
    return found, average


@pytest.mark.parametrize(("model", "augment"), [("mlp", False), ("lenet", True), ("lenet_bn", True)])
def test_a_run_is_the_recipe_recomputed_in_plain_pytorch(small, tmp_path, model, augment):
    options = ["--model", model, "--epochs", "3", "--batch-size", "60", "--seed", "2", "--lr", str(LOW_RATE)]
    start(tmp_path, small, *options, *(["--augment"] if augment else []))
    record, (expected, average) = history_of(tmp_path), recomputed(model, augment, small, 2, 3, 60)
    for name, column in zip(history.METRICS[:4], zip(*expected, strict=True), strict=True):
        assert record[name] == pytest.approx(column, rel=2e-3, abs=2e-4), name
    kept = kept_network(tmp_path / "checkpoints" / f"{NAME}.weights.pt")
    for ours, theirs in zip(kept.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    for (name, ours), theirs in zip(kept.named_buffers(), average.buffers(), strict=True):
        if ours.is_floating_point():
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=name)


def test_a_gradient_is_clipped(small):
    network = MODELS["mlp"]()
    with torch.no_grad():
        network.f4.weight.mul_(100)
    before = [weight.clone() for weight in network.parameters()]
    main.train_step(network, torch.optim.SGD(network.parameters(), 0.1), *dataset.MNIST(small / "train.tar")[:])
    step = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), before, strict=True)])
    assert step.norm().item() == pytest.approx(0.1 * 2.0, rel=1e-3)


def test_statistics_are_measured_on_the_first_images_as_they_are_and_on_no_more_than_the_recipe_says(
    small, monkeypatch
):
    monkeypatch.setattr(main, "BN_IMAGES", 50)
    monkeypatch.setattr(main, "TEST_BATCH", 25)
    torch.manual_seed(0)
    data, network = dataset.MNIST(small / "train.tar"), MODELS["lenet_bn"]()
    average = copy.deepcopy(network)
    network.norm1.num_batches_tracked += 7
    main.recalibrate_batch_norm(average, network, data)
    with torch.no_grad():
        maps = network.s2(network.c1(data[:50][0]))
    torch.testing.assert_close(average.norm1.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(main, "BN_IMAGES", 51)
    main.recalibrate_batch_norm(average, network, data)  # one is left over, and one has no variance


def test_only_testing_prints_loss_and_accuracy_of_a_finished_network_and_writes_nothing(finished, sample, tmp_path):
    folder, _ = finished
    record, weights = history_of(folder), str(folder / "checkpoints" / f"{NAME}.weights.pt")
    with contextlib.chdir(tmp_path):
        ended = start_line(["--test-only", "--weights", weights, "--data-dir", str(sample), "--device", "cpu"])
    assert f"{NAME} on 360 test images" in ended.out
    assert f"test loss {record['test_loss'][-1]:.4f}  test accuracy {record['test_accuracy'][-1]:.2%}" in ended.out
    assert not any(tmp_path.iterdir())
    state = torch.load(weights, weights_only=True)
    nothing = {name: torch.full_like(values, torch.nan) for name, values in state["network"].items()}
    for changed in ({"model": "resnet"}, {"model": "mlp"}, {"network": {}}, {"network": nothing}):
        torch.save(state | changed, tmp_path / "changed.pt")
        argv = ["--test-only", "--weights", str(tmp_path / "changed.pt"), "--data-dir", str(sample)]
        error = refused(start_line(argv))
        assert "changed.pt" in error
        assert "--restart" not in error
    checkpoint = str(checkpoint_of(folder))
    assert ".weights.pt" in refused(start_line(["--test-only", "--weights", checkpoint, "--data-dir", str(sample)]))
    assert "--weights" in refused(start_line(["--test-only"]))
    assert "--test-only" in refused(start_line(["--model", "lenet", "--weights", weights]))


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
    wrong = ({"epochs": 0}, {"epochs": 2.5}, {"epochs": "ten"}, {"epochs": [3]}, {"lr": math.nan}, {"lr": 10**400})
    for changed in (*wrong, {"model": "x"}, {"name": "a b"}, {"seed": -1}, {"threads": math.inf}):
        with pytest.raises(UserError, match=f"--{next(iter(changed))} "):
            replace(settings, **changed)
    with pytest.raises(UserError, match="one of them"):
        Settings("lenet", resume=True, restart=True)
    with pytest.raises(FrozenInstanceError):
        settings.epochs = 4


def test_the_model_is_required_and_a_notebook_hands_a_list(monkeypatch):
    assert "--model" in refused(start_line([]))
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # xdist has none
    error = refused(start_line(None))
    assert 'main(["--model", "lenet"])' in error


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
        ended = start(tmp_path, small, *options)
        assert word in refused(ended)
        assert "epoch" not in ended.out
    assert all(path.read_bytes() == content for path, content in before.items())
    assert start(tmp_path, small, "--model", "lenet", "--batch-size", "209", "--restart").status == 0


def test_mnist_with_its_splits_swapped_is_not_called_mnist(mnist_dir, tmp_path):
    for name, other in (("train", "test"), ("test", "train")):
        (tmp_path / f"{name}.tar.gz").symlink_to(mnist_dir / f"{other}.tar.gz")
    assert main.load_data(main.Settings(model="mlp", data_dir=tmp_path))[2]["data"] == tmp_path.name
