"""Metrics of results.json as titles and texts of a report."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fr_jax.metrics.verification import few_impostors
from fr_jax.report.runs import Run

SEEN, HELD_OUT = "_seen", "_heldout"
GROUP = "@group="  # before the name of a group
IMPOSTORS, NONMATED = "impostor_pairs", "nonmated_searches"
# Of a FAR or FPIR in the keys of results: no signs, blanks or fractions.
RATE = r"(?:\d+(?:\.\d+)?|\.\d+)(?:e-?\d{1,2})?"
_ENDS = ("_std", "_low", "_high")
_TITLES = {
    "accuracy": "Accuracy",
    "auc": "AUC",
    "eer": "EER",
    "min_dcf": "minDCF",
    "cosine_threshold": "Threshold, as a cosine",
    "xnorm": "Mean length of embeddings",
    "impostor_pairs": "Impostor pairs",
    "genuine_pairs": "Genuine pairs",
    "dropped_pairs": "Pairs left out",
    "stratified_folds": "Stratified folds",
    "angle_threshold": "Threshold, as an angle / \N{GREEK SMALL LETTER PI}",
    "resamples": "Resamples",
    "resampled_identities": "Resampled identities",
    "resampled_pairs": "Resampled pairs",
    "nme": "NME",
    "nmi": "NMI",
    "ami": "AMI",
    "ari": "ARI",
    "wcp": "WCP",
    "tar": "TAR",
    "far": "FAR",
    "frr": "FRR",
    "tpir": "TPIR",
    "fnir": "FNIR",
    "edc": "Error versus discard, partial area",
    "fdr": "Fairness discrepancy rate",
    "garbe": "GARBE",
}
# Names that begin so are shares, shown in per cent.
_SHARES = re.compile(
    r"accuracy|tar@|eer|rank[-_]?\d|cmc|tpir|fnir|fnmr|fmr|nme|failure_rate|missed"
    r"|hungarian|recall@|edc@|(far|frr)(@|$|_difference|_deviation)"
)


class Value(NamedTuple):
    """A metric of a run.

    Attributes:
      low, high: the interval, or None.
      std: the deviation over folds, or None.
      seen: whether the set has training identities.
      few: whether a TAR has fewer than 10 / FAR impostor pairs, or a TPIR fewer than
        10 / FPIR non-mated searches.
    """

    value: float
    low: float | None
    high: float | None
    std: float | None
    seen: bool
    few: bool


def set_names(runs: Sequence[Run]) -> list[str]:
    """Returns the names of all sets: evaluated ones, then others in the results."""
    names = {one.name: None for run in runs for one in run.sets}
    for run in runs:
        for key in run.results:
            if not any(prefix_of(key, name) is not None for name in names):
                first = key.rpartition("/")[0] or key
                for end in (SEEN, HELD_OUT):
                    first = first.removesuffix(end)
                names[first] = None
    return list(names)


def prefix_of(key: str, name: str) -> str | None:
    """Returns '', '_seen' or '_heldout' if a key is of the set; else None."""
    for end in ("", SEEN, HELD_OUT):
        if key.startswith(f"{name}{end}/"):
            return end
    return None


def metrics(runs: Iterable[Run], name: str, *, held_out: bool = False) -> list[str]:
    """Returns the metrics of a set in any run, in the order of the results."""
    found: dict[str, None] = {}
    for run in runs:
        for key in (*run.results, *run.notes):
            end = prefix_of(key, name)
            if end is not None and (end == HELD_OUT) == held_out:
                metric = _without_ends(key[len(name + end) + 1 :])
                found[metric] = None
        if not held_out and name in run.results:  # a key without a metric
            found[""] = None
    return list(found)


def value(
    run: Run, name: str, metric: str, ends: Sequence[str] = ("", SEEN)
) -> Value | None:
    """Returns a metric of a set, None if the run has none.

    Args:
      ends: of the set's name in result keys.
    """
    for end in ends:
        key = f"{name}{end}/{metric}" if metric else name
        if key not in run.results:
            continue
        std, low, high = (run.results.get(with_end(key, one)) for one in _ENDS)
        few = is_few(metric, run.results, f"{name}{end}/")
        return Value(run.results[key], low, high, std, end == SEEN, few)
    return None


def with_end(key: str, end: str) -> str:
    """Returns the key of '_std', '_low' or '_high' of a result."""
    start, slash, metric = key.rpartition("/")
    base, colon, variant = metric.partition(":")
    return f"{start}{slash}{base}{end}{colon}{variant}"


def is_few(metric: str, results: Mapping[str, float], start: str = "") -> bool:
    """Returns True for a TAR or TPIR at a rate of fewer than ten pairs or searches.

    Of several galleries, the one with the fewest non-mated searches counts.

    Args:
      results: with the numbers of impostor pairs or non-mated searches.
      start: of the keys of the set.
    """
    match = re.fullmatch(rf"(tar@far|tpir@fpir)=({RATE})(:.+)?", metric)
    if match is None:
        return False
    kind, rate, gallery = match.groups()
    name = f"{NONMATED}{gallery or ''}" if kind == "tpir@fpir" else IMPOSTORS
    name = start + name
    counts = [n for k, n in results.items() if k == name or k.startswith(f"{name}:")]
    return bool(counts) and bool(few_impostors(float(rate), min(counts)))


def note(run: Run, name: str, metric: str) -> str:
    """Returns the reason why a metric is undefined in a run, or ''."""
    keys = (f"{name}{end}/{metric}" for end in ("", SEEN))
    return next((run.notes[key] for key in keys if key in run.notes), "")


def title(metric: str) -> str:
    """Returns the title of a metric: 'TAR at FAR 1e-3 (insightface)'."""
    base, _, variant = metric.partition(":")
    base, _, group = base.partition(GROUP)
    if match := re.fullmatch(r"rank[-_@]?(\d+)", base):
        shown = f"Rank {match[1]}"
    elif match := re.fullmatch(r"(\w+)@(far|fpir)=([\d.e+-]+)(.*)", base):
        shown = f"{_named(match[1])} at {match[2].upper()} {match[3]}{match[4]}"
    else:
        shown = _named(base)
    shown += f", {group}" if group else ""
    return f"{shown} ({variant})" if variant else shown


def _named(base: str) -> str:
    """Returns the title of a metric without its parameters."""
    if base in _TITLES:
        return _TITLES[base]
    kind, _, measure = base.partition("_")
    if measure and kind in ("far", "frr"):
        return f"{kind.upper()}, {measure.replace('_', ' ')}"
    shown = base.replace("_", " ").replace("bcubed", "BCubed")
    return shown[:1].upper() + shown[1:]


def number(metric: str, value: float, *, sign: bool = False) -> str:
    """Returns a value as text: shares in per cent, counts without decimals.

    Args:
      sign: for a difference: '+' for positive ones, and percentage points.
    """
    plus = "+" if sign else ""
    if _SHARES.match(metric):
        return f"{100 * value:{plus}.2f} {'pp' if sign else '%'}"
    if value == round(value) and abs(value) >= 2:
        return f"{value:{plus},.0f}"
    if metric.startswith(("auc", "min_dcf")):
        return f"{value:{plus}.5f}"
    if 0 < abs(value) < 5e-5:
        return f"{value:{plus}.2e}"
    return f"{value:{plus}.4f}" if abs(value) < 10 else f"{value:{plus},.2f}"


def interval(metric: str, low: float, high: float, *, sign: bool = False) -> str:
    """Returns an interval as text, with the unit of the metric once."""
    texts = [number(metric, end, sign=sign).split(" ")[0] for end in (low, high)]
    return f"[{texts[0]}, {texts[1]}]"


def _without_ends(metric: str) -> str:
    """Returns a metric without '_std', '_low', '_high', and '_std_low'."""
    base, colon, variant = metric.partition(":")
    for end in reversed(_ENDS):
        base = base.removesuffix(end)
    return f"{base}{colon}{variant}"


def main_metric(names: Sequence[str]) -> str:
    """Returns the metric of an overview: accuracy if there is one."""
    for start in ("accuracy", "tar@", "rank", "tpir", "bcubed", "nme", ""):
        for name in names:
            if name.startswith(start):
                return name
    return ""
