"""`fr-jax generate`: generate labelled faces of identities by DiscoFaceGAN.

By default as USynthFace's training set: seed 42, all images of an identity with one
code of identity and new codes of expression, lighting and pose. Faces are aligned by
the landmarks that the pose predicts, or by a detector. labels.csv has codes,
coefficients and the pose in degrees. An interrupted folder resumes with the same call;
interrupted records start again, so divide long runs by --shard.

Examples:
    fr-jax generate --generator disco --identities 100000 --images-per-identity 128 \\
        --to $RECORDS --format records --name disco100k
    fr-jax generate --generator disco --identities 10 --images-per-identity 9 \\
        --yaw=-60:60 --pitch 0 --to rotated
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from tqdm import tqdm

from fr_jax import interrupt
from fr_jax.cli import shards
from fr_jax.cli.targets import check_writable
from fr_jax.embedder import Embedder, load_embedder
from fr_jax.embedder.description import sha256
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
    *("identities", "images_per_identity", "seed", "factor", "shard", "truncation"),
    *("size", "frame", "yaw", "pitch", "roll", "interpolate", "dtype", "as_published"),
)
_ANGLES = ("yaw", "pitch", "roll")
_INTERPOLATED = {"light": "gamma", "expression": "exp"}
_NO_FACE = "the detector found no face in any image; nothing was written"


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    text = "generator folder, made by fr-jax import network.pkl --vae DIR"
    add("--generator", required=True, metavar="GENERATOR", help=text)
    text = "identities in all shards together"
    add("--identities", required=True, type=int, metavar="N", help=text)
    add("--images-per-identity", type=int, default=128, metavar="K", help="images each")
    text = "new folder; records: new folder DIR/NAME"
    add("--to", required=True, metavar="DIR", help=text)
    text = "<identity>/*.jpg with labels.csv, or TFRecords, which do not resume"
    add("--format", default="folder", choices=("folder", "records"), help=text)
    add("--name", default="", help="name of the records; default: discofacegan")
    text = "0: the mean identity, 1: no truncation"
    add("--truncation", type=float, default=0.7, metavar="PSI", help=text)
    text = "what differs between the images of an identity: 0 expression, lighting and "
    text += "pose; 1 expression; 2 lighting; 3 pose"
    add("--factor", type=int, default=0, choices=range(4), help=text)
    add("--seed", type=int, default=discofacegan.SEED, help="seed of the codes")
    shards.add_argument(add, "generate")
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
    text = "images generated at once; default: 8 on a CPU, else 128"
    add("--batch-size", type=int, metavar="B", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Generates faces if the arguments are valid."""
    _check(arguments)
    embedder = load_embedder(arguments.generator)
    generated.check(embedder.network)
    if arguments.format == "folder":
        face_files.check_free(Path(arguments.to))
        check_writable("--to", arguments.to)
    else:
        check_writable("--to", arguments.to, needed=_needed(arguments))
    whole = arguments.frame == "whole" or arguments.detector
    generator = generated.Generator(
        embedder.network,
        size=0 if whole else arguments.size,
        truncation=arguments.truncation,
        batch_size=arguments.batch_size or _batch_size(),
        dtype=arguments.dtype,
    )
    available = generator.identities
    if available and arguments.identities > available:
        raise UserError(
            f"--identities {arguments.identities:,}: the generator has coefficients of "
            f"{available:,} identities in place of their decoder"
        )
    write = _records if arguments.format == "records" else _folder
    with progress_bar(
        total=_num_images(arguments), label="generate", smoothing=0.05
    ) as bar:
        faces = _Faces(arguments, generator, bar)
        provenance = _provenance(arguments, embedder)
        target = write(arguments, faces, provenance)
        rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
    missed = f", {faces.missed:,} left out without a face" if faces.missed else ""
    print(f"{faces.written:,} images to {target}{missed}, {rate:,.1f} images/s")
    print(f"licence: {provenance['licence']}")


