"""Verification over folds compared with plain loops; distances and folds."""

import numpy as np
import pytest

from benchmarks.verification_loops import plain_accuracy, plain_tar_at_far
from fr_jax.metrics import Undefined, folds, verification


def problem(pairs=200, seed=0, levels=0):
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.5
    same[:2] = True, False
    scores = rng.normal(np.where(same, 0.6, 0.2), 0.25).clip(-1, 1)
    if levels:  # many ties
        scores = np.round(scores * levels) / levels
    return scores, same


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [0, 20])
def test_fold_metrics_equal_those_of_plain_loops(seed, levels):
    scores, same = problem(400, seed, levels)
    distances = 2 - 2 * scores
    folds = verification.contiguous_folds(400)
    measured = verification.fold_accuracy(distances, same, folds)
    accuracies, thresholds = plain_accuracy(distances, same)
    assert measured.accuracies.tolist() == accuracies.tolist()
    assert measured.thresholds.tolist() == thresholds.tolist()
    for far in (0.01, 0.1, 1e-9):
        rates = verification.fold_tar_at_far(distances, same, folds, far)
        tar, fold_far = plain_tar_at_far(distances, same, far)
        assert rates.tar.tolist() == tar.tolist()
        assert rates.far.tolist() == fold_far.tolist()


def test_fold_accuracy_of_separable_pairs_except_one():
    distances = np.array([0.1, 0.2, 1.5, 1.6] * 10)
    same = np.array([True, True, False, False] * 10)
    same[-1] = True  # one genuine pair beyond every good threshold
    measured = verification.fold_accuracy(distances, same, np.repeat(np.arange(10), 4))
    assert measured.accuracies.tolist() == [1.0] * 9 + [0.75]
    assert np.all((measured.thresholds > 0.2) & (measured.thresholds < 1.5))


def test_threshold_of_a_single_fold_is_chosen_on_itself():
    scores, same = problem()
    folds = np.zeros(len(same), int)
    measured = verification.fold_accuracy(2 - 2 * scores, same, folds)
    grid = verification.ACCURACY_THRESHOLDS
    best = max(np.mean((2 - 2 * scores < t) == same) for t in grid)
    assert measured.accuracies.tolist() == [best]


def test_folds_without_a_kind_of_pair_have_no_accuracy():
    scores, same = problem(400)
    distances, folds = 2 - 2 * scores, verification.contiguous_folds(400)
    folds[(folds == 3) & same] = 4
    folds[folds == 7] = 11  # folds 7 and 10 are empty
    measured = verification.fold_accuracy(distances, same, folds)
    rates = verification.fold_tar_at_far(distances, same, folds, 0.1)
    whole = [0, 1, 2, 4, 5, 6, 8, 9, 11]
    for values in (*measured[:2], *rates):
        assert values.shape == (9,)
        assert np.isfinite(values).all()
    for number, fold in enumerate(whole):
        rows = folds == fold
        correct = (distances[rows] < measured.thresholds[number]) == same[rows]
        assert measured.accuracies[number] == np.mean(correct)
    with pytest.raises(ValueError, match="no fold has both genuine and impostor pairs"):
        verification.fold_accuracy(distances[same], same[same], folds[same])


def test_tar_at_far_without_interpolation_uses_the_largest_threshold_within_far():
    scores, same = problem(400)
    distances = 2 - 2 * scores
    folds = np.zeros(400, int)
    rates = verification.fold_tar_at_far(
        distances, same, folds, 0.05, interpolate=False
    )
    allowed = [
        t for t in verification.FAR_THRESHOLDS if np.mean(distances[~same] < t) <= 0.05
    ]
    assert rates.far[0] == np.mean(distances[~same] < max(allowed))
    assert rates.tar[0] == np.mean(distances[same] < max(allowed))


