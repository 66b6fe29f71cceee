"""The images below a folder: one lister for all commands, which leaves out nothing
without counting it.

Images are told by their content, files that only their suffix makes an image are listed
too (they fail when they are read, and are counted there). Links are followed, each
folder is listed once, and hidden files and folders are left out.
"""

import heapq
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipelines import DataError
from data_pipelines.image_headers import HEAD, SUFFIXES, foreign, recognise
from data_pipelines.names import written

_SHOWN = 8  # kinds in a summary


class Listing(NamedTuple):
    """The images below a folder.

    Attributes:
      names: sorted paths below the folder, with `/`; not as text, see `names.py`.
      skipped: number of the other entries, by kind.
    """

    names: list[str]
    skipped: Counter[str]


def list_images(root: str | os.PathLike) -> Listing:
    """Returns the images below a folder, in subfolders of any depth.

    Raises:
      DataError: for a missing or unreadable folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    names: list[str] = []
    skipped: Counter[str] = Counter()
    # Links come after all folders, so that of a folder and a link to it the former is
    # listed. Following both could take exponential time, or forever.
    folders, links, seen = [""], [], set()
    while folders or links:
        folder = folders.pop() if folders else heapq.heappop(links)
        try:
            about = os.stat(root / folder)
            with os.scandir(root / folder) as found:
                entries = list(found)
        except OSError as error:
            if not folder:
                raise DataError(f"{root}: unreadable: {error.strerror}") from None
            skipped["unreadable folder"] += 1
            continue
        if (about.st_dev, about.st_ino) in seen:
            skipped["link to a listed folder"] += 1
            continue
        seen.add((about.st_dev, about.st_ino))
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif _is_folder(entry):
                heapq.heappush(links, name)
            elif reason := _no_image(entry):
                skipped[reason] += 1
            else:
                names.append(name)
    return Listing(sorted(names, key=lambda name: name.split("/")), skipped)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _no_image(entry: os.DirEntry) -> str:
    """Returns the kind of an entry that is no image; '' for an image.

    A file with the suffix of an image is one, unread.
    """
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        if not stat.S_ISREG(entry.stat().st_mode):
            return "pipe, socket or device"
        if suffix in SUFFIXES:
            return ""
        with open(entry.path, "rb", buffering=0) as file:
            head = file.read(HEAD)
    except OSError:
        if suffix in SUFFIXES:
            return ""
        return "dangling link" if entry.is_symlink() else "unreadable file"
    if recognise(head):
        return ""
    return foreign(head) or written(suffix) or "no suffix"


def summary(skipped: Mapping[str, int]) -> str:
    """Returns such as 'left out: 5 .txt, 1 hidden'; '' if nothing was."""
    counts = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {kind}" for kind, count in counts[:_SHOWN]]
    if rest := sum(count for _, count in counts[_SHOWN:]):
        parts.append(f"{rest:,} of other kinds")
    return f"left out: {', '.join(parts)}" if parts else ""


class Identities(NamedTuple):
    """The identities of images, by the folders that they are in.

    Attributes:
      names: the identity of each image as text, '' for images above that level.
      note: a doubt about the level, or ''.
      suspect: True if all images are of one identity with subfolders of images.
    """

    names: list[str]
    note: str = ""
    suspect: bool = False


def identities(names: Iterable[str], level: int | None = None) -> Identities:
    """Returns the identities of images.

    Args:
      names: paths below a folder.
      level: the folder that names the identity: 1 is the first below the listed folder,
        2 the second, -1 the one with the image. None is 1, with a note if the images
        lie deeper.
    """
    paths = [name.split("/")[:-1] for name in names]
    at = (level or 1) - ((level or 1) > 0)
    place = slice(at, at + 1 or None)
    chosen = [written("".join(path[place])) for path in paths]
    if level is not None:
        return Identities(chosen)
    # Deeper levels are candidates if half of the images are below them.
    depth = sorted(map(len, paths))[len(paths) // 2] if paths else 0
    counts = [
        len({tuple(path[:n]) for path in paths if len(path) >= n})
        for n in range(1, depth + 1)
    ]
    better = next((n for n, count in enumerate(counts, 1) if count > counts[0]), 0)
    if not better:
        return Identities(chosen)
    text = (
        f"{counts[0]:,} {'folder holds' if counts[0] == 1 else 'folders hold'} images "
        f"in {counts[better - 1]:,} subfolders: if those are the identities, give "
        f"--identity-level {better}"
    )
    return Identities(chosen, text, suspect=counts[0] == 1)
