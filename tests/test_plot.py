"""What plot.py draws, says and refuses."""

import io
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

import plot
import results

LAYERS = ("c1", "c3", "c5", "f6", "f7")


def make_history(model="lenet", augment=False, seed=0, epochs=6, **changes):
    """A history as main.py writes it: losses that fall, accuracies that rise."""
    random = np.random.default_rng([len(model), augment, seed])
    fall = np.geomspace(1, 0.05, epochs) * random.uniform(0.9, 1.1, epochs)
    wrong = np.maximum(np.round(300 * fall * (0.7 if augment else 1)), 1)
    history = {
        "name": f"{model}{'_augment' * augment}{f'_seed{seed}' * (seed > 0)}",
        "model": model,
        "augment": augment,
        "seed": seed,
        "epochs": epochs,
        "batch_size": 128,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "parameters": 61_706,
        "data": "MNIST",
        "train_images": 6000,
        "test_images": 1000,
        "test_sha256": "c3f9",
        "train_loss": list(0.5 * fall),
        "train_accuracy": list(1 - 0.2 * fall),
        "test_loss": list(0.3 * fall),
        "test_accuracy": list(1 - wrong / 1000),
        "seconds": [1.0] * epochs,
    }
    return {**history, **changes}


def make_arrays(history):
    """The arrays of such a run: the last epoch's number of mistakes, at random places."""
    random = np.random.default_rng(history["seed"] + 10 * history["augment"])
    images = history["test_images"]
    labels = (np.arange(images) % 10).astype(np.uint8)
    wrong = np.sort(random.choice(images, round((1 - history["test_accuracy"][-1]) * images), replace=False))
    predictions = labels.copy()
    predictions[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    arrays = {
        "labels": labels,
        "predictions": predictions,
        "confidence": random.uniform(0.3, 1, images).astype(np.float32),
        "mistakes": wrong.astype(np.int64),
        "mistake_images": random.integers(0, 256, (len(wrong), 28, 28), dtype=np.uint8),
        "c1": random.normal(size=(6, 1, 5, 5)).astype(np.float32),
    }
    if history["augment"]:
        arrays["originals"] = random.integers(0, 256, (10, 28, 28), dtype=np.uint8)
        arrays["warped"] = random.integers(0, 256, (10, 8, 28, 28), dtype=np.uint8)
    return arrays


def write(folder: Path, history, arrays=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{history['name']}.json").write_text(json.dumps(history))
    if arrays is not None:
        np.savez_compressed(folder / f"{history['name']}.npz", **arrays)


def measured(history):
    """With what the study measures beside: clean training images a little better than the test, gradients by layer."""
    clean = [min(1.0, accuracy + 0.002) for accuracy in history["test_accuracy"]]
    norms = {
        f"gradient_norm_{layer}": [value / (place + 1) for value in history["train_loss"]]
        for place, layer in enumerate(LAYERS)
    }
    return {**history, "clean_train_loss": history["test_loss"], "clean_train_accuracy": clean, **norms}


@pytest.fixture
def folder(tmp_path):
    """Two runs, and a study of six configurations and three seeds."""
    for model in ("lenet", "lenet_bn", "mlp"):
        for augment in (False, True):
            for seed in range(3):
                history = measured(make_history(model, augment, seed))
                write(tmp_path / "study", history, make_arrays(history))
    history = make_history("lenet_bn", True)
    write(tmp_path, history, make_arrays(history))
    write(tmp_path, make_history("mlp"))
    return tmp_path


def run_of(history, arrays=None):
    return results.Run(Path(f"{history['name']}.json"), history, arrays or {})


def refuse(folder, capsys, *options):
    """The single line on stderr with which plot.py ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        plot.main(["--output-dir", str(folder), *options])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def assert_clean(figure):
    """No text that is drawn leaves the figure or overlaps another, and none says nan; returns the texts."""
    assert figure.dpi >= 150
    texts, draw = {}, Text.draw

    def note(self, renderer, *arguments, **options):
        texts[self] = None
        return draw(self, renderer, *arguments, **options)

    Text.draw = note
    try:
        plot.save(figure, io.BytesIO())
    finally:
        Text.draw = draw
    boxes = {text: Text.get_window_extent(text) for text in texts if text.get_visible() and text.get_text().strip()}
    for text, box in boxes.items():
        assert "nan" not in text.get_text()
        assert figure.bbox.padded(1).count_contains([box.p0, box.p1]) == 2, text
    for (one, box), (other, second) in combinations(boxes.items(), 2):
        assert not box.overlaps(second), (one.get_text(), other.get_text())
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in boxes]


# --- the command ------------------------------------------------------------------------------------------------------


def test_everything_is_drawn_from_the_files_alone(folder, capsys):
    plot.main(["--output-dir", str(folder)])
    names = {path.name for path in folder.glob("*.png")}
    run = {f"lenet_bn_augment{ending}.png" for ending in ("", "_confusion", "_mistakes", "_filters")}
    together = {"comparison.png", "augmentation.png", "study.png", "train_test.png", "gradients.png"}
    assert names == run | {"mlp.png"} | together  # of mlp there is no NPZ file, so only its curves
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert set(capsys.readouterr().out.split()) == {str(folder / name) for name in names}


def test_importing_plot_imports_neither_torch_nor_pyplot():
    code = "import sys, plot; print([name for name in ('torch', 'matplotlib.pyplot', 'main') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(plot.__file__).parent)
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_there(tmp_path, capsys):
    assert "train one first" in refuse(tmp_path, capsys)
    assert "python study.py" in refuse(tmp_path, capsys, "--table")
    assert "train one first" in refuse(tmp_path / "absent", capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("\xff", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "expected an object"),
        ("{}", "name is missing"),
        (json.dumps(make_history() | {"augment": "yes"}), 'augment is "yes"'),
        (json.dumps(make_history() | {"epochs": 7}), "train_loss is not a list of 7"),
        (json.dumps(make_history() | {"test_loss": [float("nan")] * 6}), "test_loss is not"),
        (json.dumps(make_history() | {"test_accuracy": [99.0] * 6}), "test_accuracy is not"),
        (json.dumps(make_history() | {"train_loss": [10**400] * 6}), "train_loss is not"),
        (json.dumps(make_history() | {"gradient_norm_c1": [1.0]}), "gradient_norm_c1 is not"),
        (json.dumps(make_history() | {"gradient_norm_c1": 1.0}), "gradient_norm_c1 is not"),
    ],
)
def test_a_damaged_or_foreign_history_is_refused(tmp_path, capsys, content, said):
    (tmp_path / "broken.json").write_text(content, encoding="latin-1")
    message = refuse(tmp_path, capsys)
    assert said in message
    assert str(tmp_path / "broken.json") in message
    assert not list(tmp_path.glob("*.png"))


def test_damaged_or_foreign_arrays_are_refused(tmp_path, capsys):
    history = make_history()
    arrays = make_arrays(history)
    write(tmp_path, history, arrays)
    whole = (tmp_path / "lenet.npz").read_bytes()
    for content in (b"", b"no archive", whole[:-100], whole[:5000] + bytes(1000) + whole[6000:]):
        (tmp_path / "lenet.npz").write_bytes(content)
        assert "lenet.npz: cannot be read as NPZ" in refuse(tmp_path, capsys)
    changes = [
        {"labels": arrays["labels"][:-1]},
        {"labels": arrays["labels"].astype(float)},
        {"labels": arrays["labels"] + np.uint8(1)},
        {"mistakes": arrays["mistakes"][:-1]},
        {"mistake_images": arrays["mistake_images"][0]},
        {"c1": arrays["c1"][0]},
        {"originals": np.zeros((10, 28, 28), np.uint8)},
    ]
    for change in changes:
        np.savez(tmp_path / "lenet.npz", **arrays | change)
        refuse(tmp_path, capsys)


def test_a_study_of_two_recipes_is_refused(folder, capsys):
    write(folder / "study", measured(make_history(seed=7, lr=0.5)))
    assert "lr is 0.5, but 0.1" in refuse(folder, capsys)
    assert "lr is 0.5, but 0.1" in refuse(folder, capsys, "--table")


def test_a_folder_that_cannot_be_written(folder, capsys, monkeypatch):
    def full(path, write):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(plot.files, "replace", full)
    assert "No space left" in refuse(folder, capsys)


# --- figures ----------------------------------------------------------------------------------------------------------

CURVES = {
    "usual": {},
    "one epoch": {"epochs": 1},
    "fifty epochs": {"epochs": 50},
    "augmented": {"augment": True, "model": "lenet_bn", "data": "a folder of digits"},
    "perfect": {"train_accuracy": [1.0] * 6, "test_accuracy": [1.0] * 6, "train_loss": [0.0] * 6},
    "tiny loss": {"train_loss": [0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-4], "train_accuracy": [0.9, 0.99, 1.0, 1.0, 1.0, 1.0]},
    "all wrong": {"train_accuracy": [0.0] * 6, "test_accuracy": [0.0] * 6},
    "level": {"train_accuracy": [0.9] * 6, "test_accuracy": [0.9] * 6},
    "constant": {"train_loss": [0.1] * 6, "test_loss": [0.1] * 6},
    "not finite": {"train_loss": [1.0, *[float("nan")] * 5], "test_loss": [float("inf")] * 6},
    "not finite at all": {"train_loss": [float("nan")] * 6, "test_loss": [float("nan")] * 6},
    "foreign names": {"model": "my_$net$", "data": "a_$b^$"},
}


@pytest.mark.parametrize("changes", CURVES.values(), ids=CURVES)
def test_a_run_is_drawn_without_overlap(changes):
    assert_clean(plot.draw_run(make_history(**changes)))


def test_the_best_epoch_is_marked_and_the_last_stands_at_the_line_ends():
    losses, accuracies = [0.3, 0.0123, 0.02, 0.0456], [0.9, 0.98, 0.991, 0.99]
    history = make_history(epochs=4, test_loss=losses, test_accuracy=accuracies)
    texts = assert_clean(plot.draw_run(history))
    assert "lowest on test: 0.0123, epoch 2" in texts
    assert "highest on test: 99.10 %, epoch 3" in texts
    assert {"test\n0.0456", "test\n99.00 %"} <= set(texts)
    assert any("10 of 1,000 test images wrong" in text for text in texts)


def test_less_than_all_is_never_called_100_per_cent():
    assert results.percent(1) == "100.00 %"
    assert results.percent(0.99999) == "> 99.99 %"
    assert results.percent(0.99994) == "99.99 %"
    assert results.percent(0.9996, 1) == "> 99.9 %"


@pytest.mark.parametrize(("mistakes", "shown"), [(0, None), (1, "1 of 1"), (52, "40 of 52")])
def test_confusion_and_mistakes(mistakes, shown):
    history = make_history("lenet_bn", True, test_accuracy=[1 - mistakes / 1000] * 6)
    arrays = make_arrays(history)
    texts = assert_clean(plot.draw_mistakes(history, arrays))
    assert any(f"{mistakes} of 1,000 test images wrong" in text.replace("\n", " ") for text in texts)
    assert shown is None or any(text.startswith(f"{shown}, the most confident first") for text in texts)
    confidence = [
        float(text.split(", ")[1].rstrip(" %"))
        for text in texts
        if "→" in text and text[0].isdigit() and ":" not in text
    ]
    assert confidence == sorted(confidence, reverse=True)
    assert len(confidence) == min(mistakes, 40)
    texts = assert_clean(plot.draw_confusion(history, arrays))
    assert sum(int(text) for text in texts if text.isdigit()) == 1000 + 2 * sum(range(10))  # cells, and the tick labels


def test_a_digit_that_is_not_in_the_test_set_survives_the_confusion_matrix():
    history = make_history(test_images=5, test_accuracy=[0.8] * 6)
    arrays = make_arrays(history)
    assert "none" in assert_clean(plot.draw_confusion(history, arrays))


def test_filters_and_augmentation():
    history = make_history("lenet_bn", True)
    arrays = make_arrays(history)
    assert_clean(plot.draw_filters(history, arrays))
    assert_clean(plot.draw_filters(history, arrays | {"c1": np.zeros((6, 1, 5, 5), np.float32)}))
    arrays["warped"] = np.repeat(arrays["originals"][:, None], 8, 1)
    assert any(
        "leaves 100 % of the ink" in text.replace("\n", " ") for text in assert_clean(plot.draw_augmentation(arrays))
    )


def test_the_comparison_writes_means_at_the_line_ends_and_none_overlap():
    runs = [
        run_of(
            make_history(model, augment, seed, test_accuracy=[0.9, 0.98 + seed / 100], test_loss=[0.3, 0.02], epochs=2)
        )
        for model in ("lenet", "lenet_bn", "mlp", "mine")
        for augment in (False, True)
        for seed in range(2)
    ]
    texts = assert_clean(plot.draw_comparison(runs))  # eight lines that all end at the same height
    assert sum(text.endswith("98.50 %") and ":" not in text for text in texts) == 8
    assert "Test loss, mean of 2 seeds ± 1 standard deviation" in texts


def test_the_comparison_keeps_to_one_test_set_mnist_first():
    runs = [
        run_of(make_history(name="a-sample", data="sample", test_sha256="5a")),
        *(
            run_of(make_history(name=f"lenet_seed{seed}-sample", seed=seed, data="sample", test_sha256="5a"))
            for seed in range(2, 20)
        ),
        run_of(make_history("mlp")),
        run_of(make_history("lenet", name="lenet", lr=0.5)),
        run_of(make_history("lenet", name="lenet_seed1", seed=1)),
    ]
    texts = assert_clean(plot.draw_comparison(runs))
    assert any(
        text.startswith("not shown, because of other test images: a-sample, lenet_seed2-sample") for text in texts
    )
    assert {text.split("  ")[0] for text in texts if "  " in text} == {
        "Custom-MLP",
        "LeNet-5, lr 0.5",
        "LeNet-5, lr 0.1",
    }


def test_a_run_of_the_study_is_compared_once(folder):
    runs, study = results.read_runs(folder), results.read_runs(folder / "study")
    draw = dict(plot.figures(runs, study))["comparison.png"]
    assert len(draw.args[0]) == len(study) == 18


def test_the_figures_of_the_study(folder):
    groups = results.by_configuration(results.read_runs(folder / "study"))
    assert_clean(plot.draw_study([run for group in groups.values() for run in group]))
    texts = assert_clean(plot.draw_train_test(results.observed_accuracy(groups)))
    assert any("clean training images in 0 %" in text.replace("\n", " ") for text in texts)
    assert_clean(plot.draw_gradients(results.observed_gradients(groups)))


def test_labels_are_spread_as_little_as_possible():
    assert plot.spread([0.5, 0.1, 0.9], 0.2).tolist() == [0.5, 0.1, 0.9]
    assert plot.spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert plot.spread([0.52, 0.5, 0.9], 0.2) == pytest.approx([0.61, 0.41, 0.9])
    assert plot.spread([0.0, 0.0, 0.0], 0.1) == pytest.approx([0, 0.1, 0.2])
    assert plot.spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_quantiles_of_student_t(freedom, expected):
    """The 97.5 % points as every table of the t distribution has them."""
    assert results.t_quantile(freedom) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1),
        (5, 5, 1),  # 2 * (1 + 5 + ... ) is more than 1: cut
        (0, 5, 2 / 32),
        (1, 9, 2 * (1 + 10) / 1024),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_by_hand(b, c, p):
    assert results.mcnemar(b, c) == pytest.approx(p, rel=1e-15)
    assert results.mcnemar(c, b) == results.mcnemar(b, c)


def test_mcnemar_of_hundreds_is_close_to_its_normal_approximation():
    """b + c = 900, b - c = 60: z = 59 / 30 with the correction for continuity, two-sided p = 0.0492."""
    assert results.mcnemar(480, 420) == pytest.approx(0.0492, abs=2e-4)
    assert results.mcnemar(3000, 1000) < 1e-200


def test_half_interval_by_hand():
    """1, 2, 3, 4, 5: standard deviation sqrt(2.5), over sqrt(5), times 2.7764."""
    assert results.half_interval(np.arange(1.0, 6.0)) == pytest.approx(2.7764 * np.sqrt(0.5), abs=1e-4)


def table_cells(text, first):
    """The cells of the rows whose first cell is `first`."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] == first]


def test_the_tables_by_hand(tmp_path, capsys):
    accuracies = {"lenet": ([0.98, 0.99], [0.99, 0.98]), "lenet_bn": ([0.9, 0.995], [0.9, 0.987])}
    for model, seeds in accuracies.items():
        for seed, accuracy in enumerate(seeds):
            history = measured(make_history(model, seed=seed, epochs=2, test_accuracy=accuracy, test_loss=[0.04, 0.02]))
            labels = np.zeros(1000, np.uint8)
            wrong = np.arange(round(1000 * (1 - accuracy[-1]))) + (5 if model == "lenet_bn" else 0)
            predictions = labels.copy()
            predictions[wrong] = 1
            arrays = {"labels": labels, "predictions": predictions, "mistakes": wrong.astype(np.int64)}
            arrays |= {
                "confidence": np.ones(1000, np.float32),
                "mistake_images": np.zeros((len(wrong), 28, 28), np.uint8),
            }
            write(tmp_path / "study", history, arrays)
    plot.main(["--output-dir", str(tmp_path), "--table"])
    text = capsys.readouterr().out
    summary = table_cells(text, "`lenet`")[0]
    # last epochs 99 and 98 %: mean 98.5, deviation sqrt(0.5) = 0.71; best epochs 99 and 99 %
    assert summary[1:] == ["61,706", "2", "98.50 ± 0.71 %", "0.0200 ± 0.0000", "99.00 ± 0.00 %", "0.0200 ± 0.0000"]
    _, paired, *tests = table_cells(text, "`lenet_bn`")
    # differences 0.5 and 0.7 points: mean 0.6, deviation 0.1414, half 12.7062 * 0.1414 / sqrt(2) = 1.2706
    assert paired[1:] == ["2", "+0.60 [-0.67, +1.87]", "+0.0000 [+0.0000, +0.0000]"]
    # seed 0: wrong 0..9 against 5..9; seed 1: 0..19 against 5..17, so b = 0 and c = 5, then 7
    assert [row[1:] for row in tests[:2]] == [["0", "0", "5", "0.0625"], ["1", "0", "7", "0.0156"]]
    widths = {}
    for block in text.split("\n\n"):
        if block.startswith("|"):
            widths[block] = {len(line) for line in block.splitlines()}
    assert all(len(width) == 1 for width in widths.values())  # aligned in the source as well


def test_the_tables_of_the_observations(folder, capsys):
    plot.main(["--output-dir", str(folder), "--table"])
    text = capsys.readouterr().out
    last = table_cells(text, "`lenet --augment`")[-1]
    assert last[1] == "last"
    assert last[-1] == "0 of 18"  # three runs of six epochs; clean training images are always ahead
    gradients = table_cells(text, "`lenet`")[-1]
    first_layer = np.mean([make_history(seed=seed)["train_loss"][-1] for seed in range(3)])
    assert gradients[1] == "6"
    assert gradients[2] == f"{first_layer:.2g}"
    assert gradients[-1] == f"{first_layer:.2g}"


def test_tables_that_lack_their_data_are_left_out(tmp_path, capsys):
    write(tmp_path / "study", make_history("mlp", True))
    plot.main(["--output-dir", str(tmp_path), "--table"])
    text = capsys.readouterr().out
    assert text.count("| configuration") == 1
    assert "nan" not in text
    plot.main(["--output-dir", str(tmp_path)])
    assert {path.name for path in tmp_path.glob("*.png")} == {"comparison.png", "study.png"}
