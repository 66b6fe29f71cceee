"""DR-GAN's data: records with poses, rendered identities, and invalid options."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from configs import dr_gan as variants
from data_pipelines import DataError
from data_pipelines.builders import faces as builder
from data_pipelines.readers import Face
from fr_jax import embedder
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.errors import UserError
from fr_jax.faces import sets
from fr_jax.models.preprocess import InputSpec
from fr_jax.optim.update_schedule import fixed
from fr_jax.system import Network
from fr_jax.systems import dr_gan
from fr_jax.systems.dr_gan.targets import Targets
from fr_jax.training.batch_checks import check_batch
from fr_jax.training.data import Context
from fr_jax.training.identity import Identity
from tests.support.faces import encoded, picture

CONFIG = "dr_gan"
VALIDATE_P3 = {"records.validation": "p3:p3"}
TINY = {
    "network": {"width": 0.0625, "generator": {"decoder_seed": 1}},
    "update": fixed(),
}


def some_faces(identities, yaws, expression="neutral"):
    for label in range(identities):
        for number, yaw in enumerate(yaws):
            image = encoded(".png", picture(20, 20, seed=label + number))
            name = f"p{label}"
            source = f"{name}/{number}.png"
            yield Face(
                image, label, name, source, yaw=yaw, light=number, expression=expression
            )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    yaws = range(-90, 91, 15)
    several = {
        "some": some_faces(4, (0, 90, 75)),
        "wild": some_faces(3, (0, 90)),
        "unposed": some_faces(3, (np.nan,)),
        "mp": [*some_faces(2, yaws), *some_faces(2, (0, 60), "smile")],
    }
    return {
        name: builder.build(faces, root, name, size=20, licence=f"of {name}")[0]
        for name, faces in several.items()
    }


@pytest.fixture(scope="module")
def load(folders):
    """Loads the data of CFP's configuration, or of another one, with these records."""

    def loaded(variant="cfp_paired", changes=()):
        settings = {
            "records.path": folders["some"],
            "records.identities": "p0:p1",
            "records.validation": "p2:p3",
            "batch_size": 2,
        }
        changes = {name: folders.get(x, x) for name, x in dict(changes).items()}
        settings |= changes
        overrides = [(f"data.{name}", str(value)) for name, value in settings.items()]
        config = configs.load(f"{CONFIG}:{variant}", overrides)
        context = Context(sharding.make_mesh(), show_progress=False)
        return dr_gan.load(config.data, context)

    return loaded


# --- records ------------------------------------------------------------------------


def test_records_of_identities_in_two_poses(load):
    data = load(changes={"batch_size": 3, "records.identities": "p0:p2"} | VALIDATE_P3)
    targets = data.arguments["targets"]
    assert data.arguments["num_classes"] == 3 and targets.poses == 2
    assert targets.unsigned and targets.paired
    assert data.provenance.details["angles"] == [0, 90]
    assert data.provenance.details["unsigned"]
    assert data.batch_size == 3 and data.epoch_steps == 3
    assert data.summary == "3 identities, 9 images an epoch"
    streams = data.open()
    batch = streams.train.batch_at(0)
    assert batch["image"].shape == batch["target_image"].shape == (3, 20, 20, 3)
    assert set(batch["pose"]) <= {0, 1}
    assert streams.validation.num_classes == 1
    system = dr_gan.make(**data.arguments, image_size=16, canvas_size=None, **TINY)
    check_batch(system.expects, batch)
    check_batch(system.expects, streams.validation.batch_at(0))


def test_auxiliary_identities_are_in_the_provenance(load):
    auxiliary = {"records.auxiliary": "wild", "records.auxiliary_rows": 1}
    data = load(changes=auxiliary)
    provenance = data.provenance
    assert data.arguments["num_classes"] == 2
    assert provenance.identities == {"some": ["p0", "p1"], "wild": ["p0", "p1", "p2"]}
    assert provenance.licences == {"some": "of some", "wild": "of wild"}
    assert provenance.held_out == {"some": ["p2", "p3"]}
    label = data.open().train.batch_at(0)["label"]
    assert label[0] >= 0 and label[1] == -1
    again = auxiliary | {"records.auxiliary": "some"}
    with pytest.raises(UserError, match="2 of the 2 held-out identities of some"):
        load(changes=again)


