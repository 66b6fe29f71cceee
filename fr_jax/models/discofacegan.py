"""DiscoFaceGAN: faces from codes of identity, expression, lighting and pose.

Deng et al., Disentangled and Controllable Face Image Generation via 3D
Imitative-Contrastive Learning (CVPR 2020, arXiv 2004.11660); inference only. Decoders
of four variational autoencoders map codes z to coefficients of a 3D face model, a
mapping network maps these and noise to w, and the synthesis network of StyleGAN (Karras
et al., CVPR 2019, section 2) generates the image. Constant factors of the published
weights (equalised learning rates) are part of the kernels here.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.backend import convolution
from fr_jax.errors import named
from fr_jax.models.layers import Dense

Array = jax.Array

SIDE = 256  # pixels
# Columns of z, inputs of the decoders: (factor, first, last + 1).
CODES = (("id", 0, 128), ("exp", 128, 160), ("gamma", 160, 176), ("rot", 176, 179))
NUM_CODES = 179
# Columns of the coefficients, in another order: pose before lighting.
COEFFICIENTS = {
    "id": slice(0, 160),
    "exp": slice(160, 224),
    "rot": slice(224, 227),
    "gamma": slice(227, 254),
}
NUM_COEFFICIENTS, NUM_NOISE = 254, 32
HIDDEN = {"id": 512, "exp": 256, "gamma": 128, "rot": 32}
LAYERS = 14
MAPPING_LAYERS = 8
TRUNCATED_LAYERS = 8  # up to 32x32 pixels
_STAGES = 7  # 4x4 to 256x256 pixels
_EPSILON = 1e-8


class DiscoFaceGAN(nn.Module):
    """Codes and noise -> images.

    Attributes:
      fmap_base, fmap_max: a map of S x S pixels has min(2 fmap_base / S, fmap_max)
        channels.
      dlatent_size: length of w.
      mapping_fmaps: features of the hidden layers of the mapping network.
      identities: number of stored identity coefficients, which replace the
        decoder of identities; 0: the decoder.
      upsampling: 'plain' (nearest neighbour, then a 3x3 convolution) or 'phases' (four
        2x2 convolutions of the small map, the same result with 4 instead of 9 products
        per pixel).
      dtype: of the convolutions; statistics, styles and the mapping are float32.
    """

    fmap_base: int = 8192
    fmap_max: int = 512
    dlatent_size: int = 512
    mapping_fmaps: int = 512
    identities: int = 0
    upsampling: str = "phases"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        named("upsampling", self.upsampling, _UPSAMPLING)
        decoded = [name for name, *_ in CODES if name != "id" or not self.identities]
        self.decoders = {name: Decoder(HIDDEN[name], _length(name)) for name in decoded}
        zeros = nn.initializers.zeros
        if self.identities:
            shape = self.identities, _length("id")
            self.identity_coefficients = self.param(
                "identity_coefficients", zeros, shape
            )
        self.mean_identity = self.param("mean_identity", zeros, (self.dlatent_size,))
        self.mapping = Mapping(self.mapping_fmaps, self.dlatent_size)
        self.synthesis = Synthesis(
            self.fmap_base, self.fmap_max, self.upsampling, self.dtype
        )

    def __call__(
        self, codes: Array, noise: Array, identity: Array | None = None
    ) -> Array:
        """Returns images float32 [B, 256, 256, 3], RGB, about -1 to 1.

        Args:
          codes: z [B, 179], standard normal.
          noise: [B, 32], standard normal.
          identity: as in `coefficients`.
        """
        return self.generate(self.coefficients(codes, identity), noise)

    def coefficients(self, codes: Array, identity: Array | None = None) -> Array:
        """Returns the coefficients [B, 254] of the 3D face model.

        Args:
          codes: z [B, 179].
          identity: int [B], rows of the stored identity coefficients; by default the
            first. Not used with a decoder of identities.
        """
        parts = {}
        for name, first, last in CODES:
            if name in self.decoders:
                parts[name] = self.decoders[name](codes[:, first:last])
            else:
                rows = jnp.zeros(len(codes), int) if identity is None else identity
                parts[name] = self.identity_coefficients[rows]
        return jnp.concatenate([parts[name] for name in COEFFICIENTS], axis=1)

    def generate(
        self, coefficients: Array, noise: Array, truncation: float = 0.7
    ) -> Array:
        """Returns images float32 [B, 256, 256, 3] of coefficients [B, 254]."""
        return self.synthesis(self.styles(coefficients, noise, truncation))

    def map(self, coefficients: Array, noise: Array) -> Array:
        """Returns w [B, D] of coefficients [B, 254] and noise [B, 32]."""
        return self.mapping(jnp.concatenate([coefficients, noise], axis=1))

    def styles(
        self, coefficients: Array, noise: Array, truncation: float = 0.7
    ) -> Array:
        """Returns the w of each layer [B, 14, D], truncated.

        As published, only the identity is truncated: the w of the identity alone is
        moved to the mean of all identities, and the same difference added to w.

        Args:
          truncation: 1 for none, 0 for the mean identity.
        """
        w = self.map(coefficients, noise)
        columns = COEFFICIENTS["id"]
        identity_only = (
            jnp.zeros_like(coefficients).at[:, columns].set(coefficients[:, columns])
        )
        of_identity = self.map(identity_only, jnp.zeros_like(noise))
        truncated = w + (1 - truncation) * (self.mean_identity[None] - of_identity)
        parts = [truncated] * TRUNCATED_LAYERS + [w] * (LAYERS - TRUNCATED_LAYERS)
        return jnp.stack(parts, axis=1)

    def example_inputs(self, rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns the shapes of the codes and of the noise."""
        lengths = NUM_CODES, NUM_NOISE
        return tuple(jax.ShapeDtypeStruct((rows, n), jnp.float32) for n in lengths)


