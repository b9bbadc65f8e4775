"""What `main.py` prints, writes, computes and refuses, on the bundled sample and parts of it."""

import contextlib
import copy
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import dataset
import main
from model import MODELS
from support.compute import distributed
from support.data.images import write_tar
from support.run import history
from support.run.callback import Callback

ROOT = Path(main.__file__).resolve().parent
EPOCH_LINE = re.compile(
    r"epoch +(?P<epoch>\d+)/(?P<epochs>\d+) .*train loss (?P<train_loss>\S+) +train accuracy +(?P<train_accuracy>\S+)% "
    r"+test loss (?P<test_loss>\S+) +test accuracy +(?P<test_accuracy>\S+)% +(?P<seconds>\S+) s"
)
RECORDED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")  # what a seed decides
OPTIONS = (  # each with what its help says of the default
    ("--model", ""),
    ("--augment", ""),
    ("--epochs", "(50)"),
    ("--batch-size", "(128)"),
    ("--lr", "(0.05)"),
    ("--weight-decay", "(0.0005)"),
    ("--classes", ""),
    ("--seed", "(0)"),
    ("--threads", "(all its cores)"),
    ("--device", "auto: the first"),
    ("--data-dir", "(data,"),
    ("--output-dir", "(result_plot)"),
    ("--checkpoint-dir", "(checkpoints)"),
    ("--name", "(the model and what differs from the defaults)"),
    ("--resume", ""),
    ("--restart", ""),
    ("--dry-run", ""),
    ("--test-only", ""),
    ("--weights", "for --test-only"),
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch):
    """Drawing takes longer than training on a few images. The run that `finished` makes draws: it comes before this."""
    monkeypatch.setattr(main.plot, "draw_run", lambda record: None)
    monkeypatch.setattr(main.plot, "save", lambda figure, file, digest=None: None)


def train(folder: Path, data: Path, *options: str, callback: Callback | None = None) -> tuple[str, str]:
    """Run the command line with its files below `folder`; what it printed to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    places = ["--output-dir", str(folder / "results"), "--checkpoint-dir", str(folder / "checkpoints")]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main.main([*options, "--data-dir", str(data), "--device", "cpu", *places], callback or Callback())
    return out.getvalue(), err.getvalue()


def history_of(folder: Path, name: str | None = None) -> dict:
    """The history of that run, or of the only one."""
    results = folder / "results"
    path = results / f"{name}.json" if name else next(results.glob("*.json"))
    return json.loads(path.read_text())


def refused(capsys, *options: str) -> str:
    """The error of a command line that is refused: status 2 and one or two lines, no more."""
    with pytest.raises(SystemExit) as leave:
        main.main(list(options))
    printed = capsys.readouterr()
    assert leave.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) <= 2, printed.err
    return printed.err


def in_order(data: dataset.MNIST, batch_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The whole data set in batches, the last one smaller, in order."""
    return [data[start : start + batch_size] for start in range(0, len(data), batch_size)]


def at_rate(network: nn.Module, rates: list[float], **options: float):
    """An optimizer, and a schedule that gives it these rates one by one."""
    optimizer = torch.optim.SGD(network.parameters(), 1.0, **options)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [*rates, 0.0][step])


