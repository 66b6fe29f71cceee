"""Whose turn it is: how often a discriminator and a generator are updated.

In cycles of d updates of the one and g of the other. A schedule says (d, g) at the
start of each cycle; all of it runs on the device, and a run that is stopped within a
cycle goes on within it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import UserError, unknown

Array = jax.Array
Ratio = Sequence[int]  # two

KINDS = ("fixed", "accuracy_gated", "staged")


class Turn(NamedTuple):
    """Updates done in the cycle, and its (d, g); the first cycle begins at once."""

    done: Any = 0
    discriminator: Any = 0
    generator: Any = 0


# (turn, step, running accuracy) -> (is it the discriminator's?, turn after it)
Schedule = Callable[[Turn, Array, Array], tuple[Array, Turn]]


def schedule(
    kind: str,
    *,
    ratio: Ratio = (1, 1),
    strong_ratio: Ratio = (1, 4),
    threshold: float = 0.9,
    stages: Sequence[tuple[int, Ratio]] = (),
) -> Schedule:
    """Returns the schedule.

    Args:
      kind: 'fixed', `ratio` throughout; 'accuracy_gated', `strong_ratio` as long as the
        discriminator's running accuracy is at least `threshold` (kayamin's program
        looks at a single batch); 'staged', by step.
      stages: (first step, ratio), ascending; `ratio` before the first one.

    Raises:
      UserError: for another kind, a ratio without an update of either network, and
        stages that are no ascending ones or are not used.
    """
    if kind not in KINDS:
        raise UserError(unknown("update schedule", kind, KINDS))
    for pair in (ratio, strong_ratio, *(pair for _, pair in stages)):
        if len(pair) != 2 or min(pair) < 1:
            raise UserError(
                f"ratio {tuple(pair)}: updates of the discriminator and of the "
                "generator in a cycle, at least 1 of each"
            )
    if stages and kind != "staged":
        raise UserError(
            f"stages {tuple(stages)} go with schedule 'staged', not {kind!r}"
        )
    starts = [start for start, _ in stages]
    if kind == "staged" and (not stages or starts != sorted(starts)):
        raise UserError(
            f"stages {tuple(stages)}: give (start, ratio), ascending, at least one"
        )

    def ratio_at(step, accuracy):
        found = jnp.array(ratio, jnp.int32)
        if kind == "accuracy_gated":
            strong = jnp.array(strong_ratio, jnp.int32)
            found = jnp.where(accuracy >= threshold, strong, found)
        elif kind == "staged":
            for start, pair in stages:
                found = jnp.where(step >= start, jnp.array(pair, jnp.int32), found)
        return found

    def take(turn, step, accuracy):
        over = turn.done >= turn.discriminator + turn.generator
        ours, theirs = ratio_at(step, accuracy)
        discriminator = jnp.where(over, ours, turn.discriminator)
        generator = jnp.where(over, theirs, turn.generator)
        done = jnp.where(over, 0, turn.done)
        return done < discriminator, Turn(done + 1, discriminator, generator)

    return take
