"""MobileFaceNet as InsightFace_Pytorch and Inter-Prototype define it.

Chen et al., MobileFaceNets (CCBR 2018): inverted residuals with PReLU and a global
depthwise convolution in place of pooling.
"""

import functools

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.models import layers

Array = jax.Array

# (features, channels the strided block expands to, residual blocks that follow, which
# expand to twice their features)
STAGES = ((64, 128, 4), (128, 256, 6), (128, 512, 2))


_ACTIVATIONS = {"relu": nn.relu, "relu6": nn.relu6, "none": lambda x: x}


class ConvUnit(nn.Module):
    """Convolution, BatchNorm, and 'prelu', 'relu', 'relu6' or 'none'."""

    features: int
    kernel: int
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
    """1x1 expansion, 3x3 depthwise, 1x1 projection; `residual` adds the input."""

    features: int
    expanded: int
    stride: int
    residual: bool
    norm: layers.Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        shared = {"norm": self.norm, "dtype": self.dtype}
        out = ConvUnit(self.expanded, 1, **shared, name="conv")(x, train)
        out = ConvUnit(
            self.expanded,
            3,
            **shared,
            stride=self.stride,
            groups=self.expanded,
            name="conv_dw",
        )(out, train)
        out = ConvUnit(self.features, 1, **shared, activation="none", name="project")(
            out, train
        )
        return out + x if self.residual else out


class MobileFaceNet(nn.Module):
    """Images [B, H, W, 3], scaled as the InputSpec says -> embeddings [B, D], raw.

    The global depthwise convolution takes whatever map is left: 7x7 of 112x112 pixels.
    Attributes as in `iresnet.IResNet`; the published network has no dropout.
    """

    width: float = 1.0
    embedding_size: int = 512
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
        bottleneck = (
            nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        )
        stem, last = round(64 * self.width), round(512 * self.width)
        x = ConvUnit(stem, 3, **shared, stride=2, name="stem")(x, train)
        x = ConvUnit(stem, 3, **shared, groups=stem, name="stem_dw")(x, train)
        for stage, (features, expanded, residuals) in enumerate(STAGES, 1):
            features = round(features * self.width)
            expanded = round(expanded * self.width)
            x = bottleneck(
                features, expanded, 2, False, **shared, name=f"stage{stage}_down"
            )(x, train)
            for index in range(residuals):
                x = bottleneck(
                    features,
                    2 * features,
                    1,
                    True,
                    **shared,
                    name=f"stage{stage}_{index}",
                )(x, train)
        x = ConvUnit(last, 1, **shared, name="head_conv")(x, train)
        x = ConvUnit(
            last,
            x.shape[1],
            **shared,
            groups=last,
            padding=0,
            activation="none",
            name="head_dw",
        )(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = einops.rearrange(x, "b h w c -> b (h w c)").astype(jnp.float32)
        x = layers.Dense(self.embedding_size, use_bias=False, name="fc")(x)
        return norm(name="bn")(x, train)
