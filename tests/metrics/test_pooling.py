"""Media, templates and their pairs against plain loops."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from fr_jax.metrics import Undefined, templates


def plain(features, media, template, *, unit_media):
    """Templates as the published protocol describes them, image by image."""
    rows = []
    for one in range(template.max() + 1):
        total = np.zeros(features.shape[1])
        for medium in np.flatnonzero(template == one):
            mean = np.mean(features[media == medium], axis=0)
            total += mean / np.linalg.norm(mean) if unit_media else mean
        rows.append(total / np.linalg.norm(total))
    return np.array(rows)


@pytest.mark.parametrize("unit_media", [False, True])
@pytest.mark.parametrize("block", [1, 7, 100])
def test_templates_are_those_of_plain_loops(unit_media, block):
    rng = np.random.default_rng(0)
    template = np.sort(np.concatenate([np.arange(9), rng.integers(0, 9, 12)]))
    media = rng.permutation(np.concatenate([np.arange(21), rng.integers(0, 21, 40)]))
    features = rng.normal(size=(61, 5)).astype(np.float32) * 20
    blocks = (features[start : start + block] for start in range(0, 61, block))
    means, counts = templates.media_means(blocks, media, num_media=21)
    np.testing.assert_array_equal(counts, np.bincount(media))
    rows = templates.pooled(means, template, unit_media=unit_media)
    expected = plain(features.astype(float), media, template, unit_media=unit_media)
    np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize("given", [60, 62])
def test_another_number_of_features_is_an_error(given):
    features = np.ones((given, 2), np.float32)
    blocks = np.array_split(features, 3)
    with pytest.raises(ValueError, match="features for 61 images"):
        templates.media_means(blocks, np.zeros(61, int), num_media=1)


@pytest.mark.parametrize("dense", [0, 64], ids=["pair by pair", "all with all"])
@pytest.mark.parametrize("at_once", [1, 50, 1 << 20])
@pytest.mark.parametrize("sorted_", [True, False])
def test_scores_of_pairs_in_any_order(monkeypatch, dense, at_once, sorted_):
    monkeypatch.setattr(templates, "_DENSE", dense)
    monkeypatch.setattr(templates, "_SCORES", at_once)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 6)).astype(np.float32)
    first, second = rng.integers(1, 11, (2, 70)).astype(np.int32)
    first = np.sort(first) if sorted_ else first
    expected = np.sum(rows[first].astype(float) * rows[second], axis=1)
    scores = templates.pair_scores(rows, first, second)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert templates.pair_scores(rows, first[:0], second[:0]).shape == (0,)


def test_nearest_fars_are_those_of_scikit_learns_curve():
    """insightface's rule on that curve: descending FAR, the first nearest one."""
    fars = ("1e-1", "1e-2", "0.3", "0.5")
    rng = np.random.default_rng(0)
    for _ in range(100):
        count = rng.integers(2, 40)
        scores = rng.integers(0, rng.integers(2, 30), count) / 7
        same = rng.integers(0, 2, count).astype(bool)
        if same.all() or not same.any():
            with pytest.raises(Undefined):
                templates.tar_at_nearest_far(scores, same, fars)
            continue
        far, tar, _ = roc_curve(same, scores)
        far, tar = far[::-1], tar[::-1]
        expected = [tar[np.argmin(np.abs(far - float(one)))] for one in fars]
        actual = templates.tar_at_nearest_far(scores, same, fars)
        np.testing.assert_allclose(actual, expected, atol=1e-12)
