"""The projection head of contrastive learning, used in training only."""

import flax.linen as nn
from jax import Array

from fr_jax.models import layers


class Projection(nn.Module):
    """Embeddings [B, D] -> [B, features]: Dense, ReLU, Dense (MoCo v2, Chen 2020).

    Attributes:
      hidden: width of the hidden layer; 0: that of the embedding.
    """

    features: int = 128
    hidden: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(layers.Dense(self.hidden or x.shape[-1], name="hidden")(x))
        return layers.Dense(self.features, name="out")(x)
