"""The device mesh, and the sharding of batches and states."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fr_jax.errors import UserError

PyTree = Any


def make_mesh(model: int = 1) -> Mesh:
    """Returns a mesh of all devices, axes 'data' and 'model' (`model` devices wide).

    Raises:
      UserError: if the number of devices is not a multiple of `model`.
    """
    count = jax.device_count()
    if model < 1 or count % model:
        raise UserError(
            f"{count} devices cannot be laid out {model} wide on the axis 'model'; "
            "use a divisor of the number of devices"
        )
    # Ordered by process, so that each process has contiguous rows; `jax.make_mesh`
    # orders devices by their location. Explicit axes, its default, do not work with
    # Flax Linen.
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    grid = np.array(devices).reshape(count // model, model)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of rows over the axis 'data'."""
    return NamedSharding(mesh, PartitionSpec("data"))


def state_shardings(
    mesh: Mesh, state: PyTree, partition: Mapping[str, PartitionSpec]
) -> PyTree:
    """Returns a NamedSharding for every leaf of a state (arrays or shapes).

    Args:
      partition: the PartitionSpec of all arrays below a key; others are replicated.
        Copies of a parameter in an optimiser's state have its key as well.
    """

    def place(path, leaf):
        keys = (getattr(entry, "key", getattr(entry, "name", "")) for entry in path)
        spec = next((partition[key] for key in keys if key in partition), None)
        if spec is None or not leaf.ndim:
            return replicated(mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, state)


def rows_over_data(array: jax.Array) -> jax.Array:
    """Returns an array, in a traced function, with its rows over the axis 'data'.

    Rows gathered by index from a sharded array are replicated otherwise, so that every
    device computes all of them.
    """
    mesh = jax.typeof(array).sharding.mesh
    if "data" not in mesh.axis_names:
        return array
    return jax.lax.with_sharding_constraint(array, batch_sharding(mesh))


def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Returns the rows [start, stop) of a global batch that this process supplies.

    Raises:
      UserError: if the batch cannot be divided into equal shards.
    """
    shards = mesh.shape["data"]
    if batch_size % shards or batch_size < 1:
        raise UserError(
            f"a batch of {batch_size} rows cannot be divided into {shards} equal "
            f"shards; use a multiple of {shards}"
        )
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    bounds = [index[0].indices(batch_size)[:2] for index in places.values() if index]
    return min(start for start, _ in bounds), max(stop for _, stop in bounds)


def to_global(mesh: Mesh, batch: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Returns a batch as global arrays.

    NumPy arrays have the `local_rows` of this process; others are returned unchanged.
    """
    sharding = batch_sharding(mesh)

    def place(leaf):
        if not isinstance(leaf, np.ndarray):
            return leaf
        shape = (batch_size, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return {name: place(leaf) for name, leaf in batch.items()}


def to_host(array: jax.Array) -> np.ndarray:
    """Returns a whole global array as NumPy, in every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
