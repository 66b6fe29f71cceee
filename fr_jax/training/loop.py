"""The one training loop: any System, any stream, any mesh.

    batch = stream.batch_at(step + data_offset)
    state, metrics = train_step(state, batch, fold_in(key, step + data_offset))

Around these two lines: shardings and donation, a guard that skips bad updates, metrics
fetched once an interval, evaluation, checkpoints, and the way back from all of them.
The same seed gives the same numbers, however often the run is killed.
"""

import collections
import contextlib
import functools
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from fr_jax.backend import cpu, sharding
from fr_jax.embedder.batched import ImageEmbedder
from fr_jax.errors import TrainingStopped, UserError
from fr_jax.evaluation.verification import EvaluationSet, judge
from fr_jax.system import System, score
from fr_jax.training.checkpoint import Checkpoints
from fr_jax.training.metric_log import Journal

PyTree = Any


class Stream(Protocol):
    """Where batches come from: a pure function of the step.

    One whose rows are no images names them in an attribute `unit`, such as 'pairs'.
    """

    batch_size: int

    def batch_at(self, step: int) -> dict[str, Any]: ...


class Guard(NamedTuple):
    """When an update counts as bad, and how many are borne.

    An update is bad where a number of the new state is not finite, or where the metric
    `loss`, if the system has one, lies more than `spike` deviations above its running
    mean. It is skipped. After
    `in_a_row` of them the run goes back to its last checkpoint and on behind the bad
    stretch of data; the `rollbacks`-th time it stops.
    """

    spike: float = 10.0
    warm_up: int = 100  # updates before the loss's mean and deviation are trusted
    in_a_row: int = 5
    rollbacks: int = 3


class LoopState(NamedTuple):
    """Everything that a checkpoint holds: the system's State and the loop's own."""

    state: PyTree
    data_offset: jax.Array
    rollbacks: jax.Array
    stopped: jax.Array  # by the system's feedback
    bad_in_a_row: jax.Array
    accepted: jax.Array
    loss_mean: jax.Array
    loss_variance: jax.Array
    skipped: jax.Array  # since the last line of metrics, like the two below
    counted: jax.Array
    totals: dict[str, jax.Array]

    @classmethod
    def create(cls, state: PyTree, metrics: Sequence[str]) -> "LoopState":
        numbers = {name: np.float32(0) for name in ("loss_mean", "loss_variance")}
        counts = {name: np.int32(0) for name in cls._fields if name not in numbers}
        totals = {name: np.float32(0) for name in metrics}
        return cls(**{**numbers, **counts, "state": state, "totals": totals})


class TrainResult(NamedTuple):
    """What a run ends with: its last step, or the best one where `best_metric` is set.

    Attributes:
      metrics: of the last evaluation.
      interrupted: by SIGTERM; the last state is saved.
      best: of the best step, 'metric', its 'value', and the 'last_step' of the run.
    """

    state: PyTree
    step: int
    metrics: dict[str, float]
    interrupted: bool
    best: dict[str, Any] | None = None


