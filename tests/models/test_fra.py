"""FRA's network: gradients, dropout, dependence on both inputs, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.backend import cpu
from fr_jax.errors import UserError
from tests.support.networks import random_variables

SMALL = {"width": 0.125, "embedding_size": 192, "vit_width": 32, "vit_depth": 1}


def inputs(rows=3):
    rng = np.random.default_rng(0)
    landmarks = (rng.uniform(size=(rows, 112, 112, 1)) > 0.95).astype(np.float32)
    return landmarks, rng.normal(size=(rows, 192)).astype(np.float32)


def compiled(function):
    return jax.jit(function, compiler_options=cpu.quick_compilation())


def test_training_reaches_every_parameter():
    model = models.create("fra", **SMALL, dropout=0.0, vit_dropout=0.0)
    params = random_variables(model, 112)["params"]
    landmarks, embeddings = inputs()

    def loss(params):
        outputs = model.apply({"params": params}, landmarks, embeddings, train=True)
        total = jnp.sum(jnp.sin(outputs["generated"])) + jnp.sum(outputs["code"])
        return total + jnp.sum(jnp.square(outputs["logits"] - landmarks))

    gradient = compiled(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert (leaf != 0).any(), path


def test_dropout_in_both_parts():
    model = models.create("fra", **SMALL)
    variables = random_variables(model, 112)

    def train(key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, *inputs(), train=True, rngs=rngs)

    run = compiled(train)
    first, again, other = (run(key) for key in (0, 0, 1))
    for name in ("generated", "logits"):
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_output_depends_on_landmarks_and_embedding():
    model = models.create("fra", **SMALL)
    variables = random_variables(model, 112)
    landmarks, embeddings = inputs()
    run = compiled(model.apply)
    outputs = run(variables, landmarks, embeddings)
    assert outputs["generated"].shape == (3, 192)
    assert outputs["code"].shape == (3, 64)
    assert (outputs["code"] >= 0).all()
    np.testing.assert_allclose(
        outputs["reconstruction"], 1 / (1 + np.exp(-outputs["logits"])), rtol=1e-5
    )
    reversed_landmarks = run(variables, landmarks[::-1], embeddings)
    assert (
        np.abs(reversed_landmarks["generated"] - outputs["generated"])[0].max() > 1e-5
    )
    np.testing.assert_allclose(
        reversed_landmarks["code"], outputs["code"][::-1], rtol=1e-5
    )
    reversed_embeddings = run(variables, landmarks, embeddings[::-1])
    assert (
        np.abs(reversed_embeddings["generated"] - outputs["generated"])[0].max() > 1e-3
    )


def test_invalid_sizes_are_refused():
    def refused(match, shape, **options):
        model = models.create("fra", **SMALL | options)
        landmarks, embeddings = (jnp.zeros(s) for s in (shape, (2, 192)))
        with pytest.raises(UserError, match=match):
            jax.eval_shape(model.init, jax.random.key(0), landmarks, embeddings)

    refused(r"landmark maps are \[B, 112, 112, 1\]", (2, 96, 96, 1))
    refused(r"128 \+ 192 numbers, which fill no square", (2, 112, 112, 1), width=0.25)
