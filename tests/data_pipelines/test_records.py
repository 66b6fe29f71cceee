"""TFRecords of faces: schema, builder, index and the training stream."""

import math

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import DataError, records
from data_pipelines import index as indexes
from data_pipelines.builders import faces as builder
from data_pipelines.protocols import identities
from data_pipelines.readers import Face
from data_pipelines.stream import RecordStream
from tests.support.faces import encoded, picture, some_faces

tfds.disable_progress_bar()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(), folder, "faces", size=20, licence="mine")[0]


def test_a_record_holds_everything_and_absent_things_as_their_defaults(tmp_path):
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


def test_tfds_reads_what_was_built_and_the_bytes_are_untouched(built):
    info = tfds.builder_from_directory(str(built))
    decoders = {"image": tfds.decode.SkipDecoding()}
    rows = list(tfds.as_numpy(info.as_dataset(split="train", decoders=decoders)))
    expected = list(some_faces())
    assert len(rows) == len(expected) == info.info.splits["train"].num_examples
    for row, face in zip(rows, expected):
        assert row["image"] == face.image
        assert row["label"] == face.label
        assert row["source"].decode() == face.source


def test_index_finds_every_record(built):
    index = indexes.load(built)
    assert len(index) == 24
    assert index.identities == [f"p{n}" for n in range(6)]
    assert (index.name, index.size, index.licence) == ("faces", 20, "mine")
    for number in (0, 7, 23):
        face = records.decode(indexes.read(built, index, number))
        assert face.label == index.label[number]
        assert face.age == index.age[number]
    assert indexes.find(built.parent) == built


def test_builder_skips_a_few_bad_images_and_names_them(tmp_path):
    bad = [Face(b"junk", 0, "x", "x/1.jpg"), Face(encoded()[:50], 0, "x", "x/2.jpg")]
    folder, skipped = builder.build(
        [*some_faces(), *bad], tmp_path, "faces", size=20, max_bad=2
    )
    assert len(indexes.load(folder)) == 24
    assert skipped[0].startswith("x/1.jpg: neither JPEG nor PNG")
    assert skipped[1].startswith("x/2.jpg: truncated JPEG")


def test_builder_leaves_nothing_behind_when_it_fails(tmp_path):
    def failing(match, faces, **options):
        with pytest.raises(DataError, match=match):
            builder.build(faces, tmp_path, "faces", **{"size": 20, **options})
        assert not list(tmp_path.glob("**/*.tfrecord*"))
        assert not list(tmp_path.glob("faces/*"))

    junk = Face(b"junk", 0, "x", "x/1.jpg")
    failing("x/1.jpg: .* more than the 0 unusable", [*some_faces(), junk], max_bad=0)
    failing(r"p0/0\.png: 20x20 pixels, expected 112x112; align", some_faces(), size=112)
    failing("not one usable image", [junk])
    failing("not one usable image", [])
    failing("label -2 is out of range", [next(some_faces())._replace(label=-2)])
    with pytest.raises(DataError, match="lower-case letters"):
        builder.build(some_faces(), tmp_path, "My Faces", size=20)


def test_builder_refuses_a_set_that_exists(built):
    with pytest.raises(DataError, match=r"exists; choose another --name"):
        builder.build(some_faces(), built.parent.parent, "faces", size=20)


def test_missing_and_damaged_sets(built, tmp_path):
    with pytest.raises(DataError, match="no face records here"):
        indexes.find(tmp_path)
    copy = tmp_path / "1.0.0"
    copy.mkdir()
    for path in built.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = next(copy.glob("*.tfrecord*"))
    whole = shard.read_bytes()
    index = indexes.load(indexes.find(copy))
    stream = RecordStream(copy, batch_size=24)
    assert len(stream.batch_at(0)["label"]) == 24

    at = int(index.offset[5]) + 40
    shard.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
    with pytest.raises(DataError, match=f"{shard.name}: byte {index.offset[5]:,}: "):
        RecordStream(copy, batch_size=24).batch_at(0)
    shard.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="the index counts on"):
        RecordStream(copy, batch_size=24)
    index_bytes = (copy / indexes.FILE).read_bytes()
    for damaged in (b"PK junk", b"", index_bytes[:100], index_bytes[:-40]):
        (copy / indexes.FILE).write_bytes(damaged)
        with pytest.raises(DataError, match="damaged index"):
            RecordStream(copy, batch_size=24)


