"""What plot.py draws and says of runs: each array, each number, and what a bad picture costs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_axes import assert_clean

import plot
from support.figures.axes import LOSS_FLOOR, PALE
from support.figures.groups import comparable, lines
from support.run.history import DRAWS, Run, mistakes, with_digest, write_arrays, write_history


def make_history(model="lenet", augment=False, seed=0, epochs=6, **changes):
    """A history as main.py writes it: losses that fall, accuracies that rise."""
    random = np.random.default_rng([len(model), augment, seed])
    fall = np.geomspace(1, 0.05, epochs) * random.uniform(0.9, 1.1, epochs)
    wrong = np.maximum(np.round(300 * fall * (0.7 if augment else 1)), 1)
    history = {
        "name": f"{model}{'_augment' * augment}{f'_seed{seed}' * (seed > 0)}",
        "model": model,
        "data": "MNIST",
        "augment": augment,
        "epochs": epochs,
        "batch_size": 128,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "classes": 10,
        "seed": seed,
        "optimizer": "SGD",
        "augment_strength_min": 0.25,
        "augment_strength_max": 1.0,
        "parameters": 61_706,
        "train_images": 6000,
        "test_images": 1000,
        "train_sha256": "7a1",
        "test_sha256": "c3f9",
        "train_loss": list(0.5 * fall),
        "train_accuracy": list(1 - 0.2 * fall),
        "test_loss": list(0.3 * fall),
        "test_accuracy": list(1 - wrong / 1000),
        "seconds": [1.0] * epochs,
        "learning_rate": list(np.linspace(0.1, 0.0, epochs)),
        "threads": [1] * epochs,
        "processes": [1] * epochs,
    }
    return with_digest({**history, **changes})


def make_arrays(history):
    """The arrays of such a run: the last epoch's number of mistakes, at random places."""
    random = np.random.default_rng(history["seed"] + 10 * history["augment"])
    images, classes = history["test_images"], history["classes"]
    labels = (np.arange(images) % classes).astype(np.uint8)
    wrong = np.sort(random.choice(images, round((1 - history["test_accuracy"][-1]) * images), replace=False))
    predictions = labels.copy()
    predictions[wrong] = (labels[wrong] + random.integers(1, classes, len(wrong))) % classes
    arrays = {
        "labels": labels,
        "predictions": predictions,
        "confidence": random.uniform(0.3, 1, images).astype(np.float32),
        "mistake_images": random.integers(0, 256, (len(wrong), 28, 28), dtype=np.uint8),
        "c1": random.normal(size=(6, 1, 5, 5)).astype(np.float32),
    }
    if history["augment"]:
        arrays["originals"] = random.integers(0, 256, (classes, 28, 28), dtype=np.uint8)
        arrays["warped"] = random.integers(0, 256, (classes, DRAWS, 28, 28), dtype=np.uint8)
    return arrays


def make_run(*arguments, arrays=False, **changes):
    history = make_history(*arguments, **changes)
    return Run(Path(f"{history['name']}.json"), history, make_arrays(history) if arrays else {})


def write(folder, run):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / run.path, "wb") as file:
        write_history(run.history, file)
    if run.arrays:
        with open(folder / run.path.with_suffix(".npz"), "wb") as file:
            write_arrays(run.arrays, run.history, file)


@pytest.fixture
def folder(tmp_path):
    """Two runs, one of them with arrays, and a study of two networks and two seeds."""
    write(tmp_path, make_run("lenet_bn", True, arrays=True))
    write(tmp_path, make_run("mlp"))
    for model in ("lenet", "mlp"):
        for seed in (1, 2):
            write(tmp_path / plot.STUDY, make_run(model, seed=seed))
    return tmp_path


def ends(folder, capsys):
    """The status with which plot.py ends, and the lines of its standard error."""
    try:
        plot.main(["--output-dir", str(folder)])
    except SystemExit as ended:
        return ended.code, capsys.readouterr().err.splitlines()
    return 0, capsys.readouterr().err.splitlines()


def plot_values(axes, place=0):
    return np.asarray(axes.lines[place].get_ydata())


def said(figure):
    return " ".join(assert_clean(figure)).replace("\n", " ")


# --- the command ------------------------------------------------------------------------------------------------------


