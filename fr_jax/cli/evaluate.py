"""`fr-jax evaluate`: evaluates embedders on verification sets, or generators."""

import argparse
from pathlib import Path
from typing import Any

from etils import epath

from fr_jax.backend import cpu
from fr_jax.embedder import load_embedder
from fr_jax.errors import UserError
from fr_jax.evaluation import sets
from fr_jax.evaluation.results import evaluate_and_write
from fr_jax.report import figures


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("--embedder", action="append", default=[], metavar="E")
    add(
        "--generator",
        action="append",
        default=[],
        metavar="E",
        help="WORKDIR/embedder_generator; a discriminator beside it is used too",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=PATH[,root=DIR][,protocol=P]",
        help="verification pairs; of a generator one set of records, "
        "NAME=RECORDS[,identities=A:B][,expression=X], or NAME=rendered[,identities=N] "
        "(default: 40)",
    )
    add("--to", required=True, metavar="DIR", help="results.json and figures go here")
    add("--recogniser", metavar="E", help="of a generator: measures who is in an image")
    add("--features", metavar="E", help="of a generator: of the distance between sets")
    add(
        "--pose-identities",
        default="",
        metavar="A:B",
        help="of a generator: identities of the records to train a pose classifier on",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluates as asked; returns the exit code."""
    cpu.keep_freed_memory()
    if bool(arguments.embedder) == bool(arguments.generator):
        raise UserError("give either --embedder or --generator, one or several")
    if arguments.generator:
        from fr_jax.systems.dr_gan.comparison import evaluate_generators

        return evaluate_generators(arguments)
    for flag in ("recogniser", "features", "pose_identities"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} goes with --generator")
    if not arguments.set:
        raise UserError("give what to evaluate on: --set NAME=PATH")
    evaluators = [sets.parse(text) for text in arguments.set]
    names = [evaluator.name for evaluator in evaluators]
    if len(set(names)) < len(names):
        raise UserError(f"--set: two sets of one name among {', '.join(names)}")
    embedders = {label_of(path): load_embedder(path) for path in arguments.embedder}
    if len(embedders) < len(arguments.embedder):
        raise UserError("--embedder: the same embedder is given twice")
    target = epath.Path(arguments.to)
    curves = {}
    for label, embedder in embedders.items():
        folder = target if len(embedders) == 1 else target / label
        found = evaluate_and_write(evaluators, {"embedding": embedder}, folder)
        curves |= {f"{label}: {name}": curve for name, curve in found.items()}
    if len(embedders) > 1:
        figures.roc(curves, target / "figures/roc.png")
    print(f"figure: {target / 'figures/roc.png'}")
    return 0


def label_of(path: str) -> str:
    """Returns a short name of an embedder: its run's folder."""
    whole = Path(path).resolve()
    return whole.parent.name if whole.name == "embedder" else whole.name
