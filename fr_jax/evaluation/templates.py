"""An evaluator of pairs of templates, as in IJB-B and IJB-C.

| switch | insightface | MagFace | |
|---|---|---|---|
| `flip` | yes | no | add the embedding of the mirrored image |
| `norm` | yes | yes | keep the length of an image's embedding |
| `detector` | yes | no | weight an image by the score of the face detector |
| `media` | mean | unit | scale the mean of a medium to length 1 |
| `score` | cosine | angle | 1 - angle / pi |

A template is the sum of the means of its media, scaled to length 1. MagFace's mean over
media has the same direction.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from scipy import sparse
from scipy.sparse import csgraph

from fr_jax.errors import UserError
from fr_jax.evaluation import embedded
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.seen import evidence
from fr_jax.evaluation.stored import set_digest
from fr_jax.metrics import intervals, templates, verification
from fr_jax.progress import progress_bar
from fr_jax.report.runs import EvaluatedSet, Scores

FARS = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
_MANY = 1_000_000  # pairs, above which there are fewer resamples
_POOLED = (*(f"tar@far={far}" for far in FARS), "auc", "eer", "min_dcf")


class Switches(NamedTuple):
    """Choices of a template protocol; see the table above."""

    flip: bool = True
    norm: bool = True
    detector: bool = True
    media: str = "mean"
    score: str = "cosine"


VARIANTS = {
    "insightface": Switches(),
    "magface": Switches(flip=False, detector=False, media="unit", score="angle"),
}


@dataclasses.dataclass
class TemplateSet:
    """Images [N] of media [M] of templates [T].

    Attributes:
      name: first part of the key of every result.
      images: slices to uint8 RGB [n, H, W, 3], or rows of a file of embeddings.
      media: int [N], the medium of each image.
      template: int [M], the template of each medium, ascending, every one from 0 on.
      switches: of the protocol.
      detector: float [N], scores of the face detector; needed by that switch.
      names: of the images, by which reports tell sets apart.
    """

    name: str
    images: Any
    media: np.ndarray
    template: np.ndarray
    switches: Switches = VARIANTS["insightface"]
    detector: np.ndarray | None = None
    names: Sequence[str] = ()

    def __post_init__(self):
        if self.switches.detector and self.detector is None:
            raise UserError(f"{self.name}: detector=yes needs scores of a detector")

    def embed(self, trained: Trained, progress: str = "") -> np.ndarray:
        """Returns templates of unit length, float32 [T, D].

        Raises:
          UserError: for embeddings that are not finite, and templates of length 0.
        """
        options = {"flip": self.switches.flip, "name": self.name, "progress": progress}
        blocks = embedded.blocks(trained, self.images, **options)
        means, _ = templates.media_means(
            self._weighted(blocks), self.media, num_media=len(self.template)
        )
        unit_media = self.switches.media == "unit"
        rows = templates.pooled(means, self.template, unit_media=unit_media)
        embedded.refuse_zeros(rows, f"{self.name}: {{}} templates")
        return rows

    def _weighted(self, blocks):
        done = 0
        for rows in blocks:
            if not self.switches.norm:
                rows = verification.l2_normalize(rows)
            if self.switches.detector and self.detector is not None:
                rows = rows * self.detector[done : done + len(rows), None]
            done += len(rows)
            yield rows


@dataclasses.dataclass
class ListedTemplates:
    """Templates [T] of listed images, each of which may be in several templates.

    A template is the sum of its images' embeddings of unit length, scaled to length 1.

    Attributes:
      name: first part of the key of every result.
      images: [N], see `TemplateSet`.
      members, template: int [K], an image and its template, ascending, from 0 on.
      flip: add the embeddings of the mirrored images.
      names: of the images, by which reports tell sets apart.
    """

    name: str
    images: Any
    members: np.ndarray
    template: np.ndarray
    flip: bool = True
    names: Sequence[str] = ()

    def embed(self, trained: Trained, progress: str = "") -> np.ndarray:
        """Returns templates of unit length, float32 [T, D]; errors as `TemplateSet`."""
        options = {"flip": self.flip, "name": self.name, "progress": progress}
        rows = embedded.unit_rows(trained, self.images, **options)
        rows = templates.pooled(rows[self.members], self.template)
        embedded.refuse_zeros(rows, f"{self.name}: {{}} templates")
        return rows


@dataclasses.dataclass
class TemplateVerification:
    """Evaluates a network on genuine and impostor pairs of templates.

    Attributes:
      faces: images and templates.
      first, second: int [P], numbers of templates.
      same: bool [P], True for genuine pairs.
      dropped: images and pairs left out since images are missing, part of the results.
      data_sets: names under which the set may be known; default: that of `faces`.
      digests: returns the digests of the images' pixels, uint64 [N], or None.
      ids: int [T], published numbers of the templates; default: 0 on.
      seen, evidence, unknown: of `mark_seen`.
      curve: (score [P], same [P]) of the last evaluation.
      notes: reasons for metrics that the last evaluation could not define.

    Raises:
      UserError: for no pairs, unequal lengths, and pairs of missing templates.
    """

    faces: TemplateSet
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    data_sets: tuple[str, ...] = ()
    digests: Callable[[], np.ndarray] | None = None
    ids: np.ndarray | None = None
    seen: bool = False
    evidence: str = ""
    unknown: bool = False
    curve: tuple[np.ndarray, np.ndarray] | None = dataclasses.field(
        default=None, init=False, compare=False
    )
    notes: dict[str, str] = dataclasses.field(
        default_factory=dict, init=False, compare=False
    )
    _statistics: intervals.PairStatistics | None = dataclasses.field(
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
    def name(self) -> str:
        return self.faces.name

    @property
    def key(self) -> str:
        """The first part of result keys, with '_seen' if the set was trained on."""
        return f"{self.name}_seen" if self.seen else self.name

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
        statistics = intervals.PairStatistics(
            scores, self.same, protocol="pooled", fars=FARS
        )
        self.notes = {f"{self.key}/{n}": why for n, why in statistics.notes.items()}
        values, self._statistics = statistics(), statistics
        if values:
            nearest = templates.tar_at_nearest_far(scores, self.same, FARS)
            values |= {f"tar@far={f}:insightface": x for f, x in zip(FARS, nearest)}
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
            resamples = 200 if len(self.same) > _MANY else intervals.RESAMPLES
        if self._statistics is None or not self._statistics():
            return {}, {}
        identity = self.identities()
        pairs = identity[self.first], identity[self.second]
        weights = intervals.identity_weights(*pairs, int(identity.max()) + 1, resamples)
        count = len(np.unique(np.concatenate([np.unique(one) for one in pairs])))
        return bounds(
            self.key, self._statistics, weights, resamples, count, progress=progress
        )

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

    def mark_seen(
        self,
        trained: Mapping[str, Collection[str]],
        digests: np.ndarray | None = None,
    ) -> "TemplateVerification":
        """Returns the set, marked as seen if it has training images; see `evidence`."""
        marks = marks_of(self, self.faces.images, trained, digests)
        return dataclasses.replace(self, **marks)

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


def bounds(
    key: str,
    statistics: Callable[[np.ndarray | None], Mapping[str, float]],
    weights: Iterator[np.ndarray],
    resamples: int,
    identities: int,
    *,
    ends: Callable[[str, str], str] = lambda name, end: f"{name}{end}",
    names: Collection[str] | None = None,
    progress: str = "",
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns 95 % percentile bounds by result key, and notes on undefined resamples.

    Args:
      key: first part of result keys.
      weights: `resamples` of them, of that many identities.
      ends: (name of a metric, '_low' or '_high') -> second part of the key.
      names: of the metrics that have bounds; default: all.
    """
    chosen = [n for n in statistics(None) if names is None or n in names]
    if not resamples or not chosen:
        return {}, {}
    options = {"total": resamples, "disable": not progress, "leave": False}
    drawn = progress_bar(weights, progress, unit=" resamples", **options)
    values = {
        f"{key}/resamples": float(resamples),
        f"{key}/resampled_identities": float(identities),
    }
    notes = {}
    for name, samples in intervals.samples(statistics, drawn, chosen).items():
        both = intervals.percentile(samples)
        low, high = (f"{key}/{ends(name, end)}" for end in ("_low", "_high"))
        if missing := int(np.sum(np.isnan(samples))):
            notes[low] = f"undefined in {missing:,} of {resamples:,} resamples"
        if missing < resamples:
            values |= {low: both.low, high: both.high}
    return values, notes


def marks_of(
    one: Any,
    images: Any,
    trained: Mapping[str, Collection[str]],
    digests: np.ndarray | None,
    identities: list[str] | None = None,
) -> dict[str, Any]:
    """Returns `seen`, `evidence` and `unknown` of a set.

    Args:
      one: an evaluator with `name`, `data_sets` and `digests`.
      identities: the name of each image's identity, or None.
    """
    names = one.data_sets or (one.name,)
    shown = evidence(names, len(images), identities, one.digests, trained, digests)
    if shown.seen.any():
        logging.warning("%s: %s", one.name, shown.reason)
    return {
        "seen": bool(shown.seen.any()),
        "evidence": shown.reason,
        "unknown": shown.unknown,
    }
