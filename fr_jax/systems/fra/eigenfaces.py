"""Eigenfaces (Turk, Pentland, Cognitive Neuroscience 1991): an embedder in seconds.

The principal components of the pixels of a run's own training images. FRA's smoke
configuration uses it where no face embedder is given; it tells persons apart poorly.
"""

from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError, check_range
from fr_jax.models.preprocess import InputSpec, prepare
from fr_jax.system import Network

ARCHITECTURE = "eigenfaces"
_SPEC = InputSpec(size=32, colour="GREY")
_FITTED = 4000  # images at most, equally spaced
_CHUNK = 256  # images prepared at a time


class Eigenfaces(nn.Module):
    """Images [B, H, W, 1] -> coordinates [B, embedding_size] along components."""

    embedding_size: int

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        del train
        pixels = einops.rearrange(images, "b h w c -> b (h w c)")
        return nn.Dense(self.embedding_size, name="components")(pixels)


models.register(ARCHITECTURE, Eigenfaces)


def fit(images: Any, num_components: int) -> Embedder:
    """Returns the embedder of images uint8 RGB, an array or an object with slices.

    Embeddings have a mean norm of about 1 and are not whitened.

    Raises:
      UserError: for more components than images or pixels.
    """
    step = -(-len(images) // _FITTED)
    stride = step * max(_CHUNK // step, 1)
    parts = [
        np.asarray(prepare(jnp.asarray(images[start : start + stride : step]), _SPEC))
        for start in range(0, len(images), stride)
    ]
    pixels = np.concatenate(parts).astype(np.float64)
    pixels = einops.rearrange(pixels, "n h w c -> n (h w c)")
    check_range("config.data.eigenfaces", num_components, 1, min(pixels.shape))
    mean = pixels.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(pixels - mean, rowvar=False))
    kernel = vectors[:, ::-1][:, :num_components]  # [pixels, components]
    # LAPACK leaves the sign of an eigenvector open.
    kernel = kernel * np.sign(kernel[np.abs(kernel).argmax(0), range(num_components)])
    spread = values[::-1][:num_components].sum()
    if not spread > 0:
        raise UserError("all training images are equal: there are no eigenfaces")
    kernel = kernel / np.sqrt(spread)
    dense = {"kernel": kernel, "bias": -mean @ kernel}
    weights = {name: array.astype(np.float32) for name, array in dense.items()}
    options = {"embedding_size": num_components}
    variables = {"params": {"components": weights}}
    return Embedder(Network(ARCHITECTURE, options, variables, _SPEC))
