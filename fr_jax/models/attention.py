"""Self-attention and layer normalisation, with PyTorch's numerics."""

import functools
import math

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.models import layers

Array = jax.Array
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class Attention(nn.Module):
    """Self-attention of tokens [B, T, D]; one layer gives queries, keys and values.

    `joint_bias`: that layer has a bias.
    """

    heads: int
    joint_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = x.shape[-1]
        dense = functools.partial(layers.Dense, bias_init=nn.initializers.zeros)
        init = nn.initializers.xavier_uniform()
        joint = dense(
            3 * features, use_bias=self.joint_bias, init=init, name="in_proj"
        )(x)
        query, key, value = einops.rearrange(
            joint, "b t (three h d) -> three b h t d", three=3, h=self.heads
        )
        scores = jnp.einsum("bhtd,bhsd->bhts", query, key)
        weights = nn.softmax(scores / math.sqrt(features // self.heads))
        out = jnp.einsum("bhts,bhsd->bhtd", weights, value)
        out = einops.rearrange(out, "b h t d -> b t (h d)")
        return dense(features, name="out_proj")(out)
