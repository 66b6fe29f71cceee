"""Input specifications of networks, and the preprocessing of images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.errors import UserError

Array = jax.Array

_CHANNELS = {"RGB": 3, "BGR": 3, "GREY": 1}
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in OpenCV and Pillow


class InputSpec(NamedTuple):
    """The input of a network, computed from aligned uint8 RGB faces.

    Attributes:
      size: side of the square to which faces are resized, in pixels.
      colour: 'RGB', 'BGR' or 'GREY': channels of the network's input, in order.
      mean, scale: the input is (pixel - mean) / scale, pixels in [0, 255]. One value,
        or one each for red, green and blue, independent of `colour`.
      template: name of the alignment template.
      flip_sum: the authors add the embedding of the mirrored face.
      crop: (height, width) of the central part of the square; None: the whole square.
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
        """(height, width, channels) of the network's input."""
        height, width = self.crop or (self.size, self.size)
        return height, width, _CHANNELS[self.colour]

    def describe(self) -> str:
        """Returns size, colour order and scale as text."""
        height, width, _ = self.shape
        return f"{height}x{width} {self.colour}, (pixel - {self.mean}) / {self.scale}"

    def like(self, given: "InputSpec") -> "InputSpec":
        """Returns this size with the colour order and scale of trained weights.

        Raises:
          UserError: for weights that take grey images or a crop, naming both.
        """
        if given.colour == "GREY" or given.shape[0] != given.shape[1]:
            raise UserError(
                f"the given weights take images of {given.describe()}, and this system "
                f"trains with {self.describe()}; give other weights"
            )
        scaling = {"colour": given.colour, "mean": given.mean, "scale": given.scale}
        return self._replace(**scaling)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "InputSpec":
        """Returns the spec of a dict `_asdict()`; ValueError if it is invalid."""
        options: dict[str, Any] = {  # JSON has lists in place of tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        try:
            spec = cls(**options)
            height, width, channels = spec.shape
            mean, scale = (np.asarray(x, float) for x in (spec.mean, spec.scale))
            valid = min(height, width) > 0 and max(height, width) <= spec.size
            valid &= {mean.size, scale.size} <= {1, channels} and bool(scale.all())
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError(f"not an input specification: {fields}")
        return spec


def resize(images: Array, size: int) -> Array:
    """Returns images [B, size, size, C], float32 with the range of the input.

    Bilinear and antialiased; exact if the size does not change. Training and embedding
    both use this function, so that their pixels are equal.
    """
    images = images.astype(jnp.float32)
    if images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images, shape, "linear", antialias=True)


def crop_middle(images: Array, height: int, width: int) -> Array:
    """Returns the central [B, height, width, C] of images [B, H, W, C]."""
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


def normalise(images: Array, spec: InputSpec) -> Array:
    """Returns network input, float32, from RGB images with values in [0, 255]."""

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