def test_ties_and_extremes():
    same = np.array([True, False, True, False])
    flat = np.ones(4)
    assert verification.best_accuracy(flat, same) == (0.5, 1.0)
    assert verification.area_under_roc(flat, same) == 0.5
    assert verification.tar_at_far(flat, same, 0.4)[0] == 0.0
    perfect = np.array([0.9, 0.1, 0.8, 0.2])
    assert verification.equal_error_rate(perfect, same) == 0.0
    assert verification.tar_at_far(perfect, same, 0.0)[0] == 1.0


def test_invalid_scores_and_missing_kinds_of_pairs_are_errors():
    with pytest.raises(ValueError, match="1 scores are not finite"):
        verification.fold_accuracy(
            np.array([0.1, np.nan]), np.array([True, False]), np.array([0, 1])
        )
    with pytest.raises(Undefined, match="no impostor pairs"):
        verification.tar_at_far(np.array([0.1]), np.array([True]), 0.1)
    with pytest.raises(ValueError, match="scores for"):
        verification.best_accuracy(np.ones(3), np.ones(2, bool))


def test_stratified_folds_are_balanced_for_both_labels_and_seeded():
    same = np.arange(372) < 186
    folds = verification.stratified_folds(same, seed=3)
    for label in (True, False):
        counts = np.bincount(folds[same == label], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert (folds == verification.stratified_folds(same, seed=3)).all()
    assert (folds != verification.stratified_folds(same, seed=4)).any()


def test_contiguous_folds_equal_those_of_scikit_learn():
    from sklearn.model_selection import KFold

    for pairs in (20, 23, 6000):
        expected = np.empty(pairs, int)
        for fold, (_, rows) in enumerate(KFold(10).split(np.arange(pairs))):
            expected[rows] = fold
        assert (verification.contiguous_folds(pairs) == expected).all()


def test_zero_rows_stay_zero():
    rows = verification.l2_normalize(np.array([[0.0, 0.0], [3.0, 4.0]]))
    assert rows.tolist() == [[0.0, 0.0], [0.6, 0.8]]


@pytest.mark.parametrize("num_folds", [1, 10])
def test_magfaces_angles_are_about_the_mean_of_the_other_folds(num_folds):
    """Against facenet's loop, from which MagFace's protocol stems."""
    rng = np.random.default_rng(0)
    same = np.arange(60) % 2 == 0
    first = rng.normal(1, 1, (60, 5))
    second = np.where(same[:, None], first, 0) + rng.normal(1, 0.7, (60, 5))
    numbers = verification.contiguous_folds(60, num_folds)
    thresholds, accuracies, chosen = np.arange(0, 4, 0.01), [], []
    for fold in range(num_folds):
        train = (numbers != fold) | (num_folds == 1)
        mean = np.concatenate([first[train], second[train]]).mean(axis=0)
        x, y = first - mean, second - mean
        cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        distance = np.arccos(cosine) / np.pi
        rates = [np.mean((distance < t)[train] == same[train]) for t in thresholds]
        chosen.append(thresholds[np.argmax(rates)])
        rows = numbers == fold
        accuracies.append(np.mean((distance < chosen[-1])[rows] == same[rows]))
    angles = folds.centred_angles(first, second, numbers)
    measured = verification.fold_accuracy(angles, same, numbers)
    assert measured.accuracies.tolist() == accuracies
    assert measured.thresholds.tolist() == chosen


def test_fold_arguments_of_other_shapes_are_errors():
    same, numbers = np.array([True, False] * 4), np.arange(8) // 4
    with pytest.raises(ValueError, match="distances for 3 of 2 folds"):
        verification.fold_accuracy(np.ones((3, 8)), same, numbers)
    with pytest.raises(ValueError, match="fold -1 is negative"):
        verification.fold_accuracy(np.ones(8), same, numbers - 1)
    with pytest.raises(ValueError, match=r"\(7,\) folds for \(8,\) labels"):
        verification.fold_tar_at_far(np.ones(8), same, numbers[:7])
