"""What `main.py` prints, writes, computes and refuses, on the bundled sample and parts of it."""

import contextlib
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import SequentialSampler

import dataset
import main
from model import MODELS

EPOCH_LINE = re.compile(
    r"epoch +(?P<epoch>\d+)/(?P<epochs>\d+) .*train loss (?P<train_loss>\S+) +train accuracy +(?P<train_accuracy>\S+)% "
    r"+test loss (?P<test_loss>\S+) +test accuracy +(?P<test_accuracy>\S+)% +(?P<seconds>\S+) s"
)
RECORDED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")  # what a seed decides
OPTIONS = {
    "--model": "lenet",
    "--epochs": None,
    "--batch-size": None,
    "--lr": None,
    "--weight-decay": None,
    "--seed": None,
    "--data-dir": "data",
    "--output-dir": None,
    "--checkpoint-dir": None,
    "--device": None,
    "--augment": None,
    "--resume": None,
    "--restart": None,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch):
    """Drawing takes longer than training on a few images. The run that `finished` makes draws: it comes before this."""
    monkeypatch.setattr(main.plot, "draw_run", lambda history: None)
    monkeypatch.setattr(main.plot, "save", lambda figure, file: None)


def train(folder: Path, data: Path, *options: str, observe=None) -> tuple[str, str]:
    """Run the command line with its files below `folder`; what it printed to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    places = ["--output-dir", str(folder / "results"), "--checkpoint-dir", str(folder / "checkpoints")]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main.main([*options, "--data-dir", str(data), "--device", "cpu", *places], observe)
    return out.getvalue(), err.getvalue()


def history_of(folder: Path, name: str) -> dict:
    return json.loads((folder / "results" / f"{name}.json").read_text())


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


@pytest.fixture(scope="module")
def finished(sample, tmp_path_factory):
    """A run of three epochs: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, *train(folder, sample, "--model", "lenet", "--epochs", "3", "--batch-size", "64", "--lr", "0.05")


# --- what it prints ---------------------------------------------------------------------------------------------------


def test_one_aligned_line_an_epoch_holds_all_figures(finished):
    folder, out, _ = finished
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1, "aligned"
    history = history_of(folder, "lenet-sample")
    for i, line in enumerate(lines):
        found = EPOCH_LINE.fullmatch(line)
        assert found, line
        assert (int(found["epoch"]), int(found["epochs"])) == (i + 1, 3)
        for split in ("train", "test"):
            assert float(found[f"{split}_loss"]) == pytest.approx(history[f"{split}_loss"][i], abs=6e-5)
            assert float(found[f"{split}_accuracy"]) == pytest.approx(100 * history[f"{split}_accuracy"][i], abs=6e-3)
        assert float(found["seconds"]) == pytest.approx(history["seconds"][i], abs=0.06)


def test_it_opens_with_the_layers_and_what_is_trained(finished):
    _, out, _ = finished
    before = out.partition("epoch 1/3")[0]
    assert "61,706" in before
    assert all(layer in before for layer in ("c1", "c3", "c5", "f6", "f7"))
    assert "1,437 training and 360 test images" in before


def test_it_closes_with_best_and_last_epoch_and_the_place_of_the_plot(finished):
    folder, out, _ = finished
    history = history_of(folder, "lenet-sample")
    loss, accuracy = history["test_loss"], history["test_accuracy"]
    lowest, highest, last, plot = out.splitlines()[-4:]
    assert lowest.split() == ["lowest", "test", "loss", f"{min(loss):.4f}", "in", "epoch", str(np.argmin(loss) + 1)]
    assert highest.split()[-4:] == [f"{max(accuracy):.2%}", "in", "epoch", str(np.argmax(accuracy) + 1)]
    assert f"{loss[-1]:.4f}" in last
    assert f"{accuracy[-1]:.2%}" in last
    assert plot.split()[-1] == str(folder / "results" / "lenet-sample.png")


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
    assert {path.name for path in (folder / "results").iterdir()} == {
        f"lenet-sample.{ending}" for ending in ("json", "npz", "png")
    }
    assert {path.name for path in (folder / "checkpoints").iterdir() if path.suffix != ".lock"} == {
        "lenet-sample.pt",
        "lenet-sample.weights.pt",
    }


