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
from fr_jax.system import Input, Mean, System
from fr_jax.training.data import Stream
from fr_jax.training.memory import check_state, check_step

PyTree = Any


class Guard(NamedTuple):
    """When an update is rejected, and how many rejections cause a rollback.

    An update is rejected if the new state has a non-finite value, or if a metric that
    the system watches exceeds its running mean by more than `spike` deviations. After
    `in_a_row` rejections the run rolls back to its last checkpoint and continues with
    the data after the rejected updates; the `rollbacks`-th rollback stops the run.
    """

    spike: float = 10.0
    warm_up: int = 100  # number of values before spikes of a metric are rejected
    in_a_row: int = 5
    rollbacks: int = 3


class Watched(NamedTuple):
    """Running mean and variance of a watched metric, and the number of values."""

    mean: Any = np.float32(0)
    variance: Any = np.float32(0)
    count: Any = np.int32(0)


STOPPED = 1  # by the system's feedback
OUTSTANDING = 2  # a signal came before the evaluation of the step had ended


class LoopState(NamedTuple):
    """The contents of a checkpoint: the State of the system and that of the loop."""

    state: PyTree
    data_offset: Any = np.int32(0)
    rollbacks: Any = np.int32(0)
    stopped: Any = np.int32(0)  # STOPPED, OUTSTANDING or 0
    bad_in_a_row: Any = np.int32(0)
    watched: Mapping[str, Watched] = {}
    skipped: Any = np.int32(0)  # since the last line of metrics, like the totals
    totals: Mapping[str, Mean] = {}


