"""`fr-jax report`: stored evaluations side by side in one file."""

import pytest

from fr_jax.evaluation import results, stored
from tests.support import evaluations


def write(folder, name, **fields):
    run = evaluations.run(name, num_pairs=60, **fields)
    stored.save(folder, run)
    results.write(folder / stored.RESULTS, run.results | {"notes": {}})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Evaluations a and b, b's with the name of a, and results of a training."""
    root = tmp_path_factory.mktemp("evaluations")
    write(root / "both/a", "mbf")
    write(root / "both/b", "mbf", seed=2)
    results.write(root / "trained/results.json", {"faces/accuracy": 0.5})
    (root / "empty").mkdir()
    (root / "file.txt").write_text("")
    return root


def test_evaluations_are_compared(command, folders, tmp_path):
    to = tmp_path / "deep/er/report.html"
    words = ("one=" + str(folders / "both/a"), folders / "both/b", folders / "trained")
    code, out, error = command("report", *words, "--to", to, "--no-images")
    assert code == 0, error
    assert "(3 embedders, 1 sets" in out
    text = to.read_text()
    for name in ("one", "mbf", "trained", "no scores of trained are stored"):
        assert name in text
    assert "image/jpeg" not in text
    assert [path.name for path in to.parent.iterdir()] == ["report.html"]


def test_a_folder_of_evaluations_and_equal_names(command, folders, tmp_path):
    to = tmp_path / "report.html"
    code, out, error = command("report", folders / "both", "--to", to)
    assert code == 0, error
    assert "(2 embedders" in out
    text = to.read_text()
    assert "image/jpeg" in text
    for name in ("a", "b"):
        assert f"mbf ({folders / 'both' / name})" in text


@pytest.mark.parametrize(
    ("words", "to", "match"),
    [
        (["both"], "report.txt", "must end in .html"),
        (["both"], "empty.html", "is a folder; name a file"),
        (["nowhere"], "r.html", "nowhere: no such folder"),
        (["file.txt"], "r.html", "file.txt: is no folder"),
        (["empty"], "r.html", "no results.json here"),
        (["both/a", "both/a"], "r.html", "given twice; name the runs: NAME=DIR"),
        (["x=both/a", "x=both/b"], "r.html", "x: given twice"),
    ],
)
def test_wrong_folders_and_targets_are_refused(
    mistake, monkeypatch, folders, tmp_path, words, to, match
):
    monkeypatch.chdir(folders)
    (tmp_path / "empty.html").mkdir()
    mistake(match, "report", *words, "--to", tmp_path / to)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.html"]
