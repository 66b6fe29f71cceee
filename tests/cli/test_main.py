"""The program `fr-jax`: commands, unknown names, exit codes."""

import ast
import subprocess
import sys

import pytest

import fr_jax
from fr_jax import interrupt
from fr_jax.cli import main as program
from fr_jax.errors import CheckFailed, TrainingStopped, UserError
from tests.support.paths import ROOT


def test_commands_are_those_of_the_package_and_of_systems():
    modules = {name: module for name, (module, *_) in program.commands().items()}
    assert len(modules) == 17
    assert modules["rotate"] == "fr_jax.systems.dr_gan.commands"
    assert modules["import"] == "fr_jax.cli.import_"
    assert modules["cluster"] == "fr_jax.systems.self_augmentation.commands.cluster"


def test_help_of_the_program_imports_neither_jax_nor_tensorflow():
    """It is printed without the delay of these imports."""
    code = (
        "import sys\n"
        "from fr_jax.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'jax', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'? (available: cluster"),
        ("rotat", "did you mean 'rotate'"),
        ("recognise", "unknown command 'recognise' (available: cluster"),
        ("data convrt", "unknown action 'convrt'; did you mean 'convert'"),
        ("faces rendr", "unknown action 'rendr'; did you mean 'render'"),
        ("train", "the following arguments are required: --config, --workdir"),
        ("train --config a --workdri b", "'--workdri'; did you mean '--workdir'"),
        ("data", "required: ACTION; see fr-jax data --help"),
        ("info x --embeder y", "unknown argument '--embeder'"),
        ("embed x --embedder y --to z --flp", "did you mean '--flip'"),
        ("embed x --embedder=y --too=z --to a", "did you mean '--to'"),
        (
            "data convert x --to y --name z --layot=cfp",
            "unknown argument '--layot'; did you mean '--layout'",
        ),
        (
            "data convert x --to y --name z --layout=cpf",
            "unknown --layout 'cpf'; did you mean 'cfp'? (available: auto, cfp",
        ),
        ("export x --to y --format saved_model", "did you mean 'savedmodel'"),
        ("import x --to y --colour RBG", "unknown --colour 'RBG'; did you mean 'RGB'"),
        ("train --config a --workdir b --process-id x", "invalid int value: 'x'"),
        ("data info x --config.a=1", "--config.a is a flag of `fr-jax train` only"),
    ],
)
def test_error_for_an_unknown_name_has_the_nearest_name(mistake, words, match):
    mistake(match, *words.split())


@pytest.mark.parametrize("valid", ["'one', 'two words'", "one, two words"])
def test_error_for_an_invalid_choice_in_the_words_of_python_3_11_and_3_12(valid):
    parser = program.Parser(prog="fr-jax test")
    for value in ("on", "it's", "(choose from 'x')"):
        with pytest.raises(UserError) as raised:
            choice = f"invalid choice: {value!r} (choose from {valid})"
            parser.error(f"argument --n: {choice}")
        near = "; did you mean 'one'?" if value == "on" else ""
        expected = f"unknown --n {value!r}{near} (available: one, two words)"
        assert str(raised.value) == expected


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TrainingStopped("stopped"), 3),
        (CheckFailed("deleted"), 1),
        (OSError("disk full"), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exit_code_depends_on_the_error(command, monkeypatch, error, code):
    def fail(argv):
        raise error

    monkeypatch.setattr(program, "call", fail)
    actual, _, text = command("info")
    assert actual == code
    assert text == f"fr-jax: {str(error) or interrupt.TEXT}\n"


def test_fault_of_the_program_has_a_traceback(monkeypatch):
    def fail(argv):
        raise KeyError("a fault")

    monkeypatch.setattr(program, "call", fail)
    with pytest.raises(KeyError, match="a fault"):
        program.main(["info"])


def test_environment_variable_shows_the_traceback_of_an_error(monkeypatch):
    monkeypatch.setenv("FR_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown command"):
        program.main(["trian"])


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("tensorflow.io", "this needs TensorFlow: pip install '.[tensorflow]'"),
        ("tensorflow_datasets", "this needs TensorFlow: pip install '.[tensorflow]'"),
        ("pyarrow.parquet", "pip install '.[parquet]', or choose .npz"),
    ],
)
def test_error_for_a_missing_package_has_the_extra(mistake, monkeypatch, name, match):
    def fail(argv):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(program, "call", fail)
    mistake(match, "info")


def test_version_is_printed(command):
    assert command("--version") == (0, f"fr-jax {fr_jax.__version__}\n", "")


INTERRUPTED = """
import os, signal, sys
from fr_jax.cli import main as program

def run(argv):
    program.interrupt.nothing_to_lose("")
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    except KeyboardInterrupt:
        raise ImportError("numpy._core.multiarray failed to import") from None

program.call = run
sys.argv = ["fr-jax", "info"]
program.main()
"""


def test_an_interruption_that_native_code_turns_into_an_error_stays_one():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert done.stderr == f"fr-jax: {interrupt.TEXT}\n"
