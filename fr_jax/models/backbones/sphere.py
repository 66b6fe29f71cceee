"""Sphere20 and Sphere64: residual networks without BatchNorm.

Liu et al., SphereFace (CVPR 2017), section 3.3, table 2; with the PReLUs of the CosFace
implementation (Wang et al., CVPR 2018), which published weights. A stage is a strided
convolution, PReLU, and blocks x + PReLU(conv(PReLU(conv(x)))). The published networks
take faces of 112x96 pixels.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fr_jax.models import layers

STAGES = {20: (1, 2, 4, 1), 64: (3, 7, 16, 3)}


class Block(nn.Module):
    features: int
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        out = x
        for index in (1, 2):
            # Small: without BatchNorm the sum of many blocks would diverge.
            init = nn.initializers.normal(0.01)
            out = layers.Conv(
                self.features,
                3,
                init=init,
                use_bias=self.use_bias,
                bias_init=nn.initializers.zeros,
                dtype=self.dtype,
                name=f"conv{index}",
            )(out)
            out = layers.PReLU(name=f"prelu{index}")(out)
        return x + out


class Sphere(nn.Module):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    Attributes:
      stage_sizes: number of blocks in each of the four stages.
      residual_bias: convolutions in blocks have a bias (sphereface_pytorch).
      For the others see `layers.Backbone`; there is no dropout and no BatchNorm.
    """

    stage_sizes: Sequence[int] = STAGES[20]
    residual_bias: bool = False
    width: float = 1.0
    embedding_size: int = 512
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        del train
        block = nn.remat(Block) if self.remat else Block
        entry = functools.partial(
            layers.Conv,
            kernel=3,
            stride=2,
            init=nn.initializers.xavier_uniform(),
            use_bias=True,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
        )
        for stage, blocks in enumerate(self.stage_sizes, 1):
            features = round(32 * 2**stage * self.width)
            x = entry(features, name=f"layer{stage}_conv")(x)
            x = layers.PReLU(name=f"layer{stage}_prelu")(x)
            for index in range(blocks):
                name = f"layer{stage}_{index}"
                x = block(features, self.residual_bias, self.dtype, name=name)(x)
        return layers.Dense(self.embedding_size, name="fc")(layers.flat(x))
