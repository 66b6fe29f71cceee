"""What real and fake images cost a discriminator and a generator: logits to losses.

Per example. A logit is positive where the discriminator takes an image for real.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def real_cross_entropy(logits: Array, *, target: float = 1.0) -> Array:
    """Returns the discriminator's loss on real images; a target below 1 smooths."""
    return jax.nn.softplus(logits) - target * logits


def fake_cross_entropy(logits: Array) -> Array:
    """Returns the discriminator's loss on fakes, -log(1 - sigmoid)."""
    return jax.nn.softplus(logits)


def fooled_cross_entropy(logits: Array) -> Array:
    """Returns the generator's loss, -log(sigmoid): non-saturating (Goodfellow 2014)."""
    return jax.nn.softplus(-logits)


def real_hinge(logits: Array, *, target: float = 1.0) -> Array:
    """Returns max(0, target - logit) (Lim and Ye, Geometric GAN, 2017)."""
    return jax.nn.relu(target - logits)


def fake_hinge(logits: Array) -> Array:
    """Returns max(0, 1 + logit)."""
    return jax.nn.relu(1 + logits)


def fooled_hinge(logits: Array) -> Array:
    """Returns -logit, the generator's part of the hinge."""
    return -logits


# name -> losses on real images, on fakes, and the generator's.
GAN_LOSSES: dict[str, tuple[Callable[..., Array], ...]] = {
    "cross_entropy": (real_cross_entropy, fake_cross_entropy, fooled_cross_entropy),
    "hinge": (real_hinge, fake_hinge, fooled_hinge),
}


def r1(score: Callable[[Array], Array], images: Array) -> Array:
    """Returns |d score / d image|^2 [B] at real images (Mescheder et al., ICML 2018).

    Args:
      score: images [B, ...] -> logits [B]. BatchNorm makes an image's logit depend on
        others; the gradient is then that of the sum.
    """
    gradient = jax.grad(lambda images: jnp.sum(score(images)))(images)
    return jnp.sum(jnp.square(gradient), axis=tuple(range(1, images.ndim)))
