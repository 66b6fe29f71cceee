"""MarginNCE: InfoNCE whose positive must win by a margin (USynthFace, FG 2023).

Cosines in, float32 out. The positive and the negatives stay apart, so that negatives
cut over a mesh stay where they are.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def margin_logits(
    positive: Array,
    negatives: Array,
    *,
    margin: float = 0.1,
    temperature: float = 0.07,
    valid: Array | None = None,
) -> tuple[Array, Array]:
    """Returns the logits of the positive [batch] and of the negatives [batch, K].

    (s+ - m) / T and s_i / T (Boutros et al. 2023). A margin of 0 is InfoNCE.

    Args:
      positive: cosines [batch] of each query with its own key.
      negatives: cosines [batch, K] with the keys of others.
      valid: bool [batch, K]; negatives that are not are minus infinity: they take no
        part and get no gradient.
    """
    negatives = negatives.astype(jnp.float32) / temperature
    if valid is not None:
        negatives = jnp.where(valid, negatives, -jnp.inf)
    return (positive.astype(jnp.float32) - margin) / temperature, negatives


def margin_nce(positive: Array, negatives: Array) -> Array:
    """Returns softmax cross-entropy [batch] of `margin_logits`, the positive as target.

    0 where a query has no valid negative.
    """
    return jax.nn.softplus(_logsumexp(negatives) - positive)


LOSSES = {"margin_nce": margin_nce}


def rank(positive: Array, negatives: Array) -> Array:
    """Returns how many negatives [batch] lie above the positive, of `margin_logits`."""
    return jnp.sum(negatives > positive[:, None], axis=1)


def _logsumexp(logits: Array) -> Array:
    """log(sum(exp)) [batch] over the last axis, without a NaN where all are -inf."""
    highest = jax.lax.stop_gradient(jnp.max(logits, axis=1, initial=-1e30))
    total = jnp.sum(jnp.exp(logits - highest[:, None]), axis=1)
    return jnp.log(jnp.maximum(total, 1e-30)) + highest
