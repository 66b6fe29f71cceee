"""Sampling, control and alignment of DiscoFaceGAN's faces."""

import functools
import json
import sys

import cv2
import jax
import numpy as np
import pytest

from data_pipelines.vision import align
from fr_jax import models
from fr_jax.backend import sharding
from fr_jax.errors import UserError
from fr_jax.faces import discofacegan, generated
from fr_jax.faces.renderer import camera
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.training.streams import GeneratedStream
from tests.support.devices import on_eight_devices
from tests.support.discofacegan import needs
from tests.support.paths import PARITY, read_npz

_OPTIONS = {"fmap_base": 128, "fmap_max": 2, "dlatent_size": 4, "mapping_fmaps": 4}


@functools.cache
def network(identities=0):
    """Returns a network of random weights."""
    options = _OPTIONS | {"identities": identities}
    model = models.create("discofacegan", **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.example_inputs(1))
    leaves, tree = jax.tree.flatten(shapes)
    random = np.random.default_rng(0)
    leaves = [0.3 * random.standard_normal(x.shape).astype("f4") for x in leaves]
    variables = jax.tree.unflatten(tree, leaves)
    return Network("discofacegan", options, variables, InputSpec(256), "generator")


@needs(PARITY)
def test_golden_draws():
    golden = read_npz(PARITY / "golden/disco_vae_golden.npz")
    for number, draw in enumerate(discofacegan.draws(0, 2, 128)):
        expected = golden[f"s42_id{number}_z"]
        np.testing.assert_array_equal(draw.codes[:4], expected)
        np.testing.assert_array_equal(draw.noise[:1], golden[f"s42_id{number}_noise"])
        assert (draw.noise == draw.noise[0]).all()
        assert (draw.codes[:, :128] == draw.codes[0, :128]).all()
        assert len(np.unique(draw.codes[:, 178])) == 128


def test_parts_of_a_set_equal_the_whole():
    whole = list(discofacegan.draws(0, 5, 3, seed=9))
    parts = [*discofacegan.draws(0, 2, 3, seed=9), *discofacegan.draws(2, 3, 3, seed=9)]
    for one, other in zip(whole, parts):
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_array_equal(one.noise, other.noise)


@pytest.mark.parametrize(
    "factor, columns",
    [(0, (128, 179)), (1, (128, 160)), (2, (160, 176)), (3, (176, 179))],
)
def test_factors_vary_their_own_columns(factor, columns):
    (draw,) = discofacegan.draws(0, 1, 4, factor=factor)
    varies = (draw.codes != draw.codes[0]).any(axis=0)
    expected = np.zeros(179, bool)
    expected[slice(*columns)] = True
    np.testing.assert_array_equal(varies, expected)
    (both,) = discofacegan.draws(0, 1, 4)
    np.testing.assert_array_equal(draw.codes[:, expected], both.codes[:, expected])


def test_landmarks_of_three_poses():
    """The documented positions; angles about x and y in radians."""
    table = {
        (0, 0): [
            (88.9, 91.6),
            (166.9, 91.6),
            (128.4, 134.1),
            (96.1, 176.3),
            (159.5, 176.3),
        ],
        (0, 0.3): [
            (95.3, 91.2),
            (169.6, 92.0),
            (149.8, 134.0),
            (105.7, 176.6),
            (166.1, 175.9),
        ],
        (0.3, 0): [
            (88.6, 97.9),
            (167.2, 97.9),
            (128.4, 155.1),
            (96.5, 181.9),
            (159.1, 181.8),
        ],
    }
    coefficients = np.zeros((3, 254), np.float32)
    coefficients[:, 224:226] = list(table)
    found = discofacegan.landmarks(coefficients)
    np.testing.assert_allclose(found, list(table.values()), atol=0.06)


