"""1:1 verification over folds: accuracy and TAR at thresholds of the other folds.

`distances` are lower for more similar pairs; a pair is accepted if its distance is
below the threshold. Pairs may have integer weights, as in `counts`.
"""

from typing import NamedTuple

import numpy as np

from fr_jax.metrics import Undefined
from fr_jax.metrics.counts import checked

Array = np.ndarray

# insightface's thresholds on squared distances of unit vectors, fr_base 7.2.
ACCURACY_THRESHOLDS = np.arange(0, 4, 0.01)
FAR_THRESHOLDS = np.arange(0, 4, 0.001)


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
    folds: Array  # int [folds], their numbers


class FoldRates(NamedTuple):
    """Rates of the folds with genuine and impostor pairs."""

    tar: Array  # [folds]
    far: Array  # [folds]
    folds: Array  # int [folds], their numbers


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

    Args:
      distances: [P], or [folds, P] where each fold has distances of its own, see
        `centred_angles`.
      same, folds: bool and int [P].
      thresholds: ascending.

    Raises:
      Undefined: if no fold has genuine and impostor pairs.
    """
    return AccuracySearch(distances, same, folds, thresholds)()


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
    return FarSearch(distances, same, folds)(far, interpolate)


class AccuracySearch:
    """Accuracy per fold under any weights, see `fold_accuracy`.

    Args:
      of_pairs: True if the thresholds are the distances themselves and one more. Under
        weights, distances of pairs without weight are no candidates.
    """

    def __init__(
        self,
        distances: Array,
        same: Array,
        folds: Array,
        thresholds: Array = ACCURACY_THRESHOLDS,
        of_pairs: bool = False,
    ):
        distances, self._same, self._folds = _checked_folds(distances, same, folds)
        self._thresholds, self._of_pairs = np.asarray(thresholds), of_pairs
        self._num_folds = int(self._folds.max()) + 1
        # Below the n-th threshold are the pairs with a bin of at most n.
        self._bins = np.searchsorted(self._thresholds, distances, side="right")

    def __call__(self, weights: Array | None = None) -> FoldAccuracy:
        sizes, impostors = _sizes(self._same, self._folds, weights)
        complete = complete_folds(impostors, sizes)
        several = len(sizes) > 1
        if self._bins.ndim == 1:
            correct = impostors[:, None] + self._gain(self._bins, weights)
            train = correct.sum(0) - correct if several else correct
            train, held_out = train[complete], correct[complete]
        else:
            gains = [self._gain(self._bins[fold], weights) for fold in complete]
            correct = impostors[:, None] + np.stack(gains)  # [complete, folds, T]
            held_out = correct[np.arange(len(complete)), complete]
            train = correct.sum(1) - held_out if several else held_out
        best = np.argmax(train, axis=1)
        accuracies = held_out[np.arange(len(complete)), best] / sizes[complete]
        chosen = self._thresholds[self._present(best, weights)]
        return FoldAccuracy(accuracies, chosen, complete)

    def _gain(self, bins: Array, weights: Array | None) -> Array:
        """Returns accepted genuine less accepted impostor pairs, int [folds, T]."""
        width = len(self._thresholds) + 1
        signs = np.where(self._same, 1, -1)
        values = signs if weights is None else signs * weights
        cells = self._folds * width + bins
        sums = np.bincount(cells, values, minlength=self._num_folds * width)
        sums = sums.reshape(self._num_folds, width)[:, :-1]
        return np.cumsum(sums, axis=1).astype(np.int64)

    def _present(self, best: Array, weights: Array | None) -> Array:
        """Returns the candidates that the weighted pairs have: the next ones."""
        if weights is None or not self._of_pairs:
            return best
        present = np.zeros(len(self._thresholds), bool)
        present[self._bins[weights > 0] - 1] = True
        present[-1] = True
        numbers = np.flatnonzero(present)
        return numbers[np.searchsorted(numbers, best)]


class FarSearch:
    """TAR and FAR per fold under any weights, see `fold_tar_at_far`."""

    def __init__(self, distances: Array, same: Array, folds: Array):
        self._distances, self._same, self._folds = _checked_folds(
            distances, same, folds
        )
        impostors = np.flatnonzero(~self._same)
        bins = np.searchsorted(FAR_THRESHOLDS, self._distances, side="right")
        width = len(FAR_THRESHOLDS) + 1
        self._impostors = impostors
        self._cells = (self._folds * width + bins)[impostors]
        self._shape = int(self._folds.max()) + 1, width

    def __call__(
        self,
        far: float = 1e-3,
        interpolate: bool = True,
        weights: Array | None = None,
    ) -> FoldRates:
        sizes, impostors = _sizes(self._same, self._folds, weights)
        complete = complete_folds(impostors, sizes)
        values = None if weights is None else weights[self._impostors]
        cells = np.bincount(self._cells, values, minlength=int(np.prod(self._shape)))
        cells = cells.reshape(self._shape)[:, :-1]
        several = len(sizes) > 1
        train = (cells.sum(0) - cells if several else cells)[complete]
        totals = (impostors.sum() - impostors if several else impostors)[complete]
        rates = np.cumsum(train, axis=1) / np.maximum(totals, 1)[:, None]
        thresholds = np.zeros(len(sizes))
        thresholds[complete] = [_far_threshold(row, far, interpolate) for row in rates]
        accepted = self._distances < thresholds[self._folds]
        values = accepted if weights is None else accepted * weights
        kinds = np.bincount(2 * self._folds + self._same, values, 2 * len(sizes))
        kinds = kinds.reshape(-1, 2)[complete]
        genuine = (sizes - impostors)[complete]
        tar, rates = kinds[:, 1] / genuine, kinds[:, 0] / impostors[complete]
        return FoldRates(tar, rates, complete)


def _far_threshold(rates: Array, far: float, interpolate: bool) -> float:
    """Returns the threshold of ascending rates [T], see `fold_tar_at_far`."""
    if rates[-1] < far:
        return 0.0
    last = int(np.searchsorted(rates, far, side="right")) - 1
    if not interpolate:
        return FAR_THRESHOLDS[last] if last >= 0 else 0.0
    if last + 1 == len(rates):
        return FAR_THRESHOLDS[last]
    following = int(np.searchsorted(rates, rates[last + 1], side="right")) - 1
    if last < 0:
        return FAR_THRESHOLDS[following]
    ends = [last, following]
    return float(np.interp(far, rates[ends], FAR_THRESHOLDS[ends]))


def distance_thresholds(distances: Array) -> Array:
    """Returns the thresholds that tell distances [P] in [0, 4] apart, ascending.

    Inter-Prototype's candidates: every distance, and one above all of them.
    """
    return np.append(np.unique(distances), 4.1)


def centred_angles(first: Array, second: Array, folds: Array) -> Array:
    """Returns angles in [0, 1] of pairs about the mean of other folds, [folds, P].

    MagFace's protocol (fr_base 7.2): for each fold, the mean of the embeddings of the
    other folds' pairs is subtracted from raw embeddings; arccos(cosine) / pi. For a
    single fold the mean is its own.

    Args:
      first, second: raw embeddings [P, D].
      folds: int [P].
    """
    first, second = (np.asarray(rows, np.float64) for rows in (first, second))
    num_folds = int(np.max(folds)) + 1
    angles = np.empty((num_folds, len(first)))
    for fold in range(num_folds):
        train = (folds != fold) | (num_folds == 1)
        mean = (first[train].mean(0) + second[train].mean(0)) / 2
        x, y = first - mean, second - mean
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        cosine = np.sum(x * y, axis=1) / np.where(lengths == 0, 1.0, lengths)
        angles[fold] = np.arccos(np.clip(cosine, -1, 1)) / np.pi
    return angles


def complete_folds(impostors: Array, sizes: Array) -> Array:
    """Returns the folds with genuine and impostor pairs, from the counts of pairs.

    Raises:
      Undefined: if there are none.
    """
    complete = np.flatnonzero((impostors > 0) & (impostors < sizes))
    if not len(complete):
        raise Undefined("no fold has both genuine and impostor pairs")
    return complete


def _sizes(same: Array, folds: Array, weights: Array | None) -> tuple[Array, Array]:
    """Returns the number of pairs and of impostor pairs of each fold, int [folds]."""
    values = np.ones(len(same)) if weights is None else weights
    impostors = np.bincount(folds, ~same * values)
    return np.bincount(folds, values).astype(np.int64), impostors.astype(np.int64)


def _checked_folds(distances: Array, same: Array, folds: Array):
    distances, folds = np.asarray(distances, np.float64), np.asarray(folds)
    rows = np.atleast_2d(distances)
    for row in rows:
        _, same = checked(row, same)
    if folds.shape != same.shape:
        raise ValueError(f"{folds.shape} folds for {same.shape} labels")
    if folds.min() < 0:
        raise ValueError(f"fold {folds.min()} is negative")
    if distances.ndim == 2 and len(distances) != folds.max() + 1:
        raise ValueError(f"distances for {len(distances)} of {folds.max() + 1} folds")
    return distances, same, folds
