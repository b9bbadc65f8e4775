"""The look that all figures share: style, fonts, logarithmic axes, and labels that stand clear of one another."""

import io
import logging
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Annotation, Text
from PIL import Image

from support.figures import axes as look

ROOT = Path(look.__file__).parent.parent


def assert_clean(figure):
    """No text leaves the figure, overlaps another or is crossed by a leader, and none says nan; returns the texts."""
    texts, draw = {}, Text.draw

    def note(self, renderer, *arguments, **options):
        texts[self] = None
        return draw(self, renderer, *arguments, **options)

    Text.draw = note
    try:
        with look.in_style():
            FigureCanvasAgg(figure).draw()
    finally:
        Text.draw = draw
    boxes = {text: Text.get_window_extent(text) for text in texts if text.get_visible() and text.get_text().strip()}
    for text, box in boxes.items():
        assert "nan" not in text.get_text()
        assert figure.bbox.padded(1).count_contains([box.p0, box.p1]) == 2, text
    for (one, box), (other, second) in combinations(boxes.items(), 2):
        assert not box.overlaps(second), (one.get_text(), other.get_text())
    for text in boxes:
        if isinstance(text, Annotation) and text.arrow_patch:
            leader = text.arrow_patch.get_transform().transform_path(text.arrow_patch.get_path())
            for other, box in boxes.items():
                crossed = other is not text and leader.intersects_bbox(box, filled=False)
                assert not crossed, (text.get_text(), other.get_text())
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in boxes]


def draw_lines(values, metric="loss", images=1000, names=("train", "test")):
    """A figure of two curves in one panel, labelled."""

    @look.styled
    def draw():
        figure = Figure(look.PANEL)
        axes = figure.subplots()
        styles = (look.TRAIN, look.TEST)
        curves = [
            look.Curve(name, look.plot_values(metric, one, images), style)
            for name, one, style in zip(names, values, styles, strict=True)
        ]
        look.draw_curves(axes, curves, metric, images)
        look.label_ends([(axes, curves)])
        return figure

    return draw()


# --- values and axes --------------------------------------------------------------------------------------------------


def test_less_than_all_is_never_called_100_per_cent():
    assert look.percent(1) == "100.00 %"
    assert look.percent(0.99999) == "> 99.99 %"
    assert look.percent(0.99994) == "99.99 %"
    assert look.percent(0.9996, 1) == "> 99.9 %"


def test_losses_are_written_in_four_decimals_and_huge_ones_in_powers():
    assert look.metric_text("test_loss", 0.01234) == "0.0123"
    assert look.metric_text("loss", 1e30) == "1e+30"
    assert look.metric_text("test_accuracy", 0.9943) == "99.43 %"


def test_an_accuracy_is_drawn_by_its_error_and_never_at_zero():
    assert look.plot_values("accuracy", [0.9, 1.0], 100).tolist() == [[pytest.approx(0.1), 0.005]]
    assert look.plot_values("loss", [0.5, 0.0], 100).tolist() == [[0.5, look.LOSS_FLOOR]]


@pytest.mark.parametrize("high", [1.1, 3, 30, 1e4, 1e12, 1e38])
def test_a_logarithmic_axis_has_a_few_round_ticks(high):
    ticks = look.log_ticks(1e-8, 1e-8 * high)
    assert len(ticks) <= 12
    assert all(1e-8 <= tick <= 1e-8 * high for tick in ticks)
    assert high < 10 or len(ticks) >= 3


