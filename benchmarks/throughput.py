"""How fast training is: against the usual pipeline, against the arithmetic, from the start, and as the data grow.

    python benchmarks/throughput.py --data-dir data
    python benchmarks/throughput.py --data-dir data --only epochs to99 --json epochs.json

Everything that is compared is measured in one run, in turn (A B A B ...). What is printed are medians over the rounds;
a ratio is taken within each round, and its median (median_of_ratios) need not be the ratio of the medians. Parts:

epochs     a whole epoch, train and test, of ours and of the usual script (usual.py, with its best number of workers),
           and the arithmetic floor: the network's operations at the rate at which this machine multiplies matrices
to99       from the command to 99.0 % on the last 10,000 training images, held out, ours and the usual script's;
           interpreter, imports and decoding counted
augment    what the augmentation of an epoch takes, as a share of it
start      from the command to the first training step beyond `import torch`, and the decoding of all images
memory     peak resident memory of a run beyond `import torch, torchvision`
growth     time and memory an image with the training set 1, 4 and 16 times as large
processes  1 process against 2 processes started by torchrun, one thread each
"""

import argparse
import copy
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import main  # noqa: E402 - the project's root is not a package
from benchmarks.usual import TEST_BATCH, UsualMNIST, UsualScript, usual_network  # noqa: E402
from dataset import MNIST  # noqa: E402
from model import MODELS  # noqa: E402
from support.data.images import write_tar  # noqa: E402

CONFIGURATIONS = (("lenet", False), ("lenet_bn", True), ("mlp", False))
SHARE = 0.1  # of an epoch, that the usual script runs between two epochs of ours: it would take minutes otherwise
PREFETCHED = 2 * os.cpu_count()  # batches that the workers of a DataLoader keep ready, two each
TARGET, HELD_OUT = 99.0, 10_000  # per cent right of so many images, the last of the training set
MAX_EPOCHS = 10  # then it counts as not reached: the usual script takes minutes for so many
MATRIX = 2048  # rows and columns; large enough that the rate no longer grows
# Peak resident memory of this process, in KB. Not getrusage's, which a process inherits from the one that started it.
PEAK = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"


def median_of(measure: Callable[[], float], rounds: int) -> float:
    return statistics.median(measure() for _ in range(rounds))


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def matrix_rate() -> float:
    """Floating-point operations a second of float32 matrix products, all threads."""
    a, b = torch.randn(2, MATRIX, MATRIX)
    return 2 * MATRIX**3 / min(seconds(lambda: a @ b) for _ in range(5))


