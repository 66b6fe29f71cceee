"""What DR-GAN trains on: identities in labelled poses."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError, check_names
from fr_jax.evaluation.evaluator import Evaluator
from fr_jax.faces import batches, pairs, sets
from fr_jax.provenance import Provenance, check_unseen, joined
from fr_jax.systems.dr_gan import poses
from fr_jax.systems.dr_gan.targets import Targets
from fr_jax.training import sources
from fr_jax.training.data import Context, Stream, Streams, TrainingData
from fr_jax.training.streams import GeneratedStream


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/dr_gan.py`."""
    check_names("pose_labels", [config.pose_labels], ("classes", "yaw"))
    _targets(config).check("none")
    by_source = {"records": _records, "rendered": _rendered, "generated": _generated}
    check_names("data source", [config.source], by_source)
    return by_source[config.source](config, context)


class Posed(NamedTuple):
    """A set of faces: pose class int32 [N] or yaw in degrees float [N], and light."""

    faces: Any
    pose: np.ndarray
    light: np.ndarray


def _records(config: Any, context: Context) -> TrainingData:
    """TFRecords with yaws; auxiliary ones may add images of unknown identities."""
    options = config.records
    if options.auxiliary_rows and not options.auxiliary:
        raise UserError(
            f"config.data.records.auxiliary_rows is {options.auxiliary_rows}, of no "
            "records: give --config.data.records.auxiliary=DIR/NAME, or 0 rows and as "
            "many fewer in a batch"
        )
    if options.auxiliary and not options.auxiliary_rows:
        raise UserError(
            f"auxiliary records {options.auxiliary} have no rows of a batch: give "
            "--config.data.records.auxiliary_rows=N"
        )
    main = _main(config, options.identities)
    provenance, pose, auxiliary = sources.provenance(main.faces), main.pose, None
    if options.auxiliary:
        auxiliary = _posed(config, options.auxiliary)
        pose = np.append(pose, auxiliary.pose)
        other = sources.provenance(auxiliary.faces)
        provenance = provenance._replace(
            identities=joined(provenance.identities, other.identities),
            licences={**provenance.licences, **other.licences},
        )
    _check_poses(config, pose)
    train = _stream(config, context, main, auxiliary)
    validation: Callable[[], Stream | None] = lambda: None  # noqa: E731
    if options.validation:
        held = _main(config, options.validation)
        held_out = sources.provenance(held.faces).identities
        provenance = provenance._replace(held_out=held_out)
        remedy = (
            "choose the identities of training (config.data.records.identities) and of "
            "validation (config.data.records.validation)"
        )
        check_unseen(held_out, provenance.identities, remedy)
        validation = _stream(config, context, held)
    return _data(
        config,
        main.faces,
        lambda: Streams(train(), validation()),
        provenance,
        expression=options.expression,
        drop_beyond=options.drop_beyond,
    )


def _rendered(config: Any, context: Context) -> TrainingData:
    """Rendered identities in every pose and light, rendered once, kept in memory."""
    posed = _grid(config, context, config.rendered.num_identities)
    stream = _stream(config, context, posed)
    return _of_rendered(config, context, posed.faces, stream)


def _generated(config: Any, context: Context) -> TrainingData:
    """Rendered identities, every image new."""
    options = config.rendered
    if config.pose_labels != "classes":
        raise UserError("generated faces have pose classes: use source 'rendered'")
    of_run: dict[str, Any] = {"seed": context.seed, "mesh": context.mesh}
    make_batch = batches.make_posed(
        tuple(config.angles),
        tuple(config.lights),
        options.num_identities,
        config.batch_size,
        images_per_identity=config.images_per_identity,
        paired=config.paired,
        size=options.size,
        **of_run,
    )
    stream = functools.partial(GeneratedStream, make_batch, config.batch_size, **of_run)
    faces = _grid(config, context, options.num_identities).faces
    return _of_rendered(config, context, faces, stream)


def _of_rendered(
    config: Any,
    context: Context,
    faces: sources.Rendered,
    stream: Callable[[], Stream],
) -> TrainingData:
    """Rendered identities, evaluated on unseen ones in the same poses and lights."""
    count = config.rendered.num_unseen
    angles, lights = len(config.angles), len(config.lights)
    numbered = pairs.number(context.seed, count, angles)
    unseen = _grid(config, context, count, first=sets.FIRST_UNSEEN)
    validation = _stream(config, context, unseen)
    person = numbered.identities - sets.FIRST_UNSEEN
    light = (person + numbered.images) % lights
    rows = (person * angles + numbered.images) * lights + light

    def open_():
        evaluators: list[Evaluator] = [
            sources.verification("unseen", unseen.faces, numbered, rows)
        ]
        if config.rendered.evaluate_generator:
            evaluators.append(_generator_evaluator(config, unseen.faces))
        return Streams(stream(), validation(), final_evaluators=evaluators)

    return _data(config, faces, open_, sources.provenance(faces))


