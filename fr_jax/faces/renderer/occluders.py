"""Occluders of a face: glasses, a mask, a hand."""

import jax
import jax.numpy as jnp

from fr_jax.faces.renderer.camera import Vector
from fr_jax.faces.renderer.shape import Features

Array = jax.Array


def glasses(
    origin: Vector, direction: Vector, f: Features, square: Array
) -> tuple[Array, Array, Array]:
    """Returns the distance along rays, and the coverage by frame and by lenses, 0..1.

    Two rings in a plane in front of the eyes that bends back towards the temples.

    Args:
      origin, direction: of rays in the head's frame.
      square: 0 round .. 1 square.
    """
    forward = jnp.minimum(direction[2], -0.05)
    distance = (1.02 - origin[2]) / forward
    bend = 0.18 * jnp.square(origin[0] + distance * direction[0])
    distance = distance - bend / jnp.minimum(forward, -0.2)
    x, y = (o + distance * d for o, d in zip(origin[:2], direction[:2]))
    eye = 0.93 * f.eye_u
    px, py = (jnp.abs(x) - eye) / 0.25, (y - f.eye_v + 0.02) / 0.19
    power = 2.2 + 4 * square
    ring = jnp.abs(px + 1e-3) ** power + jnp.abs(py + 1e-3) ** power
    ring = jnp.exp(jnp.log(ring + 1e-6) / power)
    frame = jax.nn.sigmoid((0.11 - jnp.abs(ring - 1)) * 25)
    bridge = jax.nn.sigmoid((0.025 - jnp.abs(y - f.eye_v - 0.04)) * 150)
    bridge = bridge * jax.nn.sigmoid((eye - 0.25 - jnp.abs(x)) * 60)
    lens = jax.nn.sigmoid((1 - ring) * 25)
    ahead = jax.nn.sigmoid(-direction[2] * 30 - 3.0)
    return distance, jnp.maximum(frame, bridge) * ahead, lens * ahead


def mask_cover(u: Array, v: Array, f: Features) -> Array:
    """Returns the coverage by a medical mask, 0..1, at map coordinates."""
    side = jnp.abs(u)
    top = f.nose_v + 0.10 - 0.13 * side
    inside = jnp.minimum(jnp.minimum(top - v, v - f.chin_v + 0.135), 1.0 - side)
    cloth = jax.nn.sigmoid(60 * inside)
    strap = jnp.minimum(1.45 - side, 0.018 - jnp.abs(v - (-0.12 + 0.12 * (side - 1))))
    strap = jax.nn.sigmoid(200 * strap) * jax.nn.sigmoid(60 * (side - 0.98))
    return jnp.maximum(cloth, strap)


def hand(x: Array, y: Array, hand_x: Array, hand_y: Array) -> tuple[Array, Array]:
    """Returns coverage and shade, 0..1, of a hand in front of the face.

    Args:
      x, y: points of the image plane, decimetres, y down.
      hand_x, hand_y: position of the hand, -1..1.
    """
    px, py = x - 0.7 * hand_x, y - 0.35 + 0.8 * hand_y
    inside = 0.36 - jnp.hypot(px + 1e-4, 0.85 * (py - 0.35))
    shade = inside
    for finger in (-1.5, -0.5, 0.5, 1.5):
        along = jnp.clip(-py, 0.0, 0.62 - 0.06 * abs(finger))
        lean = 0.16 * finger * (1 + 0.35 * along)
        away = 0.085 - jnp.hypot(px - lean + 1e-4, py + along)
        inside = jnp.maximum(inside, away)
        shade = jnp.maximum(shade, away * 2)
    shade = 0.55 + 0.45 * jnp.clip(shade / 0.15, 0, 1)
    return jax.nn.sigmoid(inside * 60), shade
