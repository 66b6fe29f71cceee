"""FRA's training data: embeddings and landmark pictures of persons in several poses.

Hashemifar et al. (ESWA 2023, arXiv 2301.11986). Every image is embedded once, before
training; a batch consists of embeddings, landmark pictures and negatives of tuples.
"""

from typing import Any

import numpy as np

from fr_jax.backend import sharding
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError, check_names, check_range
from fr_jax.provenance import Provenance
from fr_jax.system import check_kinds
from fr_jax.systems.fra import (
    batches,
    eigenfaces,
    embeddings,
    evaluator,
    inputs,
    stored,
)
from fr_jax.systems.fra.augmenter import Augmenter, check_embedder
from fr_jax.systems.fra.batches import TupleStream
from fr_jax.systems.fra.faces import RENDERED_STEP, Faces
from fr_jax.systems.fra.parts import Parts, lines, split
from fr_jax.systems.fra.stored import say
from fr_jax.training import sources
from fr_jax.training.data import Context, Streams, TrainingData

Array = np.ndarray
_KINDS = {"embedder": ["embedding"], "landmarks": ["landmarks"], "init": ["augmenter"]}


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
    check_kinds(networks, _KINDS)
    if "embedder" not in networks and not config.eigenfaces:
        raise UserError("give the frozen face embedder: --given embedder=EMBEDDER")
    evaluator.check_options(config.evaluation)
    parts = split(config, context)
    several = {"train": parts.train, "validation": parts.validation}
    draws = batches.draws(config, several, context.seed)  # raises before embedding

    embedder = context.pretrained.get("embedder")
    if embedder is None:
        embedder = eigenfaces.fit(parts.train.pixels(), config.eigenfaces)
        say(
            context,
            f"embedder: {config.eigenfaces} eigenfaces of the training images, for a "
            "trial; for a face embedder --given embedder=EMBEDDER",
        )
    elif config.faithful_inputs:
        embedder = inputs.published(embedder)
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
        maps = faces[name].maps(
            frame=config.landmark_frame, faithful=config.faithful_landmarks
        )
        return TupleStream(
            draws[name],
            faces[name],
            maps,
            vectors[name],
            batch_size=config.batch_size,
            rows=sharding.local_rows(context.mesh, config.batch_size),
        )

    def open_() -> Streams:
        validation = stream("validation") if "validation" in draws else None
        train = stream("train")
        final = evaluator.of_run(
            config,
            context,
            embedder,
            parts.train,
            vectors["train"],
            train,
            parts.unseen,
        )
        return Streams(train, validation, final_evaluators=final)

    count = draws["train"].count
    return TrainingData(
        open_,
        arguments,
        config.batch_size,
        count / config.batch_size,
        _provenance(parts, config, context, embedder),
        f"{len(parts.train.identities):,} identities, {len(parts.train):,} images, "
        f"{count:,} tuples an epoch",
    )


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


def _provenance(
    parts: Parts, config: Any, context: Context, embedder: Embedder
) -> Provenance:
    """Returns the provenance of the training images; other persons are held out."""
    provenance = sources.provenance(parts.train)
    unseen = list(parts.held_out)
    if config.split.kind == "person" and parts.validation is not None:
        unseen = sorted({*unseen, *parts.validation.identities})
    step = RENDERED_STEP if config.source == "rendered" else config.records.pose_step
    details: dict[str, Any] = {
        "embedder": stored.identity(embedder),
        "pose_step": step,
        "poses": parts.train.poses,
        "expressions": parts.train.expressions,
        "landmark_frame": config.landmark_frame,
        "faithful_landmarks": bool(config.faithful_landmarks),
        "faithful_inputs": bool(config.faithful_inputs),
    }
    if regressor := context.pretrained.get("landmarks"):
        details["landmarks"] = stored.identity(regressor)
    if parts.dropped:
        details["dropped"] = lines(parts.dropped)
    held_out = {parts.train.name: unseen} if unseen else {}
    return provenance._replace(held_out=held_out, details=details)
