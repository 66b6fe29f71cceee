"""Losses of synthesised images against ground truth and source images, per image."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from fr_jax.errors import check_names
from fr_jax.losses.margin import unit

Array = jax.Array

PIXEL_LOSSES: dict[str, Callable[[Array], Array]] = {"l1": jnp.abs, "l2": jnp.square}


def paired(
    images: Array, truth: Array, loss: str | Callable[[Array], Array] = "l1"
) -> Array:
    """Returns the mean pixel loss [R] against the ground truth [R, H, W, C].

    Args:
      loss: 'l1', absolute; 'l2', squared; or a function of differences.
    """
    if isinstance(loss, str):
        check_names("pixel loss", [loss], PIXEL_LOSSES)
        loss = PIXEL_LOSSES[loss]
    return jnp.mean(loss(images - truth), axis=(1, 2, 3))


def identity_preserving(embeddings: Array, sources: Array) -> Array:
    """Returns 1 - cosine [R] of the embeddings of images and of their sources."""
    return 1 - jnp.sum(unit(embeddings) * unit(sources), axis=1)


def perceptual(maps: Sequence[Array], truth: Sequence[Array]) -> Array:
    """Returns the distance [R] of a recogniser's feature maps to the ground truth's.

    The feature reconstruction loss of Johnson, Alahi, Fei-Fei, Perceptual Losses for
    Real-Time Style Transfer and Super-Resolution (ECCV 2016), section 3.2, here of
    absolute differences, each layer's divided by the mean absolute deviation of the
    true maps from their channels' means over images and places: an uninformative map
    costs 1 on average. The mean over layers.

    Args:
      maps, truth: [R, h, w, C] of each layer.
    """
    total = jnp.zeros(len(maps[0]))
    for layer, true in zip(maps, truth, strict=True):
        spread = jnp.mean(jnp.abs(true - jnp.mean(true, axis=(0, 1, 2), keepdims=True)))
        total += jnp.mean(jnp.abs(layer - true), axis=(1, 2, 3)) / (spread + 1e-6)
    return total / len(maps)
