"""1:1 verification: accuracy over folds, TAR at FAR, best thresholds, intervals.

`scores` are similarities (higher: more similar), `distances` squared distances (lower:
more similar). TAR is the share of genuine pairs accepted, FAR the share of impostor
pairs accepted (ISO/IEC 19795-1: 1 - FNMR, FMR). Both are exact: counts are integers
from sorted scores, without a loop over thresholds.
"""

import math
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray

# insightface's thresholds on squared distances of unit vectors, fr_base 7.2.
ACCURACY_THRESHOLDS = np.arange(0, 4, 0.01)
FAR_THRESHOLDS = np.arange(0, 4, 0.001)
FARS = ("1e-2", "1e-3")  # of published results


def squared_distances(first: Array, second: Array) -> Array:
    """Returns |a - b|^2 in [0, 4] of rows scaled to unit length, float64 [pairs]."""
    return np.sum(np.square(l2_normalize(first) - l2_normalize(second)), axis=1)


def cosines(first: Array, second: Array) -> Array:
    """Returns the cosine of each pair of rows [pairs, D], float64 [pairs]."""
    return np.sum(l2_normalize(first) * l2_normalize(second), axis=1)


def l2_normalize(rows: Array) -> Array:
    """Returns float64 rows of length 1; a zero row stays zero."""
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths == 0, 1.0, lengths)


def contiguous_folds(pairs: int, folds: int = 10) -> Array:
    """Returns the fold of each pair, int [pairs]: contiguous, of equal length.

    If that is impossible, the first folds have one pair more (scikit-learn's KFold).
    """
    sizes = [len(part) for part in np.array_split(range(pairs), folds)]
    return np.repeat(np.arange(folds), sizes)


def stratified_folds(same: Array, folds: int = 10, seed: int = 0) -> Array:
    """Returns the fold of each pair, int [pairs], from a permutation of each label.

    For lists sorted by label, whose contiguous folds would have one label.
    """
    rng = np.random.default_rng(seed)
    numbers = np.empty(len(same), int)
    for label in (True, False):
        rows = rng.permutation(np.flatnonzero(same == label))
        numbers[rows] = np.arange(len(rows)) % folds
    return numbers


class FoldAccuracy(NamedTuple):
    """Accuracies of the folds with genuine and impostor pairs."""

    accuracies: Array  # [folds], each at the threshold of the other folds
    thresholds: Array  # [folds]


def fold_accuracy(
    distances: Array,
    same: Array,
    folds: Array,
    thresholds: Array = ACCURACY_THRESHOLDS,
) -> FoldAccuracy:
    """Returns accuracy per fold with the best threshold of all other folds.

    insightface's protocol: same iff distance < threshold; the first of equally good
    thresholds. For a single fold the threshold is chosen on the evaluated pairs. Folds
    that lack genuine or impostor pairs have no accuracy, but help to choose thresholds.

    Raises:
      ValueError: if no fold has genuine and impostor pairs.
    """
    distances, same = _checked(distances, same)
    impostors, sizes = np.bincount(folds, ~same), np.bincount(folds)
    correct = impostors[:, None] - _below(distances, ~same, folds, thresholds)
    correct += _below(distances, same, folds, thresholds)  # [folds, thresholds]
    train = correct.sum(0) - correct if len(correct) > 1 else correct
    train_sizes = sizes.sum() - sizes if len(correct) > 1 else sizes
    complete = _complete(impostors, sizes)
    best = np.argmax(train[complete] / train_sizes[complete, None], axis=1)
    held_out = correct[complete, best]
    return FoldAccuracy(held_out / sizes[complete], thresholds[best])


def _complete(impostors: Array, sizes: Array) -> Array:
    """Returns the folds with genuine and impostor pairs, from the counts of pairs."""
    complete = np.flatnonzero((impostors > 0) & (impostors < sizes))
    if not len(complete):
        raise ValueError("no fold has both genuine and impostor pairs")
    return complete


class FoldRates(NamedTuple):
    tar: Array  # [folds]
    far: Array  # [folds]


def fold_tar_at_far(
    distances: Array,
    same: Array,
    folds: Array,
    far: float = 1e-3,
    interpolate: bool = True,
) -> FoldRates:
    """Returns TAR and FAR of each fold, at the threshold of the other folds.

    Folds that lack genuine or impostor pairs are left out, as in `fold_accuracy`.

    Args:
      interpolate: the threshold where the other folds' FAR is `far`, by linear
        interpolation between thresholds, the last of those with equal FAR
        (insightface); otherwise the largest threshold whose FAR is at most `far`. 0 if
        no threshold has a FAR of `far` or more.
    """
    distances, same = _checked(distances, same)
    accepted = _below(distances, ~same, folds, FAR_THRESHOLDS)
    impostors = np.bincount(folds, ~same)
    tar, rates = [], []
    for fold in _complete(impostors, np.bincount(folds)):
        rest = (np.arange(len(impostors)) != fold) | (len(impostors) == 1)
        train_far = accepted[rest].sum(0) / max(impostors[rest].sum(), 1)
        threshold = 0.0
        if train_far.max() >= far:
            last = np.searchsorted(train_far, far, side="right") - 1
            if interpolate:
                keep = np.append(np.diff(train_far) != 0, True)  # the last of equal FAR
                threshold = np.interp(far, train_far[keep], FAR_THRESHOLDS[keep])
            elif last >= 0:
                threshold = FAR_THRESHOLDS[last]
        rows = folds == fold
        tar.append(np.mean(distances[rows & same] < threshold))
        rates.append(np.mean(distances[rows & ~same] < threshold))
    return FoldRates(np.array(tar), np.array(rates))


