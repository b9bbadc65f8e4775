"""The study: what it measures beside, and which of its runs it still has to train."""

import json
from pathlib import Path

import pytest

import main
import study

ARGV = ["--model", "lenet_bn", "--augment", "--epochs", "2"]


@pytest.fixture(scope="module")
def runs(sample, tmp_path_factory):
    """Histories of the same run, without and with the study's measurements."""
    histories = []
    for observe in (None, study.observe):
        folder = str(tmp_path_factory.mktemp("runs"))
        main.main([*ARGV, "--data-dir", str(sample), "--output-dir", folder, "--checkpoint-dir", folder], observe)
        histories.append(json.loads(Path(folder, "lenet_bn_augment-sample.json").read_text()))
    return histories


def test_measuring_does_not_change_the_run(runs):
    without, observed = runs
    assert all(observed[metric] == without[metric] for metric in main.METRICS if metric != "seconds")


def test_what_is_measured(runs):
    layers = [f"gradient_norm_{layer}" for layer in ("c1", "c3", "c5", "f6", "f7")]
    for metric in ("clean_train_loss", "clean_train_accuracy", *layers):
        assert len(runs[1][metric]) == 2
        assert all(value > 0 for value in runs[1][metric])
    assert max(runs[1]["clean_train_accuracy"]) <= 1


def test_a_run_of_the_study_is_trained_once(sample, tmp_path):
    parsed = study.parse_arguments(
        ["--epochs", "1", "--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    )
    argv = study.run_arguments(("mlp", "--augment"), 3, parsed)
    assert argv[:5] == ["--model", "mlp", "--augment", "--seed", "3"]
    assert not study.is_finished(argv)

    history = {"epochs": 1, **main.recipe(main.parse_arguments(argv))}
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / "mlp_augment_seed3.json"
    path.write_text(json.dumps(history))
    assert study.is_finished(argv)

    path.write_text(json.dumps({**history, "lr": 9.0}))
    with pytest.raises(main.UserError, match=r"lr 9\.0 there"):
        study.is_finished(argv)
    path.write_text("{")
    with pytest.raises(main.UserError, match="damaged"):
        study.is_finished(argv)


def test_a_run_in_a_process_of_its_own(sample, tmp_path, capsys):
    places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    parsed = study.parse_arguments(["--epochs", "1", "--data-dir", str(sample), *places])
    name, status = study.train_run(study.run_arguments(("mlp",), 1, parsed))
    assert (name, status) == ("mlp_seed1", 0)
    assert "finished" in capsys.readouterr().out
    assert "clean_train_loss" in json.loads((tmp_path / "results" / "mlp_seed1-sample.json").read_text())


def test_a_damaged_checkpoint_is_named(sample, tmp_path, capsys):
    places = ["--output-dir", str(tmp_path / "results"), "--checkpoint-dir", str(tmp_path)]
    argv = study.run_arguments(("mlp",), 1, study.parse_arguments(["--data-dir", str(sample), *places]))
    (tmp_path / "mlp_seed1.pt").write_bytes(b"damaged")
    assert study.train_run(argv) == ("mlp_seed1", 2)
    assert "is damaged" in capsys.readouterr().out
