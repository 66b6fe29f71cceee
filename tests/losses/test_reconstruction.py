"""Losses against ground truth and source images, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.losses import reconstruction


@pytest.fixture
def rng():
    """Each test's own, so that none depends on which ran before it."""
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("l1", np.abs),
        ("l2", np.square),
        (lambda x: 3 * jnp.abs(x), lambda x: 3 * abs(x)),
    ],
    ids=["l1", "l2", "function"],
)
def test_paired_is_the_mean_pixel_loss(rng, loss, expected):
    x = rng.uniform(-1, 1, (2, 3, 3, 1)).astype(np.float32)
    actual = reconstruction.paired(jnp.asarray(x), jnp.asarray(-x), loss)
    np.testing.assert_allclose(actual, expected(2 * x).mean((1, 2, 3)), rtol=1e-6)


def test_unknown_pixel_losses_are_refused():
    with pytest.raises(UserError, match="unknown pixel loss 'l3'"):
        reconstruction.paired(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1)), "l3")


def test_identity_preserving_is_one_less_the_cosine():
    a, b = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[6.0, 8.0], [0.0, 2.0]])
    actual = reconstruction.identity_preserving(a, b)
    np.testing.assert_allclose(actual, [0, 1], atol=1e-6)


def test_perceptual_is_one_for_uninformative_maps(rng):
    truth = [jnp.asarray(rng.normal(size=(5, 4, 4, 3)) * scale) for scale in (1, 50)]
    np.testing.assert_allclose(reconstruction.perceptual(truth, truth), np.zeros(5))
    means = [jnp.broadcast_to(t.mean((0, 1, 2)), t.shape) for t in truth]
    actual = reconstruction.perceptual(means, truth)
    assert actual.mean() == pytest.approx(1, abs=1e-5) and actual.std() > 0
