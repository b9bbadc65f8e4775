"""What runs have left in result_plot/: read and checked, compared, and put into tables. No torch, no data set."""

import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

NAMES = {"lenet": "LeNet-5", "lenet_bn": "BN-LeNet-5", "mlp": "Custom-MLP"}  # in figures, in this order
STUDY = "study"  # the folder of its runs, within that of the others
BASELINE = ("lenet", False)  # what the others are compared with
OBSERVED = ("lenet", "lenet_bn")  # the networks of the two observations of the study
RECIPE = ("epochs", "batch_size", "lr", "weight_decay")
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
CLEAN_CURVES = ("clean_train_loss", "clean_train_accuracy")
GRADIENT_NORM = "gradient_norm_"  # in front of a layer's name


class ResultsError(Exception):
    """A file that is missing, damaged or foreign. The message says which, what was expected and what to do."""


class Run(NamedTuple):
    """One run as its files hold it; `arrays` is empty where there is no NPZ file."""

    path: Path
    history: dict
    arrays: dict[str, np.ndarray]

    @property
    def configuration(self) -> tuple[str, bool]:
        return self.history["model"], self.history["augment"]


Groups = dict[tuple[str, bool], list[Run]]  # the runs of each configuration: model, augment


# --- reading ----------------------------------------------------------------------------------------------------------

FIELDS = {
    **dict.fromkeys(("name", "model", "data", "test_sha256"), str),
    **dict.fromkeys(("seed", "epochs", "batch_size", "parameters", "train_images", "test_images"), int),
    **dict.fromkeys(("lr", "weight_decay"), (int, float)),
    "augment": bool,
}
ARRAYS = {  # type and number of dimensions
    **{"labels": ("uint8", 1), "predictions": ("uint8", 1), "confidence": ("float32", 1), "mistakes": ("int64", 1)},
    **{"mistake_images": ("uint8", 3), "c1": ("float32", 4), "originals": ("uint8", 3), "warped": ("uint8", 4)},
}


def read_runs(folder: Path) -> list[Run]:
    """All runs in `folder`, ordered by configuration and seed. Raises ResultsError on the first bad file."""
    runs = []
    for path in sorted(folder.glob("*.json")):
        history = read_history(path)
        runs.append(Run(path, history, read_arrays(path.with_suffix(".npz"), history)))
    return sorted(runs, key=rank)


def rank(run: Run) -> tuple:
    """The order of runs in figures and tables: that of NAMES, then the models of others by name."""
    model, augment = run.configuration
    return list(NAMES).index(model) if model in NAMES else len(NAMES), model, augment, run.history["seed"]


def read_history(path: Path) -> dict:
    """The history in a JSON file, with every field that a figure needs. Raises ResultsError."""
    try:
        history = json.loads(path.read_bytes())
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(
            f"{path}: is no JSON ({error}); expected the history of a run of main.py: move it away"
        ) from None
    problem = history_problem(history)
    if problem:
        raise ResultsError(f"{path}: is no history of main.py: {problem}; train that run again, or move the file away")
    return history


def history_problem(history: object) -> str | None:
    """What keeps a value from being a history, or None."""
    if not isinstance(history, dict):
        return f"expected an object, found {type(history).__name__}"
    for field, kind in FIELDS.items():
        if not isinstance(history.get(field), kind) or (isinstance(history[field], bool) and kind is not bool):
            return f"{field} is {json.dumps(history[field]) if field in history else 'missing'}"
    for field in ("epochs", "train_images", "test_images"):
        if history[field] < 1:
            return f"{field} is {history[field]}, expected at least 1"
    lists = {curve: history.get(curve) for curve in CURVES}
    lists |= {curve: history[curve] for curve in CLEAN_CURVES if curve in history}
    lists |= {name: values for name, values in history.items() if name.startswith(GRADIENT_NORM)}
    for name, values in lists.items():
        if not is_curve(values, history["epochs"], 1 if name.endswith("accuracy") else math.inf):
            return f"{name} is not a list of {history['epochs']} finite numbers, one an epoch, in its range"
    return None


def is_curve(values: object, epochs: int, most: float) -> bool:
    """Whether `values` is a list of `epochs` finite numbers from 0 to `most`."""
    if not isinstance(values, list) or len(values) != epochs:
        return False
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return numbers and all(0 <= value <= min(most, sys.float_info.max) for value in values)


