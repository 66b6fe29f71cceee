"""Weight files made byte by byte, without the libraries that usually write them."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    np.dtype(np.float32): "Float",
    np.dtype(np.float64): "Double",
    np.dtype(np.float16): "Half",
    np.dtype(ml_dtypes.bfloat16): "BFloat16",
    np.dtype(np.int64): "Long",
    np.dtype(np.uint8): "Byte",
    np.dtype(np.bool): "Bool",
}


# --- pickles ------------------------------------------------------------------------


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def several(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + several(*arguments) + b"R"


def table(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"}(" + b"".join(key + value for key, value in items) + b"u"


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def storage(key: str, kind: str, length: int, *view: bytes) -> bytes:
    return (
        several(
            text("storage"),
            named("torch", f"{kind}Storage"),
            text(key),
            text("cpu"),
            integer(length),
            *view,
        )
        + b"Q"
    )


def tensor(
    place: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> bytes:
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        place,
        integer(offset),
        several(*map(integer, shape)),
        several(*map(integer, strides)),
        b"\x89",
        call("collections", "OrderedDict"),
    )


def state(arrays: Mapping[str, np.ndarray], *view: bytes) -> bytes:
    """The opcodes of an OrderedDict of tensors, each with a storage of its own."""
    items = []
    for number, (name, array) in enumerate(arrays.items()):
        place = storage(str(number), STORAGES[array.dtype], array.size, *view)
        strides = np.ndarray(array.shape, np.uint8).strides if array.size else ()
        strides = strides or (1,) * array.ndim
        items.append((text(name), tensor(place, 0, array.shape, strides)))
    body = b"".join(key + value for key, value in items)
    return call("collections", "OrderedDict") + b"(" + body + b"u"


# --- containers ---------------------------------------------------------------------


def torch_zip(
    body: bytes, storages: Mapping[str, bytes], folder: str = "archive", **further
) -> bytes:
    """What torch.save writes; `body` are the opcodes of the object."""
    entries = {"data.pkl": pickled(body), "byteorder": b"little", "version": b"3\n"}
    entries |= further
    entries |= {f"data/{key}": data for key, data in storages.items()}
    return zipped({f"{folder}/{name}": data for name, data in entries.items()})


def zipped(entries: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def torch_legacy(body: bytes, storages: Mapping[str, tuple[int, bytes]]) -> bytes:
    """What torch.save wrote before PyTorch 1.6: storages as (elements, bytes)."""
    system = table([(text("little_endian"), b"\x88")])
    parts = [integer(MAGIC), b"M\xe9\x03", system, body]
    parts.append(b"](" + b"".join(map(text, storages)) + b"e")
    data = b"".join(map(pickled, parts))
    for length, content in storages.values():
        data += struct.pack("<q", length) + content
    return data


def zip_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    storages = {str(n): array.tobytes() for n, array in enumerate(arrays.values())}
    return torch_zip(state(arrays), storages)


def legacy_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    storages = {
        str(number): (array.size, array.tobytes())
        for number, array in enumerate(arrays.values())
    }
    return torch_legacy(state(arrays, b"N"), storages)


def npz_of(arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, **dict(arrays))
    return buffer.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


SAFE_TYPES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}


def safetensors(header: object, content: bytes = b"") -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + content


def safetensors_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    header: dict = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, array in arrays.items():
        data = array.tobytes()
        header[name] = {
            "dtype": SAFE_TYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    return safetensors(header, content)


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


ONNX_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "bfloat16": 16,
}


def initialiser(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(field(1, length) for length in array.shape)
    kind = field(2, ONNX_TYPES[array.dtype.name])
    return dims + kind + field(8, name.encode()) + field(9, array.tobytes())


def onnx(*graph: bytes) -> bytes:
    return field(1, 8) + field(2, b"test") + field(7, b"".join(graph))


def onnx_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    return onnx(*(field(5, initialiser(*item)) for item in arrays.items()))


OF = {
    "pytorch-zip": zip_of,
    "pytorch-legacy": legacy_of,
    "safetensors": safetensors_of,
    "npz": npz_of,
    "onnx": onnx_of,
}


def without_checksums(archive: bytes) -> bytes:
    """The zip archive with all checksums 0: readers then see damaged content."""
    data = bytearray(archive)
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        for entry in opened.infolist():
            checksum = struct.pack("<I", zlib.crc32(opened.read(entry)))
            for _ in range(archive.count(checksum)):
                at = data.find(checksum)
                data[at : at + 4] = bytes(4)
    return bytes(data)


def write(path: Path, data: bytes) -> None:
    """Replaces a file; overwriting it would wait for the disk on ext4."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


# --- damage -------------------------------------------------------------------------

# Bytes that readers mishandle: limits of integers, delimiters of structures.
_EDGE_CASES = [
    *(struct.pack("<q", n)[:size] for n in (-1, 0, 1, 2**31) for size in (1, 4, 8)),
    *(struct.pack("<q", 2**n)[:8] for n in (15, 16, 32, 40, 48, 62, 63 - 1)),
    *(b".", b"(", b")", b"]", b"}", b"R", b"b", b"t", b"u", b"Q", b"q\0", b"h\0"),
    *(b"{", b"[", b'"', b",", b"9" * 20, b"-1", b"PK\1\2", b"PK\5\6", b"\xff" * 10),
]


def damaged(data: bytes, rng: np.random.Generator, changes: int = 4) -> bytes:
    """A copy with bytes changed, or spans removed, repeated or overwritten.

    Args:
      changes: maximum number of changes.
    """
    changed = bytearray(data)
    for _ in range(rng.integers(1, changes + 1)):
        at, until = sorted(rng.integers(len(changed) + 1, size=2))
        until = min(until, at + 64)
        match rng.integers(7):
            case 0 | 1 if at < len(changed):
                changed[at] = rng.integers(256)
            case 2 if at < len(changed):
                changed[at] ^= 1 << rng.integers(8)
            case 3:
                del changed[at:until]
            case 4:
                changed[at:at] = changed[at:until]
            case 5:
                edge_case = _EDGE_CASES[rng.integers(len(_EDGE_CASES))]
                changed[at : at + len(edge_case)] = edge_case
            case 6 if rng.integers(8) == 0:
                del changed[at:]
    return bytes(changed)
