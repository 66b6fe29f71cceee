"""Losses of triplets: NumPy, eps, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.losses.triplet import (
    LOSSES,
    distance,
    siamese,
    squared_triplet,
    sym_triplet,
    triplet_margin,
)


def embeddings(count=3, rows=6, size=16):
    return np.random.default_rng(0).normal(size=(count, rows, size)).astype(np.float32)


def expected(anchor, positive, negative, margin):
    a, p, n = (np.asarray(x, np.float64) for x in (anchor, positive, negative))
    near, far = (np.sqrt(((a - other + 1e-6) ** 2).sum(1)) for other in (p, n))
    return np.maximum(near - far + margin, 0)


@pytest.mark.parametrize("margin", [0.0, 0.5, 10.0])
def test_it_matches_numpy(margin):
    a, p, n = embeddings()
    actual = triplet_margin(*map(jnp.asarray, (a, p, n)), margin=margin)
    assert actual.shape == (6,) and actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected(a, p, n, margin), rtol=1e-5, atol=1e-6)
    if margin < 10:
        assert (actual == 0).any() and (actual > 0).any()


def test_eps_is_inside_the_norm():
    """PyTorch adds 1e-6 to every coordinate: 2.2627e-5 between equal vectors of 512."""
    zero = jnp.zeros((1, 512))
    at_eps = zero + 1e-6  # its difference from zero and eps cancel
    np.testing.assert_allclose(distance(zero, zero), [2.2627417e-5], rtol=1e-5)
    assert distance(zero, at_eps) < 1e-11
    np.testing.assert_allclose(distance(at_eps, zero), [2 * 2.2627417e-5], rtol=1e-5)
    loss = triplet_margin(zero, zero, at_eps, margin=0.0)
    np.testing.assert_allclose(loss, [2.2627417e-5], rtol=1e-5)


def test_gradients_are_those_of_the_distances_and_finite_for_equal_vectors():
    a, p, n = map(jnp.asarray, embeddings())

    def total(a, p, n, margin):
        return jnp.sum(triplet_margin(a, p, n, margin=margin))

    gradient = jax.grad(total, (0, 1, 2))(a, p, n, 10.0)
    near, far = a - p + 1e-6, a - n + 1e-6
    near, far = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (near, far))
    for actual, value in zip(gradient, (near - far, -near, far)):
        np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-6)
    for point in (p, p - 1e-6):
        for gradient in jax.grad(total, (0, 1, 2))(point, p, point, 1.0):
            assert np.isfinite(gradient).all()
    far_away = p + 100.0
    for gradient in jax.grad(total, (0, 1, 2))(p, p, far_away, 1.0):
        assert (gradient == 0).all()  # inactive


def squares(a, p, n):
    a, p, n = (np.asarray(x, np.float64) for x in (a, p, n))
    return (((x - y) ** 2).sum(1) for x, y in ((a, p), (a, n), (p, n)))


def sym(a, p, n, margin):
    ap, an, pn = squares(a, p, n)
    return np.maximum(ap - (an + pn) / 2 + margin, 0) / 2


def squared(a, p, n, margin):
    ap, an, _ = squares(a, p, n)
    return np.maximum(ap - an + margin, 0)


def pairs(a, p, n, margin):
    ap, an, _ = squares(a, p, n)
    return ap / 2 + np.maximum(margin - np.sqrt(an), 0) ** 2 / 2


@pytest.mark.parametrize(
    ("loss", "reference", "margin"),
    [(sym_triplet, sym, 1.0), (squared_triplet, squared, 0.2), (siamese, pairs, 5.0)],
)
def test_losses_of_squared_distances_match_numpy(loss, reference, margin):
    a, p, n = embeddings()
    actual = loss(*map(jnp.asarray, (a, p, n)), margin=margin)
    assert actual.shape == (6,) and actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, reference(a, p, n, margin), rtol=1e-5)
    assert LOSSES[loss.__name__] is loss


def test_gradients_of_sym_triplet_are_the_published_ones():
    """Of the mean over N: (a - p) - (a - n) / 2 over N, and so on, where active."""
    a, p, n = map(jnp.asarray, embeddings())
    n = (p + 0.5 * n).at[0].add(100.0)  # the first is inactive

    def mean(a, p, n):
        return jnp.mean(sym_triplet(a, p, n))

    found = jax.grad(mean, (0, 1, 2))(a, p, n)
    active = np.asarray(sym_triplet(a, p, n) > 0)[:, None]
    assert not active[0] and active.sum() >= 2
    expected = (
        (a - p) - (a - n) / 2,
        -((a - p) + (p - n) / 2),
        ((a - n) + (p - n)) / 2,
    )
    for actual, value in zip(found, expected):
        value = np.where(active, value, 0) / len(a)
        np.testing.assert_allclose(actual, value, atol=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_equal_embeddings_have_finite_gradients(name):
    same = jnp.ones((2, 3))

    def total(a, p, n):
        return jnp.sum(LOSSES[name](a, p, n))

    for gradient in jax.grad(total, (0, 1, 2))(same, same, same):
        assert np.isfinite(gradient).all()
