"""An evaluator of identification: closed set by rank, open set by TPIR at FPIR.

Every probe is searched in every gallery. A probe whose identity is in the gallery is a
mated search, another one a non-mated search. The score of an identity is that of its
best row in the gallery; other identities with an equal score count as higher. Of
several galleries, the results are means (`NAME/rank1`), deviations (`_std`) and those
of each (`NAME/rank1:G1`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fr_jax.errors import UserError
from fr_jax.evaluation import embedded, search
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.marked import Marked
from fr_jax.evaluation.resampled import bounds
from fr_jax.evaluation.stored import set_digest
from fr_jax.metrics import identification, intervals
from fr_jax.metrics.search_statistics import (
    FPIRS,
    NAMES,
    RECALL,
    Searches,
    SearchStatistics,
)
from fr_jax.report.measures import NONMATED, with_end
from fr_jax.report.runs import Curve, EvaluatedSet

SEARCHES = ("exact", "faiss")
_CURVE = 100  # ranks of the CMC
_LISTED = 100  # neighbours of an approximate search
_SAMPLE = 200  # probes on which its recall is measured
_COUNTS = ("mated_searches", NONMATED, "gallery_identities")


class Gallery(NamedTuple):
    """Rows of a gallery [G] and of its probes [P], among all rows of a set."""

    gallery: np.ndarray
    probes: np.ndarray


class Embedded(Protocol):
    """Faces or templates, with `images`; `embed` returns unit rows [N, D]."""

    name: str
    images: Any
    names: Sequence[str]

    def embed(self, trained: Trained, progress: str = "") -> np.ndarray: ...


@dataclasses.dataclass
class Faces:
    """Faces that are rows themselves.

    Attributes:
      name: first part of the key of every result.
      images: slices to uint8 RGB [n, H, W, 3], or rows of a file of embeddings.
      flip: add the embeddings of the mirrored images.
      names: of the images, by which reports tell sets apart.
    """

    name: str
    images: Any
    flip: bool = True
    names: Sequence[str] = ()

    def embed(self, trained: Trained, progress: str = "") -> np.ndarray:
        """Returns float32 [N, D]; UserError for embeddings of length 0."""
        options = {"flip": self.flip, "name": self.name, "progress": progress}
        return embedded.unit_rows(trained, self.images, **options)


@dataclasses.dataclass
class Identification(Marked):
    """Evaluates searches of probes in one or several galleries.

    Attributes:
      faces: the rows [N]: faces, or templates.
      identity: int [N] of each row.
      galleries: by name; probes and gallery must not share rows.
      search: 'exact', or 'faiss' for galleries of millions: mates beyond the 100
        neighbours that an approximate search finds count as missed.
      options: choices of the set, part of `switches`.
      cmc: identification rate at ranks 1 to 100 [ranks], by gallery, of the last
        evaluation.

    Raises:
      UserError: for a gallery or probes without rows.
    """

    faces: Embedded
    identity: np.ndarray
    galleries: Mapping[str, Gallery]
    search: str = "exact"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cmc: dict[str, np.ndarray] = dataclasses.field(
        default_factory=dict, init=False, compare=False
    )
    _measured: dict[str, Searches] = dataclasses.field(
        default_factory=dict, init=False, compare=False
    )

    def __post_init__(self):
        for name, (gallery, probes) in self.galleries.items():
            if not len(gallery) or not len(probes):
                raise UserError(
                    f"{self.name}: gallery {name!r} has {len(gallery):,} rows and "
                    f"{len(probes):,} probes; both are needed"
                )

    @property
    def summary(self) -> str:
        parts = [
            f"gallery {name}: {len(gallery):,} rows, {len(probes):,} probes"
            for name, (gallery, probes) in self.galleries.items()
        ]
        return f"{len(self.faces.images):,} images, {', '.join(parts)}"

    def protocol_switches(self) -> dict[str, Any]:
        """Returns every choice of the evaluation, JSON values by name."""
        listed = "" if self.search == "exact" else f"of the {_LISTED} neighbours, "
        return {
            "protocol": "identification",
            **self.options,
            "search": self.search,
            "scores": "cosine, of an identity that of its best row",
            "ties": f"{listed}identities with equal scores count as higher",
            "fpirs": list(FPIRS),
            "resampled": "identities of probes",
            **{f"dropped_{name}": count for name, count in self.dropped.items()},
            "tpir": "mate at rank 1 and score at or above the threshold; the lowest "
            "one with at most FPIR * non-mated searches at or above",
            "galleries": {
                name: {"rows": len(gallery), "probes": len(probes)}
                for name, (gallery, probes) in self.galleries.items()
            },
        }

    @property
    def metric_names(self) -> list[str]:
        several = len(self.galleries) > 1
        names = [f"{n}{end}" for n in NAMES for end in ["", "_std"][: 1 + several]]
        names += [*_COUNTS, *[RECALL] * (self.search == "faiss")]
        names += [f"dropped_{name}" for name in self.dropped]
        if several:
            each = (*NAMES, NONMATED)
            names += [f"{n}:{gallery}" for gallery in self.galleries for n in each]
        return [f"{self.key}/{name}" for name in names]

    def __call__(self, trained: Trained, *, progress: str = "") -> dict[str, float]:
        """Returns ranks, TPIR at FPIRs and the numbers of searches."""
        rows = self.faces.embed(trained, progress)
        measured: dict[str, Searches] = {}
        self.cmc = {}
        for name, (gallery, probes) in self.galleries.items():
            labels = self.identity[probes], self.identity[gallery]
            measured[name] = self._search(rows[probes], rows[gallery], *labels)
            ranks = measured[name].rank[measured[name].rank > 0]
            if len(ranks):
                self.cmc[name] = identification.cmc(ranks, _CURVE)
        statistics = SearchStatistics(measured)
        self._measured, values = measured, statistics()
        nonmated = {
            name: float(np.sum(one.rank == 0)) for name, one in measured.items()
        }
        if len(nonmated) > 1:
            values |= {f"{NONMATED}:{name}": n for name, n in nonmated.items()}
        searched = sum(len(probes) for _, probes in self.galleries.values())
        values["mated_searches"] = searched - sum(nonmated.values())
        values[NONMATED] = sum(nonmated.values())
        values["gallery_identities"] = float(
            sum(len(set(self.identity[g].tolist())) for g, _ in self.galleries.values())
        )
        values |= {f"dropped_{name}": float(n) for name, n in self.dropped.items()}
        self.notes = {
            f"{self.key}/{name}": why for name, why in statistics.notes.items()
        }
        return {f"{self.key}/{name}": value for name, value in values.items()}

    def _search(self, probes, gallery, probe_labels, gallery_labels) -> Searches:
        if self.search == "exact":
            found = search.mates(probes, probe_labels, gallery, gallery_labels)
            return Searches(probe_labels, *found)
        k = min(_LISTED, len(gallery))
        near = search.approximate(probes, gallery, k)
        found = search.mates_of(near, probe_labels, gallery_labels)
        recall = np.full(len(probes), np.nan)
        sampled, shares = search.recalls(near, probes, gallery, _SAMPLE)
        recall[sampled] = shares
        return Searches(probe_labels, *found, recall)

    def intervals(
        self, resamples: int | None = None, *, progress: str = ""
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Returns bounds of the last evaluation's metrics; see `bounds`.

        The identities of probes are resampled, galleries are not.

        Args:
          resamples: default: 1,000.
          progress: label of a progress bar; '': none.
        """
        resamples = intervals.RESAMPLES if resamples is None else resamples
        if not self._measured:
            return {}, {}
        statistics = SearchStatistics(self._measured)
        identity = statistics.identity
        weights = intervals.identity_draws(identity, resamples)
        count = len(np.unique(identity))
        options = {"ends": with_end, "progress": progress}
        return bounds(self.key, statistics, weights, resamples, count, **options)

    def stored_set(self) -> EvaluatedSet:
        """Returns the last evaluation as reports show it, with the CMC."""
        curves = {
            f"CMC {name}": Curve(
                np.arange(1, len(rates) + 1), rates, "rank", "identification rate"
            )
            for name, rates in self.cmc.items()
        }
        rows = [np.concatenate(one) for one in self.galleries.values()]
        numbers = np.concatenate(rows)
        return EvaluatedSet(
            self.name,
            set_digest(
                embedded.digests_of(self.faces.names),
                np.concatenate([numbers, self.identity]),
                np.zeros(0),
            ),
            self.protocol_switches(),
            curves=curves,
            seen=self.evidence,
            unknown=self.unknown,
            columns=_columns(self._measured),
        )


def _columns(measured: Mapping[str, Searches]) -> dict[str, np.ndarray]:
    """Returns the searches of all galleries, see `EvaluatedSet.columns`."""
    if not measured:
        return {}
    parts = [one._asdict() for one in measured.values()]
    names = [name for name, values in parts[0].items() if values is not None]
    columns = {name: np.concatenate([one[name] for one in parts]) for name in names}
    sizes = [len(one["identity"]) for one in parts]
    return columns | {"gallery": np.repeat(np.arange(len(parts)), sizes)}
