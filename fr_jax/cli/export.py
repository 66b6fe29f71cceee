"""`fr-jax export`: writes an embedder as a program for where it is deployed."""

import argparse
from typing import Any

from fr_jax.embedder import load_embedder
from fr_jax.embedder.export import FORMATS, export


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("embedder", metavar="E")
    add("--format", required=True, choices=tuple(FORMATS))
    add("--to", required=True, metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Exports as asked; returns the exit code."""
    embedder = load_embedder(arguments.embedder)
    cosine = export(embedder, arguments.format, arguments.to)
    print(
        f"{arguments.format}: {arguments.to} (loaded again, it embeds with cosine "
        f"{cosine:.6f} to the embedder)"
    )
    return 0
