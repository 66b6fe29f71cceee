"""The guard: limits, rejected updates, rollbacks, skipped data, its state on disk."""

import functools
import json
import os
import random
import signal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fr_jax.backend import sharding
from fr_jax.errors import TrainingStopped, UserError
from fr_jax.system import Mean, NetState, System
from fr_jax.training import guard as guarding
from fr_jax.training import metric_log
from fr_jax.training.guard import Guard, History
from fr_jax.training.update import Update
from tests.support import steps, toy
from tests.support.toy import Mislabelled, Poisoned, metrics

SYSTEM = toy.make()


def run(workdir, num_steps=40, system=SYSTEM, **options):
    return toy.run(workdir, num_steps, system, **options)


@pytest.fixture(autouse=True, scope="module")
def one_compilation():
    """Runs of a system share a compiled step; none writes TensorBoard events."""
    with pytest.MonkeyPatch.context() as patch:
        steps.compile_once(patch)
        patch.setattr(metric_log, "Events", mock.Mock())
        yield


# --- limits ---------------------------------------------------------------------------


def expected_limit(values, spike):
    """The limit after some values, with NumPy."""
    if not values:
        return np.inf
    reference = values[: len(values) - min(32, len(values) // 2)][-128:]
    median = np.percentile(reference, 50, method="lower")
    spread = np.percentile(np.abs(reference - median), 50, method="lower")
    rise = np.clip(spike * 1.4826 * spread, 1, 5) if len(values) >= 16 else 5
    return median + rise


@jax.jit
def limits_of(values, exists, spike):
    """Returns the last history, and the limits before each row of values."""

    def step(history, row):
        limits = guarding.limits(history, spike)
        return guarding.extended(history, *row), limits

    empty = jax.tree.map(jnp.asarray, History.empty(values.shape[1]))
    return jax.lax.scan(step, empty, (values, exists))


@pytest.mark.parametrize("spike", [3.0, 10.0])
@pytest.mark.parametrize("scale", [0.01, 0.3, 2.0])
def test_limits_are_those_of_an_independent_formula(spike, scale):
    rng = np.random.default_rng(0)
    values = rng.normal(3, scale, (400, 2)).astype(np.float32)
    values[:, 1] += np.linspace(0, -2, 400)
    exists = rng.random((400, 2)) < (1, 0.4)

    history, limits = limits_of(values, exists, spike)
    known = [[], []]
    for number in range(400):
        expected = [expected_limit(one, spike) for one in known]
        np.testing.assert_allclose(limits[number], expected, rtol=1e-5)
        for column in np.flatnonzero(exists[number]):
            known[column].append(values[number, column])
    assert history.count.tolist() == exists.sum(0).tolist()


def test_positions_follow_the_stretches_that_are_skipped():
    """Against a list of batches from which each rollback removes its data."""
    rng = random.Random(0)
    for _ in range(200):
        batches, stretches = list(range(500)), []
        for _ in range(8):
            first = rng.randrange(100)
            end = first + rng.randrange(1, 50)
            # A rollback never precedes all of the data of an earlier one.
            if stretches and guarding.position(end, stretches) <= stretches[-1][1]:
                continue
            stretches = guarding.skip(stretches, first, end)
            del batches[first:end]
        assert len(stretches) <= guarding.MAX_STRETCHES
        assert batches[:150] == [guarding.position(n, stretches) for n in range(150)]
        array = guarding.to_array(stretches)
        assert guarding.from_array(array) == stretches


@pytest.mark.parametrize(
    ("guard", "match"),
    [
        (Guard(rollbacks=10), "rollbacks is 10; use 1 to 9"),
        (Guard(rollbacks=0), "rollbacks is 0; use 1 to 9"),
        (Guard(in_a_row=0), "in_a_row is 0; use 1 or more"),
        (Guard(spike=-1.0), "spike is -1.0; use 0 or more"),
    ],
    ids=str,
)
def test_invalid_numbers_are_refused(tmp_path, guard, match):
    with pytest.raises(UserError, match=match):
        run(tmp_path, 1, guard=guard)


# --- rejected updates -----------------------------------------------------------------


def watching(*names):
    """A system whose metrics and one parameter come from the batch."""
    optimizer = optax.identity()

    def init(key, batch, given=None):
        return NetState.create({"w": jnp.float32(1)}, {}, optimizer)

    def train_step(state, batch, key):
        values = {name: jnp.mean(array) for name, array in batch.items()}
        new = state._replace(
            params={"w": values.pop("weight")}, updates=state.updates + 1
        )
        present = values.pop("present")
        return new, {name: Mean(x * present, present) for name, x in values.items()}

    return System(init, train_step, lambda *_: {}, lambda *_: {}, watch=names)


class Scalars:
    """Batches of calm values, but for those of some steps."""

    batch_size = 1
    calm = {"loss": 1.0, "other": -1.0, "weight": 1.0, "present": 1.0}  # noqa: RUF012

    def __init__(self, values):
        self._values = values

    def batch_at(self, step):
        scalars = self.calm | self._values.get(step, {})
        return {name: np.full(1, x, np.float32) for name, x in scalars.items()}


@functools.cache
def compiled(*names):
    """Returns the update of `watching`."""
    mesh, calm = sharding.make_mesh(), Scalars({})
    update = Update(watching(*names), calm, mesh, 0, {}, Guard())
    update.compile(update.initial())
    return update


def rejected_updates(names, values, count=40):
    """Returns the updates that are rejected, and why."""
    update, stream = compiled(*names), Scalars(values)
    loop, rejected = update.initial(), []
    for step in range(count):
        loop, bad = update(loop, update.place(stream.batch_at(step)), step)
        in_a_row, cause = np.asarray(bad)
        if in_a_row:
            rejected.append((step, update.causes[cause]))
    return rejected


LOSS, OTHER = "loss is too high", "other is too high"
CHANGE, NON_FINITE = "the change is too high", "non-finite values"


@pytest.mark.parametrize(
    ("names", "rejected"),
    [
        (["loss"], [(26, LOSS)]),
        (["other"], [(28, OTHER)]),
        (["loss", "other"], [(26, LOSS), (28, OTHER)]),
        ([], []),
    ],
    ids=["loss", "other", "both", "nothing"],
)
def test_rises_of_watched_metrics_only_are_rejected(names, rejected):
    values = {26: {"loss": 50.0}, 28: {"other": 50.0}}
    assert rejected_updates(names, values) == rejected


@pytest.mark.parametrize(
    ("step", "loss", "rejected"),
    [
        (1, 1e3, True),
        (1, 100.0, False),
        (15, 1e3, True),
        (30, 3.0, False),
        (30, 6, True),
    ],
)
def test_early_limit_is_wide_and_the_later_one_is_not(step, loss, rejected):
    found = rejected_updates(["loss"], {step: {"loss": loss}})
    assert found == [(step, LOSS)] * rejected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_non_finite_watched_metrics_and_states_are_rejected(value):
    values = {5: {"loss": value}, 7: {"other": value}, 9: {"weight": value}}
    expected = [(5, NON_FINITE), (9, NON_FINITE)]
    assert rejected_updates(["loss"], values) == expected
    assert rejected_updates([], values) == expected[1:]


def test_huge_finite_changes_of_weights_are_rejected():
    """The square of 1e30 overflows."""
    changing = {step: {"weight": 1 + 0.1 * (step % 2)} for step in range(40)}
    values = changing | {5: {"weight": 1e30}, 20: {"weight": -50.0}, 30: {}}
    expected = [(5, CHANGE), (20, CHANGE)]
    assert rejected_updates(["loss"], values) == expected


def test_metric_without_a_value_is_neither_compared_nor_remembered():
    """Present in every fourth update, as that of an alternating network."""
    gated = {step: {"present": float(step % 4 == 0)} for step in range(120)}
    gated[90] = {"present": 0.0, "loss": 1e6}
    gated[96] = {"present": 1.0, "loss": 1e6}
    assert rejected_updates(["loss"], gated, 120) == [(96, LOSS)]


def test_watched_name_without_a_metric_is_refused(tmp_path):
    system = toy.make()._replace(watch=("loss", "los"))
    with pytest.raises(UserError, match="'los'.*none of its metrics .accuracy, loss"):
        run(tmp_path, 1, system=system)


def test_bad_update_is_skipped_and_counted(tmp_path):
    result = run(tmp_path, 40, streams=Poisoned([12, 13, 27]))
    assert float(result.state.batch_stats["seen"]) == 37 * 16
    assert all(np.isfinite(leaf).all() for leaf in toy.leaves(result.state))
    rows = metrics(tmp_path)
    skipped = {row["step"]: row.get("skipped", 0) for row in rows}
    assert skipped == {10: 0, 20: 2, 30: 1, 40: 0}
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_skipped_update_changes_no_bit(tmp_path):
    before = run(tmp_path, 10, streams=Poisoned())
    after = run(tmp_path, 13, streams=Poisoned([10, 11, 12]), save_every=100)
    assert toy.same(before.state, after.state)


def test_nothing_is_skipped_without_a_guard(tmp_path):
    result = run(tmp_path, 20, streams=Poisoned([5]), guard=None)
    assert not np.isfinite(result.state.params["prototypes"]).all()


@pytest.mark.parametrize("bad", [1, 50, 90])
def test_batch_of_pixels_that_are_too_large_is_skipped(tmp_path, bad):
    """Accepted, it leaves weights with a loss of 10,000 behind."""
    whole = run(tmp_path / "guarded", 100, streams=Mislabelled([bad], 1e4))
    rows = metrics(tmp_path / "guarded")
    assert sum(row.get("skipped", 0) for row in rows) == 1
    assert all(row["loss"] < 2 for row in rows)
    assert float(whole.state.batch_stats["seen"]) == 99 * 16
    if bad == 50:
        run(tmp_path / "not", 100, streams=Mislabelled([bad], 1e4), guard=None)
        assert metrics(tmp_path / "not")[-1]["loss"] > 1000


# --- divergence -----------------------------------------------------------------------


def _diverging():
    """A system whose loss grows as the batches say.

    Its distance to a level is the square of a parameter that its own updates enlarge,
    so that a rollback alone does not help.
    """

    def init(key, batch, given=None):
        return NetState.create({"w": jnp.float32(1)}, {}, optax.identity())

    def train_step(state, batch, key):
        start, end, growth, level, noise = batch["course"]
        w = state.params["w"]
        loss = level + w * w * (1 + noise * jax.random.normal(key, ()))
        grows = (state.updates >= start) & (state.updates < end)
        params = {"w": w * jnp.where(grows, jnp.sqrt(growth), 1.0)}
        new = state._replace(params=params, updates=state.updates + 1)
        return new, {"loss": loss}

    return System(init, train_step, lambda *_: {}, lambda *_: {})


DIVERGING = _diverging()


class Course:
    batch_size = 5

    def __init__(self, start, end=10_000, *, growth=1.1, level=1.0, noise=0.1):
        self._array = np.array([start, end, growth, level, noise], np.float32)

    def batch_at(self, step):
        return {"course": self._array}


@pytest.mark.parametrize(
    "course",
    [
        {},
        {"noise": 0.4},
        {"level": -20.0},
        {"growth": 1.05},
        {"growth": 2.0},
        {"start": 40},
        {"start": 0},
    ],
    ids=str,
)
def test_slow_divergence_stops_the_run(tmp_path, course):
    stream = Course(**{"start": 200, **course})
    with pytest.raises(TrainingStopped, match="loss is too high") as caught:
        run(tmp_path, 600, DIVERGING, streams=stream, save_every=50)
    assert "after 2 rollbacks" in str(caught.value)
    stopped = int(str(caught.value).split("at step ")[1].split(":")[0])
    start = course.get("start", 200)
    assert start < stopped < start + 90
    # Checkpoints of the divergence were deleted.
    kept = [int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert max(kept, default=0) <= stopped - Guard().reach


def test_rise_that_ends_is_not_a_divergence(tmp_path):
    """A loss that doubles within a hundred updates, as that of a generator may."""
    stream = Course(200, 300, growth=1.007, level=0.0)
    result = run(tmp_path, 500, DIVERGING, streams=stream, save_every=500)
    assert float(result.state.params["w"]) ** 2 == pytest.approx(2.0, rel=0.02)
    assert not any("skipped" in row for row in metrics(tmp_path))


def test_schedules_of_the_learning_rate_raise_no_alarm(tmp_path):
    """Warm-up, drops to a tenth, a rise of a thousand, and restarts of a cosine."""
    rates = [optax.linear_schedule(0.0, 0.2, 200), optax.constant_schedule(0.2)]
    rates += [optax.constant_schedule(rate) for rate in (0.02, 2e-3, 2e-4, 0.2)]
    rates += 2 * [optax.cosine_decay_schedule(0.2, 200)]
    bounds = range(200, 1600, 200)
    system = toy.make(optax.join_schedules(rates, list(bounds)))
    options = {"streams": Mislabelled(), "log_every": 50, "save_every": 2000}
    run(tmp_path, 1600, system, **options)
    assert not any("skipped" in row for row in metrics(tmp_path))


@pytest.mark.pod
@pytest.mark.parametrize("seed", range(20))
def test_clean_run_raises_no_alarm(tmp_path, seed):
    """Half of the seeds have wrong labels, whose loss does not fall to zero."""
    streams = Mislabelled() if seed % 2 else Poisoned()
    options = {"seed": seed, "log_every": 100, "save_every": 1000}
    run(tmp_path, 2000, streams=streams, **options)
    assert not any("skipped" in row for row in metrics(tmp_path))


# --- rollbacks ------------------------------------------------------------------------

STEPS, BAD = 80, range(53, 58)  # rolled back to before step 21 = 53 - 32


def rolled_back(workdir, num_steps=STEPS, bad=BAD, **options):
    stream = options.pop("stream", None) or Poisoned(bad)
    return run(workdir, num_steps, streams=stream, **options), stream


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_compilation):
    """State and lines of metrics of an uninterrupted run with bad data."""
    workdir = tmp_path_factory.mktemp("whole")
    result, _ = rolled_back(workdir)
    return result.state, measured(workdir)


def measured(workdir):
    """Returns the lines of metrics without the rates."""
    rates = ("per_second", "data_wait")
    return [
        {name: value for name, value in row.items() if not name.endswith(rates)}
        for row in metrics(workdir)
    ]


def test_five_in_a_row_roll_back_and_leave_their_data_out(tmp_path, capsys):
    result, stream = rolled_back(tmp_path)
    assert result.step == STEPS
    assert (
        "updates 54 to 58 were rejected (non-finite values); rolled back to step 20, "
        "without the data of updates 22 to 58"
    ) in capsys.readouterr().err
    start = len(stream.asked) - (STEPS - 20)
    assert stream.asked[start:] == [20, *range(58, 58 + STEPS - 21)]
    assert [row["step"] for row in metrics(tmp_path)] == list(range(10, STEPS + 1, 10))
    # The number of updates of a run without bad batches.
    assert float(result.state.batch_stats["seen"]) == STEPS * 16


def often(steps, quick):
    """Returns parameters, those that are not in `quick` for `make test-long`."""
    long = pytest.mark.long
    return [pytest.param(n, marks=() if n in quick else long) for n in steps]


@pytest.mark.parametrize("stop", often(range(50, 64), (52, 56, 58)))
def test_same_bits_after_sigterm_at_every_step_of_a_bad_stretch(tmp_path, whole, stop):
    class Terminating(Poisoned):
        left = True

        def batch_at(self, step):
            if self.left and step == stop:
                self.left = False
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch_at(step)

    stream = Terminating(BAD)
    first, _ = rolled_back(tmp_path, stream=stream, keep=1)
    assert first.interrupted
    rest, _ = rolled_back(tmp_path, stream=stream, keep=1)
    assert toy.same(rest.state, whole[0])


@pytest.mark.parametrize("stop", often(range(50, 64), (56, 58)))
@pytest.mark.parametrize("save_every", often([10, 11], [11]))  # 55 is in the stretch
def test_same_bits_after_a_kill_at_every_step_of_a_bad_stretch(
    tmp_path, whole, stop, save_every
):
    class Killed(Poisoned):
        left = True

        def batch_at(self, step):
            if self.left and step == stop:
                self.left = False
                raise ZeroDivisionError
            return super().batch_at(step)

    stream = Killed(BAD)
    with pytest.raises(ZeroDivisionError):
        rolled_back(tmp_path, stream=stream, save_every=save_every)
    rest, _ = rolled_back(tmp_path, stream=stream, save_every=save_every)
    assert toy.same(rest.state, whole[0])
    assert measured(tmp_path) == whole[1]


@pytest.mark.parametrize("first", [5, 14, 34])
def test_bad_data_are_met_once_wherever_they_lie(tmp_path, first, capsys):
    """Twelve batches, which takes two rollbacks, at the start and across saves."""
    bad = range(first, first + 12)
    # Logging every step keeps batches from being read ahead.
    result, stream = rolled_back(tmp_path, 60, bad, log_every=1)
    assert capsys.readouterr().err.count("rolled back") == 2
    assert [stream.asked.count(step) for step in bad] == [1] * 12
    # The two last ones were rejected one by one.
    assert float(result.state.batch_stats["seen"]) == 58 * 16
    again, _ = rolled_back(tmp_path, 70, bad)
    longer, _ = rolled_back(tmp_path / "whole", 70, bad)
    assert toy.same(again.state, longer.state)


def test_damaged_checkpoint_does_not_change_the_result(tmp_path, whole):
    """Rolled back to the one before."""

    class Damaging(Poisoned):
        def batch_at(self, step):
            if step == 57:
                (tmp_path / "checkpoints/20/manifest.json").write_text("{}")
            return super().batch_at(step)

    result, stream = rolled_back(tmp_path, stream=Damaging(BAD))
    assert toy.same(result.state, whole[0])
    assert (tmp_path / "damaged/20").exists()
    assert stream.asked.count(12) == 2  # repeated from step 10 or 0


def test_third_rollback_stops_the_run_and_names_the_step(tmp_path):
    bad = [*range(60, 65), *range(120, 125), *range(180, 185)]
    with pytest.raises(TrainingStopped) as caught:
        rolled_back(tmp_path, 240, bad)
    assert str(caught.value).startswith(
        "stopped at step 111: updates 107 to 111 were rejected (non-finite values), "
        "after 2 rollbacks; step 70 is kept in "
    )
    assert max(int(path.name) for path in (tmp_path / "checkpoints").glob("*0")) == 70


# --- logs -----------------------------------------------------------------------------


def test_non_finite_metric_that_is_not_watched_is_told_once(tmp_path, capsys):
    system = toy.make()

    def train_step(state, batch, key):
        new, measured = system.train_step(state, batch, key)
        bad = (state.updates > 12) & (state.updates < 34)
        return new, measured | {"other": jnp.where(bad, jnp.nan, 1.0)}

    result = run(tmp_path, 50, system=system._replace(train_step=train_step))
    assert float(result.state.batch_stats["seen"]) == 50 * 16

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    rows = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert [row["other"] for row in rows] == [1.0, None, None, None, 1.0]
    told = [line for line in capsys.readouterr().err.splitlines() if "null" in line]
    assert told == ["other is nan at step 20; metrics.jsonl has null"]
