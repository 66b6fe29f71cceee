"""insightface's .bin verification sets: a pickle of (images, same or not).

Images 2k and 2k + 1 form pair k. Pickles can run code, so the restricted unpickler
reads this one, with the few names that such files need.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines.safe_pickle import Unpickler

MAX_BYTES = 4 << 30
_FEW_OPCODES, _BYTES_EACH = 50_000, 4


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
    data = memoryview(path.read_bytes())
    unpickler = Unpickler(
        data,
        _names(len(data)),
        build=_build,
        max_opcodes=_FEW_OPCODES + len(data) // _BYTES_EACH,
        keep_bytes=True,
    )
    try:
        content = unpickler.run()
    except (UnpicklingError, TypeError, ValueError) as error:
        at = unpickler.opcode_at
        raise DataError(f"{path}: byte {at:,}: {_printed(error)}") from None
    try:
        images, same = _listed(content)
        same = np.array([_flag(value) for value in _listed(same)], bool)
        images = [_encoded(image) for image in _listed(images)]
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
    """Returns an error's text on one line: it may quote what the file says."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))


@dataclass
class _Array:
    """Stands for numpy.ndarray: one axis of a type of one byte."""

    dtype: np.dtype
    data: bytes = b""

    def fill(self, shape: Any, dtype: Any, data: Any) -> None:
        if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
            raise DataError("a NumPy array of something other than bytes")
        if shape != (len(data),):
            raise DataError("a NumPy array of several axes or of another length")
        self.dtype, self.data = dtype, data


def _listed(value: Any) -> Sequence | np.ndarray:
    if isinstance(value, _Array):
        return np.frombuffer(value.data, value.dtype)
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__} instead of a list")
    return value


def _encoded(image: Any) -> bytes:
    if isinstance(image, _Array) and image.dtype == np.uint8:
        return image.data  # not a copy: a file may name one array any number of times
    if not isinstance(image, bytes):
        raise TypeError(f"an image is {type(image).__name__}, not bytes")
    return image


def _flag(value: Any) -> bool:
    if isinstance(value, np.bool | bool | int) and value in (0, 1):
        return bool(value)
    shown = value if isinstance(value, int | float) else type(value).__name__
    raise TypeError(f"a label is {shown}, not true or false")


def _dtype(arguments: tuple) -> np.dtype:
    """numpy.dtype: only types of one byte occur in these files."""
    code, *_ = arguments
    code = code.decode() if isinstance(code, bytes) else code
    if type(code) is not str or code not in ("b1", "u1"):
        shown = code[:20] if isinstance(code, str) else type(code).__name__
        raise DataError(f"NumPy type {shown} in a verification set")
    return np.dtype(code)


def _reconstruct(arguments: tuple) -> _Array:
    if not arguments or arguments[0] is not _Array:
        raise DataError("a NumPy array of another class")
    return _Array(np.dtype(np.uint8))


def _frombuffer(arguments: tuple) -> _Array:
    data, dtype, shape, _ = arguments
    array = _Array(dtype)
    array.fill(shape, dtype, data)
    return array


def _scalar(arguments: tuple) -> np.generic:
    dtype, data = arguments
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or len(data) != 1:
        raise DataError("a NumPy scalar of another type")
    return np.frombuffer(data, dtype)[0]


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Array):
        _, shape, dtype, _, data = state
        target.fill(shape, dtype, data)
    elif not isinstance(target, np.dtype):  # byte order and the like: of one byte, none
        raise DataError("sets the state of something that has none; refused")


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
    left = size  # a file may ask for one text any number of times

    def encode(arguments: tuple) -> bytes:
        """_codecs.encode, which Python 3 writes for bytes at protocol 2."""
        nonlocal left
        text, codec = arguments
        codec = codec.decode() if isinstance(codec, bytes) else codec
        if codec != "latin1" or not isinstance(text, str):
            shown = codec[:20] if isinstance(codec, str) else type(codec).__name__
            raise DataError(f"text in the codec {shown}")
        left -= len(text)
        if left < 0:
            raise DataError("text that is longer than the file")
        return text.encode("latin1")

    names = _NAMES | {("_codecs", "encode"): encode}

    def find(module: str, name: str) -> Any:
        if (module, name) not in names:
            raise DataError(
                f"asks for {f'{module}.{name}'[:60]!a}, which no verification set "
                "needs; refused"
            )
        return names[module, name]

    return find
