"""Printed differences of embedders, and the reasons why there are none."""

from fr_jax.evaluation import differences
from fr_jax.metrics.intervals import Difference
from fr_jax.report.comparison import Comparison
from fr_jax.report.runs import Run
from tests.support.pairs import make_set

RUNS = [Run(name, {}, {}, {}, {}) for name in ("mbf", "cfp")]
RISE = {"accuracy": Difference(0.012, 0.004, 0.02), "xnorm": Difference(1, 1, 1)}


def compared(**changes):
    empty = Comparison({}, {}, (), None, frozenset(), {}, {}, "20 resamples of 9 pairs")
    return empty._replace(**changes)


def test_a_difference_is_one_line_with_its_interval():
    (line,) = differences.lines(make_set(), RUNS, compared(whole={1: RISE}))
    assert line == (
        "toy: cfp less mbf: Accuracy +1.20 pp [+0.40, +2.00] (20 resamples of 9 pairs)"
    )


def test_a_seen_set_has_the_reason_and_its_held_out_folds():
    reason = "cfp was trained on identities of the set (its name)"
    changes = {"reasons": {1: [reason]}, "held_out_differences": {1: RISE}}
    lines = differences.lines(make_set(), RUNS, compared(**changes, remarks=["more"]))
    assert lines == [
        f"toy: cfp less mbf: no paired difference, since {reason}",
        "toy: cfp less mbf, held-out folds: Accuracy +1.20 pp [+0.40, +2.00] "
        "(20 resamples of 9 pairs)",
        "toy: more",
    ]


def test_metrics_of_other_protocols_are_found():
    toy = make_set(protocol="kfold")
    whole = {"accuracy:kfold": RISE["accuracy"], "accuracy": Difference(9, 9, 9)}
    (line,) = differences.lines(toy, RUNS, compared(whole={1: whole}))
    assert "Accuracy (kfold) +1.20 pp [+0.40, +2.00]" in line
