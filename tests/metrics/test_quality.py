"""Errors after discarding the worst pairs, against plain loops over thresholds."""

from fractions import Fraction

import numpy as np
import pytest

from fr_jax.metrics import Undefined, quality, verification


def problem(seed, pairs=30):
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.6
    same[:2] = True, False
    scores = np.round(rng.normal(np.where(same, 0.5, 0.1), 0.3), 1 + seed % 2)
    first, second = (
        rng.integers(0, 8, (2, pairs)) if seed % 3 else rng.random((2, pairs))
    )
    return scores, same, first, second


def test_curves_are_the_rationals_of_plain_loops():
    for seed in range(100):
        scores, same, first, second = problem(seed)
        error = ("frr", "far")[seed % 2]
        curve = quality.error_versus_discard(
            scores, same, first, second, error=error, far="0.2"
        )
        _, threshold = verification.tar_at_far(scores, same, "0.2")
        assert curve.threshold == threshold
        pairs = [
            (min(a, b), (s >= threshold) == (error == "far"))
            for s, g, a, b in zip(scores, same, first, second)
            if g == (error == "frr")
        ]
        fractions, rates = [], []
        for least in sorted({value for value, _ in pairs}):
            kept = [wrong for value, wrong in pairs if value >= least]
            fractions.append(1 - Fraction(len(kept), len(pairs)))
            rates.append(Fraction(int(sum(kept)), len(kept)))
        assert curve.fractions.tolist() == [float(x) for x in fractions]
        assert curve.rates.tolist() == [float(x) for x in rates]
        limit = Fraction(1, 4)
        ends = [*fractions[1:], Fraction(1)]
        area = sum(
            max(min(end, limit) - start, 0) * rate
            for start, end, rate in zip(fractions, ends, rates)
        )
        assert curve.partial_area(0.25) == pytest.approx(float(area / limit), abs=1e-12)
        below = [rate for start, rate in zip(fractions, rates) if start <= limit]
        assert curve.rate_at(0.25) == float(below[-1])


def test_a_quality_that_knows_the_errors_removes_them_first():
    scores = np.array([0.1, 0.2, 0.8, 0.9, 0.3])
    same = np.array([True, True, True, True, False])
    known, unknown = np.array([0.0, 1, 2, 3, 9]), np.array([3.0, 2, 1, 0, 9])
    best, worst = (
        quality.error_versus_discard(scores, same, q, q, threshold=0.5)
        for q in (known, unknown)
    )
    assert best.rates.tolist() == [2 / 4, 1 / 3, 0, 0]
    assert worst.rates.tolist() == [2 / 4, 2 / 3, 1, 1]
    assert best.partial_area(0.5) == (2 / 4 + 1 / 3) / 2
    at_frr = quality.error_versus_discard(scores, same, known, known, frr=0.5)
    assert (at_frr.threshold, at_frr.rates[0]) == (0.8, 0.5)


def test_bad_arguments_are_errors():
    scores, same, first, second = problem(1)
    given = scores, same, first, second.astype(float)
    for wrong in ({}, {"far": 0.1, "threshold": 0.5}):
        with pytest.raises(ValueError, match="give one of far, frr and threshold"):
            quality.error_versus_discard(*given, **wrong)
    with pytest.raises(ValueError, match="error 'eer' is neither"):
        quality.error_versus_discard(*given, far=0.1, error="eer")
    with pytest.raises(ValueError, match="qualities for"):
        quality.error_versus_discard(scores, same, first[:2], second[:2], far=0.1)
    with pytest.raises(Undefined, match="no genuine pairs"):
        none = np.zeros(len(same), bool)
        quality.error_versus_discard(scores, none, first, second, far=0.1)
    given[3][0] = -np.inf
    with pytest.raises(ValueError, match="qualities of 1 pairs are not finite"):
        quality.error_versus_discard(*given, far=0.1)
