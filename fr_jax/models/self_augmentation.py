"""The networks of self-augmentation: identity encoder, conditional VAE-GAN.

Lee et al.: Learning Face Recognition Unsupervisedly by Disentanglement and
Self-Augmentation (ICRA 2020). The paper names the networks; their layers are not
published: these are those of DCGAN (Radford et al., ICLR 2016) and CVAE-GAN (Bao et
al., ICCV 2017), with FiLM (Perez et al., AAAI 2018) in the generator.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.errors import UserError
from fr_jax.losses.margin import unit
from fr_jax.models import layers

Array = jax.Array

_INIT = nn.initializers.normal(0.02)
_FIRST, _LAST = 64, 512  # channels of the largest and of the smallest maps
_SIDE = 4  # of the smallest maps, in pixels
_LOG_VARIANCE = 10.0  # limit of its absolute value
_HIDDEN = 256  # of the discriminator's head of identities


def condition(codes: Array) -> Array:
    """Returns sqrt(d) c / |c| [B, d] of identity codes [B, d].

    Features of SymTriplet have any length; so scaled, their values are of the order 1.

    >>> print(condition(jnp.array([[3.0, 4.0]])))
    [[0.8485 1.1314]]
    """
    return math.sqrt(codes.shape[1]) * unit(codes)


def channels(image_size: int, width: float) -> list[int]:
    """Returns the channels of the maps from image_size / 2 down to 4 pixels.

    Raises:
      UserError: for a size that is not 4 times a power of 2.
    """
    stages = round(math.log2(max(image_size, 1) / _SIDE))
    if stages < 1 or image_size != _SIDE * 2**stages:
        raise UserError(f"images of {image_size} pixels: use 32, 64, 128 or 256")
    return [
        max(1, round(width * min(_FIRST * 2**stage, _LAST))) for stage in range(stages)
    ]


class AppearanceEncoder(nn.Module):
    """E^CVAE: (images [B, S, S, 3] in [-1, 1], conditions [B, d]) -> two [B, z].

    Mean and logarithm of the variance of the appearance code.

    Attributes:
      bn_groups: see `layers.BatchNorm`; no instance normalisation, which would remove
        the light and contrast that the code must hold.
    """

    image_size: int
    appearance_size: int
    width: float
    bn_groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: Array, identity: Array, train: bool):
        size = (*images.shape[:3], identity.shape[1])
        tiled = jnp.broadcast_to(identity[:, None, None], size)
        x = jnp.concatenate([images, tiled], axis=-1)
        for stage, features in enumerate(channels(self.image_size, self.width)):
            first = stage == 0
            x = _halving(features, first, self.dtype, name=f"conv{stage}")(x)
            if not first:
                norm = layers.BatchNorm(groups=self.bn_groups, name=f"norm{stage}")
                x = norm(x, train)
            x = nn.leaky_relu(x, 0.2)
        code = _dense(2 * self.appearance_size, name="code")(layers.flat(x))
        mean, log_variance = jnp.split(code, 2, axis=1)
        return mean, jnp.clip(log_variance, -_LOG_VARIANCE, _LOG_VARIANCE)


class Generator(nn.Module):
    """G: (conditions [B, d], appearance codes [B, z]) -> images [B, S, S, 3], -1 to 1.

    Scale and shift of all maps depend on both codes.
    """

    image_size: int
    width: float
    bn_groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, identity: Array, appearance: Array, train: bool) -> Array:
        codes = jnp.concatenate([identity, appearance], axis=1)
        plan = channels(self.image_size, self.width)[::-1]
        x = _dense(_SIDE * _SIDE * plan[0], name="base")(codes)
        x = x.reshape(-1, _SIDE, _SIDE, plan[0]).astype(self.dtype)
        for stage, features in enumerate(plan):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            conv = layers.Conv(
                features, 3, init=_INIT, dtype=self.dtype, name=f"conv{stage}"
            )
            norm = layers.BatchNorm(
                groups=self.bn_groups, use_affine=False, name=f"norm{stage}"
            )
            x = norm(conv(x), train)
            film = _dense(2 * features, name=f"film{stage}")(codes)[:, None, None]
            scale, shift = jnp.split(film.astype(x.dtype), 2, axis=-1)
            x = nn.relu((1 + scale) * x + shift)
        last = layers.Conv(
            3,
            3,
            init=_INIT,
            use_bias=True,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="image",
        )
        return jnp.tanh(last(x).astype(jnp.float32))


class AugmentationNetwork(nn.Module):
    """Appearance encoder and generator, a conditional variational autoencoder.

    Attributes:
      image_size: 64 or 128 pixels.
      identity_size: d, of the identity codes.
      appearance_size: z, of the appearance codes.
      width: factor on all channels.
    """

    image_size: int = 128
    identity_size: int = 64
    appearance_size: int = 64
    width: float = 1.0
    bn_groups: int = 1
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        shared = {"bn_groups": self.bn_groups, "dtype": self.dtype}
        sizes = {"image_size": self.image_size, "width": self.width}
        self.encoder = AppearanceEncoder(
            appearance_size=self.appearance_size, **sizes, **shared
        )
        self.generator = Generator(**sizes, **shared)

    def encode(
        self, images: Array, identity: Array, train: bool = False
    ) -> tuple[Array, Array]:
        """Returns mean and log-variance [B, z] of the appearance of images."""
        return self.encoder(images, identity, train)

    def decode(self, identity: Array, appearance: Array, train: bool = False) -> Array:
        """Returns images [B, S, S, 3] in [-1, 1] of an identity and an appearance."""
        return self.generator(identity, appearance, train)

    def __call__(self, images: Array, identity: Array, train: bool = False) -> Array:
        """Returns the reconstruction of images from the means of their codes."""
        mean, _ = self.encode(images, identity, train)
        return self.decode(identity, mean, train)

    def example_inputs(self, rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        side = self.image_size
        shapes = (rows, side, side, 3), (rows, self.identity_size)
        return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)


class AugmentationDiscriminator(nn.Module):
    """D: images [B, S, S, 3] -> {'real': logits [B], 'identity': codes [B, d]}.

    For spectral normalisation: no BatchNorm.
    """

    image_size: int = 128
    identity_size: int = 64
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> dict[str, Array]:
        x = images
        for stage, features in enumerate(channels(self.image_size, self.width)):
            conv = _halving(features, True, self.dtype, name=f"conv{stage}")
            x = nn.leaky_relu(conv(x), 0.2)
        features = layers.flat(x)
        hidden = _dense(max(1, round(_HIDDEN * self.width)), name="hidden")(features)
        codes = _dense(self.identity_size, name="identity")(nn.leaky_relu(hidden, 0.2))
        return {"real": _dense(1, name="real")(features)[:, 0], "identity": codes}


class IdentityEncoder(nn.Module):
    """E^id: any network of faces, and a new layer.

    Attributes:
      trunk, trunk_options: arguments of `models.create`.
      embedding_size: outputs of the new layer, N(0, 0.001) at first, as `fc8` of Zhang
        et al. (ECCV 2016); None: no such layer.
      unit_length: embeddings are divided by their lengths.
    """

    trunk: str = "mobilefacenet_v2"
    trunk_options: Mapping[str, Any] | None = None
    embedding_size: int | None = 64
    unit_length: bool = False

    def setup(self):
        from fr_jax import models

        self.network = models.create(self.trunk, **(self.trunk_options or {}))
        if self.embedding_size is not None:
            init = nn.initializers.normal(1e-3)
            self.fc = layers.Dense(
                self.embedding_size, init=init, bias_init=nn.initializers.zeros
            )

    def __call__(self, images: Array, train: bool = False) -> Array:
        embeddings = self.network(images, train)
        if self.embedding_size is not None:
            embeddings = self.fc(embeddings)
        return unit(embeddings) if self.unit_length else embeddings


_dense = functools.partial(layers.Dense, init=_INIT, bias_init=nn.initializers.zeros)


def _halving(features: int, use_bias: bool, dtype: Any, name: str) -> layers.Conv:
    return layers.Conv(
        features,
        4,
        stride=2,
        init=_INIT,
        padding=1,
        use_bias=use_bias,
        bias_init=nn.initializers.zeros,
        dtype=dtype,
        name=name,
    )
