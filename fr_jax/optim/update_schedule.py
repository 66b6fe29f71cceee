"""Update schedules of adversarial training: which network a step updates.

A cycle is d discriminator steps, then g generator steps; a schedule returns (d, g) at
the start of each cycle. It runs on the device, and its state is part of the checkpoint,
so that a run resumes within a cycle.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.errors import UserError, check_names, check_options, check_range
from fr_jax.optim.ema import ema
from fr_jax.system import Mean, PyTree

Array = jax.Array
Ratio = Sequence[int]  # (d, g)


class Turn(NamedTuple):
    """Position in a cycle; by default before the first step.

    Attributes:
      done: steps of the cycle already taken.
      discriminator, generator: (d, g) of the cycle.
      accuracy: moving average of the discriminator's accuracy.
    """

    done: Any = np.int32(0)
    discriminator: Any = np.int32(0)
    generator: Any = np.int32(0)
    accuracy: Any = np.float32(0)


class UpdateSchedule(NamedTuple):
    """A rule for the cycles of updates.

    Attributes:
      ratio: (step, average accuracy) -> (d, g) of the cycle that starts at that step.
      accuracy_decay: weight of the old value in the average accuracy.
    """

    ratio: Callable[[Array, Array], Array]
    accuracy_decay: float = 0.9


def fixed(ratio: Ratio = (1, 1)) -> UpdateSchedule:
    """Returns the schedule with one ratio (d, g)."""
    pair = _ratio(ratio)
    return UpdateSchedule(lambda step, accuracy: pair)


def accuracy_gated(
    ratio: Ratio = (1, 1),
    strong_ratio: Ratio = (1, 4),
    *,
    threshold: float = 0.9,
    accuracy_decay: float = 0.9,
) -> UpdateSchedule:
    """Returns a schedule: `strong_ratio` if the discriminator is accurate, or `ratio`.

    Args:
      threshold: average accuracy from which `strong_ratio` applies.
      accuracy_decay: see `UpdateSchedule`; 0 uses the accuracy of the last batch
        (kayamin's program).
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
    """Returns a schedule: the ratio of the current stage, `ratio` before the first.

    Args:
      stages: (first epoch, ratio), in ascending order.

    Raises:
      UserError: for no stages, or stages out of order.
    """
    starts = [round(start * steps_per_epoch) for start, _ in stages]
    if not stages or starts != sorted(starts):
        raise UserError(
            f"stages {tuple(stages)}: give (start, ratio), ascending, at least one"
        )
    ratios = jnp.stack([_ratio(ratio), *(_ratio(pair) for _, pair in stages)])
    first_steps = jnp.array(starts)

    def choose(step, accuracy):
        return ratios[jnp.sum(step >= first_steps)]

    return UpdateSchedule(choose)


def from_options(
    options: UpdateSchedule | str | Mapping[str, Any], steps_per_epoch: float | None
) -> UpdateSchedule:
    """Returns the schedule of a name, or of {'name': ..., its keyword arguments}.

    Raises:
      UserError: for an unknown name or argument.
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
    """Returns whether this step updates the discriminator, and the next position."""
    starts = turn.done >= turn.discriminator + turn.generator
    current = jnp.stack([turn.discriminator, turn.generator])
    ratio = jnp.where(starts, schedule.ratio(step, turn.accuracy), current)
    done = jnp.where(starts, 0, turn.done)
    return done < ratio[0], Turn(done + 1, ratio[0], ratio[1], turn.accuracy)


def observe(schedule: UpdateSchedule, turn: Turn, accuracy: Array) -> Turn:
    """Returns the position with a batch's accuracy added to the average accuracy."""
    return turn._replace(accuracy=ema(turn.accuracy, accuracy, schedule.accuracy_decay))


def alternate(
    chosen: Array,
    discriminator_step: Callable[..., tuple[PyTree, dict[str, Array]]],
    generator_step: Callable[..., tuple[PyTree, dict[str, Array]]],
    *arguments: Any,
) -> tuple[PyTree, dict[str, Mean]]:
    """Returns the state and metrics (means) after one of two steps.

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
