"""`fr-jax compare`: compare two faces by the cosine similarity of their embeddings.

Without --threshold, the threshold of `fr-jax evaluate --calibrate FAR` decides. An
embedder without one gives a decision by each evaluation stored with it (`fr-jax
evaluate --to EMBEDDER`); without those, only the cosine is printed. Faces are embedded
as for the threshold, by default as the sum of image and mirror image.

Example:
    fr-jax compare a.jpg b.jpg --embedder mbf --detector yunet.onnx
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import FACE_SIDE, UNALIGNED, check_aligned, read_image
from fr_jax.errors import UserError, check_range
from fr_jax.evaluation.results import stored_results
from fr_jax.metrics.verification import cosines

_THRESHOLD = "/cosine_threshold"  # key of protocol insightface, which sums flips
_PROFILE = 0.08  # misfit of the five points above which a face is taken for a profile


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("first", metavar="A.jpg", help="aligned face; any photograph with --detector")
    add("second", metavar="B.jpg", help="the face to compare it with")
    add("--embedder", required=True, metavar="EMBEDDER", help="embedder folder")
    text = "align the faces by this detector: YuNet's .onnx of the OpenCV model zoo"
    add("--detector", metavar="FILE", help=text)
    add("--unaligned", **UNALIGNED)
    add("--threshold", type=float, help="minimum cosine similarity of a match, -1 to 1")


def run(arguments: argparse.Namespace) -> None:
    """Prints the cosine of two faces, and the decision."""
    threshold = arguments.threshold
    if threshold is not None:
        check_range("--threshold", threshold, -1, 1)
    paths = [Path(arguments.first), Path(arguments.second)]
    images = [read_image(path) for path in paths]
    if arguments.detector:
        from data_pipelines.vision import detect

        detector = detect.YuNet(arguments.detector)
        images = [_aligned(*pair, detector) for pair in zip(paths, images)]
    embedder = load_embedder(arguments.embedder)
    if not arguments.unaligned:
        for path, image in zip(paths, images):
            check_aligned(image, (embedder.network.input_spec.size,), str(path))
    calibration = embedder.calibration
    flip = calibration is None or calibration.flip_sum
    mirrored = [image[:, ::-1] for image in images]
    # The network is compiled for four faces on loading, not for two with `flip`.
    embeddings = embedder.embed(images + mirrored, normalize=False)
    faces = embeddings[:2] + embeddings[2:] if flip else embeddings[:2]
    (cosine,) = cosines(faces[:1], faces[1:])
    views = "sum of the embeddings of each face and its mirror" if flip else "no flip"
    print(f"cosine {cosine:.4f} ({views})")
    if threshold is not None:
        print(f"{_decision(cosine, threshold)} (--threshold)")
        return
    if calibration is not None:
        decision = _decision(cosine, calibration.threshold)
        print(f"{decision} ({calibration.describe()})")
        return
    results = stored_results(arguments.embedder)
    sets = [key.removesuffix(_THRESHOLD) for key in results if key.endswith(_THRESHOLD)]
    evaluated = [name for name in sets if f"{name}/accuracy" in results]
    for name in evaluated:
        accuracy = 100 * results[f"{name}/accuracy"]
        decision = _decision(cosine, results[name + _THRESHOLD])
        print(f"{decision} (threshold of {name}, accuracy {accuracy:.2f} %)")
    if not evaluated:
        print(
            "no decision: this embedder has no threshold. Set --threshold, or "
            f"calibrate it:\nfr-jax evaluate --embedder {arguments.embedder} "
            f"--set NAME=PATH --calibrate 1e-3 --to {arguments.embedder}"
        )


def _decision(cosine: float, threshold: float) -> str:
    if cosine >= threshold:
        return f"same identity: at least {threshold:.4f}"
    return f"different identities: below {threshold:.4f}"


def _aligned(path: Path, image: np.ndarray, detector: Any) -> np.ndarray:
    """Returns the largest face of an image, aligned; UserError if none is detected."""
    from data_pipelines.vision import align, detect

    faces = detect.detect_or_pad(detector, image)
    if not faces:
        raise UserError(f"{path}: no face found in {image.shape[1::-1]} pixels")
    if len(faces) > 1:
        print(f"{path}: {len(faces)} faces; the largest is used", file=sys.stderr)
    if align.residual(faces[0].points) > _PROFILE:
        print(f"{path}: a profile, or wrong landmarks", file=sys.stderr)
    return align.crop(image, faces[0].points, FACE_SIDE)
