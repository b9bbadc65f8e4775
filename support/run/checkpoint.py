"""The files of a run: saved whole, found again, never mixed up, never thrown away unasked.

    checkpoint_dir/NAME.pt           all that is needed to go on as if nothing had happened
    checkpoint_dir/NAME.weights.pt   the weights of the last finished run of that name
    output_dir/NAME.npz .json .png   its result

It knows nothing of the recipe: what decides whether two runs are the same stands in their histories.
"""

import re
import shlex
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from support import files
from support.compute.distributed import is_main
from support.run.history import (
    ENDINGS,
    History,
    differences,
    epochs_done,
    read_arrays,
    read_history,
    summary,
    unfinished_problem,
    write_arrays,
    write_history,
)
from support.terminal import Stopped, UserError, printable, say

State = dict[str, Any]
MAX_CHECKPOINT = 2**30  # bytes, unpacked: a thousand times what these networks take
PAUSE = 0.1  # seconds between two looks at a name that is held


class RunFiles(NamedTuple):
    """Where the files of a run are."""

    name: str
    output_dir: Path
    checkpoint_dir: Path

    @property
    def checkpoint(self) -> Path:
        return self.checkpoint_dir / f"{self.name}.pt"

    @property
    def weights(self) -> Path:
        return self.checkpoint_dir / f"{self.name}.weights.pt"

    def result(self, ending: str) -> Path:
        return self.output_dir / f"{self.name}{ending}"


# --- before a run -----------------------------------------------------------------------------------------------------


def check_folders(run: RunFiles) -> None:
    """Raises UserError if `acquire` could not make the folders; makes nothing."""
    for folder in (run.output_dir, run.checkpoint_dir):
        files.check_folder(folder)


def acquire(stack: ExitStack, run: RunFiles) -> None:
    """Make the folders, hold the name in both, clear what a killed run left; `stack` lets go. Raises UserError."""
    for folder in (run.output_dir, run.checkpoint_dir):
        files.make_folder(folder)
    for path, lock in _locks(run).items():
        try:
            stack.enter_context(files.lock(lock))
        except files.RunningError:
            raise UserError(
                f"{printable(path)}: another process is training {run.name} right now\n"
                "wait for it, or train under another --seed or --name"
            ) from None
    for path in (run.checkpoint, run.weights, *(run.result(ending) for ending in ENDINGS)):
        files.clear_temporary(path)


