"""Wing loss against the paper's formula, its gradient, and its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.losses.landmarks import wing


@pytest.mark.parametrize(("width", "curvature"), [(10.0, 2.0), (5.0, 0.5)])
def test_values_are_those_of_equation_5(width, curvature):
    x = np.random.default_rng(0).normal(0, 2 * width, (4, 68, 2))
    size = np.abs(x)
    constant = width - width * np.log(1 + width / curvature)
    inner = width * np.log(1 + size / curvature)
    expected = np.where(size < width, inner, size - constant).mean(axis=(1, 2))
    actual = wing(jnp.asarray(x, jnp.float32), width=width, curvature=curvature)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_it_is_continuous_and_its_gradient_finite():
    edge = jnp.array([[9.9999], [10.0001]])
    below, above = wing(edge)
    assert above - below == pytest.approx(2e-4, rel=0.9)
    points = jnp.array([[0.0], [1e-9], [1e8], [-1e8], [3.0]])
    slopes = np.asarray(jax.grad(lambda x: jnp.sum(wing(x)))(points))[:, 0]
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[1:], [5, 1, -1, 2], rtol=1e-5)


@pytest.mark.parametrize("name", ["width", "curvature"])
def test_options_are_positive(name):
    with pytest.raises(UserError, match=f"{name} of the wing loss is 0"):
        wing(jnp.zeros((1, 2)), **{name: 0.0})
