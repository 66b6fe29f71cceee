"""Training data of self-augmentation: the tracklets of a video.

Triplets for the encoder of identities (stages identity and refine), single faces for
the augmentation network (stage augment).
"""

import os
from typing import Any

import numpy as np

from fr_jax.errors import UserError, check_names, check_range, named
from fr_jax.systems.self_augmentation import triplets
from fr_jax.systems.self_augmentation.evaluation import Clusters, Swaps, Tracked
from fr_jax.systems.self_augmentation.rendered import FRAMINGS, RenderedVideo
from fr_jax.training import sources
from fr_jax.training.data import Context, Streams, TrainingData

STAGES = ("identity", "augment", "refine")


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/self_augmentation.py`.

    Raises:
      UserError: for unknown options, and a video in which no two faces are seen
        together; DataError for invalid records.
    """
    from data_pipelines import samplers

    check_names("config.data.stage", [config.stage], STAGES)
    check_names("config.data.sampling", [config.sampling], ("online", "enumerated"))
    check_range("config.data.batch_size", config.batch_size, 1)
    opened = {"rendered": _rendered, "records": _records}
    faces, tracked = named("data source", config.source, opened)(config, context)
    apart = tracked.apart
    triplets.linked_pairs(tracked.track, apart)  # raises before a stage has trained
    if config.stage == "augment":
        sampler = samplers.epochs(
            len(tracked.track), config.batch_size, seed=context.seed
        )
    else:
        options = {"seed": context.seed}
        if config.sampling == "online":
            size = config.batch_size
            sampler = triplets.sampler(tracked.track, apart, size, **options)
        else:
            rng = np.random.default_rng([context.seed, 4])
            listed, _ = triplets.enumerated(tracked.track, apart, rng)
            sampler = triplets.listed(listed, config.batch_size, **options)

    def open_() -> Streams:
        stream = sources.stream(faces, sampler, {}, context)
        evaluators: list[Any] = [Clusters(tracked)]
        if config.stage == "augment":
            evaluators = [Swaps(tracked, context.pretrained["identity"])]
        return Streams(stream, final_evaluators=evaluators)

    count = int(tracked.track.max()) + 1
    return TrainingData(
        open_,
        {"stage": config.stage},
        config.batch_size,
        sampler.epoch / config.batch_size,
        sources.provenance(faces)._replace(details={"faces": config.faces}),
        f"{len(tracked.track):,} faces in {count:,} tracklets, "
        f"{sampler.epoch:,} {sampler.unit} an epoch",
    )


def _rendered(config: Any, context: Context) -> tuple[Any, Tracked]:
    """Returns the faces of a rendered video, and their tracklets with identities."""
    label = "rendering the video" if context.show_progress else ""
    seed = context.seed if config.rendered.seed < 0 else config.rendered.seed
    faces = RenderedVideo(seed, config.rendered, config.faces, progress=label)
    one = faces.faces
    return faces, Tracked(faces, one.track, one.frame, one.identity)


def _records(config: Any, context: Context) -> tuple[Any, Tracked]:
    """Returns the records of `fr-jax video tracks`, and their tracklets."""
    del context
    check_names("config.data.faces", [config.faces], FRAMINGS)
    path = config.records.path
    if not path:
        raise UserError(
            "give the tracklets: --config.data.records.path=DIR, made by fr-jax video "
            "tracks CLIP --to DIR"
        )
    return open_tracklets(path, config.faces)


def open_tracklets(store: str | os.PathLike, framing: str) -> tuple[Any, Tracked]:
    """Returns the records of `fr-jax video tracks`, and their tracklets.

    Args:
      framing: 'aligned', or 'crops' with hair and shoulders.

    Raises:
      UserError: for records without tracklets; DataError for invalid ones.
    """
    faces = sources.open_records(f"{store}/{framing}")
    if faces.track is None:
        raise UserError(
            f"{store}: records without tracklets; make them with fr-jax video tracks"
        )
    identity = faces.label if (faces.label >= 0).all() else None
    return faces, Tracked(faces, faces.track, faces.frame, identity)
