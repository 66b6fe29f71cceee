"""A rendered video of several identities in every shot, with ground truth.

Training data of self-augmentation (Lee et al., ICRA 2020, on the music videos of Zhang
et al., ECCV 2016): heads move, rotate and occlude each other; hair, clothes, glasses
and light change between shots.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.errors import UserError
from fr_jax.faces import sets
from fr_jax.faces.renderer import imaging
from fr_jax.faces.renderer.codes import IMAGING, STYLE, Codes
from fr_jax.faces.renderer.render import render
from fr_jax.faces.renderer.sample import (
    sample_expression,
    sample_identities,
    sample_light,
)

Array = jax.Array

RATE = 25.0  # frames per second
_TILE = 0.5  # side of the image of a head before scaling, in frame heights
_BODY = 1.5  # length of a body below its tile, in tiles
_NECK = 0.17  # half the width of a neck, in tiles


class Frame(NamedTuple):
    """One frame and its ground truth, P identities.

    Attributes:
      image: uint8 RGB [H, W, 3].
      shot: number of the shot.
      identities: [P] numbers within the group, from 0.
      landmarks5, landmarks68: [P, 5, 2] and [P, 68, 2], (x, y) in pixels.
      pose: [P, 3] yaw, pitch, roll in degrees.
      visible: [P] share of each head that is in the frame and not occluded.
    """

    image: np.ndarray
    shot: int
    identities: np.ndarray
    landmarks5: np.ndarray
    landmarks68: np.ndarray
    pose: np.ndarray
    visible: np.ndarray


class Film:
    """The frames of a video, rendered on iteration.

    Args:
      num_identities: size of the group, numbered from `sets.FIRST_UNSEEN`.
      frames: frames per shot, 25 per second.
      together: identities per shot; any `num_identities` shots show all of them.
      size: width and height of a frame in pixels.

    Raises:
      UserError: for no frames, more identities in a shot than in the group, and frames
        smaller than 160x120 or with odd sides.
    """

    def __init__(
        self,
        seed: int,
        *,
        num_identities: int = 6,
        shots: int = 8,
        frames: int = 40,
        together: int = 3,
        size: tuple[int, int] = (640, 360),
        quality: str = "full",
    ):
        if min(shots, frames) < 1:
            raise UserError(f"{shots} shots of {frames} frames; use at least 1 and 1")
        if not 2 <= together <= num_identities:
            raise UserError(
                f"{together} identities in a shot, {num_identities} in the group; use "
                f"2 to {num_identities}"
            )
        width, height = size
        if width < 160 or height < 120 or width % 2 or height % 2:
            raise UserError(
                f"frames of {width}x{height}; use even sides, at least 160x120"
            )
        self.size, self._shots, self._frames = size, shots, frames
        self._key = jax.random.key(seed)
        self._static = num_identities, together, size, quality

    def __len__(self) -> int:
        return self._shots * self._frames

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames; the next one is rendered while the caller uses one."""
        numbers = itertools.product(range(self._shots), range(self._frames))
        started = ((n[0], _frame(self._key, *n, *self._static)) for n in numbers)
        for shot, rendered in sets.one_ahead(started):
            image, *truth = (np.asarray(part) for part in rendered)
            yield Frame(image, shot, *truth)


@functools.partial(
    jax.jit, static_argnames=("num_identities", "together", "size", "quality")
)
def _frame(key, shot, within, num_identities, together, size, quality):
    """Returns the fields of a `Frame`, without `shot`, at frame `within` of a shot."""
    width, height = size
    key_shot = jax.random.fold_in(key, shot)
    keys = jax.random.split(key_shot, 8)
    others = jax.random.permutation(keys[0], num_identities - 1)[: together - 1]
    cast = jnp.concatenate([jnp.zeros(1, others.dtype), others + 1])
    cast = (cast + shot) % num_identities
    time = within / RATE
    scene = _scene(keys[1])
    actor = functools.partial(_actor, key, keys[2], scene, time, together)
    lanes = jax.random.permutation(keys[3], together)
    codes, centre, side = jax.vmap(actor)(cast, lanes)

    tile = round(_TILE * height / 8) * 8
    rendered = render(codes, tile, "loose", quality)
    scale = side * height / tile  # [P]
    corner = centre * jnp.array([[width, height]]) - scale[:, None] * tile / 2
    x, y = (
        (jnp.arange(length, dtype=jnp.float32) - length / 2) / height
        for length in (width, height)
    )
    named = scene[1]
    # Same scale as behind a single head: a frame shows four decimetres of wall.
    background = imaging.background(named, *jnp.meshgrid(4 * x, 4 * y))
    image = jnp.clip(jnp.stack(imaging.expose(background, named), axis=-1), 0, 1)
    heads = jnp.zeros((together, height, width))
    parts = [rendered.image, rendered.alpha, rendered.mask]
    tiles, _ = einops.pack(parts, "person h w *")
    for rank in range(together):  # from the farthest to the nearest
        person = jnp.argsort(side)[rank]
        layers = jnp.concatenate([tiles[person], _body(tiles[person, -1])])
        scales = jnp.stack([scale[person]] * 2)
        layers = jax.image.scale_and_translate(
            layers, (height, width, 5), (0, 1), scales, corner[person, ::-1], "linear"
        )
        cover = layers[..., 3:4]
        image = image + cover * (layers[..., :3] - image)
        heads = heads * (1 - cover[None, ..., 0])
        heads = heads.at[person].set(layers[..., 4])
    whole = rendered.mask.sum(axis=(1, 2)) * jnp.square(scale)

    def to_frame(points):  # [P, n, 2]
        return (points + 0.5) * scale[:, None, None] + corner[:, None] - 0.5

    return (
        jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8),
        cast,
        to_frame(rendered.landmarks5),
        to_frame(rendered.landmarks68),
        codes.pose,
        heads.sum(axis=(1, 2)) / whole,
    )


