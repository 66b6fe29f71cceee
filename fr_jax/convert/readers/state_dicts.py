"""The dicts of tensors in a checkpoint."""

from collections import deque
from typing import Any

from fr_jax.convert.readers.inert import TensorSearch
from fr_jax.convert.readers.refusal import RESAVE, Refusal, shown
from fr_jax.convert.readers.torch_objects import Tensor

_MAX_DEPTH = 8
_MAX_PARTS = 256
_MAX_KEY = 256


def state_dicts(checkpoint: Any) -> dict[str, dict[str, Tensor | Refusal]]:
    """Returns every dict of named tensors in a checkpoint by dotted key ("": the root).

    A Refusal replaces a tensor that depends on a class outside PyTorch. Optimiser
    states are left out: they have numbers as keys or are below a key with "optim" in
    it.

    Raises:
      Refusal: for too many dicts or too long keys.
    """
    parts: dict[str, dict[str, Tensor | Refusal]] = {}
    search = TensorSearch()
    seen: set[int] = set()
    waiting: deque[tuple[Any, tuple[str, ...]]] = deque([(checkpoint, ())])
    while waiting:
        node, keys = waiting.popleft()
        if not isinstance(node, dict) or id(node) in seen or len(keys) > _MAX_DEPTH:
            continue
        seen.add(id(node))
        named = [(key, value) for key, value in node.items() if isinstance(key, str)]
        tensors: dict[str, Tensor | Refusal] = {}
        for key, value in named:
            if isinstance(value, Tensor):
                tensors[key] = value
            elif origin := search.origin(value):
                reason = f"{shown(key)} is a {shown(origin)} with tensors in it"
                tensors[key] = Refusal(reason, remedy=RESAVE)
        if tensors:
            part = ".".join(keys)
            if len(parts) == _MAX_PARTS or part in parts:
                raise Refusal("holds too many dicts of tensors", remedy=RESAVE)
            if len(part) > _MAX_KEY or not part.isprintable():
                raise Refusal(f"a state dict is named {shown(part)}", remedy=RESAVE)
            parts[part] = tensors
        waiting.extend(
            (value, (*keys, key))
            for key, value in named
            if isinstance(value, dict) and "optim" not in key.lower()
        )
    return parts
