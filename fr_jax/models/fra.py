"""FRA: a landmark picture and an embedding, to the embedding of another pose.

Hashemifar et al.: Face Representation Augmentation (Expert Systems with Applications
2023). A convolutional autoencoder of the landmark picture gives a code; a small vision
transformer reads code and face embedding as a picture of 32x32 and writes the embedding
that the face would have in the pose of the landmarks.
"""

import functools
import math
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.errors import UserError
from fr_jax.models import layers

Array = jax.Array
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)

SIZE = 112  # the decoder's up-sampling makes pictures of this size and no other
_ENCODER = (4, 16, 64, 128, 256, 512)
# (factor by which the map is enlarged first, features, convolution). That the first has
# a stride and padding is the published program's: of its 3x3 map only the middle sees
# the code, the rest are constants.
_DECODER: tuple[tuple[int, int, dict[str, Any]], ...] = (
    (4, 256, {"kernel": 2, "stride": 3, "padding": 2}),
    (3, 128, {"kernel": 3, "padding": 0}),
    (2, 64, {"kernel": 3}),
    (2, 16, {"kernel": 3}),
    (2, 4, {"kernel": 3}),
    (2, 1, {"kernel": 3}),
)


class Attention(nn.Module):
    """Self-attention over tokens [B, T, D], queries, keys and values from one layer."""

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = x.shape[-1]
        dense = functools.partial(layers.Dense, bias_init=nn.initializers.zeros)
        init = nn.initializers.xavier_uniform()
        together = dense(3 * features, init=init, name="in_proj")(x)
        query, key, value = einops.rearrange(
            together, "b t (three h d) -> three b h t d", three=3, h=self.heads
        )
        scores = jnp.einsum("bhtd,bhsd->bhts", query, key)
        weights = nn.softmax(scores / math.sqrt(features // self.heads))
        out = jnp.einsum("bhts,bhsd->bhtd", weights, value)
        out = einops.rearrange(out, "b h t d -> b t (h d)")
        return dense(features, name="out_proj")(out)


class Layer(nn.Module):
    """Attention and a pair of linear layers, each normalised before and added after."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x += Attention(self.heads, name="attn")(LayerNorm(name="layer_norm_1")(x))
        out = LayerNorm(name="layer_norm_2")(x)
        out = layers.Dense(x.shape[-1], name="linear_0")(out)
        out = drop(nn.gelu(out, approximate=False))
        return x + drop(layers.Dense(x.shape[-1], name="linear_3")(out))


class VisionTransformer(nn.Module):
    """A picture [B, S, S] cut into patches -> [B, features], of its class token."""

    features: int
    width: int
    depth: int
    heads: int
    patch: int
    positions: int | None
    dropout: float

    @nn.compact
    def __call__(self, picture: Array, train: bool) -> Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        patches = einops.rearrange(
            picture, "b (h p) (w q) -> b (h w) (p q)", p=self.patch, q=self.patch
        )
        tokens = layers.Dense(self.width, name="input_layer")(patches)
        normal = nn.initializers.normal(1.0)
        first = self.param("cls_token", normal, (1, 1, self.width))
        first = jnp.broadcast_to(first, (tokens.shape[0], 1, self.width))
        x = jnp.concatenate([first, tokens], axis=1)
        rows = self.positions or x.shape[1]
        table = self.param("pos_embedding", normal, (1, rows, self.width))
        x = drop(x + jnp.broadcast_to(table[:, : x.shape[1]], x.shape))
        for index in range(self.depth):
            x = Layer(self.heads, self.dropout, name=f"transformer_{index}")(x, train)
        x = LayerNorm(name="head_norm")(x[:, 0])
        return layers.Dense(self.features, name="head")(x)


class FRA(nn.Module):
    """Landmark pictures and embeddings -> embeddings in the pose of the landmarks.

    Attributes:
      width: factor on the autoencoder's channels; the code has 512 times as many.
      embedding_size: of the face embeddings that come in and go out. Code and embedding
        together fill a square of patches: 512 + 512 = 32 x 32.
      vit_width, vit_depth, vit_heads, patch: of the transformer.
      positions: rows of its position table; None is one for every token. The published
        program has 33 for two of its embedders, of which it uses 17.
      dropout, vit_dropout: rates in the autoencoder and in the transformer.
    """

    width: float = 1.0
    embedding_size: int = 512
    vit_width: int = 256
    vit_depth: int = 4
    vit_heads: int = 4
    patch: int = 8
    positions: int | None = None
    dropout: float = 0.4
    vit_dropout: float = 0.05

    @nn.compact
    def __call__(
        self, pictures: Array, embeddings: Array, train: bool = False
    ) -> dict[str, Array]:
        """Returns the outputs of all parts.

        Args:
          pictures: [B, 112, 112, 1], 1 where a landmark is, else 0.
          embeddings: [B, D], raw, as the face embedder gives them.

        Returns:
          'generated' [B, D] raw; 'code' [B, C] of the picture, none negative; 'logits'
          and 'reconstruction' [B, 112, 112, 1], before and after the sigmoid.
        """
        if pictures.shape[1:] != (SIZE, SIZE, 1):
            raise UserError(
                f"landmark pictures are [B, {SIZE}, {SIZE}, 1], not {pictures.shape}"
            )
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = pictures
        for index, features in enumerate(_ENCODER, 1):
            features = max(round(features * self.width), 1)
            x = layers.Conv(features, 3, use_bias=True, name=f"encoder_layer{index}")(x)
            x = layers.max_pool(nn.relu(drop(x)))
        code = einops.rearrange(x, "b 1 1 c -> b c")
        for index, (factor, features, conv) in enumerate(_DECODER, 1):
            x = einops.repeat(x, "b h w c -> b (h n) (w m) c", n=factor, m=factor)
            last = index == len(_DECODER)
            features = 1 if last else max(round(features * self.width), 1)
            name = f"decoder_layer{index}"
            x = layers.Conv(features, **conv, use_bias=True, name=name)(x)
            x = x if last else nn.relu(drop(x))

        joined = jnp.concatenate([code, embeddings], axis=1)
        side = math.isqrt(joined.shape[1])
        if side**2 != joined.shape[1] or side % self.patch:
            raise UserError(
                f"code and embedding have {code.shape[1]} + {embeddings.shape[1]} "
                f"numbers, which fill no square of {self.patch}x{self.patch} patches"
            )
        joined = LayerNorm(name="normalizer")(joined)
        generated = VisionTransformer(
            self.embedding_size,
            self.vit_width,
            self.vit_depth,
            self.vit_heads,
            self.patch,
            self.positions,
            self.vit_dropout,
            name="vit",
        )(einops.rearrange(joined, "b (h w) -> b h w", h=side), train)
        return {
            "generated": generated,
            "code": code,
            "logits": x,
            "reconstruction": nn.sigmoid(x),
        }

    def example_inputs(self, rows: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns the shapes of what `__call__` takes."""
        shapes = (SIZE, SIZE, 1), (self.embedding_size,)
        return tuple(jax.ShapeDtypeStruct((rows, *s), jnp.float32) for s in shapes)
