"""Rates per group at one threshold, and their spread, from the published formulas."""

import itertools

import numpy as np
import pytest

from fr_jax.metrics import Undefined, fairness


def test_rates_of_groups_and_between_them():
    rng = np.random.default_rng(0)
    scores, same = np.round(rng.random(200), 1), rng.random(200) < 0.4
    first = np.array(["b", "a", "c"])[rng.integers(0, 3, 200)]
    second = np.where(same, first, np.array(["a", "b"])[rng.integers(0, 2, 200)])
    rates = fairness.group_rates(scores, same, first, second, 0.5)
    for (a, b), value in rates.items():
        rows = [
            (s >= 0.5, g)
            for s, g, x, y in zip(scores, same, first, second)
            if {x, y} == {a, b}
        ]
        assert value == (
            sum(g for _, g in rows),
            sum(not g for _, g in rows),
            sum(g and not accepted for accepted, g in rows),
            sum(accepted and not g for accepted, g in rows),
        )
    assert sum(value.genuine + value.impostors for value in rates.values()) == 200
    within = fairness.within_groups(rates)
    assert list(within) == ["a", "b", "c"]
    assert within["c"].far is None  # impostor pairs have no second image of c
    assert within["a"].frr == within["a"].rejected / within["a"].genuine


def test_measures_of_spread():
    rates = [0.01, 0.02, 0.04]
    assert fairness.difference(rates) == pytest.approx(0.03)
    assert fairness.ratio(rates) == 4
    assert fairness.worst_to_geometric_mean(rates) == pytest.approx(2)
    assert fairness.deviation(rates) == pytest.approx(np.std(rates))
    pairs = sum(abs(x - y) for x, y in itertools.product(rates, rates))
    assert fairness.gini(rates) == pytest.approx(
        3 / 2 * pairs / (2 * 9 * np.mean(rates))
    )
    assert fairness.gini([0, 0, 0.5]) == 1
    assert fairness.gini([0.2, 0.2]) == 0
    for measure in (fairness.ratio, fairness.worst_to_geometric_mean):
        with pytest.raises(Undefined, match="lowest rate of a group is 0"):
            measure([0.0, 0.1])
    with pytest.raises(Undefined, match="1 groups with a rate; two are needed"):
        fairness.gini([0.1])


def test_spread_combines_both_errors_and_notes_what_is_undefined():
    groups = {
        "a": fairness.GroupRates(100, 1000, 10, 1),
        "b": fairness.GroupRates(100, 1000, 40, 4),
    }
    values, notes = fairness.spread(groups, far_weight=0.75)
    assert values["fdr"] == pytest.approx(1 - (0.75 * 0.003 + 0.25 * 0.3))
    assert values["inequity"] == pytest.approx(4)
    assert values["garbe"] == pytest.approx(0.6)
    assert not notes
    groups["a"] = fairness.GroupRates(100, 0, 0, 0)
    values, notes = fairness.spread(groups)
    assert notes["far_gini"] == "1 groups with a rate; two are needed"
    assert notes["frr_ratio"] == "the lowest rate of a group is 0"
    assert notes["garbe"].startswith("far_gini: 1 groups")
    assert values["frr_difference"] == 0.4
    assert not values.keys() & notes.keys()
