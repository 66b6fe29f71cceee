"""Which of the dicts in a checkpoint is the network's state dict."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from fr_jax.convert.readers.refusal import RESAVE, Refusal, shown
from fr_jax.convert.readers.torch_objects import Tensor

_MAX_DEPTH = 8
_MAX_PARTS = 256
_MAX_PLACE = 256


def state_dicts(found: Any) -> dict[str, dict[str, Tensor]]:
    """Returns every dict of named tensors in a checkpoint, by its place ("" the root).

    Optimizer states are left out: their keys are numbers, or under a name with "optim".

    Raises:
      Refusal: for more places, or longer ones, than a checkpoint has.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    seen: set[int] = set()
    waiting: deque[tuple[Any, tuple[str, ...]]] = deque([(found, ())])
    while waiting:
        node, keys = waiting.popleft()
        if not isinstance(node, dict) or id(node) in seen or len(keys) > _MAX_DEPTH:
            continue
        seen.add(id(node))
        named = [(key, value) for key, value in node.items() if isinstance(key, str)]
        tensors = {key: value for key, value in named if isinstance(value, Tensor)}
        if tensors:
            place = ".".join(keys)
            if len(parts) == _MAX_PARTS or place in parts:
                raise Refusal("holds too many dicts of tensors", remedy=RESAVE)
            if len(place) > _MAX_PLACE or not place.isprintable():
                raise Refusal(f"a state dict is named {shown(place)}", remedy=RESAVE)
            parts[place] = tensors
        waiting.extend(
            (value, (*keys, key))
            for key, value in named
            if isinstance(value, dict) and "optim" not in key.lower()
        )
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
