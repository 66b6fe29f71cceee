"""FRA's gain on unseen identities: a grid fixed before any result was looked at.

    python -m benchmarks.experiments.fra_grid --embedder EMBEDDER --to runs/fra_grid
        [--cmu FOLDER --detector YUNET.onnx --landmarks REGRESSOR]

Cells: 1, 2 and 5 training images an identity; poses of the test images seen (training
images of all poses) or held out (training images frontal, test images all others); CMU
Face Images, rendered identities with KDEF's poses and expressions; identity, pose,
expression. Each seed has another split of the persons and another FRA network, trained
by `fr-jax train` on persons that are not evaluated; its value of a cell is the mean
over draws of the training images. A classifier (SVM, as published) is trained with and
without embeddings generated in all other poses, with landmarks of FRA's own training
persons. Intervals are Student's over the seeds, for all cells together (Bonferroni).

A run that is started again goes on: networks in DIR/runs, cells in DIR/cells.
"""

import argparse
import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.preprocessing import StandardScaler

from fr_jax import load_embedder
from fr_jax.backend import cpu, sharding
from fr_jax.cli import config as configs
from fr_jax.errors import UserError
from fr_jax.metrics.classification import mean_interval
from fr_jax.report import figures
from fr_jax.systems.fra import classifiers, embeddings, evaluator, parts, photographs
from fr_jax.systems.fra.augmenter import Augmenter
from fr_jax.systems.fra.evaluation import LABELS, Samples
from fr_jax.training.data import Context

COUNTS = (1, 2, 5)  # training images an identity
POSES = ("seen", "held_out")
CELLS = tuple(itertools.product(COUNTS, POSES))
_FRONTAL = "0"
_LEVEL = 0.95
_CMU = {  # of its 20 persons
    "data.source": "records",
    "data.split.validation_identities": 3,
    "data.split.held_out": 7,
}

Array = np.ndarray
# (rows of samples, rows of donors) -> embeddings in the poses of the donors' maps.
Generate = Callable[[Array, Array], Array]


class Study(NamedTuple):
    """A trained network with the images to evaluate, and those whose landmarks it uses.

    `donors` has labels with the numbers of `samples`.
    """

    samples: Samples
    donors: Mapping[str, Array]
    generate: Generate


