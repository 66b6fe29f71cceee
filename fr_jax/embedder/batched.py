"""Inference in batches of one size, with one compiled function."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.backend import cpu, sharding
from fr_jax.errors import UserError
from fr_jax.progress import progress_bar

Arrays = dict[str, np.ndarray]


class BatchedEmbed:
    """Embeds any number of images with one compiled function.

    Args:
      embed: (state, {'image': uint8 [B, H, W, 3]}) -> {'embedding': [B, D], optionally
        'quality': [B]}.
      batch_size: rows of the compiled batch, rounded up to a multiple of the number of
        devices. The last batch is padded.
    """

    def __init__(
        self,
        embed: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]],
        batch_size: int = 64,
        mesh: jax.sharding.Mesh | None = None,
    ):
        self._mesh = mesh or sharding.make_mesh()
        shards = self._mesh.shape["data"]
        self.batch_size = -(-batch_size // shards) * shards

        def views(state, image, flip):
            stack = [image, image[:, :, ::-1]] if flip else [image]
            # [B, H, W, C] -> [B * views, H, W, C]
            pairs = jnp.stack(stack, axis=1).reshape(-1, *image.shape[1:])
            outputs = embed(state, {"image": pairs})
            result = {name: rows[:: len(stack)] for name, rows in outputs.items()}
            if flip:
                result["mirrored"] = outputs["embedding"][1::2]
            return result

        self._views = jax.jit(
            views,
            static_argnums=2,
            out_shardings=sharding.batch_sharding(self._mesh),
            compiler_options=cpu.compiler_options(),
        )

    def __call__(
        self, state: Any, images: Any, *, flip: bool = False, progress: str = ""
    ) -> Arrays:
        """Returns 'embedding' float32 [N, D], raw, and 'quality' [N] if available.

        Args:
          images: uint8 RGB [N, H, W, 3], or an object with such slices.
          flip: add 'mirrored' [N, D], the embeddings of the mirrored images.
          progress: label of a progress bar; '': none.

        Raises:
          UserError: for no images.
        """
        size = self.batch_size
        starts = range(0, len(images), size)
        options = {"unit": " batches", "disable": not progress, "leave": False}
        bar = progress_bar(starts, progress, **options)
        batches = (np.asarray(images[start : start + size]) for start in bar)
        parts = list(self.each(state, batches, flip=flip))
        if not parts:
            raise UserError("no images to embed")
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def each(
        self, state: Any, batches: Iterable[np.ndarray], *, flip: bool = False
    ) -> Iterator[Arrays]:
        """Yields the result of `__call__` for each batch uint8 [n, H, W, 3].

        The next batch is fetched while the device computes the current one.
        """
        size = self.batch_size
        local = slice(*sharding.local_rows(self._mesh, size))

        def dispatched():
            for batch in batches:
                padded = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
                placed = sharding.to_global(self._mesh, {"image": padded[local]}, size)
                yield self._views(state, placed["image"], flip), len(batch)

        # `pairwise` dispatches a batch before it returns the previous one.
        ahead = itertools.pairwise(itertools.chain(dispatched(), [({}, 0)]))
        for (outputs, count), _ in ahead:
            yield {name: sharding.to_host(a)[:count] for name, a in outputs.items()}
