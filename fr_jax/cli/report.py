"""`fr-jax report`: compare evaluations in one HTML file.

DIR is a folder of `fr-jax evaluate`, or a folder of such folders. The report has all
results with their intervals, the paired differences of the later embedders from the
first one, ROC and DET curves, histograms, the hardest pairs, the protocols and the
origin of the embedders. It is one file, which needs no network.

A folder with results.json alone, as of training, has its numbers in the tables only.

Examples:
    fr-jax report mbf_results cfp_results --to report.html
    fr-jax report published=mbf_results own=cfp_results --to report.html --no-images
"""

import argparse
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fr_jax.cli.targets import check_writable
from fr_jax.errors import UserError
from fr_jax.evaluation import stored
from fr_jax.report import html
from fr_jax.report.runs import Run


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    text = "folder with results, or NAME=DIR with a name for its column"
    add("folders", nargs="+", metavar="DIR", help=text)
    add("--to", required=True, metavar="FILE", help="new or replaced .html file")
    add("--no-images", action="store_true", help="leave out the faces of hardest pairs")


def run(arguments: argparse.Namespace) -> None:
    """Writes the report."""
    target = Path(arguments.to)
    if target.suffix not in (".html", ".htm"):
        raise UserError(f"--to {target}: the name must end in .html")
    if target.is_dir():
        raise UserError(f"--to {target} is a folder; name a file")
    check_writable("--to", target, file=True)
    runs = _named([run for text in arguments.folders for run in _runs(text)])
    html.write(runs, target, images=not arguments.no_images)
    count = len({one.name for one in runs for one in one.sets})
    size = target.stat().st_size / 1e6
    print(f"report: {target} ({len(runs)} embedders, {count} sets, {size:.1f} MB)")


def _runs(text: str) -> Iterable[tuple[str, str, Run]]:
    """Yields given name, folder and content of each evaluation of an argument."""
    name, folder = "", text
    if not os.path.lexists(text) and (match := re.fullmatch(r"([^/=]+)=(.+)", text)):
        name, folder = match.groups()
    path = Path(folder)
    if not path.is_dir():
        what = "is no folder" if path.exists() else "no such folder"
        raise UserError(f"{folder}: {what}")
    below = sorted(one.parent for one in path.glob(f"*/{stored.RESULTS}"))
    if (path / stored.RESULTS).exists() or not below:
        yield name, folder, stored.load(path, name=name)
        return
    for one in below:
        own = f"{name} {one.name}" if name else ""
        yield own, str(one), stored.load(one, name=own)


def _named(loaded: list[tuple[str, str, Run]]) -> list[Run]:
    """Returns the runs with different names: of equal ones, with their folder.

    Raises:
      UserError: for a name or a folder that is given twice.
    """
    names = [run.name for _, _, run in loaded]
    runs: list[Run] = []
    for given, folder, run in loaded:
        name = run.name
        if not given and names.count(name) > 1:
            name = f"{name} ({folder})"
        if any(name == other.name for other in runs):
            raise UserError(f"{name}: given twice; name the runs: NAME=DIR")
        runs.append(run._replace(name=name))
    return runs
