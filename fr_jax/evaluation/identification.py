"""An evaluator of identification: closed set by rank, open set by TPIR at FPIR.

Every probe is searched in every gallery. A probe whose identity is in the gallery is a
mated search, another one a non-mated search. The score of an identity is that of its
best row in the gallery; other identities with an equal score count as higher. Of
several galleries, the results are means (`NAME/rank1`), deviations (`_std`) and those
of each (`NAME/rank1:G1`).
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fr_jax.errors import UserError
from fr_jax.evaluation import embedded, search
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.resampled import bounds
from fr_jax.evaluation.seen import marks
from fr_jax.evaluation.stored import set_digest
from fr_jax.metrics import Undefined, identification, intervals
from fr_jax.metrics.templates import over_splits
from fr_jax.report.measures import NONMATED
from fr_jax.report.runs import Curve, EvaluatedSet

RANKS = (1, 5, 10)
FPIRS = ("1e-1", "1e-2", "1e-3")
SEARCHES = ("exact", "faiss")
_CURVE = 100  # ranks of the CMC
_LISTED = 100  # neighbours of an approximate search
_RECALL = f"recall@{_LISTED}"  # of these neighbours
_NAMES = (*(f"rank{k}" for k in RANKS), *(f"tpir@fpir={far}" for far in FPIRS))
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
class Identification:
    """Evaluates searches of probes in one or several galleries.

    Attributes:
      faces: the rows [N]: faces, or templates.
      identity: int [N] of each row.
      galleries: by name; probes and gallery must not share rows.
      search: 'exact', or 'faiss' for galleries of millions: mates beyond the 100
        neighbours that an approximate search finds count as missed.
      options: choices of the set, part of `switches`.
      names: the identity of each image, or None.
      data_sets, digests, seen, evidence, unknown: as in `TemplateVerification`.
      cmc: identification rate at ranks 1 to 100 [ranks], by gallery, of the last
        evaluation.
      notes: reasons for metrics that the last evaluation could not define.

    Raises:
      UserError: for a gallery or probes without rows.
    """

    faces: Embedded
    identity: np.ndarray
    galleries: Mapping[str, Gallery]
    search: str = "exact"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: Sequence[str] | None = None
    data_sets: tuple[str, ...] = ()
    digests: Callable[[], np.ndarray] | None = None
    seen: bool = False
    evidence: str = ""
    unknown: bool = False
    cmc: dict[str, np.ndarray] = dataclasses.field(
        default_factory=dict, init=False, compare=False
    )
    notes: dict[str, str] = dataclasses.field(
        default_factory=dict, init=False, compare=False
    )
    _measured: list["_Searches"] = dataclasses.field(
        default_factory=list, init=False, compare=False
    )

    def __post_init__(self):
        for name, (gallery, probes) in self.galleries.items():
            if not len(gallery) or not len(probes):
                raise UserError(
                    f"{self.name}: gallery {name!r} has {len(gallery):,} rows and "
                    f"{len(probes):,} probes; both are needed"
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
        names = [f"{n}{end}" for n in _NAMES for end in ["", "_std"][: 1 + several]]
        names += [*_COUNTS, *[_RECALL] * (self.search == "faiss")]
        if several:
            each = (*_NAMES, NONMATED)
            names += [f"{n}:{gallery}" for gallery in self.galleries for n in each]
        return [f"{self.key}/{name}" for name in names]

    def __call__(self, trained: Trained, *, progress: str = "") -> dict[str, float]:
        """Returns ranks, TPIR at FPIRs and the numbers of searches."""
        rows = self.faces.embed(trained, progress)
        measured, notes, values = [], {}, {}
        self.cmc = {}
        for name, (gallery, probes) in self.galleries.items():
            labels = self.identity[probes], self.identity[gallery]
            found, recall = self._search(rows[probes], rows[gallery], *labels)
            measured.append(_Searches(found, labels[0]))
            if recall is not None:
                values[_RECALL] = min(recall, values.get(_RECALL, 1.0))
            ranks = found.rank[found.rank > 0]
            if len(ranks):
                self.cmc[name] = identification.cmc(ranks, _CURVE)
        by_gallery = {
            name: one.measure(None, notes)
            for name, one in zip(self.galleries, measured)
        }
        self._measured = measured
        values |= _means(list(by_gallery.values()))
        if len(by_gallery) > 1:
            values |= {
                f"{name}:{gallery}": value
                for gallery, of_one in by_gallery.items()
                for name, value in of_one.items()
            }
        nonmated = [float(np.sum(one.found.rank == 0)) for one in measured]
        if len(by_gallery) > 1:
            values |= {f"{NONMATED}:{g}": n for g, n in zip(by_gallery, nonmated)}
        searched = sum(len(probes) for _, probes in self.galleries.values())
        values["mated_searches"] = searched - sum(nonmated)
        values[NONMATED] = sum(nonmated)
        values["gallery_identities"] = float(
            sum(len(set(self.identity[g].tolist())) for g, _ in self.galleries.values())
        )
        self.notes = {f"{self.key}/{name}": why for name, why in notes.items()}
        return {f"{self.key}/{name}": value for name, value in values.items()}

    def _search(self, probes, gallery, probe_labels, gallery_labels):
        """Returns the mates, and the recall of an approximate search or None."""
        if self.search == "exact":
            return search.mates(probes, probe_labels, gallery, gallery_labels), None
        k = min(_LISTED, len(gallery))
        near = search.approximate(probes, gallery, k)
        found = search.mates_of(near, probe_labels, gallery_labels)
        return found, search.recall(near, probes, gallery, 200)

    def intervals(
        self, resamples: int | None = None, *, progress: str = ""
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Returns bounds of the last evaluation's means over galleries; see `bounds`.

        The identities of probes are resampled, galleries are not.

        Args:
          resamples: default: 1,000.
          progress: label of a progress bar; '': none.
        """
        resamples = intervals.RESAMPLES if resamples is None else resamples
        if not self._measured:
            return {}, {}
        identity = np.concatenate([one.identity for one in self._measured])

        def statistics(times: np.ndarray | None) -> dict[str, float]:
            means = _means([one.measure(times, {}) for one in self._measured])
            return {name: means[name] for name in _NAMES if name in means}

        weights = intervals.identity_draws(identity, resamples)
        count = len(np.unique(identity))
        return bounds(
            self.key, statistics, weights, resamples, count, progress=progress
        )

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
        )

    def mark_seen(
        self,
        trained: Mapping[str, Collection[str]],
        digests: np.ndarray | None = None,
    ) -> "Identification":
        """Returns the set, marked as seen if it has training identities."""
        shown = marks(self, self.faces.images, trained, digests, self.names)
        return dataclasses.replace(self, **shown)


