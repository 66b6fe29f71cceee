"""Rays against the head's surface, and against the simple solids below it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.faces.renderer import shape
from fr_jax.faces.renderer.camera import Vector

Array = jax.Array

_FAR = 1e3


class Hit(NamedTuple):
    """Where rays meet the head; arrays have the shape of the rays."""

    t: Array  # distance along the ray
    miss: Array  # how far the ray passes outside of the surface, at the nearest
    point: Vector
    normal: Vector
    u: Array
    v: Array
    hair: Array  # height of the hair over the skin there


def _quads(grid: Array) -> Array:
    """Returns [GRID * GRID, 4 * C]: each texel with its three neighbours."""
    grid = grid.reshape(shape.GRID, shape.GRID, -1)
    upper = [grid, jnp.roll(grid, -1, axis=1)]
    quads = jnp.concatenate(upper + [jnp.roll(g, -1, axis=0) for g in upper], axis=-1)
    return quads.reshape(shape.GRID * shape.GRID, -1)


def _look_up(quads: Array, u: Array, v: Array, channels: int) -> list[Array]:
    """Returns `channels` maps, bilinear at map coordinates (u, v)."""
    x = jnp.clip(shape.to_texel(u), 0.0, shape.GRID - 1.001)
    y = jnp.clip(shape.to_texel(v), 0.0, shape.GRID - 1.001)
    column, row = jnp.floor(x), jnp.floor(y)
    a, b = x - column, y - row
    place = row.astype(jnp.int32) * shape.GRID + column.astype(jnp.int32)
    found = jnp.take(quads, place, axis=0, mode="clip")  # [..., 4 * channels]
    values = []
    for c in range(channels):
        q = [found[..., k * channels + c] for k in range(4)]
        upper = q[0] + a * (q[1] - q[0])
        values.append(upper + b * (q[2] + a * (q[3] - q[2]) - upper))
    return values


def _along(origin: Vector, direction: Vector, t: Array) -> Vector:
    return tuple(o + t * d for o, d in zip(origin, direction))  # type: ignore


def _place(point: Vector) -> Vector:
    x, y, z = point
    square = x * x + y * y + z * z + 1e-9
    inverse = jax.lax.rsqrt(square)
    u, v = shape.project((x * inverse, y * inverse, z * inverse))
    return square * inverse, u, v


def head(
    skin: Array, hair: Array, origin: Vector, direction: Vector, *, steps: int
) -> Hit:
    """Returns where rays, in the head's frame, first meet skin or hair.

    The search is not differentiated; a last Newton step on its result gives the exact
    derivative of the hit by shape and ray.

    Args:
      skin, hair: maps of `shape.radius_maps`.
      origin: scalars or arrays; direction: unit length.
      steps: of the search; 14 finds all but grazing rays.
    """
    radius = skin + jnp.maximum(hair, 0.0)
    quads = jax.lax.stop_gradient(_quads(radius))
    dot = sum(o * d for o, d in zip(origin, direction))
    square = sum(o * o for o in origin)
    closest = -dot
    reach = jnp.square(jnp.max(radius)) - (square - dot * dot)
    half = jnp.sqrt(jnp.maximum(reach, 0.0))
    t, exit_ = closest - half, closest + half
    t, exit_, o, d = jax.lax.stop_gradient((t, exit_, origin, direction))
    nearest = jnp.full_like(t, _FAR)
    nearest_t = t

    def step(_, carry):
        t, nearest, nearest_t = carry
        length, u, v = _place(_along(o, d, t))
        outside = length - _look_up(quads, u, v, 1)[0]
        # Once inside, the last place is the best, however often it is outside again.
        entered = (nearest < 0) | (outside < 0)
        better = entered | (outside < nearest)
        nearest = jnp.where(entered, -1.0, jnp.minimum(outside, nearest))
        # The surface is steep at the nose, so a full step may pass through it; ears
        # and hair beside the face are thin as well.
        share = jnp.where(jnp.abs(u) > 1.0, 0.5, jnp.where(outside > 0.3, 0.9, 0.72))
        # Past an edge that it nearly touched, a ray must get on.
        ahead = jnp.maximum(outside * share, jnp.where(entered, -1.0, 0.08))
        nearest_t = jnp.where(better, jnp.where(entered, t + ahead, t), nearest_t)
        return jnp.minimum(t + ahead, exit_), nearest, nearest_t

    t, nearest, nearest_t = jax.lax.fori_loop(0, steps, step, (t, nearest, nearest_t))
    t = jax.lax.stop_gradient(nearest_t)

    gu = (jnp.roll(radius, -1, axis=1) - jnp.roll(radius, 1, axis=1)) / 2
    gv = (jnp.roll(radius, -1, axis=0) - jnp.roll(radius, 1, axis=0)) / 2
    fine = _quads(jnp.stack([radius, gu, gv, hair], axis=-1))

    def normal_at(t):
        point = _along(origin, direction, t)
        length, u, v = _place(point)
        r, du, dv, height = _look_up(fine, u, v, 4)
        slope_u = (shape.GRID - 1) / 2 / jnp.square(1 + 0.5 * jnp.abs(u))
        slope_v = (shape.GRID - 1) / 2 / jnp.square(1 + 0.5 * jnp.abs(v))
        du, dv = du * slope_u, dv * slope_v
        # F(p) = |p| - r(u(p), v(p)); u = x s / |p| with s = sqrt(2 / (1 + z / |p|)).
        x, y, z = (c / length for c in point)
        stretch = jnp.sqrt(2.0) * jax.lax.rsqrt(jnp.maximum(1 + z, 1e-3))
        radial = du * u + dv * v
        half = 0.5 * radial / jnp.maximum(1 + z, 1e-3)
        gx = x - (du * stretch - radial * x + half * x * z) / length
        gy = y - (dv * stretch - radial * y + half * y * z) / length
        gz = z - (-radial * z - half * (1 - z * z)) / length
        return length - r, (gx, gy, gz), point, u, v, height

    outside, gradient, *_ = normal_at(t)
    slope = sum(g * d for g, d in zip(gradient, direction))
    # At grazing rays the derivative is unbounded; it is held where a pixel is.
    slope = jax.lax.stop_gradient(jnp.minimum(slope, -0.15))
    t = t - jnp.clip(outside / slope, -0.05, 0.05)
    outside, gradient, point, u, v, height = normal_at(t)
    inverse = jax.lax.rsqrt(sum(g * g for g in gradient) + 1e-9)
    normal = tuple(g * inverse for g in gradient)
    # Distance to the surface, not along the radius.
    return Hit(t, outside * inverse, point, normal, u, v, height)  # type: ignore


def visible(
    skin: Array, hair: Array, point: Vector, normal: Vector, lamp: Vector
) -> Array:
    """Returns how much of a lamp each point sees, 0..1, soft at the shadow's edge."""
    quads = _quads(skin + jnp.maximum(hair, 0.0))
    start = tuple(p + 0.03 * n for p, n in zip(point, normal))

    def step(_, carry):
        seen, reach = carry
        length, u, v = _place(tuple(s + reach * d for s, d in zip(start, lamp)))
        free = length - _look_up(quads, u, v, 1)[0]
        seen = jnp.minimum(seen, jnp.clip(0.6 + free / (0.16 * reach + 0.02), 0.0, 1.0))
        return seen, reach * 1.42 + 0.02

    return jax.lax.fori_loop(0, 8, step, (jnp.ones_like(point[0]), 0.05))[0]


class Solid(NamedTuple):
    """Where rays meet a solid; `miss` is negative inside of its outline."""

    t: Array
    miss: Array
    normal: Vector


def ellipsoid(origin: Vector, direction: Vector, centre, radii) -> Solid:
    """Returns where rays meet an ellipsoid."""
    shrink = [1 / r for r in radii]
    o = [(a - c) * k for a, c, k in zip(origin, centre, shrink)]
    d = [b * k for b, k in zip(direction, shrink)]
    a = sum(b * b for b in d)
    b = sum(p * q for p, q in zip(o, d))
    c = sum(p * p for p in o) - 1
    square = b * b - a * c
    t = (-b - jnp.sqrt(jnp.maximum(square, 1e-6))) / a
    miss = jnp.sqrt(jnp.maximum(sum(p * p for p in o) - b * b / a, 1e-6)) - 1
    n = [(p + t * q) * k for p, q, k in zip(o, d, shrink)]
    inverse = jax.lax.rsqrt(sum(p * p for p in n) + 1e-9)
    smallest = jnp.min(jnp.stack([jnp.asarray(r) for r in radii]))
    return Solid(t, miss * smallest, tuple(p * inverse for p in n))  # type: ignore
