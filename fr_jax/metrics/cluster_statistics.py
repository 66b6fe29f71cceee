"""Metrics of a clustering under resampled identities.

As in verification, an identity that is drawn n times has its pairs n times, and a pair
of images of identities drawn n and m times counts n * m times: copies of an identity
are not compared with each other. `wcp`, `nmi`, `ami` and `hungarian_accuracy` are not
of pairs: an image of an identity that is drawn n times counts n times, and its copies
are of one identity.
"""

import numpy as np
from scipy import optimize

from fr_jax.metrics import clustering

Array = np.ndarray

METRICS = (
    *("bcubed_precision", "bcubed_recall", "bcubed_f"),
    *("pairwise_precision", "pairwise_recall", "pairwise_f"),
    *("wcp", "nmi", "ari", "ami", "hungarian_accuracy"),
)


class ClusterStatistics:
    """Every metric of a clustering, under any numbers of draws of the identities.

    Args:
      identities: of each image, int [N], 0 or more.
      clusters: int [N].

    Attributes:
      notes: reasons for metrics that are undefined.
    """

    def __init__(self, identities: Array, clusters: Array):
        self._table = table = clustering.Contingency(identities, clusters)
        self._present = np.unique(identities)  # the identity of each row
        self._values, self.notes = clustering.measure(identities, clusters)
        self._count = table.counts.astype(np.int64)

    def __call__(self, draws: Array | None = None) -> dict[str, float]:
        """Returns the metrics that are defined, by name.

        Args:
          draws: how often each identity was drawn, int [identities]; None: once, where
            the metrics are those of `clustering`.
        """
        return dict(self._values) if draws is None else self._weighted(draws)

    def _weighted(self, draws: Array) -> dict[str, float]:
        table, count = self._table, self._count
        draws = np.asarray(draws, np.int64)[self._present]  # [rows]
        times, sizes = draws[table.rows], table.identity_sizes
        cells = times * count
        clusters = self._by_cluster(cells)  # images
        total = int(cells.sum())
        values: dict[str, float] = {}
        if not total:
            return values
        joined = int((times * count * (count - 1) // 2).sum())
        genuine = int((draws * sizes * (sizes - 1) // 2).sum())
        drawn = draws * sizes
        impostor = (total**2 - int((drawn**2).sum())) // 2
        wrong = (int((clusters**2).sum()) - int((cells**2).sum())) // 2
        if joined + wrong:
            values["pairwise_precision"] = joined / (joined + wrong)
        if genuine:
            values["pairwise_recall"] = joined / genuine
        if joined + wrong + genuine:
            values["pairwise_f"] = 2 * joined / (joined + wrong + genuine)
        # Of an image: itself and others of its identity, among all of its cluster.
        others = clusters[table.columns] - cells
        precision = float((cells * (count / (count + others))).sum()) / total
        recall = float((cells * (count / sizes[table.rows])).sum()) / total
        values["bcubed_precision"], values["bcubed_recall"] = precision, recall
        values["bcubed_f"] = 2 * precision * recall / (precision + recall)
        largest = np.zeros(len(clusters), np.int64)
        np.maximum.at(largest, table.columns, cells)
        values["wcp"] = int(largest.sum()) / total
        values |= self._information(cells, clusters, drawn)
        if "hungarian_accuracy" in self._values:
            values["hungarian_accuracy"] = self._assigned(cells) / total
        missed, apart = genuine - joined, impostor - wrong
        chance = genuine * (missed + apart) + (joined + wrong) * (wrong + apart)
        values["ari"] = 1.0
        if chance:
            values["ari"] = 2 * (joined * apart - missed * wrong) / chance
        return values

    def _information(
        self, cells: Array, clusters: Array, drawn: Array
    ) -> dict[str, float]:
        """Returns NMI and AMI, from the images of each cell, cluster and identity."""
        kept, total = cells > 0, cells.sum()
        if np.sum(kept) == np.sum(clusters > 0) == np.sum(drawn > 0):
            return {"nmi": 1.0, "ami": 1.0}  # the same partition
        table = self._table
        expected = clusters[table.columns] / total * drawn[table.rows]
        cells, expected = cells[kept], expected[kept]
        mutual = float(np.sum(cells / total * np.log(cells / expected)))
        mean = (clustering.entropy(clusters) + clustering.entropy(drawn)) / 2
        chance = clustering.expected_information(drawn, clusters)
        return {"nmi": mutual / mean, "ami": (mutual - chance) / (mean - chance)}

    def _assigned(self, cells: Array) -> int:
        """Returns the images under the best one-to-one map of clusters."""
        kept = cells > 0
        rows, columns = self._table.rows[kept], self._table.columns[kept]
        present, rows = np.unique(rows, return_inverse=True)
        dense = np.zeros((len(present), len(self._table.cluster_sizes)), np.int64)
        dense[rows, columns] = cells[kept]
        return int(dense[optimize.linear_sum_assignment(dense, maximize=True)].sum())

    def _by_cluster(self, cells: Array) -> Array:
        """Returns the sums of the cells of each cluster, int64, exactly."""
        sums = np.zeros(len(self._table.cluster_sizes), np.int64)
        np.add.at(sums, self._table.columns, cells)
        return sums
