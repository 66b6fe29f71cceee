"""DR-GAN from the command line: trained, used and judged on people that nobody is."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_pipelines.builders import faces as builder
from data_pipelines.readers import Face
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems.dr_gan import data as training_poses
from fr_jax.systems.dr_gan.rotator import Rotator
from tests.conftest import ROOT
from tests.networks import random_variables
from tests.test_images import encoded, picture

pytestmark = [
    pytest.mark.usefixtures("quick_drawing", "quick_compilation"),
    pytest.mark.xdist_group("drawn"),
]
CONFIG = ROOT / "configs/dr_gan.py"
NETWORK = {
    "system.image_size": 16,
    "system.network.width": 0.0625,
    "system.generator.decoder_seed": 1,
    "system.generator.noise": 4,
    "train.num_steps": 4,
    "train.log_every": 2,
    "train.evaluate_every": 4,
    "evaluation.subset": 20,
}
DRAWN = NETWORK | {
    "data.num_identities": 8,
    "data.num_strangers": 20,
    "data.angles": "(-30, 0, 30)",
    "data.size": 16,
    "data.batch_size": 4,
}


def flags(settings):
    return [f"--config.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_drawing, quick_compilation):
    """A workdir in which a generator has been trained, a little."""
    from fr_jax.cli import main

    workdir = tmp_path_factory.mktemp("run") / "w"
    words = ["train", f"--config={CONFIG}:smoke", "--workdir", str(workdir)]
    with pytest.raises(SystemExit) as left:
        main([*words, *flags(DRAWN)])
    assert left.value.code == 0
    return workdir


def test_what_a_run_leaves(run):
    rows = [json.loads(r) for r in (run / "metrics.jsonl").read_text().splitlines()]
    learning = [row for row in rows if "generator/paired_loss" in row]
    assert [row["step"] for row in learning] == [2, 4]
    assert learning[0]["discriminator_turn"] == 0.5  # a third in the long run
    judged = next(row for row in rows if "validation/pose_accuracy" in row)
    assert {"validation/spread", "validation/strangers_cosine"} <= judged.keys()
    assert json.loads((run / "results.json").read_text())["strangers/accuracy"] >= 0
    generator = load_embedder(run / "embedder_generator")
    assert generator.network.kind == "generator"
    assert generator.provenance["angles"] == [-30, 0, 30]
    assert load_embedder(run / "embedder").network.architecture == "dr_gan_encoder"


def photographs(folder, count=3):
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        path.write_bytes(encoded(".png", picture(112, 112, number)))
        paths.append(path)
    return paths


def test_faces_are_turned(run, tmp_path, command, mistake):
    words = ("--generator", run / "embedder_generator", "--to", tmp_path / "t")
    paths = photographs(tmp_path)
    code, out, error = command("rotate", *paths, *words)
    assert code == 0, error
    assert "3 yaws of 3 face(s)" in out
    made = sorted(path.name for path in (tmp_path / "t").glob("*.png"))
    expected = [f"{n}_{a}.png" for n in range(3) for a in ("+0", "+30", "-30")]
    assert made == sorted([*expected, "rotated.png"])
    assert cv2.imread(str(tmp_path / "t/1_+30.png")).shape == (16, 16, 3)
    code, out, _ = command("rotate", *paths, *words, "--fuse", "--angles=-30")
    assert code == 0 and out.count("confidence 0.") == 3
    assert (tmp_path / "t/fused_-30.png").exists()
    mistake("knows -30, 0, 30", "rotate", *paths, *words, "--angles", "10")
    mistake("use degrees with commas", "rotate", *paths, *words, "--angles", "left")
    mistake(
        "--light 1: this generator knows no lights",
        "rotate",
        *paths,
        *words,
        "--light",
        "1",
    )
    mistake("two images are called 0", "rotate", paths[0], paths[0], *words)
    mistake("no such image", "rotate", tmp_path / "nobody.png", *words)
    embedder = ("--generator", run / "embedder", "--to", tmp_path / "t")
    mistake("dr_gan_encoder does not turn faces", "rotate", paths[0], *embedder)


def test_a_generator_is_judged(run, tmp_path, command):
    words = ("--generator", run / "embedder_generator", "--people", "6")
    words += ("--embedder", run / "embedder", "--to", tmp_path)
    code, _, error = command("judge", *words)
    assert code == 0, error
    results = json.loads((tmp_path / "results.json").read_text())
    for name in (
        "identification/rank1",
        "identification/rank1@yaw=30",
        "rotation/pose_accuracy",
        "rotation/pose_accuracy@yaw=-30",
        "rotation/pose_accuracy_true",
        "rotation/identity_auc",
        "leakage/pose",
        "fusion/rank1:confidence@n=2",
    ):
        assert 0 <= results[name] <= 1, name
    assert results["rotation/pose_accuracy_true"] > 0.6  # chance: a third
    assert results["leakage/pose_chance"] == pytest.approx(1 / 3)
    assert -1 <= results["confidence/spearman"] <= 1
    assert np.isfinite(results["rotation/kid:gradients"])
    assert abs(results["rotation/kid_true:gradients"]) < 1
    for name in ("turned", "recogniser", "recogniser_turned"):
        assert 0 <= results[f"identification/rank1:{name}@yaw=30"] <= 1
    assert results["fusion/gain@n=1"] == results["fusion/gain_std@n=1"] == 0
    assert -1 <= results["confidence/spearman_known"] <= 1
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn >= {"sorted.png", "confidence_known.png"}
    assert drawn >= {"pose_grid.png", "fused.png", "interpolation.png"}
    assert drawn >= {"confidence.png", "number_of_images.png"}


def test_grey_and_unknown_generators(run, command, mistake, tmp_path):
    """As those of other programs: colours as they want them, poses by number."""
    from fr_jax import models
    from fr_jax.models.preprocess import InputSpec
    from fr_jax.system import Network

    options = {"width": 0.0625, "size": 16, "decoder_seed": 1, "poses": 2, "noise": 3}
    face = picture(16, 16)[None]
    turned = {}
    for colour, channels in (("GREY", 1), ("RGB", 3), ("BGR", 3)):
        spec = InputSpec(size=16, colour=colour)
        own = options | {"channels": channels}
        model = models.create("dr_gan_generator", **own)
        network = Network(
            "dr_gan_generator", own, random_variables(model, spec), spec, "generator"
        )
        rotator = Rotator(Embedder(network))
        turned[colour] = rotator.rotate(face)
        assert rotator.angles == [0, 1] and not rotator.has_angles
    assert turned["GREY"].shape == (1, 2, 16, 16, 3)
    assert (np.ptp(turned["GREY"], axis=-1) == 0).all()
    mirrored = Rotator(Embedder(network)).rotate(face[..., ::-1])
    np.testing.assert_array_equal(mirrored, turned["RGB"][..., ::-1])
    Embedder(network).save(tmp_path / "e")
    words = ("--generator", tmp_path / "e", "--to", tmp_path / "j")
    mistake("nobody noted the angles", "judge", *words)


def some_faces(people, each, yaws):
    for label in range(people):
        for number in range(each):
            image = encoded(".png", picture(20, 20, seed=100 * label + number))
            name = f"p{label}"
            yaw = yaws[number % len(yaws)]
            yield Face(image, label, name, f"{name}/{number}.png", yaw=yaw)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(9, 4, (0, 90)), folder, "some", size=20)[0]


def test_records_of_people_seen_from_two_sides(records):
    settings = NETWORK | {
        "data.path": records,
        "data.identities": "p0:p5",
        "data.validation": "p6:p8",
        "data.batch_size": 3,
    }
    overrides = [(name, str(value)) for name, value in settings.items()]
    config = configs.load(f"{CONFIG}:cfp_paired", overrides)
    open_, facts, about = training_poses.SOURCES["records"](
        config, sharding.make_mesh()
    )
    assert facts["num_classes"] == 6 and facts["poses"] == 2
    assert about["angles"] == [0, 90] and about["unsigned"]
    stream, _, validation = open_()
    batch = stream.batch_at(0)
    assert batch["image"].shape == batch["target_image"].shape == (3, 20, 20, 3)
    assert set(batch["pose"]) <= {0, 1}
    assert validation.num_classes == 3


def test_every_variant_is_a_whole_configuration():
    import importlib.util

    from fr_jax.cli import train as training

    spec = importlib.util.spec_from_file_location("variants", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for variant in module.VARIANTS:
        config = configs.load(f"{CONFIG}:{variant}")
        training_poses._check(config)
        facts = training_poses._facts(config, 100, 1000)
        weights = config.system.weights
        if weights.identity_preserving or weights.perceptual:
            with pytest.raises(UserError, match="--given identity=EMBEDDER"):
                training._system(config, facts)
            network = Network("dr_gan_encoder", {}, (), InputSpec(size=64))
            facts["given_networks"] = {"identity": network}
        assert training._system(config, facts).hand_over is not None, variant
        main = config.data.batch_size - config.data.get("beside_rows", 0)
        assert main % config.data.images_per_identity == 0, variant


def test_mistakes_before_the_first_step(mistake, tmp_path, records):
    def train(match, settings, variant="smoke"):
        words = flags((DRAWN if variant == "smoke" else NETWORK) | settings)
        config = f"--config={CONFIG}:{variant}"
        mistake(match, "train", config, "--workdir", tmp_path / "w", *words)
        assert not (tmp_path / "w/config.json").exists()

    some = {"data.path": records, "data.identities": "", "data.validation": ""}
    some |= {"data.batch_size": 2}
    few = some | {"data.images_per_identity": 5, "data.batch_size": 5}
    train("9 of 9 identities have fewer than 5 images", few, "cfp_paired")
    narrow = some | {"data.angles": "(-30, 0, 30)", "data.unsigned": False}
    narrow |= {"system.flip": "remap"}
    train("18 pose labels are out of range, as image 1", narrow, "cfp_paired")
    folder, _ = builder.build(some_faces(3, 2, (np.nan,)), tmp_path, "none", size=20)
    train("no image has a pose label", some | {"data.path": folder}, "cfp_paired")
    train("say where the records are", {}, "cfp_paired")
    train("unknown data source 'drawn'", {"data.source": "drawn"})
    train("light 20: there are 20", {"data.lights": "(20,)"})
    train("use a multiple of 3", {"data.images_per_identity": 3})
    train("did you mean 'tpami'", {"system.loss": "tpam"})
    train("did you mean 'weights'", {"system.wieghts": 1})
    train("give --given identity=EMBEDDER", {"system.weights.identity_preserving": 1.0})


@pytest.mark.long
def test_the_smoke_configuration_turns_faces(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fr_jax", "train"),
            *(f"--config={CONFIG}:smoke", "--workdir", str(tmp_path)),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        json.loads(r) for r in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    judged = [row for row in rows if "validation/paired_loss" in row]
    first, *_, last = (row["validation/paired_loss"] for row in judged)
    assert last < 0.9 * first
    assert judged[-1]["validation/pose_accuracy"] > 0.5  # of five
    assert judged[-1]["validation/spread"] > 0.3
