"""The one training loop: any System, any stream, any mesh.

    batch = stream.batch_at(position(step))
    state, metrics = train_step(state, batch, fold_in(key, position(step)))

Around these two lines: restore, log, evaluate, save, and roll back after rejected
updates. The same seed gives the same numbers, however often the run is killed.
"""

import collections
import contextlib
import functools
import math
import signal
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from fr_jax import interrupt
from fr_jax.backend import sharding
from fr_jax.embedder.batched import BatchedEmbed
from fr_jax.errors import TrainingStopped, UserError, check_range
from fr_jax.evaluation.evaluator import LazyNetworks, Trained
from fr_jax.evaluation.results import summary
from fr_jax.system import PyTree, System, score
from fr_jax.training import workdir as workdirs
from fr_jax.training.checkpoint import Checkpoints
from fr_jax.training.data import Stream, Streams
from fr_jax.training.digests import of_weights
from fr_jax.training.guard import Guard, from_array, position, skip
from fr_jax.training.identity import Identity, resumed
from fr_jax.training.metric_log import MetricLog
from fr_jax.training.update import OUTSTANDING, STOPPED, Update

_RANGES = {
    "num_steps": (0,),
    "seed": (0, 2**32 - 1),
    "evaluation_batch_size": (1,),
    "validation_steps": (1,),
    "log_every": (1,),
    "evaluate_every": (0,),
    "save_every": (1,),
    "keep": (1,),
}


class TrainResult(NamedTuple):
    """The result of a run: its last step, or the best one if `best_metric` is set.

    Attributes:
      metrics: results of the last evaluation.
      interrupted: True after SIGTERM; the last step is saved.
      best: 'metric' and 'value' of the best step, and 'last_step' of the run.
      identity: of the run, as stored with its checkpoints.
    """

    state: PyTree
    step: int
    metrics: dict[str, float]
    interrupted: bool
    best: dict[str, Any] | None = None
    identity: Identity = Identity()


