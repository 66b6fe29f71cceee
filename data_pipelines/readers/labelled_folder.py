"""Folders of aligned faces with a table of their labels, labels.csv."""

import json
import os
from pathlib import Path

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.listing import list_images
from data_pipelines.names import normal, unwritten
from data_pipelines.readers import Face
from data_pipelines.readers.image_folder import FaceFiles

FILE = "labels.csv"
PROVENANCE = "provenance.json"
_MAX_PROVENANCE = 1 << 20  # characters
_NUMBERS = {
    **dict.fromkeys(("age", "yaw", "pitch", "roll", "quality"), float),
    **dict.fromkeys(("light", "session"), int),
}
_POINTS = [f"{axis}{point}" for point in range(68) for axis in "xy"]


class LabelledFolder(FaceFiles):
    """The images listed in ROOT/labels.csv, in order of identity and file.

    Columns: `file`, relative to the folder; any of `identity`, `yaw`, `pitch`, `roll`
    (degrees), `age`, `quality`, `expression`, `light`, `session`; and 68 landmarks in
    pixels, `x0`, `y0` to `x67`, `y67`. An empty cell is an unknown value; other columns
    are ignored. `fr-jax faces render` writes such a folder. Names are as in `names.py`;
    images that are not listed are counted.

    Raises:
      DataError: for a missing table or column `file`; with the line, for a cell that is
        not a number, a yaw above 180 degrees, and a file that is missing or outside the
        folder.
    """

    def __init__(self, root: str | Path):
        folder = Path(root)
        table = folder / FILE
        rows = lists.table(table, ["file"])
        if not rows:
            raise DataError(f"{table}: lists no image")
        faces = [_face(folder, row, f"{table}: line {line}") for line, row in rows]
        names, skipped = list_images(folder)
        skipped[f"images not in {FILE}"] = len(
            set(names) - {os.path.normpath(face.source) for face in faces}
        )
        skipped[".csv"] -= 1  # the table itself
        faces.sort(key=lambda face: face.source)
        super().__init__(folder, faces, +skipped)


def provenance(folder: Path) -> dict[str, str]:
    """Returns licence and source in FOLDER/provenance.json; empty without the file.

    `fr-jax generate` writes it.

    Raises:
      DataError: for a file without them.
    """
    file = folder / PROVENANCE
    if not file.is_file():
        return {}
    try:
        with file.open(encoding="utf-8") as text:
            noted = json.loads(text.read(_MAX_PROVENANCE))
        texts = {name: noted[name] for name in ("licence", "source")}
        if all(isinstance(text, str) for text in texts.values()):
            return texts
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    raise DataError(
        f"{file}: no licence and source; restore the file that fr-jax generate wrote, "
        "or remove it and give --licence and --source"
    )


def _face(folder: Path, row: dict, where: str) -> Face:
    """Returns the face of a row, without label and image; errors begin with `where`."""
    source = row["file"] or ""
    forms = [Path(source), Path(unwritten(source))]
    if not source or any(one.is_absolute() or ".." in one.parts for one in forms):
        raise DataError(f"{where}: file {source!r:.200} is no path within the folder")
    if not os.path.isfile(folder / source):  # False for names that are too long
        source = unwritten(source)
    if not os.path.isfile(folder / source):
        raise DataError(f"{where}: no such image: {source!r:.200}")
    values: dict = {name: row.get(name) or "" for name in ("identity", "expression")}
    values["identity"] = normal(values["identity"])
    for name, number in _NUMBERS.items():
        try:
            if text := row.get(name):
                values[name] = number(text)
            if abs(values.get(name, 0)) >= 1 << 31:
                raise ValueError
        except ValueError:
            raise DataError(f"{where}: {name} {text!r:.80} is not a number") from None
    cells = [row.get(name) or "" for name in _POINTS]
    if any(cells):
        try:
            points = np.array([float(cell) for cell in cells], np.float32)
            if not (np.abs(points) <= 1e5).all():
                raise ValueError
        except ValueError:
            raise DataError(
                f"{where}: the landmarks x0, y0 to x67, y67 are not 136 numbers"
            ) from None
        values["landmarks68"] = points.reshape(-1, 2)
    face = Face(b"", source=source, **values)
    if abs(face.yaw) > 180:
        raise DataError(f"{where}: a yaw of {face.yaw:g} degrees")
    return face