def _provenance(arguments: argparse.Namespace, embedder: Embedder) -> dict[str, Any]:
    """Returns licence, source and settings, which determine the images."""
    digest = embedder.weights_sha256
    settings = {name: getattr(arguments, name) for name in _SAME_FILES}
    settings["generator_sha256"] = digest
    if arguments.detector:
        settings["detector_sha256"] = sha256(epath.Path(arguments.detector))
    texts = [f"{name} {settings[name]}" for name in ("seed", "truncation", "factor")]
    angles = {name: settings[name] for name in _ANGLES if settings[name]}
    texts += [f"{name} {low:g} to {high:g}" for name, (low, high) in angles.items()]
    texts += [f"{name} interpolated" for name in arguments.interpolate]
    return {
        "licence": embedder.provenance.get("licence", "unknown"),
        "source": f"DiscoFaceGAN {digest[:16]}, {', '.join(texts)}",
        "settings": settings,
    }


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
    for name in arguments.interpolate:
        number = discofacegan.FACTORS.index((_INTERPOLATED[name],))
        if arguments.factor not in (0, number) or arguments.images_per_identity < 2:
            raise UserError(
                f"--interpolate {name}: the images of an identity have the same "
                f"{name}; use --factor 0 or {number} and at least 2 images"
            )
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
    shards.check(arguments)


def _num_images(arguments: argparse.Namespace) -> int:
    return len(shards.numbers(arguments)) * arguments.images_per_identity


def _needed(arguments: argparse.Namespace, done: int = 0) -> int:
    """Returns the bytes of the images that follow the first `done`, at most."""
    image = int(face_files.BYTES_PER_PIXEL * _side(arguments) ** 2) + 4000
    return (_num_images(arguments) - done) * image


def _side(arguments: argparse.Namespace) -> int:
    return SIDE if arguments.frame == "whole" else arguments.size


def _batch_size() -> int:
    import jax

    return 8 if jax.default_backend() == "cpu" else 128


