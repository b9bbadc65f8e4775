"""What plot.py draws and says of runs, each array and each number, and what a bad file or picture costs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from test_axes import assert_clean

import plot
from support import figures
from support.figures import curves_of
from support.run.history import Run, mistakes, read_runs, write_history

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


def status_of(folder, capsys):
    """The status with which plot.py ends, the names of what it has drawn, and the lines of its standard error."""
    status = 0
    try:
        plot.main(["--output-dir", str(folder)])
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr()
    return status, {Path(line).name for line in said.out.splitlines()}, said.err.splitlines()


def heights(axes, index=0):
    return np.asarray(axes.lines[index].get_ydata())


def errors(accuracies):
    return pytest.approx(np.maximum(1 - np.array(accuracies), figures.ERROR_FLOOR))


def images_of(figure, side, above, beside):
    """The images that stand in a picture, row by row, without the room around them."""
    picture = figure.axes[0].images[0].get_array()
    cells = picture.reshape(picture.shape[0] // (side + above), side + above, -1, side + beside)
    return cells[:, above:, :, :side].swapaxes(1, 2).reshape(-1, side, side)


def said(figure):
    return " ".join(" ".join(assert_clean(figure)).split())


def test_everything_is_drawn_from_the_files_alone(tmp_path, capsys):
    write(tmp_path, make("mlp"))
    write(tmp_path / plot.STUDY, make(seed=1), make("mlp", seed=1))
    for ending in (".json", ".npz"):
        shutil.copy(BN.path.with_suffix(ending), tmp_path)
    status, drawn, _ = status_of(tmp_path, capsys)
    run = {f"lenet_bn_augment{ending}.png" for ending in ("", "_confusion", "_mistakes", "_filters")}
    # of mlp there is no NPZ file, so only its curves
    assert drawn == run | {"mlp.png", "comparison.png", "augmentation.png", "networks.png"}
    assert status == 0
    for name in run | {"augmentation.png"}:
        assert Image.open(tmp_path / name).text["digest"] == BN.history["digest"]


def test_a_folder_without_runs_says_how_to_train_one(tmp_path, capsys):
    for empty in (tmp_path, tmp_path / "absent"):
        status, _, (message,) = status_of(empty, capsys)
        assert status == 2
        assert str(empty) in message
        assert "train one first" in message


@pytest.mark.parametrize("where", ["", plot.STUDY])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"{}", b"\xff\x00", "unequal", "npz"])
def test_a_bad_file_is_named_and_keeps_nothing_else_from_being_drawn(tmp_path, capsys, monkeypatch, content, where):
    for draw in ("draw_run", "draw_comparison"):
        monkeypatch.setattr(plot, draw, lambda *_: Figure())
    write(tmp_path, make("mlp"))
    write(tmp_path / where, make(name="bad", gradient=[1.0] * (5 if content == "unequal" else 6)))
    if content == "npz":
        (tmp_path / where / "bad.npz").write_bytes(b"no archive")
    elif content != "unequal":
        (tmp_path / where / "bad.json").write_bytes(content)
    status, drawn, (message,) = status_of(tmp_path, capsys)
    assert status == 2
    assert f"{tmp_path / where / 'bad'}." in message
    assert "move" in message
    assert drawn == {"mlp.png", "comparison.png"}


def test_a_picture_that_cannot_be_drawn_costs_that_picture_only(tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise ValueError("a letter\nthat nobody can draw")

    monkeypatch.setattr(plot, "draw_run", fail)
    write(tmp_path, make("mlp"), make())
    (tmp_path / "comparison.png").mkdir()
    status, drawn, messages = status_of(tmp_path, capsys)
    assert status == 1
    assert drawn == {"networks.png"}
    assert "lenet.png: cannot be drawn: ValueError: a letter" in messages[0]
    assert "comparison.png: cannot be drawn: Is a directory" in messages[2]


FLAT = [0.1] * 6
EXTREMES = {
    "one epoch": {"epochs": 1, "validation": 1000, "augment": True},
    "perfect": {"train_accuracy": [1.0] * 6, "test_accuracy": [1.0] * 6, "train_loss": [0.0] * 6},
    "huge": {"train_loss": [1e30, 1e20, 1.0, 1e30, 0.0, 1e30], "test_accuracy": [0.0] * 6, "learning_rate": [1e30] * 6},
    "foreign": {"model": "my_$net$ 신경망" * 20, "data": "a_$b^$ \udcff 데이터" * 20, "learning_rate": []},
    "long": {"model": "n" * 200, "data": "d" * 200, "validation": 1000, "train_loss": FLAT, "test_loss": FLAT},
}


@pytest.mark.parametrize("changes", EXTREMES.values(), ids=EXTREMES)
def test_runs_are_drawn_without_overlap(changes, recwarn):
    run = make(**changes)
    assert_clean(plot.draw_run(run.history) if "data" in changes else plot.draw_networks(curves_of([run, make("mlp")])))
    assert not recwarn.list


def test_the_curves_of_a_run_are_its_lists_and_its_words_say_how_they_end():
    figure = plot.draw_run(BN.history)
    loss, accuracy, *_ = figure.axes
    for index, split in enumerate(("train", "test")):
        assert heights(loss, index) == pytest.approx(BN.history[f"{split}_loss"])
        assert heights(accuracy, index) == errors(BN.history[f"{split}_accuracy"])
    assert loss.lines[0].get_xdata().tolist() == accuracy.lines[1].get_xdata().tolist() == list(range(1, 51))
    text = said(figure)
    assert "BN-LeNet-5 + augmentation on MNIST, seed 0: 49 of 10,000 test images wrong after epoch 50" in text
    assert "Test loss ends at 0.982 times the train loss" in text
    assert "Test error ends at 1.34 times the train error" in text
    assert "train (augmented) 0.0140" in text
    assert "test 99.51 %" in text
    best = np.argmin(BN.history["test_loss"]) + 1
    text = said(plot.draw_run(BN.history | {"validation": 10000, "epochs": 60}))
    assert "49 of 10,000 validation images wrong after epoch 50 (ended early, 60 planned)" in text
    assert f"Validation loss ends at 0.982 times the train loss, lowest in epoch {best}" in text
    assert "validation 99.51 %" in text
    assert "test" not in text


@pytest.mark.parametrize("epochs", [1, 50])
def test_the_learning_rate_is_drawn_as_it_is(epochs):
    """A warm-up of 0.32 epochs, or a fifth of a short run, and the fall to 0, which no number an epoch can show."""
    history = COMMITTED["lenet"].history if epochs == 50 else make(epochs=1, learning_rate=[0.05 * 0.5 / 93.8]).history
    for axes in plot.draw_run(history).axes[2:]:
        corners = [[0, 0], [min(150 / 469, 0.2 * epochs), 0.05], [0.8 * epochs, 0.05], [epochs, 0]]
        assert axes.lines[0].get_xydata() == pytest.approx(np.array(corners))
        assert axes.get_xlim() == (0, epochs + 0.5)


@pytest.mark.parametrize("change", [{"learning_rate": [0.1, 0.05, 0.02, 0.01, 0.01, 0.01]}, {"warmup_steps": "none"}])
def test_a_learning_rate_of_another_program_is_drawn_as_it_was_noted(change):
    history = make(**change).history
    assert plot.learning_rates(history) == ([0, 1, 2, 3, 4, 5], history["learning_rate"])  # at each epoch's first step
    del history["learning_rate"], history["decay"]
    plot.draw_run(history)


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
    assert "8 of 100 test images wrong, no confusion more often than 2 taken for 1 (5)" in said(figure)
    assert {"1: 94.0 %", "2: 90.0 %", "3: none"} <= {text.get_text() for text in axes.get_yticklabels()}
    assert "confusion" not in said(plot.draw_confusion(history, {"labels": labels, "predictions": labels}))


@pytest.mark.parametrize("classes", [26, 256])
def test_pictures_of_other_numbers_of_classes(classes):
    arrays = BN.arrays | {"predictions": BN.arrays["predictions"].copy()}
    arrays["predictions"][mistakes(BN.arrays)] = classes - 1
    history = BN.history | {"classes": classes}
    for figure in (plot.draw_confusion(history, arrays), plot.draw_mistakes(history, arrays)):
        assert_clean(figure)
        assert max(figure.get_size_inches()) < 25


@pytest.mark.parametrize("number", [0, 1, 49])
def test_mistakes_are_drawn_with_their_own_words_the_most_confident_first(number):
    wrong = mistakes(BN.arrays)
    arrays = BN.arrays | {"predictions": BN.arrays["predictions"].copy()}
    arrays["predictions"][wrong[number:]] = arrays["labels"][wrong[number:]]
    arrays["mistake_images"] = arrays["mistake_images"][:number]
    figure = plot.draw_mistakes(BN.history | {"test_accuracy": [1 - number / 10000]}, arrays)
    order = np.argsort(-arrays["confidence"][wrong[:number]])[:40]
    words = [text.get_text() for text in figure.axes[0].texts]
    beside = max(7, 2 * max(map(len, words)) - 20) if words else 1
    shown = images_of(figure, 28, 12 if words else 1, beside)[: len(order)]
    assert np.array_equal(shown, arrays["mistake_images"][order])
    for text, image in zip(words, wrong[order], strict=True):
        assert text.startswith(f"{arrays['labels'][image]} → {arrays['predictions'][image]}, ")
        assert float(text.split()[-2]) == pytest.approx(100 * arrays["confidence"][image], abs=0.06)
    text = said(figure)
    assert f"{number} of 10,000 test images wrong" in text
    assert f"{len(order)} of {number}, the most confident first" in text
    assert not number or f"{(arrays['confidence'][wrong[:number]] > 0.9).sum()} of them with a probability" in text


@pytest.mark.parametrize(("number", "side", "words"), [(11, 5, "the 11"), (1, 1, "the 1"), (70, 9, "64 of the 70")])
def test_filters_are_drawn_in_their_order_on_one_scale_around_zero(number, side, words):
    filters = np.random.default_rng(0).normal(size=(number, 1, side, side)).astype(np.float32)
    figure = plot.draw_filters(make("mine").history, {"c1": filters})
    picture, shown = figure.axes[0].images[0], filters[:64, 0]
    assert np.array_equal(images_of(figure, side, 1, 1)[: len(shown)], shown)
    assert picture.get_array().count() == shown.size  # nothing else is drawn
    assert picture.norm.vmax == -picture.norm.vmin == np.abs(shown).max()
    assert f"What mine looks for first: {words} filters of C1 after epoch 6" in said(figure)


def test_augmentation_shows_each_original_beside_its_own_draws():
    figure = plot.draw_augmentation(BN.history, BN.arrays)
    rows = images_of(figure, 28, 12, 7).reshape(10, 9, 28, 28)
    assert np.array_equal(rows[:, 0], BN.arrays["originals"])
    assert np.array_equal(rows[:, 1:], BN.arrays["warped"])
    assert "draws at full strength; in training each image has 0.0 to 1.0 of it" in said(figure)
    plot.draw_augmentation({}, BN.arrays)  # as another version may have written it


def drawn(figure):
    """The curves of the four panels of a comparison, by metric and label."""
    metrics = ("test_loss", "test_accuracy", "train_loss", "train_accuracy")
    found = {}
    for metric, axes in zip(metrics, figure.axes, strict=True):
        for line, text in zip(axes.lines, axes.texts, strict=True):
            found[metric, text.get_text().split("  ")[0]] = line
    return found


def labels(figure):
    return {label for _, label in drawn(figure)}


def test_runs_are_compared_by_all_their_lists():
    runs = [*COMMITTED.values(), make("mine", 50)]
    comparison, networks = plot.draw_comparison(runs, []), plot.draw_networks(curves_of(runs))
    names = ("LeNet-5", "BN-LeNet-5 + augmentation", "Custom-MLP", "mine")
    for row, (run, name) in enumerate(zip(runs, names, strict=True)):
        for index, split in enumerate(("train", "test")):
            values = pytest.approx(run.history[f"{split}_loss"]), errors(run.history[f"{split}_accuracy"])
            for column, (metric, expected) in enumerate(zip(("loss", "accuracy"), values, strict=True)):
                assert drawn(comparison)[f"{split}_{metric}", name].get_ydata() == expected
                assert heights(networks.axes[2 * row + column], index) == expected
    for text in (said(comparison), said(networks)):
        assert "Custom-MLP errs 3.1 times as often as BN-LeNet-5 + augmentation: 152 and 49 of 10,000 MNIST" in text
        assert "one run each, seed 0" in text
    assert "BN-LeNet-5 + augmentation, 62,158 parameters Test loss ends at 0.982 times the train loss" in text


def test_no_difference_is_claimed_that_chance_may_make():
    expected = {(20, 10): "No clear difference: 10 to 20 of", (0, 10): "Custom-MLP errs more often than"}
    for wrong, words in (expected | {(100,): "LeNet-5: 100 of 10,000 MNIST test"}).items():
        runs = [make(model, test_accuracy=[1 - n / 10000] * 6) for model, n in zip(("lenet", "mlp"), wrong)]  # noqa: B905
        assert plot.who_errs_more(curves_of(runs)).startswith(words)


def test_means_of_runs_stand_at_the_ends_and_none_overlap():
    models, seeds = ("lenet", "lenet_bn", "mlp", "mine"), (0, 1)
    kinds = [(model, 2, seed, augment) for model in models for seed in seeds for augment in (False, True)]
    runs = [make(*kind, test_accuracy=[0.9, 0.98 + kind[2] / 100]) for kind in kinds]
    texts = assert_clean(plot.draw_comparison(runs, []))  # eight curves that all end at the same height
    assert sum(text.endswith("  98.50 %") for text in texts) == 8
    assert "mean of 2 runs each, in a band of ± 1 standard deviation" in " ".join(texts)
    assert "mean of 1 to 2 runs" in plot.band_note(curves_of(runs[1:]))


def test_the_readers_own_runs_stand_before_those_of_the_study():
    study = [make(model, seed=seed) for model in ("lenet", "mlp") for seed in (1, 2)]
    figure = plot.draw_comparison([make()], study)
    own, *theirs = (drawn(figure)["test_loss", name] for name in ("LeNet-5", "study: LeNet-5", "study: Custom-MLP"))
    assert own.get_zorder() > theirs[0].get_zorder()
    assert own.get_color() != theirs[0].get_color() == theirs[1].get_color()
    text = said(figure)
    assert "one run each, seed 0; gray: the study, mean of 2 runs each, in a band of ± 1 standard deviation" in text
    same = study[0].history | {"seconds": [9.0] * 6, "threads": [2] * 6, "gradient": [1.0] * 6}
    assert labels(plot.draw_comparison([Run(Path("lenet.json"), same, {})], study)) == {"LeNet-5", "Custom-MLP"}


def test_only_what_was_tested_on_the_same_images_is_compared():
    others = [make(seed=seed, data="other", test_sha256="5a") for seed in range(1, 9)]
    held_out = [make("mlp", seed=seed, validation=9) for seed in (1, 2)]
    tested = [make("mlp", seed=seed) for seed in (3, 4, 5)]
    figure = plot.draw_comparison([*others, *held_out, *tested], [])
    (mean,) = [line.get_ydata() for (metric, _), line in drawn(figure).items() if metric == "test_loss"]
    assert mean[0] == pytest.approx(1.04 * make().history["test_loss"][0])
    assert "not shown, because of other test images: lenet_seed1, lenet_seed2" in said(figure)
    figure = plot.draw_comparison(held_out, tested)
    assert labels(figure) == {"Custom-MLP"}
    assert "Validation accuracy" in said(figure)
    assert "MNIST validation images wrong" in said(figure)


def test_runs_of_one_configuration_that_differ_are_curves_of_their_own():
    runs = [make(seed=1), make(seed=2), make(seed=9, parameters=5), make(name="thursday", epochs=3)]
    runs += [make(name="lenet_batch256", batch_size=256), make(name="tuesday", optimizer={"name": "Adam"})]
    runs += [make(name="friday_seed1", train_sha256="other")]
    found = {label: [history["name"] for history in group] for label, group in curves_of(runs).items()}
    assert found.pop("LeNet-5") == ["lenet_seed1", "lenet_seed2"]
    assert set(found) == {f"LeNet-5, {name}" for name in ("lenet_seed9", "batch256", "tuesday", "thursday", "friday")}
    assert set(curves_of(runs[4:5])) == {"LeNet-5"}  # what all share is no news
    for run in runs[:2]:
        del run.history["max_grad_norm"]  # as another version may have written it
    assert len(curves_of(runs)) == 6


def test_at_most_six_networks_are_drawn_and_of_the_study_where_the_reader_has_none():
    study = [make(model, seed=seed) for model in "abcdefgh" for seed in (1, 2)]
    networks = {name: draw for name, _, draw in plot.drawings([], study)}["networks.png"]
    assert list(networks.args[0]) == list("abcdef")
    assert "networks.png" not in {name for name, _, _ in plot.drawings(study[:2], [])}
