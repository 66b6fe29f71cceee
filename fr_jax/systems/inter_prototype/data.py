"""Training data of Inter-Prototype: identities, some with child images.

Lee et al. (BMVC 2021, arXiv 2110.11630): a child identity has at least `child_filter`
(10) images at an age below `age_below` (13 years).
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fr_jax.errors import UserError, check_names, named
from fr_jax.faces import batches, sets
from fr_jax.provenance import Provenance
from fr_jax.training import sources
from fr_jax.training.data import Context, Stream, Streams, TrainingData
from fr_jax.training.streams import GeneratedStream


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/inter_prototype.py`."""
    by_source = {"records": _records, "rendered": _rendered, "generated": _rendered}
    by_source["discofacegan"] = _discofacegan
    return named("data source", config.source, by_source)(config, context)


def _records(config: Any, context: Context) -> TrainingData:
    """TFRecords of aligned faces."""
    options = config.records
    records = sources.open_records(options.path, identities=options.identities)
    if unlabelled := int(np.sum(records.label < 0)):
        raise UserError(
            f"{unlabelled:,} of the images have no label, which inter_prototype needs; "
            "convert a folder of identities instead"
        )
    expected, count = options.expected_identities, len(records.identities)
    if expected and expected != count:
        raise UserError(
            f"config.data.records.expected_identities is {expected:,}, the records "
            f"have {count:,}; set it to 0 to accept any number"
        )
    children, notes = _children(config.children, records.identities, context)
    provenance = sources.provenance(records)._replace(notes=notes)
    stream = _stored(config, context, records)
    return _data(config, len(records), children, lambda: Streams(stream()), provenance)


def _rendered(config: Any, context: Context) -> TrainingData:
    """Rendered identities, evaluated on unseen ones.

    The source 'rendered' renders each image once and keeps it in memory, 'generated'
    renders new images for every batch.
    """
    options = config.rendered
    sources.check_rendered(options)
    for name in ("age_file", "published", "stand_ins"):
        if config.children[name]:
            raise UserError(
                f"config.data.children.{name} is {config.children[name]!r}, for "
                "records; rendered identities have ages: set "
                "config.data.rendered.child_share"
            )
    face_set = sets.default(options.max_yaw)
    if options.child_share:
        face_set = sets.ages(options.child_share, options.max_yaw)
    faces = sources.rendered(options, context, face_set)
    if config.source == "generated":
        numbers = np.arange(options.num_identities)
        child = sets.child_owners(context.seed, numbers, options.child_share)
        stream = _generated(config, context, face_set)
    else:
        age = sets.label(face_set, context.seed, faces.label, faces.number).codes.age
        young = faces.label[age < config.children.age_below]
        images = np.bincount(young, minlength=len(faces.identities))
        child = images >= max(config.children.child_filter, 1)
        stream = _stored(config, context, faces)
    unseen = sources.unseen_pairs(options, context)
    return _data(
        config,
        len(faces.label),
        np.flatnonzero(child).tolist(),
        lambda: Streams(stream(), final_evaluators=[unseen()]),
        sources.provenance(faces),
    )


def _discofacegan(config: Any, context: Context) -> TrainingData:
    """New images of DiscoFaceGAN for every batch; they have no ages."""
    for name in ("age_file", "published", "stand_ins"):
        if config.children[name]:
            raise UserError(
                f"config.data.children.{name} is {config.children[name]!r}, for "
                "records; generated identities have no ages"
            )
    faces = sources.Generated(config.discofacegan, context)

    def open_():
        stream = faces.stream(config.batch_size, config.images_per_identity)
        return Streams(stream, final_evaluators=faces.unseen())

    count = len(faces.identities) * config.discofacegan.num_images
    return _data(config, count, [], open_, sources.provenance(faces))


def _generated(
    config: Any, context: Context, face_set: sets.FaceSet
) -> Callable[[], Stream]:
    """Returns a function that opens a stream of new images."""
    make_batch = batches.make(
        face_set,
        config.rendered.num_identities,
        config.batch_size,
        seed=context.seed,
        images_per_identity=config.images_per_identity,
        size=config.rendered.size,
        mesh=context.mesh,
    )
    options = {"seed": context.seed, "mesh": context.mesh}
    return lambda: GeneratedStream(make_batch, config.batch_size, **options)


def _stored(config: Any, context: Context, faces: Any) -> Callable[[], Stream]:
    """Returns a function that opens the stream of records or of rendered faces."""
    from data_pipelines import samplers

    label, size, seed = faces.label, config.batch_size, context.seed
    if images := config.images_per_identity:
        sampler = samplers.identities(label, size, images, seed=seed)
    else:
        sampler = samplers.epochs(len(label), size, seed=seed)
    return lambda: sources.stream(faces, sampler, {"label": label}, context)


def _data(
    config: Any,
    num_images: int,
    children: list[int],
    open_: Callable[[], Streams],
    provenance: Provenance,
) -> TrainingData:
    (identities,) = provenance.identities.values()
    return TrainingData(
        open_,
        {"num_classes": len(identities), "child_classes": children},
        config.batch_size,
        num_images / config.batch_size,
        provenance,
        f"{len(identities):,} identities, {num_images:,} images an epoch",
    )


def _children(
    options: Any, names: list[str], context: Context
) -> tuple[list[int], tuple[str, ...]]:
    """Returns labels of the child identities, by age file or at random, and notes."""
    from data_pipelines.protocols import identities

    def say(text):
        if context.show_progress:
            print(text, file=sys.stderr)

    if published := options.published:
        available = identities.PUBLISHED_CHILDREN
        check_names("config.data.children.published", [published], available)
    if count := options.stand_ins:
        say(
            f"child identities: {count} of {len(names):,}, chosen with seed "
            f"{options.seed} as stand-ins; this set has no ages"
        )
        note = (
            f"{count} seeded identities stood in for child identities: these results "
            "say nothing of children"
        )
        return identities.seeded_labels(len(names), count, options.seed), (note,)
    if not options.age_file:
        if published:
            raise UserError(
                "the paper's child identities come from an age file: give "
                "--config.data.children.age_file=FILE, or train without children by "
                "--config.data.children.published=''"
            )
        return [], ()
    labels = identities.child_labels(
        options.age_file, child_filter=options.child_filter, age_below=options.age_below
    )
    # Age files have folder names as numbers, which differ from labels.
    by_name = {int(name): label for label, name in enumerate(names) if name.isdigit()}
    children = [by_name[number] for number in labels if number in by_name]
    counts = f"{len(labels):,} of {len(names):,}"
    if published:
        total, owners = identities.PUBLISHED_CHILDREN[published]
        counts += f" (published for {published}: {owners:,} of {total:,})"
        if len(labels) != owners:
            counts += "\nwarning: not the published number; is it the same age file?"
    if len(children) < len(labels):
        counts += f"\nwarning: {len(labels) - len(children)} of them are not in the set"
    say(f"child identities: {counts}")
    return children, ()
