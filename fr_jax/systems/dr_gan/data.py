"""DR-GAN's training data: identities in labelled poses."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError, check_names, named
from fr_jax.evaluation.evaluator import Evaluator
from fr_jax.faces import batches, pairs, sets
from fr_jax.provenance import Provenance, check_unseen, joined, merged
from fr_jax.systems.dr_gan import poses
from fr_jax.systems.dr_gan.targets import Targets
from fr_jax.training import sources
from fr_jax.training.data import Context, Stream, Streams, TrainingData
from fr_jax.training.streams import GeneratedStream

# Labelled faces, a function that opens their streams, and their provenance.
Source = tuple[Any, Callable[[], Streams], Provenance]


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/dr_gan.py`."""
    check_names("pose_labels", [config.pose_labels], ("classes", "yaw"))
    targets = Targets(
        angles=tuple(config.angles),
        continuous=config.pose_labels == "yaw",
        unsigned=config.unsigned,
        illuminations=len(config.lights) if config.illuminations else 0,
        images_per_identity=config.images_per_identity,
        paired=config.paired,
    )
    targets.check("none")
    by_source = {"records": _records, "rendered": _rendered, "generated": _rendered}
    load_source = named("data source", config.source, by_source)
    faces, open_, provenance = load_source(config, context)
    num_classes, num_images = len(faces.identities), len(faces.label)
    codes = {  # meaning of the generator's pose and light codes
        "angles": [float(angle) for angle in config.angles],
        "unsigned": bool(config.unsigned),
        "lights": list(config.lights),
    }
    return TrainingData(
        open_,
        {"num_classes": num_classes, "targets": targets},
        config.batch_size,
        num_images / config.batch_size,
        provenance._replace(details={**codes, **provenance.details}),
        f"{num_classes:,} identities, {num_images:,} images an epoch",
    )


class Posed(NamedTuple):
    """A set of faces: pose class int32 [N] or yaw in degrees float [N], and light."""

    faces: Any
    pose: np.ndarray
    light: np.ndarray


def _records(config: Any, context: Context) -> Source:
    """Returns records with yaws, and auxiliary ones of unknown identities."""
    options = config.records
    if bool(options.auxiliary) != bool(options.auxiliary_rows):
        raise UserError(
            f"config.data.records.auxiliary is {options.auxiliary!r} and "
            f"auxiliary_rows is {options.auxiliary_rows}: give auxiliary=DIR/NAME and "
            "auxiliary_rows=N, or neither and a batch_size without these rows"
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
            fingerprint={
                **provenance.fingerprint,
                **{f"auxiliary {n}": one for n, one in other.fingerprint.items()},
            },
            digests=merged(provenance.digests, other.digests),
        )
    _check_poses(config, pose)
    train, validation = _stream(config, context, main, auxiliary), None
    if options.validation:
        unseen = _main(config, options.validation)
        held_out = sources.provenance(unseen.faces).identities
        provenance = provenance._replace(held_out=held_out)
        remedy = (
            "choose the identities of training (config.data.records.identities) and of "
            "validation (config.data.records.validation)"
        )
        check_unseen(held_out, provenance.identities, remedy)
        validation = _stream(config, context, unseen)
    details = {name: options[name] for name in ("expression", "drop_beyond")}
    provenance = provenance._replace(details=details)

    def open_():
        return Streams(train(), validation and validation())

    return main.faces, open_, provenance


def _rendered(config: Any, context: Context) -> Source:
    """Returns rendered identities in every pose and light; evaluates on unseen ones."""
    options, lights = config.rendered, len(config.lights)
    count, angles = options.num_unseen, len(config.angles)
    faces = _grid(config, context, options.num_identities)
    if config.source == "generated":
        stream = _generated(config, context)
    else:
        stream = _stream(config, context, faces)
    unseen = _grid(config, context, count, first=sets.FIRST_UNSEEN)
    validation = _stream(config, context, unseen)
    numbered = pairs.number(context.seed, count, angles)
    identity = numbered.identities - sets.FIRST_UNSEEN
    light = (identity + numbered.images) % lights
    rows = (identity * angles + numbered.images) * lights + light

    def open_():
        evaluators: list[Evaluator] = [
            sources.verification("unseen", unseen.faces, numbered, rows)
        ]
        if options.evaluate_generator:
            evaluators.append(_generator_evaluator(config, unseen.faces))
        return Streams(stream(), validation(), final_evaluators=evaluators)

    return faces.faces, open_, sources.provenance(faces.faces)