def test_everything_is_drawn_from_the_files_alone(folder, capsys):
    plot.main(["--output-dir", str(folder)])
    names = {path.name for path in folder.glob("*.png")}
    run = {f"lenet_bn_augment{ending}.png" for ending in ("", "_confusion", "_mistakes", "_filters")}
    # of mlp there is no NPZ file, so only its curves
    assert names == run | {"mlp.png", "comparison.png", "augmentation.png", "networks.png"}
    assert set(capsys.readouterr().out.split()) == {str(folder / name) for name in names}
    digest = json.loads((folder / "lenet_bn_augment.json").read_bytes())["digest"]
    for name in run | {"augmentation.png"}:
        assert Image.open(folder / name).text["digest"] == digest


def test_pictures_that_a_run_of_the_study_lacks_are_not_drawn(tmp_path):
    run = make_run(arrays=True)
    kept = {name: run.arrays[name] for name in ("labels", "predictions", "confidence")}
    write(tmp_path, run._replace(arrays=kept))
    plot.main(["--output-dir", str(tmp_path)])
    assert {path.name for path in tmp_path.glob("*.png")} == {"lenet.png", "lenet_confusion.png", "comparison.png"}


def test_importing_plot_imports_neither_torch_nor_pyplot():
    code = "import sys, plot; print([name for name in ('torch', 'matplotlib.pyplot', 'main') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(plot.__file__).parent)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_folder_without_runs_says_how_to_train_one(tmp_path, capsys):
    for empty in (tmp_path, tmp_path / "absent"):
        status, (message,) = ends(empty, capsys)
        assert status == 2
        assert str(empty) in message
        assert "train one first" in message


@pytest.mark.parametrize("content", ["{", "[1]", "{}", json.dumps(make_history() | {"test_loss": [1e300] * 6})])
def test_nothing_is_drawn_if_a_history_is_damaged(folder, capsys, content):
    (folder / "broken.json").write_text(content)
    status, (message,) = ends(folder, capsys)
    assert status == 2
    assert "broken.json" in message
    assert not list(folder.glob("*.png"))


def test_a_picture_that_cannot_be_drawn_costs_that_picture_only(folder, capsys, monkeypatch):
    def fail(*arguments):
        raise ValueError("a letter\nthat nobody can draw")

    monkeypatch.setattr(plot, "draw_mistakes", fail)
    (folder / "comparison.png").mkdir()
    status, messages = ends(folder, capsys)
    assert status == 1
    assert len(messages) == 2
    assert "lenet_bn_augment_mistakes.png: cannot be drawn: ValueError: a letter" in messages[0]
    assert "comparison.png: cannot be drawn: Is a directory" in messages[1]
    assert {path.name for path in folder.glob("*.png") if path.is_file()} >= {"lenet_bn_augment.png", "networks.png"}


# --- one run: its curves ----------------------------------------------------------------------------------------------

CURVES = {
    "usual": {},
    "one epoch": {"epochs": 1},
    "fifty epochs": {"epochs": 50},
    "ended early": {"epochs": 6, "train_loss": [0.3], "test_loss": [0.2], "train_accuracy": [0.9]}
    | {"test_accuracy": [0.8], "learning_rate": [0.1], "seconds": [1.0]},
    "augmented": {"augment": True, "model": "lenet_bn", "data": "a folder of digits"},
    "perfect": {"train_accuracy": [1.0] * 6, "test_accuracy": [1.0] * 6, "train_loss": [0.0] * 6},
    "tiny loss": {"train_loss": [0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-4], "train_accuracy": [0.9, 0.99, 1.0, 1.0, 1.0, 1.0]},
    "huge loss": {"train_loss": [1e30, 1e20, 1.0, 1e30, 0.0, 1e30], "test_loss": [0.0, 1e30, 1.0, 1.0, 1.0, 1e30]},
    "huge rate": {"learning_rate": [1e30] * 6},
    "no rate": {"learning_rate": [0.0] * 6},
    "all wrong": {"train_accuracy": [0.0] * 6, "test_accuracy": [0.0] * 6},
    "level": {"train_accuracy": [0.9] * 6, "test_accuracy": [0.9] * 6},
    "constant": {"train_loss": [0.1] * 6, "test_loss": [0.1] * 6},
    "foreign names": {"model": "my_$net$ 신경망", "data": "a_$b^$ \udcff 데이터"},
    "long names": {"model": "n" * 200, "data": "d" * 200},
}


