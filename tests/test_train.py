"""The loop: learning, exact resume, the guard, logs, evaluation and interruption."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import DataError
from fr_jax.errors import TrainingStopped, UserError
from fr_jax.evaluation.verification import EvaluationSet, Judged
from fr_jax.optim.ema import with_ema
from fr_jax.training import loop as train
from tests import toy


def run(workdir, steps=40, system=None, stream=None, **options):
    return train.train(
        system or toy.make(),
        stream or toy.stream(),
        workdir,
        num_steps=steps,
        **{"log_every": 10, "save_every": 10, **options},
    )


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(row) for row in text.splitlines()]


def test_the_loss_falls_and_is_written_down(tmp_path):
    result = run(tmp_path)
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.9
    assert rows[0]["images_per_second"] > 0
    assert 0 <= rows[0]["data_wait"] <= 1
    assert result.step == 40
    assert float(result.state.batch_stats["seen"]) == 640
    assert any(path.name.startswith("events") for path in tmp_path.iterdir())


def test_metrics_are_means_over_their_interval(tmp_path):
    """Ten steps at once and each step alone give the same numbers."""
    run(tmp_path / "tens", 20)
    run(tmp_path / "ones", 20, log_every=1)
    single = [row["loss"] for row in lines(tmp_path / "ones")]
    tens = [row["loss"] for row in lines(tmp_path / "tens")]
    np.testing.assert_allclose(tens, np.mean(np.reshape(single, (2, 10)), 1), rtol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    states = [
        run(tmp_path / str(n), seed=seed).state for n, seed in enumerate((7, 7, 8))
    ]
    assert toy.same(states[0], states[1])
    assert not toy.same(states[0], states[2])


@pytest.mark.parametrize("stops", [(5, 15, 40), (10, 33, 40)])
def test_a_run_in_parts_is_the_run_in_one(tmp_path, stops):
    whole = run(tmp_path / "whole")
    for stop in stops:
        part = run(tmp_path / "parts", stop)
    assert toy.same(part.state, whole.state)
    rows = lines(tmp_path / "parts")
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})


def test_a_finished_run_does_nothing_more(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path)
    assert toy.same(first.state, again.state)
    assert len(lines(tmp_path)) == 4


@pytest.mark.parametrize("error", [DataError("a bad record"), KeyboardInterrupt()])
def test_what_was_saved_before_an_error_is_gone_on_from(tmp_path, capsys, error):
    """Also where the error comes while the step is being written."""

    class Broken:
        batch_size = 16

        def batch_at(self, step):
            if step == 20:
                raise error
            return toy.stream().batch_at(step)

    with pytest.raises(type(error)):
        run(tmp_path, stream=Broken())
    result = run(tmp_path)
    assert "resumed at step 20" in capsys.readouterr().err
    assert toy.same(result.state, run(tmp_path / "whole").state)


def test_metrics_beyond_the_checkpoint_are_cut_back(tmp_path):
    run(tmp_path, 20)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 25, "loss": 1.0}\n{"step": 27, "lo')
    run(tmp_path, 40)
    assert [row["step"] for row in lines(tmp_path)] == [10, 20, 30, 40]


# --- the guard ------------------------------------------------------------------------


class Poisoned:
    """The toy stream with rows that are not numbers in some batches."""

    batch_size = 16

    def __init__(self, bad):
        self._clean, self._bad = toy.stream(), set(bad)
        self.asked = []

    def batch_at(self, step):
        self.asked.append(step)
        batch = dict(self._clean.batch_at(step))
        rows = np.zeros(self.batch_size, np.float32)
        rows[3] = step in self._bad
        return batch | {"poison": jnp.array(rows)}


def test_a_bad_update_is_skipped_and_counted(tmp_path):
    stream = Poisoned([12, 13, 27])
    result = run(tmp_path, 40, stream=stream)
    assert float(result.state.batch_stats["seen"]) == 37 * 16
    assert all(np.isfinite(leaf).all() for leaf in toy.leaves(result.state))
    skipped = {row["step"]: row.get("skipped", 0) for row in lines(tmp_path)}
    assert skipped == {10: 0, 20: 2, 30: 1, 40: 0}
    assert all(np.isfinite(row["loss"]) for row in lines(tmp_path))


def test_skipping_leaves_every_bit_alone(tmp_path):
    before = run(tmp_path, 10, stream=Poisoned([]))
    after = run(tmp_path, 13, stream=Poisoned([10, 11, 12]), save_every=100)
    assert toy.same(before.state, after.state)


def test_five_in_a_row_go_back_and_on_with_later_data(tmp_path):
    stream = Poisoned(range(23, 28))
    result = run(tmp_path, 40, stream=stream)
    assert result.step == 40
    # Back to step 20, whose batch is now the first one behind the bad stretch.
    restart = len(stream.asked) - 20
    assert stream.asked[restart:] == list(range(28, 48))
    assert [row["step"] for row in lines(tmp_path)] == [10, 20, 30, 40]
    # The same numbers as a run whose data never had the bad stretch.
    offset = int(np.asarray(result.state.batch_stats["seen"]) / 16)
    assert offset == 40


def test_a_rolled_back_run_resumes_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", stream=Poisoned(range(23, 28)))
    run(tmp_path / "parts", 30, stream=Poisoned(range(23, 28)))
    parts = run(tmp_path / "parts", 40, stream=Poisoned(range(23, 28)))
    assert toy.same(whole.state, parts.state)


def test_going_back_without_a_checkpoint_starts_anew(tmp_path):
    stream = Poisoned(range(2, 7))
    result = run(tmp_path, 20, stream=stream)
    assert stream.asked[-20:] == list(range(7, 27))
    assert result.step == 20


def test_the_third_time_the_run_stops_and_says_where(tmp_path):
    with pytest.raises(TrainingStopped, match=r"stopped at step 15.*step 10 is"):
        run(tmp_path, 40, stream=Poisoned(range(10, 100)))
    clean = run(tmp_path, 10)  # its last state is whole
    assert clean.step == 10


def test_a_leap_of_the_loss_is_caught(tmp_path):
    """Pixels turned to noise after the mean loss has settled."""

    class Shaken(Poisoned):
        def batch_at(self, step):
            batch = super().batch_at(step)
            if 150 <= step < 153:
                batch["label"] = (batch["label"] + 5) % toy.CLASSES
            return batch

    guard = train.Guard(spike=6.0)
    result = run(tmp_path, 160, stream=Shaken([]), guard=guard)
    assert sum(row.get("skipped", 0) for row in lines(tmp_path)) == 3
    assert float(result.state.batch_stats["seen"]) == 157 * 16
    calm = run(tmp_path / "calm", 160, stream=Poisoned([]), guard=guard)
    assert float(calm.state.batch_stats["seen"]) == 160 * 16


def test_without_a_guard_nothing_is_skipped(tmp_path):
    result = run(tmp_path, 20, stream=Poisoned([5]), guard=None)
    assert not np.isfinite(result.state.params["prototypes"]).all()


# --- evaluation, feedback, averages ---------------------------------------------------


def pairs():
    arrays = toy.arrays(80, seed=5)
    order = np.argsort(arrays["label"], kind="stable")
    first = np.arange(0, 78, 2)
    chosen = np.stack([order[first], order[first + 1]], 1)
    mixed = np.stack([order[first], np.roll(order[first], 11)], 1)
    both = np.concatenate([chosen, mixed])
    same = arrays["label"][both[:, 0]] == arrays["label"][both[:, 1]]
    folds = np.arange(len(both)) % 2
    return EvaluationSet("toy", arrays["image"], both, same, folds)


def test_evaluation_runs_on_schedule_and_rises(tmp_path):
    result = run(
        tmp_path,
        40,
        evaluation_sets=[pairs()],
        evaluate_every=20,
        evaluation_batch_size=32,
        validation=toy.stream(),
    )
    rows = [row for row in lines(tmp_path) if "toy/accuracy" in row]
    assert [row["step"] for row in rows] == [20, 40]
    assert rows[-1]["toy/accuracy"] > 0.8
    assert rows[-1]["validation/loss"] < rows[0]["validation/loss"]
    assert result.metrics["toy/accuracy"] == rows[-1]["toy/accuracy"]


BEST = {"evaluate_every": 10, "keep": 2, "save_every": 5}
BEST |= {"best_metric": "toy/accuracy, toy/auc"}


def scored(monkeypatch, scores):
    """Evaluations that find these means of accuracy and AUC, one after the other."""
    values = iter([0.0, *scores])  # the first learns what is measured

    def judged(*_):
        value = next(values)
        results = {"toy:60/accuracy": value - 0.1, "toy:60/auc": value + 0.1}
        return Judged(results, np.zeros(0), np.zeros(0))

    monkeypatch.setattr(train, "judge", judged)


def kept(workdir):
    folder = workdir / "checkpoints"
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def test_the_best_step_is_kept_and_returned(tmp_path, monkeypatch, capsys):
    options = BEST | {"evaluation_sets": [pairs()]}
    scores = [0.2, 0.9, 0.3, 0.4, 0.5, 0.6]
    scored(monkeypatch, scores)
    whole = run(tmp_path / "whole", 60, **options)
    assert kept(tmp_path / "whole") == {20, 55, 60}
    assert whole.step == 20 and toy.same(whole.state, run(tmp_path / "20", 20).state)
    expected = {"metric": BEST["best_metric"], "last_step": 60}
    assert whole.best == expected | {"value": pytest.approx(0.9)}
    assert "step 20 of 60 is the one handed over" in capsys.readouterr().err

    scored(monkeypatch, scores[:4])  # what was best is known after a pause, too
    assert run(tmp_path / "parts", 40, **options).step == 20
    scored(monkeypatch, scores[4:])
    parts = run(tmp_path / "parts", 60, **options)
    assert parts.step == 20 and toy.same(parts.state, whole.state)
    assert kept(tmp_path / "parts") == {20, 55, 60}

    (tmp_path / "parts/checkpoints/20/manifest.json").write_text("{}")  # damaged
    scored(monkeypatch, [])
    last = run(tmp_path / "parts", 60, **options)  # does nothing more
    assert last.step == 60 and last.best["value"] == pytest.approx(0.6)


def test_numbers_of_steps_that_make_no_sense(tmp_path):
    for options, match in (
        ({"save_every": 0}, "save_every is 0; it is a number of steps, at least 1"),
        ({"evaluate_every": -1}, "evaluate_every is -1; .* or 0 for none"),
        ({"keep": 0}, "keep is 0; at least 1 checkpoint"),
        ({"profile": (5,)}, r"profile is \(5,\); give \(first step, last step\)"),
    ):
        options = {"validation": toy.stream()} | options
        with pytest.raises(UserError, match=match):
            run(tmp_path / "w", **options)
    assert not (tmp_path / "w").exists()


def test_a_best_metric_that_nothing_measures_is_told_before_the_first_step(tmp_path):
    options = BEST | {"evaluation_sets": [pairs()], "best_metric": "toy/acuracy"}
    with pytest.raises(UserError, match="did you mean 'toy/accuracy'"):
        run(tmp_path / "w", **options)
    assert not (tmp_path / "w").exists()


def test_feedback_lives_in_the_state_and_can_stop(tmp_path):
    def feedback(state, metrics):
        count = state.batch_stats["seen"] + 1000
        stop = metrics["validation/loss"] < 1.0
        return state._replace(batch_stats={"seen": count}), stop

    options = {
        "system": toy.make(feedback=feedback),
        "evaluate_every": 10,
        "validation": toy.stream(),
    }
    whole = run(tmp_path / "whole", 200, **options)
    assert whole.step < 200
    assert whole.step % 10 == 0
    seen = float(whole.state.batch_stats["seen"])
    assert seen == whole.step * 16 + 1000 * whole.step // 10
    run(tmp_path / "parts", 10, **options)
    parts = run(tmp_path / "parts", 200, **options)
    assert toy.same(parts.state, whole.state)
    again = run(tmp_path / "parts", 200, **options)  # it had stopped for good
    assert again.step == whole.step


def test_an_averaged_network_is_what_is_judged(tmp_path):
    system = with_ema(toy.make(), 0.9)
    result = run(tmp_path, 20, system=system)
    batch = toy.stream().batch_at(0)
    averaged = system.embed(result.state, batch)["embedding"]
    live = toy.make().embed(result.state.live, batch)["embedding"]
    by_hand = toy.make().embed(
        result.state.live._replace(params=result.state.params), batch
    )["embedding"]
    np.testing.assert_array_equal(averaged, by_hand)
    assert np.abs(averaged - live).max() > 0
    parts = run(tmp_path / "parts", 7, system=system)
    parts = run(tmp_path / "parts", 20, system=system)
    assert toy.same(parts.state, result.state)


def test_the_average_is_the_recursion(tmp_path):
    system, plain = with_ema(toy.make(), 0.9), toy.make()
    batch = toy.stream().batch_at(0)
    state = system.init(jax.random.key(0), batch)
    live = plain.init(jax.random.key(0), batch)
    average = np.asarray(live.params["prototypes"])
    for number in range(4):
        state, _ = system.train_step(state, batch, jax.random.key(number))
        live, _ = plain.train_step(live, batch, jax.random.key(number))
        decay = min(0.9, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * np.asarray(live.params["prototypes"])
    np.testing.assert_allclose(
        state.params["prototypes"], average, rtol=1e-5, atol=1e-8
    )


# --- leaving and other ends -----------------------------------------------------------


def test_sigterm_saves_the_current_step(tmp_path):
    class Terminating(Poisoned):
        def batch_at(self, step):
            if step == 17:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch_at(step)

    before = signal.getsignal(signal.SIGTERM)
    result = run(tmp_path, 40, stream=Terminating([]), save_every=100)
    assert result.interrupted
    assert result.step == 18
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "checkpoints/18/manifest.json").exists()
    rest = run(tmp_path, 40, stream=Poisoned([]))
    whole = run(tmp_path / "whole", 40, stream=Poisoned([]))
    assert toy.same(rest.state, whole.state)


def test_one_program_is_compiled_however_often_it_is_evaluated(tmp_path, caplog):
    with jax.log_compiles():
        run(
            tmp_path,
            40,
            evaluation_sets=[pairs()],
            evaluate_every=10,
            evaluation_batch_size=32,
        )
    compiled = [r.message for r in caplog.records if r.message.startswith("Compiling")]
    counts = {
        name: sum(f"jit({name})" in m or f" {name} " in m for m in compiled)
        for name in ("_guarded", "views", "_take")
    }
    assert counts == {"_guarded": 1, "views": 1, "_take": 1}


def test_a_profile_of_some_steps(tmp_path):
    run(tmp_path, 12, profile=(4, 6))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_given_weights_enter_by_name(tmp_path):
    weights = jnp.ones((toy.SIDE * toy.SIDE * 3, 128))
    result = run(tmp_path, 1, system=toy.make(0.0), given={"weights": weights})
    assert (np.asarray(result.state.params["prototypes"]) == 1).all()


def test_metrics_that_are_no_scalars_and_batches_that_do_not_fit(tmp_path):
    def step(state, batch, key):
        return state, {"loss": jnp.zeros(3)}

    system = toy.make()._replace(train_step=step)
    with pytest.raises(UserError, match=r"metric 'loss' has shape \(3,\)"):
        run(tmp_path, 5, system=system)
    with pytest.raises(UserError, match="a batch of 500 rows from a set of 120"):
        toy.stream(500)
