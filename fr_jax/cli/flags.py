"""The command line: every command and its flags. Imports nothing heavy."""

import argparse
from typing import NoReturn

import fr_jax
from fr_jax.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help shows how)")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = _Parser(prog="fr-jax", description=fr_jax.__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(
        dest="command", required=True, parser_class=_Parser, metavar="COMMAND"
    )

    def command(name: str, what: str) -> _Parser:
        return commands.add_parser(
            name, help=what, description=what, allow_abbrev=False
        )

    add = command(
        "train", "Train a system; goes on where WORKDIR left off."
    ).add_argument
    add(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="then any number of --config.KEY=VALUE",
    )
    add("--workdir", required=True, help="folder of the run, local or gs://")
    add("--init-from", default="", metavar="EMBEDDER", help="start from these weights")
    add(
        "--given",
        action="append",
        default=[],
        type=_named,
        metavar="NAME=EMBEDDER",
        help="trained networks that the system takes by name",
    )
    add(
        "--compilation-cache",
        default="",
        metavar="DIR",
        help="keep compiled programs here",
    )
    add("--distributed", action="store_true", help="one of several processes")
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="of --distributed, where nothing tells",
    )
    add("--num-processes", type=int)
    add("--process-id", type=int)

    add = command("evaluate", "Judge embedders on verification sets.").add_argument
    add("--embedder", action="append", required=True, metavar="DIR")
    add(
        "--set",
        action="append",
        required=True,
        metavar="NAME=PATH[,root=DIR][,protocol=P]",
    )
    add("--to", required=True, metavar="DIR", help="results.json and figures go here")

    add = command("import", "Make an embedder of a published weight file.").add_argument
    add("file", metavar="FILE", help=".pth, .pt, .ckpt, .safetensors, .npz or .onnx")
    add("--to", required=True, metavar="E", help="folder of the embedder")
    add("--dialect", help="whose tensor names these are; default: recognised")
    add("--colour", choices=("RGB", "BGR"), help="default: what the dialect has")
    add("--part", help="which of several dicts of tensors in a checkpoint")
    add("--prefix", help="which of several networks among the tensors")
    add(
        "--encoder",
        action="store_true",
        help="the recogniser inside a DR-GAN generator",
    )
    add("--licence", default="", help="of the weights")
    add("--source", dest="origin", default="", help="where the file comes from")
    add(
        "--data-set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="what it was trained on; evaluation marks these as seen",
    )

    what = "Print what an embedder is, what it takes and where it comes from."
    add = command("info", what).add_argument
    add("embedder", metavar="E", help="folder of an embedder, or a weight file")

    add = command(
        "embed", "Embed aligned faces; keep names and embeddings."
    ).add_argument
    add(
        "source",
        metavar="SRC",
        help="folder of images or of <identity>/*.jpg, one image, records, or a .bin",
    )
    add("--embedder", required=True, metavar="E")
    add("--to", required=True, metavar="FILE", help=".npz or .parquet")
    add("--flip", action="store_true", help="add the mirrored face's embedding first")

    what = "Print the cosine of two faces, and a verdict if a threshold is known."
    add = command("compare", what).add_argument
    add("first", metavar="A.jpg")
    add("second", metavar="B.jpg")
    add("--embedder", required=True, metavar="E")
    add("--detector", metavar="FILE", help="YuNet's .onnx: finds and aligns the faces")
    add("--threshold", type=float, help="cosine from which they are the same person")

    what = "Write an embedder as a program for where it is deployed."
    add = command("export", what).add_argument
    add("embedder", metavar="E")
    add("--format", required=True, help="jax, savedmodel, tflite or onnx")
    add("--to", required=True, metavar="DIR")

    data = command("data", "Make and inspect sets of aligned faces.").add_subparsers(
        dest="action", required=True, parser_class=_Parser, metavar="ACTION"
    )
    what = "Turn a folder, RecordIO pack or .bin into TFRecords."
    add = data.add_parser("convert", help=what, description=what).add_argument
    add("source", metavar="SRC")
    add("--to", required=True, metavar="DIR")
    add("--name", required=True)
    add("--size", type=int, default=112, help="side of the faces in pixels")
    add("--licence", default="")
    add("--source", dest="origin", default="", help="where the set comes from")
    add("--max-bad", type=int, default=100, help="unusable images to skip at most")
    what = "Print counts, sizes and a contact sheet of a set."
    add = data.add_parser("info", help=what, description=what).add_argument
    add("directory", metavar="DIR")
    add("--sheet", default="", metavar="PNG", help="default: DIR/contact_sheet.png")
    what = "Detect faces and warp them into the 112x112 template."
    add = data.add_parser("align", help=what, description=what).add_argument
    add("source", metavar="SRC")
    add("--detector", required=True, metavar="FILE", help="YuNet's .onnx")
    add("--to", required=True, metavar="DIR")
    add("--size", type=int, default=112)
    return parser


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=EMBEDDER")
    return name, path
