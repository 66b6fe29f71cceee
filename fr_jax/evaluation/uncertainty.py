"""Bootstrap intervals of the results of a verification set."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fr_jax.evaluation.resampled import percentiles
from fr_jax.evaluation.verification import Verification
from fr_jax.metrics import intervals


class Resampling(NamedTuple):
    """What a bootstrap draws.

    Attributes:
      codes: a number for the identity of each image, int [N]; None: pairs are drawn.
      units: number of identities or pairs that are drawn each time.
      reason: why not identities, as a phrase; ''.
    """

    codes: np.ndarray | None
    units: int
    reason: str = ""

    @property
    def unit(self) -> str:
        """'identities' or 'pairs'."""
        return "pairs" if self.codes is None else "identities"


class Intervals(NamedTuple):
    """Bounds of results, by result key, and notes on undefined ones."""

    values: dict[str, float]
    notes: dict[str, str]


def resampling(one: Verification) -> Resampling:
    """Returns identities as the unit where a set names them, else pairs.

    Identities that contradict labels are no identities, such as one folder of all
    images.
    """
    count = len(one.same)
    if one.identities is None:
        return Resampling(None, count, "the set does not name identities")
    codes = np.unique(np.asarray(one.identities, str), return_inverse=True)[1]
    of_pairs = codes[one.pairs]
    wrong = int(np.sum((of_pairs[:, 0] == of_pairs[:, 1]) != one.same))
    if wrong:
        reason = f"names of identities contradict the labels of {wrong:,} pairs"
        return Resampling(None, count, reason)
    return Resampling(codes, len(np.unique(of_pairs)))


def weights(
    one: Verification, drawn: Resampling, resamples: int, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yields weights int [P] of resampled identities or pairs."""
    if drawn.codes is None:
        return intervals.pair_weights(len(one.same), resamples, seed)
    first, second = drawn.codes[one.pairs].T
    number = int(drawn.codes.max()) + 1
    return intervals.identity_weights(first, second, number, resamples, seed)


def of_results(
    one: Verification, resamples: int | None = None, *, progress: str = ""
) -> Intervals:
    """Returns 95 % percentile intervals of the last evaluation's metrics of pairs.

    Keys are those of the results with _low and _high. Thresholds of folds are chosen
    again in each resample. `resamples` and `resampled_identities` or `resampled_pairs`
    say how they were found.

    Args:
      resamples: default: see `intervals.number_of_resamples`; 0: no intervals.
      progress: label of a progress bar; '': none.

    Raises:
      ValueError: before an evaluation.
    """
    if one.measured is None:
        raise ValueError(f"{one.name} was not evaluated yet")
    if resamples is None:
        resamples = intervals.number_of_resamples(len(one.same))
    parts: list[tuple[str, Callable]] = [(one.key, one.measured.whole)]
    if one.measured.breakdown:
        parts.append((one.key, one.measured.breakdown))
    if one.measured.held_out:
        parts.append((f"{one.name}_heldout", one.measured.held_out))
    # Bounds of each metric of each part, by the key of the metric.
    keys = {
        f"{key}/{name}": (
            f"{key}/{one.result_name(name, '_low')}",
            f"{key}/{one.result_name(name, '_high')}",
        )
        for key, part in parts
        for name in part()
    }
    if not resamples or not (keys or one.measured.norms is not None):
        return Intervals({}, {})

    def measured(weights: np.ndarray | None) -> dict[str, float]:
        return {
            f"{key}/{name}": value
            for key, part in parts
            for name, value in part(weights).items()
        }

    unit = resampling(one)
    drawn = weights(one, unit, resamples)
    found, notes = percentiles(measured, drawn, resamples, keys, progress=progress)
    values = {
        f"{one.key}/resamples": float(resamples),
        f"{one.key}/resampled_{unit.unit}": float(unit.units),
    }
    if one.measured.norms is not None:
        found |= _of_norms(one, one.measured.norms, unit, resamples)
    return Intervals(values | found, notes)


def _of_norms(
    one: Verification, norms: np.ndarray, unit: Resampling, resamples: int
) -> dict[str, float]:
    """Returns bounds of the mean length of embeddings.

    Its units are identities, which are drawn with all their images, else images.
    """
    codes = np.arange(len(norms)) if unit.codes is None else unit.codes
    sums, counts = np.bincount(codes, norms), np.bincount(codes)
    samples = np.array(
        [
            sums @ times / (counts @ times)
            for times in intervals.identity_draws(codes, resamples)
        ]
    )
    bounds = intervals.percentile(samples)
    names = (one.result_name("xnorm", end) for end in ("_low", "_high"))
    return {f"{one.key}/{name}": x for name, x in zip(names, bounds)}
