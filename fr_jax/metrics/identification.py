"""Closed-set identification: rank-1, overall and by pose.

Scores are cosines. Rank-1 is the share of probes whose nearest gallery image has the
same identity (ISO/IEC 19795-1: 1 - FNIR at rank 1 of a closed set).
"""

import numpy as np

from fr_jax.metrics.verification import l2_normalize

Array = np.ndarray


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
    return np.asarray(gallery_labels)[cosines.argmax(axis=1)] == np.asarray(labels)


def by_yaw(hits: Array, yaws: Array) -> dict[int, float]:
    """Returns rank-1 by |yaw| in whole degrees, ascending; left and right together."""
    angles = np.round(np.abs(yaws)).astype(int)
    return {
        int(angle): float(np.mean(hits[angles == angle])) for angle in np.unique(angles)
    }


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
    """Returns rank-1 [most, draws] of templates with 1 to `most` images per identity.

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
    rates = {name: np.empty((most, draws)) for name in weights}
    for name, weight in weights.items():
        for count in range(1, most + 1):
            chosen = rows[:, :count]
            shares = weight[chosen][..., None]
            # Exactly 1 for a single image, so that 'mean' and 'confidence' are equal.
            shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-6)
            fused = (features[chosen] * shares).sum(axis=1)
            hits = rank_one(fused, repeated, gallery_features, gallery_labels)
            rates[name][count - 1] = hits.reshape(draws, -1).mean(axis=1)
    return rates
