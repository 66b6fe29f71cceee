"""Images of 68 landmarks, FRA's input for the target pose.

Hashemifar et al., Face Representation Augmentation, ESWA 2023: one dot per point, their
bounding box enlarged to the whole image.
"""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array

SIZE = 112


@functools.partial(jax.jit, static_argnames="size")
def landmark_maps(landmarks: Array, size: int) -> Array:
    """Returns images uint8 [n, 112, 112, 1] of 0 and 1.

    As in the authors' code: points of the photograph scaled to 112 x 112, one pixel
    each; their bounding box, without its last row and column, enlarged bilinearly and
    thresholded at one half. Deviation: the authors' points are shifted by ten pixels,
    which cuts chins off; here they are not.

    Args:
      landmarks: [n, 68, 2] (x, y) in pixels of a loose frame, whose faces are about as
        large as KDEF's.
      size: side of the frame.
    """
    return jax.vmap(lambda points: _one(points * (SIZE / size)))(landmarks)


def _one(points: Array) -> Array:
    x, y = jnp.clip(points, 0, SIZE - 1).astype(jnp.int32).T  # [68] each
    dots = jnp.zeros((SIZE, SIZE)).at[y, x].set(1.0)
    across, down = (_enlarge(axis.min(), axis.max()) for axis in (x, y))
    enlarged = down @ dots @ across.T
    return (enlarged > 0.5).astype(jnp.uint8)[..., None]


def _enlarge(first: Array, last: Array) -> Array:
    """Returns the matrix [112, 112] that enlarges pixels first .. last - 1 to 112."""
    length = jnp.maximum(last - first, 1)
    pixel = jnp.arange(SIZE)
    source = (pixel + 0.5) * length / SIZE - 0.5
    source = first + jnp.clip(source, 0, length - 1)
    return jnp.maximum(1 - jnp.abs(source[:, None] - pixel[None, :]), 0)
