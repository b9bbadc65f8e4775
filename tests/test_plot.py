"""What plot.py draws and says of runs, each array and each number, and what a bad file or picture costs."""

import shutil
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from test_axes import assert_clean

import plot
from support import figures
from support.figures import curves_of
from support.run.history import Run, mistakes, read_runs, write_history
from support.terminal import UserError

COMMITTED = {run.path.stem: run for run in read_runs(Path(plot.__file__).parent / "result_plot")}
BN = COMMITTED["lenet_bn_augment"]  # of the three runs, the one with all arrays


def make(model="lenet", epochs=6, seed=0, augment=False, **changes):
    """The first epochs of the committed run of LeNet-5, as if they were all, of another model or seed."""
    history = {name: one[:epochs] if isinstance(one, list) else one for name, one in COMMITTED["lenet"].history.items()}
    name = f"{model}{'_augment' * augment}{f'_seed{seed}' * (seed > 0)}"
    history |= {"name": name, "model": model, "seed": seed, "augment": augment, "epochs": epochs}
    history["test_loss"] = [loss * (1 + 0.01 * seed) for loss in history["test_loss"]]
    history |= changes
    return Run(Path(f"{history['name']}.json"), history, {})


def write(folder, *runs):
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        with open(folder / run.path, "wb") as file:
            write_history(run.history, file)


