"""`fr-jax info`: print the architecture, input, provenance and results of an embedder.

Example:
    fr-jax info runs/smoke/embedder
"""

import argparse
from typing import Any

import jax

from fr_jax.embedder import Embedder, load_embedder
from fr_jax.evaluation.results import stored_results, table


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("embedder", metavar="EMBEDDER", help="embedder folder or weight file")
    text = "also print shape, mean and deviation of every parameter"
    add("--parameters", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Prints the properties of an embedder."""
    embedder = load_embedder(arguments.embedder, check=False)
    print(describe(embedder))
    if results := stored_results(arguments.embedder):
        print("results")
        print(table(results))
    if arguments.parameters:
        from clu import parameter_overview

        params = embedder.network.variables["params"]
        print(parameter_overview.get_parameter_overview(params))


_IMPORTED = ("file", "sha256", "format", "part", "dialect", "repository", "terms")


def describe(embedder: Embedder) -> str:
    """Returns the properties of an embedder, one per line."""
    network, provenance = embedder.network, embedder.provenance
    spec = network.input_spec
    others = ", ".join(provenance.get("alternatives", ()))
    options = ", ".join(f"{k} {v}" for k, v in network.options.items())
    sizes = (leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    rows = {
        "kind": network.kind,
        "architecture": f"{network.architecture} ({options})",
        "parameters": f"{sum(sizes):,}",
        "input": f"{spec.describe()}, from uint8 RGB",
        "alignment": spec.template,
        **{name: provenance.get(name) for name in (*_IMPORTED, "licence", "source")},
        "data sets": _data_sets(provenance),
        "steps": provenance.get("steps"),
        "unused": _shortened(provenance.get("unused", ())),
        "other parts": _shortened(provenance.get("other_parts", ())),
        "note": provenance.get("note"),
        "calibration": embedder.calibration and embedder.calibration.describe(),
        "colour": None if provenance.get("colour_known", True) else _COLOUR,
        "dialects": f"{others} have the same names" if others else "",
    }
    lines = (f"{name:<13} {_printable(text)}" for name, text in rows.items() if text)
    return "\n".join(lines)


_COLOUR = "order uncertain, since files of this dialect differ; --colour sets it"


def doubts(embedder: Embedder) -> list[str]:
    """Returns notes on the assumptions of an import."""
    provenance = embedder.provenance
    dialect, notes = provenance["dialect"], []
    if not provenance["colour_known"]:
        notes.append(
            f"{dialect} files differ in their colour order; "
            f"{embedder.network.input_spec.colour} is assumed. If the accuracy is low, "
            "import with the other --colour"
        )
    if others := ", ".join(provenance["alternatives"]):
        notes.append(
            f"assumed to be {dialect}; {others} files have the same names; --dialect "
            "selects one"
        )
    return notes


def _data_sets(provenance: dict[str, Any]) -> str:
    licences, texts = provenance.get("licences", {}), []
    for name, names in provenance.get("identities", {}).items():
        text = f"{name} ({len(names):,} identities)" if names else name
        texts.append(", ".join(filter(None, [text, licences.get(name)])))
    return "; ".join(texts)


def _printable(text: Any) -> str:
    """Returns a text with control characters escaped: names come from foreign files."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _shortened(names: Any, most: int = 4) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
