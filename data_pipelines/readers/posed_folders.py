"""Published sets with poses in their file names: CFP, Multi-PIE, KDEF, CMU Faces."""

import re
from collections.abc import Callable, Iterator
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

# Lundqvist, Flykt, Ohman 1998: session, sex and number, expression, angle.
_KDEF = re.compile(r"([AB])([FM]\d\d)(AF|AN|DI|HA|NE|SA|SU)(FL|HL|S|HR|FR)")
_KDEF_EXPRESSIONS = {
    "AF": "afraid",
    "AN": "angry",
    "DI": "disgusted",
    "HA": "happy",
    "NE": "neutral",
    "SA": "sad",
    "SU": "surprised",
}
_KDEF_YAWS = {"FL": -90.0, "HL": -45.0, "S": 0.0, "HR": 45.0, "FR": 90.0}

_CMU = re.compile(
    r"([^_]+)_(left|right|straight|up)_(neutral|happy|sad|angry)_(open|sunglasses)"
    r"(_[24])?"
)
# (yaw, pitch) in degrees. The set has directions without angles: these are nominal.
CMU_POSES = {
    "left": (-45.0, 0.0),
    "right": (45.0, 0.0),
    "straight": (0.0, 0.0),
    "up": (0.0, 30.0),
}
_SHOWN = 5  # names in a note


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


class _NamedFaces(FaceFiles):
    """Images in any folders whose labels are in their file names.

    Images of other names are left out and counted; `note` lists the first ones.

    Args:
      parse: path below the folder -> a record; or why an image is left out, '' for a
        name of another form.
      name: of the set, with an `example` of its file names.

    Raises:
      DataError: for a missing folder, and one without such images.
    """

    def __init__(
        self,
        root: str | Path,
        parse: Callable[[str], Face | str],
        name: str,
        example: str,
    ):
        names, skipped = list_images(root)
        faces, others = [], []
        for source in sorted(names, key=lambda source: Path(source).name):
            face = parse(source)
            if isinstance(face, Face):
                faces.append(face)
                continue
            skipped[face or f"images not named as those of {name}"] += 1
            others += [] if face else [written(source)]
        if not faces:
            raise DataError(f"{root}: no images named as those of {name}, {example}")
        super().__init__(root, faces, skipped)
        if others:
            more = ", ..." if len(others) > _SHOWN else ""
            listed = ", ".join(others[:_SHOWN]) + more
            self.note = f"left out, not named as those of {name}: {listed}"


class Kdef(_NamedFaces):
    """KDEF: AF01NEHL.JPG in any folders: session, sex and number, expression, angle.

    An identity is sex and number, 'F01'; the sessions A and B are 0 and 1. The yaw is
    that of the angle; the sign, negative for left, is a convention.

    Args:
      faithful_ids: the session is part of the identity, 'AF01', as in the program of
        FRA's authors, to which a person of two sessions is two identities.
    """

    def __init__(self, root: str | Path, *, faithful_ids: bool = False):
        def parse(source: str) -> Face | str:
            match = _KDEF.fullmatch(Path(source).stem.upper())
            if match is None:
                return ""
            session, identity, expression, angle = match.groups()
            return Face(
                b"",
                identity=session + identity if faithful_ids else identity,
                source=source,
                yaw=_KDEF_YAWS[angle],
                pitch=0.0,
                expression=_KDEF_EXPRESSIONS[expression],
                session="AB".index(session),
            )

        super().__init__(root, parse, "KDEF", "AF01NES.JPG")


class CmuFaces(_NamedFaces):
    """CMU Face Images (UCI): PERSON_POSE_EXPRESSION_EYES.pgm in any folders.

    The poses left, right, straight and up have nominal angles, `CMU_POSES`. Images with
    open eyes are session 0, those with sunglasses session 1. Images that the set marks
    as damaged (.bad) and its smaller copies (_2, _4) are left out and counted.
    """

    def __init__(self, root: str | Path):
        def parse(source: str) -> Face | str:
            if source.endswith(".bad"):
                return "images marked .bad"
            match = _CMU.fullmatch(Path(source).stem)
            if match is None:
                return ""
            identity, pose, expression, eyes, smaller = match.groups()
            if smaller:
                return "smaller copies"
            yaw, pitch = CMU_POSES[pose]
            return Face(
                b"",
                identity=written(identity),
                source=source,
                yaw=yaw,
                pitch=pitch,
                expression=expression,
                session=int(eyes == "sunglasses"),
            )

        super().__init__(root, parse, "CMU Face Images", "an2i_left_angry_open.pgm")
