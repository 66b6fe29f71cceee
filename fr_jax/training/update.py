"""The compiled, sharded and guarded step of the training loop."""

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

PyTree = Any


class Guard(NamedTuple):
    """When an update is rejected, and how many rejections cause a rollback.

    An update is rejected where the new state has a non-finite value, or where a metric
    that the system watches lies more than `spike` deviations above its running mean.
    After `in_a_row` rejections the run rolls back to its last checkpoint and continues
    with the data behind the bad stretch; at the `rollbacks`-th time it stops.
    """

    spike: float = 10.0
    warm_up: int = 100  # values before a metric's mean and deviation are trusted
    in_a_row: int = 5
    rollbacks: int = 3


class Watched(NamedTuple):
    """Running mean and variance of a watched metric, and how many values it had."""

    mean: Any = np.float32(0)
    variance: Any = np.float32(0)
    count: Any = np.int32(0)


class LoopState(NamedTuple):
    """Everything that a checkpoint holds: the system's State and the loop's own."""

    state: PyTree
    data_offset: Any = np.int32(0)
    rollbacks: Any = np.int32(0)
    stopped: Any = np.int32(0)  # by the system's feedback
    bad_in_a_row: Any = np.int32(0)
    watched: Mapping[str, Watched] = {}
    skipped: Any = np.int32(0)  # since the last line of metrics, as the totals
    totals: Mapping[str, Mean] = {}

    @classmethod
    def create(cls, state: PyTree, metrics: list[str], watch: list[str]) -> "LoopState":
        watched = dict.fromkeys(watch, Watched())
        nothing = Mean(np.float32(0), np.float32(0))
        return cls(state, watched=watched, totals=dict.fromkeys(metrics, nothing))


class Update:
    """A system's step as the loop runs it, compiled once.

    Attributes:
      like: shapes, types and shardings of the LoopState, as checkpoints need them.

    Raises:
      UserError: for a stream or a batch that is not what the system expects, and for a
        metric that is no scalar.
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
            for leaf in jax.tree.leaves(value):
                if leaf.shape:
                    raise UserError(
                        f"metric {name!r} has shape {leaf.shape}, not a scalar"
                    )
        self._metrics = sorted(metrics)
        self._watch = [name for name in system.watch if name in metrics]
        like = jax.eval_shape(self._create, self._key_init, self._batch, given)
        self._everywhere = sharding.replicated(mesh)
        places = jax.tree.map(lambda _: self._everywhere, like)
        self._places = places._replace(
            state=sharding.state_shardings(mesh, state, system.partition)
        )
        self.like = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=place
            ),
            like,
            self._places,
        )
        self._advance: Any = None
        self._eval_step: Any = None

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
        return LoopState.create(state, self._metrics, self._watch)

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
        lowered = advance.lower(loop, self._batch, number, self._key_steps)
        self._advance = lowered.compile()
        return time.perf_counter() - began

    def __call__(self, loop, batch, number: int):
        """Returns the loop after one update, and how many in a row were rejected."""
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
        # Once too many in a row were rejected nothing moves until the rollback, so it
        # does not matter how late the loop notices.
        checks = [loop.bad_in_a_row < guard.in_a_row]
        checks += [~_spikes(means[n], w, guard) for n, w in loop.watched.items()]
        leaves = jax.tree.leaves(([means[name] for name in self._watch], state))
        floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        checks += [jnp.isfinite(leaf).all() for leaf in floats]
        # A running sum, where `all` would do: XLA's CPU compiler copies a plain
        # conjunction of hundreds of checks into each of the selections below, and then
        # takes six times as long.
        passed = jnp.cumsum(jnp.stack(checks).astype(jnp.int32))[-1]
        accept = passed == len(checks)
        kept = loop._replace(
            bad_in_a_row=jnp.minimum(loop.bad_in_a_row + 1, guard.in_a_row),
            skipped=loop.skipped + 1,
        )
        new = jax.tree.map(lambda new, old: jnp.where(accept, new, old), new, kept)
        return new, new.bad_in_a_row

    def read(self, loop: LoopState) -> tuple[dict[str, float], LoopState]:
        """Mean metrics since the last reading, and the loop with them at zero."""
        totals, skipped = jax.device_get((loop.totals, loop.skipped))
        scalars = _values(totals)
        if skipped:
            scalars["skipped"] = float(skipped)
        zero = LoopState.create((), self._metrics, self._watch)
        zeros = self._put((zero.totals, zero.skipped))
        return scalars, loop._replace(totals=zeros[0], skipped=zeros[1])

    def moved(self, loop: LoopState, offset: int, rollbacks: int) -> LoopState:
        numbers = {"data_offset": np.int32(offset), "rollbacks": np.int32(rollbacks)}
        return loop._replace(**self._put(numbers))

    def after_feedback(self, loop: LoopState, state, stopped: bool) -> LoopState:
        state = jax.jit(lambda x: x, out_shardings=self._places.state)(state)
        return loop._replace(state=state, **self._put({"stopped": np.int32(stopped)}))

    def validate(self, state, stream: Stream, steps: int) -> dict[str, float]:
        """Means of the system's eval_step over the first batches of a stream."""
        if self._eval_step is None:
            assert self._system.eval_step is not None
            self._eval_step = jax.jit(
                self._system.eval_step, compiler_options=cpu.compiler_options()
            )
        totals: dict[str, Mean] = {}
        for step in range(steps):
            batch = stream.batch_at(step)
            batch = sharding.to_global(self._mesh, batch, stream.batch_size)
            key = jax.random.fold_in(self._key_init, step)
            found = jax.device_get(self._eval_step(state, batch, key))
            for name, value in found.items():
                total, count = value if isinstance(value, Mean) else (value, 1)
                before = totals.get(name, Mean(0, 0))
                totals[name] = Mean(before.total + total, before.count + count)
        return {f"validation/{name}": x for name, x in _values(totals).items()}

    def _put(self, tree):
        """Numbers of the host, the same on every process, as global arrays.

        `device_put` would first make the processes compare them.
        """
        return jax.jit(lambda x: x, out_shardings=self._everywhere)(tree)


