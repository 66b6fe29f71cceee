"""Every notebook runs from top to bottom and shows what its text claims.

`make test` runs the quickstart in its own process, with smaller constants; `make
test-long` runs all as they are, by Jupyter.
"""

import re

import jax
import nbformat
import pytest

from tests.support import notebooks
from tests.support.notebooks import NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    for cell in nbformat.read(path, 4).cells:
        assert not cell.get("outputs"), cell.source
        assert not cell.get("execution_count"), cell.source


def test_quickstart_runs(tmp_path, quick_drawing):
    import matplotlib.pyplot as plt

    (path,) = (path for path in NOTEBOOKS if path.stem == "quickstart")
    with jax.numpy_rank_promotion("allow"):  # as for users
        output = notebooks.run(path, tmp_path, {"SIZE": 32, "STEPS": 220})
        plt.close("all")
    check(path, tmp_path, output)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_by_jupyter_unmodified(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(notebooks.ROOT))
    output = notebooks.run_by_jupyter(path, tmp_path)
    check(path, tmp_path, output)
    if path.stem == "usynthface":
        found = dict(re.findall(r"(\w+): (\d+\.\d) %", output))
        assert float(found["trained"]) > 75 > 65 > float(found["untrained"])


def check(path, folder, output):
    """Checks the claims of a notebook by what it prints and draws."""
    name = path.stem
    if name == "quickstart":
        accuracy = float(re.search(r"accuracy: ([\d.]+)", output)[1])
        assert accuracy > 0.75, output  # chance: 0.5
        assert "cosine " in output
    if name == "new_loss":
        assert len(nbformat.read(path, 4).cells) == 15
        accuracies = re.findall(r"(\w+) +([\d.]+) \+- [\d.]+ %", output)
        assert [head for head, _ in accuracies] == ["cosface", "linear_arcface"]
        assert all(float(accuracy) > 75 for _, accuracy in accuracies), output
        assert "nan" not in output
    if name == "embed":
        assert "unused   ['head']" in output
        assert output.count("the same: True") == 2
        verdicts = re.findall(r"cosine -?\d\.\d+: (?:the same|different)", output)
        assert len(verdicts) == 3
        assert "licence: none needed" in output
    if name == "faces":
        assert "the same codes, the same pixels: True" in output
    if name == "usynthface":
        assert "loss 4.860, ln(K + 1) 4.860" in output
        accuracies = re.findall(r"(\w+): (\d+\.\d) %", output)
        assert [one for one, _ in accuracies] == ["untrained", "trained", "decoupled"]
        assert all(40 < float(accuracy) <= 100 for _, accuracy in accuracies)
        for figure in ("pairs", "augmentation", "training", "cosines"):
            assert (folder / f"{figure}.png").stat().st_size > 10_000
    if name == "dr_gan":
        error, of_inputs = map(float, re.findall(r": ([\d.]+)(?:;|$)", output, re.M))
        assert error < 0.8 * of_inputs, output
        assert "order does not matter: True" in output
    figures = {"faces": "labels.png", "dr_gan": "pose_grid.png"}
    assert (folder / figures.get(name, "roc.png")).stat().st_size > 10_000
