"""From codes to pictures: `render`, and the camera."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.faces import imaging, landmarks, light, paint, shape, trace
from fr_jax.faces.codes import PATTERN_SIZE, Codes, traits

Array = jax.Array
Vector = tuple[Array, Array, Array]


class Rendering(NamedTuple):
    """What `render` returns, for n faces of side S.

    Attributes:
      image: [n, S, S, 3] RGB in 0..1.
      landmarks68: [n, 68, 2] (x, y) in pixels, pixel centres at whole numbers; iBUG's
        order. Fixed places on the head: hidden ones are where they would be seen
        through it.
      landmarks5: [n, 5, 2] eyes, nose tip, corners of the mouth, image-left first.
      mask: [n, S, S] coverage of the head (skin and hair), 0..1.
      depth: [n, S, S] distance from the head's centre towards the camera in decimetres,
        -10 where there is no head.
    """

    image: Array
    landmarks68: Array
    landmarks5: Array
    mask: Array
    depth: Array


# ArcFace's template for 112 pixels.
_TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
_LOOSE = 0.26  # of a loose frame's side is a decimetre at the head's centre


def rotation(pose: Array) -> Array:
    """Returns the matrix [3, 3] head -> camera of (yaw, pitch, roll) in degrees."""
    yaw, pitch, roll = jnp.deg2rad(pose)
    cy, sy, cp, sp, cr, sr = (
        jnp.cos(yaw),
        jnp.sin(yaw),
        jnp.cos(pitch),
        jnp.sin(pitch),
        jnp.cos(roll),
        jnp.sin(roll),
    )
    turn = jnp.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    nod = jnp.array([[1.0, 0.0, 0.0], [0.0, cp, sp], [0.0, -sp, cp]])
    tilt = jnp.array([[cr, sr, 0.0], [-sr, cr, 0.0], [0.0, 0.0, 1.0]])
    return tilt @ nod @ turn


def _similarity(points: Array, template: Array) -> Array:
    """Returns (a, b, x, y) of the least-squares similarity points -> template.

    Umeyama, Least-squares estimation of transformation parameters, PAMI 1991, without
    reflection; [x'; y'] = [[a, -b], [b, a]] [x; y] + [tx; ty].
    """
    mean_p, mean_t = points.mean(axis=0), template.mean(axis=0)
    p, t = points - mean_p, template - mean_t
    square = jnp.sum(p * p) + 1e-9
    a = jnp.sum(p * t) / square
    b = jnp.sum(p[:, 0] * t[:, 1] - p[:, 1] * t[:, 0]) / square
    x = mean_t[0] - (a * mean_p[0] - b * mean_p[1])
    y = mean_t[1] - (b * mean_p[0] + a * mean_p[1])
    return jnp.stack([a, b, x, y])


def _screen(points: Array, distance: Array) -> Array:
    """Returns where points [n, 3] are seen in the plane z = 0, [n, 2], y down."""
    scale = distance / (distance - points[:, 2])
    return jnp.stack([points[:, 0] * scale, -points[:, 1] * scale], axis=1)


def _glasses(origin, direction, f, t, i) -> tuple[Array, Array, Array]:
    """Returns distance, cover of the frame and cover of the lenses, in a plane."""
    plane = 1.02
    distance = (plane - origin[2]) / jnp.where(
        jnp.abs(direction[2]) < 0.05, -0.05, direction[2]
    )
    x, y = (o + distance * d for o, d in zip(origin[:2], direction[:2]))
    bend = 0.18 * jnp.square(x)  # frames are curved around the face
    distance = distance + bend / jnp.maximum(jnp.abs(direction[2]), 0.2)
    x, y = (o + distance * d for o, d in zip(origin[:2], direction[:2]))
    eye = 0.93 * f.eye_u
    px, py = (jnp.abs(x) - eye) / 0.25, (y - f.eye_v + 0.02) / 0.19
    power = 2.2 + 4 * i["glasses_shape"]
    ring = jnp.power(
        jnp.power(jnp.abs(px) + 1e-3, power) + jnp.power(jnp.abs(py) + 1e-3, power),
        1 / power,
    )
    frame = jax.nn.sigmoid((0.11 - jnp.abs(ring - 1)) * 25)
    bridge = jax.nn.sigmoid(
        (0.025 - jnp.abs(y - f.eye_v - 0.04)) * 150
    ) * jax.nn.sigmoid((eye - 0.25 - jnp.abs(x)) * 60)
    lens = jax.nn.sigmoid((1 - ring) * 25)
    ahead = jax.nn.sigmoid(-direction[2] * 30 - 3.0)
    return distance, jnp.maximum(frame, bridge) * ahead, lens * ahead


def _hand(x: Array, y: Array, i: dict[str, Array], skin: list) -> tuple[Array, list]:
    """Returns cover and colour of a hand before the face; places in decimetres."""
    cx, cy = 0.7 * i["hand_x"], 0.35 - 0.8 * i["hand_y"]
    px, py = x - cx, y - cy
    inside = 0.36 - jnp.hypot(px, 0.85 * (py - 0.35))
    shade = inside
    for k in range(4):
        lean = (k - 1.5) * 0.16
        along = jnp.clip(-py - 0.0, 0.0, 0.62 - 0.06 * abs(k - 1.5))
        away = 0.085 - jnp.hypot(px - lean * (1 + 0.35 * along), py + along)
        inside = jnp.maximum(inside, away)
        shade = jnp.maximum(shade, away * 2)
    light = 0.55 + 0.45 * jnp.clip(shade / 0.15, 0, 1)
    return jax.nn.sigmoid(inside * 60) * i["hand"], [c * light for c in skin]


def _one(codes: Codes, size: int, frame: str, steps: int, shadows: bool) -> Rendering:
    t = traits(codes.identity)
    e = shape.movements(codes.expression)
    i = imaging.named(codes.imaging)
    f = shape.features(t, e, codes.age)
    skin, hair = shape.radius_maps(t, e, f, codes.age, codes.style)

    turn = rotation(codes.pose)
    uv = landmarks.places(f)
    on_head = landmarks.on_skin(skin, uv)
    five = landmarks.five(f, skin, on_head)
    distance = codes.camera[0]
    points68 = _screen(on_head @ turn.T, distance)
    points5 = _screen(five @ turn.T, distance)
    if frame == "aligned":
        template = (jnp.array(_TEMPLATE) + 0.5) * (size / 112) - 0.5
        a, b, tx, ty = _similarity(points5, template)
    else:
        a, b = jnp.float32(_LOOSE * size), jnp.float32(0.0)
        tx = (0.5 + codes.camera[1]) * size - 0.5
        ty = (0.5 + codes.camera[2]) * size - 0.5
    to_pixels = jnp.array([[a, b], [-b, a]])
    origin_px = jnp.stack([tx, ty])
    points68 = points68 @ to_pixels + origin_px
    points5 = points5 @ to_pixels + origin_px

    # rays
    column = jnp.arange(size, dtype=jnp.float32)
    px, py = column[None, :] - tx, column[:, None] - ty
    square = a * a + b * b
    x, y = (a * px + b * py) / square, (-b * px + a * py) / square
    scale = jax.lax.rsqrt(square)  # decimetres of a pixel
    y_up = -y
    length = jax.lax.rsqrt(x * x + y_up * y_up + distance * distance)
    world = (x * length, y_up * length, -distance * length)
    camera = (jnp.float32(0.0), jnp.float32(0.0), distance)

    def to_head(vector):
        return tuple(sum(turn[r, c] * vector[r] for r in range(3)) for c in range(3))

    origin, direction = to_head(camera), to_head(world)
    hit = trace.head(skin, hair, origin, direction, steps=steps)
    cover = jnp.clip(1.3 - hit.miss / (1.2 * scale), 0.0, 1.0)

    # what is lit
    surface = paint.paint(
        hit.u,
        hit.v,
        hit.hair,
        f,
        t,
        e,
        codes.identity[-PATTERN_SIZE:],
        codes.age,
        codes.style,
        scale,
    )
    normal = tuple(sum(turn[r, c] * hit.normal[c] for c in range(3)) for r in range(3))
    lamp, lamp_colour = light.main_lamp(codes.light)

    def lit(normal, colour, dim, shine, seen):
        harmonic = light.harmonics_of(normal)
        lights = light.irradiance(codes.light, harmonic)
        facing = jnp.maximum(sum(n * k for n, k in zip(normal, lamp)), 0.0)
        half = [k - w for k, w in zip(lamp, world)]
        inverse = jax.lax.rsqrt(sum(h * h for h in half) + 1e-6)
        gloss = jnp.maximum(sum(n * h for n, h in zip(normal, half)) * inverse, 0.0)
        gloss = jnp.power(gloss + 1e-4, 18.0) * seen * shine
        out = []
        for c in range(3):
            direct = lamp_colour[c] * facing * (1 - seen)
            returned = jnp.maximum(lights[c] - direct, 0.05 * lights[c])
            returned = jnp.maximum(returned, 0.01) * dim
            out.append(colour[c] * returned + gloss * lamp_colour[c])
        return out

    seen = jnp.ones_like(x)
    if shadows:
        to_lamp = to_head(lamp)
        seen = trace.visible(skin, hair, hit.point, hit.normal, to_lamp)
    face = lit(normal, surface.colour, surface.dim, surface.shine, seen)

    # neck and shoulders, behind them the background
    tone = [c * (1 + 0 * x) for c in paint.skin_tone(t, codes.style)]
    cloth = [
        c * (1 + 0 * x) for c in imaging.hue(i["cloth_hue"], i["cloth_light"], 0.5)
    ]
    image = imaging.background(i, px / size, py / size)
    child, _ = shape.child_and_old(codes.age)
    narrow = 1 - 0.25 * child
    t_torso, miss, n_torso = trace.ellipsoid(
        camera, world, (0.0, -2.72, -0.45), (2.0 * narrow, 1.28, 0.9)
    )
    over = jnp.clip(0.5 - miss / (1.5 * scale), 0, 1)
    torso = lit(n_torso, cloth, jnp.ones_like(x), 0.0 * x, jnp.ones_like(x))
    image = [b + over * (c - b) for b, c in zip(image, torso)]
    t_neck, miss, n_neck = trace.ellipsoid(
        camera, world, (0.0, -1.05, -0.30), (0.53 * narrow, 1.0, 0.55)
    )
    near = jnp.clip(
        (jnp.abs(-0.55 - (camera[1] + t_neck * world[1])) - 0.1) / 0.75, 0.25, 1
    )
    over = jnp.clip(0.5 - miss / (1.2 * scale), 0, 1) * (t_neck < t_torso + 0.02)
    neck = lit(n_neck, tone, near, 0.0 * x, jnp.ones_like(x))
    image = [b + over * (c - b) for b, c in zip(image, neck)]
    behind = jnp.where(over > 0.5, t_neck, 1e3)
    cover = cover * (
        hit.t < jnp.minimum(behind, jnp.where(miss > 0, 1e3, behind)) + 0.02
    )
    image = [b + cover * (c - b) for b, c in zip(image, face)]

    t_frame, frame_cover, lens = _glasses(origin, direction, f, t, i)
    before = (t_frame < hit.t + 0.1) | (cover < 0.5)
    frame_cover = frame_cover * before * i["glasses"]
    lens = lens * before * i["glasses"] * i["glasses_dark"]
    image = [b * (1 - 0.9 * lens) + 0.01 * lens for b in image]
    image = [b + frame_cover * (0.015 - b) for b in image]
    hand, hand_colour = _hand(
        x, y, i, [c * jnp.maximum(codes.light[0].mean() * 0.28, 0.1) for c in tone]
    )
    image = [b + hand * (c - b) for b, c in zip(image, hand_colour)]

    display = imaging.expose(jnp.stack(image, axis=-1), i)
    picture = imaging.record(display, i)
    depth = jnp.where(cover > 0.5, distance - hit.t * -world[2], -10.0)
    return Rendering(picture, points68, points5, cover, depth)


@functools.partial(jax.jit, static_argnames=("size", "frame", "full"))
def render(
    codes: Codes, size: int = 112, frame: str = "aligned", full: bool = True
) -> Rendering:
    draw = functools.partial(
        _one, size=size, frame=frame, steps=18 if full else 12, shadows=full
    )
    return jax.lax.map(draw, codes)
