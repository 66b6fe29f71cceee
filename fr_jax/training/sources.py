"""Data sources shared by several papers: records under a mesh, rendered faces."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fr_jax.backend import sharding
from fr_jax.errors import UserError, check_range
from fr_jax.evaluation.verification import Verification
from fr_jax.faces import pairs, sets
from fr_jax.provenance import RENDERED, Provenance, fingerprint, merged
from fr_jax.training.data import Context, Stream
from fr_jax.training.streams import ArrayStream, check_fits

_COLUMNS = ("yaw", "light", "session", "length")
IMAGES_OF_UNSEEN = 3  # per identity, for three genuine pairs


def open_records(path: str, **filters: Any) -> Any:
    """Returns a RecordSet.

    Args:
      filters: arguments of `RecordSet`; empty values are ignored.

    Raises:
      UserError: if no path is given; DataError for invalid records.
    """
    from data_pipelines.record_set import RecordSet

    if not path:
        raise UserError("give the records: --config.data.records.path=DIR/NAME")
    return RecordSet(path, **{name: value for name, value in filters.items() if value})


class Rendered:
    """Images of rendered identities, kept in memory after they are first used.

    Args:
      num_images: images per identity; 0 for the number of the face set.
      first: number of the first identity.

    Attributes:
      label, number: int [N], numbers of the identity (from 0) and of the image.
      identities: names.
    """

    name, licence = RENDERED, "none needed"

    def __init__(
        self,
        face_set: sets.FaceSet,
        context: Context,
        num_identities: int,
        num_images: int = 0,
        *,
        first: int = 0,
        size: int,
        quality: str = "fast",
        progress: str = "rendering faces",
    ):
        check_range("config.data.rendered.size", size, 16)
        self.label, self.number = sets.rows(face_set, num_identities, num_images)
        numbers = range(first, first + num_identities)
        self.identities = [sets.identity_name(context.seed, n) for n in numbers]
        self._render = functools.partial(
            sets.arrays,
            face_set,
            seed=context.seed,
            num_identities=num_identities,
            images=num_images,
            first=first,
            size=size,
            quality=quality,
            progress=progress if context.show_progress else "",
        )

    @functools.cached_property
    def _images(self) -> np.ndarray:
        return self._render()["image"]

    def images(self, numbers: Any) -> np.ndarray:
        """Returns uint8 RGB [n, S, S, 3]; the first call renders all images."""
        return self._images[numbers]


def stream(
    faces: Any,
    sampler: Any,
    columns: Mapping[str, np.ndarray],
    context: Context,
    augment: Any = None,
) -> Stream:
    """Returns a stream of `Rendered` faces in memory, or of records read by tf.data.

    Args:
      sampler: from `data_pipelines.samplers`.
      columns: arrays with one row per image, added to batches.
      augment: (image, NumPy generator) -> image, applied to each image.
    """
    options = {"seed": context.seed, "augment": augment}
    if isinstance(faces, Rendered):
        check_fits(sampler, len(faces.label))  # before rendering
        arrays = {"image": faces.images(slice(None)), **columns}
        return ArrayStream(arrays, sampler, mesh=context.mesh, **options)
    from data_pipelines.stream import RecordStream  # loads TensorFlow

    rows = sharding.local_rows(context.mesh, sampler.batch_size)
    return RecordStream(faces, sampler, columns, rows=rows, **options)


def provenance(faces: Any) -> Provenance:
    """Returns the provenance of all identities of a RecordSet or of `Rendered`."""
    # Columns of records; those of rendered faces follow from the configuration.
    columns = [getattr(faces, name, None) for name in _COLUMNS]
    stored = [column.tobytes() for column in columns if column is not None]
    return Provenance(
        {faces.name: list(faces.identities)},
        {faces.name: faces.licence},
        fingerprint={faces.name: fingerprint(faces.identities, faces.label, *stored)},
        digests=merged(getattr(faces, "digest", None)),
    )


def check_rendered(options: Any) -> None:
    """Raises a UserError for a yaw that the renderer does not support."""
    check_range("config.data.rendered.max_yaw", options.max_yaw, 0, 90)


def rendered(options: Any, context: Context, face_set: sets.FaceSet) -> Rendered:
    """Returns the rendered identities of `config.data.rendered`."""
    counts = options.num_identities, options.num_images
    return Rendered(face_set, context, *counts, size=options.size)


def unseen_pairs(options: Any, context: Context) -> Callable[[], Verification]:
    """Returns a function that renders verification pairs of unseen identities.

    Raises:
      UserError: if the identities cannot be divided into ten folds.
    """
    counts = options.num_unseen, IMAGES_OF_UNSEEN
    numbered = pairs.number(context.seed, *counts)

    def render() -> Verification:
        unseen = Rendered(
            sets.default(options.max_yaw),
            context,
            *counts,
            first=sets.FIRST_UNSEEN,
            size=options.size,
            quality="full",
            progress="rendering unseen identities",
        )
        return verification("unseen", unseen, numbered, np.arange(len(unseen.label)))

    return render


def verification(
    name: str, faces: Any, numbered: pairs.Numbered, rows: np.ndarray
) -> Verification:
    """Returns verification pairs of rows of a RecordSet or of `Rendered`."""
    return Verification(
        name,
        images=faces.images(rows),
        pairs=numbered.pairs,
        same=numbered.same,
        folds=numbered.folds,
        identities=[faces.identities[label] for label in faces.label[rows]],
        data_sets=(faces.name,),
    )
