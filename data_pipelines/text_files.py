"""Lists and tables from users: text lines, and CSV with a header.

They name files, whose names are bytes: what is no UTF-8 is kept as it is, so the file
is found all the same, and a file that is no text fails as the line that it has wrong.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from data_pipelines import DataError

_LARGEST = 2 << 30  # bytes; ages of all of MS1M are 0.4 GB


def opened(path: str | Path, what: str = "list", newline: str | None = None) -> TextIO:
    """Returns the text of a file, from its start.

    Raises:
      DataError: where there is none, or more of it than anybody writes.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such {what}")
    if path.stat().st_size > _LARGEST:
        raise DataError(f"{path}: {path.stat().st_size:,} bytes; no {what} has so many")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def lines(path: str | Path, what: str = "list") -> list[str]:
    """Returns the lines that are not blank."""
    with opened(path, what) as file:
        return [line.rstrip("\n") for line in file if line.strip()]


def table(
    path: str | Path, columns: Sequence[str]
) -> list[tuple[int, dict[str, str | None]]]:
    """Returns the rows of a CSV by column, each with the number of its line.

    Raises:
      DataError: for a missing file, a missing column, and what is no CSV.
    """
    with opened(path, "table", newline="") as file:
        rows = csv.DictReader(file)
        try:
            names = rows.fieldnames or ()
            for name in columns:
                if name not in names:
                    there = ", ".join(map(repr, names)) or "none"
                    raise DataError(
                        f"{path}: no column {name!r}; there are: {there:.200}"
                    )
            return [(rows.reader.line_num, row) for row in rows]
        except csv.Error as error:
            raise DataError(f"{path}: line {rows.reader.line_num}: {error}") from None