class _Searches:
    """The results of the searches in a gallery, measured under any weights."""

    def __init__(self, found: search.Mates, identity: np.ndarray):
        self.found, self.identity = found, np.asarray(identity)
        self._mated = found.rank > 0

    def measure(
        self, times: np.ndarray | None, notes: dict[str, str]
    ) -> dict[str, float]:
        """Returns the metrics that are defined, and adds the reasons for others.

        Args:
          times: how often each identity was drawn, int; None: once.
        """
        rank, score, best = self.found
        mated = np.flatnonzero(self._mated)
        others = np.flatnonzero(~self._mated)
        if times is not None:
            drawn = times[self.identity]
            mated = np.repeat(mated, drawn[mated])
            others = np.repeat(others, drawn[others])
        values: dict[str, float] = {}
        for k in RANKS:
            try:
                values[f"rank{k}"] = identification.rank_k(rank[mated], k)
            except Undefined as error:
                notes[f"rank{k}"] = str(error)
        for far in FPIRS:
            try:
                values[f"tpir@fpir={far}"] = identification.tpir_at_fpir(
                    rank[mated], score[mated], best[others], far
                ).tpir
            except Undefined as error:
                notes[f"tpir@fpir={far}"] = str(error)
        return values


def _means(by_gallery: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns means of metrics that all galleries have; of several with `_std`."""
    means = over_splits(by_gallery)
    if len(by_gallery) > 1:
        return means
    return {name: means[name] for name in by_gallery[0]}
