"""Evaluations as reports show them: results, and the scores of every set.

`fr_jax.evaluation.stored` writes and reads them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
MAX_PAIRS = 1 << 28
MAX_NAME = 200
# What the digest of a set knows images by, a switch of protocols of pairs.
IMAGE_DIGESTS, PIXELS, NAMES = "image_digests", "pixels", "names"
_MAX_THUMBNAILS, _SIDES = 256, (16, 256)  # pixels


class Hardest(NamedTuple):
    """Thumbnails of the genuine pairs with the lowest scores, the impostors with the
    highest.

    Attributes:
      rows: int [H], numbers of pairs: genuine ones by ascending score, then impostors
        by descending score.
      images: uint8 RGB [H, 2, S, S, 3], both faces of each pair.
    """

    rows: Array
    images: Array


class Scores(NamedTuple):
    """The scores of a set's pairs.

    Attributes:
      values: cosines or other similarities, float32 or float64 [P].
      same: bool [P], True for genuine pairs.
      folds: int [P], the folds of the protocol, or None.
      pairs: int [P, 2], the numbers of both images or templates, or None.
      identities: int [N], a number for the identity of every image or template, or
        None if they are unknown.
      distances: that the protocol thresholds, float64 [P], or [folds, P] where each
        fold has its own; None: squared distances of unit vectors, 2 - 2 * values.
      hardest: thumbnails, or None.
    """

    values: Array
    same: Array
    folds: Array | None = None
    pairs: Array | None = None
    identities: Array | None = None
    distances: Array | None = None
    hardest: Hardest | None = None


class Curve(NamedTuple):
    """A curve besides ROC and DET, such as a CMC or an error-versus-discard curve.

    Attributes:
      x, y: float [n], finite.
      x_label, y_label: titles of the axes.
      log_x: whether x has a logarithmic axis.
    """

    x: Array
    y: Array
    x_label: str
    y_label: str
    log_x: bool = False


class EvaluatedSet(NamedTuple):
    """An evaluated set of one run.

    Attributes:
      name: of the set. Its result keys begin with `name`, `name_seen` or
        `name_heldout`.
      digest: of its images and pairs; see `stored.set_digest`. Runs are compared pair
        by pair where the digests are equal.
      protocol: every choice of the protocol, JSON values by name. 'protocol' is its
        name, one of `intervals.PROTOCOLS` for pairs.
      scores: of its pairs; None for an evaluation without pairs.
      curves: by name.
      seen: the evidence that the embedder was trained on identities of the set, as a
        phrase; '' for unseen sets.
      seen_folds: the folds with these identities; all others are held out.
      unknown: whether nothing shows that identities were trained on or not.
      columns: of searches, those of `search_statistics.Searches` by name and the number
        of the `gallery`; of clustered faces `identity` and `cluster`; else empty.
    """

    name: str
    digest: str
    protocol: Mapping[str, Any]
    scores: Scores | None = None
    curves: Mapping[str, Curve] = {}
    seen: str = ""
    seen_folds: tuple[int, ...] = ()
    unknown: bool = False
    columns: Mapping[str, Array] = {}


class Run(NamedTuple):
    """The evaluation of one embedder.

    Attributes:
      name: of the embedder, the column of tables.
      results: numbers of results.json.
      notes: the reason why a metric is undefined, by its result key.
      embedder: name, digest, architecture, provenance: JSON values.
      versions: of fr_jax and the libraries behind it.
      sets: in the order of evaluation; empty if only results.json is known.
    """

    name: str
    results: Mapping[str, float]
    notes: Mapping[str, str]
    embedder: Mapping[str, Any]
    versions: Mapping[str, str]
    sets: tuple[EvaluatedSet, ...] = ()


def fault(one: EvaluatedSet) -> str:
    """Returns what is wrong with the arrays of a set, or ''."""
    if not 0 < len(one.name) <= MAX_NAME:
        return f"a name of {len(one.name)} characters; up to {MAX_NAME} are stored"
    for name, curve in one.curves.items():
        shapes = np.shape(curve.x), np.shape(curve.y)
        if shapes[0] != shapes[1] or len(shapes[0]) != 1 or not shapes[0][0]:
            return f"curve {name!r} has {shapes[0]} and {shapes[1]} values"
        if not (np.isfinite(curve.x).all() and np.isfinite(curve.y).all()):
            return f"curve {name!r} has values that are not finite"
    if len({np.shape(values) for values in one.columns.values()}) > 1:
        return "columns of different lengths"
    for name, values in one.columns.items():
        if np.ndim(values) != 1 or not len(values):
            return f"column {name!r} has the shape {np.shape(values)}"
        if np.asarray(values).dtype.kind == "i" and np.min(values) < 0:
            return f"negative numbers in column {name!r}"
    if (scores := one.scores) is None:
        return ""
    count = len(scores.values)
    if not 0 < count <= MAX_PAIRS:
        return f"{count:,} pairs; 1 to {MAX_PAIRS:,} are stored"
    shapes = {
        "scores": (scores.values, (count,)),
        "labels": (scores.same, (count,)),
        "folds": (scores.folds, (count,)),
        "pairs": (scores.pairs, (count, 2)),
    }
    if (distances := scores.distances) is not None:
        folds = 1 if scores.folds is None else int(np.max(scores.folds)) + 1
        per_fold = np.ndim(distances) == 2
        shapes["distances"] = distances, (folds, count) if per_fold else (count,)
    for name, (values, shape) in shapes.items():
        if values is not None and np.shape(values) != shape:
            return f"{name} of shape {np.shape(values)}, expected {shape}"
    for name in ("values", "distances"):
        values = getattr(scores, name)
        if values is not None and (invalid := int(np.sum(~np.isfinite(values)))):
            return f"{invalid:,} {name} are not finite"
    if scores.folds is not None and not 0 <= np.min(scores.folds) <= np.max(
        scores.folds
    ) < len(scores.folds):
        return "folds are not numbered from 0"
    return _fault_of_images(scores, count)


def _fault_of_images(scores: Scores, count: int) -> str:
    if scores.pairs is not None and np.min(scores.pairs) < 0:
        return "negative numbers of images in pairs"
    if (identities := scores.identities) is not None:
        if scores.pairs is None:
            return "identities without pairs"
        if np.ndim(identities) != 1 or len(identities) <= np.max(scores.pairs):
            shape = np.shape(identities)
            return f"identities of shape {shape} for image {np.max(scores.pairs)}"
        if np.min(identities) < 0 or np.max(identities) >= len(identities):
            return "identities are not numbered from 0"
    if (shown := scores.hardest) is not None:
        rows, images = np.asarray(shown.rows), np.asarray(shown.images)
        sides = images.shape[2:4]
        expected = (len(rows), 2, *sides, 3)
        if images.shape != expected or images.dtype != np.uint8 or rows.ndim != 1:
            return f"thumbnails {images.dtype} {images.shape} for {rows.shape} pairs"
        if len(rows) > _MAX_THUMBNAILS or any(
            not _SIDES[0] <= side <= _SIDES[1] for side in sides
        ):
            return f"{len(rows)} thumbnails of {sides} pixels"
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            return "thumbnails of pairs that are not in the set"
    return ""