# --- the stream ----------------------------------------------------------------------


def test_every_image_comes_once_in_each_run_and_batches_straddle_runs(built):
    stream = RecordStream(built, batch_size=10, seed=5)
    numbers = np.concatenate([stream.numbers(step) for step in range(12)])
    for run in range(5):
        assert sorted(numbers[24 * run : 24 * (run + 1)]) == list(range(24))
    assert (numbers[:24] != numbers[24:48]).any()
    huge = RecordStream(built, batch_size=100, seed=5)
    assert (huge.numbers(0)[:96].reshape(4, 24).sum(1) == sum(range(24))).all()


def test_a_batch_is_a_function_of_seed_and_step_alone(built):
    one = RecordStream(built, batch_size=8, seed=5)
    in_order = [one.batch_at(step) for step in range(6)]
    for step in (4, 1, 5):
        for name, value in one.batch_at(step).items():
            np.testing.assert_array_equal(value, in_order[step][name])
    parts = [
        RecordStream(built, batch_size=8, seed=5, rows=rows).batch_at(3)
        for rows in ((0, 4), (4, 8))
    ]
    for name, value in in_order[3].items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, value)
    other = RecordStream(built, batch_size=8, seed=6).batch_at(3)
    assert (other["label"] != in_order[3]["label"]).any()
    assert (other["seed"] != in_order[3]["seed"]).all()


def test_batches_hold_the_pixels_and_labels_of_the_records(built):
    stream = RecordStream(built, batch_size=24, seed=1)
    batch = stream.batch_at(0)
    assert batch["image"].dtype == np.uint8
    assert batch["seed"].dtype == np.uint32
    assert len(set(batch["seed"].tolist())) == 24
    for row, number in enumerate(stream.numbers(0)):
        label, image = divmod(int(number), 4)
        assert batch["label"][row] == label
        expected = picture(20, 20, seed=100 * label + image)
        assert (batch["image"][row] == expected).all()


def test_identities_are_filtered_and_renumbered(built, tmp_path):
    (tmp_path / "names.txt").write_text("p5\n\n  p1\n")
    for wanted in (["p1", "p5"], f"@{tmp_path}/names.txt"):
        stream = RecordStream(built, batch_size=8, identities=wanted)
        assert stream.identities == ["p1", "p5"]
        assert stream.labels.tolist() == [1, 5]
        assert (stream.num_classes, stream.num_examples) == (2, 8)
        assert sorted(stream.batch_at(0)["label"]) == [0] * 4 + [1] * 4
    stream = RecordStream(built, batch_size=8, identities="p2:p4")
    assert stream.identities == ["p2", "p3", "p4"]
    with pytest.raises(DataError, match="no identity 'pp2' .*did you mean 'p2'"):
        RecordStream(built, batch_size=8, identities=["pp2"])
    with pytest.raises(DataError, match="nobody lies between"):
        RecordStream(built, batch_size=8, identities="x:z")
    with pytest.raises(DataError, match="'first:last'"):
        RecordStream(built, batch_size=8, identities="p1")


def test_batches_of_people_times_images(built):
    stream = RecordStream(built, batch_size=9, images_per_identity=3, seed=2)
    seen = []
    for step in range(4):
        numbers = stream.numbers(step).reshape(3, 3)
        people = numbers // 4
        assert (people == people[:, :1]).all()
        assert all(len(set(row)) == 3 for row in numbers.tolist())
        seen += people[:, 0].tolist()
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    many = RecordStream(built, batch_size=16, images_per_identity=8)
    assert (many.numbers(0).reshape(2, 8) // 4 == many.numbers(0)[::8, None] // 4).all()
    with pytest.raises(DataError, match="8 cannot be 3 images each"):
        RecordStream(built, batch_size=8, images_per_identity=3)
    with pytest.raises(DataError, match="out of 6; use a multiple of 2, at most 12"):
        RecordStream(built, batch_size=14, images_per_identity=2)


# --- who is a child ------------------------------------------------------------------


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
    with pytest.raises(DataError, match="5 stand-in children wanted of 4"):
        identities.seeded_labels(4, 5, 0)
