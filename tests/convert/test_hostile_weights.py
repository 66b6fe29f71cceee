"""Hostile weight files: refused fast, with a one-line error, without code execution."""

import builtins
import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from fr_jax.convert import read_weights
from fr_jax.errors import UserError
from tests.support import weight_files as made
from tests.support.work import counted_lines

CANARY = "canary_of_hostile_weights"  # in the tests' working directory
COMMAND = f"touch {CANARY}"
ONE = np.float32([1, 2, 3])
PLACE = made.storage("0", "Float", 3)
FLOOD = 250_000  # beyond the limit of opcodes


class Runs:
    """An object whose pickle calls a function that creates a file."""

    def __init__(self, call, *arguments):
        self._call = call, arguments

    def __reduce__(self):
        return self._call


def opcodes(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def nested(levels: int) -> bytes:
    """A tuple that contains the next one twice, and so on: 2^levels when expanded."""
    return b"))\x86" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(levels))


def dict_paths(levels: int, keys: int) -> bytes:
    """A dict that has the next one under many keys, and so on: keys^levels paths."""
    body = b"}"
    for level in range(levels):
        entries = b"".join(made.text(f"{n}") + b"h%c" % level for n in range(keys))
        body += b"q%c0}(" % level + entries + b"u"
    return body


# Opcodes of the object in a PyTorch file, and the expected reason.
CALLS = {
    "os.system": (opcodes(Runs(os.system, COMMAND)), "asks for 'posix.system'"),
    "builtins.eval": (
        opcodes(Runs(builtins.eval, f"open({CANARY!r}, 'w')")),
        r"asks for '(__builtin__|builtins).eval'",
    ),
    "builtins.exec": (
        opcodes(Runs(builtins.exec, f"open({CANARY!r}, 'w')")),
        r"asks for '(__builtin__|builtins).exec'",
    ),
    "subprocess.call": (
        opcodes(Runs(subprocess.call, COMMAND.split())),
        r"asks for .(subprocess|commands).call.",
    ),
    "getattr": (opcodes(Runs(getattr, "text", "format_map")), "getattr"),
    "a call within a state dict": (
        made.call("collections", "OrderedDict")
        + b"("
        + made.text("conv.weight")
        + opcodes(Runs(os.system, COMMAND))
        + b"u",
        "asks for 'posix.system'",
    ),
    "a call as the argument of a call": (
        made.call("collections", "OrderedDict", opcodes(Runs(os.system, COMMAND))),
        "asks for 'posix.system'",
    ),
    "a call whose function is called": (
        made.call("torch", "Size", b")") + b")R",
        "calls something that is no",
    ),
    "INST": (b"(" + made.text(COMMAND) + b"ios\nsystem\n", r"opcode b'i'"),
    "OBJ": (b"(" + made.named("os", "system") + made.text(COMMAND) + b"o", "asks for"),
    "an extension": (b"\x82\x01", r"opcode b'\\x82'"),
    "STACK_GLOBAL": (b"\x8c\2os\x8c\6system\x93)R", "asks for 'os.system'"),
    "STACK_GLOBAL of objects": (b"NN\x93)R", "a name that is not text"),
    "an attribute of a harmless name": (
        made.named("collections", "OrderedDict.__init__.__globals__") + b")R",
        "asks for 'collections.OrderedDict.__init__",
    ),
    "a class of the system": (
        made.named("subprocess", "Popen") + made.several(made.text(COMMAND)) + b"R",
        "asks for 'subprocess.Popen'",
    ),
    "a module reached through a package": (
        made.named("my_project.tools", "subprocess") + b")R",
        "asks for 'my_project.tools.subprocess'",
    ),
    "a function of a package": (
        made.named("joblib", "load") + made.several(made.text("/etc/passwd")) + b"R",
        "asks for 'joblib.load'",
    ),
    "getattr of a tensor": (
        made.call("builtins", "getattr", PLACE, made.text("data")),
        "asks for 'getattr'",
    ),
    "getattr of a hidden name": (
        made.named("builtins", "getattr")
        + made.several(made.named("run", "Options"), made.text("__globals__"))
        + b"R",
        "asks for 'getattr'",
    ),
    "a module's name with a space": (
        made.named("os path", "System") + b")R",
        "asks for 'os path.System'",
    ),
    "objects of an unknown class": (
        made.named("run", "Options") + b"q\0" + b"h\0)\x81" * FLOOD,
        "a pickle of over .* opcodes",
    ),
    "states of one object": (
        made.named("run", "Options") + b")\x81q\0" + b"h\0b" * FLOOD,
        "a pickle of over .* opcodes",
    ),
    "an object in itself": (
        b"}" + made.text("a") + made.named("run", "Options") + b")\x81q\0h\0b" + b"s",
        "asks for 'run.Options'",
    ),
    "many objects of many values": (
        b"](" + b"N" * 5_000 + b"eq\0"
        b"0}("
        + b"".join(made.text(f"{n}") + b"crun\nA\nh\0\x85R" for n in range(4_000))
        + b"u",
        "asks for 'run.A'",
    ),
    "an attribute of a trainer's class": (
        made.named("pytorch_lightning.callbacks", "os.Popen") + b")R",
        "asks for 'pytorch_lightning.callbacks.os.Popen'",
    ),
    "a function of a trainer": (
        made.named("pytorch_lightning.utilities", "os") + b")R",
        "asks for 'pytorch_lightning.utilities.os'",
    ),
    "torch.load": (made.call("torch", "load", made.text("x")), "asks for 'torch.load'"),
    "storages in storages": (
        made.call("torch.storage", "_load_from_bytes", made.text("x")),
        "asks for 'torch.storage._load_from_bytes'",
    ),
    "numpy.load": (
        made.call("numpy", "load", made.text("/etc/passwd")),
        "asks for 'numpy.load'",
    ),
    "a whole module": (
        made.named("torch.nn.modules.container", "Sequential") + b")\x81}b",
        r"holds a whole module .*torch.save\(model.state_dict",
    ),
    "a whole module of one's own": (
        made.named("models.mobilefacenet", "MobileFaceNet") + b")\x81}b",
        r"asks for 'models.mobilefacenet.MobileFaceNet'.*model.state_dict",
    ),
    "a whole module with its source": (
        made.several(made.text("module"), b"N", made.text("a.py"), made.text("import"))
        + b"Q",
        "holds a whole module and its source",
    ),
    "__setstate__ of a class": (
        made.named("torch", "Size")
        + made.table([(made.text("__setstate__"), made.named("os", "system"))])
        + b"b",
        "asks for 'os.system'",
    ),
    "the state of a function": (
        made.named("torch._utils", "_rebuild_tensor_v2") + b"}b",
        "changes an object that is missing",
    ),
    "the state of a tuple": (b")}b", "changes an object that is missing"),
    "a type that is called": (
        made.call("torch", "FloatStorage", made.integer(1 << 40)),
        "calls something that is not a function",
    ),
    "a call with a list": (
        made.named("collections", "OrderedDict") + b"]R",
        "calls something that is not a function",
    ),
    "a call of a tensor's parts": (
        made.named("torch._utils", "_rebuild_tensor_v2") + PLACE + b"R",
        "calls something that is not a function",
    ),
    "keywords": (
        made.named("collections", "OrderedDict")
        + b")"
        + made.table([(made.text("a"), b"N")])
        + b"\x92",
        "an object with keywords",
    ),
    "rot13": (
        made.call("_codecs", "encode", made.text("nop"), made.text("rot13")),
        "holds no tensors by name",
    ),
    "a codec's bomb": (
        made.call("_codecs", "decode", made.text("x"), made.text("zlib")),
        "asks for '_codecs.decode'",
    ),
    "an empty stack": (b"0", "takes from an empty stack"),
    "below a mark": (b"N(000", "takes from an empty stack"),
    "a tuple from below a mark": (b"NN(\x86", "takes from an empty stack"),
    "a call from below a mark": (
        made.named("torch", "Size") + b"()\x85R",
        "takes from an empty stack",
    ),
    "no mark": (b"Nt", "a mark that is missing"),
    "marks": (b"(" * FLOOD, "a pickle of over .* opcodes"),
    "a mark left over": (b"N(N", "does not end with one object"),
    "two objects": (b"NN", "does not end with one object"),
    "lists": (b"]" * FLOOD, "a pickle of over .* opcodes"),
    "dicts, remembered": (b"}\x94" * FLOOD, "a pickle of over .* opcodes"),
    "tuples in tuples": (b")" + b"\x85" * FLOOD, "a pickle of over .* opcodes"),
    "sets": (b"\x8f" * FLOOD, "a pickle of over .* opcodes"),
    "names": (made.named("collections", "Counter") * FLOOD, "over 10,000 names"),
    "odd keys": (
        b"}(" + (b"G" + struct.pack(">d", 2.0**61) + b"N") * 20_000 + b"u",
        "holds no tensors by name",
    ),
    "nothing remembered": (b"]r\xff\xff\xff\xffj\1\0\0\0", "recalls object 1"),
    "a list in itself": (b"]q\0h\0a", "holds no tensors by name"),
    "a dict in itself": (
        b"}q\0" + made.text("a") + b"h\0s",
        "holds no tensors by name",
    ),
    "a billion laughs": (nested(40), "holds no tensors by name"),
    "a billion laughs as key": (b"}" + nested(40) + b"Ns", "holds no tensors by name"),
    "many paths of dicts": (dict_paths(8, 20), "holds no tensors by name"),
    "a billion laughs as storage": (nested(40) + b"Q", "a persistent id that names no"),
    "a billion laughs as shape": (
        made.call(
            "torch._utils", "_rebuild_tensor", PLACE, b"K\0", nested(40), nested(40)
        ),
        "tuple as offset, shape or stride",
    ),
    "one list of pairs, many times": (
        b"](" + b"(\x8c\1aNt" * 5_000 + b"eq\x010"
        b"ccollections\nOrderedDict\nq\x000" + b"h\0h\1\x85R0" * 3_000 + b"N",
        "holds no tensors by name",
    ),
    "a long integer": (b"\x8a\xff" + b"\x7f" * 255, "an integer of 255 bytes"),
    "an integer of a GiB": (b"\x8b" + struct.pack("<i", 1 << 30), "opcode"),
    "a long number": (
        b"I" + b"9" * 100_000 + b"\n",
        "a line that is no name or number",
    ),
    "a number that is text": (b"I__import__\n", "the number '__import__'"),
    "text of 4 EiB": (b"\x8d" + struct.pack("<Q", 1 << 62), "bytes expected"),
    "bytes of a TiB": (b"\x8e" + struct.pack("<Q", 1 << 40), "bytes expected"),
    "a bytearray of a TiB": (b"\x96" + struct.pack("<Q", 1 << 40), "bytes expected"),
    "text of a negative length": (b"T" + struct.pack("<i", -9), "-9 bytes expected"),
    "a frame of 4 EiB": (b"\x95" + struct.pack("<Q", 1 << 62), "a pickle frame of"),
    "another protocol": (b"\x80\x63N", "pickle protocol 99"),
    "half a character": (b"X\1\0\0\0\xc3", "text that is not UTF-8"),
    "a name with a line break": (
        made.table([(made.text("a\nb"), made.tensor(PLACE, 0, (3,), (1,)))]),
        r"a tensor is named 'a\\nb'",
    ),
    "no storage": (
        made.call("torch._utils", "_rebuild_tensor", b"NNNN"),
        "a tensor without a storage",
    ),
    "a storage of objects": (
        made.several(made.text("storage"), b"N", made.text("0"), b"NN") + b"Q",
        "a storage without a type",
    ),
}