@pytest.mark.parametrize("changes", CURVES.values(), ids=CURVES)
def test_a_run_is_drawn_without_overlap(changes):
    assert_clean(plot.draw_run(make_history(**changes)))


def test_the_curves_of_a_run_are_its_lists():
    history = make_history("lenet_bn", True)
    loss, accuracy, *rates = plot.draw_run(history).axes
    assert plot_values(loss, 0) == pytest.approx(history["train_loss"])
    assert plot_values(loss, 1) == pytest.approx(history["test_loss"])
    assert plot_values(accuracy, 0) == pytest.approx([1 - value for value in history["train_accuracy"]])
    assert plot_values(accuracy, 1) == pytest.approx([1 - value for value in history["test_accuracy"]])
    for axes in rates:
        assert plot_values(axes) == pytest.approx(history["learning_rate"])
    for axes in (loss, accuracy, *rates):
        assert axes.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    colors = [line.get_color() for line in (*loss.lines[:2], *accuracy.lines[:2])]
    assert colors[:2] == colors[2:]
    assert colors[0] != colors[1]


def test_a_run_without_learning_rates_is_drawn_without_them():
    history = make_history()
    del history["learning_rate"]
    assert len(plot.draw_run(history).axes) == 2


def test_the_best_epoch_is_marked_and_the_last_stands_at_the_line_ends():
    losses, accuracies = [0.3, 0.0123, 0.02, 0.0456], [0.9, 0.98, 0.991, 0.99]
    history = make_history(epochs=4, test_loss=losses, test_accuracy=accuracies, train_loss=[0.4, 0.1, 0.1, 0.0228])
    figure = plot.draw_run(history | {"train_accuracy": [0.9, 0.95, 0.97, 0.9821]})
    texts = assert_clean(figure)
    assert "lowest on test: 0.0123, epoch 2" in texts
    assert "highest on test: 99.10 %, epoch 3" in texts
    assert {"test\n0.0456", "test\n99.00 %", "train\n0.0228", "train\n98.21 %"} <= set(texts)
    assert "LeNet-5 on MNIST: 10 of 1,000 test images wrong after epoch 4" in texts
    assert "Test loss ends at 2 times the train loss" in texts
    assert "Test accuracy ends 0.79 points above train accuracy" in texts
    (ring,) = (line for line in figure.axes[0].lines if len(line.get_xdata()) == 1)
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (2, 0.0123)


def test_a_ring_at_the_last_epoch_is_whole():
    figure = plot.draw_run(make_history())
    rings = [line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 1]
    assert len(rings) == 2
    assert not any(ring.get_clip_on() for ring in rings)


def test_a_run_that_ended_early_says_so():
    shorter = {name: values[:4] for name, values in make_history().items() if isinstance(values, list)}
    assert "after epoch 4 (ended early, 6 planned)" in said(plot.draw_run(make_history(**shorter)))
    assert "ended early" not in said(plot.draw_run(make_history()))


# --- one run: its arrays ----------------------------------------------------------------------------------------------


