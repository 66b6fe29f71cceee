"""Colours of the head's surface over its map coordinates: skin, eyes, brows, mouth.

Edges are as soft as a pixel is large, so they need no supersampling. Colours are
squares of display values, close enough to linear light to be shaded.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.faces.renderer import occluders, trace
from fr_jax.faces.renderer.codes import PATTERN_SIZE, Measures
from fr_jax.faces.renderer.shape import Features, bump

Array = jax.Array
Colour = list[Array]

_PATTERN = 24  # side of the fine skin pattern, in cells


class Paint(NamedTuple):
    """Surface properties; maps of the image's shape."""

    colour: Colour  # three channels, squares of display values
    dim: Array | float = 1.0  # share of the light that reaches folds and hollows, 0..1
    shine: Array | float = 0.0  # strength of the reflection


class Tones(NamedTuple):
    """Colours of one identity at an age, three scalars each."""

    skin: Colour
    hair: Colour
    iris: Colour


def tones(m: Measures) -> Tones:
    """Returns the colours of an identity from its measures."""
    return Tones(_skin_tone(m), _hair_tone(m), _eye_tone(m))


def over(base, cover: Array | float, colour) -> Colour:
    """Returns three channels: `base` covered by `colour` to a share `cover`."""
    return [b + cover * (c - b) for b, c in zip(base, colour)]


def wear_mask(surface: Paint, u: Array, v: Array, f: Features, worn: Array) -> Paint:
    """Returns the surface under a medical mask of opacity `worn`, 0..1."""
    cover = worn * occluders.mask_cover(u, v, f)
    pleats = 1 - 0.12 * jnp.square(jnp.sin(24 * v))
    cloth = [c * pleats for c in (0.42, 0.60, 0.68)]
    return Paint(
        over(surface.colour, cover, cloth),
        surface.dim + cover * (1 - surface.dim),
        surface.shine * (1 - cover),
    )


def _soft(distance: Array, width) -> Array:
    """Returns the coverage 0..1 where `distance` > 0, with an edge of `width`."""
    return jax.nn.sigmoid(distance * (4.0 / width))


def _skin_tone(m: Measures) -> Colour:
    share = jax.nn.sigmoid(1.4 * m["melanin"] - 1.35 + 0.5 * m["style_tan"])
    fair, middle, dark = (0.93, 0.765, 0.68), (0.78, 0.545, 0.395), (0.27, 0.155, 0.10)
    r, g, b = (
        a * (1 - share) ** 2 + 2 * b * share * (1 - share) + c * share**2
        for a, b, c in zip(fair, middle, dark)
    )
    red, yellow = 0.05 * m["skin_red"], 0.06 * m["skin_yellow"]
    tone = r * (1 + 0.3 * red), g * (1 - red), b * (1 - red - yellow)
    return [jnp.square(c) for c in tone]


def _hair_tone(m: Measures) -> Colour:
    dark = jax.nn.sigmoid(1.6 * m["hair_dark"] + 1.1 * m["melanin"] + 0.7)
    red = jax.nn.sigmoid(3 * m["hair_red"] - 4)
    fair = over((0.72, 0.55, 0.33), red, (0.55, 0.24, 0.10))
    tone = over(fair, dark, (0.09, 0.065, 0.055))
    grey = jax.nn.sigmoid((m["age"] - 52 - 9 * m["grey"]) / 6)
    return [jnp.square(c) for c in over(tone, grey, (0.74, 0.73, 0.72))]


def _eye_tone(m: Measures) -> Colour:
    light = jax.nn.sigmoid(2.5 * m["iris_hue"] - 2.2 * m["melanin"] - 1.6)
    green = jax.nn.sigmoid(2 * m["iris_light"])
    blue = over((0.30, 0.45, 0.58), green, (0.36, 0.46, 0.34))
    return [jnp.square(c) for c in over((0.24, 0.13, 0.07), light, blue)]


