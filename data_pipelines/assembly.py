"""Batches of a sampler: columns, seeds and augmentation of its rows. NumPy.

What a stream of records and a stream of arrays share.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from data_pipelines.samplers import Sampler

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]
AHEAD = min(4, os.cpu_count() or 1)  # batches prepared ahead


class Batches:
    """The rows that this process supplies of each batch of a sampler.

    Args:
      columns: arrays [N] over the images, such as `label`, int32 or float32 in batches;
        or [N, ...], such as further images, which keep their type.
      rows: (start, stop) of the global batch.
      augment: (image, generator) -> image, of every image on its own.
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
            name: column if column.ndim > 1 else _narrow(column)
            for name, column in columns.items()
        }

    def classes(self) -> tuple[int | None, int]:
        """Returns how many classes the labels have, if any, and how many are -1."""
        labels = self._columns.get("label")
        if labels is None:
            return None, 0
        return int(labels.max()) + 1, int(np.sum(labels < 0))

    def _numbers(self, step: int) -> dict[str, np.ndarray]:
        """Numbers of this process's rows, by name of the images."""
        found = self._sampler(step)
        return {name: numbers[self._rows] for name, numbers in found.items()}

    def images(self, step: int) -> np.ndarray:
        """Returns the numbers of all images to read [names * rows], none of them -1."""
        found = self._numbers(step)
        parts = [np.where(part < 0, found["image"], part) for part in found.values()]
        return np.concatenate(parts)

    def augmented(self, step: int, images: np.ndarray) -> np.ndarray:
        """Returns the images of `images(step)` after augmentation."""
        if self._augment is None:
            return images
        start, count = self._rows.start, self._rows.stop - self._rows.start
        out = []
        for place, image in enumerate(images):
            name, row = divmod(place, count)
            rng = np.random.default_rng([self._seed, 3 + name, step, start + row])
            out.append(self._augment(image, rng))
        return np.stack(out)

    def assemble(self, step: int, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the batch: `images` by name, their columns, and `seed` uint32."""
        found = self._numbers(step)
        seeds = np.random.default_rng([self._seed, 2, step])
        seeds = seeds.integers(2**32, size=self._sampler.batch_size, dtype=np.uint32)
        batch = {"seed": seeds[self._rows]}
        for (name, numbers), part in zip(found.items(), np.split(images, len(found))):
            batch[name] = part
            if name != "image" and not name.endswith("_image"):
                continue
            prefix = name.removesuffix("image")
            for column, values in self._columns.items():
                if prefix and column == "label":  # that of the image beside it
                    continue
                rows, missing = values[numbers], numbers < 0
                if missing.any():
                    rows[missing] = np.nan if values.dtype.kind == "f" else -1
                batch[prefix + column] = rows
        return batch


def _narrow(column: np.ndarray) -> np.ndarray:
    return column.astype(np.int32 if column.dtype.kind in "iu" else np.float32)


class Prefetch:
    """`at(step)` gives make(step), while the next steps are being made in threads."""

    def __init__(self, make: Callable[[int], Any], depth: int = AHEAD):
        self._make, self._depth = make, depth
        self._pool = ThreadPoolExecutor(max(depth, 1))
        self._made: dict[int, Future] = {}

    def at(self, step: int) -> Any:
        """Returns what belongs to a step. Steps in order are fast."""
        wanted = range(step, step + 1 + self._depth)
        for late in [number for number in self._made if number not in wanted]:
            self._made.pop(late).cancel()
        for number in wanted:
            if number not in self._made:
                self._made[number] = self._pool.submit(self._make, number)
        return self._made.pop(step).result()
