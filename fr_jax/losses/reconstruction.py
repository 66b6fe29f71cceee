"""Losses of synthesised images against ground truth and source images, per image.

Pixel and identity losses are those with which DR-GAN's objective can be extended
(`systems.dr_gan.objective`); the perceptual loss is that of Johnson, Alahi, Fei-Fei:
Perceptual Losses for Real-Time Style Transfer and Super-Resolution (ECCV 2016, arXiv
1603.08155).
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array

from fr_jax.errors import named
from fr_jax.losses.margin import unit

PIXEL_LOSSES: dict[str, Callable[[Array], Array]] = {"l1": jnp.abs, "l2": jnp.square}


def paired(
    images: Array, truth: Array, loss: str | Callable[[Array], Array] = "l1"
) -> Array:
    """Returns the mean pixel loss [R] of images [R, H, W, C] against the ground truth.

    Args:
      truth: ground truth [R, H, W, C].
      loss: 'l1', absolute; 'l2', squared; or a function of differences.

    Raises:
      UserError: for an unknown name.

    >>> images, truth = jnp.full((1, 2, 2, 3), 0.5), jnp.zeros((1, 2, 2, 3))
    >>> print(paired(images, truth), paired(images, truth, "l2"))
    [0.5] [0.25]
    """
    pixel_loss = named("pixel loss", loss, PIXEL_LOSSES)
    return jnp.mean(pixel_loss(images - truth), axis=(1, 2, 3))


def identity_preserving(embeddings: Array, sources: Array) -> Array:
    """Returns 1 - cosine [R] of embeddings [R, D] of synthesised and source images.

    >>> print(identity_preserving(jnp.array([[3.0, 4.0]]), jnp.array([[1.0, 0.0]])))
    [0.4]
    """
    return 1 - jnp.sum(unit(embeddings) * unit(sources), axis=1)


def perceptual(maps: Sequence[Array], truth: Sequence[Array]) -> Array:
    """Returns the distance [R] of feature maps to those of the ground truth.

    The feature reconstruction loss of Johnson et al. (ECCV 2016, arXiv 1603.08155),
    section 3.2, with two deviations: differences are absolute, and those of a layer are
    divided by the mean absolute deviation of the true maps from the mean of their
    channel (over images and pixels), so that constant maps at that mean cost 1. The
    mean over layers.

    Args:
      maps, truth: one array [R, h, w, C] for each layer of a recogniser.

    >>> truth = jnp.array([-1.0, 1.0]).reshape(1, 1, 2, 1)
    >>> print(perceptual([jnp.zeros((1, 1, 2, 1))], [truth]))
    [1.]
    """
    total = jnp.zeros(len(maps[0]))
    for layer, true in zip(maps, truth, strict=True):
        spread = jnp.mean(jnp.abs(true - jnp.mean(true, axis=(0, 1, 2), keepdims=True)))
        total += jnp.mean(jnp.abs(layer - true), axis=(1, 2, 3)) / (spread + 1e-6)
    return total / len(maps)
