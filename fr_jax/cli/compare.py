"""`fr-jax compare`: prints the cosine of two faces, and a verdict."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import FACE_SIDE, check_aligned
from fr_jax.errors import UserError
from fr_jax.evaluation.results import known_results
from fr_jax.metrics.verification import cosines

_THRESHOLD = "/cosine_threshold"  # of the protocol that sums flips, as this does
_PROFILE = 0.08  # misfit of the five points beyond which it is one, or found wrongly


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("first", metavar="A.jpg")
    add("second", metavar="B.jpg")
    add("--embedder", required=True, metavar="E")
    add("--detector", metavar="FILE", help="YuNet's .onnx: finds and aligns the faces")
    add("--threshold", type=float, help="cosine from which it is one identity")


def run(arguments: argparse.Namespace) -> int:
    """Compares two faces; returns the exit code."""
    if arguments.threshold is not None and not -1 <= arguments.threshold <= 1:
        raise UserError(f"--threshold {arguments.threshold}: a cosine lies in -1 .. 1")
    paths = [Path(arguments.first), Path(arguments.second)]
    pictures = [_picture(path) for path in paths]
    if arguments.detector:
        from data_pipelines.vision import detect

        detector = detect.YuNet(arguments.detector)
        pictures = [_aligned(*both, detector) for both in zip(paths, pictures)]
    embedder = load_embedder(arguments.embedder)
    for path, picture in zip(paths, pictures):
        check_aligned(picture, embedder.network.input_spec.size, str(path))
    mirrored = [picture[:, ::-1] for picture in pictures]
    # As four faces, for which the network is compiled already, not as two with `flip`.
    first, second, *mirror = embedder.embed(pictures + mirrored, normalize=False)
    faces = np.stack([first + mirror[0], second + mirror[1]])
    (cosine,) = cosines(faces[:1], faces[1:])
    print(f"cosine {cosine:.4f} (each face with its mirror image)")
    if arguments.threshold is not None:
        print(f"{_verdict(cosine, arguments.threshold)} by the stated threshold")
        return 0
    results = known_results(arguments.embedder)
    keys = [key for key in results if key.endswith(_THRESHOLD)]
    judged = [key.removesuffix(_THRESHOLD) for key in keys]
    judged = [name for name in judged if f"{name}/accuracy" in results]
    for name in judged:
        accuracy = 100 * results[f"{name}/accuracy"]
        print(
            f"{_verdict(cosine, results[name + _THRESHOLD])} by the threshold of "
            f"{name}, which tells {accuracy:.2f} % of its pairs right"
        )
    if not judged:
        print(
            "no verdict: no threshold is known for this network. State one with "
            f"--threshold,\nor judge it: fr-jax evaluate --embedder "
            f"{arguments.embedder} --set NAME=PATH --to {arguments.embedder}"
        )
    return 0


def _verdict(cosine: float, threshold: float) -> str:
    who = "the same person" if cosine >= threshold else "different people"
    return f"{who}: {'at least' if cosine >= threshold else 'below'} {threshold:.4f}"


def _picture(path: Path) -> np.ndarray:
    from data_pipelines import DataError, images

    try:
        return images.decode(images.read_file(path), upright=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except (DataError, OSError) as error:
        raise UserError(f"{path}: {error}") from None


def _aligned(path: Path, picture: np.ndarray, detector: Any) -> np.ndarray:
    """The largest face of a picture in the template; UserError where there is none."""
    from data_pipelines.vision import align, detect

    found = detect.detect_or_pad(detector, picture)
    if not found:
        raise UserError(f"{path}: no face found in {picture.shape[1::-1]} pixels")
    if len(found) > 1:
        print(f"{path}: {len(found)} faces; the largest is taken", file=sys.stderr)
    if align.residual(found[0].points) > _PROFILE:
        print(f"{path}: a profile, or its points are wrong", file=sys.stderr)
    return align.crop(picture, found[0].points, FACE_SIDE)
