"""The compiled, sharded and guarded update of the training loop."""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.backend import cpu, sharding
from fr_jax.errors import UserError
from fr_jax.system import Last, Mean, PyTree, System
from fr_jax.training import batch_checks, digests
from fr_jax.training import guard as guarding
from fr_jax.training.data import Stream
from fr_jax.training.guard import Guard
from fr_jax.training.memory import check_state, check_step

STOPPED = 1  # by the system's feedback
OUTSTANDING = 2  # a signal came before the evaluation of the step had ended


class LoopState(NamedTuple):
    """The contents of a checkpoint: the State of the system and that of the loop."""

    state: PyTree
    stretches: Any = guarding.to_array(())  # of the data, skipped by rollbacks
    rollbacks: Any = np.int32(0)
    stopped: Any = np.int32(0)  # STOPPED, OUTSTANDING or 0
    bad_in_a_row: Any = np.int32(0)
    history: guarding.History | tuple[()] = ()  # () if the system watches nothing
    skipped: Any = np.int32(0)  # since the last line of metrics, like the totals
    totals: Mapping[str, Mean] = {}
    extremes: Mapping[str, batch_checks.Extremes] = {}  # of the batches so far


class Update:
    """A system's train step with the guard and running totals, compiled once.

    Attributes:
      like: shapes, types and shardings of the LoopState, for restoring checkpoints.
      digest: of the system's train step.
      data: what identifies the stream; see `identity.Identity`.
      causes: why an update was rejected, by the number that a call returns.

    Raises:
      UserError: for a stream or a batch that the system does not expect, a metric that
        is not a scalar, a watched metric that does not exist, and a state that exceeds
        the memory of a device.
    """

    def __init__(
        self,
        system: System,
        stream: Stream,
        mesh: jax.sharding.Mesh,
        seed: int,
        given: Mapping[str, PyTree],
        guard: Guard | None,
    ):
        self._system, self._mesh, self._guard = system, mesh, guard
        self._batch_size, self._given = stream.batch_size, given
        self._key_init, self._key_steps = jax.random.split(jax.random.key(seed))
        batch_checks.check_stream(system.expects, stream)
        first = stream.batch_at(0)
        batch_checks.check_batch(system.expects, first)
        self._batch = self.place(first)
        self.data = {"first_batch": digests.of_batch(self._batch)}
        if fingerprint := getattr(stream, "fingerprint", None):
            self.data["stream"] = fingerprint()
        state, metrics, self.digest = self.traced(system)
        for name, value in metrics.items():
            if shapes := [leaf.shape for leaf in jax.tree.leaves(value) if leaf.shape]:
                raise UserError(f"metric {name!r} has shape {shapes[0]}, not a scalar")
        self._metrics = sorted(metrics)
        watched = guarding.watched(system, state, self._metrics)
        self._quantities = len(watched)
        self.causes = [
            "non-finite values",
            *(f"{name} is too high" for name in watched),
        ]
        like = jax.eval_shape(self._create, self._key_init, self._batch, given)
        self._replicated = sharding.replicated(mesh)
        # `device_put` would compare values of the host across processes first.
        self._to_device = jax.jit(lambda x: x, out_shardings=self._replicated)
        replicated = jax.tree.map(lambda _: self._replicated, like)
        self._shardings = replicated._replace(
            state=sharding.state_shardings(mesh, state, system.partition)
        )
        self.like = jax.tree.map(
            lambda leaf, place: leaf.update(sharding=place), like, self._shardings
        )
        check_state(self.like)
        self._advance: Any = None
        self._eval_step: Any = system.eval_step and jax.jit(
            system.eval_step, compiler_options=cpu.compiler_options()
        )

    def traced(self, system: System) -> tuple[PyTree, dict[str, Any], str]:
        """Returns `digests.trace` of a system for this stream."""
        return digests.trace(system, self._key_init, self._batch, self._given)

    def place(self, batch):
        """Returns a batch as global arrays."""
        return sharding.to_global(self._mesh, batch, self._batch_size)

    def initial(self) -> LoopState:
        """Returns the LoopState before the first update."""
        create = jax.jit(
            self._create,
            out_shardings=self._shardings,
            compiler_options=cpu.quick_compilation(),
        )
        return create(self._key_init, self._batch, self._given)

    def _create(self, key, batch, given):
        state = self._system.init(key, batch, given)
        history = guarding.History.empty(self._quantities) if self._quantities else ()
        zero = Mean(np.float32(0), np.float32(0))
        return LoopState(
            state,
            history=history,
            totals=dict.fromkeys(self._metrics, zero),
            extremes=batch_checks.extremes(self._system.expects, batch),
        )

    def compile(self, loop: LoopState) -> float:
        """Compiles the update ahead of time; returns the duration in seconds.

        Raises:
          UserError: if the device has too little memory; it says what would fit.
        """
        start = time.perf_counter()
        advance = jax.jit(
            self._guarded,
            donate_argnums=0,
            out_shardings=(self._shardings, self._replicated),
            compiler_options=cpu.compiler_options(),
        )

        def compiled(batch):
            lowered = advance.lower(loop, batch, jnp.int32(0), self._key_steps)
            return lowered.compile()

        self._advance = compiled(self._batch)
        multiples = [one.multiple for one in self._system.expects.values()]
        multiple = math.lcm(self._mesh.shape["data"], *multiples)
        check_step(self._advance, compiled, self._batch, multiple)
        return time.perf_counter() - start

    def __call__(self, loop, batch, number: int):
        """Returns the LoopState after an update, and int32 [2] about its rejection.

        These are the rejections in a row so far, and the number of a cause.
        """
        return self._advance(loop, batch, jnp.int32(number), self._key_steps)

    def _guarded(self, loop: LoopState, batch, number, key):
        key = jax.random.fold_in(key, number)
        state, metrics = self._system.train_step(loop.state, batch, key)
        means = {
            name: Mean.of(*value) if isinstance(value, Mean) else Mean.of(value)
            for name, value in metrics.items()
        }
        expects = self._system.expects
        loop = loop._replace(
            extremes=batch_checks.extremes(expects, batch, loop.extremes)
        )
        new = loop._replace(
            state=state,
            bad_in_a_row=jnp.int32(0),
            totals=jax.tree.map(jnp.add, loop.totals, means),
        )
        guard, watch = self._guard, self._system.watch
        if guard is None:
            return new, jnp.zeros(2, jnp.int32)
        leaves = jax.tree.leaves(([means[name] for name in watch], state))
        floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        checks = [jnp.isfinite(leaf).all() for leaf in floats]
        # A running sum instead of `all`: XLA's CPU compiler copies a conjunction of
        # hundreds of checks into each `where` below, which takes six times as long.
        passed = jnp.cumsum(jnp.stack(checks).astype(jnp.int32))[-1]
        accept, cause = passed == len(checks), jnp.int32(0)
        if isinstance(loop.history, guarding.History):
            values, exists = guarding.observe(watch, means, loop.state, state)
            limits = guarding.limits(loop.history, guard.spike)
            high = exists & (values > limits)
            cause = jnp.where(accept, 1 + jnp.argmax(high).astype(jnp.int32), 0)
            accept &= ~high.any()
            history = guarding.extended(loop.history, values, exists)
            new = new._replace(history=history)
        # After `in_a_row` rejections every update is rejected until the rollback, so
        # the loop may read the count late.
        accept &= loop.bad_in_a_row < guard.in_a_row
        kept = loop._replace(
            bad_in_a_row=jnp.minimum(loop.bad_in_a_row + 1, guard.in_a_row),
            skipped=loop.skipped + 1,
        )
        new = jax.tree.map(lambda new, old: jnp.where(accept, new, old), new, kept)
        return new, jnp.stack([new.bad_in_a_row, cause])

    def read(self, loop: LoopState) -> tuple[dict[str, float], LoopState]:
        """Returns mean metrics since the last call, and `loop` with totals at zero."""
        values = jax.device_get({"totals": loop.totals, "skipped": loop.skipped})
        scalars = _values(values["totals"])
        if values["skipped"]:
            scalars["skipped"] = float(values["skipped"])
        return scalars, self._with(loop, **jax.tree.map(np.zeros_like, values))

    def check(self, loop: LoopState) -> None:
        """Raises a UserError for a value out of range in any batch so far."""
        extremes = jax.device_get(loop.extremes)
        batch_checks.check_extremes(self._system.expects, extremes)

    def moved(self, loop: LoopState, stretches, rollbacks: int) -> LoopState:
        """Returns `loop` with other skipped stretches and count of rollbacks."""
        array, count = guarding.to_array(stretches), np.int32(rollbacks)
        return self._with(loop, stretches=array, rollbacks=count)

    def after_feedback(self, loop: LoopState, state, stopped: bool) -> LoopState:
        """Returns `loop` with the state and the decision to stop of `feedback`."""
        state = jax.jit(lambda x: x, out_shardings=self._shardings.state)(state)
        loop = loop._replace(state=state)
        return self._with(loop, stopped=np.int32(STOPPED if stopped else 0))

    def with_outstanding(self, loop: LoopState, outstanding: bool) -> LoopState:
        """Returns `loop`, marked if the evaluation of its step is to be repeated."""
        return self._with(loop, stopped=np.int32(OUTSTANDING if outstanding else 0))

    def validated(self, state, stream: Stream) -> list[str]:
        """Returns the names of the metrics of `validate`."""
        step = self._system.eval_step
        assert step is not None
        key, batch = self._key_init, stream.batch_at(0)
        metrics = jax.eval_shape(step, state, batch, key)
        return [f"validation/{name}" for name in metrics]

    def validate(self, state, stream: Stream, steps: int) -> dict[str, float]:
        """Returns mean metrics of `eval_step` over the first batches of a stream.

        Of a `Last` it is the value of the last batch.
        """
        totals: dict[str, Mean] = {}
        for step in range(steps):
            batch = stream.batch_at(step)
            batch = sharding.to_global(self._mesh, batch, stream.batch_size)
            key = jax.random.fold_in(self._key_init, step)
            metrics = jax.device_get(self._eval_step(state, batch, key))
            for name, value in metrics.items():
                if isinstance(value, Last):
                    totals[name] = Mean(value.value, 1)
                    continue
                total, count = value if isinstance(value, Mean) else (value, 1)
                before = totals.get(name, Mean(0, 0))
                totals[name] = Mean(before.total + total, before.count + count)
        return {f"validation/{name}": x for name, x in _values(totals).items()}

    def _with(self, loop: LoopState, **values) -> LoopState:
        """Returns `loop` with host values, equal in all processes, as global arrays."""
        return loop._replace(**self._to_device(values))


def _values(totals: Mapping[str, Mean]) -> dict[str, float]:
    """Returns the means as floats, without those with a count of zero."""
    means = totals.items()
    return {name: float(mean.total / mean.count) for name, mean in means if mean.count}
