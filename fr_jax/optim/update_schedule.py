"""Which of two adversarial networks is updated in a step.

Updates come in cycles of d discriminator steps and g generator steps. A schedule says
(d, g) at the start of each cycle; all of it runs on the device, and a run that is
interrupted within a cycle resumes within it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import UserError, check_names, check_options, check_range
from fr_jax.optim.ema import ema
from fr_jax.system import Mean

Array = jax.Array
PyTree = Any
Ratio = Sequence[int]  # (d, g)


class Turn(NamedTuple):
    """Position in the cycle, its (d, g), and the discriminator's running accuracy."""

    done: Array
    discriminator: Array
    generator: Array
    accuracy: Array

    @classmethod
    def first(cls) -> "Turn":
        """Returns the turn that starts a cycle at the first step."""
        return cls(jnp.int32(0), jnp.int32(0), jnp.int32(0), jnp.float32(0))


class UpdateSchedule(NamedTuple):
    """When each network is updated.

    Attributes:
      ratio: (step, running accuracy) -> (d, g) of the cycle that starts.
      accuracy_decay: weight of the old value in the running accuracy.
    """

    ratio: Callable[[Array, Array], Array]
    accuracy_decay: float = 0.9


def fixed(ratio: Ratio = (1, 1)) -> UpdateSchedule:
    """Returns the schedule of one ratio."""
    pair = _ratio(ratio)
    return UpdateSchedule(lambda step, accuracy: pair)


def accuracy_gated(
    ratio: Ratio = (1, 1),
    strong_ratio: Ratio = (1, 4),
    *,
    threshold: float = 0.9,
    accuracy_decay: float = 0.9,
) -> UpdateSchedule:
    """Returns `strong_ratio` while the discriminator is accurate, else `ratio`.

    Args:
      threshold: running accuracy from which the discriminator counts as strong.
      accuracy_decay: 0 takes the accuracy of a single batch (kayamin's program).
    """
    check_range("threshold", threshold, 0, 1)
    check_range("accuracy_decay", accuracy_decay, 0, 1)
    usual, strong = _ratio(ratio), _ratio(strong_ratio)

    def choose(step, accuracy):
        return jnp.where(accuracy >= threshold, strong, usual)

    return UpdateSchedule(choose, accuracy_decay)


def staged(
    stages: Sequence[tuple[float, Ratio]],
    ratio: Ratio = (1, 1),
    *,
    steps_per_epoch: float = 1.0,
) -> UpdateSchedule:
    """Returns the ratio of the last stage that has begun; `ratio` before the first.

    Args:
      stages: (first epoch, ratio), ascending.
    """
    starts = [round(start * steps_per_epoch) for start, _ in stages]
    if not stages or starts != sorted(starts):
        raise UserError(
            f"stages {tuple(stages)}: give (start, ratio), ascending, at least one"
        )
    pairs = [_ratio(pair) for _, pair in stages]
    first = _ratio(ratio)

    def choose(step, accuracy):
        chosen = first
        for start, pair in zip(starts, pairs):
            chosen = jnp.where(step >= start, pair, chosen)
        return chosen

    return UpdateSchedule(choose)


def from_options(
    options: UpdateSchedule | str | Mapping[str, Any], steps_per_epoch: float | None
) -> UpdateSchedule:
    """Returns the schedule of a name, or of {'name': ..., its arguments}.

    Raises:
      UserError: for another name, and arguments that the schedule does not take.
    """
    if isinstance(options, UpdateSchedule):
        return options
    options = {"name": options} if isinstance(options, str) else dict(options)
    name = options.pop("name", "accuracy_gated")
    check_names("update schedule", [name], SCHEDULES)
    if name == "staged":
        options["steps_per_epoch"] = steps_per_epoch or 1.0
    check_options(f"update schedule {name}", SCHEDULES[name], options)
    return SCHEDULES[name](**options)


def next_turn(schedule: UpdateSchedule, turn: Turn, step: Array) -> tuple[Array, Turn]:
    """Returns whether this step updates the discriminator, and the turn after it."""
    over = turn.done >= turn.discriminator + turn.generator
    starting = schedule.ratio(step, turn.accuracy)
    discriminator = jnp.where(over, starting[0], turn.discriminator)
    generator = jnp.where(over, starting[1], turn.generator)
    done = jnp.where(over, 0, turn.done)
    after = turn._replace(
        done=done + 1, discriminator=discriminator, generator=generator
    )
    return done < discriminator, after


def observe(schedule: UpdateSchedule, turn: Turn, accuracy: Array) -> Turn:
    """Returns the turn with a batch's accuracy in the discriminator's running one."""
    return turn._replace(accuracy=ema(turn.accuracy, accuracy, schedule.accuracy_decay))


def alternate(
    chosen: Array,
    discriminator_step: Callable[..., tuple[PyTree, dict[str, Array]]],
    generator_step: Callable[..., tuple[PyTree, dict[str, Array]]],
    *arguments: Any,
) -> tuple[PyTree, dict[str, Mean]]:
    """Runs one of two steps; returns the state and the metrics of both as means.

    A metric of the step that did not run is `Mean(0, 0)`.

    Args:
      chosen: bool; True runs `discriminator_step`.
      discriminator_step, generator_step: (*arguments) -> (state, scalars).
    """
    steps = discriminator_step, generator_step
    first, second = (jax.eval_shape(step, *arguments)[1] for step in steps)

    def with_all_metrics(step):
        def run(*arguments):
            state, scalars = step(*arguments)
            metrics = {name: Mean.of(0, 0) for name in first | second}
            return state, metrics | {n: Mean.of(x) for n, x in scalars.items()}

        return run

    return jax.lax.cond(chosen, *map(with_all_metrics, steps), *arguments)


SCHEDULES: dict[str, Callable[..., UpdateSchedule]] = {
    "fixed": fixed,
    "accuracy_gated": accuracy_gated,
    "staged": staged,
}


def _ratio(pair: Ratio) -> Array:
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(
            f"ratio {tuple(pair)}: updates of the discriminator and of the generator "
            "in a cycle, at least 1 of each"
        )
    return jnp.array(pair, jnp.int32)
