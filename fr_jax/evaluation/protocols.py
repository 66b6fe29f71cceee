"""Protocols of verification pairs: embeddings, folds and thresholds of each."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fr_jax.metrics import folds as fold_metrics
from fr_jax.metrics import verification
from fr_jax.metrics.intervals import FOLD_RATES

FOLDS = 10
POOLED = ("auc", "eer", "min_dcf")  # and TARs
_OFFICIAL, _STRATIFIED = "of the set, else contiguous", "stratified by label, seed 0"


class Protocol(NamedTuple):
    """How pairs are scored and accuracy is measured.

    Attributes:
      flip: whether faces are embedded as the sum of image and mirror image.
      folds: which folds accuracy has, or ''.
      threshold: how the threshold of the accuracy is chosen.
      names: metrics besides pooled ones.
    """

    flip: bool
    folds: str
    threshold: str
    names: tuple[str, ...]

    @property
    def needed(self) -> int:
        """Pairs of each kind that accuracy needs."""
        return 2 if self.folds else 1


_OVER_FOLDS = ("accuracy", "accuracy_std", "cosine_threshold")
_GRID = "of 400 squared distances 0, 0.01, ... the best one of the other folds"
PROTOCOLS = {
    "insightface": Protocol(True, _OFFICIAL, _GRID, (*_OVER_FOLDS, *FOLD_RATES)),
    "curricularface": Protocol(True, _OFFICIAL, _GRID, _OVER_FOLDS),
    "magface": Protocol(
        False,
        _OFFICIAL,
        "of 400 angles / pi 0, 0.01, ... the best one of the other folds; embeddings "
        "less the mean of the other folds",
        ("accuracy", "accuracy_std", "angle_threshold"),
    ),
    "kfold": Protocol(
        False,
        _STRATIFIED,
        "of all distances, the best one of the other folds",
        _OVER_FOLDS,
    ),
    "paper": Protocol(
        False,
        "",
        "the best one of the evaluated pairs",
        ("accuracy", "cosine_threshold"),
    ),
}


def switches(name: str, fars: tuple[str, ...]) -> dict[str, Any]:
    """Returns every choice of a protocol, JSON values by name."""
    protocol = PROTOCOLS[name]
    return {
        "protocol": name,
        "embedding": "image + mirror image" if protocol.flip else "image",
        "scores": "cosine",
        "folds": protocol.folds or "none",
        "threshold": protocol.threshold,
        "fars": list(fars),
        "tar": "lowest threshold with at most FAR * impostors accepted, ties together",
        "eer": "where the convex hull of the ROC meets FAR = FRR",
        "min_dcf": f"P_target {verification.P_TARGET}, unit costs, not normalised",
    }


def statistics(
    name: str,
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray | None,
    fars: tuple[str, ...],
) -> tuple[Any, dict[str, Any]]:
    """Returns (cosines [P], arguments of `intervals.PairStatistics`).

    Args:
      first, second: embeddings [P, D], of image or of image + mirror image.
      folds: int [P]; None: no accuracy over folds, for lack of pairs.
    """
    scores = verification.cosines(first, second)
    options: dict[str, Any] = {"fars": fars}
    if folds is None:
        defined = name == "paper" and 0 < np.sum(same) < len(same)
        return scores, options | {"protocol": "paper" if defined else "pooled"}
    if name == "magface":
        distances = fold_metrics.centred_angles(first, second, folds)
    else:
        distances = verification.squared_distances(first, second)
    return scores, options | {"protocol": name, "folds": folds, "distances": distances}


def folds(name: str, own: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Returns the folds of a protocol, int [P].

    Args:
      own: folds of the set, official or contiguous, which are replaced by stratified
        ones if one of them lacks genuine or impostor pairs.
    """
    count = min(FOLDS, int(np.sum(same)), int(np.sum(~same)))
    if not PROTOCOLS[name].folds or count < PROTOCOLS[name].needed:
        return own
    if name != "kfold" and complete(own, same):
        return own
    return verification.stratified_folds(same, count)


def undefined(name: str, metrics: Iterable[str], same: np.ndarray) -> dict[str, str]:
    """Returns the metrics that these pairs do not allow, with the reason."""
    protocol = PROTOCOLS[name]
    counts = {"genuine": int(np.sum(same)), "impostor": int(np.sum(~same))}
    kind = min(counts, key=lambda one: counts[one])
    if not counts[kind]:
        return dict.fromkeys(metrics, f"no {kind} pairs")
    if counts[kind] >= protocol.needed:
        return {}
    reason = f"{counts[kind]} {kind} pair; folds need {protocol.needed} of each kind"
    return {metric: reason for metric in metrics if metric in protocol.names}


def complete(folds: np.ndarray, same: np.ndarray) -> bool:
    """Returns True if every fold has genuine and impostor pairs."""
    counts = [np.bincount(folds[same == kind]) for kind in (True, False)]
    return all(len(n) == folds.max() + 1 and n.all() for n in counts)