def _generated(config: Any, context: Context) -> Callable[[], Stream]:
    """Returns a function that opens a stream of new images, rendered on the device."""
    if config.pose_labels != "classes":
        raise UserError("generated faces have pose classes: use source 'rendered'")
    run: dict[str, Any] = {"seed": context.seed, "mesh": context.mesh}
    make_batch = batches.make_posed(
        tuple(config.angles),
        tuple(config.lights),
        config.rendered.num_identities,
        config.batch_size,
        images_per_identity=config.images_per_identity,
        paired=config.paired,
        size=config.rendered.size,
        **run,
    )
    return functools.partial(GeneratedStream, make_batch, config.batch_size, **run)


def _generator_evaluator(config: Any, faces: sources.Rendered) -> Evaluator:
    from fr_jax.systems.dr_gan import posed_sets
    from fr_jax.systems.dr_gan.evaluation import GeneratorEvaluator

    posed = posed_sets.grid(faces, config.angles, config.lights, config.lights[0])
    return GeneratorEvaluator(posed)


def _main(config: Any, identities: str) -> Posed:
    """Returns labelled identities of the records, with enough images per identity."""
    options, needed = config.records, config.images_per_identity
    posed = _posed(config, options.path, identities, options.expression)
    records = posed.faces
    if unknown := int(np.sum(records.label < 0)):
        raise UserError(
            f"{unknown:,} of the images have no label; give such images as auxiliary "
            "ones: config.data.records.auxiliary"
        )
    counts = np.bincount(records.label)
    small = np.flatnonzero(counts < needed)
    if not len(small):
        return posed
    if not options.drop_small:
        raise UserError(
            f"{len(small):,} of {len(counts):,} identities have fewer than {needed} "
            f"images, such as {records.identities[small[0]]} with {counts[small[0]]}; "
            "reduce config.data.images_per_identity or leave these identities out "
            "(config.data.records.drop_small)"
        )
    kept = np.flatnonzero(counts[records.label] >= needed)
    if not len(kept):
        raise UserError(f"no identity has {needed} images (images_per_identity)")
    return Posed(records.subset(kept), posed.pose[kept], posed.light[kept])


def _posed(config: Any, path: str, identities: str = "", expression: str = "") -> Posed:
    limits = poses.reach(config.angles, unsigned=config.unsigned)
    records = sources.open_records(
        path,
        identities=identities,
        expression=expression,
        yaws=limits if config.records.drop_beyond else None,
    )
    pose, light = records.yaw, records.light
    if config.pose_labels == "classes":
        pose = poses.classes(pose, config.angles, unsigned=config.unsigned)
    if config.illuminations:
        classes = {number: n for n, number in enumerate(config.lights)}
        light = np.array([classes.get(number, -1) for number in light.tolist()])
    return Posed(records, pose, light)


def _grid(config: Any, context: Context, count: int, first: int = 0) -> Posed:
    """Returns rendered identities in every pose and light."""
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
    """Raises a UserError unless there are images of every target pose."""
    if config.pose_labels == "yaw":
        has_pose = np.isfinite(pose)
        if (wrong := pose[np.abs(pose) > 180]).size:
            raise UserError(
                f"{len(wrong):,} yaws are out of range, such as {wrong[0]:g} degrees; "
                "a yaw is -180 to 180"
            )
    else:
        has_pose = pose >= 0
    if not has_pose.any():
        raise UserError(
            "no image has a pose label: give yaws in a labels.csv, choose a --layout "
            "with poses (cfp, multipie), or add auxiliary images with poses "
            "(config.data.records.auxiliary)"
        )
    missing = [f"{a:g}" for n, a in enumerate(config.angles) if n not in pose]
    if missing and config.pose_labels == "classes":
        raise UserError(
            f"no labelled image has a yaw near {', '.join(missing)} degrees: set "
            "config.data.angles to those of the images"
        )


def _stream(
    config: Any, context: Context, posed: Posed, auxiliary: Posed | None = None
) -> Callable[[], Stream]:
    """Returns a function that opens the stream of faces with auxiliary ones."""
    from data_pipelines import samplers
    from data_pipelines.record_set import JoinedRecords

    faces, label = posed.faces, posed.faces.label
    pose_name = "yaw" if config.pose_labels == "yaw" else "pose"
    columns = {"label": label, pose_name: posed.pose, "light": posed.light}
    added = []
    if auxiliary is not None:
        added = [(len(auxiliary.pose), config.records.auxiliary_rows)]
        faces = JoinedRecords(faces, auxiliary.faces)
        others = np.full(len(auxiliary.pose), -1), auxiliary.pose, auxiliary.light
        for name, other in zip(columns, others):
            columns[name] = np.append(columns[name], other)
    sampler = samplers.posed(
        samplers.Posed(label, posed.pose, posed.light),
        config.batch_size,
        images=config.images_per_identity,
        paired=config.paired,
        auxiliary=added,
        seed=context.seed,
    )
    return lambda: sources.stream(faces, sampler, columns, context)
