"""Which options of DR-GAN go together: `systems.dr_gan.make` asks before it makes."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from fr_jax import augment
from fr_jax.augment import diff_augment
from fr_jax.errors import UserError, unknown
from fr_jax.losses import dr_gan as losses
from fr_jax.losses.adversarial import GAN_LOSSES
from fr_jax.models.dr_gan import trunk as dr_gan_trunk
from fr_jax.models.dr_gan.discriminator import NORMS

# Lowest, highest, whether these two are in the range.
_RANGES = {
    "max_yaw": (0, 180, False, True),
    "real_target": (0, 1, False, True),
    "threshold": (0, 1, True, True),
    "accuracy_decay": (0, 1, True, False),
    "generator_ema": (0, 1, True, False),
    "r1_weight": (0, float("inf"), True, False),
    "r1_every": (1, float("inf"), True, False),
    "switch_every": (0, float("inf"), True, False),
}
# Options of a network that follow from others.
_DECIDED = {
    "poses": "poses",
    "illuminations": "illuminations",
    "size": "image_size",
    "channels": "channels",
    "heads": "num_classes and poses",
    "cosine_identity": "am_softmax",
}
_TRUNK = ("width", "conv_bias", "final_elu", "alignment")


def check(
    options: SimpleNamespace,
    weights: Mapping[str, float],
    maker: Any,
    judge: Any,
    *,
    game: bool,
) -> None:
    """Raises a UserError for what does not fit together.

    Args:
      options: the arguments of `make`.
      weights: of all terms.
      maker, judge: the two networks.
      game: the discriminator has a say.
    """
    _check_numbers(options, weights)
    _check_networks(options, maker, judge)
    _check_images(options)
    of_one_head = {
        "am_softmax": options.am_softmax is not None,
        "r1_weight": options.r1_weight,
        "gan_loss": options.gan_loss != "cross_entropy",
        "real_target": options.real_target != 1,
    }
    for name in [name for name, used in of_one_head.items() if used]:
        if options.loss == "cvpr":
            raise UserError(f"{name} goes with loss='tpami', not 'cvpr'")
    if not game:
        terms = ("paired", "identity_preserving", "perceptual")
        if not any(weights[name] for name in terms):
            raise UserError(
                "no term has a weight, so nothing would be learnt: raise weight 'gan', "
                "'paired' or another ('illumination' counts only where it is asked for)"
            )
        for name in ("switch_every", "interpolate", "r1_weight", "spectral_norm"):
            if getattr(options, name):
                raise UserError(
                    f"{name} needs a discriminator that learns: raise weight 'gan', "
                    "'identity' or 'pose'"
                )
    recogniser = (options.given_networks or {}).get("identity")
    for name in ("identity_preserving", "perceptual"):
        if weights[name] and (recogniser is None or recogniser.kind != "embedding"):
            found = f", not a {recogniser.kind}" if recogniser else ""
            raise UserError(
                f"weight '{name}' compares faces by a recogniser{found}: give --given "
                "identity=EMBEDDER"
            )


def check_names(*named: tuple[str, Iterable[str], Iterable[str]]) -> None:
    """Raises a UserError for a name that there is not: (what, names, all that are)."""
    for what, names, there_are in named:
        for name in names:
            if name not in there_are:
                raise UserError(unknown(what, name, there_are))


def check_choices(options: SimpleNamespace) -> None:
    """Raises a UserError for an option that has no such choice."""
    check_names(
        ("pose_mode", [options.pose_mode], ("classes", "continuous")),
        ("loss", [options.loss], losses.FORMS),
        ("gan_loss", [options.gan_loss], GAN_LOSSES),
        ("paired_loss", [options.paired_loss], losses.PAIRED),
        ("fused_weight", [options.fused_weight], ("mean", "sum")),
        ("switch", [options.switch], dr_gan_trunk.DIRECTIONS),
        ("flip", [options.flip], ("none", "remap", "keep")),
        ("diff_augmentation", options.diff_augmentation, diff_augment.KINDS),
    )
    for name in ("network", "generator", "discriminator"):
        for option in getattr(options, name) or {}:
            if option in _DECIDED:
                raise UserError(
                    f"{name} option {option!r} follows from {_DECIDED[option]}: leave "
                    "it out"
                )


def _check_numbers(options: SimpleNamespace, weights: Mapping[str, float]) -> None:
    continuous = options.pose_mode == "continuous"
    if options.num_classes < 2 or not (continuous or options.poses > 1):
        raise UserError(
            f"{options.num_classes} identities in {options.poses} poses; at least 2 of "
            "each are needed, to be told apart"
        )
    for name, (low, high, from_low, to_high) in _RANGES.items():
        value = getattr(options, name)
        above = value >= low if from_low else value > low
        if not (above and (value <= high if to_high else value < high)):
            start = f"from {low}" if from_low else f"above {low}"
            end = f"to {high}" if to_high else f"and below {high}"
            end = "" if high == float("inf") else f" {end}"
            raise UserError(f"{name} is {value}; use a number {start}{end}")
    for name, weight in weights.items():
        if not weight >= 0:
            raise UserError(f"weight {name!r} is {weight}; use 0 or more")


def _check_networks(options: SimpleNamespace, maker: Any, judge: Any) -> None:
    check_names(("norm", [judge.norm], NORMS))
    if judge.norm == "group" and judge.extra_channel:
        raise UserError(
            "norm='group' cuts channels into equal groups, which extra_channel=True "
            "leaves none of: leave one of them out"
        )
    each = options.images_per_identity
    if each > 1 and maker.confidence_head == "none" and not maker.normalise_fusion:
        raise UserError(
            f"{each} images of each person would be summed, not weighed: give "
            "confidence_head='channel' (as kayamin) or 'branch', or normalise_fusion"
        )
    if (options.switch == "none") == bool(options.switch_every):
        raise UserError(
            f"switch is {options.switch!r} and switch_every {options.switch_every}: "
            "give both or neither"
        )
    unlike = (
        maker.confidence_head == "channel"
        or judge.branch_heads
        or judge.extra_channel
        or judge.norm != "batch"
        or any(getattr(maker, name) != getattr(judge, name) for name in _TRUNK)
    )
    if options.switch_every and unlike:
        raise UserError(
            "trunks that are switched must be alike: no confidence_head='channel', "
            "branch_heads or extra_channel, norm='batch', and the same "
            f"{', '.join(_TRUNK)}"
        )
    if options.spectral_norm and judge.norm != "none":
        raise UserError(
            f"the discriminator's norm='{judge.norm}' would undo spectral_norm: give "
            "it norm='none', and conv_bias=True"
        )


def _check_images(options: SimpleNamespace) -> None:
    if options.canvas_size and options.canvas_size < options.image_size:
        raise UserError(
            f"canvas_size is {options.canvas_size}, from which {options.image_size} "
            "pixels (image_size) cannot be cut"
        )
    if options.flip != "none" and options.illuminations:
        raise UserError(
            "a mirrored face is lit from the other side, under the same number: use "
            "flip='none' or illuminations=0"
        )
    augment.check(options.augmentation)
    augment.check(options.degradation)
    if any(name == "flip" for name, _ in [*options.augmentation, *options.degradation]):
        raise UserError(
            "augmentation 'flip' would not mirror the pose: use flip='remap'"
        )
