"""What Inter-Prototype trains on: identities, some of them known to own child images."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from fr_jax.errors import UserError, check_names
from fr_jax.faces import batches, sets
from fr_jax.provenance import Provenance
from fr_jax.training import sources
from fr_jax.training.data import Context, Stream, Streams, TrainingData
from fr_jax.training.streams import ArrayStream, GeneratedStream


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/inter_prototype.py`."""
    return sources.load(
        config,
        context,
        {"records": _records, "rendered": _rendered, "generated": _generated},
    )


def _records(config: Any, context: Context) -> TrainingData:
    """TFRecords of aligned faces."""
    options = config.records
    stream = sources.open_records(
        options.path,
        context,
        config.batch_size,
        identities=options.identities,
        images_per_identity=config.images_per_identity,
    )
    if stream.num_unlabelled:
        raise UserError(
            f"{stream.num_unlabelled:,} of the images have no label, which "
            "inter_prototype learns from; convert a folder of identities instead"
        )
    expected = options.expected_identities
    if expected and expected != stream.num_classes:
        raise UserError(
            f"config.data.records.expected_identities is {expected:,}, the records have "
            f"{stream.num_classes:,}; set it to 0 to take what they have"
        )
    children, notes = _children(config.children, stream.identities, context)
    provenance = sources.records_provenance(
        stream.name, stream.identities, stream.classes, stream.licence
    )
    return _data(
        config,
        stream.num_classes,
        stream.num_examples,
        children,
        lambda: Streams(stream),
        provenance._replace(notes=notes),
    )


def _rendered(config: Any, context: Context) -> TrainingData:
    """Rendered identities, each image rendered once and kept in memory."""
    options, face_set = config.rendered, _face_set(config.rendered)
    count, seed = options.num_identities, context.seed
    label, image = sets.rows(face_set, count, options.num_images)
    age = sets.label(face_set, seed, label, image).codes.age
    young = np.bincount(label[age < config.children.age_below], minlength=count)
    children = np.flatnonzero(young >= max(config.children.child_filter, 1))

    def stream():
        arrays = sets.arrays(
            face_set,
            seed=seed,
            people=count,
            images=options.num_images,
            size=options.size,
            progress=sources.progress(context),
        )
        return ArrayStream(arrays, config.batch_size, seed=seed, mesh=context.mesh)

    return _of_rendered(config, context, stream, children)


def _generated(config: Any, context: Context) -> TrainingData:
    """Rendered identities, every image new and none kept."""
    options, seed = config.rendered, context.seed
    make_batch = batches.make(
        _face_set(options),
        options.num_identities,
        config.batch_size,
        seed=seed,
        images_per_identity=config.images_per_identity,
        size=options.size,
        mesh=context.mesh,
    )
    numbers = np.arange(options.num_identities)
    children = np.flatnonzero(sets.child_owners(seed, numbers, options.child_share))

    def stream():
        return GeneratedStream(
            make_batch, config.batch_size, seed=seed, mesh=context.mesh
        )

    return _of_rendered(config, context, stream, children)


def _of_rendered(
    config: Any, context: Context, stream: Callable[[], Stream], children: np.ndarray
) -> TrainingData:
    """Rendered identities, evaluated on unseen ones of the same kind."""
    options = config.rendered
    for name in ("age_file", "published", "stand_ins"):
        if config.children[name]:
            raise UserError(
                f"config.data.children.{name} is {config.children[name]!r}, for "
                "records; rendered identities have ages: set "
                "config.data.rendered.child_share"
            )
    unseen = sources.unseen_pairs(options, context, sets.default(options.max_yaw))
    return _data(
        config,
        options.num_identities,
        options.num_identities * options.num_images,
        children.tolist(),
        lambda: Streams(stream(), final_evaluators=[unseen()]),
        sources.rendered_provenance(
            context.seed, options.num_identities, options.num_images
        ),
    )


def _face_set(options: Any) -> sets.FaceSet:
    sources.check_rendered(options)
    if options.child_share:
        return sets.ages(options.child_share, options.max_yaw)
    return sets.default(options.max_yaw)


def _data(
    config: Any,
    num_classes: int,
    num_images: int,
    children: list[int],
    open_: Callable[[], Streams],
    provenance: Provenance,
) -> TrainingData:
    return TrainingData(
        open_,
        {"num_classes": num_classes, "child_classes": children},
        config.batch_size,
        num_images / config.batch_size,
        provenance,
        f"{num_classes:,} identities, {num_images:,} images an epoch",
    )


def _children(
    options: Any, names: list[str], context: Context
) -> tuple[list[int], tuple[str, ...]]:
    """Classes of the child identities, by an age file or seeded stand-ins, and notes."""
    from data_pipelines.protocols import identities

    def say(text):
        if context.show_progress:
            print(text, file=sys.stderr)

    if options.published:
        check_names(
            "config.data.children.published",
            [options.published],
            identities.PUBLISHED_CHILDREN,
        )
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
        if options.published:
            raise UserError(
                "the paper's child identities come from an age file: give "
                "--config.data.children.age_file=FILE, or train without children by "
                "--config.data.children.published=''"
            )
        return [], ()
    labels = identities.child_labels(
        options.age_file, child_filter=options.child_filter, age_below=options.age_below
    )
    # By name: the number of a folder is not its place in sorted order.
    place = {int(name): number for number, name in enumerate(names) if name.isdigit()}
    children = [place[label] for label in labels if label in place]
    counts = f"{len(labels):,} of {len(names):,}"
    if options.published:
        total, published = identities.PUBLISHED_CHILDREN[options.published]
        counts += f" (published for {options.published}: {published:,} of {total:,})"
        if len(labels) != published:
            counts += "\nwarning: not the published number; is it the same age file?"
    if len(children) < len(labels):
        counts += f"\nwarning: {len(labels) - len(children)} of them are not in the set"
    say(f"child identities: {counts}")
    return children, ()
