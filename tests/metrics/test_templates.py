"""Templates: scores of pairs, ranks, rates, and means over splits."""

import numpy as np
import pytest

from fr_jax.metrics import identification, templates, verification
from fr_jax.metrics.template_splits import Split, SplitStatistics


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_averaged_and_fused_scores_of_a_pair_of_templates():
    rng = np.random.default_rng(0)
    features, confidence = rng.normal(size=(7, 4)), rng.uniform(size=7)
    of = np.array([3, 3, 5, 5, 5, 3, 8])
    first, second = np.flatnonzero(of == 3), np.flatnonzero(of == 5)
    numbers, vectors = templates.averaged(features, of)
    assert numbers.tolist() == [3, 5, 8]
    pairs = [cosine(features[i], features[j]) for i in first for j in second]
    assert vectors[0] @ vectors[1] == pytest.approx(np.mean(pairs))
    _, vectors = templates.fused(features, confidence, of)
    sums = [confidence[some] @ features[some] for some in (first, second)]
    assert vectors[0] @ vectors[1] == pytest.approx(cosine(*sums))


def test_rates_over_splits_under_draws_are_those_of_repeated_templates():
    """A probe of an identity that is drawn n times is there n times."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        probes, gallery = rng.integers(0, 5, 12), rng.permutation(4)
        scores = np.round(rng.normal(size=(12, 4)), 1)
        scores += probes[:, None] == gallery
        draws = rng.integers(0, 3, 5)
        actual = SplitStatistics([Split(scores, probes, gallery)])(draws)
        same = probes[:, None] == gallery
        times = np.where(
            same, draws[probes][:, None], np.outer(draws[probes], draws[gallery])
        )
        rows = np.repeat(np.arange(48), times.ravel())
        pairs = scores.ravel()[rows], same.ravel()[rows]
        if 0 < pairs[1].sum() < len(rows):
            auc = verification.area_under_roc(*pairs)
            assert actual["auc"] == auc
            assert actual["tar@far=1e-2"] == verification.tar_at_far(*pairs, "1e-2")[0]
        else:
            assert "auc" not in actual
        repeated = np.repeat(np.arange(12), draws[probes])
        found = identification.searches(scores[repeated], probes[repeated], gallery)
        if len(found.ranks):
            assert actual["rank1"] == identification.rank_k(found.ranks, 1)
        if len(found.ranks) and len(found.best):
            at = identification.tpir_at_fpir(*found[1:], "1e-1")
            assert actual["tpir@fpir=1e-1"] == at.tpir
    alone = SplitStatistics([Split(scores, np.full(12, 9), gallery)])
    assert alone() == {}
    assert alone.notes["rank1"] == "no mated searches"
    assert alone.notes["auc"] == "no genuine pairs"


def test_nearest_far_under_weights_is_that_of_repeated_pairs():
    rng = np.random.default_rng(1)
    for _ in range(50):
        same = np.append([True, False], rng.random(28) < 0.5)
        scores = np.round(rng.normal(same, 1), 1)
        weights = np.append([1, 1], rng.integers(0, 3, 28))
        rows = np.repeat(np.arange(30), weights)
        fars = ("0.3", "0.1", "1e-2")[rng.integers(3) :]
        expected = templates.tar_at_nearest_far(scores[rows], same[rows], fars)
        assert templates.NearestFar(scores, same, fars)(weights) == expected


def test_mean_and_deviation_over_splits():
    over = templates.over_splits([{"rank1": 0.5, "rank5": 1}, {"rank1": 0.7}])
    assert over == {"rank1": pytest.approx(0.6), "rank1_std": pytest.approx(0.1)}