def confused(pairs, images=100, **changes):
    """A run of `images` test images, half of them 1 and half 2, with `pairs` {(label, prediction): count} wrong."""
    labels = np.repeat(np.array([1, 2], np.uint8), images // 2)
    predictions = labels.copy()
    for (label, prediction), count in pairs.items():
        predictions[np.flatnonzero((labels == label) & (predictions == labels))[:count]] = prediction
    accuracy = 1 - sum(pairs.values()) / images
    history = make_history(test_images=images, test_accuracy=[accuracy] * 6, **changes)
    return history, {"labels": labels, "predictions": predictions}


def test_the_confusion_matrix_has_labels_as_rows_and_predictions_as_columns():
    figure = plot.draw_confusion(*confused({(1, 7): 3, (2, 1): 5}))
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # at (column, row)
    assert cells[7, 1] == "3"
    assert cells[1, 2] == "5"
    assert cells[1, 1] == "47"
    assert cells[2, 2] == "45"
    assert cells[1, 7] == cells[2, 1] == "0"
    shares = axes.images[0].get_array()
    assert shares[1, 7] == pytest.approx(3 / 50)
    assert shares[2, 1] == pytest.approx(5 / 50)
    assert np.ma.count(shares) == 2
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")
    texts = assert_clean(figure)
    assert "94.0 % right" in texts
    assert texts.count("none") == 8  # labels without test images


def test_the_confusion_matrices_of_all_runs_have_the_same_colours():
    for pairs in ({(1, 7): 1}, {(1, 7): 40}):
        norm = plot.draw_confusion(*confused(pairs)).axes[0].images[0].norm
        assert (norm.vmin, norm.vmax) == (0.0005, 0.5)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({(1, 7): 3, (2, 1): 2}, "LeNet-5: 5 of 100 test images wrong, most often 1 taken for 7 (3)"),
        ({(1, 7): 2, (2, 1): 2}, "most often 1 taken for 7 and 2 taken for 1 (2 each)"),
        ({(1, 7): 1, (2, 1): 1, (1, 2): 1, (2, 7): 1}, "LeNet-5: 4 of 100 test images wrong"),
        ({}, "LeNet-5: 0 of 100 test images wrong"),
    ],
)
def test_ties_among_confusions_are_all_named_or_none(pairs, words):
    title = plot.draw_confusion(*confused(pairs)).get_suptitle().replace("\n", " ")
    assert title.endswith(words)


@pytest.mark.parametrize("classes", [2, 10, 26, 200])
def test_pictures_of_other_numbers_of_classes(classes):
    history = make_history("mine", True, classes=classes)
    arrays = make_arrays(history)
    figure = plot.draw_confusion(history, arrays)
    assert figure.axes[0].images[0].get_array().shape == (classes, classes)
    assert max(figure.get_size_inches()) < 25
    for draw in (plot.draw_confusion, plot.draw_mistakes, plot.draw_augmentation, plot.draw_filters):
        assert_clean(draw(history, arrays))


@pytest.mark.parametrize(("wrong", "shown"), [(0, ""), (1, "1 of 1"), (52, "40 of 52")])
def test_mistakes_are_drawn_with_their_own_words_the_most_confident_first(wrong, shown):
    history = make_history("lenet_bn", True, test_accuracy=[1 - wrong / 1000] * 6)
    arrays = make_arrays(history)
    figure = plot.draw_mistakes(history, arrays)
    places = mistakes(arrays)
    order = np.argsort(-arrays["confidence"][places])[:40]
    axes = figure.axes[0]
    words = [text.get_text() for text in axes.texts]
    assert len(words) == min(wrong, 40)
    picture = axes.images[0].get_array()
    for place, (index, text) in enumerate(zip(order, axes.texts, strict=True)):
        image = places[index]
        start = f"{arrays['labels'][image]} → {arrays['predictions'][image]}, "
        assert text.get_text().startswith(start)
        assert float(text.get_text().split()[-2]) == pytest.approx(100 * arrays["confidence"][image], abs=0.06)
        top, left = 12 + place // 8 * 40, place % 8 * 38
        assert np.array_equal(picture[top : top + 28, left : left + 28], arrays["mistake_images"][index])
        assert left < text.get_position()[0] < left + 28  # above its own picture
        assert top - 12 < text.get_position()[1] < top
    sure = (arrays["confidence"][places] > 0.9).sum()
    text = said(figure)
    assert f"{wrong} of 1,000 test images wrong" in text
    assert shown in text
    assert not wrong or f"{sure} of them with a probability above 90 %" in text


def test_filters_are_drawn_in_their_order_on_one_scale_around_zero():
    history = make_history("mine")
    filters = np.random.default_rng(0).normal(size=(11, 1, 5, 5)).astype(np.float32)
    figure = plot.draw_filters(history, {"c1": filters})
    picture = figure.axes[0].images[0]
    for place, weights in enumerate(filters[:, 0]):
        top, left = place // 8 * 6, place % 8 * 6
        assert np.array_equal(picture.get_array()[top : top + 5, left : left + 5], weights)
    assert picture.get_array().count() == filters.size  # nothing else is drawn
    assert picture.norm.vmax == -picture.norm.vmin == np.abs(filters).max()
    assert "The 11 filters of C1 of mine after epoch 6" in said(figure)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (9, 1, 3, 3), (1000, 1, 31, 31)])
