"""`fr-jax`: the commands, and how errors reach the user.

Exit codes: 0 done, 1 a check failed, 2 the user's error, 3 a run stopped itself, 143 a
run saved and left at SIGTERM. Set FR_JAX_TRACEBACK=1 to see where an error arose.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import logging

from data_pipelines import DataError
from fr_jax.cli import flags
from fr_jax.errors import CheckFailed, TrainingStopped, UserError, unknown

_CODES = {TrainingStopped: 3, CheckFailed: 1, UserError: 2, DataError: 2, OSError: 2}
_EXTRAS = {
    "tensorflow": "this needs TensorFlow: pip install '.[tensorflow]'",
    "pyarrow": ".parquet needs pyarrow: pip install '.[parquet]', or choose .npz",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and leaves with its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it greets on every start
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # it warns of detector files
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # orbax and TFDS tell what only they need
    try:
        arguments = _parse(list(sys.argv[1:] if argv is None else argv))
        code = _COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        code = 130
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        print(f"fr-jax: {_EXTRAS[missing]}", file=sys.stderr)
        code = 2
    except Exception as error:
        codes = [code for kind, code in _CODES.items() if isinstance(error, kind)]
        if os.environ.get("FR_JAX_TRACEBACK") or not codes:
            raise
        print(f"fr-jax: {error}", file=sys.stderr)
        code = codes[0]
    sys.exit(code)


def _parse(argv: list[str]) -> argparse.Namespace:
    overrides, rest = _overrides(argv)
    parser = flags.parser()
    arguments, unused = parser.parse_known_args(rest)
    if unused:
        used = _subparser(parser, arguments.command)
        used = _subparser(used, getattr(arguments, "action", ""))
        known = [word for action in used._actions for word in action.option_strings]
        raise UserError(unknown("argument", unused[0].partition("=")[0], known))
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


def _subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices.get(name, parser)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    import jax

    from fr_jax.backend import cpu

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
    from fr_jax.cli import train as training

    return training.run(arguments)


def _data(arguments: argparse.Namespace) -> int:
    from fr_jax.cli import data

    return getattr(data, arguments.action)(arguments)


def _faces(arguments: argparse.Namespace) -> int:
    from fr_jax.cli import faces

    return getattr(faces, arguments.action)(arguments)


def _with_embedders(arguments: argparse.Namespace) -> int:
    from fr_jax.backend import cpu

    cpu.keep_freed_memory()
    module = importlib.import_module(_MODULES[arguments.command])
    return module.run(arguments)


# Each command that takes embedders has a module with a function `run`.
_MODULES = {
    "evaluate": "fr_jax.cli.evaluate",
    "import": "fr_jax.cli.import_",
    "info": "fr_jax.cli.info",
    "embed": "fr_jax.cli.embed",
    "compare": "fr_jax.cli.compare",
    "export": "fr_jax.cli.export",
    "rotate": "fr_jax.systems.dr_gan.commands",
    "judge": "fr_jax.cli.judging",
    "templates": "fr_jax.cli.templates",
}
_COMMANDS = {"train": _train, "data": _data, "faces": _faces}
_COMMANDS |= dict.fromkeys(_MODULES, _with_embedders)
