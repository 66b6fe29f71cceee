"""Metrics of a clustering under resampled identities.

As in verification, an identity that is drawn n times has its pairs n times, and a pair
of images of identities drawn n and m times counts n * m times: copies of an identity
are not compared with each other.
"""

import numpy as np

from fr_jax.metrics import Undefined, clustering

Array = np.ndarray

# With an interval; the others are too slow to be computed a thousand times.
RESAMPLED = (
    *("bcubed_precision", "bcubed_recall", "bcubed_f"),
    *("pairwise_precision", "pairwise_recall", "pairwise_f"),
    *("wcp", "nmi", "ari"),
)
METRICS = (*RESAMPLED, "ami", "hungarian_accuracy")


class ClusterStatistics:
    """Every metric of a clustering, under any numbers of draws of the identities.

    Args:
      labels: identity of each image, int [N], from 0 on.
      clusters: int [N].

    Attributes:
      notes: reasons for metrics that are undefined.
    """

    def __init__(self, labels: Array, clusters: Array):
        labels, clusters = np.asarray(labels), np.asarray(clusters)
        self._labels, self._clusters = labels, clusters
        identities = int(labels.max()) + 1
        numbers = np.unique(clusters, return_inverse=True)[1]
        cells, counts = np.unique(numbers * identities + labels, return_counts=True)
        self._cluster, self._identity = np.divmod(cells, identities)
        self._count = counts.astype(np.int64)
        self._num_clusters = int(numbers.max()) + 1
        self._sizes = np.bincount(labels, minlength=identities)
        self.notes: dict[str, str] = {}
        self._values = self._exact()

    def __call__(self, draws: Array | None = None) -> dict[str, float]:
        """Returns the metrics that are defined, by name.

        Args:
          draws: how often each identity was drawn, int [identities]; None: once, where
            the metrics are those of `clustering`. Resamples have those of `RESAMPLED`.
        """
        return dict(self._values) if draws is None else self._weighted(draws)

    def _weighted(self, draws: Array) -> dict[str, float]:
        draws = np.asarray(draws, np.int64)
        count, times = self._count, draws[self._identity]
        sizes, of_cell = self._sizes, self._sizes[self._identity]
        cells = times * count
        clusters = self._sums(cells)  # images by cluster
        total = int(cells.sum())
        values: dict[str, float] = {}
        if not total:
            return values
        joined = int((times * count * (count - 1) // 2).sum())
        genuine = int((draws * sizes * (sizes - 1) // 2).sum())
        drawn = draws * sizes
        impostor = (total**2 - int((drawn**2).sum())) // 2
        wrong = (int((clusters**2).sum()) - int((cells**2).sum())) // 2
        if joined + wrong and genuine:
            values |= _rates("pairwise", joined / (joined + wrong), joined / genuine)
        # Of an image: itself and others of its identity, among all of its cluster.
        others = clusters[self._cluster] - cells
        precision = float((cells * (count / (count + others))).sum()) / total
        recall = float((cells * (count / of_cell)).sum()) / total
        values |= _rates("bcubed", precision, recall)
        largest = np.zeros(self._num_clusters, np.int64)
        np.maximum.at(largest, self._cluster, cells)
        values["wcp"] = int(largest.sum()) / total
        values["nmi"] = self._nmi(cells, clusters, drawn, total)
        missed, apart = genuine - joined, impostor - wrong
        chance = (joined + missed) * (missed + apart) + (joined + wrong) * (
            wrong + apart
        )
        if chance:
            values["ari"] = 2 * (joined * apart - missed * wrong) / chance
        return values

    def _nmi(self, cells: Array, clusters: Array, drawn: Array, total: int) -> float:
        """Returns mutual information over the mean of both entropies."""
        cells = cells / total
        by_cluster, by_identity = clusters / total, drawn / total
        kept = cells > 0
        expected = by_cluster[self._cluster] * by_identity[self._identity]
        mutual = np.sum(cells[kept] * np.log(cells[kept] / expected[kept]))
        entropies = [
            -np.sum(shares[shares > 0] * np.log(shares[shares > 0]))
            for shares in (by_cluster, by_identity)
        ]
        mean = sum(entropies) / 2
        return float(mutual / mean) if mean > 0 else 1.0

    def _sums(self, cells: Array) -> Array:
        """Returns the sums of the cells of each cluster, int64, exactly."""
        sums = np.zeros(self._num_clusters, np.int64)
        np.add.at(sums, self._cluster, cells)
        return sums


def _rates(name: str, precision: float, recall: float) -> dict[str, float]:
    both = precision + recall
    f = 2 * precision * recall / both if both else 0.0
    return {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f": f}
