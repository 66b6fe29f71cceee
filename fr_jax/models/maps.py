"""What a recogniser sees on the way to an embedding."""

from typing import Any

import flax.linen as nn
import jax

Array = jax.Array


def embedding_and_maps(
    network: Any, variables: Any, images: Array
) -> tuple[Array, list[Array]]:
    """Returns the embedding [B, D] and the last map [B, h, w, C] of each resolution.

    From the finest to the coarsest, of the network's own layers and blocks; whatever
    lies within a block does not count.
    """
    last: dict[int, Array] = {}

    def watch(call, inputs, options, context):
        out = call(*inputs, **options)
        if len(context.module.path) == 1 and getattr(out, "ndim", 0) == 4:
            last[out.shape[1]] = out
        return out

    with nn.intercept_methods(watch):
        embedding = network.apply(variables, images)
    return embedding, [last[side] for side in sorted(last, reverse=True)]
