"""The files of a run: saved whole, never mixed up, never thrown away unasked.

checkpoint_dir/NAME.pt           of an unfinished run, all that is needed to go on as if nothing had happened
checkpoint_dir/NAME.weights.pt   the weights of the last finished run of that name
output_dir/NAME.npz .json .png   its result
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn

from support.files import check_unpacked, clear_temporary, replace
from support.run.history import History, differences, epochs_done, read_run, reading, write_arrays, write_history
from support.terminal import UserError, printable, warn

State = dict[str, Any]
PARTS = ("network", "average", "optimizer", "scheduler")  # of a run: those that a checkpoint holds


class RunFiles:
    """Where the files of a run are."""

    def __init__(self, name: str, output_dir: Path, checkpoint_dir: Path) -> None:
        self.name = name
        self.checkpoint, self.weights = (checkpoint_dir / f"{name}{ending}" for ending in (".pt", ".weights.pt"))
        self.arrays, self.history, self.picture = (output_dir / f"{name}{end}" for end in (".npz", ".json", ".png"))


def network_sha256(network: nn.Module) -> str:
    """Hexadecimal digest of a network's layers, and of the names and shapes of what they hold, whatever its values."""
    shapes = [(name, tuple(getattr(value, "shape", ()))) for name, value in network.state_dict().items()]
    return hashlib.sha256(f"{network}\n{shapes}".encode()).hexdigest()


def open_run(stack: ExitStack, files: RunFiles, history: History, resume: bool, restart: bool) -> State | None:
    """Hold the run's name until `stack` lets go. Returns what there is of this run, or None for nothing.

    That is "history" and, of an unfinished run, what `restore` takes. Raises UserError where it is of another run, or
    something would be lost that nobody asked to throw away.
    """
    _hold(stack, files)
    if restart:
        return None
    advice = "start afresh with --restart, which replaces it"
    state = read_state(files.checkpoint, (*PARTS, "history"), advice) if files.checkpoint.exists() else None
    if state and not resume:
        done = f"{epochs_done(state['history'])} of {state['history']['epochs']} epochs"
        problem = f"{printable(files.checkpoint)}: holds an unfinished run, {done}"
        raise UserError(f"{problem}\ngo on with it with --resume, or throw it away with --restart")
    found = {files.checkpoint: state["history"]} if state else {}
    arrays: dict[str, np.ndarray] = {}
    if not state and files.weights.exists():  # else they will be replaced, as was asked when the unfinished run began
        found[files.weights] = read_weights(files.weights)["history"]
    if not state and files.history.exists():
        _, found[files.history], arrays = read_run(files.history)
    for path, saved in found.items():
        if differ := differences(saved, history):
            problem = f"{printable(path)}: is of another run: {', '.join(differ)}"
            raise UserError(f"{problem}\ngive this one another name with --name, or replace that one with --restart")
    # a result that came from another machine, or with the repository, has no weights here
    if resume and arrays and len({saved["digest"] for saved in found.values()}) == 1:
        print(f"{files.name} is finished")
        return {"history": found[files.history]}
    return state


def _hold(stack: ExitStack, files: RunFiles) -> None:
    """Make the folders, hold the run's name in both, and clear what a killed run left."""
    for path in (files.history, files.checkpoint):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_name(f".{path.name}.lock"), timeout=0))
        except Timeout:
            problem = f"{printable(path)}: another process is training {files.name} right now"
            raise UserError(f"{problem}\nwait for it, or train under another --seed or --name") from None
        except OSError as error:
            problem = f"{printable(path.parent)}: cannot be written, or its files not locked: {error.strerror}"
            raise UserError(f"{problem}; choose another folder") from None
    for path in (files.checkpoint, files.weights, files.arrays, files.history, files.picture):
        clear_temporary(path)


@contextmanager
def saying_how_to_resume() -> Iterator[None]:
    """Where Ctrl-C or a full disk stops the run, say how to go on: the epochs that were printed are saved."""
    try:
        yield
    except (KeyboardInterrupt, OSError):
        warn("the same command with --resume goes on", "stopped")
        raise


def save_checkpoint(files: RunFiles, parts: dict[str, Any], history: History) -> None:
    """Save all that is needed to go on: the states of PARTS.

    Generators need no entry: they are seeded anew for each epoch. Raises OSError.
    """
    state: State = {name: parts[name].state_dict() for name in PARTS} | {"history": history}
    replace(files.checkpoint, lambda file: torch.save(state, file))


def save_result(files: RunFiles, network: nn.Module, history: History, arrays: dict[str, np.ndarray]) -> None:
    """Save the weights and the result, less its picture, of one digest. Raises OSError."""
    state: State = {name: history[name] for name in ("model", "name", "classes", "digest")}
    state |= {"history": history, "network": network.state_dict()}
    replace(files.weights, lambda file: torch.save(state, file))
    replace(files.arrays, lambda file: write_arrays(arrays, history, file))
    replace(files.history, lambda file: write_history(history, file))


def read_weights(path: Path) -> State:
    """Of a finished run "network" (a state_dict), "model", "name", "classes", "digest", "history". Raises UserError."""
    needed = ("network", "model", "name", "classes", "digest", "history")
    return read_state(path, needed, "expected NAME.weights.pt, as main.py leaves it in checkpoints/")


def load_network(build: Callable[[str, int], nn.Module], path: Path) -> tuple[str, nn.Module]:
    """The name of a finished run and its network, `build(model, classes)` in evaluation mode. Raises UserError."""
    state = read_weights(path)
    try:
        network = build(state["model"], state["classes"])
    except KeyError:
        raise UserError(f"{printable(path)}: holds weights of {printable(state['model'])}, no network here") from None
    restore(state, path, {"network": network})
    return state["name"], network.eval()


def read_state(path: Path, needed: tuple[str, ...], advice: str) -> State:
    """These of what `torch.save` saved: tensors and plain values, never a pickle that could run code.

    Raises UserError if the file is anything else.
    """
    with reading(path, advice) as file:
        check_unpacked(file)
        state: State = torch.load(file, map_location="cpu", weights_only=True)
        return {name: state[name] for name in needed}


def restore(state: State, path: Path, parts: dict[str, Any]) -> None:
    """Load the states of those of PARTS that are given. Raises UserError if one has changed since."""
    for name in [name for name in PARTS if name in parts]:
        try:
            parts[name].load_state_dict(state[name])
            groups = getattr(parts[name], "param_groups", [])  # which one optimizer takes from any other
            if any(parts[name].defaults.keys() - group.keys() for group in groups):
                raise ValueError("it is that of another optimizer")
        except Exception as error:  # of entries that do not fit, PyTorch raises half a dozen kinds
            reason = printable((str(error).strip() or type(error).__name__).splitlines()[-1].strip())
            afresh = ", or start afresh with --restart" if "optimizer" in state else ""
            problem = f"{printable(path)}: its {name} is not the one of now: {reason}"
            raise UserError(f"{problem}\nuse the code that it was trained with{afresh}") from None
