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
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from scipy import sparse
from scipy.sparse import csgraph

from fr_jax.errors import UserError
from fr_jax.evaluation import embedded
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.seen import evidence
from fr_jax.metrics import intervals, templates, verification

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
    """

    name: str
    images: Any
    media: np.ndarray
    template: np.ndarray
    switches: Switches = VARIANTS["insightface"]
    detector: np.ndarray | None = None

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
    """

    name: str
    images: Any
    members: np.ndarray
    template: np.ndarray
    flip: bool = True

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
      resamples: of the bootstrap over identities; None: 1,000, or 200 for more than a
        million pairs; 0: no intervals.
      dropped: images and pairs left out since images are missing, part of the results.
      data_sets: names under which the set may be known; default: that of `faces`.
      digests: returns the digests of the images' pixels, uint64 [N], or None.
      seen, unknown: of `mark_seen`.
      curve: (score [P], same [P]) of the last evaluation.
      notes: reasons for metrics that the last evaluation could not define.
    """

    faces: TemplateSet
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    resamples: int | None = None
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    data_sets: tuple[str, ...] = ()
    digests: Callable[[], np.ndarray] | None = None
    seen: bool = False
    unknown: bool = False
    curve: tuple[np.ndarray, np.ndarray] | None = dataclasses.field(
        default=None, init=False, compare=False
    )
    notes: dict[str, str] = dataclasses.field(
        default_factory=dict, init=False, compare=False
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

    @property
    def switches(self) -> dict[str, Any]:
        """Every choice that the results depend on."""
        switches: dict[str, Any] = {"protocol": "ijb", **self.faces.switches._asdict()}
        switches["p_target"] = verification.P_TARGET
        switches["resamples"] = self._resamples()
        switches["resampled"] = "identities: templates connected by genuine pairs"
        return switches

    @property
    def metric_names(self) -> list[str]:
        ends = ("", "_low", "_high") if self._resamples() else ("",)
        names = [f"{name}{end}" for name in _POOLED for end in ends]
        names += [f"tar@far={far}:insightface" for far in FARS]
        names += [*self._of_the_set()]
        return [f"{self.key}/{name}" for name in names]

    def __call__(self, trained: Trained, *, progress: str = "") -> dict[str, float]:
        """Returns TAR at FARs, AUC, EER and minDCF, with intervals over identities."""
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
        values = statistics()
        if values:
            nearest = templates.tar_at_nearest_far(scores, self.same, FARS)
            values |= {f"tar@far={f}:insightface": x for f, x in zip(FARS, nearest)}
        if values and (resamples := self._resamples()):
            bounds = intervals.bootstrap(statistics, self.weights(resamples))
            for name, (low, high) in bounds.items():
                values |= {f"{name}_low": low, f"{name}_high": high}
        values |= self._of_the_set()
        return {f"{self.key}/{name}": value for name, value in values.items()}

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

    def weights(self, resamples: int):
        """Yields weights int [P] of resampled identities; see `identity_weights`."""
        identity = self.identities()
        pairs = identity[self.first], identity[self.second]
        count = int(identity.max()) + 1
        return intervals.identity_weights(*pairs, count, resamples)

    def mark_seen(
        self,
        trained: Mapping[str, Collection[str]],
        digests: np.ndarray | None = None,
    ) -> "TemplateVerification":
        """Returns the set, marked as seen if it has training images; see `evidence`."""
        seen, unknown = marks(self, self.faces.images, trained, digests)
        return dataclasses.replace(self, seen=seen, unknown=unknown)

    def _resamples(self) -> int:
        if self.resamples is None:
            return 200 if len(self.same) > _MANY else intervals.RESAMPLES
        return self.resamples

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


def marks(
    one: Any,
    images: Any,
    trained: Mapping[str, Collection[str]],
    digests: np.ndarray | None,
    identities: list[str] | None = None,
) -> tuple[bool, bool]:
    """Returns whether a set has training identities, and whether that is unknown.

    Args:
      one: an evaluator with `name`, `data_sets` and `digests`.
      identities: the name of each image's identity, or None.
    """
    names = one.data_sets or (one.name,)
    shown = evidence(names, len(images), identities, one.digests, trained, digests)
    if shown.seen.any():
        logging.warning("%s: %s", one.name, shown.reason)
    return bool(shown.seen.any()), shown.unknown
