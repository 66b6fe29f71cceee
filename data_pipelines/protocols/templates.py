"""Tables of templates, sets of images of one identity, in galleries and probes.

The form of protocols such as IJB-A: one line per image and split.
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
      image: int, number of the file.
      probe: bool, True for an image of a probe template.
      template: int, number of the template.
      identities: name of the identity of each template.
    """

    image: np.ndarray
    probe: np.ndarray
    template: np.ndarray
    identities: list[str]


def load(path: str | Path) -> tuple[dict[str, Split], list[str]]:
    """Returns the splits of a CSV by name, and the list of their files, each once.

    Columns: `split`, `part` (gallery or probe), `template`, `identity`, `file`.

    Raises:
      DataError: for a missing table or column, a split without gallery or probe
        templates, and, with the line, an empty cell, an unknown part, and a template of
        two identities or in both parts.
    """
    files: dict[str, int] = {}
    splits: dict[str, dict] = {}
    for line, row in lists.table(path, _COLUMNS):
        split, part, template, identity, file = (row[name] for name in _COLUMNS)
        where = f"{path}: line {line}"
        if not (split and template and identity and file):
            raise DataError(f"{where}: an empty cell")
        if part not in PARTS:
            raise DataError(f"{where}: part {part!r:.80} is not gallery or probe")
        image = files.setdefault(file, len(files))
        new = part, identity, []
        first = splits.setdefault(split, {}).setdefault(template, new)
        if first[:2] != (part, identity):
            raise DataError(
                f"{where}: template {template!r:.80} is {first[1]!r:.80}'s {first[0]}"
            )
        first[2].append(image)
    if not splits:
        raise DataError(f"{path}: names no image")
    return {name: _split(path, name, own) for name, own in splits.items()}, [*files]


def _split(path: str | Path, name: str, templates: dict) -> Split:
    parts, identities, images = zip(*templates.values())
    for part in PARTS:
        if part not in parts:
            raise DataError(f"{path}: split {name!r:.80} has no {part} templates")
    template = np.repeat(np.arange(len(parts)), [len(files) for files in images])
    return Split(
        np.concatenate(images).astype(int),
        (np.array(parts) == "probe")[template],
        template,
        list(identities),
    )
