"""The memory that a run needs of a device, compared with what is free."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from fr_jax.backend import memory
from fr_jax.system import PyTree

_ATTEMPTS = 4  # batch sizes that are compiled to find one that fits


def check_state(like: PyTree) -> None:
    """Raises a UserError if the state of a run exceeds the free memory of a device.

    Args:
      like: shapes, types and shardings of the state.
    """
    split, whole, width = 0, 0, 1
    leaves = jax.tree.leaves(like)
    for leaf in leaves:
        shard = leaf.sharding.shard_shape(leaf.shape)
        size = math.prod(shard) * leaf.dtype.itemsize
        if "model" in jax.tree.leaves(tuple(leaf.sharding.spec)):
            split, width = split + size, leaf.sharding.mesh.shape["model"]
        else:
            whole += size
    available = memory.free(_device(leaves[0]))

    def fits() -> str:
        remedy = f"{memory.gigabytes(available or 0)} would fit, of fewer identities or"
        remedy += " a smaller network"
        room = (available or 0) - whole
        if split and room > 0:
            needed = math.ceil(split * width / room)
            remedy += (
                f", or with the classifier rows on {needed} devices: "
                f"--config.train.model_axis={needed}"
            )
        return remedy

    memory.check("the state of the run", split + whole, available, fits)


def check_step(
    compiled: Any,
    compile_for: Callable[[PyTree], Any],
    batch: Mapping[str, jax.Array],
    multiple: int,
) -> None:
    """Raises a UserError if an update needs more than the free memory of a device.

    Args:
      compiled: the program of the update.
      compile_for: returns that of another batch.
      batch: arrays of equally many rows, a multiple of `multiple`.
    """
    first = next(iter(batch.values()))
    needed, available = memory.of_program(compiled), memory.free(_device(first))

    def resized(rows: int) -> PyTree:
        return {
            name: jax.ShapeDtypeStruct(
                (rows, *array.shape[1:]), array.dtype, sharding=array.sharding
            )
            for name, array in batch.items()
        }

    def fits() -> str:
        rows, size, room = len(first), needed, available or 0
        for _ in range(_ATTEMPTS):
            # In proportion, which may be too many: some memory is for gradients.
            rows = min(int(rows * room / size), rows - 1)
            rows -= rows % multiple
            if rows < 1:
                break
            try:
                size = memory.of_program(compile_for(resized(rows)))
            except (TypeError, ValueError):  # a system may need this batch size
                break
            if size <= room:
                return f"a batch of {rows} rows needs {memory.gigabytes(size)}"
        return "use smaller images, a smaller network or more devices"

    what = f"an update with a batch of {len(first)} rows"
    memory.check(what, needed, available, fits)


def _device(array: Any) -> Any:
    return min(array.sharding.addressable_devices, key=lambda device: device.id)
