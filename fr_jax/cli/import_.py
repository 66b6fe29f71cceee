"""`fr-jax import`: convert a published weight file to an embedder.

Pickled code in the file is never executed.

With --vae, FILE is the pickle of DiscoFaceGAN's generator, and EMBEDDER a generator of
faces for `fr-jax generate`. DIR has the folders id, exp, gamma and rot, each with a
checkpoint (.index and .data-00000-of-00001). Mirrors lack the data of id;
--identity-coefficients replaces this decoder. The licence is that of the published
files.

Examples:
    fr-jax import mobilefacenet.pt --to mbf --licence "research only"
    fr-jax import network-snapshot-020126.pkl --vae vae \\
        --mean-identity network-snapshot-020126-average_w_id.txt --to disco
"""

import argparse
import json
import sys
from pathlib import Path

from etils import epath

from fr_jax.cli.info import describe, doubts
from fr_jax.convert import DIALECTS
from fr_jax.embedder import (
    DESCRIPTION,
    Embedder,
    import_face_generator,
    import_weights,
)
from fr_jax.embedder.description import read_json
from fr_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    text = ".pth, .pt, .ckpt, .safetensors, .npz or .onnx; with --vae: .pkl"
    add("file", metavar="FILE", help=text)
    add("--to", required=True, metavar="EMBEDDER", help="folder of the new embedder")
    text = "naming scheme of the tensors: %(choices)s; default: detected"
    add("--dialect", choices=tuple(DIALECTS), metavar="DIALECT", help=text)
    text = "channel order of the input; default: that of the dialect"
    add("--colour", choices=("RGB", "BGR"), help=text)
    text = "name of the state dict, if the checkpoint has several"
    add("--part", metavar="NAME", help=text)
    add("--prefix", help="import only tensors whose names start with PREFIX")
    text = "import only the encoder of a DR-GAN generator"
    add("--encoder", action="store_true", help=text)
    add("--licence", default="", metavar="TEXT", help="licence of the weights")
    add("--source", default="", metavar="TEXT", help="origin of the file")
    text = "of a face generator: folder of its decoders"
    add("--vae", metavar="DIR", help=text)
    text = "with --vae: mean of w over identities, text or .npy; default: computed"
    add("--mean-identity", metavar="FILE", help=text)
    text = "with --vae: .npy [N, 160] which replaces the decoder of identities"
    add("--identity-coefficients", metavar="FILE", help=text)
    text = "set that the weights were trained on; may be repeated; evaluation marks "
    text += "these sets as seen"
    add("--data-set", action="append", default=[], metavar="NAME", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Imports a weight file."""
    target = Path(arguments.to)
    names = ("dialect", "colour", "part", "prefix", "encoder")
    options = {name: getattr(arguments, name) for name in names}
    if arguments.vae:
        if given := next((name for name in names if options[name]), ""):
            raise UserError(f"--{given} is for embedders, --vae for a face generator")
        if arguments.licence:
            raise UserError(
                "--licence: a generator has the licence of its published files; leave "
                "it out with --vae"
            )
        embedder = import_face_generator(
            arguments.file,
            arguments.vae,
            mean_identity=arguments.mean_identity,
            identity_coefficients=arguments.identity_coefficients,
        )
    else:
        for name in ("mean_identity", "identity_coefficients"):
            if getattr(arguments, name):
                raise UserError(f"--{name.replace('_', '-')} needs --vae")
        embedder = import_weights(arguments.file, **options)
    stated = {
        "licence": arguments.licence,
        "source": arguments.source,
        "identities": {name: [] for name in arguments.data_set},
    }
    embedder.provenance |= {name: value for name, value in stated.items() if value}
    if _is_stored(embedder, target):
        print(f"{target}: already imported")
    else:
        embedder.save(target)
    print(describe(embedder))
    for doubt in doubts(embedder) if not arguments.vae else ():
        print(f"note: {doubt}", file=sys.stderr)
    print(f"{'generator' if arguments.vae else 'embedder'}: {target}")


def _is_stored(embedder: Embedder, target: Path) -> bool:
    """Returns True if `target` holds this embedder; UserError for anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        stored = read_json(epath.Path(target / DESCRIPTION))
    except (OSError, ValueError):
        stored = {}
    if isinstance(stored, dict):
        stored.pop("weights_sha256", None)
    if stored != json.loads(json.dumps(embedder.describe())):
        raise UserError(f"{target} holds something else; choose another --to")
    return True
