"""System: a published method as a tuple of pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

PyTree = Any
Batch = Mapping[str, jax.Array]


class NetState(NamedTuple):
    """One trained network: the pytrees that its optimiser step reads and writes."""

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree


class Network(NamedTuple):
    """A trained network as it is handed over: enough to build it again anywhere.

    `architecture` and `options` are those of `models.create`, `input_spec` is a
    `models.preprocess.InputSpec`, `variables` what the module's `apply` takes.
    """

    architecture: str
    options: dict[str, Any]
    variables: PyTree
    input_spec: Any
    kind: str = "embedding"


class System(NamedTuple):
    """Pure functions that make up a method; the training loop calls nothing else.

    init(key, batch, given={}) -> State. `given` holds trained variables by name.
    train_step(state, batch, key) -> (State, metrics), metrics a dict of scalars.
    embed(state, batch) -> {'embedding': [B, D] raw, optionally 'quality': [B]}.
    eval_step(state, batch, key) -> metrics: losses on held-out data.
    feedback(state, metrics) -> (State, stop): after each evaluation.
    partition(state) -> PartitionSpecs of the state's shape; default: all replicated.
    hand_over(state) -> {name: Network}: what the run leaves behind to use.
    """

    init: Callable[..., PyTree]
    train_step: Callable[[PyTree, Batch, jax.Array], tuple[PyTree, dict]]
    embed: Callable[[PyTree, Batch], dict[str, jax.Array]]
    eval_step: Callable[[PyTree, Batch, jax.Array], dict] | None = None
    feedback: Callable[[PyTree, dict], tuple[PyTree, bool]] | None = None
    partition: Callable[[PyTree], PyTree] | None = None
    hand_over: Callable[[PyTree], dict[str, Network]] | None = None


def partition_named(state: PyTree, specs: Mapping[str, PartitionSpec]) -> PyTree:
    """Returns PartitionSpecs for `state`: `specs[name]` for every array under that key.

    An optimiser's copies of a parameter carry its key too, so they lie where it lies.
    """

    def spec(path, leaf):
        for entry in path:
            name = str(getattr(entry, "key", getattr(entry, "name", "")))
            if name in specs and leaf.ndim:
                return specs[name]
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, state)
