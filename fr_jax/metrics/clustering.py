"""Agreement of clusters with identities, from a sparse contingency table.

Purity, pairwise and BCubed measures, ARI and the accuracy of the best assignment are
rationals of counts, rounded to float64 once. NMI and AMI are normalised by the
arithmetic mean of the entropies, as in scikit-learn.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from fr_jax.metrics import Undefined

Array = np.ndarray
MOST_ASSIGNED = 5000  # identities or clusters of `hungarian_accuracy`
_TERMS = 2**21


class Agreement(NamedTuple):
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float
    f: float


class Contingency:
    """Counts of samples by identity and cluster, cells above 0 only.

    Args:
      identities, clusters: labels int [N]; of any values, each value is one label.

    Attributes:
      counts: int [cells], samples of each cell.
      rows, columns: int [cells], the identity and the cluster of each cell.
      identity_sizes, cluster_sizes: int, samples of each.

    Raises:
      ValueError: for labels that are no integers, and unequal lengths.
      Undefined: for no samples.
    """

    def __init__(self, identities: Array, clusters: Array):
        identities, clusters = np.asarray(identities), np.asarray(clusters)
        if identities.shape != clusters.shape or identities.ndim != 1:
            raise ValueError(
                f"{identities.shape} identities for {clusters.shape} clusters"
            )
        if identities.dtype.kind not in "iub" or clusters.dtype.kind not in "iub":
            raise ValueError(
                f"labels of type {identities.dtype} and {clusters.dtype}; integers are "
                "needed"
            )
        if not len(identities):
            raise Undefined("no samples")
        self.size = len(identities)
        rows, self.identity_sizes = _codes(identities)
        columns, self.cluster_sizes = _codes(clusters)
        width = len(self.cluster_sizes)
        cells = np.sort(rows * width + columns)
        starts = np.flatnonzero(np.append(True, np.diff(cells) != 0))
        self.counts = np.diff(np.append(starts, self.size))
        self.rows, self.columns = np.divmod(cells[starts], width)

    @property
    def identical(self) -> bool:
        """True if clusters and identities are the same partition."""
        cells = len(self.counts)
        return cells == len(self.identity_sizes) == len(self.cluster_sizes)


def singletons(clusters: Array, noise: int = -1) -> Array:
    """Returns labels [N] in which every sample labelled `noise` is its own cluster.

    For methods such as DBSCAN, which leave samples without a cluster: as one cluster
    they would count as merged.
    """
    labels = np.array(clusters, np.int64)
    alone = labels == noise
    labels[alone] = labels.max(initial=0) + 1 + np.arange(int(alone.sum()))
    return labels


def purity(table: Contingency) -> float:
    """Returns the share of samples that have the most frequent identity of a cluster.

    Weighted cluster purity, 1 for clusters of one sample each.
    """
    largest = np.zeros(len(table.cluster_sizes), np.int64)
    np.maximum.at(largest, table.columns, table.counts)
    return int(largest.sum()) / table.size


def pairwise_precision(table: Contingency) -> float:
    """Returns the share of the pairs of samples of one cluster that share an identity.

    Raises:
      Undefined: if no two samples share a cluster.
    """
    common, together, _ = _pairs(table)
    if not together:
        raise Undefined("no two samples share a cluster")
    return common / together


def pairwise_recall(table: Contingency) -> float:
    """Returns the share of the pairs of samples of one identity that share a cluster.

    Raises:
      Undefined: if no two samples share an identity.
    """
    common, _, same = _pairs(table)
    if not same:
        raise Undefined("no two samples share an identity")
    return common / same


def pairwise_f(table: Contingency) -> float:
    """Returns the harmonic mean of pairwise precision and recall.

    As 2 TP / (2 TP + FP + FN), which is 0 if one of them is undefined.

    Raises:
      Undefined: if no two samples share a cluster or an identity.
    """
    common, together, same = _pairs(table)
    if not together + same:
        raise Undefined("no two samples share a cluster or an identity")
    return 2 * common / (together + same)


def bcubed(table: Contingency) -> Agreement:
    """Returns BCubed precision, recall and F.

    Bagga and Baldwin (1998): the precision of a sample is the share of its cluster that
    has its identity, its recall the share of its identity in its cluster; means over
    the samples, and the harmonic mean of these (Amigo et al., 2009).
    """
    squares = table.counts**2
    precision, recall = (
        _sum_of_ratios(squares, sizes[labels]) / table.size
        for sizes, labels in (
            (table.cluster_sizes, table.columns),
            (table.identity_sizes, table.rows),
        )
    )
    both = 2 * precision * recall / (precision + recall)
    return Agreement(float(precision), float(recall), float(both))


def adjusted_rand_index(table: Contingency) -> float:
    """Returns the adjusted Rand index (Hubert and Arabie, 1985); 1 if identical."""
    if table.identical:
        return 1.0
    common, together, same = _pairs(table)
    expected = Fraction(together * same, table.size * (table.size - 1) // 2)
    return float((common - expected) / (Fraction(together + same, 2) - expected))


def normalized_mutual_information(table: Contingency) -> float:
    """Returns 2 I(U; V) / (H(U) + H(V)) in [0, 1]; 1 if identical."""
    if table.identical:
        return 1.0
    mean = (entropy(table.identity_sizes) + entropy(table.cluster_sizes)) / 2
    return _mutual_information(table) / mean


def adjusted_mutual_information(table: Contingency) -> float:
    """Returns (I - E[I]) / ((H(U) + H(V)) / 2 - E[I]); 1 if identical.

    Vinh, Epps, Bailey (JMLR 2010); the expectation over permutations of the labels is
    summed for each pair of distinct sizes, not for each pair of an identity and a
    cluster.
    """
    if table.identical:
        return 1.0
    mean = (entropy(table.identity_sizes) + entropy(table.cluster_sizes)) / 2
    expected = expected_information(table.identity_sizes, table.cluster_sizes)
    return (_mutual_information(table) - expected) / (mean - expected)


def hungarian_accuracy(table: Contingency) -> float:
    """Returns the share of samples under the best one-to-one map of clusters.

    Raises:
      ValueError: for more than 5,000 identities or clusters, whose dense table and
        assignment are too large.
    """
    shape = len(table.identity_sizes), len(table.cluster_sizes)
    if max(shape) > MOST_ASSIGNED:
        raise ValueError(
            f"{shape[0]:,} identities and {shape[1]:,} clusters; the best assignment "
            f"is computed for at most {MOST_ASSIGNED:,} of each"
        )
    dense = np.zeros(shape, np.int64)
    dense[table.rows, table.columns] = table.counts
    return int(dense[linear_sum_assignment(dense, maximize=True)].sum()) / table.size


class Measures(NamedTuple):
    values: dict[str, float]
    notes: dict[str, str]  # reasons for measures that are not in `values`


def measure(identities: Array, clusters: Array) -> Measures:
    """Returns every measure by name, and the reasons for those that are left out.

    `wcp`; `pairwise_precision`, `pairwise_recall`, `pairwise_f`, and those of `bcubed`;
    `nmi`, `ami`, `ari`; `hungarian_accuracy`; `num_identities` and `num_clusters`.

    Raises:
      ValueError, Undefined: see `Contingency`.
    """
    table = Contingency(identities, clusters)
    values: dict[str, float] = {}
    notes: dict[str, str] = {}
    for names, function in _MEASURES.items():
        try:
            value = function(table)
        except ValueError as error:
            notes |= dict.fromkeys(names, str(error))
        else:
            values |= zip(names, value if isinstance(value, tuple) else (value,))
    values["num_identities"] = float(len(table.identity_sizes))
    values["num_clusters"] = float(len(table.cluster_sizes))
    return Measures(values, notes)


_MEASURES: dict[tuple[str, ...], Callable] = {
    ("wcp",): purity,
    ("pairwise_precision",): pairwise_precision,
    ("pairwise_recall",): pairwise_recall,
    ("pairwise_f",): pairwise_f,
    ("bcubed_precision", "bcubed_recall", "bcubed_f"): bcubed,
    ("nmi",): normalized_mutual_information,
    ("ami",): adjusted_mutual_information,
    ("ari",): adjusted_rand_index,
    ("hungarian_accuracy",): hungarian_accuracy,
}


def _codes(labels: Array) -> tuple[Array, Array]:
    """Returns codes from 0 without gaps [N], and the number of samples of each."""
    labels = labels.astype(np.int64)
    lowest, span = int(labels.min()), int(np.ptp(labels)) + 1
    if span > 4 * len(labels) + 1000:  # a table of all values would be large
        _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        return codes, sizes
    labels = labels - lowest
    sizes = np.bincount(labels)
    present = sizes > 0
    return (np.cumsum(present) - 1)[labels], sizes[present]


def _pairs(table: Contingency) -> tuple[int, int, int]:
    """Returns the pairs of one cell, of one cluster and of one identity."""
    common, together, same = (
        int(np.sum(sizes * (sizes - 1) // 2))
        for sizes in (table.counts, table.cluster_sizes, table.identity_sizes)
    )
    return common, together, same


def _sum_of_ratios(numerators: Array, denominators: Array) -> Fraction:
    """Returns the sum of numerators / denominators, exactly."""
    sizes, codes = np.unique(denominators, return_inverse=True)
    sums = np.zeros(len(sizes), np.int64)
    np.add.at(sums, codes, numerators)
    common = math.lcm(*sizes.tolist())
    total = sum(n * (common // size) for n, size in zip(sums.tolist(), sizes.tolist()))
    return Fraction(total, common)


def entropy(sizes: Array) -> float:
    """Returns the entropy of parts of these sizes, in nats; empty parts count as 0."""
    shares = sizes[sizes > 0] / sizes.sum()
    return float(-np.sum(shares * np.log(shares)))


def _mutual_information(table: Contingency) -> float:
    expected = table.identity_sizes[table.rows] / table.size
    expected = expected * table.cluster_sizes[table.columns]
    return float(np.sum(table.counts / table.size * np.log(table.counts / expected)))


def expected_information(identity_sizes: Array, cluster_sizes: Array) -> float:
    """Returns the expectation of I(U; V) over permutations of labels, in nats.

    Args:
      identity_sizes, cluster_sizes: int, 0 or more, of equal sums.
    """
    total, size = 0.0, int(identity_sizes.sum())
    firsts = np.unique(identity_sizes[identity_sizes > 0], return_counts=True)
    seconds, times = np.unique(cluster_sizes[cluster_sizes > 0], return_counts=True)
    for first, repeats in zip(*(column.tolist() for column in firsts)):
        # Bernstein's bound: the tails left out have a probability below exp(-60).
        mean = first * seconds / size
        tail = 20 + np.sqrt(400 + 120 * mean)
        lowest = np.maximum(np.floor(mean - tail), first + seconds - size)
        lowest = np.maximum(lowest, 0).astype(np.int64)
        most = np.minimum(np.ceil(mean + tail), np.minimum(first, seconds))
        terms = most.astype(np.int64) - lowest + 1
        step = max(1, _TERMS // int(terms.max()))
        for start in range(0, len(seconds), step):
            part = slice(start, start + step)
            ranges = lowest[part, None], terms[part, None]
            means = _expected_share(first, seconds[part, None], size, *ranges)
            total += repeats * float(np.sum(times[part] * means))
    return total


def _expected_share(
    first: int, second: Array, size: int, lowest: Array, terms: Array
) -> Array:
    """Returns E[n / N log(N n / (a b))] of a = `first` and each b of `second`, [S].

    The n samples that a cluster has in common with an identity are hypergeometric.
    Their probabilities come from ratios of successive terms, whose logarithms have
    small sums, unlike log n!.

    Args:
      second, lowest, terms: int [S, 1]; n goes from `lowest` over so many terms.
    """
    n = lowest + np.arange(int(terms.max()))  # [S, terms]
    valid = n < lowest + terms
    before = np.where(valid, n - 1, lowest)[:, 1:]
    ratio = (first - before) * (second - before) / (before + 1)
    ratio = ratio / (size - first - second + before + 1)
    logs = np.zeros(n.shape)
    np.cumsum(np.log(np.where(valid[:, 1:], ratio, 1)), axis=1, out=logs[:, 1:])
    logs[~valid] = -np.inf
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    share = n / size * np.log(np.maximum(n, 1) * (size / first) / second)
    return np.sum(odds * share, axis=1) / np.sum(odds, axis=1)
