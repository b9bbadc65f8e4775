"""Intervals and tests against published values, closed forms and counting by hand."""

import math
from itertools import product

import numpy as np
import pytest

from support.study import statistics

# Student's own data (1908): extra hours of sleep of ten patients under two drugs. The figures are R's, ?sleep.
FIRST = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SECOND = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def right(*rows: str) -> np.ndarray:
    """bool (seeds, images) of strings of 1 and 0."""
    return np.array([[letter == "1" for letter in row] for row in rows])


# --- Student's t ------------------------------------------------------------------------------------------------------


def test_the_paired_difference_is_student_s():
    estimate = statistics.paired_difference(FIRST, SECOND)
    assert estimate == pytest.approx((-1.58, -2.4598858, -0.7001142, 0.002833), abs=5e-7)
    assert estimate.excludes_zero


def test_welch_s_difference_takes_his_degrees_of_freedom():
    estimate = statistics.welch_difference(FIRST, SECOND)
    assert estimate == pytest.approx((-1.58, -3.3654832, 0.2054832, 0.0793941), abs=5e-7)
    assert not estimate.excludes_zero


def test_a_contrast_of_four_groups_has_the_freedom_of_all():
    """With equal variances and sizes these are 4 (n - 1) = 4, of which 97.5 % lie below 2.776445."""
    groups = [np.array([value - 1, value + 1]) for value in (10, 20, 30, 70)]  # variance 2 each
    estimate = statistics.contrast(groups, [1, -1, -1, 1])
    assert estimate.value == pytest.approx(30)
    assert estimate.high - estimate.value == pytest.approx(2.776445 * math.sqrt(4 * 2 / 2), rel=1e-6)


def test_a_mean_of_two_has_cauchy_s_tails():
    """One degree of freedom: P(|T| > 1) = 1/2, and 12.7062 is exceeded by 2.5 %."""
    estimate = statistics.mean_interval([0.0, 2.0])
    assert estimate == pytest.approx((1, 1 - 12.7062, 1 + 12.7062, 0.5), rel=1e-5)


def test_equal_values_leave_no_doubt():
    assert statistics.mean_interval([3.0, 3.0]) == (3, 3, 3, 0)
    assert statistics.mean_interval([0.0, 0.0]).p == 1


def test_equivalence_is_the_worse_of_two_one_sided_tests():
    """With one degree of freedom P(T > t) = 1/2 - atan(t) / pi; the differences are 0 and 2, their error is 1."""
    p = statistics.equivalence(np.array([1.0, 4.0]), np.array([1.0, 2.0]), 5.0)
    assert p == pytest.approx(0.5 - math.atan(4) / math.pi)  # the end at 5 is 4 errors away, that at -5 is 6
    mirrored = statistics.equivalence(np.array([1.0, 2.0]), np.array([1.0, 4.0]), 5.0)
    assert mirrored == pytest.approx(p)


def test_equivalence_is_not_shown_at_the_margin_or_beyond():
    assert statistics.equivalence(np.array([1.0, 4.0]), np.array([1.0, 2.0]), 1.0) == pytest.approx(0.5)
    assert statistics.equivalence(np.array([3.0, 3.0]), np.array([1.0, 1.0]), 2.0) == 1
    assert statistics.equivalence(np.array([3.0, 3.0]), np.array([1.0, 1.0]), 2.1) == 0


def test_holm_s_adjustment_keeps_the_order():
    """The example of R's p.adjust and of most textbooks."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1, 1]


# --- seeds and images -------------------------------------------------------------------------------------------------


def test_the_bootstrap_of_equal_seeds_varies_as_the_images_do():
    """A mean over N draws with replacement has the variance of the images over N."""
    images = np.random.default_rng(1).random(400) < 0.9
    means = statistics.bootstrap_means([np.stack([images, images])], 4000)[:, 0]
    assert means.mean() == pytest.approx(images.mean(), abs=0.001)
    assert means.std() == pytest.approx(math.sqrt(images.var() / 400), rel=0.05)


def test_the_bootstrap_of_equal_images_varies_as_the_seeds_do():
    seeds = np.array([0.0, 1.0, 5.0])
    means = statistics.bootstrap_means([np.repeat(seeds[:, None], 50, 1)], 4000)[:, 0]
    assert means.std() == pytest.approx(math.sqrt(seeds.var() / 3), rel=0.05)


def test_the_bootstrap_draws_images_for_all_groups_alike_and_seeds_for_each_its_own():
    images = np.random.default_rng(1).random((1, 300))
    first, second = statistics.bootstrap_means([images, images + 1], 500).T
    assert np.allclose(second - first, 1, atol=1e-5)  # of one seed each: what the images do cancels

    seeds = np.repeat(np.array([[0.0], [1.0]]), 20, 1)
    first, second = statistics.bootstrap_means([seeds, seeds], 4000).T
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_the_bootstrap_gives_the_same_report_twice():
    group = np.random.default_rng(2).random((3, 40))
    assert np.array_equal(statistics.bootstrap_means([group], 50), statistics.bootstrap_means([group], 50))


def test_an_interval_of_resampled_values_holds_the_middle_95_percent():
    assert statistics.percentile_interval(np.arange(1001.0)) == pytest.approx((25, 975))


# --- the same test images, two networks -------------------------------------------------------------------------------


def test_discordant_images_are_counted_for_either_side():
    a, b = right("111000"), right("100110")
    assert statistics.discordant(a[0], b[0]) == (2, 2)
    assert statistics.discordant(right("1110")[0], right("1001")[0]) == (2, 1)


def test_mcnemar_s_test_is_binomial():
    assert statistics.mcnemar(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert statistics.mcnemar(10, 2) == statistics.mcnemar(2, 10)
    assert statistics.mcnemar(5, 5) == statistics.mcnemar(0, 0) == 1


def test_what_mcnemar_s_test_can_detect():
    """Of 6 images only 6 to 0 has a p below 5 %, and with a probability q**6; of 5 not even 5 to 0."""
    assert statistics.detectable(6) == pytest.approx(6 * (2 * 0.8 ** (1 / 6) - 1))
    assert math.isnan(statistics.detectable(5))
    assert statistics.detectable(400) == pytest.approx(2.8 * math.sqrt(400), rel=0.05)  # 1.96 + 0.84 deviations


def test_sign_flips_of_one_seed_are_mcnemar_s_test():
    a, b = right("1111111100011"), right("1000000011111")
    assert statistics.sign_flips(a, b) == pytest.approx(statistics.mcnemar(*statistics.discordant(a[0], b[0])))


def test_sign_flips_count_every_way_to_exchange_the_shares():
    a, b = right("110110", "100110"), right("011000", "001000")
    differences = a.mean(0) - b.mean(0)
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    expected = np.mean([total >= abs(differences.sum()) - 1e-12 for total in sums])
    assert statistics.sign_flips(a, b) == pytest.approx(expected)


def test_sign_flips_of_networks_that_do_not_differ_show_nothing():
    a = right("1101", "0101")
    assert statistics.sign_flips(a, a[::-1]) == 1


def test_sign_flips_of_many_images_are_sampled_and_repeatable():
    generator = np.random.default_rng(3)
    a, b = generator.random((4, 500)) < 0.95, generator.random((4, 500)) < 0.7
    assert statistics.sign_flips(a, b, 500) == statistics.sign_flips(a, b, 500) == pytest.approx(2 / 501)
