"""The study: jobs, numbers, tables and figures. It reads what runs have left, and trains nothing itself."""
# ruff: noqa: F401 - doors

from support.study.figures import drawings
from support.study.jobs import end_with_parent, run_jobs
from support.study.results import CONFIGURATIONS, MOVES, differences, read_study
from support.study.tables import document
