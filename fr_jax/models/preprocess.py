"""What a network wants to see, and the one way pixels are brought to it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

_CHANNELS = {"RGB": 3, "BGR": 3, "GREY": 1}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, by which OpenCV and Pillow make grey


class InputSpec(NamedTuple):
    """The input of a network, from aligned uint8 RGB faces.

    Attributes:
      size: side of the square that faces are brought to, in pixels.
      colour: 'RGB', 'BGR' or 'GREY': the network's channels and their order.
      mean, scale: the network sees (pixel - mean) / scale, pixels in 0..255. Three
        numbers are those of red, green and blue, whatever the order.
      template: name of the alignment its authors use.
      flip_sum: its authors add the embedding of the mirrored face.
      crop: (height, width) of the middle of that square, which the network takes; None
        is all of it.
    """

    size: int = 112
    colour: str = "RGB"
    mean: float | tuple[float, ...] = 127.5
    scale: float | tuple[float, ...] = 127.5
    template: str = "arcface112"
    flip_sum: bool = False
    crop: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what the network takes."""
        height, width = self.crop or (self.size, self.size)
        return height, width, _CHANNELS[self.colour]

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "InputSpec":
        """Returns the spec stored as `_asdict()`; ValueError for anything else."""
        as_stored: dict[str, Any] = {  # JSON knows no tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        try:
            spec = cls(**as_stored)
            height, width, channels = spec.shape
            mean, scale = (np.asarray(x, float) for x in (spec.mean, spec.scale))
            fits = min(height, width) > 0 and max(height, width) <= spec.size
            known = {mean.size, scale.size} <= {1, channels} and scale.all()
        except (KeyError, TypeError, ValueError):
            fits = known = False
        if not (fits and known):
            raise ValueError(f"not an input specification: {fields}")
        return spec


def resize(images: Array, size: int) -> Array:
    """Returns images [B, size, size, C], float32 in the units they came in.

    Bilinear and antialiased; exact when the size does not change. Training and
    embedding both go through here, so a network meets the same pixels in both.
    """
    images = images.astype(jnp.float32)
    if images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images, shape, "linear", antialias=True)


def crop_middle(images: Array, height: int, width: int) -> Array:
    """Returns the middle [B, height, width, C] of images [B, H, W, C]."""
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


def normalise(images: Array, spec: InputSpec) -> Array:
    """Returns RGB images with pixels in 0..255 as the network wants them, float32."""

    def per_channel(value):
        return jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1)

    if spec.colour == "GREY":
        images = jnp.sum(images * per_channel(_LUMA), axis=3, keepdims=True)
    images = (images - per_channel(spec.mean)) / per_channel(spec.scale)
    return images[..., ::-1] if spec.colour == "BGR" else images


def prepare(images: Array, spec: InputSpec) -> Array:
    """Returns network input [B, *spec.shape] from uint8 RGB [B, H, W, 3]."""
    height, width, _ = spec.shape
    return normalise(crop_middle(resize(images, spec.size), height, width), spec)
