"""Metrics of searches in one or several galleries, under resampled identities.

An identity of probes that is drawn n times has its searches n times; galleries are not
resampled.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fr_jax.metrics import Undefined, identification
from fr_jax.metrics.templates import over_splits

Array = np.ndarray
RANKS = (1, 5, 10)
FPIRS = ("1e-1", "1e-2", "1e-3")
NAMES = (*(f"rank{k}" for k in RANKS), *(f"tpir@fpir={far}" for far in FPIRS))
RECALL = "recall@100"  # of the neighbours of an approximate search


class Searches(NamedTuple):
    """Results of the searches of P probes in a gallery, one for each probe.

    Attributes:
      identity: int, 0 or more, of the probe.
      rank: int, of its identity in the gallery from 1, 0 for a non-mated search.
      score: of its identity.
      best: highest score of any row.
      recall: share of its true neighbours in an approximate search, NaN where it was
        not measured; None for an exact one.
    """

    identity: Array
    rank: Array
    score: Array
    best: Array
    recall: Array | None = None


class SearchStatistics:
    """Every metric of the searches, under any numbers of draws of the identities.

    Args:
      galleries: searches by name of the gallery.

    Attributes:
      notes: reasons for metrics that are undefined.
    """

    def __init__(self, galleries: Mapping[str, Searches]):
        self._galleries = galleries
        self.notes: dict[str, str] = {}
        self._values = self._measure(None, self.notes)

    @property
    def identity(self) -> Array:
        """The identity of every search, int [searches]."""
        return np.concatenate([one.identity for one in self._galleries.values()])

    def __call__(self, draws: Array | None = None) -> dict[str, float]:
        """Returns the metrics that are defined, by name.

        Rank and TPIR, of several galleries means, with `_std` and `:NAME` of each; and
        of an approximate search the recall, of the worst gallery.

        Args:
          draws: how often each identity was drawn, int [identities]; None: once.
        """
        return dict(self._values) if draws is None else self._measure(draws, {})

    def _measure(self, draws: Array | None, notes: dict[str, str]) -> dict[str, float]:
        several = len(self._galleries) > 1
        by_gallery, recalls = {}, []
        for gallery, one in self._galleries.items():
            values, reasons = _of_one(one, draws)
            by_gallery[gallery] = values
            if (recall := _recall(one, draws)) is not None:
                recalls.append(recall)
            for name, why in reasons.items():
                notes[name] = f"{gallery}: {why}" if several else why
                notes |= {f"{name}:{gallery}": why} if several else {}
        means = over_splits(list(by_gallery.values()))
        if not several:
            means = next(iter(by_gallery.values()))
        else:
            for gallery, values in by_gallery.items():
                means |= {f"{name}:{gallery}": x for name, x in values.items()}
        return means | ({RECALL: min(recalls)} if recalls else {})


def _of_one(
    one: Searches, draws: Array | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the metrics of a gallery, and reasons for those that are undefined."""
    rank = one.rank
    mated, others = np.flatnonzero(rank > 0), np.flatnonzero(rank == 0)
    if draws is not None:
        times = draws[one.identity]
        mated = np.repeat(mated, times[mated])
        others = np.repeat(others, times[others])
    values: dict[str, float] = {}
    notes: dict[str, str] = {}
    for k in RANKS:
        try:
            values[f"rank{k}"] = identification.rank_k(rank[mated], k)
        except Undefined as error:
            notes[f"rank{k}"] = str(error)
    for far in FPIRS:
        try:
            values[f"tpir@fpir={far}"] = identification.tpir_at_fpir(
                rank[mated], one.score[mated], one.best[others], far
            ).tpir
        except Undefined as error:
            notes[f"tpir@fpir={far}"] = str(error)
    return values, notes


def _recall(one: Searches, draws: Array | None) -> float | None:
    """Returns the mean recall, None without any."""
    if one.recall is None:
        return None
    known = np.flatnonzero(~np.isnan(one.recall))
    times = np.ones(len(known)) if draws is None else draws[one.identity[known]]
    return float(one.recall[known] @ times / times.sum()) if times.any() else None
