"""Samplers: the record numbers of a batch, as pure functions of (seed, step). NumPy.

A sampler returns record numbers that do not depend on the number of processes:

    sampler = samplers.epochs(num_images, 64, seed=0)
    sampler(7)["image"]  # numbers [64] of the images in the batch of step 7

Each key names an array of images in the batch. Streams add the columns of the records
to 'image' and to names that end in '_image', with the prefix ('label' to 'image' only);
other names, such as 'positive', have images only. A number of -1 is a missing image: an
arbitrary image takes its place, and its columns hold missing values.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError

Numbers = dict[str, np.ndarray]
PAIRINGS = ("disco", "disco_HF", "flat")
MAX_SINGLE = 0.1  # largest share of identities with a single image


class Sampler(NamedTuple):
    """A function from a step to record numbers, with the sizes of its batches.

    Attributes:
      numbers: the function; calling the sampler calls it.
      epoch: number of rows in an epoch.
      unit: name of the rows, for messages.
    """

    numbers: Callable[[int], Numbers]
    batch_size: int
    epoch: int
    unit: str = "images"

    def __call__(self, step: int) -> Numbers:
        return self.numbers(step)


def permuted(size: int, *key: int) -> Callable[[int, int], np.ndarray]:
    """Returns (step, count) -> `count` numbers below `size`, each once per epoch.

    The numbers are consecutive parts of an endless sequence of random permutations; a
    batch may span two of them.

    Args:
      key: seed, and numbers that distinguish the sequences of one seed.
    """

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([*key, epoch]).permutation(size)

    def numbers(step: int, count: int) -> np.ndarray:
        epoch, index = np.divmod(np.arange(step * count, (step + 1) * count), size)
        parts = [permutation(int(e))[index[epoch == e]] for e in np.unique(epoch)]
        return np.concatenate(parts)

    return numbers


def epochs(size: int, batch_size: int, *, seed: int = 0) -> Sampler:
    """Returns a sampler of every record once per epoch.

    Raises:
      DataError: for no records, and a batch size that is not positive.
    """
    if batch_size < 1 or size < 1:
        raise DataError(
            f"a batch of {batch_size} rows from {size:,} records; use at least 1 row "
            "and 1 record"
        )
    order = permuted(size, seed, 0)
    return Sampler(lambda step: {"image": order(step, batch_size)}, batch_size, size)


def identities(
    labels: np.ndarray, batch_size: int, images: int, *, seed: int = 0
) -> Sampler:
    """Returns a sampler of batch_size / K identities with K = `images` images each.

    Every identity occurs once per epoch of identities, with K random images, repeated
    if it has fewer than K.

    Raises:
      DataError: for a batch size that is not such a multiple of K.
    """
    groups = _Groups.of(labels)
    count, classes = batch_size // images, len(groups.first)
    if batch_size % images or not 1 <= count <= classes:
        raise DataError(
            f"a batch of {batch_size} cannot be {images} images each of distinct "
            f"identities out of {classes}; use a multiple of {images}, at most "
            f"{images * classes}"
        )
    order = permuted(classes, seed, 0)

    def numbers(step: int) -> Numbers:
        rng = np.random.default_rng([seed, 1, step])
        return {"image": groups.choose(order(step, count), images, rng)}

    return Sampler(numbers, batch_size, len(labels))


def pairs(
    labels: np.ndarray,
    batch_size: int,
    *,
    pairing: str = "disco",
    num_identities: int = 0,
    seed: int = 0,
) -> Sampler:
    """Returns a sampler of pairs of images of one identity, 'image' and 'positive'.

    Every identity occurs once per epoch.

    Args:
      labels: int [N], -1 where unknown.
      pairing: 'disco' pairs two images of an identity, sampled with replacement
        (Boutros et al. 2023); 'disco_HF' uses its first image twice; 'flat' uses every
        image twice, as a separate identity, and ignores labels. See `pair_labels`.
      num_identities: number of identities used, in order of label; 0 uses all.

    Raises:
      DataError: for unlabelled images (except 'flat'), more than 10 % of identities
        with a single image ('disco'), and fewer identities than pairs in a batch.
    """
    groups = _Groups.of(pair_labels(labels, pairing))
    first, count = (x[: num_identities or None] for x in (groups.first, groups.count))
    if num_identities > len(groups.first):
        raise DataError(
            f"{num_identities:,} identities requested, of {len(groups.first):,}"
        )
    single = int(np.sum(count < 2))
    if pairing == "disco" and single > MAX_SINGLE * len(count):
        raise DataError(
            f"{single:,} of {len(count):,} identities have a single image, so no pair; "
            f"at most {MAX_SINGLE:.0%} may, unless pairing is 'disco_HF'"
        )
    if pairing != "disco":
        count = np.ones_like(count)
    if not 1 <= batch_size <= len(first):
        raise DataError(
            f"a batch of {batch_size} pairs of distinct identities out of "
            f"{len(first):,}; use a batch of 1 to {len(first):,}"
        )
    order = permuted(len(first), seed, 0)

    def numbers(step: int) -> Numbers:
        identity = order(step, batch_size)
        rng = np.random.default_rng([seed, 1, step])
        chosen = rng.integers(count[identity][:, None], size=(batch_size, 2))
        images = groups.order[first[identity][:, None] + chosen]
        return {"image": images[:, 0], "positive": images[:, 1]}

    return Sampler(numbers, batch_size, len(first), "pairs")


def pair_labels(labels: np.ndarray, pairing: str) -> np.ndarray:
    """Returns the identity numbers of `pairs`, int32 [N], consecutive from 0.

    Raises:
      DataError: for an unknown pairing, and unlabelled images unless it is 'flat'.
    """
    if pairing not in PAIRINGS:
        raise DataError(f"pairing {pairing!r}: use one of {', '.join(PAIRINGS)}")
    if pairing == "flat":
        return np.arange(len(labels), dtype=np.int32)
    if unknown := int(np.sum(np.asarray(labels) < 0)):
        raise DataError(
            f"{unknown:,} of the images have no label; pairing 'flat' treats every "
            "image as a separate identity"
        )
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)


class Posed(NamedTuple):
    """Columns of images with poses.

    Attributes:
      label: int [N], -1 where unknown.
      pose: int [N], the class, -1 where unknown; or float, the yaw in degrees, NaN.
      light: int [N], -1 where unknown; None where light is not used.
    """

    label: np.ndarray
    pose: np.ndarray
    light: np.ndarray | None = None


def posed(
    faces: Posed,
    batch_size: int,
    *,
    images: int = 1,
    paired: bool = False,
    auxiliary: Sequence[tuple[int, int]] = (),
    seed: int = 0,
) -> Sampler:
    """Returns a sampler of images of identities in several poses.

    If n = `images` exceeds 1, a batch has n images of each identity, and every identity
    occurs once per epoch of identities; if it is 1, every image occurs once per epoch.
    Auxiliary images follow, each once per epoch of its set; their numbers continue
    those of the faces.

    Args:
      faces: columns of the faces, all labelled.
      paired: add 'target_image', an image of the same identity and the same light: a
        random pose that this identity has, then a random image in that pose; -1 where
        the identity has no image with a pose.
      auxiliary: (number of images, rows per batch) of each auxiliary set.

    Raises:
      DataError: for a batch size that is not such a multiple of n.
    """
    groups = _Groups.of(faces.label)
    classes, size = len(groups.first), len(faces.label)
    main = batch_size - sum(rows for _, rows in auxiliary)
    limit = images * classes if images > 1 else size
    if main % images or not 1 <= main <= limit:
        raise DataError(
            f"a batch of {batch_size}, {batch_size - main} of it auxiliary images, "
            f"with {images} of each identity out of {classes:,}; use a multiple of "
            f"{images}, at most {limit:,}"
        )
    others, offset = [], size
    for number, (count, rows) in enumerate(auxiliary, 1):
        if rows % images or not 0 < rows <= count:
            raise DataError(
                f"{rows} auxiliary images, of {count:,}; use a multiple of {images}, "
                f"at most {count:,}"
            )
        others.append((offset, permuted(count, seed, 0, number), rows))
        offset += count
    order = permuted(classes if images > 1 else size, seed, 0, 0)
    target = _targets(faces) if paired else None

    def numbers(step: int) -> Numbers:
        rng = np.random.default_rng([seed, 1, step])
        chosen = order(step, main // images)
        if images > 1:
            chosen = groups.choose(chosen, images, rng)
        parts = [offset + sequence(step, rows) for offset, sequence, rows in others]
        batch = {"image": np.concatenate([chosen, *parts])}
        if target is not None:
            missing = np.full(batch_size - main, -1)
            batch["target_image"] = np.append(target(chosen, rng), missing)
        return batch

    return Sampler(numbers, batch_size, size)


class _Groups(NamedTuple):
    """Images by group, such as an identity; images with a negative label have none.

    `order` [N] sorts the images by label. For each group, in order of `label`: `first`
    is its start in `order` and `count` its number of images.
    """

    order: np.ndarray
    label: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> "_Groups":
        order = np.argsort(labels, kind="stable")
        labels = np.asarray(labels)[order]
        groups = np.unique(labels, return_index=True, return_counts=True)
        valid = groups[0] >= 0
        return cls(order, *(column[valid] for column in groups))

    def choose(
        self, groups: np.ndarray, images: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Returns random images of each group, with repetition if it has fewer."""
        chosen = []
        for first, count in zip(self.first[groups], self.count[groups]):
            members = self.order[first : first + count]
            chosen.append(rng.choice(members, images, replace=count < images))
        return np.concatenate(chosen)


def _targets(faces: Posed) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Returns (images, generator) -> target images, -1 where no image has a pose.

    A cell holds the images of one identity, light and pose. The cells of an identity
    and light are consecutive.
    """
    light = np.full(len(faces.label), -1) if faces.light is None else faces.light
    group = np.stack([faces.label, light], axis=1)
    group = np.unique(group, axis=0, return_inverse=True)[1].ravel()  # [N]
    floating = np.issubdtype(faces.pose.dtype, np.floating)
    valid = np.isfinite(faces.pose) if floating else faces.pose >= 0
    poses, pose = np.unique(faces.pose, return_inverse=True)
    cells = _Groups.of(np.where(valid, group * len(poses) + pose, -1))
    owner = cells.label // len(poses)  # the group of each cell, ascending
    start = np.searchsorted(owner, group)
    count = np.searchsorted(owner, group, "right") - start

    def target(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        targets = np.full(len(images), -1)
        rows = np.flatnonzero(count[images])
        cell = start[images[rows]] + rng.integers(count[images[rows]])
        number = cells.first[cell] + rng.integers(cells.count[cell])
        targets[rows] = cells.order[number]
        return targets

    return target
