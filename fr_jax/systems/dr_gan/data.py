"""What DR-GAN trains on: identities in labelled poses."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fr_jax.backend import sharding
from fr_jax.errors import UserError, check_names
from fr_jax.evaluation.verification import Verification
from fr_jax.faces import grids, pairs, sets
from fr_jax.provenance import Provenance, check_unseen, joined
from fr_jax.systems.dr_gan.targets import Targets
from fr_jax.training import sources
from fr_jax.training.data import Context, Stream, Streams, TrainingData
from fr_jax.training.streams import GeneratedStream


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/dr_gan.py`."""
    check_names("pose_labels", [config.pose_labels], ("classes", "yaw"))
    _targets(config).check("none")
    return sources.load(
        config,
        context,
        {"records": _records, "rendered": _rendered, "generated": _generated},
    )


class Posed(NamedTuple):
    """Records with poses: their reader, and their columns."""

    reader: Any
    faces: Any


def _records(config: Any, context: Context) -> TrainingData:
    """TFRecords with yaws; auxiliary ones may add images of unknown identities."""
    options = config.records
    if options.auxiliary_rows and not options.auxiliary:
        raise UserError(
            f"config.data.records.auxiliary_rows is {options.auxiliary_rows}, of no "
            "records: give --config.data.records.auxiliary=DIR/NAME, or 0 rows and as "
            "many fewer in a batch"
        )
    posed = functools.partial(_posed, config, context)
    main = posed(options.path, options.identities, options.expression)
    several, auxiliary = [main], []
    if options.auxiliary:
        several.append(posed(options.auxiliary))
        auxiliary = [(several[1].faces, options.auxiliary_rows)]
    stream = _stream(config, context, main.faces, auxiliary)
    _check_poses(config, [one.faces.pose for one in several])
    identities = joined(*({one.reader.name: one.reader.identities} for one in several))
    validation, held_out = None, {}
    if options.validation:
        held = posed(options.path, options.validation, options.expression)
        held_out = {held.reader.name: held.reader.identities}
        remedy = (
            "choose the identities of training (config.data.records.identities) and of "
            "validation (config.data.records.validation)"
        )
        check_unseen(held_out, identities, remedy)
        validation = _stream(config, context, held.faces)
    provenance = sources.records_provenance(
        main.reader.name,
        main.reader.identities,
        main.reader.classes,
        main.reader.licence,
    )._replace(
        identities=identities,
        held_out=held_out,
        licences={one.reader.name: one.reader.licence for one in several},
    )
    return _data(
        config,
        stream.num_classes,
        stream.num_examples,
        lambda: Streams(stream, validation),
        provenance,
        expression=options.expression,
        drop_beyond=options.drop_beyond,
    )


def _rendered(config: Any, context: Context) -> TrainingData:
    """Rendered identities in every pose and light, rendered once, kept in memory."""
    count = config.rendered.num_identities
    images: dict[str, np.ndarray] = {}
    stream = _stream(config, context, _grid(config, count, images))

    def opened():
        images["image"] = _render(config, context, count, 0, sources.progress(context))
        return stream

    return _of_rendered(config, context, opened)


def _generated(config: Any, context: Context) -> TrainingData:
    """Rendered identities, every image new."""
    options = config.rendered
    if config.pose_labels != "classes":
        raise UserError("generated faces have pose classes: use source 'rendered'")
    make_batch = grids.make(
        tuple(config.angles),
        tuple(config.lights),
        options.num_identities,
        config.batch_size,
        seed=context.seed,
        images_per_identity=config.images_per_identity,
        paired=config.paired,
        size=options.size,
        mesh=context.mesh,
    )

    def opened():
        return GeneratedStream(
            make_batch, config.batch_size, seed=context.seed, mesh=context.mesh
        )

    return _of_rendered(config, context, opened)


def _of_rendered(
    config: Any, context: Context, opened: Callable[[], Stream]
) -> TrainingData:
    """Rendered identities, evaluated on unseen ones in the same poses and lights."""
    options, seed = config.rendered, context.seed
    count, angles, lights = options.num_unseen, len(config.angles), len(config.lights)
    numbered = pairs.number(seed, count, angles)
    images: dict[str, np.ndarray] = {}
    validation = _stream(config, context, _grid(config, count, images))

    def open_():
        progress = "rendering unseen identities" if context.show_progress else ""
        images["image"] = _render(config, context, count, sets.STRANGERS, progress)
        person = numbered.identities - sets.STRANGERS
        light = (person + numbered.images) % lights
        rows = (person * angles + numbered.images) * lights + light
        unseen = Verification(
            "unseen",
            images=images["image"][rows],
            pairs=numbered.pairs,
            same=numbered.same,
            folds=numbered.folds,
            identities=[sets.person_name(seed, int(n)) for n in numbered.identities],
        )
        return Streams(opened(), validation, final_evaluators=[unseen])

    num_images = options.num_identities * angles * lights
    provenance = sources.rendered_provenance(
        seed, options.num_identities, angles * lights
    )
    return _data(config, options.num_identities, num_images, open_, provenance)


