"""Accuracy and TAR@FAR of 6,000 pairs: vectorised against plain loops."""

from timeit import timeit

import numpy as np

from benchmarks import contest
from benchmarks.verification_loops import plain_accuracy, plain_tar_at_far
from fr_jax.metrics import verification


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
    return {
        "verification/milliseconds": 1000 * float(np.median(fast)),
        "verification/times_plain_loops": contest.ratio(slow, fast),
    }
