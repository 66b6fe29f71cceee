"""Protocols of IJB-B and IJB-C: pairs of templates, and galleries with their probes.

The files are described in `ijb`. The 15.7 million pairs of IJB-C, a file of 200 MB, are
read in blocks into nine bytes a pair.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.protocols.ijb import is_number, meta, unreadable

_PAIRS, _GALLERY, _PROBES = "_template_pair_label.txt", "_1N_gallery_", "_1N_probe_"
_BLOCK = 8 << 20  # bytes of a list that are parsed at once
_WHITESPACE = np.frombuffer(b" \t\r\n", np.uint8)


class TemplatePairs(NamedTuple):
    """Pairs of templates: int32 [P], int32 [P], bool [P]."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


class Searches(NamedTuple):
    """A gallery and its probes: templates [G], [P], and the identities of all [T].

    Attributes:
      gallery, probes: int, numbers of templates.
      identity: int [T], -1 for a template that neither list has.
    """

    gallery: np.ndarray
    probes: np.ndarray
    identity: np.ndarray


def pairs(path: str | Path, ids: np.ndarray) -> TemplatePairs:
    """Returns the pairs of templates of a release, in the order of the list.

    Args:
      path: as in `load`.
      ids: int64 [T], ascending, the published numbers of the templates.

    Raises:
      DataError: for a missing list, a line in another form, and templates without
        images, with their number.
    """
    folder, name = meta(path)
    file = folder / f"{name}{_PAIRS}"
    parts, missing, absent = [], 0, None
    for values in _blocks_of_numbers(file):
        numbers = np.searchsorted(ids, values[:, :2])
        unknown = ids[np.minimum(numbers, len(ids) - 1)] != values[:, :2]
        if unknown.any():
            missing += int(np.sum(unknown.any(axis=1)))
            absent = values[:, :2][unknown][0] if absent is None else absent
        columns = numbers.astype(np.int32)
        parts.append(TemplatePairs(columns[:, 0], columns[:, 1], values[:, 2] == 1))
    if missing:
        raise DataError(
            f"{file}: {missing:,} pairs have a template without images, such as "
            f"{absent}; the lists belong to different releases"
        )
    if not parts:
        raise DataError(f"{file}: no pairs")
    return TemplatePairs(*(np.concatenate(column) for column in zip(*parts)))


def _blocks_of_numbers(file: Path) -> Iterator[np.ndarray]:
    """Yields the lines of a list as int64 [n, 3], the last column 0 or 1."""
    lists.opened(file, "list of template pairs").close()  # for its errors
    before, rest = 0, b""
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            end = block.rfind(b"\n") + 1
            text, rest = (
                (rest + block[:end], block[end:]) if end else (b"", rest + block)
            )
            if len(rest) > _BLOCK:
                raise DataError(f"{file}: a line of more than {_BLOCK:,} bytes")
            if text:
                yield _numbers(file, text, before)
                before += text.count(b"\n")
    if rest.strip():
        yield _numbers(file, rest + b"\n", before)


def _numbers(file: Path, text: bytes, before: int) -> np.ndarray:
    """Returns the lines of a text as int64 [n, 3]; `before` lines precede it."""
    values = np.zeros(0, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of text that is no number
        try:
            values = np.fromstring(text, np.int64, sep=" ")  # much faster than loadtxt
            invalid = len(values) == 0 and bool(text.strip())
        except (DeprecationWarning, ValueError):
            invalid = True
    if not invalid:
        space = np.isin(np.frombuffer(text, np.uint8), _WHITESPACE)
        starts = ~space & np.concatenate([[True], space[:-1]])
        lines = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        columns = np.add.reduceat(
            starts, np.concatenate([[0], lines[:-1] + 1]), dtype=int
        )
        if len(values) == columns.sum() and np.isin(columns, (0, 3)).all():
            values = values.reshape(-1, 3)
            if np.isin(values[:, 2], (0, 1)).all():
                return values
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        fields = line.split()
        valid = len(fields) == 3 and all(is_number(field) for field in fields)
        if fields and not (valid and fields[2] in ("0", "1")):
            form = "template template label, with label 0 or 1"
            raise unreadable(file, before + number, line, form)
    raise DataError(f"{file}: a number near line {before + 1:,} exceeds 64 bits")


def searches(path: str | Path, ids: np.ndarray) -> dict[str, Searches]:
    """Returns the galleries of a release with their probes, by name (G1, G2; S1, S2).

    Every probe is searched in every gallery: it is mated in the gallery that has its
    identity, and a non-mated search of the other one. The published tables have a line
    per image; templates are counted once.

    Args:
      path, ids: as in `pairs`.

    Raises:
      DataError: for missing tables, a template of two identities, and templates without
        images.
    """
    folder, name = meta(path)
    tables = {
        file.stem.rpartition(_GALLERY)[2]: file
        for file in sorted(folder.glob(f"{name}{_GALLERY}*.csv"))
    }
    probes = sorted(folder.glob(f"{name}{_PROBES}mixed.csv"))
    if not tables or not probes:
        missing = (
            f"{name}{_GALLERY}*.csv" if not tables else f"{name}{_PROBES}mixed.csv"
        )
        raise DataError(f"{folder}: no {missing}, the tables of identification")
    owners: dict[int, str] = {}
    columns = {
        key: _templates(file, ids, owners)
        for key, file in {**tables, "": probes[0]}.items()
    }
    subjects = {owner: code for code, owner in enumerate(sorted(set(owners.values())))}
    identity = np.full(len(ids), -1)
    identity[list(owners)] = [subjects[owner] for owner in owners.values()]
    return {
        key: Searches(numbers, columns[""], identity)
        for key, numbers in columns.items()
        if key
    }


def _templates(file: Path, ids: np.ndarray, owners: dict[int, str]) -> np.ndarray:
    """Returns the templates of a table, and enters their identities in `owners`."""
    template, subject = "TEMPLATE_ID", "SUBJECT_ID"
    numbers: dict[int, None] = {}
    for line, row in lists.table(file, (template, subject)):
        text, owner = (row[template] or "").strip(), (row[subject] or "").strip()
        if not is_number(text) or not owner:
            raise DataError(
                f"{file}: line {line}: template {text!r:.80}, subject {owner!r:.80}"
            )
        number = int(np.searchsorted(ids, int(text)))
        if number == len(ids) or ids[number] != int(text):
            raise DataError(f"{file}: line {line}: template {text} has no images")
        numbers[number] = None
        if owners.setdefault(number, owner) != owner:
            raise DataError(
                f"{file}: line {line}: template {text} is of {owner!r:.80} and of "
                f"{owners[number]!r:.80}"
            )
    if not numbers:
        raise DataError(f"{file}: no templates")
    return np.array(list(numbers))
