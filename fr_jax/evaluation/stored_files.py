"""Readers of the files of a stored evaluation, which check every value."""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from fr_jax.convert.readers.npz import read as read_npz
from fr_jax.convert.readers.zip_archive import Archive
from fr_jax.embedder.description import read_json
from fr_jax.report.runs import Array, Curve, EvaluatedSet, Hardest, Scores, fault

FORMAT = 1
COLUMN = "column_"  # before the name of a column
_INTEGERS = {"folds": 1, "pairs": 2, "identities": 1, "rows": 1}  # with dimensions
_TEXTS = {"digest": str, "protocol": dict, "seen": str, "seen_folds": list}
_TEXTS |= {"unknown": bool, "curves": dict, "file": str, "sha256": str}


def read_results(path: epath.Path) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the numbers and the notes of results.json.

    Raises:
      OSError, ValueError: for another file.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    notes = content.pop("notes", {})
    if not _is_mapping(notes, str):
        raise ValueError("'notes' are not texts by name")
    for name, value in content.items():
        if type(value) not in (int, float) or not abs(value) < sys.float_info.max:
            raise ValueError(f"{name!r} is no finite number")
    return {name: float(value) for name, value in content.items()}, notes


def read_description(path: epath.Path) -> dict[str, Any]:
    """Returns the content of evaluation.json.

    Raises:
      OSError, ValueError: for another file.
    """
    content = read_json(path)
    kinds = {"name": str, "embedder": dict, "versions": dict, "results_sha256": str}
    _check_kinds(content, kinds | {"format": int, "sets": dict})
    if content["format"] != FORMAT:
        versions = f"format {content['format']}, not {FORMAT}"
        raise ValueError(f"{versions}: written by another version of fr_jax")
    if not _is_mapping(content["versions"], str):
        raise ValueError("'versions' are not texts by name")
    for name, one in content["sets"].items():
        _check_kinds(one, _TEXTS)
        if not re.fullmatch(r"[\w@+-][\w.@+-]*\.npz", one["file"], re.ASCII):
            raise ValueError(f"{one['file'][:60]!r} is no file name of a set")
        if not all(type(fold) is int for fold in one["seen_folds"]):
            raise ValueError(f"'seen_folds' of {name!r} are not whole numbers")
        for label in one["curves"].values():
            kinds = [type(part) for part in label] if isinstance(label, list) else ()
            if kinds != [str, str, bool]:
                raise ValueError(f"a curve of {name!r} is not described by its axes")
    return content


def _check_kinds(content: Any, kinds: Mapping[str, type]) -> None:
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    for name, kind in kinds.items():
        if type(content.get(name)) is not kind:
            raise ValueError(f"{name!r} is missing or of another kind")


def _is_mapping(content: Any, kind: type) -> bool:
    return isinstance(content, dict) and all(
        isinstance(value, kind) for value in content.values()
    )


def read_set(path: epath.Path, name: str, text: Mapping[str, Any]) -> EvaluatedSet:
    """Returns a set from its file and what evaluation.json says of it.

    Raises:
      Refusal, OSError, ValueError: for a file that is not the one described.
    """
    arrays = _read_arrays(path, text["sha256"])
    curves = {}
    for number, (curve, labels) in enumerate(text["curves"].items()):
        points = arrays.get(f"curve{number}")
        if points is None or points.ndim != 2 or len(points) != 2:
            raise ValueError(f"no curve {curve!r}")
        curves[curve] = Curve(*points.astype(np.float64), *labels)
    read = EvaluatedSet(
        name,
        text["digest"],
        text["protocol"],
        _scores(arrays),
        curves,
        text["seen"],
        tuple(text["seen_folds"]),
        text["unknown"],
        _columns(arrays),
    )
    if reason := fault(read):
        raise ValueError(reason)
    return read


def _columns(arrays: Mapping[str, Array]) -> dict[str, Array]:
    columns = {
        name.removeprefix(COLUMN): values
        for name, values in arrays.items()
        if name.startswith(COLUMN)
    }
    for name, values in columns.items():
        if values.dtype.kind not in "if":
            raise ValueError(f"column {name!r} is {values.dtype}")
    return columns


def _scores(arrays: Mapping[str, Array]) -> Scores | None:
    """Returns the scores in the arrays of a set's file; ValueError for other types."""
    if "scores" not in arrays:
        return None
    if "same" not in arrays:
        raise ValueError("no labels")
    kinds = {"scores": "f", "distances": "f", "same": "b", "thumbnails": "u"}
    kinds |= dict.fromkeys(_INTEGERS, "i")
    for name, values in arrays.items():
        if name in kinds and values.dtype.kind != kinds[name]:
            raise ValueError(f"{name} are {values.dtype}")
        if name in _INTEGERS and values.ndim != _INTEGERS[name]:
            raise ValueError(f"{name} have the shape {values.shape}")
    shown = None
    if "rows" in arrays and "thumbnails" in arrays:
        shown = Hardest(arrays["rows"], arrays["thumbnails"])
        if shown.images.ndim != 5:
            raise ValueError(f"thumbnails have the shape {shown.images.shape}")
    given = {name: arrays.get(name) for name in ("folds", "pairs", "identities")}
    return Scores(
        arrays["scores"],
        arrays["same"],
        **given,
        distances=arrays.get("distances"),
        hardest=shown,
    )


def _read_arrays(path: epath.Path, expected: str) -> dict[str, Array]:
    """Returns the arrays of a set's file.

    Raises:
      Refusal, ValueError: for a file that is not the one described.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(os.fspath(path))
        if "://" in os.fspath(path):
            local = Path(folder) / "set.npz"
            path.copy(local)
        elif not local.is_file():
            raise ValueError("no plain file")
        data = local.read_bytes()
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError("altered or cut short")
        stored = read_npz(Archive(local, memoryview(data)))
    arrays = {}
    for name, one in stored.items():
        view = np.ndarray(one.shape, one.dtype, one.data, one.offset, one.strides)
        if one.dtype.kind == "b":  # a byte may hold any value
            view = view.view(np.uint8) != 0
        arrays[name] = np.array(view, one.dtype.newbyteorder("="), order="C")
    return arrays
