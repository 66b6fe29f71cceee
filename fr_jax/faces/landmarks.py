"""The 68 and the 5 points, as places in the head's map: exact, because drawn from them.

iBUG's order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, lips 48-67, from the left
of the image to the right.
"""

import jax
import jax.numpy as jnp

from fr_jax.faces import shape
from fr_jax.faces.shape import Features

Array = jax.Array

_JAW = (
    # u, v, how much of the chin's movement the point follows; from the ear to the chin
    (1.22, 0.08, 0.0),
    (1.20, -0.12, 0.0),
    (1.14, -0.34, 0.1),
    (1.04, -0.55, 0.3),
    (0.88, -0.73, 0.6),
    (0.68, -0.86, 0.8),
    (0.46, -0.94, 1.0),
    (0.24, -0.99, 1.0),
    (0.0, -1.01, 1.0),
)


def places(f: Features) -> Array:
    """Returns map coordinates [68, 2] of one face."""
    moved = f.chin_v + 0.865
    jaw = [(u, v + share * moved) for u, v, share in _JAW]
    brow = [
        (
            f.brow_u + x * f.brow_width,
            f.brow_v
            + f.brow_arch * (1 - x * x)
            + f.brow_inner * (0.5 - 0.5 * x)
            + f.brow_outer * (0.5 + 0.5 * x)
            + f.brow_thick * (0.6 - 0.3 * x),
        )
        for x in (0.95, 0.5, 0.0, -0.5, -0.95)
    ]

    def eye(x: float, upper: bool):
        arch = 1 - x * x
        height = f.eye_up * arch**0.72 if upper else -f.eye_down * arch**0.85
        return (f.eye_u + x * f.eye_width, f.eye_v + f.eye_tilt * x + height)

    outer, inner = eye(1.0, True), eye(-1.0, True)
    eyes = [
        outer,
        eye(0.4, True),
        eye(-0.4, True),
        inner,
        eye(-0.4, False),
        eye(0.4, False),
    ]
    top = f.eye_v + 0.0
    bridge = [(0.0, top + k / 3 * (f.nose_v - top)) for k in range(4)]
    n = f.nose_width
    base = [
        (-0.85 * n, f.nose_base + 0.02),
        (-0.42 * n, f.nose_base),
        (0.0, f.nose_base - 0.01),
        (0.42 * n, f.nose_base),
        (0.85 * n, f.nose_base + 0.02),
    ]

    def lip(x: float, edge: int):
        """edge: 0 top, 1 above the gap, 2 below it, 3 bottom."""
        arch = max(1 - x * x, 0.0)
        line = f.mouth_v + f.mouth_curve * (x * x - 0.35)
        up = line + f.mouth_open_up * arch
        low = line - f.mouth_open_down * arch**0.5
        if edge == 0:
            up = up + f.upper_lip * arch**0.75 * 1.15
            if x == 0:
                up = up - f.upper_lip * f.cupid
        if edge == 3:
            low = low - f.lower_lip * arch**0.6
        return (x * f.mouth_width, up if edge < 2 else low)

    lips = [lip(x, 0) for x in (-1, -0.6, -0.22, 0, 0.22, 0.6, 1)]
    lips += [lip(x, 3) for x in (0.6, 0.25, 0, -0.25, -0.6)]
    lips += [lip(x, 1) for x in (-0.85, -0.3, 0, 0.3, 0.85)]
    lips += [lip(x, 2) for x in (0.3, 0, -0.3)]

    def mirror(points):
        return [(-u, v) for u, v in points]

    right_eye = [eyes[k] for k in (3, 2, 1, 0, 5, 4)]
    points = (
        mirror(jaw)
        + jaw[-2::-1]
        + mirror(brow)
        + brow[::-1]
        + bridge
        + base
        + mirror(eyes)
        + right_eye
        + lips
    )
    return jnp.array([[jnp.float32(u), jnp.float32(v)] for u, v in points])


def on_skin(skin: Array, uv: Array) -> Array:
    """Returns points [n, 3] in the head's frame of map coordinates [n, 2]."""
    u, v = uv[:, 0], uv[:, 1]
    x, y = shape.to_texel(u), shape.to_texel(v)
    radius = jax.scipy.ndimage.map_coordinates(skin, [y, x], order=1, mode="nearest")
    return radius[:, None] * jnp.stack(shape.unproject(u, v), axis=1)


def five(f: Features, skin: Array, sixty_eight: Array) -> Array:
    """Returns five points [5, 3] in the head's frame: eyes' centres, nose, mouth."""
    eyes = jnp.stack(
        [
            jnp.stack([-f.eye_u, f.eye_v]),
            jnp.stack([f.eye_u, f.eye_v]),
            jnp.stack([0.0 * f.eye_u, f.nose_v]),
        ]
    )
    first = on_skin(skin, eyes)
    return jnp.concatenate([first, sixty_eight[48:49], sixty_eight[54:55]])
