"""What USynthFace trains on: two images of each identity."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

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
Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/usynthface.py`."""
    for name, (low, high) in {"num_ops": (0, 99), "magnitude": (1, 30)}.items():
        check_range(f"config.data.{name}", config[name], low, high)
    check_names("config.data.augment", [config.augment], _PLACES)
    by_source = {"records": _records, "rendered": _rendered, "generated": _generated}
    check_names("data source", [config.source], by_source)
    return by_source[config.source](config, context)


def _records(config: Any, context: Context) -> TrainingData:
    """TFRecords of aligned faces; some identities may be held out for evaluation."""
    options = config.records
    check_names("config.data.records.template", [options.template], _TEMPLATES)
    records = sources.open_records(options.path, identities=options.identities)
    wanted = options.num_identities if config.pairing != "flat" else 0
    if wanted > len(records.identities):
        raise UserError(
            f"config.data.records.num_identities is {wanted:,}, the records have "
            f"{len(records.identities):,}"
        )
    if wanted:
        kept = (records.label >= 0) & (records.label < wanted)
        records = records.subset(np.flatnonzero(kept))
    count = options.held_out
    if not count:
        provenance = sources.provenance(records)
        return _stored(config, context, records, list, provenance)
    numbered = pairs.number(context.seed, count, sources.IMAGES_OF_UNSEEN)
    held = np.isin(records.label, _held_out(records.label, count))
    train = records.subset(np.flatnonzero(~held))
    unseen = records.subset(np.flatnonzero(held))
    held_out = {unseen.name: unseen.identities}
    provenance = sources.provenance(train)._replace(held_out=held_out)

    def evaluators():
        members = [np.flatnonzero(unseen.label == n) for n in range(count)]
        places = numbered.identities - sets.FIRST_UNSEEN
        rows = [members[who][n] for who, n in zip(places, numbered.images)]
        return [sources.verification("heldout", unseen, numbered, np.array(rows))]

    return _stored(config, context, train, evaluators, provenance)


def _rendered(config: Any, context: Context) -> TrainingData:
    """Rendered identities, each image rendered once and kept in memory."""
    faces, unseen = _faces(config, context)
    provenance = sources.provenance(faces)
    return _stored(config, context, faces, lambda: [unseen()], provenance)


def _generated(config: Any, context: Context) -> TrainingData:
    """Rendered identities, both images of every pair new."""
    options, seed = config.rendered, context.seed
    faces, unseen = _faces(config, context)
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

    def open_():
        stream = GeneratedStream(
            make_batch, config.batch_size, seed=seed, mesh=context.mesh, unit="pairs"
        )
        return _streams(config, stream, None, [unseen()])

    return _data(config, len(faces.identities), open_, sources.provenance(faces))


def _faces(config: Any, context: Context) -> tuple[sources.Rendered, Any]:
    """Rendered identities, and a function that renders pairs of unseen ones."""
    options = config.rendered
    sources.check_rendered(options)
    faces = sources.rendered(options, context, sets.usynthface(options.max_yaw))
    return faces, sources.unseen_pairs(options, context)


def _stored(
    config: Any,
    context: Context,
    faces: Any,
    evaluators: Callable[[], list[Verification]],
    provenance: Provenance,
) -> TrainingData:
    """Pairs of images of records, or rendered ones."""
    from data_pipelines import samplers

    flat = config.pairing == "flat" and config.source == "records"
    count = config.records.num_identities if flat else 0
    if 0 < count < len(faces.label):  # an image is an identity
        faces = faces.subset(np.arange(count))
    sampler = samplers.pairs(
        faces.label,
        config.batch_size,
        pairing=config.pairing,
        num_identities=count,
        seed=context.seed,
    )
    label = samplers.pair_labels(faces.label, config.pairing)

    def open_():
        augment = _host_augmentation(config)
        stream = sources.stream(faces, sampler, {"label": label}, context, augment)
        shown = faces.images(sampler(0)["image"][:2])
        return _streams(config, stream, shown, evaluators())

    return _data(config, sampler.epoch, open_, provenance)


def _host_augmentation(config: Any) -> Augment | None:
    """What the host does to an image: the shift of the template, and RandAugment."""
    from data_pipelines.vision import rand_augment

    steps: list[Augment] = []
    if config.source == "records" and config.records.template == "train96":
        steps.append(lambda image, rng: _shifted_left(image))
    if _place(config) == "host":
        options = {"num_ops": config.num_ops, "magnitude": config.magnitude}
        steps.append(functools.partial(rand_augment.augment, **options))
    if not steps:
        return None

    def augment(image, rng):
        for step in steps:
            image = step(image, rng)
        return image

    return augment


def _shifted_left(image: np.ndarray) -> np.ndarray:
    """Returns a face [S, S, 3] moved left by 8 of 112 pixels, black behind it.

    So lie the faces that USynthFace was trained on, though not those that it was
    evaluated on: its training template was that of crops of 96 x 112. (The original's
    crops show what is beside the face where these are black.)
    """
    pixels = round(8 * image.shape[1] / 112)
    out = np.zeros_like(image)
    out[:, : image.shape[1] - pixels] = image[:, pixels:]
    return out


def _streams(
    config: Any, stream: Stream, faces: np.ndarray | None, evaluators: list[Any]
) -> Streams:
    figures = ()
    if jax.process_count() == 1:  # each of several processes holds a part of the pairs
        policy = _augmentation(config) if config.augment != "none" else None
        if faces is None:
            faces = np.asarray(stream.batch_at(0)["image"][:2])
        figures = [PairFigures(stream, faces, policy, config.num_ops, config.magnitude)]
    return Streams(stream, final_evaluators=[*evaluators, *figures])


def _data(
    config: Any,
    num_classes: int,
    open_: Callable[[], Streams],
    provenance: Provenance,
) -> TrainingData:
    details, notes = _selection(config.selection)
    arguments = {
        "num_classes": num_classes,
        "plateau_metrics": tuple(f"{name}/accuracy" for name in config.selection.sets),
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
