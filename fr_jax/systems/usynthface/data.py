"""What learning without labels trains on: two views of each identity.

As `training`'s sources, for configurations whose `data` have a `pairing`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines import pair_stream
from data_pipelines.pair_stream import PairStream
from data_pipelines.vision import rand_augment as randaugment
from fr_jax.backend import sharding
from fr_jax.errors import UserError, unknown
from fr_jax.evaluation.sets import parse_set
from fr_jax.evaluation.verification import EvaluationSet
from fr_jax.faces import batches, pairs, sets
from fr_jax.training.streams import GeneratedStream

# Opens the stream and the sets to judge on; facts for `make`; provenance.
Source = tuple[
    Callable[[], tuple[Any, list[EvaluationSet]]], dict[str, Any], dict[str, Any]
]
_PLACES = ("auto", "host", "device", "none")
_TEMPLATES = ("arcface112", "train96")
_OF_A_STRANGER = 3  # images, for three genuine pairs
_LEFT_OUT = -2  # instead of a label


def records(config: ConfigDict, mesh: jax.sharding.Mesh) -> Source:
    """TFRecords of aligned faces; some identities may be held out to be judged on."""
    from data_pipelines.stream import RecordStream  # needs TensorFlow

    options = config.data
    if not options.path:
        raise UserError("say where the records are: --config.data.path=DIR/NAME")
    if options.template not in _TEMPLATES:
        raise UserError(unknown("data.template", options.template, _TEMPLATES))
    reader = RecordStream(
        options.path,
        batch_size=options.batch_size,
        identities=options.identities or None,
    )
    labels = _first(reader.classes, reader.num_classes, options)
    held, numbered = [], None
    if count := config.selection.held_out:
        numbered = pairs.number(config.train.seed, count, _OF_A_STRANGER)
        held = _held_out(labels, count)
        labels = np.where(np.isin(labels, held), _LEFT_OUT, labels)
    kept = np.flatnonzero(labels != _LEFT_OUT)

    def fetch(numbers):
        images = reader.images(kept[numbers])
        shifts = options.template == "train96"
        return pair_stream.shifted_left(images) if shifts else images

    stream = _paired(config, mesh, fetch, labels[kept])
    names = np.array(reader.identities, object)
    people = {reader.name: list(names[np.unique(labels[labels >= 0])])}
    given = [parse_set(text) for text in config.evaluation.sets]

    def open_():
        if numbered is None:
            return stream, given
        members = [np.flatnonzero(reader.classes == label) for label in held]
        places = numbered.people - sets.STRANGERS
        rows = [members[who][n] for who, n in zip(places, numbered.images)]
        heldout = EvaluationSet(
            "heldout",
            images=reader.images(np.array(rows)),
            pairs=numbered.pairs,
            same=numbered.same,
            folds=numbered.folds,
            people=list(names[held][places]),
        )
        return stream, [heldout, *given]

    known = [*(["heldout"] if count else []), *(one.name for one in given)]
    facts = _facts(config, stream.num_classes, known)
    provenance = {"people": people, "licences": {reader.name: reader.licence}}
    return open_, facts, provenance | _selection(config)


def rendered(config: ConfigDict, mesh: jax.sharding.Mesh) -> Source:
    """Drawn people, each image made once and kept in memory."""
    options, seed = config.data, config.train.seed
    check_drawn(options)
    face_set = sets.usynthface(options.max_yaw)
    label, _ = sets.rows(face_set, options.num_identities, options.num_images)
    drawn: dict[str, np.ndarray] = {}
    stream = _paired(config, mesh, lambda numbers: drawn["image"][numbers], label)

    def open_stream():
        drawn.update(
            sets.arrays(
                face_set,
                seed=seed,
                people=options.num_identities,
                images=options.num_images,
                size=options.size,
                progress="drawing people" if jax.process_index() == 0 else "",
            )
        )
        return stream

    return _of_nobody(config, open_stream, stream.num_classes)


def generated(config: ConfigDict, mesh: jax.sharding.Mesh) -> Source:
    """Drawn people, both images of every pair new."""
    options, seed = config.data, config.train.seed
    check_drawn(options)
    if options.pairing != "disco" or options.augment == "host":
        raise UserError(
            "generated pairs are two new images of a person (pairing 'disco'), made "
            "and augmented on the device"
        )
    make_two = batches.make(
        sets.usynthface(options.max_yaw),
        options.num_identities,
        2 * options.batch_size,
        seed=seed,
        images_per_identity=2,
        size=options.size,
        mesh=mesh,
    )

    def make_batch(key):
        two = make_two(key)
        first, second = two["image"][::2], two["image"][1::2]
        return {"image": first, "positive": second, "label": two["label"][::2]}

    def open_stream():
        return GeneratedStream(
            make_batch, options.batch_size, seed=seed, mesh=mesh, unit="pairs"
        )

    return _of_nobody(config, open_stream, options.num_identities)


def check_drawn(options: ConfigDict) -> None:
    """Raises a UserError for faces that cannot be drawn as `config.data` wants them."""
    if options.size < 16:
        raise UserError(f"config.data.size is {options.size}; a face needs 16 pixels")
    if not 0 <= options.max_yaw <= 90:
        raise UserError(
            f"config.data.max_yaw is {options.max_yaw}; use 0 to 90 degrees"
        )


SOURCES: Mapping[str, Callable[[ConfigDict, jax.sharding.Mesh], Source]] = {
    "records": records,
    "rendered": rendered,
    "generated": generated,
}


def _paired(config, mesh, fetch, labels) -> PairStream:
    options = config.data
    augment = None
    if _on_host(config):
        augment = functools.partial(
            randaugment.augment, num_ops=options.num_ops, magnitude=options.magnitude
        )
    return PairStream(
        fetch,
        labels,
        batch_size=options.batch_size,
        pairing=options.pairing,
        num_identities=options.num_identities if options.pairing == "flat" else 0,
        seed=config.train.seed,
        augment=augment,
        rows=sharding.local_rows(mesh, options.batch_size),
    )


def _of_nobody(
    config: ConfigDict, open_stream: Callable[[], Any], identities: int
) -> Source:
    """A source of drawn people, to be judged on others of the same kind."""
    options, seed = config.data, config.train.seed
    if config.selection.held_out:
        raise UserError(
            "config.selection.held_out is for records; drawn people are judged on "
            "config.data.num_strangers others"
        )
    given = [parse_set(text) for text in config.evaluation.sets]
    pairs.number(seed, options.num_strangers, _OF_A_STRANGER)  # or says what is wrong

    def open_():
        drawn = pairs.draw(
            seed,
            people=options.num_strangers,
            images=_OF_A_STRANGER,
            face_set=sets.default(options.max_yaw),
            size=options.size,
            progress="drawing strangers" if jax.process_index() == 0 else "",
        )
        strangers = EvaluationSet("strangers", **drawn._asdict())
        return open_stream(), [strangers, *given]

    known = ["strangers", *(one.name for one in given)]
    facts = _facts(config, identities, known)
    names = [sets.person_name(seed, n) for n in range(options.num_identities)]
    provenance = {"people": {"drawn": names}, "licences": {"drawn": "none needed"}}
    return open_, facts, provenance | _selection(config)


def _facts(config: ConfigDict, people: int, known: Sequence[str]) -> dict[str, Any]:
    """Arguments of `make` that the data and the sets to judge on decide."""
    options, selection = config.data, config.selection
    for name, (low, high) in {"num_ops": (0, 99), "magnitude": (1, 30)}.items():
        if not low <= options[name] <= high:
            raise UserError(
                f"config.data.{name} is {options[name]}; use {low} to {high}"
            )
    for name in selection.sets:
        if name not in known:
            raise UserError(
                unknown("set to select by", name, known)
                + "; give --config.evaluation.sets or --config.selection.held_out"
            )
    if config.system.schedule == "plateau" and not (
        selection.sets and config.train.evaluate_every
    ):
        raise UserError(
            "schedule 'plateau' follows accuracies: name sets in "
            "config.selection.sets, and give config.train.evaluate_every"
        )
    on_device = _place(config) == "device"
    augment = {"num_ops": options.num_ops, "magnitude": options.magnitude}
    return {
        "num_classes": people,
        "batch_size": options.batch_size,
        "steps_per_epoch": people / options.batch_size,
        "watch": tuple(f"{name}/accuracy" for name in selection.sets),
        "augmentation": (("flip", {}), ("rand_augment", augment)) if on_device else (),
    }


def _selection(config: ConfigDict) -> dict[str, Any]:
    """How the learning rate and the stop were chosen, for whoever reads the results."""
    kind, names = config.selection.kind, list(config.selection.sets)
    if kind not in ("clean", "legacy"):
        raise UserError(unknown("config.selection.kind", kind, ("clean", "legacy")))
    tested = [name for name in names if name not in ("heldout", "strangers")]
    if kind == "clean" and tested:
        raise UserError(
            f"config.selection.sets: {', '.join(tested)} would be no unseen set any "
            "more; say so with --config.selection.kind=legacy"
        )
    told: dict[str, Any] = {"selection": {"kind": kind, "sets": names}}
    if kind == "legacy" and names:
        plateau = config.system.schedule == "plateau"
        followed = "the learning rate and the stop" if plateau else "the stop"
        told["note"] = (
            f"{followed} followed {', '.join(names)}, as published: "
            "their figures are not of unseen sets"
        )
    return told


def _first(labels: np.ndarray, people: int, options: ConfigDict) -> np.ndarray:
    """Labels of which only the first `num_identities` are left."""
    wanted = options.num_identities
    if options.pairing == "flat" or not wanted:
        return labels
    if wanted > people:
        raise UserError(
            f"config.data.num_identities is {wanted:,}, the records have {people:,}"
        )
    return np.where(labels < wanted, labels, _LEFT_OUT)


def _held_out(labels: np.ndarray, count: int) -> np.ndarray:
    """The last identities that have images enough to be judged on."""
    people, images = np.unique(labels[labels >= 0], return_counts=True)
    enough = people[images >= _OF_A_STRANGER]
    if len(enough) < count:
        raise UserError(
            f"config.selection.held_out is {count} people with {_OF_A_STRANGER} images "
            f"each; {len(enough)} of {len(people)} have as many"
        )
    if len(people) == count:
        raise UserError(
            f"config.selection.held_out is {count}, which is all people there are: "
            "somebody must be left to train on"
        )
    return enough[-count:]


def _on_host(config: ConfigDict) -> bool:
    return _place(config) == "host"


def _place(config: ConfigDict) -> str:
    """Where images are augmented: by the processor that does not run the network."""
    place = config.data.augment
    if place not in _PLACES:
        raise UserError(unknown("data.augment", place, _PLACES))
    if place != "auto":
        return place
    made_there = config.data.source == "generated"
    return "host" if jax.default_backend() == "cpu" and not made_there else "device"
