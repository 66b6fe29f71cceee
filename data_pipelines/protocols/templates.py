"""Tables of templates: sets of images of an identity, in galleries and probes.

The form of protocols such as IJB-A: one line for each image and split.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines import DataError
from data_pipelines import text_files as lists

PARTS = ("gallery", "probe")
_COLUMNS = ("split", "part", "template", "identity", "file")


class Split(NamedTuple):
    """Images [N] of gallery and probe templates.

    Attributes:
      image: numbers of the table's files.
      probe: bool, whether the template is one.
      template: number of the template.
      identities: name of the identity of each template.
    """

    image: np.ndarray
    probe: np.ndarray
    template: np.ndarray
    identities: list[str]


def load(path: str | Path) -> tuple[dict[str, Split], list[str]]:
    """Returns the splits of a CSV by name, and the files that they need, each once.

    Columns: `split`, `part` (gallery or probe), `template`, `identity`, `file`.

    Raises:
      DataError: for a table that is missing or has other columns, an empty cell or
        another part, a template of two identities or in both parts, and a split without
        gallery or probes; with the line where there is one.
    """
    files: dict[str, int] = {}
    found: dict[str, dict] = {}
    for line, row in lists.table(path, _COLUMNS):
        split, part, template, identity, file = (row[name] for name in _COLUMNS)
        where = f"{path}: line {line}"
        if not (split and template and identity and file):
            raise DataError(f"{where}: an empty cell")
        if part not in PARTS:
            raise DataError(f"{where}: part {part!r:.80} is not gallery or probe")
        image = files.setdefault(file, len(files))
        known = found.setdefault(split, {}).setdefault(template, (part, identity, []))
        if known[:2] != (part, identity):
            raise DataError(
                f"{where}: template {template!r:.80} is {known[1]!r:.80}'s {known[0]}"
            )
        known[2].append(image)
    if not found:
        raise DataError(f"{path}: names no image")
    return {name: _split(path, name, some) for name, some in found.items()}, [*files]


def _split(path: str | Path, name: str, templates: dict) -> Split:
    parts, identities, images = zip(*templates.values())
    for part in PARTS:
        if part not in parts:
            raise DataError(f"{path}: split {name!r:.80} has no {part} templates")
    template = np.repeat(np.arange(len(parts)), [len(some) for some in images])
    return Split(
        np.concatenate(images).astype(int),
        (np.array(parts) == "probe")[template],
        template,
        list(identities),
    )
