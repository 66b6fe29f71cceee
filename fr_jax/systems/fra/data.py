"""FRA's training data: embeddings and landmark pictures of persons in several poses.

Hashemifar et al. (ESWA 2023, arXiv 2301.11986). Every image is embedded once, before
training; a batch consists of embeddings, landmark pictures and negatives of tuples.
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fr_jax.backend import sharding
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError, check_names, check_range, named
from fr_jax.faces import sets
from fr_jax.provenance import Provenance
from fr_jax.system import check_kinds
from fr_jax.systems.fra import eigenfaces, embeddings, evaluator, splits
from fr_jax.systems.fra.augmenter import Augmenter, check_embedder
from fr_jax.systems.fra.faces import (
    RENDERED_STEP,
    Faces,
    of_records,
    rendered,
    without_negatives,
)
from fr_jax.systems.fra.tuples import Negatives, Tuples, Uniform, original
from fr_jax.training import sources
from fr_jax.training.data import Context, Streams, TrainingData

Array = np.ndarray
# step -> the tuples of a batch, their numbers in the list (if there is one), a
# generator for their negatives.
Draw = Callable[[int], tuple[Tuples, Array, np.random.Generator]]
_SHOWN = 3  # names of dropped persons


class Parts(NamedTuple):
    """Faces of each split, what was dropped, and the names of held-out persons."""

    train: Faces
    validation: Faces | None
    held_out: list[str]
    dropped: Mapping[str, Any]


class TupleStream:
    """Batches of tuples: a function of the step.

    `landmarks` uint8 [B, 112, 112, 1] of 0 and 1, the picture of the target pose;
    float32 [B, D], raw: `embedding` of the input, `target`, `negative_identity`,
    `negative_pose`, `negative_expression`.

    Args:
      draw: the tuples of a step.
      maps, vectors: landmark pictures and embeddings by image number.
      rows: (start, stop) that this process supplies of a batch.
      fingerprint: counts and digests of the data.
    """

    unit = "tuples"

    def __init__(
        self,
        draw: Draw,
        negatives: Negatives,
        maps: Array,
        vectors: Array,
        *,
        batch_size: int,
        rows: tuple[int, int],
        fingerprint: Mapping[str, Any],
    ):
        self.batch_size = batch_size
        self._draw, self._negatives = draw, negatives
        self._maps, self._vectors = maps, vectors
        self._rows, self._fingerprint = slice(*rows), dict(fingerprint)

    def fingerprint(self) -> dict[str, Any]:
        return self._fingerprint

    def numbers(self, step: int) -> dict[str, Array]:
        """Returns the image numbers [B] of a step, by name in the batch."""
        tuples, rows, rng = self._draw(step)
        negatives = self._negatives.draw(tuples, rows, rng)
        return {
            "landmarks": tuples.picture,
            "embedding": tuples.input,
            "target": tuples.target,
            **{f"negative_{name}": drawn for name, drawn in negatives.items()},
        }

    def batch_at(self, step: int) -> dict[str, Array]:
        """Returns this process's rows of a step's batch."""
        numbers = {name: n[self._rows] for name, n in self.numbers(step).items()}
        maps = self._maps[numbers.pop("landmarks")]
        return {"landmarks": maps} | {n: self._vectors[x] for n, x in numbers.items()}


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/fra.py`.

    The images are rendered or read, and embedded, since the network's size and the
    margin of its loss depend on the embeddings.

    Raises:
      UserError: for unknown or unsuitable options, no embedder, and persons without
        negatives; DataError for invalid records.
    """
    check_range("config.data.batch_size", config.batch_size, 1)
    check_range("config.data.num_tuples", config.num_tuples, 1)
    check_names("config.data.sampling", [config.sampling], ("original", "uniform"))
    kinds = ("person", "image", "tuple")
    check_names("config.data.split.kind", [config.split.kind], kinds)
    if config.split.kind == "tuple" and config.sampling != "original":
        raise UserError(
            "config.data.split.kind='tuple' divides a list of tuples: use it with "
            "config.data.sampling='original'"
        )
    if config.faithful_negatives and config.sampling != "original":
        raise UserError(
            "config.data.faithful_negatives draws from a list of tuples: use it with "
            "config.data.sampling='original'"
        )
    networks = {name: one.network for name, one in context.pretrained.items()}
    check_kinds(networks, {"embedder": ["embedding"], "init": ["augmenter"]})
    if "embedder" not in networks and not config.eigenfaces:
        raise UserError("give the frozen face embedder: --given embedder=EMBEDDER")
    evaluator.check_options(config.evaluation)
    by_source = {"records": _records, "rendered": _rendered}
    parts: Parts = named("data source", config.source, by_source)(config, context)
    draws = _draws(config, parts, context)  # invalid ones raise before embedding

    embedder = context.pretrained.get("embedder")
    if embedder is None:
        embedder = eigenfaces.fit(parts.train.pixels(), config.eigenfaces)
        _say(
            context,
            f"embedder: {config.eigenfaces} eigenfaces of the training images, for a "
            "trial; for a face embedder --given embedder=EMBEDDER",
        )
    if "init" in context.pretrained:
        check_embedder(Augmenter(context.pretrained["init"]), embedder)
    faces, vectors = _embedded(config, context, parts, embedder)
    norms = np.linalg.norm(vectors["train"].astype(np.float64), axis=1)
    arguments = {
        "embedding_size": vectors["train"].shape[1],
        "embedding_distance": embeddings.distance(vectors["train"], parts.train.label),
        "embedding_norm": float(norms.mean()),
    }

    def stream(name: str) -> TupleStream:
        draw, negatives, count = draws[name]
        columns = np.stack(faces[name].columns()).astype(np.int32).tobytes()
        return TupleStream(
            draw,
            negatives,
            faces[name].maps(
                frame=config.landmark_frame, faithful=config.faithful_landmarks
            ),
            vectors[name],
            batch_size=config.batch_size,
            rows=sharding.local_rows(context.mesh, config.batch_size),
            fingerprint={
                "images": len(faces[name]),
                "tuples": count,
                "labels": hashlib.sha256(columns).hexdigest()[:16],
            },
        )

    def open_() -> Streams:
        validation = stream("validation") if "validation" in draws else None
        train = stream("train")
        unseen = functools.partial(held_out, config, context)
        final = evaluator.of_run(
            config,
            context,
            embedder,
            parts.train,
            vectors["train"],
            train,
            unseen if parts.held_out else None,
        )
        return Streams(train, validation, final_evaluators=final)

    count = draws["train"][2]
    return TrainingData(
        open_,
        arguments,
        config.batch_size,
        count / config.batch_size,
        _provenance(parts, config, embedder),
        f"{len(parts.train.identities):,} identities, {len(parts.train):,} images, "
        f"{count:,} tuples an epoch",
    )


