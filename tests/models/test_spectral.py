"""Spectral normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.models import spectral


def test_largest_singular_value_becomes_one():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4, 8)), jnp.float32)
    params = {"conv": {"kernel": kernel}, "bn": {"scale": jnp.full(8, 7.0)}}
    vectors = spectral.vectors(jax.random.key(0), params)
    assert list(vectors) == ["conv/kernel"]
    for _ in range(60):
        normal, vectors = spectral.normalise(params, vectors)
    norm = np.linalg.norm(np.asarray(normal["conv"]["kernel"]).reshape(-1, 8), 2)
    assert norm == pytest.approx(1, rel=1e-3)
    np.testing.assert_array_equal(normal["bn"]["scale"], params["bn"]["scale"])

    def squared_norm(kernel):
        normal, _ = spectral.normalise({"conv": {"kernel": kernel}}, vectors)
        return jnp.sum(jnp.square(normal["conv"]["kernel"]))

    # The output does not depend on the scale: no gradient along the kernel.
    assert abs(float(jnp.sum(jax.grad(squared_norm)(kernel) * kernel))) < 1e-3
