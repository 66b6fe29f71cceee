"""Batches of people in several poses: a pure function of the step.

Images of known people, n of each; beside them images of which only the pose is known,
or nothing. Which make up a batch is worked out in NumPy from (seed, step), the same
however many processes share it. No TensorFlow, no JAX.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines.prefetch import Prefetch


class PosedFaces(NamedTuple):
    """Images, and what is known of each.

    Attributes:
      fetch: numbers [n] -> images uint8 [n, S, S, 3]; called from several threads.
      label: int [N], who it is; -1: not known.
      pose: int [N], the class, -1; or float, the yaw in degrees, NaN.
      light: int [N], -1; None where light does not matter.
      names: of the identities, for messages.
    """

    fetch: Callable[[np.ndarray], np.ndarray]
    label: np.ndarray
    pose: np.ndarray
    light: np.ndarray | None = None
    names: Sequence[str] = ()


class PoseStream:
    """Batches: image uint8 [b, S, S, 3], label, pose (or yaw), light [b], seed [b].

    Of n images a person, every identity comes once in each run of all identities, with
    n of its images at random; a single one, every image comes once in each run of all.
    Images `beside` follow the people's, each once in a run of theirs; their labels are
    -1 in the batch.

    Args:
      faces: all of them of people who are known.
      poses: number of classes; 0 where poses are yaws.
      batch_size: rows of the global batch, with those from beside.
      images_per_identity: n.
      paired: add `target_image`, `target_pose` (or `target_yaw`) and `target_light` of
        another image of the person, in the same light if that is known: of the poses
        that there are one at random, and of its images one; -1 (NaN) for images of
        nobody known.
      beside: (images, rows of a batch) of each such set.
      drop_small: leave out identities with fewer than n images.
      rows: (start, stop) of the global batch that this process makes.
      prefetch: batches made ahead, each in a thread of its own.

    Attributes:
      num_classes, num_examples: of the people.

    Raises:
      DataError: where no pose is known or one is out of range, for identities with too
        few images, and for a batch that cannot be cut so.
    """

    def __init__(
        self,
        faces: PosedFaces,
        *,
        poses: int,
        batch_size: int,
        images_per_identity: int = 1,
        paired: bool = False,
        beside: Sequence[tuple[PosedFaces, int]] = (),
        drop_small: bool = False,
        seed: int = 0,
        rows: tuple[int, int] | None = None,
        prefetch: int = min(4, os.cpu_count() or 1),
    ):
        sets = [faces, *(images for images, _ in beside)]
        _check_poses(sets, poses)
        if (faces.label < 0).any():
            raise DataError(
                f"{np.sum(faces.label < 0):,} of the images belong to nobody known; "
                "give such images beside those of people: config.data.beside"
            )
        self._each, self._paired = images_per_identity, paired
        self._kept = np.arange(len(faces.label))
        people, counts = np.unique(faces.label, return_counts=True)
        small = people[counts < images_per_identity]
        if drop_small:
            self._kept = np.flatnonzero(~np.isin(faces.label, small))
        elif len(small):
            name = faces.names[small[0]] if len(faces.names) else small[0]
            raise DataError(
                f"{len(small):,} of {len(people):,} identities have fewer than "
                f"{images_per_identity} images, as {name} with "
                f"{counts[people == small[0]][0]}; use fewer of each "
                "(config.data.images_per_identity) or leave them out "
                "(config.data.drop_small)"
            )
        self._sets, self._beside = sets, [count for _, count in beside]
        self._main = batch_size - sum(self._beside)
        self._people = np.unique(faces.label[self._kept])
        self.num_classes, self.num_examples = len(self._people), len(self._kept)
        most = self.num_examples
        if images_per_identity > 1:
            most = images_per_identity * self.num_classes
        if self._main % images_per_identity or not 1 <= self._main <= most:
            raise DataError(
                f"a batch of {batch_size}, {sum(self._beside)} images of it from "
                f"beside, with {images_per_identity} of each person out of "
                f"{self.num_classes:,}; use a multiple of {images_per_identity}, at "
                f"most {most:,}"
            )
        for images, count in beside:
            if count % images_per_identity or not 0 < count <= len(images.label):
                raise DataError(
                    f"{count} images from beside, of {len(images.label):,}; use a "
                    f"multiple of {images_per_identity}, at most so many"
                )
        # Where each identity's images lie in the order of identities.
        self._order = self._kept[np.argsort(faces.label[self._kept], kind="stable")]
        found = faces.label[self._order]
        self._first = np.searchsorted(found, self._people)
        self._count = np.searchsorted(found, self._people, "right") - self._first
        self._groups = _groups(faces) if paired else None
        self.batch_size, self._seed = batch_size, seed
        self._rows = slice(*(rows or (0, batch_size)))
        self._offsets = np.cumsum([0, *(len(images.label) for images in sets)])
        self._ahead = Prefetch(self._make, prefetch)

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's rows of a step's batch. Steps in order are fast."""
        return self._ahead.at(step)

    def numbers(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images [B] of a step, and the true images beside them; -1: none.

        Numbers run on from one set into the next.
        """
        rng = np.random.default_rng([self._seed, 1, step])
        if self._each == 1:
            main = self._kept[self._in_turn(0, step, self._main, len(self._kept))]
        else:
            people = self._in_turn(0, step, self._main // self._each, self.num_classes)
            places = [
                self._first[who] + rng.choice(self._count[who], self._each, False)
                for who in people
            ]
            main = self._order[np.concatenate(places)]
        target = np.full(self.batch_size, -1)
        if self._groups is not None:
            groups = self._groups
            there = np.flatnonzero(groups.poses[main])
            of = main[there]
            cell = groups.cell[of] + rng.integers(groups.poses[of])
            chosen = groups.first[cell] + rng.integers(groups.count[cell])
            target[there] = groups.order[chosen]
        parts = [main]
        for which, count in enumerate(self._beside, 1):
            size = len(self._sets[which].label)
            place = self._in_turn(which, step, count, size)
            parts.append(self._offsets[which] + place)
        return np.concatenate(parts), target

    def _in_turn(self, which: int, step: int, count: int, size: int) -> np.ndarray:
        """A step's part of an endless line of permutations of `size` numbers."""
        place = np.arange(step * count, (step + 1) * count)
        run, within = np.divmod(place, size)
        order = [self._permutation(which, number, size) for number in np.unique(run)]
        return np.concatenate(
            [o[within[run == number]] for o, number in zip(order, np.unique(run))]
        )

    @functools.lru_cache(maxsize=8)  # noqa: B019 - the stream lives as long as the run
    def _permutation(self, which: int, run: int, size: int) -> np.ndarray:
        return np.random.default_rng([self._seed, 0, which, run]).permutation(size)

    def _make(self, step: int) -> dict[str, np.ndarray]:
        images, target = (part[self._rows] for part in self.numbers(step))
        seeds = np.random.default_rng([self._seed, 2, step])
        seeds = seeds.integers(2**32, size=self.batch_size, dtype=np.uint32)
        batch = self._described(images) | {"seed": seeds[self._rows]}
        if self._paired:
            there = target >= 0
            beside = self._described(np.where(there, target, images))
            del beside["label"]
            for name, values in beside.items():
                if name != "image":
                    nothing = np.nan if values.dtype == np.float32 else -1
                    values[~there] = nothing
                batch[f"target_{name}"] = values
        return batch

    def _described(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Images by their numbers, with what is known of them."""
        of_set = np.searchsorted(self._offsets, numbers, side="right") - 1
        parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        for which in np.unique(of_set):
            rows, faces = np.flatnonzero(of_set == which), self._sets[which]
            local = numbers[rows] - self._offsets[which]
            label = np.full(len(rows), -1)
            if which == 0:  # numbered without gaps
                label = np.searchsorted(self._people, faces.label[local])
            known = {"image": faces.fetch(local), "label": label.astype(np.int32)}
            pose = faces.pose[local]
            yaw = np.issubdtype(pose.dtype, np.floating)
            known["yaw" if yaw else "pose"] = pose.astype(
                np.float32 if yaw else np.int32
            )
            if self._sets[0].light is not None:
                light = np.full(len(rows), -1)
                light = light if faces.light is None else faces.light[local]
                known["light"] = light.astype(np.int32)
            parts.append((rows, known))
        sizes = {known["image"].shape[1:] for _, known in parts}
        if len(sizes) > 1:
            raise DataError(f"images of different sizes beside each other: {sizes}")
        out = {}
        for name, values in parts[0][1].items():
            out[name] = np.empty((len(numbers), *values.shape[1:]), values.dtype)
            for rows, known in parts:
                out[name][rows] = known[name]
        return out


def _check_poses(sets: Sequence[PosedFaces], poses: int) -> None:
    known = 0
    for faces in sets:
        if np.issubdtype(faces.pose.dtype, np.floating):
            if poses:
                raise DataError("poses are yaws, and classes are wanted")
            known += np.isfinite(faces.pose).sum()
            beyond = np.flatnonzero(np.abs(faces.pose) > 180)
            if len(beyond):
                raise DataError(
                    f"{len(beyond):,} yaws are out of range, as image {beyond[0]:,} "
                    f"with {faces.pose[beyond[0]]:g} degrees; -180 to 180 are in it"
                )
            continue
        known += np.sum(faces.pose >= 0)
        outside = np.flatnonzero((faces.pose >= poses) | (faces.pose < -1))
        if len(outside):
            raise DataError(
                f"{len(outside):,} pose labels are out of range, as image "
                f"{outside[0]:,} with pose {faces.pose[outside[0]]}; there are {poses} "
                f"poses, 0 to {poses - 1}"
            )
    if not known:
        raise DataError(
            "no image has a pose label, and poses are what is learnt: give yaws in a "
            "labels.csv, choose a --layout that knows them (cfp, multipie), or images "
            "with poses beside (config.data.beside)"
        )


class _Groups(NamedTuple):
    """Images with a pose, by person and light, and within these by pose: in cells.

    `order` [M] are their numbers, cell by cell; `first` and `count` say where each cell
    lies in it. Of every image [N]: the first `cell` of its person and light, and how
    many there are, `poses`.
    """

    order: np.ndarray
    first: np.ndarray
    count: np.ndarray
    cell: np.ndarray
    poses: np.ndarray


def _groups(faces: PosedFaces) -> _Groups:
    light = np.full(len(faces.label), -1) if faces.light is None else faces.light
    group = np.stack([faces.label, light], axis=1)
    group = np.unique(group, axis=0, return_inverse=True)[1].ravel()
    floating = np.issubdtype(faces.pose.dtype, np.floating)
    posed = np.flatnonzero(np.isfinite(faces.pose) if floating else faces.pose >= 0)
    order = posed[np.lexsort((faces.pose[posed], group[posed]))]
    other = np.diff(group[order]) != 0
    other |= np.diff(faces.pose[order]) != 0
    first = np.flatnonzero(np.append(len(order) > 0, other))
    cells = group[order][first]
    cell = np.searchsorted(cells, group)
    poses = np.searchsorted(cells, group, "right") - cell
    count = np.diff(first, append=len(order))
    return _Groups(order, first, count, cell, poses)
