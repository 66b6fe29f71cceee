"""People in several poses: labels from names and tables, batches by step."""

import csv

import numpy as np
import pytest

from data_pipelines import DataError, poses
from data_pipelines import index as indexes
from data_pipelines.builders import faces as builder
from data_pipelines.pose_stream import PosedFaces, PoseStream
from data_pipelines.readers.labelled_folder import LabelledFolder
from data_pipelines.readers.posed_folders import Cfp, MultiPie
from data_pipelines.stream import RecordStream
from tests.support.faces import encoded, picture

SEVEN = (-45, -30, -15, 0, 15, 30, 45)


def test_yaws_become_the_nearest_of_the_angles():
    yaws = [-97, -90, -82.6, -82.5, 0, 7.49, 7.5, 90, 120, np.nan]
    found = poses.classes(np.array(yaws), range(-90, 91, 15))
    assert found.tolist() == [0, 0, 0, 1, 6, 6, 7, 12, 12, -1]
    assert poses.classes([-52, 52.5], SEVEN).tolist() == [0, 6]
    sides = poses.classes([0, -90, 90, 30], (0, 90), unsigned=True)
    assert sides.tolist() == [0, 1, 1, 0]
    with pytest.raises(DataError, match="1 pose labels are out of range, as image 1"):
        poses.classes([0, 53], SEVEN)
    with pytest.raises(DataError, match="two or more, ascending"):
        poses.classes([0], (0, 0))
    assert poses.reach(SEVEN) == (-52.5, 52.5)
    assert poses.reach((0, 30, 90)) == (-15, 180)
    assert poses.reach((0, 30, 60), unsigned=True) == (-75, 75)


def faces(people=5, angles=4, lights=2, size=2):
    """A grid; an image's pixels are its number."""
    count = people * angles * lights
    number = np.arange(count)

    def fetch(numbers):
        return np.tile(numbers[:, None, None, None], (1, size, size, 3)).astype(
            np.uint8
        )

    return PosedFaces(
        fetch,
        number // (angles * lights) * 10,  # gaps in the labels
        number // lights % angles,
        number % lights,
        [f"p{n}" for n in range(10 * people)],
    )


