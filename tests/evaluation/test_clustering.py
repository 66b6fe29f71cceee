"""Clusters of embeddings and of tables; metrics under resampled identities."""

import numpy as np
import pytest
from scipy.cluster import hierarchy

from data_pipelines import DataError
from fr_jax.errors import UserError
from fr_jax.evaluation import clustering, search, sets
from fr_jax.evaluation.embeddings import Columns, StoredEmbeddings
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics import clustering as cluster_metrics
from fr_jax.metrics.cluster_statistics import METRICS, ClusterStatistics


@pytest.fixture(scope="module")
def stored():
    """Five identities with four faces each, at 60 degrees or more to each other."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.eye(5), 4, axis=0) + rng.normal(0, 0.15, (20, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    owners = np.repeat([f"p{n}" for n in range(5)], 4)
    names = [f"{owner}/{number % 4}.jpg" for number, owner in enumerate(owners)]
    norms = rng.uniform(5, 30, 20).astype(np.float32)
    columns = Columns(
        np.array(names), owners, rows.astype(np.float32), norms, {"flip": False}
    )
    return StoredEmbeddings(columns, "faces.npz")


def evaluated(stored, options=""):
    text = f"mine=faces.npz,protocol=clustering{options}"
    evaluator = sets.parse(text, stored=stored)
    results = evaluator(Trained(stored.embed_raw, {}))
    assert set(results) | evaluator.notes.keys() == set(evaluator.metric_names)
    return evaluator, results


@pytest.mark.parametrize("method", ["average", "single"])
def test_identities_are_found_where_they_are_apart(stored, method):
    evaluator, results = evaluated(stored, f",method={method}")
    assert results["mine/bcubed_f:best"] == 1
    assert results["mine/num_clusters:best"] == results["mine/num_identities"] == 5
    threshold = results["mine/cosine_threshold:best"]
    assert 0 <= threshold <= 1
    options = f",method={method},threshold={threshold:.4f}"
    assert evaluated(stored, options)[1]["mine/bcubed_f"] == 1
    _, whole = evaluated(stored, f",method={method},threshold=-1")
    assert whole["mine/num_clusters"] == 1
    assert whole["mine/bcubed_recall"] == 1
    assert whole["mine/bcubed_precision"] == 0.2
    _, single = evaluated(stored, f",method={method},threshold=1")
    assert single["mine/num_clusters"] == 20
    assert single["mine/bcubed_recall"] == 0.25
    assert "mine/pairwise_precision" not in single  # no two share a cluster
    values, notes = evaluator.intervals(20)
    for name in ("bcubed_f", "ami", "hungarian_accuracy"):
        assert values[f"mine/{name}_low:best"] == 1
    assert values["mine/resampled_identities"] == 5
    assert not notes


@pytest.mark.parametrize("method", ["average", "single"])
def test_the_tree_is_that_of_all_distances(method, monkeypatch):
    monkeypatch.setattr(clustering, "_BLOCK", 4)
    rows = np.random.default_rng(0).normal(size=(21, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = hierarchy.linkage(rows, method, "cosine")
    np.testing.assert_allclose(clustering.linkage(rows, method), expected, atol=1e-12)


def test_equal_float32_rows_are_joined_at_a_threshold_of_one():
    rows = np.random.default_rng(0).normal(size=(40, 512))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows = np.repeat(rows, 2, axis=0)
    expected = np.repeat(np.arange(40), 2)
    np.testing.assert_array_equal(search.components(rows, 1.0), expected)
    for method in clustering.METHODS:
        found = clustering.cut(clustering.linkage(rows, method), 1.0)
        assert len(set(found)) == 40
        np.testing.assert_array_equal(found[::2], found[1::2])


def test_single_linkage_by_blocks_is_that_of_the_tree(stored):
    rows = stored.columns.embeddings
    tree = clustering.linkage(rows, "single")
    for threshold in (0.2, 0.5, 0.8, 0.9):
        evaluator, _ = evaluated(stored, f",method=single,threshold={threshold}")
        cut = clustering.cut(tree, threshold)
        pairs = set(zip(cut.tolist(), evaluator.assigned.tolist()))
        assert len(pairs) == len(set(cut.tolist())) == evaluator.assigned.max() + 1


def test_clusters_of_another_program(stored, tmp_path):
    names, owners = stored.columns.names, stored.columns.identities
    lines = [f"{n},{o if n[3] != '0' else 'rest'}" for n, o in zip(names, owners)]
    path = tmp_path / "clusters.csv"
    path.write_text("file,cluster\n" + "\n".join(lines))
    evaluator, results = evaluated(stored, f",clusters={path}")
    assert results["mine/num_clusters"] == 6
    assert results["mine/wcp"] == 16 / 20
    assert results["mine/pairwise_recall"] == 0.5
    assert evaluator.protocol_switches()["clusters"] == path.name
    path.write_text("file,cluster\n" + "\n".join(lines[1:]))
    with pytest.raises(DataError, match="1 of 20 images have no cluster, such as 'p0"):
        evaluated(stored, f",clusters={path}")
    for option in ("threshold=0.3", "flip=no"):
        with pytest.raises(UserError, match="= is of no use with clusters=FILE"):
            evaluated(stored, f",clusters={path},{option}")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (",method=kmeans", "method=kmeans: use average or single"),
        (",threshold=2", "threshold=2: use a cosine, -1 to 1"),
        (",threshold=nan", "threshold=nan: use a cosine"),
        (",gallery=1", "unknown option 'gallery' of mine, protocol=clustering"),
    ],
)
def test_invalid_options_are_refused(stored, options, match):
    with pytest.raises(UserError, match=match):
        evaluated(stored, options)


def test_more_faces_than_a_tree_takes_are_refused(stored, monkeypatch):
    monkeypatch.setattr(clustering, "_TREE", 19)
    with pytest.raises(UserError, match="20 faces; method=average takes at most 19"):
        evaluated(stored)
    with pytest.raises(UserError, match="no threshold= takes at most 19"):
        evaluated(stored, ",method=single")
    assert evaluated(stored, ",method=single,threshold=0.5")


def plain(identities, clusters, draws):
    """Weighted metrics, sample by sample and pair by pair."""
    count = len(identities)
    times = draws[identities]
    joined = together = same = 0
    precision = recall = 0.0
    for a in range(count):
        own, cluster = 0, 0
        for b in range(count):
            equal = identities[a] == identities[b]
            weight = 1 if equal else times[b]
            cluster += weight * (clusters[a] == clusters[b])
            own += equal and clusters[a] == clusters[b]
            if a < b:
                pair = times[a] if equal else times[a] * times[b]
                joined += pair * (equal and clusters[a] == clusters[b])
                together += pair * (clusters[a] == clusters[b])
                same += pair * equal
        precision += times[a] * own / cluster
        recall += times[a] * own / np.sum(identities == identities[a])
    total = times.sum()
    values = {
        "bcubed_precision": precision / total,
        "bcubed_recall": recall / total,
    }
    if together:
        values["pairwise_precision"] = joined / together
    if same:
        values["pairwise_recall"] = joined / same
    return values


def test_metrics_under_draws_are_those_of_plain_loops():
    rng = np.random.default_rng(0)
    for _ in range(60):
        count = rng.integers(2, 12)
        identities = rng.integers(0, rng.integers(1, 6), count)
        clusters = rng.integers(0, rng.integers(1, 6), count)
        statistics = ClusterStatistics(identities, clusters)
        once = statistics(np.ones(int(identities.max()) + 1, int))
        exact = {name: x for name, x in statistics().items() if name in METRICS}
        assert once == pytest.approx(exact, abs=1e-12)
        draws = rng.integers(0, 4, int(identities.max()) + 1)
        weighted = statistics(draws)
        if not draws[identities].any():
            assert weighted == {}
            continue
        expected = plain(identities, clusters, draws)
        for name in ("pairwise_precision", "pairwise_recall"):
            assert (name in weighted) == (name in expected)
        actual = {name: weighted[name] for name in expected}
        assert actual == pytest.approx(expected, abs=1e-12)
        # An image of an identity that is drawn n times counts n times.
        times = draws[identities]
        copies = np.repeat(identities, times), np.repeat(clusters, times)
        repeated = cluster_metrics.measure(*copies).values
        for name in ("wcp", "nmi", "ami", "hungarian_accuracy"):
            assert weighted[name] == pytest.approx(repeated[name], abs=1e-12), name
