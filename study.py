"""Train the whole study, six configurations times ten seeds with one recipe, and report what it shows.

    python study.py                                       train what is not finished yet, several runs side by side
    python study.py --list > runs.txt                     or print one command line a run, for more than one machine:
        parallel < runs.txt                                   GNU parallel
        xargs -P 8 -I{} sh -c '{}' < runs.txt                 xargs, 8 at once
        sh -c "$(sed -n "$SLURM_ARRAY_TASK_ID p" runs.txt)"   the script of a Slurm array, sbatch --array=1-60
    python study.py --report > result_plot/README.md      the tables; the figures are drawn beside, from files alone

A run is `main.py`'s own, in a process of its own with one thread. After Ctrl-C, or with more seeds, the same command
goes on: what is finished is not trained again, what is unfinished is resumed. Histories and arrays lie in
result_plot/study/, where those of several machines are merged by lying there; weights, checkpoints and what each run
prints lie in checkpoints/study/. What a run measures beside loss and accuracy stands in `observe.py`.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from support import study_report
from support.command import Parser, Stopped, UserError, number, printable, run_command, say
from support.files import make_folder
from support.history import SETTINGS, History, differences, read_arrays, read_history, run_name
from support.jobs import Job, end_with_parent, run_jobs

if TYPE_CHECKING:
    from support.checkpoint import RunFiles

CONFIGURATIONS = (
    ("lenet",),
    ("lenet", "--augment"),
    ("lenet_bn",),
    ("lenet_bn", "--augment"),
    ("mlp",),
    ("mlp", "--augment"),
)
SEEDS = 10


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Train every configuration and seed of the study that is not finished yet, or report.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="python study.py --run ARGUMENTS, as --list prints it, trains one run if it is not finished yet",
    )
    add = parser.add_argument
    add("--seeds", type=number(int, 1, 1000), default=SEEDS, help="runs of each configuration, seeds 0, 1, ...")
    add("--epochs", type=number(int, 1, 10**6), help="epochs of each run; as in main.py if left out")
    add("--jobs", type=number(int, 1, 1000), default=os.cpu_count(), help="runs side by side, one thread each")
    add("--data-dir", help="folder of the data; as in main.py if left out")
    add("--output-dir", default="result_plot/study", help="folder of the histories; the figures lie in the one above")
    add("--checkpoint-dir", default="checkpoints/study", help="folder of checkpoints, weights and logs")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print a command line for each run, and train nothing")
    what.add_argument("--report", action="store_true", help="print the tables as Markdown, and draw the figures")
    return parser.parse_args(argv)


# --- all runs ---------------------------------------------------------------------------------------------------------


def plan(arguments: argparse.Namespace) -> dict[str, tuple[list[str], History]]:
    """By its name, each run's command line, as `main.py` takes it, and its record before the first epoch.

    Names depend on the data, so the data are looked at, once for all. Seeds come outermost: a study that is cut short
    has a few of everything. Raises UserError.
    """
    import main  # here and below, because a report needs no torch

    options = ["--output-dir", arguments.output_dir, "--checkpoint-dir", arguments.checkpoint_dir, "--threads", "1"]
    options += ["--epochs", str(arguments.epochs)] if arguments.epochs else []
    data = ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    parsed = main.parse_arguments(["--model", "lenet", *options, *data])
    train_set, test_set, source = main.load_data(parsed, main.torch.device("cpu"))
    options += ["--data-dir", str(source.folder)]  # the same for all, whatever is downloaded in the meantime
    configurations = []
    for configuration in CONFIGURATIONS:
        argv = ["--model", *configuration, *options]
        parsed = main.parse_arguments(argv)
        network = main.build_network(parsed.model, parsed.classes)
        configurations.append((argv, main.new_history(parsed, network, train_set, test_set, source)))
    runs = {}
    for seed in range(arguments.seeds):
        for argv, record in configurations:
            name = run_name(record | {"seed": seed}, main.DEFAULTS)
            runs[name] = [*argv, "--seed", str(seed), "--name", name], record | {"seed": seed, "name": name}
    return runs


def list_runs(arguments: argparse.Namespace) -> None:
    for argv, _ in plan(arguments).values():
        say(shlex.join(["python", sys.argv[0], "--run", *argv]))


def train_study(arguments: argparse.Namespace) -> int:
    """Train what is not finished yet; returns 1 if a run failed, else 0. Raises UserError before the first run."""
    for folder in (arguments.output_dir, arguments.checkpoint_dir):
        make_folder(Path(folder))
    jobs, problems, runs = [], [], plan(arguments)
    for name, (argv, record) in runs.items():
        try:
            if not is_finished(arguments, record):
                log = Path(arguments.checkpoint_dir, f"{name}.log")
                jobs.append(Job(name, [sys.executable, __file__, "--run", *argv], log))
        except UserError as error:
            problems.append(str(error).splitlines()[0])
    if problems:
        raise UserError("\n".join([*problems, "move these files away, or choose other folders for this study"]))
    say(f"{len(runs) - len(jobs)} of {len(runs)} runs are finished")
    failed = []
    try:
        for name, status, reason in run_jobs(jobs, arguments.jobs):
            say(f"{name}: {f'status {status}: {reason}' if status else 'finished'}")
            failed += [name] if status else []
    except Stopped:
        say("stopped; the same command goes on")
        raise
    if failed:
        say(f"{len(failed)} runs did not finish: {', '.join(failed)}; the same command goes on with them")
    return 1 if failed else 0


def is_finished(arguments: argparse.Namespace, record: History) -> bool:
    """Whether that run is finished. Raises UserError if something lies there that is not of this run, or damaged."""
    from support.checkpoint import RunFiles, read_checkpoint

    place = RunFiles(record["name"], Path(arguments.output_dir), Path(arguments.checkpoint_dir))
    state = read_checkpoint(place.checkpoint) if place.checkpoint.exists() else None
    found = [(place.checkpoint, state["history"])] if state else []
    found += [(path, read_history(path)) for path in [place.result(".json")] if path.exists()]
    for path, saved in found:
        if differ := differences(saved, record):
            raise UserError(f"{printable(path)}: is of another run: {', '.join(differ)}")
    return (state is None or state["finished"]) and result_is_whole(place)


def result_is_whole(place: "RunFiles") -> bool:
    """Whether history, arrays and weights are there, of one and the same training. Raises UserError if one is damaged.

    A result that came from another machine, or with the repository, has neither checkpoint nor weights here.
    """
    from support.checkpoint import read_weights

    if not place.result(".json").exists():
        return False
    history = read_history(place.result(".json"))
    if not read_arrays(place.result(".npz"), history):
        return False
    if place.weights.exists():
        return read_weights(place.weights)["digest"] == history["digest"]
    return not place.checkpoint.exists()


# --- one run ----------------------------------------------------------------------------------------------------------


def train_run(argv: list[str]) -> None:
    """Train the run of that command line, or what is left of it; do nothing if it is finished. Raises UserError."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch looks: so small a network gains nothing from more
    end_with_parent()
    import main
    from observe import StudyObserver
    from support.checkpoint import RunFiles, is_unfinished

    arguments = main.parse_arguments(argv)
    if not arguments.name:
        raise UserError("--run: expected the arguments that --list prints, with a --name among them")
    place = RunFiles(arguments.name, Path(arguments.output_dir), Path(arguments.checkpoint_dir))
    arguments.resume = is_unfinished(place.checkpoint)
    if not arguments.resume and result_is_whole(place) and is_of(arguments, read_history(place.result(".json"))):
        say(f"{arguments.name} is finished")
        return
    arguments.command = sys.argv
    main.torch.set_num_threads(1)
    main.run(arguments, StudyObserver(arguments.augment))


def is_of(arguments: argparse.Namespace, history: History) -> bool:
    """Whether a history has the settings of a command line, which says nothing of what its data hold."""
    return all(getattr(arguments, name) == history[name] for name in SETTINGS if name != "data")


def command() -> int:
    """Returns the exit status."""
    if sys.argv[1:2] == ["--run"]:
        train_run(sys.argv[2:])
        return 0
    arguments = parse_arguments()
    if arguments.list:
        list_runs(arguments)
    elif arguments.report:
        study_report.report(Path(arguments.output_dir))
    else:
        return train_study(arguments)
    return 0


if __name__ == "__main__":
    run_command(command)
