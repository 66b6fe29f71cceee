"""Exact counts of accepted pairs, and the metrics that follow from them.

Counts are integers and rates exact rationals, rounded to float64 once. A pair is
accepted if its score reaches the threshold, so pairs of equal scores are accepted
together. Pairs may have integer weights: a weight of n counts as n copies of the pair,
which is what a bootstrap needs.
"""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from fr_jax.metrics import Undefined

Array = np.ndarray
_SAFE = 2**62  # products below it fit int64


class AtFar(NamedTuple):
    """Accepted pairs at the lowest threshold that keeps a FAR."""

    tar: float  # genuine_accepted / genuine pairs
    far: float  # impostors_accepted / impostor pairs, at most the FAR asked for
    threshold: float  # pairs with score >= threshold are accepted; -inf for all
    genuine_accepted: int
    impostors_accepted: int


class SortedPairs:
    """Pairs in the order of their scores, to be counted under any weights.

    Args:
      scores: float [P], similarities.
      same: bool [P], True for genuine pairs.

    Raises:
      ValueError: for scores that are not finite, and for other shapes.
    """

    def __init__(self, scores: Array, same: Array):
        scores, same = checked(scores, same)
        self._genuine = _descending(scores, np.flatnonzero(same))
        self._impostors = _descending(scores, np.flatnonzero(~same))
        genuine = scores[self._genuine]
        last = np.append(np.diff(genuine) != 0, True)[: len(genuine)]
        self.ends = np.flatnonzero(last) + 1  # after the last pair of each score
        # Negated, so that they ascend.
        self.levels = -genuine[self.ends - 1]  # distinct genuine scores, [K]
        self.negated = -scores[self._impostors]
        self.above = np.searchsorted(self.negated, self.levels, side="left")
        self.reached = np.searchsorted(self.negated, self.levels, side="right")

    def count(self, weights: Array | None = None) -> "Counts":
        """Returns the counts of the pairs, repeated by weights int [P] if any.

        Raises:
          Undefined: without genuine or without impostor pairs.
        """
        genuine, impostors = (
            np.arange(len(rows) + 1) if weights is None else cumulative(weights[rows])
            for rows in (self._genuine, self._impostors)
        )
        return Counts(self, genuine, impostors)


class Counts:
    """Accepted pairs by threshold, and what follows from them.

    Every optimum of the ROC is at a genuine score or rejects all pairs: between two
    genuine scores a lower threshold accepts impostor pairs only. So K distinct genuine
    scores and the rejection of all are K + 1 points.
    """

    def __init__(self, pairs: SortedPairs, genuine: Array, impostors: Array):
        self._pairs = pairs
        # Weights of the first n pairs in descending order.
        self._first_genuine, self._first_impostors = genuine, impostors
        self.num_genuine, self.num_impostors = int(genuine[-1]), int(impostors[-1])
        for kind, total in (
            ("genuine", self.num_genuine),
            ("impostor", self.num_impostors),
        ):
            if total == 0:
                raise Undefined(f"no {kind} pairs")
        self._accepted = np.append(0, genuine[pairs.ends])  # [K + 1]
        self._false = np.append(0, impostors[pairs.reached])  # [K + 1]

    def at_far(self, far: Any) -> AtFar:
        """Returns the accepted pairs at a FAR, see `verification.counts_at_far`."""
        pairs, impostors = self._pairs, self._first_impostors
        first = first_rejected(impostors, far)
        if first == len(pairs.negated):
            return AtFar(1.0, 1.0, -math.inf, self.num_genuine, self.num_impostors)
        rejected = pairs.negated[first]
        accepted = int(impostors[np.searchsorted(pairs.negated, rejected)])
        level = int(np.searchsorted(pairs.levels, rejected))
        hits = int(self._accepted[level])
        threshold = float(np.nextafter(-rejected, np.inf))
        rates = hits / self.num_genuine, accepted / self.num_impostors
        return AtFar(*rates, threshold, hits, accepted)

    def area_under_roc(self) -> float:
        """Returns P(genuine score > impostor score) + P(equal scores) / 2."""
        doubled_pairs = 2 * self.num_genuine * self.num_impostors
        above = self._first_impostors[self._pairs.above]
        wins = 2 * self.num_impostors - self._false[1:] - above
        wins = _wide(np.diff(self._accepted), doubled_pairs) * wins
        return int(wins.sum()) / doubled_pairs

    def equal_error_rate(self) -> float:
        """Returns the EER of the hull, see `verification.equal_error_rate`."""
        num_genuine, num_impostors = self.num_genuine, self.num_impostors
        bound = 4 * num_genuine * num_impostors
        false = _wide(self._false, bound)
        missed = _wide(num_genuine - self._accepted, bound)
        # The edge of the hull that crosses the diagonal, by descent to lower vertices.
        left, right = 0, len(false) - 1
        while True:
            run, fall = false[right] - false[left], missed[right] - missed[left]
            below = run * (missed[left : right + 1] - missed[left])
            below -= fall * (false[left : right + 1] - false[left])
            lowest = int(np.argmin(below))
            if below[lowest] >= 0:
                break
            lowest += left
            if missed[lowest] * num_impostors > false[lowest] * num_genuine:
                left = lowest
            else:
                right = lowest
        # Distances from the diagonal, in units of 1 / (genuine * impostors).
        before, after = (
            abs(int(missed[n]) * num_impostors - int(false[n]) * num_genuine)
            for n in (left, right)
        )
        crossing = int(false[left]) * after + int(false[right]) * before
        return crossing / ((before + after) * num_impostors)

    def min_dcf(self, p_target: Any, normalised: bool = False) -> float:
        """Returns the minimum detection cost, see `verification.min_dcf`."""
        target = exact(p_target)
        of_genuine = target.numerator * self.num_impostors
        of_impostor = (target.denominator - target.numerator) * self.num_genuine
        whole = target.denominator * self.num_genuine * self.num_impostors
        costs = _wide(self.num_genuine - self._accepted, whole) * of_genuine
        costs += _wide(self._false, whole) * of_impostor
        lowest = Fraction(int(costs.min()), whole)
        if normalised and 0 < target < 1:
            lowest /= min(target, 1 - target)
        return float(lowest)


