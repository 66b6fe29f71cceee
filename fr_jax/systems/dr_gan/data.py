"""What rotating faces trains on: people whose poses are known.

As `training`'s sources, for configurations whose `data` have `angles`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines import DataError, poses
from data_pipelines.pose_stream import PosedFaces, PoseStream
from fr_jax import provenance as lineage
from fr_jax.backend import sharding
from fr_jax.errors import UserError
from fr_jax.evaluation.sets import parse_set
from fr_jax.evaluation.verification import EvaluationSet
from fr_jax.faces import grids, pairs, sets
from fr_jax.training.streams import GeneratedStream

# Opens the stream, the sets to judge on and a stream of held-out people, if there are
# any; facts for `make`; provenance.
Source = tuple[Callable[[], tuple[Any, ...]], dict[str, Any], dict[str, Any]]


def records(config: ConfigDict, mesh: jax.sharding.Mesh) -> Source:
    """TFRecords that know yaws; others may lie beside them, of people nobody knows."""
    options = config.data
    _check(config)
    if not options.path:
        raise UserError("say where the records are: --config.data.path=DIR/NAME")
    if options.beside_rows and not options.beside:
        raise UserError(
            f"config.data.beside_rows is {options.beside_rows}, of no records: give "
            "--config.data.beside=DIR/NAME, or 0 rows and as many fewer in a batch"
        )
    reader, faces = _posed(config, options.path, options.identities, options.expression)
    readers, beside = [reader], []
    if options.beside:
        other, others = _posed(config, options.beside, "")
        readers, beside = [reader, other], [(others, options.beside_rows)]
    stream = _stream(config, mesh, faces, beside)
    _check_seen(config, [faces, *(others for others, _ in beside)])
    people = lineage.joined(*({one.name: one.identities} for one in readers))
    held, held_out = [], {}
    if options.validation:
        judged, strangers = _posed(
            config, options.path, options.validation, options.expression
        )
        held_out = {judged.name: judged.identities}
        remedy = "say who is trained on (config.data.identities) and who only judged"
        lineage.check_strangers(held_out, people, f"{remedy} (config.data.validation)")
        held = [_stream(config, mesh, strangers)]
    given = [parse_set(text) for text in config.evaluation.sets]
    facts = _facts(config, stream.num_classes, stream.num_examples)
    provenance = {
        "people": people,
        "held_out": held_out,
        "licences": {one.name: one.licence for one in readers},
    }
    return lambda: (stream, given, *held), facts, provenance | _asked(config)


def rendered(config: ConfigDict, mesh: jax.sharding.Mesh) -> Source:
    """Drawn people in every pose and light, made once and kept in memory."""
    options, seed = config.data, config.train.seed
    _check(config)
    drawn: dict[str, np.ndarray] = {}
    stream = _stream(config, mesh, _grid(config, options.num_identities, drawn))

    def open_stream():
        drawn["image"] = _draw(config, options.num_identities, 0, "drawing people")
        return stream

    names = [sets.person_name(seed, n) for n in range(options.num_identities)]
    return _of_nobody(config, mesh, open_stream, names)


def generated(config: ConfigDict, mesh: jax.sharding.Mesh) -> Source:
    """Drawn people, every image new."""
    options, seed = config.data, config.train.seed
    _check(config)
    if not _classes(config):
        raise UserError("generated faces have poses of classes: use source 'rendered'")
    make_batch = grids.make(
        tuple(options.angles),
        tuple(options.lights),
        options.num_identities,
        options.batch_size,
        seed=seed,
        images_per_identity=options.images_per_identity,
        paired=options.paired,
        size=options.size,
        mesh=mesh,
    )

    def open_stream():
        return GeneratedStream(make_batch, options.batch_size, seed=seed, mesh=mesh)

    names = [sets.person_name(seed, n) for n in range(options.num_identities)]
    return _of_nobody(config, mesh, open_stream, names)


SOURCES: Mapping[str, Callable[[ConfigDict, jax.sharding.Mesh], Source]] = {
    "records": records,
    "rendered": rendered,
    "generated": generated,
}


def _classes(config: ConfigDict) -> int:
    """Number of pose classes; 0 where poses are yaws."""
    continuous = config.system.pose_mode == "continuous"
    return 0 if continuous else len(config.data.angles)


def _check(config: ConfigDict) -> None:
    """Raises a UserError where angles, mirroring and what is paired do not fit."""
    options, system, angles = config.data, config.system, list(config.data.angles)
    degrees = [a for a in angles if isinstance(a, int | float) and abs(a) <= 180]
    if len(angles) < 2 or sorted(set(degrees)) != angles:
        raise UserError(
            f"config.data.angles is {tuple(angles)}: give two or more, ascending, in "
            "degrees from -180 to 180"
        )
    unsigned = options.get("unsigned", False)
    if unsigned and not _classes(config):
        raise UserError(
            "config.data.unsigned goes with config.system.pose_mode=classes"
        )
    if system.flip == "keep" and not unsigned:
        raise UserError(
            "config.system.flip='keep' mirrors faces as if their pose had no side, and "
            "config.data.unsigned is not set: use 'remap'"
        )
    symmetric = [-angle for angle in reversed(angles)] == angles
    if system.flip == "remap" and (unsigned or (_classes(config) and not symmetric)):
        raise UserError(
            f"config.system.flip='remap' on config.data.angles={tuple(angles)}: "
            "mirrored faces need the angles of the other side too; use 'none', or "
            "'keep' where poses are unsigned"
        )
    for name in ("paired", "perceptual"):
        weight = system.weights.get(name)
        if weight and not options.paired:
            raise UserError(
                f"config.system.weights.{name} is {weight}, and there is nothing to "
                "compare with: set config.data.paired, or a weight of 0.0"
            )


def _check_seen(config: ConfigDict, several: Sequence[PosedFaces]) -> None:
    """Raises a DataError where no image has one of the poses that are to be made."""
    seen = np.concatenate([faces.pose for faces in several])
    angles = config.data.angles
    never = [f"{angles[n]:g}" for n in range(_classes(config)) if n not in seen]
    if never:
        raise DataError(
            f"no image has a yaw near {', '.join(never)} degrees, so nobody can learn "
            "what it looks like: set config.data.angles to those that there are"
        )


def _posed(
    config: ConfigDict, path: str, identities: str, expression: str = ""
) -> tuple[Any, PosedFaces]:
    """A reader of records, and its faces with their poses."""
    from data_pipelines.stream import RecordStream  # needs TensorFlow

    options = config.data
    within = poses.reach(options.angles, unsigned=options.unsigned)
    reader = RecordStream(
        path,
        batch_size=options.batch_size,
        identities=identities or None,
        expression=expression,
        yaws=within if options.drop_beyond else None,
    )
    pose = reader.yaws
    if _classes(config):
        pose = poses.classes(pose, options.angles, unsigned=options.unsigned)
    light = reader.lights
    if options.illuminations:
        place = {number: n for n, number in enumerate(options.lights)}
        light = np.array([place.get(number, -1) for number in light.tolist()])
    faces = PosedFaces(reader.images, reader.classes, pose, light, reader.identities)
    return reader, faces


def _stream(
    config: ConfigDict, mesh: jax.sharding.Mesh, faces: PosedFaces, beside: Any = ()
) -> PoseStream:
    options = config.data
    return PoseStream(
        faces,
        poses=_classes(config),
        batch_size=options.batch_size,
        images_per_identity=options.images_per_identity,
        paired=options.paired,
        beside=beside,
        drop_small=options.get("drop_small", False),
        seed=config.train.seed,
        rows=sharding.local_rows(mesh, options.batch_size),
    )


def _grid(config: ConfigDict, people: int, drawn: Mapping[str, np.ndarray]):
    """The faces of drawn people, whose images will be in `drawn`."""
    angles, lights = config.data.angles, config.data.lights
    label, _ = sets.rows(sets.multipie(tuple(angles), tuple(lights)), people, 0)
    pose, light = np.divmod(
        np.arange(len(label)) % (len(angles) * len(lights)), len(lights)
    )
    if not _classes(config):
        pose = np.asarray(angles, np.float32)[pose]
    return PosedFaces(lambda numbers: drawn["image"][numbers], label, pose, light)


def _draw(config: ConfigDict, people: int, first: int, what: str) -> np.ndarray:
    options = config.data
    arrays = sets.arrays(
        sets.multipie(tuple(options.angles), tuple(options.lights)),
        seed=config.train.seed,
        people=people,
        first=first,
        size=options.size,
        progress=what if jax.process_index() == 0 else "",
    )
    return arrays["image"]


def _of_nobody(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    open_stream: Callable[[], Any],
    names: list[str],
) -> Source:
    """A source of drawn people, judged on others in the same poses and lights."""
    options, seed = config.data, config.train.seed
    given = [parse_set(text) for text in config.evaluation.sets]
    people, angles, lights = (
        options.num_strangers,
        len(options.angles),
        len(options.lights),
    )
    numbered = pairs.number(seed, people, angles)
    drawn: dict[str, np.ndarray] = {}
    validation = _stream(config, mesh, _grid(config, people, drawn))

    def open_():
        drawn["image"] = _draw(config, people, sets.STRANGERS, "drawing strangers")
        person = numbered.people - sets.STRANGERS
        light = (person + numbered.images) % lights
        rows = (person * angles + numbered.images) * lights + light
        strangers = EvaluationSet(
            "strangers",
            images=drawn["image"][rows],
            pairs=numbered.pairs,
            same=numbered.same,
            folds=numbered.folds,
            people=[sets.person_name(seed, int(n)) for n in numbered.people],
        )
        return open_stream(), [strangers, *given], validation

    images = len(names) * angles * lights
    provenance = {"people": {"drawn": names}, "licences": {"drawn": "none needed"}}
    return open_, _facts(config, len(names), images), provenance | _asked(config)


def _facts(config: ConfigDict, people: int, images: int) -> dict[str, Any]:
    """Arguments of `make` that the data decide."""
    options = config.data
    return {
        "num_classes": people,
        "poses": len(options.angles),
        "max_yaw": float(max(abs(angle) for angle in options.angles)),
        "illuminations": len(options.lights) if options.illuminations else 0,
        "images_per_identity": options.images_per_identity,
        "batch_size": options.batch_size,
        "steps_per_epoch": images / options.batch_size,
    }


def _asked(config: ConfigDict) -> dict[str, Any]:
    """What the numbers of the codes mean, for whoever uses the generator."""
    options = config.data
    return {
        "angles": [float(angle) for angle in options.angles],
        "unsigned": bool(options.get("unsigned", False)),
        "lights": list(options.lights),
        "expression": options.get("expression", ""),
        "drop_beyond": bool(options.get("drop_beyond", False)),
    }
