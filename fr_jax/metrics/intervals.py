"""Bootstrap intervals of verification metrics, over identities or over pairs.

A resample is a vector of integer weights of the pairs, and a metric of a resample is
that of a list in which each pair is repeated by its weight. Identities are drawn with
replacement: one that is drawn n times has its genuine pairs n times, and an impostor
pair of identities drawn n and m times counts n * m times. Pairs of one identity are not
independent, so that intervals over pairs are too short where identities are known.
Bolle, Ratha, Pankanti: Error analysis of pattern recognition systems, the subsets
bootstrap (2004); Poh, Martin, Bengio: Performance generalization in biometric
authentication using joint user-specific and sample bootstraps (2007).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fr_jax.metrics import Undefined, counts
from fr_jax.metrics import folds as over_folds
from fr_jax.metrics.verification import FARS, P_TARGET

Array = np.ndarray
Statistics = Callable[[Array | None], Mapping[str, float]]
LEVEL = 0.95
RESAMPLES = 1000
OVER_FOLDS = ("insightface", "curricularface", "magface", "kfold")
FOLD_RATES = ("tar@far=1e-3:insightface", "tar@far=1e-3_std:insightface")
PROTOCOLS = (*OVER_FOLDS, "paper", "pooled")


class Interval(NamedTuple):
    """Bounds of a percentile interval; NaN where no resample has the metric."""

    low: float
    high: float


class Difference(NamedTuple):
    """Metric of an embedder less that of the first one, with its interval."""

    difference: float
    low: float
    high: float


def number_of_resamples(count: int, many: int = 1_000_000) -> int:
    """Returns the default number of resamples: 1,000, of more than `many` pairs 200."""
    return RESAMPLES if count <= many else 200


def identity_weights(
    first: Array,
    second: Array,
    num_identities: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Iterator[Array]:
    """Yields weights int [P] of resampled identities.

    The identities that pairs have are drawn with equal probabilities, as often as there
    are identities.

    Args:
      first, second: identity of both images of each pair, int [P]; pairs of equal
        identities are genuine.
      num_identities: identities are below it.

    Raises:
      ValueError: for identities out of range and other shapes.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"identities of shapes {first.shape} and {second.shape}")
    lowest = min(first.min(), second.min())
    highest = max(first.max(), second.max())
    if lowest < 0 or highest >= num_identities:
        raise ValueError(
            f"identities {lowest} to {highest} are not in 0 to {num_identities - 1}"
        )
    return _identity_weights(first, second, resamples, seed)


def _identity_weights(first, second, resamples, seed) -> Iterator[Array]:
    present = np.zeros(max(first.max(), second.max()) + 1, bool)
    present[first] = present[second] = True
    number, codes = int(present.sum()), np.cumsum(present) - 1
    # The second identity of a genuine pair is one that is always drawn once.
    first, second = codes[first], np.where(first == second, number, codes[second])
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = rng.integers(number, size=number)
        times = np.bincount(drawn, minlength=number + 1).astype(np.int32)
        times[-1] = 1
        yield times[first] * times[second]


