"""What the study reads from its runs: its numbers, and the tables and figures made of them."""

import math
from pathlib import Path

import numpy as np
import pytest
from documents import parse
from scipy import stats
from test_axes import assert_clean

import study
from support.run.history import with_digest, write_arrays, write_history
from support.study import differences, document, drawings, figures, read_study, results, statistics, tables
from support.study.results import AUGMENTED, BOTH, NORMALIZED, PLAIN
from support.terminal import UserError

FOLDER = Path(study.__file__).parent / "result_plot"


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics.bootstrap_means, "__defaults__", (200,))
        yield


@pytest.fixture(scope="module")
def groups():
    return read_study(FOLDER / "study")


@pytest.fixture(scope="module")
def drawn(groups):
    return drawings(groups, differences(groups))


def write(folder, run, **changes):
    """A committed run with changes; a field that becomes None goes."""
    history = with_digest({field: value for field, value in (run.history | changes).items() if value is not None})
    with open(folder / f"{history['name']}.json", "wb") as file:
        write_history(history, file)
    with open(folder / f"{history['name']}.npz", "wb") as file:
        write_arrays(run.arrays, history, file)


def test_a_difference_is_the_mean_of_its_pairs(groups):
    found = {(one.name, one.metric): one for one in differences(groups)}
    assert len(found) == 16
    of_accuracy, of_loss = ({key: results.last(groups[key], name) for key in groups} for name in ("accuracy", "loss"))
    both = (of_accuracy[BOTH] - of_accuracy[PLAIN]).mean()
    assert found["both", "accuracy"].paired.value == pytest.approx(both)
    interaction = of_loss[BOTH] - of_loss[AUGMENTED] - of_loss[NORMALIZED] + of_loss[PLAIN]
    assert found["interaction", "loss"].paired.value == pytest.approx(interaction.mean(), abs=1e-12)
    assert all(one.resampled[0] <= one.paired.value <= one.resampled[1] for one in found.values())
    p_values = [one.paired.p for one in found.values()]
    assert [one.holm for one in found.values()] == pytest.approx(statistics.holm(p_values))


def test_only_seeds_that_all_configurations_have_are_compared(groups, tmp_path):
    for run in [*(run for group in groups.values() for run in group[1:3]), groups[PLAIN][5]]:
        write(tmp_path, run)
    assert {run.history["seed"] for group in read_study(tmp_path).values() for run in group} == {1, 2}


def test_the_steps_from_train_to_test_accuracy_add_up(groups):
    for (_, augment), group in groups.items():
        parts, history = results.decomposition(group), group[2].history
        assert np.allclose(parts["test - train"], parts["weights"] + parts["augmentation"] + parts["digits"])
        train, clean, test = (np.array(history[f"{kind}_accuracy"]) for kind in ("train", "clean_train", "test"))
        same_images = np.array(history["augmented_train_accuracy"]) if augment else clean
        assert np.allclose(parts["weights"][2], same_images - train)
        assert np.allclose(parts["digits"][2], test - clean)


def test_gradients_are_compared_before_the_first_epoch_and_after_each(groups):
    plain, normalized = (groups[key][2].history for key in (PLAIN, NORMALIZED))
    gradient, weight = (
        normalized[f"{norm}_norm_c3"][6] / plain[f"{norm}_norm_c3"][6] for norm in ("gradient", "weight")
    )
    for scaled, expected in ((True, gradient * weight), (False, gradient)):
        assert results.gradient_ratio(groups, scaled)[1, 2, 7] == pytest.approx(expected)
    first, last = (plain[f"initial_gradient_norm_{layer}"] for layer in ("c1", "f7"))
    assert results.first_to_last(groups[PLAIN])[2, 0] == pytest.approx(first / last)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.1}, r"lr is 0.1, but 0.05 in lenet_augment\.json"),
        ({"clean_train_accuracy": None}, r"study\.py did not train it from its first epoch"),
    ],
)
def test_a_run_that_is_not_of_the_study_is_named(groups, tmp_path, changes, said):
    write(tmp_path, groups[AUGMENTED][0])
    write(tmp_path, groups[AUGMENTED][1], **changes)
    with pytest.raises(UserError, match=rf"seed1\.json: .*{said}.*\nmove away what is not of this study"):
        read_study(tmp_path)


def test_too_few_seeds_say_how_to_train_more(groups, tmp_path):
    with pytest.raises(UserError, match=r"found 0 runs, with 0 seeds .* python study\.py"):
        read_study(tmp_path)
    for group in groups.values():
        write(tmp_path, group[0])
    with pytest.raises(UserError, match="found 6 runs, with 1 seeds"):
        read_study(tmp_path)
    (tmp_path / "lenet.npz").unlink()
    with pytest.raises(UserError, match=r"lenet\.json: has no NPZ file"):
        read_study(tmp_path)