class _Identity(NamedTuple):
    """Images of an identity, from image `first` on: arrays with a row for each."""

    number: int
    first: int
    codes: np.ndarray
    noise: np.ndarray
    coefficients: np.ndarray


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
        self._bar.n = self._bar.initial = done
        identities, labels = itertools.tee(self._identities(done))
        batches = self._generator.each(
            (identity.coefficients, identity.noise) for identity in identities
        )
        images = itertools.chain.from_iterable(zip(*batch) for batch in batches)
        rows = ((one, row) for one in labels for row in range(len(one.codes)))
        for (identity, row), (image, points) in zip(rows, images):
            face = self._face(identity, row, image, points)
            if face is None:
                self.missed += 1
            else:
                self.written += 1
                numbers = identity.codes, identity.noise, identity.coefficients
                yield face, np.concatenate([array[row] for array in numbers])
            self._bar.update()

    def _identities(self, done: int) -> Iterator[_Identity]:
        """Yields the identities, from image `done` on."""
        arguments, images = self._arguments, self._arguments.images_per_identity
        skipped, first_image = divmod(done, images)
        numbers = shards.numbers(arguments)
        offset = numbers.start if arguments.as_published else 0
        numbers = numbers[skipped:]
        first = numbers.start - offset
        options = {"seed": arguments.seed, "factor": arguments.factor}
        draws = discofacegan.draws(first, len(numbers), images, **options)
        for number, draw in zip(numbers, draws):
            coefficients = self._generator.coefficients(draw.codes, draw.identity)
            arrays = draw.codes, draw.noise, self._controlled(coefficients)
            rest = (array[first_image:] for array in arrays)
            yield _Identity(number, first_image, *rest)
            first_image = 0

    def _controlled(self, coefficients: np.ndarray) -> np.ndarray:
        """Returns the coefficients of an identity [K, 254] as the options ask."""
        arguments, images = self._arguments, len(coefficients)
        fractions = np.linspace(0, 1, images)
        for name in arguments.interpolate:
            start, end = (np.repeat(coefficients[[n]], images, 0) for n in (0, -1))
            factor = _INTERPOLATED[name]
            columns = discofacegan.COEFFICIENTS[factor]
            between = discofacegan.interpolated(start, end, factor, fractions)
            coefficients[:, columns] = between[:, columns]
        degrees = {}
        for name in _ANGLES:
            if limits := getattr(arguments, name):
                first, last = limits
                degrees[name] = np.linspace(first, last, images)
        return discofacegan.with_pose(coefficients, **degrees)

    def _face(
        self, identity: _Identity, row: int, image: np.ndarray, points: np.ndarray
    ) -> Any | None:
        """Returns a record; None if the detector finds no face."""
        from data_pipelines.readers import Face

        if self._detector:
            from data_pipelines.vision import align

            faces = self._detector(image)
            if not faces:
                return None
            detected = max(faces, key=lambda face: face.box[2] * face.box[3]).points
            size = self._arguments.size
            matrix = align.similarity(detected, align.template(size))
            image = align.crop(image, detected, size)
            points = (detected @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        pose = discofacegan.angles(identity.coefficients[row : row + 1])
        name = f"{identity.number:06}"
        face = Face(
            face_files.jpeg(image),
            label=identity.number - shards.numbers(self._arguments).start,
            identity=name,
            source=f"{name}/{name}_{identity.first + row + 1:04}.jpg",
            landmarks5=points,
        )
        angles = {axis: float(degrees[0]) for axis, degrees in pose.items()}
        return face._replace(**angles)


def _folder(
    arguments: argparse.Namespace, faces: _Faces, provenance: dict[str, Any]
) -> str:
    """Writes <identity>/<image>.jpg and labels.csv; an interrupted run resumes."""
    from data_pipelines.readers.labelled_folder import PROVENANCE

    target = Path(arguments.to)
    lists = {
        "LICENCE.txt": provenance["licence"] + "\n",
        PROVENANCE: json.dumps(provenance, indent=1) + "\n",
    }
    folder = face_files.LabelledFolder(
        target, provenance["settings"], lists, columns=_COLUMNS, dense=False
    )
    done = _after(arguments, folder.last)
    check_writable("--to", target, needed=_needed(arguments, done))
    faces.written, faces.missed = folder.done, done - folder.done
    with folder:
        if folder.done:
            print(f"resumed after {folder.done:,} images in {folder.part}")
        text = (
            f"interrupted: complete images are in {folder.part}; the same call resumes"
        )
        with interrupt.explained(text):
            for face, numbers in faces(done):
                folder.add(face, numbers)
        if not faces.written:
            raise UserError(_NO_FACE)
    return str(target)


def _after(arguments: argparse.Namespace, file: str) -> int:
    """Returns the number of images up to the one in a file; 0 for no file."""
    if not file:
        return 0
    identity, row = map(int, Path(file).stem.split("_"))
    first = shards.numbers(arguments).start
    return (identity - first) * arguments.images_per_identity + row


def _records(
    arguments: argparse.Namespace, faces: _Faces, provenance: dict[str, Any]
) -> str:
    """Writes TFRecords; an interrupted run restarts from the first image."""
    from data_pipelines.builders import faces as builder  # loads TensorFlow

    rows = (face for face, _ in faces())
    first = next(rows, None)  # compiles, before files exist
    if first is None:
        raise UserError(_NO_FACE)
    target, _ = builder.build(
        itertools.chain([first], rows),
        arguments.to,
        arguments.name or generated.NAME + shards.suffix(arguments),
        size=_side(arguments),
        licence=provenance["licence"],
        source=provenance["source"],
        max_bad=0,
    )
    return str(target)


def _range(text: str) -> tuple[float, float]:
    first, colon, second = text.partition(":")
    try:
        return float(first), float(second if colon else first)
    except ValueError:
        form = "expected DEGREES or FROM:TO, as in --yaw=-60:60"
        raise argparse.ArgumentTypeError(f"{form}, got {text!r}") from None
