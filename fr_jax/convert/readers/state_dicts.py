"""Which of the dicts in a checkpoint is the network's state dict."""

from collections.abc import Mapping
from typing import Any

from fr_jax.convert.readers.refusal import RESAVE, Refusal
from fr_jax.convert.readers.torch_objects import Tensor

_MAX_DEPTH = 8


def state_dicts(found: Any) -> dict[str, dict[str, Tensor]]:
    """Returns every dict of named tensors in a checkpoint, by its place ("" the root).

    Optimizer states are left out: their keys are numbers, or under a name with "optim".
    """
    parts: dict[str, dict[str, Tensor]] = {}
    seen: set[int] = set()
    waiting = [("", found, 0)]
    while waiting:
        place, node, depth = waiting.pop(0)
        if not isinstance(node, dict) or id(node) in seen or depth > _MAX_DEPTH:
            continue
        seen.add(id(node))
        named = {key: value for key, value in node.items() if isinstance(key, str)}
        tensors = {k: value for k, value in named.items() if isinstance(value, Tensor)}
        if tensors:
            parts[place] = tensors
        waiting += [
            (f"{place}.{key}" if place else key, value, depth + 1)
            for key, value in named.items()
            if "optim" not in key.lower() and isinstance(value, dict)
        ]
    return parts


def choose(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the place of the dict with most tensors, the first of several.

    Their number, not their size: a classifier's one matrix may outweigh its network.

    Raises:
      Refusal: where there is none.
    """
    if not parts:
        raise Refusal("holds no tensors by name", remedy=RESAVE)
    return max(parts, key=lambda place: len(parts[place]))
