"""Paired differences of runs on one set, or the reasons why there are none."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fr_jax.metrics import intervals
from fr_jax.metrics.intervals import Difference, Interval
from fr_jax.report import columns
from fr_jax.report.measures import IMPOSTORS, RATE
from fr_jax.report.runs import (
    IMAGE_DIGESTS,
    PIXELS,
    Array,
    EvaluatedSet,
    Run,
    Scores,
)

_MANY_ROWS = 100_000  # searches or clustered faces
# Of `protocol` of a set: what does not change the metrics of equal pairs.
_INCIDENTAL = (
    IMAGE_DIGESTS,
    *("file", "root", "missing", "lag_mode", "identities", "fars"),
    *("resampled", "resampled_units", "resamples", "interval", "why_pairs"),
    *("images", "pairs", "genuine_pairs", "impostor_pairs", "templates"),
    *("dropped_images", "dropped_pairs", "dropped_templates"),
    *("quality", "groups", "threshold_of_errors", "edc"),
)
_FAR = re.compile(rf"tar@far=({RATE})(:\w+)?")


class Resampled(NamedTuple):
    """Metrics of a run, by result key, and those of every resample.

    `values` has the number of impostor pairs too, which resamples have not.
    """

    values: Mapping[str, float]
    samples: Mapping[str, Array]  # [resamples] each; NaN where undefined

    def interval(self, metric: str) -> Interval:
        """Returns the 95 % interval of a metric."""
        return intervals.percentile(self.samples[metric])


class Comparison(NamedTuple):
    """Runs on one set, the later ones compared with the first.

    Attributes:
      whole: by number of the run, the differences from the first run over all pairs,
        by result key; only of runs that have not seen the set.
      reasons: by number of the run, why there are no such differences.
      remarks: what limits the comparison, as sentences.
      folds: bool [folds], folds that none of the runs has seen, if one has seen others;
        else None.
      own: numbers of the runs whose results of held-out folds are of these folds.
      held_out: metrics over these folds, by number of the run, if several are compared.
      held_out_differences: from the first run, by number of the run.
      resampled: what intervals are over: '1,000 resamples of 500 identities', or ''.
    """

    whole: Mapping[int, Mapping[str, Difference]]
    reasons: Mapping[int, Sequence[str]]
    remarks: Sequence[str]
    folds: Array | None
    own: frozenset[int]
    held_out: Mapping[int, Resampled]
    held_out_differences: Mapping[int, Mapping[str, Difference]]
    resampled: str


def compare(
    runs: Sequence[Run], name: str, *, resamples: int | None = None
) -> Comparison:
    """Returns the differences of the later runs from the first, on one set.

    All runs have the same resamples: of identities, as the first run that has them
    names them, else of pairs. A run that has seen the set has no difference over all
    pairs; over the folds that no run has seen, where the protocol has folds, it has.

    Args:
      resamples: default: 1,000, or 200 of more than a million pairs.
    """
    entries = [one_set(run, name) for run in runs]
    stored = {n: one for n, one in enumerate(entries) if one and _is_stored(one)}
    reasons: dict[int, list[str]] = {}
    for number in range(1, len(runs)):
        pair = (runs[0], entries[0]), (runs[number], entries[number])
        if why := _not_alike(name, *pair):
            reasons[number] = [why]
    alike = {n: one for n, one in stored.items() if n == 0 or n not in reasons}
    folds = unseen_folds(list(alike.values()))
    for number in alike:
        seen = [
            f"{runs[n].name} was trained on identities of the set ({alike[n].seen})"
            for n in (0, number)
            if number and _is_seen(alike[n])
        ]
        if seen:
            reasons[number] = seen
    unknown = [runs[n].name for n, one in alike.items() if one.unknown]
    remarks = []
    if unknown and len(alike) > 1:
        were = "was" if len(unknown) == 1 else "were"
        names = ", ".join(unknown)
        remarks = [f"nothing shows whether {names} {were} trained on its identities"]
    fars = fars_of(runs, name)
    paired = [number for number in alike if number and number not in reasons]
    whole = {}
    scores = [one.scores for one in alike.values() if one.scores]
    named = (one for one in scores if one.identities is not None)
    units = next(named, scores[0] if scores else None)
    if paired:
        drawn = {
            n: resample(alike[n], fars, None, units, resamples) for n in (0, *paired)
        }
        whole = {n: difference(drawn[0], drawn[n]) for n in paired}
    held_out, own = {}, frozenset()
    if folds is not None:
        masks = {n: unseen_folds([one]) for n, one in alike.items()}
        own = frozenset(n for n, mask in masks.items() if _equal(mask, folds))
        if len(alike) > 1:
            held_out = {
                n: resample(one, fars, folds, units, resamples)
                for n, one in alike.items()
            }
    differences = {
        number: difference(held_out[0], one)
        for number, one in held_out.items()
        if number and 0 in held_out
    }
    resampled = ""
    if whole or held_out:
        resampled = _resampled(next(iter(alike.values())), units, resamples)
    return Comparison(
        whole, reasons, remarks, folds, own, held_out, differences, resampled
    )


def resample(
    entry: EvaluatedSet,
    fars: Sequence[str],
    reported: Array | None,
    units: Scores | None,
    resamples: int | None = None,
) -> Resampled:
    """Returns the metrics of a set's rows, by result key, and of their resamples.

    Rows are pairs, searches or clustered faces.

    Args:
      fars: FARs of the TAR, as text.
      reported: bool [folds], the folds to measure, at thresholds chosen on all other
        folds; None: all pairs.
      units: the same pairs, whose identities are drawn, else pairs.
    """
    if entry.scores is None:
        statistics, identity = columns.statistics(entry)
        draws = intervals.identity_draws(identity, _number(len(identity), resamples))
        values = statistics(None)
        return Resampled(values, intervals.samples(statistics, draws, list(values)))
    statistics = _statistics(entry, fars, reported)
    weights, _ = _weights(units, resamples)
    values = statistics(None)
    drawn = intervals.samples(statistics, weights, list(values))
    protocol = str(entry.protocol.get("protocol"))
    if protocol != "insightface":  # their result keys end in their names
        named = {f"{name}:{protocol}": name for name in values}
        values |= {key: values[name] for key, name in named.items()}
        drawn |= {key: drawn[name] for key, name in named.items()}
    scores = entry.scores
    chosen = ~scores.same
    if reported is not None:
        chosen = chosen & reported[scores.folds]
    counts = {IMPOSTORS: float(np.sum(chosen))}
    return Resampled(values | counts, drawn)


def difference(first: Resampled, second: Resampled) -> dict[str, Difference]:
    """Returns second - first of every metric of both, with its interval.

    Both must have been measured on the same resamples. Thresholds have no difference:
    the scales of two embedders differ.
    """
    return {
        name: Difference(
            value - first.values[name],
            *intervals.percentile(second.samples[name] - first.samples[name]),
        )
        for name, value in second.values.items()
        if name in first.samples and not name.partition(":")[0].endswith("_threshold")
    }


def unseen_folds(entries: Sequence[EvaluatedSet]) -> Array | None:
    """Returns a mask of the folds that none of these runs has seen, bool [folds].

    None if they have seen all or none, and for protocols without folds.
    """
    if not entries or entries[0].scores is None or entries[0].scores.folds is None:
        return None
    if not all(_is_over_folds(one) for one in entries):
        return None
    if any(one.seen and not one.seen_folds for one in entries):
        return None
    seen = {fold for one in entries for fold in one.seen_folds}
    mask = ~np.isin(np.arange(int(np.max(entries[0].scores.folds)) + 1), list(seen))
    return mask if mask.any() and not mask.all() else None


def one_set(run: Run, name: str) -> EvaluatedSet | None:
    """Returns the set of a name, None if the run has not stored one."""
    return next((one for one in run.sets if one.name == name), None)


def fars_of(runs: Iterable[Run], name: str) -> list[str]:
    """Returns the FARs of TARs in the results of a set."""
    matches = (
        _FAR.fullmatch(key.rpartition("/")[2])
        for run in runs
        for key in run.results
        if _is_of(key, name)
    )
    return list(dict.fromkeys(match[1] for match in matches if match))


def _is_of(key: str, name: str) -> bool:
    return key.startswith((f"{name}/", f"{name}_seen/", f"{name}_heldout/"))


def _is_over_folds(entry: EvaluatedSet) -> bool:
    """Returns True if the accuracy over folds can be measured again."""
    if entry.scores is None or entry.scores.folds is None:
        return False
    protocol, distances = entry.protocol.get("protocol"), entry.scores.distances
    if protocol == "magface":  # its angles are not those of the scores
        return distances is not None and np.ndim(distances) == 2
    return protocol in intervals.OVER_FOLDS


def _is_seen(entry: EvaluatedSet) -> bool:
    return bool(entry.seen or entry.seen_folds)


def _not_alike(name: str, *pair: tuple[Run, EvaluatedSet | None]) -> str:
    """Returns why the pairs of two runs cannot be compared one by one, or ''."""
    for run, entry in pair:
        if entry is None and not any(_is_of(key, name) for key in run.results):
            return f"{run.name} was not evaluated on this set"
        if entry is None or not _is_stored(entry):
            return f"no scores of {run.name} are stored"
    both = " and ".join(run.name for run, _ in pair)
    one, other = (entry for _, entry in pair)
    assert one and other
    kinds = [entry.protocol.get(IMAGE_DIGESTS, PIXELS) for entry in (one, other)]
    if kinds[0] != kinds[1]:
        return (
            f"the images of {both} cannot be compared: they are known by {kinds[0]} "
            f"and by {kinds[1]}"
        )
    if not one.digest or one.digest != other.digest:
        return f"{both} were evaluated on different images or pairs"
    protocols = [str(entry.protocol.get("protocol")) for entry in (one, other)]
    if protocols[0] != protocols[1]:
        return f"{both} were evaluated by protocols {' and '.join(protocols)}"
    switches = [
        {name: x for name, x in entry.protocol.items() if name not in _INCIDENTAL}
        for entry in (one, other)
    ]
    differing = [
        f"{name} {' and '.join(str(part.get(name)) for part in switches)}"
        for name in {**switches[0], **switches[1]}
        if switches[0].get(name) != switches[1].get(name)
    ]
    if differing:
        return f"{both} were evaluated with different switches: {', '.join(differing)}"
    fields = (_labels(entry) for entry in (one, other))
    if not all(_equal(*values) for values in zip(*fields)):
        return f"{both} were evaluated with different labels or folds"
    return ""


def _is_stored(entry: EvaluatedSet) -> bool:
    """Returns True if a set has scores of pairs, searches or clusters."""
    return entry.scores is not None or bool(entry.columns)


def _labels(entry: EvaluatedSet) -> tuple[Array | None, ...]:
    """Returns the labels of a set's rows, and their folds or galleries."""
    if entry.scores is not None:
        return entry.scores.same, entry.scores.folds
    return entry.columns.get("identity"), entry.columns.get("gallery")