@pytest.mark.parametrize("weight", [0, np.nan])
def test_filters_of_any_number_and_size_are_drawn(shape, weight):
    text = said(plot.draw_filters(make_history(), {"c1": np.full(shape, weight, np.float32)}))
    assert shape[0] < 1000 or "The first 64 of 1,000 filters" in text


def test_augmentation_shows_each_original_beside_its_own_draws():
    history = make_history("lenet_bn", True)
    arrays = make_arrays(history)
    figure = plot.draw_augmentation(history, arrays)
    picture = figure.axes[0].images[0].get_array()
    for label in range(10):
        top = 4 + 32 * label
        assert np.array_equal(picture[top : top + 28, :28], arrays["originals"][label])
        for draw in range(DRAWS):
            left = 32 * (draw + 1)
            assert np.array_equal(picture[top : top + 28, left : left + 28], arrays["warped"][label, draw])
    assert "in training each image has 0.25 to 1 times that strength" in said(figure)


def test_augmentation_says_how_much_ink_stays_at_full_strength():
    originals = np.full((10, 28, 28), 200, np.uint8)
    warped = np.repeat(originals[:, None], DRAWS, 1) // 2
    figure = plot.draw_augmentation(make_history(), {"originals": originals, "warped": warped})
    assert "Augmentation at full strength leaves 50 % of the ink where it was" in said(figure)


def test_a_class_without_images_has_an_empty_row():
    history = make_history("lenet", True)
    arrays = make_arrays(history)
    arrays["originals"][3], arrays["warped"][3] = 0, 0
    figure = plot.draw_augmentation(history, arrays)
    assert not figure.axes[0].images[0].get_array()[4 + 32 * 3 : 32 * 4].any()
    assert [text.get_text() for text in figure.axes[0].texts] == ["no 3"]
    assert_clean(figure)
    for array in arrays.values():
        array[:] = 0
    assert_clean(plot.draw_augmentation(history, arrays))


# --- several runs -----------------------------------------------------------------------------------------------------


def drawn_lines(figure):
    """The lines of the four panels of the comparison, by metric and label."""
    metrics = ("test_loss", "test_accuracy", "train_loss", "train_accuracy")
    found = {}
    for metric, axes in zip(metrics, figure.axes, strict=True):
        for line, text in zip(axes.lines, axes.texts, strict=True):
            found[metric, text.get_text().split("  ")[0]] = line
    return found


def test_the_comparison_draws_train_and_test_of_each_run():
    runs = [make_run("lenet"), make_run("lenet_bn", True), make_run("mine")]
    figure = plot.draw_comparison(runs)
    found = drawn_lines(figure)
    assert len(found) == 12
    for run, name in zip(runs, ("LeNet-5", "BN-LeNet-5 + augmentation", "mine"), strict=True):
        for metric in ("test_loss", "train_loss"):
            assert found[metric, name].get_ydata() == pytest.approx(run.history[metric])
        for metric in ("test_accuracy", "train_accuracy"):
            assert found[metric, name].get_ydata() == pytest.approx([1 - value for value in run.history[metric]])
    texts = assert_clean(figure)
    assert f"LeNet-5  {100 * runs[0].history['test_accuracy'][-1]:.2f} %" in texts
    assert {"Test loss", "Test accuracy", "Train loss", "Train accuracy"} <= set(texts)


def test_the_comparison_names_a_range_and_no_winner():
    runs = [make_run(model, test_accuracy=[0.9] * 5 + [last]) for model, last in (("lenet", 0.981), ("mlp", 0.982))]
    title = plot.draw_comparison(runs).get_suptitle()
    assert title.replace("\N{NO-BREAK SPACE}", " ") == (
        "Accuracy on the test images of MNIST after the last epoch: 98.10 to 98.20 %"
    )


def test_the_comparison_writes_means_at_the_line_ends_and_none_overlap():
    runs = [
        make_run(model, augment, seed, test_accuracy=[0.9, 0.98 + seed / 100], test_loss=[0.3, 0.02], epochs=2)
        for model in ("lenet", "lenet_bn", "mlp", "mine")
        for augment in (False, True)
        for seed in range(2)
    ]
    texts = assert_clean(plot.draw_comparison(runs))  # eight lines that all end at the same height
    assert sum(text.endswith("  98.50 %") for text in texts) == 8
    assert "Test loss, mean of 2 runs ± 1 standard deviation" in texts


