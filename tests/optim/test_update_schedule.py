"""Update schedules: which of two networks a step updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.optim import update_schedule
from fr_jax.optim.update_schedule import (
    Turn,
    UpdateSchedule,
    accuracy_gated,
    alternate,
    fixed,
    from_options,
    next_turn,
    observe,
    staged,
)
from fr_jax.system import Mean


def turns(schedule, steps, accuracies=None):
    """Returns a letter for each step: D updates the discriminator, g the generator.

    The discriminator's running accuracy is set to `accuracies`.
    """
    take = jax.jit(lambda turn, step: next_turn(schedule, turn, step))
    turn, out = Turn(), ""
    for step in range(steps):
        if accuracies is not None:
            turn = turn._replace(accuracy=jnp.float32(accuracies[step]))
        chosen, turn = take(turn, step)
        out += "D" if chosen else "g"
    return out


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [((1, 1), "DgDgDgDgDgDg"), ((2, 3), "DDgggDDgggDD"), ((3, 1), "DDDgDDDgDDDg")],
)
def test_fixed_repeats_one_ratio(ratio, expected):
    assert turns(fixed(ratio), 12) == expected


def test_accuracy_gated_uses_the_strong_ratio_above_the_threshold():
    # The ratio at the start of a cycle holds to its end.
    accuracies = [0.0] * 3 + [0.95] * 4 + [0.5] * 20
    gated = accuracy_gated(threshold=0.9)
    assert turns(gated, 13, accuracies) == "DgDgDggggDgDg"
    own = accuracy_gated((2, 1), (1, 2), threshold=0.5)
    assert turns(own, 6, [0.49] * 6) == "DDgDDg"
    assert turns(own, 6, [0.5] * 6) == "DggDgg"  # from the threshold on


def test_staged_uses_the_ratio_of_the_current_stage():
    assert turns(staged([(4, (1, 3))]), 12) == "DgDgDgggDggg"
    several = staged([(1, (1, 2)), (2, (2, 1))], (1, 1), steps_per_epoch=4)
    assert turns(several, 14) == "DgDg" + "DggDgg" + "DDgD"


def test_a_custom_schedule():
    def ratio(step, accuracy):
        return jnp.where(step < 3, jnp.array([1, 2]), jnp.array([1, 1]))

    assert turns(UpdateSchedule(ratio), 7) == "DggDgDg"


def test_a_cycle_resumes_from_a_checkpoint():
    schedule, turn, whole = fixed((2, 3)), Turn(), ""
    for step in range(7):
        if step == 3:  # as a checkpoint keeps it
            turn = Turn(*(jnp.asarray(np.asarray(x)) for x in turn))
        chosen, turn = next_turn(schedule, turn, jnp.int32(step))
        whole += "D" if chosen else "g"
    assert whole == "DDgggDD"
    assert [int(x) for x in turn[:3]] == [2, 2, 3]


@pytest.mark.parametrize(("decay", "expected"), [(0.9, 0.18), (0.0, 0.8)])
def test_observe_averages_the_accuracy(decay, expected):
    schedule = accuracy_gated(accuracy_decay=decay)
    turn = Turn()._replace(accuracy=jnp.float32(0.1))
    turn = observe(schedule, turn, jnp.float32(0.8 if decay == 0 else 0.9))
    assert float(turn.accuracy) == pytest.approx(expected)
    assert (turn.done, turn.discriminator, turn.generator) == (0, 0, 0)


def test_other_schedules_average_too():
    assert fixed().accuracy_decay == staged([(1, (1, 1))]).accuracy_decay == 0.9


# --- alternate ----------------------------------------------------------------------


def discriminator_step(state, amount):
    return state | {"d": state["d"] + amount}, {"d/loss": 2 * amount, "both": 1}


def generator_step(state, amount):
    return state | {"g": state["g"] - amount}, {"g/loss": 3 * amount, "both": 5.0}


@pytest.mark.parametrize(
    ("chosen", "state", "metrics"),
    [
        (True, {"d": 7, "g": 0}, {"d/loss": (14, 1), "g/loss": (0, 0), "both": (1, 1)}),
        (
            False,
            {"d": 0, "g": -7},
            {"d/loss": (0, 0), "g/loss": (21, 1), "both": (5, 1)},
        ),
    ],
    ids=["discriminator", "generator"],
)
def test_metrics_of_the_other_step_have_count_zero(chosen, state, metrics):
    run = jax.jit(
        lambda chosen, state: alternate(
            chosen, discriminator_step, generator_step, state, 7.0
        )
    )
    start = {"d": jnp.float32(0), "g": jnp.float32(0)}
    after, actual = run(chosen, start)
    assert after == state
    assert actual == {name: Mean(*mean) for name, mean in metrics.items()}
    for mean in actual.values():
        assert mean.total.dtype == mean.count.dtype == jnp.float32


# --- options ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("fixed", "DgDgDgDg"),
        ({"name": "fixed", "ratio": (1, 2)}, "DggDggDg"),
        ({"strong_ratio": (1, 2), "threshold": 0.0}, "DggDggDg"),
        ({"name": "staged", "stages": [(2, (1, 2))]}, "DgDgDggD"),
        (fixed((2, 1)), "DDgDDgDD"),
    ],
    ids=["name", "options", "default name", "epochs", "schedule"],
)
def test_schedules_by_options(options, expected):
    assert turns(from_options(options, steps_per_epoch=2), 8) == expected


def test_stages_are_in_steps_if_the_epoch_is_unknown():
    schedule = from_options({"name": "staged", "stages": [(2, (1, 2))]}, None)
    assert turns(schedule, 8) == "DgDggDgg"


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("did you mean 'staged'", "stagd"),
        (r"ratio \(1, 0\).*at least 1 of each", {"name": "fixed", "ratio": (1, 0)}),
        (r"ratio \(1,\)", {"name": "fixed", "ratio": (1,)}),
        (r"ratio \(1, 0\)", {"strong_ratio": (1, 0)}),
        (r"ratio \(0, 1\)", {"name": "staged", "stages": [(5, (0, 1))]}),
        ("ascending", {"name": "staged", "stages": [(5, (1, 1)), (2, (1, 2))]}),
        ("at least one", {"name": "staged", "stages": []}),
        ("threshold is 2", {"threshold": 2}),
        ("accuracy_decay is -0.1", {"accuracy_decay": -0.1}),
        ("'stages' of update schedule accuracy_gated", {"stages": [(3, (1, 2))]}),
        ("'threshold' of update schedule fixed", {"name": "fixed", "threshold": 0.5}),
    ],
)
def test_invalid_options_are_refused(match, options):
    with pytest.raises(UserError, match=match):
        from_options(options, steps_per_epoch=10)


def test_every_schedule_has_a_name():
    assert {
        "fixed": fixed,
        "accuracy_gated": accuracy_gated,
        "staged": staged,
    } == update_schedule.SCHEDULES