def test_the_ticks_of_an_accuracy_say_the_accuracy_where_the_error_is_drawn():
    axes = draw_lines([[0.5, 0.9, 0.99], [0.4, 0.8, 0.97]], "accuracy").axes[0]
    labels = {text.get_text(): tick for text, tick in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert labels["90"] == pytest.approx(0.1)
    assert labels["99"] == pytest.approx(0.01)
    assert axes.yaxis.get_inverted()
    assert axes.get_yscale() == "log"


def test_several_runs_are_drawn_as_their_mean_in_a_band_of_one_standard_deviation():
    axes = draw_lines([[[0.1, 0.2], [0.3, 0.2]], [[1.0, 2.0], [3.0, 2.0]]]).axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([0.2, 0.2])
    band = axes.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((2 - 2**0.5, 2 + 2**0.5))


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_spread_as_little_as_possible():
    assert look.spread([0.5, 0.1, 0.9], 0.2).tolist() == [0.5, 0.1, 0.9]
    assert look.spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert look.spread([0.52, 0.5, 0.9], 0.2) == pytest.approx([0.61, 0.41, 0.9])
    assert look.spread([0.0, 0.0, 0.0], 0.1) == pytest.approx([0, 0.1, 0.2])
    assert look.spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
@pytest.mark.parametrize(
    "values",
    [[[0.5, 0.1], [0.5, 0.1]], [[0.3], [0.3]], [[0.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [1.0, 1e-7]]],
    ids=["same end", "one epoch", "extremes", "tiny"],
)
def test_labels_stand_clear_of_each_other(metric, values):
    assert {"train", "test"} <= set(assert_clean(draw_lines(values, metric)))


def test_a_headline_breaks_where_the_figure_ends_also_in_wide_letters():
    for words in ("the accuracy of the network is high " * 4, "정확도가 높은 신경망 " * 10):

        @look.styled
        def draw(words=words):
            figure = Figure((5, 3))
            look.set_title(figure, words)
            return figure

        assert len(assert_clean(draw())[0].splitlines()) > 1


# --- style and fonts --------------------------------------------------------------------------------------------------


def test_the_digest_of_a_run_stands_in_its_png():
    with io.BytesIO() as file:
        look.save(draw_lines([[0.5, 0.1], [0.5, 0.2]]), file, "5f" * 32)
        assert Image.open(file).text["digest"] == "5f" * 32
    with io.BytesIO() as file:
        look.save(draw_lines([[0.5, 0.1], [0.5, 0.2]]), file)
        assert "digest" not in Image.open(file).text


def pixels(figure):
    file = io.BytesIO()
    look.save(figure, file)
    return np.asarray(Image.open(file))


def test_settings_of_the_user_change_nothing():
    expected = pixels(draw_lines([[0.5, 0.1], [0.5, 0.2]]))
    settings = {
        "text.usetex": True,
        "font.size": 40,
        "savefig.dpi": 20,
        "savefig.bbox": "tight",
        "axes.formatter.use_mathtext": True,
        "axes.facecolor": "black",
        "path.sketch": (1, 2, 3),
    }
    with rc_context(settings):
        assert np.array_equal(pixels(draw_lines([[0.5, 0.1], [0.5, 0.2]])), expected)


def test_a_file_of_settings_without_sense_breaks_nothing(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: none_such\naxes.prop_cycle: nonsense\n")
    code = "import io; import test_axes as t; t.look.save(t.draw_lines([[.5, .1], [.5, .2]]), io.BytesIO())"
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path, timeout=120)


def test_letters_that_the_usual_font_lacks_are_drawn_in_one_that_has_them(recwarn):
    fonts = [font for font in fontManager.ttflist if look._lacking(font.fname, frozenset("한글")) == frozenset()]
    if not fonts:
        pytest.skip("no font with Korean letters is installed")
    (font,) = look.fonts_for(frozenset("a한글"))
    assert font in {one.name for one in fonts}
    figure = draw_lines([[0.5, 0.1], [0.5, 0.2]], names=("한", "글"))
    label = next(text for text in figure.findobj(Text) if text.get_text() == "한")
    assert label.get_fontfamily() == [look.FONT, font]
    one, other = (pixels(draw_lines([[0.5, 0.1], [0.5, 0.2]], names=("test", name))) for name in "한글")
    assert not np.array_equal(one, other)  # letters, not two boxes that look the same
    assert not recwarn.list


def test_where_no_font_has_the_letters_nothing_is_printed(monkeypatch, caplog, recwarn):
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name == look.FONT])
    look.fonts_for.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert_clean(draw_lines([[0.5, 0.1], [0.5, 0.2]], names=("한글", "漢字 \U0001f600")))
    look.fonts_for.cache_clear()
    assert not recwarn.list
    assert not caplog.records


@pytest.mark.parametrize("name", ["a_$b^$", "line\nbreak\x1b[31m", "bytes \udcff", "x" * 300, "\U0001f600 %s {}"])
def test_any_name_can_stand_in_a_figure(name):
    assert_clean(draw_lines([[0.5, 0.1], [0.5, 0.2]], names=(look.readable(name), look.figure_name(name, True))))


def test_networks_of_the_project_come_first_and_augmented_runs_are_dashed():
    assert sorted(["zoo", "mlp", "a", "lenet_bn", "lenet"], key=look.model_order) == [*look.NAMES, "a", "zoo"]
    assert look.figure_name("lenet_bn", True) == "BN-LeNet-5 + augmentation"
    assert look.line_style("lenet", True)["linestyle"] == "--"
    assert look.line_style("lenet", False)["linestyle"] == "-"
    assert look.line_style("mine", False) == look.line_style("mine", False)