def chosen(
    samples: Samples, count: int, held_out: bool, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Returns rows of `count` training images an identity, and of the test images.

    Raises:
      UserError: for an identity without so many images and one to test.
    """
    identity, pose = samples.labels["identity"], samples.labels["pose"]
    frontal = pose == list(samples.names["pose"]).index(_FRONTAL)
    train = []
    for one in np.unique(identity):
        rows = np.flatnonzero((identity == one) & (frontal | (not held_out)))
        if len(rows) < count + (not held_out):
            raise UserError(
                f"{samples.names['identity'][one]}: {len(rows)} images to choose "
                f"{count} from"
            )
        train.append(rng.permutation(rows)[:count])
    rows = np.sort(np.concatenate(train))
    tested = np.setdiff1d(np.flatnonzero(~frontal | (not held_out)), rows)
    return rows, tested


def accuracies(
    study: Study, count: int, held_out: bool, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Returns (without, with augmentation) by label, for one draw of the images."""
    samples, donors = study.samples, study.donors
    train, test = chosen(samples, count, held_out, rng)
    given, picture = [], []
    for row in train:
        expression, pose = (samples.labels[n][row] for n in ("expression", "pose"))
        for target in np.unique(donors["pose"]):
            fits = (donors["pose"] == target) & (donors["expression"] == expression)
            if target != pose and fits.any():
                given.append(row)
                picture.append(rng.choice(np.flatnonzero(fits)))
    given, picture = np.array(given), np.array(picture)
    real, tested = samples.embedding[train], samples.embedding[test]
    both = np.concatenate([real, study.generate(given, picture)])
    rates = {}
    for label in LABELS:
        classes = samples.labels[label]
        made = donors["pose"][picture] if label == "pose" else classes[given]
        with_made = np.concatenate([classes[train], made])
        rates[label] = (
            _accuracy(real, classes[train], tested, classes[test]),
            _accuracy(both, with_made, tested, classes[test]),
        )
    return rates


def _accuracy(x: Array, y: Array, tested: Array, classes: Array) -> float:
    if len(np.unique(y)) == 1:  # of poses, if all training images are frontal
        return float(np.mean(classes == y[0]))
    scaler = StandardScaler().fit(x)
    model = classifiers.fitted("svm", scaler.transform(x), y)
    return float(np.mean(model.predict(scaler.transform(tested)) == classes))


def measured(study: Study, seed: int, draws: int) -> dict[str, list[float]]:
    """Returns [without, with augmentation] of each cell and label, means over draws."""
    values = {}
    for count, poses in CELLS:
        several = [
            accuracies(
                study,
                count,
                poses == "held_out",
                np.random.default_rng([seed, count, POSES.index(poses), draw]),
            )
            for draw in range(draws)
        ]
        for label in LABELS:
            pairs = np.array([one[label] for one in several])
            values[f"{label}/{count}_images/{poses}"] = pairs.mean(axis=0).tolist()
    return values


# --- networks -----------------------------------------------------------------------


def prepared(name: str, seed: int, arguments: Any) -> Study:
    """Trains the network of a set and seed, if it is not trained; returns its study."""
    settings = {"train.seed": seed, "data.evaluation.classifiers": "('svm',)"}
    if name == "cmu":
        settings |= _CMU | {"data.records.path": _cmu_records(arguments)}
    else:
        settings |= {
            "data.rendered.num_identities": arguments.trained,
            "data.rendered.size": arguments.size,
            "data.split.held_out": arguments.identities,
        }
    variant = "cmu" if name == "cmu" else "faces"
    overrides = [(key, str(value)) for key, value in settings.items()]
    overrides += [tuple(text.split("=", 1)) for text in arguments.config]
    folder = arguments.to / "runs" / f"{name}_{seed}"
    if not (folder / "results.json").exists():
        words = [f"--config=fra:{variant}", f"--workdir={folder}"]
        words += ["--given", f"embedder={arguments.embedder}"]
        words += [f"--config.{key}={text}" for key, text in overrides]
        command = [sys.executable, "-m", "fr_jax", "train", *words]
        subprocess.run(command, check=True)
    config = configs.load(f"fra:{variant}", overrides).data
    embedder = load_embedder(arguments.embedder)
    context = Context(
        sharding.make_mesh(), seed, {"embedder": embedder}, workdir=str(folder)
    )
    faces = parts.split(config, context)
    assert faces.unseen is not None
    unseen = faces.unseen()
    (vectors,) = embeddings.of_faces(embedder, [unseen], "", context)
    drawn = {"frame": config.landmark_frame, "faithful": config.faithful_landmarks}
    samples = evaluator.of_faces(unseen, vectors, **drawn)
    maps = faces.train.maps(**drawn)
    donors = {
        label: _renumbered(getattr(faces.train, label), before, samples.names[label])
        for label, before in (
            ("pose", faces.train.poses),
            ("expression", faces.train.expressions),
        )
    }
    augmenter = Augmenter(load_embedder(folder / "embedder_augmenter"))
    generate = functools.partial(augmenter.generate, vectors, maps)
    return Study(samples, donors, generate)


def _renumbered(column: Array, before: Sequence[str], after: Sequence[str]) -> Array:
    """Returns numbers of names in `after`, -1 for names that are not in it."""
    place = {name: number for number, name in enumerate(after)}
    return np.array([place.get(name, -1) for name in before])[column]


def _cmu_records(arguments: Any) -> str:
    changes = {"path": arguments.cmu, "detector": arguments.detector}
    overrides = [(f"data.photographs.{name}", str(x)) for name, x in changes.items()]
    options = configs.load("fra:cmu", overrides).data.photographs
    given = {"landmarks": load_embedder(arguments.landmarks)}
    workdir = str(arguments.to / "cmu")
    context = Context(sharding.make_mesh(), pretrained=given, workdir=workdir)
    return photographs.to_records(options, context)[0]


# --- results ------------------------------------------------------------------------


def summary(cells: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> dict:
    """Returns means over the seeds, gains and their intervals.

    SET/LABEL/COUNT_images/POSES: _without, _with, _gain; _gain_low and _gain_high for
    all cells together, _gain_low_alone and _gain_high_alone for the cell alone.

    Args:
      cells: of each set, what `measured` returned for each seed.
    """
    results: dict[str, float] = {}
    number = sum(len(several[0]) for several in cells.values())
    for name, several in cells.items():
        for cell in several[0]:
            pairs = np.array([one[cell] for one in several])  # [seeds, 2]
            gains, key = pairs[:, 1] - pairs[:, 0], f"{name}/{cell}"
            results[f"{key}_without"], results[f"{key}_with"] = pairs.mean(axis=0)
            for level, end in ((1 - (1 - _LEVEL) / number, ""), (_LEVEL, "_alone")):
                estimate = mean_interval(gains, level)
                names = ("gain", f"gain_low{end}", f"gain_high{end}")
                results |= {f"{key}_{n}": x for n, x in zip(names, estimate)}
    values = {key: float(value) for key, value in results.items()}
    return values | {"cells": number, "seeds": len(next(iter(cells.values())))}


def table(results: Mapping[str, float]) -> str:
    """Returns the cells as a Markdown table, in percent and points, and a verdict."""
    lines = [
        "| set, label, images, test poses | without | with | gain "
        "| interval, all cells | interval of the cell |",
        "|---|---|---|---|---|---|",
    ]
    above, below = [], []
    for key in results:
        if not key.endswith("_gain"):
            continue
        cell = key.removesuffix("_gain")
        name, label, count, poses = cell.split("/")

        def shown(end: str, sign: str = "", cell: str = cell) -> str:
            return f"{100 * results[f'{cell}_{end}']:{sign}.1f}"

        spans = [
            f"{shown('gain_low' + end, '+')} to {shown('gain_high' + end, '+')}"
            for end in ("", "_alone")
        ]
        what = f"{name}, {label}, {count.removesuffix('_images')}, {poses}"
        cells = [what, shown("without"), shown("with"), shown("gain", "+"), *spans]
        lines.append(f"| {' | '.join(cells)} |")
        above += [what] if results[f"{key}_low"] > 0 else []
        below += [what] if results[f"{key}_high"] < 0 else []
    for which, words in (("above", above), ("below", below)):
        listed = "; ".join(words) or "none"
        lines.append(f"\nIntervals {which} 0, all cells together: {listed}.")
    return "\n".join(lines) + "\n"


def draw(results: Mapping[str, float], path: Path) -> None:
    """Draws the gains with their intervals, a panel for each label."""
    gains = [key.removesuffix("_gain") for key in results if key.endswith("_gain")]
    with figures.panels(path, len(LABELS), (4.5 * len(LABELS), 5), sharey=True) as row:
        for axes, label in zip(row, LABELS):
            cells = [key for key in gains if key.split("/")[1] == label]
            mean, low, high = (
                np.array([100 * results[f"{key}_gain{end}"] for key in cells])
                for end in ("", "_low", "_high")
            )
            place, error = np.arange(len(cells)), np.stack([mean - low, high - mean])
            axes.errorbar(mean, place, xerr=error, fmt="o", capsize=3)
            axes.axvline(0, color="grey", linewidth=1)
            names = [
                f"{name}, {count.removesuffix('_images')}, {poses}"
                for name, _, count, poses in (key.split("/") for key in cells)
            ]
            axes.set_yticks(place, names, fontsize=8)
            axes.set_title(f"gain in accuracy of {label}, points", fontsize=9)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--embedder", required=True, help="face embedder folder or weights")
    add("--cmu", default="", help="folder of the CMU Face Images; '': rendered only")
    add("--detector", default="", help="YuNet .onnx, for --cmu")
    add("--landmarks", default="", help="landmark regressor folder, for --cmu")
    add("--identities", type=int, default=30, help="rendered ones to evaluate")
    add("--trained", type=int, default=48, help="rendered ones that FRA trains on")
    add("--size", type=int, default=112, help="side of rendered faces in pixels")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--draws", type=int, default=5, help="of training images, for each seed")
    add("--config", nargs="*", default=[], metavar="KEY=VALUE", help="of all trainings")
    add("--to", type=Path, default=Path("runs/fra_grid"))
    arguments = parser.parse_args(words)
    if arguments.cmu and not (arguments.detector and arguments.landmarks):
        parser.error("--cmu needs --detector and --landmarks")
    cpu.keep_freed_memory()
    cells: dict[str, list[Any]] = {}
    for name in ("cmu", "rendered") if arguments.cmu else ("rendered",):
        for seed in arguments.seeds:
            path = arguments.to / "cells" / f"{name}_{seed}.json"
            if not path.exists():
                study = prepared(name, seed, arguments)
                values = measured(study, seed, arguments.draws)
                _write(path, json.dumps(values, indent=1))
            cells.setdefault(name, []).append(json.loads(path.read_text()))
    results = summary(cells)
    _write(arguments.to / "results.json", json.dumps(results, indent=1))
    _write(arguments.to / "table.md", text := table(results))
    draw(results, arguments.to / "gains.png")
    print(text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    main()
