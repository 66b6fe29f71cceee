"""PyTorch state dicts <-> Flax variables, in NumPy: one algorithm for all dialects."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from fr_jax import models
from fr_jax.convert.backbones import BACKBONES
from fr_jax.convert.dialect import Dialect, Grid, StateDict
from fr_jax.convert.generators import GENERATORS
from fr_jax.convert.layouts import from_torch, to_torch
from fr_jax.errors import UserError, unknown
from fr_jax.models.preprocess import InputSpec

Variables = dict[str, Any]
Path = tuple[str, ...]

DIALECTS: dict[str, Dialect] = {**BACKBONES, **GENERATORS}

_LEAVES = {
    "kernel": "weight",
    "slope": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"
# Of a momentum-contrast module's two encoders this is the one that is trained.
_TRAINED = "encoder_q."
_SHOWN = 8  # problems that an error names before it counts the rest


class Converted(NamedTuple):
    """A published network: `model.apply(variables, x)` takes scaled NHWC float32.

    Attributes:
      variables: NumPy arrays, views of the state dict's wherever a view will do.
      input_spec: what the network sees; `colour_known` says whether its colour order is
        that of every network of this dialect, or the likeliest of two.
      dialect: key of `DIALECTS`, where source and licence stand.
      architecture, options: those of `models.create`.
      kind: 'embedding', 'generator', 'discriminator' or 'landmarks'.
      unused: names of tensors beside the network, such as a trainer's head.
      alternatives: dialects whose tensors have the same names; nothing but the user
        tells whether it is one of them.
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


class _Found(NamedTuple):
    dialect: str
    prefix: str
    alternatives: tuple[str, ...] = ()


