"""Paired differences: those of the same resamples, or refused with a reason."""

import numpy as np
import pytest

from fr_jax.metrics import intervals
from fr_jax.metrics.intervals import Difference
from fr_jax.report import comparison
from tests.support import evaluations


def statistics(one, reported=None):
    scores = one.scores
    return intervals.PairStatistics(
        scores.values,
        scores.same,
        folds=scores.folds,
        distances=scores.distances,
        reported=reported,
    )


def weights(one, resamples):
    scores = one.scores
    first, second = (scores.identities[scores.pairs[:, side]] for side in (0, 1))
    return intervals.identity_weights(first, second, 48, resamples)


def paired(first, second, drawn):
    """Differences of two statistics by a plain loop over weights."""
    rows = [(first(w), second(w)) for w in drawn]
    expected = {}
    for name, value in first(None).items():
        samples = [a[name] - b[name] for a, b in rows if name in a and name in b]
        ends = np.percentile(samples, [2.5, 97.5])
        expected[name] = Difference(value - second(None)[name], *ends)
    return expected


def close(actual, expected):
    assert expected
    for name, difference in expected.items():
        if not name.endswith("_threshold"):
            np.testing.assert_allclose(actual[name], difference, atol=1e-12)


def test_differences_are_those_of_paired_resamples():
    first = evaluations.run("first", noise=1.0)
    second = evaluations.run("second", noise=0.5, seed=2)
    third = evaluations.run("third", noise=0.7, seed=3)
    compared = comparison.compare([first, second, third], "faces", resamples=20)
    assert not compared.reasons and compared.folds is None
    assert compared.resampled == "20 resamples of 12 identities"
    one, other, last = (run.sets[0] for run in (first, second, third))
    for number, later in ((1, other), (2, last)):
        expected = paired(statistics(later), statistics(one), weights(one, 20))
        close(compared.whole[number], expected)
        assert expected["accuracy"].difference > 0


def test_pairs_are_resampled_where_identities_are_unknown():
    one, other = (evaluations.evaluated_set(noise=noise) for noise in (1.0, 0.5))
    bare = [s._replace(scores=s.scores._replace(identities=None)) for s in (one, other)]
    runs = [evaluations.run(name, bare[n]) for n, name in enumerate(("a", "b"))]
    compared = comparison.compare(runs, "faces", resamples=20)
    assert compared.resampled == "20 resamples of 200 pairs"
    drawn = intervals.pair_weights(200, 20)
    expected = paired(statistics(other), statistics(one), drawn)
    close(compared.whole[1], expected)


@pytest.mark.parametrize("without", [0, 1], ids=["first", "second"])
def test_both_runs_have_the_resamples_of_the_one_that_names_identities(without):
    sets = [evaluations.evaluated_set(noise=noise) for noise in (1.0, 0.5)]
    bare = sets[without].scores._replace(identities=None)
    given = list(sets)
    given[without] = sets[without]._replace(scores=bare)
    runs = [evaluations.run(name, given[n]) for n, name in enumerate(("a", "b"))]
    compared = comparison.compare(runs, "faces", resamples=20)
    assert compared.resampled == "20 resamples of 12 identities"
    one, other = sets
    close(
        compared.whole[1], paired(statistics(other), statistics(one), weights(one, 20))
    )


def test_a_run_that_has_seen_folds_is_compared_on_the_others():
    """On the folds that none has seen, also those of runs that have seen nothing."""
    first = evaluations.run("first")
    second = evaluations.run(
        "second", seed=2, seen="by name", seen_folds=tuple(range(5))
    )
    third = evaluations.run("third", seed=3, seen="by name", seen_folds=tuple(range(9)))
    compared = comparison.compare([first, second, third], "faces", resamples=20)
    assert not compared.whole
    assert compared.reasons.keys() == {1, 2}
    assert "second was trained on identities" in compared.reasons[1][0]
    assert np.flatnonzero(compared.folds).tolist() == [9]
    assert compared.own == {2}
    mask, one = compared.folds, first.sets[0]
    for number, run in ((1, second), (2, third)):
        expected = paired(
            statistics(run.sets[0], mask), statistics(one, mask), weights(one, 20)
        )
        close(compared.held_out_differences[number], expected)
    assert compared.held_out[0].values["impostor_pairs"] == 10


def other(name="faces", **fields):
    return evaluations.run("second", evaluations.evaluated_set(name, **fields))


SWITCHED = evaluations.PROTOCOL | {"flip_sum": False, "media": "unit"}
OF_NAMES = evaluations.PROTOCOL | {"image_digests": "names"}


def test_switches_of_the_data_do_not_matter():
    data = {"file": "b.txt", "missing": "drop", "image_digests": "pixels"}
    runs = [evaluations.run("first"), other(protocol=evaluations.PROTOCOL | data)]
    assert comparison.compare(runs, "faces", resamples=5).whole


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (other("others"), "second was not evaluated on this set"),
        (other(scores=None), "no scores of second are stored"),
        (other(digest="9"), "different images or pairs"),
        (other(digest=""), "different images or pairs"),
        (other(protocol={"protocol": "kfold"}), "protocols insightface and kfold"),
        (other(protocol=SWITCHED), "switches: flip_sum True and False, media None and"),
        (other(protocol=OF_NAMES), "known by pixels and by names"),
        (other(num_pairs=100), "different labels or folds"),
        (other(seen="one image"), "second was trained on identities of the set (one"),
    ],
)
def test_no_difference_without_equal_unseen_pairs(second, reason):
    runs = [evaluations.run("first"), second]
    compared = comparison.compare(runs, "faces", resamples=5)
    assert reason in compared.reasons[1][0]
    assert not compared.whole and not compared.held_out


def test_differences_of_embedders_of_unknown_training_sets_say_so():
    runs = [evaluations.run("first", unknown=True), evaluations.run("second", seed=2)]
    compared = comparison.compare(runs, "faces", resamples=5)
    assert compared.whole
    (remark,) = compared.remarks
    assert "whether first was trained" in remark


def test_folds_that_are_not_seen_need_a_protocol_with_folds():
    some = evaluations.evaluated_set(seen="by name", seen_folds=(0, 1))
    assert np.flatnonzero(~comparison.unseen_folds([some])).tolist() == [0, 1]
    paper = some._replace(protocol={"protocol": "paper"})
    bare = some._replace(seen_folds=())
    every = some._replace(seen_folds=tuple(range(10)))
    for one in (paper, bare, every, evaluations.evaluated_set()):
        assert comparison.unseen_folds([one]) is None
