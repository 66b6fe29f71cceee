"""The program `fr-jax`: finds and runs a command, and prints user errors.

Exit codes: 0 success, 1 a failed check, 2 a user error, 3 training stopped itself, 130
Ctrl-C, 143 SIGTERM. At both, training saves its state first; other commands remove what
is unfinished (see `fr_jax.interrupt`). FR_JAX_TRACEBACK=1 prints the traceback of an
error.
"""

import argparse
import ast
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import logging

import fr_jax
from fr_jax import interrupt
from fr_jax.errors import CheckFailed, TrainingStopped, UserError, unknown

_EXTRAS = {
    **dict.fromkeys(
        ("tensorflow", "tensorflow_datasets"),
        "this needs TensorFlow: pip install '.[tensorflow]'",
    ),
    "pyarrow": ".parquet needs pyarrow: pip install '.[parquet]', or choose .npz",
}
_ABOUT = "Face recognition in JAX: train and evaluate networks, render synthetic faces."
_MORE = """\
`fr-jax COMMAND --help` explains the flags of a command and has an example.
Documentation: README.md and docs/ in the repository."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits with its code; handles signals if `argv` is None."""
    # TensorFlow and OpenCV read these when they are imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # logs on every start
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # warns about detector files
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # of orbax and TFDS
    try:
        if argv is None:
            interrupt.watch()
            interrupt.nothing_to_lose(interrupt.TEXT)  # while modules are imported
        code = _code(list(sys.argv[1:] if argv is None else argv))
        if argv is None:
            interrupt.ignore()
    except KeyboardInterrupt as error:
        code = interrupt.exit_code(error)
        print(f"fr-jax: {str(error) or interrupt.TEXT}", file=sys.stderr)
    if argv is None:
        interrupt.leave(code)
    sys.exit(code)


def _code(argv: list[str]) -> int:
    """Runs a command and prints its error; returns the exit code."""
    try:
        return _run(argv)
    except SystemExit as error:  # of argparse, after --help
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    except Exception as error:
        interrupt.restore()
        code, text = _exit_code(error), str(error)
        if isinstance(error, ModuleNotFoundError):
            missing = (error.name or "").partition(".")[0]
            if missing in _EXTRAS:
                print(f"fr-jax: {_EXTRAS[missing]}", file=sys.stderr)
                return 2
        elif not code and (out_of_memory := _out_of_memory(error)):
            code, text = 2, out_of_memory
        if os.environ.get("FR_JAX_TRACEBACK") or not code:
            raise
        print(f"fr-jax: {text}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> int:
    """Returns the exit code of an error; 0 for a fault of the program."""
    from data_pipelines import DataError

    codes = {TrainingStopped: 3, CheckFailed: 1, (UserError, DataError, OSError): 2}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 0)


def _out_of_memory(error: Exception) -> str | None:
    """Returns the message for an allocation that has failed; None for other errors."""
    from fr_jax.backend import memory  # loads JAX

    return memory.explained(error)


def _run(argv: list[str]) -> int:
    overrides, rest = _overrides(argv)
    parser = Parser(prog="fr-jax", description=_ABOUT, epilog=_MORE)
    subparsers = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )
    first = next((word for word in rest if not word.startswith("-")), "")
    command: Any = None
    for name, (module, summary, details) in sorted(commands().items()):
        texts: Any = {"help": summary, "description": summary, "epilog": details}
        subparser = subparsers.add_parser(name, **texts)
        if name == first:
            command = importlib.import_module(module)
            command.add_arguments(subparser)
    arguments, unused = parser.parse_known_args(rest or ["--help"])
    if unused:
        flags = arguments.parser._option_string_actions
        raise UserError(unknown("argument", unused[0].partition("=")[0], flags))
    if overrides and arguments.command != "train":
        raise UserError(f"--config.{overrides[0][0]} is a flag of `fr-jax train` only")
    arguments.overrides = overrides
    interrupt.nothing_to_lose("")
    return command.run(arguments) or 0


def commands() -> dict[str, tuple[str, str, str]]:
    """Returns the module, summary and details of each command, without importing it.

    A command is a module of this package, or `commands` in the package of a system,
    whose docstring begins with `fr-jax NAME`. Its functions are
    `add_arguments(parser)` and `run(arguments)`, which returns an exit code or None.
    """
    root = Path(fr_jax.__path__[0])
    modules = {}
    for path in [*root.glob("cli/*.py"), *root.glob("systems/*/commands.py")]:
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        first, _, details = docstring.partition("\n\n")
        if match := re.fullmatch(r"`fr-jax (\w+)`: (\w)(.*)", first):
            name, initial, rest = match.groups()
            parts = path.relative_to(root.parent).with_suffix("").parts
            modules[name] = ".".join(parts), initial.upper() + rest, details
    return modules


class _Help(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs != 0 and action.default not in (None, "", []):
            return f"{action.help} (default: %(default)s)"
        return action.help


class Parser(argparse.ArgumentParser):
    """A parser that raises UserErrors, with the nearest name for an invalid choice.

    Attributes:
      more_help: returns text for the end of the help; called when help is printed.
    """

    more_help: Callable[[], str] | None = None

    def __init__(self, **options: Any):
        super().__init__(**options, formatter_class=_Help, allow_abbrev=False)
        self.set_defaults(parser=self)

    def format_help(self) -> str:
        more = self.more_help() + "\n" if self.more_help else ""
        return "\n".join(filter(None, [super().format_help(), more]))

    def add_actions(self) -> Callable[..., "Parser"]:
        """Returns a function of name and summary that returns an action's parser.

        The help of an action has those examples of the command that use it.
        """
        actions = self.add_subparsers(
            title="actions", dest="action", required=True, metavar="ACTION"
        )

        def add(name: str, summary: str) -> Parser:
            command = rf"^ +{self.prog} {name} .*$"
            lines = re.findall(command, self.epilog or "", re.MULTILINE)
            texts: Any = {"help": summary, "description": summary}
            return actions.add_parser(
                name, **texts, epilog="\n".join(["Example:", *lines])
            )

        return add

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = action.option_strings or [str(action.metavar).lower()]
            raise UserError(unknown(names[0], value, action.choices))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises a UserError: for a misspelt flag if there is one, else `message`."""
        flags = self._option_string_actions
        names = [word.partition("=")[0] for word in self._words]
        misspelt = [name for name in names if name[:2] == "--" and name not in flags]
        if misspelt and "are required" in message:
            raise UserError(unknown("argument", misspelt[0], flags))
        raise UserError(f"{message}; see {self.prog} --help")


def _overrides(argv: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns --config.KEY=VALUE and --config.KEY VALUE as pairs, and the rest."""
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
