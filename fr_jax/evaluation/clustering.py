"""An evaluator of clustering: faces are clustered, clusters compared with identities.

Clusters come from embeddings, by average or single linkage of cosines, or from a table
of any other program. If no threshold is given, the results are those at the threshold
with the highest BCubed F on the evaluated faces themselves, and their keys end with
`:best`: they are optimistic.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.cluster import hierarchy

from fr_jax.errors import UserError
from fr_jax.evaluation import search
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.identification import Faces
from fr_jax.evaluation.templates import marks
from fr_jax.metrics import clustering, intervals
from fr_jax.metrics.cluster_statistics import METRICS, RESAMPLED, ClusterStatistics

METHODS = ("average", "single")
THRESHOLDS = np.linspace(0, 1, 101)  # that are tried for the best one
_TREE = 12_000  # faces whose pairs of distances fit into memory
_MANY = 100_000  # faces, above which there are fewer resamples
_COUNTS = ("clusters", "identities", "images")


@dataclasses.dataclass
class Clustering:
    """Evaluates clusters of faces against their identities.

    Attributes:
      faces: the faces [N].
      identity: int [N].
      method: 'average' or 'single' linkage.
      threshold: lowest cosine at which two clusters are joined; None for the best one.
      clusters: int [N], clusters of another program, or None.
      source: its name, for `switches`.
      resamples: of the bootstrap over identities; 0: no intervals.
      names: the identity of each image, or None.
      data_sets, digests, seen, unknown: as in `TemplateVerification`.
      assigned: int [N], the clusters of the last evaluation.
      notes: reasons for metrics that the last evaluation could not define.

    Raises:
      UserError: for more faces than average linkage, or a best threshold, allows.
    """

    faces: Faces
    identity: np.ndarray
    method: str = "average"
    threshold: float | None = None
    clusters: np.ndarray | None = None
    source: str = ""
    resamples: int = intervals.RESAMPLES
    names: Sequence[str] | None = None
    data_sets: tuple[str, ...] = ()
    digests: Callable[[], np.ndarray] | None = None
    seen: bool = False
    unknown: bool = False
    assigned: np.ndarray | None = dataclasses.field(
        default=None, init=False, compare=False
    )
    notes: dict[str, str] = dataclasses.field(
        default_factory=dict, init=False, compare=False
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
    def name(self) -> str:
        return self.faces.name

    @property
    def key(self) -> str:
        """The first part of result keys, with '_seen' if the set was trained on."""
        return f"{self.name}_seen" if self.seen else self.name

    @property
    def summary(self) -> str:
        count = len(set(self.identity.tolist()))
        return f"{len(self.identity):,} images of {count:,} identities"

    @property
    def switches(self) -> dict[str, Any]:
        """Every choice that the results depend on."""
        switches: dict[str, Any] = {"protocol": "clustering"}
        if self.clusters is not None:
            switches["clusters"] = self.source
        else:
            chosen = "best BCubed F on this set"
            switches["method"] = f"{self.method} linkage of cosines"
            switches["threshold"] = chosen if self.threshold is None else self.threshold
            switches["flip"] = self.faces.flip
        resampled = {"resamples": self._resamples(), "resampled": "identities"}
        return switches | resampled

    @property
    def _suffix(self) -> str:
        best = self.clusters is None and self.threshold is None
        return ":best" if best else ""

    @property
    def metric_names(self) -> list[str]:
        names = [*METRICS]
        if self._resamples():
            names += [f"{n}{end}" for n in RESAMPLED for end in ("_low", "_high")]
        names += ["cosine_threshold"] if self.clusters is None else []
        names = [f"{name}{self._suffix}" for name in (*names, "clusters")]
        return [f"{self.key}/{name}" for name in (*names, *_COUNTS[1:])]

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
        values |= statistics()
        if resamples := self._resamples():
            draws = intervals.identity_draws(self.identity, resamples)
            bounds = intervals.bootstrap(statistics, draws)
            for name in RESAMPLED:
                if name in bounds:
                    low, high = bounds[name]
                    values |= {f"{name}_low": low, f"{name}_high": high}
        values["clusters"] = float(len(np.unique(self.assigned)))
        values = {f"{name}{self._suffix}": value for name, value in values.items()}
        values["identities"] = float(len(np.unique(self.identity)))
        values["images"] = float(len(self.identity))
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
            key=lambda one: clustering.bcubed(self.identity, cut(tree, one)).f,
        )
        return cut(tree, best), float(best)

    def mark_seen(
        self,
        trained: Mapping[str, Collection[str]],
        digests: np.ndarray | None = None,
    ) -> "Clustering":
        """Returns the set, marked as seen if it has training identities."""
        names = None if self.names is None else list(self.names)
        seen, unknown = marks(self, self.faces.images, trained, digests, names)
        return dataclasses.replace(self, seen=seen, unknown=unknown)

    def _resamples(self) -> int:
        few = len(self.identity) > _MANY
        return min(self.resamples, 200) if few else self.resamples


def linkage(rows: np.ndarray, method: str) -> np.ndarray:
    """Returns the tree of agglomerative clustering by cosine distances, scipy's form.

    Args:
      rows: [N, D], of unit length, two or more.
      method: 'average' or 'single'.
    """
    rows = np.asarray(rows, np.float64)
    upper = np.triu_indices(len(rows), 1)
    distances = np.clip(1 - (rows @ rows.T)[upper], 0, 2)
    return hierarchy.linkage(distances, method)


def cut(tree: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the cluster of each row: joined at cosines of at least `threshold`."""
    # Rounding must not separate what is joined at the threshold itself.
    distance = 1 - threshold + 1e-12
    return hierarchy.fcluster(tree, distance, criterion="distance") - 1
