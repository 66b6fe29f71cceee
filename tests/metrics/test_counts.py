"""Exact rates of pairs against rationals counted in plain loops."""

import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fr_jax.metrics import Undefined, counts, verification

FARS = ("0", "1e-3", "0.1", "1/3", "0.5", "1")


def problem(seed):
    """Up to 24 pairs: of continuous, tied or equal scores; now and then of one kind."""
    rng = np.random.default_rng(seed)
    pairs = int(rng.integers(1, 25))
    share = (0.0, 0.2, 0.5, 0.5, 0.5, 0.8, 0.8, 0.2, 0.5, 1.0)[seed % 10]
    same = rng.random(pairs) < share
    scores = rng.normal(np.where(same, 0.3, 0.0), 0.4)
    levels = (None, 5, 2, 0)[seed // 10 % 4]
    if levels is not None:
        scores = np.round(scores * levels) / 5
    return scores, same


def plain_points(scores, same):
    """Every (FAR, TAR) as rationals, with its threshold, from none accepted to all."""
    thresholds = [math.inf, *sorted(set(scores.tolist()), reverse=True)]
    genuine, impostors = (int(sum(same == kind)) for kind in (True, False))
    points = []
    for threshold in thresholds:
        hits = sum(1 for s, g in zip(scores, same) if g and s >= threshold)
        false = sum(1 for s, g in zip(scores, same) if not g and s >= threshold)
        points.append((Fraction(false, impostors), Fraction(hits, genuine), threshold))
    return points


def plain_eer(points):
    """The lowest crossing of the diagonal of any segment between two points."""
    crossings = []
    for far, tar, _ in points:
        for other_far, other_tar, _ in points:
            before, after = (1 - tar) - far, other_far - (1 - other_tar)
            if before >= 0 and after >= 0:
                share = before / (before + after) if before + after else 0
                crossings.append(far + share * (other_far - far))
    return min(crossings)


def plain_auc(scores, same):
    wins = [
        Fraction(1 + (a > b) - (a < b), 2) for a in scores[same] for b in scores[~same]
    ]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("part", range(4))
def test_rates_are_the_rationals_of_plain_loops(part):
    undefined = 0
    for seed in range(part * 50, part * 50 + 50):
        scores, same = problem(seed)
        if same.all() or not same.any():
            undefined += 1
            for metric in (
                *(verification.area_under_roc, verification.equal_error_rate),
                *(verification.min_dcf, verification.roc, verification.det),
                lambda *pairs: verification.counts_at_far(*pairs, 0.1),
            ):
                with pytest.raises(Undefined, match="no (genuine|impostor) pairs"):
                    metric(scores, same)
            continue
        points = plain_points(scores, same)
        for far in FARS:
            allowed = [p for p in points if p[0] <= Fraction(far)]
            false, tar, _ = max(allowed, key=lambda p: p[:2])
            at = verification.counts_at_far(scores, same, Fraction(far))
            assert (at.tar, at.far) == (float(tar), float(false))
            assert at.genuine_accepted == tar * int(same.sum())
            assert at.impostors_accepted == false * int((~same).sum())
            accepted = scores >= at.threshold
            assert accepted[same].sum() == at.genuine_accepted
            assert accepted[~same].sum() == at.impostors_accepted
            # Any lower threshold would accept more impostor pairs than allowed.
            if at.threshold > -math.inf:
                lower = scores >= np.nextafter(at.threshold, -math.inf)
                assert lower[~same].sum() > Fraction(far) * int((~same).sum())
        assert verification.area_under_roc(scores, same) == float(
            plain_auc(scores, same)
        )
        assert verification.equal_error_rate(scores, same) == float(plain_eer(points))
        for target in ("0.01", "0.5"):
            costs = [
                Fraction(target) * (1 - tar) + (1 - Fraction(target)) * far
                for far, tar, _ in points
            ]
            assert verification.min_dcf(scores, same, target) == float(min(costs))
        normalised = verification.min_dcf(scores, same, "0.5", normalised=True)
        assert normalised == float(2 * min(costs))
        far, tar = verification.roc(scores, same)
        assert far.tolist() == [float(p[0]) for p in points]
        assert tar.tolist() == [float(p[1]) for p in points]
        far, frr = verification.det(scores, same)
        assert frr.tolist() == [float(1 - p[1]) for p in points]
        hits = [Fraction(int(((scores >= t) == same).sum()), len(same)) for t in scores]
        accuracy = float(max(hits)), scores[hits.index(max(hits))]
        assert verification.best_accuracy(scores, same) == accuracy
        expected = sklearn_metrics.roc_auc_score(same, scores)
        assert verification.area_under_roc(scores, same) == pytest.approx(expected)
    assert undefined


def test_eer_lies_on_the_convex_hull():
    """Steps of the ROC would give 1/3, interpolation between them 1/3 as well."""
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    same = np.array([True, False, True, False, False])
    # Vertices (FAR, FRR) are (0, 1/2) and (1/3, 0): FAR = FRR at 1/5.
    assert verification.equal_error_rate(scores, same) == 0.2


def test_a_far_is_the_rational_that_is_written():
    """0.29 * 100 is 28.999... in floating point; 29 impostor pairs are allowed."""
    scores = np.append(np.arange(100.0), 70.5)
    same = np.arange(101) == 100
    assert verification.counts_at_far(scores, same, 0.29).impostors_accepted == 29
    for far in ("1e-3.0", "nan", -0.1, 1.5, None):
        with pytest.raises(ValueError, match="rate"):
            verification.counts_at_far(scores, same, far)


def test_counts_beyond_64_bits_stay_exact():
    scores, same = problem(5)
    weights = np.full(len(same), 2**31)
    pairs = counts.SortedPairs(scores, same)
    heavy, light = pairs.count(weights), pairs.count()
    assert heavy.area_under_roc() == light.area_under_roc()
    assert heavy.equal_error_rate() == light.equal_error_rate()
    assert heavy.min_dcf("1e-4") == light.min_dcf("1e-4")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_an_error(bad):
    scores, same = np.array([0.1, bad, 0.3]), np.array([True, False, True])
    for metric in (
        *(verification.area_under_roc, verification.equal_error_rate),
        *(verification.min_dcf, verification.roc, verification.best_accuracy),
    ):
        with pytest.raises(ValueError, match="1 scores are not finite"):
            metric(scores, same)
