"""Labelled sets: identities, exact labels, pairs, batches on devices and videos."""

import json
import os
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fr_jax.errors import UserError
from fr_jax.evaluation.evaluator import Trained
from fr_jax.evaluation.verification import Verification
from fr_jax.faces import EXPRESSIONS, batches, pairs, sets, video
from fr_jax.faces.landmark_maps import landmark_maps
from fr_jax.faces.renderer import light
from fr_jax.faces.renderer.render import Rendering
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.usefixtures("quick_drawing"),
    pytest.mark.xdist_group("drawn"),
]


def labels(face_set, identities, count, first=0):
    """Returns identity number, image number and labels of each row."""
    label, image = sets.rows(face_set, identities, count)
    return first + label, image, sets.label(face_set, 0, first + label, image)


def test_identity_codes_agree_between_sets_and_differ_between_identities():
    _, _, multipie = labels(sets.multipie(), 1, 0, first=3)
    identities, _, kdef = labels(sets.kdef(), 2, 0, first=3)
    np.testing.assert_array_equal(multipie.codes.identity[0], kdef.codes.identity[0])
    distinct = [kdef.codes.identity[[0, 70]]]
    for seed, offset in ((0, sets.FIRST_UNSEEN), (1, 0)):
        others = sets.label(sets.kdef(), seed, offset + identities, np.zeros(140))
        distinct.append(others.codes.identity[[0, 70]])
    identities = np.concatenate(distinct)
    distances = np.linalg.norm(identities[:, None] - identities[None], axis=2)
    typical = np.sqrt(2 * identities.shape[1])  # of two standard normal vectors
    assert distances[~np.eye(6, dtype=bool)].min() > 0.6 * typical
    assert sets.identity_name(0, np.int64(12)) == "s0n0000012"
    assert sets.identity_name(1, 12) != sets.identity_name(0, 12)


