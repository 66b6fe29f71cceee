"""Errors by quality and group: options of sets, plain loops, intervals."""

import numpy as np
import pytest

from data_pipelines import DataError
from fr_jax.evaluation import sets, uncertainty
from fr_jax.evaluation.breakdown import Breakdown
from fr_jax.evaluation.embeddings import Columns, StoredEmbeddings
from fr_jax.evaluation.evaluated import evaluated
from fr_jax.evaluation.evaluator import Trained
from fr_jax.metrics import verification
from fr_jax.report import measures

IDENTITIES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list of genuine and impostor pairs, and groups of its identities."""
    folder = tmp_path_factory.mktemp("breakdown")
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(120):
        a, b = rng.choice(IDENTITIES, 2, replace=False)
        same = int(rng.random() < 0.5)
        lines.append(f"{same} p{a}/0.jpg p{a if same else b}/{rng.integers(1, 4)}.jpg")
    (folder / "list.txt").write_text("\n".join(lines))
    groups = [f"p{n},{'odd' if n % 2 else 'even'}" for n in range(IDENTITIES)]
    (folder / "groups.csv").write_text("\n".join(groups))
    return folder


@pytest.fixture(scope="module")
def stored():
    rng = np.random.default_rng(1)
    rows = np.repeat(rng.normal(size=(IDENTITIES, 6)), 4, axis=0)
    rows += rng.normal(size=rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"p{n // 4}/{n % 4}.jpg" for n in range(4 * IDENTITIES)]
    owners = [name[:2] for name in names]
    norms = rng.uniform(5, 30, len(names)).astype(np.float32)
    columns = np.array(names), np.array(owners), rows.astype(np.float32), norms
    return StoredEmbeddings(Columns(*columns, {"flip": False}))


def text(folder, options):
    return f"own={folder}/list.txt,far=0.1+0.2{options}"


def test_rates_are_those_of_plain_loops(folder, stored):
    options = f",quality=norm,groups={folder}/groups.csv"
    own = sets.parse(text(folder, options), stored=stored)
    results = own(Trained(stored.embed_raw, {}))
    assert set(results) | own.notes.keys() == set(own.metric_names)
    scores, same = own.curve
    _, threshold = verification.tar_at_far(scores, same, "0.1")
    rows = own.images.numbers[own.pairs]
    group = (rows // 4) % 2
    for code, name in enumerate(("even", "odd")):
        within = (group == code).all(axis=1)
        end = f"@far=0.1@group={name}:kfold"
        assert results[f"own/frr{end}"] == np.mean(scores[within & same] < threshold)
        assert results[f"own/far{end}"] == np.mean(scores[within & ~same] >= threshold)
        assert results[f"own/genuine_pairs@group={name}"] == np.sum(within & same)
    rates = [results[f"own/frr@far=0.1@group={n}:kfold"] for n in ("even", "odd")]
    difference = results["own/frr_difference@far=0.1:kfold"]
    assert difference == max(rates) - min(rates)
    quality = np.min(stored.columns.norms[rows], axis=1)[same]
    wrong = (scores[same] < threshold)[np.argsort(quality)]
    ends = np.clip(np.arange(len(wrong) + 1) / len(wrong), 0, 0.2)
    left = [np.mean(wrong[n:]) for n in range(len(wrong))]
    distinct = np.append(True, np.diff(np.sort(quality)) > 0)
    for n in np.flatnonzero(~distinct):  # equal qualities are discarded together
        left[n] = left[n - 1]
    area = np.sum(np.diff(ends) * left) / 0.2
    assert results["own/edc@far=0.1:kfold"] == pytest.approx(area)
    found = uncertainty.of_results(own, 30).values
    for name in ("edc@far=0.1", "frr@far=0.1@group=odd", "frr_difference@far=0.1"):
        low, high = (found[f"own/{name}{end}:kfold"] for end in ("_low", "_high"))
        assert low <= results[f"own/{name}:kfold"] <= high
    shown = evaluated(own, images=False)
    assert shown.curves["Error versus discard"].y[0] == pytest.approx(left[0])
    assert shown.protocol["groups"] == "groups.csv"
    assert str(folder) not in str(shown.protocol)


def test_resamples_are_repeated_pairs():
    rng = np.random.default_rng(0)
    same = np.arange(40) % 2 == 0
    scores = np.round(rng.normal(same, 1), 1)
    qualities, groups = rng.random((40, 2)), rng.integers(0, 2, (40, 2))
    weights = rng.integers(0, 3, 40)
    rows = np.repeat(np.arange(40), weights)

    def measured(rows, weights=None):
        given = scores[rows], same[rows], "0.1", qualities[rows], groups[rows]
        return Breakdown(*given, ("a", "b"))(weights)

    assert measured(np.arange(40), weights) == measured(rows)


def test_qualities_of_a_file_and_of_identities(folder, stored, tmp_path):
    lines = [f"p{n} {n}" for n in range(IDENTITIES)] + ["p3/0.jpg 9.5"]
    (tmp_path / "quality.txt").write_text("\n".join(lines))
    options = f",quality={tmp_path}/quality.txt"
    own = sets.parse(text(folder, options), stored=stored)
    rows = own.images.numbers
    expected = np.where(rows == 12, 9.5, rows // 4)
    np.testing.assert_array_equal(own.quality, expected)
    np.testing.assert_array_equal(own.subset(8).quality, expected[_images(own, 8)])


def _images(own, count):
    part = own.subset(count).images
    return [own.images.numbers.tolist().index(int(row)) for row in part]


@pytest.mark.parametrize(
    ("option", "lines", "match"),
    [
        ("quality", ["p0 nan"] + [f"p{n} 1" for n in range(1, 8)], "not finite"),
        ("quality", [f"p{n} good" for n in range(8)], "a quality is no number"),
        ("quality", ["p0 1"], "no value of .* images, such as 'p1/0.jpg'"),
        ("groups", [f"p{n} all" for n in range(8)], "1 groups, such as 'all'; 2 to 50"),
        ("groups", [f"p{n} a:{n}" for n in range(8)], "group 'a:0': use up to 40"),
        ("groups", [f"p{n} {n}_low" for n in range(8)], "group '0_low': use"),
        ("groups", ["p0"], "line 1: 'p0' is not 'name group'"),
    ],
)
def test_invalid_files_are_refused(folder, stored, tmp_path, option, lines, match):
    (tmp_path / "values.txt").write_text("\n".join(lines))
    options = f",{option}={tmp_path}/values.txt"
    with pytest.raises(DataError, match=match):
        sets.parse(text(folder, options), stored=stored)


def test_titles_and_units():
    title, number = measures.title, measures.number
    assert title("frr@far=1e-3@group=odd:kfold") == "FRR at FAR 1e-3, odd (kfold)"
    assert title("far_gini@far=1e-3") == "FAR, gini at FAR 1e-3"
    assert number("frr@far=1e-3@group=odd", 0.5) == "50.00 %"
    assert number("far_ratio@far=1e-3", 0.5) == "0.5000"
