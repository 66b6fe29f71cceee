"""Random access to the records of a set: columns, and images by number."""

import contextlib
import copy
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_pipelines import DataError
from data_pipelines import index as indexes
from data_pipelines.images import decode
from data_pipelines.protocols.identities import select
from data_pipelines.readers import Face

_COMPARED = 512  # records whose labels are compared with the index


class RecordSet(contextlib.AbstractContextManager):
    """A selection of the aligned faces in TFRecords, numbered from 0.

    A context manager: `close` closes the files; so does dropping the set and all its
    subsets.

    Args:
      path: a folder of records (DIR/NAME, or the version folder in it).
      identities: identities to keep: names, 'first:last' in sorted order (both
        included), or '@file' with one name per line; None keeps all. Labels are
        renumbered from 0.
      expression: the expression to keep, such as 'neutral'; '' keeps all.
      yaws: (lowest, highest) to keep, in degrees; an unknown yaw is kept.

    Attributes:
      name, licence, size (pixels).
      identities: the name of each label.
      label: int32 [N], -1 where unknown.
      yaw: float32 [N], degrees, NaN where unknown.
      light, session: int32 [N], -1 where unknown.
      frame, shot, track: int32 [N], time: float32 [N] in seconds; None in sets that
        are of no video.
      length: int64 [N], bytes of the records: an identity has the same images again
        only if these are the same.
      digest: uint64 [N] of the images' pixels, or None; see `data_pipelines.digests`.

    Raises:
      DataError: for a missing or damaged set, an unknown name or expression, and an
        empty selection; when reading, for a damaged record, naming file and offset. The
        labels of the first records that are read are compared with the index.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        identities: str | Sequence[str] | None = None,
        expression: str = "",
        yaws: tuple[float, float] | None = None,
    ):
        folder = indexes.find(path)
        self._index = index = indexes.load(folder)
        self._folder = folder
        self._compared = 0
        self.size, self.name, self.licence = index.size, index.name, index.licence
        kept = np.full(len(index), True)
        if identities is not None:
            kept &= np.isin(index.label, select(index.identities, identities))
        if expression:
            kept &= _expressions(index, path, expression) == expression
        if yaws:
            kept &= ~((index.yaw < yaws[0]) | (index.yaw > yaws[1]))
        if not kept.any():
            raise DataError(f"{path}: no images left to train on")
        self._shards = [_Shard(folder / shard) for shard in index.shards]
        # A remote record costs a round trip: many are read at once.
        self._pool = None if os.path.exists(folder) else ThreadPoolExecutor(32)
        self._keep(np.flatnonzero(kept))

    def _keep(self, records: np.ndarray) -> None:
        index, self._records = self._index, records
        labels = index.label[records]
        used = np.unique(labels[labels >= 0])
        self.identities = [index.identities[label] for label in used]
        numbers = np.searchsorted(used, labels)
        self.label = np.where(labels < 0, -1, numbers).astype(np.int32)
        self.yaw, self.light = index.yaw[records], index.light[records]
        self.session, self.length = index.session[records], index.length[records]
        columns = index.digest, index.frame, index.time, index.shot, index.track
        self.digest, self.frame, self.time, self.shot, self.track = (
            None if column is None else column[records] for column in columns
        )

    def subset(self, numbers: np.ndarray) -> "RecordSet":
        """Returns a set of these records, with renumbered labels and shared files."""
        some = copy.copy(self)
        some._keep(self._records[numbers])
        return some

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        """Returns one image, uint8 RGB [S, S, 3], or those of a slice."""
        numbers = np.arange(len(self))[index]
        images = self.images(np.atleast_1d(numbers))
        return images if isinstance(index, slice) else images[0]

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files of the set; later reads fail."""
        for shard in self._shards:
            shard.close()
        if self._pool:
            self._pool.shutdown()

    def serialized(self, numbers: np.ndarray) -> list[bytes]:
        """Returns the stored bytes of records; thread-safe."""
        read = self._pool.map if self._pool else map
        rows = self._records[numbers].tolist()
        stored = list(read(self._record, rows))
        if self._compared < _COMPARED:
            for row, serialized in zip(rows, stored):
                self._compare(row, serialized)
            self._compared += len(rows)
        return stored

    def faces(self, numbers: np.ndarray) -> Iterator[Face]:
        """Yields whole records, with the columns that the index lacks.

        `label` is that of the stored set; the image is encoded.
        """
        from data_pipelines import records  # loads TensorFlow

        for start in range(0, len(numbers), _COMPARED):
            for serialized in self.serialized(numbers[start : start + _COMPARED]):
                yield records.decode(serialized)

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """Returns uint8 RGB [n, S, S, 3]; DataError for a damaged image."""
        from data_pipelines import records  # loads TensorFlow

        images = []
        for number, serialized in zip(numbers, self.serialized(np.asarray(numbers))):
            try:
                # As in training, which ignores EXIF data.
                image = decode(records.image(serialized), upright=False)
                if image.shape[:2] != (self.size, self.size):
                    raise DataError(f"{image.shape[1]}x{image.shape[0]} pixels")
            except DataError as error:
                raise DataError(f"{self.where(number, serialized)}: {error}") from error
            images.append(image)
        return np.stack(images)

    def check_images(self, numbers: np.ndarray) -> None:
        """Raises a DataError for the first record that training cannot use.

        It names source, shard and offset.
        """
        from data_pipelines import records  # loads TensorFlow

        for number, serialized in zip(numbers, self.serialized(np.asarray(numbers))):
            self._compare(int(self._records[number]), serialized)
            try:
                records.check_image(serialized, self.size)
            except DataError as error:
                raise DataError(f"{self.where(number, serialized)}: {error}") from error

    def where(self, number: int, serialized: bytes) -> str:
        """Returns shard, offset and source of a record, for errors."""
        from data_pipelines import records  # loads TensorFlow

        place = indexes.place(self._folder, self._index, int(self._records[number]))
        return f"{place}: {records.decode(serialized).source or 'no source'}"

    def _compare(self, row: int, serialized: bytes) -> None:
        """Raises a DataError if the index has another identity for a record."""
        from data_pipelines import records  # loads TensorFlow

        face, label = records.decode(serialized), int(self._index.label[row])
        name = self._index.identities[label] if label >= 0 else ""
        if face.label != label or (label >= 0 and face.identity != name):
            place = indexes.place(self._folder, self._index, row)
            raise DataError(
                f"{place}: {face.source} is {face.identity!r}, label {face.label}, in "
                f"the index {name!r}, label {label}: {indexes.OTHER}"
            )

    def _record(self, number: int) -> bytes:
        index = self._index
        shard, start = self._shards[index.shard[number]], int(index.offset[number])
        record = shard.read(start, int(index.length[number]))
        where = f"{shard.path}: byte {start:,}"
        return indexes.payload(record, index, number, where)


