"""Folders of aligned faces: <root>/<identity>/<image>.jpg."""

from collections.abc import Iterator
from pathlib import Path

from data_pipelines import DataError
from data_pipelines.images import list_images, read_file
from data_pipelines.readers import Face


class ImageFolder:
    """A folder of identities, in sorted order; a label is a place in that order.

    Images may lie deeper than the identity's folder. `identities` are the names.

    Raises:
      DataError: where the folder is missing, or holds no identity with an image.
    """

    def __init__(self, root: str | Path):
        self._root = Path(root)
        if not self._root.is_dir():
            raise DataError(f"{root}: no such folder")
        by_identity: dict[str, list[Path]] = {}
        for path in list_images(self._root):
            parts = path.relative_to(self._root).parts
            if len(parts) > 1:
                by_identity.setdefault(parts[0], []).append(path)
        if not by_identity:
            raise DataError(
                f"{root}: no images found as <identity>/<image>.jpg; put each person's "
                "images into a folder of their own"
            )
        self._paths = by_identity
        self.identities = sorted(by_identity)

    def __len__(self) -> int:
        return sum(map(len, self._paths.values()))

    def __iter__(self) -> Iterator[Face]:
        for label, identity in enumerate(self.identities):
            for path in self._paths[identity]:
                source = path.relative_to(self._root).as_posix()
                yield Face(read_file(path), label, identity, source)


class FlatFolder:
    """The images of a folder, whoever they show, in sorted order and unlabelled.

    Raises DataError where the folder is missing or holds no image.
    """

    def __init__(self, root: str | Path):
        self._root = Path(root)
        if not self._root.is_dir():
            raise DataError(f"{root}: no such folder")
        self._paths = list(list_images(self._root))
        if not self._paths:
            raise DataError(f"{root}: no .jpg, .jpeg or .png found below it")

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Face]:
        for path in self._paths:
            source = path.relative_to(self._root).as_posix()
            yield Face(read_file(path), source=source)
