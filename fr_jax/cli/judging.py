"""`fr-jax judge`: generators, drawn or photographed people -> results and figures."""

import argparse
import functools
import json
from pathlib import Path

import numpy as np
from etils import epath

from fr_jax import evaluate_rotation
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError
from fr_jax.evaluate_rotation import PosedSet
from fr_jax.faces import sets
from fr_jax.metrics.probes import PictureClassifier
from fr_jax.report import rotation
from fr_jax.rotator import Rotator

_FRONTAL_FLASH = 6  # of the drawn lights
_TAUGHT = 5000  # drawn people from here on teach the classifier


def run(arguments: argparse.Namespace) -> int:
    """Judges as asked; returns the exit code."""
    generators = [load_embedder(path) for path in arguments.generator]
    labels = [Path(path).resolve().parent.name for path in arguments.generator]
    if len(set(labels)) < len(labels):
        raise UserError(f"--generator: two of one run's name among {', '.join(labels)}")
    independent = load_embedder(arguments.embedder) if arguments.embedder else None
    target, drawn = epath.Path(arguments.to), {}
    for label, generator in zip(labels, generators):
        rotator = Rotator(generator)
        faces, taught = _faces(arguments, generator, rotator)
        folder = target if len(labels) == 1 else target / label
        results, made = _judge(rotator, faces, taught, independent, folder)
        drawn[label] = made
        (folder / "results.json").write_text(json.dumps(results, indent=1))
        for name, value in results.items():
            if "@yaw" not in name:
                print(f"{name:<40} {value:.4f}")
        print(f"results: {folder / 'results.json'}")
    if len(labels) > 1:
        _compare(drawn, target / "compared.png")
    return 0


def _judge(
    rotator: Rotator,
    faces: PosedSet,
    taught: PosedSet | None,
    independent: Embedder | None,
    folder: epath.Path,
) -> tuple[dict[str, float], np.ndarray]:
    classify = None
    if taught is not None:
        pose = evaluate_rotation.classes_of(rotator, taught.yaw)
        seen, pose = rotator.seen(taught.images[pose >= 0]), pose[pose >= 0]
        # Poses, not sharpness: from bad images too.
        bad, _ = evaluate_rotation.spoil(seen)
        classify = PictureClassifier(np.concatenate([seen, bad]), np.tile(pose, 2))
    embed = (
        functools.partial(independent.embed, normalize=False) if independent else None
    )
    results = evaluate_rotation.judge_features(rotator, faces)
    found, _, made = evaluate_rotation.judge_images(
        rotator, faces, classify=classify, embed=embed, features=embed
    )
    folder.mkdir(parents=True, exist_ok=True)
    results |= found
    results |= evaluate_rotation.judge_confidence(rotator, faces, folder / "figures")
    for path in evaluate_rotation.draw(rotator, faces, folder / "figures"):
        print(f"figure: {path}")
    return results, made


def _faces(
    arguments: argparse.Namespace, generator: Embedder, rotator: Rotator
) -> tuple[PosedSet, PosedSet | None]:
    """Those that are judged, and those that teach the classifier of poses."""
    known = generator.provenance
    if not rotator.has_angles:
        raise UserError(
            f"{arguments.generator[0]}: nobody noted the angles of its poses; only "
            "generators that were trained here are judged"
        )
    if not arguments.records:
        lights = tuple(known.get("lights") or (_FRONTAL_FLASH,))
        people = arguments.people
        return (
            _drawn(rotator, lights, sets.STRANGERS, people),
            _drawn(rotator, lights, sets.STRANGERS + _TAUGHT, 2 * people),
        )
    judged = _recorded(arguments.records, arguments.identities)
    seen = {name for names in known.get("people", {}).values() for name in names}
    if overlap := seen.intersection(judged[1]):
        raise UserError(
            f"{len(overlap)} of the people to judge on were trained on, as "
            f"{min(overlap)}; choose others with --identities"
        )
    taught = None
    if arguments.teach:
        taught = _recorded(arguments.records, arguments.teach)[0]
    return judged[0], taught


def _drawn(rotator: Rotator, lights: tuple, first: int, people: int) -> PosedSet:
    angles = tuple(rotator.angles)
    face_set = sets.multipie(angles, lights)
    arrays = sets.arrays(
        face_set,
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


def _recorded(path: str, identities: str) -> tuple[PosedSet, list[str]]:
    from data_pipelines.stream import RecordStream  # needs TensorFlow

    reader = RecordStream(path, batch_size=1, identities=identities or None)
    images = reader.images(np.arange(reader.num_examples))
    known = (reader.classes, reader.yaws, reader.lights, reader.sessions)
    return PosedSet(images, *known), reader.identities


def _compare(made: dict[str, np.ndarray], path: epath.Path) -> None:
    """The same faces as each generator turns them, row by row."""
    count = {rows.shape[1:] for rows in made.values()}
    if len(count) > 1:
        raise UserError("generators of different sizes or poses are not compared")
    lines = [rows[n] for n in range(4) for rows in made.values()]
    rotation.rows([list(line) for line in lines], path, names=[*made] * 4)
    print(f"figure: {path}")
