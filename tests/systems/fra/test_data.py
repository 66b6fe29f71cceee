"""FRA's data: batches of tuples, splits, what is dropped, configurations."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from configs import fra as variants
from fr_jax.backend import sharding
from fr_jax.cli import config as configs
from fr_jax.embedder import Embedder
from fr_jax.errors import UserError
from fr_jax.faces import sets
from fr_jax.models.preprocess import InputSpec
from fr_jax.provenance import inherit
from fr_jax.system import Network
from fr_jax.systems import fra
from fr_jax.systems.fra import eigenfaces, embeddings, parts, stored
from fr_jax.systems.fra.faces import Faces
from fr_jax.training.batch_checks import check_batch
from fr_jax.training.data import Context
from tests.support.faces import picture
from tests.support.fra import RECORD_SIZE, FivePixels, some_faces


def by_embedding(records):
    """Returns (person, expression, yaw, number) of each image by its embedding."""
    del records
    numbered = {}
    for face in some_faces():
        number = int(face.source[3:-4])
        row = picture(RECORD_SIZE, RECORD_SIZE, seed=number)[0, :5, 0]
        about = face.identity, face.expression, face.yaw, number
        numbered[tuple(row.tolist())] = about
    return numbered


@pytest.mark.parametrize("sampling", ["uniform", "original"])
def test_batches_are_tuples_with_their_negatives(load, records, capsys, sampling):
    data = load(sampling=sampling)
    assert "dropped: 1 persons with one pose (" in capsys.readouterr().err
    assert data.arguments["embedding_size"] == 5
    streams = data.open()
    known = by_embedding(records)
    kinds = ("embedding", "target", *(f"negative_{n}" for n in ("identity", "pose")))
    owners = []
    for stream in (streams.train, streams.validation):
        assert stream.unit == "tuples" and stream.batch_size == 16
        batch = stream.batch_at(3)
        assert batch["landmarks"].shape == (16, 112, 112, 1)
        assert batch["landmarks"].dtype == np.uint8
        assert set(np.unique(batch["landmarks"])) == {0, 1}
        shown = {
            name: [known[tuple(row)] for row in batch[name].astype(int).tolist()]
            for name in (*kinds, "negative_expression")
        }
        for given, target, other, turned, moved in zip(*shown.values()):
            assert given[:2] == target[:2]
            assert sampling == "original" or given[3] != target[3]
            assert other[0] != target[0]
            assert turned[0] == target[0] and turned[2] != target[2]
            assert moved[0] == target[0] and moved[1] != target[1]
        owners.append({row[0] for rows in shown.values() for row in rows})
        again = stream.batch_at(3)
        assert all((again[name] == batch[name]).all() for name in batch)
        assert (stream.batch_at(4)["target"] != batch["target"]).any()
    assert not owners[0] & owners[1]
    held_out = data.provenance.held_out["some"]
    assert not owners[0] & set(held_out) and owners[1] <= set(held_out)
    system = fra.make(**data.arguments, network={"vit_depth": 1})
    check_batch(system.expects, batch)


def test_maps_are_of_an_image_in_the_pose_of_the_target(load):
    """Every map is that of an image with the target's expression and pose."""
    stream = load().open().train
    numbers = stream.numbers(0)
    maps = stream.batch_at(0)["landmarks"]
    assert (maps == stream._maps[numbers["landmarks"]]).all()
    distinct = {one.tobytes() for one in stream._maps}
    assert len(distinct) == len(stream._maps)


def test_numbers_of_the_embeddings_are_passed_to_make(load):
    data = load()
    vectors = data.open().train._vectors.astype(np.float64)
    norm = np.linalg.norm(vectors, axis=1).mean()
    np.testing.assert_allclose(data.arguments["embedding_norm"], norm)
    label = np.repeat([0, 1, 1, 2], 2)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    pairs = [(i, j) for i in range(8) for j in range(8) if label[i] != label[j]]
    expected = np.mean([np.linalg.norm(x[i] - x[j]) for i, j in pairs])
    np.testing.assert_allclose(embeddings.distance(x, label), expected, rtol=1e-6)


