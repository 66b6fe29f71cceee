"""Embeddings of a set of faces: in blocks, checked, and as rows of unit length."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics.verification import l2_normalize
from fr_jax.progress import progress_bar

_BLOCK = 2048  # images


def blocks(
    trained: Trained, images: Any, *, flip: bool, name: str, progress: str = ""
) -> Iterator[np.ndarray]:
    """Yields raw embeddings float32 [n, D] of consecutive images.

    Those of all images need not fit into memory.

    Args:
      images: see `Trained.embed`.
      flip: add the embeddings of the mirrored images.
      name: of the set, for errors.
      progress: label of a progress bar; '': none.

    Raises:
      UserError: for embeddings that are not finite, and a set without images.
    """
    if not len(images):
        raise UserError(f"{name}: no images")
    with progress_bar(None, progress, total=len(images), disable=not progress) as bar:
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            outputs = trained.embed(block, flip=flip)
            # A file of embeddings has sums, and nothing 'mirrored'.
            rows = outputs["embedding"]
            if flip and "mirrored" in outputs:
                rows = rows + outputs["mirrored"]
            if invalid := int(np.sum(~np.isfinite(rows).all(axis=1))):
                raise UserError(
                    f"{name}: {invalid:,} of {len(rows):,} embeddings from image "
                    f"{start:,} on are not finite: the weights are damaged, or "
                    "training diverged"
                )
            yield rows
            bar.update(len(rows))


def unit_rows(
    trained: Trained, images: Any, *, flip: bool, name: str, progress: str = ""
) -> np.ndarray:
    """Returns embeddings of unit length, float32 [N, D].

    Raises:
      UserError: as `blocks`, and for embeddings of length 0.
    """
    options = {"flip": flip, "name": name, "progress": progress}
    parts = [
        l2_normalize(rows).astype(np.float32)
        for rows in blocks(trained, images, **options)
    ]
    rows = np.concatenate(parts)
    refuse_zeros(rows, f"{name}: {{}} embeddings")
    return rows


def digests_of(names: Sequence[str]) -> np.ndarray:
    """Returns a digest of each name, uint64 [N], to tell sets of images apart."""
    digests = (
        hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
        for name in names
    )
    return np.frombuffer(b"".join(digests), np.uint64)


def refuse_zeros(rows: np.ndarray, what: str) -> None:
    """Raises a UserError if some rows are zero: they have no direction.

    Args:
      what: the rows, with {} for their number.
    """
    if zeros := int(np.sum(~rows.any(axis=1))):
        count = f"{zeros:,} of {len(rows):,}"
        raise UserError(f"{what.format(count)} have length 0, so no cosines")
