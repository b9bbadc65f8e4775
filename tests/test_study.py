"""The study: what its runs measure beside, which of them it still has to train, and that nothing is lost on the way."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import dataset
import main
import study
from support.files import lock
from support.run import checkpoint
from support.run.checkpoint import RunFiles
from support.run.history import METRICS, read_history
from support.study import jobs
from support.terminal import UserError

ROOT = Path(study.__file__).parent
LAYERS = ("c1", "c3", "c5", "f6", "f7")


def study_command(folder, data, *more):
    places = ["--output-dir", str(folder / "results"), "--checkpoint-dir", str(folder / "checkpoints")]
    return [sys.executable, str(ROOT / "study.py"), "--data-dir", str(data), *places, *more]


def call(*command, cwd=None):
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)


def arguments_of(folder, data, *more):
    return study.parse_arguments(study_command(folder, data, *more)[2:])


@pytest.fixture
def one_model(monkeypatch):
    """A study of the smallest network alone."""
    monkeypatch.setattr(study, "CONFIGURATIONS", (("mlp",), ("mlp", "--augment")))


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A folder in which the first run of the MLP, and of the MLP with augmentation, is finished."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "CONFIGURATIONS", (("mlp",), ("mlp", "--augment")))
        assert study.train_study(arguments_of(folder, small, "--seeds", "1", "--epochs", "2")) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """Its files, to be changed."""
    for path in finished.glob("*/*"):
        target = tmp_path / path.relative_to(finished)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def finished_in(arguments, record):
    place = RunFiles(record["name"], Path(arguments.output_dir), Path(arguments.checkpoint_dir))
    return checkpoint.is_finished(place, record)


def is_finished(folder, data):
    """Of both runs, in order."""
    arguments = arguments_of(folder, data, "--seeds", "1", "--epochs", "2")
    return [finished_in(arguments, record) for _, record in study.plan(arguments).values()]


# --- what a run measures ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def histories(small, tmp_path_factory):
    """The same augmented run without and with the study's measurements."""
    found = []
    for callback in (main.Callback(), study.StudyCallback(augment=True)):
        folder = str(tmp_path_factory.mktemp("runs"))
        argv = ["--model", "lenet_bn", "--augment", "--epochs", "2", "--data-dir", str(small), "--threads", "1"]
        main.main([*argv, "--output-dir", folder, "--checkpoint-dir", folder], callback)
        found.append(read_history(next(Path(folder).glob("*.json"))))
    return found


def test_measuring_does_not_change_the_run(histories):
    plain, observed = histories
    assert all(observed[metric] == plain[metric] for metric in METRICS if metric != "seconds")


def test_everything_is_measured_before_the_first_epoch_and_after_each(histories):
    names = [f"{kind}_train_{metric}" for kind in ("clean", "augmented") for metric in ("loss", "accuracy")]
    names += [f"{kind}_norm_{layer}" for kind in ("gradient", "weight") for layer in LAYERS]
    for name in names:
        assert len(histories[1][name]) == 2
        assert all(value > 0 for value in [*histories[1][name], histories[1][f"initial_{name}"]])


def test_the_final_network_is_measured_on_moved_digits(histories):
    moves = [f"shift{pixels}" for pixels in (1, 2, 3, 4)] + [f"turn{degrees}" for degrees in (5, 10, 15, 20, 25)]
    assert all(0 <= histories[1][f"accuracy_{move}"] <= 1 for move in moves)


def test_a_run_without_augmentation_measures_no_augmented_images(small):
    train_set = dataset.MNIST(small / "train.tar")
    network = main.MODELS["mlp"]()
    assert not [name for name in study.observe(network, network, train_set, augment=False) if "augmented" in name]


