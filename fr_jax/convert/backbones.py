"""Dialects of face embedders: networks from images to embeddings."""

import math
from typing import Any

import numpy as np

from fr_jax.convert.dialect import (
    Convention,
    Described,
    Dialect,
    Grid,
    StateDict,
    by_blocks,
    count,
    named_depth,
    pixels,
    square_grid,
    unit_names,
)
from fr_jax.models.backbones import ir, iresnet, sphere

_NON_COMMERCIAL = "published weights: non-commercial research only"


def _sizes(state: StateDict, stem: str, last: str) -> dict[str, Any]:
    """Returns the options given by the shapes of the first and the last kernel."""
    return {"width": len(state[stem]) / 64, "embedding_size": len(state[last])}


def _stages(first: str, state: StateDict) -> tuple[int, ...]:
    """Returns the number of blocks in each stage; every block has a module `first`."""
    return tuple(
        count(rf"layer{stage}\.(\d+)\.{first}\.weight", state) for stage in range(1, 5)
    )


def _iresnet(prefix: str, state: StateDict) -> Described:
    depth = named_depth("iresnet", iresnet.STAGES, _stages("bn1", state))
    return prefix + depth, _sizes(state, "conv1.weight", "fc.weight")


def _ir(family: str, stages: dict[int, tuple[int, ...]], state: StateDict) -> Described:
    blocks = count(r"body\.(\d+)\.res_layer\.1\.weight", state)
    if any(name.startswith("body.0.") and ".fc1." in name for name in state):
        family += "_se"
    depths = {depth: sum(sizes) for depth, sizes in stages.items()}
    depth = named_depth(family, depths, blocks)
    return depth, _sizes(state, "input_layer.0.weight", "output_layer.3.weight")


def _sphere(state: StateDict) -> Described:
    depth = named_depth("sphere", sphere.STAGES, _stages("conv1", state))
    return depth, _sizes(state, "layer1.0.weight", "fc.weight")


def _sphere_grid(state: StateDict) -> Grid:
    """Returns the sides with a ratio nearest to 112:96, the published input size."""
    cells = state["fc.weight"].shape[1] // len(state["layer4.0.weight"])
    pairs = [(h, cells // h) for h in range(1, cells + 1) if cells % h == 0]
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] * 6 / 7)))


def _ir_layers(
    family: str, stages: dict[int, tuple[int, ...]]
) -> dict[int, tuple[str, ...]]:
    """Returns `Dialect.linear_layers` of IR and IR-SE, which share some numbers."""
    plain = by_blocks(family, stages, 2, 5)
    squeezed = by_blocks(f"{family}_se", stages, 4, 5)
    numbers = plain.keys() | squeezed.keys()
    return {n: plain.get(n, ()) + squeezed.get(n, ()) for n in numbers}


def _vgg(state: StateDict) -> Described:
    """Leaves out the classification layer."""
    width = len(state["conv1_1.weight"]) / 64
    return "vgg16", {"width": width, "embedding_size": None}


def _sized(architecture: str, stem: str, last: str):
    """Returns a `describe` for a network with one depth."""
    return lambda state: (architecture, _sizes(state, stem, last))


def _unit_scale(state: StateDict) -> bool:
    """Returns whether the last scale is 1: frozen in arcface_torch, not in MagFace."""
    return bool(np.all(np.asarray(state["features.weight"]) == 1))


_IRESNET_NAMES = (
    (r"layer(\d)_(\d+)/down_conv", r"layer\1.\2.downsample.0"),
    (r"layer(\d)_(\d+)/down_bn", r"layer\1.\2.downsample.1"),
    (r"layer(\d)_(\d+)/(\w+)", r"layer\1.\2.\3"),
    (r"(\w+)", r"\1"),
)