def test_usynthface_varies_only_expression_pose_and_light():
    _, _, labelled = labels(sets.usynthface(30.0), 4, 16)
    codes = labelled.codes
    for constant in (codes.identity, codes.age, codes.style, codes.camera):
        rows = constant.reshape(4, 16, -1)
        assert (rows == rows[:, :1]).all()
        assert (rows[0] != rows[1]).any()
    for varied in (codes.expression, codes.pose, codes.light):
        rows = varied.reshape(64, -1)
        assert len(np.unique(rows, axis=0)) == 64
    assert np.abs(codes.pose[:, 0]).max() <= 30
    assert np.abs(codes.pose[:, 0]).max() > 20
    assert (labelled.expression == -1).all() and (labelled.light == -1).all()
    order = np.random.default_rng(0).permutation(64)
    again = sets.label(sets.usynthface(30.0), 0, order // 16, order % 16)
    for one, other in zip(jax.tree.leaves(labelled), jax.tree.leaves(again)):
        np.testing.assert_array_equal(one[order], other)


def test_kdef_has_every_expression_at_every_angle_in_two_sessions():
    _, image, labelled = labels(sets.kdef(), 2, 0)
    assert len(image) == 2 * 70
    yaw = labelled.codes.pose[:, 0]
    cells = set(
        zip(labelled.session.tolist(), labelled.expression.tolist(), yaw.tolist())
    )
    assert cells == {
        (s, e, a) for s in (0, 1) for e in range(7) for a in (-90, -45, 0, 45, 90)
    }
    first = slice(0, 70)
    for day in (0, 1):
        rows = (labelled.session == day)[first]
        assert np.ptp(labelled.codes.light[first][rows], axis=0).max() == 0
        assert np.ptp(labelled.codes.style[first][rows], axis=0).max() == 0
    assert np.ptp(labelled.codes.light[first], axis=0).max() > 0.01
    assert ((labelled.codes.age >= 20) & (labelled.codes.age <= 30)).all()
    happy = labelled.expression == EXPRESSIONS.index("happy")
    smile = labelled.codes.expression[:, 1]
    assert (
        smile[happy].min() > 0.7 and np.abs(smile[labelled.expression == 0]).max() == 0
    )


def test_multipie_has_thirteen_poses_under_twenty_lights():
    _, image, labelled = labels(sets.multipie(), 1, 0)
    assert len(image) == 260
    yaw = labelled.codes.pose[:, 0]
    assert sorted(set(yaw.tolist())) == list(range(-90, 91, 15))
    assert len(set(zip(yaw.tolist(), labelled.light.tolist()))) == 260
    np.testing.assert_allclose(
        labelled.codes.light, light.presets()[labelled.light], rtol=1e-6
    )
    assert (labelled.codes.expression == 0).all()


def test_ages_are_whole_years_of_children_and_adults():
    label, image, labelled = labels(sets.ages(0.5), 40, 8)
    age = labelled.codes.age
    assert (age == age.astype(int)).all()
    owners = sets.child_owners(0, np.arange(40), 0.5)
    assert 10 <= owners.sum() <= 30
    child = owners[label] & (image % 2 == 0)
    assert ((age >= 1) & (age <= 12))[child].all()
    assert ((age >= 18) & (age <= 75))[~child].all()


@pytest.fixture(scope="module")
def rendered(quick_drawing):
    """Five identities with four images each."""
    return sets.arrays(sets.default(45.0), seed=2, num_identities=5, images=4, size=32)


def test_images_of_an_identity_have_similar_skin_colours(rendered):
    image = rendered["image"]
    assert image.shape == (20, 32, 32, 3) and image.dtype == np.uint8
    assert rendered["label"].tolist() == np.repeat(range(5), 4).tolist()
    assert rendered["age"].shape == (20,)
    colour = image[:, 12:28, 10:22].reshape(20, -1, 3).mean(axis=1)
    hue = colour / colour.sum(axis=1, keepdims=True)  # independent of brightness
    distances = np.linalg.norm(hue[:, None] - hue[None], axis=2)
    same = rendered["label"][:, None] == rendered["label"][None]
    different = ~np.eye(20, dtype=bool)
    assert distances[different].min() > 0
    assert distances[same & different].mean() < distances[~same].mean()


def test_rendering_in_another_order_gives_the_same_pixels(rendered):
    order = np.random.default_rng(0).permutation(20)[:9]
    parts = sets.render_set(
        sets.default(45.0), 2, order // 4, order % 4, size=32, quality="fast"
    )
    image = np.concatenate([part.image for part in parts])
    np.testing.assert_array_equal(image, rendered["image"][order])


def test_pairs_are_a_verification_set_of_unseen_identities(rendered):
    numbered, face_set = pairs.number(2, 20, 2), sets.default(45.0)
    count = {"num_identities": 20, "images": 2, "first": sets.FIRST_UNSEEN}
    images = sets.arrays(face_set, seed=2, size=32, **count)["image"]
    names = [sets.identity_name(2, number) for number in numbered.identities]
    unseen = Verification("unseen", images, *numbered[2:], identities=names)
    pixels = unseen.images.reshape(40, -1).astype(np.float64)
    pixels -= pixels.mean(axis=0)

    def embed(images, flip, progress):
        assert len(images) == 40 and flip
        return {"embedding": pixels, "mirrored": pixels}

    assert 0 <= unseen(Trained(embed, {}))["unseen/accuracy"] <= 1
    trained = [sets.identity_name(2, number) for number in rendered["label"]]
    assert not set(trained) & set(names)


@pytest.mark.parametrize(("identities", "images"), [(20, 2), (30, 5), (200, 3)])
def test_folds_of_pairs_share_no_identity(identities, images):
    numbered = pairs.number(0, identities, images)
    identity = numbered.identities[numbered.pairs]  # [P, 2]
    assert ((identity[:, 0] == identity[:, 1]) == numbered.same).all()
    kinds = np.stack([numbered.folds, numbered.same])
    assert len(set(np.unique(kinds, axis=1, return_counts=True)[1])) == 1
    assert numbered.same.sum() == identities * images * (images - 1) // 2
    distinct = np.unique(np.sort(numbered.pairs, axis=1), axis=0)
    assert len(distinct) == len(numbered.pairs)
    fold_of = {}
    for fold, couple in zip(numbered.folds, identity):
        for member in couple:
            assert fold_of.setdefault(int(member), fold) == fold
    assert min(fold_of) == sets.FIRST_UNSEEN and len(fold_of) == identities


def test_landmark_maps_agree_with_opencv():
    rng = np.random.default_rng(0)
    points = rng.normal(100, 28, (3, 68, 2)).astype(np.float32)  # of 200 pixels
    maps = np.asarray(landmark_maps(jnp.asarray(points), 200))
    assert maps.shape == (3, 112, 112, 1)
    for actual, scaled in zip(maps, points * np.float32(112 / 200)):
        x, y = np.clip(scaled, 0, 111).astype(int).T
        dots = np.zeros((112, 112))
        dots[y, x] = 1
        tight = dots[y.min() : y.max(), x.min() : x.max()]
        expected = cv2.resize(tight, (112, 112)) > 0.5
        assert (actual[..., 0] != expected).sum() <= 2  # bilinear values of one half


def stub(codes, size, frame, quality):
    """Returns a rendering of a black disc with five white dots at the landmarks."""
    rows = len(codes.age)
    angle = codes.pose[:, :1] / 90 + jnp.arange(5.0)[None]
    five = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1) * 0.3 + 0.5
    five = five * size - 0.5  # [rows, 5, 2]
    grid = jnp.arange(size)
    column = jnp.abs(grid[None, None] - five[..., :1])
    row = jnp.abs(grid[None, None] - five[..., 1:])
    dots = (jnp.exp(-(row[..., :, None] ** 2) - column[..., None, :] ** 2)).sum(1)
    disc = jnp.hypot(grid[:, None] - size / 2, grid[None, :] - size / 2) < 0.45 * size
    disc = jnp.broadcast_to(disc.astype(jnp.float32), (rows, size, size))
    image = jnp.repeat(jnp.clip(dots, 0, 1)[..., None], 3, axis=-1)
    sixty_eight = jnp.concatenate([five] * 14, axis=1)[:, :68]
    return Rendering(image, sixty_eight, five, disc, disc, disc)


