"""How fast training is: beside the usual script, beside another checkout, in two processes, on a GPU.

    python benchmarks/throughput.py --json benchmarks/throughput.json
    python benchmarks/throughput.py --against ../before --parts epochs --rounds 10
    python benchmarks/throughput.py --device cuda --parts epochs --epochs 50 --json benchmarks/gpu.json

Each measurement is a process of its own, started as a user starts it. What is compared runs in turn (A B A B ...);
printed are the medians over the rounds, and the median of the ratios of the pairs, which need not be the ratio of the
medians. The threads are those of OMP_NUM_THREADS, else one for each core.

epochs     to_first_epoch_s: from the command to the line of its first epoch; command_s: to its end; cpu_s: CPU time of
           all that; epoch_s: a later epoch, train and test; step_ms: the last epoch's training over its steps.
           Ours and usual.py, or --against another checkout of this project; on a GPU with each step as one CUDA graph
           (support/compute/cuda_graphs.py) and eagerly, kernel by kernel
processes  an epoch of one process and of two that torchrun starts and that share each batch, a thread each
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
DATA = ["--data-dir", str(ROOT / "data")]  # to be said to older checkouts
CONFIGURATIONS = (("lenet",), ("lenet_bn", "--augment"), ("mlp",))  # the words behind --model
Times = dict[str, float]

# As `python main.py`; the last line is the seconds that the last epoch's training took. Runs in older checkouts, too.
TIMED_MAIN = """
import sys, time
import main
def timed(*given, train=main.train):
    global seconds
    started = time.perf_counter()
    result = train(*given)
    seconds = time.perf_counter() - started
    return result
main.train = timed
main.main(sys.argv[1:])
print(f"\\n{seconds}\\n", end="")  # in one piece, since two processes may print it at once
"""
EAGER = "import support.compute.cuda_graphs as graphs; graphs.EAGER_STEPS += 10**9  # so none is captured"


def run(command: list[str], folder: Path, threads: int | None = None) -> tuple[list[str], Times]:
    """Its lines, and what it took. Raises CalledProcessError."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    lines, to_first_epoch, before = [], math.nan, os.times()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            if re.match(r"epoch +1/", line):
                to_first_epoch = os.times().elapsed - before.elapsed
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "".join(lines))
    took = [after - start for after, start in zip(os.times(), before, strict=True)]
    return lines, {"to_first_epoch_s": to_first_epoch, "command_s": took[4], "cpu_s": took[2] + took[3]}


def time_main(tree: Path, options: list[str], code: str = TIMED_MAIN, processes: int = 0) -> Times:
    """A run of main.py in a checkout; by torchrun, with a thread each, if the number of processes is given."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{processes}", "--no-python"]
    python = [sys.executable, *launcher, sys.executable] if processes else [sys.executable]
    with tempfile.TemporaryDirectory() as scratch:
        folders = ["--output-dir", scratch, "--checkpoint-dir", scratch]
        lines, times = run([*python, "-uc", code, *options, *folders], tree, threads=1 if processes else None)
        (history,) = (json.loads(path.read_text()) for path in Path(scratch).glob("*.json"))
    steps = math.ceil(history["train_images"] / history["batch_size"])
    return times | {"epoch_s": statistics.median(history["seconds"][1:]), "step_ms": 1000 * float(lines[-1]) / steps}


def time_usual(options: list[str]) -> Times:
    lines, times = run([sys.executable, "benchmarks/usual.py", *options], ROOT)
    return times | {"epoch_s": statistics.median(float(line.split()[2]) for line in lines[1:])}


def compare(what: str, ways: dict[str, Callable[[], Times]], rounds: int) -> list[dict]:
    """Each way's medians, and how many times as much as the first each other one takes."""
    times: dict[str, list[Times]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            times[way].append(measure())
            print(f"{what}, {way}: {times[way][-1]}", file=sys.stderr)
    first, *others = times
    rows = {way: {key: [one[key] for one in times[way]] for key in times[way][0]} for way in times}
    for other in others:
        pairs = list(zip(times[other], times[first], strict=True))
        rows[f"{other} : {first}"] = {key: [a[key] / b[key] for a, b in pairs] for key in rows[other]}
    return [
        {"what": what, "way": way} | {key: statistics.median(values) for key, values in row.items()}
        for way, row in rows.items()
    ]


def measure_epochs(arguments: argparse.Namespace) -> list[dict]:
    rows = []
    for words in CONFIGURATIONS:
        options = ["--model", *words, "--epochs", str(arguments.epochs)]
        usual = partial(time_usual, options)
        options = [*options, *DATA, "--device", arguments.device]
        ours = partial(time_main, ROOT, options)
        if arguments.against:
            ways = {"before": partial(time_main, arguments.against, options), "ours": ours}
        elif arguments.device == "cuda":
            ways = {"one graph": ours, "eager": partial(time_main, ROOT, options, EAGER + TIMED_MAIN)}
        else:
            ways = {"ours": ours, "usual": usual}
        rows += compare(" ".join(words), ways, arguments.rounds)
    return rows


def measure_processes(arguments: argparse.Namespace) -> list[dict]:
    words = CONFIGURATIONS[1]
    options = ["--model", *words, *DATA, "--epochs", str(arguments.epochs)]
    ways = {f"{count} x 1 thread": partial(time_main, ROOT, options, processes=count) for count in (2, 1)}
    return compare(" ".join(words), ways, arguments.rounds)


def report(measured: dict) -> str:
    """The setting in a line, and the rows as a Markdown table; a row need not have every column."""
    setting = ", ".join(f"{key} {value}" for key, value in measured["setting"].items())
    columns = list(dict.fromkeys(key for row in measured["rows"] for key in row))
    cells = [columns, ["---"] * len(columns)]
    values = [[row.get(column, "") for column in columns] for row in measured["rows"]]
    cells += [[f"{value:,.3g}" if isinstance(value, float) else f"{value}" for value in row] for row in values]
    return f"{setting}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in cells)


def benchmark() -> None:
    parts = {"epochs": measure_epochs, "processes": measure_processes}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="default: all")
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison; default: 3")
    parser.add_argument("--epochs", type=int, default=3, help="of a run, at least 2; default: 3")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the part epochs; default: cpu")
    parser.add_argument("--against", type=Path, help="another checkout, to be compared with in the part epochs")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    arguments = parser.parse_args()
    gpu = {"gpu": torch.cuda.get_device_name()} if arguments.device == "cuda" else {}
    setting = gpu | {"torch": torch.__version__, "threads": torch.get_num_threads(), "rounds": arguments.rounds}
    setting |= {"epochs": arguments.epochs}
    measured = {"setting": setting, "rows": [row for part in arguments.parts for row in parts[part](arguments)]}
    print(report(measured))
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    benchmark()
