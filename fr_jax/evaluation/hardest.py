"""Thumbnails of the hardest pairs of a set."""

from typing import Any

import numpy as np
from PIL import Image

from fr_jax.report.runs import Array, Hardest


def hardest(
    images: Any,
    pairs: Array,
    scores: Array,
    same: Array,
    *,
    count: int = 8,
    side: int = 96,
) -> Hardest:
    """Returns thumbnails of the hardest `count` genuine and `count` impostor pairs.

    Fewer if there are fewer. Of equal scores, the first pair. Images that are not
    square are padded with grey.

    Args:
      images: images[n] is uint8 RGB [H, W, 3].
      side: of a thumbnail in pixels; larger images are downsampled.
    """
    genuine, impostors = np.flatnonzero(same), np.flatnonzero(~np.asarray(same, bool))
    scores = np.asarray(scores)
    genuine = genuine[np.argsort(scores[genuine], kind="stable")[:count]]
    order = np.argsort(-scores[impostors], kind="stable")
    rows = np.concatenate([genuine, impostors[order[:count]]])
    shown = np.empty((len(rows), 2, side, side, 3), np.uint8)
    for number, row in enumerate(rows):
        for position in (0, 1):
            image = np.asarray(images[int(pairs[row, position])])
            shown[number, position] = _thumbnail(image, side)
    return Hardest(rows, shown)


def _thumbnail(image: Array, side: int) -> Array:
    picture = Image.fromarray(np.ascontiguousarray(image[..., :3], np.uint8))
    scale = side / max(picture.size)
    size = [max(1, round(scale * length)) for length in picture.size]
    picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(square)
