"""Which runs belong together: the same training, one line of a picture, the same test images, comparable networks.

It knows histories, and nothing of how they are drawn.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from support.figures.axes import figure_name, model_order, readable
from support.run.history import RECIPE, SETTINGS, History, Run, epochs_done

Groups = dict[Any, list[Run]]

# What the runs of one line share, besides model and augmentation; what differs is written into the line's label.
SHARED = [name for name in SETTINGS if name not in ("model", "augment", "seed")]
SHARED += [*RECIPE, "parameters", "train_sha256"]


def configuration(run: Run) -> tuple[str, bool]:
    return run.history["model"], run.history["augment"]


def name_of(history: History) -> str:
    return figure_name(history["model"], history["augment"])


def end_of(history: History) -> str:
    """The last epoch, and how many there should have been if the run ended early."""
    early = f" (ended early, {history['epochs']} planned)" if epochs_done(history) < history["epochs"] else ""
    return f"epoch {epochs_done(history)}{early}"


def in_order(runs: Iterable[Run]) -> list[Run]:
    """The project's models first, plain before augmented, then by seed."""
    return sorted(runs, key=lambda run: (model_order(run.history["model"]), configuration(run), run.history["seed"]))


def group_by(runs: Iterable[Run], key: Callable[[Run], Any]) -> Groups:
    groups: Groups = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def lines(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs of each line, by its label: the configuration, and in what it differs from others of the same."""
    named: dict[str, list[Run]] = {}
    for group in group_by(in_order(runs), configuration).values():
        variants = group_by(group, lambda run: (*(_setting(run, name) for name in SHARED), epochs_done(run.history)))
        for alike in variants.values():
            history = alike[0].history
            words = [name_of(history)]
            for name in SHARED:
                if len({_setting(run, name) for run in group}) > 1 and not name.endswith("sha256"):
                    value = _setting(alike[0], name)
                    number = (
                        f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
                    )
                    words.append(f"{name.replace('_', ' ')} {readable(str(number))}")
            if epochs_done(history) < history["epochs"]:
                words.append(end_of(history))
            label = ", ".join(words)
            named[f"{label}, {readable(alike[0].path.stem)}" if label in named else label] = alike
    return named


def _setting(run: Run, name: str) -> bool | int | float | str:
    value = run.history.get(name)
    return value if isinstance(value, int | float) else str(value)


def is_same(run: Run, other: Run) -> bool:
    """Whether both are one training: equal settings and equal lists, however long and on how many threads it took."""
    one, two = run.history, other.history
    figures = [name for name, value in one.items() if isinstance(value, list) and isinstance(two.get(name), list)]
    figures = [name for name in figures if name not in ("seconds", "threads", "processes")]
    return all(one.get(name) == two.get(name) for name in (*SETTINGS, "test_sha256", *figures))


def test_set(runs: list[Run]) -> str:
    """The digest of the test images that are compared: MNIST's if there is a run on them, else those of most runs."""
    on_mnist = [run for run in runs if run.history["data"] == "MNIST"]
    return Counter(run.history["test_sha256"] for run in on_mnist or runs).most_common(1)[0][0]


def comparable(runs: list[Run]) -> list[Run]:
    """The most runs of two or more configurations that share data and settings; nothing if there are none."""
    names = [name for name in (*SHARED, "test_sha256") if name not in ("data", "parameters")]
    groups = group_by(in_order(runs), lambda run: tuple(_setting(run, name) for name in names)).values()
    best = max(groups, key=lambda group: (len(set(map(configuration, group))), len(group)), default=[])
    return best if len(set(map(configuration, best))) > 1 else []
