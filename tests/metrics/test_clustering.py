"""Measures of clusters against plain loops over samples, and scikit-learn."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fr_jax.metrics import Undefined, clustering


def problem(seed):
    """Up to 30 samples; at times one identity, one cluster, or all of them alone."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 31))
    most = rng.choice([1, 3, 6, 60], 2)
    identities, clusters = (rng.integers(-2, n - 1, size) * 7 for n in most)
    if seed % 9 == 0:
        clusters = identities + 5
    if seed % 9 == 1:
        clusters = np.arange(size)
    return identities, clusters


def plain(identities, clusters):
    pairs = list(itertools.combinations(zip(identities, clusters), 2))
    same = sum(a[0] == b[0] for a, b in pairs)
    together = sum(a[1] == b[1] for a, b in pairs)
    both = sum(a == b for a, b in pairs)
    size = len(identities)
    values = {
        "num_identities": len(set(identities)),
        "num_clusters": len(set(clusters)),
    }
    majorities = [
        max(Counter(identities[clusters == c]).values()) for c in set(clusters)
    ]
    values["wcp"] = Fraction(sum(majorities), size)
    if together:
        values["pairwise_precision"] = Fraction(both, together)
    if same:
        values["pairwise_recall"] = Fraction(both, same)
    if same + together:
        values["pairwise_f"] = Fraction(2 * both, same + together)
    precision = recall = Fraction(0)
    for i, c in zip(identities, clusters):
        common = int(np.sum((identities == i) & (clusters == c)))
        precision += Fraction(common, int(np.sum(clusters == c))) / size
        recall += Fraction(common, int(np.sum(identities == i))) / size
    values["bcubed_precision"], values["bcubed_recall"] = precision, recall
    values["bcubed_f"] = 2 * precision * recall / (precision + recall)
    expected = Fraction(same * together, max(len(pairs), 1))
    spread = Fraction(same + together, 2) - expected
    values["ari"] = (both - expected) / spread if spread else Fraction(1)
    return {name: float(value) for name, value in values.items()}


def test_measures_are_the_rationals_of_plain_loops_and_those_of_scikit_learn():
    undefined = 0
    for seed in range(200):
        identities, clusters = problem(seed)
        values, notes = clustering.measure(identities, clusters)
        expected = plain(identities, clusters)
        exact = {name: values[name] for name in expected}
        assert exact == expected
        assert not notes.keys() & values.keys()
        undefined += len(notes)
        for name, reference in (
            ("nmi", sklearn_metrics.normalized_mutual_info_score),
            ("ami", sklearn_metrics.adjusted_mutual_info_score),
            ("ari", sklearn_metrics.adjusted_rand_score),
        ):
            value = reference(identities, clusters)
            assert values[name] == pytest.approx(value, abs=1e-10), (seed, name)
    assert undefined > 10


def test_hungarian_accuracy_is_that_of_the_best_permutation():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        identities, clusters = rng.integers(0, 5, (2, 12))
        best = max(
            np.mean(np.array(order)[clusters] == identities)
            for order in itertools.permutations(range(5))
        )
        table = clustering.Contingency(identities, clusters)
        assert clustering.hungarian_accuracy(table) == best


def test_too_many_clusters_for_an_assignment_are_refused_with_their_number():
    labels = np.arange(5001)
    table = clustering.Contingency(labels // 2, labels)
    with pytest.raises(ValueError, match="2,501 identities and 5,001 clusters"):
        clustering.hungarian_accuracy(table)
    values, notes = clustering.measure(labels // 2, labels)
    assert "hungarian_accuracy" not in values
    assert "5,001" in notes["hungarian_accuracy"]
    assert notes["pairwise_precision"] == "no two samples share a cluster"
    assert values["bcubed_precision"] == 1


def test_labels_may_be_any_integers():
    small = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    large = [np.array([-(2**40), 7, 2**50])[labels] for labels in small]
    assert clustering.measure(*small) == clustering.measure(*large)


def test_noise_is_no_cluster():
    alone = clustering.singletons(np.array([3, -1, 3, -1]))
    assert len(set(alone.tolist())) == 3
    assert alone[0] == alone[2] == 3
    assert len(set(clustering.singletons(np.array([-1, -1])))) == 2


def test_bad_labels_are_errors():
    with pytest.raises(ValueError, match="integers are needed"):
        clustering.Contingency(np.array([0.0, 1.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"\(2,\) identities for \(3,\) clusters"):
        clustering.Contingency(np.arange(2), np.arange(3))
    with pytest.raises(Undefined, match="no samples"):
        clustering.Contingency(np.zeros(0, int), np.zeros(0, int))


def test_expected_information_of_large_sets_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    identities, clusters = rng.integers(0, 40, (2, 3000))
    clusters[:1500] = identities[:1500]
    clusters[clusters < 10] = 0
    whole, _ = clustering.measure(identities, clusters)
    monkeypatch.setattr(clustering, "_TERMS", 500)
    parts, _ = clustering.measure(identities, clusters)
    reference = sklearn_metrics.adjusted_mutual_info_score(identities, clusters)
    assert whole["ami"] == pytest.approx(reference, abs=1e-10)
    assert parts["ami"] == pytest.approx(reference, abs=1e-10)
