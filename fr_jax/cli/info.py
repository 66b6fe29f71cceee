"""`fr-jax info`: print the architecture, input, provenance and results of an embedder.

Example:
    fr-jax info runs/smoke/embedder
"""

import argparse
from typing import Any

import flax.traverse_util

from fr_jax.embedder import Embedder, load_embedder
from fr_jax.evaluation.results import stored_results, table


def add_arguments(parser: Any) -> None:
    what = "its folder, or a weight file"
    parser.add_argument("embedder", metavar="EMBEDDER", help=what)


def run(arguments: argparse.Namespace) -> int:
    """Prints the properties of an embedder; returns the exit code."""
    print(describe(load_embedder(arguments.embedder, check=False)))
    if results := stored_results(arguments.embedder):
        print("results")
        print(table(results))
    return 0


_STATED = (
    *("file", "sha256", "format", "part", "dialect", "repository", "terms"),
    *("licence", "source"),
)


def describe(embedder: Embedder) -> str:
    """Returns an embedder's properties, one a line."""
    network, known = embedder.network, embedder.provenance
    spec = network.input_spec
    height, width, _ = spec.shape
    others = ", ".join(known.get("alternatives", ()))
    options = ", ".join(f"{k} {v}" for k, v in network.options.items())
    flat: dict[Any, Any] = flax.traverse_util.flatten_dict(network.variables["params"])
    rows = {
        "kind": network.kind,
        "architecture": f"{network.architecture} ({options})",
        "parameters": f"{sum(leaf.size for leaf in flat.values()):,}",
        "input": f"{height}x{width} {spec.colour}, (pixel - {spec.mean}) / {spec.scale}"
        ", from uint8 RGB",
        "alignment": spec.template,
        **{name: known.get(name) for name in _STATED},
        "data sets": _data_sets(known),
        "steps": known.get("steps"),
        "unused": _shortened(known.get("unused", ())),
        "other parts": _shortened(known.get("other_parts", ())),
        "note": known.get("note"),
        "colour": None if known.get("colour_known", True) else _COLOUR,
        "dialects": f"{others} have the same names" if others else "",
    }
    return "\n".join(
        f"{name:<13} {_printable(text)}" for name, text in rows.items() if text
    )


_COLOUR = "order uncertain, since files of this dialect differ; --colour sets it"


def doubts(embedder: Embedder) -> list[str]:
    """Returns notes on what the import had to assume."""
    known = embedder.provenance
    notes = []
    if not known["colour_known"]:
        colour = embedder.network.input_spec.colour
        notes.append(
            f"{known['dialect']} files differ in their colour order; {colour} is "
            "assumed. If the accuracy is low, import with the other --colour"
        )
    if known["alternatives"]:
        notes.append(
            f"assumed to be {known['dialect']}; {', '.join(known['alternatives'])} "
            "files have the same names; --dialect selects one"
        )
    return notes


def _data_sets(known: dict[str, Any]) -> str:
    licences = known.get("licences", {})
    texts = []
    for name, names in known.get("identities", {}).items():
        text = f"{name} ({len(names):,} identities)" if names else name
        texts.append(text + (f", {licences[name]}" if licences.get(name) else ""))
    return "; ".join(texts)


def _printable(text: Any) -> str:
    """Escapes what could steer a terminal: names come from foreign files."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _shortened(names: Any, most: int = 4) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
