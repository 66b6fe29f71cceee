"""Light as nine spherical-harmonic coefficients per channel.

Ramamoorthi and Hanrahan, An Efficient Representation for Irradiance Environment Maps,
SIGGRAPH 2001: the light reflected by a matt surface is a quadratic polynomial of its
normal, with an error of about one per cent.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# Factors of a white surface's reflection, by order: the cosine lobe over pi.
_LOBE = jnp.array([1.0] + [2 / 3] * 3 + [1 / 4] * 5)


def harmonics(direction) -> list[Array]:
    """Returns the nine real harmonics, one map each, of unit vectors in three maps."""
    x, y, z = direction
    return [
        0.282095 * jnp.ones_like(x),
        0.488603 * y,
        0.488603 * z,
        0.488603 * x,
        1.092548 * x * y,
        1.092548 * y * z,
        0.315392 * (3 * z * z - 1),
        1.092548 * x * z,
        0.546274 * (x * x - y * y),
    ]


def towards(azimuth: Array, height: Array) -> Array:
    """Returns the unit vectors [..., 3] of angles to the right and upwards, radians."""
    level = jnp.cos(height)
    x, z = jnp.sin(azimuth) * level, jnp.cos(azimuth) * level
    return jnp.stack([x, jnp.sin(height), z], axis=-1)


def lamp(direction: Array, colour: Array) -> Array:
    """Returns the coefficients [..., 9, 3] of a distant lamp.

    Args:
      direction: [..., 3], towards the lamp; of any length.
      colour: [..., 3], the light reflected by a white surface that faces it.
    """
    unit = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    order = jnp.stack(harmonics(jnp.moveaxis(unit, -1, 0)), axis=-1)
    return jnp.pi * jnp.einsum("...k,...c->...kc", order, colour)


def ambient(colour: Array) -> Array:
    """Returns the coefficients [..., 9, 3] of uniform light from all directions."""
    rest = jnp.zeros((*colour.shape[:-1], 8, 3))
    return jnp.concatenate([colour[..., None, :] / 0.282095, rest], axis=-2)


def main_lamp(light: Array) -> tuple[Array, Array]:
    """Returns the direction [3] and colour [3] of the lamp that best explains `light`.

    Both follow from the harmonics of the first order; the rest is ambient light.
    """
    first = light[1:4] / (jnp.pi * 0.488603)  # rows y, z, x; columns channels
    total = first.mean(axis=1)
    strength = jnp.sqrt(jnp.sum(jnp.square(total)) + 1e-8)
    direction = jnp.array([total[2], total[0], total[1]]) / strength
    along = jnp.array([direction[1], direction[2], direction[0]]) @ first
    return direction, jnp.maximum(along, 0.0)


def shade(
    light: Array, lamp: tuple, normal, ray, surface: Any, visible: Array | float
) -> list[Array]:
    """Returns three channels of the light that a surface reflects to the camera.

    Args:
      light: [9, 3].
      lamp: of `main_lamp`.
      normal, ray: maps of unit vectors in the camera's frame.
      surface: a `paint.Paint`: colour, shine (of Blinn's highlight) and dim.
      visible: visible share of the lamp, 0..1.
    """
    direction, strength = lamp
    weights = light * _LOBE[:, None]
    harmonic = harmonics(normal)
    facing = jnp.maximum(sum(n * k for n, k in zip(normal, direction)), 0.0)
    half = [k - w for k, w in zip(direction, ray)]
    inverse = jax.lax.rsqrt(sum(h * h for h in half) + 1e-6)
    gloss = jnp.maximum(sum(n * h for n, h in zip(normal, half)) * inverse, 0.0)
    gloss = jnp.power(gloss + 1e-4, 18.0) * visible * surface.shine
    channels = []
    for c in range(3):
        diffuse: Array = sum(weights[k, c] * harmonic[k] for k in range(9))  # type: ignore
        shadowed = diffuse - strength[c] * facing * (1 - visible)
        diffuse = jnp.maximum(jnp.maximum(shadowed, 0.05 * diffuse), 0.01)
        channels.append(surface.colour[c] * diffuse * surface.dim + gloss * strength[c])
    return channels


def presets() -> Array:
    """Returns twenty lights [20, 9, 3] similar to Multi-PIE's.

    0: room light alone; 1 to 13: one flash each, from left to right; 14 to 18: from
    above, left to right; 19: room light and the frontal flash.
    """
    angles = [(azimuth, 0.0) for azimuth in range(-90, 91, 15)]
    angles += [(azimuth, 45.0) for azimuth in (-60, -30, 0, 30, 60)]
    azimuth, height = jnp.deg2rad(jnp.array(angles)).T
    room = ambient(jnp.array([0.5, 0.48, 0.45]))
    flashes = lamp(towards(azimuth, height), jnp.full((18, 3), 0.75))
    flashes = flashes + 0.35 * room[None]
    return jnp.concatenate([room[None], flashes, (room + flashes[6])[None]])
