"""Losses of an anchor a, a positive p and a negative n, per example.

triplet_margin, PyTorch's TripletMarginLoss (norms, not squares), which FRA's program
uses (Hashemifar et al., ESWA 2023, arXiv 2301.11986):

    max(0, ||a - p + eps|| - ||a - n + eps|| + margin)

squared_triplet, that of FaceNet (Schroff, Kalenichenko, Philbin, CVPR 2015, arXiv
1503.03832):

    max(0, ||a - p||^2 - ||a - n||^2 + margin)

sym_triplet, SymTriplet (Zhang et al.: Tracking Persons-of-Interest via Adaptive
Discriminative Features, ECCV 2016), by which the negative moves away from both:

    max(0, ||a - p||^2 - (||a - n||^2 + ||p - n||^2) / 2 + margin) / 2

siamese, the contrastive loss of both pairs of the anchor (Hadsell, Chopra, LeCun:
Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006):

    ||a - p||^2 / 2 + max(0, margin - ||a - n||)^2 / 2
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from fr_jax.losses.margin import length

_EPSILON = 1e-6  # eps, added to each coordinate of a difference


def distance(a: Array, b: Array) -> Array:
    """Returns ||a - b + eps|| [B] of rows of a and b [B, D], float32; eps is 1e-6.

    As PyTorch's pairwise_distance: not exactly symmetric.

    >>> print(distance(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))))
    [5.]
    """
    return length(a.astype(jnp.float32) - b + _EPSILON)


def triplet_margin(
    anchor: Array, positive: Array, negative: Array, *, margin: float = 1.0
) -> Array:
    """Returns the triplet loss [B], 0 if the negative is farther by the margin.

    Args:
      anchor, positive, negative: embeddings [B, D].
      margin: in the unit of the embeddings; 1 is PyTorch's default.

    >>> anchor, positive = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])
    >>> print(triplet_margin(anchor, positive, jnp.array([[0.0, 2.0]]), margin=10.0))
    [13.]
    """
    gap = distance(anchor, positive) - distance(anchor, negative)
    return jnp.maximum(gap + margin, 0)


def squared_distance(a: Array, b: Array) -> Array:
    """Returns ||a - b||^2 [B] of rows of a and b [B, D], float32.

    >>> print(squared_distance(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))))
    [25.]
    """
    return jnp.sum(jnp.square(a.astype(jnp.float32) - b), axis=-1)


def squared_triplet(
    anchor: Array, positive: Array, negative: Array, *, margin: float = 0.2
) -> Array:
    """Returns FaceNet's loss [B], 0 if the negative is farther by the margin.

    Args:
      anchor, positive, negative: embeddings [B, D], of unit length in FaceNet.
      margin: in the squared unit of the embeddings; 0.2 is FaceNet's.

    >>> anchor, positive = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])
    >>> print(squared_triplet(anchor, positive, jnp.array([[0.0, 2.0]])))
    [21.2]
    """
    near, far = (squared_distance(anchor, x) for x in (positive, negative))
    return jnp.maximum(near - far + margin, 0)


def sym_triplet(
    anchor: Array, positive: Array, negative: Array, *, margin: float = 1.0
) -> Array:
    """Returns SymTriplet's loss [B], 0 if the negative is far enough from both.

    Args:
      anchor, positive, negative: embeddings [B, D], of any length.
      margin: in the squared unit of the embeddings; 1 is that of Zhang et al.

    >>> anchor, positive = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])
    >>> print(sym_triplet(anchor, positive, jnp.array([[0.0, 2.0]])))
    [8.75]
    """
    far = squared_distance(anchor, negative) + squared_distance(positive, negative)
    gap = squared_distance(anchor, positive) - far / 2
    return jnp.maximum(gap + margin, 0) / 2


def siamese(
    anchor: Array, positive: Array, negative: Array, *, margin: float = 1.0
) -> Array:
    """Returns the contrastive loss [B] of the pairs (a, p) and (a, n).

    Args:
      anchor, positive, negative: embeddings [B, D].
      margin: in the unit of the embeddings.

    >>> anchor, positive = jnp.zeros((1, 2)), jnp.array([[0.6, 0.8]])
    >>> print(siamese(anchor, positive, jnp.array([[0.0, 0.5]])))
    [0.625]
    """
    far = jnp.maximum(margin - length(anchor.astype(jnp.float32) - negative), 0)
    return (squared_distance(anchor, positive) + jnp.square(far)) / 2


LOSSES: dict[str, Callable[..., Array]] = {
    "triplet_margin": triplet_margin,
    "squared_triplet": squared_triplet,
    "sym_triplet": sym_triplet,
    "siamese": siamese,
}
