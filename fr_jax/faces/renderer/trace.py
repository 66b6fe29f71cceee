"""Intersections of rays with the head and with the ellipsoids below it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.faces.renderer import shape
from fr_jax.faces.renderer.camera import Vector

Array = jax.Array

_FAR = 1e3


class Hit(NamedTuple):
    """Intersections of rays with the head; arrays have the shape of the rays."""

    t: Array  # distance along the ray
    miss: Array  # smallest distance between ray and surface; negative inside
    point: Vector
    normal: Vector
    u: Array
    v: Array
    hair: Array  # height of the hair over the skin at the point


def quads(grid: Array) -> Array:
    """Returns [S, S, 4 * C] of a grid [S, S, C]: each texel, right, below, diagonal."""
    upper = [grid, jnp.roll(grid, -1, axis=1)]
    return jnp.concatenate(upper + [jnp.roll(g, -1, axis=0) for g in upper], axis=-1)


def bilinear(quads: Array, x: Array, y: Array) -> list[Array]:
    """Returns C maps: `quads` [S, S, 4 * C] interpolated at columns x and rows y."""
    side, channels = len(quads), quads.shape[-1] // 4
    x, y = (jnp.clip(c, 0.0, side - 1.001) for c in (x, y))
    column, row = jnp.floor(x), jnp.floor(y)
    a, b = x - column, y - row
    index = row.astype(jnp.int32) * side + column.astype(jnp.int32)
    flat = quads.reshape(side * side, -1)
    corners = jnp.take(flat, index, axis=0, mode="clip")  # [..., 4 * channels]
    values = []
    for c in range(channels):
        q = [corners[..., k * channels + c] for k in range(4)]
        upper = q[0] + a * (q[1] - q[0])
        values.append(upper + b * (q[2] + a * (q[3] - q[2]) - upper))
    return values


def _along(origin: Vector, direction: Vector, t: Array) -> Vector:
    return tuple(o + t * d for o, d in zip(origin, direction))  # type: ignore


def _project(point: Vector) -> Vector:
    """Returns the distance from the origin and the map coordinates (u, v)."""
    x, y, z = point
    square = x * x + y * y + z * z + 1e-9
    inverse = jax.lax.rsqrt(square)
    u, v = shape.project((x * inverse, y * inverse, z * inverse))
    return square * inverse, u, v


def head(
    skin: Array, hair: Array, origin: Vector, direction: Vector, *, steps: int
) -> Hit:
    """Returns the first intersections of rays, in the head's frame, with skin or hair.

    Sphere tracing, not differentiated, then one Newton step, which gives the exact
    derivative of the hit with respect to shape and ray.

    Args:
      skin, hair: maps of `shape.radius_maps`.
      origin: scalars or arrays; direction: unit length.
      steps: of the search; 14 suffice for all but grazing rays.
    """
    radius = skin + jnp.maximum(hair, 0.0)
    coarse = jax.lax.stop_gradient(quads(radius[..., None]))
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
        length, u, v = _project(_along(o, d, t))
        outside = length - bilinear(coarse, shape.to_texel(u), shape.to_texel(v))[0]
        # Once a ray was inside, its last position is the best, inside or outside.
        entered = (nearest < 0) | (outside < 0)
        better = entered | (outside < nearest)
        nearest = jnp.where(entered, -1.0, jnp.minimum(outside, nearest))
        # Full steps may pass through the surface: it is steep at the nose, and thin at
        # ears and hair beside the face.
        share = jnp.where(jnp.abs(u) > 1.0, 0.5, jnp.where(outside > 0.3, 0.9, 0.72))
        # The smallest step takes a grazing ray past the edge.
        ahead = jnp.maximum(outside * share, jnp.where(entered, -1.0, 0.08))
        nearest_t = jnp.where(better, jnp.where(entered, t + ahead, t), nearest_t)
        return jnp.minimum(t + ahead, exit_), nearest, nearest_t

    t, nearest, nearest_t = jax.lax.fori_loop(0, steps, step, (t, nearest, nearest_t))
    t = jax.lax.stop_gradient(nearest_t)

    gu = (jnp.roll(radius, -1, axis=1) - jnp.roll(radius, 1, axis=1)) / 2
    gv = (jnp.roll(radius, -1, axis=0) - jnp.roll(radius, 1, axis=0)) / 2
    fine = quads(jnp.stack([radius, gu, gv, hair], axis=-1))

    def normal_at(t):
        point = _along(origin, direction, t)
        length, u, v = _project(point)
        r, du, dv, height = bilinear(fine, shape.to_texel(u), shape.to_texel(v))
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
    # The derivative is unbounded at grazing rays; limited to a slope of 0.15.
    slope = jax.lax.stop_gradient(jnp.minimum(slope, -0.15))
    t = t - jnp.clip(outside / slope, -0.05, 0.05)
    outside, gradient, point, u, v, height = normal_at(t)
    inverse = jax.lax.rsqrt(sum(g * g for g in gradient) + 1e-9)
    normal = tuple(g * inverse for g in gradient)
    # Divided by the gradient: the distance to the surface, not along the radius.
    return Hit(t, outside * inverse, point, normal, u, v, height)  # type: ignore


def visible(
    skin: Array, hair: Array, point: Vector, normal: Vector, lamp: Vector
) -> Array:
    """Returns the visible share of a lamp at each point, 0..1, with soft shadows."""
    radius = quads((skin + jnp.maximum(hair, 0.0))[..., None])
    start = tuple(p + 0.03 * n for p, n in zip(point, normal))

    def step(_, carry):
        lit, reach = carry
        length, u, v = _project(tuple(s + reach * d for s, d in zip(start, lamp)))
        free = length - bilinear(radius, shape.to_texel(u), shape.to_texel(v))[0]
        lit = jnp.minimum(lit, jnp.clip(0.6 + free / (0.16 * reach + 0.02), 0.0, 1.0))
        return lit, reach * 1.42 + 0.02

    return jax.lax.fori_loop(0, 8, step, (jnp.ones_like(point[0]), 0.05))[0]


class Solid(NamedTuple):
    """Intersections with a solid; `miss` is negative inside of its outline."""

    t: Array
    miss: Array
    normal: Vector


def ellipsoid(origin: Vector, direction: Vector, centre, radii) -> Solid:
    """Returns the intersections of rays with an ellipsoid."""
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
