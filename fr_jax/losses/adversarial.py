"""Adversarial losses of a discriminator and a generator: logits to losses.

Per example. A logit is positive where the discriminator takes an image for real.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import check_names

Array = jax.Array


class AdversarialLoss(NamedTuple):
    """Logits [B] -> loss [B].

    Attributes:
      real: the discriminator's on real images, with a keyword `target`.
      fake: the discriminator's on generated images.
      generator: the generator's on its images.
    """

    real: Callable[..., Array]
    fake: Callable[[Array], Array]
    generator: Callable[[Array], Array]


def real_cross_entropy(logits: Array, *, target: float = 1.0) -> Array:
    """Returns the discriminator's loss on real images; a target below 1 smooths."""
    return jax.nn.softplus(logits) - target * logits


def fake_cross_entropy(logits: Array) -> Array:
    """Returns the discriminator's loss on generated images, -log(1 - sigmoid)."""
    return jax.nn.softplus(logits)


def generator_cross_entropy(logits: Array) -> Array:
    """Returns the generator's loss, -log(sigmoid): non-saturating (Goodfellow 2014)."""
    return jax.nn.softplus(-logits)


def real_hinge(logits: Array, *, target: float = 1.0) -> Array:
    """Returns max(0, target - logit) (Lim and Ye, Geometric GAN, 2017)."""
    return jax.nn.relu(target - logits)


def fake_hinge(logits: Array) -> Array:
    """Returns max(0, 1 + logit)."""
    return jax.nn.relu(1 + logits)


def generator_hinge(logits: Array) -> Array:
    """Returns -logit, the generator's part of the hinge."""
    return -logits


ADVERSARIAL = {
    "cross_entropy": AdversarialLoss(
        real_cross_entropy, fake_cross_entropy, generator_cross_entropy
    ),
    "hinge": AdversarialLoss(real_hinge, fake_hinge, generator_hinge),
}


def adversarial_loss(loss: str | AdversarialLoss) -> AdversarialLoss:
    """Returns the loss of a name, or one of your own; UserError for another name."""
    if isinstance(loss, AdversarialLoss):
        return loss
    check_names("adversarial loss", [loss], ADVERSARIAL)
    return ADVERSARIAL[loss]


def r1(score: Callable[[Array], Array], images: Array) -> Array:
    """Returns |d score / d image|^2 [B] at real images (Mescheder et al., ICML 2018).

    Args:
      score: images [B, ...] -> logits [B]. BatchNorm makes an image's logit depend on
        others; the gradient is then that of the sum.
    """
    gradient = jax.grad(lambda images: jnp.sum(score(images)))(images)
    return jnp.sum(jnp.square(gradient), axis=tuple(range(1, images.ndim)))
