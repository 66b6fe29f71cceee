"""Readers of foreign files: content, and errors that name file and offset."""

import contextlib
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.readers import recordio, verification_bin
from data_pipelines.readers.image_folder import ImageFolder
from tests.support.faces import encoded, picture
from tests.support.recordio import MAGIC, header, record, write_pack
from tests.support.work import counted_lines

# --- image folders -----------------------------------------------------------------


def test_image_folder_labels_identities_in_sorted_order(tmp_path):
    for name in ("Bob/2.jpg", "Bob/1.jpg", "Ann/deep/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(name[-4:]))
    (tmp_path / "Ann/x.txt").write_text("text")
    reader = ImageFolder(tmp_path)
    faces = list(reader)
    assert reader.identities == ["Ann", "Bob"]
    assert len(reader) == 3
    assert [(f.label, f.identity, f.source) for f in faces] == [
        (0, "Ann", "Ann/deep/3.png"),
        (1, "Bob", "Bob/1.jpg"),
        (1, "Bob", "Bob/2.jpg"),
    ]


def test_image_folder_that_is_missing_empty_or_without_subfolders(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images found"):
        ImageFolder(tmp_path)
    (tmp_path / "1.jpg").write_bytes(encoded())
    with pytest.raises(DataError, match="of each identity into a subfolder"):
        ImageFolder(tmp_path)


# --- RecordIO ----------------------------------------------------------------------


@pytest.mark.parametrize("insightface", [True, False])
def test_recordio_returns_the_packed_images_and_labels(tmp_path, insightface):
    images = [encoded(image=picture(seed=n)) for n in range(6)]
    write_pack(tmp_path, [0, 0, 1, 2, 2, 2], images, insightface=insightface)
    pack = recordio.RecordIO(tmp_path)
    faces = list(pack)
    assert len(pack) == 6
    assert [face.image for face in faces] == images
    assert [face.label for face in faces] == [0, 0, 1, 2, 2, 2]
    assert faces[3].identity == "2"
    scanned = list(pack.scan())
    assert len(scanned) == (10 if insightface else 6)
    assert scanned[1][0] == pack._offsets[1]


def test_recordio_joins_records_split_at_the_magic(tmp_path):
    tricky = [
        bytes(4) + MAGIC + b"12345678" + MAGIC + MAGIC + b"end",
        b"x" + MAGIC + b"not on four bytes",
        MAGIC,
        MAGIC + bytes(3),
    ]
    write_pack(tmp_path, [0, 1, 0, 1], tricky)
    pack = recordio.RecordIO(tmp_path)
    assert [face.image for face in pack] == tricky
    lengths = dict(pack.scan())
    assert lengths[pack._offsets[1]] == 24 + len(tricky[0])


def test_recordio_reads_the_first_of_several_labels_and_float64_labels(tmp_path):
    image = encoded()
    payloads = [
        header(9, 2, (3, 7)) + image,
        struct.pack("<I4xdQQ", 0, 20_000_001.0, 0, 0) + image,  # float64 labels
    ]
    data = b"".join(map(record, payloads))
    (tmp_path / "a.rec").write_bytes(data)
    (tmp_path / "a.idx").write_text(f"5\t0\n6\t{len(record(payloads[0]))}\n")
    faces = list(recordio.RecordIO(tmp_path / "a.rec"))
    assert [face.label for face in faces] == [3, 20_000_001]
    assert [face.image for face in faces] == [image, image]


def damage(path, at, data):
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


def test_recordio_errors_name_the_byte(tmp_path):
    offsets = write_pack(tmp_path, [0, 1, 1])
    at = offsets[2]
    rec, idx = tmp_path / "train.rec", tmp_path / "train.idx"
    whole, index = rec.read_bytes(), idx.read_text()

    def failure(change):
        rec.write_bytes(whole)
        idx.write_text(index)
        change()
        try:
            faces = list(recordio.RecordIO(tmp_path))
        except DataError as error:
            return str(error)
        (error,) = (face for face in faces if isinstance(face, DataError))
        assert len(faces) == 3  # the others are read
        return str(error)

    magic = failure(lambda: damage(rec, at, b"\1\2\3\4"))
    assert f"train.rec: byte {at:,}: magic 0x04030201 instead of 0xCED7230A" in magic
    huge = failure(lambda: damage(rec, at + 4, b"\xff\xff\xff\x1f"))
    assert f"byte {at:,}: a record of 536,870,911 bytes does not fit" in huge
    part = failure(lambda: damage(rec, at + 7, bytes([3 << 5])))
    assert f"byte {at:,}: part flag 3" in part
    label = failure(lambda: damage(rec, at + 12, struct.pack("<f", -5.0)))
    assert f"byte {at:,}: label -5.0 of key 2" in label
    nan = failure(lambda: damage(rec, at + 12, struct.pack("<f", np.nan)))
    assert f"byte {at:,}: label nan" in nan
    labels = failure(lambda: damage(rec, at + 8, struct.pack("<I", 1 << 30)))
    assert f"byte {at:,}: 1073741824 labels do not fit" in labels
    cut = failure(lambda: rec.write_bytes(whole[: at + 20]))
    assert "lies outside train.rec" in cut or f"byte {at:,}" in cut
    beyond = failure(lambda: idx.write_text(index.replace(f"\t{at}\n", "\t99999999\n")))
    assert "train.idx: line 3: offset 99,999,999 of key 2 lies outside" in beyond
    short = failure(lambda: idx.write_text("".join(index.splitlines(True)[:2])))
    assert "1 image keys, record 0 announces 3" in short
    text = failure(lambda: idx.write_text("hello\n"))
    assert "train.idx: not lines of key<TAB>offset" in text
    empty = failure(lambda: rec.write_bytes(b""))
    assert "train.rec: no such file, or empty" in empty


def test_random_damage_to_recordio_is_content_or_a_data_error(tmp_path):
    write_pack(tmp_path, [0, 1, 2, 2])
    rec, idx = tmp_path / "train.rec", tmp_path / "train.idx"
    whole, index = rec.read_bytes(), idx.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        for path, content in ((rec, whole), (idx, index)):
            data = bytearray(content[: rng.integers(1, len(content) + 1)])
            for _ in range(rng.integers(0, 5)):
                data[rng.integers(len(data))] = rng.integers(256)
            path.write_bytes(data)
        try:
            pack = recordio.RecordIO(tmp_path)
            list(pack)
            list(pack.scan())
        except DataError:
            pass


def test_recordio_scan_executes_few_lines_a_record(tmp_path):
    data = record(header(1) + bytes(40)) * 200_000
    (tmp_path / "a.rec").write_bytes(data)
    (tmp_path / "a.idx").write_text("0\t0\n")
    pack = recordio.RecordIO(tmp_path / "a.rec")
    with counted_lines() as lines:
        assert sum(1 for _ in pack.scan()) == 200_000
    assert lines.count <= 20 * 200_000  # the benchmark measures the rate


# --- verification .bin --------------------------------------------------------------

IMAGES = [encoded(image=picture(seed=n)) for n in range(6)]
SAME = [True, False, True]


LABELS = {
    "list of bool": SAME,
    "list of int": [1, 0, 1],
    "list of float": [1.0, 0.0, 1.0],
    "list of lists": [[True], [False], [True]],
    **{
        f"array of {kind}": np.array(SAME).astype(kind)
        for kind in ("?", "i1", "u1", ">i2", "i4", "i8", "u8", "f2", "f4", ">f8", "O")
    },
    "column": np.array(SAME)[:, None],
    "column of float": np.array(SAME, float)[:, None],
    "row, Fortran order": np.asfortranarray(np.array(SAME, int)[None]),
    "list of scalars": list(np.array(SAME)),
    "list of int64": list(np.array(SAME, np.int64)),
    "list of float32": list(np.array(SAME, np.float32)),
    "list of arrays": list(np.array(SAME)[:, None]),
    "column of objects": np.array(SAME, object)[:, None],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("labels", LABELS)
def test_bin_of_every_protocol_and_type_of_labels(tmp_path, protocol, labels):
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((IMAGES, LABELS[labels]), protocol))
    loaded = verification_bin.read(path)
    assert loaded.images == IMAGES
    assert loaded.same.tolist() == SAME
    assert loaded.same.dtype == bool


VECTORS = [np.frombuffer(image, np.uint8) for image in IMAGES]
OBJECTS = np.empty(6, object)
OBJECTS[:] = IMAGES
ENCODED = {
    "arrays": VECTORS,
    "columns": [vector[:, None] for vector in VECTORS],
    "rows": tuple(vector[None] for vector in VECTORS),
    "bytearrays": [bytearray(image) for image in IMAGES],
    "array of bytes": np.array(IMAGES),
    "array of objects": OBJECTS,
    "column of objects": OBJECTS[:, None],
    "array of arrays": np.array([*VECTORS, None], object)[:6],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("container", ENCODED)
def test_bin_of_every_protocol_and_type_of_images(tmp_path, protocol, container):
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps([ENCODED[container], SAME], protocol))
    loaded = verification_bin.read(path)
    assert loaded.images == IMAGES
    assert {type(image) for image in loaded.images} == {bytes}


def test_bin_reads_protocol_0_of_python_2(tmp_path):
    """Byte strings as quoted and escaped text, numbers with an L."""
    quoted = (
        repr(image)[1:].encode() if n else b'"%s"' % repr(image)[2:-1].encode()
        for n, image in enumerate(IMAGES)
    )
    body = b"((lp0\n" + b"".join(
        b"S%s\np%d\na" % (q, n) for n, q in enumerate(quoted, 1)
    )
    body += b"(lp9\nI01\naL0L\naF1.0\nag9\n0tp10\n."
    path = tmp_path / "set.bin"
    path.write_bytes(body)
    loaded = verification_bin.read(path)
    assert loaded.images == IMAGES
    assert loaded.same.tolist() == SAME


def test_bin_reads_python_2_pickles(tmp_path):
    """Protocol 2 of Python 2: byte strings as (short) binary strings."""
    body = b"\x80\x02]q\x00("
    for image in IMAGES:
        body += b"T" + struct.pack("<i", len(image)) + image
    body += b"e]q\x01(\x88\x89\x88e\x86q\x02."
    path = tmp_path / "set.bin"
    path.write_bytes(body)
    loaded = verification_bin.read(path)
    assert loaded.images == IMAGES
    assert loaded.same.tolist() == SAME


class Runs:
    """An object whose pickle contains a call that would write a file."""

    def __init__(self, call, *arguments):
        self._call = call, arguments

    def __reduce__(self):
        return self._call


def hostile(canary):
    import builtins
    import os
    import subprocess

    command = f"touch {canary}"
    yield pickle.dumps(Runs(os.system, command))
    yield pickle.dumps(([Runs(os.system, command)] * 2, [True]))
    yield pickle.dumps(Runs(builtins.eval, f"open({str(canary)!r}, 'w')"))
    yield pickle.dumps(Runs(builtins.exec, f"open({str(canary)!r}, 'w')"))
    yield pickle.dumps(Runs(subprocess.call, ["touch", str(canary)]))
    yield pickle.dumps(Runs(getattr, "text", "format_map"))
    yield b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    yield b"(S'touch " + str(canary).encode() + b"'\nios\nsystem\n."
    yield b"c_codecs\nencode\n(Vabc\nVrot13\ntR."
    yield b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R."
    yield b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0\x1datin1\x86R."
    yield b"\x80\x02cnumpy\ndtype\nX\x02\0\0\0\n1K\0K\x01\x87R."
    yield b"\x80\x04\x8c\x02os\x8c\x06system\x93."
    yield b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R."
    yield b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR."
    yield b"cnumpy\nndarray\n}S'set_state'\ncos\nsystem\nsb."  # BUILD on a class
    yield b"\x80\x02c_codecs\nencode\n}X\x01\0\0\0aK\x01sb."  # BUILD on a function
    yield b"\x80\x02cnumpy\ndtype\nU\x02O8K\0K\x01\x87R."
    yield b"cnumpy\nload\n(S'/etc/passwd'\ntR."
    yield b"\x80\x03cnumpy.core.multiarray\nscalar\nNN\x86R."
    yield b"\x80\x04\x96" + struct.pack("<Q", 1 << 40) + b"."  # a bytearray of 1 TiB
    yield b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"."  # bytes of 1 TiB
    yield b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"."  # a frame of 4 EiB
    yield b"\x80\x02]r" + struct.pack("<I", 0xFFFFFFFF) + b"j\1\0\0\0."  # a memo bomb
    yield b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"."  # a number of 1 GiB
    yield b"L" + b"9" * 100_000 + b"L\n."
    yield b"F" + b"9" * 100_000 + b"\n."
    yield b"S'" + b"\\x00" * 100_000  # without an end
    yield b"S'a\\x0'\n."
    yield b"V\\u12\n."
    yield b"Na" + b"g" + b"9" * 50 + b"\n."
    yield b"Np-1\n."
    yield b"c__builtin__\nbytearray\n(I1000000000000\ntR."
    yield b"c__builtin__\nbytearray\n(Va\nVutf-32\ntR."
    yield b"c__builtin__\nbytes\n((lI1\natR."
    shape = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    kind = b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR"
    array = shape + b"(I1\n(I%d\ntp0\n0g0\n" + kind + b"I00\n%stb."
    yield array % (1 << 30, b"i8", b"S'abc'\n")
    yield array % (1 << 39, b"S999999999", b"S''\n")
    yield array % (3, b"O8", b"S'abc'\n")
    yield array % (1 << 30, b"O8", b"(l")
    yield b"(" * 100_000 + b"."
    yield b"]" + b"0" * 50 + b"."
    yield b"P1\n."
    yield b"\x80\x02}q\0(X\1\0\0\0aK\1u."
    yield b""
    yield b"."
    yield IMAGES[0]


def test_errors_do_not_print_nested_lists(tmp_path):
    """Forty lists, each twice in the next: printed, they would exceed any memory."""
    nested: object = 1
    for _ in range(40):
        nested = [nested, nested]
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((IMAGES, [nested] * 3), 4))
    with (
        pytest.raises(DataError, match="a label is list") as caught,
        counted_lines() as lines,
    ):
        verification_bin.read(path)
    assert len(str(caught.value)) < 200
    assert lines.count < 10_000


def test_bin_that_encodes_one_text_many_times(tmp_path):
    """1 MiB of text would become 1 GiB of bytes."""
    text = b"X" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    named = b"\x80\x02c_codecs\nencode\nq\0" + text + b"q\1X\6\0\0\0latin1q\2"
    path = tmp_path / "set.bin"
    path.write_bytes(named + b"h\0h\1h\2\x86R" * 1000 + b".")
    tracemalloc.start()
    with pytest.raises(DataError, match="byte .*: text that is longer than the file"):
        verification_bin.read(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_hostile_bins_are_rejected_at_once_and_nothing_runs(tmp_path):
    canary = tmp_path / "ran"
    path = tmp_path / "set.bin"
    for number, data in enumerate(hostile(canary)):
        path.write_bytes(data)
        with (
            pytest.raises(DataError, match=r"set\.bin: ") as caught,
            counted_lines() as lines,
        ):
            verification_bin.read(path)
        assert lines.count < 1_000_000, number
        assert str(caught.value).isprintable(), number  # on one line
        assert not canary.exists(), number


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (([], []), "0 images for 0 pairs"),
        ((IMAGES[:5], SAME), "5 images for 3 pairs"),
        ((IMAGES, [True, 2, False]), "a label is 2"),
        ((IMAGES, [True, None, False]), "a label is None"),
        ((["text"] * 6, SAME), "an image is str"),
        ((IMAGES,), "not a pair"),
        ((set(IMAGES), SAME), "not a pair"),
        ((IMAGES, {0: True, 1: True, 2: True}), "not a pair"),
        ((np.zeros((6, 9), np.uint8), SAME), "a NumPy array of several axes"),
        (([np.zeros((8, 8, 3), np.uint8)] * 6, SAME), "an image is an array .* not an"),
        ((IMAGES, [0.5, 1.0, 0.0]), "a label is 0.5"),
        ((IMAGES, np.array([1, -1, 1])), "a label is -1"),
        ((IMAGES, np.array([1, np.nan, 1])), "a label is nan"),
        ((IMAGES, np.eye(3)), "a NumPy array of several axes"),
        ((IMAGES, ["yes", "no", "yes"]), "a label is str"),
        (5, "not a pair"),
    ],
)
def test_bins_with_invalid_content(tmp_path, content, reason):
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(content, 4))
    with pytest.raises(DataError, match=reason):
        verification_bin.read(path)


def test_random_damage_to_a_bin_is_content_or_a_data_error(tmp_path):
    path = tmp_path / "set.bin"
    whole = pickle.dumps(([b"a" * 30, b"b" * 30], [True]), 4)
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for _ in range(rng.integers(0, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(DataError):
            verification_bin.read(path)


def test_real_bins(real):
    loaded = verification_bin.read(real("lfw.bin"))
    assert len(loaded.images) == 12_000
    assert loaded.same.sum() == 3_000
    # In ten folds of 300 genuine and 300 impostor pairs.
    assert loaded.same.reshape(10, 2, 300).all(axis=2)[:, 0].all()
