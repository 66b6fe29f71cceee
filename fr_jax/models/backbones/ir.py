"""IR and IR-SE: the backbone of InsightFace_Pytorch, Inter-Prototype, CurricularFace
and, with an additional BatchNorm in each block, of AdaFace.

Deng et al., ArcFace (CVPR 2019), with the squeeze-and-excitation of Hu et al. (CVPR
2018); Huang et al., CurricularFace (CVPR 2020); Kim et al., AdaFace (CVPR 2022). Unlike
in IResNet, a shortcut between equal channels is a strided slice without parameters.
Deviation: some published networks normalise their output; here the embedding is raw,
and its norm is AdaFace's quality.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fr_jax.models import layers
from fr_jax.models.backbones import iresnet

STAGES = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3)}
ADAFACE_STAGES = {depth: iresnet.STAGES[depth] for depth in (18, 34, 50)}
ADAFACE_STAGES[101] = STAGES[100]  # its layers are counted differently


class Block(nn.Module):
    features: int
    stride: int
    squeeze: int
    middle_norm: bool
    norm: layers.Norm
    conv_init: layers.Initializer
    squeeze_init: layers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        conv = functools.partial(layers.Conv, init=self.conv_init, dtype=self.dtype)
        out = self.norm(name="bn_in")(x, train)
        out = conv(self.features, 3, name="conv1")(out)
        if self.middle_norm:
            out = self.norm(name="bn_middle")(out, train)
        out = layers.PReLU(name="prelu")(out)
        out = conv(self.features, 3, self.stride, name="conv2")(out)
        out = self.norm(name="bn_out")(out, train)
        if self.squeeze:
            gate = jnp.mean(out, axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
            squeezed = max(self.features // self.squeeze, 1)
            gate = conv(squeezed, 1, init=self.squeeze_init, name="se_fc1")(gate)
            gate = conv(self.features, 1, name="se_fc2")(nn.relu(gate))
            out = out * nn.sigmoid(gate)
        if x.shape[-1] == self.features:
            return out + x[:, :: self.stride, :: self.stride]
        x = conv(self.features, 1, self.stride, name="short_conv")(x)
        return out + self.norm(name="short_bn")(x, train)


class IR(layers.Backbone):
    """Images [B, H, W, 3] scaled by the InputSpec -> raw embeddings [B, D].

    Attributes:
      stage_sizes: number of blocks in each of the four stages.
      squeeze: channel reduction of the squeeze-and-excitation; 0: none.
      middle_norm: a BatchNorm between the first convolution and PReLU (AdaFace).
      affine_end: the last BatchNorm learns a scale and a bias.
      conv_init, squeeze_init, dense_init: initialisers of the convolutions, of the
        first kernel in each squeeze-and-excitation, and of the last layer.
      For the others see `layers.Backbone`.
    """

    stage_sizes: Sequence[int] = STAGES[50]
    squeeze: int = 0
    middle_norm: bool = False
    affine_end: bool = True
    dropout: float = 0.6
    conv_init: layers.Initializer = layers.uniform_fan_in
    squeeze_init: layers.Initializer = layers.uniform_fan_in
    dense_init: layers.Initializer = layers.uniform_fan_in
    dense_bias_init: layers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        norm = self.norm()
        conv = functools.partial(layers.Conv, init=self.conv_init, dtype=self.dtype)
        channels = [round(c * self.width) for c in (64, 128, 256, 512)]
        x = conv(channels[0], 3, name="input_conv")(x)
        x = layers.PReLU(name="input_prelu")(norm(name="input_bn")(x, train))
        block = self.block(
            Block,
            squeeze=self.squeeze,
            middle_norm=self.middle_norm,
            norm=norm,
            conv_init=self.conv_init,
            squeeze_init=self.squeeze_init,
        )
        plan = [
            (features, 2 if index == 0 else 1)
            for blocks, features in zip(self.stage_sizes, channels)
            for index in range(blocks)
        ]
        for number, (features, stride) in enumerate(plan):
            x = block(features, stride, name=f"body_{number}")(x, train)
        x = norm(name="out_bn")(x, train)
        dense = {"init": self.dense_init, "bias_init": self.dense_bias_init}
        x = self.last_layer(x, train, **dense)
        return norm(use_affine=self.affine_end, name="out_bn1d")(x, train)
