"""A small residual network that places 68 landmarks in the crop of a face.

Residual blocks of He et al., Deep Residual Learning (CVPR 2016). Two heads: a linear
layer on the last map, as in Feng et al., Wing Loss (CVPR 2018, arXiv 1711.06753); or
the means of one heatmap per point, as in Sun et al., Integral Human Pose Regression
(ECCV 2018, arXiv 1711.08229).
"""

import functools

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.errors import check_names
from fr_jax.models import layers

Array = jax.Array

NUM_POINTS = 68
HEADS = ("dense", "heatmap")
# Channels and residual blocks of the stages; each halves the side of the map.
_STAGES = ((32, 1), (64, 2), (128, 2))
_STEM, _HEAD = 24, 64


class Block(nn.Module):
    """Two 3x3 convolutions and a residual connection."""

    features: int
    stride: int
    norm: layers.Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        out = conv(self.features, 3, self.stride, name="conv1")(x)
        out = layers.PReLU(name="prelu1")(self.norm(name="bn1")(out, train))
        out = self.norm(name="bn2")(conv(self.features, 3, name="conv2")(out), train)
        if out.shape != x.shape:
            x = conv(self.features, 1, self.stride, padding=0, name="shortcut")(x)
            x = self.norm(name="shortcut_bn")(x, train)
        return layers.PReLU(name="prelu2")(out + x)


class LandmarkRegressor(layers.Backbone):
    """Crops [B, S, S, 3] scaled by the InputSpec -> landmarks [B, 136].

    x and y of each point in turn, as shares of the crop's side from its centre: -0.5 is
    the left or upper edge, 0.5 the right or lower one; see `to_pixels`.

    Attributes:
      head: 'dense' or 'heatmap'.
      For the others see `layers.Backbone`; `embedding_size` is 136.
    """

    embedding_size: int = 2 * NUM_POINTS
    head: str = "dense"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        check_names("head", [self.head], HEADS)
        norm = self.norm()
        block = self.block(Block, norm=norm)
        conv = functools.partial(layers.Conv, dtype=self.dtype)

        def unit(x, features, kernel, name, stride=1):
            x = conv(features, kernel, stride, name=name)(x)
            return layers.PReLU(name=f"{name}_prelu")(norm(name=f"{name}_bn")(x, train))

        x = unit(x, self._channels(_STEM), 3, "stem", stride=2)
        maps = []
        for stage, (features, blocks) in enumerate(_STAGES, 1):
            for index in range(blocks):
                stride = 1 if index else 2
                name = f"stage{stage}_{index}"
                x = block(self._channels(features), stride, name=name)(x, train)
            maps.append(x)
        head = self._channels(_HEAD)
        if self.head == "dense":
            return self.last_layer(unit(x, head, 1, "head"), train)
        wide, narrow = maps[-2:]
        up = einops.repeat(
            unit(narrow, head, 1, "narrow"), "b h w c -> b (h n) (w m) c", n=2, m=2
        )
        up = up[:, : wide.shape[1], : wide.shape[2]]
        x = unit(unit(wide, head, 1, "wide") + up, head, 3, "head")
        x = conv(NUM_POINTS, 1, use_bias=True, name="heatmaps")(x)
        return _means(x.astype(jnp.float32))

    def _channels(self, features: int) -> int:
        return max(round(features * self.width), 1)


def _means(logits: Array) -> Array:
    """Returns the mean positions [B, 136] of the softmax of maps [B, h, w, 68]."""
    height, width = logits.shape[1:3]
    flat = einops.rearrange(logits, "b h w c -> b c (h w)")
    shares = jax.nn.softmax(flat, axis=2)
    y, x = ((jnp.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    places = jnp.stack([jnp.tile(x, height), jnp.repeat(y, width)], axis=1)  # [hw, 2]
    return einops.rearrange(shares @ places, "b c p -> b (c p)")


def to_pixels(outputs: Array, height: float, width: float) -> Array:
    """Returns landmarks (x, y) [B, 68, 2] in pixels of crops, of outputs [B, 136].

    Pixel centres are at whole numbers.
    """
    points = outputs.reshape(-1, NUM_POINTS, 2)
    return (points + 0.5) * jnp.array([width, height]).reshape(1, 1, 2) - 0.5


def to_shares(points: Array, size: int) -> Array:
    """Returns the outputs [B, 136] of landmarks [B, 68, 2] in pixels of a crop."""
    return ((points + 0.5) / size - 0.5).reshape(-1, 2 * NUM_POINTS)
