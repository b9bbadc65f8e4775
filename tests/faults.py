"""The fault harness: runs that are killed, studies that are killed, runs that get in each other's way, full disks.

    python tests/faults.py --kills 100 --seed 0 --full-disk
    python tests/faults.py --kills 100 --signal INT

Kills: the three runs of the README, on few digits, are killed, gone on with by --resume, and killed again until they
are through. Half of the kills come at a random moment, half inside the writing of a file; one in four while the result
takes the place of another run's. After each kill every file has to be whole; at the end all files have to equal, bit
for bit, those of a run that was never killed, but for the seconds that each epoch took.

One round for twenty kills: two runs at once with one result's name, of which one has to be refused. From 50 kills on
the study is killed, too. With --full-disk the disk fills up at each place of a run, one after the other: what stood
there before has to be whole. Each of these runs is gone on with and compared as well.

Every run is a process of its own, forked from this one, which has imported torch and never uses it. Needs Linux.
"""

import argparse
import contextlib
import errno
import io
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import main  # noqa: E402
from support import files  # noqa: E402
from support.data import find_data, read_images, write_tar  # noqa: E402
from support.run import read_runs  # noqa: E402
from support.terminal import UserError  # noqa: E402

RUNS = (["--model", "lenet"], ["--model", "mlp"], ["--model", "lenet_bn", "--augment"])
EPOCHS = 4  # enough to be killed before, between and behind checkpoints
KILLS_A_RUN = 8  # then the run is left to finish, so that each round reaches the comparison
PATIENCE = 300  # seconds; a run takes a few, so one that is not through by then hangs

Prepare = Callable[[], object]  # called in a run's process before it starts, to plant a fault


class Outcome(NamedTuple):
    """How a process ended: its exit status, or less than 0 the signal that killed it; and what it printed."""

    status: int
    text: str


@dataclass
class Harness:
    """What all parts share, and what was seen; `broken` is empty if all is well."""

    folder: Path  # everything happens below it
    chance: random.Random
    signal: int  # that kills
    seen: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def new_folder(self) -> Path:
        self.seen["folders made"] += 1
        folder = self.folder / f"{self.seen['folders made']}"
        folder.mkdir()
        return folder

    def check(self, folder: Path, about: str, outcome: Outcome, well: bool = True) -> None:
        """The process said no more than two lines of error, and all files that a reader would open are whole."""
        error = outcome.text.partition("error: ")[2].splitlines()
        if not well or len(error) > 2 or "Traceback" in outcome.text:
            self.broken.append(f"{about}: exit status {outcome.status}:\n{outcome.text}")
        self.broken += [f"{about}: {problem}" for problem in torn(folder)]

    def finish(self, argv: list[str], folder: Path, reference: Path, about: str) -> None:
        """Go on with the run in the folder, compare it with the reference, and remove it."""
        outcome = run([*argv, "--resume"], folder)
        self.check(folder, f"{about}, resumed", outcome, outcome.status == 0)
        self.broken += [f"{about}: {problem}" for problem in not_same(folder, reference)]
        self.seen["runs compared"] += 1
        shutil.rmtree(folder)

    def kill(self) -> None:
        os.kill(os.getpid(), self.signal)


# --- processes --------------------------------------------------------------------------------------------------------


def run(argv: list[str], folder: Path, prepare: Prepare = lambda: None, kill: tuple[int, float] = (0, 0)) -> Outcome:
    """Run `main.py argv` in `folder`, in a process of its own, and wait for its end; kill: a signal, after seconds."""
    return wait(*begin(argv, folder, prepare), *kill)


def begin(argv: list[str], folder: Path, prepare: Prepare = lambda: None) -> tuple[int, int]:
    """Start it; the process's id, and a pipe from which what it prints can be read."""
    sys.stdout.flush()
    reader, writer = os.pipe()  # holds 64 KiB, far more than a run prints, so it can be read afterwards
    pid = os.fork()
    if pid == 0:
        _become(argv, folder, prepare, writer)
    os.close(writer)
    return pid, reader


def wait(pid: int, reader: int, number: int = 0, seconds: float = math.inf) -> Outcome:
    """Wait for the end of what `begin` started; after so many seconds send it a signal."""
    started = time.monotonic()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        waited = time.monotonic() - started
        if waited > PATIENCE:
            os.kill(pid, signal.SIGKILL)
        elif number and waited > seconds:
            os.kill(pid, number)
            number = 0
        time.sleep(0.002)
    with open(reader, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    return Outcome(os.waitstatus_to_exitcode(ended[1]), text)


def _become(argv: list[str], folder: Path, prepare: Prepare, writer: int) -> None:
    """Be that process, in the fork. Never returns: what the harness does next is not this process's business."""
    status = 70  # EX_SOFTWARE: something was raised that no program should end with
    try:
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(writer, stream)
            setattr(sys, name, open(stream, "w", closefd=False))  # noqa: SIM115
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()
        main.main(argv)
        status = 0
    except SystemExit as leave:
        status = leave.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status)


