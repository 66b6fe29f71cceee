"""1:1 verification: rates, areas and costs of scored pairs; distances of embeddings.

`scores` are similarities (higher: more similar), `distances` squared distances (lower:
more similar). TAR is the share of genuine pairs accepted, FAR the share of impostor
pairs accepted (ISO/IEC 19795-1: 1 - FNMR, FMR); FRR is 1 - TAR. All are exact: counts
are integers from sorted scores, without a loop over thresholds, and pairs of equal
scores are accepted together. Protocols over folds are in `folds`.
"""

from typing import Any

import numpy as np

from fr_jax.metrics import Undefined
from fr_jax.metrics.counts import AtFar, BestThreshold, SortedPairs, checked
from fr_jax.metrics.folds import ACCURACY_THRESHOLDS as ACCURACY_THRESHOLDS
from fr_jax.metrics.folds import FAR_THRESHOLDS as FAR_THRESHOLDS
from fr_jax.metrics.folds import FoldAccuracy as FoldAccuracy
from fr_jax.metrics.folds import FoldRates as FoldRates
from fr_jax.metrics.folds import contiguous_folds as contiguous_folds
from fr_jax.metrics.folds import fold_accuracy as fold_accuracy
from fr_jax.metrics.folds import fold_tar_at_far as fold_tar_at_far
from fr_jax.metrics.folds import stratified_folds as stratified_folds

Array = np.ndarray

FARS = ("1e-2", "1e-3")  # of published results
P_TARGET = "0.01"  # prior of genuine pairs in minDCF


def squared_distances(first: Array, second: Array) -> Array:
    """Returns |a - b|^2 in [0, 4] of rows scaled to unit length, float64 [pairs]."""
    return np.sum(np.square(l2_normalize(first) - l2_normalize(second)), axis=1)


def cosines(first: Array, second: Array) -> Array:
    """Returns the cosine of each pair of rows [pairs, D], float64 [pairs]."""
    return np.sum(l2_normalize(first) * l2_normalize(second), axis=1)


def l2_normalize(rows: Array) -> Array:
    """Returns float64 rows of length 1; a zero row stays zero."""
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths == 0, 1.0, lengths)


def few_impostors(far: Any, impostors: Any) -> Any:
    """Returns True if a FAR corresponds to fewer than ten impostor pairs.

    A TAR at that FAR is unreliable: it needs at least 10 / FAR impostor pairs.
    """
    return far * impostors < 10 - 1e-9


def counts_at_far(scores: Array, same: Array, far: Any) -> AtFar:
    """Returns the exact pooled TAR at a FAR, with counts and the threshold.

    The threshold is the lowest that accepts at most far * impostors impostor pairs,
    just above the first impostor score that must be rejected. It accepts ties together,
    so the FAR it has may be lower, and is never interpolated.

    Args:
      far: number or text; 0.001 and '1e-3' are the rational 1/1000.

    Raises:
      Undefined: without genuine or without impostor pairs.
    """
    return SortedPairs(scores, same).count().at_far(far)


def tar_at_far(scores: Array, same: Array, far: Any) -> tuple[float, float]:
    """Returns TAR and threshold of `counts_at_far`."""
    at = counts_at_far(scores, same, far)
    return at.tar, at.threshold


def roc(scores: Array, same: Array) -> tuple[Array, Array]:
    """Returns (FAR, TAR) of the whole curve, from (0, 0), one point per distinct score.

    Raises:
      Undefined: without genuine or without impostor pairs.
    """
    impostors, genuine = _accepted(scores, same)
    return impostors / impostors[-1], genuine / genuine[-1]


def det(scores: Array, same: Array) -> tuple[Array, Array]:
    """Returns (FAR, FRR) of the whole curve, from (0, 1), see `roc`."""
    impostors, genuine = _accepted(scores, same)
    return impostors / impostors[-1], (genuine[-1] - genuine) / genuine[-1]


def _accepted(scores: Array, same: Array) -> tuple[Array, Array]:
    """Returns accepted impostor and genuine pairs, int [1 + scores], from 0."""
    scores, same = checked(scores, same)
    order = np.argsort(-scores)
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)) + 1
    genuine = np.append(0, np.cumsum(same[order])[ends - 1])
    impostors = np.append(0, ends) - genuine
    for kind, accepted in (("genuine", genuine), ("impostor", impostors)):
        if not accepted[-1]:
            raise Undefined(f"no {kind} pairs")
    return impostors, genuine


def area_under_roc(scores: Array, same: Array) -> float:
    """Returns P(genuine score > impostor score) + P(equal scores) / 2.

    Raises:
      Undefined: without genuine or without impostor pairs.
    """
    return SortedPairs(scores, same).count().area_under_roc()


def equal_error_rate(scores: Array, same: Array) -> float:
    """Returns the rate at which the convex hull of the ROC has FAR = FRR.

    The hull's points between two thresholds are reached by choosing one of them at
    random (Fawcett, Provost: Robust Classification for Imprecise Environments, 2001).

    Raises:
      Undefined: without genuine or without impostor pairs.
    """
    return SortedPairs(scores, same).count().equal_error_rate()


def min_dcf(
    scores: Array, same: Array, p_target: Any = P_TARGET, normalised: bool = False
) -> float:
    """Returns the minimum over thresholds of p_target * FRR + (1 - p_target) * FAR.

    NIST's detection cost with unit costs of both errors.

    Args:
      p_target: prior probability of genuine pairs.
      normalised: divide by min(p_target, 1 - p_target), the cost of the better of
        accepting all and rejecting all pairs, as NIST's speaker evaluations do.

    Raises:
      Undefined: without genuine or without impostor pairs.
    """
    return SortedPairs(scores, same).count().min_dcf(p_target, normalised)


def best_accuracy(scores: Array, same: Array) -> tuple[float, float]:
    """Returns the highest accuracy of any threshold on these pairs, and the threshold.

    Inter-Prototype's protocol: candidates are the similarities themselves, same iff
    score >= threshold; of equally good ones, the first in the order of the list.
    Optimistic, since the threshold is chosen on the evaluated pairs.
    """
    return BestThreshold(scores, same)()
