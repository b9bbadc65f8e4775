"""The record of a run: its name, its files, its fields; made, written and read here. No torch.

A history is flat: scalars, and lists of one number an epoch, so that `pandas.read_json(path)` is a table of a row an
epoch. It says what was used. Beside it, in NAME.npz, stand the arrays that figures and tests are made from.

scalars  name; SETTINGS; RECIPE, and how an augmented run was augmented; parameters, network_sha256; train_images,
         test_images, train_sha256, test_sha256; device, python_version, torch_version, ...; what a callback measured
         once; digest (see `with_digest`)
lists    LISTS; what a callback measured after every epoch
arrays   labels, predictions uint8 (images,); confidence float32 (images,), the probability of the prediction;
         log_probability float16 (images,), of the right label; mistake_images uint8 (wrong, 28, 28); c1 float32,
         filters; of augmented runs originals uint8 (classes, 28, 28), the first training image of each class, and
         warped uint8 (classes, DRAWS, 28, 28), as the augmentation at full strength draws them

With `validation` above 0, what is called test is of that many training images, held out in place of the test set.
"""

import hashlib
import json
import math
import platform
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from support.files import check_unpacked, open_regular
from support.terminal import UserError, printable

History = dict[str, Any]

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
LISTS = (*METRICS, "learning_rate", "threads", "processes")  # the learning rate at an epoch's first step
# How the name of a run says what differs from the defaults; and what two runs share that are the same training.
NAMED = {"epochs": "epochs", "batch_size": "batch", "lr": "lr", "weight_decay": "decay", "validation": "validation"}
SETTINGS = ("model", "data", "augment", *NAMED, "classes", "seed")
RECIPE = (  # the constants of the program that trained it
    *("optimizer", "momentum", "nesterov", "max_grad_norm", "warmup_steps", "max_warmup", "decay"),
    *("averaging", "bn_images", "mean", "std", "padding"),
)
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "matplotlib")  # whose versions a history names
FIELDS: dict[str, type] = {  # that every reader may count on
    **dict.fromkeys(("name", "model", "data", "test_sha256", "digest"), str),
    **dict.fromkeys(("epochs", "batch_size", "validation", "classes", "seed", "parameters"), int),
    **dict.fromkeys(("train_images", "test_images"), int) | {"augment": bool, "lr": float},
    **dict.fromkeys(METRICS, list),
}
DRAWS = 8  # warps of each digit that an augmented run keeps, to be looked at
MAX_HISTORY = 64 * 2**20  # bytes: a million epochs take less
MAX_NAME, MAX_DATA = 100, 60  # bytes, of a name that is given and of the data's in it: file systems take 255 in all


class Run(NamedTuple):
    """A run as its files hold it; `arrays` is empty where there is no NPZ file."""

    path: Path
    history: History
    arrays: dict[str, np.ndarray]


def check_name(name: str) -> None:
    """Raises UserError where files of a run cannot have that name, or the weights of another run have it."""
    if not re.fullmatch(r"\w[\w.-]*(?<!\.weights)", name) or len(name.encode()) > MAX_NAME:
        expected = f"expected at most {MAX_NAME} letters, digits, dots, underlines and hyphens, not .weights at its end"
        raise UserError(f"--name {printable(name)}: no name for a run's files; {expected}")


def run_name(settings: History, defaults: History) -> str:
    """MODEL[-DATA][_augment][_epochsN][_batchN][_lrX][_decayX][_validationN][_seedN]: the stem of all files of a run.

    It says everything in which the run differs from `defaults`; DATA is left out where the data are MNIST.
    """
    data = re.sub(r"[^\w-]+", "-", settings["data"]).encode()[:MAX_DATA].decode(errors="ignore").strip("-")
    parts = [settings["model"] + ("" if settings["data"] == "MNIST" else f"-{data or 'data'}")]
    parts += ["augment"] * settings["augment"]
    named = NAMED | {"seed": "seed"}
    parts += [f"{word}{settings[key]}" for key, word in named.items() if settings[key] != defaults[key]]
    return "_".join(parts)


def new_history(told: History, defaults: History, facts: History) -> History:
    """The history of a run before its first epoch.

    told: the fields of main.Settings, whose defaults `defaults` are. facts: data, classes, and how and on what it is
    trained besides.
    """
    settings = {name: (told | facts)[name] for name in SETTINGS}
    versions = {"python_version": platform.python_version()} | {f"{name}_version": version(name) for name in PACKAGES}
    name = {"name": told["name"] or run_name(settings, defaults)}
    return name | settings | facts | versions | {name: [] for name in LISTS}


def epochs_done(history: History) -> int:
    return len(history["train_loss"])


def add_epoch(history: History, metrics: dict[str, float], values: dict[str, Any] | None = None) -> None:
    """Append the run's own metrics and what a callback measured, a list each. Raises UserError as `measured` does."""
    taken = {name for name, value in history.items() if name in LISTS or not isinstance(value, list)}
    for name, number in (metrics | measured(taken, values)).items():
        history.setdefault(name, []).append(number)
    done = epochs_done(history)
    if odd := [name for name, value in history.items() if isinstance(value, list) and len(value) != done]:
        problem = f"a callback measured {printable(', '.join(odd))[:200]} after some epochs only"
        raise UserError(f"{problem}: that is of another run; go on with the callback that it was begun with")