def watch_writing(act: Callable[[int, str], object]) -> None:
    """From now on, in this process, call act(number, kind) in each step of the writing of a file, numbered from 1.

    Kinds: "create" (the file is there, and empty), "write" (half of the bytes that were handed to the operating system
    are written), "flush" (they are not yet on disk), "rename" (it is not yet done), "renamed".
    """
    numbers = itertools.count(1)
    fsync, rename = os.fsync, os.replace

    class HalfWay(io.FileIO):
        def write(self, data) -> int:
            data = memoryview(data).cast("B")
            written = super().write(data[: len(data) // 2])
            if written < len(data) // 2:
                return written
            act(next(numbers), "write")
            return written + super().write(data[written:])

    def watched_open(path, mode):
        raw = HalfWay(path, mode)
        act(next(numbers), "create")
        return io.BufferedWriter(raw)

    def watched_fsync(descriptor):
        act(next(numbers), "flush")
        fsync(descriptor)

    def watched_rename(source, target):
        act(next(numbers), "rename")
        rename(source, target)
        act(next(numbers), "renamed")

    files.open, os.fsync, os.replace = watched_open, watched_fsync, watched_rename


def in_step(number: int, action: Callable[[], object]) -> Prepare:
    """That happens in that step of the writing of the process's files."""
    return lambda: watch_writing(lambda step, kind: action() if step == number else None)


def reference_run(argv: list[str], folder: Path) -> tuple[float, list[str]]:
    """An uninterrupted run: the seconds that it takes, and the kinds of the steps in which it writes."""
    kinds = folder / "kinds.log"

    def note(number: int, kind: str) -> None:
        with open(kinds, "a") as file:
            file.write(f"{kind}\n")

    started = time.monotonic()
    outcome = run(argv, folder, lambda: watch_writing(note))
    if outcome.status:
        raise RuntimeError(f"{' '.join(argv)}: exit status {outcome.status}:\n{outcome.text}")
    return time.monotonic() - started, kinds.read_text().split()


# --- what has to hold -------------------------------------------------------------------------------------------------


def read(path: Path) -> object:
    """The content of a file that a run leaves, for `difference`. Raises anything if the file is not whole."""
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].tolist() for name in arrays.files}
    with Image.open(path) as image:
        return {"digest": image.info.get("digest"), "pixels": torch.from_numpy(np.array(image))}