def _values(totals: Mapping[str, Mean]) -> dict[str, float]:
    """The means as numbers, without those that nothing was counted of."""
    return {
        name: float(mean.total / mean.count)
        for name, mean in totals.items()
        if mean.count
    }


def _spikes(mean: Mean, watched: Watched, guard: Guard) -> jax.Array:
    # A loss near zero may well double; hence the floors under the deviation.
    deviation = jnp.sqrt(watched.variance)
    deviation = jnp.maximum(deviation, 0.1 * jnp.abs(watched.mean) + 0.02)
    value = mean.total / jnp.maximum(mean.count, 1)
    above = value > watched.mean + guard.spike * deviation
    return above & (watched.count >= guard.warm_up) & (mean.count > 0)


def _observed(mean: Mean, watched: Watched) -> Watched:
    rate = jnp.maximum(0.01, 1 / (1 + watched.count))
    change = mean.total / jnp.maximum(mean.count, 1) - watched.mean
    variance = (1 - rate) * (watched.variance + rate * change**2)
    new = Watched(watched.mean + rate * change, variance, watched.count + 1)
    has = mean.count > 0
    return jax.tree.map(lambda new, old: jnp.where(has, new, old), new, watched)


def check_stream(expects: Mapping[str, Input], stream: Stream) -> None:
    """Raises a UserError where a stream has other batches than expected."""
    classes = getattr(stream, "num_classes", None)
    below = expects["label"].below if "label" in expects else None
    if classes is not None and below is not None and classes > below:
        raise UserError(f"the data have {classes:,} identities, the system {below:,}")
    check_batch_size(expects, stream.batch_size)


def check_batch_size(expects: Mapping[str, Input], batch_size: int) -> None:
    """Raises a UserError for a batch size that the system cannot take."""
    for name, wanted in expects.items():
        if batch_size < 1 or batch_size % wanted.multiple:
            raise UserError(
                f"a batch of {batch_size} rows: {name!r} takes a multiple of "
                f"{wanted.multiple}"
            )


def check_batch(expects: Mapping[str, Input], batch: Mapping[str, Any]) -> None:
    """Raises a UserError for the first array that is not what a system expects."""
    for name, wanted in expects.items():
        if name not in batch:
            raise UserError(
                f"the batches have no {name!r}, which the system needs; they have "
                f"{', '.join(sorted(batch))}"
            )
        array = batch[name]
        fits = len(array.shape) == len(wanted.shape) and all(
            length in (None, found) for length, found in zip(wanted.shape, array.shape)
        )
        if array.dtype != wanted.dtype or not fits:
            shape = ", ".join("any" if n is None else str(n) for n in wanted.shape)
            raise UserError(
                f"{name!r} of a batch is {array.dtype} {tuple(array.shape)}, expected "
                f"{np.dtype(wanted.dtype).name} ({shape})"
            )
        if wanted.low is None and wanted.below is None:
            continue
        for values in _local(array):
            low = values.min() if wanted.low is None else wanted.low
            below = values.max() + 1 if wanted.below is None else wanted.below
            wrong = values[(values < low) | (values >= below)]
            if len(wrong):
                raise UserError(
                    f"{name!r} of a batch has {wrong[0]}, expected {low} to {below - 1}"
                )


def _local(array) -> list[np.ndarray]:
    """The rows of a batch's array that this process holds."""
    if isinstance(array, jax.Array):
        return [np.asarray(shard.data) for shard in array.addressable_shards]
    return [np.asarray(array)]
