"""Must-links and cannot-links, enumeration and sampling of triplets."""

import itertools

import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.systems.self_augmentation import triplets

# Tracklets 0 and 1 share frame 2; 2 and 3 share frame 5; 4 is alone.
TRACK = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 4])
FRAME = np.array([0, 1, 2, 2, 3, 5, 6, 5, 8, 9])


@pytest.fixture
def apart():
    return triplets.cannot_links(TRACK, FRAME)


def test_cannot_links_are_tracklets_that_share_a_frame(apart):
    pairs = {tuple(pair) for pair in np.argwhere(apart).tolist()}
    assert pairs == {(0, 1), (1, 0), (2, 3), (3, 2)}


def test_anchors_have_a_positive(apart):
    pairs = {tuple(pair) for pair in triplets.linked_pairs(TRACK, apart).tolist()}
    assert pairs == {(0, 1), (1, 0), (2, 3)}  # tracklet 3 has a single face


def check(rows, apart):
    for anchor, positive, negative in rows:
        assert anchor != positive
        assert TRACK[anchor] == TRACK[positive]
        assert apart[TRACK[anchor], TRACK[negative]]


def test_sampled_triplets_obey_the_links_and_cover_all(apart):
    sampler = triplets.sampler(TRACK, apart, 64, seed=3)
    seen, pairs = set(), []
    for step in range(20):
        numbers = sampler(step)
        rows = list(zip(*(numbers[name] for name in triplets.NAMES)))
        check(rows, apart)
        seen |= set(rows)
        pairs += [(TRACK[a], TRACK[n]) for a, _, n in rows]
    possible = {
        (a, p, n)
        for a, p in itertools.permutations(range(10), 2)
        for n in range(10)
        if TRACK[a] == TRACK[p] and apart[TRACK[a], TRACK[n]]
    }
    assert seen == possible
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(counts) == 3 and counts.min() > 0.25 * len(pairs)  # all alike


def test_a_step_always_has_the_same_triplets(apart):
    first, again = (triplets.sampler(TRACK, apart, 8, seed=1) for _ in range(2))
    other = triplets.sampler(TRACK, apart, 8, seed=2)
    for name in triplets.NAMES:
        np.testing.assert_array_equal(first(5)[name], again(5)[name])
    assert any((first(5)[n] != other(5)[n]).any() for n in triplets.NAMES)


def test_the_enumeration_counts_as_the_published_program():
    """Tracklets of 15 and 12 faces in the same frames."""
    track = np.repeat([0, 1], [15, 12])
    frame = np.concatenate([np.arange(15), np.arange(12)])
    apart = triplets.cannot_links(track, frame)
    rng = np.random.default_rng(0)
    train, held_out = triplets.enumerated(track, apart, rng)
    # Of 15: 14 anchors with min(10, later) positives, 10 negatives each; of 12: 11.
    total = 10 * sum(min(10, n) for n in range(1, 15))
    total += 10 * sum(min(10, n) for n in range(1, 12))
    assert len(train) + len(held_out) == total
    assert len(held_out) == round(0.2 * total)
    every = np.concatenate([train, held_out])
    assert len({tuple(row) for row in every.tolist()}) == total
    assert (track[every[:, 0]] == track[every[:, 1]]).all()
    assert (track[every[:, 0]] != track[every[:, 2]]).all()
    assert (every[:, 0] != every[:, 1]).all()


def test_listed_triplets_occur_once_an_epoch():
    rows = np.arange(36).reshape(12, 3)
    sampler = triplets.listed(rows, 4, seed=0)
    epoch = [np.stack([sampler(s)[n] for n in triplets.NAMES], 1) for s in range(3)]
    found = sorted(np.concatenate(epoch).tolist())
    assert found == rows.tolist() and sampler.epoch == 12


def test_a_solo_singer_is_refused_with_the_remedy():
    track, frame = np.array([0, 0, 1, 1]), np.array([0, 1, 5, 6])
    apart = triplets.cannot_links(track, frame)
    with pytest.raises(UserError, match=r"no two of 2 tracklets share a frame.*video"):
        triplets.sampler(track, apart, 4)


def test_single_faces_alone_are_refused():
    track, frame = np.array([0, 1]), np.array([3, 3])
    apart = triplets.cannot_links(track, frame)
    with pytest.raises(UserError, match="a single face each"):
        triplets.linked_pairs(track, apart)
