"""Faces in several poses that a generator is evaluated on: rendered, or of records."""

import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fr_jax.errors import UserError
from fr_jax.faces import sets
from fr_jax.models.preprocess import resize
from fr_jax.provenance import check_unseen
from fr_jax.systems.dr_gan import poses
from fr_jax.systems.dr_gan.rotator import Rotator

Array = np.ndarray
_FRONTAL_FLASH = 6  # of the rendered lights
# Training evaluates on unseen identities from sets.FIRST_UNSEEN on, and may select a
# step by them; the final evaluation and the pose classifier use others.
_EVALUATED = sets.FIRST_UNSEEN + (1 << 20)
_FOR_POSES = _EVALUATED + (1 << 20)
# Of the side in pixels that a degraded image keeps. A rendered identity is recognised
# from 8 of 64: the last level is what harms the mean of several images.
LEVELS = (1.0, 0.5, 0.25, 0.125, 0.0625)


class PosedSet(NamedTuple):
    """Aligned faces in several poses.

    Attributes:
      images: uint8 RGB [N, H, W, 3].
      label, yaw: [N] identity, and degrees, NaN where unknown.
      light, session: int [N], -1 where unknown.
      neutral: the light of gallery images.
      name, identities: of the data set, and of its labels.
    """

    images: Array
    label: Array
    yaw: Array
    light: Array
    session: Array
    neutral: int = 7
    name: str = ""
    identities: tuple[str, ...] = ()


def check(faces: PosedSet, name: str) -> None:
    """Raises a UserError for a set, called `name`, that is too small to evaluate on."""
    known = np.isfinite(faces.yaw)
    if not known.any():
        raise UserError(f"{name}: no image has a yaw; give a labels.csv with them")
    labels, counts = np.unique(faces.label[known], return_counts=True)
    if len(labels) < 2:
        raise UserError(f"{name}: {len(labels)} identities; at least 2 are needed")
    if counts.max() < 2:
        raise UserError(
            f"{name}: one image of each identity, which the gallery takes; at least 2"
        )


def rendered(
    rotator: Rotator, provenance: Mapping[str, Any], num_identities: int
) -> tuple[PosedSet, PosedSet]:
    """Returns unseen identities, and twice as many to train a pose classifier on."""
    if num_identities < 2:
        raise UserError(f"identities={num_identities}: at least 2 are needed")
    lights = _lights(provenance)
    return (
        _render(rotator, lights, _EVALUATED, num_identities),
        _render(rotator, lights, _FOR_POSES, 2 * num_identities),
    )


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
      UserError: where they cannot be evaluated on, or an identity is in both.
    """
    faces = _read(rotator, path, identities or None, expression)
    check(faces, path)
    if not pose_identities:
        return faces, None
    for_poses = _read(rotator, path, pose_identities, expression)
    both = set(faces.identities).intersection(for_poses.identities)
    if both:
        raise UserError(
            f"{len(both)} identities, such as {min(both)}, would both be evaluated and "
            "train the pose classifier; choose others with identities= of --set or "
            "--pose-identities"
        )
    return faces, for_poses


def check_not_trained(faces: PosedSet, trained: Mapping[str, list[str]]) -> None:
    """Raises a UserError for identities that a generator was trained on.

    Names that another training set has too may be the same identities: a warning.

    Args:
      trained: names of the identities trained on, by data set.
    """
    remedy = "choose others with identities= of --set"
    check_unseen({faces.name: faces.identities}, trained, remedy)
    for name, names in trained.items():
        if overlap := set(names).intersection(faces.identities):
            print(
                f"{len(overlap)} identities have names of {name}, which was trained "
                f"on, such as {min(overlap)}; if they are the same, {remedy}",
                file=sys.stderr,
            )


def trained_on(
    rotator: Rotator,
    provenance: Mapping[str, Any],
    num_classes: int,
    path: str,
    most: int,
) -> PosedSet | None:
    """Returns identities that were trained on, labelled as the discriminator's classes.

    None where they cannot be had: the first training set's identities are its classes,
    rendered ones are rendered again, others must be in the records.

    Args:
      num_classes: of the discriminator.
      path: of records; '' for rendered identities.
      most: at most so many identities.
    """
    trained = provenance.get("identities", {})
    name, names = next(iter(trained.items()), ("", []))
    if num_classes != len(names):
        return None
    if path:
        from data_pipelines import index

        columns = index.load(index.find(path))
        there = set(columns.identities)
        some = [identity for identity in names if identity in there][:most]
        if columns.name != name or not some:
            return None
        found = _read(rotator, path, some)
        place = np.array([names.index(identity) for identity in found.identities])
        return found._replace(label=place[found.label].astype(np.int32))
    numbered = re.fullmatch(r"s(\d+)n(\d+)", names[0] if names else "")
    if not numbered:
        return None
    seed, first = map(int, numbered.groups())
    return _render(rotator, _lights(provenance), first, min(most, len(names)), seed)


def degrade(images: Array, seed: int = 0) -> tuple[Array, Array]:
    """Returns images of fewer pixels, brought back to their size, and their levels."""
    levels = np.random.default_rng(seed).choice(LEVELS, len(images))
    out, side = np.array(images), images.shape[1]
    for row in np.flatnonzero(levels < 1):  # one by one: a program for each level
        fewer = max(round(levels[row] * side), 2)
        small = resize(jnp.asarray(images[row][None]), fewer)
        out[row] = np.clip(np.round(resize(small, side)), 0, 255)[0]
    return out, levels


def _lights(provenance: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of the lights that identities are rendered in."""
    return tuple(provenance.get("lights") or (_FRONTAL_FLASH,))


def _render(
    rotator: Rotator, lights: tuple[int, ...], first: int, count: int, seed: int = 0
) -> PosedSet:
    angles = tuple(rotator.angles)
    face_set = sets.multipie(angles, lights)
    arrays = sets.arrays(
        face_set,
        seed=seed,
        num_identities=count,
        first=first,
        size=rotator.spec.size,
        progress="rendering faces",
    )
    label, image = sets.rows(face_set, count, 0)
    yaw = np.asarray(angles)[image // len(lights)]
    light = np.asarray(lights)[image % len(lights)]
    unknown = np.full(len(label), -1)
    return PosedSet(arrays["image"], label, yaw, light, unknown, _FRONTAL_FLASH)


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
        return PosedSet(
            records.images(rows),
            records.label[rows],
            records.yaw[rows],
            records.light[rows],
            records.session[rows],
            name=records.name,
            identities=tuple(records.identities),
        )
