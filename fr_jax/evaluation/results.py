"""Results of an evaluation: results.json, figures, a table."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from fr_jax.embedder.description import read_json
from fr_jax.evaluation import origin, result_lines, stored
from fr_jax.evaluation.evaluated import evaluated
from fr_jax.evaluation.evaluator import Evaluator, Trained
from fr_jax.evaluation.uncertainty import Intervals, of_results
from fr_jax.evaluation.verification import Verification
from fr_jax.metrics.verification import few_impostors
from fr_jax.report import figures
from fr_jax.report.runs import EvaluatedSet, Run

Curves = dict[str, tuple[np.ndarray, np.ndarray]]


class Evaluation(NamedTuple):
    """What was evaluated and written.

    Attributes:
      curves: (scores, same) of every verification set, by its result key.
      sets: the verification sets, marked as seen, with their last scores.
      run: as reports compare it; without sets in processes other than the first.
    """

    curves: Curves
    sets: list[Verification]
    run: Run


def evaluate_and_write(
    evaluators: Sequence[Evaluator],
    embedders: Mapping[str, Any],
    folder: epath.Path,
    *,
    name: str = "",
    resamples: int | None = None,
    images: bool = False,
) -> Evaluation:
    """Evaluates networks; writes results, scores and figures, and prints a table.

    Verification sets with training identities of the embedder are marked as seen. Their
    results have bootstrap intervals, here and not while training.

    Args:
      embedders: by name; 'embedding' gives the embeddings of verification sets, and
        may be `StoredEmbeddings`.
      name: of the embedder in reports; default: that of the folder.
      resamples: of the intervals; default: see `intervals.number_of_resamples`.
      images: store thumbnails of the hardest pairs.
    """
    first = embedders.get("embedding") or next(iter(embedders.values()))
    provenance = first.provenance
    trained = Trained(first.embed_raw, embedders)
    seen = provenance.get("identities", {}), first.digests
    results, notes, sets, drawn, stored_sets = {}, {}, [], [], []
    writes = jax.process_index() == 0
    for evaluator in evaluators:
        if mark := getattr(evaluator, "mark_seen", None):
            evaluator = mark(*seen)
        if isinstance(evaluator, Verification):
            sets.append(evaluator)
        options = {}
        if isinstance(evaluator, Verification) or hasattr(evaluator, "stored_set"):
            options["progress"] = getattr(evaluator, "name", "")
        results |= evaluator(trained, **options)
        if writes:
            bounds, described = _described(evaluator, resamples, images)
            results |= bounds.values
            notes |= bounds.notes
            stored_sets += described
        notes |= getattr(evaluator, "notes", {})
        if draw := getattr(evaluator, "draw", None):
            drawn.append(draw)
    results |= _selected(provenance.get("selection"), results)
    results, undefined = finite(results)
    notes = undefined | notes
    curves = {one.key: one.curve for one in sets if one.curve}
    about = origin.about(name or folder.name, first) if stored_sets else {}
    run = Run(about.get("name", name), results, notes, about, {}, tuple(stored_sets))
    if writes:
        if stored_sets:
            run = run._replace(versions=origin.versions())
        unknown = [one.name for one in stored_sets if one.unknown]
        _print(results, notes, provenance, unknown)  # first: writing may fail
        write(folder / "results.json", results, notes)
        if stored_sets:
            stored.save(folder, run)
        if shown := of_both_kinds(curves):
            figures.roc(shown, folder / "figures/roc.png")
            figures.cosines(shown, folder / "figures/cosines.png")
        print(f"results: {folder / 'results.json'}")
        for draw in drawn:
            for path in draw(folder / "figures"):
                print(f"figure: {path}")
    return Evaluation(curves, sets, run)


def _described(
    evaluator: Any, resamples: int | None, images: bool
) -> tuple[Intervals, list[EvaluatedSet]]:
    """Returns intervals of the last result, and what is stored of the set, if any."""
    label = f"{getattr(evaluator, 'name', '')}: intervals"
    if isinstance(evaluator, Verification):
        options = {"images": images, "resamples": resamples}
        bounds = of_results(evaluator, resamples, progress=label)
        return bounds, [evaluated(evaluator, **options)]
    bounds = Intervals({}, {})
    if measure := getattr(evaluator, "intervals", None):
        bounds = Intervals(*measure(resamples, progress=label))
    stored_set = getattr(evaluator, "stored_set", None)
    return bounds, [stored_set()] if stored_set else []


def of_both_kinds(curves: Curves) -> Curves:
    """Returns the curves of sets with genuine and impostor pairs."""
    return {name: (x, same) for name, (x, same) in curves.items() if len(set(same)) > 1}


def _print(
    results: Mapping[str, float],
    notes: Mapping[str, str],
    provenance: Mapping[str, Any],
    unknown: Sequence[str],
) -> None:
    if lines := table(results):
        print(lines)
    if note := provenance.get("note"):
        print(f"note: {note}", flush=True)
    if unknown := ", ".join(unknown):
        print(f"note: cannot tell whether identities of {unknown} were trained on")
    print_notes(notes)


def print_notes(notes: Mapping[str, str]) -> None:
    """Prints which metrics are undefined, one line per reason."""
    for reason in dict.fromkeys(notes.values()):
        names = [name for name, text in notes.items() if text == reason]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        print(f"note: {', '.join(names[:4])}{more}: {reason}")


def finite(
    results: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the results that are numbers, and notes on the others."""
    kept = {name: value for name, value in results.items() if math.isfinite(value)}
    reason = "undefined for these images"
    return kept, {name: reason for name in results if name not in kept}


