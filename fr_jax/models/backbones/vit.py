"""Vision transformers of arcface_torch.

Dosovitskiy et al., An Image is Worth 16x16 Words (ICLR 2021), for faces: patches of 9x9
pixels, no class token, ReLU6 in the MLPs, and a head of two linear layers on all
tokens. In training, a share of the tokens may be left out of the blocks, and a learned
token stands for them afterwards, as in He et al., Masked Autoencoders (CVPR 2022);
residual branches are dropped at random (Huang et al., Deep Networks with Stochastic
Depth, ECCV 2016), the more often the deeper.
"""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.models import layers
from fr_jax.models.attention import Attention, LayerNorm

Array = jax.Array

PATCH, HEADS = 9, 8
# Name: channels of a token, number of blocks.
SIZES = {"vit_t": (256, 12), "vit_s": (512, 12), "vit_b": (512, 24), "vit_l": (768, 24)}


class Block(nn.Module):
    """A pre-norm block on tokens [B, T, D]; `drop_path` is the rate of its branches."""

    drop_path: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        # One mask per image.
        drop = nn.Dropout(self.drop_path, (1, 2), deterministic=not train)
        attention = Attention(HEADS, joint_bias=False, name="attn")
        x += drop(attention(LayerNorm(name="norm1")(x)))
        out = layers.Dense(4 * x.shape[-1], name="fc1")(LayerNorm(name="norm2")(x))
        return x + drop(layers.Dense(x.shape[-1], name="fc2")(nn.relu6(out)))


class ViT(layers.Backbone):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    Pixels beyond the last whole patch do not count: 112x112 gives 12x12 tokens.

    Attributes:
      features, depth: channels of a token and number of blocks, see `SIZES`.
      drop_path: rate of the last block's branches; that of the others grows linearly.
      mask_ratio: share of the tokens that are left out of the blocks in training.
      width: factor on the features, which 8 heads share.
      dtype: type of the patch embedding; tokens are float32.
      For the others see `layers.Backbone`.
    """

    features: int = 256
    depth: int = 12
    drop_path: float = 0.1
    mask_ratio: float = 0.1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        features = round(self.features * self.width)
        patches = layers.Conv(
            features,
            PATCH,
            PATCH,
            padding=0,
            use_bias=True,
            dtype=self.dtype,
            name="patch_embed",
        )(x)
        x = einops.rearrange(patches, "b h w c -> b (h w) c").astype(jnp.float32)
        normal = nn.initializers.truncated_normal(0.02)
        x += self.param("pos_embed", normal, (1, *x.shape[1:])).repeat(len(x), 0)
        mask_token = self.param("mask_token", normal, (1, 1, features))
        num_tokens = x.shape[1]
        # At initialisation there is no key for a mask, and no need.
        masked = round(num_tokens * self.mask_ratio) if train else 0
        order = jnp.broadcast_to(jnp.arange(num_tokens), x.shape[:2])
        if masked and not self.is_initializing():
            noise = jax.random.uniform(self.make_rng("dropout"), x.shape[:2])
            order = jnp.argsort(noise, axis=1)
            x = _taken(x, order[:, : num_tokens - masked])
        block = self.block(Block)
        for index in range(self.depth):
            rate = self.drop_path * index / max(self.depth - 1, 1)
            x = block(rate, name=f"block_{index}")(x, train)
        x = LayerNorm(name="norm")(x)
        if x.shape[1] < num_tokens:
            shape = (len(x), num_tokens - x.shape[1], features)
            x = jnp.concatenate([x, jnp.broadcast_to(mask_token, shape)], axis=1)
            x = _taken(x, jnp.argsort(order, axis=1))
        norm = self.norm(epsilon=2e-5)
        x = einops.rearrange(x, "b t c -> b (t c)")
        x = layers.Dense(features, use_bias=False, name="feature")(x)
        x = norm(name="feature_bn")(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = layers.Dense(self.embedding_size, use_bias=False, name="fc")(x)
        return norm(name="bn")(x, train)


def _taken(tokens: Array, numbers: Array) -> Array:
    """Returns the tokens [B, K, D] with these numbers [B, K]."""
    return jnp.take_along_axis(tokens, numbers[:, :, None], axis=1)