def _records(config: Any, context: Context) -> Parts:
    """Records with yaws, expressions and landmarks, split by person or by image."""
    faces, dropped = of_records(config.records)
    options, held_out = config.split, []
    if options.kind == "person":
        split = splits.by_person(
            faces.label,
            context.seed,
            validation=options.validation_identities,
            held_out=options.held_out,
        )
        held_out = faces.subset(split.held_out).identities
    else:
        share = options.validation_share if options.kind == "image" else 0.0
        split = splits.by_image(faces.label, context.seed, share)
    validation = faces.subset(split.validation) if len(split.validation) else None
    train = faces.subset(split.train)
    return _usable(Parts(train, validation, held_out, dropped), config, context)


def _rendered(config: Any, context: Context) -> Parts:
    """Rendered identities; those of validation and evaluation are unseen ones."""
    options, split = config.rendered, config.split
    check_range("config.data.rendered.num_identities", options.num_identities, 2)
    train = rendered(context, options.num_identities, size=options.size)
    validation, held_out = None, []
    if split.kind == "person":
        check_range("split.validation_identities", split.validation_identities, 0)
        check_range("config.data.split.held_out", split.held_out, 0)
        first = sets.FIRST_UNSEEN
        if count := split.validation_identities:
            validation = rendered(context, count, first=first, size=options.size)
        numbers = range(first + count, first + count + split.held_out)
        held_out = [sets.identity_name(context.seed, number) for number in numbers]
    elif split.kind == "image":
        parts = splits.by_image(train.label, context.seed, split.validation_share)
        if len(parts.validation):
            validation = train.subset(parts.validation)
        train = train.subset(parts.train)
    return _usable(Parts(train, validation, held_out, {}), config, context)


def held_out(config: Any, context: Context) -> Faces:
    """Returns the faces of the persons that are neither trained nor validated on.

    Raises:
      UserError: if no persons are held out.
    """
    options = config.split
    if options.kind != "person" or options.held_out < 1:
        raise UserError(
            "no persons are held out: set config.data.split.kind='person' and "
            "config.data.split.held_out"
        )
    if config.source == "rendered":
        first = sets.FIRST_UNSEEN + options.validation_identities
        size = config.rendered.size
        return rendered(context, options.held_out, first=first, size=size)
    faces, _ = of_records(config.records)
    split = splits.by_person(
        faces.label,
        context.seed,
        validation=options.validation_identities,
        held_out=options.held_out,
    )
    return faces.subset(split.held_out)