def train(
    system: System,
    stream: Stream,
    workdir: epath.PathLike,
    *,
    num_steps: int,
    seed: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    given: Mapping[str, PyTree] | None = None,
    evaluation_sets: Sequence[EvaluationSet] = (),
    evaluation_batch_size: int = 64,
    validation: Stream | None = None,
    validation_steps: int = 10,
    log_every: int = 50,
    evaluate_every: int = 0,
    save_every: int = 500,
    keep: int = 3,
    best_metric: str = "",
    guard: Guard | None = Guard(),  # noqa: B008 - immutable
    profile: tuple[int, int] | None = None,
) -> TrainResult:
    """Trains until `num_steps`, from wherever `workdir` left off.

    Args:
      system, stream: what is trained and on what, `stream.batch_size` rows a batch.
      workdir: local or gs://; checkpoints, metrics.jsonl, TensorBoard events. A run
        that was stopped or killed earlier goes on from its last checkpoint.
      num_steps: of the whole run, earlier parts included.
      mesh: defaults to all devices on the axis 'data'.
      given: trained variables by name, handed to `system.init`.
      evaluation_sets: judged every `evaluate_every` steps, with `system.embed`.
      validation: a stream for `system.eval_step`, `validation_steps` batches of it.
      log_every, save_every: in steps, at least 1.
      evaluate_every: in steps; 0 leaves evaluation out.
      keep: so many of the newest checkpoints.
      best_metric: of an evaluation, such as 'lfw/accuracy' (of the set or of the subset
        that is judged), or several with commas between, whose mean counts; the step
        where it is highest is kept besides the newest, and returned in the end.
      guard: None trusts every update.
      profile: (first, last) step of a profiler trace, written to workdir/profile.

    Raises:
      TrainingStopped: after too many rollbacks, naming the step.
      UserError: for a batch that the mesh cannot hold, or a checkpoint of another tree.
    """
    steps = {"log_every": log_every, "save_every": save_every}
    for name, value in (steps | {"evaluate_every": evaluate_every}).items():
        if value < (name in steps):
            least = "at least 1" if name in steps else "or 0 for none"
            raise UserError(f"{name} is {value}; it is a number of steps, {least}")
    if keep < 1:
        raise UserError(
            f"keep is {keep}; at least 1 checkpoint is needed to go on from"
        )
    if profile and len(profile) != 2:
        raise UserError(f"profile is {profile}; give (first step, last step)")
    judges = evaluation_sets or (system.eval_step and validation) or system.feedback
    if not judges:
        evaluate_every = 0
    if best_metric and not evaluate_every:
        raise UserError(
            f"best_metric {best_metric!r} needs evaluate_every and something to judge"
        )
    wanted = [name.strip() for name in best_metric.split(",") if best_metric]
    told = [name for name in wanted if not name.startswith("validation/")]
    if evaluation_sets and told:
        score(foreseen(evaluation_sets), told, "best_metric")
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    mesh = mesh or sharding.make_mesh()
    update = _Update(system, stream, mesh, seed, given or {}, guard)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=keep, best=best_metric)
    unit = getattr(stream, "unit", "images")
    journal = Journal(workdir, num_steps, unit, active=jax.process_index() == 0)
    embedder = ImageEmbedder(system.embed, evaluation_batch_size, mesh)

    step, loop = checkpoints.latest(update.like) or (0, update.initial())
    if step:
        journal.say(f"resumed at step {step:,}")
    journal.cut_back(step)
    offset, rollbacks = int(loop.data_offset), int(loop.rollbacks)
    stopped, interrupted = bool(loop.stopped), False
    evaluated: dict[str, float] = {}
    in_flight: collections.deque[tuple[int, Any]] = collections.deque()

    def evaluate(state: PyTree) -> dict[str, float]:
        results: dict[str, float] = {}
        for evaluation_set in evaluation_sets:
            embed = functools.partial(embedder, state)
            results |= judge(evaluation_set, embed).results
        if system.eval_step and validation:
            results |= update.validate(state, validation, validation_steps)
        return results

    with _terminated() as sigterm, contextlib.ExitStack() as stack:
        stack.callback(journal.close)
        stack.callback(checkpoints.settle)
        trace = stack.enter_context(_Trace(workdir / "profile", profile))
        if step < num_steps and not stopped:
            journal.say(f"compiled in {update.compile(loop):.1f} s")
        clock = _Clock()
        while step < num_steps and not stopped and not interrupted:
            trace.at(step)
            waiting = time.perf_counter()
            batch = update.place(stream.batch_at(step + offset))
            if not in_flight or in_flight[-1][1].is_ready():  # the device ran dry
                clock.data_wait += time.perf_counter() - waiting
            loop, bad = update(loop, batch, step + offset)
            step += 1
            clock.steps += 1
            in_flight.append((step, bad))
            checkpoints.poll()
            interrupted = sigterm(step)

            ends = step == num_steps or interrupted
            logs = ends or step % log_every == 0
            evaluates = bool(evaluate_every) and (
                step == num_steps or step % evaluate_every == 0
            )
            saves = ends or step % save_every == 0 or (evaluates and bool(best_metric))
            # Two steps late, so that the device never waits for the host, unless
            # something is about to be written.
            late = 0 if logs or saves or evaluates else 2
            bad_step = None
            while len(in_flight) > late and bad_step is None:
                done, bad = in_flight.popleft()
                if guard and int(bad) >= guard.in_a_row:
                    bad_step = done
            if guard and bad_step is not None:
                in_flight.clear()
                rollbacks += 1
                checkpoints.wait()
                back, loop = checkpoints.latest(update.like) or (0, update.initial())
                first = bad_step - guard.in_a_row + 1
                what = f"updates {first:,} to {bad_step:,} were not finite, or leapt"
                if rollbacks >= guard.rollbacks:
                    raise TrainingStopped(
                        f"stopped at step {bad_step:,}: {what}, time {rollbacks}; "
                        f"step {back:,} is kept in {workdir}. A lower learning "
                        "rate or gradient clipping may help"
                    )
                offset += bad_step - back
                loop = update.moved(loop, offset, rollbacks)
                journal.say(f"{what}; back to step {back:,}, on with later data")
                journal.cut_back(back)
                step = back
                clock = _Clock()
                continue

            if logs:
                scalars, loop = update.read(loop)
                checkpoints.check()
                scalars |= clock.rates(stream.batch_size, unit)
                journal.write(step, scalars)
                journal.progress(step, scalars)
                clock = _Clock()
            if evaluates:
                with clock.paused():
                    evaluated = evaluate(loop.state)
                    journal.write(step, evaluated)
                    journal.say(summary(evaluated))
                    if system.feedback:
                        state, stopped = system.feedback(loop.state, evaluated)
                        loop = update.after_feedback(loop, state, stopped)
            if saves or stopped:
                with clock.paused():
                    if wanted and evaluates:
                        scored = score(evaluated, wanted, "best_metric")
                        checkpoints.save(step, loop, scored)
                    else:
                        checkpoints.save(step, loop)
        checkpoints.wait()
        last, best = step, None
        if wanted and not interrupted and (found := checkpoints.best(update.like)):
            step, value, loop = found
            best = {"metric": best_metric, "value": value, "last_step": last}
            journal.say(
                f"step {step:,} of {last:,} is the one handed over: its {best_metric} "
                f"is the highest, {value:.4f}"
            )
        checkpoints.close()
    return TrainResult(loop.state, step, evaluated, interrupted, best)


