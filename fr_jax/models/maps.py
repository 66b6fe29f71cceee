"""What a recogniser sees on the way to an embedding."""

from collections import defaultdict
from typing import Any

import flax.linen as nn
import jax

from fr_jax.errors import UserError

Array = jax.Array


def embedding_and_maps(
    network: Any, variables: Any, images: Array
) -> tuple[Array, list[Array]]:
    """Returns the embedding [B, D] and the last map [B, h, w, C] of each resolution.

    From the finest to the coarsest, of the network's own layers and blocks; what lies
    within them counts only where they are not several resolutions, as one trunk.

    Raises:
      UserError: for a network without maps of several resolutions.
    """
    last: dict[int, dict[int, Array]] = defaultdict(dict)  # depth -> side -> map

    def watch(call, inputs, options, context):
        out = call(*inputs, **options)
        if getattr(out, "ndim", 0) == 4:
            last[len(context.module.path)][out.shape[1]] = out
        return out

    with nn.intercept_methods(watch):
        embedding = network.apply(variables, images)
    for depth in sorted(last):
        if len(last[depth]) > 1:
            return embedding, [m for _, m in sorted(last[depth].items(), reverse=True)]
    raise UserError(f"a {type(network).__name__} has no maps of several resolutions")