@pytest.mark.parametrize("name, axis", [("yaw", 0), ("pitch", 1), ("roll", None)])
def test_angles_have_the_signs_of_the_renderer(name, axis):
    """The nose moves, or the eyes turn, in the direction of a rendered face's."""
    degrees = {"yaw": [-20, 20], "pitch": [-20, 20], "roll": [-20, 20]}[name]
    coefficients = np.zeros((2, 254), np.float32)
    rotated = discofacegan.with_pose(coefficients, **{name: degrees})
    np.testing.assert_allclose(discofacegan.angles(rotated)[name], degrees, rtol=1e-6)
    points = np.asarray(discofacegan.landmarks(rotated))
    nose = points[:, 2] - points[:, :2].mean(axis=1)
    slope = points[:, 1] - points[:, 0]
    for row, degree in enumerate(degrees):
        pose = {"yaw": (degree, 0, 0), "pitch": (0, degree, 0), "roll": (0, 0, degree)}
        turn = np.asarray(camera.rotation(np.array(pose[name], np.float32)))
        rendered = discofacegan._POINTS @ turn.T  # y up
        own = rendered[2] - rendered[:2].mean(axis=0)
        if axis is None:
            angle = np.arctan2(slope[row, 1], slope[row, 0])
            expected = np.arctan2(*(-(rendered[1] - rendered[0])[[1, 0]] * (1, -1)))
            assert np.degrees(angle) == pytest.approx(np.degrees(expected), abs=1)
        else:
            down = own * (1, -1, 1)
            straight = discofacegan._POINTS[2] - discofacegan._POINTS[:2].mean(0)
            moved = down[axis] - (straight * (1, -1, 1))[axis]
            frontal = np.asarray(discofacegan.landmarks(coefficients[:1]))[0]
            before = frontal[2] - frontal[:2].mean(axis=0)
            assert np.sign(nose[row, axis] - before[axis]) == np.sign(moved)


def test_interpolation_moves_one_factor():
    random = np.random.default_rng(0)
    first, last = random.standard_normal((2, 3, 254))
    between = discofacegan.interpolated(first, last, "gamma", [0, 0.5, 1])
    middle = (first[1, 227:] + last[1, 227:]) / 2
    np.testing.assert_allclose(between[1, 227:], middle)
    np.testing.assert_allclose(between[[0, 2], 227:], [first[0, 227:], last[2, 227:]])
    np.testing.assert_array_equal(between[:, :227], first[:, :227])


def test_alignment_is_that_of_records():
    """Within rounding of OpenCV, which interpolates with five bits."""
    random = np.random.default_rng(0)
    image = cv2.resize(random.integers(0, 255, (16, 16, 3)).astype("u1"), (256, 256))
    coefficients = discofacegan.with_pose(np.zeros((1, 254), "f4"), yaw=15, roll=10)
    points = np.asarray(discofacegan.landmarks(coefficients))
    (face,), (moved,) = discofacegan.align(image[None], points)
    expected = align.crop(image, points[0])
    difference = np.abs(np.asarray(face).astype(int) - expected)
    assert np.mean(difference > 2) < 0.002
    matrix = align.similarity(points[0], align.template())
    own = points[0] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(moved, own, atol=1e-3)


def test_images_do_not_depend_on_the_batch():
    one = network()
    (draw,) = discofacegan.draws(0, 1, 5)
    generator = generated.Generator(one, batch_size=2)
    coefficients = generator.coefficients(draw.codes)
    whole = generator.images(coefficients, draw.noise)
    assert whole.image.shape == (5, 112, 112, 3) and whole.image.dtype == np.uint8
    assert whole.landmarks5.shape == (5, 5, 2)
    assert whole.image.std() > 5
    counts, pairs = [1, 1, 3], []
    for start, count in zip(np.cumsum([0, *counts]), counts):
        rows = slice(start, start + count)
        pairs.append((coefficients[rows], draw.noise[rows]))
    parts = [part.image for part in generator.each(pairs)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.image)
    assert list(map(len, parts)) == [2, 2, 1]  # rows of several pairs share a batch


def test_batches_are_fetched_one_by_one(monkeypatch):
    """At most two batches exist, however many images an identity has."""
    events = []
    log = events.append
    generator = generated.Generator(network(), batch_size=2)
    empty = np.zeros((2, 32, 32, 3)), np.zeros((2, 5, 2))
    monkeypatch.setattr(generator, "_generate", lambda *_: log("start") or empty)
    for _ in generator.each([(np.zeros((8, 254)), np.zeros((8, 32)))]):
        log("use")
    assert events == ["start", *["start", "use"] * 3, "use"]


