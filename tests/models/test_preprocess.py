"""Input specifications: crops, colours, scales, and validation."""

import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.models.preprocess import InputSpec, prepare

FACES = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)


def test_centre_is_cropped():
    """Like 112x96 pixels from the 112x112 template: 8 columns less on each side."""
    spec = InputSpec(size=12, crop=(12, 8))
    assert spec.shape == (12, 8, 3)
    prepared = prepare(jnp.asarray(FACES), spec)
    np.testing.assert_allclose(prepared, FACES[:, :, 2:10] / 127.5 - 1, atol=1e-6)
    odd = prepare(jnp.asarray(FACES), InputSpec(size=12, crop=(9, 9)))
    np.testing.assert_allclose(odd, FACES[:, 1:10, 1:10] / 127.5 - 1, atol=1e-6)


def test_means_are_per_colour_for_both_orders():
    mean, scale = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    rgb = InputSpec(size=12, mean=mean, scale=scale)
    expected = (FACES - np.array(mean)) / np.array(scale)
    np.testing.assert_allclose(prepare(jnp.asarray(FACES), rgb), expected, atol=1e-4)
    bgr = rgb._replace(colour="BGR")
    prepared = prepare(jnp.asarray(FACES), bgr)
    np.testing.assert_allclose(prepared, expected[..., ::-1], atol=1e-4)


def test_grey_is_luma():
    spec = InputSpec(size=12, colour="GREY", mean=0.0, scale=255.0)
    prepared = prepare(jnp.asarray(FACES), spec)
    assert prepared.shape == (2, 12, 12, 1)
    expected = FACES @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(prepared[..., 0], expected, atol=1e-5)


def test_stored_specification_is_validated():
    spec = InputSpec(size=110, crop=(96, 96), mean=(1.0, 2.0, 3.0))
    stored = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in spec._asdict().items()
    }
    assert InputSpec.from_dict(stored) == spec
    for wrong in (
        {"colour": "CMYK"},
        {"size": 0},
        {"size": 90},  # smaller than its crop
        {"scale": 0.0},
        {"mean": [1.0, 2.0]},
        {"colour": "GREY"},  # with three means
        {"crop": [96]},
        {"mean": "dark"},
        {"colours": "RGB"},
    ):
        with pytest.raises(ValueError, match="not an input specification"):
            InputSpec.from_dict(stored | wrong)
