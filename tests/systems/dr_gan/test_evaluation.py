"""Evaluation of generators: identities, lights and comparison."""

import json
import re
import shutil

import numpy as np
import pytest
from etils import epath

from data_pipelines.builders import faces as builder
from data_pipelines.readers import Face
from fr_jax import models
from fr_jax.embedder import Embedder
from fr_jax.evaluation.evaluator import Trained
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems.dr_gan import comparison, figures, posed_sets
from fr_jax.systems.dr_gan.evaluation import GeneratorEvaluator
from fr_jax.systems.dr_gan.posed_sets import PosedSet
from fr_jax.systems.dr_gan.rotator import Rotator
from tests.support.faces import encoded, picture
from tests.support.networks import random_variables

pytestmark = pytest.mark.usefixtures("quick_compilation", "shallow_networks")
OPTIONS = {"width": 0.0625, "size": 16, "decoder_seed": 1, "noise": 3, "channels": 3}
WAYS = ("mean", "confidence")
PROVENANCE = {"angles": [0, 90], "unsigned": True, "identities": {"some": ["p8", "p9"]}}


def generator(provenance, spec=None, **options):
    spec, options = spec or InputSpec(size=16), OPTIONS | options
    model = models.create("dr_gan_generator", **options)
    variables = random_variables(model, spec)
    network = Network("dr_gan_generator", options, variables, spec, "generator")
    return Embedder(network, provenance)


@pytest.fixture(scope="module")
def of_two_poses(quick_compilation, shallow_networks):
    return generator(PROVENANCE, poses=2)


@pytest.fixture(scope="module")
def of_lights(quick_compilation, shallow_networks):
    provenance = {"angles": [-30, 0, 30], "lights": [4, 6, 8]}
    return generator(provenance, poses=3, illuminations=3)


@pytest.fixture(scope="module")
def rotator(of_lights):
    return Rotator(of_lights)


def posed(identities=4, yaws=(0.0, 30.0), lights=(4, 8)):
    count = identities * len(yaws) * len(lights)
    images = np.stack([picture(16, 16, n) for n in range(count)])
    label, yaw, light = (
        x.ravel() for x in np.meshgrid(range(identities), yaws, lights, indexing="ij")
    )
    return PosedSet(images, label, yaw, light, np.full(len(label), -1), lights[0])


def test_left_and_right_are_the_same_unsigned_pose(of_two_poses):
    rotator = Rotator(of_two_poses)
    yaws = np.array([-90, 90, 10, np.nan, -20])
    assert rotator.pose(yaws).tolist() == [1, 1, 0, -1, 0]
    assert rotator.code(-90).tolist() == [0, 1]


def test_each_rotated_face_keeps_its_light(rotator):
    lights = rotator.light_indices(np.array([8, 4, -1, 6]))
    assert lights.tolist() == [2, 0, 0, 1]
    features, _ = rotator.encode(np.stack([picture(16, 16, n) for n in range(4)]))
    rotated = rotator.rotate_features(features, light=lights)
    for row, light in enumerate(lights):
        single = rotator.rotate_features(features[[row]], light=int(light))[0]
        np.testing.assert_array_equal(rotated[row], single)
    assert (rotated[0] != rotator.rotate_features(features[[0]])[0]).any()
    faces = posed()
    evaluator = GeneratorEvaluator(faces, num_inputs=5)
    evaluator.evaluate_images(rotator)
    rows, images = evaluator.rotated
    lights = rotator.light_indices(faces.light[rows])
    expected = rotator.rotate(faces.images[rows], light=lights)
    np.testing.assert_array_equal(images, expected)


def test_figures_of_a_generator_with_lights(rotator, tmp_path):
    paths = figures.draw(rotator, posed(), tmp_path)
    assert "lights.png" in [path.name for path in paths]
    assert all(path.exists() for path in paths)


def test_faces_are_rotated_in_a_light(of_lights, tmp_path, command, mistake):
    of_lights.save(tmp_path / "e")
    (tmp_path / "a.png").write_bytes(encoded(".png", picture(112, 112, 0)))
    words = ("rotate", tmp_path / "a.png", "--generator", tmp_path / "e")
    words += ("--to", tmp_path / "t")
    code, _, error = command(*words, "--light", "6", "--fuse", "--angles=30")
    assert code == 0, error
    mistake("--light 1: this generator has 4, 6, 8", *words, "--light", "1")
    mistake("--angles=nan: a yaw is at most 180", *words, "--angles=nan")


