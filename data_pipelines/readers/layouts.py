"""The readers of folders and files of faces, by layout."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines import DataError
from data_pipelines.names import written
from data_pipelines.readers import Face, recordio, verification_bin
from data_pipelines.readers.image_folder import FlatFolder, ImageFolder
from data_pipelines.readers.labelled_folder import FILE, LabelledFolder
from data_pipelines.readers.posed_folders import Cfp, CmuFaces, Kdef, MultiPie


def _recognised(source: Path) -> Any:
    if source.suffix == ".rec" or (source / "train.rec").is_file():
        return recordio.RecordIO(source)
    if source.suffix == ".bin":
        images = enumerate(verification_bin.read(source).images)
        name = written(source.name)
        return [Face(image, source=f"{name}:{n}") for n, image in images]
    if (source / FILE).is_file():
        return LabelledFolder(source)
    return ImageFolder(source)


LAYOUTS: dict[str, Callable[[Path], Any]] = {
    "auto": _recognised,
    "folders": ImageFolder,
    "labels": LabelledFolder,
    "cfp": Cfp,
    "multipie": MultiPie,
    "kdef": Kdef,
    "kdef_published": functools.partial(Kdef, faithful_ids=True),
    "cmu": CmuFaces,
}


def open_source(
    source: Path, layout: str = "auto", *, flat: bool = False, level: int | None = None
) -> Any:
    """Returns the reader of a source.

    It has a length and yields `Face` records, and a DataError for an unusable one.

    Args:
      layout: a key of `LAYOUTS`.
      flat: ignore folder names: no identities and labels.
      level: the folder that names the identity; see `listing.identities`.

    Raises:
      DataError: for `flat` with a layout, and the errors of the readers.
    """
    if level is not None:
        if flat or layout not in ("auto", "folders"):
            raise DataError("--identity-level is for folders of identities only")
        return ImageFolder(source, level)
    if not flat:
        return LAYOUTS[layout](source)
    if layout != "auto":
        raise DataError("--flat ignores identities: it has no --layout")
    return FlatFolder(source)
