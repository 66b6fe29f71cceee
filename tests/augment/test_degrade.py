"""Degradation of images: what each operation does; `test_image` has their keys."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.augment import degrade

KEYS = jax.random.split(jax.random.key(0), 4)
IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)


def test_grey_images_have_equal_channels():
    out = np.asarray(degrade.grey(KEYS, jnp.asarray(IMAGES), probability=1.0))
    np.testing.assert_allclose(out[..., 0], IMAGES @ (0.299, 0.587, 0.114), atol=1e-3)
    assert (out[..., :1] == out).all()


def test_blur_keeps_flat_images_and_smooths_noise():
    flat = jnp.full((4, 32, 32, 3), 77.0)
    np.testing.assert_allclose(degrade.blur(KEYS, flat, probability=1.0), 77, atol=1e-3)
    out = degrade.blur(KEYS, jnp.asarray(IMAGES), probability=1.0, sigma=(5.0, 6.0))
    assert np.asarray(out).std() < 0.7 * IMAGES.std()


@pytest.mark.parametrize("quality", [20, 60])
def test_compression_is_that_of_jpeg(quality):
    """A grey image, which has no colour to be subsampled, by OpenCV's encoder."""
    y, x = np.mgrid[:32, :32]
    smooth = 128 + 60 * np.sin(x / 5) + 40 * np.cos(y / 3)
    image = np.repeat(smooth[..., None], 3, axis=2).round().astype(np.uint8)
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    expected = cv2.imdecode(cv2.imencode(".jpg", image, flags)[1], cv2.IMREAD_COLOR)
    limits = float(quality), float(quality)
    batch = jnp.asarray(image[None], jnp.float32)
    out = degrade.jpeg(KEYS[:1], batch, probability=1.0, quality=limits)[0]
    # The encoder rounds its sums, which may change single coefficients.
    assert np.percentile(np.abs(np.asarray(out) - expected), 99) < 3
    assert np.abs(image.astype(float) - expected).mean() > 1  # it degrades


def test_noise_has_its_deviation():
    grey = jnp.full((4, 32, 32, 3), 128.0)
    out = degrade.noise(KEYS, grey, probability=1.0, deviation=(8.0, 8.0))
    assert np.asarray(out).std() == pytest.approx(8, rel=0.05)


def test_a_cover_is_one_rectangle_of_one_colour():
    limits = (0.25, 0.5)
    out = degrade.cover(KEYS, jnp.asarray(IMAGES), probability=1.0, side=limits)
    for before, after in zip(IMAGES, np.asarray(out)):
        changed = (after != before).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 7 <= len(rows) <= 17 and 7 <= len(columns) <= 17
        assert len(np.unique(after[changed], axis=0)) == 1