def _ir_names(*residual: str, squeeze: str) -> tuple[tuple[str, str], ...]:
    """Returns the names of IR, given a block's layers in order and its gate's name."""
    return (
        (r"input_conv", r"input_layer.0"),
        (r"input_bn", r"input_layer.1"),
        (r"input_prelu", r"input_layer.2"),
        (r"body_(\d+)/short_conv", r"body.\1.shortcut_layer.0"),
        (r"body_(\d+)/short_bn", r"body.\1.shortcut_layer.1"),
        *(
            (rf"body_(\d+)/{layer}", rf"body.\1.res_layer.{index}")
            for index, layer in enumerate(residual)
        ),
        (r"body_(\d+)/se_(fc\d)", rf"body.\1.res_layer.{squeeze}.\2"),
        (r"out_bn", r"output_layer.0"),
        (r"fc", r"output_layer.3"),
        (r"out_bn1d", r"output_layer.4"),
    )


_IR_NAMES = _ir_names("bn_in", "conv1", "prelu", "conv2", "bn_out", squeeze="5")
_ADAFACE_NAMES = _ir_names(
    "bn_in", "conv1", "bn_middle", "prelu", "conv2", "bn_out", squeeze="se_block"
)
_SPHERE_NAMES = (
    (r"layer(\d)_conv", r"layer\1.0"),
    (r"layer(\d)_prelu", r"layer\1.1"),
    *(
        (rf"layer(\d)_{block}/(\w+)", rf"layer\1.{block + 2}.\2")
        for block in range(max(sphere.STAGES[64]))
    ),
    (r"fc", r"fc"),
)


def _mobilefacenet(
    source: str,
    signature: tuple[str, ...],
    parts: tuple[str, ...],
    down: tuple[str, ...],
    stages: tuple[str, ...],
    conventions: tuple[Convention, ...],
    **spec: Any,
) -> Dialect:
    """Returns a dialect of MobileFaceNet.

    Args:
      parts: names of stem, stem_dw, head_conv, head_dw, fc and bn.
      down, stages: names of the strided blocks, and of the stages after them.
      conventions: see `Dialect`.
      spec: fields of the InputSpec.
    """
    stem, stem_depthwise, head, head_depthwise, fc, bn = parts
    return Dialect(
        source=source,
        signature=signature,
        names=(
            (r"stem/(\w+)", rf"{stem}.\1"),
            (r"stem_dw/(\w+)", rf"{stem_depthwise}.\1"),
            (r"head_conv/(\w+)", rf"{head}.\1"),
            (r"head_dw/(\w+)", rf"{head_depthwise}.\1"),
            *(
                (rf"stage{n}_down/(\w+)/(\w+)", rf"{name}.\1.\2")
                for n, name in enumerate(down, 1)
            ),
            *(
                (rf"stage{n}_(\d+)/(\w+)/(\w+)", rf"{name}.model.\1.\2.\3")
                for n, name in enumerate(stages, 1)
            ),
            (r"fc", fc),
            (r"bn", bn),
        ),
        describe=_sized("mobilefacenet", f"{stem}.conv.weight", f"{fc}.weight"),
        input_spec=pixels(**spec),
        # The last convolution covers the whole map.
        grid=lambda state: state[f"{head_depthwise}.conv.weight"].shape[-2:],
        norms=_UNIT_NORMS,
        colour_known=False,
        conventions=conventions,
        linear_layers={50: ("mobilefacenet",)},
    )