class Decoder(nn.Module):
    """Codes [B, n] -> coefficients [B, features]; three hidden layers."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            for number in range(3):
                x = nn.relu(Dense(self.hidden, name=f"fc{number}")(x))
            return Dense(self.features, name="x_hat")(x)


class Mapping(nn.Module):
    """Coefficients and noise [B, 286] -> w [B, features]."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            for number in range(MAPPING_LAYERS):
                last = number == MAPPING_LAYERS - 1
                width = self.features if last else self.hidden
                x = nn.leaky_relu(Dense(width, name=f"dense{number}")(x), 0.2)
        return x


class Synthesis(nn.Module):
    """Styles [B, 14, D] -> images float32 [B, 256, 256, 3]."""

    fmap_base: int
    fmap_max: int
    upsampling: str
    dtype: Any

    @nn.compact
    def __call__(self, styles: Array) -> Array:
        exact = "highest" if self.dtype == jnp.float32 else "default"
        features = [self._features(stage) for stage in range(_STAGES)]
        const = self.param("const", nn.initializers.ones, (4, 4, features[0]))
        x = jnp.broadcast_to(const, (len(styles), *const.shape)).astype(self.dtype)
        with jax.default_matmul_precision(exact):
            for number in range(LAYERS):
                stage, second = divmod(number, 2)
                kind = "conv" if second else self.upsampling if stage else "none"
                layer = Layer(features[stage], kind, self.dtype, name=f"layer{number}")
                x = layer(x, styles[:, number])
            with jax.default_matmul_precision("highest"):
                return Dense(3, name="rgb")(x.astype(jnp.float32))

    def _features(self, stage: int) -> int:
        return min(self.fmap_base >> (stage + 1), self.fmap_max)


class Layer(nn.Module):
    """A convolution, then noise, bias, activation, normalisation and style.

    Attributes:
      kind: 'conv', 'none' (no convolution), or a form of upsampling.
    """

    features: int
    kind: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        """Returns maps [B, H', W', features].

        Args:
          x: maps [B, H, W, C].
          w: [B, D].
        """
        if self.kind != "none":
            shape = 3, 3, x.shape[-1], self.features
            scale = 1 / math.sqrt(9 * x.shape[-1])
            kernel = self.param("kernel", nn.initializers.normal(scale), shape)
            kernel = kernel.astype(self.dtype)
            if self.kind == "conv":
                x = convolution.convolve(x, kernel, stride=1, padding=1)
            else:
                x = blur(_UPSAMPLING[self.kind](x, kernel))
        noise = self.param("noise", nn.initializers.normal(1.0), x.shape[1:3])
        weight, bias = (
            self.param(name, nn.initializers.zeros, (self.features,))[None, None, None]
            for name in ("noise_weight", "bias")
        )
        x += (noise[None, :, :, None] * weight).astype(x.dtype)
        x = nn.leaky_relu(x + bias.astype(x.dtype), 0.2)
        with jax.default_matmul_precision("highest"):
            style = Dense(2 * self.features, name="style")(w)[:, None, None]
        scale, shift = jnp.split(style, 2, axis=-1)
        return (normalised(x) * (scale + 1) + shift).astype(x.dtype)


def normalised(x: Array) -> Array:
    """Returns maps [B, H, W, C] with mean 0 and variance 1 per image and channel."""
    x = x.astype(jnp.float32)
    x -= jnp.mean(x, axis=(1, 2), keepdims=True)
    power = jnp.mean(jnp.square(x), axis=(1, 2), keepdims=True)
    return x * jax.lax.rsqrt(power + _EPSILON)


def blur(x: Array) -> Array:
    """Returns maps filtered by [1, 2, 1] / 4 along both axes, with zeros outside."""
    for axis in (1, 2):
        sides = [(1, 1) if axis == number else (0, 0) for number in range(x.ndim)]
        padded, length = jnp.pad(x, sides), x.shape[axis]
        low, high = (
            jax.lax.slice_in_dim(padded, start, start + length, axis=axis)
            for start in (0, 2)
        )
        x = x / 2 + (low + high) / 4
    return x


def upsample_plain(x: Array, kernel: Array) -> Array:
    """Returns the 3x3 convolution of maps enlarged twice, [B, 2H, 2W, K]."""
    large = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return convolution.convolve(large, kernel, stride=1, padding=1)


def upsample_phases(x: Array, kernel: Array) -> Array:
    """Returns `upsample_plain`, of a 2x2 convolution of x for each parity.

    An even row of the result has kernel row 0 of the row before it in x, and rows 1 and
    2 of its own; an odd one has rows 0 and 1 of its own, and 2 of the next.
    """

    def taps(kernel, axis, odd):
        first, second, third = jnp.split(kernel, 3, axis=axis)
        pair = (first + second, third) if odd else (first, second + third)
        return jnp.concatenate(pair, axis=axis)

    def part(row, column):
        small = taps(taps(kernel, 0, row), 1, column)
        zeros = (1 - row, row), (1 - column, column)
        return convolution.convolve(x, small, stride=1, padding=zeros)

    rows = [jnp.stack([part(row, 0), part(row, 1)], axis=3) for row in (0, 1)]
    batch, height, width, features = x.shape[:3] + kernel.shape[3:]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, features)


_UPSAMPLING = {"plain": upsample_plain, "phases": upsample_phases}


def pixels(images: Array) -> Array:
    """Returns uint8 images of floats from -1 to 1; truncated, not rounded."""
    return jnp.clip((images + 1) * 127.5, 0, 255).astype(jnp.uint8)


def _length(factor: str) -> int:
    columns = COEFFICIENTS[factor]
    return columns.stop - columns.start
