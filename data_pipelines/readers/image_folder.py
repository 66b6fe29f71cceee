"""Folders of aligned faces: <root>/<identity>/<image>.jpg."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines import DataError
from data_pipelines.images import list_images, read_file
from data_pipelines.readers import Face


class FaceFiles:
    """Faces in files below a folder, each of which is read when its turn comes.

    Args:
      faces: what is known of each, without its image; `source` is its path in `root`.
    """

    def __init__(self, root: Path, faces: Sequence[Face]):
        self._root, self._faces = root, faces

    def __len__(self) -> int:
        return len(self._faces)

    def __iter__(self) -> Iterator[Face]:
        for face in self._faces:
            yield face._replace(image=read_file(self._root / face.source))


class ImageFolder(FaceFiles):
    """A folder of identities, in sorted order; a label is a place in that order.

    Images may lie deeper than the identity's folder. `identities` are the names.

    Raises:
      DataError: where the folder is missing, or holds no identity with an image.
    """

    def __init__(self, root: str | Path):
        by_identity: dict[str, list[str]] = {}
        for source in image_paths(root):
            identity, *inside = source.split("/", 1)
            if inside:
                by_identity.setdefault(identity, []).append(source)
        if not by_identity:
            raise DataError(
                f"{root}: no images found as <identity>/<image>.jpg; put the images "
                "of each identity into one folder"
            )
        self.identities = sorted(by_identity)
        faces = [
            Face(b"", label, identity, source)
            for label, identity in enumerate(self.identities)
            for source in by_identity[identity]
        ]
        super().__init__(Path(root), faces)


class FlatFolder(FaceFiles):
    """The images of a folder, whoever they show, in sorted order and unlabelled.

    Raises DataError where the folder is missing or holds no image.
    """

    def __init__(self, root: str | Path):
        faces = [Face(b"", source=source) for source in image_paths(root)]
        if not faces:
            raise DataError(f"{root}: no .jpg, .jpeg or .png found below it")
        super().__init__(Path(root), faces)


def image_paths(root: str | Path) -> list[str]:
    """Returns the paths in a folder of its images; DataError where it is missing."""
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{root}: no such folder")
    return [path.relative_to(folder).as_posix() for path in list_images(folder)]
