"""What a dialect is: all that tells one repository's weights from another's."""

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


class Dialect(NamedTuple):
    """How a repository names and lays out one kind of network, and what that sees.

    Attributes:
      source: the repository, or those, that write it.
      signature: names that every such network has and that tell it from others.
      absent: names that it does not have.
      names: (pattern of ours, theirs): of a module, 'layer1_0/conv1', to which the
        tensor's own name is added, or of a tensor, 'vit/in_proj/weight'. The first that
        fits holds.
      describe: tensors -> architecture and options for `models.create`. KeyError where
        a tensor it needs is not there.
      input_spec: tensors, grid -> what the network sees.
      kind: 'embedding', 'generator', 'discriminator' or 'landmarks'.
      grid: tensors -> sides of the map before the dense layer that flattens it.
      layouts: (pattern of ours, key of `layouts.PATTERNS`) where a tensor does not lie
        as its kind usually does.
      norms: (pattern of our convolution, our BatchNorm behind it), which exporters fold
        into one.
      beside: patterns of names that may stand beside the network's own.
      prefixes: ends of prefixes that give the dialect away where another one has the
        same names; without one it is not recognised but may be asked for.
      settled: tensors -> whether their values rule out the others with the same names.
      colour_known: the repository's colour order is one and known.
      terms: what is known of the licence of its published weights.
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
    beside: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    settled: Callable[[StateDict], bool] = lambda state: False
    colour_known: bool = True
    terms: str = "not stated here; ask the repository"


def count(pattern: str, state: StateDict) -> int:
    """Returns how many tensors have a name of this pattern."""
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def unit_names(*units: tuple[str, str, str]) -> Iterator[tuple[str, str]]:
    """Yields the `names` of (our unit, their convolution, their BatchNorm) of each."""
    for ours, conv, norm in units:
        yield f"{ours}/conv", conv
        yield f"{ours}/bn", norm


def named_depth(family: str, stages: Mapping[int, Any], found: Any) -> str:
    """Returns the family's name with the depth whose value in `stages` was found."""
    for depth, sizes in stages.items():
        if sizes == found:
            return f"{family}{depth}"
    raise UserError(f"no {family} has {found} blocks; there are {dict(stages)}")


def square_grid(dense: str, channels: str) -> Callable[[StateDict], Grid]:
    """Returns a `grid`: the dense layer `dense` takes a square map.

    `channels` names a tensor of the layer before, as long as the map has channels.
    """

    def grid(state: StateDict) -> Grid:
        side = math.isqrt(state[dense].shape[1] // len(state[channels]))
        return side, side

    return grid


def pixels(stride: int = 16, **fields: Any) -> Callable[[StateDict, Grid], InputSpec]:
    """Returns an `input_spec`: `stride` pixels for each cell of the last map."""

    def input_spec(state: StateDict, grid: Grid) -> InputSpec:
        del state
        height, width = stride * grid[0], stride * grid[1]
        crop = None if height == width else (height, width)
        return InputSpec(size=max(height, width), crop=crop, **fields)

    return input_spec
