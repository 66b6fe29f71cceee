"""Random crops with landmarks: image and points by one map, and mirrored points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.augment import landmarks
from fr_jax.faces.renderer import codes, shape
from fr_jax.faces.renderer import landmarks as of_renderer

KEYS = jax.random.split(jax.random.key(0), 8)
SIDE = 64


@pytest.fixture(scope="module")
def faces():
    """Points around the middle of an image of 64 pixels, [8, 68, 2]."""
    rng = np.random.default_rng(0)
    return rng.uniform(20, 44, (8, 68, 2)).astype(np.float32)


def dots(points, side=SIDE):
    """Images [n, side, side, 1] with a smooth dot at each of n points."""
    y, x = np.mgrid[:side, :side]
    x, y = x[None] - points[:, 0, None, None], y[None] - points[:, 1, None, None]
    return (255 * np.exp(-(x**2 + y**2) / 8))[..., None].astype(np.float32)


def centroids(images):
    weights = np.asarray(images)[..., 0]
    y, x = np.mgrid[: weights.shape[1], : weights.shape[2]]
    total = weights.sum(axis=(1, 2))
    axes = [(weights * axis[None]).sum(axis=(1, 2)) / total for axis in (x, y)]
    return np.stack(axes, axis=1)


def test_mirroring_twice_changes_nothing():
    assert sorted(landmarks.MIRROR) == list(range(68))
    assert (landmarks.MIRROR[landmarks.MIRROR] == np.arange(68)).all()
    middle = np.arange(68) == landmarks.MIRROR
    expected = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert np.flatnonzero(middle).tolist() == expected


def test_a_face_of_the_renderer_mirrored_is_itself():
    """Each point of the head has its counterpart in the numbering."""
    rows = {name: jnp.zeros(row) for name, row in codes.SIZES.items()}
    face = codes.Codes(**rows)._replace(age=jnp.float32(30))
    points = np.asarray(of_renderer.coordinates(shape.Features(codes.measures(face))))
    mirrored = points[landmarks.MIRROR] * (-1, 1)
    np.testing.assert_allclose(mirrored, points, atol=1e-5)
    assert np.ptp(points[:, 0]) > 1  # no trivial face


def test_points_are_where_their_pixels_are(faces):
    """A dot at point 5 is found at the point's place in the crop."""
    placing = {"degrees": 25.0, "shift": 0.03}
    squares = landmarks.random_squares(KEYS, jnp.asarray(faces), **placing)
    squares = squares._replace(side=2.2 * jnp.asarray(np.ptp(faces, (1, 2))))
    images = landmarks.crop(jnp.asarray(dots(faces[:, 5])), squares, 56)
    points = np.asarray(landmarks.into_crops(jnp.asarray(faces), squares, 56))
    mirrored = np.asarray(squares.mirrored)
    assert 0 < mirrored.sum() < 8
    numbers = np.where(mirrored, landmarks.MIRROR[5], 5)
    expected = points[np.arange(8), numbers]
    np.testing.assert_allclose(centroids(images), expected, atol=0.05)


def test_the_square_of_the_whole_image_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3), np.uint8)
    whole = jnp.array([[-0.5, -0.5, 12.0, 12.0]])
    squares = landmarks.boxed_squares(whole, margin=1.0)
    same = landmarks.crop(jnp.asarray(image), squares, 12)
    np.testing.assert_allclose(same, image, atol=1e-3)
    points = np.random.default_rng(1).uniform(0, 12, (1, 68, 2)).astype(np.float32)
    inside = landmarks.into_crops(jnp.asarray(points), squares, 12)
    np.testing.assert_allclose(inside, points, atol=1e-5)
    mirrored = squares._replace(mirrored=jnp.array([True]))
    flipped = landmarks.crop(jnp.asarray(image), mirrored, 12)
    np.testing.assert_allclose(flipped, image[:, :, ::-1], atol=1e-3)


def test_outside_of_an_image_its_edge_is_repeated():
    image = np.full((1, 8, 8, 3), 90, np.uint8)
    squares = landmarks.boxed_squares(jnp.array([[-20.0, -20.0, 48.0, 48.0]]))
    assert (np.asarray(landmarks.crop(jnp.asarray(image), squares, 16)) == 90).all()


def test_a_square_without_jitter_is_that_of_the_box(faces):
    none = dict.fromkeys(("raised", "scale", "shift", "degrees", "mirrored"), 0.0)
    squares = landmarks.random_squares(KEYS, jnp.asarray(faces), **none)
    low, high = faces.min(axis=1), faces.max(axis=1)
    boxes = jnp.asarray(np.concatenate([low, high - low], axis=1))
    expected = landmarks.boxed_squares(boxes)
    for name in ("centre", "side", "angle"):
        actual = getattr(squares, name)
        np.testing.assert_allclose(actual, getattr(expected, name), atol=1e-4)
    assert not np.asarray(squares.mirrored).any()


def test_a_square_depends_on_its_own_key_alone(faces):
    whole = landmarks.random_squares(KEYS, jnp.asarray(faces))
    order = np.arange(8)[::-1]
    turned = landmarks.random_squares(KEYS[order], jnp.asarray(faces[order]))
    for actual, expected in zip(turned, whole, strict=True):
        np.testing.assert_allclose(actual, np.asarray(expected)[order], rtol=1e-6)
    assert len(np.unique(np.asarray(whole.angle))) == 8
