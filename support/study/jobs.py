"""Commands side by side, each with a log of its own, none of which outlives the one that started them.

The standard input of all is one pipe, into which nothing is written. It ends when this program closes it or is
gone, however that came; `end_with_parent` then interrupts them.
"""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from support.terminal import printable

PIPE = "STUDY_STDIN_IS_PIPE"  # set for a command, since any program may have an empty standard input


def run_jobs(commands: dict[Path, list[str]], side_by_side: int) -> list[str]:
    """Run all commands, at most `side_by_side` at once; each is named by its log, to which its output is appended.

    Prints how each has ended; returns the names of those that failed. Whatever interrupts this function interrupts the
    commands, too, and waits for them.
    """
    failed = []
    read_end, write_end = os.pipe()
    with ThreadPoolExecutor(side_by_side) as pool:
        try:
            futures = {pool.submit(_run, command, log, read_end): log.stem for log, command in commands.items()}
            for future in as_completed(futures):
                print(f"{futures[future]}: {future.result() or 'finished'}")
                failed += [futures[future]] if future.result() else []
        finally:
            os.close(write_end)
            pool.shutdown(cancel_futures=True)
            os.close(read_end)
    return failed


def _run(command: list[str], log: Path, stdin: int) -> str:
    """Run it in a session of its own, since Ctrl-C on a terminal would interrupt it twice; return the problem."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", PIPE: "1"}
    with open(log, "ab") as file:
        streams: dict[str, Any] = {"stdin": stdin, "stdout": file, "stderr": subprocess.STDOUT}
        status = subprocess.run(command, env=environment, start_new_session=True, **streams).returncode
    errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
    return f"status {status}: {printable([f'see {log}', *errors][-1])}" if status else ""


def end_with_parent() -> None:
    """Called in such a command: be interrupted, as by SIGTERM, once the program that started it has ended."""

    def wait() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.pop(PIPE, None):
        threading.Thread(target=wait, daemon=True).start()
