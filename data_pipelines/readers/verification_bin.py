"""insightface's .bin verification sets: a pickle of (images, same or not).

Pickles can run code, so this one is read by an interpreter that knows a handful of
harmless opcodes and the few names such files need; anything else is refused before it
is looked up. Images 2k and 2k + 1 form pair k.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import DataError

MAX_BYTES = 4 << 30

_OPCODES = [
    "PROTO",
    "FRAME",
    "STOP",
    "MARK",
    "POP",
    "POP_MARK",
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "BININT",
    "BININT1",
    "BININT2",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "EMPTY_LIST",
    "LIST",
    "APPEND",
    "APPENDS",
    "EMPTY_TUPLE",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "PUT",
    "BINPUT",
    "LONG_BINPUT",
    "GET",
    "BINGET",
    "LONG_BINGET",
    "MEMOIZE",
    "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE",
    "BUILD",
]


class VerificationSet(NamedTuple):
    images: list[bytes]  # encoded, two a pair
    same: np.ndarray  # bool [pairs]


def read(path: str | Path) -> VerificationSet:
    """Returns the pairs of a .bin file, images still encoded.

    Raises:
      DataError: for a file that is no such set, naming the byte where reading stopped,
        and for one that asks for anything but data. Nothing in it is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(
            f"{path}: {path.stat().st_size:,} bytes; at most 4 GiB are read"
        )
    # From memory: a file would allocate whatever length a damaged opcode claims.
    file = io.BytesIO(path.read_bytes())
    try:
        content = _Unpickler(file, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: byte {file.tell():,}: {_printed(error)}") from None
    except Exception as error:  # whatever a damaged stream makes of the stack
        reason = _printed(error) or type(error).__name__
        raise DataError(
            f"{path}: byte {file.tell():,}: not a verification set ({reason})"
        ) from None
    try:
        images, same = content
        same = np.array([_flag(value) for value in _plain(same)], bool)
        images = [_encoded(image) for image in images]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not a pair (images, same): {_printed(error)}"
        ) from None
    if not len(same) or len(images) != 2 * len(same):
        raise DataError(
            f"{path}: {len(images)} images for {len(same)} pairs; two a pair are needed"
        )
    return VerificationSet(images, same)


def _printed(error: Exception) -> str:
    """Returns an error's text on one line: it may quote what a stranger wrote."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))


def _encoded(image: Any) -> bytes:
    if isinstance(image, _Array):
        shape, dtype, data = image._content
        if dtype == np.uint8 and image.array().ndim == 1:
            return data  # not a copy: a stream may name one array any number of times
        raise TypeError(f"an image is an array {dtype} {shape}, not a row of bytes")
    if not isinstance(image, bytes):
        raise TypeError(f"an image is {type(image).__name__}, not bytes")
    return image


def _flag(value: Any) -> bool:
    if isinstance(value, np.bool | bool | int) and value in (0, 1):
        return bool(value)
    shown = value if isinstance(value, int | float) else type(value).__name__
    raise TypeError(f"a label is {shown}, not true or false")


def _plain(value: Any) -> Any:
    return value.array() if isinstance(value, _Array) else value


class _Type:
    """Stands for numpy.dtype: only one-byte types occur in these files."""

    def __init__(self, code, align=False, copy=True):
        code = code.decode() if isinstance(code, bytes) else code
        if code not in ("b1", "u1"):
            shown = code[:20] if isinstance(code, str) else type(code).__name__
            raise DataError(f"NumPy type {shown} in a verification set")
        self.dtype = np.dtype(code)

    def set_state(self, state):
        pass  # byte order and the like, which one byte does not have


class _Array:
    """Stands for numpy.ndarray while its pickle is read."""

    def __init__(self):
        self._content = (0,), np.dtype("u1"), b""

    def set_state(self, state):
        _, shape, kind, _, data = state
        if not isinstance(kind, _Type) or not isinstance(data, bytes):
            raise DataError("a NumPy array of something other than bytes")
        self._content = shape, kind.dtype, data

    def array(self):
        shape, dtype, data = self._content
        return np.frombuffer(data, dtype).reshape(shape)


def _reconstruct(kind, shape, code):
    if kind is not _Array:
        raise DataError("a NumPy array of another class")
    return _Array()


def _frombuffer(data, kind, shape, order):
    array = _Array()
    array.set_state((1, shape, kind, False, data))
    return array


def _scalar(kind, data):
    if not isinstance(kind, _Type) or not isinstance(data, bytes) or len(data) != 1:
        raise DataError("a NumPy scalar of another type")
    return np.frombuffer(data, kind.dtype)[0]


def _encode(text, codec):
    """_codecs.encode, which Python 3 writes for bytes at protocol 2."""
    if codec not in ("latin1", b"latin1") or not isinstance(text, str):
        shown = codec[:20] if isinstance(codec, str) else type(codec).__name__
        raise DataError(f"text in the codec {shown}")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    **{
        (f"numpy.{core}.multiarray", name): function
        for core in ("core", "_core")
        for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
}


class _Opcodes(dict):
    def __missing__(self, code):
        raise DataError(f"pickle opcode {bytes([code])!r}, which data does not need")


class _Unpickler(pickle._Unpickler):
    """The standard library's unpickler in Python, cut down to what data needs."""

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise DataError(
                f"asks for {f'{module}.{name}'[:60]!a}, which no verification set "
                "needs; refused"
            ) from None

    def load_bytearray8(self):
        # As bytes, and read before it is allocated: the length may be a lie.
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_build(self):
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Type | _Array):
            raise DataError("sets the state of something that has none; refused")
        self.stack[-1].set_state(state)

    dispatch = _Opcodes(
        (getattr(pickle, name)[0], pickle._Unpickler.dispatch[getattr(pickle, name)[0]])
        for name in _OPCODES
    )
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.BUILD[0]] = load_build