class Update:
    """A system's train step with the guard and running totals, compiled once.

    Attributes:
      like: shapes, types and shardings of the LoopState, for restoring checkpoints.

    Raises:
      UserError: for a stream or a batch that the system does not expect, a metric that
        is not a scalar, and a state that exceeds the memory of a device.
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
        check_stream(system.expects, stream)
        first = stream.batch_at(0)
        check_batch(system.expects, first)
        self._batch = self.place(first)
        state = jax.eval_shape(system.init, self._key_init, self._batch, given)
        _, metrics = jax.eval_shape(
            system.train_step, state, self._batch, self._key_steps
        )
        for name, value in metrics.items():
            if shapes := [leaf.shape for leaf in jax.tree.leaves(value) if leaf.shape]:
                raise UserError(f"metric {name!r} has shape {shapes[0]}, not a scalar")
        self._metrics = sorted(metrics)
        self._watch = [name for name in system.watch if name in metrics]
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
        watched = dict.fromkeys(self._watch, Watched())
        zero = Mean(np.float32(0), np.float32(0))
        return LoopState(
            state, watched=watched, totals=dict.fromkeys(self._metrics, zero)
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
        """Returns the LoopState after an update, and the rejections in a row so far."""
        return self._advance(loop, batch, jnp.int32(number), self._key_steps)

    def _guarded(self, loop: LoopState, batch, number, key):
        key = jax.random.fold_in(key, number)
        state, metrics = self._system.train_step(loop.state, batch, key)
        means = {
            name: Mean.of(*value) if isinstance(value, Mean) else Mean.of(value)
            for name, value in metrics.items()
        }
        watched = {name: _observed(means[name], w) for name, w in loop.watched.items()}
        new = loop._replace(
            state=state,
            bad_in_a_row=jnp.int32(0),
            watched=watched,
            totals=jax.tree.map(jnp.add, loop.totals, means),
        )
        guard = self._guard
        if guard is None:
            return new, loop.bad_in_a_row
        # After `in_a_row` rejections every update is rejected until the rollback, so
        # the loop may read the count late.
        checks = [loop.bad_in_a_row < guard.in_a_row]
        checks += [~_spikes(means[n], w, guard) for n, w in loop.watched.items()]
        leaves = jax.tree.leaves(([means[name] for name in self._watch], state))
        floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        checks += [jnp.isfinite(leaf).all() for leaf in floats]
        # A running sum instead of `all`: XLA's CPU compiler copies a conjunction of
        # hundreds of checks into each `where` below, which takes six times as long.
        passed = jnp.cumsum(jnp.stack(checks).astype(jnp.int32))[-1]
        accept = passed == len(checks)
        kept = loop._replace(
            bad_in_a_row=jnp.minimum(loop.bad_in_a_row + 1, guard.in_a_row),
            skipped=loop.skipped + 1,
        )
        new = jax.tree.map(lambda new, old: jnp.where(accept, new, old), new, kept)
        return new, new.bad_in_a_row

    def read(self, loop: LoopState) -> tuple[dict[str, float], LoopState]:
        """Returns mean metrics since the last call, and `loop` with totals at zero."""
        counted = {"totals": loop.totals, "skipped": loop.skipped}
        values = jax.device_get(counted)
        scalars = _values(values["totals"])
        if values["skipped"]:
            scalars["skipped"] = float(values["skipped"])
        return scalars, self._with(loop, **jax.tree.map(np.zeros_like, values))

    def moved(self, loop: LoopState, offset: int, rollbacks: int) -> LoopState:
        """Returns `loop` with another offset of the data and count of rollbacks."""
        counts = {"data_offset": np.int32(offset), "rollbacks": np.int32(rollbacks)}
        return self._with(loop, **counts)

    def after_feedback(self, loop: LoopState, state, stopped: bool) -> LoopState:
        """Returns `loop` with the state and the decision to stop of `feedback`."""
        state = jax.jit(lambda x: x, out_shardings=self._shardings.state)(state)
        loop = loop._replace(state=state)
        return self._with(loop, stopped=np.int32(STOPPED if stopped else 0))

    def with_outstanding(self, loop: LoopState, outstanding: bool) -> LoopState:
        """Returns `loop`, marked if the evaluation of its step is to be repeated."""
        return self._with(loop, stopped=np.int32(OUTSTANDING if outstanding else 0))

    def validate(self, state, stream: Stream, steps: int) -> dict[str, float]:
        """Returns mean metrics of `eval_step` over the first batches of a stream."""
        totals: dict[str, Mean] = {}
        for step in range(steps):
            batch = stream.batch_at(step)
            batch = sharding.to_global(self._mesh, batch, stream.batch_size)
            key = jax.random.fold_in(self._key_init, step)
            metrics = jax.device_get(self._eval_step(state, batch, key))
            for name, value in metrics.items():
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


def _spikes(mean: Mean, watched: Watched, guard: Guard) -> jax.Array:
    """Returns a bool: True if the value exceeds the running mean by too much."""
    # The deviation is bounded below, since a loss near zero may well double.
    deviation = jnp.sqrt(watched.variance)
    deviation = jnp.maximum(deviation, 0.1 * jnp.abs(watched.mean) + 0.02)
    value = mean.total / jnp.maximum(mean.count, 1)
    above = value > watched.mean + guard.spike * deviation
    return above & (watched.count >= guard.warm_up) & (mean.count > 0)


def _observed(mean: Mean, watched: Watched) -> Watched:
    """Returns the running mean and variance with one more value, if there is one."""
    rate = jnp.maximum(0.01, 1 / (1 + watched.count))
    change = mean.total / jnp.maximum(mean.count, 1) - watched.mean
    variance = (1 - rate) * (watched.variance + rate * change**2)
    new = Watched(watched.mean + rate * change, variance, watched.count + 1)
    has_value = mean.count > 0
    return jax.tree.map(lambda new, old: jnp.where(has_value, new, old), new, watched)


def check_stream(expects: Mapping[str, Input], stream: Stream) -> None:
    """Raises a UserError if the classes or batch size of a stream are unexpected."""
    classes = getattr(stream, "num_classes", None)
    below = expects["label"].below if "label" in expects else None
    if classes is not None and below is not None and classes > below:
        raise UserError(f"the data have {classes:,} identities, the system {below:,}")
    check_batch_size(expects, stream.batch_size)


def check_batch_size(expects: Mapping[str, Input], batch_size: int) -> None:
    """Raises a UserError for a batch size that a system does not accept."""
    for name, expected in expects.items():
        multiple = expected.multiple
        if batch_size < 1 or batch_size % multiple:
            raise UserError(
                f"a batch of {batch_size} rows: {name!r} takes a multiple of {multiple}"
            )


def check_batch(expects: Mapping[str, Input], batch: Mapping[str, Any]) -> None:
    """Raises a UserError for the first array that a system does not expect."""
    for name, expected in expects.items():
        if name not in batch:
            raise UserError(
                f"the batches have no {name!r}, which the system needs; they have "
                f"{', '.join(sorted(batch))}"
            )
        array = batch[name]
        fits = len(array.shape) == len(expected.shape) and all(
            length in (None, actual)
            for length, actual in zip(expected.shape, array.shape)
        )
        if array.dtype != expected.dtype or not fits:
            shape = ", ".join("any" if n is None else str(n) for n in expected.shape)
            raise UserError(
                f"{name!r} of a batch is {array.dtype} {tuple(array.shape)}, expected "
                f"{np.dtype(expected.dtype).name} ({shape})"
            )
        if expected.low is None and expected.below is None:
            continue
        for values in _local(array):
            low = values.min() if expected.low is None else expected.low
            below = values.max() + 1 if expected.below is None else expected.below
            wrong = values[(values < low) | (values >= below)]
            if len(wrong):
                raise UserError(
                    f"{name!r} of a batch has {wrong[0]}, expected {low} to {below - 1}"
                )


def _local(array) -> list[np.ndarray]:
    """Returns the rows of a batch's array that this process holds, by device."""
    if isinstance(array, jax.Array):
        return [np.asarray(shard.data) for shard in array.addressable_shards]
    return [np.asarray(array)]