def operations_per_image(name: str) -> int:
    """Of the forward pass, a multiplication and an addition counted as two (PyTorch's own counter)."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        usual_network(name).eval()(torch.zeros(1, 1, 32, 32))
    return counter.get_total_flops()


def words(name: str, augment: bool) -> list[str]:
    """A configuration as it is typed behind --model."""
    return [name, "--augment"] if augment else [name]


class OurScript:
    """One epoch of `main.py`, as often as wanted."""

    def __init__(self, name: str, augment: bool, train_set: MNIST, test_set: MNIST, batch_size: int) -> None:
        self.arguments = main.parse_arguments(["--model", *words(name, augment), "--batch-size", str(batch_size)])
        torch.manual_seed(0)
        network = MODELS[name]().to(train_set.images.device)
        self.training = main.make_training(self.arguments, network, train_set, test_set)

    def epoch(self) -> None:
        main.train_and_test(self.training, 1, self.arguments)

    def train_part(self, steps: int, network: nn.Module | None = None) -> None:
        """The first steps of an epoch, or all if it has fewer; shuffling all of its images counts in full.

        network: to train in place of the one that main.py trains.
        """
        _, shared, average, optimizer, scheduler, _, batches, _ = self.training
        main.train(network or shared, average, islice(batches, steps), optimizer, scheduler)


class UsualEpoch:
    """An epoch of the usual script, train and test, at its best number of workers."""

    def __init__(self, name: str, train_set: UsualMNIST, test_set: UsualMNIST, batch_size: int) -> None:
        self.train_steps, self.test_steps = -(-len(train_set) // batch_size), -(-len(test_set) // TEST_BATCH)
        self.part = max(1, round(SHARE * self.train_steps))
        scripts = {w: UsualScript(name, train_set, test_set, batch_size, w) for w in range(os.cpu_count() + 1)}
        for script in scripts.values():
            self.seconds_of(script)  # starts the workers
        trials = {count: self.seconds_of(script) for count, script in scripts.items()}
        self.workers = min(trials, key=trials.get)
        self.script = scripts[self.workers]

    def seconds_of(self, script: UsualScript) -> float:
        """Training is extrapolated from a part of its steps, testing is whole."""
        script.train(PREFETCHED)  # what the workers had ready when they were left alone
        train = seconds(lambda: script.train(self.part)) * self.train_steps / self.part
        return train + seconds(lambda: script.test(self.test_steps))

    def seconds(self) -> float:
        return self.seconds_of(self.script)


def measure_epochs(data_dir: Path, batch_size: int, rounds: int) -> list[dict]:
    """Seconds an epoch of ours, the usual script and the floor, for each network."""
    train_set, test_set = (MNIST(data_dir / f"{split}.tar") for split in ("train", "test"))
    rows = []
    for name, augment in CONFIGURATIONS:
        usual_sets = UsualMNIST(data_dir / "train.tar", augment), UsualMNIST(data_dir / "test.tar")
        ours = OurScript(name, augment, train_set, test_set, batch_size)
        usual = UsualEpoch(name, *usual_sets, batch_size)
        ours.epoch()
        figures = {"ours": [], "usual": [], "rate": []}
        for _ in range(rounds):
            figures["ours"].append(seconds(ours.epoch))
            figures["usual"].append(usual.seconds())
            figures["rate"].append(matrix_rate())
        # the backward pass takes twice the forward pass: one product for the weights, one for the inputs
        operations = operations_per_image(name) * (3 * len(train_set) + len(test_set))
        row = {key: statistics.median(values) for key, values in figures.items()}
        rows.append(
            {
                "network": " ".join(words(name, augment)),
                "ours_s": row["ours"],
                "usual_s": row["usual"],
                "usual_workers": usual.workers,
                "floor_s": operations / row["rate"],
                "matrix_gflops": row["rate"] / 1e9,
                "times_usual_median_of_ratios": statistics.median(
                    u / o for u, o in zip(figures["usual"], figures["ours"], strict=True)
                ),
                "times_floor_median_of_ratios": statistics.median(
                    o * r / operations for o, r in zip(figures["ours"], figures["rate"], strict=True)
                ),
            }
        )
        del usual
    return rows


def measure_to99(data_dir: Path, batch_size: int, rounds: int) -> list[dict]:
    """Seconds and epochs from the command to TARGET; a round is a seed, run by both scripts in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        whole = MNIST(data_dir / "train.tar")
        halves = dict(zip(("train", "test"), whole.split(min(HELD_OUT, len(whole) // 6)), strict=True))
        for split, half in halves.items():
            write_tar(Path(folder, f"{split}.tar"), split, half.images, half.labels)
        usual_sets = [UsualMNIST(Path(folder, f"{split}.tar")) for split in halves]
        for name in ("lenet", "lenet_bn"):
            workers = UsualEpoch(name, *usual_sets, batch_size).workers
            pairs = []
            for seed in range(rounds):
                both = ("--batch-size", str(batch_size), "--seed", str(seed))
                ours = ["main.py", *scratch_run(name, Path(folder), folder, *both)]
                usual = ["benchmarks/usual.py", "--model", name, "--data-dir", folder, "--workers", str(workers), *both]
                pairs.append((seconds_to_target(ours), seconds_to_target(usual)))
            row = {"network": name, "usual_workers": workers}
            for script, times in zip(("ours", "usual"), zip(*pairs, strict=True), strict=True):
                row[f"{script}_s"] = statistics.median(one.seconds for one in times)
                row[f"{script}_epochs"] = statistics.median(one.epochs for one in times)
                row[f"{script}_reached"] = f"{sum(one.reached for one in times)} of {rounds}"
            ratios = [usual.seconds / ours.seconds for ours, usual in pairs]
            rows.append(row | {"times_usual_median_of_ratios": statistics.median(ratios)})
    return rows


class ToTarget(NamedTuple):
    """How long a command ran until a line said that TARGET of the test images are right, or MAX_EPOCHS were over."""

    seconds: float
    epochs: int
    reached: bool


def seconds_to_target(command: list[str]) -> ToTarget:
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        accuracies = (re.search(r"^epoch .*test accuracy +([0-9.]+)%", line) for line in process.stdout)
        for epoch, found in enumerate(filter(None, accuracies), 1):
            reached = float(found[1]) >= TARGET
            if reached or epoch == MAX_EPOCHS:
                ended = time.perf_counter()
                process.kill()
                return ToTarget(ended - started, epoch, reached)
    raise RuntimeError(f"{' '.join(command)}: ended before {MAX_EPOCHS} epochs")


def measure_augmentation(data_dir: Path, batch_size: int, rounds: int) -> list[dict]:
    """Seconds to make all batches of an epoch with and without augmentation, and the share of the difference."""
    train_set, test_set = (MNIST(data_dir / f"{split}.tar") for split in ("train", "test"))
    ours = OurScript("lenet_bn", True, train_set, test_set, batch_size)

    def batches(augment: bool) -> float:
        train_set.augment = main.AUGMENT if augment else False
        return seconds(lambda: sum(1 for _ in ours.training.batches))

    plain, augmented, epoch = [], [], []
    for _ in range(rounds):
        plain.append(batches(False))
        augmented.append(batches(True))
        epoch.append(seconds(ours.epoch))  # augmented
    shares = [(a - p) / e for p, a, e in zip(plain, augmented, epoch, strict=True)]
    return [
        {
            "batches_s": statistics.median(plain),
            "augmented_batches_s": statistics.median(augmented),
            "epoch_s": statistics.median(epoch),
            "share_median_of_ratios": statistics.median(shares),
        }
    ]


def run_python(code: str, *arguments: str, threads: int | None = None) -> list[float]:
    """Run code in a Python process of its own at the project's root; the numbers of its last line."""
    environment = {**os.environ} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [sys.executable, "-c", code, *arguments]
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in output.splitlines()[-1].split()]


FIRST_STEP = """
import sys, time
started = time.perf_counter()
import torch
imported = time.perf_counter()
import main
class Reached(Exception): pass
def reached(*_, **__): raise Reached
main.F.cross_entropy = reached  # the first batch is made and has passed the network
try:
    main.main(sys.argv[1:])
except Reached:
    print()
    print(time.perf_counter() - imported, imported - started)
"""
DECODE = """
import sys, time
import torch
from dataset import MNIST
started = time.perf_counter()
sets = [MNIST(path) for path in sys.argv[1:]]
print(time.perf_counter() - started, sum(map(len, sets)))
"""


def scratch_run(name: str, data_dir: Path, folder: str, *options: str) -> list[str]:
    """A command line of `main.py` whose files go to `folder`."""
    folders = ("--data-dir", str(data_dir), "--output-dir", folder, "--checkpoint-dir", folder)
    return ["--model", name, "--restart", *folders, *options]


def measure_start(data_dir: Path, rounds: int) -> list[dict]:
    tars = [str(data_dir / f"{split}.tar") for split in ("train", "test")]
    with tempfile.TemporaryDirectory() as folder:
        steps = [run_python(FIRST_STEP, *scratch_run("lenet", data_dir, folder)) for _ in range(rounds)]
    decoded = [run_python(DECODE, *tars) for _ in range(rounds)]
    return [
        {
            "first_step_s": statistics.median(step[0] for step in steps),
            "import_torch_s": statistics.median(step[1] for step in steps),
            "decode_s": statistics.median(decode[0] for decode in decoded),
            "images": int(decoded[0][1]),
        }
    ]


def measure_memory(data_dir: Path, rounds: int) -> list[dict]:
    """MB of peak resident memory: of the imports alone, and of a run of one epoch beyond them."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, augment in CONFIGURATIONS:
            argv = scratch_run(name, data_dir, folder, "--epochs", "1", *words(name, augment)[1:])
            run = f"import sys, torch, torchvision, main\nmain.main(sys.argv[1:])\nprint({PEAK})"
            base = median_of(lambda: run_python(f"import torch, torchvision\nprint({PEAK})")[0], rounds)
            peak = median_of(lambda run=run, argv=argv: run_python(run, *argv)[0], rounds)
            network = " ".join(words(name, augment))
            rows.append({"network": network, "imports_mb": base / 1024, "beyond_mb": (peak - base) / 1024})
    return rows


GROWTH = f"""
import sys, time
import main
from dataset import MNIST
from benchmarks.throughput import OurScript
path, batch_size, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
started = time.perf_counter()
train_set = MNIST(path)
decoded = time.perf_counter()
OurScript("lenet", False, train_set, train_set, batch_size).train_part(steps)
print(len(train_set), decoded - started, {PEAK} * 1024)
"""


def measure_growth(data_dir: Path, batch_size: int, rounds: int) -> list[dict]:
    """Microseconds and bytes an image, for 1, 4 and 16 times the training set.

    Training is timed over as many full batches of each as the original has, in turn.
    Memory is the peak of a process of its own beyond that of one that does the same with the bundled sample.
    """
    original, sizes = MNIST(data_dir / "train.tar"), (1, 4, 16)
    count, steps = len(original), len(original) // batch_size
    read, scripts = {size: [] for size in sizes}, {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: Path(folder, f"{size}.tar") for size in sizes}
        for size, path in paths.items():
            enlarged = copy.copy(original)
            enlarged.images, enlarged.labels = original.images.repeat(size, 1, 1), original.labels.repeat(size)
            write_tar(path, "train", enlarged.images, enlarged.labels)
            scripts[size] = OurScript("lenet", False, enlarged, enlarged, batch_size)
        for _ in range(1 + rounds // 5):  # each of them takes half a minute
            sample, _, least = run_python(GROWTH, "data/sample/train.tar", str(batch_size), str(steps))
            for size, path in paths.items():
                images, read_s, peak = run_python(GROWTH, str(path), str(batch_size), str(steps))
                read[size].append((read_s / images, (peak - least) / (images - sample)))
    trained = {size: [] for size in sizes}
    for _ in range(rounds):
        for size, script in scripts.items():
            trained[size].append(seconds(lambda script=script: script.train_part(steps)) / (steps * batch_size))
    rows = []
    for size in sizes:
        decode, memory = (statistics.median(values) for values in zip(*read[size], strict=True))
        train = statistics.median(trained[size])
        rows.append({"images": size * count, "decode_us": 1e6 * decode, "train_us": 1e6 * train, "bytes": memory})
    return rows


def measure_processes(data_dir: Path, batch_size: int, rounds: int) -> list[dict]:
    """Seconds an epoch of 1 and of 2 processes, one thread each.

    First two processes share each batch of the one, which makes the same training; then each takes as large a batch as
    the one did; then larger batches are shared.
    """

    def epoch(processes: int, size: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            options = ("--augment", "--epochs", "3", "--batch-size", str(size))
            argv = scratch_run("lenet_bn", data_dir, folder, *options)
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(processes),
            ]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([*command, "main.py", *argv], cwd=ROOT, env=environment, check=True, capture_output=True)
            (history,) = (json.loads(path.read_text()) for path in Path(folder).glob("*.json"))
            return statistics.median(history["seconds"][1:])  # the first epoch warms up

    rows = []
    for of_one, of_two in (
        (batch_size, batch_size),
        (batch_size, 2 * batch_size),
        (4 * batch_size, 4 * batch_size),
        (16 * batch_size, 16 * batch_size),
    ):
        pairs = [(epoch(1, of_one), epoch(2, of_two)) for _ in range(rounds)]
        one, two = (statistics.median(values) for values in zip(*pairs, strict=True))
        rows.append(
            {
                "network": "lenet_bn --augment",
                "one_process_batch": of_one,
                "two_processes_batch": of_two,
                "one_process_s": one,
                "two_processes_s": two,
                "speed_up_median_of_ratios": statistics.median(a / b for a, b in pairs),
            }
        )
    return rows


NOTES = {
    "epochs": f"usual_s: testing is whole, training is extrapolated from {SHARE:.0%} of an epoch's steps",
    "to99": f"from the command to {TARGET} % on the last {HELD_OUT:,} training images; both run every epoch whole; "
    f"a run that has not reached it in {MAX_EPOCHS} epochs counts with the time of these, which is too short",
    "processes": "each process has one thread, the one process too",
}


def table(rows: list[dict]) -> str:
    """Rows of the same keys as a Markdown table."""
    cells = [list(rows[0]), ["---"] * len(rows[0])]
    cells += [[f"{value:,.3g}" if isinstance(value, float) else f"{value}" for value in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("epochs", "to99", "augment", "start", "memory", "growth", "processes")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of train.tar and test.tar")
    parser.add_argument("--batch-size", type=int, default=main.BATCH_SIZE, help=f"default: {main.BATCH_SIZE}")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each measurement; default: 5")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to measure; default: all")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def benchmark() -> None:
    arguments = parse_arguments()
    data_dir, batch_size, rounds = arguments.data_dir.resolve(), arguments.batch_size, arguments.rounds
    measures = {
        "epochs": lambda: measure_epochs(data_dir, batch_size, rounds),
        "to99": lambda: measure_to99(data_dir, batch_size, rounds),
        "augment": lambda: measure_augmentation(data_dir, batch_size, rounds),
        "start": lambda: measure_start(data_dir, rounds),
        "memory": lambda: measure_memory(data_dir, 1),  # the peak hardly varies
        "growth": lambda: measure_growth(data_dir, batch_size, rounds),
        "processes": lambda: measure_processes(data_dir, batch_size, 1 + rounds // 2),
    }
    setting = {"threads": torch.get_num_threads(), "batch_size": batch_size, "torch": torch.__version__}
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    results = {"setting": setting, "notes": {part: NOTES[part] for part in arguments.only if part in NOTES}}
    for part in arguments.only:
        results[part] = measures[part]()
        note = f"\n\n{NOTES[part]}" if part in NOTES else ""
        print(f"\n{part}\n\n{table(results[part])}{note}", flush=True)
        if arguments.json:  # part by part, since all of them take half an hour
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    benchmark()
