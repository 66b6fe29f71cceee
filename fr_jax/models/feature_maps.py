"""What a recogniser sees on the way to an embedding."""

from collections import defaultdict
from typing import Any

import flax.linen as nn
import jax

from fr_jax.errors import UserError

Array = jax.Array


def embedding_and_feature_maps(
    network: Any, variables: Any, images: Array
) -> tuple[Array, list[Array]]:
    """Returns the embedding [B, D] and the last map [B, h, w, C] of each resolution.

    From the finest to the coarsest, as modules put them out: of the network's own
    layers and blocks, or of those of a trunk, if it is there that resolutions change.
    What lies within a block does not count. Not for networks with `remat`, whose blocks
    cannot be looked into.

    Args:
      images: [B, H, W, C], as the network's InputSpec wants them.

    Raises:
      UserError: for a network without maps of several resolutions.
    """
    last: dict[tuple[str, ...], dict[int, Array]] = defaultdict(dict)

    def watch(call, inputs, options, context):
        out, path = call(*inputs, **options), context.module.path
        if path and getattr(out, "ndim", 0) == 4:
            last[path[:-1]][out.shape[1]] = out
        return out

    with nn.intercept_methods(watch):
        embedding = network.apply(variables, images)
    for parent in sorted(last, key=len):
        if len(maps := last[parent]) > 1:
            return embedding, [maps[side] for side in sorted(maps, reverse=True)]
    raise UserError(
        f"a {type(network).__name__} shows no maps of several resolutions, which "
        "weight 'perceptual' compares: give another --given identity=EMBEDDER"
    )
