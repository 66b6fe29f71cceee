"""Labelled sets of rendered faces: pure functions of (seed, identity, image).

An identity is a number below 2**31. Identity 12 of seed 0 is the same in every set,
shard and process; its image 5 in one set is always the same image. Nothing is stored,
so a set of millions takes no memory, and shards with disjoint numbers have disjoint
identities.

    faces = sets.arrays(sets.default(), num_identities=40, images=12, size=64)
    stream = ArrayStream(faces, 32)

The sets follow the training data of the five published systems:

    default     new codes in every image, age within a few years
    usynthface  DiscoFaceGAN as sampled by USynthFace: one identity code, new
                expression, pose and light (Boutros et al., FG 2023)
    kdef        7 expressions x 5 angles x 2 sessions (Lundqvist, Flykt, Ohman 1998)
    multipie    13 poses x 20 lights (Gross et al. 2010; DR-GAN's use of it)
    ages        children and adults (Lee et al., BMVC 2021)
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from fr_jax.backend import cpu, memory
from fr_jax.errors import UserError
from fr_jax.faces.renderer import imaging, light
from fr_jax.faces.renderer.codes import EXPRESSIONS, IMAGING, STYLE, Codes, expression
from fr_jax.faces.renderer.render import render
from fr_jax.faces.renderer.sample import sample_codes, sample_identities
from fr_jax.progress import progress_bar

Array = jax.Array

# First identity of evaluation sets. Training sets of the same seed begin at 0, so
# evaluated identities are unseen.
FIRST_UNSEEN = 1 << 30
CHUNK = 32  # faces rendered at a time by each device
KDEF_ANGLES = (-90, -45, 0, 45, 90)
MULTIPIE_ANGLES = tuple(range(-90, 91, 15))
_LIGHTS = 20
_CHILD_AGES, _ADULT_AGES = (1, 12), (18, 75)


class Labelled(NamedTuple):
    """Codes and labels; -1 for a label that the set does not define.

    Attributes:
      codes: with age and pose, which are labels as well.
      expression: index into `EXPRESSIONS`.
      light: index into `light.presets()`.
      session: day of the image, 0 or 1.
    """

    codes: Codes
    expression: Array | int = -1
    light: Array | int = -1
    session: Array | int = -1


class FaceSet(NamedTuple):
    """A set of faces, before rendering.

    Attributes:
      name: of the set.
      label: (key of an identity, image number) -> Labelled of one face; pure.
      images: images per identity; 0 for any number.
    """

    name: str
    label: Callable[[Array, Array], Labelled]
    images: int = 0


class Rendered(NamedTuple):
    """Images of n faces with their labels, NumPy arrays.

    `image` is uint8 RGB [n, S, S, 3]; landmarks are (x, y) in pixels.
    """

    image: np.ndarray
    landmarks5: np.ndarray
    landmarks68: np.ndarray
    labelled: Labelled


def identity_name(seed: int, number: int) -> str:
    """Returns the name of an identity, the same in every set: `s0n0000012`."""
    return f"s{seed}n{number:07}"


@functools.cache
def default(max_yaw: float = 90.0) -> FaceSet:
    """Returns the set of photograph-like faces, ages within a few years."""

    def label(identity_key: Array, image: Array) -> Labelled:
        codes, key = _everyday(identity_key, image, max_yaw)
        age = _age(identity_key) + 4 * jax.random.normal(key)
        return Labelled(codes._replace(age=jnp.clip(age, 3.0, 88.0)))

    return FaceSet("default", label)


@functools.cache
def usynthface(max_yaw: float = 90.0) -> FaceSet:
    """Returns the set of clean images: only expression, pose and light vary.

    DiscoFaceGAN's noise code, which determines much of the background, is constant for
    an identity. Here background and clothes vary, so that they do not reveal it.
    """

    def label(identity_key: Array, image: Array) -> Labelled:
        varied, key = _everyday(identity_key, image, max_yaw)
        codes = _portrait(identity_key, key)._replace(
            expression=varied.expression, pose=varied.pose, light=varied.light
        )
        return Labelled(codes)

    return FaceSet("usynthface", label)


@functools.cache
def kdef() -> FaceSet:
    """Returns the set of 7 expressions x 5 angles x 2 sessions, the angle first.

    As in KDEF: ages 20 to 30, no glasses or beards, grey shirts, a plain wall, soft
    light from the front. A session changes style, light and strength of expression.
    """

    def label(identity_key: Array, image: Array) -> Labelled:
        session, shown, angle = _grid(image, len(EXPRESSIONS), len(KDEF_ANGLES))
        moved = jnp.stack([expression(name) for name in EXPRESSIONS])[shown]
        yaw = jnp.array(KDEF_ANGLES, jnp.float32)[angle]
        key = jax.random.fold_in(jax.random.fold_in(identity_key, 5), session)
        day = jax.random.normal(key, (3 + len(STYLE),))
        aside = 0.1 * day[0] + jnp.array([-0.7, 0.7])
        towards = jnp.stack([aside, jnp.full(2, 0.5), jnp.ones(2)], axis=1)
        lamps = light.lamp(towards, jnp.full((2, 3), 0.3))
        bright = light.ambient(jnp.full(3, 0.45)) + lamps.sum(axis=0)
        beard = jnp.array([name == "beard" for name in STYLE])
        studio = {"back_hue": 0.6, "back_light": 0.75, "back_busy": 0.0}
        studio |= {"cloth_hue": 0.6, "cloth_light": 0.4}
        key = jax.random.fold_in(jax.random.fold_in(identity_key, 3), image)
        tilt = jax.random.normal(key, (2,))  # pitch and roll in degrees
        codes = _portrait(identity_key, key, **studio)._replace(
            expression=moved * jnp.clip(0.95 + 0.08 * day[1], 0.8, 1.1),
            pose=jnp.concatenate([yaw[None], tilt]),
            light=bright * jnp.clip(1 + 0.08 * day[2], 0.8, 1.2),
            age=jax.random.uniform(
                jax.random.fold_in(identity_key, 1), (), None, 20.0, 30.0
            ),
            style=jnp.where(beard, -1.0, jnp.clip(0.3 * day[3:], -1, 1)),
        )
        return Labelled(codes, expression=shown, session=session)

    return FaceSet("kdef", label, 2 * len(EXPRESSIONS) * len(KDEF_ANGLES))


@functools.cache
def multipie(
    angles: tuple[float, ...] = MULTIPIE_ANGLES,
    lights: tuple[int, ...] = tuple(range(_LIGHTS)),
) -> FaceSet:
    """Returns the set of poses x lights of a neutral face, the light first.

    Args:
      angles: yaws in degrees; by default the 13 of Multi-PIE.
      lights: indices into `light.presets()`; by default all twenty.

    Raises:
      UserError: for an unknown light.
    """
    for number in lights:
        if not 0 <= number < _LIGHTS:
            raise UserError(f"light {number}: there are {_LIGHTS}, 0 to {_LIGHTS - 1}")

    def label(identity_key: Array, image: Array) -> Labelled:
        _, pose, lamp = _grid(image, len(angles), len(lights))
        yaw = jnp.array(angles, jnp.float32)[pose]
        lamp = jnp.array(lights, jnp.int32)[lamp]
        room = {"back_hue": 0.5, "back_light": 0.5, "back_busy": 0.3}
        codes = _portrait(identity_key, jax.random.fold_in(identity_key, 6), **room)
        codes = codes._replace(
            pose=jnp.stack([yaw, 0.0 * yaw, 0.0 * yaw]),
            light=light.presets()[lamp],
            age=jnp.clip(codes.age, 18.0, 60.0),
        )
        return Labelled(codes, expression=0, light=lamp, session=0)

    return FaceSet("multipie", label, len(angles) * len(lights))


@functools.cache
def ages(child_share: float = 1.0, max_yaw: float = 90.0) -> FaceSet:
    """Returns the set of adults, 18 to 75 years old, and child images of 1 to 12 years.

    Args:
      child_share: share of identities with child images: every second image of each.
    """

    def label(identity_key: Array, image: Array) -> Labelled:
        codes, key = _everyday(identity_key, image, max_yaw)
        child = _owns_child_images(identity_key, child_share) & (image % 2 == 0)
        spans = [
            jax.random.randint(key, (), first, last + 1)
            for first, last in (_CHILD_AGES, _ADULT_AGES)
        ]
        return Labelled(codes._replace(age=jnp.where(child, *spans).astype(float)))

    return FaceSet("ages", label)


def child_owners(seed: int, numbers: np.ndarray, child_share: float) -> np.ndarray:
    """Returns a mask [n] of the identities of `ages(child_share)` with child images."""
    keys = _identity_keys(jax.random.key(seed), jnp.asarray(numbers, jnp.uint32))
    return np.asarray(jax.vmap(_owns_child_images, (0, None))(keys, child_share))


SETS: dict[str, Callable[..., FaceSet]] = {
    make.__name__: make for make in (default, usynthface, kdef, multipie, ages)
}


def _identity_keys(seed_key: Array, numbers: Array) -> Array:
    """Returns the key of each identity."""
    return jax.vmap(jax.random.fold_in, (None, 0))(seed_key, numbers)


def _identity(identity_key: Array) -> Array:
    return sample_identities(jax.random.fold_in(identity_key, 0), 1)[0]


def _age(identity_key: Array) -> Array:
    key = jax.random.fold_in(identity_key, 1)
    return jnp.clip(36.0 + 14.0 * jax.random.normal(key), 8.0, 80.0)


def _owns_child_images(identity_key: Array, share: float) -> Array:
    return jax.random.uniform(jax.random.fold_in(identity_key, 2)) < share


def _everyday(identity_key: Array, image: Array, max_yaw: float) -> tuple[Codes, Array]:
    """Returns photograph-like codes of an image, and a key for further sampling."""
    key = jax.random.fold_in(jax.random.fold_in(identity_key, 3), image)
    identity = _identity(identity_key)[None]
    sampled = sample_codes(jax.random.fold_in(key, 0), 1, identity=identity)
    codes: Codes = jax.tree.map(lambda field: field[0], sampled)
    key_yaw = jax.random.fold_in(key, 1)
    within = jax.random.uniform(key_yaw, minval=-max_yaw, maxval=max_yaw)
    yaw = codes.pose[0]
    yaw = jnp.where(jnp.abs(yaw) <= max_yaw, yaw, within)
    return codes._replace(pose=codes.pose.at[0].set(yaw)), jax.random.fold_in(key, 2)


def _portrait(identity_key: Array, key: Array, **given: float) -> Codes:
    """Returns codes of a neutral frontal portrait, sharp and evenly lit.

    Age, style and distance depend on the identity alone; background and clothes are
    sampled from `key` unless `given`.
    """
    sampled = imaging.named(jax.random.uniform(key, (len(IMAGING),)))
    shown = ("back_hue", "back_light", "back_busy", "cloth_hue", "cloth_light", "grain")
    plain = {"blur": 0.2, "resolution": 1.0, "contrast": 1.0, "saturation": 1.0}
    values = {name: sampled[name] for name in shown} | plain | given
    usual = jax.random.normal(jax.random.fold_in(identity_key, 4), (1 + len(STYLE),))
    return Codes(
        identity=_identity(identity_key),
        expression=expression("neutral"),
        pose=jnp.zeros(3),
        camera=jnp.stack([25.0 * jnp.exp(0.2 * usual[0]), 0.0, 0.0]),
        light=light.ambient(jnp.full(3, 0.7)),
        age=_age(identity_key),
        style=jnp.clip(0.4 * usual[1:], -1, 1),
        imaging=jnp.stack([jnp.float32(values.get(name, 0.0)) for name in IMAGING]),
    )


def _grid(image: Array, middle: int, last: int) -> tuple[Array, Array, Array]:
    """Returns an image's indices along three axes, the last one fastest."""
    image = image.astype(jnp.int32)
    return image // (middle * last), image // last % middle, image % last


