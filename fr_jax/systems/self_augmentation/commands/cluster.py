"""`fr-jax cluster`: find the persons of a video among its tracklets.

DIR gets persons.csv (a row per tracklet: person, faces, seconds), a contact sheet of
each person, timeline.png, and results.json with the silhouette of each number of
persons. Persons are numbered by their number of faces.

Example:
    fr-jax video tracks clip.mp4 --detector yunet.onnx --to tracks
    fr-jax cluster tracks --embedder runs/refine/embedder --to persons
"""

import argparse
import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.embedder import load_embedder
from fr_jax.errors import UserError, check_range
from fr_jax.metrics.verification import l2_normalize
from fr_jax.report import figures, timeline
from fr_jax.systems.self_augmentation.data import open_tracklets
from fr_jax.systems.self_augmentation.encoders import ENCODER
from fr_jax.systems.self_augmentation.evaluation import Grouped, Tracked, grouped

_SHOWN = 40  # faces on a sheet
_COLUMNS = ("track", "person", "faces", "first_second", "last_second")


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("store", metavar="STORE", help="folder of fr-jax video tracks")
    add("--embedder", required=True, metavar="EMBEDDER", help="embedder of faces")
    add("--to", required=True, metavar="DIR", help="new folder")
    text = "number of persons; default: estimated"
    add("--persons", type=int, default=0, metavar="K", help=text)
    text = "faces to embed: aligned, or crops with hair and shoulders; default: those "
    text += "that the embedder was trained on"
    add("--faces", default="", choices=("", "aligned", "crops"), help=text)
    text = "never join tracklets that share a frame"
    add("--cannot-link", action="store_true", help=text)
    text = "use embeddings as they are; default: of length 1, but for encoders of "
    text += "self-augmentation"
    add("--raw", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Clusters the tracklets of a video, and writes who was found."""
    check_range("--persons", arguments.persons, 0)
    target = Path(arguments.to)
    if target.exists():
        raise UserError(f"{target} exists; choose another --to or remove it")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)  # refused before the work
    try:
        lines = _write(arguments, part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{lines[0]} in {target}", *lines[1:], sep="\n  ")


def _write(arguments: argparse.Namespace, target: Path) -> list[str]:
    """Writes the files; returns what to print of the persons."""
    embedder = load_embedder(arguments.embedder)
    store = Path(arguments.store)
    framing = arguments.faces or embedder.provenance.get("faces", "aligned")
    raw = arguments.raw or embedder.network.architecture == ENCODER
    faces, tracked = open_tracklets(store, framing)
    with faces:
        embeddings = embedder.embed_raw(faces, progress="embedding faces")["embedding"]
    if not raw:
        embeddings = l2_normalize(embeddings)
    options = {"linked": arguments.cannot_link}
    found = grouped(embeddings, tracked, arguments.persons, **options)
    person = _by_size(found.cluster, tracked)
    spans = _write_table(target / "persons.csv", person, tracked, faces.time)
    names = [f"person {number}" for number in range(int(person.max()) + 1)]
    timeline.plot(spans, target / "timeline.png", names=names, label="")
    shown, _ = open_tracklets(store, "crops")
    with shown:
        for number in range(len(names)):
            rows = np.flatnonzero(person[tracked.track] == number)
            _sheet(shown, rows, target, number)
    how = {"faces": framing, "raw": raw, "asked": arguments.persons}
    _write_results(target / "results.json", arguments, found, person, tracked, how)
    lines = [f"{len(person):,} tracklets of {len(names)} persons"]
    for number, seconds in enumerate(spans):
        tracks = int(np.sum(person == number))
        first, last = seconds[0], seconds[-1]
        lines.append(
            f"person {number}: {len(seconds):,} faces in {tracks} tracklets, "
            f"{first:.1f} to {last:.1f} s"
        )
    return lines


def _by_size(cluster: np.ndarray, tracked: Tracked) -> np.ndarray:
    """Returns the clusters [T], numbered by their numbers of faces."""
    sizes = np.bincount(cluster, np.bincount(tracked.track))
    return np.argsort(np.argsort(-sizes, kind="stable"))[cluster]


def _write_table(
    path: Path, person: np.ndarray, tracked: Tracked, time: np.ndarray
) -> list[np.ndarray]:
    """Writes a row per tracklet; returns the seconds of each person's faces."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for track, owner in enumerate(person.tolist()):
            seconds = time[tracked.track == track]
            span = f"{seconds.min():.3f}", f"{seconds.max():.3f}"
            rows.writerow([track, owner, len(seconds), *span])
    owners = person[tracked.track]
    return [np.sort(time[owners == number]) for number in range(int(person.max()) + 1)]


def _sheet(faces: Any, rows: np.ndarray, target: Path, number: int) -> None:
    chosen = rows[np.linspace(0, len(rows) - 1, min(_SHOWN, len(rows))).astype(int)]
    path = target / f"person_{number:02}.png"
    figures.contact_sheet(list(faces.images(chosen)), path)


def _write_results(
    path: Path,
    arguments: argparse.Namespace,
    found: Grouped,
    person: np.ndarray,
    tracked: Tracked,
    how: Mapping[str, Any],
) -> None:
    values = {
        "persons": int(person.max()) + 1,
        "estimated_persons": len(np.unique(found.estimated)),
        "tracklets": len(person),
        "images": len(tracked.track),
        "silhouettes": found.silhouettes,
        "embedder": str(arguments.embedder),
        "cannot_link": bool(arguments.cannot_link),
        **how,
    }
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
