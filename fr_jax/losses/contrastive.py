"""MarginNCE: InfoNCE with an additive margin on the positive, per example.

Boutros, Klemt, Fang, Kuijper, Damer: Unsupervised Face Recognition using Unlabeled
Synthetic Data (FG 2023, arXiv 2211.07371, DOI 10.1109/FG57933.2023.10042627). With
cosines s+ of a query and its key and s_i of the query and K negatives, the loss is

    -log(exp((s+ - m) / T) / (exp((s+ - m) / T) + sum_i exp(s_i / T)))

InfoNCE (m = 0): van den Oord, Li, Vinyals (2018, arXiv 1807.03748). Positive and
negatives are separate arrays, so that negatives sharded over a mesh are not gathered.
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
    """Returns float32 logits of the positive [batch] and of the negatives [batch, K].

    (s+ - m) / T and s_i / T (arXiv 2211.07371). A margin of 0 is InfoNCE.

    Args:
      positive: s+, cosines [batch] of each query and its own key.
      negatives: s_i, cosines [batch, K] of each query and other keys.
      margin, temperature: m and T.
      valid: bool [batch, K]; invalid negatives have the logit -inf and no gradient.

    >>> own, others = margin_logits(
    ...     jnp.array([0.9]), jnp.array([[0.2, 0.5]]), temperature=0.1
    ... )
    >>> print(own, others)
    [8.] [[2. 5.]]
    """
    negatives = negatives.astype(jnp.float32) / temperature
    if valid is not None:
        negatives = jnp.where(valid, negatives, -jnp.inf)
    return (positive.astype(jnp.float32) - margin) / temperature, negatives


def margin_nce(positive: Array, negatives: Array) -> Array:
    """Returns MarginNCE [batch]: softmax cross-entropy with the positive as target.

    Boutros et al. (FG 2023, arXiv 2211.07371). 0 for a query without valid negatives.

    Args:
      positive, negatives: logits [batch] and [batch, K] of `margin_logits`.

    >>> print(margin_nce(jnp.array([8.0]), jnp.array([[2.0, 5.0]])))
    [0.0509]
    """
    return jax.nn.softplus(_logsumexp(negatives) - positive)


LOSSES = {"margin_nce": margin_nce}


def rank(positive: Array, negatives: Array) -> Array:
    """Returns the number of negatives [batch] whose logit exceeds the positive's.

    >>> print(rank(jnp.array([4.0]), jnp.array([[2.0, 5.0]])))
    [1]
    """
    return jnp.sum(negatives > positive[:, None], axis=1)


def _logsumexp(logits: Array) -> Array:
    """Returns log(sum(exp)) [batch] over the last axis, finite where all are -inf."""
    highest = jax.lax.stop_gradient(jnp.max(logits, axis=1, initial=-1e30))
    total = jnp.sum(jnp.exp(logits - highest[:, None]), axis=1)
    return jnp.log(jnp.maximum(total, 1e-30)) + highest
