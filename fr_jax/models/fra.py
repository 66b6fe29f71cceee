"""FRA: an embedding of a face in another pose, from a landmark map and an embedding.

Hashemifar et al., Face Representation Augmentation (Expert Systems with Applications
2023). The encoder of a convolutional autoencoder maps the landmark map to a code. A
small vision transformer takes code and face embedding as one 32x32 image and returns
the embedding of the face in the pose of the landmarks.

The published program (soroushhashemifar/Face-Representation-Augmentation) takes
embeddings of 512 values. Others pass through linear adapters here.
"""

import functools
import math

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.errors import UserError, named
from fr_jax.models import layers
from fr_jax.models.attention import Attention, LayerNorm

Array = jax.Array

SIZE = 112  # fixed by the upsampling factors of the decoder
_ENCODER = (4, 16, 64, 128, 256, 512)
# First convolution of the decoder, 4x4 -> 3x3. With the stride and padding of the
# published program only the centre of its map depends on the code.
DECODERS: dict[str, dict[str, int]] = {
    "published": {"kernel": 2, "stride": 3, "padding": 2},
    "sane": {"kernel": 2, "padding": 0},
}
# (upsampling factor, features, convolution) of the other steps, after the first.
_DECODER: tuple[tuple[int, int, dict[str, int]], ...] = (
    (3, 128, {"kernel": 3, "padding": 0}),
    (2, 64, {"kernel": 3}),
    (2, 16, {"kernel": 3}),
    (2, 4, {"kernel": 3}),
    (2, 1, {"kernel": 3}),
)


class Layer(nn.Module):
    """A pre-norm transformer layer: attention and two linear layers, both residual."""

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
    """Images [B, S, S] -> [B, features], computed from the class token."""

    features: int
    width: int
    depth: int
    heads: int
    patch: int
    positions: int | None
    dropout: float

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        patches = einops.rearrange(
            images, "b (h p) (w q) -> b (h w) (p q)", p=self.patch, q=self.patch
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
    """Landmark maps and embeddings -> embeddings in the pose of the landmarks.

    Attributes:
      width: factor on the autoencoder's channels; the code has 512 * width values.
      embedding_size: D, of the input and output embeddings.
      inner_size: of the embeddings that the transformer takes and returns. If it is not
        D, linear layers `adapter_in` and `adapter_out` convert them. Code and inner
        embedding together have a square number of values: 512 + 512 = 32 x 32.
      decoder: 'published' or 'sane', a key of `DECODERS`. Both have the same
        parameters; the generated embeddings do not depend on the decoder.
      vit_width, vit_depth, vit_heads, patch: of the transformer. Earlier versions of
        the program have widths of 128, 256 and 512.
      positions: rows of its position table; None: one per token. The published program
        has 33 for two of its embedders and uses 17 of these.
      dropout, vit_dropout: rates in the autoencoder and in the transformer; 0.05 for
        both with CosFace, vit_dropout 0.4 in earlier versions of the program.
    """

    width: float = 1.0
    embedding_size: int = 512
    inner_size: int = 512
    decoder: str = "published"
    vit_width: int = 256
    vit_depth: int = 4
    vit_heads: int = 4
    patch: int = 8
    positions: int | None = None
    dropout: float = 0.4
    vit_dropout: float = 0.05

    @nn.compact
    def __call__(
        self, landmarks: Array, embeddings: Array, train: bool = False
    ) -> dict[str, Array]:
        """Returns the outputs of all parts.

        Args:
          landmarks: maps [B, 112, 112, 1]: 1 at landmarks, else 0.
          embeddings: [B, D], raw, of the face embedder.
          train: apply dropout, with the random stream 'dropout'.

        Returns:
          'generated' [B, D] raw; 'code' [B, C] of the map, non-negative; 'logits' and
          'reconstruction' [B, 112, 112, 1], before and after the sigmoid.

        Raises:
          UserError: for maps of another size, an unknown decoder, and sizes that fill
            no square of patches.
        """
        first_step = named("decoder", self.decoder, DECODERS)
        if landmarks.shape[1:] != (SIZE, SIZE, 1):
            raise UserError(
                f"landmark maps are [B, {SIZE}, {SIZE}, 1], not {landmarks.shape}"
            )
        drop = nn.Dropout(self.dropout, deterministic=not train)
        conv = functools.partial(layers.Conv, use_bias=True)
        x = landmarks
        for index, features in enumerate(_ENCODER, 1):
            features = max(round(features * self.width), 1)
            x = conv(features, 3, name=f"encoder_layer{index}")(x)
            x = layers.max_pool(nn.relu(drop(x)))
        code = einops.rearrange(x, "b 1 1 c -> b c")
        decoder = [(4, 256, first_step), *_DECODER]
        for index, (factor, features, options) in enumerate(decoder, 1):
            x = einops.repeat(x, "b h w c -> b (h n) (w m) c", n=factor, m=factor)
            last = index == len(decoder)
            features = 1 if last else max(round(features * self.width), 1)
            x = conv(features, **options, name=f"decoder_layer{index}")(x)
            x = x if last else nn.relu(drop(x))

        adapted = self.embedding_size != self.inner_size
        if adapted:
            embeddings = layers.Dense(self.inner_size, name="adapter_in")(embeddings)
        joined = jnp.concatenate([code, embeddings], axis=1)
        side = math.isqrt(joined.shape[1])
        if side**2 != joined.shape[1] or side % self.patch:
            raise UserError(
                f"code and embedding have {code.shape[1]} + {embeddings.shape[1]} "
                f"numbers, which fill no square of {self.patch}x{self.patch} patches"
            )
        joined = LayerNorm(name="normalizer")(joined)
        generated = VisionTransformer(
            self.inner_size,
            self.vit_width,
            self.vit_depth,
            self.vit_heads,
            self.patch,
            self.positions,
            self.vit_dropout,
            name="vit",
        )(einops.rearrange(joined, "b (h w) -> b h w", h=side), train)
        if adapted:
            generated = layers.Dense(self.embedding_size, name="adapter_out")(generated)
        return {
            "generated": generated,
            "code": code,
            "logits": x,
            "reconstruction": nn.sigmoid(x),
        }

    def example_inputs(self, rows: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns the shapes of the arguments of `__call__`."""
        shapes = (SIZE, SIZE, 1), (self.embedding_size,)
        return tuple(jax.ShapeDtypeStruct((rows, *s), jnp.float32) for s in shapes)
