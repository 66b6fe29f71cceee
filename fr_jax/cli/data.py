"""`fr-jax data`: align faces, convert data sets to TFRecords, and describe them.

Example:
    fr-jax data align photos --detector yunet.onnx --to aligned
    fr-jax data convert aligned --to records --name mine
    fr-jax data info records/mine
"""

import argparse
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from fr_jax.cli.targets import check_writable
from fr_jax.errors import UserError
from fr_jax.progress import progress_bar
from fr_jax.report import figures

_SHOWN = 50  # faces on a contact sheet
_LAYOUT = """\
folders: a folder of images per identity; labels: a labels.csv with file, identity and
optionally yaw, light; cfp, multipie, kdef, cmu: labels in file names; kdef_published:
as FRA's authors, whose identities include the session; auto: labels if there is a
labels.csv, else RecordIO, .bin or folders"""


def add_arguments(parser: Any) -> None:
    from data_pipelines.readers.layouts import LAYOUTS

    action = parser.add_choice()
    summary = "Convert a folder, a RecordIO pack or a .bin to TFRecords."
    add = action("convert", summary).add_argument
    add("source", metavar="SRC", help="folder, .rec or .bin of aligned faces")
    add("--to", required=True, metavar="DIR", help="records are written to DIR/NAME")
    add("--name", required=True, help="set name: lower-case letters, digits and _")
    add("--size", type=int, default=112, help="side of the faces in pixels")
    add("--licence", default="", metavar="TEXT", help="stored with the set")
    text = "origin of the set, stored with it; default of both: those that fr-jax "
    text += "generate noted in SRC"
    add("--source", dest="origin", default="", metavar="TEXT", help=text)
    add("--layout", default="auto", choices=tuple(LAYOUTS), help=_LAYOUT)
    text = "folder that names the identity: 1 is the first below SRC, 2 the second, -1 "
    text += "the one with the image; default: 1, with a note if images lie deeper"
    add("--identity-level", type=int, metavar="N", help=text)
    text = "store no labels: folders are not identities"
    add("--flat", action="store_true", help=text)
    text = "number of unusable images to skip; more are an error"
    add("--max-bad", type=int, default=100, metavar="N", help=text)

    summary = "Print counts, sizes and provenance of a set, and plot a contact sheet."
    add = action("info", summary).add_argument
    add("directory", metavar="DIR", help="folder of the records")
    add("--sheet", default="", metavar="PNG", help="default: DIR/contact_sheet.png")

    summary = "Detect faces and align them to the five-point template."
    add = action("align", summary).add_argument
    add("source", metavar="SRC", help="folder of photographs, searched recursively")
    text = "YuNet's .onnx, of the OpenCV model zoo"
    add("--detector", required=True, metavar="FILE", help=text)
    add("--to", required=True, metavar="DIR", help="new folder for the faces")
    add("--size", type=int, default=112, help="side of the faces in pixels")
    text = "landmark regressor, WORKDIR/embedder_landmarks: finds the 68 points of "
    text += "photographs without a file of them, and writes them beside the faces"
    add("--landmarks", default="", metavar="REGRESSOR", help=text)
    text = "swap red and blue for the detector, as USynthFace did"
    add("--legacy-bgr", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Runs an action."""
    actions = {"convert": _convert, "info": _info, "align": _align}
    actions[arguments.action](arguments)


def _convert(arguments: argparse.Namespace) -> None:
    """Writes a source of any layout as TFRecords."""
    from data_pipelines import index as indexes
    from data_pipelines.readers.labelled_folder import provenance
    from data_pipelines.readers.layouts import open_source

    source, level = Path(arguments.source), arguments.identity_level
    check_level(level)
    check_writable("--to", arguments.to)
    noted = provenance(source)
    reader = open_source(source, arguments.layout, flat=arguments.flat, level=level)
    from data_pipelines.builders import faces  # loads TensorFlow

    with progress_bar(reader, source.name, smoothing=0.05) as bar:
        folder, bad = faces.build(
            bar,
            arguments.to,
            arguments.name,
            size=arguments.size,
            licence=arguments.licence or noted.get("licence", ""),
            source=arguments.origin or noted.get("source", ""),
            max_bad=arguments.max_bad,
        )
        seconds = max(bar.format_dict["elapsed"], 1e-9)
    index = indexes.load(folder)
    identities = len(np.unique(index.label[index.label >= 0]))
    of = f" of {identities:,} identities" if identities else ""
    print(
        f"{len(index):,} images{of} to {folder}, {len(index) / seconds:,.0f} images/s"
    )
    print_left_out(getattr(reader, "skipped", {}), bad, getattr(reader, "note", ""))


def check_level(level: int | None) -> None:
    """Raises a UserError for an --identity-level that is none."""
    if level == 0:
        raise UserError(
            "--identity-level 0: use 1 for the first folder, -1 for the last"
        )


def print_left_out(
    skipped: Mapping[str, int], bad: Sequence[str], note: str = ""
) -> None:
    """Prints what a command left out: no images by kind, unusable ones by name."""
    from data_pipelines.listing import summary

    if text := summary(skipped):
        print(text)
    if bad:
        print(f"{len(bad)} unusable images skipped:", *bad[:5], sep="\n  ")
    if note:
        print(f"note: {note}")


def _info(arguments: argparse.Namespace) -> None:
    """Prints the properties of a set and plots a contact sheet."""
    from data_pipelines import images
    from data_pipelines import index as indexes

    folder = indexes.find(arguments.directory)
    index = indexes.load(folder)
    labelled = index.label[index.label >= 0]
    counts = np.unique(labelled, return_counts=True)[1]
    print(f"name        {index.name}")
    print(f"images      {len(index):,}, {index.size}x{index.size} pixels")
    print(f"identities  {len(counts):,}")
    if len(counts):
        low, middle, high = np.percentile(counts, (0, 50, 100))
        print(f"images each {low:.0f} to {high:.0f}, median {middle:.0f}")
    for name, values in (("ages", index.age), ("yaws", index.yaw)):
        if len(known := values[np.isfinite(values)]):
            span = f"{known.min():.0f} to {known.max():.0f}"
            print(f"{name}        {span}, {len(known):,} images")
    size = int(index.length.sum())
    print(f"on disk     {size / 1e6:,.1f} MB, {size / len(index):,.0f} bytes per image")
    print(f"licence     {index.licence or 'not stated'}")
    print(f"source      {index.source or 'not stated'}")
    if index.checksum is None:
        print("checksums   none: converted by an earlier version")
    from data_pipelines import records  # loads TensorFlow

    chosen = np.linspace(0, len(index) - 1, min(_SHOWN, len(index))).astype(int)
    faces = [records.decode(indexes.read(folder, index, number)) for number in chosen]
    sheet = epath.Path(arguments.sheet or f"{arguments.directory}/contact_sheet.png")
    check_writable("--sheet", str(sheet), file=True)
    titles = [face.identity[:14] for face in faces]
    pictures = images.EncodedImages(
        [face.image for face in faces],
        lambda n: f"{indexes.place(folder, index, chosen[n])}: {faces[n].source}",
        upright=False,
    )
    figures.contact_sheet(list(pictures), sheet, titles=titles)
    print(f"figure      {sheet}")


def _align(arguments: argparse.Namespace) -> None:
    """Aligns the faces of a folder; prints the images to check."""
    from data_pipelines.listing import identities
    from data_pipelines.readers.labelled_folder import PROVENANCE
    from data_pipelines.vision import detect
    from data_pipelines.vision.align_folder import align_folder

    target = Path(arguments.to)
    check_writable("--to", target.parent)
    regressor = None
    if path := arguments.landmarks:
        from fr_jax.embedder import load_embedder

        regressor = load_embedder(path)
        if regressor.network.kind != "landmarks":
            raise UserError(
                f"--landmarks {path}: a network of kind {regressor.network.kind!r}, "
                "not 'landmarks'; fr-jax train --config=landmarks:faces trains one"
            )
    rows, skipped = align_folder(
        Path(arguments.source),
        target,
        detect.YuNet(arguments.detector),
        size=arguments.size,
        legacy_bgr=arguments.legacy_bgr,
        landmarks=regressor and regressor.points,
        progress=functools.partial(progress_bar, label="align"),
    )
    if (noted := Path(arguments.source) / PROVENANCE).is_file():
        shutil.copyfile(noted, target / PROVENANCE)
    doubtful = [row for row in rows if row["note"]]
    several = sum(row["faces"] > 1 for row in rows)
    aligned = sum(bool(row["score"]) for row in rows)
    names = [row["file"] for row in rows if row["score"]]
    owners, note, _ = identities(names)
    owners = len(set(owners) - {""})
    print(
        f"{aligned:,} of {len(rows):,} images aligned to {target}; "
        f"{owners:,} identities"
    )
    print_left_out(skipped, (), note)
    print(f"{several:,} had several faces; the largest was used")
    print(f"{len(doubtful):,} to check:")
    for row in doubtful[:10]:
        print(f"  {row['file']}: {row['note']} {row['misfit']}")
    print(f"all rows: {target / 'alignment.csv'}")