def test_norms_are_those_of_the_mean_loss_in_training_mode(small):
    """Written out for one layer, with batch normalization by the batch's own statistics."""
    train_set = dataset.MNIST(small / "train.tar")
    torch.manual_seed(0)
    network = main.MODELS["lenet_bn"]().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    norms = study.layer_norms(network, train_set)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    network.train()
    logits = network(train_set[:][0])
    torch.nn.functional.cross_entropy(logits, train_set.labels).backward()
    assert norms["gradient_norm_c3"] == pytest.approx(network.c3.weight.grad.norm().item(), rel=1e-4)
    assert norms["weight_norm_c3"] == pytest.approx(network.c3.weight.norm().item(), rel=1e-4)


def test_the_augmented_images_are_the_same_in_all_runs_and_no_draw_of_the_run(small):
    one, other = (dataset.MNIST(small / "train.tar") for _ in range(2))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = study.first_images(one)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = study.first_images(other)
    assert torch.equal(first[1].images, second[1].images)
    assert torch.equal(first[0].images, one.images)
    assert not torch.equal(first[1].images, one.images)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-2, 0), (0, 4), (0, -1)])
def test_digits_are_shifted_by_whole_pixels(small, right, down):
    test_set = dataset.MNIST(small / "test.tar")
    shifted = study.moved(test_set, 0, right, down).images
    back = torch.roll(shifted, (-down, -right), (1, 2))
    inside = (slice(None), slice(max(0, -down), 28 - max(0, down)), slice(max(0, -right), 28 - max(0, right)))
    assert torch.equal(back[inside], test_set.images[inside])
    assert shifted[:, : max(0, down)].sum() == 0
    assert shifted[:, :, : max(0, right)].sum() == 0


def test_digits_are_turned_counter_clockwise(small):
    test_set = dataset.MNIST(small / "test.tar")
    turned = study.moved(test_set, 90, 0, 0).images
    assert (turned.int() - torch.rot90(test_set.images, 1, (1, 2)).int()).abs().max() <= 1


def test_a_move_is_measured_in_all_directions(small):
    """A network that counts ink in the left column: what it says depends on the way that digits are shifted."""
    test_set = dataset.MNIST(small / "test.tar")
    test_set.images = torch.zeros_like(test_set.images)
    test_set.images[:, 14, 2] = 255
    test_set.labels = torch.ones_like(test_set.labels)

    class LeftInk(torch.nn.Module):
        def forward(self, images):
            ink = (images[:, 0, 2:-2, 2] > 1).any(1).float()  # of the image within its padding
            return torch.stack([0.5 - 0 * ink, ink], 1)

    found = study.measure_moved(LeftInk(), test_set)
    assert [found[f"accuracy_shift{pixels}"] for pixels in (1, 2, 3)] == [0, 0.25, 0]


# --- which runs are left ----------------------------------------------------------------------------------------------


def test_finished_runs_are_not_trained_again(finished, small, capsys, one_model):
    before = {path: path.read_bytes() for path in finished.glob("*/*")}
    assert study.train_study(arguments_of(finished, small, "--seeds", "1", "--epochs", "2")) == 0
    assert capsys.readouterr().out == "2 of 2 runs are finished\n"
    assert {path: path.read_bytes() for path in finished.glob("*/*")} == before


def test_more_seeds_go_on_from_where_the_study_stopped(finished, small, one_model):
    arguments = arguments_of(finished, small, "--seeds", "2", "--epochs", "2")
    plan = study.plan(arguments)
    names = [
        "mlp-small_epochs2",
        "mlp-small_augment_epochs2",
        "mlp-small_epochs2_seed1",
        "mlp-small_augment_epochs2_seed1",
    ]
    assert list(plan) == names
    assert [finished_in(arguments, record) for _, record in plan.values()] == [True, True, False, False]


def test_the_files_of_a_run_keep_no_pictures(finished):
    assert not list((finished / "results").glob("*.png"))
    for path in (finished / "results").glob("*.npz"):
        assert path.stat().st_size < 40 * 60 + 2000  # bytes an image, and what a file takes


def test_a_run_without_its_weights_or_arrays_is_not_finished(copied, small, one_model):
    (copied / "checkpoints" / "mlp-small_epochs2.weights.pt").unlink()
    (copied / "results" / "mlp-small_augment_epochs2.npz").unlink()
    assert is_finished(copied, small) == [False, False]