def _lattice(pattern: Array) -> Array:
    """Returns the fine skin pattern [24, 24], about -1..1, of codes [PATTERN_SIZE]."""
    waves = PATTERN_SIZE // 2
    order = np.arange(1, waves + 1)
    line = 2 * np.pi * np.arange(_PATTERN) / _PATTERN
    phase = np.outer(order + 1.5, line)
    angle = 2.39996 * order  # the golden angle: no two waves have the same direction
    across, down = (f(angle)[:, None, None] for f in (np.cos, np.sin))
    phase = across * phase[:, None, :] + down * phase[:, :, None]  # [waves, 24, 24]
    basis = np.concatenate([np.cos(phase), np.sin(phase)]).astype(np.float32)
    return jnp.einsum("k,kyx->yx", pattern, basis) / 3.0


def _grain(u: Array, v: Array, seed) -> Array:
    """Returns noise in -1..1 fixed to the surface, for strands and pores."""
    value = jnp.sin(u * 127.1 + v * 311.7 + seed) * 43758.547
    return 2 * (value - jnp.floor(value)) - 1


def _folds(u: Array, v: Array, f: Features, m: Measures) -> Array:
    """Returns the share of the light that reaches the skin, 0..1."""
    side, grown, old = jnp.abs(u), 1 - m["child"], m["old"]
    smile = jnp.maximum(m["smile"], 0)
    deep = 0.10 + 0.08 * m["fold"] + 0.35 * old + 0.35 * smile
    fold_u = 0.20 + 0.9 * (f.nose_v - v) * 0.55 + 0.04 * smile
    laugh = bump(side - fold_u, 0.025) * bump(v - (f.nose_base + f.mouth_v) / 2, 0.14)
    lines = 0.5 * old + 0.4 * jnp.maximum(m["brows_inner"], 0) * (0.3 + grown)
    waves = jnp.square(jnp.sin((v - 0.1 * u * u) * 42.0))
    front = bump(u, 0.45) * bump(v - f.brow_v - 0.26, 0.13)
    frown = jnp.maximum(m["brows_together"], 0) + 0.35 * old
    frown = 0.4 * frown * bump(side - 0.055, 0.016)
    crow = 0.6 * old + 0.35 * jnp.maximum(m["cheeks_up"], 0) * grown
    rays = jnp.square(jnp.sin((v - f.eye_v) * 70.0 + 12 * side))
    crow = 0.3 * crow * rays * bump(side - f.eye_u - f.eye_width - 0.09, 0.06)
    wrinkle = 0.35 * jnp.maximum(m["nose_wrinkle"], 0) * jnp.square(jnp.sin(v * 60))
    n = f.nose_width
    nostril = bump(side - 0.48 * n, 0.26 * n + 0.008)
    nostril = nostril * bump(v - f.nose_base - 0.025, 0.026)
    wing = bump(side - 1.12 * n, 0.022) * bump(v - f.nose_v + 0.05, 0.055)
    under = bump(u, 0.75 * n) * bump(v - f.nose_base - 0.005, 0.025)
    socket = bump(side - f.eye_u + 0.05, 0.20) * bump(v - f.eye_v - 0.05, 0.10)
    flank = bump(side - 0.135, 0.05) * bump(v - (f.nose_v + f.eye_v) / 2, 0.19)
    hollow = bump(side - 0.72, 0.16) * bump(v + 0.52, 0.26)
    dark = [
        0.55 * jnp.clip(deep, 0, 1) * laugh,
        0.30 * lines * waves * front,
        frown * bump(v - f.brow_v + 0.02, 0.09),
        crow * bump(v - f.eye_v, 0.10),
        wrinkle * bump(u, 0.11) * bump(v - f.eye_v + 0.04, 0.09),
        0.75 * nostril,
        0.4 * wing,
        0.45 * under,
        0.38 * socket,
        0.26 * flank,
        0.22 * hollow,
        0.30 * jax.nn.sigmoid((f.chin_v - 0.095 - v) * 12),
        0.32 * bump(u, 0.16) * bump(v - (f.mouth_v - 0.135 - f.drop), 0.03),
    ]
    return math.prod(1 - share for share in dark)  # type: ignore


