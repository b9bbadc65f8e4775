"""Programs side by side, each with a log of its own, none of which outlives the one that started them.

A job's standard input is a pipe that nothing is ever written to. Its end tells the job that the program that started it
has ended, however it did; `end_with_parent` then stops the job as SIGTERM does. Knows nothing of training.
"""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from support.terminal import check_signals, printable, signals_leave_word

PIPE = "STUDY_STDIN_IS_PIPE"  # set in the environment of a job, since any program may have an empty standard input
PAUSE = 0.1  # seconds between two looks at the jobs


class Job(NamedTuple):
    name: str
    command: list[str]
    log: Path  # standard output and standard error are added to it


class Ended(NamedTuple):
    name: str
    status: int  # as of `subprocess`; 2 where the job could not be started
    reason: str  # why the status is not 0: from the log; one line


def run_jobs(jobs: list[Job], side_by_side: int) -> Iterator[Ended]:
    """Run all jobs, at most so many at once, each in one thread; yield each one's end as it comes.

    When a signal stops this program, the jobs that run are told and waited for, and Stopped is raised.
    """
    waiting, running = jobs[::-1], dict[subprocess.Popen[bytes], Job]()
    with signals_leave_word():
        try:
            while waiting or running:
                check_signals()
                while waiting and len(running) < side_by_side:
                    job = waiting.pop()
                    try:
                        running[_start(job)] = job
                    except OSError as error:
                        yield Ended(job.name, 2, f"{printable(job.log)}: cannot be written: {error.strerror}")
                for process in [process for process in running if process.poll() is not None]:
                    job = running.pop(process)
                    yield Ended(job.name, process.returncode, _reason(job.log) if process.returncode else "")
                time.sleep(PAUSE)
        finally:
            for process in running:
                process.stdin.close()  # type: ignore[union-attr]
            for process in running:
                process.wait()


def _start(job: Job) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C on a terminal reaches this program alone, which then tells its jobs once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", PIPE: "1"}
    with _open_log(job.log) as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _open_log(path: Path) -> BinaryIO:
    """Open a regular file to add to it. Raises OSError for anything else, such as a FIFO that nobody reads."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "is not a regular file")
    return os.fdopen(descriptor, "ab")


def _reason(path: Path) -> str:
    """The last line that says what is wrong, else the last with anything in it."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    said = [line for line in lines if line.startswith("error: ")] or [line for line in lines if line.strip()]
    return printable(said[-1].strip()) if said else "no word in the log"


def end_with_parent() -> None:
    """In a job: stop, as SIGTERM does, once the program that started it has ended. Elsewhere it does nothing."""
    if os.environ.pop(PIPE, None):
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    signal.raise_signal(signal.SIGTERM)
