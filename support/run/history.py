"""The record of a run: its fields, its name, its files; made, written, read and checked here. No torch.

A history is flat: scalars, and lists of one number an epoch, so that `pandas.read_json(path)` is a table of a row an
epoch. It says what was used. Beside it, in NAME.npz, stand the arrays that figures and tests are made from.

Names of what `plot.py` and the study read:

scalars  name, model, data, augment, epochs (planned), batch_size, lr (the highest), weight_decay, classes, seed; the
         recipe as main.py wrote it (optimizer, momentum, warmup_steps, decay, averaging, and of augmented runs rotation,
         translation, min_crop, augment_strength_min, augment_strength_max); parameters, train_images, test_images,
         train_sha256, test_sha256; device, python_version, torch_version, ...; digest (see `with_digest`)
lists    METRICS; learning_rate (at the first step), threads, processes; of a study also what it observed
arrays   ARRAYS
"""

import hashlib
import json
import math
import os
import platform
import re
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from support.files import open_regular
from support.terminal import UserError, printable

History = dict[str, Any]

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")
LISTS = (*METRICS, "learning_rate", "threads", "processes")
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "matplotlib")  # whose versions a history names
# What two runs must share to be the same training, and what a name says where it differs from the defaults.
SETTINGS = (
    *("model", "data", "augment", "epochs", "batch_size", "lr", "weight_decay", "validation", "classes", "seed"),
)
# The rest of the recipe: constants of the program that trained it.
RECIPE = (
    "optimizer",
    "momentum",
    "nesterov",
    "max_grad_norm",
    "warmup_steps",
    "max_warmup",
    "decay",
    "averaging",
    "bn_images",
)
NAMED = {"epochs": "epochs", "batch_size": "batch", "lr": "lr", "weight_decay": "decay", "validation": "validation"}
ENDINGS = (".npz", ".json", ".png")  # of a result, in the order in which they are written: the picture comes last
MAX_NAME = 200  # bytes; file systems take 255, of which endings need some
MAX_DATA = 60  # bytes, of a name: what else stands in it may need 135
MAX_HISTORY = 64 * 2**20  # bytes: a million epochs take less
MAX_FIGURE = 1e30  # beyond it a curve cannot be drawn

SCALARS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "model", "data", "train_sha256", "test_sha256", "digest"), str),
    **dict.fromkeys(("seed", "epochs", "batch_size", "classes", "parameters", "train_images", "test_images"), int),
    **dict.fromkeys(("lr", "weight_decay"), (int, float)),
    "augment": bool,
}


RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("epochs", "batch_size", "train_images", "test_images"), (1, 10**6)),
    **dict.fromkeys(("lr", "weight_decay"), (0, sys.float_info.max)),
    "classes": (2, 256),
    "seed": (0, 2**63 - 1),
    "parameters": (0, 2**63 - 1),
}


class Run(NamedTuple):
    """A run as its files hold it; `arrays` is empty where there is no NPZ file."""

    path: Path
    history: History
    arrays: dict[str, np.ndarray]


# --- the name ---------------------------------------------------------------------------------------------------------


def run_name(settings: History, defaults: History) -> str:
    """MODEL[-DATA][_augment][_epochsN][_batchN][_lrX][_decayX][_classesN][_seedN]: the stem of all files of a run.

    It says everything in which the run differs from `defaults`; DATA is left out where the data are MNIST.
    """
    parts = [settings["model"] + ("" if settings["data"] == "MNIST" else f"-{clean_name(settings['data'])}")]
    parts += ["augment"] * settings["augment"]
    parts += [f"{word}{settings[key]}" for key, word in NAMED.items() if settings[key] != defaults[key]]
    parts += [f"seed{settings['seed']}"] * (settings["seed"] != defaults["seed"])
    return "_".join(parts)


def clean_name(text: str) -> str:
    """A folder's name as a part of a file's name: letters of any language, digits, underlines, hyphens."""
    cleaned = re.sub(r"[^\w-]+", "-", text).encode()[:MAX_DATA].decode(errors="ignore")
    return cleaned.strip("-") or "data"


