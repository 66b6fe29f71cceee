"""Schedules, masks and SGD against PyTorch's arithmetic, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fr_jax import models
from fr_jax.optim import optimizers


def test_milestones_divide_the_rate_at_the_start_of_their_epoch():
    rate = optimizers.schedule(
        "step", 0.1, total_steps=500, milestones=[10 * e for e in (28, 38, 46)]
    )
    traced = {epoch: float(rate(10 * epoch)) for epoch in (0, 27, 28, 37, 38, 46, 49)}
    expected = {0: 0.1, 27: 0.1, 28: 0.01, 37: 0.01, 38: 1e-3, 46: 1e-4, 49: 1e-4}
    assert traced == pytest.approx(expected, rel=1e-5)
    assert float(rate(279)) == pytest.approx(0.1)


def test_other_schedules_begin_and_end_where_they_should():
    for kind, middle in (("cosine", 0.05), ("linear", 0.05), ("constant", 0.1)):
        rate = optimizers.schedule(kind, 0.1, total_steps=110, warmup_steps=10)
        assert float(rate(0)) == 0
        assert float(rate(5)) == pytest.approx(0.05)
        assert float(rate(10)) == pytest.approx(0.1)
        assert float(rate(60)) == pytest.approx(middle)
        end = 0.1 if kind == "constant" else 0.0
        assert float(rate(110)) == pytest.approx(end, abs=1e-8)
    with pytest.raises(ValueError, match="'polynomial'"):
        optimizers.schedule("polynomial", 0.1, total_steps=10)


def test_ir_se50_splits_into_the_published_decay_groups():
    model = models.create("ir_se50")
    variables = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 112, 112, 3))
    )
    mask = optimizers.decay_mask(variables["params"])
    pairs = list(zip(jax.tree.leaves(mask), jax.tree.leaves(variables["params"])))
    kept = [leaf.size for decays, leaf in pairs if not decays]
    decayed = [leaf.size for decays, leaf in pairs if decays]
    assert (len(kept), sum(kept)) == (108, 26_368)
    assert (len(decayed), sum(decayed)) == (127, 43_771_328)


def test_sgd_is_pytorchs():
    params = {"conv": {"kernel": jnp.array([1.0, -2.0])}, "bn": {"scale": jnp.ones(1)}}
    optimizer = optimizers.sgd(0.1, momentum=0.9, weight_decay=0.01)
    state = optimizer.init(params)
    weight, velocity = np.array([1.0, -2.0]), 0.0
    scale, scale_velocity = 1.0, 0.0
    for step in range(3):
        gradient = jnp.array([0.5 + step, 1.0])
        gradients = {"conv": {"kernel": gradient}, "bn": {"scale": jnp.array([2.0])}}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        velocity = 0.9 * velocity + (np.asarray(gradient) + 0.01 * weight)
        weight = weight - 0.1 * velocity
        scale_velocity = 0.9 * scale_velocity + 2.0  # normalisations do not decay
        scale = scale - 0.1 * scale_velocity
    np.testing.assert_allclose(params["conv"]["kernel"], weight, rtol=1e-6)
    np.testing.assert_allclose(params["bn"]["scale"], scale, rtol=1e-6)


def test_accumulated_gradients_are_one_averaged_update():
    params = {"w": jnp.array([1.0])}
    one = optimizers.sgd(0.1, weight_decay=0.0)
    many = optimizers.sgd(0.1, weight_decay=0.0, accumulate=4)
    state = many.init(params)
    current = params
    for value in (1.0, 2.0, 3.0, 6.0):
        updates, state = many.update({"w": jnp.array([value])}, state, current)
        current = optax.apply_updates(current, updates)
    updates, _ = one.update({"w": jnp.array([3.0])}, one.init(params), params)
    expected = optax.apply_updates(params, updates)
    np.testing.assert_allclose(current["w"], expected["w"], rtol=1e-6)


def test_clipping_bounds_the_whole_gradient():
    params = {"w": jnp.array([3.0, 4.0])}
    optimizer = optimizers.sgd(1.0, momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.6, -0.8], rtol=1e-6)


def plateaued(scores, **options):
    plateau, factors, stops = optimizers.Plateau(), [], []
    for score in scores:
        plateau, stop = optimizers.on_plateau(plateau, score, **options)
        factors.append(float(plateau.factor))
        stops.append(stop)
    return factors, stops


def test_a_rate_falls_eleven_scores_after_the_best_and_the_run_stops_after_twenty():
    """The paper's settings: it always gets nine more epochs at the lower rate."""
    factors, stops = plateaued([0.5, 0.6] + 20 * [0.6])
    assert factors[:12] == [1.0] * 12
    np.testing.assert_allclose(factors[12:], 0.1)
    assert stops == [False] * 21 + [True]


def test_the_plateau_is_pytorchs():
    torch = pytest.importorskip("torch")
    scores = 0.9 + 0.05 * np.cumsum(np.random.default_rng(0).normal(size=120)) / 10
    for options in (
        {"patience": 3, "cooldown": 2, "threshold": 1e-4},
        {"patience": 0, "cooldown": 5, "threshold": 0.02},
    ):
        weight = torch.nn.Parameter(torch.zeros(1))
        there = torch.optim.lr_scheduler.ReduceLROnPlateau(
            torch.optim.SGD([weight], lr=1.0), mode="max", factor=0.5, eps=0, **options
        )
        rates = []
        for score in scores:
            there.step(score)
            rates.append(there.get_last_lr()[0])
        factors, _ = plateaued(scores, factor=0.5, stop_after=0, **options)
        np.testing.assert_allclose(factors, rates)
        assert 1e-20 < rates[-1] < 0.5
    assert plateaued([0.5] * 50, stop_after=0)[1] == [False] * 50


def test_everything_decays_but_the_frozen_scale():
    params = {"bn1": {"scale": 1, "bias": 1}, "features": {"scale": 1, "bias": 1}}
    assert optimizers.all_but_frozen({"backbone": params, "head": {"kernel": 1}}) == {
        "backbone": {
            "bn1": {"scale": True, "bias": True},
            "features": {"scale": False, "bias": True},
        },
        "head": {"kernel": True},
    }
