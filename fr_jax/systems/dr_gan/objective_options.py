"""DR-GAN's objective from the options of a configuration."""

from collections.abc import Callable, Mapping
from typing import Any

from fr_jax.augment.diff_augment import KINDS
from fr_jax.errors import UserError, check_names, check_options, check_range
from fr_jax.systems.dr_gan import objective as objectives
from fr_jax.systems.dr_gan.objective import Objective

_ADVERSARIAL = ("identity", "gan", "pose", "illumination")  # need the discriminator
_ADDED = ("paired", "identity_preserving", "perceptual")
WEIGHTS = {**dict.fromkeys(_ADVERSARIAL, 1.0), **dict.fromkeys(_ADDED, 0.0)}
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "tpami": objectives.tpami,
    "cvpr": objectives.cvpr,
}
_FIELDS = (
    "diff_augmentation",
    "interpolate",
    "fused_sum",
    "discriminate_fused",
    "statistics_in_generator_step",
)


def from_options(
    options: Objective | str | Mapping[str, Any], *, paired: bool
) -> Objective:
    """Returns the objective of a name, or of {'name': ..., options}.

    Options: those of `tpami` or `cvpr`; `weights`, also of paired, identity_preserving
    and perceptual (0 omits a loss; without identity, gan and pose there is no
    discriminator); paired_loss; r1 with weight and every; `_FIELDS` of `Objective`.

    Args:
      paired: the data have ground truth in another pose.

    Raises:
      UserError: for unknown names, if all weights are 0, and if a loss needs ground
        truth but the data are not paired.
    """
    objective = options if isinstance(options, Objective) else _from_options(options)
    if objective.paired and not paired:
        raise UserError(
            "the objective needs ground truth in another pose, but the data are not "
            "paired: set config.data.paired, or weights of 0.0 for 'paired' and "
            "'perceptual'"
        )
    return objective


def _from_options(options: str | Mapping[str, Any]) -> Objective:
    options = {"name": options} if isinstance(options, str) else dict(options)
    name = options.pop("name", "tpami")
    check_names("objective", [name], OBJECTIVES)
    weights = {**WEIGHTS, **options.pop("weights", {})}
    check_names("weight", weights, WEIGHTS)
    for loss, weight in weights.items():
        check_range(f"weight {loss!r}", weight, 0)
    r1_options = dict(options.pop("r1", {}))
    paired_loss = options.pop("paired_loss", "l1")
    fields = {key: options.pop(key) for key in _FIELDS if key in options}
    check_names("diff_augmentation", fields.get("diff_augmentation", ()), KINDS)
    check_options(f"objective {name}", OBJECTIVES[name], options)
    if any(weights[loss] for loss in ("identity", "gan", "pose")):
        of_heads = {loss: weights[loss] for loss in _ADVERSARIAL}
        objective = OBJECTIVES[name](**options, weights=of_heads)
        check_options("r1", objectives.with_r1, r1_options, given=1)
        if r1_options.get("weight"):
            objective = objectives.with_r1(objective, **r1_options)
    else:
        objective = objectives.generator_only()
        unused = {"r1": r1_options.get("weight"), **fields}
        for name in ("r1", "interpolate", "diff_augmentation"):
            if unused.get(name):
                raise UserError(
                    f"{name} needs a trained discriminator: raise weight 'gan', "
                    "'identity' or 'pose'"
                )
    if weight := weights["paired"]:
        objective = objectives.with_reconstruction(objective, weight, paired_loss)
    of_recogniser = weights["identity_preserving"], weights["perceptual"]
    if any(of_recogniser):
        objective = objectives.with_identity(objective, *of_recogniser)
    if not any(weight for loss, weight in weights.items() if loss != "illumination"):
        raise UserError(
            "no loss is active: raise the weight of 'gan', 'paired' or another "
            "(config.system.objective.weights)"
        )
    return objective._replace(**fields)
