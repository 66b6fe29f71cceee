"""Published sets whose file names tell the pose: CFP and Multi-PIE."""

import re
from collections.abc import Iterator
from pathlib import Path

from data_pipelines import DataError
from data_pipelines.readers import Face
from data_pipelines.readers.image_folder import FaceFiles, ImageFolder, image_paths

PROFILE = 90.0  # degrees; CFP's profiles face either side, without a label

# Multi-PIE's cameras at the height of the head -> yaw in degrees, every 15 of them;
# which side is positive is a convention.
_FROM_SIDE_TO_SIDE = "110 120 090 080 130 140 051 050 041 190 200 010 240"
CAMERAS = dict(zip(_FROM_SIDE_TO_SIDE.split(), range(-90, 91, 15)))
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


class MultiPie(FaceFiles):
    """Multi-PIE: any folders of ID_SESSION_RECORDING_CAMERA_LIGHT.png (or .jpg).

    Yaw is the camera's; the two cameras overhead are left out.

    Raises:
      DataError: where the folder is missing or holds no such image, and for a camera
        that Multi-PIE does not have.
    """

    def __init__(self, root: str | Path):
        found = []
        for source in image_paths(root):
            match = _SHOT.fullmatch(Path(source).stem)
            if match is None or match[4] in _OVERHEAD:
                continue
            if match[4] not in CAMERAS:
                path = Path(root) / source
                raise DataError(f"{path}: Multi-PIE has no camera {match[4]}")
            found.append((match.groups(), source))
        if not found:
            raise DataError(
                f"{root}: no images named as Multi-PIE's, 001_01_01_051_07.png"
            )
        self.identities = sorted({parts[0] for parts, _ in found})
        label = {name: number for number, name in enumerate(self.identities)}
        faces: list[Face] = []
        for parts, source in sorted(found, key=lambda shot: shot[0]):
            identity, session, recording, camera, light = parts
            shown = _EXPRESSIONS.get(int(session), ())
            number = int(recording) - 1
            faces.append(
                Face(
                    b"",
                    label[identity],
                    identity,
                    source,
                    yaw=float(CAMERAS[camera]),
                    pitch=0.0,
                    expression=shown[number] if number < len(shown) else "",
                    light=int(light),
                    session=int(session),
                )
            )
        super().__init__(Path(root), faces)
