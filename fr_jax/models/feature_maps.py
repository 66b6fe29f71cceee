"""Intermediate feature maps of a face embedder."""

from collections import defaultdict
from typing import Any

import flax.linen as nn
from jax import Array

from fr_jax.errors import UserError


def embedding_and_feature_maps(
    network: Any, variables: Any, images: Array
) -> tuple[Array, list[Array]]:
    """Returns the embedding [B, D] and the last map [B, h, w, C] of each resolution.

    Maps are sorted from fine to coarse. They are outputs of the network's layers and
    blocks, or of those in its trunk if only these change the resolution; maps inside a
    block do not count. Networks with `remat` are not supported.

    Args:
      images: [B, H, W, C], preprocessed by the network's InputSpec.

    Raises:
      UserError: for a network without maps of several resolutions.
    """
    last: dict[tuple[str, ...], dict[int, Array]] = defaultdict(dict)

    def record(call, inputs, options, context):
        out, path = call(*inputs, **options), context.module.path
        if path and getattr(out, "ndim", 0) == 4:
            last[path[:-1]][out.shape[1]] = out
        return out

    with nn.intercept_methods(record):
        embedding = network.apply(variables, images)
    for parent in sorted(last, key=len):
        if len(maps := last[parent]) > 1:
            return embedding, [maps[side] for side in sorted(maps, reverse=True)]
    raise UserError(
        f"a {type(network).__name__} has no maps of several resolutions, which "
        "weight 'perceptual' needs; use another --given identity=EMBEDDER"
    )
