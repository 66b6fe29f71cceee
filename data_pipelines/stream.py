"""The training stream over TFRecords: a pure function of (seed, step).

A batch is a list of record numbers worked out in NumPy, the same however many processes
share it; tf.data reads them by offset and decodes in parallel. Nothing is shuffled in
memory, so a run resumes at any step at once and has nothing of the stream to save.
"""

import functools
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from data_pipelines import DataError, records
from data_pipelines import index as indexes
from data_pipelines.images import decode
from data_pipelines.protocols.identities import select


class RecordStream:
    """Batches of faces: image uint8 [b, S, S, 3], label int32 [b], seed uint32 [b].

    Every image comes once in each run of `num_examples` images; batches may straddle
    two runs. With `images_per_identity` = K a batch holds batch_size / K identities
    with K images each, every identity once in each run of all identities.

    Args:
      path: a folder of records (DIR/NAME, or the version folder in it).
      batch_size: rows of the global batch.
      identities: which people to keep: names, 'first:last' in sorted order (both in),
        or '@file' with a name a line; None keeps all. Labels are renumbered, no gaps.
      rows: (start, stop) of the global batch that this process reads.
      prefetch: batches decoded ahead.
      expression: the only one to keep, as 'neutral'; '' keeps all.
      yaws: (lowest, highest) to keep, in degrees; an unknown yaw is kept.

    Attributes:
      num_examples, num_classes, size (pixels), name, licence.
      identities: names of the classes, in order.
      labels: for each class its label in the records.
      classes: int [num_examples], the class of each record; -1 where unlabelled.
      yaws, lights, sessions: [num_examples] degrees, NaN, and numbers, -1 where not
        known.

    Raises:
      DataError: for a missing or damaged set, a name or an expression that is not in
        it, too few identities; from `batch_at`, for a damaged record, naming file and
        offset.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        batch_size: int,
        seed: int = 0,
        identities: str | Sequence[str] | None = None,
        images_per_identity: int = 0,
        rows: tuple[int, int] | None = None,
        prefetch: int = 4,
        expression: str = "",
        yaws: tuple[float, float] | None = None,
    ):
        if batch_size < 1:
            raise DataError(f"a batch of {batch_size} images; at least 1 is needed")
        self._folder = indexes.find(path)
        self._index = index = indexes.load(self._folder)
        self.batch_size, self._seed = batch_size, seed
        self._rows = slice(*(rows or (0, batch_size)))
        self._prefetch = prefetch
        self.size, self.name, self.licence = index.size, index.name, index.licence

        kept = np.arange(len(index))
        if identities is not None:
            chosen = select(index.identities, identities)
            kept = kept[np.isin(index.label, chosen)]
        if expression:
            kept = kept[_expressions(index, path, expression)[kept] == expression]
        if yaws and index.yaw is not None:
            lowest, highest = yaws
            yaw = index.yaw[kept]
            kept = kept[~((yaw < lowest) | (yaw > highest))]
        labels = index.label[kept]
        self.labels = np.unique(labels[labels >= 0])
        self.identities = [index.identities[label] for label in self.labels]
        self.num_classes, self.num_examples = len(self.labels), len(kept)
        self.num_unlabelled = int(np.sum(labels < 0))
        self._records = kept
        self.classes = np.where(labels < 0, -1, np.searchsorted(self.labels, labels))
        self.yaws, self.lights, self.sessions = (
            np.full(len(kept), nothing) if column is None else column[kept]
            for column, nothing in (
                (index.yaw, np.float32(np.nan)),
                (index.light, np.int32(-1)),
                (index.session, np.int32(-1)),
            )
        )
        self._per_identity = images_per_identity
        if not self.num_examples:
            raise DataError(f"{path}: no images left to train on")
        if images_per_identity:
            self._prepare_identities()
        self._shards = [_open(self._folder / shard) for shard in index.shards]
        # Far away, a record costs a round trip: ask for many at once.
        remote = not os.path.exists(self._folder)
        self._pool = ThreadPoolExecutor(32) if remote else None
        self._iterator, self._next = iter(()), -1

    def _prepare_identities(self) -> None:
        count, batch = self._per_identity, self.batch_size
        if batch % count or batch // count > self.num_classes:
            raise DataError(
                f"a batch of {batch} cannot be {count} images each of distinct people "
                f"out of {self.num_classes}; use a multiple of {count}, at most "
                f"{count * self.num_classes}"
            )
        order = np.argsort(self.classes, kind="stable")
        bounds = np.searchsorted(self.classes[order], np.arange(self.num_classes + 1))
        self._members = [order[a:b] for a, b in itertools.pairwise(bounds)]

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of a step's batch. Steps in order are fast."""
        if step != self._next:
            self._iterator = self._start(step)
        try:
            image, label, seed = next(self._iterator)
        except tf.errors.OpError as error:
            self._diagnose(step)
            raise DataError(f"{self._folder}: {error.message}") from error
        self._next = step + 1
        return {"image": image, "label": label, "seed": seed}

    def numbers(self, step: int) -> np.ndarray:
        """Returns which of the kept records make up the global batch of a step."""
        if self._per_identity:
            return self._identity_batch(step)
        first = step * self.batch_size
        place = np.arange(first, first + self.batch_size)
        return self._shuffled(place, self.num_examples)

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """Returns images uint8 [n, S, S, 3] of the kept records by their numbers.

        Safe in many threads at once. Raises DataError for a damaged record or image.
        """
        places = self._records[numbers].tolist()
        read = self._pool.map if self._pool else map
        return np.stack([self._image(record) for record in read(self._record, places)])

    def _image(self, record: bytes) -> np.ndarray:
        image = decode(records.image(record))
        if image.shape[:2] != (self.size, self.size):
            source = records.decode(record).source
            raise DataError(f"{source}: {image.shape[1]}x{image.shape[0]} pixels")
        return image

    def _shuffled(self, place: np.ndarray, count: int) -> np.ndarray:
        """Numbers below `count` at places of an endless line of permutations."""
        run, within = np.divmod(place, count)
        parts = [self._permutation(r, count)[within[run == r]] for r in np.unique(run)]
        return np.concatenate(parts)

    def _identity_batch(self, step: int) -> np.ndarray:
        people = self.batch_size // self._per_identity
        run, within = np.divmod(
            np.arange(step * people, (step + 1) * people), self.num_classes
        )
        classes = [
            self._permutation(r, self.num_classes)[w] for r, w in zip(run, within)
        ]
        rng = np.random.default_rng([self._seed, 2, step])
        return np.concatenate([self._draw(rng, self._members[c]) for c in classes])

    def _draw(self, rng: np.random.Generator, members: np.ndarray) -> np.ndarray:
        replace = len(members) < self._per_identity
        return rng.choice(members, self._per_identity, replace=replace)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the stream lives as long as the run
    def _permutation(self, run: int, count: int) -> np.ndarray:
        return np.random.default_rng([self._seed, 0, run]).permutation(count)

    def _start(self, step: int):
        """A tf.data pipeline over the steps from `step` on."""
        local = self._rows.stop - self._rows.start

        def batch(number):
            serialized, label, seed = tf.numpy_function(
                self._read, [number], [tf.string, tf.int32, tf.uint32]
            )
            encoded = records.parse_images(tf.ensure_shape(serialized, (local,)))
            image = tf.map_fn(
                lambda one: records.decode_image(one, self.size),
                encoded,
                fn_output_signature=tf.uint8,
                parallel_iterations=1,  # batches run in parallel instead
            )
            return image, label, seed

        options = tf.data.Options()
        options.deterministic = True
        # Nothing is left to tune, and an iterator that is dropped waits many seconds
        # for its tuner's thread.
        options.autotune.enabled = False
        return (
            tf.data.Dataset.range(step, np.iinfo(np.int64).max)
            .map(batch, num_parallel_calls=self._prefetch)
            .prefetch(self._prefetch)
            .with_options(options)
            .as_numpy_iterator()
        )

    def _read(self, number: np.int64):
        """Serialized records, classes and seeds of this process's rows."""
        step = int(number)
        numbers = self.numbers(step)[self._rows]
        places = self._records[numbers]
        read = self._pool.map if self._pool else map
        serialized = np.array(list(read(self._record, places.tolist())), object)
        seeds = np.random.default_rng([self._seed, 1, step])
        seeds = seeds.integers(2**32, size=self.batch_size, dtype=np.uint32)
        return serialized, self.classes[numbers].astype(np.int32), seeds[self._rows]

    def _record(self, place: int) -> bytes:
        index = self._index
        shard, start = index.shard[place], int(index.offset[place])
        record = self._shards[shard](start, start + int(index.length[place]))
        return indexes.payload(
            record, f"{self._folder / index.shards[shard]}: byte {start:,}"
        )

    def _diagnose(self, step: int) -> None:
        """Raises a DataError that names the record a batch failed on."""
        for place in self._records[self.numbers(step)[self._rows]].tolist():
            self._image(self._record(place))


def _expressions(index: indexes.Index, path, wanted: str) -> np.ndarray:
    """Those of all records; DataError where none is the wanted one."""
    if index.expression is None:
        raise DataError(
            f"{path}: made when nobody noted expressions beside records; convert the "
            "set again"
        )
    known = np.unique(index.expression)
    if wanted not in known:
        there = ", ".join(name for name in known.tolist() if name) or "none is known"
        raise DataError(
            f"{path}: no image with the expression {wanted!r}; there are: {there}"
        )
    return index.expression


def _open(path):
    """Returns (start, stop) -> bytes of a shard, safe in many threads at once.

    Not a memory map: a file that shrinks under one kills the process.
    """
    if os.path.exists(path):
        handle = os.open(path, os.O_RDONLY)
        return lambda start, stop: os.pread(handle, stop - start, start)

    def read(start, stop):
        with path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    return read