_MOBILEFACENET_V2_NAMES = (
    *unit_names(
        ("stem", "conv1.0", "conv1.1"),
        ("stem_depthwise", "dw_conv.depthwise", "dw_conv.bn1"),
        ("stem_pointwise", "dw_conv.pointwise", "dw_conv.bn2"),
        (r"features_(\d+)/expand", r"features.\1.conv.0.0", r"features.\1.conv.0.1"),
        (r"features_(\d+)/depthwise", r"features.\1.conv.1.0", r"features.\1.conv.1.1"),
        (r"features_(\d+)/project", r"features.\1.conv.2", r"features.\1.conv.3"),
        ("head", "conv2.0", "conv2.1"),
        ("global", "gdconv.depthwise", "gdconv.bn"),
    ),
    (r"fc", r"conv3"),
    (r"bn", r"bn"),
)
_FLATTENED = (("fc/kernel", "flattened"),)
_UNIT_NORMS = ((r"(\w+)/conv", r"\1/bn"), (r"(\w+/\w+)/conv", r"\1/bn"))
_IR = {
    "grid": square_grid("output_layer.3.weight", "output_layer.0.weight"),
    "layouts": _FLATTENED,
    "norms": (
        (r"input_conv", r"input_bn"),
        (r"(\w+)/conv2", r"\1/bn_out"),
        (r"(\w+)/short_conv", r"\1/short_bn"),
    ),
    "auxiliary": (r"head\..*",),
}
_IRESNET = {
    "signature": ("layer1.0.prelu.weight", "layer1.0.bn1.weight"),
    "names": _IRESNET_NAMES,
    "grid": square_grid("fc.weight", "bn2.weight"),
    "layouts": _FLATTENED,
    "norms": (
        (r"conv1", r"bn1"),
        (r"(\w+)/conv1", r"\1/bn2"),
        (r"(\w+)/conv2", r"\1/bn3"),
        (r"(\w+)/down_conv", r"\1/down_bn"),
    ),
}
_ADAFACE = {**_IR, "norms": (*_IR["norms"], (r"(\w+)/conv1", r"\1/bn_middle"))}

# The published weights expect BGR, because the extractor of the published data wrote
# it; those of others expect the order of their extractor.
_EXTRACTORS = (
    Convention("TreB1eN/InsightFace_Pytorch", "BGR"),
    Convention("leebebeto/Inter-Prototype", "as the extractor wrote it"),
)