def _generator_evaluator(config: Any, faces: sources.Rendered) -> Evaluator:
    from fr_jax.systems.dr_gan.evaluation import GeneratorEvaluator
    from fr_jax.systems.dr_gan.posed_sets import PosedSet

    pose, light = np.divmod(faces.number, len(config.lights))
    posed = PosedSet(
        faces.images(slice(None)),
        faces.label,
        yaw=np.asarray(config.angles, float)[pose],
        light=np.asarray(config.lights)[light],
        session=np.full(len(pose), -1),
        neutral=config.lights[0],
    )
    return GeneratorEvaluator(posed)


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
    faces: Any,
    open_: Callable[[], Streams],
    provenance: Provenance,
    **details: Any,
) -> TrainingData:
    num_classes, num_images = len(faces.identities), len(faces.label)
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


def _main(config: Any, identities: str) -> Posed:
    """Labelled identities of the records, with enough images each."""
    options = config.records
    posed = _posed(config, options.path, identities, options.expression)
    records, wanted = posed.faces, config.images_per_identity
    if unknown := int(np.sum(records.label < 0)):
        raise UserError(
            f"{unknown:,} of the images have no label; give such images as auxiliary "
            "ones: config.data.records.auxiliary"
        )
    counts = np.bincount(records.label)
    small = np.flatnonzero(counts < wanted)
    if not len(small):
        return posed
    if not options.drop_small:
        raise UserError(
            f"{len(small):,} of {len(counts):,} identities have fewer than {wanted} "
            f"images, as {records.identities[small[0]]} with {counts[small[0]]}; use "
            "fewer of each (config.data.images_per_identity) or leave them out "
            "(config.data.records.drop_small)"
        )
    kept = np.flatnonzero(~np.isin(records.label, small))
    if not len(kept):
        raise UserError(f"no identity has {wanted} images (images_per_identity)")
    return Posed(records.subset(kept), posed.pose[kept], posed.light[kept])


def _posed(config: Any, path: str, identities: str = "", expression: str = "") -> Posed:
    within = poses.reach(config.angles, unsigned=config.unsigned)
    records = sources.open_records(
        path,
        identities=identities,
        expression=expression,
        yaws=within if config.records.drop_beyond else None,
    )
    pose, light = records.yaw, records.light
    if config.pose_labels == "classes":
        pose = poses.classes(pose, config.angles, unsigned=config.unsigned)
    if config.illuminations:
        place = {number: n for n, number in enumerate(config.lights)}
        light = np.array([place.get(number, -1) for number in light.tolist()])
    return Posed(records, pose, light)


def _grid(config: Any, context: Context, count: int, first: int = 0) -> Posed:
    """Rendered identities in every pose and light."""
    angles, lights = tuple(config.angles), tuple(config.lights)
    faces = sources.Rendered(
        sets.multipie(angles, lights),
        context,
        count,
        first=first,
        size=config.rendered.size,
        progress=f"rendering {'unseen identities' if first else 'faces'}",
    )
    pose, light = np.divmod(faces.number, len(lights))
    if config.pose_labels == "yaw":
        pose = np.asarray(angles, np.float32)[pose]
    return Posed(faces, pose, light)


def _check_poses(config: Any, pose: np.ndarray) -> None:
    """Raises a UserError where no image has one of the target poses."""
    if config.pose_labels == "yaw":
        known = np.isfinite(pose)
        if (wrong := pose[known & (np.abs(pose) > 180)]).size:
            raise UserError(
                f"{len(wrong):,} yaws are out of range, such as {wrong[0]:g} degrees; "
                "a yaw is -180 to 180"
            )
    else:
        known = pose >= 0
    if not known.any():
        raise UserError(
            "no image has a pose label, and poses are what is learnt: give yaws in a "
            "labels.csv, choose a --layout that knows them (cfp, multipie), or "
            "auxiliary images with poses (config.data.records.auxiliary)"
        )
    never = [f"{a:g}" for n, a in enumerate(config.angles) if n not in pose]
    if never and config.pose_labels == "classes":
        raise UserError(
            f"no labelled image has a yaw near {', '.join(never)} degrees, so that "
            "pose cannot be learnt: set config.data.angles to those of the images"
        )


def _stream(
    config: Any, context: Context, posed: Posed, auxiliary: Posed | None = None
) -> Callable[[], Stream]:
    """A function that opens the stream of faces, and of auxiliary ones beside them."""
    from data_pipelines import samplers
    from data_pipelines.record_set import JoinedRecords

    faces, label = posed.faces, posed.faces.label
    pose_name = "yaw" if config.pose_labels == "yaw" else "pose"
    columns = {"label": label, pose_name: posed.pose, "light": posed.light}
    beside = []
    if auxiliary is not None:
        beside = [(len(auxiliary.pose), config.records.auxiliary_rows)]
        faces = JoinedRecords(faces, auxiliary.faces)
        unknown = np.full(len(auxiliary.pose), -1)
        others = {"label": unknown, pose_name: auxiliary.pose, "light": auxiliary.light}
        columns = {k: np.concatenate([v, others[k]]) for k, v in columns.items()}
    sampler = samplers.posed(
        samplers.Posed(label, posed.pose, posed.light),
        config.batch_size,
        images=config.images_per_identity,
        paired=config.paired,
        auxiliary=beside,
        seed=context.seed,
    )
    return lambda: sources.stream(faces, sampler, columns, context)