# Tensors: offset, shape, strides within a storage of three float32.
TENSORS = {
    "beyond its storage": (0, (4,), (1,), "reaches to byte 16 of a storage of 12"),
    "beyond by its offset": (1, (3,), (1,), "reaches to byte 16"),
    "beyond by its strides": (0, (2, 2), (2, 1), "reaches to byte 16"),
    "a negative stride": (2, (3,), (-1,), "-1 as offset, shape or stride"),
    "a negative offset": (-1, (3,), (1,), "-1 as offset, shape or stride"),
    "a negative length": (0, (-3,), (1,), "-3 as offset, shape or stride"),
    "a stride that overflows": (0, (2, 2), (1 << 62, 1), "4611686018427387904 as"),
    "an offset that overflows": (1 << 63, (3,), (1,), "9223372036854775808 as"),
    "strides that wrap around": (0, (2, 2), ((1 << 47), (1 << 47)), "reaches to byte"),
    "a length beyond 64 bits": (0, (1 << 70,), (0,), "a number beyond 64 bits as"),
    "one value, repeated": (0, (1 << 40,), (0,), "the tensors expand to"),
    "repeated by axes": (0, (1 << 20,) * 4, (0,) * 4, "the tensors expand to"),
    "empty with a long axis": (0, (0, 1 << 40), (1, 1), "the tensors expand to"),
    "a hundred dimensions": (0, (1,) * 100, (1,) * 100, "100 dimensions"),
    "fewer strides": (0, (1, 1), (1,), "2 dimensions and 1 strides"),
}