def test_generated_images_are_encoded_without_cropping():
    """A generator that crops its input from a canvas does not crop its own images."""
    rotator = Rotator(generator({}, InputSpec(size=20, crop=(16, 16)), poses=2))
    face = picture(20, 20)[None]
    cropped = rotator.crop(face)
    (features, _), (expected, _) = (
        rotator.encode(cropped, crop=False),
        rotator.encode(face),
    )
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(rotator.encode(cropped)[0] - expected).max() > 1e-3


def test_distances_use_equally_many_images_per_pose(rotator):
    """Nine of ten real images are frontal."""
    faces = posed(identities=20, yaws=(0.0,), lights=tuple(range(9)))
    side = posed(identities=20, yaws=(30.0,), lights=(0,))
    both = [np.concatenate(columns) for columns in zip(faces[:5], side[:5])]
    counts = []

    def mean_colours(images):
        counts.append(len(images))
        return images.mean(axis=(1, 2))

    evaluator = GeneratorEvaluator(PosedSet(*both), features=("colours", mean_colours))
    results = evaluator.evaluate_images(rotator)
    assert counts == [2 * 20, 2 * 200]
    assert {"rotation/kid:colours", "rotation/kid_real:colours"} <= results.keys()
    assert results["rotation/fid:colours"] > results["rotation/fid_real:colours"]


