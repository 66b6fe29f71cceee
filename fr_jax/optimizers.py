"""Learning-rate schedules, weight-decay masks and face recognition's SGD."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from fr_jax.errors import UserError

PyTree = Any


def step_schedule(
    learning_rate: float, milestones: Sequence[int], factor: float = 0.1
) -> optax.Schedule:
    """Returns a rate that is multiplied by `factor` at each step in `milestones`."""
    return optax.piecewise_constant_schedule(
        learning_rate, dict.fromkeys(milestones, factor)
    )


def schedule(
    kind: str,
    learning_rate: float,
    *,
    total_steps: int,
    milestones: Sequence[int] = (),
    warmup_steps: int = 0,
) -> optax.Schedule:
    """Returns step -> learning rate.

    Args:
      kind: 'step' (divided by ten at each milestone), 'cosine' or 'linear' (to zero at
        `total_steps`), or 'constant'.
      milestones: steps, for 'step' alone.
      warmup_steps: linear rise from zero before everything else.

    Raises:
      UserError: for another kind.
    """
    remaining = max(total_steps - warmup_steps, 1)
    if kind == "step":
        after = step_schedule(learning_rate, [m - warmup_steps for m in milestones])
    elif kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, remaining)
    elif kind == "linear":
        after = optax.linear_schedule(learning_rate, 0.0, remaining)
    elif kind == "constant":
        after = optax.constant_schedule(learning_rate)
    else:
        raise UserError(
            f"schedule is 'step', 'cosine', 'linear' or 'constant', not {kind!r}"
        )
    if not warmup_steps:
        return after
    rise = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([rise, after], [warmup_steps])


def decay_mask(params: PyTree) -> PyTree:
    """Returns True for every parameter that is decayed: all but BatchNorm's.

    A module that owns a 'scale' is a normalisation; its bias is not decayed either.
    """

    def visit(node):
        if not isinstance(node, dict):
            return True
        if "scale" in node:
            return jax.tree.map(lambda _: False, node)
        return {name: visit(child) for name, child in node.items()}

    return visit(params)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    mask: Callable[[PyTree], PyTree] | None = decay_mask,
    clip_norm: float | None = None,
    accumulate: int = 1,
) -> optax.GradientTransformation:
    """Returns PyTorch's SGD: decay is added to the gradient before momentum.

    Args:
      mask: params -> which of them decay; None decays all.
      clip_norm: the gradient's global norm is clipped to it first.
      accumulate: gradients of this many steps are averaged into one update.
    """
    chain = [optax.add_decayed_weights(weight_decay, mask)]
    if clip_norm is not None:
        chain.insert(0, optax.clip_by_global_norm(clip_norm))
    if momentum:
        chain.append(optax.trace(momentum))
    chain.append(optax.scale_by_learning_rate(learning_rate))
    optimizer = optax.chain(*chain)
    if accumulate == 1:
        return optimizer
    return optax.MultiSteps(optimizer, accumulate).gradient_transformation()