def test_stored_identities_are_told_apart():
    one = network(identities=3)
    stored = one.variables["params"]["identity_coefficients"]
    generator = generated.Generator(one, batch_size=2)
    for number, draw in enumerate(discofacegan.draws(0, 3, 2)):
        coefficients = generator.coefficients(draw.codes, draw.identity)
        np.testing.assert_array_equal(coefficients[:, :160], stored[[number] * 2])
    for identity, message in (
        (None, "give their numbers"),
        ([0, 3], "identity 3: the generator has coefficients of 3"),
        ([-1, 0], "identity -1"),
        ([0], r"identity is \[2\], got \[1\]"),
    ):
        with pytest.raises(UserError, match=message):
            generator.coefficients(draw.codes, identity)
    sampled = generated.Sampled(one, size=32)
    sampled.batches(num_identities=3, batch_size=2, images_per_identity=1)
    with pytest.raises(UserError, match="4 identities: the generator has .* of 3"):
        sampled.batches(num_identities=4, batch_size=2, images_per_identity=1)


@pytest.mark.long
def test_chunks_equal_one_batch(monkeypatch):
    """Also with stored identities, and a last chunk that is not full."""
    one = network(identities=5)
    sampled = generated.Sampled(one, size=32, mesh=sharding.make_mesh())
    rows = np.arange(5, dtype=np.uint32), np.arange(5, dtype=np.uint32)
    whole = jax.jit(sampled.images)(one.variables, *rows)
    monkeypatch.setattr(generated, "CHUNK", 2)
    other = generated.Sampled(one, size=32, mesh=sharding.make_mesh())
    chunks = jax.jit(other.images)(one.variables, *rows)
    assert whole.shape == (5, 32, 32, 3)
    assert len(np.unique(np.asarray(whole).reshape(5, -1), axis=0)) == 5
    assert np.abs(np.asarray(whole).astype(int) - np.asarray(chunks)).max() <= 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: g.coefficients(np.zeros((2, 100))), r"codes are \[N, 179\]"),
        (
            lambda g: g.images(np.zeros((2, 257)), np.zeros((2, 32))),
            r"coefficients are \[N, 254\], got \[2, 257\]",
        ),
        (
            lambda g: g.images(np.zeros((2, 254)), np.zeros((2, 3))),
            r"noise are \[N, 32\]",
        ),
        (
            lambda g: g.images(np.zeros((2, 254)), np.zeros((3, 32))),
            "2 rows of coefficients, 3 of noise",
        ),
        (
            lambda g: g.images(np.zeros((0, 254)), np.zeros((0, 32))),
            "no coefficients",
        ),
    ],
)
def test_wrong_lengths_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call(generated.Generator(network(), batch_size=2))


def stream(**options):
    """Returns a stream of pairs of a random network."""
    one = network()
    make = generated.Sampled(one, size=32, seed=3, **options).batches(12, 8, 2)
    return GeneratedStream(make, 8, seed=5, variables=one.variables, **options)


@pytest.mark.long
def test_batches_have_identities_and_new_images():
    first, again, second = (stream().batch_at(step) for step in (0, 0, 1))
    assert first["image"].shape == (8, 32, 32, 3)
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (np.asarray(first["image"]) != np.asarray(second["image"])).any()
    label = np.asarray(first["label"])
    assert (label[::2] == label[1::2]).all() and len(set(label)) == 4
    assert (np.asarray(first["image"][0]) != np.asarray(first["image"][1])).any()


def test_other_networks_are_refused():
    with pytest.raises(UserError, match="expected a DiscoFaceGAN generator, got vgg16"):
        generated.Sampled(network()._replace(architecture="vgg16"))


@pytest.mark.long
def test_eight_devices_generate_the_same_batch():
    one = stream(mesh=sharding.make_mesh()).batch_at(0)
    eight = on_eight_devices("tests.faces.test_discofacegan")
    np.testing.assert_array_equal(one["label"], eight["label"])
    own = np.asarray(one["image"]).astype(int)
    assert np.abs(own - np.array(eight["image"])).max() <= 1
    assert eight["rows"] == 1


if __name__ == "__main__":
    batch = stream(mesh=sharding.make_mesh()).batch_at(0)
    rows = batch["image"].addressable_shards[0].data.shape[0]
    values = {name: np.asarray(batch[name]).tolist() for name in ("image", "label")}
    json.dump(values | {"rows": rows}, sys.stdout)
