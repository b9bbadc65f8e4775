"""The fault harness: runs that are killed, get in each other's way, lose their streams or folders, and full disks.

    python tests/faults.py --kills 100 --seed 0 --full-disk

First part, kills: the three runs of the README, on the bundled sample, are killed with SIGKILL, gone on with, and
killed again until they are through. Half of the kills come at a random moment, half inside the writing of a file. After
each kill every file has to be whole; at the end all files have to equal, bit for bit, those of a run that was never
killed, but for the seconds that each epoch took. In one kill of four a run dies while its result
takes the place of another run's: weights, arrays, history and picture have to be of one run, or the mix is noticed.

With them go, one round for twenty kills: two runs that start at once with one result's name and folders of their own
for checkpoints, of which one has to be refused and the other undisturbed; streams that are closed, full, or read by
nobody from some step on; a folder that vanishes in some step. Each of these runs is gone on with and compared as well.
From 50 kills on the study is killed, too: its runs have to end, and the same command has to go on.

Second part, with --full-disk: the disk fills up at each place of a run, one after the other: in each file, by a limit
that the operating system sets to the size of files, and in each single write, flush and rename, as ENOSPC. The run has
to end with an error of one or two lines; what stood there before has to be whole, and the run can be gone on with.

Every run is a process of its own, forked from this one, which has imported torch and never uses it: importing would
take longer than training. Needs fork, so Linux.
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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import main  # noqa: E402
from support import files  # noqa: E402
from support.run.history import read_runs  # noqa: E402
from support.terminal import UserError  # noqa: E402

RUNS = (["--model", "lenet"], ["--model", "mlp"], ["--model", "lenet_bn", "--augment"])
EPOCHS = 4  # enough to be killed before, between and behind checkpoints
ANOTHER = ["--lr", "0.02"]  # of the run whose result is replaced
KILLS_A_STUDY = 3
KILLS_A_RUN = 8  # then the run is left to finish, so that each round reaches the comparison
PATIENCE = 120  # seconds; a run takes a few, so one that is not through by then hangs


class Failure(Exception):
    """A guarantee is broken. The message says which, and where."""


@dataclass
class Outcome:
    """How a process ended: its exit status, or less than 0 the signal that killed it; and what it printed."""

    pid: int
    status: int
    text: str
    seconds: float


@dataclass
class Report:
    """What the harness saw; `broken` is empty if all is well."""

    kills: int = 0
    inside: int = 0  # of the kills: a file was half written at that moment
    rounds: int = 0  # runs that were finished and compared
    mixes: int = 0  # of the kills: the files of a result were of two runs, and that was noticed
    pairs: int = 0  # of runs that started at once with the name of one result
    streams: int = 0  # runs that lost one
    folders: int = 0  # runs that lost one
    studies: int = 0  # that were killed until they were through, and compared
    full: int = 0  # disks that were full
    broken: list[str] = field(default_factory=list)


# --- processes --------------------------------------------------------------------------------------------------------


def run(
    argv: list[str], folder: Path, prepare: Callable[[], None] = lambda: None, kill_after: float = math.inf
) -> Outcome:
    """Run `main.py argv` in `folder`, in a process of its own, and wait for its end; kill it after so many seconds.

    prepare is called in that process before the program starts, to plant a fault. Raises Failure if the process hangs.
    """
    return wait(*begin(argv, folder, prepare), argv, kill_after)


def begin(argv: list[str], folder: Path, prepare: Callable[[], None] = lambda: None) -> tuple[int, int]:
    """Start it; the process's id, and a pipe from which what it prints can be read."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()  # holds 64 KiB, far more than a run prints, so it can be read afterwards
    pid = os.fork()
    if pid == 0:
        _become(argv, folder, prepare, writer)
    os.close(writer)
    return pid, reader


