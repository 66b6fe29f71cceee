"""Exponential moving averages of parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import UserError
from fr_jax.system import NetState, PyTree, System


def ema(average: PyTree, new: PyTree, decay: float | jax.Array) -> PyTree:
    """Returns decay * average + (1 - decay) * new for every leaf.

    >>> ema({"w": 1.0}, {"w": 2.0}, 0.9)
    {'w': 1.1}
    """
    return jax.tree.map(lambda a, n: decay * a + (1 - decay) * n, average, new)


class EmaState(NamedTuple):
    """A system's state, and averaged parameters and statistics of one network."""

    live: PyTree
    params: PyTree
    batch_stats: PyTree


def with_ema(system: System, decay: float) -> System:
    """Returns `system` with an averaged copy of the network that is evaluated.

    That network is the State itself or its first field, a NetState. Training is
    unchanged; embed, eval_step and hand_over use the average, which is updated after
    each update of the network. After n updates the decay is min(decay, (1 + n) /
    (10 + n)), so that a short run is not dominated by the initial weights.

    Raises:
      UserError: for a decay outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise UserError(f"an EMA decay of {decay}: use 0.9 to 0.9999")

    def averaged(state: EmaState) -> PyTree:
        net = network(state.live)._replace(
            params=state.params, batch_stats=state.batch_stats
        )
        return with_network(state.live, net)

    def init(key, batch, given=None):
        live = system.init(key, batch, given or {})
        net = network(live)
        return EmaState(live, *jax.tree.map(jnp.copy, (net.params, net.batch_stats)))

    def train_step(state, batch, key):
        live, metrics = system.train_step(state.live, batch, key)
        before, after = network(state.live), network(live)
        warm = jnp.minimum(decay, (1 + before.updates) / (10 + before.updates))
        old = state.params, state.batch_stats
        new = ema(old, (after.params, after.batch_stats), warm)
        updated = after.updates > before.updates  # or another network was
        new = jax.tree.map(lambda n, o: jnp.where(updated, n, o), new, old)
        return EmaState(live, *new), metrics

    def feedback(state, metrics):
        assert system.feedback is not None
        live, stop = system.feedback(state.live, metrics)
        return state._replace(live=live), stop

    def on_average(function):
        return function and (lambda state, *args: function(averaged(state), *args))

    return system._replace(
        init=init,
        train_step=train_step,
        embed=on_average(system.embed),
        hand_over=on_average(system.hand_over),
        eval_step=on_average(system.eval_step),
        feedback=system.feedback and feedback,
    )


def network(state: PyTree) -> NetState:
    """Returns the NetState of the network that is evaluated."""
    return state if isinstance(state, NetState) else state[0]


def with_network(state: PyTree, net: NetState) -> PyTree:
    """Returns the state with `network(state)` replaced."""
    if isinstance(state, NetState):
        return net
    return state._replace(**{state._fields[0]: net})
