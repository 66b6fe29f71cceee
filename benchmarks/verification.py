"""Exact metrics: pairs against plain loops, their bootstrap, large clusterings."""

import time
from collections.abc import Callable
from timeit import timeit

import numpy as np

from benchmarks import contest
from benchmarks.verification_loops import plain_accuracy, plain_tar_at_far
from fr_jax.metrics import clustering, intervals, verification


def run(rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    same = np.arange(6000) // 300 % 2 == 0
    distances = np.where(same, rng.normal(1.2, 0.35, 6000), rng.normal(1.9, 0.25, 6000))
    distances = np.clip(distances, 0, 4)
    folds = verification.contiguous_folds(6000)

    def plain():
        return *plain_accuracy(distances, same), *plain_tar_at_far(distances, same)

    def ours():
        accuracy = verification.fold_accuracy(distances, same, folds)
        rates = verification.fold_tar_at_far(distances, same, folds)
        return accuracy.accuracies, accuracy.thresholds, rates.tar, rates.far

    for slow, fast in zip(plain(), ours(), strict=True):
        np.testing.assert_array_equal(slow, fast)  # to the last digit
    seconds = [[timeit(f, number=1) for f in (plain, ours)] for _ in range(rounds)]
    slow, fast = zip(*seconds)

    first = rng.integers(0, 4000, 6000)  # about as many identities as LFW's pairs have
    second = np.where(same, first, (first + rng.integers(1, 4000, 6000)) % 4000)

    def resample():
        statistics = intervals.PairStatistics(
            1 - distances / 2, same, folds=folds, distances=distances
        )
        intervals.bootstrap(
            statistics, intervals.identity_weights(first, second, 4000, 1000)
        )

    # As many samples and identities as the first part of MS1M of clustering papers.
    identities = rng.integers(0, 8573, 584_000)
    parts = identities * 3 + rng.integers(0, 3, len(identities))
    mixed = rng.integers(0, 60_000, len(identities))
    clusters = np.where(rng.random(len(identities)) < 0.8, parts, mixed)

    def cluster():
        table = clustering.Contingency(identities, clusters)
        clustering.bcubed(table)
        clustering.pairwise_f(table)
        clustering.normalized_mutual_information(table)

    return {
        "verification/milliseconds": 1000 * float(np.median(fast)),
        "verification/times_plain_loops": contest.ratio(slow, fast),
        "verification/cpu_seconds_of_1000_resamples": cpu_seconds(resample),
        "clustering/cpu_seconds_of_584000_samples": cpu_seconds(cluster),
    }


def cpu_seconds(measured: Callable[[], object]) -> float:
    """Returns the processor time of one call, which other processes do not share."""
    start = time.process_time()
    measured()
    return time.process_time() - start
