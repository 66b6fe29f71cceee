"""Help of every command and action: a summary, an example, a text for each flag."""

import argparse
import importlib
import re
import shlex

import pytest

from fr_jax.cli import config as configs
from fr_jax.cli import main as program
from fr_jax.cli.main import Parser

COMMANDS = (
    *("compare", "data", "embed", "evaluate", "export", "faces", "import", "info"),
    *("rotate", "templates", "train"),
)
ACTIONS = ("data convert", "data info", "data align", "faces render")


@pytest.fixture
def parsers(command, monkeypatch):
    """Returns a function: words of a command -> the parser that prints its help."""
    printed = []
    print_help = Parser.print_help

    def recorded(parser, file=None):
        printed.append(parser)
        print_help(parser, file)

    monkeypatch.setattr(Parser, "print_help", recorded)

    def parser_of(words):
        code, out, error = command(*words.split(), "--help")
        assert (code, error) == (0, "")
        assert out.startswith(f"usage: fr-jax {words}")
        return printed[-1]

    return parser_of


def examples(parser: argparse.ArgumentParser) -> list[list[str]]:
    """Returns the words of every `fr-jax` command in the text after the flags."""
    joined = re.sub(r"\\\n\s*", " ", parser.epilog or "")
    lines = re.findall(r"^ +fr-jax (.*)$", joined, re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("words", [*COMMANDS, *ACTIONS])
def test_help_has_a_summary_an_example_and_a_text_for_each_flag(parsers, words):
    parser = parsers(words)
    assert re.fullmatch(r"[A-Z].*\w\.", parser.description)
    assert ". " not in parser.description
    assert examples(parser)
    assert all(
        f"{' '.join(example)} ".startswith(words) for example in examples(parser)
    )
    # An argument is indented by two spaces; its text is on the same line or the next.
    text = parser.format_help()
    arguments = re.findall(r"^  \S.*\n(?:   .*\n)*", text, re.MULTILINE)
    assert len(arguments) >= len(parser.flags) - 1  # -h and --help are one
    for argument in arguments:
        assert re.match(r"  (-h, )?\S+( \S+)?\s{2,}\S", argument), argument


@pytest.mark.parametrize("words", [*COMMANDS, *ACTIONS])
def test_examples_parse_and_their_configuration_keys_exist(
    parsers, command, monkeypatch, words
):
    parsed = []
    lines = examples(parsers(words))
    module = importlib.import_module(program.commands()[words.split()[0]][0])
    monkeypatch.setattr(module, "run", lambda words: parsed.append(words) or 0)
    for line in lines:
        assert command(*line) == (0, "", "")
    assert len(parsed) == len(lines)
    if words == "train":
        assert all(configs.load(one.config, one.overrides) for one in parsed)


def test_defaults_and_choices_are_in_the_help(command):
    _, out, _ = command("faces", "render", "--help")
    flat = " ".join(out.split())
    for text in ("(default: 112)", "(default: 0)", "(default: 0/1)", "{full,fast}"):
        assert text in flat
    assert "None" not in flat and "(default: )" not in flat and "False" not in flat


def test_help_of_train_lists_packaged_configurations(command):
    _, out, _ = command("train", "--help")
    flat = " ".join(out.split())
    for name in configs.packaged():
        module = importlib.import_module(f"configs.{name}")
        assert f"{name}: {', '.join(module.VARIANTS)}" in flat
    for text in ("--config=FILE:VARIANT", "--config.KEY=VALUE"):
        assert text in flat


def test_program_without_a_command_prints_its_help(command):
    code, out, error = command()
    assert (code, error) == (0, "")
    assert command("--help") == (0, out, "")
    assert "docs/" in out
    for name, (_, summary, _) in program.commands().items():
        assert re.search(rf"^    {name}\s+{summary[:30]}", out, re.MULTILINE)