def pytorch_objects():
    for name, (body, reason) in CALLS.items():
        yield f"zip, {name}", made.torch_zip(body, {"0": ONE.tobytes()}), reason
        if made.text("storage") not in body:  # legacy storages follow the object
            yield f"legacy, {name}", made.torch_legacy(body, {}), reason
    for name, (*numbers, reason) in TENSORS.items():
        item = made.tensor(PLACE, *numbers)
        body = made.table([(made.text("a"), item)])
        yield f"zip, {name}", made.torch_zip(body, {"0": ONE.tobytes()}), reason
        legacy = made.torch_legacy(body, {"0": (3, ONE.tobytes())})
        yield f"legacy, {name}", legacy, reason
    floats = made.call(
        "torch._utils", "_rebuild_tensor", PLACE, b"K\0", b"\x88\x85", b"K\1\x85"
    )
    yield (
        "zip, a boolean as shape",
        made.torch_zip(floats, {"0": ONE.tobytes()}),
        "True as",
    )


def storages():
    body = made.state({"a": ONE})
    view = made.several(made.text("1"), made.integer(2), made.integer(2))
    yield "entry missing", made.torch_zip(body, {}), "no entry 'archive/data/0'"
    yield "entry too small", made.torch_zip(body, {"0": b"1234"}), "has 4 bytes, not 3"
    yield (
        "a storage path out of the archive",
        made.torch_zip(made.storage("../../../etc/passwd", "Byte", 10), {}),
        r"no entry 'archive/data/../../../etc/passwd'",
    )
    yield (
        "a storage of 2^47",
        made.torch_zip(made.storage("0", "Float", 1 << 47), {"0": b"1234"}),
        "has 4 bytes, not 140,737,488,355,328",
    )
    yield (
        "a storage of -1",
        made.torch_zip(made.storage("0", "Float", -1), {"0": b""}),
        "a storage of -1 elements",
    )
    yield (
        "another byte order",
        made.torch_zip(body, {"0": ONE.tobytes()}, byteorder=b"middle"),
        "byte order 'middle'",
    )
    yield (
        "a TorchScript program",
        made.zipped({"a/data.pkl": made.pickled(b"N"), "a/constants.pkl": b""}),
        "a TorchScript program",
    )
    legacy = made.torch_legacy(made.state({"a": ONE}, b"N"), {"0": (3, ONE.tobytes())})
    yield (
        "legacy cut short",
        legacy[:-1],
        "has 11 of 12 bytes",
    )
    yield (
        "legacy with trailing bytes",
        legacy + b"more",
        "4 stray bytes after the last storage",
    )
    twice = legacy.replace(made.text("0") + b"e", made.text("0") * 2 + b"e")
    yield "legacy, a storage twice", twice + legacy[-20:], "is unused or repeated"
    lying = legacy[:-20] + struct.pack("<q", 1 << 62) + legacy[-12:]
    yield (
        "legacy of 2^62",
        lying,
        "has 4,611,686,018,427,387,904 elements, 3 are expected",
    )
    lying = legacy[:-20] + struct.pack("<q", -3) + legacy[-12:]
    yield "legacy of -3", lying, "has -3 elements, 3 are expected"
    yield (
        "legacy without its storage",
        made.torch_legacy(made.state({"a": ONE}), {}),
        "storage '0' is not in the file",
    )
    yield (
        "legacy with another storage",
        made.torch_legacy(body, {"1": (3, ONE.tobytes())}),
        "storage '1' is unused",
    )
    yield (
        "legacy, a view beyond",
        made.torch_legacy(made.state({"a": ONE}, view), {"0": (3, ONE.tobytes())}),
        "a view to 4 of a storage of 3",
    )
    yield (
        "legacy, one storage of two lengths",
        made.torch_legacy(PLACE + made.storage("0", "Float", 4), {}),
        "storage '0' is described in two ways",
    )
    yield "legacy, big-endian", legacy.replace(b"n\x88", b"n\x89"), "big-endian machine"
    yield (
        "legacy, another protocol",
        legacy.replace(b"M\xe9\x03.", b"M\xea\x03.", 1),
        "serialisation protocol 1002",
    )