def pair_weights(
    num_pairs: int, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[Array]:
    """Yields weights int [P] of resampled pairs."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(num_pairs, size=num_pairs), minlength=num_pairs)


def percentile(samples: Array, level: float = LEVEL) -> Interval:
    """Returns the percentile interval of samples [resamples]; NaN is left out."""
    samples = np.asarray(samples, np.float64)
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return Interval(float("nan"), float("nan"))
    tail = (100 - 100 * level) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(float(low), float(high))


def samples(
    statistics: Statistics, weights: Iterable[Array], names: Sequence[str]
) -> dict[str, Array]:
    """Returns the named metrics of every resample, float [resamples] each.

    NaN where a resample lacks the metric, such as one without impostor pairs; the
    number of these belongs to the interval.
    """
    rows = []
    for one in weights:
        values = statistics(one)
        rows.append([values.get(name, np.nan) for name in names])
    table = np.array(rows, np.float64).reshape(-1, len(names))
    return dict(zip(names, table.T))


def bootstrap(
    statistics: Statistics, weights: Iterable[Array], level: float = LEVEL
) -> dict[str, Interval]:
    """Returns the interval of every metric that the unweighted pairs have."""
    drawn = samples(statistics, weights, list(statistics(None)))
    return {name: percentile(values, level) for name, values in drawn.items()}


class PairStatistics:
    """Every metric of a verification protocol, under any weights of the pairs.

    Without weights the metrics are those of `verification` and `folds`, to the last
    digit. Thresholds of folds are chosen again for each resample.

    Args:
      scores: cosines [P], for pooled metrics.
      same: bool [P].
      protocol: which accuracy there is. 'insightface': over folds, by 400 squared
        distances of the other folds, with TAR at a FAR of 1e-3 over folds;
        'curricularface': the same accuracy; 'magface': over folds, by distances of
        `folds.centred_angles`, which are the same in every resample; 'kfold': over
        folds, candidates are the distances themselves; 'paper': the best threshold on
        the evaluated pairs; 'pooled': none.
      folds: int [P], for protocols over folds.
      distances: [P] squared distances, or [folds, P] for 'magface'.
      fars: FARs of the pooled TAR, as text.
      reported: bool [folds], folds of which the accuracy is reported, at thresholds
        that all folds choose, and of whose pairs the pooled metrics are; None: all.
      p_target: of `verification.min_dcf`.

    Raises:
      ValueError: for an unknown protocol, arrays of other shapes, and scores that are
        not finite.
    """

    def __init__(
        self,
        scores: Array,
        same: Array,
        *,
        protocol: str = "insightface",
        folds: Array | None = None,
        distances: Array | None = None,
        fars: Sequence[str] = FARS,
        reported: Array | None = None,
        p_target: Any = P_TARGET,
    ):
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
        scores, same = counts.checked(scores, same)
        self._same = same
        self._protocol, self._fars, self._p_target = protocol, tuple(fars), p_target
        self._measures: list[tuple[tuple[str, ...], Callable]] = []
        self._rows: Any = slice(None)
        self._reported = np.empty(0, int)
        if protocol in OVER_FOLDS:
            self._over_folds(folds, distances, reported)
        elif reported is not None:
            raise ValueError(f"protocol {protocol!r} has no folds to report")
        elif protocol == "paper":
            self._best = counts.BestThreshold(scores, same)
            self._measures.append((("accuracy", "cosine_threshold"), self._of_best))
        self._pairs = counts.SortedPairs(scores[self._rows], same[self._rows])
        pooled = (*(f"tar@far={far}" for far in fars), "auc", "eer", "min_dcf")
        self._measures.append((pooled, self._of_pooled))
        self.notes: dict[str, str] = {}  # reasons for undefined metrics
        self._values = self._measure(None, self.notes)

    def _over_folds(self, folds, distances, reported):
        if folds is None or distances is None:
            raise ValueError(f"protocol {self._protocol!r} needs folds and distances")
        of_pairs = self._protocol == "kfold"
        thresholds = over_folds.ACCURACY_THRESHOLDS
        if of_pairs:
            thresholds = over_folds.distance_thresholds(distances)
        self._accuracy = over_folds.AccuracySearch(
            distances, self._same, folds, thresholds, of_pairs
        )
        angle = "angle" if self._protocol == "magface" else "cosine"
        names = ("accuracy", "accuracy_std", f"{angle}_threshold")
        self._measures.append((names, self._of_accuracy))
        numbers = np.arange(int(np.max(folds)) + 1)
        if reported is not None:
            if np.shape(reported) != numbers.shape:
                raise ValueError(f"{np.shape(reported)} folds of {len(numbers)}")
            numbers = np.flatnonzero(reported)
            self._rows = np.flatnonzero(np.isin(folds, numbers))
        self._reported = numbers
        if self._protocol == "insightface":
            self._rates = over_folds.FarSearch(distances, self._same, folds)
            self._measures.append((FOLD_RATES, self._of_rates))

    def __call__(self, weights: Array | None = None) -> dict[str, float]:
        """Returns the metrics that are defined, by name.

        accuracy, accuracy_std (over folds), cosine_threshold; tar@far=... of `fars`,
        auc, eer, min_dcf; tar@far=1e-3:insightface and tar@far=1e-3_std:insightface.

        Args:
          weights: int [P], or None for 1.

        Raises:
          ValueError: for another number of weights.
        """
        if weights is None:
            return dict(self._values)
        if weights.shape != self._same.shape:
            raise ValueError(f"weights {weights.shape} of {self._same.shape} pairs")
        return self._measure(weights, {})

    def _measure(
        self, weights: Array | None, notes: dict[str, str]
    ) -> dict[str, float]:
        """Returns the metrics; adds the reasons for undefined ones to `notes`."""
        values: dict[str, float] = {}
        for names, measure in self._measures:
            try:
                values |= zip(names, measure(weights), strict=True)
            except Undefined as error:
                notes |= dict.fromkeys(names, str(error))
        return values

    def _of_best(self, weights: Array | None) -> tuple[float, ...]:
        return self._best(weights)

    def _of_accuracy(self, weights: Array | None) -> tuple[float, ...]:
        measured = self._accuracy(weights)
        chosen = self._chosen(measured.folds)
        accuracies = measured.accuracies[chosen]
        threshold = float(np.mean(measured.thresholds[chosen]))
        if self._protocol != "magface":
            threshold = 1 - threshold / 2  # cosine of a squared distance
        return float(accuracies.mean()), float(accuracies.std()), threshold

    def _of_rates(self, weights: Array | None) -> tuple[float, ...]:
        measured = self._rates(weights=weights)
        tar = measured.tar[self._chosen(measured.folds)]
        return float(tar.mean()), float(tar.std())

    def _chosen(self, complete: Array) -> Array:
        """Returns a mask of the complete folds that are reported."""
        chosen = np.isin(complete, self._reported)
        if not chosen.any():
            raise Undefined("no reported fold has both genuine and impostor pairs")
        return chosen

    def _of_pooled(self, weights: Array | None) -> tuple[float, ...]:
        if weights is not None:
            weights = weights[self._rows]
        counted = self._pairs.count(weights)
        return (
            *(counted.at_far(far).tar for far in self._fars),
            counted.area_under_roc(),
            counted.equal_error_rate(),
            counted.min_dcf(self._p_target),
        )


def identity_draws(
    identity: Array, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[Array]:
    """Yields how often each identity is drawn, int64 [highest + 1].

    For statistics that weigh identities themselves, such as those of searches and
    clusters. Those that are present are drawn with equal probabilities, as often as
    there are identities.

    Args:
      identity: int [N] of images or searches, 0 or more.
    """
    present = np.unique(identity)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = present[rng.integers(len(present), size=len(present))]
        yield np.bincount(drawn, minlength=int(present[-1]) + 1)
