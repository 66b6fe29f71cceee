"""`fr-jax evaluate` of embedders; generators are evaluated in tests/systems/dr_gan."""

import json
import shutil

import pytest


def test_results_and_figures_are_written(command, embedder, verification_bin, tmp_path):
    to = tmp_path / "to"
    words = ("--set", f"toy={verification_bin}", "--to", to)
    code, out, error = command("evaluate", "--embedder", embedder, *words)
    assert code == 0, error
    results = json.loads((to / "results.json").read_text())
    assert 0 <= results["toy/accuracy"] <= 1
    assert "toy/tar@far=1e-3:insightface" in results
    for name in ("roc", "cosines"):
        assert (to / f"figures/{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert f"{100 * results['toy/accuracy']:.2f}" in out
    assert f"figure: {to}/figures/roc.png" in out


def test_several_sets_and_protocols_are_evaluated_together(
    command, embedder, verification_bin, tmp_path
):
    sets = [f"a={verification_bin},protocol={p}" for p in ("paper",)]
    sets += [f"b={verification_bin},protocol=kfold", f"c={verification_bin}"]
    flags = [word for text in sets for word in ("--set", text)]
    code, _, error = command(
        "evaluate", "--embedder", embedder, *flags, "--to", tmp_path
    )
    assert code == 0, error
    results = json.loads((tmp_path / "results.json").read_text())
    names = {"a/accuracy:paper", "b/accuracy:kfold", "c/accuracy", "c/auc"}
    assert names <= results.keys()


def test_sets_with_training_identities_are_marked_as_seen(
    command, embedder, verification_bin, tmp_path
):
    """The set has the name of a data set in the embedder's provenance."""
    shutil.copytree(embedder, tmp_path / "net")
    path = tmp_path / "net/embedder.json"
    description = json.loads(path.read_text())
    description["provenance"]["identities"] = {"cfp": []}
    path.write_text(json.dumps(description))
    words = ("--set", f"cfp_fp={verification_bin}", "--to", tmp_path)
    code, _, error = command("evaluate", "--embedder", tmp_path / "net", *words)
    assert code == 0, error
    results = json.loads((tmp_path / "results.json").read_text())
    assert "cfp_fp_seen/accuracy" in results
    assert "cfp_fp/accuracy" not in results


@pytest.fixture
def other(embedder, tmp_path):
    """A copy of the embedder in the folder of another run."""
    shutil.copytree(embedder, tmp_path / "other/embedder")
    return tmp_path / "other/embedder"


def test_several_embedders_are_compared(
    command, embedder, other, verification_bin, tmp_path
):
    words = ("--set", f"toy={verification_bin}", "--to", tmp_path / "to")
    both = ("--embedder", embedder, "--embedder", other)
    code, _, error = command("evaluate", *both, *words)
    assert code == 0, error
    assert (tmp_path / "to/net/results.json").exists()
    assert (tmp_path / "to/other/results.json").exists()
    assert (tmp_path / "to/figures/roc.png").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("--embedder {e} --set lfw.bin", "expected NAME=PATH"),
        ("--embedder {e} --set lfw=nowhere.bin", "no such file"),
        ("--embedder {e} --set lfw=x.bin,protocl=paper", "did you mean 'protocol'"),
        ("--embedder {e}", "give a verification set: --set NAME=PATH"),
        ("--embedder {e} --set a={s} --set a={s}", "two sets have one name, in a, a"),
        ("--embedder {e} --embedder {e} --set a={s}", "two embedders have one name"),
        ("--embedder {t} --set a={s}", "no embedder here"),
        ("--set a={s}", "give either --embedder or --generator"),
        ("--embedder {e} --generator {e} --set a={s}", "either --embedder or"),
        (
            "--embedder {e} --set a={s} --pose-identities 1:2",
            "--pose-identities needs --generator",
        ),
        (
            "--embedder {e} --set a={s} --recogniser {e}",
            "--recogniser needs --generator",
        ),
        ("--generator {e}", "give a generator, such as WORKDIR"),
    ],
    ids=lambda value: "" if "{" in value else value,  # the messages
)
def test_invalid_arguments_are_refused(
    mistake, embedder, verification_bin, tmp_path, words, match
):
    places = {"e": embedder, "s": verification_bin, "t": tmp_path}
    words = words.format(**places).split()
    mistake(match, "evaluate", *words, "--to", tmp_path / "to")
    assert not (tmp_path / "to").exists()
