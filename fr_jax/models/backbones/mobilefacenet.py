"""MobileFaceNet as InsightFace_Pytorch and Inter-Prototype define it.

Chen et al., MobileFaceNets (CCBR 2018): inverted residuals with PReLU and a global
depthwise convolution in place of pooling.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fr_jax.models import layers

# (features, expanded channels of the strided block, number of residual blocks after it,
# whose expansion is 2)
STAGES = ((64, 128, 4), (128, 256, 6), (128, 512, 2))
_ACTIVATIONS = {"relu": nn.relu, "relu6": nn.relu6, "none": lambda x: x}


class ConvUnit(nn.Module):
    """Convolution, BatchNorm and an activation: 'prelu', 'relu', 'relu6' or 'none'."""

    features: int
    kernel: int | tuple[int, int]
    norm: layers.Norm
    dtype: jnp.dtype
    stride: int = 1
    groups: int = 1
    padding: int | None = None
    activation: str = "prelu"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = layers.Conv(
            self.features,
            self.kernel,
            self.stride,
            padding=self.padding,
            groups=self.groups,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = self.norm(name="bn")(x, train)
        if self.activation == "prelu":
            return layers.PReLU(name="prelu")(x)
        return _ACTIVATIONS[self.activation](x)


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection; `residual` adds the input.

    Attributes:
      expanded: channels between the three units.
      names: of the three units.
    """

    features: int
    expanded: int
    stride: int
    residual: bool
    norm: layers.Norm
    dtype: jnp.dtype
    activation: str = "prelu"
    names: tuple[str, str, str] = ("conv", "conv_dw", "project")

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        unit = functools.partial(
            ConvUnit, norm=self.norm, dtype=self.dtype, activation=self.activation
        )
        expand, depthwise, project = self.names
        wide = self.expanded
        out = unit(wide, 1, name=expand)(x, train)
        out = unit(wide, 3, stride=self.stride, groups=wide, name=depthwise)(out, train)
        out = unit(self.features, 1, activation="none", name=project)(out, train)
        return out + x if self.residual else out


class MobileFaceNet(layers.Backbone):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    The global depthwise convolution covers the last map, 7x7 for 112x112 pixels. For
    the attributes see `layers.Backbone`; the published network has no dropout.
    """

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = self.norm()
        unit = functools.partial(ConvUnit, norm=norm, dtype=self.dtype)
        block = self.block(Bottleneck, norm=norm)
        stem, last = round(64 * self.width), round(512 * self.width)
        x = unit(stem, 3, stride=2, name="stem")(x, train)
        x = unit(stem, 3, groups=stem, name="stem_dw")(x, train)
        for stage, (features, expanded, residuals) in enumerate(STAGES, 1):
            features = round(features * self.width)
            expanded = round(expanded * self.width)
            down = block(features, expanded, 2, False, name=f"stage{stage}_down")
            x = down(x, train)
            for index in range(residuals):
                name = f"stage{stage}_{index}"
                x = block(features, 2 * features, 1, True, name=name)(x, train)
        x = unit(last, 1, name="head_conv")(x, train)
        whole = functools.partial(unit, groups=last, padding=0, activation="none")
        x = whole(last, x.shape[1], name="head_dw")(x, train)
        return norm(name="bn")(self.last_layer(x, train, use_bias=False), train)
