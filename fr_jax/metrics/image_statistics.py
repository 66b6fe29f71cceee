"""Results of images, as functions of how often each identity is drawn.

For intervals by bootstrap over identities: networks, classifiers, galleries and
generated images stay as they are. In means, an image of an identity that is drawn n
times counts n times. Pairs count as in verification: n times within an identity, n * m
times for identities drawn n and m times, and copies are not compared with each other.

A statistic takes draws int [highest identity + 1], or None for one draw each, and
raises `Undefined` for draws without any of its images or pairs.
"""

from collections.abc import Callable

import numpy as np

from fr_jax.metrics import Undefined, generation, quality
from fr_jax.metrics.counts import SortedPairs

Array = np.ndarray
Statistic = Callable[[Array | None], float]


def mean(values: Array, labels: Array) -> Statistic:
    """Returns the statistic of the mean of values [N, ...] of images.

    Args:
      labels: identity of each image, int [N], 0 or more.
    """
    values = np.asarray(values, np.float64).reshape(len(labels), -1).mean(axis=1)

    def measure(draws: Array | None) -> float:
        if draws is None:
            return float(values.mean())
        times = draws[labels]
        return float(times @ values) / _some(times.sum(), "image")

    return measure


def largest_share(classes: Array, labels: Array) -> Statistic:
    """Returns the statistic of the share of the most frequent class, int [N]."""

    def measure(draws: Array | None) -> float:
        times = np.ones(len(labels)) if draws is None else draws[labels]
        counts = np.bincount(classes, times)
        return float(counts.max()) / _some(counts.sum(), "image")

    return measure


def rank_correlation(first: Array, second: Array, labels: Array) -> Statistic:
    """Returns the statistic of `quality.rank_correlation` of values [N] of images."""

    def measure(draws: Array | None) -> float:
        if draws is None:
            return quality.rank_correlation(first, second)
        times = draws[labels]
        _some(times.sum(), "image")
        return quality.rank_correlation(first.repeat(times), second.repeat(times))

    return measure


def area_under_roc(
    scores: Array, same: Array, first: Array, second: Array
) -> Statistic:
    """Returns the statistic of the area under the ROC curve of pairs.

    Args:
      scores, same: [P], similarities, and True for genuine pairs.
      first, second: identity of both images, int [P].
    """
    pairs = SortedPairs(scores, same)

    def measure(draws: Array | None) -> float:
        times = None if draws is None else _pairs(draws, first, second)
        return pairs.count(times).area_under_roc()

    return measure


def mean_of_pairs(values: Array, first: Array, second: Array) -> Statistic:
    """Returns the statistic of the mean of values [P] of pairs of images."""

    def measure(draws: Array | None) -> float:
        if draws is None:
            return float(values.mean())
        times = _pairs(draws, first, second)
        return float(times @ values) / _some(times.sum(), "pair")

    return measure


def kernel_distance(
    value: float, real: Array, real_labels: Array, fake: Array, fake_labels: Array
) -> Statistic:
    """Returns the statistic of `generation.kernel_distance`.

    Under draws it is the unbiased distance of all images, which is the expectation of
    that of subsets.

    Args:
      value: the distance without draws.
      real, fake: features [N, F], [M, F].
      real_labels, fake_labels: identities [N], [M]; of a generated image, that of its
        input.
    """
    both = np.append(real_labels, fake_labels)
    present, codes = np.unique(both, return_inverse=True)
    first, second = np.split(codes, [len(real)])
    # For each pair of identities: kernels of their pairs of images, and how many.
    parts = [
        _by_identity(generation.kernel(x, y), a, b, len(present), x is y)
        for x, y, a, b in (
            (real, real, first, first),
            (fake, fake, second, second),
            (real, fake, first, second),
        )
    ]

    def measure(draws: Array | None) -> float:
        if draws is None:
            return value
        times = draws[present].astype(np.float64)
        weights = np.outer(times, times)
        np.fill_diagonal(weights, times)
        within_real, within_fake, between = (
            float(np.sum(weights * kernels)) / _some(np.sum(weights * pairs), "pair")
            for kernels, pairs in parts
        )
        return within_real + within_fake - 2 * between

    return measure


def _by_identity(
    kernels: Array, first: Array, second: Array, identities: int, within: bool
) -> tuple[Array, Array]:
    """Returns sums of kernels [N, M] by identity, and pairs, [identities] * 2 each.

    Args:
      within: whether an image's kernel with itself is left out.
    """
    rows, columns = (np.eye(identities)[labels] for labels in (first, second))
    pairs = np.outer(rows.sum(axis=0), columns.sum(axis=0))
    if within:
        kernels = kernels - np.diag(np.diag(kernels))
        pairs -= np.diag(rows.sum(axis=0))
    return rows.T @ kernels @ columns, pairs


def _pairs(draws: Array, first: Array, second: Array) -> Array:
    return draws[first] * np.where(first == second, 1, draws[second])


def _some(total: float, kind: str) -> float:
    if not total:
        raise Undefined(f"no {kind}")
    return float(total)
