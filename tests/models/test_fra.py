"""FRA's network: gradients, dropout, dependence on both inputs, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.backend import cpu
from fr_jax.errors import UserError
from tests.support.networks import random_variables

SMALL = {
    "width": 0.125,
    "embedding_size": 192,
    "inner_size": 192,
    "vit_width": 32,
    "vit_depth": 1,
}


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


def test_embeddings_of_another_length_pass_through_adapters():
    """g = W2 inner(code, W1 f): equal to the inner network between two matrices."""
    inner = models.create("fra", **SMALL)
    outer = models.create("fra", **SMALL | {"embedding_size": 24})
    params = random_variables(outer, 112)["params"]
    layers = [params[f"adapter_{end}"] for end in ("in", "out")]
    assert [layer["kernel"].shape for layer in layers] == [(24, 192), (192, 24)]
    rest = {name: leaf for name, leaf in params.items() if "adapter" not in name}
    landmarks, embeddings = inputs()
    embeddings = embeddings[:, :24]

    def both(params, rest, embeddings):
        first, last = ((x["kernel"], x["bias"][None]) for x in layers)
        passed = embeddings @ first[0] + first[1]
        expected = inner.apply({"params": rest}, landmarks, passed)["generated"]
        actual = outer.apply({"params": params}, landmarks, embeddings)["generated"]
        return actual, expected @ last[0] + last[1]

    actual, expected = compiled(both)(params, rest, embeddings)
    assert actual.shape == (3, 24)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_only_the_sane_decoder_uses_the_code_outside_the_centre():
    """Outer cells of the first map, 3x3, alone determine the outermost pixels."""
    landmarks, embeddings = inputs()
    for decoder, changed in (("published", False), ("sane", True)):
        model = models.create("fra", **SMALL, decoder=decoder)
        variables = random_variables(model, 112)
        run = compiled(model.apply)
        first, second = (
            np.asarray(run(variables, maps, embeddings)["logits"][0])
            for maps in (landmarks, landmarks[::-1])
        )
        assert (first[48:64] != second[48:64]).any()
        assert (first[0] != second[0]).any() == changed


def test_initial_parameters_are_those_of_pytorch():
    model = models.create("fra", **SMALL)
    shapes = model.example_inputs()
    init = compiled(model.init)
    zeros = [jnp.zeros(shape.shape) for shape in shapes]
    params = init(jax.random.key(0), *zeros)["params"]

    def check(leaf, bound):
        """U(-bound, bound): all within, and the standard deviation bound / sqrt(3)."""
        assert np.abs(leaf).max() <= bound
        assert np.std(leaf) == pytest.approx(bound / 3**0.5, rel=0.15)

    check(params["encoder_layer6"]["kernel"], (9 * 32) ** -0.5)
    check(params["encoder_layer6"]["bias"], (9 * 32) ** -0.5)
    check(params["decoder_layer1"]["kernel"], (4 * 64) ** -0.5)
    check(params["vit"]["input_layer"]["kernel"], 64**-0.5)
    check(params["vit"]["head"]["kernel"], 32**-0.5)
    attention = params["vit"]["transformer_0"]["attn"]
    check(attention["in_proj"]["kernel"], (6 / (32 + 96)) ** 0.5)  # Xavier
    check(attention["out_proj"]["kernel"], 32**-0.5)
    for layer in attention.values():
        assert (layer["bias"] == 0).all()
    for name in ("cls_token", "pos_embedding"):
        assert np.std(params["vit"][name]) == pytest.approx(1, rel=0.4)


def test_invalid_sizes_are_refused():
    def refused(match, shape, **options):
        model = models.create("fra", **SMALL | options)
        landmarks, embeddings = (jnp.zeros(s) for s in (shape, (2, 192)))
        with pytest.raises(UserError, match=match):
            jax.eval_shape(model.init, jax.random.key(0), landmarks, embeddings)

    refused(r"landmark maps are \[B, 112, 112, 1\]", (2, 96, 96, 1))
    refused(r"128 \+ 192 numbers, which fill no square", (2, 112, 112, 1), width=0.25)
    refused("unknown decoder 'sain'.*'sane'", (2, 112, 112, 1), decoder="sain")
