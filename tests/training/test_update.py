"""The guarded update: checks of batches, mean metrics, the guard and rollbacks."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fr_jax.backend import sharding
from fr_jax.errors import TrainingStopped, UserError
from fr_jax.system import Input, Mean, NetState, System
from fr_jax.training.batch_checks import check_batch_size
from fr_jax.training.loop import train
from fr_jax.training.update import Guard, Update
from tests.support import toy
from tests.support.toy import Poisoned, metrics, run

# --- checks of batches ----------------------------------------------------------------


def image(dtype=np.uint8, size=toy.SIDE, **_):
    return np.zeros((16, size, size, 3), dtype)


LABEL = np.arange(16, dtype=np.int32) % toy.CLASSES


class Fixed:
    """A stream of one batch."""

    batch_size = 16

    def __init__(self, num_classes=None, batch_size=16, **arrays):
        self.batch_size = batch_size
        self._arrays = {"image": image(), "label": LABEL} | arrays
        if num_classes is not None:
            self.num_classes = num_classes

    def batch_at(self, step):
        arrays = self._arrays.items()
        return {name: array for name, array in arrays if array is not None}


@pytest.mark.parametrize(
    ("stream", "match"),
    [
        pytest.param(
            Fixed(label=LABEL.astype(np.int64)),
            r"'label' of a batch is int64 \(16,\), expected int32 \(any\)",
            id="dtype",
        ),
        pytest.param(
            Fixed(image=image(np.float32)),
            r"'image' of a batch is float32 .*, expected uint8 \(any, 8, 8, 3\)",
            id="pixels that are not uint8",
        ),
        pytest.param(
            Fixed(image=image(size=9)),
            r"'image' of a batch is uint8 \(16, 9, 9, 3\), expected uint8 \(any, 8, 8",
            id="shape",
        ),
        pytest.param(
            Fixed(label=LABEL[:, None]),
            r"int32 \(16, 1\), expected int32 \(any\)",
            id="number of axes",
        ),
        pytest.param(
            Fixed(label=None),
            "the batches have no 'label', which the system needs; they have image",
            id="missing array",
        ),
        pytest.param(
            Fixed(label=LABEL + 3),
            "'label' of a batch has 1[0-2], expected 0 to 9",
            id="label beyond the classes",
        ),
        pytest.param(
            Fixed(label=LABEL - 1),
            "'label' of a batch has -1, expected 0 to 9",
            id="negative label",
        ),
        pytest.param(
            Fixed(num_classes=12),
            "'label' of the data has 11, .* 10 classes",
            id="identities beyond the classes",
        ),
        pytest.param(
            toy.stream(label=np.array([3] * 119 + [10])),
            "'label' of the data has 10, expected 0 to 9: 10 classes, counted from 0",
            id="a set with one label beyond the classes",
        ),
        pytest.param(
            toy.stream(label=np.array([3] * 119 + [-1])),
            "'label' of the data has -1, expected 0 to 9",
            id="a set with one negative label",
        ),
        pytest.param(
            Fixed(batch_size=6),
            "a batch of 6 rows: 'image' takes a multiple of 4",
            id="multiple of the batch",
        ),
        pytest.param(
            Fixed(batch_size=0),
            "a batch of 0 rows: 'image' takes a multiple of 4",
            id="empty batch",
        ),
    ],
)
def test_batch_is_checked_before_anything_is_compiled(tmp_path, stream, match):
    def never(*_):
        pytest.fail("traced")

    expected = Input(np.uint8, (None, toy.SIDE, toy.SIDE, 3), multiple=4)
    system = toy.make()._replace(
        init=never, train_step=never, expects=toy.EXPECTS | {"image": expected}
    )
    with pytest.raises(UserError, match=match) as caught:
        train(system, stream, tmp_path, num_steps=1)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("classes", [None, 7, 10])
def test_expected_batch_is_accepted(tmp_path, classes):
    assert run(tmp_path, 1, streams=Fixed(classes)).step == 1


class Late:
    """The toy stream, with another label in one row of one batch."""

    batch_size = 16

    def __init__(self, step, label):
        self._clean, self._step, self._label = toy.stream(), step, label

    def batch_at(self, step):
        batch = dict(self._clean.batch_at(step))
        if step == self._step:
            batch["label"] = np.r_[batch["label"][:-1], self._label].astype(np.int32)
        return batch


@pytest.mark.parametrize("label", [-1, 10])
@pytest.mark.parametrize("guard", [None, Guard()])
def test_value_out_of_range_in_a_later_batch_ends_the_run(tmp_path, label, guard):
    options = {"log_every": 5, "save_every": 4, "guard": guard}
    match = f"'label' of a batch has {label}, expected 0 to 9: 10 classes, counted from"
    with pytest.raises(UserError, match=match):
        run(tmp_path, 40, streams=Late(6, label), **options)
    # Noticed when step 8 was to be saved; step 4 is the last without the value.
    assert [line["step"] for line in metrics(tmp_path)] == [5]
    assert run(tmp_path, 6, **options).step == 6


def test_batch_size_can_be_checked_before_data_are_opened():
    expects = {"image": Input(np.uint8, (None,), multiple=8)}
    check_batch_size(expects, 24)
    with pytest.raises(UserError, match="a batch of 20 rows: 'image' .* multiple of 8"):
        check_batch_size(expects, 20)


def test_metric_that_is_not_a_scalar_is_refused(tmp_path):
    def step(state, batch, key):
        return state, {"loss": jnp.zeros(3)}

    system = toy.make()._replace(train_step=step)
    with pytest.raises(UserError, match=r"metric 'loss' has shape \(3,\)"):
        run(tmp_path, 5, system=system)


# --- mean metrics ---------------------------------------------------------------------


def test_metrics_are_means_over_their_interval(tmp_path):
    """Logging every ten steps gives the means of logging every step."""
    run(tmp_path / "tens", 20)
    run(tmp_path / "ones", 20, log_every=1)
    single = [row["loss"] for row in metrics(tmp_path / "ones")]
    tens = [row["loss"] for row in metrics(tmp_path / "tens")]
    np.testing.assert_allclose(tens, np.mean(np.reshape(single, (2, 10)), 1), rtol=1e-5)


def with_masked_mean():
    """The toy system with the mean of odd labels, in every fourth update."""
    system = toy.make()

    def means(state, batch):
        odd = (batch["label"] % 2 == 1) & (state.updates % 4 == 0)
        total = jnp.sum(jnp.where(odd, batch["label"], 0))
        return {"odd": Mean(total, jnp.sum(odd)), "never": Mean(0.0, 0.0)}

    def train_step(state, batch, key):
        new, metrics = system.train_step(state, batch, key)
        return new, metrics | means(state, batch)

    def eval_step(state, batch, key):
        return means(state._replace(updates=0), batch)

    return system._replace(train_step=train_step, eval_step=eval_step)


def odd_labels(*steps):
    labels = [np.asarray(toy.stream().batch_at(step)["label"]) for step in steps]
    return np.concatenate([label[label % 2 == 1] for label in labels])


def test_mean_metric_is_the_quotient_of_sums_over_the_interval(tmp_path):
    run(tmp_path, 20, system=with_masked_mean())
    rows = metrics(tmp_path)
    for row, steps in zip(rows, [(0, 4, 8), (12, 16)], strict=True):
        # Batches have different numbers of odd labels, so it is not a mean of means.
        assert row["odd"] == pytest.approx(odd_labels(*steps).mean())
    assert not any("never" in row for row in rows)


def test_mean_metric_without_values_is_absent(tmp_path):
    run(tmp_path, 8, system=with_masked_mean(), log_every=2)
    present = {row["step"]: "odd" in row for row in metrics(tmp_path)}
    assert present == {2: True, 4: False, 6: True, 8: False}


def test_validation_metrics_are_quotients_of_sums():
    update = Update(with_masked_mean(), toy.stream(), sharding.make_mesh(), 0, {}, None)
    results = update.validate(update.initial().state, toy.stream(), 3)
    assert results == {"validation/odd": pytest.approx(odd_labels(0, 1, 2).mean())}


# --- the guard ------------------------------------------------------------------------


def watching(*names):
    """A system whose metrics and one parameter come from the batch."""
    optimizer = optax.identity()

    def init(key, batch, given=None):
        return NetState.create({"w": jnp.float32(0)}, {}, optimizer)

    def train_step(state, batch, key):
        values = {name: jnp.mean(array) for name, array in batch.items()}
        new = state._replace(
            params={"w": values.pop("weight")}, updates=state.updates + 1
        )
        return new, values

    return System(init, train_step, lambda *_: {}, lambda *_: {}, watch=names)


def skipped_updates(system, values):
    """Returns the updates that a guard rejects; `values` overrides those of steps."""

    class Scalars:
        batch_size = 1

        def batch_at(self, step):
            calm = {"loss": 1.0, "other": 1.0, "weight": 1.0}
            scalars = calm | values.get(step, {})
            return {name: np.full(1, value) for name, value in scalars.items()}

    stream = Scalars()
    guard = Guard(spike=3.0, warm_up=4)
    update = Update(system, stream, sharding.make_mesh(), 0, {}, guard)
    loop = update.initial()
    update.compile(loop)
    rejected = []
    for step in range(12):
        loop, bad = update(loop, update.place(stream.batch_at(step)), step)
        rejected += [step] * bool(bad)
    return rejected


SPIKE = 50.0


@pytest.mark.parametrize(
    ("names", "rejected"),
    [(("loss",), [6]), (("other",), [8]), (("loss", "other"), [6, 8]), ((), [])],
    ids=["loss", "other", "both", "nothing"],
)
def test_guard_rejects_spikes_of_watched_metrics_only(names, rejected):
    values = {6: {"loss": SPIKE}, 8: {"other": SPIKE}}
    assert skipped_updates(watching(*names), values) == rejected


def test_guard_rejects_no_spike_during_the_warm_up():
    values = {2: {"loss": SPIKE}, 3: {"loss": SPIKE}}
    assert skipped_updates(watching("loss"), values) == []


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_guard_rejects_non_finite_watched_metrics_and_states(value):
    values = {5: {"loss": value}, 7: {"other": value}, 9: {"weight": value}}
    assert skipped_updates(watching("loss"), values) == [5, 9]
    assert skipped_updates(watching(), values) == [9]


def test_guard_ignores_a_watched_name_without_a_metric():
    values = {6: {"loss": SPIKE}}
    assert skipped_updates(watching("loss", "absent"), values) == [6]


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


def test_five_in_a_row_roll_back_and_skip_their_data(tmp_path, capsys):
    stream = Poisoned(range(23, 28))
    result = run(tmp_path, 40, streams=stream)
    assert result.step == 40
    assert (
        "updates 24 to 28 had non-finite values or a loss spike; rolled back to step "
        "20, skipping their data"
    ) in capsys.readouterr().err
    # Step 20 trains on the first batch after the bad ones.
    restart = len(stream.asked) - 20
    assert stream.asked[restart:] == list(range(28, 48))
    assert [row["step"] for row in metrics(tmp_path)] == [10, 20, 30, 40]
    # The number of updates of a run without bad batches.
    assert float(result.state.batch_stats["seen"]) == 40 * 16


def test_rolled_back_run_resumes_exactly(tmp_path):
    whole = run(tmp_path / "whole", streams=Poisoned(range(23, 28)))
    for stop in (30, 40):
        parts = run(tmp_path / "parts", stop, streams=Poisoned(range(23, 28)))
    assert toy.same(whole.state, parts.state)


def test_rollback_without_a_checkpoint_restarts_at_step_0(tmp_path):
    stream = Poisoned(range(2, 7))
    result = run(tmp_path, 20, streams=stream)
    assert stream.asked[-20:] == list(range(7, 27))
    assert result.step == 20


def test_third_rollback_stops_the_run_and_names_the_step(tmp_path):
    with pytest.raises(TrainingStopped, match=r"stopped at step 15.*step 10 is"):
        run(tmp_path, 40, streams=Poisoned(range(10, 100)))
    # The last state is undamaged.
    assert run(tmp_path, 10, streams=Poisoned()).step == 10


def test_spike_of_the_loss_is_skipped(tmp_path):
    """Labels are wrong after the mean loss has settled."""

    class Shaken(Poisoned):
        def batch_at(self, step):
            batch = super().batch_at(step)
            if 150 <= step < 153:
                batch["label"] = (batch["label"] + 5) % toy.CLASSES
            return batch

    guard = Guard(spike=6.0)
    result = run(tmp_path, 160, streams=Shaken(), guard=guard)
    assert sum(row.get("skipped", 0) for row in metrics(tmp_path)) == 3
    assert float(result.state.batch_stats["seen"]) == 157 * 16
    calm = run(tmp_path / "calm", 160, streams=Poisoned(), guard=guard)
    assert float(calm.state.batch_stats["seen"]) == 160 * 16


def test_nothing_is_skipped_without_a_guard(tmp_path):
    result = run(tmp_path, 20, streams=Poisoned([5]), guard=None)
    assert not np.isfinite(result.state.params["prototypes"]).all()
