"""Images of 68 landmarks, FRA's input for the target pose.

Hashemifar et al., Face Representation Augmentation, ESWA 2023: one dot per point, their
bounding box enlarged to the whole image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

SIZE = 112
_PADDING = 10  # of the authors' photographs
# An aligned face cuts chins off. In a frame of this scale, whose centre is this point
# of the aligned face of 112 pixels, all landmarks are inside.
_LOOSE_SCALE, _LOOSE_CENTRE = 0.63, (56.0, 76.0)
_UNIT = 2 * SIZE  # bilinear weights are integers over this number


@functools.partial(jax.jit, static_argnames="size")
def landmark_maps(landmarks: Array, size: int) -> Array:
    """Returns images uint8 [n, 112, 112, 1] of 0 and 1.

    As in the authors' code: points of the photograph scaled to 112 x 112, one pixel
    each; their bounding box, without its last row and column, enlarged bilinearly and
    thresholded at one half. Deviation: the authors' points are shifted by ten pixels,
    which cuts chins off; here they are not. See `faithful_landmarks`.

    Args:
      landmarks: [n, 68, 2] (x, y) in pixels of a loose frame, whose faces are about as
        large as KDEF's; for those of aligned faces see `loosened`.
      size: side of the frame.
    """
    return jax.vmap(_one)(landmarks * (SIZE / size))


@functools.partial(jax.jit, static_argnames="size")
def faithful_landmarks(landmarks: Array, size: int) -> Array:
    """Returns the images of `landmark_maps` as the authors' program draws them.

    It finds the points in the photograph with a margin of ten black pixels, and does
    not subtract these: all points are shifted, and those beyond the 112 pixels are
    moved to the last row or column.
    """
    return jax.vmap(_one)(landmarks * (SIZE / size) + _PADDING)


def loosened(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Returns landmarks [n, 68, 2] of aligned faces in pixels of a loose frame.

    Only the frame changes, to one with room for the chin and for the jaw of a profile;
    the images, which show the box of the points, differ by rounding.

    Args:
      size: side of the aligned faces and of the loose frame.
    """
    scale = size / SIZE
    centre = np.asarray(_LOOSE_CENTRE, np.float32) * scale
    return (landmarks - centre) * _LOOSE_SCALE + np.float32((SIZE - 1) / 2 * scale)


def _one(points: Array) -> Array:
    x, y = jnp.clip(points, 0, SIZE - 1).astype(jnp.int32).T  # [68] each
    dots = jnp.zeros((SIZE, SIZE)).at[y, x].set(1.0)
    across, down = (_enlarge(axis.min(), axis.max()) for axis in (x, y))
    # Integers below 2**24: the result is exact, and the same on every device.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    enlarged = product(product(down, dots), across.T)
    return (enlarged > 0.5 * _UNIT**2).astype(jnp.uint8)[..., None]


def _enlarge(first: Array, last: Array) -> Array:
    """Returns the matrix [112, 112] that enlarges pixels first .. last - 1 to 112.

    The bilinear weights are integers, `_UNIT` times the usual ones.
    """
    length = jnp.maximum(last - first, 1)
    pixel = jnp.arange(SIZE)
    source = (2 * pixel + 1) * length - SIZE  # times _UNIT
    source = _UNIT * first + jnp.clip(source, 0, _UNIT * (length - 1))
    weights = _UNIT - jnp.abs(source[:, None] - _UNIT * pixel[None, :])
    return jnp.maximum(weights, 0).astype(jnp.float32)
