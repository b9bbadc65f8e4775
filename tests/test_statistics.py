"""Intervals and tests against published values, closed forms and counting by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from support.study import statistics

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
