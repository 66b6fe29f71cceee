"""`fr-jax generate`: generate labelled faces of identities by DiscoFaceGAN.

By default as USynthFace's training set: seed 42, all images of an identity with one
code of identity and new codes of expression, lighting and pose. Faces are aligned by
the landmarks that the pose predicts, or by a detector. labels.csv has codes,
coefficients and the pose in degrees. An interrupted folder resumes with the same call.

Examples:
    fr-jax generate --generator disco --identities 100000 --images-per-identity 128 \\
        --to $RECORDS --format records --name disco100k
    fr-jax generate --generator disco --identities 10 --images-per-identity 9 \\
        --yaw=-60:60 --pitch 0 --to turned
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fr_jax import interrupt
from fr_jax.cli.targets import check_writable
from fr_jax.embedder import load_embedder
from fr_jax.errors import UserError, check_range
from fr_jax.faces import discofacegan, generated
from fr_jax.faces import files as face_files
from fr_jax.models.discofacegan import NUM_CODES, NUM_COEFFICIENTS, NUM_NOISE, SIDE
from fr_jax.progress import progress_bar

_COLUMNS = (
    *(f"z{number}" for number in range(NUM_CODES)),
    *(f"noise{number}" for number in range(NUM_NOISE)),
    *(f"coefficient{number}" for number in range(NUM_COEFFICIENTS)),
)
_SAME_FILES = (  # options that a resumed folder must have in common
    *("generator", "identities", "images_per_identity", "seed", "factor", "shard"),
    *("truncation", "size", "frame", "detector", "yaw", "pitch", "roll"),
    *("interpolate", "dtype", "as_published"),
)
_ANGLES = ("yaw", "pitch", "roll")
_INTERPOLATED = {"light": "gamma", "expression": "exp"}


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    text = "generator folder, made by fr-jax import network.pkl --vae DIR"
    add("--generator", required=True, metavar="GENERATOR", help=text)
    text = "identities in all shards together"
    add("--identities", required=True, type=int, metavar="N", help=text)
    add("--images-per-identity", type=int, default=128, metavar="K", help="images each")
    text = "new folder; records: new folder DIR/NAME"
    add("--to", required=True, metavar="DIR", help=text)
    text = "<identity>/*.jpg with labels.csv, or TFRecords"
    add("--format", default="folder", choices=("folder", "records"), help=text)
    add("--name", default="", help="name of the records; default: discofacegan")
    text = "0: the mean identity, 1: no truncation"
    add("--truncation", type=float, default=0.7, metavar="PSI", help=text)
    text = "what differs between the images of an identity: 0 expression, lighting and "
    text += "pose; 1 expression; 2 lighting; 3 pose"
    add("--factor", type=int, default=0, choices=range(4), help=text)
    add("--seed", type=int, default=discofacegan.SEED, help="seed of the codes")
    text = "generate part I of N, counted from 0"
    add("--shard", type=_shard, default="0/1", metavar="I/N", help=text)
    text = "every shard begins with the same random numbers, so that all have the same "
    text += "identities, as the published program"
    add("--as-published", action="store_true", help=text)
    degrees: Any = {"type": _range, "metavar": "DEGREES"}
    text = "yaw of all images, or FROM:TO, spread evenly over those of an identity"
    add("--yaw", **degrees, help=text)
    add("--pitch", **degrees, help="pitch, in the same way")
    add("--roll", **degrees, help="roll, in the same way")
    text = "spread the images of an identity evenly between two draws of this; may be "
    text += "repeated"
    choices: Any = {"action": "append", "default": [], "choices": [*_INTERPOLATED]}
    add("--interpolate", **choices, help=text)
    text = "aligned by five points, or the whole image of 256 pixels"
    add("--frame", default="aligned", choices=("aligned", "whole"), help=text)
    add("--size", type=int, default=112, help="side of aligned faces in pixels")
    text = "align by the faces that YuNet finds; images without one are left out"
    add("--detector", metavar="FILE", help=text)
    text = "type of the convolutions; bfloat16 for accelerators"
    types = ("float32", "bfloat16")
    add("--dtype", default="float32", choices=types, help=text)
    text = "images drawn at once; default: 8 on a CPU, else 128"
    add("--batch-size", type=int, metavar="B", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Generates faces if the arguments are valid."""
    _check(arguments)
    embedder = load_embedder(arguments.generator, check=False)
    generated.check(embedder.network)
    if arguments.format == "folder":
        face_files.check_free(Path(arguments.to))
    count = len(_numbers(arguments)) * arguments.images_per_identity
    image = int(face_files.BYTES_PER_PIXEL * _side(arguments) ** 2) + 4000
    check_writable("--to", arguments.to, needed=count * image)
    whole = arguments.frame == "whole" or arguments.detector
    faces_of = generated.Generator(
        embedder.network,
        size=0 if whole else arguments.size,
        truncation=arguments.truncation,
        batch_size=arguments.batch_size or _batch_size(),
        dtype=arguments.dtype,
    )
    available = faces_of.identities
    if available and arguments.identities > available:
        raise UserError(
            f"--identities {arguments.identities:,}: the generator has coefficients of "
            f"{available:,} identities in place of their decoder"
        )
    licence = embedder.provenance.get("licence", "unknown")
    write = _records if arguments.format == "records" else _folder
    with progress_bar(total=count, label="generate", smoothing=0.05) as bar:
        faces = _Faces(arguments, faces_of, bar)
        target = write(arguments, faces, licence)
        rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
    missed = f", {faces.missed:,} left out without a face" if faces.missed else ""
    print(f"{faces.written:,} images to {target}{missed}, {rate:,.1f} images/s")
    print(f"licence: {licence}")


