"""The head as a surface: radius from its centre as a function of direction.

Lambert's equal-area projection around the face's axis maps directions to (u, v): one
map holds the whole head, its only seam is at the back, and projecting a point takes one
square root. Hair is a second shell over the skin. Growth multiplies the radius
(cardioidal strain: Pittenger and Shaw, Aging faces as viscal-elastic events, JEP: HPP
1975), which changes neither directions nor the landmarks' map coordinates.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.faces.renderer.codes import Measures

Array = jax.Array

GRID = 112  # side of the map in texels


class Features:
    """Positions and sizes of the parts of a face in map coordinates; scalars."""

    def __init__(self, m: Measures):
        child, old, male = m["child"], m["old"], m["male"]
        self.eye_u = 0.346 + m["eye_spacing"]
        self.eye_v = 0.142 + m["eye_height"] - 0.05 * child
        self.eye_width = (0.160 + m["eye_width"]) * (1 + 0.15 * child)
        lids = (0.066 + m["eye_open"]) * (1 + 0.25 * child - 0.22 * old)
        lids = lids * jnp.clip(1 + 0.45 * m["eyes_wide"], 0.05, 1.6)
        self.eye_up = lids  # height of the upper lid over the centre
        self.eye_down = 0.65 * lids - 0.012 * jnp.maximum(m["cheeks_up"], 0.0)
        self.eye_tilt = m["eye_tilt"] - 0.015 * old
        self.iris = 0.071 * (1 + 0.15 * child)  # radius
        self.gaze_u = 0.05 * m["gaze_x"]
        self.gaze_v = 0.035 * m["gaze_y"]

        together = m["brows_together"]
        self.brow_u = 0.400 + m["eye_spacing"] + m["brow_gap"] - 0.035 * together
        brow_v = jnp.maximum(0.195 + m["brow_height"] - 0.02 * male, 0.12)
        self.brow_v = self.eye_v + brow_v
        self.brow_width = 0.265 + m["brow_length"]
        thick = m["brow_thick"] + 0.3 * (male - 0.5) - 0.5 * child
        self.brow_thick = 0.036 * jnp.exp(thick)
        self.brow_arch = m["brow_arch"] + 0.012 * (0.5 - male)
        # Inner and outer end, raised by the expression.
        self.brow_inner = 0.06 * m["brows_inner"] - 0.03 * together
        self.brow_outer = 0.07 * m["brows_outer"] + m["brow_tilt"] - 0.03 * old

        tip = -0.185 - m["nose_length"] + m["nose_tip_up"] * 0.6
        self.nose_v = tip + 0.05 * child
        self.nose_base = -0.320 - m["nose_length"] - 0.02 * old + 0.05 * child
        nose = 0.155 + m["nose_width"] + 0.025 * m["melanin"] * 0.5
        nose = nose * (1 - 0.12 * child + 0.06 * old)
        self.nose_width = nose * (1 + 0.08 * jnp.maximum(m["smile"], 0))

        self.drop = drop = 0.13 * jnp.maximum(m["jaw_open"], 0.0)  # below the mouth
        mouth_v = -0.480 + m["mouth_height"] - 0.5 * m["nose_length"]
        self.mouth_v = mouth_v + 0.03 * child
        wider = 1 + 0.2 * m["smile"] - 0.3 * m["lips_round"]
        self.mouth_width = (0.258 + m["mouth_width"]) * wider * (1 - 0.1 * child)
        corners = m["mouth_corner"] + 0.075 * m["smile"] - 0.065 * m["corners_down"]
        self.mouth_curve = corners - 0.015 * old  # height of the corners
        raised = 0.04 * jnp.maximum(m["upper_lip_up"], 0)
        self.mouth_open_up = 0.012 * drop / 0.13 + raised
        self.mouth_open_down = 1.25 * drop
        lips = jnp.clip(1 - 0.6 * m["lips_press"], 0.3, 1) * (1 - 0.35 * old)
        upper = jnp.exp(m["upper_lip"] + 0.18 * m["melanin"])
        lower = jnp.exp(m["lower_lip"] + 0.15 * m["melanin"])
        self.upper_lip = 0.042 * upper * lips
        self.lower_lip = 0.058 * lower * lips
        self.cupid = 0.35 + 0.2 * m["cupid"]
        self.chin_v = -0.800 - drop - m["face_length"]

    def brow_line(self, x):
        """Returns v of a brow's centre; x is -1 at the inner end, 1 at the outer."""
        inner = jnp.clip(0.5 - 0.5 * x, 0, 1)
        raised = self.brow_inner * inner + self.brow_outer * (1 - inner)
        return self.brow_v + self.brow_arch * (1 - x * x) + raised - 0.02 * inner**2

    def lids(self, x):
        """Returns v of the upper and the lower lid; x is 1 at the outer corner."""
        arch = jnp.maximum(1 - x * x, 0.0) + 1e-4
        line = self.eye_v + self.eye_tilt * x
        return line + self.eye_up * arch**0.72, line - self.eye_down * arch**0.85

    def mouth_line(self, x):
        """Returns v of the seam between the lips; x is -1 and 1 at the corners."""
        # The lips protrude in the middle, so a straight seam is curved on the map.
        return self.mouth_v + self.mouth_curve * (x * x - 0.35) - 0.03 * x * x

    def lips(self, x):
        """Returns v of the edges of the upper and the lower lip, from top to bottom."""
        arch = jnp.maximum(1 - x * x, 0.0) + 1e-5
        line = self.mouth_line(x)
        top = line + self.mouth_open_up * arch
        bottom = line - self.mouth_open_down * jnp.sqrt(arch)
        notch = 1 - self.cupid * bump(x * self.mouth_width, 0.05)
        up = top + 1.15 * self.upper_lip * arch**0.75 * notch
        return up, top, bottom, bottom - self.lower_lip * arch**0.6


