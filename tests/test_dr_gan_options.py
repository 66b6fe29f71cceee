"""DR-GAN's options: what is refused before anything is made, and who is a stranger."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.builders import faces as builder
from data_pipelines.readers import Face
from fr_jax import augment
from fr_jax import provenance as lineage
from fr_jax.augment import diff_augment
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.cli import train as training
from fr_jax.errors import UserError
from fr_jax.models import spectral
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network
from fr_jax.systems import dr_gan
from fr_jax.systems.dr_gan import data as training_poses
from tests.conftest import ROOT
from tests.test_dr_gan_system import CHOICES, MULTI, PEOPLE, SMALL, batch, chosen
from tests.test_images import encoded, picture

CONFIG = ROOT / "configs/dr_gan.py"


@pytest.mark.parametrize(
    ("match", "options"),
    [
        ("stages .* go with schedule 'staged'", {"stages": [(3, (1, 2))]}),
        ("generator_ema is 1.5; use a number from 0", {"generator_ema": 1.5}),
        ("r1_every is 0; use a number from 1", {"r1_every": 0}),
        ("r1_weight is -1", {"r1_weight": -1.0}),
        ("real_target is 7; use a number above 0 to 1", {"real_target": 7}),
        ("threshold is 2", {"threshold": 2}),
        ("max_yaw is nan", {"max_yaw": np.nan}),
        ("weight 'pose' is -1", {"weights": {"pose": -1.0}}),
        ("canvas_size is 12, from which 16 pixels", {"canvas_size": 12}),
        ("'poses' follows from poses", {"generator": {"poses": 5}}),
        ("'heads' follows from num_classes", {"discriminator": {"heads": []}}),
        ("unknown augmentation 'crp'", {"augmentation": (("crp", {}),)}),
        ("unknown option of 'crop' 'are'", {"degradation": (("crop", {"are": 1}),)}),
        ("give .name, options. of each", {"augmentation": ("crop",)}),
        ("did you mean 'group'", {"discriminator": {"norm": "groups"}}),
        ("norm='batch' would undo spectral_norm", {"spectral_norm": True}),
        (
            "leaves none of: leave one",
            {"discriminator": {"norm": "group", "extra_channel": True}},
        ),
        (
            "must be alike: .* the same width, conv_bias",
            {"switch": "swap", "switch_every": 2, "discriminator": {"width": 0.125}},
        ),
        ("real_target goes with loss='tpami'", {"loss": "cvpr", "real_target": 0.9}),
        (
            "summed, not weighed",
            MULTI
            | {"generator": {"confidence_head": "none", "normalise_fusion": False}},
        ),
    ],
)
def test_options_that_do_not_fit(match, options):
    own = {
        name: {**SMALL.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in options.items()
    }
    with pytest.raises(UserError, match=match):
        dr_gan.make(PEOPLE, **SMALL | own)


def test_a_plain_mean_of_several_images_may_be_asked_for():
    own = {"generator": SMALL["generator"] | {"confidence_head": "none"}}
    assert dr_gan.make(PEOPLE, **SMALL | MULTI | own).hand_over is not None


def test_validation_sees_the_discriminator_as_it_is_used(monkeypatch):
    """Whole images, kernels of length one; a continuous pose is judged too."""
    system = dr_gan.make(PEOPLE, **SMALL | CHOICES["modern"])
    state = jax.eval_shape(system.init, jax.random.key(0), batch())
    normalise, lengths = spectral.normalise, []

    def counted(params, known):
        lengths.append(len(known))
        return normalise(params, known)

    def never(key, images, policy):
        raise AssertionError("validation images are changed")

    monkeypatch.setattr(spectral, "normalise", counted)
    monkeypatch.setattr(diff_augment, "diff_augment", never)
    jax.eval_shape(system.eval_step, state, batch(), jax.random.key(0))
    assert lengths == [len(state.spectral)]
    system, data = chosen("authors")
    state = jax.eval_shape(system.init, jax.random.key(0), data)
    found = jax.eval_shape(system.eval_step, state, data, jax.random.key(0))
    assert found["pose_accuracy"].shape == ()


def test_augmentations_that_there_are_not():
    keys, images = jax.random.split(jax.random.key(0), 2), np.zeros((2, 4, 4, 3))
    with pytest.raises(UserError, match="did you mean 'probability'"):
        augment.augment(keys, images, [("flip", {"probabilty": 1})])


def test_whom_a_network_has_learnt_from():
    own = {"people": {"a": ["1", "2"]}, "licences": {"a": "x"}, "steps": 3}
    first = {"people": {"a": ["2", "3"], "b": ["1"]}, "licences": {"b": "y"}}
    file = {"file": "net.pth", "terms": "MIT", "people": {"c": []}}
    found = lineage.inherited(own, {"init": first, "identity": file})
    assert found["people"] == {"a": ["1", "2", "3"], "b": ["1"], "c": []}
    assert found["licences"] == {"a": "x", "b": "y", "net.pth": "MIT"}
    assert found["steps"] == 3
    held = own | {"held_out": {"a": ["4"], "b": ["2"]}}
    assert lineage.inherited(held, {"init": first})["people"]["b"] == ["1"]
    held = own | {"held_out": {"a": ["4", "3"]}}
    with pytest.raises(UserError, match="1 of the 2 people of a .* as 3; .* 'init'"):
        lineage.inherited(held, {"init": first})
    held = own | {"held_out": {"c": ["4"]}}  # of which everybody may be in the file
    with pytest.raises(UserError, match="1 of the 1 people of c"):
        lineage.inherited(held, {"identity": file})


def some_faces(people, yaws, expression="neutral"):
    for label in range(people):
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
    seen = {"some": some_faces(4, (0, 90, 75)), "wild": some_faces(3, (0, 90))}
    return {
        name: builder.build(faces, root, name, size=20, licence=f"of {name}")[0]
        for name, faces in seen.items()
    }


@pytest.fixture
def source(folders):
    """Opens CFP's configuration on these records."""

    def opened(variant="cfp_paired", **changes):
        settings = {
            "data.path": folders["some"],
            "data.identities": "p0:p1",
            "data.validation": "p2:p3",
            "data.batch_size": 2,
        }
        settings |= {name.replace("__", "."): v for name, v in changes.items()}
        overrides = [(name, str(value)) for name, value in settings.items()]
        config = configs.load(f"{CONFIG}:{variant}", overrides)
        return training_poses.SOURCES["records"](config, sharding.make_mesh())

    return opened


