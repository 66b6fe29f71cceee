"""System: a published method as a tuple of pure functions."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec

from fr_jax.errors import UserError, check_names, unknown

PyTree = Any
Batch = Mapping[str, jax.Array]


class NetState(NamedTuple):
    """The state of one trained network: the pytrees that an optimiser step updates.

    `updates` is the number of optimiser steps.
    """

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    updates: Any

    @classmethod
    def create(cls, params: PyTree, batch_stats: PyTree, optimizer: Any) -> "NetState":
        """Returns the state before the first update."""
        return cls(params, batch_stats, optimizer.init(params), jnp.int32(0))


class Network(NamedTuple):
    """A trained network, with everything needed to rebuild it.

    `architecture` and `options` are arguments of `models.create`, `input_spec` is a
    `models.preprocess.InputSpec`, `variables` are those of the module's `apply`.
    """

    architecture: str
    options: dict[str, Any]
    variables: PyTree
    input_spec: Any
    kind: str = "embedding"


class Mean(NamedTuple):
    """A metric averaged over the updates of an interval: sum(total) / sum(count).

    An update that has no value of the metric contributes `Mean(0, 0)`.
    """

    total: Any
    count: Any

    @classmethod
    def of(cls, total: Any, count: Any = 1) -> "Mean":
        """Returns a mean of float32 JAX scalars; of one value by default."""
        return cls(jnp.float32(total), jnp.float32(count))


class Last(NamedTuple):
    """A metric of `eval_step` of which an evaluation reports the last batch's value."""

    value: Any


class Input(NamedTuple):
    """The type, shape and range expected of one array of a batch.

    Attributes:
      dtype: NumPy type.
      shape: lengths of the axes, None for any length.
      low, below: integer values lie in [low, below); None for no limit.
      multiple: the batch size is a multiple of this.
    """

    dtype: Any
    shape: tuple[int | None, ...]
    low: int | None = None
    below: int | None = None
    multiple: int = 1


class System(NamedTuple):
    """The pure functions of a method, the interface to the training loop.

    Attributes:
      init: (key, batch, given={}) -> State. `given` holds trained variables by name. A
        State is a NetState, or a tuple whose first field is the NetState of the network
        that is evaluated.
      train_step: (state, batch, key) -> (State, metrics): one update; a metric is a
        scalar or a `Mean`.
      embed: (state, batch) -> {'embedding': [B, D] raw, optionally 'quality': [B]}.
      hand_over: state -> {name: Network}: the trained networks, saved after the run.
      eval_step: (state, batch, key) -> metrics: losses on held-out data; a metric is a
        scalar, a `Mean` or a `Last`.
      feedback: (state, metrics) -> (State, stop): after each evaluation.
      partition: PartitionSpec of the arrays below a key of the state, by that key; all
        others are replicated.
      expects: shapes, types and ranges of a batch, by name; checked before
        compilation, and ranges in every step.
      watch: metrics, losses as a rule, whose rises the loop's guard rejects, with those
        of the networks' changes; () if only non-finite values are to be rejected.
    """

    init: Callable[..., PyTree]
    train_step: Callable[[PyTree, Batch, jax.Array], tuple[PyTree, dict]]
    embed: Callable[[PyTree, Batch], dict[str, jax.Array]]
    hand_over: Callable[[PyTree], dict[str, Network]]
    eval_step: Callable[[PyTree, Batch, jax.Array], dict] | None = None
    feedback: Callable[[PyTree, dict], tuple[PyTree, bool]] | None = None
    partition: Mapping[str, PartitionSpec] = {}
    expects: Mapping[str, Input] = {}
    watch: Sequence[str] = ("loss",)


def score(metrics: Mapping[str, float], names: Sequence[str], what: str) -> float:
    """Returns the mean of the named metrics of an evaluation.

    'lfw/accuracy' is the metric of the whole set or of its subset, 'lfw:600/accuracy'.

    Raises:
      UserError: for a missing metric; `what` is the setting that names it.
    """
    values = {re.sub(r":\d+/", "/", name): value for name, value in metrics.items()}
    values |= metrics
    for name in names:
        if name not in values:
            raise UserError(unknown(what, name, metrics))
    return sum(float(values[name]) for name in names) / len(names)


def check_given(
    given: Mapping[str, PyTree] | None, valid: Iterable[str]
) -> dict[str, PyTree]:
    """Returns `given` as a dict; UserError for a name that is not in `valid`."""
    check_names("given network", given or {}, valid)
    return dict(given or {})


def check_kinds(
    pretrained: Mapping[str, Network] | None, kinds: Mapping[str, Sequence[str]]
) -> None:
    """Raises a UserError for a pretrained network of a kind that cannot be used.

    The message names the flag that gave it.

    Args:
      kinds: the valid kinds of each network, by name.
    """
    for name, network in check_given(pretrained, kinds).items():
        if network.kind not in kinds[name]:
            flag = "--init-from" if name == "init" else f"--given {name}="
            raise UserError(
                f"{flag}: a network of kind {network.kind!r} ({network.architecture}); "
                f"this system needs one of kind {' or '.join(map(repr, kinds[name]))}"
            )


def check_variables(name: str, given: PyTree, expected: PyTree) -> None:
    """Raises a UserError for the first array of `given` with an unexpected shape."""
    weights: Any = flatten_dict(given, sep="/")
    network: Any = flatten_dict(expected, sep="/")
    for path in sorted(weights.keys() | network.keys()):
        if path not in weights:
            raise UserError(f"weights given as {name!r}: {path} is missing")
        if path not in network:
            raise UserError(f"weights given as {name!r}: {path} is not in this network")
        if weights[path].shape != network[path].shape:
            raise UserError(
                f"weights given as {name!r}: {path} is {weights[path].shape}, this "
                f"network has {network[path].shape}; use the same architecture and "
                "options"
            )
