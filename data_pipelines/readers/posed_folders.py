"""Published sets with poses in their file names: CFP and Multi-PIE."""

import re
from collections.abc import Iterator
from pathlib import Path

from data_pipelines import DataError
from data_pipelines.listing import list_images
from data_pipelines.names import written
from data_pipelines.readers import Face
from data_pipelines.readers.image_folder import FaceFiles, ImageFolder

PROFILE = 90.0  # degrees; the sign is unknown: CFP does not label the side

# Yaw of Multi-PIE's cameras at head height, in steps of 15 degrees; the sign is a
# convention.
_FROM_SIDE_TO_SIDE = "110 120 090 080 130 140 051 050 041 190 200 010 240"
CAMERAS = dict(zip(_FROM_SIDE_TO_SIDE.split(), range(-90, 91, 15)))
_OVERHEAD = ("081", "191")
_SHOT = re.compile(r"(\d{3})_(\d\d)_(\d\d)_(\d{3})_(\d\d)")
# Of the recordings of each session (Gross et al. 2010).
_EXPRESSIONS = {
    1: ("neutral", "smile"),
    2: ("neutral", "surprise", "squint"),
    3: ("neutral", "smile", "disgust"),
    4: ("neutral", "neutral", "scream"),
}


class Cfp(ImageFolder):
    """CFP: <id>/{frontal,profile}_NN.jpg or <id>/{frontal,profile}/NN.jpg.

    Frontal images have a yaw of 0 degrees, profiles of 90 on either side.

    Raises:
      DataError: as `ImageFolder`; when iterated, for a name in neither form.
    """

    def __init__(self, root: str | Path):
        super().__init__(root, level=1)

    def __iter__(self) -> Iterator[Face | DataError]:
        for face in super().__iter__():
            if isinstance(face, DataError):
                yield face
                continue
            name = face.source.partition("/")[2]
            if not name.startswith(("frontal", "profile")):
                raise DataError(
                    f"{face.source}: CFP's names begin with 'frontal' or 'profile'"
                )
            yield face._replace(yaw=PROFILE if name.startswith("profile") else 0.0)


class MultiPie(FaceFiles):
    """Multi-PIE: ID_SESSION_RECORDING_CAMERA_LIGHT.png (or .jpg) in any folders.

    The yaw is that of the camera; images of the two overhead cameras and of other names
    are left out and counted.

    Raises:
      DataError: for a missing folder, one without such images, and an unknown camera.
    """

    def __init__(self, root: str | Path):
        faces = []
        names, skipped = list_images(root)
        for source in sorted(names, key=lambda source: Path(source).stem):
            match = _SHOT.fullmatch(Path(source).stem)
            if match is None:
                skipped["images not named as Multi-PIE's"] += 1
                continue
            if match[4] in _OVERHEAD:
                skipped["images of overhead cameras"] += 1
                continue
            identity, session, recording, camera, light = match.groups()
            if camera not in CAMERAS:
                path = f"{root}/{written(source)}"
                raise DataError(f"{path}: Multi-PIE has no camera {camera}")
            expressions = dict(enumerate(_EXPRESSIONS.get(int(session), ()), 1))
            face = Face(
                b"",
                identity=identity,
                source=source,
                yaw=float(CAMERAS[camera]),
                pitch=0.0,
                expression=expressions.get(int(recording), ""),
                light=int(light),
                session=int(session),
            )
            faces.append(face)
        if not faces:
            raise DataError(
                f"{root}: no images named as Multi-PIE's, 001_01_01_051_07.png"
            )
        super().__init__(root, faces, skipped)
