"""Calibration of an embedder's threshold on the pairs of its user."""

import math

import numpy as np

from fr_jax.embedder.calibration import Calibration
from fr_jax.errors import UserError
from fr_jax.evaluation import uncertainty
from fr_jax.evaluation.protocols import PROTOCOLS
from fr_jax.evaluation.verification import Verification
from fr_jax.metrics import intervals
from fr_jax.metrics.counts import cumulative, exact, first_rejected

Array = np.ndarray


def calibrate(
    one: Verification, far: float, *, resamples: int | None = None
) -> Calibration:
    """Returns the threshold for a wanted FAR on evaluated pairs, with its interval.

    It is the lowest threshold that accepts at most the share `far` of the impostor
    pairs; its interval is a 95 % percentile interval over resampled identities where
    the set names them, else over pairs. Genuine pairs are not needed.

    Args:
      one: a set after its evaluation; its protocol says whether faces are embedded as
        the sum of image and mirror image.
      far: in (0, 1).
      resamples: default: 1,000, or 200 for more than a million pairs.

    Raises:
      UserError: for fewer than 1 / FAR impostor pairs, and another FAR.
      ValueError: before an evaluation.
    """
    impostors = check_impostors(one, far)
    if one.measured is None:
        raise ValueError(f"{one.name} was not evaluated yet")
    scores, same = one.measured.scores, one.same
    if resamples is None:
        resamples = intervals.number_of_resamples(len(same))
    search = _Search(scores, same, far)
    threshold = search(None)
    unit = uncertainty.resampling(one)
    samples = [search(n) for n in uncertainty.weights(one, unit, resamples)]
    bounds = intervals.percentile(np.array(samples))
    if math.isnan(bounds.low):
        raise UserError(f"{one.name}: no resample of {unit.unit} has impostor pairs")
    genuine = int(np.sum(same))
    return Calibration(
        threshold,
        *bounds,
        far=far,
        flip_sum=PROTOCOLS[one.protocol].flip,
        tar=float(np.mean(scores[same] >= threshold)) if genuine else None,
        impostors_accepted=int(np.sum(scores[~same] >= threshold)),
        impostor_pairs=impostors,
        genuine_pairs=genuine,
        resampled=unit.unit,
        pairs=one.name,
        seen=bool(one.seen),
    )


def check_impostors(one: Verification, far: float) -> int:
    """Returns the number of impostor pairs of a set, which needs no evaluation.

    Raises:
      UserError: for fewer than 1 / FAR, and a FAR outside (0, 1).
    """
    if not 0 < far < 1:
        raise UserError(f"a FAR of {far} is not between 0 and 1")
    impostors = int(np.sum(~one.same))
    if impostors * exact(far) < 1:
        needed = math.ceil(1 / exact(far))
        raise UserError(
            f"{one.name}: {impostors:,} impostor pairs; a FAR of {far:g} needs at "
            f"least {needed:,}, better {10 * needed:,}"
        )
    return impostors


class _Search:
    """The threshold of a FAR under any weights of the pairs; NaN without impostors."""

    def __init__(self, scores: Array, same: Array, far: float):
        rows = np.flatnonzero(~same)
        self._rows = rows[np.argsort(-scores[rows], kind="stable")]
        self._scores, self._far = scores[self._rows], exact(far)

    def __call__(self, weights: Array | None) -> float:
        rows = self._rows
        first = np.arange(len(rows) + 1)
        if weights is not None:
            first = cumulative(weights[rows])
        if not first[-1]:
            return float("nan")
        rejected = self._scores[first_rejected(first, self._far)]
        return float(np.nextafter(rejected, np.inf))
