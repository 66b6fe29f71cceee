"""insightface's .bin verification sets: a pickle of (images, same).

Images 2k and 2k + 1 form pair k. A pickle may run code, so the restricted unpickler
reads it, with an allow-list of the names in such files.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines.images import read_file
from data_pipelines.safe_pickle import Unpickler, UnsafePickle

MAX_BYTES = 4 << 30
_MIN_OPCODES, _BYTES_PER_OPCODE = 50_000, 4
_MAX_AXES = 4
_TYPES = r"[biuf][1248]|O[48]?|S[1-9]\d{0,8}"  # of arrays and scalars


class VerificationSet(NamedTuple):
    images: list[bytes]  # encoded, two per pair
    same: np.ndarray  # bool [pairs]


def read(path: str | Path) -> VerificationSet:
    """Returns the pairs of a .bin file, with encoded images. Executes nothing in it.

    Raises:
      DataError: for a file above 4 GiB, a file in another format, naming the byte where
        reading stopped, and a pickle that requests more than data.
    """
    path = Path(path)
    try:
        data = memoryview(read_file(path, MAX_BYTES))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    limit = _MIN_OPCODES + len(data) // _BYTES_PER_OPCODE
    options = {"build": _build, "max_opcodes": limit, "keep_bytes": True}
    unpickler = Unpickler(data, _names(len(data)), **options)
    try:
        content = unpickler.run()
    except (UnpicklingError, TypeError, ValueError) as error:
        hint = "; damaged: fetch it again"
        if isinstance(error, UnsafePickle | DataError):
            hint = "; pickle lists: encoded images as bytes, labels as bool"
        at = unpickler.opcode_at
        raise DataError(f"{path}: byte {at:,}: {_printed(error)}{hint}") from None
    try:
        images, same = _listed(content)
        same = np.array([_flag(value) for value in _listed(same)], bool)
        images = [_encoded(image) for image in _listed(images)]
    except (TypeError, ValueError) as error:
        reason = _printed(error)
        raise DataError(f"{path}: not a pair (images, same): {reason}") from None
    if not len(same) or len(images) != 2 * len(same):
        raise DataError(
            f"{path}: {len(images)} images for {len(same)} pairs; expected 2 per pair"
        )
    return VerificationSet(images, same)


def _printed(error: Exception) -> str:
    """Returns the text of an error on one line; it may quote the file."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))


@dataclass
class _Type:
    """Replaces numpy.dtype. A pickle sets the byte order after making it."""

    dtype: np.dtype


@dataclass
class _Array:
    """Replaces numpy.ndarray: bytes or, of the type object, a list of objects."""

    dtype: np.dtype
    shape: tuple[int, ...] = (0,)
    data: bytes | list = b""

    def fill(self, shape: Any, kind: Any, data: Any) -> "_Array":
        """Sets the content; returns the array."""
        if not isinstance(kind, _Type) or type(shape) is not tuple:
            raise DataError("a NumPy array without a type or a shape")
        if not 1 <= len(shape) <= _MAX_AXES or not all(
            type(length) is int and 0 <= length < 1 << 40 for length in shape
        ):
            raise DataError("a NumPy array of an odd shape")
        objects = kind.dtype.hasobject
        if not isinstance(data, list if objects else bytes):
            raise DataError("a NumPy array without its values")
        size = math.prod(shape) * (1 if objects else kind.dtype.itemsize)
        if size != len(data):
            raise DataError(f"a NumPy array of {len(data)} bytes instead of {size}")
        self.dtype, self.shape, self.data = kind.dtype, shape, data
        return self

    def column(self) -> bool:
        """Returns whether at most one axis is longer than 1: [N], [N, 1], [1, N]."""
        return sum(length != 1 for length in self.shape) <= 1

    def values(self) -> Sequence | np.ndarray:
        """Returns the values of a column; TypeError for several axes."""
        if not self.column():
            raise TypeError("a NumPy array of several axes")
        if isinstance(self.data, list):
            return self.data
        return np.frombuffer(self.data, self.dtype)


def _listed(value: Any) -> Sequence | np.ndarray:
    if isinstance(value, _Array):
        return value.values()
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return value


