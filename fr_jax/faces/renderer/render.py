"""From codes to pictures."""

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
from fr_jax.faces.renderer.codes import PATTERN_SIZE, SIZES, Codes, traits

Array = jax.Array


class Rendering(NamedTuple):
    """What `render` returns, for n faces of side S.

    Attributes:
      image: [n, S, S, 3] RGB in 0..1.
      landmarks68: [n, 68, 2] (x, y) in pixels, pixel centres at whole numbers; iBUG's
        order. Fixed places on the head: hidden ones are where they would be seen
        through it.
      landmarks5: [n, 5, 2] eyes, nose tip, corners of the mouth, image-left first.
      mask: [n, S, S] coverage of the head (skin and hair), 0..1.
      alpha: [n, S, S] coverage of head, neck and shoulders, 0..1.
      depth: [n, S, S] distance from the head's centre towards the camera in decimetres,
        -10 where there is no head.
    """

    image: Array
    landmarks68: Array
    landmarks5: Array
    mask: Array
    alpha: Array
    depth: Array


class _Quality(NamedTuple):
    samples: int  # per pixel and axis
    steps: int  # of a ray
    shadows: bool


_QUALITIES = {"full": _Quality(2, 16, True), "fast": _Quality(1, 14, False)}


class _Scene(NamedTuple):
    """One face prepared for rendering: everything that does not depend on the pixel."""

    skin: Array
    hair: Array
    turn: Array  # [3, 3] head -> camera
    frame: camera.Frame
    features: shape.Features
    tones: paint.Tones
    lattice: Array
    sixty_eight: Array
    five: Array


def render(
    codes: Codes, size: int = 112, frame: str = "aligned", quality: str = "full"
) -> Rendering:
    """Returns pictures of faces, with where everything is in them.

    Pure and differentiable by every code; rows do not depend on each other.

    Args:
      size: side of the pictures in pixels.
      frame: 'aligned' in ArcFace's template (`camera.template`), or 'loose': head and
        shoulders, moved by `codes.camera`.
      quality: 'full' has four samples a pixel and shadows, 'fast' one sample and none.

    Raises:
      ValueError: for codes of wrong shapes, an unknown frame or quality, and a yaw,
        pitch, roll, distance or age out of range where the values are known.
    """
    check(codes)
    if frame not in ("aligned", "loose") or quality not in _QUALITIES:
        raise ValueError(
            f"frame {frame!r}, quality {quality!r}: frames are 'aligned' and 'loose', "
            "qualities 'full' and 'fast'"
        )
    if size < 16:
        raise ValueError(f"size {size}: a face needs 16 pixels at least")
    return _render(codes, size, frame, quality)


def check(codes: Codes) -> None:
    """Raises ValueError for codes that are none; values only where they are known."""
    rows = codes.age.shape[0] if jnp.ndim(codes.age) else -1
    for name, shape_ in SIZES.items():
        found = jnp.shape(getattr(codes, name))
        if found != (rows, *shape_):
            raise ValueError(f"codes.{name} has shape {found}, not [n, *{shape_}]")
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


@functools.partial(jax.jit, static_argnames=("size", "frame", "quality"))
def _render(codes: Codes, size: int, frame: str, quality: str) -> Rendering:
    # One face at a time: its maps fit a core's cache, memory does not grow with n, and
    # no row's last bits depend on how many others there are.
    def one(row: Codes) -> Rendering:
        return _draw(row, _prepare(row, size, frame), size, _QUALITIES[quality])

    # The backward pass renders each face again instead of storing intermediates.
    return jax.lax.map(jax.checkpoint(one), codes)


def _prepare(codes: Codes, size: int, frame: str) -> _Scene:
    t = traits(codes.identity)
    e = shape.movements(codes.expression)
    f = shape.features(t, e, codes.age)
    skin, hair = shape.radius_maps(t, e, f, codes.age, codes.style)
    turn = camera.rotation(codes.pose)
    on_head = landmarks.on_skin(skin, landmarks.places(f))
    five = landmarks.five(f, skin, on_head)
    sixty_eight, five = (
        camera.seen(points @ turn.T, codes.camera[0]) for points in (on_head, five)
    )
    if frame == "aligned":
        to_pixels = camera.aligned(five, size)
    else:
        to_pixels = camera.loose(codes.camera[1:], size)
    return _Scene(
        skin,
        hair,
        turn,
        to_pixels,
        f,
        paint.tones(t, codes.age, codes.style),
        paint.lattice(codes.identity[-PATTERN_SIZE:]),
        camera.to_pixels(to_pixels, sixty_eight),
        camera.to_pixels(to_pixels, five),
    )


