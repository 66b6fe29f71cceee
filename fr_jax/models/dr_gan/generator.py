"""DR-GAN's generator: an encoder of identity and a decoder to a target pose.

Tran, Yin, Liu: Disentangled Representation Learning GAN for Pose-Invariant Face
Recognition (CVPR 2017, "the paper"), and Representation Learning by Rotating Your Faces
(TPAMI 2018). Layers carry the paper's names (tables 1 and 2). The published programs
differ from the paper and from one another in the fields below; the defaults follow the
paper, and each program's choices are in its dialect in `fr_jax.convert`.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.errors import UserError, check_names
from fr_jax.models import layers

Array = jax.Array


_STAGES_2_TO_4 = ((64, 64, 128), (128, 96, 192), (192, 128, 256))


def _plan(
    name: str, first: tuple[Any, ...], last: tuple[int, ...], strided: int
) -> Iterator[tuple[str, Any, int]]:
    """Yields (name, features, stride): stride 2 for the `strided` layer of each stage.

    The layer at full resolution, the first of stage 1, has stride 1.
    """
    for stage, row in enumerate((first, *_STAGES_2_TO_4, last), 1):
        for index, features in enumerate(row, 1):
            stride = 2 if index == strided and stage + index > 2 else 1
            yield f"{name}{stage}{index}", features, stride


# Layers of encoder and discriminator, and of the decoder. The decoder's last layer has
# one feature per image channel.
TRUNK = tuple(_plan("conv", (32, 64), (256, 160, 320), strided=1))
DECODER = tuple(_plan("fconv", (None, 32, 64), (256, 160), strided=3))[::-1]
FEATURES = TRUNK[-1][1]

# Alignment of stride 2. Convolution: zeros before and after each axis. Transposed
# convolution: first row kept of its 2H + 1 output rows, and number of rows of zeros
# that then complete 2H.
_HALVING = {"same": (0, 1), "symmetric": (1, 1), "zero_row": (0, 1)}
_DOUBLING = {"same": (0, 0), "symmetric": (1, 0), "zero_row": (1, 1)}
_OUTPUTS = {"tanh": jnp.tanh, "elu": nn.elu}
INIT = nn.initializers.normal(0.02)
dense = functools.partial(layers.Dense, init=INIT, bias_init=nn.initializers.zeros)


def fuse(features: Array, confidence: Array, *, normalise: bool = True) -> Array:
    """Returns the mean [..., F] of features [..., n, F], weighted by confidence.

    sum_i w_i f_i / (sum_i w_i + 1e-6), as in the authors' program; without `normalise`
    the sum alone. A row of confidence 0 has no weight, so sets of
    different sizes can be padded to one.

    Args:
      confidence: [..., n, 1].
    """
    total = jnp.sum(features * confidence, axis=-2)
    return total / (jnp.sum(confidence, axis=-2) + 1e-6) if normalise else total


class Unit(nn.Module):
    """3x3 convolution, BatchNorm where `normalised` and ELU where `elu`.

    Attributes:
      stride: 2 halves the map, or doubles it where `transposed`.
      Others: see `Part` and `DecoderFields`.
    """

    features: int
    norm: layers.Norm
    stride: int = 1
    transposed: bool = False
    conv_bias: bool = False
    alignment: str = "same"
    bn_before_crop: bool = False
    normalised: bool = True
    elu: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        shared: dict[str, Any] = {
            "init": INIT,
            "use_bias": self.conv_bias,
            "dtype": self.dtype,
            "name": "conv",
        }
        doubles = self.transposed and self.stride == 2
        if doubles:
            x = layers.TransposedConv(self.features, **shared)(x)
        else:  # with stride 1 a transposed convolution only flips the kernel
            zeros = 1 if self.stride == 1 else _HALVING[self.alignment]
            shared |= {"padding": zeros, "bias_init": nn.initializers.zeros}
            x = layers.Conv(self.features, 3, self.stride, **shared)(x)
        if doubles and not self.bn_before_crop:
            x = self._crop(x)
        if self.normalised:
            x = self.norm(name="bn")(x, train)
        if self.elu:
            x = nn.elu(x)
        return self._crop(x) if doubles and self.bn_before_crop else x

    def _crop(self, x: Array) -> Array:
        first, zeros = _DOUBLING[self.alignment]
        rows, columns = (
            slice(first, first + side - 1 - zeros) for side in x.shape[1:3]
        )
        return jnp.pad(x[:, rows, columns], ((0, 0), (0, zeros), (0, zeros), (0, 0)))


class Trunk(nn.Module):
    """Images or maps -> the maps [B, h, w, C] of the last two layers of `plan`.

    Attributes:
      plan: layers of `TRUNK`.
      extra: additional channels of conv53.
    """

    unit: Any
    plan: tuple[tuple[str, int, int], ...] = TRUNK
    width: float = 1.0
    extra: int = 0
    final_elu: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        before = x
        for name, features, stride in self.plan:
            before, features = x, round(features * self.width)
            last = name == TRUNK[-1][0]
            x = self.unit(
                features + self.extra * last,
                stride=stride,
                elu=self.final_elu or not last,
                name=name,
            )(x, train)
        return before, x


class Part(nn.Module):
    """Fields of all networks of DR-GAN.

    Attributes:
      width: factor on the channels.
      conv_bias: convolutions have a bias (the authors' program).
      alignment: of stride 2: 'same', as in TensorFlow on even maps; 'symmetric', as in
        PyTorch; 'zero_row', which differs from 'same' only in decoders.
      dropout: rate on the features of an encoder and the first map of a decoder.
      bn_groups: see `layers.BatchNorm`.
      dtype: type of the convolutions; features are float32.
    """

    width: float = 1.0
    conv_bias: bool = False
    alignment: str = "same"
    dropout: float = 0.0
    bn_groups: int = 1
    dtype: jnp.dtype = jnp.float32

    def unit(self, **fields: Any) -> Any:
        """Returns `Unit` with the fields that all units of a network share."""
        check_names("alignment", [self.alignment], _HALVING)
        return functools.partial(
            Unit,
            norm=functools.partial(layers.BatchNorm, groups=self.bn_groups),
            conv_bias=self.conv_bias,
            alignment=self.alignment,
            dtype=self.dtype,
            **fields,
        )


class EncoderFields(Part):
    """Fields of an encoder.

    Attributes:
      final_elu: an ELU after the last BatchNorm, which bounds features below by -1.
      confidence_head: 'branch', a separate convolution; 'channel', an additional
        channel of the last convolution; or 'none', equal weights.
      confidence_elu: an ELU before the sigmoid of the branch.
      confidence_sigmoid: without it confidence may be negative.
    """

    final_elu: bool = True
    confidence_head: str = "branch"
    confidence_elu: bool = False
    confidence_sigmoid: bool = True


class DecoderFields(Part):
    """Fields of a decoder.

    Attributes:
      size: side of the images; 16 or 32 times `decoder_seed`.
      decoder_seed: side of the first map: 6, the paper's table, or 3, which the first
        layer doubles (the authors' program), for 96 pixels.
      pose_features: size of a linear layer with ELU on the pose code (the authors'
        program, for a yaw); 0: no such layer.
      seed_bn: BatchNorm and ELU on the first map (the authors' program).
      bn_before_crop: BatchNorm on all 2H + 1 rows of a transposed convolution.
      last_bn: a BatchNorm before the output function.
      output: 'tanh', or 'elu', whose images leave [-1, 1].
    """

    size: int = 96
    channels: int = 3
    decoder_seed: int = 6
    pose_features: int = 0
    seed_bn: bool = False
    bn_before_crop: bool = False
    last_bn: bool = False
    output: str = "tanh"


class Encoder(EncoderFields):
    """Images [B, H, W, C] in [-1, 1] -> features [B, F], raw; F is 320 times width."""

    def __call__(self, images: Array, train: bool = False) -> Array:
        return self.with_confidence(images, train)[0]

    @nn.compact
    def with_confidence(
        self, images: Array, train: bool = False
    ) -> tuple[Array, Array]:
        """Returns features [B, F] and confidence [B, 1]."""
        heads = ("branch", "channel", "none")
        check_names("confidence_head", [self.confidence_head], heads)
        unit = self.unit()
        before, last = Trunk(
            unit,
            width=self.width,
            extra=int(self.confidence_head == "channel"),
            final_elu=self.final_elu,
            name="trunk",
        )(images, train)
        features, confidence = pool(last), jnp.ones((len(images), 1))
        if self.confidence_head == "channel":
            features, confidence = features[:, :-1], features[:, -1:]
        elif self.confidence_head == "branch":
            branch = unit(1, elu=self.confidence_elu, name="confidence")
            confidence = pool(branch(before, train))
        if self.confidence_sigmoid and self.confidence_head != "none":
            confidence = nn.sigmoid(confidence)
        features = nn.Dropout(self.dropout, deterministic=not train)(features)
        return features, confidence


class Decoder(DecoderFields):
    """Features [B, F] and codes [B, length] -> images [B, size, size, channels]."""

    @nn.compact
    def __call__(
        self, features: Array, pose: Array, noise: Array, *light: Array, train: bool
    ) -> Array:
        if self.size not in (16 * self.decoder_seed, 32 * self.decoder_seed):
            raise UserError(
                f"images of {self.size} pixels from a seed of {self.decoder_seed}: the "
                "size must be 16 or 32 times the seed, as 96 is of 6 or 3"
            )
        check_names("output", [self.output], _OUTPUTS)
        if self.pose_features:
            pose = nn.elu(dense(self.pose_features, name="pose")(pose))
        x = jnp.concatenate([features, pose, *light, noise], axis=1)
        side, depth = self.decoder_seed, round(FEATURES * self.width)
        x = dense(side * side * depth, name="fc")(x)
        x = einops.rearrange(x, "b (h w c) -> b h w c", h=side, w=side)
        unit = self.unit(transposed=True, bn_before_crop=self.bn_before_crop)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.seed_bn:
            norm = layers.BatchNorm(groups=self.bn_groups, name="fc_bn")
            x = nn.elu(norm(x, train))
        for name, depth, stride in DECODER[:-1]:
            if name == DECODER[0][0] and self.size == 32 * side:
                stride = 2
            x = unit(round(depth * self.width), stride=stride, name=name)(x, train)
        name, _, _ = DECODER[-1]
        last = unit(self.channels, normalised=self.last_bn, elu=False, name=name)
        return _OUTPUTS[self.output](last(x, train).astype(jnp.float32))


class Generator(EncoderFields, DecoderFields):
    """Images of identities, n per identity -> one image per identity in a target pose.

    Attributes:
      poses, noise, illuminations: lengths of the pose code (1 for a yaw in radians), of
        the noise and of the illumination code (0: none).
      normalise_fusion: see `fuse`.
      Others: see `Part`, `EncoderFields` and `DecoderFields`.
    """

    poses: int = 13
    noise: int = 50
    illuminations: int = 0
    normalise_fusion: bool = True

    @property
    def code_lengths(self) -> tuple[int, int, int, int]:
        """Lengths of feature, pose, light and noise in the decoder's first layer."""
        feature, pose = round(FEATURES * self.width), self.pose_features or self.poses
        return feature, pose, self.illuminations, self.noise

    def setup(self):
        self.encoder = Encoder(**_fields_of(self, Encoder))
        self.decoder = Decoder(**_fields_of(self, Decoder))

    def __call__(
        self, images: Array, *codes: Array, train: bool = False
    ) -> dict[str, Array]:
        """Returns 'image' [P, size, size, C], 'feature' [P, F] and 'confidence' [P, n].

        Args:
          images: [P * n, H, W, C] in [-1, 1], identity by identity.
          codes: pose, noise and any illumination, [P, length] each.
        """
        identities = len(codes[0])
        if len(images) % identities:
            raise UserError(
                f"{len(images)} images cannot be divided into equal sets for "
                f"{identities} poses"
            )
        feature, confidence = self.encode(images, train)
        confidence = einops.rearrange(confidence, "(p n) 1 -> p n 1", p=identities)
        if len(images) > identities or not self.normalise_fusion:
            sets = einops.rearrange(feature, "(p n) f -> p n f", p=identities)
            feature = fuse(sets, confidence, normalise=self.normalise_fusion)
        image = self.decode(feature, *codes, train=train)
        return {"image": image, "feature": feature, "confidence": confidence[..., 0]}

    def encode(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Returns features [B, F] and confidence [B, 1] of images [B, H, W, C]."""
        return self.encoder.with_confidence(images, train)

    def decode(self, feature: Array, *codes: Array, train: bool = False) -> Array:
        """Returns images [B, size, size, C].

        Args:
          codes: pose, noise and any illumination, [B, length] each.
        """
        names = "poses", "noise", "illuminations"
        for name, code in itertools.zip_longest(names, codes):
            length, given = getattr(self, name), 0 if code is None else code.shape[1]
            if length != given:
                raise UserError(f"{name}={length}, but the code has length {given}")
        return self.decoder(feature, *codes, train=train)

    def example_inputs(self, rows: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns the shapes of the arguments of `__call__`."""
        shapes = [(self.size, self.size, self.channels), (self.poses,), (self.noise,)]
        if self.illuminations:
            shapes.append((self.illuminations,))
        return tuple(jax.ShapeDtypeStruct((rows, *s), jnp.float32) for s in shapes)


def _fields_of(module: nn.Module, part: type[nn.Module]) -> dict[str, Any]:
    """Returns a module's values of the fields of `part`."""
    names = set(part.__dataclass_fields__) - {"parent", "name"}
    return {name: getattr(module, name) for name in names}


def pool(x: Array) -> Array:
    """Returns the mean [B, C] of every map, float32."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