def wait_until_free(run: RunFiles, patience: float) -> None:
    """Wait until no other process holds the name, but no longer than so many seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(map(files.is_locked, _locks(run).values())):
        time.sleep(PAUSE)


def _locks(run: RunFiles) -> dict[Path, Path]:
    """What holds the name, by the files that it is held for."""
    return {path: path.with_name(f".{path.name}.lock") for path in (run.result(".json"), run.checkpoint)}


def find_unfinished(run: RunFiles) -> RunFiles:
    """The unfinished run that --resume means: of that name, else of that name but for its number of epochs."""
    if is_unfinished(run.checkpoint) or not run.checkpoint_dir.is_dir():
        return run
    without = re.sub(r"_epochs\d+", "", run.name)
    stems = [path.stem for path in sorted(run.checkpoint_dir.glob("*.pt"))]
    alike = [run._replace(name=stem) for stem in stems if re.sub(r"_epochs\d+", "", stem) == without]
    unfinished = [other for other in alike if is_unfinished(other.checkpoint)]
    if len(unfinished) > 1:
        names = ", ".join(printable(other.name) for other in unfinished)
        raise UserError(f"--resume: several unfinished runs may be meant: {names}\nname the one that is with --name")
    return unfinished[0] if unfinished else run


def is_unfinished(path: Path) -> bool:
    """Whether there is a checkpoint of a run that can be gone on with. Raises UserError if it cannot be read."""
    return path.exists() and not read_checkpoint(path)["finished"]


def is_finished(run: RunFiles, history: History) -> bool:
    """Whether that run is finished. Raises UserError if something lies there that is not of this run, or damaged."""
    state = read_checkpoint(run.checkpoint) if run.checkpoint.exists() else None
    found = [(run.checkpoint, state["history"])] if state else []
    found += [(path, read_history(path)) for path in [run.result(".json")] if path.exists()]
    for path, saved in found:
        if differ := differences(saved, history):
            raise UserError(f"{printable(path)}: is of another run: {', '.join(differ)}")
    return (state is None or state["finished"]) and result_is_whole(run)


def result_is_whole(run: RunFiles) -> bool:
    """Whether history, arrays and weights are there, of one and the same training. Raises UserError if one is damaged.

    A result that came from another machine, or with the repository, has neither checkpoint nor weights here.
    """
    if not run.result(".json").exists():
        return False
    history = read_history(run.result(".json"))
    if not read_arrays(run.result(".npz"), history):
        return False
    if run.weights.exists():
        return read_weights(run.weights)["digest"] == history["digest"]
    return not run.checkpoint.exists()


def state_to_resume(run: RunFiles, history: History, rate: Callable[[float, int], float]) -> State:
    """What to go on from. Raises UserError where there is nothing, or something else than `history` says.

    rate(step, steps): the schedule; the number of epochs may change as long as it would have been the same so far.
    """
    path = run.checkpoint
    if not path.exists():
        raise UserError(f"{printable(path)}: not found, so there is nothing to resume; leave --resume out to start")
    state = read_checkpoint(path)
    differ = differences(state["history"], history, ignore=("epochs",))
    if differ:
        raise UserError(
            f"{printable(path)}: belongs to another run: {', '.join(differ)}\nresume with what it was started with"
        )
    if state["finished"]:
        raise UserError(
            f"{printable(path)}: the run is finished, so there is nothing to resume; leave --resume out to train anew"
        )
    done, before, now = epochs_done(state["history"]), state["history"]["epochs"], history["epochs"]
    steps = -(-history["train_images"] // history["batch_size"])  # an epoch
    if done > now or any(rate(step, before * steps) != rate(step, now * steps) for step in range(done * steps + 1)):
        raise UserError(
            f"{printable(path)}: {done} of {before} epochs are done, too many to go on with --epochs {now}: "
            f"the learning rate would have been another\nresume with --epochs {before}"
        )
    return state


def check_nothing_is_lost(run: RunFiles, history: History) -> None:
    """Raises UserError if a fresh run of that name would throw away an unfinished run, or another run's result."""
    if is_unfinished(run.checkpoint):
        saved = read_checkpoint(run.checkpoint)["history"]
        raise UserError(
            f"{printable(run.checkpoint)}: holds an unfinished run, {epochs_done(saved)} of {saved['epochs']} epochs\n"
            "go on with it with --resume, or throw it away with --restart"
        )
    readers = [
        (run.result(".json"), read_history),
        (run.checkpoint, lambda path: read_checkpoint(path)["history"]),
        (run.weights, lambda path: read_weights(path)["history"]),
    ]
    for path, read in readers:
        if path.exists() and (differ := differences(read(path), history)):
            raise UserError(
                f"{printable(path)}: is of another run: {', '.join(differ)}\n"
                "give this one another name with --name, or replace that one with --restart"
            )


@contextmanager
def saying_how_to_resume(run: RunFiles, history: History, command: list[str]) -> Iterator[None]:
    """Where a signal stops the run, the first process says what is saved and what to type. command: what started it.

    Where something cannot be written, the error says whether --resume goes on.
    """
    try:
        yield
    except Stopped:
        with suppress(Stopped, OSError):  # the reader may be what is gone
            if is_main():
                say(_how_to_resume(run, history, command))
        raise
    except OSError as error:
        if _what_is_saved(run, history):
            error.strerror = f"{error.strerror}\nfix that, then go on with --resume"
        raise


def _how_to_resume(run: RunFiles, history: History, command: list[str]) -> str:
    saved = _what_is_saved(run, history)
    if saved is None:
        return "\nstopped before the first epoch was complete: nothing is saved"
    options = shlex.join([*(word for word in command if word not in ("--resume", "--restart")), "--resume"])
    return (
        f"\nstopped; {epochs_done(saved)} of {saved['epochs']} epochs are saved in {printable(run.checkpoint)}\n"
        f"{summary(saved)}\ngo on with: {options}"
    )


def _what_is_saved(run: RunFiles, history: History) -> History | None:
    """What the checkpoint holds of this run; the last epoch of `history` may not be in it yet."""
    with suppress(UserError):
        state = read_checkpoint(run.checkpoint)
        if not state["finished"] and not differences(state["history"], history, ignore=("epochs",)):
            return state["history"]
    return None


# --- saving -----------------------------------------------------------------------------------------------------------


