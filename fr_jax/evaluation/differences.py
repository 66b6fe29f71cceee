"""Paired differences of embedders on one set, as lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from fr_jax.evaluation.verification import Verification
from fr_jax.metrics.intervals import Difference
from fr_jax.report import measures
from fr_jax.report.comparison import Comparison
from fr_jax.report.runs import Run

_SHOWN = ("accuracy", "auc", "eer")  # and TARs
_OTHERS = (
    *("auc", "tar@far=1e-3", "tar@far=1e-4", "rank1", "tpir@fpir=1e-1"),
    *("tpir@fpir=1e-2", "bcubed_f", "bcubed_f:best", "pairwise_f", "pairwise_f:best"),
)


def lines(one: Any, runs: Sequence[Run], compared: Comparison) -> list[str]:
    """Returns the differences of the later runs from the first, or why there are none.

    Args:
      one: the set, an evaluator or what is stored of it.
    """
    texts = []
    for number, run in enumerate(runs[1:], 1):
        pair = f"{one.name}: {run.name} less {runs[0].name}"
        if whole := compared.whole.get(number):
            texts.append(f"{pair}: {_listed(one, whole)} ({compared.resampled})")
        reasons = compared.reasons.get(number, ())
        texts += [f"{pair}: no paired difference, since {why}" for why in reasons]
        if held_out := compared.held_out_differences.get(number):
            shown = _listed(one, held_out)
            texts.append(f"{pair}, held-out folds: {shown} ({compared.resampled})")
    return texts + [f"{one.name}: {remark}" for remark in compared.remarks]


def _listed(one: Any, differences: Mapping[str, Difference]) -> str:
    keys = [key for key in _OTHERS if key in differences]
    if isinstance(one, Verification):
        names = (*_SHOWN, *(f"tar@far={far}" for far in one.fars))
        keys = [key for name in names if (key := one.result_name(name)) in differences]
    return ", ".join(
        f"{measures.title(key)} {measures.number(key, value, sign=True)} "
        f"{measures.interval(key, low, high, sign=True)}"
        for key in keys
        for value, low, high in [differences[key]]
    )
