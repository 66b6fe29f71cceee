"""Folders of aligned faces: <root>/<identity>/<image>.jpg."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines import DataError
from data_pipelines.images import list_images, read_file
from data_pipelines.readers import Face


class FaceFiles:
    """Faces in files below a folder, in order of label; each is read when yielded.

    Args:
      faces: records without image and label; `source` is the path below `root`.

    Attributes:
      identities: sorted names; a label is an index into them.
    """

    def __init__(self, root: str | Path, faces: Iterable[Face]):
        self._root, faces = Path(root), list(faces)
        self.identities = sorted({face.identity for face in faces} - {""})
        label = {name: number for number, name in enumerate(self.identities)}
        labelled = [face._replace(label=label.get(face.identity, -1)) for face in faces]
        self._faces = sorted(labelled, key=lambda face: face.label)

    def __len__(self) -> int:
        return len(self._faces)

    def __iter__(self) -> Iterator[Face]:
        for face in self._faces:
            yield face._replace(image=read_file(self._root / face.source))


class ImageFolder(FaceFiles):
    """A folder of identities; images may be in subfolders of an identity's folder.

    Raises:
      DataError: for a missing folder, and one without <identity>/<image>.
    """

    def __init__(self, root: str | Path):
        sources = [source for source in image_paths(root) if "/" in source]
        if not sources:
            raise DataError(
                f"{root}: no images found as <identity>/<image>.jpg; put the images "
                "of each identity into a subfolder, or convert unlabelled images with "
                "--flat"
            )
        faces = (Face(b"", identity=s.split("/")[0], source=s) for s in sources)
        super().__init__(root, faces)


class FlatFolder(FaceFiles):
    """The images of a folder in sorted order, without identities and labels.

    Raises:
      DataError: for a missing folder, and one without images.
    """

    def __init__(self, root: str | Path):
        super().__init__(root, (Face(b"", source=s) for s in image_paths(root)))
        if not len(self):
            raise DataError(f"{root}: no .jpg, .jpeg or .png below it")


def image_paths(root: str | Path) -> list[str]:
    """Returns the paths of the images below a folder; DataError if it is missing."""
    return [path.relative_to(root).as_posix() for path in list_images(Path(root))]