def _targets(config: Any) -> Targets:
    return Targets(
        angles=tuple(config.angles),
        continuous=config.pose_labels == "yaw",
        unsigned=config.unsigned,
        illuminations=len(config.lights) if config.illuminations else 0,
        images_per_identity=config.images_per_identity,
        paired=config.paired,
    )


def _data(
    config: Any,
    num_classes: int,
    num_images: int,
    open_: Callable[[], Streams],
    provenance: Provenance,
    **details: Any,
) -> TrainingData:
    meaning = {  # of the codes, for users of the generator
        "angles": [float(angle) for angle in config.angles],
        "unsigned": bool(config.unsigned),
        "lights": list(config.lights),
    }
    return TrainingData(
        open_,
        {"num_classes": num_classes, "targets": _targets(config)},
        config.batch_size,
        num_images / config.batch_size,
        provenance._replace(details=meaning | details),
        f"{num_classes:,} identities, {num_images:,} images an epoch",
    )


def _check_poses(config: Any, poses: list[np.ndarray]) -> None:
    """Raises a UserError where no image has one of the target poses."""
    if config.pose_labels == "yaw":
        return
    seen = np.concatenate(poses)
    never = [f"{a:g}" for n, a in enumerate(config.angles) if n not in seen]
    if never:
        raise UserError(
            f"no labelled image has a yaw near {', '.join(never)} degrees, so that pose "
            "cannot be learnt: set config.data.angles to those of the images"
        )


def _posed(
    config: Any, context: Context, path: str, identities: str = "", expression: str = ""
) -> Posed:
    from data_pipelines import poses
    from data_pipelines.pose_stream import PosedFaces

    within = poses.reach(config.angles, unsigned=config.unsigned)
    reader = sources.open_records(
        path,
        context,
        config.batch_size,
        identities=identities,
        expression=expression,
        yaws=within if config.records.drop_beyond else None,
    )
    pose, light = reader.yaws, reader.lights
    if config.pose_labels == "classes":
        pose = poses.classes(pose, config.angles, unsigned=config.unsigned)
    if config.illuminations:
        place = {number: n for n, number in enumerate(config.lights)}
        light = np.array([place.get(number, -1) for number in light.tolist()])
    faces = PosedFaces(reader.images, reader.classes, pose, light, reader.identities)
    return Posed(reader, faces)


def _stream(config: Any, context: Context, faces: Any, auxiliary: Any = ()) -> Any:
    from data_pipelines.pose_stream import PoseStream

    return PoseStream(
        faces,
        poses=0 if config.pose_labels == "yaw" else len(config.angles),
        batch_size=config.batch_size,
        images_per_identity=config.images_per_identity,
        paired=config.paired,
        beside=auxiliary,
        drop_small=config.records.drop_small and config.source == "records",
        seed=context.seed,
        rows=sharding.local_rows(context.mesh, config.batch_size),
    )


def _grid(config: Any, count: int, images: dict[str, np.ndarray]) -> Any:
    """The columns of rendered identities, whose images will be in `images`."""
    from data_pipelines.pose_stream import PosedFaces

    angles, lights = config.angles, config.lights
    label, _ = sets.rows(sets.multipie(tuple(angles), tuple(lights)), count, 0)
    place = np.arange(len(label)) % (len(angles) * len(lights))
    pose, light = np.divmod(place, len(lights))
    if config.pose_labels == "yaw":
        pose = np.asarray(angles, np.float32)[pose]
    return PosedFaces(lambda numbers: images["image"][numbers], label, pose, light)


def _render(
    config: Any, context: Context, count: int, first: int, progress: str
) -> np.ndarray:
    arrays = sets.arrays(
        sets.multipie(tuple(config.angles), tuple(config.lights)),
        seed=context.seed,
        people=count,
        first=first,
        size=config.rendered.size,
        progress=progress,
    )
    return arrays["image"]
