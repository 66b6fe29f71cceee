"""MobileFaceNet as arcface_torch defines it: wider, and with residuals in the stem.

Chen et al., MobileFaceNets (CCBR 2018): inverted residuals with PReLU and a global
depthwise convolution in place of pooling.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax

from fr_jax.models import layers
from fr_jax.models.backbones.mobilefacenet import Bottleneck, ConvUnit

Array = jax.Array

# Stage: features as a multiple of the stem's, expanded channels of the strided block
# and of the residual blocks.
_STAGES = ((1, 128, 128), (2, 256, 256), (2, 512, 256))


class ArcFaceMobileFaceNet(layers.Backbone):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    Attributes:
      scale: channels of the stem are 64 * scale.
      stage_sizes: residual blocks after the stem, and in each of the three stages. One
        block after the stem is a grouped convolution instead.
      For the others see `layers.Backbone`; the published networks have no dropout.
    """

    scale: int = 2
    stage_sizes: Sequence[int] = (1, 4, 6, 2)

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = self.norm()
        unit = functools.partial(ConvUnit, norm=norm, dtype=self.dtype)
        block = self.block(Bottleneck, norm=norm)
        narrow = round(64 * self.width)
        stem, last = self.scale * narrow, round(512 * self.width)
        x = unit(stem, 3, stride=2, name="stem")(x, train)
        first, *sizes = self.stage_sizes
        if first == 1:
            x = unit(stem, 3, groups=narrow, name="stem_grouped")(x, train)
        else:
            for index in range(first):
                name = f"stage0_{index}"
                x = block(stem, 2 * narrow, 1, True, name=name)(x, train)
        for stage, ((factor, *expanded), residuals) in enumerate(
            zip(_STAGES, sizes, strict=True), 1
        ):
            features = factor * stem
            strided, inner = (round(channels * self.width) for channels in expanded)
            name = f"stage{stage}_down"
            x = block(features, strided, 2, False, name=name)(x, train)
            for index in range(residuals):
                name = f"stage{stage}_{index}"
                x = block(features, inner, 1, True, name=name)(x, train)
        x = unit(last, 1, name="head_conv")(x, train)
        whole = functools.partial(unit, groups=last, padding=0, activation="none")
        x = whole(last, x.shape[1], name="head_dw")(x, train)
        return norm(name="bn")(self.last_layer(x, train, use_bias=False), train)