def test_visible_faces_of_a_frame_are_at_their_landmarks(monkeypatch):
    monkeypatch.setattr(video, "render", stub)
    film = video.Film(1, num_identities=4, shots=3, frames=9, size=(320, 240))
    frame = jax.jit(
        video._frame.__wrapped__,
        static_argnames=("num_identities", "together", "size", "quality"),
    )
    monkeypatch.setattr(video, "_frame", frame)
    frames = list(film)
    assert len(frames) == len(film) == 27
    assert [f.shot for f in frames] == np.repeat([0, 1, 2], 9).tolist()
    visible_faces, hidden_faces = 0, 0
    for f in frames:
        assert len(set(f.identities.tolist())) == 3
        assert ((f.visible >= 0) & (f.visible <= 1.001)).all()
        for points, visible in zip(f.landmarks5, f.visible):
            inside = ((points > 2) & (points < (317, 237))).all()
            if inside and visible > 0.99:
                for x, y in points:
                    patch = f.image[
                        round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2
                    ]
                    assert patch.max() > 100
                visible_faces += 1
            hidden_faces += inside and visible < 0.7
    assert visible_faces > 20 and hidden_faces > 3
    casts = {f.shot: tuple(f.identities) for f in frames}
    assert len({tuple(f.identities) for f in frames}) == 3  # one cast per shot
    assert {0, 1, 2} <= {identity for cast in casts.values() for identity in cast}
    steps = np.diff([f.landmarks5[:, 0] for f in frames[:9]], axis=0)
    assert 0 < np.abs(steps).max() < 12  # pixels per frame
    again = next(iter(film)).image
    np.testing.assert_array_equal(again, frames[0].image)


def test_face_boxes_extend_from_the_forehead_to_the_chin():
    points = np.array([[[10, 20], [30, 60]]], float)
    np.testing.assert_array_equal(sets.face_boxes(points), [[10, 10, 20, 50]])


