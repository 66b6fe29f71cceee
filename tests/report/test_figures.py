"""Figures: curves, legends and labels, from arrays and metrics."""

import json

import numpy as np
import pytest

from data_pipelines.vision import rand_augment as randaugment
from fr_jax.report import figures


@pytest.fixture
def saved(monkeypatch):
    """Figures by file name, instead of files."""
    by_name = {}
    monkeypatch.setattr(
        figures, "save", lambda figure, path: by_name.update({path: figure})
    )
    return by_name


def check_layout(figure):
    """Checks that no legend overlaps its axes and that all axes have labels."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.legend_.get_window_extent().y0 >= axes.bbox.y1
        assert axes.get_xlabel() and axes.get_ylabel()


def test_training_curves_of_contrastive_learning(saved, tmp_path):
    rows = [
        {"step": 1, "loss": 3.0, "chance_loss": 2.0, "top1": 0.1, "queue_fill": 0.5},
        {"step": 1, "positive_cosine": 0.2, "negative_cosine": 0.1},
        {"step": 2, "loss": 1.0, "chance_loss": 4.0, "top1": 0.4, "queue_fill": 1.0},
        {"step": 2, "unseen/accuracy": 0.7, "unseen/accuracy_std": 0.1},
        {"step": 2, "images_per_second": 10.0},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures.training(path, "training")
    panels = {axes.get_ylabel(): axes for axes in saved["training"].axes}
    shown = {
        label: {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
        for label, axes in panels.items()
    }
    assert shown == {
        "loss": {"chance_loss": [2.0, 4.0], "loss": [3.0, 1.0]},
        "cosine": {"negative_cosine": [0.1], "positive_cosine": [0.2]},
        "share": {"queue_fill": [0.5, 1.0], "top1": [0.1, 0.4]},
        "accuracy": {"unseen/accuracy": [0.7]},
    }
    styles = {line.get_label(): line.get_linestyle() for line in panels["loss"].lines}
    assert styles == {"chance_loss": ":", "loss": "--"}
    check_layout(saved["training"])


def test_equal_curves_are_all_visible(saved, tmp_path):
    names = [f"set{number}/accuracy" for number in range(5)]
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(
            json.dumps({"step": n} | dict.fromkeys(names, 1.0)) + "\n" for n in (1, 2)
        )
    )
    figures.training(path, "training")
    curve = np.arange(40) / 40, np.arange(40) % 2 == 0
    figures.roc({str(number): curve for number in range(5)}, "roc")
    for figure in saved.values():
        check_layout(figure)
        (axes,) = figure.axes
        lines = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
        lines = [line for line in lines or axes.lines if line.get_alpha() is None]
        assert len(lines) == 5
        widths = [line.get_linewidth() for line in lines]
        assert np.all(np.diff(widths) <= -0.5)
        assert len({line.get_color() for line in lines}) == 5


@pytest.mark.parametrize(("impostors", "start"), [(1000, 0.01), (20, 0.5), (5, None)])
def test_roc_is_pale_where_few_impostor_pairs_are_accepted(saved, impostors, start):
    scores = np.linspace(0, 1, 2 * impostors)
    same = np.arange(2 * impostors) % 2 == 0
    figures.roc({"a": (scores, same)}, "roc")
    (axes,) = saved["roc"].axes
    pale, reliable = (line.get_xdata() for line in axes.lines[:2])
    assert axes.lines[0].get_alpha() < 1
    assert axes.lines[1].get_label().startswith("a (AUC 0.4")
    assert pale[0] == pytest.approx(1 / impostors)
    if start is None:
        assert pale[-1] == 1 and not len(reliable)
    else:
        assert pale[-1] == reliable[0] == pytest.approx(start)
        assert reliable[-1] == 1


def test_histograms_of_cosines_contain_every_pair(saved):
    rng = np.random.default_rng(0)
    same = np.arange(400) < 100
    scores = np.where(same, rng.uniform(0.4, 1.0, 400), rng.uniform(-0.4, 0.3, 400))
    scores[0] = 1 + 1e-7  # above 1 by rounding
    figures.cosines({"a": (scores, same), "b": (scores, ~same)}, "cosines")
    first, second = saved["cosines"].axes
    names = [axes.legend_.get_title().get_text() for axes in (first, second)]
    assert names == ["a", "b"]
    check_layout(saved["cosines"])
    for axes, genuine in ((first, same), (second, ~same)):
        for kind, chosen in (("impostor", ~genuine), ("genuine", genuine)):
            mean = f"{kind}: {scores[chosen].mean():.2f}"
            assert any(t.get_text().startswith(mean) for t in axes.legend_.get_texts())
        for bars in axes.containers:  # a density over all of its pairs
            area = sum(bar.get_height() * bar.get_width() for bar in bars)
            assert area == pytest.approx(1)
            assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(1)


def test_contact_sheet_of_randaugment(saved):
    face = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    rng = np.random.default_rng(1)
    titles, images = zip(*randaugment.examples(face, rng, num_ops=2, magnitude=9))
    names = [title.split(" ")[0] for title in titles[1:20]]
    assert set(names) == set(randaugment.OPERATIONS[1:])
    assert titles[1:3] == ("ShearX -9", "ShearX +9")
    assert titles[0] == "before" and set(titles[20:]) == {"2 at random"}
    np.testing.assert_array_equal(images[0], face)
    for title, image in zip(titles[1:20], images[1:20]):
        name, _, level = title.partition(" ")
        sign = -1 if level.startswith("-") else 1
        np.testing.assert_array_equal(image, randaugment.apply(name, face, 9, sign))
    assert len({image.tobytes() for image in images[20:]}) > 5
    figures.contact_sheet(images, "sheet", titles=titles)
    axes = [a for a in saved["sheet"].axes if a.images]
    assert len(axes) == 30
    assert [text.get_text() for a in axes for text in a.texts] == list(titles)


def test_training_curves_have_gaps_at_values_that_are_not_finite(saved, tmp_path):
    """null in metrics.jsonl."""
    rows = [{"step": n, "loss": x, "accuracy": None} for n, x in ((1, 3.0), (2, None))]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures.training(path, "training")
    curves = [axes.lines[0].get_ydata(orig=False) for axes in saved["training"].axes]
    np.testing.assert_array_equal(curves, [[3.0, np.nan], [np.nan, np.nan]])
    saved["training"].draw_without_rendering()


def test_training_curves_of_two_networks(saved, tmp_path):
    names = ("discriminator/real_accuracy", "validation/pose_accuracy")
    row = dict.fromkeys((*names, "generator/spread"), 0.5)
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1} | row))
    figures.training(path, "training")
    shown = {
        axes.get_ylabel(): [line.get_label() for line in axes.lines]
        for axes in saved["training"].axes
    }
    assert shown == {"share": ["generator/spread"], "accuracy": list(names)}
