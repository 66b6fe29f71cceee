"""insightface's .bin verification sets: a pickle of (images, same).

Images 2k and 2k + 1 form pair k. A pickle may run code, so the restricted unpickler
reads it, with an allow-list of the names in such files.
"""

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
        hint = "" if isinstance(error, UnsafePickle) else "; damaged: fetch it again"
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
class _Array:
    """Replaces numpy.ndarray: one axis of a one-byte type."""

    dtype: np.dtype
    data: bytes = b""

    def fill(self, shape: Any, dtype: Any, data: Any) -> "_Array":
        """Sets the content; returns the array."""
        if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
            raise DataError("a NumPy array of a type other than bytes")
        if shape != (len(data),):
            raise DataError("a NumPy array of several axes or of another length")
        self.dtype, self.data = dtype, data
        return self


def _listed(value: Any) -> Sequence | np.ndarray:
    if isinstance(value, _Array):
        return np.frombuffer(value.data, value.dtype)
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return value


def _encoded(image: Any) -> bytes:
    if isinstance(image, _Array) and image.dtype == np.uint8:
        return image.data  # not a copy: a file may refer to an array many times
    if not isinstance(image, bytes):
        raise TypeError(f"an image is {type(image).__name__}, not bytes")
    return image


def _flag(value: Any) -> bool:
    if isinstance(value, np.bool | bool | int) and value in (0, 1):
        return bool(value)
    shown = value if isinstance(value, int | float) else type(value).__name__
    raise TypeError(f"a label is {shown}, not true or false")


def _name(value: Any, kind: str, allowed: tuple[str, ...]) -> str:
    """Returns a name, text or Python 2's bytes; DataError unless it is allowed."""
    value = value.decode() if isinstance(value, bytes) else value
    if type(value) is not str or value not in allowed:
        shown = value[:20] if isinstance(value, str) else type(value).__name__
        raise DataError(f"{kind} {shown} in a verification set")
    return value


def _dtype(arguments: tuple) -> np.dtype:
    """Returns numpy.dtype(*arguments): these files contain one-byte types only."""
    code, *_ = arguments
    return np.dtype(_name(code, "NumPy type", ("b1", "u1")))


def _reconstruct(arguments: tuple) -> _Array:
    if not arguments or arguments[0] is not _Array:
        raise DataError("a NumPy array of another class")
    return _Array(np.dtype(np.uint8))


def _frombuffer(arguments: tuple) -> _Array:
    data, dtype, shape, _ = arguments
    return _Array(dtype).fill(shape, dtype, data)


def _scalar(arguments: tuple) -> np.generic:
    dtype, data = arguments
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or len(data) != 1:
        raise DataError("a NumPy scalar of another type")
    return np.frombuffer(data, dtype)[0]


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Array):
        _, shape, dtype, _, data = state
        target.fill(shape, dtype, data)
    elif not isinstance(target, np.dtype):  # its state, such as byte order, is ignored
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
        _name(codec, "codec", ("latin1",))
        if not isinstance(text, str):
            raise DataError(f"text of the type {type(text).__name__}")
        left -= len(text)
        if left < 0:
            raise DataError("text that is longer than the file")
        return text.encode("latin1")

    names = _NAMES | {("_codecs", "encode"): encode}

    def find(module: str, name: str) -> Any:
        if (module, name) not in names:
            shown = ascii(f"{module}.{name}"[:60])
            raise DataError(f"asks for {shown}, which no verification set needs")
        return names[module, name]

    return find
