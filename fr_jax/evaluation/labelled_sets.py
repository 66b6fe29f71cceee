"""Sets of labelled faces by their flags, for identification and clustering."""

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fr_jax.errors import UserError, check_names
from fr_jax.evaluation import embeddings, template_sets
from fr_jax.evaluation.clustering import METHODS, Clustering
from fr_jax.evaluation.identification import Faces, Gallery, Identification
from fr_jax.evaluation.template_sets import SetText, one_of, search_of, whole, yes

_OPTIONS = ("root", "identities", "missing", "flip")


class _Set(NamedTuple):
    faces: Faces
    names: list[str]
    identities: list[str]
    identity: np.ndarray  # int [N], in sorted order of names
    data_sets: tuple[str, ...]
    digests: Callable[[], np.ndarray] | None
    dropped: dict[str, int]  # missing images, by 'images'; {} if none could be


def identification(given: SetText) -> Identification:
    """Returns the evaluator of NAME=PATH,protocol=identification[,OPTION=VALUE]...

    Of labelled faces, the first `gallery=N` images (default 1) of an identity, in order
    of names, are in the gallery, the others are probes. With `galleries=2` identities
    are halved at random, once for all, and all probes are searched in both galleries,
    as in IJB: those of the other gallery are non-mated searches. With `galleries=1`
    (default) there are none.

    The path is a release of IJB or a table of templates (`template_sets`), labelled
    faces (`data_pipelines.protocols.labelled`), or a file of stored embeddings.

    Raises:
      UserError: for an option or value, and no identity with enough images.
    """
    name, path, options, *_ = given
    if template_sets.is_release(path):
        return template_sets.identification(given)
    if template_sets.is_table(path):
        return template_sets.table(given)
    allowed = (*_OPTIONS, "gallery", "galleries", "search")
    check_names(f"option of {name}, protocol=identification:", options, allowed)
    one = _load(given)
    enrolled = whole(name, "gallery", options.get("gallery", "1"), 1, 1000)
    halves = whole(name, "galleries", options.get("galleries", "1"), 1, 2)
    order = np.lexsort((np.array(one.names), one.identity))
    sizes = np.bincount(one.identity)
    place = np.empty(len(order), int)  # of an image among those of its identity
    place[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    probes = np.flatnonzero(place >= enrolled)
    if not len(probes):
        raise UserError(
            f"{name}: no identity has more than {enrolled} images, so there are no "
            "probes; lower gallery=N"
        )
    count = len(sizes)
    half = np.zeros(count, int)
    if halves == 2:
        if count < 2:
            raise UserError(f"{name}: two galleries need two identities; galleries=1")
        half[np.random.default_rng(0).permutation(count)[: count // 2]] = 1
    galleries = {
        f"G{number + 1}": Gallery(
            np.flatnonzero((place < enrolled) & (half[one.identity] == number)), probes
        )
        for number in range(halves)
    }
    return Identification(
        one.faces,
        one.identity,
        galleries,
        search=search_of(name, options),
        options={"flip": one.faces.flip, "gallery": enrolled, "galleries": halves},
        names=one.identities,
        data_sets=one.data_sets,
        digests=one.digests,
        dropped=one.dropped,
    )


def clustering(given: SetText) -> Clustering:
    """Returns the evaluator of NAME=PATH,protocol=clustering[,OPTION=VALUE]...

    Options: method=average|single (linkage) and threshold=T, a cosine, or by default
    that with the highest BCubed F on this set; or clusters=FILE, a CSV of `file` and
    `cluster` from any program, which needs no embeddings.

    Raises:
      UserError: for an option or value; DataError for a damaged set or table.
    """
    name, _, options, *_ = given
    from data_pipelines.protocols import labelled

    allowed = (*_OPTIONS, "method", "threshold", "clusters")
    check_names(f"option of {name}, protocol=clustering:", options, allowed)
    one = _load(given)
    assigned = None
    if "clusters" in options:
        for option in ("method", "threshold", "flip"):
            if option in options:
                raise UserError(f"{name}: {option}= is of no use with clusters=FILE")
        assigned = labelled.clusters(options["clusters"], one.names)
    return Clustering(
        one.faces,
        one.identity,
        method=one_of(name, "method", options.get("method", "average"), METHODS),
        threshold=_cosine(name, options.get("threshold")),
        clusters=assigned,
        source=Path(options.get("clusters", "")).name,
        names=one.identities,
        data_sets=one.data_sets,
        digests=one.digests,
        dropped=one.dropped,
    )


def _cosine(name: str, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        threshold = float(value)
    except ValueError:
        threshold = float("nan")
    if not -1 <= threshold <= 1:
        raise UserError(f"{name}: threshold={value}: use a cosine, -1 to 1")
    return threshold


def _load(given: SetText) -> _Set:
    from data_pipelines import digests
    from data_pipelines.protocols import labelled

    name, path, options, check, stored = given
    flip = yes(name, "flip", options.get("flip", "yes"))
    if stored is not None and stored.flip is not None and "flip" not in options:
        flip = stored.flip
    of_images, records, dropped = None, "", 0
    if Path(path).suffix in embeddings.SUFFIXES and not Path(path).is_dir():
        names, owners, images = _of_file(name, path, options, stored)
    else:
        chosen: dict[str, Any] = {
            option: options[option]
            for option in ("root", "identities", "missing")
            if option in options
        }
        loaded = labelled.load(path, **chosen, check=check, images=stored is None)
        for note in loaded.notes:
            print(f"{name}: {note}", file=sys.stderr)
        names, owners, images = loaded.names, loaded.identities, loaded.images
        records, dropped = loaded.records, loaded.dropped
        if stored is not None:
            if options.get("missing") == "drop":
                kept = stored.present(names)
                dropped = len(names) - len(kept)
                names, owners = ([c[n] for n in kept] for c in (names, owners))
            images = stored.select(names)
        else:
            of_images = functools.cache(lambda: digests.of_slices(images))
    identity = np.unique(owners, return_inverse=True)[1]
    return _Set(
        Faces(name, images, flip, names),
        names,
        owners,
        identity,
        (name, records or Path(path).stem),
        of_images,
        {"images": dropped} if options.get("missing") == "drop" else {},
    )


def _of_file(name: str, path: str, options: Mapping[str, str], stored: Any) -> tuple:
    """Returns names, identities and rows of the labelled rows of a file."""
    if stored is None or Path(path).resolve() != Path(stored.path).resolve():
        raise UserError(
            f"{name}={path}: a file of embeddings is a set of its own faces only; give "
            f"--embeddings {path}"
        )
    for option in ("root", "identities", "missing"):
        if option in options:
            raise UserError(f"{name}: {option}= is of no use for a file of embeddings")
    rows = np.flatnonzero(stored.columns.identities != "")
    if not len(rows):
        raise UserError(
            f"{path}: no embedding has an identity; give a table as the set"
        )
    names, owners = (
        column[rows].tolist()
        for column in (stored.columns.names, stored.columns.identities)
    )
    return names, owners, embeddings.Rows(rows)
