"""`fr-jax evaluate`: embedders and verification sets -> results.json and a figure."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from etils import epath

from fr_jax.embedder import Embedder, load_embedder
from fr_jax.errors import UserError
from fr_jax.evaluation.sets import parse_set
from fr_jax.evaluation.verification import EvaluationSet, judge, mark_seen
from fr_jax.report import figures


def run(arguments: argparse.Namespace) -> int:
    """Evaluates as asked; returns the exit code."""
    sets = [parse_set(text) for text in arguments.set]
    names = [evaluation_set.name for evaluation_set in sets]
    if len(set(names)) < len(names):
        raise UserError(f"--set: two sets of one name among {', '.join(names)}")
    embedders = {label_of(path): load_embedder(path) for path in arguments.embedder}
    if len(embedders) < len(arguments.embedder):
        raise UserError("--embedder: the same embedder is given twice")
    target = epath.Path(arguments.to)
    curves = {}
    for label, embedder in embedders.items():
        folder = target if len(embedders) == 1 else target / label
        found = judge_all(embedder, sets, folder)
        curves |= {f"{label}: {name}": curve for name, curve in found.items()}
    if len(embedders) > 1:
        figures.roc(curves, target / "figures/roc.png")
    print(f"figure: {target / 'figures/roc.png'}")
    return 0


def judge_all(
    embedder: Embedder, sets: Sequence[EvaluationSet], folder: epath.Path
) -> Mapping[str, tuple]:
    """Writes results.json and figures of an embedder; returns (scores, same) by set."""
    results, curves = {}, {}
    trained = embedder.provenance.get("people", {})
    for evaluation_set in sets:
        marked = mark_seen(evaluation_set, trained)
        judged = judge(marked, embedder.views, progress=True)
        results |= judged.results
        name = marked.name + "_seen" if marked.seen else marked.name
        curves[name] = judged.scores, judged.same
    results |= _selected(embedder.provenance.get("selection"), results)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(results, indent=1))
        figures.roc(curves, folder / "figures/roc.png")
        figures.cosines(curves, folder / "figures/cosines.png")
        print(table(results))
        if note := embedder.provenance.get("note"):
            print(f"note: {note}")
        print(f"results: {folder / 'results.json'}")
    return curves


def _selected(selection: Mapping | None, results: Mapping) -> dict[str, float]:
    """Mean accuracy of the sets that steered a run, named by how they were chosen."""
    names = [f"{name}/accuracy" for name in (selection or {}).get("sets", ())]
    if not selection or not names or not results.keys() >= set(names):
        return {}
    mean = sum(results[name] for name in names) / len(names)
    return {f"selection_{selection['kind']}/accuracy": mean}


def table(results: Mapping[str, float]) -> str:
    """Returns the accuracies and TARs among results as lines a person can read."""
    lines = []
    for key, value in results.items():
        name, _, metric = key.partition("/")
        metric, _, variant = metric.partition(":")
        if metric == "accuracy":
            suffix = f":{variant}" if variant else ""
            spread = results.get(f"{name}/accuracy_std{suffix}")
            text = f"{name + suffix:<24} accuracy {100 * value:6.2f} %"
            if spread is not None:
                text += f" +- {100 * spread:.2f}"
            for far in ("1e-2", "1e-3"):
                if (
                    not suffix
                    and (tar := results.get(f"{name}/tar@far={far}")) is not None
                ):
                    text += f"   TAR@FAR={far} {100 * tar:6.2f} %"
            lines.append(text)
    return "\n".join(lines)


def label_of(path: str) -> str:
    """Returns a short name of an embedder: its run's folder."""
    whole = Path(path).resolve()
    return whole.parent.name if whole.name == "embedder" else whole.name
