"""Lines of the printed table for templates, identification and clustering."""

import math
from collections.abc import Mapping

from fr_jax.report.measures import is_few

_TEMPLATES = {f"tar@far={far}": f"TAR@FAR={far}" for far in ("1e-3", "1e-4", "1e-5")}
_SEARCHES = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "tpir@fpir=1e-1": "TPIR@FPIR=1e-1",
    "tpir@fpir=1e-2": "TPIR@FPIR=1e-2",
}
_CLUSTERS = {"bcubed_f": "BCubed F", "pairwise_f": "pairwise F", "nmi": "NMI"}


def of_metric(
    name: str, metric: str, suffix: str, results: Mapping[str, float]
) -> list[str]:
    """Returns the line of a set at the metric that stands for its protocol, or none.

    Args:
      name: first part of result keys.
      metric, suffix: of one of them; the suffix begins with a colon.
    """
    if metric == "templates" and not suffix:
        return [_line(name, "", _TEMPLATES, results)]
    if metric == "mated_searches" and not suffix:
        return [_line(name, "", _SEARCHES, results)]
    if metric == "num_clusters":
        text = _line(name, suffix, _CLUSTERS, results)
        clusters = results[f"{name}/num_clusters{suffix}"]
        identities = results.get(f"{name}/num_identities", math.nan)
        return [f"{text}   {clusters:,.0f} clusters of {identities:,.0f} identities"]
    if metric.endswith(("_low", "_high")):
        return []
    base, at, group = metric.partition("@group=")
    if at and base.startswith("frr@far="):
        far = f"far{base[3:]}{at}{group}"
        labels = {metric: "FRR", far: "FAR"}
        return [_line(f"{name}, {group}", suffix, labels, results, of=name)]
    if metric.startswith("edc@far="):
        labels = {metric: "FRR over 0 to 20 % discarded:"}
        return [_line(name, suffix, labels, results)]
    return []


def _line(
    name: str,
    suffix: str,
    labels: Mapping[str, str],
    results: Mapping[str, float],
    *,
    of: str = "",
) -> str:
    """Returns the results of a set as text.

    Args:
      of: first part of the result keys, if it is not `name`.
    """
    keys = {key: f"{of or name}/{key}{suffix}" for key in labels}
    texts = [
        f"{label}{'*' if is_few(key, results, f'{of or name}/') else ''} "
        f"{100 * results[keys[key]]:6.2f} %"
        for key, label in labels.items()
        if keys[key] in results
    ]
    return f"{name + suffix:<24} {'   '.join(texts)}"
