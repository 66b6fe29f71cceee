"""DR-GAN's networks: interpolated identities, and fused images in the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.systems.dr_gan import objective as objectives
from fr_jax.systems.dr_gan.networks import Networks
from tests.support import dr_gan as small
from tests.support.dr_gan import IDENTITIES, MULTI, SIDE, TARGETS
from tests.support.networks import random_variables
from tests.support.steps import jit

pytestmark = [
    pytest.mark.usefixtures("shallow_networks"),
    pytest.mark.xdist_group("dr_gan"),
]


def networks(targets=TARGETS, **fields):
    return Networks(
        small.network(),
        targets,
        objectives.tpami()._replace(**fields),
        num_classes=IDENTITIES,
        image_size=SIDE,
        canvas_size=None,
        pretrained={},
    )


def test_interpolation_decodes_the_mean_feature_of_two_identities():
    between = networks(TARGETS._replace(interpolate=True), interpolate=True)
    generator = small.generator()
    variables = random_variables(generator, SIDE)
    rng = np.random.default_rng(0)
    real = {
        "image": jnp.asarray(rng.uniform(-1, 1, (3, SIDE, SIDE, 3)), jnp.float32),
        "identity": jnp.array([0, 1, 2]),
        "noise": jnp.asarray(rng.uniform(-1, 1, (6, 4)), jnp.float32),
    }

    @jit
    def both(variables, real, key):
        net = variables["params"], variables["batch_stats"]
        fake, _, features = between.synthesise(net, real, key, train=False)
        rows = jnp.stack([features, (features + jnp.roll(features, -1, 0)) / 2], 1)
        pose = jax.nn.one_hot(fake.labels["pose"], small.POSES)
        expected = generator.apply(
            variables, rows.reshape(6, -1), pose, real["noise"], method="decode"
        )
        return fake.image, expected, fake.labels["identity"]

    actual, expected, identity = both(variables, real, jax.random.key(0))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.std(expected, axis=0).max() > 1e-3
    assert identity.tolist() == [0, -1, 1, -1, 2, -1]


VALUES = jnp.arange(6.0)  # per identity two single images and a fused one
MASK = jnp.array([True, True, True, True, False, True])


@pytest.mark.parametrize(
    ("fused_sum", "expected"),
    [(False, (0 + 1 + 2 + 3 + 5) / 5), (True, (0 + 1 + 3) / 3 + (2 + 5) / 2)],
    ids=["mean", "sum"],
)
def test_fused_images_are_averaged_with_or_apart_from_single_ones(fused_sum, expected):
    mean = networks(MULTI, fused_sum=fused_sum)._mean_of_fakes
    assert float(mean(VALUES, MASK)) == pytest.approx(expected)


@pytest.mark.parametrize("discriminate_fused", [True, False])
def test_fused_images_are_fakes_only_with_discriminate_fused(discriminate_fused):
    fake = objectives.Images(
        jnp.zeros((6, 2, 2, 3)), {}, MASK, objectives.masked_mean, {}
    )
    both = networks(MULTI, discriminate_fused=discriminate_fused)
    valid = both.as_fakes(fake).valid.tolist()
    fused = [discriminate_fused] * 2
    assert valid == [True, True, fused[0], True, False, fused[1]]
