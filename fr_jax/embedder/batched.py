"""Networks applied to any number of images with one compiled function."""

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
      batch_size: rows of the compiled batch; the last batch is padded. On several
        devices it is rounded up to a multiple of their number.
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
            seen = [image, image[:, :, ::-1]] if flip else [image]
            together = jnp.stack(seen, axis=1).reshape(-1, *image.shape[1:])
            found = embed(state, {"image": together})
            out = {name: values[:: len(seen)] for name, values in found.items()}
            if flip:
                out["mirrored"] = found["embedding"][1::2]
            return out

        self._views = jax.jit(
            views,
            static_argnums=2,
            out_shardings=sharding.batch_sharding(self._mesh),
            compiler_options=cpu.compiler_options(),
        )

    def __call__(
        self, state: Any, images: Any, *, flip: bool = False, progress: str = ""
    ) -> Arrays:
        """Returns 'embedding' float32 [N, D], raw; 'quality' [N] where there is one.

        Args:
          images: slices to uint8 RGB [n, H, W, 3].
          flip: add 'mirrored' [N, D], the embeddings of the mirrored images.
          progress: label of a progress bar; '' shows none.

        Raises:
          UserError: where there are no images.
        """
        size = self.batch_size
        starts = range(0, len(images), size)
        options = {"unit": " batches", "disable": not progress, "leave": False}
        bar = progress_bar(starts, progress, **options)
        batches = (np.asarray(images[start : start + size]) for start in bar)
        found = list(self.each(state, batches, flip=flip))
        if not found:
            raise UserError("no images to embed")
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def each(
        self, state: Any, batches: Iterable[np.ndarray], *, flip: bool = False
    ) -> Iterator[Arrays]:
        """Yields what `__call__` returns for batches uint8 [n, H, W, 3].

        The next batch is fetched, and may be decoded, while one is being computed.
        """
        size = self.batch_size
        local = slice(*sharding.local_rows(self._mesh, size))

        def fetched(pending, count):
            return {k: sharding.to_host(value)[:count] for k, value in pending.items()}

        pending, count = None, 0
        for batch in batches:
            padded = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
            placed = sharding.to_global(self._mesh, {"image": padded[local]}, size)
            ahead = self._views(state, placed["image"], flip)
            if pending is not None:
                yield fetched(pending, count)
            pending, count = ahead, len(batch)
        if pending is not None:
            yield fetched(pending, count)
