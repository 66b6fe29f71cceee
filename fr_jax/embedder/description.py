"""What `embedder.json` may say: types and ranges, checked before a network is built.

The folder may come from someone else. Only plain files are opened; a description names
an architecture, options of it, an input specification and provenance, all within
bounds, and the arrays of the weights must be those of that network.
"""

import hashlib
import itertools
import json
import os
import stat
import tempfile
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from fr_jax import convert, models
from fr_jax.errors import UserError, check_names
from fr_jax.models.preprocess import InputSpec
from fr_jax.system import Network, check_variables

FORMAT = 1
DESCRIPTION, WEIGHTS = "embedder.json", "weights.npz"
DIGESTS = "digests"  # name among the arrays of WEIGHTS
MAX_SIDE = 1024  # pixels of an image
_MAX_JSON = 256 << 20  # bytes; a million names of identities take a tenth
_MAX_INT, _MAX_FLOAT = 1 << 16, 1 << 10
_MAX_ITEMS = 64  # of a list among the options
_MAX_LAYERS = 1000  # of a network, as a number of blocks or arrays
_FIELDS = {
    "format": int,
    "kind": str,
    "architecture": str,
    "options": dict,
    "input_spec": dict,
    "provenance": dict,
    "weights_sha256": str,
}
_MAX_IDENTITIES = 1 << 24  # of stored coefficients
# Options that count blocks, and sides of images.
_BLOCKS, _SIDES = ("depth", "stage_sizes", "vit_depth"), ("decoder_seed", "size")


class Saved(NamedTuple):
    """The contents of a folder; see `Embedder`. `canary` has the arrays of its test."""

    network: Network
    provenance: dict[str, Any]
    canary: dict[str, Any]
    digests: Any
    weights_sha256: str


def read_network(folder: epath.Path) -> Saved:
    """Returns the checked contents of a folder.

    Raises:
      UserError, OSError, ValueError, KeyError, TypeError: for an invalid folder.
    """
    description = check_description(read_json(folder / DESCRIPTION))
    architecture, options = description["architecture"], description["options"]
    if architecture not in models.ARCHITECTURES and "package" in description:
        raise UserError(
            f"its network {_shown(architecture)} is registered by "
            f"{_shown(description['package'])}: import that first"
        )
    check_options(architecture, options)
    spec = read_spec(description["input_spec"])
    if sha256(folder / WEIGHTS) != description["weights_sha256"]:
        raise UserError(f"{WEIGHTS} was altered or cut short; copy it again")
    variables = read_arrays(folder / WEIGHTS)
    canary, digests = variables.pop("canary", {}), variables.pop(DIGESTS, None)
    if not isinstance(canary, dict):
        raise ValueError("the canary is no group of arrays")
    of_pixels = np.uint64, 1
    if digests is not None and (
        isinstance(digests, dict) or (digests.dtype, digests.ndim) != of_pixels
    ):
        raise ValueError(f"{DIGESTS} are not uint64 of one axis")
    check_network(architecture, options, spec, variables)
    provenance = dict(description["provenance"])
    if "people" in provenance:  # name of the key before 0.2.0
        provenance["identities"] = provenance.pop("people")
    kind = description["kind"]
    if (architecture, kind) == ("fra", "landmarks"):  # its name in 0.2.0
        kind = "augmenter"
    network = Network(architecture, options, variables, spec, kind)
    digest = description["weights_sha256"]
    return Saved(network, provenance, canary, digests, digest)


