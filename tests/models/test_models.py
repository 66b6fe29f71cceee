"""Backbones and layers: sizes, initialisation, BatchNorm, padding, options."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax import models
from fr_jax.backend import cpu
from fr_jax.errors import UserError
from fr_jax.models import feature_maps, layers
from fr_jax.models.preprocess import InputSpec
from tests.support.networks import random_variables


def abstract(name, size=112, crop=None, **options):
    model = models.create(name, **options)
    inputs = models.example_inputs(model, InputSpec(size=size, crop=crop), rows=2)
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    ("name", "parameters", "leaves"),
    [
        ("iresnet18", 24_025_600, 156),
        ("iresnet34", 34_139_328, 276),
        ("iresnet50", 43_590_848, 396),
        ("iresnet100", 65_156_160, 771),
        ("iresnet200", 118_833_920, 1506),
        ("magface_iresnet100", 65_156_160, 771),
        ("ir50", 43_574_976, 295),
        ("ir_se50", 43_797_696, 343),
        ("ir100", 65_129_792, 570),
        ("mobilefacenet", 1_200_512, 283),
        # Leaves as in the published tables, without counters.
        ("mobilefacenet_v2", 999_936, 256),
        ("mbf", 2_059_520, 283),
        ("mbf_large", 6_314_880, 515),
        ("vit_t", 19_137_792, 148),
        ("vit_s", 76_023_296, 148),
        ("vit_b", 113_833_472, 280),
        ("vit_l", 255_684_352, 280),
        ("adaface_ir18", 24_020_352, 149),
        ("adaface_ir50", 43_585_600, 389),
        ("adaface_ir_se50", 43_808_320, 437),
        ("adaface_ir101", 65_150_912, 764),
        ("curricularface_ir100", 65_128_768, 568),  # ir100 less scale and bias
    ],
)
def test_published_sizes(name, parameters, leaves):
    check_size(abstract(name), parameters, leaves)


@pytest.mark.parametrize(
    ("name", "options", "parameters", "leaves"),
    [
        ("sphere20", {"crop": (112, 96)}, 22_666_944, 46),
        ("sphere64", {"crop": (112, 96)}, 47_891_648, 130),
        ("sphere20a", {"crop": (112, 96)}, 22_670_656, 62),
        ("inception_resnet_v1", {"size": 160}, 23_482_624, 602),
        ("vgg16", {"size": 224, "embedding_size": 2622}, 145_002_878, 32),
        ("dr_gan_encoder", {"size": 96, "confidence_head": "none"}, 2_861_984, 70),
        ("dr_gan_discriminator", {"size": 96}, 2_929_394, 72),
        (
            "dr_gan_discriminator",
            {"size": 96, "heads": [["all", 453]], "conv_bias": True},
            3_009_477,
            86,
        ),
        ("dr_gan_generator", {"poses": 9, "confidence_head": "none"}, 10_100_928, 138),
        (
            "dr_gan_generator",
            {"poses": 9, "confidence_head": "channel"},
            10_102_370,
            138,
        ),
        (
            "dr_gan_generator",
            {
                "poses": 2,
                "confidence_head": "none",
                "conv_bias": True,
                "last_bn": True,
            },
            10_024_137,
            170,
        ),
        ("fra", {}, 4_200_817, 82),
        ("fra", {"positions": 33}, 4_204_913, 82),
        ("fra", {"decoder": "sane"}, 4_200_817, 82),
        ("fra", {"embedding_size": 128}, 4_200_817 + 513 * 128 + 129 * 512, 86),
    ],
)
def test_published_sizes_of_other_networks(name, options, parameters, leaves):
    check_size(abstract(name, **options), parameters, leaves)


def check_size(variables, parameters, leaves):
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert sum(sizes) == parameters
    assert len(jax.tree.leaves(variables)) == leaves


@pytest.mark.parametrize(
    "name", ["iresnet18", "ir_se50", "mobilefacenet", "mobilefacenet_v2", "sphere20"]
)
def test_width_image_size_and_embedding_size_are_options(name):
    options = {"width": 0.125, "embedding_size": 24}
    model = models.create(name, **options)
    image = jnp.ones((2, 48, 48, 3))
    variables = random_variables(model, 48)
    embedding = jax.jit(model.apply)(variables, image)
    assert embedding.shape == (2, 24)
    assert embedding.dtype == jnp.float32


def test_tokens_are_masked_and_branches_dropped_in_training_only():
    options = {"width": 0.125, "embedding_size": 8, "depth": 3}
    rates = {"drop_path": 0.0, "mask_ratio": 0.0}
    images = np.random.default_rng(0).uniform(-1, 1, (4, 36, 36, 3)).astype(np.float32)
    variables = random_variables(models.create("vit_t", **options), 36)

    def run(key, **changed):
        model = models.create("vit_t", **options | rates | changed)
        call = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        rngs = {"dropout": jax.random.key(key)}
        return np.asarray(jax.jit(call)(variables, images, rngs=rngs)[0])

    plain = run(0)
    np.testing.assert_array_equal(run(1), plain)  # no rate, no chance
    for changed in ({"mask_ratio": 0.25}, {"drop_path": 0.9}):
        one, other = run(0, **changed), run(1, **changed)
        assert not np.allclose(one, other, atol=1e-3)
        assert not np.allclose(one, plain, atol=1e-3)
    # All tokens left out: the output depends on no image.
    blind = run(0, mask_ratio=1.0)
    np.testing.assert_allclose(
        blind, np.broadcast_to(blind[:1], blind.shape), atol=1e-5
    )


def test_layer_norms_of_the_transformer_have_pytorchs_epsilon():
    """Golden outputs hardly see it."""
    seen = []

    def record(call, inputs, options, context):
        if isinstance(context.module, nn.LayerNorm):
            seen.append(context.module.epsilon)
        return call(*inputs, **options)

    with nn.intercept_methods(record):
        abstract("vit_t", 36, width=0.125, depth=2)
    assert seen == [1e-5] * 5


def test_unknown_name_is_an_error_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'iresnet50'"):
        models.create("iresnet_50")
    with pytest.raises(ValueError, match="did you mean 'dropout'"):
        models.create("ir50", dropuot=0.1)


def test_initialisation_follows_the_published_code():
    variables = jax.jit(models.create("iresnet18").init)(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    params = variables["params"]
    assert np.std(params["layer3_1"]["conv1"]["kernel"]) == pytest.approx(0.1, rel=0.02)
    assert (params["prelu"]["slope"] == 0.25).all()
    fc = params["fc"]
    bound = len(fc["kernel"]) ** -0.5
    for leaf in (fc["kernel"], fc["bias"]):
        assert bound * 0.95 < np.abs(leaf).max() <= bound
    kernel = layers.uniform_fan_in(jax.random.key(0), (3, 3, 64, 128))
    assert np.abs(kernel).max() == pytest.approx((9 * 64) ** -0.5, rel=0.01)


def test_padding_of_strided_convolution_equals_pytorch():
    """On an even map, Flax's SAME would start one pixel later."""
    conv = layers.Conv(1, 3, 2)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    variables = {"params": {"kernel": jnp.ones((3, 3, 1, 1))}}
    padded = np.pad(np.arange(16.0).reshape(4, 4), 1)
    expected = [[padded[i : i + 3, j : j + 3].sum() for j in (0, 2)] for i in (0, 2)]
    assert np.array_equal(conv.apply(variables, x)[0, :, :, 0], expected)