def _usable(parts: Parts, config: Any, context: Context) -> Parts:
    """Returns the parts without persons that have no negatives; prints what is dropped.

    Raises:
      UserError: if fewer than two persons are left in a part.
    """
    dropped = dict(parts.dropped)
    kept: dict[str, Faces | None] = {}
    for name in ("train", "validation"):
        faces = kept[name] = getattr(parts, name)
        if faces is None:
            continue
        faces, names = without_negatives(faces)
        for reason, persons in names.items():
            dropped[f"{reason} ({name})"] = persons
        if len(faces.identities) < 2:
            reasons = "; ".join(_lines(dropped)) or "there are no others"
            raise UserError(
                f"{len(faces.identities)} persons left for {name}, at least 2 with two "
                f"poses and two expressions are needed. Dropped: {reasons}"
            )
        kept[name] = faces
    for line in _lines(dropped):
        _say(context, f"dropped: {line}")
    train = kept["train"]
    assert train is not None
    validation = kept["validation"]
    if config.split.kind == "tuple":
        validation = train
    return parts._replace(train=train, validation=validation, dropped=dropped)


def _lines(dropped: Mapping[str, Any]) -> list[str]:
    """Returns 'N reason' of each number, with the first ones of lists of names."""
    lines = []
    for reason, what in dropped.items():
        if isinstance(what, int):
            lines.append(f"{what:,} {reason}")
            continue
        more = ", ..." if len(what) > _SHOWN else ""
        lines.append(f"{len(what):,} {reason}: {', '.join(what[:_SHOWN])}{more}")
    return lines


def _draws(
    config: Any, parts: Parts, context: Context
) -> dict[str, tuple[Draw, Negatives, int]]:
    """Returns tuples, negatives and the number of tuples in an epoch of each split."""
    drawn = {}
    for key, name in enumerate(("train", "validation")):
        faces: Faces | None = getattr(parts, name)
        if faces is None:
            continue
        images, tuples = faces.columns(), None
        if config.sampling == "original":
            tuples = original(images, config.num_tuples)
            if not len(tuples.target):
                raise UserError(f"the images for {name} give no tuple")
            if config.split.kind == "tuple":
                rows = splits.by_tuple(len(tuples.target), context.seed)[key]
                tuples = tuples.take(rows)
        faithful = config.faithful_negatives
        negatives = Negatives(images, faces.identities, tuples, faithful=faithful)
        if tuples is None:
            draw, count = _uniform(Uniform(images), config, context.seed, key)
        else:
            draw, count = _listed(tuples, config, context.seed, key)
        drawn[name] = draw, negatives, count
    return drawn


def _uniform(uniform: Uniform, config: Any, seed: int, key: int) -> tuple[Draw, int]:
    """Returns new tuples in every step; an epoch has `num_tuples` of them."""
    size = config.batch_size
    uniform.draw(1, np.random.default_rng(0))  # raises if there is none

    def draw(step: int):
        rng = np.random.default_rng([seed, 21 + key, step])
        tuples = uniform.draw(size, rng)
        return tuples, np.arange(size), rng

    return draw, config.num_tuples


def _listed(tuples: Tuples, config: Any, seed: int, key: int) -> tuple[Draw, int]:
    """Returns each tuple of a list once per epoch."""
    from data_pipelines import samplers

    count = len(tuples.target)
    order = samplers.permuted(count, seed, 23 + key)

    def draw(step: int):
        rows = order(step, config.batch_size)
        rng = np.random.default_rng([seed, 25 + key, step])
        return tuples.take(rows), rows, rng

    return draw, count


def _embedded(
    config: Any, context: Context, parts: Parts, embedder: Embedder
) -> tuple[dict[str, Faces], dict[str, Array]]:
    """Returns faces and embeddings by split."""
    faces = {"train": parts.train}
    if parts.validation is not None and config.split.kind != "tuple":
        faces["validation"] = parts.validation
    folder = config.embeddings or context.workdir
    several = embeddings.of_faces(embedder, list(faces.values()), folder, context)
    vectors = dict(zip(faces, several))
    if config.split.kind == "tuple":
        faces["validation"], vectors["validation"] = faces["train"], vectors["train"]
    return faces, vectors


def _provenance(parts: Parts, config: Any, embedder: Embedder) -> Provenance:
    """Returns the provenance of the training images; other persons are held out."""
    provenance = sources.provenance(parts.train)
    unseen = list(parts.held_out)
    if config.split.kind == "person" and parts.validation is not None:
        unseen = sorted({*unseen, *parts.validation.identities})
    step = RENDERED_STEP if config.source == "rendered" else config.records.pose_step
    details: dict[str, Any] = {
        "embedder": embeddings.identity(embedder),
        "pose_step": step,
        "poses": parts.train.poses,
        "expressions": parts.train.expressions,
        "landmark_frame": config.landmark_frame,
        "faithful_landmarks": bool(config.faithful_landmarks),
    }
    if parts.dropped:
        details["dropped"] = _lines(parts.dropped)
    held_out = {parts.train.name: unseen} if unseen else {}
    return provenance._replace(held_out=held_out, details=details)


def _say(context: Context, line: str) -> None:
    if context.show_progress:
        print(line, file=sys.stderr)
