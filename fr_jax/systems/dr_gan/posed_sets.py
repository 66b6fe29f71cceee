"""Evaluation sets of faces in several poses: rendered, or from records."""

import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fr_jax.backend import sharding
from fr_jax.errors import UserError
from fr_jax.faces import sets
from fr_jax.models.preprocess import resize
from fr_jax.provenance import check_unseen, is_number
from fr_jax.systems.dr_gan import poses
from fr_jax.systems.dr_gan.rotator import Rotator
from fr_jax.training.data import Context
from fr_jax.training.sources import Rendered

Array = np.ndarray
_FRONTAL_FLASH = 6  # number among the rendered lights
# Training evaluates on unseen identities from sets.FIRST_UNSEEN on, and may select a
# step by their results; `fr-jax evaluate` and the pose classifier use others.
_EVALUATED = sets.FIRST_UNSEEN + (1 << 20)
_FOR_POSES = _EVALUATED + (1 << 20)
# Fractions of the side in pixels that a degraded image keeps. Rendered identities are
# still recognised at 8 of 64 pixels; the last level harms the mean of several images.
LEVELS = (1.0, 0.5, 0.25, 0.125, 0.0625)


class PosedSet(NamedTuple):
    """Aligned faces in several poses.

    Attributes:
      images: uint8 RGB [N, H, W, 3].
      label, yaw: [N] identity, and degrees, NaN where unknown.
      light, session: int [N], -1 where unknown.
      neutral: number of the light of gallery images.
      name, identities: names of the data set, and of the identities by label.
    """

    images: Array
    label: Array
    yaw: Array
    light: Array
    session: Array
    neutral: int = 7
    name: str = ""
    identities: tuple[str, ...] = ()


def grid(
    faces: Rendered, angles: Sequence[float], lights: Sequence[int], neutral: int
) -> PosedSet:
    """Returns rendered faces of `sets.multipie`, numbered by angle, then by light."""
    images, label = faces.images(slice(None)), faces.label
    angle, light = np.divmod(faces.number, len(lights))
    yaw, light = np.asarray(angles, float)[angle], np.asarray(lights)[light]
    return PosedSet(images, label, yaw, light, np.full(len(label), -1), neutral)


def check(faces: PosedSet, name: str) -> None:
    """Raises a UserError for a set, called `name`, that is too small."""
    has_yaw = np.isfinite(faces.yaw)
    if not has_yaw.any():
        raise UserError(f"{name}: no image has a yaw; give a labels.csv with them")
    labels, counts = np.unique(faces.label[has_yaw], return_counts=True)
    if len(labels) < 2:
        raise UserError(f"{name}: {len(labels)} identities; at least 2 are needed")
    if counts.max() < 2:
        raise UserError(
            f"{name}: one image per identity; at least 2 are needed, one of them for "
            "the gallery"
        )


def rendered(rotator: Rotator, num_identities: int) -> tuple[PosedSet, PosedSet]:
    """Returns unseen identities, and twice as many to train a pose classifier on."""
    if num_identities < 2:
        raise UserError(f"identities={num_identities}: at least 2 are needed")
    faces = _render(rotator, _EVALUATED, num_identities)
    return faces, _render(rotator, _FOR_POSES, 2 * num_identities)


def of_records(
    rotator: Rotator,
    path: str,
    *,
    identities: str = "",
    pose_identities: str = "",
    expression: str = "",
) -> tuple[PosedSet, PosedSet | None]:
    """Returns identities of records, and others to train a pose classifier on.

    Images with yaws beyond those of the generator are left out.

    Raises:
      UserError: for too few identities or images, and for an identity in both sets.
    """
    faces = _read(rotator, path, identities or None, expression)
    check(faces, path)
    if not pose_identities:
        return faces, None
    for_poses = _read(rotator, path, pose_identities, expression)
    both = set(faces.identities).intersection(for_poses.identities)
    if both:
        raise UserError(
            f"{len(both)} identities, such as {min(both)}, are both evaluated and used "
            "to train the pose classifier; choose others with identities= of --set or "
            "--pose-identities"
        )
    return faces, for_poses