def label_rows(
    face_set: FaceSet, seed_key: Array, identities: Array, images: Array
) -> Labelled:
    """Returns codes and labels of faces without rendering them; traceable.

    Args:
      identities, images: uint32 [n], numbers of identity and image, below 2**31.
    """
    return jax.vmap(face_set.label)(_identity_keys(seed_key, identities), images)


def label(face_set: FaceSet, seed: int, identities: Any, images: Any) -> Labelled:
    """Returns codes and labels of faces without rendering them, as NumPy arrays.

    Args:
      identities, images: [n], numbers of identity and image, 0 .. 2**31 - 1.
    """
    numbers = np.stack([identities, images]).astype(np.uint32)
    return jax.tree.map(
        np.asarray, _labeller()(face_set, jax.random.key(seed), *numbers)
    )


@functools.cache
def _labeller() -> Callable[..., Labelled]:
    # Sampling hundreds of random numbers compiles slowly and runs fast.
    options = cpu.quick_compilation()
    return jax.jit(label_rows, static_argnums=0, compiler_options=options)


@functools.partial(jax.jit, static_argnames=("mesh", "size", "frame", "quality"))
def render_rows(
    codes: Codes,
    *,
    mesh: Mesh,
    size: int,
    frame: str = "aligned",
    quality: str = "full",
) -> tuple[Array, Array, Array]:
    """Returns images uint8 [n, S, S, 3], five and 68 landmarks of n codes.

    Every device along the mesh's axis 'data' renders its rows one by one: a row depends
    neither on other rows nor on the number of devices.
    """

    def local(codes):
        rendered = render(codes, size, frame, quality)
        image = jnp.round(rendered.image * 255).astype(jnp.uint8)
        return image, rendered.landmarks5, rendered.landmarks68

    rows = PartitionSpec("data")
    return jax.shard_map(
        local, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
    )(codes)


