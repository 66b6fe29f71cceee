"""Quality of images: rank correlation, and error rates without the worst images."""

from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from fr_jax.metrics import Undefined
from fr_jax.metrics.counts import checked, exact, lowest_threshold

Array = np.ndarray


def rank_correlation(confidence: Array, quality: Array) -> float:
    """Returns Spearman's rho of confidence and quality [N]; 0 if one is constant."""
    if np.ptp(confidence) == 0 or np.ptp(quality) == 0:
        return 0.0
    result: Any = stats.spearmanr(confidence, quality)
    return float(result.statistic)


class Discard(NamedTuple):
    """An error-versus-discard characteristic, a step function of the share discarded.

    `rates[k]` is the error rate from `fractions[k]` up to the next fraction.
    """

    fractions: Array  # [K] ascending from 0, shares of the pairs that are discarded
    rates: Array  # [K], error rate of the pairs that are kept
    threshold: float  # of the scores, the same at every fraction

    def rate_at(self, fraction: float) -> float:
        """Returns the error rate when at most this share is discarded."""
        last = np.searchsorted(self.fractions, fraction, side="right") - 1
        return float(self.rates[last])

    def partial_area(self, limit: float = 0.2) -> float:
        """Returns the mean error rate for shares from 0 to `limit`, exactly.

        The area under the step function over `limit`, in [0, 1]; lower is better.
        """
        if not 0 < limit <= 1:
            raise ValueError(f"a limit of {limit} is not in (0, 1]")
        steps = np.clip(np.append(self.fractions, 1.0), 0, limit)
        return float(np.sum(np.diff(steps) * self.rates) / limit)


def error_versus_discard(
    scores: Array,
    same: Array,
    quality_first: Array,
    quality_second: Array,
    *,
    error: str = "frr",
    far: Any = None,
    frr: Any = None,
    threshold: float | None = None,
) -> Discard:
    """Returns the FRR or FAR of the pairs that remain as the worst are discarded.

    Grother and Tabassi, Performance of Biometric Quality Measures (PAMI 2007); ISO/IEC
    29794-1. The quality of a pair is the lower one of its images. Pairs of equal
    quality are discarded together. The threshold is set once, by exactly one of `far`,
    `frr` and `threshold`, and does not follow the pairs that remain. The pairs that
    count are the genuine ones for the FRR, the impostor ones for the FAR.

    Args:
      scores, same: [P], similarities and labels.
      quality_first, quality_second: [P], higher is better, of both images.
      error: 'frr' or 'far'.
      far: sets the lowest threshold that keeps this FAR (`verification.counts_at_far`).
      frr: sets the highest threshold that keeps this FRR.

    Raises:
      ValueError: for other shapes, qualities that are not finite, and several
        thresholds.
      Undefined: without the pairs that count or set the threshold.
    """
    scores, same = checked(scores, same)
    quality = np.minimum(quality_first, quality_second)
    if quality.shape != scores.shape:
        raise ValueError(f"{quality.shape} qualities for {scores.shape} scores")
    if count := int(np.sum(~np.isfinite(quality))):
        raise ValueError(f"the qualities of {count} pairs are not finite numbers")
    if sum(one is not None for one in (far, frr, threshold)) != 1:
        raise ValueError("give one of far, frr and threshold")
    if threshold is None:
        threshold = (
            highest_threshold(scores[same], frr)
            if far is None
            else lowest_threshold(scores[~same], far)
        )
    if error not in ("frr", "far"):
        raise ValueError(f"error {error!r} is neither 'frr' nor 'far'")
    rows = same if error == "frr" else ~same
    if not rows.any():
        raise Undefined(f"no {'genuine' if error == 'frr' else 'impostor'} pairs")
    wrong = (scores >= threshold)[rows] != (error == "frr")
    order = np.argsort(quality[rows])
    starts = np.append(True, np.diff(quality[rows][order]) != 0)
    discarded = np.flatnonzero(starts)  # before each group of equal quality
    left = np.append(0, np.cumsum(wrong[order]))
    total = len(order)
    rates = (left[-1] - left[discarded]) / (total - discarded)
    return Discard(discarded / total, rates, float(threshold))


def highest_threshold(scores: Array, rate: Any) -> float:
    """Returns the highest threshold that at most rate * N of scores [N] stay below.

    It is one of the scores; inf if all may stay below it.

    Raises:
      Undefined: without scores.
    """
    if not len(scores):
        raise Undefined("no scores to set a threshold by")
    allowed = int(exact(rate) * len(scores))
    if allowed >= len(scores):
        return float("inf")
    return float(np.partition(scores, allowed)[allowed])
