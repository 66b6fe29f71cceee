"""Templates: scores of pairs, ranks, rates, and means over splits."""

import numpy as np
import pytest

from fr_jax.metrics import templates


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


def test_ranks_of_identities():
    gallery = np.array(["a", "b", "b", "c", "d", "e", "f", "g"])
    probes = np.array(["b", "a", "absent", "g"])
    scores = np.zeros((4, 8))
    scores[0, 2] = scores[1, 1] = scores[1, 2] = 1.0  # b's second template; b, not a
    scores[1, 0] = 0.5
    scores[3] = [0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]  # six others before g
    rates = templates.identify(scores, probes, gallery)
    assert rates == pytest.approx(
        {
            "rank1": 1 / 3,
            "rank5": 2 / 3,
            "tpir@fpir=1e-1": 1 / 3,
            "tpir@fpir=1e-2": 1 / 3,
        }
    )
    rates = templates.identify(scores[:2], probes[:2], gallery)
    assert rates == {"rank1": 0.5, "rank5": 1}
    flat = np.zeros((1, 8))  # ties count as errors
    assert templates.identify(flat, probes[:1], gallery)["rank5"] == 0
    with pytest.raises(ValueError, match="no probe has an identity of the gallery"):
        templates.identify(scores[2:3], probes[2:3], gallery)


def test_rates_of_pairs():
    scores = np.append(np.linspace(1, 2, 100), np.linspace(0, 1.5, 1000))
    rates = templates.verify(scores, np.arange(1100) < 100)
    assert rates == {
        "tar@far=1e-2": pytest.approx(np.mean(scores[:100] > scores[-11])),
        "tar@far=1e-3": pytest.approx(np.mean(scores[:100] > scores[-2])),
    }


def test_mean_and_deviation_over_splits():
    over = templates.over_splits([{"rank1": 0.5, "rank5": 1}, {"rank1": 0.7}])
    assert over == {"rank1": pytest.approx(0.6), "rank1_std": pytest.approx(0.1)}
