"""Identification by yaw, fused templates, distances of sets, linear probes."""

import numpy as np
import pytest
from scipy import linalg

from fr_jax.metrics import (
    Undefined,
    generation,
    identification,
    probes,
    quality,
    verification,
)
from fr_jax.metrics import image_statistics as of_images


@pytest.fixture
def rng():
    """A generator per test, so that the order of tests does not matter."""
    return np.random.default_rng(0)


def test_gallery_images_are_frontal_neutral_and_of_the_earliest_session():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    yaws = np.array([45, 0, 0, 0, -15, 30, 0, np.nan])
    lights = np.array([7, 3, 7, 7, 7, 7, 1, 7])
    sessions = np.array([1, 1, 2, 1, 1, 1, 1, 1])
    rows = identification.gallery(labels, yaws, lights, sessions, neutral=7)
    assert rows.tolist() == [3, 4, 6]
    assert identification.gallery(labels, yaws).tolist() == [1, 4, 6]


def test_rank_one_by_yaw_and_over_all_probes():
    """The average is over probes, with two sides of every angle except 0."""
    shares = {0: 99.0, 15: 80.0, 30: 70.5, 45: 60.0, 60: 50.5}
    hits, yaws = [], []
    for angle, share in shares.items():
        for side in {angle, -angle}:
            hits += [i < 10 * share for i in range(1000)]
            yaws += [side] * 1000
    hits = np.array(hits)
    rows = identification.by_yaw(np.array(yaws))
    assert list(rows) == list(shares)
    rates = {angle: 100 * hits[chosen].mean() for angle, chosen in rows.items()}
    assert rates == pytest.approx(shares)
    assert hits.mean() == pytest.approx((99 + 2 * (80 + 70.5 + 60 + 50.5)) / 900)


def test_rank_one_is_1_for_exact_features_and_at_chance_for_random_ones(rng):
    labels = np.repeat(np.arange(20), 10)
    gallery = rng.normal(size=(20, 8))
    hits = identification.rank_one(7 * gallery[labels], labels, gallery, np.arange(20))
    assert hits.all()
    noise = rng.normal(size=(200, 8))
    hits = identification.rank_one(noise, labels, gallery, np.arange(20))
    assert hits.mean() < 0.15


def test_rank_one_rises_with_images_and_with_confidence_weights(rng):
    labels = np.repeat(np.arange(30), 8)
    gallery = rng.normal(size=(30, 16))
    degraded = rng.uniform(size=240) < 0.5
    noise = rng.normal(size=(240, 16)) * np.where(degraded, 3, 0.5)[:, None]
    features = gallery[labels] + noise
    tables = identification.number_of_images(
        features, np.where(degraded, 0.1, 1.0), labels, gallery, np.arange(30), most=6
    )
    assert tables["mean"].shape == (6, 10, 30)
    np.testing.assert_array_equal(tables["mean"][0], tables["confidence"][0])
    tables = {name: hits.mean(axis=(1, 2)) for name, hits in tables.items()}
    assert tables["mean"][5] > tables["mean"][0] + 0.05
    assert tables["confidence"][3] > tables["mean"][3] + 0.05
    # For one image both are equal, even with nearly equal identities.
    near = (1 + 1e-7 * rng.normal(size=(2, 400, 8))).astype(np.float32)
    confidence = rng.uniform(0.1, 1, 400).astype(np.float32)
    pair_labels = np.arange(400) // 2
    tables = identification.number_of_images(
        near[0],
        confidence.astype(np.float32),
        pair_labels,
        near[1],
        pair_labels,
        most=1,
    )
    np.testing.assert_array_equal(tables["mean"], tables["confidence"])
    with pytest.raises(ValueError, match="an identity has 8 images, fewer than 9"):
        identification.number_of_images(
            features, np.ones(240), labels, gallery, np.arange(30), most=9
        )


