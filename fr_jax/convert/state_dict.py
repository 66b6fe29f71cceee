"""PyTorch state dicts <-> Flax variables, in NumPy, for every dialect."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from fr_jax import models
from fr_jax.convert.backbones import BACKBONES
from fr_jax.convert.dialect import Convention, Dialect, Grid, StateDict
from fr_jax.convert.generators import GENERATORS
from fr_jax.convert.layouts import from_torch, to_torch
from fr_jax.convert.recognisers import RECOGNISERS
from fr_jax.errors import UserError, unknown
from fr_jax.models.preprocess import InputSpec

Variables = dict[str, Any]
Path = tuple[str, ...]

DIALECTS: dict[str, Dialect] = {**BACKBONES, **RECOGNISERS, **GENERATORS}

_LEAVES = {
    "kernel": "weight",
    "slope": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"
_TRAINED = "encoder_q."  # prefix of the trained encoder in momentum contrast
_SHOWN = 8  # problems that an error lists; it counts the others


class Converted(NamedTuple):
    """A published network; `model.apply(variables, x)` takes scaled NHWC float32.

    Attributes:
      variables: NumPy arrays, views of the state dict where possible.
      input_spec: the network's input. With `colour_known` its colour order holds for
        every network of the dialect; otherwise it is the more likely one.
      dialect: key of `DIALECTS`, which has source and licence.
      architecture, options: arguments of `models.create`.
      kind: 'embedding', 'generator', 'discriminator' or 'augmenter'.
      unused: names of tensors outside the network, such as a classifier.
      alternatives: other dialects with the same tensor names; only the user can choose
        between these.
      conventions: repositories with these tensor names, if nothing tells which of their
        colour orders is that of this file.
    """

    model: nn.Module
    variables: Variables
    input_spec: InputSpec
    dialect: str
    architecture: str
    options: dict[str, Any]
    unused: tuple[str, ...]
    kind: str = "embedding"
    colour_known: bool = True
    alternatives: tuple[str, ...] = ()
    conventions: tuple[Convention, ...] = ()


def from_state_dict(
    state_dict: StateDict,
    dialect: str | None = None,
    *,
    prefix: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Converted:
    """Returns the network in a PyTorch state dict.

    Args:
      state_dict: tensor names to arrays in PyTorch's layouts. A prefix that a training
        program adds to every name (`module.`, `backbone.`, `encoder_q.`, ...) is
        detected and removed. Tensors without it are listed in `unused`.
      dialect: a key of `DIALECTS`; by default recognised from the names.
      prefix: selects one of several networks, such as a trained one and its running
        average.
      options: arguments of `models.create` that the shapes do not determine: `heads` of
        a discriminator, `poses` and `noise` of a generator, `dropout`, ...

    Raises:
      UserError: for unknown names, for several networks, and for missing, unexpected,
        misshapen, non-float or non-finite tensors, which it lists.
    """
    if dialect is not None and dialect not in DIALECTS:
        raise UserError(unknown("dialect", dialect, DIALECTS))
    name, prefix, alternatives = _recognise(state_dict, dialect, prefix)
    scheme = DIALECTS[name]
    state = {
        tensor.removeprefix(prefix): np.asarray(array)
        for tensor, array in state_dict.items()
        if tensor.startswith(prefix)
    }
    try:
        architecture, described = scheme.describe(state)
        grid = scheme.grid(state)
        spec = scheme.input_spec(state, grid)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"not a complete {name} network: no {error}") from error
    known = [one for one in scheme.conventions if prefix.endswith(one.prefixes)]
    conventions = () if known else scheme.conventions
    if known:
        spec = spec._replace(colour=known[0].colour)
    described |= options or {}
    model = models.create(architecture, **described)

    shapes = _leaf_shapes(model, spec)
    tensors = {path: torch_name(path, scheme) for path in shapes}
    _unfold(state, shapes, scheme, getattr(model, "bn_epsilon", 1e-5))
    leaves, problems = {}, []
    for path, shape in shapes.items():
        layout = layout_of(path, len(shape), scheme)
        try:
            leaves[path] = _leaf(state[tensors[path]], layout, grid, shape)
        except KeyError:
            problems.append(f"missing {tensors[path]}")
        except ValueError as error:
            problems.append(f"{tensors[path]} {error}")
    unused = [tensor for tensor in state_dict if not tensor.startswith(prefix)]
    used = set(tensors.values())
    for tensor in (tensor for tensor in state if tensor not in used):
        if any(re.fullmatch(pattern, tensor) for pattern in scheme.auxiliary):
            unused.append(prefix + tensor)
        elif not tensor.endswith(_COUNTER):
            problems.append(f"unexpected {tensor}")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(f"no {name} network: {'; '.join(problems[:_SHOWN])}{more}")
    return Converted(
        model,
        flax.traverse_util.unflatten_dict(leaves),
        spec,
        name,
        architecture,
        described,
        tuple(unused),
        scheme.kind,
        scheme.colour_known and not conventions,
        () if scheme.unambiguous(state) else alternatives,
        conventions,
    )


def to_state_dict(variables: Variables, dialect: str) -> StateDict:
    """Returns a state dict of `dialect`, NumPy arrays that `load_state_dict` accepts.

    The counters `num_batches_tracked` of BatchNorms are 0.
    """
    scheme = DIALECTS[dialect]
    flat: dict[Any, Any] = flax.traverse_util.flatten_dict(dict(variables))
    leaves = [
        (torch_name(path, scheme), np.asarray(leaf), layout_of(path, leaf.ndim, scheme))
        for path, leaf in flat.items()
    ]
    # The grid follows from shapes, which do not depend on the order of flattened axes.
    shapes = {name: to_torch(leaf, layout, (1, 1)) for name, leaf, layout in leaves}
    grid = scheme.grid(shapes)
    state = {name: to_torch(leaf, layout, grid) for name, leaf, layout in leaves}
    counters = [name for name in state if name.endswith("running_mean")]
    for name in counters:
        state[name.replace("running_mean", _COUNTER)] = np.zeros((), np.int64)
    return state


def _recognise(
    state: StateDict, dialect: str | None, prefix: str | None
) -> tuple[str, str, tuple[str, ...]]:
    """Returns dialect and prefix of the network in `state`, and other dialects."""
    candidates = [
        (name, before)
        for name in DIALECTS
        for before in _prefixes(DIALECTS[name], state)
        if dialect in (None, name) and prefix in (None, before)
    ]
    if not candidates and dialect:
        signature = [(prefix or "") + name for name in DIALECTS[dialect].signature]
        if state.keys().isdisjoint(signature):
            raise UserError(f"no {dialect} network: no {' or '.join(signature)}")
        return dialect, prefix or "", ()  # the caller lists missing tensors
    if not candidates:
        names = ", ".join(sorted(state)[:4])
        raise UserError(
            f"no known network has tensors {names}, ...; known naming schemes: "
            f"{', '.join(DIALECTS)}"
        )
    trained = [match for match in candidates if match[1].endswith(_TRAINED)]
    candidates = trained or candidates
    prefixes = {before for _, before in candidates}
    if len(prefixes) > 1:
        listed = ", ".join(f"{before!r} ({name})" for name, before in candidates)
        raise UserError(f"several networks here: {listed}; choose one by its prefix")
    before = prefixes.pop()
    names = [name for name, _ in candidates]
    certain = [name for name in names if before.endswith(DIALECTS[name].prefixes)]
    if dialect or certain:
        return dialect or certain[0], before, ()
    likely = next(name for name in names if not DIALECTS[name].prefixes)
    return likely, before, tuple(name for name in names if name != likely)


def _prefixes(dialect: Dialect, state: StateDict) -> list[str]:
    """Returns the name prefix of each network of this dialect in `state`."""
    anchor = dialect.signature[0]
    befores = [
        name.removesuffix(anchor)
        for name in state
        if name == anchor or name.endswith((f".{anchor}", f"/{anchor}"))
    ]
    return [
        before
        for before in befores
        if all(before + name in state for name in dialect.signature)
        and not any(before + name in state for name in dialect.absent)
    ]


def _leaf_shapes(model: nn.Module, spec: InputSpec) -> dict[Path, tuple[int, ...]]:
    inputs = models.example_inputs(model, spec)
    abstract: Any = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    leaves: dict[Any, Any] = flax.traverse_util.flatten_dict(abstract)
    return {path: leaf.shape for path, leaf in leaves.items()}


def _unfold(
    state: dict[str, np.ndarray],
    shapes: Mapping[Path, tuple[int, ...]],
    dialect: Dialect,
    epsilon: float,
) -> None:
    """Adds to `state` every BatchNorm that was folded into a convolution.

    A folded convolution has a bias, and its BatchNorm is missing. Unless the dialect
    has the bias too, it becomes the bias of the added BatchNorm.
    """
    for path, shape in shapes.items():
        unit = _first_match(dialect.norms, "/".join(path[1:-1]))
        if not unit or path[-1] != "kernel":
            continue
        bias = torch_name((*path[:-1], "bias"), dialect)
        scale = torch_name((path[0], *unit.split("/"), "scale"), dialect)
        norm = scale.removesuffix(".weight")
        if bias not in state or any(name.startswith(f"{norm}.") for name in state):
            continue
        ones, zeros = np.ones(shape[-1:], np.float32), np.zeros(shape[-1:], np.float32)
        keeps_bias = (*path[:-1], "bias") in shapes
        state[scale] = ones
        state[f"{norm}.bias"] = zeros if keeps_bias else state.pop(bias)
        state[f"{norm}.running_mean"] = zeros
        state[f"{norm}.running_var"] = ones - np.float32(epsilon)


def torch_name(path: Path, dialect: Dialect) -> str:
    """Returns the name of a leaf (collection, modules ..., leaf) in the dialect."""
    module, leaf = "/".join(path[1:-1]), _LEAVES.get(path[-1], path[-1])
    if name := _first_match(dialect.names, module):
        return f"{name}.{leaf}"
    if name := _first_match(dialect.names, f"{module}/{leaf}"):
        return name
    raise AssertionError(f"no name for {module}/{leaf}")


def layout_of(path: Path, rank: int, dialect: Dialect) -> str:
    """Returns the key in `layouts.PATTERNS` of a leaf of this rank."""
    usual = {2: "dense", 4: "convolution"}[rank] if path[-1] == "kernel" else "vector"
    return _first_match(dialect.layouts, "/".join(path[1:])) or usual


def _first_match(patterns: Iterable[tuple[str, str]], text: str) -> str | None:
    """Returns the expanded template of the first (pattern, template) that matches."""
    matches = ((re.fullmatch(pattern, text), value) for pattern, value in patterns)
    return next((match.expand(value) for match, value in matches if match), None)


def _leaf(
    array: np.ndarray, layout: str, grid: Grid, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns the array as float32 in Flax's layout; ValueError if it is invalid."""
    if len(shape) == 1 and array.shape[1:] == (1, 1):
        array = array[:, 0, 0]  # ONNX has three axes for slopes of PReLU
    expected = to_torch(np.broadcast_to(np.float32(0), shape), layout, grid).shape
    if array.shape != expected:
        raise ValueError(f"has shape {array.shape}, not {expected}")
    leaf = from_torch(array, layout, grid)
    if leaf.dtype != np.float32:
        if leaf.dtype.kind in "biuc":
            raise ValueError(f"is {leaf.dtype}, not a floating-point tensor")
        leaf = leaf.astype(np.float32)
    if not np.isfinite(leaf).all():
        raise ValueError("has non-finite values")
    return leaf
