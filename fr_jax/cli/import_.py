"""`fr-jax import`: makes an embedder of a published weight file."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fr_jax.cli.info import describe, doubts
from fr_jax.embedder import DESCRIPTION, Embedder, import_weights
from fr_jax.errors import UserError


def add_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", help=".pth, .pt, .ckpt, .safetensors, .npz or .onnx")
    add("--to", required=True, metavar="E", help="folder of the embedder")
    add("--dialect", help="whose tensor names these are; default: recognised")
    add("--colour", choices=("RGB", "BGR"), help="default: that of the dialect")
    add("--part", help="which of several dicts of tensors in a checkpoint")
    add("--prefix", help="which of several networks among the tensors")
    add("--encoder", action="store_true", help="the encoder of a DR-GAN generator")
    add("--licence", default="", help="of the weights")
    add("--source", dest="origin", default="", help="where the file comes from")
    add(
        "--data-set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="training sets; evaluation marks these as seen",
    )


def run(arguments: argparse.Namespace) -> int:
    """Imports a file; returns the exit code."""
    target = Path(arguments.to)
    taken = ("dialect", "colour", "part", "prefix", "encoder")
    options = {name: getattr(arguments, name) for name in taken}
    embedder = import_weights(arguments.file, **options)
    stated = {
        "licence": arguments.licence,
        "source": arguments.origin,
        "identities": {name: [] for name in arguments.data_set},
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
