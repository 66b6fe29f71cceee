"""Errors of pairs by the quality of their images, and by groups of identities.

Both are at one threshold, which is set on all pairs of the set and does not follow the
pairs of a group or those that are left after discarding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fr_jax.metrics import Undefined, fairness, quality
from fr_jax.metrics.counts import SortedPairs

Array = np.ndarray
LIMIT = 0.2  # share of pairs up to which the area of the curve is measured
_SPREAD = tuple(fairness.spread({}).notes)  # names of all measures


class Groups(NamedTuple):
    """Names of the groups, ascending, and the group of each image, int [N]."""

    names: tuple[str, ...]
    codes: Array

    @classmethod
    def of(cls, images: Sequence[str]) -> "Groups":
        """Returns the groups of images [N] by name."""
        names, codes = np.unique(np.asarray(images, str), return_inverse=True)
        return cls(tuple(names.tolist()), codes)


class Breakdown:
    """Error versus discard and rates of groups, under any weights of the pairs.

    Args:
      scores, same: [P], similarities and labels.
      far: of the threshold, as text.
      qualities: of both images of each pair, [P, 2], higher is better, or None.
      groups: of both images of each pair, int [P, 2], numbers in `names`, or None.
      names: of the groups.

    Attributes:
      discard: the curve of the FRR, or None.
      notes: reasons for undefined metrics.
    """

    def __init__(
        self,
        scores: Array,
        same: Array,
        far: str,
        qualities: Array | None = None,
        groups: Array | None = None,
        names: Sequence[str] = (),
    ):
        self._pairs, self._far = SortedPairs(scores, same), far
        self._scores, self._same = scores, same
        self._qualities, self._groups, self._names = qualities, groups, names
        self.discard: quality.Discard | None = None
        self.notes: dict[str, str] = {}
        self._values = self._measure(None)

    def __call__(self, weights: Array | None = None) -> dict[str, float]:
        """Returns the metrics that are defined, of `metric_names`.

        Args:
          weights: int [P], how often each pair is repeated; None: once.
        """
        return dict(self._values) if weights is None else self._measure(weights)

    def _measure(self, weights: Array | None) -> dict[str, float]:
        values: dict[str, float] = {}
        notes = self.notes if weights is None else {}
        every = metric_names(self._far, self._qualities is not None, self._names)
        try:
            threshold = self._pairs.count(weights).at_far(self._far).threshold
        except Undefined as error:
            notes |= dict.fromkeys(every, str(error))
            return values
        rows = np.arange(len(self._same))
        rows = rows if weights is None else np.repeat(rows, weights)
        scores, same = self._scores[rows], self._same[rows]
        if self._qualities is not None:
            both = self._qualities[rows].T
            curve = quality.error_versus_discard(
                scores, same, *both, threshold=threshold
            )
            if weights is None:
                self.discard = curve
            values[f"edc@far={self._far}"] = curve.partial_area(LIMIT)
        if self._groups is not None:
            first, second = self._groups[rows].T
            rates = fairness.group_rates(scores, same, first, second, threshold)
            within = fairness.within_groups(rates)
            values |= self._of_groups(within, notes)
        return values

    def _of_groups(self, within, notes: dict[str, str]) -> dict[str, float]:
        values: dict[str, float] = {}
        for number, name in enumerate(self._names):
            one = within.get(number, fairness.GroupRates(0, 0, 0, 0))
            for kind, pairs in (("frr", "genuine"), ("far", "impostor")):
                key, rate = _of_group(kind, self._far, name), getattr(one, kind)
                if rate is None:
                    notes[key] = f"no {pairs} pairs within the group"
                else:
                    values[key] = rate
        spread = fairness.spread(within)
        values |= {f"{name}@far={self._far}": x for name, x in spread.values.items()}
        notes |= {f"{name}@far={self._far}": why for name, why in spread.notes.items()}
        return values


def metric_names(far: str, has_quality: bool, groups: Sequence[str]) -> list[str]:
    """Returns the names of all metrics of a `Breakdown`, defined or not."""
    names = [f"edc@far={far}"] if has_quality else []
    for name in groups:
        names += [_of_group(kind, far, name) for kind in ("frr", "far")]
    return names + [f"{name}@far={far}" for name in _SPREAD if groups]


def pairs_of_groups(same: Array, groups: Array, names: Sequence[str]) -> dict[str, int]:
    """Returns the numbers of genuine and impostor pairs within each group.

    Args:
      groups: of both images of each pair, int [P, 2].
    """
    within = groups[:, 0] == groups[:, 1]
    counts = {}
    for kind, mask in (("genuine", same), ("impostor", ~same)):
        found = np.bincount(groups[within & mask, 0], minlength=len(names))
        counts |= {f"{kind}_pairs@group={n}": int(x) for n, x in zip(names, found)}
    return counts


def _of_group(kind: str, far: str, name: str) -> str:
    return f"{kind}@far={far}@group={name}"
