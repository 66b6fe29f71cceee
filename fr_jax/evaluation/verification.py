"""Verification pairs as an evaluator: embed every face once, then measure."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics import verification

PROTOCOLS = ("insightface", "kfold", "paper")
FARS = ("1e-2", "1e-3")


@dataclasses.dataclass
class Verification:
    """Evaluates a network on genuine and impostor pairs of faces.

    Attributes:
      name: first part of the key of every result.
      images: slices to uint8 RGB [n, H, W, 3].
      pairs: int [P, 2], numbers of images.
      same: bool [P], True for genuine pairs.
      folds: int [P], the fold of each pair, or None where there are no official ones.
      protocol: 'insightface' (flip-sum, the folds, squared distances), 'kfold' (no
        flip, ten seeded folds stratified by label) or 'paper' (no flip, the best
        threshold of the evaluated pairs themselves); the last two: Inter-Prototype's.
      identities: the name of each image's identity, or None.
      seen: folds with identities that the network was trained on.
      curve: (cosine [P], same [P]) of the last evaluation.

    Raises:
      UserError: for a protocol's minimum of pairs of each kind that is not met.
    """

    name: str
    images: Any
    pairs: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None
    protocol: str = "insightface"
    identities: Sequence[str] | None = None
    seen: frozenset[int] = frozenset()
    curve: tuple[np.ndarray, np.ndarray] | None = dataclasses.field(
        default=None, init=False, compare=False
    )

    def __post_init__(self):
        genuine = int(np.sum(self.same))
        needed = 10 if self.protocol == "kfold" else 1
        if min(genuine, len(self.same) - genuine) < needed:
            raise UserError(
                f"{self.name}: {genuine} genuine pairs of {len(self.same)}; protocol "
                f"{self.protocol!r} needs at least {needed} of each kind"
            )

    @property
    def key(self) -> str:
        """The first part of result keys: with '_seen' where identities were seen."""
        return f"{self.name}_seen" if self.seen else self.name

    @property
    def metric_names(self) -> list[str]:
        if self.protocol == "paper":
            return [f"{self.key}/{n}:paper" for n in ("accuracy", "cosine_threshold")]
        if self.protocol == "kfold":
            return _accuracy_names(self.key, ":kfold")
        names = _accuracy_names(self.key) + _rate_names(self.key)
        names += [f"{self.key}/{name}" for name in ("xnorm", "auc", "eer")]
        names += [f"{self.key}/tar@far=1e-3{s}:insightface" for s in ("", "_std")]
        if self.seen and self._unseen_folds().any():
            held_out = f"{self.name}_heldout"
            names += _accuracy_names(held_out) + _rate_names(held_out)
        return names

    def __call__(self, trained: Trained, *, progress: str = "") -> dict[str, float]:
        """Returns the results of the protocol."""
        flip = self.protocol == "insightface"
        found = trained.embed(self.images, flip=flip, progress=progress)
        views = [found[name] for name in ("embedding", "mirrored")[: 1 + flip]]
        faces = np.sum(np.asarray(views, np.float64), axis=0)
        first, second = (faces[self.pairs[:, side]] for side in (0, 1))
        scores = verification.cosines(first, second)
        self.curve = scores, self.same
        if self.protocol == "paper":
            accuracy, threshold = verification.best_accuracy(scores, self.same)
            return {
                f"{self.key}/accuracy:paper": accuracy,
                f"{self.key}/cosine_threshold:paper": threshold,
            }
        distances = verification.squared_distances(first, second)
        if self.protocol == "kfold":
            folds = verification.stratified_folds(self.same)
            candidates = np.append(np.unique(distances), 4.1)  # beyond every distance
            measured = verification.fold_accuracy(
                distances, self.same, folds, candidates
            )
            return _accuracy(self.key, measured, np.ones(10, bool), folds, ":kfold")
        results = self._insightface(scores, distances)
        norms = [np.linalg.norm(view, axis=-1) for view in views]
        results[f"{self.key}/xnorm"] = float(np.mean(norms))
        return results

    def _insightface(
        self, scores: np.ndarray, distances: np.ndarray
    ) -> dict[str, float]:
        key, same, folds = self.key, self.same, self._fold_numbers()
        measured = verification.fold_accuracy(distances, same, folds)
        everything = np.ones(folds.max() + 1, bool)
        results = _accuracy(key, measured, everything, folds)
        results[f"{key}/auc"] = verification.area_under_roc(scores, same)
        results[f"{key}/eer"] = verification.equal_error_rate(scores, same)
        results |= _rates(key, scores, same)
        by_fold = verification.fold_tar_at_far(distances, same, folds)
        results[f"{key}/tar@far=1e-3:insightface"] = float(by_fold.tar.mean())
        results[f"{key}/tar@far=1e-3_std:insightface"] = float(by_fold.tar.std())
        unseen = self._unseen_folds()
        if self.seen and unseen.any():
            held_out, rows = f"{self.name}_heldout", unseen[folds]
            results |= _accuracy(held_out, measured, unseen, folds)
            results |= _rates(held_out, scores[rows], same[rows])
        return results

    def _fold_numbers(self) -> np.ndarray:
        if self.folds is not None:
            return self.folds
        return verification.contiguous_folds(len(self.same))

    def _unseen_folds(self) -> np.ndarray:
        return ~np.isin(np.arange(self._fold_numbers().max() + 1), list(self.seen))

    def subset(self, count: int) -> "Verification":
        """Returns a fixed subset of `count` pairs, named 'name:count'.

        The first genuine and impostor pairs of every fold, half and half. A set that
        has no more than that is returned whole.
        """
        if not count or count >= len(self.same):
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
        images = [self.images[number] for number in needed]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise UserError(
                f"{self.name}: images of {len(sizes)} sizes; align the faces first"
            )
        return dataclasses.replace(
            self,
            name=f"{self.name}:{count}",
            images=np.stack(images),
            pairs=pairs.reshape(-1, 2),
            same=self.same[rows],
            folds=None if self.folds is None else self.folds[rows],
            identities=self.identities and [self.identities[n] for n in needed],
        )

    def mark_seen(self, trained: Mapping[str, Collection[str]]) -> "Verification":
        """Returns the set with the folds marked that hold training identities.

        Args:
          trained: names of the identities trained on, by data set. A set that names no
            identities counts as seen where a training set gave it its name, as 'cfp'
            does to 'cfp_fp'. The log warns of every overlap.
        """
        names = {name for names in trained.values() for name in names}
        everything = frozenset(self._fold_numbers().tolist())
        if self.identities is None:
            if any(self.name.split("_")[0] == name for name in trained):
                return dataclasses.replace(self, seen=everything)
            return self
        overlap = np.array([identity in names for identity in self.identities])
        touched = overlap[self.pairs].any(axis=1)
        if not touched.any():
            return self
        logging.warning(
            "%s: %d names of identities are those of training identities too",
            self.name,
            len(names.intersection(self.identities)),
        )
        if self.folds is None:  # whatever folds are made, they share identities
            return dataclasses.replace(self, seen=everything)
        return dataclasses.replace(self, seen=frozenset(self.folds[touched].tolist()))


_ACCURACY = ("accuracy", "accuracy_std", "accuracy_low", "accuracy_high")


def _accuracy_names(key: str, suffix: str = "") -> list[str]:
    return [f"{key}/{name}{suffix}" for name in (*_ACCURACY, "cosine_threshold")]


def _accuracy(
    key: str, measured: Any, chosen: np.ndarray, folds: np.ndarray, suffix: str = ""
) -> dict[str, float]:
    """Accuracy over the chosen folds, its deviation between them and 95 % interval."""
    accuracies = measured.accuracies[chosen]
    sizes = np.bincount(folds)[chosen]
    interval = verification.wilson_interval(np.sum(accuracies * sizes), sizes.sum())
    cosine = 1 - float(np.mean(measured.thresholds[chosen])) / 2
    values = float(accuracies.mean()), float(accuracies.std()), *interval, cosine
    return dict(zip(_accuracy_names(key, suffix), values))


def _rate_names(key: str) -> list[str]:
    return [
        f"{key}/tar@far={far}{end}" for far in FARS for end in ("", "_low", "_high")
    ]


def _rates(key: str, scores: np.ndarray, same: np.ndarray) -> dict[str, float]:
    values = []
    for far in FARS:
        tar, _ = verification.tar_at_far(scores, same, float(far))
        interval = verification.wilson_interval(tar * same.sum(), int(same.sum()))
        values += [tar, *interval]
    return dict(zip(_rate_names(key), values))
