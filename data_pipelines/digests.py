"""Digests of decoded pixels, which show that two sets share an image.

Equal digests prove equal pixels, whatever the file format. Different ones prove
nothing: the image may have been cropped or compressed again.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

NONE = 0  # of an image of one colour, such as a placeholder
_CHUNK = 256  # images decoded together


def digest(image: np.ndarray) -> int:
    """Returns the digest, 64 bits, of uint8 RGB [H, W, 3]; `NONE` for one colour."""
    if not image.size or (image == image[:1, :1]).all():
        return NONE
    hashed = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    hashed.update(image.tobytes())
    return int.from_bytes(hashed.digest(), "little")


def of_images(images: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the digest of each image, uint64 [N]."""
    return np.fromiter((digest(image) for image in images), np.uint64)


def of_slices(images) -> np.ndarray:
    """Returns the digest of each image, uint64 [N], of slices decoded in threads."""
    starts = range(0, len(images), _CHUNK)
    parts = [of_images(images[start : start + _CHUNK]) for start in starts]
    return np.concatenate([np.zeros(0, np.uint64), *parts])
