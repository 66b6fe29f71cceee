"""Dialects of facenet-pytorch, sphereface_pytorch, and arcface_torch's other networks.

Those of residual networks and of other MobileFaceNets are in `backbones`.
"""

import itertools
import math

from fr_jax.convert.dialect import Described, Dialect, Grid, StateDict, count, pixels
from fr_jax.models.backbones import sphere, vit
from fr_jax.models.preprocess import InputSpec

_NON_COMMERCIAL = "published weights: non-commercial research only"
_PARTS = tuple(enumerate(("conv", "bn", "prelu")))


def _facenet(state: StateDict) -> Described:
    width = len(state["conv2d_1a.conv.weight"]) / 32
    size = len(state["last_linear.weight"])
    return "inception_resnet_v1", {"width": width, "embedding_size": size}


def _mbf(state: StateDict) -> Described:
    large = "layers.1.layers.0.weight" not in state
    stem = len(state["layers.0.layers.0.weight"]) / (256 if large else 128)
    size = len(state["features.layers.2.weight"])
    name = "mbf_large" if large else "mbf"
    return name, {"width": stem, "embedding_size": size}


def _mbf_names() -> tuple[tuple[str, str], ...]:
    """Returns the names of arcface_torch's MobileFaceNets, which are all numbers."""
    names = [(r"fc", r"features.layers.2"), (r"bn", r"features.layers.3")]
    units = {"stem": r"layers.0", "stem_grouped": r"layers.1", "head_conv": "conv_sep"}
    units["head_dw"] = r"features.layers.0"
    for number, inner in enumerate(("conv", "conv_dw", "project")):
        units[rf"stage0_(\d+)/{inner}"] = rf"layers.1.layers.\1.layers.{number}"
        for stage in (1, 2, 3):
            down, residuals = 2 * stage, 2 * stage + 1
            units[f"stage{stage}_down/{inner}"] = rf"layers.{down}.layers.{number}"
            block = rf"layers.{residuals}.layers.\1"
            units[rf"stage{stage}_(\d+)/{inner}"] = rf"{block}.layers.{number}"
    for (unit, name), (number, part) in itertools.product(units.items(), _PARTS):
        names.append((f"{unit}/{part}", rf"{name}.layers.{number}"))
    return tuple(names)


def _vit(state: StateDict) -> Described:
    features = len(state["patch_embed.proj.weight"])
    depth = count(r"blocks\.\d+\.norm1\.weight", state)
    sizes = {name: size for name, size in vit.SIZES.items() if size[1] == depth}
    exact = [name for name, size in sizes.items() if size[0] == features]
    name = (exact or list(sizes) or ["vit_t"])[0]
    options = {
        "width": features / vit.SIZES[name][0],
        "embedding_size": len(state["feature.2.weight"]),
    }
    # Other depths than the published ones are an option.
    return name, options if sizes else options | {"depth": depth}


def _vit_spec(state: StateDict, grid: Grid) -> InputSpec:
    del grid
    side = math.isqrt(state["pos_embed"].shape[1])
    return InputSpec(size=112 if side == 12 else vit.PATCH * side, flip_sum=True)


def _sphere20a(state: StateDict) -> Described:
    width = len(state["conv1_1.weight"]) / 64
    return "sphere20a", {"width": width, "embedding_size": len(state["fc5.weight"])}


