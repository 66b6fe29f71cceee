"""Losses of synthesised images and maps against the ground truth, per image.

Pixel and identity losses are those with which DR-GAN's objective can be extended
(`systems.dr_gan.objective`); the perceptual loss is that of Johnson, Alahi, Fei-Fei:
Perceptual Losses for Real-Time Style Transfer and Super-Resolution (ECCV 2016, arXiv
1603.08155). The cross-entropies are those of FRA's autoencoder of binary maps
(Hashemifar et al., ESWA 2023, arXiv 2301.11986).
"""

from collections.abc import Callable, Sequence

import jax
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


def cross_entropy(logits: Array, maps: Array) -> Array:
    """Returns the binary cross-entropy [R] of logits against maps, mean over pixels.

    softplus(x) - t x, accurate for every logit, and so is its gradient.

    Args:
      logits: [R, H, W, C], of a pixel being 1.
      maps: [R, H, W, C], in [0, 1].

    >>> logits = jnp.array([0.0, -40.0]).reshape(1, 2, 1, 1)
    >>> print(cross_entropy(logits, jnp.ones((1, 2, 1, 1))))
    [20.3466]
    """
    return jnp.mean(jax.nn.softplus(logits) - maps * logits, axis=(1, 2, 3))


def clamped_cross_entropy(logits: Array, maps: Array) -> Array:
    """Returns `cross_entropy` as PyTorch's BCELoss computes it from probabilities.

    FRA's program (arXiv 2301.11986) trains with it. With p = sigmoid(x), logarithms are
    at least -100, and the gradient by p is (p - t) / max(p (1 - p), 1e-12), so that it
    vanishes where it should be largest: for logits below -28 or above 17 (where p is 1
    in float32) on the wrong side.

    Args: see `cross_entropy`.

    >>> logits = jnp.array([0.0, -120.0]).reshape(1, 2, 1, 1)
    >>> print(clamped_cross_entropy(logits, jnp.ones((1, 2, 1, 1))))
    [50.3466]
    """
    return jnp.mean(_clamped(jax.nn.sigmoid(logits), maps), axis=(1, 2, 3))


@jax.custom_vjp
def _clamped(probabilities: Array, maps: Array) -> Array:
    true = jnp.maximum(jnp.log(probabilities), -100)
    false = jnp.maximum(jnp.log1p(-probabilities), -100)
    return (maps - 1) * false - maps * true


def _clamped_forward(probabilities, maps):
    return _clamped(probabilities, maps), (probabilities, maps)


def _clamped_backward(residuals, gradient):
    p, maps = residuals
    slope = (p - maps) / jnp.maximum(p * (1 - p), 1e-12)
    return gradient * slope, jnp.zeros_like(maps)


_clamped.defvjp(_clamped_forward, _clamped_backward)

CROSS_ENTROPIES: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": cross_entropy,
    "clamped_cross_entropy": clamped_cross_entropy,
}
