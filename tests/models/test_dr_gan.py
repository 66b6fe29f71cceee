"""DR-GAN's networks: fusion, options of published programs, and training mode.

`end_to_end/test_traces` compares gradients with published ones.
"""

import jax
import numpy as np
import pytest

from fr_jax import models
from fr_jax.backend import cpu
from fr_jax.errors import UserError
from fr_jax.models import layers
from fr_jax.models.dr_gan import generator as dr_gan
from fr_jax.models.preprocess import InputSpec
from tests.support.networks import random_variables

SMALL = {"width": 0.0625, "size": 32, "decoder_seed": 2, "poses": 3, "noise": 4}


def compiled(function):
    return jax.jit(function, compiler_options=cpu.quick_compilation())


def inputs(identities, per_identity=1, size=32, seed=0):
    rng = np.random.default_rng(seed)
    shape = (identities * per_identity, size, size, 3)
    images = rng.uniform(-1, 1, shape).astype(np.float32)
    pose = np.eye(3, dtype=np.float32)[rng.integers(0, 3, identities)]
    return images, pose, rng.uniform(-1, 1, (identities, 4)).astype(np.float32)


def shapes(**options):
    model = models.create("dr_gan_generator", **SMALL | options)
    arrays = model.example_inputs(2)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), *arrays)
    return out, variables["params"]


def test_fusion_is_a_mean_weighted_by_confidence():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 5, 7)).astype(np.float32)
    confidence = rng.uniform(0.1, 1, (2, 5, 1)).astype(np.float32)
    fused = dr_gan.fuse(features, confidence)
    expected = [np.average(f, 0, c[:, 0]) for f, c in zip(features, confidence)]
    np.testing.assert_allclose(fused, expected, rtol=1e-4, atol=1e-5)
    order = [3, 0, 4, 1, 2]
    permuted = dr_gan.fuse(features[:, order], confidence[:, order])
    np.testing.assert_allclose(permuted, fused, rtol=1e-4, atol=1e-6)
    equal = dr_gan.fuse(features, np.full((2, 5, 1), 0.3, np.float32))
    np.testing.assert_allclose(equal, features.mean(1), rtol=1e-4, atol=1e-5)
    filled = np.concatenate([features, np.ones((2, 1, 7), np.float32)], 1)
    none = np.concatenate([confidence, np.zeros((2, 1, 1), np.float32)], 1)
    np.testing.assert_array_equal(dr_gan.fuse(filled, none), fused)
    total = dr_gan.fuse(features, confidence, normalise=False)
    np.testing.assert_allclose(total, (features * confidence).sum(1), rtol=1e-5)