def test_what_is_unusable_is_dropped_and_counted(load, records, capsys):
    data = load(records__path=records["lacking"])
    lines = capsys.readouterr().err.splitlines()
    expected = ["1 images without an identity", "1 images without a yaw"]
    expected += ["1 images without an expression", "2 images without 68 landmarks"]
    assert lines[:4] == [f"dropped: {line}" for line in expected]
    assert data.provenance.details["dropped"][:4] == expected


def test_a_split_by_image_has_the_same_persons(load):
    data = load(split__kind="image", split__validation_share=0.5)
    streams = data.open()
    train, validation = streams.train._vectors, streams.validation._vectors
    assert len(train) == len(validation)
    seen = {tuple(row) for row in train.tolist()}
    assert not seen & {tuple(row) for row in validation.tolist()}
    assert not data.provenance.held_out


def test_a_split_by_tuple_divides_the_list(load):
    published = {"sampling": "original", "faithful_negatives": True}
    data = load(split__kind="tuple", num_tuples=600, **published)
    streams = data.open()
    count = round(data.epoch_steps * 16)
    fingerprints = [s.fingerprint() for s in (streams.train, streams.validation)]
    assert fingerprints[0]["tuples"] == count
    assert abs(fingerprints[1]["tuples"] - count / 2) <= 1
    assert streams.train._vectors is streams.validation._vectors
    with pytest.raises(UserError, match="kind='tuple' divides a list of tuples"):
        load(split__kind="tuple")


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        ("unknown config.data.sampling 'all'", {"sampling": "all"}),
        ("kind 'identity'", {"split__kind": "identity"}),
        ("leave 1 to train on", {"split__held_out": 3}),
        ("faithful_negatives draws from a list", {"faithful_negatives": True}),
        ("give the records", {"records__path": ""}),
        ("num_tuples is 0", {"num_tuples": 0}),
        ("batch_size is 0", {"batch_size": 0}),
        ("pose_step is 0", {"records__pose_step": 0.0}),
        ("p0 is the only person", {"sampling": "original", "num_tuples": 1}
         | {"faithful_negatives": True}),
        ("unknown data source 'files'", {"source": "files"}),
        ("of mobilefacenet no published inputs", {"faithful_inputs": True}),
    ],
)  # fmt: skip
def test_unsuitable_options_are_refused(load, match, changes):
    with pytest.raises(UserError, match=match):
        load(**changes)


def test_an_embedder_is_needed(load):
    config = configs.load("fra:cmu")
    context = Context(sharding.make_mesh())
    with pytest.raises(UserError, match="--given embedder=EMBEDDER"):
        fra.load(config.data, context)
    wrong = SimpleNamespace(network=Network("fra", {}, (), InputSpec(), "augmenter"))
    with pytest.raises(UserError, match="--given embedder=: a network of kind"):
        load(embedder=wrong)


def test_sessions_as_identities(load):
    plain, faithful = load(), load(records__faithful_ids=True)
    names = faithful.provenance.identities["some"]
    assert all(name[:2] in ("0:", "1:") for name in names)
    assert len(names) > len(plain.provenance.identities["some"])


def test_held_out_persons_are_those_of_no_split(records):
    settings = {
        "data.source": "records",
        "data.records.path": records["some"],
        "data.split.validation_identities": "3",
        "data.split.held_out": "1",
    }
    config = configs.load("fra:faces", list(settings.items())).data
    context = Context(sharding.make_mesh(), show_progress=False)
    context = context._replace(pretrained={"embedder": FivePixels()})
    faces = parts.split(config, context).unseen()
    assert len(faces.identities) == 1
    trained = fra.load(config, context).provenance
    assert not set(faces.identities) & set(trained.identities["some"])
    assert set(faces.identities) <= set(trained.held_out["some"])
    given = {"embedder": {"identities": {"some": [faces.identities[0]]}}}
    with pytest.raises(UserError, match="held-out identities of some were trained on"):
        inherit(trained, given)


