"""Verification and identification of templates, sets of images of an identity.

Klare et al., Pushing the Frontiers of Unconstrained Face Detection and Recognition
(CVPR 2015): verification by TAR at FAR, closed-set identification by rank, over splits.
A template is one image or several; a pair of templates is scored in two ways. Rates
over splits are in `template_splits`.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fr_jax.metrics import Undefined, counts, verification

Array = np.ndarray


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
    return NearestFar(scores, same, fars)()


class NearestFar:
    """`tar_at_nearest_far` of pairs that are sorted once, under any weights.

    Raises:
      Undefined: without genuine or without impostor pairs.
    """

    def __init__(self, scores: Array, same: Array, fars: Sequence[float | str]):
        scores, same = counts.checked(scores, same)
        self._fars = [float(far) for far in fars]
        order = np.argsort(-scores)
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        self._ends = ends.astype(np.int32)
        self._order = order.astype(np.int32)
        self._same = same[order]
        for kind, some in (("genuine", same.any()), ("impostor", not same.all())):
            if not some:
                raise Undefined(f"no {kind} pairs")

    def __call__(self, weights: Array | None = None) -> list[float]:
        """Returns the TARs.

        Args:
          weights: int [P], how often each pair is repeated; None: once.
        """
        # Only pairs of high scores matter for low FARs; all if these are not enough.
        count = len(self._order)
        some = min(count, int(2 * max(self._fars) * count) + 1)
        return self._of_first(some, weights) or self._of_first(count, weights) or []

    def _of_first(self, count: int, weights: Array | None) -> list[float] | None:
        """Returns the TARs, None if the first `count` pairs do not determine them."""
        whole = count == len(self._order)
        last = int(np.searchsorted(self._ends, count))
        ends, same = self._ends[:last], self._same[:count]
        times = np.int64(1) if weights is None else weights[self._order[:count]]
        genuine = np.cumsum(same * times)[ends]
        impostors = np.cumsum(~same * times)[ends]
        if weights is None:
            totals = int(np.sum(self._same)), int(np.sum(~self._same))
        else:
            of_genuine = int(np.sum(weights[self._order[self._same]]))
            totals = of_genuine, int(np.sum(weights)) - of_genuine
        for kind, total in zip(("genuine", "impostor"), totals):
            if not total:
                raise Undefined(f"no {kind} pairs")
        if weights is not None:  # scores of no pair are no points
            moved = np.diff(genuine, prepend=0) + np.diff(impostors, prepend=0) > 0
            genuine, impostors = genuine[moved], impostors[moved]
        if not len(genuine):
            return None
        # Points on a line are left out before (0, 0) is added.
        bends = (np.diff(impostors, 2) != 0) | (np.diff(genuine, 2) != 0)
        outer = np.append(True, whole)[: min(len(genuine), 2)]
        kept = np.flatnonzero(np.concatenate([outer[:1], bends, outer[1:]]))
        far = np.append(0, impostors[kept])[::-1] / totals[1]
        tar = np.append(0, genuine[kept])[::-1] / totals[0]
        best = [int(np.argmin(np.abs(far - x))) for x in self._fars]
        if not whole and max(far[best]) == far[0]:  # others may be as near
            return None
        return [float(tar[one]) for one in best]


_SCORES = 8 << 20  # cosines computed at once
_DENSE = 64  # products per pair, up to which a matrix product is faster


def _sums(rows: Array, templates: Array) -> tuple[Array, Array]:
    """Returns the numbers of the templates [T] and the sums of their rows [T, F]."""
    numbers, labels = np.unique(templates, return_inverse=True)
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, labels, np.asarray(rows, np.float64))
    return numbers, sums
