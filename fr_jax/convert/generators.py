"""The dialects of DR-GAN, one for each program that has written weights, and of FRA.

No trained file of any of them was at hand. Those of kayamin and of FRA agree with
golden outputs of the programs; the others follow what is known of names, shapes and
layers, and suppose: that zhangjunh's strided convolutions are padded behind, that
milankinen names the BatchNorms of Conv53 and Conv53_W as all others, and that both join
feature, pose and noise in this order.
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
    unit_names,
)
from fr_jax.models.dr_gan import generator as dr_gan
from fr_jax.models.preprocess import InputSpec

Plan = tuple[tuple[str, Any, int], ...]  # as `dr_gan.TRUNK`
Units = Sequence[tuple[str, str]]  # their names of convolution and BatchNorm, by layer

# Every program but the authors' draws 50; the tensors tell the sum with the pose code.
_NOISE = 50
_CANVAS = 110 / 96  # faces are aligned to this many times the crop that is taken
_DECODER_LAYOUTS = (
    (r"decoder/fc/kernel", "unflattened"),
    (r"decoder/fc/bias", "unflattened_bias"),
    (r"decoder/fconv\d+/conv/kernel", "transposed"),
)
_VIT = "decoder_emb_generator.vit"
_VIT_LAYER = rf"{_VIT}.transformer.\1"


def _generator(
    source: str,
    encoder: Units,
    decoder: Units,
    fc: str,
    *,
    confidence: Units = (),
    colour: str | None = None,
    beside: tuple[str, ...] = (),
    **choices: Any,
) -> Dialect:
    """The dialect of a generator, whose tensors tell all but the program's `choices`.

    Args:
      encoder, decoder, fc, confidence: names of their layers.
      colour: the program's colour order; None where it is not known.
    """
    stem, last, seed = (
        f"{conv}.weight" for conv, _ in (encoder[0], encoder[-1], decoder[0])
    )
    linear = f"{fc}.weight"
    branches = tuple(f"{conv}.weight" for conv, _ in confidence)

    def grid(state: StateDict) -> Grid:
        side = math.isqrt(len(state[linear]) // state[seed].shape[0])
        return side, side

    def describe(state: StateDict) -> Described:
        features = state[seed].shape[0]
        side, _ = grid(state)
        codes = state[linear].shape[1] - features
        noise = _NOISE if codes > _NOISE else 0
        head = "branch" if any(name in state for name in branches) else "none"
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
        input_spec=_faces(stem, colour or "RGB"),
        grid=grid,
        layouts=_DECODER_LAYOUTS,
        beside=beside,
        colour_known=colour is not None,
    )


def _discriminator(
    source: str,
    trunk: Units,
    signature: tuple[str, ...],
    *,
    colour: str | None = None,
    **choices: Any,
) -> Dialect:
    """The dialect of a discriminator; see `_generator`.

    The columns are identities, poses and one for real or fake, but how many of which
    the tensors do not tell; `heads` may be given as an option.
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
        signature=signature,
        names=(*_units("trunk/", dr_gan.TRUNK, trunk), ("fc", "fc")),
        describe=describe,
        input_spec=_faces(stem, colour or "RGB"),
        colour_known=colour is not None,
    )


def _units(ours: str, plan: Plan, theirs: Units) -> Iterator[tuple[str, str]]:
    return unit_names(
        *((f"{ours}{name}", *unit) for (name, *_), unit in zip(plan, theirs))
    )


def _authors_encoder(state: StateDict) -> Described:
    return "dr_gan_encoder", {
        "width": state["g_k01_conv/w"].shape[3] / 32,
        "conv_bias": True,
        "final_elu": False,
        "confidence_head": "branch" if "g_h4c_conv/w" in state else "none",
    }


def _faces(stem: str, colour: str, axis: int = 1):
    """An `input_spec` of the crop in the middle; `axis` of `stem` has the channels."""

    def input_spec(state: StateDict, grid: Grid) -> InputSpec:
        side = 96 if grid[0] in (1, 3) else 16 * grid[0]
        return InputSpec(
            size=round(_CANVAS * side),
            colour="GREY" if state[stem].shape[axis] == 1 else colour,
            crop=(side, side),
        )

    return input_spec


_KAYAMIN_TRUNK = (0, 3, 7, 10, 13, 17, 20, 23, 27, 30, 33, 37, 40, 43)
_KAYAMIN_DECODER = (0, 3, 6, 10, 13, 16, 20, 23, 26, 30, 33, 36, 40, 43)


def _kayamin(layers: str, numbers: tuple[int, ...] = _KAYAMIN_TRUNK) -> Units:
    return [(f"{layers}.{number}", f"{layers}.{number + 1}") for number in numbers]


