"""The training loop: learning, exact resume, evaluation, logs and interruption."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import DataError
from fr_jax.errors import UserError
from fr_jax.evaluation.verification import Verification
from fr_jax.optim.ema import with_ema
from fr_jax.training.data import Streams
from fr_jax.training.loop import train
from tests.support import toy
from tests.support.toy import metrics, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Workdir and result of a run of 40 steps without a pause."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


def test_loss_falls_and_is_logged(whole):
    workdir, result = whole
    rows = metrics(workdir)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.9
    assert rows[0]["images_per_second"] > 0
    assert 0 <= rows[0]["data_wait"] <= 1
    assert result.step == 40
    assert float(result.state.batch_stats["seen"]) == 640
    assert any(path.name.startswith("events") for path in workdir.iterdir())


def test_same_seed_gives_same_bits_and_another_seed_does_not(whole, tmp_path):
    again, other = (run(tmp_path / str(seed), seed=seed).state for seed in (0, 8))
    assert toy.same(again, whole[1].state)
    assert not toy.same(other, whole[1].state)


@pytest.mark.parametrize("stops", [(5, 15, 40), (10, 33, 40)])
def test_run_in_parts_equals_run_in_one(whole, tmp_path, stops):
    for stop in stops:
        part = run(tmp_path, stop)
    assert toy.same(part.state, whole[1].state)
    steps = [row["step"] for row in metrics(tmp_path)]
    assert steps == sorted(set(steps))


def test_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path, 20)
    again = run(tmp_path, 20)
    assert toy.same(first.state, again.state)
    assert len(metrics(tmp_path)) == 2


@pytest.mark.parametrize("error", [DataError("a bad record"), KeyboardInterrupt()])
def test_checkpoint_before_an_error_is_resumed(whole, tmp_path, capsys, error):
    """The error may be raised while the checkpoint is being written."""

    class Broken:
        batch_size = 16

        def __init__(self):
            self._whole = toy.stream()

        def batch_at(self, step):
            if step == 20:
                raise error
            return self._whole.batch_at(step)

    with pytest.raises(type(error)):
        run(tmp_path, streams=Broken())
    result = run(tmp_path)
    assert "resumed at step 20" in capsys.readouterr().err
    assert toy.same(result.state, whole[1].state)


def test_metrics_after_the_checkpoint_are_removed(tmp_path):
    run(tmp_path, 20)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 25, "loss": 1.0}\n{"step": 27, "lo')
    run(tmp_path, 40)
    assert [row["step"] for row in metrics(tmp_path)] == [10, 20, 30, 40]


# --- evaluation ---------------------------------------------------------------------


def verification(name="toy"):
    arrays = toy.arrays(80, seed=5)
    order = np.argsort(arrays["label"], kind="stable")
    first = np.arange(0, 78, 2)
    chosen = np.stack([order[first], order[first + 1]], 1)
    mixed = np.stack([order[first], np.roll(order[first], 11)], 1)
    both = np.concatenate([chosen, mixed])
    same = arrays["label"][both[:, 0]] == arrays["label"][both[:, 1]]
    folds = np.arange(len(both)) % 2
    return Verification(name, arrays["image"], both, same, folds)


def test_evaluation_runs_on_schedule_and_accuracy_rises(tmp_path, caplog):
    streams = Streams(toy.stream(), toy.stream(), [verification()])
    with jax.log_compiles():
        result = run(
            tmp_path, streams=streams, evaluate_every=10, evaluation_batch_size=32
        )
    rows = [row for row in metrics(tmp_path) if "toy/accuracy" in row]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["toy/accuracy"] > 0.8
    assert rows[-1]["validation/loss"] < rows[0]["validation/loss"]
    assert result.metrics["toy/accuracy"] == rows[-1]["toy/accuracy"]
    messages = [record.message for record in caplog.records]
    compiled = [text for text in messages if text.startswith("Compiling")]
    # Each program is compiled once.
    counts = {
        name: sum(f"jit({name})" in text or f" {name} " in text for text in compiled)
        for name in ("_guarded", "views", "eval_step")
    }
    assert counts == {"_guarded": 1, "views": 1, "eval_step": 1}


class Scored:
    """An evaluator with given scores, each the mean of its two metrics."""

    metric_names = ("toy:60/accuracy", "toy:60/auc")

    def __init__(self, scores=()):
        self._scores = iter(scores)

    def __call__(self, trained):
        score = next(self._scores)
        return dict(zip(self.metric_names, (score - 0.1, score + 0.1)))


BEST = {
    "evaluate_every": 10,
    "keep": 2,
    "save_every": 5,
    "best_metric": "toy/accuracy, toy/auc",
    "guard": None,  # keeps more steps, for rollbacks
}


def run_scored(workdir, steps, scores):
    streams = Streams(toy.stream(), evaluators=[Scored(scores)])
    return run(workdir, steps, streams=streams, **BEST)


def kept(workdir):
    folder = workdir / "checkpoints"
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def test_best_step_is_kept_and_returned(tmp_path, capsys):
    scores = [0.2, 0.9, 0.3, 0.4, 0.5, 0.6]
    whole = run_scored(tmp_path / "whole", 60, scores)
    assert kept(tmp_path / "whole") == {20, 55, 60}
    assert whole.step == 20
    assert toy.same(whole.state, run(tmp_path / "20", 20).state)
    expected = {"metric": BEST["best_metric"], "last_step": 60}
    assert whole.best == expected | {"value": pytest.approx(0.9)}
    assert "step 20 of 60 is handed over" in capsys.readouterr().err

    # The same after resuming.
    assert run_scored(tmp_path / "parts", 40, scores[:4]).step == 20
    parts = run_scored(tmp_path / "parts", 60, scores[4:])
    assert parts.step == 20
    assert toy.same(parts.state, whole.state)
    assert kept(tmp_path / "parts") == {20, 55, 60}

    # The second best if the best, or its score, is damaged.
    (tmp_path / "parts/checkpoints/20/run.json").write_text("{x")
    last = run_scored(tmp_path / "parts", 60, [])
    assert last.step == 60
    assert last.best["value"] == pytest.approx(0.6)


def test_best_step_of_a_loss_has_its_lowest_value(tmp_path):
    results = {}
    for metric in ("validation/loss", "-validation/loss"):
        results[metric] = run(
            tmp_path / metric[0],
            20,
            streams=Streams(toy.stream(), toy.stream()),
            best_metric=metric,
            evaluate_every=5,
        )
    rows = [row for row in metrics(tmp_path / "-") if "validation/loss" in row]
    by_loss = sorted(rows, key=lambda row: row["validation/loss"])
    assert by_loss[0]["step"] != by_loss[-1]["step"]
    assert results["-validation/loss"].step == by_loss[0]["step"]
    assert results["validation/loss"].step == by_loss[-1]["step"]
    lowest = pytest.approx(-by_loss[0]["validation/loss"])
    assert results["-validation/loss"].best["value"] == lowest


def test_unknown_best_metric_is_refused_before_anything_runs(tmp_path):
    """Evaluators declare their metric names, so none has to run."""
    stream = toy.Poisoned()
    streams = Streams(stream, evaluators=[Scored()])
    options = BEST | {"best_metric": "toy/acuracy"}
    with pytest.raises(UserError, match="did you mean 'toy:60/accuracy'"):
        run(tmp_path / "w", streams=streams, **options)
    assert stream.asked == []
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"save_every": 0}, "save_every is 0; use 1 or more"),
        ({"log_every": 0}, "log_every is 0; use 1 or more"),
        ({"evaluate_every": -1}, "evaluate_every is -1; use 0 or more"),
        ({"seed": -1}, "seed is -1; use 0 to 4294967295"),
        ({"steps": -1}, "num_steps is -1; use 0 or more"),
        ({"validation_steps": 0}, "validation_steps is 0; use 1 or more"),
        ({"evaluation_batch_size": 0}, "evaluation_batch_size is 0; use 1 or more"),
        ({"keep": 0}, "keep is 0; use 1 or more"),
        ({"profile": (5,)}, r"profile is \(5,\); give \(first step, last step\)"),
        ({"best_metric": "a/accuracy"}, "'a/accuracy' needs evaluate_every"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_invalid_numbers_of_steps_are_refused(tmp_path, options, match):
    with pytest.raises(UserError, match=match):
        run(tmp_path / "w", streams=Streams(toy.stream(), toy.stream()), **options)
    assert not (tmp_path / "w").exists()


def test_networks_are_built_only_for_evaluators_that_use_them(tmp_path):
    handed_over = []

    class Evaluator:
        metric_names = ("answer",)

        def __init__(self, uses_networks):
            self._uses_networks = uses_networks

        def __call__(self, trained):
            count = len(trained.networks) if self._uses_networks else -1
            return {"answer": float(count)}

    def hand_over(state):
        handed_over.append(int(state.updates))
        return {}

    system = toy.make()._replace(hand_over=hand_over)
    for uses in (False, True):
        streams = Streams(toy.stream(), evaluators=[Evaluator(uses)])
        run(tmp_path / str(uses), 10, system=system, streams=streams, evaluate_every=5)
        assert handed_over == ([5, 10] if uses else [])


# --- feedback, averages ---------------------------------------------------------------


def test_feedback_changes_the_state_and_stops_the_run(tmp_path):
    def feedback(state, results):
        count = state.batch_stats["seen"] + 1000
        stop = results["validation/loss"] < 1.0
        return state._replace(batch_stats={"seen": count}), stop

    options = {
        "system": toy.make(feedback=feedback),
        "evaluate_every": 10,
        "streams": Streams(toy.stream(), toy.stream()),
    }
    whole = run(tmp_path / "whole", 200, **options)
    assert whole.step < 200
    assert whole.step % 10 == 0
    seen = float(whole.state.batch_stats["seen"])
    assert seen == whole.step * 16 + 1000 * whole.step // 10
    run(tmp_path / "parts", 10, **options)
    parts = run(tmp_path / "parts", 200, **options)
    assert toy.same(parts.state, whole.state)
    again = run(tmp_path / "parts", 200, **options)  # does not train again
    assert again.step == whole.step


def test_feedback_on_a_missing_metric_is_refused_before_the_first_step(tmp_path):
    def feedback(state, results):
        if "other/accuracy" not in results:
            raise UserError(f"no other/accuracy among {sorted(results)}")
        return state, False

    names = "'toy:60/accuracy', 'toy:60/auc'"
    for validation, among in ((None, ""), (toy.stream(), ", 'validation/loss'")):
        streams = Streams(toy.stream(), validation, [Scored()])
        with pytest.raises(UserError, match=f"among .{names}{among}]"):
            run(
                tmp_path / str(bool(validation)),
                system=toy.make(feedback=feedback),
                streams=streams,
                evaluate_every=10,
            )
        assert not list(tmp_path.rglob("metrics.jsonl"))


def test_averaged_network_is_evaluated_and_resumes_exactly(tmp_path):
    system = with_ema(toy.make(), 0.9)
    result = run(tmp_path / "whole", 20, system=system)
    batch = toy.stream().batch_at(0)
    averaged = system.embed(result.state, batch)["embedding"]
    live = toy.make().embed(result.state.live, batch)["embedding"]
    expected = toy.make().embed(
        result.state.live._replace(params=result.state.params), batch
    )["embedding"]
    np.testing.assert_array_equal(averaged, expected)
    assert np.abs(averaged - live).max() > 0
    for stop in (7, 20):
        parts = run(tmp_path / "parts", stop, system=system)
    assert toy.same(parts.state, result.state)


def test_average_follows_its_recursion():
    system, plain = with_ema(toy.make(), 0.9), toy.make()
    batch = toy.stream().batch_at(0)
    averaged_step, plain_step = jax.jit(system.train_step), jax.jit(plain.train_step)
    state = system.init(jax.random.key(0), batch)
    live = plain.init(jax.random.key(0), batch)
    average = np.asarray(live.params["prototypes"])
    for number in range(4):
        state, _ = averaged_step(state, batch, jax.random.key(number))
        live, _ = plain_step(live, batch, jax.random.key(number))
        decay = min(0.9, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * np.asarray(live.params["prototypes"])
    np.testing.assert_allclose(
        state.params["prototypes"], average, rtol=1e-5, atol=1e-8
    )


# --- interruption, profile, given weights, old layouts --------------------------------


def test_sigterm_saves_the_current_step(tmp_path):
    class Terminating(toy.Poisoned):
        def batch_at(self, step):
            if step == 17:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch_at(step)

    before = signal.getsignal(signal.SIGTERM)
    result = run(tmp_path, streams=Terminating(), save_every=100)
    assert result.interrupted
    assert result.step == 18
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "checkpoints/18/manifest.json").exists()
    rest = run(tmp_path, streams=toy.Poisoned())
    whole = run(tmp_path / "whole", streams=toy.Poisoned())
    assert toy.same(rest.state, whole.state)


def test_profile_of_some_steps_is_written(tmp_path):
    run(tmp_path, 12, profile=(4, 6))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_given_weights_enter_by_name(tmp_path):
    weights = jnp.ones((toy.SIDE * toy.SIDE * 3, 128))
    result = run(tmp_path, 1, system=toy.make(0.0), given={"weights": weights})
    assert (np.asarray(result.state.params["prototypes"]) == 1).all()


def test_workdir_of_layout_1_is_refused(tmp_path):
    (tmp_path / "checkpoints/500").mkdir(parents=True)
    stream = toy.stream()
    with pytest.raises(UserError, match=r"fr_jax 0\.1\.0") as caught:
        train(toy.make(), stream, tmp_path, num_steps=10)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "metrics.jsonl").exists()