# what plot.py and study.py call their own figures
FIGURES = {"comparison", "networks", "augmentation", "study", "differences", "train_test", "gradients", "moved"}
PARTS = (".weights", "_confusion", "_mistakes", "_filters")  # how the names of a run's other files end


def is_name(text: str) -> bool:
    """Whether a run may have that name: no other file in its folders has it, on any file system."""
    clean = re.fullmatch(r"\w[\w.-]*", text) is not None and not text.endswith(PARTS) and text not in FIGURES
    return clean and len(text.encode()) <= MAX_NAME


# --- making and writing -----------------------------------------------------------------------------------------------


def new_history(**scalars: object) -> History:
    """The record of a run before its first epoch."""
    versions = {"python_version": platform.python_version()} | {f"{name}_version": version(name) for name in PACKAGES}
    return {**scalars, **versions, **{name: [] for name in LISTS}}


def epochs_done(history: History) -> int:
    return len(history["train_loss"])


def add_epoch(history: History, figures: dict[str, float]) -> None:
    """Append the figures of an epoch, a list each."""
    for name, figure in plain(figures).items():
        history.setdefault(name, []).append(figure)


def plain(figures: dict[str, Any]) -> dict[str, float]:
    """The figures as Python's own numbers, whatever numpy or torch made of them: no file takes others.

    Raises UserError where one is not finite, since no reader takes that.
    """
    numbers = {name: figure if type(figure) is int else float(figure) for name, figure in figures.items()}
    for name, figure in numbers.items():
        if not math.isfinite(figure):
            raise UserError(f"{printable(name)} is {figure}; expected a finite number to keep in the history")
    return numbers


def epoch_line(history: History) -> str:
    """The last epoch in one line, aligned, each figure behind its name."""
    epochs, figures = str(history["epochs"]), {metric: history[metric][-1] for metric in METRICS}
    return (
        f"epoch {epochs_done(history):>{len(epochs)}}/{epochs}"
        f"  train loss {figures['train_loss']:.4f}  train accuracy {figures['train_accuracy']:7.2%}"
        f"  test loss {figures['test_loss']:.4f}  test accuracy {figures['test_accuracy']:7.2%}"
        f"  {figures['seconds']:5.1f} s"
    )


def summary(history: History) -> str:
    """The best and the last epoch on the test set, in three lines."""
    loss, accuracy = np.array(history["test_loss"]), np.array(history["test_accuracy"])
    return (
        f"lowest test loss       {loss.min():.4f} in epoch {loss.argmin() + 1}\n"
        f"highest test accuracy {accuracy.max():7.2%} in epoch {accuracy.argmax() + 1}\n"
        f"last epoch             {loss[-1]:.4f} and {accuracy[-1]:.2%}"
    )


def resumed(saved: History, now: History) -> History:
    """The record of a run that is resumed: what it was trained with before and what it is from now on, both named."""
    merged = saved | {"epochs": now["epochs"]}
    for field in ("device", *(field for field in now if field.endswith("_version"))):
        used = str(saved.get(field, "")).split(", ")
        merged[field] = ", ".join([*used, *([now[field]] if now[field] not in used else [])])
    return merged


def differences(saved: History, now: History, ignore: tuple[str, ...] = ()) -> list[str]:
    """In which settings, recipe and data two runs differ, in words. The data are told apart by their digests alone."""
    ignored = (*LISTS, "name", "data", "device", "digest", "parameters", *ignore)
    fields = [field for field in now if field not in ignored and not field.endswith(("_version", "_images"))]
    return [
        f"{field} {shorten(str(saved.get(field)), 12)} there, {shorten(str(now[field]), 12)} here"
        for field in fields
        if saved.get(field) != now[field]
    ]


def with_digest(history: History) -> History:
    """The finished record with its digest, by which its files know one another.

    Two trainings that gave the same figures, however long they took, have the same digest.
    """
    kept = {name: value for name, value in history.items() if name not in ("seconds", "digest")}
    return history | {"digest": hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()}


def write_history(history: History, file: BinaryIO) -> None:
    """As JSON, each field on a line of its own."""
    lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in history.items())
    file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())


