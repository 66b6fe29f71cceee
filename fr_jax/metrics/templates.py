"""Verification and identification of templates, sets of images of an identity.

Klare et al., Pushing the Frontiers of Unconstrained Face Detection and Recognition
(CVPR 2015): verification by TAR at FAR, closed-set identification by rank, over splits.
A template is one image or several; a pair of templates is scored in two ways.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fr_jax.metrics import verification

Array = np.ndarray
RANKS = (1, 5)


def averaged(features: Array, templates: Array) -> tuple[Array, Array]:
    """Returns the numbers of the templates [T] and their vectors [T, F].

    'avg': the product of two vectors is the mean cosine over all pairs of images.

    Args:
      features, templates: [N, F], and the number of each image's template, int [N].
    """
    numbers, sums = _sums(verification.l2_normalize(features), templates)
    return numbers, sums / np.unique(templates, return_counts=True)[1][:, None]


def fused(features: Array, confidence: Array, templates: Array) -> tuple[Array, Array]:
    """Returns numbers and vectors, see `averaged`, for cosines of fused features.

    'fuse': a template's feature is the mean of those of its images, weighted by
    confidence [N].
    """
    numbers, sums = _sums(features * confidence[:, None], templates)
    return numbers, verification.l2_normalize(sums)


def verify(scores: Array, same: Array) -> dict[str, float]:
    """Returns the exact tar@far=1e-2 and tar@far=1e-3 of pairs of templates.

    Args:
      scores, same: float and bool, of equal shape.
    """
    scores, same = np.ravel(scores), np.ravel(same)
    return {
        f"tar@far={name}": verification.tar_at_far(scores, same, float(name))[0]
        for name in verification.FARS
    }


def identify(scores: Array, probes: Array, gallery: Array) -> dict[str, float]:
    """Returns rank1 and rank5 of the probes whose identity is in the gallery.

    An identity's score is that of its best template; ties count as errors.

    Args:
      scores: [P, G].
      probes, gallery: the identity of each template [P], [G].

    Raises:
      ValueError: if no probe has an identity of the gallery.
    """
    identities, labels = np.unique(gallery, return_inverse=True)
    best = np.full((len(identities), len(probes)), -np.inf)
    np.maximum.at(best, labels, scores.T)
    mated = np.isin(probes, identities)
    if not mated.any():
        raise ValueError("no probe has an identity of the gallery")
    probe_labels = np.searchsorted(identities, np.asarray(probes)[mated])
    genuine = best[probe_labels, np.flatnonzero(mated)]
    others = np.sum(best[:, mated] >= genuine[None], axis=0) - 1
    return {f"rank{rank}": float(np.mean(others < rank)) for rank in RANKS}


def over_splits(splits: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns mean (NAME) and deviation (NAME_std) of each metric over splits."""
    results = {}
    for name in splits[0]:
        values = [metrics[name] for metrics in splits]
        results[name] = float(np.mean(values))
        results[f"{name}_std"] = float(np.std(values))
    return results


def _sums(rows: Array, templates: Array) -> tuple[Array, Array]:
    """Returns the numbers of the templates [T] and the sums of their rows [T, F]."""
    numbers, labels = np.unique(templates, return_inverse=True)
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, labels, np.asarray(rows, np.float64))
    return numbers, sums
