"""TFRecords of faces: schema, builder and index; child identities."""

import contextvars
import math

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import DataError, records
from data_pipelines import index as indexes
from data_pipelines.builders import faces as builder
from data_pipelines.protocols import identities
from data_pipelines.readers import Face
from tests.support.faces import encoded, picture, some_faces

tfds.disable_progress_bar()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(), folder, "faces", size=20, licence="mine")[0]


def test_a_record_stores_every_field_and_defaults_for_missing_ones(tmp_path):
    full = Face(
        encoded(".png", picture(20, 20)),
        label=3,
        identity="Zoë",
        source="a/b.png",
        age=12.5,
        yaw=-30.0,
        pitch=1.0,
        roll=2.0,
        expression="happy",
        light=7,
        session=1,
        landmarks5=np.arange(10, dtype=np.float32).reshape(5, 2),
        landmarks68=np.arange(136, dtype=np.float32).reshape(68, 2),
        video="clip",
        frame=9,
        shot=2,
        track=4,
        box=(1.0, 2.0, 3.0, 4.0),
        quality=0.5,
    )
    bare = Face(encoded(".png", picture(20, 20, 1)))
    folder, bad = builder.build([full, bare], tmp_path, "two", size=20)
    index = indexes.load(folder)
    first, second = (
        records.decode(indexes.read(folder, index, number)) for number in range(2)
    )
    assert bad == []
    for name, value in full._asdict().items():
        np.testing.assert_array_equal(getattr(first, name), value, err_msg=name)
    assert second.image == bare.image
    assert (second.label, second.identity, second.light) == (-1, "", -1)
    assert math.isnan(second.age)
    assert all(math.isnan(value) for value in second.box)
    assert second.landmarks68.shape == (0, 2)


def test_tfds_reads_the_records_with_unchanged_images(built):
    info = tfds.builder_from_directory(str(built))
    decoders = {"image": tfds.decode.SkipDecoding()}
    rows = list(tfds.as_numpy(info.as_dataset(split="train", decoders=decoders)))
    expected = list(some_faces())
    assert len(rows) == len(expected) == info.info.splits["train"].num_examples
    for row, face in zip(rows, expected):
        assert row["image"] == face.image
        assert row["label"] == face.label
        assert row["source"].decode() == face.source


def test_index_locates_every_record(built):
    index = indexes.load(built)
    assert len(index) == 24
    assert index.identities == [f"p{n}" for n in range(6)]
    assert (index.name, index.size, index.licence) == ("faces", 20, "mine")
    for number in (0, 7, 23):
        face = records.decode(indexes.read(built, index, number))
        assert face.label == index.label[number]
        assert face.age == index.age[number]
    assert indexes.find(built.parent) == built


def test_builder_skips_unusable_images_and_names_them(tmp_path):
    bad = [Face(b"junk", 0, "x", "x/1.jpg"), Face(encoded()[:50], 0, "x", "x/2.jpg")]
    folder, skipped = builder.build(
        [*some_faces(), *bad], tmp_path, "faces", size=20, max_bad=2
    )
    assert len(indexes.load(folder)) == 24
    assert skipped[0].startswith("x/1.jpg: no image")
    assert skipped[1].startswith("x/2.jpg: damaged JPEG")


def test_builder_leaves_no_files_after_an_error(tmp_path):
    def failing(match, faces, **options):
        with pytest.raises(DataError, match=match):
            builder.build(faces, tmp_path, "faces", **{"size": 20, **options})
        assert not list(tmp_path.glob("**/*.tfrecord*"))
        assert not list(tmp_path.glob("faces/*"))

    junk = Face(b"junk", 0, "x", "x/1.jpg")
    failing("x/1.jpg: .* more than the 0 unusable", [*some_faces(), junk], max_bad=0)
    failing(r"p0/0\.png: 20x20 pixels, expected 112x112; align", some_faces(), size=112)
    failing("no usable image", [junk])
    failing("no usable image", [])
    failing("label -2 is out of range", [next(some_faces())._replace(label=-2)])
    with pytest.raises(DataError, match="lower-case letters"):
        builder.build(some_faces(), tmp_path, "My Faces", size=20)


def test_builder_rejects_an_existing_set(built):
    with pytest.raises(DataError, match=r"exists; choose another --name"):
        builder.build(some_faces(), built.parent.parent, "faces", size=20)


# --- labels of children --------------------------------------------------------------


def test_children_are_counted_as_published(tmp_path):
    lines = ["0 faces/000004/00000001.jpg 12.9 1"] * 10
    lines += ["0 faces/000007/00000002.jpg 13.0 0"] * 10
    lines += ["0 faces/000009/00000003.jpg 5 0"] * 9
    path = tmp_path / "ages.txt"
    path.write_text("\n".join(lines) + "\n")
    assert identities.child_labels(path) == [4]
    assert identities.child_labels(path, child_filter=9) == [4, 9]
    assert identities.child_labels(path, age_below=13.5) == [4, 7]
    path.write_text("\n".join(lines[:2]) + "\n1 nonsense\n")
    with pytest.raises(DataError, match=r"ages\.txt: line 3: '1 nonsense'"):
        identities.child_labels(path)
    with pytest.raises(DataError, match="no such age file"):
        identities.child_labels(tmp_path / "none.txt")


def test_stand_in_children_are_seeded():
    chosen = identities.seeded_labels(450, 50, 0)
    assert chosen == sorted(set(chosen)) == identities.seeded_labels(450, 50, 0)
    assert chosen != identities.seeded_labels(450, 50, 1)
    with pytest.raises(DataError, match="5 stand-in children exceed the 4"):
        identities.seeded_labels(4, 5, 0)


def test_set_that_is_being_written_is_not_written_twice(tmp_path):
    """The second conversion leaves the files of the first as they are."""
    faces = list(some_faces())

    def during():
        yield from faces[:5]
        with pytest.raises(DataError, match="is in use by process"):
            contextvars.Context().run(builder.build, faces, tmp_path, "two", size=20)
        yield from faces[5:]

    folder, _ = builder.build(during(), tmp_path, "two", size=20)
    assert len(indexes.load(folder)) == len(faces)
    assert not (folder.parent / "lock").exists()
    with pytest.raises(DataError, match="exists; choose another --name"):
        builder.build(faces, tmp_path, "two", size=20)