def archives():
    entries = {"archive/data.pkl": made.pickled(b"}"), "archive/data/0": b"12345678"}
    good = made.zipped(entries)
    central = good.index(b"PK\1\2")
    second = good.index(b"PK\1\2", central + 1)
    end = good.index(b"PK\5\6")

    def changed(at: int, value: bytes, of: bytes = good) -> bytes:
        return of[:at] + value + of[at + len(value) :]

    for name in ("../data.pkl", "/etc/passwd", "a\\..\\b", "C:x", "a//b", "a/./b"):
        yield f"path {name}", made.zipped({name: b""}), "an entry is named"
    yield "a name with a bell", made.zipped({"a\7": b""}), r"named 'a\\x07'"
    yield "no UTF-8", good.replace(b"data/0", b"data/\xff"), "an entry is named"
    twice = good.replace(b"archive/data/0", b"archive/data.p").replace(
        b"archive/data.pkl", b"archive/data.p\0\0"
    )
    yield "a name with NUL", twice, "an entry is named"
    same = made.zipped({"archive/data/1": b"", "archive/data/0": b""})
    yield "one name twice", same.replace(b"data/1", b"data/0"), "two entries are named"
    yield "encrypted", changed(central + 8, b"\1"), "is encrypted or packed by method 0"
    yield (
        "method 14",
        changed(central + 10, b"\x0e"),
        "encrypted or packed by method 14",
    )
    yield "cut short", good[: end - 10], "a damaged zip archive"
    yield "cut within the directory", good[:second] + good[end:], "a damaged zip"
    yield "a directory beyond", changed(end + 16, b"\xff\xff\xff\x7f"), "is outside"
    yield "a directory of -1", changed(end + 12, b"\xff" * 8), "a damaged zip archive"
    yield "more entries", changed(end + 8, b"\3\0\3\0"), "3 entries; 2 are listed"
    yield "fewer entries", changed(end + 8, b"\1\0\1\0"), "1 entries; 2 are listed"
    yield "several disks", changed(end + 4, b"\1"), "several disks"
    yield (
        "other flags in the local header",
        changed(0, b"PK\3\4\0\0\1"),
        "described in two ways",
    )
    yield "another name in the local header", changed(30, b"x"), "described in two ways"
    yield (
        "another size in the local header",
        changed(18, b"\1"),
        "described in two ways",
    )
    yield "two sizes", changed(central + 20, b"\1"), "has two sizes"
    yield "an entry beyond", changed(central + 42, b"\xff\xff\xff\x7f"), "is outside"
    yield "a header elsewhere", changed(central + 42, b"\1"), "described in two ways"
    shared = changed(second + 42, good[central + 42 : central + 46])
    yield "two names of one entry", shared, "described in two ways"
    yield "zip64 field missing", changed(second + 42, b"\xff" * 4), "is outside"
    extra = good[: second + 30] + struct.pack("<H", 60_000) + good[second + 32 : end]
    extra += bytes(60_000) + good[end : end + 12]
    extra += struct.pack("<I", end + 60_000 - central) + good[end + 16 :]
    yield "many empty extra fields", extra, "holds no tensors by name"
    long = struct.pack("<I", 2 << 20)
    long = good[:central] + bytes(2 << 20) + good[central : end + 12] + long
    yield (
        "a too long directory",
        long + good[end + 16 :],
        "a directory of 2,097,152 bytes",
    )
    yield "trailing bytes", good + b"more", "bytes after the end"
    damage = good.replace(b"12345678", b"12345679")
    storage = made.storage("0", "Byte", 8)
    body = {"archive/data.pkl": made.pickled(storage), "archive/data/0": b"12345678"}
    damage = made.zipped(body).replace(b"12345678", b"12345679")
    yield "a wrong checksum", damage, "the checksum of 'archive/data/0' is wrong"
    wide = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, 1 << 63, 1 << 63
    )
    wide += struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    yield "zip64 of 2^63", good[:end] + wide + good[end:], "a damaged zip archive"
    lost = good[:end] + struct.pack("<4sIQI", b"PK\6\7", 0, 1 << 63, 1) + good[end:]
    yield "zip64 record missing", lost, "a damaged zip archive"
    yield "empty", b"PK\5\6" + bytes(18), "a zip archive of 0 entries"
    yield "compressed", made.zipped(entries, zipfile.ZIP_DEFLATED), "is compressed"
    yield "of pictures", made.zipped({"a/b.jpg": b"", "c.jpg": b""}), "no weight file"
    overlap = overlapping(30)
    yield "overlapping entries", overlap, "reaches into the next"
    flood = made.zipped({f"a/{n}": b"" for n in range(1)})
    at = flood.index(b"PK\5\6")
    yield (
        "a flood of entries",
        flood[: at + 8] + b"\xff\xff\xff\xff" + flood[at + 12 :],
        "a zip archive of 65,535 entries",
    )