def test_kernel_distance_against_the_plain_formula(rng):
    x, y = rng.normal(size=(7, 3)), rng.normal(1, 1, size=(7, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    expected = 0.0
    for i in range(7):
        for j in range(7):
            if i != j:
                expected += (kernel(x[i], x[j]) + kernel(y[i], y[j])) / 42
            expected -= 2 * kernel(x[i], y[j]) / 49
    mean, deviation = generation.kernel_distance(x, y, subsets=3)
    assert mean == pytest.approx(expected) and deviation == pytest.approx(0, abs=1e-12)
    a, b = rng.normal(size=(2, 500, 4))
    same, _ = generation.kernel_distance(a, b, size=200, subsets=10)
    other, _ = generation.kernel_distance(a, b + 1, size=200, subsets=10)
    assert abs(same) < 0.05 < 1 < other
    with pytest.raises(ValueError, match="at least 2"):
        generation.kernel_distance(x[:1], y)


def test_pairs_with_inputs_of_correct_and_wrong_identities():
    labels = np.array([0, 0, 1, 2])
    inputs = np.eye(4)[[0, 0, 1, 2]]
    fakes = np.stack([inputs, 3 * inputs], axis=1)
    correct = generation.pairs_with_inputs(inputs, labels, fakes)
    assert correct.scores.tolist() == [1] * 8 + [0] * 20
    assert correct.same.tolist() == [True] * 8 + [False] * 20
    assert (correct.same == (correct.first == correct.second)).all()
    wrong = generation.pairs_with_inputs(inputs, labels, fakes[[2, 2, 3, 0]])
    assert (wrong.scores[wrong.same] == 0).all()
    assert verification.area_under_roc(wrong.scores, wrong.same) < 0.5


def bars(rng, angles, size=32):
    """Images of a bright bar at each angle, on noise."""
    y, x = np.mgrid[:size, :size] - size / 2
    distance = np.abs(
        x[None] * np.sin(angles)[:, None, None]
        - y[None] * np.cos(angles)[:, None, None]
    )
    image = 160 * (distance < 4) + rng.uniform(0, 40, (len(angles), size, size))
    return np.repeat(image[..., None], 3, axis=3).astype(np.uint8)


def test_pairs_of_images_of_identities():
    features = np.array([[1.0, 0], [2, 0.1], [0, 1], [0.1, 3]])
    for labels, area in (([0, 0, 1, 1], 1), ([0, 1, 0, 1], 0.25)):
        pairs = generation.pairs_of_images(features, labels)
        assert len(pairs.scores) == 6
        assert verification.area_under_roc(pairs.scores, pairs.same) == area


def test_gradient_histograms_classify_directions(rng):
    classes = np.arange(120) % 4
    images = bars(rng, classes * np.pi / 4 + rng.normal(0, 0.05, 120))
    histograms = probes.gradient_histograms(images)
    assert histograms.shape == (120, 512)
    np.testing.assert_allclose(np.linalg.norm(histograms, axis=1), 1, rtol=1e-5)
    classify = probes.PictureClassifier(images[:80], classes[:80])
    assert (classify(images[80:]) == classes[80:]).mean() > 0.9


def test_leakage_of_pose_and_of_identity(rng):
    labels, pose = np.divmod(np.arange(200), 5)
    identity = rng.normal(size=(40, 6))[labels]
    noisy = identity + rng.normal(0, 0.3, (200, 6))
    mixed = np.concatenate([identity, np.eye(5)[pose]], axis=1)
    assert probes.leakage(noisy, pose, labels).mean() < 0.35
    assert probes.leakage(mixed, pose, labels).mean() > 0.95
    assert (
        probes.leakage(identity, labels).mean() > 0.8
    )  # on other images of the identity


def test_rank_correlation_of_confidence_and_quality(rng):
    good = rng.uniform(size=50)
    assert quality.rank_correlation(good**3, good) == pytest.approx(1)
    assert quality.rank_correlation(-good, good) == pytest.approx(-1)
    assert quality.rank_correlation(np.ones(50), good) == 0


def test_frechet_distance_is_that_of_the_matrix_square_root(rng):
    real = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 6))
    fake = rng.normal(0.3, 1.2, size=(50, 6)) @ rng.normal(size=(6, 6))
    first, second = (np.cov(rows, rowvar=False) for rows in (real, fake))
    root = linalg.sqrtm(first @ second).real
    shift = np.sum((real.mean(0) - fake.mean(0)) ** 2)
    expected = shift + np.trace(first + second - 2 * root)
    assert generation.frechet_distance(real, fake) == pytest.approx(expected, abs=1e-10)
    # A rotation and a shift of both sets at once change nothing.
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    moved = generation.frechet_distance(real @ turn + 5, fake @ turn + 5)
    assert moved == pytest.approx(expected, abs=1e-9)


def test_frechet_distance_of_fewer_images_than_features(rng):
    rows = rng.normal(size=(5, 20))
    assert generation.frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert generation.frechet_distance(rows, rows + 2) == pytest.approx(80)
    # One feature: (m - n)^2 + (s - t)^2.
    first, second = np.array([[-1.0], [1.0]]), np.array([[1.0], [7.0]])
    expected = 4**2 + (3 * 2**0.5 - 2**0.5) ** 2
    assert generation.frechet_distance(first, second) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least 2"):
        generation.frechet_distance(rows[:1], rows)
    with pytest.raises(ValueError, match="features of 1 generated images are not fin"):
        generation.frechet_distance(rows, np.where(rows == rows[0, 0], np.nan, rows))


