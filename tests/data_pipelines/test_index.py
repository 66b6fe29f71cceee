"""The index of a set: damage, and indexes that do not fit their records."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import DataError, samplers
from data_pipelines import index as indexes
from data_pipelines.builders import faces as builder
from data_pipelines.record_set import RecordSet
from data_pipelines.stream import RecordStream
from tests.support.faces import some_faces


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    return builder.build(some_faces(), folder, "faces", size=20)[0]


@pytest.fixture
def copied(built, tmp_path):
    """A copy of the records, and its index."""
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    folder = indexes.find(tmp_path)
    return folder, indexes.load(folder)


def changed(index, **changes):
    """`_replace` does not work: the length of an index is its number of records."""
    return indexes.Index(**index._asdict() | changes)


def as_earlier_version(folder, index):
    """Writes an index as version 0.2 did."""
    indexes.save(folder, changed(index, checksum=None))
    with np.load(folder / indexes.FILE) as file:
        arrays = {name: file[name] for name in file if name != "sha256"}
    arrays["about"] = np.array(str(arrays["about"]).replace(', "checksum": null', ""))
    np.savez(folder / indexes.FILE, **arrays)


def moved(column, by):
    return lambda index: {column: getattr(index, column) + by}


def swapped(name):
    return lambda index: {name: getattr(index, name)[::-1].copy()}


INCONSISTENT = {
    "unlisted shard": (lambda i: {"shard": i.shard + 1}, "shard 1 of 1 listed ones"),
    "no shards": (lambda i: {"shards": []}, "shard 0 of 0 listed ones"),
    "shard outside": (lambda i: {"shards": ["../x"]}, "a shard outside the folder"),
    "labels without names": (
        lambda i: {"identities": i.identities[:4]},
        "label 5 of 4 named identities",
    ),
    "label below -1": (moved("label", -3), "label 2 of 6 named"),
    "offsets off by one": (moved("offset", 1), "the index has no record there|states"),
    "offsets one lower": (moved("offset", -1), "byte 0: the index has no record there"),
    "lengths off by one": (moved("length", 1), "the index has no record there|states"),
    "offsets as floats": (lambda i: {"offset": i.offset * 1.0}, "offset is no integer"),
    "a column too short": (lambda i: {"age": i.age[:-1]}, "columns do not agree"),
    "a record less": (
        lambda i: {n: c[:-1] for n, c in i._asdict().items() if hasattr(c, "dtype")},
        "the index has no record there",
    ),
}


@pytest.mark.parametrize(("change", "match"), INCONSISTENT.values(), ids=INCONSISTENT)
@pytest.mark.parametrize("earlier", [False, True], ids=["", "earlier version"])
def test_inconsistent_indexes_are_refused(copied, change, match, earlier):
    folder, index = copied
    write = as_earlier_version if earlier else indexes.save
    write(folder, changed(index, **change(index)))
    with pytest.raises(DataError, match=match) as caught:
        indexes.load(folder)
    assert "convert the set again" in str(caught.value)


@pytest.mark.parametrize("shard", ["more", "fewer"])
def test_shards_that_are_not_those_of_the_index(copied, shard):
    folder, index = copied
    path = folder / index.shards[0]
    if shard == "more":
        (folder / "faces-train.tfrecord-00001-of-00002").write_bytes(path.read_bytes())
        match = "00001-of-00002: not in index.npz"
    else:
        path.unlink()
        match = "0 bytes, the index states"
    with pytest.raises(DataError, match=match):
        indexes.load(folder)


def test_a_changed_index_has_a_wrong_checksum(copied):
    folder, _ = copied
    with np.load(folder / indexes.FILE) as file:
        arrays = dict(file)
    for name in ("label", "age", "about"):
        other = np.array(str(arrays[name]).replace("p5", "p6"))
        if name != "about":
            other = arrays[name][::-1]
        np.savez(folder / indexes.FILE, **arrays | {name: other})
        with pytest.raises(DataError, match="its checksum is wrong"):
            indexes.load(folder)


@pytest.mark.parametrize(
    "read",
    [lambda f, i: indexes.read(f, i, 0), lambda f, _: RecordSet(f).serialized([0])],
    ids=["one record", "batches"],
)
def test_another_record_of_the_same_label_and_length_is_refused(copied, read):
    folder, index = copied
    shard, start = folder / index.shards[0], int(index.offset[0])
    data, end = bytearray(shard.read_bytes()), start + int(index.length[0]) - 4
    middle = (start + end) // 2
    data[middle] ^= 1
    data[end : end + 4] = indexes._masked_crc(bytes(data[start + 12 : end]))
    shard.write_bytes(data)
    with pytest.raises(DataError, match="byte 0: the index is that of other records"):
        read(folder, index)


def test_a_compressed_index_is_refused_unread(copied):
    folder, _ = copied
    with np.load(folder / indexes.FILE) as file:
        arrays = dict(file)
    np.savez_compressed(folder / indexes.FILE, **arrays)
    with pytest.raises(DataError, match="compressed columns"):
        indexes.load(folder)


@pytest.fixture
def other(tmp_path):
    """Records of the same number and length, with other labels."""
    faces = [
        face._replace(label=5 - face.label, identity=f"p{5 - face.label}")
        for face in some_faces()
    ]
    return builder.build(faces, tmp_path / "other", "faces", size=20)[0]


def first_batch(folder):
    with RecordSet(folder) as faces:
        columns = {"label": faces.label}
        RecordStream(faces, samplers.epochs(24, 4), columns).batch_at(0)


@pytest.mark.parametrize("read", [first_batch, lambda f: RecordSet(f).images([0])])
def test_the_index_of_other_records_is_refused(copied, other, read):
    folder, index = copied
    theirs = indexes.load(other)
    assert theirs.length.tolist() == index.length.tolist()
    (folder / indexes.FILE).write_bytes((other / indexes.FILE).read_bytes())
    with pytest.raises(DataError, match="byte .*: the index is that of other records"):
        read(folder)


@pytest.mark.parametrize("read", [first_batch, lambda f: RecordSet(f).images([0])])
@pytest.mark.parametrize("change", [swapped("label"), swapped("identities")])
@pytest.mark.parametrize("write", [indexes.save, as_earlier_version])
def test_labels_of_other_records_are_noticed_in_the_first_batch(
    copied, read, change, write
):
    folder, index = copied
    write(folder, changed(index, **change(index)))
    with pytest.raises(
        DataError, match=r"p\d/\d\.png is 'p\d', label \d, in the index"
    ):
        read(folder)


def test_indexes_of_an_earlier_version_are_read(copied):
    folder, index = copied
    as_earlier_version(folder, index)
    loaded = indexes.load(folder)
    assert loaded.checksum is None
    assert loaded.identities == index.identities
    first_batch(folder)


ENDLESS = """
import sys
from data_pipelines import samplers
from data_pipelines.record_set import RecordSet
from data_pipelines.stream import RecordStream

