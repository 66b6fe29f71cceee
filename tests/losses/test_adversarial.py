"""Adversarial losses and the R1 penalty, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.losses import adversarial
from fr_jax.losses.adversarial import ADVERSARIAL, AdversarialLoss

X = np.array([-3.0, -0.5, 0.2, 40.0])


def expected_losses(kind):
    if kind == "hinge":
        return np.maximum(1 - X, 0), np.maximum(1 + X, 0), -X
    minus_log = np.logaddexp(0, -X)
    return minus_log, np.logaddexp(0, X), minus_log


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_losses_of_real_and_fake_images(kind):
    losses = [function(jnp.asarray(X)) for function in ADVERSARIAL[kind]]
    for actual, expected in zip(losses, expected_losses(kind), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_gradients_are_finite_at_extreme_logits(kind):
    for loss in ADVERSARIAL[kind]:
        slope = jax.grad(lambda x, loss=loss: loss(x).sum())(jnp.array([-1e4, 1e4]))
        assert np.isfinite(slope).all()


def test_a_smooth_target_is_a_mixture_of_both_cross_entropies():
    smooth = adversarial.real_cross_entropy(jnp.asarray(X), target=0.9)
    likelihood = -0.9 * np.logaddexp(0, -X) - 0.1 * np.logaddexp(0, X)
    np.testing.assert_allclose(smooth, -likelihood, rtol=1e-5, atol=1e-6)


def test_a_smooth_target_moves_the_corner_of_the_hinge():
    actual = adversarial.real_hinge(jnp.asarray(X), target=0.9)
    np.testing.assert_allclose(actual, np.maximum(0.9 - X, 0), rtol=1e-6)


def test_losses_by_name_and_custom_losses():
    assert adversarial.adversarial_loss("hinge") is ADVERSARIAL["hinge"]
    own = AdversarialLoss(jnp.square, jnp.square, jnp.square)
    assert adversarial.adversarial_loss(own) is own
    with pytest.raises(UserError, match="adversarial loss 'hing'; did you mean 'hin"):
        adversarial.adversarial_loss("hing")


def test_r1_is_the_squared_gradient_of_the_score():
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(4, 4, 3)))
    images = jnp.asarray(rng.normal(size=(2, 4, 4, 3)))

    def score(images):
        return 0.5 * jnp.sum(weights[None] * images**2, axis=(1, 2, 3))

    expected = (np.asarray(weights)[None] * np.asarray(images)) ** 2
    np.testing.assert_allclose(
        adversarial.r1(score, images), expected.sum((1, 2, 3)), rtol=1e-5
    )
