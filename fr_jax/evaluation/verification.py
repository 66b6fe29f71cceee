"""An evaluator of verification pairs, which embeds each face once."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.seen import evidence
from fr_jax.metrics import verification
from fr_jax.metrics.verification import FARS

PROTOCOLS = ("insightface", "kfold", "paper")


@dataclasses.dataclass
class Verification:
    """Evaluates a network on genuine and impostor pairs of faces.

    Attributes:
      name: first part of the key of every result.
      images: slices to uint8 RGB [n, H, W, 3].
      pairs: int [P, 2], indices of images.
      same: bool [P], True for genuine pairs.
      folds: int [P], the official fold of each pair, or None.
      protocol: 'insightface' (flip-sum, official folds, squared distances); those of
        Inter-Prototype: 'kfold' (no flip, ten seeded folds stratified by label) and
        'paper' (no flip, the best threshold on the evaluated pairs themselves).
      identities: the name of each image's identity, or None.
      seen: folds with training identities of the network.
      dropped: number of pairs left out since an image is missing, part of the results;
        None if none could be.
      data_sets: names under which the set may be known; default: `name`.
      digests: returns the digests of the images' pixels, uint64 [N], or None.
      unknown: True if `mark_seen` could not tell whether identities were trained on.
      curve: (cosine [P], same [P]) of the last evaluation.

    Without official folds 'insightface' has contiguous ones. If a fold lacks genuine or
    impostor pairs, as in a sorted or short list, all are seeded and stratified instead,
    and their number is in the results; as is that of 'kfold' if it is below ten.

    Raises:
      UserError: for fewer pairs of a kind than the protocol needs.
    """

    name: str
    images: Any
    pairs: np.ndarray
    same: np.ndarray
    folds: np.ndarray | None = None
    protocol: str = "insightface"
    identities: Sequence[str] | None = None
    seen: frozenset[int] = frozenset()
    dropped: int | None = None
    data_sets: tuple[str, ...] = ()
    digests: Callable[[], np.ndarray] | None = None
    unknown: bool = False
    curve: tuple[np.ndarray, np.ndarray] | None = dataclasses.field(
        default=None, init=False, compare=False
    )

    def __post_init__(self):
        genuine = int(np.sum(self.same))
        needed = 1 if self.protocol == "paper" else 2
        if min(genuine, len(self.same) - genuine) < needed:
            raise UserError(
                f"{self.name}: {genuine} genuine pairs of {len(self.same)}; protocol "
                f"{self.protocol!r} needs at least {needed} of each kind"
            )

    @property
    def key(self) -> str:
        """The first part of result keys, with '_seen' if `seen` is not empty."""
        return f"{self.name}_seen" if self.seen else self.name

    @property
    def metric_names(self) -> list[str]:
        if self.protocol == "paper":
            names = [f"{self.key}/{n}:paper" for n in ("accuracy", "cosine_threshold")]
        elif self.protocol == "kfold":
            names = [f"{self.key}/{name}:kfold" for name in _ACCURACY]
        else:
            names = [f"{self.key}/{name}" for name in (*_ACCURACY, *_RATES, *_OTHERS)]
            if self._held_out().any():
                held_out = (*_ACCURACY, *_RATES)
                names += [f"{self.name}_heldout/{name}" for name in held_out]
        return names + list(self._of_the_set())

    def _of_the_set(self) -> dict[str, float]:
        """Returns results that do not depend on the network."""
        results = {}
        if self.dropped is not None:
            results[f"{self.key}/dropped_pairs"] = float(self.dropped)
        if stratified := self._stratified():
            suffix = ":kfold" if self.protocol == "kfold" else ""
            results[f"{self.key}/stratified_folds{suffix}"] = float(stratified)
        return results

    def _stratified(self) -> int:
        """Returns the number of folds if they are not those of the protocol, else 0."""
        if self.protocol == "paper":
            return 0
        count = int(self._fold_numbers().max()) + 1
        if self.protocol == "kfold":
            return count if count != _FOLDS else 0
        return 0 if _complete(self._own_folds(), self.same) else count

    def __call__(self, trained: Trained, *, progress: str = "") -> dict[str, float]:
        """Returns the results of the protocol; UserError for non-finite embeddings."""
        return self._measure(trained, progress) | self._of_the_set()

    def _measure(self, trained: Trained, progress: str) -> dict[str, float]:
        flip = self.protocol == "insightface"
        outputs = trained.embed(self.images, flip=flip, progress=progress)
        views = [outputs[name] for name in ("embedding", "mirrored")[: 1 + flip]]
        faces = np.sum(np.asarray(views, np.float64), axis=0)
        if invalid := int(np.sum(~np.isfinite(faces).all(axis=1))):
            raise UserError(
                f"{self.name}: {invalid:,} of {len(faces):,} embeddings are not "
                "finite: the weights are damaged, or training diverged"
            )
        first, second = (faces[self.pairs[:, side]] for side in (0, 1))
        scores = verification.cosines(first, second)
        self.curve = scores, self.same
        if self.protocol == "paper":
            accuracy, threshold = verification.best_accuracy(scores, self.same)
            return dict(zip(self.metric_names, (accuracy, threshold)))
        distances = verification.squared_distances(first, second)
        if self.protocol == "kfold":
            folds = self._fold_numbers()
            candidates = np.append(np.unique(distances), 4.1)  # above every distance
            measured = verification.fold_accuracy(
                distances, self.same, folds, candidates
            )
            return dict(zip(self.metric_names, _accuracy(measured, folds).values()))
        results = self._insightface(scores, distances)
        norms = [np.linalg.norm(view, axis=-1) for view in views]
        results[f"{self.key}/xnorm"] = float(np.mean(norms))
        return results

    def _insightface(
        self, scores: np.ndarray, distances: np.ndarray
    ) -> dict[str, float]:
        same, folds = self.same, self._fold_numbers()
        measured = verification.fold_accuracy(distances, same, folds)
        by_fold = verification.fold_tar_at_far(distances, same, folds)
        values = _accuracy(measured, folds) | _rates(scores, same)
        values["auc"] = verification.area_under_roc(scores, same)
        values["eer"] = verification.equal_error_rate(scores, same)
        tar = float(by_fold.tar.mean()), float(by_fold.tar.std())
        values |= dict(zip(_FOLD_RATES, tar))
        results = {f"{self.key}/{name}": value for name, value in values.items()}
        held_out = self._held_out()
        if held_out.any():
            rows = held_out[folds]
            values = _accuracy(measured, folds, held_out)
            values |= _rates(scores[rows], same[rows])
            results |= {f"{self.name}_heldout/{n}": x for n, x in values.items()}
        return results

    def _own_folds(self) -> np.ndarray:
        """Returns the official folds, or contiguous ones."""
        if self.folds is not None:
            return self.folds
        return verification.contiguous_folds(len(self.same))

    def _fold_numbers(self) -> np.ndarray:
        """Returns the folds of the protocol."""
        folds = self._own_folds()
        if self.protocol == "paper" or (
            self.protocol == "insightface" and _complete(folds, self.same)
        ):
            return folds
        genuine = int(np.sum(self.same))
        count = min(_FOLDS, genuine, len(self.same) - genuine)
        return verification.stratified_folds(self.same, count)

    def _held_out(self) -> np.ndarray:
        """Returns a mask of the folds that are not in `seen`; all False without any."""
        folds = np.arange(self._fold_numbers().max() + 1)
        return ~np.isin(folds, list(self.seen)) & bool(self.seen)

    def subset(self, count: int) -> "Verification":
        """Returns a fixed subset of `count` pairs, named 'name:count'.

        It has the first genuine and impostor pairs of every fold, in equal numbers. A
        set of at most `count` pairs is returned unchanged.
        """
        if not count or count >= len(self.same):
            return self
        official = self.folds
        if official is not None and not _complete(official, self.same):
            official = None
        folds = np.zeros(len(self.same), int) if official is None else official
        num_groups = 2 * (folds.max() + 1)
        groups = 2 * folds + self.same
        size = count // num_groups
        chosen = [np.flatnonzero(groups == n)[:size] for n in range(num_groups)]
        rows = np.sort(np.concatenate(chosen))
        if size < 1 or len(rows) != size * num_groups:
            raise UserError(
                f"{self.name} has no {count} pairs with equal numbers of both kinds in "
                "every fold; choose a smaller --config.evaluation.subset, or 0 for all"
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
            folds=None if official is None else official[rows],
            identities=self.identities and [self.identities[n] for n in needed],
            digests=None,
        )

    def mark_seen(
        self,
        trained: Mapping[str, Collection[str]],
        digests: np.ndarray | None = None,
    ) -> "Verification":
        """Returns the set, with the folds that have training identities as `seen`.

        See `seen.evidence`, which is logged as a warning.

        Args:
          trained: names of the training identities, by data set.
          digests: of the training images, ascending.
        """
        shown = evidence(
            self.data_sets or (self.name,),
            len(self.images),
            self.identities,
            self.digests,
            trained,
            digests,
        )
        if shown.unknown:
            return dataclasses.replace(self, unknown=True)
        if not shown.seen.any():
            return self
        logging.warning("%s: %s", self.name, shown.reason)
        in_training = np.asarray(np.any(shown.seen[self.pairs], axis=1))
        # Only official folds have identities of their own.
        if self.folds is None or not _complete(self.folds, self.same):
            in_training[:] = in_training.any()
        folds = self._fold_numbers()[in_training]
        return dataclasses.replace(self, seen=frozenset(folds.tolist()))


def _complete(folds: np.ndarray, same: np.ndarray) -> bool:
    """Returns True if every fold has genuine and impostor pairs."""
    counts = [np.bincount(folds[same == kind]) for kind in (True, False)]
    return all(len(n) == folds.max() + 1 and n.all() for n in counts)


_FOLDS = 10
_ACCURACY = (
    *("accuracy", "accuracy_std", "accuracy_low", "accuracy_high"),
    "cosine_threshold",
)
_RATES = tuple(f"tar@far={far}{end}" for far in FARS for end in ("", "_low", "_high"))
_RATES += ("impostor_pairs",)
_FOLD_RATES = ("tar@far=1e-3:insightface", "tar@far=1e-3_std:insightface")
_OTHERS = ("xnorm", "auc", "eer", *_FOLD_RATES)


def _accuracy(
    measured: verification.FoldAccuracy, folds: np.ndarray, chosen: Any = slice(None)
) -> dict[str, float]:
    """Returns accuracy over chosen folds, deviation, 95 % interval and threshold."""
    accuracies = measured.accuracies[chosen]
    sizes = np.bincount(folds)[chosen]
    correct = np.sum(accuracies * sizes)
    interval = verification.wilson_interval(float(correct), int(sizes.sum()))
    cosine = 1 - float(np.mean(measured.thresholds[chosen])) / 2
    values = float(accuracies.mean()), float(accuracies.std()), *interval, cosine
    return dict(zip(_ACCURACY, values))


def _rates(scores: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Returns TARs with 95 % intervals, and the number of impostor pairs."""
    values = []
    for far in FARS:
        tar, _ = verification.tar_at_far(scores, same, float(far))
        interval = verification.wilson_interval(tar * same.sum(), int(same.sum()))
        values += [tar, *interval]
    return dict(zip(_RATES, [*values, float(np.sum(~same))]))
