"""IR and IR-SE 50/100/152: the backbone of InsightFace_Pytorch and Inter-Prototype.

Deng et al., ArcFace (CVPR 2019), with the squeeze-and-excitation of Hu et al. (CVPR
2018). Unlike IResNet it has no BatchNorm between the first convolution and PReLU, and a
shortcut between equal channels is a strided slice without parameters. The published
network normalises its output; here, as everywhere, the embedding is raw.
"""

import functools
from collections.abc import Sequence

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.models import layers

Array = jax.Array

STAGES = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}


class Block(nn.Module):
    features: int
    stride: int
    squeeze: int
    norm: layers.Norm
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        out = self.norm(name="bn_in")(x, train)
        out = conv(self.features, 3, name="conv1")(out)
        out = layers.PReLU(name="prelu")(out)
        out = conv(self.features, 3, self.stride, name="conv2")(out)
        out = self.norm(name="bn_out")(out, train)
        if self.squeeze:
            gate = jnp.mean(out, axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
            gate = conv(max(self.features // self.squeeze, 1), 1, name="se_fc1")(gate)
            gate = conv(self.features, 1, name="se_fc2")(nn.relu(gate))
            out = out * nn.sigmoid(gate)
        if x.shape[-1] == self.features:
            return out + x[:, :: self.stride, :: self.stride]
        x = conv(self.features, 1, self.stride, name="short_conv")(x)
        return out + self.norm(name="short_bn")(x, train)


class IR(nn.Module):
    """Images [B, H, W, 3], scaled as the InputSpec says -> embeddings [B, D], raw.

    Attributes:
      stage_sizes: blocks in each of the four stages.
      squeeze: channel reduction of the squeeze-and-excitation; 0 leaves it out.
      The others are those of `iresnet.IResNet`.
    """

    stage_sizes: Sequence[int] = STAGES[50]
    squeeze: int = 0
    width: float = 1.0
    embedding_size: int = 512
    dropout: float = 0.6
    bn_groups: int = 1
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = functools.partial(layers.BatchNorm, groups=self.bn_groups)
        conv = functools.partial(layers.Conv, dtype=self.dtype)
        channels = [round(c * self.width) for c in (64, 128, 256, 512)]
        x = conv(channels[0], 3, name="input_conv")(x)
        x = layers.PReLU(name="input_prelu")(norm(name="input_bn")(x, train))
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        plan = [
            (features, 2 if index == 0 else 1)
            for blocks, features in zip(self.stage_sizes, channels)
            for index in range(blocks)
        ]
        for index, (features, stride) in enumerate(plan):
            x = block(
                features, stride, self.squeeze, norm, self.dtype, name=f"body_{index}"
            )(x, train)
        x = norm(name="out_bn")(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = einops.rearrange(x, "b h w c -> b (h w c)").astype(jnp.float32)
        x = layers.Dense(self.embedding_size, name="fc")(x)
        return norm(name="out_bn1d")(x, train)
