"""Two views of each identity, for learning without labels: a pure function of the step.

Which images make up a batch is worked out in NumPy from (seed, step), the same however
many processes share it; threads read and augment the next batches meanwhile. No
TensorFlow, no JAX.
"""

import os
from collections.abc import Callable

import numpy as np

from data_pipelines import DataError
from data_pipelines.prefetch import Prefetch

PAIRINGS = ("disco", "disco_HF", "flat")
LONELY = 0.1  # largest share of identities with a single image


class PairStream:
    """Batches: image, positive uint8 [b, S, S, 3], label int32 [b], seed uint32 [b].

    Every identity comes once in each run of as many pairs as there are identities; a
    batch may straddle two runs. `label` numbers the identities, so that keys of one's
    own can be told from others'; nothing else is known of them.

    Args:
      fetch: numbers [n] -> images uint8 [n, S, S, 3]; called from several threads.
      labels: int [N], the identity of every image; -1 is nobody known.
      batch_size: pairs of the global batch.
      pairing: 'disco' pairs two images of an identity, drawn with replacement (Boutros
        et al. 2023); 'disco_HF' takes its first image twice; 'flat' takes every image
        twice, as an identity of its own, whatever its label.
      num_identities: the first so many; 0 takes all.
      augment: (image, generator) -> image, of each view on its own; None leaves them.
      rows: (start, stop) of the global batch that this process makes.
      prefetch: batches made ahead, each in a thread of its own.

    Attributes:
      num_classes: identities, which is pairs of a run too.
      fetch: as given.
      unit: 'pairs', what a batch has rows of.

    Raises:
      DataError: where identities cannot be paired so, or are fewer than a batch.
    """

    unit = "pairs"

    def __init__(
        self,
        fetch: Callable[[np.ndarray], np.ndarray],
        labels: np.ndarray,
        *,
        batch_size: int,
        pairing: str = "disco",
        num_identities: int = 0,
        seed: int = 0,
        augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        rows: tuple[int, int] | None = None,
        prefetch: int = min(4, os.cpu_count() or 1),
    ):
        self.fetch, self._augment = fetch, augment
        self._first, self._count = _members(np.asarray(labels), pairing, num_identities)
        if pairing != "disco":
            self._count = np.ones_like(self._count)
        self._order = np.arange(len(labels))
        if pairing != "flat":
            self._order = np.argsort(labels, kind="stable")
        self.num_classes = len(self._first)
        if not 1 <= batch_size <= self.num_classes:
            raise DataError(
                f"a batch of {batch_size} pairs of distinct people out of "
                f"{self.num_classes:,}; use a batch of 1 to {self.num_classes:,}"
            )
        self.batch_size, self._seed = batch_size, seed
        self._rows = range(*(rows or (0, batch_size)))
        self._ahead = Prefetch(self._make, prefetch)

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of a step's batch. Steps in order are fast."""
        return self._ahead.at(step)

    def numbers(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns identities [B] and images [B, 2] of the global batch of a step."""
        place = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        run, within = np.divmod(place, self.num_classes)
        identity = np.empty(self.batch_size, np.int64)
        for number in np.unique(run):
            order = np.random.default_rng([self._seed, 0, number])
            order = order.permutation(self.num_classes)
            identity[run == number] = order[within[run == number]]
        rng = np.random.default_rng([self._seed, 1, step])
        chosen = rng.integers(self._count[identity][:, None], size=(len(identity), 2))
        return identity, self._order[self._first[identity][:, None] + chosen]

    def _make(self, step: int) -> dict[str, np.ndarray]:
        identity, images = (part[self._rows] for part in self.numbers(step))
        seeds = np.random.default_rng([self._seed, 2, step])
        seeds = seeds.integers(2**32, size=self.batch_size, dtype=np.uint32)
        views = [self.fetch(images[:, view]) for view in range(2)]
        if self._augment:
            for view, faces in enumerate(views):
                made = [
                    self._augment(
                        face, np.random.default_rng([self._seed, 3 + view, step, row])
                    )
                    for row, face in zip(self._rows, faces)
                ]
                views[view] = np.stack(made)
        return {
            "image": views[0],
            "positive": views[1],
            "label": identity.astype(np.int32),
            "seed": seeds[self._rows],
        }


def _members(labels, pairing, num_identities) -> tuple[np.ndarray, np.ndarray]:
    """Where each identity begins among the images in order of label, and its images."""
    if pairing not in PAIRINGS:
        raise DataError(f"pairing {pairing!r}: use one of {', '.join(PAIRINGS)}")
    if pairing == "flat":
        first, count = np.arange(len(labels)), np.ones(len(labels), int)
    else:
        if unknown := int(np.sum(labels < 0)):
            raise DataError(
                f"{unknown:,} of the images belong to nobody known; pairing 'flat' "
                "takes every image as an identity of its own"
            )
        _, first, count = np.unique(
            np.sort(labels), return_index=True, return_counts=True
        )
    if num_identities > len(first):
        raise DataError(f"{num_identities:,} identities wanted of {len(first):,}")
    first, count = (x[: num_identities or None] for x in (first, count))
    lonely = int(np.sum(count < 2))
    if pairing == "disco" and lonely > LONELY * len(count):
        raise DataError(
            f"{lonely:,} of {len(count):,} identities have a single image, more than "
            f"{LONELY:.0%}: there is nothing to pair; pairing 'disco_HF' takes one "
            "image twice"
        )
    return first, count


def shifted_left(images: np.ndarray) -> np.ndarray:
    """Returns faces [n, S, S, 3] moved left by 8 of 112 pixels, black behind them.

    So lie the faces that USynthFace was trained on, though not those that it was judged
    on: its training template was that of crops of 96 x 112. (The original's crops show
    what is beside the face where these are black.)
    """
    pixels = round(8 * images.shape[2] / 112)
    out = np.zeros_like(images)
    out[:, :, : images.shape[2] - pixels] = images[:, :, pixels:]
    return out
