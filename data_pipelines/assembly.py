"""Batches of a sampler: columns, seeds and augmentation of its rows. NumPy.

Shared by the streams of records and of arrays in memory.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from data_pipelines import DataError
from data_pipelines.samplers import Sampler

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
AHEAD = min(4, os.cpu_count() or 1)  # batches prepared ahead


class Batches:
    """The rows that this process supplies of each batch of a sampler.

    Args:
      columns: arrays over the images: [N], such as `label`, int32 or float32 in
        batches; or [N, ...], such as further images, which keep their type.
      rows: (start, stop) within the global batch.
      augment: (image, generator) -> image, applied to each image.

    Attributes:
      extremes: (lowest, highest) value of each column of integers, by name.
      num_classes: highest label + 1; None without labels.

    Raises:
      DataError: for integers beyond int32.
    """

    def __init__(
        self,
        sampler: Sampler,
        columns: Mapping[str, np.ndarray],
        *,
        seed: int = 0,
        rows: tuple[int, int] | None = None,
        augment: Augment | None = None,
    ):
        self._sampler, self._seed, self._augment = sampler, seed, augment
        self._rows = slice(*(rows or (0, sampler.batch_size)))
        self._columns = {
            name: column if column.ndim > 1 else _narrow(name, column)
            for name, column in columns.items()
        }
        self.extremes = {
            name: (int(column.min()), int(column.max()))
            for name, column in self._columns.items()
            if column.ndim == 1 and column.dtype == np.int32
        }
        labels = self.extremes.get("label")
        self.num_classes = None if labels is None else labels[1] + 1

    def fingerprint(self) -> dict[str, Any]:
        """Returns the number of images and of classes, and a digest of their columns.

        Of columns of integers alone: others may be computed, and rounded otherwise on
        another machine.
        """
        digest, images = hashlib.sha256(), 0
        for name, column in sorted(self._columns.items()):
            images = len(column)
            if column.ndim == 1 and column.dtype.kind in "iu":
                digest.update(b"%s %d\n" % (name.encode(), images) + column.tobytes())
        counts = {"images": images, "classes": self.num_classes}
        return {**counts, "labels": digest.hexdigest()[:16]}

    def _numbers(self, step: int) -> dict[str, np.ndarray]:
        """Returns the record numbers of this process's rows, by name of the images."""
        return {name: n[self._rows] for name, n in self._sampler(step).items()}

    def images(self, step: int) -> np.ndarray:
        """Returns the numbers of all images to read [names * rows], none of them -1."""
        numbers = self._numbers(step)
        image = numbers["image"]
        return np.concatenate([np.where(n < 0, image, n) for n in numbers.values()])

    def augmented(self, step: int, images: np.ndarray) -> np.ndarray:
        """Returns the images of `images(step)` after augmentation."""
        if self._augment is None:
            return images
        start, count = self._rows.start, self._rows.stop - self._rows.start
        out = []
        for number, image in enumerate(images):
            name, row = divmod(number, count)
            rng = np.random.default_rng([self._seed, 3 + name, step, start + row])
            out.append(self._augment(image, rng))
        return np.stack(out)

    def assemble(self, step: int, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the batch: `images` by name, their columns, and `seed` uint32."""
        numbers = self._numbers(step)
        rng = np.random.default_rng([self._seed, 2, step])
        seeds = rng.integers(2**32, size=self._sampler.batch_size, dtype=np.uint32)
        batch = {"seed": seeds[self._rows]}
        for (name, rows), part in zip(numbers.items(), np.split(images, len(numbers))):
            batch[name] = part
            if name != "image" and not name.endswith("_image"):
                continue
            prefix = name.removesuffix("image")
            for column, values in self._columns.items():
                if prefix and column == "label":  # the same as that of 'image'
                    continue
                batch[prefix + column] = chosen = values[rows]
                if (rows < 0).any():
                    chosen[rows < 0] = np.nan if values.dtype.kind == "f" else -1
        return batch


def _narrow(name: str, column: np.ndarray) -> np.ndarray:
    if column.dtype.kind not in "iu":
        return column.astype(np.float32)
    narrow = column.astype(np.int32)
    if (wrong := column[narrow != column]).size:
        raise DataError(f"{name!r} of the data has {wrong[0]}, which is beyond int32")
    return narrow


class Prefetch:
    """`at(step)` returns make(step); threads prepare the next steps meanwhile."""

    def __init__(self, make: Callable[[int], Any]):
        self._make = make
        self._pool = ThreadPoolExecutor(AHEAD)
        self._pending: dict[int, Future] = {}

    def at(self, step: int) -> Any:
        """Returns the result for a step. Consecutive steps are fast."""
        steps = range(step, step + 1 + AHEAD)
        for number in self._pending.keys() - steps:
            self._pending.pop(number).cancel()
        for number in steps:
            if number not in self._pending:
                self._pending[number] = self._pool.submit(self._make, number)
        return self._pending.pop(step).result()

    def close(self) -> None:
        """Ends the threads, after the steps that they have begun."""
        self._pending.clear()
        self._pool.shutdown(cancel_futures=True)
