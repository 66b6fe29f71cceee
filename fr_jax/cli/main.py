"""The program `fr-jax`: finds and runs a command, and prints user errors.

Exit codes: 0 success, 1 a failed check, 2 a user error, 3 training stopped itself, 130
Ctrl-C, 143 SIGTERM. At both, training saves its state first; other commands remove what
is unfinished (see `fr_jax.interrupt`). FR_JAX_TRACEBACK=1 prints the traceback of an
error.
"""

import argparse
import ast
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import logging

import fr_jax
from fr_jax import interrupt
from fr_jax.cli.targets import full_disk
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
    _print_names()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv is None:
            interrupt.watch()
            interrupt.nothing_to_lose(interrupt.TEXT)  # while modules are imported
        code = _code(words)
        if argv is None:
            interrupt.ignore()
    except KeyboardInterrupt as error:
        code = interrupt.exit_code(error)
        print(f"fr-jax: {str(error) or interrupt.TEXT}", file=sys.stderr)
    if argv is None:
        interrupt.leave(code)
    sys.exit(code)


def _code(words: list[str]) -> int:
    """Runs a command and prints its error; returns the exit code."""
    try:
        return call(words)
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
        elif full := full_disk(error, _target(words)):
            remedy = "free some space, or choose another folder, and run again"
            code, text = 2, f"{full}; {remedy}"
        elif not code and (out_of_memory := _out_of_memory(error)):
            code, text = 2, out_of_memory
        if os.environ.get("FR_JAX_TRACEBACK") or not code:
            raise
        print(f"fr-jax: {text}", file=sys.stderr)
        return code


def _print_names() -> None:
    """Makes standard output and errors print names that are not UTF-8 as text."""
    from data_pipelines import names

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=names.PRINTED)


def _target(words: Sequence[str]) -> str:
    """Returns the folder or file that a command writes to, '.' if none is named."""
    for word, following in zip(words, [*words[1:], ""]):
        flag, equals, value = word.partition("=")
        if flag in ("--to", "--workdir"):
            return value if equals else following
    return "."


def _exit_code(error: Exception) -> int:
    """Returns the exit code of an error; 0 for a fault of the program."""
    from data_pipelines import DataError

    codes = {TrainingStopped: 3, CheckFailed: 1, (UserError, DataError, OSError): 2}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 0)


def _out_of_memory(error: Exception) -> str | None:
    """Returns the message for an allocation that has failed; None for other errors."""
    from fr_jax.backend import memory  # loads JAX

    return memory.explained(error)


def call(argv: list[str]) -> int:
    """Runs a command; returns its exit code. Its errors are raised."""
    overrides, rest = _overrides(argv)
    parser = Parser(prog="fr-jax", description=_ABOUT, epilog=_MORE)
    add = parser.add_choice("command")
    version = f"fr-jax {fr_jax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    first = next((word for word in rest if not word.startswith("-")), "")
    command: Any = None
    for name, (module, summary, details) in sorted(commands().items()):
        subparser = add(name, summary, details)
        if name == first:
            command = importlib.import_module(module)
            command.add_arguments(subparser)
    arguments, unused = parser.parse_known_args(rest or ["--help"])
    if unused:
        name = unused[0].partition("=")[0]
        raise UserError(unknown("argument", name, arguments.parser.flags))
    if overrides and arguments.command != "train":
        raise UserError(f"--config.{overrides[0][0]} is a flag of `fr-jax train` only")
    arguments.overrides = overrides
    interrupt.nothing_to_lose("")
    return command.run(arguments) or 0


def commands() -> dict[str, tuple[str, str, str]]:
    """Returns the module, summary and details of each command, without importing it.

    A command is a module of this package, or `commands` in the package of a system, or
    in a package `commands` there, whose docstring begins with `fr-jax NAME`. Its
    functions are `add_arguments(parser)` and `run(arguments)`, which returns an exit
    code or None.
    """
    root = Path(fr_jax.__path__[0])
    modules = {}
    patterns = "cli/*.py", "systems/*/commands.py", "systems/*/commands/*.py"
    for path in [path for pattern in patterns for path in root.glob(pattern)]:
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        first, _, details = docstring.partition("\n\n")
        if match := re.fullmatch(r"`fr-jax (\w+)`: (\w)(.*)", first):
            name, initial, rest = match.groups()
            parts = path.relative_to(root.parent).with_suffix("").parts
            modules[name] = ".".join(parts), initial.upper() + rest, details
    return modules


class Parser(argparse.ArgumentParser):
    """A parser that raises UserErrors, with the nearest name for an invalid choice.

    Attributes:
      flags: names of all flags.
      actions: the parser of each action (or command), by name.
    """

    def __init__(self, **options: Any):
        self.flags: list[str] = []
        self.actions: dict[str, Parser] = {}
        options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(**options, allow_abbrev=False)
        self.set_defaults(parser=self)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Adds an argument, whose help ends with its default, if it has one."""
        if options.get("default") not in (None, "", [], argparse.SUPPRESS):
            options["help"] += " (default: %(default)s)"
        self.flags += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **options)

    def add_choice(self, kind: str = "action") -> Callable[..., "Parser"]:
        """Adds the choice of a command or action.

        Returns a function of name, summary and details that adds one of them and
        returns its parser. By default the details of an action are those examples of
        the command that use it.
        """
        chosen = self.add_subparsers(
            title=f"{kind}s", dest=kind, required=True, metavar=kind.upper()
        )

        def add(name: str, summary: str, details: str | None = None) -> Parser:
            if details is None:
                examples = rf"^ +{self.prog} {name} .*$"
                lines = re.findall(examples, self.epilog or "", re.MULTILINE)
                details = "\n".join(["Example:", *lines])
            texts: Any = {"help": summary, "description": summary, "epilog": details}
            self.actions[name] = chosen.add_parser(name, **texts)
            return self.actions[name]

        return add

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses words; after a flag, -45 and lists such as -45,0,45 are its value."""
        words: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            is_value = re.fullmatch(r"-[\d.][\d.,:eE+-]*", word) is not None
            if is_value and words and words[-1] in self.flags:
                word = f"{words.pop()}={word}"
            words.append(word)
        self._words = words
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises a UserError, with the nearest name for one that is misspelt.

        That is an invalid choice or, if a required flag is missing, an unknown flag.
        """
        choice = r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)"
        if match := re.fullmatch(choice, message):
            # Python 3.11 quotes the valid names, later versions do not.
            name, value, valid = match.groups()
            valid = valid.replace("'", "").split(", ")
            raise UserError(unknown(name.lower(), ast.literal_eval(value), valid))
        names = [word.partition("=")[0] for word in self._words]
        unused = [n for n in names if n.startswith("--") and n not in self.flags]
        if unused and "are required" in message:
            raise UserError(unknown("argument", unused[0], self.flags))
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
        if not equals and (value := next(words, None)) is None:
            raise UserError(f"{word} needs a value")
        overrides.append((key, value))
    return overrides, rest
