"""Judging generators: whom, in what light, against each other."""

import json

import numpy as np
import pytest

from data_pipelines.builders import faces as builder
from data_pipelines.readers import Face
from fr_jax import models
from fr_jax.backend import cpu
from fr_jax.cli import judging
from fr_jax.embedder import Embedder
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems.dr_gan import evaluation as evaluate_rotation
from fr_jax.systems.dr_gan import figures as rotation_figures
from fr_jax.systems.dr_gan.evaluation import PosedSet
from fr_jax.systems.dr_gan.rotator import Rotator
from tests.networks import random_variables
from tests.test_images import encoded, picture

OPTIONS = {"width": 0.0625, "size": 16, "decoder_seed": 1, "noise": 3, "channels": 3}
WAYS = ("mean", "confidence")
ABOUT = {"angles": [0, 90], "unsigned": True, "people": {"some": ["p8", "p9"]}}


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled():
    with pytest.MonkeyPatch.context() as patch:
        quick = {"xla_backend_optimization_level": 0}
        patch.setattr(cpu, "compiler_options", lambda: quick)
        yield


def generator(about, spec=None, **options):
    spec, own = spec or InputSpec(size=16), OPTIONS | options
    model = models.create("dr_gan_generator", **own)
    variables = random_variables(model, spec)
    return Embedder(
        Network("dr_gan_generator", own, variables, spec, "generator"), about
    )


@pytest.fixture(scope="module")
def of_two_poses(quickly_compiled):
    return generator(ABOUT, poses=2)


@pytest.fixture(scope="module")
def of_lights(quickly_compiled):
    lit = {"angles": [-30, 0, 30], "lights": [4, 6, 8]}
    return generator(lit, poses=3, illuminations=3)


def posed(people=4, yaws=(0.0, 30.0), lights=(4, 8)):
    images = np.stack(
        [picture(16, 16, n) for n in range(people * len(yaws) * len(lights))]
    )
    label, yaw, light = (
        x.ravel() for x in np.meshgrid(range(people), yaws, lights, indexing="ij")
    )
    return PosedSet(images, label, yaw, light, np.full(len(label), -1), lights[0])


def test_left_and_right_are_one_to_a_generator_of_unsigned_poses(of_two_poses):
    rotator = Rotator(of_two_poses)
    yaws = np.array([-90, 90, 10, np.nan, -20])
    assert evaluate_rotation.classes_of(rotator, yaws).tolist() == [1, 1, 0, -1, 0]
    assert rotator.code(-90).tolist() == [0, 1]


def test_each_face_is_turned_in_its_own_light(of_lights, tmp_path, command, mistake):
    rotator = Rotator(of_lights)
    places = rotator.places(np.array([8, 4, -1, 6]))
    assert places.tolist() == [2, 0, 0, 1]
    features, _ = rotator.encode(np.stack([picture(16, 16, n) for n in range(4)]))
    turned = rotator.turn(features, light=places)
    for row, place in enumerate(places):
        alone = rotator.turn(features[[row]], light=int(place))[0]
        np.testing.assert_array_equal(turned[row], alone)
    assert (turned[0] != rotator.turn(features[[0]])[0]).any()
    faces = posed()
    _, rows, made = evaluate_rotation.judge_images(rotator, faces, inputs=5)
    own = rotator.rotate(faces.images[rows], light=rotator.places(faces.light[rows]))
    np.testing.assert_array_equal(made, own)
    paths = rotation_figures.draw(rotator, faces, tmp_path)
    assert "lights.png" in [path.name for path in paths]
    assert all(path.exists() for path in paths)
    of_lights.save(tmp_path / "e")
    (tmp_path / "a.png").write_bytes(encoded(".png", picture(112, 112, 0)))
    words = ("rotate", tmp_path / "a.png", "--generator", tmp_path / "e")
    words += ("--to", tmp_path / "t")
    code, _, error = command(*words, "--light", "6", "--fuse", "--angles=30")
    assert code == 0, error
    mistake("--light 1: this generator knows 4, 6, 8", *words, "--light", "1")
    mistake("--angles=nan: a yaw is at most 180", *words, "--angles=nan")


def test_made_images_are_encoded_as_they_are():
    """A generator that cuts its input from a canvas does not cut what it made."""
    rotator = Rotator(generator({}, InputSpec(size=20, crop=(16, 16)), poses=2))
    face = picture(20, 20)[None]
    seen = rotator.seen(face)
    whole, cut = rotator.encode(seen, cut=False), rotator.encode(face)
    np.testing.assert_allclose(whole[0], cut[0], rtol=1e-5, atol=1e-6)
    assert np.abs(rotator.encode(seen)[0] - cut[0]).max() > 1e-3


