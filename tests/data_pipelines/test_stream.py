"""The stream over TFRecords: pixels, columns, determinism, augmentation, damage."""

import gc
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from data_pipelines import DataError, samplers
from data_pipelines import index as indexes
from data_pipelines.builders import faces as builder
from data_pipelines.record_set import JoinedRecords, RecordSet
from data_pipelines.stream import RecordStream
from data_pipelines.vision import rand_augment
from fr_jax.training.streams import ArrayStream
from tests.support.faces import picture, some_faces


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(), folder, "faces", size=20)[0]


def pairs(built, **options):
    faces = RecordSet(built)
    sampler = samplers.pairs(faces.label, 4, seed=5)
    return RecordStream(faces, sampler, {"label": faces.label}, seed=5, **options)


def test_batches_contain_the_pixels_and_columns_of_the_records(built):
    faces = RecordSet(built)
    yaw = np.linspace(-30, 30, 24)
    sampler = samplers.epochs(24, 24, seed=1)
    with RecordStream(faces, sampler, {"label": faces.label, "yaw": yaw}) as stream:
        assert (stream.batch_size, stream.num_classes) == (24, 6)
        batch = stream.batch_at(0)
    assert batch["image"].dtype == np.uint8 and batch["seed"].dtype == np.uint32
    assert batch["label"].dtype == np.int32 and batch["yaw"].dtype == np.float32
    assert len(set(batch["seed"].tolist())) == 24
    for row, number in enumerate(sampler(0)["image"]):
        label, image = divmod(int(number), 4)
        assert batch["label"][row] == label
        assert batch["yaw"][row] == np.float32(yaw[number])
        expected = picture(20, 20, seed=100 * label + image)
        np.testing.assert_array_equal(batch["image"][row], expected)


def test_a_batch_depends_on_the_step_only_and_is_split_over_processes(built):
    whole = pairs(built, augment=rand_augment.augment)
    in_order = [whole.batch_at(step) for step in range(6)]
    halves = [
        pairs(built, augment=rand_augment.augment, rows=r) for r in ((0, 1), (1, 4))
    ]
    for step in (4, 1, 5):
        again, parts = whole.batch_at(step), [half.batch_at(step) for half in halves]
        for name, value in in_order[step].items():
            np.testing.assert_array_equal(again[name], value)
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, value)


def test_arrays_in_memory_give_the_same_batches(built):
    faces = RecordSet(built)
    arrays = {"image": faces.images(np.arange(24)), "label": faces.label}
    sampler = samplers.pairs(faces.label, 4, seed=5)
    options = {"seed": 5, "augment": rand_augment.augment}
    stream = ArrayStream(arrays, sampler, **options)
    records = pairs(built, augment=rand_augment.augment)
    for step in (0, 1, 7):
        batch = stream.batch_at(step)
        for name, value in records.batch_at(step).items():
            np.testing.assert_array_equal(batch[name], value, err_msg=name)


def test_every_image_has_its_own_augmentation(built):
    def mark(image, rng):
        return np.full_like(image, rng.integers(1, 255))

    batch = pairs(built, augment=mark).batch_at(0)
    values = [int(image[0, 0, 0]) for n in ("image", "positive") for image in batch[n]]
    assert len(set(values)) > 5


def test_targets_and_auxiliary_images(built):
    faces, others = RecordSet(built), RecordSet(built, identities=["p5"])
    pose = np.where(faces.label == 0, -1, np.arange(24) % 4)
    sampler = samplers.posed(
        samplers.Posed(faces.label, pose), 12, paired=True, auxiliary=[(4, 2)]
    )
    columns = {
        "label": np.concatenate([faces.label, np.full(4, -1)]),
        "pose": np.concatenate([pose, np.arange(4)]),
        "yaw": np.concatenate([np.zeros(24), np.full(4, 15.0)]),
    }
    stream = RecordStream(JoinedRecords(faces, others), sampler, columns)
    assert stream.num_classes == 6
    assert stream.extremes == {"label": (-1, 5), "pose": (-1, 3)}
    whole = faces.images(np.arange(24))
    for step in range(4):
        batch, target = stream.batch_at(step), sampler(step)["target_image"]
        assert (batch["label"][10:] == -1).all() and (batch["yaw"][10:] == 15).all()
        valid = target >= 0
        np.testing.assert_array_equal(valid[:10], batch["label"][:10] != 0)
        np.testing.assert_array_equal(batch["target_pose"] >= 0, valid)
        np.testing.assert_array_equal(np.isfinite(batch["target_yaw"]), valid)
        images = batch["target_image"][valid]
        np.testing.assert_array_equal(images, whole[target[valid]])
        assert "target_label" not in batch


def test_error_of_a_damaged_record_names_file_and_byte(built, tmp_path):
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = next(tmp_path.glob("*.tfrecord*"))
    index = indexes.load(indexes.find(tmp_path))
    data, at = bytearray(shard.read_bytes()), int(index.offset[5])
    data[at + 40] ^= 1
    shard.write_bytes(data)
    faces = RecordSet(tmp_path)
    stream = RecordStream(faces, samplers.epochs(24, 24), {"label": faces.label})
    with pytest.raises(DataError, match=f"{shard.name}: byte {at:,}: "):
        stream.batch_at(0)


def threads_and_files():
    return [len(os.listdir(f"/proc/self/{name}")) for name in ("task", "fd")]


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.long)])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "dropped"])
def test_streams_leave_no_thread_and_no_file(built, count, closed):
    """Nor the records: TensorFlow keeps the Python functions of every pipeline."""

    def used():
        stream = pairs(built, augment=rand_augment.augment)
        stream.batch_at(0)
        stream.batch_at(7)
        return stream

    with used():  # the first one starts threads that TensorFlow keeps
        pass
    gc.collect()
    before, records = threads_and_files(), weakref.WeakSet()
    for _ in range(count):
        stream = used()
        records.add(stream.source)
        if closed:
            with stream:
                pass
        del stream
        assert threads_and_files() == before
    gc.collect()
    assert not records


def test_a_closed_array_stream_has_no_thread(built):
    faces = RecordSet(built)
    before = set(threading.enumerate())
    arrays = {"image": faces.images(np.arange(24)), "label": faces.label}
    with ArrayStream(arrays, 4) as stream:
        stream.batch_at(0)
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) <= before


DROPPED = """
import sys, time
from data_pipelines import samplers
from data_pipelines.record_set import RecordSet
from data_pipelines.stream import RecordStream

def slow(image, rng):
    time.sleep(0.05)
    return image

faces = RecordSet(sys.argv[1])
for seed in range(3):
    sampler = samplers.pairs(faces.label, 4, seed=seed)
    stream = RecordStream(faces, sampler, {"label": faces.label}, augment=slow)
    stream.batch_at(0)
raise KeyboardInterrupt
"""


def test_a_process_exits_while_a_stream_prepares_batches(built):
    command = [sys.executable, "-c", DROPPED, str(built)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt"), done.stderr
