"""A verification set after its evaluation, as reports and comparisons need it."""

import hashlib
from typing import Any

import numpy as np

from fr_jax.evaluation import breakdown, protocols, uncertainty
from fr_jax.evaluation.embeddings import Rows
from fr_jax.evaluation.hardest import hardest
from fr_jax.evaluation.stored import set_digest
from fr_jax.evaluation.verification import Verification
from fr_jax.metrics import intervals
from fr_jax.report.runs import (
    IMAGE_DIGESTS,
    NAMES,
    PIXELS,
    Curve,
    EvaluatedSet,
    Scores,
)


def evaluated(
    one: Verification, *, images: bool, resamples: int | None = None
) -> EvaluatedSet:
    """Returns scores, protocol and evidence of a set after its evaluation.

    Args:
      images: add thumbnails of the hardest pairs.
      resamples: of its intervals; default: see `intervals.number_of_resamples`.

    Raises:
      ValueError: before an evaluation.
    """
    if one.measured is None:
        raise ValueError(f"{one.name} was not evaluated yet")
    measured, unit = one.measured, uncertainty.resampling(one)
    if resamples is None:
        resamples = intervals.number_of_resamples(len(one.same))
    shown = None
    if images:
        shown = hardest(one.images, one.pairs, measured.scores, one.same)
    scores = Scores(
        measured.scores,
        one.same,
        one.protocol_folds(),
        one.pairs,
        unit.codes,  # None too where identities contradict labels
        measured.distances,
        shown,
    )
    resampled = {"resampled": unit.unit, "resampled_units": unit.units}
    resampled |= {"resamples": resamples, "interval": "95 %, percentile"}
    if unit.reason:
        resampled["why_pairs"] = unit.reason
    held_out = measured.held_out is not None
    return EvaluatedSet(
        one.name,
        set_digest(_image_digests(one), one.pairs, one.same, one.folds),
        protocol_switches(one) | resampled,
        scores,
        _curves(one),
        seen=one.evidence if one.seen else "",
        seen_folds=tuple(sorted(one.seen)) if held_out else (),
        unknown=one.unknown,
    )


def protocol_switches(one: Verification) -> dict[str, Any]:
    """Returns every choice of an evaluation, JSON values by name."""
    chosen = protocols.switches(one.protocol, one.fars)
    folds = one.protocol_folds()
    if folds is not None:
        if one.protocol != "kfold":
            chosen["folds"] = "contiguous" if one.folds is None else "of the set"
            if one.stratified_folds():
                chosen["folds"] = protocols.PROTOCOLS["kfold"].folds
        chosen["num_folds"] = int(folds.max()) + 1
    counts = {
        "genuine_pairs": int(np.sum(one.same)),
        "impostor_pairs": int(np.sum(~one.same)),
        "images": len(one.images),
        "dropped_pairs": one.dropped or 0,
    }
    if one.quality is not None or one.groups is not None:
        threshold = f"of FAR {one.breakdown_far} on all pairs"
        chosen["threshold_of_errors"] = threshold
    if one.quality is not None:
        chosen["edc"] = (
            "FRR, the pairs with the lower quality of two images discarded first; mean "
            f"over discarded shares 0 to {breakdown.LIMIT:g}"
        )
    stored = isinstance(one.images, Rows)
    known_by = {IMAGE_DIGESTS: NAMES if stored else PIXELS}
    return {**chosen, **known_by, **counts, **one.source}


def _curves(one: Verification) -> dict[str, Curve]:
    """Returns error versus discard at 201 shares of 0 to 0.5, if it was measured."""
    measured = one.measured
    if measured is None or not measured.breakdown or not measured.breakdown.discard:
        return {}
    shares = np.linspace(0, 0.5, 201)
    rates = np.array([measured.breakdown.discard.rate_at(x) for x in shares])
    labels = "share of genuine pairs discarded", f"FRR at FAR {one.breakdown_far}"
    return {"Error versus discard": Curve(shares, rates, *labels)}


def _image_digests(one: Verification) -> Any:
    """Returns a digest of the pixels of each image, uint64 [N]."""
    if one.digests is not None:
        return one.digests()
    digests = (
        hashlib.blake2b(np.ascontiguousarray(one.images[n]).tobytes(), digest_size=8)
        for n in range(len(one.images))
    )
    return np.frombuffer(b"".join(d.digest() for d in digests), np.uint64)