def render_set(
    face_set: FaceSet,
    seed: int,
    identities: Any,
    images: Any,
    *,
    size: int = 112,
    frame: str = "aligned",
    quality: str = "full",
) -> Iterator[Rendered]:
    """Yields faces in order, at most `CHUNK` for each device at a time.

    The next chunk is rendered while the caller uses the last one.

    Args:
      identities, images: [n], numbers of identity and image, 0 .. 2**31 - 1.
      size, frame, quality: see `render`.
    """
    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)
    chunk = CHUNK * mesh.size
    seed_key = jax.random.key(seed)
    numbers = np.stack([identities, images]).astype(np.uint32)  # [2, n]
    options = {"mesh": mesh, "size": size, "frame": frame, "quality": quality}

    def started() -> Iterator[tuple[tuple, int]]:
        for start in range(0, numbers.shape[1], chunk):
            part = numbers[:, start : start + chunk]
            padded = np.pad(part, ((0, 0), (0, chunk - part.shape[1])), mode="edge")
            labelled = _labeller()(face_set, seed_key, *padded)
            yield (*render_rows(labelled.codes, **options), labelled), part.shape[1]

    for rendered, rows in one_ahead(started()):
        yield Rendered(*jax.tree.map(lambda field: np.asarray(field)[:rows], rendered))  # noqa: B023


