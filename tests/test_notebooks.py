"""Every notebook runs from top to bottom, and what it claims comes out."""

import os
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


def printed(notebook) -> str:
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    for cell in nbformat.read(path, 4).cells:
        assert not cell.get("outputs"), cell.source
        assert not cell.get("execution_count"), cell.source


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))
    notebook = nbformat.read(path, 4)
    client = NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": os.fspath(tmp_path)}}
    )
    client.execute()
    output = printed(notebook)
    if path.stem == "quickstart":
        accuracy = float(re.search(r"strangers/accuracy: ([\d.]+)", output)[1])
        assert accuracy > 0.75, output  # chance: 0.5
        assert "cosine " in output
    if path.stem == "new_loss":
        assert len(notebook.cells) == 15
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
    if path.stem == "dr_gan":
        off, unturned = map(float, re.findall(r"by ([\d.]+)", output))
        assert off < 0.8 * unturned, output
        assert "order does not matter: True" in output
    figures = {"faces": "labels.png", "dr_gan": "pose_grid.png"}
    figure = figures.get(path.stem, "roc.png")
    assert (tmp_path / figure).stat().st_size > 10_000
