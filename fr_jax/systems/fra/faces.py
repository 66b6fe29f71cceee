"""Labelled faces with 68 landmarks, of which FRA makes tuples: records, rendered."""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from fr_jax.errors import UserError, check_names, check_range
from fr_jax.faces import landmark_maps, sets
from fr_jax.faces.renderer.codes import EXPRESSIONS
from fr_jax.provenance import RENDERED
from fr_jax.systems.fra import photographs, stored
from fr_jax.systems.fra.tuples import Images
from fr_jax.training import sources
from fr_jax.training.data import Context

Array = np.ndarray
RENDERED_STEP = 45.0  # degrees that make one pose of rendered faces
EXACT = "rendered faces have exact landmarks; leave it out"
_CHUNK = 256  # images for which maps are drawn at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """Faces with all labels that FRA needs; the columns are int [N] unless stated.

    Attributes:
      name, licence: of the data set.
      size: side of the images in pixels.
      identities, expressions, poses: names of the numbers in the columns.
      label: the person.
      expression, pose: numbers of the names.
      session: -1 where unknown.
      landmarks68: float32 [N, 68, 2], pixels of the image.
      images: numbers -> uint8 RGB [n, S, S, 3].
      number: of each image, the argument of `images`.
      digest: uint64 [N] of the pixels, or None; see `data_pipelines.digests`.
    """

    name: str
    licence: str
    size: int
    identities: list[str]
    expressions: list[str]
    poses: list[str]
    label: Array
    expression: Array
    pose: Array
    session: Array
    landmarks68: Array
    images: Callable[[Array], Array]
    number: Array
    digest: Array | None = None

    def __len__(self) -> int:
        return len(self.label)

    def columns(self) -> Images:
        """Returns the columns from which tuples are made."""
        return Images(self.label, self.expression, self.pose)

    def subset(self, rows: Array) -> "Faces":
        """Returns some of the images; identities are numbered anew."""
        used, label = np.unique(self.label[rows], return_inverse=True)
        names = ("expression", "pose", "session", "landmarks68", "number")
        return dataclasses.replace(
            self,
            identities=[self.identities[person] for person in used],
            label=label.astype(np.int32),
            digest=None if self.digest is None else self.digest[rows],
            **{name: getattr(self, name)[rows] for name in names},
        )

    def pixels(self) -> "Pixels":
        """Returns the images as an object with a length and slices."""
        return Pixels(self)

    def maps(self, *, frame: str, faithful: bool) -> Array:
        """Returns landmark pictures uint8 [N, 112, 112, 1] of 0 and 1.

        Args:
          frame: 'aligned': the faces are aligned, so the landmarks are moved to a frame
            with room for the chin; 'loose': they are taken as they are.
          faithful: with the shift of the authors' program.
        """
        check_names("config.data.landmark_frame", [frame], ("aligned", "loose"))
        draw = landmark_maps.landmark_maps
        if faithful:
            draw = landmark_maps.faithful_landmarks
        points = self.landmarks68
        if frame == "aligned":
            points = landmark_maps.loosened(points, self.size)
        side = landmark_maps.SIZE
        maps = np.empty((len(points), side, side, 1), np.uint8)
        for start in range(0, len(points), _CHUNK):
            part = points[start : start + _CHUNK]
            padded = np.pad(part, ((0, _CHUNK - len(part)), (0, 0), (0, 0)), "edge")
            drawn = draw(jnp.asarray(padded, jnp.float32), self.size)
            maps[start : start + _CHUNK] = np.asarray(drawn)[: len(part)]
        return maps


class Pixels:
    """The images of faces, decoded when a slice is taken."""

    def __init__(self, faces: Faces):
        self._faces = faces
        self.digest = faces.digest

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, rows: slice) -> Array:
        return self._faces.images(self._faces.number[rows])


def rendered(
    context: Context, num_identities: int, *, first: int = 0, size: int
) -> Faces:
    """Returns rendered identities of `sets.kdef`, with exact landmarks.

    Args:
      first: number of the first identity.
    """
    check_range("config.data.rendered.size", size, 16)
    unseen = first >= sets.FIRST_UNSEEN
    columns = sets.arrays(
        sets.kdef(),
        seed=context.seed,
        num_identities=num_identities,
        first=first,
        size=size,
        labels=True,
        progress=f"rendering {'unseen ' * unseen}faces" * context.show_progress,
    )
    poses, pose = _poses(columns["yaw"], columns["pitch"], RENDERED_STEP)
    numbers = range(first, first + num_identities)
    return Faces(
        RENDERED,
        "none needed",
        size,
        [sets.identity_name(context.seed, number) for number in numbers],
        list(EXPRESSIONS),
        poses,
        columns["label"],
        columns["expression"].astype(np.int32),
        pose,
        columns["session"].astype(np.int32),
        columns["landmarks68"].astype(np.float32),
        lambda numbers: columns["image"][numbers],
        np.arange(len(pose)),
    )


def of_records(
    path: str,
    context: Context,
    *,
    identities: str = "",
    pose_step: float = 15.0,
    faithful_ids: bool = False,
) -> tuple[Faces, dict[str, int]]:
    """Returns the faces of records, and the number of dropped images.

    Landmarks of images whose records have none are computed by the regressor given as
    'landmarks', if there is one, and stored in WORKDIR/landmarks.npz. Dropped are, by
    reason, images without a label, a yaw, an expression or landmarks.

    Args:
      identities, pose_step, faithful_ids: see `config.data.records`.

    Raises:
      UserError: if no image is left, with the remedy; DataError for invalid records.
    """
    check_range("config.data.records.pose_step", pose_step, 0.1, 90)
    records = sources.open_records(path, identities=identities)
    count = len(records)
    rows = list(records.faces(np.arange(count)))
    landmarks = np.full((count, 68, 2), np.nan, np.float32)
    for number, face in enumerate(rows):
        if len(face.landmarks68) == 68:
            landmarks[number] = face.landmarks68
    missing = np.flatnonzero(np.isnan(landmarks).any((1, 2)))
    regressor = context.pretrained.get("landmarks")
    if regressor and len(missing):
        images = records.subset(missing)
        progress = "landmarks" * context.show_progress
        compute = functools.partial(
            photographs.points, regressor, images, progress=progress
        )
        folder = context.workdir
        landmarks[missing] = stored.once(
            "landmarks", regressor, [images], folder, context, compute
        )
    yaw, pitch = (np.array([getattr(f, n) for f in rows]) for n in ("yaw", "pitch"))
    expression = np.array([face.expression for face in rows])
    session, label = records.session, records.label
    lacking = {
        "without an identity": label < 0,
        "without a yaw": ~np.isfinite(yaw),
        "without an expression": expression == "",
        "without 68 landmarks": ~np.isfinite(landmarks).all((1, 2)),
    }
    kept, dropped = np.full(count, True), {}
    for reason, mask in lacking.items():
        if number := int(np.sum(mask & kept)):
            dropped[f"images {reason}"] = number
        kept &= ~mask
        if not kept.any():
            raise UserError(f"{path}: no image left: {_REMEDIES[reason]}")
    kept = np.flatnonzero(kept)
    records = records.subset(kept)
    poses, pose = _poses(yaw[kept], pitch[kept], pose_step)
    expressions, number = np.unique(expression[kept], return_inverse=True)
    persons, label = records.identities, records.label
    if faithful_ids:
        persons, label = _with_session(persons, label, session[kept])
    faces = Faces(
        records.name,
        records.licence,
        records.size,
        persons,
        expressions.tolist(),
        poses,
        label,
        number.astype(np.int32),
        pose,
        session[kept],
        landmarks[kept],
        records.images,
        np.arange(len(kept)),
        records.digest,
    )
    return faces, dropped


_REMEDIES = {
    "without an identity": "none has an identity; convert a folder of identities",
    "without a yaw": (
        "none has a yaw as well; give yaws in a labels.csv, or choose a --layout with "
        "poses (kdef, cmu, multipie, cfp)"
    ),
    "without an expression": (
        "none has an expression as well; give expressions in a labels.csv, or choose "
        "a --layout with expressions (kdef, cmu, multipie)"
    ),
    "without 68 landmarks": (
        "none has 68 landmarks; give a regressor (--given landmarks=REGRESSOR; fr-jax "
        "train --config=landmarks:faces trains one), or put a file NAME.pts, .npy or "
        ".npz beside each image, or columns x0, y0 to x67, y67 into a labels.csv, and "
        "convert again"
    ),
}


def _poses(yaw: Array, pitch: Array, step: float) -> tuple[list[str], Array]:
    """Returns the names of poses, and the pose int32 [N] of each yaw and pitch.

    Angles in degrees, rounded to multiples of `step`; an unknown pitch is 0.
    """
    angles = np.stack([yaw, np.nan_to_num(pitch)], axis=1)
    distinct, pose = np.unique(np.round(angles / step), axis=0, return_inverse=True)
    names = [
        f"{across:g}" + (f", pitch {up:g}" if up else "")
        for across, up in (distinct * step + 0.0).tolist()
    ]
    return names, pose.ravel().astype(np.int32)


def _with_session(
    identities: list[str], label: Array, session: Array
) -> tuple[list[str], Array]:
    """Returns identities that include the session, as in the authors' program."""
    pairs = np.stack([session, label], axis=1)
    distinct, label = np.unique(pairs, axis=0, return_inverse=True)
    names = [f"{one}:{identities[person]}" for one, person in distinct.tolist()]
    return names, label.ravel().astype(np.int32)


def without_negatives(faces: Faces) -> tuple[Faces, dict[str, list[str]]]:
    """Returns the persons with two poses and two expressions, and the dropped names.

    The others have no negative of another pose, or of another expression.
    """
    dropped: dict[str, list[str]] = {}
    kept = np.full(len(faces.identities), True)
    for name in ("pose", "expression"):
        pairs = np.stack([faces.label, getattr(faces, name)], axis=1)
        persons = np.unique(pairs, axis=0)[:, 0]
        single = np.bincount(persons, minlength=len(kept)) < 2
        if names := [faces.identities[n] for n in np.flatnonzero(single & kept)]:
            dropped[f"persons with one {name}"] = names
        kept &= ~single
    return faces.subset(np.flatnonzero(kept[faces.label])), dropped
