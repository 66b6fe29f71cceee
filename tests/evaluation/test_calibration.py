"""Calibration: the threshold of a FAR, its interval, too few impostor pairs."""

import dataclasses
import functools

import numpy as np
import pytest

from fr_jax.embedder.batched import BatchedEmbed
from fr_jax.errors import UserError
from fr_jax.evaluation import uncertainty
from fr_jax.evaluation.calibration import calibrate
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics import verification
from tests.support.pairs import PAIRS, embed, make_set, named_set


@pytest.fixture(scope="module")
def trained():
    return Trained(functools.partial(BatchedEmbed(embed, 64), 3.0), {})


@pytest.mark.parametrize("protocol", ["insightface", "kfold"])
@pytest.mark.parametrize("far", [0.01, 0.1, 0.37, 0.999])
def test_threshold_is_that_of_the_exact_counts(trained, protocol, far):
    toy = named_set(protocol=protocol)
    toy(trained)
    found = calibrate(toy, far, resamples=30)
    at = verification.counts_at_far(*toy.curve, far)
    assert (found.threshold, found.tar) == (at.threshold, at.tar)
    assert found.impostors_accepted == at.impostors_accepted <= far * 100
    assert found.flip_sum == (protocol == "insightface")
    assert (found.resampled, found.reliable) == ("identities", far >= 0.1)
    samples = []  # by repeating each pair as often as drawn
    scores, same = toy.curve
    for drawn in uncertainty.weights(toy, uncertainty.resampling(toy), 30):
        rows = np.repeat(np.arange(PAIRS), drawn)
        samples.append(verification.tar_at_far(scores[rows], same[rows], far)[1])
    assert [found.low, found.high] == pytest.approx(np.percentile(samples, [2.5, 97.5]))


def test_genuine_pairs_are_not_needed(trained):
    toy = dataclasses.replace(make_set(), same=np.zeros(PAIRS, bool))
    toy(trained)
    found = calibrate(toy, 0.05, resamples=20)
    assert found.tar is None and found.genuine_pairs == 0
    assert np.mean(toy.curve[0] >= found.threshold) <= 0.05


def test_a_far_below_one_impostor_pair_is_refused():
    toy = make_set()
    with pytest.raises(ValueError, match="not evaluated yet"):
        calibrate(toy, 0.1)
    match = "toy: 100 impostor pairs; a FAR of 0.001 needs at least 1,000, better 10,0"
    with pytest.raises(UserError, match=match):  # before any evaluation
        calibrate(toy, 1e-3)
    with pytest.raises(UserError, match="a FAR of 1 is not between 0 and 1"):
        calibrate(toy, 1)