def foreseen(evaluation_sets: Sequence[EvaluationSet]) -> dict[str, float]:
    """Returns results of random embeddings: what an evaluation will tell, by name."""
    rng = np.random.default_rng(0)

    def embed(images, **_):
        return rng.normal(size=(len(images), 1, 8))

    results: dict[str, float] = {}
    for evaluation_set in evaluation_sets:
        results |= judge(evaluation_set, embed).results
    return results


def summary(results: Mapping[str, float]) -> str:
    """Returns the accuracies among results as one line."""
    shown = {k: v for k, v in results.items() if "/accuracy" in k}
    shown = {
        k: v for k, v in shown.items() if not k.endswith(("_std", "_low", "_high"))
    }
    return "  ".join(f"{name} {value:.4f}" for name, value in shown.items())


class _Update:
    """The system's step as the loop runs it: guarded, sharded, compiled once."""

    def __init__(self, system, stream, mesh, seed, given, guard):
        self._system, self._mesh, self._guard = system, mesh, guard
        self._batch_size = stream.batch_size
        self._given = given
        self._key_init, self._key_steps = jax.random.split(jax.random.key(seed))
        self._batch = self.place(stream.batch_at(0))
        state = jax.eval_shape(system.init, self._key_init, self._batch, given)
        _, metrics = jax.eval_shape(
            system.train_step, state, self._batch, self._key_steps
        )
        for name, value in metrics.items():
            if value.shape:
                raise UserError(
                    f"metric {name!r} has shape {value.shape}, not a scalar"
                )
        self._metrics = sorted(metrics)
        everywhere = sharding.replicated(mesh)
        like = jax.eval_shape(self._create, self._key_init, self._batch, given)
        places = jax.tree.map(lambda _: everywhere, like)
        places = places._replace(
            state=sharding.state_shardings(mesh, state, system.partition)
        )
        self.like = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=place
            ),
            like,
            places,
        )
        self._places, self._everywhere = places, everywhere
        self._advance: Any = None

    def place(self, batch):
        return sharding.to_global(self._mesh, batch, self._batch_size)

    def initial(self) -> LoopState:
        create = jax.jit(
            self._create,
            out_shardings=self._places,
            compiler_options=cpu.quick_compilation(),
        )
        return create(self._key_init, self._batch, self._given)

    def _create(self, key, batch, given):
        state = self._system.init(key, batch, given)
        return LoopState.create(state, self._metrics)

    def compile(self, loop: LoopState) -> float:
        """Compiles the step ahead of time; returns the seconds it took."""
        began = time.perf_counter()
        advance = jax.jit(
            self._guarded,
            donate_argnums=0,
            out_shardings=(self._places, self._everywhere),
            compiler_options=cpu.compiler_options(),
        )
        number = jnp.int32(0)
        self._advance = advance.lower(
            loop, self._batch, number, self._key_steps
        ).compile()
        return time.perf_counter() - began

    def __call__(self, loop, batch, number: int):
        return self._advance(loop, batch, jnp.int32(number), self._key_steps)

    def _guarded(self, loop: LoopState, batch, number, key):
        key = jax.random.fold_in(key, number)
        state, metrics = self._system.train_step(loop.state, batch, key)
        loss = metrics.get("loss", jnp.float32(0))
        guard = self._guard
        if guard is None:
            return self._counted(loop, state, metrics, loss), loop.bad_in_a_row
        # A loss near zero may well double; hence the floors under the deviation.
        deviation = jnp.sqrt(loop.loss_variance)
        deviation = jnp.maximum(deviation, 0.1 * jnp.abs(loop.loss_mean) + 0.02)
        leapt = loss > loop.loss_mean + guard.spike * deviation
        checks = [
            ~(leapt & (loop.accepted >= guard.warm_up)),
            # Once too many in a row were bad nothing moves until the loop goes back,
            # so it does not matter how late it looks.
            loop.bad_in_a_row < guard.in_a_row,
        ]
        leaves = jax.tree.leaves((loss, state))
        floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        checks += [jnp.isfinite(leaf).all() for leaf in floats]
        # A running sum, where `all` would do: XLA's CPU compiler copies a plain
        # conjunction of hundreds of checks into each of the selections below, and then
        # takes six times as long.
        passed = jnp.cumsum(jnp.stack(checks).astype(jnp.int32))[-1]
        accept = passed == len(checks)
        counted = self._counted(loop, state, metrics, loss)
        kept = loop._replace(
            bad_in_a_row=jnp.minimum(loop.bad_in_a_row + 1, guard.in_a_row),
            skipped=loop.skipped + 1,
        )
        new = jax.tree.map(lambda new, old: jnp.where(accept, new, old), counted, kept)
        return new, new.bad_in_a_row

    def _counted(self, loop, state, metrics, loss):
        rate = jnp.maximum(0.01, 1 / (1 + loop.accepted))
        change = loss - loop.loss_mean
        totals = {name: loop.totals[name] + value for name, value in metrics.items()}
        return loop._replace(
            state=state,
            bad_in_a_row=jnp.int32(0),
            accepted=loop.accepted + 1,
            loss_mean=loop.loss_mean + rate * change,
            loss_variance=(1 - rate) * (loop.loss_variance + rate * change**2),
            counted=loop.counted + 1,
            totals=totals,
        )

    def read(self, loop: LoopState) -> tuple[dict[str, float], LoopState]:
        """Mean metrics since the last reading, and the loop with them at zero."""
        totals, counted, skipped = jax.device_get(
            (loop.totals, loop.counted, loop.skipped)
        )
        scalars = {name: float(v) / max(int(counted), 1) for name, v in totals.items()}
        if skipped:
            scalars["skipped"] = float(skipped)
        zero = LoopState.create((), self._metrics)
        zeros = self._put((zero.totals, zero.counted, zero.skipped))
        return scalars, loop._replace(
            totals=zeros[0], counted=zeros[1], skipped=zeros[2]
        )

    def moved(self, loop: LoopState, offset: int, rollbacks: int) -> LoopState:
        numbers = {"data_offset": np.int32(offset), "rollbacks": np.int32(rollbacks)}
        return loop._replace(**self._put(numbers))

    def after_feedback(self, loop: LoopState, state, stopped: bool) -> LoopState:
        state = jax.jit(lambda x: x, out_shardings=self._places.state)(state)
        return loop._replace(state=state, **self._put({"stopped": np.int32(stopped)}))

    def validate(self, state, stream: Stream, steps: int) -> dict[str, float]:
        """Mean of the system's eval_step over the first batches of a stream."""
        if not hasattr(self, "_eval_step"):
            self._eval_step = jax.jit(
                self._system.eval_step, compiler_options=cpu.compiler_options()
            )
        sums = collections.Counter()
        for step in range(steps):
            batch = sharding.to_global(
                self._mesh, stream.batch_at(step), stream.batch_size
            )
            key = jax.random.fold_in(self._key_init, step)
            sums.update(jax.device_get(self._eval_step(state, batch, key)))
        return {f"validation/{name}": float(v) / steps for name, v in sums.items()}

    def _put(self, tree):
        """Numbers of the host, the same on every process, as global arrays.

        `device_put` would first make the processes compare them.
        """
        return jax.jit(lambda x: x, out_shardings=self._everywhere)(tree)


