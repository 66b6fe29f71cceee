"""The builder that writes the faces of any reader to TFRecords, through TFDS."""

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from data_pipelines import DataError, digests, records
from data_pipelines import index as indexes
from data_pipelines.image_headers import probe
from data_pipelines.images import in_threads
from data_pipelines.lock import exclusive
from data_pipelines.names import normal
from data_pipelines.readers import Face

VERSION = "1.0.0"
_MAX_LABELS = 10_000_000  # the names of all labels are held in a list
# Columns of the index, which streams use without reading the records.
_COLUMNS = ("label", "age", "yaw", "light", "session", "expression")
_OF_VIDEOS = ("frame", "time", "shot", "track")  # left out where all are unknown


class Faces(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    """A TFDS data set of aligned faces, with an index in the folder of its shards.

    The index is written before TFDS moves the finished folder into place, so a set is
    complete or absent.
    """

    def __init__(
        self,
        faces: Iterable[Face | DataError],
        *,
        about: dict[str, Any],
        max_bad: int,
        **kw,
    ):
        self._faces = faces
        self._about = about
        self._max_bad = max_bad
        self.bad: list[str] = []
        names = (*_COLUMNS, *_OF_VIDEOS)
        self._columns: dict[str, list[Any]] = {name: [] for name in names}
        self._names: dict[int, str] = {}
        self._digests: list[int] = []
        super().__init__(
            name=about["name"],
            version=VERSION,
            features=records.features(about["size"]),
            split_datasets={"train": self._examples()},
            disable_shuffling=True,  # records keep the order of the index
            description=f"Aligned faces of {about['source'] or about['name']}.",
            **kw,
        )

    def _examples(self) -> Iterator[tuple[int, dict]]:
        number = 0
        for face, digest in in_threads(self._checked, self._faces):
            if isinstance(face, DataError):
                self._skip(face)
                continue
            if not -1 <= face.label < _MAX_LABELS:
                raise DataError(f"{face.source}: label {face.label} is out of range")
            for name, column in self._columns.items():
                column.append(getattr(face, name))
            self._digests.append(digest)
            if face.label >= 0:
                self._names[face.label] = normal(face.identity)
            number += 1
            yield number, records.encode(face)
        if not number:
            first = f": {self.bad[0]}" if self.bad else ""
            raise DataError(f"no usable image; nothing was written{first}")

    def _checked(self, face: Face | DataError) -> tuple[Face | DataError, int]:
        """Returns a face with the image as it is stored, and the digest of its pixels.

        Instead of an unusable face, the reason.
        """
        if isinstance(face, DataError):
            return face, digests.NONE
        size = self._about["size"]
        try:
            _, width, height, _ = probe(face.image)
            if (width, height) == (size, size):
                stored, pixels = records.stored_image(face.image)
                return face._replace(image=stored), digests.digest(pixels)
        except DataError as error:
            return DataError(f"{face.source}: {error}"), digests.NONE
        raise DataError(
            f"{face.source}: {width}x{height} pixels, expected {size}x{size}; "
            "align the faces first (`fr-jax data align`) or state their size "
            "with --size"
        )

    def _skip(self, error: DataError) -> None:
        self.bad.append(str(error))
        logging.warning("skipped %s", self.bad[-1])
        if len(self.bad) > self._max_bad:
            raise DataError(
                f"{self.bad[-1]}; more than the {self._max_bad} unusable images that "
                "--max-bad allows, so nothing was written"
            )

    def _download_and_prepare(self, dl_manager, download_config=None):
        super()._download_and_prepare(dl_manager, download_config)
        folder = epath.Path(self.data_dir)
        shards = sorted(path.name for path in folder.glob("*.tfrecord*"))
        offsets, lengths, checksums = zip(
            *(indexes.scan(folder / shard) for shard in shards)
        )
        counts = [len(column) for column in offsets]
        if not any(track >= 0 for track in self._columns["track"]):
            for name in _OF_VIDEOS:
                del self._columns[name]
        num_labels = max(self._names, default=-1) + 1
        index = indexes.Index(
            shard=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
            offset=np.concatenate(offsets),
            length=np.concatenate(lengths),
            checksum=np.concatenate(checksums),
            shards=shards,
            identities=[self._names.get(label, "") for label in range(num_labels)],
            **{
                name: np.array(column, records.SCALARS[name])
                for name, column in self._columns.items()
            },
            digest=np.array(self._digests, np.uint64),
            **self._about,
        )
        indexes.save(folder, index)


def build(
    faces: Iterable[Face | DataError],
    directory: str | Path,
    name: str,
    *,
    size: int = 112,
    licence: str = "",
    source: str = "",
    max_bad: int = 100,
) -> tuple[epath.Path, list[str]]:
    """Writes faces as TFRecords to `directory/name/1.0.0`.

    Every image is decoded as training will decode it; see `records.stored_image`.

    Args:
      faces: faces, and errors for those that could not be read.
      size: side of every face, in pixels.
      max_bad: number of unusable images that are skipped; more are an error.

    Returns:
      The folder, and a line for every skipped image.

    Raises:
      DataError: for a name that TFDS does not accept, a set that exists or is being
        written, a face of another size, and too many unusable images; no files remain.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DataError(
            f"--name {name!r}: use lower-case letters, digits and _, as in 'my_faces'"
        )
    target = epath.Path(directory) / name / VERSION
    with exclusive(target.parent):
        if target.exists():
            raise DataError(f"{target} exists; choose another --name or remove it")
        for left_over in target.parent.glob(f"incomplete.*_{VERSION}"):
            left_over.rmtree()
        about = {"name": name, "size": size, "licence": licence, "source": source}
        tfds.disable_progress_bar()  # the caller shows the progress
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints about downloads
            builder = Faces(faces, about=about, max_bad=max_bad, data_dir=directory)
            builder.download_and_prepare()
    return target, builder.bad
