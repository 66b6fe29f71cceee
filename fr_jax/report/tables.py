"""Rows and cells of a report's tables."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fr_jax.metrics.intervals import Difference
from fr_jax.report import measures
from fr_jax.report.comparison import Comparison
from fr_jax.report.markup import Html, broken, element, joined, table, text
from fr_jax.report.measures import Value
from fr_jax.report.runs import EvaluatedSet, Run

_ITEMS = 12  # of a list
_LONGEST = 600  # characters of a value
_NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_BADGE = element("span", "seen", class_="badge")


def of_metrics(
    runs: Sequence[Run],
    rows: Sequence[Sequence[object]],
    seen: Collection[str] = (),
) -> Html:
    """Returns a table of metrics: a column for each run and each difference.

    Args:
      seen: names of runs that have seen the set.
    """
    names = [run.name for run in runs]
    heads = [
        joined([broken(name), *([" ", _BADGE] if name in seen else [])])
        for name in names
    ]
    heads += [broken(f"{name} {_MINUS} {names[0]}") for name in names[1:]]
    return element("div", table(["", *heads], rows), class_="numbers")


def row(
    runs: Sequence[Run],
    name: str,
    metric: str,
    compared: Comparison,
    *,
    badges: bool = False,
) -> list[Html]:
    """Returns the cells of a metric: its value of each run, and the differences.

    Args:
      badges: mark values on sets with training identities.
    """
    cells = []
    for run in runs:
        value = measures.value(run, name, metric)
        reason = measures.note(run, name, metric)
        cells.append(_value(metric, value, reason, badges=badges))
    for number in range(1, len(runs)):
        one = compared.whole.get(number, {}).get(metric)
        cells.append(_difference(metric, one))
    return cells


def held_out_row(
    runs: Sequence[Run], name: str, metric: str, compared: Comparison
) -> list[Html]:
    """Returns the cells of a metric over held-out folds."""
    cells = []
    for number, run in enumerate(runs):
        value = None
        if number in compared.own:
            value = measures.value(run, name, metric, (measures.HELD_OUT,))
        one = compared.held_out.get(number)
        if value is None and one is not None and metric in one.values:
            std = one.values.get(measures.with_end(metric, "_std"))
            ends = one.interval(metric) if metric in one.samples else (None, None)
            few = measures.is_few(metric, one.values)
            value = Value(one.values[metric], *ends, std, False, few)
        if (
            value is not None
            and compared.folds is not None
            and sum(compared.folds) == 1
        ):
            value = value._replace(std=None)
        cells.append(_value(metric, value, ""))
    for number in range(1, len(runs)):
        one = compared.held_out_differences.get(number, {}).get(metric)
        cells.append(_difference(metric, one))
    return cells


def footnotes(runs: Sequence[Run], name: str, names: Sequence[str]) -> list[Html]:
    """Returns the reasons for undefined metrics, each once."""
    reasons: dict[str, dict[str, None]] = {}
    for run in runs:
        for metric in names:
            if why := measures.note(run, name, metric):
                reasons.setdefault(f"{run.name}: {why}", {})[measures.title(metric)] = (
                    None
                )
    return [
        element("p", f"Undefined for {why} ({', '.join(titles)})", class_="grey")
        for why, titles in reasons.items()
    ]


def remarks(
    runs: Sequence[Run], entries: Mapping[str, EvaluatedSet], compared: Comparison
) -> list[Html]:
    """Returns notes on training identities, and on differences and their absence."""
    lines: list[Html] = []
    for name, entry in entries.items():
        if is_seen(entry):
            folds = ""
            if entry.seen_folds:
                folds = f"; {folds_text(entry.seen_folds)}"
            evidence = entry.seen or "training identities"
            lines.append(_note(f"{name} has seen the set: {evidence}{folds}"))
        elif entry.unknown and len(runs) == 1:
            line = f"Nothing shows whether {name} was trained on identities of the set."
            lines.append(element("p", line, class_="grey"))
    for number, why in compared.reasons.items():
        pair = f"{runs[number].name} and {runs[0].name}"
        why = "; ".join(why)
        lines.append(_note(f"No paired difference of {pair}: {why}."))
    if compared.whole:
        text = f"Differences and their intervals: {compared.resampled}."
        lines.append(element("p", text, class_="grey"))
        lines += [
            element(
                "p", f"The differences assume unseen identities: {one}.", class_="grey"
            )
            for one in compared.remarks
        ]
    return lines


def facts(entries: Mapping[str, EvaluatedSet]) -> str:
    """Returns the counts of a set as one line, those of the first run with scores."""
    scores = next((one.scores for one in entries.values() if one.scores), None)
    if scores is None:
        return ""
    genuine = int(np.sum(scores.same))
    parts = [f"{len(scores.same):,} pairs, {genuine:,} of them genuine"]
    if scores.identities is not None and scores.pairs is not None:
        used = np.unique(scores.pairs)
        identities = len(np.unique(scores.identities[used]))
        parts.append(f"{len(used):,} images or templates of {identities:,} identities")
    if scores.folds is not None:
        parts.append(f"{len(np.unique(scores.folds))} folds")
    return "; ".join(parts)


def threshold(run: Run, name: str) -> float | None:
    """Returns the threshold of a set as a cosine, None if the results have none."""
    for end in ("", measures.SEEN):
        start = f"{name}{end}/cosine_threshold"
        for key, value in run.results.items():
            if key == start or key.startswith(f"{start}:"):
                return value
    return None


def side_by_side(columns: Mapping[str, Mapping[str, Any]]) -> Html:
    """Returns a table of settings: rows by name, one column for each run.

    A value that all columns share is one cell over all of them.
    """
    names = list(dict.fromkeys(name for one in columns.values() for name in one))
    rows = []
    for name in names:
        values = [
            _shown(one[name]) if name in one else text(_NONE)
            for one in columns.values()
        ]
        if len(set(values)) == 1:
            values = [element("td", values[0], colspan=len(values))]
        rows.append([name, *values])
    heads = (broken(name) for name in columns)
    return element("div", table(["", *heads], rows), class_="facts")


def protocol(entry: EvaluatedSet) -> dict[str, Any]:
    """Returns every choice of a set's protocol, and the digest of the set."""
    choices = flat(entry.protocol)
    return choices | ({"digest of the set": entry.digest} if entry.digest else {})