class _Clock:
    """Rates since the last line of metrics, evaluation and saving left out."""

    def __init__(self):
        self._start, self._paused = time.perf_counter(), 0.0
        self.steps, self.data_wait = 0, 0.0

    @contextlib.contextmanager
    def paused(self):
        began = time.perf_counter()
        yield
        self._paused += time.perf_counter() - began

    def rates(self, batch_size: int, unit: str) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._start - self._paused, 1e-9)
        return {
            f"{unit}_per_second": self.steps * batch_size / seconds,
            "steps_per_second": self.steps / seconds,
            "data_wait": self.data_wait / seconds,
        }


class _Trace:
    """A profiler trace from one step to another."""

    def __init__(self, folder: epath.Path, window: tuple[int, int] | None):
        self._folder, self._window, self._on = folder, window or (-1, -1), False

    def at(self, step: int) -> None:
        first, last = self._window
        if not self._on and first <= step < last:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        elif self._on and step >= last:
            self._stop()

    def _stop(self) -> None:
        if self._on:
            jax.profiler.stop_trace()
            self._on = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()


@contextlib.contextmanager
def _terminated():
    """Yields step -> whether to save and leave, because SIGTERM came to any process.

    Several processes agree on one step through JAX's coordination service, which takes
    the signal itself; a single one takes it here.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield lambda step: came.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