def check_not_trained(faces: PosedSet, rotator: Rotator) -> None:
    """Raises a UserError for identities that a generator was trained on.

    The same names in another training set may be other identities: a warning. The same
    numbers are.
    """
    trained = rotator.generator.provenance.get("identities", {})
    remedy = "choose others with identities= of --set"
    check_unseen({faces.name: faces.identities}, trained, remedy)
    for name, names in trained.items():
        named = [identity for identity in faces.identities if not is_number(identity)]
        if overlap := set(names).intersection(named):
            print(
                f"{len(overlap)} identities, such as {min(overlap)}, have names of the "
                f"training set {name}; if they are the same identities, {remedy}",
                file=sys.stderr,
            )


def trained_on(
    rotator: Rotator, num_classes: int, path: str, limit: int
) -> PosedSet | None:
    """Returns training identities, labelled with the discriminator's classes.

    The classes are the identities of the first training set. None if their number
    differs, or if they are neither rendered nor in the records.

    Args:
      num_classes: number of identities of the discriminator.
      path: path of records; '' for rendered identities.
      limit: maximum number of identities.
    """
    trained = rotator.generator.provenance.get("identities", {})
    name, names = next(iter(trained.items()), ("", []))
    if num_classes != len(names):
        return None
    if path:
        from data_pipelines import index

        columns = index.load(index.find(path))
        available = set(columns.identities).intersection(names)
        chosen = [identity for identity in names if identity in available][:limit]
        if columns.name != name or not chosen:
            return None
        faces = _read(rotator, path, chosen)
        classes = np.array([names.index(identity) for identity in faces.identities])
        return faces._replace(label=classes[faces.label].astype(np.int32))
    numbered = re.fullmatch(r"s(\d+)n(\d+)", names[0] if names else "")
    if not numbered:
        return None
    seed, first = map(int, numbered.groups())
    return _render(rotator, first, min(limit, len(names)), seed)


def degrade(images: Array) -> tuple[Array, Array]:
    """Returns images reduced to random `LEVELS` and enlarged again, and the levels."""
    levels = np.random.default_rng(0).choice(LEVELS, len(images))
    out, side = np.array(images), images.shape[1]
    for row in np.flatnonzero(levels < 1):  # one by one: a program for each level
        fewer = max(round(levels[row] * side), 2)
        small = resize(jnp.asarray(images[row][None]), fewer)
        out[row] = np.clip(np.round(resize(small, side)), 0, 255)[0]
    return out, levels


def _render(rotator: Rotator, first: int, count: int, seed: int = 0) -> PosedSet:
    """Returns identities in the generator's poses and in its provenance's lights."""
    angles = tuple(rotator.angles)
    lights = tuple(rotator.generator.provenance.get("lights") or (_FRONTAL_FLASH,))
    context, size = Context(sharding.make_mesh(), seed), rotator.spec.size
    face_set = sets.multipie(angles, lights)
    faces = Rendered(face_set, context, count, first=first, size=size)
    return grid(faces, angles, lights, _FRONTAL_FLASH)


def _read(
    rotator: Rotator, path: str, identities: Any, expression: str = ""
) -> PosedSet:
    from data_pipelines.record_set import RecordSet

    with RecordSet(path, identities=identities, expression=expression) as records:
        low, high = poses.reach(rotator.angles, unsigned=rotator.unsigned)
        beyond = (records.yaw < low) | (records.yaw > high)
        rows = np.flatnonzero((records.label >= 0) & ~beyond)
        if not len(rows):
            raise UserError(
                f"{path}: no labelled image has a yaw within the training range "
                f"({low:g} to {high:g})"
            )
        if beyond.any():
            print(f"skipped {beyond.sum()} images with yaws beyond the training range")
        columns = records.label, records.yaw, records.light, records.session
        label, yaw, light, session = (column[rows] for column in columns)
        faces = PosedSet(records.images(rows), label, yaw, light, session)
        return faces._replace(name=records.name, identities=tuple(records.identities))