def project(direction: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """Returns the map coordinates (u, v) in -2..2 of unit directions (x, y, z)."""
    x, y, z = direction
    stretch = jnp.sqrt(2.0) * jax.lax.rsqrt(jnp.maximum(1 + z, 1e-3))
    return x * stretch, y * stretch


def unproject(u: Array, v: Array) -> tuple[Array, Array, Array]:
    """Returns the unit directions of map coordinates; past the back pole, the pole."""
    square = jnp.minimum(u * u + v * v, 3.999)
    beyond = jnp.minimum(1.0, 2.0 * jax.lax.rsqrt(u * u + v * v + 1e-9))
    shrink = jnp.sqrt(1 - square / 4) * beyond
    return u * shrink, v * shrink, 1 - square / 2


def to_texel(u: Array) -> Array:
    """Returns the position on the grid, 0..GRID-1; finest at the centre of the face."""
    return (u / (1 + 0.5 * jnp.abs(u)) + 1) * ((GRID - 1) / 2)


@functools.cache
def _map() -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Returns u [1, GRID], v [GRID, 1] and the directions [GRID, GRID] of the map.

    NumPy arrays: XLA folds constants differently for one and for several devices, which
    would change the last bits of the pixels.
    """
    squeezed = np.linspace(-1.0, 1.0, GRID)
    axis = (squeezed / (1 - 0.5 * np.abs(squeezed))).astype(np.float32)
    u, v = axis[None, :], axis[:, None]
    with jax.ensure_compile_time_eval():
        d = unproject(*jnp.broadcast_arrays(u, v))
        return u, v, tuple(np.asarray(c) for c in d)


def bump(x: Array | np.ndarray, width) -> Array:
    """Returns exp(-(x / width)^2)."""
    return jnp.exp(-jnp.square(x * (1 / width)))


def _ellipsoid(direction, centre, radii) -> Array:
    """Returns the distance from the origin, which is inside, to an ellipsoid."""
    terms = [(d, c, 1 / (r * r)) for d, c, r in zip(direction, centre, radii)]
    a = sum(d * d * k for d, _, k in terms)
    b = sum(d * (c * k) for d, c, k in terms)
    c = sum(c * c * k for _, c, k in terms) - 1
    return (b + jnp.sqrt(jnp.maximum(b * b - a * c, 1e-6))) / a


def radius_maps(m: Measures, f: Features) -> tuple[Array, Array]:
    """Returns the skin's radius and the hair's height over it, both [GRID, GRID].

    Rows are v from -2 (bottom) to 2, columns u.
    """
    child, old, male = m["child"], m["old"], m["male"]
    u, v, d = _map()
    side = np.abs(u)
    width, height = m["head_width"], m["head_height"]
    cranium = _ellipsoid(d, (0.0, 0.27, -0.12), (0.725 * width, 0.96 * height, 0.97))
    jaw_width = 0.580 + m["jaw_width"] + 0.03 * (male - 0.5) + 0.04 * m["cheek_fat"]
    jaw_v = -0.27 - 0.5 * m["face_length"] - 0.4 * f.drop
    jaw_height = 0.65 + 0.5 * m["face_length"] + 0.6 * f.drop
    jaw_radii = (jaw_width, jaw_height, 0.65 + 0.3 * m["mouth_out"])
    jaw = _ellipsoid(d, (0.0, jaw_v, 0.20), jaw_radii)
    sharp = 16.0
    base = jnp.logaddexp(sharp * cranium, sharp * jaw) / sharp

    fat = m["cheek_fat"] + 0.08 * child
    smile = jnp.maximum(m["smile"], 0) + 0.6 * jnp.maximum(m["cheeks_up"], 0)
    brow_ridge = (m["brow_ridge"] + 0.02 * (male - 0.4)) * (1 - child)
    up = f.mouth_v + 0.5 * f.upper_lip + f.mouth_open_up
    low = f.mouth_v - f.mouth_open_down
    gap = -0.10 * f.drop / 0.13
    chin = 0.095 + m["chin_out"] - 0.03 * child
    chin_width = m["chin_width"] + 0.02 * male
    philtrum = -0.018 * (1 + m["philtrum"])
    small, n = 1 - 0.4 * child, f.nose_width
    top = f.eye_v + 0.03
    ridge = 0.11 + m["nose_bridge"] * 0.6 + m["nose_height"] * 0.6 + m["nose_hump"]
    tip = 0.110 + m["nose_height"] + 0.03 * old
    fold = -0.02 * (1 + m["fold"] + old + smile)
    ear = (1 - 0.8 * m["long_hair"]) * (0.17 + m["ear_out"]) * (1 + 0.15 * old)
    ear_long = 0.23 * (1 + 2 * m["ear_size"] + 0.1 * old)
    bumps = [  # height, centre and width in u, centre and width in v
        (m["forehead_out"] + 0.03 * child, 0.0, 0.6, 0.70, 0.28),
        (m["forehead_slope"], 0.0, 0.7, 0.95, 0.3),
        (brow_ridge, 0.3, 0.2, f.brow_v - 0.03, 0.075),
        (m["temple"] - 0.02, 0.82, 0.16, 0.32, 0.25),
        (-0.035 - m["eye_depth"], f.eye_u - 0.03, 0.155, f.eye_v + 0.01, 0.105),
        (-0.045, 0.13, 0.07, f.eye_v, 0.12),
        (0.050, f.eye_u, 0.095, f.eye_v - 0.005, 0.066),
        (m["cheekbone"] + 0.012 + 0.012 * smile, 0.58, 0.2, -0.10, 0.15),
        (0.035 * smile, 0.43, 0.14, -0.24, 0.13),
        (fat + 0.01, 0.52, 0.24, -0.42, 0.22),
        (-0.035 * old, 0.60, 0.14, -0.38, 0.16),
        (0.03 * old, 0.50, 0.16, -0.72, 0.12),
        (m["jaw_drop"] + 0.02 * (male - 0.5), 0.86, 0.2, -0.86, 0.2),
        (m["mouth_out"] - 0.015, 0.0, 0.26, f.mouth_v, 0.16),
        # lips, the gap between them, corners and chin
        (0.035, 0.0, 0.75 * f.mouth_width, up + 0.01, 0.035),
        (0.040, 0.0, 0.62 * f.mouth_width, low - 0.5 * f.lower_lip, 0.04),
        (gap, 0.0, 0.5 * f.mouth_width, (up + low) / 2, 0.3 * (up - low) + 0.02),
        (-0.02, f.mouth_width + 0.015, 0.05, f.mouth_v + f.mouth_curve, 0.06),
        (-0.045, 0.0, 0.16, f.mouth_v - 0.155 - f.drop, 0.05),
        (chin, 0.0, chin_width, f.chin_v + 0.01, 0.14),
        (m["chin_height"], 0.0, 0.2, f.chin_v - 0.1, 0.1),
        (philtrum, 0.0, 0.025, (f.nose_base + f.mouth_v) / 2 + 0.03, 0.06),
        # nose: root, ridge, tip, wings
        ((0.055 + 0.6 * m["nose_bridge"]) * small, 0.0, 0.075, top, 0.13),
        (ridge * small, 0.0, 0.085, (f.nose_v + top) / 2, 0.12),
        (tip * small, 0.0, 0.085 + m["nose_tip_size"], f.nose_v, 0.095),
        (0.055 * small, 0.0, 0.12 + 0.5 * m["nose_tip_size"], f.nose_v - 0.03, 0.07),
        (0.095 * small, 0.70 * n, 0.40 * n, f.nose_v - 0.055, 0.062),
        (-0.035, 1.25 * n, 0.05, f.nose_v - 0.04, 0.06),
        (fold, 0.31 + 0.03 * smile, 0.05, (f.nose_base + f.mouth_v) / 2 + 0.02, 0.12),
        # ears
        (0.85 * ear, 1.52, 0.12, 0.02 + 0.55 * ear_long, 0.62 * ear_long),
        (0.85 * ear, 1.52, 0.12, 0.02 - 0.45 * ear_long, 0.62 * ear_long),
        (-0.5 * ear, 1.40, 0.07, -0.02, 0.12),
    ]
    heights, centre_u, width_u, centre_v, width_v = (
        jnp.stack([jnp.float32(value) for value in column])[:, None]
        for column in zip(*bumps)
    )
    # A sum of products of a function of u and one of v is a matrix product.
    columns = heights * bump(side - centre_u, width_u)
    skin = base + bump(v.T - centre_v, width_v).T @ columns
    growth = -0.28 * child
    skin = skin * (1 + growth * (1 - d[1]) * 0.5)
    return skin, _hair(m)


def _hair(m: Measures) -> Array:
    """Returns the height of the hair over the skin, negative where it is bare."""
    # Constants of all faces: NumPy arrays, see `_map`; nothing below divides by one.
    u, v, (_, y, z) = _map()
    side = np.abs(u)
    peak, bays, front = (
        np.exp(-np.square((side - centre) / width))
        for centre, width in ((0.0, 0.14), (0.55, 0.2), (0.0, 0.7))
    )
    crown = np.exp(-np.square(np.hypot(u * 0.9, v - 1.45) / 0.55))
    across = np.tanh(3 * u)
    behind = 1 / (1 + np.exp(7 * (y - 0.1))) / (1 + np.exp(10 * (z - 0.5)))
    rows = np.sin(13 * v)
    loss = jax.nn.sigmoid(2.0 * m["hair_loss"] - 2.0) * m["male"]
    loss = loss * jax.nn.sigmoid((m["age"] - 38) / 7)
    long_ = m["long_hair"]
    parting = jnp.tanh(m["hair_side"] + m["style_hair_side"])
    # The hairline over the forehead: an arch with a peak, bays and a fringe.
    line = 0.80 + m["hair_line"] + 0.14 * loss - 0.03 * m["child"]
    edge = line - 0.30 * np.square(side) + m["hair_peak"] * peak * (1 - loss)
    edge = edge + (0.22 * loss + 0.5 * m["hair_temple"]) * bays
    fringe = jax.nn.sigmoid(3 * (m["hair_fringe"] - 0.8)) * (1 - loss)
    edge = edge - fringe * (0.30 + 0.12 * parting * across) * front
    above = (v - edge) * 11
    # Beside the face: sideburns in front of the ear; long hair covers the ear.
    temple = 0.98 + 0.4 * m["hair_temple"] - 0.08 * long_
    beside = (side - temple - 0.10 * np.maximum(0.5 - v, 0)) * 14
    burn = -0.14 - 0.1 * jnp.tanh(m["beard"]) * m["male"]
    before = jnp.minimum(beside, jnp.minimum((1.34 - side) * 20, (v - burn) * 20))
    over_ear = jnp.minimum(beside, (v - 0.30) * 17)
    nape = jnp.minimum((side - 1.64) * 12, (v + 0.45 + 0.6 * long_) * 8)
    curtain = jnp.minimum(beside, (v + 0.95 + 0.55 * long_) * 4.5)
    curtain = jnp.minimum(curtain, (long_ - 0.45) * 12)
    cover = jnp.maximum(jnp.maximum(above, before), jnp.maximum(over_ear, nape))
    cover = jnp.maximum(cover, curtain)
    cover = cover - 6 * loss * crown * jax.nn.sigmoid(2 * m["hair_loss"])
    # Thin at the edge, thick on top; parted hair is higher on one side.
    volume = 0.075 + 0.04 * jnp.tanh(m["hair_volume"]) + 0.03 * long_
    volume = volume * (1 - 0.6 * loss) * (1 + 0.25 * parting * across)
    volume = volume + long_ * behind * (0.10 + 0.40 * np.maximum(-y, 0))
    curl = jnp.maximum(jnp.tanh(m["hair_curl"]), 0.0)
    waves = jnp.sin(15 * u + 5 * m["hair_side"]) * rows
    volume = volume * (1 + 0.30 * curl * waves + 0.15 * curl)
    return volume * jnp.tanh(0.7 * cover)
