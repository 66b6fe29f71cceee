"""`fr-jax data`: makes and inspects sets of aligned faces."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from fr_jax.report import figures

_SHOWN = 50  # faces on a contact sheet


def add_arguments(parser: Any) -> None:
    from data_pipelines.readers.layouts import LAYOUTS

    action = parser.add_actions()
    what = "Convert a folder, RecordIO pack or .bin to TFRecords."
    add = action("convert", what).add_argument
    add("source", metavar="SRC")
    add("--to", required=True, metavar="DIR")
    add("--name", required=True)
    add("--size", type=int, default=112, help="side of the faces in pixels")
    add("--licence", default="")
    add("--source", dest="origin", default="", help="where the set comes from")
    add(
        "--layout",
        default="auto",
        choices=tuple(LAYOUTS),
        help="folders of identities, labels (a labels.csv), cfp or multipie; default: "
        "labels where there is a labels.csv, else folders",
    )
    add("--flat", action="store_true", help="folders are no identities: no labels")
    add("--max-bad", type=int, default=100, help="unusable images to skip at most")

    what = "Print counts, sizes and a contact sheet of a set."
    add = action("info", what).add_argument
    add("directory", metavar="DIR")
    add("--sheet", default="", metavar="PNG", help="default: DIR/contact_sheet.png")

    what = "Detect faces and warp them into the 112x112 template."
    add = action("align", what).add_argument
    add("source", metavar="SRC")
    add("--detector", required=True, metavar="FILE", help="YuNet's .onnx")
    add("--to", required=True, metavar="DIR")
    add("--size", type=int, default=112)
    add(
        "--legacy-bgr",
        action="store_true",
        help="the detector sees red for blue, as USynthFace's did",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs an action; returns the exit code."""
    actions = {"convert": _convert, "info": _info, "align": _align}
    return actions[arguments.action](arguments)


def _convert(arguments: argparse.Namespace) -> int:
    """Writes TFRecords from whatever the source is."""
    from data_pipelines.readers.layouts import open_source

    source = Path(arguments.source)
    reader = open_source(source, arguments.layout, flat=arguments.flat)
    from data_pipelines.builders import faces  # loads TensorFlow

    with tqdm(reader, source.name, unit="image", smoothing=0.05) as bar:
        folder, bad = faces.build(
            bar,
            arguments.to,
            arguments.name,
            size=arguments.size,
            licence=arguments.licence,
            source=arguments.origin,
            max_bad=arguments.max_bad,
        )
        seconds = max(bar.format_dict["elapsed"], 1e-9)
    kept = len(reader) - len(bad)
    print(f"{kept:,} images to {folder}, {kept / seconds:,.0f} a second")
    if bad:
        print(f"{len(bad)} unusable images skipped:", *bad[:5], sep="\n  ")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    """Prints what a set of records holds and draws some of its faces."""
    from data_pipelines import images
    from data_pipelines import index as indexes

    folder = indexes.find(arguments.directory)
    index = indexes.load(folder)
    labelled = index.label[index.label >= 0]
    counts = np.unique(labelled, return_counts=True)[1]
    print(f"name        {index.name}")
    print(f"images      {len(index):,} of {index.size}x{index.size} pixels")
    print(f"identities  {len(counts):,}")
    if len(counts):
        low, middle, high = np.percentile(counts, (0, 50, 100))
        print(f"each        {low:.0f} to {high:.0f} images, median {middle:.0f}")
    for name, values in (("ages", index.age), ("yaws", index.yaw)):
        if values is not None and len(known := values[np.isfinite(values)]):
            span = f"{known.min():.0f} to {known.max():.0f}"
            print(f"{name}        {span}, of {len(known):,} images")
    size = int(index.length.sum())
    print(f"on disk     {size / 1e6:,.1f} MB, {size / len(index):,.0f} bytes an image")
    print(f"licence     {index.licence or 'not stated'}")
    print(f"source      {index.source or 'not stated'}")
    from data_pipelines import records  # loads TensorFlow

    chosen = np.linspace(0, len(index) - 1, min(_SHOWN, len(index))).astype(int)
    shown = [records.decode(indexes.read(folder, index, number)) for number in chosen]
    default = epath.Path(arguments.directory) / "contact_sheet.png"
    sheet = epath.Path(arguments.sheet or default)
    faces = [images.decode(face.image) for face in shown]
    titles = [face.identity[:14] for face in shown]
    figures.contact_sheet(faces, sheet, titles=titles)
    print(f"figure      {sheet}")
    return 0


def _align(arguments: argparse.Namespace) -> int:
    """Aligns the faces of a folder, and prints what is worth a look."""
    from data_pipelines.vision import detect
    from data_pipelines.vision.align_folder import align_folder

    source, target = Path(arguments.source), Path(arguments.to)
    detector = detect.YuNet(arguments.detector)
    options = {"size": arguments.size, "legacy_bgr": arguments.legacy_bgr}
    rows = align_folder(source, target, detector, **options)
    noted = [row for row in rows if row["note"]]
    several = sum(row["faces"] > 1 for row in rows)
    aligned = sum(bool(row["score"]) for row in rows)
    print(f"{aligned:,} of {len(rows):,} images aligned to {target}")
    print(f"{several:,} had several faces, of which the largest was taken")
    print(f"{len(noted):,} are worth a look:")
    for row in noted[:10]:
        print(f"  {row['file']}: {row['note']} {row['misfit']}")
    print(f"all rows: {target / 'alignment.csv'}")
    return 0
