"""Triplet margin loss on Euclidean distances, per example.

Schroff, Kalenichenko, Philbin: FaceNet (CVPR 2015, arXiv 1503.03832), in the form of
PyTorch's TripletMarginLoss (norms, not squares), which FRA's program uses (Hashemifar
et al., ESWA 2023, arXiv 2301.11986): with an anchor a, a positive p, a negative n,

    max(0, ||a - p + eps|| - ||a - n + eps|| + margin)
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


LOSSES: dict[str, Callable[..., Array]] = {"triplet_margin": triplet_margin}
