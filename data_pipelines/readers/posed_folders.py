"""Published sets whose file names tell the pose: CFP and Multi-PIE."""

import re
from collections.abc import Iterator
from pathlib import Path

from data_pipelines import DataError
from data_pipelines.images import list_images, read_file
from data_pipelines.readers import Face
from data_pipelines.readers.image_folder import ImageFolder

PROFILE = 90.0  # degrees; CFP's profiles face either side, and nobody noted which

# Multi-PIE's cameras at the height of the head -> yaw in degrees; which side is
# positive is a convention.
CAMERAS = {
    "110": -90,
    "120": -75,
    "090": -60,
    "080": -45,
    "130": -30,
    "140": -15,
    "051": 0,
    "050": 15,
    "041": 30,
    "190": 45,
    "200": 60,
    "010": 75,
    "240": 90,
}
_OVERHEAD = ("081", "191")
_SHOT = re.compile(r"(\d{3})_(\d\d)_(\d\d)_(\d{3})_(\d\d)")
# By session and recording (Gross et al. 2010).
_EXPRESSIONS = {
    1: ("neutral", "smile"),
    2: ("neutral", "surprise", "squint"),
    3: ("neutral", "smile", "disgust"),
    4: ("neutral", "neutral", "scream"),
}


class Cfp(ImageFolder):
    """CFP: <id>/frontal_NN.jpg, <id>/profile_NN.jpg, or <id>/frontal/NN.jpg likewise.

    Frontal images have a yaw of 0, profiles of 90 degrees, to whichever side.

    Raises:
      DataError: as `ImageFolder`, and where names tell neither of the two.
    """

    def __iter__(self) -> Iterator[Face]:
        for face in super().__iter__():
            inside = face.source.partition("/")[2]
            kinds = [kind for kind in ("frontal", "profile") if inside.startswith(kind)]
            if not kinds:
                raise DataError(
                    f"{face.source}: CFP's names begin with 'frontal' or 'profile'"
                )
            yield face._replace(yaw=PROFILE if kinds[0] == "profile" else 0.0)


class MultiPie:
    """Multi-PIE: any folders of ID_SESSION_RECORDING_CAMERA_LIGHT.png (or .jpg).

    Yaw is the camera's; the two cameras overhead are left out.

    Raises:
      DataError: where the folder is missing or holds no such image, and for a camera
        that Multi-PIE does not have.
    """

    def __init__(self, root: str | Path):
        self._root = Path(root)
        if not self._root.is_dir():
            raise DataError(f"{root}: no such folder")
        found = []
        for path in list_images(self._root):
            if match := _SHOT.fullmatch(path.stem):
                camera = match[4]
                if camera in _OVERHEAD:
                    continue
                if camera not in CAMERAS:
                    raise DataError(f"{path}: Multi-PIE has no camera {camera}")
                found.append((match.groups(), path))
        if not found:
            raise DataError(
                f"{root}: no images named as Multi-PIE's, 001_01_01_051_07.png"
            )
        self._images = sorted(found)
        self.identities = sorted({parts[0] for parts, _ in found})

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Face]:
        label = {name: number for number, name in enumerate(self.identities)}
        for (identity, session, recording, camera, light), path in self._images:
            shown = _EXPRESSIONS.get(int(session), ())
            number = int(recording) - 1
            yield Face(
                read_file(path),
                label[identity],
                identity,
                path.relative_to(self._root).as_posix(),
                yaw=float(CAMERAS[camera]),
                pitch=0.0,
                expression=shown[number] if number < len(shown) else "",
                light=int(light),
                session=int(session),
            )