def test_weights_of_another_training_are_no_weights_of_this_run(copied, small, one_model):
    folder = copied / "checkpoints"
    weights = torch.load(folder / "mlp-small_epochs2.weights.pt", weights_only=True)
    torch.save({**weights, "digest": "0" * 64}, folder / "mlp-small_epochs2.weights.pt")
    assert is_finished(copied, small) == [False, True]


def test_a_run_that_was_killed_before_its_end_is_written_is_resumed(copied, small, one_model):
    """All epochs are in the checkpoint, the result is not yet whole."""
    path = copied / "checkpoints" / "mlp-small_epochs2.pt"
    state = torch.load(path, weights_only=True)
    expected = read_history(copied / "results" / "mlp-small_epochs2.json")
    torch.save({**state, "finished": False}, path)
    (copied / "results" / "mlp-small_epochs2.npz").unlink()
    assert is_finished(copied, small) == [False, True]
    assert study.train_study(arguments_of(copied, small, "--seeds", "1", "--epochs", "2")) == 0
    assert "going on" in (copied / "checkpoints" / "mlp-small_epochs2.log").read_text().split("finished")[-1]
    found = read_history(copied / "results" / "mlp-small_epochs2.json")
    assert all(found[metric] == expected[metric] for metric in METRICS)
    assert is_finished(copied, small) == [True, True]


def test_results_of_another_machine_need_no_weights(copied, small, one_model):
    for path in (copied / "checkpoints").iterdir():
        path.unlink()
    assert is_finished(copied, small) == [True, True]


def test_a_result_of_another_recipe_is_named_before_anything_is_trained(copied, small, one_model):
    for name in ("mlp-small_epochs2", "mlp-small_augment_epochs2"):
        path = copied / "results" / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "momentum": 0.5}))
    with pytest.raises(UserError) as error:
        study.train_study(arguments_of(copied, small, "--seeds", "1", "--epochs", "2"))
    lines = str(error.value).splitlines()
    assert len(lines) == 3  # one a run, and what to do
    assert all("momentum 0.5 there, 0.9 here" in line for line in lines[:2])


# --- what lies in the way ---------------------------------------------------------------------------------------------


def damage_json(folder):
    (folder / "results" / "mlp-small_epochs2.json").write_text("[" * 100_000)


def damage_checkpoint(folder):
    (folder / "checkpoints" / "mlp-small_epochs2.pt").write_bytes(b"damaged")


def damage_arrays(folder):
    (folder / "results" / "mlp-small_epochs2.npz").write_bytes(b"damaged")


def json_is_a_folder(folder):
    (folder / "results" / "mlp-small_epochs2.json").unlink()
    (folder / "results" / "mlp-small_epochs2.json").mkdir()


def weights_are_a_fifo(folder):
    (folder / "checkpoints" / "mlp-small_epochs2.weights.pt").unlink()
    os.mkfifo(folder / "checkpoints" / "mlp-small_epochs2.weights.pt")


@pytest.mark.parametrize(
    "damage", [damage_json, damage_checkpoint, damage_arrays, json_is_a_folder, weights_are_a_fifo]
)
def test_what_cannot_be_read_is_one_line(copied, small, one_model, damage):
    damage(copied)
    with pytest.raises(UserError) as error:
        study.train_study(arguments_of(copied, small, "--seeds", "1", "--epochs", "2"))
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "mlp-small_epochs2" in lines[0]


def test_a_folder_that_is_a_file_is_one_line(tmp_path, small):
    (tmp_path / "results").write_text("")
    result = call(*study_command(tmp_path, small))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "results: cannot be written" in result.stderr


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_log_that_is_no_file_costs_its_run_only(tmp_path, make):
    make(tmp_path / "a.log")
    command = [sys.executable, "-c", ""]
    ended = {one.name: one for one in jobs.run_jobs([jobs.Job(n, command, tmp_path / f"{n}.log") for n in "ab"], 1)}
    assert ended["a"].status == 2
    assert "cannot be written" in ended["a"].reason
    assert "\n" not in ended["a"].reason
    assert ended["b"].status == 0


