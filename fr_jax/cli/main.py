"""The program `fr-jax`: finds the command, and tells users what went wrong.

Exit codes: 0 done, 1 a check failed, 2 the user's error, 3 a run stopped itself, 143 a
run saved and left at SIGTERM. Set FR_JAX_TRACEBACK=1 to see where an error arose.
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import logging

import fr_jax
from fr_jax.errors import CheckFailed, TrainingStopped, UserError, unknown

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
    logging.set_verbosity(logging.WARNING)  # of orbax and TFDS
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        code = 130
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        print(f"fr-jax: {_EXTRAS[missing]}", file=sys.stderr)
        code = 2
    except Exception as error:
        found = _exit_code(error)
        if os.environ.get("FR_JAX_TRACEBACK") or found is None:
            raise
        print(f"fr-jax: {error}", file=sys.stderr)
        code = found
    sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    from data_pipelines import DataError

    codes = {TrainingStopped: 3, CheckFailed: 1}
    codes |= dict.fromkeys((UserError, DataError, OSError), 2)
    return next((code for kind, code in codes.items() if isinstance(error, kind)), None)


def _run(argv: list[str]) -> int:
    overrides, rest = _overrides(argv)
    parser = Parser(prog="fr-jax", description=fr_jax.__doc__)
    subparsers = parser.add_subparsers(
        dest="command", required=True, parser_class=Parser, metavar="COMMAND"
    )
    found = commands()
    parsers = {
        name: subparsers.add_parser(name, help=what, description=what)
        for name, (_, what) in found.items()
    }
    given = next((word for word in rest if not word.startswith("-")), "")
    module: Any = None
    if given in found:
        module = importlib.import_module(found[given][0])
        module.add_arguments(parsers[given])
    arguments, unused = parser.parse_known_args(rest)
    if unused:
        known = parsers[arguments.command].flags(getattr(arguments, "action", ""))
        raise UserError(unknown("argument", unused[0].partition("=")[0], known))
    if overrides and arguments.command != "train":
        raise UserError(f"--config.{overrides[0][0]} goes with `fr-jax train` alone")
    arguments.overrides = overrides
    return module.run(arguments)


def commands() -> dict[str, tuple[str, str]]:
    """Returns the module and the description of each command.

    Every module of this package, and `commands` of a system's room, whose docstring
    begins with `fr-jax NAME`: none of them is imported. A command's module has
    `add_arguments(parser)` and `run(arguments)`, which returns the exit code.
    """
    root = Path(fr_jax.__path__[0])
    found = {}
    for pattern in ("cli/*.py", "systems/*/commands.py"):
        for path in sorted(root.glob(pattern)):
            first = path.read_text().partition("\n")[0]
            if match := re.match(r'"""`fr-jax (\w+)`: (.*?)"*$', first):
                names = path.relative_to(root.parent).with_suffix("").parts
                found[match[1]] = ".".join(names), match[2][:1].upper() + match[2][1:]
    return found


class Parser(argparse.ArgumentParser):
    """Raises UserErrors, with the nearest name where a choice is not one."""

    def __init__(self, **options: Any):
        self._flags: list[str] = []  # before -h, which argparse adds
        self._actions_of: dict[str, Parser] = {}
        super().__init__(**options, allow_abbrev=False)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        self._flags += names
        return super().add_argument(*names, **options)

    def add_actions(self) -> Any:
        """Returns what adds the actions of a command, as `data convert`."""
        actions = self.add_subparsers(
            dest="action", required=True, parser_class=Parser, metavar="ACTION"
        )

        def add(name: str, what: str) -> Parser:
            self._actions_of[name] = actions.add_parser(
                name, help=what, description=what
            )
            return self._actions_of[name]

        return add

    def flags(self, action: str = "") -> list[str]:
        """Returns the flags of this command, or of one of its actions."""
        found = self._actions_of[action]._flags if action else self._flags
        return [name for name in found if name.startswith("-")]

    def error(self, message: str) -> NoReturn:
        pattern = r"argument (.*?): invalid choice: '?(.*?)'? \(choose from (.*)\)"
        if found := re.fullmatch(pattern, message):
            flag, given, choices = found.groups()
            choices = re.findall(r"[\w.+-]+", choices)
            raise UserError(unknown(flag.split("/")[0], given, choices))
        raise UserError(f"{message} ({self.prog} --help shows how)")


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