def test_only_images_of_the_same_identity_are_fused():
    model = models.create("dr_gan_generator", **SMALL)
    encoder = models.create("dr_gan_encoder", width=SMALL["width"])
    variables = random_variables(model, 32)
    images, pose, noise = inputs(identities=2, per_identity=3)

    @compiled
    def run(variables):
        of_encoder = {name: part["encoder"] for name, part in variables.items()}
        return (
            model.apply(variables, images, pose, noise),
            # A single image is not fused, whatever its confidence.
            model.apply(variables, images[::3], pose, noise)["feature"],
            model.apply(variables, images, method="encode"),
            encoder.apply(of_encoder, images),
        )

    fused, single, (features, confidence), embeddings = run(variables)
    assert fused["image"].shape == (2, 32, 32, 3)
    assert (np.abs(fused["image"]) <= 1).all()
    assert np.ptp(fused["confidence"]) > 1e-5
    weights = fused["confidence"].reshape(6, 1)
    np.testing.assert_allclose(weights, confidence, rtol=1e-5)
    for identity in range(2):
        rows = slice(3 * identity, 3 * identity + 3)
        expected = np.average(features[rows], 0, confidence[rows, 0])
        actual = fused["feature"][identity]
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(single, features[::3], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(embeddings, features, rtol=1e-5, atol=1e-6)


def test_options_of_published_programs():
    out, params = shapes(decoder_seed=1)
    assert out["image"].shape == (2, 32, 32, 3)
    assert params["decoder"]["fc"]["kernel"].shape == (20 + 3 + 4, 20)
    out, params = shapes(
        illuminations=5,
        poses=1,
        pose_features=6,
        seed_bn=True,
        conv_bias=True,
        last_bn=True,
        channels=1,
    )
    assert out["image"].shape == (2, 32, 32, 1)
    assert params["decoder"]["pose"]["kernel"].shape == (1, 6)
    assert params["decoder"]["fc"]["kernel"].shape[0] == 20 + 6 + 5 + 4
    assert {"fc_bn"} <= params["decoder"].keys()
    assert params["decoder"]["fconv43"]["conv"]["bias"].shape == (16,)
    assert params["encoder"]["trunk"]["conv11"]["conv"]["kernel"].shape[2] == 1
    _, params = shapes(confidence_head="channel")
    assert params["encoder"]["trunk"]["conv53"]["conv"]["kernel"].shape[-1] == 21
    _, params = shapes(confidence_head="none")
    assert params["encoder"].keys() == {"trunk"}


def test_the_last_elu_bounds_features():
    images, _, _ = inputs(identities=2)
    features = []
    for final_elu in (True, False):
        model = models.create("dr_gan_encoder", width=0.0625, final_elu=final_elu)
        variables = random_variables(model, 32)
        variables["params"]["trunk"]["conv53"]["bn"]["scale"] *= 5
        features.append(compiled(model.apply)(variables, images))
    bounded, free = features
    assert bounded.min() > -1 > free.min()


def test_bn_before_crop_changes_training_but_not_evaluation():
    """BatchNorm before the crop is applied to one more row and column."""
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    late, early = (
        dr_gan.Unit(3, layers.BatchNorm, 2, transposed=True, bn_before_crop=before)
        for before in (True, False)
    )
    shapes = jax.eval_shape(lambda: late.init(jax.random.key(0), x, False))
    variables = jax.tree.map(
        lambda leaf: np.linspace(0.5, 1, leaf.size).reshape(leaf.shape), shapes
    )

    @compiled
    def run(variables):
        evaluated = [unit.apply(variables, x, False) for unit in (late, early)]
        trained = [
            unit.apply(variables, x, True, mutable=["batch_stats"])[0]
            for unit in (late, early)
        ]
        return evaluated, trained

    evaluated, trained = run(variables)
    assert evaluated[0].shape == (2, 6, 6, 3)
    np.testing.assert_allclose(*evaluated, atol=1e-6)
    assert np.abs(trained[0] - trained[1]).max() > 1e-3


def test_wrong_codes_and_names_are_refused():
    def refused(match, **options):
        with pytest.raises(UserError, match=match):
            model = models.create("dr_gan_generator", **SMALL | options)
            jax.eval_shape(model.init, jax.random.key(0), *inputs(2))

    refused("poses=5, but the code has length 3", poses=5)
    refused("illuminations=4, but the code has length 0", illuminations=4)
    refused("images of 96 pixels from a seed of 2", size=96)
    refused("unknown alignment 'sam'; did you mean 'same'", alignment="sam")
    refused("unknown output 'tan'", output="tan")
    refused("unknown confidence_head 'chanel'", confidence_head="chanel")
    model = models.create("dr_gan_generator", **SMALL)
    images, pose, noise = inputs(2)
    with pytest.raises(UserError, match="3 images cannot be divided .* 2 poses"):
        args = (np.concatenate([images, images[:1]]), pose, noise)
        jax.eval_shape(model.init, jax.random.key(0), *args)


def test_heads_of_the_discriminator():
    def logits(**options):
        model = models.create("dr_gan_discriminator", width=0.0625, **options)
        spec = InputSpec(size=32)
        out, variables = jax.eval_shape(
            model.init_with_output,
            jax.random.key(0),
            *models.example_inputs(model, spec, rows=2),
        )
        return {name: array.shape for name, array in out.items()}, variables["params"]

    heads = (("identity", 6), ("real", 1), ("pose", 3), ("illumination", 4))
    expected = {name: (2, size) for name, size in heads}
    joined, params = logits(heads=heads)
    assert joined == expected
    assert params["fc"]["kernel"].shape == (20, 14)
    branches, params = logits(heads=heads, branch_heads=True)
    assert branches == expected
    assert set(params["trunk"]).isdisjoint({"conv52", "conv53"})
    assert params["tail_pose"].keys() == {"conv52", "conv53"}
    _, params = logits(heads=heads, branch_heads=True, cosine_identity=True)
    assert params["fc_identity"].shape == (20, 6)
    joined, params = logits(heads=heads, cosine_identity=True, norm="none")
    assert joined == expected
    assert params["fc_identity"].shape == (20, 6)
    assert params["fc"]["kernel"].shape == (20, 8)
    assert params["trunk"]["conv11"].keys() == {"conv"}
    grouped, params = logits(heads=heads, norm="group")
    assert grouped == expected
    assert params["trunk"]["conv11"].keys() == {"conv", "bn"}
    with pytest.raises(UserError, match="did you mean 'group'"):
        logits(heads=heads, norm="groups")


def test_logits_with_group_norm_do_not_depend_on_other_images():
    model = models.create("dr_gan_discriminator", width=0.0625, norm="group")
    variables = random_variables(model, 32)
    images = inputs(4)[0]
    assert variables.keys() == {"params"}
    whole = compiled(model.apply)(variables, images)["real"]
    single = compiled(model.apply)(variables, images[:1])["real"]
    np.testing.assert_allclose(whole[:1], single, atol=1e-6)
    assert np.ptp(whole) > 1e-3


def test_cosine_identity_head():
    model = models.create(
        "dr_gan_discriminator",
        width=0.0625,
        branch_heads=True,
        cosine_identity=True,
        heads=(("identity", 40), ("real", 1)),
    )
    variables = random_variables(model, 32)
    actual = compiled(model.apply)(variables, inputs(2)[0])["identity"]
    assert (np.abs(actual) <= 1).all()
    assert np.abs(actual).max() > 0.1


def test_training_updates_statistics_and_applies_dropout():
    model = models.create("dr_gan_generator", **SMALL, dropout=0.4)
    variables = random_variables(model, 32)
    arrays = inputs(identities=4, per_identity=2)

    @compiled
    def run(key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(
            variables, *arrays, train=True, mutable=["batch_stats"], rngs=rngs
        )

    (first, updated), (again, _), (other, _) = (run(key) for key in (0, 0, 1))
    assert np.array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], other["image"])
    assert not np.array_equal(first["feature"], other["feature"])
    for path, new in jax.tree_util.tree_leaves_with_path(updated["batch_stats"]):
        old = variables["batch_stats"]
        for key in path:
            old = old[key.key]
        assert not np.array_equal(old, new), path
