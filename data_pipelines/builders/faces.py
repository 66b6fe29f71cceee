"""The one builder: whatever a reader yields becomes TFRecords, through TFDS."""

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

from data_pipelines import DataError, records
from data_pipelines import index as indexes
from data_pipelines.images import probe
from data_pipelines.readers import Face

VERSION = "1.0.0"
_MAX_LABELS = 10_000_000  # the names of all of them are held in a list
# What the index knows of each face, so that a stream need not read the records for it.
_KNOWN = ("age", "yaw", "light", "session", "expression")


class Faces(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    """A TFDS data set of aligned faces with an index beside its shards.

    The index is written before TFDS moves the finished folder into place, so a set is
    there as a whole or not at all.
    """

    def __init__(
        self, faces: Iterable[Face], *, about: dict[str, Any], max_bad: int, **kw
    ):
        self._faces = faces
        self._about = about
        self._max_bad = max_bad
        self.bad: list[str] = []
        self._labels: list[int] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in _KNOWN}
        self._names: dict[int, str] = {}
        super().__init__(
            name=about["name"],
            version=VERSION,
            features=records.features(about["size"]),
            split_datasets={"train": self._examples()},
            disable_shuffling=True,  # the index decides the order, not the disk
            description=f"Aligned faces of {about['source'] or about['name']}.",
            **kw,
        )

    def _examples(self) -> Iterator[tuple[int, dict]]:
        size = self._about["size"]
        for face in self._faces:
            try:
                header = probe(face.image)
            except DataError as error:
                self._skip(face, error)
                continue
            if (header.width, header.height) != (size, size):
                raise DataError(
                    f"{face.source}: {header.width}x{header.height} pixels, expected "
                    f"{size}x{size}; align the faces first (`fr-jax data align`) or "
                    "state their size with --size"
                )
            if not -1 <= face.label < _MAX_LABELS:
                raise DataError(f"{face.source}: label {face.label} is out of range")
            self._labels.append(face.label)
            for name, column in self._columns.items():
                column.append(getattr(face, name))
            if face.label >= 0:
                self._names[face.label] = face.identity
            yield len(self._labels), records.encode(face)
        if not self._labels:
            raise DataError("not one usable image; nothing was written")

    def _skip(self, face: Face, error: DataError) -> None:
        self.bad.append(f"{face.source}: {error}")
        logging.warning("skipped %s", self.bad[-1])
        if len(self.bad) > self._max_bad:
            raise DataError(
                f"{self.bad[-1]}; more than the {self._max_bad} unusable images which "
                "--max-bad allows, so nothing was written"
            )

    def _download_and_prepare(self, dl_manager, download_config=None):
        super()._download_and_prepare(dl_manager, download_config)
        folder = epath.Path(self.data_dir)
        shards = sorted(path.name for path in folder.glob("*.tfrecord*"))
        places = [indexes.scan(folder / shard) for shard in shards]
        counts = [len(offsets) for offsets, _ in places]
        names = [
            self._names.get(i, "") for i in range(max(self._names, default=-1) + 1)
        ]
        indexes.save(
            folder,
            indexes.Index(
                shard=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
                offset=np.concatenate([offsets for offsets, _ in places]),
                length=np.concatenate([lengths for _, lengths in places]),
                label=np.array(self._labels, np.int32),
                shards=shards,
                identities=names,
                **{
                    name: np.array(column, records.SCALARS[name])
                    for name, column in self._columns.items()
                },
                **self._about,
            ),
        )


def build(
    faces: Iterable[Face],
    directory: str | Path,
    name: str,
    *,
    size: int = 112,
    licence: str = "",
    source: str = "",
    max_bad: int = 100,
) -> tuple[epath.Path, list[str]]:
    """Writes faces as TFRecords to `directory/name/1.0.0`.

    Args:
      size: side of every face, in pixels.
      max_bad: images that may be unusable and are skipped before it is an error.

    Returns:
      The folder, and a line for every image that was skipped.

    Raises:
      DataError: for a name that TFDS cannot use, a set that exists, a face of another
        size, and too many unusable images. Nothing is left behind then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DataError(
            f"--name {name!r}: use lower-case letters, digits and _, as in 'my_faces'"
        )
    target = epath.Path(directory) / name / VERSION
    if target.exists():
        raise DataError(f"{target} exists; choose another --name or remove it")
    for left_over in target.parent.glob(f"incomplete.*_{VERSION}"):
        left_over.rmtree()
    about = {"name": name, "size": size, "licence": licence, "source": source}
    tfds.disable_progress_bar()  # the caller has one of its own
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS speaks of downloading
        builder = Faces(faces, about=about, max_bad=max_bad, data_dir=directory)
        builder.download_and_prepare()
    return target, builder.bad
