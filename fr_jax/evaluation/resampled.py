"""Bootstrap bounds of results, for evaluators that resample identities."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np

from fr_jax.metrics import Undefined, intervals
from fr_jax.metrics.image_statistics import Statistic
from fr_jax.progress import progress_bar
from fr_jax.report.measures import with_end


def bounds(
    key: str,
    statistics: Callable[[np.ndarray | None], Mapping[str, float]],
    weights: Iterator[np.ndarray],
    resamples: int,
    identities: int,
    *,
    ends: Callable[[str, str], str] = lambda name, end: f"{name}{end}",
    names: Collection[str] | None = None,
    progress: str = "",
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns 95 % percentile bounds by result key, and notes on undefined resamples.

    Args:
      key: first part of result keys.
      weights: `resamples` of them, of that many identities.
      ends: (name of a metric, '_low' or '_high') -> second part of the key.
      names: of the metrics that have bounds; default: all.
    """
    chosen = [n for n in statistics(None) if names is None or n in names]
    if not resamples or not chosen:
        return {}, {}
    keys = {
        name: (f"{key}/{ends(name, '_low')}", f"{key}/{ends(name, '_high')}")
        for name in chosen
    }
    values = {
        f"{key}/resamples": float(resamples),
        f"{key}/resampled_identities": float(identities),
    }
    found, notes = percentiles(statistics, weights, resamples, keys, progress=progress)
    return values | found, notes


def of_statistics(
    statistics: Mapping[str, Statistic],
    labels: np.ndarray,
    resamples: int,
    *,
    progress: str = "",
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns 95 % percentile bounds of statistics by result key, and notes.

    Args:
      labels: of the images whose identities are resampled, int [N].
      resamples: 0: no bounds.
    """
    if not resamples:
        return {}, {}

    def measure(draws: np.ndarray | None) -> dict[str, float]:
        values = {}
        for key, statistic in statistics.items():
            with contextlib.suppress(Undefined):
                values[key] = statistic(draws)
        return values

    keys = {key: (with_end(key, "_low"), with_end(key, "_high")) for key in statistics}
    draws = intervals.identity_draws(labels, resamples)
    return percentiles(measure, draws, resamples, keys, progress=progress)


def percentiles(
    statistics: Callable[[np.ndarray | None], Mapping[str, float]],
    weights: Iterator[np.ndarray],
    resamples: int,
    keys: Mapping[str, tuple[str, str]],
    *,
    progress: str = "",
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns 95 % percentile bounds by result key, and notes on undefined resamples.

    Args:
      weights: `resamples` of them.
      keys: of both bounds, by the name of a metric.
    """
    options = {"total": resamples, "disable": not progress, "leave": False}
    drawn = progress_bar(weights, progress, unit=" resamples", **options)
    values, notes = {}, {}
    for name, samples in intervals.samples(statistics, drawn, list(keys)).items():
        both, (low, high) = intervals.percentile(samples), keys[name]
        if missing := int(np.sum(np.isnan(samples))):
            notes[low] = f"undefined in {missing:,} of {resamples:,} resamples"
        if missing < resamples:
            values |= {low: both.low, high: both.high}
    return values, notes