def _draw(codes: Codes, scene: _Scene, size: int, quality: _Quality) -> Rendering:
    t = traits(codes.identity)
    e = shape.movements(codes.expression)
    i = imaging.named(codes.imaging)
    distance, turn, f = codes.camera[0], scene.turn, scene.features
    x, y, width = camera.grid(scene.frame, size, quality.samples)
    ray = camera.rays(x, y, distance)
    eye = (jnp.float32(0.0), jnp.float32(0.0), distance)

    def to_head(vector) -> Any:
        return tuple(sum(turn[r, c] * vector[r] for r in range(3)) for c in range(3))

    def to_camera(vector) -> Any:
        return tuple(sum(turn[r, c] * vector[c] for c in range(3)) for r in range(3))

    origin, direction = to_head(eye), to_head(ray)
    hit = trace.head(scene.skin, scene.hair, origin, direction, steps=quality.steps)
    head = jnp.clip(1.3 - hit.miss * (1 / (1.2 * width)), 0.0, 1.0)
    surface = paint.paint(
        hit.u, hit.v, hit.hair, f, scene.tones, t, e, scene.lattice, codes.age, width
    )
    surface = paint.wear_mask(surface, hit.u, hit.v, f, i["mask"])
    lamp = light.main_lamp(codes.light)
    visible = jnp.float32(1.0)
    if quality.shadows:
        to_lamp = to_head(lamp[0])
        visible = trace.visible(scene.skin, scene.hair, hit.point, hit.normal, to_lamp)
    face = light.shade(codes.light, lamp, to_camera(hit.normal), ray, surface, visible)

    # Shoulders and neck, which do not turn with the head, over the background.
    image = imaging.background(i, x, y)
    narrow = 1 - 0.25 * shape.child_and_old(codes.age)[0]
    torso = trace.ellipsoid(eye, ray, (0.0, -2.56, -0.42), (2.0 * narrow, 1.28, 0.95))
    neck = trace.ellipsoid(eye, ray, (0.0, -1.05, -0.30), (0.53 * narrow, 1.0, 0.55))
    cloth = imaging.hue(i["cloth_hue"], i["cloth_light"], 0.5)
    torso_cover = jnp.clip(0.5 - torso.miss * (1 / (1.5 * width)), 0, 1)
    matt = paint.matt(cloth, 1.0)
    coat = light.shade(codes.light, lamp, torso.normal, ray, matt, 1.0)
    neck_cover = jnp.clip(0.5 - neck.miss * (1 / (1.2 * width)), 0, 1)
    neck_cover = neck_cover * (neck.t < torso.t + 0.02)
    under = -0.65 - neck.t * ray[1]  # below the chin's shadow
    matt = paint.matt(scene.tones.skin, jnp.clip(under / 0.75, 0.25, 1))
    throat = light.shade(codes.light, lamp, neck.normal, ray, matt, 1.0)
    before = jnp.where(neck_cover > 0.5, neck.t, 1e3)
    head = head * (hit.t < before + 0.02)
    image = paint.over(image, torso_cover, coat)
    image = paint.over(image, neck_cover, throat)
    image = paint.over(image, head, face)

    t_frame, rim, lens = occluders.glasses(origin, direction, f, i["glasses_shape"])
    worn = i["glasses"] * ((t_frame < hit.t + 0.1) | (head < 0.5))
    image = paint.over(image, 0.9 * lens * worn * i["glasses_dark"], [0.011] * 3)
    image = paint.over(image, rim * worn, [0.015] * 3)
    hand, shade = occluders.hand(x, y, (i["hand_x"], i["hand_y"]))
    lit = shade * jnp.maximum(0.28 * codes.light[0].mean(), 0.1)
    image = paint.over(image, hand * i["hand"], [c * lit for c in scene.tones.skin])

    pool = functools.partial(imaging.pool, samples=quality.samples)
    scale = 1 / (width * quality.samples * camera.SCALE)
    picture = imaging.record(imaging.expose([pool(c) for c in image], i), i, scale)
    head = pool(head)
    alpha = jnp.maximum(head, pool(jnp.maximum(torso_cover, neck_cover)))
    depth = jnp.where(head > 0.5, distance - pool(hit.t * -ray[2]), -10.0)
    return Rendering(picture, scene.sixty_eight, scene.five, head, alpha, depth)
