"""Averages of parameters: the recursion, and a system that hands over the average."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fr_jax.backend import sharding
from fr_jax.errors import UserError
from fr_jax.optim.ema import EmaState, ema, network, with_ema, with_network
from fr_jax.system import NetState, Network, System


def net(value) -> NetState:
    value = jnp.float32(value)
    return NetState({"w": value}, {"mean": -value}, (), jnp.int32(0))


class Two(NamedTuple):
    """A State of two networks, of which the first is evaluated."""

    first: NetState
    second: NetState
    step: Any


def updated(net, amount):
    params, statistics = {"w": net.params["w"] + amount}, {"mean": -net.params["w"]}
    return NetState(params, statistics, (), net.updates + 1)


def of_two_networks(partition=False, feedback=False):
    """Returns a system that updates its two networks in turn."""

    def init(key, batch, given=None):
        return Two(net((given or {}).get("start", 0)), net(0), jnp.int32(0))

    def train_step(state, batch, key):
        step = state.step + 1
        state = jax.lax.cond(
            step % 2 == 1,
            lambda: state._replace(first=updated(state.first, step)),
            lambda: state._replace(second=updated(state.second, step)),
        )
        return state._replace(step=step), {"step": step}

    def value(state, *_):
        return {"w": state.first.params["w"], "mean": state.first.batch_stats["mean"]}

    def hand_over(state):
        variables = {"params": state.first.params}
        return {"embedding": Network("toy", {}, variables, None)}

    def stop(state, metrics):
        return state._replace(step=jnp.int32(99)), True

    return System(
        init,
        train_step,
        value,
        hand_over,
        value,
        feedback=stop if feedback else None,
        partition={"w": PartitionSpec("data")} if partition else {},
    )


def run(system, steps):
    state = system.init(jax.random.key(0), {})
    states = [state]
    for _ in range(steps):
        state, metrics = jax.jit(system.train_step)(state, {}, jax.random.key(0))
        states.append(state)
    return states, metrics


def test_ema_is_a_weighted_sum_leaf_by_leaf():
    actual = ema({"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, 6.0])}, 0.75)
    np.testing.assert_allclose(actual["a"], [1.5, 3.0])


def test_the_average_is_updated_with_the_first_network():
    decay = 0.3
    states, metrics = run(with_ema(of_two_networks(), decay), 12)
    assert metrics == {"step": 12}
    average, statistics, updates = 0.0, 0.0, 0
    for before, after in itertools.pairwise(states):
        live = after.live.first
        if live.updates > before.live.first.updates:
            warm = min(decay, (1 + updates) / (10 + updates))
            average = warm * average + (1 - warm) * float(live.params["w"])
            mean = float(live.batch_stats["mean"])
            statistics = warm * statistics + (1 - warm) * mean
            updates += 1
        assert float(after.params["w"]) == pytest.approx(average, rel=1e-6)
        actual = float(after.batch_stats["mean"])
        assert actual == pytest.approx(statistics, rel=1e-6)
    assert updates == 6 and states[-1].live.second.updates == 6
    # 1 / 10, 2 / 11, 3 / 12, and the decay from then on.
    assert (1 + 3) / (10 + 3) > decay > (1 + 2) / (10 + 2)


def test_training_is_unchanged():
    plain, _ = run(of_two_networks(), 5)
    averaged, _ = run(with_ema(of_two_networks(), 0.9), 5)
    assert jax.device_get(averaged[-1].live) == jax.device_get(plain[-1])


def test_the_average_is_evaluated_and_handed_over():
    system = with_ema(of_two_networks(), 0.9)
    state = run(system, 3)[0][-1]
    assert state.params["w"] != state.live.first.params["w"]
    average = {"w": state.params["w"], "mean": state.batch_stats["mean"]}
    assert system.embed(state, {}) == average
    assert system.eval_step(state, {}, jax.random.key(0)) == average
    variables = system.hand_over(state)["embedding"].variables
    assert variables == {"params": state.params}


def test_the_average_starts_from_the_given_variables():
    system = with_ema(of_two_networks(), 0.9)
    state = system.init(jax.random.key(0), {}, {"start": 5})
    assert state.params == {"w": 5} and state.batch_stats == {"mean": -5}


def test_no_optional_function_is_added():
    system = with_ema(of_two_networks()._replace(eval_step=None), 0.9)
    assert (system.eval_step, system.feedback, system.partition) == (None, None, {})


def test_feedback_acts_on_the_live_state():
    system = with_ema(of_two_networks(feedback=True), 0.9)
    state = run(system, 1)[0][-1]
    after, stop = system.feedback(state, {})
    assert stop and after.live.step == 99 and after.params == state.params


def test_the_average_is_sharded_as_its_network():
    system = with_ema(of_two_networks(partition=True), 0.9)
    state = run(system, 1)[0][-1]
    state = jax.tree.map(lambda leaf: jnp.zeros((2,)), state)
    places = sharding.state_shardings(sharding.make_mesh(), state, system.partition)
    assert isinstance(places, EmaState)
    rows, whole = PartitionSpec("data"), PartitionSpec()
    assert places.params["w"].spec == places.live.first.params["w"].spec == rows
    assert places.batch_stats["mean"].spec == places.live.step.spec == whole


def test_the_network_of_a_state():
    alone, two = net(1), Two(net(1), net(2), jnp.int32(0))
    assert network(alone) is alone and network(two) is two.first
    assert with_network(alone, net(7)).params == {"w": 7}
    changed = with_network(two, net(7))
    assert changed.first.params == {"w": 7} and changed.second is two.second


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_invalid_decays_are_refused(decay):
    with pytest.raises(UserError, match=f"an EMA decay of {decay}"):
        with_ema(of_two_networks(), decay)
