"""`fr-jax export`: an embedder -> a program for where it is deployed."""

import argparse

from fr_jax.embedder import load_embedder
from fr_jax.embedder.export import FORMATS, export
from fr_jax.errors import UserError, unknown


def run(arguments: argparse.Namespace) -> int:
    """Exports as asked; returns the exit code."""
    if arguments.format not in FORMATS:
        raise UserError(f"--format: {unknown('format', arguments.format, FORMATS)}")
    embedder = load_embedder(arguments.embedder)
    cosine = export(embedder, arguments.format, arguments.to)
    print(
        f"{arguments.format}: {arguments.to} (loaded again, it embeds with cosine "
        f"{cosine:.6f} to the embedder)"
    )
    return 0