def from_state_dict(
    state_dict: StateDict,
    dialect: str | None = None,
    *,
    prefix: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Converted:
    """Returns the network that a PyTorch state dict holds.

    Args:
      state_dict: tensor names to arrays in PyTorch's layouts. What trainers put before
        every name (`module.`, `backbone.`, `model.`, `encoder_q.`, ...) is found and
        taken off; tensors outside it, such as the classifier, are named in `unused`.
      dialect: a key of `DIALECTS`; by default recognised from the names.
      prefix: which network to take where there are several, such as a trained one and
        its running average.
      options: of `models.create`, where the tensors do not tell: `heads` of a
        discriminator, `poses` and `noise` of a generator, `dropout`, ...

    Raises:
      UserError: for an unknown naming, for several networks, and for every missing,
        unexpected, wrongly shaped or damaged tensor, with its name.
    """
    if dialect is not None and dialect not in DIALECTS:
        raise UserError(unknown("dialect", dialect, DIALECTS))
    found = _recognise(state_dict, dialect, prefix)
    known = DIALECTS[found.dialect]
    state = {
        name.removeprefix(found.prefix): np.asarray(array)
        for name, array in state_dict.items()
        if name.startswith(found.prefix)
    }
    unused = [name for name in state_dict if not name.startswith(found.prefix)]
    try:
        architecture, described = known.describe(state)
        grid = known.grid(state)
        spec = known.input_spec(state, grid)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UserError(
            f"not a complete {found.dialect} network: no {error}"
        ) from error
    described |= options or {}
    model = models.create(architecture, **described)

    shapes = _leaf_shapes(model, spec)
    _unfold(state, shapes, known, getattr(model, "bn_epsilon", 1e-5))
    leaves, problems, used = {}, [], set()
    for path, shape in shapes.items():
        name = _torch_name(path, known)
        used.add(name)
        layout = _layout(path, len(shape), known)
        try:
            leaves[path] = _leaf(state[name], layout, grid, shape)
        except KeyError:
            problems.append(f"missing {name}")
        except ValueError as error:
            problems.append(f"{name} {error}")
    for name in state:
        if any(re.fullmatch(pattern, name) for pattern in known.beside):
            unused += [found.prefix + name] if name not in used else []
        elif name not in used and not name.endswith(_COUNTER):
            problems.append(f"unexpected {name}")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "; ".join(problems[:_SHOWN])
        raise UserError(f"no {found.dialect} network: {shown}{more}")
    return Converted(
        model,
        flax.traverse_util.unflatten_dict(leaves),
        spec,
        found.dialect,
        architecture,
        described,
        tuple(unused),
        known.kind,
        known.colour_known,
        () if known.settled(state) else found.alternatives,
    )


def to_state_dict(variables: Variables, dialect: str) -> StateDict:
    """Returns PyTorch names and layouts for variables of `dialect`, as NumPy arrays.

    PyTorch counts the batches that a BatchNorm has seen (num_batches_tracked); that is
    not known here and given as 0. `load_state_dict` takes the result as it is.
    """
    known = DIALECTS[dialect]
    leaves = {
        path: np.asarray(leaf)
        for path, leaf in flax.traverse_util.flatten_dict(dict(variables)).items()
    }
    layouts = {path: _layout(path, leaf.ndim, known) for path, leaf in leaves.items()}
    # What a dense layer flattens is told by the shapes, which are those of theirs.
    plain = {"flattened": "dense", "unflattened": "dense", "unflattened_bias": "vector"}
    shapes = {
        _torch_name(path, known): to_torch(
            leaf, plain.get(layouts[path], layouts[path]), (1, 1)
        )
        for path, leaf in leaves.items()
    }
    grid = known.grid(shapes)
    state = {
        _torch_name(path, known): to_torch(leaf, layouts[path], grid)
        for path, leaf in leaves.items()
    }
    counters = [name for name in state if name.endswith("running_mean")]
    for name in counters:
        state[name.replace("running_mean", _COUNTER)] = np.zeros((), np.int64)
    return state


def _recognise(state: StateDict, dialect: str | None, prefix: str | None) -> _Found:
    """Returns the dialect and the prefix of the one network in `state`."""
    candidates = [
        (name, before)
        for name in DIALECTS
        for before in _prefixes(DIALECTS[name], state)
        if dialect in (None, name) and prefix in (None, before)
    ]
    if not candidates and dialect:
        own = [(prefix or "") + name for name in DIALECTS[dialect].signature]
        if state.keys().isdisjoint(own):
            raise UserError(f"no {dialect} network: no {' or '.join(own)}")
        return _Found(dialect, prefix or "")  # the caller names what is missing
    if not candidates:
        names = ", ".join(sorted(state)[:4])
        raise UserError(
            f"no known network has tensors {names}, ...; known naming schemes: "
            f"{', '.join(DIALECTS)}"
        )
    trained = [found for found in candidates if found[1].endswith(_TRAINED)]
    candidates = trained or candidates
    prefixes = {before for _, before in candidates}
    if len(prefixes) > 1:
        which = ", ".join(f"{before!r} ({name})" for name, before in candidates)
        raise UserError(f"several networks here: {which}; choose one by its prefix")
    before = prefixes.pop()
    sure = [name for name, _ in candidates if before.endswith(DIALECTS[name].prefixes)]
    if dialect or sure:
        return _Found(dialect or sure[0], before)
    likely = [name for name, _ in candidates if not DIALECTS[name].prefixes]
    others = (name for name, _ in candidates if name != likely[0])
    return _Found(likely[0], before, tuple(others))


def _prefixes(dialect: Dialect, state: StateDict) -> list[str]:
    """Returns what stands before the names of this dialect's networks in `state`."""
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
    """Gives back, in `state`, every BatchNorm that was folded into a convolution.

    Such a convolution has a bias that it has not in the dialect, or that stays with it,
    and nothing behind it. The BatchNorm that takes its place adds that bias.
    """
    for path, shape in shapes.items():
        module = "/".join(path[1:-1])
        norms = [
            match.expand(norm)
            for pattern, norm in dialect.norms
            if (match := re.fullmatch(pattern, module)) and path[-1] == "kernel"
        ]
        if not norms:
            continue
        bias = _torch_name((*path[:-1], "bias"), dialect)
        scale = _torch_name((path[0], *norms[0].split("/"), "scale"), dialect)
        norm = scale.removesuffix(".weight")
        if bias not in state or any(name.startswith(f"{norm}.") for name in state):
            continue
        ones, zeros = np.ones(shape[-1:], np.float32), np.zeros(shape[-1:], np.float32)
        keeps_bias = (*path[:-1], "bias") in shapes
        state[scale] = ones
        state[f"{norm}.bias"] = zeros if keeps_bias else state.pop(bias)
        state[f"{norm}.running_mean"] = zeros
        state[f"{norm}.running_var"] = ones - np.float32(epsilon)


def _torch_name(path: Path, dialect: Dialect) -> str:
    module, leaf = "/".join(path[1:-1]), _LEAVES.get(path[-1], path[-1])
    for pattern, name in dialect.names:
        if match := re.fullmatch(pattern, module):
            return f"{match.expand(name)}.{leaf}"
        if match := re.fullmatch(pattern, f"{module}/{leaf}"):
            return match.expand(name)
    raise AssertionError(f"no name for {module}/{leaf}")


def _layout(path: Path, rank: int, dialect: Dialect) -> str:
    for pattern, layout in dialect.layouts:
        if re.fullmatch(pattern, "/".join(path[1:])):
            return layout
    if path[-1] == "kernel":
        return {2: "dense", 4: "convolution"}[rank]
    return "vector"


def _leaf(
    array: np.ndarray, layout: str, grid: Grid, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns the array as the model has it; ValueError says what is wrong with it."""
    try:
        leaf = from_torch(array, layout, grid)
    except einops.EinopsError:
        leaf = None
    if leaf is not None and len(shape) == 1 and array.shape[1:] == (1, 1):
        leaf = leaf.reshape(len(leaf))  # as ONNX has the slopes of PReLU
    if leaf is None or leaf.shape != shape:
        expected = to_torch(np.broadcast_to(np.float32(0), shape), layout, grid).shape
        raise ValueError(f"has shape {array.shape}, not {expected}")
    if leaf.dtype != np.float32:
        if leaf.dtype.kind in "biuc":
            raise ValueError(f"is {leaf.dtype}, not a floating-point tensor")
        leaf = leaf.astype(np.float32)
    if not np.isfinite(leaf).all():
        raise ValueError("has numbers that are not finite")
    return leaf
