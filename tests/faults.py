"""Runs that are killed, each in a process of its own, forked from this one, which has imported torch. Needs Linux.

    python tests/faults.py --kills 200 --seed 1    # a third of them by Ctrl-C; with --signal INT all

After each kill every file has to be whole and every epoch that was printed saved; at the end all files have to equal,
bit for bit, those of a run that was never killed, but for the seconds of each epoch.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pytest
import torch
from runs import Ended, cheap_picture, first_images, interrupt

import main
from support import files

RUNS = ["--model", "mlp"], ["--model", "lenet"], ["--model", "lenet_bn", "--augment"]
EPOCHS = 4  # enough to be killed before, between and behind checkpoints
STEPS = 3  # of the writing of a file, see `in_step`
KILLS_A_RUN = 8  # then the run is left to finish, so that each round reaches the comparison
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)  # a run stops at the last two by itself, or is ended by them
STOPPED = {*(-number for number in SIGNALS), *(128 + number for number in SIGNALS)}  # exit statuses
PATIENCE = 300  # seconds; a run takes a few, so one that is not through by then hangs

Fault = Callable[[], object]  # called in a run's process before it starts


def run(argv: list[str], folder: Path, fault: Fault = lambda: None) -> Ended:
    """Run `main.py argv` in `folder`, in a process forked from this one; its status is less than 0 if it was killed."""
    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports for a second: here, and not in each fork
    pipes = [os.pipe() for _ in ("stdout", "stderr")]  # 64 KiB each, far more than a run prints: read afterwards
    process = multiprocessing.get_context("fork").Process(target=_become, args=(argv, folder, fault, pipes))
    process.start()
    process.join(PATIENCE)
    process.kill()
    process.join()
    for _, writer in pipes:
        os.close(writer)
    return Ended(process.exitcode, *(open(reader, errors="replace").read() for reader, _ in pipes))


def _become(argv: list[str], folder: Path, fault: Fault, pipes: list[tuple[int, int]]) -> None:
    """Be that process, in the fork."""
    for stream, name, (_, writer) in zip((1, 2), ("stdout", "stderr"), pipes, strict=True):
        os.dup2(writer, stream)
        setattr(sys, name, open(stream, "w", closefd=False))  # noqa: SIM115
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fault()
    try:
        main.main(argv)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # there is nothing left to interrupt


def at_moment(seconds: float, action: Callable[[], object]) -> Fault:
    """That happens after so many seconds, wherever the process is."""
    timer = threading.Timer(seconds, action)
    timer.daemon = True  # a run that is through does not wait for it
    return timer.start


def in_step(number: int, action: Callable[[], object]) -> Fault:
    """That happens in this step of the writing of the process's files, counted from 1.

    A file has three: half of its bytes are on disk; all of them are; it is renamed.
    """
    steps, fsync, rename = itertools.count(1), os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        if next(steps) == number:
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
            action()
        fsync(descriptor)

    def watched_rename(source: str | Path, target: str | Path) -> None:
        if next(steps) == number:
            action()
        rename(source, target)
        if next(steps) == number:
            action()

    def plant() -> None:
        os.fsync, os.replace = watched_fsync, watched_rename

    return plant


def left_behind(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below the folder that a reader would open, and the temporary ones."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    temporary = [path for path in found if path.name.endswith(files.TEMPORARY)]
    return [path for path in found if path not in temporary], temporary


def read(path: Path) -> Any:
    """The content of a file that a run leaves. Raises anything if the file is not whole."""
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    return json.loads(path.read_text())  # what stands in place of a picture is a list


def contents(folder: Path) -> dict[str, object]:
    """What the files below the folder hold, to the last bit. Raises as `read` does."""
    return {str(path.relative_to(folder)): bits(read(path)) for path in left_behind(folder)[0]}


def bits(content: object) -> object:
    """Equal only where all bits are: arrays as bytes, numbers as text; less `seconds`, which no two runs share."""
    if isinstance(content, torch.Tensor | np.ndarray):
        array = np.asarray(content)
        return array.dtype, array.shape, array.tobytes()
    if isinstance(content, dict):
        return {name: bits(value) for name, value in content.items() if name != "seconds"}
    return [bits(value) for value in content] if isinstance(content, list | tuple) else repr(content)


def assert_same(ours: Path, theirs: Path) -> None:
    """The files of the two folders hold the same, and no temporary one is left in ours."""
    found, expected = contents(ours), contents(theirs)
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    assert not different, f"{ours} differs from {theirs} in {different}"
    assert not left_behind(ours)[1], f"{ours}: a left-over was not cleared"


def check_whole(folder: Path) -> None:
    """All files that a reader would open are whole, and at most one was being written."""
    names, temporary = left_behind(folder)
    for path in names:
        try:
            content = read(path)
        except Exception as error:
            raise AssertionError(f"{path}: cannot be read: {error!r}") from error
        if path.suffix == ".json":
            assert len(content["test_loss"]) == content["epochs"], f"{path}: a result of fewer epochs"
    assert len(temporary) <= 1, f"{temporary}: what an earlier run left was not cleared"


def epochs_saved(folder: Path) -> int:
    """Epochs of the run below the folder: in its checkpoint or, once it is finished, beside its weights."""
    saved = [read(path)["history"] for path in left_behind(folder)[0] if path.suffix == ".pt"]
    return max((len(history["train_loss"]) for history in saved), default=0)


def attempt(argv: list[str], folder: Path, statuses: Iterable[int], fault: Fault = lambda: None) -> int:
    """Run it and look: how it ended, that all files are whole and no epoch is lost; its exit status."""
    before = epochs_saved(folder) if "--resume" in argv else 0
    ended = run(argv, folder, fault)
    assert ended.status in statuses, (argv, ended)
    assert len(ended.err.splitlines()) <= 2, (argv, ended)
    check_whole(folder)
    printed = [int(epoch) for epoch in re.findall(r"^epoch +(\d+)/", ended.out, re.MULTILINE)]
    assert printed == list(range(before + 1, before + 1 + len(printed))), (argv, before, ended)
    assert epochs_saved(folder) >= max(printed, default=before), (argv, before, ended)
    return ended.status


def reference(argv: list[str], folder: Path) -> Path:
    """The folder of an undisturbed run, which is made."""
    folder.mkdir()
    attempt(argv, folder, {0})
    return folder


def kill_run(argv: list[str], folder: Path, expected: Path, faults: Iterable[Fault]) -> int:
    """Kill a run by each of the faults, unless it is through; let the last attempt finish; compare. How many kills."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kills = 0
    for fault in faults:
        if attempt([*argv, "--resume"], folder, {0, *STOPPED}, fault) == 0:
            break
        kills += 1
    attempt([*argv, "--resume"], folder, {0})
    assert_same(folder, expected)
    return kills


