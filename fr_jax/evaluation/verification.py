"""An evaluator of verification pairs, which embeds each face once."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError
from fr_jax.evaluation import breakdown, protocols
from fr_jax.evaluation.breakdown import Breakdown, Groups
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.protocols import FOLDS, POOLED, PROTOCOLS
from fr_jax.evaluation.seen import of_set
from fr_jax.metrics import verification
from fr_jax.metrics.intervals import PairStatistics
from fr_jax.metrics.verification import FARS


class Measured(NamedTuple):
    """The last evaluation of a set.

    Attributes:
      scores: cosines [P].
      distances: [P] that the protocol compares, or None.
      whole: metrics of all pairs.
      held_out: of the folds without training identities, if some have them.
      breakdown: of all pairs by quality or group, or None.
      norms: mean length of the raw embeddings of each image [N], or None.
    """

    scores: np.ndarray
    distances: np.ndarray | None
    whole: PairStatistics
    held_out: PairStatistics | None
    breakdown: Breakdown | None = None
    norms: np.ndarray | None = None


@dataclasses.dataclass
class Verification:
    """Evaluates a network on genuine and impostor pairs of faces.

    Attributes:
      name: first part of the key of every result.
      images: slices to uint8 RGB [n, H, W, 3].
      pairs: int [P, 2], indices of images.
      same: bool [P], True for genuine pairs.
      folds: int [P], the official fold of each pair, or None.
      protocol: 'insightface' (flip-sum, official folds, squared distances);
        'curricularface', whose accuracy is the same; 'magface' (no flip, embeddings
        less the mean of the other folds, angles); those of Inter-Prototype: 'kfold' (no
        flip, ten seeded folds stratified by label) and 'paper' (no flip, the best
        threshold on the evaluated pairs themselves).
      identities: the name of each image's identity, or None.
      seen: folds with training identities of the network.
      dropped: number of pairs left out since an image is missing, part of the results;
        None if none could be.
      data_sets: names under which the set may be known; default: `name`.
      digests: returns the digests of the images' pixels, uint64 [N], or None.
      unknown: True if `mark_seen` could not tell whether identities were trained on.
      fars: FARs of the TAR over all pairs, as in the keys of results.
      source: where the set comes from, JSON values by name, for reports.
      quality: of each image, float [N], higher is better, for error versus discard;
        'norm': the length of its embedding; or None.
      groups: of the images, for errors within each group; or None.
      evidence: of `seen`, as a phrase.
      measured: scores and metrics of the last evaluation.

    Without official folds there are contiguous ones. If a fold lacks genuine or
    impostor pairs, as in a sorted or short list, all are seeded and stratified instead,
    and their number is in the results; as is that of 'kfold' if it is below ten.
    Metrics that the pairs do not allow are left out; `notes` says why.

    Raises:
      UserError: for no pairs, and arrays that do not fit each other.
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
    fars: tuple[str, ...] = FARS
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quality: np.ndarray | str | None = None
    groups: Groups | None = None
    evidence: str = ""
    measured: Measured | None = dataclasses.field(
        default=None, init=False, compare=False
    )

    def __post_init__(self):
        lengths = {
            "labels": len(self.same),
            "folds": len(self.same if self.folds is None else self.folds),
        }
        for what, length in lengths.items():
            if length != len(self.pairs) or not length:
                raise UserError(
                    f"{self.name}: {length} {what}, {len(self.pairs)} pairs"
                )
        low, high = np.min(self.pairs), np.max(self.pairs)
        if low < 0 or high >= len(self.images):
            raise UserError(
                f"{self.name}: pairs of images {low} to {high}; there are "
                f"{len(self.images)} images"
            )
        if self.identities is not None and len(self.identities) != len(self.images):
            raise UserError(
                f"{self.name}: {len(self.identities)} identities of "
                f"{len(self.images)} images"
            )

    @property
    def key(self) -> str:
        """The first part of result keys, with '_seen' if `seen` is not empty."""
        return f"{self.name}_seen" if self.seen else self.name

    @property
    def summary(self) -> str:
        """What the set has, as a phrase."""
        named = "unnamed"
        if self.identities is not None:
            named = f"{len(set(self.identities)):,}"
        return (
            f"{len(self.same):,} pairs of {len(self.images):,} images, {named} "
            "identities"
        )

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(cosine [P], same [P]) of the last evaluation."""
        if self.measured is None:
            return None
        return self.measured.scores, self.same

    @property
    def metric_names(self) -> list[str]:
        reasons = protocols.undefined(self.protocol, self._metrics(), self.same)
        names = [name for name in self._metrics() if name not in reasons]
        keys = [f"{self.key}/{self.result_name(name)}" for name in names]
        if self._held_out().any():
            held_out = (*names, "impostor_pairs")
            keys += [f"{self.name}_heldout/{self.result_name(n)}" for n in held_out]
        names = ["xnorm", *self._breakdown_names()]
        keys += [f"{self.key}/{self.result_name(name)}" for name in names]
        return [*keys, *self._of_the_set()]

    def _breakdown_names(self) -> list[str]:
        groups = self.groups.names if self.groups else ()
        return breakdown.metric_names(
            self.breakdown_far, self.quality is not None, groups
        )

    @property
    def breakdown_far(self) -> str:
        """The FAR at whose threshold errors are broken down: the lowest of `fars`."""
        return min(self.fars, key=float)

    def result_name(self, name: str, end: str = "") -> str:
        """Returns the second part of a result key.

        Args:
          end: '_low' or '_high' for the bounds of a metric.
        """
        metric, colon, variant = name.partition(":")
        if not colon and self.protocol != "insightface" and "_pairs" not in name:
            colon, variant = ":", self.protocol
        return f"{metric}{end}{colon}{variant}"

    @property
    def notes(self) -> dict[str, str]:
        """The reason why a metric is undefined, by its key."""
        reasons = protocols.undefined(self.protocol, self._metrics(), self.same)
        if self.measured and self.measured.breakdown:
            reasons |= self.measured.breakdown.notes
        return {f"{self.key}/{self.result_name(n)}": why for n, why in reasons.items()}

    def _metrics(self) -> tuple[str, ...]:
        """Returns the names of all metrics of pairs, defined or not."""
        tars = tuple(f"tar@far={far}" for far in self.fars)
        return (*PROTOCOLS[self.protocol].names, *tars, *POOLED)

    def _of_the_set(self) -> dict[str, float]:
        """Returns results that do not depend on the network."""
        results = {f"{self.key}/impostor_pairs": float(np.sum(~self.same))}
        if self.dropped is not None:
            results[f"{self.key}/dropped_pairs"] = float(self.dropped)
        if stratified := self.stratified_folds():
            name = self.result_name("stratified_folds")
            results[f"{self.key}/{name}"] = float(stratified)
        if self.groups:
            of_pairs = self.groups.codes[self.pairs]
            names = self.groups.names
            for name, x in breakdown.pairs_of_groups(
                self.same, of_pairs, names
            ).items():
                results[f"{self.key}/{name}"] = float(x)
        return results

    def stratified_folds(self) -> int:
        """Returns the number of folds if they are not those of the protocol, else 0."""
        folds = self.protocol_folds()
        if folds is None:
            return 0
        count = int(folds.max()) + 1
        if self.protocol == "kfold":
            return count if count != FOLDS else 0
        return 0 if protocols.complete(self._own_folds(), self.same) else count

    def __call__(self, trained: Trained, *, progress: str = "") -> dict[str, float]:
        """Returns the results of the protocol; UserError for non-finite embeddings."""
        flip = PROTOCOLS[self.protocol].flip
        outputs = trained.embed(self.images, flip=flip, progress=progress)
        # A file of embeddings has sums, and nothing 'mirrored'.
        views = [outputs[n] for n in ("embedding", "mirrored") if n in outputs]
        faces = np.sum(np.asarray(views, np.float64), axis=0)
        if invalid := int(np.sum(~np.isfinite(faces).all(axis=1))):
            raise UserError(
                f"{self.name}: {invalid:,} of {len(faces):,} embeddings are not "
                "finite: the weights are damaged, or training diverged"
            )
        first, second = (faces[self.pairs[:, side]] for side in (0, 1))
        folds, held_out = self.protocol_folds(), self._held_out()
        scores, options = protocols.statistics(
            self.protocol, first, second, self.same, folds, self.fars
        )
        whole, rest = PairStatistics(scores, self.same, **options), None
        results = self._keyed(self.key, whole())
        if held_out.any():
            rest = PairStatistics(scores, self.same, reported=held_out, **options)
            impostors = np.sum(~self.same & held_out[self._fold_numbers()])
            values = rest() | {"impostor_pairs": float(impostors)}
            results |= self._keyed(f"{self.name}_heldout", values)
        norms, by_image = None, self._breakdown(faces, scores)
        if by_image:
            results |= self._keyed(self.key, by_image())
        if len(views) == 1 + flip:
            norms = np.mean([np.linalg.norm(view, axis=-1) for view in views], axis=0)
            results |= self._keyed(self.key, {"xnorm": float(np.mean(norms))})
        distances = options.get("distances")
        self.measured = Measured(scores, distances, whole, rest, by_image, norms)
        return results | self._of_the_set()

    def _breakdown(self, faces: np.ndarray, scores: np.ndarray) -> Breakdown | None:
        """Returns errors by quality and group, None if the set has neither."""
        if self.quality is None and self.groups is None:
            return None
        values = self.quality
        if isinstance(values, str):
            values = np.linalg.norm(faces, axis=-1)
        return Breakdown(
            scores,
            self.same,
            self.breakdown_far,
            None if values is None else values[self.pairs],
            self.groups.codes[self.pairs] if self.groups else None,
            self.groups.names if self.groups else (),
        )

    def _keyed(self, key: str, values: Mapping[str, float]) -> dict[str, float]:
        return {f"{key}/{self.result_name(name)}": x for name, x in values.items()}

    def _own_folds(self) -> np.ndarray:
        """Returns the official folds, or contiguous ones."""
        if self.folds is not None:
            return self.folds
        return verification.contiguous_folds(len(self.same))

    def _fold_numbers(self) -> np.ndarray:
        """Returns the folds of the protocol."""
        return protocols.folds(self.protocol, self._own_folds(), self.same)

    def protocol_folds(self) -> np.ndarray | None:
        """Returns the folds of the protocol; None without, or for lack of pairs."""
        lacking = protocols.undefined(self.protocol, ("accuracy",), self.same)
        has_folds = bool(PROTOCOLS[self.protocol].folds)
        return self._fold_numbers() if has_folds and not lacking else None

    def _held_out(self) -> np.ndarray:
        """Returns a mask of the folds that are not in `seen`; all False without any."""
        folds = self.protocol_folds()
        if folds is None or not self.seen or self.protocol == "kfold":
            return np.zeros(0, bool)  # identities are in several folds of 'kfold'
        return ~np.isin(np.arange(folds.max() + 1), list(self.seen))

    def subset(self, count: int) -> "Verification":
        """Returns a fixed subset of `count` pairs, named 'name:count'.

        It has the first genuine and impostor pairs of every fold, in equal numbers. A
        set of at most `count` pairs is returned unchanged.
        """
        if not count or count >= len(self.same):
            return self
        official = self.folds
        if official is not None and not protocols.complete(official, self.same):
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
            quality=(
                self.quality[needed]
                if isinstance(self.quality, np.ndarray)
                else self.quality
            ),
            groups=self.groups
            and self.groups._replace(codes=self.groups.codes[needed]),
            digests=None,
        )

    def mark_seen(
        self,
        trained: Mapping[str, Collection[str]],
        digests: np.ndarray | None = None,
    ) -> "Verification":
        """Returns the set, with the folds that have training identities as `seen`.

        See `seen.of_set`.

        Args:
          trained: names of the training identities, by data set.
          digests: of the training images, ascending.
        """
        count = len(self.images)
        shown = of_set(self, count, self.identities, trained, digests)
        if shown.unknown:
            return dataclasses.replace(self, unknown=True)
        if not shown.seen.any():
            return self
        in_training = np.asarray(np.any(shown.seen[self.pairs], axis=1))
        # Only official folds have identities of their own.
        if self.folds is None or not protocols.complete(self.folds, self.same):
            in_training[:] = in_training.any()
        folds = self._fold_numbers()[in_training]
        chosen = {"seen": frozenset(folds.tolist()), "evidence": shown.reason}
        return dataclasses.replace(self, **chosen)
