"""Exact search in blocks: equal to plain NumPy, ties and all."""

import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.evaluation import search


def rows(count, dimensions=4, seed=0):
    """Unit rows, many of them equal, with exact products in float32."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-0.5, 0.5], (count, dimensions))
    return signs.astype(np.float32)  # of length 1 in four dimensions


@pytest.fixture(params=[1 << 30, 4 * 64 * 20, 4 * 7], ids=["one", "few", "many"])
def blocks(request, monkeypatch):
    """Blocks of different sizes."""
    monkeypatch.setattr(search, "BUDGET", request.param)


@pytest.mark.parametrize("k", [1, 5, 33])
def test_nearest_rows_are_those_of_a_sort(blocks, k):
    probes, gallery = rows(40, seed=1), rows(33, seed=2)
    scores = probes @ gallery.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # ties: first row
    found = search.top_k(probes, gallery, k)
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_array_equal(
        found.scores, np.take_along_axis(scores, order, axis=1)
    )


@pytest.mark.parametrize("single", [True, False], ids=["one row", "several rows"])
def test_ranks_and_scores_of_mates_are_those_of_plain_loops(blocks, single):
    rng = np.random.default_rng(3)
    probes, gallery = rows(50, seed=4), rows(20, seed=5)
    labels = rng.permutation(20) if single else rng.integers(0, 7, 20)
    labels = 10 * labels  # any numbers
    probe_labels = 10 * rng.integers(-1, 25 if single else 9, 50)
    found = search.mates(probes, probe_labels, gallery, labels)
    for number, (probe, label) in enumerate(zip(probes, probe_labels)):
        scores = gallery @ probe
        best = {one: scores[labels == one].max() for one in set(labels.tolist())}
        assert found.best[number] == max(best.values())
        if label not in best:
            assert found.rank[number] == 0
            assert found.score[number] == -np.inf
            continue
        mate = best.pop(label)
        assert found.score[number] == mate
        assert found.rank[number] == 1 + sum(one >= mate for one in best.values())


@pytest.mark.parametrize("links", [1 << 22, 5], ids=["at once", "a few at once"])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.5, 0.9])
def test_components_are_chains_of_near_rows(blocks, monkeypatch, threshold, links):
    monkeypatch.setattr(search, "_LINKS", links)
    # Eight dimensions: neighbours differ in one sign and have the cosine 3/4 or less.
    signs = rows(60, 8, seed=6)
    some = signs / np.float32(np.sqrt(2))
    near = signs @ signs.T / 2 >= threshold  # exact, unlike some @ some.T
    labels = np.arange(len(some))
    while True:  # spread the lowest label of each chain
        lower = np.where(near, labels[None], len(some)).min(axis=1)
        if (lower == labels).all():
            break
        labels = lower
    expected = np.unique(labels, return_inverse=True)[1]
    np.testing.assert_array_equal(search.components(some, threshold), expected)


def test_listed_neighbours_give_the_mates_that_they_have():
    probes, gallery = np.eye(4, dtype=np.float32), rows(9, seed=7)
    gallery += np.random.default_rng(0).normal(0, 0.1, gallery.shape)  # no ties
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    labels, probe_labels = np.arange(9) // 2, np.array([0, 3, 99, 4])
    exact = search.mates(probes, probe_labels, gallery, labels)
    every = search.mates_of(search.top_k(probes, gallery, 9), probe_labels, labels)
    np.testing.assert_array_equal(every.rank, exact.rank)
    np.testing.assert_allclose(every.score, exact.score)
    np.testing.assert_allclose(every.best, exact.best)
    first = search.top_k(probes, gallery, 1)
    few = search.mates_of(first, probe_labels, labels)
    missed = exact.rank > 1
    assert missed.any()
    # No hit at any rank, though the gallery has only five identities.
    assert (few.rank[missed] == np.iinfo(np.int64).max).all()
    assert (few.score[missed] == -np.inf).all()
    assert search.recalls(first, probes, gallery, 4)[1].mean() == 1
    wrong = first._replace(rows=(first.rows + np.array([[0], [1], [0], [1]])) % 9)
    assert search.recalls(wrong, probes, gallery, 4)[1].mean() == 0.5


def test_listed_identities_of_an_equal_score_count_as_higher():
    probes, gallery = rows(40, seed=8), rows(12, seed=9)
    labels = np.arange(12) % 5
    probe_labels = np.arange(40) % 6  # identity 5 is in no gallery
    exact = search.mates(probes, probe_labels, gallery, labels)
    every = search.mates_of(search.top_k(probes, gallery, 12), probe_labels, labels)
    np.testing.assert_array_equal(every.rank, exact.rank)
    assert (exact.rank > 1).any() and (exact.rank == 0).any()


def test_faiss_finds_most_neighbours():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(2000, 16)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    near = search.approximate(gallery[:50], gallery, 3)
    assert (near.rows[:, 0] == np.arange(50)).all()
    assert 0.3 < search.recalls(near, gallery[:50], gallery, 50)[1].mean() <= 1


@pytest.mark.parametrize(
    ("probes", "gallery", "k", "match"),
    [
        (2 * rows(3), rows(3), 1, "3 of 3 probe embeddings are not of unit length"),
        (rows(3), rows(3) * np.nan, 1, "3 of 3 gallery embeddings are not of unit"),
        (rows(3), rows(3), 4, "the 4 nearest of a gallery of 3 rows"),
        (rows(3), rows(3), 0, "the 0 nearest"),
        (rows(3), np.eye(2, dtype=np.float32), 1, "4 dimensions, the gallery 2"),
        (rows(3)[:0], rows(3), 1, r"shape \(0, 4\), not \[N, D\]"),
    ],
)
def test_invalid_rows_are_refused(probes, gallery, k, match):
    with pytest.raises(UserError, match=match):
        search.top_k(probes, gallery, k)


def test_labels_of_another_number_are_refused():
    with pytest.raises(UserError, match=r"\(2,\) probe labels for 3 embeddings"):
        search.mates(rows(3), np.arange(2), rows(3), np.arange(3))
