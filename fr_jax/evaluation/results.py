"""Results of an evaluation: results.json, figures, a table."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from fr_jax.embedder import Embedder
from fr_jax.embedder.description import read_json
from fr_jax.evaluation.evaluator import Evaluator, Trained
from fr_jax.evaluation.verification import Verification
from fr_jax.metrics.verification import FARS, few_impostors
from fr_jax.report import figures

Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def evaluate_and_write(
    evaluators: Sequence[Evaluator],
    embedders: Mapping[str, Embedder],
    folder: epath.Path,
) -> Curves:
    """Returns (scores, same) of every verification set, by its result key.

    Writes results.json and figures to a folder and prints a table. Verification sets
    with training identities of the embedder are marked as seen.

    Args:
      embedders: by name; 'embedding' gives the embeddings of verification sets.
    """
    first = embedders.get("embedding") or next(iter(embedders.values()))
    provenance = first.provenance
    trained = Trained(first.embed_raw, embedders)
    seen = provenance.get("identities", {}), first.digests
    results, curves, drawn, unknown = {}, {}, [], []
    for evaluator in evaluators:
        if isinstance(evaluator, Verification):
            evaluator = evaluator.mark_seen(*seen)
            unknown += [evaluator.name] * evaluator.unknown
            results |= evaluator(trained, progress=evaluator.name)
            curves[evaluator.key] = evaluator.curve
        else:
            results |= evaluator(trained)
        if draw := getattr(evaluator, "draw", None):
            drawn.append(draw)
    results |= _selected(provenance.get("selection"), results)
    results = finite(results)
    if jax.process_index() == 0:
        if lines := table(results):
            print(lines)  # first: writing may fail
        if note := provenance.get("note"):
            print(f"note: {note}", flush=True)
        if unknown:
            sets = ", ".join(unknown)
            print(f"note: cannot tell whether identities of {sets} were trained on")
        write(folder / "results.json", results)
        if curves:
            figures.roc(curves, folder / "figures/roc.png")
            figures.cosines(curves, folder / "figures/cosines.png")
        print(f"results: {folder / 'results.json'}")
        for draw in drawn:
            for path in draw(folder / "figures"):
                print(f"figure: {path}")
    return curves


def finite(results: Mapping[str, float]) -> dict[str, float]:
    """Returns the results that are numbers; prints the names of the others."""
    kept = {name: value for name, value in results.items() if math.isfinite(value)}
    if undefined := ", ".join(name for name in results if name not in kept):
        print(f"undefined for these images, not in the results: {undefined}")
    return kept


def write(path: epath.PathLike, results: Mapping[str, Any]) -> None:
    """Writes results as strict JSON, atomically; creates missing folders."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1, allow_nan=False))
    part.replace(path)


def stored_results(path: str) -> dict[str, float]:
    """Returns results.json of an embedder's folder or of its run; {} if missing."""
    folder = epath.Path(path)
    folders = [folder, folder.parent] if folder.name == "embedder" else [folder]
    for folder in folders:
        try:
            results = read_json(folder / "results.json")
            return {key: float(value) for key, value in results.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return {}


def _selected(selection: Mapping | None, results: Mapping) -> dict[str, float]:
    """Returns the mean accuracy of a run's selection sets, with their kind as key."""
    names = [f"{name}/accuracy" for name in (selection or {}).get("sets", ())]
    if not selection or not names or not results.keys() >= set(names):
        return {}
    mean = sum(results[name] for name in names) / len(names)
    return {f"selection_{selection['kind']}/accuracy": mean}


def summary(results: Mapping[str, float]) -> str:
    """Returns the accuracies and landmark errors in results as one line."""
    ends = ("_std", "_low", "_high")
    names = [
        key
        for key in results
        if ("/accuracy" in key and not key.endswith(ends)) or key.endswith("/nme")
    ]
    return "  ".join(f"{name} {results[name]:.4f}" for name in names)


def table(results: Mapping[str, float]) -> str:
    """Returns the accuracies, TARs and landmark errors in results as lines of text.

    A TAR with fewer than 10 / FAR impostor pairs has an asterisk; folds that are not
    those of the protocol, and pairs left out, are in brackets.
    """
    lines, footnote = [], []
    for key, value in results.items():
        name, _, metric = key.partition("/")
        metric, colon, variant = metric.partition(":")
        if metric == "nme" and not colon:
            lines.append(_landmark_line(name, results))
        if metric != "accuracy":
            continue
        suffix = colon + variant
        text = f"{name + suffix:<24} accuracy {100 * value:6.2f} %"
        if (spread := results.get(f"{name}/accuracy_std{suffix}")) is not None:
            text += f" +- {100 * spread:.2f}"
        remarks = {
            "stratified folds": results.get(f"{name}/stratified_folds{suffix}"),
            "pairs dropped": results.get(f"{name}/dropped_pairs"),
        }
        remarks = [f"{n:.0f} {what}" for what, n in remarks.items() if n]
        for far in () if suffix else FARS:
            if (tar := results.get(f"{name}/tar@far={far}")) is None:
                continue
            text += f"   TAR@FAR={far} {100 * tar:6.2f} %"
            impostors = results.get(f"{name}/impostor_pairs", math.inf)
            if few_impostors(float(far), impostors):
                text += "*"
                footnote = ["* fewer than 10/FAR impostor pairs"]
        if remarks:
            text += f"   ({', '.join(remarks)})"
        lines.append(text)
    return "\n".join(lines + footnote)


def _landmark_line(name: str, results: Mapping[str, float]) -> str:
    """Returns the errors of a set of landmarks as text."""
    shares = {
        "error": "nme",
        "mean shape": "nme:mean_shape",
        "AUC at 8 %": "auc@nme=0.08",
        "failures": "failure_rate@nme=0.08",
        "no face": "missed",
    }
    texts = [
        f"{label} {100 * results[f'{name}/{key}']:.2f} %"
        for label, key in shares.items()
        if f"{name}/{key}" in results
    ]
    return f"{name:<24} {', '.join(texts)}"
