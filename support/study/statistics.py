"""Intervals and tests for runs that share a test set. On scipy and numpy; knows nothing of files, tables or networks.

`a` and `b` are figures of several runs, one a seed. Where a function says `paired`, their places belong together.
`right` is bool (seeds, images): whether the network of that seed was right about that image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95
RESAMPLES = 10_000  # of a bootstrap and of sign flips: a p of 0.05 then has a standard error of 0.002
POWER = 0.8
SEED = 20  # of all resampling: the same files give the same report


class Estimate(NamedTuple):
    """A mean, or a difference of means, its 95 % interval, and the two-sided p value of 0."""

    value: float
    low: float
    high: float
    p: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


# --- Student's t ------------------------------------------------------------------------------------------------------


def mean_interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """Student's t for the mean of two values or more."""
    values = np.asarray(values, dtype=float)
    return _from_t(values.mean(), stats.sem(values), len(values) - 1)


def paired_difference(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean of a - b, by Student's t for the differences."""
    return mean_interval(np.asarray(a, dtype=float) - np.asarray(b, dtype=float))


def welch_difference(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean of a less mean of b, by Welch's t: nothing is shared between the places, nor the variances."""
    return contrast([a, b], [1, -1])


def contrast(groups: Sequence[np.ndarray], weights: Sequence[float]) -> Estimate:
    """The weighted sum of the means of independent groups, with Satterthwaite's degrees of freedom.

    With the weights 1 and -1 this is Welch's t; with 1, -1, -1, 1 the interaction of two factors.
    """
    means = np.array([np.mean(group) for group in groups])
    counts = np.array([len(group) for group in groups])
    parts = np.square(weights) * np.array([np.var(group, ddof=1) for group in groups]) / counts
    squares = (parts**2 / (counts - 1)).sum()
    freedom = parts.sum() ** 2 / squares if squares > 0 else counts.sum() - len(groups)
    return _from_t(float(np.dot(weights, means)), float(np.sqrt(parts.sum())), float(freedom))


def _from_t(value: float, error: float, freedom: float) -> Estimate:
    half = error * stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
    p = 2 * stats.t.sf(abs(value) / error, freedom) if error > 0 else float(value == 0)
    return Estimate(float(value), float(value - half), float(value + half), float(p))


def equivalence(a: np.ndarray, b: np.ndarray, margin: float) -> float:
    """p of two one-sided paired t tests (Schuirmann, 1987): small where the mean of a - b is within ± margin.

    It is the larger of the two, each of which refutes that the difference is at or beyond one end of the margin.
    """
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    error = stats.sem(differences)
    if error == 0:
        return float(abs(differences.mean()) >= margin)
    low, high = (differences.mean() + margin) / error, (differences.mean() - margin) / error
    return float(max(stats.t.sf(low, len(differences) - 1), stats.t.cdf(high, len(differences) - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for all tests of one family (Holm, 1979), in their order."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


# --- seeds and images -------------------------------------------------------------------------------------------------


def bootstrap_means(groups: Sequence[np.ndarray], resamples: int = RESAMPLES) -> np.ndarray:
    """Means of several groups under resampling of test images and of seeds: (resamples, groups).

    groups: figures (seeds, images) of one image each, such as whether it was read right, or its loss. A resample draws
    images with replacement, the same for all groups, and seeds with replacement, for each group its own: the pigeonhole
    bootstrap (Owen, "The pigeonhole bootstrap", 2007). An interval taken from it asks what would come of new digits and
    new seeds. With few seeds their part of its width is short by the factor sqrt((seeds - 1) / seeds).
    """
    generator = np.random.default_rng(SEED)
    figures = np.concatenate([np.asarray(group, dtype=np.float32) for group in groups])
    runs, images = figures.shape
    means = np.empty((resamples, runs))
    for resample in range(resamples):
        times = np.bincount(generator.integers(images, size=images), minlength=images)
        means[resample] = figures @ times.astype(np.float32) / images
    result, start = np.empty((resamples, len(groups))), 0
    for place, group in enumerate(groups):
        seeds = generator.integers(len(group), size=(resamples, len(group)))
        result[:, place] = np.take_along_axis(means, start + seeds, axis=1).mean(1)
        start += len(group)
    return result


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


# --- the same test images, two networks -------------------------------------------------------------------------------


def discordant(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """How many images only `a` reads right, and how many only `b` does; both bool (images,)."""
    return int((a & ~b).sum()), int((~a & b).sum())


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p value of McNemar's test, of the discordant images of two networks."""
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def detectable(images: int) -> float:
    """The least difference (images) that McNemar's test would show, of so many discordant ones, with a power of 80 %.

    Shown is what has a p of at most 5 %. NaN where no split of so few images has.
    """
    counts = np.arange(images + 1)
    critical = np.flatnonzero(2 * stats.binom.cdf(counts, images, 0.5) <= 1 - CONFIDENCE)
    if len(critical) == 0:
        return float("nan")

    def lack_of_power(share: float) -> float:
        return float(stats.binom.sf(images - critical[-1] - 1, images, share) - POWER)

    return float(images * (2 * optimize.brentq(lack_of_power, 0.5, 1) - 1))


def sign_flips(a: np.ndarray, b: np.ndarray, resamples: int = RESAMPLES) -> float:
    """Two-sided p value of a mean difference between two groups that read the same images; McNemar's test over seeds.

    a, b: bool (seeds, images). For each image the share of networks that read it right is compared; if the groups were
    alike, either of the two shares could have been the one of `a`, image by image. It asks what would come of new
    digits with these very networks, not of new seeds. Exact where there are few discordant images.
    """
    shares = np.stack([a.mean(0), b.mean(0)])
    shares = shares[:, shares[0] != shares[1]]
    if shares.shape[1] == 0:
        return 1.0
    return float(
        stats.permutation_test(
            tuple(shares),
            lambda x, y, axis: (x - y).sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=1000,
            rng=np.random.default_rng(SEED),
        ).pvalue
    )
