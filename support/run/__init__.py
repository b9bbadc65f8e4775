"""What a run keeps: its history, its checkpoints, its result; and the callback that watches it.

It knows nothing of the recipe: what decides whether two runs are the same stands in their histories. The doors here do
without torch; `from support.run import checkpoint, result` gives those that need it.
"""

# ruff: noqa: F401
from support.run.callback import Callback
from support.run.history import RECIPE, SETTINGS, History, Run, epochs_done, held_out, mistakes, read_run, read_runs
