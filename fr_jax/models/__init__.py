"""Backbones by name: aligned faces in, raw embeddings out."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fr_jax.errors import UserError, unknown
from fr_jax.models import ir, iresnet, mobilefacenet

# MagFace's own IResNet differs from arcface_torch's in these alone.
_MAGFACE: dict[str, Any] = {
    "dropout": 0.4,
    "channel_dropout": True,
    "bn_momentum": 0.1,
    "bn_epsilon": 2e-5,
    "frozen_scale": False,
    "conv_init": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
}

ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    **{
        f"iresnet{depth}": (iresnet.IResNet, {"stage_sizes": stages})
        for depth, stages in iresnet.STAGES.items()
    },
    **{
        f"magface_iresnet{depth}": (
            iresnet.IResNet,
            {"stage_sizes": iresnet.STAGES[depth], **_MAGFACE},
        )
        for depth in (18, 34, 50, 100)
    },
    **{
        f"ir{se}{depth}": (ir.IR, {"stage_sizes": stages, "squeeze": squeeze})
        for depth, stages in ir.STAGES.items()
        for se, squeeze in (("", 0), ("_se", 16))
    },
    "mobilefacenet": (mobilefacenet.MobileFaceNet, {}),
}


def create(architecture: str, **options: Any) -> nn.Module:
    """Returns the named backbone, a Flax module `(images, train) -> embeddings`.

    Args:
      architecture: a key of `ARCHITECTURES`: iresnet18/34/50/100/200,
        magface_iresnet18/34/50/100, ir50/100/152, ir_se50/100/152, mobilefacenet.
      **options: fields of the module (width, embedding_size, dropout, bn_groups, dtype,
        remat, ...). `dtype` may be a name such as 'bfloat16'.

    Raises:
      UserError: for an unknown architecture or option, with the nearest name.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(unknown("architecture", architecture, ARCHITECTURES))
    module, preset = ARCHITECTURES[architecture]
    fields = set(inspect.signature(module).parameters) - {"parent", "name"}
    for option in options:
        if option not in fields:
            raise UserError(unknown(f"{architecture} option", option, fields))
    if "dtype" in options:
        kinds = ("float32", "bfloat16", "float16")
        try:
            options["dtype"] = jnp.dtype(options["dtype"])
        except TypeError:
            raise UserError(unknown("dtype", str(options["dtype"]), kinds)) from None
    return module(**{**preset, **options})
