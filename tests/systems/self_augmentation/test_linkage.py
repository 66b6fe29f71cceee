"""Average linkage of tracklets against brute force and SciPy; estimated numbers."""

import itertools

import numpy as np
import pytest
from scipy.cluster import hierarchy

from fr_jax.errors import UserError
from fr_jax.systems.self_augmentation.linkage import (
    average_linkage,
    estimated_count,
    tracklet_distances,
)


def faces(seed, tracklets=12, size=5, most=7):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most, tracklets)
    track = np.repeat(np.arange(tracklets), sizes)
    centres = rng.normal(size=(tracklets, size))
    order = rng.permutation(len(track))
    embeddings = centres[track] + 0.3 * rng.normal(size=(len(track), size))
    return embeddings[order], track[order]


def mean_distance(embeddings, track, one, other):
    """The mean over all pairs of faces of two sets of tracklets."""
    a, b = (embeddings[np.isin(track, list(part))] for part in (one, other))
    return np.mean([np.sum((x - y) ** 2) for x in a for y in b])


def brute_force(embeddings, track, apart, count):
    """Merges the closest allowed pair again and again, from the faces alone."""
    clusters = [frozenset([number]) for number in range(track.max() + 1)]
    heights = []
    while len(clusters) > count:
        allowed = [
            (mean_distance(embeddings, track, a, b), a, b)
            for a, b in itertools.combinations(clusters, 2)
            if not apart[np.ix_(sorted(a), sorted(b))].any()
        ]
        if not allowed:
            break
        height, a, b = min(allowed, key=lambda pair: pair[0])
        heights.append(height)
        clusters = [one for one in clusters if one not in (a, b)] + [a | b]
    return set(clusters), heights


def as_sets(cluster):
    return {
        frozenset(np.flatnonzero(cluster == number).tolist())
        for number in np.unique(cluster)
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.15])
def test_every_cut_is_that_of_brute_force(seed, share):
    embeddings, track = faces(seed)
    rng = np.random.default_rng(seed)
    apart = np.triu(rng.random((12, 12)) < share, 1)
    apart |= apart.T
    distances, sizes = tracklet_distances(embeddings, track)
    tree = average_linkage(distances, sizes, apart)
    for count in range(tree.fewest, 13):
        clusters, heights = brute_force(embeddings, track, apart, count)
        assert as_sets(tree.cut(count)) == clusters
        np.testing.assert_allclose(tree.heights[: 12 - count], heights, rtol=1e-9)
    clusters, _ = brute_force(embeddings, track, apart, 0)
    assert len(clusters) == tree.fewest


def test_distances_are_means_over_pairs_of_faces():
    embeddings, track = faces(7)
    distances, sizes = tracklet_distances(embeddings.astype(np.float32), track)
    assert sizes.tolist() == np.bincount(track).tolist()
    for a, b in itertools.permutations(range(12), 2):
        expected = mean_distance(embeddings, track, {a}, {b})
        np.testing.assert_allclose(distances[a, b], expected, rtol=1e-5)
    assert (np.diag(distances) == 0).all()


def test_single_faces_give_the_tree_of_scipy():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 4))
    distances, sizes = tracklet_distances(points, np.arange(60))
    tree = average_linkage(distances, sizes)
    condensed = distances[np.triu_indices(60, 1)]
    expected = hierarchy.linkage(condensed, "average")
    np.testing.assert_allclose(tree.heights, expected[:, 2], rtol=1e-9)
    np.testing.assert_array_equal(tree.merges, expected[:, :2].astype(int))


def test_equal_distances_end():
    tree = average_linkage(np.ones((6, 6)), np.ones(6))
    assert len(tree.heights) == 5
    assert len(np.unique(tree.cut(3))) == 3


def test_equal_faces_give_a_whole_tree():
    """Weighted means of equal distances may be rounded below them."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(3, 30))
        distances = np.full((count, count), rng.random())
        tree = average_linkage(distances, rng.integers(1, 9, count))
        assert (np.diff(tree.heights) >= 0).all()
        for clusters in range(1, count + 1):
            assert len(np.unique(tree.cut(clusters))) == clusters


def test_clusters_are_numbered_by_their_first_items():
    distances = np.array([[0, 9, 1.0], [9, 0, 9], [1, 9, 0]])
    tree = average_linkage(distances, np.ones(3))
    assert tree.cut(2).tolist() == [0, 1, 0]


def test_an_impossible_number_of_clusters_is_refused():
    apart = ~np.eye(3, dtype=bool)
    tree = average_linkage(np.ones((3, 3)), np.ones(3), apart)
    with pytest.raises(UserError, match="2 clusters of 3 tracklets; 3 to 3"):
        tree.cut(2)


@pytest.mark.parametrize("groups", [2, 4, 6])
def test_the_number_of_clear_groups_is_found(groups):
    rng = np.random.default_rng(groups)
    owner = np.repeat(np.arange(groups), 6)
    centres = 4 * rng.normal(size=(groups, 8))
    points = centres[owner] + 0.3 * rng.normal(size=(len(owner), 8))
    distances, sizes = tracklet_distances(points, np.arange(len(owner)))
    tree = average_linkage(distances, sizes)
    apart = np.zeros((len(owner), len(owner)), bool)
    count, silhouettes = estimated_count(tree, distances, apart)
    assert count == groups
    assert max(silhouettes, key=silhouettes.get) == groups


def test_cuts_that_break_a_cannot_link_are_not_considered():
    """Two groups, but one of them has two persons who were seen together."""
    rng = np.random.default_rng(1)
    owner = np.repeat([0, 1], 6)
    points = 8.0 * owner[:, None] + rng.normal(size=(12, 3))
    distances, sizes = tracklet_distances(points, np.arange(12))
    tree = average_linkage(distances, sizes)
    apart = np.zeros((12, 12), bool)
    two, three = tree.cut(2), tree.cut(3)
    a, b = next(
        (a, b)
        for a, b in itertools.combinations(range(12), 2)
        if two[a] == two[b] and three[a] != three[b]
    )
    assert estimated_count(tree, distances, apart)[0] == 2
    apart[a, b] = apart[b, a] = True
    count, silhouettes = estimated_count(tree, distances, apart)
    assert 2 not in silhouettes and count >= 3