def test_the_history_holds_configuration_and_figures(finished):
    folder, _, _ = finished
    history = history_of(folder, "lenet-sample")
    expected = {
        "name": "lenet-sample",
        "model": "lenet",
        "augment": False,
        "seed": 0,
        "epochs": 3,
        "batch_size": 64,
        "lr": 0.05,
        "parameters": 61_706,
        "data": "sample",
        "train_images": 1437,
        "test_images": 360,
        "device": "cpu",
        "processes": 1,
        "threads": 1,
    }
    assert {key: history[key] for key in expected} == expected
    for package in (torch, np):  # the installed version of torch may name the CUDA that it was built for
        assert history["versions"][package.__name__].split("+")[0] == package.__version__.split("+")[0]
    assert {"weight_decay", "momentum"} <= set(history)
    for metric in main.METRICS:
        assert len(history[metric]) == 3
        assert all(isinstance(figure, float) and math.isfinite(figure) for figure in history[metric])
    for accuracy, images in (("train_accuracy", 1437), ("test_accuracy", 360)):
        for figure in history[accuracy]:
            assert 0 <= figure <= 1
            assert figure * images == pytest.approx(round(figure * images), abs=1e-3), "a count over the images"


def test_the_arrays_agree_with_the_history(finished, sample):
    folder, _, _ = finished
    test_set = dataset.MNIST(sample / "test.tar")
    with np.load(folder / "results" / "lenet-sample.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    assert (found["labels"] == test_set.labels.numpy()).all()
    wrong = (found["predictions"] != found["labels"]).nonzero()[0]
    assert (found["mistakes"] == wrong).all()
    assert (found["mistake_images"] == test_set.images.numpy()[wrong]).all()
    assert 1 - len(wrong) / 360 == pytest.approx(history_of(folder, "lenet-sample")["test_accuracy"][-1])
    assert (found["confidence"] > 0.1 - 1e-6).all(), "the highest of ten probabilities"
    assert (found["confidence"] <= 1).all()
    assert found["c1"].shape == (6, 1, 5, 5)
    assert "warped" not in found


def test_the_arrays_of_an_augmented_run_show_the_warps(small, tmp_path):
    train(tmp_path, small, "--model", "mlp", "--augment", "--epochs", "1")
    with np.load(tmp_path / "results" / "mlp_augment.npz", allow_pickle=False) as arrays:
        assert arrays["originals"].shape == (10, 28, 28)
        assert arrays["warped"].shape[0] == 10
        assert arrays["warped"].shape[2:] == (28, 28)
        assert arrays["warped"].dtype == np.uint8
        assert not (arrays["warped"] == arrays["originals"][:, None]).all(), "warped"
        assert "c1" not in arrays.files


def test_the_plot_is_a_picture(finished):
    folder, _, _ = finished
    with Image.open(folder / "results" / "lenet-sample.png") as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 200


def test_the_weights_are_those_that_the_last_epoch_tested(finished, sample):
    folder, _, _ = finished
    saved = torch.load(folder / "checkpoints" / "lenet-sample.weights.pt", weights_only=True)
    assert (saved["model"], saved["name"]) == ("lenet", "lenet-sample")
    network = MODELS["lenet"]()
    network.load_state_dict(saved["network"])
    history = history_of(folder, "lenet-sample")
    loss, accuracy = main.test(network, dataset.MNIST(sample / "test.tar"))
    assert loss == pytest.approx(history["test_loss"][-1], rel=1e-5)
    assert accuracy == pytest.approx(history["test_accuracy"][-1])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--model", "mlp"], "mlp"),
        (["--model", "mlp", "--seed", "7"], "mlp_seed7"),
        (["--model", "lenet_bn", "--augment", "--seed", "12"], "lenet_bn_augment_seed12"),
        (["--model", "lenet", "--augment", "--seed", "0"], "lenet_augment"),
    ],
)
def test_the_name_of_a_run(small, tmp_path, options, name):
    out, err = train(tmp_path, small, *options, "--epochs", "1")
    assert {path.stem for path in (tmp_path / "results").iterdir()} == {name}
    assert (tmp_path / "checkpoints" / f"{name}.pt").is_file()
    assert history_of(tmp_path, name)["name"] == name
    assert history_of(tmp_path, name)["data"] == small.name
    assert f"{name}: " in out
    assert err == ""


def test_the_sample_in_place_of_mnist_is_said_and_marked(tmp_path, monkeypatch, capsys):
    def no_network(folder):
        raise ConnectionError("no network")

    monkeypatch.setattr(dataset, "download", no_network)
    monkeypatch.chdir(tmp_path)
    main.main(["--model", "mlp", "--epochs", "1", "--device", "cpu"])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert "NOT MNIST" in warnings[0]
    assert "no network" in warnings[0]
    assert "train.tar" in warnings[1]
    assert {path.stem for path in Path("result_plot").iterdir()} == {"mlp-sample"}
    assert Path("checkpoints/mlp-sample.pt").is_file()