def numpy_batch_norm(x, groups, epsilon=1e-5):
    parts = np.split(x.astype(np.float64), groups)
    axes = tuple(range(x.ndim - 1))
    out = [(p - p.mean(axes)) / np.sqrt(p.var(axes) + epsilon) for p in parts]
    mean = np.mean([p.mean(axes) for p in parts], 0)
    var = np.mean(
        [p.var(axes) * (p[..., 0].size / (p[..., 0].size - 1)) for p in parts], 0
    )
    return np.concatenate(out), mean, var


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", [(8, 5, 5, 3), (8, 3)])
def test_batch_norm_output_and_running_values_equal_pytorch(groups, shape):
    x = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    norm = layers.BatchNorm(groups=groups)
    variables = norm.init(jax.random.key(0), x, True)
    out, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    expected, mean, var = numpy_batch_norm(x, groups)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)
    evaluated = norm.apply({**variables, **updated}, x, False)
    mean, var = np.asarray(stats["mean"]), np.asarray(stats["var"])
    by_hand = (x - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(evaluated, by_hand, atol=1e-5)


def test_running_values_of_the_first_group():
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 5, 3)).astype(np.float32)

    def updated(norm, x):
        variables = norm.init(jax.random.key(0), x, True)
        return norm.apply(variables, x, True, mutable=["batch_stats"])

    out, actual = updated(layers.BatchNorm(groups=4, first_group=True), x)
    same_out, mean = updated(layers.BatchNorm(groups=4), x)
    _, alone = updated(layers.BatchNorm(), x[:2])
    np.testing.assert_array_equal(out, same_out)
    for name, value in alone["batch_stats"].items():
        np.testing.assert_allclose(actual["batch_stats"][name], value, rtol=1e-6)
        assert np.abs(mean["batch_stats"][name] - value).min() > 1e-3