def _body(last: Array) -> Array:
    """Returns neck and shirt below the last row [T, 5] of a head's image."""
    tile = len(last)
    middle, half = tile // 2, round(_NECK * tile)
    across = jnp.clip((jnp.arange(tile) - middle + half) / (2 * half), 0.0, 1.0)
    left, right = last[None, middle - half], last[None, middle + half]
    shirt = left + across[:, None] * (right - left)
    inside = jnp.abs(jnp.arange(tile) - middle) < half
    shirt = jnp.where(inside[:, None], shirt, last)
    down = jnp.clip(jnp.arange(round(_BODY * tile)) / (0.06 * tile), 0.0, 1.0)
    body = last[None] + down[:, None, None] * (shirt - last)[None]
    return body.at[..., 4].set(0.0)


def _scene(key: Array) -> tuple[Array, dict[str, Array]]:
    """Returns light and imaging, by name, of a shot; one shot in four is dark."""
    keys = jax.random.split(key, 3)
    sampled = imaging.named(jax.random.uniform(keys[0], (len(IMAGING),)))
    dim = jnp.where(jax.random.bernoulli(keys[1], 0.25), 0.35, 1.0)
    values = {
        **dict.fromkeys(("resolution", "contrast", "saturation"), 1.0),
        "back_hue": sampled["back_hue"],
        "back_light": (0.2 + 0.6 * sampled["back_light"]) * jnp.sqrt(dim),
        "back_busy": 0.2 + 0.8 * sampled["back_busy"],
        "grain": sampled["grain"],
    }
    named = {name: jnp.float32(values.get(name, 0.0)) for name in IMAGING}
    return sample_light(keys[2]) * dim, named


def _actor(key, key_shot, scene, time, together, member, lane):
    """Returns codes, position and size (shares of the frame) of an identity at a time.

    `key` determines the constant codes, `key_shot` those that differ between shots.
    """
    identity = jax.random.fold_in(key, sets.FIRST_UNSEEN + member)
    day = jax.random.fold_in(key_shot, member)
    keys = jax.random.split(day, 6)
    moved = jax.vmap(_wander, (0, None))(jax.random.split(keys[0], 7), time)
    u = jax.random.uniform(keys[1], (8,))
    first, second = jax.vmap(sample_expression)(jax.random.split(keys[2], 2))
    change = 0.5 - 0.5 * jnp.cos(2 * jnp.pi * (time / 4 + u[0]))
    yaw = 60 * moved[0] + 30 * (u[5] - 0.5)
    age = 28 + 8 * jax.random.normal(jax.random.fold_in(identity, 1))
    light, named = scene
    named = named | {
        "cloth_hue": u[1],
        "cloth_light": u[2],
        "glasses": (u[3] < 0.15).astype(jnp.float32),
        "glasses_shape": u[4],
    }
    codes = Codes(
        identity=sample_identities(jax.random.fold_in(identity, 0), 1)[0],
        expression=first + change * (second - first),
        pose=jnp.stack([yaw, 12 * moved[1], 8 * moved[2]]),
        camera=jnp.array([25.0, 0.0, 0.0]),
        light=light,
        age=jnp.clip(age, 16, 60),
        style=jnp.clip(0.6 * jax.random.normal(keys[3], (len(STYLE),)), -1, 1),
        imaging=jnp.stack([named[name] for name in IMAGING]),
    )
    step = 0.006 * jnp.sin(2 * jnp.pi * (1.8 * time + u[6]))
    across = (lane + 0.5) / together + 0.9 / together * moved[3]
    centre = jnp.stack([across, 0.45 + 0.06 * moved[4] + step])
    side = (0.5 + 0.35 * u[7]) * (1 + 0.12 * moved[5])
    return codes, centre, side


def _wander(key: Array, time: Array) -> Array:
    """Returns the position, -1..1, on a smooth random path after `time` seconds."""
    u = jax.random.uniform(key, (4,))
    slow = jnp.sin(2 * jnp.pi * (time / (4 + 4 * u[0]) + u[1]))
    quick = jnp.sin(2 * jnp.pi * (time / (1.5 + 1.5 * u[2]) + u[3]))
    return 0.75 * slow + 0.25 * quick