def test_a_lopsided_data_set_is_warned_about(sample, tmp_path):
    whole = dataset.MNIST(sample / "train.tar")
    no_seven = whole.labels != 7
    dataset.write_tar(tmp_path / "train.tar", "train", whole.images[no_seven][:60], whole.labels[no_seven][:60])
    dataset.write_tar(tmp_path / "test.tar", "test", whole.images[:90], whole.labels[:90])
    _, err = train(tmp_path, tmp_path, "--model", "mlp", "--epochs", "1")
    missing, swapped = err.splitlines()
    assert "training set" in missing
    assert missing.split()[-1] == "7"
    assert "90" in swapped
    assert "60" in swapped


# --- what it computes -------------------------------------------------------------------------------------------------


def figures(history: dict) -> dict:
    return {metric: history[metric] for metric in RECORDED}


def test_the_same_seed_gives_the_same_history_to_the_last_bit_and_another_does_not(small, tmp_path):
    options = ["--model", "lenet_bn", "--augment", "--epochs", "2", "--batch-size", "32"]
    histories = []
    for i, seed in enumerate(("5", "5", "6")):
        torch.manual_seed(i)  # what ran before must not matter
        train(tmp_path / str(i), small, *options, "--seed", seed)
        histories.append(figures(history_of(tmp_path / str(i), f"lenet_bn_augment_seed{seed}")))
    assert histories[0] == histories[1]
    assert all(histories[0][metric] != histories[2][metric] for metric in ("train_loss", "test_loss"))


@pytest.mark.parametrize("batch_size", [64, 1000])
def test_every_image_is_used_once_an_epoch_the_last_smaller_batch_too(small, tmp_path, monkeypatch, batch_size):
    drawn, sizes = [], []
    original_item, original_loss = dataset.MNIST.__getitem__, F.cross_entropy

    def recorded_item(self, index):
        if self.path.name == "train.tar":
            drawn.extend(torch.as_tensor(index).flatten().tolist())
        return original_item(self, index)

    def recorded_loss(logits, labels, **options):
        if logits.requires_grad:
            sizes.append(len(labels))
        return original_loss(logits, labels, **options)

    monkeypatch.setattr(dataset.MNIST, "__getitem__", recorded_item)
    monkeypatch.setattr(main.F, "cross_entropy", recorded_loss)
    train(tmp_path, small, "--model", "mlp", "--epochs", "2", "--batch-size", str(batch_size))
    assert sizes == ([64, 64, 64, 18] if batch_size == 64 else [210]) * 2
    first, second = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    assert sorted(first) == sorted(second) == list(range(210))
    assert first != second, "each epoch in an order of its own"


def in_order(data: dataset.MNIST, batch_size: int) -> main.Batches:
    """The whole data set in batches, the last one smaller, in order."""
    return main.Batches(data, SequentialSampler(data), batch_size)


@pytest.mark.parametrize("at_once", [1, 150, 1024])
def test_batches_are_the_samplers_however_many_are_made_at_once(small, monkeypatch, at_once):
    monkeypatch.setattr(main, "IMAGES_AT_ONCE", at_once)
    data, order = dataset.MNIST(small / "train.tar"), torch.randperm(210).tolist()
    batches = main.Batches(data, order, 64)
    made = list(batches)
    assert len(batches) == len(made) == 4
    for step, (images, labels) in enumerate(made):
        expected = data[order[64 * step : 64 * (step + 1)]]
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])


def test_training_figures_are_over_samples_not_over_batches(small):
    data, network = dataset.MNIST(small / "train.tar"), MODELS["lenet"]()
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    batches = in_order(data, 100)  # 100, 100, 10
    loss, accuracy = main.train(network, batches, optimizer, [0.0] * 3)
    with torch.no_grad():
        images, labels = data[range(len(data))]
        logits = network(images)
        assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_training_steps_are_those_of_the_mean_loss_of_each_batch(small):
    torch.manual_seed(0)
    data, network, reference = dataset.MNIST(small / "train.tar"), MODELS["mlp"](), MODELS["mlp"]()
    reference.load_state_dict(network.state_dict())
    rates = [0.1, 0.05, 0.02]
    main.train(network, in_order(data, 100), torch.optim.SGD(network.parameters(), 1.0, momentum=0.9), rates)

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
    network.train()(data[range(60)][0])  # so that the running statistics are not their first values
    before = {key: value.clone() for key, value in network.state_dict().items()}
    loss, accuracy = main.test(network, data)
    assert all(network.state_dict()[key].equal(value) for key, value in before.items())
    with torch.no_grad():
        images, labels = data[range(60)]
        logits = network.eval()(images)
        assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_training_is_in_training_mode(small):
    data, network = dataset.MNIST(small / "train.tar"), MODELS["lenet_bn"]().eval()
    before = network.norm1.running_mean.clone()
    main.train(network, in_order(data, 100), torch.optim.SGD(network.parameters(), 0.0), [0.0] * 3)
    assert not network.norm1.running_mean.equal(before)