def read_arrays(path: Path, history: dict) -> dict[str, np.ndarray]:
    """The arrays beside a history; none if there is no such file. Raises ResultsError."""
    if not path.exists():
        return {}
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        problem = arrays_problem(arrays, history["test_images"])
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds, all meaning this
        problem = f"cannot be read as NPZ ({type(error).__name__}: {error})"
    if problem:
        raise ResultsError(f"{path}: {problem}; train that run again, or move the file away")
    return arrays


def arrays_problem(arrays: dict[str, np.ndarray], images: int) -> str | None:
    """What keeps arrays from being those of a run that was tested on so many images, or None."""
    for name, (kind, dimensions) in ARRAYS.items():
        if name in arrays and (arrays[name].dtype != kind or arrays[name].ndim != dimensions):
            return f"expected {name} as {kind} in {dimensions} dimensions"
    for name in ("labels", "predictions", "confidence"):
        if name not in arrays or len(arrays[name]) != images:
            return f"expected {name} of {images:,} test images, as its history says"
    if max(arrays["labels"].max(), arrays["predictions"].max()) > 9:
        return "expected labels and predictions from 0 to 9"
    wrong = np.flatnonzero(arrays["labels"] != arrays["predictions"])
    if not np.array_equal(arrays["mistakes"], wrong) or len(arrays["mistake_images"]) != len(wrong):
        return "expected as mistakes the images whose prediction is not the label"
    originals, warped = (arrays[name].shape if name in arrays else () for name in ("originals", "warped"))
    if originals != warped[:1] + warped[2:]:
        return "originals and warped do not belong together"
    return None


# --- choosing and naming ----------------------------------------------------------------------------------------------


def table_name(configuration: tuple[str, bool]) -> str:
    """As on the command line of main.py."""
    model, augment = configuration
    return f"`{model} --augment`" if augment else f"`{model}`"


def figure_name(configuration: tuple[str, bool]) -> str:
    model, augment = configuration
    return NAMES.get(model, model) + (" + augmentation" if augment else "")


def percent(fraction: float, digits: int = 2) -> str:
    """In per cent; what is less than 1 is never rounded up to 100 %."""
    text = f"{100 * fraction:.{digits}f} %"
    return f"> {100 - 10**-digits:.{digits}f} %" if fraction < 1 and text.startswith("100") else text