def test_the_comparison_shows_the_readers_own_runs_before_those_of_the_study():
    study = [make_run(model, seed=seed) for model in ("lenet", "mlp") for seed in (1, 2)]
    figure = plot.draw_comparison([make_run("lenet")], study)
    found = drawn_lines(figure)
    assert {name for _, name in found} == {"LeNet-5", "study: LeNet-5", "study: Custom-MLP"}
    own, theirs = found["test_loss", "LeNet-5"], found["test_loss", "study: LeNet-5"]
    assert own.get_zorder() > theirs.get_zorder()
    assert own.get_linewidth() > theirs.get_linewidth()
    assert theirs.get_color() == PALE != own.get_color()
    assert "Test loss; gray: the study, mean of 2 runs ± 1 standard deviation" in assert_clean(figure)


def test_a_run_with_settings_of_the_study_but_other_figures_is_drawn():
    study = [make_run("lenet", seed=seed) for seed in (0, 1)]
    other = make_run("lenet", test_accuracy=[0.5] * 6)
    assert plot_values(plot.draw_comparison([other], study).axes[1]) == pytest.approx([0.5] * 6)


def test_a_run_that_is_one_of_the_study_is_drawn_once():
    study = [make_run("lenet", seed=seed, clean_train_loss=[0.1] * 6) for seed in (0, 1)]
    same = make_run("lenet", seconds=[9.0] * 6, threads=[2] * 6, processes=[2] * 6)
    assert {name for _, name in drawn_lines(plot.draw_comparison([same], study))} == {"LeNet-5"}
    for change in ({"lr": 0.2}, {"learning_rate": [0.3] * 6}, {"test_sha256": "other"}):
        assert len(lines([make_run("lenet", **change)])) == 1
        assert not any(plot.is_same(make_run("lenet", **change), run) for run in study)


def test_the_comparison_keeps_to_one_test_set_mnist_first():
    runs = [
        *(
            make_run(name=f"lenet-sample_seed{seed}", seed=seed, data="sample", test_sha256="5a")
            for seed in range(2, 20)
        ),
        make_run("mlp"),
        make_run("lenet", name="lenet_lr0.5", lr=0.5),
        make_run("lenet", name="lenet_seed1", seed=1),
    ]
    figure = plot.draw_comparison(runs)
    assert "not shown, because of other test images: lenet-sample_seed2, lenet-sample_seed3" in said(figure)
    assert {name for _, name in drawn_lines(figure)} == {"Custom-MLP", "LeNet-5, lr 0.5", "LeNet-5, lr 0.1"}


def test_the_readers_own_data_are_compared_even_if_the_study_has_other():
    own = make_run("lenet", data="fashion", test_sha256="fa")
    figure = plot.draw_comparison([own], [make_run("lenet", seed=seed) for seed in (1, 2)])
    assert {name for _, name in drawn_lines(figure)} == {"LeNet-5"}
    assert "test images of fashion" in said(figure)


def test_runs_of_one_configuration_that_differ_are_lines_of_their_own():
    short = {name: values[:3] for name, values in make_history().items() if isinstance(values, list)}
    runs = [
        make_run(name="a"),
        make_run(name="b", batch_size=256),
        make_run(name="c", optimizer="Adam"),
        make_run(name="d", optimizer={"name": "Adam"}),
        make_run(name="e", **short),
        make_run(name="f", train_sha256="other"),
    ]
    figure = plot.draw_comparison(runs)
    assert len(lines(runs)) == 6
    text = said(figure)
    assert "batch size 256" in text
    assert "epoch 3 (ended early, 6 planned)" in text
    assert "optimizer Adam" in text


def test_a_comparison_of_very_many_runs_stays_legible():
    runs = [make_run(f"network{number:02}", epochs=2) for number in range(45)]
    assert "not shown, for want of room: 5 lines" in said(plot.draw_comparison(runs))