def _sphere20a_grid(state: StateDict) -> Grid:
    """Returns the sides of the last map, 7x6 as published or in that ratio."""
    cells = state["fc5.weight"].shape[1] // len(state["conv4_3.weight"])
    height = max(round(math.sqrt(cells * 7 / 6)), 1)
    return height, max(cells // height, 1)


_SPHERE20A_NAMES = (
    *(
        (rf"layer(\d)_{block}/{kind}{half}", rf"{name}\1_{2 * block + half + 1}")
        for block in range(max(sphere.STAGES[20]))
        for half in (1, 2)
        for kind, name in (("conv", "conv"), ("prelu", "relu"))
    ),
    (r"layer(\d)_conv", r"conv\1_1"),
    (r"layer(\d)_prelu", r"relu\1_1"),
    (r"fc", r"fc5"),
)

RECOGNISERS: dict[str, Dialect] = {
    # A face is the box of a detector, resized, without alignment by landmarks.
    "facenet_pytorch": Dialect(
        source="timesler/facenet-pytorch",
        signature=("conv2d_1a.conv.weight", "last_linear.weight"),
        names=(
            (r"repeat_(\d)_(\d+)/(branch\d)_(\d)/(\w+)", r"repeat_\1.\2.\3.\4.\5"),
            (r"repeat_(\d)_(\d+)/(branch\d)/(\w+)", r"repeat_\1.\2.\3.\4"),
            (r"repeat_(\d)_(\d+)/(conv2d)", r"repeat_\1.\2.\3"),
            (r"(\w+)/(branch\d)_(\d)/(\w+)", r"\1.\2.\3.\4"),
            (r"(\w+)/(branch\d)/(\w+)", r"\1.\2.\3"),
            (r"(\w+)/(\w+)", r"\1.\2"),
            (r"fc", r"last_linear"),
            (r"bn", r"last_bn"),
        ),
        describe=_facenet,
        input_spec=lambda state, grid: InputSpec(160, scale=128.0, template="face box"),
        auxiliary=(r"logits\..*",),
        linear_layers={133: ("inception_resnet_v1",)},
        terms="MIT; trained on VGGFace2 or CASIA-WebFace: research only",
    ),
    "arcface_torch_mbf": Dialect(
        source="deepinsight/insightface recognition/arcface_torch: mbf, mbf_large",
        signature=("features.layers.0.layers.0.weight", "conv_sep.layers.0.weight"),
        names=_mbf_names(),
        describe=_mbf,
        input_spec=pixels(flip_sum=True),
        # The last convolution covers the whole map.
        grid=lambda state: state["features.layers.0.layers.0.weight"].shape[-2:],
        terms=_NON_COMMERCIAL,
        linear_layers={50: ("mbf",), 91: ("mbf_large",)},
    ),
    "arcface_torch_vit": Dialect(
        source="deepinsight/insightface recognition/arcface_torch: vit_t, s, b, l",
        signature=("blocks.0.attn.qkv.weight", "patch_embed.proj.weight", "pos_embed"),
        names=(
            (r"patch_embed", r"patch_embed.proj"),
            (r"block_(\d+)/(norm\d)", r"blocks.\1.\2"),
            (r"block_(\d+)/attn/in_proj", r"blocks.\1.attn.qkv"),
            (r"block_(\d+)/attn/out_proj", r"blocks.\1.attn.proj"),
            (r"block_(\d+)/(fc\d)", r"blocks.\1.mlp.\2"),
            (r"norm", r"norm"),
            (r"feature", r"feature.0"),
            (r"feature_bn", r"feature.1"),
            (r"fc", r"feature.2"),
            (r"bn", r"feature.3"),
            (r"/(pos_embed|mask_token)", r"\1"),
        ),
        describe=_vit,
        input_spec=_vit_spec,
        terms=_NON_COMMERCIAL,
    ),
    # Faces are 8 pixels narrower on each side than those of arcface112.
    "sphereface_pytorch": Dialect(
        source="clcarwin/sphereface_pytorch",
        signature=("conv1_1.weight", "relu4_3.weight", "fc5.weight"),
        names=_SPHERE20A_NAMES,
        describe=_sphere20a,
        input_spec=pixels(colour="BGR", scale=128.0),
        grid=_sphere20a_grid,
        layouts=(("fc/kernel", "flattened"),),
        auxiliary=(r"fc6\.weight",),
        linear_layers={21: ("sphere20a",)},
        terms="MIT; trained on CASIA-WebFace: research only",
    ),
}