def test_an_augmenter_of_another_embedder_is_no_start(records):
    """Of one with embeddings of equal length, too."""
    settings = {
        "data.source": "records",
        "data.records.path": records["some"],
        "data.split.validation_identities": "3",
        "data.split.held_out": "1",
    }
    config = configs.load("fra:faces", list(settings.items())).data
    network = Network("fra", {"embedding_size": 5}, {}, InputSpec(), "augmenter")
    other = stored.identity(FivePixels(2.0))
    given = {"embedder": FivePixels(), "init": Embedder(network, {"embedder": other})}
    context = Context(sharding.make_mesh(), show_progress=False, pretrained=given)
    with pytest.raises(UserError, match="was trained for embeddings of") as raised:
        fra.load(config, context)
    assert other in str(raised.value)
    assert stored.identity(given["embedder"]) in str(raised.value)


# --- rendered identities ------------------------------------------------------------


def test_rendered_identities_and_eigenfaces(monkeypatch):
    """Stub images: constant columns by identity and number, which differ."""
    firsts = []

    def arrays(face_set, *, first, num_identities, size, labels, **_):
        firsts.append(first)
        label, number = sets.rows(face_set, num_identities, 0)
        rng = np.random.default_rng(first % 1000)
        session, shown, angle = number // 35, number // 5 % 7, number % 5
        return {
            "image": rng.integers(0, 255, (len(label), size, size, 3)).astype(np.uint8),
            "label": label,
            "yaw": np.array(sets.KDEF_ANGLES, np.float32)[angle] + 1,
            "pitch": np.full(len(label), -2.0),
            "expression": shown,
            "session": session,
            "landmarks68": rng.uniform(2, 14, (len(label), 68, 2)),
        }

    monkeypatch.setattr(sets, "arrays", arrays)
    settings = {"rendered.size": 16, "rendered.num_identities": 3, "eigenfaces": 8}
    settings |= {"split.validation_identities": 2}
    overrides = [(f"data.{name}", str(value)) for name, value in settings.items()]
    config = configs.load("fra:smoke", overrides).data
    data = fra.load(config, Context(sharding.make_mesh(), show_progress=False))
    assert firsts == [0, sets.FIRST_UNSEEN]
    assert data.arguments["embedding_size"] == 8
    np.testing.assert_allclose(data.arguments["embedding_norm"], 1, atol=0.1)
    assert data.provenance.details["poses"] == ["-90", "-45", "0", "45", "90"]
    assert len(data.provenance.held_out["rendered"]) == 2 + config.split.held_out
    assert data.summary == "3 identities, 210 images, 640 tuples an epoch"
    batch = data.open().validation.batch_at(0)
    assert batch["target"].shape == (32, 8) and batch["target"].dtype == np.float32


def test_eigenfaces_are_coordinates_of_centred_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    embedder = eigenfaces.fit(images, 12)
    found = embedder.embed_raw(images)["embedding"]
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(found, rowvar=False)
    np.testing.assert_allclose(
        covariance, np.diag(np.diag(covariance)), atol=1e-4
    )  # uncorrelated
    assert (np.diff(np.diag(covariance)) < 1e-6).all()
    with pytest.raises(UserError, match="eigenfaces is 41; use 1 to 40"):
        eigenfaces.fit(images, 41)


# --- configurations -----------------------------------------------------------------


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_variant_is_a_valid_configuration(variant):
    config = configs.load(f"fra:{variant}")
    facts = {"embedding_size": 64, "embedding_distance": 1.0, "embedding_norm": 1.0}
    facts |= {"num_steps": 100, "steps_per_epoch": 10.0}
    facts["pretrained"] = {"embedder": FivePixels().network}
    system = configs.call("fra", fra.make, config.system, facts)
    assert system.eval_step is not None
    json.dumps(config.to_dict())
    published = variant.startswith("paper_")
    assert config.data.faithful_negatives == published
    assert config.data.num_tuples == 10_000 or not published


def test_faces_take_names_of_the_columns():
    columns = {"label": np.array([3, 1, 3]), "expression": np.array([0, 0, 1])}
    columns |= {"pose": np.array([0, 1, 1]), "session": np.zeros(3, int)}
    faces = Faces(
        *("a", "b", 8, ["p", "q", "r", "s"], ["x", "y"], ["0", "45"]),
        **columns,
        landmarks68=np.zeros((3, 68, 2), np.float32),
        images=lambda numbers: numbers,
        number=np.array([5, 6, 7]),
    )
    some = faces.subset(np.array([0, 2]))
    assert some.identities == ["s"] and some.label.tolist() == [0, 0]
    assert some.pixels()[1:].tolist() == [7]
