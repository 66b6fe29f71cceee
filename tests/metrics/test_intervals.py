"""Bootstrap intervals: a resample is the list of pairs, repeated by their weights."""

import numpy as np
import pytest

from fr_jax.metrics import folds, intervals, verification

PAIRS = 120


def problem(seed=0, levels=30):
    """Pairs of 15 identities in ten folds, with embeddings for the angles."""
    rng = np.random.default_rng(seed)
    first = rng.integers(15, size=PAIRS)
    same = np.arange(PAIRS) % 2 == 0
    second = np.where(same, first, (first + rng.integers(1, 15, PAIRS)) % 15)
    centres = rng.normal(size=(15, 4))
    faces = [centres[codes] + rng.normal(size=(PAIRS, 4)) for codes in (first, second)]
    scores = np.round(verification.cosines(*faces) * levels) / levels
    return first, second, same, scores, faces


def arguments(protocol, scores, same, numbers, faces):
    if protocol == "magface":
        return {"folds": numbers, "distances": folds.centred_angles(*faces, numbers)}
    if protocol in intervals.OVER_FOLDS:
        return {"folds": numbers, "distances": 2 - 2 * scores}
    return {}


def plain(protocol, scores, same, folds=None, distances=None):
    """The metrics by the functions of one metric each."""
    values = {
        f"tar@far={far}": verification.tar_at_far(scores, same, far)[0]
        for far in verification.FARS
    }
    values["auc"] = verification.area_under_roc(scores, same)
    values["eer"] = verification.equal_error_rate(scores, same)
    values["min_dcf"] = verification.min_dcf(scores, same)
    if protocol == "paper":
        best = verification.best_accuracy(scores, same)
        values |= zip(("accuracy", "cosine_threshold"), best)
    if protocol in intervals.OVER_FOLDS:
        thresholds = verification.ACCURACY_THRESHOLDS
        if protocol == "kfold":
            thresholds = np.append(np.unique(distances), 4.1)
        measured = verification.fold_accuracy(distances, same, folds, thresholds)
        values["accuracy"] = measured.accuracies.mean()
        values["accuracy_std"] = measured.accuracies.std()
        mean = measured.thresholds.mean()
        if protocol == "magface":
            values["angle_threshold"] = mean
        else:
            values["cosine_threshold"] = 1 - mean / 2
    if protocol == "insightface":
        tar = verification.fold_tar_at_far(distances, same, folds).tar
        values |= zip(intervals.FOLD_RATES, (tar.mean(), tar.std()))
    return values


@pytest.mark.parametrize("protocol", intervals.PROTOCOLS)
def test_weights_are_copies_of_pairs(protocol):
    first, second, same, scores, faces = problem()
    numbers = verification.contiguous_folds(PAIRS)
    given = arguments(protocol, scores, same, numbers, faces)
    statistics = intervals.PairStatistics(scores, same, protocol=protocol, **given)
    assert statistics() == plain(protocol, scores, same, **given)
    assert not statistics.notes
    drawn = [
        *intervals.identity_weights(first, second, 15, 10, seed=1),
        *intervals.pair_weights(PAIRS, 10, seed=2),
    ]
    for weights in drawn:
        rows = np.repeat(np.arange(PAIRS), weights)
        copies = {name: array[..., rows] for name, array in given.items()}
        expected = plain(protocol, scores[rows], same[rows], **copies)
        assert statistics(weights) == expected


def test_weights_of_identities_are_products_of_their_counts():
    first, second, same, *_ = problem()
    for weights in intervals.identity_weights(first, second, 15, 5):
        genuine = {int(i): int(w) for i, w in zip(first[same], weights[same])}
        assert sum(genuine.get(i, 0) for i in range(15)) == 15  # all have genuine pairs
        for i, j, weight in zip(first, second, weights):
            expected = genuine[int(i)] * (1 if i == j else genuine[int(j)])
            assert weight == expected
    again = list(intervals.identity_weights(first, second, 15, 8))
    for one, other in zip(again, intervals.identity_weights(first, second, 15, 5)):
        assert (one == other).all()


def test_weights_of_pairs_sum_to_their_number():
    drawn = np.array(list(intervals.pair_weights(50, 20)))
    assert drawn.shape == (20, 50)
    assert (drawn.sum(axis=1) == 50).all()
    assert len(np.unique(drawn, axis=0)) == 20


def test_identities_out_of_range_are_errors():
    with pytest.raises(ValueError, match="identities -1 to 3 are not in 0 to 3"):
        intervals.identity_weights(np.array([0, 3]), np.array([-1, 2]), 4)
    with pytest.raises(ValueError, match="identities 0 to 4 are not in 0 to 3"):
        intervals.identity_weights(np.array([0, 4]), np.array([1, 2]), 4)