def overlapping(count: int) -> bytes:
    """Entries whose data contain the headers and data of all later entries."""
    data, central = b"", b""
    tail = b"x" * 1000
    sizes = [len(tail) + 35 * n for n in range(count)]
    for number, size in enumerate(reversed(sizes)):
        name = b"a/%03d" % number
        content = zlib.crc32(b"")
        fields = (20, 0, 0, 0, 0, content, size, size, len(name), 0)
        central += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, *fields[:-1], 0, 0, 0, 0, 0, len(data)
        )
        central += name
        data += struct.pack("<4s5H3I2H", b"PK\3\4", *fields) + name
    data += tail
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(central), len(data), 0
    )
    return data + central + end


def npy(header: bytes, content: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


def numpy_archives():
    def archive(entry: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
        return made.zipped({"a.npy": entry}, method)

    def header(kind: bytes = b"'<f4'", shape: bytes = b"(3,)") -> bytes:
        return b"{'descr': %s, 'fortran_order': False, 'shape': %s, }\n" % (kind, shape)

    objects = io.BytesIO()
    np.savez(objects, a=np.array([Runs(os.system, COMMAND)], object))
    yield "of objects", objects.getvalue(), "'a.npy' is an array of |O, not of numbers"
    bomb = archive(
        npy(header(shape=b"(25000000,)"), bytes(10**8)), zipfile.ZIP_DEFLATED
    )
    yield "a bomb", bomb, "would inflate from"
    lying = archive(bytes(10**8), zipfile.ZIP_DEFLATED)
    at = lying.index(b"PK\1\2")
    lying = bytearray(lying)
    lying[at + 24 : at + 28] = lying[22:26] = struct.pack("<I", 1000)
    yield (
        "a bomb with a wrong size",
        bytes(lying),
        "does not inflate to its 1,000 bytes",
    )
    broken = bytearray(archive(bytes(1000), zipfile.ZIP_DEFLATED))
    broken[35] = 7
    yield "a damaged stream", bytes(broken), "Error -3 while decompressing"
    huge = archive(npy(header(shape=b"(4294967296, 4294967296)"), bytes(12)))
    yield "a shape that wraps", huge, "holds 12 bytes"
    huge = archive(npy(header(shape=b"(%s)" % (b"9" * 15 + b","))))
    yield "a shape of 10^15", huge, "dimensions, 999999999999999 long"
    yield (
        "a negative shape",
        archive(npy(header(shape=b"(-3,)"))),
        "1 dimensions, -3 long",
    )
    yield (
        "a long number",
        archive(npy(header(shape=b"(%s,)" % (b"9" * 5000)))),
        "does not write",
    )
    yield "nested brackets", archive(npy(b"(" * 9000)), "does not write"
    code = b"__import__('os').system('" + COMMAND.encode() + b"')"
    yield "code", archive(npy(header(kind=code))), "NumPy does not write"
    yield "fields", archive(npy(header(kind=b"[('a', '<f4')]"))), "an array of [|]V4"
    yield "an odd type", archive(npy(header(kind=b"'<f3'"))), "NumPy does not write"
    yield (
        "too few numbers",
        archive(npy(header(), bytes(8))),
        "holds 8 bytes, not float32",
    )
    yield "too many numbers", archive(npy(header(), bytes(13))), "holds 13 bytes"
    long = b"\x93NUMPY\2\0" + struct.pack("<I", 0xFFFFFFFF) + header()
    yield "a header of 4 GiB", archive(long), "NumPy does not write"
    yield "another version", archive(npy(header(), bytes(12), 9)), "does not write"
    yield "no array", archive(b"text"), "NumPy does not write"


def safetensors_files():
    def one(content=bytes(12), **entry):
        described = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]} | entry
        return made.safetensors({"a": described}, content)

    def header(data: bytes) -> bytes:
        return made.safetensors(data)

    yield "a header of 2^39", struct.pack("<Q", 1 << 39) + b"{}", "a header of 549,755"
    yield "a header of 5 MB", struct.pack("<Q", 5 << 20) + b"{}", "a header of 5,242"
    yield "a header beyond", struct.pack("<Q", 3) + b"{}", "invalid header length"
    yield "no JSON", header(b"{'a': 1}"), "key must be a string at line 1 column 2"
    yield "cut JSON", header(b'{"a": {"dtype"'), "EOF while parsing"
    yield "deep JSON", header(b'{"a":' + b"[" * 100_000), "recursion limit exceeded"
    flood = header(b'{"a":[' + b"[]," * 400_000 + b"[]]}")
    yield "many JSON arrays", flood, "invalid type: sequence"
    yield "no table", header(b"{}[]"), "trailing characters at line 1 column 3"
    yield "no UTF-8", header(b'{"\xff": 1}'), "invalid utf-8 sequence"
    yield "a long number", header(b'{"a": ' + b"9" * 5000 + b"}"), "number out of range"
    twice = b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
    twice = header(twice + twice[1:-1] + b"}")
    yield "one name twice", twice, "incomplete metadata"
    yield (
        "one name of two tensors",
        twice.replace(b"0,4]}}", b"4,8]}}") + bytes(8),
        "offset",
    )
    yield "no entry", made.safetensors({"a": 5}), "invalid type: integer `5`"
    yield "no type", one(dtype=None), "invalid type: null"
    yield "an odd type", one(dtype="E4"), "unknown variant `E4`"
    yield "a type of half a byte", one(dtype="F4"), "subbytes dtypes"
    yield "another type", one(dtype="F8_E8M0", shape=[12]), "type 'F8_E8M0'"
    yield "a list for a type", one(dtype=["F32"]), "invalid type: sequence"
    yield "a negative shape", one(shape=[-3]), "invalid value: integer `-3`"
    yield "a shape of floats", one(shape=[3.0]), "floating point `3.0`"
    yield "a boolean in a shape", one(shape=[True, 3]), "invalid type: boolean `true`"
    yield "NaN", one(shape=[float("nan")]), "expected value at line 1 column 34"
    yield "a shape that wraps", one(shape=[1 << 40, 1 << 40]), "overflow computing"
    yield "many axes", one(shape=[1] * 99 + [3]), "a tensor of 100 dimensions"
    nothing = one(b"", shape=[0, 1 << 60], data_offsets=[0, 0])
    yield "empty with a long axis", nothing, "1152921504606846976 long"
    yield "negative offsets", one(data_offsets=[-12, 0]), "invalid value: integer `-12`"
    yield "three offsets", one(data_offsets=[0, 12, 24]), "invalid length 3, expected 2"
    yield "offsets reversed", one(data_offsets=[12, 0]), "invalid offset for tensor `a`"
    yield "offsets beyond", one(data_offsets=[4, 16]), "invalid offset for tensor `a`"
    yield "too few numbers", one(shape=[4]), "invalid shape, data type, or offset"
    yield "bytes behind", one(bytes(16)), "file not fully covered"
    yield "a gap", one(bytes(16), data_offsets=[4, 16]), "invalid offset for tensor `a`"
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    both = made.safetensors({"a": entry, "b": entry}, bytes(12))
    yield "an overlap", both, "invalid offset for tensor `[ab]`"
    bell = made.safetensors({"\x1b[31m": entry | {"data_offsets": [12, 0]}}, bytes(12))
    yield (
        "an escape sequence in an error",
        bell,
        r"invalid offset for tensor `\\x1b\[31m`",
    )
    yield (
        "an escape sequence as name",
        made.safetensors({"\x1b[31m": entry}, bytes(12)),
        "is named",
    )
    yield "no tensors", made.safetensors({}), "holds no tensors"