@pytest.mark.parametrize(
    "name", ["iresnet18", "ir_se50", "mobilefacenet", "mobilefacenet_v2"]
)
def test_all_batch_norms_of_a_backbone_get_the_groups(name):
    seen = set()

    def look(function, args, keywords, context):
        if isinstance(context.module, layers.BatchNorm):
            seen.add((context.module.groups, context.module.first_group))
        return function(*args, **keywords)

    with nn.intercept_methods(look):
        abstract(name, bn_groups=2, bn_first_group=True)
    assert seen == {(2, True)}


def test_batch_norm_gradient_equals_autodiff():
    x = jnp.array(np.random.default_rng(1).normal(size=(6, 4, 4, 3)), jnp.float32)
    weights = jnp.array(np.random.default_rng(2).normal(size=x.shape), jnp.float32)
    norm = layers.BatchNorm(groups=2)
    variables = norm.init(jax.random.key(0), x, True)
    params = {"scale": jnp.array([0.5, 2.0, 1.0]), "bias": jnp.array([0.1, 0.0, -1.0])}

    def ours(params, x):
        full = {"params": params, "batch_stats": variables["batch_stats"]}
        out, _ = norm.apply(full, x, True, mutable=["batch_stats"])
        return jnp.sum(weights * out**2)

    def plain(params, x):
        parts = jnp.split(x, 2)
        normal = [
            (p - p.mean((0, 1, 2), keepdims=True))
            / jnp.sqrt(p.var((0, 1, 2), keepdims=True) + 1e-5)
            for p in parts
        ]
        scale, bias = (params[k].reshape(1, 1, 1, 3) for k in ("scale", "bias"))
        return jnp.sum(weights * (jnp.concatenate(normal) * scale + bias) ** 2)

    for gradient, expected in zip(
        jax.tree.leaves(jax.grad(ours, (0, 1))(params, x)),
        jax.tree.leaves(jax.grad(plain, (0, 1))(params, x)),
    ):
        np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=2e-3)


def test_batch_not_divisible_by_groups_is_refused():
    with pytest.raises(ValueError, match="6 rows cannot be cut into 4"):
        layers.BatchNorm(groups=4).init(jax.random.key(0), jnp.ones((6, 3)), True)


@pytest.mark.parametrize(("features", "group"), [(6, 2), (40, 8), (64, 16)])
def test_group_norm_normalises_each_image_by_groups(features, group):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (2, 5, 4, features)).astype(np.float32)
    norm = layers.GroupNorm()
    params = norm.init(jax.random.key(0), x, True)["params"]
    assert params.keys() == {"scale", "bias"}  # a BatchNorm's
    params = {name: rng.normal(size=features) for name in params}
    groups = x.reshape(2, 20, -1, group)
    mean, var = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(
        norm.apply({"params": params}, x, True),
        expected * params["scale"] + params["bias"],
        atol=1e-5,
    )
    half = norm.apply({"params": params}, x.astype(jnp.bfloat16), True)
    assert half.dtype == jnp.bfloat16


def test_frozen_scale_gets_no_gradient():
    model = models.create(
        "iresnet18", stage_sizes=(1, 1), width=0.125, embedding_size=8
    )
    x = jax.random.normal(jax.random.key(1), (4, 16, 16, 3))
    variables = random_variables(model, 16)

    def loss(params):
        full = {**variables, "params": params}
        out, _ = model.apply(full, x, train=True, mutable=["batch_stats"])
        return jnp.sum(out**3)

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    assert (gradient["features"]["scale"] == 0).all()
    assert (gradient["features"]["bias"] != 0).all()