def test_no_rounding_hides_on_which_side_a_bound_lies():
    assert [tables.rounded(value, 2) for value in (-0.001, 0.00004, -0.016)] == ["-0.001", "+0.00004", "-0.02"]
    assert [tables.rounded(value, 2) for value in (0.0, -1e-17)] == ["+0.00", "+0.00"]
    assert [tables.rounded(value, 2, "-", 1) for value in (0.9999, 1.004, 1.0)] == ["0.9999", "1.004", "1.00"]


def test_the_committed_tables_are_those_of_the_committed_runs(groups):
    found, committed = parse(document(groups, differences(groups))), parse((FOLDER / "tables.md").read_text())
    for row in [row for made in (found, committed) for table in made.values() for row in table.values()]:
        row.pop("test images resampled", None)
    assert found == committed


@pytest.mark.slow
def test_the_committed_tables_are_those_of_the_committed_runs_to_the_last_byte(groups, monkeypatch):
    monkeypatch.setattr(statistics.bootstrap_means, "__defaults__", (statistics.RESAMPLES,))
    assert document(groups, differences(groups)) == (FOLDER / "tables.md").read_text()


def test_the_page_shows_every_figure_of_the_study_in_which_no_text_lies_on_another(drawn):
    text = (FOLDER / "README.md").read_text()
    for name, figure in drawn.items():
        assert f"]({name})" in text
        assert_clean(figure)


def test_the_forest_shows_the_interval_and_each_seed_of_each_difference(groups, drawn):
    axes = drawn["differences.png"].axes[0]
    shown = [one for one in differences(groups) if one.metric == "accuracy" and "MLP" not in one.name]
    intervals = [bars[2][0].get_segments()[0][:, 0].tolist() for bars in axes.containers[1::2][: len(shown)]]
    for one in shown:
        assert pytest.approx([100 * one.paired.low, 100 * one.paired.high]) in intervals
        assert pytest.approx(100 * one.values) in [line.get_xdata() for line in axes.lines]


def test_a_title_says_larger_or_smaller_only_where_all_are():
    assert figures.times([15.1, 20.4]) == "15 to 20 times larger"
    assert figures.times([0.49, 0.23]) == "2 to 4 times smaller"
    assert figures.times([0.6, 1.3]) == "0.6 to 1.3 times as large"


# --- intervals and tests, against published values, closed forms and counting by hand -------------------------------

# Student's own data (1908): extra hours of sleep of ten patients under two drugs. The figures are R's, ?sleep.
FIRST = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SECOND = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_the_interval_is_student_s_and_equal_values_leave_no_doubt():
    estimate = statistics.mean_interval(FIRST - SECOND)
    assert estimate == pytest.approx((-1.58, -2.4598858, -0.7001142, 0.002833), abs=5e-7)
    assert statistics.mean_interval(np.array([3.0, 3.0])) == (3, 3, 3, 0)
    assert statistics.mean_interval(np.array([0.0, 0.0])).p == 1


def test_the_minimum_detectable_difference_is_found_in_four_of_five_studies():
    """The power of a t test has the noncentral t distribution."""
    values = FIRST - SECOND
    shift = statistics.detectable(values) / stats.sem(values)
    assert stats.nct.sf(stats.t.ppf(0.975, 9), 9, shift) == pytest.approx(0.8, abs=0.005)


def test_equivalence_is_the_worse_of_two_one_sided_tests_and_not_shown_at_the_margin():
    """With one degree of freedom P(T > t) = 1/2 - atan(t) / pi; the values are 0 and 2, their error is 1."""
    p = statistics.equivalence(np.array([0.0, 2.0]), 5.0)
    assert p == pytest.approx(0.5 - math.atan(4) / math.pi)  # the end at 5 is 4 errors away, that at -5 is 6
    assert statistics.equivalence(np.array([0.0, -2.0]), 5.0) == pytest.approx(p)
    assert statistics.equivalence(np.array([0.0, 2.0]), 1.0) == pytest.approx(0.5)
    assert statistics.equivalence(np.array([2.0, 2.0]), 2.0) == 1
    assert statistics.equivalence(np.array([2.0, 2.0]), 2.1) == 0


def test_holm_s_adjustment_keeps_the_order():
    """The example of R's p.adjust and of most textbooks."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1, 1]


def test_the_bootstrap_draws_images_for_all_groups_alike():
    """A mean over N draws with replacement has the variance of the images over N."""
    images = np.random.default_rng(1).random(400) < 0.9
    both = np.stack([images, images]).astype(np.float32)  # of two seeds that are equal: only the images vary
    first, second = statistics.bootstrap_means(np.stack([both, both + 1]), 4000).T
    assert first.mean() == pytest.approx(images.mean(), abs=0.001)
    assert first.std() == pytest.approx(math.sqrt(images.var() / 400), rel=0.05)
    assert np.allclose(second - first, 1, atol=1e-5)  # what the images do cancels


def test_the_bootstrap_draws_seeds_for_each_group_its_own():
    seeds = np.array([0, 1, 5], np.float32)
    first, second = statistics.bootstrap_means(np.broadcast_to(seeds[:, None], (2, 3, 50)), 4000).T
    assert first.std() == pytest.approx(math.sqrt(seeds.var() / 3), rel=0.05)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
