"""The head as a surface seen from its own centre: radius as a function of direction.

Directions are flattened by Lambert's equal-area projection around the face's axis, so a
map holds the whole head without a seam but the back of it, and a ray's point finds its
place with one square root. Hair is a second shell over the skin. Growth multiplies the
radius (cardioidal strain: Pittenger and Shaw, Aging faces as viscal-elastic events,
JEP: HPP 1975), which leaves directions, and so every landmark's place, alone.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.faces.renderer.codes import MOVEMENTS

Array = jax.Array
Measures = dict[str, Array]

GRID = 112  # texels a side of the map


class Features(NamedTuple):
    """Where the parts of one face lie, in the map's coordinates; all are scalars."""

    eye_u: Array
    eye_v: Array
    eye_width: Array
    eye_up: Array  # height of the upper lid over the centre
    eye_down: Array
    eye_tilt: Array
    iris: Array  # radius
    gaze_u: Array
    gaze_v: Array
    brow_u: Array
    brow_v: Array
    brow_width: Array
    brow_thick: Array
    brow_arch: Array
    brow_inner: Array  # raised by expression
    brow_outer: Array
    nose_v: Array  # the tip
    nose_base: Array
    nose_width: Array
    mouth_v: Array
    mouth_width: Array
    mouth_curve: Array  # corners over the middle
    mouth_open_up: Array
    mouth_open_down: Array
    upper_lip: Array
    lower_lip: Array
    cupid: Array
    chin_v: Array
    drop: Array  # of everything below the mouth, by the open jaw

    def brow_line(self, x):
        """Returns v of a brow's middle; x is -1 at its inner end, 1 at the outer."""
        inner = jnp.clip(0.5 - 0.5 * x, 0, 1)
        raised = self.brow_inner * inner + self.brow_outer * (1 - inner)
        return self.brow_v + self.brow_arch * (1 - x * x) + raised - 0.02 * inner**2

    def lids(self, x):
        """Returns v of the upper and the lower lid; x is 1 in the outer corner."""
        arch = jnp.maximum(1 - x * x, 0.0) + 1e-4
        line = self.eye_v + self.eye_tilt * x
        return line + self.eye_up * arch**0.72, line - self.eye_down * arch**0.85

    def mouth_line(self, x):
        """Returns v of the seam of the lips; x is -1 and 1 in the corners."""
        # The lips stand out in the middle, so a straight seam is curved in the map.
        return self.mouth_v + self.mouth_curve * (x * x - 0.35) - 0.03 * x * x

    def lips(self, x):
        """Returns v of the upper lip's edges and of the lower one's, from above."""
        arch = jnp.maximum(1 - x * x, 0.0) + 1e-5
        line = self.mouth_line(x)
        top = line + self.mouth_open_up * arch
        bottom = line - self.mouth_open_down * jnp.sqrt(arch)
        notch = 1 - self.cupid * bump(x * self.mouth_width, 0.05)
        up = top + 1.15 * self.upper_lip * arch**0.75 * notch
        return up, top, bottom, bottom - self.lower_lip * arch**0.6


def movements(expression: Array) -> Measures:
    """Returns the named movements of one expression [EXPRESSION_SIZE]."""
    return dict(zip(MOVEMENTS, expression))


def child_and_old(age: Array) -> tuple[Array, Array]:
    """Returns the weights of the child and old-age shapes at an age."""
    return jnp.exp(-jnp.square(age / 13)), jax.nn.sigmoid((age - 60) / 8)


