"""How fast training is on a GPU: whole runs by the README's commands, and a step replayed against the same launched.

    python benchmarks/gpu.py --data-dir data --json benchmarks/gpu.json

runs   each network's 50 epochs: the sum of the epochs' seconds, train and test, as the history has them; seconds from
       the command to its end; what the last epoch's test says
steps  milliseconds of a training step, medians over rounds that take turns: replayed
       (support/compute/cuda_graphs.py), and with every kernel launched for itself
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import main  # noqa: E402 - the project's root is not a package
from benchmarks.throughput import CONFIGURATIONS, OurScript, scratch_run, seconds, table, words  # noqa: E402
from dataset import MNIST  # noqa: E402

STEPS = 400  # of a round


def measure_runs(data_dir: Path, epochs: int) -> list[dict]:
    rows = []
    for name, augment in CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as folder:
            options = ("--device", "cuda", "--epochs", str(epochs), *words(name, augment)[1:])
            command = [sys.executable, "main.py", *scratch_run(name, data_dir, folder, *options)]
            whole = seconds(lambda command=command: subprocess.run(command, cwd=ROOT, check=True, capture_output=True))
            (path,) = Path(folder).glob("*.json")
            history = json.loads(path.read_text())
        rows.append(
            {
                "network": " ".join(words(name, augment)),
                "epochs": epochs,
                "training_s": sum(history["seconds"]),
                "first_epoch_s": history["seconds"][0],
                "command_s": whole,
                "test_loss": history["test_loss"][-1],
                "test_accuracy_percent": 100 * history["test_accuracy"][-1],
            }
        )
    return rows


def measure_steps(data_dir: Path, batch_size: int, rounds: int) -> list[dict]:
    train_set = MNIST(data_dir / "train.tar").to("cuda")
    rows = []
    for name, augment in CONFIGURATIONS:
        ours = OurScript(name, augment, train_set, train_set, batch_size)
        train_set.augment = main.AUGMENT if augment else False
        ways = {"replayed": ours.training.wrapped, "launched": ours.training.network}
        times = {kind: [] for kind in ways}
        for _ in range(1 + rounds):
            for kind, network in ways.items():
                times[kind].append(seconds(partial(ours.train_part, STEPS, network)) / STEPS)
        replayed, launched = times["replayed"][1:], times["launched"][1:]  # the first round warms up
        rows.append(
            {
                "network": " ".join(words(name, augment)),
                "replayed_ms": 1e3 * statistics.median(replayed),
                "launched_ms": 1e3 * statistics.median(launched),
                "speed_up_median_of_ratios": statistics.median(b / a for a, b in zip(replayed, launched, strict=True)),
            }
        )
    return rows


def benchmark() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of train.tar and test.tar")
    parser.add_argument("--epochs", type=int, default=main.EPOCHS, help=f"of a run; default: {main.EPOCHS}")
    parser.add_argument("--rounds", type=int, default=5, help="of the steps; default: 5")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU")
    data_dir = arguments.data_dir.resolve()
    setting = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "batch_size": main.BATCH_SIZE}
    results = {"setting": setting}
    results["steps"] = measure_steps(data_dir, main.BATCH_SIZE, arguments.rounds)
    results["runs"] = measure_runs(data_dir, arguments.epochs)
    print(", ".join(f"{name} {value}" for name, value in setting.items()))
    for part in ("runs", "steps"):
        print(f"\n**{part}**\n\n{table(results[part])}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    benchmark()