faces = RecordSet(sys.argv[1])
stream = RecordStream(faces, samplers.epochs(24, 4), {"label": faces.label})
for step in range(100):
    stream.batch_at(step)
"""


@pytest.fixture
def damaged(copied):
    """A folder whose record 9 is damaged, and the record's offset."""
    folder, index = copied
    path = folder / index.shards[0]
    data = bytearray(path.read_bytes())
    offset = int(index.offset[9])
    data[offset + 40] ^= 1
    path.write_bytes(data)
    return folder, offset


@pytest.mark.long
def test_a_process_ends_after_a_damaged_record(damaged):
    folder, offset = damaged
    command = [sys.executable, "-c", ENDLESS, os.fspath(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert f"byte {offset:,}: damaged record" in done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_an_error_does_not_keep_the_pipeline(damaged):
    """A pipeline in a traceback that outlives the interpreter waits forever."""
    folder, offset = damaged

    def failed():
        stream = RecordStream(RecordSet(folder), samplers.epochs(24, 4), {})
        with pytest.raises(DataError, match=f"byte {offset:,}") as error:
            for step in range(100):
                stream.batch_at(step)
        return stream, error

    def threads():
        return len(os.listdir("/proc/self/task"))

    failed()  # the first pipeline starts threads that TensorFlow keeps
    gc.collect()
    before = threads()
    stream, error = failed()
    assert threads() == before
    assert error.value and stream.batch_at(50)  # both are alive