def left_behind(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files below the folder that a reader would open, and the temporary ones."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".log"))
    temporary = [path for path in found if path.name.endswith(files.TEMPORARY)]
    return [path for path in found if path not in temporary], temporary


def difference(ours: object, theirs: object, where: str = "") -> str | None:
    """Where two contents differ, to the last bit, or None. What is named `seconds` may."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and list(ours) == list(theirs):
        pairs = [(f"{where}/{key}", ours[key], theirs[key]) for key in ours if key != "seconds"]
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        pairs = [(f"{where}/{i}", *pair) for i, pair in enumerate(zip(ours, theirs, strict=True))]
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs)
        return None if same else where
    else:
        return None if type(ours) is type(theirs) and ours == theirs else where or "/"
    return next((found for part, a, b in pairs if (found := difference(a, b, part))), None)


def torn(folder: Path) -> list[str]:
    """What is wrong with the files that a reader would open, and what of two runs would be read as one."""
    wrong = []
    for path in left_behind(folder)[0]:
        try:
            content = read(path)
        except Exception as error:
            wrong.append(f"{path}: cannot be read: {error!r}")
            continue
        if path.suffix == ".json" and len(content["test_loss"]) != content["epochs"]:
            wrong.append(f"{path}: a result of {len(content['test_loss'])} of {content['epochs']} epochs")
    with contextlib.suppress(UserError):  # which notices a mix
        for found, history, _ in [] if wrong else read_runs(folder / "result_plot"):
            arrays = found.with_suffix(".npz")
            if arrays.exists() and read(arrays)["digest"] != history["digest"]:
                wrong.append(f"{arrays}: is read as of another run")
    return wrong


def not_same(folder: Path, reference: Path) -> list[str]:
    """What of the finished run's files differs from the reference's."""
    names, temporary = left_behind(folder)
    names = {path.relative_to(folder) for path in names}
    expected = {path.relative_to(reference) for path in left_behind(reference)[0]}
    wrong = [f"{folder / name}: missing, or one too many" for name in sorted(names ^ expected)]
    wrong += [f"{path}: a left-over that was not cleared" for path in temporary]
    for name in sorted(names & expected):
        if where := difference(read(folder / name), read(reference / name)):
            wrong.append(f"{folder / name}: differs from the uninterrupted run's in {where}")
    return wrong


# --- the parts --------------------------------------------------------------------------------------------------------


def kill_runs(harness: Harness, wanted: int, argvs: list[list[str]]) -> None:
    """Kill and go on with each of the runs, round after round, until there were `wanted` kills."""
    stopped = {-harness.signal, 128 + harness.signal}
    references = [harness.new_folder() for _ in argvs]
    costs = [reference_run(argv, folder) for argv, folder in zip(argvs, references, strict=True)]
    budget = min(KILLS_A_RUN, math.ceil(wanted / len(argvs)))
    for number in itertools.count():
        if harness.seen["kills"] >= wanted and number >= len(argvs):
            return
        argv, reference, (seconds, kinds) = (some[number % len(argvs)] for some in (argvs, references, costs))
        folder, last = harness.new_folder(), min(wanted, harness.seen["kills"] + budget)
        while harness.seen["kills"] < last:
            moment = harness.chance.uniform(0.1, seconds)
            step = in_step(harness.chance.randint(1, len(kinds) // 2), harness.kill)
            faults = ({"kill": (harness.signal, moment)}, {"prepare": step})
            outcome = run([*argv, "--resume"], folder, **faults[(harness.seen["kills"] + number) % 2])
            harness.check(folder, f"{argv[1]} killed", outcome, outcome.status in {0, *stopped})
            if outcome.status == 0:
                break
            harness.seen["kills"] += 1
            left_overs = left_behind(folder)[1]
            harness.seen["left-overs"] += bool(left_overs)
            if len(left_overs) > 1:  # the processes write one file at a time: one was not cleared
                harness.broken.append(f"{left_overs}: more than one left-over")
        harness.finish(argv, folder, reference, f"{argv[1]} killed")


def kill_while_replacing(harness: Harness, wanted: int, argv: list[str]) -> None:
    """Kill a run in so many of the steps in which its result takes the place of another run's."""
    argv = [*argv, "--name", "run"]
    before, reference = harness.new_folder(), harness.new_folder()
    reference_run([*argv, "--lr", "0.02"], before)
    _, kinds = reference_run(argv, reference)
    result = [step for step, kind in enumerate(kinds, start=1) if kind == "create"][-5]  # weights, arrays, ...
    steps = range(result, len(kinds) + 1)
    for step in harness.chance.sample(steps, min(wanted, len(steps))):
        folder = harness.new_folder()
        shutil.copytree(before, folder, dirs_exist_ok=True)
        outcome = run([*argv, "--restart"], folder, in_step(step, harness.kill))
        harness.seen["kills"] += 1
        harness.seen["results half replaced"] += len({path.stat().st_mtime for path in folder.rglob("run.*")}) > 1
        harness.check(folder, f"killed in step {step}", outcome, outcome.status != 0)
        harness.finish(argv, folder, reference, f"replaced, killed in step {step}")


def start_two(harness: Harness, argv: list[str], reference: Path) -> None:
    """Start two runs at once, with the name and folder of one result, and checkpoints in folders of their own."""
    folder = harness.new_folder()
    started = [begin([*argv, "--checkpoint-dir", name], folder) for name in ("one", "other")]
    outcomes = [wait(*each) for each in started]
    refused = [outcome.text for outcome in outcomes if outcome.status == 2 and "another process" in outcome.text]
    if sorted(outcome.status for outcome in outcomes) != [0, 2] or len(refused) != 1:
        harness.broken.append("two runs with the name of one result:\n" + "\n".join(one.text for one in outcomes))
    harness.broken += not_same(folder / "result_plot", reference / "result_plot")
    harness.seen["pairs of runs"] += 1


def redirect(path: str, *streams: int) -> None:
    for stream in streams:
        os.dup2(os.open(path, os.O_WRONLY), stream)


def nobody_reads(stream: int) -> None:
    reader, writer = os.pipe()
    os.dup2(writer, stream)
    os.close(reader)


def kill_study(harness: Harness, data: Path) -> None:
    """Kill a study at random moments, then let the same command finish it, and compare."""
    command = [sys.executable, str(ROOT / "study.py"), "--seeds", "1", "--epochs", "2", "--jobs", "2"]
    command += ["--data-dir", str(data), "--output-dir", "study", "--checkpoint-dir", "checkpoints"]
    reference, folder, started = harness.new_folder(), harness.new_folder(), time.monotonic()
    subprocess.run(command, cwd=reference, check=True, capture_output=True)
    seconds = time.monotonic() - started
    for _ in range(3):
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(harness.chance.uniform(0, seconds))
            process.send_signal(harness.signal)
        harness.broken += torn(folder)
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        harness.broken.append(f"the study: exit status {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    harness.broken += not_same(folder, reference)
    harness.seen["killed studies"] += 1


def fill_disk(harness: Harness, argv: list[str]) -> None:
    """Let the disk be full in one place of the run after the other, each time in a folder that holds a finished run.

    In each file by a limit that the operating system sets (EFBIG); in each write, flush and rename by ENOSPC.
    """

    def no_space(number: int) -> Prepare:
        def act(step: int, kind: str) -> None:
            if step >= number and kind != "renamed":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return lambda: watch_writing(act)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))  # fewer bytes than any file has

    argv = [*argv, "--name", "run"]
    before, reference = harness.new_folder(), harness.new_folder()
    reference_run([*argv, "--epochs", "1"], before)
    _, kinds = reference_run([*argv, "--epochs", "2"], reference)
    steps = list(enumerate(kinds[:-1], start=1))  # the last one flushes a folder, without which it does
    faults = [in_step(step, limit) for step, kind in steps if kind == "create"]
    faults += [no_space(step) for step, kind in steps if kind != "renamed"]
    for fault in faults:
        folder, about = harness.new_folder(), f"full disk {harness.seen['full disks']}"
        shutil.copytree(before, folder, dirs_exist_ok=True)
        outcome = run([*argv, "--epochs", "2", "--restart"], folder, fault)
        harness.check(folder, about, outcome, outcome.status in (0, 1, 2) and not left_behind(folder)[1])
        there = {path.name for path in left_behind(folder)[0]}
        harness.broken += [f"{about}: {path.name} is gone" for path in left_behind(before)[0] if path.name not in there]
        outcome = run([*argv, "--epochs", "2", "--restart"], folder)
        harness.check(folder, about, outcome, outcome.status == 0)
        harness.broken += not_same(folder, reference)
        harness.seen["full disks"] += 1
        shutil.rmtree(folder)


