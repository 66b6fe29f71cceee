"""Data sources shared by several papers: records under a mesh, rendered faces."""

import abc
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from fr_jax.backend import sharding
from fr_jax.errors import UserError, check_names, check_range
from fr_jax.evaluation.verification import Verification
from fr_jax.faces import generated, pairs, sets
from fr_jax.provenance import RENDERED, Provenance, fingerprint, merged
from fr_jax.training.data import Context, Stream
from fr_jax.training.streams import ArrayStream, GeneratedStream, check_fits

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


class InMemory(abc.ABC):
    """Faces in memory: `label` int [N], and images by number."""

    label: Any

    @abc.abstractmethod
    def images(self, numbers: Any) -> np.ndarray:
        """Returns uint8 RGB [n, S, S, 3]."""


class Rendered(InMemory):
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
    """Returns a stream of faces in memory, or of records read by tf.data.

    Args:
      sampler: from `data_pipelines.samplers`.
      columns: arrays with one row per image, added to batches.
      augment: (image, NumPy generator) -> image, applied to each image.
    """
    options = {"seed": context.seed, "augment": augment}
    if isinstance(faces, InMemory):
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


class Generated:
    """Identities of DiscoFaceGAN, whose images are generated on the device.

    Args:
      options: `config.data.discofacegan`.

    Raises:
      UserError: without the generator, for another network, and for more identities
        than the generator has coefficients of.
    """

    name = generated.NAME

    def __init__(self, options: Any, context: Context):
        embedder = context.pretrained.get("generator")
        if embedder is None:
            raise UserError(
                "the data source discofacegan needs the generator: --given "
                "generator=GENERATOR, made by fr-jax import network.pkl --vae DIR"
            )
        self._options, self._context = options, context
        self._variables = embedder.network.variables
        types = ("float32", "bfloat16")
        check_names("config.data.discofacegan.dtype", [options.dtype], types)
        self._sampled = generated.Sampled(
            embedder.network,
            seed=context.seed,
            factor=options.factor,
            truncation=options.truncation,
            size=options.size,
            dtype=options.dtype,
            mesh=context.mesh,
        )
        check_range(
            "config.data.discofacegan.num_identities", options.num_identities, 1
        )
        num_required = options.num_identities + options.num_unseen
        if 0 < self._sampled.identities < num_required:
            raise UserError(
                f"config.data.discofacegan: {num_required:,} identities, "
                f"{options.num_unseen:,} of them unseen; the generator has "
                f"coefficients of {self._sampled.identities:,}"
            )
        self.licence = embedder.provenance.get("licence", "unknown terms")
        self.label = np.arange(options.num_identities)
        self.identities = _names(context.seed, range(options.num_identities))

    def stream(
        self, batch_size: int, images_per_identity: int, *, pairs: bool = False
    ) -> GeneratedStream:
        """Returns a stream of new images, or of pairs of images of an identity."""
        size = 2 * batch_size if pairs else batch_size
        counts = self._options.num_identities, size, images_per_identity
        rows_of = self._sampled.batches(*counts)

        def make_pairs(key, variables):
            rows = rows_of(key, variables)
            first, second = rows["image"][::2], rows["image"][1::2]
            return {"image": first, "positive": second, "label": rows["label"][::2]}

        return GeneratedStream(
            make_pairs if pairs else rows_of,
            batch_size,
            seed=self._context.seed,
            mesh=self._context.mesh,
            unit="pairs" if pairs else "images",
            variables=self._variables,
        )

    def unseen(self) -> list[Verification]:
        """Returns verification pairs of identities that are not trained on."""
        count = self._options.num_unseen
        if not count:
            return []
        numbered = pairs.number(self._context.seed, count, IMAGES_OF_UNSEEN)
        first = self._options.num_identities
        label = numbered.identities - sets.FIRST_UNSEEN + first
        size = 8 * self._context.mesh.shape["data"]
        images = jax.jit(self._sampled.images)
        parts = []
        label = label.astype(np.uint32)
        for start in range(0, len(label), size):
            rows = [a[start : start + size] for a in (label, numbered.images)]
            rows = [
                np.pad(a, (0, size - len(a)), "edge").astype(np.uint32) for a in rows
            ]
            parts.append(sharding.to_host(images(self._variables, *rows)))
        names = _names(self._context.seed, label.tolist())
        return [
            Verification(
                "unseen",
                images=np.concatenate(parts)[: len(label)],
                pairs=numbered.pairs,
                same=numbered.same,
                folds=numbered.folds,
                identities=names,
                data_sets=(self.name,),
            )
        ]


def _names(seed: int, numbers: Iterable[int]) -> list[str]:
    return [f"disco_{seed}_{number:06}" for number in numbers]


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
