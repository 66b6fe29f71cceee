"""Folders of aligned faces with a labels.csv that says what is known of each."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from data_pipelines import DataError
from data_pipelines import text_files as lists
from data_pipelines.images import read_file
from data_pipelines.readers import Face

FILE = "labels.csv"
_NUMBERS = ("age", "yaw", "pitch", "roll", "quality")
_COUNTS = ("light", "session")


class LabelledFolder:
    """The images that ROOT/labels.csv names, in order of their identities.

    Columns: `file`, relative to the folder; any of `identity`, `yaw`, `pitch`, `roll`
    (degrees), `age`, `quality`, `expression`, `light`, `session`. An empty cell is not
    known; other columns are not read. `fr-jax faces render` writes such a folder.

    Raises:
      DataError: where the table is missing or has no column `file`, and for a cell that
        is no number or a file that is not there, with the line.
    """

    def __init__(self, root: str | Path):
        self._root = Path(root)
        table = self._root / FILE
        known = lists.table(table, ["file"])
        if not known:
            raise DataError(f"{table}: names no image")
        names = {row.get("identity") or "" for _, row in known} - {""}
        self.identities = sorted(names)
        label = {name: number for number, name in enumerate(self.identities)}
        faces = [self._face(table, line, row, label) for line, row in known]
        self._faces = sorted(faces, key=lambda face: (face.label, face.source))

    def _face(self, table, line, row, label) -> Face:
        where = f"{table}: line {line}"
        source = row["file"] or ""
        if not source or Path(source).is_absolute() or ".." in Path(source).parts:
            raise DataError(
                f"{where}: file {source!r:.200} is no path within the folder"
            )
        if not os.path.isfile(self._root / source):  # False of names too long, too
            raise DataError(f"{where}: no such image: {source!r:.200}")
        identity = row.get("identity") or ""
        values: dict = {}
        for name in _NUMBERS + _COUNTS:
            text = row.get(name) or ""
            whole = name in _COUNTS
            try:
                values[name] = (int if whole else float)(text) if text else None
            except ValueError:
                raise DataError(
                    f"{where}: {name} {text!r:.80} is not a number"
                ) from None
            if values[name] is None:
                values[name] = -1 if whole else math.nan
        if abs(values["yaw"]) > 180:
            raise DataError(f"{where}: a yaw of {values['yaw']:g} degrees")
        return Face(
            b"",
            label.get(identity, -1),
            identity,
            source,
            expression=row.get("expression") or "",
            **values,
        )

    def __len__(self) -> int:
        return len(self._faces)

    def __iter__(self) -> Iterator[Face]:
        for face in self._faces:
            yield face._replace(image=read_file(self._root / face.source))