def same_data(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs on one test set, MNIST's if there are any, and the names of the others."""
    on_mnist = [run for run in runs if run.history["data"] == "MNIST"]
    chosen = (on_mnist or runs)[0].history["test_sha256"]
    left_out = [run.path.stem for run in runs if run.history["test_sha256"] != chosen]
    return [run for run in runs if run.history["test_sha256"] == chosen], left_out


def recipe(run: Run) -> tuple:
    return tuple(run.history[setting] for setting in RECIPE)


def identity(run: Run) -> tuple:
    """What two files of the same training share."""
    return run.configuration, run.history["seed"], recipe(run), run.history["test_sha256"]


def by_configuration(runs: list[Run]) -> Groups:
    groups: Groups = {}
    for run in runs:
        groups.setdefault(run.configuration, []).append(run)
    return groups


def by_name(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs of the same configuration and recipe, by a name which tells recipes apart where there are several."""
    names: dict[str, list[Run]] = {}
    for configuration, group in by_configuration(runs).items():
        recipes = list(dict.fromkeys(recipe(run) for run in group))
        differing = [place for place in range(len(RECIPE)) if len({one[place] for one in recipes}) > 1]
        for one in recipes:
            settings = "".join(f", {RECIPE[place].replace('_', ' ')} {one[place]:g}" for place in differing)
            names[figure_name(configuration) + settings] = [run for run in group if recipe(run) == one]
    return names


def stack(runs: list[Run], metric: str) -> np.ndarray:
    """That list of each run: (runs, epochs)."""
    return np.array([run.history[metric] for run in runs], dtype=float)


def layers_of(run: Run) -> tuple[str, ...]:
    """The layers whose gradients were measured."""
    return tuple(name.removeprefix(GRADIENT_NORM) for name in run.history if name.startswith(GRADIENT_NORM))


def gradient_norms(runs: list[Run], layer: str) -> np.ndarray:
    return stack(runs, GRADIENT_NORM + layer)


def test_above(runs: list[Run], metric: str) -> np.ndarray:
    """(runs, epochs), true where the test accuracy is above that other accuracy."""
    return stack(runs, "test_accuracy") > stack(runs, metric)


def observed_accuracy(groups: Groups) -> Groups:
    """The augmented configurations whose accuracy on clean training images was measured in every run."""
    keys = [(model, True) for model in OBSERVED]
    present = [key for key in keys if key in groups]
    return {key: groups[key] for key in present if all("clean_train_accuracy" in run.history for run in groups[key])}


def observed_gradients(groups: Groups) -> Groups:
    """The two configurations whose gradients are compared, if both have them for the same layers; else nothing."""
    keys = [(model, False) for model in OBSERVED]
    measured = {layers_of(run) for key in keys for run in groups.get(key, [])}
    complete = all(key in groups for key in keys) and len(measured) == 1 and measured != {()}
    return {key: groups[key] for key in keys} if complete else {}


def check_study(study: list[Run]) -> None:
    """Raises ResultsError unless all runs share test images and recipe: only the named thing may differ in a study."""
    for run in study:
        for field in ("test_sha256", *RECIPE):
            first, here = study[0].history[field], run.history[field]
            if here != first:
                raise ResultsError(
                    f"{run.path}: {field} is {here}, but {first} in {study[0].path}; "
                    "a study has one recipe and one test set: move the runs of the other away"
                )


def seed_pairs(base: list[Run], group: list[Run]) -> list[tuple[Run, Run]]:
    """The runs of both that share a seed."""
    seeds = {run.history["seed"]: run for run in base}
    return [(seeds[run.history["seed"]], run) for run in group if run.history["seed"] in seeds]


# --- statistics -------------------------------------------------------------------------------------------------------


def t_probability(t: float, freedom: int) -> float:
    """P(|T| < t) for Student's t with whole degrees of freedom: the finite sums of Abramowitz and Stegun, 26.7.3-4."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for step in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (step + 1) / (step + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def t_quantile(freedom: int) -> float:
    """The t that |T| exceeds with a probability of 5 %, by bisection."""
    low, high = 1.9, 13.0  # 1.96 for endless degrees of freedom, 12.71 for one
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def half_interval(values: np.ndarray) -> float:
    """Half the width of the 95 % confidence interval of the mean, after Student; of two values or more."""
    return t_quantile(len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))


def mcnemar(b: int, c: int) -> float:
    """Two-sided exact p value of McNemar's test: how likely b to c, or a split less even, is when both are as likely.

    b and c are the images that only the one and only the other network gets right. Computed in whole numbers, with a
    single rounding at the end, so any size will do.
    """
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2 ** (b + c))


def discordant(one: Run, other: Run) -> tuple[int, int]:
    """How many test images only `one` gets right, and how many only `other` does."""
    right, other_right = (run.arrays["predictions"] == run.arrays["labels"] for run in (one, other))
    return int((right & ~other_right).sum()), int((~right & other_right).sum())


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(study: list[Run]) -> str:
    """All tables of the study as Markdown. Raises ResultsError if the runs are not of one recipe."""
    check_study(study)
    groups = by_configuration(study)
    parts = [table(groups) for table in (summary_table, paired_table, mcnemar_table, accuracy_table, gradient_table)]
    return "\n\n".join(part for part in parts if part)


