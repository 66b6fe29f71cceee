"""The pinhole camera: poses, rays and projections.

The image plane passes through the centre of the head and is measured in decimetres, x
right and y down; the camera is in front of it. A frame is a similarity transform from
this plane to pixels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Vector = tuple[Array, Array, Array]

# Eyes, nose and mouth corners in ArcFace's template of 112 pixels.
_TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ],
    np.float32,
)
SCALE = 55.0  # pixels per decimetre in an aligned image of 112 pixels
_LOOSE = 0.31  # a decimetre as a share of a loose frame's side


class Frame(NamedTuple):
    """pixel = [[a, -b], [b, a]] point + (x, y)."""

    a: Array
    b: Array
    x: Array
    y: Array


def template(size: int) -> np.ndarray:
    """Returns the five points [5, 2] of an aligned image of `size` pixels.

    As insightface crops: multiples of 128 have a margin of 8 in 128 on the left and
    right; 112 and all other sizes are the template of 112 pixels, scaled.
    """
    if size % 112 and size % 128 == 0:
        return _TEMPLATE * (size / 128) + np.array([[8 * size / 128, 0]], np.float32)
    return _TEMPLATE * (size / 112)


def aligned(points: Array, size: int) -> Frame:
    """Returns the frame that maps five points [5, 2] to the template, least squares.

    Umeyama, Least-squares estimation of transformation parameters, PAMI 1991, without
    reflection.
    """
    target = template(size)
    mean_p, mean_t = points.mean(axis=0), target.mean(axis=0)
    p, t = points - mean_p[None], target - mean_t[None]
    square = jnp.sum(p * p) + 1e-9
    a = jnp.sum(p * t) / square
    b = jnp.sum(p[:, 0] * t[:, 1] - p[:, 1] * t[:, 0]) / square
    x = mean_t[0] - (a * mean_p[0] - b * mean_p[1])
    y = mean_t[1] - (b * mean_p[0] + a * mean_p[1])
    return Frame(a, b, x, y)


def loose(shift: Array, size: int) -> Frame:
    """Returns the frame of head and shoulders, moved by `shift` [2] sides."""
    x, y = (0.5 + jnp.array([0.0, -0.03]) + shift) * size - 0.5
    return Frame(jnp.float32(_LOOSE * size), jnp.zeros_like(x), x, y)


def to_pixels(frame: Frame, points: Array) -> Array:
    """Returns the pixels [n, 2] of points [n, 2] of the image plane."""
    x, y = points[:, 0], points[:, 1]
    right = frame.a * x - frame.b * y + frame.x
    down = frame.b * x + frame.a * y + frame.y
    return jnp.stack([right, down], axis=1)


def grid(frame: Frame, size: int, samples: int) -> tuple[Array, Array, Array]:
    """Returns the samples' x and y [size * samples] squared, and a sample's width."""
    line = (np.arange(size * samples, dtype=np.float32) + 0.5) / samples - 0.5
    px, py = line[None, :] - frame.x, line[:, None] - frame.y
    square = frame.a**2 + frame.b**2
    x = (frame.a * px + frame.b * py) * (1 / square)
    y = (frame.a * py - frame.b * px) * (1 / square)
    return x, y, jax.lax.rsqrt(square) / samples


def project(points: Array, distance: Array) -> Array:
    """Returns the projections [n, 2] of points [n, 3] (y up) to the image plane."""
    scale = distance / (distance - points[:, 2])
    return jnp.stack([points[:, 0] * scale, -points[:, 1] * scale], axis=1)


def rays(x: Array, y: Array, distance: Array) -> Vector:
    """Returns the unit directions, y up, from the camera to points of the plane."""
    length = jax.lax.rsqrt(x * x + y * y + distance * distance)
    return x * length, -y * length, -distance * length


def rotation(pose: Array) -> Array:
    """Returns the matrix [3, 3] head -> camera of (yaw, pitch, roll) in degrees."""
    (cy, cp, cr), (sy, sp, sr) = jnp.cos(jnp.deg2rad(pose)), jnp.sin(jnp.deg2rad(pose))
    return jnp.array(
        [
            [cr * cy - sr * sp * sy, sr * cp, cr * sy + sr * sp * cy],
            [-sr * cy - cr * sp * sy, cr * cp, -sr * sy + cr * sp * cy],
            [-cp * sy, -sp, cp * cy],
        ]
    )


def rotate(matrix: Array, vector: Vector | Array) -> Vector:
    """Returns the product of a matrix [3, 3] and a vector of three maps."""
    return tuple(sum(row[k] * vector[k] for k in range(3)) for row in matrix)  # type: ignore
