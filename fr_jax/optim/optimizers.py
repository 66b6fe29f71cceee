"""Optimisers, learning-rate schedules and weight-decay masks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from fr_jax.errors import UserError, check_names, check_options, check_range
from fr_jax.system import NetState, score

PyTree = Any
SCHEDULES = ("step", "cosine", "linear", "constant")


class Optimizer(NamedTuple):
    """A gradient transformation, and its learning rate by number of updates."""

    transform: optax.GradientTransformation
    rate: optax.Schedule

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(params)


def from_options(
    options: Optimizer | Mapping[str, Any] | None,
    *,
    defaults: Mapping[str, Any],
    num_steps: int | None,
    steps_per_epoch: float | None,
) -> Optimizer:
    """Returns the optimiser that {'name': 'sgd' or 'adam', its arguments} describes.

    Args:
      options: over `defaults`; or an Optimizer, which is returned as it is.
      num_steps, steps_per_epoch: of the run; needed where the schedule counts in them.

    Raises:
      UserError: for an unknown name, an argument that the optimiser does not take, and
        a schedule whose length is not known.
    """
    if isinstance(options, Optimizer):
        return options
    options = {**defaults, **(options or {})}
    name = options.pop("name", "sgd")
    check_names("optimizer", [name], OPTIMIZERS)
    check_options(f"optimizer {name}", OPTIMIZERS[name], options)
    known = {"num_steps": num_steps, "steps_per_epoch": steps_per_epoch}
    return OPTIMIZERS[name](**options, **known)


def by_network(
    options: Mapping[str, Any] | None, networks: Sequence[str], **run: Any
) -> dict[str, Optimizer]:
    """Returns an optimiser for each of several networks, Adam by default.

    Args:
      options: see `from_options`; those of one network alone under its name.
      **run: num_steps and steps_per_epoch.
    """
    shared = dict(options or {})
    own = {name: shared.pop(name, {}) for name in networks}
    return {
        name: from_options(shared | own[name], defaults={"name": "adam"}, **run)
        for name in networks
    }


def sgd(
    *,
    learning_rate: float = 0.1,
    schedule: str = "constant",
    milestones: Sequence[float] = (),
    warmup_epochs: float = 0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    mask: Callable[[PyTree], PyTree] | None = None,
    clip_norm: float = 0.0,
    accumulate: int = 1,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
) -> Optimizer:
    """Returns PyTorch's SGD: decay is added to the gradient before momentum.

    Args:
      schedule, milestones, warmup_epochs: see `rate_schedule`.
      mask: params -> which of them decay; by default `decay_mask`.
      clip_norm: the gradient's global norm is clipped to it first; 0: not.
      accumulate: gradients of this many steps are averaged into one update.
    """
    rate = rate_schedule(
        schedule,
        learning_rate,
        milestones=milestones,
        warmup_epochs=warmup_epochs,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        accumulate=accumulate,
    )
    chain = [optax.add_decayed_weights(weight_decay, mask or decay_mask)]
    if momentum:
        chain.append(optax.trace(momentum))
    chain.append(optax.scale_by_learning_rate(rate))
    return _wrapped(optax.chain(*chain), rate, clip_norm, accumulate)


def adam(
    *,
    learning_rate: float = 2e-4,
    schedule: str = "constant",
    milestones: Sequence[float] = (),
    warmup_epochs: float = 0,
    betas: tuple[float, float] = (0.5, 0.999),
    clip_norm: float = 0.0,
    accumulate: int = 1,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
) -> Optimizer:
    """Returns Adam (Kingma and Ba, ICLR 2015); arguments as those of `sgd`."""
    rate = rate_schedule(
        schedule,
        learning_rate,
        milestones=milestones,
        warmup_epochs=warmup_epochs,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        accumulate=accumulate,
    )
    return _wrapped(optax.adam(rate, *betas), rate, clip_norm, accumulate)


def _wrapped(
    transform: optax.GradientTransformation,
    rate: optax.Schedule,
    clip_norm: float,
    accumulate: int,
) -> Optimizer:
    check_range("clip_norm", clip_norm, 0)
    if clip_norm:
        transform = optax.chain(optax.clip_by_global_norm(clip_norm), transform)
    if accumulate > 1:
        steps = optax.MultiSteps(transform, accumulate)
        transform = steps.gradient_transformation()
    return Optimizer(transform, lambda updates: rate(updates // accumulate))


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam}


def rate_schedule(
    kind: str,
    learning_rate: float,
    *,
    milestones: Sequence[float] = (),
    warmup_epochs: float = 0,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    accumulate: int = 1,
) -> optax.Schedule:
    """Returns number of updates -> learning rate.

    Args:
      kind: 'step' (a tenth at each milestone), 'cosine' or 'linear' (to zero at the end
        of the run), or 'constant'.
      milestones: epochs, for 'step' alone.
      warmup_epochs: linear rise from zero before everything else.
      num_steps: of the whole run; an update takes `accumulate` of them.

    Raises:
      UserError: for another kind, and where the run or the epoch has no known length.
    """
    check_names("schedule", [kind], SCHEDULES)
    for value in milestones:
        check_range("milestones", value, 0)
    check_range("accumulate", accumulate, 1)
    if num_steps is None and kind in ("cosine", "linear"):
        raise UserError(
            f"schedule {kind!r} ends with the run: give num_steps, or "
            "schedule='constant'"
        )
    if steps_per_epoch is None and (warmup_epochs or (kind == "step" and milestones)):
        raise UserError(
            f"schedule {kind!r} counts in epochs: give steps_per_epoch, the number of "
            "batches in one, or schedule='constant'"
        )
    updates_per_epoch = (steps_per_epoch or 1) / accumulate
    warmup = round(warmup_epochs * updates_per_epoch)
    remaining = max(round((num_steps or 0) / accumulate) - warmup, 1)
    if kind == "step":
        steps = [round(epoch * updates_per_epoch) - warmup for epoch in milestones]
        tenths = dict.fromkeys(steps, 0.1)
        after = optax.piecewise_constant_schedule(learning_rate, tenths)
    elif kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, remaining)
    elif kind == "linear":
        after = optax.linear_schedule(learning_rate, 0.0, remaining)
    else:
        after = optax.constant_schedule(learning_rate)
    if not warmup:
        return after
    rise = optax.linear_schedule(0.0, learning_rate, warmup)
    return optax.join_schedules([rise, after], [warmup])


def apply_gradients(
    net: NetState,
    gradients: PyTree,
    batch_stats: PyTree,
    optimizer: Optimizer,
    scale: float | jax.Array = 1.0,
) -> NetState:
    """Returns a network after one step of its optimiser.

    Args:
      batch_stats: those after the forward pass.
      scale: factor of the learning rate in this step.
    """
    updates, opt_state = optimizer.transform.update(
        gradients, net.opt_state, net.params
    )
    updates = jax.tree.map(lambda update: scale * update, updates)
    params = optax.apply_updates(net.params, updates)
    return NetState(params, batch_stats, opt_state, net.updates + 1)


class Plateau(NamedTuple):
    """What a rate that falls when a score stands still remembers; all arrays."""

    factor: Any = np.float32(1.0)  # of the learning rate
    best: Any = np.float32(-1e30)  # finite, as every number of a state must be
    bad: Any = np.int32(0)  # evaluations without a better score
    cooldown: Any = np.int32(0)  # evaluations that are not counted
    highest: Any = np.float32(-1e30)  # for stopping, which counts every better score
    since: Any = np.int32(0)


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
    scale, best, bad, wait, highest, since = (np.asarray(x).item() for x in plateau)
    if score > best * (1 + threshold):
        best, bad = score, 0
    else:
        bad += 1
    if wait > 0:
        wait, bad = wait - 1, 0
    if bad > patience:
        scale, wait, bad = scale * factor, cooldown, 0
    highest, since = (score, 0) if score > highest else (highest, since + 1)
    values = scale, best, bad, wait, highest, since
    new = Plateau(*(type(old)(value) for old, value in zip(Plateau(), values)))
    return new, bool(stop_after) and since >= stop_after


def plateau_feedback(metrics: Sequence[str], lowers_rate: bool, **options: Any):
    """Returns a `System.feedback` that updates the state's field `plateau`.

    Args:
      metrics: names of the evaluation metrics whose mean is the score.
      lowers_rate: False keeps the learning rate, so that the score only stops the run.
      options: keyword arguments of `on_plateau`.
    """

    def feedback(state: Any, evaluated: Mapping[str, float]) -> tuple[Any, bool]:
        value = score(evaluated, metrics, "metric of the plateau")
        plateau, stop = on_plateau(state.plateau, value, **options)
        if not lowers_rate:
            plateau = plateau._replace(factor=np.float32(1.0))
        return state._replace(plateau=plateau), stop

    return feedback


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
