"""Inception-ResNet-v1 as facenet-pytorch defines it.

Szegedy et al., Inception-v4, Inception-ResNet and the Impact of Residual Connections
(AAAI 2017); the network of Schroff et al., FaceNet (CVPR 2015), in later
implementations. Deviation: the published network normalises its output; here the
embedding is raw.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.models import layers
from fr_jax.models.backbones.mobilefacenet import ConvUnit

Array = jax.Array
Unit = Callable[..., ConvUnit]
# A branch: (features, height and width of the kernel, stride) of each convolution.
Branch = Sequence[tuple[int, tuple[int, int], int]]

_ONE, _THREE = (1, 1), (3, 3)
_BLOCK35: Sequence[Branch] = (
    ((32, _ONE, 1),),
    ((32, _ONE, 1), (32, _THREE, 1)),
    ((32, _ONE, 1), (32, _THREE, 1), (32, _THREE, 1)),
)
_BLOCK17: Sequence[Branch] = (
    ((128, _ONE, 1),),
    ((128, _ONE, 1), (128, (1, 7), 1), (128, (7, 1), 1)),
)
_BLOCK8: Sequence[Branch] = (
    ((192, _ONE, 1),),
    ((192, _ONE, 1), (192, (1, 3), 1), (192, (3, 1), 1)),
)
_MIXED_6A: Sequence[Branch] = (
    ((384, _THREE, 2),),
    ((192, _ONE, 1), (192, _THREE, 1), (256, _THREE, 2)),
)
_MIXED_7A: Sequence[Branch] = (
    ((256, _ONE, 1), (384, _THREE, 2)),
    ((256, _ONE, 1), (256, _THREE, 2)),
    ((256, _ONE, 1), (256, _THREE, 1), (256, _THREE, 2)),
)
# Blocks, their branches and the factor of the residual, after each reduction.
_REPEATS = ((5, _BLOCK35, 0.17), (10, _BLOCK17, 0.10), (5, _BLOCK8, 0.20))
_REDUCTIONS = {1: ("mixed_6a", _MIXED_6A), 2: ("mixed_7a", _MIXED_7A)}


class Mixed(nn.Module):
    """Parallel branches, joined by channels.

    Attributes:
      residual: factor of the joined branches in the sum with the input; None: a
        reduction, with a max-pooling as another branch.
      activate: ReLU after the sum.
    """

    branches: Sequence[Branch]
    width: float
    norm: layers.Norm
    dtype: jnp.dtype
    residual: float | None = None
    activate: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        outs = []
        for number, branch in enumerate(self.branches):
            out = x
            for index, (features, kernel, stride) in enumerate(branch):
                last = f"_{index}" if len(branch) > 1 else ""
                out = ConvUnit(
                    round(features * self.width),
                    kernel,
                    self.norm,
                    self.dtype,
                    stride,
                    padding=0 if stride > 1 else None,
                    activation="relu",
                    name=f"branch{number}{last}",
                )(out, train)
            outs.append(out)
        if self.residual is None:
            return jnp.concatenate([*outs, _pooled(x)], axis=-1)
        joined = layers.Conv(
            x.shape[-1], 1, use_bias=True, dtype=self.dtype, name="conv2d"
        )(jnp.concatenate(outs, axis=-1))
        out = x + joined * self.residual
        return nn.relu(out) if self.activate else out


class InceptionResNetV1(layers.Backbone):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    For the attributes see `layers.Backbone`.
    """

    dropout: float = 0.6

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = self.norm(epsilon=1e-3)

        def unit(features, kernel, name, stride=1, padding=0):
            features = round(features * self.width)
            fields = {"stride": stride, "padding": padding, "activation": "relu"}
            return ConvUnit(features, kernel, norm, self.dtype, **fields, name=name)

        mixed = self.block(Mixed, norm=norm, width=self.width)
        x = unit(32, 3, "conv2d_1a", stride=2)(x, train)
        x = unit(32, 3, "conv2d_2a")(x, train)
        x = _pooled(unit(64, 3, "conv2d_2b", padding=1)(x, train))
        x = unit(80, 1, "conv2d_3b")(x, train)
        x = unit(192, 3, "conv2d_4a")(x, train)
        x = unit(256, 3, "conv2d_4b", stride=2)(x, train)
        for repeat, (blocks, branches, factor) in enumerate(_REPEATS):
            if repeat in _REDUCTIONS:
                name, reduction = _REDUCTIONS[repeat]
                x = mixed(reduction, name=name)(x, train)
            for index in range(blocks):
                name = f"repeat_{repeat + 1}_{index}"
                x = mixed(branches, residual=factor, name=name)(x, train)
        last = functools.partial(mixed, residual=1.0, activate=False)
        x = last(_BLOCK8, name="block8")(x, train)
        x = jnp.mean(x, axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
        return norm(name="bn")(self.last_layer(x, train, use_bias=False), train)


def _pooled(x: Array) -> Array:
    """Returns maxima of 3x3 windows, stride 2, without padding."""
    return nn.max_pool(x, (3, 3), (2, 2))
