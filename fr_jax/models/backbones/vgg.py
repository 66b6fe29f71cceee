"""VGG-16: thirteen 3x3 convolutions, five max-poolings, two wide linear layers.

Simonyan and Zisserman (ICLR 2015), configuration D; for faces, Parkhi et al., Deep Face
Recognition (BMVC 2015).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fr_jax.models import layers

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (features, convolutions)


class VGG16(nn.Module):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    Attributes:
      width: factor on the number of channels, also of the two wide layers.
      embedding_size: outputs of a last linear layer. None: no such layer; the embedding
        is the output of the second wide layer, 4096 non-negative values.
      dropout: rate after each wide layer.
      dtype: type of the convolutions; the linear layers are always float32.
    """

    width: float = 1.0
    embedding_size: int | None = 64
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        conv = functools.partial(
            layers.Conv,
            kernel=3,
            init=nn.initializers.he_normal(),
            use_bias=True,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
        )
        for stage, (features, convolutions) in enumerate(STAGES, 1):
            for index in range(1, convolutions + 1):
                name = f"conv{stage}_{index}"
                x = nn.relu(conv(round(features * self.width), name=name)(x))
            x = layers.max_pool(x)
        x = layers.flat(x)
        dense = functools.partial(layers.Dense, bias_init=nn.initializers.zeros)
        init = nn.initializers.he_normal()
        for name in ("fc6", "fc7"):
            wide = dense(round(4096 * self.width), init=init, name=name)
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(wide(x)))
        if self.embedding_size is None:
            return x
        init = nn.initializers.normal(1e-3)
        return dense(self.embedding_size, init=init, name="fc8")(x)