def write_arrays(arrays: dict[str, np.ndarray], history: History, file: BinaryIO) -> None:
    np.savez_compressed(file, digest=np.array(history["digest"]), **arrays)  # type: ignore[arg-type]


# --- reading ----------------------------------------------------------------------------------------------------------


def read_runs(folder: Path) -> list[Run]:
    """All runs in a folder, in the order of their names. Raises UserError on the first bad file."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{printable(folder)}: cannot be read: {error.strerror}") from None
    histories = [(path, read_history(path)) for path in paths]
    return [Run(path, history, read_arrays(path.with_suffix(".npz"), history)) for path, history in histories]


def read_history(path: Path) -> History:
    """The history in a JSON file, with every field that a figure needs. Raises UserError."""
    shown = printable(path)
    try:
        with open_regular(path) as file:
            content = file.read(MAX_HISTORY + 1)
        if len(content) > MAX_HISTORY:
            raise ValueError("too large")
        history = json.loads(content)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{shown}: is no JSON ({printable(error)}); expected the history of a run: move it away"
        ) from None
    problem = history_problem(history)
    if problem:
        raise UserError(f"{shown}: is no history of main.py: {problem}; train that run again, or move the file away")
    return history


def history_problem(history: object) -> str | None:
    """What keeps a value from being the history of a finished run, or None."""
    if not isinstance(history, dict):
        return f"expected an object, found {type(history).__name__}"
    for field, kind in SCALARS.items():
        if not isinstance(history.get(field), kind) or (isinstance(history[field], bool) and kind is not bool):
            return f"{field} is {shorten(json.dumps(history[field])) if field in history else 'missing'}"
    for field, (least, most) in RANGES.items():
        if not least <= history[field] <= most:
            return f"{field} is {shorten(str(history[field]))}, expected {least:,} to {most:,}"
    epochs = len(history["train_loss"]) if isinstance(history.get("train_loss"), list) else 0
    if not 1 <= epochs <= history["epochs"]:
        return f"train_loss is not a list of 1 to {history['epochs']} numbers, one an epoch"
    for name in (*METRICS, *(name for name, value in history.items() if isinstance(value, list))):
        least = 0 if name in LISTS else -MAX_FIGURE  # what an callback measures may be below 0
        if not is_curve(history.get(name), epochs, least, 1 if name.endswith("accuracy") else MAX_FIGURE):
            return f"{printable(name)} is not a list of {epochs} finite numbers, one an epoch, in its range"
    return None


def unfinished_problem(history: History) -> str | None:
    """What keeps a value from being the history of a run that can be gone on with, or None."""
    problem = history_problem({"digest": "", **history})
    if problem:
        return problem
    for name in LISTS:
        if not isinstance(history.get(name), list):
            return f"{name} is no list"
    others = {name: value for name, value in history.items() if not isinstance(value, list)}
    for name, value in others.items():
        if not isinstance(name, str) or not isinstance(value, str | int | float):
            return f"{shorten(str(name))} is no number and no text"
    return None


def is_curve(values: object, epochs: int, least: float, most: float) -> bool:
    """Whether `values` is a list of `epochs` finite numbers from `least` to `most`."""
    if not isinstance(values, list) or len(values) != epochs:
        return False
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return numbers and all(least <= value <= most for value in values)


def shorten(text: str, most: int = 100) -> str:
    """Text of at most so many characters, but for dots in its middle, without any that move the cursor."""
    return printable(text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2) :]}")


# --- arrays -----------------------------------------------------------------------------------------------------------

DRAWS = 8  # warps of each digit that an augmented run keeps, to be looked at
ARRAYS = {  # type and shape; a name stands for a number that history or labels decide
    "labels": ("uint8", ("images",)),
    "predictions": ("uint8", ("images",)),
    "confidence": ("float32", ("images",)),  # the probability of the prediction
    "log_probability": ("float16", ("images",)),  # natural logarithm of the probability of the right label
    "mistake_images": ("uint8", ("wrong", 28, 28)),
    "c1": ("float32", ("filters", 1, "side", "side")),
    "originals": ("uint8", ("classes", 28, 28)),  # the first training image of each class, blank where there is none
    "warped": ("uint8", ("classes", DRAWS, 28, 28)),  # as the augmentation at full strength draws them
}
OPTIONAL = {"log_probability", "mistake_images", "c1", "originals", "warped"}
MAX_FILTERS, MAX_FILTER_SIDE = 1024, 31  # of a first convolution that is drawn


def read_arrays(path: Path, history: History) -> dict[str, np.ndarray]:
    """The arrays beside a history; none if there is no such file. Only those in ARRAYS, as large as they must be.

    Raises UserError, also where they are of another run than the history.
    """
    if not os.path.lexists(path):
        return {}
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            digest, arrays = _digest(archive), dict(_known_arrays(archive, history))
        problem = arrays_problem(arrays, history)
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds, all meaning this
        raise UserError(
            f"{printable(path)}: cannot be read as NPZ ({shorten(f'{type(error).__name__}: {error}')}); "
            "train that run again, or move the file away"
        ) from None
    if not problem and digest != history["digest"]:
        problem = f"is of another run than {path.stem}.json: one of them was replaced without the other"
    if problem:
        raise UserError(f"{printable(path)}: {problem}; train that run again, or move the file away")
    return arrays


def _digest(archive: zipfile.ZipFile) -> str:
    with archive.open("digest.npy") as member:
        return str(
            _read_array(member, lambda kind, shape: kind.kind == "U" and kind.itemsize <= 4 * 64 and shape == ())
        )


def _known_arrays(archive: zipfile.ZipFile, history: History) -> Iterator[tuple[str, np.ndarray]]:
    for name, (kind, sizes) in ARRAYS.items():
        if f"{name}.npy" in archive.namelist():
            allowed = [_sizes(size, history) for size in sizes]
            with archive.open(f"{name}.npy") as member:
                yield name, _read_array(member, lambda found, shape, k=kind, a=allowed: found == k and _fits(shape, a))


def _sizes(size: int | str, history: History) -> range:
    """The sizes that an array may have where ARRAYS says that: one, or several where its other arrays decide."""
    images, classes = history["test_images"], history["classes"]
    ranges = {"wrong": range(images + 1), "filters": range(1, MAX_FILTERS + 1), "side": range(1, MAX_FILTER_SIDE + 1)}
    exact = {"images": images, "classes": classes}.get(str(size), size)
    return range(exact, exact + 1) if isinstance(exact, int) else ranges[exact]


def _fits(shape: tuple[int, ...], allowed: list[range]) -> bool:
    return len(shape) == len(allowed) and all(size in sizes for size, sizes in zip(shape, allowed, strict=True))


def _read_array(member: Any, accepts: Any) -> np.ndarray:
    """An array of an NPY file, whose header is looked at before anything is read. Raises ValueError."""
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, kind = header[np.lib.format.read_magic(member)](member)
    if fortran or kind.hasobject or not accepts(kind, shape):
        raise ValueError(f"unexpected array of {kind} {shape}")
    content = member.read(kind.itemsize * math.prod(shape))
    return np.frombuffer(content, kind, math.prod(shape)).reshape(shape)


def arrays_problem(arrays: dict[str, np.ndarray], history: History) -> str | None:
    """What keeps arrays from being those of the history's run, or None."""
    missing = sorted(ARRAYS.keys() - OPTIONAL - arrays.keys())
    if missing:
        return f"{missing[0]} is missing"
    if max(arrays["labels"].max(), arrays["predictions"].max()) >= history["classes"]:
        return f"expected labels and predictions below {history['classes']}"
    if "mistake_images" in arrays and len(arrays["mistake_images"]) != len(mistakes(arrays)):
        return "expected as mistakes the images whose prediction is not the label"
    if "c1" in arrays and arrays["c1"].shape[2] != arrays["c1"].shape[3]:
        return "expected square filters"
    if ("originals" in arrays) != ("warped" in arrays):
        return "originals and warped do not belong together"
    return None


def mistakes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Positions of the test images whose prediction is not the label, int64, in their order."""
    return np.flatnonzero(arrays["labels"] != arrays["predictions"])
