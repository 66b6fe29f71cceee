"""The training stream over TFRecords, fed by tf.data: a pure function of (seed, step).

A batch is a list of record numbers that a sampler gives for its step; tf.data reads
them by offset, decodes and, on the host, augments in parallel. Nothing is shuffled in
memory, so a run resumes at any step at once and has nothing of the stream to save.
"""

import weakref
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from data_pipelines import DataError, records
from data_pipelines.assembly import Augment, Batches
from data_pipelines.record_set import JoinedRecords, RecordSet
from data_pipelines.samplers import Sampler


class RecordStream:
    """Batches of faces, this process's rows: images uint8 [b, S, S, 3] and columns.

    A context manager; `close` ends the pipeline and closes the records.

    Args:
      source: the records.
      sampler: which of them make up a batch.
      columns: arrays [N] over the records, beside the images: `label` int32, ...
      rows: (start, stop) of the global batch that this process reads.
      augment: (image, NumPy generator) -> image, of every image on its own.
      prefetch: batches decoded ahead.

    Attributes:
      batch_size, unit: of the sampler.
      num_classes, num_unlabelled: of the column `label`, if there is one.

    Raises:
      DataError: from `batch_at`, for a damaged record, naming file and offset.
    """

    def __init__(
        self,
        source: RecordSet | JoinedRecords,
        sampler: Sampler,
        columns: Mapping[str, np.ndarray],
        *,
        seed: int = 0,
        rows: tuple[int, int] | None = None,
        augment: Augment | None = None,
        prefetch: int = 4,
    ):
        self.source, self._prefetch, self._augments = source, prefetch, bool(augment)
        self.batch_size, self.unit = sampler.batch_size, sampler.unit
        self._batches = Batches(sampler, columns, seed=seed, rows=rows, augment=augment)
        self.num_classes, self.num_unlabelled = self._batches.classes()
        self._running, self._next = [], -1  # a pipeline's iterator, if there is one
        # A pipeline calls Python from its threads: one that still runs when the
        # interpreter ends waits for ever, so it is dropped before that.
        weakref.finalize(self, self._running.clear)

    def __enter__(self) -> "RecordStream":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the pipeline and closes the records."""
        self._running.clear()
        self._next = -1
        self.source.close()

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of a step's batch. Steps in order are fast."""
        if step != self._next:
            self._running[:] = [self._start(step)]
        try:
            images = next(self._running[0])
        except tf.errors.OpError as error:
            self._next = -1  # the pipeline is a step further
            self.source.images(self._batches.images(step))  # or names the record
            raise DataError(f"step {step}: {error.message}") from error
        self._next = step + 1
        return self._batches.assemble(step, images)

    def _start(self, step: int):
        """A tf.data pipeline over the steps from `step` on."""
        size, batches, source = self.source.size, self._batches, self.source
        count = len(batches.images(step))

        def read(number: np.int64) -> np.ndarray:
            return np.array(source.serialized(batches.images(int(number))), object)

        def augment(number: np.int64, images: np.ndarray) -> np.ndarray:
            return batches.augmented(int(number), images)

        def batch(number):
            serialized = tf.numpy_function(read, [number], tf.string)
            encoded = records.parse_images(tf.ensure_shape(serialized, (count,)))
            images = tf.map_fn(
                lambda one: records.decode_image(one, size),
                encoded,
                fn_output_signature=tf.uint8,
                parallel_iterations=1,  # batches run in parallel instead
            )
            if not self._augments:
                return images
            return tf.numpy_function(augment, [number, images], tf.uint8)

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