class JoinedRecords:
    """Several sets with consecutive numbers: those of the first set come first."""

    def __init__(self, *sets: RecordSet):
        self._sets = sets
        self._offsets = np.cumsum([0, *map(len, sets)])
        self.size = sets[0].size
        if len({one.size for one in sets}) > 1:
            sizes = ", ".join(f"{one.name} {one.size}" for one in sets)
            raise DataError(f"records of different sizes in one batch: {sizes} pixels")

    def serialized(self, numbers: np.ndarray) -> list[bytes]:
        """Returns the stored bytes of records; thread-safe."""
        return self._in_order(numbers, RecordSet.serialized)

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """Returns uint8 RGB [n, S, S, 3]."""
        return np.stack(self._in_order(numbers, RecordSet.images))

    def check_images(self, numbers: np.ndarray) -> None:
        """Raises a DataError for an image that training cannot decode."""
        for one, _, local in self._owners(numbers):
            one.check_images(local)

    def _in_order(self, numbers: np.ndarray, read: Callable) -> list:
        """Returns the results of read(set, numbers in the set), in order of numbers."""
        results = {}
        for one, rows, local in self._owners(numbers):
            results |= zip(rows.tolist(), read(one, local))
        return [results[row] for row in range(len(numbers))]

    def _owners(self, numbers: np.ndarray) -> Iterator[tuple]:
        """Yields (set, rows of `numbers` in it, their numbers in the set)."""
        owner = np.searchsorted(self._offsets, numbers, side="right") - 1
        for one in np.unique(owner):
            rows = np.flatnonzero(owner == one)
            yield self._sets[one], rows, numbers[rows] - self._offsets[one]

    def close(self) -> None:
        """Closes all sets."""
        for one in self._sets:
            one.close()


class _Shard:
    """A file read by offset, thread-safe; closed when nothing refers to it.

    Not a memory map: if a mapped file shrinks, the process is killed.
    """

    def __init__(self, path):
        self.path, self._local, self._handle = path, os.path.exists(path), -1
        if self._local:
            self._handle = os.open(path, os.O_RDONLY)
            self._finalizer = weakref.finalize(self, os.close, self._handle)

    def read(self, start: int, length: int) -> bytes:
        if self._local:
            return os.pread(self._handle, length, start)
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def close(self) -> None:
        if self._local:
            self._handle = -1
            self._finalizer()  # once: the number may soon be that of another file


def _expressions(index: indexes.Index, path, expression: str) -> np.ndarray:
    """Returns those of all records; DataError if none of them is `expression`."""
    if index.expression is None:
        raise DataError(
            f"{path}: converted before expressions were stored; convert the set again"
        )
    labelled = set(index.expression.tolist()) - {""}
    if expression not in labelled:
        names = ", ".join(sorted(labelled)) or "none is labelled"
        raise DataError(
            f"{path}: no image with the expression {expression!r}; available: {names}"
        )
    return index.expression
