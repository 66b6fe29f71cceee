"""Random access to the records of a set: columns, and images by number."""

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_pipelines import DataError
from data_pipelines import index as indexes
from data_pipelines.images import decode
from data_pipelines.protocols.identities import select


class RecordSet:
    """Aligned faces in TFRecords, those of a selection, numbered from 0.

    A context manager: `close` closes the files.

    Args:
      path: a folder of records (DIR/NAME, or the version folder in it).
      identities: which to keep: names, 'first:last' in sorted order (both included), or
        '@file' with a name a line; None keeps all. Labels are renumbered without gaps.
      expression: the only one to keep, as 'neutral'; '' keeps all.
      yaws: (lowest, highest) to keep, in degrees; an unknown yaw is kept.

    Attributes:
      name, licence, size (pixels).
      identities: the name of each label.
      label: int32 [N], -1 where there is none.
      yaw, light, session: [N] degrees, NaN, and numbers, -1 where unknown.

    Raises:
      DataError: for a missing or damaged set, and a name or an expression that is not
        in it; from reading, for a damaged record, naming file and offset.
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
        self.size, self.name, self.licence = index.size, index.name, index.licence
        kept = np.arange(len(index))
        if identities is not None:
            chosen = select(index.identities, identities)
            kept = kept[np.isin(index.label, chosen)]
        if expression:
            kept = kept[_expressions(index, path, expression)[kept] == expression]
        if yaws and index.yaw is not None:
            yaw = index.yaw[kept]
            kept = kept[~((yaw < yaws[0]) | (yaw > yaws[1]))]
        if not len(kept):
            raise DataError(f"{path}: no images left to train on")
        self._shards = [_Shard(folder / shard) for shard in index.shards]
        # Far away, a record costs a round trip: ask for many at once.
        self._pool = None if os.path.exists(folder) else ThreadPoolExecutor(32)
        self._keep(kept)

    def _keep(self, records: np.ndarray) -> None:
        index, self._records = self._index, records
        labels = index.label[records]
        known = np.unique(labels[labels >= 0])
        self.identities = [index.identities[label] for label in known]
        numbers = np.searchsorted(known, labels)
        self.label = np.where(labels < 0, -1, numbers).astype(np.int32)
        self.yaw, self.light, self.session = (
            np.full(len(records), nothing) if column is None else column[records]
            for column, nothing in (
                (index.yaw, np.float32(np.nan)),
                (index.light, np.int32(-1)),
                (index.session, np.int32(-1)),
            )
        )

    def subset(self, numbers: np.ndarray) -> "RecordSet":
        """Returns the set of some of the records, whose labels are renumbered.

        Both share their files.
        """
        some = copy.copy(self)
        some._keep(self._records[numbers])
        return some

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> "RecordSet":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files of the set; nothing can be read after it."""
        for shard in self._shards:
            shard.close()
        if self._pool:
            self._pool.shutdown()

    def serialized(self, numbers: np.ndarray) -> list[bytes]:
        """Returns records as they are stored. Safe in many threads at once."""
        read = self._pool.map if self._pool else map
        return list(read(self._record, self._records[numbers].tolist()))

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """Returns uint8 RGB [n, S, S, 3]; DataError for a damaged image."""
        from data_pipelines import records  # loads TensorFlow

        found = []
        for serialized in self.serialized(np.asarray(numbers)):
            image = decode(records.image(serialized))
            if image.shape[:2] != (self.size, self.size):
                source = records.decode(serialized).source
                raise DataError(f"{source}: {image.shape[1]}x{image.shape[0]} pixels")
            found.append(image)
        return np.stack(found)

    def _record(self, place: int) -> bytes:
        index = self._index
        shard, start = self._shards[index.shard[place]], int(index.offset[place])
        record = shard.read(start, int(index.length[place]))
        return indexes.payload(record, f"{shard.path}: byte {start:,}")


class JoinedRecords:
    """Several sets whose numbers run on from one into the next."""

    def __init__(self, *sets: RecordSet):
        self._sets = sets
        self._offsets = np.cumsum([0, *map(len, sets)])
        self.size = sets[0].size
        if len({one.size for one in sets}) > 1:
            sizes = ", ".join(f"{one.name} {one.size}" for one in sets)
            raise DataError(f"records of different sizes in one batch: {sizes} pixels")

    def serialized(self, numbers: np.ndarray) -> list[bytes]:
        """Returns records as they are stored."""
        return self._in_order(numbers, RecordSet.serialized)

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """Returns uint8 RGB [n, S, S, 3]."""
        return np.stack(self._in_order(numbers, RecordSet.images))

    def _in_order(self, numbers: np.ndarray, read: Callable) -> list:
        """What `read` gives for the numbers, of each set at once."""
        which = np.searchsorted(self._offsets, numbers, side="right") - 1
        found = {}
        for number in np.unique(which):
            rows = np.flatnonzero(which == number)
            local = numbers[rows] - self._offsets[number]
            found |= zip(rows.tolist(), read(self._sets[number], local))
        return [found[row] for row in range(len(numbers))]

    def close(self) -> None:
        """Closes all sets."""
        for one in self._sets:
            one.close()


class _Shard:
    """A file read by offset, safe in many threads at once.

    Not a memory map: a file that shrinks under one kills the process.
    """

    def __init__(self, path):
        self.path, self._local = path, os.path.exists(path)
        self._handle = os.open(path, os.O_RDONLY) if self._local else -1

    def read(self, start: int, length: int) -> bytes:
        if self._local:
            return os.pread(self._handle, length, start)
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _expressions(index: indexes.Index, path, expression: str) -> np.ndarray:
    """Those of all records; DataError where none is the one asked for."""
    if index.expression is None:
        raise DataError(
            f"{path}: converted before expressions were stored; convert the set again"
        )
    known = np.unique(index.expression)
    if expression not in known:
        there = ", ".join(name for name in known.tolist() if name) or "none is known"
        raise DataError(
            f"{path}: no image with the expression {expression!r}; there are: {there}"
        )
    return index.expression
