"""Whom a generator is judged on: drawn people, or photographed ones from records."""

import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import poses
from fr_jax import provenance as lineage
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.faces import sets
from fr_jax.systems.dr_gan import evaluation as evaluate_rotation
from fr_jax.systems.dr_gan.evaluation import PosedSet
from fr_jax.systems.dr_gan.rotator import Rotator

_FRONTAL_FLASH = 6  # of the drawn lights
# Training draws its own strangers from sets.STRANGERS on, and may choose a step by
# them: those who judge, and those who teach the classifier of poses, come far behind.
_JUDGED = sets.STRANGERS + (1 << 20)
_TAUGHT = _JUDGED + (1 << 20)


class Records(NamedTuple):
    """Faces with labels from records, and who they are."""

    name: str
    faces: PosedSet
    identities: list[str]


def drawn(
    rotator: Rotator, provenance: Mapping[str, Any], people: int
) -> tuple[PosedSet, PosedSet]:
    """Returns strangers to judge on, and twice as many to teach poses by."""
    if people < 2:
        raise UserError(f"--people {people}: at least 2 are needed")
    lights = lights_of(provenance)
    return (
        _draw(rotator, lights, _JUDGED, people),
        _draw(rotator, lights, _TAUGHT, 2 * people),
    )


def recorded(
    rotator: Rotator, path: str, identities: str, teach: str, expression: str = ""
) -> tuple[Records, PosedSet | None]:
    """Returns people of records to judge on, and others to teach poses by.

    Without images that are turned further than the generator knows.

    Raises:
      UserError: where they cannot be judged on, or one person is in both.
    """
    judged = _read(rotator, path, identities or None, expression)
    evaluate_rotation.check(judged.faces, path)
    if not teach:
        return judged, None
    taught = _read(rotator, path, teach, expression)
    both = set(judged.identities).intersection(taught.identities)
    if both:
        raise UserError(
            f"{len(both)} people, as {min(both)}, would both teach poses and be judged "
            "on; choose others with --identities or --teach"
        )
    return judged, taught.faces


def check_strangers(judged: Records, trained: Mapping[str, list[str]]) -> None:
    """Raises UserError for people that a generator was trained on.

    Names that another training set has too may be the same people: a warning.

    Args:
      trained: name of a training set -> names of its people.
    """
    held_out = {judged.name: judged.identities}
    lineage.check_strangers(held_out, trained, "choose others with --identities")
    for name, names in trained.items():
        if overlap := set(names).intersection(judged.identities):
            print(
                f"{len(overlap)} people to judge on are called as people of {name} "
                f"that were trained on, as {min(overlap)}; if they are the same, "
                "choose others with --identities",
                file=sys.stderr,
            )


def known(
    rotator: Rotator,
    provenance: Mapping[str, Any],
    discriminator: Embedder,
    path: str,
    people: int,
) -> PosedSet | None:
    """Returns people that were trained on, labelled as the discriminator's classes.

    None where they are not to be had: the first training set's people are its classes,
    drawn ones are drawn again, others must be in the records.

    Args:
      path: of records; '' where people are drawn.
      people: at most so many.
    """
    name, names = next(iter(provenance.get("people", {}).items()), ("", []))
    if dict(discriminator.network.options["heads"])["identity"] != len(names):
        return None
    if path:
        from data_pipelines import index

        columns = index.load(index.find(path))
        there = set(columns.identities)
        some = [person for person in names if person in there][:people]
        if columns.name != name or not some:
            return None
        found = _read(rotator, path, some)
        place = np.array([names.index(person) for person in found.identities])
        return found.faces._replace(label=place[found.faces.label].astype(np.int32))
    numbered = re.fullmatch(r"s(\d+)n(\d+)", names[0] if names else "")
    if not numbered:
        return None
    seed, first = map(int, numbered.groups())
    count = min(people, len(names))
    return _draw(rotator, lights_of(provenance), first, count, seed)


def lights_of(provenance: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the numbers of the lights that people are drawn in."""
    return tuple(provenance.get("lights") or (_FRONTAL_FLASH,))


def _draw(
    rotator: Rotator, lights: tuple[int, ...], first: int, people: int, seed: int = 0
) -> PosedSet:
    angles = tuple(rotator.angles)
    face_set = sets.multipie(angles, lights)
    arrays = sets.arrays(
        face_set,
        seed=seed,
        people=people,
        first=first,
        size=rotator.spec.size,
        progress="drawing people",
    )
    label, image = sets.rows(face_set, people, 0)
    yaw = np.asarray(angles)[image // len(lights)]
    light = np.asarray(lights)[image % len(lights)]
    nothing = np.full(len(label), -1)
    return PosedSet(arrays["image"], label, yaw, light, nothing, _FRONTAL_FLASH)


def _read(
    rotator: Rotator, path: str, identities: Any, expression: str = ""
) -> Records:
    from data_pipelines.stream import RecordStream  # needs TensorFlow

    reader = RecordStream(
        path, batch_size=1, identities=identities, expression=expression
    )
    low, high = poses.reach(rotator.angles, unsigned=rotator.unsigned)
    beyond = (reader.yaws < low) | (reader.yaws > high)
    rows = np.flatnonzero((reader.classes >= 0) & ~beyond)
    if not len(rows):
        raise UserError(f"{path}: nobody known, in a pose that was trained")
    if beyond.any():
        print(f"{beyond.sum()} images are turned further than was trained: left out")
    faces = PosedSet(
        reader.images(rows),
        reader.classes[rows],
        reader.yaws[rows],
        reader.lights[rows],
        reader.sessions[rows],
    )
    return Records(reader.name, faces, reader.identities)
