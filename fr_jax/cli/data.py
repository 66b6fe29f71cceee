"""`fr-jax data`: convert, info, align."""

import argparse
import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
from etils import epath
from tqdm import tqdm

from data_pipelines import DataError, images
from data_pipelines import index as indexes
from data_pipelines.readers import Face, recordio, verification_bin
from data_pipelines.readers.image_folder import FlatFolder, ImageFolder
from data_pipelines.readers.labelled_folder import FILE, LabelledFolder
from data_pipelines.readers.posed_folders import Cfp, MultiPie
from data_pipelines.vision import align as alignment
from data_pipelines.vision import detect
from fr_jax.errors import UserError, unknown
from fr_jax.report import figures

_SHOWN = 50  # faces on a contact sheet


class _BinFaces:
    """The images of a .bin set, unlabelled, in their order."""

    def __init__(self, path: Path):
        self._path, self._set = path, verification_bin.read(path)

    def __len__(self):
        return len(self._set.images)

    def __iter__(self):
        for number, image in enumerate(self._set.images):
            yield Face(image, source=f"{self._path.name}:{number}")


def convert(arguments: argparse.Namespace) -> int:
    """Writes TFRecords from whatever the source is."""
    source = Path(arguments.source)
    if arguments.layout not in LAYOUTS:
        raise UserError(unknown("--layout", arguments.layout, LAYOUTS))
    if arguments.flat and arguments.layout != "auto":
        raise UserError("--flat takes folders for no identities: it has no --layout")
    reader = FlatFolder(source) if arguments.flat else LAYOUTS[arguments.layout](source)
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


def _reader(source: Path):
    if source.suffix == ".rec" or (source / "train.rec").is_file():
        return recordio.RecordIO(source)
    if source.suffix == ".bin":
        return _BinFaces(source)
    if (source / FILE).is_file():
        return LabelledFolder(source)
    return ImageFolder(source)


LAYOUTS = {
    "auto": _reader,
    "folders": ImageFolder,
    "labels": LabelledFolder,
    "cfp": Cfp,
    "multipie": MultiPie,
}


def info(arguments: argparse.Namespace) -> int:
    """Prints what a set of records holds and draws some of its faces."""
    folder = indexes.find(arguments.directory)
    index = indexes.load(folder)
    labelled = index.label[index.label >= 0]
    counts = np.unique(labelled, return_counts=True)[1]
    ages = index.age[np.isfinite(index.age)]
    print(f"name        {index.name}")
    print(f"images      {len(index):,} of {index.size}x{index.size} pixels")
    print(f"people      {len(counts):,}")
    if len(counts):
        low, middle, high = np.percentile(counts, (0, 50, 100))
        print(f"per person  {low:.0f} to {high:.0f} images, median {middle:.0f}")
    if len(ages):
        print(
            f"ages        {ages.min():.0f} to {ages.max():.0f}, of {len(ages):,} images"
        )
    if index.yaw is not None and len(yaws := index.yaw[np.isfinite(index.yaw)]):
        print(
            f"yaws        {yaws.min():.0f} to {yaws.max():.0f}, of {len(yaws):,} images"
        )
    size = int(index.length.sum())
    print(f"on disk     {size / 1e6:,.1f} MB, {size / len(index):,.0f} bytes an image")
    print(f"licence     {index.licence or 'not stated'}")
    print(f"source      {index.source or 'not stated'}")
    from data_pipelines import records  # loads TensorFlow

    chosen = np.linspace(0, len(index) - 1, min(_SHOWN, len(index))).astype(int)
    shown = [records.decode(indexes.read(folder, index, number)) for number in chosen]
    sheet = epath.Path(
        arguments.sheet or epath.Path(arguments.directory) / "contact_sheet.png"
    )
    figures.contact_sheet(
        [images.decode(face.image) for face in shown],
        sheet,
        titles=[face.identity[:14] for face in shown],
    )
    print(f"figure      {sheet}")
    return 0


def align(arguments: argparse.Namespace) -> int:
    """Warps the largest face of every image below a folder into the template."""
    source, target = Path(arguments.source), Path(arguments.to)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    paths = list(images.list_images(source))
    if not paths:
        raise DataError(f"{source}: no .jpg, .jpeg or .png below it")
    if target.exists():
        raise UserError(f"{target} exists; choose another folder or remove it")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"{target} lies in {source}; aligned faces would be aligned again"
        )
    detector = detect.YuNet(arguments.detector)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    rows = []
    bar = tqdm(paths, "align", unit="image")
    for path in bar:
        name = path.relative_to(source)
        row = {
            "file": name.as_posix(),
            "faces": 0,
            "score": "",
            "misfit": "",
            "note": "",
        }
        rows.append(row)
        try:
            image = images.decode(images.read_file(path), upright=True)
        except (DataError, OSError) as error:
            row["note"] = str(error)
            continue
        seen = image[..., ::-1].copy() if arguments.legacy_bgr else image
        found = detect.detect_or_pad(detector, seen)
        row["faces"] = len(found)
        if not found:
            row["note"] = "no face found"
            continue
        misfit = alignment.residual(found[0].points)
        row |= {"score": f"{found[0].score:.3f}", "misfit": f"{misfit:.4f}"}
        if misfit > 0.08:
            row["note"] = "points far from the template: a profile, or found wrongly"
        face = alignment.crop(image, found[0].points, arguments.size)
        place = (part / name).with_suffix(".jpg")
        if place.exists():  # a.png beside a.jpg
            place = part / name.with_name(name.name + ".jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        bgr = cv2.cvtColor(face, cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(place), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise DataError(f"{place}: could not be written; is the disk full?")
    if not any(row["score"] for row in rows):
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(f"{source}: no face found in any of {len(paths)} images")
    with (part / "alignment.csv").open(
        "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    part.rename(target)
    noted = [row for row in rows if row["note"]]
    several = sum(row["faces"] > 1 for row in rows)
    aligned = sum(bool(row["score"]) for row in rows)
    print(f"{aligned:,} of {len(rows):,} images aligned to {target}")
    print(f"{several:,} had several faces, of which the largest was taken")
    print(f"{len(noted):,} are worth a look:")
    for row in noted[:10]:
        print(f"  {row['file']}: {row['note']} {row['misfit']}")
    print(f"all of it: {target / 'alignment.csv'}")
    return 0
