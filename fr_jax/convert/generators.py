"""Dialects of DR-GAN, one per program that has written weights, and of FRA.

No trained file of any of these programs was available. The dialects of kayamin and FRA
are checked against golden outputs of the programs. The others follow the published
names, shapes and layers, with three assumptions: zhangjunh pads strided convolutions at
the end of each axis; milankinen names the BatchNorms of Conv53 and Conv53_W like all
others; both concatenate feature, pose and noise in this order.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from fr_jax.convert.dialect import (
    Described,
    Dialect,
    Grid,
    StateDict,
    count,
    pixels,
    square_grid,
    unit_names,
)
from fr_jax.models.dr_gan import generator as dr_gan
from fr_jax.models.preprocess import InputSpec

Plan = tuple[tuple[str, Any, int], ...]  # see `dr_gan.TRUNK`
# PyTorch names of convolution and BatchNorm, by layer.
Units = Sequence[tuple[str, str]]

# Noise numbers of every program but the authors'. The tensors have only the sum of
# noise and poses.
_NOISE = 50
_CANVAS = 110 / 96  # side of the aligned face / side of its central crop
_DECODER_LAYOUTS = (
    (r"decoder/fc/kernel", "unflattened"),
    (r"decoder/fc/bias", "unflattened_bias"),
    (r"decoder/fconv\d+/conv/kernel", "transposed"),
)
_TENSORFLOW_LEAVES = {
    "conv": {"weight": "w", "bias": "biases"},
    "bn": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
}
_VIT = "decoder_emb_generator.vit"
_LAYER, _VIT_LAYER = r"vit/transformer_(\d+)", rf"{_VIT}.transformer.\1"


def _generator(
    source: str,
    encoder: Units,
    decoder: Units,
    fc: str,
    *,
    confidence: Units = (),
    colour: str | None = None,
    auxiliary: tuple[str, ...] = (),
    **choices: Any,
) -> Dialect:
    """Returns the dialect of a generator; tensor shapes give most of its options.

    Args:
      encoder, decoder, fc, confidence: PyTorch names of the layers.
      colour: the program's colour order; None if unknown.
      choices: options that shapes do not determine.
    """
    stem, last, seed = (
        f"{conv}.weight" for conv, _ in (encoder[0], encoder[-1], decoder[0])
    )
    linear = f"{fc}.weight"
    grid = square_grid(linear, seed, axis=0)

    def describe(state: StateDict) -> Described:
        features = len(state[seed])
        side, _ = grid(state)
        codes = state[linear].shape[1] - features
        noise = _NOISE if codes > _NOISE else 0
        branch = any(f"{conv}.weight" in state for conv, _ in confidence)
        head = "branch" if branch else "none"
        return "dr_gan_generator", {
            "width": features / dr_gan.FEATURES,
            "channels": state[stem].shape[1],
            "size": 96 if side == 3 else 16 * side,
            "decoder_seed": side,
            "poses": codes - noise,
            "noise": noise,
            "conv_bias": stem.replace(".weight", ".bias") in state,
            "confidence_head": "channel" if len(state[last]) > features else head,
            **choices,
        }

    return Dialect(
        source=source,
        kind="generator",
        signature=(linear, stem),
        names=(
            *_units("encoder/trunk/", dr_gan.TRUNK, encoder),
            *unit_names(*(("encoder/confidence", *unit) for unit in confidence)),
            *_units("decoder/", dr_gan.DECODER, decoder),
            ("decoder/fc", fc),
        ),
        describe=describe,
        input_spec=_faces(stem, colour),
        grid=grid,
        layouts=_DECODER_LAYOUTS,
        auxiliary=auxiliary,
        colour_known=colour is not None,
    )


def _discriminator(
    source: str, trunk: Units, *, colour: str | None = None, **choices: Any
) -> Dialect:
    """Returns the dialect of a discriminator; see `_generator`.

    The last layer has identities + poses + 1 columns, but its shape does not give the
    number of each; the caller may pass the option `heads`.
    """
    stem, last = (f"{conv}.weight" for conv, _ in (trunk[0], trunk[-1]))

    def describe(state: StateDict) -> Described:
        columns, features = state["fc.weight"].shape
        return "dr_gan_discriminator", {
            "heads": [["logits", columns]],
            "width": features / dr_gan.FEATURES,
            "conv_bias": stem.replace(".weight", ".bias") in state,
            "extra_channel": len(state[last]) > features,
            **choices,
        }

    return Dialect(
        source=source,
        kind="discriminator",
        signature=(stem, "fc.weight"),
        names=(*_units("trunk/", dr_gan.TRUNK, trunk), ("fc", "fc")),
        describe=describe,
        input_spec=_faces(stem, colour),
        colour_known=colour is not None,
    )


def _units(prefix: str, plan: Plan, units: Units) -> Iterator[tuple[str, str]]:
    named = (f"{prefix}{name}" for name, *_ in plan)
    return unit_names(*((name, *unit) for name, unit in zip(named, units)))


def _authors_encoder(state: StateDict) -> Described:
    return "dr_gan_encoder", {
        "width": state["g_k01_conv/w"].shape[3] / 32,
        "conv_bias": True,
        "final_elu": False,
        "confidence_head": "branch" if "g_h4c_conv/w" in state else "none",
    }


def _faces(stem: str, colour: str | None, axis: int = 1):
    """Returns an `input_spec` of central crops; `axis` of `stem` counts channels."""

    def input_spec(state: StateDict, grid: Grid) -> InputSpec:
        side = 96 if grid[0] in (1, 3) else 16 * grid[0]
        grey = state[stem].shape[axis] == 1
        return InputSpec(
            size=round(_CANVAS * side),
            colour="GREY" if grey else colour or "RGB",
            crop=(side, side),
        )

    return input_spec


_KAYAMIN_TRUNK = (0, 3, 7, 10, 13, 17, 20, 23, 27, 30, 33, 37, 40, 43)
_KAYAMIN_DECODER = (0, 3, 6, 10, 13, 16, 20, 23, 26, 30, 33, 36, 40, 43)


def _kayamin(layers: str, numbers: tuple[int, ...] = _KAYAMIN_TRUNK) -> Units:
    return [(f"{layers}.{number}", f"{layers}.{number + 1}") for number in numbers]


def _zhangjunh(layers: str, plan: Plan, strided: int) -> Units:
    """Returns units of which those with stride 2 contain a padding layer as well.

    `strided` is the convolution's index in those: 1 in the trunk, 0 in the decoder.
    """
    return [
        (f"{unit}.{strided * (stride - 1)}", f"{unit}.{stride}")
        for number, (*_, stride) in enumerate(plan)
        for unit in [f"{layers}.{number}.layers"]
    ]


def _milankinen(module: str, plan: Plan) -> Units:
    names = [name.replace("fc", "FC").replace("conv", "Conv") for name, *_ in plan]
    return [(f"{module}.{name}", f"{module}.{name}_bn") for name in names]


def _authors() -> Units:
    """Returns TensorFlow names: conv11 and conv12 are k01 and k02, conv21 is k10."""
    indices = [
        (int(name[4]) - 1, int(name[5]) - (name[4] > "1")) for name, *_ in dr_gan.TRUNK
    ]
    return [(f"g_k{stage}{n}_conv", f"g_k_bn{stage}_{n}") for stage, n in indices]


def _tensorflow(*modules: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yields tensor names of TensorFlow 1 for (Flax module, TensorFlow module)."""
    for flax_module, module in modules:
        for leaf, name in _TENSORFLOW_LEAVES[flax_module.rpartition("/")[2]].items():
            yield f"{flax_module}/{leaf}", f"{module}/{name}"


