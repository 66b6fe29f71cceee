"""Random square crops of faces with 68 landmarks: image and points by one map.

A crop is a rotated, possibly mirrored square of an image. Points are (x, y) in pixels,
pixel centres at whole numbers, in iBUG's order (Sagonas et al., 300 Faces In-The-Wild
Challenge, ICCV Workshops 2013).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def _reversed(first: int, last: int) -> range:
    return range(last, first - 1, -1)


# Point k of a mirrored face is the mirrored point MIRROR[k] of the face.
MIRROR = np.array(
    [
        *_reversed(0, 16),  # jaw
        *_reversed(17, 26),  # brows
        *range(27, 31),  # bridge of the nose
        *_reversed(31, 35),  # base of the nose
        *_reversed(42, 45),  # eyes: upper lid from corner to corner, lower lid
        *_reversed(46, 47),
        *_reversed(36, 39),
        *_reversed(40, 41),
        *_reversed(48, 54),  # outer and inner lips: upper, lower
        *_reversed(55, 59),
        *_reversed(60, 64),
        *_reversed(65, 67),
    ]
)


class Squares(NamedTuple):
    """Squares in B images, whose content fills the crops.

    Attributes:
      centre: [B, 2] (x, y) in pixels of the image.
      side: [B] in pixels.
      angle: [B] in radians: the crop's right is this direction of the image.
      mirrored: bool [B], whether the crop is mirrored left to right.
    """

    centre: Array
    side: Array
    angle: Array
    mirrored: Array


def boxed_squares(boxes: Array, margin: float = 1.3) -> Squares:
    """Returns upright squares of `margin` times the longer side of boxes [B, 4].

    Args:
      boxes: x, y, width, height of each; edges in pixels, pixel 0 from -0.5 to 0.5.
    """
    low, extent = boxes[:, :2], boxes[:, 2:]
    side = margin * jnp.max(extent, axis=1)
    return Squares(low + extent / 2, side, 0 * side, side < 0)


def random_squares(
    keys: Array,
    points: Array,
    *,
    margin: float = 1.3,
    raised: float = 0.35,
    scale: float = 0.15,
    shift: float = 0.08,
    degrees: float = 15.0,
    mirrored: float = 0.5,
) -> Squares:
    """Returns squares around faces as differently placed face boxes give them.

    Args:
      keys: one per image.
      points: landmarks [B, 68, 2].
      margin: side of the square as a multiple of the longer side of the box.
      raised: the box of the points is extended upwards by a share of its height that is
        uniform in [0, raised]: detectors include a part of the forehead.
      scale: the side is multiplied by exp of a normal number with this deviation.
      shift: deviation of the centre's two coordinates, as a share of the side.
      degrees: deviation of the angle.
      mirrored: share of mirrored crops.
    """

    def one(key, face):
        key_raised, key_normal, key_mirror = jax.random.split(key, 3)
        low, high = jnp.min(face, axis=0), jnp.max(face, axis=0)
        up = raised * jax.random.uniform(key_raised) * (high - low)[1]
        low = low - jnp.array([0.0, 1.0]) * up
        # Beyond two deviations, parts of the face are outside of the crop.
        normal = jnp.clip(jax.random.normal(key_normal, (4,)), -2, 2)
        side = margin * jnp.max(high - low) * jnp.exp(scale * normal[0])
        return Squares(
            (low + high) / 2 + shift * side * normal[1:3],
            side,
            jnp.radians(degrees) * normal[3],
            jax.random.bernoulli(key_mirror, mirrored),
        )

    return jax.vmap(one)(keys, points)


def crop(images: Array, squares: Squares, size: int) -> Array:
    """Returns the squares of images as float32 [B, size, size, C], in 0..255.

    Bilinear, without antialiasing: a square should not have many more pixels than
    `size`. Outside of an image its edge is repeated.

    Args:
      images: [B, H, W, C].
    """
    height, width = images.shape[1:3]

    def one(image, square):
        unit = (jnp.arange(size) + 0.5) / size - 0.5
        across = jnp.where(square.mirrored, -unit, unit) * square.side
        down = unit * square.side
        cosine, sine = jnp.cos(square.angle), jnp.sin(square.angle)
        x = square.centre[0] + cosine * across[None] - sine * down[:, None]
        y = square.centre[1] + sine * across[None] + cosine * down[:, None]
        x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)  # [size, size]
        left, top = jnp.floor(x), jnp.floor(y)
        pixels = image.reshape(height * width, -1)

        def at(row, column):
            row, column = jnp.minimum(row, height - 1), jnp.minimum(column, width - 1)
            index = (row * width + column).astype(jnp.int32)
            return pixels[index].astype(jnp.float32)

        right, bottom = (x - left)[..., None], (y - top)[..., None]
        upper = at(top, left) * (1 - right) + at(top, left + 1) * right
        lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
        return upper * (1 - bottom) + lower * bottom

    return jax.vmap(one)(images, squares)


def into_crops(points: Array, squares: Squares, size: int) -> Array:
    """Returns landmarks [B, 68, 2] of images in pixels of crops of `size` pixels.

    The points of mirrored crops are renumbered by `MIRROR`.
    """

    def one(face, square):
        cosine, sine = jnp.cos(square.angle), jnp.sin(square.angle)
        x, y = ((face - square.centre[None]) / square.side).T
        x, y = cosine * x + sine * y, cosine * y - sine * x
        x = jnp.where(square.mirrored, -x, x)
        inside = (jnp.stack([x, y], axis=1) + 0.5) * size - 0.5
        return jnp.where(square.mirrored, inside[MIRROR], inside)

    return jax.vmap(one)(points, squares)
