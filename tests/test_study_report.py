"""The study's report: its numbers against runs made by hand, its sentences against what the numbers carry."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_axes import assert_clean

from support.run.history import with_digest, write_arrays, write_history
from support.study import figures, report, results
from support.study.results import AUGMENTED, BOTH, MLP, NORMALIZED, PLAIN
from support.study.statistics import Estimate
from support.terminal import UserError

ROOT = Path(__file__).resolve().parent.parent
IMAGES, EPOCHS = 1000, 4
LAYERS = ("c1", "c3", "c5", "f6", "f7")
ACCURACIES = {  # of the last epoch, of seed 0; each seed adds its own noise
    ("lenet", False): 0.90,
    ("lenet", True): 0.94,
    ("lenet_bn", False): 0.90,
    ("lenet_bn", True): 0.94,
    ("mlp", False): 0.80,
    ("mlp", True): 0.85,
}


def make_run(key, seed, accuracy, **changes):
    """History and arrays of a run whose last test accuracy is that, to an image."""
    model, augment = key
    wrong = round((1 - accuracy) * IMAGES)
    rise = [1 - (1 + EPOCHS - epoch) * wrong / IMAGES for epoch in range(1, EPOCHS + 1)]
    history = {
        "name": f"{model}{'_augment' * augment}_seed{seed}",
        **{"model": model, "data": "MNIST", "augment": augment, "epochs": EPOCHS, "batch_size": 128, "lr": 0.05},
        **{"weight_decay": 5e-4, "classes": 10, "seed": seed, "momentum": 0.9, "warmup_steps": 150, "decay": 0.2},
        **({"rotation": 20, "translation": 0.1} if augment else {}),
        **{
            "parameters": 61_706,
            "train_images": 6000,
            "test_images": IMAGES,
            "train_sha256": "7a",
            "test_sha256": "c3",
        },
        **{"device": "cpu", "torch_version": "2.14.1"},
        "train_loss": [0.4, 0.3, 0.2, 0.1],
        "train_accuracy": [0.5, 0.6, 0.7, 0.95],
        "test_loss": [4 * wrong / IMAGES] * (EPOCHS - 1) + [wrong / IMAGES],
        "test_accuracy": rise,
        **{"seconds": [1.0] * EPOCHS, "learning_rate": [0.05] * EPOCHS},
        **{"threads": [1] * EPOCHS, "processes": [1] * EPOCHS},
        "clean_train_accuracy": [0.9, 0.92, 0.94, 0.97],
        **({"augmented_train_accuracy": [0.8, 0.82, 0.84, 0.96]} if augment else {}),
    }
    scale = 4.0 if model == "lenet_bn" else 1.0
    for layer in LAYERS if model != "mlp" else ():
        history |= {f"initial_gradient_norm_{layer}": scale * (1 + 0.01 * seed), f"initial_weight_norm_{layer}": 2.0}
        history |= {f"gradient_norm_{layer}": [1 / scale * (1 + 0.01 * seed)] * EPOCHS}
        history |= {f"weight_norm_{layer}": [3.0] * EPOCHS}
    for place, move in enumerate(results.MOVES):
        history[f"accuracy_{move}"] = accuracy - 0.01 * (place + 1) * (3 if model == "mlp" else 1)
    history = with_digest({**history, **changes})
    labels = (np.arange(IMAGES) % 10).astype(np.uint8)
    predictions = labels.copy()
    predictions[:wrong] = (labels[:wrong] + 1) % 10
    loss = np.where(predictions == labels, 0, 1).astype(np.float16)
    arrays = {"labels": labels, "predictions": predictions, "confidence": np.ones(IMAGES, np.float32)}
    return history, arrays | {"log_probability": -loss}


def write(folder, history, arrays):
    folder.mkdir(exist_ok=True)
    with open(folder / f"{history['name']}.json", "wb") as file:
        write_history(history, file)
    if arrays:
        with open(folder / f"{history['name']}.npz", "wb") as file:
            write_arrays(arrays, history, file)


def write_study(folder, accuracies=ACCURACIES, seeds=3, arrays=True):
    for key, accuracy in accuracies.items():
        for seed in range(seeds):
            noise = 0.001 * ((seed + sum(map(ord, key[0])) + key[1]) % 3)
            history, whole = make_run(key, seed, accuracy + noise)
            write(folder, history, whole if arrays else {})
    return folder


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    return results.read_study(write_study(tmp_path_factory.mktemp("result_plot") / "study"))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """These tests are not about them."""
    real = results.statistics.bootstrap_means
    monkeypatch.setattr(results.statistics, "bootstrap_means", lambda figures: real(figures, 200))


# --- the numbers ------------------------------------------------------------------------------------------------------


def test_a_difference_is_the_mean_of_its_pairs(groups):
    found = {(one.comparison.name, one.metric): one for one in results.differences(groups)}
    assert len(found) == 16
    plain, both = (results.last(groups[key], "accuracy") for key in (PLAIN, BOTH))
    assert found["both - plain", "accuracy"].paired.value == pytest.approx((both - plain).mean())
    augmented, normalized = (results.last(groups[key], "loss") for key in (AUGMENTED, NORMALIZED))
    interaction = results.last(groups[BOTH], "loss") - augmented - normalized + results.last(groups[PLAIN], "loss")
    assert found["interaction", "loss"].paired.value == pytest.approx(interaction.mean(), abs=1e-12)
    assert found["both - plain", "accuracy"].welch.value == pytest.approx((both - plain).mean())


def test_the_bootstrap_of_images_gives_an_interval_around_the_difference(groups):
    for one in results.differences(groups):
        assert one.images[0] <= one.paired.value <= one.images[1]


def test_pairs_have_one_seed(tmp_path):
    """Seed 0 is there once only; 1 and 2 are 0.02 and 0.04 better."""
    for key, seeds in ((PLAIN, (0, 1, 2)), (NORMALIZED, (1, 2, 3))):
        for seed in seeds:
            write(tmp_path, *make_run(key, seed, 0.9 + (0.02 * seed if key == NORMALIZED else 0)))
    found = next(one for one in results.differences(results.read_study(tmp_path)) if one.metric == "accuracy")
    assert found.seeds == 2
    assert found.paired.value == pytest.approx(0.03)
    assert found.welch.value == pytest.approx(0.04)  # of all seeds


def test_p_values_are_adjusted_over_the_whole_family(groups):
    found = results.differences(groups)
    assert [one.holm for one in found] == pytest.approx(results.statistics.holm([one.paired.p for one in found]))


def test_epochs_to_a_level_count_from_1_and_may_be_none(groups):
    run = groups[PLAIN][0]
    history = {**run.history, "test_accuracy": [0.5, 0.99, 0.98, 0.995]}
    assert results.epochs_to([run._replace(history=history)], 0.99) == [2]
    assert results.epochs_to([run._replace(history=history)], 0.999) == [np.inf]
    assert report.reached(np.array([2, np.inf])) == "1 of 2 runs"
    assert report.reached(np.array([2.0, 4.0])) == "3.0 ± 1.4"


def test_the_steps_from_train_to_test_accuracy_add_up(groups):
    for key, group in results.decomposed(groups).items():
        parts = results.decomposition(group)
        assert np.allclose(parts["total"], parts["weights"] + parts["images"] + parts["digits"])
        assert np.allclose(parts["weights"][:, 0], 0.8 - 0.5 if key[1] else 0.9 - 0.5)
        assert np.allclose(parts["images"][:, 0], 0.9 - 0.8 if key[1] else 0)


def test_the_ratio_of_gradients_is_that_of_batch_normalization_to_without(groups):
    before, after = (
        [results.scaled_gradients(groups[key], "c3")[:, epoch] for key in (PLAIN, NORMALIZED)] for epoch in (0, -1)
    )
    assert results.ratio(before[1], before[0]).value == pytest.approx(4)
    assert results.ratio(after[1], after[0]).value == pytest.approx(1 / 4)
    assert np.allclose(before[0], 2.0 * np.array([1, 1.01, 1.02]))  # |g| of 1 times |W| of 2


def test_confusions_are_counted_by_label_and_prediction(groups):
    counts = results.confusions(groups[PLAIN])
    wrong = np.mean([round(1000 * (1 - run.history["test_accuracy"][-1])) for run in groups[PLAIN]])
    assert counts.sum() == pytest.approx(wrong)
    assert counts[3, 4] > 0
    assert counts[4, 3] == counts[3, 3] == 0


# --- one study --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"lr": 0.1}, "lr"), ({"test_sha256": "d4"}, "test_sha256"), ({"momentum": 0.5}, "momentum"), ({"new": 1}, "new")],
)
def test_runs_of_another_recipe_are_refused(tmp_path, changes, said):
    write(tmp_path, *make_run(PLAIN, 0, 0.9, **({"new": 2} if "new" in changes else {})))
    write(tmp_path, *make_run(NORMALIZED, 0, 0.9, **changes))
    with pytest.raises(UserError, match=f"{said} is .*, but .* in .*; a study has one recipe"):
        results.read_study(tmp_path)


def test_another_augmentation_is_another_recipe_but_none_is_not(tmp_path):
    write(tmp_path, *make_run(PLAIN, 0, 0.9))
    write(tmp_path, *make_run(AUGMENTED, 0, 0.9))
    assert set(results.read_study(tmp_path)) == {PLAIN, AUGMENTED}
    write(tmp_path, *make_run(BOTH, 0, 0.9, rotation=45))
    with pytest.raises(UserError, match="rotation is 45"):
        results.read_study(tmp_path)


def test_a_seed_that_is_there_twice_is_refused(tmp_path):
    write(tmp_path, *make_run(PLAIN, 0, 0.9))
    write(tmp_path, *make_run(PLAIN, 0, 0.9, name="lenet_again"))
    with pytest.raises(UserError, match="twice"):
        results.read_study(tmp_path)


def test_a_folder_without_runs_says_how_to_train_them(tmp_path):
    with pytest.raises(UserError, match=r"python study\.py"):
        results.read_study(tmp_path)


# --- the sentences ----------------------------------------------------------------------------------------------------


def difference(value, low, high, holm, equivalence, images, metric="accuracy"):
    estimate = Estimate(value, low, high, holm)
    return results.Difference(results.COMPARISONS[1], metric, 10, estimate, estimate, images, holm, equivalence)


SHOWN = difference(0.001, 0.0005, 0.0015, 0.01, 0.9, (0.0002, 0.0018))
THESE_IMAGES = difference(0.001, 0.0005, 0.0015, 0.01, 0.9, (-0.0002, 0.0022))
OPEN = difference(0.0003, -0.0002, 0.0008, 0.3, 0.4, (-0.0005, 0.0011))
ALONE = difference(0.0005, 0.0001, 0.0009, 0.12, 0.5, (-0.0001, 0.0011))
EQUAL = difference(0.0001, -0.0002, 0.0004, 0.9, 0.01, (-0.0005, 0.0007))


@pytest.mark.parametrize(
    ("one", "carried", "not_carried"),
    [
        (
            SHOWN,
            ("a difference is shown for new seeds", "and for new digits", "excludes 0"),
            ("no difference", "equiv"),
        ),
        (THESE_IMAGES, ("a difference is shown", "but not for new digits", "holds 0"), ("and for new digits",)),
        (OPEN, ("no difference is shown", "and neither is equivalence"), ("a difference is shown", "alone excludes 0")),
        (ALONE, ("no difference is shown", "its interval taken alone excludes 0"), ("a difference is shown",)),
        (EQUAL, ("no difference is shown", "and equivalence within 0.05 points is"), ("neither",)),
    ],
)
def test_a_sentence_says_what_its_interval_carries(one, carried, not_carried):
    sentence = report.verdict(one, [one])
    assert sentence.startswith(f"Batch normalization alone: {100 * one.paired.value:+.3f} [")
    assert all(words in sentence for words in carried)
    assert not [words for words in not_carried if words in sentence]


def test_a_small_but_sure_difference_is_called_both(groups):
    sentence = report.verdict(difference(0.0002, 0.0001, 0.0003, 0.01, 0.01, (0.0001, 0.0003)), [])
    assert "a difference is shown" in sentence
    assert "shown to be smaller than 0.05 points" in sentence


def test_titles_name_only_what_is_shown():
    title = figures.forest_title([SHOWN, THESE_IMAGES, OPEN, ALONE, EQUAL])
    assert title == "A difference in accuracy is shown for 2 of 5 comparisons; for new digits as well for 1: bn - plain"
    assert figures.forest_title([OPEN]) == "A difference in accuracy is shown for 0 of 1 comparisons"


def test_a_ratio_counts_layers_whose_interval_leaves_1_out():
    ratios = [Estimate(3, 2, 4, 0), Estimate(0.5, 0.4, 0.6, 0), Estimate(1.1, 0.9, 1.3, 0.4)]
    sentence = report.ratio_sentence("50", ratios)
    assert sentence == "after epoch 50 0.5 to 3 (larger in 1, smaller in 1, not told apart in 1 of 3 layers)"


# --- the document -----------------------------------------------------------------------------------------------------


def report_of(folder, capsys):
    assert report.report(folder) == 0
    return capsys.readouterr().out


def test_the_document_is_whole_and_its_figures_are_there(tmp_path, capsys):
    (tmp_path / "result_plot").mkdir()
    folder = write_study(tmp_path / "result_plot" / "study")
    document = report_of(folder, capsys)
    assert document.startswith("# ")
    headings = re.findall("^## (.*)$", document, re.MULTILINE)
    assert headings[:3] == ["Accuracy and loss", "Differences", "The same test images"]
    assert {"What the studies before gave", "What does not follow"} < set(headings)
    names = re.findall(r"\]\((\w+\.png)\)", document)
    assert names == ["study.png", "differences.png", "train_test.png", "gradients.png", "moved.png"]
    assert sorted(names) == sorted(path.name for path in folder.parent.glob("*.png"))
    assert "nan" not in document
    for table in re.findall(r"(?:^\|.*\n)+", document, re.MULTILINE):  # as many cells in every row
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_table_holds_mean_and_deviation(groups):
    row = next(line for line in report.accuracy_section(groups)[1].splitlines() if line.startswith("| `lenet` "))
    values = 100 * results.last(groups[PLAIN], "accuracy")
    assert f"{values.mean():.2f} ± {values.std(ddof=1):.2f} %" in row


@pytest.mark.parametrize(
    ("keys", "seeds"), [([PLAIN], 1), ([MLP, NORMALIZED], 1), ([PLAIN, BOTH], 2), (list(ACCURACIES), 1)]
)
def test_a_study_that_is_not_complete_has_a_report(tmp_path, capsys, keys, seeds):
    folder = tmp_path / "study"
    document = report_of(write_study(folder, {key: ACCURACIES[key] for key in keys}, seeds), capsys)
    assert "nan" not in document
    assert ("## Differences" in document) == (seeds > 1 and len(keys) > 1)


def test_without_arrays_nothing_is_said_of_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "figures", lambda groups, found: {})  # their time
    document = report_of(write_study(tmp_path / "study", arrays=False, seeds=2), capsys)
    assert "## The same test images" not in document
    assert "for new digits [" not in document


def test_a_report_needs_no_data_and_trains_nothing(tmp_path):
    folder = write_study(tmp_path / "study", {PLAIN: 0.9}, 1)
    program = f"import sys; sys.argv = ['study.py', '--report', '--output-dir', {str(folder)!r}]; import study; "
    program += "study.main.run = study.main.MNIST = study.main.find_data = None; assert study.command() == 0"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # and no data in the current folder
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, env=environment, timeout=120)


def test_a_figure_that_cannot_be_drawn_costs_that_figure_only(tmp_path, capsys, monkeypatch):
    def fail(groups):
        raise RuntimeError("no room")

    monkeypatch.setattr(figures, "draw_study", fail)
    folder = write_study(tmp_path / "study", {PLAIN: 0.9, MLP: 0.8}, 2)
    assert report.report(folder) == 1
    said = capsys.readouterr()
    assert "study.png: cannot be drawn: RuntimeError: no room" in said.err
    assert "(study.png)" not in said.out
    assert "(differences.png)" in said.out


# --- the figures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["study", "differences", "train_test", "gradients", "moved"])
def test_no_text_of_a_figure_lies_on_another(groups, name):
    assert_clean(figures.figures(groups, results.differences(groups))[name]())


def test_dots_of_equal_values_do_not_overprint():
    offsets = figures.spread_dots(np.array([1.0, 1.0, 1.0, 5.0]), 0.5)
    assert len(set(offsets[:3])) == 3
    assert offsets[3] == 0


def test_every_seed_is_a_dot_at_its_value(groups):
    axes = figures.draw_study(groups).axes[0]
    dots = sorted(value for line in axes.lines if line.get_marker() in ("o", "s") for value in line.get_ydata())
    values = [
        100 * value for key in (PLAIN, AUGMENTED, NORMALIZED, BOTH) for value in results.last(groups[key], "accuracy")
    ]
    assert dots == pytest.approx(sorted(values))


def test_the_forest_shows_the_interval_of_each_difference(groups):
    found = results.differences(groups)
    axes = figures.draw_differences(found).axes[0]
    small = [one for one in found if one.metric == "accuracy"][:6]
    segments = [segment for bars in axes.containers for segment in bars[2][0].get_segments() if len(segment)]
    drawn = [sorted(segment[:, 0]) for segment in segments]
    for one in small:
        assert any(ends == pytest.approx([100 * one.paired.low, 100 * one.paired.high]) for ends in drawn)


def test_gradients_begin_before_the_first_epoch(groups):
    lines = figures.draw_gradients(groups).axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[0, 1, 2, 3, 4]] * 2
    assert lines[1].get_ydata()[0] == pytest.approx(8 * (1 * 1.01 * 1.02) ** (1 / 3))  # with it: |g| of 4, |W| of 2