def _fra(state: StateDict) -> Described:
    head = state[f"{_VIT}.mlp_head.1.weight"]
    return "fra", {
        "width": len(state["encoder_layer6.weight"]) / 512,
        # The published program has no adapters.
        "embedding_size": len(state.get("adapter_out.weight", head)),
        "inner_size": len(head),
        "vit_width": state[f"{_VIT}.cls_token"].shape[2],
        "vit_depth": count(rf"{_VIT}.transformer\.\d+\.linear\.0\.weight", state),
        "patch": math.isqrt(state[f"{_VIT}.input_layer.weight"].shape[1]),
        "positions": state[f"{_VIT}.pos_embedding"].shape[1],
    }


_ZHANGJUNH = "zhangjunh/DR-GAN-by-pytorch, PaParaZz1/DR-GAN, MikeLagunes/DR-GAN-OR"

GENERATORS: dict[str, Dialect] = {
    # Sampson-Lee/myDRGAN uses the same names for its generator.
    "kayamin_dr_gan_generator": _generator(
        "kayamin/DR-GAN",
        _kayamin("G_enc_convLayers"),
        _kayamin("G_dec_convLayers", _KAYAMIN_DECODER),
        "G_dec_fc",
        colour="BGR",
        normalise_fusion=False,
        bn_before_crop=True,
    ),
    "kayamin_dr_gan_discriminator": _discriminator(
        "kayamin/DR-GAN", _kayamin("convLayers"), colour="BGR"
    ),
    "sampson_dr_gan_discriminator": _discriminator(
        "Sampson-Lee/myDRGAN", _kayamin("D_enc_convLayers")
    ),
    "zhangjunh_dr_gan_generator": _generator(
        _ZHANGJUNH,
        _zhangjunh("enc.conv_layers", dr_gan.TRUNK, 1),
        _zhangjunh("dec.Fconv_layers", dr_gan.DECODER, 0),
        "dec.fc",
        alignment="zero_row",
        confidence_sigmoid=False,
        last_bn=True,
        output="elu",
    ),
    "zhangjunh_dr_gan_discriminator": _discriminator(
        _ZHANGJUNH, _zhangjunh("conv_layers", dr_gan.TRUNK, 1)
    ),
    "milankinen_dr_gan_generator": _generator(
        "milankinen/dr-gan",
        (
            *_milankinen("enc.conv", dr_gan.TRUNK[:-1]),
            *_milankinen("enc.emb", dr_gan.TRUNK[-1:]),
        ),
        _milankinen("dec.x_h", dr_gan.DECODER),
        "dec.fc",
        confidence=[("enc.coefficient.Conv53_W", "enc.coefficient.Conv53_W_bn")],
        auxiliary=(r"dec\.bn\..*",),
        alignment="symmetric",
        confidence_elu=True,
        last_bn=True,
    ),
    "milankinen_dr_gan_discriminator": _discriminator(
        "milankinen/dr-gan", _milankinen("conv", dr_gan.TRUNK), alignment="symmetric"
    ),
    # The encoder in the authors' TensorFlow checkpoint, tensors by variable name. The
    # names of decoder and discriminator are only partly known; these stay unused.
    "authors_dr_gan_encoder": Dialect(
        source="tranluan/DR-GAN",
        signature=("g_k01_conv/w", "g_k_bn4_2/gamma"),
        names=tuple(
            _tensorflow(
                *_units("trunk/", dr_gan.TRUNK, _authors()),
                *unit_names(("confidence", "g_h4c_conv", "g_h_bn4_c")),
            )
        ),
        describe=_authors_encoder,
        input_spec=_faces("g_k01_conv/w", "RGB", axis=2),
        layouts=((r".*/kernel", "vector"),),
        auxiliary=(r".*",),
        colour_known=False,
        terms="repository Apache-2.0; weights: ask the authors",
    ),
    "fra": Dialect(
        source="soroushhashemifar/Face-Representation-Augmentation",
        kind="augmenter",
        signature=("encoder_layer1.weight", f"{_VIT}.cls_token"),
        names=(
            (r"(encoder|decoder)_layer(\d)", r"\1_layer\2"),
            (r"normalizer", r"decoder_emb_generator.normalizer"),
            (rf"{_LAYER}/attn/in_proj/(\w+)", rf"{_VIT_LAYER}.attn.in_proj_\2"),
            (rf"{_LAYER}/attn/out_proj", rf"{_VIT_LAYER}.attn.out_proj"),
            (rf"{_LAYER}/linear_(\d)", rf"{_VIT_LAYER}.linear.\2"),
            (rf"{_LAYER}/(\w+)", rf"{_VIT_LAYER}.\2"),
            (r"vit/head_norm", rf"{_VIT}.mlp_head.0"),
            (r"vit/head", rf"{_VIT}.mlp_head.1"),
            (r"vit/input_layer", rf"{_VIT}.input_layer"),
            (r"vit", _VIT),
        ),
        describe=_fra,
        # White dots on black, in the box of the landmarks.
        input_spec=pixels(
            stride=112, colour="GREY", mean=0.0, scale=255.0, template="landmark_box"
        ),
    ),
}