@workdirs.holding
def train(
    system: System,
    streams: Streams | Stream,
    workdir: epath.PathLike,
    *,
    num_steps: int,
    seed: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    given: Mapping[str, PyTree] | None = None,
    evaluation_batch_size: int = 64,
    validation_steps: int = 10,
    log_every: int = 50,
    evaluate_every: int = 0,
    save_every: int = 500,
    keep: int = 3,
    best_metric: str = "",
    guard: Guard | None = Guard(),  # noqa: B008 - immutable
    profile: tuple[int, int] | None = None,
    identity: Identity = Identity(),  # noqa: B008 - immutable
    fresh: bool = False,
    prolongs: System | None = None,
) -> TrainResult:
    """Returns the result of training until `num_steps`; resumes a run in `workdir`.

    Args:
      system: the method.
      streams: training batches and evaluators, or a training stream alone.
      workdir: local or gs://; checkpoints, metrics.jsonl, TensorBoard events. A run
        that was stopped or killed earlier resumes from its last checkpoint, if its
        identity (settings, data, given weights, update) is the same.
      num_steps: total of the run, including steps before it resumed.
      mesh: defaults to all devices on the axis 'data'.
      given: trained variables by name, passed to `system.init`.
      validation_steps: batches of `streams.validation` for `system.eval_step`.
      log_every, save_every: in steps, at least 1.
      evaluate_every: in steps; 0 disables evaluation.
      keep: number of newest checkpoints kept, at least 1; with a guard also those that
        a rollback may need, one if they are further apart than `guard.reach`.
      best_metric: metric of an evaluation, such as 'lfw/accuracy' (of the set or of its
        evaluated subset), or several separated by commas, which are averaged. The step
        with the highest value is kept as well, and returned.
      guard: None accepts every update.
      profile: (first, last) step of a profiler trace, written to workdir/profile.
      identity: settings, data and provenance of the run, stored with its checkpoints;
        by default the arguments of this function are the settings.
      fresh: moves a run in `workdir` aside, to workdir/previous-N, and begins anew.
      prolongs: the system as it was made for the smaller number of steps of the run in
        `workdir`; its update must be that of the run, which goes on with `system`.

    Ctrl-C and SIGTERM end the run after the running step, which is saved; an evaluation
    is abandoned, and repeated when the run resumes. A second Ctrl-C does not save.

    Raises:
      KeyboardInterrupt: after Ctrl-C; the message has the saved step.
      TrainingStopped: after too many rollbacks; the message has the step.
      UserError: for batches that the system does not expect, a batch that the mesh
        cannot hold, more memory than the devices have, a workdir that is in use or
        holds another run.
    """
    if not isinstance(streams, Streams):
        streams = Streams(streams)
    stream, validation = streams.train, streams.validation
    check_settings(
        num_steps=num_steps,
        seed=seed,
        evaluation_batch_size=evaluation_batch_size,
        validation_steps=validation_steps,
        log_every=log_every,
        evaluate_every=evaluate_every,
        save_every=save_every,
        keep=keep,
    )
    if guard:
        guard.check()
    if profile and len(profile) != 2:
        raise UserError(f"profile is {profile}; give (first step, last step)")
    validates = system.eval_step is not None and validation is not None
    if not (streams.evaluators or validates or system.feedback):
        evaluate_every = 0
    if best_metric and not evaluate_every:
        raise UserError(
            f"best_metric {best_metric!r} needs evaluate_every and an evaluation"
        )
    selected = [name.strip() for name in best_metric.split(",") if best_metric]
    declared = {name: 0.0 for one in streams.evaluators for name in one.metric_names}
    of_evaluators = [name for name in selected if not name.startswith("validation/")]
    if declared and of_evaluators:
        score(declared, of_evaluators, "best_metric")  # raises if one is unknown
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = mesh or sharding.make_mesh()
    update = Update(system, stream, mesh, seed, given or {}, guard)
    settings = {
        "seed": seed,
        "batch_size": stream.batch_size,
        "guard": guard and guard._asdict(),
    }
    now = identity._replace(
        settings=identity.settings or settings,
        data={**identity.data, **update.data},
        given=identity.given or of_weights(given or {}),
        step=update.digest,
        num_steps=num_steps,
    )
    moved = workdirs.set_aside(workdir) if fresh else ""
    span = guard.reach if guard else 0
    checkpoints = Checkpoints(
        workdir / "checkpoints", keep=keep, best=best_metric, span=span
    )
    checkpoints.identity = now
    unit = getattr(stream, "unit", "images")
    log = MetricLog(workdir, num_steps, unit, active=jax.process_index() == 0)
    log.say(moved and f"the earlier run was moved to {moved}")
    embed = BatchedEmbed(system.embed, evaluation_batch_size, mesh)

    def check(stored: Identity) -> None:
        checkpoints.identity = resumed(
            stored,
            now,
            workdir,
            steered=system.feedback is not None,
            former=update.traced(prolongs)[2] if prolongs else "",
            say=log.say,
        )

    step, loop = checkpoints.latest(update.like, check) or (0, update.initial())
    if identity.settings:
        workdirs.write_config(workdir, checkpoints.identity.settings)
    if step:
        log.say(f"resumed at step {step:,}")
    elif system.feedback and (declared or validates):
        if validation is not None and system.eval_step is not None:
            names = update.validated(loop.state, validation)
            declared |= dict.fromkeys(names, 0.0)
        system.feedback(loop.state, declared)  # raises if a metric is missing
    outstanding = int(loop.stopped) == OUTSTANDING
    log.cut_back(step, evaluated=not outstanding)
    stretches, rollbacks = from_array(loop.stretches), int(loop.rollbacks)
    stopped, interrupted = int(loop.stopped) == STOPPED, False
    evaluated: dict[str, float] = {}
    in_flight: collections.deque[tuple[int, Any]] = collections.deque()

    def evaluation(state: PyTree) -> dict[str, float]:
        trained = Trained(
            functools.partial(embed, state),
            LazyNetworks(functools.partial(system.hand_over, state)),
        )
        results: dict[str, float] = {}
        for evaluator in streams.evaluators:
            results |= evaluator(trained)
        if validation is not None and system.eval_step is not None:
            results |= update.validate(state, validation, validation_steps)
        return results

    with contextlib.ExitStack() as stack:
        stack.callback(log.close)
        stack.callback(checkpoints.settle)
        trace = stack.enter_context(_trace(workdir / "profile", profile))
        if step < num_steps and not stopped:
            log.say(f"compiled in {update.compile(loop):.1f} s")
        signals = stack.enter_context(interrupt.deferred(jax.process_count() > 1))

        def evaluate_and_save(step, loop, evaluates, saves, saved=False):
            """Returns the LoopState of a step, evaluated and saved if that is due.

            A step that is `saved` already is not written again: if the run dies before
            the next save, it repeats the evaluation.
            """
            nonlocal evaluated, stopped, interrupted
            results = None
            if evaluates:
                results = signals.completed(lambda: evaluation(loop.state))
                interrupted = interrupted or results is None
                loop = update.with_outstanding(loop, results is None)
            if results is not None:
                evaluated = results
                log.write(step, results)
                log.say(summary(results))
                if system.feedback:
                    state, stopped = system.feedback(loop.state, results)
                    loop = update.after_feedback(loop, state, stopped)
            scored = -math.inf
            if selected and results is not None:
                scored = score(results, selected, "best_metric")
            if saved and scored > -math.inf:
                checkpoints.rescore(step, scored)
            elif not saved and (saves or stopped or interrupted):
                checkpoints.save(step, loop, scored)
            return loop

        if outstanding:  # a signal came before the evaluation of the step had ended
            loop = evaluate_and_save(step, loop, True, False, saved=True)
        clock = _Clock()
        while step < num_steps and not stopped and not interrupted:
            trace(step)
            waiting = time.perf_counter()
            number = position(step, stretches)
            batch = update.place(stream.batch_at(number))
            if not in_flight or in_flight[-1][1].is_ready():  # the device is idle
                clock.data_wait += time.perf_counter() - waiting
            loop, bad = update(loop, batch, number)
            step += 1
            clock.steps += 1
            in_flight.append((step, bad))
            checkpoints.poll()
            interrupted = signals.ends(step)

            finished = step == num_steps
            # An interruption logs nothing: the totals are in the checkpoint.
            logs = finished or step % log_every == 0
            evaluates = evaluate_every and (finished or step % evaluate_every == 0)
            saves = finished or interrupted or step % save_every == 0
            saves = saves or (evaluates and bool(best_metric))
            # Read two steps late, so that the device never waits for the host, unless
            # something is written now.
            delay = 0 if logs or saves or evaluates else 2
            bad_step = None
            while len(in_flight) > delay and bad_step is None:
                read_step, bad = in_flight.popleft()
                in_a_row, cause = np.asarray(bad)
                if guard and in_a_row >= guard.in_a_row:
                    bad_step = read_step
            if guard and bad_step is not None:
                in_flight.clear()
                rollbacks += 1
                # The result does not depend on which checkpoint before `first` is
                # restored: updates up to it are repeated, and those after it left out.
                first = max(bad_step - guard.reach, 0)
                stretches = skip(stretches, first, bad_step)
                checkpoints.wait()
                checkpoints.discard_after(first)
                step, loop = checkpoints.latest(update.like) or (0, update.initial())
                reason = (
                    f"updates {bad_step - guard.in_a_row + 1:,} to {bad_step:,} were "
                    f"rejected ({update.causes[cause]})"
                )
                if rollbacks >= guard.rollbacks:
                    raise TrainingStopped(
                        f"stopped at step {bad_step:,}: {reason}, after "
                        f"{rollbacks - 1} rollbacks; step {step:,} is kept in "
                        f"{workdir}. A lower learning rate or gradient clipping may "
                        "help"
                    )
                loop = update.moved(loop, stretches, rollbacks)
                log.say(
                    f"{reason}; rolled back to step {step:,}, without the data of "
                    f"updates {first + 1:,} to {bad_step:,}"
                )
                log.cut_back(step)
                clock = _Clock()
                continue

            if logs or saves or evaluates:
                update.check(loop)
            if logs:
                scalars, loop = update.read(loop)
                checkpoints.check()
                scalars |= clock.rates(stream.batch_size, unit)
                log.write(step, scalars)
                log.progress(step, scalars)
                clock = _Clock()
            with clock.paused():
                loop = evaluate_and_save(step, loop, evaluates, saves)
        checkpoints.wait()
        last, best = step, None
        if selected and not interrupted and (kept := checkpoints.best(update.like)):
            step, value, loop = kept
            best = {"metric": best_metric, "value": value, "last_step": last}
            log.say(
                f"step {step:,} of {last:,} is handed over: its {best_metric} is the "
                f"highest, {value:.4f}"
            )
        checkpoints.close()
        signals.outcome = interrupt.saved(last, workdir, fresh=fresh)
    if interrupted and signals.number == signal.SIGINT:
        raise interrupt.Interrupted(signal.SIGINT, signals.outcome)
    run = checkpoints.identity
    return TrainResult(loop.state, step, evaluated, interrupted, best, run)