def paint(
    hit: trace.Hit, f: Features, m: Measures, tones: Tones, pixel: Array
) -> Paint:
    """Returns the surface properties where rays hit the head.

    Args:
      pixel: width of a pixel in decimetres, a scalar.
    """
    u, v, hair_height = hit.u, hit.v, hit.hair
    side, old = jnp.abs(u), m["old"]
    soft = jnp.maximum(1.6 * pixel, 0.012)
    skin, hair = tones.skin, tones.hair
    make_up = jnp.maximum(m["style_make_up"], 0) * (1 - m["male"])

    # skin
    cells = ((c / 2.4 + 0.5) * _PATTERN for c in (u, v))
    lattice = _lattice(m["pattern"])[..., None]
    (fine,) = trace.bilinear(trace.quads(lattice), *cells)
    cheek = bump(side - 0.50, 0.22) * bump(v + 0.24, 0.20)
    nose = bump(side, 0.14) * bump(v - f.nose_v, 0.12)
    blush = (0.10 + 0.06 * m["cheek_red"]) * cheek + 0.10 * nose + 0.025 * fine
    blush += 0.12 * make_up * cheek
    tone = 1 + 0.05 * fine - 0.03 * _grain(jnp.round(u * 40), jnp.round(v * 40), 1.0)
    ring = bump(side - f.eye_u, 0.17) * bump(v - (f.eye_v - 0.12), 0.06)
    tone = tone * (1 - (0.10 + 0.10 * m["eye_ring"] * 0.6 + 0.1 * old) * ring)
    freckles = jnp.maximum(m["freckles"] - 0.9 - 0.5 * m["melanin"], 0)
    cell_u, cell_v = jnp.floor(u / 0.045), jnp.floor(v / 0.045)
    away = jnp.hypot(
        u / 0.045 - cell_u - 0.5 - 0.25 * _grain(cell_u, cell_v, 11.0),
        v / 0.045 - cell_v - 0.5 - 0.25 * _grain(cell_u, cell_v, 13.0),
    )
    size = 0.28 * _grain(cell_u, cell_v, 17.0)
    spots = _soft(size - away, 0.3 + 0.5 * soft / 0.045)
    tone = tone * (1 - 0.5 * jnp.minimum(freckles, 1) * spots * (cheek + nose))
    for mole in ("mole1", "mole2"):
        size = 0.020 * jnp.clip(m[mole + "_size"], 0, 1.5)
        away = jnp.hypot(u - m[mole + "_x"], v - m[mole + "_y"])
        tone = tone * (1 - 0.65 * _soft(size - away, soft) * jnp.minimum(size * 100, 1))
    colour = [s * tone * (1 + k * blush) for s, k in zip(skin, (0.25, -0.9, -0.9))]
    dim = _folds(u, v, f, m)

    # beard
    growth = m["male"] * jax.nn.sigmoid((m["age"] - 19) / 1.5)
    full = growth * jax.nn.sigmoid(3 * (m["beard"] + 1.2 * m["style_beard"]) - 2.6)
    lip = growth * jax.nn.sigmoid(3 * (m["moustache"] + m["style_beard"]) - 2.2)
    shadow = growth * (0.12 + 0.2 * jax.nn.sigmoid(2 * m["beard"]))
    jaw = -0.36 - 0.28 * jnp.square((side - 0.72) / 0.3) * (side < 0.72)
    jaw = _soft(jaw - v + 0.35 * _soft(side - 0.78, 0.1), 0.12) * _soft(v + 1.20, 0.15)
    jaw = jaw * (1 - bump(u, 0.30) * bump(v - (f.mouth_v + 0.1), 0.14))
    chin_hair = bump(u, 0.2) * _soft(f.mouth_v - 0.16 - f.drop - v, 0.08)
    chin_hair = chin_hair * _soft(v + 1.2, 0.1)
    above = bump(u, f.mouth_width * 1.05) * bump(v - (f.mouth_v + 0.095), 0.045)
    beard = jnp.clip(jnp.maximum(full * jnp.maximum(jaw, chin_hair), lip * above), 0, 1)
    stubble = shadow * jnp.clip(jaw + chin_hair + above, 0, 1)
    strands = 1 + 0.25 * _grain(jnp.round(u * 60), jnp.round(v * 25), 3.0)
    face_hair = [c * strands for c in hair]
    colour = over(colour, 0.45 * stubble, over(skin, 0.6, hair))
    colour = over(colour, 0.92 * beard, face_hair)

    # brows
    x = (side - f.brow_u) * (1 / f.brow_width)
    thick = f.brow_thick * (1 - 0.45 * jnp.clip(x + 0.2, 0, 1))
    brow = _soft(thick - jnp.abs(v - f.brow_line(x)), 0.03)
    brow = brow * _soft(1 - jnp.abs(x), 0.18)
    brow = brow * (0.80 + m["brow_dark"] - 0.35 * m["child"])
    brow = brow * (0.9 + 0.25 * _grain(jnp.round(u * 70), jnp.round(v * 30), 5.0))
    brow_colour = [0.75 * a + 0.08 * b for a, b in zip(hair, skin)]
    colour = over(colour, jnp.clip(brow, 0, 1), brow_colour)

    # eyes: x increases outwards
    x = (side - f.eye_u) * (1 / f.eye_width)
    upper, lower = f.lids(x)
    line = f.eye_v + f.eye_tilt * x
    inside = jnp.abs(x) < 1
    opening = jnp.where(inside, jnp.minimum(upper - v, v - lower), -0.1)
    ball = _soft(opening, soft)
    lid = jnp.where(inside, bump(v - upper - 0.006, 0.016 + 0.5 * pixel), 0.0)
    lid_low = jnp.where(inside, bump(v - lower + 0.004, 0.012 + 0.5 * pixel), 0.0)
    crease_on = jax.nn.sigmoid(1.5 * m["eye_fold"] + 1.2)
    arch = jnp.power(jnp.maximum(1.21 - x * x, 1e-4), 0.6)
    crease = bump(v - (line + (f.eye_up * 1.15 + 0.035) * arch), 0.014)
    crease = jnp.where(jnp.abs(x) < 1.1, crease, 0.0)
    dim = dim * (1 - 0.35 * crease_on * crease)
    gaze_u = u - jnp.sign(u) * f.eye_u - f.gaze_u
    gaze = jnp.hypot(gaze_u, v - f.eye_v - 0.004 - f.gaze_v)
    flecked = [c * (1 + 1.5 * bump(gaze - 0.6 * f.iris, 0.02)) for c in tones.iris]
    eye = over((0.60, 0.58, 0.56), _soft(f.iris - gaze, soft), flecked)
    eye = over(eye, 0.5 * bump(gaze - f.iris, 0.012), [0.02] * 3)
    eye = over(eye, _soft(0.42 * f.iris - gaze, soft), [0.004] * 3)
    shade = 1 - 0.5 * bump(jnp.maximum(upper - v, 0), 0.03)
    corner = _soft(jnp.abs(x) - 0.9, 0.25)
    eye = [c * shade * (1 - 0.3 * corner) for c in eye]
    away = jnp.hypot(gaze_u - 0.022, v - f.eye_v - f.gaze_v - 0.028)
    eye = over(eye, 0.85 * _soft(0.011 - away, soft), [0.9] * 3)
    colour = over(colour, ball, eye)
    dim = dim * (1 - ball) + ball
    lash = jnp.clip(lid * (0.75 + 0.5 * (1 - m["male"])) + 0.3 * lid_low, 0, 1)
    colour = over(colour, lash, [0.02 + 0.12 * s for s in skin])
    shadow_lid = bump(side - f.eye_u, 0.18) * bump(v - f.eye_v - 0.10, 0.05)
    eye_shadow = [c * k for c, k in zip(skin, (0.45, 0.35, 0.5))]
    colour = over(colour, 0.5 * make_up * shadow_lid, eye_shadow)

    # mouth
    x = u * (1 / f.mouth_width)
    line = f.mouth_line(x)
    up, top, bottom, low = f.lips(x)
    within = jnp.abs(x) < 1
    lips = _soft(jnp.where(within, jnp.minimum(up - v, v - low), -0.1), 1.5 * soft)
    red = jax.nn.sigmoid(m["lip_red"] + 2.5 * make_up - 0.3 * m["male"])
    redness = ((0.66, 0.06), (0.42, -0.18), (0.47, -0.18))
    lip = [s * (pale + k * red) for s, (pale, k) in zip(skin, redness)]
    lip = [c * (1 - 0.12 * _soft(v - line, 0.03)) for c in lip]
    colour = over(colour, 0.9 * lips, lip)
    gap = _soft(jnp.where(within, jnp.minimum(top - v, v - bottom), -0.1) + 0.003, soft)
    opened = jnp.clip((f.mouth_open_up + f.mouth_open_down) / 0.03, 0, 1)
    teeth = _soft(v - (top - 0.055), soft) * _soft(0.82 - jnp.abs(x), 0.15) * opened
    teeth_low = _soft(bottom + 0.02 - v, soft) * _soft(0.6 - jnp.abs(x), 0.15)
    tooth = 1 - 0.25 * jnp.square(jnp.sin(u * 62.0))
    white_teeth = [0.78 - 0.1 * old, 0.74 - 0.14 * old, 0.66 - 0.18 * old]
    teeth = jnp.clip(teeth + 0.6 * teeth_low * opened, 0, 1)
    mouth = over((0.05, 0.015, 0.015), teeth, [c * tooth for c in white_teeth])
    colour = over(colour, gap * opened, mouth)
    seam = jnp.where(within, bump(v - line, 0.010 + 0.5 * pixel), 0.0) * (1 - opened)
    dim = dim * (1 - 0.75 * seam)
    corner = bump(side - f.mouth_width, 0.02) * bump(v - line, 0.02)
    dim = dim * (1 - 0.4 * corner)

    # ears: redder than the face, dark inside
    ear = bump(side - 1.48, 0.14) * bump(v - 0.02, 0.26)
    concha = bump(side - 1.42, 0.05) * bump(v + 0.02, 0.09)
    dim = dim * (1 - 0.5 * concha)
    colour = [colour[0], colour[1] * (1 - 0.1 * ear), colour[2] * (1 - 0.1 * ear)]

    # hair
    cover = _soft(hair_height, 0.035)
    strand = _grain(jnp.round(u * 55 + 4 * jnp.sin(4 * v)), jnp.round(v * 5), 7.0)
    wave = 0.5 * jnp.sin(36 * u + 6 * jnp.sin(5 * v + 3 * u))
    lock = 1 + 0.22 * strand + 0.20 * wave
    hair_colour = [c * jnp.clip(lock, 0.3, 2) + 0.002 for c in hair]
    colour = over(colour, cover, hair_colour)
    dim = dim + cover * (1 - dim)
    dim = dim * (1 - 0.35 * jnp.where(hair_height < 0, bump(hair_height, 0.02), 0))
    shine = (0.10 + 0.04 * m["skin_shine"]) * (1 - cover) * (1 - 0.7 * beard)
    shine = shine + 0.10 * lips * (1 - cover) + 0.05 * cover
    return Paint(colour, jnp.clip(dim, 0.05, 1), shine)
