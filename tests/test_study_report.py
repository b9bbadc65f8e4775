"""The study's numbers against runs made by hand, the figures drawn from them, and every number of the page about it."""

import re
from pathlib import Path

import numpy as np
import pytest
from documents import LECUN, check_numbers, parse
from test_axes import assert_clean

import dataset
import main
import study
from support.files import replace
from support.run.history import with_digest, write_arrays, write_history
from support.study import differences, document, drawings, figures, read_study, results, statistics, tables
from support.study.results import AUGMENTED, BOTH, CONFIGURATIONS, NORMALIZED, PLAIN
from support.terminal import UserError

FOLDER = Path(study.__file__).parent / "result_plot"
IMAGES, EPOCHS = 1000, 4
LAYERS = ("c1", "c3", "f7")
ACCURACIES = dict(zip(CONFIGURATIONS, (0.90, 0.94, 0.90, 0.94, 0.80, 0.85), strict=True))  # of the last epoch


def make_run(key, seed, accuracy, **changes):
    """History and arrays of a run whose last test accuracy is that, to an image."""
    model, augment = key
    wrong = round((1 - accuracy) * IMAGES)
    told = {"model": model, "augment": augment, "seed": seed, "epochs": EPOCHS, "batch_size": 128, "lr": 0.05}
    told |= {"weight_decay": 5e-4, "validation": 0, "classes": 10, "momentum": 0.9, "parameters": 61_706}
    told |= {"data": "MNIST", "train_images": 6000, "test_images": IMAGES, "train_sha256": "7a", "test_sha256": "c3"}
    history = {"name": f"{model}{'_augment' * augment}_seed{seed}", "device": "cpu", **told}
    history |= {"rotation": 20, "augmented_train_accuracy": [0.8, 0.82, 0.84, 0.96]} if augment else {}
    history |= {"clean_train_accuracy": [0.9, 0.92, 0.94, 0.97], "train_accuracy": [0.5, 0.6, 0.7, 0.95]}
    history |= {"train_loss": [0.4, 0.3, 0.35, 0.1], "test_loss": [4 * wrong / IMAGES] * 3 + [wrong / IMAGES]}
    history |= {"test_accuracy": [1 - (EPOCHS - epoch) * wrong / IMAGES for epoch in range(EPOCHS)]}
    history |= dict.fromkeys(("seconds", "learning_rate", "threads", "processes"), [1] * EPOCHS)
    scale = 4.0 if model == "lenet_bn" else 1.0
    for layer in LAYERS:
        history |= {f"initial_gradient_norm_{layer}": scale * (1 + 0.01 * seed), f"initial_weight_norm_{layer}": 2.0}
        history |= {f"gradient_norm_{layer}": [(1 + 0.01 * seed) / scale] * EPOCHS}
        history |= {f"weight_norm_{layer}": [3.0] * EPOCHS}
    history |= {f"accuracy_{move}": accuracy - 0.01 * number for number, move in enumerate(results.MOVES)}
    history = with_digest(history | changes)
    labels = (np.arange(IMAGES) % 10).astype(np.uint8)
    predictions = np.where(np.arange(IMAGES) < wrong, (labels + 1) % 10, labels).astype(np.uint8)
    log_probability = np.where(predictions == labels, 0, -1).astype(np.float16)
    arrays = {"labels": labels, "predictions": predictions, "confidence": np.ones(IMAGES, np.float32)}
    return history, arrays | {"log_probability": log_probability}


def write(folder, history, arrays):
    folder.mkdir(exist_ok=True)
    replace(folder / f"{history['name']}.json", lambda file: write_history(history, file))
    replace(folder / f"{history['name']}.npz", lambda file: write_arrays(arrays, history, file))