@pytest.fixture(scope="module")
def finished(sample, tmp_path_factory):
    """A run of three epochs: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    options = ["--model", "lenet", "--epochs", "3", "--batch-size", "64", "--lr", "0.05", "--name", "here"]
    return folder, *train(folder, sample, *options)


# --- what it prints ---------------------------------------------------------------------------------------------------


def test_one_aligned_line_an_epoch_holds_all_figures(finished):
    folder, out, _ = finished
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1, "aligned"
    record = history_of(folder)
    for i, line in enumerate(lines):
        found = EPOCH_LINE.fullmatch(line)
        assert found, line
        assert (int(found["epoch"]), int(found["epochs"])) == (i + 1, 3)
        for split in ("train", "test"):
            assert float(found[f"{split}_loss"]) == pytest.approx(record[f"{split}_loss"][i], abs=6e-5)
            assert float(found[f"{split}_accuracy"]) == pytest.approx(100 * record[f"{split}_accuracy"][i], abs=6e-3)
        assert float(found["seconds"]) == pytest.approx(record["seconds"][i], abs=0.06)


def test_it_opens_with_the_layers_and_what_is_trained(finished):
    _, out, _ = finished
    before = out.partition("epoch 1/3")[0]
    assert "61,706" in before
    layers = [line.split()[0] for line in before.splitlines() if re.match(r"[csf]\d ", line)]
    assert layers == ["c1", "s2", "c3", "s4", "c5", "f6", "f7"], "as the textbook has them, whatever computes them"
    assert "1,437 training and 360 test images" in before
    assert "here: cpu, 1 x 1 threads, seed 0" in before


def test_it_closes_with_best_and_last_epoch_and_the_place_of_the_plot(finished):
    folder, out, _ = finished
    record = history_of(folder)
    loss, accuracy = record["test_loss"], record["test_accuracy"]
    lowest, highest, last, plot = out.splitlines()[-4:]
    assert lowest.split() == ["lowest", "test", "loss", f"{min(loss):.4f}", "in", "epoch", str(np.argmin(loss) + 1)]
    assert highest.split()[-4:] == [f"{max(accuracy):.2%}", "in", "epoch", str(np.argmax(accuracy) + 1)]
    assert f"{loss[-1]:.4f}" in last
    assert f"{accuracy[-1]:.2%}" in last
    assert plot.split()[-1] == str(folder / "results" / "here.png")


def test_no_progress_bar_in_a_pipe(finished):
    _, out, err = finished
    assert "\r" not in out + err
    assert all(line.startswith("warning: ") for line in err.splitlines())


def test_a_progress_bar_on_a_terminal(small, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(terminal):
        places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
        main.main(["--model", "mlp", "--epochs", "1", "--device", "cpu", "--data-dir", str(small), *places])
    assert "\r" in terminal.getvalue()


# --- what it writes ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_these_files_and_no_others(finished):
    folder, _, _ = finished
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *(f"results/here.{ending}" for ending in ("json", "npz", "png")),
        "checkpoints/here.pt",
        "checkpoints/here.weights.pt",
    }


def test_the_history_holds_configuration_and_figures(finished):
    folder, _, _ = finished
    record = history_of(folder)
    expected = {
        "name": "here",
        "model": "lenet",
        "augment": False,
        "seed": 0,
        "epochs": 3,
        "batch_size": 64,
        "lr": 0.05,
        "weight_decay": 5e-4,
        "classes": 10,
        "parameters": 61_706,
        "data": "sample",
        "train_images": 1437,
        "test_images": 360,
        "device": "cpu",
        "optimizer": "SGD",
        "processes": [1, 1, 1],
        "threads": [1, 1, 1],
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
        "numpy_version": np.__version__,
    }
    found = {key: record[key].split("+")[0] if key == "torch_version" else record[key] for key in expected}
    assert found == expected | {"torch_version": torch.__version__.split("+")[0]}
    fields = list(record)
    assert tuple(fields[fields.index("seed") + 1 : fields.index("parameters")]) == history.RECIPE
    assert "momentum" in record
    assert not {"rotation", "translation", "min_crop", "augment_strength_min", "augment_strength_max"} & set(record), (
        "not augmented"
    )
    for metric in history.METRICS:
        assert len(record[metric]) == 3
        assert all(isinstance(figure, float) and math.isfinite(figure) for figure in record[metric])
    for accuracy, images in (("train_accuracy", 1437), ("test_accuracy", 360)):
        for figure in record[accuracy]:
            assert 0 <= figure <= 1
            assert figure * images == pytest.approx(round(figure * images), abs=1e-3), "a count over the images"
    steps = math.ceil(1437 / 64)
    for epoch, rate in enumerate(record["learning_rate"]):
        expected = 0.05 * main.learning_rate(epoch * steps + 0.5, 3 * steps)
        assert rate == pytest.approx(expected), "at the epoch's first step"


def test_a_history_is_flat_so_that_pandas_reads_a_table_of_a_row_an_epoch(finished):
    folder, _, _ = finished
    record = history_of(folder)
    assert all(isinstance(value, str | int | float | list) for value in record.values())
    assert {len(value) for value in record.values() if isinstance(value, list)} == {3}
    lines = (folder / "results" / "here.json").read_text().splitlines()
    assert len(lines) == len(record) + 2, "each field on a line of its own"


def test_the_arrays_agree_with_the_history(finished, sample):
    folder, _, _ = finished
    record, test_set = history_of(folder), dataset.MNIST(sample / "test.tar")
    with np.load(folder / "results" / "here.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    assert found["digest"] == record["digest"]
    assert (found["labels"] == test_set.labels.numpy()).all()
    wrong = (found["predictions"] != found["labels"]).nonzero()[0]
    assert (found["mistake_images"] == test_set.images.numpy()[wrong]).all()
    assert 1 - len(wrong) / 360 == pytest.approx(record["test_accuracy"][-1])
    assert "warped" not in found


def test_the_arrays_are_what_the_kept_weights_say_of_each_test_image(finished, sample):
    folder, _, _ = finished
    network, test_set = kept_network(folder / "checkpoints" / "here.weights.pt"), dataset.MNIST(sample / "test.tar")
    with torch.no_grad():
        probabilities = network(test_set[:][0]).softmax(1).numpy()
    with np.load(folder / "results" / "here.npz", allow_pickle=False) as found:
        assert (found["predictions"] == probabilities.argmax(1)).all()
        np.testing.assert_allclose(found["confidence"], probabilities.max(1), rtol=1e-4)
        right = probabilities[np.arange(360), test_set.labels.numpy()]
        np.testing.assert_allclose(found["log_probability"], np.log(right), rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(found["c1"], network.c1.weight.detach().numpy())
        assert {name: found[name].dtype for name in found.files if name != "digest"} == {
            "labels": np.uint8,
            "predictions": np.uint8,
            "confidence": np.float32,
            "log_probability": np.float16,
            "mistake_images": np.uint8,
            "c1": np.float32,
        }


def test_the_arrays_of_an_augmented_run_show_the_warps(small, tmp_path):
    train(tmp_path, small, "--model", "mlp", "--augment", "--epochs", "1", "--name", "mlp", "--seed", "3")
    train_set = dataset.MNIST(small / "train.tar")
    with np.load(tmp_path / "results" / "mlp.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    assert found["originals"].shape == (10, 28, 28)
    assert found["warped"].shape == (10, history.DRAWS, 28, 28)
    assert found["warped"].dtype == np.uint8
    for label in range(10):
        assert (found["originals"][label] == train_set.images[train_set.labels == label][0].numpy()).all(), "the first"
    flat = found["warped"].reshape(-1, 28 * 28)
    assert len(np.unique(flat, axis=0)) == len(flat), "each drawn for itself"
    assert "c1" not in found
    record = history_of(tmp_path)
    strengths = {
        "augment_strength_min": 0.0,
        "augment_strength_max": 1.0,
        "rotation": 20,
        "translation": 0.1,
        "min_crop": 0.8,
    }
    assert {key: record[key] for key in strengths} == strengths


def test_a_class_without_images_leaves_a_blank_original(small, tmp_path):
    whole = dataset.MNIST(small / "train.tar")
    some = whole.labels != 4
    write_tar(tmp_path / "train.tar", "train", whole.images[some], whole.labels[some])
    write_tar(tmp_path / "test.tar", "test", whole.images[:30], whole.labels[:30])
    train(tmp_path, tmp_path, "--model", "mlp", "--augment", "--epochs", "1", "--name", "mlp")
    with np.load(tmp_path / "results" / "mlp.npz", allow_pickle=False) as arrays:
        assert not arrays["originals"][4].any()
        assert not arrays["warped"][4].any()
        assert all(arrays["originals"][label].any() for label in range(10) if label != 4)


def test_the_plot_is_a_picture_that_knows_its_run(finished):
    folder, _, _ = finished
    with Image.open(folder / "results" / "here.png") as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 200
        assert image.text["digest"] == history_of(folder)["digest"]


def kept_network(path: Path) -> nn.Module:
    """The textbook network with the weights of a file."""
    saved = torch.load(path, weights_only=True)
    network = MODELS[saved["model"]]()
    network.load_state_dict(saved["network"])
    return network.eval()


def test_the_weights_are_those_that_the_last_epoch_tested(finished, sample):
    folder, _, _ = finished
    path, record = folder / "checkpoints" / "here.weights.pt", history_of(folder)
    saved = torch.load(path, weights_only=True)
    told = {key: saved[key] for key in ("model", "name", "classes", "digest")}
    assert told == {"model": "lenet", "name": "here", "classes": 10, "digest": record["digest"]}
    assert all(value.is_contiguous() for value in saved["network"].values())
    loss, accuracy = main.test(kept_network(path), dataset.MNIST(sample / "test.tar"))
    assert loss == pytest.approx(record["test_loss"][-1], rel=1e-5)
    assert accuracy == pytest.approx(record["test_accuracy"][-1])


def test_the_sample_in_place_of_mnist_is_said_and_marked(tmp_path, monkeypatch, capsys):
    def no_network(folder):
        raise ConnectionError("no network")

    monkeypatch.setattr("support.data.find.download", no_network)
    monkeypatch.chdir(tmp_path)
    main.main(["--model", "mlp", "--epochs", "1", "--device", "cpu"])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("warning: ") for line in warnings)
    assert "NOT MNIST" in warnings[0]
    assert "no network" in warnings[0]
    assert "train.tar" in warnings[1]
    assert {path.stem for path in Path("result_plot").iterdir()} == {"mlp-sample_epochs1"}
    assert Path("checkpoints/mlp-sample_epochs1.pt").is_file()


# --- data that look wrong ---------------------------------------------------------------------------------------------


def warnings_about(folder: Path, small: Path, change) -> list[str]:
    """What is printed to stderr where the training and test images and labels are what `change` makes of them."""
    train_set, test_set = (dataset.MNIST(small / f"{split}.tar") for split in ("train", "test"))
    parts = change(train_set.images, train_set.labels, test_set.images, test_set.labels)
    write_tar(folder / "train.tar", "train", *parts[:2])
    write_tar(folder / "test.tar", "test", *parts[2:])
    _, err = train(folder, folder, "--model", "mlp", "--epochs", "1", "--name", "mlp")
    return err.splitlines()


def test_a_class_that_is_absent_and_sets_that_look_swapped_are_warned_about(sample, tmp_path):
    whole = dataset.MNIST(sample / "train.tar")
    no_seven = whole.labels != 7
    write_tar(tmp_path / "train.tar", "train", whole.images[no_seven][:60], whole.labels[no_seven][:60])
    write_tar(tmp_path / "test.tar", "test", whole.images[:90], whole.labels[:90])
    _, err = train(tmp_path, tmp_path, "--model", "mlp", "--epochs", "1")
    missing, swapped = err.splitlines()
    assert "training set" in missing
    assert missing.split()[-1] == "7"
    assert "90" in swapped
    assert "60" in swapped


def test_a_test_set_that_is_the_training_set_is_warned_about_once(small, tmp_path):
    (line,) = warnings_about(tmp_path, small, lambda images, labels, *_: (images, labels, images, labels))
    assert line.startswith("warning: ")
    assert "test set is the training set" in line


def test_images_that_are_dark_on_light_are_warned_about(small, tmp_path):
    changed = warnings_about(tmp_path, small, lambda a, b, c, d: (255 - a, b, 255 - c, d))
    assert len(changed) == 2
    assert all("dark on light" in line for line in changed)


def test_images_whose_brightest_pixel_is_one_are_warned_about(small, tmp_path):
    changed = warnings_about(tmp_path, small, lambda a, b, c, d: (a // 255, b, c, d))
    assert len(changed) == 1
    assert "brightest pixel is 1" in changed[0]


def test_data_without_a_fault_are_not_warned_about(small, tmp_path):
    assert train(tmp_path, small, "--model", "mlp", "--epochs", "1")[1] == ""


# --- an epoch ---------------------------------------------------------------------------------------------------------


def figures(record: dict) -> dict:
    return {metric: record[metric] for metric in RECORDED}


def test_the_same_seed_gives_the_same_history_to_the_last_bit_and_another_does_not(small, tmp_path):
    options = ["--model", "lenet_bn", "--augment", "--epochs", "2", "--batch-size", "32"]
    histories = []
    for i, seed in enumerate(("5", "5", "6")):
        torch.manual_seed(i)  # what ran before must not matter
        train(tmp_path / str(i), small, *options, "--seed", seed)
        histories.append(history_of(tmp_path / str(i)))
    assert figures(histories[0]) == figures(histories[1])
    assert histories[0]["digest"] == histories[1]["digest"] != histories[2]["digest"]
    assert all(histories[0][metric] != histories[2][metric] for metric in ("train_loss", "test_loss"))


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_every_image_is_used_once_an_epoch_the_last_smaller_batch_too(small, tmp_path, monkeypatch, batch_size):
    drawn, sizes = [], []
    original_item, original_loss = dataset.MNIST.__getitem__, F.cross_entropy

    def recorded_item(self, index):
        if self.path.name == "train.tar" and isinstance(index, torch.Tensor):  # not those of the statistics
            drawn.extend(index.tolist())
        return original_item(self, index)

    def recorded_loss(logits, labels, **options):
        if logits.requires_grad:
            sizes.append(len(labels))
        return original_loss(logits, labels, **options)

    monkeypatch.setattr(dataset.MNIST, "__getitem__", recorded_item)
    monkeypatch.setattr(main.F, "cross_entropy", recorded_loss)
    train(tmp_path, small, "--model", "mlp", "--epochs", "2", "--batch-size", str(batch_size))
    assert sizes == ([64, 64, 64, 18] if batch_size == 64 else [210]) * 2
    first, second = drawn[:210], drawn[210:]
    assert sorted(first) == sorted(second) == list(range(210))
    assert first != second, "each epoch in an order of its own"
    assert first != sorted(first), "shuffled"


@pytest.mark.parametrize("at_once", [1, 150, 1024])
def test_batches_are_those_of_the_order_however_many_are_made_at_once(small, monkeypatch, at_once):
    monkeypatch.setattr(distributed, "IMAGES_AT_ONCE", at_once)
    data = dataset.MNIST(small / "train.tar")
    batches = distributed.Batches(data, 64, seed=3)
    order, made = batches.order(), list(batches)
    assert len(batches) == len(made) == 4
    for step, (images, labels) in enumerate(made):
        expected = data[order[64 * step : 64 * (step + 1)]]
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def order(seed: int, epoch: int) -> list[int]:
        batches = distributed.Batches(range(50), 10, seed)
        batches.epoch = epoch
        torch.rand(1)
        return batches.order().tolist()

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(7, 1)


def test_training_figures_are_over_samples_not_over_batches(small):
    data, network = dataset.MNIST(small / "train.tar"), MODELS["lenet"]()
    loss, accuracy = main.train(network, copy.deepcopy(network), in_order(data, 100), *at_rate(network, 3 * [0.0]))
    with torch.no_grad():
        images, labels = data[:]  # 100, 100 and 10
        logits = network(images)
        assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_training_steps_are_those_of_the_mean_loss_of_each_batch(small):
    torch.manual_seed(0)
    data, network, reference = dataset.MNIST(small / "train.tar"), MODELS["mlp"](), MODELS["mlp"]()
    reference.load_state_dict(network.state_dict())
    rates = [0.1, 0.05, 0.02]
    main.train(network, copy.deepcopy(network), in_order(data, 100), *at_rate(network, rates, momentum=0.9))

    optimizer = torch.optim.SGD(reference.parameters(), 1.0, momentum=0.9)
    for rate, (images, labels) in zip(rates, in_order(data, 100), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(reference(images), labels).backward()
        optimizer.step()
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_testing_is_in_evaluation_mode_and_over_samples(small, monkeypatch):
    monkeypatch.setattr(main, "TEST_BATCH", 25)  # 25, 25, 10
    data, network = dataset.MNIST(small / "test.tar"), MODELS["lenet_bn"]()
    network.train()(data[:][0])  # so that the running statistics are not their first values
    before = {key: value.clone() for key, value in network.state_dict().items()}
    loss, accuracy = main.test(network, data)
    assert all(network.state_dict()[key].equal(value) for key, value in before.items())
    with torch.no_grad():
        images, labels = data[:]
        logits = network.eval()(images)
        assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_training_is_in_training_mode(small):
    data, network = dataset.MNIST(small / "train.tar"), MODELS["lenet_bn"]().eval()
    before = network.norm1.running_mean.clone()
    main.train(network, copy.deepcopy(network), in_order(data, 100), *at_rate(network, 3 * [0.0]))
    assert not network.norm1.running_mean.equal(before)


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_the_recipe_is_the_documented_one():
    """As README.md and benchmarks/tuning.md state it: whoever changes it trains the study anew and says so there."""
    arguments = main.parse_arguments(["--model", "lenet"])
    assert (arguments.epochs, arguments.batch_size, arguments.lr, arguments.weight_decay) == (50, 128, 0.05, 5e-4)
    assert (main.MOMENTUM, main.MAX_GRAD_NORM) == (0.9, 2.0)
    assert (main.WARMUP_STEPS, main.MAX_WARMUP, main.DECAY) == (150, 0.2, 0.2)
    assert (main.AVERAGING, main.BN_IMAGES, main.AUGMENT) == (4, 10_000, (0.0, 1.0))
    assert (dataset.MEAN, dataset.STD, dataset.PADDING) == (0.1307, 0.3081, 2)
    assert (dataset.ROTATION, dataset.TRANSLATION, dataset.MIN_CROP) == (20, 0.1, 0.8)


@pytest.mark.parametrize(("steps", "climb"), [(10_000, 150), (1000, 150), (100, 20)])
def test_the_learning_rate_climbs_to_its_peak_and_falls_to_zero(steps, climb):
    """In a short run it climbs over a fifth of it, no longer."""
    moments = np.linspace(0, steps, 1001)
    rates = np.array([main.learning_rate(moment, steps) for moment in moments])
    assert rates[0] == rates[-1] == 0
    assert rates.max() == 1
    climbs, falls = moments <= climb, moments >= 0.8 * steps
    np.testing.assert_allclose(rates[climbs], moments[climbs] / climb)
    np.testing.assert_allclose(rates[~climbs & ~falls], 1)
    np.testing.assert_allclose(rates[falls], (1 - moments[falls] / steps) / 0.2, atol=1e-12)


def test_the_schedule_gives_each_step_the_rate_at_its_middle():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.3)
    scheduler = main.make_scheduler(optimizer, steps=200)
    for step in range(200):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * main.learning_rate(step + 0.5, 200))
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_even_in_the_shortest_runs_every_step_learns(steps):
    assert all(0 < main.learning_rate(step + 0.5, steps) <= 1 for step in range(steps))


def test_a_gradient_that_is_too_long_is_shortened(small):
    """Ten times the loss gives the direction of the gradient, and no longer a step than any other."""
    data, network = dataset.MNIST(small / "train.tar"), MODELS["mlp"]()
    with torch.no_grad():
        network.f4.weight.mul_(100)
    before = [weight.clone() for weight in network.parameters()]
    main.train(network, copy.deepcopy(network), in_order(data, 210), *at_rate(network, [0.1]))
    step = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), before, strict=True)])
    assert step.norm().item() == pytest.approx(0.1 * 2.0, rel=1e-3)


LOW_RATE = 0.01  # the order of sums does not grow into a difference


def recomputed(model: str, augment: bool, data: Path, seed: int, epochs: int, batch_size: int):
    """The run in plain words of PyTorch: the figures of each epoch, and the averaged network at its end."""
    train_set, test_set = (dataset.MNIST(data / f"{split}.tar") for split in ("train", "test"))
    torch.manual_seed(words(1, 0, 0, seed))
    network = MODELS[model]()
    average, weights = copy.deepcopy(network), list(network.parameters())
    speeds, step, found = [torch.zeros_like(weight) for weight in weights], 0, []
    steps = math.ceil(len(train_set) / batch_size)
    for epoch in range(1, epochs + 1):
        torch.manual_seed(words(3, epoch, 0, seed))
        order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(words(2, epoch, 0, seed)))
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
        measure(average, train_set[:][0])
        with torch.no_grad():
            logits = average.eval()(test_set[:][0])
        test_loss = F.cross_entropy(logits, test_set.labels).item()
        right = (logits.argmax(1) == test_set.labels).float().mean().item()
        found.append((losses / len(train_set), correct / len(train_set), test_loss, right))
    return found, average


def words(*numbers: int) -> int:
    """What NumPy's SeedSequence makes of purpose, epoch, process and seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def measure(network: nn.Module, images: torch.Tensor) -> None:
    """Batch normalization's statistics, of clean images in one batch."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(images)


@pytest.mark.parametrize(("model", "augment"), [("mlp", False), ("lenet", True), ("lenet_bn", True)])
def test_a_run_is_the_recipe_recomputed_in_plain_pytorch(small, tmp_path, model, augment):
    options = ["--model", model, "--epochs", "3", "--batch-size", "60", "--seed", "2", "--name", "run"]
    options += ["--lr", str(LOW_RATE)]
    train(tmp_path, small, *options, *(["--augment"] if augment else []))
    record, (expected, average) = history_of(tmp_path), recomputed(model, augment, small, 2, 3, 60)
    for name, column in zip(RECORDED, zip(*expected, strict=True), strict=True):
        assert record[name] == pytest.approx(column, rel=2e-3, abs=2e-4), name
    kept = kept_network(tmp_path / "checkpoints" / "run.weights.pt")
    for ours, theirs in zip(kept.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    for (name, ours), theirs in zip(kept.named_buffers(), average.buffers(), strict=True):
        if ours.is_floating_point():
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=name)


def test_statistics_are_measured_on_the_first_images_as_they_are_and_on_no_more_than_the_recipe_says(
    small, monkeypatch
):
    monkeypatch.setattr(main, "STATISTICS", 50)
    monkeypatch.setattr(main, "TEST_BATCH", 25)
    torch.manual_seed(0)
    data, network = dataset.MNIST(small / "train.tar"), MODELS["lenet_bn"]()
    average = copy.deepcopy(network)
    main.recalibrate_batch_norm(average, network, data)
    with torch.no_grad():
        maps = network.s2(network.c1(data[:50][0]))
    torch.testing.assert_close(average.norm1.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_average_takes_the_buffers_of_the_network():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))
            self.register_buffer("seen", torch.zeros(2))
            self.register_buffer("steps", torch.tensor(0))

    network, average = Counting(), Counting()
    network.seen += 7
    network.steps += 3
    average_before = average.weight.clone()
    main.recalibrate_batch_norm(average, network, dataset.MNIST(ROOT / "data" / "sample" / "test.tar"))
    assert torch.equal(average.seen, network.seen)
    assert int(average.steps) == 3
    assert torch.equal(average.weight, average_before)


def test_the_average_is_the_mean_over_the_last_fifth_of_the_steps_in_effect():
    network, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for step in range(1, 1001):
        network.weight.data.fill_(float(step))
        main.update_average(average, network, step)
        if step == 1:
            assert average.weight.item() == 1, "the first step replaces what was there"
    # of the weights 1, 2, 3, ... the polynomial-decay average is (5 n + 1) / 6, a mean over about the last third
    assert average.weight.item() == pytest.approx((5 * 1000 + 1) / 6, rel=1e-4)


def test_what_a_run_draws_does_not_depend_on_the_state_of_the_generator_or_the_batch_before(small, tmp_path):
    """An callback that draws, which it must not, still leaves the next epoch as it would have been."""

    class Draws(Callback):
        def on_epoch_end(self, *_) -> dict[str, float]:
            torch.rand(7)
            return {}

    options = ["--model", "mlp", "--augment", "--epochs", "2"]
    train(tmp_path / "a", small, *options)
    train(tmp_path / "b", small, *options, callback=Draws())
    assert figures(history_of(tmp_path / "a")) == figures(history_of(tmp_path / "b"))


@pytest.mark.parametrize("model", MODELS)
def test_each_network_learns(sample, tmp_path, model):
    train(tmp_path, sample, "--model", model, "--epochs", "5", "--lr", "0.05", "--batch-size", "32")
    record = history_of(tmp_path)
    assert record["test_accuracy"][-1] > 0.85, "0.1 is guessing"
    assert record["train_loss"][-1] < record["train_loss"][0] / 2


# --- the name of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--model", "mlp"], "mlp-small_epochs1"),
        (["--model", "mlp", "--seed", "7"], "mlp-small_epochs1_seed7"),
        (["--model", "lenet_bn", "--augment", "--seed", "12"], "lenet_bn-small_augment_epochs1_seed12"),
        (["--model", "lenet", "--augment", "--seed", "0"], "lenet-small_augment_epochs1"),
        (
            ["--model", "mlp", "--batch-size", "70", "--lr", "0.1", "--weight-decay", "0.001"],
            "mlp-small_epochs1_batch70_lr0.1_decay0.001",
        ),
        (["--model", "mlp", "--classes", "26"], "mlp-small_epochs1_classes26"),
        (["--model", "mlp", "--name", "my.own-run_1"], "my.own-run_1"),
    ],
)
def test_the_name_of_a_run_says_in_what_it_differs_from_the_defaults(small, tmp_path, options, name):
    out, err = train(tmp_path, small, *options, "--epochs", "1")
    assert {path.stem for path in (tmp_path / "results").iterdir()} == {name}
    assert (tmp_path / "checkpoints" / f"{name}.pt").is_file()
    assert (tmp_path / "checkpoints" / f"{name}.weights.pt").is_file()
    assert history_of(tmp_path, name)["name"] == name
    assert history_of(tmp_path, name)["data"] == "small"
    assert f"{name}: " in out
    assert not err or "--classes" in options, "of 26 classes 16 are not there"


def test_runs_that_differ_in_anything_leave_one_another_alone(small, tmp_path):
    first = ["--model", "mlp", "--epochs", "1"]
    train(tmp_path, small, *first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("mlp*")}
    other = tmp_path / "Fashion MNIST"
    other.mkdir()
    for split in ("train", "test"):
        (other / f"{split}.tar").write_bytes((small / f"{split}.tar").read_bytes())
    train(tmp_path, other, *first)
    for more in (["--lr", "0.1"], ["--epochs", "2"], ["--seed", "1"], ["--augment"], ["--batch-size", "60"]):
        train(tmp_path, small, *first, *more)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (tmp_path / "results" / "mlp-Fashion-MNIST_epochs1.json").exists()
    assert len(list((tmp_path / "results").glob("*.json"))) == 7


# --- --threads, --dry-run, --test-only --------------------------------------------------------------------------------


def test_threads_are_as_many_as_asked_for_and_stand_in_the_history(small, tmp_path):
    try:
        out, _ = train(tmp_path, small, "--model", "mlp", "--epochs", "1", "--threads", "3")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert "1 x 3 threads" in out
    assert history_of(tmp_path)["threads"] == [3]


@pytest.mark.parametrize("options", [[], ["--augment"]])
def test_a_dry_run_makes_one_step_and_writes_nothing(small, tmp_path, monkeypatch, options):
    steps, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *rest: (steps.append(1), step(self, *rest)))
    out, err = train(tmp_path, small, "--model", "lenet_bn", "--dry-run", *options)
    assert len(steps) == 1
    assert "dry run" in out
    assert "nothing was written" in out
    assert "epoch" not in out.partition("dry run")[0]
    assert err == ""
    assert not any(tmp_path.iterdir())


def test_a_dry_run_beside_a_finished_run_leaves_it_and_says_what_a_run_would_say(small, tmp_path, capsys):
    train(tmp_path, small, "--model", "mlp", "--epochs", "1", "--name", "mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    places += ["--data-dir", str(small), "--device", "cpu", "--dry-run"]
    train(tmp_path, small, "--model", "mlp", "--epochs", "1", "--name", "mine", "--dry-run")
    assert "--name" in refused(capsys, "--model", "lenet", "--epochs", "1", "--name", "mine", *places)
    assert "--batch-size" in refused(capsys, "--model", "lenet_bn", "--batch-size", "209", *places)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize("option", ["--output-dir", "--checkpoint-dir"])
def test_a_dry_run_finds_a_folder_that_cannot_be_made(small, tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    error = refused(capsys, "--model", "lenet", "--data-dir", str(small), option, "file/folder", "--dry-run")
    assert str(Path("file/folder")) in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_testing_prints_loss_and_accuracy_of_a_finished_network_and_writes_nothing(finished, tmp_path, capsys):
    folder, _, _ = finished
    record, weights = history_of(folder), folder / "checkpoints" / "here.weights.pt"
    sample = str(ROOT / "data" / "sample")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with contextlib.chdir(tmp_path):
        main.main(["--test-only", "--weights", str(weights), "--data-dir", sample, "--device", "cpu"])
    printed = capsys.readouterr()
    assert f"test loss {record['test_loss'][-1]:.4f}" in printed.out
    assert f"test accuracy {record['test_accuracy'][-1]:.2%}" in printed.out
    assert "here on 360 test images" in printed.out
    assert not any(tmp_path.iterdir())
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_testing_knows_the_network_and_its_classes_from_the_file(small, tmp_path, capsys):
    train(tmp_path, small, "--model", "lenet_bn", "--classes", "26", "--epochs", "1", "--name", "letters")
    weights = tmp_path / "checkpoints" / "letters.weights.pt"
    main.main(["--test-only", "--weights", str(weights), "--data-dir", str(small), "--device", "cpu"])
    assert f"test accuracy {history_of(tmp_path)['test_accuracy'][-1]:.2%}" in capsys.readouterr().out


def test_only_testing_refuses_what_are_no_weights(small, tmp_path, capsys):
    for name, content in (("missing.pt", None), ("text.weights.pt", b"no weights"), ("folder.weights.pt", "folder")):
        path = tmp_path / name
        path.mkdir() if content == "folder" else path.write_bytes(content) if content else None
        error = refused(capsys, "--test-only", "--weights", str(path), "--data-dir", str(small))
        assert str(path) in error
    train(tmp_path, small, "--model", "mlp", "--epochs", "1", "--name", "mine")
    checkpoint = tmp_path / "checkpoints" / "mine.pt"
    assert ".weights.pt" in refused(capsys, "--test-only", "--weights", str(checkpoint), "--data-dir", str(small))
    path = tmp_path / "checkpoints" / "mine.weights.pt"
    state = torch.load(path, weights_only=True)
    for changed in ({"model": "resnet"}, {"model": "lenet"}, {"classes": 12}, {"classes": 10**9}, {"network": {}}):
        torch.save(state | changed, path)
        error = refused(capsys, "--test-only", "--weights", str(path), "--data-dir", str(small))
        assert str(path) in error
        assert "--restart" not in error


def test_only_testing_and_weights_belong_together(capsys):
    assert "--weights" in refused(capsys, "--test-only")
    assert "--test-only" in refused(capsys, "--model", "lenet", "--weights", "some.weights.pt")


# --- the command line -------------------------------------------------------------------------------------------------


def test_help_explains_each_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as leave:
        main.main(["--help"])
    assert leave.value.code == 0
    usage, explained = capsys.readouterr().out.split("options:")
    assert "--model {lenet,mlp,lenet_bn}" in usage
    for option, default in OPTIONS:
        entry = re.search(rf"^  {option}\b.+?(?=^  -|\Z)", explained, re.MULTILINE | re.DOTALL)
        assert entry, option
        entry = " ".join(entry[0].split())
        assert len(entry.split()) > 3, "explained"
        assert default in entry
    known = set(re.findall(r"^  (--[a-z-]+)", explained, re.MULTILINE))
    assert known == {option for option, _ in OPTIONS}, "no option is missing from this test"


def test_the_defaults_that_the_assignment_names():
    arguments = main.parse_arguments(["--model", "lenet"])
    assert (arguments.epochs, arguments.seed, arguments.device) == (50, 0, "auto")
    assert arguments.output_dir == "result_plot"
    assert not arguments.augment


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", "0"),
        ("--epochs", "-3"),
        ("--epochs", "2.5"),
        ("--epochs", "many"),
        ("--epochs", "9" * 400),
        ("--epochs", "99999999"),
        ("--batch-size", "0"),
        ("--batch-size", "1e3"),
        ("--lr", "0"),
        ("--lr", "-0.1"),
        ("--lr", "nan"),
        ("--lr", "inf"),
        ("--lr", "fast"),
        ("--weight-decay", "-0.1"),
        ("--weight-decay", "nan"),
        ("--seed", "-1"),
        ("--seed", str(2**63)),
        ("--classes", "1"),
        ("--classes", "257"),
        ("--threads", "0"),
        ("--threads", "1.5"),
        ("--device", "abacus"),
        ("--model", "resnet"),
        ("--colour", "blue"),
        ("--name", "a/b"),
        ("--name", ".hidden"),
        ("--name", ""),
        ("--name", "two words"),
        ("--name", "x.weights"),
        ("--name", "이" * 90),
        ("--name", "a" * 201),
        ("--epo", "3"),
    ],
)
def test_a_bad_option_is_named(capsys, option, value):
    error = refused(capsys, *(["--model", "lenet"] if option != "--model" else []), option, value)
    assert option in error
    assert value[:20] in error


def test_the_model_is_required(capsys):
    assert "--model" in refused(capsys)


def test_resume_and_restart_exclude_each_other(capsys):
    error = refused(capsys, "--model", "lenet", "--resume", "--restart")
    assert "--resume" in error
    assert "--restart" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(capsys):
    assert "--device cuda" in refused(capsys, "--model", "lenet", "--device", "cuda")


def test_the_largest_seed_works(small, tmp_path):
    seed = 2**63 - 1
    train(tmp_path, small, "--model", "mlp", "--epochs", "2", "--seed", str(seed))
    assert history_of(tmp_path, f"mlp-small_epochs2_seed{seed}")["seed"] == seed


def test_a_last_batch_of_one_is_refused_for_batch_normalization_only(small, tmp_path, capsys):
    places = ["--data-dir", str(small), "--output-dir", str(tmp_path), "--checkpoint-dir", str(tmp_path)]
    error = refused(capsys, "--model", "lenet_bn", "--batch-size", "209", "--device", "cpu", *places)
    assert "--batch-size 209" in error
    assert "210" in error
    train(tmp_path, small, "--model", "lenet", "--batch-size", "209", "--epochs", "1")


def test_a_label_beyond_the_classes_is_refused(small, tmp_path, capsys):
    places = ["--data-dir", str(small), "--output-dir", str(tmp_path), "--checkpoint-dir", str(tmp_path)]
    error = refused(capsys, "--model", "lenet", "--classes", "5", *places)
    assert "train.tar" in error
    assert not any(tmp_path.iterdir())


def test_a_missing_data_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "--model", "lenet", "--data-dir", "nowhere")
    assert str(tmp_path / "nowhere" / "train.tar") in error
    assert "--data-dir" in error
    assert not Path("result_plot").exists()


@pytest.mark.parametrize("option", ["--output-dir", "--checkpoint-dir"])
def test_a_folder_that_cannot_be_made(small, tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    error = refused(capsys, "--model", "lenet", "--data-dir", str(small), option, "file/folder")
    assert str(Path("file/folder")) in error
    assert Path("file").read_text() == "in the way"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
@pytest.mark.parametrize("option", ["--output-dir", "--checkpoint-dir"])
def test_a_folder_without_write_permission(small, tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    Path("locked").mkdir(mode=0o555)
    assert "locked" in refused(capsys, "--model", "lenet", "--data-dir", str(small), option, "locked")


def test_bad_data_stop_it_before_anything_is_overwritten(small, tmp_path, capsys):
    train(tmp_path, small, "--model", "mlp", "--epochs", "1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    broken = tmp_path / "small"
    broken.mkdir()
    (broken / "train.tar").write_bytes((small / "train.tar").read_bytes()[:50_000])
    (broken / "test.tar").write_bytes((small / "test.tar").read_bytes())
    places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    error = refused(capsys, "--model", "mlp", "--epochs", "1", "--data-dir", str(broken), *places)
    assert str(broken / "train.tar") in error
    assert all(path.read_bytes() == content for path, content in before.items())


# --- seams ------------------------------------------------------------------------------------------------------------


def test_what_an_observer_measures_is_kept_whatever_kind_of_number_it_gives(small, tmp_path):
    class Measures(Callback):
        def on_train_begin(self, network, average, train_set) -> dict[str, float]:
            return {"initial_sum": network.f1.weight.detach().sum(), "initial_rate": np.float64(0.5)}

        def on_epoch_end(self, network, average, train_set) -> dict[str, float]:
            assert train_set.augment is False
            return {"depth": np.float32(-2.5), "tensor": torch.tensor(3.25), "double": np.float64(0.5), "count": 7}

        def on_train_end(self, average, test_set) -> dict[str, float]:
            return {"final": np.int64(len(test_set))}

    train(tmp_path, small, "--model", "mlp", "--augment", "--epochs", "2", "--name", "mlp", callback=Measures())
    record = history.read_history(tmp_path / "results" / "mlp.json")
    assert record["depth"] == [-2.5, -2.5]
    assert record["tensor"] == [3.25, 3.25]
    assert record["double"] == [0.5, 0.5]
    assert record["count"] == [7, 7]
    assert record["final"] == 60
    assert math.isfinite(record["initial_sum"])


def test_an_observer_may_end_a_run_early_and_do_without_pictures(small, tmp_path):
    class Stops(Callback):
        pictures = False

        def on_epoch_end(self, *_) -> dict[str, float]:
            self.stop = True
            return {}

    out, _ = train(tmp_path, small, "--model", "lenet", "--epochs", "5", "--name", "short", callback=Stops())
    record = history.read_history(tmp_path / "results" / "short.json")
    assert (record["epochs"], len(record["test_loss"])) == (5, 1)
    assert "plot" not in out
    assert not (tmp_path / "results" / "short.png").exists()
    arrays = history.read_arrays(tmp_path / "results" / "short.npz", record)
    assert set(arrays) == {"labels", "predictions", "confidence", "log_probability"}


def test_a_run_in_a_thread_as_a_notebook_may_start_it(small, tmp_path):
    ends: list[object] = []

    def start(*options: str) -> None:
        try:
            train(tmp_path, small, "--model", "mlp", "--epochs", "1", *options)
            ends.append(0)
        except SystemExit as leave:
            ends.append(leave.code)

    for options in ([], ["--lr", "-1"]):
        thread = threading.Thread(target=start, args=options)
        thread.start()
        thread.join()
    assert ends == [0, 2]
    assert (tmp_path / "results" / "mlp-small_epochs1.json").exists()


# --- memory -----------------------------------------------------------------------------------------------------------

MAPPED = """
import ctypes
import torch
from support.compute import distributed
FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]
library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
distributed.keep_freed_memory()
before = library.mallinfo2().hblks
block = torch.ones(30 * 2**18)  # 30 MiB
print(library.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(platform.libc_ver() < ("glibc", "2.33"), reason="needs glibc's mallinfo2")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    """A block of 30 MiB comes from the heap, which is kept: one mapped for itself goes back as soon as it is freed."""
    command = [sys.executable, "-c", MAPPED]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert int(output) == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other limits")
def test_a_run_keeps_freed_memory(small, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(distributed, "keep_freed_memory", lambda: called.append(None))
    train(tmp_path, small, "--model", "mlp", "--epochs", "1", "--dry-run")
    assert called
