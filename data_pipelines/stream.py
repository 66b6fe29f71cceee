"""The training stream over TFRecords, through tf.data: a function of (seed, step).

A sampler returns the record numbers of each step; tf.data reads the records by offset,
decodes them and, on the host, augments them in parallel. There is no shuffle buffer, so
a run resumes at any step immediately and the stream has no state to save.
"""

import contextlib
import traceback
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines import DataError, records
from data_pipelines.assembly import Augment, Batches
from data_pipelines.record_set import JoinedRecords, RecordSet
from data_pipelines.samplers import Sampler

_PREFETCH = 4  # batches decoded ahead


class RecordStream(contextlib.AbstractContextManager):
    """This process's rows of batches of faces: uint8 [b, S, S, 3] and columns [b].

    A context manager; `close` ends the pipeline, with its threads, and closes the
    records. The pipeline of a stream that is dropped ends as well.

    Args:
      source: the records.
      sampler: step -> record numbers of a batch.
      columns: arrays [N] over the records, such as `label` int32.
      rows: (start, stop) of this process's rows in the global batch.
      augment: (image, NumPy generator) -> image, applied to each image.

    Attributes:
      batch_size, unit: of the sampler.
      extremes: (lowest, highest) value of each column of integers, by name.
      num_classes: highest label + 1; None without labels.

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
    ):
        self.source, self._augments = source, bool(augment)
        self.batch_size, self.unit = sampler.batch_size, sampler.unit
        self._batches = Batches(sampler, columns, seed=seed, rows=rows, augment=augment)
        self.extremes = self._batches.extremes
        self.num_classes = self._batches.num_classes
        self.fingerprint = self._batches.fingerprint
        self._running, self._next = [], -1  # the iterator of a pipeline, or empty
        # A pipeline calls Python from its threads: if one still runs when the
        # interpreter exits, it waits forever, so it is dropped before.
        weakref.finalize(self, self._running.clear)

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the pipeline and closes the records."""
        self._running.clear()
        self._next = -1
        self.source.close()

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of a step's batch. Consecutive steps are fast."""
        if step != self._next:
            self._running[:] = [self._start(step)]
        self._next = -1  # until the batch is here
        try:
            images = next(self._running[0])
        except tf.errors.OpError as error:
            self._drop(error)
            # Raises an error that names the record.
            self.source.check_images(self._batches.images(step))
            raise DataError(f"step {step}: {error.message}") from error
        except BaseException as error:
            self._drop(error)
            raise
        self._next = step + 1
        return self._batches.assemble(step, images)

    def _drop(self, error: BaseException) -> None:
        """Ends the pipeline after an error.

        The traceback's frames hold it, maybe until after the end of the interpreter:
        its threads would then wait for Python forever.
        """
        traceback.clear_frames(error.__traceback__)
        self._running.clear()

    def _start(self, step: int):
        """Returns the iterator of a tf.data pipeline over the steps from `step` on."""
        # TensorFlow keeps the Python functions of a pipeline for ever: they must not
        # keep the stream, its records and its columns.
        batches, source = weakref.ref(self._batches), weakref.ref(self.source)
        count, size = len(self._batches.images(step)), self.source.size
        augments = self._augments

        def read(number: np.int64) -> np.ndarray:
            numbers = _alive(batches).images(int(number))
            return np.array(_alive(source).serialized(numbers), object)

        def augment(number: np.int64, images: np.ndarray) -> np.ndarray:
            return _alive(batches).augmented(number, images)

        def batch(number):
            serialized = tf.numpy_function(read, [number], tf.string)
            encoded = records.parse_images(tf.ensure_shape(serialized, (count,)))
            images = tf.map_fn(
                lambda one: records.decode_pixels(one, size),
                encoded,
                fn_output_signature=tf.uint8,
                parallel_iterations=1,  # the parallelism is over batches
            )
            if not augments:
                return images
            return tf.numpy_function(augment, [number, images], tf.uint8)

        options = tf.data.Options()
        options.deterministic = True
        # There is nothing to tune, and a dropped iterator would wait many seconds for
        # the thread of the tuner.
        options.autotune.enabled = False
        return (
            tf.data.Dataset.range(step, np.iinfo(np.int64).max)
            .map(batch, num_parallel_calls=_PREFETCH)
            .prefetch(_PREFETCH)
            .with_options(options)
            .as_numpy_iterator()
        )


def _alive(reference: weakref.ref) -> Any:
    """Returns what a weak reference refers to; in a pipeline, that exists."""
    alive = reference()
    assert alive is not None, "a pipeline outlived its stream"
    return alive