def test_a_resample_without_the_metric_is_left_out_and_counted():
    scores = np.array([0.9, 0.8, 0.1, 0.7])
    same = np.array([True, True, False, True])
    statistics = intervals.PairStatistics(scores, same, protocol="pooled")
    drawn = intervals.samples(statistics, intervals.pair_weights(4, 200), ["auc"])
    lacking = int(np.isnan(drawn["auc"]).sum())
    assert 30 < lacking < 100  # (3/4)^4 of 200 lack the impostor pair
    assert intervals.percentile(drawn["auc"]) == (1.0, 1.0)
    assert np.isnan(intervals.percentile(np.full(3, np.nan))).all()


def test_undefined_metrics_are_absent_with_their_reason():
    statistics = intervals.PairStatistics(
        np.ones(4), np.ones(4, bool), protocol="paper"
    )
    assert statistics() == {"accuracy": 1.0, "cosine_threshold": 1.0}
    assert statistics.notes["auc"] == "no impostor pairs"
    assert "tar@far=1e-3" in statistics.notes


def test_reported_folds_have_thresholds_of_all_folds():
    _, _, same, scores, _ = problem()
    numbers = verification.contiguous_folds(PAIRS)
    reported = np.arange(10) >= 7
    statistics = intervals.PairStatistics(
        scores, same, folds=numbers, distances=2 - 2 * scores, reported=reported
    )
    values, rows = statistics(), reported[numbers]
    measured = verification.fold_accuracy(2 - 2 * scores, same, numbers)
    assert values["accuracy"] == measured.accuracies[7:].mean()
    assert values["auc"] == verification.area_under_roc(scores[rows], same[rows])
    with pytest.raises(ValueError, match="has no folds"):
        intervals.PairStatistics(scores, same, protocol="paper", reported=reported)


def test_intervals_cover_and_shrink_with_the_number_of_identities():
    """Near the normal interval of a mean of independent genuine pairs."""

    def share(scores):
        return lambda w: {"mean": float(np.average(scores, weights=w))}

    rng = np.random.default_rng(0)
    scores = rng.random(400) < 0.8
    codes = np.arange(400)
    weights = intervals.identity_weights(codes, codes, 400, 500)
    low, high = intervals.bootstrap(share(scores), weights)["mean"]
    deviation = scores.std() / 20
    assert low == pytest.approx(scores.mean() - 1.96 * deviation, abs=0.01)
    assert high == pytest.approx(scores.mean() + 1.96 * deviation, abs=0.01)


def test_intervals_over_identities_are_wider_where_pairs_depend_on_them():
    """Ten genuine pairs of each of 60 identities with a score of its own."""
    rng = np.random.default_rng(0)
    first = np.tile(np.repeat(np.arange(60), 10), 2)
    second = np.where(np.arange(1200) < 600, first, (first + 1) % 60)
    scores = np.where(first == second, rng.normal(size=60)[first], 0)
    statistics = intervals.PairStatistics(scores, first == second, protocol="pooled")
    widths = []
    for weights in (
        intervals.identity_weights(first, second, 60, 200),
        intervals.pair_weights(1200, 200),
    ):
        low, high = intervals.bootstrap(statistics, weights)["auc"]
        widths.append(high - low)
    # The variance of a mean of 60 values, not of 600.
    assert widths[0] / widths[1] == pytest.approx(10**0.5, rel=0.3)


def test_many_pairs_have_fewer_resamples(monkeypatch):
    monkeypatch.undo()  # of the fewer resamples of tests
    assert intervals.number_of_resamples(1_000_000) == 1000
    assert intervals.number_of_resamples(1_000_001) == 200


def test_wrong_arguments_are_errors():
    scores, same = np.array([0.1, 0.2]), np.array([True, False])
    with pytest.raises(ValueError, match="protocol 'lfw' is none of insightface"):
        intervals.PairStatistics(scores, same, protocol="lfw")
    with pytest.raises(ValueError, match="needs folds and distances"):
        intervals.PairStatistics(scores, same)
    with pytest.raises(ValueError, match="1 scores are not finite"):
        intervals.PairStatistics(np.array([0.1, np.nan]), same, protocol="pooled")
    statistics = intervals.PairStatistics(scores, same, protocol="pooled")
    with pytest.raises(ValueError, match=r"weights \(3,\) of \(2,\) pairs"):
        statistics(np.ones(3, int))
