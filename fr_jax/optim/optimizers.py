"""Optimisers, learning-rate schedules and weight-decay masks.

SGD and Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980) follow PyTorch: weight decay is
added to the gradient.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from fr_jax.errors import UserError, check_names, check_range, named
from fr_jax.system import NetState, PyTree, score

SCHEDULES = ("step", "cosine", "linear", "constant")


class Optimizer(NamedTuple):
    """A gradient transformation, and its schedule: number of updates -> rate."""

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
    **frequent: Any,
) -> Optimizer:
    """Returns the optimiser of {'name': 'sgd' or 'adam', its keyword arguments}.

    Args:
      options: merged over `defaults`; an Optimizer is returned unchanged.
      **frequent: merged over `options`, unless None; arguments of `make` for the
        options that are set most often.
      num_steps, steps_per_epoch: of the run; needed if the schedule depends on them.

    Raises:
      UserError: for an unknown name or argument, a number out of range, and a schedule
        whose length is unknown.
    """
    frequent = {name: value for name, value in frequent.items() if value is not None}
    if isinstance(options, Optimizer):
        if frequent:
            raise UserError(f"{', '.join(frequent)} is set in the Optimizer given")
        return options
    options = {**defaults, **(options or {}), **frequent}
    name = options.pop("name", "sgd")
    make = named("optimizer", name, OPTIMIZERS)
    accepted = [
        parameter.name
        for function in (make, scheduled, rate_schedule)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    check_names(f"option of optimizer {name}", options, accepted)
    return make(**options, num_steps=num_steps, steps_per_epoch=steps_per_epoch)


def by_network(
    options: Mapping[str, Any] | None, networks: Sequence[str], **run: Any
) -> dict[str, Optimizer]:
    """Returns an optimiser for each network by name, Adam by default.

    Args:
      options: see `from_options`; the options of one network, or its Optimizer, are
        under its name.
      **run: num_steps and steps_per_epoch.
    """
    shared = dict(options or {})
    specific = {name: shared.pop(name, {}) for name in networks}
    return {
        name: changes
        if isinstance(changes, Optimizer)
        else from_options(shared | changes, defaults={"name": "adam"}, **run)
        for name, changes in specific.items()
    }


def sgd(
    *,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    mask: Callable[[PyTree], PyTree] | None = None,
    **options: Any,
) -> Optimizer:
    """Returns SGD as in PyTorch: decay is added to the gradient before momentum.

    Args:
      mask: params -> True for each parameter that decays; by default `decay_mask`.
      **options: keyword arguments of `scheduled` and `rate_schedule`.
    """

    check_range("momentum", momentum, 0, 1)
    check_range("weight_decay", weight_decay, 0)

    def transform(rate):
        chain = [optax.add_decayed_weights(weight_decay, mask or decay_mask)]
        if momentum:
            chain.append(optax.trace(momentum))
        return optax.chain(*chain, optax.scale_by_learning_rate(rate))

    return scheduled(transform, learning_rate, **options)


def adam(
    *,
    learning_rate: float = 2e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    weight_decay: float = 0.0,
    mask: Callable[[PyTree], PyTree] | None = None,
    **options: Any,
) -> Optimizer:
    """Returns Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980).

    Args:
      betas: decay rates of the two moments.
      weight_decay: added to the gradient before the moments, as in PyTorch's Adam; this
        is not AdamW.
      mask: params -> True for each parameter that decays; by default `decay_mask`.
      **options: keyword arguments of `scheduled` and `rate_schedule`.
    """
    for beta in betas:
        check_range("betas", beta, 0, 1)
    check_range("weight_decay", weight_decay, 0)

    def transform(rate):
        update = optax.adam(rate, *betas)
        if not weight_decay:
            return update
        decay = optax.add_decayed_weights(weight_decay, mask or decay_mask)
        return optax.chain(decay, update)

    return scheduled(transform, learning_rate, **options)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam}


def scheduled(
    transform: Callable[[optax.Schedule], optax.GradientTransformation],
    learning_rate: float,
    *,
    schedule: str = "constant",
    clip_norm: float = 0.0,
    accumulate: int = 1,
    **options: Any,
) -> Optimizer:
    """Returns an optimiser with a learning-rate schedule, clipping and accumulation.

    Args:
      transform: learning-rate schedule -> gradient transformation.
      schedule: `kind` of `rate_schedule`.
      clip_norm: largest global norm of the gradient, clipped first; 0: no clipping.
      accumulate: gradients of this many steps are averaged into one update.
      **options: other keyword arguments of `rate_schedule`.

    Raises:
      UserError: see `rate_schedule`; also for a negative `clip_norm`.
    """
    rate = rate_schedule(schedule, learning_rate, accumulate=accumulate, **options)
    update = transform(rate)
    check_range("clip_norm", clip_norm, 0)
    if clip_norm:
        update = optax.chain(optax.clip_by_global_norm(clip_norm), update)
    if accumulate > 1:
        update = optax.MultiSteps(update, accumulate).gradient_transformation()
    return Optimizer(update, lambda updates: rate(updates // accumulate))


def rate_schedule(
    kind: str,
    learning_rate: float,
    *,
    milestones: Sequence[float] = (),
    warmup_epochs: float = 0,
    warmup_share: float = 0,
    num_steps: int | None = None,
    steps_per_epoch: float | None = None,
    accumulate: int = 1,
) -> optax.Schedule:
    """Returns number of updates -> learning rate.

    Args:
      kind: 'step' (divided by 10 at each milestone), 'cosine' or 'linear' (to zero at
        the end of the run), or 'constant'.
      milestones: epochs, for 'step'.
      warmup_epochs: length of a linear rise from zero before the schedule.
      warmup_share: the same, as a share of the run.
      num_steps: of the whole run; an update takes `accumulate` of them.

    Raises:
      UserError: for an unknown kind, and if the length of the run or of an epoch is
        needed and missing.

    >>> rate = rate_schedule("step", 0.1, milestones=(8,), steps_per_epoch=10)
    >>> [f"{rate(update):.3f}" for update in (79, 80)]
    ['0.100', '0.010']
    """
    check_names("schedule", [kind], SCHEDULES)
    check_range("learning_rate", learning_rate, 0)
    check_range("warmup_epochs", warmup_epochs, 0)
    check_range("warmup_share", warmup_share, 0, 1)
    if warmup_epochs and warmup_share:
        raise UserError("give warmup_epochs or warmup_share, not both")
    for value in milestones:
        check_range("milestones", value, 0)
    check_range("accumulate", accumulate, 1)
    if num_steps is None and (warmup_share or kind in ("cosine", "linear")):
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
    updates = round((num_steps or 0) / accumulate)
    warmup = round(warmup_epochs * updates_per_epoch + warmup_share * updates)
    remaining = max(updates - warmup, 1)
    if kind == "step":
        falls = [round(epoch * updates_per_epoch) - warmup for epoch in milestones]
        tenths = dict.fromkeys(falls, 0.1)
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
    """Returns a network after one optimiser step.

    Args:
      batch_stats: running statistics after the forward pass.
      scale: factor of the learning rate in this step.
    """
    updates, opt_state = optimizer.transform.update(
        gradients, net.opt_state, net.params
    )
    updates = jax.tree.map(lambda update: scale * update, updates)
    params = optax.apply_updates(net.params, updates)
    return NetState(params, batch_stats, opt_state, net.updates + 1)


class Plateau(NamedTuple):
    """State of a schedule that lowers the rate on a plateau of a score; all arrays."""

    factor: Any = np.float32(1.0)  # of the learning rate
    best: Any = np.float32(-1e30)  # finite: the guard checks every number of a state
    bad: Any = np.int32(0)  # evaluations without an improvement over `best`
    cooldown: Any = np.int32(0)  # evaluations still ignored after a reduction
    highest: Any = np.float32(-1e30)  # for stopping, without a threshold
    since: Any = np.int32(0)  # evaluations since `highest`


def on_plateau(
    plateau: Plateau,
    score: float,
    *,
    factor: float = 0.1,
    patience: int = 10,
    cooldown: int = 10,
    threshold: float = 1e-4,
    min_factor: float = 0.0,
    stop_after: int = 20,
) -> tuple[Plateau, bool]:
    """Returns the plateau after one more score, and whether to stop; on the host.

    As PyTorch's ReduceLROnPlateau (mode 'max', relative threshold): the rate is
    multiplied by `factor` after more than `patience` scores that do not exceed the best
    by the share `threshold`; the `cooldown` scores after a reduction are not counted.
    Negative scores are negated losses: as in mode 'min'.

    Args:
      min_factor: of the rate, after all reductions.
      stop_after: scores without a strictly higher one until the run stops; 0: never.
    """
    score = float(np.float32(score))  # the precision in which `best` is stored
    scale, best, bad, wait, highest, since = (np.asarray(x).item() for x in plateau)
    if score > best * (1 + threshold if best > 0 else 1 - threshold):
        best, bad = score, 0
    else:
        bad += 1
    if wait > 0:
        wait, bad = wait - 1, 0
    if bad > patience:
        scale, wait, bad = max(scale * factor, min_factor), cooldown, 0
    highest, since = (score, 0) if score > highest else (highest, since + 1)
    values = scale, best, bad, wait, highest, since
    new = Plateau(*(type(old)(value) for old, value in zip(Plateau(), values)))
    return new, bool(stop_after) and since >= stop_after


def plateau_feedback(metrics: Sequence[str], lowers_rate: bool, **options: Any):
    """Returns a `System.feedback` that updates the state's field `plateau`.

    Args:
      metrics: names of the evaluation metrics whose mean is the score; see `score`.
      lowers_rate: False keeps the learning rate, so that the score only stops the run.
      **options: keyword arguments of `on_plateau`.
    """

    def feedback(state: Any, evaluated: Mapping[str, float]) -> tuple[Any, bool]:
        value = score(evaluated, metrics, "metric of the plateau")
        plateau, stop = on_plateau(state.plateau, value, **options)
        if not lowers_rate:
            plateau = plateau._replace(factor=np.float32(1.0))
        return state._replace(plateau=plateau), stop

    return feedback


def with_rates(
    optimizer: Optimizer, factor: Callable[[tuple[str, ...]], float]
) -> Optimizer:
    """Returns an optimiser whose learning rate is scaled for each parameter.

    Args:
      factor: names along the path of a parameter -> factor of its learning rate.
    """

    def scale(updates, params=None):
        del params

        def scaled(path, update):
            names = tuple(str(getattr(entry, "key", entry)) for entry in path)
            return factor(names) * update

        return jax.tree_util.tree_map_with_path(scaled, updates)

    transform = optax.chain(optimizer.transform, optax.stateless(scale))
    return optimizer._replace(transform=transform)


def all_parameters(params: PyTree) -> PyTree:
    """Returns a mask, True for every parameter, as with PyTorch's `parameters()`."""
    return jax.tree.map(lambda _: True, params)


def decay_mask(params: PyTree) -> PyTree:
    """Returns a mask, True for every parameter that decays: all but BatchNorm's.

    A module with a 'scale' is a normalisation; its bias does not decay either.
    """
    if not isinstance(params, dict):
        return True
    if "scale" in params:
        return jax.tree.map(lambda _: False, params)
    return {name: decay_mask(child) for name, child in params.items()}


def all_but_frozen(params: PyTree) -> PyTree:
    """Returns a mask, True for all parameters but the scale of the last BatchNorm.

    That of a backbone has no gradient (arcface_torch) and keeps its value.
    """

    def decays(path, _):
        names = [str(getattr(entry, "key", "")) for entry in path]
        return names[-2:] != ["features", "scale"]

    return jax.tree_util.tree_map_with_path(decays, params)