def test_distances_are_of_poses_alike_and_say_of_what_features(of_lights):
    """Nine of ten true images are frontal; as many of each pose are compared."""
    faces = posed(people=20, yaws=(0.0,), lights=tuple(range(9)))
    side = posed(people=20, yaws=(30.0,), lights=(0,))
    both = [np.concatenate(columns) for columns in zip(faces[:5], side[:5])]
    asked = []

    def mean_colours(images):
        asked.append(len(images))
        return images.mean(axis=(1, 2))

    results, _, _ = evaluate_rotation.judge_images(
        Rotator(of_lights), PosedSet(*both), features=("colours", mean_colours)
    )
    assert asked == [2 * 20, 2 * 200]
    assert {"rotation/kid:colours", "rotation/kid_true:colours"} <= results.keys()


def test_rank_one_of_probes_that_were_turned(of_lights):
    faces = posed()

    def embed(images):
        return np.eye(4)[np.arange(len(images)) // (len(images) // 4)]

    results = evaluate_rotation.judge_features(Rotator(of_lights), faces, embed)
    assert results["identification/rank1:recogniser"] == 1
    assert results["identification/rank1:recogniser_turned@yaw=30"] == 1
    assert 0 <= results["identification/rank1:turned"] <= 1


def test_one_table_of_several_generators():
    rng = np.random.default_rng(0)
    single = rng.uniform(0.2, 0.6, (3, 10))
    tables = {"single: mean": single, "multi: mean": single + 0.25}
    found = judging.number_of_images(tables)
    assert found["single: mean"]["gain"] == {}
    gain = found["multi: mean"]["gain"]["single: mean"]
    np.testing.assert_allclose(gain["mean"], [0.25] * 3)
    np.testing.assert_allclose(gain["std"], 0, atol=1e-12)  # draw by draw
    assert min(found["multi: mean"]["rank1_std"]) > 0.05


def records(folder, people=10, each=4, yaws=(0, 90)):
    found = [
        Face(
            encoded(".png", picture(20, 20, seed=10 * label + number)),
            label,
            f"p{label}",
            f"p{label}/{number}.png",
            yaw=yaws[number % len(yaws)],
        )
        for label in range(people)
        for number in range(each)
    ]
    return builder.build(found, folder, "some", size=20)[0]


def test_judged_and_compared_on_records(of_two_poses, tmp_path, command, mistake):
    of_two_poses.save(tmp_path / "run/embedder_generator")
    other = generator(ABOUT | {"people": {}, "angles": [0, 45]}, poses=2)
    other.save(tmp_path / "other/embedder_generator")
    words = ["judge", "--generator", tmp_path / "run/embedder_generator"]
    words += ["--to", tmp_path / "j", "--records"]
    some = records(tmp_path / "some")
    mistake(
        "2 of the 10 people of some who are held out",
        *words,
        some,
    )
    mine = [*words, some, "--identities", "p0:p2", "--teach"]
    mistake("1 people, as p2, would both teach", *mine, "p2:p7")
    two = ["--generator", tmp_path / "other/embedder_generator"]
    mistake("generators of different angles", *mine, "p6:p7", *two)
    unposed = records(tmp_path / "unposed", 3, 2, (np.nan,))
    mistake("no image has a yaw", *words, unposed)
    mistake("which the gallery takes", *words, records(tmp_path / "one", 3, 1))
    mistake("1 people to judge on", *words, some, "--identities", "p0:p0")
    mistake(
        "no image with the expression 'neutral'",
        *words,
        some,
        "--expression",
        "neutral",
    )
    again = tmp_path / "again/embedder_generator"
    of_two_poses.save(again)
    code, out, error = command(*mine, "p6:p7", "--generator", again)
    assert code == 0, error
    for name in ("run", "again"):
        results = json.loads((tmp_path / f"j/{name}/results.json").read_text())
        assert 0 <= results["rotation/pose_accuracy_true"] <= 1
        assert 0 <= results["identification/rank1:turned@yaw=90"] <= 1
    assert "less run: confidence" in out
    table = json.loads((tmp_path / "j/number_of_images.json").read_text())
    assert list(table) == [f"{n}: {w}" for n in ("run", "again") for w in WAYS]
    gain = table["again: mean"]["gain"]["run: mean"]
    assert gain == {"mean": [0, 0, 0], "std": [0, 0, 0]}  # of one network
    for name in ("compared.png", "number_of_images.png"):
        assert (tmp_path / "j" / name).stat().st_size > 5000
    drawn = ["judge", "--to", tmp_path / "d", "--generator", again, "--people", "1"]
    mistake("--people 1: at least 2", *drawn)
