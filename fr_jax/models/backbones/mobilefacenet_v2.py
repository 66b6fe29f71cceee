"""MobileFaceNet in the style of MobileNet-V2: clipped ReLUs in place of PReLU.

Chen et al., MobileFaceNets (CCBR 2018), as foamliu/MobileFaceNet builds it: inverted
residuals of Sandler et al., MobileNetV2 (CVPR 2018), between the stem and the global
depthwise convolution of MobileFaceNet.
"""

import functools

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.models import layers
from fr_jax.models.backbones.mobilefacenet import ConvUnit

Array = jax.Array

# (expansion, features, blocks, stride of the first)
STAGES = (
    (2, 64, 5, 2),
    (4, 128, 1, 2),
    (2, 128, 6, 1),
    (4, 128, 1, 2),
    (2, 128, 2, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection, plus the input where it fits."""

    features: int
    expansion: int
    stride: int
    norm: layers.Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        unit = functools.partial(
            ConvUnit, norm=self.norm, dtype=self.dtype, activation="relu6"
        )
        wide = self.expansion * x.shape[-1]
        out = unit(wide, 1, name="expand")(x, train)
        out = unit(wide, 3, stride=self.stride, groups=wide, name="depthwise")(
            out, train
        )
        out = unit(self.features, 1, activation="none", name="project")(out, train)
        fits = self.stride == 1 and x.shape[-1] == self.features
        return x + out if fits else out


class MobileFaceNetV2(nn.Module):
    """Images [B, H, W, 3], scaled as the InputSpec says -> embeddings [B, D], raw.

    The global depthwise convolution takes whatever map is left: 7x7 of 112x112 pixels.
    Attributes as in `iresnet.IResNet`; the published network has no dropout.
    """

    width: float = 1.0
    embedding_size: int = 128
    dropout: float = 0.0
    bn_groups: int = 1
    bn_first_group: bool = False
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = functools.partial(
            layers.BatchNorm, groups=self.bn_groups, first_group=self.bn_first_group
        )
        shared = {"norm": norm, "dtype": self.dtype}
        unit = functools.partial(ConvUnit, **shared, activation="relu6")
        residual = InvertedResidual
        if self.remat:
            residual = nn.remat(InvertedResidual, static_argnums=(2,))
        stem, last = round(64 * self.width), round(512 * self.width)
        x = unit(stem, 3, stride=2, name="stem")(x, train)
        relu = functools.partial(ConvUnit, **shared, activation="relu")
        x = relu(stem, 3, groups=stem, name="stem_depthwise")(x, train)
        x = relu(stem, 1, name="stem_pointwise")(x, train)
        plan = [
            (expansion, round(features * self.width), stride if index == 0 else 1)
            for expansion, features, blocks, stride in STAGES
            for index in range(blocks)
        ]
        for index, (expansion, features, stride) in enumerate(plan):
            x = residual(
                features, expansion, stride, norm, self.dtype, name=f"features_{index}"
            )(x, train)
        x = unit(last, 1, name="head")(x, train)
        x = ConvUnit(
            last,
            x.shape[1],
            **shared,
            groups=last,
            padding=0,
            activation="none",
            name="global",
        )(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = einops.rearrange(x, "b h w c -> b (h w c)").astype(jnp.float32)
        x = layers.Dense(self.embedding_size, name="fc")(x)
        return norm(name="bn")(x, train)
