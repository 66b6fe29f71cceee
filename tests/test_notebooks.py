"""Every notebook runs from top to bottom, and what it claims comes out."""

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
# What would take minutes, cut short; at full length it runs with `make test-long`.
# Most of the time is compiling: what is drawn at one size and quality is one program.
SHORTER = {
    "faces": {"SIZE = 128": "SIZE = 32", 'SIZE, quality="fast")': 'SIZE, "loose")'},
    "usynthface": {
        "PEOPLE, STEPS = 400, 300": "PEOPLE, STEPS = 256, 20",
        "IMAGES, SIZE, BATCH = 4, 48, 64": "IMAGES, SIZE, BATCH = 2, 32, 64",
    },
}
# One after the other, so that they find what is compiled.
pytestmark = pytest.mark.xdist_group("notebooks")


def printed(notebook) -> str:
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )


def executed(path, folder, monkeypatch, shorter) -> str:
    """Runs a notebook in a folder; returns what it printed."""
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))
    notebook = nbformat.read(path, 4)
    for long, short in shorter.items():
        assert sum(cell.source.count(long) for cell in notebook.cells) == 1
        for cell in notebook.cells:
            cell.source = cell.source.replace(long, short)
    resources = {"metadata": {"path": os.fspath(folder)}}
    NotebookClient(
        notebook, timeout=600, startup_timeout=300, resources=resources
    ).execute()
    return printed(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    for cell in nbformat.read(path, 4).cells:
        assert not cell.get("outputs"), cell.source
        assert not cell.get("execution_count"), cell.source


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    if path.stem == "faces":  # runs a few programs once each
        monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    shorter = SHORTER.get(path.stem, {})
    check(path, tmp_path, executed(path, tmp_path, monkeypatch, shorter))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHORTER)
def test_notebooks_run_at_full_length(name, tmp_path, monkeypatch):
    path = ROOT / f"colabs/{name}.ipynb"
    check(path, tmp_path, executed(path, tmp_path, monkeypatch, {}))


def check(path, folder, output):
    """What a notebook claims came out."""
    if path.stem == "quickstart":
        accuracy = float(re.search(r"strangers/accuracy: ([\d.]+)", output)[1])
        assert accuracy > 0.75, output  # chance: 0.5
        assert "cosine " in output
    if path.stem == "new_loss":
        assert len(nbformat.read(path, 4).cells) == 15
        accuracies = re.findall(r"(\w+) +([\d.]+) \+- [\d.]+ %", output)
        assert [name for name, _ in accuracies] == ["cosface", "linear_arcface"]
        assert all(float(accuracy) > 75 for _, accuracy in accuracies), output
        assert "nan" not in output
    if path.stem == "embed":
        assert "unused   ['head']" in output
        assert output.count("the same: True") == 2
        verdicts = re.findall(r"cosine -?\d\.\d+: (?:the same|different)", output)
        assert len(verdicts) == 3
        assert "licence: none needed" in output
    if path.stem == "faces":
        assert "the same codes, the same pixels: True" in output
    if path.stem == "usynthface":
        assert "loss 4.860, ln(K + 1) 4.860" in output
        accuracies = re.findall(r"(\w+): (\d+\.\d) %", output)
        assert [name for name, _ in accuracies] == ["untrained", "trained", "decoupled"]
        assert all(40 < float(accuracy) <= 100 for _, accuracy in accuracies)
        for name in ("pairs", "augmentation", "training", "cosines"):
            assert (folder / f"{name}.png").stat().st_size > 10_000
    if path.stem == "dr_gan":
        off, unturned = map(float, re.findall(r"by ([\d.]+)", output))
        assert off < 0.8 * unturned, output
        assert "order does not matter: True" in output
    figures = {"faces": "labels.png", "dr_gan": "pose_grid.png"}
    figure = figures.get(path.stem, "roc.png")
    assert (folder / figure).stat().st_size > 10_000
