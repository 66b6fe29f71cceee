"""Adversarial losses of a discriminator and a generator, and the R1 penalty.

Per example: logits [B] -> losses [B]. A positive logit classifies an image as real.
Cross-entropy: Goodfellow et al., Generative Adversarial Networks (NeurIPS 2014, arXiv
1406.2661), with the non-saturating loss of the generator. Hinge: Lim and Ye, Geometric
GAN (2017, arXiv 1705.02894). R1: Mescheder, Geiger, Nowozin, Which Training Methods for
GANs do actually Converge? (ICML 2018, arXiv 1801.04406).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fr_jax.errors import named

Array = jax.Array


class AdversarialLoss(NamedTuple):
    """Three losses, logits [B] -> loss [B].

    Attributes:
      real: of the discriminator on real images, with a keyword `target`.
      fake: of the discriminator on generated images.
      generator: of the generator on generated images.
    """

    real: Callable[..., Array]
    fake: Callable[[Array], Array]
    generator: Callable[[Array], Array]


def real_cross_entropy(logits: Array, *, target: float = 1.0) -> Array:
    """Returns the discriminator's cross-entropy [B] on real images.

    -t log(D) - (1 - t) log(1 - D), with D = sigmoid(logit) and t the `target`; a target
    below 1 is label smoothing.

    >>> print(real_cross_entropy(jnp.array([0.0, 2.0])))
    [0.6931 0.1269]
    """
    return jax.nn.softplus(logits) - target * logits


def fake_cross_entropy(logits: Array) -> Array:
    """Returns the discriminator's cross-entropy [B] on fakes, -log(1 - sigmoid(logit)).

    >>> print(fake_cross_entropy(jnp.array([0.0, 2.0])))
    [0.6931 2.1269]
    """
    return jax.nn.softplus(logits)


def generator_cross_entropy(logits: Array) -> Array:
    """Returns the generator's non-saturating loss [B], -log(sigmoid(logit)).

    Goodfellow et al. (2014, arXiv 1406.2661), section 3.

    >>> print(generator_cross_entropy(jnp.array([0.0, 2.0])))
    [0.6931 0.1269]
    """
    return jax.nn.softplus(-logits)


def real_hinge(logits: Array, *, target: float = 1.0) -> Array:
    """Returns the discriminator's hinge loss [B] on reals, max(0, target - logit).

    Lim and Ye (2017, arXiv 1705.02894).

    >>> print(real_hinge(jnp.array([0.0, 2.0])))
    [1. 0.]
    """
    return jax.nn.relu(target - logits)


def fake_hinge(logits: Array) -> Array:
    """Returns the discriminator's hinge loss [B] on fakes, max(0, 1 + logit).

    Lim and Ye (2017, arXiv 1705.02894).

    >>> print(fake_hinge(jnp.array([0.0, 2.0])))
    [1. 3.]
    """
    return jax.nn.relu(1 + logits)


def generator_hinge(logits: Array) -> Array:
    """Returns the generator's loss [B] against a hinge discriminator, -logit.

    Lim and Ye (2017, arXiv 1705.02894).

    >>> print(generator_hinge(jnp.array([0.5, 2.0])))
    [-0.5 -2. ]
    """
    return -logits


ADVERSARIAL = {
    "cross_entropy": AdversarialLoss(
        real_cross_entropy, fake_cross_entropy, generator_cross_entropy
    ),
    "hinge": AdversarialLoss(real_hinge, fake_hinge, generator_hinge),
}


def adversarial_loss(loss: str | AdversarialLoss) -> AdversarialLoss:
    """Returns the AdversarialLoss of a name in `ADVERSARIAL`, or the one given.

    Raises UserError for an unknown name.

    >>> adversarial_loss("hinge").fake is fake_hinge
    True
    """
    return named("adversarial loss", loss, ADVERSARIAL)


def r1(score: Callable[[Array], Array], images: Array) -> Array:
    """Returns the squared gradient norm |d score / d image|^2 [B] at real images.

    Mescheder et al. (ICML 2018, arXiv 1801.04406): R1 is gamma / 2 times its mean.

    Args:
      score: images [B, ...] -> logits [B]. With BatchNorm a logit depends on all
        images; the gradient is then that of the sum of logits.

    >>> print(r1(lambda images: jnp.sum(images**2, axis=1), jnp.array([[1.0, 2.0]])))
    [20.]
    """
    gradient = jax.grad(lambda images: jnp.sum(score(images)))(images)
    return jnp.sum(jnp.square(gradient), axis=tuple(range(1, images.ndim)))
