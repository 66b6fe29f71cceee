"""Inter-Prototype loss: separates the prototypes of child identities.

Lee, Yun, Park, Kim, Choo: Improving Face Recognition with Large Age Gaps by Learning to
Distinguish Children (BMVC 2021, arXiv 2110.11630). L_ip is the mean of (V V^T - I)^2
over n x n entries, with V the n unit rows of the classifier of the child identities.
"""

import jax.numpy as jnp
from jax import Array

from fr_jax.losses.margin import unit


def inter_prototype(prototypes: Array) -> Array:
    """Returns the mean of (cos_ij - [i = j])^2 over all n x n pairs, a scalar.

    L_ip of Lee et al. (BMVC 2021, arXiv 2110.11630); computed from the smaller of the
    two Gram matrices.

    Args:
      prototypes: [n, D], classifier rows of the child identities, of any length.

    Orthogonal prototypes cost nothing, n equal ones (n - 1) / n:

    >>> [f"{inter_prototype(rows):.4f}" for rows in (jnp.eye(4), jnp.ones((4, 8)))]
    ['0.0000', '0.7500']
    """
    rows, features = prototypes.shape
    return (pairwise_form if rows <= features else gram_form)(prototypes)


def pairwise_form(prototypes: Array) -> Array:
    """Returns `inter_prototype` by its definition, from the n x n matrix of cosines.

    >>> f"{pairwise_form(jnp.array([[1.0, 0.0], [3.0, 4.0]])):.4f}"
    '0.1800'
    """
    vectors = unit(prototypes)
    cosines = vectors @ vectors.T
    return jnp.mean(jnp.square(cosines - jnp.eye(len(vectors))))


def gram_form(prototypes: Array) -> Array:
    """Returns `inter_prototype` from the D x D matrix V^T V: (|V^T V|^2 - n) / n^2.

    |V V^T|^2 = |V^T V|^2, and the n diagonal cosines are 1. For 10,000 child identities
    it takes 512 x 512 numbers instead of 10,000 x 10,000.

    >>> f"{gram_form(jnp.array([[1.0, 0.0], [3.0, 4.0]])):.4f}"
    '0.1800'
    """
    vectors = unit(prototypes)
    count = len(vectors)
    return (jnp.sum(jnp.square(vectors.T @ vectors)) - count) / count**2
