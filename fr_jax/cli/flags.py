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

    what = "Turn aligned faces to other poses, with a trained generator."
    add = command("rotate", what).add_argument
    add("images", nargs="+", metavar="IMAGE", help="aligned faces")
    add("--generator", required=True, metavar="E", help="WORKDIR/embedder_generator")
    add("--to", required=True, metavar="DIR")
    add("--angles", default="", metavar="A,B,C", help="degrees; default: all it knows")
    add("--light", type=int, help="its number, where lights can be asked for")
    add("--fuse", action="store_true", help="all images show one person")

    what = "Judge generators: the pose, the person, the feature, the confidence."
    add = command("judge", what).add_argument
    add(
        "--generator",
        action="append",
        required=True,
        metavar="E",
        help="WORKDIR/embedder_generator; several are compared. A discriminator "
        "beside it is asked, too, whom it knows",
    )
    add("--to", required=True, metavar="DIR", help="results.json and figures go here")
    add("--embedder", metavar="E", help="a recogniser that judges who it is")
    add("--features", metavar="E", help="their distance; default: of gradients")
    add("--people", type=int, default=40, help="drawn ones to judge on; default: 40")
    add("--records", metavar="DIR", help="photographed people instead")
    add("--identities", default="", metavar="A:B", help="of them, to judge on")
    add("--expression", default="", help="of them, the only one, as neutral")
    add("--teach", default="", metavar="A:B", help="of them, to teach poses by")

    what = "Score templates, sets of images of a person, over splits, as IJB-A does."
    add = command("templates", what).add_argument
    add("table", metavar="CSV", help="split, part, template, identity, file")
    add("--embedder", required=True, metavar="E", help="or a generator, to fuse by")
    add("--root", metavar="DIR", help="of the files; default: that of the table")
    add("--to", required=True, metavar="DIR", help="results.json goes here")

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
    add(
        "--layout",
        default="auto",
        help="folders of identities, labels (a labels.csv), cfp or multipie; default: "
        "labels where there is a labels.csv, else folders",
    )
    add("--flat", action="store_true", help="folders are no identities: no labels")
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
    add(
        "--legacy-bgr",
        action="store_true",
        help="the detector takes red for blue, as USynthFace's did",
    )

    faces = command("faces", "Draw people that nobody is.").add_subparsers(
        dest="action", required=True, parser_class=_Parser, metavar="ACTION"
    )
    what = "Draw labelled faces as a folder, TFRecords, pairs or a video."
    add = faces.add_parser("render", help=what, description=what).add_argument
    add("--to", required=True, metavar="DIR")
    add("--identities", type=int, metavar="N", help="people, of all shards together")
    add("--images-per-identity", type=int, metavar="K", help="default: 20")
    add(
        "--set",
        default="default",
        help="default, usynthface, kdef, multipie, ages, pairs or video",
    )
    add("--format", default="folder", help="folder (default) or records")
    add("--name", default="", help="of the records; default: that of the set")
    add("--size", type=int, default=112, help="side of the faces in pixels")
    add("--frame", help="aligned (default) or loose")
    add("--seed", type=int, default=0, help="of the people and of their pictures")
    add("--shard", type=_shard, default=(0, 1), metavar="I/N", help="from 0/N on")
    add("--quality", default="full", help="full (default), or fast: no shadows")
    add("--max-yaw", type=float, metavar="DEGREES", help="default: 90")
    add("--child-share", type=float, help="of the people of --set ages; default: 1")
    add("--shots", type=int, help="of --set video; default: 8")
    add("--shot-frames", type=int, help="frames of each, default: 40")
    add("--together", type=int, help="people in a shot, default: 3")
    add("--frame-size", type=_frame_size, metavar="WxH", help="default: 640x360")
    return parser


def _shard(text: str) -> tuple[int, int]:
    part, _, shards = text.partition("/")
    if not (part.isdecimal() and shards.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, as in 0/8")
    return int(part), int(shards)


def _frame_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH, as in 640x360")
    return int(width), int(height)


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=EMBEDDER")
    return name, path
