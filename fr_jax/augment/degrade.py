"""Degradation on the device: grey, blurred, compressed, noisy and covered images.

Pure functions of one key per example. Images are float32 RGB [B, S, S, 3] with pixels
in 0..255.
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

_LUMA = (0.299, 0.587, 0.114)
# RGB -> YCbCr of JFIF (ITU-T T.871), without the offset of 128.
_YCBCR = np.array(
    [_LUMA, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)], np.float32
)
# Quantisation of luminance at quality 50: ITU-T T.81, table K.1.
_QUANTISATION = np.array(
    [
        (16, 11, 10, 16, 24, 40, 51, 61),
        (12, 12, 14, 19, 26, 58, 60, 55),
        (14, 13, 16, 24, 40, 57, 69, 56),
        (14, 17, 22, 29, 51, 87, 80, 62),
        (18, 22, 37, 56, 68, 109, 103, 77),
        (24, 35, 55, 64, 81, 104, 113, 92),
        (49, 64, 78, 87, 103, 121, 120, 101),
        (72, 92, 95, 98, 112, 100, 103, 99),
    ],
    np.float32,
)


def _cosines() -> np.ndarray:
    """Returns the orthonormal discrete cosine transform [frequency, pixel] of 8."""
    frequency, pixel = np.arange(8)[:, None], np.arange(8)[None]
    waves = np.cos(np.pi * (2 * pixel + 1) * frequency / 16) / 2
    return (waves / np.where(frequency == 0, np.sqrt(2), 1)).astype(np.float32)


_COSINES = _cosines()


def _some(keys: Array, probability: float, images: Array, changed: Array) -> Array:
    """Returns changed images with the given probability, else the images."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    chosen = jax.vmap(jax.random.bernoulli, (0, None))(keys, probability)
    return jnp.where(chosen[:, None, None, None], jnp.clip(changed, 0, 255), images)


def _uniform(keys: Array, limits: tuple[float, float], number: int) -> Array:
    """Returns one number [B] in `limits` per key."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2 + number)
    low, high = limits
    return jax.vmap(lambda key: jax.random.uniform(key, (), None, low, high))(keys)


def grey(keys: Array, images: Array, *, probability: float = 0.2) -> Array:
    """Returns images without colour, with the given probability."""
    luma = jnp.sum(images * jnp.array(_LUMA).reshape(1, 1, 1, 3), 3, keepdims=True)
    return _some(keys, probability, images, jnp.broadcast_to(luma, images.shape))


def blur(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.3,
    sigma: tuple[float, float] = (0.3, 2.0),
) -> Array:
    """Returns images blurred by a Gaussian filter; edges are not darkened.

    Args:
      sigma: range of its standard deviation in pixels of an image of 112 pixels.
    """
    size = images.shape[1]
    deviation = _uniform(keys, sigma, 0) * (size / 112)
    pixels = jnp.arange(size, dtype=jnp.float32)
    squares = jnp.square(pixels[:, None] - pixels[None])[None]
    weights = jnp.exp(-squares / (2 * jnp.square(deviation)[:, None, None]))
    weights = weights / jnp.sum(weights, axis=2, keepdims=True)  # [B, S, S]
    blurred = jnp.einsum("bij,bjwc->biwc", weights, images)
    blurred = jnp.einsum("bij,bhjc->bhic", weights, blurred)
    return _some(keys, probability, images, blurred)


def jpeg(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.3,
    quality: tuple[float, float] = (15.0, 80.0),
) -> Array:
    """Returns images after the quantisation of JPEG (ITU-T T.81, baseline).

    Deviations from encoders: colour is neither subsampled nor quantised by a table of
    its own, and a side that 8 does not divide is padded with its edge.

    Args:
      quality: range of libjpeg's quality, 1 to 100.
    """
    level = _uniform(keys, quality, 0)
    scale = jnp.where(level < 50, 50 / level, 2 - level / 50)[:, None, None]
    table = jnp.floor(scale * _QUANTISATION[None] + 0.5)  # [B, 8, 8]
    table = jnp.clip(table, 1, 255)
    table = table[:, None, None, None]
    size = images.shape[1]
    padding = -size % 8
    padded = jnp.pad(images, ((0, 0), (0, padding), (0, padding), (0, 0)), mode="edge")
    colours = padded @ _YCBCR.T - jnp.array([128.0, 0, 0]).reshape(1, 1, 1, 3)
    blocks = einops.rearrange(colours, "b (h i) (w j) c -> b h w c i j", i=8, j=8)
    frequencies = jnp.einsum("ui,bhwcij,vj->bhwcuv", _COSINES, blocks, _COSINES)
    frequencies = jnp.round(frequencies / table) * table
    blocks = jnp.einsum("ui,bhwcuv,vj->bhwcij", _COSINES, frequencies, _COSINES)
    colours = einops.rearrange(blocks, "b h w c i j -> b (h i) (w j) c")
    colours = colours + jnp.array([128.0, 0, 0]).reshape(1, 1, 1, 3)
    decoded = colours @ np.linalg.inv(_YCBCR).T
    return _some(keys, probability, images, decoded[:, :size, :size])


def noise(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.3,
    deviation: tuple[float, float] = (1.0, 12.0),
) -> Array:
    """Returns images with normal noise, independent for each pixel and channel.

    Args:
      deviation: range of its standard deviation.
    """
    shape = images.shape[1:]
    pixels = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    strength = _uniform(keys, deviation, 0)[:, None, None, None]
    return _some(keys, probability, images, images + strength * pixels)


def cover(
    keys: Array,
    images: Array,
    *,
    probability: float = 0.3,
    side: tuple[float, float] = (0.1, 0.4),
) -> Array:
    """Returns images with a rectangle of one random colour: an occlusion.

    Zhong et al., Random Erasing Data Augmentation (AAAI 2020, arXiv 1708.04896), with
    a constant colour.

    Args:
      side: range of the rectangle's sides, as a share of the image's.
    """
    height, width = images.shape[1:3]
    pixels = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
    inside = []
    for axis, (line, length) in enumerate(zip(pixels, (height, width))):
        extent = _uniform(keys, side, 2 * axis)[:, None] * length
        start = _uniform(keys, (0.0, 1.0), 2 * axis + 1)[:, None] * (length - extent)
        inside.append((line[None] >= start) & (line[None] < start + extent))
    covered = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    colour = jnp.stack([_uniform(keys, (0.0, 255.0), 4 + n) for n in range(3)], 1)
    shown = jnp.where(covered, colour[:, None, None], images)
    return _some(keys, probability, images, shown)
