"""The study: what its runs measure besides, that they are main.py's own runs, and that none outlives the study."""

import os
import shlex
import signal
import sys
import time

import pytest
import torch

import main
import study
from support.run import read_run
from support.study import jobs


def run_study(monkeypatch, *argv):
    """The command in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["study.py", *argv])
    return study.command()


def test_a_run_of_the_study_is_main_pys_own_and_measures_at_its_start_each_epoch_and_its_end(small, tmp_path):
    def train(folder, callback):
        told = {"data_dir": small, "output_dir": folder, "checkpoint_dir": folder, "threads": 1}
        return main.run(main.Settings("lenet_bn", augment=True, epochs=2, **told), callback)

    plain, observed = train(tmp_path / "a", main.Callback()), train(tmp_path / "b", study.StudyCallback(augment=True))
    assert all(observed[metric] == plain[metric] for metric in plain if metric not in ("seconds", "digest"))
    each = [f"{kind}_train_{metric}" for kind in ("clean", "augmented") for metric in ("loss", "accuracy")]
    each += [f"{kind}_norm_{layer}" for kind in ("gradient", "weight") for layer in ("c1", "c3", "c5", "f6", "f7")]
    for name in each:
        assert len(observed[name]) == 2
        assert all(value > 0 for value in [*observed[name], observed[f"initial_{name}"]])
    moves = [f"shift{pixels}" for pixels in (1, 2, 3, 4)] + [f"turn{degrees}" for degrees in (5, 10, 15, 20, 25)]
    assert all(0 <= observed[f"accuracy_{move}"] <= 1 for move in moves)


def test_norms_are_those_of_the_mean_loss_in_training_mode(train_set):
    """Written out for one layer, with batch normalization by the batch's own statistics."""
    torch.manual_seed(0)
    network = main.MODELS["lenet_bn"]().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measured = study.StudyCallback(augment=False).on_epoch_end(network, network, train_set)
    assert not [name for name in measured if "augmented" in name]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    first = range(1000)
    torch.nn.functional.cross_entropy(network.train()(train_set[first][0]), train_set.labels[:1000]).backward()
    assert measured["gradient_norm_c3"] == pytest.approx(network.c3.weight.grad.norm().item(), rel=1e-4)
    assert measured["weight_norm_c3"] == pytest.approx(network.c3.weight.norm().item(), rel=1e-4)


def test_digits_are_shifted_by_whole_pixels_and_turned_counter_clockwise(test_set):
    padded = torch.nn.functional.pad(test_set.images, (4, 4, 4, 4))
    for right, down in ((3, 0), (-2, 4)):
        expected = torch.roll(padded, (down, right), (1, 2))[:, 4:-4, 4:-4]
        assert torch.equal(study.moved(test_set, 0, right, down).images, expected)
    turned = study.moved(test_set, 90, 0, 0).images
    assert (turned.int() - torch.rot90(test_set.images, 1, (1, 2)).int()).abs().max() <= 1


def test_a_move_is_measured_in_all_directions(test_set):
    """A network that sees ink in the left column: of digits two pixels from it only those shifted left by two."""
    test_set.images = torch.zeros_like(test_set.images)
    test_set.images[:, 14, 2] = 255
    test_set.labels = torch.ones_like(test_set.labels)

    class LeftInk(torch.nn.Module):
        def forward(self, images):
            ink = (images[:, 0, 2:-2, 2] > 1).any(1).float()  # of the image within its padding
            return torch.stack([0.5 - 0 * ink, ink], 1)

    found = study.StudyCallback(augment=False).on_train_end(LeftInk(), test_set)
    assert [found[f"accuracy_shift{pixels}"] for pixels in (1, 2, 3)] == [0, 0.25, 0]


def test_the_lines_train_their_runs_and_what_is_finished_is_not_trained_again(small, tmp_path, monkeypatch, capsys):
    folders = f"--data-dir {small} --output-dir {tmp_path}/out --checkpoint-dir {tmp_path}/checkpoints".split()
    assert run_study(monkeypatch, "--list", "--epochs", "1", "--seeds", "2", *folders) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(set(lines)) == 12
    program, name, *argv = shlex.split(next(line for line in lines if "mlp --seed 1 --augment" in line))
    assert (program, name) == ("python", "study.py")
    assert not run_study(monkeypatch, *argv)
    (path,) = tmp_path.glob("out/*.json")
    history, before = read_run(path).history, path.read_bytes()
    assert (history["model"], history["augment"], history["seed"], history["threads"]) == ("mlp", True, 1, [1])
    assert not list(tmp_path.glob("out/*.png"))  # nobody would look at them
    capsys.readouterr()
    assert not run_study(monkeypatch, *argv)
    assert "is finished" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_a_run_that_fails_says_why_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    program = tmp_path / "program.py"
    program.write_text("import sys; sys.exit('error: why' if '--augment' in sys.argv else 3 * ('lenet' in sys.argv))")
    monkeypatch.setattr(study, "__file__", str(program))
    monkeypatch.setattr(study, "CONFIGURATIONS", (("mlp", False), ("mlp", True), ("lenet", False)))
    assert run_study(monkeypatch, "--seeds", "1", "--jobs", "2", "--checkpoint-dir", str(tmp_path)) == 1
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines[0].startswith("2 of 3 runs are not finished: ")
    silent = f"lenet_seed0: status 3: see {tmp_path}/lenet_seed0.log"
    assert lines[1:] == [silent, "mlp_augment_seed0: status 1: error: why", "mlp_seed0: finished"]


WAITING = f"""
import runpy, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted"))
runpy.run_path({jobs.__file__!r})["end_with_parent"]()
print("started", flush=True)
time.sleep(60)
"""


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_command_outlives_the_one_that_started_it(tmp_path, number):
    """Two run when it ends, the third must not begin."""
    logs = [tmp_path / f"{name}.log" for name in "abc"]
    child = os.fork()
    if not child:
        try:
            jobs.run_jobs({log: [sys.executable, "-c", WAITING] for log in logs}, 2)
        finally:
            os._exit(1)
    wait_for(lambda: all(log.exists() and "started" in log.read_text() for log in logs[:2]))
    os.kill(child, number)
    os.waitpid(child, 0)
    wait_for(lambda: all("interrupted" in log.read_text() for log in logs[:2]))
    assert not logs[2].exists()
