"""What USynthFace trains on: two images of each identity, told apart by nothing else."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fr_jax.backend import sharding
from fr_jax.errors import UserError, check_names, check_range
from fr_jax.evaluation.verification import Verification
from fr_jax.faces import batches, pairs, sets
from fr_jax.provenance import Provenance
from fr_jax.systems.usynthface.figures import PairFigures
from fr_jax.training import sources
from fr_jax.training.data import Context, Stream, Streams, TrainingData
from fr_jax.training.streams import GeneratedStream

_PLACES = ("auto", "host", "device", "none")
_TEMPLATES = ("arcface112", "train96")
_LEFT_OUT = -2  # instead of a label


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/usynthface.py`."""
    for name, (low, high) in {"num_ops": (0, 99), "magnitude": (1, 30)}.items():
        check_range(f"config.data.{name}", config[name], low, high)
    check_names("config.data.augment", [config.augment], _PLACES)
    return sources.load(
        config,
        context,
        {"records": _records, "rendered": _rendered, "generated": _generated},
    )


def _records(config: Any, context: Context) -> TrainingData:
    """TFRecords of aligned faces; some identities may be held out for evaluation."""
    from data_pipelines import pair_stream

    options = config.records
    check_names("config.data.records.template", [options.template], _TEMPLATES)
    reader = sources.open_records(
        options.path, context, config.batch_size, identities=options.identities
    )
    labels = _first(reader.classes, reader.num_classes, config)
    held, numbered = [], None
    if count := options.held_out:
        numbered = pairs.number(context.seed, count, sources.IMAGES_OF_UNSEEN)
        held = _held_out(labels, count)
        labels = np.where(np.isin(labels, held), _LEFT_OUT, labels)
    kept = np.flatnonzero(labels != _LEFT_OUT)

    def fetch(numbers):
        images = reader.images(kept[numbers])
        shifts = options.template == "train96"
        return pair_stream.shifted_left(images) if shifts else images

    stream = _pairs(config, context, fetch, labels[kept])
    names = np.array(reader.identities, object)
    trained = list(names[np.unique(labels[labels >= 0])])
    provenance = sources.records_provenance(
        reader.name, trained, labels[kept], reader.licence
    )

    def open_():
        if numbered is None:
            return _streams(config, stream, ())
        members = [np.flatnonzero(reader.classes == label) for label in held]
        places = numbered.identities - sets.STRANGERS
        rows = [members[who][n] for who, n in zip(places, numbered.images)]
        heldout = Verification(
            "heldout",
            images=reader.images(np.array(rows)),
            pairs=numbered.pairs,
            same=numbered.same,
            folds=numbered.folds,
            identities=list(names[held][places]),
        )
        return _streams(config, stream, [heldout])

    if count:
        provenance = provenance._replace(
            held_out={reader.name: [str(name) for name in names[held]]}
        )
    return _data(config, stream.num_classes, open_, provenance)


def _rendered(config: Any, context: Context) -> TrainingData:
    """Rendered identities, each image rendered once and kept in memory."""
    options, seed = config.rendered, context.seed
    sources.check_rendered(options)
    face_set = sets.usynthface(options.max_yaw)
    label, _ = sets.rows(face_set, options.num_identities, options.num_images)
    rendered: dict[str, np.ndarray] = {}
    stream = _pairs(config, context, lambda n: rendered["image"][n], label)

    def opened():
        rendered.update(
            sets.arrays(
                face_set,
                seed=seed,
                people=options.num_identities,
                images=options.num_images,
                size=options.size,
                progress=sources.progress(context),
            )
        )
        return stream

    return _of_rendered(config, context, opened, stream.num_classes)


def _generated(config: Any, context: Context) -> TrainingData:
    """Rendered identities, both images of every pair new."""
    options, seed = config.rendered, context.seed
    sources.check_rendered(options)
    if config.pairing != "disco" or config.augment == "host":
        raise UserError(
            "generated pairs are two new images of an identity (pairing 'disco'), "
            "rendered and augmented on the device"
        )
    make_two = batches.make(
        sets.usynthface(options.max_yaw),
        options.num_identities,
        2 * config.batch_size,
        seed=seed,
        images_per_identity=2,
        size=options.size,
        mesh=context.mesh,
    )

    def make_batch(key):
        two = make_two(key)
        first, second = two["image"][::2], two["image"][1::2]
        return {"image": first, "positive": second, "label": two["label"][::2]}

    def opened():
        return GeneratedStream(
            make_batch, config.batch_size, seed=seed, mesh=context.mesh, unit="pairs"
        )

    return _of_rendered(config, context, opened, options.num_identities)


