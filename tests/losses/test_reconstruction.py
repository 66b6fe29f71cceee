"""Losses against ground truth and source images, against NumPy."""

import jax
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


# --- cross-entropies ------------------------------------------------------------------


def column(values):
    """Returns one map for each value, [R, 1, 1, 1]."""
    return jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)


def gradient(loss, logits, maps):
    def total(x):
        return jnp.sum(loss(x, column(maps)))

    return np.ravel(jax.grad(total)(column(logits)))


def test_cross_entropies_are_the_mean_over_pixels(rng):
    logits = rng.normal(0, 3, (4, 5, 6, 1)).astype(np.float32)
    maps = (rng.uniform(size=logits.shape) > 0.5).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -np.mean(maps * np.log(p) + (1 - maps) * np.log(1 - p), axis=(1, 2, 3))
    for loss in reconstruction.CROSS_ENTROPIES.values():
        actual = loss(jnp.asarray(logits), jnp.asarray(maps))
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        slope = jax.grad(lambda x, loss=loss: jnp.sum(loss(x, maps)))(logits)
        np.testing.assert_allclose(slope, (p - maps) / 30, rtol=1e-3, atol=1e-7)


def test_cross_entropy_of_extreme_logits_keeps_its_gradient():
    logits, maps = [-200.0, -70.0, 200.0, 200.0], [1, 1, 0, 1]
    actual = reconstruction.cross_entropy(column(logits), column(maps))
    np.testing.assert_allclose(actual, [200, 70, 200, 0])
    slopes = gradient(reconstruction.cross_entropy, logits, maps)
    np.testing.assert_allclose(slopes, [-1, -1, 1, 0], atol=1e-6)


def test_clamped_cross_entropy_has_the_clamps_of_pytorch():
    """Logarithms at least -100; the gradient (p - t) / max(p (1 - p), 1e-12) dp/dx."""
    logits = np.array([-200, -70, -40, -28, -20, 5, 30, 200], np.float32)
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    clamped = reconstruction.clamped_cross_entropy
    actual = clamped(column(logits), column(ones))
    np.testing.assert_allclose(
        actual, [100, 70, 40, 28, 20, 0.0067153, 0, 0], rtol=1e-4, atol=1e-6
    )
    # In float32 the probability of logits above 17 is 1, and log(0) is -100.
    actual = clamped(column(logits), column(zeros))
    np.testing.assert_allclose(
        actual, [0, 0, 0, 0, 0, 5.0067153, 100, 100], rtol=1e-4, atol=1e-6
    )
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    p[-2:] = 1
    for maps in (ones, zeros):
        expected = (p - maps) / np.maximum(p * (1 - p), 1e-12) * p * (1 - p)
        slopes = gradient(clamped, logits, maps)
        np.testing.assert_allclose(slopes, expected, rtol=1e-3, atol=1e-12)
    # The gradient vanishes where it should be -1.
    slopes = gradient(clamped, logits, ones)
    np.testing.assert_allclose(slopes[:4], [0, 0, 0, -0.69], atol=0.01)
    assert slopes[4] == pytest.approx(-1, rel=1e-4)
