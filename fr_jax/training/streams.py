"""Streams without TensorFlow: arrays in memory, batches generated on the device."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fr_jax.backend import sharding
from fr_jax.errors import UserError

Array = jax.Array


class ArrayStream(contextlib.AbstractContextManager):
    """Batches of rows of arrays in memory, with `seed` uint32, assembled in threads.

    Args:
      arrays: `image` uint8 [N, H, W, 3] and columns [N], such as `label` int32.
      sampler: from `data_pipelines.samplers`, or a batch size: every row once per
        epoch, in random order.
      augment: (image, NumPy generator) -> image, applied to each image.
      mesh: determines the rows that this process supplies.

    A context manager; `close` ends the threads, and so does dropping the stream.

    Attributes:
      num_examples: N.
      extremes: (lowest, highest) value of each column of integers, by name.
      num_classes: highest label + 1; None without labels.

    Raises:
      UserError: for arrays of different lengths, and a batch size above N.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        sampler: Any,
        *,
        seed: int = 0,
        augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        mesh: Mesh | None = None,
    ):
        from data_pipelines import samplers
        from data_pipelines.assembly import Batches, Prefetch

        columns = {name: np.asarray(array) for name, array in arrays.items()}
        lengths = {name: len(column) for name, column in columns.items()}
        self.num_examples = min(lengths.values())
        if len(set(lengths.values())) != 1:
            raise UserError(f"arrays of different lengths: {lengths}")
        check_fits(sampler, self.num_examples)
        if isinstance(sampler, int):
            sampler = samplers.epochs(self.num_examples, sampler, seed=seed)
        images = columns.pop("image")
        rows = sharding.local_rows(mesh or sharding.make_mesh(), sampler.batch_size)
        batches = Batches(sampler, columns, seed=seed, rows=rows, augment=augment)
        self.batch_size, self.unit = sampler.batch_size, sampler.unit
        self.extremes, self.num_classes = batches.extremes, batches.num_classes
        self.fingerprint = batches.fingerprint

        def batch(step):
            chosen = batches.augmented(step, images[batches.images(step)])
            return batches.assemble(step, chosen)

        self._prefetch = Prefetch(batch)

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of a batch; fast for steps in order."""
        return self._prefetch.at(step)

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads; the stream cannot be used again."""
        self._prefetch.close()


def check_fits(sampler: Any, num_examples: int) -> None:
    """Raises a UserError if a batch size, or that of a sampler, exceeds the set."""
    batch_size = sampler if isinstance(sampler, int) else sampler.batch_size
    if not 1 <= batch_size <= num_examples:
        raise UserError(
            f"a batch of {batch_size} rows from a set of {num_examples}; use 1 to "
            f"{num_examples}"
        )


class GeneratedStream:
    """Batches that are generated on the device and never stored.

    Args:
      make_batch: key -> dict of arrays with `batch_size` rows, a pure function; `seed`
        uint32 [B] is added.
      unit: name of a row.
      variables: arrays of a network that makes the batch; if given, `make_batch` takes
        them after the key.
    """

    def __init__(
        self,
        make_batch: Callable[..., dict[str, Array]],
        batch_size: int,
        *,
        seed: int = 0,
        mesh: Mesh | None = None,
        unit: str = "images",
        variables: Any = None,
    ):
        self.batch_size, self.unit = batch_size, unit
        mesh = mesh or sharding.make_mesh()
        given = () if variables is None else (variables,)
        # Arguments, since arrays in a closure become constants of the program.
        self._given = jax.device_put(given, sharding.replicated(mesh))

        def batch(step, *given):
            key_batch, key_seed = jax.random.split(jax.random.key(seed))
            key_rows = jax.random.fold_in(key_seed, step)
            seeds = jax.random.bits(key_rows, (batch_size,), jnp.uint32)
            rows = make_batch(jax.random.fold_in(key_batch, step), *given)
            return rows | {"seed": seeds}

        self._batch = jax.jit(batch, out_shardings=sharding.batch_sharding(mesh))

    def batch_at(self, step: int) -> dict[str, Array]:
        """Returns the global batch of a step."""
        return self._batch(step, *self._given)
