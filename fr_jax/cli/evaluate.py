"""`fr-jax evaluate`: evaluate embedders by verification, generators or augmenters.

DIR/report.html shows the results with their intervals, curves and the hardest pairs; it
is one file. Of several embedders it also has the paired differences, which are printed
too. `fr-jax report` makes it from several results. If DIR is the folder of the
embedder, its results are stored with it, and `fr-jax compare` decides by their
thresholds whether two faces match.

--calibrate FAR finds the threshold for a false accept rate on the pairs of one set, and
stores it with the embedder, for `fr-jax compare` and `fr-jax export`.

Give --embedder, or --embeddings of `fr-jax embed`, and sets; --generator; or
--augmenter. Stored embeddings are found by the names of the images of a set, which are
not opened, but in a .bin. A set is verification pairs, or has one of the protocols ijb,
identification and clustering. Pairs are an
insightface .bin, a pairs.txt as of LFW (View 1 or 2), a list of CALFW or CPLFW, a
protocol folder of CFP, a list of lines `label path path` or `path path label`, or
labelled records, from which genuine and impostor pairs are drawn. Images may have
another suffix than in the list.

Options of verification pairs:
    root=DIR        folder of the images
    protocol=P      insightface (folds of the set, flip-summed embeddings; default if
                    the set has folds, and for records), kfold (ten random folds;
                    default for lists), paper (no folds: the best threshold on the
                    evaluated pairs), magface (embeddings less the mean of the other
                    folds, no flip) or curricularface
    far=R+R...      false accept rates, default 1e-2+1e-3
    identities=A:B  of records: identities A to B, both included, or @FILE
    identities=FILE of other sets: the identity of each image, one a line, or `path
                    identity` lines of a list, or the list of the same pairs (LFW's for
                    lfw.bin); intervals are then over identities
    quality=Q       norm (length of the embedding), or a file of lines `name quality`;
                    the error rate without the pairs of the lowest quality
    groups=FILE     lines `name group`; error rates within groups, and their spread; the
                    name is that of an image in the list, or of an identity
    missing=M       pairs whose images are missing: error (default), or drop, which
                    leaves them out and writes their number to the results
    lag_mode=M      truncated lines of a list, as in that of the LAG data set: drop
                    (default) skips them, original reads them as its authors' code
protocol=ijb, of the folder of IJB-B or IJB-C, with the published lists in meta:
    root=DIR        folder of the images, default loose_crop
    crop=C          loose (default; aligned by the published points) or aligned
    variant=V       insightface (default) or magface, and their switches: flip, norm and
                    detector (yes or no: mirror images, length of embeddings, score of
                    the detector), media (mean, or unit: means of length 1)
    missing=M       error (default) or drop
protocol=identification, of such a folder, of a CSV of templates as for `fr-jax
templates`, or of labelled faces: a folder of <identity>/*.jpg, records, a CSV with the
columns file and identity (and root=DIR), or the file of --embeddings itself:
    gallery=N       of labelled faces: the first N images of an identity are in the
                    gallery (default 1), the others are probes
    galleries=N     1 (default), or 2: identities are halved at random, and all probes
                    are searched in both halves, as in IJB; for rates of an open set
    search=S        exact (default), or faiss for galleries of millions
    flip=F          yes (default) or no
protocol=clustering, of labelled faces:
    method=M        average (default) or single linkage
    threshold=T     cosine; default: the best one on this set
    clusters=FILE   CSV with the columns file and cluster, of any program, instead
    flip=F          yes (default) or no
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
    fr-jax evaluate --embedder mbf --set lfw=lfw.bin,identities=pairs.txt --to mbf
    fr-jax evaluate --embedder mbf --set own=own.bin --calibrate 1e-3 --to mbf
    fr-jax evaluate --embedder mbf --set ijbc=IJBC,protocol=ijb --to mbf
    fr-jax evaluate --embeddings faces.npz \\
        --set own=faces.npz,protocol=clustering --to out
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
from fr_jax.embedder import calibration, load_embedder
from fr_jax.embedder.inputs import UNALIGNED
from fr_jax.errors import UserError, check_range
from fr_jax.evaluation import differences, embeddings, sets
from fr_jax.evaluation.calibration import calibrate, check_impostors
from fr_jax.evaluation.embeddings import StoredEmbeddings
from fr_jax.evaluation.results import evaluate_and_write, of_both_kinds
from fr_jax.evaluation.verification import Verification
from fr_jax.report import figures, html
from fr_jax.report.comparison import compare


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    repeated: Any = {"action": "append", "default": [], "metavar": "EMBEDDER"}
    add("--embedder", **repeated, help="embedder folder; may be repeated")
    text = "file of embeddings instead, by `fr-jax embed`; may be repeated"
    add("--embeddings", **repeated | {"metavar": "FILE"}, help=text)
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
    text = "store the threshold for this false accept rate with the embedder"
    add("--calibrate", type=float, metavar="FAR", help=text)
    text = "store and show no faces of the hardest pairs"
    add("--no-images", action="store_true", help=text)
    text = (
        "resamples of the 95 %% intervals; default: 1000, of over a million pairs 200"
    )
    add("--resamples", type=int, metavar="N", help=text)
    text = "with --generator: embedder that measures how well identity is preserved"
    add("--recogniser", metavar="EMBEDDER", help=text)
    text = "with --generator: embedder for the kernel inception and Frechet distances; "
    text += "default: that of --recogniser, else histograms of gradients"
    add("--features", metavar="EMBEDDER", help=text)
    text = "with --generator and a set of records: its identities A to B train the "
    text += "classifier that measures the pose accuracy; default: not measured"
    add("--pose-identities", default="", metavar="A:B", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Evaluates embedders, generators or augmenters."""
    cpu.keep_freed_memory()
    embedders = bool(arguments.embedder or arguments.embeddings)
    if embedders + bool(arguments.generator) + bool(arguments.augmenter) != 1:
        raise UserError(
            "give either --embedder or --generator or --augmenter, once or more; "
            "--embeddings stands for an embedder"
        )
    check_writable("--to", arguments.to)
    if arguments.given and not arguments.augmenter:
        raise UserError("--given needs --augmenter")
    of_embedders = ("unaligned", "calibrate", "no_images")
    for flag in () if embedders else of_embedders:
        if getattr(arguments, flag) not in (None, False):
            raise UserError(f"--{flag.replace('_', '-')} needs --embedder")
    if arguments.resamples is not None:
        if arguments.augmenter:
            raise UserError("--resamples needs --embedder or --generator")
        check_range("--resamples", arguments.resamples, 20, 1_000_000)
    if arguments.generator:
        from fr_jax.systems.dr_gan.comparison import evaluate_generators

        evaluate_generators(arguments)
        return
    for flag in ("recogniser", "features", "pose_identities"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} needs --generator")
    if arguments.augmenter:
        from fr_jax.systems.fra.comparison import evaluate_augmenters

        evaluate_augmenters(arguments)
        return
    _evaluate_embedders(arguments)


