"""Inter-Prototype's data: records with child identities, rendered identities."""

import numpy as np
import pytest

from configs import inter_prototype as variants
from data_pipelines import DataError
from data_pipelines.builders import faces as builder
from data_pipelines.protocols import identities
from data_pipelines.readers import Face
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.errors import UserError
from fr_jax.faces import sets
from fr_jax.systems import inter_prototype
from fr_jax.training.batch_checks import check_batch
from fr_jax.training.data import Context
from tests.support.faces import encoded, picture

CONFIG = "inter_prototype"
SMALL = {
    "backbone": "iresnet18",
    "backbone_options": {"stage_sizes": (1,), "width": 0.125, "embedding_size": 16},
    "image_size": 16,
    "optimizer": {"schedule": "constant"},
}


def some_faces(names, each=3):
    for label, name in enumerate(names):
        for number in range(each):
            image = encoded(".png", picture(20, 20, seed=10 * label + number))
            yield Face(image, label, name, f"{name}/{number}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    named = some_faces(("02", "07", "10", "31", "32"))
    nameless = (face._replace(label=-1, identity="") for face in some_faces("ab"))
    faces = {"some": named, "unlabelled": nameless}
    return {
        name: builder.build(actual, root, name, size=20, licence="mine")[0]
        for name, actual in faces.items()
    }


@pytest.fixture
def load(folders):
    def loaded(changes=(), variant="paper_casia", show_progress=False):
        settings = {
            "records.path": folders["some"],
            "records.expected_identities": 0,
            "children.published": "",
            "batch_size": 4,
        }
        settings |= {name: folders.get(x, x) for name, x in dict(changes).items()}
        overrides = [(f"data.{name}", str(value)) for name, value in settings.items()]
        config = configs.load(f"{CONFIG}:{variant}", overrides)
        context = Context(sharding.make_mesh(), show_progress=show_progress)
        return inter_prototype.load(config.data, context)

    return loaded


# --- records ------------------------------------------------------------------------


def test_records_without_children(load):
    data = load()
    assert data.arguments == {"num_classes": 5, "child_classes": []}
    assert data.epoch_steps == 15 / 4
    assert data.summary == "5 identities, 15 images an epoch"
    provenance = data.provenance
    assert provenance.identities == {"some": ["02", "07", "10", "31", "32"]}
    assert provenance.licences == {"some": "mine"} and provenance.notes == ()
    assert provenance.fingerprint
    streams = data.open()
    system = inter_prototype.make(**data.arguments, **SMALL)
    check_batch(system.expects, streams.train.batch_at(0))
    assert not streams.final_evaluators and streams.validation is None


def test_a_range_of_identities_with_several_images_each(load):
    data = load({"records.identities": "07:31", "images_per_identity": 2})
    assert data.arguments["num_classes"] == 3
    assert data.provenance.identities == {"some": ["07", "10", "31"]}
    label = data.open().train.batch_at(0)["label"]
    assert np.unique(label, return_counts=True)[1].tolist() == [2, 2]


@pytest.fixture
def age_file(tmp_path):
    """An age file: 07, 31 and 99, which the records lack, have child images."""

    def lines():
        for name in (2, 7, 10, 31, 99):
            for number in range(4):
                child = name in (7, 31, 99) and number < 3
                yield f"{number} root/{name:02}/{number}.jpg {5.0 if child else 30.0} m"

    path = tmp_path / "ages.txt"
    path.write_text("\n".join(lines()) + "\n")
    return path


def test_child_identities_by_an_age_file(load, age_file, capsys):
    """By folder number, which differs from the label."""
    children = {"children.age_file": age_file, "children.child_filter": 3}
    assert load(children).arguments["child_classes"] == [1, 3]
    assert capsys.readouterr().err == ""
    load(children, show_progress=True)
    error = capsys.readouterr().err
    assert "child identities: 3 of 5" in error
    assert "warning: 1 of them are not in the set" in error
    more = children | {"children.child_filter": 4}
    assert load(more).arguments["child_classes"] == []
    younger = children | {"children.age_below": 5.0}
    assert load(younger).arguments["child_classes"] == []


def test_the_published_number_of_children_is_compared(load, age_file, capsys):
    children = {"children.age_file": age_file, "children.child_filter": 3}
    load(children | {"children.published": "casia"}, show_progress=True)
    error = capsys.readouterr().err
    total, published = identities.PUBLISHED_CHILDREN["casia"]
    assert f"published for casia: {published:,} of {total:,}" in error
    assert "warning: not the published number" in error


def test_stand_ins_are_chosen_by_their_seed_and_noted(load, capsys):
    data = load({"children.stand_ins": 2}, show_progress=True)
    chosen = data.arguments["child_classes"]
    assert (
        len(chosen) == 2 and chosen == sorted(chosen) and set(chosen) <= set(range(5))
    )
    assert chosen == load({"children.stand_ins": 2}).arguments["child_classes"]
    seeds = [{"children.stand_ins": 2, "children.seed": seed} for seed in range(9)]
    others = [tuple(load(seed).arguments["child_classes"]) for seed in seeds]
    assert len(set(others)) > 1
    assert "2 of 5, chosen with seed 0 as stand-ins" in capsys.readouterr().err
    assert "say nothing of children" in data.provenance.describe()["note"]


@pytest.mark.parametrize(
    ("match", "error", "changes"),
    [
        ("give the records: --config.data.records", UserError, {"records.path": ""}),
        ("6 of the images have no label", UserError, {"records.path": "unlabelled"}),
        (
            "expected_identities is 10,572, the records have 5",
            UserError,
            {"records.expected_identities": 10_572},
        ),
        ("from an age file: give", UserError, {"children.published": "casia"}),
        ("did you mean 'casia'", UserError, {"children.published": "casi"}),
        ("6 stand-in children", DataError, {"children.stand_ins": 6}),
        ("no such", DataError, {"children.age_file": "/nowhere/ages.txt"}),
        ("unknown data source 'record'", UserError, {"source": "record"}),
        (
            "cannot be 3 images each",
            DataError,
            {"images_per_identity": 3},
        ),
    ],
)
def test_unsuitable_records_are_refused(load, match, error, changes):
    with pytest.raises(error, match=match):
        load(changes)


# --- rendered identities ------------------------------------------------------------

RENDERED = {
    "records.path": "",
    "rendered.num_identities": 20,
    "rendered.num_images": 4,
    "rendered.num_unseen": 20,
    "rendered.size": 16,
    "rendered.child_share": 0.5,
    "children.child_filter": 2,
    "batch_size": 8,
}


def rendered(load, **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return load(RENDERED | changes, "smoke")


def test_rendered_identities_with_children(load):
    data = rendered(load)
    assert data.arguments["num_classes"] == 20
    children = data.arguments["child_classes"]
    owners = np.flatnonzero(sets.child_owners(0, np.arange(20), 0.5))
    assert children and set(children) <= set(owners.tolist())
    assert data.epoch_steps == 20 * 4 / 8
    names = data.provenance.identities["rendered"]
    assert len(names) == 20 and data.provenance.fingerprint
    more = rendered(load, children__child_filter=1).arguments["child_classes"]
    assert set(children) <= set(more)


def test_children_of_generated_identities_are_by_their_number(load):
    data = rendered(load, source="generated", images_per_identity=2)
    owners = np.flatnonzero(sets.child_owners(0, np.arange(20), 0.5))
    assert data.arguments["child_classes"] == owners.tolist()


def test_rendered_images_are_kept_in_memory_and_unseen_identities_evaluated(
    load, monkeypatch
):
    calls = []

    def arrays(face_set, *, num_identities, images, size, **_):
        calls.append((num_identities, images, size))
        label, image = sets.rows(face_set, num_identities, images)
        shape = (len(label), size, size, 3)
        pixels = np.broadcast_to(image[:, None, None, None].astype(np.uint8), shape)
        return {"image": pixels, "label": label.astype(np.int32)}

    monkeypatch.setattr(sets, "arrays", arrays)
    data = rendered(load)
    assert calls == []  # nothing is rendered before data are opened
    streams = data.open()
    assert sorted(calls) == [(20, 3, 16), (20, 4, 16)]
    system = inter_prototype.make(**data.arguments, **SMALL)
    check_batch(system.expects, streams.train.batch_at(0))
    (unseen,) = streams.final_evaluators
    assert unseen.name == "unseen" and unseen.same.sum() == 60


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("rendered.size is 8; use 16 or more", {"rendered__size": 8}),
        ("max_yaw is 400.0; use 0 to 90", {"rendered__max_yaw": 400.0}),
        ("multiple of 10", {"rendered__num_unseen": 25}),
        ("age_file is 'x', for records", {"children__age_file": "x"}),
        ("published is 'casia', for records", {"children__published": "casia"}),
        ("stand_ins is 3, for records", {"children__stand_ins": 3}),
        ("unknown data source 'drawn'", {"source": "drawn"}),
    ],
)
def test_invalid_settings_of_rendered_identities_are_refused(load, match, changes):
    with pytest.raises(UserError, match=match):
        rendered(load, **changes)


# --- configurations -----------------------------------------------------------------


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_variant_is_a_valid_configuration(variant):
    config = configs.load(f"{CONFIG}:{variant}")
    facts = {
        "num_classes": 100,
        "child_classes": [3, 4],
        "num_steps": 1000,
        "steps_per_epoch": 10.0,
    }
    system = configs.call(CONFIG, inter_prototype.make, config.system, facts)
    assert system.expects["label"].below == 100