def write_study(folder, seeds=(0, 1, 2)):
    for key, accuracy in ACCURACIES.items():
        for seed in seeds:
            write(folder, *make_run(key, seed, accuracy + 0.001 * ((seed + len(key[0]) + key[1]) % 3)))
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics.bootstrap_means, "__defaults__", (200,))
        yield


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    return read_study(write_study(tmp_path_factory.mktemp("result_plot") / "study"))


@pytest.fixture(scope="module")
def drawn(groups):
    return drawings(groups, differences(groups))


def test_a_difference_is_the_mean_of_its_pairs(groups):
    found = {(one.name, one.metric): one for one in differences(groups)}
    assert len(found) == 16
    plain, both = (results.last(groups[key], "accuracy") for key in (PLAIN, BOTH))
    assert found["both", "accuracy"].paired.value == pytest.approx((both - plain).mean())
    augmented, normalized = (results.last(groups[key], "loss") for key in (AUGMENTED, NORMALIZED))
    interaction = results.last(groups[BOTH], "loss") - augmented - normalized + results.last(groups[PLAIN], "loss")
    assert found["interaction", "loss"].paired.value == pytest.approx(interaction.mean(), abs=1e-12)
    for one in found.values():
        assert one.resampled[0] <= one.paired.value <= one.resampled[1]
    p_values = [one.paired.p for one in found.values()]
    assert [one.holm for one in found.values()] == pytest.approx(statistics.holm(p_values))


def test_only_seeds_that_all_configurations_have_are_compared(tmp_path):
    write_study(tmp_path, seeds=(1, 3))
    write(tmp_path, *make_run(PLAIN, 0, 0.5))
    assert {run.history["seed"] for group in read_study(tmp_path).values() for run in group} == {1, 3}


def test_the_steps_from_train_to_test_accuracy_add_up(groups):
    for key, group in groups.items():
        parts = results.decomposition(group)
        assert np.allclose(parts["gap"], parts["weights"] + parts["augmentation"] + parts["digits"])
        assert np.allclose(parts["weights"][:, 0], 0.8 - 0.5 if key[1] else 0.9 - 0.5)
        assert np.allclose(parts["augmentation"][:, 0], 0.9 - 0.8 if key[1] else 0)


def test_gradients_are_compared_before_the_first_epoch_and_after_each(groups):
    ratios = results.gradient_ratio(groups, "c3")
    assert np.allclose(ratios, [4, 1 / 4, 1 / 4, 1 / 4, 1 / 4])
    assert np.allclose(results.gradients(groups[PLAIN], "c3")[:, 0], 2.0 * np.array([1, 1.01, 1.02]))  # |g| 1, |W| 2
    assert np.allclose(results.first_to_last(groups[PLAIN]), 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.1}, "lr is 0.1, but 0.05 in lenet_seed0.json"),
        ({"rotation": 45}, "rotation is 45, but 20"),
        ({"test_sha256": "d4"}, "test_sha256 is d4, but c3"),
    ],
)
def test_a_run_that_is_not_of_the_study_is_named(tmp_path, changes, said):
    write(tmp_path, *make_run(PLAIN, 0, 0.9))
    write(tmp_path, *make_run(AUGMENTED, 0, 0.9))
    write(tmp_path, *make_run(AUGMENTED, 1, 0.9, **changes))
    with pytest.raises(UserError, match=rf"\.json: {re.escape(said)}.*\nmove away what is not of this study"):
        read_study(tmp_path)


def test_a_run_of_main_py_and_one_that_is_there_twice_are_named(tmp_path):
    history, arrays = make_run(PLAIN, 0, 0.9)
    write(tmp_path, {**history, "name": "again"}, arrays)
    write(tmp_path, history, arrays)
    with pytest.raises(UserError, match=r"lenet_seed0\.json: its configuration and seed are there twice"):
        read_study(tmp_path)
    write(tmp_path, {name: value for name, value in history.items() if name != "clean_train_accuracy"}, arrays)
    with pytest.raises(UserError, match=r"lenet_seed0\.json: .* study\.py did not train it from its first epoch"):
        read_study(tmp_path)