def test_networks_stand_side_by_side_with_train_and_test():
    runs = [make_run("mlp", epochs=12), make_run("lenet_bn", True, epochs=12), make_run("lenet", epochs=12)]
    figure = plot.draw_networks(runs)
    losses, accuracies, (first, rate) = figure.axes[:3], figure.axes[3:6], figure.axes[6:]
    for run, loss, accuracy in zip(reversed(runs), losses, accuracies, strict=True):
        for place, split in enumerate(("train", "test")):
            assert plot_values(loss, place) == pytest.approx(run.history[f"{split}_loss"])
            assert plot_values(accuracy, place) == pytest.approx([1 - one for one in run.history[f"{split}_accuracy"]])
    assert len({axes.get_ylim() for axes in losses}) == len({axes.get_ylim() for axes in accuracies}) == 1
    for place, run in enumerate(reversed(runs)):
        assert plot_values(first, place) == pytest.approx([1 - one for one in run.history["test_accuracy"][:10]])
    assert plot_values(rate) == pytest.approx(runs[0].history["learning_rate"])
    assert len(rate.lines) == 1  # the same for all three
    wrong = [round(1000 * (1 - run.history["test_accuracy"][-1])) for run in reversed(runs)]
    text = said(figure)
    assert "Wrong of the 1,000 test images of MNIST after the last epoch" in text
    assert f"LeNet-5 {wrong[0]}, BN-LeNet-5 + augmentation {wrong[1]}, Custom-MLP {wrong[2]}" in text
    assert "Test accuracy, the first 10 epochs" in text


@pytest.mark.parametrize(
    ("epochs", "models"), [(1, ("lenet", "mlp")), (50, ("a", "b", "신경망" * 20, "n" * 60, "e", "f", "g"))]
)
def test_any_networks_of_any_length_stand_side_by_side(epochs, models):
    runs = [make_run(model, model == "mlp", seed, epochs=epochs) for model in models for seed in (0, 1)]
    assert "mean of 2 runs" in said(plot.draw_networks(runs))


def test_extreme_figures_stand_side_by_side():
    changes = {
        "train_loss": [0.0] * 6,
        "test_loss": [1e30] * 6,
        "train_accuracy": [1.0] * 6,
        "test_accuracy": [0.0] * 6,
    }
    figure = plot.draw_networks([make_run("lenet", **changes), make_run("mlp")])
    assert_clean(figure)
    assert plot_values(figure.axes[0]).tolist() == [LOSS_FLOOR] * 6


def test_networks_that_ended_early_stand_beside_those_that_did_not():
    short = {name: values[:3] for name, values in make_history("mlp").items() if isinstance(values, list)}
    figure = plot.draw_networks([make_run("lenet"), make_run("mlp", **short), make_run("mlp", seed=1, **short)])
    assert "epoch 3 (ended early, 6 planned)" in said(figure)
    assert len(plot_values(figure.axes[1])) == 3


def test_only_runs_of_equal_settings_stand_side_by_side():
    lenet, mlp = make_run("lenet"), make_run("mlp")
    assert comparable([mlp, lenet]) == [lenet, mlp]
    assert comparable([lenet, make_run("lenet", seed=1)]) == []
    assert comparable([]) == []
    for change in (
        {"lr": 0.5},
        {"epochs": 7},
        {"test_sha256": "other"},
        {"train_sha256": "other"},
        {"optimizer": "Adam"},
    ):
        other = Run(Path("other.json"), mlp.history | change, {})
        assert comparable([lenet, other]) == []
        assert comparable([lenet, other, make_run("lenet_bn", True)]) == [lenet, make_run("lenet_bn", True)]


def test_networks_of_the_study_stand_side_by_side_where_the_reader_has_one_only(tmp_path):
    study = [make_run(model, seed=seed) for model in ("lenet", "mlp") for seed in (1, 2)]
    names = {name: draw for name, _, draw in plot.figures([make_run("lenet")], study)}
    assert names["networks.png"].args[0] == comparable(study)
    assert "networks.png" not in {name for name, _, _ in plot.figures([make_run("lenet")], study[:2])}


def test_figures_are_sharp_enough_to_print():
    figure = plot.draw_run(make_history())
    assert figure.get_figwidth() * figure.dpi >= 2000  # pixels, for the width of a page