def one_ahead(started: Iterable[Any]) -> Iterator[Any]:
    """Yields each item after the next one has been started."""
    for item, _ in itertools.pairwise(itertools.chain(started, [None])):
        yield item


def face_boxes(landmarks68: np.ndarray) -> np.ndarray:
    """Returns boxes [n, 4] (x, y, width, height) around 68 landmarks [n, 68, 2].

    From the chin to a quarter of the height above the brows, similar to detectors.
    """
    low, high = landmarks68.min(axis=1), landmarks68.max(axis=1)
    low = low - (high - low) * (0.0, 0.25)
    return np.concatenate([low, high - low], axis=1)


def arrays(
    face_set: FaceSet,
    *,
    seed: int = 0,
    num_identities: int,
    images: int = 0,
    first: int = 0,
    frame: str = "aligned",
    size: int = 112,
    quality: str = "fast",
    labels: bool = False,
    progress: str = "",
) -> dict[str, np.ndarray]:
    """Returns a set rendered once, for an `ArrayStream`: image, label, age [N].

    For devices on which rendering an image costs more than training on it, such as a
    CPU; on accelerators `batches.make` renders new images as fast as they are used.

    Args:
      num_identities: numbered from `first`; labels are 0 .. num_identities - 1.
      frame: 'aligned' or 'loose'; see `render`.
      images: images per identity; 0 for the set's fixed number.
      labels: add yaw, pitch, expression, session [N] and landmarks68 [N, 68, 2].
      progress: label of a progress bar; '' shows none.

    Raises:
      UserError: for no identities, no images, a number other than the set's, and images
        that exceed the memory.
    """
    label, number = rows(face_set, num_identities, images)
    _check_memory(len(label), size)
    pixels, done = np.empty((len(label), size, size, 3), np.uint8), 0
    columns: list[dict[str, np.ndarray]] = []
    numbers = first + label, number
    options = {"total": len(label), "label": progress, "disable": not progress}
    with progress_bar(**options, leave=False) as bar:
        shown = {"size": size, "frame": frame, "quality": quality}
        for part in render_set(face_set, seed, *numbers, **shown):
            bar.update(len(part.image))
            pixels[done : done + len(part.image)] = part.image
            done += len(part.image)
            columns.append(_columns(part, labels))
    rest = {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}
    return {"image": pixels, "label": label, **rest}