def images_of(figure, side):
    """The images that stand in a picture, row by row, without the room around them."""
    picture = figure.axes[0].images[0].get_array()
    picture = picture[(~picture.mask).any(1)][:, (~picture.mask).any(0)]
    rows, columns = (length // side for length in picture.shape)
    return picture.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def test_everything_is_drawn_from_the_files_alone(tmp_path, capsys):
    write(tmp_path, make("mlp"))
    write(tmp_path / plot.STUDY, make(seed=1), make("mlp", seed=1))
    for ending in (".json", ".npz"):
        shutil.copy(BN.path.with_suffix(ending), tmp_path)
    plot.main(["--output-dir", str(tmp_path)])
    drawn = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    run = {f"lenet_bn_augment{ending}.png" for ending in ("", "_confusion", "_mistakes", "_filters")}
    # of mlp there is no NPZ file, so only its curves
    assert drawn == run | {"mlp.png", "comparison.png", "augmentation.png", "networks.png"}
    for name in run | {"augmentation.png"}:
        assert Image.open(tmp_path / name).text["digest"] == BN.history["digest"]


def test_a_folder_without_runs_says_how_to_train_one_and_a_bad_file_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/absent: .*train one first"):
        plot.redraw(["--output-dir", f"{tmp_path}/absent"])
    write(tmp_path / plot.STUDY, make(name="bad"))
    (tmp_path / plot.STUDY / "bad.npz").write_bytes(b"{")
    with pytest.raises(UserError, match=r"study/bad\.npz: .*move the file away"):
        plot.redraw(["--output-dir", str(tmp_path)])


def test_a_picture_that_cannot_be_drawn_costs_that_picture_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plot, "draw_run", Mock(side_effect=ValueError("a letter\nthat nobody can draw")))
    write(tmp_path, make("mlp"), make())
    (tmp_path / "comparison.png").mkdir()
    assert plot.redraw(["--output-dir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/networks.png\n"
    messages = err.splitlines()
    assert "lenet.png: cannot be drawn: ValueError('a letter" in messages[0]
    assert "comparison.png: cannot be drawn: IsADirectoryError" in messages[2]


EXTREMES = {
    "one epoch": {"epochs": 1, "validation": 1000, "augment": True},
    "perfect": {"train_accuracy": [1.0] * 6, "test_accuracy": [1.0] * 6, "train_loss": [0.0] * 6},
    "huge": {"train_loss": [1e30, 1e20, 1.0, 1e30, 0.0, 1e30], "test_accuracy": [0.0] * 6, "learning_rate": [1e30] * 6},
    "foreign": {"model": "my_$^$ 신경망" * 20, "data": "a_$b^$ \udcff 데이터" * 20, "learning_rate": []},
    "long": {"model": "n" * 200, "data": "d" * 200, "validation": 1000, "train_loss": [0.1] * 6},
}


@pytest.mark.parametrize("changes", EXTREMES.values(), ids=EXTREMES)
def test_runs_are_drawn_without_overlap(changes, recwarn):
    run = make(**changes)
    assert_clean(plot.draw_run(run.history) if "data" in changes else plot.draw_networks(curves_of([run, make("mlp")])))
    assert not recwarn.list


def test_the_words_of_a_run_say_how_its_curves_end():
    text = assert_clean(plot.draw_run(BN.history))
    assert "BN-LeNet-5 + augmentation on MNIST, seed 0: 49 of 10,000 test images wrong after epoch 50" in text
    ends = ("Test loss ends at 0.982 times the train loss", "Test error ends at 1.34 times the train error")
    assert all(words in text for words in (*ends, "train (augmented) 0.0140", "test 99.51 %"))
    text = assert_clean(plot.draw_run(BN.history | {"validation": 10000, "epochs": 60}))
    assert "49 of 10,000 validation images wrong after epoch 50 (ended early, 60 planned)" in text
    assert "Validation loss ends at 0.982 times the train loss, lowest in epoch 47" in text
    assert "test" not in text


@pytest.mark.parametrize("run", [COMMITTED["lenet"], make(epochs=1, learning_rate=[0.05 * 0.5 / 93.8])])
def test_the_learning_rate_is_drawn_as_it_is(run):
    """A warm-up of 0.32 epochs, or a fifth of a short run, and the fall to 0, which no number an epoch can show."""
    epochs = run.history["epochs"]
    for axes in plot.draw_run(run.history).axes[2:]:
        corners = [[0, 0], [min(150 / 469, 0.2 * epochs), 0.05], [0.8 * epochs, 0.05], [epochs, 0]]
        assert axes.lines[0].get_xydata() == pytest.approx(np.array(corners))
        assert axes.get_xlim() == (0, epochs + 0.5)
    noted = [0.1, 0.05, 0.02, 0.01, 0.01, 0.01]  # by a schedule of one's own, at each epoch's first step
    assert plot.learning_rates(make(learning_rate=noted).history) == ([0, 1, 2, 3, 4, 5], noted)


def test_the_confusion_matrix_has_labels_as_rows_and_predictions_as_columns():
    labels = np.repeat(np.array([1, 2], np.uint8), 50)
    predictions = labels.copy()
    predictions[:3], predictions[-5:] = 7, 1
    history = BN.history | {"test_images": 100, "test_accuracy": [0.92]}
    figure = plot.draw_confusion(history, {"labels": labels, "predictions": predictions})
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # at (column, row)
    assert cells == {(1, 1): "47", (7, 1): "3", (2, 2): "45", (1, 2): "5"}
    shares = axes.images[0].get_array()
    assert (shares[1, 7], shares[2, 1], np.ma.count(shares)) == (3 / 50, 5 / 50, 2)
    assert "8 of 100 test images wrong, most often 2 as 1 (5)" in assert_clean(figure)
    assert {"1: 94.0 %", "2: 90.0 %", "3: none"} <= {text.get_text() for text in axes.get_yticklabels()}
    assert "most often" not in assert_clean(plot.draw_confusion(history, {"labels": labels, "predictions": labels}))


@pytest.mark.parametrize("classes", [26, 256])
def test_pictures_of_other_numbers_of_classes(classes):
    arrays = BN.arrays | {"predictions": BN.arrays["predictions"].copy()}
    arrays["predictions"][mistakes(BN.arrays)] = classes - 1
    history = BN.history | {"classes": classes}
    for figure in (plot.draw_confusion(history, arrays), plot.draw_mistakes(history, arrays)):
        assert_clean(figure)
        assert max(figure.get_size_inches()) < 25


def test_mistakes_are_drawn_with_their_own_words_the_most_confident_first():
    wrong, figure = mistakes(BN.arrays), plot.draw_mistakes(BN.history, BN.arrays)
    order = np.argsort(-BN.arrays["confidence"][wrong])[:40]
    assert np.array_equal(images_of(figure, 28), BN.arrays["mistake_images"][order])
    for text, image in zip(figure.axes[0].texts, wrong[order], strict=True):
        label, prediction, confidence = (BN.arrays[kind][image] for kind in ("labels", "predictions", "confidence"))
        assert text.get_text() == f"{label} → {prediction}, {figures.percent(confidence, 1)}"
    text = assert_clean(figure)
    assert "49 of 10,000 test images wrong, 8 of them with a probability above 90 %" in text
    assert "40 of 49, the most confident first" in text
    none = BN.arrays | {"predictions": BN.arrays["labels"], "mistake_images": BN.arrays["mistake_images"][:0]}
    assert "0 of 0" in assert_clean(plot.draw_mistakes(BN.history | {"test_accuracy": [1.0]}, none))


@pytest.mark.parametrize(("number", "side", "words"), [(11, 5, "the 11"), (1, 1, "the 1"), (70, 9, "64 of the 70")])
def test_filters_are_drawn_in_their_order_on_one_scale_around_zero(number, side, words):
    filters = np.random.default_rng(0).normal(size=(number, 1, side, side)).astype(np.float32)
    figure = plot.draw_filters(make("mine").history, {"c1": filters})
    picture, shown = figure.axes[0].images[0], filters[:64, 0]
    assert np.array_equal(images_of(figure, side)[: len(shown)], shown)
    assert picture.get_array().count() == shown.size  # nothing else is drawn
    assert picture.norm.vmax == -picture.norm.vmin == np.abs(shown).max()
    assert f"What mine looks for first: {words} filters of C1 after epoch 6" in assert_clean(figure)


def test_augmentation_shows_each_original_beside_its_own_draws():
    figure = plot.draw_augmentation(BN.history, BN.arrays)
    rows = images_of(figure, 28).reshape(10, 9, 28, 28)
    assert np.array_equal(rows[:, 0], BN.arrays["originals"])
    assert np.array_equal(rows[:, 1:], BN.arrays["warped"])
    assert "in training each image's strength is drawn from 0.0 to 1.0" in assert_clean(figure)


def drawn(figure, panel=0):
    """The curves of a panel of a comparison, by their labels."""
    axes = figure.axes[panel]
    return {text.get_text().split("  ")[0]: line for line, text in zip(axes.lines, axes.texts, strict=True)}


def test_runs_are_compared_by_all_their_lists():
    runs = [*COMMITTED.values(), make("mine", 50)]
    comparison, networks = plot.draw_comparison(runs, []), plot.draw_networks(curves_of(runs))
    names = ("LeNet-5", "BN-LeNet-5 + augmentation", "Custom-MLP", "mine")
    for row, (run, name) in enumerate(zip(runs, names, strict=True)):
        for panel, metric in enumerate(("test_loss", "test_accuracy", "train_loss", "train_accuracy")):
            expected = pytest.approx(figures.plot_values(metric, run.history[metric]))
            assert drawn(comparison, panel)[name].get_ydata() == expected
            axes = networks.axes[2 * row + metric.endswith("accuracy")]
            assert axes.lines[metric.startswith("test")].get_ydata() == expected
            assert axes.lines[0].get_xdata().tolist() == list(range(1, 51))
    for text in (assert_clean(comparison), assert_clean(networks)):
        assert "Custom-MLP errs 3.1 times as often as BN-LeNet-5 + augmentation: 152 and 49 of 10,000 MNIST" in text
        assert "one run each, seed 0" in text
    assert "BN-LeNet-5 + augmentation, 62,158 parameters Test loss ends at 0.982 times the train loss" in text


def test_no_difference_is_claimed_that_chance_may_make():
    expected = {(20, 10): "No clear difference: 10 to 20 of", (0, 10): "Custom-MLP errs more often than"}
    for wrong, words in (expected | {(100,): "LeNet-5: 100 of 10,000 MNIST test"}).items():
        runs = [make(model, test_accuracy=[1 - n / 10000] * 6) for model, n in zip(("lenet", "mlp"), wrong)]  # noqa: B905
        assert plot.who_errs_more(curves_of(runs)).startswith(words)


def test_means_of_runs_stand_at_the_ends_and_none_overlap():
    kinds = product(("lenet", "lenet_bn", "mlp", "mine"), (2,), (0, 1), (False, True))
    runs = [make(*kind, test_accuracy=[0.9, 0.98 + kind[2] / 100]) for kind in kinds]
    text = assert_clean(plot.draw_comparison(runs[1:], []))  # eight curves that all end at almost the same height
    assert text.count(" 98.50 %") == 7
    assert "mean of 1 to 2 runs each, in a band of ± 1 standard deviation" in text


def test_the_readers_own_runs_stand_before_those_of_the_study():
    study = [make(model, seed=seed) for model in ("lenet", "mlp") for seed in (1, 2)]
    figure = plot.draw_comparison([make()], study)
    own, *theirs = (drawn(figure)[name] for name in ("LeNet-5", "study: LeNet-5", "study: Custom-MLP"))
    assert own.get_zorder() > theirs[0].get_zorder()
    assert own.get_color() != theirs[0].get_color() == theirs[1].get_color()
    text = assert_clean(figure)
    assert "one run each, seed 0; gray: the study, mean of 2 runs each, in a band of ± 1 standard deviation" in text
    same = study[0].history | {"seconds": [9.0] * 6, "threads": [2] * 6, "gradient": [1.0] * 6}
    assert set(drawn(plot.draw_comparison([Run(Path("lenet.json"), same, {})], study))) == {"LeNet-5", "Custom-MLP"}


def test_only_what_was_tested_on_the_same_images_is_compared():
    others = [make(seed=seed, data="other", test_sha256="5a") for seed in range(1, 9)]
    held_out = [make("mlp", seed=seed, validation=9) for seed in (1, 2)]
    tested = [make("mlp", seed=seed) for seed in (3, 4, 5)]
    figure = plot.draw_comparison([*others, *held_out, *tested], [])
    (mean,) = drawn(figure).values()
    assert mean.get_ydata()[0] == pytest.approx(1.04 * make().history["test_loss"][0])
    assert "not shown, because of other test images: lenet_seed1, lenet_seed2" in assert_clean(figure)
    figure = plot.draw_comparison(held_out, tested)
    assert set(drawn(figure)) == {"Custom-MLP"}
    assert "Validation accuracy" in assert_clean(figure)
    assert "MNIST validation images wrong" in assert_clean(figure)


def test_runs_of_one_configuration_that_differ_are_curves_of_their_own():
    runs = [make(seed=1), make(seed=2), make(seed=9, parameters=5), make(name="thursday", epochs=3)]
    runs += [make(name="lenet_batch256", batch_size=256), make(name="tuesday", optimizer={"name": "Adam"})]
    runs += [make(name="friday_seed1", train_sha256="other")]
    runs[3].history["epochs"] = 6  # it ended early
    found = {label: [history["name"] for history in group] for label, group in curves_of(runs).items()}
    assert found.pop("LeNet-5") == ["lenet_seed1", "lenet_seed2"]
    assert set(found) == {f"LeNet-5, {name}" for name in ("lenet_seed9", "batch256", "tuesday", "thursday", "friday")}
    assert set(curves_of(runs[4:5])) == {"LeNet-5"}  # what all share is no news
