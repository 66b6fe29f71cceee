"""Network pickles of StyleGAN's library dnnlib: settings and arrays, read without it.

A file holds (G, D, Gs), objects whose state has the source text of the network. The
library runs that text when it unpickles them; here it stays text.
"""

import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.convert.readers.refusal import DAMAGED, Refusal, shown

MAX_BYTES = 2 << 30  # the published file has 0.3 GB
_FLOAT = np.dtype("<f4")
_MAX_DIMENSIONS = 4
_LFS = b"version https://git-lfs"
_PAGES = b"<!doctype", b"<html", b"<?xml"
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # NumPy 1 and 2


@dataclass
class PickledNetwork:
    """The state of a network: name, static_kwargs, components, variables, ..."""

    state: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Type:
    """numpy.dtype, with its byte order after its state was set."""

    code: str
    order: str = "="


@dataclass
class _Array:
    """numpy.ndarray, without values until its state is set."""

    values: np.ndarray | None = None


def is_network_pickle(start: bytes) -> bool:
    """Returns True if a file that begins with these bytes is a pickle of dnnlib."""
    return start.startswith(b"\x80") and b"dnnlib." in start


def looks_downloaded(start: bytes) -> str:
    """Returns what a failed download is, as text; '' for other files."""
    if start.startswith(_LFS):
        return "is a Git LFS pointer, not the file itself"
    # More than "<", with which the values of a binary file may begin.
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return "is a web page"
    return ""


def read(path: Path, data: memoryview) -> tuple[PickledNetwork, ...]:
    """Returns the networks of a file.

    Variables are float32 arrays. Nothing in the file is imported or run.

    Raises:
      Refusal: for anything else in the file.
    """
    from data_pipelines.safe_pickle import Unpickler, UnsafePickle

    if len(data) > MAX_BYTES:
        limit = f"up to {MAX_BYTES >> 30} GiB are read"
        raise Refusal(f"{len(data):,} bytes", remedy=limit)
    reader = Unpickler(data, _find, build=_build, keep_bytes=True)
    trusted = "its source may be hostile: fetch it from its authors"
    try:
        content = reader.run()
    except UnsafePickle as error:
        raise Refusal(str(error), reader.opcode_at, trusted) from None
    except pickle.UnpicklingError as error:
        raise Refusal(str(error), reader.opcode_at, DAMAGED) from None
    except Refusal as refusal:
        raise Refusal(str(refusal), reader.opcode_at, refusal.remedy) from None
    if type(content) is not tuple or not all(
        isinstance(one, PickledNetwork) for one in content
    ):
        kind = "give the file with G, D and Gs"
        raise Refusal(f"holds {shown(content)}, no networks", remedy=kind)
    return content


def _find(module: str, name: str) -> Any:
    if (module, name) == ("dnnlib.tflib.network", "Network"):
        return _network
    if module in _MODULES and name in ("_reconstruct", "scalar"):
        return {"_reconstruct": _empty, "scalar": _scalar}[name]
    if module == "numpy" and name in ("ndarray", "dtype"):
        return {"ndarray": _ndarray, "dtype": _type}[name]
    remedy = "its source may be hostile: fetch it from its authors"
    raise Refusal(f"asks for {shown(f'{module}.{name}')}", remedy=remedy)


def _network(arguments: tuple) -> PickledNetwork:
    if arguments:
        raise Refusal("a network with arguments")
    return PickledNetwork()


def _ndarray(_: tuple) -> None:
    raise Refusal("calls numpy.ndarray")


def _empty(arguments: tuple) -> _Array:
    if not arguments or arguments[0] is not _ndarray:
        raise Refusal("an array of another class")
    return _Array()


def _type(arguments: tuple) -> _Type:
    if not arguments or arguments[0] != "f4":
        raise Refusal(f"an array of type {shown(arguments[0] if arguments else '')}")
    return _Type("f4")


def _scalar(arguments: tuple) -> np.float32:
    match arguments:
        case (_Type(order="<"), bytes(raw)) if len(raw) == 4:
            return np.frombuffer(raw, _FLOAT)[0]
    raise Refusal("a number that is no float32")


def _build(target: Any, state: Any) -> None:
    """Sets the state of a network, a type or an array."""
    match target, state:
        case PickledNetwork(), dict():
            target.state = state
        case _Type(), (3, "<", None, None, None, -1, -1, 0):
            target.order = "<"
        case _Array(), (1, tuple(shape), _Type(order="<"), bool(fortran), bytes(raw)):
            if len(shape) > _MAX_DIMENSIONS:
                raise Refusal(f"an array of {len(shape):,} dimensions")
            sizes = all(type(n) is int and 0 < n < 1 << 31 for n in shape)
            if not sizes or math.prod(shape) * 4 != len(raw):
                raise Refusal(f"an array of {len(raw):,} bytes with another shape")
            values = np.frombuffer(raw, _FLOAT)
            target.values = values.reshape(shape, order="F" if fortran else "C")
        case _:
            kind = type(target).__name__.lstrip("_").lower()
            raise Refusal(f"an unknown state of an object of kind {kind}")


def arrays_of(network: PickledNetwork) -> dict[str, np.ndarray]:
    """Returns the network's own variables by name; Refusal for anything else."""
    variables = network.state.get("variables")
    if type(variables) is not list:
        raise Refusal("a network without variables")
    arrays: dict[str, np.ndarray] = {}
    for pair in variables:
        match pair:
            case (str(name), _Array(values=np.ndarray() as array)):
                pass
            case (
                str(name),
                np.generic() as number,
            ):  # float32: `_scalar` makes no other
                array = np.array(number)
            case _:
                raise Refusal("a variable without a name or an array")
        if name in arrays:
            raise Refusal(f"several variables are named {shown(name)}")
        arrays[name] = array
    return arrays
