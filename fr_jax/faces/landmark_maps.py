"""Pictures of 68 landmarks: what FRA is shown of a wanted pose.

Hashemifar et al., Face Representation Augmentation, ESWA 2023: a dot for each point,
the box around them enlarged to the whole picture.
"""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array

SIZE = 112


@functools.partial(jax.jit, static_argnames="size")
def landmark_maps(landmarks: Array, size: int) -> Array:
    """Returns pictures uint8 [n, 112, 112, 1] of 0 and 1.

    As the authors' code has it: points of the photograph scaled to 112 x 112, one pixel
    each, the box cut tightly (its last row and column excluded), enlarged bilinearly
    and thresholded at one half. They place the points ten pixels off, an oversight that
    clips chins; here they are where they belong.

    Args:
      landmarks: [n, 68, 2] (x, y) in pixels of a loose frame, in which a face is about
        as large as in KDEF's photographs.
      size: side of the frame.
    """
    return jax.vmap(lambda points: _one(points * (SIZE / size)))(landmarks)


def _one(points: Array) -> Array:
    place = jnp.clip(points, 0, SIZE - 1).astype(jnp.int32)  # [68, 2]
    dots = jnp.zeros((SIZE, SIZE)).at[place[:, 1], place[:, 0]].set(1.0)
    across, down = (
        _enlarge(place[:, axis].min(), place[:, axis].max()) for axis in (0, 1)
    )
    enlarged = down @ dots @ across.T
    return (enlarged > 0.5).astype(jnp.uint8)[..., None]


def _enlarge(first: Array, last: Array) -> Array:
    """Returns the matrix [112, 112] that enlarges pixels first .. last - 1 to all."""
    length = jnp.maximum(last - first, 1)
    pixel = jnp.arange(SIZE)
    source = (pixel + 0.5) * length / SIZE - 0.5
    source = first + jnp.clip(source, 0, length - 1)
    return jnp.maximum(1 - jnp.abs(source[:, None] - pixel[None, :]), 0)
