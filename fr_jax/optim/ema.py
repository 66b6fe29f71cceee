"""Exponential moving averages of trees."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from fr_jax.errors import UserError
from fr_jax.system import System

PyTree = Any


def ema(average: PyTree, new: PyTree, decay: float | jax.Array) -> PyTree:
    """Returns decay * average + (1 - decay) * new, leaf by leaf, in float32."""
    return jax.tree.map(lambda a, n: decay * a + (1 - decay) * n, average, new)


class EmaState(NamedTuple):
    """The trained state and the average of its parameters and batch statistics."""

    live: PyTree
    params: PyTree
    batch_stats: PyTree
    updates: Any


def with_ema(system: System, decay: float) -> System:
    """Returns `system` with an averaged copy of its network, which is what is judged.

    Works on systems whose State has the fields `params` and `batch_stats` (NetState or
    alike). Training is untouched; embed, eval_step and hand_over see the average. The
    decay rises with the number of updates, min(decay, (1 + n) / (10 + n)), so that a
    short run is not held back by its first weights.

    Raises:
      UserError: for a decay that is not between 0 and 1.
    """
    if not 0 <= decay < 1:
        raise UserError(f"a decay of {decay} averages nothing; use 0.9 to 0.9999")

    def averaged(state: EmaState) -> PyTree:
        return state.live._replace(params=state.params, batch_stats=state.batch_stats)

    def init(key, batch, given=None):
        live = system.init(key, batch, given or {})
        params, batch_stats = jax.tree.map(jnp.copy, (live.params, live.batch_stats))
        return EmaState(live, params, batch_stats, jnp.int32(0))

    def train_step(state, batch, key):
        live, metrics = system.train_step(state.live, batch, key)
        warm = jnp.minimum(decay, (1 + state.updates) / (10 + state.updates))
        params, batch_stats = ema(
            (state.params, state.batch_stats), (live.params, live.batch_stats), warm
        )
        return EmaState(live, params, batch_stats, state.updates + 1), metrics

    def feedback(state, metrics):
        assert system.feedback is not None
        live, stop = system.feedback(state.live, metrics)
        return state._replace(live=live), stop

    def partition(state):
        assert system.partition is not None
        live = system.partition(state.live)
        return EmaState(live, live.params, live.batch_stats, PartitionSpec())

    def on_average(function):
        return function and (lambda state, *args: function(averaged(state), *args))

    return System(
        init,
        train_step,
        embed=on_average(system.embed),
        eval_step=on_average(system.eval_step),
        feedback=system.feedback and feedback,
        partition=system.partition and partition,
        hand_over=on_average(system.hand_over),
    )