BACKBONES: dict[str, Dialect] = {
    "arcface_torch": Dialect(
        source="deepinsight/insightface recognition/arcface_torch; USynthFace",
        describe=lambda state: _iresnet("", state),
        input_spec=pixels(flip_sum=True),
        unambiguous=_unit_scale,
        terms=_NON_COMMERCIAL,
        linear_layers=by_blocks("iresnet", iresnet.STAGES, 2, 6),
        **_IRESNET,
    ),
    # Tensor names equal arcface_torch's: only the prefixes of MagFace's two training
    # programs, or the user, distinguish the two.
    "magface": Dialect(
        source="IrvingMeng/MagFace",
        describe=lambda state: _iresnet("magface_", state),
        input_spec=pixels(colour="BGR", mean=0.0, scale=255.0),
        prefixes=("module.features.", "features.module."),
        linear_layers=by_blocks("magface_iresnet", iresnet.MAGFACE_STAGES, 2, 6),
        **_IRESNET,
    ),
    "insightface_pytorch": Dialect(
        source="TreB1eN/InsightFace_Pytorch; leebebeto/Inter-Prototype",
        signature=("body.0.res_layer.2.weight", "output_layer.4.weight"),
        absent=("body.0.res_layer.2.running_mean",),
        names=_IR_NAMES,
        describe=lambda state: _ir("ir", ir.STAGES, state),
        input_spec=pixels(),
        colour_known=False,
        conventions=(*_EXTRACTORS, Convention("ZhaoJ9014/face.evoLVe", "RGB")),
        linear_layers=_ir_layers("ir", ir.STAGES),
        **_IR,
    ),
    "curricularface": Dialect(
        source="HuangYG123/CurricularFace",
        signature=("body.0.res_layer.2.weight", "output_layer.4.running_mean"),
        absent=("body.0.res_layer.2.running_mean", "output_layer.4.weight"),
        names=_IR_NAMES,
        describe=lambda state: _ir("curricularface_ir", ir.STAGES, state),
        input_spec=pixels(flip_sum=True),
        linear_layers=_ir_layers("curricularface_ir", ir.STAGES),
        **_IR,
    ),
    "adaface": Dialect(
        source="mk-minchul/AdaFace",
        signature=("body.0.res_layer.2.running_mean", "output_layer.4.running_mean"),
        names=_ADAFACE_NAMES,
        describe=lambda state: _ir("adaface_ir", ir.ADAFACE_STAGES, state),
        input_spec=pixels(colour="BGR", flip_sum=True),
        # CVLface publishes AdaFace's weights again, beside others that it trained.
        conventions=(
            Convention("mk-minchul/AdaFace", "BGR", ("model.",)),
            Convention("mk-minchul/CVLface", "as its model.yaml says"),
            Convention("Tencent/TFace", "RGB"),
        ),
        linear_layers=_ir_layers("adaface_ir", ir.ADAFACE_STAGES),
        **_ADAFACE,
    ),
    "insightface_pytorch_mobilefacenet": _mobilefacenet(
        "TreB1eN/InsightFace_Pytorch",
        ("conv_23.conv_dw.conv.weight",),
        ("conv1", "conv2_dw", "conv_6_sep", "conv_6_dw", "linear", "bn"),
        ("conv_23", "conv_34", "conv_45"),
        ("conv_3", "conv_4", "conv_5"),
        (
            Convention("TreB1eN/InsightFace_Pytorch", "BGR"),
            Convention("JDAI-CV/FaceX-Zoo", "BGR"),
            Convention("ZhaoJ9014/face.evoLVe", "RGB"),
        ),
        colour="BGR",
    ),
    "inter_prototype_mobilefacenet": _mobilefacenet(
        "leebebeto/Inter-Prototype",
        ("model.0.conv.weight", "model.2.conv_dw.conv.weight"),
        ("model.0", "model.1", "model.8", "model.9", "linear.0", "linear.1"),
        ("model.2", "model.4", "model.6"),
        ("model.3", "model.5", "model.7"),
        _EXTRACTORS,
    ),
    "foamliu_mobilefacenet": Dialect(
        source="foamliu/MobileFaceNet",
        signature=("gdconv.depthwise.weight", "dw_conv.pointwise.weight"),
        names=_MOBILEFACENET_V2_NAMES,
        describe=_sized("mobilefacenet_v2", "conv1.0.weight", "conv3.weight"),
        input_spec=pixels(scale=128.0),
        grid=lambda state: state["gdconv.depthwise.weight"].shape[-2:],
        layouts=(("fc/kernel", "one_cell"),),
        norms=(*_UNIT_NORMS, (r"fc", r"bn")),
        linear_layers={51: ("mobilefacenet_v2",)},
        terms="Apache-2.0; trained on a data set since withdrawn: research only",
    ),
    "sphere": Dialect(
        source="MuggleWang/CosFace_pytorch",
        signature=("layer1.2.prelu1.weight", "layer4.2.conv2.weight"),
        names=_SPHERE_NAMES,
        describe=_sphere,
        input_spec=pixels(),
        grid=_sphere_grid,
        layouts=_FLATTENED,
        linear_layers=by_blocks("sphere", sphere.STAGES, 2, 5),
    ),
    # Conversions to PyTorch keep the names of the Caffe release. The colour order, and
    # with it the order of the three means, differs between conversions.
    "vgg_face": Dialect(
        source="VGG-Face (Parkhi et al. 2015), conversions of its Caffe release",
        signature=("conv1_1.weight", "conv5_3.weight", "fc7.weight"),
        names=((r"(\w+)", r"\1"),),
        describe=_vgg,
        input_spec=pixels(
            stride=32,
            colour="BGR",
            mean=(129.1863, 104.7624, 93.5940),
            scale=1.0,
            template="loose",
        ),
        grid=square_grid("fc6.weight", "conv5_3.bias"),
        layouts=(("fc6/kernel", "flattened"),),
        auxiliary=(r"fc8\..*",),
        colour_known=False,
        conventions=(
            Convention("conversions that keep Caffe's pixels", "BGR"),
            Convention("conversions for PyTorch's image readers", "RGB"),
        ),
        terms=_NON_COMMERCIAL,
    ),
}
