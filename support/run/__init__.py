"""What a run keeps: its history, its checkpoints, its result; and the callback that watches it.

It knows nothing of the recipe: what decides whether two runs are the same stands in their histories. All doors here do
without torch; `from support.run import checkpoint` and `result` are those that need it.
"""

from support.run.callback import Callback
from support.run.history import (
    LISTS,
    METRICS,
    RECIPE,
    SETTINGS,
    History,
    Run,
    RunFiles,
    epochs_done,
    held_out,
    mistakes,
    read_arrays,
    read_history,
    read_runs,
    run_name,
    write_history,
)

__all__ = [
    "LISTS",
    "METRICS",
    "RECIPE",
    "SETTINGS",
    "Callback",
    "History",
    "Run",
    "RunFiles",
    "epochs_done",
    "held_out",
    "mistakes",
    "read_arrays",
    "read_history",
    "read_runs",
    "run_name",
    "write_history",
]
