"""Accuracy of classifiers with 95 % intervals, paired differences, confusion. NumPy."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

Array = np.ndarray
_LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean and its 95 % interval; NaN where the interval is undefined."""

    mean: float
    low: float
    high: float


def top1(predicted: Array, true: Array) -> Estimate:
    """Returns the share of equal classes, with Wilson's interval of N rows.

    Args:
      predicted, true: [N] classes.

    Raises:
      ValueError: for no rows.
    """
    hits = np.asarray(predicted) == np.asarray(true)
    if not hits.size:
        raise ValueError("no rows to compare")
    interval = wilson_interval(int(hits.sum()), hits.size)
    return Estimate(float(hits.mean()), *interval)


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a proportion."""
    if trials == 0:
        return 0.0, 1.0
    z = 1.96
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_interval(values: Array) -> Estimate:
    """Returns the mean of values [N] with Student's interval; NaN bounds for one value.

    Raises:
      ValueError: for no values.
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("no values to average")
    mean = float(values.mean())
    if values.size < 2:
        return Estimate(mean, float("nan"), float("nan"))
    error = values.std(ddof=1) / np.sqrt(values.size)
    half = float(stats.t.ppf(0.5 + _LEVEL / 2, values.size - 1) * error)
    return Estimate(mean, mean - half, mean + half)


def paired_difference(first: Array, second: Array) -> Estimate:
    """Returns the mean of `first` - `second` with the interval of the differences.

    Args:
      first, second: [N] of the same repetitions, or hits of the same rows.
    """
    first, second = (np.asarray(x, np.float64) for x in (first, second))
    if first.shape != second.shape:
        raise ValueError(f"pairs have equal lengths, got {first.shape}, {second.shape}")
    return mean_interval(first - second)


def confusion(true: Array, predicted: Array, num_classes: int) -> Array:
    """Returns counts int [K, K]: rows are true classes, columns predicted ones."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (np.asarray(true), np.asarray(predicted)), 1)
    return counts
