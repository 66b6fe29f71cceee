"""Bootstrap intervals of results: units, keys, notes, by an explicit loop."""

import dataclasses
import functools

import numpy as np
import pytest

from fr_jax.embedder.batched import BatchedEmbed
from fr_jax.evaluation import uncertainty
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.protocols import PROTOCOLS
from fr_jax.metrics import intervals, verification
from tests.support.pairs import PAIRS, embed, make_set, named_set


@pytest.fixture(scope="module")
def trained():
    return Trained(functools.partial(BatchedEmbed(embed, 64), 3.0), {})


def test_units_are_identities_that_agree_with_the_labels():
    unit = uncertainty.resampling(named_set())
    assert (unit.unit, unit.units, unit.reason) == ("identities", 30, "")
    unit = uncertainty.resampling(make_set())
    assert (unit.unit, unit.units) == ("pairs", 200)
    assert unit.reason == "the set does not name identities"
    unit = uncertainty.resampling(make_set(identities=["all"] * 2 * PAIRS))
    assert (unit.unit, unit.units) == ("pairs", 200)
    assert unit.reason == "names of identities contradict the labels of 100 pairs"


@pytest.mark.parametrize("named", [True, False])
def test_intervals_are_those_of_an_explicit_loop(trained, named):
    toy = named_set() if named else make_set()
    toy(trained)
    resamples = 30
    found = uncertainty.of_results(toy, resamples)
    assert found.values["toy/resamples"] == resamples
    key = "toy/resampled_identities" if named else "toy/resampled_pairs"
    assert found.values[key] == (30 if named else 200)
    scores, same = toy.curve
    distances = 2 - 2 * scores
    aucs, accuracies = [], []
    weights = uncertainty.weights(toy, uncertainty.resampling(toy), resamples)
    for drawn in weights:
        rows = np.repeat(np.arange(PAIRS), drawn)  # each pair as often as drawn
        aucs.append(verification.area_under_roc(scores[rows], same[rows]))
        repeated = distances[rows], same[rows], toy.folds[rows]
        accuracies.append(verification.fold_accuracy(*repeated).accuracies.mean())
    for name, samples in (("auc", aucs), ("accuracy", accuracies)):
        for end, share in (("low", 2.5), ("high", 97.5)):
            bound = found.values[f"toy/{name}_{end}"]
            assert bound == pytest.approx(np.percentile(samples, share), abs=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_metric_of_pairs_has_an_interval(trained, protocol):
    toy = named_set(protocol=protocol).mark_seen({"t": [f"p{n}" for n in range(3)]})
    results = toy(trained)
    found = uncertainty.of_results(toy, 20)
    no_pairs = [n for n in results if "_pairs" not in n]
    expected = {
        f"{start}{end}{colon}{variant}"
        for name in no_pairs
        if "stratified" not in name
        for start, colon, variant in [name.partition(":")]
        for end in ("_low", "_high")
    }
    of_unit = {n for n in found.values if "resample" in n}
    assert found.values.keys() - of_unit == expected
    assert len(of_unit) == 2 and not found.notes


def test_mean_length_is_resampled_over_identities_with_all_their_images(trained):
    toy = named_set()
    toy(trained)
    norms = np.arange(2.0 * PAIRS)
    toy.measured = toy.measured._replace(norms=norms)
    found = uncertainty.of_results(toy, 40).values
    codes = uncertainty.resampling(toy).codes
    means = [
        np.average(norms, weights=times[codes])
        for times in intervals.identity_draws(codes, 40)
    ]
    bounds = found["toy/xnorm_low"], found["toy/xnorm_high"]
    assert bounds == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_metrics_that_some_resamples_lack_are_noted(trained):
    toy = make_set(protocol="paper")
    same = np.arange(PAIRS) < 2
    toy = dataclasses.replace(toy, same=same)
    toy(trained)
    found = uncertainty.of_results(toy, 100)
    note = found.notes["toy/auc_low:paper"]
    missing = int(note.split()[2])
    assert note == f"undefined in {missing} of 100 resamples"
    assert 2 <= missing <= 40  # e^-2 of them have no genuine pair
    assert "toy/auc_low:paper" in found.values
    assert uncertainty.of_results(toy, 0) == ({}, {})
