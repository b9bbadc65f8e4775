"""The look that all figures share, and which runs belong together in one. No torch, no pyplot.

Matplotlib is imported here first: its import fails where MPLBACKEND, as notebooks set it, names a missing backend.
"""
# ruff: noqa: F401, I001 - these are the room's doors, in groups, behind the first import of matplotlib

import os
import sys
from contextlib import suppress

if "matplotlib" not in sys.modules and (backend := os.environ.pop("MPLBACKEND", None)):
    import matplotlib

    os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):  # in the notebook itself it is installed
        matplotlib.rcParams["backend"] = backend

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from support.figures.axes import CLEAN, ERROR_FLOOR, PALE, PANEL, SMALL, TEST, TRAIN
from support.figures.axes import figure_name, line_style, metric_text, percent, readable, save, set_title, styled
from support.figures.axes import Curve, draw_curves, epoch_axis, label_ends, log_axis, make_curve, plot_values
from support.figures.groups import configuration, curves_of, end_of, group_by, name_of, test_set
