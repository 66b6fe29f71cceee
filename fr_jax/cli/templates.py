"""`fr-jax templates`: scores templates, sets of images of an identity, over splits.

Every probe template against every gallery template of a split: verification, and
identification of the probes whose identity the gallery has.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import batched
from fr_jax.errors import UserError
from fr_jax.evaluation.results import write
from fr_jax.metrics import templates
from fr_jax.systems.dr_gan.rotator import Rotator


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("table", metavar="CSV", help="split, part, template, identity, file")
    add("--embedder", required=True, metavar="E", help="or a generator, to fuse by")
    add("--root", metavar="DIR", help="of the files; default: that of the table")
    add("--to", required=True, metavar="DIR", help="results.json goes here")


def run(arguments: argparse.Namespace) -> int:
    """Scores as asked; returns the exit code."""
    from data_pipelines.protocols.templates import load

    splits, files = load(arguments.table)
    embedder = load_embedder(arguments.embedder)
    root = Path(arguments.root or Path(arguments.table).parent)
    paths = [root / file for file in files]
    if embedder.network.kind == "generator":
        rotator = Rotator(embedder)
        side = rotator.spec.size
        parts = [rotator.encode(some) for some in batched(paths, 256, side=side)]
        features, confidence = (np.concatenate(part) for part in zip(*parts))
    else:
        features, confidence = embedder.embed(paths, normalize=False), None
    weights = {"avg": None} if confidence is None else {"avg": None, "fuse": confidence}
    found: dict[str, list] = {way: [] for way in weights}
    for name, split in splits.items():
        for way, scores in found.items():
            try:
                scores.append(_score(split, features, weights[way]))
            except ValueError as error:
                raise UserError(f"{arguments.table}: split {name}: {error}") from None
    results = {
        f"templates/{measure}:{way}": value
        for way, scores in found.items()
        for measure, value in templates.over_splits(scores).items()
    }
    target = Path(arguments.to)
    target.mkdir(parents=True, exist_ok=True)
    write(target / "results.json", results)
    for name, value in results.items():
        print(f"{name:<40} {value:.4f}")
    print(f"{len(splits)} splits, {len(files)} images: {target / 'results.json'}")
    return 0


def _score(
    split: Any, features: np.ndarray, confidence: np.ndarray | None
) -> dict[str, float]:
    vectors, people = [], []
    for part in (split.probe, ~split.probe):
        rows, of = split.image[part], split.template[part]
        if confidence is None:
            numbers, found = templates.averaged(features[rows], of)
        else:
            numbers, found = templates.fused(features[rows], confidence[rows], of)
        vectors.append(found)
        people.append(np.array(split.people)[numbers])
    probes, gallery = people
    scores = vectors[0] @ vectors[1].T
    same = probes[:, None] == gallery[None]
    return templates.verify(scores, same) | templates.identify(scores, probes, gallery)
