"""What is asked of a generator: labels, codes, true images, mirrored and cut alike."""

import jax
import jax.numpy as jnp
import numpy as np

from fr_jax.models.dr_gan import trunk as dr_gan_trunk
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import NetState
from fr_jax.systems.dr_gan import targets as rotations
from fr_jax.systems.dr_gan.targets import Rotations

KEY = jax.random.key(0)


def test_known_labels():
    assert rotations.known(jnp.array([-1, 0, 3])).tolist() == [False, True, True]
    assert rotations.known(jnp.array([np.nan, -1.0])).tolist() == [False, True]


def test_what_is_wanted_of_two_images_of_each_person():
    asked = Rotations(5, illuminations=3, images=2, interpolate=True)
    assert (asked.fused, asked.decodes) == (True, 4)
    real = {
        "identity": jnp.array([7, 7, 2, 2, -1, -1, 4, 5]),
        "target_pose": jnp.array([3, -1, 1, 0, -1, -1, 2, 2]),
    }
    labels, valid, codes = rotations.targets(real, asked, KEY)
    identity = labels["identity"].reshape(4, 4)
    assert identity.tolist() == [
        [7, 7, 7, -1],
        [2, 2, 2, -1],
        [-1, -1, -1, -1],
        [4, 5, -1, -1],
    ]
    # Nobody knows whose images the third and the fourth set are made of.
    assert valid.reshape(4, 4)[:, 2].tolist() == [True, True, False, False]
    assert valid.reshape(4, 4)[:, [0, 1, 3]].all()
    pose = labels["pose"].reshape(4, 4)
    assert pose[0, [0, 2]].tolist() == [3, 3]  # all of them together: as the first
    assert pose[1, :3].tolist() == [1, 0, 1]
    assert pose.min() >= 0 and pose.max() < 5
    np.testing.assert_array_equal(codes[0].argmax(1), labels["pose"])
    np.testing.assert_array_equal(codes[1].argmax(1), labels["illumination"])
    assert codes[0].shape == (16, 5) and codes[1].shape == (16, 3)
    same = {"identity": jnp.array([1, 1, 1, 1])}
    _, valid, _ = rotations.targets(same, asked, KEY)
    assert not valid.reshape(2, 4)[:, 3].any()  # between one person and himself


def test_poses_are_drawn_alike_and_yaws_within_bounds():
    real = {"identity": jnp.zeros(3000, jnp.int32)}
    labels, _, _ = rotations.targets(real, Rotations(4), KEY)
    counts = np.bincount(labels["pose"])
    assert len(counts) == 4 and counts.min() > 650
    labels, _, codes = rotations.targets(real, Rotations(0, max_yaw=45.0), KEY)
    degrees = np.rad2deg(labels["pose"])
    assert -45 <= degrees.min() < -44 and 44 < degrees.max() <= 45
    np.testing.assert_array_equal(codes[0][:, 0], labels["pose"])


def faces(rows, size=8):
    """Bright on the left; the row's number in blue."""
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


def test_a_mirrored_face_looks_the_other_way():
    spec = InputSpec(size=8)
    real = rotations.views(batch(), Rotations(3), KEY, spec, flip="remap")
    mirrored = np.asarray(real["image"][:, 0, 0, 0] < 0)
    assert 8 < mirrored.sum() < 32
    unknown = np.arange(40) % 5 == 0
    expected = np.where(unknown, -1, np.where(mirrored, 2, 0))
    np.testing.assert_array_equal(real["pose"], expected)
    assert (real["target_pose"] == 1).all()
    np.testing.assert_array_equal(real["image"], real["target_image"])
    kept = rotations.views(batch(), Rotations(3), KEY, spec, flip="keep")
    np.testing.assert_array_equal(kept["image"], real["image"])
    np.testing.assert_array_equal(kept["pose"], batch()["pose"])
    plain = rotations.views(batch(), Rotations(3), KEY, spec)
    assert (plain["image"][:, 0, 0, 0] > 0).all()
    yaw = jnp.where(jnp.arange(40) % 5 == 0, jnp.nan, 30.0)
    turned = {n: v for n, v in batch().items() if not n.startswith("target")}
    turned |= {"yaw": yaw}
    real = rotations.views(turned, Rotations(0), KEY, spec, flip="remap")
    expected = np.where(unknown, np.nan, np.where(mirrored, -1, 1) * np.deg2rad(30))
    np.testing.assert_allclose(real["pose"], expected, rtol=1e-6)


