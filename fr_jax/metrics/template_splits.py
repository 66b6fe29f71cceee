"""Metrics of templates over splits, as in IJB-A, under resampled identities.

In each split every probe template is compared with every gallery template. An identity
that is drawn n times has its genuine pairs and its searches n times, and impostor pairs
of identities drawn n and m times count n * m times, in all splits alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fr_jax.metrics import identification
from fr_jax.metrics.intervals import PairStatistics
from fr_jax.metrics.search_statistics import Searches, SearchStatistics
from fr_jax.metrics.templates import over_splits

Array = np.ndarray


class Split(NamedTuple):
    """Scores [P, G] of templates, and identities of probes [P] and gallery [G], int."""

    scores: Array
    probes: Array
    gallery: Array


class SplitStatistics:
    """Means and deviations over splits, under any numbers of draws of the identities.

    TAR at FAR, AUC, EER and minDCF of all pairs of a probe and a gallery template; rank
    and TPIR at FPIR of the probes.

    Attributes:
      notes: reasons for metrics that a split does not define.
    """

    def __init__(self, splits: Sequence[Split]):
        self._parts = [_Part(split) for split in splits]
        self.notes = {k: why for part in self._parts for k, why in part.notes.items()}

    def __call__(self, draws: Array | None = None) -> dict[str, float]:
        """Returns NAME and NAME_std of the metrics that all splits define.

        Args:
          draws: how often each identity was drawn, int [identities]; None: once.
        """
        return over_splits([part(draws) for part in self._parts])


class _Part:
    def __init__(self, split: Split):
        same = split.probes[:, None] == split.gallery[None]
        self._same = same.ravel()
        self._first, self._second = split.probes, split.gallery
        self._pairs = PairStatistics(
            split.scores.ravel(), self._same, protocol="pooled"
        )
        found = identification.searches(split.scores, split.probes, split.gallery)
        rank = np.zeros(len(split.probes), np.int64)
        score = np.full(len(rank), -np.inf)
        best = np.max(split.scores, axis=1)
        rank[found.mated], score[found.mated] = found.ranks, found.scores
        self._searches = SearchStatistics(
            {"": Searches(split.probes, rank, score, best)}
        )
        self.notes = self._pairs.notes | self._searches.notes

    def __call__(self, draws: Array | None) -> dict[str, float]:
        if draws is None:
            return self._pairs() | self._searches()
        first, second = draws[self._first], draws[self._second]
        both = (first[:, None] * second[None]).ravel()
        weights = np.where(self._same, np.repeat(first, len(second)), both)
        return self._pairs(weights) | self._searches(draws)