def one_hot(images):
    """Returns perfect embeddings of four identities in consecutive rows."""
    return np.eye(4)[np.arange(len(images)) // (len(images) // 4)]


def test_rank_one_of_rotated_probes(rotator):
    evaluator = GeneratorEvaluator(posed(), recogniser=one_hot)
    results = evaluator.evaluate_features(rotator)
    assert results["identification/rank1:recogniser"] == 1
    assert results["identification/rank1:recogniser_frontalised@yaw=30"] == 1
    assert 0 <= results["identification/rank1:frontalised"] <= 1


def test_results_are_the_means_of_those_of_identities(rotator):
    """Each mean over images, if only one identity is drawn, is that of its images."""
    identities, faces = 6, posed(identities=6, lights=(4, 6, 8))

    def recogniser(images):
        return images.mean(axis=(1, 2)) - 127.5

    evaluator = GeneratorEvaluator(
        faces, faces, recogniser=recogniser, num_inputs=len(faces.label)
    )
    for evaluate in (
        evaluator.evaluate_features,
        evaluator.evaluate_images,
        evaluator.evaluate_confidence,
    ):
        evaluate(rotator)
    means, distinct = 0, 0
    for key, statistic in evaluator.statistics.items():
        if re.search("chance|impostor|auc|kid|spearman", key):
            continue
        alone = [statistic(draws) for draws in np.eye(identities, dtype=int)]
        assert np.mean(alone) == pytest.approx(statistic(None), abs=1e-12), key
        means, distinct = means + 1, distinct + (np.ptp(alone) > 0)
    assert means > 20 and distinct > means / 2
    assert evaluator.statistics.keys() > {"leakage/pose", "rotation/pose_accuracy"}


def test_an_evaluator_returns_its_metric_names(of_lights):
    evaluator = GeneratorEvaluator(posed(), recogniser=one_hot, num_inputs=4)
    results = evaluator(Trained(None, {"generator": of_lights}))
    assert set(evaluator.metric_names) <= results.keys()
    assert "rotation/pose_accuracy" not in evaluator.metric_names
    rows, images = evaluator.rotated
    assert images.shape == (len(rows), 3, 16, 16, 3)
    assert set(evaluator.tables) == set(WAYS)


def test_gains_over_other_generators_are_paired_by_draw():
    rng = np.random.default_rng(0)
    single = rng.uniform(0.2, 0.6, (3, 10))
    tables = {"single: mean": single, "multi: mean": single + 0.25}
    rows = comparison.number_of_images(tables)
    assert rows["single: mean"]["gain"] == {}
    gain = rows["multi: mean"]["gain"]["single: mean"]
    np.testing.assert_allclose(gain["mean"], [0.25] * 3)
    np.testing.assert_allclose(gain["std"], 0, atol=1e-12)  # paired
    assert min(rows["multi: mean"]["rank1_std"]) > 0.05


def test_degraded_images_and_their_levels():
    images = np.stack([picture(16, 16, n) for n in range(40)])
    degraded, levels = posed_sets.degrade(images)
    assert set(levels) == set(posed_sets.LEVELS)
    whole = levels == 1
    np.testing.assert_array_equal(degraded[whole], images[whole])
    assert degraded[levels < 0.2].std() < 0.7 * images.std()


# --- the command, on records --------------------------------------------------------


def records(folder, identities=10, images=4, yaws=(0, 90)):
    faces = [
        Face(
            encoded(".png", picture(20, 20, seed=10 * label + number)),
            label,
            f"p{label}",
            f"p{label}/{number}.png",
            yaw=yaws[number % len(yaws)],
        )
        for label in range(identities)
        for number in range(images)
    ]
    return builder.build(faces, folder, "some", size=20)[0]


@pytest.fixture(scope="module")
def saved(of_two_poses, tmp_path_factory):
    """Folders of generators and records."""
    folder = tmp_path_factory.mktemp("saved")
    of_two_poses.save(epath.Path(folder / "run/embedder_generator"))
    shutil.copytree(folder / "run", folder / "again")
    other = generator(PROVENANCE | {"identities": {}, "angles": [0, 45]}, poses=2)
    other.save(epath.Path(folder / "other/embedder_generator"))
    return {
        "generator": {
            name: folder / name / "embedder_generator"
            for name in ("run", "again", "other")
        },
        "some": records(folder / "some"),
        "unposed": records(folder / "unposed", 3, 2, (np.nan,)),
        "one": records(folder / "one", 3, 1),
    }


@pytest.mark.parametrize(
    ("match", "chosen", "words", "others"),
    [
        ("2 of the 10 held-out identities of some were", "some", (), ()),
        (
            "1 identities, such as p2, are both evaluated and used to train",
            "some,identities=p0:p2",
            ("--pose-identities", "p2:p7"),
            (),
        ),
        ("generators have different angles", "some,identities=p0:p2", (), ("other",)),
        ("no image has a yaw", "unposed", (), ()),
        ("one of them for the gallery", "one", (), ()),
        ("1 identities; at least 2 are needed", "some,identities=p0:p0", (), ()),
        (
            "no image with the expression 'neutral'",
            "some,expression=neutral",
            (),
            (),
        ),
        ("identities=1: at least 2", "rendered,identities=1", (), ()),
        (
            "rendered identities=a: give a number",
            "rendered,identities=a",
            (),
            (),
        ),
        (
            "need a set of records",
            "rendered",
            ("--pose-identities", "p2:p7"),
            (),
        ),
        ("did you mean 'identities'", "some,identites=p0:p2", (), ()),
        ("two runs have the same name: run, run", "some", (), ("run",)),
        ("--set: a generator takes one set", "some", ("--set", "b=rendered"), ()),
    ],
)
def test_unsuitable_sets_are_refused(
    saved, tmp_path, mistake, match, chosen, words, others
):
    name, comma, options = chosen.partition(",")
    set_ = f"unseen={saved.get(name, name)}{comma}{options}"
    for other in ("run", *others):
        words = (*words, "--generator", saved["generator"][other])
    mistake(match, "evaluate", "--set", set_, *words, "--to", tmp_path / "j")
    assert not (tmp_path / "j").exists()


def test_generators_are_evaluated_and_compared_on_records(saved, tmp_path, command):
    words = ["--set", f"unseen={saved['some']},identities=p0:p2", "--to", tmp_path]
    for name in ("run", "again"):
        words += ["--generator", saved["generator"][name]]
    code, out, error = command("evaluate", *words, "--pose-identities", "p6:p7")
    assert code == 0, error
    for name in ("run", "again"):
        results = json.loads((tmp_path / f"{name}/results.json").read_text())
        assert 0 <= results["rotation/pose_accuracy_real"] <= 1
        assert 0 <= results["identification/rank1:frontalised@yaw=90"] <= 1
    assert "less run: confidence" in out
    table = json.loads((tmp_path / "number_of_images.json").read_text())
    assert list(table) == [f"{n}: {w}" for n in ("run", "again") for w in WAYS]
    gain = table["again: mean"]["gain"]["run: mean"]
    assert gain == {"mean": [0, 0, 0], "std": [0, 0, 0]}  # the same network
    for name in ("compared.png", "number_of_images.png"):
        assert (tmp_path / name).stat().st_size > 5000
