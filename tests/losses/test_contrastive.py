"""MarginNCE against its formula, InfoNCE and the gradient of softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fr_jax.losses.contrastive import margin_logits, margin_nce, rank

RNG = np.random.default_rng(0)
POSITIVE = RNG.uniform(-1, 1, 6).astype(np.float32)
NEGATIVES = RNG.uniform(-1, 1, (6, 9)).astype(np.float32)


def loss(positive, negatives, **options):
    return margin_nce(*margin_logits(positive, negatives, **options))


@pytest.mark.parametrize(("margin", "temperature"), [(0.1, 0.07), (0.5, 1.0)])
def test_values_match_the_formula(margin, temperature):
    own = np.exp((POSITIVE.astype(float) - margin) / temperature)
    others = np.exp(NEGATIVES.astype(float) / temperature).sum(1)
    expected = -np.log(own / (own + others))
    actual = loss(POSITIVE, NEGATIVES, margin=margin, temperature=temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_without_a_margin_it_is_infonce_and_a_margin_makes_it_harder():
    logits = jnp.concatenate([POSITIVE[:, None], NEGATIVES], axis=1) / 0.07
    labels = jnp.zeros(6, int)
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    actual = loss(POSITIVE, NEGATIVES, margin=0.0)
    np.testing.assert_allclose(actual, plain, rtol=1e-5)
    assert (loss(POSITIVE, NEGATIVES) > actual).all()


def test_masked_negatives_equal_absent_negatives():
    valid = RNG.uniform(size=NEGATIVES.shape) < 0.5
    actual = loss(POSITIVE, NEGATIVES, valid=valid)
    for row, kept in enumerate(valid):
        some = NEGATIVES[row : row + 1, kept]
        alone = loss(POSITIVE[row : row + 1], some)
        np.testing.assert_allclose(actual[row], alone[0], rtol=1e-5, atol=1e-7)

    def total(negatives):
        return jnp.sum(loss(POSITIVE, negatives, valid=valid))

    gradient = jax.grad(total)(NEGATIVES)
    assert (np.asarray(gradient)[~valid] == 0).all()
    assert (np.asarray(gradient)[valid] > 0).all()


def test_gradients_are_those_of_a_softmax():
    """d/ds_i = p_i / T and d/ds+ = -(1 - p+) / T."""

    def total(positive, negatives):
        return jnp.sum(loss(positive, negatives))

    to_positive, to_negatives = jax.grad(total, (0, 1))(POSITIVE, NEGATIVES)
    logits = np.concatenate([POSITIVE[:, None] - 0.1, NEGATIVES], 1) / 0.07
    share = np.exp(logits.astype(float))
    share /= share.sum(1, keepdims=True)
    np.testing.assert_allclose(to_negatives, share[:, 1:] / 0.07, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        to_positive, (share[:, 0] - 1) / 0.07, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("positive", [-1.0, 1.0])
@pytest.mark.parametrize("negative", [-1.0, 1.0])
@pytest.mark.parametrize("valid", [True, False])
def test_extremes_are_finite(positive, negative, valid):
    def total(positive, negatives):
        mask = jnp.full((2, 4), valid)
        return jnp.sum(loss(positive, negatives, temperature=0.01, valid=mask))

    value, gradients = jax.value_and_grad(total, (0, 1))(
        jnp.full(2, positive), jnp.full((2, 4), negative)
    )
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    if not valid:
        assert value == 0


def test_rank_counts_the_negatives_above():
    logits = margin_logits(
        jnp.array([0.5, 0.5, -1.0]),
        jnp.array([[0.45, 0.3, 0.2], [0.9, 0.8, 0.7], [0.0, 0.0, 0.0]]),
        valid=jnp.array([[True] * 3, [True, False, True], [False] * 3]),
    )
    assert rank(*logits).tolist() == [1, 2, 0]  # 0.45 is above 0.5 - margin
