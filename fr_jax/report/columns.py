"""Metrics of stored searches and clusters, under resampled identities."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fr_jax.metrics.cluster_statistics import METRICS, ClusterStatistics
from fr_jax.metrics.search_statistics import Searches, SearchStatistics
from fr_jax.report.runs import Array, EvaluatedSet


class OfColumns(NamedTuple):
    """Statistics of draws of identities, and the identity of each row, int [N]."""

    statistics: Callable[[Array | None], Mapping[str, float]]
    identity: Array


def statistics(entry: EvaluatedSet) -> OfColumns:
    """Returns the metrics of the searches or clusters of a set, by result key."""
    columns = entry.columns
    if "cluster" in columns:
        clusters = ClusterStatistics(columns["identity"], columns["cluster"])
        # Results at a threshold that is chosen on the faces have an end of their own.
        chosen = entry.protocol.get("threshold")
        end = ":best" if isinstance(chosen, str) else ""

        def of_clusters(draws: Array | None) -> dict[str, float]:
            values = clusters(draws)
            return {f"{n}{end}": values[n] for n in METRICS if n in values}

        return OfColumns(of_clusters, columns["identity"])
    names = list(entry.protocol.get("galleries", ()))
    galleries = {}
    for number in range(int(columns["gallery"].max()) + 1):
        rows = columns["gallery"] == number
        fields = {n: columns[n][rows] for n in Searches._fields if n in columns}
        name = names[number] if number < len(names) else str(number)
        galleries[name] = Searches(**fields)
    searches = SearchStatistics(galleries)
    return OfColumns(searches, searches.identity)
