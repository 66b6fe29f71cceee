"""`fr-jax templates`: evaluate an embedder on image sets of identities, as in IJB-A.

In each split, every probe template is compared with every gallery template: 1:1
verification, and 1:N identification: closed-set by rank, and open-set by TPIR at FPIR
where some probes have no identity of the gallery. Embeddings of a template are
averaged. A generator has a second result, with features weighted by confidence.

IJB-B and IJB-C are sets of `fr-jax evaluate`, with protocol=ijb and identification.

Examples:
    fr-jax templates splits.csv --embedder runs/faces/embedder_generator --to templates
    fr-jax templates splits.csv --embeddings faces.npz --to templates
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.cli.targets import check_writable
from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import UNALIGNED, batched
from fr_jax.errors import UserError
from fr_jax.evaluation import embeddings
from fr_jax.evaluation.results import write
from fr_jax.metrics import templates
from fr_jax.systems.dr_gan.rotator import Rotator


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    text = "columns: split, part (probe or gallery), template, identity, file"
    add("table", metavar="CSV", help=text)
    source = parser.add_mutually_exclusive_group(required=True)
    text = "embedder or generator"
    source.add_argument("--embedder", metavar="EMBEDDER", help=text)
    text = "embeddings of the files, by `fr-jax embed`"
    source.add_argument("--embeddings", metavar="FILE", help=text)
    add("--root", metavar="DIR", help="folder of the files; default: that of CSV")
    add("--to", required=True, metavar="DIR", help="folder of results.json")
    add("--unaligned", **UNALIGNED)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates templates, and writes results.json."""
    from data_pipelines.protocols.templates import load

    check_writable("--to", arguments.to)
    splits, files = load(arguments.table)
    weights: dict[str, np.ndarray | None] = {"avg": None}
    if arguments.embeddings:
        stored = embeddings.load(arguments.embeddings)
        rows = stored.select(files)
        features = stored.embed_raw(rows, flip=bool(stored.flip))["embedding"]
    else:
        features, weights = _embedded(arguments, files)
    results = {}
    for aggregation, confidence in weights.items():
        metrics = []
        for name, split in splits.items():
            try:
                metrics.append(_metrics(split, features, confidence))
            except ValueError as error:
                raise UserError(f"{arguments.table}: split {name}: {error}") from None
        for metric, value in templates.over_splits(metrics).items():
            results[f"templates/{metric}:{aggregation}"] = value
    for name, value in results.items():
        print(f"{name:<40} {value:.4f}", flush=True)  # first: writing may fail
    path = Path(arguments.to) / "results.json"
    write(path, results)
    print(f"{len(splits)} splits, {len(files)} images: {path}")


def _embedded(
    arguments: argparse.Namespace, files: list[str]
) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    """Returns features [N, F], and the confidence [N] or None by aggregation."""
    embedder = load_embedder(arguments.embedder)
    root = Path(arguments.root or Path(arguments.table).parent)
    paths = [root / file for file in files]
    weights: dict[str, np.ndarray | None] = {"avg": None}
    if embedder.network.kind == "generator":
        rotator = Rotator(embedder)
        sides = None if arguments.unaligned else (rotator.spec.size,)
        parts = [rotator.encode(batch) for batch in batched(paths, 256, sides=sides)]
        features, weights["fuse"] = (np.concatenate(part) for part in zip(*parts))
    else:
        options = {"normalize": False, "unaligned": arguments.unaligned}
        features = embedder.embed(paths, **options)
    return features, weights


def _metrics(
    split: Any, features: np.ndarray, confidence: np.ndarray | None
) -> dict[str, float]:
    """Returns verification and identification rates of a split."""

    def fused(part):
        rows, template = split.image[part], split.template[part]
        if confidence is None:
            return templates.averaged(features[rows], template)
        return templates.fused(features[rows], confidence[rows], template)

    (probes, first), (gallery, second) = fused(split.probe), fused(~split.probe)
    probes, gallery = (np.array(split.identities)[part] for part in (probes, gallery))
    scores = first @ second.T
    same = probes[:, None] == gallery[None]
    return templates.verify(scores, same) | templates.identify(scores, probes, gallery)