def test_pose_errors_wrap_at_half_a_turn():
    errors = generation.pose_errors([10, -30, 179], [0, 30, -179])
    assert errors.tolist() == [10, 60, 2]
    with pytest.raises(ValueError, match="1 angles are not finite"):
        generation.pose_errors([np.nan, 0], [0, 0])
    with pytest.raises(ValueError, match="angles for"):
        generation.pose_errors([], [])


def copies(draws, labels):
    """Rows of images, as often as their identities are drawn, and numbers of copies."""
    rows = np.repeat(np.arange(len(labels)), draws[labels])
    return rows, np.concatenate([np.arange(draws[one]) for one in labels])


def compared(labels, other_labels, copy, other_copy):
    """True for images of one copy of an identity, or of different identities."""
    same = labels[:, None] == other_labels
    return ~same | (copy[:, None] == other_copy)


def test_means_under_draws_are_those_of_copies(rng):
    labels = rng.integers(0, 5, 40)
    values, classes = rng.normal(size=(40, 3)), rng.integers(0, 4, 40)
    statistics = [
        of_images.mean(values, labels),
        of_images.largest_share(classes, labels),
        of_images.rank_correlation(values[:, 0], values[:, 1], labels),
    ]
    for draws in [None, *rng.integers(0, 3, (20, 5))]:
        rows = np.arange(40) if draws is None else copies(draws, labels)[0]
        expected = (
            values[rows].mean(),
            np.bincount(classes[rows]).max() / len(rows),
            quality.rank_correlation(values[rows, 0], values[rows, 1]),
        )
        actual = [statistic(draws) for statistic in statistics]
        assert actual == pytest.approx(expected, abs=1e-12)
    for statistic in statistics:
        with pytest.raises(Undefined, match="no image"):
            statistic(np.zeros(5, int))


def test_pairs_under_draws_are_those_of_copies(rng):
    """Copies of an identity are not compared with each other."""
    labels = np.sort(rng.integers(0, 4, 12))
    inputs, fakes = rng.normal(size=(12, 6)), rng.normal(size=(12, 2, 6))
    pairs = generation.pairs_with_inputs(inputs, labels, fakes)
    others = generation.Pairs(*(column[~pairs.same] for column in pairs))
    statistic = of_images.area_under_roc(*pairs)
    of_others = of_images.mean_of_pairs(others.scores, others.first, others.second)
    for draws in rng.integers(0, 3, (20, 4)):
        if np.sum(draws[np.unique(labels)] > 0) < 2:
            continue
        scores, same, impostors = [], [], []
        for i, j in zip(*np.nonzero(np.ones((12, 12)))):
            for fake in fakes[i]:
                cosine = fake @ inputs[j]
                cosine /= np.linalg.norm(fake) * np.linalg.norm(inputs[j])
                if i == j:
                    scores += [cosine] * draws[labels[i]]
                    same += [True] * draws[labels[i]]
                elif labels[i] != labels[j]:
                    times = draws[labels[i]] * draws[labels[j]]
                    scores += [cosine] * times
                    same += [False] * times
                    impostors += [cosine] * times
        expected = verification.area_under_roc(np.array(scores), np.array(same))
        assert statistic(draws) == pytest.approx(expected, abs=1e-12)
        assert of_others(draws) == pytest.approx(np.mean(impostors), abs=1e-12)
    with pytest.raises(Undefined, match="no genuine pairs"):
        statistic(np.zeros(4, int))


def test_kernel_distance_under_draws_is_that_of_copies(rng):
    labels, fake_labels = rng.integers(0, 5, 30), rng.integers(0, 5, 20)
    real, fake = rng.normal(size=(30, 4)), rng.normal(0.5, 1, (20, 4))
    subsets, _ = generation.kernel_distance(real, fake, subsets=2000)
    statistic = of_images.kernel_distance(subsets, real, labels, fake, fake_labels)
    assert statistic(None) == subsets
    assert statistic(np.ones(5, int)) == pytest.approx(subsets, abs=0.05)

    def mean(x, y, of_x, of_y, draws):
        rows, number = copies(draws, of_x)
        columns, other = copies(draws, of_y)
        kernels = generation.kernel(x[rows], y[columns])
        kept = compared(of_x[rows], of_y[columns], number, other)
        if x is y:  # an image and itself
            kept &= rows[:, None] != columns
        return kernels[kept].mean()

    for draws in rng.integers(0, 3, (20, 5)):
        expected = mean(real, real, labels, labels, draws)
        expected += mean(fake, fake, fake_labels, fake_labels, draws)
        expected -= 2 * mean(real, fake, labels, fake_labels, draws)
        assert statistic(draws) == pytest.approx(expected, abs=1e-9)
    with pytest.raises(Undefined, match="no pair"):
        statistic(np.zeros(5, int))