def test_the_learning_rate_climbs_to_its_peak_and_falls_to_zero():
    moments = np.linspace(0, 50, 1001)
    rates = np.array([main.learning_rate(moment, 50, 0.3) for moment in moments])
    peak = np.flatnonzero(np.isclose(rates, 0.3))
    assert rates.max() == pytest.approx(0.3)
    assert moments[peak[0]] < 25 < moments[peak[-1]] + 25, "it climbs early"
    assert (np.diff(rates[: peak[0] + 1]) > 0).all()
    assert (np.diff(rates[peak[-1] :]) < 0).all()
    assert np.allclose(rates[peak[0] : peak[-1]], 0.3)
    assert rates[-1] == 0


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_even_in_the_shortest_runs_every_step_learns(small, tmp_path, monkeypatch, epochs, steps):
    given, original = [], main.train

    def recorded(model, batches, optimizer, learning_rates, *more):
        given.extend(learning_rates)
        return original(model, batches, optimizer, learning_rates, *more)

    monkeypatch.setattr(main, "train", recorded)
    options = ["--batch-size", str(math.ceil(210 / steps)), "--epochs", str(epochs), "--lr", "0.02"]
    train(tmp_path, small, "--model", "mlp", *options)
    assert len(given) == epochs * steps
    assert all(0 < rate <= 0.02 for rate in given)


@pytest.mark.parametrize("model", MODELS)
def test_each_network_learns(sample, tmp_path, model):
    train(tmp_path, sample, "--model", model, "--epochs", "5", "--lr", "0.05", "--batch-size", "32")
    history = history_of(tmp_path, f"{model}-sample")
    assert history["test_accuracy"][-1] > 0.85, "0.1 is guessing"
    assert history["train_loss"][-1] < history["train_loss"][0] / 2


# --- the command line -------------------------------------------------------------------------------------------------


def test_help_explains_each_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as leave:
        main.main(["--help"])
    assert leave.value.code == 0
    usage, explained = capsys.readouterr().out.split("options:")
    assert "--model {lenet,mlp,lenet_bn}" in usage
    arguments = main.parse_arguments(["--model", "lenet"])
    for option, default in OPTIONS.items():
        entry = re.search(rf"^  {option}\b.+?(?=^  -|\Z)", explained, re.MULTILINE | re.DOTALL)
        assert entry, option
        entry = " ".join(entry[0].split())
        assert len(entry.split()) > 3, "explained"
        if option not in ("--model", "--augment", "--resume", "--restart"):  # needed, or off
            value = default or getattr(arguments, option[2:].replace("-", "_"))
            assert f"default: {value}" in entry


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
        ("--device", "abacus"),
        ("--model", "resnet"),
        ("--colour", "blue"),
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
    assert history_of(tmp_path, f"mlp_seed{seed}")["seed"] == seed


def test_a_last_batch_of_one_is_refused_for_batch_normalization_only(small, tmp_path, capsys):
    places = ["--data-dir", str(small), "--output-dir", str(tmp_path), "--checkpoint-dir", str(tmp_path)]
    error = refused(capsys, "--model", "lenet_bn", "--batch-size", "209", "--device", "cpu", *places)
    assert "--batch-size 209" in error
    assert "210" in error
    train(tmp_path, small, "--model", "lenet", "--batch-size", "209", "--epochs", "1")


def test_a_missing_data_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "--model", "lenet", "--data-dir", "nowhere")
    assert str(Path("nowhere", "train.tar")) in error
    assert "--data-dir" in error
    assert not Path("result_plot").exists() or not any(Path("result_plot").iterdir())


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


def test_bad_data_stop_it_before_anything_is_overwritten(small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tmp_path, small, "--model", "mlp", "--epochs", "1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train.tar").write_bytes((small / "train.tar").read_bytes()[:50_000])
    (broken / "test.tar").write_bytes((small / "test.tar").read_bytes())
    places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    error = refused(capsys, "--model", "mlp", "--epochs", "1", "--data-dir", str(broken), *places)
    assert str(broken / "train.tar") in error
    assert all(path.read_bytes() == content for path, content in before.items())


FAULTS = """
import resource
import torch
import main
main.keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step(): return [torch.ones(2**19) for _ in range(8)]  # 2 MiB each, freed at once
step()
before = faults()
for _ in range(50):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other limits")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    command = [sys.executable, "-c", FAULTS]
    root = Path(main.__file__).parent
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert int(output) < 4096  # pages of one step; given back to the system, each of the 50 would fault them in anew
