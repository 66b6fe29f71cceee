"""`fr-jax`: the commands, and how errors reach the user.

Exit codes: 0 done, 1 a check failed, 2 the user's error, 3 a run stopped itself, 143 a
run saved and left at SIGTERM. Set FR_JAX_TRACEBACK=1 to see where an error arose.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import logging

import fr_jax
from data_pipelines import DataError
from fr_jax.errors import TrainingStopped, UserError, unknown


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help shows how)")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and leaves with its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it greets on every start
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # orbax and TFDS tell what only they need
    try:
        arguments = _parse(list(sys.argv[1:] if argv is None else argv))
        code = _COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        code = 130
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tensorflow":
            raise
        print(
            "fr-jax: TFRecords need TensorFlow: pip install '.[tensorflow]'",
            file=sys.stderr,
        )
        code = 2
    except Exception as error:
        expected = isinstance(error, UserError | DataError | TrainingStopped | OSError)
        if os.environ.get("FR_JAX_TRACEBACK") or not expected:
            raise
        print(f"fr-jax: {error}", file=sys.stderr)
        code = 3 if isinstance(error, TrainingStopped) else 2
    sys.exit(code)


def _parse(argv: list[str]) -> argparse.Namespace:
    overrides, rest = _overrides(argv)
    parser = _parser()
    arguments, unused = parser.parse_known_args(rest)
    if unused:
        used = _subparser(parser, arguments.command)
        used = _subparser(used, getattr(arguments, "action", ""))
        flags = [word for action in used._actions for word in action.option_strings]
        raise UserError(unknown("argument", unused[0].partition("=")[0], flags))
    if overrides and arguments.command != "train":
        raise UserError(f"--config.{overrides[0][0]} goes with `fr-jax train` alone")
    arguments.overrides = overrides
    return arguments


def _overrides(argv: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Takes --config.KEY=VALUE and --config.KEY VALUE out of the arguments."""
    overrides, rest = [], []
    words = iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            value = next(words, None)
            if value is None:
                raise UserError(f"{word} needs a value")
        overrides.append((key, value))
    return overrides, rest


def _parser() -> _Parser:
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


def _subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices.get(name, parser)
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


def _train(arguments: argparse.Namespace) -> int:
    import jax

    from fr_jax import cpu

    cpu.keep_freed_memory()
    if arguments.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", arguments.compilation_cache)
    asked = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if arguments.distributed:
        try:
            jax.distributed.initialize(*asked)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--distributed: {reason}; give --coordinator HOST:PORT, "
                "--num-processes N and --process-id I"
            ) from error
    elif any(flag is not None for flag in asked):
        raise UserError(
            "--coordinator, --num-processes and --process-id go with --distributed"
        )
    from fr_jax.cli import training

    return training.run(arguments)


def _evaluate(arguments: argparse.Namespace) -> int:
    from fr_jax import cpu
    from fr_jax.cli import evaluating

    cpu.keep_freed_memory()
    return evaluating.run(arguments)


def _data(arguments: argparse.Namespace) -> int:
    from fr_jax.cli import data

    return getattr(data, arguments.action)(arguments)


def _faces(arguments: argparse.Namespace) -> int:
    from fr_jax.cli import faces

    return getattr(faces, arguments.action)(arguments)


_COMMANDS = {"faces": _faces, "train": _train, "evaluate": _evaluate, "data": _data}