def test_multipie_by_its_preset(load):
    """Neutral faces of the target poses; others are left out."""
    all_identities = {
        "records.path": "mp",
        "records.identities": "",
        "records.validation": "",
    }
    data = load("paper_cvpr_multipie", all_identities)
    stream, targets = data.open().train, data.arguments["targets"]
    numbers = len(stream.source.label), targets.poses, targets.illuminations
    assert numbers == (18, 9, 20)
    poses = np.concatenate([stream.batch_at(step)["pose"] for step in range(9)])
    assert sorted(poses.tolist()) == sorted(2 * list(range(9)))
    details = data.provenance.details
    assert details["expression"] == "neutral" and details["drop_beyond"]
    with pytest.raises(UserError, match="8 pose labels are out of range"):
        load("paper_cvpr_multipie", all_identities | {"records.drop_beyond": False})


def test_yaws_instead_of_classes(load):
    yaws = {"pose_labels": "yaw", "unsigned": False, "paired": False}
    data = load(changes=yaws | {"angles": "(-90, 90)"})
    assert data.arguments["targets"].continuous
    batch = data.open().train.batch_at(0)
    assert batch["yaw"].dtype == np.float32 and "pose" not in batch


THIRTEEN = {"angles": tuple(range(-90, 91, 15)), "unsigned": False}


@pytest.mark.parametrize(
    ("match", "error", "changes"),
    [
        ("2 of the 2 held-out .* as p2; choose", UserError, {"records.identities": ""}),
        ("1 of the 2 held-out", UserError, {"records.identities": "p0:p2"}),
        (
            "auxiliary is '' and auxiliary_rows is 1: give",
            UserError,
            {"records.auxiliary_rows": 1},
        ),
        ("no labelled image has a yaw near -90, -75, .*: set", UserError, THIRTEEN),
        ("angles are .0,.: give two or more", UserError, {"angles": "(0,)"}),
        ("angles are ..: give two or more", UserError, {"angles": "()"}),
        ("angles are .90, 0.: give two", UserError, {"angles": "(90, 0)"}),
        ("unsigned poses are classes", UserError, {"pose_labels": "yaw"}),
        ("pose_labels 'yaws'; did you mean 'yaw'", UserError, {"pose_labels": "yaws"}),
        ("'smile'; available: neutral", DataError, {"records.expression": "smile"}),
        ("unknown data source 'drawn'", UserError, {"source": "drawn"}),
        (
            "give the records: --config.data.records.path",
            UserError,
            {"records.path": ""},
        ),
    ],
)
def test_unsuitable_records_are_refused(load, match, error, changes):
    with pytest.raises(error, match=match):
        load(changes=changes)


ALL = {"records.identities": "", "records.validation": "", "paired": False}


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        (
            "4 of 4 identities have fewer than 5 images",
            {"images_per_identity": 5, "batch_size": 5},
        ),
        (
            "8 pose labels are out of range, such as image 1",
            {"angles": "(-30, 0, 30)", "unsigned": False},
        ),
        ("no image has a pose label", {"records.path": "unposed"}),
        ("use a multiple of 3", {"images_per_identity": 3}),
    ],
)
def test_unsuitable_images_are_refused(load, match, changes):
    with pytest.raises((DataError, UserError), match=match):
        load(changes=ALL | changes)


def test_init_from_a_network_trained_on_held_out_identities_is_refused(
    folders, mistake, monkeypatch, tmp_path
):
    network = Network("dr_gan_encoder", {}, (), InputSpec(size=16))
    provenance = {"identities": {"some": ["p0", "p3"]}}
    given = SimpleNamespace(network=network, provenance=provenance, digests=None)
    monkeypatch.setattr(embedder, "load_embedder", lambda path: given)
    settings = {"path": folders["some"], "identities": "p0:p1", "validation": "p2:p3"}
    words = [f"--config.data.records.{name}={x}" for name, x in settings.items()]
    words += ["--config.data.batch_size=2", "--workdir", tmp_path / "w"]
    for weight in ("perceptual", "identity_preserving"):
        words.append(f"--config.system.objective.weights.{weight}=0.0")
    words += ["--init-from", tmp_path]
    match = "1 of the 2 held-out identities of some were trained on, such as p3; by the"
    mistake(match, "train", f"--config={CONFIG}:cfp_paired", *words)
    assert not (tmp_path / "w").exists()


# --- rendered identities ------------------------------------------------------------


@pytest.fixture
def numbered_rows(monkeypatch):
    """Replaces rendering by images of label, number and whether they are unseen."""

    def rows(face_set, *, seed, first=0, size, progress, **count):
        label, image = sets.rows(face_set, count["num_identities"], 0)
        assert first in (0, sets.FIRST_UNSEEN) and size == 16
        pixels = np.stack([label, image, np.full(len(label), first > 0)], axis=1)
        shape = (len(label), size, size, 3)
        pixels = np.broadcast_to(pixels[:, None, None].astype(np.uint8), shape)
        return {"image": pixels, "label": label}

    monkeypatch.setattr(sets, "arrays", rows)


