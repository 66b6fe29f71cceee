"""Nearness of generated embeddings to true ones, compared with baselines."""

import functools

import numpy as np
import pytest

from fr_jax.systems.fra import nearness
from tests.support.fra import (
    EXPRESSIONS,
    PERSONS,
    POSES,
    factors,
    fitted_maps,
    turned,
)


def test_pairs_are_of_a_person_in_two_poses_with_another_persons_landmarks():
    samples = factors(repeats=1, frontal=False)
    tuples = nearness.pairs(samples)
    assert len(tuples.target) == PERSONS * EXPRESSIONS * POSES * (POSES - 1) * 2 * 2
    given, target, picture = (
        {name: label[rows] for name, label in samples.labels.items()}
        for rows in (tuples.input, tuples.target, tuples.picture)
    )
    for name in ("identity", "expression"):
        assert (given[name] == target[name]).all()
    assert (given["pose"] != target["pose"]).all()
    assert (picture["pose"] == target["pose"]).all()
    assert (picture["expression"] == target["expression"]).all()
    assert (picture["identity"] != target["identity"]).all()
    some = nearness.pairs(samples, limit=50)
    assert len(some.target) == 50
    alone = samples.labels | {"identity": np.zeros(len(samples.session), int)}
    tuples = nearness.pairs(samples._replace(labels=alone), limit=50)
    assert (tuples.picture == tuples.target).all()


def test_linear_maps_learn_what_is_linear(tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, 5))
    slopes, pose = rng.normal(size=(2, 5, 5)), np.arange(600) % 2
    y = np.einsum("nd,nde->ne", x, slopes[pose]) + pose[:, None]
    maps = nearness.fit(x, y, pose, np.arange(600) // 10, ["left", "right", "up"])
    assert maps.poses == ["left", "right"]  # no tuple has the third
    path = tmp_path / "new" / nearness.FILE
    assert nearness.load(path) is None
    maps.save(path)
    maps = nearness.load(path)
    moved = maps.apply(x.astype(np.float32), np.array(maps.poses)[pose].tolist())
    assert np.abs(moved - y).max() < 0.01
    assert np.isnan(maps.apply(x[:2], ["up", "left"])[0]).all()
    # Without anything to learn, the input is left as it is.
    noise = nearness.fit(
        x, x + rng.normal(0, 3, x.shape), 0 * pose, np.arange(600) // 10, ["left"]
    )
    assert np.abs(noise.slope).max() < 0.2


def test_a_baseline_that_wins_is_named():
    samples = factors(frontal=False)
    maps, tuples = fitted_maps(samples), nearness.pairs(samples)
    perfect = functools.partial(turned, samples)
    lines = {}
    for name, generate in (
        ("perfect", perfect),
        ("copy", lambda given, picture: samples.embedding[given]),
    ):
        cosines = nearness.measure(samples, tuples, generate, maps)
        flat = nearness.results(cosines, samples.names["pose"])
        lines[name] = nearness.verdict(flat)
        means = [flat[f"fra/cosine:{n}"] for n in ("generated", "input", "linear")]
        assert means[2] > means[1]
        assert flat["fra/nearer:input"] == (cosines.generated > cosines.input).mean()
        by_person = [
            (cosines.generated - cosines.linear)[cosines.person == n].mean()
            for n in range(PERSONS)
        ]
        assert flat["fra/cosine_gain:linear"] == pytest.approx(np.mean(by_person))
        assert flat["fra/cosine_gain_low:linear"] < np.mean(by_person)
        assert flat["fra/cosine:input@pose=45"] == pytest.approx(
            cosines.input[cosines.pose == 2].mean()
        )
    assert lines["perfect"][0].startswith("the generated embedding is nearer")
    assert lines["copy"][1].startswith("a linear map for each pose is nearer")
    without = nearness.measure(samples, tuples, perfect, None)
    assert "fra/nearer:linear" not in nearness.results(without, samples.names["pose"])
