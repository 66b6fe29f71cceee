"""Training data of the landmark regressor: rendered faces with their exact points."""

import functools
from typing import Any

import numpy as np

from fr_jax.errors import check_range, named
from fr_jax.faces import sets
from fr_jax.faces.renderer.render import project_landmarks
from fr_jax.systems.landmarks import evaluation
from fr_jax.training import sources
from fr_jax.training.data import Context, Streams, TrainingData
from fr_jax.training.streams import ArrayStream, check_fits

_IMAGES_OF_UNSEEN = 2  # per identity


class Faces(sources.Rendered):
    """Rendered faces with background around them, and their landmarks.

    Args:
      contour: the jaw follows the visible contour; see `project_landmarks`.
    """

    def __init__(
        self,
        face_set: sets.FaceSet,
        context: Context,
        num_identities: int,
        num_images: int,
        *,
        contour: bool,
        first: int = 0,
        size: int,
        **options: Any,
    ):
        counts = num_identities, num_images
        super().__init__(face_set, context, *counts, first=first, size=size, **options)
        self._contour, self._size = contour, size
        rows = first + self.label, self.number
        self._labels = functools.partial(sets.label, face_set, context.seed, *rows)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """`image`, `label` and `landmarks68`; see `sets.arrays`."""
        arrays = self._render(frame="loose", labels=True)
        if self._contour:
            codes = self._labels().codes
            points = project_landmarks(codes, self._size, "loose", contour=True)
            arrays["landmarks68"] = np.asarray(points)
        return {name: arrays[name] for name in ("image", "label", "landmarks68")}


def load(config: Any, context: Context) -> TrainingData:
    """Returns the data of `config.data`; see `configs/landmarks.py`."""
    return named("data source", config.source, {"rendered": _rendered})(config, context)


def _rendered(config: Any, context: Context) -> TrainingData:
    """Faces rendered once and kept in memory; unseen identities for evaluation.

    Every step crops them anew: rendering an image costs a CPU more than a step on it.
    """
    from data_pipelines import samplers

    options = config.rendered
    sources.check_rendered(options)
    check_range("config.data.rendered.num_unseen", options.num_unseen, 1)
    face_set = sets.default(options.max_yaw)
    counts = options.num_identities, options.num_images
    names = "size", "quality", "contour"
    shown = {name: options[name] for name in names}  # one program renders all faces
    faces = Faces(face_set, context, *counts, **shown)
    sampler = samplers.epochs(len(faces.label), config.batch_size, seed=context.seed)
    check_fits(sampler, len(faces.label))

    def open_() -> Streams:
        photographs = config.photographs
        final = evaluation.photograph_sets(photographs.path, photographs.detector)
        unseen = Faces(
            face_set,
            context,
            options.num_unseen,
            _IMAGES_OF_UNSEEN,
            first=sets.FIRST_UNSEEN,
            progress="rendering unseen identities",
            **shown,
        )
        crops = evaluation.rendered(unseen.arrays)
        final.insert(0, evaluation.Landmarks("unseen", crops))
        seeded = {"seed": context.seed, "mesh": context.mesh}
        stream = ArrayStream(faces.arrays, sampler, **seeded)
        return Streams(stream, final_evaluators=final)

    num_images = len(faces.label)
    return TrainingData(
        open_,
        {},
        config.batch_size,
        num_images / config.batch_size,
        sources.provenance(faces),
        f"{options.num_identities:,} identities, {num_images:,} images an epoch",
    )
