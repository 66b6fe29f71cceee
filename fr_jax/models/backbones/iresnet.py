"""IResNet 18/34/50/100/200: the backbone of arcface_torch and MagFace.

Deng et al., ArcFace (CVPR 2019), section 3; Meng et al., MagFace (CVPR 2021). A block
is BN - conv3x3 - BN - PReLU - conv3x3 (with the stride) - BN plus a shortcut, without
an activation after the sum.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fr_jax.models import layers

STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
MAGFACE_STAGES = {depth: STAGES[depth] for depth in (18, 34, 50, 100)}


class Block(nn.Module):
    features: int
    stride: int
    norm: layers.Norm
    conv_init: layers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = functools.partial(layers.Conv, init=self.conv_init, dtype=self.dtype)
        out = self.norm(name="bn1")(x, train)
        out = conv(self.features, 3, name="conv1")(out)
        out = layers.PReLU(name="prelu")(self.norm(name="bn2")(out, train))
        out = conv(self.features, 3, self.stride, name="conv2")(out)
        out = self.norm(name="bn3")(out, train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, name="down_conv")(x)
            x = self.norm(name="down_bn")(x, train)
        return out + x


class IResNet(layers.Backbone):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    Attributes:
      stage_sizes: number of blocks in each of the four stages.
      channel_dropout: dropout of whole channels.
      bn_momentum: weight of the old running value.
      frozen_scale: the scale of the last BatchNorm gets no gradient (arcface_torch).
      width: factor on the channels (64, 128, 256, 512).
      For the others see `layers.Backbone`.
    """

    stage_sizes: Sequence[int] = STAGES[50]
    channel_dropout: bool = False
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    frozen_scale: bool = True
    conv_init: layers.Initializer = nn.initializers.normal(0.1)

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = self.norm(momentum=self.bn_momentum, epsilon=self.bn_epsilon)
        conv = functools.partial(layers.Conv, init=self.conv_init, dtype=self.dtype)
        channels = [round(c * self.width) for c in (64, 128, 256, 512)]
        x = conv(channels[0], 3, name="conv1")(x)
        x = layers.PReLU(name="prelu")(norm(name="bn1")(x, train))
        block = self.block(Block, norm=norm, conv_init=self.conv_init)
        for stage, (blocks, features) in enumerate(zip(self.stage_sizes, channels), 1):
            for index in range(blocks):
                stride = 2 if index == 0 else 1
                name = f"layer{stage}_{index}"
                x = block(features, stride, name=name)(x, train)
        x = norm(name="bn2")(x, train)
        x = self.last_layer(x, train, (1, 2) if self.channel_dropout else ())
        return norm(name="features", frozen_scale=self.frozen_scale)(x, train)
