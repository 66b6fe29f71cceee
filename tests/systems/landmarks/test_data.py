"""Data of the landmark regressor, its configurations, and a run from end to end."""

import json

import numpy as np
import pytest

from configs import landmarks as variants
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.embedder import load_embedder
from fr_jax.errors import UserError
from fr_jax.faces import sets
from fr_jax.systems import landmarks
from fr_jax.training.batch_checks import check_batch
from fr_jax.training.data import Context
from tests.support import landmark_faces
from tests.support.commands import flags

CONFIG = "landmarks"
SMALL = {
    "data.batch_size": 8,
    "data.rendered.num_identities": 10,
    "data.rendered.num_images": 2,
    "data.rendered.num_unseen": 3,
    "data.rendered.size": 48,
    "data.rendered.contour": False,
    "system.image_size": 32,
    "system.backbone_options.width": 0.125,
}


@pytest.fixture
def rendered(monkeypatch):
    """Replaces the renderer; returns its calls: first identity, identities, quality."""
    calls = []

    def arrays(face_set, *, first, num_identities, images, size, frame, **options):
        assert frame == "loose" and options["labels"]
        calls.append((first, num_identities, options["quality"]))
        return landmark_faces.arrays(num_identities * images, size, seed=first % 99)

    monkeypatch.setattr(sets, "arrays", arrays)
    return calls


def load(**changes):
    settings = SMALL | {name.replace("__", "."): x for name, x in changes.items()}
    overrides = [(name, str(value)) for name, value in settings.items()]
    config = configs.load(f"{CONFIG}:smoke", overrides)
    context = Context(sharding.make_mesh(), show_progress=False)
    return landmarks.load(config.data, context)


def test_rendered_faces_and_unseen_identities(rendered):
    data = load()
    assert rendered == []  # nothing is rendered before data are opened
    assert data.summary == "10 identities, 20 images an epoch"
    assert data.epoch_steps == 20 / 8 and data.arguments == {}
    assert len(data.provenance.identities["rendered"]) == 10
    assert data.provenance.fingerprint
    with data.open() as streams:
        assert sorted(rendered) == [(0, 10, "fast"), (sets.FIRST_UNSEEN, 3, "fast")]
        batch = streams.train.batch_at(0)
        check_batch(landmarks.make(num_steps=9).expects, batch)
        assert batch["landmarks68"].dtype == np.float32
        faces = landmark_faces.arrays(20)
        images, points = faces["image"], faces["landmarks68"]
        for image, face in zip(batch["image"], batch["landmarks68"]):
            (row,) = np.flatnonzero((images == image).all(axis=(1, 2, 3)))
            np.testing.assert_array_equal(face, points[row])
        (unseen,) = streams.final_evaluators
        assert unseen.name == "unseen" and unseen.faces.images.shape[0] == 6
        assert unseen.faces.images.shape[1:] == (112, 112, 3)


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("unknown data source 'records'", {"data__source": "records"}),
        ("max_yaw is 100.0; use 0 to 90", {"data__rendered__max_yaw": 100.0}),
        ("num_unseen is 0; use 1", {"data__rendered__num_unseen": 0}),
        ("a batch of 64 rows from a set of 20", {"data__batch_size": 64}),
        ("rendered.size is 8; use 16", {"data__rendered__size": 8}),
    ],
)
def test_invalid_settings_are_refused(match, changes):
    with pytest.raises(UserError, match=match):
        load(**changes)


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_variant_is_a_valid_configuration(variant):
    config = configs.load(f"{CONFIG}:{variant}")
    lengths = {"num_steps": 1000, "steps_per_epoch": 10.0}
    system = configs.call(CONFIG, landmarks.make, config.system, lengths)
    assert system.expects["landmarks68"].shape == (None, 68, 2)


@pytest.mark.long
def test_a_run_leaves_a_regressor_and_its_errors(
    command, rendered, quick_compilation, tmp_path
):
    few = {"train.num_steps": 4, "train.log_every": 2}
    few |= {"train.evaluate_every": 2, "train.save_every": 4, "evaluation.subset": 4}
    words = flags(SMALL | few)
    workdir = tmp_path / "w"
    code, out, error = command(
        "train", f"--config={CONFIG}:smoke", "--workdir", workdir, *words
    )
    assert code == 0, error
    assert "unseen " in out and "AUC at 8 %" in out
    results = json.loads((workdir / "results.json").read_text())
    assert 0 < results["unseen/nme:mean_shape"] < 1 and results["unseen/missed"] == 0
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert any("unseen:4/nme" in json.loads(line) for line in lines)
    assert (workdir / "figures/landmark_errors_unseen.png").exists()
    embedder = load_embedder(workdir / "embedder_landmarks")
    assert embedder.network.kind == "landmarks"
    assert len(embedder.provenance["identities"]["rendered"]) == 10
    points = embedder.points(landmark_faces.arrays(3)["image"])
    assert points.shape == (3, 68, 2)
