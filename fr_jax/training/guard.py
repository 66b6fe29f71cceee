"""The guard against divergence: rejected updates, rollbacks, skipped data.

docs/faults.md has the reasons for the thresholds and their false-alarm rate.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.errors import UserError, check_range
from fr_jax.system import Mean, NetState, PyTree, System

Stretch = tuple[int, int]  # [first, end) of a stream's batches

# A value is compared with the median of REFERENCE accepted values; the last LAG ones
# before it are left out, so that a slow divergence does not become its own reference.
REFERENCE, LAG = 128, 32
# Lowest and highest permitted rise over the median, in units of asinh(loss) and of the
# log of a change of weights; the highest until FEWEST values are known.
FLOOR, CEILING, FEWEST = 1.0, 5.0, 16
# |change| / |weights| of a network: ratios below and above these count as these.
SMALL_CHANGE, LARGEST_CHANGE = 0.1, 1e30
MAX_STRETCHES = 8


class Guard(NamedTuple):
    """When an update is rejected, and how many rejections cause a rollback.

    An update is rejected if the new state or a watched metric has a non-finite value,
    or if asinh of a watched metric, or the logarithm of a network's change relative to
    its weights, exceeds its running median by more than `spike` standard deviations
    (1.4826 times the median absolute deviation), limited to 1 to 5. After `in_a_row`
    rejections the run rolls back to the state of 32 updates before the first of them
    and continues with the data after the last one; the `rollbacks`-th rollback (at
    most the ninth) stops the run. A system that watches nothing is checked for
    non-finite values of its state alone.
    """

    spike: float = 10.0
    in_a_row: int = 5
    rollbacks: int = 3

    @property
    def reach(self) -> int:
        """The largest number of steps that a rollback undoes."""
        return self.in_a_row + LAG

    def check(self) -> None:
        """Raises a UserError for numbers out of range."""
        check_range("the guard's spike", self.spike, 0)
        check_range("the guard's in_a_row", self.in_a_row, 1)
        check_range("the guard's rollbacks", self.rollbacks, 1, MAX_STRETCHES + 1)


class History(NamedTuple):
    """The last accepted values of each watched quantity.

    Attributes:
      values: float32 [quantities, REFERENCE + LAG], the newest last.
      count: int32 [quantities], values so far.
    """

    values: Any
    count: Any

    @classmethod
    def empty(cls, quantities: int) -> "History":
        """Returns the history before the first update."""
        length = REFERENCE + LAG
        return cls(
            np.zeros((quantities, length), np.float32), np.zeros(quantities, np.int32)
        )


def watched(system: System, state: PyTree, metrics: Sequence[str]) -> list[str]:
    """Returns the watched quantities as text: metrics, then networks of a state.

    Raises:
      UserError: if the system watches a metric that it does not have.
    """
    for name in system.watch:
        if name not in metrics:
            raise UserError(
                f"the system watches {name!r}, which is none of its metrics "
                f"({', '.join(metrics)}): name its losses in System.watch; () checks "
                "for non-finite values alone"
            )
    networks = _networks(state) if system.watch else {}
    changes = [f"the change of {name}" if name else "the change" for name in networks]
    return [*system.watch, *changes]


def observe(
    names: Sequence[str], means: Mapping[str, Mean], old: PyTree, new: PyTree
) -> tuple[jax.Array, jax.Array]:
    """Returns the watched values of an update [quantities], and which exist.

    A metric with a count of zero has no value, nor has a network that did not change or
    that was zero.

    Args:
      names: `System.watch`, not empty.
      old, new: states before and after the update.
    """
    metrics = [means[name] for name in names]
    values = [jnp.arcsinh(one.total / jnp.maximum(one.count, 1)) for one in metrics]
    exists = [one.count > 0 for one in metrics]
    for before, after in zip(_networks(old).values(), _networks(new).values()):
        change = jax.tree.map(jnp.subtract, after.params, before.params)
        length, weights = _norm(change), _norm(before.params)
        values.append(jnp.log(jnp.clip(length / weights, SMALL_CHANGE, LARGEST_CHANGE)))
        exists.append((length > 0) & (weights > 0))
    return jnp.stack(values), jnp.stack(exists)


def limits(history: History, spike: float) -> jax.Array:
    """Returns the highest values [quantities] that are accepted next."""
    length = history.values.shape[1]
    age = jnp.arange(length)[::-1][None]
    count = history.count[:, None]
    # Early on, the older half is the reference.
    inside = (age >= jnp.minimum(LAG, count // 2)) & (age < count)
    median = _median(history.values, inside)
    deviation = 1.4826 * _median(jnp.abs(history.values - median), inside)
    rise = jnp.clip(spike * deviation, FLOOR, CEILING)
    rise = jnp.where(count >= FEWEST, rise, CEILING)
    return jnp.where(count > 0, median + rise, jnp.inf)[:, 0]


def extended(history: History, values: jax.Array, exists: jax.Array) -> History:
    """Returns the history with one more update."""
    shifted = jnp.concatenate([history.values[:, 1:], values[:, None]], axis=1)
    return History(
        jnp.where(exists[:, None], shifted, history.values), history.count + exists
    )


def position(step: int, stretches: Sequence[Stretch]) -> int:
    """Returns the batch of a stream that a step trains on.

    >>> [position(step, [(2, 5), (7, 9)]) for step in range(6)]
    [0, 1, 5, 6, 9, 10]
    """
    for first, end in stretches:
        if step >= first:
            step += end - first
    return step


def skip(stretches: Sequence[Stretch], first: int, end: int) -> list[Stretch]:
    """Returns the skipped stretches and the data of steps `first` to `end` - 1.

    >>> skip([(2, 5)], 4, 6)
    [(2, 5), (7, 9)]
    >>> skip([(2, 5)], 1, 3)  # contains the earlier one
    [(1, 6)]
    """
    first, end = position(first, stretches), position(end - 1, stretches) + 1
    before = [stretch for stretch in stretches if stretch[1] <= first]
    if before and before[-1][1] == first:
        first = before.pop()[0]
    return [*before, (first, end)]


def to_array(stretches: Sequence[Stretch]) -> np.ndarray:
    """Returns stretches as int32 [MAX_STRETCHES, 2], zeros after the last."""
    array = np.zeros((MAX_STRETCHES, 2), np.int32)
    array[: len(stretches)] = np.reshape(stretches, (-1, 2))
    return array


def from_array(array: Any) -> list[Stretch]:
    """Returns the stretches of `to_array`."""
    return [(int(first), int(end)) for first, end in np.asarray(array) if end]


def _networks(state: PyTree) -> dict[str, NetState]:
    """Returns the networks in a state, by their path."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(
        state, is_leaf=lambda node: isinstance(node, NetState)
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): node
        for path, node in nodes
        if isinstance(node, NetState)
    }


def _norm(tree: PyTree) -> jax.Array:
    """Returns the Euclidean norm of all arrays together."""
    leaves = [jnp.square(jnp.float32(leaf)).sum() for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(leaves, jnp.float32(0)))


def _median(values: jax.Array, inside: jax.Array) -> jax.Array:
    """Returns the median [rows, 1] of the values inside a mask, the lower of two."""
    ordered = jnp.sort(jnp.where(inside, values, jnp.inf), axis=1)
    middle = jnp.maximum(jnp.sum(inside, axis=1, keepdims=True) - 1, 0) // 2
    return jnp.take_along_axis(ordered, middle, axis=1)
