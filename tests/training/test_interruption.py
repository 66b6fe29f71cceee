"""Signals while training, in one process: what is saved, logged and repeated."""

import os
import re
import signal
import threading
import time

import pytest

from fr_jax.training.data import Streams
from tests.support import toy
from tests.support.toy import metrics, run

RATES = ("images_per_second", "steps_per_second", "data_wait")


class Sending(toy.Poisoned):
    """The toy stream; signals are sent while the batches of some steps are made."""

    def __init__(self, signals):
        super().__init__()
        self._signals = {step: list(numbers) for step, numbers in signals.items()}

    def batch_at(self, step):
        for number in self._signals.pop(step, []):
            os.kill(os.getpid(), number)
        return super().batch_at(step)


def unclocked(workdir):
    """The lines of metrics.jsonl without rates."""
    return [
        {name: value for name, value in row.items() if name not in RATES}
        for row in metrics(workdir)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Workdir and result of a run of 40 steps without interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir, streams=toy.Poisoned())


def resumed(workdir, signals, steps=40, **options):
    """Trains until the end, as often as it is interrupted.

    Returns the result, and the number of calls that Ctrl-C or SIGTERM ended.
    """
    signals, interrupted = dict(signals), 0
    while True:
        try:
            result = run(workdir, steps, streams=Sending(signals), **options)
        except KeyboardInterrupt as error:
            step = int(re.search(r"step (\d+) is saved in", str(error))[1])
        else:
            if not result.interrupted:
                return result, interrupted
            step = result.step
        interrupted += 1
        signals = {at: numbers for at, numbers in signals.items() if at >= step}


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM]
)
def test_six_interruptions_change_neither_state_nor_metrics(whole, tmp_path, number):
    steps = (1, 4, 9, 16, 30, 39)
    result, interrupted = resumed(tmp_path, {step: [number] for step in steps})
    assert interrupted == 6
    assert toy.same(result.state, whole[1].state)
    assert unclocked(tmp_path) == unclocked(whole[0])


def test_ctrl_c_is_raised_after_the_step_is_saved(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(
        KeyboardInterrupt, match="step 18 is saved in .*; the same call"
    ):
        run(tmp_path, streams=Sending({17: [signal.SIGINT]}), save_every=100)
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "checkpoints/18/manifest.json").exists()


def test_a_second_ctrl_c_is_raised_at_once_and_the_run_goes_on(whole, tmp_path):
    twice = Sending({17: [signal.SIGINT, signal.SIGINT]})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, streams=twice)
    assert not (tmp_path / "checkpoints/18").exists()
    assert toy.same(run(tmp_path, streams=toy.Poisoned()).state, whole[1].state)
    assert unclocked(tmp_path) == unclocked(whole[0])


# --- evaluation ---------------------------------------------------------------------


class Mean:
    """Evaluates to the mean embedding; sends signals during some of its calls."""

    metric_names = ("toy/mean",)

    def __init__(self, signals=None):
        self._signals, self.calls, self.completed = signals or {}, 0, 0

    def __call__(self, trained):
        self.calls += 1
        embedding = trained.embed(toy.arrays()["image"][:8])["embedding"]
        if number := self._signals.get(self.calls):
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        self.completed += 1
        return {"toy/mean": float(abs(embedding).mean())}


def halved(state, metrics):
    """A feedback that leaves its trace in the state, however often it is called."""
    params = {name: 0.9 * value for name, value in state.params.items()}
    return state._replace(params=params), False


EVALUATED = {"evaluate_every": 10, "best_metric": "toy/mean"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Workdir and result of a run with evaluations that change the state."""
    workdir, system = tmp_path_factory.mktemp("evaluated"), toy.make(feedback=halved)
    streams = Streams(toy.Poisoned(), None, [Mean()])
    return workdir, run(workdir, system=system, streams=streams, **EVALUATED)


@pytest.mark.parametrize(
    ("number", "log_every"),
    [
        (signal.SIGINT, 10),
        pytest.param(signal.SIGINT, 100, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 10, marks=pytest.mark.long),
    ],
)
def test_an_evaluation_is_abandoned_and_repeated(
    evaluated, tmp_path, number, log_every
):
    """Once at step 20, and at step 40, the last, twice."""
    evaluator, system = (
        Mean(dict.fromkeys((2, 5, 6), number)),
        toy.make(feedback=halved),
    )
    streams = Streams(toy.Poisoned(), None, [evaluator])
    ends = []
    for _ in range(4):
        steps = written(tmp_path)
        try:
            result = run(
                tmp_path,
                system=system,
                streams=streams,
                **EVALUATED | {"log_every": log_every},
            )
            ends.append((result.interrupted, result.step))
        except KeyboardInterrupt as error:
            ends.append((True, int(re.search(r"step (\d+)", str(error))[1])))
        # A repeated evaluation never costs the checkpoint that it began from.
        now = written(tmp_path)
        assert all(now.get(file) == time for file, time in steps.items())
    assert [end for end, _ in ends] == [True, True, True, False]
    assert [step for _, step in ends][:3] == [20, 40, 40]
    assert (evaluator.calls, evaluator.completed) == (7, 4)
    assert toy.same(result.state, evaluated[1].state)
    assert result.best == evaluated[1].best
    expected = unclocked(evaluated[0])
    if log_every == 10:
        assert unclocked(tmp_path) == expected
    else:
        evaluations = [row for row in expected if "toy/mean" in row]
        assert [row for row in unclocked(tmp_path) if "toy/mean" in row] == evaluations


def written(workdir):
    """The files of arrays in checkpoints, and when they were written."""
    files = (workdir / "checkpoints").glob("*/default/**/*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def test_a_signal_before_an_evaluation_saves_without_it(evaluated, tmp_path):
    """The signal is received in the step, so that its evaluation does not begin."""
    evaluator, system = Mean(), toy.make(feedback=halved)
    first = Streams(Sending({19: [signal.SIGTERM]}), None, [evaluator])
    result = run(tmp_path, system=system, streams=first, **EVALUATED)
    assert (result.interrupted, result.step, evaluator.calls) == (True, 20, 1)
    streams = Streams(toy.Poisoned(), None, [evaluator])
    result = run(tmp_path, system=system, streams=streams, **EVALUATED)
    assert toy.same(result.state, evaluated[1].state)
    assert unclocked(tmp_path) == unclocked(evaluated[0])


# --- threads ------------------------------------------------------------------------


def test_no_thread_of_a_run_is_left(tmp_path):
    """Of the stream, the checkpoints and the log, after the end and after Ctrl-C."""
    run(tmp_path / "warm", 2)  # threads that libraries keep
    before = set(threading.enumerate())
    with toy.stream() as stream:
        run(tmp_path / "whole", 20, streams=stream)
    with toy.stream() as stream, pytest.raises(KeyboardInterrupt):
        batch_at = stream.batch_at

        def interrupting(step):
            if step == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return batch_at(step)

        stream.batch_at = interrupting
        run(tmp_path / "interrupted", 20, streams=stream)
    assert set(threading.enumerate()) <= before