def test_faces_are_cut_anywhere_and_their_true_image_alike():
    asked = Rotations(3)
    spec = InputSpec(size=8, crop=(6, 6))
    real = rotations.views(batch(), asked, KEY, spec)
    assert real["image"].shape == (40, 6, 6, 3)
    left = (real["image"][:, 0, :, 0] > 0).sum(1)
    assert set(np.asarray(left).tolist()) == {2, 3, 4}  # from 0, 1 or 2 on
    np.testing.assert_array_equal(real["image"], real["target_image"])
    assert "degraded" not in real
    black = (("crop", {"probability": 1.0, "area": (0.2, 0.3)}),)
    real = rotations.views(batch(), asked, KEY, spec, degradation=black)
    np.testing.assert_array_equal(real["image"], real["target_image"])
    assert ((real["degraded"] == -1).mean((1, 2, 3)) > 0.5).all()
    jitter = (("colour_jitter", {"probability": 1.0}),)
    real = rotations.views(batch(), asked, KEY, spec, augmentation=jitter)
    np.testing.assert_array_equal(real["image"], real["target_image"])


def test_the_truth_beside_every_image_that_is_made():
    asked = Rotations(3, images=2, interpolate=True)
    real = {
        "target_image": jnp.arange(4.0).reshape(4, 1, 1, 1),
        "target_pose": jnp.array([0, 1, -1, 2]),
    }
    images, there = rotations.truth(real, asked)
    assert images.ravel().tolist() == [0, 1, 0, 0, 2, 3, 2, 2]
    assert there.tolist() == [True, True, True, False, False, True, False, False]


def net(value, wrap):
    tree = {"trunk": {"kernel": jnp.full(2, value)}}
    params = {**wrap(tree), "fc": jnp.full(3, value)}
    moments = jax.tree.map(lambda x: x + 10, params)
    return NetState(params, wrap(tree), {"count": jnp.int32(5), "mu": moments})


def test_trunks_change_places_and_their_moments_begin_anew():
    def pair():
        encoder = net(1.0, lambda tree: {"encoder": tree})
        return encoder, net(2.0, lambda tree: tree)

    def trunks(direction):
        g, d = dr_gan_trunk.switch(direction, *pair())
        for of_g, of_d in ((g.params, d.params), (g.batch_stats, d.batch_stats)):
            found = of_g["encoder"]["trunk"]["kernel"][0], of_d["trunk"]["kernel"][0]
        moments = g.opt_state["mu"]["encoder"], d.opt_state["mu"]
        kept = [float(tree["trunk"]["kernel"][0]) for tree in moments]
        assert g.opt_state["mu"]["fc"][0] == 11 and d.opt_state["mu"]["fc"][0] == 12
        assert g.opt_state["count"] == 5 and g.params["fc"][0] == 1
        return [float(x) for x in found], kept

    assert trunks("swap") == ([2, 1], [0, 0])
    assert trunks("encoder_to_discriminator") == ([1, 1], [11, 0])
    assert trunks("discriminator_to_encoder") == ([2, 2], [0, 12])


def test_both_trunks_begin_with_a_recogniser():
    encoder = {"params": {"trunk": {"conv11": 1, "conv52": 2, "conv53": 3}}}
    joined = {"params": {"trunk": {"conv11": 0, "conv52": 0, "conv53": 0}, "fc": 0}}
    found = dr_gan_trunk.from_recogniser(encoder, joined)
    assert found["params"] == {"trunk": encoder["params"]["trunk"], "fc": 0}
    tail = {"conv52": 0, "conv53": 0}
    branches = {
        "params": {
            "trunk": {"conv11": 0},
            "tail_identity": tail,
            "tail_pose": tail,
            "fc_pose": 0,
        }
    }
    found = dr_gan_trunk.from_recogniser(encoder, branches)["params"]
    assert found["trunk"] == {"conv11": 1}
    assert found["tail_identity"] == {"conv52": 2, "conv53": 3}
    assert found["tail_pose"] == tail


def test_layers_that_are_not_alike_stay_with_their_statistics():
    def tree(**kernels):
        params = {name: {"kernel": np.full(n, n)} for name, n in kernels.items()}
        means = {name: np.full(3, n) for name, n in kernels.items()}
        return {"params": {"trunk": params}, "batch_stats": {"trunk": means}}

    encoder, discriminator = tree(conv11=4, conv12=5), tree(conv11=4, conv12=6)
    discriminator["batch_stats"]["trunk"]["conv11"] = np.zeros(3)
    found = dr_gan_trunk.from_recogniser(encoder, discriminator)
    assert found["batch_stats"]["trunk"]["conv11"].tolist() == [4] * 3
    assert found["batch_stats"]["trunk"]["conv12"].tolist() == [6] * 3
    assert found["params"]["trunk"]["conv12"]["kernel"].size == 6