def _evaluate_embedders(arguments: argparse.Namespace) -> None:
    if not arguments.set:
        raise UserError("give a verification set: --set NAME=PATH")
    if arguments.calibrate is not None:
        _check_calibration(arguments)
    embedders: dict[str, Any] = {}
    for path in arguments.embedder:
        embedders[_label(path)] = load_embedder(path)
    sides = {one.network.input_spec.size for one in embedders.values()}
    for path in arguments.embeddings:
        embedders[Path(path).stem] = embeddings.load(path)
    if len(embedders) < len(arguments.embedder) + len(arguments.embeddings):
        raise UserError("--embedder: two embedders have one name; rename a folder")
    options: dict[str, Any] = {"sides": sides, "unaligned": arguments.unaligned}
    # Of stored embeddings a set has rows of their file, and no images.
    files = [one for one in embedders.values() if isinstance(one, StoredEmbeddings)]
    sources = [*([None] if arguments.embedder else []), *files]
    by_source = {
        stored: [sets.parse(text, **options, stored=stored) for text in arguments.set]
        for stored in sources
    }
    evaluators = next(iter(by_source.values()))
    names = [evaluator.name for evaluator in evaluators]
    if len(set(names)) < len(names):
        raise UserError(f"--set: two sets have one name, in {', '.join(names)}")
    if arguments.calibrate is not None:
        if not isinstance(evaluators[0], Verification):
            raise UserError("--calibrate needs a set of verification pairs")
        check_impostors(evaluators[0], arguments.calibrate)
    for one in evaluators:
        print(f"{one.name}: {one.summary}")
    target = epath.Path(arguments.to)
    images = not (arguments.no_images or arguments.embeddings)
    options = {"resamples": arguments.resamples, "images": images}
    curves, evaluations = {}, []
    for label, embedder in embedders.items():
        folder = target if len(embedders) == 1 else target / label
        networks = {"embedding": embedder}
        evaluators = by_source.get(embedder) or by_source[None]
        done = evaluate_and_write(evaluators, networks, folder, name=label, **options)
        evaluations.append(done)
        curves |= {f"{label}: {name}": curve for name, curve in done.curves.items()}
        if arguments.calibrate is not None:
            path = arguments.embedder[len(evaluations) - 1]
            _calibrate(done.sets[0], path, arguments)
    runs = [one.run for one in evaluations]
    compared = {}
    if len(runs) > 1:
        if shown := of_both_kinds(curves):
            figures.roc(shown, target / "figures/roc.png")
        pairs = {one.name: one for one in evaluations[0].sets}
        for stored in runs[0].sets:
            one = pairs.get(stored.name, stored)
            compared[one.name] = compare(runs, one.name, resamples=arguments.resamples)
            for line in differences.lines(one, runs, compared[one.name]):
                print(line)
    if of_both_kinds(curves):
        print(f"figure: {target / 'figures/roc.png'}")
    options["compared"] = compared
    html.write(runs, target / "report.html", **options)
    print(f"report: {target / 'report.html'}")


def _check_calibration(arguments: argparse.Namespace) -> None:
    far = arguments.calibrate
    if not 0 < far < 1:
        raise UserError(f"--calibrate is {far:g}; use a rate above 0 and below 1")
    if len(arguments.set) > 1:
        raise UserError(
            f"--calibrate takes the pairs of one set; {len(arguments.set)} are given"
        )
    if arguments.embeddings:
        raise UserError(
            "--calibrate stores a threshold with an embedder; give --embedder"
        )
    for path in arguments.embedder:
        if Path(path).is_file():
            raise UserError(
                f"--calibrate stores a threshold with the embedder, and {path} is a "
                "weight file: fr-jax import makes an embedder of it"
            )
        check_writable("--embedder", path)


def _calibrate(one: Verification, path: str, arguments: argparse.Namespace) -> None:
    """Stores the threshold of an evaluated set with an embedder."""
    found = calibrate(one, arguments.calibrate, resamples=arguments.resamples)
    stored = calibration.write(path, found)
    print(f"calibrated: {found.describe()}")
    if found.seen:
        print(f"note: the embedder was trained on identities of {one.name}")
    print(f"calibration: {stored}")


def _label(path: str) -> str:
    """Returns the name of an embedder's folder, or of its run's."""
    folder = Path(path).resolve()
    return folder.parent.name if folder.name == "embedder" else folder.name
