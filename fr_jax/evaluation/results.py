"""What an evaluation leaves behind: results.json, figures, a table."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from fr_jax.embedder import Embedder
from fr_jax.evaluation.evaluator import Evaluator, Trained
from fr_jax.evaluation.verification import Verification
from fr_jax.report import figures

Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def trained_of(embedders: Mapping[str, Embedder]) -> Trained:
    """Returns saved or handed-over embedders as evaluators see them."""
    return Trained(embedders["embedding"].embed_raw, embedders)


def evaluate_and_write(
    evaluators: Sequence[Evaluator],
    embedders: Mapping[str, Embedder],
    folder: epath.Path,
) -> Curves:
    """Runs evaluators on embedders; writes results.json and figures to a folder.

    Verification sets are marked where the embedder was trained on their identities.

    Args:
      embedders: by name, one of them 'embedding'.

    Returns:
      (scores, same) of every verification set, by its result key.
    """
    provenance = embedders["embedding"].provenance
    trained, seen = trained_of(embedders), provenance.get("identities", {})
    results, curves, drawn = {}, {}, []
    for evaluator in evaluators:
        if isinstance(evaluator, Verification):
            evaluator = evaluator.mark_seen(seen)
            results |= evaluator(trained, progress=evaluator.name)
            curves[evaluator.key] = evaluator.curve
        else:
            results |= evaluator(trained)
        if (draw := getattr(evaluator, "draw", None)) and jax.process_index() == 0:
            drawn += draw(folder / "figures")
    results |= _selected(provenance.get("selection"), results)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "results.json", results)
        if curves:
            figures.roc(curves, folder / "figures/roc.png")
            figures.cosines(curves, folder / "figures/cosines.png")
        print(table(results))
        if note := provenance.get("note"):
            print(f"note: {note}")
        print(f"results: {folder / 'results.json'}")
        for path in drawn:
            print(f"figure: {path}")
    return curves


def write(path: epath.PathLike, results: Mapping[str, Any]) -> None:
    """Writes results as strict JSON, as a whole or not at all."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1, allow_nan=False))
    part.replace(path)


def known_results(path: str) -> dict[str, float]:
    """Returns the results.json in an embedder's folder, or in its run's; {} if none."""
    folder = epath.Path(path)
    places = [folder, folder.parent] if folder.name == "embedder" else [folder]
    for place in places:
        try:
            found = json.loads((place / "results.json").read_text())
            return {key: float(value) for key, value in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return {}


def _selected(selection: Mapping | None, results: Mapping) -> dict[str, float]:
    """Mean accuracy of the sets that a run was steered by, named by how it was."""
    names = [f"{name}/accuracy" for name in (selection or {}).get("sets", ())]
    if not selection or not names or not results.keys() >= set(names):
        return {}
    mean = sum(results[name] for name in names) / len(names)
    return {f"selection_{selection['kind']}/accuracy": mean}


def summary(results: Mapping[str, float]) -> str:
    """Returns the accuracies among results as one line."""
    ends = ("_std", "_low", "_high")
    shown = [
        f"{name} {value:.4f}"
        for name, value in results.items()
        if "/accuracy" in name and not name.endswith(ends)
    ]
    return "  ".join(shown)


def table(results: Mapping[str, float]) -> str:
    """Returns the accuracies and TARs among results as lines of text."""
    lines = []
    for key, value in results.items():
        name, _, metric = key.partition("/")
        metric, _, variant = metric.partition(":")
        if metric != "accuracy":
            continue
        suffix = f":{variant}" if variant else ""
        spread = results.get(f"{name}/accuracy_std{suffix}")
        text = f"{name + suffix:<24} accuracy {100 * value:6.2f} %"
        if spread is not None:
            text += f" +- {100 * spread:.2f}"
        for far in ("1e-2", "1e-3"):
            tar = results.get(f"{name}/tar@far={far}")
            if tar is not None and not suffix:
                text += f"   TAR@FAR={far} {100 * tar:6.2f} %"
        lines.append(text)
    return "\n".join(lines)