def test_people_beside_are_trained_on_too(source, folders):
    beside = {"data__beside": folders["wild"], "data__beside_rows": 1}
    _, facts, about = source(**beside)
    assert facts["num_classes"] == 2
    assert about["people"] == {"some": ["p0", "p1"], "wild": ["p0", "p1", "p2"]}
    assert about["licences"] == {"some": "of some", "wild": "of wild"}
    assert about["held_out"] == {"some": ["p2", "p3"]}
    again = beside | {"data__beside": folders["some"]}
    with pytest.raises(UserError, match="2 of the 2 people of some who are held out"):
        source(**again)


def test_a_run_begun_with_a_network_that_knows_the_strangers(
    folders, mistake, monkeypatch, tmp_path
):
    network = Network("dr_gan_encoder", {}, (), InputSpec(size=16))
    known = {"people": {"some": ["p0", "p3"]}}
    given = SimpleNamespace(network=network, provenance=known)
    monkeypatch.setattr(training, "load_embedder", lambda path: given)
    settings = {"path": folders["some"], "identities": "p0:p1", "validation": "p2:p3"}
    words = [f"--config.data.{name}={value}" for name, value in settings.items()]
    words += ["--config.data.batch_size=2", "--workdir", tmp_path / "w"]
    words += ["--init-from", tmp_path]
    match = "1 of the 2 people of some who are held out were trained on, as p3; by the"
    mistake(match, "train", f"--config={CONFIG}:cfp_paired", *words)
    assert not (tmp_path / "w").exists()


def test_sources_that_do_not_fit(source):
    def refused(match, error=UserError, **changes):
        with pytest.raises(error, match=match):
            source(**changes)

    refused("2 of the 2 people of some .* as p2; say who", data__identities="")
    refused("1 of the 2 people", data__identities="p0:p2")
    refused("beside_rows is 1, of no records", data__beside_rows=1)
    thirteen = {"data__angles": tuple(range(-90, 91, 15))}
    signed = {"system__flip": "none", "data__unsigned": False}
    refused(
        "no image has a yaw near -90, -75, .*: set", DataError, **thirteen, **signed
    )
    refused("'keep' mirrors faces", data__unsigned=False)
    refused("need the angles of the other side", system__flip="remap")
    refused("angles is .0,.: give two or more", data__angles="(0,)")
    refused("angles is ..: give two or more", data__angles="()")
    refused("angles is .90, 0.: give two", data__angles="(90, 0)")
    refused("unsigned goes with", system__pose_mode="continuous")
    refused("weights.paired is 1.0, and there is nothing", data__paired=False)
    alone = {"system__weights__paired": 0.0, "system__weights__perceptual": 1.0}
    refused("weights.perceptual is 1.0, and th", data__paired=False, **alone)
    refused("'smile'; there are: neutral", DataError, data__expression="smile")


def test_multipie_by_its_preset(source, folders, tmp_path):
    """Neutral faces of the poses that are made: others are left out, not bent."""
    yaws = range(-90, 91, 15)
    faces = [*some_faces(2, yaws), *some_faces(2, (0, 60), "smile")]
    folder, _ = builder.build(faces, tmp_path, "mp", size=20)
    changes = {"data__path": folder, "data__identities": "", "data__validation": ""}
    open_, facts, about = source("paper_cvpr_multipie", **changes)
    stream = open_()[0]
    assert (stream.num_examples, facts["poses"], facts["illuminations"]) == (18, 9, 20)
    poses = np.concatenate([stream.batch_at(step)["pose"] for step in range(9)])
    assert sorted(poses.tolist()) == sorted(2 * list(range(9)))
    assert about["expression"] == "neutral" and about["drop_beyond"]
    with pytest.raises(DataError, match="8 pose labels are out of range"):
        source("paper_cvpr_multipie", **changes, data__drop_beyond=False)


def test_a_run_goes_on_with_options_that_came_later(tmp_path):
    config = configs.load(f"{CONFIG}:kayamin")
    stored = json.loads(configs.to_json(config))
    for name in ("expression", "drop_beyond"):
        del stored["data"][name]
    weights = stored["system"]["weights"]
    weights["identity_kept"] = weights.pop("identity_preserving")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(stored))
    assert configs.differences(config, path) == []
    later = configs.load(f"{CONFIG}:kayamin", [("data.expression", "neutral")])
    (line,) = configs.differences(later, path)
    assert line == "data.expression: 'absent' there, 'neutral' now"
