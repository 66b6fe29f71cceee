"""Verification and identification of templates, sets of images of an identity.

Klare et al., Pushing the Frontiers of Unconstrained Face Detection and Recognition
(CVPR 2015): verification by TAR at FAR, closed-set identification by rank, over splits.
A template is one image or several; a pair of templates is scored in two ways.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fr_jax.metrics import identification, verification

Array = np.ndarray
RANKS = (1, 5)
FPIRS = ("1e-1", "1e-2")


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
    """Returns rank1 and rank5 of mated probes, and TPIR at FPIR if others are not.

    An identity's score is that of its best template; ties count as errors.

    Args:
      scores: [P, G].
      probes, gallery: the identity of each template [P], [G].

    Raises:
      ValueError: if no probe has an identity of the gallery.
    """
    found = identification.searches(scores, probes, gallery)
    if not found.mated.any():
        raise ValueError("no probe has an identity of the gallery")
    rates = {f"rank{k}": identification.rank_k(found.ranks, k) for k in RANKS}
    if len(found.best):
        for fpir in FPIRS:
            at = identification.tpir_at_fpir(*found[1:], fpir)
            rates[f"tpir@fpir={fpir}"] = at.tpir
    return rates


def over_splits(splits: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns mean (NAME) and deviation (NAME_std) of metrics that all splits have."""
    results = {}
    for name in splits[0]:
        if not all(name in metrics for metrics in splits):
            continue
        values = [metrics[name] for metrics in splits]
        results[name] = float(np.mean(values))
        results[f"{name}_std"] = float(np.std(values))
    return results


def media_means(
    features: Iterable[Array], media: Array, *, num_media: int
) -> tuple[Array, Array]:
    """Returns the means of the features of each medium, float32 [M, F], and counts [M].

    A medium is an image or a video, whose frames count as one. Features come in blocks,
    so that those of all images need not be in memory.

    Args:
      features: consecutive blocks [n, F] of the features of N images.
      media: int [N], the medium of each image, in 0 .. num_media - 1.

    Raises:
      ValueError: for another number of features than N.
    """
    media, done = np.asarray(media), 0
    sums = np.zeros((0, 0), np.float32)
    for block in features:
        if not len(sums):
            sums = np.zeros((num_media, block.shape[1]), np.float32)
        own = media[done : done + len(block)]
        done += len(block)
        if len(own) < len(block):
            break
        order = np.argsort(own, kind="stable")
        numbers, starts = np.unique(own[order], return_index=True)
        rows = np.asarray(block, np.float64)[order]
        sums[numbers] += np.add.reduceat(rows, starts, axis=0)
    if done != len(media):
        raise ValueError(f"{done} or more features for {len(media)} images")
    counts = np.bincount(media, minlength=num_media)
    sums /= np.maximum(counts, 1)[:, None]
    return sums, counts


def pooled(means: Array, template: Array, *, unit_media: bool = False) -> Array:
    """Returns templates of unit length, float32 [T, F]: sums over their media.

    The order of IJB-B and IJB-C: frames are averaged to media, then media are summed
    (Whitelam et al. 2017; insightface). A template without length stays zero.

    Args:
      means: [M, F], of `media_means`.
      template: int [M], the template of each medium, ascending, every one from 0 on.
      unit_media: scale the means to length 1 first (MagFace).
    """
    template = np.asarray(template)
    starts = np.flatnonzero(np.diff(template, prepend=-1))
    ends = np.append(starts[1:], len(template))
    rows = np.empty((len(starts), means.shape[1]), np.float32)
    for first in range(0, len(starts), 1024):  # few media at once in float64
        last = min(first + 1024, len(starts))
        some = np.asarray(means[starts[first] : ends[last - 1]], np.float64)
        if unit_media:
            some = verification.l2_normalize(some)
        sums = np.add.reduceat(some, starts[first:last] - starts[first], axis=0)
        rows[first:last] = verification.l2_normalize(sums)
    return rows


def pair_scores(templates: Array, first: Array, second: Array) -> Array:
    """Returns the cosine of each pair of templates, float32 [P].

    Pairs are taken template by template: where a template has many, its products with
    all others are faster than those with its partners.

    Args:
      templates: float32 [T, F], of unit length.
      first, second: int [P].
    """
    first, second = np.asarray(first), np.asarray(second)
    scores = np.empty(len(first), np.float32)
    sorted_ = bool(np.all(first[1:] >= first[:-1]))
    order = None if sorted_ else np.argsort(first, kind="stable")
    in_order = first if order is None else first[order]
    ends = np.searchsorted(in_order, np.arange(len(templates)), side="right")
    size = max(1, _SCORES // len(templates))
    for low in range(0, len(templates), size):
        high = min(low + size, len(templates))
        start, end = (0 if low == 0 else ends[low - 1]), ends[high - 1]
        rows = slice(start, end) if order is None else order[start:end]
        a, b = first[rows], second[rows]
        if (high - low) * len(templates) <= _DENSE * (end - start):
            scores[rows] = (templates[low:high] @ templates.T)[a - low, b]
            continue
        products = [
            np.einsum("pf,pf->p", templates[a[part]], templates[b[part]])
            for part in np.array_split(
                np.arange(end - start), -(-(end - start) // 65536) or 1
            )
        ]
        scores[rows] = np.concatenate(products)
    return scores


def tar_at_nearest_far(
    scores: Array, same: Array, fars: Sequence[float | str]
) -> list[float]:
    """Returns the TAR where the FAR of the ROC is nearest to each of `fars`.

    insightface's choice for IJB, beside the exact `verification.tar_at_far`: the
    nearest FAR may be above the wanted one. Of the ROC, points on a line between their
    neighbours are left out, and of equally near FARs the largest is taken, with its
    highest TAR, as by scikit-learn's `roc_curve` in descending order.

    Raises:
      Undefined: without genuine or without impostor pairs.
    """
    far, tar = verification.roc(scores, same)
    genuine = int(np.sum(same))
    impostors = len(same) - genuine
    # Counts: differences of rates are rounded. (0, 0) is added to the thinned ROC.
    counts = np.rint(far[1:] * impostors), np.rint(tar[1:] * genuine)
    bends = (np.diff(counts[0], 2) != 0) | (np.diff(counts[1], 2) != 0)
    ends = np.ones(min(len(far) - 1, 2), bool)
    bends = np.concatenate([ends[:1], bends, ends[1:]])
    kept = np.append(0, 1 + np.flatnonzero(bends))[::-1]
    return [float(tar[kept[np.argmin(np.abs(far[kept] - float(x)))]]) for x in fars]


_SCORES = 8 << 20  # cosines computed at once
_DENSE = 64  # products per pair, up to which a matrix product is faster


def _sums(rows: Array, templates: Array) -> tuple[Array, Array]:
    """Returns the numbers of the templates [T] and the sums of their rows [T, F]."""
    numbers, labels = np.unique(templates, return_inverse=True)
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, labels, np.asarray(rows, np.float64))
    return numbers, sums
