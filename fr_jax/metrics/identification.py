"""Identification, closed-set by rank and open-set at a FPIR; rank-1 by pose.

Scores are cosines. Rank-1 is the share of probes whose nearest gallery image has the
same identity (ISO/IEC 19795-1: 1 - FNIR at rank 1 of a closed set). Ranks count from 1;
an identity that scores as high as the probe's own comes before it, so ties count as
errors. A search is mated if the probe's identity is in the gallery. Rates are exact.
"""

from typing import Any, NamedTuple

import numpy as np

from fr_jax.metrics import Undefined
from fr_jax.metrics.counts import lowest_threshold
from fr_jax.metrics.verification import l2_normalize

Array = np.ndarray


class SearchOutcome(NamedTuple):
    """Outcome of the search of P probes in a gallery, M of them mated."""

    mated: Array  # bool [P], probes whose identity is in the gallery
    ranks: Array  # int [M] from 1, of the mate among the gallery's identities
    scores: Array  # float [M], of the mate
    best: Array  # float [P - M], highest score of each non-mated search


def searches(scores: Array, probes: Array, gallery: Array) -> SearchOutcome:
    """Returns ranks and scores of an exhaustive search.

    An identity's score is that of its best entry in the gallery.

    Args:
      scores: [P, G], finite.
      probes, gallery: identities [P] and [G].

    Raises:
      ValueError: for scores that are not finite or have another shape.
      Undefined: for an empty gallery.
    """
    scores, probes = np.asarray(scores), np.asarray(probes)
    if scores.shape != (len(probes), len(gallery)):
        raise ValueError(
            f"scores {scores.shape} of {len(probes)} probes and {len(gallery)} entries"
        )
    _check_finite(scores)
    if not len(gallery):
        raise Undefined("the gallery is empty")
    identities, codes = np.unique(gallery, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(identities)))
    best = np.maximum.reduceat(scores[:, order], starts, axis=1)  # [P, identities]
    mated = np.isin(probes, identities)
    rows = best[mated]
    mates = np.searchsorted(identities, probes[mated])
    own = rows[np.arange(len(rows)), mates]
    ranks = np.sum(rows >= own[:, None], axis=1)
    return SearchOutcome(mated, ranks, own, best[~mated].max(axis=1))


def cmc(ranks: Array, most: int) -> Array:
    """Returns the cumulative match characteristic [most]: share of ranks up to 1, 2, …

    Args:
      ranks: int [M] from 1, of the mates; one that is not among the candidates of a
        search has a rank above `most`.

    Raises:
      ValueError: for ranks below 1.
      Undefined: without mated searches.
    """
    ranks = _checked_ranks(ranks)
    counts = np.bincount(np.minimum(ranks, most + 1), minlength=most + 2)
    return np.cumsum(counts[1 : most + 1]) / len(ranks)


def rank_k(ranks: Array, rank: int) -> float:
    """Returns the share of mates within the first `rank`, see `cmc`."""
    ranks = _checked_ranks(ranks)
    return int(np.sum(ranks <= rank)) / len(ranks)


class AtFpir(NamedTuple):
    """Open-set rates at the lowest threshold that keeps a FPIR."""

    tpir: float  # mated searches with the mate in rank and at the threshold
    fpir: float  # non-mated searches with a candidate at the threshold
    threshold: float  # candidates with score >= threshold are returned; -inf for all
    hits: int
    false_positives: int


def tpir_at_fpir(
    mated_ranks: Array,
    mated_scores: Array,
    nonmated_scores: Array,
    fpir: Any,
    rank: int = 1,
) -> AtFpir:
    """Returns TPIR = 1 - FNIR(N, rank, T) at FPIR(N, T) of at most `fpir`.

    NIST FRTE 1:N (IR 8271): FPIR is the share of non-mated searches with a candidate at
    or above the threshold T, FNIR that of mated searches whose mate is not among the
    first `rank` candidates or below T. T is the lowest that keeps the FPIR; ties are
    returned together.

    Args:
      mated_ranks, mated_scores: rank from 1 and score of the mate, [M].
      nonmated_scores: highest score of each non-mated search, [L].
      fpir: number or text, see `verification.counts_at_far`.

    Raises:
      ValueError: for ranks below 1, unequal lengths and scores that are not finite.
      Undefined: without mated or without non-mated searches.
    """
    ranks, scores = _checked_ranks(mated_ranks), np.asarray(mated_scores, np.float64)
    others = np.asarray(nonmated_scores, np.float64)
    if ranks.shape != scores.shape:
        raise ValueError(f"{ranks.shape} ranks for {scores.shape} scores")
    _check_finite(others)
    _check_finite(scores[ranks <= rank])
    if not len(others):
        raise Undefined("no non-mated searches")
    threshold = lowest_threshold(others, fpir)
    hits = int(np.sum((ranks <= rank) & (scores >= threshold)))
    false = int(np.sum(others >= threshold))
    return AtFpir(hits / len(ranks), false / len(others), threshold, hits, false)


