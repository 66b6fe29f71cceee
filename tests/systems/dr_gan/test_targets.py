"""Targets: labels, codes and ground truth of synthesised images, and views of faces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec
from fr_jax.systems.dr_gan import targets
from fr_jax.systems.dr_gan.targets import Targets
from tests.support.steps import jit

KEY = jax.random.key(0)
FIVE = Targets(angles=(-60, -30, 0, 30, 60))
THREE = Targets(angles=(-30, 0, 30))
YAWS = Targets(angles=(-45, 0, 45), continuous=True)


def views(batch, chosen, spec, **options):
    """Returns `targets.views`, compiled."""
    view = functools.partial(targets.views, targets=chosen, spec=spec, **options)
    # Without optimisation, so that an image and its ground truth are rounded alike.
    quick = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(lambda batch, key: view(batch, key=key), compiler_options=quick)
    return compiled(batch, KEY)


def sample(real, chosen):
    """Returns `targets.sample`, compiled."""
    return jit(lambda real, key: targets.sample(real, chosen, key))(real, KEY)


def test_valid_labels():
    assert targets.valid_labels(jnp.array([-1, 0, 3])).tolist() == [False, True, True]
    assert targets.valid_labels(jnp.array([np.nan, -1.0])).tolist() == [False, True]


def test_lengths_of_codes_and_numbers_of_images():
    assert (FIVE.poses, YAWS.poses) == (5, 1)
    several = FIVE._replace(illuminations=3, images_per_identity=2, interpolate=True)
    assert (several.fused, several.per_identity) == (True, 4)
    assert (FIVE.fused, FIVE.per_identity) == (False, 1)
    assert several.labels == ["identity", "pose", "illumination"]
    assert FIVE.labels == ["identity", "pose"]


def test_targets_with_two_images_per_identity():
    several = FIVE._replace(illuminations=3, images_per_identity=2, interpolate=True)
    real = {
        "identity": jnp.array([7, 7, 2, 2, -1, -1, 4, 5]),
        "target_pose": jnp.array([3, -1, 1, 0, -1, -1, 2, 2]),
    }
    labels, valid, codes = sample(real, several)
    identity = labels["identity"].reshape(4, 4)
    assert identity.tolist() == [
        [7, 7, 7, -1],
        [2, 2, 2, -1],
        [-1, -1, -1, -1],
        [4, 5, -1, -1],
    ]
    # The third set has unknown, the fourth different identities.
    assert valid.reshape(4, 4)[:, 2].tolist() == [True, True, False, False]
    assert valid.reshape(4, 4)[:, [0, 1, 3]].all()
    pose = labels["pose"].reshape(4, 4)
    assert pose[0, [0, 2]].tolist() == [3, 3]  # fused: that of the first
    assert pose[1, :3].tolist() == [1, 0, 1]
    assert pose.min() >= 0 and pose.max() < 5
    np.testing.assert_array_equal(codes[0].argmax(1), labels["pose"])
    np.testing.assert_array_equal(codes[1].argmax(1), labels["illumination"])
    assert codes[0].shape == (16, 5) and codes[1].shape == (16, 3)
    same = {"identity": jnp.array([1, 1, 1, 1])}
    _, valid, _ = sample(same, several)
    assert not valid.reshape(2, 4)[:, 3].any()  # between two sets of one identity


def test_pose_classes_and_yaws_are_uniform():
    real = {"identity": jnp.zeros(3000, jnp.int32)}
    four = Targets(angles=(-30, -10, 10, 30))
    labels, _, _ = sample(real, four)
    counts = np.bincount(labels["pose"])
    assert len(counts) == 4 and counts.min() > 650
    labels, _, codes = sample(real, YAWS)
    degrees = np.rad2deg(labels["pose"])
    assert -45 <= degrees.min() < -44 and 44 < degrees.max() <= 45
    np.testing.assert_array_equal(codes[0][:, 0], labels["pose"])


def faces(rows, size=8):
    """Returns images with a bright left half, and their row number in blue."""
    images = np.zeros((rows, size, size, 3), np.uint8)
    images[:, :, : size // 2, 0] = 200
    images[..., 2] = np.arange(rows)[:, None, None]
    return jnp.asarray(images)


def batch(rows=40):
    return {
        "image": faces(rows),
        "target_image": faces(rows),
        "label": jnp.arange(rows),
        "pose": jnp.where(jnp.arange(rows) % 5 == 0, -1, 0),
        "target_pose": jnp.ones(rows, jnp.int32),
        "seed": jnp.arange(rows, dtype=jnp.uint32),
    }


def test_mirrored_faces_have_mirrored_poses():
    spec = InputSpec(size=8)
    real = views(batch(), THREE, spec, flip="remap")
    mirrored = np.asarray(real["image"][:, 0, 0, 0] < 0)
    assert 8 < mirrored.sum() < 32
    unknown = np.arange(40) % 5 == 0
    expected = np.where(unknown, -1, np.where(mirrored, 2, 0))
    np.testing.assert_array_equal(real["pose"], expected)
    assert (real["target_pose"] == 1).all()
    np.testing.assert_array_equal(real["image"], real["target_image"])
    kept = views(batch(), THREE, spec, flip="keep")
    np.testing.assert_array_equal(kept["image"], real["image"])
    np.testing.assert_array_equal(kept["pose"], batch()["pose"])
    plain = views(batch(), THREE, spec)
    assert (plain["image"][:, 0, 0, 0] > 0).all()
    yaw = jnp.where(jnp.arange(40) % 5 == 0, jnp.nan, 30.0)
    faces = {n: v for n, v in batch().items() if not n.startswith("target")}
    real = views(faces | {"yaw": yaw}, YAWS, spec, flip="remap")
    expected = np.where(unknown, np.nan, np.where(mirrored, -1, 1) * np.deg2rad(30))
    np.testing.assert_allclose(real["pose"], expected, rtol=1e-6)


def test_faces_and_ground_truth_have_the_same_random_crop():
    spec = InputSpec(size=8, crop=(6, 6))
    real = views(batch(), THREE, spec)
    assert real["image"].shape == (40, 6, 6, 3)
    left = (real["image"][:, 0, :, 0] > 0).sum(1)
    assert set(np.asarray(left).tolist()) == {2, 3, 4}  # offsets 2, 1, 0
    np.testing.assert_array_equal(real["image"], real["target_image"])
    assert "degraded" not in real
    black = (("crop", {"probability": 1.0, "area": (0.2, 0.3)}),)
    real = views(batch(), THREE, spec, degradation=black)
    np.testing.assert_array_equal(real["image"], real["target_image"])
    assert ((real["degraded"] == -1).mean((1, 2, 3)) > 0.5).all()
    jitter = (("colour_jitter", {"probability": 1.0}),)
    real = views(batch(), THREE, spec, augmentation=jitter)
    np.testing.assert_array_equal(real["image"], real["target_image"])


def test_ground_truth_of_every_synthesised_image():
    several = THREE._replace(images_per_identity=2, interpolate=True)
    real = {
        "target_image": jnp.arange(4.0).reshape(4, 1, 1, 1),
        "target_pose": jnp.array([0, 1, -1, 2]),
    }
    images, has_truth = targets.ground_truth(real, several)
    assert images.ravel().tolist() == [0, 1, 0, 0, 2, 3, 2, 2]
    assert has_truth.tolist() == [True, True, True, False, False, True, False, False]
    assert targets.ground_truth({}, several) is None


def test_target_embeddings_of_synthesised_images():
    several = THREE._replace(images_per_identity=2, interpolate=True)
    embeddings = jnp.arange(8.0).reshape(4, 2)
    rows, has_target = targets.source_embeddings(embeddings, several)
    sums = [[2, 4], [10, 12]]
    expected = [[0, 1], [2, 3], sums[0], sums[0], [4, 5], [6, 7], sums[1], sums[1]]
    assert rows.tolist() == expected
    assert has_target.tolist() == 2 * [True, True, True, False]


ARC = {"angles": tuple(range(-90, 91, 15))}


@pytest.mark.parametrize(
    ("match", "fields", "flip"),
    [
        ("angles are .0,.: give two or more", {"angles": (0,)}, "none"),
        ("angles are ..: give two or more", {"angles": ()}, "none"),
        ("angles are .90, 0.: give two", {"angles": (90, 0)}, "none"),
        ("angles are .0, 0.: give two", {"angles": (0, 0)}, "none"),
        ("angles are .0, 200.: give two", {"angles": (0, 200)}, "none"),
        ("angles are .0, nan.: give two", {"angles": (0, np.nan)}, "none"),
        ("angles are .0, 'a'.: give two", {"angles": (0, "a")}, "none"),
        ("unsigned poses are classes", {"unsigned": True, "continuous": True}, "none"),
        ("needs unsigned poses .*: use 'remap'", ARC, "keep"),
        ("need the angles of the other side", {"angles": (0, 90)}, "remap"),
        ("need the angles of the other side", ARC | {"unsigned": True}, "remap"),
        ("lit from the other side", ARC | {"illuminations": 2}, "remap"),
        ("did you mean 'remap'", ARC, "remp"),
    ],
)
def test_invalid_targets_are_refused(match, fields, flip):
    with pytest.raises(UserError, match=match):
        Targets(**fields).check(flip)


@pytest.mark.parametrize(
    ("fields", "flip"),
    [
        (ARC, "remap"),
        ({"angles": (0, 90), "continuous": True}, "remap"),
        ({"angles": (0, 90), "unsigned": True}, "keep"),
        ({"angles": (0, 90), "illuminations": 2}, "none"),
    ],
)
def test_valid_targets_are_accepted(fields, flip):
    Targets(**fields).check(flip)
