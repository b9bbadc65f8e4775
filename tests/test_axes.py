"""The look that all figures share: style, fonts, logarithmic axes, and labels that stand clear of one another."""

import io
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image

from support import figures
from support.figures import axes as look

ROOT = Path(__file__).resolve().parent.parent


def assert_clean(figure):
    """No text leaves the figure, overlaps another or is crossed by a leader, and none says nan; returns all words."""
    with look.in_style(), patch.object(Text, "draw", autospec=True, side_effect=Text.draw) as draw:
        FigureCanvasAgg(figure).draw()
    texts = dict.fromkeys(call.args[0] for call in draw.call_args_list)
    boxes = {text: Text.get_window_extent(text) for text in texts if text.get_visible() and text.get_text().strip()}
    for text, box in boxes.items():
        assert "nan" not in text.get_text()
        assert figure.bbox.padded(1).count_contains([box.p0, box.p1]) == 2, text
    for (one, box), (other, second) in combinations(boxes.items(), 2):
        assert not box.overlaps(second), (one.get_text(), other.get_text())
    for text in boxes:
        if isinstance(text, Annotation) and text.arrow_patch:
            leader = text.arrow_patch.get_transform().transform_path(text.arrow_patch.get_path())
            crossed = [other for other, box in boxes.items() if leader.intersects_bbox(box, filled=False)]
            assert set(crossed) <= {text}
    return " ".join(" ".join(text.get_text() for text in boxes).split())


@figures.styled
def draw(values, metric="loss", names=("train", "test")):
    """A figure of two curves, (epochs,) or (runs, epochs), in one panel, labelled."""
    figure = Figure(figures.PANEL)
    heights = [figures.plot_values(metric, np.atleast_2d(one)) for one in values]
    panels = [(figure.subplots(), list(map(figures.Curve, names, heights, (figures.TRAIN, figures.TEST))))]
    figures.draw_curves(panels, metric)
    figures.label_ends(panels)
    return figure


def pixels(figure):
    file = io.BytesIO()
    figures.save(figure, file)
    return np.asarray(Image.open(file))


def test_numbers_are_written_so_that_none_lies():
    assert figures.percent(1) == "100.00 %"
    assert figures.percent(0.99999) == "> 99.99 %"  # less than all is never called 100 per cent
    assert figures.percent(0.9996, 1) == "> 99.9 %"
    assert figures.metric_text("test_loss", 0.01234) == "0.0123"
    assert figures.metric_text("loss", 1e30) == "1e+30"
    assert figures.metric_text("test_accuracy", 0.9943) == "99.43 %"


@pytest.mark.parametrize("high", [1.1, 3, 30, 1e38])
def test_a_logarithmic_axis_has_a_few_round_ticks(high):
    axes = Figure().subplots()
    figures.log_axis(axes, np.array([1e-8, 1e-8 * high]), "loss")
    ticks, (bottom, top) = axes.get_yticks(), axes.get_ylim()
    assert 2 <= len(ticks) <= 12
    assert bottom <= min(ticks) <= max(ticks) <= top
    assert all(len(text.get_text()) <= 8 for text in axes.get_yticklabels())


def test_an_accuracy_is_drawn_by_its_error_never_at_zero_under_ticks_that_say_the_accuracy():
    axes = draw([[0.5, 0.9, 0.99], [0.4, 0.8, 1.0]], "accuracy").axes[0]
    assert axes.lines[1].get_ydata() == pytest.approx([0.6, 0.2, figures.ERROR_FLOOR])
    labels = {text.get_text(): tick for text, tick in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    expected = {"90": 0.1, "99": 0.01, "99.9": 1e-3, "99.99": 1e-4, "100": figures.ERROR_FLOOR}
    assert {text: labels[text] for text in expected} == pytest.approx(expected)
    assert axes.yaxis.get_inverted()
    assert axes.get_yscale() == "log"


def test_several_runs_are_drawn_as_their_mean_in_a_band_of_one_standard_deviation():
    axes = draw([[[0.1, 0.2], [0.3, 0.2]], [[1.0, 2.0], [3.0, 2.0]]]).axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([0.2, 0.2])
    band = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((2 - 2**0.5, 2 + 2**0.5))


def test_labels_are_spread_as_little_as_possible():
    assert look.spread([0.52, 0.5, 0.9], 0.2) == pytest.approx([0.61, 0.41, 0.9])
    assert look.spread([0.0, 0.0, 0.0], 0.1) == pytest.approx([0, 0.1, 0.2])
    assert look.spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])
    crowded = look.spread(np.random.default_rng(0).uniform(size=40), 0.1)  # more than there is room for
    assert np.diff(np.sort(crowded)).min() == pytest.approx(0.1)


def test_settings_of_the_user_change_nothing():
    expected = pixels(draw([[0.5, 0.1], [0.5, 0.2]]))
    settings = {"text.usetex": True, "font.size": 40, "savefig.dpi": 20, "savefig.bbox": "tight"}
    settings |= {"axes.formatter.use_mathtext": True, "axes.facecolor": "black", "path.sketch": (1, 2, 3)}
    with rc_context(settings):
        assert np.array_equal(pixels(draw([[0.5, 0.1], [0.5, 0.2]])), expected)


@pytest.mark.parametrize(("asked", "given"), [("svg", "svg"), ("module://matplotlib_inline.backend_inline", "agg")])
def test_a_backend_that_is_there_stays_the_users(asked, given):
    code = "import plot, matplotlib, os, sys; print(matplotlib.get_backend(), os.environ['MPLBACKEND'], *sys.modules)"
    environment = {**os.environ, "MPLBACKEND": asked}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=ROOT, text=True)
    backend, variable, *modules = said.split()
    assert (backend.lower(), variable) == (given, asked)
    assert not {"torch", "scipy", "main"} & set(modules)  # plot.py is there in half a second
