"""The dialects of DR-GAN, one for each program that has written weights, and of FRA.

No trained file of any of them was at hand. Those of kayamin and of FRA agree with
golden outputs of the programs; the others follow what is known of names, shapes and
layers, and suppose: that zhangjunh's strided convolutions are padded behind, that
milankinen names the BatchNorms of Conv53 and Conv53_W as all others, and that both join
feature, pose and noise in this order.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from fr_jax.convert.dialect import Dialect, Grid, StateDict, count
from fr_jax.models.dr_gan import generator as dr_gan
from fr_jax.models.preprocess import InputSpec

Described = tuple[str, dict[str, Any]]
Namer = Callable[[int, str, int], tuple[str, str]]  # number, name, stride -> conv, bn

# Every program but the authors' draws 50; the tensors tell the sum with the pose code.
_NOISE = 50
_CANVAS = 110 / 96  # faces are aligned to this many times the crop that is taken


def _units(ours: str, plan: tuple, theirs: Namer) -> Iterator[tuple[str, str]]:
    for number, (name, _, stride) in enumerate(plan):
        conv, norm = theirs(number, name, stride)
        yield f"{ours}{name}/conv", conv
        yield f"{ours}{name}/bn", norm


def _generator(
    stem: str, last: str, seed: str, fc: str, branch: str = "", **choices: Any
) -> Callable[[StateDict], Described]:
    """A `describe`, from the weights of the encoder's first and last convolution, the
    decoder's first, its linear layer and the confidence branch.
    """

    def describe(state: StateDict) -> Described:
        features = state[seed].shape[0]
        side, codes = math.isqrt(len(state[fc]) // features), state[fc].shape[1]
        codes -= features
        noise = _NOISE if codes > _NOISE else 0
        head = "branch" if branch in state else "none"
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

    return describe


def _discriminator(
    stem: str, last: str, **choices: Any
) -> Callable[[StateDict], Described]:
    """A `describe`. The columns are identities, poses and one for real or fake, but how
    many of which the tensors do not tell; `heads` may be given as an option.
    """

    def describe(state: StateDict) -> Described:
        columns, features = state["fc.weight"].shape
        return "dr_gan_discriminator", {
            "heads": [["logits", columns]],
            "width": features / dr_gan.FEATURES,
            "conv_bias": stem.replace(".weight", ".bias") in state,
            "extra_channel": len(state[last]) > features,
            **choices,
        }

    return describe


def _authors_encoder(state: StateDict) -> Described:
    branch = "g_h4c_conv/w" in state
    return "dr_gan_encoder", {
        "width": state["g_k01_conv/w"].shape[3] / 32,
        "conv_bias": True,
        "final_elu": False,
        "confidence_head": "branch" if branch else "none",
    }


def _seed_grid(seed: str, fc: str) -> Callable[[StateDict], Grid]:
    def grid(state: StateDict) -> Grid:
        side = math.isqrt(len(state[fc]) // state[seed].shape[0])
        return side, side

    return grid


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


def _kayamin(layers: str, numbers: tuple[int, ...]) -> Namer:
    def names(number: int, name: str, stride: int) -> tuple[str, str]:
        del name, stride
        return f"{layers}.{numbers[number]}", f"{layers}.{numbers[number] + 1}"

    return names


def _zhangjunh_trunk(layers: str) -> Namer:
    def names(number: int, name: str, stride: int) -> tuple[str, str]:
        del name
        first = int(stride == 2)  # behind a padding
        unit = f"{layers}.{number}.layers"
        return f"{unit}.{first}", f"{unit}.{first + 1}"

    return names


def _zhangjunh_decoder(number: int, name: str, stride: int) -> tuple[str, str]:
    del name
    unit = f"dec.Fconv_layers.{number}.layers"
    return f"{unit}.0", f"{unit}.{stride}"  # a padding stands between the two


def _milankinen(module: str, last_module: str) -> Namer:
    def names(number: int, name: str, stride: int) -> tuple[str, str]:
        del number, stride
        where = last_module if name == "conv53" else module
        name = f"{where}.{name.replace('fconv', 'FConv').replace('conv', 'Conv')}"
        return name, f"{name}_bn"

    return names


def _authors(number: int, name: str, stride: int) -> tuple[str, str]:
    """TensorFlow names: conv11 and conv12 are k01 and k02, then conv21 is k10."""
    del number, stride
    stage, index = int(name[4]), int(name[5])
    place = (stage - 1, index if stage == 1 else index - 1)
    return "g_k{}{}_conv".format(*place), "g_k_bn{}_{}".format(*place)


def _tensorflow(modules: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
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
    vit = "decoder_emb_generator.vit."
    return "fra", {
        "width": len(state["encoder_layer6.weight"]) / 512,
        "embedding_size": len(state[f"{vit}mlp_head.1.weight"]),
        "vit_width": state[f"{vit}cls_token"].shape[2],
        "vit_depth": count(rf"{vit}transformer\.\d+\.linear\.0\.weight", state),
        "patch": math.isqrt(state[f"{vit}input_layer.weight"].shape[1]),
        "positions": state[f"{vit}pos_embedding"].shape[1],
    }


def _landmark_picture(state: StateDict, grid: Grid) -> InputSpec:
    """White dots on black, in the box of the landmarks."""
    del state, grid
    return InputSpec(colour="GREY", mean=0.0, scale=255.0, template="landmark_box")


_DECODER_LAYOUTS = (
    (r"decoder/fc/kernel", "unflattened"),
    (r"decoder/fc/bias", "unflattened_bias"),
    (r"decoder/fconv\d+/conv/kernel", "transposed"),
)
_VIT = "decoder_emb_generator.vit"

GENERATORS: dict[str, Dialect] = {
    # Sampson-Lee/myDRGAN writes generators like this too.
    "kayamin_dr_gan_generator": Dialect(
        source="kayamin/DR-GAN",
        kind="generator",
        signature=("G_dec_fc.weight", "G_enc_convLayers.0.weight"),
        names=(
            *_units(
                "encoder/trunk/",
                dr_gan.TRUNK,
                _kayamin("G_enc_convLayers", _KAYAMIN_TRUNK),
            ),
            *_units(
                "decoder/",
                dr_gan.DECODER,
                _kayamin("G_dec_convLayers", _KAYAMIN_DECODER),
            ),
            ("decoder/fc", "G_dec_fc"),
        ),
        describe=_generator(
            "G_enc_convLayers.0.weight",
            "G_enc_convLayers.43.weight",
            "G_dec_convLayers.0.weight",
            "G_dec_fc.weight",
            normalise_fusion=False,
            bn_before_crop=True,
        ),
        input_spec=_faces("G_enc_convLayers.0.weight", "BGR"),
        grid=_seed_grid("G_dec_convLayers.0.weight", "G_dec_fc.weight"),
        layouts=_DECODER_LAYOUTS,
    ),
    "kayamin_dr_gan_discriminator": Dialect(
        source="kayamin/DR-GAN",
        kind="discriminator",
        signature=("convLayers.0.weight", "convLayers.43.weight", "fc.weight"),
        names=(
            *_units("trunk/", dr_gan.TRUNK, _kayamin("convLayers", _KAYAMIN_TRUNK)),
            ("fc", "fc"),
        ),
        describe=_discriminator("convLayers.0.weight", "convLayers.43.weight"),
        input_spec=_faces("convLayers.0.weight", "BGR"),
    ),
    "sampson_dr_gan_discriminator": Dialect(
        source="Sampson-Lee/myDRGAN",
        kind="discriminator",
        signature=("D_enc_convLayers.0.weight", "fc.weight"),
        names=(
            *_units(
                "trunk/", dr_gan.TRUNK, _kayamin("D_enc_convLayers", _KAYAMIN_TRUNK)
            ),
            ("fc", "fc"),
        ),
        describe=_discriminator(
            "D_enc_convLayers.0.weight", "D_enc_convLayers.43.weight"
        ),
        input_spec=_faces("D_enc_convLayers.0.weight", "RGB"),
        colour_known=False,
    ),
    "zhangjunh_dr_gan_generator": Dialect(
        source="zhangjunh/DR-GAN-by-pytorch, PaParaZz1/DR-GAN, MikeLagunes/DR-GAN-OR",
        kind="generator",
        signature=("dec.fc.weight", "enc.conv_layers.0.layers.0.weight"),
        names=(
            *_units(
                "encoder/trunk/", dr_gan.TRUNK, _zhangjunh_trunk("enc.conv_layers")
            ),
            *_units("decoder/", dr_gan.DECODER, _zhangjunh_decoder),
            ("decoder/fc", "dec.fc"),
        ),
        describe=_generator(
            "enc.conv_layers.0.layers.0.weight",
            "enc.conv_layers.13.layers.0.weight",
            "dec.Fconv_layers.0.layers.0.weight",
            "dec.fc.weight",
            alignment="zero_row",
            confidence_sigmoid=False,
            last_bn=True,
            output="elu",
        ),
        input_spec=_faces("enc.conv_layers.0.layers.0.weight", "RGB"),
        grid=_seed_grid("dec.Fconv_layers.0.layers.0.weight", "dec.fc.weight"),
        layouts=_DECODER_LAYOUTS,
        colour_known=False,
    ),
    "zhangjunh_dr_gan_discriminator": Dialect(
        source="zhangjunh/DR-GAN-by-pytorch, PaParaZz1/DR-GAN, MikeLagunes/DR-GAN-OR",
        kind="discriminator",
        signature=("conv_layers.0.layers.0.weight", "fc.weight"),
        names=(
            *_units("trunk/", dr_gan.TRUNK, _zhangjunh_trunk("conv_layers")),
            ("fc", "fc"),
        ),
        describe=_discriminator(
            "conv_layers.0.layers.0.weight", "conv_layers.13.layers.0.weight"
        ),
        input_spec=_faces("conv_layers.0.layers.0.weight", "RGB"),
        colour_known=False,
    ),
    "milankinen_dr_gan_generator": Dialect(
        source="milankinen/dr-gan",
        kind="generator",
        signature=("dec.fc.weight", "enc.conv.Conv11.weight"),
        names=(
            *_units("encoder/trunk/", dr_gan.TRUNK, _milankinen("enc.conv", "enc.emb")),
            ("encoder/confidence/conv", "enc.coefficient.Conv53_W"),
            ("encoder/confidence/bn", "enc.coefficient.Conv53_W_bn"),
            *_units("decoder/", dr_gan.DECODER, _milankinen("dec.x_h", "dec.x_h")),
            ("decoder/fc", "dec.fc"),
        ),
        describe=_generator(
            "enc.conv.Conv11.weight",
            "enc.emb.Conv53.weight",
            "dec.x_h.FConv52.weight",
            "dec.fc.weight",
            "enc.coefficient.Conv53_W.weight",
            alignment="symmetric",
            confidence_elu=True,
            last_bn=True,
        ),
        input_spec=_faces("enc.conv.Conv11.weight", "RGB"),
        grid=_seed_grid("dec.x_h.FConv52.weight", "dec.fc.weight"),
        layouts=_DECODER_LAYOUTS,
        beside=(r"dec\.bn\..*",),
        colour_known=False,
    ),
    "milankinen_dr_gan_discriminator": Dialect(
        source="milankinen/dr-gan",
        kind="discriminator",
        signature=("conv.Conv11.weight", "conv.Conv53.weight", "fc.weight"),
        names=(
            *_units("trunk/", dr_gan.TRUNK, _milankinen("conv", "conv")),
            ("fc", "fc"),
        ),
        describe=_discriminator(
            "conv.Conv11.weight", "conv.Conv53.weight", alignment="symmetric"
        ),
        input_spec=_faces("conv.Conv11.weight", "RGB"),
        colour_known=False,
    ),
    # The recogniser in the authors' TensorFlow checkpoint, its variables by name. Those
    # of decoder and discriminator are not all known, and are left unused.
    "authors_dr_gan_encoder": Dialect(
        source="tranluan/DR-GAN",
        signature=("g_k01_conv/w", "g_k_bn4_2/gamma"),
        names=tuple(
            _tensorflow(
                [
                    *_units("trunk/", dr_gan.TRUNK, _authors),
                    ("confidence/conv", "g_h4c_conv"),
                    ("confidence/bn", "g_h_bn4_c"),
                ]
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
                rf"{_VIT}.transformer.\1.attn.in_proj_\2",
            ),
            (
                r"vit/transformer_(\d+)/attn/out_proj",
                rf"{_VIT}.transformer.\1.attn.out_proj",
            ),
            (r"vit/transformer_(\d+)/linear_(\d)", rf"{_VIT}.transformer.\1.linear.\2"),
            (r"vit/transformer_(\d+)/(\w+)", rf"{_VIT}.transformer.\1.\2"),
            (r"vit/head_norm", rf"{_VIT}.mlp_head.0"),
            (r"vit/head", rf"{_VIT}.mlp_head.1"),
            (r"vit/input_layer", rf"{_VIT}.input_layer"),
            (r"vit", _VIT),
        ),
        describe=_fra,
        input_spec=_landmark_picture,
    ),
}
