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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from fr_jax.convert.readers.refusal import Refusal
from fr_jax.errors import UserError
from fr_jax.evaluation.stored_files import (
    COLUMN,
    FORMAT,
    read_description,
    read_results,
    read_set,
)
from fr_jax.report.runs import Array, EvaluatedSet, Run, fault

RESULTS, DESCRIPTION, SETS = "results.json", "evaluation.json", "sets"


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
    results, notes = _checked(folder / RESULTS, read_results)
    own = Path(os.fspath(folder)).absolute().name
    if not (folder / DESCRIPTION).exists():
        return Run(name or own, results, notes, {}, {})
    text = _checked(folder / DESCRIPTION, read_description)
    if text["results_sha256"] != _results_digest(results):
        raise UserError(
            f"{folder}: {RESULTS} and {DESCRIPTION} are of different evaluations; "
            "evaluate again"
        )
    sets = tuple(
        _checked(folder / SETS / one["file"], read_set, set_name, one)
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
    for name, values in one.columns.items():
        whole = np.asarray(values).dtype.kind in "iu"
        arrays[COLUMN + name] = np.asarray(values, np.int64 if whole else np.float64)
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
        described = read_description(folder / DESCRIPTION)
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