def _checked_ranks(ranks: Array) -> Array:
    ranks = np.asarray(ranks)
    if not len(ranks):
        raise Undefined("no mated searches")
    if ranks.min() < 1:
        raise ValueError(f"rank {ranks.min()}; ranks count from 1")
    return ranks


def _check_finite(scores: Array) -> None:
    if count := int(np.sum(~np.isfinite(scores))):
        raise ValueError(f"{count} scores are not finite numbers")


def gallery(
    labels: Array,
    yaws: Array,
    lights: Array | None = None,
    sessions: Array | None = None,
    *,
    neutral: int = 7,
) -> Array:
    """Returns one row per identity, its gallery image, in ascending order.

    Multi-PIE's rule as in DR-GAN: the most frontal, in neutral light (frontal flash,
    shot 07) if any, of the earliest session; of several equal images, the first.

    Args:
      labels, yaws: [N] identities, and degrees (NaN is not frontal).
      lights, sessions: [N] numbers; None or -1 if unknown.
      neutral: the light's number.
    """
    count = len(labels)
    lights, sessions = (
        np.full(count, -1) if x is None else np.asarray(x) for x in (lights, sessions)
    )
    angle = np.where(np.isnan(yaws), np.inf, np.abs(yaws))
    order = np.lexsort((np.arange(count), sessions, lights != neutral, angle))
    _, first = np.unique(np.asarray(labels)[order], return_index=True)
    return np.sort(order[first])


def rank_one(
    probes: Array, labels: Array, gallery_features: Array, gallery_labels: Array
) -> Array:
    """Returns a mask [P]: probes whose nearest gallery image has their identity.

    Args:
      probes, labels: features [P, F] of any norm, and identities [P].
      gallery_features, gallery_labels: [G, F] and [G].
    """
    cosines = l2_normalize(probes) @ l2_normalize(gallery_features).T
    found = searches(cosines, labels, gallery_labels)
    hits = np.zeros(len(cosines), bool)
    hits[found.mated] = found.ranks == 1
    return hits


def by_yaw(yaws: Array) -> dict[int, Array]:
    """Returns rows by |yaw| in whole degrees, ascending; left and right together."""
    angles = np.round(np.abs(yaws)).astype(int)
    return {int(angle): np.flatnonzero(angles == angle) for angle in np.unique(angles)}


def number_of_images(
    features: Array,
    confidence: Array,
    labels: Array,
    gallery_features: Array,
    gallery_labels: Array,
    *,
    most: int = 6,
    draws: int = 10,
) -> dict[str, Array]:
    """Returns the hits of templates with 1 to `most` images per identity.

    Bool [most, draws, identities], identities in ascending order: their mean over the
    last axis is rank-1.

    'mean' fuses images with equal weights, 'confidence' with their confidence. Both use
    the same random images: for each draw and identity, row n has the first n + 1 of a
    permutation of its images.

    Raises:
      ValueError: if an identity has fewer than `most` images.
    """
    rng = np.random.default_rng(0)
    identities, counts = np.unique(labels, return_counts=True)
    if counts.min() < most:
        raise ValueError(f"an identity has {counts.min()} images, fewer than {most}")
    repeated = np.tile(identities, draws)
    rows = [rng.permutation(np.flatnonzero(labels == one))[:most] for one in repeated]
    rows = np.stack(rows)  # [draws * identities, most]
    weights = {"mean": np.ones_like(confidence), "confidence": confidence}
    found = {name: np.empty((most, draws, len(identities)), bool) for name in weights}
    for name, weight in weights.items():
        for count in range(1, most + 1):
            chosen = rows[:, :count]
            shares = weight[chosen][..., None]
            # Exactly 1 for a single image, so that 'mean' and 'confidence' are equal.
            shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-6)
            fused = (features[chosen] * shares).sum(axis=1)
            hits = rank_one(fused, repeated, gallery_features, gallery_labels)
            found[name][count - 1] = hits.reshape(draws, -1)
    return found
