"""Folders of aligned faces: <root>/<identity>/<image>."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_pipelines import DataError
from data_pipelines import listing as listings
from data_pipelines.images import read_file
from data_pipelines.names import written
from data_pipelines.readers import Face, landmark_files


class FaceFiles:
    """Faces in files below a folder, in order of label; each is read when yielded.

    A file of landmarks beside an image, NAME.pts, .npy or .npz for NAME.jpg, gives its
    68 points; see `landmark_files`.

    Args:
      faces: records without image and label; `source` is the path below `root`, not as
        text.
      skipped: number of the files that are left out, by kind.

    Attributes:
      identities: sorted names; a label is an index into them.
      note: a doubt about the form of the folder, or ''.
    """

    note = ""

    def __init__(
        self, root: str | Path, faces: Iterable[Face], skipped: Mapping[str, int]
    ):
        self._root, faces = Path(root), list(faces)
        self.skipped = Counter(skipped)
        self.identities = sorted({face.identity for face in faces} - {""})
        label = {name: number for number, name in enumerate(self.identities)}
        labelled = [face._replace(label=label.get(face.identity, -1)) for face in faces]
        self._faces = sorted(labelled, key=lambda face: face.label)
        self._points = self._beside()
        self.skipped -= Counter(Path(name).suffix for name in {*self._points.values()})

    def _beside(self) -> dict[str, str]:
        """Returns the file of landmarks of each image that has one, by its path."""
        suffixes = [one for one in landmark_files.SUFFIXES if self.skipped[one]]
        files: dict[str, str] = {}
        for face in self._faces if suffixes else ():
            path = landmark_files.beside(self._root / face.source, suffixes)
            if path and not len(face.landmarks68):
                files[face.source] = path
        return files

    def __len__(self) -> int:
        return len(self._faces)

    def __iter__(self) -> Iterator[Face | DataError]:
        """Yields faces, and an error for a file that cannot be read."""
        for face in self._faces:
            source = written(face.source)
            try:
                image = read_file(self._root / face.source)
            except DataError as error:
                yield DataError(f"{source}: {error}")
                continue
            if points := self._points.get(face.source):
                try:
                    landmarks68 = landmark_files.read(points)
                except DataError as error:
                    yield error
                    continue
                face = face._replace(landmarks68=landmarks68)
            yield face._replace(image=image, source=source)


class ImageFolder(FaceFiles):
    """A folder of identities; images may be in subfolders of an identity's folder.

    Args:
      level: the folder that names the identity; see `listing.identities`.

    Raises:
      DataError: for a missing folder, one without <identity>/<image>, and, unless
        `level` is given, a single identity with subfolders of images.
    """

    def __init__(self, root: str | Path, level: int | None = None):
        names, skipped = listings.list_images(root)
        owners, self.note, suspect = listings.identities(names, level)
        if suspect:
            raise DataError(
                f"{root}: a single identity: {self.note}; if it is one, "
                "--identity-level 1"
            )
        if outside := owners.count(""):
            skipped["images outside the folders of identities"] += outside
        if outside == len(names):
            found = f"{len(names):,} images, but none" if names else "no images found"
            raise DataError(
                f"{root}: {found} as {'<folder>/' * (abs(level or 1) - 1)}<identity>/"
                "<image>; put the images of each identity into a subfolder, give the "
                "folder above it, or convert unlabelled images with --flat"
            )
        faces = (
            Face(b"", identity=owner, source=name)
            for owner, name in zip(owners, names)
            if owner
        )
        super().__init__(root, faces, skipped)


class FlatFolder(FaceFiles):
    """The images of a folder in sorted order, without identities and labels.

    Raises:
      DataError: for a missing folder, and one without images.
    """

    def __init__(self, root: str | Path):
        names, skipped = listings.list_images(root)
        super().__init__(root, (Face(b"", source=name) for name in names), skipped)
        if not names:
            raise DataError(no_images(root, skipped))


def no_images(root: str | os.PathLike, skipped: Mapping[str, int]) -> str:
    """Returns the message for a folder without images."""
    left_out = listings.summary(skipped)
    return f"{root}: no image below it" + (left_out and f" ({left_out})")
