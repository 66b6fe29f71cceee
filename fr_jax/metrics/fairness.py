"""Differences of error rates between groups at one threshold for all of them.

ISO/IEC 19795-10 and NIST's demographic reports (IR 8280, IR 8429): a threshold is fixed
on all pairs, then FAR (FMR) and FRR (FNMR) are measured for each group. A FRR that is
measured at a threshold per group says nothing of a system that has one threshold.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fr_jax.metrics import Undefined
from fr_jax.metrics.counts import checked

Array = np.ndarray


class GroupRates(NamedTuple):
    """Errors of the pairs of one group, or of impostor pairs between two."""

    genuine: int
    impostors: int
    rejected: int  # genuine pairs below the threshold
    accepted: int  # impostor pairs at or above the threshold

    @property
    def frr(self) -> float | None:
        """Rejected genuine pairs; None without any."""
        return self.rejected / self.genuine if self.genuine else None

    @property
    def far(self) -> float | None:
        """Accepted impostor pairs; None without any."""
        return self.accepted / self.impostors if self.impostors else None


def group_rates(
    scores: Array, same: Array, first: Array, second: Array, threshold: float
) -> dict[tuple[Hashable, Hashable], GroupRates]:
    """Returns the rates of every pair of groups, in the order of their names.

    (a, a) are the pairs within a group, (a, b) those between two, a before b.

    Args:
      scores, same: [P], similarities and labels.
      first, second: group of both images of each pair, [P], of one type.
      threshold: of all groups, pairs with score >= threshold are accepted.

    Raises:
      ValueError: for other shapes, and for scores that are not finite.
    """
    scores, same = checked(scores, same)
    first, second = np.asarray(first), np.asarray(second)
    if not first.shape == second.shape == scores.shape:
        raise ValueError(
            f"groups {first.shape} and {second.shape} for {scores.shape} scores"
        )
    names, codes = np.unique(np.stack([first, second]), return_inverse=True)
    low, high = np.sort(codes.reshape(2, -1), axis=0)
    cells = low * len(names) + high
    table = [
        np.bincount(cells, rows, len(names) ** 2).astype(int)
        for rows in (same, ~same, same & (scores < threshold))
    ]
    table.append(np.bincount(cells, ~same & (scores >= threshold)).astype(int))
    return {
        (names[cell // len(names)].item(), names[cell % len(names)].item()): GroupRates(
            *(int(column[cell]) for column in table)
        )
        for cell in np.unique(cells).tolist()
    }


def within_groups(
    rates: Mapping[tuple[Hashable, Hashable], GroupRates],
) -> dict[Hashable, GroupRates]:
    """Returns the rates of the pairs within each group."""
    return {a: value for (a, b), value in rates.items() if a == b}


def difference(rates: Sequence[float]) -> float:
    """Returns max - min."""
    values = _several(rates)
    return float(values.max() - values.min())


def ratio(rates: Sequence[float]) -> float:
    """Returns max / min.

    Raises:
      Undefined: if the lowest rate is 0.
    """
    values = _several(rates)
    if values.min() == 0:
        raise Undefined("the lowest rate of a group is 0")
    return float(values.max() / values.min())


def worst_to_geometric_mean(rates: Sequence[float]) -> float:
    """Returns max / geometric mean, NIST's inequity measure (IR 8429).

    Raises:
      Undefined: if a rate is 0.
    """
    values = _several(rates)
    if values.min() == 0:
        raise Undefined("the lowest rate of a group is 0")
    return float(values.max() / np.exp(np.mean(np.log(values))))


def deviation(rates: Sequence[float]) -> float:
    """Returns the population standard deviation."""
    return float(_several(rates).std())


def gini(rates: Sequence[float]) -> float:
    """Returns the Gini coefficient in [0, 1] with the correction for few groups.

    n / (n - 1) times the sum of absolute differences of all ordered pairs, over 2 n^2
    mean: 0 for equal rates, 1 if one group has all errors (Howard et al., ICPR
    Workshops 2022, GARBE).

    Raises:
      Undefined: if all rates are 0.
    """
    values = _several(rates)
    if values.max() == 0:
        raise Undefined("the rates of all groups are 0")
    total = np.abs(values[:, None] - values[None]).sum()
    return float(total / (2 * len(values) * (len(values) - 1) * values.mean()))


class Spread(NamedTuple):
    values: dict[str, float]
    notes: dict[str, str]  # reasons for measures that are not in `values`


def spread(groups: Mapping[Hashable, GroupRates], *, far_weight: float = 0.5) -> Spread:
    """Returns the spread of FAR and FRR over groups, and measures of both.

    Names are `far_` or `frr_` and that of a function of this module. Combinations with
    the weight a of the FAR are `fdr`, 1 - (a far_difference + (1 - a) frr_difference),
    the fairness discrepancy rate, 1 is best (Pereira and Marcel, TBIOM 2021);
    `inequity`, far_ratio^a times frr_ratio^(1 - a), 1 is best; `garbe`, a far_gini +
    (1 - a) frr_gini, 0 is best.

    Args:
      groups: rates within each group; those without pairs of a kind have no such rate.
      far_weight: a, the weight of the FAR.
    """
    values: dict[str, float] = {}
    notes: dict[str, str] = {}
    for kind in ("far", "frr"):
        rates = [getattr(group, kind) for group in groups.values()]
        defined = [rate for rate in rates if rate is not None]
        for measure in (difference, ratio, worst_to_geometric_mean, deviation, gini):
            name = f"{kind}_{measure.__name__}"
            try:
                values[name] = measure(defined)
            except Undefined as error:
                notes[name] = str(error)
    weight = far_weight
    for name, part, combine in (
        ("fdr", "difference", lambda far, frr: 1 - (weight * far + (1 - weight) * frr)),
        ("inequity", "ratio", lambda far, frr: far**weight * frr ** (1 - weight)),
        ("garbe", "gini", lambda far, frr: weight * far + (1 - weight) * frr),
    ):
        parts = f"far_{part}", f"frr_{part}"
        if lacking := [one for one in parts if one in notes]:
            notes[name] = f"{lacking[0]}: {notes[lacking[0]]}"
        else:
            values[name] = float(combine(*(values[one] for one in parts)))
    return Spread(values, notes)


def _several(rates: Sequence[float]) -> Array:
    if len(rates) < 2:
        raise Undefined(f"{len(rates)} groups with a rate; two are needed")
    return np.asarray(rates, np.float64)
