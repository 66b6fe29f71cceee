"""PyTorch state dicts <-> Flax variables, in NumPy.

A dialect is a naming scheme: which architecture the tensors make up, what each of our
modules is called there, and what pixels the published network expects.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from fr_jax import models
from fr_jax.models import ir, iresnet
from fr_jax.models.preprocess import InputSpec

StateDict = Mapping[str, np.ndarray]
Variables = dict[str, Any]


class Converted(NamedTuple):
    """A published network: `model.apply(variables, x)` takes scaled NHWC float32."""

    model: nn.Module
    variables: Variables
    input_spec: InputSpec
    dialect: str
    architecture: str
    options: dict[str, Any]
    unused: tuple[str, ...]  # tensors beside the backbone, such as a trainer's head


class Dialect(NamedTuple):
    recognise: Callable[[StateDict], bool]
    architecture: Callable[[StateDict], tuple[str, dict[str, Any]]]
    modules: tuple[tuple[str, str], ...]  # (pattern of our path, their name)
    flattened: str | None  # our BatchNorm whose map the layer `fc` flattens
    input_spec: InputSpec


def _iresnet(prefix: str, state: StateDict) -> tuple[str, dict[str, Any]]:
    stages = tuple(_count(rf"layer{s}\.(\d+)\.bn1\.weight", state) for s in range(1, 5))
    return prefix + _named_depth("iresnet", iresnet.STAGES, stages), {
        "width": len(state["conv1.weight"]) / 64,
        "embedding_size": len(state["fc.weight"]),
    }


def _ir(state: StateDict) -> tuple[str, dict[str, Any]]:
    blocks = _count(r"body\.(\d+)\.res_layer\.1\.weight", state)
    by_count = {sum(stages): stages for stages in ir.STAGES.values()}
    family = "ir_se" if "body.0.res_layer.5.fc1.weight" in state else "ir"
    return _named_depth(family, ir.STAGES, by_count.get(blocks, (blocks,))), {
        "width": len(state["input_layer.0.weight"]) / 64,
        "embedding_size": len(state["output_layer.3.weight"]),
    }


def _mobilefacenet(state: StateDict) -> tuple[str, dict[str, Any]]:
    return "mobilefacenet", {
        "width": len(state["model.0.conv.weight"]) / 64,
        "embedding_size": len(state["linear.0.weight"]),
    }


def _count(pattern: str, state: StateDict) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def _named_depth(family: str, stages: Mapping[int, Any], found: tuple) -> str:
    for depth, sizes in stages.items():
        if sizes == found:
            return f"{family}{depth}"
    raise ValueError(f"no {family} has {found} blocks; there are {dict(stages)}")


_IRESNET_MODULES = (
    (r"layer(\d)_(\d+)/down_conv", r"layer\1.\2.downsample.0"),
    (r"layer(\d)_(\d+)/down_bn", r"layer\1.\2.downsample.1"),
    (r"layer(\d)_(\d+)/(\w+)", r"layer\1.\2.\3"),
    (r"(\w+)", r"\1"),
)
_IR_MODULES = (
    (r"input_conv", r"input_layer.0"),
    (r"input_bn", r"input_layer.1"),
    (r"input_prelu", r"input_layer.2"),
    (r"body_(\d+)/short_conv", r"body.\1.shortcut_layer.0"),
    (r"body_(\d+)/short_bn", r"body.\1.shortcut_layer.1"),
    (r"body_(\d+)/bn_in", r"body.\1.res_layer.0"),
    (r"body_(\d+)/conv1", r"body.\1.res_layer.1"),
    (r"body_(\d+)/prelu", r"body.\1.res_layer.2"),
    (r"body_(\d+)/conv2", r"body.\1.res_layer.3"),
    (r"body_(\d+)/bn_out", r"body.\1.res_layer.4"),
    (r"body_(\d+)/se_(fc\d)", r"body.\1.res_layer.5.\2"),
    (r"out_bn", r"output_layer.0"),
    (r"fc", r"output_layer.3"),
    (r"out_bn1d", r"output_layer.4"),
)
_MOBILEFACENET_MODULES = (
    (r"stem/(\w+)", r"model.0.\1"),
    (r"stem_dw/(\w+)", r"model.1.\1"),
    *(
        rule
        for stage, (down, residual) in {1: (2, 3), 2: (4, 5), 3: (6, 7)}.items()
        for rule in (
            (rf"stage{stage}_down/project/(\w+)", rf"model.{down}.project.\1"),
            (rf"stage{stage}_down/(\w+)/(\w+)", rf"model.{down}.\1.\2"),
            (
                rf"stage{stage}_(\d+)/(\w+)/(\w+)",
                rf"model.{residual}.model.\1.\2.\3",
            ),
        )
    ),
    (r"head_conv/(\w+)", r"model.8.\1"),
    (r"head_dw/(\w+)", r"model.9.\1"),
    (r"fc", r"linear.0"),
    (r"bn", r"linear.1"),
)
_LEAVES = {
    "kernel": "weight",
    "slope": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

DIALECTS: dict[str, Dialect] = {
    "arcface_torch": Dialect(
        lambda state: "layer1.0.conv1.weight" in state,
        lambda state: _iresnet("", state),
        _IRESNET_MODULES,
        "bn2",
        InputSpec(flip_sum=True),
    ),
    # The tensors of MagFace carry the same names as arcface_torch's: only the trainer's
    # prefix, or the user, can tell them apart.
    "magface": Dialect(
        lambda state: False,
        lambda state: _iresnet("magface_", state),
        _IRESNET_MODULES,
        "bn2",
        InputSpec(colour="BGR", mean=0.0, scale=255.0),
    ),
    "insightface_pytorch": Dialect(
        lambda state: (
            "body.0.res_layer.2.weight" in state
            and "body.0.res_layer.2.running_mean" not in state
        ),
        _ir,
        _IR_MODULES,
        "out_bn",
        InputSpec(),
    ),
    "insightface_pytorch_mobilefacenet": Dialect(
        lambda state: "model.2.conv_dw.conv.weight" in state,
        _mobilefacenet,
        _MOBILEFACENET_MODULES,
        None,
        InputSpec(),
    ),
}
# Prefixes that trainers put before every name, and the dialect they give away.
_PREFIXES = (("module.features.", "magface"), ("features.module.", "magface"))


def from_state_dict(state_dict: StateDict, dialect: str | None = None) -> Converted:
    """Returns the network that a PyTorch state dict holds.

    Args:
      state_dict: tensor names to arrays in PyTorch's layouts. A trainer's prefix
        (`module.features.`, `features.module.`) is taken off; tensors outside it, such
        as the classifier, are named in `unused`.
      dialect: a key of `DIALECTS`; by default recognised from the names.

    Raises:
      ValueError: for an unknown naming, and for every missing, unexpected or wrongly
        shaped tensor, with its name.
    """
    state = {name: np.asarray(array) for name, array in state_dict.items()}
    unused: tuple[str, ...] = ()
    for prefix, implied in _PREFIXES:
        inside = {
            name.removeprefix(prefix): array
            for name, array in state.items()
            if name.startswith(prefix)
        }
        if inside:
            unused = tuple(n for n in state if not n.startswith(prefix))
            state, dialect = inside, dialect or implied
            break
    if dialect is None:
        found = [name for name, known in DIALECTS.items() if known.recognise(state)]
        if not found:
            raise ValueError(
                f"no known network has tensors {', '.join(sorted(state)[:4])}, ...; "
                f"known naming schemes: {', '.join(DIALECTS)}"
            )
        dialect = found[0]
    elif dialect not in DIALECTS:
        raise ValueError(f"unknown dialect {dialect!r}; known: {', '.join(DIALECTS)}")
    known = DIALECTS[dialect]
    try:
        architecture, options = known.architecture(state)
        map_side = _map_side(known, state)
    except KeyError as error:
        raise ValueError(f"not a complete {dialect} network: no {error}") from error
    model = models.create(architecture, **options)
    spec = known.input_spec._replace(size=16 * map_side)  # four strides of two
    side = map_side if known.flattened else 1

    leaves = {}
    problems = []
    for path, shape in _leaf_shapes(model, spec.size).items():
        name = _torch_name(path, known)
        if name not in state:
            problems.append(f"missing {name}")
            continue
        array = state.pop(name)
        try:
            leaves[path] = _from_torch(array, side).reshape(shape)
        except ValueError:
            problems.append(f"{name} has shape {array.shape}, not that of {shape}")
    problems += [
        f"unexpected {name}" for name in state if not name.endswith("batches_tracked")
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"not a {dialect} network: {'; '.join(problems[:8])}{more}")
    variables = flax.traverse_util.unflatten_dict(leaves)
    return Converted(model, variables, spec, dialect, architecture, options, unused)


def to_state_dict(variables: Variables, dialect: str) -> StateDict:
    """Returns PyTorch names and layouts for variables of `dialect`, as NumPy arrays.

    PyTorch's num_batches_tracked counters do not exist here and are left out;
    `load_state_dict(strict=False)` accepts that.
    """
    known = DIALECTS[dialect]
    side = 1
    if known.flattened:
        params = variables["params"]
        channels = len(params[known.flattened]["bias"])
        side = math.isqrt(len(params["fc"]["kernel"]) // channels)
    leaves = flax.traverse_util.flatten_dict(dict(variables))
    return {
        _torch_name(path, known): _to_torch(np.asarray(leaf), side)
        for path, leaf in leaves.items()
    }


def _map_side(dialect: Dialect, state: StateDict) -> int:
    """Side of the last map: 7 of a 112x112 network."""
    if dialect.flattened is None:  # a depthwise convolution takes the whole map
        path = ("params", "head_dw", "conv", "kernel")
        return state[_torch_name(path, dialect)].shape[-1]
    norm = _torch_name(("params", dialect.flattened, "bias"), dialect)
    dense = _torch_name(("params", "fc", "kernel"), dialect)
    return math.isqrt(state[dense].shape[1] // len(state[norm]))


def _leaf_shapes(model: nn.Module, size: int) -> dict[tuple[str, ...], tuple]:
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    abstract: Any = jax.eval_shape(model.init, jax.random.key(0), image)
    leaves: dict[Any, Any] = flax.traverse_util.flatten_dict(abstract)
    return {path: leaf.shape for path, leaf in leaves.items()}


def _torch_name(path: tuple[str, ...], dialect: Dialect) -> str:
    module, leaf = "/".join(path[1:-1]), path[-1]
    for pattern, name in dialect.modules:
        if match := re.fullmatch(pattern, module):
            return f"{match.expand(name)}.{_LEAVES[leaf]}"
    raise AssertionError(f"no name for {module}")


def _from_torch(array: np.ndarray, side: int) -> np.ndarray:
    """PyTorch's layout to ours; `side` is that of the map which `fc` flattens."""
    if array.ndim == 4:
        return einops.rearrange(array, "o i h w -> h w i o")
    if array.ndim == 2:  # PyTorch flattens channels first, we channels last
        return einops.rearrange(array, "o (c h w) -> (h w c) o", h=side, w=side)
    return array


def _to_torch(array: np.ndarray, side: int) -> np.ndarray:
    if array.ndim == 4:
        return einops.rearrange(array, "h w i o -> o i h w")
    if array.ndim == 2:
        return einops.rearrange(array, "(h w c) o -> o (c h w)", h=side, w=side)
    return array