def _check(arguments: argparse.Namespace) -> None:
    for flag, low, high in (
        ("identities", 1, 1 << 24),
        ("images_per_identity", 1, 1 << 20),
        ("truncation", 0, 1),
        ("seed", 0, (1 << 32) - 1),
        ("size", 16, 1024),
        ("batch_size", 1, 1 << 14),
    ):
        value = getattr(arguments, flag)
        if value is not None:
            check_range(f"--{flag.replace('_', '-')}", value, low, high)
    for name in _ANGLES:
        for value in getattr(arguments, name) or ():
            check_range(f"--{name}", value, -90, 90)
    if arguments.frame == "whole":
        if arguments.detector:
            raise UserError("--detector aligns faces; it needs --frame aligned")
        if arguments.size != 112:
            raise UserError(f"--frame whole has {SIDE} pixels; it has no --size")
    if arguments.name and arguments.format != "records":
        raise UserError("--name needs --format records; a folder is named by --to")
    part, shards = arguments.shard
    if not 0 <= part < shards <= arguments.identities:
        raise UserError(
            f"--shard {part}/{shards} of {arguments.identities} identities: shards "
            "count from 0, and each needs at least one identity"
        )


def _numbers(arguments: argparse.Namespace) -> range:
    """Returns the numbers of the identities of the shard."""
    part, shards = arguments.shard
    return range(*(arguments.identities * n // shards for n in (part, part + 1)))


def _side(arguments: argparse.Namespace) -> int:
    return SIDE if arguments.frame == "whole" else arguments.size


def _batch_size() -> int:
    import jax

    return 8 if jax.default_backend() == "cpu" else 128


class _Faces:
    """Labelled faces of a shard, with the numbers of their rows.

    Attributes:
      written, missed: images yielded, and images in which the detector found no face.
    """

    def __init__(self, arguments: argparse.Namespace, generator: Any, bar: tqdm):
        self._arguments, self._generator, self._bar = arguments, generator, bar
        self._detector = None
        if arguments.detector:
            from data_pipelines.vision import detect

            self._detector = detect.YuNet(arguments.detector)
        self.written = self.missed = 0

    def __call__(self, done: int = 0) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields face and numbers of each image, from image `done` on."""
        images = self._arguments.images_per_identity
        skipped, within = divmod(done, images)
        numbers = _numbers(self._arguments)[skipped:]
        batches, waiting = itertools.tee(self._batches(numbers))
        drawn = self._generator.each(
            (coefficients, noise) for _, coefficients, noise in batches
        )
        self._bar.n = self._bar.initial = done
        for number, (codes, coefficients, noise), result in zip(
            numbers, waiting, drawn
        ):
            rows = np.concatenate([codes, noise, coefficients], axis=1)
            for row in range(within, images):
                face = self._face(number, row, coefficients[row : row + 1], result)
                if face is None:
                    self.missed += 1
                else:
                    self.written += 1
                    yield face, rows[row]
            self._bar.update(images - within)
            within = 0

    def _batches(self, numbers: range) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields codes, coefficients and noise of the images of each identity."""
        arguments = self._arguments
        repeated = _numbers(arguments).start if arguments.as_published else 0
        first = numbers.start - repeated
        options = {"seed": arguments.seed, "factor": arguments.factor}
        images = arguments.images_per_identity
        draws = discofacegan.draws(first, len(numbers), images, **options)
        shares = np.linspace(0, 1, images)
        for number, draw in zip(numbers, draws):
            rows = np.full(images, number - repeated, np.int32)
            coefficients = self._generator.coefficients(draw.codes, rows)
            for name in arguments.interpolate:
                first_row = np.repeat(coefficients[:1], images, axis=0)
                last_row = np.repeat(coefficients[-1:], images, axis=0)
                factor = _INTERPOLATED[name]
                columns = discofacegan.COEFFICIENTS[factor]
                between = discofacegan.interpolated(first_row, last_row, factor, shares)
                coefficients[:, columns] = between[:, columns]
            degrees = {
                name: np.linspace(*getattr(arguments, name), images)
                for name in _ANGLES
                if getattr(arguments, name)
            }
            coefficients = discofacegan.with_pose(coefficients, **degrees)
            yield draw.codes, coefficients, draw.noise

    def _face(
        self, number: int, row: int, coefficients: np.ndarray, drawn: Any
    ) -> Any | None:
        """Returns a record; None if the detector finds no face."""
        from data_pipelines.readers import Face

        image, points = drawn.image[row], drawn.landmarks5[row]
        if self._detector:
            from data_pipelines.vision import align

            faces = self._detector(image)
            if not faces:
                return None
            found = max(faces, key=lambda face: face.box[2] * face.box[3]).points
            size = self._arguments.size
            matrix = align.similarity(found, align.template(size))
            image = align.crop(image, found, size)
            points = (found @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        pose = {k: float(v[0]) for k, v in discofacegan.angles(coefficients).items()}
        name = f"{number:06}"
        return Face(
            face_files.jpeg(image),
            label=number - _numbers(self._arguments).start,
            identity=name,
            source=f"{name}/{name}_{row + 1:04}.jpg",
            landmarks5=points,
            **pose,
        )


def _folder(arguments: argparse.Namespace, faces: _Faces, licence: str) -> str:
    """Writes <identity>/<image>.jpg and labels.csv; an interrupted run resumes."""
    target = Path(arguments.to)
    options = {name: getattr(arguments, name) for name in _SAME_FILES}
    lists = {"LICENCE.txt": licence + "\n"}
    settings: Any = {"columns": _COLUMNS, "dense": False}
    with face_files.LabelledFolder(target, options, lists, **settings) as folder:
        if folder.done:
            print(f"resumed after {folder.done:,} images in {folder.part}")
        text = (
            f"interrupted: complete images are in {folder.part}; the same call resumes"
        )
        with interrupt.explained(text):
            for face, numbers in faces(_after(arguments, folder.last)):
                folder.add(face, numbers)
    return str(target)


def _after(arguments: argparse.Namespace, file: str) -> int:
    """Returns the number of images up to the one in a file; 0 for no file."""
    if not file:
        return 0
    identity, row = map(int, Path(file).stem.split("_"))
    first = _numbers(arguments).start
    return (identity - first) * arguments.images_per_identity + row


def _records(arguments: argparse.Namespace, faces: _Faces, licence: str) -> str:
    """Writes TFRecords; an interrupted run restarts from the first image."""
    from data_pipelines.builders import faces as builder  # loads TensorFlow

    part, shards = arguments.shard
    suffix = f"_{part}_of_{shards}" if shards > 1 else ""
    rows = (face for face, _ in faces())
    first = next(rows, None)  # compiles, before files exist
    if first is None:
        raise UserError("the detector found no face in any image; nothing was written")
    target, _ = builder.build(
        itertools.chain([first], rows),
        arguments.to,
        arguments.name or generated.NAME + suffix,
        size=_side(arguments),
        licence=licence,
        source=f"DiscoFaceGAN, seed {arguments.seed}",
        max_bad=0,
    )
    return str(target)


def _shard(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected I/N, as in 0/8, got {text!r}")
    return int(first), int(second)


def _range(text: str) -> tuple[float, float]:
    first, _, second = text.partition(":")
    try:
        return float(first), float(second or first)
    except ValueError:
        form = "expected DEGREES or FROM:TO, as in --yaw=-60:60"
        raise argparse.ArgumentTypeError(f"{form}, got {text!r}") from None