def measured(taken: Collection[str], values: dict[str, Any] | None) -> dict[str, float]:
    """What a callback measured, as Python's own numbers: no file takes numpy's or torch's.

    Raises UserError for a name that is taken, as in a history, or no number.
    """
    numbers: dict[str, float] = {}
    for name, value in (values or {}).items():
        if name in taken or name == "digest":
            raise UserError(f"a callback measured {printable(name)}, which the history holds already: rename it")
        with suppress(TypeError, ValueError, RuntimeError, OverflowError):
            numbers[name] = float(value)
        if not math.isfinite(numbers.get(name, math.nan)):
            raise UserError(f"a callback measured {printable(name)} = {printable(value)}; expected one finite number")
    return numbers


def held_out(history: History) -> str:
    """What the images are called that the run was tested on."""
    return "validation" if history["validation"] else "test"


def epoch_line(history: History) -> str:
    """The last epoch in one line, aligned, each metric behind its name."""
    epochs, word = str(history["epochs"]), held_out(history)
    train_loss, train_accuracy, test_loss, test_accuracy, seconds = (history[name][-1] for name in METRICS)
    return (
        f"epoch {epochs_done(history):>{len(epochs)}}/{epochs}"
        f"  train loss {train_loss:.4f}  train accuracy {train_accuracy:7.2%}"
        f"  {word} loss {test_loss:.4f}  {word} accuracy {test_accuracy:7.2%}  {seconds:5.1f} s"
    )


def summary(history: History) -> str:
    """The best and the last epoch on the test set, in three lines."""
    loss, accuracy, word = np.array(history["test_loss"]), np.array(history["test_accuracy"]), held_out(history)
    return (
        f"lowest {word} loss       {loss.min():.4f} in epoch {loss.argmin() + 1}\n"
        f"highest {word} accuracy {accuracy.max():7.2%} in epoch {accuracy.argmax() + 1}\n"
        f"last epoch {'':<{len(word)}}        {loss[-1]:.4f} and {accuracy[-1]:.2%}"
    )


def resumed(saved: History, now: History) -> History:
    """The history of a run that is resumed: what it was trained with before and what it is from now on, both named."""
    used = [field for field in now if field == "device" or field.endswith("_version")]
    changed = [field for field in used if now[field] not in saved[field].split(", ")]
    return saved | {field: f"{saved[field]}, {now[field]}" for field in changed}


def differences(saved: History, now: History) -> list[str]:
    """In which settings, recipe, network and data two runs differ, in words.

    Data are told apart by their digests alone, whatever they are called and however many they are.
    """
    ignored = (*LISTS, "name", "data", "device", "digest")
    fields = [field for field in now if field not in ignored and not field.endswith(("_version", "_images"))]
    different = [field for field in fields if saved.get(field) != now[field]]
    return [printable(f"{field} {str(saved.get(field))[:12]} there, {now[field]!s:.12} here") for field in different]


def with_digest(history: History) -> History:
    """The finished history with its digest, by which its files know one another.

    Two trainings that gave the same figures, however long they took, have the same digest.
    """
    kept = {name: value for name, value in history.items() if name not in ("seconds", "digest")}
    return history | {"digest": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()}


def write_history(history: History, file: BinaryIO) -> None:
    """As JSON, each field on a line of its own."""
    fields = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in history.items())
    file.write(("{\n" + ",\n".join(fields) + "\n}\n").encode())


def write_arrays(arrays: dict[str, np.ndarray], history: History, file: BinaryIO) -> None:
    np.savez_compressed(file, digest=np.array(history["digest"]), **arrays)  # type: ignore[arg-type]


def read_runs(folder: Path) -> list[Run]:
    """All runs in a folder, in the order of their names. Raises UserError on the first bad file."""
    return [read_run(path) for path in sorted(folder.glob("[!.]*.json"))]


def read_run(path: Path) -> Run:
    """The finished run of a JSON file, with FIELDS, and of the NPZ beside it, if there is one. Raises UserError."""
    with reading(path) as file:
        history: History = json.loads(file.read(MAX_HISTORY))
        if wrong := [name for name, kind in FIELDS.items() if not isinstance(dict(history).get(name), kind)]:
            raise ValueError(f"{', '.join(wrong)}: missing, or of another type")
        lists = np.array([values for values in history.values() if isinstance(values, list)], float)  # of one length
        if not lists.size or not np.isfinite(lists).all():
            raise ValueError("its lists are empty, or hold what is no finite number")
    arrays: dict[str, np.ndarray] = {}
    if (beside := path.with_suffix(".npz")).exists():
        with reading(beside) as file:
            check_unpacked(file)
            arrays = dict(np.load(file, allow_pickle=False))
            if str(arrays.pop("digest")) != history["digest"]:
                raise ValueError(f"it is of another run than {path.name}")
    return Run(path, history, arrays)


@contextmanager
def reading(path: Path, advice: str = "train that run again, or move the file away") -> Iterator[BinaryIO]:
    """A file of a run, opened. Raises UserError for whatever json, numpy and torch find wrong in it: a dozen kinds."""
    try:
        with open_regular(path) as file:
            yield file
    except Exception as error:
        damaged = error if isinstance(error, ValueError) else "it is damaged, or no file of main.py"
        problem = printable(getattr(error, "strerror", None) or damaged)[:300]
        raise UserError(f"{printable(path)}: cannot be read: {problem}; {advice}") from None


def mistakes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Positions of the test images whose prediction is not the label, int64, in their order."""
    return np.flatnonzero(arrays["labels"] != arrays["predictions"])
