"""Inter-Prototype loss: push the class prototypes of children apart (BMVC 2021)."""

import jax
import jax.numpy as jnp

from fr_jax.losses.margin import unit

Array = jax.Array


def inter_prototype(prototypes: Array) -> Array:
    """Returns the mean of (cos_ij - [i = j])^2 over all n x n pairs, a scalar.

    Lee et al. 2021, L_ip. `prototypes` [n, D] of any length are the classifier rows of
    the child identities. Takes whichever Gram matrix is smaller.
    """
    rows, features = prototypes.shape
    return (pairwise_form if rows <= features else gram_form)(prototypes)


def pairwise_form(prototypes: Array) -> Array:
    """The loss from the n x n matrix of cosines, as it is defined."""
    vectors = unit(prototypes)
    cosines = vectors @ vectors.T
    return jnp.mean(jnp.square(cosines - jnp.eye(len(vectors))))


def gram_form(prototypes: Array) -> Array:
    """The loss from the D x D matrix V'V: |VV'|^2 = |V'V|^2, and unit rows give n ones.

    10,000 child identities need 512 x 512 numbers instead of 10,000 x 10,000.
    """
    vectors = unit(prototypes)
    count = len(vectors)
    return (jnp.sum(jnp.square(vectors.T @ vectors)) - count) / count**2