def few_impostors(far: Any, impostors: Any) -> Any:
    """Returns True if a FAR corresponds to fewer than ten impostor pairs.

    A TAR at that FAR is unreliable: it needs at least 10 / FAR impostor pairs.
    """
    return far * impostors < 10 - 1e-9


def tar_at_far(scores: Array, same: Array, far: float) -> tuple[float, float]:
    """Returns the exact pooled TAR at the given FAR, and its similarity threshold.

    The threshold is the lowest that accepts at most far * impostors impostor pairs;
    pairs with a score >= threshold are accepted, so ties are treated alike.

    Raises:
      ValueError: without genuine or without impostor pairs.
    """
    scores, same = _checked(scores, same)
    genuine, impostor = scores[same], np.sort(scores[~same])[::-1]
    if not len(genuine) or not len(impostor):
        raise ValueError("TAR at FAR needs pairs of both kinds")
    allowed = math.floor(far * len(impostor) + 1e-9)
    if allowed >= len(impostor):
        return 1.0, -math.inf
    # Strictly above the first impostor pair that must be rejected.
    threshold = np.nextafter(impostor[allowed], np.inf)
    return float(np.mean(genuine >= threshold)), float(threshold)


def roc(scores: Array, same: Array) -> tuple[Array, Array]:
    """Returns (FAR, TAR) of the whole curve, one point per distinct similarity."""
    scores, same = _checked(scores, same)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    genuine = np.cumsum(same[order])[ends]
    impostor = ends + 1 - genuine
    far, tar = (np.append(0.0, n / max(n[-1], 1)) for n in (impostor, genuine))
    return far, tar


def area_under_roc(scores: Array, same: Array) -> float:
    """Returns P(genuine score > impostor score) + P(equal scores) / 2."""
    far, tar = roc(scores, same)
    return float(np.trapezoid(tar, far))


def equal_error_rate(scores: Array, same: Array) -> float:
    """Returns the error rate where FAR = 1 - TAR, interpolated along the ROC."""
    far, tar = roc(scores, same)
    difference = far - (1 - tar)  # rises from -1 to 1
    after = int(np.argmax(difference >= 0))
    before = max(after - 1, 0)
    rise = difference[after] - difference[before]
    part = 0.0 if rise == 0 else -difference[before] / rise
    return float(far[before] + part * (far[after] - far[before]))


def best_accuracy(scores: Array, same: Array) -> tuple[float, float]:
    """Returns the highest accuracy of any threshold on these pairs, and the threshold.

    Inter-Prototype's protocol: candidates are the similarities themselves, same iff
    score >= threshold; of equally good ones, the first in the order of the list.
    Optimistic, since the threshold is chosen on the evaluated pairs.
    """
    scores, same = _checked(scores, same)
    order = np.argsort(-scores, kind="stable")
    genuine = np.cumsum(same[order])
    # Accepting the top k + 1 pairs, correct are: their genuine, the others' impostors.
    correct = 2 * genuine - np.arange(1, len(scores) + 1) + np.sum(~same)
    at = np.searchsorted(-scores[order], -scores, side="right") - 1  # ties together
    best = int(np.argmax(correct[at]))
    return float(correct[at[best]] / len(scores)), float(scores[best])


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a proportion."""
    if trials == 0:
        return 0.0, 1.0
    z = 1.96
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _checked(scores: Array, same: Array) -> tuple[Array, Array]:
    scores, same = np.asarray(scores, np.float64), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"{scores.shape} scores for {same.shape} labels")
    if not np.isfinite(scores).all():
        count = np.sum(~np.isfinite(scores))
        raise ValueError(f"{count} scores are not finite numbers")
    return scores, same


def _below(values: Array, rows: Array, folds: Array, thresholds: Array) -> Array:
    """Returns the number of values below a threshold, int [folds, thresholds].

    Args:
      rows: bool [pairs], the values to count.
    """
    parts = [values[rows & (folds == fold)] for fold in range(folds.max() + 1)]
    return np.stack([np.searchsorted(np.sort(part), thresholds) for part in parts])
