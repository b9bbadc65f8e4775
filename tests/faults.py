"""The fault harness: runs that are killed.

    python tests/faults.py --kills 100 --seed 0
    python tests/faults.py --kills 100 --signal INT    # else SIGKILL, SIGINT and SIGTERM by chance

The three runs of the README, on few digits, are killed, gone on with by --resume, and killed again until they are
through. Half of the kills come at a random moment, half inside the writing of a file; one in four while the result
takes the place of another run's. After each kill every file has to be whole and every epoch that was printed saved; at
the end all files have to equal, bit for bit, those of a run that was never killed, but for the seconds of each epoch.

The same at chosen places, with full disks and broken streams: tests/test_faults.py. Every run is a process of its own,
forked from this one, which has imported torch. Needs Linux.
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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from runs import Ended, cheap_picture, interrupt  # noqa: E402

import main  # noqa: E402
from support import files  # noqa: E402
from support.data import find_data, read_images, write_tar  # noqa: E402

RUNS = (["--model", "lenet"], ["--model", "mlp"], ["--model", "lenet_bn", "--augment"])
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
    return json.loads(path.read_text())  # what stands in place of a picture is a list of numbers


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


@dataclass
class Harness:
    """What all parts share, and what was done. Its methods raise AssertionError where a guarantee is broken."""

    folder: Path  # everything happens below it
    signals: tuple[int, ...] = SIGNALS  # that kill
    chance: random.Random = field(default_factory=random.Random)
    kills: int = 0
    compared: int = 0

    def kill(self) -> Callable[[], None]:
        return interrupt(self.chance.choice(self.signals))

    def run(self, argv: list[str], folder: Path, statuses: Iterable[int], fault: Fault = lambda: None) -> int:
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

    def reference(self, argv: list[str]) -> Path:
        """The folder of an undisturbed run."""
        self.run(argv, folder := Path(tempfile.mkdtemp(dir=self.folder)), {0})
        return folder

    def kill_run(self, argv: list[str], reference: Path, faults: Iterable[Fault], before: Path | None = None) -> None:
        """Kill a run by each of the faults, unless it is through; let the last attempt finish; compare.

        before: a folder with another run's files, which it is to replace.
        """
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        if before:
            shutil.copytree(before, folder, dirs_exist_ok=True)
        for fault in faults:
            how = "--restart" if before else "--resume"
            if self.run([*argv, how], folder, {0, *STOPPED}, fault) == 0:
                break
            self.kills += 1
        self.run([*argv, "--resume"], folder, {0})
        assert_same(folder, reference)
        self.compared += 1

    def kill_runs(self, wanted: int, argvs: list[list[str]]) -> None:
        """Kill and go on with each of the runs, round after round, until there were `wanted` kills."""
        references = []
        for argv in argvs:
            started = time.monotonic()
            references.append((argv, self.reference(argv), time.monotonic() - started))
        for argv, reference, seconds in itertools.cycle(references):
            if self.kills >= wanted:
                return
            faults = [
                at_moment(self.chance.uniform(0.1, seconds), self.kill())
                if self.chance.random() < 0.5
                else in_step(self.chance.randint(1, STEPS * EPOCHS), self.kill())
                for _ in range(min(KILLS_A_RUN, 1 + wanted // len(argvs)))
            ]
            self.kill_run(argv, reference, faults)

    def kill_while_replacing(self, wanted: int, argv: list[str]) -> None:
        """Kill a run of one epoch in so many of the steps in which its files take the place of another run's."""
        before, reference = self.reference([*argv, "--lr", "0.02"]), self.reference(argv)
        steps = range(STEPS, 5 * STEPS + 1)  # from its checkpoint on: until then --resume finds the other run
        for step in self.chance.sample(steps, min(wanted, len(steps))):
            self.kill_run(argv, reference, [in_step(step, self.kill())], before)


def few_digits(folder: Path) -> Path:
    """A data set of the first 600 training and 200 test digits of MNIST."""
    source = find_data(None)
    for split, path, count in (("train", source.train, 600), ("test", source.test, 200)):
        images, labels = read_images(path)
        write_tar(folder / f"{split}.tar", split, images[:count], labels[:count])
    return folder


def main_faults(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Kill runs, and see that nothing is lost.")
    parser.add_argument("--kills", type=int, default=100, help="processes to kill (default: 100)")
    parser.add_argument("--signal", choices=["KILL", "INT", "TERM"], help="that kills (default: any)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # threads do not survive fork
    cheap_picture(pytest.MonkeyPatch())
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as workplace:
        signals = (signal.Signals[f"SIG{options.signal}"],) if options.signal else SIGNALS
        harness = Harness(Path(workplace), signals, random.Random(options.seed))
        common = ["--data-dir", str(few_digits(Path(workplace))), "--device", "cpu", "--batch-size", "50"]
        replacing = [*RUNS[1], *common, "--epochs", "1", "--name", "run"]
        harness.kill_while_replacing(options.kills // 4, replacing)
        harness.kill_runs(options.kills, [[*argv, *common, "--epochs", str(EPOCHS)] for argv in RUNS])
    counts = f"{harness.kills} kills; {harness.compared} runs compared; 0 guarantees broken"
    print(f"{counts}; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main_faults()