def test_too_few_seeds_say_how_to_train_more(tmp_path):
    with pytest.raises(UserError, match=r"found 0 runs, with 0 seeds .* python study\.py"):
        read_study(tmp_path)
    with pytest.raises(UserError, match="found 6 runs, with 1 seeds"):
        read_study(write_study(tmp_path, seeds=(0,)))


def test_no_rounding_hides_on_which_side_a_bound_lies():
    assert [tables.rounded(value, 2) for value in (-0.001, 0.00004, -0.016)] == ["-0.001", "+0.00004", "-0.02"]
    assert [tables.rounded(value, 2) for value in (0.0, -1e-17)] == ["+0.00", "+0.00"]
    assert [tables.rounded(value, 2, "-", 1) for value in (0.9999, 1.004, 1.0)] == ["0.9999", "1.004", "1.00"]


@pytest.mark.slow
def test_the_committed_tables_are_those_of_the_committed_runs(monkeypatch):
    monkeypatch.setattr(statistics.bootstrap_means, "__defaults__", (statistics.RESAMPLES,))
    groups = read_study(FOLDER / "study")
    assert document(groups, differences(groups)) == (FOLDER / "tables.md").read_text()


def test_the_tables_hold_what_was_measured(groups):
    found = parse(document(groups, differences(groups)))
    values = 100 * results.last(groups[PLAIN], "accuracy")
    assert found["Accuracy and loss"]["LeNet-5"]["accuracy, %"] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
    assert found["Test above train"]["LeNet-5"]["train loss falls"] == "2 of 3"
    assert found["Test above train"]["LeNet-5"]["last, as it runs"] == "0 of 3"
    assert found["Gradients with batch normalization"]["F7, 4"]["‖g‖·‖W‖"] == "0.25 [0.25, 0.25]"


def test_every_number_of_the_page_is_the_one_of_its_row_and_column():
    constants = f"{study.SEEDS} seeds|{main.Settings.epochs} epochs|±{100 * results.MARGIN:g} points|"
    constants += f"p < {statistics.ALPHA:g}|{28 * dataset.TRANSLATION:g} pixels|{dataset.ROTATION} degrees|"
    constants += f"about {100 * (1 - np.sqrt(1 - 1 / study.SEEDS)):.0f} % of the seeds' part"
    known = parse((FOLDER / "tables.md").read_text()) | LECUN
    assert check_numbers((FOLDER / "README.md").read_text(), known, constants) > 90


def test_the_page_is_short_and_shows_every_figure_of_the_study(drawn):
    text = (FOLDER / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    shown = set(re.findall(r"!\[[^]]+\]\((\w+\.png)\)", text))
    assert drawn.keys() <= shown
    assert [name for name in shown if not (FOLDER / name).exists()] == []


def test_no_text_of_a_figure_lies_on_another(drawn):
    for figure in drawn.values():
        assert_clean(figure)


def test_the_forest_shows_the_interval_and_each_seed_of_each_difference(groups, drawn):
    found, axes = differences(groups), drawn["differences.png"].axes[0]
    segments = [segment for bars in axes.containers[1::2] for segment in bars[2][0].get_segments() if len(segment)]
    assert len([one for one in found if one.metric == "accuracy" and "MLP" not in one.name]) == 6
    for one in found[:6]:
        ends = [100 * one.paired.low, 100 * one.paired.high]
        assert any(sorted(segment[:, 0]) == pytest.approx(ends) for segment in segments)
        assert any(
            line.get_xdata() == pytest.approx(100 * one.values) for line in axes.lines if len(line.get_xdata()) == 3
        )


def test_a_title_says_larger_or_smaller_only_where_all_are():
    assert figures.times([15.1, 20.4]) == "15 to 20 times larger"
    assert figures.times([0.49, 0.23]) == "2 to 4 times smaller"
    assert figures.times([0.6, 1.3]) == "0.6 to 1.3 times as large"
