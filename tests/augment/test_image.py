"""Augmentation: per-example keys, ranges, and invariants of each operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.augment import image as augment

SIZE = 24
IMAGES = jnp.array(
    np.random.default_rng(0).uniform(0, 255, (32, SIZE, SIZE, 3)), "float32"
)
KEYS = augment.example_keys(jax.random.key(0), jnp.arange(32, dtype=jnp.uint32))

# RandAugment always does something, to whole numbers: it has tests of its own.
SOMETIMES = sorted(augment.AUGMENTATIONS.keys() - {"rand_augment"})


@pytest.mark.parametrize("name", SOMETIMES)
def test_an_example_depends_on_its_own_key_alone(name):
    function = jax.jit(augment.AUGMENTATIONS[name])
    whole = function(KEYS, IMAGES)
    order = np.random.default_rng(1).permutation(32)
    np.testing.assert_allclose(
        function(KEYS[order], IMAGES[order]), whole[order], atol=1e-3
    )
    assert whole.shape == IMAGES.shape
    assert whole.dtype == jnp.float32
    assert whole.min() >= 0
    assert whole.max() <= 255.001
    changed = np.abs(whole - IMAGES).max(axis=(1, 2, 3)) > 1e-3
    assert 0 < changed.sum() < 32


@pytest.mark.parametrize("name", SOMETIMES)
def test_probability_zero_leaves_images_unchanged(name):
    same = augment.AUGMENTATIONS[name](KEYS, IMAGES, probability=0.0)
    np.testing.assert_allclose(same, IMAGES, atol=1e-3)


def test_flip_mirrors_about_half():
    many = augment.example_keys(jax.random.key(1), jnp.arange(2000, dtype=jnp.uint32))
    pixels = jnp.tile(jnp.array([0.0, 255.0]).reshape(1, 1, 2, 1), (2000, 1, 1, 3))
    mirrored = augment.flip(many, pixels)[:, 0, 0, 0] == 255
    assert 900 < mirrored.sum() < 1100


def test_crop_leaves_one_rectangle_in_place():
    out = np.asarray(augment.crop(KEYS, IMAGES + 1.0, probability=1.0))
    for before, after in zip(np.asarray(IMAGES + 1.0), out):
        kept = after[..., 0] != 0
        assert (after[kept] == before[kept]).all()
        rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
        assert kept[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.1 < kept.mean() <= 1.0


def test_low_resolution_keeps_flat_images_and_smooths_noise():
    flat = jnp.full((32, SIZE, SIZE, 3), 100.0)
    same = augment.low_resolution(KEYS, flat, probability=1.0)
    np.testing.assert_allclose(same, flat, atol=0.01)
    coarse = augment.low_resolution(KEYS, IMAGES, probability=1.0, side=(0.25, 0.26))
    roughness = [
        np.abs(np.diff(np.asarray(x), axis=1)).mean() for x in (IMAGES, coarse)
    ]
    assert roughness[1] < 0.5 * roughness[0]


def test_low_resolution_matches_resizing_twice():
    """Half the side and back, antialiased triangle both ways, against jax.image."""
    small = jax.image.resize(IMAGES, (32, SIZE // 2, SIZE // 2, 3), "linear")
    expected = jax.image.resize(small, IMAGES.shape, "linear")
    out = augment.low_resolution(KEYS, IMAGES, probability=1.0, side=(0.5, 0.5))
    distance = np.abs(out - expected).max(axis=(1, 2, 3))
    # One example in sixteen draws the triangle in both directions.
    assert (distance < 0.05).any()


def test_colour_jitter_moves_grey_and_colour_within_bounds():
    out = augment.colour_jitter(KEYS, IMAGES, probability=1.0)
    ratio = np.asarray(out.mean((1, 2, 3)) / IMAGES.mean((1, 2, 3)))
    assert ratio.min() > 0.3
    assert ratio.max() < 1.7
    assert ratio.std() > 0.1
    grey = jnp.full((32, 4, 4, 3), 80.0)
    only = augment.colour_jitter(KEYS, grey, probability=1.0, brightness=0.0)
    np.testing.assert_allclose(only, grey, atol=1e-3)


def test_a_policy_applies_its_steps_in_turn_with_separate_keys():
    policy = (("flip", {}), ("crop", {"probability": 1.0}))
    out = augment.augment(KEYS, IMAGES, policy)
    first, second = (
        jax.vmap(jax.random.fold_in, (0, None))(KEYS, number) for number in range(2)
    )
    expected = augment.crop(second, augment.flip(first, IMAGES), probability=1.0)
    np.testing.assert_array_equal(out, expected)
    assert (augment.augment(KEYS, IMAGES, ()) == IMAGES).all()
    with pytest.raises(ValueError, match="did you mean 'flip'"):
        augment.augment(KEYS, IMAGES, (("flop", {}),))


def test_similarity_shifts_a_bright_spot():
    """By the stated shift; unchanged for zero ranges."""
    still = augment.similarity(
        KEYS, IMAGES, probability=1.0, degrees=0.0, scale=0.0, shift=0.0
    )
    np.testing.assert_allclose(still, IMAGES, atol=1e-2)
    spot = jnp.zeros((32, 17, 17, 3)).at[:, 8, 8].set(255.0)  # in the centre
    turned = augment.similarity(KEYS, spot, probability=1.0, scale=0.0, shift=0.0)
    np.testing.assert_allclose(turned[:, 8, 8], 255.0, atol=0.1)
    shifted = augment.similarity(
        KEYS, spot, probability=1.0, degrees=0.0, scale=0.0, shift=0.2
    )
    mass = np.asarray(shifted[..., 0])
    rows = np.arange(17).reshape(1, -1, 1)
    offset = (mass * rows).sum((1, 2)) / mass.sum((1, 2)) - 8
    assert np.abs(offset).max() <= 0.2 * 17 + 1e-3
    assert offset.std() > 1.0
