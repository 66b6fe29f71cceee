"""Networks by name. Backbones map aligned faces to raw embeddings."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fr_jax.errors import UserError, check_names, check_range, named, unknown
from fr_jax.models import discofacegan, fra, landmarks, self_augmentation
from fr_jax.models.backbones import (
    inception_resnet,
    ir,
    iresnet,
    mobilefacenet,
    mobilefacenet_arcface,
    mobilefacenet_v2,
    sphere,
    vgg,
    vit,
)
from fr_jax.models.dr_gan import discriminator as dr_gan_discriminator
from fr_jax.models.dr_gan import generator as dr_gan
from fr_jax.models.preprocess import InputSpec

_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Differences of MagFace's IResNet from arcface_torch's.
_MAGFACE: dict[str, Any] = {
    "dropout": 0.4,
    "channel_dropout": True,
    "bn_momentum": 0.1,
    "bn_epsilon": 2e-5,
    "frozen_scale": False,
    "conv_init": _FAN_OUT,
}
# Differences of CurricularFace's and AdaFace's IR from InsightFace_Pytorch's.
_CURRICULARFACE: dict[str, Any] = {
    "dropout": 0.4,
    "affine_end": False,
    "conv_init": _FAN_OUT,
    "squeeze_init": nn.initializers.xavier_uniform(),
    "dense_init": _FAN_OUT,
    "dense_bias_init": nn.initializers.zeros,
}
_ADAFACE = {**_CURRICULARFACE, "middle_norm": True, "squeeze_init": _FAN_OUT}


_SQUEEZE = {"squeeze": 16}
_TRAINING_OPTIONS = ("bn_groups", "bn_first_group")
_OTHER_INPUTS = (  # than images alone
    dr_gan.Generator,
    fra.FRA,
    discofacegan.DiscoFaceGAN,
    self_augmentation.AugmentationNetwork,
)

# Family: module, stage sizes by depth, other fields of the module.
_FAMILIES: dict[str, tuple[Any, Mapping[int, tuple[int, ...]], dict[str, Any]]] = {
    "iresnet": (iresnet.IResNet, iresnet.STAGES, {}),
    "magface_iresnet": (iresnet.IResNet, iresnet.MAGFACE_STAGES, _MAGFACE),
    "ir": (ir.IR, ir.STAGES, {}),
    "ir_se": (ir.IR, ir.STAGES, _SQUEEZE),
    "curricularface_ir": (ir.IR, ir.STAGES, _CURRICULARFACE),
    "curricularface_ir_se": (ir.IR, ir.STAGES, _SQUEEZE | _CURRICULARFACE),
    "adaface_ir": (ir.IR, ir.ADAFACE_STAGES, _ADAFACE),
    "adaface_ir_se": (ir.IR, ir.ADAFACE_STAGES, _SQUEEZE | _ADAFACE),
    "sphere": (sphere.Sphere, sphere.STAGES, {}),
}
# The released large network was trained with lower rates than the others.
_VIT_RATES: dict[str, dict[str, float]] = {
    **{name: {} for name in vit.SIZES},
    "vit_l": {"drop_path": 0.05, "mask_ratio": 0.05},
}
ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    **{
        f"{family}{depth}": (module, {"stage_sizes": sizes, **fields})
        for family, (module, stages, fields) in _FAMILIES.items()
        for depth, sizes in stages.items()
    },
    "sphere20a": (sphere.Sphere, {"residual_bias": True}),
    "mobilefacenet": (mobilefacenet.MobileFaceNet, {}),
    "mobilefacenet_v2": (mobilefacenet_v2.MobileFaceNetV2, {}),
    "mbf": (mobilefacenet_arcface.ArcFaceMobileFaceNet, {}),
    "mbf_large": (
        mobilefacenet_arcface.ArcFaceMobileFaceNet,
        {"scale": 4, "stage_sizes": (2, 8, 12, 4)},
    ),
    "inception_resnet_v1": (inception_resnet.InceptionResNetV1, {}),
    **{
        name: (vit.ViT, {"features": features, "depth": depth, **_VIT_RATES[name]})
        for name, (features, depth) in vit.SIZES.items()
    },
    "vgg16": (vgg.VGG16, {}),
    "dr_gan_encoder": (dr_gan.Encoder, {}),
    "dr_gan_generator": (dr_gan.Generator, {}),
    "dr_gan_discriminator": (dr_gan_discriminator.Discriminator, {}),
    "fra": (fra.FRA, {}),
    "discofacegan": (discofacegan.DiscoFaceGAN, {}),
    "landmark_regressor": (landmarks.LandmarkRegressor, {}),
    "identity_encoder": (self_augmentation.IdentityEncoder, {}),
    "self_augmentation": (self_augmentation.AugmentationNetwork, {}),
}


def register(architecture: str, module: type[nn.Module], **preset: Any) -> None:
    """Adds a network to `ARCHITECTURES`.

    Embedders store the name: a program that loads one must register the network too.

    Args:
      preset: fields of the module.

    Raises:
      UserError: if the name belongs to another network.
    """
    registered, _ = ARCHITECTURES.get(architecture, (module, None))
    names = [f"{one.__module__}.{one.__qualname__}" for one in (registered, module)]
    if names[0] != names[1]:
        raise UserError(
            f"network {architecture!r} is {names[0]}; register yours under another name"
        )
    ARCHITECTURES[architecture] = module, preset


def create(architecture: str, **options: Any) -> nn.Module:
    """Returns the named network, a Flax module.

    A backbone is `(images, train) -> embeddings`; for `dr_gan_generator`,
    `dr_gan_discriminator`, `fra`, `discofacegan` and `self_augmentation` see their
    modules.

    Args:
      architecture: a key of `ARCHITECTURES`: iresnet18/34/50/100/200,
        magface_iresnet18/34/50/100, ir50/100/152, ir_se50/100/152 (also with
        curricularface_ before), adaface_ir18/34/50/101, adaface_ir_se18/34/50/101,
        sphere20/64, sphere20a, mobilefacenet, mobilefacenet_v2, mbf, mbf_large,
        inception_resnet_v1, vit_t/s/b/l, vgg16, dr_gan_encoder, dr_gan_generator,
        dr_gan_discriminator, fra, discofacegan, landmark_regressor, identity_encoder,
        self_augmentation.
      **options: fields of the module (width, embedding_size, dropout, bn_groups, dtype,
        remat, ...). Options may come from JSON: `dtype` may be a name such as
        'bfloat16', and lists become tuples.

    Raises:
      UserError: for an unknown architecture or option, with the nearest name, and for
        a size out of range.
    """
    module, preset = named("architecture", architecture, ARCHITECTURES)
    fields = set(module.__dataclass_fields__) - {"parent", "name"}
    check_names(f"{architecture} option", options, fields)
    for name, least in {"width": 1e-3, "embedding_size": 1, "bn_groups": 1}.items():
        if options.get(name) is not None:
            check_range(f"{architecture} option {name}", options[name], least)
    if "dtype" in options:
        types = ("float32", "bfloat16", "float16")
        try:
            options["dtype"] = jnp.dtype(options["dtype"])
        except TypeError:
            raise UserError(unknown("dtype", str(options["dtype"]), types)) from None
    return module(**{**preset, **{name: _tuples(v) for name, v in options.items()}})


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of `create` for JSON, without those of training only."""
    kept = {k: v for k, v in options.items() if k not in _TRAINING_OPTIONS}
    if "dtype" in kept:
        kept["dtype"] = jnp.dtype(kept["dtype"]).name
    return kept


def example_inputs(
    model: nn.Module, spec: InputSpec, rows: int = 1
) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shapes of the arguments of `model.apply` after the variables."""
    if isinstance(model, _OTHER_INPUTS):
        return model.example_inputs(rows)
    return (jax.ShapeDtypeStruct((rows, *spec.shape), jnp.float32),)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