def _zhangjunh(layers: str, plan: Plan, strided: int) -> Units:
    """A layer of stride 2 has a padding too, with the convolution at place `strided`.

    That is 1, behind the padding, in the trunk, and 0 in the decoder.
    """
    units = []
    for number, (_, _, stride) in enumerate(plan):
        unit = f"{layers}.{number}.layers"
        units.append((f"{unit}.{strided * (stride - 1)}", f"{unit}.{stride}"))
    return units


def _milankinen(module: str, plan: Plan) -> Units:
    names = [name.replace("fc", "FC").replace("conv", "Conv") for name, _, _ in plan]
    return [(f"{module}.{name}", f"{module}.{name}_bn") for name in names]


def _authors() -> Units:
    """TensorFlow names: conv11 and conv12 are k01 and k02, then conv21 is k10."""
    units = []
    for name, _, _ in dr_gan.TRUNK:
        stage, index = int(name[4]), int(name[5])
        place = (stage - 1, index if stage == 1 else index - 1)
        units.append(("g_k{}{}_conv".format(*place), "g_k_bn{}_{}".format(*place)))
    return units


def _tensorflow(*modules: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Tensor by tensor, as TensorFlow 1 names them."""
    leaves = {
        "conv": {"weight": "w", "bias": "biases"},
        "bn": {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        },
    }
    for ours, theirs in modules:
        for leaf, name in leaves[ours.rpartition("/")[2]].items():
            yield f"{ours}/{leaf}", f"{theirs}/{name}"


def _fra(state: StateDict) -> Described:
    return "fra", {
        "width": len(state["encoder_layer6.weight"]) / 512,
        "embedding_size": len(state[f"{_VIT}.mlp_head.1.weight"]),
        "vit_width": state[f"{_VIT}.cls_token"].shape[2],
        "vit_depth": count(rf"{_VIT}.transformer\.\d+\.linear\.0\.weight", state),
        "patch": math.isqrt(state[f"{_VIT}.input_layer.weight"].shape[1]),
        "positions": state[f"{_VIT}.pos_embedding"].shape[1],
    }


_ZHANGJUNH = "zhangjunh/DR-GAN-by-pytorch, PaParaZz1/DR-GAN, MikeLagunes/DR-GAN-OR"

GENERATORS: dict[str, Dialect] = {
    # Sampson-Lee/myDRGAN writes generators like this too.
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
        "kayamin/DR-GAN",
        _kayamin("convLayers"),
        ("convLayers.0.weight", "convLayers.43.weight", "fc.weight"),
        colour="BGR",
    ),
    "sampson_dr_gan_discriminator": _discriminator(
        "Sampson-Lee/myDRGAN",
        _kayamin("D_enc_convLayers"),
        ("D_enc_convLayers.0.weight", "fc.weight"),
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
        _ZHANGJUNH,
        _zhangjunh("conv_layers", dr_gan.TRUNK, 1),
        ("conv_layers.0.layers.0.weight", "fc.weight"),
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
        beside=(r"dec\.bn\..*",),
        alignment="symmetric",
        confidence_elu=True,
        last_bn=True,
    ),
    "milankinen_dr_gan_discriminator": _discriminator(
        "milankinen/dr-gan",
        _milankinen("conv", dr_gan.TRUNK),
        ("conv.Conv11.weight", "conv.Conv53.weight", "fc.weight"),
        alignment="symmetric",
    ),
    # The recogniser in the authors' TensorFlow checkpoint, its variables by name. Those
    # of decoder and discriminator are not all known, and are left unused.
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
        beside=(r".*",),
        colour_known=False,
        terms="repository Apache-2.0; weights: ask the authors",
    ),
    "fra": Dialect(
        source="soroushhashemifar/Face-Representation-Augmentation",
        kind="landmarks",
        signature=("encoder_layer1.weight", f"{_VIT}.cls_token"),
        names=(
            (r"(encoder|decoder)_layer(\d)", r"\1_layer\2"),
            (r"normalizer", r"decoder_emb_generator.normalizer"),
            (
                r"vit/transformer_(\d+)/attn/in_proj/(\w+)",
                rf"{_VIT_LAYER}.attn.in_proj_\2",
            ),
            (r"vit/transformer_(\d+)/attn/out_proj", rf"{_VIT_LAYER}.attn.out_proj"),
            (r"vit/transformer_(\d+)/linear_(\d)", rf"{_VIT_LAYER}.linear.\2"),
            (r"vit/transformer_(\d+)/(\w+)", rf"{_VIT_LAYER}.\2"),
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
