"""An evaluator of pairs of templates, as in IJB-B and IJB-C."""

import dataclasses
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from fr_jax.errors import UserError
from fr_jax.evaluation import embedded
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.marked import Marked
from fr_jax.evaluation.resampled import bounds
from fr_jax.evaluation.stored import set_digest
from fr_jax.evaluation.template_faces import TemplateSet
from fr_jax.metrics import Undefined, intervals, templates, verification
from fr_jax.report.measures import with_end
from fr_jax.report.runs import EvaluatedSet, Scores

FARS = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
_POOLED = (*(f"tar@far={far}" for far in FARS), "auc", "eer", "min_dcf")


@dataclasses.dataclass
class TemplateVerification(Marked):
    """Evaluates a network on genuine and impostor pairs of templates.

    Attributes:
      faces: images and templates.
      first, second: int [P], numbers of templates.
      same: bool [P], True for genuine pairs.
      ids: int [T], published numbers of the templates; default: 0 on.
      curve: (score [P], same [P]) of the last evaluation.

    Raises:
      UserError: for no pairs, unequal lengths, and pairs of missing templates.
    """

    faces: TemplateSet
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    ids: np.ndarray | None = None
    curve: tuple[np.ndarray, np.ndarray] | None = dataclasses.field(
        default=None, init=False, compare=False
    )
    _statistics: "_Statistics | None" = dataclasses.field(
        default=None, init=False, compare=False
    )

    def __post_init__(self):
        sizes = {len(self.first), len(self.second), len(self.same)}
        if len(sizes) > 1 or 0 in sizes:
            raise UserError(
                f"{self.name}: {len(self.first)} and {len(self.second)} templates of "
                f"pairs, {len(self.same)} labels"
            )
        low = min(np.min(self.first), np.min(self.second))
        high = max(np.max(self.first), np.max(self.second))
        count = int(self.faces.template[-1]) + 1
        if low < 0 or high >= count:
            raise UserError(
                f"{self.name}: pairs of templates {low} to {high}; there are {count}"
            )

    @property
    def summary(self) -> str:
        return (
            f"{len(self.same):,} pairs of {self.faces.template[-1] + 1:,} templates, "
            f"{len(self.faces.images):,} images"
        )

    def protocol_switches(self) -> dict[str, Any]:
        """Returns every choice of the evaluation, JSON values by name."""
        return {
            "protocol": "pooled",
            "templates": "IJB",
            **self.faces.switches._asdict(),
            "fars": list(FARS),
            "tar": "lowest threshold with at most FAR * impostors accepted, ties "
            "together; :insightface: at the nearest FAR of the ROC",
            "eer": "where the convex hull of the ROC meets FAR = FRR",
            "min_dcf": f"P_target {verification.P_TARGET}, unit costs, not normalised",
            "resampled": "identities: templates connected by genuine pairs",
            **{name: int(count) for name, count in self._of_the_set().items()},
        }

    @property
    def metric_names(self) -> list[str]:
        names = [*_POOLED, *(f"tar@far={far}:insightface" for far in FARS)]
        return [f"{self.key}/{name}" for name in (*names, *self._of_the_set())]

    def __call__(self, trained: Trained, *, progress: str = "") -> dict[str, float]:
        """Returns TAR at FARs, AUC, EER and minDCF."""
        rows = self.faces.embed(trained, progress)
        scores = templates.pair_scores(rows, self.first, self.second)
        del rows
        if self.faces.switches.score == "angle":
            cosines = np.clip(scores.astype(np.float64), -1, 1)
            scores = 1 - np.arccos(cosines) / np.pi
        self.curve = scores, self.same
        statistics = _Statistics(scores, self.same)
        self.notes = {f"{self.key}/{n}": why for n, why in statistics.notes.items()}
        values, self._statistics = statistics(), statistics
        values |= self._of_the_set()
        return {f"{self.key}/{name}": value for name, value in values.items()}

    def intervals(
        self, resamples: int | None = None, *, progress: str = ""
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Returns bounds of the last evaluation's metrics, and notes on missing ones.

        Keys are those of the results with _low and _high; identities are resampled.

        Args:
          resamples: default: 1,000, or 200 for more than a million pairs.
          progress: label of a progress bar; '': none.
        """
        if resamples is None:
            resamples = intervals.number_of_resamples(len(self.same))
        if self._statistics is None or not self._statistics():
            return {}, {}
        identity = self.identities()
        pairs = identity[self.first], identity[self.second]
        weights = intervals.identity_weights(*pairs, int(identity.max()) + 1, resamples)
        count = len(np.unique(np.concatenate([np.unique(one) for one in pairs])))
        options = {"ends": with_end, "progress": progress}
        return bounds(self.key, self._statistics, weights, resamples, count, **options)

    def stored_set(self) -> EvaluatedSet:
        """Returns the last evaluation as reports show it."""
        if self.curve is None:
            raise ValueError(f"{self.name} was not evaluated yet")
        pairs = np.stack([self.first, self.second], axis=1)
        count = int(self.faces.template[-1]) + 1
        ids = np.arange(count) if self.ids is None else self.ids
        images = embedded.digests_of(self.faces.names)
        scores = Scores(*self.curve, pairs=pairs, identities=self.identities())
        return EvaluatedSet(
            self.name,
            set_digest(
                np.concatenate([ids.astype(np.uint64), images]), pairs, self.same
            ),
            self.protocol_switches(),
            scores,
            seen=self.evidence,
            unknown=self.unknown,
        )

    def identities(self) -> np.ndarray:
        """Returns the identity of each template, int [T].

        The lists have no names: templates connected by genuine pairs are of one
        identity, the others each of their own.
        """
        count = int(self.faces.template[-1]) + 1
        first, second = self.first[self.same], self.second[self.same]
        links = sparse.coo_array(
            (np.ones(len(first), bool), (first, second)), (count, count)
        )
        return csgraph.connected_components(links, directed=False)[1]

    def _of_the_set(self) -> dict[str, float]:
        genuine = int(np.sum(self.same))
        counts = {
            "genuine_pairs": genuine,
            "impostor_pairs": len(self.same) - genuine,
            "templates": int(self.faces.template[-1]) + 1,
            "images": len(self.faces.images),
            **{f"dropped_{name}": count for name, count in self.dropped.items()},
        }
        return {name: float(count) for name, count in counts.items()}


class _Statistics:
    """Every metric of the pairs, under any weights of them.

    Attributes:
      notes: reasons for metrics that are undefined.
    """

    def __init__(self, scores: np.ndarray, same: np.ndarray):
        options: dict[str, Any] = {"protocol": "pooled", "fars": FARS}
        self._pooled = intervals.PairStatistics(scores, same, **options)
        self.notes = dict(self._pooled.notes)
        self._nearest: templates.NearestFar | None = None
        try:
            self._nearest = templates.NearestFar(scores, same, FARS)
        except Undefined as error:
            names = (f"tar@far={far}:insightface" for far in FARS)
            self.notes |= dict.fromkeys(names, str(error))

    def __call__(self, weights: np.ndarray | None = None) -> dict[str, float]:
        """Returns the metrics that are defined, by name."""
        values = self._pooled(weights)
        if self._nearest and values:
            nearest = self._nearest(weights)
            values |= {f"tar@far={f}:insightface": x for f, x in zip(FARS, nearest)}
        return values