def small_picture(history: dict, file: io.BytesIO, digest: str) -> None:
    """A picture of what is drawn, in pixels of its own kind."""
    about = PngInfo()
    about.add_text("digest", digest)
    losses = (1000 * np.array(history["test_loss"])[None]).astype(np.uint8)
    Image.fromarray(losses).save(file, "png", pnginfo=about)


def few_digits(folder: Path) -> Path:
    """A data set of the first 600 training and 200 test digits of MNIST."""
    source = find_data(None)
    for split, path, count in (("train", source.train, 600), ("test", source.test, 200)):
        images, labels = read_images(path)
        write_tar(folder / f"{split}.tar", split, images[:count], labels[:count])
    return folder


def main_faults(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill runs, fill disks, and see that nothing is lost.")
    parser.add_argument("--kills", type=int, default=100, help="processes to kill (default: 100)")
    parser.add_argument("--signal", choices=("KILL", "INT", "TERM"), default="KILL", help="that kills (default: KILL)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--full-disk", action="store_true", help="then fill the disk, at each place of a run")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # threads do not survive fork
    main.plot.draw_run, main.plot.save = (lambda history: history), small_picture  # drawing takes longer than training
    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports more than all the rest; once, here, is enough
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as workplace:
        harness = Harness(Path(workplace), random.Random(options.seed), getattr(signal, f"SIG{options.signal}"))
        data = few_digits(harness.new_folder())
        common = ["--data-dir", str(data), "--device", "cpu", "--batch-size", "50"]
        argvs = [[*argv, *common, "--epochs", str(EPOCHS)] for argv in RUNS]
        kill_runs(harness, options.kills - options.kills // 4, argvs)
        kill_while_replacing(harness, options.kills // 4, [*RUNS[1], *common, "--epochs", "1"])
        reference_run(argvs[1], reference := harness.new_folder())
        for _ in range(math.ceil(options.kills / 20)):
            start_two(harness, argvs[1], reference)
        for _ in range(options.kills // 50):
            kill_study(harness, data)
        if options.full_disk:
            fill_disk(harness, [*RUNS[1], *common])
    print("\n".join(harness.broken))
    counts = "; ".join(f"{count} {what}" for what, count in harness.seen.items() if what != "folders made")
    print(f"{counts}; {len(harness.broken)} guarantees broken; {time.monotonic() - started:.0f} s")
    return 1 if harness.broken else 0


if __name__ == "__main__":
    sys.exit(main_faults())
