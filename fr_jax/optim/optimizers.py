"""Learning-rate schedules, weight-decay masks and face recognition's SGD."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from fr_jax.errors import UserError, unknown

PyTree = Any
SCHEDULES = ("step", "cosine", "linear", "constant")


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
        raise UserError(unknown("schedule", kind, SCHEDULES))
    if not warmup_steps:
        return after
    rise = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([rise, after], [warmup_steps])


class Plateau(NamedTuple):
    """What a rate that falls when a score stands still remembers; all arrays."""

    factor: Any = np.float32(1.0)  # of the learning rate
    best: Any = np.float32(-1e30)  # finite, as every number of a state must be
    bad: Any = np.int32(0)  # evaluations without a better score
    cooldown: Any = np.int32(0)  # evaluations that are not counted
    highest: Any = np.float32(-1e30)  # for stopping, which counts every better score
    since: Any = np.int32(0)


PLATEAU_SETTINGS = ("factor", "patience", "cooldown", "threshold", "stop_after")


def on_plateau(
    plateau: Plateau,
    score: float,
    *,
    factor: float = 0.1,
    patience: int = 10,
    cooldown: int = 10,
    threshold: float = 1e-4,
    stop_after: int = 20,
) -> tuple[Plateau, bool]:
    """Returns the plateau after one more score, and whether to stop.

    PyTorch's ReduceLROnPlateau (mode max, relative threshold, applied on the host): the
    rate falls by `factor` after more than `patience` scores that are not better than
    the best by `threshold` of it; the `cooldown` scores behind that do not count.

    Args:
      stop_after: scores without a strictly higher one, after which to stop; 0: never.
    """
    score = float(np.float32(score))  # as `best` is stored, so that equal is equal
    scale, best, bad, wait, highest, since = (
        x.item() for x in map(np.asarray, plateau)
    )
    if score > best * (1 + threshold):
        best, bad = score, 0
    else:
        bad += 1
    if wait > 0:
        wait, bad = wait - 1, 0
    if bad > patience:
        scale, wait, bad = scale * factor, cooldown, 0
    highest, since = (score, 0) if score > highest else (highest, since + 1)
    new = Plateau(
        np.float32(scale),
        np.float32(best),
        np.int32(bad),
        np.int32(wait),
        np.float32(highest),
        np.int32(since),
    )
    return new, bool(stop_after) and since >= stop_after


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


def all_but_frozen(params: PyTree) -> PyTree:
    """Returns True for every parameter but the scale of a backbone's last BatchNorm.

    That one gets no gradient (arcface_torch) and keeps its value; all others decay.
    """

    def decays(path, _):
        names = [str(getattr(entry, "key", "")) for entry in path]
        return names[-2:] != ["features", "scale"]

    return jax.tree_util.tree_map_with_path(decays, params)


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
