"""Renders codes: head, body, accessories, then the camera."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fr_jax.faces.renderer import (
    camera,
    imaging,
    landmarks,
    light,
    occluders,
    paint,
    shape,
    trace,
)
from fr_jax.faces.renderer.codes import SIZES, Codes, measures

Array = jax.Array


class Rendering(NamedTuple):
    """What `render` returns, for n faces of side S.

    Attributes:
      image: [n, S, S, 3] RGB in 0..1.
      landmarks68: [n, 68, 2] (x, y) in pixels, pixel centres at whole numbers; iBUG's
        order. Fixed points of the head, projected whether visible or hidden.
      landmarks5: [n, 5, 2] eyes, nose tip, corners of the mouth, image-left first.
      mask: [n, S, S] coverage of the head (skin and hair), 0..1.
      alpha: [n, S, S] coverage of head, neck and shoulders, 0..1.
      depth: [n, S, S] distance from the head's centre towards the camera in decimetres,
        -10 outside of the head.
    """

    image: Array
    landmarks68: Array
    landmarks5: Array
    mask: Array
    alpha: Array
    depth: Array


# Samples per pixel and axis, steps of a ray, shadows.
_QUALITIES = {"full": (2, 16, True), "fast": (1, 14, False)}


def render(
    codes: Codes, size: int = 112, frame: str = "aligned", quality: str = "full"
) -> Rendering:
    """Returns images of faces with their landmarks, coverage and depth.

    Pure and differentiable by every code; rows do not depend on each other.

    Args:
      size: side of the images in pixels.
      frame: 'aligned' in ArcFace's template (`camera.template`), or 'loose': head and
        shoulders, moved by `codes.camera`.
      quality: 'full': four samples per pixel and shadows; 'fast': one sample, none.

    Raises:
      ValueError: for codes of wrong shapes, an unknown frame or quality, and, unless
        traced, a yaw, pitch, roll, distance or age out of range.
    """
    check(codes)
    if frame not in ("aligned", "loose") or quality not in _QUALITIES:
        raise ValueError(
            f"frame {frame!r}, quality {quality!r}: frames are 'aligned' and 'loose', "
            "qualities 'full' and 'fast'"
        )
    if size < 16:
        raise ValueError(f"size {size}: a face needs at least 16 pixels")
    return _render(codes, size, frame, quality)


def check(codes: Codes) -> None:
    """Raises ValueError for wrong shapes and, unless traced, values out of range."""
    rows = codes.age.shape[0] if jnp.ndim(codes.age) else -1
    for name, row in SIZES.items():
        actual = jnp.shape(getattr(codes, name))
        if actual != (rows, *row):
            raise ValueError(f"codes.{name} has shape {actual}, not [n, *{row}]")
    ranges: dict[str, tuple[Any, float, float]] = {
        "yaw": (codes.pose[:, 0], -90, 90),
        "pitch": (codes.pose[:, 1], -45, 45),
        "roll": (codes.pose[:, 2], -45, 45),
        "camera distance": (codes.camera[:, 0], 4, 100),
        "age": (codes.age, 1, 90),
    }
    for name, (values, low, high) in ranges.items():
        if isinstance(values, Tracer):
            continue
        outside = (values < low - 1e-3) | (values > high + 1e-3) | ~jnp.isfinite(values)
        if outside.any():
            row = int(outside.argmax())
            raise ValueError(
                f"{name} {float(values[row]):.1f} (row {row}) is not in {low}..{high}"
            )


@functools.partial(jax.jit, static_argnames=("size", "frame", "contour"))
def project_landmarks(
    codes: Codes, size: int = 112, frame: str = "aligned", contour: bool = False
) -> Array:
    """Returns 68 landmarks [n, 68, 2] in pixels, without rendering.

    Args:
      size, frame: see `render`.
      contour: the jaw follows the visible contour, as annotators of photographs mark
        it; see `landmarks.visible_jaw`. False: `Rendering.landmarks68`.
    """

    def one(row: Codes) -> Array:
        m = measures(row)
        f = shape.Features(m)
        skin, _ = shape.radius_maps(m, f)
        distance, rotation = row.camera[0], camera.rotation(row.pose)
        plane, points, _ = _project(row, f, skin, rotation, size, frame)
        if not contour:
            return points
        jaw = landmarks.visible_jaw(f, skin, rotation, distance)
        seen = camera.project(jaw @ rotation.T, distance)
        return jnp.concatenate([camera.to_pixels(plane, seen), points[17:]])

    return jax.lax.map(one, codes)


@functools.partial(jax.jit, static_argnames=("size", "frame", "quality"))
def _render(codes: Codes, size: int, frame: str, quality: str) -> Rendering:
    # One face at a time: its maps fit a core's cache, memory does not grow with n, and
    # the last bits of a row do not depend on the number of rows.
    def one(row: Codes) -> Rendering:
        return _draw(row, size, frame, quality)

    # The backward pass renders each face again instead of storing intermediates.
    return jax.lax.map(jax.checkpoint(one), codes)


def _project(
    codes: Codes, f: shape.Features, skin: Array, rotation: Array, size: int, frame: str
) -> tuple[camera.Frame, Array, Array]:
    """Returns the frame, then 68 and 5 landmarks in its pixels."""
    on_head = landmarks.on_skin(skin, landmarks.coordinates(f))
    points = on_head, landmarks.five(f, skin, on_head)
    rotated = (head @ rotation.T for head in points)
    sixty_eight, five = (camera.project(p, codes.camera[0]) for p in rotated)
    if frame == "aligned":
        plane = camera.aligned(five, size)
    else:
        plane = camera.loose(codes.camera[1:], size)
    return plane, camera.to_pixels(plane, sixty_eight), camera.to_pixels(plane, five)


def _draw(codes: Codes, size: int, frame: str, quality: str) -> Rendering:
    """Returns the rendering of one face: fields as in `Rendering`, without n."""
    samples, steps, shadows = _QUALITIES[quality]
    m = measures(codes)
    i = imaging.named(codes.imaging)
    f = shape.Features(m)
    skin, hair = shape.radius_maps(m, f)
    distance, rotation = codes.camera[0], camera.rotation(codes.pose)
    plane, sixty_eight, five = _project(codes, f, skin, rotation, size, frame)
    x, y, width = camera.grid(plane, size, samples)
    ray = camera.rays(x, y, distance)
    eye = (jnp.float32(0.0), jnp.float32(0.0), distance)
    origin, direction = camera.rotate(rotation.T, eye), camera.rotate(rotation.T, ray)
    hit = trace.head(skin, hair, origin, direction, steps=steps)
    head = jnp.clip(1.3 - hit.miss * (1 / (1.2 * width)), 0.0, 1.0)
    tones = paint.tones(m)
    surface = paint.paint(hit, f, m, tones, width)
    surface = paint.wear_mask(surface, hit.u, hit.v, f, i["mask"])
    lamp = light.main_lamp(codes.light)
    visible = jnp.float32(1.0)
    if shadows:
        to_lamp = camera.rotate(rotation.T, lamp[0])
        visible = trace.visible(skin, hair, hit.point, hit.normal, to_lamp)
    normal = camera.rotate(rotation, hit.normal)
    face = light.shade(codes.light, lamp, normal, ray, surface, visible)

    # Background, shoulders and neck, which do not rotate with the head.
    image = imaging.background(i, x, y)
    narrow = 1 - 0.25 * m["child"]
    torso = trace.ellipsoid(eye, ray, (0.0, -2.56, -0.42), (2.0 * narrow, 1.28, 0.95))
    neck = trace.ellipsoid(eye, ray, (0.0, -1.05, -0.30), (0.53 * narrow, 1.0, 0.55))
    cloth = imaging.hue(i["cloth_hue"], i["cloth_light"], 0.5)
    torso_cover = jnp.clip(0.5 - torso.miss * (1 / (1.5 * width)), 0, 1)
    coat = light.shade(codes.light, lamp, torso.normal, ray, paint.Paint(cloth), 1.0)
    neck_cover = jnp.clip(0.5 - neck.miss * (1 / (1.2 * width)), 0, 1)
    neck_cover = neck_cover * (neck.t < torso.t + 0.02)
    under = -0.65 - neck.t * ray[1]  # depth below the shadow of the chin
    throat = paint.Paint(tones.skin, jnp.clip(under / 0.75, 0.25, 1))
    throat = light.shade(codes.light, lamp, neck.normal, ray, throat, 1.0)
    before = jnp.where(neck_cover > 0.5, neck.t, 1e3)
    head = head * (hit.t < before + 0.02)
    image = paint.over(image, torso_cover, coat)
    image = paint.over(image, neck_cover, throat)
    image = paint.over(image, head, face)

    t_frame, rim, lens = occluders.glasses(origin, direction, f, i["glasses_shape"])
    worn = i["glasses"] * ((t_frame < hit.t + 0.1) | (head < 0.5))
    image = paint.over(image, 0.9 * lens * worn * i["glasses_dark"], [0.011] * 3)
    image = paint.over(image, rim * worn, [0.015] * 3)
    hand, shade = occluders.hand(x, y, i["hand_x"], i["hand_y"])
    lit = shade * jnp.maximum(0.28 * codes.light[0].mean(), 0.1)
    image = paint.over(image, hand * i["hand"], [c * lit for c in tones.skin])

    pool = functools.partial(imaging.pool, samples=samples)
    scale = 1 / (width * samples * camera.SCALE)
    image = imaging.record(imaging.expose([pool(c) for c in image], i), i, scale)
    head = pool(head)
    alpha = jnp.maximum(head, pool(jnp.maximum(torso_cover, neck_cover)))
    depth = jnp.where(head > 0.5, distance - pool(hit.t * -ray[2]), -10.0)
    return Rendering(image, sixty_eight, five, head, alpha, depth)