def wait(pid: int, reader: int, argv: list[str], kill_after: float = math.inf) -> Outcome:
    """Wait for the end of what `begin` started."""
    started = time.monotonic()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        waited = time.monotonic() - started
        if waited > min(kill_after, PATIENCE):
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    seconds = time.monotonic() - started
    with open(reader, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    if seconds > PATIENCE:
        raise Failure(f"{' '.join(argv)}: not through after {PATIENCE} s:\n{text}")
    return Outcome(pid, os.waitstatus_to_exitcode(ended[1]), text, seconds)


def _become(argv: list[str], folder: Path, prepare: Callable[[], None], writer: int) -> None:
    """Be that process, in the fork. Never returns: what the harness does next is not this process's business."""
    status = 70  # EX_SOFTWARE: something was raised that no program should end with
    try:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.chdir(folder)
        sys.argv = ["main.py", *argv]
        prepare()
        main.main(argv)
        status = 0
    except SystemExit as leave:
        status = leave.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def watch_writing(act: Callable[[int, str], None]) -> None:
    """From now on, in this process, call act(number, kind) in each step of the writing of a file, numbered from 1.

    Kinds: "create" (the file is there, and empty), "write" (half of the bytes that were handed to the operating system
    are written), "flush" (they are not yet on disk), "rename" (it is not yet done), "renamed".
    """
    numbers = itertools.count(1)
    fsync, rename = os.fsync, os.replace

    class HalfWay(io.FileIO):
        def write(self, data) -> int:
            data = memoryview(data).cast("B")
            half = len(data) // 2
            written = super().write(data[:half])
            if written < half:
                return written
            act(next(numbers), "write")
            return half + super().write(data[half:])

    def watched_open(path, mode):
        if mode != "wb":
            return open(path, mode)
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


# --- what has to hold -------------------------------------------------------------------------------------------------


def read(path: Path) -> object:
    """The content of a file that a run leaves, for `difference`. Raises anything if the file is not whole."""
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            digest = {"digest": str(arrays["digest"])}
            return digest | {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "digest"}
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
    return next((found for place, a, b in pairs if (found := difference(a, b, place))), None)


def check_whole(folder: Path) -> list[str]:
    """What is wrong with the files that a reader would open."""
    wrong = []
    for path in left_behind(folder)[0]:
        try:
            content = read(path)
        except Exception as error:
            wrong.append(f"{path}: cannot be read: {error!r}")
            continue
        if path.suffix == ".json" and len(content["test_loss"]) != content["epochs"]:
            wrong.append(f"{path}: a result of {len(content['test_loss'])} of {content['epochs']} epochs")
    return wrong


def mixed(folder: Path) -> bool:
    """Whether the files of the finished result there are of more than one run."""
    return len(set(digests(folder).values())) > 1


def kill_study(rounds: int, chance: random.Random, workplace: Path, report: Report) -> None:
    """Kill a study at random moments, then let the same command finish it, and compare."""
    command = [sys.executable, str(ROOT / "study.py"), "--seeds", "1", "--epochs", "2", "--jobs", "2"]
    command += ["--data-dir", str(ROOT / "data" / "sample"), "--output-dir", "study", "--checkpoint-dir", "checkpoints"]
    reference = workplace / "study"
    reference.mkdir()
    started = time.monotonic()
    subprocess.run(command, cwd=reference, check=True, capture_output=True, timeout=10 * PATIENCE)
    seconds = time.monotonic() - started
    for number in range(rounds):
        folder = workplace / f"study{number}"
        folder.mkdir()
        for _ in range(KILLS_A_STUDY):
            with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, seconds))
                process.kill()
            report.kills += process.returncode < 0
            report.broken += check_whole(folder)
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10 * PATIENCE)
        if ended.returncode:
            report.broken.append(f"the study: exit status {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        report.broken += check_whole(folder) + check_same(folder, reference)
        report.studies += 1
        shutil.rmtree(folder)


def check_mix(folder: Path) -> list[str]:
    """What is wrong about files of two runs: main.py has to refuse, and a reader of the arrays as well."""
    found, wrong = digests(folder), []
    if mixed(folder) and not unfinished(folder):
        wrong.append(f"{folder}: holds files of two runs, {found}, and no checkpoint says so")
    try:
        read_runs(folder / "result_plot")
    except UserError:
        return wrong
    if found.get(".json") != found.get(".npz"):
        wrong.append(f"{folder}: history and arrays of two runs are read as one")
    return wrong


def digests(folder: Path) -> dict[str, str | None]:
    """By its suffix, the digest of the run that each file of the result is of."""
    paths = [path for path in left_behind(folder)[0] if path.suffix != ".pt" or path.name.endswith(".weights.pt")]
    return {path.suffix: read(path)["digest"] for path in paths}


def check_same(folder: Path, reference: Path) -> list[str]:
    """What of the finished run's files differs from the reference's."""
    names, temporary = left_behind(folder)
    names = {path.relative_to(folder) for path in names}
    expected = {path.relative_to(reference) for path in left_behind(reference)[0]}
    wrong = [f"{folder / name}: missing, or one too many" for name in sorted(names ^ expected)]
    wrong += [f"{path}: a left-over that was not cleared" for path in temporary]
    for name in sorted(names & expected):
        try:
            where = difference(read(folder / name), read(reference / name))
        except Exception:  # not whole, which check_whole says
            continue
        if where:
            wrong.append(f"{folder / name}: differs from the uninterrupted run's in {where}")
    return wrong


def unfinished(folder: Path) -> bool:
    """Whether the folder holds a run that can be resumed."""
    paths = [path for path in folder.glob("checkpoints/*.pt") if not path.name.endswith(".weights.pt")]
    return any(not torch.load(path, weights_only=True)["finished"] for path in paths)


# --- the two parts ----------------------------------------------------------------------------------------------------


def reference_run(argv: list[str], folder: Path) -> tuple[float, list[str]]:
    """An uninterrupted run: the seconds that it takes, and the kinds of the steps in which it writes."""
    folder.mkdir()
    kinds_file = folder / "kinds.lock"

    def note(number: int, kind: str) -> None:
        with open(kinds_file, "a") as file:
            file.write(f"{kind}\n")

    outcome = run(argv, folder, lambda: watch_writing(note))
    if outcome.status:
        raise Failure(f"{' '.join(argv)}: exit status {outcome.status}:\n{outcome.text}")
    return outcome.seconds, kinds_file.read_text().split()


def kill_runs(wanted: int, chance: random.Random, workplace: Path, report: Report, argvs: list[list[str]]) -> None:
    """Kill and go on with each of the runs, round after round, until there were `wanted` kills."""
    references = []
    for i, argv in enumerate(argvs):
        references.append((workplace / f"reference{i}", *reference_run(argv, workplace / f"reference{i}")))
    budget = min(KILLS_A_RUN, math.ceil(wanted / len(argvs)))
    for argv, (reference, seconds, kinds) in itertools.cycle(zip(argvs, references, strict=True)):
        if report.kills >= wanted and report.rounds >= len(argvs):
            return
        folder = workplace / f"round{report.rounds}"
        folder.mkdir()
        last = min(wanted, report.kills + budget)
        outcome = None
        while outcome is None or outcome.status < 0:
            again = [*argv, "--resume"] if unfinished(folder) else argv
            if report.kills >= last:
                outcome = run(again, folder)
            elif (report.kills + report.rounds) % 2:
                outcome = run(again, folder, kill_after=chance.uniform(0, seconds))
            else:
                outcome = run(again, folder, kill_in_step(chance.randint(1, len(kinds) // 2)))
            if outcome.status < 0:
                report.kills += 1
                temporary = left_behind(folder)[1]
                report.inside += any(f".{outcome.pid}." in path.name for path in temporary)
                report.broken += check_whole(folder)
                # the processes write one file at a time, so two left-overs mean that one was not cleared
                report.broken += [f"{path}: a left-over that was not cleared" for path in temporary[:-1]]
        if outcome.status:
            raise Failure(f"{' '.join(again)}: exit status {outcome.status}:\n{outcome.text}")
        report.broken += check_whole(folder) + check_same(folder, reference)
        report.rounds += 1
        shutil.rmtree(folder)


def in_step(number: int, action: Callable[[], object]) -> Callable[[], None]:
    """In a process that calls the returned function, that happens in that step of its writing."""

    def act(step: int, kind: str) -> None:
        if step == number:
            action()

    return lambda: watch_writing(act)


def kill_in_step(number: int) -> Callable[[], None]:
    return in_step(number, lambda: os.kill(os.getpid(), signal.SIGKILL))


def kill_while_replacing(wanted: int, chance: random.Random, workplace: Path, report: Report, argv: list[str]) -> None:
    """Kill a run in so many of the steps in which its result takes the place of another run's."""
    before, reference = workplace / "replaced", workplace / "replacing"
    argv = [*argv, "--name", "run"]
    reference_run([*argv, *ANOTHER], before)
    _, kinds = reference_run(argv, reference)
    result = [step for step, kind in enumerate(kinds, start=1) if kind == "create"][-5]  # weights, arrays, ...
    steps = range(result, len(kinds) + 1)
    for step in chance.sample(steps, min(wanted, len(steps))):
        folder = workplace / f"replace{step}"
        shutil.copytree(before, folder)
        outcome = run([*argv, "--restart"], folder, kill_in_step(step))
        if outcome.status >= 0:
            raise Failure(f"{' '.join(argv)}: was not killed in step {step}:\n{outcome.text}")
        report.kills += 1
        report.inside += bool(left_behind(folder)[1])
        report.mixes += mixed(folder)
        report.broken += check_whole(folder) + check_mix(folder)
        resumed(argv, folder, reference, report)


def resumed(argv: list[str], folder: Path, reference: Path, report: Report) -> None:
    """Go on with what is left in the folder, compare it with the reference, and remove it."""
    again = [*argv, "--resume"] if unfinished(folder) else argv
    outcome = run(again, folder)
    if outcome.status:
        report.broken.append(f"{' '.join(again)}: exit status {outcome.status}:\n{outcome.text}")
    report.broken += check_whole(folder) + check_same(folder, reference)
    report.rounds += 1
    shutil.rmtree(folder)


# --- two runs, streams, folders ---------------------------------------------------------------------------------------


def start_two(rounds: int, workplace: Path, report: Report, argv: list[str], reference: Path) -> None:
    """Start two runs at once, with the name and folder of one result, and checkpoints in folders of their own."""
    for number in range(rounds):
        folder = workplace / f"two{number}"
        folder.mkdir()
        argvs = [[*argv, "--checkpoint-dir", name] for name in ("one", "other")]
        started = [begin(each, folder) for each in argvs]
        outcomes = [wait(*each, argv) for each in started]
        refused = [outcome.text for outcome in outcomes if outcome.status == 2 and "another process" in outcome.text]
        if sorted(outcome.status for outcome in outcomes) != [0, 2] or len(refused) != 1:
            report.broken.append("two runs with the name of one result:\n" + "\n".join(one.text for one in outcomes))
        report.broken += check_whole(folder) + check_same(folder / "result_plot", reference / "result_plot")
        report.pairs += 1
        shutil.rmtree(folder)


def redirect(number: int, path: str) -> None:
    """Let a stream lead to that file."""
    os.dup2(os.open(path, os.O_WRONLY), number)


def nobody_reads(number: int) -> None:
    reader, writer = os.pipe()
    os.dup2(writer, number)
    os.close(reader)


STREAMS: dict[str, tuple[Callable[[], object], set[int]]] = {  # what happens to a stream, and the statuses it may give
    "stderr closed": (lambda: os.close(2), {0}),
    "stderr full": (lambda: redirect(2, "/dev/full"), {0}),
    "stderr read by nobody": (lambda: nobody_reads(2), {0}),
    "stdout full": (lambda: redirect(1, "/dev/full"), {1}),
    "stdout read by nobody": (lambda: nobody_reads(1), {128 + signal.SIGPIPE}),
    "stdout and stderr full": (lambda: (redirect(1, "/dev/full"), redirect(2, "/dev/full")), {1}),
}


def break_streams(
    rounds: int, chance: random.Random, workplace: Path, report: Report, argv: list[str], reference: Path
) -> None:
    """Break a stream in some step before the last epoch is told, each time another way."""
    _, kinds = reference_run(argv, workplace / "streams")
    last = [step for step, kind in enumerate(kinds, start=1) if kind == "create"][-6]  # the last epoch's checkpoint
    for number, name in zip(range(rounds), itertools.cycle(STREAMS), strict=False):
        action, statuses = STREAMS[name]
        folder = workplace / f"stream{number}"
        folder.mkdir()
        outcome = run(argv, folder, in_step(chance.randint(1, last), action))
        if outcome.status not in statuses or "Traceback" in outcome.text:
            report.broken.append(f"{name}: exit status {outcome.status}:\n{outcome.text}")
        report.broken += check_whole(folder) + [f"{path}: left behind" for path in left_behind(folder)[1]]
        report.streams += 1
        resumed(argv, folder, reference, report)


def remove_folders(
    rounds: int, chance: random.Random, workplace: Path, report: Report, argv: list[str], reference: Path
) -> None:
    """Remove a folder in some step of the run, which then has to say so, unless nothing had to be written there."""
    _, kinds = reference_run(argv, workplace / "folders")
    for number, name in zip(range(rounds), itertools.cycle(("checkpoints", "result_plot")), strict=False):
        folder = workplace / f"folder{number}"
        folder.mkdir()
        action = lambda name=name: shutil.rmtree(name)  # noqa: E731
        outcome = run(argv, folder, in_step(chance.randint(1, len(kinds)), action))
        lines = outcome.text.partition("error: ")[2].splitlines()
        said = outcome.status == 1 and name in lines[0] and len(lines) <= 2 if lines else outcome.status == 0
        if not said:
            report.broken.append(f"{name} vanished: exit status {outcome.status}:\n{outcome.text}")
        report.broken += check_whole(folder)
        report.folders += 1
        resumed(argv, folder, reference, report)


def fill_disk(workplace: Path, report: Report, argv: list[str]) -> None:
    """Let the disk be full in one place of the run after the other, each time in a folder that holds a finished run."""
    before, reference = workplace / "before", workplace / "reference"
    argv = [*argv, "--name", "run"]
    reference_run([*argv, "--epochs", "1"], before)
    _, kinds = reference_run([*argv, "--epochs", "2"], reference)
    kinds.pop()  # the last flush is of a folder, which costs a warning only
    created = [i for i, kind in enumerate(kinds, start=1) if kind == "create"]
    faults = [limit_file(step) for step in created]
    faults += [no_space(step) for step, kind in enumerate(kinds, start=1) if kind != "renamed"]
    for fault in faults:
        folder = workplace / f"full{report.full}"
        shutil.copytree(before, folder)
        outcome = run([*argv, "--epochs", "2", "--restart"], folder, fault)
        lines = [line for line in outcome.text.splitlines() if line.startswith("error: ")]
        behind = outcome.text.partition("error: ")[2].splitlines()
        if outcome.status not in (1, 2) or len(lines) != 1 or len(behind) > 2 or "Traceback" in outcome.text:
            report.broken.append(f"full disk {report.full}: exit status {outcome.status}:\n{outcome.text}")
        report.broken += check_whole(folder) + [f"{path}: left behind" for path in left_behind(folder)[1]]
        names = {path.relative_to(folder) for path in left_behind(folder)[0]}
        for path in left_behind(before)[0]:
            if path.relative_to(before) not in names:
                report.broken.append(f"full disk {report.full}: {path.name} is gone")
        outcome = run([*argv, "--epochs", "2", "--resume" if unfinished(folder) else "--restart"], folder)
        if outcome.status:
            report.broken.append(f"full disk {report.full}: cannot be gone on with:\n{outcome.text}")
        report.broken += check_same(folder, reference)
        report.full += 1
        shutil.rmtree(folder)


def limit_file(number: int) -> Callable[[], None]:
    """From the file created in that step on, none can grow beyond 300 bytes, less than any has.

    The operating system sees to it; Python ignores the signal that comes with it (SIGXFSZ), so the write fails: EFBIG.
    """

    def act(step: int, kind: str) -> None:
        if step == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))

    return lambda: watch_writing(act)


def no_space(number: int) -> Callable[[], None]:
    """From that step on nothing can be written any more."""

    def act(step: int, kind: str) -> None:
        if step >= number and kind != "renamed":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: watch_writing(act)


def main_faults() -> int:
    parser = argparse.ArgumentParser(description="Kill runs, fill disks, and see that nothing is lost.")
    parser.add_argument("--kills", type=int, default=100, help="processes to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--full-disk", action="store_true", help="then fill the disk, at each place of a run")
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive fork
    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports more than all the rest; once, here, is enough
    common = ["--data-dir", str(ROOT / "data" / "sample"), "--device", "cpu"]
    started, report = time.monotonic(), Report()
    with tempfile.TemporaryDirectory(prefix="faults-") as workplace:
        kills, full = Path(workplace, "kills"), Path(workplace, "full")
        kills.mkdir()
        full.mkdir()
        try:
            argvs = [[*argv, *common, "--epochs", str(EPOCHS)] for argv in RUNS]
            chance, rounds = random.Random(options.seed), math.ceil(options.kills / 20)
            kill_runs(options.kills - options.kills // 4, chance, kills, report, argvs)
            kill_while_replacing(options.kills // 4, chance, kills, report, [*RUNS[1], *common, "--epochs", "1"])
            start_two(rounds, kills, report, argvs[1], kills / "reference1")
            break_streams(rounds, chance, kills, report, argvs[1], kills / "reference1")
            remove_folders(rounds, chance, kills, report, argvs[1], kills / "reference1")
            if options.kills >= 50:
                kill_study(options.kills // 50, chance, kills, report)
            if options.full_disk:
                fill_disk(full, report, [*RUNS[1], *common])
        except Failure as failure:
            report.broken.append(str(failure))
    print("\n".join(report.broken))
    print(
        f"{report.kills} kills, {report.inside} of them inside the writing of a file, {report.mixes} with files of two "
        f"runs, which was noticed; {report.pairs} pairs of runs with one name; {report.streams} lost streams; "
        f"{report.folders} lost folders; {report.studies} killed studies; {report.rounds} runs compared; "
        f"{report.full} full disks; {len(report.broken)} guarantees broken; {time.monotonic() - started:.0f} s"
    )
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main_faults())
