"""MobileFaceNet in the style of MobileNet-V2: ReLU6 in place of PReLU.

Chen et al., MobileFaceNets (CCBR 2018), in the version of foamliu/MobileFaceNet:
inverted residuals of Sandler et al., MobileNetV2 (CVPR 2018), between the stem and the
global depthwise convolution of MobileFaceNet.
"""

import functools

import flax.linen as nn
from jax import Array

from fr_jax.models import layers
from fr_jax.models.backbones.mobilefacenet import Bottleneck, ConvUnit

# (expansion, features, blocks, stride of the first)
STAGES = (
    (2, 64, 5, 2),
    (4, 128, 1, 2),
    (2, 128, 6, 1),
    (4, 128, 1, 2),
    (2, 128, 2, 1),
)


class MobileFaceNetV2(layers.Backbone):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    The global depthwise convolution covers the last map, 7x7 for 112x112 pixels. For
    the attributes see `layers.Backbone`; the published network has no dropout.
    """

    embedding_size: int = 128

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = self.norm()
        clipped = functools.partial(
            ConvUnit, norm=norm, dtype=self.dtype, activation="relu6"
        )
        relu = functools.partial(clipped, activation="relu")
        block = self.block(
            Bottleneck,
            norm=norm,
            activation="relu6",
            names=("expand", "depthwise", "project"),
        )
        stem, last = round(64 * self.width), round(512 * self.width)
        x = clipped(stem, 3, stride=2, name="stem")(x, train)
        x = relu(stem, 3, groups=stem, name="stem_depthwise")(x, train)
        x = relu(stem, 1, name="stem_pointwise")(x, train)
        plan = [
            (expansion, round(features * self.width), stride if index == 0 else 1)
            for expansion, features, blocks, stride in STAGES
            for index in range(blocks)
        ]
        for index, (expansion, features, stride) in enumerate(plan):
            channels, name = x.shape[-1], f"features_{index}"
            fits = stride == 1 and channels == features
            x = block(features, expansion * channels, stride, fits, name=name)(x, train)
        x = clipped(last, 1, name="head")(x, train)
        whole = functools.partial(clipped, groups=last, padding=0, activation="none")
        x = whole(last, x.shape[1], name="global")(x, train)
        return norm(name="bn")(self.last_layer(x, train), train)
