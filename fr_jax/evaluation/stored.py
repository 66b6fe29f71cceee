"""Stored evaluations: what reports and comparisons need besides results.json.

    DIR/results.json      the numbers, and `notes` on undefined ones
    DIR/evaluation.json   embedder, versions, and of every set its protocol and files
    DIR/sets/NAME.npz     scores and labels of a set, curves, thumbnails

`save` writes the last two, so that they belong to results.json or are refused. Files
are read by the reader of weight files: no pickles, every length checked.
"""

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from fr_jax.convert.readers.npz import read as read_npz
from fr_jax.convert.readers.refusal import Refusal
from fr_jax.convert.readers.zip_archive import Archive
from fr_jax.embedder.description import read_json
from fr_jax.errors import UserError
from fr_jax.report.runs import (
    Array,
    Curve,
    EvaluatedSet,
    Hardest,
    Run,
    Scores,
    fault,
)

FORMAT = 1
RESULTS, DESCRIPTION, SETS = "results.json", "evaluation.json", "sets"
_MAX_NAME = 200
_INTEGERS = {"folds": 1, "pairs": 2, "identities": 1, "rows": 1}  # with dimensions
_TEXTS = {"digest": str, "protocol": dict, "seen": str, "seen_folds": list}
_TEXTS |= {"unknown": bool, "curves": dict, "file": str, "sha256": str}


def save(folder: epath.PathLike, run: Run) -> None:
    """Writes evaluation.json and sets/ to a folder; creates missing folders.

    Sets of an earlier evaluation in the folder that are not in this one are deleted.
    Every file is complete or not there. results.json must hold the same results.

    Raises:
      ValueError: for arrays that do not fit each other.
    """
    folder = epath.Path(folder)
    described, contents = {}, {}
    for one in run.sets:
        arrays = _arrays(one)
        if reason := fault(one):
            raise ValueError(f"{one.name}: {reason}")
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        file = _file_name(one.name, contents)
        contents[file] = buffer.getvalue()
        described[one.name] = {
            "file": file,
            "sha256": hashlib.sha256(contents[file]).hexdigest(),
            "digest": one.digest,
            "protocol": dict(one.protocol),
            "seen": one.seen,
            "seen_folds": [int(fold) for fold in one.seen_folds],
            "unknown": one.unknown,
            "curves": {
                name: [curve.x_label, curve.y_label, curve.log_x]
                for name, curve in one.curves.items()
            },
        }
    if len(described) < len(run.sets):
        raise ValueError("two sets have one name")
    description = {
        "format": FORMAT,
        "name": run.name,
        "embedder": dict(run.embedder),
        "versions": dict(run.versions),
        "results_sha256": _results_digest(run.results),
        "sets": described,
    }
    text = json.dumps(description, indent=1, allow_nan=False)
    earlier = _earlier_files(folder)
    (folder / SETS).mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        _replace(folder / SETS / file, content)
    _replace(folder / DESCRIPTION, text.encode())
    for file in earlier - contents.keys():
        (folder / SETS / file).unlink(missing_ok=True)


def load(folder: epath.PathLike, *, name: str = "") -> Run:
    """Returns the evaluation in a folder.

    With results.json alone, as training leaves it, the run has no sets.

    Args:
      name: of the run; by default that stored, or the folder's.

    Raises:
      UserError: for a folder without results, and files that are damaged or of another
        evaluation, naming them.
    """
    folder = epath.Path(folder)
    if not (folder / RESULTS).exists():
        raise UserError(
            f"{folder}: no {RESULTS} here; `fr-jax evaluate --to DIR` writes one"
        )
    results, notes = _checked(folder / RESULTS, _read_results)
    own = Path(os.fspath(folder)).absolute().name
    if not (folder / DESCRIPTION).exists():
        return Run(name or own, results, notes, {}, {})
    text = _checked(folder / DESCRIPTION, _read_description)
    if text["results_sha256"] != _results_digest(results):
        raise UserError(
            f"{folder}: {RESULTS} and {DESCRIPTION} are of different evaluations; "
            "evaluate again"
        )
    sets = tuple(
        _checked(folder / SETS / one["file"], _read_set, set_name, one)
        for set_name, one in text["sets"].items()
    )
    name = name or text["name"] or own
    return Run(name, results, notes, text["embedder"], text["versions"], sets)