def onnx_files():
    def one(*parts: bytes) -> bytes:
        return made.onnx(made.field(5, b"".join(parts)))

    name = made.field(8, b"a")
    floats = made.field(2, 1)
    good = made.initialiser("a", ONE)
    yield (
        "a number without end",
        b"\x08" + b"\xff" * 100,
        "a protobuf number without an end",
    )
    yield "a number of 70 bits", b"\x08" + b"\xff" * 9 + b"\x7f", "without an end"
    yield "a length beyond", made.field(1, 8) + b"\x3a\xff\xff\xff\xff\x0f", "are left"
    beyond = b"\x3a" + b"\xff" * 9 + b"\1"
    yield "a length of 2^64", made.field(1, 8) + beyond, "18,446,744,073,709,551,615"
    yield "a group", made.field(1, 8) + b"\x0b", "protobuf wire type 3"
    yield "field 0", made.field(1, 8) + b"\0\0", "protobuf field 0"
    yield "no graph", made.field(1, 8), "an ONNX model of 0 graphs"
    yield "two graphs", made.onnx() + made.field(7, b""), "an ONNX model of 2 graphs"
    yield "a number for a graph", made.field(1, 8) + made.field(7, 1), "a number where"
    deep = good
    for _ in range(2000):
        deep = made.field(1, deep)
    yield "deep nesting", made.onnx(made.field(1, deep)), "holds no tensors|a name of"
    yield (
        "a flood",
        made.onnx(b"\x10\0" * FLOOD),
        "over .* protobuf fields",
    )
    nodes = made.onnx(b"\x0a\0" * (1 << 19))
    yield "a flood of empty nodes", nodes, "over .* protobuf fields"
    many = made.field(1, bytes(FLOOD))
    yield (
        "a flood of lengths",
        one(many, floats, name),
        "over .* protobuf fields",
    )
    outside = made.field(13, made.field(1, b"location") + made.field(2, b"/etc/passwd"))
    yield "external data", one(good, outside), "its weights are in another file"
    yield "external data location", one(good, made.field(14, 1)), "in another file"
    yield (
        "text",
        one(made.field(2, 8), name, made.field(6, b"x")),
        "TensorProto field 6",
    )
    yield "an odd type", one(made.field(2, 99), name), "'a' is of ONNX type 99"
    yield "bytes for a type", one(made.field(2, b"99"), name), "'a' is of ONNX type"
    minus = made.field(1, (1 << 64) - 3)
    yield "a negative shape", one(minus, floats, name), r"'a' has shape '\[-3\]'"
    wrap = made.field(1, 1 << 32) * 2
    yield "a shape that wraps", one(wrap, floats, name), "holds 0 bytes, not float32"
    yield "too few numbers", one(made.field(1, 4), good), "'a' holds 12 bytes"
    doubles = made.field(10, bytes(16))
    yield "another type", one(made.field(1, 4), floats, name, doubles), "holds 16 bytes"
    yield "two values", one(good, made.field(4, bytes(12))), "in 2 pieces"
    twice = made.field(5, good)
    yield "one name twice", made.onnx(twice, twice), "two initialisers are named 'a'"
    yield "no name", one(made.initialiser("", ONE)), "a tensor is named ''"
    yield "a long name", one(made.initialiser("a" * 2000, ONE)), "a name of 2,000 bytes"
    yield "sparse", made.onnx(made.field(15, b"")), "a sparse initialiser"