RENDERED = {
    "records.identities": "",
    "records.validation": "",
    "rendered.num_identities": 6,
    "rendered.num_unseen": 20,
    "rendered.size": 16,
    "angles": "(-30, 0, 30)",
    "lights": "(4, 6)",
    "batch_size": 4,
}


def test_rendered_identities_have_every_pose_and_light(load, numbered_rows):
    data = load("smoke", RENDERED)
    assert data.arguments["num_classes"] == 6
    assert data.epoch_steps == 6 * 3 * 2 / 4
    details = data.provenance.details
    assert details["angles"] == [-30, 0, 30] and details["lights"] == [4, 6]
    assert len(data.provenance.identities["rendered"]) == 6
    streams = data.open()
    batches = [streams.train.batch_at(step) for step in range(9)]
    image = np.concatenate([b["image"][:, 0, 0] for b in batches])
    label, pose, light = (
        np.concatenate([b[name] for b in batches])
        for name in ("label", "pose", "light")
    )
    np.testing.assert_array_equal(image[:, 0], label)
    np.testing.assert_array_equal(image[:, 1], 2 * pose + light)
    assert len(np.unique(image, axis=0)) == 36  # an epoch has every image
    target = np.concatenate([b["target_image"][:, 0, 0] for b in batches])
    np.testing.assert_array_equal(target[:, 0], label)
    assert (target[:, 1] % 2 == light).all()  # in the same light
    assert streams.validation.batch_at(0)["image"][0, 0, 0, 2] == 1
    (unseen,) = streams.final_evaluators
    assert unseen.name == "unseen" and len(set(unseen.identities)) == 20
    names = np.array(unseen.identities)[unseen.pairs]
    np.testing.assert_array_equal(names[:, 0] == names[:, 1], unseen.same)


def test_generated_identities_have_pose_classes(load):
    generated = RENDERED | {"source": "generated"}
    with pytest.raises(UserError, match="generated faces have pose classes"):
        load("smoke", generated | {"pose_labels": "yaw"})
    data = load("smoke", generated)
    assert data.arguments["num_classes"] == 6


# --- configurations -----------------------------------------------------------------


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_variant_is_a_valid_configuration(variant):
    config = configs.load(f"{CONFIG}:{variant}")
    data = config.data
    fields = {
        "angles": tuple(data.angles),
        "continuous": data.pose_labels == "yaw",
        "unsigned": data.unsigned,
        "illuminations": len(data.lights) if data.illuminations else 0,
        "images_per_identity": data.images_per_identity,
        "paired": data.paired,
    }
    facts = {
        "num_classes": 100,
        "targets": Targets(**fields),
        "num_steps": 1000,
        "steps_per_epoch": 10,
    }
    weights = config.system.objective.weights
    if weights.identity_preserving or weights.perceptual:
        with pytest.raises(UserError, match="--given identity=EMBEDDER"):
            configs.call("dr_gan", dr_gan.make, config.system, facts)
        network = Network("dr_gan_encoder", {}, (), InputSpec(size=64))
        facts["pretrained"] = {"identity": network}
    system = configs.call("dr_gan", dr_gan.make, config.system, facts)
    assert system.hand_over is not None
    main = data.batch_size - data.records.auxiliary_rows
    assert main % data.images_per_identity == 0


def test_a_run_resumes_if_its_configuration_lacks_newer_options():
    config = configs.load(f"{CONFIG}:kayamin")
    stored = json.loads(json.dumps(config.to_dict()))
    for name in ("expression", "drop_beyond"):
        del stored["data"]["records"][name]
    weights = stored["system"]["objective"]["weights"]
    weights["identity_kept"] = weights.pop("identity_preserving")
    begun = Identity(stored)
    assert begun.differences(Identity(config.to_dict())) == []
    changes = [("data.records.expression", "neutral")]
    later = configs.load(f"{CONFIG}:kayamin", changes)
    (line,) = begun.differences(Identity(later.to_dict()))
    assert line == "data.records.expression: 'absent' before, 'neutral' now"


def test_nothing_is_rendered_before_data_are_opened(load, monkeypatch):
    class Rendered(Exception):
        pass

    def render(*_, **__):
        raise Rendered

    monkeypatch.setattr(sets, "arrays", render)
    data = load("smoke", RENDERED)
    with pytest.raises(Rendered):
        data.open()
