"""The Inter-Prototype loss: both forms, its bounds and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.losses.inter_prototype import gram_form, inter_prototype, pairwise_form


@pytest.mark.parametrize("rows", [2, 5, 64, 200])
def test_both_forms_agree_with_the_definition(rows):
    vectors = np.random.default_rng(rows).normal(size=(rows, 32))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.mean((unit @ unit.T - np.eye(rows)) ** 2)
    for form in (pairwise_form, gram_form, inter_prototype):
        assert float(form(jnp.array(vectors))) == pytest.approx(expected, abs=1e-6)


def test_orthogonal_prototypes_cost_nothing_and_equal_ones_most():
    assert float(inter_prototype(5 * jnp.eye(6))) == pytest.approx(0, abs=1e-7)
    equal = jnp.ones((6, 4))
    assert float(inter_prototype(equal)) == pytest.approx(30 / 36, abs=1e-6)


def test_random_prototypes_start_at_the_expected_value():
    rows = jax.random.normal(jax.random.key(0), (1500, 512))
    assert float(inter_prototype(rows)) == pytest.approx(1.948e-3, rel=0.01)


@pytest.mark.parametrize("form", [pairwise_form, gram_form])
def test_the_gradient_separates_two_prototypes(form):
    rows = jnp.array([[1.0, 0.0], [0.8, 0.6]])
    moved = rows - 0.5 * jax.grad(form)(rows)
    before, after = (
        r[0] @ r[1] / np.prod(np.linalg.norm(r, axis=1)) for r in (rows, moved)
    )
    assert after < before
