"""What a network wants to see, and the one way pixels are brought to it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class InputSpec(NamedTuple):
    """The input of a network, from aligned uint8 RGB faces.

    Attributes:
      size: side of the square the network takes, in pixels.
      colour: 'RGB' or 'BGR', the order of the network's three channels.
      mean, scale: the network sees (pixel - mean) / scale, pixels in 0..255.
      template: name of the alignment its authors use.
      flip_sum: its authors add the embedding of the mirrored face.
    """

    size: int = 112
    colour: str = "RGB"
    mean: float = 127.5
    scale: float = 127.5
    template: str = "arcface112"
    flip_sum: bool = False

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "InputSpec":
        """Returns the spec stored as `_asdict()`; ValueError for anything else."""
        spec = cls(**fields)
        if spec.colour not in ("RGB", "BGR") or spec.size < 1 or not spec.scale:
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


def normalise(images: Array, spec: InputSpec) -> Array:
    """Returns RGB images with pixels in 0..255 as the network wants them, float32."""
    if spec.colour == "BGR":
        images = images[..., ::-1]
    return (images - spec.mean) / spec.scale


def prepare(images: Array, spec: InputSpec) -> Array:
    """Returns network input [B, size, size, 3] from uint8 RGB [B, H, W, 3]."""
    return normalise(resize(images, spec.size), spec)