def test_a_run_that_fails_says_why_in_a_line(copied, small, one_model, monkeypatch, capsys):
    (copied / "results" / "mlp-small_epochs2.json").unlink()
    program = copied / "fails.py"
    program.write_text("import sys; print('error: the reason', file=sys.stderr); sys.exit(2)")
    monkeypatch.setattr(study, "__file__", str(program))
    assert study.train_study(arguments_of(copied, small, "--seeds", "1", "--epochs", "2")) == 1
    assert "mlp-small_epochs2: status 2: error: the reason\n" in capsys.readouterr().out


# --- signals and machines ---------------------------------------------------------------------------------------------


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_free(path):
    """Whether no run holds that checkpoint."""
    return not list(path.parent.glob(f".{path.name}.lock"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_the_study_ends_its_runs_end_and_the_same_command_goes_on(sample, tmp_path, number):
    command = study_command(tmp_path, sample, "--seeds", "1", "--epochs", "500", "--jobs", "1")
    checkpoint = tmp_path / "checkpoints" / "lenet-sample_epochs500.pt"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(checkpoint.exists, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert output.endswith("stopped; the same command goes on\n")
        assert is_free(checkpoint)  # it waited for its runs
    deadline = time.monotonic() + 120
    while not is_free(checkpoint):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert f"epochs are saved in {checkpoint}" in checkpoint.with_suffix(".log").read_text()

    done = len(torch.load(checkpoint, weights_only=True)["history"]["train_loss"])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    before = checkpoint.stat().st_mtime_ns
    wait_for(lambda: checkpoint.stat().st_mtime_ns > before, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    history = torch.load(checkpoint, weights_only=True)["history"]
    assert len(history["train_loss"]) > done
    assert len(history["gradient_norm_c1"]) == len(history["train_loss"])


def test_a_run_waits_for_one_of_its_name_that_is_still_stopping(small, tmp_path):
    """As a killed study's runs do while the same command is typed again; one that stays is named in the end."""
    argv = ["--model", "mlp", "--epochs", "1", "--data-dir", str(small), "--name", "run", "--threads", "1"]
    argv += ["--output-dir", str(tmp_path), "--checkpoint-dir", str(tmp_path)]
    with ExitStack() as holder:
        holder.enter_context(lock(tmp_path / ".run.pt.lock"))
        timer = threading.Timer(1, holder.close)
        timer.start()
        study.train_run(argv)
        timer.join()
    assert (tmp_path / "run.json").exists()


def test_a_run_waits_no_longer_than_it_says(small, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PATIENCE", 0.3)
    argv = ["--model", "mlp", "--epochs", "1", "--data-dir", str(small), "--name", "run"]
    argv += ["--output-dir", str(tmp_path), "--checkpoint-dir", str(tmp_path)]
    with (
        lock(tmp_path / ".run.json.lock"),
        pytest.raises(UserError, match=r"run\.json: another process is training run"),
    ):
        study.train_run(argv)


def test_the_printed_lines_train_their_runs(small, tmp_path):
    result = call(*study_command(tmp_path, small, "--seeds", "2", "--epochs", "1", "--list"), cwd=tmp_path)
    lines = result.stdout.splitlines()
    assert len(lines) == 12
    assert len(set(lines)) == 12
    for line in (lines[5], lines[10]):  # the MLP: augmented with seed 0, plain with seed 1
        program, *arguments = shlex.split(line)
        assert program == "python"
        assert "last epoch" in call(sys.executable, *arguments, cwd=tmp_path).stdout
    # a line that is run twice, as a queue may, trains once
    assert call(sys.executable, *arguments, cwd=tmp_path).stdout.endswith("_seed1 is finished\n")
    names = sorted(path.stem for path in (tmp_path / "results").glob("*.json"))
    assert names == ["mlp-small_augment_epochs1", "mlp-small_epochs1_seed1"]
    assert read_history(tmp_path / "results" / f"{names[1]}.json")["threads"] == [1]