def _resampled(entry: EvaluatedSet, units: Scores | None, resamples: int | None) -> str:
    """Returns what resamples are over, as text."""
    if entry.scores is not None:
        return _weights(units, resamples)[1]
    identity = entry.columns["identity"]
    resamples = _number(len(identity), resamples)
    return f"{resamples:,} resamples of {len(np.unique(identity)):,} identities"


def _number(rows: int, resamples: int | None) -> int:
    """Returns the number of resamples of searches or clustered faces."""
    if resamples is not None:
        return resamples
    return intervals.number_of_resamples(rows, _MANY_ROWS)


def _equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _statistics(
    entry: EvaluatedSet, fars: Sequence[str], reported: Array | None
) -> intervals.PairStatistics:
    scores = entry.scores
    assert scores is not None
    protocol = entry.protocol.get("protocol")
    over_folds = _is_over_folds(entry)
    if not over_folds and protocol != "paper":
        protocol = "pooled"
    values = np.asarray(scores.values, np.float64)
    distances = 2 - 2 * values if scores.distances is None else scores.distances
    return intervals.PairStatistics(
        values,
        scores.same,
        protocol=str(protocol),
        folds=scores.folds if over_folds else None,
        distances=distances if over_folds else None,
        fars=tuple(fars),
        reported=reported,
    )


def _weights(
    scores: Scores | None, resamples: int | None
) -> tuple[Iterator[Array], str]:
    """Returns weights of resampled identities or pairs, and what they are, as text."""
    assert scores is not None
    count = len(scores.values)
    if resamples is None:
        resamples = intervals.number_of_resamples(count)
    if scores.identities is None or scores.pairs is None:
        text = f"{resamples:,} resamples of {count:,} pairs"
        return intervals.pair_weights(count, resamples), text
    first, second = (scores.identities[scores.pairs[:, side]] for side in (0, 1))
    present = len(np.union1d(first, second))
    text = f"{resamples:,} resamples of {present:,} identities"
    size = len(scores.identities)
    return intervals.identity_weights(first, second, size, resamples), text
