"""DiffAugment: images change, and gradients are finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.augment.diff_augment import KINDS, diff_augment
from fr_jax.errors import UserError

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(-1, 1, (3, 16, 16, 3)), jnp.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_images_change_and_gradients_pass(images, kind):
    actual = diff_augment(KEY, images, [kind])
    assert actual.shape == images.shape
    assert np.abs(actual - images).max(axis=(1, 2, 3)).min() > 0.05
    np.testing.assert_array_equal(actual, diff_augment(KEY, images, [kind]))
    slope = jax.grad(lambda x: diff_augment(KEY, x, [kind]).sum())
    assert np.abs(slope(images)).sum() > 0


def test_cutout_and_translation_keep_the_expected_area(images):
    kept = np.asarray(diff_augment(KEY, images + 9, ["cutout"]))
    assert 0.25 * 0.2 < (kept == 0).mean() < 0.26
    shifted = np.asarray(diff_augment(KEY, jnp.ones_like(images), ["translation"]))
    assert shifted.mean((1, 2, 3)).min() > 0.75


def test_unknown_kinds_are_refused(images):
    with pytest.raises(UserError, match="did you mean 'colour'"):
        diff_augment(KEY, images, ["color"])