def _of_rendered(
    config: Any, context: Context, opened: Callable[[], Stream], num_classes: int
) -> TrainingData:
    """Rendered identities, evaluated on unseen ones of the same kind."""
    options = config.rendered
    unseen = sources.unseen_pairs(options, context, sets.default(options.max_yaw))
    provenance = sources.rendered_provenance(
        context.seed, options.num_identities, options.num_images
    )
    return _data(
        config,
        num_classes,
        lambda: _streams(config, opened(), [unseen()]),
        provenance,
    )


def _pairs(config, context, fetch, labels):
    from data_pipelines.pair_stream import PairStream
    from data_pipelines.vision import rand_augment

    augment = None
    if _place(config) == "host":
        augment = functools.partial(
            rand_augment.augment, num_ops=config.num_ops, magnitude=config.magnitude
        )
    flat = config.pairing == "flat" and config.source == "records"
    return PairStream(
        fetch,
        labels,
        batch_size=config.batch_size,
        pairing=config.pairing,
        num_identities=config.records.num_identities if flat else 0,
        seed=context.seed,
        augment=augment,
        rows=sharding.local_rows(context.mesh, config.batch_size),
    )


def _streams(config: Any, stream: Stream, evaluators) -> Streams:
    figures = ()
    if jax.process_count() == 1:  # each of several processes holds a part of the pairs
        policy = _augmentation(config) if config.augment != "none" else None
        fetch = getattr(stream, "fetch", None)
        faces = (
            fetch(stream.numbers(0)[1][:2, 0])
            if fetch
            else np.asarray(stream.batch_at(0)["image"][:2])
        )
        figures = [PairFigures(stream, faces, policy, config.num_ops, config.magnitude)]
    return Streams(stream, evaluators=figures, final_evaluators=[*evaluators, *figures])


def _data(
    config: Any,
    num_classes: int,
    open_: Callable[[], Streams],
    provenance: Provenance,
) -> TrainingData:
    selection = config.selection
    details, notes = _selection(selection)
    arguments = {
        "num_classes": num_classes,
        "watch": tuple(f"{name}/accuracy" for name in selection.sets),
        "augmentation": _augmentation(config),
    }
    return TrainingData(
        open_,
        arguments,
        config.batch_size,
        num_classes / config.batch_size,
        provenance._replace(details=details, notes=notes),
        f"{num_classes:,} identities, {num_classes:,} pairs an epoch",
    )


def _selection(selection: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How the learning rate and the stop were chosen, for readers of the results."""
    kind, names = selection.kind, list(selection.sets)
    check_names("config.data.selection.kind", [kind], ("clean", "legacy"))
    tested = [name for name in names if name not in ("heldout", "unseen")]
    if kind == "clean" and tested:
        raise UserError(
            f"config.data.selection.sets: {', '.join(tested)} would not be unseen any "
            "more; say so with --config.data.selection.kind=legacy"
        )
    notes = ()
    if kind == "legacy" and names:
        notes = (
            f"the learning rate or the stop followed {', '.join(names)}, as published: "
            "their results are not of unseen sets",
        )
    return {"selection": {"kind": kind, "sets": names}}, notes


def _first(labels: np.ndarray, num_classes: int, config: Any) -> np.ndarray:
    """Labels of which only the first `num_identities` are left."""
    wanted = config.records.num_identities
    if config.pairing == "flat" or not wanted:
        return labels
    if wanted > num_classes:
        raise UserError(
            f"config.data.records.num_identities is {wanted:,}, the records have "
            f"{num_classes:,}"
        )
    return np.where(labels < wanted, labels, _LEFT_OUT)


def _held_out(labels: np.ndarray, count: int) -> np.ndarray:
    """The last identities that have enough images for verification pairs."""
    known, images = np.unique(labels[labels >= 0], return_counts=True)
    enough = known[images >= sources.IMAGES_OF_UNSEEN]
    setting = f"config.data.records.held_out is {count}"
    if len(enough) < count:
        raise UserError(
            f"{setting} identities with {sources.IMAGES_OF_UNSEEN} images each; "
            f"{len(enough)} of {len(known)} have as many"
        )
    if len(known) == count:
        raise UserError(f"{setting}, which leaves no identity to train on")
    return enough[-count:]


def _augmentation(config: Any) -> tuple:
    """What the device does to images; the host does it where the network runs."""
    if _place(config) != "device":
        return ()
    options = {"num_ops": config.num_ops, "magnitude": config.magnitude}
    return ("flip", {}), ("rand_augment", options)


def _place(config: Any) -> str:
    """Where images are augmented: by the processor that does not run the network."""
    if config.augment != "auto":
        return config.augment
    on_host = jax.default_backend() == "cpu" and config.source != "generated"
    return "host" if on_host else "device"
