"""Exact nearest neighbours, ranks of mates and clusters, in blocks on the device.

All functions take rows of unit length and compare cosines in float32. A block of scores
has `BUDGET` bytes, whatever the sizes of probes and gallery; the gallery is placed on
the device once. Of equal scores the first row of the gallery is the nearer one.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from fr_jax.errors import UserError

Array = np.ndarray

BUDGET = 256 << 20  # bytes of a block of scores
_PROBES = 1024  # rows of a block, at most: more are no faster
_LINKS = 1 << 22  # of rows in one cluster, held at once
TOLERANCE = 1e-6  # of float32 cosines, so that equal rows are joined at 1


class Neighbours(NamedTuple):
    """Scores float32 [P, k], descending, and rows of the gallery int64 [P, k]."""

    scores: Array
    rows: Array


class Mates(NamedTuple):
    """Results of searches [P], one for each probe.

    Attributes:
      rank: int64, of the probe's identity in the gallery, 1 for the first; equal scores
        of other identities count as higher. 0 for a probe without a mate.
      score: float32, of the mate; -inf without one.
      best: float32, highest score of any row of the gallery.
    """

    rank: Array
    score: Array
    best: Array


def top_k(probes: Array, gallery: Array, k: int) -> Neighbours:
    """Returns the k nearest gallery rows of each probe, exactly.

    Args:
      probes, gallery: [P, D] and [G, D], rows of unit length.

    Raises:
      UserError: for rows that are not of unit length, k below 1 or above G, and
        different dimensions.
    """
    probes, gallery = _checked(probes, gallery)
    if not 1 <= k <= len(gallery):
        raise UserError(f"the {k} nearest of a gallery of {len(gallery):,} rows")
    step = _gallery_block(len(gallery), k)
    placed = [
        (start, jnp.asarray(gallery[start : start + step]))
        for start in range(0, len(gallery), step)
    ]
    parts = []
    for block, count in _blocks(probes, min(step, len(gallery))):
        best: Any = None
        for start, rows in placed:
            best = _nearest(block, rows, start, best, k=k)
        parts.append(tuple(np.asarray(one)[:count] for one in best))
    scores, rows = (np.concatenate(column) for column in zip(*parts))
    return Neighbours(scores, rows.astype(np.int64))


@functools.partial(jax.jit, static_argnames="k")
def _nearest(probes, gallery, start, best, *, k):
    scores = jnp.matmul(probes, gallery.T, precision="highest")  # [B, G]
    scores, rows = jax.lax.top_k(scores, min(k, gallery.shape[0]))
    rows += start
    if best is None:
        return scores, rows
    # Earlier rows stand first, so they win ties.
    scores = jnp.concatenate([best[0], scores], axis=1)
    rows = jnp.concatenate([best[1], rows], axis=1)
    scores, order = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(rows, order, axis=1)


def mates(
    probes: Array, probe_labels: Array, gallery: Array, gallery_labels: Array
) -> Mates:
    """Returns the rank and score of each probe's identity in a gallery, exactly.

    The score of an identity is that of its best row. Every score is computed once, so
    that equal rows have equal scores.

    Args:
      probes, probe_labels: [P, D], rows of unit length, and int [P], any numbers.
      gallery, gallery_labels: [G, D] and int [G].

    Raises:
      UserError: as `top_k`, and for labels of another number than rows.
    """
    probes, gallery = _checked(probes, gallery)
    for what, rows, labels in (
        ("probe", probes, probe_labels),
        ("gallery", gallery, gallery_labels),
    ):
        if np.shape(labels) != (len(rows),):
            raise UserError(
                f"{np.shape(labels)} {what} labels for {len(rows):,} embeddings"
            )
    identities, columns = np.unique(gallery_labels, return_inverse=True)
    own = np.searchsorted(identities, probe_labels)
    own = np.minimum(own, len(identities) - 1)
    own = np.where(identities[own] == probe_labels, own, -1).astype(np.int32)
    single = len(identities) == len(gallery)
    placed = jnp.asarray(gallery), jnp.asarray(columns.astype(np.int32))
    parts = []
    starts = 0
    for block, count in _blocks(probes, len(gallery)):
        labels = np.full(len(block), -1, np.int32)
        labels[:count] = own[starts : starts + count]
        number = None if single else len(identities)
        found = _mates(block, jnp.asarray(labels), *placed, identities=number)
        parts.append(tuple(np.asarray(one)[:count] for one in found))
        starts += count
    rank, score, best = (np.concatenate(column) for column in zip(*parts))
    return Mates(rank.astype(np.int64), score, best)


@functools.partial(jax.jit, static_argnames="identities")
def _mates(probes, own, gallery, columns, *, identities):
    scores = jnp.matmul(probes, gallery.T, precision="highest")  # [B, G]
    if identities is not None:  # [B, G] -> [B, identities], the best row of each
        segments = jax.ops.segment_max(scores.T, columns, num_segments=identities)
        scores, columns = segments.T, jnp.arange(identities, dtype=jnp.int32)
    mine = own[:, None] == columns[None]
    mate = jnp.max(jnp.where(mine, scores, -jnp.inf), axis=1)
    higher = jnp.sum((scores >= mate[:, None]) & ~mine, axis=1)
    rank = jnp.where(own < 0, 0, 1 + higher)
    return rank, mate, jnp.max(scores, axis=1)


def approximate(probes: Array, gallery: Array, k: int, *, lists: int = 0) -> Neighbours:
    """Returns k near gallery rows of each probe by an inverted file of faiss.

    For galleries of millions of rows: it searches a sixteenth of the lists, and may
    miss neighbours; measure how many with `recalls`. Rows that were not found are -1.

    Args:
      probes, gallery, k: as in `top_k`.
      lists: number of lists; default 4 sqrt(G).

    Raises:
      UserError: as `top_k`, and without faiss.
    """
    probes, gallery = _checked(probes, gallery)
    if not 1 <= k <= len(gallery):
        raise UserError(f"the {k} nearest of a gallery of {len(gallery):,} rows")
    try:
        import faiss  # type: ignore[import-not-found]
    except ImportError:
        raise UserError(
            "an approximate search needs faiss: pip install 'fr_jax[faiss]'"
        ) from None
    count = lists or max(1, min(int(4 * len(gallery) ** 0.5), len(gallery) // 39))
    centres = faiss.IndexFlatIP(gallery.shape[1])
    index = faiss.IndexIVFFlat(
        centres, gallery.shape[1], count, faiss.METRIC_INNER_PRODUCT
    )
    index.train(gallery)
    index.add(gallery)
    index.nprobe = max(1, count // 16)
    scores, rows = index.search(probes, k)
    return Neighbours(scores, rows)


def mates_of(
    neighbours: Neighbours, probe_labels: Array, gallery_labels: Array
) -> Mates:
    """Returns `mates` of listed neighbours; a mate that is not listed is missed.

    Its rank is the largest int64, so a miss whatever the size of the gallery, and its
    score -inf. Listed identities with an equal score count as higher.

    Args:
      neighbours: rows [P, k]; -1 for none.
      probe_labels, gallery_labels: int [P] and [G].
    """
    mated = np.isin(probe_labels, gallery_labels)
    listed = neighbours.rows >= 0
    labels = np.where(listed, np.asarray(gallery_labels)[neighbours.rows], -1)
    own = listed & (labels == np.asarray(probe_labels)[:, None])
    found = own.any(axis=1)
    place = np.argmax(own, axis=1)
    at_place = np.take_along_axis(neighbours.scores, place[:, None], axis=1)
    rank = np.where(mated, np.iinfo(np.int64).max, 0)
    reach = listed & (neighbours.scores >= at_place)
    for row in np.flatnonzero(found):
        rank[row] = len(np.unique(labels[row, reach[row]]))
    score = np.where(found, at_place[:, 0], -np.inf).astype(np.float32)
    return Mates(rank, score, neighbours.scores[:, 0])


def recalls(
    neighbours: Neighbours, probes: Array, gallery: Array, sample: int
) -> tuple[Array, Array]:
    """Returns probes, int [n], and the shares of their true neighbours found, [n].

    Args:
      neighbours: of `probes`, from `approximate`.
      sample: number of evenly spaced probes that are searched exactly.
    """
    chosen = np.linspace(0, len(probes) - 1, min(sample, len(probes))).astype(int)
    k = neighbours.rows.shape[1]
    exact = top_k(probes[chosen], gallery, k).rows
    found = [np.isin(a, b) for a, b in zip(exact, neighbours.rows[chosen])]
    return chosen, np.mean(found, axis=1)


def components(rows: Array, threshold: float) -> Array:
    """Returns the cluster of each row, int64 [N], numbered from 0 by first row.

    Rows are in one cluster if a chain of pairs with cosines of at least `threshold`,
    less `TOLERANCE`, connects them: single linkage, exactly.

    Raises:
      UserError: for rows that are not of unit length.
    """
    rows, _ = _checked(rows, rows)
    labels, done = np.arange(len(rows)), 0
    placed = jnp.asarray(rows)
    for block, count in _blocks(rows, len(rows)):
        near = np.asarray(_near(block, placed, threshold - TOLERANCE))[:count]
        ends = np.cumsum(near.sum(axis=1))
        cuts = np.searchsorted(ends, np.arange(_LINKS, ends[-1], _LINKS))
        # Links join the clusters so far, so that few are held at once.
        for start, part in zip([0, *cuts], np.split(near, cuts)):
            first, second = np.nonzero(part)
            pairs = labels[first + done + start], labels[second]
            links = np.ones(len(first), bool), pairs
            graph = sparse.coo_array(links, (len(rows), len(rows)))
            labels = csgraph.connected_components(graph, directed=False)[1][labels]
        done += count
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers]


@jax.jit
def _near(probes, rows, threshold):
    return jnp.matmul(probes, rows.T, precision="highest") >= threshold


def _gallery_block(count: int, k: int) -> int:
    """Returns the rows of a gallery that are compared at once."""
    return max(k, min(count, BUDGET // (4 * 64)))


def _blocks(probes: Array, columns: int) -> Iterator[tuple[jax.Array, int]]:
    """Yields blocks of probes of one size, the last one padded, and their numbers."""
    size = int(np.clip(BUDGET // (4 * columns), 1, _PROBES))
    size = min(size, len(probes))
    for start in range(0, len(probes), size):
        block = probes[start : start + size]
        padded = np.zeros((size, probes.shape[1]), np.float32)
        padded[: len(block)] = block
        yield jnp.asarray(padded), len(block)


def _checked(probes: Array, gallery: Array) -> tuple[Array, Array]:
    """Returns both as float32; UserError unless they have rows of unit length."""
    arrays = []
    for what, rows in (("probe", probes), ("gallery", gallery)):
        rows = np.ascontiguousarray(rows, np.float32)
        if rows.ndim != 2 or not len(rows):
            raise UserError(
                f"{what} embeddings have the shape {rows.shape}, not [N, D]"
            )
        check_unit(rows, f"{what} embeddings")
        arrays.append(rows)
    probes, gallery = arrays
    if probes.shape[1] != gallery.shape[1]:
        raise UserError(
            f"probes have {probes.shape[1]} dimensions, the gallery {gallery.shape[1]}"
        )
    return probes, gallery


def check_unit(rows: Array, what: str) -> None:
    """Raises a UserError unless all rows [N, D] have length 1 within 1e-3."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    wrong = ~(np.abs(lengths - 1) <= 1e-3)  # NaN too
    if wrong.any():
        first = int(np.argmax(wrong))
        raise UserError(
            f"{np.sum(wrong):,} of {len(rows):,} {what} are not of unit length, such "
            f"as row {first} with {lengths[first]:.4g}; normalise them"
        )