def _columns(part: Rendered, labels: bool) -> dict[str, np.ndarray]:
    codes, count = part.labelled.codes, len(part.image)
    if not labels:
        return {"age": np.asarray(codes.age)}
    return {
        "age": np.asarray(codes.age),
        "yaw": np.asarray(codes.pose)[:, 0],
        "pitch": np.asarray(codes.pose)[:, 1],
        "expression": np.broadcast_to(part.labelled.expression, count),
        "session": np.broadcast_to(part.labelled.session, count),
        "landmarks68": part.landmarks68,
    }


def _check_memory(count: int, size: int) -> None:
    bytes_each, available = 3 * size * size, memory.free_on_host()
    memory.check(
        f"a set of {count:,} rendered images of {size}x{size} pixels",
        count * bytes_each,
        available,
        lambda: (
            f"{(available or 0) // bytes_each:,} images would fit; on an accelerator, "
            "--config.data.source=generated renders each batch when it is used"
        ),
    )


def rows(
    face_set: FaceSet, num_identities: int, images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index of the identity and the image number of every row, int32 [N].

    Raises:
      UserError: as `arrays`.
    """
    if num_identities < 1:
        raise UserError(f"a set of {num_identities} identities; at least 1 is needed")
    if face_set.images and images not in (0, face_set.images):
        raise UserError(
            f"{face_set.name} has {face_set.images} images per identity, not {images}"
        )
    count = face_set.images or images
    if count < 1:
        raise UserError(f"{images} images per identity; at least 1 is needed")
    label = np.repeat(np.arange(num_identities, dtype=np.int32), count)
    return label, np.tile(np.arange(count, dtype=np.int32), num_identities)
