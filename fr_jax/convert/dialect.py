"""Dialects: the tensor names and layouts by which repositories store one network."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec

StateDict = Mapping[str, np.ndarray]
Grid = tuple[int, int]
Described = tuple[str, dict[str, Any]]  # architecture and options for `models.create`


class Convention(NamedTuple):
    """The colour order of a repository that shares tensor names with others.

    Attributes:
      colour: 'RGB', 'BGR', or the place where the repository states it.
      prefixes: name prefixes by which its files are recognised.
    """

    repository: str
    colour: str
    prefixes: tuple[str, ...] = ()


class Dialect(NamedTuple):
    """Names, layouts and input specification of a repository's state dicts.

    Attributes:
      source: the repositories that write the dialect.
      signature: tensor names that identify the dialect.
      absent: tensor names that exclude it.
      names: (pattern of a Flax path, PyTorch name). The path is of a module,
        'layer1_0/conv1', or of a tensor, 'vit/in_proj/weight'. The first match counts;
        modules come before tensors.
      describe: tensors -> architecture and options for `models.create`. Raises KeyError
        for a missing tensor.
      input_spec: tensors, grid -> InputSpec.
      kind: 'embedding', 'generator', 'discriminator' or 'augmenter'.
      grid: tensors -> height and width of the map before the flattening dense layer.
      layouts: (pattern of a Flax path, key of `layouts.PATTERNS`) of tensors with an
        unusual layout.
      norms: (pattern of a Flax convolution, its BatchNorm), which exporters may fold.
      auxiliary: patterns of tensor names that are not part of the network.
      prefixes: suffixes of prefixes that identify this dialect among those with equal
        tensor names. Without such a prefix it is only used if the user names it.
      unambiguous: tensors -> whether their values exclude dialects with equal names.
      colour_known: whether all networks of the repository use one known colour order.
      conventions: repositories with these names, if their colour orders differ. Without
        a prefix that identifies one, only the user knows the colour order.
      terms: licence of the published weights.
      linear_layers: number of convolutions and linear layers -> architectures, by which
        ONNX graphs are recognised.
    """

    source: str
    signature: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    describe: Callable[[StateDict], Described]
    input_spec: Callable[[StateDict, Grid], InputSpec]
    kind: str = "embedding"
    absent: tuple[str, ...] = ()
    grid: Callable[[StateDict], Grid] = lambda state: (1, 1)
    layouts: tuple[tuple[str, str], ...] = ()
    norms: tuple[tuple[str, str], ...] = ()
    auxiliary: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    unambiguous: Callable[[StateDict], bool] = lambda state: False
    colour_known: bool = True
    conventions: tuple[Convention, ...] = ()
    terms: str = "not stated here; ask the repository"
    linear_layers: Mapping[int, tuple[str, ...]] = {}


def count(pattern: str, state: StateDict) -> int:
    """Returns the number of tensor names that match the pattern."""
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def unit_names(*units: tuple[str, str, str]) -> Iterator[tuple[str, str]]:
    """Yields `Dialect.names` for (Flax unit, PyTorch convolution, its BatchNorm)."""
    for unit, conv, norm in units:
        yield f"{unit}/conv", conv
        yield f"{unit}/bn", norm


def by_blocks(
    family: str, stages: Mapping[int, Any], per_block: int, others: int
) -> dict[int, tuple[str, ...]]:
    """Returns `Dialect.linear_layers` of a family of networks, by depth.

    Args:
      per_block, others: linear layers in a block, and outside of blocks.
    """
    return {
        others + per_block * sum(blocks): (f"{family}{depth}",)
        for depth, blocks in stages.items()
    }


def named_depth(family: str, stages: Mapping[int, Any], blocks: Any) -> str:
    """Returns the family's name and the depth for which `stages` has `blocks`."""
    for depth, sizes in stages.items():
        if sizes == blocks:
            return f"{family}{depth}"
    raise UserError(f"no {family} has {blocks} blocks; use one of {dict(stages)}")


def square_grid(
    dense: str, channels: str, axis: int = 1
) -> Callable[[StateDict], Grid]:
    """Returns a `grid` for a dense layer from or to a flattened square map.

    Args:
      dense: name of the layer's kernel.
      channels: name of a tensor with one row per channel of the map.
      axis: the axis of the kernel that is flattened.

    The returned function raises a UserError for fewer features than channels.
    """

    def grid(state: StateDict) -> Grid:
        length, depth = state[dense].shape[axis], len(state[channels])
        if (side := math.isqrt(length // depth)) == 0:
            raise UserError(f"{dense} has {length} features, fewer than {channels}")
        return side, side

    return grid


def pixels(stride: int = 16, **fields: Any) -> Callable[[StateDict, Grid], InputSpec]:
    """Returns an `input_spec` with `stride` pixels per cell of the last map."""

    def input_spec(state: StateDict, grid: Grid) -> InputSpec:
        del state
        height, width = stride * grid[0], stride * grid[1]
        crop = None if height == width else (height, width)
        return InputSpec(size=max(height, width), crop=crop, **fields)

    return input_spec
