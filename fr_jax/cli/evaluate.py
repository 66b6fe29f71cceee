"""`fr-jax evaluate`: evaluate embedders by verification, generators or augmenters.

Several embedders or generators are also compared in one figure. If DIR is the folder of
the embedder, its results are stored with it, and `fr-jax compare` decides by their
thresholds whether two faces match.

Give --embedder and verification pairs, --generator, or --augmenter. Pairs are an
insightface .bin, a pairs.txt as of LFW (View 1 or 2), a protocol folder of CFP, a list
of lines `label path path` or `path path label`, or labelled records, from which genuine
and impostor pairs are drawn. Images may have another suffix than in the list.

Options of verification pairs:
    root=DIR        folder of the images
    protocol=P      insightface (folds of the set, flip-summed embeddings; default if
                    the set has folds, and for records), kfold (ten random folds;
                    default for lists), or paper (no folds: the best threshold on the
                    evaluated pairs)
    identities=A:B  of records: identities A to B, both included, or @FILE
    missing=M       pairs whose images are missing: error (default), or drop, which
                    leaves them out and writes their number to the results
    lag_mode=M      truncated lines of a list, as in that of the LAG data set: drop
                    (default) skips them, original reads them as its authors' code
With --generator, if --set is left out, 40 identities are rendered; else its form is:
    NAME=RECORDS[,identities=A:B][,expression=E]    identities A to B, both included;
                                                    only images labelled E, as neutral
    NAME=rendered[,identities=N]                    N identities, rendered for this
With --augmenter and --given embedder=EMBEDDER, if --set is left out, 14 identities are
rendered; else its form is:
    NAME=RECORDS[,OPTION=VALUE]...   or   NAME=rendered[,OPTION=VALUE]...
    identities=A:B  identities A to B of records; of rendered ones their number
    protocol=P      clean (default; unseen identities, training and test images are
                    different) or original (as the authors' program)
    classifiers=C   svm (default), knn, logistic; several as svm+knn
    repeats=N       repetitions of protocol clean, each with another seed (default 5)
    tuples=N        first tuples of the authors' enumeration, of protocol original
                    (default 10000)

Examples:
    fr-jax evaluate --embedder mbf --set lfw=lfw.bin --to mbf
    fr-jax evaluate --generator runs/faces/embedder_generator --recogniser mbf --to out
    fr-jax evaluate --augmenter runs/fra/embedder_augmenter \\
        --given embedder=mbf --to out
"""

import argparse
from pathlib import Path
from typing import Any

from etils import epath

from fr_jax.backend import cpu
from fr_jax.cli.targets import check_writable
from fr_jax.embedder import load_embedder
from fr_jax.embedder.inputs import UNALIGNED
from fr_jax.errors import UserError
from fr_jax.evaluation import sets
from fr_jax.evaluation.results import evaluate_and_write
from fr_jax.report import figures


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    repeated: Any = {"action": "append", "default": [], "metavar": "EMBEDDER"}
    add("--embedder", **repeated, help="embedder folder; may be repeated")
    text = "generator folder, WORKDIR/embedder_generator; may be repeated"
    add("--generator", **repeated | {"metavar": "GENERATOR"}, help=text)
    text = "augmenter folder, WORKDIR/embedder_augmenter; may be repeated"
    add("--augmenter", **repeated | {"metavar": "AUGMENTER"}, help=text)
    text = "with --augmenter: embedder=EMBEDDER, the one that it was trained with, and "
    text += "landmarks=REGRESSOR for records without landmarks"
    add("--given", **repeated | {"metavar": "NAME=EMBEDDER"}, help=text)
    repeated["metavar"] = "NAME=PATH[,OPTION=VALUE]..."
    add("--set", **repeated, help="evaluation set; may be repeated; see below")
    add("--to", required=True, metavar="DIR", help="folder of results.json and figures")
    add("--unaligned", **UNALIGNED)
    text = "with --generator: embedder that measures how well identity is preserved"
    add("--recogniser", metavar="EMBEDDER", help=text)
    text = "with --generator: embedder for the kernel inception distance"
    add("--features", metavar="EMBEDDER", help=text)
    text = "with --generator and a set of records: its identities A to B train the "
    text += "classifier that measures the pose accuracy; default: not measured"
    add("--pose-identities", default="", metavar="A:B", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates embedders, generators or augmenters."""
    cpu.keep_freed_memory()
    kinds = "embedder", "generator", "augmenter"
    if sum(bool(getattr(arguments, kind)) for kind in kinds) != 1:
        raise UserError(
            "give either --embedder or --generator or --augmenter, once or more"
        )
    check_writable("--to", arguments.to)
    if arguments.given and not arguments.augmenter:
        raise UserError("--given needs --augmenter")
    if arguments.generator:
        if arguments.unaligned:
            raise UserError("--unaligned needs --embedder")
        from fr_jax.systems.dr_gan.comparison import evaluate_generators

        evaluate_generators(arguments)
        return
    for flag in ("recogniser", "features", "pose_identities"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} needs --generator")
    if arguments.augmenter:
        if arguments.unaligned:
            raise UserError("--unaligned needs --embedder")
        from fr_jax.systems.fra.comparison import evaluate_augmenters

        evaluate_augmenters(arguments)
        return
    if not arguments.set:
        raise UserError("give a verification set: --set NAME=PATH")
    embedders = {_label(path): load_embedder(path) for path in arguments.embedder}
    if len(embedders) < len(arguments.embedder):
        raise UserError("--embedder: two embedders have one name; rename a folder")
    sides = {one.network.input_spec.size for one in embedders.values()}
    options = {"sides": sides, "unaligned": arguments.unaligned}
    evaluators = [sets.parse(text, **options) for text in arguments.set]
    names = [evaluator.name for evaluator in evaluators]
    if len(set(names)) < len(names):
        raise UserError(f"--set: two sets have one name, in {', '.join(names)}")
    for one in evaluators:
        named = "unnamed"
        if one.identities is not None:
            named = f"{len(set(one.identities)):,}"
        print(
            f"{one.name}: {len(one.same):,} pairs of {len(one.images):,} images, "
            f"{named} identities"
        )
    target = epath.Path(arguments.to)
    curves = {}
    for label, embedder in embedders.items():
        folder = target if len(embedders) == 1 else target / label
        results = evaluate_and_write(evaluators, {"embedding": embedder}, folder)
        curves |= {f"{label}: {name}": curve for name, curve in results.items()}
    if len(embedders) > 1:
        figures.roc(curves, target / "figures/roc.png")
    print(f"figure: {target / 'figures/roc.png'}")


def _label(path: str) -> str:
    """Returns the name of an embedder's folder, or of its run's."""
    folder = Path(path).resolve()
    return folder.parent.name if folder.name == "embedder" else folder.name
