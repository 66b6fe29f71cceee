"""Samplers: which records make up a batch, as pure functions of (seed, step). NumPy.

A sampler gives numbers of records, the same for any number of processes:

    sampler = samplers.epochs(num_images, 64, seed=0)
    sampler(7)["image"]  # numbers [64] of the images in the batch of step 7

A key names an array of images in the batch. To 'image' and to names that end in
'_image' streams add the columns of the records, with the prefix ('label' only to
'image'); others, such as 'positive', are images alone. A number of -1 is no image: any
image stands in its place, and its columns are missing values.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError

Numbers = dict[str, np.ndarray]
PAIRINGS = ("disco", "disco_HF", "flat")
LONELY = 0.1  # largest share of identities with a single image


class Sampler(NamedTuple):
    """Step -> numbers of records.

    Attributes:
      numbers: the function; calling the sampler calls it.
      epoch: rows of an epoch.
      unit: what a row is.
    """

    numbers: Callable[[int], Numbers]
    batch_size: int
    epoch: int
    unit: str = "images"

    def __call__(self, step: int) -> Numbers:
        return self.numbers(step)


def in_turn(size: int, *key: int) -> Callable[[int, int], np.ndarray]:
    """Returns (step, count) -> a step's numbers below `size`, each once in an epoch.

    They are taken from an endless line of random permutations; a batch may straddle two
    of them.

    Args:
      key: seed and what tells this line from others of the same seed.
    """

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([*key, epoch]).permutation(size)

    def numbers(step: int, count: int) -> np.ndarray:
        epoch, place = np.divmod(np.arange(step * count, (step + 1) * count), size)
        parts = [permutation(int(e))[place[epoch == e]] for e in np.unique(epoch)]
        return np.concatenate(parts)

    return numbers


def epochs(size: int, batch_size: int, *, seed: int = 0) -> Sampler:
    """Returns batches in which every record comes once in each epoch.

    Raises:
      DataError: for no records, and a batch size that is not positive.
    """
    if batch_size < 1 or size < 1:
        raise DataError(
            f"a batch of {batch_size} rows from {size:,} records; use at least 1 row "
            "and 1 record"
        )
    order = in_turn(size, seed, 0)
    return Sampler(lambda step: {"image": order(step, batch_size)}, batch_size, size)


def identities(
    labels: np.ndarray, batch_size: int, images: int, *, seed: int = 0
) -> Sampler:
    """Returns batches of batch_size / K identities with K = `images` each.

    Every identity comes once in each run of all identities, with K of its images at
    random (with repetition where it has fewer).

    Raises:
      DataError: for a batch that cannot be divided so.
    """
    groups = _Groups.of(labels)
    count, classes = batch_size // images, len(groups.first)
    if batch_size % images or not 1 <= count <= classes:
        raise DataError(
            f"a batch of {batch_size} cannot be {images} images each of distinct "
            f"identities out of {classes}; use a multiple of {images}, at most "
            f"{images * classes}"
        )
    order = in_turn(classes, seed, 0)

    def numbers(step: int) -> Numbers:
        rng = np.random.default_rng([seed, 1, step])
        members = [groups.members(identity) for identity in order(step, count)]
        chosen = [rng.choice(m, images, replace=len(m) < images) for m in members]
        return {"image": np.concatenate(chosen)}

    return Sampler(numbers, batch_size, len(labels))


def pairs(
    labels: np.ndarray,
    batch_size: int,
    *,
    pairing: str = "disco",
    num_identities: int = 0,
    seed: int = 0,
) -> Sampler:
    """Returns pairs of images of one identity, 'image' and 'positive'.

    Every identity comes once in each epoch.

    Args:
      labels: int [N], -1 where unknown.
      pairing: 'disco' pairs two images of an identity, drawn with replacement (Boutros
        et al. 2023); 'disco_HF' takes its first image twice; 'flat' takes every image
        twice, as an identity of its own, whatever its label. See `pair_labels`.
      num_identities: the first so many; 0 takes all.

    Raises:
      DataError: where identities cannot be paired so, or are fewer than a batch.
    """
    groups = _Groups.of(pair_labels(labels, pairing))
    first, count = (x[: num_identities or None] for x in (groups.first, groups.count))
    if num_identities > len(groups.first):
        raise DataError(
            f"{num_identities:,} identities asked for, of {len(groups.first):,}"
        )
    single = int(np.sum(count < 2))
    if pairing == "disco" and single > LONELY * len(count):
        raise DataError(
            f"{single:,} of {len(count):,} identities have a single image, more than "
            f"{LONELY:.0%}: there is nothing to pair; pairing 'disco_HF' takes one "
            "image twice"
        )
    if pairing != "disco":
        count = np.ones_like(count)
    if not 1 <= batch_size <= len(first):
        raise DataError(
            f"a batch of {batch_size} pairs of distinct identities out of "
            f"{len(first):,}; use a batch of 1 to {len(first):,}"
        )
    order = in_turn(len(first), seed, 0)

    def numbers(step: int) -> Numbers:
        identity = order(step, batch_size)
        rng = np.random.default_rng([seed, 1, step])
        chosen = rng.integers(count[identity][:, None], size=(batch_size, 2))
        images = groups.order[first[identity][:, None] + chosen]
        return {"image": images[:, 0], "positive": images[:, 1]}

    return Sampler(numbers, batch_size, len(first), "pairs")


def pair_labels(labels: np.ndarray, pairing: str) -> np.ndarray:
    """Returns the number of each image's identity for `pairs`, int32 [N] without gaps.

    Raises:
      DataError: for another pairing, and unlabelled images that are not paired flat.
    """
    if pairing not in PAIRINGS:
        raise DataError(f"pairing {pairing!r}: use one of {', '.join(PAIRINGS)}")
    if pairing == "flat":
        return np.arange(len(labels), dtype=np.int32)
    if unknown := int(np.sum(np.asarray(labels) < 0)):
        raise DataError(
            f"{unknown:,} of the images have no label; pairing 'flat' takes every "
            "image as an identity of its own"
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
    """Returns batches of identities in several poses.

    With n = `images` above 1, n images of each identity, every identity once in each
    run of all; with 1 every image once in each epoch. Auxiliary images follow, each
    once in each run of its set; their numbers run on from the faces'.

    Args:
      faces: all labelled.
      paired: add 'target_image', an image of the identity, in the same light if that is
        known: of its poses one at random, and of that pose's images one; -1
        where the identity has no image with a pose.
      auxiliary: (number of images, rows of a batch) of each such set.

    Raises:
      DataError: for a batch that cannot be divided so.
    """
    groups = _Groups.of(faces.label)
    classes, size = len(groups.first), len(faces.label)
    main = batch_size - sum(rows for _, rows in auxiliary)
    most = images * classes if images > 1 else size
    if main % images or not 1 <= main <= most:
        raise DataError(
            f"a batch of {batch_size}, {batch_size - main} of it auxiliary images, "
            f"with {images} of each identity out of {classes:,}; use a multiple of "
            f"{images}, at most {most:,}"
        )
    for count, rows in auxiliary:
        if rows % images or not 0 < rows <= count:
            raise DataError(
                f"{rows} auxiliary images, of {count:,}; use a multiple of {images}, "
                "at most so many"
            )
    order = in_turn(classes if images > 1 else size, seed, 0, 0)
    others = [
        (in_turn(count, seed, 0, which), rows)
        for which, (count, rows) in enumerate(auxiliary, 1)
    ]
    offsets = np.cumsum([size, *(count for count, _ in auxiliary)])
    cells = _cells(faces) if paired else None

    def numbers(step: int) -> Numbers:
        rng = np.random.default_rng([seed, 1, step])
        if images == 1:
            chosen = order(step, main)
        else:
            chosen = np.concatenate(
                [
                    groups.members(who)[rng.choice(groups.count[who], images, False)]
                    for who in order(step, main // images)
                ]
            )
        parts = [chosen]
        parts += [
            offset + turn(step, rows) for offset, (turn, rows) in zip(offsets, others)
        ]
        found = {"image": np.concatenate(parts)}
        if cells is not None:
            target = np.full(batch_size, -1)
            has = np.flatnonzero(cells.poses[chosen])
            cell = cells.cell[chosen[has]] + rng.integers(cells.poses[chosen[has]])
            place = cells.first[cell] + rng.integers(cells.count[cell])
            target[has] = cells.order[place]
            found["target_image"] = target
        return found

    return Sampler(numbers, batch_size, size)


class _Groups(NamedTuple):
    """Images by identity: `order` lists them identity by identity.

    Of each identity, in order of its label: where it starts in it, and its images.
    """

    order: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> "_Groups":
        order = np.argsort(labels, kind="stable")
        known, first, count = np.unique(
            np.asarray(labels)[order], return_index=True, return_counts=True
        )
        kept = known >= 0
        return cls(order, first[kept], count[kept])

    def members(self, identity: int) -> np.ndarray:
        start = self.first[identity]
        return self.order[start : start + self.count[identity]]


class _Cells(NamedTuple):
    """Images with a pose, by identity and light, and within these by pose: in cells.

    `order` [M] lists them cell by cell; `first` and `count` say where each cell lies in
    it. Of every image [N]: the first `cell` of its identity and light, and the number
    of these, `poses`.
    """

    order: np.ndarray
    first: np.ndarray
    count: np.ndarray
    cell: np.ndarray
    poses: np.ndarray


def _cells(faces: Posed) -> _Cells:
    light = np.full(len(faces.label), -1) if faces.light is None else faces.light
    group = np.stack([faces.label, light], axis=1)
    group = np.unique(group, axis=0, return_inverse=True)[1].ravel()
    floating = np.issubdtype(faces.pose.dtype, np.floating)
    known = np.flatnonzero(np.isfinite(faces.pose) if floating else faces.pose >= 0)
    order = known[np.lexsort((faces.pose[known], group[known]))]
    starts = (np.diff(group[order]) != 0) | (np.diff(faces.pose[order]) != 0)
    first = np.flatnonzero(np.append(len(order) > 0, starts))
    cells = group[order][first]
    cell = np.searchsorted(cells, group)
    poses = np.searchsorted(cells, group, "right") - cell
    return _Cells(order, first, np.diff(first, append=len(order)), cell, poses)