def test_prelu_has_a_slope_per_channel():
    variables = {"params": {"slope": jnp.array([0.0, 0.5])}}
    x = jnp.array([[-2.0, -2.0], [3.0, 3.0]])
    out = layers.PReLU().apply(variables, x)
    assert out.tolist() == [[0.0, -1.0], [3.0, 3.0]]


def test_rematerialisation_keeps_gradients():
    x = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
    results = []
    for remat in (False, True):
        model = models.create("iresnet18", stage_sizes=(1, 1), width=0.125, remat=remat)
        variables = random_variables(model, 32)

        def loss(params, model=model, variables=variables):
            full = {**variables, "params": params}
            out, _ = model.apply(full, x, True, mutable=["batch_stats"])
            return jnp.sum(out * jnp.sin(jnp.arange(out.size)).reshape(out.shape))

        gradient = jax.jit(jax.grad(loss))(variables["params"])
        results.append(gradient["conv1"]["kernel"])
    difference = np.linalg.norm(results[0] - results[1])
    assert difference < 5e-3 * np.linalg.norm(results[0])


class Flat(nn.Module):
    def __call__(self, images):
        return images[:, 0, 0]


def test_feature_maps_are_the_last_of_each_resolution():
    def seen(name, size, **options):
        model = models.create(name, **options)
        images = jnp.zeros((2, size, size, 3))
        variables = jax.eval_shape(model.init, jax.random.key(0), images)

        def look(variables):
            return feature_maps.embedding_and_feature_maps(model, variables, images)

        return jax.eval_shape(look, variables)[1]

    actual = [(m.shape[1], m.shape[3]) for m in seen("iresnet18", 48)]
    assert actual == [(48, 64), (24, 64), (12, 128), (6, 256), (3, 512)]
    actual = [(m.shape[1], m.shape[3]) for m in seen("dr_gan_encoder", 64, width=0.5)]
    assert actual == [(64, 32), (32, 64), (16, 96), (8, 128), (4, 160)]
    with pytest.raises(UserError, match="a Flat has no maps"):
        images, flat = jnp.zeros((2, 8, 8, 3)), Flat()
        feature_maps.embedding_and_feature_maps(flat, {}, images)

    model = models.create("iresnet18", width=0.125, embedding_size=8)
    variables = random_variables(model, 32)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    embedding, maps = feature_maps.embedding_and_feature_maps(model, variables, images)
    np.testing.assert_array_equal(embedding, model.apply(variables, images))
    _, kept = model.apply(variables, images, capture_intermediates=True)
    for name, actual in zip(("layer2_1", "layer3_1"), maps[2:4], strict=True):
        np.testing.assert_array_equal(
            actual, kept["intermediates"][name]["__call__"][0]
        )


def test_bfloat16_trunk_has_float32_parameters_and_embeddings():
    model = models.create("iresnet18", width=0.125, dtype="bfloat16")
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = random_variables(model, 32)
    abstract_kinds = {
        leaf.dtype for leaf in jax.tree.leaves(abstract("iresnet18", dtype="bfloat16"))
    }
    assert abstract_kinds == {jnp.dtype("float32")}
    embedding = jax.jit(model.apply)(variables, x)
    full = models.create("iresnet18", width=0.125)
    exact = jax.jit(full.apply)(variables, x)
    assert embedding.dtype == jnp.float32
    cosine = np.sum(embedding * exact, 1) / (
        np.linalg.norm(embedding, axis=1) * np.linalg.norm(exact, axis=1)
    )
    assert (cosine > 0.99).all()
    assert not np.array_equal(embedding, exact)  # else bfloat16 was not used


def test_image_shapes_of_sphere_and_vgg():
    variables = abstract("sphere20", size=64, crop=(64, 48), width=0.125)
    assert variables["params"]["fc"]["kernel"].shape == (4 * 3 * 64, 512)
    variables = abstract("vgg16", size=64, width=0.125, embedding_size=None)
    assert set(variables["params"]) >= {"fc6", "fc7"}
    assert "fc8" not in variables["params"]


def test_initialisation_of_vgg():
    model = models.create("vgg16", width=0.0625, embedding_size=256)
    init = jax.jit(model.init, compiler_options=cpu.quick_compilation())
    params = init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    kernel = params["conv5_2"]["kernel"]
    assert np.std(kernel) == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    assert np.std(params["fc8"]["kernel"]) == pytest.approx(1e-3, rel=0.05)
    assert (params["conv1_1"]["bias"] == 0).all()
