"""Evaluation: protocols, subsets, and training people who are test people."""

import functools
import logging

import numpy as np
import pytest

from fr_jax.embedder.batched import ImageEmbedder
from fr_jax.errors import UserError
from fr_jax.evaluation.verification import (
    EvaluationSet,
    judge,
    mark_seen,
)
from fr_jax.metrics import verification

PAIRS = 200


def make_set(**options):
    """Images whose first two pixels are an angle; pairs of equal and other angles."""
    rng = np.random.default_rng(0)
    angle = rng.integers(0, 256, PAIRS)
    same = np.arange(PAIRS) % 20 < 10
    other = np.where(
        same, angle + rng.integers(-25, 26, PAIRS), rng.integers(0, 256, PAIRS)
    )
    values = np.stack([angle, other % 256], 1).reshape(-1)
    images = np.zeros((2 * PAIRS, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = values
    folds = np.arange(PAIRS) // 20
    pairs = np.arange(2 * PAIRS).reshape(-1, 2)
    return EvaluationSet("toy", images, pairs, same, **{"folds": folds, **options})


def embed(state, batch):
    import jax.numpy as jnp

    turn = batch["image"][:, 0, 0, 0].astype(jnp.float32) * (jnp.pi / 256)
    mirrored = batch["image"][:, 0, 3, 0].astype(jnp.float32) * (jnp.pi / 256)
    turn = turn + mirrored
    return {"embedding": state * jnp.stack([jnp.cos(turn), jnp.sin(turn)], 1)}


@pytest.fixture(scope="module")
def embedder():
    return functools.partial(ImageEmbedder(embed, 64), 3.0)


def test_images_are_embedded_in_their_order_whatever_the_batch(embedder):
    images = make_set().images
    found = embedder(images, flip=True)
    assert found.shape == (400, 2, 2)
    turn = images[:, 0, 0, 0] * np.pi / 256
    np.testing.assert_allclose(found[:, 0, 0], 3 * np.cos(turn), atol=1e-5)
    np.testing.assert_allclose(found[:, 1], found[:, 0], atol=1e-5)
    odd = ImageEmbedder(embed, 7)(3.0, images[:50])
    np.testing.assert_allclose(odd[:, 0], found[:50, 0], atol=1e-6)
    with pytest.raises(UserError, match="no images"):
        embedder(images[:0])


def test_insightface_protocol(embedder):
    toy = make_set()
    judged = judge(toy, embedder)
    turn = toy.images[:, 0, 0, 0].astype(np.float32) * (np.pi / 256)
    rows = np.stack([np.cos(turn), np.sin(turn)], 1)
    distances = verification.squared_distances(rows[::2], rows[1::2])
    expected = verification.fold_accuracy(distances, toy.same, toy.folds)
    results = judged.results
    assert results["toy/accuracy"] == pytest.approx(expected.accuracies.mean())
    assert results["toy/accuracy_std"] == pytest.approx(expected.accuracies.std())
    assert (
        results["toy/accuracy_low"]
        < results["toy/accuracy"]
        < results["toy/accuracy_high"]
    )
    assert results["toy/xnorm"] == pytest.approx(3.0, rel=1e-5)
    tar, _ = verification.tar_at_far(judged.scores, toy.same, 1e-2)
    assert results["toy/tar@far=1e-2"] == tar
    assert {"toy/tar@far=1e-3:insightface", "toy/auc", "toy/eer"} <= results.keys()
    shares = {
        k: v for k, v in results.items() if "xnorm" not in k and "cosine" not in k
    }
    assert all(0 <= value <= 1 for value in shares.values())


def test_paper_protocol_is_the_best_threshold_and_kfold_is_not_better(embedder):
    paper = judge(make_set(folds=None, protocol="paper"), embedder)
    assert set(paper.results) == {"toy/accuracy:paper", "toy/cosine_threshold:paper"}
    best = max(np.mean((paper.scores >= t) == paper.same) for t in paper.scores)
    assert paper.results["toy/accuracy:paper"] == best
    kfold = judge(make_set(folds=None, protocol="kfold"), embedder).results
    assert 0.5 < kfold["toy/accuracy:kfold"] <= best
    assert -1 <= kfold["toy/cosine_threshold:kfold"] <= 1


def test_a_subset_is_the_first_pairs_of_each_fold_and_kind():
    toy = make_set(people=[f"p{n % 30}" for n in range(2 * PAIRS)])
    part = toy.first(40)
    assert part.name == "toy:40"
    assert np.bincount(part.folds).tolist() == [4] * 10
    assert np.bincount(part.folds, part.same).tolist() == [2] * 10
    rows = [20 * fold + place for fold in range(10) for place in (0, 1, 10, 11)]
    for number, row in enumerate(rows):
        for side in (0, 1):
            before, after = toy.pairs[row, side], part.pairs[number, side]
            assert (part.images[after] == toy.images[before]).all()
            assert part.people[after] == toy.people[before]
    assert toy.first(5000) is toy
    with pytest.raises(UserError, match="has no 3 pairs"):
        toy.first(3)


def test_people_trained_on_are_held_apart(embedder, caplog):
    people = [f"p{pair // 20}" for pair in range(PAIRS) for _ in range(2)]
    toy = make_set(people=people)
    assert mark_seen(toy, {"other": ["x"]}) is toy
    with caplog.at_level(logging.WARNING, "absl"):
        marked = mark_seen(toy, {"train": [f"p{n}" for n in range(9)]})
    assert "toy: 9 names of people are those of training people too" in caplog.text
    assert marked.seen == frozenset(range(9))
    results = judge(marked, embedder).results
    assert "toy/accuracy" not in results
    whole = judge(toy, embedder).results
    assert results["toy_seen/accuracy"] == whole["toy/accuracy"]
    # The last fold, with the threshold of the nine others.
    scores = judge(toy, embedder).scores
    measured = verification.fold_accuracy(2 - 2 * scores, toy.same, toy.folds)
    assert results["toy_heldout/accuracy"] == pytest.approx(measured.accuracies[9])
    assert "toy_heldout/tar@far=1e-2" in results


def test_a_set_without_names_counts_as_seen_by_its_own(embedder):
    named = make_set()._replace(name="cfp_fp")
    assert mark_seen(named, {"lfw": ["a"]}).seen == frozenset()
    marked = mark_seen(named, {"cfp": ["001"]})
    assert "cfp_fp_seen/accuracy" in judge(marked, embedder).results
    assert not any("heldout" in key for key in judge(marked, embedder).results)
    plain = make_set(folds=None, protocol="paper")._replace(name="cfp_list")
    marked = mark_seen(plain, {"cfp": ["001"]})
    assert "cfp_list_seen/accuracy:paper" in judge(marked, embedder).results