def check_settings(**settings: Any) -> None:
    """Raises a UserError for a setting of `train` that is out of range."""
    for name, value in settings.items():
        if name in _RANGES:
            check_range(name, value, *_RANGES[name])


class _Clock:
    """Rates since the last line of metrics, without evaluation and saving."""

    def __init__(self):
        self._start = time.perf_counter()
        self.steps, self.data_wait = 0, 0.0

    @contextlib.contextmanager
    def paused(self):
        paused = time.perf_counter()
        yield
        self._start += time.perf_counter() - paused

    def rates(self, batch_size: int, unit: str) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        return {
            f"{unit}_per_second": self.steps * batch_size / seconds,
            "steps_per_second": self.steps / seconds,
            "data_wait": self.data_wait / seconds,
        }


@contextlib.contextmanager
def _trace(folder: epath.Path, window: tuple[int, int] | None):
    """Yields a function of the step that traces the steps of `window`, [first, last).

    It is called before every step.
    """
    (first, last), tracing = window or (-1, -1), False

    def trace(step: int) -> None:
        nonlocal tracing
        if not tracing and first <= step < last:
            jax.profiler.start_trace(str(folder))
            tracing = True
        elif tracing and step >= last:
            jax.profiler.stop_trace()
            tracing = False

    try:
        yield trace
    finally:
        trace(last)
