"""DR-GAN's commands: train, rotate and evaluate."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fr_jax import models
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems.dr_gan.rotator import Rotator
from tests.support.faces import encoded, picture
from tests.support.networks import random_variables
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.usefixtures("quick_drawing", "quick_compilation", "shallow_networks"),
    pytest.mark.xdist_group("drawn"),
]
SMOKE = "--config=dr_gan:smoke"
SETTINGS = {
    "system.image_size": 16,
    "system.network.width": 0.0625,
    "system.network.generator.decoder_seed": 1,
    "system.network.generator.noise": 4,
    "train.num_steps": 4,
    "train.log_every": 2,
    "train.evaluate_every": 4,
    "evaluation.subset": 20,
    "data.rendered.num_identities": 8,
    "data.rendered.num_unseen": 20,
    "data.rendered.size": 16,
    "data.rendered.evaluate_generator": True,
    "data.angles": "(-30, 0, 30)",
    "data.batch_size": 4,
}


def flags(settings):
    return [f"--config.{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_drawing, quick_compilation, shallow_networks):
    """A workdir in which a generator was trained for a few steps."""
    from fr_jax.cli.main import main

    workdir = tmp_path_factory.mktemp("run") / "w"
    with pytest.raises(SystemExit) as exit_:
        main(["train", SMOKE, "--workdir", str(workdir), *flags(SETTINGS)])
    assert exit_.value.code == 0
    return workdir


def test_a_run_leaves_metrics_results_and_embedders(run):
    rows = [json.loads(r) for r in (run / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if "discriminator_turn" in row]
    assert [row["step"] for row in training] == [2, 4]
    # Discriminator and generator alternate: one update each per logged line.
    assert training[0]["discriminator_turn"] == 0.5
    for row in training:
        assert {"generator/paired_loss", "discriminator/loss"} <= row.keys()
    evaluated = next(row for row in rows if "validation/pose_accuracy" in row)
    assert {"validation/spread", "validation/impostor_cosine"} <= evaluated.keys()
    results = json.loads((run / "results.json").read_text())
    assert results["unseen/accuracy"] >= 0
    assert 0 <= results["identification/rank1:frontalised"] <= 1
    assert list((run / "figures").glob("pose_grid.png"))
    generator = load_embedder(run / "embedder_generator")
    assert generator.network.kind == "generator"
    assert generator.provenance["angles"] == [-30, 0, 30]
    assert load_embedder(run / "embedder").network.architecture == "dr_gan_encoder"


# --- rotate -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    paths = [folder / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(".png", picture(112, 112, number)))
    return paths


def test_faces_are_rotated(run, photographs, tmp_path, command):
    words = ("--generator", run / "embedder_generator", "--to", tmp_path / "t")
    code, out, error = command("rotate", *photographs, *words)
    assert code == 0, error
    assert "3 yaws of 3 face(s)" in out
    names = sorted(path.name for path in (tmp_path / "t").glob("*.png"))
    expected = [f"{n}_{a}.png" for n in range(3) for a in ("+0", "+30", "-30")]
    assert names == sorted([*expected, "rotated.png"])
    assert cv2.imread(str(tmp_path / "t/1_+30.png")).shape == (16, 16, 3)
    code, out, _ = command("rotate", *photographs, *words, "--fuse", "--angles=-30")
    assert code == 0 and out.count("confidence 0.") == 3
    assert "1 yaws of 1 face(s)" in out
    assert (tmp_path / "t/fused_-30.png").exists()


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ("has -30, 0, 30", ("--angles", "10")),
        ("expected degrees with commas", ("--angles", "left")),
        ("--light 1: this generator has no lights", ("--light", "1")),
    ],
)
def test_unknown_poses_and_lights_are_refused(
    run, photographs, tmp_path, mistake, match, words
):
    target = ("--generator", run / "embedder_generator", "--to", tmp_path / "t")
    mistake(match, "rotate", *photographs, *target, *words)
    assert not (tmp_path / "t").exists()


def test_unsuitable_images_are_refused(run, photographs, tmp_path, mistake):
    words = ("--generator", run / "embedder_generator", "--to", tmp_path / "t")
    first = photographs[0]
    mistake("two images are named 0", "rotate", first, first, *words)
    mistake("no such image", "rotate", tmp_path / "nothing.png", *words)
    embedder = ("--generator", run / "embedder", "--to", tmp_path / "t")
    mistake("dr_gan_encoder cannot rotate faces", "rotate", first, *embedder)
    assert not (tmp_path / "t").exists()


# --- evaluate -----------------------------------------------------------------------


def test_a_generator_is_evaluated(run, tmp_path, command):
    words = ("--generator", run / "embedder_generator", "--to", tmp_path)
    words += ("--set", "unseen=rendered,identities=6", "--recogniser", run / "embedder")
    words += ("--resamples", "100")
    code, _, error = command("evaluate", *words)
    assert code == 0, error
    results = json.loads((tmp_path / "results.json").read_text())
    for name in (
        "identification/rank1",
        "identification/rank1@yaw=30",
        "rotation/pose_accuracy",
        "rotation/pose_accuracy@yaw=-30",
        "rotation/pose_accuracy_real",
        "rotation/identity_auc",
        "leakage/pose",
        "fusion/rank1:confidence@n=2",
    ):
        assert 0 <= results[name] <= 1, name
    assert results["rotation/pose_accuracy_real"] > 0.6  # chance: a third
    assert results["leakage/pose_chance"] == pytest.approx(1 / 3)
    assert -1 <= results["confidence/spearman"] <= 1
    assert np.isfinite(results["rotation/kid:embedder"])  # of the recogniser
    assert np.isfinite(results["rotation/kid_real:embedder"])
    assert results["notes"]["rotation/fid_low:embedder"].startswith("no interval")
    for name in ("identification/rank1", "rotation/identity_auc", "leakage/pose"):
        assert results[f"{name}_low"] <= results[name] <= results[f"{name}_high"]
    assert results["rotation/kid_low:embedder"] < results["rotation/kid_high:embedder"]
    assert results["rotation/resampled_identities"] == 6
    for name in ("frontalised", "recogniser", "recogniser_frontalised"):
        assert 0 <= results[f"identification/rank1:{name}@yaw=30"] <= 1
    assert results["fusion/gain@n=1"] == results["fusion/gain_std@n=1"] == 0
    assert -1 <= results["confidence/spearman_known"] <= 1
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures >= {"sorted.png", "confidence_known.png"}
    assert figures >= {"pose_grid.png", "fused.png", "interpolation.png"}
    assert figures >= {"confidence.png", "number_of_images.png"}


def test_grey_and_foreign_generators(mistake, tmp_path):
    """Generators of other programs: grey, RGB or BGR, with numbered poses."""
    options = {"width": 0.0625, "size": 16, "decoder_seed": 1, "poses": 2, "noise": 3}
    face = picture(16, 16)[None]
    rotated = {}
    for colour, channels in (("GREY", 1), ("RGB", 3), ("BGR", 3)):
        spec = InputSpec(size=16, colour=colour)
        coloured = options | {"channels": channels}
        model = models.create("dr_gan_generator", **coloured)
        variables = random_variables(model, spec)
        network = Network("dr_gan_generator", coloured, variables, spec, "generator")
        rotator = Rotator(Embedder(network))
        rotated[colour] = rotator.rotate(face)
        assert rotator.angles == [0, 1] and not rotator.has_angles
    assert rotated["GREY"].shape == (1, 2, 16, 16, 3)
    assert (np.ptp(rotated["GREY"], axis=-1) == 0).all()
    mirrored = Rotator(Embedder(network)).rotate(face[..., ::-1])
    np.testing.assert_array_equal(mirrored, rotated["RGB"][..., ::-1])
    Embedder(network).save(tmp_path / "e")
    words = ("--generator", tmp_path / "e", "--to", tmp_path / "j")
    mistake("has no angles of the poses", "evaluate", *words)


# --- mistakes before the first step -------------------------------------------------


@pytest.mark.parametrize(
    ("match", "settings"),
    [
        ("light 20: there are 20", {"data.lights": "(20,)"}),
        ("use a multiple of 3", {"data.images_per_identity": 3}),
        ("unknown data source 'drawn'", {"data.source": "drawn"}),
        ("did you mean 'tpami'", {"system.objective.name": "tpam"}),
        ("did you mean 'flip'", {"system.flp": 1}),
        (
            "give --given identity=EMBEDDER",
            {"system.objective.weights.identity_preserving": 1.0},
        ),
        (
            "give direction and every",
            {"system.trunk_switching": '{"direction": "swap"}'},
        ),
        ("an EMA decay of 1.5", {"train.ema_decay": 1.5}),
        (
            "unknown option 'evry' of r1; did you mean 'every'",
            {"system.objective.r1": '{"evry": 2}'},
        ),
    ],
)
def test_mistakes_before_the_first_step(mistake, tmp_path, match, settings):
    words = flags(SETTINGS | settings)
    mistake(match, "train", SMOKE, "--workdir", tmp_path / "w", *words)
    assert not (tmp_path / "w/config.json").exists()


@pytest.mark.parametrize(
    ("match", "settings"),
    [
        ("give the records", {}),
        (
            "9 identities have fewer than 5 images",
            {"data.images_per_identity": 5, "data.batch_size": 5},
        ),
    ],
)
def test_mistakes_with_records(mistake, tmp_path, records, match, settings):
    if settings:
        settings |= {"data.records.path": records, "data.records.identities": ""}
    words = flags(settings)
    config = "--config=dr_gan:cfp_paired"
    mistake(match, "train", config, "--workdir", tmp_path / "w", *words)
    assert not (tmp_path / "w/config.json").exists()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    from data_pipelines.builders import faces as builder
    from data_pipelines.readers import Face

    def faces():
        for label in range(9):
            for number in range(4):
                image = encoded(".png", picture(20, 20, seed=100 * label + number))
                source, yaw = f"p{label}/{number}.png", 90 * (number % 2)
                yield Face(image, label, f"p{label}", source, yaw=yaw)

    folder = tmp_path_factory.mktemp("records")
    return builder.build(faces(), folder, "some", size=20)[0]


@pytest.mark.long
def test_the_smoke_configuration_rotates_faces(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fr_jax", "train", SMOKE, "--workdir", str(tmp_path)],
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
    evaluated = [row for row in rows if "validation/paired_loss" in row]
    first, *_, last = (row["validation/paired_loss"] for row in evaluated)
    assert last < 0.9 * first
    assert evaluated[-1]["validation/pose_accuracy"] > 0.5  # chance: 0.2
    assert evaluated[-1]["validation/spread"] > 0.3
