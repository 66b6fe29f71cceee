"""What a batch of labelled faces asks a generator to make, and what is true of it.

A batch has n images of each person, one after the other. Of each person k images are
made: one of every image, one of all together if n > 1, and one between this person and
the next if wanted. Rows are kept person by person, so that a person is never cut over
devices or BatchNorm groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp

from fr_jax import augment
from fr_jax.models.preprocess import InputSpec, normalise, resize

Array = jax.Array
Arrays = dict[str, Array]


class Rotations(NamedTuple):
    """What is made of a batch.

    Attributes:
      poses: classes; 0 for one number, the yaw in radians, of at most `max_yaw`.
      illuminations: classes; 0: light is not asked for.
      images: n, of each person.
      interpolate: also between two people.
    """

    poses: int
    max_yaw: float = 0.0
    illuminations: int = 0
    images: int = 1
    interpolate: bool = False

    @property
    def fused(self) -> bool:
        return self.images > 1

    @property
    def decodes(self) -> int:
        """k: images made of each person."""
        return self.images + self.fused + self.interpolate

    @property
    def labels(self) -> list[str]:
        """What is told apart, besides real and fake."""
        return ["identity", "pose"] + ["illumination"] * bool(self.illuminations)


def known(label: Array) -> Array:
    """Returns which labels there are: not -1, or not NaN."""
    floating = jnp.issubdtype(label.dtype, jnp.floating)
    return jnp.isfinite(label) if floating else label >= 0


def labelled(batch: Mapping[str, Array], asked: Rotations) -> Arrays:
    """Returns identity, pose and illumination of a batch, and target_ likewise.

    Yaws are brought from degrees to radians.
    """
    out = {"identity": batch["label"]}
    names = {"pose": "pose" if asked.poses else "yaw"}
    if asked.illuminations:
        names["illumination"] = "light"
    for prefix in ("", "target_"):
        for ours, theirs in names.items():
            if prefix + theirs in batch:
                label = batch[prefix + theirs]
                continuous = not asked.poses and ours == "pose"
                out[prefix + ours] = jnp.deg2rad(label) if continuous else label
    return out


def views(
    batch: Mapping[str, Array],
    asked: Rotations,
    key: Array,
    spec: InputSpec,
    *,
    flip: str = "none",
    augmentation: Sequence[tuple[str, Mapping[str, Any]]] = (),
    degradation: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Arrays:
    """Returns `labelled` with `image` in [-1, 1], and `target_image` if there is one.

    Mirrored (with their poses: 'remap'; without: 'keep'), augmented and cut out of the
    canvas at random, a true image as the one that it belongs to. `degraded` is the
    image after `degradation`, if there is any: a bad photograph of what is to be made
    well.
    """
    keys = augment.example_keys(key, batch["seed"])
    half = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 0)))(keys)
    mirrored = half & (flip != "none")
    out = labelled(batch, asked)
    for name in ("pose", "target_pose"):
        if name in out and flip == "remap":
            pose = out[name]
            turned = jnp.where(known(pose), asked.poses - 1 - pose, pose)
            turned = turned if asked.poses else -pose
            out[name] = jnp.where(mirrored, turned, pose)
    for name in ("image", "target_image"):
        if name in batch:
            images = resize(batch[name], spec.size)
            chosen = mirrored[:, None, None, None]
            images = jnp.where(chosen, images[:, :, ::-1], images)
            images = augment.augment(keys, images, augmentation)
            images = _cut(keys, images, spec.shape[0])
            out[name] = normalise(images, spec)
            if name == "image" and degradation:
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
                bad = augment.augment(own, images, degradation)
                out["degraded"] = normalise(bad, spec)
    return out


def targets(
    real: Mapping[str, Array], asked: Rotations, key: Array
) -> tuple[Arrays, Array, list[Array]]:
    """Returns labels [P k] of what is to be made, which rows are valid, and the codes.

    Pose and light are those of the true image beside an image, and drawn anew where
    there is none; those of all of a person's images together are the first one's.
    Identity is -1 where nobody in particular should be seen. Not valid are rows made of
    images of different or unknown people together, or between two of one person.
    """
    key_pose, key_light = jax.random.split(key)
    who = _by_person(real["identity"], asked)
    shape = (len(who), asked.decodes)
    if asked.poses:
        pose = jax.random.randint(key_pose, shape, 0, asked.poses)
    else:
        most = jnp.deg2rad(asked.max_yaw)
        pose = jax.random.uniform(key_pose, shape, minval=-most, maxval=most)
    labels = {"pose": _given_or(pose, real.get("target_pose"), asked)}
    if asked.illuminations:
        light = jax.random.randint(key_light, shape, 0, asked.illuminations)
        light = _given_or(light, real.get("target_illumination"), asked)
        labels["illumination"] = light
    first = who[:, :1]
    one = jnp.all(who == first, axis=1, keepdims=True) & (first >= 0)
    identity, valid = [who], [jnp.ones_like(who, bool)]
    if asked.fused:
        identity.append(jnp.where(one, first, -1))
        valid.append(one)
    if asked.interpolate:
        identity.append(jnp.full_like(first, -1))
        valid.append(jnp.roll(first, -1, axis=0) != first)
    labels["identity"] = jnp.concatenate(identity, axis=1)
    labels = {name: label.ravel() for name, label in labels.items()}
    codes = [labels["pose"][:, None]]
    if asked.poses:
        codes = [jax.nn.one_hot(labels["pose"], asked.poses)]
    if asked.illuminations:
        codes.append(jax.nn.one_hot(labels["illumination"], asked.illuminations))
    return labels, jnp.concatenate(valid, axis=1).ravel(), codes


def truth(real: Mapping[str, Array], asked: Rotations) -> tuple[Array, Array]:
    """Returns the true image of every made one [P k, H, W, C], and where there is one.

    Where there is none, any image stands in its place.
    """
    images = _by_person(real["target_image"], asked)
    there = known(_by_person(real["target_pose"], asked))
    rest = asked.decodes - asked.images
    images = jnp.concatenate([images, *[images[:, :1]] * rest], axis=1)
    nothing = jnp.zeros_like(there[:, :1])
    there = [there, *[there[:, :1]] * asked.fused, *[nothing] * asked.interpolate]
    images = einops.rearrange(images, "p k ... -> (p k) ...")
    return images, jnp.concatenate(there, axis=1).ravel()


def _by_person(rows: Array, asked: Rotations) -> Array:
    return einops.rearrange(rows, "(p n) ... -> p n ...", n=asked.images)


def _given_or(drawn: Array, given: Array | None, asked: Rotations) -> Array:
    if given is None:
        return drawn
    given = _by_person(given, asked)
    parts = [given, *[given[:, :1]] * asked.fused]
    parts += [drawn[:, -1:]] * asked.interpolate
    given = jnp.concatenate(parts, axis=1)
    return jnp.where(known(given), given, drawn)


def _cut(keys: Array, images: Array, size: int) -> Array:
    """A square [B, size, size, C] of each image, from anywhere."""
    slack = images.shape[1] - size
    if not slack:
        return images

    def one(key, image):
        first = jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, slack + 1)
        return jax.lax.dynamic_slice(image, (*first, 0), (size, size, image.shape[2]))

    return jax.vmap(one)(keys, images)
