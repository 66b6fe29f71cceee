"""Target poses and lights of the images that DR-GAN's generator synthesises.

A batch has n consecutive images per identity. For each identity k images are
synthesised: one from every image, one from all of them fused if n > 1, and one from the
mean feature of this identity and the next if `interpolate`. Rows stay in order of
identity, so that an identity is never split over devices or BatchNorm groups.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import augment
from fr_jax.augment.image import Policy
from fr_jax.errors import UserError, check_names
from fr_jax.models.dr_gan.generator import fuse
from fr_jax.models.preprocess import InputSpec, normalise, resize
from fr_jax.system import Input

Array = jax.Array
Arrays = dict[str, Array]


class Targets(NamedTuple):
    """Number and codes of the images synthesised per identity, and pose labels.

    Attributes:
      angles: yaw in degrees of each pose class, ascending.
      continuous: a pose is one number, the yaw in radians, within the angles.
      unsigned: left and right yaws are the same pose.
      illuminations: number of light classes; 0: light is not a target.
      images_per_identity: n.
      paired: batches have the ground truth in another pose, `target_image`.
      interpolate: also synthesise between two identities.
    """

    angles: tuple[float, ...] = tuple(range(-90, 91, 15))
    continuous: bool = False
    unsigned: bool = False
    illuminations: int = 0
    images_per_identity: int = 1
    paired: bool = False
    interpolate: bool = False

    @property
    def poses(self) -> int:
        """Length of a pose code."""
        return 1 if self.continuous else len(self.angles)

    @property
    def fused(self) -> bool:
        return self.images_per_identity > 1

    @property
    def per_identity(self) -> int:
        """k: images synthesised per identity."""
        return self.images_per_identity + self.fused + self.interpolate

    @property
    def labels(self) -> list[str]:
        """Names of the labels that the discriminator classifies."""
        return ["identity", "pose"] + ["illumination"] * bool(self.illuminations)

    def check(self, flip: str) -> None:
        """Raises a UserError for invalid angles, or a flip that contradicts labels."""
        check_names("flip", [flip], ("none", "remap", "keep"))
        yaws = [a for a in self.angles if isinstance(a, int | float) and abs(a) <= 180]
        if len(self.angles) < 2 or sorted(set(yaws)) != list(self.angles):
            raise UserError(
                f"angles are {tuple(self.angles)}: give two or more, ascending, in "
                "degrees from -180 to 180"
            )
        if self.unsigned and self.continuous:
            raise UserError(
                "unsigned poses are classes, not yaws (pose_labels=classes)"
            )
        if flip == "keep" and not self.unsigned:
            raise UserError(
                "flip='keep' mirrors faces without changing their pose, which needs "
                "unsigned poses (config.data.unsigned): use 'remap' for signed ones"
            )
        mirrored = tuple(-angle for angle in reversed(self.angles))
        symmetric = mirrored == tuple(self.angles)
        if flip == "remap" and (self.unsigned or not (self.continuous or symmetric)):
            raise UserError(
                f"flip='remap' with angles {tuple(self.angles)}: mirrored faces need "
                "the angles of the other side too; use 'none', or 'keep' with unsigned "
                "poses"
            )
        if flip != "none" and self.illuminations:
            raise UserError(
                "a mirrored face is lit from the other side but keeps its light label: "
                "use flip='none' or no illuminations"
            )


def check_policies(*policies: Policy) -> None:
    """Raises a UserError for an unknown augmentation, and for one with 'flip'."""
    for policy in policies:
        augment.check(policy)
        if any(name == "flip" for name, _ in policy):
            raise UserError(
                "augmentation 'flip' would not mirror the pose: use flip='remap'"
            )


def expects(targets: Targets, num_classes: int, groups: int) -> dict[str, Input]:
    """Returns shapes and types of a batch for a number of BatchNorm groups."""
    image = Input(
        np.uint8, (None, None, None, 3), multiple=targets.images_per_identity * groups
    )
    described = {"pose": Input(np.int32, (None,), low=-1, below=targets.poses)}
    if targets.continuous:
        described = {"yaw": Input(np.float32, (None,))}
    if lights := targets.illuminations:
        described["light"] = Input(np.int32, (None,), low=-1, below=lights)
    expected = {
        "image": image,
        "label": Input(np.int32, (None,), low=-1, below=num_classes),
        "seed": Input(np.uint32, (None,)),
        **described,
    }
    if targets.paired:
        paired = {"image": image, **described}
        expected |= {f"target_{name}": kind for name, kind in paired.items()}
    return expected


def valid_labels(label: Array) -> Array:
    """Returns the mask of valid labels: not -1, or not NaN."""
    floating = jnp.issubdtype(label.dtype, jnp.floating)
    return jnp.isfinite(label) if floating else label >= 0


def labels_of(batch: Mapping[str, Array], targets: Targets) -> Arrays:
    """Returns 'identity', 'pose' and 'illumination' of a batch, and 'target_' labels.

    Yaws are converted from degrees to radians.
    """
    out = {"identity": batch["label"]}
    columns = {"pose": "yaw" if targets.continuous else "pose"}
    if targets.illuminations:
        columns["illumination"] = "light"
    for prefix, (name, column) in itertools.product(("", "target_"), columns.items()):
        if prefix + column in batch:
            label = batch[prefix + column]
            out[prefix + name] = jnp.deg2rad(label) if column == "yaw" else label
    return out


def views(
    batch: Mapping[str, Array],
    targets: Targets,
    key: Array,
    spec: InputSpec,
    *,
    flip: str = "none",
    augmentation: Policy = (),
    degradation: Policy = (),
) -> Arrays:
    """Returns `labels_of` with 'image' in [-1, 1], and any 'target_image' and 'noise'.

    Images are mirrored at random (with their poses: 'remap'; without: 'keep'),
    augmented and randomly cropped from the canvas, the ground truth like its image.
    With a `degradation`, 'degraded' is the degraded image, the encoder's input.
    """
    keys = augment.example_keys(key, batch["seed"])
    half = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 0)))(keys)
    mirrored = half & (flip != "none")
    out = labels_of(batch, targets)
    if "noise" in batch:
        out["noise"] = batch["noise"]
    for name in ("pose", "target_pose"):
        if name in out and flip == "remap":
            pose = out[name]
            other = jnp.where(valid_labels(pose), targets.poses - 1 - pose, pose)
            other = -pose if targets.continuous else other
            out[name] = jnp.where(mirrored, other, pose)
    for name in ("image", "target_image"):
        if name in batch:
            images = resize(batch[name], spec.size)
            chosen = mirrored[:, None, None, None]
            images = jnp.where(chosen, images[:, :, ::-1], images)
            images = augment.augment(keys, images, augmentation)
            images = _random_crop(keys, images, spec.shape[0])
            out[name] = normalise(images, spec)
            if name == "image" and degradation:
                other_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
                degraded = augment.augment(other_keys, images, degradation)
                out["degraded"] = normalise(degraded, spec)
    return out


def sample(
    real: Mapping[str, Array], targets: Targets, key: Array
) -> tuple[Arrays, Array, list[Array]]:
    """Returns target labels [P k], their valid mask [P k], and the codes.

    Pose and light are those of an image's ground truth, or random without one; fused
    images have those of the first image. Identity is -1 between two identities. Rows
    fused from different or unknown identities, and rows between two images of the same
    identity, are not valid.
    """
    key_pose, key_light = jax.random.split(key)
    identity = by_identity(real["identity"], targets)
    shape = (len(identity), targets.per_identity)
    if targets.continuous:
        limit = jnp.deg2rad(max(abs(angle) for angle in targets.angles))
        pose = jax.random.uniform(key_pose, shape, minval=-limit, maxval=limit)
    else:
        pose = jax.random.randint(key_pose, shape, 0, targets.poses)
    labels = {"pose": _given_or(pose, real.get("target_pose"), targets)}
    if targets.illuminations:
        light = jax.random.randint(key_light, shape, 0, targets.illuminations)
        light = _given_or(light, real.get("target_illumination"), targets)
        labels["illumination"] = light
    first = identity[:, :1]
    same = jnp.all(identity == first, axis=1, keepdims=True) & (first >= 0)
    unknown = jnp.full_like(first, -1)
    fused, differs = jnp.where(same, first, -1), jnp.roll(first, -1, axis=0) != first
    labels["identity"] = _joined(identity, fused, unknown, targets)
    valid = _joined(jnp.ones_like(identity, bool), same, differs, targets)
    codes = [labels["pose"][:, None]]
    if not targets.continuous:
        codes = [jax.nn.one_hot(labels["pose"], targets.poses)]
    if targets.illuminations:
        codes.append(jax.nn.one_hot(labels["illumination"], targets.illuminations))
    return labels, valid, codes


def ground_truth(
    real: Mapping[str, Array], targets: Targets
) -> tuple[Array, Array] | None:
    """Returns the ground truth [P k, H, W, C] of synthesised images, and its mask.

    Rows outside the mask are placeholders. None for a batch that is not paired.
    """
    if "target_image" not in real:
        return None
    images = by_identity(real["target_image"], targets)
    has = valid_labels(by_identity(real["target_pose"], targets))
    images = _joined(images, images[:, :1], images[:, :1], targets)
    return images, _joined(has, has[:, :1], jnp.zeros_like(has[:, :1]), targets)


def rows_of(
    features: Array, confidence: Array, targets: Targets, *, normalise: bool
) -> Array:
    """Returns the feature [P k, F] from which each image is synthesised.

    Args:
      features, confidence: [P n, F] and [P n, 1] of the real images.
      normalise: see `models.dr_gan.generator.fuse`.
    """
    rows = by_identity(features, targets)
    weights = by_identity(confidence, targets)
    fused = fuse(rows, weights, normalise=normalise)
    between = (fused + jnp.roll(fused, -1, axis=0)) / 2
    return _joined(rows, fused[:, None], between[:, None], targets)


def source_embeddings(embeddings: Array, targets: Targets) -> tuple[Array, Array]:
    """Returns the target embedding [P k, D] of each synthesised image, and a mask.

    That of its image, or the sum over fused images; False between two identities.

    Args:
      embeddings: [P n, D] of the real images, of length 1.
    """
    rows = by_identity(embeddings, targets)
    whole = jnp.sum(rows, axis=1, keepdims=True)
    rows = _joined(rows, whole, whole, targets)
    with_identity = targets.images_per_identity + targets.fused
    return rows, jnp.arange(len(rows)) % targets.per_identity < with_identity


def by_identity(rows: Array, targets: Targets) -> Array:
    """Returns rows [P n, ...] as [P, n, ...]."""
    n = targets.images_per_identity
    return einops.rearrange(rows, "(p n) ... -> p n ...", n=n)


def _given_or(sampled: Array, given: Array | None, targets: Targets) -> Array:
    """Returns the given label [P k] of each image, or the sampled one [P, k]."""
    if given is None:
        return sampled.ravel()
    given = by_identity(given, targets)
    given = _joined(given, given[:, :1], sampled[:, -1:], targets)
    return jnp.where(valid_labels(given), given, sampled.ravel())


def _joined(single: Array, fused: Array, between: Array, targets: Targets) -> Array:
    """Returns rows [P k, ...] of images [P, n, ...], fused and between [P, 1, ...]."""
    rows = [single, *[fused] * targets.fused, *[between] * targets.interpolate]
    return einops.rearrange(jnp.concatenate(rows, axis=1), "p k ... -> (p k) ...")


def _random_crop(keys: Array, images: Array, size: int) -> Array:
    """Returns a square [B, size, size, C] at a random position of each image."""
    slack = images.shape[1] - size
    if not slack:
        return images

    def one(key, image):
        first = jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, slack + 1)
        return jax.lax.dynamic_slice(image, (*first, 0), (size, size, image.shape[2]))

    return jax.vmap(one)(keys, images)