def save_checkpoint(run: RunFiles, parts: dict[str, Any], history: History) -> None:
    """Save all that is needed to go on: the states of network, average, optimizer and scheduler, by those names.

    Generators need no entry: they are seeded anew for each epoch. Raises OSError.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    _save({**states, "history": history, "finished": "digest" in history}, run.checkpoint)


def save_result(run: RunFiles, network: nn.Module, history: History, arrays: dict[str, np.ndarray]) -> None:
    """Save the weights and the result, less its picture, of one digest. Raises OSError."""
    kept = {name: history[name] for name in ("model", "name", "classes", "digest")}
    _save({**kept, "history": history, "network": network.state_dict()}, run.weights)
    files.replace(run.result(".npz"), lambda file: write_arrays(arrays, history, file))
    files.replace(run.result(".json"), lambda file: write_history(history, file))


def _save(state: State, path: Path) -> None:
    files.replace(path, lambda file: torch.save(state, file))


# --- reading ----------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> State:
    """What `save_checkpoint` saved: only tensors and plain values are read, never a pickle that could run code.

    Raises UserError if the file is anything else.
    """
    kinds: dict[str, type] = dict.fromkeys(("network", "average", "optimizer", "scheduler", "history"), dict)
    kinds["finished"] = bool
    state = _load(path, kinds, "start afresh with --restart, which replaces it")
    problem = unfinished_problem(state["history"])
    if problem:
        raise _foreign(path, f"its history is not whole: {problem}", "start afresh with --restart, which replaces it")
    return state


def read_weights(path: Path) -> State:
    """Weights of a finished run: "network", a state_dict, and "model", "name", "classes", "digest" and "history".

    Raises UserError if the file is anything else.
    """
    kinds: dict[str, type] = {
        "network": dict,
        "history": dict,
        "model": str,
        "name": str,
        "classes": int,
        "digest": str,
    }
    advice = "expected NAME.weights.pt, as main.py leaves it in checkpoints/"
    state = _load(path, kinds, advice)
    if not 2 <= state["classes"] <= 256:
        raise _foreign(path, f"is of {state['classes']} classes", advice)
    return state


def _load(path: Path, kinds: dict[str, type], advice: str) -> State:
    try:
        with files.open_regular(path) as file:
            _check_size(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read: {error.strerror or error}") from None
    except Exception:  # of a damaged or foreign file torch.load raises a dozen kinds, all meaning this
        raise _foreign(path, "is damaged or of another program", advice) from None
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise _foreign(path, "lacks what it should hold", advice)
    for name in ("network", "average"):
        weights = state.get(name, {})
        if not all(isinstance(key, str) and _is_plain(value) for key, value in weights.items()):
            raise _foreign(path, "holds no weights", advice)
    if not all(tensor.isfinite().all() for tensor in _tensors(state)):
        raise UserError(f"{printable(path)}: a number in it is not finite, so it is of no use\n{advice}")
    return state


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in dictionaries and lists, however deep."""
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)
    elif isinstance(value, Tensor):
        yield value


def _check_size(file: BinaryIO) -> None:
    """Raises ValueError if what torch.load would unpack is too large."""
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_CHECKPOINT:
            raise ValueError("too large")
    file.seek(0)


def _foreign(path: Path, problem: str, advice: str) -> UserError:
    return UserError(
        f"{printable(path)}: {problem}; expected tensors and plain values, and no code is run to read them\n{advice}"
    )


def restore(state: State, path: Path, parts: dict[str, Any]) -> None:
    """Load the state of each part (networks, optimizer, scheduler) by its name. Raises UserError if one has changed."""
    for name, part in parts.items():
        try:
            _check_alike(state[name], part.state_dict())
            part.load_state_dict(state[name])
        except Exception as error:  # of entries that do not fit, PyTorch raises half a dozen kinds
            reason = printable((str(error).strip() or type(error).__name__).splitlines()[-1].strip())
            afresh = ", or start afresh with --restart" if "finished" in state else ""
            raise UserError(
                f"{printable(path)}: its {name} is not the one of now: {reason}\n"
                f"use the code that it was trained with{afresh}"
            ) from None


def _check_alike(saved: Any, now: Any, place: str = "") -> None:
    """Raises ValueError where an option is missing or of another type: optimizers and schedulers take what they get.

    A network's tensors, and all that comes with the first step, are left to PyTorch.
    """
    if isinstance(now, dict) and isinstance(saved, dict):
        if any(isinstance(value, Tensor) for value in now.values()):
            return
        if missing := [str(name) for name in now if name not in saved]:
            raise ValueError(f"it has no {', '.join(missing)}")
        for name, value in now.items():
            _check_alike(saved[name], value, name)
    elif isinstance(now, list) and isinstance(saved, list):
        for one, other in zip(saved, now, strict=False):
            _check_alike(one, other, place)
    elif any(isinstance(now, kind) and not isinstance(saved, kind) for kind in (int | float, list, dict)):
        raise ValueError(f"{place} is of type {type(saved).__name__}, not {type(now).__name__}")