def read_json(path: epath.Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
      ValueError: for anything but a plain file of strict JSON, not nested deeply.
      OSError: for a file that cannot be read.
    """
    check_plain(path)
    if (size := path.stat().length) > _MAX_JSON:
        raise ValueError(
            f"{path.name} has {size:,} bytes; up to {_MAX_JSON:,} are read"
        )

    def refused(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(path.read_text(), parse_constant=refused)
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None


def check_plain(path: epath.Path) -> None:
    """Raises a ValueError for a pipe, a device or a folder in place of a file.

    A pipe would block its reader for ever. Links to plain files are followed.
    """
    local = "://" not in os.fspath(path)
    if local and not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path.name} is no plain file")


def check_description(description: Any) -> dict[str, Any]:
    """Returns the description; raises a ValueError for what it must not say."""
    if not isinstance(description, dict):
        raise ValueError("the description is no JSON object")
    for name, kind in _FIELDS.items():
        if name not in description:
            raise ValueError(f"no {name!r} in the description")
        value = description[name]
        if type(value) is not kind:
            raise ValueError(f"{name} is {_shown(value)}, not of type {kind.__name__}")
    if description["format"] != FORMAT:
        raise UserError(f"format {description['format']}, not {FORMAT}")
    _check_provenance(description["provenance"])
    return description


def check_options(architecture: str, options: Mapping[str, Any]) -> None:
    """Checks types and ranges of the options of an architecture.

    Raises:
      UserError: for an unknown architecture or option.
      ValueError: for a value of another type or out of range.
    """
    check_names("architecture", [architecture], models.ARCHITECTURES)
    module, _ = models.ARCHITECTURES[architecture]
    fields = set(module.__dataclass_fields__) - {"parent", "name"}
    check_names(f"option of {architecture}", options, fields)
    for name, value in options.items():
        hint = module.__dataclass_fields__[name].type
        hint = Any if isinstance(hint, str) else hint
        if not _fits(value, hint, name):
            text = getattr(hint, "__name__", None) or str(hint)
            raise ValueError(f"option {name} is {_shown(value)}; expected {text:.60}")


def read_spec(fields: dict[str, Any]) -> InputSpec:
    """Returns the input specification; raises a ValueError for an invalid one."""
    numbers = (fields.get(name, 1) for name in ("mean", "scale"))
    for value in numbers:
        for number in value if isinstance(value, list) else [value]:
            if not _number(number, -_MAX_FLOAT, _MAX_FLOAT):
                raise ValueError(f"input_spec has the scale or mean {_shown(value)}")
    sides = [fields.get("size", 112), *(fields.get("crop") or ())]
    for side in sides:
        if type(side) is not int or not 1 <= side <= MAX_SIDE:
            raise ValueError(f"input_spec has sides of {_shown(side)} pixels")
    for name, kind in (("template", str), ("flip_sum", bool), ("colour", str)):
        if name in fields and type(fields[name]) is not kind:
            raise ValueError(f"input_spec has {name} {_shown(fields[name])}")
    return InputSpec.from_dict(fields)


def read_arrays(path: epath.Path) -> dict[str, Any]:
    """Returns the arrays of weights.npz as a nested dict; UserError for a bad file."""
    if "://" in os.fspath(path):
        with tempfile.NamedTemporaryFile(suffix=".npz") as copy:
            path.copy(copy.name, overwrite=True)
            tensors = convert.read_weights(copy.name).tensors
    else:
        tensors = convert.read_weights(os.fspath(path)).tensors
    for name in tensors:
        parents = itertools.accumulate(name.split("/")[:-1], "{}/{}".format)
        if both := next((one for one in parents if one in tensors), ""):
            raise ValueError(f"{_shown(both)} is an array and a group of arrays")
    return flax.traverse_util.unflatten_dict(tensors, sep="/")


def check_network(
    architecture: str, options: Mapping[str, Any], spec: InputSpec, variables: Any
) -> None:
    """Raises a UserError if the arrays are not those of the network; traces it."""
    model = models.create(architecture, **options)
    inputs = models.example_inputs(model, spec)
    expected: Any = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    check_variables(WEIGHTS, variables, dict(expected))


def _check_provenance(provenance: dict[str, Any]) -> None:
    for name in ("identities", "people", "held_out"):
        sets = provenance.get(name, {})
        lists = list(sets.values()) if isinstance(sets, dict) else [None]
        if not all(map(_is_texts, lists)):
            raise ValueError(f"{name} of the provenance are no lists of names")
    selection = provenance.get("selection") or {"kind": "", "sets": []}
    if not isinstance(selection, dict) or not (
        isinstance(selection.get("kind"), str) and _is_texts(selection.get("sets"))
    ):
        raise ValueError("selection of the provenance has no kind and sets")
    licences = provenance.get("licences", {})
    texts = list(licences.values()) if isinstance(licences, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("licences of the provenance are no texts")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _fits(value: Any, hint: Any, name: str) -> bool:
    """Returns whether a JSON value has the type of a field, within the bounds."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, one, name) for one in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if hint is bool:
        return type(value) is bool
    if hint is int:
        limits = {
            **dict.fromkeys(_BLOCKS, _MAX_LAYERS),
            **dict.fromkeys(_SIDES, MAX_SIDE),
            "identities": _MAX_IDENTITIES,
        }
        return _number(value, 0, limits.get(name, _MAX_INT), int)
    if hint is float:
        return _number(value, 0, _MAX_FLOAT)
    if hint in (str, jnp.dtype):
        return isinstance(value, str) and len(value) <= _MAX_ITEMS
    if isinstance(value, list | tuple):
        inner = typing.get_args(hint) or (Any,)
        ordered = origin is tuple and len(inner) == len(value) and ... not in inner
        kinds = inner if ordered else [inner[0]] * len(value)
        if name in _BLOCKS and not _number(_total(value), 0, _MAX_LAYERS, int):
            return False
        return len(value) <= _MAX_ITEMS and all(
            map(_fits, value, kinds, [name] * len(value))
        )
    if hint is Any:  # of networks outside this package
        scalar = isinstance(value, str | bool) or value is None
        return scalar or _number(value, -_MAX_INT, _MAX_INT)
    return False


def sha256(path: epath.Path) -> str:
    """Returns the digest of a plain file; see `check_plain`."""
    check_plain(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _total(values: Any) -> Any:
    return sum(values) if all(type(value) is int for value in values) else None


def _number(value: Any, low: float, high: float, kind: Any = (int, float)) -> bool:
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    return low <= value <= high  # False for NaN


def _shown(value: Any) -> str:
    if type(value) is int and abs(value) >= 1_000_000:
        return f"{value:.4g}" if abs(value) < 1 << 200 else "a number of many digits"
    text = ascii(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
