"""Which runs belong together: those of one curve, those on the same test images."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from support.figures.axes import MODELS, figure_name, readable
from support.run import RECIPE, SETTINGS, History, Run, epochs_done, held_out


def configuration(run: Run) -> tuple[str, bool]:
    return run.history["model"], run.history["augment"]


def name_of(history: History) -> str:
    return figure_name(history["model"], history["augment"])


def end_of(history: History) -> str:
    """The last epoch, and how many there should have been if the run ended early."""
    early = f" (ended early, {history['epochs']} planned)" if epochs_done(history) < history["epochs"] else ""
    return f"epoch {epochs_done(history)}{early}"


def test_set(history: History) -> tuple[str, str]:
    """The images that its test figures were measured on: what they are called, and their digest."""
    return held_out(history), history["test_sha256"]


def group_by(runs: Iterable[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def curves_of(runs: list[Run]) -> dict[str, list[History]]:
    """The runs of each curve, by its label: model and augmentation, and other words of its name that not all runs have.

    Runs of one curve share all settings but the seed, compared as text: histories may be edited, or of other versions.
    """
    curves: dict[str, list[History]] = {}
    shared = [name for name in (*SETTINGS, *RECIPE, "parameters", "train_sha256", "test_sha256") if name != "seed"]
    values = {run.path: (end_of(run.history), *(str(run.history.get(name)) for name in shared)) for run in runs}
    models = [*MODELS, *sorted({run.history["model"] for run in runs} - MODELS.keys())]  # the project's first
    in_order = sorted(
        runs, key=lambda run: (models.index(run.history["model"]), configuration(run), run.history["seed"])
    )
    for alike in group_by(in_order, lambda run: values[run.path]).values():
        history = alike[0].history
        others = [word for word in words_of(history) if any(word not in words_of(run.history) for run in runs)]
        label = f"{name_of(history)}{', ' * bool(others)}{readable('_'.join(others))}"
        curves[label if label not in curves else f"{label}, {history['name']}"] = [run.history for run in alike]
    return curves


def words_of(history: History) -> list[str]:
    """The words of a run's name besides model, augmentation and seed: what else differs from the defaults."""
    name = re.sub(r"_seed\d+$", "", history["name"]).removeprefix(history["model"])
    return list(filter(None, name.removeprefix("_augment" * history["augment"]).strip("-").split("_")))