def write(
    path: epath.PathLike, results: Mapping[str, Any], notes: Mapping[str, str] = {}
) -> None:
    """Writes results as strict JSON, atomically; creates missing folders.

    Args:
      notes: why a metric is undefined, by its key; written as `notes` if there are any.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    content = {**results, "notes": dict(notes)} if notes else results
    part.write_text(json.dumps(content, indent=1, allow_nan=False))
    part.replace(path)


def stored_results(path: str) -> dict[str, float]:
    """Returns results.json of an embedder's folder or of its run; {} if missing."""
    folder = epath.Path(path)
    folders = [folder, folder.parent] if folder.name == "embedder" else [folder]
    for folder in folders:
        try:
            results = read_json(folder / "results.json")
            results.pop("notes", None)
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
    names = [
        key
        for key in results
        if key.partition("/")[2].partition(":")[0] == "accuracy" or key.endswith("/nme")
    ]
    return "  ".join(f"{name} {results[name]:.4f}" for name in names)


def table(results: Mapping[str, float]) -> str:
    """Returns the accuracies, TARs and landmark errors in results as lines of text.

    A TAR with fewer than 10 / FAR impostor pairs, or a TPIR with fewer than 10 / FPIR
    non-mated searches, has an asterisk; folds that are not those of the protocol, and
    pairs left out, are in brackets.
    """
    lines = []
    for key, value in results.items():
        name, _, metric = key.partition("/")
        metric, colon, variant = metric.partition(":")
        if metric == "nme" and not colon:
            lines.append(_landmark_line(name, results))
        lines += result_lines.of_metric(name, metric, colon + variant, results)
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
        for far in _fars(name, suffix, results):
            tar = results[f"{name}/tar@far={far}{suffix}"]
            text += f"   TAR@FAR={far} {100 * tar:6.2f} %"
            impostors = results.get(f"{name}/impostor_pairs", math.inf)
            if few_impostors(float(far), impostors):
                text += "*"
        if remarks:
            text += f"   ({', '.join(remarks)})"
        lines.append(text)
    footnotes = [
        f"* fewer than 10/{rate} {what}"
        for rate, what in (("FAR", "impostor pairs"), ("FPIR", "non-mated searches"))
        if any(f"@{rate}=" in line and "*" in line for line in lines)
    ]
    return "\n".join(lines + footnotes)


def _fars(name: str, suffix: str, results: Mapping[str, float]) -> list[str]:
    """Returns the FARs of a set's TARs, as text; not those over folds."""
    start = f"{name}/tar@far="
    texts = (key.removeprefix(start) for key in results if key.startswith(start))
    parts = (text.partition(":") for text in texts)
    return [
        far
        for far, colon, variant in parts
        if "_" not in far and colon + variant == suffix
    ]


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