def _encoded(image: Any) -> bytes:
    if isinstance(image, _Array) and image.dtype == np.uint8:
        if image.column():
            return bytes(image.data)  # no copy: a file may refer to it many times
        raise TypeError(f"an image is an array {image.shape}, not an encoded file")
    if not isinstance(image, bytes):
        raise TypeError(f"an image is {type(image).__name__}, not bytes")
    return bytes(image)


def _flag(value: Any) -> bool:
    if isinstance(value, _Array | list | tuple) and len(_listed(value)) == 1:
        (value,) = _listed(value)  # a label in an array or list of its own
    number = isinstance(value, np.bool | np.number | bool | int | float)
    if number and value in (0, 1):
        return bool(value)
    shown = value if number else type(value).__name__
    raise TypeError(f"a label is {shown!s:.40}, not true or false")


def _name(value: Any, kind: str, allowed: str) -> str:
    """Returns a name, text or Python 2's bytes; DataError unless it is allowed."""
    value = value.decode() if isinstance(value, bytes) else value
    if type(value) is not str or not re.fullmatch(allowed, value):
        shown = value[:20] if isinstance(value, str) else type(value).__name__
        raise DataError(f"{kind} {shown} in a verification set")
    return value


def _dtype(arguments: tuple) -> _Type:
    """Returns numpy.dtype(*arguments): numbers, bytes and objects."""
    code, *_ = arguments
    return _Type(np.dtype(_name(code, "NumPy type", _TYPES)))


def _reconstruct(arguments: tuple) -> _Array:
    if not arguments or arguments[0] is not _Array:
        raise DataError("a NumPy array of another class")
    return _Array(np.dtype(np.uint8))


def _frombuffer(arguments: tuple) -> _Array:
    data, kind, shape, _ = arguments
    return _Array(np.dtype(np.uint8)).fill(shape, kind, data)


def _scalar(arguments: tuple) -> np.generic:
    kind, data = arguments
    number = isinstance(kind, _Type) and kind.dtype.kind in "biuf"
    if not number or type(data) is not bytes or len(data) != kind.dtype.itemsize:
        raise DataError("a NumPy scalar of another type")
    return np.frombuffer(data, kind.dtype)[0]


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Array):
        _, shape, kind, _, data = state  # the order is without meaning in a column
        target.fill(shape, kind, data)
    elif isinstance(target, _Type):
        _, order, *_ = state
        order = _name(order, "byte order", r"[<>|=]")
        if target.dtype.kind in "iuf":
            target.dtype = np.dtype(order + target.dtype.str[1:])
    else:
        raise DataError("sets the state of an object without state; refused")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    **{
        (f"numpy.{core}.multiarray", name): function
        for core in ("core", "_core")
        for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
}


def _names(size: int) -> Callable[[str, str], Any]:
    """Returns the `find` of the unpickler, for a file of `size` bytes."""
    left = size  # bytes of text; a file may refer to one text many times

    def encode(arguments: tuple) -> bytes:
        """Returns _codecs.encode(text, "latin1"): bytes of Python 3 at protocol 2."""
        nonlocal left
        text, codec = arguments
        _name(codec, "codec", r"latin-?1")
        if not isinstance(text, str):
            raise DataError(f"text of the type {type(text).__name__}")
        left -= len(text)
        if left < 0:
            raise DataError("text that is longer than the file")
        return text.encode("latin1")

    def as_bytes(arguments: tuple) -> bytes:
        """Returns bytes(*arguments) or bytearray(*arguments), as pickles call them."""
        if len(arguments) == 2:
            return encode(arguments)
        (data,) = arguments or (b"",)
        if type(data) is not bytes:
            raise DataError(f"bytes of the type {type(data).__name__}")
        return data

    names = _NAMES | {("_codecs", "encode"): encode}
    for module in ("builtins", "__builtin__"):
        names |= {(module, kind): as_bytes for kind in ("bytes", "bytearray")}

    def find(module: str, name: str) -> Any:
        if (module, name) not in names:
            shown = ascii(f"{module}.{name}"[:60])
            raise DataError(f"asks for {shown}, which no verification set needs")
        return names[module, name]

    return find
