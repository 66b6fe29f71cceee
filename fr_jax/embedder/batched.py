"""Networks applied to any number of images with one compiled function."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fr_jax.backend import cpu, sharding
from fr_jax.errors import UserError


class ImageEmbedder:
    """Embeds any number of images with one compiled function.

    Args:
      embed: (state, {'image': uint8 [B, H, W, 3]}) -> {'embedding': [B, D]}.
      batch_size: rows of the compiled batch; the last batch is filled up. On several
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
            embedded = embed(state, {"image": together})["embedding"]
            return embedded.reshape(len(image), len(seen), -1)  # [B, V, D]

        self._views = jax.jit(
            views,
            static_argnums=2,
            out_shardings=sharding.batch_sharding(self._mesh),
            compiler_options=cpu.compiler_options(),
        )

    def __call__(
        self, state: Any, images: Any, *, flip: bool = False, progress: str = ""
    ) -> np.ndarray:
        """Returns raw embeddings float32 [N, V, D]; V = 2 with the mirrored images.

        `progress` labels a progress bar; '' shows none.
        """
        size = self.batch_size
        starts = range(0, len(images), size)
        bar = tqdm(starts, progress, unit="batch", disable=not progress, leave=False)
        batches = (np.asarray(images[start : start + size]) for start in bar)
        found = list(self.each(state, batches, flip=flip))
        if not found:
            raise UserError("no images to embed")
        return np.concatenate(found)

    def each(
        self, state: Any, batches: Iterable[np.ndarray], *, flip: bool = False
    ) -> Iterator[np.ndarray]:
        """Yields raw embeddings float32 [n, V, D] of batches uint8 [n, H, W, 3].

        The next batch is drawn, and may be decoded, while one is being computed.
        """
        size = self.batch_size
        local = slice(*sharding.local_rows(self._mesh, size))
        pending, count = None, 0
        for batch in batches:
            padded = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
            placed = sharding.to_global(self._mesh, {"image": padded[local]}, size)
            ahead = self._views(state, placed["image"], flip)
            if pending is not None:  # fetched while the next one is being computed
                yield sharding.to_host(pending)[:count]
            pending, count = ahead, len(batch)
        if pending is not None:
            yield sharding.to_host(pending)[:count]
