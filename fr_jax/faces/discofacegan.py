"""Faces of DiscoFaceGAN: sampling of codes, control in degrees, alignment, batches.

Angles have this project's signs: yaw is positive with the nose to the right in the
image, pitch positive up, roll positive clockwise.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from fr_jax.faces.renderer import camera
from fr_jax.models.discofacegan import CODES, COEFFICIENTS, NUM_CODES, NUM_NOISE, SIDE

Array = jax.Array

SEED = 42  # of the published sets
# Codes that differ between images of an identity, by the published number; columns of
# the 51 fresh codes of an image.
FACTORS = (("exp", "gamma", "rot"), ("exp",), ("gamma",), ("rot",))
VARIED = NUM_CODES - CODES[0][2]
# Mean positions of eyes, nose tip and corners of the mouth in decimetres, x right, y
# up, z to the camera, which is at distance 10 with this focal length in pixels.
_POINTS = np.array(
    [
        (-0.3115, 0.2904, 0.1338),
        (0.3098, 0.2897, 0.1318),
        (0.0033, -0.0462, 0.5524),
        (-0.2522, -0.3813, 0.2241),
        (0.2485, -0.3813, 0.2224),
    ],
    np.float32,
)
_FOCAL, _DISTANCE = 1015 * 1.22, 10.0
# Degrees of yaw, pitch and roll per radian about x, y and z: (axis, sign).
_AXES = {"yaw": (1, 1.0), "pitch": (0, -1.0), "roll": (2, -1.0)}


class Draw(NamedTuple):
    """Random numbers of the images of one identity.

    Attributes:
      codes: z float64 [K, 179].
      noise: float64 [K, 32], equal rows.
      identity: int32 [K], its number, the row of stored identity coefficients.
    """

    codes: np.ndarray
    noise: np.ndarray
    identity: np.ndarray


def draws(
    first: int, count: int, images: int, *, seed: int = SEED, factor: int = 0
) -> Iterator[Draw]:
    """Yields the draws of identities `first` to `first + count - 1`, as published.

    USynthFace's order of NumPy's legacy random numbers: for each identity codes
    [1, 179], noise [1, 32], and fresh codes [images, 51] of expression, lighting and
    pose. Draws of earlier identities are skipped, so parts of a set equal the whole.

    Args:
      factor: codes that differ between images: 0 all of these, 1 expression, 2
        lighting, 3 pose.
    """
    random = np.random.RandomState(seed)
    for number in range(first + count):
        shared = random.standard_normal((1, NUM_CODES))
        noise = random.standard_normal((1, NUM_NOISE))
        fresh = random.standard_normal((images, VARIED))
        if number >= first:
            codes, noise = (np.repeat(x, images, axis=0) for x in (shared, noise))
            identity = np.full(images, number, np.int32)
            yield Draw(vary(codes, fresh, factor), noise, identity)


def vary(codes: Any, fresh: Any, factor: int) -> Any:
    """Returns codes [B, 179] with those of a factor from `fresh` [B, 51]."""
    parts, start = [codes[:, : CODES[0][2]]], 0
    for name, first, last in CODES[1:]:
        size = last - first
        varied = name in FACTORS[factor]
        source = fresh[:, start : start + size] if varied else codes[:, first:last]
        parts.append(source)
        start += size
    join = np if isinstance(codes, np.ndarray) else jnp
    return join.concatenate(parts, axis=1)


def angles(coefficients: Any) -> dict[str, Any]:
    """Returns yaw, pitch and roll in degrees [B] of coefficients [B, 254]."""
    rotation = coefficients[:, COEFFICIENTS["rot"]] * (180 / np.pi)
    return {name: sign * rotation[:, axis] for name, (axis, sign) in _AXES.items()}


def with_pose(coefficients: np.ndarray, **degrees: Any) -> np.ndarray:
    """Returns coefficients [B, 254] with other angles.

    Args:
      degrees: of `yaw`, `pitch` and `roll`: numbers or [B]; others stay.
    """
    changed = np.array(coefficients)
    for name, values in degrees.items():
        axis, sign = _AXES[name]
        column = COEFFICIENTS["rot"].start + axis
        changed[:, column] = sign * np.radians(values)
    return changed


def interpolated(
    first: np.ndarray, last: np.ndarray, factor: str, fractions: Any
) -> np.ndarray:
    """Returns `first` with a factor moved towards that of `last`.

    Args:
      first, last: coefficients [B, 254].
      factor: 'exp' or 'gamma' (lighting); see `COEFFICIENTS`.
      fractions: [B], 0 for the first, 1 for the last.
    """
    columns = COEFFICIENTS[factor]
    changed = np.array(first)
    fractions = np.asarray(fractions)[:, None]
    changed[:, columns] += fractions * (last[:, columns] - first[:, columns])
    return changed


def landmarks(coefficients: Array) -> Array:
    """Returns predicted eyes, nose and mouth corners [B, 5, 2] in the 256 px image.

    They follow from the pose alone: positions of a mean face, since the camera of the
    training images is fixed.
    """
    rotation = _rotation(coefficients[:, COEFFICIENTS["rot"]])
    points = jnp.einsum("bij,pj->bpi", rotation, _POINTS, precision="highest")
    plane = _FOCAL * points[..., :2] / (_DISTANCE - points[..., 2:])
    x, y = SIDE / 2 + plane[..., 0], SIDE / 2 - plane[..., 1]
    return jnp.stack([x, y], axis=-1)


def _rotation(radians: Array) -> Array:
    """Returns matrices [B, 3, 3] about x, then y, then z, of angles [B, 3]."""
    (cx, cy, cz), (sx, sy, sz) = jnp.cos(radians).T, jnp.sin(radians).T
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)


def align(images: Array, points: Array, size: int = 112) -> tuple[Array, Array]:
    """Returns faces uint8 [B, S, S, 3] on ArcFace's template, and their points.

    Bilinear, black outside the image.

    Args:
      images: uint8 [B, H, W, 3].
      points: eyes, nose and mouth corners [B, 5, 2] in their pixels.
    """

    def one(image, points):
        frame = camera.aligned(points, size)
        y, x = jnp.indices((size, size)) * 1.0
        x, y = x - frame.x, y - frame.y
        power = frame.a**2 + frame.b**2
        source = [
            (frame.a * y - frame.b * x) / power,
            (frame.a * x + frame.b * y) / power,
        ]

        def sample(channel):
            return map_coordinates(channel, source, order=1, mode="constant")

        face = jax.vmap(sample, in_axes=2, out_axes=2)(image.astype(jnp.float32))
        return jnp.round(face).astype(jnp.uint8), camera.to_pixels(frame, points)

    return jax.vmap(one)(images, points)