def other_files():
    tar = bytearray(1024)
    tar[257:262] = b"ustar"
    yield "empty", b"", "0 bytes"
    yield "a bare pickle", pickle.dumps(Runs(os.system, COMMAND)), "did not write"
    yield "a pickle of arrays", pickle.dumps({"a": ONE}), "torch.save did not write"
    yield "a tar archive", bytes(tar), "load it there and torch.save its state dict"
    yield "one array", npy(b"{}"), "np.savez"
    yield "a web page", b"<!DOCTYPE html><html>Sign in", "a web page, no weight file"
    yield "gzip", b"\x1f\x8b\x08" + bytes(50), "begins with"
    yield "noise", np.random.default_rng(0).bytes(1000), "begins with"
    yield "zeros", bytes(1000), "begins with"


HOSTILE = [
    (f"{source.__name__}: {name}", data, reason)
    for source in (
        *(pytorch_objects, storages, archives, numpy_archives),
        *(safetensors_files, onnx_files, other_files),
    )
    for name, data, reason in source()
]


@pytest.fixture(scope="module")
def all_readers_imported(tmp_path_factory):
    """Imports the modules that the readers import on first use."""
    path = tmp_path_factory.mktemp("honest") / "weights"
    for form in made.OF:
        made.write(path, made.OF[form]({"a": ONE}))
        read_weights(path)


@pytest.mark.usefixtures("all_readers_imported")
@pytest.mark.parametrize(
    ("data", "reason"),
    [case[1:] for case in HOSTILE],
    ids=[case[0] for case in HOSTILE],
)
def test_hostile_file_is_refused(data, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    modules = set(sys.modules)
    with (
        pytest.raises(UserError, match=reason) as caught,
        counted_lines() as lines,
    ):
        read_weights(path)
    tracemalloc.start()
    with contextlib.suppress(UserError):
        read_weights(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1 and message.isprintable()
    assert len(message) < 600
    assert lines.count < 10 * FLOOD
    assert peak < 64 << 20
    assert os.listdir() == ["weights.pth"]
    assert set(sys.modules) == modules