def set_digest(
    images: Array, pairs: Array, same: Array, folds: Array | None = None
) -> str:
    """Returns a digest of a set, equal for the same images, pairs, labels and folds.

    Args:
      images: a digest of each image's pixels, uint64 [N], or any integers that
        identify images or templates.
    """
    digest = hashlib.sha256()
    folds = np.zeros(0) if folds is None else folds
    kinds = np.uint64, np.int64, np.uint8, np.int64
    for values, kind in zip((images, pairs, same, folds), kinds):
        data = np.ascontiguousarray(values, kind)
        digest.update(b"%d\n" % data.size)
        digest.update(data.data)
    return digest.hexdigest()[:32]


def _arrays(one: EvaluatedSet) -> dict[str, Array]:
    """Returns the arrays of a set as its file has them."""
    arrays: dict[str, Array] = {}
    for number, curve in enumerate(one.curves.values()):
        arrays[f"curve{number}"] = np.stack([curve.x, curve.y]).astype(np.float64)
    if one.scores is None:
        return arrays or {"empty": np.zeros(0)}
    scores = one.scores
    single = np.asarray(scores.values).dtype == np.float32
    arrays["scores"] = np.asarray(scores.values, np.float32 if single else np.float64)
    arrays["same"] = np.asarray(scores.same, bool)
    for name in ("folds", "pairs", "identities"):
        if (values := getattr(scores, name)) is not None:
            arrays[name] = np.asarray(values, np.int32)
    if scores.distances is not None:
        arrays["distances"] = np.asarray(scores.distances, np.float64)
    if scores.hardest is not None:
        arrays["rows"] = np.asarray(scores.hardest.rows, np.int64)
        arrays["thumbnails"] = scores.hardest.images
    return arrays


def _file_name(name: str, used: Mapping[str, bytes]) -> str:
    """Returns a file name for a set; names may have any characters."""
    stem = re.sub(r"[^\w.@+-]", "_", name, flags=re.ASCII)[:100].lstrip(".") or "set"
    taken = {file.lower() for file in used}
    numbers = [""] + [f"_{n}" for n in range(2, len(used) + 3)]
    names = (f"{stem}{number}.npz" for number in numbers)
    return next(file for file in names if file.lower() not in taken)


def _replace(path: epath.Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _earlier_files(folder: epath.Path) -> set[str]:
    """Returns the files of sets of an evaluation in the folder, if it is readable."""
    try:
        described = _read_description(folder / DESCRIPTION)
        return {one["file"] for one in described["sets"].values()}
    except (OSError, ValueError):
        return set()


def _results_digest(results: Mapping[str, float]) -> str:
    text = json.dumps({name: float(value) for name, value in sorted(results.items())})
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(path: epath.Path, read: Any, *arguments: Any) -> Any:
    """Returns read(path, *arguments); a UserError for a file that is not as written."""
    try:
        return read(path, *arguments)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; evaluate again") from None
    except (Refusal, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        text = f"{path}: damaged ({reason:.300}); evaluate again"
        raise UserError(text) from error


def _read_results(path: epath.Path) -> tuple[dict[str, float], dict[str, str]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    notes = content.pop("notes", {})
    if not _is_mapping(notes, str):
        raise ValueError("'notes' are not texts by name")
    numbers = (int, float)
    if wrong := [name for name, value in content.items() if type(value) not in numbers]:
        raise ValueError(f"{wrong[0]!r} is no number")
    return {name: float(value) for name, value in content.items()}, notes


def _read_description(path: epath.Path) -> dict[str, Any]:
    content = read_json(path)
    kinds = {"name": str, "embedder": dict, "versions": dict, "results_sha256": str}
    _check_kinds(content, kinds | {"format": int, "sets": dict})
    if content["format"] != FORMAT:
        versions = f"format {content['format']}, not {FORMAT}"
        raise ValueError(f"{versions}: written by another version of fr_jax")
    if not _is_mapping(content["versions"], str):
        raise ValueError("'versions' are not texts by name")
    for name, one in content["sets"].items():
        if not 0 < len(name) <= _MAX_NAME:
            raise ValueError(f"a set's name has {len(name)} characters")
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


def _read_set(path: epath.Path, name: str, text: Mapping[str, Any]) -> EvaluatedSet:
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
    )
    if reason := fault(read):
        raise ValueError(reason)
    return read


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
