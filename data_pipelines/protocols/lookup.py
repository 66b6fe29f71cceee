"""Files of the images that a list names, whatever their suffix on disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines import DataError
from data_pipelines.image_headers import SUFFIXES


class Found(NamedTuple):
    """Files of a list of names.

    Attributes:
      paths: the file of each name, None if it is missing.
      renamed: (name, file) of those with another suffix.
    """

    paths: list[Path | None]
    renamed: list[tuple[str, str]]


def find(root: Path, names: Sequence[str]) -> Found:
    """Returns the files of relative names below a folder.

    The name itself; else its form in aligned sets, 001/frontal_01 of 001/frontal/01;
    else the image with the same stem, of which upper and lower case are the last to be
    ignored.

    Raises:
      DataError: for two images that differ only in their suffix, neither of them the
        one that the list names.
    """
    folders: dict[str, dict[str, list[str]]] = {}
    paths: list[Path | None] = []
    renamed = []
    for name in names:
        folder, _, last = name.rpartition("/")
        forms = [name, f"{folder}_{last}" if folder else name]
        exact = [form for form in forms if os.path.isfile(root / form)]
        found = exact[0] if exact else _by_stem(root, forms, folders)
        paths.append(root / found if found else None)
        if found and not exact:
            renamed.append((name, found))
    return Found(paths, renamed)


def _by_stem(
    root: Path, forms: Sequence[str], folders: dict[str, dict[str, list[str]]]
) -> str:
    """Returns the image with the stem of one of `forms`; '' if there is none.

    Args:
      folders: cache of the images in each folder, by stem in lower case.
    """
    for form in forms:
        folder, _, last = form.rpartition("/")
        if folder not in folders:
            folders[folder] = _images(root / folder)
        # The whole name first: an aligner writes a.png as a.png.jpg beside a.jpg.
        for stem in (last, _stem(last)):
            images = folders[folder].get(stem.lower(), [])
            same_case = [image for image in images if _stem(image) == stem]
            images = same_case or images
            if len(images) > 1:
                raise DataError(
                    f"{root / form} is missing, and {images[0]} and {images[1]} could "
                    "both replace it: keep one of them"
                )
            if images:
                return f"{folder}/{images[0]}" if folder else images[0]
    return ""


def _images(folder: Path) -> dict[str, list[str]]:
    images: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):  # missing; a name that is too long, or has a NUL
        return {}
    for name in names:
        if name.lower().endswith(SUFFIXES) and os.path.isfile(folder / name):
            images.setdefault(_stem(name).lower(), []).append(name)
    return images


def _stem(name: str) -> str:
    """Returns a name without the suffix of an image."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name
