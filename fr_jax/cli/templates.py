"""`fr-jax templates`: evaluate an embedder on image sets of identities, as in IJB-A.

In each split, every probe template is compared with every gallery template: 1:1
verification (TAR at FAR, AUC, EER, minDCF), and 1:N identification: closed-set by rank,
and open-set by TPIR at FPIR where some probes have no identity of the gallery. All have
intervals, over identities. Embeddings of a template are averaged. A generator has a
second result, with features weighted by confidence.

IJB-B and IJB-C are sets of `fr-jax evaluate`, with protocol=ijb and identification.

Examples:
    fr-jax templates splits.csv --embedder runs/faces/embedder_generator --to templates
    fr-jax templates splits.csv --embeddings faces.npz --to templates
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fr_jax.cli.targets import check_writable
from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import UNALIGNED, batched
from fr_jax.errors import UserError, check_range
from fr_jax.evaluation import embeddings
from fr_jax.evaluation.resampled import bounds
from fr_jax.evaluation.results import print_notes, write
from fr_jax.metrics import intervals, templates
from fr_jax.metrics.intervals import number_of_resamples
from fr_jax.metrics.template_splits import Split, SplitStatistics
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
    text = (
        "resamples of the 95 %% intervals; default: 1000, of over a million pairs 200"
    )
    add("--resamples", type=int, metavar="N", help=text)
    add("--unaligned", **UNALIGNED)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates templates, and writes results.json."""
    from data_pipelines.protocols.templates import load

    check_writable("--to", arguments.to)
    if arguments.resamples is not None:
        check_range("--resamples", arguments.resamples, 20, 1_000_000)
    splits, files = load(arguments.table)
    weights: dict[str, np.ndarray | None] = {"avg": None}
    if arguments.embeddings:
        stored = embeddings.load(arguments.embeddings)
        rows = stored.select(files)
        features = stored.embed_raw(rows, flip=bool(stored.flip))["embedding"]
    else:
        features, weights = _embedded(arguments, files)
    names = sorted({one for split in splits.values() for one in split.identities})
    number = {name: code for code, name in enumerate(names)}
    results, notes = {}, {}
    for aggregation, confidence in weights.items():
        parts = [
            _scored(split, features, confidence, number) for split in splits.values()
        ]
        try:
            values, reasons = _measured(parts, aggregation, arguments.resamples)
        except ValueError as error:  # scores that are not finite
            raise UserError(f"{arguments.table}: {error}") from None
        results |= values
        notes |= reasons
    for name, value in results.items():
        if not name.partition(":")[0].endswith(("_low", "_high")):
            print(f"{name:<40} {value:.4f}", flush=True)  # first: writing may fail
    print_notes(notes)
    path = Path(arguments.to) / "results.json"
    write(path, results, notes)
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


def _scored(
    split: Any,
    features: np.ndarray,
    confidence: np.ndarray | None,
    number: Mapping[str, int],
) -> Split:
    """Returns the scores of a split, with identities as numbers."""

    def fused(part):
        rows, template = split.image[part], split.template[part]
        if confidence is None:
            return templates.averaged(features[rows], template)
        return templates.fused(features[rows], confidence[rows], template)

    (probes, first), (gallery, second) = fused(split.probe), fused(~split.probe)
    codes = np.array([number[name] for name in split.identities])
    return Split(first @ second.T, codes[probes], codes[gallery])


def _measured(
    splits: Sequence[Split], aggregation: str, resamples: int | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns results with 95 % intervals over identities, and notes, by result key."""
    statistics = SplitStatistics(splits)
    if resamples is None:
        resamples = number_of_resamples(sum(one.scores.size for one in splits))
    present = np.concatenate([x for one in splits for x in (one.probes, one.gallery)])
    bounded, notes = bounds(
        "templates",
        statistics,
        intervals.identity_draws(present, resamples),
        resamples,
        len(np.unique(present)),
        ends=lambda name, end: f"{name}{end}:{aggregation}",
        progress=f"{aggregation}: intervals",
    )
    values = {f"templates/{n}:{aggregation}": x for n, x in statistics().items()}
    undefined = statistics.notes.items()
    notes |= {f"templates/{name}:{aggregation}": why for name, why in undefined}
    return values | bounded, notes
