"""FRA's grid of gains (benchmarks/experiments/fra_grid.py), at the size of a toy."""

import functools
import json

import numpy as np
import pytest
from scipy import stats

from benchmarks.experiments import fra_grid
from fr_jax.errors import UserError
from fr_jax.systems.fra.evaluation import LABELS
from tests.support.fra import PERSONS, factors, shuffled, turned

CELL = "identity/2_images/held_out"


def study(turn=turned):
    samples = factors(frontal=False)
    # The donors are the samples themselves: rows of their own embeddings.
    return fra_grid.Study(samples, samples.labels, functools.partial(turn, samples))


@pytest.mark.parametrize("held_out", [False, True])
def test_training_images_are_few_and_frontal_if_poses_are_held_out(held_out):
    samples, rng = factors(frontal=False), np.random.default_rng(0)
    train, test = fra_grid.chosen(samples, 2, held_out, rng)
    assert not set(train) & set(test)
    assert np.bincount(samples.labels["identity"][train]).tolist() == [2] * PERSONS
    poses = {name: set(samples.labels["pose"][rows]) for name, rows in
             (("train", train), ("test", test))}  # fmt: skip
    assert poses["test"] == ({0, 2} if held_out else {0, 1, 2})
    assert not held_out or poses["train"] == {1}
    assert held_out or len(train) + len(test) == len(samples.session)
    with pytest.raises(UserError, match="p0: 8 images to choose 9 from"):
        fra_grid.chosen(samples, 9, True, rng)


def test_a_perfect_augmenter_gains_and_a_shuffled_one_does_not():
    good, bad = (fra_grid.measured(study(turn), 0, 1) for turn in (turned, shuffled))
    assert len(good) == len(fra_grid.CELLS) * len(LABELS)
    gain = {key: pair[1] - pair[0] for key, pair in good.items()}
    assert gain[CELL] > 0.1 and bad[CELL][1] - bad[CELL][0] < 0.05
    assert good[CELL][0] == bad[CELL][0]
    # One pose in training: no test pose is recognised without generated embeddings.
    assert good["pose/1_images/held_out"][0] == 0 < good["pose/1_images/held_out"][1]


def test_intervals_are_those_of_all_cells_together():
    rng = np.random.default_rng(0)
    cells = {
        name: [
            {"identity/1_images/seen": rng.random(2), "pose/5_images/seen": [0.5, 0.9]}
            for _ in range(5)
        ]
        for name in ("cmu", "rendered")
    }
    results = fra_grid.summary(cells)
    assert (results["cells"], results["seeds"]) == (4, 5)
    for name, several in cells.items():
        rates = [one["identity/1_images/seen"] for one in several]
        gains = [with_made - without for without, with_made in rates]
        key = f"{name}/identity/1_images/seen_gain"
        assert results[key] == pytest.approx(np.mean(gains))
        for level, end in ((1 - 0.05 / 4, ""), (0.95, "_alone")):
            low, high = stats.t.interval(level, 4, np.mean(gains), stats.sem(gains))
            assert results[f"{key}_low{end}"] == pytest.approx(low)
            assert results[f"{key}_high{end}"] == pytest.approx(high)
    text = fra_grid.table(results)
    assert "| rendered, pose, 5, seen | 50.0 | 90.0 | +40.0 | +40.0 to +40.0 |" in text
    assert "above 0, all cells together: cmu, pose, 5, seen; rendered, pose" in text
    assert "below 0, all cells together: none" in text


def test_a_run_goes_on_with_the_cells_that_are_left(tmp_path, monkeypatch, capsys):
    trained, whole = [], study()

    def prepared(name, seed, arguments):
        assert arguments.embedder == "mbf"
        trained.append((name, seed))
        return whole

    monkeypatch.setattr(fra_grid, "prepared", prepared)
    words = ["--embedder", "mbf", "--to", str(tmp_path), "--draws", "1"]
    words.append("--seeds")
    fra_grid.main([*words, "0"])
    fra_grid.main([*words, "0", "1"])
    assert trained == [("rendered", 0), ("rendered", 1)]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seeds"] == 2 and results["cells"] == 18
    assert results[f"rendered/{CELL}_gain"] > 0
    assert "rendered, expression, 5, held_out" in capsys.readouterr().out
    assert (tmp_path / "gains.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        fra_grid.main([*words, "0", "--cmu", "faces"])