def features(t: Measures, e: Measures, age: Array) -> Features:
    """Returns the places of a face's parts from its traits, movements and age."""
    child, old = child_and_old(age)
    male = jax.nn.sigmoid(2.5 * t["sex"])
    drop = 0.13 * jnp.maximum(e["jaw_open"], 0.0)
    open_ = (0.066 + t["eye_open"]) * (1 + 0.25 * child - 0.22 * old)
    open_ = open_ * jnp.clip(1 + 0.45 * e["eyes_wide"], 0.05, 1.6)
    eye_v = 0.142 + t["eye_height"] - 0.05 * child
    lips = jnp.clip(1 - 0.6 * e["lips_press"], 0.3, 1) * (1 - 0.35 * old)
    wider = 1 + 0.2 * e["smile"] - 0.3 * e["lips_round"]
    mouth_v = -0.480 + t["mouth_height"] - 0.5 * t["nose_length"] + 0.03 * child
    brow_v = jnp.maximum(0.195 + t["brow_height"] - 0.02 * male, 0.12)
    return Features(
        eye_u=0.346 + t["eye_spacing"],
        eye_v=eye_v,
        eye_width=(0.160 + t["eye_width"]) * (1 + 0.15 * child),
        eye_up=open_,
        eye_down=0.65 * open_ - 0.012 * jnp.maximum(e["cheeks_up"], 0.0),
        eye_tilt=t["eye_tilt"] - 0.015 * old,
        iris=0.071 * (1 + 0.15 * child),
        gaze_u=0.05 * e["gaze_x"],
        gaze_v=0.035 * e["gaze_y"],
        brow_u=0.400 + t["eye_spacing"] + t["brow_gap"] - 0.035 * e["brows_together"],
        brow_v=eye_v + brow_v,
        brow_width=0.265 + t["brow_length"],
        brow_thick=0.036 * jnp.exp(t["brow_thick"] + 0.3 * (male - 0.5) - 0.5 * child),
        brow_arch=t["brow_arch"] + 0.012 * (0.5 - male),
        brow_inner=0.06 * e["brows_inner"] - 0.03 * e["brows_together"],
        brow_outer=0.07 * e["brows_outer"] + t["brow_tilt"] - 0.03 * old,
        nose_v=-0.185 - t["nose_length"] + t["nose_tip_up"] * 0.6 + 0.05 * child,
        nose_base=-0.320 - t["nose_length"] - 0.02 * old + 0.05 * child,
        nose_width=(0.155 + t["nose_width"] + 0.025 * t["melanin"] * 0.5)
        * (1 - 0.12 * child + 0.06 * old)
        * (1 + 0.08 * jnp.maximum(e["smile"], 0)),
        mouth_v=mouth_v,
        mouth_width=(0.258 + t["mouth_width"]) * wider * (1 - 0.1 * child),
        mouth_curve=t["mouth_corner"]
        + 0.075 * e["smile"]
        - 0.065 * e["corners_down"]
        - 0.015 * old,
        mouth_open_up=0.012 * drop / 0.13 + 0.04 * jnp.maximum(e["upper_lip_up"], 0),
        mouth_open_down=1.25 * drop,
        upper_lip=0.042 * jnp.exp(t["upper_lip"] + 0.18 * t["melanin"]) * lips,
        lower_lip=0.058 * jnp.exp(t["lower_lip"] + 0.15 * t["melanin"]) * lips,
        cupid=0.35 + 0.2 * t["cupid"],
        chin_v=-0.800 - drop - t["face_length"],
        drop=drop,
    )


