"""Judging a network on verification sets: embed every face once, then measure."""

from collections.abc import (
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from fr_jax.errors import UserError
from fr_jax.metrics import verification

PROTOCOLS = ("insightface", "kfold", "paper")
FARS = ("1e-2", "1e-3")


class EvaluationSet(NamedTuple):
    """Pairs of faces to tell apart.

    Attributes:
      name: first part of the key of every result.
      images: slices to uint8 RGB [n, H, W, 3].
      pairs: int [P, 2], numbers of images.
      same: bool [P].
      folds: int [P], the fold of each pair, or None where there are no official ones.
      protocol: 'insightface' (flip-sum, the folds, squared distances), 'kfold' (no
        flip, ten seeded folds stratified by label) or 'paper' (no flip, the best
        threshold of the judged pairs themselves); the last two are Inter-Prototype's.
      people: for each image the name of its person, or None.
      seen: folds that hold people the network was trained on.
    """

    name: str
    images: Any
    pairs: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None
    protocol: str = "insightface"
    people: Sequence[str] | None = None
    seen: frozenset[int] = frozenset()

    def first(self, count: int) -> "EvaluationSet":
        """Returns a fixed subset of `count` pairs: the first genuine and impostor ones
        of every fold, half and half. Named 'name:count'; a set that has no more than
        that is returned whole.
        """
        if count >= len(self.same):
            return self
        folds = np.zeros(len(self.same), int) if self.folds is None else self.folds
        each = count // (2 * (folds.max() + 1))
        chosen = [
            np.flatnonzero((folds == fold) & (self.same == label))[:each]
            for fold in range(folds.max() + 1)
            for label in (True, False)
        ]
        rows = np.sort(np.concatenate(chosen))
        if each < 1 or len(rows) != 2 * each * (folds.max() + 1):
            raise UserError(
                f"{self.name} has no {count} pairs, equally of both kinds in every "
                "fold; choose a smaller --config.evaluation.subset, or 0 for all"
            )
        needed, pairs = np.unique(self.pairs[rows], return_inverse=True)
        return self._replace(
            name=f"{self.name}:{count}",
            images=_stacked(self.name, [self.images[number] for number in needed]),
            pairs=pairs.reshape(-1, 2),
            same=self.same[rows],
            folds=None if self.folds is None else self.folds[rows],
            people=self.people and [self.people[number] for number in needed],
        )


def _stacked(name: str, images: list[np.ndarray]) -> np.ndarray:
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise UserError(f"{name}: images of {len(sizes)} sizes; align the faces first")
    return np.stack(images)


def mark_seen(
    evaluation_set: EvaluationSet, trained: Mapping[str, Collection[str]]
) -> EvaluationSet:
    """Returns the set with the folds marked that hold people of the training sets.

    Args:
      trained: name of a training set -> names of the people trained on. A set that
        names no people counts as seen where a training set gave it its name, as 'cfp'
        does to 'cfp_fp'. The log warns of every overlap.
    """
    people = {person for names in trained.values() for person in names}
    last = 0 if evaluation_set.folds is None else int(evaluation_set.folds.max())
    if evaluation_set.people is None:
        if any(evaluation_set.name.split("_")[0] == name for name in trained):
            return evaluation_set._replace(seen=frozenset(range(last + 1)))
        return evaluation_set
    overlap = np.array([person in people for person in evaluation_set.people])
    touched = overlap[evaluation_set.pairs].any(axis=1)
    if not touched.any():
        return evaluation_set
    count = len(people.intersection(evaluation_set.people))
    logging.warning(
        "%s: %d names of people are those of training people too",
        evaluation_set.name,
        count,
    )
    folds = evaluation_set.folds
    seen = {0} if folds is None else set(folds[touched].tolist())
    return evaluation_set._replace(seen=frozenset(seen))


class Judged(NamedTuple):
    results: dict[str, float]
    scores: np.ndarray  # cosine of each pair
    same: np.ndarray


def judge(
    evaluation_set: EvaluationSet,
    embed: Callable[..., np.ndarray],
    progress: bool = False,
) -> Judged:
    """Returns the results of one set under its protocol, and the scores behind them.

    Args:
      embed: images, flip=bool, progress=str -> raw embeddings [N, V, D]; an
        `ImageEmbedder` with its state bound.
    """
    name, protocol = evaluation_set.name, evaluation_set.protocol
    genuine = int(np.sum(evaluation_set.same))
    needed = 10 if protocol == "kfold" else 1
    if min(genuine, len(evaluation_set.same) - genuine) < needed:
        raise UserError(
            f"{name}: {genuine} genuine pairs of {len(evaluation_set.same)}; protocol "
            f"{protocol!r} needs at least {needed} of each kind"
        )
    flip = protocol == "insightface"
    raw = embed(evaluation_set.images, flip=flip, progress=name if progress else "")
    faces = raw.astype(np.float64).sum(axis=1)
    first, second = (faces[evaluation_set.pairs[:, side]] for side in (0, 1))
    same = evaluation_set.same
    scores = verification.cosines(first, second)
    seen = name + "_seen" if evaluation_set.seen else name
    if protocol == "paper":
        accuracy, threshold = verification.best_accuracy(scores, same)
        results = {
            f"{seen}/accuracy:paper": accuracy,
            f"{seen}/cosine_threshold:paper": threshold,
        }
        return Judged(results, scores, same)
    if protocol == "kfold":
        folds = verification.stratified_folds(same)
        distances = verification.squared_distances(first, second)
        candidates = np.append(np.unique(distances), 4.1)  # beyond every distance
        measured = verification.fold_accuracy(distances, same, folds, candidates)
        results = _accuracy(seen, ":kfold", measured, np.ones(10, bool), folds)
        return Judged(results, scores, same)

    folds = evaluation_set.folds
    if folds is None:
        folds = verification.contiguous_folds(len(same))
    distances = verification.squared_distances(first, second)
    measured = verification.fold_accuracy(distances, same, folds)
    everything = np.ones(folds.max() + 1, bool)
    results = _accuracy(seen, "", measured, everything, folds)
    results[f"{seen}/xnorm"] = float(np.mean(np.linalg.norm(raw, axis=-1)))
    results[f"{seen}/auc"] = verification.area_under_roc(scores, same)
    results[f"{seen}/eer"] = verification.equal_error_rate(scores, same)
    results |= _rates(seen, scores, same)
    by_fold = verification.fold_tar_at_far(distances, same, folds)
    results[f"{seen}/tar@far=1e-3:insightface"] = float(by_fold.tar.mean())
    results[f"{seen}/tar@far=1e-3_std:insightface"] = float(by_fold.tar.std())
    unseen = ~np.isin(np.arange(len(everything)), list(evaluation_set.seen))
    if evaluation_set.seen and unseen.any():
        held_out = name + "_heldout"
        rows = unseen[folds]
        results |= _accuracy(held_out, "", measured, unseen, folds)
        results |= _rates(held_out, scores[rows], same[rows])
    return Judged(results, scores, same)


def _accuracy(
    name: str, suffix: str, measured: Any, chosen: np.ndarray, folds: np.ndarray
) -> dict[str, float]:
    """Accuracy over the chosen folds, its deviation between them and 95 % interval."""
    accuracies = measured.accuracies[chosen]
    sizes = np.bincount(folds)[chosen]
    low, high = verification.wilson_interval(np.sum(accuracies * sizes), sizes.sum())
    cosine = 1 - float(np.mean(measured.thresholds[chosen])) / 2
    return {
        f"{name}/accuracy{suffix}": float(accuracies.mean()),
        f"{name}/accuracy_std{suffix}": float(accuracies.std()),
        f"{name}/accuracy_low{suffix}": low,
        f"{name}/accuracy_high{suffix}": high,
        f"{name}/cosine_threshold{suffix}": cosine,
    }


def _rates(name: str, scores: np.ndarray, same: np.ndarray) -> dict[str, float]:
    results = {}
    for far in FARS:
        tar, _ = verification.tar_at_far(scores, same, float(far))
        low, high = verification.wilson_interval(tar * same.sum(), int(same.sum()))
        key = f"{name}/tar@far={far}"
        results |= {key: tar, f"{key}_low": low, f"{key}_high": high}
    return results
