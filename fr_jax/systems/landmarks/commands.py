"""`fr-jax landmarks`: evaluate a landmark regressor on photographs with 68 points.

PHOTOGRAPHS is a folder, or a .tar of one, of .jpg and .png images with a .pts beside
each. The error is the mean distance of the points over the distance of the outer eye
corners; a photograph in which the detector finds no face counts as 100 %. DIR gets
results.json, the cumulative curve, and a sheet of photographs with their points: red
the answer, green the truth.

Example:
    fr-jax landmarks $DATA/300w --regressor runs/landmarks/embedder_landmarks \\
        --detector face_detection_yunet_2026may.onnx --to errors
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.embedder import load_embedder
from fr_jax.errors import UserError, check_range
from fr_jax.evaluation import results
from fr_jax.evaluation.evaluator import Trained
from fr_jax.report import landmarks as report
from fr_jax.systems.landmarks import evaluation


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    what = "folder or .tar of images with .pts"
    add("photographs", metavar="PHOTOGRAPHS", help=what)
    what = "regressor folder, WORKDIR/embedder_landmarks"
    add("--regressor", required=True, metavar="REGRESSOR", help=what)
    what = "YuNet .onnx; without it, crops are around the true points alone"
    add("--detector", default="", metavar="FILE", help=what)
    add("--to", required=True, metavar="DIR", help="folder of results and figures")
    what = "number of photographs on the sheet, by ascending error (default: 10)"
    add("--examples", type=int, default=10, metavar="N", help=what)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates a landmark regressor."""
    check_range("--examples", arguments.examples, 0, 1000)
    regressor = load_embedder(arguments.regressor)
    if regressor.network.kind != "landmarks":
        raise UserError(
            f"--regressor {arguments.regressor}: a network of kind "
            f"{regressor.network.kind!r}, not 'landmarks'; fr-jax train "
            "--config=landmarks:faces trains one"
        )
    folder = Path(arguments.to)
    folder.mkdir(parents=True, exist_ok=True)  # refused before the work
    evaluators = evaluation.photograph_sets(arguments.photographs, arguments.detector)
    trained = Trained(regressor.embed_raw, {"landmarks": regressor})
    values: dict[str, float] = {}
    for evaluator in evaluators:
        values |= evaluator(trained)
    images = evaluators[0].faces.images
    start = time.perf_counter()
    regressor.points(images)
    values["images_per_second"] = len(images) / (time.perf_counter() - start)
    print(results.table(values))
    print(
        f"{len(images)} photographs, {values['images_per_second']:.0f} crops a second"
    )
    results.write(folder / "results.json", values)
    print(f"results: {folder / 'results.json'}")
    curve = folder / "landmark_errors.png"
    errors = {e.name: e.errors for e in evaluators if e.errors is not None}
    report.cumulative_errors(errors, curve)
    print(f"figure: {curve}")
    if arguments.examples:
        sheet = folder / "examples.png"
        _sheet(evaluators[0], arguments.examples, sheet)
        print(f"figure: {sheet}")


def _sheet(evaluator: evaluation.Landmarks, count: int, path: Path) -> None:
    """Draws photographs at evenly spaced ranks of the error."""
    errors, answers, faces = evaluator.errors, evaluator.answers, evaluator.faces
    assert errors is not None and answers is not None
    ranks = np.linspace(0, len(errors) - 1, min(count, len(errors))).round().astype(int)
    rows = np.argsort(errors, kind="stable")[ranks]
    names = [Path(faces.names[int(row)]).stem for row in rows]
    titles = [f"{name}: {100 * errors[row]:.1f} %" for name, row in zip(names, rows)]
    images, points, truth = (
        list(part[rows]) for part in (faces.images, answers, faces.points)
    )
    report.points_sheet(images, points, path, truth=truth, titles=titles)
