"""Random access to records: selections, columns, images by number, damage."""

import numpy as np
import pytest

from data_pipelines import DataError, digests
from data_pipelines import index as indexes
from data_pipelines.builders import faces as builder
from data_pipelines.readers import Face
from data_pipelines.record_set import JoinedRecords, RecordSet
from tests.support.faces import encoded, picture, some_faces


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(), folder, "faces", size=20, licence="mine")[0]


@pytest.fixture(scope="module")
def posed(tmp_path_factory):
    shots = [("001", 0, "neutral"), ("001", 0, "smile"), ("002", 90, "neutral")]
    faces = [
        Face(
            encoded(".png", picture(20, 20, number)),
            label=int(identity) - 1,
            identity=identity,
            source=str(number),
            yaw=yaw,
            expression=expression,
        )
        for number, (identity, yaw, expression) in enumerate(shots)
    ]
    return builder.build(faces, tmp_path_factory.mktemp("posed"), "mp", size=20)[0]


def test_images_and_columns_by_number(built):
    with RecordSet(built) as faces:
        assert (len(faces), faces.size) == (24, 20)
        assert (faces.name, faces.licence) == ("faces", "mine")
        assert faces.label.tolist() == np.repeat(np.arange(6), 4).tolist()
        assert np.isnan(faces.yaw).all() and (faces.light == -1).all()
        images = faces.images(np.array([0, 23, 6]))
        found = faces.digest
    assert found is not None
    expected = [digests.digest(image) for image in images]
    assert found[[0, 23, 6]].tolist() == expected
    assert faces.subset(np.array([6])).digest.tolist() == expected[2:]
    for image, seed in zip(images, (0, 503, 102)):
        np.testing.assert_array_equal(image, picture(20, 20, seed=seed))
    with pytest.raises(OSError):
        faces.images(np.array([0]))  # closed


def test_identities_are_filtered_and_renumbered(built, tmp_path):
    (tmp_path / "names.txt").write_text("p5\n\n  p1\n")
    for selection in (["p1", "p5"], f"@{tmp_path}/names.txt"):
        faces = RecordSet(built, identities=selection)
        assert faces.identities == ["p1", "p5"]
        assert faces.label.tolist() == [0] * 4 + [1] * 4
    assert RecordSet(built, identities="p2:p4").identities == ["p2", "p3", "p4"]


def test_a_subset_renumbers_its_labels(built):
    faces = RecordSet(built)
    some = faces.subset(np.array([20, 9, 21]))
    assert some.identities == ["p2", "p5"] and some.label.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(
        some.images(np.arange(3)), faces.images(np.array([20, 9, 21]))
    )
    assert len(faces) == 24 and len(faces.identities) == 6


def test_one_expression_and_a_range_of_yaws(posed):
    assert RecordSet(posed, yaws=(-67.5, 67.5)).identities == ["001"]
    neutral = RecordSet(posed, expression="neutral")
    assert neutral.yaw.tolist() == [0, 90] and neutral.label.tolist() == [0, 1]
    with pytest.raises(DataError, match="no images left"):
        RecordSet(posed, expression="smile", identities=["002"])


def test_an_older_index_lacks_columns(posed, tmp_path):
    for path in posed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = indexes.load(indexes.find(tmp_path))
    unknown = dict.fromkeys(("yaw", "light", "session", "expression"))
    indexes.save(indexes.find(tmp_path), indexes.Index(**index._asdict() | unknown))
    faces = RecordSet(tmp_path, yaws=(-10, 10))
    assert np.isnan(faces.yaw).all() and faces.session.tolist() == [-1] * 3
    with pytest.raises(DataError, match="convert the set again"):
        RecordSet(tmp_path, expression="neutral")


@pytest.mark.parametrize(
    "match, options",
    [
        ("no identity 'pp2' .*did you mean 'p2'", {"identities": ["pp2"]}),
        ("no identity in this range", {"identities": "x:z"}),
        ("'first:last'", {"identities": "p1"}),
        ("'frown'; available: none is labelled", {"expression": "frown"}),
    ],
)
def test_unknown_identities_and_expressions(built, match, options):
    with pytest.raises(DataError, match=match):
        RecordSet(built, **options)


def test_joined_sets_have_consecutive_numbers(built, posed, tmp_path):
    both = JoinedRecords(RecordSet(posed), RecordSet(built))
    images = both.images(np.array([3, 0, 26, 2]))
    for image, seed in zip(images, (0, 0, 503, 2)):
        np.testing.assert_array_equal(image, picture(20, 20, seed=seed))
    large = [next(some_faces())._replace(image=encoded(".png", picture(24, 24)))]
    other, _ = builder.build(large, tmp_path, "large", size=24)
    with pytest.raises(DataError, match="faces 20, large 24 pixels"):
        JoinedRecords(RecordSet(built), RecordSet(other))


def test_missing_and_damaged_sets(built, tmp_path):
    with pytest.raises(DataError, match="no face records here"):
        RecordSet(tmp_path)
    copy = tmp_path / "1.0.0"
    copy.mkdir()
    for path in built.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = next(copy.glob("*.tfrecord*"))
    whole = shard.read_bytes()
    index = indexes.load(indexes.find(copy))
    at = int(index.offset[5]) + 40
    shard.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    with pytest.raises(DataError, match=f"{shard.name}: byte {index.offset[5]:,}: "):
        RecordSet(copy).images(np.arange(24))
    shard.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="the index states"):
        RecordSet(copy)
    index_bytes = (copy / indexes.FILE).read_bytes()
    for damaged in (b"PK junk", b"", index_bytes[:100], index_bytes[:-40]):
        (copy / indexes.FILE).write_bytes(damaged)
        with pytest.raises(DataError, match="damaged index"):
            RecordSet(copy)