def kill_anywhere(data: Path, folder: Path, wanted: int, seed: int, signals: Sequence[int] = SIGNALS) -> int:
    """Kill RUNS, of EPOCHS, until there were so many kills; returns how many there were.

    Half of them come at a random moment, half inside the writing of a file.
    """
    told = ["--epochs", f"{EPOCHS}", "--batch-size", "50", "--data-dir", str(data), "--device", "cpu"]
    references = []
    for number, options in enumerate(RUNS):
        started, argv = time.monotonic(), [*options, *told]
        references.append((argv, reference(argv, folder / f"{number}"), time.monotonic() - started))
    chance, kills, rounds = random.Random(seed), 0, itertools.cycle(references)
    while kills < wanted:
        argv, expected, seconds = next(rounds)
        actions = [interrupt(chance.choice(signals)) for _ in range(min(KILLS_A_RUN, 1 + wanted // len(RUNS)))]
        faults = [
            at_moment(chance.uniform(0.1, seconds), action)
            if chance.random() < 0.5
            else in_step(chance.randint(1, STEPS * EPOCHS), action)
            for action in actions
        ]
        kills += kill_run(argv, folder / "killed", expected, faults)
    return kills


def main_faults() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--signal", choices=[number.name[3:] for number in SIGNALS], help="(default: any of them)")
    arguments = parser.parse_args()
    signals = [number for number in SIGNALS if arguments.signal in (None, number.name[3:])]
    torch.set_num_threads(1)  # threads do not survive a fork
    cheap_picture(pytest.MonkeyPatch())
    with tempfile.TemporaryDirectory() as folder:
        data = first_images(Path(main.__file__).with_name("data"), Path(folder) / "data", 1437, 360)
        kills = kill_anywhere(data, Path(folder), arguments.kills, arguments.seed, signals)
    print(f"{kills} times a run was killed; all files were whole, and all runs ended as those that were not")


if __name__ == "__main__":
    main_faults()