class BestThreshold:
    """The best threshold on the evaluated pairs, see `verification.best_accuracy`."""

    def __init__(self, scores: Array, same: Array):
        self._scores, self._same = checked(scores, same)
        self._order = np.argsort(-self._scores, kind="stable")
        # The last pair of each score in that order: ties are accepted together.
        ascending = -self._scores[self._order]
        self._last = np.searchsorted(ascending, -self._scores, side="right") - 1

    def __call__(self, weights: Array | None = None) -> tuple[float, float]:
        """Returns accuracy and threshold of the pairs, repeated by weights if any."""
        weights = np.ones(len(self._same), np.int64) if weights is None else weights
        # Accepting a pair gains a genuine one and loses an impostor one.
        gains = np.cumsum(np.where(self._same, weights, -weights)[self._order])
        correct = int(weights[~self._same].sum()) + gains[self._last]
        best = int(np.argmax(np.where(weights > 0, correct, -1)))
        return float(correct[best] / weights.sum()), float(self._scores[best])


def checked(scores: Array, same: Array) -> tuple[Array, Array]:
    """Returns float64 scores and bool labels [P].

    Raises:
      ValueError: for scores that are not finite numbers, other shapes and no pairs.
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"{scores.shape} scores for {same.shape} labels")
    if not np.isfinite(scores).all():
        count = np.sum(~np.isfinite(scores))
        raise ValueError(f"{count} scores are not finite numbers")
    return scores, same


def exact(rate: Any) -> Fraction:
    """Returns a rate in [0, 1] as the rational that is written: 0.001 is 1/1000.

    Args:
      rate: number or text ('1e-3').

    Raises:
      ValueError: for other values.
    """
    try:
        fraction = Fraction(rate if isinstance(rate, Fraction) else str(rate))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{rate!r} is no rate; such as 1e-3 is needed") from None
    if not 0 <= fraction <= 1:
        raise ValueError(f"a rate of {rate} is not in [0, 1]")
    return fraction


def lowest_threshold(scores: Array, rate: Any) -> float:
    """Returns the lowest threshold that at most rate * N of scores [N] reach.

    It is just above the highest score that must stay below it; -inf if all may reach
    it.

    Raises:
      Undefined: without scores.
    """
    if not len(scores):
        raise Undefined("no scores to set a threshold by")
    allowed = math.floor(exact(rate) * len(scores))
    if allowed >= len(scores):
        return -math.inf
    place = len(scores) - 1 - allowed
    return float(np.nextafter(np.partition(scores, place)[place], np.inf))


def first_rejected(first: Array, rate: Any) -> int:
    """Returns the first of pairs in descending order that a rate does not allow.

    Args:
      first: sums of the weights of the first n pairs, int [N + 1], see `cumulative`.
      rate: share of all of them that may be accepted; N if all may be.
    """
    allowed = math.floor(exact(rate) * int(first[-1]))
    return int(np.searchsorted(first, allowed, side="right")) - 1


def _descending(scores: Array, rows: Array) -> Array:
    return rows[np.argsort(-scores[rows])]


def cumulative(weights: Array) -> Array:
    """Returns the sums of the first n weights [N], int64 [N + 1]."""
    sums = np.zeros(len(weights) + 1, np.int64)
    np.cumsum(weights, out=sums[1:])
    return sums


def _wide(counts: Array, bound: int) -> Array:
    """Returns integers whose products may reach `bound`: int64, else Python's."""
    return counts.astype(np.int64 if bound < _SAFE else object)