@pytest.mark.long
def test_generated_batches_are_the_same_on_one_and_eight_devices():
    code = """
import json, jax, numpy as np
from jax.sharding import AxisType, Mesh
from fr_jax.faces import batches, sets
from fr_jax.training.streams import GeneratedStream
batches_of = {}
for count in (1, 8):
    grid = np.array(jax.devices()[:count]).reshape(count, 1)
    mesh = Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    make = batches.make(
        sets.multipie(), 9, 16, images_per_identity=2, size=24, mesh=mesh
    )
    stream = GeneratedStream(make, 16, seed=3, mesh=mesh)
    batches_of[count] = stream.batch_at(5)
    assert len(batches_of[count]["image"].addressable_shards) == count
one, many = (jax.tree.map(np.asarray, batches_of[count]) for count in (1, 8))
equal = [bool((one[name] == many[name]).all()) for name in ("image", "label", "seed")]
print(json.dumps({
    "labels": one["label"].tolist(), "equal": equal,
    "contrast": float(one["image"].std()), "shape": one["image"].shape,
    "dtype": str(one["image"].dtype),
}))
"""
    flags = (
        "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert all(result["equal"])
    counts = np.unique(result["labels"], return_counts=True)[1]
    assert counts.tolist() == [2] * 8
    assert result["shape"] == [16, 24, 24, 3] and result["dtype"] == "uint8"
    assert result["contrast"] > 20


def test_generated_batches_of_poses_and_lights(monkeypatch):
    """Stub images: red encodes the identity, green the angle."""

    def coloured(codes, *, mesh, size, quality):
        colour = [40 * codes.identity[:, 0], codes.pose[:, 0], 0 * codes.age]
        pixels = jnp.clip(100 + jnp.stack(colour, axis=1), 0, 255).astype(jnp.uint8)
        pixels = pixels[:, None, None]
        return (jnp.broadcast_to(pixels, (len(pixels), size, size, 3)),)

    monkeypatch.setattr(sets, "render_rows", coloured)
    settings = {"images_per_identity": 2, "paired": True, "size": 4}
    make_batch = batches.make_posed((-30, 0, 30), (1, 6), 9, 8, **settings)
    batch = jax.jit(make_batch)(jax.random.key(0))
    label = np.asarray(batch["label"]).reshape(4, 2)
    assert (label[:, 0] == label[:, 1]).all() and len(set(label[:, 0].tolist())) == 4
    for prefix in ("", "target_"):
        pixels = np.asarray(batch[f"{prefix}image"])[:, 0, 0].astype(int)
        np.testing.assert_array_equal(pixels[:, 1], 70 + 30 * batch[f"{prefix}pose"])
        assert (pixels[::2, 0] == pixels[1::2, 0]).all()
    np.testing.assert_array_equal(batch["target_light"], batch["light"])


@pytest.mark.parametrize(
    ("use", "match"),
    [
        (
            lambda: sets.arrays(sets.default(), num_identities=0, images=3),
            "a set of 0 ",
        ),
        (
            lambda: sets.arrays(sets.default(), num_identities=3),
            "0 images per identity",
        ),
        (
            lambda: sets.arrays(sets.kdef(), num_identities=3, images=12),
            "kdef has 70 images per identity, not 12",
        ),
        (lambda: pairs.number(0, 25, 3), "25 identities for 10 disjoint folds"),
        (lambda: pairs.number(0, 10, 3), "at least 20"),
        (lambda: pairs.number(0, 20, 1), "a pair needs at least 2"),
        (
            lambda: batches.make(sets.default(), 50, 16, images_per_identity=3),
            "use a multiple of 3, at most 150",
        ),
        (
            lambda: batches.make(sets.default(), 3, 16, images_per_identity=2),
            "2 images per identity, 3 identities;",
        ),
        (
            lambda: batches.make_posed((-30, 30), (1,), 9, 10, images_per_identity=3),
            "10 with 3 images per identity",
        ),
        (
            lambda: batches.make_posed((-30, 30), (20,), 9, 4),
            "light 20: there are 20",
        ),
        (lambda: video.Film(0, together=7), "7 identities in a shot, 6 in the group"),
        (lambda: video.Film(0, shots=0), "0 shots"),
        (lambda: video.Film(0, size=(321, 240)), "frames of 321x240"),
    ],
    ids=[
        "no identities",
        "no images",
        "images of a grid",
        "uneven folds",
        "empty folds",
        "no pairs",
        "uneven batch",
        "few identities",
        "uneven posed batch",
        "no such light",
        "together",
        "no shots",
        "odd frame",
    ],
)
def test_invalid_arguments_raise(use, match):
    with pytest.raises(UserError, match=match):
        use()