def project(direction: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """Returns the map coordinates (u, v) in -2..2 of unit directions (x, y, z)."""
    x, y, z = direction
    stretch = jnp.sqrt(2.0) * jax.lax.rsqrt(jnp.maximum(1 + z, 1e-3))
    return x * stretch, y * stretch


def unproject(u: Array, v: Array) -> tuple[Array, Array, Array]:
    """Returns unit directions of map coordinates; beyond the back pole, the pole."""
    square = jnp.minimum(u * u + v * v, 3.999)
    beyond = jnp.minimum(1.0, 2.0 * jax.lax.rsqrt(u * u + v * v + 1e-9))
    shrink = jnp.sqrt(1 - square / 4) * beyond
    return u * shrink, v * shrink, 1 - square / 2


def to_texel(u: Array) -> Array:
    """Returns the place on the grid's axis, 0..GRID-1: finest in the face's middle."""
    return (u / (1 + 0.5 * jnp.abs(u)) + 1) * ((GRID - 1) / 2)


@functools.cache
def _map() -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Returns u of the map's columns [1, GRID], v of its rows, directions [GRID, GRID].

    NumPy's, so that no compiler computes them: XLA folds constants otherwise for one
    device than for several, and the pixels' last bits would tell.
    """
    squeezed = np.linspace(-1.0, 1.0, GRID)
    axis = (squeezed / (1 - 0.5 * np.abs(squeezed))).astype(np.float32)
    u, v = axis[None, :], axis[:, None]
    with jax.ensure_compile_time_eval():
        d = unproject(*jnp.broadcast_arrays(u, v))
        return u, v, tuple(np.asarray(c) for c in d)


def bump(x: Array | np.ndarray, width) -> Array:
    """Returns a bell of height 1 around 0."""
    return jnp.exp(-jnp.square(x * (1 / width)))


def _ellipsoid(direction, centre, radii) -> Array:
    """Distance from the origin, which is inside, to an ellipsoid."""
    terms = [(d, c, 1 / (r * r)) for d, c, r in zip(direction, centre, radii)]
    a = sum(d * d * k for d, _, k in terms)
    b = sum(d * (c * k) for d, c, k in terms)
    c = sum(c * c * k for _, c, k in terms) - 1
    return (b + jnp.sqrt(jnp.maximum(b * b - a * c, 1e-6))) / a


def radius_maps(
    t: Measures, e: Measures, f: Features, age: Array, style: Array
) -> tuple[Array, Array]:
    """Returns the skin's radius and the hair's height over it, both [GRID, GRID].

    Rows are v from -2 (down) to 2, columns u.
    """
    child, old = child_and_old(age)
    male = jax.nn.sigmoid(2.5 * t["sex"])
    u, v, d = _map()
    side = np.abs(u)
    _, y, z = d
    width, height = t["head_width"], t["head_height"]
    cranium = _ellipsoid(d, (0.0, 0.27, -0.12), (0.725 * width, 0.96 * height, 0.97))
    jaw_width = 0.580 + t["jaw_width"] + 0.03 * (male - 0.5) + 0.04 * t["cheek_fat"]
    jaw_v = -0.27 - 0.5 * t["face_length"] - 0.4 * f.drop
    jaw_height = 0.65 + 0.5 * t["face_length"] + 0.6 * f.drop
    jaw_radii = (jaw_width, jaw_height, 0.65 + 0.3 * t["mouth_out"])
    jaw = _ellipsoid(d, (0.0, jaw_v, 0.20), jaw_radii)
    sharp = 16.0
    base = jnp.logaddexp(sharp * cranium, sharp * jaw) / sharp

    # Sums of products of one function of u and one of v are matrix products.
    bumps = []

    def add(height, centre_u, width_u, centre_v, width_v):
        bumps.append((height, centre_u, width_u, centre_v, width_v))

    fat = t["cheek_fat"] + 0.08 * child
    smile = jnp.maximum(e["smile"], 0) + 0.6 * jnp.maximum(e["cheeks_up"], 0)
    add(t["forehead_out"] + 0.03 * child, 0.0, 0.6, 0.70, 0.28)
    add(t["forehead_slope"], 0.0, 0.7, 0.95, 0.3)
    brow_ridge = (t["brow_ridge"] + 0.02 * (male - 0.4)) * (1 - child)
    add(brow_ridge, 0.3, 0.2, f.brow_v - 0.03, 0.075)
    add(t["temple"] - 0.02, 0.82, 0.16, 0.32, 0.25)
    add(-0.035 - t["eye_depth"], f.eye_u - 0.03, 0.155, f.eye_v + 0.01, 0.105)
    add(-0.045, 0.13, 0.07, f.eye_v, 0.12)
    add(0.050, f.eye_u, 0.095, f.eye_v - 0.005, 0.066)
    add(t["cheekbone"] + 0.012 + 0.012 * smile, 0.58, 0.2, -0.10, 0.15)
    add(0.035 * smile, 0.43, 0.14, -0.24, 0.13)
    add(fat + 0.01, 0.52, 0.24, -0.42, 0.22)
    add(-0.035 * old, 0.60, 0.14, -0.38, 0.16)
    add(0.03 * old, 0.50, 0.16, -0.72, 0.12)
    add(t["jaw_drop"] + 0.02 * (male - 0.5), 0.86, 0.2, -0.86, 0.2)
    add(t["mouth_out"] - 0.015, 0.0, 0.26, f.mouth_v, 0.16)
    up = f.mouth_v + 0.5 * f.upper_lip + f.mouth_open_up
    low = f.mouth_v - f.mouth_open_down
    add(0.035, 0.0, 0.75 * f.mouth_width, up + 0.01, 0.035)
    add(0.040, 0.0, 0.62 * f.mouth_width, low - 0.5 * f.lower_lip, 0.04)
    hollow = -0.10 * f.drop / 0.13
    add(hollow, 0.0, 0.5 * f.mouth_width, (up + low) / 2, 0.3 * (up - low) + 0.02)
    add(-0.02, f.mouth_width + 0.015, 0.05, f.mouth_v + f.mouth_curve, 0.06)
    add(-0.045, 0.0, 0.16, f.mouth_v - 0.155 - f.drop, 0.05)
    chin, chin_width = (
        0.095 + t["chin_out"] - 0.03 * child,
        t["chin_width"] + 0.02 * male,
    )
    add(chin, 0.0, chin_width, f.chin_v + 0.01, 0.14)
    add(t["chin_height"], 0.0, 0.2, f.chin_v - 0.1, 0.1)
    philtrum = -0.018 * (1 + t["philtrum"])
    add(philtrum, 0.0, 0.025, (f.nose_base + f.mouth_v) / 2 + 0.03, 0.06)
    # nose: root, ridge, tip, wings
    small = 1 - 0.4 * child
    n = f.nose_width
    top = f.eye_v + 0.03
    add((0.055 + 0.6 * t["nose_bridge"]) * small, 0.0, 0.075, top, 0.13)
    middle = (f.nose_v + top) / 2
    ridge = 0.11 + t["nose_bridge"] * 0.6 + t["nose_height"] * 0.6 + t["nose_hump"]
    add(ridge * small, 0.0, 0.085, middle, 0.12)
    tip = 0.110 + t["nose_height"] + 0.03 * old
    add(tip * small, 0.0, 0.085 + t["nose_tip_size"], f.nose_v, 0.095)
    add(0.055 * small, 0.0, 0.12 + 0.5 * t["nose_tip_size"], f.nose_v - 0.03, 0.07)
    add(0.095 * small, 0.70 * n, 0.40 * n, f.nose_v - 0.055, 0.062)
    add(-0.035, 1.25 * n, 0.05, f.nose_v - 0.04, 0.06)
    fold = -0.02 * (1 + t["fold"] + old + smile)
    aside = 0.31 + 0.03 * smile
    add(fold, aside, 0.05, (f.nose_base + f.mouth_v) / 2 + 0.02, 0.12)
    # ears
    ear = (1 - 0.8 * _long(t, style)) * (0.17 + t["ear_out"]) * (1 + 0.15 * old)
    ear_long = 0.23 * (1 + 2 * t["ear_size"] + 0.1 * old)
    for middle in (0.02 + 0.55 * ear_long, 0.02 - 0.45 * ear_long):
        add(0.85 * ear, 1.52, 0.12, middle, 0.62 * ear_long)
    add(-0.5 * ear, 1.40, 0.07, -0.02, 0.12)
    heights, centre_u, width_u, centre_v, width_v = (
        jnp.stack([jnp.float32(value) for value in column])[:, None]
        for column in zip(*bumps)
    )
    columns = heights * bump(side - centre_u, width_u)
    skin = base + bump(v.T - centre_v, width_v).T @ columns
    growth = -0.28 * child
    skin = skin * (1 + growth * (1 - y) * 0.5)
    return skin, _hair(t, age, style, male, u, v, side, y, z)


def _long(t: Measures, style: Array) -> Array:
    """Returns how long the hair is, 0 cropped .. 1 to the shoulders."""
    male = jax.nn.sigmoid(2.5 * t["sex"])
    length = 2.5 * (t["hair_length"] + 0.8 * style[0])
    return jax.nn.sigmoid(length - 4.0 * (male - 0.5) - 0.3)


def _hair(t, age, style, male, u, v, side, y, z) -> Array:
    """Height of the hair over the skin, negative where there is none."""
    # All that is the same for everybody; NumPy's, as `_map` says, and no division is by
    # a constant below.
    peak, bays, front = (
        np.exp(-np.square((side - where) / width))
        for where, width in ((0.0, 0.14), (0.55, 0.2), (0.0, 0.7))
    )
    crown = np.exp(-np.square(np.hypot(u * 0.9, v - 1.45) / 0.55))
    across = np.tanh(3 * u)
    behind = 1 / (1 + np.exp(7 * (y - 0.1))) / (1 + np.exp(10 * (z - 0.5)))
    rows = np.sin(13 * v)
    child, _ = child_and_old(age)
    loss = jax.nn.sigmoid(2.0 * t["hair_loss"] - 2.0) * male
    loss = loss * jax.nn.sigmoid((age - 38) / 7)
    long_ = _long(t, style)
    parting = jnp.tanh(t["hair_side"] + style[1])
    # Over the forehead: an arch, with a peak, bays, a fringe.
    line = 0.80 + t["hair_line"] + 0.14 * loss - 0.03 * child
    edge = line - 0.30 * np.square(side) + t["hair_peak"] * peak * (1 - loss)
    edge = edge + (0.22 * loss + 0.5 * t["hair_temple"]) * bays
    fringe = jax.nn.sigmoid(3 * (t["hair_fringe"] - 0.8)) * (1 - loss)
    edge = edge - fringe * (0.30 + 0.12 * parting * across) * front
    above = (v - edge) * 11
    # Beside the face: down to the sideburn before the ear, or over the ear if long.
    temple = 0.98 + 0.4 * t["hair_temple"] - 0.08 * long_
    beside = (side - temple - 0.10 * np.maximum(0.5 - v, 0)) * 14
    burn = -0.14 - 0.1 * jnp.tanh(t["beard"]) * male
    before = jnp.minimum(beside, jnp.minimum((1.34 - side) * 20, (v - burn) * 20))
    over_ear = jnp.minimum(beside, (v - 0.30) * 17)
    nape = jnp.minimum((side - 1.64) * 12, (v + 0.45 + 0.6 * long_) * 8)
    curtain = jnp.minimum(beside, (v + 0.95 + 0.55 * long_) * 4.5)
    curtain = jnp.minimum(curtain, (long_ - 0.45) * 12)
    cover = jnp.maximum(jnp.maximum(above, before), jnp.maximum(over_ear, nape))
    cover = jnp.maximum(cover, curtain)
    cover = cover - 6 * loss * crown * jax.nn.sigmoid(2 * t["hair_loss"])
    # Thin at the edge, thick on top; parted hair lies higher on one side.
    volume = 0.075 + 0.04 * jnp.tanh(t["hair_volume"]) + 0.03 * long_
    volume = volume * (1 - 0.6 * loss) * (1 + 0.25 * parting * across)
    volume = volume + long_ * behind * (0.10 + 0.40 * np.maximum(-y, 0))
    curl = jnp.maximum(jnp.tanh(t["hair_curl"]), 0.0)
    waves = jnp.sin(15 * u + 5 * t["hair_side"]) * rows
    volume = volume * (1 + 0.30 * curl * waves + 0.15 * curl)
    return volume * jnp.tanh(0.7 * cover)