def is_seen(entry: EvaluatedSet) -> bool:
    """Returns True if the embedder was trained on identities of the set."""
    return bool(entry.seen or entry.seen_folds)


def folds_text(folds: Iterable[int]) -> str:
    """Returns folds, which are numbered from 0, as text: 'folds 1 to 4, 9'."""
    parts: list[list[int]] = []
    for number in sorted(int(fold) + 1 for fold in folds):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    text = ", ".join(" to ".join(map(str, part)) for part in parts)
    return f"folds {text}" if len(parts) > 1 or len(parts[0]) > 1 else f"fold {text}"


def flat(content: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Returns nested settings as one level, without empty ones: {'input: size': 112}.

    Three levels; deeper ones stay as they are.
    """
    values: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{start}{name}".replace("_", " ")
        if isinstance(value, Mapping) and value and key.count(": ") < 2:
            values |= flat(value, f"{key}: ")
        elif value not in ("", None, {}, []):
            values[key] = value
    return values


def _shown(value: Any) -> Html:
    """Returns a JSON value as text: long lists and texts are shortened."""
    if isinstance(value, bool):
        return text("yes" if value else "no")
    if isinstance(value, str):
        return text(value, _LONGEST)
    if isinstance(value, int):
        return text(f"{value:,}" if abs(value) >= 10_000 else value)
    if isinstance(value, float):
        return text(f"{value:.6g}")
    if isinstance(value, list) and all(not isinstance(x, list | dict) for x in value):
        shown = [str(_shown(one)) for one in value[:_ITEMS]]
        if len(value) > _ITEMS:
            shown.append(f"… ({len(value):,} in all)")
        return Html(", ".join(shown))
    return text(json.dumps(value, ensure_ascii=False), _LONGEST)


def _value(
    metric: str, value: Value | None, reason: str, *, badges: bool = False
) -> Html:
    if value is None:
        why = element("span", "undefined", class_="grey") if reason else ""
        return element("td", _NONE, why)
    parts: list[object] = [measures.number(metric, value.value)]
    if value.std is not None:
        spread = measures.number(metric, value.std).removesuffix(" %")
        parts.append(f" ± {spread}")
    if value.few:
        parts.append(" †")
    if value.seen and badges:
        parts += [" ", _BADGE]
    if value.low is not None and value.high is not None:
        shown = measures.interval(metric, value.low, value.high)
        parts.append(element("span", shown, class_="grey"))
    return element("td", joined(parts))


def _difference(metric: str, one: Difference | None) -> Html:
    if one is None:
        return element("td", _NONE)
    shown: object = measures.number(metric, one.difference, sign=True)
    if math.isnan(one.low):
        return element("td", shown)
    if one.low > 0 or one.high < 0:
        shown = element("strong", shown)
    ends = measures.interval(metric, one.low, one.high, sign=True)
    return element("td", shown, element("span", ends, class_="grey"))


def _note(line: str) -> Html:
    return element("p", line, class_="note")