def markdown(caption: str, header: list[str], rows: list[list[str]]) -> str:
    """A caption and a table whose columns are aligned in the source as well: the first left, the others right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: list[str]) -> str:
        pairs = zip(cells, widths, strict=True)
        return "| " + " | ".join(f"{c:{'>' if place else '<'}{w}}" for place, (c, w) in enumerate(pairs)) + " |"

    rule = "| " + " | ".join("-" * (width - 1) + (":" if place else "-") for place, width in enumerate(widths)) + " |"
    return "\n".join([caption, "", line(header), rule, *map(line, rows)])


def mean_deviation(values: np.ndarray, metric: str) -> str:
    scale, digits, unit = (100, 2, " %") if metric.endswith("accuracy") else (1, 4, "")
    deviation = f" ± {scale * values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * values.mean():.{digits}f}{deviation}{unit}"


def summary_table(groups: Groups) -> str:
    header = ["configuration", "parameters", "seeds", "last epoch: accuracy", "loss", "best epoch: accuracy", "loss"]
    rows = []
    for configuration, group in groups.items():
        accuracy, loss = stack(group, "test_accuracy"), stack(group, "test_loss")
        row = [table_name(configuration), f"{group[0].history['parameters']:,}", str(len(group))]
        row += [mean_deviation(accuracy[:, -1], "accuracy"), mean_deviation(loss[:, -1], "loss")]
        row += [mean_deviation(accuracy.max(1), "accuracy"), mean_deviation(loss.min(1), "loss")]
        rows.append(row)
    caption = (
        "Test set, mean ± standard deviation over the seeds. The best epoch (highest accuracy, lowest loss) is chosen "
        "on the test set itself, so it flatters; the last epoch is not chosen."
    )
    return markdown(caption, header, rows)


def paired_table(groups: Groups) -> str:
    """Empty unless a configuration shares two seeds or more with the baseline."""
    rows = []
    for configuration, group in groups.items():
        pairs = seed_pairs(groups.get(BASELINE, []), group)
        if configuration == BASELINE or len(pairs) < 2:
            continue
        row = [table_name(configuration), str(len(pairs))]
        for metric, scale, digits in (("test_accuracy", 100, 2), ("test_loss", 1, 4)):
            change = np.array([run.history[metric][-1] - base.history[metric][-1] for base, run in pairs]) * scale
            mean, half = change.mean(), half_interval(change)
            row.append(f"{mean:+z.{digits}f} [{mean - half:+z.{digits}f}, {mean + half:+z.{digits}f}]")
        rows.append(row)
    caption = (
        f"Last epoch, difference to {table_name(BASELINE)} with the same seed: mean and 95 % confidence interval of "
        "Student's t. Where the interval holds 0, these seeds show no difference."
    )
    return markdown(caption, ["configuration", "pairs", "accuracy, points", "loss"], rows) if rows else ""


def mcnemar_table(groups: Groups) -> str:
    """Empty unless a LeNet-5 of another configuration shares a seed with the baseline, both with predictions."""
    rows = []
    for configuration, group in groups.items():
        if configuration == BASELINE or configuration[0] not in OBSERVED:
            continue
        for base, run in seed_pairs(groups.get(BASELINE, []), group):
            if base.arrays and run.arrays:
                b, c = discordant(base, run)
                p = mcnemar(b, c)
                p = "< 0.0001" if p < 0.0001 else f"{p:.4f}"
                rows.append([table_name(configuration), str(run.history["seed"]), str(b), str(c), p])
    name = table_name(BASELINE)
    caption = (
        f"Exact McNemar test against {name} on the test images, one pair of networks a row. Each p is about its two "
        "networks only; the pairs share their test images, so the p values are not combined: whether a technique "
        "helps in general is what the paired differences above say."
    )
    header = ["configuration", "seed", f"right only with {name}", "right only with this one", "p"]
    return markdown(caption, header, rows) if rows else ""


def accuracy_table(groups: Groups) -> str:
    """Empty unless there are augmented runs with the clean accuracy measured."""
    rows = []
    for configuration, group in observed_accuracy(groups).items():
        for epoch in (0, -1):
            metrics = ("train_accuracy", "clean_train_accuracy", "test_accuracy")
            row = [table_name(configuration), "first" if epoch == 0 else "last"]
            row += [mean_deviation(stack(group, metric)[:, epoch], metric) for metric in metrics]
            for metric in metrics[:2]:
                above = test_above(group, metric)
                row.append("" if epoch == 0 else f"{above.sum()} of {above.size}")
            rows.append(row)
    header = ["configuration", "epoch", "train, augmented, as it ran", "train, clean, evaluated", "test"]
    header += ["test above augmented", "test above clean"]
    caption = (
        "Accuracy on training images augmented and measured while the epoch ran, on clean ones in evaluation "
        "mode after it, and on the test set: mean ± standard deviation over the seeds. The last two columns count the "
        "epochs of all runs."
    )
    return markdown(caption, header, rows) if rows else ""


def gradient_table(groups: Groups) -> str:
    """Empty unless the gradients of networks with and without batch normalization were measured."""
    observed = observed_gradients(groups)
    rows, layers = [], []
    for configuration, group in observed.items():
        layers, epochs = layers_of(group[0]), group[0].history["epochs"]
        for epoch in sorted({1, (epochs + 1) // 2, epochs}):
            row = [table_name(configuration), str(epoch)]
            row += [f"{gradient_norms(group, layer)[:, epoch - 1].mean():.2g}" for layer in layers]
            rows.append([*row, f"{stack(group, 'train_loss')[:, epoch - 1].mean():.2g}"])
    caption = (
        "L2 norm of each layer's gradient of the mean loss on a fixed batch of training images, and the train loss of "
        "the epoch: means over the seeds."
    )
    header = ["configuration", "epoch", *(layer.upper() for layer in layers), "train loss"]
    return markdown(caption, header, rows) if rows else ""
