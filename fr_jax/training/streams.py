"""Streams that need no TensorFlow: small sets in memory, and generated batches.

Both are jitted functions of the step that return global arrays, sharded over the mesh.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fr_jax.backend import sharding
from fr_jax.errors import UserError

Array = jax.Array


class ArrayStream:
    """Batches of a set in memory: the given arrays' rows and `seed` uint32 [B].

    Every row comes once in each run of as many rows as there are; a batch may straddle
    two runs.

    Args:
      arrays: equal numbers of rows, as `image` uint8 [N, H, W, 3], `label` int32 [N].

    Raises:
      UserError: for arrays of different lengths, a negative label, or a batch larger
        than the set.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray | Array],
        batch_size: int,
        *,
        seed: int = 0,
        mesh: Mesh | None = None,
    ):
        lengths = {name: len(array) for name, array in arrays.items()}
        self.num_examples = min(lengths.values())
        if len(set(lengths.values())) != 1:
            raise UserError(f"arrays of different lengths: {lengths}")
        if batch_size > self.num_examples:
            raise UserError(
                f"a batch of {batch_size} rows from a set of {self.num_examples}; "
                "use a smaller batch"
            )
        labels = np.asarray(arrays.get("label", np.zeros(1, np.int32)))
        if labels.min() < 0:
            raise UserError(f"label {labels.min()}: classes are numbered from 0")
        self.num_classes = int(labels.max()) + 1
        mesh = mesh or sharding.make_mesh()
        self.batch_size = batch_size
        self._arrays = jax.device_put(dict(arrays), sharding.replicated(mesh))
        self._key = jax.random.key(seed)
        self._take = jax.jit(
            functools.partial(_take, batch_size=batch_size, rows=self.num_examples),
            out_shardings=sharding.batch_sharding(mesh),
        )

    def batch_at(self, step: int) -> dict[str, Array]:
        """Returns the global batch of a step."""
        run, within = divmod(step * self.batch_size, self.num_examples)
        return self._take(self._arrays, self._key, run, within, step)


def _take(arrays, key, run, within, step, *, batch_size, rows):
    key_order, key_seed = jax.random.split(key)
    order = [
        jax.random.permutation(jax.random.fold_in(key_order, which), rows)
        for which in (run, run + 1)
    ]
    order = jax.lax.dynamic_slice(jnp.concatenate(order), (within,), (batch_size,))
    batch = {name: array[order] for name, array in arrays.items()}
    return batch | {"seed": _seeds(key_seed, step, batch_size)}


def _seeds(key, step, batch_size):
    return jax.random.bits(jax.random.fold_in(key, step), (batch_size,), jnp.uint32)


class GeneratedStream:
    """Batches that are made on the device and never stored.

    Args:
      make_batch: key -> dict of arrays with `batch_size` rows, a pure function; `seed`
        uint32 [B] is added.
      unit: what its rows are.
    """

    def __init__(
        self,
        make_batch: Callable[[Array], dict[str, Array]],
        batch_size: int,
        *,
        seed: int = 0,
        mesh: Mesh | None = None,
        unit: str = "images",
    ):
        self.batch_size, self.unit = batch_size, unit

        def batch(step):
            key_batch, key_seed = jax.random.split(jax.random.key(seed))
            made = make_batch(jax.random.fold_in(key_batch, step))
            return made | {"seed": _seeds(key_seed, step, batch_size)}

        places = sharding.batch_sharding(mesh or sharding.make_mesh())
        self._batch = jax.jit(batch, out_shardings=places)

    def batch_at(self, step: int) -> dict[str, Array]:
        """Returns the global batch of a step."""
        return self._batch(step)
