"""An evaluator of clustering: faces are clustered, clusters compared with identities.

Clusters come from embeddings, by average or single linkage of cosines, or from a table
of any other program. If no threshold is given, the results are those at the threshold
with the highest BCubed F on the evaluated faces themselves, and their keys end with
`:best`: they are optimistic.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy.cluster import hierarchy

from fr_jax.errors import UserError
from fr_jax.evaluation import embedded, search
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.identification import Faces
from fr_jax.evaluation.marked import Marked
from fr_jax.evaluation.resampled import bounds
from fr_jax.evaluation.stored import set_digest
from fr_jax.metrics import clustering, intervals
from fr_jax.metrics.cluster_statistics import METRICS, ClusterStatistics
from fr_jax.report.runs import EvaluatedSet

METHODS = ("average", "single")
THRESHOLDS = np.linspace(0, 1, 101)  # that are tried for the best one
_TREE = 12_000  # faces whose pairs of distances fit into memory: 0.6 GB, and a copy
_BLOCK = 256  # faces whose distances are computed at once
_MANY = 100_000  # faces, above which there are fewer resamples
_COUNTS = ("num_identities", "images")


@dataclasses.dataclass
class Clustering(Marked):
    """Evaluates clusters of faces against their identities.

    Attributes:
      faces: the faces [N].
      identity: int [N].
      method: 'average' or 'single' linkage.
      threshold: lowest cosine at which two clusters are joined; None for the best one.
      clusters: int [N], clusters of another program, or None.
      source: its name, for `switches`.
      assigned: int [N], the clusters of the last evaluation.

    Raises:
      UserError: for more faces than average linkage, or a best threshold, allows.
    """

    faces: Faces
    identity: np.ndarray
    method: str = "average"
    threshold: float | None = None
    clusters: np.ndarray | None = None
    source: str = ""
    assigned: np.ndarray | None = dataclasses.field(
        default=None, init=False, compare=False
    )
    _statistics: ClusterStatistics | None = dataclasses.field(
        default=None, init=False, compare=False
    )

    def __post_init__(self):
        count = len(self.identity)
        tree = self.method == "average" or self.threshold is None
        if self.clusters is None and tree and count > _TREE:
            needs = "method=average" if self.method == "average" else "no threshold="
            raise UserError(
                f"{self.name}: {count:,} faces; {needs} takes at most {_TREE:,}; use "
                "method=single,threshold=T, or clusters=FILE"
            )

    @property
    def summary(self) -> str:
        count = len(set(self.identity.tolist()))
        return f"{len(self.identity):,} images of {count:,} identities"

    def protocol_switches(self) -> dict[str, Any]:
        """Returns every choice of the evaluation, JSON values by name."""
        switches: dict[str, Any] = {
            "protocol": "clustering",
            "resampled": "identities",
            **{f"dropped_{name}": count for name, count in self.dropped.items()},
        }
        if self.clusters is not None:
            return switches | {"clusters": self.source}
        chosen = "best BCubed F on this set, of 0, 0.01, ... 1"
        return switches | {
            "method": f"{self.method} linkage of cosines",
            "threshold": chosen if self.threshold is None else self.threshold,
            "flip": self.faces.flip,
        }

    @property
    def _suffix(self) -> str:
        best = self.clusters is None and self.threshold is None
        return ":best" if best else ""

    @property
    def metric_names(self) -> list[str]:
        names = [
            *METRICS,
            *["cosine_threshold"] * (self.clusters is None),
            "num_clusters",
        ]
        names = [f"{name}{self._suffix}" for name in names]
        names += [*_COUNTS, *(f"dropped_{name}" for name in self.dropped)]
        return [f"{self.key}/{name}" for name in names]

    def __call__(self, trained: Trained, *, progress: str = "") -> dict[str, float]:
        """Returns BCubed, pairwise and other metrics of the clusters."""
        values: dict[str, float] = {}
        if self.clusters is not None:
            self.assigned = self.clusters
        else:
            rows = self.faces.embed(trained, progress)
            self.assigned, threshold = self._cluster(rows)
            values["cosine_threshold"] = threshold
        statistics = ClusterStatistics(self.identity, self.assigned)
        self._statistics = statistics
        values |= statistics()
        identities = values.pop("num_identities")
        values = {f"{name}{self._suffix}": value for name, value in values.items()}
        values["num_identities"] = identities
        values["images"] = float(len(self.identity))
        values |= {f"dropped_{name}": float(n) for name, n in self.dropped.items()}
        self.notes = {
            f"{self.key}/{name}{self._suffix}": why
            for name, why in statistics.notes.items()
        }
        return {f"{self.key}/{name}": value for name, value in values.items()}

    def _cluster(self, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns the clusters int [N] of unit rows, and their threshold."""
        if len(rows) == 1:
            return np.zeros(1, int), self.threshold or 0.0
        if self.method == "single" and self.threshold is not None:
            return search.components(rows, self.threshold), self.threshold
        tree = linkage(rows, self.method)
        if self.threshold is not None:
            return cut(tree, self.threshold), self.threshold
        best = max(
            THRESHOLDS,
            key=lambda one: (
                clustering.bcubed(
                    clustering.Contingency(self.identity, cut(tree, one))
                ).f
            ),
        )
        return cut(tree, best), float(best)

    def intervals(
        self, resamples: int | None = None, *, progress: str = ""
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Returns bounds of the last evaluation's metrics; see `bounds`.

        Identities are resampled, clusters stay as they are.

        Args:
          resamples: default: 1,000, or 200 for more than 100,000 faces.
          progress: label of a progress bar; '': none.
        """
        if resamples is None:
            resamples = intervals.number_of_resamples(len(self.identity), _MANY)
        if self._statistics is None:
            return {}, {}
        return bounds(
            self.key,
            self._statistics,
            intervals.identity_draws(self.identity, resamples),
            resamples,
            len(np.unique(self.identity)),
            ends=lambda name, end: f"{name}{end}{self._suffix}",
            names=METRICS,
            progress=progress,
        )

    def stored_set(self) -> EvaluatedSet:
        """Returns the last evaluation as reports show it."""
        return EvaluatedSet(
            self.name,
            set_digest(
                embedded.digests_of(self.faces.names), self.identity, np.zeros(0)
            ),
            self.protocol_switches(),
            seen=self.evidence,
            unknown=self.unknown,
            columns={}
            if self.assigned is None
            else {"identity": self.identity, "cluster": self.assigned},
        )


def linkage(rows: np.ndarray, method: str) -> np.ndarray:
    """Returns the tree of agglomerative clustering by cosine distances, scipy's form.

    Args:
      rows: [N, D], of unit length, two or more.
      method: 'average' or 'single'.
    """
    rows = np.asarray(rows, np.float64)
    count, end = len(rows), 0
    # The form of scipy's pdist, without the square matrix.
    distances = np.empty(count * (count - 1) // 2)
    for start in range(0, count - 1, _BLOCK):
        block = rows[start : start + _BLOCK] @ rows[start:].T
        for number, cosines in enumerate(block, 1):
            begin, end = end, end + len(cosines) - number
            distances[begin:end] = cosines[number:]
    np.clip(np.subtract(1, distances, out=distances), 0, 2, out=distances)
    return hierarchy.linkage(distances, method)


def cut(tree: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the cluster of each row: joined at cosines of at least `threshold`."""
    distance = 1 - threshold + search.TOLERANCE
    return hierarchy.fcluster(tree, distance, criterion="distance") - 1
