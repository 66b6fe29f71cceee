"""Margin heads against golden numbers, float64 formulas and their own invariances."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.losses import margin

ROWS = jnp.array([[0.8, 0.6, 0, 0], [-0.96, 0.28, 0, 0], [0.5, 0.5, 0.5, 0.5]])
LABELS = jnp.array([0, 0, 3])
COSINES = margin.cosine_matrix(ROWS, jnp.eye(4))

# Values of the published implementations; fr_base, section 5.9.
GOLDEN = {
    "arcface": (
        lambda c, y: margin.arcface(c, y),
        [[26.5223, 38.4, 0, 0], [-76.7816, 17.92, 0, 0], [32, 32, 32, 1.5102]],
    ),
    "arcface_torch": (
        lambda c, y: margin.arcface(
            c, y, beyond_pi="wrap", gradient="straight_through"
        ),
        [[26.5223, 38.4, 0, 0], [-62.51, 17.92, 0, 0], [32, 32, 32, 1.5102]],
    ),
    "arcface of AdaFace": (
        lambda c, y: margin.arcface(c, y, beyond_pi="clip"),
        [[26.5223, 38.4, 0, 0], [-64.0, 17.92, 0, 0], [32, 32, 32, 1.5102]],
    ),
    "cosface": (
        lambda c, y: margin.cosface(c, y, margin=0.4),
        [[25.6, 38.4, 0, 0], [-87.04, 17.92, 0, 0], [32, 32, 32, 6.4]],
    ),
    "combined, filtered": (
        lambda c, y: margin.combined(c, y, filter_above=0.4),
        [[26.5223, 0, 0, 0], [-62.51, 17.92, 0, 0], [0, 0, 0, 1.5102]],
    ),
    "curricularface": (
        lambda c, y: margin.curricularface(c, y, jnp.float32(0))[0],
        [
            [26.5223, 23.0835, 0, 0],
            [-76.7816, 5.0379, 0, 0],
            [16.0363, 16.0363, 16.0363, 1.5102],
        ],
    ),
    "adaface": (
        lambda c, y: margin.adaface(
            c, y, jnp.array([10.0, 20.0, 30.0]), margin.NormStatistics()
        )[0],
        [[25.9395, 38.4, 0, 0], [-87.04, 17.92, 0, 0], [32, 32, 32, 6.2818]],
    ),
    "magface": (
        lambda c, y: margin.magface(c, y, jnp.array([5.0, 50.0, 150.0])),
        [[29.4002, 38.4, 0, 0], [-61.44, 17.92, 0, 0], [32, 32, 32, -17.4653]],
    ),
    "mv_softmax": (
        lambda c, y: margin.mv_softmax(c, y),
        [[14.4, 25.344, 0, 0], [-30.72, 13.8752, 3.84, 3.84], [21.76] * 3 + [4.8]],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_of_the_published_code(name):
    head, expected = GOLDEN[name]
    np.testing.assert_allclose(head(COSINES, LABELS), expected, atol=1e-3)


def test_golden_losses_and_running_averages():
    arc = margin.cross_entropy(margin.arcface(COSINES, LABELS), LABELS)
    assert float(arc.mean()) == pytest.approx(46.05592, abs=1e-3)
    norms = jnp.array([5.0, 50.0, 150.0])
    mag = margin.cross_entropy(margin.magface(COSINES, LABELS, norms), LABELS)
    assert float(mag.mean()) == pytest.approx(46.30794, abs=1e-3)
    penalty = margin.magface_penalty(norms).mean()
    assert float(penalty) == pytest.approx(0.04771350, abs=1e-7)
    _, average = margin.curricularface(COSINES, LABELS, jnp.float32(0))
    assert float(average) == pytest.approx(0.0011333, abs=1e-6)
    statistics = margin.adaface(
        COSINES, LABELS, jnp.array([10.0, 20.0, 30.0]), margin.NormStatistics()
    )[1]
    assert float(statistics.mean) == pytest.approx(20)
    assert float(statistics.std) == pytest.approx(99.1)


def random_problem(rows=16, classes=11, seed=0):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(rows, 5))
    prototypes = rng.normal(size=(classes, 5))
    return embeddings, prototypes, rng.integers(0, classes, rows)


def test_cross_entropy_and_cosines_against_float64():
    embeddings, prototypes, labels = random_problem()
    e = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    p = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
    logits = 64 * (e @ p.T)
    logits[np.arange(16), labels] -= 64 * 0.35
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(16), labels]
    cosines = margin.cosine_matrix(jnp.array(embeddings), jnp.array(prototypes))
    loss = margin.cross_entropy(margin.cosface(cosines, labels), labels)
    np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=1e-5)


def test_padded_columns_are_excluded_and_have_no_gradient():
    embeddings, prototypes, labels = random_problem()
    padded = np.pad(prototypes, ((0, 5), (0, 0)))

    def loss(prototypes):
        cosines = margin.cosine_matrix(jnp.array(embeddings), prototypes)
        return margin.cross_entropy(margin.arcface(cosines, labels), labels, 11).mean()

    plain, plain_gradient = jax.value_and_grad(loss)(jnp.array(prototypes))
    value, gradient = jax.value_and_grad(loss)(jnp.array(padded))
    assert float(value) == pytest.approx(float(plain), rel=1e-6)
    np.testing.assert_allclose(gradient[:11], plain_gradient, rtol=1e-5, atol=1e-7)
    assert (gradient[11:] == 0).all()


ALL = {
    "arcface": lambda c, y, n: margin.arcface(c, y),
    "arcface wrap": lambda c, y, n: margin.arcface(c, y, beyond_pi="wrap"),
    "arcface clip": lambda c, y, n: margin.arcface(c, y, beyond_pi="clip"),
    "straight through": lambda c, y, n: margin.arcface(
        c, y, gradient="straight_through"
    ),
    "cosface": lambda c, y, n: margin.cosface(c, y),
    "combined": lambda c, y, n: margin.combined(c, y),
    "curricularface": lambda c, y, n: margin.curricularface(c, y, jnp.float32(0.1))[0],
    "magface": lambda c, y, n: margin.magface(c, y, n),
    "adaface": lambda c, y, n: margin.adaface(c, y, n, margin.NormStatistics())[0],
    "mv_softmax": lambda c, y, n: margin.mv_softmax(c, y),
    "mv_arc": lambda c, y, n: margin.mv_softmax(c, y, additive=False),
    "softmax": lambda c, y, n: margin.softmax(c, y),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16])
def test_losses_and_gradients_are_finite_at_the_extremes(name, kind):
    """Zero vectors, equal and opposite prototypes, cos = +-1, huge and tiny lengths."""
    embeddings = jnp.array(
        [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [1e4, 0, 0], [0, 1e-4, 0]], kind
    )
    prototypes = jnp.array([[1, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0]], kind)
    labels = jnp.array([0, 1, 0, 2, 3])

    def loss(embeddings, prototypes):
        cosines = margin.cosine_matrix(embeddings, prototypes)
        logits = ALL[name](cosines, labels, margin.length(embeddings))
        return margin.cross_entropy(logits, labels).sum()

    value, gradients = jax.value_and_grad(loss, (0, 1))(embeddings, prototypes)
    assert np.isfinite(float(value))
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in gradients)


@pytest.mark.parametrize("name", ALL)
def test_a_permuted_batch_gives_permuted_logits(name):
    embeddings, prototypes, labels = random_problem()
    cosines = margin.cosine_matrix(jnp.array(embeddings), jnp.array(prototypes))
    norms = margin.length(jnp.array(embeddings))
    order = np.random.default_rng(1).permutation(16)
    logits = ALL[name](cosines, jnp.array(labels), norms)
    moved = ALL[name](cosines[order], jnp.array(labels)[order], norms[order])
    np.testing.assert_allclose(moved, logits[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "head",
    [
        lambda c, y: margin.arcface(c, y, margin=0.0),
        lambda c, y: margin.cosface(c, y, margin=0.0),
        lambda c, y: margin.combined(c, y, margins=(1.0, 0.0, 0.0)),
        lambda c, y: margin.mv_softmax(c, y, margin=0.0, weight=1.0, scale=64.0),
    ],
)
def test_without_a_margin_every_head_is_softmax(head):
    embeddings, prototypes, labels = random_problem()
    cosines = margin.cosine_matrix(jnp.array(embeddings), jnp.array(prototypes))
    np.testing.assert_allclose(head(cosines, labels), 64 * cosines, atol=2e-3)


def test_cosines_do_not_depend_on_the_norm_of_embeddings_or_prototypes():
    embeddings, prototypes, _ = random_problem()
    plain = margin.cosine_matrix(jnp.array(embeddings), jnp.array(prototypes))
    scaled = margin.cosine_matrix(
        7 * jnp.array(embeddings), 0.01 * jnp.array(prototypes)
    )
    np.testing.assert_allclose(scaled, plain, atol=1e-6)


def test_gradients_of_arcface_are_exact_or_straight_through():
    cosines = jnp.array([[0.3, 0.1], [-0.2, 0.5]])
    labels = jnp.array([0, 1])

    def slope(**options):
        return jax.grad(lambda c: margin.arcface(c, labels, **options).sum())(cosines)

    through = slope(gradient="straight_through", beyond_pi="wrap")
    np.testing.assert_allclose(through, 64.0)
    theta = np.arccos([0.3, 0.5])
    exact = slope()
    np.testing.assert_allclose(
        [exact[0, 0], exact[1, 1]], 64 * np.sin(theta + 0.5) / np.sin(theta), rtol=1e-4
    )


def test_a_label_of_minus_one_has_no_margin():
    labels = jnp.array([-1, -1, -1])
    np.testing.assert_allclose(margin.arcface(COSINES, labels), 64 * COSINES)
    np.testing.assert_allclose(margin.cosface(COSINES, labels), 64 * COSINES)


def test_combined_refuses_what_arcface_torch_does_not_support():
    with pytest.raises(ValueError, match="m1 must be 1"):
        margin.combined(COSINES, LABELS, margins=(1.35, 0.0, 0.0))
    with pytest.raises(ValueError, match="beyond_pi"):
        margin.arcface(COSINES, LABELS, beyond_pi="fold")


def test_magface_penalty_and_margin_fall_and_rise_with_the_norm():
    norms = jnp.linspace(10.0, 110.0, 50)
    assert (np.diff(margin.magface_penalty(norms)) < 0).all()
    target = margin.magface(jnp.full((50, 1), 0.9), jnp.zeros(50, int), norms)[:, 0]
    assert (np.diff(target) < 0).all()


def test_adaface_is_finite_for_a_batch_of_one():
    logits, statistics = margin.adaface(
        COSINES[:1], LABELS[:1], jnp.array([10.0]), margin.NormStatistics()
    )
    assert np.isfinite(logits).all()
    assert np.isfinite(float(statistics.std))


@pytest.mark.parametrize("name", margin.HEADS)
def test_every_head_by_name(name):
    head = margin.make_head(name)
    norms = jnp.array([10.0, 20.0, 30.0])
    memory = jax.tree.map(jnp.asarray, head.memory)
    logits, penalty, after = head.apply(COSINES, LABELS, norms, memory)
    assert logits.shape == COSINES.shape
    assert np.isfinite(penalty)
    assert jax.tree.structure(after) == jax.tree.structure(memory)
    assert (float(penalty) > 0) == (name == "magface")


def test_custom_heads_and_unknown_names():
    head = margin.make_head(
        lambda cosines, labels, factor: factor * cosines, factor=2.0
    )
    np.testing.assert_allclose(
        head.apply(COSINES, LABELS, None, ())[0], 2 * COSINES, rtol=1e-6
    )
    with pytest.raises(ValueError, match="did you mean 'arcface'"):
        margin.make_head("arcfase")
    with pytest.raises(ValueError, match="did you mean 'margin'"):
        margin.make_head("arcface", margn=0.4)
    assert math.isclose(float(margin.unit(jnp.array([3.0, 4.0]))[0]), 0.6, abs_tol=1e-6)
