"""Identification by rank and at a FPIR against rationals counted in plain loops."""

from fractions import Fraction

import numpy as np
import pytest

from fr_jax.metrics import Undefined, identification


def problem(seed):
    """Up to 12 probes and 9 gallery entries of up to 6 identities, often with ties."""
    rng = np.random.default_rng(seed)
    probes = rng.integers(0, 6, int(rng.integers(1, 13)))
    gallery = rng.integers(0, 4, int(rng.integers(1, 10)))
    scores = rng.normal(size=(len(probes), len(gallery)))
    if seed % 3:
        scores = np.round(scores * (seed % 3 - 1)) / 2
    return scores, probes, gallery


def plain(scores, probes, gallery):
    """(rank, score) of the mate of each mated search; best scores of the others."""
    mated, others = [], []
    for row, probe in zip(scores.tolist(), probes):
        best = {
            g: max(s for s, other in zip(row, gallery) if other == g) for g in gallery
        }
        if probe in best:
            own = best[probe]
            mated.append((sum(score >= own for score in best.values()), own))
        else:
            others.append(max(best.values()))
    return mated, others


def test_ranks_and_open_set_rates_are_the_rationals_of_plain_loops():
    undefined = 0
    for seed in range(200):
        scores, probes, gallery = problem(seed)
        found = identification.searches(scores, probes, gallery)
        mated, others = plain(scores, probes, gallery)
        assert list(zip(found.ranks, found.scores)) == mated
        assert found.best.tolist() == others
        assert found.mated.sum() == len(mated)
        if mated:
            shares = [
                float(Fraction(sum(rank <= k for rank, _ in mated), len(mated)))
                for k in range(1, 7)
            ]
            assert identification.cmc(found.ranks, 6).tolist() == shares
            assert identification.rank_k(found.ranks, 2) == shares[1]
        for fpir, rank in ((0, 1), ("0.3", 1), (Fraction(1, 3), 2), (1, 1)):
            given = found.ranks, found.scores, found.best, fpir, rank
            if not mated or not others:
                undefined += 1
                with pytest.raises(Undefined, match="no (non-)?mated searches"):
                    identification.tpir_at_fpir(*given)
                continue
            rates = [
                (
                    Fraction(sum(s >= t for s in others), len(others)),
                    Fraction(sum(r <= rank and s >= t for r, s in mated), len(mated)),
                )
                for t in [*scores.ravel(), -np.inf, np.inf]
            ]
            false, hits = max(pair for pair in rates if pair[0] <= Fraction(fpir))
            at = identification.tpir_at_fpir(*given)
            assert (at.tpir, at.fpir) == (float(hits), float(false))
            assert at.hits == hits * len(mated)
            assert at.false_positives == sum(s >= at.threshold for s in others)
    assert undefined


def test_a_mate_beyond_the_candidates_is_a_miss_at_every_threshold():
    """A search that returned 2 candidates knows neither rank nor score of its mate."""
    at = identification.tpir_at_fpir([1, 3], [0.9, np.nan], [0.5], 1, rank=2)
    assert at.tpir == 0.5
    assert identification.cmc([1, 3], 2).tolist() == [0.5, 0.5]


def test_bad_ranks_and_scores_are_errors():
    with pytest.raises(ValueError, match="rank 0; ranks count from 1"):
        identification.cmc([0, 1], 5)
    with pytest.raises(ValueError, match="1 scores are not finite"):
        identification.tpir_at_fpir([1, 1], [0.9, np.nan], [0.5], 0.1)
    with pytest.raises(ValueError, match="1 scores are not finite"):
        identification.searches(np.array([[np.nan, 1.0]]), [0], [0, 1])
    with pytest.raises(ValueError, match="1 probes and 3 entries"):
        identification.searches(np.ones((1, 2)), [0], [0, 1, 2])
    with pytest.raises(Undefined, match="no mated searches"):
        identification.rank_k([], 1)
