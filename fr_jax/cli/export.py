"""`fr-jax export`: export an embedder for deployment, and check its embeddings.

The exported model takes uint8 RGB faces [N, 112, 112, 3] and returns L2-normalised
embeddings. Its output is compared with the embedder's before it is kept. The threshold
of `fr-jax evaluate --calibrate` is exported with it (calibration.json) if it is for the
same embeddings: with --flip-sum, or without.

Examples:
    fr-jax export mbf --format tflite --to deploy
    fr-jax export mbf --format onnx --flip-sum --to deploy
"""

import argparse

from fr_jax.cli.targets import check_writable
from fr_jax.embedder import load_embedder
from fr_jax.embedder.export import FORMATS, export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("embedder", metavar="EMBEDDER", help="embedder folder")
    text = "format of the exported model"
    add("--format", required=True, choices=tuple(FORMATS), help=text)
    add("--to", required=True, metavar="DIR", help="new folder")
    text = "add the embedding of the mirrored face to each embedding, in the program"
    add("--flip-sum", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Exports an embedder."""
    check_writable("--to", arguments.to)
    embedder = load_embedder(arguments.embedder)
    flip_sum = arguments.flip_sum
    cosine = export(embedder, arguments.format, arguments.to, flip_sum=flip_sum)
    checked = f"checked: cosine {cosine:.6f} to the embeddings of the original"
    print(f"{arguments.format}: {arguments.to} ({checked})")
    if calibration := embedder.calibration:
        print(calibration.describe())
        if calibration.flip_sum != flip_sum:
            remedy = "without" if flip_sum else "with"
            print(
                "note: the threshold is not for these embeddings, and not exported; "
                f"export {remedy} --flip-sum, or calibrate by another protocol"
            )
