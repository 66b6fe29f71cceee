"""The device mesh: who holds which rows of a batch and which part of a state."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fr_jax.errors import UserError

PyTree = Any


def make_mesh(model: int = 1) -> Mesh:
    """Returns a mesh of all devices, axes 'data' and 'model' (`model` devices wide).

    Raises UserError where the number of devices is no multiple of `model`.
    """
    count = jax.device_count()
    if model < 1 or count % model:
        raise UserError(
            f"{count} devices cannot be laid out {model} wide on the axis 'model'; "
            "use a divisor of the number of devices"
        )
    # Process by process, so that each owns one run of rows; `jax.make_mesh` would lay
    # them out by their places in the machine. Explicit axes, its default, do not
    # compose with Flax Linen.
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    grid = np.array(devices).reshape(count // model, model)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the axis 'data', the rest whole."""
    return NamedSharding(mesh, PartitionSpec("data"))


def state_shardings(
    mesh: Mesh, state: PyTree, partition: Mapping[str, PartitionSpec]
) -> PyTree:
    """Returns a NamedSharding for every leaf of a state (arrays or shapes).

    Args:
      partition: the PartitionSpec of every array under a key; others are replicated. An
        optimiser's copies of a parameter carry its key and are partitioned alike.
    """

    def place(path, leaf):
        keys = (getattr(entry, "key", getattr(entry, "name", "")) for entry in path)
        spec = next((partition[key] for key in keys if key in partition), None)
        if spec is None or not leaf.ndim:
            return replicated(mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, state)


def rows_over_data(array: jax.Array) -> jax.Array:
    """Returns an array of a traced function with its rows over the axis 'data'.

    What is taken from a cut array by number comes back whole on every device, which
    would then all do the same work.
    """
    mesh = jax.typeof(array).sharding.mesh
    if "data" not in mesh.axis_names:
        return array
    return jax.lax.with_sharding_constraint(array, batch_sharding(mesh))


def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Returns the rows [start, stop) of a global batch that this process must supply.

    Raises UserError where the batch cannot be cut into equal shards.
    """
    shards = mesh.shape["data"]
    if batch_size % shards or batch_size < 1:
        raise UserError(
            f"a batch of {batch_size} rows cannot be cut into {shards} equal shards; "
            f"use {shards} or a multiple of it"
        )
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    bounds = [index[0].indices(batch_size)[:2] for index in places.values() if index]
    return min(start for start, _ in bounds), max(stop for _, stop in bounds)


def to_global(mesh: Mesh, batch: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Returns the batch as global arrays; leaves that already are one stay as they are.

    NumPy leaves hold this process's `local_rows`.
    """
    sharding = batch_sharding(mesh)

    def place(leaf):
        if not isinstance(leaf, np.ndarray):
            return leaf
        shape = (batch_size, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return {name: place(leaf) for name, leaf in batch.items()}


def to_host(array: jax.Array) -> np.ndarray:
    """Returns a whole global array as NumPy, on every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
