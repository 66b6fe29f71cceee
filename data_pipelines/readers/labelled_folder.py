"""Folders of aligned faces with a labels.csv that says what is known of each."""

import os
from pathlib import Path

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.readers import Face
from data_pipelines.readers.image_folder import FaceFiles

FILE = "labels.csv"
_NUMBERS = ("age", "yaw", "pitch", "roll", "quality")
_COUNTS = ("light", "session")


class LabelledFolder(FaceFiles):
    """The images that ROOT/labels.csv names, in order of their identities.

    Columns: `file`, relative to the folder; any of `identity`, `yaw`, `pitch`, `roll`
    (degrees), `age`, `quality`, `expression`, `light`, `session`. An empty cell is not
    known; other columns are not read. `fr-jax faces render` writes such a folder.

    Raises:
      DataError: where the table is missing or has no column `file`, and for a cell that
        is no number or a file that is not there, with the line.
    """

    def __init__(self, root: str | Path):
        folder = Path(root)
        table = folder / FILE
        known = lists.table(table, ["file"])
        if not known:
            raise DataError(f"{table}: names no image")
        names = {row.get("identity") or "" for _, row in known} - {""}
        self.identities = sorted(names)
        label = {name: number for number, name in enumerate(self.identities)}
        faces = []
        for line, row in known:
            face = _face(folder, row, f"{table}: line {line}")
            faces.append(face._replace(label=label.get(face.identity, -1)))
        faces.sort(key=lambda face: (face.label, face.source))
        super().__init__(folder, faces)


def _face(folder: Path, row: dict, where: str) -> Face:
    """The face of a row, without label and image; `where` names it for an error."""
    source = row["file"] or ""
    if not source or Path(source).is_absolute() or ".." in Path(source).parts:
        raise DataError(f"{where}: file {source!r:.200} is no path within the folder")
    if not os.path.isfile(folder / source):  # False of names too long, too
        raise DataError(f"{where}: no such image: {source!r:.200}")
    values: dict = {name: row.get(name) or "" for name in ("identity", "expression")}
    for names, kind in ((_NUMBERS, float), (_COUNTS, int)):
        for name in names:
            if not (text := row.get(name)):
                continue
            try:
                values[name] = kind(text)
            except ValueError:
                raise DataError(
                    f"{where}: {name} {text!r:.80} is not a number"
                ) from None
    face = Face(b"", source=source, **values)
    if abs(face.yaw) > 180:
        raise DataError(f"{where}: a yaw of {face.yaw:g} degrees")
    return face
