"""`fr-jax import`: a published weight file -> an embedder."""

import argparse
import json
import sys
from pathlib import Path

from fr_jax.cli.info import describe, doubts
from fr_jax.embedder import DESCRIPTION, Embedder, import_weights
from fr_jax.errors import UserError


def run(arguments: argparse.Namespace) -> int:
    """Imports a file; returns the exit code."""
    target = Path(arguments.to)
    embedder = import_weights(
        arguments.file,
        dialect=arguments.dialect,
        colour=arguments.colour,
        part=arguments.part,
        prefix=arguments.prefix,
        encoder=arguments.encoder,
    )
    stated = {
        "licence": arguments.licence,
        "source": arguments.origin,
        "people": {name: [] for name in arguments.data_set},
    }
    embedder.provenance |= {name: value for name, value in stated.items() if value}
    if _is_there(embedder, target):
        print(f"{target} has it already")
    else:
        embedder.save(target)
    print(describe(embedder))
    for doubt in doubts(embedder):
        print(f"note: {doubt}", file=sys.stderr)
    print(f"embedder: {target}")
    return 0


def _is_there(embedder: Embedder, target: Path) -> bool:
    """Whether the target is this very embedder; UserError where it is another thing."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        stored = json.loads((target / DESCRIPTION).read_text())
    except (OSError, ValueError):
        stored = {}
    stored.pop("weights_sha256", None)
    if stored != json.loads(json.dumps(embedder.describe())):
        raise UserError(
            f"{target} is there and holds something else; choose another --to or "
            "remove it"
        )
    return True
