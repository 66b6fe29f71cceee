"""Lists and tables from users: text lines, and CSV with a header.

They contain file names, which are bytes: invalid UTF-8 is preserved, so such files are
found, and in a binary file the first invalid line is an error.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from data_pipelines import DataError

_LARGEST = 2 << 30  # bytes; the ages of MS1M take 0.4 GB


def opened(path: str | Path, what: str = "list", newline: str | None = None) -> TextIO:
    """Returns an open text file.

    Raises:
      DataError: for a missing file, and one above 2 GiB.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such {what}")
    if path.stat().st_size > _LARGEST:
        size = path.stat().st_size
        raise DataError(f"{path}: {size:,} bytes; no {what} is that large")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def lines(path: str | Path, what: str = "list") -> list[str]:
    """Returns the lines of a file, except blank ones."""
    with opened(path, what) as file:
        return [line.rstrip("\n") for line in file if line.strip()]


def table(
    path: str | Path, columns: Sequence[str]
) -> list[tuple[int, dict[str, str | None]]]:
    """Returns the rows of a CSV by column, each with its line number.

    Raises:
      DataError: for a missing file, a missing column, and invalid CSV.
    """
    with opened(path, "table", newline="") as file:
        rows = csv.DictReader(file)
        try:
            names = rows.fieldnames or ()
            for name in columns:
                if name not in names:
                    present = ", ".join(map(repr, names)) or "none"
                    raise DataError(
                        f"{path}: no column {name!r}; columns: {present:.200}"
                    )
            return [(rows.reader.line_num, row) for row in rows]
        except csv.Error as error:
            raise DataError(f"{path}: line {rows.reader.line_num}: {error}") from None
