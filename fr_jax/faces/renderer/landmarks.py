"""The 68 and 5 landmarks as points on the surface of the head.

iBUG's order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, lips 48-67, from the left
of the image to the right.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.faces.renderer import camera, shape
from fr_jax.faces.renderer.shape import Features

Array = jax.Array

# From the ear to the chin: u and v for a chin at v = _CHIN, and the share by which the
# point follows the chin's displacement.
_CHIN = -0.800
_JAW = np.array(
    [
        (1.22, 0.08, 0.0),
        (1.20, -0.12, 0.0),
        (1.14, -0.33, 0.1),
        (1.04, -0.525, 0.3),
        (0.88, -0.70, 0.6),
        (0.68, -0.83, 0.8),
        (0.46, -0.905, 1.0),
        (0.24, -0.955, 1.0),
        (0.0, -0.975, 1.0),
    ],
    np.float32,
)
_MARCH = np.linspace(0, 1, 41, dtype=np.float32)  # shares of a jaw point's u
_SIDE = np.sign(np.arange(17, dtype=np.float32) - 8)  # of the jaw points in the image
# Positions along each part, -1 to 1; right eye and brow, 1 at the outer end.
_BROW = np.array([-0.95, -0.5, 0.0, 0.5, 0.95], np.float32)
_LID = np.array([-1, -0.4, 0.4, 1, 0.4, -0.4], np.float32)
_LID_UPPER = np.array([1, 1, 1, 1, 0, 0], bool)
_NOSE_BASE = np.array([-0.85, -0.42, 0.0, 0.42, 0.85], np.float32)
_LIPS = np.array(
    [-1, -0.6, -0.22, 0, 0.22, 0.6, 1, 0.6, 0.25, 0, -0.25, -0.6]
    + [-0.85, -0.3, 0, 0.3, 0.85, 0.3, 0, -0.3],
    np.float32,
)
_LIPS_UPPER = np.array([1] * 7 + [0] * 5 + [1] * 5 + [0] * 3, bool)
_LIPS_OUTER = np.array([1] * 12 + [0] * 8, np.float32)


def coordinates(f: Features) -> Array:
    """Returns the map coordinates [68, 2] of the landmarks of one face."""
    jaw = jnp.stack([_JAW[:, 0], _JAW[:, 1] + _JAW[:, 2] * (f.chin_v - _CHIN)], axis=1)
    brow_u = f.brow_u + _BROW * f.brow_width
    brow_v = f.brow_line(_BROW) + f.brow_thick * (0.6 - 0.3 * _BROW)
    brow = jnp.stack([brow_u, brow_v], axis=1)
    lids = f.lids(_LID)
    eye_u = f.eye_u + _LID * f.eye_width
    eye = jnp.stack([eye_u, jnp.where(_LID_UPPER, *lids)], axis=1)
    share = np.arange(4, dtype=np.float32) / 3
    bridge = jnp.stack([0 * share, f.eye_v + share * (f.nose_v - f.eye_v)], axis=1)
    base_u = _NOSE_BASE * f.nose_width
    base_v = f.nose_base - 0.01 + 0.04 * jnp.square(_NOSE_BASE)
    base = jnp.stack([base_u, base_v], axis=1)
    up, top, bottom, low = f.lips(_LIPS)
    upper = jnp.where(_LIPS_OUTER, up, top)
    lower = jnp.where(_LIPS_OUTER, low, bottom)
    lips_u, lips_v = _LIPS * f.mouth_width, jnp.where(_LIPS_UPPER, upper, lower)
    lips = jnp.stack([lips_u, lips_v], axis=1)
    mirror = np.array([[-1, 1]], np.float32)
    left_eye = eye[np.array([3, 2, 1, 0, 5, 4])] * mirror
    parts = [jaw * mirror, jaw[-2::-1], brow[::-1] * mirror, brow]
    return jnp.concatenate([*parts, bridge, base, left_eye, eye, lips])


def on_skin(skin: Array, uv: Array) -> Array:
    """Returns the skin's points [n, 3] in the head's frame at coordinates [n, 2]."""
    u, v = uv[:, 0], uv[:, 1]
    x, y = shape.to_texel(u), shape.to_texel(v)
    radius = jax.scipy.ndimage.map_coordinates(skin, [y, x], order=1, mode="nearest")
    return radius[:, None] * jnp.stack(shape.unproject(u, v), axis=1)


def visible_jaw(f: Features, skin: Array, rotation: Array, distance: Array) -> Array:
    """Returns the 17 points of the jaw [17, 3] in the head's frame, on its contour.

    Annotators of photographs mark the visible outline of a turned face. A point moves
    along its horizontal line, from the chin's side to its place, to where the line is
    furthest outward in the image, as in Zhu et al., High-Fidelity Pose and Expression
    Normalization (CVPR 2015), section 3.2 (landmark marching). On the near side, and of
    a frontal face, that is its place.

    Args:
      rotation, distance: of the camera.
    """
    places = coordinates(f)[:17]
    shares = jnp.stack([jnp.array(_MARCH), jnp.ones(len(_MARCH))], axis=1)
    lines = places[:, None] * shares[None]  # [17, steps, 2]
    points = on_skin(skin, lines.reshape(-1, 2))
    seen = camera.project(points @ rotation.T, distance).reshape(*lines.shape)
    # The image's direction to the right of an upright head: y of the image is down.
    right = jnp.stack([rotation[1, 1], rotation[0, 1]])
    outward = _SIDE[:, None] * jnp.sum(seen * right.reshape(1, 1, 2), axis=2)
    furthest = jnp.argmax(outward, axis=1)
    return points.reshape(*lines.shape[:2], 3)[np.arange(17), furthest]


def five(f: Features, skin: Array, sixty_eight: Array) -> Array:
    """Returns five points [5, 3] in the head's frame: eye centres, nose, mouth corners.

    The eye centres are halfway between the lids, near the mean of the six points.
    """
    middle = f.eye_v + 0.5 * (f.eye_up - f.eye_down)
    eyes = jnp.stack([jnp.stack([u, middle]) for u in (-f.eye_u, f.eye_u)])
    shared = sixty_eight[np.array([30, 48, 54])]
    return jnp.concatenate([on_skin(skin, eyes), shared])
