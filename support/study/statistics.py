"""Intervals and tests for values of several seeds. Knows nothing of files, networks or what the values are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05  # the p value below which a difference is called significant
RESAMPLES = 10_000  # of the bootstrap: the third decimal of a percentage is noise
SEED = 20  # of the bootstrap: the same files give the same tables


class Estimate(NamedTuple):
    """A mean, its 95 % confidence interval, and the two-sided p value of 0."""

    value: float
    low: float
    high: float
    p: float


def mean_interval(values: np.ndarray) -> Estimate:
    """Student's t for the mean of two values or more; of equal values the interval is that value."""
    if np.ptp(values) == 0:
        return Estimate(values[0], values[0], values[0], float(values[0] == 0))
    found = stats.ttest_1samp(values, 0)
    return Estimate(*map(float, (values.mean(), *found.confidence_interval(1 - ALPHA), found.pvalue)))


def detectable(values: np.ndarray) -> float:
    """The minimum detectable mean of values that scatter like these: p < ALPHA, not adjusted, in 80 % of such studies.

    The sum of two quantiles of Student's t approximates it, for ten values to 0.5 %.
    """
    return float(stats.sem(values) * np.sum(stats.t.ppf([1 - ALPHA / 2, 0.8], len(values) - 1)))


def equivalence(values: np.ndarray, margin: float) -> float:
    """p of two one-sided t tests (Schuirmann, 1987): small where the mean lies within ± margin.

    It is the larger of the two, each of which refutes that the mean is at or beyond one end of the margin.
    """
    if np.ptp(values) == 0:
        return float(abs(values[0]) >= margin)
    above = stats.ttest_1samp(values, -margin, alternative="greater")
    below = stats.ttest_1samp(values, margin, alternative="less")
    return float(max(above.pvalue, below.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for all tests of one family (Holm, 1979), in their order."""
    p = np.asarray(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def bootstrap_means(values: np.ndarray, resamples: int = RESAMPLES) -> np.ndarray:
    """Means of several groups under resampling of test images and of seeds: (resamples, groups).

    values: float32 (groups, seeds, images), a number of each image, such as whether it was classified correctly, or its
    loss. A resample draws images with replacement, the same for all groups, and seeds with replacement, for each group
    its own: the pigeonhole bootstrap (Owen, "The pigeonhole bootstrap", 2007). Its intervals are those of new test
    images and new seeds. With few seeds their part of the width is short by the factor sqrt((seeds - 1) / seeds).
    """
    generator = np.random.default_rng(SEED)
    groups, seeds, images = values.shape
    means = np.empty((resamples, groups * seeds))
    for resample in range(resamples):
        times = np.bincount(generator.integers(images, size=images), minlength=images)
        means[resample] = values.reshape(-1, images) @ times.astype(np.float32) / images
    drawn = generator.integers(seeds, size=(groups, resamples, seeds)).swapaxes(0, 1)
    return np.take_along_axis(means.reshape(resamples, groups, seeds), drawn, axis=2).mean(2)