def test_every_image_once_in_a_run_with_its_true_other():
    stream = PoseStream(faces(), poses=4, batch_size=10, paired=True)
    assert (stream.num_classes, stream.num_examples) == (5, 40)
    batches = [stream.batch_at(step) for step in range(4)]
    numbers = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    assert sorted(numbers.tolist()) == list(range(40))
    for batch in batches:
        number, target = (
            batch[name][:, 0, 0, 0].astype(int) for name in ("image", "target_image")
        )
        np.testing.assert_array_equal(batch["label"], number // 8)
        np.testing.assert_array_equal(target // 8, number // 8)  # the same person
        np.testing.assert_array_equal(batch["target_light"], batch["light"])
        np.testing.assert_array_equal(batch["target_pose"], target // 2 % 4)
        np.testing.assert_array_equal(batch["pose"], number // 2 % 4)
        assert batch["label"].dtype == batch["pose"].dtype == np.int32
    wanted = np.concatenate([batch["target_pose"] for batch in batches])
    assert set(wanted.tolist()) == {0, 1, 2, 3}
    again = PoseStream(faces(), poses=4, batch_size=10, paired=True)
    for name, value in again.batch_at(2).items():
        np.testing.assert_array_equal(value, batches[2][name])
    other = PoseStream(faces(), poses=4, batch_size=10, seed=1)
    assert not np.array_equal(other.batch_at(0)["image"], batches[0]["image"])


def test_several_images_of_each_person_and_processes_that_share_a_batch():
    settings = {"poses": 4, "batch_size": 12, "images_per_identity": 3}
    stream = PoseStream(faces(), **settings)
    seen = []
    for step in range(5):
        batch = stream.batch_at(step)
        sets = batch["image"][:, 0, 0, 0].reshape(4, 3)
        assert all(len(set(row.tolist())) == 3 for row in sets)
        assert (sets // 8 == batch["label"].reshape(4, 3)[:, :1]).all()
        seen += (sets[:, 0] // 8).tolist()
    assert sorted(seen) == sorted(4 * list(range(5)))  # each person once in a run
    halves = [PoseStream(faces(), **settings, rows=r) for r in ((0, 6), (6, 12))]
    for name, value in stream.batch_at(7).items():
        parts = np.concatenate([half.batch_at(7)[name] for half in halves])
        np.testing.assert_array_equal(parts, value)


def test_images_of_nobody_known_lie_beside():
    main, others = faces(), faces(people=1)
    main = main._replace(pose=np.full(40, -1))  # as in the wild
    stream = PoseStream(main, poses=4, batch_size=8, beside=[(others, 3)], paired=True)
    batch = stream.batch_at(0)
    assert (batch["label"][:5] >= 0).all() and (batch["label"][5:] == -1).all()
    assert (batch["pose"][:5] == -1).all() and (batch["pose"][5:] >= 0).all()
    assert (batch["target_pose"] == -1).all()
    yaws = main._replace(pose=np.linspace(-90, 90, 40))
    batch = PoseStream(yaws, poses=0, batch_size=8, paired=True).batch_at(0)
    assert batch["yaw"].dtype == batch["target_yaw"].dtype == np.float32
    assert "pose" not in batch


def test_what_cannot_be_streamed():
    def refused(match, some=None, **options):
        settings = {"poses": 4, "batch_size": 8} | options
        with pytest.raises(DataError, match=match):
            PoseStream(some or faces(), **settings)

    nothing = faces()._replace(pose=np.full(40, -1))
    refused("no image has a pose label", nothing)
    refused("pose labels are out of range, as image 6 with pose 3", poses=3)
    few = faces()
    few = few._replace(label=np.where(np.arange(40) == 39, 41, few.label))
    refused(
        "1 of 6 identities have fewer than 2 images, as p41 with 1",
        few,
        images_per_identity=2,
    )
    kept = PoseStream(
        few, poses=4, batch_size=8, images_per_identity=2, drop_small=True
    )
    assert kept.num_classes == 5
    refused("use a multiple of 3, at most 15", images_per_identity=3)
    refused("out of 5; .* at most 10", batch_size=16, images_per_identity=2)
    refused(
        "4 of the images belong to nobody",
        faces()._replace(label=np.where(np.arange(40) < 4, -1, 0)),
    )
    refused("41 images from beside, of 40", batch_size=50, beside=[(faces(), 41)])


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(".png", picture(20, 20, seed)))


def test_a_table_of_labels_and_what_is_wrong_with_it(tmp_path):
    for name in ("b/1.png", "a/1.png", "c.png"):
        write(tmp_path / name)
    rows = [
        {"file": "b/1.png", "identity": "b", "yaw": "15.5", "light": "3"},
        {"file": "c.png", "identity": "", "yaw": "", "light": ""},
        {"file": "a/1.png", "identity": "a", "yaw": "-30", "light": "0"},
    ]

    def table(rows):
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return LabelledFolder(tmp_path)

    reader = table(rows)
    found = list(reader)
    assert len(reader) == 3
    assert [(f.label, f.identity, f.source, f.light) for f in found] == [
        (-1, "", "c.png", -1),
        (0, "a", "a/1.png", 0),
        (1, "b", "b/1.png", 3),
    ]
    assert np.isnan(found[0].yaw) and [f.yaw for f in found[1:]] == [-30, 15.5]
    assert found[1].image == (tmp_path / "a/1.png").read_bytes()

    def refused(match, **changes):
        with pytest.raises(DataError, match=match):
            table([rows[0] | changes])

    refused("line 2: yaw 'left' is not a number", yaw="left")
    refused("line 2: light '1.5' is not a number", light="1.5")
    refused("line 2: a yaw of 270 degrees", yaw="270")
    refused("line 2: no such image: 'z.png'", file="z.png")
    refused("is no path within the folder", file="../b/1.png")
    with pytest.raises(DataError, match="no column 'file'"):
        table([{"image": "c.png"}])
    with pytest.raises(DataError, match="no such table"):
        LabelledFolder(tmp_path / "a")


def test_multipie_by_its_file_names(tmp_path):
    folder = "session02/multiview/001/02/05_1/"
    names = ("001_02_02_051_07", "346_01_01_110_19", "001_01_01_190_00")
    for seed, name in enumerate((*names, "001_01_01_081_00", "notes")):
        write(tmp_path / folder / f"{name}.png", seed)
    reader = MultiPie(tmp_path)
    assert len(reader) == 3 and reader.identities == ["001", "346"]
    known = [(f.label, f.session, f.yaw, f.light, f.expression) for f in reader]
    assert known == [
        (0, 1, 45.0, 0, "neutral"),
        (0, 2, 0.0, 7, "surprise"),
        (1, 1, -90.0, 19, "neutral"),
    ]
    write(tmp_path / "001_01_01_077_00.png")
    with pytest.raises(DataError, match="Multi-PIE has no camera 077"):
        MultiPie(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images named as Multi-PIE's"):
        MultiPie(tmp_path / "empty")


def test_cfp_by_its_file_names_into_records_and_out(tmp_path, command):
    for seed, name in enumerate(
        ("001/frontal_01", "001/profile_01", "002/frontal/01", "002/profile/01")
    ):
        write(tmp_path / f"cfp/{name}.png", seed)
    assert [f.yaw for f in Cfp(tmp_path / "cfp")] == [0, 90, 0, 90]
    words = ("convert", tmp_path / "cfp", "--to", tmp_path, "--name", "some")
    code, _, error = command("data", *words, "--layout", "cfp", "--size", "20")
    assert code == 0, error
    reader = RecordStream(tmp_path / "some", batch_size=2)
    assert reader.yaws.tolist() == [0, 90, 0, 90]
    assert reader.lights.tolist() == reader.sessions.tolist() == [-1] * 4
    code, out, _ = command("data", "info", tmp_path / "some")
    assert "yaws        0 to 90, of 4 images" in out
    write(tmp_path / "cfp/001/side.png")
    with pytest.raises(DataError, match="begin with 'frontal' or 'profile'"):
        list(Cfp(tmp_path / "cfp"))
    code, _, error = command("data", *words, "--layout", "cpf")
    assert code == 2 and "did you mean 'cfp'" in error


def test_an_older_index_knows_no_yaws(tmp_path):
    face = next(iter(Cfp(_one(tmp_path))))
    folder, _ = builder.build([face], tmp_path, "old", size=20)
    index = indexes.load(folder)
    assert index.yaw is not None and index.yaw.tolist() == [0]
    unknown = dict.fromkeys(("yaw", "light", "session"))
    indexes.save(folder, indexes.Index(**index._asdict() | unknown))
    reader = RecordStream(folder, batch_size=1)
    assert np.isnan(reader.yaws).all() and reader.lights.tolist() == [-1]


def _one(tmp_path):
    write(tmp_path / "one/001/frontal_01.png")
    return tmp_path / "one"


def test_drawn_batches_of_a_grid(monkeypatch):
    """Who it is in red, the angle in green, instead of a face."""
    import jax
    import jax.numpy as jnp

    from fr_jax.errors import UserError
    from fr_jax.faces import grids, sets

    def shown(codes, *, mesh, size, quality):
        colour = [40 * codes.identity[:, 0], codes.pose[:, 0], 0 * codes.age]
        pixels = jnp.clip(100 + jnp.stack(colour, axis=1), 0, 255).astype(jnp.uint8)
        pixels = pixels[:, None, None]
        return (jnp.broadcast_to(pixels, (len(pixels), size, size, 3)),)

    monkeypatch.setattr(sets, "draw_rows", shown)
    settings = {"images_per_identity": 2, "paired": True, "size": 4}
    make_batch = grids.make((-30, 0, 30), (1, 6), 9, 8, **settings)
    batch = jax.jit(make_batch)(jax.random.key(0))
    label = np.asarray(batch["label"]).reshape(4, 2)
    assert (label[:, 0] == label[:, 1]).all() and len(set(label[:, 0].tolist())) == 4
    for prefix in ("", "target_"):
        pixels = np.asarray(batch[f"{prefix}image"])[:, 0, 0].astype(int)
        np.testing.assert_array_equal(pixels[:, 1], 70 + 30 * batch[f"{prefix}pose"])
        assert (pixels[::2, 0] == pixels[1::2, 0]).all()
    np.testing.assert_array_equal(batch["target_light"], batch["light"])
    with pytest.raises(UserError, match="10 with 3 images"):
        grids.make((-30, 30), (1,), 9, 10, images_per_identity=3)
    with pytest.raises(UserError, match="light 20: there are 20"):
        grids.make((-30, 30), (20,), 9, 4)


def test_the_pose_beside_an_image_is_drawn_before_its_image():
    """Ten images from the front and one of each side: every pose as often."""
    pose = np.array([*10 * [0], 1, 2, -1])
    numbers = np.arange(13)[:, None, None, None]
    some = PosedFaces(lambda n: numbers[n] + np.zeros((1, 2, 2, 3)), 0 * pose, pose)
    stream = PoseStream(some, poses=3, batch_size=13, paired=True)
    beside = np.concatenate([stream.numbers(step)[1] for step in range(60)])
    shares = np.bincount(pose[beside]) / len(beside)
    assert np.abs(shares - 1 / 3).max() < 0.08
    assert len(set(beside.tolist())) == 12  # all of them but the last
    yaws = some._replace(pose=np.full(13, 200.0))
    with pytest.raises(DataError, match="13 yaws are out of range.* 200 degrees"):
        PoseStream(yaws, poses=0, batch_size=4)


def test_records_of_one_expression_and_within_a_yaw(tmp_path):
    shots = ("001_01_01_051_07", "001_01_02_051_07", "002_01_01_240_07")
    for seed, name in enumerate(shots):
        write(tmp_path / f"mp/{name}.png", seed)
    folder, _ = builder.build(MultiPie(tmp_path / "mp"), tmp_path, "mp", size=20)

    def opened(**options):
        return RecordStream(folder, batch_size=1, **options)

    assert opened().num_examples == 3
    assert opened(yaws=(-67.5, 67.5)).identities == ["001"]
    neutral = opened(expression="neutral")
    assert neutral.yaws.tolist() == [0, 90] and neutral.classes.tolist() == [0, 1]
    with pytest.raises(DataError, match="'frown'; there are: neutral, smile"):
        opened(expression="frown")
    index = indexes.load(folder)
    indexes.save(folder, indexes.Index(**index._asdict() | {"expression": None}))
    with pytest.raises(DataError, match="convert the set again"):
        opened(expression="neutral")
