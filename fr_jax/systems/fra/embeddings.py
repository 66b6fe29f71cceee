"""Embeddings of a run's images, computed once and stored."""

from collections.abc import Sequence

import numpy as np

from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.systems.fra import stored
from fr_jax.systems.fra.faces import Faces
from fr_jax.training.data import Context

Array = np.ndarray


def of_faces(
    embedder: Embedder, parts: Sequence[Faces], folder: str, context: Context
) -> list[Array]:
    """Returns raw embeddings float32 [N, D] of each part, with its own input.

    They are stored in FOLDER/embeddings.npz, and read from there if embedder, input
    specification and images are the same; see `stored.once`.

    Args:
      folder: '' stores nothing.

    Raises:
      UserError: for a network without embeddings, and embeddings that are not finite.
    """
    images = [part.pixels() for part in parts]

    def compute() -> Array:
        progress = "embedding faces" * context.show_progress
        embeddings = np.concatenate(
            [embedder.embed_raw(one, progress=progress)["embedding"] for one in images]
        ).astype(np.float32)
        if not np.isfinite(embeddings).all():
            row = int(np.argmax(~np.isfinite(embeddings).all(axis=1)))
            raise UserError(
                f"image {row} of {len(embeddings):,}: the embedder gives values that "
                "are not finite; give another: --given embedder=EMBEDDER"
            )
        return embeddings

    several = stored.once("embeddings", embedder, images, folder, context, compute)
    return np.split(several, np.cumsum([len(part) for part in parts])[:-1])


def distance(embeddings: Array, label: Array, limit: int = 2000) -> float:
    """Returns the mean Euclidean distance of embeddings of different identities.

    Args:
      limit: rows that are compared at most, equally spaced.
    """
    rows = np.arange(0, len(label), -(-len(label) // limit))
    x, label = embeddings[rows].astype(np.float64), label[rows]
    square = (x**2).sum(axis=1)
    squares = square[:, None] + square[None, :] - 2 * x @ x.T
    different = label[:, None] != label[None, :]
    return float(np.sqrt(np.maximum(squares[different], 0)).mean())
