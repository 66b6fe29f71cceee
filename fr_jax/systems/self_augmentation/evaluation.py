"""Evaluation of self-augmentation: the clusters of a video's faces, and swapped codes.

The faces are those that the networks were trained on, as in the paper: what is asked is
who is seen in this video. Tracklets are clustered by average linkage (`linkage`); WCP
is the weighted clustering purity of the paper's tables.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics import clustering, probes
from fr_jax.models import self_augmentation as networks
from fr_jax.models.preprocess import resize
from fr_jax.report import figures
from fr_jax.systems.self_augmentation import linkage, triplets

Array = np.ndarray

_MEASURES = ("wcp", "bcubed_f", "pairwise_f", "nmi", "ari", "hungarian_accuracy")
_PAIRS = 512  # evaluated swaps
_BATCH = 32
_SHEET = 6  # identities, and appearances, of a sheet
_FOLDS = 5  # of the linear probe, by tracklets
_TOO_FEW = f"fewer than {_FOLDS} tracklets or 2 identities among the evaluated faces"


class Tracked(NamedTuple):
    """The faces of a video in tracklets.

    Attributes:
      faces: a RecordSet, or faces in memory: `images(numbers)`, and slices, are uint8
        RGB [n, S, S, 3].
      track: int [N], every number from 0 to T - 1.
      frame: int [N].
      identity: int [N], or None if it is not known.
    """

    faces: Any
    track: Array
    frame: Array
    identity: Array | None = None

    @property
    def apart(self) -> Array:
        """bool [T, T]: tracklets that share a frame."""
        return triplets.cannot_links(self.track, self.frame)


class Grouped(NamedTuple):
    """Clusters of the tracklets of a video.

    Attributes:
      cluster: int [T], with as many clusters as there are identities; or the estimate.
      estimated: int [T], with the estimated number of clusters.
      silhouettes: by number of clusters.
    """

    cluster: Array
    estimated: Array
    silhouettes: dict[int, float]


def grouped(
    embeddings: Array, tracked: Tracked, count: int = 0, *, linked: bool = False
) -> Grouped:
    """Returns the clusters of embedded faces [N, D].

    Args:
      count: number of clusters; 0: the estimate, that of the linked clusters if every
        other one joins tracklets that share a frame.
      linked: tracklets that share a frame are never in one cluster.

    Raises:
      UserError: for a number of clusters that is not possible.
    """
    distances, sizes = linkage.tracklet_distances(embeddings, tracked.track)
    apart = tracked.apart
    tree = linkage.average_linkage(distances, sizes, apart if linked else None)
    estimate = linkage.estimated_count(tree, distances, apart)
    estimated = tree.cut(estimate.count)
    if not estimate.silhouettes and not linked:
        # One early merge of faces seen together spoils every cut of this tree.
        groups = grouped(embeddings, tracked, linked=True)
        return groups._replace(cluster=tree.cut(count)) if count else groups
    cluster = tree.cut(count) if count else estimated
    return Grouped(cluster, estimated, estimate.silhouettes)


@dataclasses.dataclass
class Clusters:
    """Clusters the faces of a video, and compares them with the identities if known.

    Results: with the true number of identities wcp, bcubed_f, pairwise_f, nmi, ari and
    hungarian_accuracy; estimated_clusters, and estimated_bcubed_f with that number.
    """

    tracked: Tracked
    name: str = "video"

    @property
    def metric_names(self) -> Sequence[str]:
        names = ("estimated_clusters",)
        if self.tracked.identity is not None:
            names = (*_MEASURES, "estimated_clusters", "estimated_bcubed_f")
        return [f"{self.name}/{name}" for name in names]

    def __call__(self, trained: Trained) -> dict[str, float]:
        return self.of_embeddings(trained.embed(self.tracked.faces)["embedding"])

    def of_embeddings(self, embeddings: Array) -> dict[str, float]:
        """Returns the results of embeddings [N, D]."""
        track, identity = self.tracked.track, self.tracked.identity
        count = 0 if identity is None else len(np.unique(identity))
        clusters = grouped(embeddings, self.tracked, count)
        estimated = clusters.estimated[track]
        values = {"estimated_clusters": float(len(np.unique(clusters.estimated)))}
        if identity is not None:
            measured = clustering.measure(identity, clusters.cluster[track]).values
            values |= {name: measured[name] for name in _MEASURES}
            at_estimate = clustering.measure(identity, estimated).values
            values["estimated_bcubed_f"] = at_estimate["bcubed_f"]
        return {f"{self.name}/{name}": values[name] for name in self._order()}

    def _order(self) -> list[str]:
        return [name.partition("/")[2] for name in self.metric_names]


@dataclasses.dataclass
class Swaps:
    """Evaluates faces of one identity with the appearance of another, as in Stage III.

    Results: nearer, the share of generated faces that the encoder of identities puts
    nearer to the face with the intended identity than to the one with the appearance;
    where identities are known probe_accuracy, with which a linear probe finds them in
    appearance codes, and probe_chance, the share of the most frequent one.
    """

    tracked: Tracked
    identity: Embedder
    name: str = "swaps"
    notes: dict[str, str] = dataclasses.field(
        default_factory=dict, init=False, compare=False
    )
    _sheet: list[list[Array | None]] | None = dataclasses.field(
        default=None, init=False, compare=False
    )

    @property
    def metric_names(self) -> Sequence[str]:
        names = ["nearer"]
        if self.tracked.identity is not None:
            names += ["probe_accuracy", "probe_chance"]
        return [f"{self.name}/{name}" for name in names]

    def __call__(self, trained: Trained) -> dict[str, float]:
        network = trained.networks["augmentation"]
        pair = _Pair(network, self.identity)
        tracked = self.tracked
        sampler = triplets.sampler(tracked.track, tracked.apart, _PAIRS, seed=0)
        chosen = sampler(0)
        anchors, negatives = chosen["image"], chosen["negative"]
        of_anchor, of_negative = (
            pair.codes(tracked.faces.images(rows)) for rows in (anchors, negatives)
        )
        appearance = pair.appearance(tracked.faces.images(anchors), of_anchor)
        drawn = pair.draw(of_negative, appearance)
        code = pair.codes(drawn)
        to_negative, to_anchor = (
            np.sum((code - other) ** 2, axis=1) for other in (of_negative, of_anchor)
        )
        self._sheet = self._rows(pair)
        results = {f"{self.name}/nearer": float(np.mean(to_negative < to_anchor))}
        if tracked.identity is None:
            return results
        identity, track = tracked.identity[anchors], tracked.track[anchors]
        if len(np.unique(track)) < _FOLDS or len(np.unique(identity)) < 2:
            self.notes = dict.fromkeys(self.metric_names[1:], _TOO_FEW)
            return results
        # Faces of one tracklet are alike: those of others train the probe.
        mask = probes.leakage(appearance, identity, track)
        frequent = np.unique(identity, return_counts=True)[1].max()
        found = float(np.mean(mask)), float(frequent / len(identity))
        return results | dict(zip(self.metric_names[1:], found))

    def _rows(self, pair: "_Pair") -> list[list[Array | None]]:
        """Returns a sheet: rows keep the identity, columns the appearance."""
        tracked = self.tracked
        classes = tracked.track if tracked.identity is None else tracked.identity
        rng = np.random.default_rng(0)
        order = rng.permutation(len(classes))
        _, first = np.unique(classes[order], return_index=True)
        rows = order[first[:_SHEET]]
        faces = tracked.faces.images(rows)
        codes = pair.codes(faces)
        appearance = pair.appearance(faces, codes)
        sheet: list[list[Array | None]] = [[None, *faces]]
        for face, code in zip(faces, codes):
            drawn = pair.draw(np.tile(code, (len(rows), 1)), appearance)
            sheet.append([face, *drawn])
        return sheet

    def draw(self, folder: Path) -> list[Path]:
        """Writes the sheet of swaps of the last result."""
        assert self._sheet is not None
        path = Path(folder) / "swaps.png"
        figures.rows(self._sheet, path)
        return [path]


class _Pair:
    """An augmentation network and the encoder of identities it was trained with."""

    def __init__(self, augmentation: Embedder, identity: Embedder):
        network = augmentation.network
        model = models.create(network.architecture, **network.options)
        self._identity, side = identity, network.input_spec.size
        variables = augmentation.variables

        def appearance(images, codes):
            small = resize(images, side) / 127.5 - 1
            mean, _ = model.apply(
                variables, small, networks.condition(codes), method="encode"
            )
            return mean

        def draw(codes, appearance):
            images: Any = model.apply(
                variables, networks.condition(codes), appearance, method="decode"
            )
            return jnp.round(127.5 * (images + 1)).astype(jnp.uint8)

        self._appearance, self._draw = jax.jit(appearance), jax.jit(draw)

    def codes(self, images: Array) -> Array:
        """Returns raw identity codes [n, d] of uint8 images of any size."""
        return self._identity.embed(images, normalize=False, unaligned=True)

    def appearance(self, images: Array, codes: Array) -> Array:
        return _batched(self._appearance, images, codes)

    def draw(self, codes: Array, appearance: Array) -> Array:
        """Returns uint8 images [n, S, S, 3]."""
        return _batched(self._draw, codes, appearance)


def _batched(function: Callable[..., Any], *columns: Array) -> Array:
    """Returns the result of a program of one batch size, over all rows."""
    count, parts = len(columns[0]), []
    for start in range(0, count, _BATCH):
        rows = [column[start : start + _BATCH] for column in columns]
        missing = _BATCH - len(rows[0])
        rows = [np.pad(r, [(0, missing)] + [(0, 0)] * (r.ndim - 1)) for r in rows]
        parts.append(np.asarray(function(*rows))[: _BATCH - missing])
    return np.concatenate(parts)
